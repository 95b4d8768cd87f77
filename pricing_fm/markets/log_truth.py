"""What only the simulator knows of a log: elasticity at the logged price and the myopic optimum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import lambertw

from pricing_fm.markets import core
from pricing_fm.markets.core import Market, MarketState
from pricing_fm.markets.demand import Demand, OwnPriceDemand, PurchaseProbability
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.payoffs import Margin

_LOG_STEP = 1e-4  # of the numerical derivative of log demand by log price


def get_added_elasticity(market: Market) -> np.ndarray | float | None:
    """Elasticity that the customers' memory adds within the period.

    Returns:
        `(markets, products, segments)` or 0; None where it depends on what they remember.
    """
    if market.memory is None:
        return 0.0
    if isinstance(market.memory, ReferencePrice) and np.array_equal(market.memory.gain, market.memory.loss):
        return market.memory.gain
    return None


def needs_states(market: Market) -> bool:
    """Whether elasticities have no closed form in prices, so that the state of every period is needed."""
    return not (isinstance(market.demand, OwnPriceDemand) and get_added_elasticity(market) is not None)


def compute_elasticities(
    market: Market, states: Sequence[MarketState], prices: np.ndarray, promotions: np.ndarray
) -> np.ndarray:
    """Minus d log mean demand / d log own price, within the period, all else as it was.

    Args:
        market: Truth of the markets.
        states: State before every period, where `needs_states`.
        prices: Prices charged, currency per unit, `(periods, markets, products, segments)`.
        promotions: 1 in promoted periods, same shape.

    Returns:
        Same shape; infinite where demand has ended. At the kink of a memory that treats rises and falls differently,
        the mean of both sides.
    """
    added = get_added_elasticity(market)
    if isinstance(market.demand, OwnPriceDemand) and added is not None:
        return np.stack([market.demand.compute_elasticity(price) for price in prices]) + added
    return np.stack(
        [
            _differentiate(market, state, price, promoted)
            for state, price, promoted in zip(states, prices, promotions, strict=True)
        ]
    )


def _differentiate(market: Market, state: MarketState, prices: np.ndarray, promotions: np.ndarray) -> np.ndarray:
    """Central differences; products that take customers from each other one at a time."""
    products = [slice(None)] if market.demand.is_separable else [slice(p, p + 1) for p in range(market.shape[1])]
    slopes = np.empty(prices.shape)
    for product in products:
        sides = []
        for sign in (1.0, -1.0):
            moved = prices.copy()
            moved[:, product] *= np.exp(sign * _LOG_STEP)
            sides.append(core.compute_mean_demand(market, state, moved, promotions)[:, product])
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (np.log(sides[1]) - np.log(sides[0])) / (2.0 * _LOG_STEP)
        slopes[:, product] = np.where((sides[0] > 0) & (sides[1] > 0), slope, np.inf)
    return slopes


def compute_optimal_prices(market: Market, costs: np.ndarray, list_prices: np.ndarray) -> np.ndarray:
    """Price, not rounded, that maximises the period's expected margin, stock limits aside.

    Solved once per stretch of constant cost and list price, then carried forward.

    Args:
        market: Truth of the markets.
        costs: Unit costs, currency, `(periods, markets, products, segments)`.
        list_prices: Regular prices, same shape; the market's price bounds are multiples of them.

    Returns:
        Currency per unit, same shape; NaN where there is no closed form (see `SimulatedLog.truth`).
    """
    result = np.full(costs.shape, np.nan)
    added = get_added_elasticity(market)
    if added is None or not isinstance(market.payoff, Margin) or not _has_closed_form(market):
        return result
    moved = np.ones(costs.shape, dtype=bool)
    moved[1:] = (costs[1:] != costs[:-1]) | (list_prices[1:] != list_prices[:-1])
    period, *items = np.nonzero(moved)
    cost, regular = costs[moved].reshape(-1, 1, 1), list_prices[moved].reshape(-1, 1, 1)
    low, high = market.price_bounds
    demand = market.demand.select_items(market.shape, tuple(items))
    extra = np.broadcast_to(added, market.shape)[tuple(items)].reshape(-1, 1, 1)
    result[(period, *items)] = _solve(demand, cost, (low * regular, high * regular), extra).ravel()
    last = np.maximum.accumulate(np.where(moved, np.arange(len(costs)).reshape(-1, 1, 1, 1), 0), axis=0)
    return np.take_along_axis(result, last, axis=0)


def _has_closed_form(market: Market) -> bool:
    demand = market.demand
    if isinstance(demand, PurchaseProbability):
        # A rival's price moves the odds, and with them the best price.
        return market.memory is None and (market.rivals is None or demand.rival_weight is None)
    return isinstance(demand, OwnPriceDemand)


def _solve(
    demand: Demand, cost: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], added_elasticity: np.ndarray
) -> np.ndarray:
    if isinstance(demand, OwnPriceDemand):
        return demand.compute_optimal_price(cost, bounds, added_elasticity)
    assert isinstance(demand, PurchaseProbability)
    # The logit monopoly price: cost + (1 + W(exp(utility - sensitivity x cost - 1))) / sensitivity.
    inner = lambertw(np.exp(demand.utility - demand.sensitivity * cost - 1.0)).real
    return np.clip(cost + (1.0 + inner) / demand.sensitivity, *bounds)
