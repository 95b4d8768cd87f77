"""Fitted Q evaluation: the value of a stochastic policy by regression, step after step.

Two things are easily done wrong. The value of the next state is the policy's *expectation* over its actions: the best
action's value belongs to another policy. Several critics are *averaged*: their minimum is pessimism that a learner may
want, and a bias that an evaluation must not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import PolicyValue, RefusalError
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories, ModelValues
from pricing_fm.evaluation.off_policy.rows import build_corrected_mean

Prediction = Callable[[np.ndarray], np.ndarray]  # features (rows, features) -> values (rows,)


class Critic(Protocol):
    """A regression of values on features."""

    def fit(self, features: np.ndarray, targets: np.ndarray) -> Prediction:
        """Fit targets `(rows,)` on features `(rows, features)` and return the prediction."""


@dataclass(frozen=True)
class LeastSquares:
    """Linear critic; exact where values are linear in the features, as with one feature per state and action.

    Attributes:
        ridge: Penalty on squared coefficients, >= 0, relative to the mean square of the features.

    Raises:
        ValueError: If `ridge` is negative.
    """

    ridge: float = 0.0

    def __post_init__(self) -> None:
        if not self.ridge >= 0.0:
            raise ValueError(f"ridge is {self.ridge}; expected 0 or more")

    def fit(self, features: np.ndarray, targets: np.ndarray) -> Prediction:
        """See `Critic`; without a penalty the solution of least norm."""
        if self.ridge > 0.0:
            size = np.sqrt(self.ridge * len(features) * np.mean(features**2))
            features = np.vstack([features, size * np.eye(features.shape[1])])
            targets = np.concatenate([targets, np.zeros(features.shape[1])])
        coefficients = np.linalg.lstsq(features, targets, rcond=None)[0]
        return lambda rows: np.asarray(rows @ coefficients)


@dataclass(frozen=True)
class DecisionFeatures:
    """States of a log as features of every action that could have been chosen.

    Attributes:
        features: `(units, periods, actions, features)`; numbers at undecided steps are not read.
        target_probabilities: Of every action under the policy to be valued, `(units, periods, actions)`.
        actions: Logged action, codes, `(units, periods)`.

    Raises:
        ValueError: If shapes differ.
    """

    features: np.ndarray
    target_probabilities: np.ndarray
    actions: np.ndarray

    def __post_init__(self) -> None:
        shape = self.features.shape[:3]
        if self.features.ndim != 4 or self.target_probabilities.shape != shape or self.actions.shape != shape[:2]:
            raise ValueError(
                f"features {self.features.shape}, target_probabilities {self.target_probabilities.shape} and actions"
                f" {self.actions.shape} do not fit together"
            )

    @property
    def taken(self) -> np.ndarray:
        """Features of the logged actions, `(units, periods, features)`."""
        return np.take_along_axis(self.features, self.actions[:, :, None, None], axis=2)[:, :, 0]

    def expect(self, prediction: Prediction, step: int) -> np.ndarray:
        """Expected value of the target policy's action at a step, `(units,)`: the mean over actions, not the best."""
        units, _, actions, size = self.features.shape
        values = prediction(self.features[:, step].reshape(-1, size)).reshape(units, actions)
        return np.asarray((self.target_probabilities[:, step] * values).sum(axis=1))


