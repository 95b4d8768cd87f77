"""How a bad row is reported: 0-based row of the source table, item, column, what was found, what to do."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from pricing_fm.errors import PanelError
from pricing_fm.names import ITEM_ID
from pricing_fm.panel.schema import PanelSchema


def refuse_rows(
    frame: pd.DataFrame, bad: np.ndarray, column: str, expected: str, action: str, schema: PanelSchema
) -> None:
    """Raises for the first bad row in source order; does nothing when no row is bad.

    Args:
        frame (`pd.DataFrame`): Rows in panel names; its index holds the 0-based rows of the source table.
        bad (`np.ndarray`, bool, shape `(rows,)`): True where the row breaks the contract.
        column (`str`): Panel name of the column that is wrong.
        expected (`str`): What the contract wants, as a clause ("prices must be positive").
        action (`str`): What the user can do, as a sentence.
        schema (`PanelSchema`): Tells how the source calls the column.

    Raises:
        PanelError: If any row is bad.
    """
    positions = np.flatnonzero(bad)
    if positions.size == 0:
        return
    rows = frame.index.to_numpy()[positions]
    position = positions[rows.argmin()]
    others = f" ({positions.size - 1} more such rows.)" if positions.size > 1 else ""
    raise PanelError(
        f"{locate_row(frame, position)}: {name_column(column, schema)} is "
        f"{render_value(frame[column].iloc[position])}; {expected}. {action}{others}"
    )


def locate_row(frame: pd.DataFrame, position: int) -> str:
    """Names one row by its 0-based place in the source table and, where known, its item.

    Args:
        frame (`pd.DataFrame`): Rows whose index holds the 0-based source rows.
        position (`int`): Place of the row in `frame`.

    Returns:
        `str`: For example `row 812 (item_id 'milk-3')`.
    """
    item = frame[ITEM_ID].iloc[position]
    return f"row {frame.index[position]}" + (f" (item_id {item!r})" if isinstance(item, str) else "")


def name_column(column: str, schema: PanelSchema) -> str:
    """The panel's word for a column and, where it differs, the source's word.

    Args:
        column (`str`): Panel name.
        schema (`PanelSchema`): Column mapping.

    Returns:
        `str`: For example `price (column 'shelf_price')`.
    """
    sources = schema.columns.get(column, (column,))
    return column if sources == (column,) else f"{column} (column {' | '.join(map(repr, sources))})"


def render_value(value: Hashable) -> str:
    """One cell as a reader of an error message wants to see it.

    Args:
        value (`Hashable`): Cell of a table.

    Returns:
        `str`: `missing` for a missing cell, dates in ISO form, text in quotes.
    """
    if value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return "missing"
    if isinstance(value, pd.Timestamp):
        return str(value.date()) if value == value.normalize() else str(value)
    if isinstance(value, (float, np.floating)):
        return f"{float(value):g}"
    return repr(value) if isinstance(value, str) else str(value)
