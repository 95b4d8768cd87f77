"""A panel as the arrays that a market is fitted to: counts, price ratios, promotions, calendar, groups of items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.markets.fitting.likelihood import CountData
from pricing_fm.panel import Panel

YEAR = 365.25  # days
NO_CATEGORY = "all items"
_HARMONICS = 3  # of the year: a wave of four months is the shortest
_WEEKDAY_HARMONICS = 3  # of the week, exact for days
_MINIMUM_YEARS = 1.5  # below this a season cannot be told from a trend
_MINIMUM_ROWS = 2_000  # of a panel without a single zero before its zeros count as unlisted
_TYPING_ERROR = np.log(5.0)  # a price this many times off the item's usual one is taken for a mistake


@dataclass(frozen=True)
class Calendar:
    """Season and trend regressors of a run of periods.

    Attributes:
        start: Start of the first fitted period.
        center: Where the trend is zero, years after `start`.
        harmonics: Yearly waves; 0 = no season fitted.
        weekdays: True if waves of the week are fitted as well.
    """

    start: pd.Timestamp
    center: float
    harmonics: int
    weekdays: bool

    @property
    def num_columns(self) -> int:
        """Columns of the regressors, the trend included."""
        return 1 + 2 * self.harmonics + 2 * _WEEKDAY_HARMONICS * self.weekdays

    def regressors(self, timestamps: np.ndarray) -> np.ndarray:
        """Trend in years, then cosine and sine of each wave.

        Args:
            timestamps: Starts of periods, datetime64, shape `(periods,)`.

        Returns:
            Shape `(periods, num_columns)`.
        """
        days = (np.asarray(timestamps).astype("datetime64[s]") - np.datetime64(self.start, "s")).astype(float) / 86_400
        of_year = 2.0 * np.pi * (pd.DatetimeIndex(timestamps).dayofyear.to_numpy() - 1) / YEAR
        of_week = 2.0 * np.pi * pd.DatetimeIndex(timestamps).dayofweek.to_numpy() / 7.0
        columns = [days / YEAR - self.center]
        waves = [k * of_year for k in range(1, self.harmonics + 1)]
        waves += [k * of_week for k in range(1, 1 + _WEEKDAY_HARMONICS * self.weekdays)]
        for wave in waves:
            columns += [np.cos(wave), np.sin(wave)]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Groups:
    """A partition of the items; every group lies inside one category.

    Attributes:
        names: Group names, `category|name` for stores, since a store may differ by category.
        of_item: Group of each item, shape `(items,)`.
        category: Category of each group, shape `(groups,)`.
    """

    names: tuple[str, ...]
    of_item: np.ndarray
    category: np.ndarray

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums over the items of each group, shape `(groups, ...)`."""
        total = np.zeros((len(self.names), *values.shape[1:]))
        np.add.at(total, self.of_item, values)
        return total

    @property
    def sizes(self) -> np.ndarray:
        """Items of each group."""
        return np.bincount(self.of_item, minlength=len(self.names))


