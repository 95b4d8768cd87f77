"""A run that was interrupted is the run that was not; and half a checkpoint is none."""

import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pricing_fm.errors import ArtifactError
from pricing_fm.training import checkpoint
from pricing_fm.training.checkpoint import complete_checkpoints, find_checkpoint, load_checkpoint
from pricing_fm.training.loop import TrainingResult
from tests.test_training_toy import ToyModel, ToyOutput, ToySource, run_toy, toy_model

TIMINGS = {"windows_per_second", "share_waiting_for_batches", "memory_mb"}


class Interrupted(Exception):
    pass


class InterruptedSource(ToySource):
    """Breaks off, as a power cut would, when the batch of `at` is asked for."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def batch(self, step: int, *where: int) -> dict[str, torch.Tensor]:
        if step == self.at:
            raise Interrupted
        return super().batch(step, *where)


def without_timings(result: TrainingResult) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in result.history]


def interrupt(folder: Path, at: int = 7, **arguments: Any) -> None:
    # Made when asked for: a batch made ahead would break off a few steps early.
    loop = {"prefetch_batches": 0, **arguments.pop("loop", {})}
    with pytest.raises(Interrupted):
        run_toy(folder, source=InterruptedSource(at), model=toy_model(dropout=0.2), loop=loop, **arguments)


def assert_equal_checkpoints(left: Path, right: Path) -> None:
    mine, other = load_checkpoint(left), load_checkpoint(right)
    for name in ("weights", "averaged", "best", "optimizer"):
        tensors, others = getattr(mine, name), getattr(other, name)
        assert tensors.keys() == others.keys()
        assert tensors
        assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())
    assert (left / "random_0000.json").read_text() == (right / "random_0000.json").read_text()


def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(tmp_path: Path) -> None:
    whole, expected = run_toy(tmp_path / "whole", model=toy_model(dropout=0.2))
    interrupt(tmp_path / "cut")
    other_start = toy_model(seed=77, dropout=0.2)
    resumed, model = run_toy(tmp_path / "cut", model=other_start, output={"resume": "latest"})
    assert without_timings(resumed) == without_timings(whole)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())
    last = ".checkpoints/step_00000010"
    assert_equal_checkpoints(tmp_path / "whole" / last, tmp_path / "cut" / last)
    assert len((tmp_path / "cut" / ".logs" / "training.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize("forgotten", ["restore_randomness", "load_optimizer_tensors", "averaged", "step"])
def test_each_part_of_a_checkpoint_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    whole, expected = run_toy(tmp_path / "whole", model=toy_model(dropout=0.2))
    interrupt(tmp_path / "cut")
    if forgotten == "averaged":
        original = load_checkpoint

        def without_average(path: Path) -> checkpoint.Snapshot:
            snapshot = original(path)
            trained = {name: snapshot.weights[name] for name in snapshot.averaged}
            return checkpoint.Snapshot(snapshot.state, snapshot.weights, trained, snapshot.best, snapshot.optimizer)

        monkeypatch.setattr("pricing_fm.training.loop.load_checkpoint", without_average)
    elif forgotten == "step":
        original_batch = ToySource.batch
        monkeypatch.setattr(
            ToySource, "batch", lambda self, step, *where: original_batch(self, max(step - 5, 0), *where)
        )
    else:
        monkeypatch.setattr(f"pricing_fm.training.loop.{forgotten}", lambda *_: None)
    _, model = run_toy(tmp_path / "cut", model=toy_model(dropout=0.2), output={"resume": "latest"})
    assert any(not torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_resuming_between_two_rows_of_the_log_keeps_their_mean(tmp_path: Path) -> None:
    rows = {"log_every": 4, "checkpoint_every": 6}
    whole, _ = run_toy(tmp_path / "whole", model=toy_model(dropout=0.2), output=rows)
    interrupt(tmp_path / "cut", at=8, output=rows)
    resumed, _ = run_toy(tmp_path / "cut", model=toy_model(dropout=0.2), output={**rows, "resume": "latest"})
    assert without_timings(resumed) == without_timings(whole)


def test_resuming_with_other_micro_batches_follows_the_same_trajectory(tmp_path: Path) -> None:
    whole, expected = run_toy(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_toy(tmp_path / "cut", source=InterruptedSource(7), loop={"prefetch_batches": 0})
    resumed, model = run_toy(tmp_path / "cut", loop={"gradient_accumulation_steps": 4}, output={"resume": "latest"})
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, expected.state_dict()[name], atol=1e-6)
    assert resumed.best_validation_loss == pytest.approx(whole.best_validation_loss, abs=1e-6)


class DictatedModel(ToyModel):
    """Its validation loss is what the test says."""

    dictated: tuple[float, ...]

    def forward(self, **batch: torch.Tensor) -> ToyOutput:
        output = super().forward(**batch)
        if self.training:
            return output
        value, *self.dictated = self.dictated
        return ToyOutput(torch.tensor(value), output.loss_terms)


def dictated_model(*values: float) -> nn.Module:
    torch.manual_seed(0)
    model = DictatedModel()
    model.dictated = values
    return model


def test_the_best_weights_and_the_patience_survive_an_interruption(tmp_path: Path) -> None:
    loop = {"max_steps": 40, "evaluate_every": 2, "patience": 3, "prefetch_batches": 0}
    files = {"checkpoint_every": 6}
    common = {"num_validation_batches": 1, "loop": loop}
    whole, expected = run_toy(tmp_path / "whole", dictated_model(3, 1, 2, 2, 2), output=files, **common)
    with pytest.raises(Interrupted):
        run_toy(tmp_path / "cut", dictated_model(3, 1, 2, 2), InterruptedSource(7), output=files, **common)
    resumed, model = run_toy(tmp_path / "cut", dictated_model(2, 2), output={**files, "resume": "latest"}, **common)
    assert (resumed.steps, resumed.best_step) == (whole.steps, whole.best_step) == (10, 4)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_finished_run_resumes_to_its_result_without_a_step(tmp_path: Path) -> None:
    finished, expected = run_toy(tmp_path)
    source = ToySource()
    again, model = run_toy(tmp_path, model=toy_model(seed=3), source=source, output={"resume": "latest"})
    assert again.history == finished.history
    assert (again.steps, again.best_step) == (10, finished.best_step)
    assert {step for step, _ in source.asked} == {0}  # looked at, to see that it is the same source
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


class TerminatedSource(ToySource):
    def batch(self, step: int, *where: int) -> dict[str, torch.Tensor]:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, *where)


def test_a_terminated_run_saves_its_step_says_143_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    whole, _ = run_toy(tmp_path / "whole")
    with pytest.raises(SystemExit) as stop:
        run_toy(tmp_path / "cut", source=TerminatedSource(), loop={"prefetch_batches": 0})
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    latest = find_checkpoint(tmp_path / "cut" / ".checkpoints", "latest")
    assert latest is not None
    assert latest.name == "step_00000007"
    resumed, _ = run_toy(tmp_path / "cut", output={"resume": "latest"})
    assert without_timings(resumed) == without_timings(whole)


@pytest.mark.parametrize("failing", ["weights.safetensors", "optimizer.safetensors", "COMPLETE"])
def test_a_kill_while_saving_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    whole, _ = run_toy(tmp_path / "whole", output={"checkpoint_every": 3})
    with monkeypatch.context() as patch:
        for name in ("save_file", "_write_json"):
            write = getattr(checkpoint, name)

            def fail(one: Any, other: Any, write: Any = write) -> None:
                path = one if isinstance(one, Path) else other
                if path.name == failing and "step_00000006" in path.parent.name:
                    raise Interrupted
                write(one, other)

            patch.setattr(checkpoint, name, fail)
        with pytest.raises(Interrupted):
            run_toy(tmp_path / "cut", output={"checkpoint_every": 3})
    folder = tmp_path / "cut" / ".checkpoints"
    assert [path.name for path in complete_checkpoints(folder)] == ["step_00000003"]
    resumed, _ = run_toy(tmp_path / "cut", output={"checkpoint_every": 3, "resume": "latest"})
    assert without_timings(resumed) == without_timings(whole)
    assert [path.name for path in sorted(folder.iterdir())] == ["step_00000009", "step_00000010"]


def test_the_newest_checkpoints_are_kept_and_the_last_step_has_one(tmp_path: Path) -> None:
    run_toy(tmp_path, output={"checkpoint_every": 2, "keep_checkpoints": 3, "checkpoint_dir": str(tmp_path / "there")})
    assert [path.name for path in complete_checkpoints(tmp_path / "there")] == [
        "step_00000006",
        "step_00000008",
        "step_00000010",
    ]
    assert not (tmp_path / ".checkpoints").exists()
    run_toy(tmp_path / "none", output={"checkpoint_every": 0})
    assert not (tmp_path / "none" / ".checkpoints").exists()


def test_nothing_is_pickled_and_no_file_looks_like_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (torch, "save"), (pickle, "load"), (pickle, "dump")):
        monkeypatch.setattr(module, name, refuse)
    run_toy(tmp_path, model=toy_model(dropout=0.2), output={"resume": "latest"})
    files = [path for path in (tmp_path / ".checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ""}
    assert not {path.name for path in files} & {"model.safetensors", "config.json", "adapter_model.safetensors"}


def test_another_runs_checkpoints_are_neither_continued_nor_deleted_unasked(tmp_path: Path) -> None:
    run_toy(tmp_path)
    with pytest.raises(ArtifactError, match=r"step_00000010 of another run; pass --resume"):
        run_toy(tmp_path)
    early = tmp_path / ".checkpoints" / "step_00000005"
    with pytest.raises(ArtifactError, match="--overwrite to delete it"):
        run_toy(tmp_path, output={"resume": str(early)})
    run_toy(tmp_path, output={"resume": str(early), "overwrite": True})
    result, _ = run_toy(tmp_path, loop={"max_steps": 5}, output={"overwrite": True})
    assert result.steps == 5
    assert [path.name for path in complete_checkpoints(tmp_path / ".checkpoints")] == ["step_00000005"]


def test_resume_says_what_it_could_not_find(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no complete checkpoint"):
        run_toy(tmp_path, output={"resume": "latest"})
    with pytest.raises(ArtifactError, match="nowhere is not a complete checkpoint"):
        run_toy(tmp_path, output={"resume": str(tmp_path / "nowhere")})
    result, _ = run_toy(tmp_path, output={"resume": "auto"})
    assert result.steps == 10


def test_an_altered_byte_a_missing_file_and_another_model_are_refused(tmp_path: Path) -> None:
    run_toy(tmp_path)
    good = tmp_path / ".checkpoints" / "step_00000005"
    altered = shutil.copytree(good, tmp_path / "altered")
    content = bytearray((altered / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (altered / "optimizer.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"optimizer\.safetensors is missing or was altered"):
        load_checkpoint(altered)
    (altered / "optimizer.safetensors").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        load_checkpoint(altered)
    larger = toy_model()
    larger.extra = nn.Linear(2, 2)
    with pytest.raises(ArtifactError, match=r"of another model: missing \['extra.bias', 'extra.weight'\]"):
        run_toy(tmp_path, model=larger, output={"resume": "latest"})
    wider = toy_model()
    wider.token = nn.Parameter(torch.zeros(1, 9))
    with pytest.raises(ArtifactError, match="token is"):
        run_toy(tmp_path, model=wider, output={"resume": "latest"})
    frozen = toy_model()
    frozen.token.requires_grad_(False)
    with pytest.raises(ArtifactError, match=r"averaged\.safetensors is of another model: .* unexpected \['token'\]"):
        run_toy(tmp_path, model=frozen, output={"resume": "latest"})


def test_resuming_under_another_schedule_is_refused(tmp_path: Path) -> None:
    run_toy(tmp_path)
    with pytest.raises(ValueError, match="--learning_rate: 0.01 then, 0.02 now"):
        run_toy(tmp_path, optim={"learning_rate": 0.02}, output={"resume": "latest"})


@pytest.mark.parametrize("other", [ToySource(seed=1), ToySource(batch_size=32)])
def test_resuming_on_other_data_is_refused(tmp_path: Path, other: ToySource) -> None:
    run_toy(tmp_path)
    with pytest.raises(ValueError, match="was trained on other batches .inputs, kinds"):
        run_toy(tmp_path, source=other, output={"resume": "latest"})
