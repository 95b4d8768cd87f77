"""Poisson and normal laws in the form that stock and seat problems need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from pricing_fm.markets.oracles.checks import check_demand, check_number

# Numbers that describe the demand of a season, by kind.
DEMAND_FIELDS = {"normal": ("mean", "std"), "poisson": ("mean",)}
LARGEST_COUNT = 10**9  # of a Poisson or binomial count whose tail is summed up; sums run over its square root


def check_season_demand(demand: Mapping[str, Any]) -> tuple[str, float, float]:
    """Return kind, mean and standard deviation of a season's demand.

    Args:
        demand: {"kind": "normal", "mean", "std"} or {"kind": "poisson", "mean"}.

    Returns:
        Kind, mean >= 0 and standard deviation >= 0.

    Raises:
        ValueError: If the description is none, or a number is out of bounds.
    """
    kind = check_demand(demand, DEMAND_FIELDS)
    if kind == "poisson":
        mean = check_number("demand['mean']", demand["mean"], least=0, most=LARGEST_COUNT)
        return kind, mean, math.sqrt(mean)
    mean = check_number("demand['mean']", demand["mean"], least=0)
    return kind, mean, check_number("demand['std']", demand["std"], least=0)


def compute_normal_quantile(under: float, over: float) -> float:
    """Standard normal quantile at probability under / (under + over), exact in both tails.

    Args:
        under: Cost of a unit too little, > 0.
        over: Cost of a unit too much, > 0.

    Returns:
        The quantile.
    """
    low = min(under, over)
    z = float(special.ndtri(low / (under + over)))
    return z if under <= over else -z


def compute_poisson_quantile(under: float, over: float, mean: float) -> int:
    """Smallest count whose distribution function reaches under / (under + over), exact in both tails.

    Args:
        under: Cost of a unit too little, >= 0.
        over: Cost of a unit too much, > 0.
        mean: Mean of the Poisson law, in [0, LARGEST_COUNT].

    Returns:
        The count, >= 0.
    """

    def reaches(count: int) -> bool:
        # A relative 1e-12 forgives the rounding of a probability that was meant to equal the distribution function.
        return bool(special.pdtr(count, mean) * over >= special.pdtrc(count, mean) * under * (1.0 - 1e-12))

    if reaches(0):
        return 0
    low, high = 0, int(mean) + 1  # `low` does not reach it
    while not reaches(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def compute_mean_rank(ratios: np.ndarray) -> float:
    """Mean of 1, 2, 3, ... under weights that are given by their ratios.

    Args:
        ratios: Weight of k + 1 over weight of k, >= 0, float64, shape `(terms,)`.

    Returns:
        The mean, >= 1.
    """
    weights = np.cumprod(np.append(1.0, ratios))
    return float((weights * np.arange(1, len(weights) + 1)).sum() / weights.sum())


def count_terms(mean: float) -> int:
    """Terms after which a Poisson or binomial tail that starts beyond its mean has faded to nothing.

    Args:
        mean: Size of the count where the tail starts, >= 0.

    Returns:
        Terms, whole.
    """
    return int(9.0 * math.sqrt(mean)) + 60


def compute_poisson_loss(mean: float, stock: int) -> tuple[float, float]:
    """Expected units short and left over when Poisson demand meets a stock, without cancellation.

    Args:
        mean: Mean of the Poisson law, in [0, LARGEST_COUNT].
        stock: Whole units, >= 0.

    Returns:
        E[max(D - stock, 0)] and E[max(stock - D, 0)].
    """
    if mean == 0.0 or stock == 0:
        return mean, float(stock)
    k = np.arange(1.0, count_terms(max(mean, stock)))
    if stock >= mean:
        short = float(special.pdtrc(stock, mean)) * compute_mean_rank(mean / (stock + 1.0 + k))
        return short, stock - mean + short
    left = float(special.pdtr(stock - 1, mean)) * compute_mean_rank(np.maximum(stock - k, 0.0) / mean)
    return mean - stock + left, left


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


def compute_poisson_log_point(count: np.ndarray | float, mean: float) -> np.ndarray | float:
    """Log of the chance of a Poisson count, exact for large counts near the mean too.

    Args:
        count: Whole, >= 0.
        mean: Mean of the Poisson law, > 0.

    Returns:
        log P(D = count), shape of the count.
    """
    n = np.asarray(count, dtype=np.float64)
    gap, large = n - mean, np.maximum(n, 1_000.0)
    # Stirling's series; the difference of large numbers is taken before any of them is rounded.
    stirling = gap - n * np.log1p((large - mean) / mean) - 0.5 * np.log(2.0 * math.pi * large) - 1.0 / (12.0 * large)
    result = np.where(n < 1_000.0, special.xlogy(n, mean) - mean - special.gammaln(n + 1.0), stirling)
    return float(result) if result.ndim == 0 else result


def compute_normal_density(z: float) -> float:
    """Density of the standard normal law."""
    return math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
