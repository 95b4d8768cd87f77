"""Logistic regressions with a normal prior: of a yes or no, and of one among several alternatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_MOST_STEPS = 100
_INTERCEPT_PENALTY = 0.01  # keeps the intercept finite where nothing ever happened
_ROWS_AT_ONCE = 20_000  # bounds memory: regressors of alternatives are (rows, alternatives, columns)

# Value, gradient and information (minus second derivatives) at given coefficients.
Objective = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]
# Regressors `(rows, alternatives, columns)` of the rows at given positions.
Design = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class BinaryRegression:
    """A fitted logistic regression.

    Attributes:
        coefficients: Intercept, then one per standardised column, `(columns + 1,)`.
        centers, scales: Mean and standard deviation of the columns it was fitted to, `(columns,)`.
    """

    coefficients: np.ndarray
    centers: np.ndarray
    scales: np.ndarray

    def compute_logits(self, regressors: np.ndarray) -> np.ndarray:
        """Log odds of `(..., columns)` regressors, `(...)`."""
        return np.asarray(((regressors - self.centers) / self.scales) @ self.coefficients[1:] + self.coefficients[0])


@dataclass(frozen=True)
class ChoiceRegression:
    """A fitted multinomial logistic regression: the utility of an alternative is linear in its regressors.

    Attributes:
        coefficients: One per scaled column, `(columns,)`.
        scales: Spread of the columns between the alternatives of a choice, `(columns,)`.
    """

    coefficients: np.ndarray
    scales: np.ndarray

    def compute_utilities(self, design: Design, rows: np.ndarray) -> np.ndarray:
        """Utilities of the rows at some positions, `(rows, alternatives)`."""
        weights = self.coefficients / self.scales
        return np.concatenate([design(part) @ weights for part in _cut(rows)])


def fit_binary_regression(regressors: np.ndarray, outcomes: np.ndarray, penalty: float = 1.0) -> BinaryRegression:
    """Logistic regression with a normal prior on the coefficients of standardised columns.

    Args:
        regressors: `(rows, columns)`, finite, without a constant.
        outcomes: 1 or 0, `(rows,)`.
        penalty: Precision of the prior, > 0; the intercept's is 0.01.

    Returns:
        The fit.

    Raises:
        ValueError: If there are no rows, shapes differ, a regressor is not finite or the penalty not positive.

    References:
        Hoerl and Kennard 1970 (ridge); le Cessie and van Houwelingen 1992 (in logistic regression).
    """
    _check(regressors, len(outcomes), penalty)
    centers = regressors.mean(axis=0)
    scales = _positive(regressors.std(axis=0))
    columns = np.column_stack([np.ones(len(outcomes)), (regressors - centers) / scales])
    penalties = np.full(columns.shape[1], penalty)
    penalties[0] = _INTERCEPT_PENALTY

    def evaluate(coefficients: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        logits = columns @ coefficients
        chances = 0.5 * (1.0 + np.tanh(0.5 * logits))
        value = float((outcomes * logits - np.logaddexp(0.0, logits)).sum())
        information = columns.T @ ((chances * (1.0 - chances))[:, None] * columns)
        return value, columns.T @ (outcomes - chances), information

    return BinaryRegression(climb(evaluate, penalties), centers, scales)


def fit_choice_regression(
    design: Design, rows: np.ndarray, chosen: np.ndarray, available: np.ndarray, penalty: float = 1.0
) -> ChoiceRegression:
    """Multinomial logistic regression with a normal prior on the coefficients of scaled columns.

    Args:
        design: Regressors of the rows at given positions.
        rows: Positions of the rows to fit to, int, `(rows,)`.
        chosen: Alternative that was taken in each of them, int, `(rows,)`.
        available: True = could have been taken, bool, `(rows, alternatives)`.
        penalty: Precision of the prior, > 0.

    Returns:
        The fit.

    Raises:
        ValueError: If there are no rows, a regressor is not finite, or a choice was not available.

    References:
        McFadden 1974, "Conditional logit analysis of qualitative choice behavior".
    """
    parts = [np.arange(len(rows))[part] for part in _cut(np.arange(len(rows)))]
    probe = design(rows[:1])
    _check(probe.reshape(-1, probe.shape[-1]), len(rows) and probe.shape[1], penalty)
    if not available[np.arange(len(rows)), chosen].all():
        raise ValueError("a chosen alternative is marked as not available; both speak of the same rows")
    spread = np.zeros(probe.shape[-1])
    for part in parts:
        _, deviations = _center(design(rows[part]), available[part] / available[part].sum(axis=1, keepdims=True))
        spread += (deviations**2 * (available[part] / available[part].sum(axis=1, keepdims=True))[..., None]).sum(
            (0, 1)
        )
    if not np.isfinite(spread).all():
        raise ValueError("a regressor of an alternative is not finite; fill in or drop unknown values before the fit")
    scales = _positive(np.sqrt(spread / len(rows)))

    def evaluate(coefficients: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient = 0.0, np.zeros_like(scales)
        information = np.zeros((len(scales), len(scales)))
        for part in parts:
            regressors = design(rows[part]) / scales
            logs = compute_log_shares(regressors @ coefficients, available[part])
            here = np.arange(len(part))
            value += float(logs[here, chosen[part]].sum())
            shares = np.exp(logs)
            means, deviations = _center(regressors, shares)
            gradient += (regressors[here, chosen[part]] - means).sum(axis=0)
            weighted = (deviations * np.sqrt(shares)[..., None]).reshape(-1, len(scales))
            information += weighted.T @ weighted
        return value, gradient, information

    return ChoiceRegression(climb(evaluate, np.full(len(scales), penalty)), scales)


def compute_log_shares(utilities: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Log probabilities of alternatives: softmax over those that are available, minus infinity for the others.

    Args:
        utilities: `(rows, alternatives)`.
        available: bool, same shape; at least one in every row.

    Returns:
        `(rows, alternatives)`.
    """
    open_ones = np.where(available, utilities, -np.inf)
    top = open_ones.max(axis=1, keepdims=True)
    return np.asarray(open_ones - top - np.log(np.exp(open_ones - top).sum(axis=1, keepdims=True)))


