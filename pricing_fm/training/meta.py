"""Meta-training of where adapters start and how fast they learn: FOMAML, Reptile, or joint training of one adapter.

Shapes: C categories, R rows of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn

from pricing_fm.adapters.stack import Stack, repeat
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.training.arguments import OptimArguments
from pricing_fm.training.few_shot_tasks import FewShotTask
from pricing_fm.training.inner_loop import Adapted, adapt_stack, gradients, query_losses

Batch = dict[str, torch.Tensor]

# A parameter of the rates moves a logarithm this far: the optimizer's steps are sized for weights.
RATE_SPEED = 20.0
SUPPORT, QUERY = "support.", "query."
DEMAND_STRATEGIES = ("fomaml", "reptile", "joint", "pooling")
DECISION_STRATEGIES = ("offline_rl", "macaw", "policy_reptile")


@dataclass(frozen=True)
class MetaArguments:
    """How an initialisation is learned.

    Args:
        strategy (`str`): `fomaml` judges the adapted weights and moves the start with their gradient; `reptile` moves
            it towards what categories adapt to; `joint` trains one adapter that no category changes; `pooling` starts
            at the base, and learns nothing but how to pool a category's elasticities. Of decisions: `offline_rl` trains
            the heads on all categories at once, with an adapter of each in place; `macaw` learns where policy and
            values start, and `policy_reptile` moves that start towards what categories adapt to, see `policy_meta`.
        inner_steps (`int`): Steps of an adaptation inside meta-training.
        inner_rate (`float`): Learning rate of every tensor, before any is learned.
        learns_rates (`bool`): Whether `fomaml` learns a rate for every tensor.
        zero_shot_weight (`float`): Weight of the loss without adaptation beside that after it.
        warm_steps (`int`): Of `macaw` and `policy_reptile`: steps of the start, without adaptation, before those that
            adapt.
        categories_per_step (`int`): Categories adapted side by side in a step.

    References:
        Finn et al. 2017, arXiv:1703.03400 (first-order variant); Nichol et al. 2018, arXiv:1803.02999 (Reptile); Li et
        al. 2017, arXiv:1707.09835 (learned rates).
    """

    strategy: Literal["fomaml", "reptile", "joint", "pooling", "offline_rl", "macaw", "policy_reptile"] = field(
        default="fomaml",
        metadata={
            "help": "fomaml, reptile, joint (one adapter for all) or pooling (no training) of the demand side; "
            "offline_rl, macaw or policy_reptile of the decision side"
        },
    )
    inner_steps: int = field(default=5, metadata={"help": "steps of an adaptation inside meta-training"})
    inner_rate: float = field(default=3e-4, metadata={"help": "learning rate of an adaptation, before it is learned"})
    learns_rates: bool = field(default=True, metadata={"help": "fomaml: learn a rate for every tensor"})
    zero_shot_weight: float = field(default=0.5, metadata={"help": "weight of the loss without adaptation"})
    warm_steps: int = field(
        default=0, metadata={"help": "macaw, policy_reptile: steps of the start before any category adapts"}
    )
    categories_per_step: int = field(default=8, metadata={"help": "categories adapted side by side"})

    def __post_init__(self) -> None:
        if self.strategy not in (*DEMAND_STRATEGIES, *DECISION_STRATEGIES):
            known = ", ".join((*DEMAND_STRATEGIES, *DECISION_STRATEGIES))
            raise ValueError(f"--strategy must be one of {known}, found {self.strategy!r}")
        if min(self.inner_steps, self.categories_per_step) < 1 or self.warm_steps < 0:
            raise ValueError("--inner_steps and --categories_per_step must be at least 1, --warm_steps 0 or more")
        if not self.inner_rate > 0 or not self.zero_shot_weight >= 0:
            raise ValueError("--inner_rate must be above 0 and --zero_shot_weight 0 or more")


class TaskBatchSource:
    """Batches of categories as a pure function of the step; all categories of a step are visible for the same k.

    Args:
        tasks (`Mapping[int, FewShotTask]`): Number of visible weeks to the task of all training categories.
        categories_per_step (`int`): Categories of the global batch.
        seed (`int`): Of what is drawn.

    Raises:
        ValueError: If there are fewer categories than a step takes.
    """

    def __init__(self, tasks: Mapping[int, FewShotTask], categories_per_step: int, seed: int) -> None:
        self.tasks, self.weeks = tasks, sorted(tasks)
        self.size, self.seed = categories_per_step, seed
        self.count = min(len(task.query["loss_weights"]) for task in tasks.values())
        if self.count < categories_per_step:
            raise ValueError(f"a step takes {categories_per_step} categories; there are {self.count} to learn from")

    def batch(
        self, step: int, micro_step: int = 0, rank: int = 0, world_size: int = 1, num_micro_steps: int = 1
    ) -> Batch:
        """One slice of the step's categories: support and query, `(categories, rows, ...)` each.

        Raises:
            ValueError: If the categories cannot be cut into so many equal slices.
        """
        part, parts = micro_step * world_size + rank, world_size * num_micro_steps
        if self.size % parts:
            raise ValueError(
                f"categories_per_step {self.size} must be a multiple of processes x accumulation steps ({parts})"
            )
        random = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        weeks = self.weeks[int(random.integers(len(self.weeks)))]
        chosen = random.permutation(self.count)[: self.size][part::parts]
        return join_task(self.tasks[weeks], torch.from_numpy(chosen))


def join_task(task: FewShotTask, categories: torch.Tensor) -> Batch:
    """Support and query of the categories at some places `(c,)` in one dictionary, as `MetaLearner` takes them."""
    support = {SUPPORT + name: tensor[categories] for name, tensor in task.support.items()}
    return support | {QUERY + name: tensor[categories] for name, tensor in task.query.items()}


def whole_batches(tasks: Mapping[int, FewShotTask]) -> list[Batch]:
    """All categories of every task as one batch each, as `join_task` makes them."""
    return [join_task(task, torch.arange(len(task.query["loss_weights"]))) for task in tasks.values()]


class MetaLearner(nn.Module):
    """What the training loop trains: an initialisation and learning rates; its loss has their meta-gradient.

    Args:
        model (`PricingFMForPolicy`): The base; never changed.
        start (`Mapping[str, torch.Tensor]`): Update that every category starts from, see `adapters.stack`.
        arguments (`MetaArguments`): Strategy.
        inner (`OptimArguments`): Betas, epsilon and clip of the inner steps.
        scaling (`float`): Of low-rank updates.
    """

    def __init__(
        self,
        model: PricingFMForPolicy,
        start: Mapping[str, torch.Tensor],
        arguments: MetaArguments,
        inner: OptimArguments,
        scaling: float,
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the base is not to be trained, saved or averaged
        self.arguments, self.inner, self.scaling = arguments, inner, scaling
        self.names = tuple(start)
        self.start = nn.ParameterList([nn.Parameter(tensor.detach().clone()) for tensor in start.values()])
        self.log_rates = nn.Parameter(torch.zeros(len(self.names)))
        self.log_rates.requires_grad_(arguments.strategy == "fomaml" and arguments.learns_rates)

    def initial(self) -> dict[str, torch.Tensor]:
        """The update that categories start from, detached."""
        return {name: parameter.detach() for name, parameter in zip(self.names, self.start, strict=True)}

    def rates(self) -> dict[str, torch.Tensor]:
        """Learning rate of every tensor, `()` each."""
        values = self.arguments.inner_rate * (RATE_SPEED * self.log_rates.detach()).exp()
        return dict(zip(self.names, values.unbind(), strict=True))

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Mean query loss over categories, after adaptation and without it.

        Args:
            batch (`dict`): From `join_task`.

        Returns:
            `DemandOutput`: With `loss`, whose gradient is the meta-gradient, and `loss_terms`.
        """
        support = {name.removeprefix(SUPPORT): value for name, value in batch.items() if name.startswith(SUPPORT)}
        query = {name.removeprefix(QUERY): value for name, value in batch.items() if name.startswith(QUERY)}
        begin = repeat(self.initial(), len(query["loss_weights"]))
        adapts = self.arguments.strategy != "joint" and support["loss_weights"].shape[1] > 0
        unknown = torch.full((), torch.nan)
        if not self.training:
            adapted = self._adapt(begin, support) if adapts else None
            losses = query_losses(self._model[0], adapted.stack if adapted else begin, query, self.scaling)
            return DemandOutput(loss=losses.mean(), loss_terms={"adapted": unknown, "zero_shot": unknown})
        if adapts and self.arguments.strategy == "reptile":
            return self._reptile(begin, support, query)
        zero_shot, slopes = gradients(self._model[0], begin, query, self.scaling, query_losses)
        if not adapts:
            # Nothing to adapt to: the whole loss is the one without adaptation.
            weight = 1.0 + (self.arguments.zero_shot_weight if self.arguments.strategy == "fomaml" else 0.0)
            loss = self._with_gradient(weight * zero_shot.mean(), slopes, weight, None)
            return DemandOutput(loss=loss, loss_terms={"adapted": unknown, "zero_shot": zero_shot.mean()})
        adapted = self._adapt(begin, support)
        after, gradient = gradients(self._model[0], adapted.stack, query, self.scaling, query_losses)
        weight = self.arguments.zero_shot_weight
        total = {name: gradient[name] + weight * slopes[name] for name in gradient}
        rate_slopes = torch.stack([-(gradient[name] * adapted.moved[name]).sum() for name in self.names])
        rate_slopes = rate_slopes / len(after) * torch.stack(list(self.rates().values())) * RATE_SPEED
        loss = self._with_gradient(after.mean() + weight * zero_shot.mean(), total, 1.0, rate_slopes)
        return DemandOutput(loss=loss, loss_terms={"adapted": after.mean(), "zero_shot": zero_shot.mean()})

    def _adapt(self, begin: Stack, windows: Batch) -> Adapted:
        steps = torch.full((len(windows["loss_weights"]),), self.arguments.inner_steps)
        return adapt_stack(self._model[0], begin, windows, self.rates(), steps, self.inner, self.scaling)

    def _reptile(self, begin: Stack, support: Batch, query: Batch) -> DemandOutput:
        """Adapts to support and query together; the way there, undone, is the gradient."""
        everything = {name: torch.cat([tensor, query[name]], dim=1) for name, tensor in support.items()}
        adapted = self._adapt(begin, everything)
        after = query_losses(self._model[0], adapted.stack, query, self.scaling)
        terms = {"adapted": after.mean(), "zero_shot": torch.full((), torch.nan)}
        return DemandOutput(loss=self._with_gradient(after.mean(), adapted.moved, 1.0, None), loss_terms=terms)

    def _with_gradient(
        self, value: torch.Tensor, per_category: Stack, weight: float, rate_slopes: torch.Tensor | None
    ) -> torch.Tensor:
        """A scalar of this value whose gradient is the mean over categories, times the weight."""
        loss = value.detach()
        for name, parameter in zip(self.names, self.start, strict=True):
            loss = loss + ((parameter - parameter.detach()) * (weight * per_category[name].mean(0))).sum()
        if self.log_rates.requires_grad:
            # Times zero where no step was taken: data-parallel training waits for a gradient of every parameter.
            slopes = torch.zeros_like(self.log_rates) if rate_slopes is None else rate_slopes
            loss = loss + ((self.log_rates - self.log_rates.detach()) * slopes).sum()
        return loss
