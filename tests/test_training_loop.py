"""The loop in one process: what moves, what is skipped, when it stops, and what it tells."""

import copy
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pricing_fm.models import PricingFMForPreTraining
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.checkpoint import load_checkpoint
from pricing_fm.training.loop import train
from pricing_fm.training.measures import validation_means
from pricing_fm.training.processes import start_accelerator
from pricing_fm.training.sources import Slicing, prefetched
from tests.test_training_toy import ToyModel, ToySource, losses_of, run_toy, toy_model


def difference(left: torch.nn.Module, right: torch.nn.Module) -> float:
    mine, others = left.state_dict(), right.state_dict()
    assert mine.keys() == others.keys()
    return max((mine[name] - others[name]).abs().max().item() for name in mine)


def test_the_loss_falls_and_the_result_tells_the_run(tmp_path: Path) -> None:
    untrained = toy_model()
    result, model = run_toy(tmp_path, loop={"max_steps": 60, "evaluate_every": 20, "evaluate_first": True})
    validations = [row["validation_loss"] for row in result.history if "validation_loss" in row]
    assert len(validations) == 4
    assert result.best_validation_loss == min(validations) < 0.8 * validations[0]
    assert (result.steps, result.skipped_steps, result.best_step) == (60, 0, 60)
    assert len(losses_of(result)) == 60
    assert difference(model, untrained) > 0.01
    assert min(result.seconds, result.windows_per_second) > 0


def test_every_row_of_the_log_is_on_disk_with_its_numbers(tmp_path: Path) -> None:
    result, _ = run_toy(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / ".logs" / "training.jsonl").read_text().splitlines()]
    assert rows == list(result.history)
    numbers = {"loss", "loss_common", "loss_rare", "learning_rate", "gradient_norm", "skipped_steps"}
    speed = {"windows_per_second", "share_waiting_for_batches", "memory_mb"}
    assert {"step"} | numbers | speed == rows[0].keys()
    assert {"step", "validation_loss", "validation_loss_common", "validation_loss_rare"} == rows[5].keys()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]


def test_a_row_of_the_log_is_the_mean_since_the_last_row(tmp_path: Path) -> None:
    every, _ = run_toy(tmp_path / "every")
    third, _ = run_toy(tmp_path / "third", loop={"evaluate_every": 0}, output={"log_every": 3})
    losses = losses_of(every)
    means = [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:9]) / 3, losses[9]]
    assert losses_of(third) == pytest.approx(means, rel=1e-12)


def test_eight_micro_batches_follow_the_trajectory_of_one(tmp_path: Path) -> None:
    one, whole = run_toy(tmp_path / "one", loop={"max_steps": 20})
    eight, cut = run_toy(tmp_path / "eight", loop={"max_steps": 20, "gradient_accumulation_steps": 8})
    assert losses_of(eight) == pytest.approx(losses_of(one), abs=1e-5)
    assert difference(whole, cut) < 1e-5
    assert eight.best_validation_loss == pytest.approx(one.best_validation_loss, abs=1e-6)


def test_a_compiled_model_follows_the_trajectory_and_comes_back_as_it_was(tmp_path: Path) -> None:
    plain, eager = run_toy(tmp_path / "plain")
    compiled, model = run_toy(tmp_path / "compiled", loop={"compile_backend": "aot_eager"})
    assert losses_of(compiled) == pytest.approx(losses_of(plain), abs=1e-5)
    assert difference(eager, model) < 1e-5
    assert model._compiled_call_impl is None


def test_activations_are_computed_anew_in_training_alone(
    tmp_path: Path, tiny_model: PricingFMForPreTraining, tiny_batch: dict[str, torch.Tensor]
) -> None:
    calls = []
    tiny_model.model.encoder[0].register_forward_pre_hook(lambda *_: calls.append(1))
    loop = LoopArguments(max_steps=2, evaluate_every=0, activation_checkpointing=True)
    output = OutputArguments(str(tmp_path), checkpoint_every=0, tracker="none")
    train(tiny_model, OneBatch(tiny_batch), OptimArguments(), loop, output)
    assert len(calls) == 4  # twice a step
    assert not tiny_model.model.gradient_checkpointing
    with pytest.raises(ValueError, match="no network that supports activation checkpointing"):
        run_toy(tmp_path / "toy", loop={"activation_checkpointing": True})


class OneBatch:
    """The same batch in every step."""

    def __init__(self, batch: dict[str, torch.Tensor]):
        self.one = batch

    def batch(self, *_: int, **__: int) -> dict[str, torch.Tensor]:
        return self.one


