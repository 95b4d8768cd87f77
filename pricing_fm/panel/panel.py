"""The panel: one long table of items and periods that has passed every check."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.schema import PanelSchema

MOST_SHOWN = 20  # categories of a message


@dataclass(frozen=True, eq=False)
class Panel:
    """Validated sales log of many items, one row per item and period of its life.

    Periods without a source row are filled in: units NaN or 0 as the schema says, the price carried over and marked
    `price_imputed`. Rows with a price and no units after the last observed period are known future. Built by
    `load_panel`; selections of a panel are panels.

    Args:
        frame (`pd.DataFrame`): Panel names, sorted by `item_id` and `timestamp`; text object or str, `timestamp`
            datetime64[ns] naive UTC, numbers float64 with NaN = missing, `price_imputed` bool.
        schema (`PanelSchema`): Column mapping and roles, resolved against the source.
        frequency (`Frequency`): Step between two periods.
        name (`str`): Name in result rows.
        evaluate_from (`pd.Timestamp`, *optional*): First period that may be scored; earlier rows are context only.
    """

    frame: pd.DataFrame
    schema: PanelSchema
    frequency: Frequency
    name: str
    evaluate_from: pd.Timestamp | None = None

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Items in sorted order."""
        return tuple(self.frame[names.ITEM_ID].unique())

    @property
    def categories(self) -> tuple[str, ...]:
        """Distinct categories in sorted order; empty when the panel has none."""
        if names.CATEGORY not in self.frame:
            return ()
        return tuple(sorted(self.frame[names.CATEGORY].dropna().unique()))

    @property
    def last_observed(self) -> pd.Timestamp:
        """Last period in which any item has units.

        Raises:
            PanelError: If no units are observed.
        """
        observed = self.frame.loc[self.frame[names.UNITS].notna(), names.TIMESTAMP]
        if observed.empty:
            raise PanelError(f"panel {self.name!r} has no observed units; there is no last observed period")
        return observed.max()

    def to_pandas(self) -> pd.DataFrame:
        """A copy of the table in panel names.

        Returns:
            `pd.DataFrame`: Sorted by item and time, filled periods included.
        """
        return self.frame.copy()

    def fingerprint(self) -> str:
        """SHA-256 of content, roles and frequency; the same for any row order of the source.

        Returns:
            `str`: `sha256:` and 64 hexadecimal digits.
        """
        schema = self.schema
        roles = [schema.promotions, schema.known_covariates, schema.past_covariates]
        roles += [schema.static_categories, schema.static_reals]
        digest = hashlib.sha256(repr((self.frequency.name, roles, sorted(self.frame.columns))).encode())
        for column in sorted(self.frame.columns):
            digest.update(_canonical_bytes(self.frame[column]))
        return f"sha256:{digest.hexdigest()}"

    def select_items(self, item_ids: Iterable[str]) -> "Panel":
        """Keeps some items with their whole history.

        Args:
            item_ids (`Iterable[str]`): Items to keep, in any order.

        Returns:
            `Panel`: Rows of these items.

        Raises:
            PanelError: If an item is not in the panel.
        """
        wanted = set(item_ids)
        unknown = sorted(wanted.difference(self.item_ids))
        if unknown:
            raise PanelError(f"panel {self.name!r} has no item {unknown[0]!r} ({len(unknown)} unknown); check the ids")
        return self._keep(self.frame[names.ITEM_ID].isin(wanted))

    def select_category(self, category: str) -> "Panel":
        """Keeps the items of one category.

        Args:
            category (`str`): Exact value in the data.

        Returns:
            `Panel`: Rows of this category.

        Raises:
            PanelError: If the panel has no categories or not this one.
        """
        if category not in self.categories:
            raise PanelError(
                f"panel {self.name!r} has no category {category!r}; {describe_categories(self.categories, [category])}"
            )
        return self._keep(self.frame[names.CATEGORY] == category)

    def before(self, timestamp: pd.Timestamp | str) -> "Panel":
        """Keeps the periods that start strictly before a moment.

        Args:
            timestamp (`pd.Timestamp` or `str`): Naive UTC moment.

        Returns:
            `Panel`: Earlier rows; items that start later are gone.
        """
        return self._keep(self.frame[names.TIMESTAMP] < pd.Timestamp(timestamp))

    def last_periods(self, n: int, end: pd.Timestamp | str | None = None) -> "Panel":
        """Keeps the last periods before a moment: all that is visible when only so much history may be used.

        Args:
            n (`int`): Periods to keep, 0 or more.
            end (`pd.Timestamp` or `str`, *optional*): First period that is out; by default the one after the last
                observed period.

        Returns:
            `Panel`: Rows with `end - n periods <= timestamp < end`.

        Raises:
            PanelError: If `n` is negative.
        """
        if n < 0:
            raise PanelError(f"the number of periods to keep is {n}; it must be 0 or more")
        stop = self.frequency.step(self.last_observed, 1) if end is None else pd.Timestamp(end)
        timestamps = self.frame[names.TIMESTAMP]
        return self._keep((timestamps >= self.frequency.step(stop, -n)) & (timestamps < stop))

    def _keep(self, rows: pd.Series) -> "Panel":
        return replace(self, frame=self.frame[rows.to_numpy(dtype=bool)].reset_index(drop=True))


def describe_categories(known: Sequence[str], unknown: Iterable[str]) -> str:
    """What there is instead of categories that are not there: those spelled nearly alike first.

    Args:
        known (`Sequence[str]`): Sorted.
        unknown (`Iterable[str]`): What was asked for.

    Returns:
        `str`: A clause that ends a message.
    """
    if not known:
        return "it has no categories (map one in the schema)"
    folded = {category.casefold(): category for category in known}
    close = [folded[name] for one in unknown for name in difflib.get_close_matches(one.casefold(), folded, n=2)]
    meant = f". Did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?" if close else ""
    shown = ", ".join(map(repr, known[:MOST_SHOWN]))
    more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
    return f"it has {shown}{more}{meant}"


def _canonical_bytes(column: pd.Series) -> bytes:
    if pd.api.types.is_datetime64_dtype(column.dtype):
        return column.to_numpy().astype("datetime64[s]").astype("<i8").tobytes()
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        values = column.to_numpy().astype("<f8") + 0.0  # -0.0 and 0.0 are one number
        values[np.isnan(values)] = np.nan  # every NaN has the same bits
        return values.tobytes()
    codes, uniques = pd.factorize(column)  # the frame is sorted, so codes do not depend on the source's row order
    return codes.astype("<i8").tobytes() + repr(list(map(str, uniques))).encode()
