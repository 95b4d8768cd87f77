"""Every YAML under recipes/ is understood by the recipe that it belongs to, and names files that exist."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from pricing_fm.guardrails import load_guardrails
from pricing_fm.panel import load_panel
from pricing_fm.recipe import read_recipe, resolved_recipe
from recipes import (
    ablation,
    adapt,
    build_corpus,
    categories,
    elasticity,
    evaluate,
    fit_market,
    front,
    meta_train,
    pretrain,
    randomised_prices,
    simulate,
)

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = REPOSITORY / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))
TOPOLOGIES = [path for path in FILES if path.parent.name == "accelerate"]
RULES = [path for path in FILES if path.name == "guardrails.yaml"]
SETTINGS = [path for path in FILES if path not in TOPOLOGIES + RULES]
SCRIPTS_THAT_IMPORT_OTHERS = sorted(
    path.name
    for path in RECIPES.glob("*.py")
    if re.search(r"^from recipes", text := path.read_text(), re.MULTILINE) and "__main__" in text
)
# What a file may leave to the command line.
NEEDED = {
    pretrain: ["--panels", "panel.parquet", "--output_dir", "out"],
    adapt: ["--base", "base", "--panel", "panel.parquet", "--output_dir", "out"],
    evaluate: ["--base", "base", "--panel", "panel.parquet", "--output_dir", "out"],
    fit_market: ["--panel", "panel.parquet", "--output_dir", "out"],
    simulate: ["--output_dir", "out"],
    build_corpus: ["--output_dir", "out"],
    elasticity: ["--output_dir", "out"],
    randomised_prices: ["--base", "base", "--output_dir", "out"],
    ablation: ["--output_dir", "out"],
    meta_train: ["--base", "base", "--output_dir", "out"],
    categories: ["--base", "base", "--output_dir", "out"],
    front: ["--base", "base", "--output_dir", "out"],
}
# A file that names these leaves out the others.
INSTEAD = {"stores": "panels"}
FIRST_SETTINGS_OF_A_PANEL = ("adapt.yaml", "evaluate.yaml")


class Understood(Exception):
    """Ends a recipe once it has read what it is told."""

    def __init__(self, arguments: Sequence[Any]):
        super().__init__()
        self.resolved = resolved_recipe(arguments)


def owner_of(path: Path) -> ModuleType:
    """A file is named after its recipe; the demo's file after what it is for."""
    special = {
        "demo_adapt": "adapt",
        "fit_market": "fit_market",
        "base": "pretrain",
        "corpus": "build_corpus",
        "retail": "meta_train",
        "pooling": "meta_train",
        "offline_rl": "meta_train",
        "macaw": "meta_train",
        "categories": "categories",
        "categories_adapt": "adapt",
    }
    owners = {
        "pretrain": pretrain,
        "adapt": adapt,
        "evaluate": evaluate,
        "fit_market": fit_market,
        "simulate": simulate,
        "build_corpus": build_corpus,
        "elasticity": elasticity,
        "randomised": randomised_prices,
        "ablation": ablation,
        "meta_train": meta_train,
        "categories": categories,
        "front": front,
    }
    return owners[special.get(path.stem, path.stem.split("_")[0])]


def understand(recipe: ModuleType, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the recipe makes of the words, by its own dataclasses; nothing runs."""

    def stop(kinds: Sequence[type], argv: Sequence[str], description: str | None = None) -> tuple[Any, ...]:
        raise Understood(read_recipe(kinds, argv, description))

    monkeypatch.setattr(recipe, "read_recipe", stop)
    with pytest.raises(Understood) as found:
        recipe.main(list(words))
    return found.value.resolved


def label(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


@pytest.mark.parametrize("script", SCRIPTS_THAT_IMPORT_OTHERS)
def test_a_script_that_takes_from_others_starts_from_any_folder(script: str, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(RECIPES / script), "--help"]
    found = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "usage" in found.stdout


def test_no_file_is_forgotten() -> None:
    assert len(TOPOLOGIES) == 5
    assert len(RULES) == 1
    assert len(SETTINGS) >= 29
    assert {owner_of(path) for path in SETTINGS} == set(NEEDED)


@pytest.mark.parametrize("path", SETTINGS, ids=label)
def test_settings_are_understood_by_their_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(path.read_text())
    recipe = owner_of(path)
    words = list(NEEDED[recipe])
    given = {INSTEAD.get(key, key) for key in content}
    for key in sorted(given & {"panels", "panel", "base", "output_dir"}):
        if f"--{key}" not in words:
            continue
        place = words.index(f"--{key}")
        del words[place : place + 2]
    resolved = understand(recipe, ["--config", str(path), *words], monkeypatch)
    for key, value in content.items():
        assert resolved[key] == (str(value) if isinstance(resolved[key], str) else value), key


@pytest.mark.parametrize("path", [path for path in SETTINGS if path.parent.parent == RECIPES], ids=label)
def test_settings_name_schemas_and_sources_that_exist(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    panels = content.get("panels", [content["panel"]] if "panel" in content else [])
    schemas = content.get("schemas", [content["schema"]] if "schema" in content else [])
    for panel in panels:
        assert (REPOSITORY / panel).parent.joinpath("prepare.py").is_file(), panel
    for schema in schemas:
        assert (REPOSITORY / schema).is_file(), schema


@pytest.mark.filterwarnings("ignore::pricing_fm.errors.PanelWarning")
@pytest.mark.parametrize("panel", ["frat", "orange_juice", "online_retail"])
def test_an_adapter_is_evaluated_on_weeks_that_it_has_not_seen(panel: str) -> None:
    """Support before query: the visible weeks end where the first origin starts."""
    for name in FIRST_SETTINGS_OF_A_PANEL:
        assert (RECIPES / panel / name).is_file()
    how, tested = (yaml.safe_load((RECIPES / panel / name).read_text()) for name in FIRST_SETTINGS_OF_A_PANEL)
    source = REPOSITORY / how["panel"]
    if not source.is_file():
        pytest.skip(f"{how['panel']} is not prepared here")
    data = load_panel(source, schema=REPOSITORY / how["schema"])
    first_origin = data.frequency.step(data.last_observed, 1 - max(tested["origins"]))
    assert str(how["support_end"]) == f"{first_origin:%Y-%m-%d}"
    assert how["category"] in {"all", *data.categories}


@pytest.mark.parametrize("path", SETTINGS + TOPOLOGIES, ids=label)
def test_the_first_line_says_on_what_it_runs(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert re.search(r"CPU|GPU", first)


@pytest.mark.parametrize("path", TOPOLOGIES, ids=label)
def test_topologies_are_understood_by_the_launcher(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    # What is learned may not hide where it runs.
    kinds = (pretrain.DataArguments, pretrain.LoopArguments)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert not known & set(yaml.safe_load(path.read_text())) - {"use_cpu", "mixed_precision"}


def test_example_rules_are_understood() -> None:
    assert len(load_guardrails(RULES[0]).rules) == 3
