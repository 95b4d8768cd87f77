"""How much to order beside a price: demand between two deliveries is uncertain, and what is short or left has a cost.

One cycle: an order placed now arrives after the lead time and has to last until the next one does, a review period
later. What is on hand and on order already serves the lead time; the order can only serve what comes after it.
Shapes: N items, P prices, S draws of demand.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from pricing_fm.policy.options import OWN, PriceOptions
from pricing_fm.policy.planning import PlannedValue, cautious_gain, planned_value, step_draws

ROUNDING = 1e-9  # units; what a requirement may miss a whole pack by
ITEMS_AT_ONCE = 32  # bounds memory: draws are (items, prices, draws)


@dataclass(frozen=True)
class StockArguments:
    """When an order arrives and what it costs to have too much or too little.

    Args:
        lead_time (`int`): Periods between an order and its delivery.
        review_periods (`int`): Periods between two orders.
        holding_cost (`float`): Of a unit left at the end of the cycle, per period of the review, share of unit cost.
        lost_sale_cost (`float`): Of a unit short beyond its lost margin, share of price: goodwill. With backlog: the
            cost of letting a customer wait.
        salvage_value (`float`, *optional*): What a unit left brings, share of unit cost, for goods that do not keep;
            None = it is worth its cost, because the next order is that much smaller.
        backlog (`bool`): Customers wait for the next delivery instead of going away.
        pack_size (`int`): Orders are multiples of it.

    Raises:
        ValueError: If a value is out of range.
    """

    lead_time: int = field(default=1, metadata={"help": "periods between an order and its delivery"})
    review_periods: int = field(default=1, metadata={"help": "periods between two orders"})
    holding_cost: float = field(default=0.005, metadata={"help": "of a unit left, per period, share of its cost"})
    lost_sale_cost: float = field(default=0.0, metadata={"help": "of a unit short beyond its margin, share of price"})
    salvage_value: float | None = field(
        default=None, metadata={"help": "of a unit left, share of its cost; default: it keeps its cost"}
    )
    backlog: bool = field(default=False, metadata={"help": "customers wait for the next delivery"})
    pack_size: int = field(default=1, metadata={"help": "orders are multiples of it"})

    def __post_init__(self) -> None:
        if self.lead_time < 0 or self.review_periods < 1 or self.pack_size < 1:
            raise ValueError(
                f"lead_time is {self.lead_time}, review_periods {self.review_periods} and pack_size {self.pack_size}; "
                "at least 0, 1 and 1 are needed"
            )
        for name in ("holding_cost", "lost_sale_cost"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and not negative")
        if self.salvage_value is not None and not self.salvage_value <= 1:
            raise ValueError(f"salvage_value is {self.salvage_value}; a unit left brings at most its cost, 1")
        if self.backlog and self.lost_sale_cost == 0:
            raise ValueError("with backlog and lost_sale_cost 0 nothing speaks for a stock; give a cost of waiting")

    @property
    def periods(self) -> int:
        """Periods that stock on hand, on order and the new order have to last."""
        return self.lead_time + self.review_periods

    def unit_costs(self, prices: np.ndarray, costs: np.ndarray) -> "UnitCosts":
        """In currency, for prices `(N, P)` and unit costs `(N,)`."""
        cost = np.broadcast_to(costs[:, None], prices.shape)
        kept = 1.0 if self.salvage_value is None else self.salvage_value
        left = cost * (kept - self.holding_cost * self.review_periods)
        return UnitCosts(prices, cost, left, self.lost_sale_cost * prices, self.backlog)


@dataclass(frozen=True)
class UnitCosts:
    """What a unit earns and costs, currency; arrays that broadcast with `(N, P)`.

    Args:
        price, cost (`np.ndarray`): Of a unit sold, of a unit ordered.
        leftover_value (`np.ndarray`): Of a unit left at the end of the cycle; negative = it costs to get rid of it.
        shortage_cost (`np.ndarray`): Of a unit that customers wanted and did not get in the cycle, beyond its margin.
        backlog (`bool`): They get it later, at the same price.

    Raises:
        ValueError: If a unit left is worth more than it costs: one would order without end.
    """

    price: np.ndarray
    cost: np.ndarray
    leftover_value: np.ndarray
    shortage_cost: np.ndarray
    backlog: bool = False

    def __post_init__(self) -> None:
        if np.any(np.asarray(self.leftover_value) > np.asarray(self.cost) * (1 + 1e-12)):
            raise ValueError("a unit left is worth more than it costs; leftover_value must be at most cost")

    @property
    def critical_ratio(self) -> np.ndarray:
        """Share of cycles in which the order should suffice: underage / (underage + overage), in [0, 1].

        References:
            Arrow, Harris and Marschak 1951, Econometrica 19(3); for the base stock with backlog, Zipkin 2000, ch. 6.
        """
        under = np.maximum(self.shortage_cost + (0.0 if self.backlog else self.price - self.cost), 0.0)
        over = np.maximum(self.cost - self.leftover_value, 0.0)
        total = under + over
        # Nothing to win and nothing to lose: no order.
        return np.divide(under, total, out=np.zeros(np.shape(total)), where=total > 0)


@dataclass(frozen=True)
class CycleDemand:
    """Draws of demand of one cycle, the same draw in the same place; `(..., S)`, units.

    Args:
        lead (`np.ndarray`): Until the order arrives.
        review (`np.ndarray`): From then on until the next one does.
        probabilities (`np.ndarray`, *optional*): Of the draws, broadcast, summing to 1; None = all alike.
    """

    lead: np.ndarray
    review: np.ndarray
    probabilities: np.ndarray | None = None

    def scaled(self, factor: np.ndarray) -> "CycleDemand":
        """The same draws times a factor `(...)`."""
        return replace(self, lead=self.lead * factor[..., None], review=self.review * factor[..., None])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Expectation over the draws: `(..., S)` -> `(...)`."""
        if self.probabilities is None:
            return values.mean(-1)
        return (values * self.probabilities).sum(-1)


