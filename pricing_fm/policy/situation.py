"""What is known at the forecast origin: a panel's last weeks, and the plan for the periods to come."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMProcessor
from pricing_fm.names import CHANNEL_INDEX, COVARIATE_SLOTS, PROMOTION_SLOTS
from pricing_fm.panel import (
    Panel,
    RawWindows,
    SeriesStore,
    add_assortment_to_windows,
    build_store,
    concatenate_windows,
    origins_at,
    read_companion,
    read_windows,
)

UNITS, PRICE, LIST, COST = (CHANNEL_INDEX[name] for name in ("units", "price", "list_price", "cost"))
IMPUTED, INTERVENTION = CHANNEL_INDEX[names.PRICE_IMPUTED], CHANNEL_INDEX[names.PRICE_IS_INTERVENTION]
# Only known afterwards: sales, rivals' prices, visits, and whatever the schema declares as past covariates.
UNKNOWN_AHEAD = [
    CHANNEL_INDEX[name] for name in (names.UNITS, names.COMPETITOR_PRICE, names.TRAFFIC, *names.PAST_SLOTS)
]
FEWEST_OBSERVED = 2


@dataclass(frozen=True)
class Situation:
    """Items at the origin, sorted by `item_id`.

    Args:
        windows (`RawWindows`): Past as logged; the future holds the plan, NaN where nothing is planned.
        current_price (`np.ndarray`, shape `(items,)`): Last observed price; where there is none the list price, else
            the first planned price, currency; NaN where nothing is known.
        cost (`np.ndarray`, shape `(items,)`): Last known unit cost, currency; NaN = unknown.
        observed_periods (`np.ndarray`, shape `(items,)`, int64): Periods with units in the context.
        planned_promotion (`np.ndarray`, shape `(items, H)`): Largest planned promotion of each period, 0..1.
        siblings (`np.ndarray`, shape `(items, 20)`, *optional*): What the other items of the category say; None = they
            were not asked.
    """

    windows: RawWindows
    current_price: np.ndarray
    cost: np.ndarray
    observed_periods: np.ndarray
    planned_promotion: np.ndarray
    siblings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Items in order."""
        return self.windows.item_ids

    def select(self, rows: np.ndarray) -> "Situation":
        """Some of the items, in the given order; rows may repeat."""
        return Situation(
            self.windows.select(rows),
            self.current_price[rows],
            self.cost[rows],
            self.observed_periods[rows],
            self.planned_promotion[rows],
            None if self.siblings is None else self.siblings[rows],
        )


def read_situation(
    panel: Panel, context_length: int, prediction_length: int, future: pd.DataFrame | None = None
) -> Situation:
    """Reads every item's context up to the panel's last observed period, and the plan after it.

    Args:
        panel (`Panel`): The log. Rows after its last observed period count as plan.
        context_length (`int`): Past periods T.
        prediction_length (`int`): Periods ahead H.
        future (`pd.DataFrame`, *optional*): The plan, exactly the next H periods of every item. Without it: the panel's
            own future rows, then last price, no promotion, last list price.

    Returns:
        `Situation`.

    Raises:
        PanelError: If `prediction_length` is below one, or `future` lacks an item, a period or a planned column.
    """
    if prediction_length < 1:
        raise PanelError(f"prediction_length must be at least 1, found {prediction_length}")
    origin = panel.frequency.step(panel.last_observed, 1)
    windows = _windows_of_all_items(build_store(panel), origin, context_length, prediction_length)
    windows.future[..., UNKNOWN_AHEAD] = np.nan
    if future is not None:
        _write_plan(windows, _checked_plan(panel, windows, future), panel)
    listed = _last_known(panel, windows, names.LIST_PRICE, origin)
    listed = np.where(np.isfinite(listed), listed, _first_known(windows.future[..., LIST]))
    current = _last_known(panel, windows, names.PRICE, origin)
    current = np.where(np.isfinite(current), current, listed)
    current = np.where(np.isfinite(current), current, _first_known(windows.future[..., PRICE]))
    _fill_defaults(windows, current, listed, panel)
    windows = add_assortment_to_windows(windows)
    planned_cost = windows.future[:, 0, COST]
    cost = np.where(np.isfinite(planned_cost), planned_cost, _last_known(panel, windows, names.COST, origin))
    promotions = np.nan_to_num(windows.future[..., [CHANNEL_INDEX[name] for name in PROMOTION_SLOTS]]).max(-1)
    observed = np.isfinite(windows.past[..., UNITS]).sum(1)
    order = np.argsort(np.asarray(windows.item_ids, dtype=object), kind="stable")
    return Situation(windows, current, cost, observed, promotions).select(order)


def _windows_of_all_items(
    store: SeriesStore, origin: pd.Timestamp, context_length: int, prediction_length: int
) -> RawWindows:
    """One window per item; an item that only starts at the origin or later has an empty past."""
    items, origins = origins_at(store, origin)
    parts = []
    if len(items):
        parts.append(read_windows(store, items, origins, context_length, prediction_length))
    newcomers = np.setdiff1d(np.arange(len(store.item_ids)), items)
    if len(newcomers):
        start = np.zeros(len(newcomers), dtype=np.int64)
        windows = read_windows(store, newcomers, start, context_length, prediction_length)
        starts = store.frequency.locate(np.asarray(store.timestamps[store.offsets[newcomers]]))[0]
        now = np.asarray(origin.to_datetime64())
        plan = np.full_like(windows.future, np.nan)
        for row, wait in enumerate(starts - store.frequency.locate(now[None])[0]):
            plan[row, wait:] = windows.future[row, : max(prediction_length - wait, 0)]
        steps = np.arange(-context_length, prediction_length)
        stamps = np.repeat(store.frequency.step(now, steps)[None].astype("datetime64[s]"), len(newcomers), axis=0)
        past, future = stamps[:, :context_length], stamps[:, context_length:]
        parts.append(replace(windows, future=plan, past_timestamps=past, future_timestamps=future))
    windows = concatenate_windows(parts)
    return replace(windows, future=windows.future.copy())


