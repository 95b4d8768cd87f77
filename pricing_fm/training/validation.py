"""Fixed validation batches that lie after everything that was trained on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMProcessor
from pricing_fm.panel.sampler import WindowSampler, find_origin_rows
from pricing_fm.panel.store import SeriesStore
from pricing_fm.panel.windows import origins_at, read_windows
from pricing_fm.training.collate import elasticity_targets, read_drawn_siblings
from pricing_fm.training.sources import Batch


def time_forward_batches(
    store: SeriesStore,
    evaluate_from: pd.Timestamp,
    processor: PricingFMProcessor,
    prediction_length: int,
    most_windows: int,
    batch_size: int,
    minimum_history: int = 8,
) -> list[Batch]:
    """Windows whose futures start at `evaluate_from` and every `prediction_length` periods after it, side by side.

    All covariates of the future are visible, and no task hides anything: the loss is the one of forecasting along known
    prices. The windows are a pure function of the arguments.

    Args:
        store (`SeriesStore`): Series up to the end of the validation periods.
        evaluate_from (`pd.Timestamp`): First period that was not trained on.
        processor (`PricingFMProcessor`): Turns windows into tensors.
        prediction_length (`int`): Future steps.
        most_windows (`int`): Windows to keep at most, evenly spread over origins and items.
        batch_size (`int`): Windows per batch; the last batch may be shorter.
        minimum_history (`int`): Fewest periods of an item's life before the origin.

    Returns:
        `list[dict[str, torch.Tensor]]`: At least one batch.

    Raises:
        PanelError: If no item has an observed period from `evaluate_from` on.
    """
    usable = find_origin_rows(store, prediction_length, minimum_history)
    last = pd.Timestamp(store.timestamps.max())
    nothing = np.empty(0, dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray]] = [(nothing, nothing)]
    origin = evaluate_from
    while origin <= last:
        items, rows = origins_at(store, origin)
        inside = (rows < store.lengths[items]) & np.isin(store.offsets[items] + rows, usable)
        found.append((items[inside], rows[inside]))
        origin = store.frequency.step(origin, prediction_length)
    items, rows = (np.concatenate(parts) for parts in zip(*found))
    if not items.size:
        raise PanelError(
            f"panel {store.name!r} has nothing to validate on: no observed units after {minimum_history} periods of "
            f"history from {evaluate_from} on; move --validation_start or raise --validation_periods"
        )
    kept = np.unique(np.linspace(0, len(items) - 1, min(most_windows, len(items))).round().astype(np.int64))
    siblings = np.concatenate([_read_siblings(store, origin, processor) for origin in found])[kept]
    lengths = processor.context_length, prediction_length
    batches = []
    for part in np.array_split(np.arange(len(kept)), -(-len(kept) // batch_size)):
        windows = read_windows(store, items[kept[part]], rows[kept[part]], *lengths)
        batches.append(processor(windows, siblings[part]) | elasticity_targets(windows))
    return batches


def _read_siblings(
    store: SeriesStore, origin: tuple[np.ndarray, np.ndarray], processor: PricingFMProcessor
) -> np.ndarray:
    """What the other items at an origin say of each, `(items, 20)`."""
    windows = read_windows(store, *origin, processor.context_length, 1)
    return processor.read_siblings(windows, store.sibling_groups[origin[0]])


def drawn_batches(
    store: SeriesStore | Sequence[SeriesStore],
    processor: PricingFMProcessor,
    prediction_length: int,
    num_batches: int,
    batch_size: int,
    minimum_history: int = 8,
) -> list[Batch]:
    """Windows of series that were never trained on, at origins drawn once and for all, half of them interventions.

    Args:
        store (`SeriesStore | Sequence[SeriesStore]`): Series apart from those of training; shards of one panel.
        processor (`PricingFMProcessor`): Turns windows into tensors.
        prediction_length (`int`): Future steps.
        num_batches (`int`): Batches.
        batch_size (`int`): Windows per batch.
        minimum_history (`int`): Fewest periods of an item's life before the origin.

    Returns:
        `list[dict[str, torch.Tensor]]`.
    """
    sampler = WindowSampler(
        [store], [1.0], batch_size, processor.context_length, prediction_length, 0, minimum_history=minimum_history
    )
    batches = []
    for step in range(num_batches):
        windows = sampler.windows(step)
        siblings = read_drawn_siblings(processor, windows, *sampler.siblings(step))
        batches.append(processor(windows, siblings) | elasticity_targets(windows))
    return batches
