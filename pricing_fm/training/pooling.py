"""Pools the elasticities of few-shot tasks: learns the rule where they are known, and applies it to every category.

Shapes: C categories, R rows of each.
"""

from collections.abc import Mapping

import numpy as np
import torch

from pricing_fm.adapters import CategoryRegression, KnownCategories, PoolingRule, fit_pooling
from pricing_fm.adapters.pooling import POOLING_LINEAR, regression_shift
from pricing_fm.adapters.stack import Stack, repeat, updated
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.training.few_shot_tasks import FewShotTask, flatten_rows

Batch = dict[str, torch.Tensor]

SMALLEST_ELASTICITY = 0.1


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
    """Learns how to pool categories whose elasticities are known.

    Args:
        model (`PricingFMForPolicy`): The base.
        start (`Mapping[str, torch.Tensor]`): Update under which categories are read; empty = the base itself.
        tasks (`Mapping[int, FewShotTask]`): Number of visible weeks to the task of all categories; their queries hold
            `held_elasticity`.
        scaling (`float`): Of low-rank updates.

    Returns:
        `PoolingRule`.

    Raises:
        ValueError: If elasticities are not known.
    """
    known = {}
    for weeks, task in tasks.items():
        query = task.query
        if "held_elasticity" not in query:
            raise ValueError("a pooling rule needs tasks whose queries hold held_elasticity, the true elasticities")
        rows = query["loss_weights"] > 0
        stack = repeat(without_pooling(start), len(rows))
        own, planned = (values[rows].double().numpy() for values in read_elasticities(model, stack, query, scaling))
        categories = np.repeat(np.arange(len(rows)), rows.sum(1).numpy())
        means = np.bincount(categories, own) / np.bincount(categories)
        shifts = [regression_shift(mean, one) for mean, one in zip(means, read_regressions(query), strict=True)]
        # The factor is the same at every price; what the curve's bend does between the two prices is the network's.
        wanted = query["held_elasticity"][rows].double().log().numpy() - planned
        known[weeks] = KnownCategories(own, wanted, np.array(shifts), categories)
    return fit_pooling(known)


def elasticity_errors(
    model: PricingFMForPolicy,
    start: Mapping[str, torch.Tensor],
    rule: PoolingRule | None,
    tasks: Mapping[int, FewShotTask],
    scaling: float,
) -> dict[int, float]:
    """Root mean square error of log elasticities, by number of visible weeks.

    Args:
        model (`PricingFMForPolicy`): The base.
        start (`Mapping[str, torch.Tensor]`): Update under which categories are read; empty = the base itself.
        rule (`PoolingRule` or None): How categories are pooled; None = they are not.
        tasks (`Mapping[int, FewShotTask]`): As in `fit_rule`.
        scaling (`float`): Of low-rank updates.
    """
    found = {}
    for weeks, task in tasks.items():
        rows = task.query["loss_weights"] > 0
        stack = repeat(without_pooling(start), len(rows))
        if rule is not None:
            stack = pool_stack(model, stack, task.query, rule, weeks, scaling)
        _, planned = read_elasticities(model, stack, task.query, scaling)
        errors = planned[rows] - task.query["held_elasticity"][rows].log()
        found[weeks] = float((errors**2).mean().sqrt())
    return found


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
