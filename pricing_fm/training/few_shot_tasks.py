"""Few-shot tasks: a category's last k weeks before an origin to adapt on, and the weeks after it to be judged by.

Whatever lies before the k weeks is seen nowhere: not in a context, not in a scale or reference price, not in what the
siblings say. Shapes: C categories, R rows (windows) of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pricing_fm import names
from pricing_fm.adapters import regress_category
from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMProcessor
from pricing_fm.panel import RawWindows, SeriesStore, add_assortment_to_windows, read_windows
from pricing_fm.training.collate import elasticity_targets

Batch = dict[str, torch.Tensor]

# Inside the support: shares of the weeks after which a window's future starts, so that early and late weeks are both
# learned from, each with the weeks before it as context.
ORIGIN_SHARES = (0.5, 0.75)
# Fewest visible weeks that gradients can learn from: one before, one after, and one that decides on the steps.
FEWEST_WEEKS = 3


@dataclass(frozen=True)
class Category:
    """Items that share an adapter, and the moment up to which they are known.

    Args:
        name (`str`): Category.
        items (`tuple[int, ...]`): Places of its items in the store.
        origin (`int`): First week that is not known, on the store's calendar.
    """

    name: str
    items: tuple[int, ...]
    origin: int


@dataclass(frozen=True)
class TaskArguments:
    """What few-shot tasks look like.

    Args:
        weeks (`tuple[int, ...]`): Numbers k of visible weeks.
        query_weeks (`int`): Weeks after the origin that judge, and future weeks of every window.
        holdout_share (`float`): Last share of the visible weeks that decides on the number of steps.
    """

    weeks: tuple[int, ...] = field(default=(0, 4, 13, 26), metadata={"help": "numbers of visible weeks, mixed"})
    query_weeks: int = field(default=8, metadata={"help": "weeks after the origin that judge an adaptation"})
    holdout_share: float = field(default=0.25, metadata={"help": "last share of visible weeks that decides on steps"})

    def __post_init__(self) -> None:
        wrong = [k for k in self.weeks if k < 0 or 0 < k < FEWEST_WEEKS]
        if wrong or not self.weeks or list(self.weeks) != sorted(set(self.weeks)):
            raise ValueError(
                f"--weeks is {list(self.weeks)}; expected increasing numbers, each 0 or {FEWEST_WEEKS} and more"
            )
        if self.query_weeks < 1:
            raise ValueError(f"--query_weeks must be at least 1, found {self.query_weeks}")
        if not 0 < self.holdout_share < 1:
            raise ValueError(f"--holdout_share must be in (0, 1), found {self.holdout_share}")

    def held_weeks(self, weeks: int) -> int:
        """Weeks of k that are kept back: at least one, and two are left."""
        return min(max(1, round(self.holdout_share * weeks)), weeks - 2)


@dataclass(frozen=True)
class FewShotTask:
    """Windows of C categories that were visible for k weeks; every tensor is `(C, R, ...)`.

    `loss_weights` `(C, R)` is 0 for rows that only fill up, and sums to R over the rows of a category.

    Args:
        learned (`dict`): Windows inside the visible weeks but for the held ones.
        held (`dict`): Windows whose future is the held weeks.
        support (`dict`): Windows inside all visible weeks.
        query (`dict`): Windows whose context is all visible weeks, and whose future are the weeks after the origin;
            `category_regression` `(C, R, 2)` is the same in all rows of a category.
    """

    learned: Batch
    held: Batch
    support: Batch
    query: Batch


def find_categories(
    store: SeriesStore, most_weeks: int, query_weeks: int, seed: int, cadence: str = "W"
) -> list[Category]:
    """Every category of a store with an origin: where prices begin to be drawn at random, else drawn among its weeks.

    Args:
        store (`SeriesStore`): Series with categories.
        most_weeks (`int`): Weeks that must lie before an origin; periods of the store, where `cadence` is no week.
        query_weeks (`int`): Weeks that must follow it; likewise.
        seed (`int`): Of drawn origins.
        cadence (`str`): Length of a period that the caller counts in.

    Returns:
        `list[Category]`: Sorted by name; categories that are too short are left out.

    Raises:
        PanelError: If the store has another cadence, or none of its categories is long enough.
    """
    if not store.frequency.name.startswith(cadence):
        raise PanelError(
            f"panel {store.name!r} has periods of {store.frequency.name!r}; few-shot tasks count periods of {cadence!r}"
        )
    column = store.static_categories[:, names.STATIC_CATEGORIES.index(names.CATEGORY)]
    labels = sorted({str(label) for label in column if label is not None})
    first_weeks = _weeks_of(store, np.asarray(store.timestamps[store.offsets[:-1]]))
    switches = _first_drawn_weeks(store, first_weeks)
    found = []
    for number, label in enumerate(labels):
        items = np.flatnonzero(column == label)
        earliest = first_weeks[items].min() + most_weeks
        latest = (first_weeks + np.diff(store.offsets))[items].max() - query_weeks
        if latest < earliest:
            continue
        drawn = switches[items][switches[items] >= 0]
        if len(drawn) and earliest <= drawn.min() <= latest:
            week = int(drawn.min())
        else:
            week = int(np.random.default_rng((seed, number)).integers(earliest, latest + 1))
        found.append(Category(label, tuple(int(item) for item in items), week))
    if not found:
        raise PanelError(
            f"panel {store.name!r} has {len(labels)} categories, none with {most_weeks} weeks before an origin and "
            f"{query_weeks} after it"
        )
    return found


def build_task(
    store: SeriesStore,
    categories: Sequence[Category],
    processor: PricingFMProcessor,
    weeks: int,
    arguments: TaskArguments,
    patch_length: int,
    rows: int | None = None,
) -> FewShotTask:
    """Everything of some categories at one k, as tensors.

    Args:
        store (`SeriesStore`): Series.
        categories (`Sequence[Category]`): Whose windows; their weeks before `origin - weeks` are read nowhere.
        processor (`PricingFMProcessor`): Belongs to the network.
        weeks (`int`): k, in periods of the store.
        arguments (`TaskArguments`): Query and holdout.
        patch_length (`int`): Of the network; contexts are as many whole patches as the weeks need.
        rows (`int`, *optional*): Items that every category is filled up to; None = as many as the largest has.

    Returns:
        `FewShotTask`: Without visible weeks (k = 0) only the query has rows.

    Raises:
        ValueError: If a category has more items than `rows`.
    """
    reader = _Reader(store, categories, processor, weeks, arguments.query_weeks, patch_length, rows)
    query = reader.read([0], arguments.query_weeks) | reader.regress()
    if weeks == 0:
        nothing = {name: tensor[:, :0] for name, tensor in query.items()}
        return FewShotTask(nothing, nothing, nothing, query)
    held = arguments.held_weeks(weeks)
    return FewShotTask(
        learned=reader.read(_inner_starts(weeks, held), -held),
        held=reader.read([-held], 0),
        support=reader.read(_inner_starts(weeks, 0), 0),
        query=query,
    )


def last_week(store: SeriesStore) -> tuple[int, int]:
    """First and last week of any item, on the store's calendar."""
    first_weeks = _weeks_of(store, np.asarray(store.timestamps[store.offsets[:-1]]))
    return int(first_weeks.min()), int((first_weeks + np.diff(store.offsets)).max()) - 1


