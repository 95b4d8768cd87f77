"""Cuts windows around forecast origins out of a store."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.store import SeriesStore


@dataclass(frozen=True, eq=False)
class RawWindows:
    """A batch of windows in raw units: B windows, T = context length, H = prediction length.

    Args:
        past (`np.ndarray`, shape `(B, T, len(CHANNELS))`): Right-aligned at the forecast origin; NaN before the item's
            start and where history is hidden.
        past_timestamps (`np.ndarray`, datetime64[s], shape `(B, T)`): Always valid, also before the item's start.
        future (`np.ndarray`, shape `(B, H, len(CHANNELS))`): NaN beyond the data.
        future_timestamps (`np.ndarray`, datetime64[s], shape `(B, H)`): Always valid.
        static_categories (`np.ndarray`, object, shape `(B, len(STATIC_CATEGORIES))`): str or None.
        static_reals (`np.ndarray`, shape `(B, MAX_STATIC_REALS)`): NaN = missing.
        item_ids (`tuple[str, ...]`): Item of each window.
        item_keys (`np.ndarray`, uint64, shape `(B,)`): Stable hash of each item id.
        future_elasticity (`np.ndarray`, shape `(B, H)`): True own-price elasticity, which only a simulator knows; NaN =
            unknown, as everywhere when left out.
    """

    past: np.ndarray
    past_timestamps: np.ndarray
    future: np.ndarray
    future_timestamps: np.ndarray
    static_categories: np.ndarray
    static_reals: np.ndarray
    item_ids: tuple[str, ...]
    item_keys: np.ndarray
    future_elasticity: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    def __post_init__(self) -> None:
        if self.future_elasticity.size == 0:
            unknown = np.full(self.future.shape[:2], np.nan, dtype=np.float32)
            object.__setattr__(self, "future_elasticity", unknown)

    def __len__(self) -> int:
        return len(self.item_ids)

    def select(self, rows: np.ndarray) -> "RawWindows":
        """Picks windows in a given order.

        Args:
            rows (`np.ndarray`, int64): Window numbers; may repeat.

        Returns:
            `RawWindows`: The chosen windows.
        """
        arrays = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "item_ids"}
        return RawWindows(item_ids=tuple(self.item_ids[row] for row in rows), **arrays)


def read_windows(
    store: SeriesStore,
    item_indices: np.ndarray,
    origins: np.ndarray,
    context_length: int,
    prediction_length: int,
    history_lengths: np.ndarray | None = None,
) -> RawWindows:
    """Cuts one window per (item, origin).

    Args:
        store (`SeriesStore`): Series.
        item_indices (`np.ndarray`, int64, shape `(B,)`): Places in `store.item_ids`.
        origins (`np.ndarray`, int64, shape `(B,)`): Row inside the item of the first future step; the item's length
            means that nothing of the future is known, more means that the item ended earlier.
        context_length (`int`): Past steps T.
        prediction_length (`int`): Future steps H.
        history_lengths (`np.ndarray`, int64, shape `(B,)`, *optional*): Visible past steps; older ones are hidden.

    Returns:
        `RawWindows`: Copies, in the given order.

    Raises:
        PanelError: If an item or origin does not exist.
    """
    items, origins = np.asarray(item_indices, dtype=np.int64), np.asarray(origins, dtype=np.int64)
    if items.size and (items.min() < 0 or items.max() >= len(store.item_ids) or origins.min() < 0):
        raise PanelError(f"windows ask for an item outside 0..{len(store.item_ids) - 1} or for a negative origin")
    starts = store.offsets[items]
    history = context_length if history_lengths is None else np.minimum(history_lengths, context_length)
    first = np.maximum(origins - history, 0)
    last = np.maximum(np.minimum(origins + prediction_length, store.lengths[items]), first)
    place = first - origins + context_length
    window = np.full((len(items), context_length + prediction_length, len(names.CHANNELS)), np.nan, dtype=np.float32)
    _copy_rows(store.values, window, place, starts + first, last - first)
    elasticity = np.full((len(items), prediction_length), np.nan, dtype=np.float32)
    if store.elasticity is not None:
        known = np.maximum(np.minimum(prediction_length, store.lengths[items] - origins), 0)
        _copy_rows(store.elasticity, elasticity, np.zeros_like(origins), starts + origins, known)
    steps = np.arange(-context_length, prediction_length) + origins[:, None]
    stamps = store.frequency.step(np.asarray(store.timestamps[starts])[:, None], steps)
    ids = tuple(store.item_ids[item] for item in items.tolist())
    return RawWindows(
        past=window[:, :context_length],
        past_timestamps=stamps[:, :context_length],
        future=window[:, context_length:],
        future_timestamps=stamps[:, context_length:],
        static_categories=store.static_categories[items],
        static_reals=store.static_reals[items],
        item_ids=ids,
        item_keys=np.array([hash_item_id(item_id) for item_id in ids], dtype=np.uint64),
        future_elasticity=elasticity,
    )


def _copy_rows(values: np.ndarray, window: np.ndarray, place: np.ndarray, first: np.ndarray, count: np.ndarray) -> None:
    # One contiguous copy per window beats gathering single rows.
    blocks = zip(place.tolist(), first.tolist(), count.tolist(), strict=True)
    for target, (at, row, size) in zip(window, blocks, strict=True):
        target[at : at + size] = values[row : row + size]


def concatenate_windows(parts: Sequence[RawWindows]) -> RawWindows:
    """Puts batches of equal lengths one after another.

    Args:
        parts (`Sequence[RawWindows]`): At least one batch.

    Returns:
        `RawWindows`: All windows.
    """
    if len(parts) == 1:
        return parts[0]
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(RawWindows)
        if field.name != "item_ids"
    }
    return RawWindows(item_ids=tuple(item_id for part in parts for item_id in part.item_ids), **arrays)


def origins_at(store: SeriesStore, timestamp: pd.Timestamp | str) -> tuple[np.ndarray, np.ndarray]:
    """Every item that lives before a moment, with the origin whose first future step starts then.

    Args:
        store (`SeriesStore`): Series.
        timestamp (`pd.Timestamp` or `str`): Start of the first future period, on the panel's grid.

    Returns:
        `tuple[np.ndarray, np.ndarray]`, int64 each: Item indices and origins for `read_windows`. An item that ended
        earlier gets an origin beyond its length.

    Raises:
        PanelError: If the moment is not the start of a period of this panel.
    """
    first = np.asarray(store.timestamps[store.offsets[:-1]])
    number, phase = store.frequency.locate(np.array(pd.Timestamp(timestamp).to_datetime64()))
    numbers, phases = store.frequency.locate(first)
    if phase != phases[0]:
        raise PanelError(
            f"{timestamp} is not the start of a period of {store.name!r}: its periods start every "
            f"{store.frequency.name!r} from {pd.Timestamp(first.min()).isoformat()}"
        )
    origins = number - numbers
    items = np.flatnonzero(origins > 0)
    return items, origins[items]


def hash_item_id(item_id: str) -> int:
    """64-bit hash of an item id that is the same in every process.

    Args:
        item_id (`str`): Item.

    Returns:
        `int`: 0 .. 2**64 - 1.
    """
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")
