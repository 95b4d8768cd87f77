"""Resumable checkpoints: complete or not there, JSON and safetensors only, the same for any number of processes."""

import hashlib
import json
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from pricing_fm.errors import ArtifactError

# No file bears an artifact's name, so that nobody loads half a run as a model.
STATE = "state.json"
WEIGHTS = "weights.safetensors"
AVERAGED = "averaged.safetensors"
BEST = "best.safetensors"
OPTIMIZER = "optimizer.safetensors"
COMPLETE = "COMPLETE"
FORMAT_VERSION = 1

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A run at one step, as read from or written to a checkpoint. Tensors are whole (not sharded) and on the CPU.

    Attributes:
        state (`dict`): JSON values: the loop's state and the arguments that shape the trajectory.
        weights (`dict[str, torch.Tensor]`): The model's `state_dict`.
        averaged (`dict[str, torch.Tensor]`): Moving average of the trained parameters.
        best (`dict[str, torch.Tensor]`): The same at the best validation; empty before the first.
        optimizer (`dict[str, torch.Tensor]`): `<slot>:<parameter name>`, such as `exp_avg:head.weight`.
    """

    state: dict[str, Any]
    weights: Tensors
    averaged: Tensors
    best: Tensors
    optimizer: Tensors


def whole_tensors(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Copy tensors to the CPU, shards put together. Every process has to call this with the same names."""
    whole = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        # A copy of its own: safetensors refuses tensors that share memory, as tied weights do.
        whole[name] = full.detach().to("cpu", copy=True).contiguous()
    return whole


