"""What stands in results.json was measured, and the card shows only that."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pricing_fm.artifact import write_manifest
from pricing_fm.cards import CardText, summarise_rows, write_card
from pricing_fm.errors import ArtifactError
from pricing_fm.results import DataSource, ResultRow, build_results, code_commit, read_results, write_results

ROWS = [
    ResultRow("wql", 0.25, "pricing_fm", "frat_1W", lower=0.24, upper=0.26, n=100, window=0, seed=0),
    ResultRow("wql", 0.35, "pricing_fm", "frat_1W", lower=0.34, upper=0.36, n=100, window=1, seed=0),
    ResultRow("wql", 0.75, "seasonal_naive", "frat_1W", lower=0.71, upper=0.79, n=100, window=0),
    ResultRow("gap_closed", 0.5, "pricing_fm", "market", category="crackers | dips", k=4),
]


def sealed_base(folder: Path, rows: list[ResultRow] | None) -> Path:
    folder.mkdir()
    save_file({"a": torch.ones(3, 4), "b": torch.ones(5)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    if rows is not None:
        write_results(folder, build_results("evaluate", [DataSource("frat", "sha256:ab")], rows))
    write_manifest(folder, "base")
    return folder


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    results = build_results("evaluate", [DataSource("frat", "sha256:ab")], ROWS, device="cpu")
    write_results(tmp_path, results)
    assert read_results(tmp_path) == results
    assert results.threads >= 1


def test_the_file_has_the_documented_shape(tmp_path: Path) -> None:
    content = json.loads(
        write_results(tmp_path, build_results("evaluate", [DataSource("frat", "x")], ROWS)).read_text()
    )
    assert set(content) == {"recipe", "commit", "data", "device", "threads", "metrics"}
    documented = "name value lower upper n split model task category k window seed train_s inference_s cached".split()
    assert set(content["metrics"][0]) == set(documented)
    assert content["data"] == [{"name": "frat", "fingerprint": "x"}]


def test_the_commit_of_the_code_is_recorded_inside_its_repository() -> None:
    commit = build_results("evaluate", [], []).commit
    if (Path(__file__).resolve().parents[1] / ".git").exists():
        assert commit is not None
        assert len(commit.removesuffix("-dirty")) == 40
    else:
        assert commit is None


def test_what_a_run_writes_does_not_make_its_own_code_look_changed(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=tmp_path, check=True)

    outputs = ["model_cards/base/model.safetensors", "model_cards/base/modeling.py", "recipes/nano/README.md"]
    sources = ["pricing_fm/code.py", "recipes/nano/base.yaml"]
    for name in outputs + sources:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    code = tmp_path / "pricing_fm" / "code.py"
    clean = code_commit(code)
    assert clean is not None
    assert len(clean) == 40
    for name in outputs:
        (tmp_path / name).write_text("after")
    assert code_commit(code) == clean
    for name in sources:
        (tmp_path / name).write_text("after")
        assert code_commit(code) == f"{clean}-dirty"
        (tmp_path / name).write_text("before")


def test_keys_that_do_not_apply_may_be_absent(tmp_path: Path) -> None:
    row = {"name": "value", "value": 1.5, "model": "manager", "task": "market"}
    content = {"recipe": "evaluate", "data": [], "device": "cpu", "threads": 1, "metrics": [row]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert read_results(tmp_path).metrics == (ResultRow("value", 1.5, "manager", "market"),)


def test_what_does_not_apply_can_be_left_out_of_the_file_and_comes_back_all_the_same(tmp_path: Path) -> None:
    row = ResultRow("wql", 0.5, "pricing_fm", "sales_W", split="test", seed=1)
    results = build_results("evaluate", [DataSource("sales", "sha256:00")], [row])
    path = write_results(tmp_path, results, only_what_applies=True)
    assert "null" not in path.read_text().split('"metrics"')[1].split("]")[0]
    assert read_results(tmp_path) == results


@pytest.mark.parametrize(
    "change, message",
    [
        ({"value": None}, "value is None"),
        ({"value": float("nan")}, "finite"),
        ({"value": True}, "finite"),
        ({"lower": 2.0, "upper": 1.0}, "above upper"),
        ({"model": ""}, "expected a text"),
        ({"n": 1.5}, "whole number"),
        ({"metric": "wql"}, r"unknown keys \['metric'\]"),
    ],
)
def test_a_row_that_was_not_measured_properly_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    row = {"name": "value", "value": 1.5, "model": "manager", "task": "market"} | change
    content = {"recipe": "evaluate", "data": [], "device": "cpu", "threads": 1, "metrics": [row]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=message):
        read_results(tmp_path)


@pytest.mark.parametrize("missing", ["recipe", "data", "metrics", "device", "threads"])
def test_an_incomplete_file_is_refused(tmp_path: Path, missing: str) -> None:
    content = {"recipe": "evaluate", "data": [], "device": "cpu", "threads": 1, "metrics": []}
    del content[missing]
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=f"lacks \\['{missing}'\\]"):
        read_results(tmp_path)


def test_rows_of_windows_and_seeds_are_taken_together() -> None:
    both, market = summarise_rows(ROWS)
    assert (both.model, both.value, both.interval, both.count) == ("pricing_fm", "0.3", "0.25 to 0.35", 2)
    assert both.others == "seasonal_naive 0.75"
    assert (market.task, market.interval) == ("market, crackers | dips, k = 4", "")


def test_the_card_of_a_base_shows_its_numbers_and_valid_front_matter(tmp_path: Path) -> None:
    card = write_card(sealed_base(tmp_path / "base", ROWS), CardText("org/nano")).read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert 'from_pretrained("org/nano")' in body
    assert "| parameters | 17 |" in body
    assert "| frat_1W | test | wql | pricing_fm | 0.3 | 0.25 to 0.35 | 2 | seasonal_naive 0.75 |" in body
    assert r"crackers \| dips" in body


def test_the_card_claims_nothing_where_nothing_was_measured(tmp_path: Path) -> None:
    card = write_card(sealed_base(tmp_path / "base", None), CardText("org/nano")).read_text()
    assert "## Measured" not in card
    assert "recipe.yaml" not in card
    assert "wql" not in card


@pytest.mark.parametrize("revision", [None, "a" * 40])
def test_the_card_of_an_adapter_names_its_base(tmp_path: Path, revision: str | None) -> None:
    save_file({"lora_A": torch.ones(2, 4)}, tmp_path / "adapter_model.safetensors")
    config = {"base_model_name_or_path": "org/nano", "revision": revision, "r": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "guardrails.json").write_text('{"price_floor": 1.0}')
    write_manifest(tmp_path, "adapter", base_fingerprint_of_adapter="sha256:of-the-base")
    _, head, body = write_card(tmp_path, CardText("org/crackers")).read_text().split("---\n", 2)
    assert yaml.safe_load(head).get("base_model") == ("org/nano" if revision else None)
    assert "sha256:of-the-base" in body
    assert 'from_pretrained("org/nano", adapter="org/crackers")' in body
    assert "| guardrails | price_floor |" in body
