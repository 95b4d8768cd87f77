"""Best prices for one period alone: closed forms, line searches, and joint optima of an assortment with a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from pricing_fm.markets.core import Market, MarketState, compute_mean_demand, compute_traffic, get_unit_cost
from pricing_fm.markets.demand import (
    LatentClassDemand,
    LinearSystemDemand,
    LogitDemand,
    NestedLogitDemand,
    OwnPriceDemand,
)
from pricing_fm.markets.energy_parts import MeritOrderMargin
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.oracles import assortment_prices
from pricing_fm.markets.payoffs import Margin

_GRID = 64  # prices of the first look, equally spaced in logarithms
_LADDER = 32  # prices of each of at most three items whose combinations are all tried
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)
_TANGENTS = (1.0, 0.75, 0.5, 0.25, 0.0)  # loads at which a charge's tangent is taken, over what exceeds the threshold
_FINEST = 1e-10  # precision of a log price


class JointOptimum(NamedTuple):
    """Best prices of one market's assortment for one period.

    Attributes:
        prices: Currency per unit, `(products, segments)`.
        reward: Expected reward at these prices, currency.
        bound: Expected reward that no prices exceed, currency; infinite where no bound is known.
    """

    prices: np.ndarray
    reward: float
    bound: float


def compute_price_bounds(market: Market, state: MarketState) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest admissible price of the period, currency, `(markets, products, segments)` each."""
    return market.price_bounds[0] * state.list_price, market.price_bounds[1] * state.list_price


def compute_expected_reward(market: Market, state: MarketState, prices: np.ndarray) -> np.ndarray:
    """Expected reward of the period if nothing limited sales, currency, `(markets, products, segments)`."""
    mean = compute_mean_demand(market, state, prices)
    return market.payoff.compute_reward(mean, prices, get_unit_cost(market, state), mean)


def compute_one_period_prices(market: Market, state: MarketState) -> np.ndarray:
    """Prices, not rounded, that maximise each item's expected reward of this period if nothing limited sales.

    Own-price demand with a plain margin is solved by bisection on its first-order condition; every other separable
    family by a grid of prices and golden sections around the best of them.

    Args:
        market: Markets whose items do not take customers from each other.
        state: State before the period.

    Returns:
        Currency per unit, `(markets, products, segments)`.

    Raises:
        ValueError: If the items are coupled; `compute_joint_optimum` solves those.
    """
    if not getattr(market.demand, "is_separable", True):
        raise ValueError(f"the items of {market.domain}/{market.family} share customers; use compute_joint_optimum")
    bounds = compute_price_bounds(market, state)
    demand, memory = market.demand, market.memory
    alike = memory is None or (isinstance(memory, ReferencePrice) and memory.is_symmetric)
    if isinstance(demand, OwnPriceDemand) and type(market.payoff) is Margin and alike:
        added = memory.gain if isinstance(memory, ReferencePrice) else 0.0
        return demand.compute_optimal_price(get_unit_cost(market, state), bounds, added)
    return search_line(lambda prices: compute_expected_reward(market, state, prices), bounds, _GRID, _FINEST)[0]


