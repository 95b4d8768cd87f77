"""Prices planned on demand curves of many categories at once, each under its own update of the base."""

from dataclasses import dataclass

import numpy as np
import torch

from pricing_fm.adapters.stack import Stack, updated
from pricing_fm.evaluation.few_shot_markets import PRICE_GRID, DecisionTruth, grid_prices
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.objectives.grid_plan import grid_demand
from pricing_fm.training.few_shot_tasks import flatten_rows

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PlannedCurves:
    """Demand at every price of the grid, held over the weeks of the decision; float64.

    Args:
        prices (`(items, P)`): Currency.
        members (`(items, P, M)`): Expected units over all weeks, by response member.
        middle (`(items, P)`): The same along the mean log-response of the members.
    """

    prices: np.ndarray
    members: np.ndarray
    middle: np.ndarray


@torch.no_grad()
def read_curves(
    model: PricingFMForPolicy, stack: Stack, decision: Batch, truth: DecisionTruth, scaling: float
) -> PlannedCurves:
    """Demand curves of all items at the decision.

    Args:
        model (`PricingFMForPolicy`): The base, in the monotone mode.
        stack (`Stack`): One update per category; empty = the base itself.
        decision (`dict`): Query of a task on `build_decision_store`, `(C, R, ...)`.
        truth (`DecisionTruth`): Of the same categories; its list prices and sizes are used, nothing else.
        scaling (`float`): Of low-rank updates.

    Returns:
        `PlannedCurves`: Items in the truth's order.
    """
    rows, width = flatten_rows(decision), decision["scale"].shape[1]
    counts = np.bincount(truth.categories)
    taken = (np.arange(width) < counts[:, None]).ravel()  # rows that do not only fill up
    prices = grid_prices(truth)
    padded = np.ones((len(taken), prices.shape[1]))
    padded[taken] = prices
    reference = rows["reference_price"].double().numpy()[:, None]
    log_prices = torch.from_numpy(np.log(padded / reference)).float()
    members, middle = grid_demand(updated(model, stack, scaling), rows, log_prices)
    return PlannedCurves(prices, members.double().numpy()[taken], middle.double().numpy()[taken])


def plan_prices(curves: PlannedCurves, costs: np.ndarray, caution: float = 0.0) -> np.ndarray:
    """Price of the grid with the highest expected margin.

    Args:
        curves (`PlannedCurves`): Demand.
        costs (`np.ndarray`, shape `(items,)`): Unit costs, currency.
        caution (`float`): Standard deviations over response members that a gain over the list price is discounted by;
            0 takes the middle curve.

    Returns:
        `(items,)`: Currency.
    """
    margin = curves.prices - costs[:, None]
    scores = margin * curves.middle
    if caution > 0:
        members = margin[..., None] * curves.members
        kept = int(np.abs(np.asarray(PRICE_GRID) - 1.0).argmin())
        gains = members - members[:, kept : kept + 1]
        scores = gains.mean(-1) - caution * gains.std(-1)
    return curves.prices[np.arange(len(scores)), scores.argmax(1)]
