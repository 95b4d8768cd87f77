"""A shop run forward under a policy: prices, demand, stock and what customers remember, by a known recursion.

Policies that are compared see the same luck: every unit's demand is the quantile of the same uniform number (common
random numbers), so that their difference is not buried under noise. Shapes: U units, T periods, D draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pricing_fm.evaluation.off_policy.censored_counts import compute_sales_terms, draw_counts
from pricing_fm.evaluation.off_policy.stocks import Stock

_DEMAND, _DECISION = 0, 1  # purposes of random numbers


class PriceState(NamedTuple):
    """What prices alone have left behind. Arrays `(units, draws)`.

    Attributes:
        log_last: Log of the last price, currency.
        log_memory: Log of the price that customers remember.
        depth: Recent discount: decayed mean of min(log(price / list price), 0), 0 or negative.
    """

    log_last: np.ndarray
    log_memory: np.ndarray
    depth: np.ndarray


class Situation(NamedTuple):
    """What a policy decides on. Arrays `(units, draws)`, or `(units, 1)` where all draws are alike.

    Attributes:
        period: Period since the start.
        list_price: Regular price, currency.
        unit_cost: Currency per unit.
        prices: What past prices have left behind.
        available: Units that can be sold at most; infinite = no limit.
    """

    period: int
    list_price: np.ndarray
    unit_cost: np.ndarray
    prices: PriceState
    available: np.ndarray


class Decision(NamedTuple):
    """What is charged. Arrays `(units, draws)`.

    Attributes:
        prices: Currency per unit, > 0.
        promotions: 1 in promoted periods, else 0.
    """

    prices: np.ndarray
    promotions: np.ndarray


class PricePolicy(Protocol):
    """A rule that names prices from what can be seen."""

    def decide(self, situation: Situation, uniforms: np.ndarray) -> Decision:
        """Prices of all units; `uniforms` `(units, draws)` is the chance that a stochastic policy may use."""


class DemandLaw(Protocol):
    """Demand given price, promotion and price state."""

    @property
    def overdispersion(self) -> float:
        """Variance is `mean + overdispersion mean**2`."""

    def compute_log_mean(self, situation: Situation, decision: Decision) -> np.ndarray:
        """Log of mean demand, units a period, `(units, draws)`."""


@dataclass(frozen=True)
class PathPolicy:
    """Prices fixed beforehand, such as the logged ones.

    Attributes:
        prices: Currency, `(units, periods)`.
        promotions: 1 in promoted periods, `(units, periods)`; None = none.
    """

    prices: np.ndarray
    promotions: np.ndarray | None = None

    def decide(self, situation: Situation, uniforms: np.ndarray) -> Decision:
        """See `PricePolicy`."""
        promoted = np.zeros_like(self.prices) if self.promotions is None else self.promotions
        here = slice(situation.period, situation.period + 1)
        shape = uniforms.shape
        return Decision(np.broadcast_to(self.prices[:, here], shape), np.broadcast_to(promoted[:, here], shape))


@dataclass(frozen=True)
class LadderPolicy:
    """Draws multiples of the list price from fixed probabilities.

    Attributes:
        multipliers: Increasing, `(rungs,)`.
        probabilities: `(units, periods, rungs)`; sum to 1 over rungs.

    Raises:
        ValueError: If shapes differ, or probabilities are negative or do not sum to 1.
    """

    multipliers: np.ndarray
    probabilities: np.ndarray

    def __post_init__(self) -> None:
        shape = self.probabilities.shape
        if len(shape) != 3 or shape[2:] != self.multipliers.shape:
            raise ValueError(f"probabilities have shape {shape}; expected (units, periods, {len(self.multipliers)})")
        if np.any(self.probabilities < 0) or not np.allclose(self.probabilities.sum(axis=2), 1.0, atol=1e-6):
            raise ValueError("probabilities must be 0 or more and sum to 1 over rungs")

    def decide(self, situation: Situation, uniforms: np.ndarray) -> Decision:
        """See `PricePolicy`."""
        shares = self.probabilities[:, situation.period]
        # Counted from below; the last rung takes what rounding leaves.
        rung = (uniforms[..., None] >= np.cumsum(shares, axis=1)[:, None, :-1]).sum(axis=-1)
        return Decision(situation.list_price * self.multipliers[rung], np.zeros(uniforms.shape))


@dataclass(frozen=True)
class Shop:
    """Everything that is known of the units but demand and policy.

    Attributes:
        list_prices: Regular price, currency, `(units, periods)`.
        unit_costs: Currency per unit, `(units, periods)`.
        stock: Stock and its replenishment.
        log_memory: Log of the price that customers remember before the first period, `(units,)`.
        depth: Recent discount before the first period, `(units,)`; see `PriceState`.
        persistence: Weight of the old memory (and depth) in the new one, in [0, 1).
        holding_cost: Currency per unit left and period, a number or `(units, 1)`.
        lost_sale_cost: Currency per unit of unmet demand, a number or `(units, 1)`.
        discount: Per period, in (0, 1].
        log_last: Log of the last price before the first period, `(units,)`; None = the remembered one. Only policies
            that start from the last price read it.

    Raises:
        ValueError: If shapes differ or a number is out of bounds.
    """

    list_prices: np.ndarray
    unit_costs: np.ndarray
    stock: Stock
    log_memory: np.ndarray
    depth: np.ndarray
    persistence: float
    holding_cost: np.ndarray | float = 0.0
    lost_sale_cost: np.ndarray | float = 0.0
    discount: float = 1.0
    log_last: np.ndarray | None = None

    def __post_init__(self) -> None:
        units = self.list_prices.shape[:1]
        if self.log_last is not None and self.log_last.shape != units:
            raise ValueError(f"log_last has shape {self.log_last.shape}; expected {units}, one number per unit")
        if self.unit_costs.shape != self.list_prices.shape or self.log_memory.shape != units:
            raise ValueError(
                f"list_prices {self.list_prices.shape}, unit_costs {self.unit_costs.shape} and log_memory"
                f" {self.log_memory.shape} do not fit together"
            )
        if self.depth.shape != units or not 0.0 <= self.persistence < 1.0 or not 0.0 < self.discount <= 1.0:
            raise ValueError("depth has one number per unit, persistence lies in [0, 1), discount in (0, 1]")
        if not (np.all(self.list_prices > 0) and np.isfinite(self.unit_costs).all()):
            raise ValueError("list prices must be positive and costs finite")


class Outcome(NamedTuple):
    """What a policy earns, discounted, currency. Arrays `(units, draws)`.

    Attributes:
        values: Margins at expected sales given stock and price, less charges: the same mean as `returns`, less noise.
        returns: What was earned in each draw: for risk.
        demand: Demand over all periods, units.
        sales: Sales over all periods, units.
    """

    values: np.ndarray
    returns: np.ndarray
    demand: np.ndarray
    sales: np.ndarray


class Step(NamedTuple):
    """One period of a run. Arrays `(units, draws)`, money discounted.

    Attributes:
        situation, decision: What was seen and charged.
        mean: Mean demand, units.
        customers, served: Demand, and what the stock served of it, units.
        margin: Margin at expected sales, currency.
        margin_slope: Its derivative by log mean demand, currency.
        realized_margin: Margin of what was sold, currency.
        charges: For what was left over or could not be served, currency.
    """

    situation: Situation
    decision: Decision
    mean: np.ndarray
    customers: np.ndarray
    served: np.ndarray
    margin: np.ndarray
    margin_slope: np.ndarray
    realized_margin: np.ndarray
    charges: np.ndarray


def advance_prices(state: PriceState, prices: np.ndarray, list_prices: np.ndarray, persistence: float) -> PriceState:
    """The known recursion of what prices leave behind: m' = persistence m + (1 - persistence) log price.

    Args:
        state: Before the period.
        prices: Charged, currency; NaN = no price, which changes nothing.
        list_prices: Regular prices, broadcast.
        persistence: Weight of the old state.

    Returns:
        Before the next period.
    """
    charged = np.isfinite(prices)
    log_price = np.log(np.where(charged, prices, 1.0))
    discount = np.minimum(log_price - np.log(list_prices), 0.0)
    kept, new = persistence, 1.0 - persistence
    return PriceState(
        np.where(charged, log_price, state.log_last),
        np.where(charged, kept * state.log_memory + new * log_price, state.log_memory),
        np.where(charged, kept * state.depth + new * discount, state.depth),
    )


def run_shop(
    shop: Shop,
    policy: PricePolicy,
    demand: DemandLaw,
    draws: int,
    seed: int,
    log_factors: np.ndarray | float = 0.0,
    watch: Callable[[Step], None] | None = None,
) -> Outcome:
    """Run every unit forward under a policy.

    Args:
        shop: What is known of the units.
        policy: The policy.
        demand: Demand given price and price state.
        draws: Histories per unit.
        seed: Seed of the luck; equal seeds give policies equal luck.
        log_factors: Added to log mean demand, a number or `(units,)`.
        watch: Called with every period.

    Returns:
        What is earned.

    Raises:
        ValueError: If a policy names a price that is not positive.
    """
    units, periods = shop.list_prices.shape
    shift = np.broadcast_to(np.asarray(log_factors, dtype=np.float64), (units,))[:, None]
    stock, prices = shop.stock.start(draws), _start_prices(shop, draws)
    values, returns, wanted, sold = (np.zeros((units, draws)) for _ in range(4))
    for period in range(periods):
        luck, choice = (
            np.random.default_rng([seed, purpose, period]).random((units, draws)) for purpose in (_DEMAND, _DECISION)
        )
        list_price, cost = shop.list_prices[:, period, None], shop.unit_costs[:, period, None]
        situation = Situation(period, list_price, cost, prices, shop.stock.get_available(stock, period))
        decision = policy.decide(situation, choice)
        if not np.all(decision.prices > 0.0):
            raise ValueError(f"the policy named a price of {np.min(decision.prices)} in period {period}")
        mean = np.exp(demand.compute_log_mean(situation, decision) + shift)
        step = _sell(
            shop, situation, decision, mean, draw_counts(luck, mean, demand.overdispersion), demand.overdispersion
        )
        values += step.margin - step.charges
        returns += step.realized_margin - step.charges
        wanted, sold = wanted + step.customers, sold + step.served
        if watch is not None:
            watch(step)
        stock = shop.stock.advance(stock, step.customers, period)
        prices = advance_prices(prices, decision.prices, list_price, shop.persistence)
    return Outcome(values, returns, wanted, sold)


def _start_prices(shop: Shop, draws: int) -> PriceState:
    """What prices before the first period have left behind, one copy per draw."""
    last = shop.log_memory if shop.log_last is None else shop.log_last
    return PriceState(*(np.repeat(column[:, None], draws, axis=1) for column in (last, shop.log_memory, shop.depth)))


def _sell(
    shop: Shop,
    situation: Situation,
    decision: Decision,
    mean: np.ndarray,
    customers: np.ndarray,
    overdispersion: float,
) -> Step:
    """What one period's demand brings."""
    available, factor = situation.available, shop.discount**situation.period
    served = np.minimum(customers, available)
    left = np.where(np.isfinite(available), available - served, 0.0)
    charges = factor * (shop.holding_cost * left + shop.lost_sale_cost * (customers - served))
    unit_margin = factor * (decision.prices - situation.unit_cost)
    sales = compute_sales_terms(mean, available, overdispersion)
    return Step(
        situation,
        decision,
        mean,
        customers,
        served,
        margin=unit_margin * sales.expected,
        margin_slope=unit_margin * sales.by_log_mean,
        realized_margin=unit_margin * served,
        charges=charges,
    )
