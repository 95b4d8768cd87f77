"""The reward of a price: margin, stock and customer terms, each in currency, summed with the recipe's weights."""

import math
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the reward's terms; each term is in currency per period.

    Args:
        margin (`float`): Of (price - cost) x sales.
        revenue (`float`): Of price x sales; for sources without cost.
        lost_sales (`float`): Penalty per unit of demand that the stock could not serve, times price.
        price_change (`float`): Penalty for any change, as a share of the item's reference revenue per period.
        satisfaction (`float`): Of the consumer surplus gained against keeping the price.

    Raises:
        ValueError: If a weight is negative or not finite.
    """

    margin: float = field(default=1.0, metadata={"help": "weight of (price - cost) x sales"})
    revenue: float = field(default=0.0, metadata={"help": "weight of price x sales"})
    lost_sales: float = field(default=0.0, metadata={"help": "weight of unserved demand x price (subtracted)"})
    price_change: float = field(default=0.0, metadata={"help": "cost of any price change, share of reference revenue"})
    satisfaction: float = field(default=0.0, metadata={"help": "weight of consumer surplus against keeping the price"})

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"reward weight {name} must be finite and not negative, found {value}")


def consumer_surplus_gain(demand: torch.Tensor, prices: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
    """Consumer surplus at each rung minus that at the current rung, by the trapezoid rule along the ladder.

    Args:
        demand (`(..., K)`): Units at each rung.
        prices (`(..., K)`): Currency, never falling.
        current (`(...)`, long): Current rung.

    Returns:
        `(..., K)`: Currency; positive below the current price.

    References:
        Marshall's surplus: the area under the demand curve above the price.
    """
    widths = prices[..., 1:] - prices[..., :-1]
    areas = widths * (demand[..., 1:] + demand[..., :-1]) / 2
    cumulative = torch.cat([torch.zeros_like(areas[..., :1]), areas.cumsum(-1)], dim=-1)
    return cumulative.gather(-1, current[..., None]) - cumulative


def ladder_rewards(
    weights: RewardWeights,
    prices: torch.Tensor,
    costs: torch.Tensor,
    demand: torch.Tensor,
    sales: torch.Tensor,
    current: torch.Tensor,
    reference_revenue: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Reward of every rung and its terms, in currency per period.

    Args:
        weights (`RewardWeights`): From the recipe.
        prices (`(..., K)`): Rung prices, never falling.
        costs (`(...)`): Unit cost; 0 only if the weights give margin no weight.
        demand (`(..., K)`): Expected demand, units.
        sales (`(..., K)`): What the stock can serve of it, units.
        current (`(...)`, long): Rung before the decision.
        reference_revenue (`(...)`): Reference price x mean units per period; currency.

    Returns:
        Sum `(..., K)` and a dictionary of its weighted terms, `(..., K)` each.
    """
    moved = torch.arange(prices.shape[-1], device=prices.device) != current[..., None]
    terms = {
        "margin": weights.margin * (prices - costs[..., None]) * sales,
        "revenue": weights.revenue * prices * sales,
        "lost_sales": -weights.lost_sales * (demand - sales) * prices,
        "price_change": -weights.price_change * moved * reference_revenue[..., None],
        "satisfaction": weights.satisfaction * consumer_surplus_gain(demand, prices, current),
    }
    return torch.stack(list(terms.values())).sum(0), terms
