"""What the network returns. Shapes: B items, P price paths, H future steps, Q quantile levels, M response members."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class PricingFMModelOutput(ModelOutput):
    """States of the trunk.

    Args:
        context_states (`(B, tokens, hidden_size)`): Encoder states, the category and static prefix tokens first.
        context_mask (`(B, tokens)`, bool): True = the token may be attended to.
        static_state (`(B, hidden_size)`): What is constant in the item.
    """

    context_states: torch.Tensor | None = None
    context_mask: torch.Tensor | None = None
    static_state: torch.Tensor | None = None


@dataclass
class DemandOutput(ModelOutput):
    """Demand along candidate price paths, in units per period.

    Args:
        loss (`()`): Mean over the batch of per-sample means over observed steps.
        loss_terms (`dict[str, ()]`): Its parts, before weighting.
        quantile_values (`(B, P, H, Q)`): Quantiles of unconstrained demand.
        mean (`(B, P, H)`): Expected unconstrained demand.
        elasticity (`(B, P, H)`): d log demand / d log price when the whole path moves; members' mean.
        elasticity_std (`(B, P, H)`): Standard deviation over the members.
        member_response (`(B, P, M, H)`): Log-response of each member relative to the reference price.
    """

    loss: torch.Tensor | None = None
    loss_terms: dict[str, torch.Tensor] | None = None
    quantile_values: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    elasticity: torch.Tensor | None = None
    elasticity_std: torch.Tensor | None = None
    member_response: torch.Tensor | None = None


@dataclass
class DecisionOutput(ModelOutput):
    """What precedes a decision. Nothing here has seen the price or the sales of the step it belongs to.

    Args:
        behavior_log_probs (`(B, H, actions)`): What the manager would do.
        policy_log_probs (`(B, H, actions)`): What the policy does.
        values (`(B, H)`): Discounted reward from this step on, relative to keeping the price, in units of the item's
            reference revenue per period.
    """

    behavior_log_probs: torch.Tensor | None = None
    policy_log_probs: torch.Tensor | None = None
    values: torch.Tensor | None = None
