"""Pools the elasticities of few-shot tasks: learns the rule where the worth of prices is known, and applies it.

Shapes: C categories, R rows of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pricing_fm.adapters import CategoryRegression, PoolingRule
from pricing_fm.adapters.pooling import POOLING_LINEAR, regression_shift
from pricing_fm.adapters.stack import Stack, repeat, updated
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.objectives.grid_plan import softened_plan
from pricing_fm.training.few_shot_tasks import FewShotTask, flatten_rows

Batch = dict[str, torch.Tensor]

SMALLEST_ELASTICITY = 0.1
# Of the fit: log-odds of a price whose margin is a period's list revenue higher; regret beyond which a category is lost
# whatever the rule does, in shares of its gap; steps and rate of Adam; weight of the squared numbers.
SHARPNESS, LARGEST_REGRET = 40.0, 1.5
STEPS, RATE, RIDGE = 600, 0.02, 1e-3


@torch.no_grad()
def read_elasticities(
    model: PricingFMForPolicy, stack: Stack, query: Batch, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network makes of the items of every category.

    Args:
        model (`PricingFMForPolicy`): The base, in the monotone mode.
        stack (`Stack`): One update per category; empty = the base itself.
        query (`dict`): `(C, R, ...)`, planned as an intervention.
        scaling (`float`): Of low-rank updates.

    Returns:
        Log elasticities `(C, R)` twice: at the reference price, as a pooling rule reads them, and of the planned path
        when it moves as a whole.
    """
    rows, shape = flatten_rows(query), query["loss_weights"].shape
    network = updated(model, stack, scaling)
    states = network.demand_states(network.encode(rows), rows)
    assert network.demand_head.response is not None
    own = network.demand_head.response.log_elasticities(states).mean(-1)
    _, slopes = network.respond(states, rows)
    planned = (-slopes[:, 0]).mean((1, 2)).clamp(min=SMALLEST_ELASTICITY).log()
    return own.unflatten(0, shape), planned.unflatten(0, shape)


def fit_rule(
    model: PricingFMForPolicy, start: Mapping[str, torch.Tensor], tasks: Mapping[int, FewShotTask], scaling: float
) -> PoolingRule:
    """Learns how to pool categories of which the worth of every price is known.

    What counts is not how far elasticities are off, but what the prices planned on them lose: the numbers minimise the
    expected regret of a softened plan, in shares of each category's gap.

    Args:
        model (`PricingFMForPolicy`): The base.
        start (`Mapping[str, torch.Tensor]`): Update under which categories are read; empty = the base itself.
        tasks (`Mapping[int, FewShotTask]`): Number of visible weeks to the task of all categories; their queries hold
            `grid_log_prices`, `grid_margins` and `grid_regret`.
        scaling (`float`): Of low-rank updates.

    Returns:
        `PoolingRule`.

    Raises:
        ValueError: If the worth of prices is not known.
    """
    columns: dict[str, list[float]] = {"constants": [], "means": [], "regressions": [], "distances": []}
    typical = 0.0
    for weeks in sorted(tasks):
        query = tasks[weeks].query
        if "grid_regret" not in query:
            raise ValueError("a pooling rule needs tasks whose queries hold grid_regret: what every price is worth")
        known = _read_categories(model, start, query, scaling)
        typical = typical if columns["means"] else float(known.means.mean())
        for name, value in zip(columns, _minimise_regret(known), strict=True):
            columns[name].append(value)
    return PoolingRule(
        weeks=tuple(sorted(tasks)), **{name: tuple(values) for name, values in columns.items()}, typical_mean=typical
    )


@dataclass(frozen=True)
class _KnownCategories:
    """What a rule reads of C categories, and what its factors would lead to.

    Args:
        means, shifts (`(C,)`): Mean log elasticity, and by how much the regression moves it.
        distances (`(C, R)`): Of the items from their mean.
        level (`(C, R, H)`): Expected units at the reference price.
        response (`(C, R, P, H)`): Log-response to the prices of the grid, as the network has it.
        margins, regret (`(C, R, P)`): Of the prices of the grid; the regret of rows that only fill up is 0.
    """

    means: torch.Tensor
    shifts: torch.Tensor
    distances: torch.Tensor
    level: torch.Tensor
    response: torch.Tensor
    margins: torch.Tensor
    regret: torch.Tensor


