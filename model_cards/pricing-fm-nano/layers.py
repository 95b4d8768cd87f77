"""Building blocks of the trunk: explicit linears, so that adapters can name them."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from .configuration_pricing_fm import PricingFMConfig


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalises the last dimension."""
        # Under autocast queries and keys are half precision and the weight is not; fused kernels want one type.
        return functional.rms_norm(hidden, self.weight.shape, self.weight.to(hidden.dtype), self.eps)


def rotate(states: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), computed on the fly: no buffer to lose on loading.

    Args:
        states (`(B, heads, tokens, head_size)`): Queries or keys.
        positions (`(tokens,)`): Periods relative to the forecast origin; the past is negative.
        base (`float`): Longest wavelength in periods, over 2 pi.

    Returns:
        `(B, heads, tokens, head_size)`.
    """
    half = states.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=states.device, dtype=torch.float32) / half)
    angles = positions.to(torch.float32)[:, None] * frequencies
    cosine, sine = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
    first, second = states[..., :half], states[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class ScaledLinear(nn.Linear):
    """A linear layer that says how it starts: weights `gain / sqrt(inputs)`, biases as given.

    The library initialises leaves before their parents and never twice, so a parent cannot correct its linears.

    Args:
        in_features, out_features (`int`): As in `nn.Linear`.
        gain (`float`): Standard deviation of the weights times the root of `in_features`.
        start (`Sequence[float]`, *optional*): Biases; without them the layer has none.
    """

    def __init__(self, in_features: int, out_features: int, gain: float, start: Sequence[float] | None = None) -> None:
        super().__init__(in_features, out_features, bias=start is not None)
        self.gain, self.start = gain, start


class Attention(nn.Module):
    """Multi-head attention with query-key normalisation and rotary positions; self- or cross-attention.

    References:
        Vaswani et al. 2017, arXiv:1706.03762; query-key normalisation as in Dehghani et al. 2023, arXiv:2302.05442.
    """

    def __init__(self, hidden_size: int, num_heads: int, eps: float, rope_base: float, out_gain: float) -> None:
        super().__init__()
        self.num_heads, self.head_size, self.rope_base = num_heads, hidden_size // num_heads, rope_base
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = ScaledLinear(hidden_size, hidden_size, out_gain)
        self.q_norm = RMSNorm(self.head_size, eps)
        self.k_norm = RMSNorm(self.head_size, eps)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)

    def forward(
        self,
        hidden: torch.Tensor,
        memory: torch.Tensor,
        query_positions: torch.Tensor,
        key_positions: torch.Tensor,
        mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        """Attends from `hidden` to `memory`.

        Args:
            hidden (`(B, queries, size)`): What asks.
            memory (`(B, keys, size)`): What is read.
            query_positions (`(queries,)`): Periods relative to the forecast origin.
            key_positions (`(keys,)`): The same for `memory`.
            mask (`(B, keys)`, bool, *optional*): True = may be attended to; every row needs one.
            is_causal (`bool`): True = a query reads nothing after its own place.

        Returns:
            `(B, queries, size)`.
        """
        queries = rotate(self.q_norm(self._heads(self.q_proj(hidden))), query_positions, self.rope_base)
        keys = rotate(self.k_norm(self._heads(self.k_proj(memory))), key_positions, self.rope_base)
        values = self._heads(self.v_proj(memory))
        attention_mask = None if mask is None else mask[:, None, None, :]
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=attention_mask, is_causal=is_causal
        )
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU feed-forward layer (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int, out_gain: float) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = ScaledLinear(intermediate_size, hidden_size, out_gain)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Applies the layer to the last dimension."""
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


def residual_gain(config: PricingFMConfig) -> float:
    """Start of the layers that write into the residual stream: its variance does not grow with depth."""
    return (2 * (config.num_encoder_layers + config.num_decoder_layers)) ** -0.5


class EncoderLayer(nn.Module):
    """Pre-norm self-attention over context tokens, then a gated MLP."""

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__()
        eps, gain = config.rms_norm_eps, residual_gain(config)
        self.attention_norm = RMSNorm(config.hidden_size, eps)
        self.attention = Attention(config.hidden_size, config.num_attention_heads, eps, config.rope_base, gain)
        self.mlp_norm = RMSNorm(config.hidden_size, eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, gain)

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`hidden` `(B, tokens, size)`, `positions` `(tokens,)`, `mask` `(B, tokens)` -> `(B, tokens, size)`."""
        normed = self.attention_norm(hidden)
        hidden = hidden + self.attention(normed, normed, positions, positions, mask)
        return hidden + self.mlp(self.mlp_norm(hidden))


class DecoderLayer(nn.Module):
    """Causal self-attention over future steps, cross-attention to the context, then a gated MLP.

    Causal, so that the forecast of a step does not depend on how many later steps are asked for.
    """

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__()
        eps, gain = config.rms_norm_eps, residual_gain(config)
        self.attention_norm = RMSNorm(config.hidden_size, eps)
        self.attention = Attention(config.hidden_size, config.num_attention_heads, eps, config.rope_base, gain)
        self.cross_norm = RMSNorm(config.hidden_size, eps)
        self.cross_attention = Attention(config.hidden_size, config.num_attention_heads, eps, config.rope_base, gain)
        self.mlp_norm = RMSNorm(config.hidden_size, eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, gain)

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        context: torch.Tensor,
        context_positions: torch.Tensor,
        context_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Attends to earlier future steps and to the context.

        Args:
            hidden (`(B, H, size)`): Future steps.
            positions (`(H,)`): Periods after the forecast origin.
            context (`(B, tokens, size)`): Encoder states.
            context_positions (`(tokens,)`): Periods relative to the forecast origin.
            context_mask (`(B, tokens)`, bool): True = may be attended to.

        Returns:
            `(B, H, size)`.
        """
        normed = self.attention_norm(hidden)
        hidden = hidden + self.attention(normed, normed, positions, positions, is_causal=True)
        hidden = hidden + self.cross_attention(
            self.cross_norm(hidden), context, positions, context_positions, context_mask
        )
        return hidden + self.mlp(self.mlp_norm(hidden))


class ResidualMLP(nn.Module):
    """Embeds raw features: a linear path plus a two-layer path, so that neither has to imitate the other."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, hidden_size)
        self.up_proj = nn.Linear(input_size, hidden_size)
        self.down_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(..., input_size)` -> `(..., hidden_size)`."""
        return self.linear(features) + self.down_proj(functional.silu(self.up_proj(features)))