def select_categories(task: FewShotTask, places: torch.Tensor) -> FewShotTask:
    """Some of a task's categories, in the given order; places `(c,)`, long."""
    parts = ({name: tensor[places] for name, tensor in part.items()} for part in vars(task).values())
    return FewShotTask(*parts)


def concatenate_tasks(tasks: Sequence[FewShotTask]) -> FewShotTask:
    """Tasks of several panels at the same k as one, category after category; rows and weeks have to agree."""
    if len(tasks) == 1:
        return tasks[0]
    parts = zip(*(vars(task).values() for task in tasks), strict=True)
    return FewShotTask(*({name: torch.cat([one[name] for one in part]) for name in part[0]} for part in parts))


def flatten_rows(batch: Batch) -> Batch:
    """`(C, R, ...)` -> `(C x R, ...)`, category by category, as the network takes it."""
    return {name: tensor.flatten(0, 1) for name, tensor in batch.items()}


def _inner_starts(weeks: int, held: int) -> list[int]:
    """First future weeks of the windows inside the support, relative to the origin."""
    learned = weeks - held
    return sorted({min(max(1, round(share * learned)), learned - 1) - weeks for share in ORIGIN_SHARES})


@dataclass(frozen=True)
class _Reader:
    store: SeriesStore
    categories: Sequence[Category]
    processor: PricingFMProcessor
    weeks: int
    ahead: int
    patch_length: int
    rows: int | None

    def read(self, starts: Sequence[int], end: int) -> Batch:
        """Windows whose futures start at `starts` and are hidden from `end` on, both relative to the origins."""
        parts = [self._read_origin(start, end) for start in starts]
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def regress(self) -> Batch:
        """Elasticity and standard error of each category's regression over its visible weeks, NaN without any."""
        windows, owners = self._windows(0, self.ahead)
        rows = int(np.bincount(owners, minlength=len(self.categories)).max()) if self.rows is None else self.rows
        found = [regress_category(windows.past[owners == owner]) for owner in range(len(self.categories))]
        numbers = np.array([(np.nan, np.nan) if one is None else one for one in found], dtype=np.float32)
        return {"category_regression": torch.from_numpy(numbers)[:, None].repeat(1, rows, 1)}

    def _read_origin(self, start: int, end: int) -> Batch:
        windows, owners = self._windows(start, end)
        batch = self.processor(windows, self.processor.read_siblings(windows, owners)) | elasticity_targets(windows)
        counts = np.bincount(owners, minlength=len(self.categories))
        rows = int(counts.max()) if self.rows is None else self.rows
        if counts.max() > rows or counts.min() < 1:
            name = self.categories[int(counts.argmax() if counts.max() > rows else counts.argmin())].name
            raise ValueError(f"category {name!r} has {counts[counts.argmax()]} items; expected 1 to {rows}")
        first = np.cumsum(counts) - counts
        place = np.arange(rows)
        taken = torch.from_numpy(first[:, None] + np.minimum(place, counts[:, None] - 1))
        weights = np.where(place < counts[:, None], rows / counts[:, None], 0.0)
        return {name: tensor[taken] for name, tensor in batch.items()} | {
            "loss_weights": torch.from_numpy(weights.astype(np.float32))
        }

    def _windows(self, start: int, end: int) -> tuple[RawWindows, np.ndarray]:
        """One window per item that has begun, category by category, and the category of each."""
        owners = np.repeat(np.arange(len(self.categories)), [len(one.items) for one in self.categories])
        items = np.concatenate([one.items for one in self.categories]).astype(np.int64)
        first_weeks = _weeks_of(self.store, np.asarray(self.store.timestamps[self.store.offsets[items]]))
        origins = np.array([one.origin for one in self.categories])[owners] + start - first_weeks
        begun = origins >= 0
        items, owners, origins = items[begun], owners[begun], origins[begun]
        context = max(-(-self.weeks // self.patch_length), 1) * self.patch_length
        visible = np.full(len(items), self.weeks + start)
        windows = read_windows(self.store, items, origins, context, self.ahead, visible)
        future, elasticity = windows.future.copy(), windows.future_elasticity.copy()
        future[:, end - start :], elasticity[:, end - start :] = np.nan, np.nan
        shown = replace(windows, future=future, future_elasticity=elasticity)
        return add_assortment_to_windows(shown), owners


def _weeks_of(store: SeriesStore, timestamps: np.ndarray) -> np.ndarray:
    """Number of each moment's week on the store's calendar, int64."""
    return np.asarray(store.frequency.locate(timestamps)[0])


def _first_drawn_weeks(store: SeriesStore, first_weeks: np.ndarray) -> np.ndarray:
    """Week in which each item's prices begin to be drawn at random, -1 = never, `(items,)`."""
    drawn = np.nan_to_num(np.asarray(store.values[:, names.CHANNEL_INDEX[names.PRICE_IS_INTERVENTION]])) > 0
    rows = np.flatnonzero(drawn)
    owner, place = np.unique(np.searchsorted(store.offsets, rows, side="right") - 1, return_index=True)
    weeks = np.full(len(store.item_ids), -1)
    weeks[owner] = first_weeks[owner] + rows[place] - store.offsets[owner]
    return weeks
