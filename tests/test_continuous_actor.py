"""The continuous actor: keeps the last price at first, then finds the textbook price, and leaks nothing."""

import math
from collections.abc import Callable

import pytest
import torch

from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.channels import PRICE_SCALE
from pricing_fm.objectives.continuous_price import value_at_price
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.training.continuous_actor import ContinuousArguments, ContinuousLearner, PriceActor
from pricing_fm.training.policy_learning import read_decisions
from tests.test_objectives_structured_q import constant_elasticity_, unlimited

Batch = dict[str, torch.Tensor]


@pytest.fixture
def reading(
    build_tiny_model: Callable[..., PricingFMForPolicy], tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> Batch:
    """Elasticity 2.5 and costs of 55 % for everybody: the best log price is log(0.55 x 2.5 / 1.5)."""
    model = constant_elasticity_(build_tiny_model(PricingFMForPolicy), 2.5)
    costs = 0.55 * tiny_batch["reference_price"][:, None].expand(-1, 4)
    return read_decisions(model, tiny_processor, {**unlimited(tiny_batch), "unit_costs": costs}, RewardWeights())


def build(reading: Batch) -> PriceActor:
    return PriceActor(reading["decision_states"].shape[-1], reading["decision_features"].shape[-1])


def charge(actor: PriceActor, reading: Batch) -> torch.Tensor:
    with torch.no_grad():
        return actor.log_prices(reading["decision_states"], reading["decision_features"])


def learn(reading: Batch, **arguments: float) -> PriceActor:
    actor = build(reading)
    learner = ContinuousLearner(actor, ContinuousArguments(discount=0.0, critic_penalty=0.0, **arguments))
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        learner(**reading).loss.backward()
        optimizer.step()
    return actor


def test_before_learning_the_last_price_is_kept(reading: Batch) -> None:
    kept = reading["decision_features"][..., 0] * PRICE_SCALE
    torch.testing.assert_close(charge(build(reading), reading), kept)


def test_it_finds_the_textbook_price_and_a_strong_penalty_the_logged_one(reading: Batch) -> None:
    mask = reading["decision_mask"]
    # The optimum is flat: what counts is what is earned of what the textbook price would.
    best = torch.full(mask.shape, math.log(0.55 * 2.5 / 1.5))
    chosen = charge(learn(reading, actor_penalty=0.0), reading)
    earned, most, before = (
        value_at_price(reading["rung_rewards"], reading["log_rungs"], prices)[mask].mean()
        for prices in (chosen, best, charge(build(reading), reading))
    )
    assert most - earned < 0.1 * (most - before)
    free = chosen[mask]
    logged = reading["log_rungs"].gather(1, reading["logged_actions"] % 43)[mask]
    held = charge(learn(reading, actor_penalty=100.0), reading)[mask]
    start = charge(build(reading), reading)[mask]
    assert (held - logged).abs().mean() < 0.5 * (start - logged).abs().mean()
    assert (held - logged).abs().mean() < (free - logged).abs().mean()


def test_every_parameter_learns_and_what_is_masked_does_not_matter(reading: Batch) -> None:
    actor = build(reading)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    learner = ContinuousLearner(actor, ContinuousArguments())
    loss = learner(**reading).loss
    loss.backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in actor.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in actor.parameters())
    mask = reading["decision_mask"]
    wild = {**reading, "logged_actions": torch.where(mask, reading["logged_actions"], 3)}
    assert torch.equal(learner(**wild).loss, loss)


def test_a_critic_that_pays_for_leaving_the_log_values_states_less(reading: Batch) -> None:
    actor = build(reading)
    with torch.no_grad():
        actor.actor[2].bias.fill_(0.5)  # far from what was logged
    free, paying = (
        ContinuousLearner(actor, ContinuousArguments(critic_penalty=penalty))(**reading).loss_terms["value"]
        for penalty in (0.0, 1.0)
    )
    assert paying > free
