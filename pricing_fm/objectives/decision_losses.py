"""One function per algorithm of offline policy learning: from logged decisions to the losses of policy and value heads.

Shapes: B items, H steps, K rungs, A actions (promotion type x rung). The last step of a window is a next state and no
decision: its mask is False. Losses are per sample, `(B,)`. Advantages are standardised over the decisions of a batch,
so that one temperature serves every category.
"""

from dataclasses import dataclass

import torch

from pricing_fm.models.losses import mean_over_observed
from pricing_fm.objectives.implicit_q import (
    advantage_weights,
    bootstrapped_targets,
    conservative_penalty,
    effective_sample_size,
    expectile_loss,
)
from pricing_fm.objectives.ladder_policy import advantage_weighted_loss, soft_action_values, squared_value_error

# Reward, in reference revenues per period, that makes a rung e times as likely where a policy stands for action values.
SOFT_VALUE_TEMPERATURE = 0.05


@dataclass(frozen=True)
class Decisions:
    """Logged decisions, and what the heads say of them.

    Args:
        policy_log_probs (`(B, H, A)`): Learned.
        behavior_log_probs (`(B, H, A)`): Of the manager, without a gradient.
        values (`(B, H)`): Of the states; learned; reference revenues per period.
        actions (`(B, H)`, long): What was done.
        mask (`(B, H)`, bool): True = a decision to learn from.
        num_rungs (`int`): K.
    """

    policy_log_probs: torch.Tensor
    behavior_log_probs: torch.Tensor
    values: torch.Tensor
    actions: torch.Tensor
    mask: torch.Tensor
    num_rungs: int

    @property
    def rungs(self) -> torch.Tensor:
        """Logged rungs, `(B, H)`, long."""
        return self.actions % self.num_rungs

    def given_promotion(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Log probabilities of rungs under the logged promotion, `(B, H, K)`: promotions are planned, not chosen."""
        table = log_probs.unflatten(-1, (-1, self.num_rungs))
        promoted = (self.actions // self.num_rungs)[..., None, None].expand(*self.actions.shape, 1, self.num_rungs)
        return table.gather(-2, promoted).squeeze(-2).log_softmax(-1)


@dataclass(frozen=True)
class DecisionLosses:
    """What an algorithm minimises.

    Args:
        policy, value (`(B,)`): Of the two heads; every parameter of both is in their graph, so that data-parallel
            training waits for no gradient that never comes.
        effective_share (`()`, *optional*): Share of the decisions that the weights leave; None = nothing is weighted.
    """

    policy: torch.Tensor
    value: torch.Tensor
    effective_share: torch.Tensor | None = None


def chosen(scores: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Scores `(..., A)` of the actions `(...)`, long."""
    return scores.gather(-1, actions[..., None]).squeeze(-1)


def cloning_losses(decisions: Decisions) -> DecisionLosses:
    """Imitates the manager; values learn nothing.

    References:
        Pomerleau 1991, Neural Computation 3(1).
    """
    imitation = -chosen(decisions.policy_log_probs, decisions.actions)
    policy = mean_over_observed(imitation, decisions.mask)
    return DecisionLosses(policy, 0.0 * decisions.values.sum(-1))


def in_sample_losses(
    decisions: Decisions, targets: torch.Tensor, expectile: float, inverse_temperature: float
) -> DecisionLosses:
    """Expectile values of logged actions, and a policy that imitates them by their advantage.

    Args:
        decisions (`Decisions`): B windows.
        targets (`(B, H)`): Value of each logged action; no gradient (semi-gradient temporal difference).
        expectile (`float`): In (0, 1).
        inverse_temperature (`float`): 0 is behaviour cloning.

    Returns:
        `DecisionLosses`.

    References:
        Kostrikov et al. 2021, arXiv:2110.06169.
    """
    residuals = targets.detach() - decisions.values
    mask = decisions.mask
    weights = advantage_weights(residuals.detach(), mask, inverse_temperature)
    imitation = -chosen(decisions.policy_log_probs, decisions.actions)
    return DecisionLosses(
        policy=mean_over_observed(weights * imitation, mask),
        value=mean_over_observed(expectile_loss(residuals, expectile), mask),
        effective_share=effective_sample_size(weights[mask]) / mask.sum(),
    )


def exact_advantage_losses(
    decisions: Decisions, action_values: torch.Tensor, inverse_temperature: float
) -> DecisionLosses:
    """AWAC with the exact expectation over the ladder: the policy's own values, and its advantage-weighted target.

    Nothing is sampled: the logged rung enters by the manager's probabilities alone.

    Args:
        decisions (`Decisions`): B windows.
        action_values (`(B, H, K)`): Of every rung under the logged promotion; no gradient.
        inverse_temperature (`float`): 0 imitates the manager's whole distribution.

    Returns:
        `DecisionLosses`.

    References:
        Nair et al. 2020, arXiv:2006.09359.
    """
    action_values, mask = action_values.detach(), decisions.mask
    policy = decisions.given_promotion(decisions.policy_log_probs)
    behavior = decisions.given_promotion(decisions.behavior_log_probs).detach()
    expected = (policy.detach().exp() * action_values).sum(-1)
    usual = (behavior.exp() * action_values).sum(-1, keepdim=True)
    advantages = action_values - usual
    variance = (behavior.exp() * advantages**2).sum(-1)[mask].mean()
    # Equal up to rounding is equal: a spread of rounding noise carries no preference.
    flat = variance.sqrt() <= 1e-6 * action_values[mask].abs().amax() if bool(mask.any()) else torch.tensor(True)
    standardised = torch.zeros_like(advantages) if bool(flat) else advantages / variance.sqrt()
    return DecisionLosses(
        policy=mean_over_observed(advantage_weighted_loss(policy, behavior, standardised, inverse_temperature), mask),
        value=mean_over_observed(expectile_loss(expected - decisions.values, 0.5), mask),
    )


def fitted_losses(decisions: Decisions, rewards: torch.Tensor, discount: float, conservatism: float) -> DecisionLosses:
    """Fitted Q on logged rewards; with conservatism, discrete CQL.

    Values and policy stand for action values together, `Q = V + temperature log pi`: the network has no head for Q, and
    the policy's likeliest rung is then the grid's best. The conservative term at this temperature is imitation.

    Args:
        decisions (`Decisions`): B windows.
        rewards (`(B, H)`): Logged, reference revenues per period.
        discount (`float`): Per period.
        conservatism (`float`): Weight of the conservative term; 0 = plain fitted Q.

    Returns:
        `DecisionLosses`.

    References:
        Ernst et al. 2005, JMLR 6; Kumar et al. 2020, arXiv:2006.04779; Haarnoja et al. 2017, arXiv:1702.08165 (policy
        as soft values).
    """
    policy = decisions.given_promotion(decisions.policy_log_probs)
    action_values = soft_action_values(decisions.values, policy, SOFT_VALUE_TEMPERATURE)
    following = torch.nn.functional.pad(action_values.detach().amax(-1)[:, 1:], (0, 1))
    targets = bootstrapped_targets(rewards, following, torch.zeros_like(decisions.mask), discount)
    error = squared_value_error(action_values, decisions.rungs, targets)
    penalty = conservative_penalty(action_values / SOFT_VALUE_TEMPERATURE, decisions.rungs)
    return DecisionLosses(
        policy=conservatism * SOFT_VALUE_TEMPERATURE * mean_over_observed(penalty, decisions.mask),
        value=mean_over_observed(error, decisions.mask),
    )
