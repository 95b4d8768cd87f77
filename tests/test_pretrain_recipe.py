"""The pretraining recipe with the real network: what it writes, what it never reads, that it can be cut anywhere."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

import pricing_fm  # noqa: F401  (registers the Auto classes)
from pricing_fm.artifact import verify_artifact
from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.markets import SimulatedLog
from pricing_fm.models import PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.panel import Panel, SeriesStore, build_store, load_panel
from pricing_fm.recipe import read_recipe
from pricing_fm.results import read_results
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.collate import PretrainBatchSource
from pricing_fm.training.loop import TrainingResult, train
from recipes import pretrain
from tests.test_training_toy import REPOSITORY, launch_environment, losses_of

SCHEMA = {"promotion": "promotion", "frequency": "W"}
STEPS = 6


@pytest.fixture(scope="module")
def panel_files(tmp_path_factory: pytest.TempPathFactory, tiny_log: SimulatedLog) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("panel")
    tiny_log.panel.to_parquet(folder / "panel.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    return folder / "panel.parquet", folder / "schema.yaml"


@pytest.fixture(scope="module")
def words(panel_files: tuple[Path, Path]) -> list[str]:
    panel, schema = panel_files
    line = f"--panels {panel} --schemas {schema} --context_length 16 --prediction_length 4 --batch_size 8"
    line += f" --max_steps {STEPS} --decision_steps 2 --learning_rate 1e-3 --warmup_steps 2 --log_every 1"
    return (line + " --evaluate_every 3 --validation_windows 12 --checkpoint_every 4 --tracker none").split()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> tuple[Path, TrainingResult]:
    """An artifact and how it came to be."""
    folder = tmp_path_factory.mktemp("pretrained") / "base"
    return folder, pretrain.main([*words, "--output_dir", str(folder)])


def test_the_recipe_leaves_a_sealed_artifact_that_loads(base: tuple[Path, TrainingResult], words: list[str]) -> None:
    folder, result = base
    verify_artifact(folder, "base")
    written = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"} <= written
    assert {"recipe.yaml", "results.json", "manifest.json", ".checkpoints", ".logs"} <= written
    (row,) = read_results(folder).metrics
    assert (row.name, row.split, row.value) == ("loss", "validation", result.best_validation_loss)
    saved = load_file(folder / "model.safetensors")
    loaded = AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, saved[f"model.{name}"]) for name, tensor in loaded.items())
    assert loaded
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert (recipe["max_steps"], recipe["size"], recipe["learning_rate"]) == (STEPS, "nano", 1e-3)


def test_the_best_averaged_weights_are_what_is_saved(base: tuple[Path, TrainingResult]) -> None:
    folder, _ = base
    saved = load_file(folder / "model.safetensors")
    best = load_file(folder / ".checkpoints" / f"step_{STEPS:08d}" / "best.safetensors")
    trunk = [name for name in best if name.startswith(("model.", "demand_head."))]
    assert len(trunk) > 20
    assert all(torch.equal(saved[name], best[name]) for name in trunk)


class Interrupted(Exception):
    pass


def test_an_interrupted_recipe_ends_with_the_same_bytes(
    base: tuple[Path, TrainingResult], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = base
    original = PretrainBatchSource.batch

    def break_off(self: PretrainBatchSource, step: int, *where: int) -> dict[str, torch.Tensor]:
        if step == 5:
            raise Interrupted
        return original(self, step, *where)

    arguments = [*words, "--output_dir", str(tmp_path / "base")]
    with monkeypatch.context() as patch:
        patch.setattr(PretrainBatchSource, "batch", break_off)
        with pytest.raises(Interrupted):
            pretrain.main([*arguments, "--prefetch_batches", "0"])
    assert not (tmp_path / "base" / "model.safetensors").exists()
    pretrain.main([*arguments, "--resume"])
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_two_processes_of_the_recipe_follow_one(
    base: tuple[Path, TrainingResult], words: list[str], tmp_path: Path
) -> None:
    topology = str(REPOSITORY / "recipes" / "accelerate" / "cpu_2proc.yaml")
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--main_process_port",
        "0",
        "--config_file",
        topology,
    ]
    script = [str(REPOSITORY / "recipes" / "pretrain.py"), *words, "--num_processes_expected", "2"]
    command = [*launcher, *script, "--decision_steps", "0", "--output_dir", str(tmp_path)]
    done = subprocess.run(command, env=launch_environment(), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / ".logs" / "training.jsonl").read_text().splitlines()]
    _, one = base
    two = [row["loss"] for row in rows if "loss" in row]
    assert len(two) == STEPS
    assert two == pytest.approx(losses_of(one), abs=1e-5)
    validations = [[row["validation_loss"] for row in run if "validation_loss" in row] for run in (rows, one.history)]
    assert validations[0] == pytest.approx(validations[1], abs=1e-5)


def test_micro_batches_of_the_network_follow_the_whole_batch(
    tmp_path: Path,
    build_tiny_model: Callable[..., PricingFMForPreTraining],
    tiny_processor: PricingFMProcessor,
    tiny_store: SeriesStore,
) -> None:
    runs: list[tuple[list[float], dict[str, torch.Tensor]]] = []
    for pieces in (1, 8):
        model = build_tiny_model()
        source = PretrainBatchSource([tiny_store], [1.0], tiny_processor, 16, 4, seed=0)
        output = OutputArguments(
            output_dir=str(tmp_path / str(pieces)), checkpoint_every=0, log_every=1, tracker="none"
        )
        loop = LoopArguments(max_steps=10, gradient_accumulation_steps=pieces)
        optim = OptimArguments(warmup_steps=2, ema_decay=0.5)
        runs.append((losses_of(train(model, source, optim, loop, output)), model.state_dict()))
    (whole_losses, whole), (cut_losses, cut) = runs
    assert cut_losses == pytest.approx(whole_losses, abs=1e-4)
    assert all(torch.allclose(tensor, cut[name], atol=1e-3) for name, tensor in whole.items())
    start = build_tiny_model().state_dict()
    moved = max((tensor - start[name]).abs().max().item() for name, tensor in whole.items())
    assert moved > 2e-3


# -- what is never read -----------------------------------------------------------------------------------------------


def data_arguments(**changes: Any) -> pretrain.DataArguments:
    return pretrain.DataArguments(**{"panels": ("panel",), "validation_periods": 6, "test_periods": 5, **changes})


def test_training_validation_and_test_lie_one_after_the_other(tiny_panel: Panel) -> None:
    cut = pretrain.cut_by_time(tiny_panel, data_arguments())
    steps = tiny_panel.frequency
    assert cut.validation_start == steps.step(tiny_panel.last_observed, -10)
    assert cut.train.frame["timestamp"].max() < cut.validation_start
    assert cut.validation.frame["timestamp"].max() == steps.step(tiny_panel.last_observed, -5)
    dates = data_arguments(
        validation_start=str(cut.validation_start), test_start=str(steps.step(cut.validation_start, 6)), test_periods=0
    )
    by_date = pretrain.cut_by_time(tiny_panel, dates)
    assert by_date.train.fingerprint() == cut.train.fingerprint()
    assert by_date.validation.fingerprint() == cut.validation.fingerprint()


def test_what_comes_after_the_training_periods_changes_no_number_of_them(tiny_log: SimulatedLog) -> None:
    table = tiny_log.panel
    panels = [load_panel(table, schema=SCHEMA)]
    cut = pretrain.cut_by_time(panels[0], data_arguments())
    later = pd.to_datetime(table["timestamp"]) >= cut.validation_start
    altered = table.copy()
    altered.loc[later, ["units", "price", "list_price"]] *= 10.0
    other = pretrain.cut_by_time(load_panel(altered, schema=SCHEMA), data_arguments())
    assert other.validation.fingerprint() != cut.validation.fingerprint()
    stores = [build_store(part.train) for part in (cut, other)]
    assert stores[0].fingerprint == stores[1].fingerprint
    np.testing.assert_array_equal(stores[0].values, stores[1].values)


def test_held_out_categories_are_in_no_store(panel_files: tuple[Path, Path]) -> None:
    panel, schema = map(str, panel_files)
    everything = load_panel(panel, schema=schema)
    held_out = everything.categories[0]
    arguments = data_arguments(panels=(panel,), schemas=(schema,), held_out_categories=(held_out,))
    (kept,) = pretrain.load_panels(arguments)
    assert set(kept.categories) == set(everything.categories) - {held_out}
    with pytest.raises(PanelError, match="are in no panel"):
        pretrain.load_panels(data_arguments(panels=(panel,), schemas=(schema,), held_out_categories=("socks",)))


def test_a_held_out_category_is_not_learned_from_another_panel_that_spells_it_differently(
    panel_files: tuple[Path, Path], tmp_path: Path
) -> None:
    panel, schema = map(str, panel_files)
    held_out = load_panel(panel, schema=schema).categories[0]
    other = pd.read_parquet(panel)
    other = other[other["category"] == held_out].assign(category=f" {held_out.upper()} ")
    other.to_parquet(tmp_path / "other.parquet", index=False)
    arguments = data_arguments(
        panels=(panel, str(tmp_path / "other.parquet")), schemas=(schema, schema), held_out_categories=(held_out,)
    )
    with pytest.raises(PanelError, match="two spellings of one category"):
        pretrain.load_panels(arguments)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"panels": ("a", "b", "c"), "schemas": ("s", "t")}, "--schemas has 2 entries for 3 panels"),
        ({"panel_weights": (0.5, 0.5)}, "--panel_weights has 2 entries for 1 panels"),
        ({"test_start": "2024-01-01"}, "pass one of them"),
        ({"batch_size": 0}, "1 or more"),
    ],
)
def test_contradicting_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_arguments(**changes)


def test_every_size_has_hyper_parameters_that_the_recipe_reads() -> None:
    files = sorted((REPOSITORY / "recipes").glob("*/pretrain.yaml"))
    sized = [file for file in files if file.parent.name in ("nano", "small", "base")]
    assert len(sized) == 3
    kinds = (pretrain.DataArguments, pretrain.ModelArguments, OptimArguments, LoopArguments, OutputArguments)
    for file in sized:
        assert file.read_text().startswith("# ")
        words = ["--config", str(file), "--panels", "p", "--output_dir", "o"]
        _, architecture, *_ = read_recipe(kinds, words)
        assert architecture.size == file.parent.name


def test_a_run_starts_from_the_weights_of_another_base(
    base: tuple[Path, TrainingResult], words: list[str], tmp_path: Path
) -> None:
    folder, _ = base
    again = [
        *words,
        "--initial_base",
        str(folder),
        "--learning_rate",
        "1e-12",
        "--ema_decay",
        "0",
        "--warmup_steps",
        "0",
    ]
    pretrain.main([*again, "--decision_steps", "0", "--output_dir", str(tmp_path / "again")])
    first, second = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert all(torch.allclose(second[name], tensor, atol=1e-6) for name, tensor in first.items())
    with pytest.raises(ArtifactError, match="do not fit the network"):
        pretrain.main([*again, "--patch_length", "8", "--output_dir", str(tmp_path / "other")])


def test_a_held_out_category_is_not_learned_from_a_panel_that_calls_everything_else(
    panel_files: tuple[Path, Path], tmp_path: Path
) -> None:
    panel, schema = map(str, panel_files)
    held_out = load_panel(panel, schema=schema).categories[0]
    other = pd.read_parquet(panel)
    other = other[other["category"] == held_out].assign(category="another name")
    for column in ("item_id", "product_id"):
        if column in other:
            other[column] = "x" + other[column].rank(method="dense").astype(int).astype(str)
    other.to_parquet(tmp_path / "other.parquet", index=False)
    arguments = data_arguments(
        panels=(panel, str(tmp_path / "other.parquet")), schemas=(schema, schema), held_out_categories=(held_out,)
    )
    with pytest.raises(PanelError, match="'x1' of 'other' is trained on: their periods, sales and prices are the same"):
        pretrain.load_panels(arguments)
