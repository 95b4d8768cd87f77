"""The pricing transformer: a trunk over context patches, a decoder over future steps, demand and decision heads.

Shapes: B items, T = context_length, H future steps, P candidate price paths, Q quantile levels, M response members.
The context is encoded once; a price path costs one evaluation of the response head.
"""

from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_pricing_fm import PricingFMConfig
from .heads import DecisionHead, DemandHead
from .layers import DecoderLayer, EncoderLayer, ResidualMLP, RMSNorm, ScaledLinear
from .losses import count_loss, count_quantiles, mean_over_observed, pinball
from .outputs import DecisionOutput, DemandOutput, PricingFMModelOutput

# Slots of `future_known_values` (the processor writes them in this order) that not every pass may see.
LIST_PRICE_SLOT = 0
PROMOTION_SLOTS = slice(1, 5)
INTERVENTION_SLOT = 9
PRICE_SLOT = 10
INVENTORY_SLOT = 11
# Channel of `past_values` with the scaled own price, and its scale: value = log(price / reference) / PRICE_SCALE.
PAST_PRICE_CHANNEL = 1
PRICE_SCALE = 0.25


class PricingFMPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, shared by all heads."""

    config_class = PricingFMConfig
    base_model_prefix = "model"
    main_input_name = "past_values"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    lora_target_modules: ClassVar[tuple[str, ...]] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "quantile_head",
        "count_head",
        "response_head",
        "carry_head",
        "head_in",
        "head_out",
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
    """The trunk: encodes a context once, decodes future steps from it."""

    def __init__(self, config: PricingFMConfig):
        super().__init__(config)
        size = config.hidden_size
        step_features = 2 * config.num_past_channels + config.num_time_features
        self.patch_embedding = ResidualMLP(config.patch_length * step_features, size)
        self.static_embedding = ResidualMLP(2 * config.num_static_reals, size)
        self.category_embedding = nn.Embedding(config.num_static_buckets, size)
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
        """Replaces the hashed embedding of static categories."""
        self.category_embedding = value

    def _positions(self, device: torch.device) -> torch.Tensor:
        # Centre of each patch in periods before the origin; the two prefix tokens stand at the origin itself.
        patch, tokens = self.config.patch_length, self.config.context_length // self.config.patch_length
        centres = (torch.arange(tokens, device=device) - tokens) * patch + (patch - 1) / 2
        return torch.cat([torch.zeros(2, device=device), centres])

    def _run(self, layer: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if self.gradient_checkpointing and self.training:
            return torch.utils.checkpoint.checkpoint(layer, *inputs, use_reentrant=False)
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
            static_real_features, static_real_mask (`(B, reals)`): Level information and its presence.

        Returns:
            `PricingFMModelOutput`.
        """
        mask = past_observed_mask.to(past_values.dtype)
        steps = torch.cat([past_values * mask, mask, past_time_features], dim=-1)
        patches = steps.unflatten(1, (-1, self.config.patch_length)).flatten(2)
        observed = past_observed_mask.any(-1).unflatten(1, (-1, self.config.patch_length)).any(-1)

        present = (static_categorical_features > 0)[..., None]
        categories = self.category_embedding(static_categorical_features) * present
        static_mask = static_real_mask.to(past_values.dtype)
        static = self.static_embedding(torch.cat([static_real_features * static_mask, static_mask], dim=-1))
        static = static + categories.sum(1)
        prefix = torch.stack(
            [static + self.role_tokens[0], categories[:, 1] + self.role_tokens[1]], dim=1
        )  # slot 1 of the static categories is the item's category
        hidden = torch.cat([prefix, self.patch_embedding(patches)], dim=1)
        token_mask = torch.cat([observed.new_ones(len(observed), 2), observed], dim=1)

        positions = self._positions(hidden.device)
        for layer in self.encoder:
            hidden = self._run(layer, hidden, positions, token_mask)
        return PricingFMModelOutput(
            context_states=self.encoder_norm(hidden), context_mask=token_mask, static_state=static
        )

    def decode(
        self,
        encoded: PricingFMModelOutput,
        future_time_features: torch.Tensor,
        future_known_values: torch.Tensor,
        future_known_mask: torch.Tensor,
        role: int,
    ) -> torch.Tensor:
        """States of future steps, `(B, H, hidden_size)`; `role` 2 = demand step, 3 = decision step."""
        mask = future_known_mask.to(future_known_values.dtype)
        features = torch.cat([future_known_values * mask, mask, future_time_features], dim=-1)
        hidden = self.future_embedding(features) + encoded.static_state[:, None] + self.role_tokens[role]
        positions = torch.arange(hidden.shape[1], device=hidden.device, dtype=torch.float32)
        context_positions = self._positions(hidden.device)
        for layer in self.decoder:
            hidden = self._run(
                layer, hidden, positions, encoded.context_states, context_positions, encoded.context_mask
            )
        return self.decoder_norm(hidden)


