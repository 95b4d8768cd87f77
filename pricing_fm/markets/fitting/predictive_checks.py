"""Posterior-predictive checks: does a fitted market, replayed many times, look like the log it was fitted to?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm.markets.fitting.check_prices import compute_price_statistics
from pricing_fm.markets.fitting.check_statistics import Statistics, build_context, compute_statistics
from pricing_fm.markets.fitting.design import Design, read_regular_prices
from pricing_fm.markets.fitting.estimate import Estimates
from pricing_fm.markets.fitting.fitted_market import FittedMarket
from pricing_fm.markets.fitting.new_items import draw_new_items
from pricing_fm.markets.fitting.simulated_tables import compute_sales

FITS, NEAR, MISFIT = "fits", "near", "misfit"
BAND = (0.05, 0.95)  # of the replicates

# With 100,000 rows every simple model is refuted to the third digit. What matters is how far off it is: a tenth of a
# number measured in its own unit, or this much of a correlation, a share, a log or a slope.
_RELATIVE = 0.1
_ABSOLUTE = {"units:": 0.0, "residual:": 0.05, "memory:": 0.05, "common:": 0.05, "category:": 0.02, "manager:": 0.03}
_ABSOLUTE |= {"price:": 0.1, "promotion:": 0.1}


@dataclass(frozen=True)
class PredictiveChecks:
    """Outcome of the checks.

    Attributes:
        table: One row per category and statistic: `category`, `check`, `real`, `replicated` (median), `lower`,
            `upper` (5 and 95 % of the replicates), `p_value` (two-sided posterior predictive), `tolerance`, `verdict`:
            "fits" inside the interval, "near" outside it by no more than the tolerance from the median, else "misfit".
        real: Statistics of the log.
        replicates: Statistics of every replicate.
    """

    table: pd.DataFrame
    real: Statistics
    replicates: tuple[Statistics, ...]

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A curve of the log, and the lower, middle and upper curve of the replicates."""
        stack = np.stack([replicate.curves[name] for replicate in self.replicates])
        empty = np.isnan(stack).all(axis=0)
        lines = np.nanquantile(np.where(empty, 0.0, stack), (BAND[0], 0.5, BAND[1]), axis=0)
        lower, middle, upper = np.where(empty, np.nan, lines)
        return self.real.curves[name], lower, middle, upper


def check_market(
    market: FittedMarket,
    estimates: Estimates,
    num_replicates: int = 50,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PredictiveChecks:
    """Replays the fitted items at their real prices, draws new managers, and compares both with the log.

    Demand statistics hold prices, promotions and stock as logged, draw coefficients from their posterior and all
    shocks anew. Manager statistics compare the logged prices with those of new items.

    Args:
        market: The fitted market.
        estimates: The fit that it came from.
        num_replicates: Replicates, >= 2.
        seed: Seed of the replicates.
        progress: Called with (replicate, replicates) after each.

    Returns:
        Table and curves.

    Raises:
        ValueError: If `num_replicates` is below 2.
    """
    if num_replicates < 2:
        raise ValueError(f"num_replicates is {num_replicates}; it must be 2 or more")
    design = estimates.design
    context = build_context(design, estimates.effects)
    # Periods without stock are no test of demand; periods of an unknown price or promotion have no prediction.
    shown = design.alive & ~(design.inventory <= 0) & (design.data.observed | np.isnan(design.data.counts))
    real = compute_statistics(context, np.where(design.data.observed, design.data.counts, np.nan))
    real = Statistics(real.values | _compute_real_prices(design), real.curves)
    replicates = []
    for number in range(num_replicates):
        demand = market.replay(design, seed, number).demand
        sales = compute_sales(demand, design.inventory, market.zeros_unlisted)
        shown_now = shown if market.zeros_unlisted else design.data.observed
        found = compute_statistics(context, np.where(shown_now, sales, np.nan))
        prices = _compute_simulated_prices(market, design, seed, number)
        replicates.append(Statistics(found.values | prices, found.curves))
        if progress is not None:
            progress(number + 1, num_replicates)
    _add_coverage(real, replicates)
    return PredictiveChecks(_tabulate(design, real, replicates), real, tuple(replicates))


def _compute_real_prices(design: Design) -> dict[str, np.ndarray]:
    prices = np.where(design.data.observed, design.prices, np.nan)
    products = np.arange(len(prices)) if design.products is None else design.products.of_item
    parts = []
    for category in range(len(design.categories.names)):
        rows = design.categories.of_item == category
        flags = design.covariates[rows][..., 2:]
        parts.append(
            compute_price_statistics(
                prices[rows], design.regular_prices[rows], flags, design.promotions, products[rows]
            )
        )
    return {name: np.array([part[name] for part in parts]) for name in parts[0]}


def _compute_simulated_prices(market: FittedMarket, design: Design, seed: int, replicate: int) -> dict[str, np.ndarray]:
    parts = []
    for fit in market.categories:
        items = draw_new_items(fit, len(design.timestamps), seed, replicate)
        paths = items.paths
        # Where the real regular price was read off the prices, the simulated one is as well.
        regular = paths.regular if design.lists_regular else read_regular_prices(None, paths.price)
        product = np.unique(items.products.astype(str), return_inverse=True)[1]
        if design.products is None:
            product = np.arange(len(product))
        parts.append(compute_price_statistics(paths.price, regular, paths.promotions, market.promotions, product))
    return {name: np.array([part[name] for part in parts]) for name in parts[0]}


def _add_coverage(real: Statistics, replicates: list[Statistics]) -> None:
    """Share of periods in which a category's sales lie in the band of the replicates."""
    stack = np.stack([replicate.curves["weekly"] for replicate in replicates])
    lower, upper = np.quantile(stack, BAND, axis=0)
    for statistics in (real, *replicates):
        weekly = statistics.curves["weekly"]
        inside = ((weekly >= lower) & (weekly <= upper)).mean(axis=1)
        statistics.values["category: periods whose sales lie in the 90 % band"] = inside


def _tabulate(design: Design, real: Statistics, replicates: list[Statistics]) -> pd.DataFrame:
    rows = []
    for name in real.values:
        for category, label in enumerate(design.categories.names):
            value = float(real.values[name][category])
            drawn = np.array([replicate.values[name][category] for replicate in replicates])
            drawn = drawn[np.isfinite(drawn)]
            if not np.isfinite(value) or len(drawn) < 2:
                continue
            lower, middle, upper = np.quantile(drawn, (BAND[0], 0.5, BAND[1]))
            above, below = (np.sum(drawn >= value) + 1.0), (np.sum(drawn <= value) + 1.0)
            p_value = min(1.0, 2.0 * min(above, below) / (len(drawn) + 1.0))
            tolerance = max(_RELATIVE * abs(value), _ABSOLUTE[name.split(" ")[0]])
            inside = lower <= value <= upper
            verdict = FITS if inside else NEAR if abs(value - middle) <= tolerance else MISFIT
            rows.append([label, name, value, middle, lower, upper, p_value, tolerance, verdict])
    columns = ["category", "check", "real", "replicated", "lower", "upper", "p_value", "tolerance", "verdict"]
    return pd.DataFrame(rows, columns=columns)
