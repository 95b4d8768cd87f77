"""A simulated market as tables: the panel that a shop would see, and the truth behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.markets.fitting.demand_paths import DemandPaths


@dataclass(frozen=True)
class Simulated:
    """One drawn market; arrays have shape `(items, periods)` unless said otherwise.

    Attributes:
        item_ids: Items.
        static: Constant panel columns, each of shape `(items,)`.
        prices: Currency per unit; NaN outside an item's life.
        list_prices: Regular price, currency per unit.
        flags: Promotions in 0..1, shape `(items, periods, channels)`.
        costs: Unit cost, currency per unit; None = not known.
        inventory: Stock in counts; None = not kept.
        count_sizes: Units of one count, shape `(items,)`.
        elasticities: Positive, shape `(items,)`.
        paths: Demand in counts.
    """

    item_ids: tuple[str, ...]
    static: dict[str, np.ndarray]
    prices: np.ndarray
    list_prices: np.ndarray
    flags: np.ndarray
    costs: np.ndarray | None
    inventory: np.ndarray | None
    count_sizes: np.ndarray
    elasticities: np.ndarray
    paths: DemandPaths

    def first_periods(self, kept: int) -> Simulated:
        """The same market, cut after some periods."""
        paths = DemandPaths(self.paths.shock[:, :kept], self.paths.mean[:, :kept], self.paths.demand[:, :kept])
        return replace(
            self,
            prices=self.prices[:, :kept],
            list_prices=self.list_prices[:, :kept],
            flags=self.flags[:, :kept],
            costs=None if self.costs is None else self.costs[:, :kept],
            inventory=None if self.inventory is None else self.inventory[:, :kept],
            paths=paths,
        )


def compute_sales(demand: np.ndarray, inventory: np.ndarray | None, zeros_unlisted: bool) -> np.ndarray:
    """What a shop's log shows of demand: cut off by stock, and empty where nothing sold if it lists sales alone.

    Args:
        demand: Counts.
        inventory: Stock in counts, NaN where unlimited; None = unlimited.
        zeros_unlisted: True if zeros are not listed.

    Returns:
        Sales in counts; NaN = no entry.
    """
    sales = demand if inventory is None else np.where(np.isfinite(inventory), np.minimum(demand, inventory), demand)
    return np.where(sales > 0, sales, np.nan) if zeros_unlisted else sales


def build_tables(
    market: Simulated, timestamps: np.ndarray, promotions: tuple[str, ...], zeros_unlisted: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Long tables of a drawn market.

    Args:
        market: The market.
        timestamps: Starts of the periods, shape `(periods,)`.
        promotions: Names of the promotion channels.
        zeros_unlisted: True if periods without sales have no units in the log.

    Returns:
        Panel in panel columns and truth, row for row, sorted by item and time.
    """
    rows, columns = np.nonzero(np.isfinite(market.prices))
    size = market.count_sizes[rows]
    sales = compute_sales(market.paths.demand, market.inventory, zeros_unlisted)
    ids = np.array(market.item_ids, dtype=object)[rows]
    panel = {
        names.ITEM_ID: ids,
        names.TIMESTAMP: timestamps[columns],
        names.UNITS: sales[rows, columns] * size,
        names.PRICE: market.prices[rows, columns],
        names.LIST_PRICE: market.list_prices[rows, columns],
    }
    if market.costs is not None:
        panel[names.COST] = market.costs[rows, columns]
    if market.inventory is not None:
        panel[names.INVENTORY] = market.inventory[rows, columns] * size
    panel |= {name: values[rows] for name, values in market.static.items()}
    panel |= {name: market.flags[rows, columns, place] for place, name in enumerate(promotions)}
    truth = {
        names.ITEM_ID: ids,
        names.TIMESTAMP: timestamps[columns],
        "demand": market.paths.demand[rows, columns] * size,
        "mean_demand": market.paths.mean[rows, columns] * size,
        "elasticity": market.elasticities[rows],
        "hidden_shock": market.paths.shock[rows, columns],
    }
    return pd.DataFrame(panel), pd.DataFrame(truth)
