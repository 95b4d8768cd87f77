"""A price every week: sellers who see what their prices did, in continued markets, on luck that all of them share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.evaluation.pricing import PRICE_BOUNDS
from pricing_fm.markets import MarketSolution, SimulatedLog, solve_market
from pricing_fm.markets.core import Market, MarketState, get_inventory, get_unit_cost, step
from pricing_fm.markets.managers import decide, split_by_manager
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.streams import Streams, build_streams
from pricing_fm.panel import Panel, load_panel


@dataclass(frozen=True)
class Week:
    """What a seller finds before a week. Items in the order of their sorted ids.

    Args:
        number (`int`): Weeks since the log ended.
        panel (`Panel`): The visible log, past weeks of this run included.
        list_prices, costs, stock (`np.ndarray`, shape `(items,)`): Of the week; infinite stock = unlimited.
        market, state, random: The truth, for oracles and logged managers alone.
    """

    number: int
    panel: Panel
    list_prices: np.ndarray
    costs: np.ndarray
    stock: np.ndarray
    market: Market
    state: MarketState
    random: Streams

    def plan(self, periods: int) -> pd.DataFrame:
        """The coming periods as `recommend` takes them: last price, no promotion, and the stock of the first."""
        last = self.panel.last_observed
        stamps = [self.panel.frequency.step(last, ahead + 1) for ahead in range(periods)]
        prices = self.panel.frame.groupby(names.ITEM_ID, sort=True)[names.PRICE].last()
        frame = pd.DataFrame(
            {
                names.ITEM_ID: np.repeat(prices.index.to_numpy(), periods),
                names.TIMESTAMP: np.tile(np.asarray(stamps), len(prices)),
                names.PRICE: np.repeat(prices.to_numpy(), periods),
                names.LIST_PRICE: np.repeat(self.list_prices, periods),
                names.COST: np.repeat(self.costs, periods),
                "promotion": 0.0,
            }
        )
        if names.INVENTORY in self.panel.frame:
            first = np.tile(np.arange(periods) == 0, len(prices))
            stock = np.repeat(np.where(np.isfinite(self.stock), self.stock, np.nan), periods)
            frame[names.INVENTORY] = np.where(first, stock, np.nan)
        return frame


Seller = Callable[[Week], np.ndarray]
"""Prices of a week, `(items,)`, currency."""


def sell_for_weeks(log: SimulatedLog, seller: Seller, weeks: int, visible_weeks: int, rollout: int) -> np.ndarray:
    """Expected reward of every item and week under a seller who decides anew every week.

    Where nothing limits sales the reward counts mean demand, not the draw; what the seller sees are draws.

    Args:
        log (`SimulatedLog`): Logged markets, ready to be continued; promotions end with the log.
        seller (`Callable`): Prices of a week, inside the bounds around the list price or cut to them.
        weeks (`int`): Weeks to sell for.
        visible_weeks (`int`): Latest weeks that the seller sees.
        rollout (`int`): Number of the luck, 1 or more.

    Returns:
        `(items, weeks)`: Currency.
    """
    market = replace(log.parameters, costs=replace(log.parameters.costs, change_probability=None))
    random = build_streams(log.settings.seed, log.market_ids, np.full(len(log.market_ids), rollout))
    state, frame = log.state, log.panel[[column for column in VISIBLE_COLUMNS if column in log.panel]]
    frame = frame.groupby(names.ITEM_ID).tail(visible_weeks)
    rewards = np.empty((log.num_items, weeks))
    for number in range(weeks):
        listed, cost = state.list_price, get_unit_cost(market, state)
        stock = np.broadcast_to(get_inventory(market, state), market.shape)
        panel = load_panel(frame)
        week = Week(number, panel, listed.ravel(), cost.ravel(), stock.ravel(), market, state, random)
        low, high = (bound * listed for bound in PRICE_BOUNDS)
        prices = np.clip(np.asarray(seller(week), dtype=np.float64).reshape(market.shape), low, high)
        prices = round_to_tick(prices, market.price_tick)
        state, seen, reward, truth = step(market, state, prices, random)
        expected = np.where(np.isinf(stock), (prices - cost) * truth.mean_demand, reward)
        rewards[:, number] = expected.ravel()
        columns: dict[str, Any] = {
            names.TIMESTAMP: panel.frequency.step(panel.last_observed, 1),
            names.UNITS: seen.units.ravel(),
            names.PRICE: prices.ravel(),
            names.LIST_PRICE: listed.ravel(),
            names.COST: cost.ravel(),
            names.INVENTORY: np.where(np.isinf(stock), np.nan, stock).ravel(),
            "promotion": 0.0,
        }
        rows = log.items.assign(**columns)
        frame = pd.concat([frame, rows[list(frame)]], ignore_index=True)
        frame = frame.groupby(names.ITEM_ID).tail(visible_weeks)
    return rewards


def logged_manager(log: SimulatedLog) -> Seller:
    """The manager of the log, who goes on by habit."""
    desks = split_by_manager(log.habits, log.parameters)
    return lambda week: decide(log.habits, week.market, week.state, week.random, desks).prices.ravel()


def solve_markets(log: SimulatedLog, weeks: int) -> list[MarketSolution]:
    """The optimum of every market over the weeks, inside the bounds that sellers keep."""
    market = replace(log.parameters, num_periods=weeks, price_bounds=PRICE_BOUNDS)
    return [solve_market(market.select(np.array([row]))) for row in range(market.shape[0])]


def oracle_seller(solutions: list[MarketSolution], is_myopic: bool = False) -> Seller:
    """Who knows the market: the dynamic program's prices, or those that are best for the week alone."""

    def choose(week: Week) -> np.ndarray:
        prices = []
        for row, solution in enumerate(solutions):
            state = week.state.select(np.array([row]))._replace(period=np.array([week.number]))
            prices.append(solution.choose(state, is_myopic))
        return np.concatenate(prices).ravel()

    return choose
