"""Action values built on the demand model: `Q(s, a) = reward(demand at price a) + discount * V(next state under a)`.

Logged rewards carry the manager's confounding: prices cut into demand peaks make cuts look good. So the reward of an
action comes from the response head, and the state after it from the known recursion over last price, reference price
and recent discounts. Rewards are differences to charging the reference price, in units of the item's reference revenue
per period: a 5 % move is worth about 0.5 % of a period's profit, and would drown in a discounted sum. (The price before
the window would not do as the comparison: a state would be worth something else in every window that it appears in.)
Shapes: B items, H steps, K rungs, M response members, Q quantile levels.
"""

from dataclasses import dataclass

import torch

from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.channels import PRICE_SCALE, PRICE_SLOT
from pricing_fm.models.outputs import PricingFMModelOutput
from pricing_fm.models.recursion import REFERENCE_MEMORY
from pricing_fm.objectives.reward import RewardWeights, ladder_rewards

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LadderValues:
    """What each rung is worth.

    Args:
        rewards (`(B, H, K, M)`): Difference to charging the reference price, reference revenues per period.
        values (`(B, H, K, M)`): The same plus the discounted value of the next state; the last step has none.
    """

    rewards: torch.Tensor
    values: torch.Tensor


def ladder_log_prices(batch: Batch, rung_prices: torch.Tensor) -> torch.Tensor:
    """Log ratio of the rungs `(B, K)` to the reference price, `(B, K)`."""
    return (rung_prices / batch["reference_price"][:, None]).log()


