"""What would have happened next: the expected profit of a logged market under any prices, its manager, and its oracle.

Unit costs and list prices stay those of the last logged period. Where nothing limits sales values are exact; elsewhere
(and with regimes or payoffs that know more than the margin) they are means over rollouts that all plans share, so that
two plans are compared on the same luck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets import core
from pricing_fm.markets.core import Market, MarketState
from pricing_fm.markets.log_truth import compute_optimal_prices
from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.markets.managers import decide, split_by_manager
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.payoffs import Margin
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.streams import build_streams

_GRID_POINTS = 17  # candidates per round of the coarse-to-fine search over whole coins
_ASCENT_PASSES = 4


@dataclass(frozen=True)
class FutureOutcome:
    """Expected course of the periods after a log. Arrays `(items, periods)`, items as in `SimulatedLog.items`.

    Attributes:
        profit: Expected reward, currency a period: (price - cost) x sales, less charges where there are any.
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
            everything but price scales demand at all prices alike. Infinite where customers remember prices or rivals
            answer them, and where the reward is more than a margin.
        method: "exact" (no stock limit, no memory), "path_ascent" (memory or rivals: coordinate ascent from the best
            constant, a local optimum) or "rollouts" (stock limit, regimes, other payoffs: best constant over shared
            rollouts), `(items,)`.
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
    """Expected outcome of the next periods under given prices.

    Args:
        log: Logged markets.
        prices: Currency per unit, `(items,)` for constant prices or `(items, num_periods)`.
        num_periods: Periods after the log, >= 1.
        promotions: 1 in promoted periods, `(items, num_periods)`; None = no promotion.
        num_rollouts: Repetitions where stock is limited.

    Returns:
        Expected profit, demand and sales.

    Raises:
        ValueError: If a shape is wrong, a price is not positive and finite, a count is below 1, or the market ends
            before.
    """
    path = _check_plan(log, "prices", prices, num_periods, num_rollouts)
    if not np.all(np.isfinite(path) & (path > 0)):
        raise ValueError("prices holds a value that is not positive and finite; every item needs a price")
    promoted = _promotions(log, promotions, num_periods, num_rollouts)
    return _compute_outcome(log, path, promoted, num_rollouts)


def compute_policy_outcome(
    log: SimulatedLog, choose: Callable[[MarketState], np.ndarray], num_periods: int, num_rollouts: int = 64
) -> FutureOutcome:
    """Expected outcome under prices that answer to the state of the market, without promotions.

    Args:
        log: Logged markets.
        choose: Prices `(markets x num_rollouts, products, segments)` from the state of all repetitions, those of a
            market side by side; currency per unit.
        num_periods: Periods after the log, >= 1.
        num_rollouts: Repetitions, on the luck that `compute_outcome` knows; every market is rolled out.

    Returns:
        Expected profit, demand and sales.

    Raises:
        ValueError: If a count is below 1 or the market ends before.
    """
    promoted = _promotions(log, None, num_periods, num_rollouts)
    return FutureOutcome(*_roll_out(log, choose, promoted, num_rollouts), np.zeros(log.num_items, dtype=bool))


def compute_manager_outcome(
    log: SimulatedLog, num_periods: int, promotions: np.ndarray | None = None, num_rollouts: int = 64
) -> FutureOutcome:
    """Expected outcome when the logged manager goes on setting prices by habit; promotions are planned, not chosen.

    Where stock is unlimited, a path of known value on the same rollouts serves as control variate: the myopic optimum
    where it is known (the manager then never exceeds an optimum by luck), else the list price.

    Args:
        log: Logged markets.
        num_periods: Periods after the log, >= 1.
        promotions: 1 in promoted periods, `(items, num_periods)`; None = no promotion.
        num_rollouts: Repetitions; the manager's prices follow the hidden shock, so every market is rolled out.

    Returns:
        Expected profit, demand and sales.

    Raises:
        ValueError: If a shape is wrong or a count is below 1.
    """
    promoted = _promotions(log, promotions, num_periods, num_rollouts)
    manager = _roll_out(log, None, promoted, num_rollouts)
    best = _find_control_prices(log)
    path = np.broadcast_to(best[..., None], promoted.shape)
    rolled = _roll_out(log, path, promoted, num_rollouts)
    known = _compute_exactly(log, path, promoted)
    exact = _is_exact(log)
    parts = [np.where(exact[:, None], m + k - r, m) for m, k, r in zip(manager, known, rolled, strict=True)]
    return FutureOutcome(parts[0], parts[1], parts[2], np.zeros(log.num_items, dtype=bool))


