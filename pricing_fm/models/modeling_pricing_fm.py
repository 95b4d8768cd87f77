"""The pricing transformer: a trunk over context patches, a decoder over future steps, demand and decision heads.

Shapes: B items, T = context_length, H future steps, P candidate price paths, Q quantile levels, M response members.
The context is encoded once; a price path costs one evaluation of the response head.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init

from .channels import (
    INTERVENTION_SLOT,
    INVENTORY_SLOT,
    LEVEL_SLOT,
    LOCAL_SLOTS,
    PAST_PRICE_CHANNEL,
    PRICE_SCALE,
    PRICE_SLOT,
    PROMOTION_SLOTS,
    RESIDUAL_SLOTS,
    SLOPE_COLUMNS,
    SLOPE_SCALE,
)
from .configuration_pricing_fm import PricingFMConfig
from .decision_head import DecisionHead
from .demand_head import DemandHead, starting_points
from .layers import DecoderLayer, EncoderLayer, ResidualMLP, RMSNorm, ScaledLinear
from .losses import mean_over_observed
from .outputs import DecisionOutput, DemandOutput, PricingFMModelOutput

Batch = dict[str, torch.Tensor]

# Prefix tokens before the patches: what is constant in the item, and its category.
NUM_PREFIX_TOKENS = 2
CATEGORY_SLOT = 1
# Rows of `role_tokens`.
STATIC_ROLE, CATEGORY_ROLE, DEMAND_ROLE, DECISION_ROLE = range(4)


class PricingFMPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, shared by all heads."""

    config_class = PricingFMConfig
    base_model_prefix = "model"
    main_input_name = "past_values"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    lora_target_modules: ClassVar[tuple[str, ...]] = (
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("quantile_head", "count_head", "level_head", "response_head", "slope_head", "carry_head"),
        *("pooling_head", "head_in", "head_out"),
    )
    """Linears that adapters may change: trunk and heads by name."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            gain = module.gain if isinstance(module, ScaledLinear) else 1.0
            init.normal_(module.weight, std=gain * module.in_features**-0.5)
            if isinstance(module, ScaledLinear) and module.start is not None:
                init.copy_(module.bias, torch.tensor(module.start))
            elif module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.Embedding):
            # Zero, so that a category never seen in training adds nothing.
            init.zeros_(module.weight)
        elif isinstance(module, PricingFMModel):
            init.normal_(module.role_tokens, std=0.5)


class PricingFMModel(PricingFMPreTrainedModel):
    """The trunk: encodes a context once, decodes future steps from it.

    Args:
        config (`PricingFMConfig`): Sizes.
    """

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        step_features = 2 * config.num_past_channels + config.num_time_features
        self.patch_embedding = ResidualMLP(config.patch_length * step_features, size)
        self.static_embedding = ResidualMLP(2 * config.num_static_reals, size)
        self.category_embedding: nn.Module = nn.Embedding(config.num_static_buckets, size)
        self.future_embedding = ResidualMLP(2 * config.num_known_channels + config.num_time_features, size)
        # One vector each that says what a token is: static prefix, category prefix, demand step, decision step.
        self.role_tokens = nn.Parameter(torch.zeros(4, size))
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.encoder_norm = RMSNorm(size, config.rms_norm_eps)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.decoder_norm = RMSNorm(size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The hashed embedding of static categories."""
        return self.category_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces that embedding."""
        self.category_embedding = value

    def _positions(self, tokens: int, device: torch.device) -> torch.Tensor:
        # Centre of each patch in periods before the origin; the two prefix tokens stand at the origin itself.
        patch = self.config.patch_length
        centres = (torch.arange(tokens, device=device) - tokens) * patch + (patch - 1) / 2
        return torch.cat([torch.zeros(NUM_PREFIX_TOKENS, device=device), centres])

    def _run(self, layer: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor,
        past_time_features: torch.Tensor,
        static_categorical_features: torch.Tensor,
        static_real_features: torch.Tensor,
        static_real_mask: torch.Tensor,
    ) -> PricingFMModelOutput:
        """Encodes the context.

        Args:
            past_values (`(B, T, channels)`): Scaled channels, right-aligned at the forecast origin.
            past_observed_mask (`(B, T, channels)`, bool): True = observed.
            past_time_features (`(B, T, time features)`): Calendar.
            static_categorical_features (`(B, categories)`, long): Hashed values; 0 = missing.
            static_real_features (`(B, reals)`): Level information.
            static_real_mask (`(B, reals)`, bool): True = known.

        Returns:
            `PricingFMModelOutput`.

        Raises:
            ValueError: If T exceeds the configuration's `context_length` or is no multiple of its `patch_length`. Fewer
                periods give the answer of the same periods with nothing observed before them.
        """
        length, patch = past_values.shape[1], self.config.patch_length
        if length > self.config.context_length or length % patch:
            raise ValueError(
                f"past_values hold {length} periods; expected a multiple of {patch} (patch_length) up to "
                f"{self.config.context_length} (context_length). Set the processor's context_length"
            )
        mask = past_observed_mask.to(self.dtype)
        steps = torch.cat([past_values.to(self.dtype) * mask, mask, past_time_features.to(self.dtype)], dim=-1)
        patches = self.patch_embedding(steps.unflatten(1, (-1, patch)).flatten(2))
        observed = past_observed_mask.any(-1).unflatten(1, (-1, patch)).any(-1)
        static, prefix = self._embed_static(static_categorical_features, static_real_features, static_real_mask)
        hidden = torch.cat([prefix, patches], dim=1)
        token_mask = torch.cat([observed.new_ones(len(observed), NUM_PREFIX_TOKENS), observed], dim=1)
        positions = self._positions(length // patch, hidden.device)
        for layer in self.encoder:
            hidden = self._run(layer, hidden, positions, token_mask)
        return PricingFMModelOutput(
            context_states=self.encoder_norm(hidden), context_mask=token_mask, static_state=static
        )

    def _embed_static(
        self, categories: torch.Tensor, reals: torch.Tensor, reals_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is constant in the item `(B, size)`, and the prefix tokens `(B, 2, size)`."""
        embedded = self.category_embedding(categories) * (categories > 0)[..., None]
        mask = reals_mask.to(self.dtype)
        static = self.static_embedding(torch.cat([reals.to(self.dtype) * mask, mask], dim=-1)) + embedded.sum(1)
        tokens = [static + self.role_tokens[STATIC_ROLE], embedded[:, CATEGORY_SLOT] + self.role_tokens[CATEGORY_ROLE]]
        return static, torch.stack(tokens, dim=1)

    def decode(
        self,
        encoded: PricingFMModelOutput,
        future_time_features: torch.Tensor,
        future_known_values: torch.Tensor,
        future_known_mask: torch.Tensor,
        role: int,
    ) -> torch.Tensor:
        """States of future steps.

        Args:
            encoded (`PricingFMModelOutput`): The context.
            future_time_features (`(B, H, time features)`): Calendar.
            future_known_values (`(B, H, known channels)`): Scaled channels.
            future_known_mask (`(B, H, known channels)`, bool): True = known.
            role (`int`): Row of the role tokens: `DEMAND_ROLE` or `DECISION_ROLE`.

        Returns:
            `(B, H, hidden_size)`.
        """
        mask = future_known_mask.to(self.dtype)
        known = future_known_values.to(self.dtype) * mask
        features = torch.cat([known, mask, future_time_features.to(self.dtype)], dim=-1)
        hidden = self.future_embedding(features) + encoded.static_state[:, None] + self.role_tokens[role]
        positions = torch.arange(hidden.shape[1], device=hidden.device, dtype=torch.float32)
        context_positions = self._positions(encoded.context_states.shape[1] - NUM_PREFIX_TOKENS, hidden.device)
        for layer in self.decoder:
            hidden = self._run(
                layer, hidden, positions, encoded.context_states, context_positions, encoded.context_mask
            )
        return self.decoder_norm(hidden)


