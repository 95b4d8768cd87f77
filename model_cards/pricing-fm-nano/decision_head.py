"""What precedes a decision: what the manager would do, what the policy does, and what the state is worth."""

import torch
from torch import nn
from torch.nn import functional

from .configuration_pricing_fm import PricingFMConfig
from .layers import ScaledLinear


class TwoLayerHead(nn.Module):
    """A small MLP on the trunk's state beside the recursion's state.

    Args:
        input_size, hidden_size, output_size (`int`): Widths.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.head_in = nn.Linear(input_size, hidden_size)
        self.head_out = ScaledLinear(hidden_size, output_size, 0.1, [0.0] * output_size)

    def forward(self, hidden: torch.Tensor, decision_features: torch.Tensor) -> torch.Tensor:
        """`(..., size)` and `(..., features)` -> `(..., output_size)`, float32."""
        features = torch.cat([hidden, decision_features.to(hidden.dtype)], dim=-1)
        return self.head_out(functional.silu(self.head_in(features))).float()


def gated_log_probs(logits: torch.Tensor, current_actions: torch.Tensor) -> torch.Tensor:
    """Two-part choice: keep the last action or not, and if not, which action.

    Args:
        logits (`(..., 1 + actions)`): Gate logit (change), then action logits.
        current_actions (`(...)`, long): Last period's action.

    Returns:
        `(..., actions)`: Log probabilities; the current action gets the keep probability on top of its own.
    """
    log_change, log_keep = functional.logsigmoid(logits[..., :1]), functional.logsigmoid(-logits[..., :1])
    log_probs = log_change + logits[..., 1:].log_softmax(-1)
    index = current_actions[..., None]
    kept = torch.logaddexp(log_probs.gather(-1, index), log_keep)
    return log_probs.scatter(-1, index, kept)


class DecisionHead(nn.Module):
    """Behaviour, policy and value from the state before the decision and the known recursion states.

    Args:
        config (`PricingFMConfig`): Sizes and the number of actions.
    """

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__()
        size, features = config.hidden_size, config.hidden_size + config.num_decision_features
        self.behavior_head = TwoLayerHead(features, size, 1 + config.num_actions)
        self.policy_head = TwoLayerHead(features, size, 1 + config.num_actions)
        self.value_head = TwoLayerHead(features, size, 1)

    def behavior_log_probs(
        self, hidden: torch.Tensor, decision_features: torch.Tensor, current_actions: torch.Tensor
    ) -> torch.Tensor:
        """Log probabilities of the manager's actions, `(B, H, actions)`."""
        return gated_log_probs(self.behavior_head(hidden, decision_features), current_actions)

    def policy_log_probs(
        self, hidden: torch.Tensor, decision_features: torch.Tensor, current_actions: torch.Tensor
    ) -> torch.Tensor:
        """Log probabilities of the policy's actions, `(B, H, actions)`."""
        return gated_log_probs(self.policy_head(hidden, decision_features), current_actions)

    def values(self, hidden: torch.Tensor, decision_features: torch.Tensor) -> torch.Tensor:
        """Value of the state, `(B, H)`; reference revenues per period."""
        return self.value_head(hidden, decision_features).squeeze(-1)
