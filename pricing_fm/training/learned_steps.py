"""Steps that a meta-trained start prescribes: a learned rate for every tensor, and the number of steps.

An adaptation that takes them is the one that meta-training has judged, window by window: all windows of the visible
weeks count in every step, and the last of these weeks only say how many of the steps are taken.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pricing_fm.adapters import PoolingRule, adapter_parameters, adapter_scaling
from pricing_fm.adapters.stack import Stack, base_name, from_adapter, repeat
from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.panel import Panel, build_store
from pricing_fm.training.adapt import DECISION_HEAD, DemandSide
from pricing_fm.training.few_shot_tasks import Category, FewShotTask, TaskArguments, build_task, last_week
from pricing_fm.training.inner_loop import adapt_stack, adapt_task, held_losses
from pricing_fm.training.meta_run import INNER_OPTIM
from pricing_fm.training.pooling import pool_stack

RATES_FILE = "inner_rates.json"


@dataclass(frozen=True)
class InnerRates:
    """How fast the tensors of a start move.

    Args:
        rates (`Mapping[str, float]`): Learning rate of each tensor, by its name in the base (`<linear>.lora_A`).
        steps (`int` or None): Steps that the rates were learned for; None = they were not learned, one is as good as
            any other.
    """

    rates: Mapping[str, float]
    steps: int | None


@dataclass(frozen=True)
class DemandStart:
    """The demand side of a start, and what it has learned of adapting to a category.

    Args:
        update (`Mapping[str, torch.Tensor]`): See `adapters.stack`; empty = the base itself.
        rates (`InnerRates` or None): Of its steps; without a number of them none are taken.
        rule (`PoolingRule` or None): How the elasticities of a category are pooled.
    """

    update: Mapping[str, torch.Tensor]
    rates: InnerRates | None
    rule: PoolingRule | None


def adapt_demand(model: PricingFMForPolicy, start: DemandStart, task: FewShotTask, weeks: int, scaling: float) -> Stack:
    """The demand side of every category of a task, adapted as its start says: steps with early stop, then pooling.

    Args:
        model (`PricingFMForPolicy`): The base.
        start (`DemandStart`): Where categories start.
        task (`FewShotTask`): C categories.
        weeks (`int`): Visible weeks.
        scaling (`float`): Of low-rank updates.

    Returns:
        `Stack`.
    """
    stack = repeat(start.update, len(task.query["loss_weights"]))
    if start.rates is not None and start.rates.steps is not None:
        rates = {name: torch.tensor(float(start.rates.rates[name])) for name in start.update}
        stack = adapt_task(model, stack, task, rates, start.rates.steps, INNER_OPTIM, scaling).stack
    if start.rule is not None:
        stack = pool_stack(model, stack, task.query, start.rule, weeks, scaling)
    return stack


def write_rates(folder: Path, rates: InnerRates) -> None:
    """Writes `inner_rates.json` into an adapter folder."""
    content = {"steps": rates.steps, "rates": dict(rates.rates)}
    (folder / RATES_FILE).write_text(json.dumps(content, indent=1) + "\n")


def read_rates(folder: Path) -> InnerRates | None:
    """Rates of a start; None where the adapter is none of a meta-training.

    Earlier starts hold rates alone: nothing says whether they were learned, so they count as if they were not.
    """
    file = folder / RATES_FILE
    if not file.is_file():
        return None
    content = json.loads(file.read_text())
    if "rates" not in content:
        return InnerRates(content, None)
    return InnerRates(content["rates"], content["steps"])


def take_learned_steps(
    network: nn.Module,
    name: str,
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    panel: Panel,
    learned: InnerRates,
    holdout_share: float,
) -> DemandSide:
    """Adapts the demand side of an adapter in place, as meta-training adapted it.

    Args:
        network (`nn.Module`): Base with the adapter, which stands where the start ended.
        name (`str`): Name of the adapter.
        model (`PricingFMForPolicy`): The same network, unwrapped.
        processor (`PricingFMProcessor`): Belongs to the base.
        panel (`Panel`): What is visible; three weeks or more. At most the processor's context length is read.
        learned (`InnerRates`): With a number of steps.
        holdout_share (`float`): Last share of the weeks that decides how many steps are taken.

    Returns:
        `DemandSide`.

    Raises:
        PanelError: If the panel is not weekly, or has fewer than three weeks.
        ValueError: If a tensor has no rate: the rates belong to another start.
    """
    assert learned.steps is not None
    began = time.perf_counter()
    parameters = adapter_parameters(network, name)
    start = {key: one for key, one in from_adapter(parameters).items() if not key.startswith(DECISION_HEAD)}
    if missing := sorted(set(start) - set(learned.rates)):
        raise ValueError(f"{len(missing)} tensors of the adapter have no learned rate, first {missing[0]!r}")
    rates = {key: torch.tensor(float(learned.rates[key])) for key in start}
    task = task_of(panel, name, processor, model.config.patch_length, holdout_share)
    begin, scaling = repeat(start, 1), adapter_scaling(network, name)
    losses = held_losses(model, begin, task, rates, learned.steps, INNER_OPTIM, scaling)[:, 0]
    steps = losses.argmin()
    adapted = adapt_stack(model, begin, task.support, rates, steps[None], INNER_OPTIM, scaling)
    for key, parameter in parameters.items():
        if base_name(key) in adapted.stack:
            parameter.data.copy_(adapted.stack[base_name(key)][0])
    return DemandSide(int(steps), float(losses[0]), float(losses[steps]), time.perf_counter() - began)


def task_of(
    panel: Panel, name: str, processor: PricingFMProcessor, patch_length: int, holdout_share: float = 0.25
) -> FewShotTask:
    """A visible panel as the task of one category whose origin is its end; what will be is not known.

    Args:
        panel (`Panel`): What is visible; three weeks or more. At most the processor's context length is read.
        name (`str`): Of the category.
        processor (`PricingFMProcessor`): Belongs to the base.
        patch_length (`int`): Of the network.
        holdout_share (`float`): Last share of the weeks that are held back.

    Returns:
        `FewShotTask`: Of one category.

    Raises:
        PanelError: If the panel is not weekly.
    """
    if not panel.frequency.name.startswith("W"):
        raise PanelError(
            f"learned rates count weeks, and panel {panel.name!r} has periods of {panel.frequency.name!r}; "
            "take the ordinary steps (--use_learned_rates false)"
        )
    store = build_store(panel)
    first, last = last_week(store)
    weeks = min(last + 1 - first, processor.context_length)
    arguments = TaskArguments(weeks=(weeks,), holdout_share=holdout_share)
    category = Category(name, tuple(range(len(store.item_ids))), last + 1)
    return build_task(store, [category], processor, weeks, arguments, patch_length)
