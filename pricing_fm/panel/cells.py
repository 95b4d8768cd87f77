"""Turns raw cells into text, naive UTC timestamps and numbers; what cannot be read is refused with its row."""

import datetime as dt
from collections.abc import Iterable

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.refusal import locate_row, name_column, refuse_rows
from pricing_fm.panel.schema import PanelSchema, join_strings

# `2024-01-01T00:00+02:00`, `2024-01-01 00:00:00Z`: a time of day followed by an offset from UTC.
OFFSET = r"[T ]\d{2}(?::?\d{2}){0,2}(?:[.,]\d+)?\s*(Z|[+-]\d{2}(?::?\d{2})?)$"
EARLIEST, LATEST = np.datetime64("1678-01-01", "s"), np.datetime64("2262-01-01", "s")  # what datetime64[ns] holds


def read_cells(frame: pd.DataFrame, schema: PanelSchema, number_columns: Iterable[str]) -> pd.DataFrame:
    """Gives every column of a renamed table its panel type.

    Args:
        frame (`pd.DataFrame`): Table in panel names, `item_id` already text; index = 0-based source rows.
        schema (`PanelSchema`): Column mapping, for messages and for integer periods.
        number_columns (`Iterable[str]`): Columns that hold numbers or flags.

    Returns:
        `pd.DataFrame`: `item_id` and text columns as str or None, `timestamp` as datetime64[ns], numbers as float64.

    Raises:
        PanelError: If an item id is missing, a date cannot be read, or a number is text.
    """
    refuse_rows(
        frame,
        frame[names.ITEM_ID].isna().to_numpy(),
        names.ITEM_ID,
        "every row needs an item id",
        "Fill it in or drop the row.",
        schema,
    )
    typed: dict[str, np.ndarray] = {names.ITEM_ID: frame[names.ITEM_ID].to_numpy()}
    if names.TIMESTAMP in frame:
        typed[names.TIMESTAMP] = read_timestamps(frame, schema)
    numbers = set(number_columns)
    for column in frame.columns:
        if column in numbers:
            typed[column] = read_numbers(frame, column, schema)
        elif column in schema.string_columns:
            typed[column] = join_strings([frame[column]])
        elif column not in typed:
            typed[column] = frame[column].to_numpy()
    return pd.DataFrame(typed, index=frame.index)


def read_numbers(frame: pd.DataFrame, column: str, schema: PanelSchema) -> np.ndarray:
    """One column as float64.

    Args:
        frame (`pd.DataFrame`): Table in panel names.
        column (`str`): Column to read.
        schema (`PanelSchema`): Column mapping, for messages.

    Returns:
        `np.ndarray`, float64, shape `(rows,)`: NaN where the cell is missing; True is 1.

    Raises:
        PanelError: If a cell is neither a number, a truth value nor missing.
    """
    cells = frame[column]
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    if pd.api.types.is_bool_dtype(cells.dtype) or pd.api.types.is_numeric_dtype(cells.dtype):
        return cells.to_numpy(dtype=np.float64, na_value=np.nan)
    present = cells.notna().to_numpy()
    if pd.api.types.is_datetime64_any_dtype(cells.dtype) or pd.api.types.is_timedelta64_dtype(cells.dtype):
        values = np.full(len(cells), np.nan)
    else:
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    refuse_rows(
        frame,
        present & np.isnan(values),
        column,
        "a number is needed",
        "Write it as a plain number without units or thousands separators, or leave the cell empty.",
        schema,
    )
    return values


def read_timestamps(frame: pd.DataFrame, schema: PanelSchema) -> np.ndarray:
    """The timestamp column as naive UTC.

    Datetimes with an offset are converted to UTC. Integer periods count from the schema's `start`, which is the start
    of period 0, in steps of its `frequency`.

    Args:
        frame (`pd.DataFrame`): Table in panel names with a raw `timestamp` column.
        schema (`PanelSchema`): Column mapping, frequency and start.

    Returns:
        `np.ndarray`, datetime64[ns], shape `(rows,)`: Starts of periods.

    Raises:
        PanelError: If a date is missing or unreadable, naive and aware datetimes are mixed, or offsets differ.
    """
    cells = frame[names.TIMESTAMP]
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    if isinstance(cells.dtype, pd.PeriodDtype):
        cells = cells.dt.to_timestamp(how="start")
    if isinstance(cells.dtype, pd.DatetimeTZDtype):
        utc = cells.dt.tz_convert("UTC").dt.tz_localize(None)
        offsets = (cells.dt.tz_localize(None) - utc).dt.total_seconds().to_numpy() / 60
        return _finish(frame, utc.to_numpy(), offsets, cells.notna().to_numpy(), schema)
    if pd.api.types.is_datetime64_dtype(cells.dtype):
        return _finish(frame, cells.to_numpy(), np.full(len(cells), np.nan), np.zeros(len(cells), bool), schema)
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return _finish(
            frame, _read_periods(frame, schema), np.full(len(cells), np.nan), np.zeros(len(cells), bool), schema
        )
    codes, uniques = pd.factorize(cells)
    stamps, offsets = _parse_distinct(pd.Series(np.array([*list(uniques), None], dtype=object)[:-1], dtype=object))
    stamps, offsets = np.append(stamps, np.datetime64("NaT")), np.append(offsets, np.nan)  # code -1 = missing
    return _finish(frame, stamps[codes], offsets[codes], ~np.isnan(offsets[codes]), schema)


