"""Are probabilities what they say? Expected calibration error on held-out products, and what chance alone shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.behavior_estimate import BehaviorEstimate

_NOISE_DRAWS = 200


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error of one head.

    Attributes:
        value: Mean over decisions of the gap between predicted and observed frequency in a decision's bin. It is
            positive by chance even where probabilities are right: see `noise`.
        lower, upper: Cluster-bootstrap interval. Replicates add chance of their own, so their percentiles are shifted
            by the mean excess over `value`.
        noise: Mean `value` if the probabilities were exactly right and decisions independent given them.
        num_decisions: Decisions that were judged.
    """

    value: float
    lower: float
    upper: float
    noise: float
    num_decisions: int


@dataclass(frozen=True)
class BehaviorCalibration:
    """Calibration of a behaviour model on products that its models did not see.

    Attributes:
        action: Of the rung and promotion together.
        change: Of the first head.
        rung: Of the second head, among logged changes; None = fewer than two decision units changed a price.
        promotion: Of the third head at the logged rung; None = the log has no promotions.
    """

    action: CalibrationError
    change: CalibrationError
    rung: CalibrationError | None
    promotion: CalibrationError | None


@dataclass(frozen=True)
class CalibrationSettings:
    """How calibration is measured.

    Attributes:
        bins: Adaptive bins: of equal numbers of decisions for a yes or no, of equal predicted mass for many actions.
        level: Nominal coverage of the intervals, in (0, 1).
        replicates: Bootstrap replicates.
        seed: Of the replicates and of the draws behind `noise`.

    Raises:
        ValueError: If a number is out of bounds.
    """

    bins: int = 15
    level: float = 0.9
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bins < 1 or self.replicates < 1 or not 0.0 < self.level < 1.0:
            raise ValueError(
                f"bins is {self.bins}, replicates {self.replicates} and level {self.level}; expected 1 or more, 1 or"
                " more, and a number in (0, 1)"
            )


def measure_behavior_calibration(
    estimate: BehaviorEstimate, settings: CalibrationSettings | None = None
) -> BehaviorCalibration:
    """Calibration of the action and of each head.

    Args:
        estimate: Cross-fitted probabilities.
        settings: Bins and replicates; None = the defaults.

    Returns:
        Errors with intervals, clustered by decision unit.

    Raises:
        ValueError: If there is one decision unit only.
    """
    settings, log = settings or CalibrationSettings(), estimate.log
    decided = log.decided
    items, periods = np.nonzero(decided)
    clusters = log.clusters[items]
    rungs, promoted = log.rungs[decided], log.promoted[decided]
    last = _find_last_rungs(estimate)[decided]
    moved = np.flatnonzero(rungs != last)
    actions = estimate.action_probabilities[decided].reshape(len(rungs), -1)
    change = estimate.change_probabilities[decided]
    if_changed = estimate.rung_probabilities[decided][moved]
    if_changed[np.arange(len(moved)), last[moved]] = 0.0
    if_changed = if_changed / if_changed.sum(axis=1, keepdims=True)
    promotion = estimate.promotion_probabilities[items, periods, rungs]
    return BehaviorCalibration(
        action=estimate_choice_calibration(actions, 2 * rungs + promoted, clusters, settings),
        change=estimate_binary_calibration(change, rungs != last, clusters, settings),
        rung=estimate_choice_calibration(if_changed, rungs[moved], clusters[moved], settings)
        if len(np.unique(clusters[moved])) > 1
        else None,
        promotion=None
        if log.promotions is None
        else estimate_binary_calibration(promotion, promoted > 0, clusters, settings),
    )


def estimate_binary_calibration(
    probabilities: np.ndarray, outcomes: np.ndarray, clusters: np.ndarray, settings: CalibrationSettings | None = None
) -> CalibrationError:
    """Expected calibration error of a yes or no, by bins of equally many decisions.

    Args:
        probabilities: Of a yes, `(rows,)`.
        outcomes: True = yes, `(rows,)`.
        clusters: Decision unit of each row, labels, `(rows,)`.
        settings: Bins and replicates; None = the defaults.

    Returns:
        The error with its interval.

    Raises:
        ValueError: If shapes differ, a probability is outside [0, 1], or there is one decision unit only.

    References:
        Naeini, Cooper and Hauskrecht 2015; Nguyen and O'Connor 2015 (adaptive bins).
    """
    settings = settings or CalibrationSettings()
    probabilities, outcomes = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    _check(probabilities[:, None], outcomes, clusters)
    bins = _cut(probabilities, np.ones_like(probabilities), settings.bins)
    rng = np.random.default_rng(settings.seed)
    chance = [
        _sum_gaps((rng.random(len(bins)) < probabilities) - probabilities, bins, settings.bins) / len(bins)
        for _ in range(_NOISE_DRAWS)
    ]
    gaps = np.zeros((len(np.unique(clusters)), settings.bins))
    codes = np.unique(clusters, return_inverse=True)[1]
    np.add.at(gaps, (codes, bins), outcomes - probabilities)
    return _resample(gaps, np.bincount(codes), float(np.mean(chance)), settings)


