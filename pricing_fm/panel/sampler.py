"""Draws training windows as a pure function of (seed, step), so that resuming and more processes change nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pricing_fm.errors import PanelError
from pricing_fm.panel.store import IS_INTERVENTION, ORIGIN_IS_KNOWN, UNITS_ARE_OBSERVED, SeriesStore
from pricing_fm.panel.windows import RawWindows, WindowBlock


class WindowSampler:
    """Stateless source of training batches over several panels.

    Every drawn window has at least one observed period in its future and `minimum_history` periods of life before its
    origin. Within a panel all such windows are equally likely, and its shards change no batch: the same items in one
    store or in ten give the same windows.

    Args:
        stores (`Sequence[SeriesStore | Sequence[SeriesStore]]`): Training series; a panel in several shards
            (`load_shards`) is one entry.
        weights (`Sequence[float]`): Share of windows per entry; scaled to sum to 1.
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
        stores: Sequence[SeriesStore | Sequence[SeriesStore]],
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
        self.batch_size = batch_size
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.seed = seed
        self.minimum_history = minimum_history
        self.short_history_probability = short_history_probability
        self.intervention_probability = intervention_probability
        self._cumulative = np.cumsum(np.asarray(weights, dtype=np.float64) / sum(weights))
        self._panels = [
            _PanelOrigins([entry] if isinstance(entry, SeriesStore) else entry, prediction_length, minimum_history)
            for entry in stores
        ]

    @property
    def windows_per_store(self) -> tuple[int, ...]:
        """Distinct forecast origins that each entry of `stores` offers."""
        return tuple(panel.num_windows for panel in self._panels)

    def windows(self, step: int, rank: int = 0, world_size: int = 1) -> RawWindows:
        """The batch of a step, or one process's share of it.

        Args:
            step (`int`): Training step, 0 or more.
            rank (`int`): Process number.
            world_size (`int`): Number of processes; the union over ranks is the same for every world size.

        Returns:
            `RawWindows`: Windows `rank::world_size` of the step's batch.
        """
        block = WindowBlock(len(range(rank, self.batch_size, world_size)), self.context_length, self.prediction_length)
        for drawn in self._draw(step, rank, world_size):
            block.fill(drawn.store, drawn.places, drawn.items, drawn.origins, drawn.history)
        return block.windows()

    def siblings(
        self, step: int, rank: int = 0, world_size: int = 1, per_window: int = 5
    ) -> tuple[RawWindows, np.ndarray]:
        """Windows of siblings of the batch's items, at the same origins and with as much history.

        Args:
            step (`int`): As in `windows`.
            rank (`int`): As in `windows`.
            world_size (`int`): As in `windows`.
            per_window (`int`): Most siblings of a window, drawn without repetition.

        Returns:
            `tuple[RawWindows, np.ndarray]`: The siblings' windows, without futures, and for each the window of the
            batch that it belongs to, int64. An item without siblings has none.
        """
        found = []
        for drawn in self._draw(step, rank, world_size):
            picked, owner = _pick_siblings(drawn.store, drawn.items, drawn.turns, per_window)
            origins = drawn.origins[owner] + _first_periods(drawn.store, drawn.items[owner])
            origins = origins - _first_periods(drawn.store, picked)
            born = origins > 0
            found.append((drawn, picked[born], origins[born], owner[born]))
        total = sum(len(picked) for _, picked, _, _ in found)
        block, owners, filled = WindowBlock(total, self.context_length, 1), np.empty(total, dtype=np.int64), 0
        for drawn, picked, origins, owner in found:
            places = slice(filled, filled + len(picked))
            block.fill(drawn.store, places, picked, origins, drawn.history[owner])
            owners[places] = drawn.places[owner]
            filled += len(picked)
        return block.windows(), owners

    def _draw(self, step: int, rank: int, world_size: int) -> Iterator["_Drawn"]:
        """What the windows of a step are, store by store."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, step))))
        # One column of uniforms per decision: each window's draws are the same whichever process reads it.
        draws = generator.random((self.batch_size, 6))[rank::world_size]
        chosen = np.minimum(np.searchsorted(self._cumulative, draws[:, 0], side="right"), len(self._panels) - 1)
        history = self._draw_histories(draws[:, 3], draws[:, 4])
        for number, panel in enumerate(self._panels):
            mine = np.flatnonzero(chosen == number)
            at_switch = draws[mine, 2] < self.intervention_probability
            for store, places, rows in panel.draw(draws[mine, 1], at_switch):
                items = np.searchsorted(store.offsets, rows, side="right") - 1
                here = mine[places]
                yield _Drawn(store, here, items, rows - store.offsets[items], history[here], draws[here, 5])

    def _draw_histories(self, shorten: np.ndarray, length: np.ndarray) -> np.ndarray:
        ratio = (self.context_length + 1) / self.minimum_history
        drawn = np.floor(self.minimum_history * ratio**length).astype(np.int64)
        drawn = np.clip(drawn, self.minimum_history, self.context_length)
        return np.where(shorten < self.short_history_probability, drawn, self.context_length)


@dataclass(frozen=True)
class _Drawn:
    """Windows of one store: their places in the batch, items, origins, visible history, and a uniform draw each."""

    store: SeriesStore
    places: np.ndarray
    items: np.ndarray
    origins: np.ndarray
    history: np.ndarray
    turns: np.ndarray


def _pick_siblings(
    store: SeriesStore, items: np.ndarray, turns: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Siblings of each item and the place of the item they belong to: neighbours in the group's order, turned."""
    order, starts, position = store.sibling_order
    groups = store.sibling_groups[items]
    sizes = np.where(groups >= 0, starts[groups + 1] - starts[groups], 1)
    others = sizes - 1
    step = 1 + (np.floor(turns * others).astype(np.int64)[:, None] + np.arange(most)) % np.maximum(others, 1)[:, None]
    owner, number = np.nonzero(np.arange(most) < others[:, None])
    place = (position[items[owner]] + step[owner, number]) % sizes[owner]
    return order[starts[groups[owner]] + place], owner


