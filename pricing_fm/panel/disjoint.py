"""Keeps what is held out of one panel out of all other sources: a product may bear another id, name or category there.

`split_by_category` looks at one panel. Between sources ids are written differently (`0001111009477`, `1111009477`,
`11110-09477`), one calls product what another keeps as an attribute, and the same log may come back with all its names
changed. Short codes (`12`, `p01`) are no evidence: every source counts its products from one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.panel import Panel
from pricing_fm.panel.schema import ITEM_ID_SEPARATOR
from pricing_fm.panel.splits import CategorySplit, check_spellings
from pricing_fm.panel.store import SeriesStore

SHORTEST_KEY = 8  # letters and digits that do not agree by chance
FEWEST_PERIODS = 8  # of a series that is known again by its numbers
FEWEST_VALUES = 4  # different sales; a series of zeros and ones is like many others
# Words in the names of further columns that name a product, where the schema keeps them as attributes.
TELLING = {"upc", "ean", "gtin", "sku", "barcode", "name", "description", "title"}


def check_items_apart(trained_on: Sequence[Panel], splits: Sequence[CategorySplit]) -> None:
    """Refuses products of held-out categories that are trained on under another category, id or name.

    Args:
        trained_on (`Sequence[Panel]`): What is left of every panel.
        splits (`Sequence[CategorySplit]`): Of the panels that something was taken out of.

    Raises:
        PanelError: Naming both products and both panels.
    """
    keys, held_out = _held_keys(splits), [split.held_out for split in splits]
    numbers = {key: (item, panel.name) for panel in held_out for key, item in _series_keys(panel).items()}
    for panel in trained_on:
        _refuse_shared(keys, _product_keys(panel, _telling_columns(panel)), panel.name, "they are written alike")
        _refuse_shared(numbers, _series_keys(panel), panel.name, "their periods, sales and prices are the same")


def check_stores_apart(stores: Iterable[SeriesStore], splits: Sequence[CategorySplit]) -> None:
    """The same for prepared series, by their products and categories.

    Args:
        stores (`Iterable[SeriesStore]`): What is trained or validated on.
        splits (`Sequence[CategorySplit]`): Of the panels that something was taken out of.

    Raises:
        PanelError: Naming both products or categories.
    """
    keys = _held_keys(splits)
    for store in stores:
        category, product = (
            store.static_categories[:, names.STATIC_CATEGORIES.index(column)]
            for column in (names.CATEGORY, names.PRODUCT_ID)
        )
        known = {value for value in category if value is not None}
        check_spellings(known, [one for split in splits for one in split.held_out.categories])
        _refuse_shared(keys, _keys_of([*product, *store.item_ids]), store.name, "they are written alike")


def _refuse_shared(held: dict[str, tuple[str, str]], trained: dict[str, str], panel: str, why: str) -> None:
    shared = sorted(held.keys() & trained.keys())
    if shared:
        shown, source = held[shared[0]]
        raise PanelError(
            f"{shown!r} of panel {source!r} is held out, yet {trained[shared[0]]!r} of {panel!r} is trained on: {why} "
            f"({len(shared)} such). Hold out its category there, too, or drop it; if they are different things, put "
            "something before the ids of one"
        )


def _held_keys(splits: Sequence[CategorySplit]) -> dict[str, tuple[str, str]]:
    """What is held out, and in which panel. Which columns tell a product is seen in the whole panel."""
    found = {}
    for split in splits:
        parts = [split.train.frame, split.held_out.frame]
        columns = _telling_columns(replace(split.train, frame=pd.concat(parts, ignore_index=True)))
        for key, shown in _product_keys(split.held_out, columns).items():
            found[key] = (shown, split.held_out.name)
    return found


def _telling_columns(panel: Panel) -> list[str]:
    """Attributes that name products: by the word, and one to one (a store's or a brand's name is not)."""
    found = []
    for column in panel.schema.static_categories:
        pairs = pd.DataFrame({"product": _products(panel), "value": panel.frame[column]}).dropna().drop_duplicates()
        is_unique = not pairs["product"].duplicated().any() and not pairs["value"].duplicated().any()
        if is_unique and TELLING & set(re.split(r"[^a-z0-9]+", column.lower())):
            found.append(column)
    return found


def _product_keys(panel: Panel, columns: Sequence[str]) -> dict[str, str]:
    """Products of a panel by what is left of their names without case, blanks, punctuation and leading zeros."""
    named = [_products(panel), *(panel.frame[column] for column in columns)]
    return _keys_of(value for column in named for value in column.dropna().unique())


def _products(panel: Panel) -> pd.Series:
    """Products of the rows; without a column for them, item ids without the parts that are places or categories."""
    if names.PRODUCT_ID in panel.frame:
        return panel.frame[names.PRODUCT_ID]
    columns, items = panel.schema.columns, panel.frame[names.ITEM_ID]
    places = {source for role in (names.LOCATION_ID, names.CATEGORY) for source in columns.get(role, ())}
    parts = columns[names.ITEM_ID]
    own = [place for place, source in enumerate(parts) if source not in places]
    if len(parts) == 1 or not own:
        return items
    told = {item: item.split(ITEM_ID_SEPARATOR) for item in items.unique()}
    return items.map({item: ITEM_ID_SEPARATOR.join(split[place] for place in own) for item, split in told.items()})


def _keys_of(values: Iterable[str | None]) -> dict[str, str]:
    found = {}
    for value in set(values) - {None}:
        key = "".join(character for character in str(value).casefold() if character.isalnum()).lstrip("0")
        if len(key) >= SHORTEST_KEY:
            found[key] = str(value)
    return found


def _series_keys(panel: Panel) -> dict[str, str]:
    """Items by a hash of their observed periods, units and prices."""
    rows = panel.frame.loc[panel.frame[names.UNITS].notna(), [names.ITEM_ID, names.TIMESTAMP, names.UNITS, names.PRICE]]
    hashes = pd.util.hash_pandas_object(rows[[names.TIMESTAMP, names.UNITS, names.PRICE]], index=False)
    by_item = rows.assign(key=hashes.to_numpy(dtype=np.uint64)).groupby(names.ITEM_ID)
    told = by_item.agg(key=("key", "sum"), periods=(names.UNITS, "size"), values=(names.UNITS, "nunique"))
    told = told[(told["periods"] >= FEWEST_PERIODS) & (told["values"] >= FEWEST_VALUES)]
    return {str(key): str(item) for item, key in told["key"].items()}