def fit_q_backward(
    log: LoggedTrajectories,
    decisions: DecisionFeatures,
    critics: Sequence[Critic],
    teachers: np.ndarray | None = None,
) -> ModelValues:
    """Values of the target policy over the log's own horizon, a regression per step from the last to the first.

    Args:
        log: The log.
        decisions: Its states as features.
        critics: Each runs through all steps on its own; their values are averaged.
        teachers: True = the regressions learn from the unit, bool, `(units,)`; None = from all.

    Returns:
        Mean values over critics; nothing comes after the last step.

    Raises:
        ValueError: If shapes differ, there is no critic, or nothing was decided at a step.

    References:
        Le, Voloshin and Yue 2019, "Batch policy learning under constraints", arXiv:1903.08738 (fitted Q evaluation).
    """
    _check(log, decisions, critics)
    units, periods = log.shape
    learned_from = np.ones(units, dtype=bool) if teachers is None else np.asarray(teachers, dtype=bool)
    action_values, expected_values = np.zeros(log.shape), np.zeros(log.shape)
    taken = decisions.taken
    for critic in critics:
        ahead = np.zeros(units)
        for step in reversed(range(periods)):
            here = log.mask[:, step]
            known = here & learned_from
            if not known.any():
                raise ValueError(f"nothing was decided at step {step}; leave the step out of the log")
            prediction = critic.fit(taken[known, step], (log.rewards[:, step] + log.discount * ahead)[known])
            ahead = np.where(here, _expect_where(decisions, prediction, step, here), log.discount * ahead)
            action_values[:, step] += _predict_where(prediction, taken[:, step], here) / len(critics)
            expected_values[:, step] += ahead / len(critics)
    return ModelValues(action_values, expected_values)


def cross_fit_q(
    log: LoggedTrajectories, decisions: DecisionFeatures, critics: Sequence[Critic], folds: int = 2, seed: int = 0
) -> ModelValues:
    """`fit_q_backward` with every decision unit valued by regressions on the others, as doubly robust estimates need.

    Args:
        log: The log.
        decisions: Its states as features.
        critics: See `fit_q_backward`.
        folds: Parts that the decision units are dealt out to.
        seed: Of the parts.

    Returns:
        Values of each unit by the regressions of the other parts.

    Raises:
        ValueError: If there are fewer decision units than folds, or see `fit_q_backward`.

    References:
        Chernozhukov et al. 2018, "Double/debiased machine learning".
    """
    if not 2 <= folds <= log.num_clusters:
        raise ValueError(f"folds is {folds}; expected 2 or more and at most the {log.num_clusters} decision units")
    part = (np.random.default_rng(seed).permutation(log.num_clusters) % folds)[log.cluster_codes]
    action_values, expected_values = np.zeros(log.shape), np.zeros(log.shape)
    for fold in range(folds):
        judged = part == fold
        values = fit_q_backward(log, decisions, critics, teachers=~judged)
        action_values[judged], expected_values[judged] = values.action_values[judged], values.expected_values[judged]
    return ModelValues(action_values, expected_values)


def fit_q_stationary(
    log: LoggedTrajectories,
    decisions: DecisionFeatures,
    critics: Sequence[Critic],
    terminations: np.ndarray,
    max_iterations: int = 2000,
    tolerance: float = 1e-8,
) -> ModelValues:
    """Values of a process that goes on for ever under the target policy, from all steps pooled.

    A step whose next state was not logged (the last one of a log that is merely cut off) has no target and is left
    out of the regression; a step after which the world ended has a next state of value 0.

    Args:
        log: The log, with a decision at every step and a discount below 1.
        decisions: Its states as features.
        critics: Iterated each on its own; their values are averaged.
        terminations: True = the world ended after the step, bool, `(units, periods)`; nothing after it is read.
        max_iterations: Regressions after which the iteration is given up.
        tolerance: Largest change of a fitted value, relative to the largest value, at which it has converged.

    Returns:
        Mean values over critics at every logged state, of the process without end; 0 after the world ended.

    Raises:
        ValueError: If shapes differ, the discount is 1, or the iteration does not converge.

    References:
        Le, Voloshin and Yue 2019, arXiv:1903.08738.
    """
    _check(log, decisions, critics)
    if log.discount >= 1.0 or not log.mask.all() or terminations.shape != log.shape:
        raise ValueError(
            "a process without end needs a discount below 1, every step decided, and terminations per step"
        )
    units, periods = log.shape
    known = terminations.copy()
    known[:, :-1] = True
    ended_before = np.cumsum(terminations, axis=1) - terminations > 0
    known &= ~ended_before
    taken = decisions.taken
    totals = [np.zeros(log.shape), np.zeros(log.shape)]
    for critic in critics:
        expected = np.zeros((units, periods + 1))
        for _ in range(max_iterations):
            following = np.where(terminations, 0.0, expected[:, 1:])
            prediction = critic.fit(taken[known], (log.rewards + log.discount * following)[known])
            updated = np.stack([decisions.expect(prediction, step) for step in range(periods)], axis=1)
            change = np.abs(updated - expected[:, :-1])[~ended_before].max()
            expected[:, :-1] = updated
            if change <= tolerance * max(1.0, np.abs(updated[~ended_before]).max()):
                break
        else:
            raise ValueError(
                f"fitted Q evaluation has not converged after {max_iterations} regressions (last change {change:.3g});"
                " lower the discount, or use features in which it is stable, such as one per state and action"
            )
        totals[0] += prediction(taken.reshape(-1, taken.shape[2])).reshape(log.shape) / len(critics)
        totals[1] += expected[:, :-1] / len(critics)
    return ModelValues(np.where(ended_before, 0.0, totals[0]), np.where(ended_before, 0.0, totals[1]))


