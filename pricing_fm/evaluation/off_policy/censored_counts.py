"""The negative binomial law of demand whose top is cut off by stock, with the Poisson law as its limit.

Throughout `overdispersion` a gives the variance `mean + a mean**2`; a = 0 is Poisson. Sales below the stock are demand.
Sales equal to it say only that demand was at least as large: they count with the tail, `log P(demand >= stock)`. A week
without stock says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special, stats

# Below this the law is Poisson to within the rounding of the likelihood.
_POISSON_BELOW = 1e-8
_TAIL_FLOOR = 1e-250
_MOST_TAIL_TERMS = 100_000
_COUNTS_AT_ONCE = 16
_LARGEST_SUMMED_MEAN = 60.0  # below, adding up probabilities is a tenth of the work of inverting the beta function


@dataclass(frozen=True)
class CensoredCounts:
    """What sales say about demand. Arrays of one shape.

    Attributes:
        units: Units sold, 0 where nothing is known.
        censored: True = sold out: demand was at least `units`, bool.
        informative: True = the week says something about demand, bool.
    """

    units: np.ndarray
    censored: np.ndarray
    informative: np.ndarray


class CountTerms(NamedTuple):
    """Log likelihood of each count and its derivatives by the log of the mean; 0 where nothing is known.

    Attributes:
        log_likelihood: Log probability of what was seen.
        score: First derivative.
        curvature: Minus the second derivative; positive.
    """

    log_likelihood: np.ndarray
    score: np.ndarray
    curvature: np.ndarray


def read_sales(units: np.ndarray, stock: np.ndarray) -> CensoredCounts:
    """Tell demand, sold-out weeks and weeks without information apart.

    Args:
        units: Units sold, NaN = unknown, any shape.
        stock: Units available at the start of the week, infinite = unlimited, NaN = unknown (sales are then taken for
            demand), same shape.

    Returns:
        Counts; weeks without stock and weeks of unknown sales are not informative.

    Raises:
        ValueError: If shapes differ, a number is negative, or sales exceed the stock.
    """
    units, stock = np.asarray(units, dtype=np.float64), np.asarray(stock, dtype=np.float64)
    if units.shape != stock.shape:
        raise ValueError(f"units have shape {units.shape} and stock {stock.shape}; expected the same")
    limit = np.where(np.isnan(stock), np.inf, stock)
    for name, broken, expected in (
        ("units", units < 0, "0 or more"),
        ("units", np.isinf(units), "finite"),
        ("stock", limit < 0, "0 or more"),
        ("units", units > limit, "at most the stock"),
    ):
        where = np.argwhere(broken)
        if len(where):
            values = units if name == "units" else stock
            raise ValueError(f"{name}{where[0].tolist()} is {values[tuple(where[0])]:g}; it must be {expected}")
    informative = np.isfinite(units) & (limit > 0)
    known = np.where(informative, units, 0.0)
    return CensoredCounts(known, informative & (known >= limit), informative)


def compute_count_terms(counts: CensoredCounts, log_mean: np.ndarray, overdispersion: float) -> CountTerms:
    """Log likelihood, score and curvature of every count.

    Args:
        counts: What was seen.
        log_mean: Log of mean demand, shape of the counts.
        overdispersion: Variance is `mean + overdispersion mean**2`, >= 0.

    Returns:
        Terms, shape of the counts.

    References:
        Lawless 1987, "Negative binomial and mixed Poisson regression"; Terza 1985, "A Tobit-type estimator for the
        censored Poisson regression model".
    """
    mean, units = np.exp(log_mean), counts.units
    a = _clean(overdispersion)
    spread = 1.0 + a * mean
    values = _log_probability(units, log_mean, a)
    score = (units - mean) / spread
    curvature = mean * (1.0 + a * units) / spread**2
    where = counts.censored
    if where.any():
        cut, centre = units[where], mean[where]
        log_tail, hazard = _tail(cut, log_mean[where], a)
        values[where], score[where] = log_tail, hazard
        # Derivative of log hazard: that of log P(demand = cut) less that of log P(demand >= cut).
        curvature[where] = hazard * (hazard - (cut - centre) / spread[where])
    return CountTerms(*(np.where(counts.informative, column, 0.0) for column in (values, score, curvature)))


def compute_demand_residuals(counts: CensoredCounts, log_mean: np.ndarray, overdispersion: float) -> np.ndarray:
    """Expected demand given what was seen, minus mean demand; 0 where nothing is known.

    By Fisher's identity the score is the expected score of demand, so the residual is `(1 + overdispersion mean) x
    score`: units - mean where demand was seen, E[demand | demand >= stock] - mean where it was cut off. At the true law
    its mean is 0, whatever the stock.

    Args:
        counts: What was seen.
        log_mean: Log of mean demand, shape of the counts.
        overdispersion: See `compute_count_terms`.

    Returns:
        Units, shape of the counts.
    """
    terms = compute_count_terms(counts, log_mean, overdispersion)
    return (1.0 + _clean(overdispersion) * np.exp(log_mean)) * terms.score


class SalesTerms(NamedTuple):
    """Expected sales E[min(demand, stock)] and their derivative by the log of mean demand, units."""

    expected: np.ndarray
    by_log_mean: np.ndarray


def compute_expected_sales(mean: np.ndarray, stock: np.ndarray, overdispersion: float) -> np.ndarray:
    """Expected sales E[min(demand, stock)].

    Args:
        mean: Mean demand, > 0.
        stock: Whole units, >= 0, infinite = unlimited; broadcast to `mean`.
        overdispersion: See `compute_count_terms`.

    Returns:
        Units.
    """
    return compute_sales_terms(mean, stock, overdispersion).expected


def compute_sales_terms(mean: np.ndarray, stock: np.ndarray, overdispersion: float) -> SalesTerms:
    """Expected sales and how they rise with mean demand: by E[demand; demand <= stock] per unit of its log.

    Args:
        mean: Mean demand, > 0.
        stock: Whole units, >= 0, infinite = unlimited; broadcast to `mean`.
        overdispersion: See `compute_count_terms`.

    Returns:
        Units.
    """
    mean, stock = np.broadcast_arrays(np.asarray(mean, dtype=np.float64), np.asarray(stock, dtype=np.float64))
    limited = np.isfinite(stock)
    limit = np.where(limited, stock, 1.0)
    a = _clean(overdispersion)
    point, tail = np.exp(_log_probability(limit, np.log(mean), a)), _tail_probability(limit, mean, a)
    # k P(D = k) = mean P(D' = k - 1), with D' the law of one size more, whose tail is this much heavier.
    below = np.maximum(mean * (1.0 - tail - a * limit * point), 0.0)
    sold = below + limit * np.maximum(tail - point, 0.0)
    return SalesTerms(*(np.where(limited, np.where(limit > 0.0, value, 0.0), mean) for value in (sold, below)))


def compute_stockout_probability(mean: np.ndarray, stock: np.ndarray, overdispersion: float) -> np.ndarray:
    """Probability that demand exceeds the stock.

    Args:
        mean: Mean demand, > 0.
        stock: Whole units, >= 0, infinite = unlimited; broadcast to `mean`.
        overdispersion: See `compute_count_terms`.

    Returns:
        In [0, 1].
    """
    mean, stock = np.broadcast_arrays(np.asarray(mean, dtype=np.float64), np.asarray(stock, dtype=np.float64))
    limited = np.isfinite(stock)
    tail = _tail_probability(np.where(limited, stock, 1.0) + 1.0, mean, _clean(overdispersion))
    return np.where(limited, tail, 0.0)


def compute_dispersion_score(counts: np.ndarray, mean: np.ndarray, overdispersion: float) -> np.ndarray:
    """Derivative of the log probability of a demand by the log of the overdispersion.

    Args:
        counts: Demand, whole units, any shape.
        mean: Mean demand, > 0, same shape.
        overdispersion: See `compute_count_terms`.

    Returns:
        Same shape; 0 for Poisson demand.
    """
    a = _clean(overdispersion)
    if a == 0.0:
        return np.zeros_like(mean)
    ladder = np.arange(int(counts.max(initial=0.0)))
    rising = np.concatenate([[0.0], np.cumsum(a * ladder / (1.0 + a * ladder))])[counts.astype(np.int64)]
    return np.asarray(rising + np.log1p(a * mean) / a - (a * counts + 1.0) * mean / (1.0 + a * mean))


def draw_counts(uniforms: np.ndarray, mean: np.ndarray, overdispersion: float) -> np.ndarray:
    """Demand as the quantile of a uniform number: equal numbers give policies equal luck, and demand rises with mean.

    Args:
        uniforms: In (0, 1), any shape.
        mean: Mean demand, > 0, same shape.
        overdispersion: See `compute_count_terms`.

    Returns:
        Whole units, float64, same shape.
    """
    a, drawn = _clean(overdispersion), np.empty(np.shape(uniforms))
    small = np.asarray(mean) <= _LARGEST_SUMMED_MEAN
    drawn[small] = _sum_up_to(uniforms[small], mean[small], a)
    if not small.all():
        above, centre = uniforms[~small], mean[~small]
        found = stats.nbinom.ppf(above, 1.0 / a, 1.0 / (1.0 + a * centre)) if a else stats.poisson.ppf(above, centre)
        drawn[~small] = found
    return drawn


def _sum_up_to(uniforms: np.ndarray, mean: np.ndarray, a: float) -> np.ndarray:
    """Least count with P(demand <= count) >= uniform, by adding up probabilities, `(counts,)`."""
    factor = mean / (1.0 + a * mean)
    point = np.exp(-np.log1p(a * mean) / a if a else -mean)
    counts, left = np.zeros(len(mean)), uniforms - point
    places = np.flatnonzero(left > 0.0)
    point, factor, left, first = point[places], factor[places], left[places], 0
    while len(places):
        # Several counts at once: arrays are short, calls are not free.
        ahead = first + np.arange(_COUNTS_AT_ONCE)
        points = point[:, None] * np.cumprod(factor[:, None] * ((1.0 + a * ahead) / (ahead + 1.0)), axis=1)
        sums = np.cumsum(points, axis=1)
        short = (left[:, None] > sums).sum(axis=1)
        counts[places] += np.minimum(short + 1, _COUNTS_AT_ONCE)
        first += _COUNTS_AT_ONCE
        # What rounding leaves of a number next to 1 belongs to the last count that adds anything.
        going = (short == _COUNTS_AT_ONCE) & ((points[:, -1] > 1e-20) | (first < factor))
        point, factor, left, places = points[going, -1], factor[going], (left - sums[:, -1])[going], places[going]
    return counts


def _clean(overdispersion: float) -> float:
    if not (np.isfinite(overdispersion) and overdispersion >= 0.0):
        raise ValueError(f"overdispersion is {overdispersion}; expected a number of 0 or more")
    return overdispersion if overdispersion >= _POISSON_BELOW else 0.0


def _log_probability(count: np.ndarray, log_mean: np.ndarray, a: float) -> np.ndarray:
    """Log P(demand = count)."""
    poisson = count * log_mean - special.gammaln(count + 1.0)
    if a == 0.0:
        return np.asarray(poisson - np.exp(log_mean))
    # log of the product of 1 + a j over j < count; as a series where a x count is small, else by gamma functions.
    size = 1.0 / a
    rising = special.gammaln(count + size) - special.gammaln(size) + count * np.log(a)
    if a < 1e-3:  # else 0 is the only count that is small enough
        rising = np.where(count <= 1e-3 / a, _sum_logs(count, a), rising)
    return np.asarray(poisson + rising - (count + size) * np.log1p(a * np.exp(log_mean)))


def _sum_logs(count: np.ndarray, a: float) -> np.ndarray:
    """Sum of log(1 + a j) over j < count, where a x count is small."""
    small = np.minimum(count, 1e-3 / a)
    sums = [small * (small - 1) / 2, small * (small - 1) * (2 * small - 1) / 6, (small * (small - 1) / 2) ** 2]
    return np.asarray(a * sums[0] - a**2 * sums[1] / 2 + a**3 * sums[2] / 3)


def _tail_probability(count: np.ndarray, mean: np.ndarray, a: float) -> np.ndarray:
    """P(demand >= count), 1 for a count of 0."""
    positive = np.maximum(count, 1e-300)
    if a == 0.0:
        tail = special.gammainc(positive, mean)
    else:
        tail = special.betainc(positive, 1.0 / a, a * mean / (1.0 + a * mean))
    return np.where(count > 0.0, tail, 1.0)


def _tail(count: np.ndarray, log_mean: np.ndarray, a: float) -> tuple[np.ndarray, np.ndarray]:
    """Log P(demand >= count) and its derivative by log mean, `count P(demand = count) / P(demand >= count)`."""
    mean = np.exp(log_mean)
    tail, log_point = _tail_probability(count, mean, a), _log_probability(count, log_mean, a)
    log_tail = np.log(np.maximum(tail, _TAIL_FLOOR))
    far = tail <= _TAIL_FLOOR
    if far.any():
        log_tail[far] = log_point[far] + np.log(_sum_tail_ratios(count[far], mean[far], a))
    return log_tail, count * np.exp(log_point - log_tail)


def _sum_tail_ratios(count: np.ndarray, mean: np.ndarray, a: float) -> np.ndarray:
    """P(demand >= count) / P(demand = count) as a sum of ratios, where the tail itself underflows."""
    total, term = np.ones_like(count), np.ones_like(count)
    for ahead in range(_MOST_TAIL_TERMS):
        term = term * mean * (1.0 + a * (count + ahead)) / ((count + ahead + 1.0) * (1.0 + a * mean))
        total = total + term
        if np.all(term <= 1e-17 * total):
            return total
    raise ValueError(f"the tail of demand at {count.max():g} units with mean {mean.min():g} cannot be summed up")
