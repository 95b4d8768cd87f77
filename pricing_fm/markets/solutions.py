"""The oracle of a market: the best a seller who knows it can earn, how that was found, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

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
    JointOptimum,
    compute_expected_reward,
    compute_joint_optimum,
    compute_one_period_prices,
    compute_price_bounds,
)
from pricing_fm.markets.simulation import SimulatedValue, simulate_policy
from pricing_fm.markets.streams import build_streams
from pricing_fm.markets.supply import OrderUpToStock

# Largest dynamic programs that are tried: grid states; price vectors, and states x vectors x demands, of coupled items.
_MOST_STATES, _MOST_VECTORS, _MOST_OUTCOMES = 8_000, 700, 50_000_000

ONE_PERIOD, DYNAMIC_PROGRAM, FLUID, RELAXED = "one-period optimum", "dynamic program", "fluid bound", "relaxed bound"


@dataclass(frozen=True)
class MarketSolution:
    """Oracle of one market over an episode. Money in currency.

    Attributes:
        method: "one-period optimum" (nothing links the periods: exact), "dynamic program" (exact on a grid of states
            and a ladder of prices), "fluid bound" (shared stock: the bound is certified, `value` is a policy's) or
            "relaxed bound" (stock ignored: likewise).
        value: Expected reward of the oracle's policy.
        upper_bound: Expected reward that no policy exceeds (on the ladder, for dynamic programs).
        myopic_value: Expected reward of the seller who knows the market and maximises every period's reward alone.
        constant_value: Expected reward of the best prices that never change.
        standard_error: Of `value` where it is simulated, else 0.
        plan: What `choose` follows: dynamic programs of the items (one for all if they are coupled), or prices.
    """

    method: str
    value: float
    upper_bound: float
    myopic_value: float
    constant_value: float
    standard_error: float
    plan: tuple[DynamicProgram, ...] | np.ndarray | None
    market: Market

    @property
    def headroom(self) -> float:
        """Dynamic headroom: what looking ahead is worth, (oracle - myopic oracle) / oracle.

        A lower bound where the oracle itself is only bounded.
        """
        return 1.0 - self.myopic_value / self.value

    def choose(self, state: MarketState) -> np.ndarray:
        """Oracle's prices for copies of the market in any states, currency, `(copies, products, segments)`."""
        if isinstance(self.plan, np.ndarray):
            return np.broadcast_to(self.plan[int(state.period[0])], (len(state.period), *self.plan.shape[1:]))
        if self.plan is None:
            return _choose_one_period(self.market, state)
        if len(self.plan) == 1:
            return self.plan[0].choose(state)
        prices = np.empty((len(state.period), *self.market.shape[1:]))
        for program, place in zip(self.plan, product(*map(range, self.market.shape[1:])), strict=True):
            prices[:, place[0], place[1]] = program.choose(_take_item(state, place))[:, 0, 0]
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
        ValueError: If several markets are given, or customers remember prices while shocks or costs move: the market
            then has neither a finite grid nor a bound.
    """
    if market.shape[0] != 1:
        raise ValueError(f"market holds {market.shape[0]} markets; solve them one by one")
    linked = [market.memory, market.supply, market.rivals]
    moves = market.shock is not None or market.costs.is_moving
    if all(part is None for part in linked) and not market.costs.is_moving and market.regimes is None:
        return _solve_static(replace(market, shock=None))
    if not moves:
        programs = _solve_programs(market, rungs, grid_points)
        if programs is not None:
            return _combine(market, programs)
    if not moves and market.memory is None and market.supply is not None and market.supply.is_finite_season:
        return _solve_fluid(market, num_rollouts, seed)
    if market.memory is None and market.rivals is None and isinstance(market.supply, OrderUpToStock | None):
        return _solve_relaxed(market, num_rollouts, seed)
    raise ValueError(
        f"{market.domain}/{market.family}: the state is too large for a dynamic program and no bound is known for it"
    )


def _solve_static(market: Market) -> MarketSolution:
    """Nothing links the periods: every period's optimum is the optimum."""
    plan, value, bound = [], 0.0, 0.0
    best: JointOptimum | None = None
    constant = np.zeros(len(build_constant_ladder(market)))
    for period in range(market.num_periods):
        state = _state_at(market, period)
        if market.is_separable:
            prices = compute_one_period_prices(market, state)[0]
            reward = float(compute_expected_reward(market, state, prices[None]).sum())
            plan.append(prices)
            value, bound = value + reward, bound + reward
        else:
            if best is None or market.calendar is not None:
                best = compute_joint_optimum(market, state)
            plan.append(best.prices)
            value, bound = value + best.reward, bound + best.bound
        constant += [
            float(compute_expected_reward(market, state, one[None]).sum()) for one in build_constant_ladder(market)
        ]
    constant_value = value if market.calendar is None else float(constant.max())
    return MarketSolution(ONE_PERIOD, value, bound, value, constant_value, 0.0, np.array(plan), market)


def build_constant_ladder(market: Market, points: int = 31) -> np.ndarray:
    """Price vectors at one common multiple of the list prices, `(points, products, segments)`, currency."""
    low, high = market.price_bounds
    regular = np.broadcast_to(market.list_price, market.shape)[0]
    return np.geomspace(low, high, points)[:, None, None] * regular


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
    return MarketSolution(DYNAMIC_PROGRAM, value, value, myopic, constant, 0.0, programs, market)


def _solve_fluid(market: Market, num_rollouts: int, seed: int) -> MarketSolution:
    fluid = compute_fluid_bound(market)

    def follow(state: MarketState) -> np.ndarray:
        return _spread(fluid.prices[int(state.period[0])], state)

    planned = simulate_policy(market, follow, num_rollouts, seed)
    myopic = simulate_policy(market, lambda state: _choose_one_period(market, state), num_rollouts, seed)
    constant = _best_constant(market, num_rollouts, seed).mean
    if fluid.is_constant:
        constant = max(constant, planned.mean)
    plan_wins = planned.mean >= myopic.mean
    best = planned if plan_wins else myopic
    return MarketSolution(
        method=FLUID,
        value=best.mean,
        upper_bound=fluid.value,
        myopic_value=myopic.mean,
        constant_value=constant,
        standard_error=best.standard_error,
        plan=fluid.prices if plan_wins else None,
        market=market,
    )


def _solve_relaxed(market: Market, num_rollouts: int, seed: int) -> MarketSolution:
    """Stock cuts sales and nothing else: without it the one-period optimum is the optimum, an upper bound."""
    run = simulate_policy(market, lambda state: _choose_one_period(market, state), num_rollouts, seed)
    free = replace(market, supply=None, noise=market.noise.silence())
    bound = simulate_policy(free, lambda state: _choose_one_period(free, state), num_rollouts, seed)
    constant = _best_constant(market, num_rollouts, seed)
    kept = not isinstance(market.supply, OrderUpToStock) or bool(np.isinf(market.supply.cover).all())
    return MarketSolution(
        method=ONE_PERIOD if kept else RELAXED,
        value=run.mean,
        upper_bound=bound.mean + 3.0 * bound.standard_error,
        myopic_value=run.mean,
        constant_value=constant.mean,
        standard_error=run.standard_error,
        plan=None,
        market=market,
    )


def _best_constant(market: Market, num_rollouts: int, seed: int) -> SimulatedValue:
    runs = [
        simulate_policy(market, partial(_spread, prices), num_rollouts, seed)
        for prices in build_constant_ladder(market, 13)
    ]
    return max(runs, key=lambda run: run.mean)


def _spread(prices: np.ndarray, state: MarketState) -> np.ndarray:
    return np.broadcast_to(prices, (len(state.period), *prices.shape))


def _choose_one_period(market: Market, state: MarketState) -> np.ndarray:
    """Each period's optimum as if nothing limited sales, for copies of the market."""
    rows = np.zeros(len(state.period), dtype=int)
    copies = market.select(rows)
    if getattr(market.demand, "is_separable", True):
        low, high = compute_price_bounds(copies, state)
        return np.clip(compute_one_period_prices(copies, state), low, high)
    one = compute_joint_optimum(market, _state_at(market, int(state.period[0])))
    return _spread(one.prices, state)


def _state_at(market: Market, period: int) -> MarketState:
    state = start(market, build_streams(0, np.zeros(1, dtype=int)))
    return state._replace(period=np.array([period]))


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
