"""The price index of the rest of the assortment: what the category's other items in the same place cost, per period."""

from dataclasses import replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.panel.store import SeriesStore
from pricing_fm.panel.windows import RawWindows

# The index lives in the first slot of known covariates; declared covariates fill the other three first.
ASSORTMENT_SLOT = names.COVARIATE_SLOTS[-1]


def assortment_index(log_ratios: np.ndarray, moments: np.ndarray, shelves: np.ndarray) -> np.ndarray:
    """Mean log price ratio of the other items on the shelf at the same moment.

    Args:
        log_ratios (`(rows,)`): Log of price over regular price, NaN = unknown.
        moments (`(rows,)`): Period of each row, anything that can be compared.
        shelves (`(rows,)`, int): Number of the (category, place) of each row; negative = no assortment.

    Returns:
        `(rows,)`: NaN where no other item's price is known.
    """
    known = np.isfinite(log_ratios) & (shelves >= 0)
    _, period = np.unique(moments, return_inverse=True)
    cells = np.where(shelves >= 0, shelves, 0) * (period.max(initial=0) + 1) + period
    _, cells = np.unique(cells, return_inverse=True)
    values = np.where(known, log_ratios, 0.0)
    total, count = (np.bincount(cells, weights) for weights in (values, known.astype(np.float64)))
    others = count[cells] - known
    index = (total[cells] - values) / np.maximum(others, 1)
    return np.where((others > 0) & (shelves >= 0), index, np.nan)


def number_shelves(static_categories: np.ndarray) -> np.ndarray:
    """Numbers of the (category, location, segment) of items.

    Args:
        static_categories (`(items, len(STATIC_CATEGORIES))`, object): As windows and stores carry them.

    Returns:
        `(items,)`, int64: -1 for an item without a category.
    """
    columns = [names.STATIC_CATEGORIES.index(name) for name in (names.CATEGORY, names.LOCATION_ID, names.SEGMENT)]
    category, *place = (pd.factorize(static_categories[:, column])[0] for column in columns)
    shelf = category.astype(np.int64)
    for codes in place:
        shelf = shelf * (codes.max(initial=-1) + 2) + codes + 1
    return np.where(category >= 0, shelf, -1)


def regular_prices(prices: np.ndarray, list_prices: np.ndarray, items: np.ndarray) -> np.ndarray:
    """List price, else the item's median price.

    Args:
        prices (`(rows,)`): Prices really charged, NaN elsewhere.
        list_prices (`(rows,)`): NaN where there is none.
        items (`(rows,)`, int): Item of each row.

    Returns:
        `(rows,)`: NaN for an item without any price.
    """
    median = pd.Series(prices).groupby(items).transform("median").to_numpy()
    return np.where(np.isfinite(list_prices), list_prices, median)


def add_assortment(store: SeriesStore) -> SeriesStore:
    """The same series with the price index of the rest of the assortment in its slot.

    Args:
        store (`SeriesStore`): Series with prices in memory; a shard knows its own items only.

    Returns:
        `SeriesStore`: The store itself, where the slot holds a declared covariate.
    """
    slot = names.CHANNEL_INDEX[ASSORTMENT_SLOT]
    if np.isfinite(store.values[:, slot]).any():
        return store
    items = np.repeat(np.arange(len(store.item_ids)), np.diff(store.offsets))
    values = np.array(store.values)
    shelves = number_shelves(store.static_categories)
    values[:, slot] = assortment_index(_log_ratios(values, items), store.timestamps, shelves[items])
    return replace(store, values=values)


def add_assortment_to_windows(windows: RawWindows) -> RawWindows:
    """Windows of all items of a panel, past and plan, with the price index of the rest of the assortment in its slot.

    Args:
        windows (`RawWindows`): One window per item, at one origin.

    Returns:
        `RawWindows`: The windows themselves, where the slot holds a declared covariate.
    """
    slot = names.CHANNEL_INDEX[ASSORTMENT_SLOT]
    if np.isfinite(windows.past[..., slot]).any() or np.isfinite(windows.future[..., slot]).any():
        return windows
    past = windows.past.shape[1]
    values = np.concatenate([windows.past, windows.future], axis=1)
    moments = np.concatenate([windows.past_timestamps, windows.future_timestamps], axis=1)
    items = np.repeat(np.arange(len(values)), values.shape[1])
    known = values.reshape(-1, values.shape[-1]).copy()
    # A plan is no habit: the regular price of an item without list price is what it used to cost.
    is_plan = np.tile(np.arange(values.shape[1]) >= past, len(values))
    ratios = _log_ratios(known, items, is_plan)
    index = assortment_index(ratios, moments.reshape(-1), number_shelves(windows.static_categories)[items])
    values[..., slot] = index.reshape(values.shape[:2])
    return replace(windows, past=values[:, :past], future=values[:, past:])


def _log_ratios(values: np.ndarray, items: np.ndarray, is_plan: np.ndarray | None = None) -> np.ndarray:
    """Log price over regular price of rows `(rows, channels)`; NaN where the price was only carried."""
    price, listed, imputed = (
        values[:, names.CHANNEL_INDEX[name]].astype(np.float64)
        for name in (names.PRICE, names.LIST_PRICE, names.PRICE_IMPUTED)
    )
    charged = np.where(imputed > 0, np.nan, price)
    habitual = charged if is_plan is None else np.where(is_plan, np.nan, charged)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(charged / regular_prices(habitual, listed, items))
