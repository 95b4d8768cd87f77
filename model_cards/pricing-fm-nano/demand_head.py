"""Demand along a price path: base quantiles, count distribution, and the response to the price."""

import math
from statistics import NormalDist

import torch
from torch import nn
from torch.nn import functional

from .channels import PRICE_SLOT
from .configuration_pricing_fm import PricingFMConfig
from .counts import count_quantiles
from .layers import ScaledLinear
from .losses import bend, count_loss, ensemble_crps, mean_over_observed, pinball
from .recent_level import NORMAL_SCORES, RESIDUAL_PROBABILITIES

# What heads start from, behind a decoder state: log of the item's own forecast over its scale, the price slopes of its
# regression and of the hidden-demand model, quantiles of past sales over such forecasts, and whether prices are set.
NUM_STARTS = 4 + len(RESIDUAL_PROBABILITIES)
SLOPE_STARTS, RESIDUAL_STARTS, INTERVENTION_START = slice(1, 3), slice(3, NUM_STARTS - 1), NUM_STARTS - 1
SMALLEST_START, SMALLEST_SLOPE, LARGEST_SLOPE = 0.02, 0.1, 8.0
USUAL_ELASTICITY = 1.5
# A discount of earlier weeks may take away at most this share of today's response, so that along a constant path
# demand still falls with price.
MAX_CARRY_OVER = 0.5
# What a category's items say together may move the elasticity of each by at most this factor's logarithm.
LARGEST_POOLED_SHIFT = 1.5
# A price a hundredth of the reference is a slip of the pen: its demand is large, not infinite.
MAX_LOG_RESPONSE = 20.0


def starting_points(
    forecast: torch.Tensor,
    residuals: torch.Tensor,
    slopes: torch.Tensor,
    known: torch.Tensor,
    slopes_known: torch.Tensor,
    is_intervention: torch.Tensor,
) -> torch.Tensor:
    """What the heads start from, instead of from nothing: the item's own forecast, its errors, and price slopes.

    Args:
        forecast (`(B, H)`): Expected units at the reference price over the item's scale, on the asinh scale.
        residuals (`(B, H, 7)`): Quantiles of past sales over such forecasts, on the asinh scale.
        slopes (`(B, 2)`): Estimated `d log demand / d log price`.
        known (`(B, H)`, bool): True = there is a forecast.
        slopes_known (`(B, 2)`, bool): True = there is an estimate.
        is_intervention (`(B, H)`): 1 = the price is set, whatever the manager would do; 0 = it is his own.

    Returns:
        `(B, H, 11)`: Log of the forecast over the scale, 0 where there is none; for each slope what has to be added to
        the response head's bias to start from it, 0 where there is none; the quantiles, 0 where there is no forecast;
        the mark of interventions.
    """
    level = torch.where(known, torch.sinh(forecast).clamp(min=SMALLEST_START).log(), 0.0)
    elasticity = (-slopes).clamp(SMALLEST_SLOPE, LARGEST_SLOPE)
    shift = _inverse_softplus(elasticity) - math.log(math.expm1(USUAL_ELASTICITY))
    shift = torch.where(slopes_known, shift, 0.0)
    ratios = torch.where(known[..., None], torch.sinh(residuals), 0.0)
    shifts = shift[:, None].expand(-1, level.shape[1], -1)
    return torch.cat([level[..., None], shifts, ratios, is_intervention[..., None]], dim=-1)


def spread_over_levels(values: torch.Tensor, levels: tuple[float, ...]) -> torch.Tensor:
    """Quantiles at seven probabilities, read at others: linear in the normal score, also beyond the outermost.

    Args:
        values (`(..., 7)`): Quantiles at `RESIDUAL_PROBABILITIES`, not falling.
        levels (`tuple[float, ...]`): Probabilities asked for.

    Returns:
        `(..., levels)`: 0 or more, not crossing.
    """
    scores = [NormalDist().inv_cdf(level) for level in levels]
    known = torch.tensor(NORMAL_SCORES, device=values.device, dtype=values.dtype)
    asked = torch.tensor(scores, device=values.device, dtype=values.dtype)
    place = (torch.searchsorted(known, asked) - 1).clamp(0, len(NORMAL_SCORES) - 2)
    share = (asked - known[place]) / (known[place + 1] - known[place])
    return (values[..., place] * (1 - share) + values[..., place + 1] * share).clamp(min=0.0)


