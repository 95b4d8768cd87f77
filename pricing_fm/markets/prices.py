"""Prices are whole multiples of the smallest coin."""

from __future__ import annotations

import numpy as np


def round_to_tick(prices: np.ndarray, price_tick: np.ndarray) -> np.ndarray:
    """Nearest whole number of the smallest coin, at least one coin, as the double nearest to the decimal price."""
    coins = np.maximum(np.round(prices / price_tick), 1.0)
    # Dividing by the coins in one unit rounds once; multiplying by 0.01 would round twice (3.9900000000000002).
    return np.where(price_tick < 1.0, coins / np.maximum(np.round(1.0 / price_tick), 1.0), coins * price_tick)
