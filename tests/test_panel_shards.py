"""A panel prepared on disk holds what the panel in memory holds, is refused for the same reasons, can be taken up."""

import datetime as dt
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.errors import ArtifactError, PanelError, PanelWarning
from pricing_fm.panel import shards, staging, survey
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.sampler import WindowSampler
from pricing_fm.panel.shards import DRAFT_FOLDER, ShardSettings, load_shards, prepare_shards
from pricing_fm.panel.store import MANIFEST_FILE, SeriesStore, build_store
from tests.test_panel_windows import assert_equal_windows

pytest.importorskip("duckdb")

TODAY = dt.date(2028, 6, 1)
SCHEMA = {
    "item_id": ["shop", "upc"],
    "product_id": "upc",
    "location_id": "shop",
    "category": "group",
    "promotion": ["feature", "display"],
    "known_covariates": ["heat"],
    "static_categories": ["brand"],
    "static_reals": ["size"],
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step sees many parts, as with a table that does not fit memory."""
    monkeypatch.setattr(staging, "READ_ROWS", 61)
    monkeypatch.setattr(survey, "PART_ROWS", 97)


def build_table(frequency: str = "W", seed: int = 0) -> pd.DataFrame:
    """Shops and products with absent rows, missing cells, prices of their own, plans; in no order."""
    random = np.random.default_rng(seed)
    step = Frequency.parse(frequency)
    first = np.datetime64("2024-01-03T00:00:00", "s")
    parts = []
    for shop in range(5):
        for upc in (41, 100, 7, 23):
            periods = np.arange(random.integers(0, 6), random.integers(14, 40))
            periods = periods[random.random(len(periods)) > 0.2]
            frame = pd.DataFrame({"timestamp": step.step(np.array(first), periods), "shop": f"s{shop}", "upc": upc})
            frame["price"] = random.choice([1.99, 2.49, 2.99], len(frame))
            frame["units"] = random.poisson(3, len(frame)).astype(float)
            frame.loc[random.random(len(frame)) < 0.1, "units"] = np.nan
            frame.loc[frame["units"].isna() & (random.random(len(frame)) < 0.5), "price"] = np.nan
            frame["brand"] = np.where(random.random(len(frame)) < 0.5, f"brand {upc % 3}", None)
            frame["group"], frame["size"] = f"group {upc % 2}", np.where(random.random(len(frame)) < 0.5, upc, np.nan)
            parts.append(frame)
    table = pd.concat(parts, ignore_index=True)
    table["feature"], table["display"] = random.integers(0, 2, len(table)), random.random(len(table))
    table["heat"], table["inventory"] = (
        random.normal(20, 5, len(table)),
        random.integers(0, 9, len(table)).astype(float),
    )
    table["price_zone"], table["traffic"] = random.choice(["north", "south", None], len(table)), table.index % 7.0
    table["price_is_intervention"] = (table["timestamp"] > table["timestamp"].median()).astype(float)
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def write(table: pd.DataFrame, folder: Path, files: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    edges = np.linspace(0, len(table), files + 1).astype(int)
    for number in range(files):
        table.iloc[edges[number] : edges[number + 1]].to_parquet(folder / f"part-{number}.parquet", index=False)
    return folder


def prepare(source: Path, folder: Path, schema: dict | None = None, rows: int = 150) -> dict:
    settings = ShardSettings(shard_rows=rows, memory_limit_gb=0.5, threads=1, today=TODAY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PanelWarning)
        return prepare_shards(source, folder, SCHEMA if schema is None else schema, "toy", settings)


def whole_store(table: pd.DataFrame, schema: dict | None = None) -> SeriesStore:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PanelWarning)
        return build_store(load_panel(table, SCHEMA if schema is None else schema, today=TODAY))


def assert_shards_hold(stores: tuple[SeriesStore, ...], whole: SeriesStore) -> None:
    for field in ("values", "timestamps", "static_reals", "static_categories", "item_keys", "marks"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(store, field) for store in stores]), getattr(whole, field)
        )
    assert sum((store.item_ids for store in stores), ()) == whole.item_ids
    np.testing.assert_array_equal(np.concatenate([store.lengths for store in stores]), whole.lengths)
    assert {store.frequency for store in stores} == {whole.frequency}


@pytest.mark.parametrize("frequency", ["h", "D", "W", "MS"])
@pytest.mark.parametrize("absent_rows", ["missing", "zero"])
def test_shards_hold_what_the_panel_in_memory_holds(tmp_path: Path, frequency: str, absent_rows: str) -> None:
    table, schema = build_table(frequency), SCHEMA | {"absent_rows": absent_rows}
    manifest = prepare(write(table, tmp_path / "source"), tmp_path / "out", schema)
    stores, whole = load_shards(tmp_path / "out"), whole_store(table, schema)
    assert len(stores) == len(manifest["shards"]) > 2
    assert_shards_hold(stores, whole)
    assert np.isnan(whole.values).any()
    assert whole.values[:, names.CHANNEL_INDEX[names.PRICE_IMPUTED]].any()
    assert (manifest["items"], manifest["source_rows"], manifest["rows"]) == (20, len(table), len(whole.values))


@pytest.mark.parametrize("written", ["text", "text with offset", "date", "whole numbers"])
def test_dates_are_read_however_they_are_written(tmp_path: Path, written: str) -> None:
    table, schema = build_table(), dict(SCHEMA)
    stamps = table["timestamp"]
    if written == "text":
        table["timestamp"] = stamps.dt.strftime("%Y-%m-%d")
    elif written == "text with offset":
        table["timestamp"] = stamps.dt.strftime("%Y-%m-%dT00:00:00+01:00")
    elif written == "date":
        table["timestamp"] = stamps.dt.date
    else:
        table["timestamp"] = (stamps - stamps.min()).dt.days // 7
        schema |= {"frequency": "W", "start": "2024-01-03"}
    prepare(write(table, tmp_path / "source"), tmp_path / "out", schema)
    assert_shards_hold(load_shards(tmp_path / "out"), whole_store(table, schema))


def test_a_price_at_another_place_is_carried_across_shards(tmp_path: Path) -> None:
    weeks = pd.date_range("2024-01-03", periods=4, freq="7D")
    shops = {
        "a": [1.0, 2.0, np.nan, 2.0],
        "b": [5.0, 5.0, 7.0, 5.0],
        "c": [5.0, 5.0, 7.5, 5.0],
        "d": [5.0, 5.0, 7.0, 5.0],
    }
    table = pd.concat(
        [pd.DataFrame({"item_id": i, "timestamp": weeks, "price": p, "units": 1.0}) for i, p in shops.items()]
    ).assign(product_id="milk")
    table = table[table["price"].notna()]
    prepare(write(table, tmp_path / "source"), tmp_path / "out", {}, rows=1)
    first, *others = load_shards(tmp_path / "out")
    assert len(others) == 3
    assert first.values[:, names.CHANNEL_INDEX[names.PRICE]].tolist() == [1.0, 2.0, 7.0, 2.0]


def test_the_fingerprint_is_of_the_rows_not_of_their_order_files_or_shards(tmp_path: Path) -> None:
    table = build_table()
    one = prepare(write(table, tmp_path / "one"), tmp_path / "1")
    other = prepare(write(table.iloc[::-1], tmp_path / "other", files=1), tmp_path / "2", rows=400)
    assert one["fingerprint"] == other["fingerprint"]
    assert len(one["shards"]) > len(other["shards"])
    assert {store.fingerprint for store in load_shards(tmp_path / "1")} == {one["fingerprint"]}
    table.loc[17, "heat"] += 1e-9
    assert prepare(write(table, tmp_path / "changed"), tmp_path / "3")["fingerprint"] != one["fingerprint"]


def spoil(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    table = table.copy()
    row = 170
    if kind == "negative price":
        table.loc[row, "price"] = -1.0
    elif kind == "missing price":
        table.loc[row, ["price", "units"]] = [np.nan, 3.0]
    elif kind == "promotion":
        table.loc[row, "display"] = 1.5
    elif kind == "duplicate":
        table.loc[row, ["shop", "upc", "timestamp"]] = table.loc[3, ["shop", "upc", "timestamp"]].to_list()
    elif kind == "constant":
        table.loc[row, "group"] = "elsewhere"
    elif kind == "grid":
        table.loc[row, "timestamp"] += pd.Timedelta(days=1)
    elif kind == "future":
        table.loc[row, ["timestamp", "units"]] = [pd.Timestamp("2031-01-01"), 1.0]
    elif kind == "item":
        table.loc[row, "shop"] = None
    elif kind == "other step":
        table.loc[table["shop"] == "s1", "timestamp"] += 1 * (table["timestamp"] - table["timestamp"].min())
    elif kind == "no history":
        table = table.drop_duplicates(["shop", "upc"])
    elif kind == "no price column":
        table = table.drop(columns="price")
    elif kind == "mistyped year":
        row = table.index[(table["shop"] == "s0") & (table["upc"] == 7)][0]
        table.loc[row, ["timestamp", "units"]] = [pd.Timestamp("1700-01-06"), np.nan]
    return table


KINDS = ("negative price", "missing price", "promotion", "duplicate", "constant", "grid", "future", "item")
KINDS += ("other step", "no history", "no price column")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_table_is_refused_in_the_same_words(tmp_path: Path, kind: str) -> None:
    table = spoil(build_table(), kind)
    with pytest.raises(PanelError) as expected:
        whole_store(table)
    with pytest.raises(PanelError) as found:
        prepare(write(table, tmp_path / "source"), tmp_path / "out")
    assert without_counts(str(found.value)) == without_counts(str(expected.value))
    with pytest.raises(ArtifactError, match="no finished panel"):
        load_shards(tmp_path / "out")


def without_counts(message: str) -> str:
    """Further bad rows are counted within a part of the table."""
    return re.sub(r"^file '[^']*': | \(\d+ (more such rows|such pairs)\.\)", "", message)


def test_a_year_out_of_range_is_refused_before_anything_is_filled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "MAX_FILLED_ROWS", 1_000)
    monkeypatch.setattr(shards, "MAX_FILLED_SHARE", 3)
    with pytest.raises(PanelError, match="mistyped date"):
        prepare(write(spoil(build_table(), "mistyped year"), tmp_path / "source"), tmp_path / "out")


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    source = write(build_table(), tmp_path / "source")
    pd.read_parquet(source / "part-1.parquet").drop(columns="inventory").to_parquet(source / "part-1.parquet")
    with pytest.raises(PanelError, match="part-1.parquet.*other panel columns.*inventory"):
        prepare(source, tmp_path / "out")
    with pytest.raises(PanelError, match="names no Parquet file"):
        prepare(tmp_path / "nothing-*", tmp_path / "out")


def test_items_whose_joined_names_are_equal_are_refused_across_files(tmp_path: Path) -> None:
    weeks = pd.date_range("2024-01-03", periods=80, freq="7D")
    base = pd.DataFrame({"timestamp": weeks, "price": 1.0, "units": 1.0})
    table = pd.concat([base.assign(x="a|b", y="c"), base.assign(x="a", y="b|c")])
    with pytest.raises(PanelError, match="joined item_id 'a|b|c' stands for two different items"):
        prepare(write(table, tmp_path / "source"), tmp_path / "out", {"item_id": ["x", "y"]})


def test_offsets_are_compared_over_the_whole_table(tmp_path: Path) -> None:
    weeks = pd.date_range("2024-01-01", periods=140, freq="D", tz="Europe/Berlin")  # summer time begins on 31 March
    table = pd.DataFrame({"item_id": "a", "timestamp": weeks, "price": 1.0, "units": 1.0})
    with pytest.raises(PanelError, match="has the UTC offset .*, row 0 has"):
        prepare(write(table, tmp_path / "source"), tmp_path / "out", {})


def test_a_run_that_was_cut_off_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = build_table()
    source, out = write(table, tmp_path / "source"), tmp_path / "out"
    save, saved = shards.save_store, []

    def save_two(store: SeriesStore, folder: Path) -> None:
        if len(saved) == 2:
            (folder / "values.npy").parent.mkdir(parents=True)
            (folder / "values.npy").write_bytes(b"half")
            raise KeyboardInterrupt
        saved.append(folder.name)
        save(store, folder)

    monkeypatch.setattr(shards, "save_store", save_two)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out)
    with pytest.raises(ArtifactError, match="no finished panel"):
        load_shards(out)
    before = (out / "shard-00000" / MANIFEST_FILE).stat().st_mtime_ns
    again: list[str] = []
    monkeypatch.setattr(shards, "save_store", lambda store, folder: (again.append(folder.name), save(store, folder)))
    monkeypatch.setattr(staging, "_sort", None)  # not needed a second time
    prepare(source, out)
    assert (out / "shard-00000" / MANIFEST_FILE).stat().st_mtime_ns == before
    assert saved == ["shard-00000", "shard-00001"]
    assert again[0] == "shard-00002"
    assert_shards_hold(load_shards(out), whole_store(table))
    assert not (out / DRAFT_FOLDER).exists()


def test_drafts_of_another_source_are_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write(build_table(seed=1), tmp_path / "source"), tmp_path / "out"
    save = shards.save_store

    def save_and_stop(store: SeriesStore, folder: Path) -> None:
        save(store, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "save_store", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out)
    monkeypatch.setattr(shards, "save_store", save)
    table = build_table(seed=2)
    prepare(write(table, tmp_path / "source"), out)
    assert_shards_hold(load_shards(out), whole_store(table))
    with pytest.raises(ArtifactError, match="already holds a prepared panel"):
        prepare(source, out)


def test_a_missing_or_exchanged_shard_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(write(build_table(), tmp_path / "source"), out)
    values = out / "shard-00001" / "values.npy"
    content = bytearray(values.read_bytes())
    content[-1] ^= 1
    values.write_bytes(content)
    load_shards(out, check_rows=False)  # sizes only
    with pytest.raises(ArtifactError, match="values.npy .* missing or changed"):
        load_shards(out)
    shutil.rmtree(out / "shard-00001")
    shutil.copytree(out / "shard-00000", out / "shard-00001")
    with pytest.raises(ArtifactError, match="shard-00001 .* missing or changed"):
        load_shards(out)
    manifest = json.loads((out / MANIFEST_FILE).read_text())
    manifest["shards"][0]["folder"] = "../elsewhere"
    (out / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="no plain name"):
        load_shards(out)


def mixed_stores(tmp_path: Path) -> tuple[list, list]:
    """Hours, days, weeks and months: in shards, and in one store each."""
    in_shards, whole = [], []
    for seed, frequency in enumerate(["h", "D", "W", "MS"]):
        table = build_table(frequency, seed)
        prepare(write(table, tmp_path / frequency), tmp_path / f"out-{frequency}")
        in_shards.append(load_shards(tmp_path / f"out-{frequency}"))
        whole.append(whole_store(table))
    return in_shards, whole


def test_shards_of_many_cadences_are_drawn_as_whole_panels_by_any_number_of_processes(tmp_path: Path) -> None:
    in_shards, whole = mixed_stores(tmp_path)
    arguments = {"batch_size": 24, "context_length": 48, "prediction_length": 4, "seed": 5}
    one = WindowSampler(whole, [1, 2, 3, 4], **arguments)
    many = WindowSampler(in_shards, [1, 2, 3, 4], **arguments)
    assert one.windows_per_store == many.windows_per_store
    for step in (0, 3, 1):  # in any order: a resumed run draws what the run would have drawn
        batch = many.windows(step)
        assert_equal_windows(batch, one.windows(step))
        assert set(batch.static_categories[:, 0]) == {"h", "D", "W", "MS"}
        assert np.isnan(batch.past[:, 0]).all()  # every series is shorter than the context
        for world_size in (2, 3):
            for rank in range(world_size):
                part = many.windows(step, rank, world_size)
                assert_equal_windows(part, batch.select(np.arange(24)[rank::world_size]))
    assert many.windows(0).item_ids != many.windows(1).item_ids
