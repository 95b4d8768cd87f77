"""recipes/categories.py: adapters of several categories, each measured at every k."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pricing_fm.panel import load_panel
from pricing_fm.policy import PricingPolicy
from recipes import categories
from tests.conftest import REPOSITORY
from tests.policy_artifacts import write_base

QUICK = "objective: forecast\ndemand_steps: 1\nbatch_size: 4\ntracker: none\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("categories")
    write_base(place / "base")
    (place / "adapt.yaml").write_text(QUICK)
    random = pd.Series(range(60)) % 7
    weeks = pd.date_range("2024-01-01", periods=60, freq="7D")
    frames = [
        pd.DataFrame(
            {
                "item_id": item, "timestamp": weeks, "category": "tea", "price": 2.0 - 0.2 * (random % 3 == 0),
                "units": (5 + random + 3 * (random % 3 == 0)).astype(float),
            }
        )
        for item in "abcdefgh"
    ]  # fmt: skip
    pd.concat(frames).to_parquet(place / "tea.parquet", index=False)
    (place / "schema.yaml").write_text("frequency: W\n")
    categories.main(
        [
            *("--base", str(place / "base"), "--adapt_config", str(place / "adapt.yaml"), "--weeks", "4", "13"),
            *("--work_dir", str(place / "work"), "--output_dir", str(place / "adapters")),
            *("--simulated", "shop: --seed 900990 --confounding 0.6"),
            *("--real", f"tea: --panel {place}/tea.parquet --schema {place}/schema.yaml --category tea"),
        ]
    )
    return place


def test_every_category_gets_a_loadable_adapter_with_its_curve(written: Path) -> None:
    for slug, metrics in (("shop", {"wql", "gap_closed"}), ("tea", {"wql"})):
        folder = written / "adapters" / slug
        policy = PricingPolicy.from_pretrained(written / "base", adapter=folder)
        assert len(policy.adapters) == 1
        rows = json.loads((folder / "results.json").read_text())["metrics"]
        found = {(row["name"], row.get("k")) for row in rows if row["model"] == "pricing_fm"}
        assert {(name, k) for name in metrics for k in (4, 13)} <= found
        assert "price_episodes" in {row["name"] for row in rows}
        assert "k = 13" in (folder / "README.md").read_text()
        assert (folder / "decision.txt").read_text()
        # Moved together with its base it still finds it.
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../base"


def test_adaptations_do_not_see_the_weeks_that_judge(written: Path) -> None:
    recipe = (written / "adapters" / "tea" / "recipe.yaml").read_text()
    full = load_panel(written / "tea.parquet", schema=written / "schema.yaml")
    judged = full.frequency.step(full.last_observed, 1 - 8)
    assert f"support_end: '{str(judged)[:10]}'" in recipe or f"support_end: {str(judged)[:10]}" in recipe


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--simulated", "shop: --confounding 0.6"], "unknown or missing"),
        (["--simulated", "shop: --seed 12"], "may be a corpus's"),
        (["--simulated", "shop: --seed 900100 --colour blue"], "unknown or missing"),
        (["--real", "tea: --panel tea.parquet"], "lacks"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        categories.main(["--base", "base", "--output_dir", "out", "--work_dir", str(tmp_path), *words])


def test_it_runs_as_a_script_from_anywhere(tmp_path: Path) -> None:
    words = [sys.executable, str(REPOSITORY / "recipes" / "categories.py"), "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert found.returncode == 0, found.stderr[-500:]
    assert "--simulated" in found.stdout


def test_the_shipped_settings_name_six_categories() -> None:
    shipped = yaml.safe_load((REPOSITORY / "recipes" / "nano" / "categories.yaml").read_text())
    assert len(shipped["simulated"]) + len(shipped["real"]) == 6
