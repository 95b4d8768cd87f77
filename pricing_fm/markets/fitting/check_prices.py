"""Statistics of how prices and promotions are set, for real and for simulated managers alike."""

from __future__ import annotations

import numpy as np

from pricing_fm.markets.fitting.price_process import CUT

_SAME = 0.005  # two prices nearer than this share are the same


def compute_price_statistics(
    prices: np.ndarray, regular: np.ndarray, flags: np.ndarray, promotions: tuple[str, ...], product: np.ndarray
) -> dict[str, float]:
    """How often, how deep, how long and how jointly prices are cut, and what is promoted.

    Args:
        prices: Currency per unit or any multiple, NaN where not logged, shape `(items, periods)`.
        regular: Regular price in the same unit.
        flags: Promotions in 0..1, shape `(items, periods, channels)`.
        promotions: Names of the channels.
        product: Product of each item, shape `(items,)`.

    Returns:
        Statistic to value; NaN where there is nothing to count.
    """
    known = np.isfinite(prices)
    share_off = 1.0 - prices / regular
    cut = known & (share_off > CUT)
    calm = known & ~cut
    both = known[:, 1:] & known[:, :-1]
    moved = np.abs(np.diff(np.log(prices), axis=1))
    ended = both & cut[:, :-1]
    values = {
        "manager: periods with a new price": _share(moved > _SAME, both),
        "manager: periods below the regular price": _share(cut, known),
        "manager: median cut": float(np.median(share_off[cut])) if cut.any() else np.nan,
        "manager: 90 % quantile of cuts": float(np.quantile(share_off[cut], 0.9)) if cut.any() else np.nan,
        "manager: mean length of a cut": 1.0 / max(_share(~cut[:, 1:], ended), 1e-9) if ended.any() else np.nan,
        "manager: deviation of cut share between items": float(_item_shares(cut, known).std()),
        "manager: stores of a product cut together": _correlate_products(cut, known, product),
    }
    for place, name in enumerate(promotions):
        on = flags[..., place] > 0.5
        values[f"manager: {name} in cut periods"] = _share(on, cut)
        values[f"manager: {name} at the regular price"] = _share(on, calm)
    return values


def _share(event: np.ndarray, where: np.ndarray) -> float:
    return float(event[where].mean()) if where.any() else np.nan


def _item_shares(cut: np.ndarray, known: np.ndarray) -> np.ndarray:
    number = known.sum(axis=1)
    return cut.sum(axis=1)[number > 0] / number[number > 0]


def _correlate_products(cut: np.ndarray, known: np.ndarray, product: np.ndarray) -> float:
    """Correlation of the cut indicators of two stores of one product in the same period."""
    share = cut.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    away = np.where(known, cut - share[:, None], 0.0)
    group = np.unique(product, return_inverse=True)[1]
    totals, number = np.zeros((2, int(group.max()) + 1, cut.shape[1]))
    np.add.at(totals, group, away)
    np.add.at(number, group, known)
    pairs = float((number**2).sum() - known.sum())
    if pairs <= 0:
        return np.nan
    joint = (float((totals**2).sum()) - float((away**2).sum())) / pairs
    return joint / max(float(np.mean(away[known] ** 2)), 1e-12)
