"""Regression of censored counts: maximum likelihood by Newton's method, with the influence of every row.

`log mean = offset + design x coefficients + effect of the row's group`. Groups (items) have an effect each, eliminated
from the equations, so that thousands of items cost no more than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from pricing_fm.evaluation.off_policy.censored_counts import CensoredCounts, CountTerms, compute_count_terms

_OVERDISPERSION_BOUNDS = (1e-4, 100.0)  # below the lower one counts are Poisson, above the upper one no law fits
_FIRST_OVERDISPERSION = 0.05  # where the search begins
_MOST_STEPS = 200
_LARGEST_LOG_MEAN = 30.0  # exp(30) units a week: nothing is sold at such a rate, the fit runs away
_STEP_IN_LOG_DISPERSION = 1e-4
_LARGEST_CONDITION = 1e10


class FitError(ValueError):
    """A regression has no maximum, or its maximum was not found; the message says which and what to do."""


@dataclass(frozen=True)
class CountRows:
    """Rows of a regression.

    Attributes:
        counts: What was seen, arrays `(rows,)`.
        design: Regressors, `(rows, columns)`; finite, 0 columns allowed with groups.
        offset: Known part of the log mean, `(rows,)`.
        groups: Codes 0, 1, ... of the groups with an effect each, `(rows,)`; None = no group effects.
        group_penalty: Precision of a normal prior of the group effects around 0, >= 0. With a penalty the design may
            hold a constant, and groups that never sold or always sold out have an effect all the same.
        weights: Weight of each row, >= 0, `(rows,)`; None = 1.
        names: Name of each column, for messages; None = its position.

    Raises:
        ValueError: If shapes differ or a number is missing.
    """

    counts: CensoredCounts
    design: np.ndarray
    offset: np.ndarray
    groups: np.ndarray | None = None
    group_penalty: float = 0.0
    weights: np.ndarray | None = None
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        rows = self.counts.units.shape
        if len(rows) != 1 or self.design.shape[:1] != rows or self.design.ndim != 2 or self.offset.shape != rows:
            raise ValueError(
                f"counts {rows}, design {self.design.shape} and offset {self.offset.shape} do not fit together"
            )
        if self.groups is not None and self.groups.shape != rows:
            raise ValueError(f"groups have shape {self.groups.shape}; expected {rows}")
        if not (np.isfinite(self.design).all() and np.isfinite(self.offset).all() and self.group_penalty >= 0.0):
            raise ValueError("design and offset must be finite, the group penalty 0 or more")
        weights = self.counts.informative.astype(np.float64)
        if self.weights is not None:
            weights = weights * self.weights
        object.__setattr__(self, "weights", weights)
        if not weights.sum() > 0:
            raise FitError("no week says anything about demand: all are without stock or without sales data")

    @property
    def num_groups(self) -> int:
        """Number of groups; 0 without group effects."""
        return 0 if self.groups is None else int(self.groups.max()) + 1

    def sum_groups(self, values: np.ndarray) -> np.ndarray:
        """Sums of `(rows,)` or `(rows, columns)` over the rows of each group."""
        if values.ndim == 2:
            columns = [self.sum_groups(column) for column in values.T]
            return np.stack(columns, axis=1) if columns else np.zeros((self.num_groups, 0))
        return np.bincount(np.asarray(self.groups), values, minlength=self.num_groups)

    def compute_log_mean(self, coefficients: np.ndarray, effects: np.ndarray) -> np.ndarray:
        """Log of mean demand of every row, `(rows,)`."""
        log_mean = self.offset + self.design @ coefficients
        return log_mean if self.groups is None else log_mean + effects[self.groups]


@dataclass(frozen=True)
class CountRegression:
    """A fitted regression.

    Attributes:
        coefficients: `(columns,)`.
        effects: Effect of each group, `(groups,)`; empty without groups.
        overdispersion: Variance is `mean + overdispersion mean**2`; 0 = Poisson.
        is_dispersion_fitted: True = the overdispersion is an estimate and not 0.
        log_likelihood: At the maximum, without the prior of the group effects.
    """

    coefficients: np.ndarray
    effects: np.ndarray
    overdispersion: float
    is_dispersion_fitted: bool
    log_likelihood: float


def fit_count_regression(rows: CountRows, overdispersion: float | None = None) -> CountRegression:
    """Maximum likelihood of a negative binomial (or Poisson) regression with censored counts.

    The likelihood is concave in the coefficients for a given overdispersion; that is found as the root of the profile
    score. Where the counts vary no more than Poisson counts the answer is Poisson.

    Args:
        rows: The data.
        overdispersion: None = estimated; 0 = Poisson; a number = held.

    Returns:
        The fit.

    Raises:
        FitError: If columns are collinear, every informative week sold out, a level of a column (or a group without
            penalty) never sold, or the overdispersion exceeds 100.

    References:
        Lawless 1987 (negative binomial regression); Cameron and Trivedi 2013, "Regression analysis of count data",
        chapter 3; Terza 1985 (censoring).
    """
    _check_rank(rows)
    if not (rows.counts.informative & ~rows.counts.censored & (np.asarray(rows.weights) > 0)).any():
        raise FitError("every informative week sold out: demand may be anything above; one week must not have")
    start = _start(rows)
    if overdispersion is not None:
        coefficients, effects = _climb(rows, overdispersion, *start)
        return _finish(rows, coefficients, effects, overdispersion, False)
    best = list(_climb(rows, 0.0, *start))

    def slope(log_dispersion: float) -> float:
        """Profile score: by the envelope theorem the derivative at fitted coefficients."""
        best[:] = _climb(rows, float(np.exp(log_dispersion)), *best)
        return float(_dispersion_scores(rows, rows.compute_log_mean(*best), float(np.exp(log_dispersion))).sum())

    lowest, most = (float(np.log(bound)) for bound in _OVERDISPERSION_BOUNDS)
    low = high = float(np.log(_FIRST_OVERDISPERSION))
    if slope(low) > 0.0:
        # In short steps: at a far too large overdispersion sold-out weeks say that demand has no bound.
        while slope(high := low + np.log(4.0)) > 0.0:
            low = high
            if low > most:
                raise FitError("overdispersion exceeds 100: the design explains next to nothing; add regressors")
    else:
        while slope(low := max(high - np.log(16.0), lowest)) <= 0.0:
            high = low
            if low <= lowest:
                coefficients, effects = _climb(rows, 0.0, *best)
                return _finish(rows, coefficients, effects, 0.0, False)
    found = float(np.exp(brentq(slope, low, high, xtol=1e-7)))
    coefficients, effects = _climb(rows, found, *best)
    return _finish(rows, coefficients, effects, found, True)


@dataclass(frozen=True)
class ParameterInfluences:
    """How each row moves the parameters: `parameter(with the row counted twice) - parameter`, to first order.

    Attributes:
        coefficients: `(rows, columns)`.
        log_overdispersion: `(rows,)`; 0 where it was not fitted.
        own_effect: Move of the own group's effect that does not come through the other parameters, `(rows,)`.
        effect_slopes: Move of each group's effect per unit of the coefficients and, last, of the log overdispersion,
            `(groups, columns + 1)`.
    """

    coefficients: np.ndarray
    log_overdispersion: np.ndarray
    own_effect: np.ndarray
    effect_slopes: np.ndarray


def compute_parameter_influences(rows: CountRows, fit: CountRegression) -> ParameterInfluences:
    """Influence of every row on a fit: inverse information times score.

    Args:
        rows: The data.
        fit: Its fit.

    Returns:
        Influences; those of the coefficients sum to zero over all rows.
    """
    log_mean = rows.compute_log_mean(fit.coefficients, fit.effects)
    terms, columns = compute_count_terms(rows.counts, log_mean, fit.overdispersion), rows.design.shape[1]
    weights = np.asarray(rows.weights)
    score, weight = weights * terms.score, weights * terms.curvature
    cross, own, dispersion_score = np.zeros_like(score), 1.0, np.zeros_like(score)
    if fit.is_dispersion_fitted:
        cross, own = _dispersion_information(rows, log_mean, fit.overdispersion)
        dispersion_score = _dispersion_scores(rows, log_mean, fit.overdispersion)
    information = np.zeros((columns + 1, columns + 1))
    information[:columns, :columns] = rows.design.T @ (weight[:, None] * rows.design)
    information[:columns, columns] = information[columns, :columns] = rows.design.T @ cross
    information[columns, columns] = own
    scores = np.column_stack([rows.design * score[:, None], dispersion_score])
    own_effect, slopes = np.zeros_like(score), np.zeros((0, columns + 1))
    if rows.groups is not None:
        size = rows.sum_groups(weight) + rows.group_penalty
        shared = rows.sum_groups(np.column_stack([rows.design * weight[:, None], cross]))
        slopes = -shared / size[:, None]
        # A group's prior pulls at all of its rows in equal parts, so that its scores sum to zero as well.
        pull = rows.group_penalty * fit.effects / np.maximum(rows.sum_groups((weights > 0).astype(float)), 1.0)
        score = score - np.where(weights > 0, pull[rows.groups], 0.0)
        own_effect = score / size[rows.groups]
        information += shared.T @ slopes
        scores = scores + slopes[rows.groups] * score[:, None]
    moves = np.linalg.solve(information, scores.T).T
    dispersion = moves[:, columns] if fit.is_dispersion_fitted else np.zeros_like(score)
    return ParameterInfluences(moves[:, :columns], dispersion, own_effect, slopes)


def _finish(
    rows: CountRows, coefficients: np.ndarray, effects: np.ndarray, overdispersion: float, is_fitted: bool
) -> CountRegression:
    terms = compute_count_terms(rows.counts, rows.compute_log_mean(coefficients, effects), overdispersion)
    total = float((np.asarray(rows.weights) * terms.log_likelihood).sum())
    return CountRegression(coefficients, effects, overdispersion, is_fitted, total)


def _start(rows: CountRows) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of log counts."""
    target = np.log(rows.counts.units + 0.5) - rows.offset
    root = np.sqrt(np.asarray(rows.weights))
    effects = np.zeros(rows.num_groups)
    if rows.groups is not None and rows.group_penalty == 0.0:
        total = rows.sum_groups(np.asarray(rows.weights))
        effects = rows.sum_groups(root**2 * target) / np.maximum(total, 1.0)
        target = target - effects[rows.groups]
    coefficients = np.linalg.lstsq(rows.design * root[:, None], target * root, rcond=None)[0]
    return coefficients, effects


