"""The weeks of a panel on which policies are valued: what was charged, sold, in stock and decided, item by item."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.evaluation.off_policy import DecisionLog, read_decisions
from pricing_fm.evaluation.off_policy.decision_log import Reference, find_recent_high
from pricing_fm.evaluation.panel_value.arguments import ValueArguments
from pricing_fm.panel import Panel

_ROUNDING = 1e-6  # units: what floating point leaves of a whole number
_OUTLYING = 0.005  # share of prices at either end that need no rung of their own
_THIRDS = ("low", "middle", "high")


@dataclass(frozen=True)
class ValuedWeeks:
    """N items over W periods; arrays `(N, W)` unless said otherwise.

    Attributes:
        panel: The whole panel.
        decisions: Decisions of these items, from `history_periods` before the first valued period on.
        first: Column of `decisions` that is the first valued period.
        units: Sold, NaN = not recorded.
        recorded_prices: Charged, currency per unit, NaN where no row was recorded.
        prices: The same with the price carried over where none was recorded.
        flags: Promotion columns as the panel has them, `(N, W, columns)`.
        stock: Units at the start of the period, NaN = not recorded; infinite where no item has a record.
        replayed_stock: The same for a replay, which needs a number: where none was recorded the last known one, or what
            was sold if that is more; infinite before an item's first record.
        regular_prices: Reference price at the first valued period, currency, `(N,)`.
        costs: Logged unit costs, currency, carried over where missing; None = the panel has none.
        clusters: Decision unit (product x price zone) of each item, int codes, `(N,)`.
        categories, segments: Labels, `(N,)`.
        segment_name: What the segments are.
        locations: Where an item is sold, labels, `(N,)`; all the same where the panel names no places.
        log_memory: Log of the price that customers remember before the first valued period, `(N,)`.
        chain_wide: Share of the variation of prices that all items of a product share; NaN where no price moved.
        num_left_out: Items of the panel that are not valued.
        revenue_share: Share of the revenue of the valued periods that the N items make.
        notes: What a reader has to know of these data.
    """

    panel: Panel
    decisions: DecisionLog
    first: int
    units: np.ndarray
    recorded_prices: np.ndarray
    prices: np.ndarray
    flags: np.ndarray
    stock: np.ndarray
    replayed_stock: np.ndarray
    regular_prices: np.ndarray
    costs: np.ndarray | None
    clusters: np.ndarray
    categories: np.ndarray
    segments: np.ndarray
    segment_name: str
    locations: np.ndarray
    log_memory: np.ndarray
    chain_wide: float
    num_left_out: int
    revenue_share: float
    notes: tuple[str, ...]

    @property
    def item_ids(self) -> np.ndarray:
        """Items in sorted order, `(N,)`."""
        return self.decisions.item_ids

    @property
    def timestamps(self) -> np.ndarray:
        """Valued periods, datetime64, `(W,)`."""
        return self.decisions.timestamps[self.first :]

    @property
    def has_stock(self) -> bool:
        """Whether the panel says what could be sold."""
        return bool(np.isfinite(self.stock).any())

    @property
    def promoted(self) -> np.ndarray:
        """1 = some promotion, else 0."""
        return self.decisions.promoted[:, self.first :]


def read_valued_weeks(panel: Panel, origin: pd.Timestamp, arguments: ValueArguments) -> ValuedWeeks:
    """Cut the valued weeks out of a panel.

    An item is valued if it is recorded in enough of the valued periods, and has a price and a reference price before
    the first of them; the others are counted.

    Args:
        panel: The panel.
        origin: First valued period.
        arguments: Settings.

    Returns:
        The weeks.

    Raises:
        PanelError: If there is no history, the segment column is missing, fewer than two items are left, or units are
            not whole or exceed the stock.
    """
    cut, periods = _cut_panel(panel, origin, arguments)
    reference: Reference = "list_price" if names.LIST_PRICE in cut.frame else "recent_high"
    table = _Cells(cut)
    first = len(table.timestamps) - periods
    if first < 2:
        raise PanelError(f"{first} period(s) lie before {origin}; policies and habits need two at least")
    recorded = np.where(table.read(names.PRICE_IMPUTED) == 1.0, np.nan, table.read(names.PRICE))
    references = table.read(names.LIST_PRICE) if reference == "list_price" else find_recent_high(recorded)
    decisions = read_decisions(cut, build_ladder(recorded / references, arguments.price_ladder_step), reference)
    segments, segment_name = _read_segments(cut, table.item_ids, arguments.value_segment)
    valued = slice(first, None)
    costs = _carry(table.read(names.COST))[:, valued] if names.COST in cut.frame else None
    regular = _carry(references)[:, first]
    usual = np.nanmedian(recorded[:, :first], axis=1)
    units, stock = table.read(names.UNITS), _read_stock(table)
    replayed = _carry_stock(stock, units)
    _check_counts(table, units, stock, replayed, first)
    sold = panel.frame[panel.frame[names.TIMESTAMP] >= origin]
    revenue, is_valued = sold[names.UNITS] * sold[names.PRICE], sold[names.ITEM_ID].isin(table.item_ids)
    return ValuedWeeks(
        panel=panel,
        decisions=decisions,
        first=first,
        units=np.round(units[:, valued]),
        recorded_prices=recorded[:, valued],
        prices=_carry(recorded)[:, valued],
        flags=_read_flags(table, cut.schema.promotions)[:, valued],
        stock=np.round(stock[:, valued]),
        replayed_stock=np.round(replayed[:, valued]),
        regular_prices=np.where(np.isfinite(regular), regular, usual),
        costs=costs,
        clusters=_read_clusters(cut, decisions),
        categories=np.asarray(decisions.categories).astype(str),
        segments=segments,
        segment_name=segment_name,
        locations=_read_locations(cut, table.item_ids),
        log_memory=_remember(recorded[:, :first], arguments.price_persistence),
        chain_wide=_measure_chain_wide(recorded, np.asarray(decisions.products)),
        num_left_out=len(panel.item_ids) - len(table.item_ids),
        revenue_share=float(np.nansum(revenue[is_valued]) / np.nansum(revenue)),
        notes=(*_describe_data(cut, reference, decisions), *_describe_stock(stock[:, valued], replayed[:, valued])),
    )


def _cut_panel(panel: Panel, origin: pd.Timestamp, arguments: ValueArguments) -> tuple[Panel, int]:
    """The usable items with history and valued periods, and the number of the latter."""
    ends = np.array([panel.last_observed, origin], dtype="datetime64[ns]")
    last, first = panel.frequency.locate(ends)[0].tolist()
    periods = last - first + 1
    if periods < 2:
        raise PanelError(f"{origin} leaves {periods} period(s) to value policies on; it takes two at least")
    cut = panel.last_periods(arguments.history_periods + periods)
    return _keep_usable_items(cut, origin, periods, arguments.least_recorded), periods


def build_ladder(ratios: np.ndarray, step: float) -> np.ndarray:
    """Rungs, a step apart by the logarithm with one at 1, that hold the prices of a log but for outliers.

    Args:
        ratios: Prices over reference prices, NaN = unknown.
        step: Log distance of two rungs.

    Returns:
        Multiples of the reference price, increasing; three at least.

    Raises:
        PanelError: If no ratio is known.
    """
    known = np.log(ratios[np.isfinite(ratios)])
    if not len(known):
        raise PanelError("no price has a reference price; map list_price or give a longer history")
    low, high = np.quantile(known, [_OUTLYING, 1.0 - _OUTLYING]) / step
    return np.exp(step * np.arange(min(int(np.floor(low)), -1), max(int(np.ceil(high)), 1) + 1))


class _Cells:
    """A panel's columns as rectangles of items and periods, rows and columns as in `read_decisions`."""

    def __init__(self, panel: Panel) -> None:
        frame = panel.frame
        self._columns = frame.columns
        self._frame = frame.set_index([names.ITEM_ID, names.TIMESTAMP])
        self.item_ids = np.asarray(sorted(frame[names.ITEM_ID].unique()), dtype=object)
        self.timestamps = np.sort(frame[names.TIMESTAMP].unique())

    def read(self, column: str) -> np.ndarray:
        """`(items, periods)` float64, NaN where there is no row or no such column."""
        if column not in self._columns:
            return np.full((len(self.item_ids), len(self.timestamps)), np.nan)
        table = self._frame[column].astype(float).unstack().reindex(index=self.item_ids, columns=self.timestamps)
        return table.to_numpy(dtype=np.float64)


