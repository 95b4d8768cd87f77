"""What the network returns. Shapes: B items, P price paths, H future steps, Q quantile levels, M response members."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class PricingFMModelOutput(ModelOutput):
    """States of the trunk. Every field is set.

    Args:
        context_states (`(B, tokens, hidden_size)`): Encoder states, the static and the category prefix tokens first.
        context_mask (`(B, tokens)`, bool): True = the token may be attended to.
        static_state (`(B, hidden_size)`): What is constant in the item.
    """

    # A ModelOutput needs defaults; the fields are typed as what they hold.
    context_states: torch.Tensor = None  # type: ignore[assignment]
    context_mask: torch.Tensor = None  # type: ignore[assignment]
    static_state: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class DemandOutput(ModelOutput):
    """Demand along candidate price paths, in units per period. A training step sets the loss and its terms alone.

    Args:
        loss (`()`): Mean over the batch of per-sample means over observed steps.
        loss_terms (`dict[str, ()]`): Its parts, before weighting.
        quantile_values (`(B, P, H, Q)`): Quantiles of unconstrained demand.
        mean (`(B, P, H)`): Expected unconstrained demand.
        elasticity (`(B, P, H)`): d log demand / d log price when the whole path moves; members' mean. None for a free
            price response.
        elasticity_std (`(B, P, H)`): Standard deviation over the members; 0 for a single member.
        member_response (`(B, P, M, H)`): Log-response of each member relative to the reference price.
    """

    loss: torch.Tensor | None = None
    loss_terms: dict[str, torch.Tensor] | None = None
    quantile_values: torch.Tensor = None  # type: ignore[assignment]
    mean: torch.Tensor = None  # type: ignore[assignment]
    elasticity: torch.Tensor | None = None
    elasticity_std: torch.Tensor | None = None
    member_response: torch.Tensor | None = None


@dataclass
class DecisionOutput(ModelOutput):
    """What precedes a decision. Nothing here has seen the price or the sales of its own step. Every field is set.

    Args:
        behavior_log_probs (`(B, H, actions)`): What the manager would do.
        policy_log_probs (`(B, H, actions)`): What the policy does.
        state_values (`(B, H)`): Discounted reward from this step on, relative to charging the reference price, in
            reference revenues of the item per period. (Not `values`: that is a method of every mapping.)
    """

    behavior_log_probs: torch.Tensor = None  # type: ignore[assignment]
    policy_log_probs: torch.Tensor = None  # type: ignore[assignment]
    state_values: torch.Tensor = None  # type: ignore[assignment]
