"""The ablation recipe: one row per variant and measure, nothing measured twice, and nothing measured unnoticed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pricing_fm.evaluation.ablation import Variant, read_variants, read_words
from pricing_fm.evaluation.ablation_scores import ValidationBedArguments, average_seeds, compare_with_reference
from pricing_fm.markets import SimulatedLog
from pricing_fm.models import PricingFMConfig
from pricing_fm.results import ResultRow, read_results
from recipes import ablation as recipe
from recipes import pretrain
from tests.test_recipe_files import RECIPES, understand

OBJECTIVE = ("count_loss_weight", "elasticity_loss_weight", "behavior_loss_weight", "patch_loss_weight")
OBJECTIVE += ("censored_loss", "loss_bend")
VARIANTS = ("reference:", "free: --price_response free", "blind: --covariates flags")
Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, tiny_log: SimulatedLog) -> Words:
    """Factory `(folder, *more words)`: two steps of training, six shops, one cell, one panel of twelve items."""
    source = tmp_path_factory.mktemp("source")
    tiny_log.panel.to_parquet(source / "panel.parquet")
    (source / "schema.yaml").write_text(yaml.safe_dump({"promotion": "promotion", "frequency": "W"}))
    config = {"panels": [str(source / "panel.parquet")], "schemas": [str(source / "schema.yaml")], "max_steps": 900}
    config |= {"context_length": 16, "prediction_length": 4, "batch_size": 8, "validation_windows": 8}
    (source / "config.yaml").write_text(yaml.safe_dump(config))

    def build(folder: Path, *more: str) -> list[str]:
        line = f"--output_dir {folder} --pretrain_config {source / 'config.yaml'} --cells shop_c-0.9 --num_items 6"
        line += f" --num_periods 24 --panels {source / 'panel.parquet'} --schemas {source / 'schema.yaml'}"
        line += " --prediction_lengths 4 --origins 4 8"
        return [*line.split(), "--common=--max_steps 2 --warmup_steps 1", "--variants", *VARIANTS, *more]

    return build


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, words: Words) -> tuple[Path, list[ResultRow]]:
    """A folder with all variants, and their rows."""
    folder = tmp_path_factory.mktemp("ablation") / "out"
    return folder, recipe.main(words(folder))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Words of every pretraining from here on; each is refused."""
    told: list[list[str]] = []

    def refuse(argv: list[str]) -> None:
        told.append(list(argv))
        raise NothingIsTrained

    monkeypatch.setattr(pretrain, "main", refuse)
    return told


class NothingIsTrained(Exception):
    pass


def of(rows: list[ResultRow], variant: str, metric: str) -> list[ResultRow]:
    return [row for row in rows if row.model == variant and row.name == metric]


def test_every_variant_has_its_rows(finished: tuple[Path, list[ResultRow]]) -> None:
    folder, rows = finished
    written = read_results(folder)
    assert written.metrics == tuple(rows)
    assert {source.name for source in written.data} >= {"elasticity_shop_c-0.9", "simulated_shop_c-0.9"}
    assert {"results.json", "comparison.csv", "differences.png", "recipe.yaml", "variants"} == {
        path.name for path in folder.iterdir()
    }
    for variant in ("reference", "free", "blind"):
        # Two origins of the panel and one of the simulated cell.
        assert len(of(rows, variant, "wql")) == 3
        (speed,) = of(rows, variant, "windows_per_second")
        assert speed.n == 2
        assert speed.value > 0
    assert {row.split for row in rows} == {"train", "validation"}


def test_variants_differ_in_what_they_say(finished: tuple[Path, list[ResultRow]]) -> None:
    folder, rows = finished
    losses = {variant: of(rows, variant, "wql")[0].value for variant in ("reference", "free", "blind")}
    assert len(set(losses.values())) == 3
    recipes = {
        variant: yaml.safe_load((folder / "variants" / variant / "seed0" / "base" / "recipe.yaml").read_text())
        for variant in losses
    }
    told = {key: value for key, value in recipes["free"].items() if value != recipes["reference"][key]}
    assert told.pop("output_dir") == str(folder / "variants" / "free" / "seed0" / "base")
    assert told == {"price_response": "free"}
    assert (recipes["free"]["max_steps"], recipes["free"]["decision_steps"]) == (2, 0)


