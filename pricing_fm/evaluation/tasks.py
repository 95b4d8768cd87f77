"""A forecasting task: which steps of a panel are forecast from where, what is known by then, and what counts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.forecaster import ForecastWindow
from pricing_fm.evaluation.grid import build_grid, read_attribute
from pricing_fm.metrics.forecast import compute_seasonal_scale, seasonal_lag
from pricing_fm.panel.panel import Panel

QUANTILE_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
REFERENCE_PERIODS = 26  # without a list price, the usual price is the median of this many periods


@dataclass(frozen=True)
class ForecastTruth:
    """What happened after an origin, and which of it counts. Arrays over items (as in the window) and steps.

    Args:
        timestamps (`np.ndarray`, datetime64[s], shape `(steps,)`): Starts of the periods.
        targets (`np.ndarray`, float64, shape `(items, steps)`): Units sold; NaN = unknown.
        scored (`np.ndarray`, bool, shape `(items, steps)`): True = known and neither sold out nor without stock.
        sold_out (`np.ndarray`, bool, shape `(items, steps)`): True = known, and sales reached the stock (also stock 0).
        inventory (`np.ndarray`, float64, shape `(items, steps)`): Units available; NaN = unknown.
        price (`np.ndarray`, float64, shape `(items, steps)`): Price charged, currency per unit.
        reference_price (`np.ndarray`, float64, shape `(items, steps)`): List price, else the median of the last 26
            prices before the origin.
        seasonal_scales (`np.ndarray`, float64, shape `(items,)`): In-sample scale, units; NaN = none.
        products (`np.ndarray`, object, shape `(items,)`): Product, the block of a bootstrap; the item without products.
        categories (`np.ndarray`, object, shape `(items,)`): Category or None.
        items_without_history (`int`): Items with sales after the origin and none in the visible history; not forecast.
    """

    timestamps: np.ndarray
    targets: np.ndarray
    scored: np.ndarray
    sold_out: np.ndarray
    inventory: np.ndarray
    price: np.ndarray
    reference_price: np.ndarray
    seasonal_scales: np.ndarray
    products: np.ndarray
    categories: np.ndarray
    items_without_history: int


@dataclass(frozen=True)
class ForecastTask:
    """Rolling-origin protocol on one panel.

    Args:
        name (`str`): Name in result rows.
        panel (`Panel`): All data, targets included.
        prediction_length (`int`): Steps to forecast at each origin.
        origins (`tuple[int, ...]`): Origins as periods before the end of the observed data: 8 means that the last 8
            periods are the first that are forecast.
        quantile_levels (`tuple[float, ...]`): Probabilities, increasing.
        context_length (`int`, *optional*): Periods of history that any forecaster sees; None = all.

    Raises:
        ValueError: If an origin is closer to the end than `prediction_length`, leaves no history, or lies before the
            panel's `evaluate_from`; or if levels are not increasing.
    """

    name: str
    panel: Panel
    prediction_length: int
    origins: tuple[int, ...]
    quantile_levels: tuple[float, ...] = QUANTILE_LEVELS
    context_length: int | None = None

    def __post_init__(self) -> None:
        if self.prediction_length < 1 or not self.origins:
            raise ValueError("a task needs at least one step and one origin")
        if list(self.quantile_levels) != sorted(set(self.quantile_levels)):
            raise ValueError(f"quantile levels must increase; found {self.quantile_levels}")
        if min(self.origins) < self.prediction_length:
            raise ValueError(
                f"origin {min(self.origins)} leaves fewer than {self.prediction_length} periods to forecast; "
                f"origins count periods before the end and must be at least the prediction length"
            )
        first = self.origin_timestamp(int(np.argmax(self.origins)))
        if first <= self.panel.frame[names.TIMESTAMP].min():
            raise ValueError(f"origin {max(self.origins)} lies before the data of panel {self.panel.name!r} starts")
        if self.panel.evaluate_from is not None and first < self.panel.evaluate_from:
            raise ValueError(
                f"origin {max(self.origins)} is {first.date()}, before {self.panel.evaluate_from.date()}, "
                f"from which on panel {self.panel.name!r} may be scored"
            )

    def origin_timestamp(self, window: int) -> pd.Timestamp:
        """First period that is forecast in a window.

        Args:
            window (`int`): Place in `origins`.

        Returns:
            `pd.Timestamp`: Start of the period.
        """
        return self.panel.frequency.step(self.panel.last_observed, 1 - self.origins[window])

    def training_panel(self) -> Panel:
        """All that may be learned from: the periods before the earliest origin.

        Returns:
            `Panel`: Shortened panel.
        """
        return self.panel.before(self.origin_timestamp(int(np.argmax(self.origins))))

    def windows(self) -> Iterator[tuple[ForecastWindow, ForecastTruth]]:
        """Every origin in the order of `origins`, apart into what may be seen and what counts.

        Yields:
            `tuple[ForecastWindow, ForecastTruth]`: Arrays of the truth follow `ForecastWindow.item_ids`.
        """
        for window in range(len(self.origins)):
            yield self._cut(self.origin_timestamp(window))

    def _cut(self, origin: pd.Timestamp) -> tuple[ForecastWindow, ForecastTruth]:
        panel = self.panel
        before = panel.before(origin)
        visible = before if self.context_length is None else panel.last_periods(self.context_length, origin)
        end = panel.frequency.step(origin, self.prediction_length)
        stamps = panel.frame[names.TIMESTAMP]
        after = panel.frame[((stamps >= origin) & (stamps < end)).to_numpy()]
        seen = set(visible.frame.loc[visible.frame[names.UNITS].notna(), names.ITEM_ID])
        planned = set(after.loc[after[names.PRICE].notna(), names.ITEM_ID])
        sold = set(after.loc[after[names.UNITS].notna(), names.ITEM_ID])
        history, whole = visible.select_items(seen & planned), before.select_items(seen & planned)
        after = after[after[names.ITEM_ID].isin(seen & planned).to_numpy()]
        future = _known_future(history, after, origin, self.prediction_length)
        view = ForecastWindow(history, future, origin, self.prediction_length, self.quantile_levels)
        return view, _read_truth(whole, after, future, origin, self.prediction_length, len(sold - seen))


def known_columns(panel: Panel) -> tuple[str, ...]:
    """Columns of a panel that are known in advance: the retailer's own plan.

    Args:
        panel (`Panel`): Panel.

    Returns:
        `tuple[str, ...]`: Price, list price, intervention mark, promotions and known covariates, as far as they exist.
    """
    schema = panel.schema
    plan = (names.PRICE, names.LIST_PRICE, names.PRICE_IS_INTERVENTION, *schema.promotions, *schema.known_covariates)
    return tuple(column for column in plan if column in panel.frame)


def _known_future(history: Panel, after: pd.DataFrame, origin: pd.Timestamp, steps: int) -> pd.DataFrame:
    """Exactly `steps` rows per item. An item that leaves the range within the window keeps its last price."""
    items = np.asarray(history.item_ids, dtype=object)
    stamps = history.frequency.step(np.asarray(origin.to_datetime64()), np.arange(steps)).astype("datetime64[ns]")
    rows = pd.DataFrame({names.ITEM_ID: np.repeat(items, steps), names.TIMESTAMP: np.tile(stamps, len(items))})
    plan = after[[names.ITEM_ID, names.TIMESTAMP, *known_columns(history)]]
    future = rows.merge(plan, on=[names.ITEM_ID, names.TIMESTAMP], how="left", validate="one_to_one")
    last_price = history.frame.groupby(names.ITEM_ID)[names.PRICE].last()
    carried = future.groupby(names.ITEM_ID)[names.PRICE].ffill()
    future[names.PRICE] = carried.fillna(future[names.ITEM_ID].map(last_price))
    return future


def _read_truth(
    history: Panel, after: pd.DataFrame, future: pd.DataFrame, origin: pd.Timestamp, steps: int, without_history: int
) -> ForecastTruth:
    grid = build_grid(history)
    items, shape = grid.item_ids, (len(grid.item_ids), steps)
    first = history.frequency.locate(np.asarray([origin.to_datetime64()]))[0][0]
    rows = pd.Index(items).get_indexer(after[names.ITEM_ID])
    columns = history.frequency.locate(after[names.TIMESTAMP].to_numpy())[0] - first

    def lay_out(column: str) -> np.ndarray:
        values = np.full(shape, np.nan)
        if column in after:
            values[rows, columns] = after[column].to_numpy(dtype=np.float64)
        return values

    targets, inventory, list_price = lay_out(names.UNITS), lay_out(names.INVENTORY), lay_out(names.LIST_PRICE)
    known = ~np.isnan(targets)
    # Sales that reach the stock are a lower bound of demand; without stock they say nothing about it.
    sold_out = known & (targets >= inventory)
    usual = pd.DataFrame(grid.price[:, -REFERENCE_PERIODS:]).median(axis=1).to_numpy()
    products = read_attribute(history, names.PRODUCT_ID)
    return ForecastTruth(
        timestamps=history.frequency.step(np.asarray(origin.to_datetime64()), np.arange(steps)),
        targets=targets,
        scored=known & ~sold_out,
        sold_out=sold_out,
        inventory=inventory,
        price=future[names.PRICE].to_numpy().reshape(shape),
        reference_price=np.where(np.isnan(list_price), usual[:, None], list_price),
        seasonal_scales=_seasonal_scales(history, grid.units),
        products=np.where(pd.isna(products), items, products),
        categories=read_attribute(history, names.CATEGORY),
        items_without_history=without_history,
    )


def _seasonal_scales(history: Panel, units: np.ndarray) -> np.ndarray:
    """Each item's scale, with the lag that its own length of history allows."""
    season = history.frequency.season_length
    lives = units.shape[1] - np.argmax(~np.isnan(units), axis=1)
    lags = np.array([seasonal_lag(season, int(life)) for life in lives])
    scales = np.full(len(units), np.nan)
    for lag in np.unique(lags):
        scales[lags == lag] = compute_seasonal_scale(units[lags == lag], int(lag))
    return scales
