"""A network of a few hundred weights for the tests of the loop; run as a script, it trains in real processes."""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.checkpoint import (
    load_optimizer_tensors,
    optimizer_tensors,
    whole_tensors,
    write_tensors,
)
from pricing_fm.training.loop import TrainingResult, train
from pricing_fm.training.optimizer import AveragedWeights, build_optimizer, local_part

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ToyOutput:
    loss: torch.Tensor
    loss_terms: dict[str, torch.Tensor]


class ToyModel(nn.Module):
    """Has every kind of parameter; its rare head is left out where no sample asks for it, as a task's head is."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.linear_in = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.dropout = nn.Dropout(dropout)
        self.linear_out = nn.Linear(8, 4)
        self.rare_head = nn.Linear(8, 4)
        self.token = nn.Parameter(torch.zeros(1, 8))
        self.register_buffer("knots", torch.linspace(-1, 1, 3))

    def forward(
        self,
        inputs: torch.Tensor,
        kinds: torch.Tensor,
        targets: torch.Tensor,
        observed: torch.Tensor,
        rare: torch.Tensor,
    ) -> ToyOutput:
        hidden = torch.tanh(self.linear_in(inputs) + self.embedding(kinds) + self.token)
        hidden = self.dropout(self.norm(hidden))
        common = _masked_means(self.linear_out(hidden) - targets, observed)
        loss, rare_loss = common.mean(), torch.tensor(float("nan"))
        if rare.any():
            rare_losses = _masked_means(self.rare_head(hidden) + targets, observed) * rare
            loss, rare_loss = loss + rare_losses.mean(), rare_losses.sum() / rare.sum()
        return ToyOutput(loss, {"common": common.mean(), "rare": rare_loss})


def _masked_means(residuals: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Mean square over observed steps, per sample."""
    squares = torch.where(observed, residuals, 0.0) ** 2
    return squares.sum(-1) / observed.sum(-1).clamp_min(1)


class ToySource:
    """Noisy functions of the inputs; the targets of `broken_steps` are not numbers."""

    def __init__(self, batch_size: int = 16, seed: int = 0, broken_steps: tuple[int, ...] = ()) -> None:
        self.batch_size, self.seed, self.broken_steps = batch_size, seed, broken_steps
        self.asked: list[tuple[int, int]] = []

    def batch(
        self, step: int, micro_step: int, rank: int, world_size: int, num_micro_steps: int
    ) -> dict[str, torch.Tensor]:
        self.asked.append((step, micro_step))
        part, parts = micro_step * world_size + rank, world_size * num_micro_steps
        return {name: tensor[part::parts] for name, tensor in self.whole(step).items()}

    def whole(self, step: int) -> dict[str, torch.Tensor]:
        random = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        inputs = random.normal(size=(self.batch_size, 6)).astype(np.float32)
        targets = np.stack([inputs[:, 0], inputs[:, 1] * inputs[:, 2], np.abs(inputs[:, 3]), inputs[:, 4]], axis=1)
        targets += random.normal(scale=0.3, size=targets.shape).astype(np.float32)
        observed = random.random(targets.shape) < 0.8
        if step in self.broken_steps:
            targets[:, 0] = np.nan
            observed[:, 0] = True
        return {
            "inputs": torch.from_numpy(inputs),
            "kinds": torch.from_numpy(random.integers(0, 5, self.batch_size)),
            "targets": torch.from_numpy(targets),
            "observed": torch.from_numpy(observed),
            "rare": torch.from_numpy(random.random(self.batch_size) < 0.1),
        }


def toy_model(seed: int = 0, dropout: float = 0.0) -> ToyModel:
    torch.manual_seed(seed)
    return ToyModel(dropout)


