"""Joint offline RL over many categories: decision heads that all share, with an adapter of each category in place.

What is particular to a category goes into its adapter, so the shared heads need not average over it. Afterwards the
mean of the adapters goes into the heads, which are ordinary weights from then on, and the adapters are dropped. The
trunk stays as it is: its states are shared with demand, and the policy losses do not reach them.
Shapes: C categories, R rows of each.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from pricing_fm.adapters.stack import Stack, updated
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.decision_head import DecisionHead
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.training.few_shot_tasks import FewShotTask
from pricing_fm.training.meta import SUPPORT
from pricing_fm.training.policy_inner_loop import (
    DecisionSteps,
    behavior_losses,
    policy_losses,
    value_losses,
)

DECISIONS = "decision_head."


class JointPolicyLearner(nn.Module):
    """What the training loop trains: the decision heads in full, and one low-rank update of them for every category.

    Args:
        model (`PricingFMForPolicy`): The base; its heads are copied, not changed.
        update (`Mapping[str, torch.Tensor]`): Of a fresh adapter, under the base's names; every category's begins as
            its decision side.
        categories (`int`): C; 0 = no adapters in place, the ablation.
        steps (`DecisionSteps`): Discount, expectile and temperature; its steps are not used.
        scaling (`float`): Of low-rank updates.
    """

    def __init__(
        self,
        model: PricingFMForPolicy,
        update: Mapping[str, torch.Tensor],
        categories: int,
        steps: DecisionSteps,
        scaling: float,
    ) -> None:
        super().__init__()
        self.head: DecisionHead = copy.deepcopy(model.decision_head).requires_grad_(True)
        self.steps, self.scaling, self.categories = replace(steps, advantage_weight=0.0), scaling, categories
        own = {name: tensor for name, tensor in update.items() if categories and name.startswith(DECISIONS)}
        self.names = tuple(name.removeprefix(DECISIONS) for name in own)
        self.adapters = nn.ParameterList(
            [nn.Parameter(tensor.detach()[None].repeat(categories, *(1,) * tensor.dim())) for tensor in own.values()]
        )

    def stack_of(self, categories: torch.Tensor) -> Stack:
        """Updates of some categories, under names inside the decision head."""
        return {name: tensor[categories] for name, tensor in zip(self.names, self.adapters, strict=True)}

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Mean over categories of behaviour, value and policy losses on their logged decisions.

        Args:
            batch (`dict`): From `join_task` on tasks of `read_decision_task`; while training, categories carry the
                numbers of their adapters. A network in evaluation mode answers for categories without an adapter.
        """
        support = {name.removeprefix(SUPPORT): value for name, value in batch.items() if name.startswith(SUPPORT)}
        stack = self.stack_of(support["category"][:, 0]) if self.training else {}
        head = updated(self.head if self.training else self.merged(), stack, self.scaling)
        terms = {
            "behavior": behavior_losses(head, support),
            "value": value_losses(head, support, self.steps),
            "policy": policy_losses(head, None, support, self.steps),
        }
        loss = torch.stack(list(terms.values())).sum(0).mean()
        return DemandOutput(loss=loss, loss_terms={name: term.mean().detach() for name, term in terms.items()})

    @torch.no_grad()
    def merged(self) -> DecisionHead:
        """The shared heads with the mean of the categories' updates in their weights; a copy."""
        head, own = copy.deepcopy(self.head), dict(zip(self.names, self.adapters, strict=True))
        linears = {name.rpartition(".")[0] for name in own}
        for name, module in head.named_modules():
            if name in linears:
                change = self.scaling * (own[f"{name}.lora_B"] @ own[f"{name}.lora_A"]).mean(0)
                module.weight.add_(change)
        return head


def number_categories(tasks: Mapping[int, FewShotTask]) -> dict[int, FewShotTask]:
    """Tasks whose categories carry the numbers of their adapters, 0 ... C - 1; k = 0 is left out.

    Without visible weeks there is no logged decision to learn from.
    """
    found = {}
    for weeks, task in tasks.items():
        if weeks:
            numbers = torch.arange(len(task.query["loss_weights"]))[:, None]
            parts = {
                name: {**part, "category": numbers.expand_as(part["loss_weights"])} for name, part in vars(task).items()
            }
            found[weeks] = FewShotTask(**parts)
    return found


@torch.no_grad()
def with_heads(model: PricingFMForPolicy, head: nn.Module) -> PricingFMForPolicy:
    """A copy of the network with other decision heads; everything else is the same to the last bit."""
    found = copy.deepcopy(model)
    found.decision_head.load_state_dict(head.state_dict())
    return found
