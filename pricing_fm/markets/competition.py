"""Two sellers in one logit market, and two products of one seller: what pricing together is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import lambertw

from pricing_fm.markets.context import Costs
from pricing_fm.markets.core import Market
from pricing_fm.markets.demand import LinearSystemDemand, LogitDemand
from pricing_fm.markets.noise import build_noise
from pricing_fm.markets.oracles import assortment_prices, linear_system_prices, logit_duopoly_prices


@dataclass(frozen=True)
class Duopoly:
    """Two single-product sellers, share_i ~ exp((quality_i - price_i) / differentiation), outside option of weight 1.

    The defaults are the baseline of Calvano, Calzolari, Denicolo and Pastorello 2020, American Economic Review 110(10).

    Attributes:
        qualities, costs: One per seller, currency per unit.
        differentiation: Scale of the taste shocks, currency, > 0.

    Raises:
        ValueError: If there are not two sellers or a number is out of bounds.
    """

    qualities: tuple[float, float] = (2.0, 2.0)
    costs: tuple[float, float] = (1.0, 1.0)
    differentiation: float = 0.25

    def __post_init__(self) -> None:
        if len(self.qualities) != 2 or len(self.costs) != 2:
            raise ValueError(f"qualities is {self.qualities} and costs {self.costs}; a duopoly has two sellers")
        logit_duopoly_prices(self.qualities, self.costs, self.differentiation)

    @cached_property
    def _solved(self) -> dict[str, np.ndarray]:
        solved = logit_duopoly_prices(self.qualities, self.costs, self.differentiation)
        return {name: np.array(values) for name, values in solved.items()}

    @cached_property
    def _quality(self) -> np.ndarray:
        return np.array(self.qualities)

    @property
    def nash_prices(self) -> np.ndarray:
        """Prices of the one-period equilibrium, currency, `(2,)`."""
        return self._solved["nash_prices"]

    @property
    def nash_profits(self) -> np.ndarray:
        """Profits of the one-period equilibrium, currency per customer, `(2,)`."""
        return self._solved["nash_profits"]

    @property
    def joint_prices(self) -> np.ndarray:
        """Prices that maximise the sum of profits, currency, `(2,)`."""
        return self._solved["collusive_prices"]

    @property
    def joint_profits(self) -> np.ndarray:
        """Profits at the joint prices, currency per customer, `(2,)`."""
        return self._solved["collusive_profits"]

    def compute_shares(self, prices: np.ndarray) -> np.ndarray:
        """Share of the customers who buy from each seller at prices of shape `(..., 2)`."""
        attraction = np.exp((self._quality - prices) / self.differentiation)
        return attraction / (1.0 + attraction.sum(axis=-1, keepdims=True))

    def compute_profits(self, prices: np.ndarray) -> np.ndarray:
        """Profits per customer at prices of shape `(..., 2)`, currency."""
        return (prices - np.array(self.costs)) * self.compute_shares(prices)

    def compute_best_response(self, seller: int, rival_prices: np.ndarray) -> np.ndarray:
        """Price that maximises this period's profit against the rival's price, currency, shape of `rival_prices`.

        The first-order condition is markup = differentiation x (1 + odds), solved by Lambert's function.
        """
        scale = self.differentiation
        rival = np.log1p(np.exp((self.qualities[1 - seller] - rival_prices) / scale))
        odds = lambertw(np.exp((self.qualities[seller] - self.costs[seller]) / scale - 1.0 - rival)).real
        return self.costs[seller] + scale * (1.0 + odds)

    def build_price_ladder(self, seller: int, rungs: int = 15, extension: float = 0.1) -> np.ndarray:
        """Equally spaced prices from somewhat below the Nash price to somewhat above the joint price.

        Args:
            seller: 0 or 1.
            rungs: Number of prices, >= 2.
            extension: How far the ladder reaches beyond both, as a share of their distance.

        Returns:
            Currency, `(rungs,)`.

        Raises:
            ValueError: If there are fewer than two rungs.

        References:
            Calvano et al. 2020, section II (15 prices, extension 0.1).
        """
        if rungs < 2:
            raise ValueError(f"rungs is {rungs}; a ladder needs 2 or more")
        low, high = self.nash_prices[seller], self.joint_prices[seller]
        reach = extension * (high - low)
        return np.linspace(low - reach, high + reach, rungs)


def compute_profit_gain_index(profits: np.ndarray, duopoly: Duopoly) -> np.ndarray:
    """Where profits lie between competition (0) and joint pricing (1).

    (average profit - Nash) / (joint - Nash), each an average over the sellers.

    Args:
        profits: Profits per customer, currency, `(..., 2)`.
        duopoly: The market.

    Returns:
        Index, `(...)`; below 0 where sellers do worse than in the one-period equilibrium.

    References:
        Calvano et al. 2020, American Economic Review 110(10).
    """
    nash, joint = duopoly.nash_profits.mean(), duopoly.joint_profits.mean()
    return (np.asarray(profits).mean(axis=-1) - nash) / (joint - nash)


@dataclass(frozen=True)
class ItemwiseLoss:
    """What pricing each item by itself costs a seller of several. Money in currency a period, one market.

    Attributes:
        joint_prices, itemwise_prices: Currency per unit, `(products, segments)`.
        joint_profit, itemwise_profit: Summed over products and segments.
    """

    joint_prices: np.ndarray
    itemwise_prices: np.ndarray
    joint_profit: float
    itemwise_profit: float

    @property
    def loss_percent(self) -> float:
        """Profit that item-wise pricing gives away, percent of the joint profit."""
        return 100.0 * (1.0 - self.itemwise_profit / self.joint_profit)


def compute_itemwise_loss(market: Market) -> ItemwiseLoss:
    """Joint optimum of an assortment against items priced one by one, both without price bounds.

    Priced one by one, every item takes the others' prices as given and ignores the sales it takes from them: the
    equilibrium between a seller's own items. Season, shocks, memory and supply of the market are left aside.

    Args:
        market: One market with `LogitDemand` or `LinearSystemDemand` and two products or more.

    Returns:
        Prices and profits of both.

    Raises:
        ValueError: If there are several markets or too few products, the demand is another, the products of a logit
            segment have different numbers of customers, or linear demand has no optimum with positive sales.
    """
    markets, products, segments = market.shape
    if markets != 1 or products < 2:
        raise ValueError(f"market has shape {market.shape}; one market of two products or more is needed")
    cost = np.broadcast_to(market.costs.unit_cost, market.shape)[0]
    joint, itemwise = np.empty((products, segments)), np.empty((products, segments))
    profits = np.zeros(2)
    for segment in range(segments):
        solve = _solve_logit if isinstance(market.demand, LogitDemand) else _solve_linear
        joint[:, segment], itemwise[:, segment], pair = solve(market, segment, cost[:, segment])
        profits += pair
    return ItemwiseLoss(joint, itemwise, float(profits[0]), float(profits[1]))


def _solve_logit(market: Market, segment: int, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    demand, volume = market.demand, market.volume[0, :, segment]
    assert isinstance(demand, LogitDemand)
    if np.any(volume != volume[0]):
        raise ValueError(f"market.volume is {volume.tolist()}; products of a logit segment share their customers")
    utility, steep = (np.broadcast_to(x, market.shape)[0, :, segment] for x in (demand.utility, demand.sensitivity))
    together = assortment_prices(utility.tolist(), steep.tolist(), cost.tolist())
    # Measured in utility, every item's price has the same slope; the first-order conditions stay what they are.
    alone = logit_duopoly_prices(utility.tolist(), (steep * cost).tolist(), 1.0)
    itemwise = np.array(alone["nash_prices"]) / steep
    profit = float((np.array(alone["nash_profits"]) / steep).sum())
    return np.array(together["prices"]), itemwise, volume[0] * np.array([together["profit"], profit])


def _solve_linear(market: Market, segment: int, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    demand, volume = market.demand, market.volume[0, :, segment]
    if not isinstance(demand, LinearSystemDemand):
        raise ValueError(f"market.demand is {type(demand).__name__}; LogitDemand or LinearSystemDemand is needed")
    intercept = np.broadcast_to(demand.intercept, market.shape)[0, :, segment]
    slope = np.broadcast_to(demand.slope, (*market.shape, market.shape[1]))[0, :, segment]
    solved = linear_system_prices(
        (volume * intercept).tolist(), (volume[:, None] * slope).tolist(), np.asarray(cost).tolist()
    )
    profits = np.array([solved["joint_profit"], sum(solved["nash_profits"])])
    return np.array(solved["joint_prices"]), np.array(solved["nash_prices"]), profits


def build_two_product_market(loss: float, volume: float = 100.0, choke_price: float = 10.0) -> Market:
    """Two substitutes of which a seller who prices item by item loses a stated share of the joint profit.

    Demand is linear, d_i = volume x (1 - p_i / u + g p_j / u) without costs. The joint price is u / (2 (1 - g)), the
    item-wise one u / (2 - g), and the loss (g / (2 - g))**2, which g is solved for.

    Args:
        loss: Share of the joint profit that item-wise pricing loses, in [0, 0.5].
        volume: Demand of each product at price zero, units a period.
        choke_price: u, price at which a product alone sells nothing while the other is free, currency.

    Returns:
        One market without noise; its list prices are the item-wise ones.

    Raises:
        ValueError: If `loss` is outside [0, 0.5] (the joint price would run away) or a number is not positive.
    """
    if not 0.0 <= loss <= 0.5:
        raise ValueError(f"loss is {loss}; it must lie in [0, 0.5]")
    if not (volume > 0 and choke_price > 0):
        raise ValueError(f"volume is {volume} and choke_price {choke_price}; both must be positive")
    root = np.sqrt(loss)
    cross = 2.0 * root / (1.0 + root)
    slope = (np.eye(2) - cross * (1.0 - np.eye(2))) / choke_price
    shape = (1, 2, 1)
    price = np.full(shape, choke_price / (2.0 - cross))
    return Market(
        domain="competition",
        family="two_products",
        volume=np.full(shape, volume),
        demand=LinearSystemDemand(np.ones(shape), slope.reshape(1, 2, 1, 2)),
        noise=build_noise("none", shape),
        list_price=price,
        # The joint price is (2 - g) / (2 - 2 g) times the item-wise one.
        price_bounds=(0.5, 2.0 * (2.0 - cross) / (2.0 - 2.0 * cross)),
        price_tick=np.full((1, 1, 1), choke_price / 10_000.0),
        num_periods=20,
        costs=Costs(np.zeros(shape)),
    )