def _keep_usable_items(panel: Panel, origin: pd.Timestamp, periods: int, least_recorded: float) -> Panel:
    frame = panel.frame
    recorded = frame[names.UNITS].notna() & frame[names.PRICE].notna() & ~frame[names.PRICE_IMPUTED].astype(bool)
    if names.LIST_PRICE in frame:
        recorded &= frame[names.LIST_PRICE].notna()
    during = recorded & (frame[names.TIMESTAMP] >= origin)
    before = recorded & (frame[names.TIMESTAMP] < origin)
    items = frame[names.ITEM_ID]
    counts = pd.DataFrame({"during": during.groupby(items).sum(), "before": before.groupby(items).sum()})
    sold = frame[names.UNITS].where(during).groupby(items).sum()
    usable = (counts["during"] >= max(least_recorded * periods, 1.0)) & (counts["before"] >= 2) & (sold > 0)
    chosen = list(counts.index[usable])
    if len(chosen) < 2:
        raise PanelError(
            f"{len(chosen)} items are recorded in {least_recorded:.0%} of the {periods} periods from {origin} on and in"
            " two before; policies need two items at least. Lower --least_recorded or choose a later origin"
        )
    return panel.select_items(chosen)


def _read_flags(table: _Cells, columns: tuple[str, ...]) -> np.ndarray:
    """Promotions, 0 where none is recorded, `(items, periods, columns)`."""
    flags = np.zeros((len(table.item_ids), len(table.timestamps), len(columns)))
    for place, column in enumerate(columns):
        flags[..., place] = np.nan_to_num(table.read(column))
    return flags


