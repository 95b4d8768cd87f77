"""From a source table to a checked panel, once, at the door."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.cells import read_cells
from pricing_fm.panel.gaps import complete_lives
from pricing_fm.panel.panel import Panel
from pricing_fm.panel.schema import FLAG_COLUMNS, PanelSchema, read_schema
from pricing_fm.panel.sources import read_source
from pricing_fm.panel.validate import (
    check_constants,
    check_duplicates,
    check_frequency,
    check_history,
    check_values,
    warn_of_likely_mistakes,
)


def load_panel(
    source: str | Path | pd.DataFrame | datasets.Dataset | datasets.DatasetDict | tuple[str, str],
    schema: PanelSchema | Mapping[str, Any] | str | Path | None = None,
    *,
    today: dt.date | None = None,
) -> Panel:
    """Reads, checks and completes a sales log.

    Args:
        source (`str`, `Path`, `pd.DataFrame`, `datasets.Dataset` or `tuple[str, str]`): Path of a CSV or Parquet file,
            Hub dataset id (`org/name`), table, or `(query, connection_url)`.
        schema (`PanelSchema`, `Mapping`, `str`, `Path`, *optional*): Column mapping, or path of its YAML file; None
            when the table uses panel names.
        today (`datetime.date`, *optional*): Date after which units cannot have been sold; the clock's by default.

    Returns:
        `Panel`: Sorted, one row per item and period.

    Raises:
        PanelError: If the table does not fulfil the panel contract; the message says where and what to do.
    """
    table = read_source(source, read_schema(schema))
    if table.frame.empty:
        raise PanelError("the table is empty; a panel needs at least two periods of one item")
    schema = table.schema
    numbers = (*schema.number_columns, *(column for column in FLAG_COLUMNS if column in schema.columns))
    frame = read_cells(schema.rename(table.frame), schema, numbers)
    end_of_today = pd.Timestamp(today or dt.date.today()).normalize() + pd.Timedelta(days=1, seconds=-1)
    check_values(frame, schema, end_of_today)

    items, _ = pd.factorize(frame[names.ITEM_ID], sort=True)
    order = np.lexsort((frame[names.TIMESTAMP].to_numpy(), items))
    frame, items = frame.iloc[order], items[order].astype(np.int64)
    check_duplicates(frame, items, schema)
    check_history(frame, items)
    frequency = check_frequency(frame, items, schema)
    frame = check_constants(frame, items, schema)
    warn_of_likely_mistakes(frame, items, schema)
    return Panel(complete_lives(frame, items, frequency, schema), schema, frequency, table.name)