def _climb(
    rows: CountRows, overdispersion: float, coefficients: np.ndarray, effects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method with halved steps, for a given overdispersion."""
    weights = np.asarray(rows.weights)

    def evaluate(coefficients: np.ndarray, effects: np.ndarray) -> tuple[CountTerms, float]:
        log_mean = np.clip(rows.compute_log_mean(coefficients, effects), -600.0, 600.0)
        terms = compute_count_terms(rows.counts, log_mean, overdispersion)
        value = float((weights * terms.log_likelihood).sum() - 0.5 * rows.group_penalty * (effects**2).sum())
        return terms, value

    terms, value = evaluate(coefficients, effects)
    for _ in range(_MOST_STEPS):
        step, effect_step, gain = _newton_step(rows, weights * terms.score, weights * terms.curvature, effects)
        if gain <= 1e-14 * (1.0 + abs(value)):
            return coefficients + step, effects + effect_step
        share = 1.0
        while True:
            moved, moved_effects = coefficients + share * step, effects + share * effect_step
            new_terms, new_value = evaluate(moved, moved_effects)
            if new_value >= value + 1e-4 * share * gain - 1e-12 * abs(value):
                break
            share /= 2.0
            if share < 1e-12:
                raise FitError("Newton's method found no uphill step; rescale the columns of the design")
        coefficients, effects, terms, value = moved, moved_effects, new_terms, new_value
        _check_bounds(rows, coefficients, effects)
    raise FitError(f"Newton's method has not converged after {_MOST_STEPS} steps (log likelihood {value:.6g})")


def _newton_step(
    rows: CountRows, score: np.ndarray, weight: np.ndarray, effects: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Step of coefficients and effects, and the gain that the quadratic approximation promises (doubled)."""
    gradient = rows.design.T @ score
    information = rows.design.T @ (weight[:, None] * rows.design)
    if rows.groups is None:
        step = np.linalg.solve(information, gradient)
        return step, effects, float(gradient @ step)
    effect_gradient = rows.sum_groups(score) - rows.group_penalty * effects
    size = rows.sum_groups(weight) + rows.group_penalty
    size = np.where(size > 0.0, size, 1.0)  # a group without informative weeks stays where it is
    shared = rows.sum_groups(rows.design * weight[:, None])
    reduced = information - shared.T @ (shared / size[:, None])
    step = np.linalg.solve(reduced, gradient - shared.T @ (effect_gradient / size))
    effect_step = (effect_gradient - shared @ step) / size
    return step, effect_step, float(gradient @ step + effect_gradient @ effect_step)


def _dispersion_scores(rows: CountRows, log_mean: np.ndarray, overdispersion: float) -> np.ndarray:
    """Derivative of each row's log likelihood by the log of the overdispersion; tails have no closed form."""
    values = [
        compute_count_terms(rows.counts, log_mean, overdispersion * np.exp(sign * _STEP_IN_LOG_DISPERSION))
        for sign in (1.0, -1.0)
    ]
    difference = values[0].log_likelihood - values[1].log_likelihood
    return np.asarray(np.asarray(rows.weights) * difference / (2.0 * _STEP_IN_LOG_DISPERSION))


def _dispersion_information(rows: CountRows, log_mean: np.ndarray, overdispersion: float) -> tuple[np.ndarray, float]:
    """Minus the second derivatives by log overdispersion and log mean (per row), and by log overdispersion twice."""
    wide = 50.0 * _STEP_IN_LOG_DISPERSION  # second differences need a longer step
    low, here, high = (
        compute_count_terms(rows.counts, log_mean, overdispersion * np.exp(sign * wide)) for sign in (-1.0, 0.0, 1.0)
    )
    weights = np.asarray(rows.weights)
    cross = -weights * (high.score - low.score) / (2.0 * wide)
    second = weights * (high.log_likelihood - 2.0 * here.log_likelihood + low.log_likelihood) / wide**2
    return cross, float(-second.sum())


def _check_rank(rows: CountRows) -> None:
    design = rows.design * np.sqrt(np.asarray(rows.weights))[:, None]
    if rows.groups is not None and rows.group_penalty == 0.0:
        total = np.maximum(rows.sum_groups(np.asarray(rows.weights)), 1e-300)
        centre = rows.sum_groups(rows.design * np.asarray(rows.weights)[:, None]) / total[:, None]
        design = (rows.design - centre[rows.groups]) * np.sqrt(np.asarray(rows.weights))[:, None]
    scale = np.sqrt((rows.design**2).sum(axis=0))
    kept = np.where(scale > 0, scale, 1.0)
    if not design.shape[1]:
        return
    _, sizes, directions = np.linalg.svd(design / kept, full_matrices=False)
    if len(sizes) < design.shape[1] or sizes[-1] * _LARGEST_CONDITION < max(sizes[0], 1e-300) or np.any(scale == 0):
        worst = np.flatnonzero(np.abs(directions[-1]) > 0.1)
        raise FitError(f"columns {_name(rows, worst)} are collinear (with each other or the groups); drop one of them")


def _check_bounds(rows: CountRows, coefficients: np.ndarray, effects: np.ndarray) -> None:
    log_mean = rows.compute_log_mean(coefficients, effects)[np.asarray(rows.weights) > 0]
    if np.abs(log_mean).max() > _LARGEST_LOG_MEAN:
        spread = np.abs(coefficients) * np.abs(rows.design).max(axis=0, initial=0.0)
        place = f"column {_name(rows, np.array([spread.argmax()]))}" if len(spread) else "a group"
        if len(effects) and np.abs(effects).max() > spread.max(initial=0.0):
            place = f"the effect of group {int(np.abs(effects).argmax())}"
        raise FitError(
            f"the likelihood rises for ever: {place} runs away, as where a level never sold or always sold out;"
            " drop the level or give group effects a penalty"
        )


def _name(rows: CountRows, columns: np.ndarray) -> str:
    return ", ".join(repr(rows.names[i]) if rows.names is not None else str(i) for i in columns)
