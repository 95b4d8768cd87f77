"""What can be said of prices that were never tried: demand does not rise with the price."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class MonotoneBounds(NamedTuple):
    """Range of mean demand at prices that were asked for. Arrays of the shape of the prices.

    Attributes:
        lower, upper: Units a period; the upper end is infinite below the lowest price tried, unless a most is known.
        was_tried: True = the price was tried: both ends are its own mean.
    """

    lower: np.ndarray
    upper: np.ndarray
    was_tried: np.ndarray


def pool_falling(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares under the constraint that values never rise (pool adjacent violators).

    Args:
        values: In the order of rising prices, `(prices,)`.
        weights: Of the values, > 0, `(prices,)`.

    Returns:
        Fitted values, never rising.

    References:
        Ayer, Brunk, Ewing, Reid and Silverman 1955; Barlow et al. 1972.
    """
    means: list[float] = []
    sizes: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        means.append(value)
        sizes.append(weight)
        lengths.append(1)
        while len(means) > 1 and means[-2] < means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
            lengths[-2:] = [lengths[-2] + lengths[-1]]
    return np.repeat(means, lengths)


def bound_monotone_demand(
    tried_prices: np.ndarray,
    mean_demand: np.ndarray,
    weights: np.ndarray,
    asked_prices: np.ndarray,
    most: float = np.inf,
) -> MonotoneBounds:
    """Range of mean demand at any price, given that at some prices and that it never rises with the price.

    Estimates that rise by chance are pooled first. Between two prices that were tried demand lies between their means;
    above the highest it lies between 0 and that price's; below the lowest between that price's and `most`.

    Args:
        tried_prices: Currency, rising, `(prices,)`.
        mean_demand: Mean demand at these prices (not sales: what stock cut off is put back), units, `(prices,)`.
        weights: Precision of each mean, such as its number of weeks, > 0, `(prices,)`.
        asked_prices: Currency, any shape.
        most: Largest mean demand there can be, such as the traffic, units.

    Returns:
        The range.

    Raises:
        ValueError: If shapes differ, prices do not rise, or a mean is negative or above `most`.

    References:
        Manski 1997, "Monotone treatment response", Econometrica 65(6).
    """
    tried, means, sizes = (np.asarray(column, dtype=np.float64) for column in (tried_prices, mean_demand, weights))
    if not tried.shape == means.shape == sizes.shape or tried.ndim != 1 or len(tried) == 0:
        raise ValueError(f"prices {tried.shape}, means {means.shape} and weights {sizes.shape} do not fit together")
    if np.any(np.diff(tried) <= 0) or np.any(means < 0) or np.any(means > most) or np.any(sizes <= 0):
        raise ValueError("tried prices must rise, means lie between 0 and the most, weights be positive")
    fitted = pool_falling(means, sizes)
    asked = np.asarray(asked_prices, dtype=np.float64)
    at_or_below = np.searchsorted(tried, asked, side="right") - 1
    at_or_above = np.searchsorted(tried, asked, side="left")
    upper = np.where(at_or_below >= 0, fitted[np.maximum(at_or_below, 0)], most)
    lower = np.where(at_or_above < len(tried), fitted[np.minimum(at_or_above, len(tried) - 1)], 0.0)
    return MonotoneBounds(lower, upper, at_or_below == at_or_above)


def bound_monotone_margin(bounds: MonotoneBounds, prices: np.ndarray, unit_costs: np.ndarray) -> MonotoneBounds:
    """Range of the margin (price - cost) x demand; where the price is below cost, more demand earns less.

    Args:
        bounds: Of mean demand at the prices.
        prices: Currency, shape of the bounds.
        unit_costs: Currency per unit, broadcast.

    Returns:
        Range of the margin, currency a period.
    """
    margin = np.asarray(prices, dtype=np.float64) - unit_costs
    # At cost a price earns nothing, however much is sold.
    ends = [np.where(margin == 0.0, 0.0, margin * np.where(margin == 0.0, 0.0, end)) for end in bounds[:2]]
    return MonotoneBounds(np.minimum(*ends), np.maximum(*ends), bounds.was_tried)
