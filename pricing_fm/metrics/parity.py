"""Whether prices, demand or consumer surplus differ between groups of customers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SegmentParity:
    """Rates of segments side by side.

    Args:
        rates (`dict[str, float]`): Rate of each segment, in the order of the labels.
        gap (`float`): Highest minus lowest rate over the rate of all together; 0 = parity, no unit.
        ratio (`float`): Lowest over highest rate; 1 = parity. NaN where the highest is not positive.
    """

    rates: dict[str, float]
    gap: float
    ratio: float


def compute_segment_parity(
    amounts: np.ndarray, exposures: np.ndarray, segments: Sequence[object] | np.ndarray
) -> SegmentParity:
    """Parity of a rate, `sum of amounts / sum of exposures` of each segment.

    Demand parity compares units (or purchases) per customer, surplus parity consumer surplus per customer; prices see
    `compute_price_parity`.

    Args:
        amounts (`np.ndarray`, shape `(rows,)`): What is compared: units, or surplus in currency.
        exposures (`np.ndarray`, shape `(rows,)`): What it is divided by, such as customers, 0 or more.
        segments (`Sequence`, length `rows`): Group of each row.

    Returns:
        `SegmentParity`: Rates, gap and ratio.

    Raises:
        ValueError: If shapes differ, a number is missing or an exposure negative, there is one segment only, or a
            segment has no exposure, or the rate of all together is zero while those of segments differ.

    References:
        Cohen, Elmachtoub and Lei 2022, "Price discrimination with fairness constraints", Management Science 68(12).
    """
    top, bottom = np.asarray(amounts, dtype=np.float64), np.asarray(exposures, dtype=np.float64)
    labels, codes = np.unique(np.asarray(segments), return_inverse=True)
    if top.ndim != 1 or not top.shape == bottom.shape == codes.shape:
        raise ValueError(f"amounts {top.shape}, exposures {bottom.shape} and segments {codes.shape}; expected one each")
    if not (np.isfinite(top).all() and np.isfinite(bottom).all() and np.all(bottom >= 0.0)):
        raise ValueError("amounts and exposures must be finite and exposures 0 or more; leave unknown rows out")
    if len(labels) < 2:
        raise ValueError(f"found {len(labels)} segment(s), {labels.tolist()}; parity compares two at least")
    sums, weights = np.bincount(codes, top), np.bincount(codes, bottom)
    if not np.all(weights > 0.0):
        raise ValueError(f"segments {labels[weights <= 0.0].tolist()} have no exposure; leave them out")
    rates, overall = sums / weights, abs(float(sums.sum() / weights.sum()))
    spread = float(rates.max() - rates.min())
    if overall == 0.0 and spread > 0.0:
        raise ValueError("the rate of all segments together is zero, so that a gap relative to it is undefined")
    highest = float(rates.max())
    return SegmentParity(
        rates={str(label): float(rate) for label, rate in zip(labels, rates, strict=True)},
        gap=spread / overall if spread > 0.0 else 0.0,
        ratio=float(rates.min()) / highest if highest > 0.0 else float("nan"),
    )


def compute_price_parity(
    prices: np.ndarray,
    reference_prices: np.ndarray,
    segments: Sequence[object] | np.ndarray,
    units: np.ndarray | None = None,
) -> SegmentParity:
    """Parity of the price level: what a segment pays over what its basket costs at reference prices.

    Relative to reference prices, a segment that buys dearer goods does not count as one that pays more for the same.

    Args:
        prices (`np.ndarray`, shape `(rows,)`): Currency per unit.
        reference_prices (`np.ndarray`, shape `(rows,)`): List or usual price of the same item, currency per unit, > 0.
        segments (`Sequence`, length `rows`): Group of each row.
        units (`np.ndarray`, shape `(rows,)`, *optional*): Units bought, weights of the basket; None = one of each.

    Returns:
        `SegmentParity`: Price level of each segment (1 = reference), gap and ratio.

    Raises:
        ValueError: If a reference price is not positive or units are negative; otherwise see `compute_segment_parity`.
    """
    paid, usual = np.asarray(prices, dtype=np.float64), np.asarray(reference_prices, dtype=np.float64)
    basket = np.ones(usual.shape) if units is None else np.asarray(units, dtype=np.float64)
    if not paid.shape == usual.shape == basket.shape:
        raise ValueError(
            f"prices {paid.shape}, reference_prices {usual.shape} and units {basket.shape}; expected equal"
        )
    if not (np.all(usual > 0.0) and np.all(basket >= 0.0)):
        raise ValueError("reference prices must be positive and units 0 or more")
    return compute_segment_parity(paid * basket, usual * basket, segments)