def draw_demand(log: SimulatedLog, prices: np.ndarray, num_periods: int, num_rollouts: int = 64) -> np.ndarray:
    """Draws of what customers want in the next periods under given prices, whatever is in stock; no promotions.

    Args:
        log: Logged markets.
        prices: Currency per unit, `(items,)` for constant prices or `(items, num_periods)`.
        num_periods: Periods after the log, >= 1.
        num_rollouts: Repetitions; the same luck for all prices.

    Returns:
        Units, `(items, num_rollouts, num_periods)`.

    Raises:
        ValueError: If a shape is wrong, a count is below 1, or the market ends before.
    """
    path = _check_plan(log, "prices", prices, num_periods, num_rollouts)
    rows = np.repeat(np.arange(len(log.market_ids)), num_rollouts)
    random = build_streams(log.settings.seed, log.market_ids[rows], np.tile(np.arange(1, num_rollouts + 1), len(path)))
    market, state, draws = _freeze_costs(log.parameters).select(rows), log.state.select(rows), []
    for ahead in range(num_periods):
        state, _, _, truth = core.step(market, state, path[rows, ..., ahead], random)
        draws.append(truth.demand.reshape(len(path), num_rollouts, -1).swapaxes(1, 2))
    return np.stack(draws, axis=-1).reshape(log.num_items, num_rollouts, num_periods)


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
        num_periods: Periods after the log, >= 1.
        price_bounds: Lowest and highest admissible price as multiples of the list price after the log.
        promotions: 1 in promoted periods, `(items, num_periods)`; None = no promotion.
        num_rollouts: Repetitions where stock is limited.

    Returns:
        Prices, their values, an upper bound and how each was found.

    Raises:
        ValueError: If the items are coupled, the bounds are not positive and increasing, a shape is wrong or a count is
            below 1.
    """
    if not 0 < price_bounds[0] <= price_bounds[1]:
        raise ValueError(f"price_bounds is {price_bounds}; it must be a positive, increasing pair")
    _refuse_coupled_items(log.parameters)
    promoted = _promotions(log, promotions, num_periods, num_rollouts)
    low, high = _coin_bounds(log, price_bounds)
    unlimited, memory = _is_exact(log), _has_memory(log)

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
    unbounded = memory | (not _earns_margin_alone(log.parameters))
    bound = np.where(unbounded, np.inf, _compute_exactly(log, free, promoted)[0].sum(axis=1))
    return MarketOracle(
        prices=path.reshape(log.num_items, num_periods),
        constant_prices=constant_path[..., 0].reshape(-1),
        value=_compute_outcome(log, path, promoted, num_rollouts).value,
        constant_value=_compute_outcome(log, constant_path, promoted, num_rollouts).value,
        upper_bound=bound,
        method=method,
    )


def _refuse_coupled_items(market: Market) -> None:
    if not market.is_separable:
        raise ValueError(
            f"the items of {market.domain}/{market.family} are coupled, so they have no oracle of their own; compare"
            " outcomes of whole markets"
        )


def _check_plan(log: SimulatedLog, name: str, plan: np.ndarray, num_periods: int, num_rollouts: int) -> np.ndarray:
    """Plan of shape `(markets, products, segments, periods)`."""
    for argument, value in (("num_periods", num_periods), ("num_rollouts", num_rollouts)):
        if value < 1:
            raise ValueError(f"{argument} is {value}; it must be 1 or more")
    market, done = log.parameters, int(log.state.period[0])
    if market.ends and done + num_periods > market.num_periods:
        raise ValueError(
            f"num_periods is {num_periods}, but {market.domain}/{market.family} ends"
            f" {market.num_periods - done} periods after the log"
        )
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
    unlimited = _is_exact(log)
    if not unlimited.any():
        return FutureOutcome(*_roll_out(log, prices, promotions, num_rollouts), unlimited)
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
    """Profit, demand and sales without a stock limit: the mean of the log-normal shock is known given today's.

    Memories move with mean demand per customer, from which the shock drops out, and rivals with prices.
    """
    market, state = log.parameters, log.state
    shock, memory, rivals, demands = state.shock, state.memory, state.rivals, []
    for ahead in range(prices.shape[-1]):
        if market.shock is not None:
            decay = market.shock.persistence**ahead
            # Mean of exp(shock) given today's shock, written as the log shock that has this factor.
            shock = decay * state.shock + 0.5 * market.shock.scale**2 * (1.0 - decay**2)
        here = state._replace(period=state.period + ahead, shock=shock, memory=memory, rivals=rivals)
        price = prices[..., ahead]
        mean = core.compute_mean_demand(market, here, price, promotions[..., ahead])
        demands.append(mean)
        if market.memory is not None:
            traffic = core.compute_traffic(market, here)
            memory = market.memory.advance(memory, mean, traffic, price, here.period)
        if market.rivals is not None:
            rivals = market.rivals.advance(rivals, price, here.period)
    demand = np.stack(demands, axis=-1)
    profit = (prices - core.get_unit_cost(market, state)[..., None]) * demand
    flat = (log.num_items, prices.shape[-1])
    return profit.reshape(flat), demand.reshape(flat), demand.reshape(flat)


def _roll_out(
    log: SimulatedLog,
    prices: np.ndarray | Callable[[MarketState], np.ndarray] | None,
    promotions: np.ndarray,
    num_rollouts: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over rollouts; `prices` may answer to the state, None lets the managers decide.

    Unlimited items count mean demand, not draws.
    """
    rows = np.repeat(np.arange(len(log.market_ids)), num_rollouts)
    rollout = np.tile(np.arange(1, num_rollouts + 1), len(log.market_ids))
    random = build_streams(log.settings.seed, log.market_ids[rows], rollout)
    market = _freeze_costs(log.parameters).select(rows)
    state, habits = log.state.select(rows), log.habits.select(rows)
    desks = split_by_manager(habits, market)
    parts: list[list[np.ndarray]] = [[], [], []]
    for ahead in range(promotions.shape[-1]):
        if prices is None:
            price = decide(habits, market, state, random, desks).prices
        else:
            price = prices(state) if callable(prices) else prices[rows, ..., ahead]
        cost, unlimited = core.get_unit_cost(market, state), np.isinf(core.get_inventory(market, state))
        state, observation, reward, truth = core.step(market, state, price, random, promotions[rows, ..., ahead])
        sales = np.where(unlimited, truth.mean_demand, observation.units)
        if isinstance(market.payoff, Margin):
            reward = np.where(unlimited, (price - cost) * truth.mean_demand, reward)
        if ahead == promotions.shape[-1] - 1 and np.all(state.period == market.num_periods):
            reward = reward + core.compute_final_value(market, state)
        for part, values in zip(parts, (reward, truth.mean_demand, sales), strict=True):
            part.append(values.reshape(len(log.market_ids), num_rollouts, -1).mean(axis=1).reshape(-1))
    profit, demand, sold = (np.stack(part, axis=-1) for part in parts)
    return profit, demand, sold


