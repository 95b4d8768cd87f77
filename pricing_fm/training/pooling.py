"""Pools the elasticities of few-shot tasks: learns the rule where they are known, and applies it category by category.

Shapes: C categories, R rows of each.
"""

from collections.abc import Mapping

import numpy as np
import torch

from pricing_fm.adapters import PoolingRule, fit_pooling
from pricing_fm.adapters.pooling import POOLING_LINEAR
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
    model: PricingFMForPolicy,
    start: Mapping[str, torch.Tensor],
    tasks: Mapping[int, FewShotTask],
    true: np.ndarray,
    scaling: float,
) -> PoolingRule:
    """Learns how to pool categories whose elasticities are known.

    Args:
        model (`PricingFMForPolicy`): The base.
        start (`Mapping[str, torch.Tensor]`): Update under which categories are read; empty = the base itself.
        tasks (`Mapping[int, FewShotTask]`): Number of visible weeks to the task of all categories.
        true (`np.ndarray`, shape `(items,)`): Elasticity of every item when its planned price moves, category by
            category.
        scaling (`float`): Of low-rank updates.

    Returns:
        `PoolingRule`.
    """
    found, targets = {}, {}
    for weeks, task in tasks.items():
        weights = task.query["loss_weights"]
        stack = repeat(without_pooling(start), len(weights))
        own, planned = (
            values[weights > 0].double().numpy() for values in read_elasticities(model, stack, task.query, scaling)
        )
        # The factor is the same at every price; what the curve's bend does between the two prices is the network's.
        found[weeks], targets[weeks] = own, np.log(true) - planned + own
        categories = np.repeat(np.arange(len(weights)), (weights > 0).sum(1).numpy())
    return fit_pooling(found, targets, categories)


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
        rule.pool(values[weights > 0].double().numpy(), weeks)
        for values, weights in zip(own, query["loss_weights"], strict=True)
    ]
    numbers = torch.tensor([[one.slope, one.offset] for one in pooled])[:, None]
    return {**kept, f"{POOLING_LINEAR}.full": numbers}