@dataclass(frozen=True)
class Design:
    """Everything that the fit reads, on a grid of items x periods.

    Attributes:
        item_ids: Items in sorted order.
        timestamps: Starts of the periods, datetime64[ns], shape `(periods,)`.
        alive: True inside an item's life, shape `(items, periods)`.
        data: What is known about demand, in counts.
        count_size: Units of one count (a pack of 64 ounces sells in steps of 64), shape `(items,)`.
        prices: Price, currency per unit, NaN outside the life, shape `(items, periods)`.
        regular_prices: Regular price: the list price, else the recent usual price; same shape.
        lists_regular: True if the panel has list prices, False if regular prices were read off the prices.
        reference_prices: Median regular price of the item, currency per unit, shape `(items,)`.
        covariates: 1, minus log price ratio, promotions; shape `(items, periods, 2 + promotions)`, finite.
        promotions: Names of the promotion channels.
        calendar: Season and trend.
        time: Its regressors, shape `(periods, columns)`.
        categories: The items' categories.
        products: Items of one product in several stores; None if no product is sold in two places.
        stores: Items of one category in one store; None likewise.
        costs: Unit cost, currency per unit, NaN where unknown, shape `(items, periods)`.
        inventory: Stock in counts, NaN where not kept, shape `(items, periods)`.
        counted: What was left out and why.
    """

    item_ids: tuple[str, ...]
    timestamps: np.ndarray
    alive: np.ndarray
    data: CountData
    count_size: np.ndarray
    prices: np.ndarray
    regular_prices: np.ndarray
    lists_regular: bool
    reference_prices: np.ndarray
    covariates: np.ndarray
    promotions: tuple[str, ...]
    calendar: Calendar
    time: np.ndarray
    categories: Groups
    products: Groups | None
    stores: Groups | None
    costs: np.ndarray
    inventory: np.ndarray
    counted: dict[str, int]


def build_design(panel: Panel, count_size: float | None = None, use_censoring: bool = True) -> Design:
    """Puts a panel on the grid and decides what each cell says about demand.

    Periods without stock say nothing; sold-out periods give a lower bound; a panel of some size without one zero is
    read as listing only what was sold.

    Args:
        panel: Validated sales log, daily or slower.
        count_size: Units of one count; None = greatest common divisor of a product's units.
        use_censoring: False takes sold-out sales for demand.

    Returns:
        Arrays of the fit.

    Raises:
        PanelError: If units are fractional and `count_size` is None, or if periods are shorter than a day.
    """
    if panel.frequency.seconds and panel.frequency.seconds < 86_400:
        raise PanelError(f"panel {panel.name!r} has periods of {panel.frequency.name}; sum it to days or longer first")
    grid = _Grid.of(panel)
    frame = panel.frame
    units = grid.spread(frame[names.UNITS])
    prices = grid.spread(frame[names.PRICE])
    promotions = [grid.spread(frame[name]) for name in panel.schema.promotions]
    groups = {name: _read_groups(frame, grid, name) for name in (names.PRODUCT_ID, names.LOCATION_ID)}
    categories = _read_categories(frame, grid)
    sizes = _read_count_sizes(units, groups[names.PRODUCT_ID], categories, count_size)
    inventory = grid.spread(frame[names.INVENTORY]) / sizes[:, None] if names.INVENTORY in frame else None
    regular = read_regular_prices(grid.spread(frame[names.LIST_PRICE]) if names.LIST_PRICE in frame else None, prices)
    reference = _median(regular)
    ratio = np.log(prices / reference[:, None])
    odd = np.isfinite(units) & (np.abs(ratio) > _TYPING_ERROR)
    unflagged = np.isfinite(units) & ~np.all([np.isfinite(flag) for flag in promotions], axis=0) if promotions else None
    known = np.isfinite(units) & np.isfinite(ratio) & ~odd
    known &= True if unflagged is None else ~unflagged
    data = _read_counts(units / sizes[:, None], inventory, known, panel.schema.absent_rows == "missing", use_censoring)
    calendar = _read_calendar(panel, grid.timestamps)
    return Design(
        item_ids=panel.item_ids,
        timestamps=grid.timestamps,
        alive=np.isfinite(prices),
        data=data,
        count_size=sizes,
        prices=prices,
        regular_prices=regular,
        lists_regular=names.LIST_PRICE in frame,
        reference_prices=reference,
        covariates=compute_covariates(prices, reference, promotions),
        promotions=panel.schema.promotions,
        calendar=calendar,
        time=calendar.regressors(grid.timestamps),
        categories=categories,
        products=groups[names.PRODUCT_ID],
        stores=groups[names.LOCATION_ID],
        costs=grid.spread(frame[names.COST]) if names.COST in frame else np.full_like(prices, np.nan),
        inventory=np.full_like(prices, np.nan) if inventory is None else inventory,
        counted=_count_cells(data, inventory, odd, unflagged),
    )


