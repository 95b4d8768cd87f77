"""Who set the prices in a log: named managers with habits, and the probability of every price they charged.

A manager puts a probability on each rung of a ladder of multiples of the list price; one rung is drawn. The
probability of its price, given all the manager knew (hidden demand included), is the propensity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.core import Market, MarketState
from pricing_fm.markets.manager_habits import (
    DEMAND_FOLLOWER,
    MANAGERS,
    STANDARD_MANAGERS,
    Habits,
    ManagerSettings,
    choose_managers,
    describe_missing,
    keep_inside_bounds,
    sample_habits,
)
from pricing_fm.markets.manager_rules import choose_rungs
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.streams import PROMOTION, Streams

__all__ = [
    "DEMAND_FOLLOWER",
    "MANAGERS",
    "STANDARD_MANAGERS",
    "Decision",
    "Desk",
    "Habits",
    "ManagerSettings",
    "are_rungs_apart",
    "choose_managers",
    "decide",
    "describe_missing",
    "keep_inside_bounds",
    "round_to_ladder",
    "sample_habits",
    "split_by_manager",
]


@dataclass(frozen=True)
class Decision:
    """What the managers decided for one period. Arrays `(markets, products, segments)`.

    Attributes:
        prices: Currency per unit, whole multiples of the smallest coin.
        promotions: 1.0 in promoted periods, else 0.0.
        propensities: Probability of the price, given all that the manager knew; the promotion is drawn apart.
        rungs: Rung of the price on the ladder, int.
    """

    prices: np.ndarray
    promotions: np.ndarray
    propensities: np.ndarray
    rungs: np.ndarray


@dataclass(frozen=True)
class Desk:
    """The markets that share a manager, taken out of the batch once for all periods.

    Attributes:
        code: Index into `MANAGERS`.
        here: Positions of the markets, int.
        habits: Their habits.
        market: Their truth.
    """

    code: int
    here: np.ndarray
    habits: Habits
    market: Market


def split_by_manager(habits: Habits, market: Market) -> tuple[Desk, ...]:
    """One desk per manager who has markets in the batch."""
    places = [(int(code), np.flatnonzero(habits.manager == code)) for code in np.unique(habits.manager)]
    return tuple(Desk(code, here, habits.select(here), market.select(here)) for code, here in places)


def decide(
    habits: Habits, market: Market, state: MarketState, random: Streams, desks: tuple[Desk, ...] | None = None
) -> Decision:
    """Let every market's manager set this period's prices and promotions.

    Args:
        habits: How the managers work.
        market: Truth of the markets.
        state: State before the period.
        random: Streams of the markets; decisions depend on market and period alone, given the state.
        desks: What `split_by_manager` makes of habits and market, for callers with many periods; None = split now.

    Returns:
        Prices on the ladder, promotions and propensities.
    """
    shape = state.cost.shape
    rungs = np.empty(shape, dtype=np.int64)
    chances = np.empty((len(habits.price_ladder), *shape))
    for desk in split_by_manager(habits, market) if desks is None else desks:
        here = desk.here
        chosen = choose_rungs(desk.code, desk.habits, desk.market, state.select(here), random.select(here))
        rungs[here], chances[:, here] = chosen
    prices = round_to_ladder(state.list_price, habits.price_ladder[rungs], market.price_tick)
    propensities = np.take_along_axis(chances, rungs[None], axis=0)[0]
    if not are_rungs_apart(state.list_price, habits.price_ladder, market.price_tick):
        ladder = habits.price_ladder.reshape(-1, 1, 1, 1)
        same = round_to_ladder(state.list_price, ladder, market.price_tick) == prices
        propensities = (chances * same).sum(axis=0)
    cut = rungs < habits.regular_rung
    chance = np.where(cut, habits.promotion_if_cut, habits.promotion_if_not)
    promotions = (random.uniform(state.period, PROMOTION, shape[1:]) < chance).astype(np.float64)
    return Decision(prices, promotions, propensities, rungs)


def round_to_ladder(list_price: np.ndarray, multiplier: np.ndarray, price_tick: np.ndarray) -> np.ndarray:
    """Price of a rung: list price times multiplier, rounded to the smallest coin, at least one coin."""
    return round_to_tick(list_price * multiplier, price_tick)


def are_rungs_apart(list_price: np.ndarray, ladder: np.ndarray, price_tick: np.ndarray) -> bool:
    """Whether no two rungs can round to the same price: their distance exceeds the smallest coin everywhere."""
    return bool(np.all(list_price * np.diff(ladder).min() > price_tick * (1.0 + 1e-9)))
