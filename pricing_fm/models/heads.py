"""Heads: demand along a price path, and what precedes a decision."""

import math

import torch
from torch import nn
from torch.nn import functional

from .layers import ScaledLinear

# A discount of earlier weeks may take away at most this share of today's response, so that along a constant path
# demand still falls with price.
MAX_CARRY_OVER = 0.5


class PriceResponse(nn.Module):
    """Monotone log-response of demand to the log price ratio `delta`, with `response(0) = 0`.

    `response(delta) = -sum_j softplus(w_j) phi_j(delta)` on fixed increasing functions: `delta` itself (constant
    elasticity) and saturating ones around the knots. The weights are predicted per item, step and bootstrap member.
    Recent discounts take back part of it: `g_t = -(G_t(delta_t) - sum_k kappa_k G_t(delta_{t-k}))`,
    `sum_k kappa_k <= 0.5`.
    """

    def __init__(self, config):
        super().__init__()
        self.members, self.lags = config.num_response_members, config.carry_over_length
        self.width = config.response_width
        self.knots = tuple(config.response_knots)
        # softplus(1.2) = 1.5 of constant elasticity, 0.1 on each saturating function: a plain market to start from.
        start = [1.2] + [-2.2] * len(self.knots)
        self.response_head = ScaledLinear(config.hidden_size, self.members * len(start), 0.5, start * self.members)
        self.carry_head = ScaledLinear(config.hidden_size, self.lags + 1, 0.1, [-3.0] + [0.0] * self.lags)

    def basis(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Basis functions and their derivatives at `delta` `(...)`: two tensors `(..., 1 + knots)`."""
        knots = torch.tensor(self.knots, device=delta.device, dtype=delta.dtype)
        at_delta = torch.tanh((delta[..., None] - knots) / self.width)
        values = self.width * (at_delta - torch.tanh(-knots / self.width))
        ones = torch.ones_like(delta)[..., None]
        return torch.cat([delta[..., None], values], dim=-1), torch.cat([ones, 1 - at_delta**2], dim=-1)

    def weights(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Non-negative weights `(B, M, H, basis)` and carry-over shares `(B, H, lags)` of states `(B, H, size)`."""
        weights = functional.softplus(self.response_head(hidden).unflatten(-1, (self.members, -1))).transpose(1, 2)
        carry = self.carry_head(hidden)
        return weights, MAX_CARRY_OVER * carry[..., :1].sigmoid() * carry[..., 1:].softmax(-1)

    def _carried(self, weights, shares, path, basis_values):
        """What earlier prices of `path` `(B, P, lags + H)` take back at each of the H steps: `(B, P, M, H)`."""
        steps, carried = shares.shape[1], 0.0
        for lag in range(1, self.lags + 1):
            window = basis_values[:, :, self.lags - lag : self.lags - lag + steps]
            carried = carried + shares[:, None, None, :, lag - 1] * (weights[:, None] * window[:, :, None]).sum(-1)
        return carried

    def forward(
        self, hidden: torch.Tensor, candidate_prices: torch.Tensor, past_prices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-response and its slope along the path.

        Args:
            hidden (`(B, H, size)`): Decoder states; they have not seen the candidate prices.
            candidate_prices (`(B, P, H)`): Log ratio to the reference price.
            past_prices (`(B, carry_over_length)`): The same for the last past periods; 0 where unknown.

        Returns:
            Response `(B, P, M, H)` and elasticity `(B, P, M, H)`, the derivative when the whole path moves.
        """
        weights, shares = self.weights(hidden)
        past = past_prices[:, None, :].expand(-1, candidate_prices.shape[1], -1)
        path = torch.cat([past, candidate_prices], dim=-1)
        values, slopes = self.basis(path)
        slopes = torch.cat(
            [torch.zeros_like(slopes[:, :, : self.lags]), slopes[:, :, self.lags :]], dim=2
        )  # history stays
        own = (weights[:, None] * values[:, :, None, self.lags :]).sum(-1)
        own_slope = (weights[:, None] * slopes[:, :, None, self.lags :]).sum(-1)
        response = self._carried(weights, shares, path, values) - own
        return response, self._carried(weights, shares, path, slopes) - own_slope

    def on_ladder(
        self, hidden: torch.Tensor, rung_prices: torch.Tensor, path: torch.Tensor, past_prices: torch.Tensor
    ) -> torch.Tensor:
        """Log-response when one step alone moves to each rung and the others stay on the logged path.

        Args:
            hidden (`(B, H, size)`): Decoder states.
            rung_prices (`(B, H, K)`): Log ratio of the rungs to the reference price.
            path (`(B, H)`): Logged prices, log ratio.
            past_prices (`(B, carry_over_length)`): Prices before the first step.

        Returns:
            `(B, K, M, H)`.
        """
        weights, shares = self.weights(hidden)
        full = torch.cat([past_prices, path], dim=-1)[:, None]
        carried = self._carried(weights, shares, full, self.basis(full)[0])
        own = torch.einsum("bmhj,bhkj->bkmh", weights, self.basis(rung_prices)[0])
        return carried - own


class DemandHead(nn.Module):
    """Quantiles, count distribution and price response of one future step."""

    def __init__(self, config):
        super().__init__()
        # Start at the quantiles of a plausible item: 0.2 of its mean at the lowest level, 2.5 at the highest.
        levels = len(config.quantile_levels)
        increments = [0.2] + [1.45 / max(levels - 1, 1)] * (levels - 1)
        start = [math.log(math.expm1(increment)) for increment in increments]
        self.quantile_head = ScaledLinear(config.hidden_size, levels, 0.2, start)
        self.count_head = ScaledLinear(config.hidden_size, 3, 0.2, [0.0, 1.0, -5.0])
        self.response = PriceResponse(config) if config.price_response == "monotone" else None

    def base_quantiles(self, hidden: torch.Tensor) -> torch.Tensor:
        """Quantiles at the reference price in scaled units, non-negative, non-crossing: `(..., size)` -> `(..., Q)`."""
        return torch.sinh(functional.softplus(self.quantile_head(hidden)).cumsum(-1).clamp(max=12.0))

    def count_parameters(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log mean of the count part over the scale, log dispersion, and zero-inflation logit, each `(...)`."""
        log_mean, log_dispersion, zero_logit = self.count_head(hidden).unbind(-1)
        return log_mean.clamp(-8, 8), log_dispersion.clamp(-3, 7), zero_logit.clamp(-12, 6)


class TwoLayerHead(nn.Module):
    """A small MLP on the trunk's state beside the recursion's state."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int):
        super().__init__()
        self.head_in = nn.Linear(input_size, hidden_size)
        self.head_out = ScaledLinear(hidden_size, output_size, 0.1, [0.0] * output_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(..., input_size)` -> `(..., output_size)`."""
        return self.head_out(functional.silu(self.head_in(features)))


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
    """Behaviour, policy and value from the state before the decision and the known recursion states."""

    def __init__(self, config):
        super().__init__()
        size, features = config.hidden_size, config.hidden_size + config.num_decision_features
        self.behavior_head = TwoLayerHead(features, size, 1 + config.num_actions)
        self.policy_head = TwoLayerHead(features, size, 1 + config.num_actions)
        self.value_head = TwoLayerHead(features, size, 1)

    def behavior_log_probs(
        self, hidden: torch.Tensor, decision_features: torch.Tensor, current_actions: torch.Tensor
    ) -> torch.Tensor:
        """Log probabilities of the manager's actions, `(B, H, actions)`."""
        logits = self.behavior_head(torch.cat([hidden, decision_features], dim=-1))
        return gated_log_probs(logits, current_actions)

    def policy_log_probs(
        self, hidden: torch.Tensor, decision_features: torch.Tensor, current_actions: torch.Tensor
    ) -> torch.Tensor:
        """Log probabilities of the policy's actions, `(B, H, actions)`."""
        logits = self.policy_head(torch.cat([hidden, decision_features], dim=-1))
        return gated_log_probs(logits, current_actions)

    def values(self, hidden: torch.Tensor, decision_features: torch.Tensor) -> torch.Tensor:
        """Value of the state, `(B, H)`."""
        return self.value_head(torch.cat([hidden, decision_features], dim=-1)).squeeze(-1)