def _count_cells(
    data: CountData, inventory: np.ndarray | None, odd: np.ndarray, unflagged: np.ndarray | None
) -> dict[str, int]:
    """Cells by what they say, for the card."""
    return {
        "observed periods": int(data.observed.sum()),
        "sold-out periods (a lower bound)": int(data.censored.sum()),
        "periods without stock (say nothing)": 0 if inventory is None else int((inventory <= 0).sum()),
        "periods whose price is five times off the usual one (left out)": int(odd.sum()),
        "periods with unknown promotion (left out)": 0 if unflagged is None else int(unflagged.sum()),
    }


def compute_covariates(prices: np.ndarray, reference_prices: np.ndarray, promotions: list[np.ndarray]) -> np.ndarray:
    """Regressors of every cell.

    Args:
        prices: Currency per unit, NaN outside an item's life, shape `(items, periods)`.
        reference_prices: Price at which the log ratio is 0, currency per unit, shape `(items,)`.
        promotions: One array of 0..1 per channel, each of shape `(items, periods)`; NaN counts as none.

    Returns:
        1, minus log price ratio, promotions; shape `(items, periods, 2 + promotions)`, finite.
    """
    ratio = np.clip(np.log(prices / reference_prices[:, None]), -_TYPING_ERROR, _TYPING_ERROR)
    covariates = np.stack([np.ones_like(ratio), -ratio, *promotions], axis=-1)
    return np.where(np.isfinite(covariates), covariates, 0.0)


def check_design(design: Design, name: str) -> None:
    """Refuses data that cannot tell a demand curve.

    Args:
        design: The data.
        name: Name of the panel, for the message.

    Raises:
        PanelError: If fewer than two periods are observed or no item's price varies.
    """
    if design.data.observed.any(axis=0).sum() < 2:
        raise PanelError(f"panel {name!r} has fewer than two observed periods; a market cannot be fitted to it")
    seen = design.data.observed.any(axis=1)
    known = np.where(design.data.observed, design.covariates[..., 1], np.nan)[seen]
    if not np.any(np.nanmax(known, axis=1) - np.nanmin(known, axis=1) > 1e-6):
        raise PanelError(
            f"panel {name!r} has no price variation within any item: no elasticity can be fitted. "
            f"Use a panel in which prices move"
        )


@dataclass(frozen=True)
class _Grid:
    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]
    timestamps: np.ndarray
    firsts: np.ndarray

    @staticmethod
    def of(panel: Panel) -> _Grid:
        rows, _ = pd.factorize(panel.frame[names.ITEM_ID])  # the panel is sorted by item
        stamps = panel.frame[names.TIMESTAMP].to_numpy()
        numbers, _ = panel.frequency.locate(stamps)
        columns = (numbers - numbers.min()).astype(np.int64)
        first = pd.Timestamp(stamps[int(columns.argmin())])
        length = int(columns.max()) + 1
        timestamps = panel.frequency.step(np.full(length, first.to_datetime64()), np.arange(length))
        firsts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        return _Grid(rows, columns, (int(rows[-1]) + 1, length), timestamps.astype("datetime64[ns]"), firsts)

    def spread(self, column: pd.Series) -> np.ndarray:
        values = np.full(self.shape, np.nan)
        values[self.rows, self.columns] = column.to_numpy(dtype=np.float64)
        return values


def _read_categories(frame: pd.DataFrame, grid: _Grid) -> Groups:
    if names.CATEGORY not in frame:
        return Groups((NO_CATEGORY,), np.zeros(grid.shape[0], dtype=np.int64), np.zeros(1, dtype=np.int64))
    values = frame[names.CATEGORY].iloc[grid.firsts].fillna(NO_CATEGORY).astype(str)
    of_item, found = pd.factorize(values, sort=True)
    return Groups(tuple(found), of_item, np.arange(len(found)))


