"""What a window's own past says about its level: the scale of its sales, and its reference price."""

from dataclasses import dataclass

import numpy as np

from .channels import LIST, UNITS, observed_units, own_prices, sold_out

REFERENCE_PERIODS = 26  # the reference price is the median of the last observed prices, so that it follows inflation
SCALE_FLOOR = 0.05  # units per period, where a unit is the smallest sale (at most 1)


@dataclass(frozen=True)
class WindowStatistics:
    """What a window's own past says about its level.

    Args:
        observed (`(B, T)`, bool): Past periods whose units say something about demand.
        scale (`(B,)`): Units per period.
        reference (`(B,)`): Reference price, currency; NaN where no price was ever seen.
    """

    observed: np.ndarray
    scale: np.ndarray
    reference: np.ndarray


def read_statistics(past: np.ndarray, future: np.ndarray, default_scale: float) -> WindowStatistics:
    """Level of raw windows.

    Args:
        past (`(B, T, channels)`): Raw channels.
        future (`(B, H, channels)`): Raw channels; only the first list price counts, where the past has none.
        default_scale (`float`): Units per period of an item without any observed period.

    Returns:
        `WindowStatistics`.
    """
    observed = observed_units(past)
    # Sold-out periods say too little, so they only count where there is nothing else.
    in_stock = observed & ~sold_out(past)
    used = np.where(np.any(in_stock, axis=1, keepdims=True), in_stock, observed)
    units = np.where(used, past[..., UNITS], 0.0).astype(np.float64)
    count = used.sum(1)
    smallest = np.where(units > 0, units, 1.0).min(1, initial=1.0)
    scale = np.maximum(units.sum(1) / np.maximum(count, 1), SCALE_FLOOR * smallest)
    return WindowStatistics(observed, np.where(count > 0, scale, default_scale), find_references(past, future))


def find_references(past: np.ndarray, future: np.ndarray) -> np.ndarray:
    """Lower median of the last observed prices, else the list price: `(B,)`, currency; NaN where there is neither."""
    prices = own_prices(past)
    reference = np.full(len(past), np.nan)
    for row, series in enumerate(prices):
        charged = series[np.isfinite(series)][-REFERENCE_PERIODS:]
        if len(charged):
            reference[row] = np.sort(charged)[(len(charged) - 1) // 2]
            continue
        listed = past[row, :, LIST][np.isfinite(past[row, :, LIST])]
        # The first planned one, not the last: a forecast must not depend on how many later steps are asked for.
        planned = future[row, :, LIST][np.isfinite(future[row, :, LIST])]
        if len(listed) or len(planned):
            reference[row] = listed[-1] if len(listed) else planned[0]
    return reference
