"""Validation lies after training, is the same every time, and is spread over items and origins."""

import numpy as np
import pandas as pd
import pytest
import torch

from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.names import CHANNEL_INDEX
from pricing_fm.panel import Panel, RawWindows, SeriesStore
from pricing_fm.training.validation import time_forward_batches


class Watcher:
    """Stands in for the processor and keeps the windows it was given; siblings say whose and of what time they are."""

    context_length = 16

    def __init__(self) -> None:
        self.windows: list[RawWindows] = []
        self.siblings: list[np.ndarray] = []

    def __call__(self, windows: RawWindows, siblings: np.ndarray) -> dict[str, torch.Tensor]:
        self.windows.append(windows)
        self.siblings.append(siblings)
        return {"item": torch.arange(len(windows))}

    def read_siblings(self, windows: RawWindows, groups: np.ndarray) -> np.ndarray:
        assert len(set(windows.future_timestamps[:, 0])) <= 1  # who sells at another time is no sibling of today
        return tell(windows)


def tell(windows: RawWindows) -> np.ndarray:
    """Item and origin of each window as numbers."""
    return np.stack([windows.item_keys % 2**40, windows.future_timestamps[:, 0].astype(np.int64)], axis=1).astype(float)


def start_of(panel: Panel, weeks: int) -> pd.Timestamp:
    return panel.frequency.step(panel.last_observed, 1 - weeks)


def test_every_future_starts_at_the_validation_or_whole_futures_later(
    tiny_panel: Panel, tiny_store: SeriesStore
) -> None:
    watcher, start = Watcher(), start_of(tiny_panel, 8)
    batches = time_forward_batches(tiny_store, start, watcher, 4, 1000, 5)  # type: ignore[arg-type]
    origins = np.concatenate([windows.future_timestamps[:, 0] for windows in watcher.windows])
    expected = [start, tiny_panel.frequency.step(start, 4)]
    assert set(origins) == {np.datetime64(stamp, "s") for stamp in expected}
    assert sorted(len(batch["item"]) for batch in batches) == [4, 5, 5, 5, 5]
    units = np.concatenate([windows.future[..., CHANNEL_INDEX["units"]] for windows in watcher.windows])
    assert np.isfinite(units).any(axis=1).all()
    for windows, siblings in zip(watcher.windows, watcher.siblings, strict=True):
        np.testing.assert_array_equal(siblings, tell(windows))  # each window is told of its own siblings


def test_a_limit_keeps_an_even_spread_of_the_same_windows(tiny_panel: Panel, tiny_store: SeriesStore) -> None:
    start = start_of(tiny_panel, 8)
    kept = []
    for most in (1000, 6, 6):
        watcher = Watcher()
        time_forward_batches(tiny_store, start, watcher, 4, most, 100)  # type: ignore[arg-type]
        kept.append(list(zip(watcher.windows[0].item_ids, watcher.windows[0].future_timestamps[:, 0])))
    everything, some, again = kept
    assert some == again
    assert len(some) == 6
    assert set(some) < set(everything)
    assert len({item for item, _ in some}) > 3
    assert len({origin for _, origin in some}) == 2


def test_nothing_to_validate_on_is_refused(tiny_panel: Panel, tiny_store: SeriesStore) -> None:
    after = tiny_panel.frequency.step(tiny_panel.last_observed, 1)
    with pytest.raises(PanelError, match="nothing to validate on"):
        time_forward_batches(tiny_store, after, Watcher(), 4, 10, 5)  # type: ignore[arg-type]


def test_the_network_reads_the_batches(
    tiny_panel: Panel,
    tiny_store: SeriesStore,
    tiny_processor: PricingFMProcessor,
    tiny_model: PricingFMForPreTraining,
) -> None:
    batches = time_forward_batches(tiny_store, start_of(tiny_panel, 4), tiny_processor, 4, 10, 5)
    losses = [tiny_model(**batch).loss.item() for batch in batches]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
