"""Code of the panel contract: load, check, split, cut into windows (the top-level folder `data/` holds sources)."""

from pricing_fm.panel.assortment import add_assortment, add_assortment_to_windows
from pricing_fm.panel.companion import read_companion
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel
from pricing_fm.panel.sampler import WindowSampler
from pricing_fm.panel.schema import PanelSchema, read_schema
from pricing_fm.panel.shards import ShardSettings, load_shards, prepare_shards
from pricing_fm.panel.splits import CategorySplit, TimeSplit, check_spellings, split_by_category, split_by_time
from pricing_fm.panel.store import SeriesStore, build_store, load_store, save_store
from pricing_fm.panel.windows import RawWindows, concatenate_windows, origins_at, read_windows

__all__ = [
    "CategorySplit",
    "Frequency",
    "Panel",
    "PanelSchema",
    "RawWindows",
    "SeriesStore",
    "ShardSettings",
    "TimeSplit",
    "WindowSampler",
    "add_assortment",
    "add_assortment_to_windows",
    "build_store",
    "concatenate_windows",
    "load_panel",
    "load_shards",
    "load_store",
    "origins_at",
    "prepare_shards",
    "read_companion",
    "read_schema",
    "read_windows",
    "save_store",
    "check_spellings",
    "split_by_category",
    "split_by_time",
]
