"""The best prices that never change: item by item where items do not touch each other, else all items together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pricing_fm.markets.core import Market
from pricing_fm.markets.one_period import search_line

# What constant prices `(products, segments)` earn in a whole episode, item by item, currency, same shape.
ItemRewards = Callable[[np.ndarray], np.ndarray]

_WIDE_STEPS = (0.16, 0.04)  # of a log price
_MOST_SWEEPS = 50  # sweeps over the items at one step; the first without a gain is the last


def build_constant_ladder(market: Market, points: int = 31) -> np.ndarray:
    """Price vectors at one common multiple of the list prices, `(points, products, segments)`, currency."""
    low, high = market.price_bounds
    regular = np.broadcast_to(market.list_price, market.shape)[0]
    return np.geomspace(low, high, points)[:, None, None] * regular


def find_constant_prices(
    market: Market, earn: ItemRewards, candidates: Sequence[np.ndarray], points: int = 121, finest: float = 1e-8
) -> np.ndarray:
    """Prices, not rounded, that earn most in a whole episode among prices that never change.

    Where items are separable every item has its own search along its price. Otherwise all prices climb together,
    coordinate by coordinate and all at once, from several starts: the best common multiple of the list prices, the
    middle of the bounds and the best candidate. No candidate and no multiple that was tried earns more.

    Args:
        market: One market; the bounds hold for the list prices of its first period.
        earn: Reward of an episode at constant prices, item by item.
        candidates: Prices to try as well, currency, `(products, segments)` each.
        points: Multiples of the list price of the first look, equally spaced in logarithms between the bounds.
        finest: Precision of a log price.

    Returns:
        Currency per unit, `(products, segments)`.

    Raises:
        ValueError: If several markets are given.
    """
    if market.shape[0] != 1:
        raise ValueError(f"market holds {market.shape[0]} markets; solve them one by one")
    regular = np.broadcast_to(market.list_price, market.shape)[0]
    low, high = market.price_bounds[0] * regular, market.price_bounds[1] * regular
    inside = [np.clip(one, low, high) for one in candidates]
    if market.is_separable:
        prices, rewards = search_line(earn, (low, high), points, finest)
        for candidate in inside:
            other = earn(candidate)
            better = other > rewards
            prices, rewards = np.where(better, candidate, prices), np.where(better, other, rewards)
        return prices
    groups = [list(build_constant_ladder(market, points)), [np.sqrt(low * high)], inside]
    starts = [_pick_best(earn, group) for group in groups if group]
    # Wide steps tell the starts' peaks apart; only the highest is climbed to its top.
    climbed = [_climb(earn, start, (low, high), _WIDE_STEPS) for start in starts]
    highest = max(climbed, key=lambda pair: pair[1])
    steps = [_WIDE_STEPS[-1] * 0.25**level for level in range(1, 20)]
    return _climb(earn, highest, (low, high), [step for step in steps if step >= finest])[0]


def _pick_best(earn: ItemRewards, tried: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Best prices and their reward."""
    return max(((one, float(earn(one).sum())) for one in tried), key=lambda pair: pair[1])


def _climb(
    earn: ItemRewards, start: tuple[np.ndarray, float], bounds: tuple[np.ndarray, np.ndarray], steps: Sequence[float]
) -> tuple[np.ndarray, float]:
    """Coordinate ascent on log prices, one step after the other; prices and reward."""
    prices, reward = start
    ways = [*np.eye(prices.size).reshape(-1, *prices.shape), np.ones(prices.shape)]
    for step in steps:
        for _ in range(_MOST_SWEEPS):
            before = reward
            for way in ways:
                for sign in (1.0, -1.0):
                    moved = np.clip(prices * np.exp(sign * step * way), *bounds)
                    found = float(earn(moved).sum())
                    if found > reward:
                        prices, reward = moved, found
                        break
            if reward <= before:
                break
    return prices, reward
