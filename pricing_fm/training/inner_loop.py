"""Adapts many categories at once: the steps of AdamW without decay, category by category, side by side.

Shapes: C categories, R rows of each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pricing_fm.adapters.stack import Stack, updated
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.objectives.grid_plan import plan_regret
from pricing_fm.training.arguments import OptimArguments
from pricing_fm.training.few_shot_tasks import FewShotTask, flatten_rows

Batch = dict[str, torch.Tensor]
Rates = Mapping[str, torch.Tensor]
Losses = Callable[[PricingFMForPolicy, Stack, Batch, float], torch.Tensor]

# A margin of 1 % of the revenue makes a price e times likelier: soft enough for a gradient, sharp enough to choose.
PLAN_SHARPNESS = 100.0


@dataclass(frozen=True)
class Adapted:
    """Categories after their steps.

    Args:
        stack (`Stack`): Updates of each category.
        moved (`Stack`): Sum of the steps' directions, before the rates: `stack = start - rate * moved`.
        steps (`torch.Tensor`, shape `(C,)`, int64): Steps that each category took.
    """

    stack: Stack
    moved: Stack
    steps: torch.Tensor


def category_losses(model: PricingFMForPolicy, stack: Stack, batch: Batch, scaling: float) -> torch.Tensor:
    """Demand loss of each category under its own update.

    Args:
        model (`PricingFMForPolicy`): The base.
        stack (`Stack`): One update per category; empty = the base itself.
        batch (`dict`): `(C, R, ...)`, from `few_shot_tasks`.
        scaling (`float`): Of low-rank updates.

    Returns:
        `(C,)`: Weighted mean over the rows.
    """
    shape = batch["loss_weights"].shape
    rows = flatten_rows(batch)
    network = updated(model, stack, scaling)
    losses, _ = network.demand_loss(network.encode(rows), rows)
    return losses.unflatten(0, shape).mean(1)


def query_losses(model: PricingFMForPolicy, stack: Stack, query: Batch, scaling: float) -> torch.Tensor:
    """What adapted categories are judged by: the regret of their plan where it is known, else their demand loss.

    Args:
        model (`PricingFMForPolicy`): The base.
        stack (`Stack`): One update per category.
        query (`dict`): `(C, R, ...)`; with `grid_regret` the regret is known.
        scaling (`float`): Of low-rank updates.

    Returns:
        `(C,)`: Sum of regrets over the rows, or weighted mean demand loss.
    """
    if "grid_regret" not in query:
        return category_losses(model, stack, query, scaling)
    rows = flatten_rows(query)
    log_prices, margins, regret = (rows[f"grid_{name}"] for name in ("log_prices", "margins", "regret"))
    network = updated(model, stack, scaling)
    losses = plan_regret(network, rows, log_prices, margins, regret, PLAN_SHARPNESS)
    return losses.unflatten(0, query["loss_weights"].shape).sum(1)


def gradients(
    model: PricingFMForPolicy, stack: Stack, batch: Batch, scaling: float, losses_of: Losses = category_losses
) -> tuple[torch.Tensor, Stack]:
    """Losses `(C,)` and each category's gradient of its own loss."""
    leaves = {name: tensor.detach().requires_grad_(True) for name, tensor in stack.items()}
    with torch.enable_grad():
        losses = losses_of(model, leaves, batch, scaling)
        # A plan does not use what only forecasts need, such as the quantiles.
        found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return losses.detach(), dict(zip(leaves, found, strict=True))


@torch.no_grad()
def adapt_stack(
    model: PricingFMForPolicy,
    start: Stack,
    batch: Batch,
    rates: Rates,
    steps: torch.Tensor,
    optim: OptimArguments,
    scaling: float,
    losses_of: Losses = category_losses,
) -> Adapted:
    """Takes each category's steps on its own windows.

    Args:
        model (`PricingFMForPolicy`): The base.
        start (`Stack`): Where each category starts; not changed.
        batch (`dict`): `(C, R, ...)`: all windows count in every step.
        rates (`Mapping[str, torch.Tensor]`): Learning rate of each tensor, `()`.
        steps (`torch.Tensor`, shape `(C,)`, int64): Steps of each category; it stands still afterwards.
        optim (`OptimArguments`): Betas, epsilon and gradient clip.
        scaling (`float`): Of low-rank updates.
        losses_of (`Callable`): Loss of each category `(C,)` from model, stack, batch and scaling.

    Returns:
        `Adapted`.
    """
    state = _Moments.of(start, optim)
    stack = {name: tensor.clone() for name, tensor in start.items()}
    moved = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for step in range(int(steps.max()) if len(steps) else 0):
        _, gradient = gradients(model, stack, batch, scaling, losses_of)
        for name, direction in state.directions(gradient).items():
            active = (step < steps).to(direction)
            direction = direction * active.reshape(-1, *(1,) * (direction.dim() - 1))
            moved[name] += direction
            stack[name] -= rates[name] * direction
    return Adapted(stack, moved, steps)