@dataclass(frozen=True)
class CycleOutcome:
    """Expected course of one cycle; `(...)` each.

    Args:
        profit (`np.ndarray`): Revenue, less what is ordered, plus what is left, less what is short; currency. Stock on
            hand is paid for already.
        sales, left, short (`np.ndarray`): Units sold, left at the end, and not served in the cycle.
        service (`np.ndarray`): Probability that nobody goes away or waits.
    """

    profit: np.ndarray
    sales: np.ndarray
    left: np.ndarray
    short: np.ndarray
    service: np.ndarray


def cycle_outcome(demand: CycleDemand, costs: UnitCosts, stock: np.ndarray, quantity: np.ndarray) -> CycleOutcome:
    """What a cycle brings.

    Args:
        demand (`CycleDemand`): `(..., S)`.
        costs (`UnitCosts`): Broadcast with `(...)`.
        stock (`(...)`): Units on hand and on order that arrive no later than the order.
        quantity (`(...)`): Units ordered.

    Returns:
        `CycleOutcome`.
    """
    wanted, order = demand.lead + demand.review, np.asarray(quantity)[..., None]
    if costs.backlog:
        end = np.asarray(stock)[..., None] + order - wanted
        left, short, sold = np.maximum(end, 0.0), np.maximum(-end, 0.0), wanted
    else:
        carried = np.maximum(np.asarray(stock)[..., None] - demand.lead, 0.0)
        left = np.maximum(carried + order - demand.review, 0.0)
        sold = np.minimum(demand.lead, np.asarray(stock)[..., None]) + carried + order - left
        short = wanted - sold
    sales, remains, missing = demand.mean(sold), demand.mean(left), demand.mean(short)
    # Who waits is served from a later order, which has to be paid for, too.
    shortage = costs.shortage_cost + (costs.cost if costs.backlog else 0.0)
    profit = costs.price * sales - costs.cost * quantity + costs.leftover_value * remains - shortage * missing
    return CycleOutcome(profit, sales, remains, missing, demand.mean((short <= ROUNDING).astype(float)))