def _read_stock(table: _Cells) -> np.ndarray:
    """NaN = not recorded; infinite where no item has a record."""
    stock = table.read(names.INVENTORY)
    return stock if np.isfinite(stock).any() else np.full(stock.shape, np.inf)


def _carry_stock(stock: np.ndarray, units: np.ndarray) -> np.ndarray:
    """A number for every period, from what was known by then: a later record would tell what is yet to be sold."""
    carried = pd.DataFrame(stock).ffill(axis=1).to_numpy(dtype=np.float64)
    return np.where(np.isnan(stock), np.maximum(np.nan_to_num(carried, nan=np.inf), np.nan_to_num(units)), stock)


def _check_counts(table: _Cells, units: np.ndarray, stock: np.ndarray, replayed: np.ndarray, first: int) -> None:
    """Refuse what the likelihood of demand, which is one of counts, could only read after rounding."""
    periods = np.arange(units.shape[1])
    for column, values, broken, told in (
        (names.UNITS, units, _is_fraction(units), "is no whole number; demand is valued as a count. Give units in the"
         " pieces that are sold (packs, grams instead of kilograms)"),
        (names.INVENTORY, replayed, _is_fraction(replayed), "is no whole number; demand is valued as a count. Give it"
         " in the pieces that units are, rounded down to what could be sold"),
        (names.UNITS, units, units > stock + _ROUNDING, "is more than the inventory at the start of the period. Add"
         " what came in during the period to the inventory, or leave it empty where it is not known"),
    ):  # fmt: skip
        where = np.argwhere(broken & (periods >= first))
        if len(where):
            item, period = where[0].tolist()
            raise PanelError(
                f"item {str(table.item_ids[item])!r} at {pd.Timestamp(table.timestamps[period]):%Y-%m-%d}: {column}"
                f" {values[item, period]:g} {told} ({len(where):,} such item-periods are to be valued)"
            )


def _is_fraction(values: np.ndarray) -> np.ndarray:
    known = np.where(np.isfinite(values), values, 0.0)
    return np.asarray(np.abs(known - np.round(known)) > _ROUNDING)


def _carry(values: np.ndarray) -> np.ndarray:
    """Missing cells take the last known value of their row, else the next one."""
    return pd.DataFrame(values).ffill(axis=1).bfill(axis=1).to_numpy(dtype=np.float64)


def _remember(prices: np.ndarray, persistence: float) -> np.ndarray:
    """The known recursion of the remembered log price over the history, from its first price on."""
    log_prices = np.log(_carry(prices))
    memory = log_prices[:, 0]
    for log_price in log_prices.T:
        memory = persistence * memory + (1.0 - persistence) * log_price
    return np.asarray(memory)


def _read_clusters(panel: Panel, decisions: DecisionLog) -> np.ndarray:
    """Product x price zone; without declared zones the whole chain is one, or intervals would be too narrow."""
    if names.PRICE_ZONE in panel.frame:
        return decisions.clusters
    return np.asarray(pd.factorize(np.asarray(decisions.products), sort=True)[0])


