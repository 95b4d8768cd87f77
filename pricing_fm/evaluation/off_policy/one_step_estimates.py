"""All estimators of policies' values from one log of one-step decisions, in closed form.

With one step the estimators of trajectories are short sums, and trajectory, per-decision and marginalised weights are
the same. Hundreds of splits of an experiment ask for hundreds of thousands of estimates; here those of one outcome are
taken together. They equal `trajectory_estimators` and `fitted_q` to rounding (a test holds them to it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import NotIdentified
from pricing_fm.evaluation.off_policy.one_step_density import OneStepDensity
from pricing_fm.evaluation.off_policy.one_step_log import (
    OneStepLog,
    RandomisedDecisions,
    check_policy,
    find_unsupported,
)
from pricing_fm.evaluation.off_policy.one_step_models import (
    FOLDS,
    EstimatedChoices,
    OneStepFeatures,
    assign_cluster_folds,
    build_features,
    predict_choices,
    predict_marginal_choices,
    predict_outcomes,
)
from pricing_fm.evaluation.off_policy.weights import compute_effective_sample_size

ESTIMATORS = (
    "log_mean",
    "matched_mean",
    "direct",
    "fitted_q",
    "importance",
    "importance_self_normalized",
    "doubly_robust",
    "doubly_robust_self_normalized",
    "importance_estimated",
    "importance_self_normalized_estimated",
    "doubly_robust_estimated",
    "doubly_robust_self_normalized_estimated",
    "doubly_robust_self_normalized_withheld",
)

_SELF_NORMALIZED = ("importance_self_normalized", "doubly_robust_self_normalized")


@dataclass(frozen=True)
class OneStepValue:
    """An estimate and its error.

    Attributes:
        value: Mean outcome per decision.
        error: Standard error from the influence values of the clusters.
        effective_sample_size: Equally weighted decisions that say as much.
    """

    value: float
    error: float
    effective_sample_size: float


@dataclass(frozen=True)
class OneStepNuisances:
    """What was learned from a log once, for all policies.

    Attributes:
        features: Regressors of the log.
        choices: Estimated probabilities of the rungs of the price ladder.
        outcomes: Predicted outcome of each action by name of the outcome, `(rows, actions)` each.
        marginal_choices: Frequency of each rung in the row's cell, whoever the customer is.
        withheld_outcomes: As `outcomes`, by somebody who does not know the withheld covariates.
        densities: Estimated densities of close prices, by the ending of the estimators that use them.
    """

    features: OneStepFeatures
    choices: EstimatedChoices
    outcomes: dict[str, np.ndarray]
    marginal_choices: EstimatedChoices
    withheld_outcomes: dict[str, np.ndarray]
    densities: Mapping[str, OneStepDensity] = field(default_factory=dict)


def fit_nuisances(
    log: OneStepLog, action_columns: np.ndarray, modifiers: tuple[str, ...], withheld: tuple[str, ...], seed: int
) -> OneStepNuisances:
    """Cross-fitted models of choices and outcomes.

    Args:
        log: The log; its true propensities are not read.
        action_columns: What a model knows of an action, `(actions, columns)`.
        modifiers: Covariates that change the response, and that the manager may look at.
        withheld: Covariates that are hidden from the models of `withheld_outcomes`, the confounders.
        seed: Of the folds.

    Returns:
        The models' predictions.
    """
    decisions = log.decisions
    folds = assign_cluster_folds(decisions.clusters, seed, FOLDS)
    features = build_features(decisions, action_columns, modifiers)
    blind = build_features(decisions.without_covariates(withheld), action_columns, modifiers)
    return OneStepNuisances(
        features,
        predict_choices(decisions, features, folds),
        predict_outcomes(decisions, features, folds),
        predict_marginal_choices(decisions),
        predict_outcomes(decisions, blind, folds),
    )


def estimate_answers(decisions: RandomisedDecisions, ratios: np.ndarray) -> dict[str, OneStepValue]:
    """The experiment's own answers: mean outcomes of those who drew what the policy would have done.

    Args:
        decisions: Decisions of the experiment, none left out.
        ratios: `target / design` of the drawn actions, from `compute_design_ratios`, `(rows,)`.

    Returns:
        By outcome the mean weighted with the ratios.

    Raises:
        ValueError: If nobody drew what the policy would have done.
    """
    if ratios.shape != (decisions.num_rows,) or not ratios.sum() > 0:
        raise ValueError("ratios must hold one number per decision, not all 0")
    sums = _Clusters(decisions.clusters)
    return {one.name: sums.average(one.values, ratios) for one in decisions.outcomes}


def estimate_from_log(
    log: OneStepLog, nuisances: OneStepNuisances, target: np.ndarray
) -> dict[str, Mapping[str, OneStepValue | NotIdentified]]:
    """A policy's value by every estimator.

    `log_mean` takes the log's own mean for the policy's; `matched_mean` averages the decisions that the policy might
    have taken, as if chance had taken them. Names that end in `_estimated` use estimated propensities; those in
    `_withheld` also models that do not know the confounders; those in the name of a density weigh with it.

    Args:
        log: The log, with its true propensities.
        nuisances: Fitted to it.
        target: Probability of each action under the policy, `(rows, actions)`.

    Returns:
        By outcome and estimator the value; not identified for each where the manager never does what the policy does.

    Raises:
        ValueError: If `target` is no policy.
    """
    decisions, choices, marginal = log.decisions, nuisances.choices, nuisances.marginal_choices
    check_policy(target, decisions)
    refused = find_unsupported(target, log.propensities)
    if refused is not None:
        by_density = [f"{kind}_{name}" for name in nuisances.densities for kind in _SELF_NORMALIZED]
        return {one.name: dict.fromkeys((*ESTIMATORS, *by_density), refused) for one in decisions.outcomes}
    sums, wanted = _Clusters(decisions.clusters), log.take(target)
    ratios = wanted / log.take(log.propensities)
    matched = wanted / log.take(decisions.row_design)
    estimated = choices.pool(decisions, target) / choices.take(decisions)
    blind = marginal.pool(decisions, target) / marginal.take(decisions)
    dense = {name: one.compute_ratios(decisions, target) for name, one in nuisances.densities.items()}
    implicit = _ImplicitRatios(nuisances.features, decisions, target)
    found: dict[str, Mapping[str, OneStepValue | NotIdentified]] = {}
    for one in decisions.outcomes:
        predicted, withheld = nuisances.outcomes[one.name], nuisances.withheld_outcomes[one.name]
        expected, rest = np.einsum("ra,ra->r", target, predicted), one.values - log.take(predicted)
        linear = implicit.fit(one.values)
        blind_rest = one.values - log.take(withheld)
        found[one.name] = {
            "log_mean": sums.average(one.values, np.ones(decisions.num_rows)),
            "matched_mean": sums.average(one.values, matched),
            "direct": sums.correct(expected, np.zeros_like(rest), ratios, False, float(len(rest))),
            "fitted_q": sums.correct(*linear, implicit.ratios, False, implicit.size),
            **_weigh(sums, one.values, expected, rest, ratios, ""),
            **_weigh(sums, one.values, expected, rest, estimated, "_estimated"),
            ESTIMATORS[-1]: sums.correct(np.einsum("ra,ra->r", target, withheld), blind_rest, blind, True),
            **{
                name: value
                for ending, by_density in dense.items()
                for name, value in _weigh(sums, one.values, expected, rest, by_density, f"_{ending}").items()
                if name.removesuffix(f"_{ending}") in _SELF_NORMALIZED
            },
        }
    return found


def _weigh(
    sums: _Clusters, values: np.ndarray, expected: np.ndarray, rest: np.ndarray, ratios: np.ndarray, ending: str
) -> dict[str, OneStepValue]:
    """The four estimators that use propensities."""
    nothing = np.zeros_like(values)
    return {
        f"importance{ending}": sums.correct(nothing, values, ratios, False),
        f"importance_self_normalized{ending}": sums.correct(nothing, values, ratios, True),
        f"doubly_robust{ending}": sums.correct(expected, rest, ratios, False),
        f"doubly_robust_self_normalized{ending}": sums.correct(expected, rest, ratios, True),
    }


class _Clusters:
    """Means and their errors over clusters."""

    def __init__(self, clusters: np.ndarray) -> None:
        self.codes = np.unique(clusters, return_inverse=True)[1]
        self.number = int(self.codes.max()) + 1

    def average(self, values: np.ndarray, ratios: np.ndarray) -> OneStepValue:
        """Weighted mean."""
        return self.correct(np.zeros_like(values), values, ratios, True)

    def correct(
        self,
        expected: np.ndarray,
        rest: np.ndarray,
        ratios: np.ndarray,
        self_normalized: bool,
        size: float | None = None,
    ) -> OneStepValue:
        """`mean(expected) + sum(ratios x rest) / (sum(ratios) or rows)`, and the error from cluster influences."""
        rows = len(rest)
        weight = ratios.sum() if self_normalized else float(rows)
        if not ratios.sum() > 0:
            raise ValueError("the target policy takes none of the logged actions; the log says nothing of its value")
        first, second = expected.mean(), (ratios * rest).sum() / weight
        around = ratios * (rest - second) if self_normalized else ratios * rest - second
        influences = (expected - first) / rows + around / weight
        by_cluster = np.bincount(self.codes, influences, minlength=self.number)
        error = np.sqrt((by_cluster**2).sum() * self.number / (self.number - 1))
        found = compute_effective_sample_size(ratios) if size is None else size
        return OneStepValue(float(first + second), float(error), found)


class _ImplicitRatios:
    """The ratios that a linear regression on state and action weighs its residuals with, for one policy."""

    def __init__(self, features: OneStepFeatures, decisions: RandomisedDecisions, target: np.ndarray) -> None:
        self.taken = features.join(features.actions[decisions.actions])
        self.mean = features.join(target @ features.actions)
        moments = self.taken.T @ self.taken
        if np.linalg.matrix_rank(moments, hermitian=True) < len(moments):
            raise ValueError("the features of the log are collinear; give fewer covariates or more decisions")
        self.moments = moments
        self.ratios = self.taken @ np.linalg.solve(moments, self.mean.sum(axis=0))
        # They may be negative; the variance formula of equally weighted decisions holds all the same.
        self.size = float(self.ratios.sum() ** 2 / (self.ratios**2).sum())

    def fit(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected outcomes under the policy, and residuals of the log, `(rows,)` each."""
        coefficients = np.linalg.solve(self.moments, self.taken.T @ values)
        return self.mean @ coefficients, values - self.taken @ coefficients