@torch.no_grad()
def choose_steps(
    model: PricingFMForPolicy,
    start: Stack,
    task: FewShotTask,
    rates: Rates,
    most: int,
    optim: OptimArguments,
    scaling: float,
) -> torch.Tensor:
    """Number of steps after which the held weeks are predicted best; 0 where no step helps: `(C,)`, int64."""
    return held_losses(model, start, task, rates, most, optim, scaling).argmin(0)


@torch.no_grad()
def held_losses(
    model: PricingFMForPolicy,
    start: Stack,
    task: FewShotTask,
    rates: Rates,
    most: int,
    optim: OptimArguments,
    scaling: float,
    losses_of: Losses = category_losses,
    judged_by: Losses = category_losses,
) -> torch.Tensor:
    """Loss of the held weeks after 0, 1, ..., `most` steps on the weeks before them: `(most + 1, C)`.

    Steps lower `losses_of`, as in `adapt_stack`; of what `judged_by` returns for the held weeks there is one more in
    front for every step and the start.
    """
    state = _Moments.of(start, optim)
    stack = {name: tensor.clone() for name, tensor in start.items()}
    losses = [judged_by(model, stack, task.held, scaling)]
    for _ in range(most):
        _, gradient = gradients(model, stack, task.learned, scaling, losses_of)
        for name, direction in state.directions(gradient).items():
            stack[name] -= rates[name] * direction
        losses.append(judged_by(model, stack, task.held, scaling))
    return torch.stack(losses)


def adapt_task(
    model: PricingFMForPolicy,
    start: Stack,
    task: FewShotTask,
    rates: Rates,
    most: int,
    optim: OptimArguments,
    scaling: float,
    stops_early: bool = True,
) -> Adapted:
    """Adapts to all visible weeks, as long as the held weeks say (else `most` steps)."""
    categories = len(task.query["loss_weights"])
    if task.support["loss_weights"].shape[1] == 0:
        steps = torch.zeros(categories, dtype=torch.int64)
    elif stops_early:
        steps = choose_steps(model, start, task, rates, most, optim, scaling)
    else:
        steps = torch.full((categories,), most)
    return adapt_stack(model, start, task.support, rates, steps, optim, scaling)


@dataclass
class _Moments:
    """AdamW's moments of each category."""

    optim: OptimArguments
    first: Stack
    second: Stack
    step: int = 0

    @classmethod
    def of(cls, start: Stack, optim: OptimArguments) -> "_Moments":
        first, second = ({name: torch.zeros_like(tensor) for name, tensor in start.items()} for _ in range(2))
        return cls(optim, first, second)

    def directions(self, gradient: Stack) -> Stack:
        """What a step of rate one would subtract, after the clip of each category's global norm."""
        self.step += 1
        beta1, beta2 = self.optim.adam_beta1, self.optim.adam_beta2
        clip = clip_factors(gradient, self.optim.gradient_clip)
        found = {}
        for name, raw in gradient.items():
            one = raw * clip.reshape(-1, *(1,) * (raw.dim() - 1))
            self.first[name].mul_(beta1).add_(one, alpha=1 - beta1)
            self.second[name].mul_(beta2).addcmul_(one, one, value=1 - beta2)
            mean = self.first[name] / (1 - beta1**self.step)
            spread = (self.second[name] / (1 - beta2**self.step)).sqrt()
            found[name] = mean / (spread + self.optim.adam_epsilon)
        return found


def clip_factors(gradient: Stack, largest: float) -> torch.Tensor:
    """Factor of each category's gradient, `(C,)`, as `torch.nn.utils.clip_grad_norm_` computes it."""
    norms = torch.stack([tensor.flatten(1).norm(dim=1) for tensor in gradient.values()]).norm(dim=0)
    return (largest / (norms + 1e-6)).clamp(max=1.0) if largest else torch.ones_like(norms)
