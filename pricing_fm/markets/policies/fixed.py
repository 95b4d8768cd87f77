"""Policies that look at no sales: the best constant price, cost plus a markup, the rival's price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pricing_fm.markets.oracles import monopoly_price
from pricing_fm.markets.oracles.checks import check_number
from pricing_fm.markets.policies.online import Situation


@dataclass(frozen=True)
class ConstantPrice:
    """One price for ever.

    Attributes:
        price: Currency, >= 0.

    Raises:
        ValueError: If the price is negative or not finite.
    """

    price: float

    def __post_init__(self) -> None:
        check_number("price", self.price, least=0)

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """The price, shape `(runs,)`."""
        return np.full(situation.runs, float(self.price))

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Learns nothing."""


@dataclass(frozen=True)
class CostPlus:
    """Unit cost plus a share of it. Optimal where the elasticity is constant and the markup fits it.

    Attributes:
        markup: Share of the cost, >= 0; 0.25 = price is 1.25 times the cost.

    Raises:
        ValueError: If the markup is negative or not finite.
    """

    markup: float

    def __post_init__(self) -> None:
        check_number("markup", self.markup, least=0)

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`."""
        return situation.unit_costs * (1.0 + self.markup)

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Learns nothing."""


@dataclass(frozen=True)
class MatchRival:
    """The rival's price times a ratio.

    Attributes:
        ratio: 1 = match, 0.99 = undercut by one percent; > 0.

    Raises:
        ValueError: If the ratio is not positive.
    """

    ratio: float = 1.0

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, above=0)

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`.

        Raises:
            ValueError: If a rival's price was not seen.
        """
        if np.isnan(situation.rival_prices).any():
            run = int(np.flatnonzero(np.isnan(situation.rival_prices))[0])
            raise ValueError(f"rival_prices[{run}] is nan; matching needs the rival's price in every run")
        return situation.rival_prices * self.ratio

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Learns nothing."""


def build_best_constant_price(
    demand: Mapping[str, Any], cost: float, price_bounds: Sequence[float] | None = None
) -> ConstantPrice:
    """The monopoly price as a policy: what a seller that knows the demand curve charges.

    Args:
        demand: Demand curve as in `oracles.monopoly_price`.
        cost: Unit cost, >= 0.
        price_bounds: Lowest and highest price; None = any.

    Returns:
        The policy.

    Raises:
        ValueError: If an argument is invalid or no price is optimal.
    """
    return ConstantPrice(monopoly_price(demand, cost, price_bounds)["price"])


def build_best_cost_plus(elasticity: float) -> CostPlus:
    """Cost-plus with the markup 1 / (elasticity - 1), the monopoly price at constant elasticity for every cost.

    Args:
        elasticity: Of demand, > 1.

    Returns:
        The policy.

    Raises:
        ValueError: If the elasticity is at most 1, where no markup is best.

    References:
        Lerner 1934, Review of Economic Studies 1(3).
    """
    return CostPlus(1.0 / (check_number("elasticity", elasticity, above=1) - 1.0))
