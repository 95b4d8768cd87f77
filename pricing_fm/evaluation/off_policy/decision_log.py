"""The log of a manager's decisions: which rung of the price ladder, and promoted or not, in every item and week."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pricing_fm import names
from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.panel import Panel

Reference = Literal["list_price", "recent_high"]

_RECENT_PERIODS = 13  # over which the highest price is the reference where no list price is recorded


@dataclass(frozen=True)
class DecisionLog:
    """Decisions and what was known before them. Arrays `(items, periods)` unless said otherwise.

    Attributes:
        price_ladder: Multiples of the reference price, increasing, `(rungs,)`.
        rungs: Rung of the price, int; -1 where none is known.
        promotions: True = promoted, bool; None = the log has no promotions.
        observed: True = a price was charged and recorded, bool.
        item_ids: Labels, `(items,)`.
        products: Product of each item wherever it is sold, labels, `(items,)`: models are cross-fitted by it.
        zones: Price zone of each item, labels, `(items,)`: items of one product in one zone share their price.
        categories: Labels, `(items,)`.
        timestamps: Start of each period, datetime64, `(periods,)`.
        reference_prices: Currency per unit, known before the decision; NaN = none.
        units: Units sold, NaN = unknown.
        inventory: Units available at the start of the period; NaN or infinite = not limited, or unknown.
        costs: Unit cost when the price was set, currency; NaN = unknown.
        interventions: True = the price was drawn at random, not chosen by the manager, bool; None = nowhere.
        signals: Further numbers that the manager knew before the decision and may have followed, such as planned
            events or a forecast of demand, finite, `(items, periods, signals)`; None = none.

    Raises:
        ValueError: If shapes differ, the ladder is not increasing, an observed rung is not on it, or a signal is not
            finite.
    """

    price_ladder: np.ndarray
    rungs: np.ndarray
    promotions: np.ndarray | None
    observed: np.ndarray
    item_ids: np.ndarray
    products: np.ndarray
    zones: np.ndarray
    categories: np.ndarray
    timestamps: np.ndarray
    reference_prices: np.ndarray
    units: np.ndarray
    inventory: np.ndarray
    costs: np.ndarray
    interventions: np.ndarray | None = None
    signals: np.ndarray | None = None

    def __post_init__(self) -> None:
        ladder = _read_ladder(self.price_ladder)
        object.__setattr__(self, "price_ladder", ladder)
        shape = np.shape(self.rungs)
        if len(shape) != 2:
            raise ValueError(f"rungs have shape {shape}; expected (items, periods)")
        cells = ("observed", "promotions", "interventions", "reference_prices", "units", "inventory", "costs")
        expected = dict.fromkeys(cells, shape) | {"timestamps": shape[1:]}
        expected |= dict.fromkeys(("item_ids", "products", "zones", "categories"), shape[:1])
        for name, size in expected.items():
            values = getattr(self, name)
            if values is None and name in ("promotions", "interventions"):
                continue
            if np.shape(values) != size:
                raise ValueError(f"{name} have shape {np.shape(values)}; expected {size}, as rungs say")
        if self.signals is not None and (self.signals.shape[:2] != shape or self.signals.ndim != 3):
            raise ValueError(f"signals have shape {self.signals.shape}; expected {shape} and the number of signals")
        if self.signals is not None and not np.isfinite(self.signals).all():
            raise ValueError("a signal is not finite; fill in what was not known with what the manager assumed")
        broken = np.argwhere(self.observed & ((self.rungs < 0) | (self.rungs >= len(ladder))))
        if len(broken):
            item, period = broken[0]
            raise ValueError(
                f"rungs[{item}, {period}] is {self.rungs[item, period]}; an observed rung must lie in 0 ..."
                f" {len(ladder) - 1}. Mark the cell as not observed or extend the ladder"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(items, periods)."""
        return self.rungs.shape[0], self.rungs.shape[1]

    @property
    def num_rungs(self) -> int:
        """Rungs of the ladder."""
        return len(self.price_ladder)

    @property
    def clusters(self) -> np.ndarray:
        """Decision unit (product x price zone) of each item, int codes, `(items,)`."""
        pairs = pd.MultiIndex.from_arrays([np.asarray(self.products), np.asarray(self.zones)])
        return np.asarray(pd.factorize(pairs, sort=True)[0])

    @property
    def promoted(self) -> np.ndarray:
        """`promotions` as 0 and 1, int, 0 where the log has none."""
        return np.zeros(self.shape, dtype=int) if self.promotions is None else np.asarray(self.promotions, dtype=int)

    @property
    def decided(self) -> np.ndarray:
        """True = the manager chose a rung and the log holds an earlier one of the item, bool."""
        before = np.zeros(self.shape, dtype=bool)
        before[:, 1:] = np.logical_or.accumulate(self.observed, axis=1)[:, :-1]
        chosen = self.observed & before
        return chosen if self.interventions is None else chosen & ~np.asarray(self.interventions, dtype=bool)