def _read_locations(panel: Panel, item_ids: np.ndarray) -> np.ndarray:
    if names.LOCATION_ID not in panel.frame:
        return np.full(len(item_ids), "everywhere")
    places = panel.frame.groupby(names.ITEM_ID, observed=True)[names.LOCATION_ID].first()
    return np.asarray(places.reindex(item_ids).astype(str))


def _measure_chain_wide(prices: np.ndarray, products: np.ndarray) -> float:
    """Share of the squared deviations of log prices from their item's mean that the product's mean move explains."""
    moves = np.log(prices)
    moves = moves - np.nanmean(moves, axis=1, keepdims=True)
    codes = pd.factorize(products)[0]
    known = np.isfinite(moves)
    sums, counts = (np.zeros((codes.max() + 1, moves.shape[1])) for _ in range(2))
    np.add.at(sums, codes, np.nan_to_num(moves))
    np.add.at(counts, codes, known)
    shared = (sums / np.maximum(counts, 1))[codes]
    total = float((moves[known] ** 2).sum())
    return float((shared[known] ** 2).sum() / total) if total > 0.0 else float("nan")


def _read_segments(panel: Panel, item_ids: np.ndarray, column: str | None) -> tuple[np.ndarray, str]:
    chosen = column or (names.SEGMENT if names.SEGMENT in panel.frame else None)
    if chosen is None:
        return np.full(len(item_ids), "all", dtype=object), ""
    if chosen not in panel.frame:
        raise PanelError(
            f"--value_segment is {chosen!r}, which panel {panel.name!r} does not have; its columns are"
            f" {sorted(map(str, panel.frame.columns))}"
        )
    values = panel.frame.groupby(names.ITEM_ID)[chosen].first().reindex(item_ids)
    if pd.api.types.is_numeric_dtype(values):
        ranks = values.rank(method="average", pct=True)
        thirds = np.minimum((ranks.fillna(0.0).to_numpy() * 3.0 - 1e-9).astype(int), 2)
        labels = np.array([_THIRDS[third] for third in thirds], dtype=object)
        return np.where(values.isna().to_numpy(), "unknown", labels), chosen
    return values.fillna("unknown").astype(str).to_numpy(dtype=object), chosen


def _describe_data(panel: Panel, reference: Reference, decisions: DecisionLog) -> list[str]:
    notes = []
    if names.INVENTORY not in panel.frame:
        notes.append(
            "The log has no stock: sold-out weeks cannot be seen, sales count as demand, and no stock is replayed."
            " Where shelves were empty, the value of lower prices is overstated."
        )
    else:
        notes.append("Stock is replayed with the deliveries of the log, whatever a policy would have sold.")
    if _looks_like_unit_values(panel):
        notes.append(
            "Prices look like averages (what was paid over what was sold): they are partly outcomes of demand, so that"
            " what they say of its response is uncertain beyond the intervals shown."
        )
    if reference == "recent_high":
        notes.append("The log has no list price: prices are measured by the highest of the 13 periods before.")
    if names.PRODUCT_ID not in panel.frame:
        notes.append("Items are not tied to products: intervals may be too narrow.")
    return notes


def _describe_stock(stock: np.ndarray, replayed: np.ndarray) -> list[str]:
    missing = np.isnan(stock)
    if not missing.any():
        return []
    endless = int(np.isinf(replayed[missing]).sum())
    return [
        f"Stock is not recorded in {int(missing.sum()):,} of {stock.size:,} item-periods: sales there count as demand,"
        f" sold out or not. The replay puts the last known stock in {int(missing.sum()) - endless:,} of them, and no"
        f" limit in {endless:,} before an item's first record."
    ]


def _looks_like_unit_values(panel: Panel) -> bool:
    """Whether a quarter of the price changes are smaller than 2 %: people do not set such prices."""
    prices = panel.frame.loc[~panel.frame[names.PRICE_IMPUTED].astype(bool), [names.ITEM_ID, names.PRICE]]
    moves = np.abs(np.log(prices[names.PRICE]).groupby(prices[names.ITEM_ID]).diff().dropna().to_numpy())
    moves = moves[moves > 1e-9]
    return bool(len(moves) and (moves < 0.02).mean() > 0.25)