def _read_groups(frame: pd.DataFrame, grid: _Grid, column: str) -> Groups | None:
    """Products or stores within a category; None where no group holds two items."""
    if column not in frame:
        return None
    categories = _read_categories(frame, grid)
    items = frame[names.ITEM_ID].iloc[grid.firsts].astype(str).to_numpy()
    values = frame[column].iloc[grid.firsts].astype(object).to_numpy()
    values = np.where(pd.isna(values), items, values)
    labels = [f"{categories.names[c]}|{value}" for c, value in zip(categories.of_item, values)]
    of_item, found = pd.factorize(np.array(labels, dtype=object), sort=True)
    if len(found) == len(items):
        return None
    category = np.zeros(len(found), dtype=np.int64)
    category[of_item] = categories.of_item
    return Groups(tuple(found), of_item, category)


def _read_count_sizes(
    units: np.ndarray, products: Groups | None, categories: Groups, count_size: float | None
) -> np.ndarray:
    if count_size is not None:
        if not count_size > 0:
            raise ValueError(f"count_size is {count_size}; it must be positive")
        return np.full(len(units), float(count_size))
    known = np.isfinite(units)
    if np.any(units[known] != np.round(units[known])):
        raise PanelError("units are fractional, so what one count is cannot be read off; give count_size")
    whole = np.where(known, units, 0.0).astype(np.int64)
    sizes = np.ones(len(units))
    # A divisor of few numbers is large by chance: twenty rows of a product, else the whole category.
    for groups in [categories] + ([products] if products is not None else []):
        for group in range(len(groups.names)):
            inside = groups.of_item == group
            if known[inside].sum() >= 20:
                sizes[inside] = max(1, int(np.gcd.reduce(whole[inside], axis=None)))
    return sizes


def read_regular_prices(listed: np.ndarray | None, prices: np.ndarray) -> np.ndarray:
    """The list price; where unknown the upper quartile of the prices of thirteen periods around.

    Args:
        listed: List prices, NaN where unknown, shape `(items, periods)`; None = the panel has none.
        prices: Prices, NaN outside the life, same shape.

    Returns:
        Regular prices, NaN outside the life.
    """
    table = pd.DataFrame(prices.T)
    usual = table.rolling(13, min_periods=1, center=True).quantile(0.75, interpolation="higher").to_numpy().T
    regular = usual if listed is None else np.where(np.isfinite(listed), listed, usual)
    return np.where(np.isfinite(prices), regular, np.nan)


def _read_counts(
    counts: np.ndarray, inventory: np.ndarray | None, known: np.ndarray, absent_missing: bool, use_censoring: bool
) -> CountData:
    censored = np.zeros_like(known)
    if inventory is not None:
        stocked = np.isfinite(inventory)
        known = known & ~(stocked & (inventory <= 0))
        censored = known & stocked & (counts >= inventory) & use_censoring
    unlisted = absent_missing and known.sum() >= _MINIMUM_ROWS and not np.any(counts[known] == 0)
    # Whole counts: a pack size given by hand may not divide every number.
    return CountData(np.where(known, np.round(counts), np.nan), known, censored & (counts >= 1), unlisted)


def _read_calendar(panel: Panel, timestamps: np.ndarray) -> Calendar:
    years = float((timestamps[-1] - timestamps[0]) / np.timedelta64(1, "D")) / YEAR
    seasonal = years >= _MINIMUM_YEARS and panel.frequency.months < 12
    weekdays = bool(panel.frequency.seconds) and panel.frequency.seconds < 7 * 86_400
    return Calendar(pd.Timestamp(timestamps[0]), years / 2.0, _HARMONICS if seasonal else 0, weekdays)


def _median(values: np.ndarray) -> np.ndarray:
    """Row medians of what is known."""
    return np.nanmedian(values, axis=1)  # every item of a panel has a price somewhere
