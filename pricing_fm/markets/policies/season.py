"""Selling a perishable stock over a season with known exponential demand: fixed, re-solved and optimal prices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from pricing_fm.markets.oracles import gallego_van_ryzin
from pricing_fm.markets.oracles.checks import check_number
from pricing_fm.markets.policies.analytic_markets import SeasonMarket
from pricing_fm.markets.policies.fixed import ConstantPrice
from pricing_fm.markets.policies.online import NOT_OFFERED, OnlinePolicy, Situation, build_situation


def build_fluid_price(market: SeasonMarket) -> ConstantPrice:
    """The best price of the season if demand had no noise, kept to the end.

    Args:
        market: The season; stock >= 1.

    Returns:
        The policy.

    Raises:
        ValueError: If there is no stock, where no finite price is the answer.

    References:
        Gallego and van Ryzin 1994, Management Science 40(8), section 4.
    """
    optimum = gallego_van_ryzin(market.scale, market.rate, market.inventory, market.horizon)
    return ConstantPrice(
        check_number("fixed price of the season (its inventory must be at least 1)", optimum["fixed_price"])
    )


@dataclass(frozen=True)
class ResolvedFluidPrice:
    """The fluid price of what is left, computed anew at every moment from stock and time left.

    Attributes:
        scale: Sales per unit of time at price zero, > 0.
        rate: Price sensitivity, > 0.

    Raises:
        ValueError: If a number is not positive.

    References:
        Maglaras and Meissner 2006, Manufacturing & Service Operations Management 8(2).
    """

    scale: float
    rate: float

    def __post_init__(self) -> None:
        check_number("scale", self.scale, above=0)
        check_number("rate", self.rate, above=0)

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`, currency; infinite without stock."""
        free_sales = self.scale * situation.time_left / np.e
        scarcity = np.maximum(free_sales / np.maximum(situation.stock, 1.0), 1.0)
        return np.where(situation.stock > 0, (1.0 + np.log(scarcity)) / self.rate, NOT_OFFERED)

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Learns nothing."""


@dataclass(frozen=True)
class OptimalSeasonPrice:
    """The optimal price for every stock and time left.

    With x = scale x time / e the value of n units is log(sum over i <= n of x ** i / i!) / rate. The price exceeds 1 /
    rate by the value of the last unit, -log(1 - B_n) / rate, where B_n, the last term over the sum, is Erlang's loss
    probability of n servers and load x; the recursion B_n = x B_{n-1} / (n + x B_{n-1}) loses no digits.

    Attributes:
        scale: Sales per unit of time at price zero, > 0.
        rate: Price sensitivity, > 0.

    Raises:
        ValueError: If a number is not positive.

    References:
        Gallego and van Ryzin 1994, Management Science 40(8), section 2.3.
    """

    scale: float
    rate: float

    def __post_init__(self) -> None:
        check_number("scale", self.scale, above=0)
        check_number("rate", self.rate, above=0)

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`, currency; infinite without stock.

        Raises:
            ValueError: If a stock is not whole.
        """
        if not (np.floor(situation.stock) == situation.stock).all() or np.isinf(situation.stock).any():
            raise ValueError(f"stock is {situation.stock}; it must be a whole number of units in every run")
        load = self.scale * situation.time_left / np.e
        loss = np.ones(situation.runs)
        worth = np.full(situation.runs, NOT_OFFERED)
        for n in range(1, int(situation.stock.max()) + 1):
            worth = np.where(situation.stock == n, np.log1p(load * loss / n), worth)
            loss = load * loss / (n + load * loss)
        return (1.0 + worth) / self.rate

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Learns nothing."""


def compute_season_value(market: SeasonMarket, policy: OnlinePolicy) -> float:
    """Exact expected revenue of a policy that looks at stock and time left alone and draws nothing.

    Solves V_n' = sales rate at the price p(n, s) x (p(n, s) + V_{n-1} - V_n) in the time left s.

    Args:
        market: The season.
        policy: Its prices may depend on `stock` and `time_left`.

    Returns:
        Revenue, currency, to a relative 1e-7.

    Raises:
        ValueError: If the integration fails.
    """
    if market.inventory == 0 or market.horizon == 0:
        return 0.0
    stock, nothing_drawn = np.arange(1.0, market.inventory + 1.0), np.random.default_rng(0)

    def growth(time_left: float, values: np.ndarray) -> np.ndarray:
        prices = policy.choose(build_situation(len(stock), time_left, stock), nothing_drawn)
        return market.sales_rate(prices) * (prices - np.diff(values, prepend=0.0))

    # Stepwise, so that a kink of the price in time does not hide in one long step.
    solution = solve_ivp(
        growth, (0.0, market.horizon), np.zeros(len(stock)), rtol=1e-9, atol=1e-12, max_step=market.horizon / 50.0
    )
    if not solution.success:
        raise ValueError(f"the value of the policy could not be integrated: {solution.message}")
    return float(solution.y[-1, -1])
