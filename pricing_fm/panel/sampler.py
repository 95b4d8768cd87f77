"""Draws training windows as a pure function of (seed, step), so that resuming and more processes change nothing."""

from collections.abc import Sequence

import numpy as np

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.store import SeriesStore
from pricing_fm.panel.windows import RawWindows, concatenate_windows, read_windows


class WindowSampler:
    """Stateless source of training batches over several stores.

    Every drawn window has at least one observed period in its future and `minimum_history` periods of life before its
    origin. Within a store all such windows are equally likely.

    Args:
        stores (`Sequence[SeriesStore]`): Training series.
        weights (`Sequence[float]`): Share of windows per store; scaled to sum to 1.
        batch_size (`int`): Windows per step over all processes.
        context_length (`int`): Past steps.
        prediction_length (`int`): Future steps.
        seed (`int`): Seed of all draws.
        minimum_history (`int`): Least periods of life before an origin, and least visible history.
        short_history_probability (`float`): Probability that the visible history is cut to a log-uniform length in
            `[minimum_history, context_length]` (cold starts).
        intervention_probability (`float`): In stores whose prices become interventions inside an item: probability that
            the origin is the first intervened period.

    Raises:
        PanelError: If a store has no usable window, or the arguments contradict each other.
    """

    def __init__(
        self,
        stores: Sequence[SeriesStore],
        weights: Sequence[float],
        batch_size: int,
        context_length: int,
        prediction_length: int,
        seed: int,
        minimum_history: int = 8,
        short_history_probability: float = 0.3,
        intervention_probability: float = 0.5,
    ) -> None:
        _check_weights(weights, len(stores))
        for name, value in (("batch_size", batch_size), ("prediction_length", prediction_length)):
            if value < 1:
                raise PanelError(f"{name} is {value}; it must be at least 1")
        for name, share in (
            ("short_history_probability", short_history_probability),
            ("intervention_probability", intervention_probability),
        ):
            if not 0 <= share <= 1:
                raise PanelError(f"{name} is {share}; a probability lies in 0..1")
        if not 1 <= minimum_history <= context_length:
            raise PanelError(
                f"minimum_history is {minimum_history}; it must lie in 1..{context_length} (context_length)"
            )
        self.stores = tuple(stores)
        self.batch_size = batch_size
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.seed = seed
        self.minimum_history = minimum_history
        self.short_history_probability = short_history_probability
        self.intervention_probability = intervention_probability
        self._cumulative = np.cumsum(np.asarray(weights, dtype=np.float64) / sum(weights))
        self._origin_rows = [_find_some_origin_rows(store, prediction_length, minimum_history) for store in stores]
        self._switch_rows = [
            np.intersect1d(find_switch_rows(store), rows, assume_unique=True)
            for store, rows in zip(stores, self._origin_rows, strict=True)
        ]

    @property
    def windows_per_store(self) -> tuple[int, ...]:
        """Distinct forecast origins that each store offers."""
        return tuple(len(rows) for rows in self._origin_rows)

    def windows(self, step: int, rank: int = 0, world_size: int = 1) -> RawWindows:
        """The batch of a step, or one process's share of it.

        Args:
            step (`int`): Training step, 0 or more.
            rank (`int`): Process number.
            world_size (`int`): Number of processes; the union over ranks is the same for every world size.

        Returns:
            `RawWindows`: Windows `rank::world_size` of the step's batch.
        """
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, step))))
        # One column of uniforms per decision: each window's draws are the same whichever process reads it.
        draws = generator.random((self.batch_size, 5))[rank::world_size]
        chosen = np.minimum(np.searchsorted(self._cumulative, draws[:, 0], side="right"), len(self.stores) - 1)
        history = self._draw_histories(draws[:, 3], draws[:, 4])
        parts, order = [], []
        for place, store in enumerate(self.stores):
            mine = np.flatnonzero(chosen == place)
            if mine.size:
                rows = self._draw_rows(place, draws[mine, 1], draws[mine, 2])
                items = np.searchsorted(store.offsets, rows, side="right") - 1
                origins = rows - store.offsets[items]
                lengths = self.context_length, self.prediction_length
                parts.append(read_windows(store, items, origins, *lengths, history_lengths=history[mine]))
                order.append(mine)
        return parts[0] if len(parts) == 1 else concatenate_windows(parts).select(np.argsort(np.concatenate(order)))

    def _draw_rows(self, place: int, which: np.ndarray, intervene: np.ndarray) -> np.ndarray:
        origins, switches = self._origin_rows[place], self._switch_rows[place]
        rows = origins[(which * len(origins)).astype(np.int64)]
        if switches.size:
            at_switch = intervene < self.intervention_probability
            rows = np.where(at_switch, switches[(which * len(switches)).astype(np.int64)], rows)
        return rows

    def _draw_histories(self, shorten: np.ndarray, length: np.ndarray) -> np.ndarray:
        ratio = (self.context_length + 1) / self.minimum_history
        drawn = np.floor(self.minimum_history * ratio**length).astype(np.int64)
        drawn = np.clip(drawn, self.minimum_history, self.context_length)
        return np.where(shorten < self.short_history_probability, drawn, self.context_length)


def find_origin_rows(store: SeriesStore, prediction_length: int, minimum_history: int) -> np.ndarray:
    """Rows of a store that can be the first future step of a training window.

    Args:
        store (`SeriesStore`): Series.
        prediction_length (`int`): Future steps; at least one of them must be observed.
        minimum_history (`int`): Periods of the item's life that must lie before.

    Returns:
        `np.ndarray`, int64: Global row numbers, sorted.
    """
    observed = ~np.isnan(store.values[:, names.CHANNEL_INDEX[names.UNITS]])
    seen = np.r_[0, np.cumsum(observed)]
    rows = np.arange(len(observed))
    starts = np.repeat(store.offsets[:-1], store.lengths)
    ends = np.repeat(store.offsets[1:], store.lengths)
    in_future = seen[np.minimum(rows + prediction_length, ends)] - seen[rows]
    return np.flatnonzero((rows - starts >= minimum_history) & (in_future > 0))


def find_switch_rows(store: SeriesStore) -> np.ndarray:
    """Rows where an item's prices begin to be interventions, after a stretch in which they were not.

    Args:
        store (`SeriesStore`): Series.

    Returns:
        `np.ndarray`, int64: Global row numbers, sorted; an item that starts with interventions has no such row.
    """
    flag = np.asarray(store.values[:, names.CHANNEL_INDEX[names.PRICE_IS_INTERVENTION]])
    known = np.flatnonzero(~np.isnan(flag))  # filled periods do not say who set the price
    item = np.searchsorted(store.offsets, known, side="right")
    switches = (flag[known[1:]] == 1) & (flag[known[:-1]] == 0) & (item[1:] == item[:-1])
    return known[1:][switches]


def _find_some_origin_rows(store: SeriesStore, prediction_length: int, minimum_history: int) -> np.ndarray:
    rows = find_origin_rows(store, prediction_length, minimum_history)
    if rows.size == 0:
        raise PanelError(
            f"panel {store.name!r} has no window with {minimum_history} periods of history and an observed period in "
            f"the {prediction_length} after it; use a longer panel or shorter lengths"
        )
    return rows


def _check_weights(weights: Sequence[float], stores: int) -> None:
    if len(weights) != stores or not stores or min(weights) < 0 or sum(weights) <= 0:
        raise PanelError(f"{stores} stores need as many weights, 0 or more and not all 0; found {list(weights)}")
