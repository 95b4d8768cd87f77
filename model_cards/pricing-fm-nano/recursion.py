"""The part of a shop's state that prices alone decide: last price, reference price, recent discounts.

It is known, so no network has to learn it: `m' = memory m + (1 - memory) log(p / reference)`; a period without a
price leaves everything as it is.
"""

from dataclasses import dataclass

import numpy as np

REFERENCE_MEMORY = 0.8  # decay per period of the reference price and of the recent discount depth


@dataclass(frozen=True)
class PriceState:
    """State before each of H steps, `(B, H)` each; prices as log ratio to the item's reference price.

    Args:
        last (`np.ndarray`): Last price; 0 before the first.
        memory (`np.ndarray`): Remembered price.
        depth (`np.ndarray`): Remembered discount, 0 or negative.
        last_promoted (`np.ndarray`, bool): Whether the last price was promoted.
        started (`np.ndarray`, bool): True = there was a price before this step.
    """

    last: np.ndarray
    memory: np.ndarray
    depth: np.ndarray
    last_promoted: np.ndarray
    started: np.ndarray


def states_before(
    past: np.ndarray, future: np.ndarray, past_promoted: np.ndarray, future_promoted: np.ndarray
) -> PriceState:
    """Runs the recursion through the past and on through the future.

    Args:
        past (`(B, T)`): Log price ratios, NaN = no price.
        future (`(B, H)`): The same after the origin; a step's own price counts from the next step on.
        past_promoted (`(B, T)`, bool): Promoted periods.
        future_promoted (`(B, H)`, bool): The same after the origin.

    Returns:
        `PriceState`.
    """
    last, memory, depth, last_promoted, started = _at_origin(past, past_promoted)
    rows: list[tuple[np.ndarray, ...]] = []
    for step in range(future.shape[1]):
        rows.append((last, memory, depth, last_promoted, started))
        price, is_known = np.nan_to_num(future[:, step]), np.isfinite(future[:, step])
        remembered = REFERENCE_MEMORY * memory + (1 - REFERENCE_MEMORY) * price
        memory = np.where(is_known, np.where(started, remembered, price), memory)
        discount = np.minimum(price, 0)
        depth = np.where(is_known, REFERENCE_MEMORY * depth + (1 - REFERENCE_MEMORY) * discount, depth)
        last = np.where(is_known, price, last)
        last_promoted = np.where(is_known, future_promoted[:, step], last_promoted)
        started = started | is_known
    return PriceState(*(np.stack(values, axis=1) for values in zip(*rows, strict=True)))


def _at_origin(past: np.ndarray, promoted: np.ndarray) -> tuple[np.ndarray, ...]:
    """The recursion over the past in closed form: a price counts by how many prices came after it."""
    known = np.isfinite(past)
    started = known.any(1)
    prices = np.where(known, past, 0.0)
    after = known[:, ::-1].cumsum(1)[:, ::-1] - known
    decay = known * REFERENCE_MEMORY ** after.astype(np.float64)
    is_first = known & (known.cumsum(1) == 1)
    # The first price is the memory; each later one is mixed in.
    memory = (np.where(is_first, 1.0, 1 - REFERENCE_MEMORY) * decay * prices).sum(1)
    depth = ((1 - REFERENCE_MEMORY) * decay * np.minimum(prices, 0)).sum(1)
    latest = past.shape[1] - 1 - known[:, ::-1].argmax(1)
    rows = np.arange(len(past))
    return prices[rows, latest], memory, depth, promoted[rows, latest] & started, started
