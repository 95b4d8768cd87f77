"""Stages B and C of the decision side, from decisions to weights: joint offline RL, then meta-training of the start."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from pricing_fm.adapters.stack import repeat
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.few_shot_tasks import FewShotTask
from pricing_fm.training.joint_policy import JointPolicyLearner, number_categories, with_heads
from pricing_fm.training.loop import TrainingResult, train
from pricing_fm.training.meta import MetaArguments, TaskBatchSource, whole_batches
from pricing_fm.training.meta_run import split_categories
from pricing_fm.training.policy_inner_loop import DecisionSteps, adapt_decisions, fix_action_values, head_of
from pricing_fm.training.policy_meta import PolicyMetaLearner, judged_policies

Decisions = Mapping[int, FewShotTask]


@dataclass(frozen=True)
class JointResult:
    """What joint offline RL came to.

    Args:
        model (`PricingFMForPolicy`): The base with learned decision heads.
        losses (`dict[str, dict[int, float]]`): Mean query loss on the validation categories by number of visible weeks,
            before (`base`) and after (`joint`).
        training (`TrainingResult`): Of the loop.
    """

    model: PricingFMForPolicy
    losses: dict[str, dict[int, float]]
    training: TrainingResult


@dataclass(frozen=True)
class PolicyMetaResult:
    """What a meta-training of the decision side came to.

    Args:
        start (`dict[str, torch.Tensor]`): Where policy and values start, and the advantage head if there is one.
        rates (`dict[str, torch.Tensor]`): Learning rate of every tensor.
        losses (`dict[str, dict[int, float]]`): As in `JointResult`: `base`, `start` and `adapted`.
        training (`TrainingResult`): Of the loop.
    """

    start: dict[str, torch.Tensor]
    rates: dict[str, torch.Tensor]
    losses: dict[str, dict[int, float]]
    training: TrainingResult


def learn_jointly(
    model: PricingFMForPolicy,
    update: Mapping[str, torch.Tensor],
    decisions: Decisions,
    steps: DecisionSteps,
    categories_per_step: int,
    validation_share: float,
    scaling: float,
    optim: OptimArguments,
    loop: LoopArguments,
    output: OutputArguments,
    accelerator: Accelerator | None = None,
) -> JointResult:
    """Offline RL on the logs of all categories together, with an adapter of each in place, then merged.

    Args:
        model (`PricingFMForPolicy`): The base; frozen here, and not changed.
        update (`Mapping[str, torch.Tensor]`): Of a fresh adapter: where every category's begins.
        decisions (`Decisions`): From `read_decision_task`, by number of visible weeks; queries are not learned from.
        steps (`DecisionSteps`): Discount, expectile and temperature.
        categories_per_step (`int`): Categories of a step.
        validation_share (`float`): Share of the categories that choose the step.
        scaling (`float`): Of low-rank updates.
        optim (`OptimArguments`): Of the steps.
        loop (`LoopArguments`): How long.
        output (`OutputArguments`): Logs and checkpoints.
        accelerator (`Accelerator`, *optional*): The processes.

    Returns:
        `JointResult`.
    """
    model.requires_grad_(False)
    learned, validation = split_categories(decisions, validation_share)
    numbered, held = number_categories(learned), number_categories(validation)
    count = len(next(iter(numbered.values())).query["loss_weights"])
    learner = JointPolicyLearner(model, update, count, steps, scaling)
    source = TaskBatchSource(numbered, categories_per_step, loop.seed)
    result = train(learner, source, optim, loop, output, whole_batches(held), accelerator)
    found = with_heads(model, learner.merged()).requires_grad_(False)
    losses = {
        name: {weeks: _judge(network, task, {}, steps, 1.0) for weeks, task in validation.items()}
        for name, network in (("base", model), ("joint", found))
    }
    return JointResult(found, losses, result)


def meta_train_policy(
    model: PricingFMForPolicy,
    start: Mapping[str, torch.Tensor],
    decisions: Decisions,
    steps: DecisionSteps,
    meta: MetaArguments,
    validation_share: float,
    scaling: float,
    optim: OptimArguments,
    loop: LoopArguments,
    output: OutputArguments,
    accelerator: Accelerator | None = None,
) -> PolicyMetaResult:
    """Learns where the decision side of a category starts, and how fast it learns.

    The start is first learned without adaptation, from all categories in every step: that costs a hundredth of a step
    that adapts, and most of what there is to learn is no category's own.

    Args:
        model (`PricingFMForPolicy`): The base; frozen here, and not changed.
        start (`Mapping[str, torch.Tensor]`): From `policy_start`.
        decisions (`Decisions`): From `read_decision_task`, by number of visible weeks.
        steps (`DecisionSteps`): Of an adaptation.
        meta (`MetaArguments`): Strategy, rate, weight of the zero-shot term, warm steps and categories of a step.
        validation_share (`float`): Share of the categories that choose the step.
        scaling (`float`): Of low-rank updates.
        optim (`OptimArguments`): Of the outer steps.
        loop (`LoopArguments`): How long.
        output (`OutputArguments`): Logs and checkpoints.
        accelerator (`Accelerator`, *optional*): The processes.

    Returns:
        `PolicyMetaResult`.
    """
    model.requires_grad_(False)
    decisions = {weeks: fix_action_values(model, task, steps.discount) for weeks, task in decisions.items()}
    learned, validation = split_categories(decisions, validation_share)
    still = replace(steps, value_steps=0, policy_steps=0)
    how = meta.inner_rate, meta.zero_shot_weight, scaling
    learner = PolicyMetaLearner(model, start, still, *how)
    if meta.warm_steps:
        count = len(next(iter(learned.values())).query["loss_weights"])
        places = replace(output, output_dir=f"{output.output_dir}/.warm", checkpoint_dir=None)
        places = replace(places, checkpoint_every=0, resume=None)
        few = replace(loop, max_steps=meta.warm_steps, evaluate_every=0, evaluate_first=False)
        train(learner, TaskBatchSource(learned, count, loop.seed), optim, few, places, (), accelerator)
    is_reptile = meta.strategy == "policy_reptile"
    learner = PolicyMetaLearner(model, learner.initial(), steps, *how, is_reptile=is_reptile)
    source = TaskBatchSource(learned, meta.categories_per_step, loop.seed)
    result = train(learner, source, optim, loop, output, whole_batches(validation), accelerator)
    initial, rates = learner.initial(), {name: rate.detach() for name, rate in learner.rates().items()}
    losses: dict[str, dict[int, float]] = {"base": {}, "start": {}, "adapted": {}}
    for weeks, task in validation.items():
        begin = repeat(initial, len(task.query["loss_weights"]))
        adapted = adapt_decisions(model, begin, task.support, rates, steps, scaling)
        for name, stack in (("base", {}), ("start", begin), ("adapted", adapted)):
            losses[name][weeks] = _judge(model, task, stack, steps, scaling)
    return PolicyMetaResult(initial, rates, losses, result)


@torch.no_grad()
def _judge(
    model: PricingFMForPolicy,
    task: FewShotTask,
    stack: Mapping[str, torch.Tensor],
    steps: DecisionSteps,
    scaling: float,
) -> float:
    return float(judged_policies(head_of(model, stack, scaling), task.query, steps).mean())
