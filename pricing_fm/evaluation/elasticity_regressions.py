"""Elasticities by regression, item by item: levels, differences, lags, instruments; shrunk where that helps.

All see the panel alone. Sold-out weeks are left out, promotions, a trend and the season of a year are controlled for.
Elasticities are positive numbers here: minus d log demand / d log price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.elasticity_estimates import HALF_A_UNIT, SMALLEST_VARIATION, shrink_slopes
from pricing_fm.evaluation.grid import build_grid
from pricing_fm.panel.panel import Panel
from pricing_fm.policy.tables import NORMAL_80

DAYS_PER_YEAR = 365.25
STRONG_FIRST_STAGE = 10.0
FEWEST_TO_SPARE = 3  # observations beyond the coefficients of an item's regression


@dataclass(frozen=True)
class ItemLog:
    """A panel as arrays, items by periods; NaN = missing.

    Args:
        item_ids (`np.ndarray`, object, shape `(items,)`): Items, sorted.
        log_units (`np.ndarray`, float64, shape `(items, periods)`): log(units + 1/2).
        log_price (`np.ndarray`, float64, shape `(items, periods)`): Log price.
        log_cost (`np.ndarray`, float64, shape `(items, periods)`): Log unit cost; all NaN without the column.
        log_list_price (`np.ndarray`, float64, shape `(items, periods)`): Log list price; all NaN without the column.
        promotions (`np.ndarray`, float64, shape `(items, periods, promotions)`): 0..1.
        years (`np.ndarray`, float64, shape `(periods,)`): Time since the first period, years.
        usable (`np.ndarray`, bool, shape `(items, periods)`): Units and price known, and not sold out.
    """

    item_ids: np.ndarray
    log_units: np.ndarray
    log_price: np.ndarray
    log_cost: np.ndarray
    log_list_price: np.ndarray
    promotions: np.ndarray
    years: np.ndarray
    usable: np.ndarray


def read_item_log(panel: Panel) -> ItemLog:
    """Lays a panel out as arrays of logarithms.

    Args:
        panel (`Panel`): Logged panel.

    Returns:
        `ItemLog`: Of all items and periods.
    """
    grid = build_grid(panel)
    cost, inventory = _lay_out(panel, grid.item_ids, names.COST), _lay_out(panel, grid.item_ids, names.INVENTORY)
    usable = np.isfinite(grid.units) & np.isfinite(grid.price)
    # Sales that reach the stock are a lower bound of demand; a regression cannot use a bound.
    usable &= ~(grid.units >= np.where(np.isnan(inventory), np.inf, inventory))
    days = (grid.timestamps - grid.timestamps[0]) / np.timedelta64(1, "D")
    return ItemLog(
        item_ids=grid.item_ids,
        log_units=np.log(grid.units + HALF_A_UNIT),
        log_price=np.log(grid.price),
        log_cost=np.log(cost),
        log_list_price=np.log(grid.list_price),
        promotions=np.nan_to_num(grid.promotions),
        years=days / DAYS_PER_YEAR,
        usable=usable,
    )


def estimate_log_log(log: ItemLog) -> pd.DataFrame:
    """Log units on log price with item effects, promotions, trend and season: what most teams run.

    Args:
        log (`ItemLog`): Logged panel.

    Returns:
        `pd.DataFrame`: `item_id, elasticity, lower, upper` (80 %, classical standard errors); NaN where the price of
        an item never moved.
    """
    slopes, errors = _fit_items(log.log_units, log.log_price, _add_controls(log, []), log.usable)
    return build_estimates(log.item_ids, slopes, errors)


def estimate_hierarchical(log: ItemLog) -> pd.DataFrame:
    """Slopes of `estimate_log_log`, shrunk towards the mean of the panel by empirical Bayes."""
    slopes, errors = _fit_items(log.log_units, log.log_price, _add_controls(log, []), log.usable)
    return _shrink(log.item_ids, slopes, errors)


def estimate_first_differences(log: ItemLog) -> pd.DataFrame:
    """Changes of log units on changes of log price and promotions between neighbouring usable weeks."""
    controls = np.diff(log.promotions, axis=1)
    both = log.usable[:, 1:] & log.usable[:, :-1]
    slopes, errors = _fit_items(np.diff(log.log_units, axis=1), np.diff(log.log_price, axis=1), controls, both)
    return build_estimates(log.item_ids, slopes, errors)


def estimate_with_lags(log: ItemLog) -> pd.DataFrame:
    """As `estimate_log_log`, with last week's log units, log price and promotions as further controls."""
    lags = [log.log_units[:, :-1, None], log.log_price[:, :-1, None], log.promotions[:, :-1]]
    controls = np.concatenate([_add_controls(log, [])[:, 1:], *lags], axis=2)
    both = log.usable[:, 1:] & log.usable[:, :-1]
    slopes, errors = _fit_items(log.log_units[:, 1:], log.log_price[:, 1:], controls, both)
    return build_estimates(log.item_ids, slopes, errors)


