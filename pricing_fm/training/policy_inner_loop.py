"""Adapts the decision heads of many categories at once, values before policy, by steps that can be differentiated.

The policy steps are advantage-weighted regression on the logged decisions; with a term that regresses the advantages of
all rungs from the policy's own features, by a head that nothing but these steps uses (MACAW).
Shapes: C categories, R rows of each, H steps, K rungs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.nn import functional

from pricing_fm.adapters.stack import Stack, updated
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.decision_head import DecisionHead
from pricing_fm.objectives.expected_losses import advantage_regression, expected_expectile
from pricing_fm.objectives.implicit_q import advantage_weights
from pricing_fm.objectives.ladder_policy import advantage_weighted_loss
from pricing_fm.training.decision_tasks import CATEGORIES_AT_ONCE, ladder_action_values
from pricing_fm.training.few_shot_tasks import FewShotTask, concatenate_tasks, select_categories
from pricing_fm.training.inner_loop import Losses, clip_factors

Batch = dict[str, torch.Tensor]
LossBeside = Callable[[DecisionHead, str], torch.Tensor]
"""Loss of each category `(C,)` that its steps lower beside their own, from its heads and the side that moves."""

# Update of the advantage head in a stack, `(C, K, hidden size)`: no linear of the network.
ADVANTAGE_HEAD = "advantage_head.full"
VALUE_SIDE, POLICY_SIDE = "decision_head.value_head.", "decision_head.policy_head."
# Rungs this far (log ratio) from the reference price teach advantages; beyond, no curve has seen a price.
ADVANTAGE_REACH = 0.36
# Log-odds of an advantage of one reference revenue, where the target of the whole ladder is regressed on.
ADVANTAGE_SHARPNESS = 300.0
# Global norm that a category's gradient is cut to: a start that has been learned is steep.
LARGEST_SLOPE = 1.0


@dataclass(frozen=True)
class DecisionSteps:
    """Steps of the decision side inside a category.

    Args:
        value_steps, policy_steps (`int`): Of each side, values first.
        advantage_weight (`float`): Of the advantage term of the policy steps; 0 = advantage-weighted regression alone.
        expectation (`str`): `logged` = advantage-weighted regression on the rungs of the log, `ladder` = on the target
            that structured values give in expectation over all rungs, `ADVANTAGE_SHARPNESS` sharp.
        discount, expectile, inverse_temperature (`float`): As in `PolicyArguments`.

    References:
        Mitchell et al. 2021, arXiv:2008.06043 (MACAW); Li et al. 2017, arXiv:1707.09835 (learned rates).
    """

    value_steps: int = field(default=1, metadata={"help": "policy meta-training: steps of a category's values"})
    policy_steps: int = field(default=5, metadata={"help": "policy meta-training: steps of a category's policy"})
    advantage_weight: float = field(
        default=1.0, metadata={"help": "weight of the advantage term in the policy's steps (MACAW); 0 = none"}
    )
    expectation: Literal["logged", "ladder"] = field(
        default="logged",
        metadata={"help": "the policy's steps regress on logged rungs (AWR) or on the whole ladder's target (AWAC)"},
    )
    discount: float = field(default=0.98, metadata={"help": "discount per period"})
    expectile: float = field(default=0.7, metadata={"help": "expectile of the value regression, in (0, 1)"})
    inverse_temperature: float = field(default=2.0, metadata={"help": "sharpness of the advantage weights"})

    def __post_init__(self) -> None:
        if self.expectation not in ("logged", "ladder"):
            raise ValueError(f"--expectation must be logged or ladder, found {self.expectation!r}")
        if min(self.value_steps, self.policy_steps) < 0 or self.advantage_weight < 0:
            raise ValueError("--value_steps, --policy_steps and --advantage_weight must be 0 or more")


def head_of(model: PricingFMForPolicy, stack: Mapping[str, torch.Tensor], scaling: float) -> DecisionHead:
    """The decision heads under every category's update; what belongs to the demand side is not looked at."""
    own = {name: tensor for name, tensor in stack.items() if name.startswith("decision_head.")}
    return updated(model, own, scaling).decision_head