def best_quantity(demand: CycleDemand, costs: UnitCosts, stock: np.ndarray, pack_size: int = 1) -> np.ndarray:
    """Order with the highest expected profit at given prices: a quantile of what an order would have to bring.

    Without lead time and stock it is the newsvendor's quantity, with backlog the order up to the base stock: the
    smallest requirement whose distribution function reaches the critical ratio.

    Args:
        demand (`CycleDemand`): `(..., S)`.
        costs (`UnitCosts`): Broadcast with `(...)`.
        stock (`(...)`): Units on hand and on order that arrive no later than the order.
        pack_size (`int`): Orders are multiples of it; 0 = any fraction of a unit.

    Returns:
        `(...)`: Units, never negative.
    """
    here = np.asarray(stock)[..., None]
    if costs.backlog:
        needed = demand.lead + demand.review - here
    else:
        needed = demand.review - np.maximum(here - demand.lead, 0.0)
    ratio = np.broadcast_to(costs.critical_ratio, needed.shape[:-1])
    needed = np.maximum(_quantile(needed, demand.probabilities, ratio), 0.0)
    needed = np.where(ratio > 0, needed, 0.0)
    if pack_size == 0:
        return needed
    # The profit is concave in the quantity: its best multiple is one of the two around its maximum.
    low = np.floor((needed + ROUNDING) / pack_size) * pack_size
    high = np.ceil((needed - ROUNDING) / pack_size) * pack_size
    profits = [cycle_outcome(demand, costs, stock, quantity).profit for quantity in (low, high)]
    return np.where(profits[1] > profits[0], high, low)


def _quantile(values: np.ndarray, probabilities: np.ndarray | None, levels: np.ndarray) -> np.ndarray:
    """Smallest value whose distribution function reaches the level: `(..., S)`, `(...)` -> `(...)`."""
    order = values.argsort(-1)
    ordered = np.take_along_axis(values, order, axis=-1)
    if probabilities is None:
        reached = np.broadcast_to((np.arange(values.shape[-1]) + 1.0) / values.shape[-1], values.shape)
    else:
        reached = np.take_along_axis(np.broadcast_to(probabilities, values.shape), order, axis=-1).cumsum(-1)
    # A relative 1e-12 forgives the rounding of a level that was meant to equal the distribution function.
    place = (reached < levels[..., None] * (1.0 - 1e-12)).sum(-1)
    return np.take_along_axis(ordered, np.minimum(place, values.shape[-1] - 1)[..., None], axis=-1)[..., 0]


@dataclass(frozen=True)
class StockedPlan:
    """Best order at every price, and what the cycle then brings; `(N, P)` each.

    Args:
        quantity (`np.ndarray`): Units to order.
        outcome (`CycleOutcome`): Of price and order.
        value (`PlannedValue`): Profit, and it by response member at the same order.
    """

    quantity: np.ndarray
    outcome: CycleOutcome
    value: PlannedValue


@dataclass(frozen=True)
class PriceAndOrder:
    """Price and order of N items in three ways: candidate of each item, `(N,)` int64.

    Args:
        joint (`np.ndarray`): Price chosen together with its best order.
        separate (`np.ndarray`): Price chosen as if stock were free and endless; its best order follows.
        kept (`np.ndarray`): Current price, and the best order for it.
        plan (`StockedPlan`): Orders and outcomes of all candidates.
        cautious_gain (`np.ndarray`, shape `(N, P)`): What `joint` is chosen by: profit over that at the current price,
            each with its best order, less `caution` standard deviations of it over the response members; currency.
    """

    joint: np.ndarray
    separate: np.ndarray
    kept: np.ndarray
    plan: StockedPlan
    cautious_gain: np.ndarray


