"""Intervals of a policy's value: bootstrap over decision units and weeks, and two checks that do not resample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from pricing_fm.evaluation.off_policy.contributions import NO_WEEK, Contributions, RefusalError
from pricing_fm.metrics import Interval

_CELLS_AT_ONCE = 4_000_000  # bounds memory: weights are (replicates, clusters or cells)
ROUNDING = 1e-9  # relative; what sums of values at a bound may miss it by
MOST_EMPTY_REPLICATES = 0.05  # share of replicates in which a term may have no weight left


@dataclass(frozen=True)
class BootstrapDraws:
    """Bootstrap replicates of a value.

    Attributes:
        value: On the log itself, currency.
        replicates: `(replicates,)`, currency.
        empty_share: Share of the drawn replicates that were left out because a term had no weight in them.
        num_clusters, num_weeks: Number of decision units, and of calendar weeks that were resampled (1 = none).
    """

    value: float
    replicates: np.ndarray
    empty_share: float
    num_clusters: int
    num_weeks: int

    def interval(self, level: float = 0.9) -> Interval:
        """Percentile interval, wider where there are few decision units or weeks (`widen_tail`).

        Args:
            level: Nominal coverage in (0, 1).

        Returns:
            Value and both ends; the lower end is a one-sided bound of level (1 + level) / 2.

        Raises:
            ValueError: If `level` is outside (0, 1).
        """
        _check_level(level)
        groups = min(self.num_clusters, self.num_weeks) if self.num_weeks > 1 else self.num_clusters
        tail = widen_tail((1.0 - level) / 2.0, groups)
        lower, upper = np.quantile(self.replicates, [tail, 1.0 - tail])
        return Interval(self.value, float(lower), float(upper))


def widen_tail(tail: float, groups: int) -> float:
    """Share of bootstrap replicates to leave out on one side so that a mean of few groups is missed as often as asked.

    Resampled means of n groups have too small a spread, by sqrt((n - 1) / n), and normal tails where Student's are due:
    of 60 groups a plain percentile interval of 0.90 covers 0.89, of 10 it covers 0.84.

    Args:
        tail: Asked for, in (0, 0.5].
        groups: Decision units (or weeks, if fewer) that are resampled, 2 or more.

    Returns:
        A smaller share.

    References:
        Hesterberg 2015, "What teachers should know about the bootstrap", The American Statistician 69(4) ("expanded
        percentile interval").
    """
    return float(norm.cdf(np.sqrt(groups / (groups - 1.0)) * student.ppf(tail, groups - 1)))


def bootstrap_value(
    contributions: Contributions, resample_weeks: bool = True, replicates: int = 1000, seed: int = 0
) -> BootstrapDraws:
    """Bootstrap over decision units, two-way with calendar weeks.

    Prices are decided per product and price zone and demand shocks hit all of a week at once, so rows are not
    independent. Whole units and whole weeks are drawn with replacement; a row counts with the product of both
    multiplicities (pigeonhole bootstrap). Every ratio is formed anew in each replicate. A term that is a week of its
    own (a step of a self-normalised sum) counts with the multiplicity of its week.

    Two-way, the interval allows for weeks that differ; where weeks really do not matter it is conservative (up to
    sqrt(3) too wide for pure noise), while an interval that ignores weeks is wrong without a bound.

    Args:
        contributions: Of the estimate, or of a paired difference.
        resample_weeks: False = decision units only: the value of these very weeks.
        replicates: Number of replicates.
        seed: Seed of the draws; estimates from the same log share their draws.

    Returns:
        The replicates.

    Raises:
        ValueError: If there is one decision unit only, or more than 5 % of the replicates leave a term without weight
            (`RefusalError`).

    References:
        Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2).
    """
    clusters, weeks = contributions.num_clusters, contributions.num_weeks
    if clusters < 2:
        raise ValueError("there is one decision unit only; nothing can be resampled")
    rng = np.random.default_rng(seed)
    cells = _gather_cells(contributions, resample_weeks)
    drawn = []
    at_once = max(1, min(replicates, _CELLS_AT_ONCE // max(clusters, len(cells.weeks))))
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        unit_counts = _draw_multiplicities(rng, size, clusters)
        # The last column stands for rows and terms without a week, which are always there once (NO_WEEK = -1).
        week_counts = np.ones((size, weeks + 1))
        if resample_weeks:
            week_counts[:, :weeks] = _draw_multiplicities(rng, size, weeks)
        column_weights = week_counts[:, cells.weeks]
        top, bottom = (
            np.add.reduceat((unit_counts @ part) * column_weights, cells.starts, axis=1)
            for part in (cells.numerators, cells.denominators)
        )
        full = np.all(bottom > 0.0, axis=1)
        term_weights = week_counts[full][:, contributions.term_weeks]
        drawn.append((term_weights * top[full] / bottom[full]).sum(axis=1))
    found = np.concatenate(drawn)
    empty = 1.0 - len(found) / replicates
    refuse_empty_replicates(empty)
    return BootstrapDraws(contributions.value, found, empty, clusters, weeks if resample_weeks else 1)


def refuse_empty_replicates(empty_share: float) -> None:
    """Refuse an interval whose replicates too often hold none of the policy's decisions.

    What is left of them repeats the few units that carry weight: their spread is far too small, with one such unit 0.

    Args:
        empty_share: Share of the replicates without weight, in [0, 1].

    Raises:
        RefusalError: If it exceeds `MOST_EMPTY_REPLICATES`.
    """
    if empty_share > MOST_EMPTY_REPLICATES:
        raise RefusalError(
            f"{empty_share:.0%} of the replicates leave a term without any weight: the target policy's decisions rest"
            " on too few units"
        )


def compute_clustered_error(contributions: Contributions, two_way: bool = True) -> float:
    """Standard error of a value from its influence values, clustered by decision unit and week.

    Variance by unit plus variance by week minus variance by cell, never below that by unit.

    Args:
        contributions: Of the estimate.
        two_way: False = by decision unit only.

    Returns:
        Standard error, currency.

    References:
        Cameron, Gelbach and Miller 2011, "Robust inference with multiway clustering".
    """
    rows, clusters, weeks = contributions.row_influences, contributions.num_clusters, contributions.num_weeks
    by_unit = _scaled_squares(np.bincount(contributions.clusters, rows, minlength=clusters))
    if not two_way or weeks < 2:
        return float(np.sqrt(by_unit))
    dated = contributions.weeks != NO_WEEK
    week_sums = np.bincount(contributions.weeks[dated], rows[dated], minlength=weeks)
    # Terms that are weeks of their own: the week is in the ratio, around the mean of such ratios.
    owned = contributions.term_weeks != NO_WEEK
    if owned.any():
        values = contributions.term_values[owned]
        week_sums += np.bincount(contributions.term_weeks[owned], values - values.mean(), minlength=weeks)
    cells = np.bincount(contributions.clusters[dated] * weeks + contributions.weeks[dated], rows[dated])
    return float(np.sqrt(max(by_unit, by_unit + _scaled_squares(week_sums) - float((cells**2).sum()))))


def estimate_t_interval(contributions: Contributions, level: float = 0.9, two_way: bool = True) -> Interval:
    """Student interval from influence values: a check on the bootstrap.

    Args:
        contributions: Of the estimate.
        level: Nominal coverage in (0, 1).
        two_way: Clustered by decision unit and week; False = by decision unit only.

    Returns:
        Value and both ends, with one degree of freedom less than there are units (two-way: the fewer of units, weeks).

    Raises:
        ValueError: If there is one decision unit only, too few units or weeks carry the weight of a term
            (`RefusalError`), or `level` is outside (0, 1).

    References:
        Kish 1965, "Survey Sampling" (as many equally weighted units as say as much).
    """
    _check_level(level)
    if contributions.num_clusters < 2:
        raise ValueError("there is one decision unit only; its contributions have no spread")
    _refuse_concentrated_weight(contributions, two_way)
    groups = contributions.num_clusters
    if two_way and contributions.num_weeks > 1:
        groups = min(groups, contributions.num_weeks)
    reach = student.ppf((1.0 + level) / 2.0, groups - 1) * compute_clustered_error(contributions, two_way)
    return Interval(contributions.value, float(contributions.value - reach), float(contributions.value + reach))


def estimate_bernstein_interval(
    contributions: Contributions, bounds: tuple[float, float], level: float = 0.9
) -> Interval:
    """Empirical Bernstein interval: holds at any sample size for independent contributions that are bounded.

    It asks for no normal law and pays for it: several times as wide as the bootstrap on ordinary logs. Exact for means
    of decision units of one size; for ratios it applies to the linearised influence values.

    Args:
        contributions: Of the estimate.
        bounds: Lowest and highest possible influence value of a decision unit, currency; they must be known beforehand,
            not read from the log.
        level: Nominal coverage in (0, 1).

    Returns:
        Value and both ends.

    Raises:
        ValueError: If an influence value is out of bounds by more than rounding, there is one unit only or `level` is
            outside (0, 1).

    References:
        Maurer and Pontil 2009, "Empirical Bernstein bounds and sample variance penalization", arXiv:0907.3740.
    """
    _check_level(level)
    values, (low, high) = contributions.cluster_influences, bounds
    count = len(values)
    if count < 2:
        raise ValueError("there is one decision unit only; its contributions have no spread")
    slack = ROUNDING * max(abs(low), abs(high))
    if values.min() < low - slack or values.max() > high + slack:
        raise ValueError(f"influence values span {values.min():g} to {values.max():g}; bounds are ({low:g}, {high:g})")
    logarithm = np.log(4.0 / (1.0 - level))  # each side may fail with half of 1 - level
    reach = np.sqrt(2.0 * values.var(ddof=1) * logarithm / count) + 7.0 * (high - low) * logarithm / (3.0 * (count - 1))
    return Interval(contributions.value, float(contributions.value - reach), float(contributions.value + reach))


def count_price_episodes(prices: np.ndarray, clusters: np.ndarray, observed: np.ndarray | None = None) -> int:
    """Number of distinct price episodes: stretches of one price of one decision unit.

    Weeks within an episode repeat one decision. Units of one cluster that change price in the same step share the
    decision, which then counts once.

    Args:
        prices: Currency per unit, `(units, periods)`, columns in calendar order.
        clusters: Decision unit of each row, labels, `(units,)`.
        observed: True = a price was charged, bool, `(units, periods)`; None = everywhere.

    Returns:
        First prices and changes, summed over decision units.

    Raises:
        ValueError: If shapes differ.
    """
    prices, codes = np.asarray(prices, dtype=np.float64), np.unique(clusters, return_inverse=True)[1]
    seen = np.isfinite(prices) if observed is None else np.asarray(observed, bool)
    if prices.ndim != 2 or seen.shape != prices.shape or codes.shape != prices.shape[:1]:
        raise ValueError(f"prices {prices.shape}, clusters {codes.shape} and observed {seen.shape} do not fit together")
    last = np.full(len(prices), np.nan)
    episodes = 0
    for step in range(prices.shape[1]):
        moved = seen[:, step] & (prices[:, step] != last)  # NaN differs from everything: the first price counts
        episodes += len(np.unique(codes[moved]))
        last = np.where(seen[:, step], prices[:, step], last)
    return episodes


class _Cells(NamedTuple):
    """Contributions summed over the rows that are always drawn together: one cluster, and a term's week.

    Attributes:
        numerators, denominators: `(clusters, columns)`, a column per term and week that its rows are drawn by.
        weeks: Week of each column, or `NO_WEEK`, `(columns,)`.
        starts: First column of each term, `(terms,)`.
    """

    numerators: np.ndarray
    denominators: np.ndarray
    weeks: np.ndarray
    starts: np.ndarray


def _gather_cells(contributions: Contributions, resample_weeks: bool) -> _Cells:
    by_term = contributions.term_weeks[contributions.terms] != NO_WEEK
    weeks = np.where(by_term | (not resample_weeks), NO_WEEK, contributions.weeks)
    base = contributions.num_weeks + 1
    columns, place = np.unique(contributions.terms * base + weeks + 1, return_inverse=True)
    shape = contributions.num_clusters, len(columns)
    cells = contributions.clusters * shape[1] + place
    parts = [
        np.bincount(cells, values, minlength=shape[0] * shape[1]).reshape(shape)
        for values in (contributions.numerators, contributions.denominators)
    ]
    starts = np.flatnonzero(np.diff(columns // base, prepend=-1))
    return _Cells(parts[0], parts[1], columns % base - 1, starts)


def _refuse_concentrated_weight(contributions: Contributions, two_way: bool) -> None:
    """Influence values of a ratio vanish where one unit has all of its weight: the error would be 0.

    The bound is the bootstrap's: of as many equally weighted units as say as much, a resampled log would hold none too
    often. Terms that are weeks of their own, and rows without a week, need no other weeks.
    """
    parts = [("decision units", contributions.clusters, contributions.num_clusters, np.ones(len(contributions.terms)))]
    if two_way and contributions.num_weeks > 1:
        shared = (contributions.term_weeks == NO_WEEK) & (contributions.sum_terms(contributions.weeks == NO_WEEK) == 0)
        parts.append(("weeks", contributions.weeks, contributions.num_weeks, shared[contributions.terms]))
    for kind, codes, groups, asked in parts:
        used = np.asarray(asked, dtype=bool)
        if not used.any():
            continue
        terms, places = np.unique(contributions.terms[used], return_inverse=True)
        weights = np.bincount(places * groups + codes[used], contributions.denominators[used], len(terms) * groups)
        by_group = weights.reshape(len(terms), groups)
        worth = float((by_group.sum(axis=1) ** 2 / (by_group**2).sum(axis=1)).min())
        if (1.0 - worth / groups) ** groups > MOST_EMPTY_REPLICATES:
            raise RefusalError(
                f"the weight of a term rests on {worth:.1f} of {groups} {kind} (as many equally weighted ones say as"
                " much): the target policy's decisions rest on too few to tell a spread"
            )


def _draw_multiplicities(rng: np.random.Generator, size: int, groups: int) -> np.ndarray:
    """How often each group is drawn when as many are drawn as there are, with replacement, `(size, groups)`."""
    drawn = rng.integers(groups, size=(size, groups)) + groups * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype(np.float64)


def _scaled_squares(sums: np.ndarray) -> float:
    """Sum of squares of group sums, with the correction for few groups."""
    return float((sums**2).sum() * len(sums) / (len(sums) - 1)) if len(sums) > 1 else float((sums**2).sum())


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; expected a number in (0, 1)")
