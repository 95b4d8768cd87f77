"""The data set scripts: what they write loads, repeats, and says on its card what is in it."""

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pricing_fm.panel.load import load_panel

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(monkeypatch):
    """Runs a script of the repository as its command line would."""

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(ROOT / script), run_name="__main__")

    return call


def test_prepare_writes_a_panel_with_its_truth_schema_and_card(tmp_path, run):
    small = ("--num_categories", 5, "--num_products", 3, "--num_stores", 2, "--num_periods", 40, "--output", tmp_path)
    run("data/synthetic/prepare.py", *small, "--plain_categories", 2)
    panel = load_panel(tmp_path / "panel.parquet", schema=tmp_path / "schema.yaml")
    truth = pd.read_parquet(tmp_path / "truth.parquet")
    assert len(panel.frame) == len(truth) == 5 * 3 * 2 * 40
    assert panel.frequency.name.startswith("W")
    drawn = panel.frame.groupby("category")["price_is_intervention"].any()
    assert drawn.sum() == 3
    front = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["size_categories"] == ["1K<n<10K"]
    assert "--num_categories 5" in (tmp_path / "README.md").read_text()


def test_the_committed_schema_is_the_one_that_prepare_writes(tmp_path, run):
    run("data/synthetic/prepare.py", "--num_periods", 30, "--output", tmp_path)
    assert (tmp_path / "schema.yaml").read_text() == (ROOT / "data/synthetic/schema.yaml").read_text()


def test_the_recipe_writes_the_market_that_was_asked_for(tmp_path, run, capsys):
    arguments = ("--market", "retail", "--manager", "demand_follower", "--confounding", 0.5, "--num_markets", 4)
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("recipes/simulate.py", *arguments, "--num_periods", 30, "--seed", seed, "--output_dir", tmp_path / folder)
    panels = {folder: pd.read_parquet(tmp_path / folder / "panel.parquet") for folder in "abc"}
    pd.testing.assert_frame_equal(panels["a"], panels["b"])
    assert not panels["a"]["units"].equals(panels["c"]["units"])
    truth = pd.read_parquet(tmp_path / "a" / "truth.parquet")
    assert set(truth["manager"]) == {"demand_follower"}
    assert set(truth["confounding"]) == {0.5}
    card = (tmp_path / "a" / "README.md").read_text()
    assert "--confounding 0.5" in card
    with pytest.raises(SystemExit):
        run("recipes/simulate.py", "--market", "bazaar", "--output_dir", tmp_path / "d")
    assert "bazaar" in capsys.readouterr().err