def estimate_two_stage_least_squares(log: ItemLog) -> pd.DataFrame:
    """Log units on log price with cost as the instrument; shrunk towards the estimate that pools the strong items.

    The instrument of an item is log cost, or the log list price (which follows cost later) where that moves the price
    more. Items whose first stage is weak, F below 10, have no estimate.

    Args:
        log (`ItemLog`): Logged panel.

    Returns:
        `pd.DataFrame`: `item_id, elasticity, lower, upper`; NaN without a strong instrument.

    References:
        Staiger and Stock 1997, "Instrumental variables regression with weak instruments" (the rule of ten).
    """
    controls, count = _add_controls(log, []), len(log.item_ids)
    products, slopes, errors = np.zeros((count, 2)), np.full(count, np.nan), np.full(count, np.nan)
    for item in range(count):
        found = [
            _instrument(log, item, instrument[item], controls[item])
            for instrument in (log.log_cost, log.log_list_price)
        ]
        best = max(found, key=lambda fit: fit.strength)
        if best.strength >= STRONG_FIRST_STAGE:
            slopes[item], errors[item], products[item] = best.slope, best.error, best.products
    if np.isnan(slopes).all():
        return build_estimates(log.item_ids, slopes, errors)
    pooled = products.sum(axis=0)
    return _shrink(log.item_ids, slopes, errors, centre=float(pooled[0] / pooled[1]))


class _InstrumentFit(NamedTuple):
    strength: float  # F of the first stage
    slope: float = np.nan
    error: float = np.nan
    products: tuple[float, float] = (0.0, 0.0)  # of the instrument with demand and with price


def _instrument(log: ItemLog, item: int, instrument: np.ndarray, controls: np.ndarray) -> _InstrumentFit:
    """Just-identified two-stage least squares of one item."""
    rows = log.usable[item] & np.isfinite(instrument)
    table = np.stack([log.log_units[item, rows], log.log_price[item, rows], instrument[rows]], axis=1)
    left = _partial_out(table, controls[rows])
    if left is None or min((left[:, 2] ** 2).sum(), (left[:, 1] ** 2).sum()) < SMALLEST_VARIATION:
        return _InstrumentFit(0.0)
    demand, price, moved = left.T
    freedom = _freedom(len(left), controls.shape[1] + 1)
    first = moved @ price / (moved @ moved)
    unexplained = ((price - first * moved) ** 2).sum()
    strength = first**2 * (moved @ moved) / max(unexplained / freedom, SMALLEST_VARIATION)
    slope = (moved @ demand) / (moved @ price) if strength > 0 else np.nan
    noise = ((demand - slope * price) ** 2).sum() / freedom
    error = np.sqrt(noise * (moved @ moved)) / abs(moved @ price) if strength > 0 else np.nan
    return _InstrumentFit(float(strength), float(slope), float(error), (float(moved @ demand), float(moved @ price)))