def run_toy(
    folder: Path,
    model: nn.Module | None = None,
    source: ToySource | None = None,
    optim: dict[str, Any] | None = None,
    loop: dict[str, Any] | None = None,
    output: dict[str, Any] | None = None,
    num_validation_batches: int = 3,
) -> tuple[TrainingResult, nn.Module]:
    """A short run with tight logging; any argument can be set by name."""
    model = toy_model() if model is None else model
    held_out = ToySource(batch_size=8, seed=99)
    result = train(
        model,
        ToySource() if source is None else source,
        OptimArguments(**{"learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.9, **(optim or {})}),
        LoopArguments(**{"max_steps": 10, "evaluate_every": 5, **(loop or {})}),
        OutputArguments(
            **{"output_dir": str(folder), "checkpoint_every": 5, "log_every": 1, "tracker": "none", **(output or {})}
        ),
        [held_out.whole(step) for step in range(num_validation_batches)],
    )
    return result, model


def losses_of(result: TrainingResult) -> list[float]:
    return [row["loss"] for row in result.history if row.get("loss") is not None]


def launch_environment() -> dict[str, str]:
    """For processes of the tests' own: one thread each, the repository importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def test_the_toy_batch_is_the_same_however_it_is_cut() -> None:
    source = ToySource()
    whole = source.whole(3)
    slices = [source.batch(3, micro, rank, 2, 4) for micro in range(4) for rank in range(2)]
    for name, tensor in whole.items():
        cut = torch.empty_like(tensor)
        for part, piece in enumerate(slices):
            cut[part::8] = piece[name]
        assert torch.equal(cut, tensor)
    assert not torch.equal(whole["inputs"], source.whole(4)["inputs"])


def test_some_slices_of_the_toy_lack_the_rare_task_and_some_have_it() -> None:
    asked = {bool(ToySource().batch(step, 0, rank, 2, 1)["rare"].any()) for step in range(20) for rank in range(2)}
    assert asked == {True, False}


def run_sharded() -> dict[str, bool | float]:
    """A run with sharded weights beside one with whole weights, and its resumption into shards of another start."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))

    def start(seed: int, shards: bool) -> tuple[nn.Module, torch.optim.Optimizer, AveragedWeights]:
        model = toy_model(seed)
        if shards:
            fully_shard(model.linear_in, mesh=mesh)
            fully_shard(model, mesh=mesh)
        return model, build_optimizer(model, OptimArguments()), AveragedWeights(model, decay=0.9)

    def steps(run: tuple[nn.Module, torch.optim.Optimizer, AveragedWeights], first: int, last: int) -> None:
        model, optimizer, averaged = run
        for step in range(first, last):
            model(**ToySource().whole(step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            averaged.update(step + 1)

    whole, sharded, resumed = start(0, shards=False), start(0, shards=True), start(5, shards=True)
    steps(whole, 0, 8)
    steps(sharded, 0, 4)
    weights, averaged = whole_tensors(sharded[0].state_dict()), whole_tensors(sharded[2].tensors)
    optimizer = optimizer_tensors(sharded[1], sharded[0])
    write_tensors(resumed[0].state_dict(), weights, "weights")
    write_tensors(resumed[2].tensors, averaged, "averaged")
    load_optimizer_tensors(resumed[1], resumed[0], optimizer)
    steps(sharded, 4, 8)
    steps(resumed, 4, 8)
    runs = [
        {**run[0].state_dict(), **{f"average of {k}": v for k, v in run[2].tensors.items()}}
        for run in (whole, sharded, resumed)
    ]
    expected, found, again = (whole_tensors(run) for run in runs)
    return {
        "is_sharded": isinstance(sharded[0].linear_in.weight, DTensor),
        "difference_to_whole": max((found[name] - expected[name]).abs().max().item() for name in expected),
        "resumed_is_equal": all(torch.equal(again[name], found[name]) for name in found),
    }


def main() -> None:
    """Runs the jobs of a JSON file, and leaves for every job and rank what the tests compare."""
    rank = int(os.environ.get("RANK", "0"))
    gradients: list[str] = []

    def remember_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
        digest = hashlib.sha256()
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                digest.update(local_part(parameter.grad).numpy().tobytes())
        gradients.append(digest.hexdigest())

    register_optimizer_step_pre_hook(remember_gradients)
    for name, job in json.loads(Path(sys.argv[1]).read_text()).items():
        gradients.clear()
        set_seed(0)
        folder = Path(job.pop("folder"))
        if name == "sharded":
            (folder / f"{name}_{rank}.json").write_text(json.dumps(run_sharded()))
            continue
        if name == "apart":
            with pytest.raises(RuntimeError) as refusal:
                run_toy(folder, model=toy_model(seed=rank))
            (folder / f"{name}_{rank}.json").write_text(json.dumps({"refusal": str(refusal.value)}))
            continue
        model = toy_model()
        result, _ = run_toy(folder, model=model, **job)
        told = {"losses": losses_of(result), "gradients": gradients, "best": result.best_validation_loss}
        told["weights"] = {key: tensor.tolist() for key, tensor in model.state_dict().items()}
        (folder / f"{name}_{rank}.json").write_text(json.dumps(told))
    if torch.distributed.is_initialized():
        # Gloo's threads now and then abort a process that has done its work while it is taken down. So: all done, then
        # leave without taking anything down.
        torch.distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
