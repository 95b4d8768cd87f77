"""Cuts windows around forecast origins out of a store."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.store import SeriesStore
from pricing_fm.panel.store import hash_item_id as hash_item_id


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
    items = np.asarray(item_indices, dtype=np.int64)
    block = WindowBlock(len(items), context_length, prediction_length)
    block.fill(store, slice(None), items, np.asarray(origins, dtype=np.int64), history_lengths)
    return block.windows()


class WindowBlock:
    """A batch that stores write their windows into, each at places of its own.

    The sampler mixes many stores in one batch; each window is written once, where it belongs.

    Args:
        batch_size (`int`): Windows B.
        context_length (`int`): Past steps T.
        prediction_length (`int`): Future steps H.
    """

    def __init__(self, batch_size: int, context_length: int, prediction_length: int) -> None:
        self._context_length = context_length
        self._values = np.empty((batch_size, context_length + prediction_length, len(names.CHANNELS)), np.float32)
        self._timestamps = np.empty(self._values.shape[:2], dtype="datetime64[s]")
        self._elasticity = np.empty((batch_size, prediction_length), dtype=np.float32)
        self._categories = np.empty((batch_size, len(names.STATIC_CATEGORIES)), dtype=object)
        self._reals = np.empty((batch_size, names.MAX_STATIC_REALS), dtype=np.float32)
        self._item_ids = np.empty(batch_size, dtype=object)
        self._item_keys = np.empty(batch_size, dtype=np.uint64)
        self._steps = np.arange(-context_length, prediction_length)

    def fill(
        self,
        store: SeriesStore,
        places: np.ndarray | slice,
        items: np.ndarray,
        origins: np.ndarray,
        history_lengths: np.ndarray | None = None,
    ) -> None:
        """Writes one window of a store to each place; arguments as in `read_windows`.

        Args:
            store (`SeriesStore`): Series.
            places (`np.ndarray`, int64, shape `(n,)`, or `slice`): Rows of the batch.
            items (`np.ndarray`, int64, shape `(n,)`): Places in `store.item_ids`.
            origins (`np.ndarray`, int64, shape `(n,)`): Row inside the item of the first future step.
            history_lengths (`np.ndarray`, int64, shape `(n,)`, *optional*): Visible past steps.

        Raises:
            PanelError: If an item or origin does not exist.
        """
        if items.size and (items.min() < 0 or items.max() >= len(store.item_ids) or origins.min() < 0):
            raise PanelError(f"windows ask for an item outside 0..{len(store.item_ids) - 1} or for a negative origin")
        starts = store.offsets[items]
        ends = store.offsets[items + 1] - starts if store.visible_lengths is None else store.visible_lengths[items]
        context, ahead = self._context_length, self._elasticity.shape[1]
        history = context if history_lengths is None else np.minimum(history_lengths, context)
        first = np.maximum(origins - history, 0)
        last = np.maximum(np.minimum(origins + ahead, ends), first)
        rows = np.arange(len(self._values))[places]
        _copy_rows(store.values, self._values, rows, first - origins + context, starts + first, last - first)
        self._elasticity[places] = np.nan
        if store.elasticity is not None:
            steps = origins[:, None] + np.arange(ahead)
            known = np.asarray(store.elasticity)[starts[:, None] + np.clip(steps, 0, np.maximum(ends[:, None] - 1, 0))]
            self._elasticity[places] = np.where(steps < ends[:, None], known, np.nan)
        first_stamps = np.asarray(store.timestamps[starts])
        self._timestamps[places] = store.frequency.step(first_stamps[:, None], origins[:, None] + self._steps)
        self._categories[places] = store.static_categories[items]
        self._reals[places] = store.static_reals[items]
        self._item_ids[places] = [store.item_ids[item] for item in items.tolist()]
        self._item_keys[places] = store.item_keys[items]

    def windows(self) -> RawWindows:
        """The batch, once every place is filled.

        Returns:
            `RawWindows`: Views of the block.
        """
        context = self._context_length
        return RawWindows(
            past=self._values[:, :context],
            past_timestamps=self._timestamps[:, :context],
            future=self._values[:, context:],
            future_timestamps=self._timestamps[:, context:],
            static_categories=self._categories,
            static_reals=self._reals,
            item_ids=tuple(self._item_ids),
            item_keys=self._item_keys,
            future_elasticity=self._elasticity,
        )


def _copy_rows(
    source: np.ndarray, target: np.ndarray, rows: np.ndarray, place: np.ndarray, first: np.ndarray, count: np.ndarray
) -> None:
    """Copies `source[first : first + count]` to `target[row, place : place + count]`, NaN around it."""
    source = np.asarray(source)  # slices of a memory map cost three times as much
    length = target.shape[1]
    target[rows[count < length]] = np.nan
    flat = target.reshape(-1, target.shape[2])
    begin = rows * length + place
    # One contiguous copy per window beats gathering single rows.
    edges = zip(begin.tolist(), (begin + count).tolist(), first.tolist(), (first + count).tolist(), strict=True)
    for to, to_end, row, row_end in edges:
        flat[to:to_end] = source[row:row_end]


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
