"""Sizes and fixed choices of the network. Everything that changes a tensor shape stands here."""

from dataclasses import field
from typing import Any, ClassVar

from transformers import PreTrainedConfig

MODEL_SIZES = {
    "nano": {"hidden_size": 128, "num_encoder_layers": 4, "num_decoder_layers": 2, "num_attention_heads": 4},
    "small": {
        "hidden_size": 256,
        "num_encoder_layers": 6,
        "num_decoder_layers": 2,
        "num_attention_heads": 8,
        # 2,048 rows would take it past 8 M parameters.
        "num_static_buckets": 1760,
    },
    "base": {
        "hidden_size": 384,
        "num_encoder_layers": 8,
        "num_decoder_layers": 2,
        "num_attention_heads": 8,
        # Likewise 21 M.
        "num_static_buckets": 2016,
    },
}
"""Width and depth by name; parameters: nano 1.9 M, small 8.0 M, base 21.0 M."""

QUANTILE_LEVELS = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)
RESPONSE_KNOTS = (-0.5, -0.35, -0.22, -0.1, 0.0, 0.12, 0.25)

# Where a Hub repository's own code holds what each Auto class builds. Written into every config.json, because saving
# one head only writes the entry of that head.
AUTO_MAP = {
    "AutoConfig": "configuration_pricing_fm.PricingFMConfig",
    "AutoModel": "modeling_pricing_fm.PricingFMModel",
    "AutoModelForTimeSeriesPrediction": "modeling_pricing_fm.PricingFMForDemand",
    "AutoModelForPreTraining": "modeling_pricing_fm.PricingFMForPreTraining",
}


