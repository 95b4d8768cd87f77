"""Meta-training of the decision side: where a category's policy and values start, and how fast they learn.

By the exact gradient of what categories come to after their steps (MAML): a head that only these steps use (the
advantage head of MACAW) is learned by nothing else. Or towards where categories go (Reptile).
Shapes: C categories, R rows of each.
"""

from collections.abc import Mapping

import torch
from torch import nn

from pricing_fm.adapters.stack import Stack, repeat
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.decision_head import DecisionHead
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.objectives.ladder_policy import advantage_weighted_loss
from pricing_fm.training.meta import QUERY, RATE_SPEED, SUPPORT
from pricing_fm.training.policy_inner_loop import (
    ADVANTAGE_HEAD,
    VALUE_SIDE,
    DecisionSteps,
    action_values,
    adapt_decisions,
    behavior_of_rungs,
    category_mean,
    head_of,
    policy_log_probs,
    value_losses,
)

Batch = dict[str, torch.Tensor]

# Log-odds of the worst price of an item's grid against its best: a twentieth of what is at stake costs one.
REGRET_SHARPNESS = 20.0


class PolicyMetaLearner(nn.Module):
    """What the training loop trains: update of the decision heads, advantage head, and learning rates.

    Args:
        model (`PricingFMForPolicy`): The base; never changed.
        start (`Mapping[str, torch.Tensor]`): Update of policy and value heads, and the advantage head if it is used.
        steps (`DecisionSteps`): Of an adaptation.
        inner_rate (`float`): Learning rate of every tensor, before any is learned.
        zero_shot_weight (`float`): Weight of the loss without adaptation beside that after it.
        scaling (`float`): Of low-rank updates.
        order (`int`): 2 = exact meta-gradient, 1 = first order (the advantage head stays as it is).
        is_reptile (`bool`): Whether the start moves towards what categories adapt to, instead of along that gradient;
            no rates are learned then.
    """

    def __init__(
        self,
        model: PricingFMForPolicy,
        start: Mapping[str, torch.Tensor],
        steps: DecisionSteps,
        inner_rate: float,
        zero_shot_weight: float,
        scaling: float,
        order: int = 2,
        is_reptile: bool = False,
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the base is not to be trained, saved or averaged
        self.steps, self.inner_rate, self.scaling, self.order = steps, inner_rate, scaling, order
        # Reptile has no loss beside where it goes; where there is nowhere to go to, its loss is the one without steps.
        self.zero_shot_weight, self.is_reptile = 0.0 if is_reptile else zero_shot_weight, is_reptile
        self.names = tuple(start)
        self.start = nn.ParameterList([nn.Parameter(tensor.detach().clone()) for tensor in start.values()])
        self.log_rates = nn.Parameter(torch.zeros(len(self.names)), requires_grad=not is_reptile)

    def initial(self) -> dict[str, torch.Tensor]:
        """Where categories start, detached."""
        return {name: parameter.detach() for name, parameter in zip(self.names, self.start, strict=True)}

    def rates(self) -> dict[str, torch.Tensor]:
        """Learning rate of every tensor, `()` each."""
        values = self.inner_rate * (RATE_SPEED * self.log_rates).exp()
        return dict(zip(self.names, values.unbind(), strict=True))

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Mean query loss over categories, after adaptation and without it.

        Args:
            batch (`dict`): From `join_task` on tasks of `read_decision_task`.

        Returns:
            `DemandOutput`: With `loss` and `loss_terms`.
        """
        support = {name.removeprefix(SUPPORT): value for name, value in batch.items() if name.startswith(SUPPORT)}
        query = {name.removeprefix(QUERY): value for name, value in batch.items() if name.startswith(QUERY)}
        begin = {
            name: parameter.expand(len(query["loss_weights"]), *parameter.shape)
            for name, parameter in zip(self.names, self.start, strict=True)
        }
        order = self.order if self.training else 0
        adapted = adapt_decisions(self._model[0], begin, support, self.rates(), self.steps, self.scaling, order)
        if not self.training:
            head = head_of(self._model[0], adapted, self.scaling)
            return DemandOutput(loss=judged_policies(head, query, self.steps).mean(), loss_terms={})
        if self.is_reptile and support["loss_weights"].shape[1] > 0:
            return self._reptile(support, query)
        after, values = self._query(adapted, query)
        before, values_before = self._query(begin, query)
        policy = after.mean() + self.zero_shot_weight * before.mean()
        # Without visible weeks nobody knows what a usual week brings: values have no unit to be learned in.
        is_scaled = float(support["loss_weights"].shape[1] > 0)
        value = is_scaled * (values.mean() + self.zero_shot_weight * values_before.mean())
        # Times zero: data-parallel training waits for a gradient of every parameter, and without weeks there is none.
        idle = sum((parameter.sum() for parameter in self.parameters()), torch.zeros(()))
        terms = {"adapted": after.mean().detach(), "zero_shot": before.mean().detach(), "value": values.mean().detach()}
        return DemandOutput(loss=policy + value + 0.0 * idle, loss_terms=terms)

    def _reptile(self, support: Batch, query: Batch) -> DemandOutput:
        """Steps on support and query together; the way there, undone, is the gradient.

        The query teaches what it teaches MACAW: what every price would have earned, if that is known.
        """

        def of_query(head: DecisionHead, side: str) -> torch.Tensor:
            if side == VALUE_SIDE:
                return value_losses(head, as_decided(query), self.steps)
            return query_policy_losses(head, query, self.steps)

        begin = repeat(self.initial(), len(query["loss_weights"]))
        rates = {name: rate.detach() for name, rate in self.rates().items()}
        adapted = adapt_decisions(self._model[0], begin, support, rates, self.steps, self.scaling, beside=of_query)
        with torch.no_grad():
            after = query_policy_losses(head_of(self._model[0], adapted, self.scaling), query, self.steps).mean()
        loss = after
        for name, parameter in zip(self.names, self.start, strict=True):
            direction = (begin[name] - adapted[name]).mean(0) / rates[name]
            loss = loss + ((parameter - parameter.detach()) * direction).sum()
        unknown = torch.full((), torch.nan)
        return DemandOutput(loss=loss, loss_terms={"adapted": after, "zero_shot": unknown, "value": unknown})

    def _query(self, stack: Stack, query: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        head = head_of(self._model[0], stack, self.scaling)
        return query_policy_losses(head, query, self.steps), value_losses(head, as_decided(query), self.steps)


def query_policy_losses(head: DecisionHead, query: Batch, steps: DecisionSteps) -> torch.Tensor:
    """What policies learn from after their steps, `(C,)`: cross-entropy to the advantage-weighted target.

    Exact over the ladder. Where the regrets of the first decision are known they are the advantages, and an item counts
    by what is at stake there. (The expected regret itself has no gradient to speak of in a policy that is sure of the
    wrong price, as one is that begins at a manager.)
    """
    log_probs = unpromoted_log_probs(head, query)
    if "rung_regret" in query:
        stakes = query["rung_regret"].amax(-1)
        relative = query["rung_regret"] / stakes[..., None].clamp(min=1e-6)
        losses = advantage_weighted_loss(log_probs[:, :, 0], torch.zeros_like(relative), -relative, REGRET_SHARPNESS)
        return (losses * stakes).sum(1)
    values = action_values(head, query, steps.discount)
    spread = values.std(-1, keepdim=True).clamp(min=1e-6)
    target = (values - values.mean(-1, keepdim=True)) / spread
    loss = advantage_weighted_loss(log_probs, behavior_of_rungs(head, query), target, steps.inverse_temperature)
    return category_mean(loss, query)


def judged_policies(head: DecisionHead, query: Batch, steps: DecisionSteps) -> torch.Tensor:
    """What policies are judged by, `(C,)`: the regret of their likeliest first prices where it is known.

    In the category's gap between manager and oracle, summed over its items; else what they learn from.
    """
    if "rung_regret" not in query:
        return query_policy_losses(head, query, steps)
    likeliest = unpromoted_log_probs(head, query)[:, :, 0].argmax(-1, keepdim=True)
    return query["rung_regret"].gather(-1, likeliest).squeeze(-1).sum(1)


def unpromoted_log_probs(head: DecisionHead, batch: Batch) -> torch.Tensor:
    """The policy's log probabilities of the rungs, given that nothing is promoted: `(C, R, H, K)`."""
    log_probs = policy_log_probs(head, batch)
    return log_probs[..., : log_probs.shape[-1] // 2].log_softmax(-1)


def as_decided(query: Batch) -> Batch:
    """The query with every period but the last as a decision: its values are judged whatever will be done there."""
    mask = torch.ones_like(query["decision_mask"])
    mask[..., -1] = False
    return {**query, "decision_mask": mask}


def policy_start(update: Mapping[str, torch.Tensor], steps: DecisionSteps, rungs: int, seed: int) -> Stack:
    """Where the meta-training of the decision side begins.

    Args:
        update (`Mapping[str, torch.Tensor]`): Of an adapter; what is not of policy and values is left out.
        steps (`DecisionSteps`): With or without an advantage term.
        rungs (`int`): Of the ladder.
        seed (`int`): Of the advantage head.

    Returns:
        `Stack`: Without the dimension of categories.
    """
    sides = ("decision_head.policy_head.", "decision_head.value_head.")
    start = {name: tensor for name, tensor in update.items() if name.startswith(sides)}
    if steps.advantage_weight > 0:
        size = start["decision_head.policy_head.head_in.lora_B"].shape[0]
        generator = torch.Generator().manual_seed(seed)
        start[ADVANTAGE_HEAD] = torch.randn(rungs, size, generator=generator) * size**-0.5
    return start