def test_exactly_the_declared_parameters_change(tmp_path: Path) -> None:
    model = toy_model().requires_grad_(False)
    model.linear_out.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    run_toy(tmp_path, model=model, optim={"weight_decay": 0.5}, loop={"max_steps": 3})
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"linear_out.weight", "linear_out.bias"}


def test_gradients_are_clipped_and_the_log_has_the_norm_before(tmp_path: Path) -> None:
    seen: list[float] = []

    def remember(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        seen.append(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt().item())

    hook = register_optimizer_step_pre_hook(remember)
    try:
        result, _ = run_toy(tmp_path, optim={"gradient_clip": 0.01})
    finally:
        hook.remove()
    logged = [row["gradient_norm"] for row in result.history if "gradient_norm" in row]
    assert seen == pytest.approx([0.01] * 10, rel=1e-3)
    assert min(norm for norm in logged if norm is not None) > 0.02


def test_a_batch_that_is_no_number_moves_nothing_and_is_counted(tmp_path: Path) -> None:
    broken, model = run_toy(tmp_path / "broken", source=ToySource(broken_steps=(9,)), num_validation_batches=0)
    run_toy(tmp_path / "whole", output={"checkpoint_every": 3}, num_validation_batches=0)
    nine_steps = load_checkpoint(tmp_path / "whole" / ".checkpoints" / "step_00000009").averaged
    assert dict(model.named_parameters()).keys() == nine_steps.keys()
    assert all(torch.equal(tensor, nine_steps[name]) for name, tensor in model.named_parameters())
    assert broken.skipped_steps == 1
    assert broken.history[-1]["skipped_steps"] == 1
    assert "loss" not in broken.history[-1]


def test_too_many_broken_batches_in_a_row_end_the_run(tmp_path: Path) -> None:
    apart = ToySource(broken_steps=(1, 2, 4, 5))
    result, _ = run_toy(tmp_path / "apart", source=apart, loop={"maximum_skipped_in_a_row": 3})
    assert result.skipped_steps == 4
    with pytest.raises(FloatingPointError, match=r"3 steps in a row .*batch of step 6"):
        run_toy(tmp_path / "row", source=ToySource(broken_steps=(4, 5, 6)), loop={"maximum_skipped_in_a_row": 3})


class WorseningModel(ToyModel):
    """In validation its loss is what the test dictates, one value a validation."""

    dictated: list[float]

    def forward(self, **batch: torch.Tensor) -> Any:
        output = super().forward(**batch)
        if self.training:
            return output
        return type(output)(torch.tensor(self.dictated.pop(0)), output.loss_terms)


def test_training_stops_after_the_patience_and_leaves_the_best_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WorseningModel()
    model.dictated = [3.0, 2.0, 2.5, 1.99, 2.1, 0.0]
    arguments = {"max_steps": 100, "evaluate_every": 2, "patience": 3, "minimum_improvement": 0.05}
    files = {"checkpoint_every": 2, "keep_checkpoints": 10}
    result, _ = run_toy(tmp_path, model=model, loop=arguments, output=files, num_validation_batches=1)
    assert (result.steps, result.best_step, result.best_validation_loss) == (10, 4, 2.0)
    at_best = load_checkpoint(tmp_path / ".checkpoints" / "step_00000004").averaged
    assert all(torch.equal(tensor, at_best[name]) for name, tensor in model.named_parameters())
    at_end = load_checkpoint(tmp_path / ".checkpoints" / "step_00000010").averaged
    assert any(not torch.equal(tensor, at_end[name]) for name, tensor in model.named_parameters())


def test_a_validation_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    model = WorseningModel()
    model.dictated = [float("nan"), 5.0]
    result, _ = run_toy(tmp_path, model=model, num_validation_batches=1)
    assert (result.best_step, result.best_validation_loss) == (10, 5.0)
    assert [row["validation_loss"] for row in result.history if "validation_loss" in row] == [None, 5.0]


def test_validation_is_the_mean_over_samples_whatever_the_sizes_of_its_batches() -> None:
    accelerator, model = Accelerator(cpu=True), toy_model()
    batch = ToySource(batch_size=12).whole(0)
    batch["rare"] = torch.zeros(12, dtype=torch.bool)
    pieces = [{name: tensor[piece] for name, tensor in batch.items()} for piece in (slice(0, 3), slice(3, 12))]
    whole, cut = (validation_means(accelerator, model, batches) for batches in ([batch], pieces))
    assert cut["validation_loss"] == pytest.approx(whole["validation_loss"], rel=1e-6)
    assert cut["validation_loss_rare"] is None


def test_the_average_and_not_the_last_step_is_validated_and_kept(tmp_path: Path) -> None:
    _, averaged = run_toy(tmp_path / "averaged")
    _, last = run_toy(tmp_path / "last", optim={"ema_decay": 0.0})
    weights = load_checkpoint(tmp_path / "averaged" / ".checkpoints" / "step_00000010").weights
    assert all(torch.equal(tensor, weights[name]) for name, tensor in last.state_dict().items())
    assert difference(averaged, last) > 1e-4


def test_bf16_trains_and_the_model_comes_back_as_it_was(tmp_path: Path) -> None:
    full, _ = run_toy(tmp_path / "full", loop={"max_steps": 30})
    AcceleratorState._reset_state(True)
    try:
        half, model = run_toy(tmp_path / "half", loop={"max_steps": 30, "mixed_precision": "bf16"})
        again, _ = run_toy(tmp_path / "again", loop={"max_steps": 30, "mixed_precision": "bf16"}, model=model)
    finally:
        AcceleratorState._reset_state(True)
    assert losses_of(half) != losses_of(full)
    assert half.best_validation_loss == pytest.approx(full.best_validation_loss, rel=0.05)
    assert again.best_validation_loss < half.best_validation_loss
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    batch = ToySource().whole(0)
    assert model(**batch).loss.item() == run_outside(model, batch)


def run_outside(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Loss of the same weights in a model that no loop has touched."""
    fresh = toy_model(seed=5)
    fresh.load_state_dict(model.state_dict())
    return fresh.eval()(**batch).loss.item()


class UnevenSource(ToySource):
    def batch(self, step: int, *where: int) -> dict[str, torch.Tensor]:
        return ToySource(batch_size=16 + 4 * (step == 3)).batch(step, *where)


def test_slices_of_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a slice of 20 samples after slices of 16"):
        run_toy(tmp_path, source=UnevenSource())


class ForgetfulModel(ToyModel):
    def forward(self, **batch: torch.Tensor) -> Any:
        output = super().forward(**batch)
        terms = {name: value for name, value in output.loss_terms.items() if value.isfinite()}
        return type(output)(output.loss, terms)


def test_loss_terms_that_come_and_go_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="return NaN for absent ones"):
        run_toy(tmp_path, model=ForgetfulModel(), loop={"max_steps": 50})


class FailingSource(ToySource):
    def batch(self, step: int, *where: int) -> dict[str, torch.Tensor]:
        if step == 7:
            raise KeyError("a column that is not there")
        return super().batch(step, *where)


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_batches_come_in_order_and_an_error_of_the_source_reaches_the_caller(tmp_path: Path, ahead: int) -> None:
    source = FailingSource()
    with pytest.raises(KeyError, match="a column that is not there"):
        run_toy(tmp_path, source=source, loop={"prefetch_batches": ahead}, output={"checkpoint_every": 0})
    assert source.asked[:7] == [(step, 0) for step in range(7)]


def test_batches_are_made_ahead_in_another_thread() -> None:
    source, threads = ToySource(), set()

    class Watched(ToySource):
        def batch(self, step: int, *where: int) -> dict[str, torch.Tensor]:
            threads.add(threading.current_thread())
            return source.batch(step, *where)

    with prefetched(Watched(), Slicing(0, 1, 2), 5, 9, ahead=3, pin=False) as batches:
        first = next(batches)
        assert torch.equal(first["inputs"], source.whole(5)["inputs"][0::2])
        rest = list(batches)
    assert len(rest) == 7
    assert source.asked == [(step, micro) for step in range(5, 9) for micro in range(2)]
    assert len(threads) == 1
    assert threading.main_thread() not in threads


def test_curves_go_to_tensorboard(tmp_path: Path) -> None:
    run_toy(tmp_path, output={"tracker": "tensorboard"})
    events = list((tmp_path / ".logs" / "pricing_fm").glob("events.out.tfevents.*"))
    reader = EventAccumulator(str(events[0]))
    reader.Reload()
    assert {"loss", "validation_loss", "gradient_norm"} <= set(reader.Tags()["scalars"])
    assert [event.step for event in reader.Scalars("validation_loss")] == [5, 10]


def test_two_runs_of_one_accelerator_have_curves_of_their_own(tmp_path: Path) -> None:
    output = OutputArguments(output_dir=str(tmp_path / "first"), checkpoint_every=0, log_every=1)
    loop = LoopArguments(max_steps=3)
    accelerator = start_accelerator(loop, output)
    for folder in ("first", "second"):
        there = replace(output, output_dir=str(tmp_path / folder))
        train(toy_model(), ToySource(), OptimArguments(), loop, there, accelerator=accelerator)
        assert len(list((tmp_path / folder / ".logs" / "pricing_fm").glob("events.*"))) == 1


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pricing_fm.training.processes.is_wandb_available", lambda: False)
    with pytest.raises(ImportError, match="pip install wandb"):
        run_toy(tmp_path, output={"tracker": "wandb"})
