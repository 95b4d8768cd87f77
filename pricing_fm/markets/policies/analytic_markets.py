"""Small markets with one product whose best policy is known exactly: a demand curve, a price ladder, a season."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special, stats

from pricing_fm.markets.oracles import choice_dynamic_program, gallego_van_ryzin, markdown_plan, monopoly_price
from pricing_fm.markets.oracles.checks import check_integer, check_number, check_numbers


@dataclass(frozen=True)
class CurveMarket:
    """One product, demand a known curve of its price plus independent noise in every period; no stock limit.

    Attributes:
        demand: Curve as in `oracles.monopoly_price`: its mean units per period.
        cost: Unit cost, >= 0.
        noise: "normal": additive with `noise_std`, so that units may fall below zero, as in the paper; "poisson":
            whole units.
        noise_std: Standard deviation of normal noise, units, >= 0; 0 for Poisson.
        price_bounds: Lowest and highest price; None = any.

    Raises:
        ValueError: If an argument is invalid or no price is optimal.

    References:
        Keskin and Zeevi 2014, Operations Research 62(5) (linear demand, normal noise).
    """

    demand: Mapping[str, Any]
    cost: float
    noise: Literal["normal", "poisson"]
    noise_std: float = 0.0
    price_bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        monopoly_price(self.demand, self.cost, self.price_bounds)
        if self.noise not in ("normal", "poisson"):
            raise ValueError(f"noise is {self.noise!r}; it must be 'normal' or 'poisson'")
        check_number("noise_std", self.noise_std, least=0, most=0.0 if self.noise == "poisson" else None)

    def mean_demand(self, prices: np.ndarray) -> np.ndarray:
        """Mean units per period at these prices, same shape; none where the price is infinite.

        Raises:
            ValueError: If a price is zero under constant elasticity, where demand has no end.
        """
        d = self.demand
        if d["kind"] == "linear":
            return np.maximum(d["intercept"] - d["slope"] * prices, 0.0)
        if d["kind"] == "constant_elasticity":
            if np.any(prices <= 0):
                raise ValueError(f"prices fall to {np.min(prices)}; constant elasticity needs prices above 0")
            return d["scale"] * prices ** -float(d["elasticity"])
        if d["kind"] == "exponential":
            return d["scale"] * np.exp(-d["rate"] * prices)
        return d.get("market_size", 1.0) * special.expit(d["utility"] - d["price_sensitivity"] * prices)

    def draw_demand(self, prices: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Units wanted in one period, float64, shape of the prices."""
        mean = self.mean_demand(prices)
        if self.noise == "poisson":
            return random.poisson(mean).astype(np.float64)
        return mean + np.where(np.isinf(prices), 0.0, self.noise_std) * random.standard_normal(mean.shape)

    def expected_profit(self, prices: np.ndarray, unit_costs: np.ndarray) -> np.ndarray:
        """Mean profit per period at these prices and costs, same shape, currency."""
        return np.where(np.isfinite(prices), prices - unit_costs, 0.0) * self.mean_demand(prices)

    def optimal_profit(self, unit_costs: np.ndarray) -> np.ndarray:
        """Mean profit per period at the monopoly price of each cost, shape of the costs (`oracles.monopoly_price`)."""
        levels, position = np.unique(unit_costs, return_inverse=True)
        best = [monopoly_price(self.demand, float(c), self.price_bounds)["profit"] for c in levels]
        return np.array(best)[position].reshape(np.shape(unit_costs))