def estimate_from_residuals(
    item_ids: np.ndarray, demand: np.ndarray, price: np.ndarray, usable: np.ndarray
) -> pd.DataFrame:
    """Second stage of double machine learning: residual demand on residual price, per item, shrunk over the panel.

    Args:
        item_ids (`np.ndarray`, shape `(items,)`): Items.
        demand (`np.ndarray`, shape `(items, periods)`): Log units minus their prediction.
        price (`np.ndarray`, shape `(items, periods)`): Log price minus its prediction.
        usable (`np.ndarray`, bool, shape `(items, periods)`): Where both are known.

    Returns:
        `pd.DataFrame`: `item_id, elasticity, lower, upper`.
    """
    slopes, errors = _fit_items(demand, price, np.zeros((*demand.shape, 0)), usable)
    return _shrink(item_ids, slopes, errors)


def build_estimates(item_ids: np.ndarray, slopes: np.ndarray, errors: np.ndarray) -> pd.DataFrame:
    """Table of elasticities from slopes of log demand on log price.

    Args:
        item_ids (`np.ndarray`, shape `(items,)`): Items.
        slopes (`np.ndarray`, shape `(items,)`): Slopes, usually negative; NaN = none.
        errors (`np.ndarray`, shape `(items,)`): Their standard errors; NaN = none.

    Returns:
        `pd.DataFrame`: `item_id, elasticity, lower, upper` (80 %).
    """
    return pd.DataFrame(
        {
            names.ITEM_ID: item_ids,
            "elasticity": -slopes,
            "lower": -slopes - NORMAL_80 * errors,
            "upper": -slopes + NORMAL_80 * errors,
        }
    )


def _lay_out(panel: Panel, item_ids: np.ndarray, column: str) -> np.ndarray:
    """A column as items by periods; all NaN where the panel lacks it."""
    frame = panel.frame
    number = panel.frequency.locate(frame[names.TIMESTAMP].to_numpy())[0]
    values = np.full((len(item_ids), int(number.max() - number.min()) + 1), np.nan)
    if column in frame:
        rows = pd.Index(item_ids).get_indexer(frame[names.ITEM_ID])
        values[rows, number - number.min()] = frame[column].to_numpy(dtype=np.float64)
    return values


def _add_controls(log: ItemLog, more: list[np.ndarray]) -> np.ndarray:
    """Promotions, trend and season, `(items, periods, controls)`."""
    angle = 2.0 * np.pi * log.years
    time = np.stack([log.years, np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([log.promotions, np.broadcast_to(time, (*log.usable.shape, 3)), *more], axis=2)


def _fit_items(
    demand: np.ndarray, price: np.ndarray, controls: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slope of demand on price and its standard error for every item; NaN where its price never moved."""
    slopes, errors = np.full(len(demand), np.nan), np.full(len(demand), np.nan)
    for item in range(len(demand)):
        rows = usable[item]
        left = _partial_out(np.stack([demand[item, rows], price[item, rows]], axis=1), controls[item, rows])
        if left is None or (left[:, 1] ** 2).sum() < SMALLEST_VARIATION:
            continue
        variation = (left[:, 1] ** 2).sum()
        slopes[item] = left[:, 0] @ left[:, 1] / variation
        noise = ((left[:, 0] - slopes[item] * left[:, 1]) ** 2).sum()
        errors[item] = np.sqrt(noise / _freedom(len(left), controls.shape[2] + 1) / variation)
    return slopes, errors


def _partial_out(table: np.ndarray, controls: np.ndarray) -> np.ndarray | None:
    """Residuals of columns after a constant and controls; None with too few rows."""
    if len(table) < controls.shape[1] + 2 + FEWEST_TO_SPARE:
        return None
    design = np.column_stack([np.ones(len(table)), controls])
    return np.asarray(table - design @ np.linalg.lstsq(design, table, rcond=None)[0])


def _freedom(rows: int, coefficients: int) -> int:
    return max(1, rows - coefficients - 1)


def _shrink(item_ids: np.ndarray, slopes: np.ndarray, errors: np.ndarray, centre: float | None = None) -> pd.DataFrame:
    known = np.isfinite(slopes) & (errors > 0)
    shrunk, error = np.full(len(slopes), np.nan), np.full(len(slopes), np.nan)
    if known.any():
        shrunk[known], error[known] = shrink_slopes(slopes[known], errors[known] ** -2.0, centre)
    return build_estimates(item_ids, shrunk, error)