def read_decisions(
    panel: Panel,
    price_ladder: ArrayLike,
    reference: Reference = "list_price",
    most_off_ladder: float = 0.05,
) -> DecisionLog:
    """Decisions of a panel, every price put on the nearest rung.

    Args:
        panel: The panel. Without `product_id` every item is its own product, without `price_zone` its own zone.
        price_ladder: Multiples of the reference price, increasing, `(rungs,)`.
        reference: "list_price", or "recent_high": the highest price of the 13 periods before the decision.
        most_off_ladder: Share of prices that may lie further from their rung than half the ladder's widest gap.

    Returns:
        The log. Several promotion columns count as one flag; prices that were carried over are not decisions.

    Raises:
        ValueError: If the panel lacks list prices that are asked for, or the ladder does not fit its prices.
    """
    frame = panel.frame
    if reference == "list_price" and names.LIST_PRICE not in frame:
        raise ValueError(
            f"panel {panel.name!r} has no list_price; map one in the schema, or say reference='recent_high' to measure"
            " prices by the highest of the 13 periods before"
        )
    table, ladder = _Table(frame), _read_ladder(price_ladder)
    prices = np.where(table.spread(names.PRICE_IMPUTED) == 1.0, np.nan, table.spread(names.PRICE))
    references = table.spread(names.LIST_PRICE) if reference == "list_price" else find_recent_high(prices)
    rungs, gaps = place_on_ladder(prices / references, ladder)
    observed = rungs >= 0
    _check_ladder(gaps[observed], ladder, most_off_ladder)
    flags = [table.spread(column) > 0 for column in panel.schema.promotions]
    intervention = table.spread(names.PRICE_IS_INTERVENTION) == 1.0 if names.PRICE_IS_INTERVENTION in frame else None
    items = table.describe(names.ITEM_ID)
    return DecisionLog(
        price_ladder=ladder,
        rungs=rungs,
        promotions=np.any(flags, axis=0) if flags else None,
        observed=observed,
        item_ids=items,
        products=table.describe(names.PRODUCT_ID) if names.PRODUCT_ID in frame else items,
        zones=table.describe(names.PRICE_ZONE) if names.PRICE_ZONE in frame else items,
        categories=table.describe(names.CATEGORY) if names.CATEGORY in frame else np.full(len(items), "all", object),
        timestamps=table.timestamps,
        reference_prices=references,
        units=table.spread(names.UNITS),
        inventory=table.spread(names.INVENTORY),
        costs=table.spread(names.COST),
        interventions=intervention,
    )


def read_simulated_decisions(log: SimulatedLog) -> DecisionLog:
    """Decisions of a simulated log on its managers' own ladder.

    Args:
        log: From `markets.simulate_log`.

    Returns:
        The log, items in the order of `log.items`; stores are price zones of their own.
    """
    arrays, items = log.arrays, log.items
    rungs, _ = place_on_ladder(_by_item(arrays.price / arrays.list_price), log.habits.price_ladder)
    ids = items[names.ITEM_ID].to_numpy()
    return DecisionLog(
        price_ladder=log.habits.price_ladder,
        rungs=rungs,
        promotions=_by_item(arrays.promotion) > 0,
        observed=np.ones(rungs.shape, dtype=bool),
        item_ids=ids,
        products=items[names.PRODUCT_ID].to_numpy(),
        zones=ids,
        categories=items[names.CATEGORY].to_numpy(),
        timestamps=log.timestamps,
        reference_prices=_by_item(arrays.list_price),
        units=_by_item(arrays.units),
        inventory=_by_item(arrays.inventory),
        costs=_by_item(arrays.cost),
        interventions=_by_item(arrays.price_is_intervention) > 0,
    )


