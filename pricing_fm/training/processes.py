"""The processes of a run: started, counted, compared, and asked to stop."""

import hashlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import (
    ProjectConfiguration,
    gather_object,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)
from torch import nn

from pricing_fm.training.arguments import LoopArguments, OutputArguments


def expected_processes(environment: Mapping[str, str], asked: int | None) -> int | None:
    """How many processes the run was asked to have.

    `accelerate launch --cpu --num_processes 2` starts a single process without a word. Its traces are the variables of
    the launcher with a rendezvous address and no world size.

    Args:
        environment (`Mapping[str, str]`): `os.environ` of this process.
        asked (`int`, *optional*): `--num_processes_expected`; wins over the environment.

    Returns:
        `int | None`: Number of processes, None if nothing says.

    Raises:
        RuntimeError: If the launcher was asked for several processes and started one.
    """
    if asked is not None:
        return asked
    if "WORLD_SIZE" in environment:
        return int(environment["WORLD_SIZE"])
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise RuntimeError(
            "accelerate launch was asked for several processes and started one: --cpu ignores --num_processes. "
            "Launch with --config_file recipes/accelerate/cpu_2proc.yaml, or pass --num_processes_expected 1"
        )
    return None


def start_accelerator(loop: LoopArguments, output: OutputArguments) -> Accelerator:
    """Start the processes' common ground, and refuse a world other than the one asked for.

    Call it after the arguments are parsed and before data are read, so that a wrong launch fails in seconds.

    Returns:
        `Accelerator`: With the tracker of `output` attached, not yet started.

    Raises:
        RuntimeError: If the number of processes is not the expected one.
        ImportError: If the tracker's library is missing.
    """
    expected = expected_processes(os.environ, loop.num_processes_expected)
    available = {
        "tensorboard": is_tensorboard_available,
        "wandb": is_wandb_available,
        "trackio": is_trackio_available,
    }
    if output.tracker != "none" and not available[output.tracker]():
        raise ImportError(f"--tracker {output.tracker} needs `pip install {output.tracker}`; or pass --tracker none")
    accelerator = Accelerator(
        cpu=loop.use_cpu or not torch.cuda.is_available(),
        mixed_precision=loop.mixed_precision,
        log_with=None if output.tracker == "none" else output.tracker,
        project_config=ProjectConfiguration(project_dir=output.output_dir, logging_dir=str(output.logs)),
        # Tasks are drawn per sample, so a head may have no sample in one slice of the batch.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if expected is not None and accelerator.num_processes != expected:
        raise RuntimeError(
            f"{expected} processes were asked for and {accelerator.num_processes} run together; "
            "independent copies would overwrite each other. Use one of recipes/accelerate/*.yaml or torchrun"
        )
    return accelerator


def check_same_start(accelerator: Accelerator, model: nn.Module) -> None:
    """Refuse to train when the processes built different weights.

    Raises:
        RuntimeError: If any process has other weights than the main process; the fix is to seed before building.
    """
    if accelerator.num_processes == 1:
        return
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    digests = gather_object([digest.hexdigest()])
    if len(set(digests)) > 1:
        raise RuntimeError("the processes start from different weights; seed every process alike before the model")


def check_same_norm(norms: list[float]) -> None:
    """Refuse to go on when the gradients differ between the processes after they were averaged.

    Args:
        norms (`list[float]`): Gradient norm in every process, all finite.

    Raises:
        RuntimeError: If they differ by more than rounding.
    """
    if max(norms) - min(norms) > 1e-4 * max(norms):
        raise RuntimeError(f"the processes have drifted apart: gradient norms {norms} after averaging")


@contextmanager
def termination() -> Iterator[threading.Event]:
    """Turn SIGTERM into an event, so that the loop can finish its step and save.

    Signals reach the main thread only; in any other thread the event stays unset.

    Yields:
        `threading.Event`: Set = this process was asked to stop. The earlier handler is back after the `with` block.
    """
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def remember(_signal: int, _frame: FrameType | None) -> None:
        terminated.set()

    previous = signal.signal(signal.SIGTERM, remember)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, previous)
