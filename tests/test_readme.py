"""What the README says is so: its code runs, its commands are understood, its paths exist."""

import contextlib
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from recipes import (
    ablation,
    adapt,
    build_corpus,
    categories,
    elasticity,
    evaluate,
    export,
    fit_market,
    meta_train,
    pretrain,
    publish,
    randomised_prices,
    simulate,
)
from tests.demo_run import REPOSITORY, run_fast_demo
from tests.test_recipe_files import understand

README = REPOSITORY / "README.md"
TEXT = README.read_text(encoding="utf-8")
RECIPES = {
    "simulate": simulate,
    "fit_market": fit_market,
    "pretrain": pretrain,
    "adapt": adapt,
    "evaluate": evaluate,
    "publish": publish,
}
# What the pages of single panels and markets may show besides.
FURTHER_RECIPES = {
    "ablation": ablation,
    "build_corpus": build_corpus,
    "categories": categories,
    "elasticity": elasticity,
    "export": export,
    "meta_train": meta_train,
    "randomised_prices": randomised_prices,
}
MOST_LINES = 200
COMMAND_PAGES = [README, *sorted((REPOSITORY / "recipes").glob("*/README.md"))]


def blocks(language: str, text: str = TEXT) -> list[str]:
    """Fenced blocks of one language, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def commands(text: str) -> list[list[str]]:
    """Words of every command in the shell blocks."""
    lines = [line for block in blocks("bash", text) for line in block.replace("\\\n", " ").splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has by then: the finished demo, a sales log, and the schema that the README shows."""
    folder = tmp_path_factory.mktemp("readme")
    run_fast_demo(folder)
    adapt_as_shown(folder)
    (folder / "recipes").symlink_to(REPOSITORY / "recipes")
    (schema,) = blocks("yaml")
    (folder / "schema.yaml").write_text(schema)
    log = pd.read_parquet(folder / ".cache" / "demo" / "panels" / "new.parquet")
    sales = log.assign(
        store=log["location_id"], upc=log["product_id"], week=log["timestamp"], weekly_sales=log["units"],
        aisle="crackers", feature=log["promotion"] > 0, display=False,
    )  # fmt: skip
    own = ["store", "upc", "week", "weekly_sales", "price", "aisle", "feature", "display"]
    sales[own].to_csv(folder / "sales.csv", index=False)
    return folder


def adapt_as_shown(folder: Path) -> None:
    """Runs the README's first command with few steps."""
    words = commands(TEXT)[0]
    assert words[:2] == ["python", "recipes/adapt.py"]
    few = ["--demand_steps", "1", "--policy_steps", "1", "--batch_size", "4"]
    with contextlib.chdir(folder):
        adapt.main([str(REPOSITORY / word) if word.endswith(".yaml") else word for word in words[2:]] + few)


def test_it_can_be_read_in_one_sitting() -> None:
    assert TEXT.count("\n") <= MOST_LINES


def test_its_python_runs_from_top_to_bottom(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    names: dict[str, object] = {}
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), names)
    prices, curve, forecast = names["prices"], names["curve"], names["forecast"]
    assert isinstance(prices, pd.DataFrame)
    assert isinstance(curve, pd.DataFrame)
    assert isinstance(forecast, pd.DataFrame)
    assert len(prices) == curve["item_id"].nunique() == forecast["item_id"].nunique() == 4
    assert set(forecast) >= {"item_id", "timestamp", "mean", "0.1", "0.5", "0.9"}
    assert set(prices["objective"]) == {"margin"}
    # The adapter of the demo is for another category.
    assert prices["explanation"].str.contains("no adapter").all()
    assert (workplace / "my-policy" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("path", COMMAND_PAGES, ids=lambda path: path.parent.name)
def test_commands_are_understood_by_their_recipes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    seen = set()
    for words in commands(path.read_text(encoding="utf-8")):
        script = next(word for word in words if word.endswith(".py"))
        assert (REPOSITORY / script).is_file(), script
        if "--config_file" in words:
            assert (REPOSITORY / words[words.index("--config_file") + 1]).is_file()
        if script.startswith("recipes/"):
            name = Path(script).stem
            seen.add(name)
            understand((RECIPES | FURTHER_RECIPES)[name], words[words.index(script) + 1 :], monkeypatch)
    story = {"README.md": set(RECIPES), "meta/README.md": {"meta_train", "adapt", "categories"}}
    name = path.relative_to(README.parent / ("" if path == README else "recipes")).as_posix()
    assert seen >= story.get(name, {"pretrain", "adapt", "evaluate"})


def test_what_it_names_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(targets) >= 2
    for target in targets:
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target
    tree = next(block for block in blocks("") if block.startswith("pricing_fm/"))
    parents: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        entries = re.match(r"((?:[\w./]+ )*[\w./]+)(?:  |$)", line.strip())
        assert entries is not None, line
        for name in entries.group(1).split():
            place = REPOSITORY.joinpath(*parents[:depth], name)
            assert place.exists(), f"{line.strip()}: {place}"
        parents = [*parents[:depth], entries.group(1).split()[0]]


def test_its_figure_is_small() -> None:
    (figure,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert (REPOSITORY / figure).stat().st_size < 150_000
