"""The part of demand that no seller sees: the hidden shock and the regime of a market."""

from __future__ import annotations

import numpy as np

from pricing_fm.markets.context import Regimes
from pricing_fm.markets.core import Market, MarketState


def has_hidden_demand(market: Market) -> bool:
    """Whether anything hidden moves demand: a shock, or regimes that differ in volume."""
    return market.shock is not None or (
        market.regimes is not None and bool(np.any(np.ptp(market.regimes.volume_factor, axis=-1) > 0))
    )


def compute_hidden_factor(market: Market, state: MarketState) -> np.ndarray:
    """Log factor of all that is hidden on demand, shifted so that its exponential has mean 1.

    Args:
        market: Truth of the markets.
        state: State before the period.

    Returns:
        `(markets, products, segments)`; zeros where nothing is hidden.
    """
    factor = np.zeros(market.shape)
    if market.shock is not None:
        factor = market.shock.normalize(state.shock)
    if market.regimes is not None:
        chance = _compute_stationary(market.regimes)
        mean = (market.regimes.volume_factor * chance).sum(axis=-1)
        factor = factor + np.log(market.regimes.get_volume_factor(state.regime) / mean)
    return factor


def standardize_hidden_demand(market: Market, state: MarketState) -> np.ndarray:
    """The hidden log factor with mean 0 and standard deviation 1: how high the demand peak of this period is.

    Args:
        market: Truth of the markets; see `has_hidden_demand`.
        state: State before the period.

    Returns:
        Standard deviations above the mean, `(markets, products, segments)`; 0 for items whose demand is not moved.
    """
    scale = np.zeros((1, 1, 1)) if market.shock is None else market.shock.scale
    peak = np.zeros(market.shape) if market.shock is None else state.shock
    if market.regimes is not None:
        chance = _compute_stationary(market.regimes)
        log_factor = np.log(market.regimes.volume_factor)
        mean = (log_factor * chance).sum(axis=-1)
        variance = (log_factor**2 * chance).sum(axis=-1) - mean**2
        peak = peak + np.log(market.regimes.get_volume_factor(state.regime)) - mean
        scale = np.sqrt(scale**2 + np.maximum(variance, 0.0))
    return peak / np.where(scale > 1e-12, scale, 1.0)


def _compute_stationary(regimes: Regimes) -> np.ndarray:
    """Long-run share of each regime, `(markets, 1, 1, regimes)`."""
    # 2**20 periods, and half a step of each so that a chain that goes round in a circle settles too.
    transition = 0.5 * (regimes.transition + np.eye(regimes.count))
    for _ in range(20):
        transition = transition @ transition
    return transition[..., 0, :]
