"""The negative binomial likelihood of a count whose zero is unlisted or whose top is cut off by stock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaln

_LOG_BOUND = 25.0  # exp(25) counts a period: beyond any log, and far from overflow
_DISPERSION_FLOOR = 1e-6  # variance is mean + dispersion * mean**2; below this it is Poisson to six digits
_TAIL_FLOOR = 1e-290


@dataclass(frozen=True)
class CountData:
    """What is known about the demand of every item in every period.

    Attributes:
        counts: Units sold in whole counts, shape `(items, periods)`; NaN where nothing is known.
        observed: True where `counts` says something about demand.
        censored: True where stock ran out, so that demand was at least `counts`; a subset of `observed`.
        zeros_unlisted: True if the source lists only what was sold: an observed count is then known to be 1 or more
            (zero-truncated), whatever the absent rows were.
    """

    counts: np.ndarray
    observed: np.ndarray
    censored: np.ndarray
    zeros_unlisted: bool


@dataclass(frozen=True)
class WorkingTerms:
    """Quadratic approximation of the log likelihood around a linear predictor.

    Attributes:
        score: First derivative by the linear predictor, shape `(items, periods)`; 0 where nothing is known.
        weight: Minus the (expected) second derivative, same shape, >= 0.
    """

    score: np.ndarray
    weight: np.ndarray


def compute_mean(linear_predictor: np.ndarray) -> np.ndarray:
    """Mean count, bounded so that a wild step of the optimiser cannot overflow."""
    return np.exp(np.clip(linear_predictor, -_LOG_BOUND, _LOG_BOUND))


def compute_zero_probability(mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Probability of a count of zero.

    Args:
        mean: Mean counts.
        dispersion: Variance is `mean + dispersion * mean**2`; broadcast to `mean`.

    Returns:
        Probabilities, shape of `mean`.
    """
    excess = np.maximum(dispersion, _DISPERSION_FLOOR)
    return np.exp(-np.log1p(excess * mean) / excess)


def compute_working_terms(data: CountData, linear_predictor: np.ndarray, dispersion: np.ndarray) -> WorkingTerms:
    """Score and information of the negative binomial, zero-truncated and right-censored where the data say so.

    Sold-out periods contribute `log P(demand >= counts)`. With unlisted zeros every observed period is conditioned
    on `demand >= 1`.

    Args:
        data: The counts.
        linear_predictor: Log mean demand, shape `(items, periods)`.
        dispersion: Variance is `mean + dispersion * mean**2`, shape `(items, 1)` or broadcast.

    Returns:
        Score and weight per cell.
    """
    mean = compute_mean(linear_predictor)
    excess = np.broadcast_to(np.maximum(dispersion, _DISPERSION_FLOOR), mean.shape)
    base = mean / (1.0 + excess * mean)
    counts = np.where(data.observed, data.counts, 0.0)
    score = (counts - mean) / (1.0 + excess * mean)
    weight = base.copy()
    if data.censored.any():
        where = data.censored
        score[where], weight[where] = _tail_terms(counts[where], mean[where], excess[where])
    if data.zeros_unlisted:
        zero = compute_zero_probability(mean, excess)
        sold = -np.expm1(-np.log1p(excess * mean) / excess)
        hazard = base * zero / np.maximum(sold, _TAIL_FLOOR)
        slope = hazard * ((1.0 - mean) / (1.0 + excess * mean) - hazard)
        score = score - hazard
        truncated = base * (1.0 + excess * mean / sold) / (1.0 + excess * mean)
        weight = np.where(data.censored, weight, truncated) + slope
    # A weight below this share of the mean would make a Newton step jump out of the region it is valid in.
    weight = np.maximum(weight, 0.02 * base)
    return WorkingTerms(np.where(data.observed, score, 0.0), np.where(data.observed, weight, 0.0))


def impute_censored(
    data: CountData, linear_predictor: np.ndarray, dispersion: np.ndarray, uniforms: np.ndarray
) -> np.ndarray:
    """Counts with every sold-out period replaced by one draw of demand given that it reached the stock.

    Second moments need a demand, not a bound; leaving sold-out periods out would keep only the calm ones.

    Args:
        data: The counts.
        linear_predictor: Log mean demand, shape `(items, periods)`.
        dispersion: Shape `(items, 1)` or broadcast.
        uniforms: Uniform draws in (0, 1), shape `(items, periods)`; only sold-out cells are used.

    Returns:
        Counts, shape `(items, periods)`; NaN where nothing is known.
    """
    counts = data.counts.copy()
    where = data.censored
    if not where.any():
        return counts
    mean = compute_mean(linear_predictor)[where]
    size = 1.0 / np.broadcast_to(np.maximum(dispersion, _DISPERSION_FLOOR), where.shape)[where]
    share = size / (size + mean)
    lowest = counts[where]
    below = _cumulative(lowest - 1.0, size, share)
    level = np.minimum(below + (1.0 - below) * uniforms[where], 1.0 - 1e-12)
    counts[where] = np.maximum(lowest, _quantile(level, size, share))
    return counts


def _cumulative(count: np.ndarray, size: np.ndarray, share: np.ndarray) -> np.ndarray:
    """P(demand <= count) of a negative binomial with real size; 0 for a count below zero."""
    return np.where(count < 0, 0.0, betainc(size, np.maximum(count, 0.0) + 1.0, share))


def _quantile(level: np.ndarray, size: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Smallest count whose distribution function reaches the level, by bisection over whole counts."""
    low = np.full_like(level, -1.0)
    high = np.maximum(10.0, 4.0 * size * (1.0 - share) / share)
    short = _cumulative(high, size, share) < level
    while short.any():
        high = np.where(short, 2.0 * high, high)
        short = _cumulative(np.floor(high), size, share) < level
    high = np.floor(high)
    while np.any(high - low > 1.0):
        middle = np.floor(0.5 * (low + high))
        reached = _cumulative(middle, size, share) >= level
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle)
    return high


def _tail_terms(lowest: np.ndarray, mean: np.ndarray, excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of `log P(demand >= lowest)`: the tail is an incomplete beta function of `mean / (mean + size)`."""
    size = 1.0 / excess
    share = mean / (mean + size)
    tail = np.maximum(betainc(lowest, size, share), _TAIL_FLOOR)
    log_density = lowest * np.log(share) + size * np.log1p(-share) - betaln(lowest, size)
    hazard = np.minimum(np.exp(log_density - np.log(tail)), lowest)
    curvature = hazard * (hazard - lowest * (1.0 - share) + size * share)
    return hazard, np.maximum(curvature, 0.0)
