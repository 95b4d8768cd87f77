"""Values from whole trajectories: direct, importance sampled, self-normalised and doubly robust.

All return contributions per decision unit and week. The importance-sampled ones are unbiased for the horizon of the log
when the propensities are those that the log was written with; the self-normalised ones are consistent and, unlike them,
do not move when a constant is added to every reward. Their variance grows exponentially with the horizon: beyond 4 to 8
weeks they are a diagnostic.
"""

from __future__ import annotations

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import PolicyValue, build_contributions
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories, ModelValues
from pricing_fm.evaluation.off_policy.rows import (
    build_corrected_mean,
    build_first_state_rows,
    build_one_mean,
    build_step_terms,
)
from pricing_fm.evaluation.off_policy.weights import ImportanceRatios, compute_effective_sample_size


def estimate_behavior_value(log: LoggedTrajectories) -> PolicyValue:
    """Mean return of the log itself: what the manager earned.

    Args:
        log: The log.

    Returns:
        The value; its difference to a candidate's is what a launch is decided on.
    """
    contributions = build_one_mean(log, log.rewards * log.discounts)
    return PolicyValue("behavior", contributions, float(log.shape[0]))


def estimate_direct(log: LoggedTrajectories, values: ModelValues) -> PolicyValue:
    """Direct method: mean of the model's value of the target policy in the first state.

    Nothing corrects the model, and its own error is not in the contributions: an interval of it is too narrow.

    Args:
        log: The log.
        values: The model's values.

    Returns:
        The value.

    Raises:
        ValueError: If the values do not fit the log.
    """
    _, expected, _ = values.align(log)
    rows = build_first_state_rows(log, expected[:, 0])
    contributions = build_contributions([[rows]], log.num_clusters, log.num_weeks)
    return PolicyValue("direct", contributions, float(log.shape[0]))


def estimate_trajectory_importance(
    log: LoggedTrajectories, ratios: ImportanceRatios, self_normalized: bool = False
) -> PolicyValue:
    """Mean of the returns, each weighted with the product of all its ratios.

    Args:
        log: The log.
        ratios: Of the log.
        self_normalized: True = divided by the sum of the weights instead of their number.

    Returns:
        The value.

    Raises:
        ValueError: If every trajectory has weight 0 and the weights are to normalise.

    References:
        Precup, Sutton and Singh 2000, "Eligibility traces for off-policy policy evaluation".
    """
    weights = ratios.trajectories
    contributions = build_one_mean(
        log, weights[:, None] * log.rewards * log.discounts, weights if self_normalized else None
    )
    name = "trajectory_importance" + "_self_normalized" * self_normalized
    return PolicyValue(name, contributions, compute_effective_sample_size(weights), ratios.trimmed_mass)


def estimate_per_decision_importance(
    log: LoggedTrajectories, ratios: ImportanceRatios, self_normalized: bool = False
) -> PolicyValue:
    """Sum of mean rewards, each weighted with the product of the ratios up to its step.

    What was decided later cannot have earned a reward, so it stays out of its weight.

    Args:
        log: The log.
        ratios: Of the log.
        self_normalized: True = each step is divided by the sum of its own weights.

    Returns:
        The value.

    Raises:
        ValueError: If all weights of a step are 0 and they are to normalise.

    References:
        Precup, Sutton and Singh 2000; the normalisation per step is that of Thomas 2015, "Safe reinforcement learning".
    """
    weighted = ratios.cumulative * log.rewards * log.discounts
    if self_normalized:
        terms = build_step_terms(log, weighted, ratios.cumulative)
        contributions = build_contributions(terms, log.num_clusters, log.num_weeks)
    else:
        contributions = build_one_mean(log, weighted)
    name = "per_decision_importance" + "_self_normalized" * self_normalized
    return PolicyValue(name, contributions, _least_sample_size(ratios), ratios.trimmed_mass)


def estimate_doubly_robust(
    log: LoggedTrajectories, ratios: ImportanceRatios, values: ModelValues, self_normalized: bool = False
) -> PolicyValue:
    """Model values plus importance-weighted corrections of what the model got wrong.

    The recursion `V_t = v(s_t) + ratio_t (r_t + discount V_(t+1) - q(s_t, a_t))` of the paper, summed out:
    `v(s_0) + sum_t discount^t weight_t (r_t + discount v(s_(t+1)) - q(s_t, a_t))`, `weight_t` the product of the ratios
    up to t. Right if the propensities are right, whatever the model; equal to the direct method if the model fits every
    step, and to per-decision importance sampling if it says 0 everywhere. Values are to be fitted on other clusters
    than those they are applied to (cross-fitting), else they explain the noise away.

    Args:
        log: The log.
        ratios: Of the log.
        values: The model's values.
        self_normalized: True = each step's corrections are divided by the sum of its own weights.

    Returns:
        The value.

    Raises:
        ValueError: If the values do not fit the log, or all weights of a step are 0 and they are to normalise.

    References:
        Jiang and Li 2016, "Doubly robust off-policy value evaluation", arXiv:1511.03722; self-normalised (weighted):
        Thomas and Brunskill 2016, "Data-efficient off-policy policy evaluation", arXiv:1604.00923.
    """
    action, expected, following = values.align(log)
    surprise = log.rewards + log.discount * following - action
    # A step at which nothing was decided repeats the next one's value: it cannot surprise.
    corrections = np.where(log.mask, ratios.cumulative * log.discounts * surprise, 0.0)
    if self_normalized:
        first = build_first_state_rows(log, expected[:, 0])
        steps = build_step_terms(log, corrections, ratios.cumulative)
        contributions = build_contributions([[first], *steps], log.num_clusters, log.num_weeks)
    else:
        contributions = build_corrected_mean(log, expected[:, 0], corrections)
    name = "doubly_robust" + "_self_normalized" * self_normalized
    return PolicyValue(name, contributions, _least_sample_size(ratios), ratios.trimmed_mass)


def _least_sample_size(ratios: ImportanceRatios) -> float:
    """Effective sample size of the step at which the weights are most uneven."""
    return min(compute_effective_sample_size(weights) for weights in ratios.cumulative.T)
