"""Numbers that depend on a name alone: the same in every process, on every machine, in any company."""

import math
import zlib

import numpy as np


def stable_bucket(slot: int, value: str | float | None, buckets: int) -> int:
    """Embedding row of a static category.

    Args:
        slot (`int`): Place among the static categories: equal values of two columns get rows of their own.
        value (`str` or None): None or NaN = missing.
        buckets (`int`): Rows.

    Returns:
        `int`: 1 .. buckets - 1; 0 = missing.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0
    return 1 + zlib.crc32(f"{slot}={value}".encode()) % (buckets - 1)


def bootstrap_weights(item_keys: np.ndarray, members: int) -> np.ndarray:
    """Bayesian-bootstrap weights (exponential, mean 1), a pure function of the item.

    Args:
        item_keys (`np.ndarray`, uint64, shape `(B,)`): Hash of each item id.
        members (`int`): Members of the response head.

    Returns:
        `(B, members)`, float32.

    References:
        Rubin 1981, The Bayesian Bootstrap; SplitMix64 (Steele et al. 2014) as the hash.
    """
    with np.errstate(over="ignore"):
        state = item_keys.astype(np.uint64)[:, None] + np.arange(1, members + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    uniform = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    return -np.log1p(-uniform).astype(np.float32)