def _find_control_prices(log: SimulatedLog) -> np.ndarray:
    """The whole coin nearest to the myopic optimum that earns most, or the list price where no optimum is known."""
    market, state = log.parameters, log.state
    regular, cost, tick = state.list_price, core.get_unit_cost(market, state), market.price_tick
    best = compute_optimal_prices(market, cost[None], regular[None])[0]
    best = np.where(np.isnan(best), regular, best)
    candidates = [round_to_tick((np.floor(best / tick) + side) * tick, tick) for side in (0.0, 1.0)]
    low, high = ((price - cost) * core.compute_mean_demand(market, state, price) for price in candidates)
    return np.where(low >= high, *candidates)


def _freeze_costs(market: Market) -> Market:
    return replace(market, costs=replace(market.costs, change_probability=None))


def _is_exact(log: SimulatedLog) -> np.ndarray:
    """Whether an item's value has a closed form: margins, no limit on its sales, no regimes, `(items,)`."""
    if log.parameters.regimes is not None or not _earns_margin_alone(log.parameters):
        return np.zeros(log.num_items, dtype=bool)
    return np.isinf(core.get_inventory(log.parameters, log.state)).reshape(-1)


def _earns_margin_alone(market: Market) -> bool:
    return isinstance(market.payoff, Margin)


def _has_memory(log: SimulatedLog) -> np.ndarray:
    """Whether prices of one period move an item's demand in later ones, `(items,)`."""
    memory = log.parameters.memory
    if log.parameters.rivals is not None:
        return np.ones(log.num_items, dtype=bool)
    if isinstance(memory, ReferencePrice):
        return (_flat(log, memory.gain) > 0) | (_flat(log, memory.loss) > 0)
    return np.full(log.num_items, memory is not None)


def _flat(log: SimulatedLog, values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values, log.parameters.shape).reshape(-1)


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
