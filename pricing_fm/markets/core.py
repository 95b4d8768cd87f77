"""One period of a batch of markets of any domain: prices in, sales, rewards and the next state out.

A market is composed of parts (demand, calendar, hidden shock, regimes, memory of the customers, supply, rivals, costs,
payoff); an absent part is None and costs nothing. All markets of a batch share the same parts, each with its own
numbers. Arrays have shape `(markets, products, segments)`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pricing_fm.markets.context import Calendar, Costs, HiddenShock, Regimes
from pricing_fm.markets.demand import Demand
from pricing_fm.markets.memory import Memory
from pricing_fm.markets.noise import Noise
from pricing_fm.markets.parts import Part
from pricing_fm.markets.payoffs import MARGIN, Payoff
from pricing_fm.markets.rivals import Rivals
from pricing_fm.markets.streams import Streams
from pricing_fm.markets.supply import Supply

# A part's array; None only where the market lacks the part, which a checker cannot know.
PartState = Any

# An array, because numpy takes longer to convert a number than to add it to a few markets.
_ONE_PERIOD = np.ones(1, dtype=np.int64)


@dataclass(frozen=True)
class Market:
    """The truth of a batch of markets. Arrays `(markets, products, segments)` or with ones on the last two axes.

    Attributes:
        domain, family: What the market is an example of.
        volume: Customers or units a period that `demand` is a share of.
        demand: How mean demand responds to prices.
        noise: How counts scatter around the mean.
        list_price: Regular price at period 0, currency per unit.
        price_bounds: Lowest and highest admissible price as multiples of the list price.
        price_tick: Smallest step between prices, currency, `(markets, 1, 1)`.
        num_periods: Periods of an episode.
        ends: True = the episode's end is the end of the world (a season, a departure): a termination. False = it is
            cut off (the shop goes on): a truncation.
        costs: Unit costs, and how they move.
        payoff: What a sold unit earns.
        promotion_uplift: Factor on demand in promoted periods; None = promotions do nothing.
        calendar, shock, regimes, memory, supply, rivals: Optional parts; None = absent.
    """

    domain: str
    family: str
    volume: np.ndarray
    demand: Demand
    noise: Noise
    list_price: np.ndarray
    price_bounds: tuple[float, float]
    price_tick: np.ndarray
    num_periods: int
    costs: Costs
    payoff: Payoff = MARGIN
    ends: bool = False
    promotion_uplift: np.ndarray | None = None
    calendar: Calendar | None = None
    shock: HiddenShock | None = None
    regimes: Regimes | None = None
    memory: Memory | None = None
    supply: Supply | None = None
    rivals: Rivals | None = None

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(markets, products, segments)."""
        markets, products, segments = self.volume.shape
        return markets, products, segments

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that are there, by attribute name."""
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Part)}

    @property
    def is_separable(self) -> bool:
        """Whether items neither share a resource nor take customers from each other."""
        return all(getattr(part, "is_separable", True) for part in self.parts.values())

    def select(self, markets: np.ndarray) -> Market:
        """Some of the markets (positions, with repetition allowed, or a mask)."""
        chosen: dict[str, Any] = {name: values[markets] for name, values in self._arrays().items()}
        chosen |= {name: part.select(markets) for name, part in self.parts.items()}
        return replace(self, **chosen)

    def select_items(self, items: tuple[np.ndarray, ...] | np.ndarray) -> Market:
        """Some items (index arrays or a mask of `shape`) as markets of one item each.

        Raises:
            ValueError: If the items are coupled.
        """
        if not self.is_separable:
            raise ValueError(f"the items of {self.domain}/{self.family} are coupled and cannot be taken apart")
        chosen: dict[str, Any] = {
            name: np.broadcast_to(values, self.shape)[items].reshape(-1, 1, 1)
            for name, values in self._arrays().items()
        }
        chosen |= {name: part.select_items(self.shape, items) for name, part in self.parts.items()}
        return replace(self, **chosen)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray)}


class MarketState(NamedTuple):
    """What a period starts from. A part's state is None where the market has no such part.

    Attributes:
        period: Periods since the start, int64, `(markets,)`.
        cost: Unit cost of the period, currency, `(markets, products, segments)`.
        list_price: Regular price of the period, currency, `(markets, products, segments)`.
        shock: Hidden log shock on demand, `(markets, products, segments)`.
        regime: Regime of the market, int64, `(markets,)`.
        memory, supply, rivals: States of these parts, `(markets, ...)`; see each part.
    """

    period: np.ndarray
    cost: np.ndarray
    list_price: np.ndarray
    shock: PartState = None
    regime: PartState = None
    memory: PartState = None
    supply: PartState = None
    rivals: PartState = None

    def select(self, markets: np.ndarray) -> MarketState:
        """State of some markets (positions, with repetition allowed, or a mask)."""
        chosen: list[Any] = [None if values is None else values[markets] for values in self]
        return MarketState(*chosen)


class Observation(NamedTuple):
    """What the seller sees of a period. Arrays `(markets, products, segments)`.

    Attributes:
        units: Units sold.
        price: Price charged, currency per unit.
        list_price: Regular price of the period.
        cost: Unit cost of the period.
        inventory: Units that could be sold at most; infinite where nothing limits sales.
        promotion: 1 in promoted periods, else 0; None if promotions were not planned.
        competitor_price: Rivals' price as reported, NaN where the report is missing; None without rivals.
    """

    units: np.ndarray
    price: np.ndarray
    list_price: np.ndarray
    cost: np.ndarray
    inventory: np.ndarray
    promotion: np.ndarray | None
    competitor_price: np.ndarray | None


class Truth(NamedTuple):
    """What no seller sees. Arrays `(markets, products, segments)`.

    Attributes:
        mean_demand: Expected demand given prices and all that is hidden, units.
        demand: Units customers newly wanted. Where customers wait for service (waiting lists, cases that get worse)
            the units of a period also count those who wanted them before, so that units may exceed demand.
        hidden_shock: Log factor of the hidden shock on demand, whose exponential has mean 1; None without one.
    """

    mean_demand: np.ndarray
    demand: np.ndarray
    hidden_shock: np.ndarray | None


def start(market: Market, random: Streams, period: int | np.ndarray = 0) -> MarketState:
    """State of markets before their first period.

    Args:
        market: Truth of the markets.
        random: Streams of the markets.
        period: Period to start in, integers, `(markets,)` or a scalar.

    Returns:
        State before the period.
    """
    shape = market.shape
    periods = np.array(np.broadcast_to(np.asarray(period, dtype=np.int64), shape[:1]))
    list_price = np.array(np.broadcast_to(market.list_price, shape))
    regime = None if market.regimes is None else market.regimes.start(random, periods)
    shock = None if market.shock is None else market.shock.start(random, periods, shape)
    rivals = None if market.rivals is None else market.rivals.start(list_price)
    return MarketState(
        period=periods,
        cost=market.costs.start(shape),
        list_price=list_price,
        shock=shock,
        regime=regime,
        memory=None if market.memory is None else market.memory.start(list_price),
        supply=None if market.supply is None else market.supply.start(shape, market.volume),
        rivals=rivals,
    )


def compute_traffic(market: Market, state: MarketState, promotions: np.ndarray | None = None) -> np.ndarray:
    """Customers of this period: everything that scales demand whatever the price, the hidden shock included.

    Args:
        market: Truth of the markets.
        state: State before the period.
        promotions: 1 or True in promoted periods; None = none.

    Returns:
        Customers or units a period, `(markets, products, segments)`.
    """
    traffic = market.volume
    log_factor = None
    if market.calendar is not None:
        log_factor = market.calendar.compute_log_factor(state.period)
    if market.shock is not None:
        shock = market.shock.normalize(state.shock)
        log_factor = shock if log_factor is None else log_factor + shock
    if log_factor is not None:
        traffic = traffic * np.exp(log_factor)
    if market.regimes is not None:
        traffic = traffic * market.regimes.get_volume_factor(state.regime)
    if promotions is not None and market.promotion_uplift is not None:
        traffic = traffic * np.where(promotions, market.promotion_uplift, 1.0)
    return traffic


def compute_mean_demand(
    market: Market, state: MarketState, prices: np.ndarray, promotions: np.ndarray | None = None
) -> np.ndarray:
    """Expected units customers want this period, given everything, the hidden shock included.

    Args:
        market: Truth of the markets.
        state: State before the period.
        prices: Prices charged, currency per unit, `(markets, products, segments)`.
        promotions: 1 or True in promoted periods, same shape; None = none.

    Returns:
        Mean demand, units a period, same shape.
    """
    traffic = compute_traffic(market, state, promotions)
    rival_prices = None if market.rivals is None else market.rivals.get_prices(state.rivals)
    mean = traffic * market.demand.respond(prices, rival_prices)
    if market.memory is not None:
        mean = market.memory.adjust(mean, traffic, state.memory, prices, state.period)
    return mean


def step(
    market: Market,
    state: MarketState,
    prices: np.ndarray,
    random: Streams,
    promotions: np.ndarray | None = None,
) -> tuple[MarketState, Observation, np.ndarray, Truth]:
    """Sell for one period.

    Args:
        market: Truth of the markets.
        state: State before the period; it is not changed.
        prices: Prices charged, > 0, currency per unit, `(markets, products, segments)`.
        random: Streams of the markets; the draws of a period depend on market and period alone.
        promotions: 1 or True in promoted periods, same shape; None = none.

    Returns:
        State before the next period, observation, rewards of the items (currency a period, same shape as prices;
        charges on shared resources are shared equally by the items) and the hidden truth.
    """
    mean = compute_mean_demand(market, state, prices, promotions)
    demand = market.noise.draw(random, state.period, mean)
    following, units, reward = settle(market, state, prices, mean, demand)
    observation = Observation(
        units,
        prices,
        state.list_price,
        get_unit_cost(market, state),
        get_inventory(market, state),
        promotions,
        None if market.rivals is None else market.rivals.report(state.rivals, state.period, random),
    )
    shock = None if market.shock is None else market.shock.normalize(state.shock)
    reward = market.payoff.realize(reward, units, prices, random, state.period)
    return drift(market, following, random), observation, reward, Truth(mean, demand, shock)


def settle(
    market: Market, state: MarketState, prices: np.ndarray, mean: np.ndarray, demand: np.ndarray
) -> tuple[MarketState, np.ndarray, np.ndarray]:
    """What follows from prices and demand without further chance: sales, expected reward, state of the parts.

    Dynamic programs call this for every demand that can happen; `step` calls it for the one that did.

    Args:
        market: Truth of the markets.
        state: State before the period.
        prices: Prices charged, currency per unit, `(markets, products, segments)`.
        mean: Mean demand, same shape.
        demand: Units customers want, same shape.

    Returns:
        State before the next period but for `drift`, units sold, reward of each item.
    """
    units, supply, charges = demand, None, None
    if market.supply is not None:
        units, supply, charges = market.supply.sell(state.supply, demand, state.period)
    reward = market.payoff.compute_reward(units, prices, get_unit_cost(market, state), mean)
    if charges is not None:
        reward = reward - charges
    memory = state.memory
    if market.memory is not None:
        memory = market.memory.advance(state.memory, mean, compute_traffic(market, state), prices, state.period)
    rivals = None if market.rivals is None else market.rivals.advance(state.rivals, prices, state.period)
    following = MarketState(
        state.period + _ONE_PERIOD, state.cost, state.list_price, state.shock, state.regime, memory, supply, rivals
    )
    return following, units, reward


def drift(market: Market, state: MarketState, random: Streams) -> MarketState:
    """Let move what moves by itself: shock, regime, costs, list prices and resources that come free.

    Args:
        market: Truth of the markets.
        state: State after `settle`; its period is the coming one.
        random: Streams of the markets.

    Returns:
        State before the coming period.
    """
    if market.shock is not None:
        state = state._replace(shock=market.shock.advance(state.shock, random, state.period))
    if market.regimes is not None:
        state = state._replace(regime=market.regimes.advance(state.regime, random, state.period))
    if market.costs.is_moving:
        cost, list_price = market.costs.advance(state.cost, state.list_price, random, state.period)
        state = state._replace(cost=cost, list_price=list_price)
    if market.supply is not None and market.supply.is_random:
        state = state._replace(supply=market.supply.drift(state.supply, random, state.period))
    return state


def get_unit_cost(market: Market, state: MarketState) -> np.ndarray:
    """Unit cost of the period, regime included, currency, `(markets, products, segments)`."""
    if market.regimes is None:
        return state.cost
    return state.cost * market.regimes.get_cost_factor(state.regime)


def get_inventory(market: Market, state: MarketState) -> np.ndarray:
    """Units that can be sold at most; infinite where nothing limits sales, `(markets, products, segments)`."""
    if market.supply is None:
        return np.broadcast_to(np.inf, market.shape)
    return market.supply.get_available(state.supply, market.shape)


def compute_final_value(market: Market, state: MarketState) -> np.ndarray:
    """Worth of what is left after the last period (salvage, overbooking), currency, `(markets, products, segments)`."""
    if market.supply is None or not market.ends:
        return np.zeros(market.shape)
    return market.supply.compute_final_value(state.supply, market.shape)