def _first_known(values: np.ndarray) -> np.ndarray:
    """First finite value of each row: `(B, H)` float32 -> `(B,)` float64; NaN where there is none."""
    first = values[np.arange(len(values)), np.isfinite(values).argmax(1)]
    # By way of its shortest decimal text: a price must stay exact to the cent.
    return np.array([float(str(value)) if np.isfinite(value) else np.nan for value in first])


def _last_known(panel: Panel, windows: RawWindows, column: str, origin: pd.Timestamp) -> np.ndarray:
    """Last value of a column before the origin, per item `(B,)`; NaN where there is none.

    From the table, not from the float32 arrays: a price must stay exact to the cent.
    """
    if column not in panel.frame:
        return np.full(len(windows), np.nan)
    frame = panel.frame[(panel.frame[names.TIMESTAMP] < origin) & panel.frame[column].notna()]
    if column == names.PRICE:
        frame = frame[~frame[names.PRICE_IMPUTED]]
    last = frame.groupby(names.ITEM_ID)[column].last()
    return last.reindex(list(windows.item_ids)).to_numpy(dtype=np.float64)


def _fill_defaults(windows: RawWindows, current: np.ndarray, listed: np.ndarray, panel: Panel) -> None:
    """Last price, no promotion and last list price wherever the plan says nothing."""
    for channel, value in ((PRICE, current), (LIST, listed)):
        missing = ~np.isfinite(windows.future[..., channel])
        windows.future[..., channel] = np.where(missing, value[:, None], windows.future[..., channel])
    for slot in PROMOTION_SLOTS[: len(panel.schema.promotions)]:
        place = CHANNEL_INDEX[slot]
        windows.future[..., place] = np.nan_to_num(windows.future[..., place])


def _checked_plan(panel: Panel, windows: RawWindows, future: pd.DataFrame) -> pd.DataFrame:
    """The plan in panel names, indexed by item and period, with exactly the rows that are needed."""
    table = read_companion(panel, future)
    needed = [names.TIMESTAMP, names.PRICE, *panel.schema.promotions, *panel.schema.known_covariates]
    missing = [column for column in needed if column not in table]
    if missing:
        raise PanelError(f"future lacks the column(s) {missing}; it needs item_id and {needed}")
    steps = windows.future_timestamps
    expected = pd.MultiIndex.from_arrays(
        [np.repeat(np.asarray(windows.item_ids, dtype=object), steps.shape[1]), steps.astype("datetime64[ns]").ravel()]
    )
    found = pd.MultiIndex.from_arrays([table[names.ITEM_ID].astype(object), table[names.TIMESTAMP]])
    if found.has_duplicates:
        item, timestamp = found[found.duplicated()][0]
        raise PanelError(f"future has item {item!r} twice at {timestamp}; keep one row per item and period")
    absent, foreign = expected.difference(found), found.difference(expected)
    if len(absent) or len(foreign):
        side, (item, timestamp) = ("lacks", absent[0]) if len(absent) else ("also holds", foreign[0])
        raise PanelError(
            f"future {side} item {item!r} at {timestamp}; it must hold exactly the {steps.shape[1]} periods after "
            f"{panel.last_observed} of every item ({len(absent)} rows missing, {len(foreign)} too many)"
        )
    plan = table.set_index(found).loc[expected]
    unknown = plan[names.PRICE].isna().to_numpy()
    if unknown.any():
        item, timestamp = expected[int(unknown.argmax())]
        raise PanelError(f"future has no price for item {item!r} at {timestamp}; give the planned price")
    return plan


def _write_plan(windows: RawWindows, plan: pd.DataFrame, panel: Panel) -> None:
    schema, shape = panel.schema, windows.future.shape[:2]
    columns = {names.PRICE: names.PRICE}
    optional = (names.LIST_PRICE, names.COST, names.INVENTORY, names.PRICE_IS_INTERVENTION)
    columns |= {name: name for name in optional if name in plan}
    columns |= dict(zip(PROMOTION_SLOTS, schema.promotions, strict=False))
    columns |= dict(zip(COVARIATE_SLOTS, schema.known_covariates, strict=False))
    for slot, column in columns.items():
        windows.future[..., CHANNEL_INDEX[slot]] = plan[column].to_numpy(dtype=np.float64).reshape(shape)
    windows.future[..., IMPUTED] = 0.0


def with_siblings(situation: Situation, processor: PricingFMProcessor) -> Situation:
    """The same items, each with what the other items of its category say of its price response."""
    category = situation.windows.static_categories[:, names.STATIC_CATEGORIES.index(names.CATEGORY)]
    return replace(situation, siblings=processor.read_siblings(situation.windows, pd.factorize(category)[0]))


def with_intervention(situation: Situation, is_intervention: bool | None) -> Situation:
    """The same items with the plan marked as an intervention (a price we set), as the manager's own, or as it says."""
    future = situation.windows.future.copy()
    told = np.nan_to_num(future[..., INTERVENTION])
    future[..., INTERVENTION] = told if is_intervention is None else float(is_intervention)
    return replace(situation, windows=replace(situation.windows, future=future))