@torch.no_grad()
def action_values(head: DecisionHead, batch: Batch, discount: float) -> torch.Tensor:
    """Structured values of every rung, `(C, R, H, K)`, with the head's own values of next states; they are targets.

    The first layer is linear, and the rungs of a state differ in a few features alone: what it makes of the state is
    computed once for all of them. Values that `fix_action_values` has put into the batch are taken as they are.
    """
    if "action_values" in batch:
        return batch["action_values"]
    first, after = head.value_head.head_in, batch["features_after"]
    states, count = batch["decision_states"][..., 1:, :], after.shape[-1]
    blank = torch.cat([states, states.new_zeros(*states.shape[:-1], count)], dim=-1)
    # Rows of a category stay together: its update is met as one block of leading rows.
    of_states = first(blank.flatten(0, 1)).unflatten(0, states.shape[:2])
    units = functional.pad(torch.eye(count + 1)[:, :count].to(states), (states.shape[-1], 0))
    found = first(units.expand(len(states), -1, -1))
    columns = found[:, :count] - found[:, count:]
    of_rungs = (after.flatten(1, 3) @ columns).unflatten(1, after.shape[1:4])
    hidden = functional.silu(of_states[..., None, :] + of_rungs)
    values = head.value_head.head_out(hidden.flatten(0, 1)).unflatten(0, states.shape[:2]).squeeze(-1)
    return ladder_action_values(values, batch, discount)


def fix_action_values(model: PricingFMForPolicy, task: FewShotTask, discount: float) -> FewShotTask:
    """Action values once and for all: the base's own values of next states stand as a target network.

    What a category's values adapt to then holds still, and steps cost a hundredth.

    Args:
        model (`PricingFMForPolicy`): The base; the values of an adapter in place are not looked at.
        task (`FewShotTask`): From `read_decision_task`.
        discount (`float`): Per period.

    Returns:
        `FewShotTask`: Every part with `action_values` `(C, R, H, K)`.
    """
    values = model.decision_head.value_head
    shapes = {"head_in": values.head_in.weight.shape, "head_out": values.head_out.weight.shape}
    # An update of nothing takes the place of whatever PEFT has put around a linear.
    nothing = {f"{VALUE_SIDE}{name}.full": torch.zeros(1, *shape) for name, shape in shapes.items()}
    head, parts = head_of(model, nothing, 1.0), []
    for places in torch.arange(len(task.query["loss_weights"])).split(CATEGORIES_AT_ONCE):
        chosen = vars(select_categories(task, places))
        parts.append(FewShotTask(**{name: _with_values(head, part, discount) for name, part in chosen.items()}))
    return concatenate_tasks(parts)


def _with_values(head: DecisionHead, part: Batch, discount: float) -> Batch:
    if "decision_states" not in part:
        return part
    return {**part, "action_values": action_values(head, part, discount)}


def state_values(head: DecisionHead, batch: Batch) -> torch.Tensor:
    """Value of every state, `(C, R, H)`."""
    states, features = batch["decision_states"], batch["decision_features"]
    return head.values(states.flatten(0, 1), features.flatten(0, 1)).unflatten(0, states.shape[:2])


def behavior_of_rungs(head: DecisionHead, batch: Batch) -> torch.Tensor:
    """The manager's log probabilities of the rungs, whether promoted or not: `(C, R, H, K)`."""
    log_probs = _flat(head.behavior_log_probs, batch)
    return log_probs.unflatten(-1, (2, -1)).logsumexp(-2)


def policy_of_rungs(head: DecisionHead, batch: Batch) -> torch.Tensor:
    """The policy's log probabilities of the rungs, whether promoted or not: `(C, R, H, K)`."""
    return policy_log_probs(head, batch).unflatten(-1, (2, -1)).logsumexp(-2)


def policy_log_probs(head: DecisionHead, batch: Batch) -> torch.Tensor:
    """The policy's log probabilities of all actions, `(C, R, H, 2 K)`."""
    return _flat(head.policy_log_probs, batch)


def value_losses(head: DecisionHead, batch: Batch, steps: DecisionSteps) -> torch.Tensor:
    """Expectile loss of the values of every category's decided states, `(C,)`; semi-gradient."""
    targets = action_values(head, batch, steps.discount)
    loss = expected_expectile(targets, state_values(head, batch), behavior_of_rungs(head, batch), steps.expectile)
    return category_mean(loss, batch)