def cycle_demand(options: PriceOptions, rows: np.ndarray, stock: StockArguments) -> CycleDemand:
    """The model's predictive distribution of one cycle's demand at every price, by draws.

    The steps' quantiles, joined by the copula of their errors. Scaled to the network's mean, totals would be less well
    calibrated (recipes/nano/REWARDS.md).

    Args:
        options (`PriceOptions`): Of `stock.periods` periods, without decision lead.
        rows (`(B,)`, int64): Items.
        stock (`StockArguments`): Lead time and review period.

    Returns:
        `CycleDemand`: `(B, P, S)`.
    """
    quantiles, prices = options.demand.quantile_values[rows], options.prices.shape[1]
    steps = list(step_draws(quantiles.reshape(-1, *quantiles.shape[2:]), options.levels, options.step_correlation))
    zero = np.zeros_like(steps[0])
    parts = [sum(part, zero) for part in (steps[: stock.lead_time], steps[stock.lead_time :])]
    lead, review = (part.reshape(len(rows), prices, -1) for part in parts)
    return CycleDemand(lead, review)


def plan_orders(options: PriceOptions, available: np.ndarray, stock: StockArguments) -> StockedPlan:
    """Best order of every item at every candidate price.

    Args:
        options (`PriceOptions`): Of `stock.periods` periods.
        available (`(N,)`): Units on hand and on order.
        stock (`StockArguments`): Times and costs.

    Returns:
        `StockedPlan`.

    Raises:
        ValueError: If the options cover other periods than the cycle.
    """
    if options.lead != 0 or options.demand.mean.shape[-1] != stock.periods:
        raise ValueError(f"price options cover {options.demand.mean.shape[-1]} periods; the cycle has {stock.periods}")
    share = options.member_units / np.maximum(options.expected_units, 1e-9)[..., None]
    quantities, outcomes, members = [], [], []
    for start in range(0, len(options), ITEMS_AT_ONCE):
        rows = np.arange(start, min(start + ITEMS_AT_ONCE, len(options)))
        demand = cycle_demand(options, rows, stock)
        costs = stock.unit_costs(options.prices[rows], options.costs[rows])
        here = np.broadcast_to(available[rows, None], options.prices[rows].shape)
        quantity = best_quantity(demand, costs, here, stock.pack_size)
        quantities.append(quantity)
        outcomes.append(cycle_outcome(demand, costs, here, quantity))
        by_member = [
            cycle_outcome(demand.scaled(factor), costs, here, quantity).profit
            for factor in np.moveaxis(share[rows], -1, 0)
        ]
        members.append(np.stack(by_member, axis=-1))
    joined = {name: np.concatenate([getattr(one, name) for one in outcomes]) for name in vars(outcomes[0])}
    outcome = CycleOutcome(**joined)
    return StockedPlan(np.concatenate(quantities), outcome, PlannedValue(outcome.profit, np.concatenate(members)))


def plan_price_and_order(
    options: PriceOptions, available: np.ndarray, stock: StockArguments, caution: float
) -> PriceAndOrder:
    """Chooses price and order together, and one after the other for comparison.

    Args:
        options (`PriceOptions`): Of `stock.periods` periods.
        available (`(N,)`): Units on hand and on order.
        stock (`StockArguments`): Times and costs.
        caution (`float`): As in `PriceOptions.choose`.

    Returns:
        `PriceAndOrder`.
    """
    plan = plan_orders(options, available, stock)
    margin = planned_value(options.demand, options.prices, options.costs, "margin", options.lead)
    kept = np.full(len(options), options.prices.shape[1] + OWN)
    return PriceAndOrder(
        joint=options.choose(plan.value, caution),
        separate=options.choose(margin, caution),
        kept=kept,
        plan=plan,
        cautious_gain=cautious_gain(plan.value, kept, caution),
    )
