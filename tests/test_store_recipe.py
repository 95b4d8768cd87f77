"""The recipe that prepares a panel on disk: what it is told, what it leaves, what it says when it cannot."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pricing_fm.errors import PanelError
from pricing_fm.panel import WindowSampler, build_store, load_panel, load_shards
from recipes import prepare_store

pytest.importorskip("duckdb")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    weeks = pd.date_range("2024-01-01", periods=30, freq="7D")
    table = pd.concat([pd.DataFrame({"sku": sku, "week": weeks, "paid": 2.0, "units": 1.0 + sku}) for sku in range(6)])
    (tmp_path / "log").mkdir()
    for year, part in enumerate(np.array_split(np.arange(len(table)), 2)):
        table.iloc[part].to_parquet(tmp_path / "log" / f"{year}.parquet", index=False)
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump({"item_id": "sku", "timestamp": "week", "price": "paid"}))
    return tmp_path


def test_the_recipe_leaves_shards_that_training_draws_from(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--schema {source / 'schema.yaml'} --name toys --shard_rows 70 --threads 1 --output_dir {source / 'out'}"
    prepare_store.main(["--sources", str(source / "log" / "*.parquet"), *words.split()])
    stores = load_shards(source / "out")
    table = pd.concat([pd.read_parquet(file) for file in sorted((source / "log").iterdir())])
    whole = build_store(load_panel(table, schema=source / "schema.yaml"))
    assert [len(store.item_ids) for store in stores] == [2, 2, 2]
    assert {store.name for store in stores} == {"toys"}
    np.testing.assert_array_equal(np.concatenate([store.values for store in stores]), whole.values)
    assert len(WindowSampler([stores], [1.0], 8, 16, 4, seed=0).windows(0)) == 8
    assert "180 rows, 6 items, every W -> 180 rows in 3 shards" in capsys.readouterr().out
    assert yaml.safe_load((source / "out" / "recipe.yaml").read_text())["shard_rows"] == 70


def test_settings_that_cannot_be_are_refused_at_once(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sources", str(source / "log"), "--output_dir", str(source / "out")]
    for wrong, message in ((("--shard_rows", "0"), "shard_rows is 0"), (("--today", "soon"), "soon")):
        with pytest.raises(SystemExit):
            prepare_store.main([*words, *wrong])
        assert message in capsys.readouterr().err
    with pytest.raises(PanelError, match="column 'item_id' is missing"):
        prepare_store.main(words)


def test_without_duckdb_the_recipe_says_what_to_install(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pricing_fm.panel.staging.find_spec", lambda name: None)
    with pytest.raises(PanelError, match=r"needs DuckDB; install it with `pip install 'pricing-fm\[sql\]'`"):
        prepare_store.main(
            [
                "--sources",
                str(source / "log"),
                "--schema",
                str(source / "schema.yaml"),
                "--output_dir",
                str(source / "out"),
            ]
        )
