"""Demand for benchmarks/off_policy_markets.py from a published base: its demand curves say how demand answers a price.

The network sees the log as any panel: units, prices, list prices, stock. What it says of each item's demand at other
prices is taken as it is; a regression adds levels, calendar, signal, what past prices have left behind (the curve is
that of a price which is held) and overdispersion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from off_policy_market_estimates import (
    EFFECT_PENALTY,
    Nuisances,
    describe_calendar,
    estimate_propensities,
)
from off_policy_market_shops import MarketLog

from pricing_fm import PricingPolicy, load_panel
from pricing_fm.evaluation.off_policy import Decision, DemandDesign, PriceState, fit_demand

MULTIPLIERS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)  # of the last price: from anywhere on the ladder to anywhere


@dataclass(frozen=True)
class NetworkResponse:
    """Log demand relative to that at the last logged price; see `LearnedResponse`.

    Attributes:
        log_current: Log of each unit's last logged price, `(units,)`.
        curves: Log of mean demand at `MULTIPLIERS` of it, over that at 1, `(units, multipliers)`.
    """

    log_current: np.ndarray
    curves: np.ndarray

    def __call__(
        self, period: int | slice, list_price: np.ndarray, state: PriceState, decision: Decision
    ) -> np.ndarray:
        """See `LearnedResponse`; linear between the multipliers in logarithms."""
        grid, at = np.log(MULTIPLIERS), np.log(decision.prices) - self.log_current[:, None]
        right = np.clip(np.searchsorted(grid, at), 1, len(grid) - 1)
        share = (at - grid[right - 1]) / (grid[right] - grid[right - 1])
        low, high = (np.take_along_axis(self.curves, places, axis=1) for places in (right - 1, right))
        return np.asarray(low + share * (high - low))


def fit_network_nuisances(market: MarketLog, base: PricingPolicy) -> Nuisances:
    """Demand whose answer to the price is the network's; behaviour by the package's own regressions."""
    response = read_response(market, base)
    covariates = describe_calendar(market)
    design = DemandDesign(covariates, has_recent_discount=True, has_price=False, learned=response)
    units = np.arange(len(market.rungs))
    demand = fit_demand(market.demand, design, groups=units, group_penalty=EFFECT_PENALTY)
    return Nuisances(estimate_propensities(market), {"structured": demand})


def read_response(market: MarketLog, base: PricingPolicy) -> NetworkResponse:
    """The network's curves at the end of the log."""
    log = market.demand
    units, weeks = log.units.shape
    stamps = np.datetime64("2024-02-05") + 7 * np.arange(weeks)
    ids = np.array([f"item-{number:04d}" for number in range(units)])
    frame = pd.DataFrame(
        {
            "item_id": np.repeat(ids, weeks),
            "timestamp": np.tile(stamps, units),
            "units": log.units.ravel(),
            "price": log.prices.ravel(),
            "list_price": log.list_prices.ravel(),
            "cost": market.shop.unit_costs.ravel(),
            "inventory": log.stock.ravel(),
            "category": "goods",
        }
    )
    curve = base.demand_curve(load_panel(frame), price_multipliers=MULTIPLIERS, prediction_length=1)
    means = curve.pivot(index="item_id", columns="price_multiplier", values="mean").loc[ids].to_numpy()
    curves = np.log(means) - np.log(means[:, [MULTIPLIERS.index(1.0)]])
    return NetworkResponse(np.log(log.prices[:, -1]), curves)
