"""The demo goes the whole way, leaves complete artifacts, and cleans up after itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

import pricing_fm as pf
from pricing_fm.artifact import read_manifest, verify_artifact
from pricing_fm.errors import ArtifactError
from pricing_fm.guardrails import load_guardrails
from pricing_fm.markets.corpus import FIRST_SEED_OF_EVALUATION
from pricing_fm.results import read_results
from recipes import demo as recipe
from tests.demo_run import BASE_SOURCE, REPOSITORY, run_fast_demo, write_demo_base
from tests.policy_artifacts import write_adapter

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
    assert found - figures == {"base", "adapter", "fewer_weeks", "results.json", "recommendations.csv", "report.html"}
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
    assert {path.name for path in folders[0].iterdir()} == {"logs", "panels"}
    assert all(any(path.iterdir()) for path in folders[0].rglob("*") if path.is_dir())


def test_the_base_is_a_copy_to_the_last_bit_and_the_original_stays(demo: tuple[Path, str]) -> None:
    original, copy = demo[0] / "tiny-base", demo[0] / "outputs" / "demo" / "base"
    assert verify_artifact(original, kind="base") == verify_artifact(copy, kind="base")
    assert (copy / "README.md").read_text() == (original / "README.md").read_text()
    adapter = read_manifest(demo[0] / "outputs" / "demo" / "adapter")
    assert adapter.base_fingerprint == read_manifest(original).base_fingerprint


def test_adapters_that_lie_in_the_folder_of_the_base_stay_behind(tmp_path: Path) -> None:
    base = write_demo_base(tmp_path / "policy")
    write_adapter(base / "adapter", base)
    folders = recipe.Folders(tmp_path / "output", tmp_path / "work")
    recipe.take_base(base, folders, Console(quiet=True))
    assert not (folders.base / "adapter").exists()
    assert not pf.PricingPolicy.from_pretrained(folders.base).adapters


def test_no_base_can_have_met_the_new_category_and_its_truth_is_kept_apart(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    panels = demo[0] / ".cache" / "demo" / "panels"
    new = pd.read_parquet(panels / "new.parquet")
    (tmp_path / "panels").mkdir()
    again = recipe.simulate_new_category(recipe.Folders(tmp_path, tmp_path), recipe.FAST, 0, Console(quiet=True))
    pd.testing.assert_frame_equal(pd.read_parquet(again.path), new)
    assert again.log.settings.seed >= FIRST_SEED_OF_EVALUATION
    secrets = {"mean_demand", "elasticity", "optimal_price", "hidden_shock", "propensity"}
    assert not secrets & set(new)
    assert secrets - {"propensity"} <= set(pd.read_parquet(panels / "new_truth.parquet"))
    adaptation = yaml.safe_load((demo[0] / "outputs" / "demo" / "adapter" / "recipe.yaml").read_text())
    assert (adaptation["weeks"], adaptation["category"]) == (26, new["category"].iloc[0])


def test_results_hold_the_model_and_its_baselines_from_one_run(demo: tuple[Path, str]) -> None:
    results = read_results(demo[0] / "outputs" / "demo")
    assert results.recipe == "demo"
    assert results.data[0] == BASE_SOURCE
    assert len({source.fingerprint for source in results.data}) == 2
    forecasters = {row.model for row in results.metrics if row.name == "wql"}
    assert forecasters == {"zero_shot", "adapted", "seasonal_naive", "recent_quantiles"}
    gaps = {row.model: row for row in results.metrics if row.name == "gap_closed" and row.category is None}
    assert gaps.keys() >= {"last_price", "log_log_elasticity", "base_plan", "adapter_structured", "adapter_in_rules"}
    assert gaps["manager"].value == pytest.approx(0.0)
    assert gaps["oracle"].value == pytest.approx(1.0)
    assert {row.k for row in gaps.values()} <= {4, 13, 26}
    for name in ("base_plan", "adapter_structured", "log_log_elasticity"):
        curve = [row.k for row in results.metrics if (row.name, row.model, row.category) == ("gap_closed", name, None)]
        assert sorted(curve) == [4, 13, 26]


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
        "by weeks of the category that were visible",
    ):
        assert words in " ".join(printed.split())


def test_screen_and_report_say_what_the_base_has_read_and_for_how_long(demo: tuple[Path, str]) -> None:
    words = f"tiny-base, pretrained for 1:02:05 h on {BASE_SOURCE.name}, another"
    assert words in " ".join(demo[1].split())
    assert words in (demo[0] / "outputs" / "demo" / "report.html").read_text()


def test_a_missing_base_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The default is relative: from here it leads to nothing.
    monkeypatch.chdir(tmp_path)
    earlier = tmp_path / "outputs" / "demo" / "recommendations.csv"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("mine")
    with pytest.raises(ArtifactError, match=r"no such folder.*--base FOLDER.*recipes/nano/base\.yaml") as refusal:
        recipe.main([])
    assert str(recipe.BASE) in str(refusal.value)
    with pytest.raises(ArtifactError, match="no/such/base"):
        recipe.main(["--base", "no/such/base"])
    assert earlier.read_text() == "mine"


@pytest.mark.parametrize("place", ["outputs/demo/base", ".cache/demo/base", "."])
def test_a_base_that_the_demo_would_overwrite_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_demo_base(Path(place))
    with pytest.raises(ArtifactError, match=r"lie one in the other.*--output_dir"):
        recipe.main(["--base", place])
    verify_artifact(tmp_path / place, kind="base")


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