def ladder_demand(
    model: PricingFMForPolicy, encoded: PricingFMModelOutput, batch: Batch, log_rungs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean demand and expected sales when one step moves to each rung and the others stay on the logged path.

    Expected sales average the quantile curve cut at the stock, relative to the uncut one.

    Args:
        model (`PricingFMForPolicy`): In the monotone mode.
        encoded (`PricingFMModelOutput`): Of `batch`.
        batch (`dict`): From the processor, with `future_inventory` `(B, H)`, NaN = unlimited.
        log_rungs (`(B, K)`): From `ladder_log_prices`.

    Returns:
        Demand and sales, each `(B, H, K, M)`, units per period.

    Raises:
        ValueError: If the model's price response is free: a ladder needs a curve that falls with price.
    """
    response_head = model.demand_head.response
    if response_head is None:
        raise ValueError("policy learning needs price_response='monotone'; this model has 'free'")
    states = model.demand_states(encoded, batch)
    rungs = log_rungs[:, None].expand(-1, states.shape[1], -1)
    path = torch.where(batch["future_known_mask"][..., PRICE_SLOT], batch["candidate_prices"][:, 0], 0.0)
    response = response_head.on_ladder(states, rungs, path, model.past_log_prices(batch)).permute(0, 3, 1, 2)
    log_mean, _, zero_logit = model.demand_head.count_parameters(states)
    mean = batch["scale"][:, None] * log_mean.exp() * torch.sigmoid(-zero_logit)
    demand = mean[..., None, None] * response.exp()

    curve = model.demand_head.base_quantiles(states)[:, :, None] * response.mean(-1).exp()[..., None]
    curve = batch["scale"][:, None, None, None] * curve
    served = served_share(curve, batch["future_inventory"][:, :, None])
    return demand, demand * served[..., None]


def served_share(quantile_values: torch.Tensor, stock: torch.Tensor) -> torch.Tensor:
    """Share of expected demand that a stock can serve: the quantile curve cut at the stock, over the uncut one.

    Args:
        quantile_values (`(..., Q)`): Demand, units.
        stock (`(...)`, broadcast): Units; NaN = unlimited.

    Returns:
        `(...)`: In [0, 1].
    """
    limit = torch.nan_to_num(stock, nan=torch.inf)[..., None]
    return quantile_values.minimum(limit).sum(-1) / quantile_values.sum(-1).clamp(min=1e-9)


def features_after(features: torch.Tensor, upcoming: torch.Tensor, log_rungs: torch.Tensor) -> torch.Tensor:
    """Decision features of the next step under each rung, by the known recursion.

    Args:
        features (`(B, H, F)`): Before the decision: last price, reference price, discount depth, any price seen.
        upcoming (`(B, H, F)`): Logged features of the next step; what the price does not move is taken from here.
        log_rungs (`(B, K)`): Log ratio of the rungs to the reference price.

    Returns:
        `(B, H, K, F)`.
    """
    scaled = (log_rungs / PRICE_SCALE)[:, None].expand(-1, features.shape[1], -1)
    memory, depth, started = features[..., 1:2], features[..., 2:3], features[..., 3:4] > 0
    remembered = REFERENCE_MEMORY * memory + (1 - REFERENCE_MEMORY) * scaled
    moved = torch.stack(
        [
            scaled,
            torch.where(started, remembered, scaled),  # the first price of all is the memory
            REFERENCE_MEMORY * depth + (1 - REFERENCE_MEMORY) * scaled.clamp(max=0),
            torch.ones_like(scaled),
        ],
        dim=-1,
    )
    rest = upcoming[:, :, None, moved.shape[-1] :].expand(-1, -1, scaled.shape[-1], -1)
    return torch.cat([moved, rest], dim=-1)


def relative_rewards(
    batch: Batch, rung_prices: torch.Tensor, demand: torch.Tensor, sales: torch.Tensor, weights: RewardWeights
) -> torch.Tensor:
    """Reward of every rung less that of the reference price, in reference revenues per period.

    A price change is what differs from the period before. The comparison pays for none: it is the same number whatever
    happened before.

    Args:
        batch (`dict`): From the processor.
        rung_prices (`(B, K)`): Currency, never falling.
        demand (`(B, H, K, M)`): Units per period.
        sales (`(B, H, K, M)`): What the stock serves of it.
        weights (`RewardWeights`): Of the reward.

    Returns:
        `(B, H, K, M)`.

    Raises:
        ValueError: If margin counts and a cost is missing.
    """
    costs = batch["unit_costs"]
    if weights.margin > 0 and not bool(torch.isfinite(costs).all()):
        raise ValueError("the reward counts margin, but some items have no cost: give `cost` or an assumed cost share")
    members_first = (0, 1, 3, 2)
    demand, sales = demand.permute(members_first), sales.permute(members_first)
    per_step, rungs = demand.shape[:-1], demand.shape[-1]
    before = batch["current_actions"] % rungs
    reference = (rung_prices - batch["reference_price"][:, None]).abs().argmin(1)
    references, volumes = (batch[name][:, None, None].expand(per_step) for name in ("reference_price", "scale"))
    total, terms = ladder_rewards(
        weights,
        rung_prices[:, None, None].expand_as(demand),
        torch.nan_to_num(costs)[..., None].expand(per_step),
        demand,
        sales,
        before[..., None].expand(per_step),
        references,
        volumes,
        batch["future_inventory"][..., None].expand(per_step),
    )
    compared = (total - terms["price_change"]).gather(-1, reference[:, None, None, None].expand(*per_step, 1))
    return ((total - compared) / (references * volumes)[..., None]).permute(members_first)


def ladder_values(
    model: PricingFMForPolicy,
    encoded: PricingFMModelOutput,
    decision_states: torch.Tensor,
    batch: Batch,
    rung_prices: torch.Tensor,
    weights: RewardWeights,
    discount: float,
) -> LadderValues:
    """Structured action values of every rung at every step.

    Args:
        model (`PricingFMForPolicy`): Demand and value heads.
        encoded (`PricingFMModelOutput`): Of `batch`.
        decision_states (`(B, H, size)`): From `model.decision_states`.
        batch (`dict`): From the processor; `unit_costs` `(B, H)` must be finite if `weights.margin` is positive.
        rung_prices (`(B, K)`): Currency, never falling.
        weights (`RewardWeights`): Of the reward.
        discount (`float`): Per period.

    Returns:
        `LadderValues`.

    Raises:
        ValueError: If margin counts and a cost is missing, or the model's price response is free.
    """
    log_rungs = ladder_log_prices(batch, rung_prices)
    demand, sales = ladder_demand(model, encoded, batch, log_rungs)
    rewards = relative_rewards(batch, rung_prices, demand, sales, weights)
    following = next_values(model, decision_states, batch["decision_features"], log_rungs)
    return LadderValues(rewards=rewards, values=bootstrap_ladder(rewards, following[..., None], discount))


def next_values(
    model: PricingFMForPolicy, decision_states: torch.Tensor, features: torch.Tensor, log_rungs: torch.Tensor
) -> torch.Tensor:
    """Value of the state after each rung, `(B, H - 1, K)`; the last step of a window has none.

    Args:
        model (`PricingFMForPolicy`): Its value head.
        decision_states (`(B, H, size)`): From `model.decision_states`.
        features (`(B, H, F)`): Decision features.
        log_rungs (`(B, K)`): From `ladder_log_prices`.
    """
    after = features_after(features[:, :-1], features[:, 1:], log_rungs)
    next_states = decision_states[:, 1:, None].expand(-1, -1, log_rungs.shape[1], -1)
    return model.decision_head.values(next_states, after)


def bootstrap_ladder(rewards: torch.Tensor, following: torch.Tensor, discount: float) -> torch.Tensor:
    """Rewards `(B, H, ...)` plus the discounted value `(B, H - 1, ...)` of what follows all steps but the last."""
    return torch.cat([rewards[:, :-1] + discount * following, rewards[:, -1:]], dim=1)