def estimate_choice_calibration(
    probabilities: np.ndarray, chosen: np.ndarray, clusters: np.ndarray, settings: CalibrationSettings | None = None
) -> CalibrationError:
    """Expected calibration error of one choice among several: half the sum over all actions, per decision.

    All pairs of a decision and an action are put into bins of equal predicted mass; the gaps of the bins are summed,
    halved (for two actions that counts every gap once) and divided by the number of *decisions*. A mean over pairs
    would shrink with the number of actions that nobody takes.

    Args:
        probabilities: `(rows, actions)`, summing to 1.
        chosen: Action taken, int, `(rows,)`.
        clusters: Decision unit of each row, labels, `(rows,)`.
        settings: Bins and replicates; None = the defaults.

    Returns:
        The error with its interval.

    Raises:
        ValueError: If shapes differ, probabilities do not sum to 1, or there is one decision unit only.
    """
    settings = settings or CalibrationSettings()
    probabilities, chosen = np.asarray(probabilities, dtype=np.float64), np.asarray(chosen)
    _check(probabilities, chosen, clusters)
    if not np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-6):
        raise ValueError("probabilities of the actions do not sum to 1 in every row")
    rows, actions = probabilities.shape
    bins = _cut(probabilities.ravel(), probabilities.ravel(), settings.bins).reshape(rows, actions)
    expected = np.bincount(bins.ravel(), probabilities.ravel(), settings.bins)
    cumulative, here = np.cumsum(probabilities, axis=1), np.arange(rows)
    rng = np.random.default_rng(settings.seed)
    chance = []
    for _ in range(_NOISE_DRAWS):
        drawn = np.minimum((rng.random((rows, 1)) > cumulative).sum(axis=1), actions - 1)
        found = np.bincount(bins[here, drawn], minlength=settings.bins)
        chance.append(0.5 * np.abs(found - expected).sum() / rows)
    codes = np.unique(clusters, return_inverse=True)[1]
    gaps = np.zeros((codes.max() + 1, settings.bins))
    np.add.at(gaps, (codes[:, None], bins), -0.5 * probabilities)
    np.add.at(gaps, (codes, bins[here, chosen]), 0.5)
    return _resample(gaps, np.bincount(codes), float(np.mean(chance)), settings)


def _resample(gaps: np.ndarray, sizes: np.ndarray, noise: float, settings: CalibrationSettings) -> CalibrationError:
    """Error and interval from the signed gaps of every cluster and bin, `(clusters, bins)`."""
    value = float(np.abs(gaps.sum(axis=0)).sum() / sizes.sum())
    count = len(sizes)
    rng = np.random.default_rng(settings.seed)
    weights = rng.multinomial(count, np.full(count, 1.0 / count), size=settings.replicates).astype(np.float64)
    draws = np.abs(weights @ gaps).sum(axis=1) / (weights @ sizes)
    draws = np.maximum(draws - (draws.mean() - value), 0.0)
    lower, upper = np.quantile(draws, [(1.0 - settings.level) / 2.0, (1.0 + settings.level) / 2.0])
    return CalibrationError(value, float(lower), float(upper), noise, int(sizes.sum()))


def _find_last_rungs(estimate: BehaviorEstimate) -> np.ndarray:
    """Last observed rung before each period, -1 where none, `(items, periods)`."""
    log = estimate.log
    seen = np.where(log.observed, np.arange(log.shape[1]), -1)
    latest = np.full(log.shape, -1)
    latest[:, 1:] = np.maximum.accumulate(seen, axis=1)[:, :-1]
    return np.where(latest >= 0, np.take_along_axis(log.rungs, np.maximum(latest, 0), axis=1), -1)


def _cut(values: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each value: bins of equal weight, equal values together where the middle of their weight lies."""
    codes = np.unique(values, return_inverse=True)[1]
    sizes = np.bincount(codes, weights)
    middles = np.cumsum(sizes) - 0.5 * sizes
    return np.minimum((middles / sizes.sum() * bins).astype(int), bins - 1)[codes]


def _sum_gaps(gaps: np.ndarray, bins: np.ndarray, count: int) -> float:
    return float(np.abs(np.bincount(bins, gaps, count)).sum())


def _check(probabilities: np.ndarray, outcomes: np.ndarray, clusters: np.ndarray) -> None:
    rows = len(probabilities)
    if rows == 0 or outcomes.shape != (rows,) or np.shape(clusters) != (rows,):
        raise ValueError(
            f"{rows} probabilities, {outcomes.shape} outcomes and {np.shape(clusters)} clusters; expected one each"
        )
    if not np.all((probabilities >= 0.0) & (probabilities <= 1.0 + 1e-9)):
        raise ValueError("a probability is missing or outside [0, 1]; keep the decided cells only")
    if len(np.unique(clusters)) < 2:
        raise ValueError("there is one decision unit only; its calibration has no interval")
