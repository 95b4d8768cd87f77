"""Prices that learned policies charge in held-out categories: by the policy alone, and as recommendations dial it."""

from collections.abc import Mapping

import numpy as np
import torch

from pricing_fm.adapters.stack import updated
from pricing_fm.evaluation.few_shot_markets import DecisionTruth
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.channels import PRICE_SCALE
from pricing_fm.objectives.holding import holding_advantages
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.training.few_shot_tasks import flatten_rows
from pricing_fm.training.policy_inner_loop import head_of
from pricing_fm.training.policy_meta import unpromoted_log_probs

Batch = dict[str, torch.Tensor]
Stack = Mapping[str, torch.Tensor]


@torch.no_grad()
def policy_prices(
    model: PricingFMForPolicy,
    stack: Stack,
    decisions: Batch,
    processor: PricingFMProcessor,
    truth: DecisionTruth,
    scaling: float,
) -> np.ndarray:
    """The likeliest price of the first decision.

    Args:
        model (`PricingFMForPolicy`): The base.
        stack (`Stack`): Decision side of every category; empty = the base's own heads.
        decisions (`dict`): Query from `read_decision_task`, `(C, R, ...)`.
        processor (`PricingFMProcessor`): For the ladder.
        truth (`DecisionTruth`): Of the same categories; its sizes are used, nothing else.
        scaling (`float`): Of low-rank updates.

    Returns:
        `(items,)`: Currency, items in the truth's order.
    """
    scores = unpromoted_log_probs(head_of(model, stack, scaling), decisions)[:, :, 0]
    return _prices_at(scores.flatten(0, 1), decisions, processor, truth)


@torch.no_grad()
def dialled_prices(
    model: PricingFMForPolicy,
    stack: Stack,
    query: Batch,
    decisions: Batch,
    processor: PricingFMProcessor,
    truth: DecisionTruth,
    scaling: float,
    discount: float,
    aggressiveness: float,
    caution: float,
) -> np.ndarray:
    """The price that recommendations take: log-probability plus the cautious advantage of holding it.

    Args:
        model (`PricingFMForPolicy`): The base.
        stack (`Stack`): Demand and decision side of every category.
        query (`dict`): Of the few-shot task, `(C, R, ...)`.
        decisions (`dict`): The same from `read_decision_task`.
        processor (`PricingFMProcessor`): For the ladder.
        truth (`DecisionTruth`): As in `policy_prices`.
        scaling (`float`): Of low-rank updates.
        discount (`float`): Per period.
        aggressiveness (`float`): Log-odds of an advantage of one reference revenue per held period.
        caution (`float`): Standard deviations over response members.

    Returns:
        `(items,)`: Currency.
    """
    network, rows = updated(model, stack, scaling), flatten_rows(query)
    rungs = torch.from_numpy(processor.rung_prices(rows["reference_price"].double().numpy())).to(rows["scale"])
    current = rows["reference_price"] * (rows["decision_features"][:, 0, 0] * PRICE_SCALE).exp()
    found = holding_advantages(
        network,
        network.encode(rows),
        rows,
        torch.cat([rungs, current[:, None]], dim=1),
        current,
        RewardWeights(),
        discount,
        lead=0,
    )[:, :-1]
    advantage = found.mean(-1) - caution * found.std(-1, correction=0)
    weeks = rows["future_time_features"].shape[1]
    log_probs = unpromoted_log_probs(head_of(model, stack, scaling), decisions)[:, :, 0].flatten(0, 1)
    return _prices_at(log_probs + aggressiveness * advantage / weeks, decisions, processor, truth)


def _prices_at(
    scores: torch.Tensor, decisions: Batch, processor: PricingFMProcessor, truth: DecisionTruth
) -> np.ndarray:
    """Price of the best rung of rows `(C x R, K)` that do not only fill up."""
    width = decisions["loss_weights"].shape[1]
    taken = (np.arange(width) < np.bincount(truth.categories)[:, None]).ravel()
    prices = processor.rung_prices(decisions["reference_price"].flatten().double().numpy())
    return np.asarray(prices[np.arange(len(prices)), scores.argmax(-1).numpy()][taken])
