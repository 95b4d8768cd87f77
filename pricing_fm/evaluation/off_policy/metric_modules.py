"""Policy metrics as modules of the Hugging Face `evaluate` library, loaded by class and without a network.

from pricing_fm.evaluation.off_policy.metric_modules import OffPolicyValue

OffPolicyValue().compute(rewards=[3.0, 1.0], propensities=[0.5, 0.5], target_propensities=[0.9, 0.1])

They stand here, not beside the forecast modules, because they are the estimators of this package in another dress.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from pricing_fm.evaluation.off_policy.calibration import CalibrationSettings, estimate_binary_calibration
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories, ModelValues
from pricing_fm.evaluation.off_policy.trajectory_estimators import (
    estimate_behavior_value,
    estimate_doubly_robust,
    estimate_per_decision_importance,
)
from pricing_fm.evaluation.off_policy.weights import compute_effective_sample_size, compute_importance_ratios
from pricing_fm.metrics import compute_regret


class OffPolicyValue(evaluate.Metric):
    """Mean reward of a decision under a policy that did not take it.

    One row is one logged decision. `rewards`: currency; `propensities`: probability of the decision under who logged
    it, above 0; `target_propensities`: under the policy to be valued. `compute` gives the self-normalised estimate, or,
    with `action_values` (a model's reward of the logged decision) and `expected_values` (of the policy in the same
    state), one of each per row, the self-normalised doubly robust one. `floor` raises small propensities.

    Returns `{"policy_value": float, "manager_value": float, "effective_sample_size": float, "trimmed_mass": float}`.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Off-policy value of single decisions: self-normalised or doubly robust",
            citation="Thomas and Brunskill 2016, Data-efficient off-policy policy evaluation",
            inputs_description="rewards, propensities, target_propensities; action_values, expected_values; floor",
            features=datasets.Features(
                {name: datasets.Value("float64") for name in ("rewards", "propensities", "target_propensities")}
            ),
        )

    def _compute(
        self,
        rewards: Sequence[float],
        propensities: Sequence[float],
        target_propensities: Sequence[float],
        action_values: Sequence[float] | None = None,
        expected_values: Sequence[float] | None = None,
        floor: float = 0.0,
    ) -> dict[str, Any]:
        if (action_values is None) != (expected_values is None):
            raise ValueError("give both action_values and expected_values (doubly robust) or none (self-normalised)")
        log = LoggedTrajectories(
            np.asarray(rewards)[:, None],
            np.asarray(propensities)[:, None],
            np.asarray(target_propensities)[:, None],
            clusters=np.arange(len(rewards)),
        )
        ratios = compute_importance_ratios(log, floor)
        if action_values is None or expected_values is None:
            value = estimate_per_decision_importance(log, ratios, self_normalized=True)
        else:
            model = ModelValues(np.asarray(action_values)[:, None], np.asarray(expected_values)[:, None])
            value = estimate_doubly_robust(log, ratios, model, self_normalized=True)
        return {
            "policy_value": value.value,
            "manager_value": estimate_behavior_value(log).value,
            "effective_sample_size": value.effective_sample_size,
            "trimmed_mass": value.trimmed_mass,
        }


class EffectiveSampleSize(evaluate.Metric):
    """Number of equally weighted decisions that say as much as the weighted ones.

    One row is one logged decision. `predictions`: probability under the policy to be valued; `references`: under who
    logged it, above 0. `compute` takes `floor` and returns `{"effective_sample_size": float, "share": float}`, the
    share of the rows.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Effective sample size of importance weights",
            citation="Kish 1965, Survey Sampling",
            inputs_description="predictions: target propensities; references: logging propensities; floor",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float], floor: float = 0.0) -> dict[str, Any]:
        target, chance = (np.asarray(given, dtype=np.float64)[:, None] for given in (predictions, references))
        log = LoggedTrajectories(np.zeros(chance.shape), chance, target, clusters=np.arange(len(chance)))
        size = compute_effective_sample_size(compute_importance_ratios(log, floor).steps)
        return {"effective_sample_size": size, "share": size / len(chance)}


class PolicyRegret(evaluate.Metric):
    """What a policy leaves on the table.

    One row is one market (or product, or period). `predictions`: value of the policy; `references`: value of the
    oracle, or of the best candidate, both currency. `compute` returns `{"regret": float, "regret_share": float,
    "largest_regret": float}`.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Regret of a pricing policy against the best there is",
            citation="",
            inputs_description="predictions: values of the policy; references: best values",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, Any]:
        found = compute_regret(np.asarray(predictions), np.asarray(references))
        return {"regret": found.mean, "regret_share": found.share, "largest_regret": found.largest}


class ExpectedCalibrationError(evaluate.Metric):
    """Gap between predicted and observed frequencies of a yes or no, such as a price change or a purchase.

    One row is one decision. `predictions`: probability of a yes; `references`: 1 = yes, 0 = no. `compute` takes
    `clusters` (decision unit of each row; without them every row is one of its own) and `bins` of equally many rows,
    and returns `{"ece": float, "lower": float, "upper": float, "noise": float}`: the error, its 90 % interval, and the
    error that chance alone would show.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Expected calibration error of probabilities, with bins of equal numbers of rows",
            citation="Naeini, Cooper and Hauskrecht 2015; Nguyen and O'Connor 2015",
            inputs_description="predictions: probabilities; references: 1 or 0; clusters; bins",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(
        self,
        predictions: Sequence[float],
        references: Sequence[float],
        clusters: Sequence[object] | None = None,
        bins: int = 15,
    ) -> dict[str, Any]:
        outcomes = np.asarray(references, dtype=np.float64)
        other = outcomes[(outcomes != 0.0) & (outcomes != 1.0)]
        if len(other):
            raise ValueError(f"references hold {other[0]:g}; expected 1 (yes) or 0 (no)")
        units = np.arange(len(outcomes)) if clusters is None else np.asarray(clusters)
        found = estimate_binary_calibration(np.asarray(predictions), outcomes, units, CalibrationSettings(bins=bins))
        return {"ece": found.value, "lower": found.lower, "upper": found.upper, "noise": found.noise}