def _finish(
    frame: pd.DataFrame, stamps: np.ndarray, offsets: np.ndarray, aware: np.ndarray, schema: PanelSchema
) -> np.ndarray:
    seconds = stamps.astype("datetime64[s]")
    readable = ~np.isnat(seconds)
    readable &= (seconds >= EARLIEST) & (seconds < LATEST)
    refuse_rows(
        frame,
        ~readable,
        names.TIMESTAMP,
        "a date is needed",
        "Write it as YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS (ISO 8601).",
        schema,
    )
    if aware.any() and not aware.all():
        refuse_rows(
            frame,
            aware != aware[0],
            names.TIMESTAMP,
            f"row {frame.index[0]} {'has' if aware[0] else 'has no'} UTC offset and this one differs",
            "Give all datetimes an offset or none.",
            schema,
        )
    if aware.any() and (offsets != offsets[0]).any():
        position = int(np.flatnonzero(offsets != offsets[0])[0])
        raise PanelError(
            f"{locate_row(frame, position)}: {name_column(names.TIMESTAMP, schema)} has the UTC offset "
            f"{offsets[position] / 60:+g} h, row {frame.index[0]} has {offsets[0] / 60:+g} h; one panel has one "
            f"offset. Convert all to UTC, or drop the offset if the local date is what counts"
        )
    return seconds.astype("datetime64[ns]")


def _read_periods(frame: pd.DataFrame, schema: PanelSchema) -> np.ndarray:
    numbers = frame[names.TIMESTAMP].to_numpy(dtype=np.float64, na_value=np.nan)
    refuse_rows(
        frame, ~np.isfinite(numbers) | (numbers % 1 != 0), names.TIMESTAMP, "a date or a whole number is needed",
        "Write dates as YYYY-MM-DD.", schema,
    )  # fmt: skip
    if schema.frequency is None or schema.start is None:
        raise PanelError(
            f"{locate_row(frame, 0)}: {name_column(names.TIMESTAMP, schema)} is the whole number {numbers[0]:g}; "
            f"integer periods need `frequency` and `start` (the date on which period 0 starts) in the schema, or dates"
        )
    start = pd.to_datetime(schema.start, format="ISO8601", errors="coerce")
    if start is pd.NaT:
        raise PanelError(f"schema key start is {schema.start!r}; write the start of period 0 as YYYY-MM-DD")
    return Frequency.parse(schema.frequency).step(np.array(start.to_datetime64()), numbers.astype(np.int64))


def _parse_distinct(cells: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Distinct cells as naive UTC datetime64[s] (NaT = unreadable) and offsets in minutes (NaN = naive)."""
    stamps = np.full(len(cells), np.datetime64("NaT"), dtype="datetime64[s]")
    offsets = np.full(len(cells), np.nan)
    is_text = np.array([isinstance(cell, str) for cell in cells], dtype=bool)
    if is_text.any():
        texts = cells[is_text].str.strip()
        written = texts.str.extract(OFFSET, expand=False)
        offsets[is_text] = [np.nan if pd.isna(offset) else _minutes(offset) for offset in written]
        parsed = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
        stamps[is_text] = parsed.to_numpy().astype("datetime64[s]")
    for position in np.flatnonzero(~is_text):
        cell = cells.iloc[position]
        offset = cell.utcoffset() if isinstance(cell, dt.datetime) else None
        if offset is not None:
            offsets[position] = offset.total_seconds() / 60
            cell = cell.replace(tzinfo=None) - offset
        if isinstance(cell, dt.date | np.datetime64):  # a datetime is a date
            stamps[position] = np.asarray(cell, dtype="datetime64[s]")
    return stamps, offsets


def _minutes(offset: str) -> float:
    if offset == "Z":
        return 0.0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return (60 * int(digits[:2]) + int(digits[2:])) * (-1.0 if offset[0] == "-" else 1.0)
