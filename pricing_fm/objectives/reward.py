"""The reward of a price: margin, stock and customer terms, each in currency, summed with the recipe's weights."""

import math
from dataclasses import dataclass, field

import torch

SAME_PRICE = 1e-6  # relative; what float32 leaves of a price


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the reward's terms; each term is in currency per period.

    Args:
        margin (`float`): Of (price - cost) x sales.
        revenue (`float`): Of price x sales; for sources without cost.
        units (`float`): Worth of a unit sold beyond what it earns, as a share of the item's reference price: volume.
        lost_sales (`float`): Penalty per unit of demand that the stock could not serve, times price.
        stock_target (`float`): Penalty per unit that the expected stock at the end of a period lies above or below its
            target, as a share of the reference price per period; nothing where no stock is known.
        stock_cover (`float`): That target, in periods (weeks) of the item's mean units; 0 makes `stock_target` a
            holding cost. Not a weight.
        price_change (`float`): Penalty for any change, as a share of the item's reference revenue per period.
        satisfaction (`float`): Of the consumer surplus gained against keeping the price.

    Raises:
        ValueError: If a weight is negative or not finite.
    """

    margin: float = field(default=1.0, metadata={"help": "weight of (price - cost) x sales"})
    revenue: float = field(default=0.0, metadata={"help": "weight of price x sales"})
    units: float = field(default=0.0, metadata={"help": "worth of a unit sold, share of the item's reference price"})
    lost_sales: float = field(default=0.0, metadata={"help": "weight of unserved demand x price (subtracted)"})
    stock_target: float = field(
        default=0.0,
        metadata={"help": "cost of a unit of end stock off its target, share of the reference price per period"},
    )
    stock_cover: float = field(
        default=0.0,
        metadata={"help": "target of the end stock, periods of mean units; 0 = stock_target is holding cost"},
    )
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
    reference_price: torch.Tensor,
    reference_units: torch.Tensor,
    stock: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Reward of every rung and its terms, in currency per period.

    Args:
        weights (`RewardWeights`): From the recipe.
        prices (`(..., K)`): Rung prices, never falling.
        costs (`(...)`): Unit cost; 0 only if the weights give margin no weight.
        demand (`(..., K)`): Expected demand, units.
        sales (`(..., K)`): What the stock can serve of it, units.
        current (`(...)`, long): Rung before the decision.
        reference_price (`(...)`): What shares of a price are shares of, currency.
        reference_units (`(...)`): Mean units per period.
        stock (`(...)`): Units that can be sold in the period; NaN = none is known.

    Returns:
        Sum `(..., K)` and a dictionary of its weighted terms, `(..., K)` each.
    """
    before = prices.gather(-1, current[..., None])
    moved = (prices - before).abs() > SAME_PRICE * before
    reference = reference_price[..., None]
    known = torch.isfinite(stock)[..., None]
    # What a stock serves is an average over demand: a response member of more than average demand may sell more.
    left = (torch.where(known, stock[..., None], 0.0) - sales).clamp(min=0)  # no NaN, which would spread in gradients
    off_target = known * (left - weights.stock_cover * reference_units[..., None]).abs()
    terms = {
        "margin": weights.margin * (prices - costs[..., None]) * sales,
        "revenue": weights.revenue * prices * sales,
        "units": weights.units * reference * sales,
        "lost_sales": -weights.lost_sales * (demand - sales) * prices,
        "stock_target": -weights.stock_target * off_target * reference,
        "price_change": -weights.price_change * moved * reference * reference_units[..., None],
        "satisfaction": weights.satisfaction * consumer_surplus_gain(demand, prices, current),
    }
    return torch.stack(list(terms.values())).sum(0), terms
