"""Decision side of a meta-trained start: its steps, their learned rates, and the head that only these steps use."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pricing_fm.adapters import adapter_parameters, adapter_scaling
from pricing_fm.adapters.stack import base_name, from_adapter, repeat
from pricing_fm.errors import ArtifactError
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.training.adapt import DecisionSide
from pricing_fm.training.decision_stop import adapt_decision_task
from pricing_fm.training.decision_tasks import read_decision_task
from pricing_fm.training.learned_steps import task_of
from pricing_fm.training.policy_inner_loop import (
    ADVANTAGE_HEAD,
    DecisionSteps,
    fix_action_values,
    head_of,
    policy_losses,
)

STEPS_FILE = "decision_steps.json"
ADVANTAGE_FILE = "advantage_head.safetensors"


@dataclass(frozen=True)
class DecisionStart:
    """What a start has learned of adapting decisions; where they start stands in the adapter itself.

    Args:
        steps (`DecisionSteps`): Of an adaptation.
        rates (`Mapping[str, float]`): Learning rate of each tensor, by its name in the base.
        advantage_head (`torch.Tensor`, shape `(rungs, hidden size)`, *optional*): None = no advantage term.
    """

    steps: DecisionSteps
    rates: Mapping[str, float]
    advantage_head: torch.Tensor | None


def write_decision_start(folder: Path, start: DecisionStart) -> None:
    """Writes `decision_steps.json`, and `advantage_head.safetensors` if there is one, into an adapter folder."""
    content = {"steps": asdict(start.steps), "rates": dict(start.rates)}
    (folder / STEPS_FILE).write_text(json.dumps(content, indent=1) + "\n")
    if start.advantage_head is not None:
        save_file({ADVANTAGE_HEAD: start.advantage_head.contiguous()}, folder / ADVANTAGE_FILE)


def read_decision_start(folder: Path) -> DecisionStart | None:
    """Decision side of a start; None where it has learned none.

    Raises:
        ArtifactError: If the start has an advantage term and its head is missing.
    """
    file = folder / STEPS_FILE
    if not file.is_file():
        return None
    content = json.loads(file.read_text())
    steps = DecisionSteps(**content["steps"])
    if steps.advantage_weight == 0:
        return DecisionStart(steps, content["rates"], None)
    if not (folder / ADVANTAGE_FILE).is_file():
        raise ArtifactError(f"{folder}: the advantage term's {ADVANTAGE_FILE} is missing; download the folder again")
    return DecisionStart(steps, content["rates"], load_file(folder / ADVANTAGE_FILE)[ADVANTAGE_HEAD])


def take_learned_decisions(
    network: nn.Module,
    name: str,
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    panel: Panel,
    start: DecisionStart,
    rewards: RewardWeights,
    assumed_cost_share: float | None,
    holdout_share: float,
    stops_early: bool,
) -> DecisionSide:
    """Adapts values and policy of an adapter in place, as meta-training adapted them.

    Args:
        network (`nn.Module`): Base with the adapter; its demand side is what action values are built on.
        name (`str`): Name of the adapter.
        model (`PricingFMForPolicy`): The same network, unwrapped.
        processor (`PricingFMProcessor`): Belongs to the base.
        panel (`Panel`): What is visible; weekly, three weeks or more.
        start (`DecisionStart`): Steps and rates.
        rewards (`RewardWeights`): Of the reward.
        assumed_cost_share (`float`, *optional*): As in `PolicyArguments`.
        holdout_share (`float`): Last share of the weeks, one at least, that decides how many steps are taken.
        stops_early (`bool`): Whether it does; else all steps are taken.

    Returns:
        `DecisionSide`.

    Raises:
        PanelError: If the panel is not weekly.
    """
    began = time.perf_counter()
    scaling = adapter_scaling(network, name)
    task = task_of(panel, name, processor, model.config.patch_length, holdout_share)
    # What is not known (the weeks to come) needs no cost: only the support is learned from.
    task = type(task)(task.learned, task.held, task.support, {key: part[:, :0] for key, part in task.query.items()})
    read = read_decision_task(model, processor, task, {}, scaling, rewards, assumed_cost_share)
    decisions = fix_action_values(model, read, start.steps.discount)
    parameters = adapter_parameters(network, name)
    begin = {key: tensor for key, tensor in from_adapter(parameters).items() if key in start.rates}
    if start.advantage_head is not None:
        begin[ADVANTAGE_HEAD] = start.advantage_head
    rates = {key: torch.tensor(float(rate)) for key, rate in start.rates.items()}
    found = adapt_decision_task(model, repeat(begin, 1), decisions, rates, start.steps, scaling, stops_early)
    adapted = found.stack
    for key, parameter in parameters.items():
        if base_name(key) in adapted:
            parameter.data.copy_(adapted[base_name(key)][0])
    with torch.no_grad():
        loss = policy_losses(head_of(model, {}, scaling), None, decisions.support, start.steps)
    return DecisionSide(int(found.steps), float(loss), time.perf_counter() - began)