def behavior_losses(head: DecisionHead, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the logged actions under the manager's probabilities, `(C,)`."""
    log_probs = _flat(head.behavior_log_probs, batch).gather(-1, batch["logged_actions"][..., None])
    return category_mean(-log_probs.squeeze(-1), batch)


@torch.no_grad()
def ladder_advantages(head: DecisionHead, batch: Batch, steps: DecisionSteps) -> torch.Tensor:
    """What every rung is worth over the state's value, `(C, R, H, K)`; the policy's steps do not move it."""
    return action_values(head, batch, steps.discount) - state_values(head, batch)[..., None]


def policy_losses(
    head: DecisionHead,
    advantage_head: torch.Tensor | None,
    batch: Batch,
    steps: DecisionSteps,
    advantages: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of the policy's steps per category, `(C,)`.

    Args:
        head (`DecisionHead`): Under the categories' updates; its values are adapted already.
        advantage_head (`torch.Tensor`, shape `(C, K, hidden size)`, *optional*): None = no advantage term.
        batch (`dict`): From `read_decision_task`.
        steps (`DecisionSteps`): Temperature and weight of the advantage term.
        advantages (`torch.Tensor`, shape `(C, R, H, K)`, *optional*): From `ladder_advantages`, if they are known.
    """
    if advantages is None:
        advantages = ladder_advantages(head, batch, steps)
    if steps.expectation == "ladder":
        behavior, rungs = behavior_of_rungs(head, batch).detach(), policy_of_rungs(head, batch)
        loss = category_mean(advantage_weighted_loss(rungs, behavior, advantages, ADVANTAGE_SHARPNESS), batch)
    else:
        loss = category_mean(_logged_regression(head, batch, advantages, steps.inverse_temperature), batch)
    if advantage_head is None or steps.advantage_weight == 0:
        return loss
    predictions = torch.einsum("crhs,cks->crhk", policy_features(head, batch), advantage_head)
    near = (batch["log_rungs"].abs() <= ADVANTAGE_REACH)[:, :, None].expand_as(predictions)
    error = advantage_regression(predictions, advantages, near)
    return loss + steps.advantage_weight * category_mean(error, batch)


def _logged_regression(
    head: DecisionHead, batch: Batch, advantages: torch.Tensor, inverse_temperature: float
) -> torch.Tensor:
    """Advantage-weighted regression on the logged actions, weights standardised per category: `(C, R, H)`."""
    actions = batch["logged_actions"]
    taken = advantages.gather(-1, actions[..., None] % advantages.shape[-1]).squeeze(-1)
    pairs = zip(taken, batch["decision_mask"], strict=True)
    weights = torch.stack([advantage_weights(one, mask, inverse_temperature) for one, mask in pairs])
    return -weights * policy_log_probs(head, batch).gather(-1, actions[..., None]).squeeze(-1)


def decision_losses(steps: DecisionSteps) -> Losses:
    """Values and policy together, without the advantage term: what an ordinary adaptation of decisions lowers.

    Args:
        steps (`DecisionSteps`): Discount, expectile and temperature.

    Returns:
        Loss of each category `(C,)` from model, stack, batch and scaling, for `adapt_stack`.
    """

    def losses(model: PricingFMForPolicy, stack: Stack, batch: Batch, scaling: float) -> torch.Tensor:
        head = head_of(model, stack, scaling)
        return value_losses(head, batch, steps) + policy_losses(head, None, batch, steps)

    return losses


def policy_features(head: DecisionHead, batch: Batch) -> torch.Tensor:
    """What the policy's last layer reads, `(C, R, H, hidden size)`."""
    inputs = torch.cat([batch["decision_states"], batch["decision_features"]], dim=-1).flatten(0, 1)
    return functional.silu(head.policy_head.head_in(inputs)).unflatten(0, batch["decision_states"].shape[:2])


def category_mean(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean of `(C, R, H)` over the decisions of every category `(C,)`; rows that only fill up do not count."""
    counts = batch["decision_mask"] * (batch["loss_weights"] > 0)[..., None]
    return (losses * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)


def adapt_decisions(
    model: PricingFMForPolicy,
    start: Mapping[str, torch.Tensor],
    batch: Batch,
    rates: Mapping[str, torch.Tensor],
    steps: DecisionSteps,
    scaling: float,
    order: int = 0,
    beside: LossBeside | None = None,
) -> Stack:
    """Takes every category's steps on its own decisions: gradient descent, values first.

    Args:
        model (`PricingFMForPolicy`): The base; never changed.
        start (`Mapping[str, torch.Tensor]`): One update per category, and the advantage head if there is a term for it.
        batch (`dict`): Support, from `read_decision_task`; without rows the start comes back.
        rates (`Mapping[str, torch.Tensor]`): Learning rate of each tensor, `()`.
        steps (`DecisionSteps`): How many, and of what.
        scaling (`float`): Of low-rank updates.
        order (`int`): What a gradient of the result sees: 0 = it has none, 1 = the steps are constants (FOMAML),
            2 = everything (MAML).
        beside (`Callable`, *optional*): What the steps lower beside their own losses.

    Returns:
        `Stack`: Categories after their steps; every category's numbers depend on its own rows alone.
    """
    stack = dict(start)
    for later in decision_path(model, start, batch, rates, steps, scaling, order, beside):
        stack = later
    return stack


def decision_path(
    model: PricingFMForPolicy,
    start: Mapping[str, torch.Tensor],
    batch: Batch,
    rates: Mapping[str, torch.Tensor],
    steps: DecisionSteps,
    scaling: float,
    order: int = 0,
    beside: LossBeside | None = None,
) -> Iterator[Stack]:
    """Where categories are after 0, 1, ... all of their steps, as `adapt_decisions` takes them.

    Yields:
        `Stack`: One per step and the start, which alone comes where there are no rows.
    """
    stack = {name: tensor.detach() if order == 0 else tensor for name, tensor in start.items()}
    yield stack
    if batch["loss_weights"].shape[1] == 0:
        return
    for _ in range(steps.value_steps):
        stack = _step(model, stack, VALUE_SIDE, batch, rates, steps, scaling, order, beside)
        yield stack
    if steps.policy_steps:
        known = ladder_advantages(head_of(model, stack, scaling), batch, steps)
    for _ in range(steps.policy_steps):
        stack = _step(model, stack, POLICY_SIDE, batch, rates, steps, scaling, order, beside, known)
        yield stack


@torch.enable_grad()
def _step(
    model: PricingFMForPolicy,
    stack: Stack,
    side: str,
    batch: Batch,
    rates: Mapping[str, torch.Tensor],
    steps: DecisionSteps,
    scaling: float,
    order: int,
    beside: LossBeside | None,
    advantages: torch.Tensor | None = None,
) -> Stack:
    keys = [key for key in stack if key.startswith(side) or (side == POLICY_SIDE and key == ADVANTAGE_HEAD)]
    leaves = stack if order else {key: tensor.detach().requires_grad_(key in keys) for key, tensor in stack.items()}
    head = head_of(model, leaves, scaling)
    if side == VALUE_SIDE:
        losses = value_losses(head, batch, steps)
    else:
        losses = policy_losses(head, leaves.get(ADVANTAGE_HEAD), batch, steps, advantages)
    if beside is not None:
        losses = losses + beside(head, side)
    found = torch.autograd.grad(
        losses.sum(), [leaves[key] for key in keys], create_graph=order > 1, allow_unused=True, materialize_grads=True
    )
    slopes = dict(zip(keys, found, strict=True))
    clip = clip_factors(slopes, LARGEST_SLOPE)
    moved = {
        key: stack[key] - rates[key] * clip.reshape(-1, *(1,) * (slope.dim() - 1)) * slope
        for key, slope in slopes.items()
    }
    moved = {key: tensor.detach() for key, tensor in moved.items()} if order == 0 else moved
    return {**stack, **moved}


def _flat(log_probs_of: Callable[..., torch.Tensor], batch: Batch) -> torch.Tensor:
    states, features, current = (
        batch[name].flatten(0, 1) for name in ("decision_states", "decision_features", "current_actions")
    )
    return log_probs_of(states, features, current).unflatten(0, batch["loss_weights"].shape)
