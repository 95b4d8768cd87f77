"""The data set scripts: what they write loads, repeats, and says on its card what is in it."""

import json
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
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


def test_the_recipe_writes_the_market_that_was_asked_for(tmp_path, run):
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
    assert "LinearSystemDemand" not in card
    assert "OwnPriceDemand" in card


@pytest.mark.parametrize(
    "words, message",
    [
        (("--market", "bazaar"), "bazaar"),
        (("--market", "retail", "--family", "bazaar"), "known families of retail"),
        (("--manager", "matcher"), "needs a rival"),
        (("--family", "substitution", "--manager", "demand_follower"), "needs hidden demand"),
        (("--manager", "hi_lo", "--confounding", 0.5), "only a demand_follower"),
        (("--manager", "oracle"), "names is"),
        (("--confounding", 1.5), "confounding is"),
        (("--market", "loans", "--num_stores", 3), "no num_stores"),
        (("--num_products", 0), "num_products is 0"),
    ],
)
def test_the_recipe_refuses_what_no_market_has(tmp_path, run, capsys, words, message):
    with pytest.raises(SystemExit):
        run("recipes/simulate.py", *words, "--output_dir", tmp_path / "d")
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("market, family", [("retail", "rival"), ("retail", "logit_stock"), ("loans", "lender")])
def test_the_folder_is_a_data_set_of_the_hub(tmp_path, run, market, family):
    small = ("--num_markets", 6, "--num_periods", 30, "--randomized_periods", 6)
    run("recipes/simulate.py", "--market", market, "--family", family, *small, "--output_dir", tmp_path / "out")
    panel = pd.read_parquet(tmp_path / "out" / "panel.parquet")
    read = datasets.load_dataset(str(tmp_path / "out"), "panel", cache_dir=str(tmp_path / "cache"))["train"]
    truth = datasets.load_dataset(str(tmp_path / "out"), "truth", cache_dir=str(tmp_path / "cache"))["train"]
    np.testing.assert_array_equal(np.array(read["units"]), panel["units"])
    assert len(truth) == len(panel)
    assert not {"mean_demand", "elasticity", "optimal_price"} & set(read.column_names)
    loaded = load_panel(tmp_path / "out" / "panel.parquet", schema=tmp_path / "out" / "schema.yaml")
    assert len(loaded.frame) == len(panel)
    assert ("competitor_price" in panel) == (family == "rival")
    assert ("substitute_group" in panel) == (family == "logit_stock")
    assert ("segment" in panel) == (market == "loans")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{market}/{family}" in card
    assert ("rivals are absent" in card) == (family != "rival")
    assert ("one after the other under the same item" in card) == (family == "logit_stock")


def test_coverage_counts_what_each_manager_tried(tmp_path, run):
    words = ("--manager", "promotion_timer", "randomized", "demand_follower", "--num_markets", 30, "--num_periods", 80)
    run("recipes/simulate.py", *words, "--randomized_periods", 10, "--confounding", -0.8, "--output_dir", tmp_path)
    rows = {row["manager"]: row for row in json.loads((tmp_path / "coverage.json").read_text())}
    assert set(rows) == {"promotion_timer", "randomized", "demand_follower", "(randomised periods)"}
    timer, free, follower = rows["promotion_timer"], rows["randomized"], rows["demand_follower"]
    assert timer["certain"] == timer["propensity_low"] == timer["propensity_high"] == 1.0
    # One everyday price and one event price of a ladder of nine.
    assert 1 / 9 < timer["rungs_tried"] <= 2 / 9
    assert free["rungs_tried"] > 0.9
    assert free["propensity_low"] == pytest.approx(1 / 9)
    assert follower["hidden_correlation"] < -0.3 < -0.1 < free["hidden_correlation"] < 0.1
    assert free["price_episodes"] > 10
    assert sum(row["rows"] for row in rows.values()) == 30 * 10 * 80
    assert rows["(randomised periods)"]["rows"] == 30 * 10 * 10
