"""What would have happened next: the expected profit of a logged market under any prices, its manager, and its oracle.

Unit costs and list prices stay those of the last logged week. Without a stock limit values are exact; with one they are
means over rollouts that all plans share, so that two plans are compared on the same luck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.markets.managers import decide
from pricing_fm.markets.parameters import RetailParameters, round_to_tick
from pricing_fm.markets.retail import compute_mean_demand, compute_myopic_price, step
from pricing_fm.markets.streams import build_streams

_GRID_POINTS = 17  # candidates per round of the coarse-to-fine search over whole coins
_ASCENT_PASSES = 4


@dataclass(frozen=True)
class FutureOutcome:
    """Expected course of the weeks after a log. Arrays `(items, periods)`, items in the order of `SimulatedLog.items`.

    Attributes:
        profit: Expected (price - cost) x sales, currency a week.
        demand: Expected units customers want.
        sales: Expected units sold.
        exact: True = closed form, False = mean over rollouts, `(items,)`.
    """

    profit: np.ndarray
    demand: np.ndarray
    sales: np.ndarray
    exact: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """Expected profit of each item over all periods, currency, `(items,)`."""
        return self.profit.sum(axis=1)


@dataclass(frozen=True)
class MarketOracle:
    """Best prices inside bounds, in whole coins, for a seller who knows the market.

    Attributes:
        prices: Best price of every period, currency, `(items, periods)`.
        constant_prices: Best price that stays the same, currency, `(items,)`.
        value: Expected profit of `prices`, currency, `(items,)`.
        constant_value: Expected profit of `constant_prices`.
        upper_bound: Expected profit that no prices inside the bounds exceed: the optimum with unlimited stock, since
            everything but price scales demand at all prices alike. Infinite where customers remember prices.
        method: "exact" (no stock limit, no memory), "path_ascent" (memory: coordinate ascent from the best constant, a
            local optimum) or "rollouts" (stock limit: best constant over shared rollouts), `(items,)`.
    """

    prices: np.ndarray
    constant_prices: np.ndarray
    value: np.ndarray
    constant_value: np.ndarray
    upper_bound: np.ndarray
    method: np.ndarray


def compute_outcome(
    log: SimulatedLog,
    prices: np.ndarray,
    num_periods: int,
    promotions: np.ndarray | None = None,
    num_rollouts: int = 64,
) -> FutureOutcome:
    """Expected outcome of the next weeks under given prices.

    Args:
        log: Logged markets.
        prices: Currency per unit, `(items,)` for constant prices or `(items, num_periods)`.
        num_periods: Weeks after the log, >= 1.
        promotions: 1 in promoted weeks, `(items, num_periods)`; None = no promotion.
        num_rollouts: Repetitions where stock is limited.

    Returns:
        Expected profit, demand and sales.

    Raises:
        ValueError: If a shape is wrong, a price is not positive and finite, or a count is below 1.
    """
    path = _check_plan(log, "prices", prices, num_periods, num_rollouts)
    if not np.all(np.isfinite(path) & (path > 0)):
        raise ValueError("prices holds a value that is not positive and finite; every item needs a price")
    promoted = _promotions(log, promotions, num_periods, num_rollouts)
    return _compute_outcome(log, path, promoted, num_rollouts)


def compute_manager_outcome(
    log: SimulatedLog, num_periods: int, promotions: np.ndarray | None = None, num_rollouts: int = 64
) -> FutureOutcome:
    """Expected outcome when the logged manager goes on setting prices by habit; promotions are planned, not chosen.

    Where stock is unlimited, the known value of the myopic optimum on the same rollouts serves as control variate: the
    manager then never exceeds an optimum by luck.

    Args:
        log: Logged markets.
        num_periods: Weeks after the log, >= 1.
        promotions: 1 in promoted weeks, `(items, num_periods)`; None = no promotion.
        num_rollouts: Repetitions; the manager's prices follow the hidden shock, so every market is rolled out.

    Returns:
        Expected profit, demand and sales.

    Raises:
        ValueError: If a shape is wrong or a count is below 1.
    """
    promoted = _promotions(log, promotions, num_periods, num_rollouts)
    manager = _roll_out(log, None, promoted, num_rollouts)
    regular = log.state.list_price
    best = compute_myopic_price(log.parameters, log.state.cost, (0.5 * regular, 2.0 * regular))
    path = np.broadcast_to(best[..., None], promoted.shape)
    rolled = _roll_out(log, path, promoted, num_rollouts)
    known = _compute_exactly(log, path, promoted)
    exact = _is_unlimited(log)
    parts = [np.where(exact[:, None], m + k - r, m) for m, k, r in zip(manager, known, rolled, strict=True)]
    return FutureOutcome(parts[0], parts[1], parts[2], np.zeros(log.num_items, dtype=bool))


def compute_oracle(
    log: SimulatedLog,
    num_periods: int,
    price_bounds: tuple[float, float] = (0.7, 1.3),
    promotions: np.ndarray | None = None,
    num_rollouts: int = 64,
) -> MarketOracle:
    """Best prices for the next weeks, found on the true demand.

    Args:
        log: Logged markets.
        num_periods: Weeks after the log, >= 1.
        price_bounds: Lowest and highest admissible price as multiples of the list price after the log.
        promotions: 1 in promoted weeks, `(items, num_periods)`; None = no promotion.
        num_rollouts: Repetitions where stock is limited.

    Returns:
        Prices, their values, an upper bound and how each was found.

    Raises:
        ValueError: If the bounds are not positive and increasing, a shape is wrong or a count is below 1.
    """
    if not 0 < price_bounds[0] <= price_bounds[1]:
        raise ValueError(f"price_bounds is {price_bounds}; it must be a positive, increasing pair")
    promoted = _promotions(log, promotions, num_periods, num_rollouts)
    low, high = _coin_bounds(log, price_bounds)
    unlimited, memory = _is_unlimited(log), _flat(log, log.parameters.reference_effect) > 0

    def exact_value(coins: np.ndarray) -> np.ndarray:
        return _compute_exactly(log, _to_path(log, coins, num_periods), promoted)[0].sum(axis=1)

    constant = _search_coins(exact_value, low, high)
    method = np.where(memory, "path_ascent", "exact").astype(object)
    if not unlimited.all():

        def rolled_value(coins: np.ndarray) -> np.ndarray:
            path = _to_path(log, coins, num_periods)
            return _compute_outcome(log, path, promoted, num_rollouts).value

        constant = np.where(unlimited, constant, _search_coins(rolled_value, low, high))
        method[~unlimited] = "rollouts"
    plan = np.repeat(constant[:, None], num_periods, axis=1)
    ascent = unlimited & memory
    if ascent.any():
        plan = _ascend_path(log, plan, (low, high), promoted, ascent)
    constant_path, path = _to_path(log, constant, num_periods), _to_path(log, plan, num_periods)
    free = _to_path(log, _search_coins(exact_value, low, high), num_periods)
    bound = np.where(memory, np.inf, _compute_exactly(log, free, promoted)[0].sum(axis=1))
    return MarketOracle(
        prices=path.reshape(log.num_items, num_periods),
        constant_prices=constant_path[..., 0].reshape(-1),
        value=_compute_outcome(log, path, promoted, num_rollouts).value,
        constant_value=_compute_outcome(log, constant_path, promoted, num_rollouts).value,
        upper_bound=bound,
        method=method,
    )


def _check_plan(log: SimulatedLog, name: str, plan: np.ndarray, num_periods: int, num_rollouts: int) -> np.ndarray:
    """Plan of shape `(markets, products, segments, periods)`."""
    for argument, value in (("num_periods", num_periods), ("num_rollouts", num_rollouts)):
        if value < 1:
            raise ValueError(f"{argument} is {value}; it must be 1 or more")
    values = np.asarray(plan, dtype=np.float64)
    if values.shape == (log.num_items,):
        values = np.repeat(values[:, None], num_periods, axis=1)
    if values.shape != (log.num_items, num_periods):
        raise ValueError(
            f"{name} has shape {values.shape}; it must be ({log.num_items},) or ({log.num_items}, {num_periods})"
        )
    return values.reshape(*log.parameters.shape, num_periods)


def _promotions(log: SimulatedLog, promotions: np.ndarray | None, num_periods: int, num_rollouts: int) -> np.ndarray:
    plan = np.zeros(log.num_items) if promotions is None else promotions
    return _check_plan(log, "promotions", plan, num_periods, num_rollouts)


def _compute_outcome(log: SimulatedLog, prices: np.ndarray, promotions: np.ndarray, num_rollouts: int) -> FutureOutcome:
    unlimited = _is_unlimited(log)
    parts = _compute_exactly(log, prices, promotions)
    if not unlimited.all():
        rolled = _roll_out(log, prices, promotions, num_rollouts)
        profit, demand, sales = (np.where(unlimited[:, None], e, r) for e, r in zip(parts, rolled, strict=True))
        # Demand does not depend on stock: its closed form holds everywhere.
        parts = (profit, parts[1], sales)
    return FutureOutcome(parts[0], parts[1], parts[2], unlimited)


def _compute_exactly(
    log: SimulatedLog, prices: np.ndarray, promotions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profit, demand and sales without a stock limit: the mean of the log-normal shock is known given today's."""
    parameters, state = log.parameters, log.state
    persistence, variance = parameters.shock_persistence, parameters.shock_scale**2
    reference, demands = state.reference_price, []
    for ahead in range(prices.shape[-1]):
        decay = persistence**ahead
        # Mean of exp(shock) given today's shock, written as the log shock that has this factor.
        log_shock = decay * log.state.log_shock + 0.5 * variance * (1.0 - decay**2)
        here = replace(state, period=state.period + ahead, log_shock=log_shock, reference_price=reference)
        price = prices[..., ahead]
        demands.append(compute_mean_demand(parameters, here, price, promotions[..., ahead]))
        memory = parameters.reference_memory
        reference = np.exp(memory * np.log(reference) + (1.0 - memory) * np.log(price))
    demand = np.stack(demands, axis=-1)
    profit = (prices - state.cost[..., None]) * demand
    flat = (log.num_items, prices.shape[-1])
    return profit.reshape(flat), demand.reshape(flat), demand.reshape(flat)


