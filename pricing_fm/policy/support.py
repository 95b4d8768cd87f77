"""Which prices the log can speak about: those an item, or its category, was ever sold at, per promotion type."""

from dataclasses import asdict, dataclass

import numpy as np

from pricing_fm.models import PricingFMProcessor
from pricing_fm.names import CHANNEL_INDEX, PRICE_IMPUTED, PROMOTION_SLOTS
from pricing_fm.panel import RawWindows

# A rung counts as tried in a category once this many items were sold at it: one odd week proves nothing.
FEWEST_ITEMS = 2


@dataclass(frozen=True)
class CategorySupport:
    """Rungs tried in a category, relative to each item's reference price; saved as `price_ladder.json`.

    Args:
        category (`str` or None): Exact value in the data; None = all.
        ladder_start, ladder_step (`float`), num_rungs (`int`): The ladder: `exp(ladder_start + rung * ladder_step)`.
        items_at_rung (`list[list[int]]`): For each promotion type, how many items were sold at each rung.
        weeks_at_rung (`list[list[int]]`): The same in item-periods.
    """

    category: str | None
    ladder_start: float
    ladder_step: float
    num_rungs: int
    items_at_rung: list[list[int]]
    weeks_at_rung: list[list[int]]

    def to_json(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)

    def tried(self, promotion_type: int) -> np.ndarray:
        """Rungs between the lowest and the highest that enough items were sold at: `(num_rungs,)`, bool."""
        enough = np.flatnonzero(np.asarray(self.items_at_rung[promotion_type]) >= FEWEST_ITEMS)
        inside = np.zeros(self.num_rungs, dtype=bool)
        if len(enough):
            inside[enough[0] : enough[-1] + 1] = True
        return inside


def logged_prices(windows: RawWindows) -> tuple[np.ndarray, np.ndarray]:
    """Prices really charged in the past `(B, T)`, NaN elsewhere, and whether they were promoted."""
    prices = windows.past[..., CHANNEL_INDEX["price"]].astype(np.float64)
    prices = np.where(windows.past[..., CHANNEL_INDEX[PRICE_IMPUTED]] > 0, np.nan, prices)
    flags = windows.past[..., [CHANNEL_INDEX[name] for name in PROMOTION_SLOTS]]
    return prices, np.nan_to_num(flags).max(-1) > 0


def item_support(windows: RawWindows, prices: np.ndarray, promoted: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether a price lies in the range the item was sold at under the same kind of promotion.

    Args:
        windows (`RawWindows`): Items.
        prices (`(B, P)`): Candidate prices, currency.
        promoted (`(B,)`, bool): Planned promotion.
        tolerance (`float`): Relative slack at both ends; half a rung.

    Returns:
        `(B, P)`, bool.
    """
    charged, was_promoted = logged_prices(windows)
    charged = np.where(was_promoted == promoted[:, None], charged, np.nan)
    lowest = np.where(np.isfinite(charged), charged, np.inf).min(1)[:, None]
    highest = np.where(np.isfinite(charged), charged, -np.inf).max(1)[:, None]
    return (prices >= lowest * (1 - tolerance)) & (prices <= highest * (1 + tolerance))


def category_support(
    windows: RawWindows, reference_price: np.ndarray, processor: PricingFMProcessor, category: str | None
) -> CategorySupport:
    """Counts the rungs at which a category's items were sold in the windows' past."""
    prices, promoted = logged_prices(windows)
    rungs = processor.rungs(prices, reference_price)
    items, weeks = [], []
    for kind in (False, True):
        counted = np.isfinite(prices) & (promoted == kind)
        table = np.zeros((len(prices), processor.num_rungs), dtype=np.int64)
        np.add.at(table, (np.nonzero(counted)[0], rungs[counted]), 1)
        items.append((table > 0).sum(0).tolist())
        weeks.append(table.sum(0).tolist())
    return CategorySupport(category, processor.ladder_start, processor.ladder_step, processor.num_rungs, items, weeks)
