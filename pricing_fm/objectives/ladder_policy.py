"""Policies on the price ladder from action values: exact advantage-weighted targets, and the dial at inference."""

import torch


def advantage_weighted_target(
    behavior_log_probs: torch.Tensor, action_values: torch.Tensor, inverse_temperature: float
) -> torch.Tensor:
    """The policy that AWAC regresses on, with the expectation over all rungs instead of the logged one alone.

    `pi*(a | s) ~ pi_b(a | s) exp(inverse_temperature (Q(s, a) - V(s)))`, `V(s)` the behaviour's own expected value.

    Args:
        behavior_log_probs (`(..., K)`): Of the manager; a rung at minus infinity stays impossible.
        action_values (`(..., K)`): Reward units, standardised by the caller if one temperature is to serve all.
        inverse_temperature (`float`): 0 is behaviour cloning.

    Returns:
        `(..., K)`: Log probabilities.

    References:
        Nair et al. 2020, AWAC, arXiv:2006.09359.
    """
    # V(s) is the same for all rungs and cancels in the normalisation.
    return (behavior_log_probs + inverse_temperature * action_values).log_softmax(-1)


def advantage_weighted_loss(
    policy_log_probs: torch.Tensor,
    behavior_log_probs: torch.Tensor,
    action_values: torch.Tensor,
    inverse_temperature: float,
) -> torch.Tensor:
    """Cross-entropy from the advantage-weighted target to the policy; the target gets no gradient.

    Args:
        policy_log_probs (`(..., K)`): What is learned.
        behavior_log_probs (`(..., K)`): Of the manager.
        action_values (`(..., K)`): Reward units.
        inverse_temperature (`float`): 0 is behaviour cloning with the manager's whole distribution.

    Returns:
        `(...)`: Not negative.
    """
    target = advantage_weighted_target(behavior_log_probs, action_values, inverse_temperature).exp().detach()
    # A rung that the target never takes costs nothing, whatever the policy's logarithm of zero is.
    return -torch.where(target > 0, target * policy_log_probs, 0.0).sum(-1)


def soft_action_values(state_values: torch.Tensor, log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Action values that a value and a policy stand for: `Q(s, a) = V(s) + temperature log pi(a | s)`.

    Every Q is of this form, with `V = temperature logsumexp(Q / temperature)`.

    Args:
        state_values (`(...)`): Soft values, reward units.
        log_probs (`(..., K)`): Sum to one.
        temperature (`float`): Reward units that make an action e times as likely, above 0.

    Returns:
        `(..., K)`: Reward units.

    References:
        Haarnoja et al. 2017, Reinforcement Learning with Deep Energy-Based Policies, arXiv:1702.08165.
    """
    return state_values[..., None] + temperature * log_probs


def squared_value_error(action_values: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Half the squared error of the taken action's value: fitted Q.

    Args:
        action_values (`(..., K)`): Values of every rung, reward units.
        actions (`(...)`, long): Taken.
        targets (`(...)`): Rewards, or rewards plus discounted next values; they get no gradient.

    Returns:
        `(...)`: Squared reward units.

    References:
        Ernst et al. 2005, Tree-Based Batch Mode Reinforcement Learning.
    """
    taken = action_values.gather(-1, actions[..., None]).squeeze(-1)
    return 0.5 * (taken - targets.detach()) ** 2


def dialled_log_probs(
    behavior_log_probs: torch.Tensor,
    member_values: torch.Tensor,
    aggressiveness: float,
    caution: float,
    threshold: float,
) -> torch.Tensor:
    """The policy at inference: `pi ~ 1[pi_b >= threshold] pi_b exp(aggressiveness * lower bound of Q)`.

    The dial needs no retraining: 0 is the manager, infinity the best supported rung.

    Args:
        behavior_log_probs (`(..., K)`): Of the manager.
        member_values (`(..., K, M)`): Values of every rung by response member, reward units.
        aggressiveness (`float`): Log-odds of one reward unit, 0 or more.
        caution (`float`): The lower bound is the mean less this many standard deviations over members.
        threshold (`float`): Least behaviour probability of a rung that may be chosen, in [0, 1].

    Returns:
        `(..., K)`: Log probabilities, minus infinity for rungs below the threshold.

    Raises:
        ValueError: If no rung of a state reaches the threshold, or an argument is outside its range.
    """
    if aggressiveness < 0 or caution < 0 or not 0 <= threshold <= 1:
        raise ValueError(
            f"aggressiveness is {aggressiveness}, caution {caution} and threshold {threshold}; expected 0 or more, 0 "
            "or more, and a probability"
        )
    supported = behavior_log_probs.exp() >= threshold
    if not bool(supported.any(-1).all()):
        raise ValueError(
            f"in some state no rung has a behaviour probability of {threshold} or more; lower the threshold"
        )
    lower = member_values.mean(-1) - caution * member_values.std(-1, correction=0)
    scores = behavior_log_probs + aggressiveness * lower
    return torch.where(supported, scores, -torch.inf).log_softmax(-1)