def _roll_out(
    log: SimulatedLog, prices: np.ndarray | None, promotions: np.ndarray, num_rollouts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over rollouts; `prices` None lets the managers decide. Unlimited markets count mean demand, not draws."""
    rows = np.repeat(np.arange(len(log.market_ids)), num_rollouts)
    rollout = np.tile(np.arange(1, num_rollouts + 1), len(log.market_ids))
    random = build_streams(log.settings.seed, log.market_ids[rows], rollout)
    parameters, state, habits = (
        _freeze_costs(log.parameters).select(rows),
        log.state.select(rows),
        log.habits.select(rows),
    )
    parts: list[list[np.ndarray]] = [[], [], []]
    for ahead in range(promotions.shape[-1]):
        price = decide(habits, parameters, state, random).prices if prices is None else prices[rows, ..., ahead]
        cost, unlimited = state.cost, np.isinf(state.inventory)
        state, observation, _, info = step(parameters, state, price, promotions[rows, ..., ahead], random)
        sales = np.where(unlimited, info.mean_demand, observation.units)
        for part, values in zip(parts, ((price - cost) * sales, info.mean_demand, sales), strict=True):
            part.append(values.reshape(len(log.market_ids), num_rollouts, -1).mean(axis=1).reshape(-1))
    profit, demand, sold = (np.stack(part, axis=-1) for part in parts)
    return profit, demand, sold


def _freeze_costs(parameters: RetailParameters) -> RetailParameters:
    return replace(parameters, cost_change_probability=np.zeros_like(parameters.cost_change_probability))


def _flat(log: SimulatedLog, values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values, log.parameters.shape).reshape(-1)


def _is_unlimited(log: SimulatedLog) -> np.ndarray:
    return np.isinf(_flat(log, log.parameters.stock_cover))


def _coin_bounds(log: SimulatedLog, price_bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Whole coins inside the bounds, `(items,)` each; a bound that is itself a whole coin counts as inside."""
    unit = _flat(log, log.state.list_price) / _flat(log, log.parameters.price_tick)
    low = np.maximum(np.ceil(unit * price_bounds[0] - 1e-6), 1.0)
    return low, np.maximum(np.floor(unit * price_bounds[1] + 1e-6), low)


def _to_path(log: SimulatedLog, coins: np.ndarray, num_periods: int) -> np.ndarray:
    """Prices `(markets, products, segments, periods)` of coins `(items,)` or `(items, periods)`."""
    plan = coins if coins.ndim == 2 else np.repeat(coins[:, None], num_periods, axis=1)
    tick = _flat(log, log.parameters.price_tick)[:, None]
    return round_to_tick(plan * tick, tick).reshape(*log.parameters.shape, num_periods)


def _search_coins(value: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Best whole coin of every item for a value with one peak, from a coarse grid to single coins."""
    low, high = low.copy(), high.copy()
    best, best_value = low.copy(), np.full(low.shape, -np.inf)
    while True:
        spacing = np.maximum(np.ceil((high - low) / (_GRID_POINTS - 1)), 1.0)
        for point in range(_GRID_POINTS):
            coins = np.minimum(low + point * spacing, high)
            values = value(coins)
            better = values > best_value
            best, best_value = np.where(better, coins, best), np.where(better, values, best_value)
        if np.all(spacing == 1.0):
            return best
        low, high = np.maximum(low, best - spacing), np.minimum(high, best + spacing)


def _ascend_path(
    log: SimulatedLog, plan: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], promotions: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Improve one period at a time on the exact value, for the items in `free`, until no coin step helps."""
    plan, periods = plan.copy(), plan.shape[1]
    for _ in range(_ASCENT_PASSES):
        before = plan.copy()
        for period in range(periods):

            def value(coins: np.ndarray, period: int = period) -> np.ndarray:
                changed = plan.copy()
                changed[:, period] = coins
                return _compute_exactly(log, _to_path(log, changed, periods), promotions)[0].sum(axis=1)

            best = _search_coins(value, *bounds)
            plan[free, period] = best[free]
        if np.array_equal(before, plan):
            break
    return plan
