"""Poisson and normal laws in the form that stock and seat problems need."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

# Numbers that describe the demand of a season, by kind.
DEMAND_FIELDS = {"normal": ("mean", "std"), "poisson": ("mean",)}


def compute_poisson_quantile(probability: float, mean: float) -> int:
    """Smallest count whose distribution function reaches a probability in [0, 1).

    Args:
        probability: Level, in [0, 1).
        mean: Mean of the Poisson law, >= 0.

    Returns:
        The count, >= 0.
    """
    if probability <= 0.0 or mean == 0.0:
        return 0
    # The start is off by a few at most; the exact distribution function decides. A relative 1e-12 forgives the rounding
    # of a probability that was meant to equal the distribution function at a count.
    level = probability * (1.0 - 1e-12)
    count = max(int(mean + math.sqrt(mean) * float(special.ndtri(probability))), 0)
    while special.pdtr(count, mean) < level:
        count += 1
    while count > 0 and special.pdtr(count - 1, mean) >= level:
        count -= 1
    return count


def compute_poisson_limited_mean(mean: float | np.ndarray, stock: int | np.ndarray) -> float | np.ndarray:
    """Expected minimum of a Poisson count and a stock.

    Args:
        mean: Mean of the Poisson law, >= 0.
        stock: Whole units, >= 0.

    Returns:
        E[min(D, stock)], broadcast shape of the arguments.
    """
    # sum of d P(d) up to the stock is mean x P(D <= stock - 1).
    low = np.where(np.asarray(stock) > 0, special.pdtr(np.maximum(np.asarray(stock) - 1, 0), mean), 0.0)
    result = mean * low + stock * special.pdtrc(stock, mean)
    return float(result) if np.ndim(result) == 0 else result


def compute_normal_density(z: float) -> float:
    """Density of the standard normal law."""
    return math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
