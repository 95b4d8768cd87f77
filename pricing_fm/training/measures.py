"""Numbers of a step or a validation over all processes: summed once, the same everywhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from pricing_fm.training.processes import check_same_norm
from pricing_fm.training.sources import Batch, num_samples
from pricing_fm.training.state import LogRow


@dataclass(frozen=True)
class StepNumbers:
    """Numbers of one step over all processes and micro-batches.

    Attributes:
        loss (`float`): Mean over the global batch.
        gradient_norm (`float`): Before clipping.
        terms (`dict[str, tuple[float, float]]`): Sum and count of the finite values of every loss term.
        stop_requested (`bool`): True = some process was asked to stop.
    """

    loss: float
    gradient_norm: float
    terms: dict[str, tuple[float, float]]
    stop_requested: bool

    @property
    def is_finite(self) -> bool:
        """False = the step must not move the weights. The same in every process."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class StepExchange:
    """What the processes tell each other in a step: one sum over all of them, one wait for the GPU.

    Args:
        accelerator (`Accelerator`): The processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._names: list[str] | None = None

    def numbers(
        self, losses: list[torch.Tensor], terms: list[dict[str, torch.Tensor]], norm: torch.Tensor, terminated: bool
    ) -> StepNumbers:
        """Put the numbers of all processes together.

        Args:
            losses (`list[torch.Tensor]`): Loss of every micro-batch of this process.
            terms (`list[dict[str, torch.Tensor]]`): Loss terms of the same; NaN = no sample of that kind.
            norm (`torch.Tensor`, shape `()`): Gradient norm of this process, after averaging over all.
            terminated (`bool`): True = this process was asked to stop.

        Raises:
            ValueError: If the names of the loss terms change, or differ between processes.
            RuntimeError: If the gradient norms differ between processes.
        """
        names = self._checked_names(terms)
        world_size = self._accelerator.num_processes
        norms = torch.zeros(world_size, dtype=torch.float64, device=norm.device)
        norms[self._accelerator.process_index] = norm.double()
        values = torch.stack([term[name].double() for term in terms for name in names]).view(len(terms), len(names))
        known = torch.isfinite(values)
        parts = [
            torch.stack(losses).double().mean()[None] / world_size,
            torch.full_like(norms[:1], float(terminated)),
            norms,
            torch.where(known, values, 0.0).sum(0),
            known.double().sum(0),
        ]
        reduced: list[float] = self._accelerator.reduce(torch.cat(parts), reduction="sum").tolist()
        loss, stop, every_norm = reduced[0], reduced[1], reduced[2 : 2 + world_size]
        sums_and_counts = reduced[2 + world_size :]
        if all(math.isfinite(one) for one in every_norm):
            check_same_norm(every_norm)
        sums, counts = sums_and_counts[: len(names)], sums_and_counts[len(names) :]
        return StepNumbers(loss, every_norm[0], dict(zip(names, zip(sums, counts))), stop_requested=stop > 0)

    def _checked_names(self, terms: list[dict[str, torch.Tensor]]) -> list[str]:
        if self._names is None:
            first = sorted(terms[0])
            everywhere = gather_object([first])
            if any(names != first for names in everywhere):
                raise ValueError(f"the processes report different loss terms: {everywhere}; return NaN for absent ones")
            self._names = first
        for term in terms:
            if sorted(term) != self._names:
                raise ValueError(f"loss terms are {sorted(term)} after {self._names}; return NaN for absent ones")
        return self._names


@torch.no_grad()
def validation_means(accelerator: Accelerator, model: nn.Module, batches: Sequence[Batch]) -> LogRow:
    """Mean loss and loss terms over the samples of a fixed list of batches, shared out among the processes.

    Every process makes the same number of forward passes, because a sharded model gathers its weights in them.

    Args:
        accelerator (`Accelerator`): The processes.
        model (`nn.Module`): As prepared; put into evaluation mode here.
        batches (`Sequence[dict[str, torch.Tensor]]`): At least one, the same list in every process.

    Returns:
        `dict[str, float | None]`: `validation_loss` and `validation_loss_<term>`; a term's mean is over the batches
        that have it, None if none has.
    """
    model.eval()
    world_size, rank = accelerator.num_processes, accelerator.process_index
    names: list[str] = []
    total = torch.zeros(0)
    for start in range(0, len(batches), world_size):
        mine = start + rank < len(batches)
        batch = batches[start + rank] if mine else batches[-1]
        weight = float(num_samples(batch)) if mine else 0.0
        outputs = model(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()})
        names = sorted(outputs.loss_terms)
        terms = torch.stack([outputs.loss.double(), *(outputs.loss_terms[name].double() for name in names)])
        known = torch.isfinite(terms)
        # The loss itself stays as it is: a validation with a NaN in it must not look like a good one.
        counted = torch.where(known, terms, 0.0)
        counted[0] = terms[0] if mine else 0.0
        numbers = torch.cat([weight * counted, weight * known.double()])
        total = numbers if start == 0 else total + numbers
    reduced: list[float] = accelerator.reduce(total, reduction="sum").tolist()
    sums, counts = reduced[: len(reduced) // 2], reduced[len(reduced) // 2 :]
    means = [one / count if count and math.isfinite(one) else None for one, count in zip(sums, counts)]
    labels = ["validation_loss", *(f"validation_loss_{name}" for name in names)]
    return dict(zip(labels, means))