def test_without_a_demand_curve_there_are_no_elasticities(
    finished: tuple[Path, list[ResultRow]], words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = finished
    found = {row.name for row in rows if row.model == "reference" and row.name.startswith("elasticity_")}
    assert found == {"elasticity_mae", "elasticity_bias", "elasticity_coverage_80"}
    assert not [row for row in rows if row.model != "reference" and row.name.startswith("elasticity_")]
    recipe.main(words(folder))
    assert "No elasticities of blind, free: no demand curve." in capsys.readouterr().out


def test_a_finished_variant_is_not_trained_again(
    finished: tuple[Path, list[ResultRow]], words: Words, trained: list[list[str]]
) -> None:
    folder, rows = finished
    assert recipe.main(words(folder)) == rows
    assert not trained
    with pytest.raises(NothingIsTrained):
        recipe.main(words(folder, "small: --size small", "--only", "small"))
    assert "small" in trained[0]


def test_other_words_and_other_data_are_noticed(
    tmp_path: Path,
    finished: tuple[Path, list[ResultRow]],
    words: Words,
    trained: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, rows = tmp_path / "out", finished[1]
    shutil.copytree(finished[0], folder)
    changed = [
        word.replace("--price_response free", "--price_response free --patch_length 2") for word in words(folder)
    ]
    with pytest.raises(SystemExit, match="patch_length: default then, 2 now"):
        recipe.main(changed)
    with pytest.raises(SystemExit, match="data elasticity_shop_c-0.9: sha256:"):
        recipe.main(words(folder, "--test_seed", "996001"))
    with pytest.raises(SystemExit, match="the reference has no scores with seed 0 and these settings"):
        recipe.main([*words(folder), "--common=--max_steps 3", "--only", "free"])
    assert not trained
    assert recipe.main([*changed, "--only", "blind"]) == [row for row in rows if row.model != "free"]
    # The console breaks lines wherever the folder's name ends.
    printed = " ".join(capsys.readouterr().out.split())
    assert "seed0 was measured under other settings and is left out" in printed
    with pytest.raises(NothingIsTrained):
        recipe.main([*changed, "--overwrite"])
    assert [told[told.index("--patch_length") + 1] for told in trained] == ["2"]


def test_what_cannot_be_run_is_refused_at_once(
    tmp_path: Path, words: Words, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "--only names unknown variants ['big']; known are reference, free, blind": ["--only", "big"],
        "the first of variants is ['free']": ["--variants", "free: --price_response free"],
        "variants holds free more than once": ["free:"],
        "expected a quoted text such as": ["{'free': '--price_response free'}"],
        "sets seed, which the ablation sets": ["other: --seed 3"],
        "--common sets config": ["--common=--config other.yaml"],
        "the published test bed (990001 and up) is not for choosing": ["--test_seed", "990001"],
        "belong to training": ["--test_seed", "899999"],
    }
    for message, more in wrong.items():
        with pytest.raises(SystemExit):
            recipe.main(words(tmp_path, *more))
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="unknown cells"):
        recipe.main(words(tmp_path, "--cells", "shop"))
    assert not trained


def test_scores_of_another_version_are_refused(tmp_path: Path, words: Words, trained: list[list[str]]) -> None:
    folder = tmp_path / "variants" / "reference" / "seed0"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"settings": {}}))
    with pytest.raises(ValueError, match="was not written by this version"):
        recipe.main(words(tmp_path))
    assert not trained


def test_differences_are_those_of_a_hand_calculation() -> None:
    wql = {("reference", 0): (0.2, 0.4), ("reference", 1): (0.4, 0.4)}
    wql |= {("other", 0): (0.3, 0.36), ("other", 1): (0.6, 0.2)}
    rows = [
        ResultRow("wql", value, variant, "panel", seed=seed, window=window)
        for (variant, seed), values in wql.items()
        for window, value in enumerate(values)
    ]
    biases = {"reference": 0.5, "other": -0.2}
    rows += [ResultRow("elasticity_bias", value, name, "cell", seed=0) for name, value in biases.items()]
    rows += [ResultRow("mase", 1.0, "other", "panel", seed=0), ResultRow("wql", 0.5, "lonely", "panel", seed=7)]
    table = average_seeds(compare_with_reference(rows, "reference")).set_index(["metric", "variant"])
    other = table.loc[("wql", "other")]
    assert other["value"] == pytest.approx((0.33 + 0.4) / 2)
    assert other["relative"] == pytest.approx((0.33 / 0.3 - 1 + 0.0) / 2)
    assert other["relative_error"] == pytest.approx(0.05)
    assert table.loc[("elasticity_bias", "other"), "difference"] == pytest.approx(-0.7)
    assert pd.isna(table.loc[("elasticity_bias", "other"), "relative"])
    assert pd.isna(table.loc[("wql", "lonely"), "difference"])
    assert "mase" not in table.index.get_level_values("metric")


def test_words_are_read_as_a_command_line_reads_them() -> None:
    words = "--stores a b --max_steps 3 --hide-patches=0 --no_censored_loss --max_steps 4".split()
    assert read_words(words) == {"stores": "a b", "max_steps": "4", "hide_patches": "0", "no_censored_loss": ""}
    with pytest.raises(ValueError, match="expected a key such as --size"):
        read_words(["size", "small"])


def test_the_bed_to_choose_on_is_not_the_bed_of_the_tests() -> None:
    with pytest.raises(ValueError, match="not for choosing"):
        ValidationBedArguments(test_seed=990030)
    assert ValidationBedArguments().test_seed == 995001


SHIPPED = yaml.safe_load((RECIPES / "nano" / "ablation.yaml").read_text())


@pytest.mark.parametrize("variant", read_variants(SHIPPED["variants"])[1:], ids=lambda variant: variant.name)
def test_every_shipped_variant_is_a_run_of_its_own(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are understood, change something, and give sizes that fit one another."""
    same = ["--config", str(RECIPES / "nano" / "base.yaml"), *SHIPPED["common"].split()]
    reference, resolved = (understand(pretrain, [*same, *words], monkeypatch) for words in ((), variant.words))
    changed = {key for key in resolved if resolved[key] != reference[key]}
    assert changed == set(read_words(variant.words))
    sizes = {key: resolved[key] for key in ("size", "price_response", "context_length", "patch_length", *OBJECTIVE)}
    config = PricingFMConfig.from_size(**sizes)
    shortest = config.context_length / config.patch_length / 2 ** (len(resolved["history_shares"]) - 1)
    assert shortest >= 1
