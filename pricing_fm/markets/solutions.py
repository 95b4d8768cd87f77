"""The oracle of a market: the best a seller who knows it can earn, how that was found, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from pricing_fm.markets.constant_prices import find_constant_prices
from pricing_fm.markets.core import Market, MarketState, start
from pricing_fm.markets.dynamic_program import (
    DynamicProgram,
    build_price_ladder,
    count_outcomes,
    count_states,
    solve_dynamic_program,
)
from pricing_fm.markets.fluid import compute_fluid_bound
from pricing_fm.markets.one_period import (
    compute_expected_reward,
    compute_joint_optimum,
    compute_one_period_prices,
    compute_price_bounds,
)
from pricing_fm.markets.simulation import SimulatedValue, simulate_items, simulate_policy
from pricing_fm.markets.streams import build_streams
from pricing_fm.markets.supply import OrderUpToStock

# Largest dynamic programs that are tried: grid states; price vectors, and states x vectors x demands, of coupled items.
_MOST_STATES, _MOST_VECTORS, _MOST_OUTCOMES = 8_000, 700, 50_000_000

# Where constant prices are simulated: prices of the first look, precision of a log price.
_SIMULATED_POINTS, _SIMULATED_FINEST = 31, 2e-3

ONE_PERIOD, DYNAMIC_PROGRAM, FLUID, RELAXED = "one-period optimum", "dynamic program", "fluid bound", "relaxed bound"

_Simulated = tuple[SimulatedValue, np.ndarray | None]  # what a policy earns, and its plan as in `MarketSolution`
_Constant = tuple[SimulatedValue, np.ndarray]  # likewise, every row of the plan the same


@dataclass(frozen=True)
class MarketSolution:
    """Oracle of one market over an episode. Money in currency.

    Attributes:
        method: "one-period optimum" (nothing links the periods: exact), "dynamic program" (exact on a grid of states
            and a ladder of prices), "fluid bound" (shared stock: the bound is certified, `value` is a policy's) or
            "relaxed bound" (stock ignored: likewise).
        value: Expected reward of the oracle's policy.
        upper_bound: Expected reward that no policy exceeds (on the ladder, for dynamic programs). Infinite where no
            bound is known: coupled items whose one-period optimum has no closed form.
        myopic_value: Expected reward of the seller who knows the market and maximises every period's reward alone.
        constant_value: Expected reward of the best prices that never change, a price of its own for every item (on the
            ladder, for dynamic programs). Simulated on the luck of `value` where that is simulated; the prices are
            chosen on it too.
        constant_prices: These prices, currency per unit, `(products, segments)`.
        standard_error: Of `value` where it is simulated, else 0.
        constant_standard_error: Of `constant_value` where it is simulated, else 0.
        plan: What `choose` follows: dynamic programs of the items (one for all if they are coupled), prices by period
            and regime (one row if they hold in all regimes), or None: each period's optimum.
    """

    method: str
    value: float
    upper_bound: float
    myopic_value: float
    constant_value: float
    constant_prices: np.ndarray
    standard_error: float
    constant_standard_error: float
    plan: tuple[DynamicProgram, ...] | np.ndarray | None
    market: Market

    @property
    def headroom(self) -> float:
        """Dynamic headroom: what looking ahead is worth, (oracle - myopic oracle) / oracle.

        A lower bound where the oracle itself is only bounded.
        """
        return 1.0 - self.myopic_value / self.value

    def choose(self, state: MarketState, myopic: bool = False) -> np.ndarray:
        """Oracle's prices for copies of the market in any states, currency, `(copies, products, segments)`.

        Args:
            state: States of copies, all in the same period.
            myopic: True = the seller who knows the market and looks at this period's reward alone.

        Returns:
            Prices.

        Raises:
            ValueError: If the myopic seller is asked for and the solution is no dynamic program.
        """
        if myopic and not isinstance(self.plan, tuple):
            raise ValueError(f"the solution is a {self.method}; only dynamic programs know the myopic seller's prices")
        if isinstance(self.plan, np.ndarray):
            rows = self.plan[int(state.period[0])]
            return rows[state.regime] if len(rows) > 1 else _spread(rows[0], state)
        if self.plan is None:
            return _choose_one_period(self.market, state)
        if len(self.plan) == 1:
            return self.plan[0].choose(state, myopic)
        prices = np.empty((len(state.period), *self.market.shape[1:]))
        for program, place in zip(self.plan, product(*map(range, self.market.shape[1:])), strict=True):
            prices[:, place[0], place[1]] = program.choose(_take_item(state, place), myopic)[:, 0, 0]
        return prices


def solve_market(
    market: Market, rungs: int = 41, grid_points: int = 81, num_rollouts: int = 1_000, seed: int = 0
) -> MarketSolution:
    """Find the oracle of one market.

    Args:
        market: One market.
        rungs: Prices of an item's ladder in dynamic programs of one item.
        grid_points: Points of a continuous state in dynamic programs.
        num_rollouts: Repetitions where a value is simulated.
        seed: Seed of that luck.

    Returns:
        The oracle.

    Raises:
        ValueError: If several markets are given, or no way to the optimum and no bound is known, as where customers
            remember prices, or take each other's products, while shocks or costs move.
    """
    if market.shape[0] != 1:
        raise ValueError(f"market holds {market.shape[0]} markets; solve them one by one")
    linked = [market.memory, market.supply, market.rivals]
    moves = market.shock is not None or market.costs.is_moving
    # The expected reward of a separable item is in proportion to its shock, which therefore changes no price.
    still = not moves or (market.is_separable and not market.costs.is_moving)
    if still and all(part is None for part in linked):
        return replace(_solve_static(replace(market, shock=None)), market=market)
    if not moves:
        programs = _solve_programs(market, rungs, grid_points)
        if programs is not None:
            return _combine(market, programs)
    if market.memory is None and market.rivals is None:
        if not moves and market.regimes is None and market.supply is not None and market.supply.is_finite_season:
            return _solve_fluid(market, num_rollouts, seed)
        if isinstance(market.supply, OrderUpToStock | None) and (market.is_separable or not moves):
            return _solve_relaxed(market, num_rollouts, seed)
    raise ValueError(
        f"{market.domain}/{market.family}: the state is too large for a dynamic program and no bound is known for it"
    )


def _solve_static(market: Market) -> MarketSolution:
    """Nothing links the periods but regimes that come and go by themselves: every period's optimum is the optimum."""
    states, chances = _list_occasions(market)
    copies = market.select(np.zeros(len(chances), dtype=int))
    if market.is_separable:
        prices = compute_one_period_prices(copies, states)
        rewards = bounds = compute_expected_reward(copies, states, prices).sum(axis=(1, 2))
    else:
        found = [compute_joint_optimum(market, states.select(np.array([row]))) for row in range(len(chances))]
        prices = np.array([one.prices for one in found])
        rewards, bounds = np.array([one.reward for one in found]), np.array([one.bound for one in found])

    def earn(constant: np.ndarray) -> np.ndarray:
        charged = np.broadcast_to(constant, copies.shape)
        return np.tensordot(chances, compute_expected_reward(copies, states, charged), axes=1)

    constant = prices[0] if len(prices) == 1 else find_constant_prices(market, earn, list(np.unique(prices, axis=0)))
    # A search that missed the peak of an occasion is put right by constant prices that found it.
    instead = compute_expected_reward(copies, states, np.broadcast_to(constant, copies.shape)).sum(axis=(1, 2))
    prices = np.where((instead > rewards)[:, None, None], constant, prices)
    rewards = np.maximum(instead, rewards)
    reached = chances > 0.0  # an infinite bound counts only where it can happen
    totals = [float(chances[reached] @ one[reached]) for one in (rewards, np.maximum(bounds, rewards), instead)]
    regimes = 1 if market.regimes is None else market.regimes.count
    rows = prices.reshape(-1, regimes, *market.shape[1:])
    plan = np.broadcast_to(rows, (market.num_periods, *rows.shape[1:]))
    return MarketSolution(ONE_PERIOD, totals[0], totals[1], totals[0], totals[2], constant, 0.0, 0.0, plan, market)


def _list_occasions(market: Market) -> tuple[MarketState, np.ndarray]:
    """What periods can start from, periods outside and regimes inside, and how many periods are expected to.

    Without a calendar all periods are alike and one stands for all.
    """
    periods = market.num_periods if market.calendar is not None else 1
    chances = np.ones((market.num_periods, 1))
    if market.regimes is not None:
        now = np.zeros(market.regimes.count)
        now[_begin(market).regime] = 1.0
        chances = np.empty((market.num_periods, len(now)))
        for period in range(market.num_periods):
            chances[period] = now
            now = now @ market.regimes.transition[0, 0, 0]
    regimes = chances.shape[1]
    if periods == 1:
        chances = chances.sum(axis=0, keepdims=True)
    states = _begin(market).select(np.zeros(periods * regimes, dtype=int))
    states = states._replace(period=np.repeat(np.arange(periods), regimes))
    if market.regimes is not None:
        states = states._replace(regime=np.tile(np.arange(regimes), periods))
    return states, chances.reshape(-1)


def _solve_programs(market: Market, rungs: int, grid_points: int) -> tuple[DynamicProgram, ...] | None:
    """Dynamic programs of the items, or of all items together; None where they would be too large."""
    if market.is_separable:
        places = list(product(range(market.shape[1]), range(market.shape[2])))
        items = [market.select_items((np.array([0]), np.array([place[0]]), np.array([place[1]]))) for place in places]
        points = grid_points
        while points > 9 and max(count_states(item, points) for item in items) > _MOST_STATES:
            points = (points + 1) // 2
        if max(count_states(item, points) for item in items) > _MOST_STATES:
            return None
        return tuple(solve_dynamic_program(item, build_price_ladder(item, rungs), points) for item in items)
    count = int(np.prod(market.shape[1:]))
    each = min(rungs, int(_MOST_VECTORS ** (1.0 / count)))
    states = count_states(market, grid_points)
    if each < 5 or states > _MOST_STATES:
        return None
    ladder = build_price_ladder(market, each)
    # Demand is highest, and its table longest, at the lowest prices.
    if states * len(ladder) * count_outcomes(market, ladder.min(axis=0)) > _MOST_OUTCOMES:
        return None
    return (solve_dynamic_program(market, ladder, grid_points),)


def _combine(market: Market, programs: tuple[DynamicProgram, ...]) -> MarketSolution:
    value = sum(program.value for program in programs)
    myopic = sum(program.myopic_value for program in programs)
    constant = sum(program.constant_value for program in programs)
    # One program holds all items, or every item has its own.
    rungs = np.array([program.ladder[program.constant_values.argmax()] for program in programs])
    prices = rungs.reshape(market.shape[1:])
    return MarketSolution(DYNAMIC_PROGRAM, value, value, myopic, constant, prices, 0.0, 0.0, programs, market)


def _solve_fluid(market: Market, num_rollouts: int, seed: int) -> MarketSolution:
    fluid = compute_fluid_bound(market)

    def follow(state: MarketState) -> np.ndarray:
        return _spread(fluid.prices[int(state.period[0])], state)

    planned = simulate_policy(market, follow, num_rollouts, seed)
    candidates = [fluid.prices[0], fluid.prices.mean(axis=0)]
    found = _simulate_simple_policies(market, candidates, num_rollouts, seed)
    return _take_best(market, FLUID, fluid.value, found, (planned, fluid.prices[:, None]))


def _solve_relaxed(market: Market, num_rollouts: int, seed: int) -> MarketSolution:
    """Stock cuts sales and nothing else: without it the one-period optimum is the optimum, an upper bound."""
    free = replace(market, supply=None, noise=market.noise.silence())
    bound = simulate_policy(free, lambda state: _choose_one_period(free, state), num_rollouts, seed)
    found = _simulate_simple_policies(market, [], num_rollouts, seed)
    kept = not isinstance(market.supply, OrderUpToStock) or bool(np.isinf(market.supply.cover).all())
    method = ONE_PERIOD if kept else RELAXED
    return _take_best(market, method, bound.mean + 3.0 * bound.standard_error, found)


def _simulate_simple_policies(
    market: Market, candidates: list[np.ndarray], num_rollouts: int, seed: int
) -> tuple[_Simulated, _Constant]:
    """The myopic seller and the best constant prices, on the same luck."""
    myopic = simulate_policy(market, lambda state: _choose_one_period(market, state), num_rollouts, seed)

    def earn(prices: np.ndarray) -> np.ndarray:
        return simulate_items(market, lambda state: _spread(prices, state), num_rollouts, seed).mean(axis=0)

    first = _choose_one_period(market, _begin(market))[0]
    prices = find_constant_prices(market, earn, [*candidates, first], _SIMULATED_POINTS, _SIMULATED_FINEST)
    constant = simulate_policy(market, lambda state: _spread(prices, state), num_rollouts, seed)
    plan = np.broadcast_to(prices, (market.num_periods, 1, *prices.shape))
    return (myopic, None), (constant, plan)


def _take_best(
    market: Market, method: str, bound: float, simple: tuple[_Simulated, _Constant], *others: _Simulated
) -> MarketSolution:
    """The oracle follows the best policy that was simulated."""
    (myopic, _), (constant, steady) = simple
    best, plan = max([*others, *simple], key=lambda policy: policy[0].mean)
    return MarketSolution(
        method=method,
        value=best.mean,
        upper_bound=bound,
        myopic_value=myopic.mean,
        constant_value=constant.mean,
        constant_prices=steady[0, 0],
        standard_error=best.standard_error,
        constant_standard_error=constant.standard_error,
        plan=plan,
        market=market,
    )


def _spread(prices: np.ndarray, state: MarketState) -> np.ndarray:
    return np.broadcast_to(prices, (len(state.period), *prices.shape))


def _choose_one_period(market: Market, state: MarketState) -> np.ndarray:
    """Each period's optimum as if nothing limited sales, for copies of the market."""
    rows = np.zeros(len(state.period), dtype=int)
    copies = market.select(rows)
    if getattr(market.demand, "is_separable", True):
        low, high = compute_price_bounds(copies, state)
        return np.clip(compute_one_period_prices(copies, state), low, high)
    # Coupled items are solved only where nothing moves but the regime.
    if state.regime is None:
        return _spread(compute_joint_optimum(market, state.select(np.zeros(1, dtype=int))).prices, state)
    regimes, position = np.unique(state.regime, return_index=True)
    found = [compute_joint_optimum(market, state.select(one[None])).prices for one in position]
    return np.array(found)[np.searchsorted(regimes, state.regime)]


def _begin(market: Market) -> MarketState:
    return start(market, build_streams(0, np.zeros(1, dtype=int)))


def _take_item(state: MarketState, place: tuple[int, ...]) -> MarketState:
    """State of one item as a market of its own."""
    row, column = place

    def take(values: Any) -> Any:
        return None if values is None else values[:, row : row + 1, column : column + 1]

    return state._replace(
        cost=take(state.cost),
        list_price=take(state.list_price),
        shock=take(state.shock),
        memory=take(state.memory),
        supply=take(state.supply),
        rivals=take(state.rivals),
    )
