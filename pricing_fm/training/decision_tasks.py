"""Few-shot tasks of the decision side: states, ladders and structured rewards, read once from a frozen demand side.

The policy losses reach the decision heads alone, so whatever lies before them can be computed once: steps on the heads
then cost next to nothing. Shapes: C categories, R rows (windows) of each, H steps, K rungs, A = 2 K actions.
"""

import numpy as np
import torch
from torch.nn import functional

from pricing_fm.adapters.stack import Stack, updated
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import features_after
from pricing_fm.training.few_shot_tasks import FewShotTask, concatenate_tasks, flatten_rows, select_categories
from pricing_fm.training.policy_learning import read_decisions, with_assumed_cost

Batch = dict[str, torch.Tensor]

# Categories whose ladders are computed at once: what bounds memory.
CATEGORIES_AT_ONCE = 16
PER_ROW = ("log_rungs", "reference_price", "rung_regret", "loss_weights", "category")


@torch.no_grad()
def read_decision_task(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    task: FewShotTask,
    stack: Stack,
    scaling: float,
    rewards: RewardWeights,
    assumed_cost_share: float | None = None,
) -> FewShotTask:
    """The decisions of a task, under the demand side that each category was adapted to.

    Args:
        model (`PricingFMForPolicy`): The base, in the monotone mode.
        processor (`PricingFMProcessor`): Belongs to it.
        task (`FewShotTask`): Windows; a query with `grid_regret` knows what prices are worth.
        stack (`Stack`): Demand side of every category; empty = the base itself.
        scaling (`float`): Of low-rank updates.
        rewards (`RewardWeights`): Of the reward.
        assumed_cost_share (`float`, *optional*): As in `PolicyArguments`.

    Returns:
        `FewShotTask`: Of each part what `policy_learning.read_decisions` makes of its windows, `(C, R, ...)`, without
        logged rewards; `features_after` `(C, R, H - 1, K, F)`, `category` and `loss_weights` `(C, R)`; and where
        regrets are known, `rung_regret` `(C, R, K)`. H ends one period after the last decision.

    Raises:
        ValueError: If margin counts and a cost is missing.
    """
    count, parts = len(task.query["loss_weights"]), []
    for first in range(0, count, CATEGORIES_AT_ONCE):
        places = torch.arange(first, min(first + CATEGORIES_AT_ONCE, count))
        network = updated(model, {name: tensor[places] for name, tensor in stack.items()}, scaling)
        chosen = select_categories(task, places)
        read = {
            name: _read_part(network, processor, part, rewards, assumed_cost_share, places)
            for name, part in vars(chosen).items()
        }
        parts.append(FewShotTask(**read))
    return FewShotTask(**{name: _cut(part) for name, part in vars(concatenate_tasks(parts)).items()})


def _read_part(
    network: PricingFMForPolicy,
    processor: PricingFMProcessor,
    part: Batch,
    rewards: RewardWeights,
    assumed_cost_share: float | None,
    places: torch.Tensor,
) -> Batch:
    shape = part["loss_weights"].shape
    if shape[1] == 0:
        return {"loss_weights": part["loss_weights"], "category": places[:, None].expand(shape)}
    rows = with_assumed_cost(flatten_rows(part), assumed_cost_share)
    found = read_decisions(network, processor, rows, rewards, from_log=False)
    features, log_rungs = found["decision_features"], found["log_rungs"]
    found["features_after"] = features_after(features[:, :-1], features[:, 1:], log_rungs)
    found["reference_price"] = rows["reference_price"]
    if "grid_regret" in rows:
        found["rung_regret"] = _regret_of_rungs(rows, log_rungs)
    unflattened = {name: tensor.unflatten(0, shape) for name, tensor in found.items()}
    return unflattened | {"loss_weights": part["loss_weights"], "category": places[:, None].expand(shape)}


def _cut(part: Batch) -> Batch:
    """Without the periods that teach nothing: those behind the last decision, but for the state that it leads to.

    A query that knows its regrets is judged by its first decision.
    """
    if "decision_mask" not in part:
        return part
    decided = torch.nonzero(part["decision_mask"].flatten(0, 1).any(0))
    last = 0 if "rung_regret" in part or not len(decided) else int(decided.max())
    return {
        name: tensor if name in PER_ROW else tensor[:, :, : last + (1 if name == "features_after" else 2)]
        for name, tensor in part.items()
    }


def _regret_of_rungs(rows: Batch, log_rungs: torch.Tensor) -> torch.Tensor:
    """Regret of the rungs `(B, K)` from that of a price grid; beyond the grid it is that of its end, as prices are."""
    tables = (rows["grid_log_prices"], rows["grid_regret"], log_rungs)
    found = [np.interp(at, grid, regret) for grid, regret, at in zip(*(table.numpy() for table in tables), strict=True)]
    return torch.from_numpy(np.stack(found).astype(np.float32))


def ladder_action_values(values_after: torch.Tensor, batch: Batch, discount: float) -> torch.Tensor:
    """Structured values of every rung `(C, R, H, K)`; the last step has no next state, and its reward alone.

    Args:
        values_after (`(C, R, H - 1, K)`): Value of the state that each rung leads to.
        batch (`dict`): From `read_decision_task`.
        discount (`float`): Per period.
    """
    return batch["rung_rewards"] + discount * functional.pad(values_after, (0, 0, 0, 1))
