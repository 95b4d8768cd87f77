"""Where batches come from, and how they are ready before the loop asks."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

Batch = dict[str, torch.Tensor]


class BatchSource(Protocol):
    """Batches as a pure function of where they are asked for; so a resumed run sees the batches it would have seen."""

    def batch(self, step: int, micro_step: int, rank: int, world_size: int, num_micro_steps: int) -> Batch:
        """One slice of the global batch of a step.

        The slices of a step are disjoint, of equal size and together the same samples however the batch is cut. The
        function is called from a thread, ahead of time, and uses no global random generator.

        Args:
            step (`int`): Zero-based optimizer step.
            micro_step (`int`): In `[0, num_micro_steps)`.
            rank (`int`): In `[0, world_size)`.
            world_size (`int`): Processes.
            num_micro_steps (`int`): Slices per process and step.

        Returns:
            `dict[str, torch.Tensor]`: CPU tensors, first axis = sample; the keyword arguments of the model.
        """


@dataclass(frozen=True)
class Slicing:
    """How the global batch is cut: by process and by micro-step."""

    rank: int
    world_size: int
    num_micro_steps: int


@contextmanager
def prefetched(
    source: BatchSource, slicing: Slicing, first_step: int, last_step: int, ahead: int, pin: bool
) -> Iterator[Iterator[Batch]]:
    """Batches of the steps `[first_step, last_step)` in order, made in a thread while the loop computes.

    Args:
        source (`BatchSource`): Called once per micro-step. Its errors are raised where the batch is taken.
        slicing (`Slicing`): The slice of this process.
        first_step (`int`): Zero-based, included.
        last_step (`int`): Excluded.
        ahead (`int`): Batches prepared ahead; 0 = made when asked for, without a thread.
        pin (`bool`): True = in page-locked memory, for copies to a GPU that overlap with its work.

    Yields:
        `Iterator[dict[str, torch.Tensor]]`: `num_micro_steps` batches per step.
    """

    def make(step: int, micro_step: int) -> Batch:
        batch = source.batch(step, micro_step, slicing.rank, slicing.world_size, slicing.num_micro_steps)
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if pin else batch

    wanted = (
        (step, micro_step) for step in range(first_step, last_step) for micro_step in range(slicing.num_micro_steps)
    )
    if ahead == 0:
        yield (make(step, micro_step) for step, micro_step in wanted)
        return
    # One thread keeps the batches in order; its arrays are built in NumPy, which releases the interpreter's lock.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

    def in_order() -> Iterator[Batch]:
        pending: deque[Future[Batch]] = deque()
        for step, micro_step in wanted:
            pending.append(executor.submit(make, step, micro_step))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield in_order()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def num_samples(batch: Batch) -> int:
    """Samples of a batch: the length of the first axis, the same for every tensor.

    Raises:
        ValueError: If the tensors disagree, or if there is none.
    """
    lengths = {len(tensor) for tensor in batch.values()}
    if len(lengths) != 1:
        raise ValueError(f"the tensors of a batch hold {sorted(lengths)} samples; expected one number for all")
    return lengths.pop()


def first_batch_signature(source: BatchSource) -> dict[str, list[float]]:
    """A few numbers by which a source is known again: a resumed run must not go on with other data.

    Args:
        source (`BatchSource`): Its whole global batch of step 0 is made once.

    Returns:
        `dict[str, list[float]]`: By tensor: its shape, then its mean and its mean absolute value over finite entries.
    """
    signature = {}
    for name, tensor in sorted(source.batch(0, 0, 0, 1, 1).items()):
        values = tensor.double()
        values = values[values.isfinite()]
        means = [values.mean().item(), values.abs().mean().item()] if values.numel() else [0.0, 0.0]
        signature[name] = [*map(float, tensor.shape), *means]
    return signature


def check_same_source(saved: dict[str, list[float]], current: dict[str, list[float]]) -> None:
    """Refuse to continue a run on other data, another batch size, or a processor that works otherwise.

    Raises:
        ValueError: Naming the tensors that differ by more than another machine's rounding.
    """
    names = sorted(saved.keys() | current.keys())
    different = [name for name in names if not _close(saved.get(name, []), current.get(name, []))]
    if different:
        raise ValueError(
            f"the checkpoint was trained on other batches ({', '.join(different[:5])} of the first batch differ); "
            "resume with the same panels, batch size, seed and processor, or start anew with --overwrite"
        )


def _close(left: list[float], right: list[float]) -> bool:
    near = (math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) for one, other in zip(left, right))
    return len(left) == len(right) and all(near)
