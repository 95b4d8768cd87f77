"""Series as flat arrays, in memory and on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel
from pricing_fm.panel.store import (
    ARRAY_FILES,
    ELASTICITY_FILE,
    FORMAT_VERSION,
    INDEX_FILE,
    MANIFEST_FILE,
    SeriesStore,
    build_store,
    load_store,
    save_store,
)


def build_panel() -> Panel:
    weeks = pd.date_range("2024-01-03", periods=6, freq="7D")
    first = pd.DataFrame(
        {"item_id": "b", "timestamp": weeks[[0, 1, 2, 4]], "units": [1.0, 2.0, 3.0, 4.0], "brand": "x"}
    )
    second = pd.DataFrame(
        {"item_id": "a", "timestamp": weeks, "units": [9.0, 8.0, np.nan, 6.0, 5.0, 4.0], "brand": None}
    )
    frame = pd.concat([first, second], ignore_index=True)
    frame = frame.assign(price=2.0, cost=1.0, category="tea", feature=0.0, display=1.0, heat=20.0, views=7.0)
    frame["size"] = frame["item_id"].map({"a": 3.0, "b": np.nan})
    schema = {
        "promotion": ["feature", "display"],
        "known_covariates": ["heat"],
        "past_covariates": ["views"],
        "static_categories": ["brand"],
        "static_reals": ["size"],
    }
    return load_panel(frame, schema)


def channel(store: SeriesStore, name: str) -> np.ndarray:
    return store.values[:, names.CHANNEL_INDEX[name]]


def test_every_column_lies_in_its_channel_and_absent_ones_are_missing() -> None:
    panel = build_panel()
    store = build_store(panel)
    assert store.values.shape == (11, len(names.CHANNELS))
    assert store.values.dtype == np.float32
    for name in (names.UNITS, names.PRICE, names.COST):
        np.testing.assert_array_equal(channel(store, name), panel.frame[name].to_numpy(dtype=np.float32))
    slots = {"promotion_1": "feature", "promotion_2": "display", "known_2": "heat", "past_1": "views"}
    for slot, column in slots.items():
        np.testing.assert_array_equal(channel(store, slot), panel.frame[column].to_numpy(dtype=np.float32))
    np.testing.assert_array_equal(
        channel(store, names.PRICE_IMPUTED), panel.frame["price_imputed"].to_numpy(np.float32)
    )
    used = {*slots, names.UNITS, names.PRICE, names.COST, names.PRICE_IMPUTED}
    for name in set(names.CHANNELS) - used:
        assert np.isnan(channel(store, name)).all()


def test_items_lie_one_after_another_in_sorted_order() -> None:
    panel = build_panel()
    store = build_store(panel)
    assert store.item_ids == ("a", "b")
    assert store.offsets.tolist() == [0, 6, 11]
    assert store.lengths.tolist() == [6, 5]
    assert store.timestamps.dtype == "datetime64[s]"
    np.testing.assert_array_equal(store.timestamps, panel.frame["timestamp"].to_numpy().astype("datetime64[s]"))
    assert (store.name, store.fingerprint, store.frequency) == ("panel", panel.fingerprint(), panel.frequency)


def test_static_attributes_lie_in_their_slots() -> None:
    store = build_store(build_panel())
    slots = dict(zip(names.STATIC_CATEGORIES, store.static_categories.T.tolist(), strict=True))
    assert slots["frequency"] == ["W", "W"]
    assert slots["category"] == ["tea", "tea"]
    assert slots["static_category_1"] == [None, "x"]
    assert slots["product_id"] == slots["static_category_2"] == [None, None]
    np.testing.assert_array_equal(store.static_reals, np.array([[3] + [np.nan] * 3, [np.nan] * 4], dtype=np.float32))


def test_an_empty_panel_cannot_be_stored() -> None:
    with pytest.raises(PanelError, match="no rows"):
        build_store(build_panel().last_periods(0))


def test_a_stored_panel_comes_back_to_the_last_bit_and_stays_on_disk(tmp_path: Path) -> None:
    store = build_store(build_panel())
    save_store(store, tmp_path / "store")
    loaded = load_store(tmp_path / "store")
    assert isinstance(loaded.values, np.memmap)
    assert isinstance(loaded.timestamps, np.memmap)
    for field in ("values", "timestamps", "offsets", "static_reals"):
        one, other = getattr(store, field), getattr(loaded, field)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert loaded.static_categories.tolist() == store.static_categories.tolist()
    assert (loaded.item_ids, loaded.name) == (store.item_ids, store.name)
    assert (loaded.fingerprint, loaded.frequency) == (store.fingerprint, store.frequency)


def test_known_elasticities_are_stored_beside_the_values(tmp_path: Path) -> None:
    plain = build_store(build_panel())
    store = replace(plain, elasticity=np.linspace(-3, -1, len(plain.values), dtype=np.float32))
    save_store(store, tmp_path)
    np.testing.assert_array_equal(load_store(tmp_path).elasticity, store.elasticity)
    file = (tmp_path / ELASTICITY_FILE).read_bytes()
    save_store(plain, tmp_path)
    assert load_store(tmp_path).elasticity is None
    (tmp_path / ELASTICITY_FILE).write_bytes(file)
    with pytest.raises(ArtifactError, match="elasticity.npy .* missing or changed"):
        load_store(tmp_path)


@pytest.mark.parametrize("file", [*ARRAY_FILES, INDEX_FILE])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, file: str) -> None:
    save_store(build_store(build_panel()), tmp_path)
    content = bytearray((tmp_path / file).read_bytes())
    content[-1] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{file} .* missing or changed"):
        load_store(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactError, match=rf"{file} .* missing or changed"):
        load_store(tmp_path)


def test_an_unfinished_store_or_one_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="holds no complete store"):
        load_store(tmp_path)
    save_store(build_store(build_panel()), tmp_path)
    manifest = (tmp_path / MANIFEST_FILE).read_text()
    (tmp_path / MANIFEST_FILE).write_text(
        manifest.replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 0')
    )
    with pytest.raises(ArtifactError, match="has format 0"):
        load_store(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text(manifest)
    monkeypatch.setattr(names, "CHANNELS", (*names.CHANNELS, "weather"))
    with pytest.raises(ArtifactError, match="written with other channels"):
        load_store(tmp_path)
