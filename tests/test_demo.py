"""The demo goes the whole way, leaves complete artifacts, and cleans up after itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import pricing_fm as pf
from pricing_fm.artifact import verify_artifact
from pricing_fm.guardrails import load_guardrails
from pricing_fm.results import read_results
from tests.demo_run import REPOSITORY, run_fast_demo

COMMON_FILES = {"preprocessor_config.json", "recipe.yaml", "results.json", "README.md", "manifest.json"}
BASE_FILES = COMMON_FILES | {"config.json", "model.safetensors"}
ADAPTER_FILES = COMMON_FILES | {
    "adapter_config.json", "adapter_model.safetensors", "guardrails.json", "price_ladder.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a finished demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_fast_demo(folder)


def test_it_leaves_what_the_interface_promises(demo: tuple[Path, str]) -> None:
    output = demo[0] / "outputs" / "demo"
    found = {path.name for path in output.iterdir()}
    figures = {name for name in found if name.endswith(".png")}
    assert found - figures == {"base", "adapter", "results.json", "recommendations.csv", "report.html"}
    assert len(figures) >= 4
    assert all((output / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    assert {path.name for path in (output / "base").iterdir()} >= BASE_FILES
    assert {path.name for path in (output / "adapter").iterdir()} >= ADAPTER_FILES


def test_both_artifacts_are_sealed_and_load_wherever_they_are_moved(demo: tuple[Path, str], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(demo[0] / "outputs" / "demo", moved)
    verify_artifact(moved / "base", kind="base")
    verify_artifact(moved / "adapter", kind="adapter")
    assert json.loads((moved / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "../base"
    visible = pf.load_panel(demo[0] / ".cache" / "demo" / "panels" / "new.parquet").last_periods(26)
    written = pd.read_csv(moved / "recommendations.csv")
    for policy in (
        pf.PricingPolicy.from_pretrained(moved / "base", adapter=moved / "adapter"),
        pf.PricingPolicy.from_pretrained(moved / "adapter"),
    ):
        prices = policy.recommend(visible, prediction_length=8)
        assert prices["item_id"].tolist() == written["item_id"].tolist()
        np.testing.assert_array_equal(prices["price"], written["price"])
        np.testing.assert_allclose(prices["expected_margin"], written["expected_margin"], rtol=1e-5)


def test_nothing_but_the_artifacts_bears_the_name_of_an_artifact_file(demo: tuple[Path, str]) -> None:
    folders = (
        demo[0] / ".cache" / "demo",
        demo[0] / "outputs" / "demo" / "base",
        demo[0] / "outputs" / "demo" / "adapter",
    )
    for place, folder in enumerate(folders):
        files = [path for path in folder.rglob("*") if path.is_file()]
        misplaced = files if place == 0 else [path for path in files if path.parent != folder]
        assert files
        assert not [path for path in misplaced if path.name in BASE_FILES | ADAPTER_FILES]
    assert (folders[0] / "checkpoints").is_dir()


def test_the_new_category_is_in_no_training_panel_and_its_truth_is_kept_apart(demo: tuple[Path, str]) -> None:
    panels = demo[0] / ".cache" / "demo" / "panels"
    corpus, new = (pd.read_parquet(panels / name) for name in ("corpus.parquet", "new.parquet"))
    assert not set(corpus["item_id"]) & set(new["item_id"])
    assert not corpus["item_id"].str.contains(new["category"].iloc[0]).any()
    secrets = {"mean_demand", "elasticity", "optimal_price", "hidden_shock", "propensity"}
    assert not secrets & (set(new) | set(corpus))
    assert secrets - {"propensity"} <= set(pd.read_parquet(panels / "new_truth.parquet"))
    assert corpus["price_is_intervention"].any()
    recipe = yaml.safe_load((demo[0] / "outputs" / "demo" / "adapter" / "recipe.yaml").read_text())
    assert (recipe["weeks"], recipe["category"]) == (26, new["category"].iloc[0])


def test_results_hold_the_model_and_its_baselines_from_one_run(demo: tuple[Path, str]) -> None:
    results = read_results(demo[0] / "outputs" / "demo")
    assert results.recipe == "demo"
    assert len({source.fingerprint for source in results.data}) == 2
    forecasters = {row.model for row in results.metrics if row.name == "wql"}
    assert forecasters == {"zero_shot", "adapted", "seasonal_naive", "recent_quantiles"}
    gaps = {row.model: row for row in results.metrics if row.name == "gap_closed" and row.category is None}
    assert gaps.keys() >= {"last_price", "log_log_elasticity", "base_plan", "adapter_structured", "adapter_in_rules"}
    assert gaps["manager"].value == pytest.approx(0.0)
    assert gaps["oracle"].value == pytest.approx(1.0)
    assert {row.k for row in gaps.values()} == {26}


def test_recommended_prices_obey_the_rules_that_travel_with_the_adapter(demo: tuple[Path, str]) -> None:
    output = demo[0] / "outputs" / "demo"
    rules = load_guardrails(output / "adapter" / "guardrails.json").as_dict()
    assert rules == load_guardrails(REPOSITORY / "recipes" / "guardrails.yaml").as_dict()
    prices = pd.read_csv(output / "recommendations.csv").set_index("item_id")
    frame = pf.load_panel(demo[0] / ".cache" / "demo" / "panels" / "new.parquet").frame
    cost = frame.groupby("item_id")["cost"].last()
    assert (prices["price"] / prices["current_price"] - 1).abs().max() <= rules["maximum_step"] + 1e-9
    assert (1 - cost / prices["price"]).min() >= rules["minimum_margin"] - 1e-9
    endings = {round(100 * ending) for ending in rules["price_endings"]}
    assert {round(100 * price) % 100 for price in prices["price"]} <= endings
    assert prices["explanation"].str.len().min() > 40


def test_the_screen_shows_every_item_its_price_and_how_well_the_prices_do(demo: tuple[Path, str]) -> None:
    printed = demo[1]
    prices = pd.read_csv(demo[0] / "outputs" / "demo" / "recommendations.csv")
    for row in prices.itertuples():
        line = next(line for line in printed.splitlines() if f" {row.item_id.split('-')[2].split('|')[0]} " in line)
        assert f"{row.price:.2f}" in line
    for words in (
        "share of the gap closed",
        "log-log elasticity + grid",
        "weighted quantile loss",
        "outputs/demo/base",
    ):
        assert words in " ".join(printed.split())


def test_running_it_again_gives_the_same_prices_and_leaves_other_files_alone(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(demo[0], tmp_path, dirs_exist_ok=True)
    output = tmp_path / "outputs" / "demo"
    (output / "notes.txt").write_text("mine")
    (output / "base" / "stale.json").write_text("{}")
    before = (output / "recommendations.csv").read_text()
    run_fast_demo(tmp_path)
    assert (output / "recommendations.csv").read_text() == before
    assert (output / "notes.txt").read_text() == "mine"
    verify_artifact(output / "base")