@torch.no_grad()
def _read_categories(
    model: PricingFMForPolicy, start: Mapping[str, torch.Tensor], query: Batch, scaling: float
) -> _KnownCategories:
    weights = query["loss_weights"]
    shape = weights.shape
    stack = repeat(without_pooling(start), shape[0])
    rows, network = flatten_rows(query), updated(model, stack, scaling)
    states = network.demand_states(network.encode(rows), rows)
    assert network.demand_head.response is not None
    own = network.demand_head.response.log_elasticities(states).mean(-1).unflatten(0, shape)
    steps = rows["future_time_features"].shape[1]
    paths = rows["grid_log_prices"][..., None].expand(-1, -1, steps)
    response, _ = network.respond(states, {**rows, "candidate_prices": paths})
    log_mean, _, zero_logit = network.demand_head.count_parameters(states)
    level = rows["scale"][:, None] * log_mean.exp() * torch.sigmoid(-zero_logit)
    means = (own * weights).sum(1) / weights.sum(1)
    shifts = [regression_shift(float(mean), one) for mean, one in zip(means, read_regressions(query), strict=True)]
    return _KnownCategories(
        means=means,
        shifts=torch.tensor(shifts),
        distances=own - means[:, None],
        level=level.unflatten(0, shape),
        response=response.mean(2).unflatten(0, shape),
        margins=query["grid_margins"],
        regret=query["grid_regret"],
    )


def _minimise_regret(known: _KnownCategories) -> tuple[float, float, float, float]:
    """Constant, mean, regression and distance with the lowest expected regret."""
    centre = known.means.mean()
    numbers = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([numbers], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        constant, mean, regression, distance = numbers
        shared = constant + mean * (known.means - centre) + regression * known.shifts
        factors = (shared[:, None] + distance * known.distances).exp()
        demand = (known.level[:, :, None] * (known.response * factors[..., None, None]).exp()).sum(-1)
        chances = softened_plan(known.margins, demand, SHARPNESS)
        regret = (chances * known.regret).sum((1, 2)).clamp(max=LARGEST_REGRET).mean()
        loss = regret + RIDGE * (numbers**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    constant, mean, regression, distance = (float(number) for number in numbers.detach())
    return constant - mean * float(centre), mean, regression, distance


def read_regressions(query: Batch) -> list[CategoryRegression | None]:
    """The regression of every category, None where nothing is visible."""
    numbers = query["category_regression"][:, 0].double().tolist()
    return [CategoryRegression(*pair) if np.isfinite(pair[1]) else None for pair in numbers]


def without_pooling(update: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same update, or stack of updates, without what it says of pooling."""
    return {name: tensor for name, tensor in update.items() if name.rpartition(".")[0] != POOLING_LINEAR}


def pool_stack(
    model: PricingFMForPolicy, stack: Stack, query: Batch, rule: PoolingRule, weeks: int, scaling: float
) -> Stack:
    """The same updates, and what every category's items say together.

    Args:
        model (`PricingFMForPolicy`): The base.
        stack (`Stack`): One update per category.
        query (`dict`): `(C, R, ...)`, planned as an intervention; rows that only fill up have no weight.
        rule (`PoolingRule`): How to pool.
        weeks (`int`): Visible weeks.
        scaling (`float`): Of low-rank updates.

    Returns:
        `Stack`: With the update of the pooling head in full.
    """
    kept = without_pooling(stack)
    own, _ = read_elasticities(model, kept, query, scaling)
    pooled = [
        rule.pool(values[here > 0].double().numpy(), weeks, regression)
        for values, here, regression in zip(own, query["loss_weights"], read_regressions(query), strict=True)
    ]
    numbers = torch.tensor([[one.slope, one.offset] for one in pooled])[:, None]
    return {**kept, f"{POOLING_LINEAR}.full": numbers}
