"""`recipes/adapt.py` from a log on disk to an adapter folder that loads, says what was measured, and keeps the base."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import constants

from pricing_fm.adapters import read_adapter, read_profile
from pricing_fm.artifact import read_manifest, verify_artifact
from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.hub import push
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.policy.profile import category_profile
from pricing_fm.results import read_results
from pricing_fm.training.adapt import AdaptArguments, visible_panel
from recipes.adapt import main
from tests.hub_server import HubState, running_hub
from tests.policy_artifacts import base_hash, panel_of, quick_collections, sales_log, write_base

QUICK = [
    *("--weeks", "12", "--demand_steps", "3", "--policy_steps", "3", "--batch_size", "8", "--window_length", "4"),
    *("--horizon", "4", "--warmup_steps", "0", "--ema_decay", "0", "--lora_rank", "2", "--tracker", "none"),
]


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `base`, the log `sales.parquet` in the source's own column names, and its `schema.yaml`."""
    folder = tmp_path_factory.mktemp("recipe")
    write_base(folder / "base")
    sales_log().rename(columns={"units": "qty", "promotion": "flyer"}).to_parquet(folder / "sales.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump({"units": "qty", "promotion": "flyer"}))
    (folder / "rules.yaml").write_text(yaml.safe_dump({"maximum_step": 0.1}))
    return folder


@pytest.fixture(scope="module")
def adapt(place: Path) -> Callable[..., Path]:
    def call(name: str, *words: str, base: str | None = None, panel: str = "sales.parquet") -> Path:
        sources = ["--base", base or str(place / "base"), "--panel", str(place / panel)]
        schema = ["--schema", str(place / "schema.yaml")]
        main([*sources, *schema, "--output_dir", str(place / name), *QUICK, *words])
        return place / name

    return call


@pytest.fixture(scope="module")
def adapter(adapt: Callable[..., Path], place: Path) -> Path:
    return adapt("snacks", "--category", "snacks", "--guardrails", str(place / "rules.yaml"), "--seed", "3")


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(sales_log())


def answers(policy: PricingPolicy, panel: Panel) -> pd.DataFrame:
    return policy.forecast(panel, 2).merge(policy.recommend(panel, {}), on=["item_id", "timestamp"])


def test_the_folder_is_a_complete_sealed_adapter(adapter: Path, place: Path) -> None:
    manifest = verify_artifact(adapter, kind="adapter")
    assert set(manifest.files) == {
        *("adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"),
        *("guardrails.json", "price_ladder.json", "recipe.yaml", "results.json", "category_profile.json"),
    }
    assert manifest.base_fingerprint == base_hash(place / "base")
    card = (adapter / "README.md").read_text()
    assert card.startswith("---\n")
    assert "demand_loss" in card
    reference = read_adapter(adapter)
    assert (reference.category, reference.rank, reference.revision) == ("snacks", 2, None)
    assert Path(reference.base) == place / "base"
    assert json.loads((adapter / "guardrails.json").read_text()) == {"maximum_step": 0.1}


def test_the_profile_is_what_the_category_looks_like_to_the_base(adapter: Path, place: Path, panel: Panel) -> None:
    visible = visible_panel(panel, "snacks", AdaptArguments(weeks=12))
    assert read_profile(adapter) == category_profile(visible, *load_base(place / "base"))


def test_the_base_is_not_touched(adapter: Path, place: Path) -> None:
    before = read_manifest(place / "base")
    assert verify_artifact(place / "base", kind="base") == before


def test_the_adapter_answers_for_its_category_inside_its_rules(adapter: Path, place: Path, panel: Panel) -> None:
    base, adapted = PricingPolicy.from_pretrained(place / "base"), PricingPolicy.from_pretrained(adapter)
    found, plain = answers(adapted, panel), answers(base, panel)
    snacks = found["item_id"].isin(panel.select_category("snacks").item_ids)
    assert not np.allclose(found["mean"][snacks], plain["mean"][snacks], rtol=1e-4)
    pd.testing.assert_frame_equal(found[~snacks], plain[~snacks])
    assert found["explanation"][snacks].str.contains("policy adapter for category 'snacks'").all()
    ruled = adapted.recommend(panel.select_category("snacks"))
    assert (np.abs(ruled["price"] / ruled["current_price"] - 1) <= 0.1 + 1e-9).all()


def test_the_ladder_counts_the_visible_weeks_alone(adapter: Path, panel: Panel) -> None:
    support = json.loads((adapter / "price_ladder.json").read_text())["support"]
    visible = panel.select_category("snacks").last_periods(12).frame
    assert support["category"] == "snacks"
    for kind, weeks in enumerate(support["weeks_at_rung"]):
        assert sum(weeks) == (visible["promotion"] == kind).sum()
    assert max(support["items_at_rung"][0]) <= 4
    assert np.argmax(support["weeks_at_rung"][0]) == 28  # most weeks are sold at the reference price


def test_the_recipe_and_the_measurements_are_kept(adapter: Path, panel: Panel) -> None:
    recipe = yaml.safe_load((adapter / "recipe.yaml").read_text())
    assert (recipe["category"], recipe["weeks"], recipe["seed"], recipe["demand_steps"]) == ("snacks", 12, 3, 3)
    results = read_results(adapter)
    assert results.recipe == "adapt"
    rows = {row.model: row for row in results.metrics}
    assert rows.keys() == {"base", "adapter"}
    assert rows["adapter"].value <= rows["base"].value
    for row in rows.values():
        assert (row.name, row.category, row.k, row.seed, row.split) == ("demand_loss", "snacks", 12, 3, "validation")


def test_a_forecast_adapter_plans_on_its_own_curve(adapt: Callable[..., Path], panel: Panel) -> None:
    folder = adapt("forecast", "--category", "snacks", "--objective", "forecast")
    assert json.loads((folder / "price_ladder.json").read_text())["policy"]["trained"] is False
    found = PricingPolicy.from_pretrained(folder).recommend(panel.select_category("snacks"))
    assert found["explanation"].str.contains("demand adapter for category 'snacks'").all()


def test_no_weeks_give_the_answers_of_the_base(adapt: Callable[..., Path], place: Path, panel: Panel) -> None:
    folder = adapt("nothing", "--category", "snacks", "--weeks", "0")
    assert not (folder / "category_profile.json").exists()  # nothing was seen that could look like anything
    support = json.loads((folder / "price_ladder.json").read_text())["support"]
    assert sum(map(sum, support["items_at_rung"] + support["weeks_at_rung"])) == 0
    assert read_results(folder).metrics == ()
    base, adapted = PricingPolicy.from_pretrained(place / "base"), PricingPolicy.from_pretrained(folder)
    found, plain = answers(adapted, panel), answers(base, panel)
    pd.testing.assert_frame_equal(found.drop(columns="explanation"), plain.drop(columns="explanation"))


def test_one_adapter_serves_the_whole_panel(adapt: Callable[..., Path], panel: Panel) -> None:
    policy = PricingPolicy.from_pretrained(adapt("all", "--category", "all"))
    assert policy.adapters.keys() == {None}
    assert policy.recommend(panel)["explanation"].str.contains("policy adapter for all categories").all()


def test_a_run_is_repeated_to_the_last_bit_in_the_same_folder(adapt: Callable[..., Path], adapter: Path) -> None:
    words = ("--category", "snacks", "--seed", "3")
    first = (adapt("again", *words) / "adapter_model.safetensors").read_bytes()
    assert first == (adapter / "adapter_model.safetensors").read_bytes()
    assert first == (adapt("again", *words) / "adapter_model.safetensors").read_bytes()
    verify_artifact(adapter.parent / "again", kind="adapter")
    assert first != (adapt("again", "--category", "snacks", "--seed", "4") / "adapter_model.safetensors").read_bytes()


def test_without_a_cost_revenue_counts_and_that_is_said(adapt: Callable[..., Path], place: Path, capsys) -> None:
    sales_log().rename(columns={"units": "qty", "promotion": "flyer"}).drop(columns="cost").to_parquet(
        place / "costless.parquet"
    )
    folder = adapt("revenue", "--category", "snacks", panel="costless.parquet")
    said = "no cost is known: prices maximise revenue, not margin"
    assert said in capsys.readouterr().out
    assert said in (folder / "README.md").read_text()
    policy = json.loads((folder / "price_ladder.json").read_text())["policy"]
    assert (policy["rewards"]["margin"], policy["rewards"]["revenue"]) == (0.0, 1.0)
    folder = adapt("share", "--category", "snacks", "--assumed_cost_share", "0.6", panel="costless.parquet")
    assert said not in (folder / "README.md").read_text()
    assert json.loads((folder / "price_ladder.json").read_text())["policy"]["rewards"]["margin"] == 1.0
    found = PricingPolicy.from_pretrained(folder).recommend(panel_of(sales_log().drop(columns="cost")))
    assert set(found["objective"]) == {"revenue"}


def test_cloning_trusts_no_value(adapt: Callable[..., Path]) -> None:
    folder = adapt("cloning", "--category", "snacks", "--algorithm", "cloning", "--objective", "policy")
    assert json.loads((folder / "price_ladder.json").read_text())["policy"]["aggressiveness"] == 0.0


def test_what_cannot_be_adapted_is_refused_before_anything_is_written(adapt, place: Path, adapter: Path) -> None:
    with pytest.raises(PanelError, match="no category 'tea'"):
        adapt("tea", "--category", "tea")
    with pytest.raises(ArtifactError, match="expected a base model"):
        adapt("twice", "--category", "snacks", base=str(adapter))
    clash = sales_log().rename(columns={"units": "qty", "promotion": "flyer"})
    clash["category"] = clash["category"].replace("drinks", "Snacks!")
    clash.to_parquet(place / "clash.parquet")
    with pytest.raises(ArtifactError, match="both get the name 'snacks'"):
        adapt("clash", "--category", "snacks", panel="clash.parquet")
    with pytest.raises(SystemExit):
        adapt("typo", "--category", "snacks", "--week", "3")
    assert not any((place / name).exists() for name in ("tea", "twice", "clash", "typo"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    with running_hub() as (address, state):
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield state


def test_an_adapter_of_a_base_on_the_hub_names_repository_and_commit(
    hub: HubState, adapt: Callable[..., Path], place: Path, panel: Panel
) -> None:
    commit = push(place / "base", "org/base").revision
    folder = adapt("remote", "--category", "snacks", base="org/base")
    reference = read_adapter(folder)
    assert (reference.base, reference.revision) == ("org/base", commit)
    push(place / "base", "org/base", message="the same again")  # a later commit does not matter
    local = PricingPolicy.from_pretrained(place / "base", adapter=folder)
    pd.testing.assert_frame_equal(answers(PricingPolicy.from_pretrained(folder), panel), answers(local, panel))


@pytest.mark.parametrize("words", [("--max_steps", "7"), ("--evaluate_every", "3"), ("--resume",)])
def test_keys_of_the_loop_that_would_change_nothing_are_refused(
    adapt: Callable[..., Path], place: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit, match=f"{words[0]}: an adaptation has --demand_steps"):
        adapt("refused", *words)
    assert not (place / "refused").exists()
