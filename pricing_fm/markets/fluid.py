"""Fluid bounds: what a stock for the whole season could earn if demand were its mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from pricing_fm.markets.core import Market, compute_mean_demand, start
from pricing_fm.markets.one_period import compute_joint_optimum
from pricing_fm.markets.streams import build_streams


class FluidBound(NamedTuple):
    """Certified upper bound on the expected reward of a season with a finite stock.

    Attributes:
        value: The bound, currency.
        shadow_prices: Worth of one more unit of each resource, currency, `(resources,)`.
        prices: Prices of every period that are best at these worths, currency, `(periods, products, segments)`.
        is_constant: Whether the prices are the same in every period.
    """

    value: float
    shadow_prices: np.ndarray
    prices: np.ndarray
    is_constant: bool


def compute_fluid_bound(market: Market) -> FluidBound:
    """Lagrangian bound: resources are bought at shadow prices instead of being limited.

    For any shadow prices >= 0 the relaxed value, capacity x shadow prices + sum over periods of the best expected
    reward after paying them, bounds every policy's expected reward from above (Gallego and van Ryzin 1994, 1997;
    Talluri and van Ryzin 1998). The function is convex; the best bound found is returned. Where the one-period optimum
    has a closed form that form's bound is used, so that the bound does not rest on a search.

    Args:
        market: One market with a stock for the whole season.

    Returns:
        The bound, its shadow prices and its prices.

    Raises:
        ValueError: If the market has no stock for a season or several markets are given.
    """
    supply = market.supply
    if supply is None or not supply.is_finite_season or market.shape[0] != 1:
        raise ValueError(f"{market.domain}/{market.family}: a fluid bound needs one market with a stock for the season")
    capacity, use, salvage = supply.describe_season(market.shape)
    state = start(market, build_streams(0, np.zeros(1, dtype=int)))
    periods = range(market.num_periods if market.calendar is not None else 1)
    weight = 1.0 if market.calendar is not None else float(market.num_periods)

    def relax(shadow: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Bound, gradient and prices at shadow prices (above salvage)."""
        added = (use @ (shadow + salvage)).reshape(market.shape[1:])
        total, sold, prices = float(capacity @ (shadow + salvage)), np.zeros_like(capacity), []
        for period in periods:
            here = state._replace(period=np.array([period]))
            best = compute_joint_optimum(market, here, added)
            mean = compute_mean_demand(market, here, best.prices[None])[0].reshape(-1)
            total += weight * (best.bound if np.isfinite(best.bound) else best.reward)
            sold += weight * (use.T @ mean)
            prices.append(best.prices)
        return total, capacity - sold, np.array(prices)

    scale = max(float(np.abs(relax(np.zeros_like(capacity))[0])), 1e-12)

    def loss(shadow: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope, _ = relax(shadow)
        return value / scale, slope / scale

    top = float(np.max(market.price_bounds[1] * market.list_price))
    found = minimize(
        loss,
        np.full(len(capacity), 0.1 * top),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, top)] * len(capacity),
        options={"maxiter": 60},
    )
    value, _, prices = relax(found.x)
    if len(prices) == 1:
        prices = np.repeat(prices, market.num_periods, axis=0)
    return FluidBound(value, found.x, prices, market.calendar is None)
