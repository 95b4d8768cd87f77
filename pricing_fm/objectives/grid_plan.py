"""The price that a demand curve would choose on a grid, softened, and what it costs to charge it where demand is known.

A curve may predict sales well and still choose badly: what counts is where its profit peaks. Simulated categories know
what every price would have earned, so the choice itself can be learned from.
Shapes: B items, P prices of the grid, H weeks that a price is held, M response members.
"""

import torch

from pricing_fm.models import PricingFMForPolicy

Batch = dict[str, torch.Tensor]


def grid_demand(model: PricingFMForPolicy, batch: Batch, log_prices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected units over all weeks when one price is held.

    Args:
        model (`PricingFMForPolicy`): In the monotone mode.
        batch (`dict`): From the processor; its own candidate path is not used.
        log_prices (`(B, P)`): Log ratio of the grid to the reference price.

    Returns:
        `(B, P, M)` by response member, and `(B, P)` along the mean of their log-responses.

    Raises:
        ValueError: If the model's price response is free.
    """
    steps = batch["future_time_features"].shape[1]
    paths = log_prices[..., None].expand(-1, -1, steps)
    states = model.demand_states(model.encode(batch), batch)
    response, _ = model.respond(states, {**batch, "candidate_prices": paths})
    log_mean, _, zero_logit = model.demand_head.count_parameters(states)
    level = batch["scale"][:, None] * log_mean.exp() * torch.sigmoid(-zero_logit)
    members = (level[:, None, None] * response.exp()).sum(-1)
    return members, (level[:, None] * response.mean(2).exp()).sum(-1)


def softened_plan(margins: torch.Tensor, demand: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Probabilities of the prices of a grid: the more expected margin, the likelier.

    Args:
        margins (`(B, P)`): Price minus cost over the list price.
        demand (`(B, P)`): Expected units.
        sharpness (`float`): Log-odds of a margin worth one week's revenue at the mean demand of the grid, per week.

    Returns:
        `(B, P)`: Sum to 1.
    """
    relative = demand / demand.mean(-1, keepdim=True)
    return (sharpness * margins * relative).softmax(-1)


def plan_regret(
    model: PricingFMForPolicy, batch: Batch, log_prices: torch.Tensor, margins: torch.Tensor, regret: torch.Tensor,
    sharpness: float,
) -> torch.Tensor:  # fmt: skip
    """Expected regret of the softened plan, per item.

    Args:
        model (`PricingFMForPolicy`): In the monotone mode.
        batch (`dict`): From the processor.
        log_prices (`(B, P)`): Log ratio of the grid to the reference price.
        margins (`(B, P)`): Price minus cost over the list price.
        regret (`(B, P)`): What each price loses against the best one, in any unit.
        sharpness (`float`): As in `softened_plan`.

    Returns:
        `(B,)`: In the unit of the regret.
    """
    _, demand = grid_demand(model, batch, log_prices)
    return (softened_plan(margins, demand, sharpness) * regret).sum(-1)
