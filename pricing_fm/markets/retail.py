"""One week of a batch of retail markets: demand, sales under finite stock, replenishment, memory and costs that move.

All arrays have shape `(markets, products, segments)`; a market is one store x category.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from pricing_fm.markets.parameters import NOISES, RetailParameters, round_to_tick
from pricing_fm.markets.responses import compute_elasticity, compute_log_response, compute_optimal_ratio
from pricing_fm.markets.streams import COST_JUMP, COST_MOVE, DEMAND, LIST_PRICE, SHOCK, START, Streams

_WEEKS_PER_YEAR = 365.25 / 7.0
_FORECAST_SMOOTHING = 0.2
_SOLD_OUT_CORRECTION = 1.25  # a buyer who sold out orders for more than he sold


@dataclass(frozen=True)
class RetailState:
    """What a week starts from. Arrays `(markets, products, segments)` unless said otherwise.

    Attributes:
        period: Weeks since the start, int64, `(markets,)`.
        log_shock: Hidden log demand shock of this week, stationary with mean 0.
        inventory: Units available at the start of the week, whole; infinite where no stock is kept.
        forecast: The buyer's forecast of weekly sales, units.
        reference_price: Price the customers remember, currency per unit.
        cost: Unit cost, currency.
        list_price: Regular price, currency per unit.
    """

    period: np.ndarray
    log_shock: np.ndarray
    inventory: np.ndarray
    forecast: np.ndarray
    reference_price: np.ndarray
    cost: np.ndarray
    list_price: np.ndarray

    def select(self, markets: np.ndarray) -> RetailState:
        """State of some markets (positions, with repetition allowed, or a mask)."""
        return replace(self, **{field.name: getattr(self, field.name)[markets] for field in fields(self)})


@dataclass(frozen=True)
class RetailObservation:
    """What a shop sees after the week. Arrays `(markets, products, segments)`.

    Attributes:
        units: Units sold, at most the inventory.
        price: Price charged, currency per unit.
        list_price: Regular price of the week.
        cost: Unit cost of the week.
        inventory: Units available at the start of the week; infinite where no stock is kept.
        promotion: 1 in promoted weeks, else 0.
    """

    units: np.ndarray
    price: np.ndarray
    list_price: np.ndarray
    cost: np.ndarray
    inventory: np.ndarray
    promotion: np.ndarray


@dataclass(frozen=True)
class RetailInfo:
    """What no shop sees. Arrays `(markets, products, segments)`.

    Attributes:
        mean_demand: Expected demand given price, promotion, season and the hidden shock, units.
        demand: Units customers wanted, before the stock cut them.
        hidden_shock: Log factor of the hidden shock on demand; its exponential has mean 1.
    """

    mean_demand: np.ndarray
    demand: np.ndarray
    hidden_shock: np.ndarray


def start_retail(parameters: RetailParameters, random: Streams, period: np.ndarray | int = 0) -> RetailState:
    """State of markets that have run for long: stationary shock, stock filled up, memory at the list price.

    Args:
        parameters: Truth of the markets.
        random: Streams of the markets.
        period: Week of the year to start in, integers, `(markets,)` or a scalar.

    Returns:
        State before the first week.
    """
    markets, products, segments = parameters.shape
    periods = np.array(np.broadcast_to(np.asarray(period, dtype=np.int64), (markets,)))
    draws = random.normal(periods, START, (products + 1, segments))
    log_shock = parameters.shock_scale * _combine_shocks(parameters, draws)
    forecast = parameters.base_volume * np.ones_like(log_shock)
    return RetailState(
        period=periods,
        log_shock=log_shock,
        inventory=_fill_up(parameters, forecast),
        forecast=forecast,
        reference_price=parameters.initial_list_price.copy(),
        cost=parameters.initial_cost.copy(),
        list_price=parameters.initial_list_price.copy(),
    )


def compute_mean_demand(
    parameters: RetailParameters, state: RetailState, prices: np.ndarray, promotions: np.ndarray
) -> np.ndarray:
    """Expected units customers want this week, given everything, the hidden shock included.

    Args:
        parameters: Truth of the markets.
        state: State before the week.
        prices: Prices charged, currency per unit, `(markets, products, segments)`.
        promotions: 1 or True in promoted weeks, same shape.

    Returns:
        Mean demand, units a week, same shape.
    """
    log_demand = compute_log_response(
        parameters.family, parameters.elasticity, parameters.purchase_share, prices / parameters.reference_price
    )
    log_demand += compute_hidden_shock(parameters, state) + compute_log_calendar(parameters, state.period)
    if np.any(promotions):
        log_demand += promotions * np.log(parameters.promotion_uplift)
    if np.any(parameters.reference_effect):
        log_demand += parameters.reference_effect * np.log(state.reference_price / prices)
    return parameters.base_volume * np.exp(log_demand)


def compute_hidden_shock(parameters: RetailParameters, state: RetailState) -> np.ndarray:
    """Log factor of the hidden shock on demand, normalised so that the factor has mean 1."""
    return state.log_shock - 0.5 * parameters.shock_scale**2


def compute_log_calendar(parameters: RetailParameters, period: np.ndarray) -> np.ndarray:
    """Season and trend on log demand, for periods of shape `(markets,)`."""
    weeks = period.reshape(-1, 1, 1)
    angle = 2.0 * np.pi * (weeks / _WEEKS_PER_YEAR - parameters.season_phase)
    return parameters.season_amplitude * np.cos(angle) + parameters.trend * weeks


def compute_short_run_elasticity(parameters: RetailParameters, prices: np.ndarray) -> np.ndarray:
    """Minus d log demand / d log price within the week, as a positive number, reference effect included."""
    ratio = prices / parameters.reference_price
    within = compute_elasticity(parameters.family, parameters.elasticity, parameters.purchase_share, ratio)
    return within + parameters.reference_effect


def compute_myopic_price(
    parameters: RetailParameters, cost: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Price, not rounded, that maximises this week's expected margin without a stock limit.

    Season, trend, shock, promotion and the remembered price scale demand at all prices alike and drop out.

    Args:
        parameters: Truth of the markets.
        cost: Unit cost, currency, `(markets, products, segments)`.
        bounds: Lowest and highest admissible price, currency, same shape.

    Returns:
        Optimal price inside the bounds, currency, same shape.
    """
    unit = parameters.reference_price
    ratio = compute_optimal_ratio(
        parameters.family,
        parameters.elasticity,
        parameters.purchase_share,
        parameters.reference_effect,
        cost / unit,
        (bounds[0] / unit, bounds[1] / unit),
    )
    return ratio * unit


