"""What the manager would have done: probabilities of every rung and promotion in every logged decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.decision_log import DecisionLog
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories


@dataclass(frozen=True)
class BehaviorEstimate:
    """Probabilities of the manager's actions, each decision judged by a model that never saw its product.

    Arrays are NaN where nothing was decided (see `DecisionLog.decided`).

    Attributes:
        log: The decisions.
        change_probabilities: That the rung changes, `(items, periods)`.
        rung_probabilities: Of every rung, `(items, periods, rungs)`, summing to 1.
        promotion_probabilities: Of a promotion at every rung, `(items, periods, rungs)`.
        folds: Fold of each item, int, `(items,)`: it was judged by the model of the other folds.
    """

    log: DecisionLog
    change_probabilities: np.ndarray
    rung_probabilities: np.ndarray
    promotion_probabilities: np.ndarray
    folds: np.ndarray

    @property
    def action_probabilities(self) -> np.ndarray:
        """Of every rung without and with a promotion, `(items, periods, rungs, 2)`, summing to 1."""
        promoted = self.promotion_probabilities
        return np.asarray(self.rung_probabilities[..., None] * np.stack([1.0 - promoted, promoted], axis=-1))

    @property
    def logged_propensities(self) -> np.ndarray:
        """Of what was done, `(items, periods)`, NaN where nothing was decided."""
        return self.compute_propensities(np.maximum(self.log.rungs, 0), self.log.promoted)

    @property
    def logged_rung_propensities(self) -> np.ndarray:
        """Of the logged rung whatever the promotion, `(items, periods)`."""
        return np.take_along_axis(self.rung_probabilities, np.maximum(self.log.rungs, 0)[..., None], 2)[..., 0]

    def compute_propensities(self, rungs: np.ndarray, promotions: np.ndarray) -> np.ndarray:
        """Probability that the manager would have taken some action.

        Args:
            rungs: Rung in every cell, int, `(items, periods)`.
            promotions: 1 or True = promoted, `(items, periods)`.

        Returns:
            `(items, periods)`, NaN where nothing was decided.

        Raises:
            ValueError: If shapes differ or a rung is not on the ladder.
        """
        rungs, promotions = np.asarray(rungs), np.asarray(promotions)
        if rungs.shape != self.log.shape or promotions.shape != self.log.shape:
            raise ValueError(
                f"rungs have shape {rungs.shape} and promotions {promotions.shape}; expected {self.log.shape} for both"
            )
        if rungs.min() < 0 or rungs.max() >= self.log.num_rungs:
            raise ValueError(
                f"rungs span {rungs.min()} to {rungs.max()}; the ladder has rungs 0 to {self.log.num_rungs - 1}"
            )
        of_rung = np.take_along_axis(self.rung_probabilities, rungs[..., None], 2)[..., 0]
        of_promotion = np.take_along_axis(self.promotion_probabilities, rungs[..., None], 2)[..., 0]
        return np.asarray(of_rung * np.where(promotions > 0, of_promotion, 1.0 - of_promotion))


@dataclass(frozen=True)
class TrimmedPropensities:
    """Propensities raised to a floor, and what that did.

    Attributes:
        propensities: `(items, periods)`, NaN where nothing was decided.
        floor: Least propensity.
        num_trimmed: Decisions that were below it.
        trimmed_mass: Share of the target policy's weight (sum of ratios before the floor) that rests on them, in
            [0, 1]. Without a target: the manager's own weight, which is the share of decisions.
    """

    propensities: np.ndarray
    floor: float
    num_trimmed: int
    trimmed_mass: float


def trim_propensities(
    propensities: np.ndarray, floor: float, target_propensities: np.ndarray | None = None
) -> TrimmedPropensities:
    """Raise propensities to a floor and report whose weight that touches.

    A floor hides bad calibration as well as rare decisions: read `trimmed_mass` beside the calibration error, and
    compare with the value at floor 0.

    Args:
        propensities: Of the logged decisions, > 0, NaN where nothing was decided, `(items, periods)`.
        floor: Least propensity, in [0, 1).
        target_propensities: Of the same decisions under the policy to be valued; None = the manager himself.

    Returns:
        Propensities at or above the floor.

    Raises:
        ValueError: If the floor is out of bounds, shapes differ, a propensity is not positive, or the target policy
            takes none of the logged decisions.
    """
    propensities = np.asarray(propensities, dtype=np.float64)
    target = propensities if target_propensities is None else np.asarray(target_propensities, dtype=np.float64)
    if not 0.0 <= floor < 1.0:
        raise ValueError(f"floor is {floor}; expected a probability in [0, 1)")
    if target.shape != propensities.shape:
        raise ValueError(f"target_propensities have shape {target.shape}; expected {propensities.shape}")
    decided = np.isfinite(propensities)
    if np.any(propensities[decided] <= 0.0):
        raise ValueError("a propensity is 0 or less; what was done had a chance, so give the model's own probabilities")
    below = decided & (np.where(decided, propensities, 1.0) < floor)
    ratios = target[decided] / propensities[decided]
    if not ratios.sum() > 0.0:
        raise ValueError("the target policy takes none of the logged decisions; the log says nothing of its value")
    mass = float((target[below] / propensities[below]).sum() / ratios.sum())
    return TrimmedPropensities(np.maximum(propensities, floor), floor, int(below.sum()), mass)


def build_trajectories(
    estimate: BehaviorEstimate, rewards: np.ndarray, target_probabilities: np.ndarray, discount: float = 1.0
) -> LoggedTrajectories:
    """A log with estimated propensities, ready for the estimators of trajectories.

    Args:
        estimate: Of the manager.
        rewards: What each decision earned, currency, NaN = unknown, `(items, periods)`.
        target_probabilities: Of every rung without and with a promotion under the policy to be valued, in the logged
            states, `(items, periods, rungs, 2)`, summing to 1 wherever something was decided.
        discount: Per period, in (0, 1].

    Returns:
        The log; a cell is observed where something was decided and its reward is known. Propensities are as estimated:
        give the floor to `compute_importance_ratios` or the estimator, which report the trimmed mass.

    Raises:
        ValueError: If shapes differ, or probabilities do not sum to 1.
    """
    log, rewards = estimate.log, np.asarray(rewards, dtype=np.float64)
    target = check_action_probabilities(log, target_probabilities)
    if rewards.shape != log.shape:
        raise ValueError(f"rewards have shape {rewards.shape}; expected {log.shape}, as the decisions")
    items, periods = np.indices(log.shape)
    return LoggedTrajectories(
        rewards=rewards,
        propensities=estimate.logged_propensities,
        target_propensities=target[items, periods, np.maximum(log.rungs, 0), log.promoted],
        clusters=log.clusters,
        weeks=log.timestamps,
        discount=discount,
        observed=log.decided & np.isfinite(rewards),
    )


def check_action_probabilities(log: DecisionLog, probabilities: np.ndarray) -> np.ndarray:
    """A policy's probabilities of all actions, checked against a log.

    Args:
        log: The decisions.
        probabilities: Of every rung without and with a promotion, `(items, periods, rungs, 2)`.

    Returns:
        The same as float64.

    Raises:
        ValueError: If the shape is another, or where something was decided a probability is negative or they do not sum
            to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    expected = (*log.shape, log.num_rungs, 2)
    if probabilities.shape != expected:
        raise ValueError(
            f"target probabilities have shape {probabilities.shape}; expected {expected}: items, periods, rungs, and"
            " without and with a promotion"
        )
    wrong = ~np.isclose(probabilities.sum(axis=(2, 3)), 1.0, atol=1e-6) | ~(probabilities >= 0.0).all(axis=(2, 3))
    broken = np.argwhere(wrong & log.decided)
    if len(broken):
        item, period = broken[0]
        raise ValueError(
            f"target probabilities of item {str(log.item_ids[item])!r} in period {period} sum to"
            f" {probabilities[item, period].sum():g}; they must be 0 or more and sum to 1 where something was decided"
        )
    return probabilities