class PricingFMForDemand(PricingFMPreTrainedModel):
    """Demand given a price path: quantiles, mean and elasticity; `future_values` turn it into a loss."""

    def __init__(self, config: PricingFMConfig):
        super().__init__(config)
        self.model = PricingFMModel(config)
        self.demand_head = DemandHead(config)
        self.post_init()

    def encode(self, batch: dict[str, torch.Tensor]) -> PricingFMModelOutput:
        """Encodes the context part of a processor's batch."""
        return self.model(
            batch["past_values"],
            batch["past_observed_mask"],
            batch["past_time_features"],
            batch["static_categorical_features"],
            batch["static_real_features"],
            batch["static_real_mask"],
        )

    def demand_states(self, encoded: PricingFMModelOutput, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Decoder states of demand steps `(B, H, size)`; in the free mode `(B, P, H, size)`, one per price path."""
        values, mask = batch["future_known_values"].clone(), batch["future_known_mask"].clone()
        mask[..., INVENTORY_SLOT] = False  # tomorrow's stock is not known
        values[..., INVENTORY_SLOT] = 0.0
        values[..., PRICE_SLOT] = 0.0
        if self.config.price_response == "monotone":
            return self.model.decode(encoded, batch["future_time_features"], values, mask, role=2)
        paths = []
        for path in batch["candidate_prices"].unbind(1):
            priced = values.clone()
            priced[..., PRICE_SLOT] = path / PRICE_SCALE
            paths.append(self.model.decode(encoded, batch["future_time_features"], priced, mask, role=2))
        return torch.stack(paths, dim=1)

    def past_log_prices(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log price ratios of the last `carry_over_length` periods, 0 where unknown: `(B, carry_over_length)`."""
        recent = slice(-self.config.carry_over_length, None)
        values = batch["past_values"][:, recent, PAST_PRICE_CHANNEL] * PRICE_SCALE
        return torch.where(batch["past_observed_mask"][:, recent, PAST_PRICE_CHANNEL], values, 0.0)

    def respond(self, states: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-response and elasticity `(B, P, M, H)` of the candidate paths (monotone mode)."""
        prices = batch["candidate_prices"]
        known = batch["future_known_mask"][:, None, :, PRICE_SLOT]
        return self.demand_head.response(states, torch.where(known, prices, 0.0), self.past_log_prices(batch))

    def _quantiles(self, base, states, factor, mean, scale):
        """Quantiles `(B, P, H, Q)`: scaled curves, and for slow movers those of the count distribution."""
        values = scale[:, None, None, None] * base * factor[..., None]
        slow = scale < self.config.slow_mover_scale
        if not bool(slow.any()):
            return values
        _, log_dispersion, zero_logit = self.demand_head.count_parameters(states[slow])
        shape = mean[slow].shape
        flat = [t.expand(shape).reshape(-1) for t in (log_dispersion.exp(), zero_logit)]
        levels = torch.tensor(self.config.quantile_levels, device=values.device)
        counted = count_quantiles(mean[slow].reshape(-1), *flat, levels).reshape(*shape, -1)
        return values.index_put((slow.nonzero(as_tuple=True)[0],), counted)

    def demand(self, encoded: PricingFMModelOutput, batch: dict[str, torch.Tensor]) -> DemandOutput:
        """Demand along `candidate_prices` `(B, P, H)` (log ratio to the reference price), in units per period."""
        states, scale = self.demand_states(encoded, batch), batch["scale"]
        if self.config.price_response == "monotone":
            response, slope = self.respond(states, batch)
            factor, states = response.mean(2).exp(), states[:, None]
            elasticity, spread = slope.mean(2), slope.std(2)
        else:
            factor = torch.ones_like(batch["candidate_prices"])
            response, elasticity, spread = None, None, None
        log_mean, _, zero_logit = self.demand_head.count_parameters(states)
        count_mean = (scale[:, None, None] * log_mean.exp()) * factor
        base = self.demand_head.base_quantiles(states)
        return DemandOutput(
            quantile_values=self._quantiles(base, states, factor, count_mean, scale),
            mean=count_mean * torch.sigmoid(-zero_logit),
            elasticity=elasticity,
            elasticity_std=spread,
            member_response=response,
        )

    def demand_loss(
        self, encoded: PricingFMModelOutput, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pinball loss in scaled units plus count likelihood of the logged path: `(B,)` and its parts.

        Each response member sees the items through its own bootstrap weights (`member_weights`, `(B, M)`).
        """
        states, scale = self.demand_states(encoded, batch), batch["scale"]
        targets, mask, censored = batch["future_values"], batch["future_observed_mask"], batch["future_censored_mask"]
        levels = torch.tensor(self.config.quantile_levels, device=targets.device, dtype=targets.dtype)
        scaled = targets / scale[:, None]
        if self.config.price_response == "monotone":
            response = self.respond(states, batch)[0][:, 0]  # (B, M, H)
            base = self.demand_head.base_quantiles(states)[:, None]
            quantiles = base * response.exp()[..., None]
            shape = response.shape
            per_step = pinball(scaled[:, None].expand(shape), quantiles, levels, censored[:, None].expand(shape))
            per_step = (per_step * batch["member_weights"][..., None]).mean(1)
            log_factor = response.mean(1)
        else:
            states = states[:, 0]
            per_step = pinball(scaled, self.demand_head.base_quantiles(states), levels, censored)
            log_factor = torch.zeros_like(targets)
        log_mean, log_dispersion, zero_logit = self.demand_head.count_parameters(states)
        mean = scale[:, None] * (log_mean + log_factor).exp()
        counted = count_loss(targets, mean, log_dispersion.exp(), zero_logit, censored & mask)
        quantile_loss, mean_loss = mean_over_observed(per_step, mask), mean_over_observed(counted, mask)
        parts = {"quantile": quantile_loss.mean(), "count": mean_loss.mean()}
        weight = batch.get("loss_weights", torch.ones_like(quantile_loss))
        return weight * (quantile_loss + 0.1 * mean_loss), parts

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Demand and, when `future_values` is given, the loss. See `PricingFMProcessor` for the batch."""
        encoded = self.encode(batch)
        output = self.demand(encoded, batch)
        if "future_values" in batch:
            loss, output.loss_terms = self.demand_loss(encoded, batch)
            output.loss = loss.mean()
        return output


class PricingFMForPolicy(PricingFMForDemand):
    """Demand, and the behaviour, policy and value heads on the state before each decision."""

    def __init__(self, config: PricingFMConfig):
        super().__init__(config)
        self.decision_head = DecisionHead(config)
        self.post_init()

    def decision_states(self, encoded: PricingFMModelOutput, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """States before each decision, `(B, H, size)`: calendar and stock are known, price and promotion are not."""
        values, mask = batch["future_known_values"].clone(), batch["future_known_mask"].clone()
        for slot in (PROMOTION_SLOTS, INTERVENTION_SLOT, PRICE_SLOT):
            mask[..., slot] = False
            values[..., slot] = 0.0
        return self.model.decode(encoded, batch["future_time_features"], values, mask, role=3)

    def decide(self, encoded: PricingFMModelOutput, batch: dict[str, torch.Tensor]) -> DecisionOutput:
        """What the manager would do, what the policy does, and the value of each state."""
        states = self.decision_states(encoded, batch)
        features, current = batch["decision_features"], batch["current_actions"]
        return DecisionOutput(
            behavior_log_probs=self.decision_head.behavior_log_probs(states, features, current),
            policy_log_probs=self.decision_head.policy_log_probs(states, features, current),
            values=self.decision_head.values(states, features),
        )

    def behavior_loss(self, encoded: PricingFMModelOutput, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of the logged actions, `(B,)`."""
        states = self.decision_states(encoded, batch)
        log_probs = self.decision_head.behavior_log_probs(states, batch["decision_features"], batch["current_actions"])
        chosen = log_probs.gather(-1, batch["logged_actions"][..., None]).squeeze(-1)
        return mean_over_observed(-chosen, batch["logged_action_mask"])


class PricingFMForPreTraining(PricingFMForPolicy):
    """All heads plus reconstruction of hidden patches: one masked multi-task loss."""

    def __init__(self, config: PricingFMConfig):
        super().__init__(config)
        self.patch_head = nn.Linear(config.hidden_size, config.patch_length)
        self.post_init()

    def patch_loss(self, encoded: PricingFMModelOutput, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Smooth absolute error of hidden past units, on the asinh scale, `(B,)`."""
        predictions = self.patch_head(encoded.context_states[:, 2:]).flatten(1)
        error = nn.functional.smooth_l1_loss(predictions, batch["hidden_values"], reduction="none", beta=0.5)
        return mean_over_observed(error, batch["hidden_mask"])

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """The pretraining loss when `future_values` is given, else demand."""
        if "future_values" not in batch:
            return self.demand(self.encode(batch), batch)
        encoded = self.encode(batch)
        loss, parts = self.demand_loss(encoded, batch)
        behavior = self.behavior_loss(encoded, batch)
        loss = loss + 0.05 * behavior
        parts["behavior"] = behavior.mean()
        if "hidden_values" in batch:
            hidden = self.patch_loss(encoded, batch)
            loss, parts["patch"] = loss + 0.1 * hidden, hidden.mean()
        return DemandOutput(loss=loss.mean(), loss_terms=parts)


PricingFMConfig.register_for_auto_class()
PricingFMModel.register_for_auto_class("AutoModel")