def step(
    parameters: RetailParameters, state: RetailState, prices: np.ndarray, promotions: np.ndarray, random: Streams
) -> tuple[RetailState, RetailObservation, np.ndarray, RetailInfo]:
    """Sell for one week.

    Args:
        parameters: Truth of the markets.
        state: State before the week; it is not changed.
        prices: Prices charged, > 0, currency per unit, `(markets, products, segments)`.
        promotions: 1 or True in promoted weeks, same shape.
        random: Streams of the markets; the draws of a week depend on market and week alone.

    Returns:
        State before the next week, observation, reward (margin, currency a week, same shape as prices) and hidden info.
    """
    mean = compute_mean_demand(parameters, state, prices, promotions)
    demand = mean
    noisy = np.flatnonzero(parameters.noise.ravel() != NOISES.index("none"))
    if len(noisy):
        demand = mean.copy()
        # The truth may be repeated for many rollouts; only the noisy markets draw.
        demand[noisy] = random.select(noisy).counts(
            state.period[noisy], DEMAND, mean[noisy], np.broadcast_to(parameters.dispersion, mean.shape)[noisy]
        )
    units = np.minimum(demand, state.inventory)
    observation = RetailObservation(units, prices, state.list_price, state.cost, state.inventory, promotions)
    info = RetailInfo(mean, demand, compute_hidden_shock(parameters, state))
    reward = (prices - state.cost) * units
    return _advance(parameters, state, prices, units, random), observation, reward, info


def _advance(
    parameters: RetailParameters, state: RetailState, prices: np.ndarray, units: np.ndarray, random: Streams
) -> RetailState:
    """Replenish, remember, move costs and list prices, draw the next shock."""
    shape = prices.shape[1:]
    wanted = np.where(units >= state.inventory, np.maximum(units * _SOLD_OUT_CORRECTION, state.forecast), units)
    forecast = state.forecast + _FORECAST_SMOOTHING * (wanted - state.forecast)
    inventory = np.maximum(state.inventory - units, _fill_up(parameters, forecast))
    memory = parameters.reference_memory
    reference_price = state.reference_price
    if np.any(parameters.reference_effect):
        reference_price = np.exp(memory * np.log(state.reference_price) + (1.0 - memory) * np.log(prices))

    period = state.period + 1
    draws = random.normal(period, SHOCK, (shape[0] + 1, shape[1]))
    persistence = parameters.shock_persistence
    innovation = np.sqrt(1.0 - persistence**2) * parameters.shock_scale
    log_shock = persistence * state.log_shock + innovation * _combine_shocks(parameters, draws)
    cost, list_price = _move_costs(parameters, state, period, random)
    return RetailState(period, log_shock, inventory, forecast, reference_price, cost, list_price)


def _move_costs(
    parameters: RetailParameters, state: RetailState, period: np.ndarray, random: Streams
) -> tuple[np.ndarray, np.ndarray]:
    """Costs jump now and then by a factor of mean 1; list prices are revised to the old share of cost, more rarely."""
    if not np.any(parameters.cost_change_probability):
        return state.cost, state.list_price
    shape = state.cost.shape[1:]
    moves = random.uniform(period, COST_MOVE, shape) < parameters.cost_change_probability
    cost = state.cost
    if np.any(moves):
        scale = parameters.cost_change_scale
        jump = np.exp(scale * random.normal(period, COST_JUMP, shape) - 0.5 * scale**2)
        cost = np.where(moves, state.cost * jump, state.cost)
        # A cost above 90 % of the list price would leave no admissible margin.
        cost = np.minimum(cost, 0.9 * state.list_price)
    revised = random.uniform(period, LIST_PRICE, shape) < parameters.list_revision_probability
    list_price = state.list_price
    if np.any(revised):
        target = cost * parameters.initial_list_price / parameters.initial_cost
        list_price = np.where(revised, round_to_tick(target, parameters.price_tick), state.list_price)
    return cost, list_price


def _combine_shocks(parameters: RetailParameters, draws: np.ndarray) -> np.ndarray:
    """Unit-variance innovations from one common draw per market (the first row) and one per item."""
    common = parameters.common_shock
    return np.sqrt(common) * draws[:, :1] + np.sqrt(1.0 - common) * draws[:, 1:]


def _fill_up(parameters: RetailParameters, forecast: np.ndarray) -> np.ndarray:
    """Order-up-to level in whole units; infinite where no stock is kept."""
    return np.ceil(parameters.stock_cover * forecast + 1.0)
