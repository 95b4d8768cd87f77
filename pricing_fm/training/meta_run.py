"""One meta-training from tasks to a start that adapters can be made from: split, train, measure."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from pricing_fm.adapters.stack import repeat
from pricing_fm.errors import UserError
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.few_shot_tasks import FewShotTask, select_categories
from pricing_fm.training.inner_loop import adapt_stack, query_losses
from pricing_fm.training.loop import TrainingResult, train
from pricing_fm.training.meta import MetaArguments, MetaLearner, TaskBatchSource, whole_batches

# Of the inner steps: decay would pull an update to zero that starts at zero.
INNER_OPTIM = OptimArguments(weight_decay=0.0)


@dataclass(frozen=True)
class MetaResult:
    """What a meta-training came to.

    Args:
        update (`dict[str, torch.Tensor]`): Where adapters start, see `adapters.stack`.
        rates (`dict[str, torch.Tensor]`): Learning rate of every tensor.
        losses (`dict[str, dict[int, float]]`): Mean query loss on the validation categories by number of visible weeks:
            `base`, `start` (without adaptation) and `adapted`.
        training (`TrainingResult` or None): Of the loop; None where there was nothing to train.
    """

    update: dict[str, torch.Tensor]
    rates: dict[str, torch.Tensor]
    losses: dict[str, dict[int, float]]
    training: TrainingResult | None


def check_enough_categories(count: int, share: float, categories_per_step: int) -> None:
    """Refuses too few categories before anything is computed with them.

    Args:
        count (`int`): Categories that there are.
        share (`float`): Of the categories that validate, in (0, 0.5].
        categories_per_step (`int`): Categories of a step.

    Raises:
        UserError: With the number that is needed.
        ValueError: If the share leaves none to learn from.
    """
    stride = round(1 / share)
    if stride < 2:
        raise ValueError(f"a validation share of {share:g} leaves nothing to learn from; it must be at most 0.5")
    needed = max(stride, categories_per_step + (categories_per_step - 1) // (stride - 1))
    if count < needed:
        raise UserError(
            f"{count} categories were found and {needed} are needed: one in {stride} chooses the step "
            f"(--validation_share {share:g}), and a step takes {categories_per_step} of the others "
            "(--categories_per_step). Give more (--panels, --origins_per_category; simulated: --train_categories) or "
            "take fewer in a step"
        )


def split_categories(tasks: Mapping[int, FewShotTask], share: float) -> tuple[dict, dict]:
    """Tasks of the categories to learn from, and of those that choose the step: drawn, and the same in every run.

    Not every so many-th one: simulated categories take turns with managers, and all that validate would have the same.

    Args:
        tasks (`Mapping[int, FewShotTask]`): By number of visible weeks, the same categories in each.
        share (`float`): Of the categories that validate, in (0, 1).

    Raises:
        ValueError: If either side would be empty.
    """
    count = len(next(iter(tasks.values())).query["loss_weights"])
    check_enough_categories(count, share, 1)
    places = torch.arange(count)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    held = torch.zeros(count, dtype=torch.bool)
    held[drawn[: count // round(1 / share)]] = True
    sides = (places[~held], places[held])
    learned, validation = ({k: select_categories(task, side) for k, task in tasks.items()} for side in sides)
    return learned, validation


def meta_train(
    model: PricingFMForPolicy,
    begin: Mapping[str, torch.Tensor],
    tasks: Mapping[int, FewShotTask],
    arguments: MetaArguments,
    validation_share: float,
    scaling: float,
    optim: OptimArguments,
    loop: LoopArguments,
    output: OutputArguments,
    accelerator: Accelerator | None = None,
) -> MetaResult:
    """Learns where adapters start.

    Args:
        model (`PricingFMForPolicy`): The base; frozen here, and not changed.
        begin (`Mapping[str, torch.Tensor]`): First update.
        tasks (`Mapping[int, FewShotTask]`): By number of visible weeks.
        arguments (`MetaArguments`): Strategy.
        validation_share (`float`): Share of the categories that choose the step.
        scaling (`float`): Of low-rank updates.
        optim (`OptimArguments`): Of the outer steps.
        loop (`LoopArguments`): How long.
        output (`OutputArguments`): Logs and checkpoints.
        accelerator (`Accelerator`, *optional*): The processes.

    Returns:
        `MetaResult`.
    """
    model.requires_grad_(False)
    learned, validation = split_categories(tasks, validation_share)
    learner = MetaLearner(model, begin, arguments, INNER_OPTIM, scaling)
    source = TaskBatchSource(learned, arguments.categories_per_step, loop.seed)
    result = None
    if arguments.strategy != "pooling":
        result = train(learner, source, optim, loop, output, whole_batches(validation), accelerator)
    losses = {} if arguments.strategy == "pooling" else measure(learner, model, validation)
    return MetaResult(learner.initial(), learner.rates(), losses, result)


@torch.no_grad()
def measure(
    learner: MetaLearner, model: PricingFMForPolicy, tasks: Mapping[int, FewShotTask]
) -> dict[str, dict[int, float]]:
    """Mean query losses by number of visible weeks: of the base, of the start, and after its steps."""
    found: dict[str, dict[int, float]] = {"base": {}, "start": {}, "adapted": {}}
    for weeks, task in tasks.items():
        categories = len(task.query["loss_weights"])
        begin = repeat(learner.initial(), categories)
        stacks = {"base": {}, "start": begin, "adapted": begin}
        if weeks and learner.arguments.strategy != "joint":
            steps = torch.full((categories,), learner.arguments.inner_steps)
            adapted = adapt_stack(model, begin, task.support, learner.rates(), steps, learner.inner, learner.scaling)
            stacks["adapted"] = adapted.stack
        for name, stack in stacks.items():
            found[name][weeks] = float(query_losses(model, stack, task.query, learner.scaling).mean())
    return found
