"""What a company's books keep of a log: missing columns, missing weeks, flags of their own, averaged prices, packs.

Real panels differ in what they record more than in how their customers buy. A network that has only seen complete logs
of simulators is lost in them, so every simulated category keeps its books in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm import names
from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.markets.sampling import check_ranges

PACKS = (1, 6, 12, 64)  # units in which sales are counted, per unit sold


@dataclass(frozen=True)
class RecordSettings:
    """How often a category's books lack or blur what. Shares are probabilities per category.

    Attributes:
        list_price_share, cost_share, inventory_share, promotion_share: The column is recorded at all.
        two_flags_share: The promotion is recorded as two overlapping flags (an advertisement, a display).
        assortment_share: A known covariate holds the log price index of the market's other products.
        absent_share: Weeks are missing at random, at a rate drawn from `absent_rate_range`.
        absent_rate_range: Share of weeks without a row.
        averaged_share: The price is an average over receipts: it scatters around the shelf price.
        scatter_range: Standard deviation of log averaged prices.
        pack_share: Units are counted in packs of several.

    Raises:
        ValueError: If a share is no probability or a range is not increasing.
    """

    list_price_share: float = 0.7
    cost_share: float = 0.6
    inventory_share: float = 0.7
    promotion_share: float = 0.85
    two_flags_share: float = 0.3
    assortment_share: float = 0.7
    absent_share: float = 0.3
    absent_rate_range: tuple[float, float] = (0.01, 0.15)
    averaged_share: float = 0.15
    scatter_range: tuple[float, float] = (0.003, 0.03)
    pack_share: float = 0.15

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_share") and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
        check_ranges(self)


def keep_records(log: SimulatedLog, settings: RecordSettings, random: np.random.Generator) -> np.ndarray:
    """The channels of a log as the books of its categories keep them.

    Args:
        log: The simulated log.
        settings: How often books lack or blur what.
        random: Source of all draws.

    Returns:
        `(items, periods, len(names.CHANNELS))`, float32, NaN = not recorded; items in the order of `log.items`. In a
        period without a row only the price is carried, and marked as carried.
    """
    arrays = log.arrays
    markets = len(log.market_ids)
    rows = log.num_items // markets

    def per_item(share: float) -> np.ndarray:
        """Whether each item's category does so, `(items, 1)`."""
        return np.repeat(random.random(markets) < share, rows)[:, None]

    columns = {name: _by_item(getattr(arrays, name)) for name in ("units", "price", "list_price", "cost", "inventory")}
    columns["inventory"] = np.where(np.isinf(columns["inventory"]), np.nan, columns["inventory"])
    packs = np.where(per_item(settings.pack_share), np.repeat(random.choice(PACKS, markets), rows)[:, None], 1)
    for name in ("units", "inventory"):
        columns[name] = columns[name] * packs
    scatter = np.repeat(random.uniform(*settings.scatter_range, markets), rows)[:, None]
    noise = np.exp(scatter * random.standard_normal(columns["price"].shape))
    columns["price"] = columns["price"] * np.where(per_item(settings.averaged_share), noise, 1.0)
    columns[names.COVARIATE_SLOTS[-1]] = np.where(
        per_item(settings.assortment_share), _compute_assortment_index(log), np.nan
    )
    for name in ("list_price", "cost", "inventory"):
        columns[name] = np.where(per_item(getattr(settings, f"{name}_share")), columns[name], np.nan)
    if arrays.competitor_price is not None:
        columns["competitor_price"] = _by_item(arrays.competitor_price)
    columns |= _keep_promotions(log, settings, random)
    columns[names.PRICE_IS_INTERVENTION] = _by_item(arrays.price_is_intervention)
    values = np.full((*columns["price"].shape, len(names.CHANNELS)), np.nan, dtype=np.float32)
    for name, column in columns.items():
        values[..., names.CHANNEL_INDEX[name]] = column
    rate = np.repeat(random.uniform(*settings.absent_rate_range, markets), rows)[:, None]
    absent = per_item(settings.absent_share) & (random.random(values.shape[:2]) < rate)
    absent[:, [0, -1]] = False  # an item's life begins and ends with a row
    _drop_rows(values, absent)
    return values


def _keep_promotions(log: SimulatedLog, settings: RecordSettings, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Promotion flags in slots of the category's own; not recorded, one flag, or two that overlap."""
    markets, promoted = len(log.market_ids), _by_item(log.arrays.promotion)
    rows = log.num_items // markets
    recorded = np.repeat(random.random(markets) < settings.promotion_share, rows)[:, None]
    two = np.repeat(random.random(markets) < settings.two_flags_share, rows)[:, None]
    order = np.argsort(random.random((markets, len(names.PROMOTION_SLOTS))), axis=1).repeat(rows, axis=0)
    # A promotion bears the first flag, the second or both.
    kind = random.random(promoted.shape)
    first = np.where(two, promoted * (kind < 0.7), promoted)
    second = np.where(two, promoted * (kind > 0.4), np.nan)
    columns = {}
    for slot, name in enumerate(names.PROMOTION_SLOTS):
        flag = np.where(order[:, :1] == slot, first, np.where(order[:, 1:2] == slot, second, np.nan))
        columns[name] = np.where(recorded, flag, np.nan)
    return columns


def _compute_assortment_index(log: SimulatedLog) -> np.ndarray:
    """Mean log price over list price of the other products of the market, `(items, periods)`; NaN for a lone one."""
    ratio = np.log(log.arrays.price / log.arrays.list_price)
    products = ratio.shape[2]
    if products == 1:
        return np.full((log.num_items, len(ratio)), np.nan)
    return _by_item((ratio.sum(axis=2, keepdims=True) - ratio) / (products - 1))


def _drop_rows(values: np.ndarray, absent: np.ndarray) -> None:
    """Periods without a row, in place: as in a panel, the last price is carried and marked as carried."""
    price = names.CHANNEL_INDEX[names.PRICE]
    present = np.maximum.accumulate(np.where(absent, 0, np.arange(absent.shape[1])), axis=1)
    latest = np.take_along_axis(values[..., price], present, axis=1)
    values[absent] = np.nan
    values[..., price][absent] = latest[absent]
    values[..., names.CHANNEL_INDEX[names.PRICE_IMPUTED]] = absent


def _by_item(array: np.ndarray) -> np.ndarray:
    """(periods, markets, products, segments) -> (items, periods)."""
    return np.moveaxis(array, 0, -1).reshape(-1, array.shape[0])
