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
    """Stands in for the processor and keeps the windows it was given."""

    context_length = 16

    def __init__(self) -> None:
        self.windows: list[RawWindows] = []

    def __call__(self, windows: RawWindows) -> dict[str, torch.Tensor]:
        self.windows.append(windows)
        return {"item": torch.arange(len(windows))}


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