def _inverse_softplus(values: torch.Tensor) -> torch.Tensor:
    return torch.log(torch.expm1(values))


def split_starts(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder states and starting points of `(..., size + starts)`."""
    return states[..., :-NUM_STARTS], states[..., -NUM_STARTS:].float()


class PriceResponse(nn.Module):
    """Monotone log-response of demand to the log price ratio `delta`, with `response(0) = 0`.

    `response(delta) = -sum_j softplus(w_j) phi_j(delta)` on fixed increasing functions: `delta` itself (constant
    elasticity) and saturating ones around the knots. The weights are predicted per item, step and bootstrap member.
    Recent discounts take back part of it: `g_t = -(G_t(delta_t) - sum_k kappa_k G_t(delta_{t-k}))`,
    `sum_k kappa_k <= 0.5`.

    Args:
        config (`PricingFMConfig`): Sizes, knots and width.
    """

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__()
        self.members, self.lags = config.num_response_members, config.carry_over_length
        self.width = config.response_width
        self.knots = tuple(config.response_knots)
        # softplus(1.2) = 1.5 of constant elasticity, 0.1 on each saturating function: a plain market to start from.
        start = [math.log(math.expm1(USUAL_ELASTICITY))] + [-2.2] * len(self.knots)
        self.response_head = ScaledLinear(config.hidden_size, self.members * len(start), 0.5, start * self.members)
        # Whom to believe about the constant elasticity: nobody, the regression, the hidden-demand model.
        self.slope_head = ScaledLinear(config.hidden_size, 3, 0.1, [0.0, 0.0, 0.0])
        self.carry_head = ScaledLinear(config.hidden_size, self.lags + 1, 0.1, [-3.0] + [0.0] * self.lags)
        # What all items of a category say together of the elasticity of each: nothing in a base, an adapter's business.
        self.pooling_head = ScaledLinear(2, 1, 0.0)

    def basis(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Basis functions and their derivatives at `delta` `(...)`: two tensors `(..., 1 + knots)`."""
        knots = torch.tensor(self.knots, device=delta.device, dtype=delta.dtype)
        at_delta = torch.tanh((delta[..., None] - knots) / self.width)
        values = self.width * (at_delta - torch.tanh(-knots / self.width))
        ones = torch.ones_like(delta)[..., None]
        return torch.cat([delta[..., None], values], dim=-1), torch.cat([ones, 1 - at_delta**2], dim=-1)

    def weights(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Non-negative weights `(B, M, H, basis)` and carry-over shares `(B, H, lags)` of `(B, H, size + starts)`."""
        hidden, starts = split_starts(states)
        weights = self.response_head(hidden).float().unflatten(-1, (self.members, -1))
        believed = self.slope_head(hidden).float().softmax(-1)[..., 1:]
        constant = weights[..., :1] + (believed * starts[..., SLOPE_STARTS]).sum(-1)[..., None, None]
        weights = functional.softplus(torch.cat([constant, weights[..., 1:]], dim=-1))
        weights = weights.transpose(1, 2)
        weights = weights * self.pooled_factor(weights, starts, hidden.dtype)
        carry = self.carry_head(hidden).float()
        return weights, MAX_CARRY_OVER * carry[..., :1].sigmoid() * carry[..., 1:].softmax(-1)

    def pooled_factor(self, weights: torch.Tensor, starts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What an adapter makes of an elasticity at the reference price: `log factor = slope * log(it) + offset`.

        Of interventions alone: what a log shows of its manager's own prices is another question.

        Args:
            weights (`(B, M, H, basis)`): Not negative.
            starts (`(B, H, starts)`): Starting points.
            dtype (`torch.dtype`): Of the linear.

        Returns:
            `(B, 1, H, 1)`: 1 in a base.
        """
        log_elasticity = self._log_elasticities(weights)
        features = torch.stack([log_elasticity, torch.ones_like(log_elasticity)], dim=-1)
        shift = self.pooling_head(features.to(dtype)).float()[..., 0]
        shift = shift.clamp(-LARGEST_POOLED_SHIFT, LARGEST_POOLED_SHIFT) * starts[..., INTERVENTION_START]
        return shift.exp()[:, None, :, None]

    def log_elasticities(self, states: torch.Tensor) -> torch.Tensor:
        """Log of the members' mean elasticity at the reference price, `(B, H, size + starts)` -> `(B, H)`."""
        return self._log_elasticities(self.weights(states)[0])

    def _log_elasticities(self, weights: torch.Tensor) -> torch.Tensor:
        slopes = self.basis(torch.zeros(1, device=weights.device, dtype=weights.dtype))[1][0]
        return (weights @ slopes).mean(1).clamp(min=SMALLEST_SLOPE).log()

    def _carried(self, shares: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        """Basis functions that earlier steps of a path hand on: `(B, P, lags + H, basis)` -> `(B, P, H, basis)`."""
        steps = shares.shape[1]
        lagged = [basis[:, :, self.lags - lag : self.lags - lag + steps] for lag in range(1, self.lags + 1)]
        return torch.stack([shares[:, None, :, lag, None] * values for lag, values in enumerate(lagged)]).sum(0)

    def forward(
        self, states: torch.Tensor, candidate_prices: torch.Tensor, past_prices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-response and its slope along the path.

        Args:
            states (`(B, H, size + starts)`): Decoder states, blind to the candidate prices, and starting points.
            candidate_prices (`(B, P, H)`): Log ratio to the reference price.
            past_prices (`(B, carry_over_length)`): The same for the last past periods; 0 where unknown.

        Returns:
            Response `(B, P, M, H)` and elasticity `(B, P, M, H)`, the derivative when the whole path moves.
        """
        weights, shares = self.weights(states)
        past = past_prices[:, None, :].expand(-1, candidate_prices.shape[1], -1)
        values, slopes = self.basis(torch.cat([past, candidate_prices], dim=-1))
        # What was charged before the first step does not move with the path.
        slopes = torch.cat([torch.zeros_like(slopes[:, :, : self.lags]), slopes[:, :, self.lags :]], dim=2)
        response, slope = (
            torch.einsum("bmhj,bphj->bpmh", weights, self._carried(shares, basis) - basis[:, :, self.lags :])
            for basis in (values, slopes)
        )
        return response.clamp(-MAX_LOG_RESPONSE, MAX_LOG_RESPONSE), slope

    def elasticities(self, states: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
        """Each member's `-d log demand / d log price` of a step's own price, all other steps' as they are.

        Args:
            states (`(B, H, size + starts)`): Decoder states and starting points.
            prices (`(B, H)`): Log ratio to the reference price.

        Returns:
            `(B, H, M)`: Not negative.
        """
        weights, _ = self.weights(states)
        return torch.einsum("bmhj,bhj->bhm", weights, self.basis(prices)[1])

    def on_ladder(
        self, states: torch.Tensor, rung_prices: torch.Tensor, path: torch.Tensor, past_prices: torch.Tensor
    ) -> torch.Tensor:
        """Log-response when one step alone moves to each rung and the others stay on the logged path.

        Args:
            states (`(B, H, size + starts)`): Decoder states and starting points.
            rung_prices (`(B, H, K)`): Log ratio of the rungs to the reference price.
            path (`(B, H)`): Logged prices, log ratio.
            past_prices (`(B, carry_over_length)`): Prices before the first step.

        Returns:
            `(B, K, M, H)`.
        """
        weights, shares = self.weights(states)
        full = torch.cat([past_prices, path], dim=-1)[:, None]
        carried = self._carried(shares, self.basis(full)[0])
        own = self.basis(rung_prices)[0].transpose(1, 2)
        response = torch.einsum("bmhj,bkhj->bkmh", weights, carried - own)
        return response.clamp(-MAX_LOG_RESPONSE, MAX_LOG_RESPONSE)


class DemandHead(nn.Module):
    """Quantiles, count distribution and price response of future steps.

    Args:
        config (`PricingFMConfig`): Sizes and levels.
    """

    def __init__(self, config: PricingFMConfig) -> None:
        super().__init__()
        # Start at the quantiles of a plausible item: 0.2 of its mean at the lowest level, 2.5 at the highest.
        levels = len(config.quantile_levels)
        increments = [0.2] + [1.45 / max(levels - 1, 1)] * (levels - 1)
        start = [math.log(math.expm1(increment)) for increment in increments]
        self.quantile_head = ScaledLinear(config.hidden_size, levels, 0.2, start)
        self.count_head = ScaledLinear(config.hidden_size, 3, 0.2, [0.0, 1.0, -5.0])
        # How far to believe the item's own forecast, on the log scale, and the spread of its errors: sigmoid(2) = 0.88
        # and a half to start with.
        self.level_head = ScaledLinear(config.hidden_size, 2, 0.1, [2.0, 0.0])
        self.response = PriceResponse(config) if config.price_response == "monotone" else None
        self.quantile_levels = tuple(config.quantile_levels)
        self.slow_mover_scale = config.slow_mover_scale
        self.count_loss_weight, self.elasticity_loss_weight = config.count_loss_weight, config.elasticity_loss_weight
        self.censored_loss, self.loss_bend = config.censored_loss, config.loss_bend

    def log_level(self, states: torch.Tensor) -> torch.Tensor:
        """Log of the level that a step starts from, over the item's scale: `(..., size + starts)` -> `(...)`."""
        hidden, starts = split_starts(states)
        return torch.sigmoid(self.level_head(hidden).float()[..., 0]) * starts[..., 0]

    def base_quantiles(self, states: torch.Tensor) -> torch.Tensor:
        """Quantiles at the reference price over the scale, not crossing: `(..., size + starts)` -> `(..., Q)`."""
        hidden, starts = split_starts(states)
        increments = functional.softplus(self.quantile_head(hidden).float())
        own = torch.sinh(increments.cumsum(-1).clamp(max=12.0))
        residuals = starts[..., RESIDUAL_STARTS]
        # The largest is above zero wherever there is a forecast.
        believed = torch.sigmoid(self.level_head(hidden).float()[..., 1:]) * (residuals[..., -1:] > 0)
        spread = own + believed * (spread_over_levels(residuals, self.quantile_levels) - own)
        return spread * self.log_level(states).exp()[..., None]

    def count_parameters(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log mean of the count part over the scale, log dispersion, and zero-inflation logit, each `(...)`."""
        log_mean, log_dispersion, zero_logit = self.count_head(split_starts(states)[0]).float().unbind(-1)
        log_mean = log_mean + self.log_level(states)
        return log_mean.clamp(-8, 8), log_dispersion.clamp(-3, 7), zero_logit.clamp(-12, 6)

    def demand(
        self, states: torch.Tensor, log_factor: torch.Tensor, scale: torch.Tensor, units_are_whole: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantiles and mean in units per period.

        Args:
            states (`(B, 1 or P, H, size + starts)`): Decoder states and starting points.
            log_factor (`(B, P, H)`): Log of demand over demand at the reference price.
            scale (`(B,)`): Units per period.
            units_are_whole (`(B,)`, bool): True = no fraction of a unit was ever sold.

        Returns:
            Quantiles `(B, P, H, Q)` and mean `(B, P, H)`.
        """
        log_mean, log_dispersion, zero_logit = self.count_parameters(states)
        count_mean = scale[:, None, None] * (log_mean + log_factor).exp()
        quantiles = scale[:, None, None, None] * self.base_quantiles(states) * log_factor.exp()[..., None]
        # Whole units: a smooth curve cannot say that half of the weeks sell nothing.
        slow = ((scale < self.slow_mover_scale) & units_are_whole).nonzero(as_tuple=True)[0]
        if len(slow):
            levels = torch.tensor(self.quantile_levels, device=states.device, dtype=torch.float64)
            counted = count_quantiles(count_mean[slow], log_dispersion[slow].exp(), zero_logit[slow], levels)
            quantiles = quantiles.index_put((slow,), counted.to(quantiles.dtype))
        return quantiles, count_mean * torch.sigmoid(-zero_logit)

    def loss(
        self, states: torch.Tensor, response: torch.Tensor | None, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pinball loss in bent units, count likelihood of the logged path, and where it is known the elasticity.

        Where the true elasticity is known, the members are its posterior's quantiles, and demand follows their mean.
        Elsewhere each member sees the items through its own bootstrap weights (`member_weights`, `(B, M)`).

        Args:
            states (`(B, H, size + starts)`): Decoder states and starting points.
            response (`(B, M, H)`, *optional*): Members' log-response on the path; None = the states have seen it.
            batch (`dict`): From the processor, with targets; from simulated windows with the true elasticity, too.

        Returns:
            Loss per sample `(B,)`, and its parts, each `()`.
        """
        targets, mask = batch["future_values"], batch["future_observed_mask"]
        censored = batch["future_censored_mask"] & self.censored_loss
        scale = batch["scale"][:, None]
        levels = torch.tensor(self.quantile_levels, device=targets.device, dtype=targets.dtype)
        scaled, base = bend(targets / scale, self.loss_bend), self.base_quantiles(states)
        if response is None:
            per_step = pinball(scaled, bend(base, self.loss_bend), levels, censored)
            log_factor = torch.zeros_like(targets)
        else:
            log_factor, weights = response.mean(1), batch["member_weights"][..., None]
            if "future_elasticity_mask" in batch:
                is_known = batch["future_elasticity_mask"].any(-1)[:, None, None]
                response = torch.where(is_known, log_factor[:, None], response)
                weights = torch.where(is_known, 1.0, weights)
            quantiles, shape = bend(base[:, None] * response.exp()[..., None], self.loss_bend), response.shape
            per_step = pinball(scaled[:, None].expand(shape), quantiles, levels, censored[:, None].expand(shape))
            per_step = (per_step * weights).mean(1)
        log_mean, log_dispersion, zero_logit = self.count_parameters(states)
        mean = scale * (log_mean + log_factor).exp()
        counted = count_loss(targets, mean, log_dispersion.exp(), zero_logit, censored & mask)
        quantile_loss, mean_loss = mean_over_observed(per_step, mask), mean_over_observed(counted, mask)
        parts = {"quantile": quantile_loss.mean(), "count": mean_loss.mean()}
        loss = quantile_loss + self.count_loss_weight * mean_loss
        if self.response is None or "future_elasticity" not in batch:
            return loss, parts
        elasticity_loss, is_known = self.elasticity_loss(states, batch)
        parts["elasticity"] = elasticity_loss.sum() / is_known.sum()  # NaN = no sample of that kind
        return loss + self.elasticity_loss_weight * elasticity_loss, parts

    def elasticity_loss(
        self, states: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranked probability score of the members' elasticities at the path's prices.

        Args:
            states (`(B, H, size + starts)`): Decoder states and starting points.
            batch (`dict`): With `future_elasticity` `(B, H)` and `future_elasticity_mask`.

        Returns:
            Score per sample `(B,)`, 0 where no elasticity is known, and where one is `(B,)`, bool.
        """
        assert self.response is not None
        asked = batch["future_elasticity_mask"] & batch["future_known_mask"][..., PRICE_SLOT]
        members = self.response.elasticities(states, batch["candidate_prices"][:, 0])
        return mean_over_observed(ensemble_crps(members, batch["future_elasticity"]), asked), asked.any(-1)