def estimate_fitted_q(log: LoggedTrajectories, decisions: DecisionFeatures) -> PolicyValue:
    """Fitted Q evaluation with a linear critic per step, with contributions that carry the error of the regressions.

    The value is that of `fit_q_backward` with `LeastSquares()`. Its derivative by the weight of a unit is
    `v(s_0) + sum_t w_t (r_t + discount v(s_(t+1)) - q(s_t, a_t))`, where `w_t = f_t' G_t^-1 l_t` is the state-action
    ratio that is implicit in the regressions: `G_t` the second moments of the logged features `f_t`, `l_0` the mean of
    the expected features, `l_(t+1) = discount sum w_t (expected features)_(t+1)`.

    Args:
        log: The log, with a decision at every step.
        decisions: Its states as features.

    Returns:
        The value; the effective sample size is that of the implicit ratios.

    Raises:
        ValueError: If shapes differ, steps are missing, or features are collinear at a step.

    References:
        Duan, Jia and Wang 2020, "Minimax-optimal off-policy evaluation with linear function approximation",
        arXiv:2002.09516; Hao et al. 2021, "Bootstrapping fitted Q-evaluation", arXiv:2102.03607.
    """
    values = fit_q_backward(log, decisions, [LeastSquares()])
    if not log.mask.all():
        raise ValueError("contributions of fitted Q evaluation need a decision at every step")
    units, periods = log.shape
    taken = decisions.taken
    mean_features = np.einsum("uta,utaf->utf", decisions.target_probabilities, decisions.features)
    action, expected, following = values.align(log)
    surprise = log.rewards + log.discount * following - action
    weights = np.zeros(log.shape)
    direction = mean_features[:, 0].sum(axis=0)
    for step in range(periods):
        moments = taken[:, step].T @ taken[:, step]
        if np.linalg.matrix_rank(moments, hermitian=True) < len(moments):
            raise RefusalError(f"the logged features of step {step} are collinear; give fewer features or more units")
        weights[:, step] = taken[:, step] @ np.linalg.solve(moments, direction)
        if step + 1 < periods:
            direction = log.discount * weights[:, step] @ mean_features[:, step + 1]
    contributions = build_corrected_mean(log, expected[:, 0], weights * surprise)
    # Implicit ratios may be negative; the variance formula of equally weighted units holds all the same.
    sizes = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
    return PolicyValue("fitted_q", contributions, float(sizes.min()))


def _check(log: LoggedTrajectories, decisions: DecisionFeatures, critics: Sequence[Critic]) -> None:
    if decisions.actions.shape != log.shape:
        raise ValueError(f"decisions have shape {decisions.actions.shape}; the log has {log.shape}")
    if not critics:
        raise ValueError("there is no critic")


def _expect_where(decisions: DecisionFeatures, prediction: Prediction, step: int, here: np.ndarray) -> np.ndarray:
    """Expected values where decided, 0 elsewhere."""
    shown = DecisionFeatures(decisions.features[here], decisions.target_probabilities[here], decisions.actions[here])
    values = np.zeros(len(here))
    values[here] = shown.expect(prediction, step)
    return values


def _predict_where(prediction: Prediction, features: np.ndarray, here: np.ndarray) -> np.ndarray:
    values = np.zeros(len(here))
    values[here] = prediction(features[here])
    return values
