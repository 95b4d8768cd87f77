"""Marginalised importance sampling: states are weighted by how often the target policy meets them.

The product of ratios over a trajectory is replaced by one ratio of state distributions and one of actions, so that the
variance grows with the horizon as a polynomial, not exponentially. It needs the Markov property in the given states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import PolicyValue, RefusalError, build_contributions
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories, ModelValues
from pricing_fm.evaluation.off_policy.rows import build_corrected_mean, build_one_mean, build_step_terms
from pricing_fm.evaluation.off_policy.weights import ImportanceRatios, compute_effective_sample_size


@dataclass(frozen=True)
class StateModel:
    """Tabular estimate of how states follow each other under the target policy.

    Attributes:
        marginals: Share of units in each state at each step under the target policy, `(periods, states)`.
        ratios: The same over the share in the log, at the logged states, `(units, periods)`.
        values: Value of each state from each step on under the estimate, currency, `(periods + 1, states)`.
    """

    marginals: np.ndarray
    ratios: np.ndarray
    values: np.ndarray


def fit_state_model(log: LoggedTrajectories, ratios: ImportanceRatios) -> StateModel:
    """State distributions of the target policy, step by step from importance-weighted transition counts.

    Args:
        log: The log, with discrete `states` and every step observed.
        ratios: Of the log.

    Returns:
        Marginals, their ratios to the log's, and the values that they imply.

    Raises:
        ValueError: If the log has no states, steps are missing, or the target policy leaves a state only by actions
            that were never logged there.

    References:
        Xie, Ma and Wang 2019, "Towards optimal off-policy evaluation for reinforcement learning with marginalized
        importance sampling", arXiv:1906.03393.
    """
    if log.states is None:
        raise ValueError("the log has no discrete states; give `states`, or supply state ratios yourself")
    if not log.mask.all():
        raise ValueError("tabular marginals need a decision at every step; cut the trajectories to one length")
    states, (units, periods) = np.asarray(log.states, dtype=np.int64), log.shape
    count = int(states.max()) + 1
    seen = np.stack([np.bincount(states[:, step], minlength=count) for step in range(periods)]).astype(np.float64)
    marginals, transitions = np.zeros((periods, count)), []
    rewards = np.zeros((periods, count))
    marginals[0] = seen[0] / units
    shares = np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0)
    for step in range(periods):
        weights, here = ratios.steps[:, step] * shares[step, states[:, step]], states[:, step]
        if np.any((marginals[step] > 0) & (np.bincount(here, weights, minlength=count) <= 0)):
            raise RefusalError(f"at step {step} the target policy leaves a state only by actions never logged there")
        rewards[step] = np.bincount(here, weights * log.rewards[:, step], minlength=count)
        if step + 1 < periods:
            moves = np.zeros((count, count))
            np.add.at(moves, (here, states[:, step + 1]), weights)
            transitions.append(moves)
            marginals[step + 1] = marginals[step] @ moves
    values = np.zeros((periods + 1, count))
    for step in reversed(range(periods)):
        ahead = transitions[step] @ values[step + 1] if step + 1 < periods else 0.0
        values[step] = rewards[step] + log.discount * ahead
    taken = np.arange(periods)[None, :]
    return StateModel(marginals, units * marginals[taken, states] * shares[taken, states], values)


def estimate_marginalized(log: LoggedTrajectories, ratios: ImportanceRatios) -> PolicyValue:
    """Marginalised importance sampling with discrete states, state ratios estimated from the same log.

    The estimate is that of the paper exactly; its contributions are the exact derivatives by each unit's weight, which
    carry the error of the estimated state ratios: `u(s_0) + sum_t discount^t w_t (ratio_t (r_t + discount
    u(s_(t+1))) - u(s_t))`, `u` the values of `StateModel`. The corrections sum to zero.

    Args:
        log: The log, with discrete `states`.
        ratios: Of the log.

    Returns:
        The value.

    Raises:
        ValueError: See `fit_state_model`.

    References:
        Xie, Ma and Wang 2019, arXiv:1906.03393.
    """
    model = fit_state_model(log, ratios)
    states, steps = np.asarray(log.states, dtype=np.int64), np.arange(log.shape[1])
    here = model.values[steps, states]
    following = np.zeros(log.shape)
    following[:, :-1] = here[:, 1:]
    surprise = ratios.steps * (log.rewards + log.discount * following) - here
    contributions = build_corrected_mean(log, here[:, 0], model.ratios * log.discounts * surprise)
    return PolicyValue(
        "marginalized", contributions, _least_sample_size(model.ratios * ratios.steps), ratios.trimmed_mass
    )


def estimate_marginalized_with_ratios(
    log: LoggedTrajectories, ratios: ImportanceRatios, state_ratios: np.ndarray, self_normalized: bool = True
) -> PolicyValue:
    """Marginalised importance sampling with state ratios from elsewhere, such as a fitted density ratio.

    Args:
        log: The log.
        ratios: Of the log.
        state_ratios: How much more often the target policy is in the logged state at that step, `(units, periods)`,
            >= 0. Their own error is not in the contributions.
        self_normalized: True = each step is divided by the sum of its weights.

    Returns:
        The value.

    Raises:
        ValueError: If the ratios do not fit the log, or a step has no weight.

    References:
        Liu, Li, Tang and Zhou 2018, "Breaking the curse of horizon", arXiv:1810.12429.
    """
    weights = _check_state_ratios(log, state_ratios) * ratios.steps
    weighted = weights * log.rewards * log.discounts
    if self_normalized:
        terms = build_step_terms(log, weighted, weights)
        contributions = build_contributions(terms, log.num_clusters, log.num_weeks)
    else:
        contributions = build_one_mean(log, weighted)
    name = "marginalized_with_ratios" + "_self_normalized" * self_normalized
    return PolicyValue(name, contributions, _least_sample_size(weights), ratios.trimmed_mass)


def estimate_marginalized_doubly_robust(
    log: LoggedTrajectories, ratios: ImportanceRatios, state_ratios: np.ndarray, values: ModelValues
) -> PolicyValue:
    """Model values plus corrections weighted by state and action ratios: right if either side is.

    `v(s_0) + sum_t discount^t w_t ratio_t (r_t + discount v(s_(t+1)) - q(s_t, a_t))`, the efficient influence function
    of a Markov decision process.

    Args:
        log: The log.
        ratios: Of the log.
        state_ratios: See `estimate_marginalized_with_ratios`, or `StateModel.ratios`.
        values: The model's values, fitted on other clusters.

    Returns:
        The value.

    Raises:
        ValueError: If values or ratios do not fit the log.

    References:
        Kallus and Uehara 2020, "Double reinforcement learning for efficient off-policy evaluation in Markov decision
        processes", arXiv:1908.08526.
    """
    weights = _check_state_ratios(log, state_ratios) * ratios.steps
    action, expected, following = values.align(log)
    surprise = np.where(log.mask, log.rewards + log.discount * following - action, 0.0)
    contributions = build_corrected_mean(log, expected[:, 0], weights * log.discounts * surprise)
    return PolicyValue("marginalized_doubly_robust", contributions, _least_sample_size(weights), ratios.trimmed_mass)


def _check_state_ratios(log: LoggedTrajectories, state_ratios: np.ndarray) -> np.ndarray:
    given = np.asarray(state_ratios, dtype=np.float64)
    if given.shape != log.shape:
        raise ValueError(f"state_ratios have shape {given.shape}; the log has {log.shape}")
    if not (np.isfinite(given).all() and np.all(given >= 0.0)):
        raise ValueError("state_ratios must be finite and 0 or more")
    return given


def _least_sample_size(weights: np.ndarray) -> float:
    """Effective sample size of the step at which the weights are most uneven."""
    return min(compute_effective_sample_size(column) for column in weights.T)