def _first_periods(store: SeriesStore, items: np.ndarray) -> np.ndarray:
    """Number of each item's first period on the calendar."""
    return store.frequency.locate(np.asarray(store.timestamps[store.offsets[items]]))[0]


class _PanelOrigins:
    """Every forecast origin of a panel's shards, as runs of neighbouring rows: a list of all would not fit memory."""

    def __init__(self, shards: Sequence[SeriesStore], prediction_length: int, minimum_history: int) -> None:
        self._shards = tuple(shards)
        starts, lengths, owners = [], [], []
        switches, switch_owners = [], []
        for number, shard in enumerate(self._shards):
            marks = _visible_marks(shard)
            usable = _usable_origins(shard, marks, prediction_length, minimum_history)
            edges = np.flatnonzero(np.diff(usable.view(np.int8), prepend=0, append=0))
            starts.append(edges[::2])
            lengths.append(edges[1::2] - edges[::2])
            owners.append(np.full(len(edges) // 2, number, dtype=np.int32))
            rows = _switch_rows(shard, marks)
            switches.append(rows[usable[rows]])
            switch_owners.append(np.full(len(switches[-1]), number, dtype=np.int32))
        self._starts, self._owners = np.concatenate(starts), np.concatenate(owners)
        self._ends = np.cumsum(np.concatenate(lengths))
        self._switches, self._switch_owners = np.concatenate(switches), np.concatenate(switch_owners)
        if not self._ends.size:
            raise PanelError(
                f"panel {self._shards[0].name!r} has no window with {minimum_history} periods of history and an "
                f"observed period in the {prediction_length} after it; use a longer panel or shorter lengths"
            )

    @property
    def num_windows(self) -> int:
        return int(self._ends[-1])

    def draw(self, which: np.ndarray, at_switch: np.ndarray) -> Iterator[tuple[SeriesStore, np.ndarray, np.ndarray]]:
        """Shard by shard: the shard, places among the draws, rows of their origins. `which` is uniform in [0, 1)."""
        number = (which * self.num_windows).astype(np.int64)
        run = np.searchsorted(self._ends, number, side="right")
        before = np.where(run > 0, self._ends[run - 1], 0)
        rows, owners = self._starts[run] + number - before, self._owners[run]
        if self._switches.size:
            place = (which * len(self._switches)).astype(np.int64)
            rows = np.where(at_switch, self._switches[place], rows)
            owners = np.where(at_switch, self._switch_owners[place], owners)
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            yield self._shards[owner], places, rows[places]


def find_origin_rows(store: SeriesStore, prediction_length: int, minimum_history: int) -> np.ndarray:
    """Rows of a store that can be the first future step of a training window.

    Args:
        store (`SeriesStore`): Series.
        prediction_length (`int`): Future steps; at least one of them must be observed.
        minimum_history (`int`): Periods of the item's life that must lie before.

    Returns:
        `np.ndarray`, int64: Global row numbers, sorted.
    """
    return np.flatnonzero(_usable_origins(store, _visible_marks(store), prediction_length, minimum_history))


def find_switch_rows(store: SeriesStore) -> np.ndarray:
    """Rows where an item's prices begin to be interventions, after a stretch in which they were not.

    Args:
        store (`SeriesStore`): Series.

    Returns:
        `np.ndarray`, int64: Global row numbers, sorted; an item that starts with interventions has no such row.
    """
    return _switch_rows(store, _visible_marks(store))


def _usable_origins(store: SeriesStore, marks: np.ndarray, prediction_length: int, minimum_history: int) -> np.ndarray:
    """True where a row can be an origin, `(rows,)`."""
    usable = (marks & UNITS_ARE_OBSERVED) > 0
    reached, last_rows = usable.copy(), store.offsets[1:] - 1
    # An observed period makes the `prediction_length` origins up to itself usable, as far as its item reaches back.
    for _ in range(prediction_length - 1):
        reached[:-1] = reached[1:]
        reached[last_rows] = False
        usable |= reached
    return usable & ~_first_rows(store, np.minimum(np.diff(store.offsets), minimum_history))


def _visible_marks(store: SeriesStore) -> np.ndarray:
    """Marks of every row, 0 where the store is cut by time."""
    marks = np.asarray(store.marks)
    return marks if store.visible_lengths is None else np.where(_first_rows(store, store.visible_lengths), marks, 0)


def _first_rows(store: SeriesStore, counts: np.ndarray) -> np.ndarray:
    """True in the first so many rows of each item, `(rows,)`."""
    edges = np.zeros(len(store.values) + 1, dtype=np.int32)
    np.add.at(edges, store.offsets[:-1], 1)
    np.add.at(edges, store.offsets[:-1] + counts, -1)
    return np.cumsum(edges[:-1]) > 0


def _switch_rows(store: SeriesStore, marks: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(marks & ORIGIN_IS_KNOWN)  # filled periods do not say who set the price
    is_intervention = (marks[known] & IS_INTERVENTION) > 0
    item = np.searchsorted(store.offsets, known, side="right")
    return known[1:][is_intervention[1:] & ~is_intervention[:-1] & (item[1:] == item[:-1])]


def _check_weights(weights: Sequence[float], stores: int) -> None:
    if len(weights) != stores or not stores or min(weights) < 0 or sum(weights) <= 0:
        raise PanelError(f"{stores} stores need as many weights, 0 or more and not all 0; found {list(weights)}")