class PricingFMForDemand(PricingFMPreTrainedModel):
    """Demand given a price path: quantiles, mean and elasticity; with `future_values`, the loss."""

    # A file with more heads than asked for is complete for what was asked; nothing else in it may pass unnoticed.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^(decision_head|patch_head)\."]

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__(config)
        self.model = PricingFMModel(config)
        self.demand_head = DemandHead(config)
        self.post_init()

    def encode(self, batch: Batch) -> PricingFMModelOutput:
        """Encodes the context part of a processor's batch."""
        return self.model(
            batch["past_values"],
            batch["past_observed_mask"],
            batch["past_time_features"],
            batch["static_categorical_features"],
            batch["static_real_features"],
            batch["static_real_mask"],
        )

    def demand_states(self, encoded: PricingFMModelOutput, batch: Batch) -> torch.Tensor:
        """Decoder states of demand steps, and behind each what the heads start from: `(B, H, size + starts)`.

        In the free mode `(B, P, H, size + starts)`, one per price path.
        """
        values, mask = batch["future_known_values"].clone(), batch["future_known_mask"].clone()
        mask[..., INVENTORY_SLOT] = False  # demand is what the stock does not limit
        values[..., PRICE_SLOT] = 0.0
        calendar = batch["future_time_features"]
        starts = starting_points(
            values[..., LEVEL_SLOT],
            values[..., RESIDUAL_SLOTS],
            batch["static_real_features"][:, SLOPE_COLUMNS] * SLOPE_SCALE,
            mask[..., LEVEL_SLOT],
            batch["static_real_mask"][:, SLOPE_COLUMNS],
            values[..., INTERVENTION_SLOT] * mask[..., INTERVENTION_SLOT],
        ).to(self.dtype)
        if self.config.price_response == "monotone":
            return torch.cat([self.model.decode(encoded, calendar, values, mask, DEMAND_ROLE), starts], dim=-1)
        paths = []
        for path in batch["candidate_prices"].unbind(1):
            priced = values.clone()
            priced[..., PRICE_SLOT] = path / PRICE_SCALE
            states = self.model.decode(encoded, calendar, priced, mask, DEMAND_ROLE)
            paths.append(torch.cat([states, starts], dim=-1))
        return torch.stack(paths, dim=1)

    def past_log_prices(self, batch: Batch) -> torch.Tensor:
        """Log price ratios of the last `carry_over_length` periods, 0 where unknown: `(B, carry_over_length)`."""
        recent = slice(-self.config.carry_over_length, None)
        values = batch["past_values"][:, recent, PAST_PRICE_CHANNEL] * PRICE_SCALE
        values = torch.where(batch["past_observed_mask"][:, recent, PAST_PRICE_CHANNEL], values, 0.0)
        return nn.functional.pad(values, (self.config.carry_over_length - values.shape[1], 0))

    def respond(self, states: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-response and elasticity `(B, P, M, H)` of the candidate paths.

        Raises:
            ValueError: If the price response is free: it has no curve of its own.
        """
        if self.demand_head.response is None:
            raise ValueError("this network has price_response='free'; only the monotone one has a response curve")
        known = batch["future_known_mask"][:, None, :, PRICE_SLOT]
        prices = torch.where(known, batch["candidate_prices"], 0.0)
        return self.demand_head.response(states, prices, self.past_log_prices(batch))

    def demand(self, encoded: PricingFMModelOutput, batch: Batch) -> DemandOutput:
        """Demand along `candidate_prices` `(B, P, H)` (log ratio to the reference price), in units per period."""
        states = self.demand_states(encoded, batch)
        scale, whole = batch["scale"], batch["units_are_whole"]
        if self.demand_head.response is None:
            quantiles, mean = self.demand_head.demand(states, torch.zeros_like(batch["candidate_prices"]), scale, whole)
            return DemandOutput(quantile_values=quantiles, mean=mean)
        response, slope = self.respond(states, batch)
        quantiles, mean = self.demand_head.demand(states[:, None], response.mean(2), scale, whole)
        return DemandOutput(
            quantile_values=quantiles,
            mean=mean,
            elasticity=slope.mean(2),
            elasticity_std=slope.std(2, correction=min(1, slope.shape[2] - 1)),
            member_response=response,
        )

    def demand_loss(self, encoded: PricingFMModelOutput, batch: Batch) -> tuple[torch.Tensor, Batch]:
        """Loss of the logged path per sample `(B,)`, and its parts; `loss_weights` `(B,)` in the batch multiply it."""
        states = self.demand_states(encoded, batch)
        if self.demand_head.response is None:
            loss, parts = self.demand_head.loss(states[:, 0], None, batch)
        else:
            loss, parts = self.demand_head.loss(states, self.respond(states, batch)[0][:, 0], batch)
        if "loss_weights" in batch:
            loss = loss * batch["loss_weights"]
        return loss, parts

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Demand; with `future_values` the loss too, and in training nothing but the loss.

        Args:
            batch (`dict`): From `PricingFMProcessor`.
        """
        encoded = self.encode(batch)
        if "future_values" not in batch:
            return self.demand(encoded, batch)
        # A forecast costs as much as the loss, and in training nobody reads it.
        output = DemandOutput() if self.training else self.demand(encoded, batch)
        loss, output.loss_terms = self.demand_loss(encoded, batch)
        output.loss = loss.mean()
        return output


class PricingFMForPolicy(PricingFMForDemand):
    """Demand, and the behaviour, policy and value heads on the state before each decision."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^patch_head\."]

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__(config)
        self.decision_head = DecisionHead(config)
        self.post_init()

    def decision_states(self, encoded: PricingFMModelOutput, batch: Batch) -> torch.Tensor:
        """States before each decision, `(B, H, size)`: calendar and stock are known, price and promotion are not."""
        mask = batch["future_known_mask"].clone()
        for slot in (PROMOTION_SLOTS, INTERVENTION_SLOT, PRICE_SLOT, LOCAL_SLOTS):
            mask[..., slot] = False
        return self.model.decode(
            encoded, batch["future_time_features"], batch["future_known_values"], mask, DECISION_ROLE
        )

    def decide(self, encoded: PricingFMModelOutput, batch: Batch) -> DecisionOutput:
        """What the manager would do, what the policy does, and the value of each state."""
        states = self.decision_states(encoded, batch)
        features, current = batch["decision_features"], batch["current_actions"]
        return DecisionOutput(
            behavior_log_probs=self.decision_head.behavior_log_probs(states, features, current),
            policy_log_probs=self.decision_head.policy_log_probs(states, features, current),
            state_values=self.decision_head.values(states, features),
        )

    def behavior_loss(self, encoded: PricingFMModelOutput, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the logged actions, `(B,)`."""
        states = self.decision_states(encoded, batch)
        log_probs = self.decision_head.behavior_log_probs(states, batch["decision_features"], batch["current_actions"])
        chosen = log_probs.gather(-1, batch["logged_actions"][..., None]).squeeze(-1)
        return mean_over_observed(-chosen, batch["logged_action_mask"])


class PricingFMForPreTraining(PricingFMForPolicy):
    """All heads plus reconstruction of hidden patches: one masked multi-task loss.

    The policy and value heads are not reached by it, and have `requires_grad=False` in a network that was built (see
    `freeze_unreached_heads`). `PricingFMForPolicy` trains them. What pools a category is left to adapters.

    Args:
        config (`PricingFMConfig`): Sizes.
    """

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^$"]

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__(config)
        self.patch_head = nn.Linear(config.hidden_size, config.patch_length)
        self.freeze_unreached_heads()
        self.post_init()

    def freeze_unreached_heads(self) -> None:
        """Takes the policy and value heads, which the pretraining loss does not reach, and pooling out of training.

        So neither weight decay nor an average moves them, and data-parallel training waits for no gradient that never
        comes. The library makes every loaded parameter trainable: call this after `from_pretrained`, too.
        """
        self.decision_head.policy_head.requires_grad_(False)
        self.decision_head.value_head.requires_grad_(False)
        if self.demand_head.response is not None:
            self.demand_head.response.pooling_head.requires_grad_(False)

    def patch_loss(self, encoded: PricingFMModelOutput, batch: Batch) -> torch.Tensor:
        """Smooth absolute error of hidden past units, on the asinh scale, `(B,)`."""
        predictions = self.patch_head(encoded.context_states[:, NUM_PREFIX_TOKENS:]).float().flatten(1)
        error = nn.functional.smooth_l1_loss(predictions, batch["hidden_values"], reduction="none", beta=0.5)
        return mean_over_observed(error, batch["hidden_mask"])

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """The pretraining loss when `future_values` is given, else demand.

        Args:
            batch (`dict`): From `PretrainBatchSource`, or from the processor: then nothing is reconstructed.
        """
        encoded = self.encode(batch)
        if "future_values" not in batch:
            return self.demand(encoded, batch)
        loss, parts = self.demand_loss(encoded, batch)
        behavior = self.behavior_loss(encoded, batch)
        loss, parts["behavior"] = loss + self.config.behavior_loss_weight * behavior, behavior.mean()
        if "hidden_values" in batch:
            hidden = self.patch_loss(encoded, batch)
            loss, parts["patch"] = loss + self.config.patch_loss_weight * hidden, hidden.mean()
        return DemandOutput(loss=loss.mean(), loss_terms=parts)


PricingFMModel.register_for_auto_class("AutoModel")
PricingFMForDemand.register_for_auto_class("AutoModelForTimeSeriesPrediction")
PricingFMForPreTraining.register_for_auto_class("AutoModelForPreTraining")
