"""What a table must fulfil to become a panel, and what only looks like a mistake."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError, PanelWarning
from pricing_fm.panel.frequency import Frequency, find_foreign_steps, infer_frequency
from pricing_fm.panel.refusal import locate_row, name_column, refuse_rows, render_value
from pricing_fm.panel.schema import FLAG_COLUMNS, PanelSchema

POSITIVE_COLUMNS = (names.LIST_PRICE, names.COMPETITOR_PRICE)
NON_NEGATIVE_COLUMNS = (names.COST, names.INVENTORY, names.TRAFFIC)
PRICE_JUMP = 50.0  # a factor of 100 is currency units against cents
TRAFFIC_CORRELATION = 0.95  # above it, "traffic" counts buyers rather than visitors


def check_values(frame: pd.DataFrame, schema: PanelSchema, today: pd.Timestamp) -> None:
    """Refuses cells outside the range of their column.

    Args:
        frame (`pd.DataFrame`): Typed table in panel names, source order.
        schema (`PanelSchema`): Column mapping and roles.
        today (`pd.Timestamp`): Date after which units cannot have been sold.

    Raises:
        PanelError: For the first row that breaks the contract.
    """
    units, price = frame[names.UNITS].to_numpy(), frame[names.PRICE].to_numpy()
    sold = ~np.isnan(units)
    checks = [
        (np.isinf(units), names.UNITS, "units must be finite", "Correct it or leave the cell empty."),
        (units < 0, names.UNITS, "units must not be negative", "Net the returns against sales or drop the row."),
        (np.isinf(price), names.PRICE, "prices must be finite", "Correct it or drop the row."),
        (price <= 0, names.PRICE, "prices must be positive", "Drop the row or fix the sign."),
        (
            np.isnan(price) & sold,
            names.PRICE,
            "a price may be missing only where units are",
            "Fill in the price charged or drop the row.",
        ),
        (
            sold & (frame[names.TIMESTAMP] > today).to_numpy(),
            names.TIMESTAMP,
            f"units cannot be sold after today ({today.date()})",
            "Correct the date, or leave units empty where the row is a plan.",
        ),
    ]
    for bad, column, expected, action in checks:
        refuse_rows(frame, bad, column, expected, action, schema)
    check_optional_values(frame, schema)


def check_optional_values(frame: pd.DataFrame, schema: PanelSchema) -> None:
    """Refuses cells of optional columns outside their range; columns that are absent are not looked for.

    Args:
        frame (`pd.DataFrame`): Typed table in panel names, source order.
        schema (`PanelSchema`): Column mapping and roles.

    Raises:
        PanelError: For the first row that breaks the contract.
    """
    fix = "Correct it or leave the cell empty."
    for column in (*POSITIVE_COLUMNS, *NON_NEGATIVE_COLUMNS, *schema.promotions, *FLAG_COLUMNS):
        if column not in frame:
            continue
        values = frame[column].to_numpy()
        if column in POSITIVE_COLUMNS:
            refuse_rows(frame, (values <= 0) | np.isinf(values), column, "it must be positive and finite", fix, schema)
        elif column in NON_NEGATIVE_COLUMNS:
            refuse_rows(frame, (values < 0) | np.isinf(values), column, "it must be finite and 0 or more", fix, schema)
        elif column in FLAG_COLUMNS:
            bad = ~np.isnan(values) & (values != 0) & (values != 1)
            refuse_rows(frame, bad, column, "it must be true or false", fix, schema)
        else:
            refuse_rows(frame, (values < 0) | (values > 1), column, "promotions lie in 0..1", fix, schema)
    for column in (*schema.known_covariates, *schema.past_covariates, *schema.static_reals):
        if column in frame:
            infinite = np.isinf(frame[column].to_numpy())
            refuse_rows(frame, infinite, column, "numbers must be finite", fix, schema)


def check_duplicates(frame: pd.DataFrame, items: np.ndarray, schema: PanelSchema) -> None:
    """Refuses two rows of one item and period.

    Args:
        frame (`pd.DataFrame`): Table sorted by item and time; index = 0-based source rows.
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers.
        schema (`PanelSchema`): Column mapping, for the message.

    Raises:
        PanelError: If an (item, timestamp) occurs twice.
    """
    stamps, rows = frame[names.TIMESTAMP].to_numpy(), frame.index.to_numpy()
    same = np.flatnonzero((items[1:] == items[:-1]) & (stamps[1:] == stamps[:-1])) + 1
    if same.size:
        position = same[rows[same].argmin()]
        raise PanelError(
            f"{locate_row(frame, position)}: {name_column(names.TIMESTAMP, schema)} is "
            f"{render_value(frame[names.TIMESTAMP].iloc[position])} a second time (first in row {rows[position - 1]}); "
            f"one item has one row per period. Sum the units or drop one row. ({same.size} such pairs.)"
        )


def check_frequency(frame: pd.DataFrame, items: np.ndarray, schema: PanelSchema) -> Frequency:
    """Reads or checks the step between periods; gaps of whole multiples are fine.

    A declared frequency settles what a longer common step means (absent rows); an inferred one does not, so items or
    stretches with another common step are refused.

    Args:
        frame (`pd.DataFrame`): Table sorted by item and time, without duplicates; index = 0-based source rows.
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers.
        schema (`PanelSchema`): May declare the frequency.

    Returns:
        `Frequency`: The panel's step.

    Raises:
        PanelError: If a row lies off the grid, or an item or stretch has another step.
    """
    stamps = frame[names.TIMESTAMP].to_numpy()
    frequency = Frequency.parse(schema.frequency) if schema.frequency else infer_frequency(items, stamps)
    check_days(frame, frequency, schema)
    numbers, phases = frequency.locate(stamps)
    usual, counts = np.unique(phases, return_counts=True)
    check_grid(frame, phases, usual[counts.argmax()], frequency, schema)
    if schema.frequency is None:
        refuse_long_steps(frame[find_foreign_steps(items, numbers)], frequency, schema)
    return frequency


def check_days(frame: pd.DataFrame, frequency: Frequency, schema: PanelSchema) -> None:
    """Refuses days of the month that not every month has.

    Args:
        frame (`pd.DataFrame`): Table; index = 0-based source rows.
        frequency (`Frequency`): The panel's step.
        schema (`PanelSchema`): Column mapping, for the message.

    Raises:
        PanelError: If a row of a monthly panel is named by a day above 28.
    """
    if frequency.months and (frame[names.TIMESTAMP].dt.day > 28).any():
        late = (frame[names.TIMESTAMP].dt.day > 28).to_numpy()
        action = "Use the first day of the period."
        refuse_rows(frame, late, names.TIMESTAMP, "months are named by a day up to 28", action, schema)


def check_grid(frame: pd.DataFrame, phases: np.ndarray, usual: int, frequency: Frequency, schema: PanelSchema) -> None:
    """Refuses rows that do not start where the panel's periods start.

    Args:
        frame (`pd.DataFrame`): Table; index = 0-based source rows.
        phases (`np.ndarray`, int64, shape `(rows,)`): Phase of each row, from `Frequency.locate`.
        usual (`int`): The panel's phase.
        frequency (`Frequency`): The panel's step.
        schema (`PanelSchema`): Column mapping, for the message.

    Raises:
        PanelError: If a row has another phase.
    """
    refuse_rows(
        frame,
        phases != usual,
        names.TIMESTAMP,
        f"it lies off the panel's grid: the {'declared' if schema.frequency else 'most common'} step is "
        f"{frequency.name!r}, and one panel has one frequency and one start of the period",
        "Aggregate all items to the same periods.",
        schema,
    )


def refuse_long_steps(frame: pd.DataFrame, frequency: Frequency, schema: PanelSchema) -> None:
    """Refuses stretches with another step than the panel's.

    Args:
        frame (`pd.DataFrame`): The rows that open such a stretch; index = 0-based source rows.
        frequency (`Frequency`): The panel's step.
        schema (`PanelSchema`): Column mapping, for the message.

    Raises:
        PanelError: If there is such a row.
    """
    refuse_rows(
        frame,
        np.ones(len(frame), dtype=bool),
        names.TIMESTAMP,
        f"from here on the rows of this item are several periods apart again and again, while the panel's most "
        f"common step is {frequency.name!r}; one panel has one frequency",
        f"Aggregate to the same periods, or declare `frequency: {frequency.name}` if rows are just absent.",
        schema,
    )


def check_constants(frame: pd.DataFrame, items: np.ndarray, schema: PanelSchema) -> pd.DataFrame:
    """Refuses items whose fixed attributes change, and spreads a value given in some rows over the whole item.

    Args:
        frame (`pd.DataFrame`): Table sorted by item and time; index = 0-based source rows.
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers from 0.
        schema (`PanelSchema`): Tells which columns are constant.

    Returns:
        `pd.DataFrame`: Same rows; constant columns are equal within an item.

    Raises:
        PanelError: If an item has two values of a constant column, for example two categories.
    """
    frame = frame.copy(deep=False)
    for column in schema.constant_columns:
        codes, uniques = pd.factorize(frame[column])
        first = np.full(items[-1] + 1, -1, dtype=np.int64)
        given = np.flatnonzero(codes >= 0)[::-1]
        first[items[given]] = codes[given]  # reversed, so that the earliest row of an item is written last
        differs = (codes >= 0) & (codes != first[items])
        if differs.any():
            value = uniques[first[items[np.flatnonzero(differs)[0]]]]
            refuse_rows(
                frame, differs, column, f"the item has {render_value(value)} in another row, and {column} is constant "
                f"in an item", "Correct the value, or split it into two items.", schema,
            )  # fmt: skip
        given_values = list(uniques)
        if column in schema.static_reals:
            frame[column] = np.array([*given_values, np.nan], dtype=np.float64)[first[items]]  # code -1 = never given
        else:
            frame[column] = np.array([*given_values, None], dtype=object)[first[items]]
    return frame


def check_history(frame: pd.DataFrame, items: np.ndarray) -> None:
    """Refuses a panel nobody could learn from, and warns of items with fewer than two observed periods.

    Args:
        frame (`pd.DataFrame`): Table sorted by item and time.
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers from 0.

    Raises:
        PanelError: If no item has two periods with units.
    """
    observed = np.bincount(items, weights=frame[names.UNITS].notna().to_numpy(), minlength=items[-1] + 1)
    item_ids = frame[names.ITEM_ID].to_numpy()[np.searchsorted(items, np.arange(items[-1] + 1))]
    if message := check_observed_periods(observed, item_ids):
        warn(message)


def check_observed_periods(observed: np.ndarray, item_ids: Sequence[str] | np.ndarray) -> str | None:
    """Refuses a panel nobody could learn from.

    Args:
        observed (`np.ndarray`, shape `(items,)`): Periods with units of each item.
        item_ids (`Sequence[str]`): Items in the same order.

    Returns:
        `str` or None: What to warn of: items with fewer than two observed periods.

    Raises:
        PanelError: If no item has two periods with units.
    """
    if observed.max() < 2:
        raise PanelError("no item has two observed periods; a panel needs at least two periods of units for some item")
    short = np.flatnonzero(observed < 2)
    if not short.size:
        return None
    shown = ", ".join(repr(item_ids[item]) for item in short[:3].tolist())
    return (
        f"{short.size} of {len(observed)} items have fewer than two observed periods (for example {shown}); they are "
        f"kept and get the flagged fallback"
    )


def warn_of_likely_mistakes(frame: pd.DataFrame, items: np.ndarray, schema: PanelSchema) -> None:
    """Warns of price jumps of 50x and of a traffic column that counts buyers.

    Args:
        frame (`pd.DataFrame`): Table sorted by item and time; index = 0-based source rows.
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers.
        schema (`PanelSchema`): Column mapping, for the message.
    """
    for describe in (describe_price_jumps, describe_traffic):
        if message := describe(frame, items, schema):
            warn(message)


def describe_price_jumps(frame: pd.DataFrame, items: np.ndarray, schema: PanelSchema) -> str | None:
    """What to warn of when a price changes by a factor of 50; arguments as in `warn_of_likely_mistakes`."""
    priced = np.flatnonzero(frame[names.PRICE].notna().to_numpy())
    logs = np.log(frame[names.PRICE].to_numpy()[priced])
    # The tolerance keeps a jump of exactly 50x a jump after rounding of the logarithm.
    jump = (np.abs(np.diff(logs)) >= np.log(PRICE_JUMP) - 1e-9) & (np.diff(items[priced]) == 0)
    if not jump.any():
        return None
    before, after = priced[np.flatnonzero(jump)[0]], priced[np.flatnonzero(jump)[0] + 1]
    prices = frame[names.PRICE].to_numpy()
    return (
        f"{locate_row(frame, after)}: {name_column(names.PRICE, schema)} jumps from {prices[before]:g} to "
        f"{prices[after]:g}; a factor of {PRICE_JUMP:g} or more looks like currency units against cents. "
        f"({int(jump.sum())} such jumps.)"
    )


def describe_traffic(frame: pd.DataFrame, items: np.ndarray, schema: PanelSchema) -> str | None:
    """What to warn of when traffic seems to count buyers; arguments as in `warn_of_likely_mistakes`."""
    if names.TRAFFIC not in frame:
        return None
    traffic, units = frame[names.TRAFFIC].to_numpy(), frame[names.UNITS].to_numpy()
    both = (traffic > 0) & (units > 0)
    log_traffic, log_units = np.log(traffic[both]), np.log(units[both])
    if both.sum() <= 2 or not log_traffic.std() > 0 or not log_units.std() > 0:
        return None
    correlation = np.corrcoef(log_traffic, log_units)[0, 1]
    if correlation <= TRAFFIC_CORRELATION:
        return None
    return (
        f"{name_column(names.TRAFFIC, schema)} tracks units (log correlation {correlation:.3f}): it seems "
        f"to count buyers. Traffic counts visits or offers, bought or not; otherwise drop the column"
    )


def warn(message: str) -> None:
    """Issues a `PanelWarning` at the caller of `load_panel`.

    Args:
        message (`str`): What was found and why it looks wrong.
    """
    warnings.warn(message, PanelWarning, stacklevel=4)
