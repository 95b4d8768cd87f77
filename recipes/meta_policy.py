"""Strategies of recipes/meta_train.py that learn decisions: joint offline RL (a base), MACAW or Reptile (starts on it).

The trunk and the demand side stay as they are: `--demand_start` says from which adapter the demand sides of categories
come, on which action values are built.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from peft import PeftModel

from pricing_fm.adapters import (
    LoraArguments,
    adapter_parameters,
    adapter_scaling,
    add_adapter,
    load_adapter,
    read_pooling,
    save_adapter,
    save_pooling,
)
from pricing_fm.adapters.stack import base_name, from_adapter
from pricing_fm.hub import LocalCopy, download
from pricing_fm.models import PricingFMForPolicy, PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.results import DataSource, Results
from pricing_fm.training.decision_tasks import read_decision_task
from pricing_fm.training.few_shot_tasks import FewShotTask
from pricing_fm.training.learned_decisions import DecisionStart, write_decision_start
from pricing_fm.training.learned_steps import DemandStart, adapt_demand, read_rates, write_rates
from pricing_fm.training.policy_inner_loop import ADVANTAGE_HEAD, DecisionSteps
from pricing_fm.training.policy_meta import policy_start
from pricing_fm.training.policy_meta_run import JointResult, PolicyMetaResult, learn_jointly, meta_train_policy
from recipes.meta_artifacts import measured, report, save_start, seal

NAME = "initial"
DECISION_HEAD = "decision_head"


@dataclass(frozen=True)
class BaseParts:
    """The base that decisions are learned on, and where it lies."""

    model: PricingFMForPolicy
    processor: PricingFMProcessor
    fingerprint: str
    origin: LocalCopy


def learn_decisions(
    base: BaseParts,
    demand_start: str | None,
    data: list[DataSource],
    tasks: Mapping[int, FewShotTask],
    arguments: Sequence[Any],
    accelerator: Accelerator,
) -> JointResult | PolicyMetaResult:
    """Stage B or C of the decision side, from tasks to an artifact.

    Args:
        base (`BaseParts`): What is learned on.
        demand_start (`str`, *optional*): Adapter whose demand side categories start from; None = the base's own.
        data (`list[DataSource]`): Of the tasks.
        tasks (`Mapping[int, FewShotTask]`): By number of visible weeks.
        arguments (`Sequence`): All of the recipe, in its order.
        accelerator (`Accelerator`): The processes.

    Returns:
        `JointResult` or `PolicyMetaResult`.
    """
    source, _, _, meta, steps, rewards, lora, optim, loop, output = arguments
    folder = None if demand_start is None else download(demand_start).folder
    network = start_network(base, folder, lora, loop.seed)
    scaling = adapter_scaling(network, NAME)
    update = from_adapter(adapter_parameters(network, NAME))
    demand = {name: tensor for name, tensor in update.items() if not name.startswith(DECISION_HEAD)}
    rates, rule = (None, None) if folder is None else (read_rates(folder), read_pooling(folder))
    start = DemandStart({} if folder is None else demand, rates, rule)
    base.model.requires_grad_(False)
    decisions = {
        weeks: read_decision_task(
            base.model,
            base.processor,
            task,
            adapt_demand(base.model, start, task, weeks, scaling),
            scaling,
            rewards,
            source.assumed_cost_share,
        )
        for weeks, task in tasks.items()
    }
    settings = source.validation_share, scaling, optim, loop, output, accelerator
    if meta.strategy == "offline_rl":
        joint = learn_jointly(base.model, update, decisions, steps, meta.categories_per_step, *settings)
        if accelerator.is_main_process:
            results = measured(data, joint.losses, joint.training, loop.seed, meta.strategy)
            save_base(Path(output.output_dir), base, joint.model, arguments, results)
        report(accelerator, joint.losses, joint.training, meta.strategy)
        return joint
    begin = policy_start(update, steps, base.processor.num_rungs, loop.seed)
    learned = meta_train_policy(base.model, begin, decisions, steps, meta, *settings)
    if accelerator.is_main_process:
        written = save_learned_start(network, base, learned, start, steps, output.output_dir)
        results = measured(data, learned.losses, learned.training, loop.seed, meta.strategy)
        save_start(written, base.processor, base.fingerprint, arguments, results)
    report(accelerator, learned.losses, learned.training, meta.strategy)
    return learned


def start_network(base: BaseParts, demand_start: Path | None, lora: LoraArguments, seed: int) -> PeftModel:
    """An adapter on a copy of the base: a new one, or the demand start's with its own size."""
    model = copy.deepcopy(base.model)
    if demand_start is None:
        return add_adapter(model, NAME, lora, seed=seed)
    return load_adapter(model, NAME, demand_start, base.fingerprint)


def save_learned_start(
    network: PeftModel,
    base: BaseParts,
    learned: PolicyMetaResult,
    demand: DemandStart,
    steps: DecisionSteps,
    output_dir: str,
) -> Path:
    """PEFT's files with both sides of the start, and what each side has learned of adapting."""
    for key, parameter in adapter_parameters(network, NAME).items():
        if base_name(key) in learned.start:
            parameter.data.copy_(learned.start[base_name(key)])
    place = base.origin.repo_id or base.origin.folder
    folder = save_adapter(network, NAME, output_dir, place, base.fingerprint, base.origin.revision)
    if demand.rule is not None:
        save_pooling(demand.rule, folder)
    if demand.rates is not None:
        write_rates(folder, demand.rates)
    rates = {name: float(rate) for name, rate in learned.rates.items()}
    write_decision_start(folder, DecisionStart(steps, rates, learned.start.get(ADVANTAGE_HEAD)))
    return folder


def save_base(
    folder: Path, base: BaseParts, model: PricingFMForPolicy, arguments: Sequence[Any], results: Results
) -> None:
    """The base with the learned decision heads; every other tensor is the same to the last bit."""
    whole = PricingFMForPreTraining.from_pretrained(base.origin.folder, local_files_only=True)
    whole.decision_head.load_state_dict(model.decision_head.state_dict())
    whole.save_pretrained(folder)
    base.processor.save_pretrained(folder)
    seal(folder, "base", arguments, results)