@torch.no_grad()
def write_tensors(targets: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy whole CPU tensors into tensors of a run in place, cut into shards where the targets are.

    Raises:
        ArtifactError: If names, shapes or dtypes differ; nothing was copied then.
    """
    missing, unexpected = sorted(targets.keys() - values.keys()), sorted(values.keys() - targets.keys())
    if missing or unexpected:
        raise ArtifactError(f"{source} is of another model: missing {missing[:5]}, unexpected {unexpected[:5]}")
    for name, target in targets.items():
        found, expected = (values[name].shape, values[name].dtype), (target.shape, target.dtype)
        if found != expected:
            raise ArtifactError(f"{source} is of another model: {name} is {found}, expected {expected}")
    for name, target in targets.items():
        target.copy_(_like(values[name], target))


def _like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A whole CPU tensor on the device of `target`, and cut as it is."""
    if isinstance(target, DTensor):
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return value.to(target.device)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """State of an optimizer by parameter name, whole and on the CPU; parameters that never moved have none."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return whole_tensors(
        {
            f"{slot}:{names[id(parameter)]}": value
            for parameter, slots in optimizer.state.items()
            for slot, value in slots.items()
        }
    )


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` returned; rates come from the schedule, not from here.

    Raises:
        ArtifactError: If a tensor belongs to no parameter of the optimizer.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {names[id(parameter)]: position for position, parameter in enumerate(parameters)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        slot, name = key.split(":", 1)
        if name not in index:
            raise ArtifactError(f"{OPTIMIZER} holds {key}, which is not trained now; resume with the same frozen set")
        # A counter has no shape and belongs to every shard as it is.
        target = parameters[index[name]]
        state.setdefault(index[name], {})[slot] = _like(value, target) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(folder: Path, snapshot: Snapshot, accelerator: Accelerator, keep: int) -> Path:
    """Write a checkpoint: complete, or not there. Every process has to call this.

    It is written under a temporary name, renamed, and marked as complete last, so that a kill at any moment leaves the
    earlier checkpoints and nothing that looks like a whole one. The marker holds the digest of every file.

    Args:
        folder (`Path`): Parent of all checkpoints of the run.
        snapshot (`Snapshot`): What to write.
        accelerator (`Accelerator`): The main process writes, the others add their random state.
        keep (`int`): Newest complete checkpoints that stay.

    Returns:
        `Path`: `folder/step_<step>`.
    """
    target = folder / f"step_{snapshot.state['step']:08d}"
    temporary = folder / f".{target.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    _write_json(temporary / _random_file(accelerator.process_index), capture_randomness(accelerator.device))
    if accelerator.is_main_process:
        _write_json(temporary / STATE, {"format_version": FORMAT_VERSION, **snapshot.state})
        save_file(snapshot.weights, temporary / WEIGHTS)
        save_file(snapshot.averaged, temporary / AVERAGED)
        save_file(snapshot.best, temporary / BEST)
        save_file(snapshot.optimizer, temporary / OPTIMIZER)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        digests = {file.name: _digest(file) for file in sorted(temporary.iterdir())}
        _delete(target)
        temporary.rename(target)
        _write_json(target / COMPLETE, digests)
        for old in complete_checkpoints(folder)[:-keep]:
            _delete(old)
    accelerator.wait_for_everyone()
    return target


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(marker.parent for marker in folder.glob(f"step_*/{COMPLETE}") if _step_of(marker.parent) is not None)


def find_checkpoint(folder: Path, resume: str) -> Path | None:
    """The checkpoint that `--resume` means.

    Args:
        folder (`Path`): Parent of the run's checkpoints.
        resume (`str`): `latest`, `auto`, or the path of one checkpoint.

    Returns:
        `Path | None`: None only for `auto`, when there is none yet.

    Raises:
        ArtifactError: If there is none, or if the one at the path is incomplete.
    """
    if resume not in ("latest", "auto"):
        if not (Path(resume) / COMPLETE).is_file():
            raise ArtifactError(f"{resume} is not a complete checkpoint (a folder with the marker {COMPLETE})")
        return Path(resume)
    found = complete_checkpoints(folder)
    if not found and resume == "latest":
        raise ArtifactError(f"no complete checkpoint in {folder}; start without --resume, or pass --resume auto")
    return found[-1] if found else None


def make_room(folder: Path, resumed: Path | None, overwrite: bool, accelerator: Accelerator) -> None:
    """See to it that no checkpoint is newer than the start of this run: `latest` would mean another trajectory.

    Every process has to call this, and raises alike; the main process deletes.

    Raises:
        ArtifactError: If there are newer ones and `overwrite` is False.
    """
    start = -1 if resumed is None else int(json.loads((resumed / STATE).read_text())["step"])
    newer = [path for path in sorted(folder.glob("step_*")) if (step := _step_of(path)) is not None and step > start]
    complete = [path for path in newer if (path / COMPLETE).is_file()]
    if complete and not overwrite:
        raise ArtifactError(
            f"{folder} already holds {complete[-1].name} of another run; pass --resume to go on from it, "
            "--overwrite to delete it, or another --checkpoint_dir"
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for path in newer:
            _delete(path)
    accelerator.wait_for_everyone()


def load_checkpoint(path: Path) -> Snapshot:
    """Read a checkpoint. Nothing is unpickled.

    Raises:
        ArtifactError: If it is incomplete, if a byte was changed, or if its format is unknown.
    """
    if not (path / COMPLETE).is_file():
        raise ArtifactError(f"{path} is not a complete checkpoint")
    for name, digest in json.loads((path / COMPLETE).read_text()).items():
        if not (path / name).is_file() or _digest(path / name) != digest:
            raise ArtifactError(f"{path / name} is missing or was altered; resume from another checkpoint")
    state = json.loads((path / STATE).read_text())
    if state["format_version"] != FORMAT_VERSION:
        raise ArtifactError(f"{path} has format {state['format_version']}; this version reads {FORMAT_VERSION}")
    files = (WEIGHTS, AVERAGED, BEST, OPTIMIZER)
    weights, averaged, best, optimizer = (load_file(path / name) for name in files)
    return Snapshot(state=state, weights=weights, averaged=averaged, best=best, optimizer=optimizer)


def capture_randomness(device: torch.device) -> dict[str, Any]:
    """State of the random generators of this process, as JSON values. NumPy's global generator is used nowhere."""
    version, internal, gauss = random.getstate()
    captured: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
    }
    if device.type == "cuda":
        captured["cuda"] = bytes(torch.cuda.get_rng_state(device).tolist()).hex()
    return captured


def restore_randomness(path: Path, accelerator: Accelerator, seed: int, step: int) -> None:
    """Put the random generators back to where a checkpoint left them.

    With another number of processes, or on another kind of device, there is no such state: every process then starts
    from a seed made of (seed, step, rank), so that what follows is still defined.
    """
    saved = sorted(path.glob("random_*.json"))
    states = [json.loads(file.read_text()) for file in saved]
    on_cuda = accelerator.device.type == "cuda"
    if len(saved) != accelerator.num_processes or any(("cuda" in state) != on_cuda for state in states):
        set_seed((seed * 1_000_003 + step) % 2**31, device_specific=True)
        return
    state = json.loads((path / _random_file(accelerator.process_index)).read_text())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch"])), dtype=torch.uint8))
    if on_cuda:
        cuda_state = torch.tensor(list(bytes.fromhex(state["cuda"])), dtype=torch.uint8)
        torch.cuda.set_rng_state(cuda_state, accelerator.device)


def _random_file(rank: int) -> str:
    return f"random_{rank:04d}.json"


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"step_(\d{8,})", path.name)
    return int(match.group(1)) if match else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _delete(path: Path) -> None:
    # The marker goes first: a half-deleted checkpoint is not complete.
    (path / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
