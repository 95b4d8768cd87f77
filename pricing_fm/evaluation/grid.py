"""One panel as dense arrays over items and periods, which is what baselines compute with."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.panel.panel import Panel


@dataclass(frozen=True)
class PanelGrid:
    """Arrays over items (rows, sorted by id) and consecutive periods (columns); NaN = missing.

    Args:
        item_ids (`np.ndarray`, object, shape `(items,)`): Items.
        timestamps (`np.ndarray`, datetime64[s], shape `(periods,)`): Starts of the periods, without gaps.
        origin (`int`): Column of the first period that is known future; all columns from there hold plans only.
        units (`np.ndarray`, float64, shape `(items, periods)`): Quantity sold; NaN from the origin on.
        price (`np.ndarray`, float64, shape `(items, periods)`): Currency per unit.
        list_price (`np.ndarray`, float64, shape `(items, periods)`): Currency per unit; all NaN without the column.
        promotions (`np.ndarray`, float64, shape `(items, periods, promotions)`): 0..1.
        known_covariates (`np.ndarray`, float64, shape `(items, periods, covariates)`): Known in advance.
    """

    item_ids: np.ndarray
    timestamps: np.ndarray
    origin: int
    units: np.ndarray
    price: np.ndarray
    list_price: np.ndarray
    promotions: np.ndarray
    known_covariates: np.ndarray


def build_grid(history: Panel, future: pd.DataFrame | None = None) -> PanelGrid:
    """Lays a panel and its known future out as arrays.

    Args:
        history (`Panel`): Observed periods.
        future (`pd.DataFrame`, *optional*): Known future rows of the same items in panel names, after all of `history`.

    Returns:
        `PanelGrid`: The origin is the first period after `history`.
    """
    tables = [history.frame] if future is None else [history.frame, future]
    item_ids = np.asarray(history.item_ids, dtype=object)
    numbers = [history.frequency.locate(table[names.TIMESTAMP].to_numpy())[0] for table in tables]
    first, last = min(n.min() for n in numbers), max(n.max() for n in numbers)
    cells = [
        (pd.Index(item_ids).get_indexer(table[names.ITEM_ID]), number - first) for table, number in zip(tables, numbers)
    ]
    shape = (len(item_ids), int(last - first) + 1)

    def lay_out(column: str) -> np.ndarray:
        values = np.full(shape, np.nan)
        for table, (rows, columns) in zip(tables, cells):
            if column in table:
                values[rows, columns] = table[column].to_numpy(dtype=np.float64)
        return values

    def stack(columns: tuple[str, ...]) -> np.ndarray:
        return np.stack([lay_out(column) for column in columns], axis=-1) if columns else np.zeros((*shape, 0))

    start = history.frame[names.TIMESTAMP].to_numpy()[numbers[0].argmin()]
    return PanelGrid(
        item_ids=item_ids,
        timestamps=history.frequency.step(np.asarray(start), np.arange(shape[1])),
        origin=int(numbers[0].max() - first) + 1,
        units=lay_out(names.UNITS),
        price=lay_out(names.PRICE),
        list_price=lay_out(names.LIST_PRICE),
        promotions=stack(history.schema.promotions),
        known_covariates=stack(history.schema.known_covariates),
    )


def read_attribute(panel: Panel, column: str) -> np.ndarray:
    """A column that is constant within an item, one value per item.

    Args:
        panel (`Panel`): Panel.
        column (`str`): Panel column.

    Returns:
        `np.ndarray`, object or float64, shape `(items,)`: Value of each item's first row, in the order of `item_ids`;
        all None when the panel has no such column.
    """
    if column not in panel.frame:
        return np.full(len(panel.item_ids), None, dtype=object)
    first_rows = ~panel.frame[names.ITEM_ID].duplicated().to_numpy()
    return panel.frame[column].to_numpy()[first_rows]
