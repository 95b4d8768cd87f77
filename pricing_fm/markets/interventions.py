"""Prices drawn at random at the end of a log, whatever the manager did before: the ground for causal answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pricing_fm.markets.managers import are_rungs_apart, round_to_ladder
from pricing_fm.markets.streams import INTERVENTION, Streams

_PROMOTION_CHANCE = 0.1  # in a randomised period, drawn apart from the price


class RandomPrices(NamedTuple):
    """Randomised prices of one period. Arrays `(markets, products, segments)`.

    Attributes:
        prices: Currency per unit.
        promotions: True = promoted.
        propensities: Probability of the price given those of the periods before.
    """

    prices: np.ndarray
    promotions: np.ndarray
    propensities: np.ndarray


@dataclass(frozen=True)
class Interventions:
    """Randomised stretches of all items. Arrays `(periods, markets, products, segments)` unless said otherwise.

    Attributes:
        here: True = the price is drawn at random.
        begins: True = first period of the stretch.
        multiplier: Multiple of the list price that was drawn.
        promotion: True = promoted.
        redraw: Chance of a new draw in every period after the first, `(markets, products, segments)`.
        ladder: Multiples of the list price, each with the same chance, `(rungs,)`.
    """

    here: np.ndarray
    begins: np.ndarray
    multiplier: np.ndarray
    promotion: np.ndarray
    redraw: np.ndarray
    ladder: np.ndarray

    def get_prices(self, period: int, list_price: np.ndarray, price_tick: np.ndarray) -> RandomPrices:
        """The randomised prices of a period; they hold where `here` is True.

        Args:
            period: Period of the log.
            list_price: Regular prices of the period, currency per unit, `(markets, products, segments)`.
            price_tick: Smallest coin, `(markets, 1, 1)`.

        Returns:
            Prices, promotions and propensities.
        """
        prices = round_to_ladder(list_price, self.multiplier[period], price_tick)
        before = self.multiplier[period - 1] if period else self.multiplier[period]
        if are_rungs_apart(list_price, self.ladder, price_tick):
            alike, kept = 1.0, self.multiplier[period] == before
        else:
            # A coarse coin makes one price of several rungs.
            rungs = round_to_ladder(list_price, self.ladder.reshape(-1, 1, 1, 1), price_tick)
            alike, kept = (rungs == prices).sum(axis=0), round_to_ladder(list_price, before, price_tick) == prices
        drawn = alike / len(self.ladder)
        # A redraw may return the same price, so keeping it has two causes.
        later = self.redraw * drawn + np.where(kept, 1.0 - self.redraw, 0.0)
        return RandomPrices(prices, self.promotion[period], np.where(self.begins[period], drawn, later))


def plan_interventions(
    num_periods: int,
    stretch: tuple[int, int] | None,
    share: float,
    eligible: np.ndarray,
    ladder: np.ndarray,
    shape: tuple[int, int, int],
    random: Streams,
) -> Interventions:
    """Draw each item's randomised stretch: half keep one price throughout, the others change it now and then.

    Args:
        num_periods: Periods of the log.
        stretch: Shortest and longest stretch at its end, periods; None = none.
        share: Share of the eligible items that have one.
        eligible: True = items of the market may have one, bool, `(markets,)`.
        ladder: Multiples of the list price, `(rungs,)`.
        shape: (markets, products, segments).
        random: Streams of the markets.

    Returns:
        The stretches.
    """
    here, begins, promotion = (np.zeros((num_periods, *shape), dtype=bool) for _ in range(3))
    multiplier = np.ones((num_periods, *shape))
    if stretch is None:
        return Interventions(here, begins, multiplier, promotion, np.zeros(shape), ladder)
    low, high = stretch
    plan = random.uniform(num_periods, INTERVENTION, (4, *shape[1:]))
    length = low + (plan[:, 0] * (high - low + 1)).astype(int)
    takes_part = (plan[:, 1] < share) & eligible.reshape(-1, 1, 1)
    start = np.where(takes_part, num_periods - length, num_periods)
    redraw = np.where(plan[:, 2] < 0.5, 0.0, 0.2 + 0.8 * plan[:, 3])
    current = np.ones(shape)
    for period in range(num_periods - high, num_periods):
        draws = random.uniform(period, INTERVENTION, (3, *shape[1:]))
        fresh = (period == start) | ((period > start) & (draws[:, 0] < redraw))
        current = np.where(fresh, ladder[(draws[:, 1] * len(ladder)).astype(int)], current)
        here[period], begins[period], multiplier[period] = period >= start, period == start, current
        promotion[period] = draws[:, 2] < _PROMOTION_CHANCE
    return Interventions(here, begins, multiplier, promotion, redraw, ladder)
