"""Gives every item one row per period of its life: absent rows are filled in, their price is carried and flagged."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.schema import PanelSchema

# A mistyped year can turn one row into millions of filled periods.
MAX_FILLED_ROWS = 20_000_000
MAX_FILLED_SHARE = 50


@dataclass(frozen=True)
class Lives:
    """Where source rows lie in the filled table.

    Args:
        position (`np.ndarray`, int64, shape `(source rows,)`): Filled row of each source row.
        items (`np.ndarray`, int64, shape `(filled rows,)`): Item number of each filled row.
        numbers (`np.ndarray`, int64, shape `(filled rows,)`): Period number of each filled row.
    """

    position: np.ndarray
    items: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class WholePanel:
    """What filling a part of a panel, some of its items, has to know of the rest.

    Args:
        last_observed (`int`): Number of the last period in which any item has units.
        modal_prices (`pd.Series`): Most frequent price by (`product_id`, number of the period), for every product of
            the part that is sold at several places; ties go to the lower price.
    """

    last_observed: int
    modal_prices: pd.Series


def complete_lives(
    frame: pd.DataFrame,
    items: np.ndarray,
    frequency: Frequency,
    schema: PanelSchema,
    whole: WholePanel | None = None,
) -> pd.DataFrame:
    """Fills the periods between an item's first and last row.

    Units of a filled period are missing, or zero when the schema says that absent rows mean no sales and the period is
    not after the last observed one. Its price is the modal price of the same product in that period at other locations,
    else the item's last price, and `price_imputed` is True. Everything else that may vary stays missing.

    Args:
        frame (`pd.DataFrame`): Checked table sorted by item and time.
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers from 0, sorted.
        frequency (`Frequency`): Step between periods.
        schema (`PanelSchema`): Column mapping, roles and the meaning of absent rows.
        whole (`WholePanel`, *optional*): The panel that the table is a part of; None = the table is all of it.

    Returns:
        `pd.DataFrame`: One row per item and period, sorted, with the column `price_imputed` (bool).

    Raises:
        PanelError: If nearly everything would be filled in.
    """
    stamps = frame[names.TIMESTAMP].to_numpy()
    numbers, _ = frequency.locate(stamps)
    lives = _lay_out(items, numbers)
    first_rows = np.searchsorted(items, np.arange(items[-1] + 1))
    steps = lives.numbers - numbers[first_rows][lives.items]
    filled = np.ones(len(lives.items), dtype=bool)
    filled[lives.position] = False

    columns: dict[str, np.ndarray] = {names.ITEM_ID: frame[names.ITEM_ID].to_numpy()[first_rows][lives.items]}
    columns[names.TIMESTAMP] = frequency.step(stamps[first_rows][lives.items], steps).astype("datetime64[ns]")
    for column in frame.columns:
        if column in columns:
            continue
        values = frame[column].to_numpy()
        if column in schema.constant_columns:
            columns[column] = values[first_rows][lives.items]
        elif column in schema.string_columns:
            # Groups and zones may change over time: a filled period keeps the last one.
            columns[column] = values[_last_source_row(lives.position, len(filled))]
        else:
            columns[column] = np.full(len(filled), np.nan)
            columns[column][lives.position] = values
    if schema.absent_rows == "zero":
        observed = np.flatnonzero(~np.isnan(columns[names.UNITS]))
        last_observed = lives.numbers[observed].max() if observed.size else lives.numbers.min() - 1
        last_observed = last_observed if whole is None else whole.last_observed
        columns[names.UNITS][filled & (lives.numbers <= last_observed)] = 0.0
    _carry_prices(columns, lives, filled, whole)
    return pd.DataFrame({column: columns[column] for column in order_columns(columns, schema)})


def order_columns(columns: dict[str, np.ndarray], schema: PanelSchema) -> list[str]:
    """Canonical order of panel columns, so that the table does not depend on the source's column order.

    Args:
        columns (`dict[str, np.ndarray]`): Columns that exist.
        schema (`PanelSchema`): Roles.

    Returns:
        `list[str]`: Every column once.
    """
    flags = (names.PRICE_IMPUTED, names.PRICE_IS_INTERVENTION)
    order = (names.ITEM_ID, names.TIMESTAMP, *schema.number_columns, *schema.string_columns, *flags)
    return [column for column in order if column in columns]


def _lay_out(items: np.ndarray, numbers: np.ndarray) -> Lives:
    starts = np.searchsorted(items, np.arange(items[-1] + 1))
    ends = np.r_[starts[1:], len(items)] - 1
    lengths = numbers[ends] - numbers[starts] + 1
    total = int(lengths.sum())
    if total > MAX_FILLED_ROWS and total > MAX_FILLED_SHARE * len(items):
        raise PanelError(
            f"the items' lives span {total} periods but only {len(items)} have rows; look for a mistyped date, "
            f"or choose a longer frequency"
        )
    offsets = np.r_[0, np.cumsum(lengths)]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(total) - offsets[owner]
    position = offsets[items] + numbers - numbers[starts][items]
    return Lives(position=position, items=owner, numbers=numbers[starts][owner] + within)


def _last_source_row(position: np.ndarray, length: int) -> np.ndarray:
    source = np.zeros(length, dtype=np.int64)
    source[position] = np.arange(len(position))
    return np.maximum.accumulate(source)  # sorted by item and time, and every item starts with a source row


def _carry_prices(columns: dict[str, np.ndarray], lives: Lives, filled: np.ndarray, whole: WholePanel | None) -> None:
    price = columns[names.PRICE]
    own = ~np.isnan(price)
    # Rows after an item's last known period are no plan without a price, so nothing is carried there.
    known = np.flatnonzero(own | ~np.isnan(columns[names.UNITS]) | filled)
    last_known = np.full(lives.items[-1] + 1, -1, dtype=np.int64)
    last_known[lives.items[known]] = known
    row = np.arange(len(price))
    wanted = ~own & (row <= last_known[lives.items])
    last_price = np.maximum.accumulate(np.where(own, row, -1))
    reachable = wanted & (last_price >= 0)
    reachable[reachable] = lives.items[last_price[reachable]] == lives.items[reachable]
    carried = price.copy()
    carried[reachable] = price[last_price[reachable]]
    if names.PRODUCT_ID in columns and wanted.any():
        products = columns[names.PRODUCT_ID]
        if whole is None:
            modal = _modal_prices(products, lives.numbers, price, wanted)
        else:
            keys = pd.MultiIndex.from_arrays([products[wanted], lives.numbers[wanted]])
            modal = whole.modal_prices.reindex(keys).to_numpy()
        carried[wanted] = np.where(np.isnan(modal), carried[wanted], modal)
    columns[names.PRICE] = carried
    before = columns.get(names.PRICE_IMPUTED)
    already = np.zeros(len(price), dtype=bool) if before is None else before == 1.0
    columns[names.PRICE_IMPUTED] = (wanted & ~np.isnan(carried)) | already


def _modal_prices(products: np.ndarray, numbers: np.ndarray, price: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Most frequent price of the product in the period, for the wanted rows; NaN where no location has one."""
    codes, _ = pd.factorize(products)
    span = int(numbers.max() - numbers.min()) + 1
    keys = np.where(codes < 0, -1, codes.astype(np.int64) * span + numbers - numbers.min())
    needed = np.unique(keys[wanted & (codes >= 0)])
    donors = ~np.isnan(price) & np.isin(keys, needed)
    counts = pd.DataFrame({"key": keys[donors], "price": price[donors]}).value_counts(sort=False).reset_index(name="n")
    # Ties go to the lower price.
    modal = counts.sort_values(["key", "n", "price"], ascending=[True, False, True]).drop_duplicates("key")
    found = pd.Series(modal["price"].to_numpy(), index=modal["key"].to_numpy())
    return found.reindex(keys[wanted]).to_numpy()