def search_line(
    earn: Callable[[np.ndarray], np.ndarray], bounds: tuple[np.ndarray, np.ndarray], points: int, finest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Best price of every item by itself: a grid, then golden sections around the grid's best price.

    Args:
        earn: Reward of every item at the prices of all; an item's reward depends on its own price alone.
        bounds: Lowest and highest price, currency, any shape.
        points: Prices of the grid, equally spaced in logarithms.
        finest: Width of the last bracket of a log price.

    Returns:
        Best prices that were tried and their rewards, shape of the bounds.
    """
    low, high = np.log(bounds[0]), np.log(bounds[1])
    width = (high - low) / (points - 1)
    best, reward = np.exp(low), earn(np.exp(low))

    def look(logs: np.ndarray) -> np.ndarray:
        nonlocal best, reward
        prices = np.exp(logs)
        found = earn(prices)
        better = found > reward
        best, reward = np.where(better, prices, best), np.where(better, found, reward)
        return found

    for point in range(1, points):
        look(low + point * width)
    left, right = np.maximum(np.log(best) - width, low), np.minimum(np.log(best) + width, high)
    inner, outer = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
    at_inner, at_outer = look(inner), look(outer)
    for _ in range(int(np.ceil(np.log(finest / max(2.0 * width.max(), finest)) / np.log(_GOLDEN)))):
        falls = at_inner >= at_outer
        left, right = np.where(falls, left, inner), np.where(falls, outer, right)
        inner, outer = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        # One of the two points was the other one before; only the new one is looked at.
        found = look(np.where(falls, inner, outer))
        at_inner, at_outer = np.where(falls, found, at_outer), np.where(falls, at_inner, found)
    return best, reward


def compute_joint_optimum(market: Market, state: MarketState, added_cost: np.ndarray | float = 0.0) -> JointOptimum:
    """Best prices of all items of one market together, for one period, if nothing limited sales.

    Args:
        market: One market.
        state: Its state.
        added_cost: Added to every unit cost (the worth of a scarce resource), currency, `(products, segments)`.

    Returns:
        Prices from several starts of a quasi-Newton search and, for the logit family and linear systems with a plain
        margin, an upper bound from the closed form without price bounds (for latent classes: every class priced by
        itself; for a charge on loads: with the charge replaced by its tangent at the loads found, which lies below it
        everywhere).

    Raises:
        ValueError: If several markets are given.
    """
    if market.shape[0] != 1:
        raise ValueError(f"market holds {market.shape[0]} markets; solve them one by one")
    low, high = (bound[0] for bound in compute_price_bounds(market, state))
    shape = market.shape[1:]
    extra = np.broadcast_to(np.asarray(added_cost, dtype=np.float64), shape)
    scale = float(np.abs(compute_expected_reward(market, state, state.list_price)).sum()) or 1.0

    def loss(logs: np.ndarray) -> float:
        prices = np.exp(logs).reshape(1, *shape)
        mean = compute_mean_demand(market, state, prices)
        reward = market.payoff.compute_reward(mean, prices, get_unit_cost(market, state), mean) - extra * mean
        return -float(reward.sum()) / scale

    box = list(zip(np.log(low).ravel(), np.log(high).ravel(), strict=True))
    bound = _bound_reward(market, state, extra) if type(market.payoff) is Margin else None
    starts = [0.5 * (np.log(low) + np.log(high)), np.log(0.9 * high + 0.1 * low), np.log(0.7 * low + 0.3 * high)]
    if bound is not None:
        starts.insert(0, np.log(np.clip(bound[0], low, high)))
    if low.size <= 3:
        starts.append(np.log(_search_ladder(market, state, extra, low, high)))
    found = [minimize(loss, start.ravel(), method="L-BFGS-B", bounds=box) for start in starts]
    best = min(found, key=lambda result: result.fun)
    prices = np.exp(best.x).reshape(shape)
    reward = -float(best.fun) * scale
    if isinstance(market.payoff, MeritOrderMargin):
        bound = _bound_charged_reward(market, market.payoff, state, extra, prices)
    return JointOptimum(prices, reward, np.inf if bound is None else max(bound[1], reward))


def _search_ladder(
    market: Market, state: MarketState, extra: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Best of all combinations of a ladder of prices, so that no peak is missed, `(products, segments)`."""
    each = np.geomspace(low.ravel(), high.ravel(), _LADDER)
    combined = np.stack([axis.ravel() for axis in np.meshgrid(*each.T, indexing="ij")], axis=1)
    prices = combined.reshape(-1, *low.shape)
    rows = np.zeros(len(prices), dtype=int)
    copies, states = market.select(rows), state.select(rows)
    mean = compute_mean_demand(copies, states, prices)
    reward = market.payoff.select(rows).compute_reward(mean, prices, get_unit_cost(copies, states), mean) - extra * mean
    return prices[reward.sum(axis=(1, 2)).argmax()]


def _bound_reward(market: Market, state: MarketState, extra: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Unconstrained optimum (prices, reward) of the closed forms at a plain margin; None where there is none."""
    if market.memory is not None or market.rivals is not None:
        return None
    cost = np.maximum(get_unit_cost(market, state)[0] + extra, 0.0)
    traffic = np.broadcast_to(compute_traffic(market, state), market.shape)[0]
    demand, prices, total = market.demand, np.empty(market.shape[1:]), 0.0
    for segment in range(market.shape[2]):
        part = _bound_segment(demand, cost[:, segment], segment)
        # A closed form needs one volume for all the products that share customers.
        if part is None or np.ptp(traffic[:, segment]) > 1e-9 * traffic[0, segment]:
            return None
        prices[:, segment] = part[0]
        total += traffic[0, segment] * part[1]
    return prices, total


def _bound_charged_reward(
    market: Market, payoff: MeritOrderMargin, state: MarketState, extra: np.ndarray, prices: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """As `_bound_reward`, with a linear cost of load that the charge is nowhere below: its tangent at some load.

    The tangent at the load of the best prices gives the least bound; where demand would end at its costs, tangents
    at smaller loads are tried.
    """
    load = compute_mean_demand(market, state, prices[None])[0].sum(axis=1, keepdims=True)
    threshold = payoff.threshold[0]
    for share in _TANGENTS:
        excess = share * np.maximum(load - threshold, 0.0)
        marginal = payoff.charge[0] * excess / threshold
        bound = _bound_reward(market, state, extra + marginal)
        if bound is not None:
            # What the linear cost takes at the tangent's point, less the charge there.
            return bound[0], bound[1] + float((marginal * (threshold + 0.5 * excess)).sum())
    return None


def _bound_segment(demand: object, cost: np.ndarray, segment: int) -> tuple[np.ndarray, float] | None:
    if isinstance(demand, LogitDemand | NestedLogitDemand):
        nests = None
        if isinstance(demand, NestedLogitDemand):
            nests = [
                {"products": np.flatnonzero(members).tolist(), "dissimilarity": float(dissimilarity)}
                for members, dissimilarity in zip(
                    demand.membership[0, :, 0].T, demand.dissimilarity[0, 0, 0], strict=True
                )
                if members.any()
            ]
        utility = np.broadcast_to(demand.utility[0], (len(cost), demand.utility.shape[2]))[:, segment]
        steep = np.broadcast_to(demand.sensitivity[0], (len(cost), demand.sensitivity.shape[2]))[:, segment]
        solved = assortment_prices(utility.tolist(), steep.tolist(), cost.tolist(), nests)
        return np.array(solved["prices"]), float(solved["profit"])
    if isinstance(demand, LatentClassDemand):
        shape = (len(cost), demand.class_share.shape[-1])
        utility = np.broadcast_to(demand.utility[0, :, segment], shape)
        column = min(segment, demand.sensitivity.shape[2] - 1)
        steep = np.broadcast_to(demand.sensitivity[0, :, column], shape)
        share = demand.class_share[0, 0, min(segment, demand.class_share.shape[2] - 1)]
        solved_classes = [
            assortment_prices(utility[:, k].tolist(), steep[:, k].tolist(), cost.tolist()) for k in range(shape[1])
        ]
        prices = sum(w * np.array(one["prices"]) for w, one in zip(share, solved_classes, strict=True))
        return np.asarray(prices), float(sum(w * one["profit"] for w, one in zip(share, solved_classes, strict=True)))
    if isinstance(demand, LinearSystemDemand):
        slope = demand.slope[0, :, min(segment, demand.slope.shape[2] - 1)]
        intercept = np.broadcast_to(demand.intercept[0], (len(cost), demand.intercept.shape[2]))[:, segment]
        symmetric = slope + slope.T
        if np.linalg.eigvalsh(symmetric).min() <= 0.0:
            return None
        prices = np.linalg.solve(symmetric, intercept + slope.T @ cost)
        sold = intercept - slope @ prices
        # Where the closed form would sell less than nothing, demand is cut at zero and the form does not hold.
        return (prices, float(((prices - cost) * sold).sum())) if np.all(sold >= 0) else None
    return None
