"""How many of its steps a category's decision side takes: its last visible weeks decide, by what prices earn there.

They earn the structured value, which is known of every price: a policy that only imitates the manager of those weeks
better earns nothing by it. What counts is the likeliest price, the one that a policy charges. A few items in a few
weeks say little, so steps have to prove themselves: the fewest are taken that are not worse than the best number of
them beyond doubt. Curves have read all visible weeks: what is judged is how steps carry over to later states.
Shapes: C categories, R rows of each (in the held weeks: items), H steps, K rungs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pricing_fm.adapters.stack import Stack
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.training.few_shot_tasks import FewShotTask
from pricing_fm.training.policy_inner_loop import DecisionSteps, adapt_decisions, decision_path, head_of
from pricing_fm.training.policy_meta import unpromoted_log_probs

Batch = dict[str, torch.Tensor]

# Standard errors, over items, by which a number of steps has to be better than fewer of them.
DOUBT = 2.0


@dataclass(frozen=True)
class AdaptedDecisions:
    """Categories after their steps.

    Args:
        stack (`Stack`): Updates of each category.
        steps (`torch.Tensor`, shape `(C,)`, int64): Steps that each category took, of values and policy together.
    """

    stack: Stack
    steps: torch.Tensor


@torch.no_grad()
def policy_shortfalls(model: PricingFMForPolicy, stack: Stack, batch: Batch, scaling: float) -> torch.Tensor:
    """What the likeliest prices miss of the best rung's structured value: `(C, R)`, not negative.

    In reference revenues per period, mean over a row's decisions; NaN for rows without one, or that only fill up.

    Args:
        model (`PricingFMForPolicy`): The base.
        stack (`Stack`): Decision side of every category.
        batch (`dict`): From `fix_action_values`: a yardstick that steps do not move.
        scaling (`float`): Of low-rank updates.

    Raises:
        ValueError: If action values are not fixed.
    """
    if "action_values" not in batch:
        raise ValueError("policies are judged by fixed action values; pass the task through fix_action_values first")
    values = batch["action_values"]
    likeliest = unpromoted_log_probs(head_of(model, stack, scaling), batch).argmax(-1, keepdim=True)
    missed = values.amax(-1) - values.gather(-1, likeliest).squeeze(-1)
    counts = batch["decision_mask"] & (batch["loss_weights"] > 0)[..., None]
    return torch.where(counts, missed, torch.nan).nanmean(-1)


def fewest_good_steps(shortfalls: torch.Tensor) -> torch.Tensor:
    """The fewest steps that are not worse than the best number of them by more than `DOUBT`: `(C,)`, int64.

    Worse by the mean over items of the paired difference, doubt by its standard error. Of fewer than two items nothing
    can be told: none.

    Args:
        shortfalls (`torch.Tensor`, shape `(steps + 1, C, R)`): From `policy_shortfalls` after 0, 1, ... steps.

    References:
        Breiman et al. 1984, Classification and Regression Trees (the rule of one standard error).
    """
    items = shortfalls.isfinite()
    count = items[0].sum(-1)
    best = torch.where(items, shortfalls, 0.0).sum(-1).argmin(0)
    worse = shortfalls - shortfalls.gather(0, best[None, :, None].expand(1, *shortfalls.shape[1:]))
    mean = worse.nanmean(-1)
    variance = ((worse - mean[..., None]) ** 2).nansum(-1) / (count - 1).clamp(min=1)
    is_good = mean <= DOUBT * (variance / count).sqrt()
    return torch.where(count > 1, is_good.float().argmax(0), 0)


@torch.no_grad()
def choose_decision_steps(
    model: PricingFMForPolicy,
    start: Mapping[str, torch.Tensor],
    task: FewShotTask,
    rates: Mapping[str, torch.Tensor],
    steps: DecisionSteps,
    scaling: float,
) -> torch.Tensor:
    """As many steps on the weeks before the held ones as these are in favour of: `(C,)`, int64."""
    path = decision_path(model, start, task.learned, rates, steps, scaling)
    return fewest_good_steps(torch.stack([policy_shortfalls(model, one, task.held, scaling) for one in path]))


@torch.no_grad()
def adapt_decision_task(
    model: PricingFMForPolicy,
    start: Mapping[str, torch.Tensor],
    task: FewShotTask,
    rates: Mapping[str, torch.Tensor],
    steps: DecisionSteps,
    scaling: float,
    stops_early: bool,
) -> AdaptedDecisions:
    """Adapts to all visible weeks, by as many steps as the held weeks are in favour of (else by all).

    Args:
        model (`PricingFMForPolicy`): The base; never changed.
        start (`Mapping[str, torch.Tensor]`): One update per category.
        task (`FewShotTask`): From `read_decision_task` and `fix_action_values`.
        rates (`Mapping[str, torch.Tensor]`): Learning rate of each tensor, `()`.
        steps (`DecisionSteps`): Most steps, and of what.
        scaling (`float`): Of low-rank updates.
        stops_early (`bool`): Whether held weeks decide.

    Returns:
        `AdaptedDecisions`: A category without visible weeks stays where it starts.
    """
    count, rows = task.support["loss_weights"].shape
    if rows == 0:
        return AdaptedDecisions(dict(start), torch.zeros(count, dtype=torch.int64))
    if not stops_early:
        stack = adapt_decisions(model, start, task.support, rates, steps, scaling)
        return AdaptedDecisions(stack, torch.full((count,), steps.value_steps + steps.policy_steps))
    taken, found = choose_decision_steps(model, start, task, rates, steps, scaling), dict(start)
    for number, stack in enumerate(decision_path(model, start, task.support, rates, steps, scaling)):
        ends_here = (taken == number)[:, None, None]
        found = {name: torch.where(ends_here, stack[name], tensor) for name, tensor in found.items()}
    return AdaptedDecisions(found, taken)