def climb(objective: Objective, penalties: np.ndarray) -> np.ndarray:
    """Newton's method with halved steps; the penalised likelihood is strictly concave."""
    place = np.zeros(len(penalties))
    value, gradient, information = objective(place)
    for _ in range(_MOST_STEPS):
        slope = gradient - penalties * place
        step = np.linalg.solve(information + np.diag(penalties), slope)
        gain = float(slope @ step)
        if gain <= 1e-10 * (1.0 + abs(value)):
            return place
        share, before = 1.0, value - 0.5 * float(penalties @ place**2)
        while True:
            moved = place + share * step
            value, gradient, information = objective(moved)
            if value - 0.5 * float(penalties @ moved**2) >= before + 1e-4 * share * gain:
                break
            share /= 2.0
            if share < 1e-10:
                raise ValueError("Newton's method found no uphill step; look for regressors of very different size")
        place = moved
    raise ValueError(f"Newton's method has not converged after {_MOST_STEPS} steps (log likelihood {value:.6g})")


def _center(regressors: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean regressors of each row under some shares, `(rows, columns)`, and deviations from them."""
    means = np.einsum("ra,rac->rc", shares, regressors)
    return means, regressors - means[:, None]


def _positive(spreads: np.ndarray) -> np.ndarray:
    """Spreads, 1 where a column does not vary."""
    return np.where(spreads > 1e-12, spreads, 1.0)


def _cut(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _ROWS_AT_ONCE] for start in range(0, max(len(rows), 1), _ROWS_AT_ONCE)]


def _check(regressors: np.ndarray, count: int, penalty: float) -> None:
    if regressors.ndim != 2 or len(regressors) != count or count == 0:
        raise ValueError(f"regressors have shape {regressors.shape} for {count} outcomes; expected (rows, columns)")
    if not np.isfinite(regressors).all():
        column = int(np.argwhere(~np.isfinite(regressors))[0, 1])
        raise ValueError(f"column {column} of the regressors is not finite; fill in or drop unknown values")
    if not penalty > 0.0:
        raise ValueError(f"penalty is {penalty}; it must be greater than 0")
