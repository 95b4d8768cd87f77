"""Shops for benchmarks/launch_rule.py: managers and candidates on a price ladder, with values known by simulation.

Demand depends on price, on the price that customers remember, on recent discounts, season, a shock that all units
share in a week and one of each unit and week that the log does not hold. Stock is limited and sells out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from pricing_fm.evaluation.off_policy import BaseStock, DemandLog, PriceState, Shop, advance_prices

LADDER = np.array([0.7, 0.8, 0.9, 1.0, 1.1])
COST_SHARE, PERSISTENCE, OVERDISPERSION = 0.6, 0.7, 0.25
WEEK_SHOCK, UNIT_SHOCK = 0.1, 0.25  # deviations of log demand
HIGH = LADDER > 0.95  # what a manager who sees demand coming charges more often


@dataclass(frozen=True)
class LaunchShop:
    """One market.

    Attributes:
        shop: What everybody knows.
        levels: Log mean demand of each unit at the list price, `(units,)`.
        season: Of log demand, `(weeks,)`.
        elasticity, gap, depth: Responses of log demand to price, remembered price and recent discounts.
        hidden_odds: Factor by which the manager's knowledge of a week's shock moves the odds of his decisions; 1 = he
            knows no more than the log.
    """

    shop: Shop
    levels: np.ndarray
    season: np.ndarray
    elasticity: float
    gap: float
    depth: float
    hidden_odds: float


class History(NamedTuple):
    """What happened. Arrays `(units, weeks)` of the first draw, and the value over all draws.

    Attributes:
        log: What the shop logged.
        rungs: Place of each price on the ladder.
        margins: Weekly margins, currency.
        values: Margin over all weeks of each unit and draw, currency, `(units, draws)`.
    """

    log: DemandLog
    rungs: np.ndarray
    margins: np.ndarray
    values: np.ndarray


def draw_shop(rng: np.random.Generator, units: int, weeks: int, hidden_odds: float) -> LaunchShop:
    """A market at random."""
    levels = 2.2 + 0.5 * rng.normal(size=units)
    list_prices = np.repeat(rng.uniform(2.0, 6.0, units)[:, None], weeks, axis=1)
    stock = np.ceil(rng.uniform(2.0, 4.0) * np.exp(levels))
    shop = Shop(
        list_prices,
        COST_SHARE * list_prices,
        BaseStock(stock, np.ceil(0.8 * stock), np.ceil(0.2 * stock)[:, None]),
        np.log(list_prices[:, 0]),
        np.zeros(units),
        PERSISTENCE,
    )
    season = 0.3 * np.sin(np.arange(weeks) / 4.0 + rng.uniform(0.0, 6.0))
    elasticity, gap, depth = rng.uniform(1.2, 2.8), rng.uniform(0.2, 1.0), rng.uniform(0.0, 1.0)
    return LaunchShop(shop, levels, season, elasticity, gap, depth, hidden_odds)


def run_history(market: LaunchShop, shares: np.ndarray, draws: int, seed: int, knows: bool) -> History:
    """Run the market under a policy that draws rungs.

    Args:
        market: The market.
        shares: Probability of each rung, `(rungs,)`.
        draws: Histories.
        seed: Of all luck.
        knows: True = the manager, whose shares follow the hidden shock as far as `hidden_odds` says.

    Returns:
        The history.
    """
    shop, rng = market.shop, np.random.default_rng(seed)
    units, weeks = shop.list_prices.shape
    by_shock = np.stack(_tilt(shares, market.hidden_odds if knows else 1.0))
    layers, memory = shop.stock.start(draws), np.repeat(shop.log_memory[:, None], draws, axis=1)
    state = PriceState(memory, memory, np.zeros((units, draws)))
    seen: list[list[np.ndarray]] = [[], [], [], [], []]
    values = np.zeros((units, draws))
    for week in range(weeks):
        common = WEEK_SHOCK * rng.normal(size=draws)
        is_high = rng.random((units, draws)) < 0.5
        choice = rng.random((units, draws))
        cumulative = np.cumsum(by_shock, axis=1)[is_high.astype(int)]
        rungs = (choice[..., None] >= cumulative[..., :-1]).sum(axis=-1)
        list_price, cost = shop.list_prices[:, week, None], shop.unit_costs[:, week, None]
        prices = list_price * LADDER[rungs]
        log_mean = (
            market.levels[:, None]
            + market.season[week]
            - market.elasticity * np.log(LADDER[rungs])
            + market.gap * (state.log_memory - np.log(prices))
            + market.depth * state.depth
            + common
            + np.where(is_high, UNIT_SHOCK, -UNIT_SHOCK)
        )
        size = 1.0 / OVERDISPERSION
        customers = rng.negative_binomial(size, size / (size + np.exp(log_mean))).astype(float)
        available = shop.stock.get_available(layers, week)
        sold = np.minimum(customers, available)
        values += (prices - cost) * sold
        for column, found in zip(seen, (sold, available, prices, rungs, (prices - cost) * sold), strict=True):
            column.append(found[:, 0])
        layers = shop.stock.advance(layers, customers, week)
        state = advance_prices(state, prices, list_price, PERSISTENCE)
    sold, held, prices, rungs, margins = (np.stack(column, axis=1) for column in seen)
    log = DemandLog(
        units=sold,
        stock=held,
        prices=prices,
        list_prices=shop.list_prices,
        promotions=np.zeros((units, weeks)),
        clusters=np.arange(units),
        weeks=np.arange(weeks),
        log_memory=shop.log_memory,
        depth=shop.depth,
        persistence=PERSISTENCE,
    )
    return History(log, rungs.astype(int), margins, values)


def draw_shares(rng: np.random.Generator, concentration: float, least: float, count: int) -> np.ndarray:
    """Probabilities of the rungs at random, none below `least`, `(count, rungs)`."""
    return least + (1.0 - least * len(LADDER)) * rng.dirichlet(np.full(len(LADDER), concentration), size=count)


def _tilt(shares: np.ndarray, odds: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares in weeks of a low and of a high shock: their mean is `shares`, no odds move by more than the factor."""
    high = float(shares[HIGH].sum())
    if odds <= 1.0 or not 0.0 < high < 1.0:
        return shares, shares

    def move(shift: float) -> np.ndarray:
        return shares * np.where(HIGH, 1.0 + shift / high, 1.0 - shift / (1.0 - high))

    def excess(shift: float) -> float:
        """Log of the largest factor on the odds, beyond what is allowed."""
        factors = [
            np.log(moved / (1.0 - moved)) - np.log(shares / (1.0 - shares)) for moved in (move(shift), move(-shift))
        ]
        return float(np.abs(factors).max() - np.log(odds))

    shift = brentq(excess, 0.0, 0.999 * min(high, 1.0 - high))
    return move(-shift), move(shift)
