"""An estimate taken apart: which decision unit and which week contributed what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pricing_fm.errors import UserError

NO_WEEK = -1  # of a row that no calendar week has a part in, such as a model's value of the first state


class RefusalError(UserError):
    """There is no answer: the log holds too few, or none, of the decisions that a number would rest on.

    Likewise where no experiment is large enough. Unlike other errors it says nothing against the call, and may be
    counted.
    """


@dataclass(frozen=True)
class Contributions:
    """An estimate as a sum of ratios: `sum over terms of (sum of numerators / sum of denominators)`.

    Means, self-normalised means and per-step self-normalised sums all have this form, so that one bootstrap can
    renormalise each of them inside the replicate. Rows that only move the numerator have the denominator 0.

    Attributes:
        numerators, denominators: `(rows,)`.
        clusters: Decision unit of each row, codes 0 ... C - 1, int64, `(rows,)`.
        weeks: Calendar week of each row, codes 0 ... W - 1 or `NO_WEEK`, int64, `(rows,)`.
        terms: Term of each row, codes 0 ... K - 1, int64, never falling, `(rows,)`.
        num_clusters, num_weeks: C and W.

    Raises:
        ValueError: If shapes differ, a number is not finite or a term has no positive denominator (`RefusalError`).
    """

    numerators: np.ndarray
    denominators: np.ndarray
    clusters: np.ndarray
    weeks: np.ndarray
    terms: np.ndarray
    num_clusters: int
    num_weeks: int

    def __post_init__(self) -> None:
        columns = (self.numerators, self.denominators, self.clusters, self.weeks, self.terms)
        if len({column.shape for column in columns}) != 1 or self.terms.ndim != 1 or len(self.terms) == 0:
            raise ValueError(f"columns have shapes {[column.shape for column in columns]}; expected one length >= 1")
        if np.any(np.diff(self.terms) < 0) or self.terms[0] != 0 or np.any(np.diff(self.terms) > 1):
            raise ValueError("terms must be codes 0, 1, ... in never falling order")
        if not (np.isfinite(self.numerators).all() and np.isfinite(self.denominators).all()):
            raise ValueError("contributions must be finite")
        if not np.all(self.sum_terms(self.denominators) > 0.0):
            raise RefusalError("a term has no weight: the target policy takes none of its logged actions")

    @cached_property
    def starts(self) -> np.ndarray:
        """Position of the first row of each term, `(terms,)`."""
        return np.flatnonzero(np.diff(self.terms, prepend=-1))

    def sum_terms(self, values: np.ndarray) -> np.ndarray:
        """Sums over the rows (last axis) of each term, `(..., terms)`."""
        return np.add.reduceat(values, self.starts, axis=-1)

    @cached_property
    def term_values(self) -> np.ndarray:
        """Ratio of each term, `(terms,)`."""
        return self.sum_terms(self.numerators) / self.sum_terms(self.denominators)

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.term_values.sum())

    @cached_property
    def term_weeks(self) -> np.ndarray:
        """Week of the terms whose rows all lie in one week, `NO_WEEK` for others, `(terms,)`.

        Such a term is a draw of its week as a whole: drawing the week twice counts the ratio twice, which weights on
        its rows could not do.
        """
        lowest = np.minimum.reduceat(self.weeks, self.starts)
        highest = np.maximum.reduceat(self.weeks, self.starts)
        return np.where((lowest == highest) & (len(self.starts) > 1), lowest, NO_WEEK)

    @cached_property
    def row_influences(self) -> np.ndarray:
        """First-order change of the estimate with the weight of each row, `(rows,)`; sums to zero in every term."""
        ratio, total = self.term_values[self.terms], self.sum_terms(self.denominators)[self.terms]
        return (self.numerators - ratio * self.denominators) / total

    @property
    def cluster_influences(self) -> np.ndarray:
        """Influence value of each decision unit, `(clusters,)`: their mean is the estimate.

        For a mean with clusters of one size these are the clusters' own means; for ratios the linearised ones
        (Hampel 1974), whose standard error is that of the estimate to first order.
        """
        sums = np.bincount(self.clusters, weights=self.row_influences, minlength=self.num_clusters)
        return self.value + self.num_clusters * sums


class Rows(NamedTuple):
    """Rows of one term, arrays of the same shape.

    Attributes:
        numerators, denominators: Numbers.
        clusters: Codes.
        weeks: Codes or `NO_WEEK`.
    """

    numerators: np.ndarray
    denominators: np.ndarray
    clusters: np.ndarray
    weeks: np.ndarray


def build_contributions(terms: Sequence[Sequence[Rows]], num_clusters: int, num_weeks: int) -> Contributions:
    """Stack blocks of rows, a list per term, into `Contributions`.

    Args:
        terms: For each term its blocks of rows.
        num_clusters: Number of decision units.
        num_weeks: Number of calendar weeks.

    Returns:
        The contributions.
    """
    blocks = [(code, rows) for code, term in enumerate(terms) for rows in term]
    columns = [
        np.concatenate([np.ravel(np.broadcast_to(rows[column], np.shape(rows.clusters))) for _, rows in blocks])
        for column in range(4)
    ]
    codes = np.concatenate([np.full(np.size(rows.clusters), code) for code, rows in blocks])
    return Contributions(
        columns[0].astype(np.float64),
        columns[1].astype(np.float64),
        columns[2].astype(np.int64),
        columns[3].astype(np.int64),
        codes,
        num_clusters,
        num_weeks,
    )


def subtract_contributions(first: Contributions, second: Contributions) -> Contributions:
    """Difference of two estimates from the same log, paired: what both share cancels in every replicate.

    Args:
        first: Contributions of the one, such as a candidate policy.
        second: Contributions of the other, such as the manager, with the same clusters and weeks.

    Returns:
        Contributions whose value is the first minus the second.

    Raises:
        ValueError: If clusters or weeks differ in number.
    """
    if (first.num_clusters, first.num_weeks) != (second.num_clusters, second.num_weeks):
        raise ValueError(
            f"estimates speak of {first.num_clusters} x {first.num_weeks} and {second.num_clusters} x"
            f" {second.num_weeks} clusters x weeks; a paired difference needs the same log"
        )
    return Contributions(
        np.concatenate([first.numerators, -second.numerators]),
        np.concatenate([first.denominators, second.denominators]),
        np.concatenate([first.clusters, second.clusters]),
        np.concatenate([first.weeks, second.weeks]),
        np.concatenate([first.terms, second.terms + first.terms[-1] + 1]),
        first.num_clusters,
        first.num_weeks,
    )


@dataclass(frozen=True)
class PolicyValue:
    """What a policy would have earned per unit over the horizon, as one estimator sees it.

    Attributes:
        estimator: Name of the estimator.
        contributions: Who and when contributed what.
        effective_sample_size: Equally weighted units that say as much; the number of units where nothing is weighted.
        trimmed_mass: Share of the target policy's weight below the propensity floor; 0 where nothing is weighted.
    """

    estimator: str
    contributions: Contributions
    effective_sample_size: float
    trimmed_mass: float = 0.0

    @property
    def value(self) -> float:
        """Mean discounted reward of a unit over the horizon, currency."""
        return self.contributions.value


@dataclass(frozen=True)
class NotIdentified:
    """The answer that the log cannot tell.

    Attributes:
        estimator: Name of the estimator that was asked.
        reasons: Why not, in sentences a manager can read; at least one.
    """

    estimator: str
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise ValueError("an answer that is not identified needs a reason")