@dataclass(frozen=True)
class LadderMarket:
    """One product sold at the rungs of a price ladder, with or without a stock that must last for all periods.

    Attributes:
        price_ladder: Prices of the rungs, rising, > 0.
        mean_demand_by_rung: Mean units per period at every rung; for Bernoulli demand the chance of a sale.
        law: "bernoulli": one customer a period; "poisson": many.
        cost: Cost of a unit sold, >= 0.

    Raises:
        ValueError: If the ladder is empty or does not rise, lengths differ or a number is out of bounds.
    """

    price_ladder: tuple[float, ...]
    mean_demand_by_rung: tuple[float, ...]
    law: Literal["bernoulli", "poisson"]
    cost: float = 0.0

    def __post_init__(self) -> None:
        ladder = check_ladder(self.price_ladder)
        if self.law not in ("bernoulli", "poisson"):
            raise ValueError(f"law is {self.law!r}; it must be 'bernoulli' or 'poisson'")
        most = 1.0 if self.law == "bernoulli" else None
        check_numbers("mean_demand_by_rung", self.mean_demand_by_rung, least=0, most=most, length=len(ladder))
        check_number("cost", self.cost, least=0)

    @property
    def margins(self) -> np.ndarray:
        """Profit on a unit sold at every rung, shape `(rungs,)`, currency."""
        return np.asarray(self.price_ladder) - self.cost

    def mean_demand(self, prices: np.ndarray) -> np.ndarray:
        """Mean units per period at these prices, same shape; none where the price is infinite.

        Raises:
            ValueError: If a finite price is no rung.
        """
        rungs = find_rungs(np.asarray(self.price_ladder), prices)
        return np.append(np.asarray(self.mean_demand_by_rung), 0.0)[rungs]

    def draw_demand(self, prices: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Units wanted in one period, float64, shape of the prices."""
        mean = self.mean_demand(prices)
        if self.law == "poisson":
            return random.poisson(mean).astype(np.float64)
        return (random.random(mean.shape) < mean).astype(np.float64)

    def expected_profit(self, prices: np.ndarray, unit_costs: np.ndarray) -> np.ndarray:
        """Mean profit per period at these prices and costs, same shape, currency."""
        return np.where(np.isfinite(prices), prices - unit_costs, 0.0) * self.mean_demand(prices)

    def optimal_profit(self, unit_costs: np.ndarray) -> np.ndarray:
        """Mean profit per period at the best rung of each cost, or of not selling, shape of the costs."""
        margins = np.asarray(self.price_ladder) - np.asarray(unit_costs)[..., None]
        return np.maximum((margins * np.asarray(self.mean_demand_by_rung)).max(axis=-1), 0.0)

    def fluid_bound(self, inventory: float, periods: int) -> float:
        """Most that any policy can expect from this stock: the linear program over mixtures of rungs.

        Args:
            inventory: Units, >= 0.
            periods: Periods, >= 1.

        Returns:
            Profit, currency (`oracles.markdown_plan` with a rung of no sales, one period scaled up).

        Raises:
            ValueError: If an argument is out of bounds.
        """
        stock = check_number("inventory", inventory, least=0)
        periods = check_integer("periods", periods, least=1)
        margins = np.append(np.maximum(self.margins, 0.0), 0.0)
        demand = np.append(np.where(self.margins > 0, self.mean_demand_by_rung, 0.0), 0.0)
        plan = markdown_plan(margins.tolist(), [demand.tolist()], stock / periods)
        # Adding zero turns the solver's -0.0 into 0.0.
        return periods * float(plan["relaxed_value"]) + 0.0

    def optimal_value(self, inventory: int, periods: int) -> float:
        """Expected profit of the best policy that knows the demand.

        Args:
            inventory: Units, whole, >= 0.
            periods: Periods, whole, >= 1.

        Returns:
            Profit, currency: `oracles.choice_dynamic_program` for Bernoulli demand, `compute_ladder_program` for
            Poisson.

        Raises:
            ValueError: If an argument is out of bounds.
        """
        if self.law == "bernoulli":
            sales = np.diag(np.where(self.margins > 0, self.mean_demand_by_rung, 0.0))
            return choice_dynamic_program(np.maximum(self.margins, 0.0).tolist(), sales.tolist(), periods, inventory)[
                "value"
            ]
        return float(compute_ladder_program(self, inventory, periods).values[-1, -1])


@dataclass(frozen=True)
class LadderProgram:
    """Best rungs and values of a ladder market with stock.

    Attributes:
        values: float64, shape `(periods + 1, inventory + 1)`: expected profit with so many periods and units left.
        rungs: int64, shape `(periods + 1, inventory + 1)`: best rung; the number of rungs = do not offer.
    """

    values: np.ndarray
    rungs: np.ndarray


def compute_ladder_program(market: LadderMarket, inventory: int, periods: int) -> LadderProgram:
    """Exact dynamic program over periods and units left; demand above the stock is lost.

    Args:
        market: The ladder.
        inventory: Units, whole, >= 0.
        periods: Periods, whole, >= 1.

    Returns:
        Values and rungs for every number of periods and units left.

    Raises:
        ValueError: If an argument is out of bounds.
    """
    stock = check_integer("inventory", inventory)
    periods = check_integer("periods", periods, least=1)
    units, mean = np.arange(stock + 1), np.asarray(market.mean_demand_by_rung)[:, None]
    law = stats.bernoulli(mean) if market.law == "bernoulli" else stats.poisson(mean)
    chance, above = law.pmf(units), law.sf(units - 1)  # of exactly, and of at least, so many
    # sold[rung, have, units]: chance of selling so many units out of those at hand.
    at_hand = units[:, None]
    sold = np.where(units < at_hand, chance[:, None], np.where(units == at_hand, above[:, None], 0.0))
    revenue = market.margins[:, None] * (sold * units).sum(axis=2)
    left = np.maximum(at_hand - units, 0)
    values = np.zeros((periods + 1, stock + 1))
    rungs = np.full((periods + 1, stock + 1), len(mean))
    for t in range(1, periods + 1):
        gains = np.concatenate([revenue + (sold * values[t - 1][left]).sum(axis=2), values[t - 1][None]])
        values[t], rungs[t] = gains.max(axis=0), gains.argmax(axis=0)
    rungs[:, 0] = len(mean)
    return LadderProgram(values, rungs)


@dataclass(frozen=True)
class SeasonMarket:
    """Stock sold over a season in continuous time; customers come by a Poisson process of rate scale x exp(-rate p).

    Attributes:
        scale: Sales per unit of time at price zero, > 0.
        rate: Price sensitivity, > 0.
        inventory: Units, whole, >= 0.
        horizon: Length of the season, >= 0.

    Raises:
        ValueError: If an argument is out of bounds.

    References:
        Gallego and van Ryzin 1994, Management Science 40(8).
    """

    scale: float
    rate: float
    inventory: int
    horizon: float

    def __post_init__(self) -> None:
        self.optimum()

    def optimum(self) -> dict[str, float]:
        """Optimal value, fluid bound, fixed price and its exact value (`oracles.gallego_van_ryzin`)."""
        return gallego_van_ryzin(self.scale, self.rate, self.inventory, self.horizon)

    def sales_rate(self, prices: np.ndarray) -> np.ndarray:
        """Sales per unit of time at these prices, same shape."""
        return self.scale * np.exp(-self.rate * prices)


def check_ladder(price_ladder: Sequence[float]) -> np.ndarray:
    """Return a price ladder as a float64 array.

    Raises:
        ValueError: If it is empty, does not rise or holds a price that is not positive and finite.
    """
    ladder = check_numbers("price_ladder", price_ladder, above=0)
    if np.any(np.diff(ladder) <= 0):
        raise ValueError(f"price_ladder is {ladder.tolist()}; it must rise from rung to rung")
    return ladder


def find_rungs(price_ladder: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Positions of prices on a ladder; the number of rungs stands for a price that is infinite (not offered).

    Args:
        price_ladder: Rising, shape `(rungs,)`.
        prices: Rungs or infinite, any shape.

    Returns:
        int64, shape of the prices.

    Raises:
        ValueError: If a price is neither a rung nor infinite.
    """
    extended = np.append(price_ladder, np.inf)
    rungs = np.searchsorted(extended, prices)
    found = extended[np.minimum(rungs, len(price_ladder))] == prices
    if not found.all():
        raise ValueError(f"price {np.asarray(prices)[~found][0]} is no rung of the ladder {price_ladder.tolist()}")
    return rungs
