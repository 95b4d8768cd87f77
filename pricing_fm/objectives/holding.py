"""Value of setting a price and holding it: rewards while it is held, and the learned value of the state thereafter.

Shapes: B items, H planned steps, P candidate prices, M response members, Q quantile levels.
"""

from dataclasses import replace

import torch

from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.channels import PRICE_SCALE
from pricing_fm.models.outputs import PricingFMModelOutput
from pricing_fm.models.recursion import REFERENCE_MEMORY
from pricing_fm.objectives.reward import SAME_PRICE, RewardWeights, ladder_rewards
from pricing_fm.objectives.structured_q import served_share

Batch = dict[str, torch.Tensor]


def holding_advantages(
    model: PricingFMForPolicy,
    encoded: PricingFMModelOutput,
    batch: Batch,
    prices: torch.Tensor,
    current: torch.Tensor,
    weights: RewardWeights,
    discount: float,
    lead: int,
) -> torch.Tensor:
    """Discounted value of holding each price from period `lead` on, over that of holding the current one.

    The last planned period's state stands for the one after it: the calendar moves one period, the price recursion is
    exact.

    Args:
        model (`PricingFMForPolicy`): In the monotone mode.
        encoded (`PricingFMModelOutput`): Of `batch`.
        batch (`dict`): From the processor; `unit_costs` must be finite where margin counts.
        prices (`(B, P)`): Candidate prices, currency; one column holds `current`.
        current (`(B,)`): Price charged during the lead and in the comparison, currency.
        weights (`RewardWeights`): Of the reward.
        discount (`float`): Per period.
        lead (`int`): Periods before the price is in force.

    Returns:
        `(B, P, M)`: In units of the item's reference revenue per period.

    Raises:
        ValueError: If margin counts and a cost is missing.
    """
    if weights.margin > 0 and not bool(torch.isfinite(batch["unit_costs"]).all()):
        raise ValueError("the reward counts margin, but some items have no cost: give `cost` or an assumed cost share")
    order = prices.argsort(1)
    sorted_prices = prices.gather(1, order)
    own = (sorted_prices - current[:, None]).abs().argmin(1)
    rewards = _held_rewards(model, encoded, batch, sorted_prices, current, own, weights, lead)  # (B, P, M, steps)
    decay = discount ** torch.arange(rewards.shape[-1], device=rewards.device)
    held = (rewards * decay).sum(-1)
    after = _value_after(model, encoded, batch, sorted_prices, current, lead)
    total = held + discount ** rewards.shape[-1] * after[..., None]
    total = total - total.gather(1, own[:, None, None].expand(-1, 1, total.shape[-1]))
    return torch.zeros_like(total).scatter(1, order[..., None].expand_as(total), total)


def _held_rewards(
    model: PricingFMForPolicy,
    encoded: PricingFMModelOutput,
    batch: Batch,
    prices: torch.Tensor,
    current: torch.Tensor,
    own: torch.Tensor,
    weights: RewardWeights,
    lead: int,
) -> torch.Tensor:
    """Rewards `(B, P, M, steps)` of the paid periods, reference revenues per period."""
    reference, scale = batch["reference_price"], batch["scale"]
    steps = batch["candidate_prices"].shape[-1]
    log_prices = (prices / reference[:, None]).log()[..., None].expand(-1, -1, steps).clone()
    log_prices[:, :, :lead] = (current / reference).log()[:, None, None]
    states = model.demand_states(encoded, batch)
    response, _ = model.respond(states, {**batch, "candidate_prices": log_prices})
    log_mean, _, zero_logit = model.demand_head.count_parameters(states)
    mean = scale[:, None] * log_mean.exp() * torch.sigmoid(-zero_logit)
    demand = mean[:, None, None] * response.exp()  # (B, P, M, H)
    curve = scale[:, None, None, None] * model.demand_head.base_quantiles(states)[:, None]
    curve = curve * response.mean(2).exp()[..., None]  # (B, P, H, Q)
    served = served_share(curve, batch["future_inventory"][:, None])  # (B, P, H)
    demand, sales = demand[..., lead:], (demand * served[:, :, None])[..., lead:]

    last = (0, 2, 3, 1)  # the ladder comes last for the reward's terms: (B, M, steps, P)
    shape = demand.permute(last).shape
    costs, stock = torch.nan_to_num(batch["unit_costs"]), batch["future_inventory"]
    references = reference[:, None, None].expand(shape[:-1])
    volumes = scale[:, None, None].expand(shape[:-1])
    rewards, _ = ladder_rewards(
        replace(weights, price_change=0.0),
        prices[:, None, None].expand(shape),
        costs[:, None, lead:].expand(shape[:-1]),
        demand.permute(last),
        sales.permute(last),
        own[:, None, None].expand(shape[:-1]),
        references,
        volumes,
        stock[:, None, lead:].expand(shape[:-1]),
    )
    relative = (rewards / (references * volumes)[..., None]).permute(0, 3, 1, 2)
    # The price moves once, not in every period that it is held; the current price may be there more than once.
    moved = (prices - current[:, None]).abs() > SAME_PRICE * current[:, None]
    first = torch.arange(relative.shape[-1], device=prices.device) == 0
    return relative - weights.price_change * (moved[:, :, None, None] & first)


def _value_after(
    model: PricingFMForPolicy,
    encoded: PricingFMModelOutput,
    batch: Batch,
    prices: torch.Tensor,
    current: torch.Tensor,
    lead: int,
) -> torch.Tensor:
    """Learned value `(B, P)` of the state that holding each price leads to."""
    states = model.decision_states(encoded, batch)
    features = batch["decision_features"]
    paid = states.shape[1] - lead
    reference = batch["reference_price"]
    now = ((current / reference).log() / PRICE_SCALE)[:, None]
    held = (prices / reference[:, None]).log() / PRICE_SCALE
    keep_lead, keep_paid = REFERENCE_MEMORY**lead, REFERENCE_MEMORY**paid
    # The first price of all is the memory.
    remembered = torch.where(features[:, 0, 3:4] > 0, features[:, 0, 1:2], now if lead else held)
    memory = keep_lead * remembered + (1 - keep_lead) * now
    depth = keep_lead * features[:, 0, 2:3] + (1 - keep_lead) * now.clamp(max=0)
    memory = keep_paid * memory + (1 - keep_paid) * held
    depth = keep_paid * depth + (1 - keep_paid) * held.clamp(max=0)
    # By then there is a price, and the stock is not known.
    known = [torch.ones_like(held), torch.zeros_like(held), torch.zeros_like(held)]
    moved = torch.stack([held, memory, depth, *known], dim=-1)
    rest = features[:, -1, None, moved.shape[-1] :].expand(-1, prices.shape[1], -1)
    hidden = states[:, -1, None].expand(-1, prices.shape[1], -1)
    return model.decision_head.values(hidden, torch.cat([moved, rest], dim=-1))
