"""The true elasticities of categories, and how far those that prices are planned with lie from them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from pricing_fm.evaluation.few_shot_markets import LISTED, held_elasticities
from pricing_fm.evaluation.few_shot_planning import PlannedCurves
from pricing_fm.markets import SimulatedLog
from pricing_fm.training.pooling import SMALLEST_ELASTICITY

Batch = dict[str, torch.Tensor]

STEPS = 3  # of the grid, both ways from the list price: 6 %


def curve_elasticities(curves: PlannedCurves) -> np.ndarray:
    """Elasticity of planned demand around the list price, when a held price moves.

    Args:
        curves (`PlannedCurves`): Demand at every price of the grid.

    Returns:
        `(items,)`: Positive where demand falls with the price.
    """
    low, high = LISTED - STEPS, LISTED + STEPS
    fall = np.log(curves.middle[:, low] / curves.middle[:, high])
    return np.asarray(fall / np.log(curves.prices[:, high] / curves.prices[:, low]))


def add_elasticities(query: Batch, logs: Sequence[SimulatedLog], decision_weeks: int) -> Batch:
    """Adds the true elasticity of every item: the query of tasks that teach how to pool.

    Args:
        query (`dict`): Of a task on `build_decision_store` of these logs, `(C, R, ...)`.
        logs (`Sequence[SimulatedLog]`): From `simulate_categories`.
        decision_weeks (`int`): Weeks that a price is held.

    Returns:
        `dict`: Also `held_elasticity` `(C, R)`; 1 in rows that only fill up.
    """
    found = torch.ones_like(query["loss_weights"])
    found[query["loss_weights"] > 0] = torch.from_numpy(held_elasticities(logs, decision_weeks)).float()
    return query | {"held_elasticity": found}


def log_bias(found: np.ndarray, true: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Mean of log(found elasticity / true elasticity) over the items of a category.

    Args:
        found (`np.ndarray`, shape `(items,)`): Elasticities; NaN = unknown, and left out. What lies below
            `SMALLEST_ELASTICITY`, a wrong sign included, counts as that.
        true (`np.ndarray`, shape `(items,)`): Likewise.
        categories (`np.ndarray`, shape `(items,)`, int64): Category of each item, from 0 on.

    Returns:
        `(categories,)`: NaN where no item is known.
    """
    one, other = (np.log(np.maximum(values, SMALLEST_ELASTICITY)) for values in (found, true))
    frame = pd.DataFrame({"category": categories, "bias": one - other})
    return np.asarray(frame.groupby("category")["bias"].mean().reindex(range(int(categories.max()) + 1)))


def tabulate_biases(table: pd.DataFrame) -> pd.DataFrame:
    """Mean bias over categories and its standard error over them; draws and seeds are averaged within a category.

    Args:
        table (`pd.DataFrame`): Scores with `strategy, k, category, bias`.

    Returns:
        `pd.DataFrame`: `strategy, k, bias, standard_error, categories`; strategies without an elasticity are left out.
    """
    means = table.groupby(["strategy", "k", "category"], sort=False)["bias"].mean().dropna()
    found = means.groupby(["strategy", "k"], sort=False).agg(bias="mean", standard_error="sem", categories="size")
    return found.reset_index()