class PricingFMConfig(PreTrainedConfig):
    """Configuration of the pricing transformer.

    Args:
        hidden_size (`int`): Width of the trunk.
        num_encoder_layers (`int`): Layers over the context patches.
        num_decoder_layers (`int`): Layers over the future steps.
        num_attention_heads (`int`): Attention heads; divides `hidden_size`.
        patch_length (`int`): Periods per context token; divides `context_length`.
        context_length (`int`): Most past periods the network reads.
        num_past_channels, num_known_channels, num_time_features, num_static_reals, num_static_categories (`int`):
            Widths of the processor's arrays.
        num_static_buckets (`int`): Rows of the hashed embedding of static categories.
        quantile_levels (`list[float]`): Probabilities of the quantile head, increasing.
        price_response (`str`): `"monotone"` (demand never rises with price) or `"free"` (price enters the decoder).
        response_knots (`list[float]`): Centres of the saturating response functions, log price ratios.
        response_width (`float`): Their width, log price ratio.
        num_response_members (`int`): Bootstrap members of the response head; their spread is how uncertain the
            elasticity is.
        carry_over_length (`int`): Earlier periods whose discounts may lower today's demand.
        num_rungs, ladder_step, ladder_start (`int`, `float`, `float`): Price ladder: rung `k` is the reference price
            times `exp(ladder_start + k * ladder_step)`; one rung is the reference price itself.
        num_promotion_types (`int`): Second half of an action: 0 = no promotion, 1 = promoted.
        num_decision_features (`int`): Recursion states that enter the decision heads.
        slow_mover_scale (`float`): Items of whole units that sell fewer per period than this get count quantiles.
        count_loss_weight, elasticity_loss_weight, behavior_loss_weight, patch_loss_weight (`float`): Parts of the
            training loss beside the quantiles: likelihood of the mean, true elasticities of simulated windows, logged
            decisions, hidden patches.
        censored_loss (`bool`): A sold-out period is a lower bound of demand; False takes it for demand.
        loss_bend (`float`): Multiple of usual sales above which errors count by their logarithm; 0 = none.
        rope_base (`float`): Longest wavelength of the rotary positions in periods, over 2 pi.
        rms_norm_eps (`float`): Added to the mean square before its root.

    Raises:
        ValueError: If sizes do not divide, levels do not increase, or the ladder misses the reference price.
    """

    model_type = "pricing_fm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["loss_terms"]

    hidden_size: int = 128
    num_encoder_layers: int = 4
    num_decoder_layers: int = 2
    num_attention_heads: int = 4
    patch_length: int = 4
    context_length: int = 104
    num_past_channels: int = 21
    num_known_channels: int = 24
    num_time_features: int = 18
    num_static_reals: int = 58
    num_static_categories: int = 9
    num_static_buckets: int = 2048
    quantile_levels: list[float] = field(default_factory=lambda: list(QUANTILE_LEVELS))
    price_response: str = "monotone"
    response_knots: list[float] = field(default_factory=lambda: list(RESPONSE_KNOTS))
    response_width: float = 0.12
    num_response_members: int = 8
    carry_over_length: int = 4
    num_rungs: int = 43
    ladder_step: float = 0.025
    ladder_start: float = -0.7
    num_promotion_types: int = 2
    num_decision_features: int = 8
    slow_mover_scale: float = 3.0
    count_loss_weight: float = 0.1
    elasticity_loss_weight: float = 0.5
    behavior_loss_weight: float = 0.05
    patch_loss_weight: float = 0.1
    censored_loss: bool = True
    loss_bend: float = 4.0
    rope_base: float = 1000.0
    rms_norm_eps: float = 1e-6

    def __post_init__(self, **kwargs: Any) -> None:
        self._check()
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of 2 x num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if self.context_length % self.patch_length:
            raise ValueError(
                f"context_length ({self.context_length}) must be a multiple of patch_length ({self.patch_length})"
            )
        if self.price_response not in ("monotone", "free"):
            raise ValueError(f"price_response must be 'monotone' or 'free', found {self.price_response!r}")
        levels = self.quantile_levels
        if levels != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
            raise ValueError(f"quantile_levels must increase strictly inside (0, 1), found {levels}")
        losses = {name: getattr(self, f"{name}_loss_weight") for name in ("count", "elasticity", "behavior", "patch")}
        losses["loss_bend"] = self.loss_bend
        if min(losses.values()) < 0:
            raise ValueError(f"weights of losses and loss_bend must be 0 or more, found {losses}")
        counts = {name: getattr(self, name) for name in ("num_response_members", "carry_over_length", "num_rungs")}
        if min(counts.values()) < 1:
            raise ValueError(f"expected 1 or more of each, found {counts}")
        reference_rung = -self.ladder_start / self.ladder_step
        if abs(reference_rung - round(reference_rung)) > 1e-6 or not 0 <= reference_rung < self.num_rungs:
            raise ValueError(
                "the ladder must contain the reference price: -ladder_start / ladder_step must be a whole number below "
                f"num_rungs, found {reference_rung}"
            )

    @property
    def intermediate_size(self) -> int:
        """Width of the gated feed-forward layers: 8/3 of the trunk, rounded up to a multiple of 8."""
        return -(-8 * self.hidden_size // 24) * 8

    @property
    def reference_rung(self) -> int:
        """Index of the rung that is the reference price."""
        return round(-self.ladder_start / self.ladder_step)

    @property
    def num_actions(self) -> int:
        """Number of (promotion type, rung) pairs; action = promotion_type * num_rungs + rung."""
        return self.num_promotion_types * self.num_rungs

    @classmethod
    def from_size(
        cls,
        size: str,
        price_response: str = "monotone",
        context_length: int = 104,
        patch_length: int = 4,
        **objective: Any,
    ) -> "PricingFMConfig":
        """Configuration of a named size.

        Args:
            size (`str`): `nano`, `small` or `base`.
            price_response (`str`): As in the class.
            context_length (`int`): As in the class.
            patch_length (`int`): As in the class.
            **objective: Weights of the losses and `censored_loss`, as in the class.

        Returns:
            `PricingFMConfig`.

        Raises:
            ValueError: If `size` is not one of `MODEL_SIZES`.
        """
        if size not in MODEL_SIZES:
            raise ValueError(f"unknown size {size!r}; choose one of {sorted(MODEL_SIZES)}")
        return cls(
            **MODEL_SIZES[size],
            price_response=price_response,
            context_length=context_length,
            patch_length=patch_length,
            **objective,
        )


PricingFMConfig.register_for_auto_class()