def read_true_propensities(log: SimulatedLog) -> np.ndarray:
    """Probability of every logged price given all that the manager knew, hidden demand included.

    Args:
        log: From `markets.simulate_log`.

    Returns:
        `(items, periods)`, rows as in `read_simulated_decisions`; of the price alone, the promotion is drawn apart.
    """
    return _by_item(log.arrays.propensity)


def place_on_ladder(ratios: np.ndarray, price_ladder: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Nearest rung of every price ratio, by the logarithm.

    Args:
        ratios: Price over reference price, NaN = unknown, any shape.
        price_ladder: Multiples, increasing, `(rungs,)`.

    Returns:
        Rungs, int, -1 where the ratio is unknown; distance of the log ratio from its rung, NaN where unknown.
    """
    log_ladder, log_ratios = np.log(np.asarray(price_ladder, dtype=np.float64)), np.log(ratios)
    rungs = np.searchsorted(0.5 * (log_ladder[1:] + log_ladder[:-1]), log_ratios)
    known = np.isfinite(log_ratios)
    rungs = np.where(known, rungs, -1)
    return rungs, np.where(known, np.abs(log_ratios - log_ladder[rungs]), np.nan)


def find_recent_high(prices: np.ndarray, periods: int = _RECENT_PERIODS) -> np.ndarray:
    """Highest price of the periods before each one: a reference that does not know the decision.

    Args:
        prices: Currency per unit, NaN = unknown, `(items, periods)`.
        periods: How far back.

    Returns:
        Currency, NaN where no earlier price is known, `(items, periods)`.
    """
    high = np.full(prices.shape, np.nan)
    for lag in range(1, min(periods, prices.shape[1] - 1) + 1):
        high[:, lag:] = np.fmax(high[:, lag:], prices[:, :-lag])
    return high


class _Table:
    """A panel's frame as a rectangle of items and periods."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._items, self._labels = pd.factorize(frame[names.ITEM_ID], sort=True)
        self._periods, stamps = pd.factorize(frame[names.TIMESTAMP], sort=True)
        self.timestamps = np.asarray(stamps, dtype="datetime64[s]")

    def spread(self, column: str) -> np.ndarray:
        """A column as numbers `(items, periods)`, NaN where there is no row or no such column."""
        cells = np.full((len(self._labels), len(self.timestamps)), np.nan)
        if column in self._frame:
            cells[self._items, self._periods] = self._frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
        return cells

    def describe(self, column: str) -> np.ndarray:
        """A constant column as labels `(items,)`; items without a label bear their own id."""
        first = self._frame.groupby(self._items)[column].first().to_numpy(dtype=object)
        return np.where(pd.isna(first), np.asarray(self._labels, dtype=object), first)


def _read_ladder(price_ladder: ArrayLike) -> np.ndarray:
    ladder = np.asarray(price_ladder, dtype=np.float64)
    if ladder.ndim != 1 or len(ladder) < 2 or ladder[0] <= 0 or np.any(np.diff(ladder) <= 0):
        raise ValueError(f"price_ladder is {ladder.tolist()}; expected two or more positive, increasing multiples")
    return ladder


def _check_ladder(gaps: np.ndarray, ladder: np.ndarray, most_off_ladder: float) -> None:
    if not len(gaps):
        raise ValueError("no price has a reference; a decision log needs prices and list prices of the same periods")
    reach = 0.5 * float(np.diff(np.log(ladder)).max()) + 1e-9
    share = float((gaps > reach).mean())
    if share > most_off_ladder:
        raise ValueError(
            f"{share:.0%} of the prices lie further than {reach:.1%} from the nearest rung of {ladder.tolist()}; at"
            f" most {most_off_ladder:.0%} may. Extend the ladder to the prices charged, or raise most_off_ladder"
        )


def _by_item(array: np.ndarray) -> np.ndarray:
    """(periods, markets, products, segments) -> (items, periods)."""
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)).reshape(-1, array.shape[0])
