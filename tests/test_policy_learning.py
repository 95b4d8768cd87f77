"""Policy learning: gradients where declared, values that do not follow the manager, and a policy that improves."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from pricing_fm.adapters import LoraArguments, add_adapter
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.channels import INDEX, INTERVENTION_SLOT, RAW_CHANNELS
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import ladder_values
from pricing_fm.panel import RawWindows
from pricing_fm.training.policy_learning import (
    FROM_THE_CURVE,
    FROM_THE_LOG,
    Algorithm,
    PolicyArguments,
    PolicyLearner,
    read_decisions,
    with_assumed_cost,
)
from tests.test_objectives_structured_q import constant_elasticity_, demand_at_reference, silent_value_

Batch = dict[str, torch.Tensor]
Learner = Callable[..., PolicyLearner]
REVENUE = RewardWeights(margin=0.0, revenue=1.0)
ALGORITHMS = get_args(Algorithm)


def train_decisions_only_(model: PricingFMForPolicy) -> PricingFMForPolicy:
    """Sets `requires_grad` for the decision heads alone, in place."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("decision_head."))
    return model


@pytest.fixture
def model(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return train_decisions_only_(build_tiny_model(PricingFMForPolicy))


@pytest.fixture
def learner(model: PricingFMForPolicy, tiny_processor: PricingFMProcessor) -> Learner:
    """Factory `(rewards, **arguments)` on `model`."""

    def build(rewards: RewardWeights = REVENUE, **arguments: object) -> PolicyLearner:
        return PolicyLearner(model, model, tiny_processor, PolicyArguments(**arguments), rewards)

    return build


# -- where gradients go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_declared_parameter_gets_a_gradient_and_no_other(
    model: PricingFMForPolicy, learner: Learner, tiny_batch: Batch, algorithm: str
) -> None:
    learner(algorithm=algorithm)(**tiny_batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("decision_head."), name
        if parameter.grad is not None:
            moves = algorithm != "cloning" or "value_head" not in name
            assert bool(parameter.grad.abs().sum() > 0) == moves, name


def test_inside_an_adapter_only_the_decision_sides_low_rank_parts_learn(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    network = add_adapter(model, "crackers", LoraArguments(lora_rank=2, lora_start=0.1))
    with pytest.raises(ValueError, match="decision_head"):
        PolicyLearner(network, model, tiny_processor, PolicyArguments(), REVENUE)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name and "decision_head" in name)
    PolicyLearner(network, model, tiny_processor, PolicyArguments(), REVENUE)(**tiny_batch).loss.backward()
    with_gradient = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(with_gradient) == 12


def test_a_network_in_which_nothing_or_too_much_is_to_be_trained_is_refused(
    model: PricingFMForPolicy, learner: Learner
) -> None:
    model.model.role_tokens.requires_grad_(True)
    with pytest.raises(ValueError, match="role_tokens"):
        learner()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        learner()


def test_a_processor_that_hides_prices_has_no_decisions_to_learn_from(model: PricingFMForPolicy) -> None:
    for covariates in ("flags", "none"):
        processor = PricingFMProcessor(context_length=16, covariates=covariates)
        with pytest.raises(ValueError, match="hides prices"):
            PolicyLearner(model, model, processor, PolicyArguments(), REVENUE)


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    """A process group of one: it waits for gradients as a large one does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_data_parallel_learning_waits_for_no_gradient_that_never_comes(
    learner: Learner, tiny_batch: Batch, algorithm: str
) -> None:
    wrapped = DistributedDataParallel(learner(algorithm=algorithm))
    for _ in range(2):
        wrapped(**tiny_batch).loss.backward()


# -- which decisions count --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_last_period_is_a_next_state_and_no_decision(learner: Learner, tiny_batch: Batch, algorithm: str) -> None:
    learn = learner(algorithm=algorithm)
    loss = learn(**tiny_batch).loss
    other_action = tiny_batch["logged_actions"].clone()
    # The same promotion: what is best in the next state under the promotion that is planned there counts.
    other_action[:, -1] = other_action[:, -1] // 43 * 43 + 3
    assert torch.equal(learn(**{**tiny_batch, "logged_actions": other_action}).loss, loss)
    earlier = tiny_batch["logged_actions"].clone()
    earlier[:, -2] = 3
    assert not torch.equal(learn(**{**tiny_batch, "logged_actions": earlier}).loss, loss)


def test_a_windows_end_is_a_truncation_so_the_last_state_counts(learner: Learner, tiny_batch: Batch) -> None:
    features = tiny_batch["decision_features"].clone()
    features[:, -1, 6] += 1.0  # the last state's cost share: no price moves it
    changed = {**tiny_batch, "decision_features": features}
    for algorithm in ALGORITHMS:
        learn = learner(algorithm=algorithm)
        assert torch.equal(learn(**changed).loss, learn(**tiny_batch).loss) == (algorithm == "cloning")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_periods_without_a_decision_change_nothing(learner: Learner, tiny_batch: Batch, algorithm: str) -> None:
    mask = tiny_batch["logged_action_mask"].clone()
    mask[::2, 1] = False
    learn = learner(algorithm=algorithm)
    masked = {**tiny_batch, "logged_action_mask": mask}
    # Another rung under the same promotion: what is best afterwards under a planned promotion stays.
    actions = torch.where(mask, tiny_batch["logged_actions"], tiny_batch["logged_actions"] // 43 * 43 + 7)
    assert torch.equal(learn(**masked).loss, learn(**{**masked, "logged_actions": actions}).loss)
    nothing = learn(**{**tiny_batch, "logged_action_mask": torch.zeros_like(mask)})
    assert nothing.loss == 0
    if "weight_ess_share" in nothing.loss_terms:
        assert torch.isnan(nothing.loss_terms["weight_ess_share"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_logged_rewards_need_observed_sales_and_structured_ones_do_not(
    learner: Learner, tiny_batch: Batch, algorithm: str
) -> None:
    mask = tiny_batch["future_observed_mask"].clone()
    mask[:, 0] = False
    unseen = {**tiny_batch, "future_observed_mask": mask}
    wild = {**unseen, "future_values": torch.where(mask, tiny_batch["future_values"], 1e6)}
    learn = learner(algorithm=algorithm)
    assert torch.equal(learn(**unseen).loss, learn(**wild).loss)
    moved = {**tiny_batch, "future_values": tiny_batch["future_values"] + 1.0}
    assert torch.equal(learn(**tiny_batch).loss, learn(**moved).loss) != (algorithm in FROM_THE_LOG)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_weeks_decision_and_sales_reach_no_state_up_to_that_week(
    model: PricingFMForPolicy,
    learner: Learner,
    tiny_windows: RawWindows,
    tiny_processor: PricingFMProcessor,
    algorithm: str,
) -> None:
    """What heads say of week t and before does not move with price and sales of week t; of week t + 1 it does."""
    week = 2
    future = tiny_windows.future.copy()
    future[:, week, INDEX["price"]] *= 1.3
    future[:, week, INDEX["units"]] += 50
    learn = learner(algorithm=algorithm)
    said = []
    for windows in (tiny_windows, replace(tiny_windows, future=future)):
        batch = tiny_processor(windows)
        reading = learn.read(batch)
        head, states = model.decision_head, reading["decision_states"]
        inputs = states, reading["decision_features"], reading["current_actions"]
        said.append((head.policy_log_probs(*inputs), head.behavior_log_probs(*inputs), head.values(*inputs[:2])))
    for before, after in zip(*said, strict=True):
        assert torch.equal(before[:, : week + 1], after[:, : week + 1])
        assert not torch.equal(before[:, week + 1], after[:, week + 1])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learning_from_a_kept_reading_is_learning_from_the_batch(
    model: PricingFMForPolicy, learner: Learner, tiny_batch: Batch, tiny_processor: PricingFMProcessor, algorithm: str
) -> None:
    learn = learner(algorithm=algorithm)
    kept = read_decisions(model, tiny_processor, tiny_batch, REVENUE)
    assert torch.equal(learn(**kept).loss, learn(**tiny_batch).loss)


def test_one_future_period_is_too_few(
    learner: Learner, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    first = replace(
        tiny_windows, future=tiny_windows.future[:, :1], future_timestamps=tiny_windows.future_timestamps[:, :1]
    )
    with pytest.raises(ValueError, match="next state"):
        learner()(**tiny_processor(first))


# -- costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [*FROM_THE_CURVE, *FROM_THE_LOG])
def test_margin_without_cost_is_refused_and_an_assumed_share_serves(
    learner: Learner, tiny_batch: Batch, algorithm: str
) -> None:
    costs = tiny_batch["unit_costs"].clone()
    costs[:2] = torch.nan
    batch = {**tiny_batch, "unit_costs": costs}
    with pytest.raises(ValueError, match="cost"):
        learner(RewardWeights(), algorithm=algorithm)(**batch)
    assert torch.isfinite(learner(RewardWeights(), algorithm=algorithm, assumed_cost_share=0.6)(**batch).loss)
    filled = with_assumed_cost(batch, 0.6)["unit_costs"]
    torch.testing.assert_close(filled[:2], (0.6 * batch["reference_price"][:2, None]).expand(2, 4))
    assert torch.equal(filled[2:], costs[2:])
    assert with_assumed_cost(batch, None) is batch


def test_arguments_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"algorithm": "magic"},
        {"discount": 1.2},
        {"expectile": 1.0},
        {"horizon": 0},
        {"assumed_cost_share": 1.0},
        {"conservatism": -0.1},
        {"aggressiveness": -1.0},
        {"caution": -0.5},
    ):
        with pytest.raises(ValueError):
            PolicyArguments(**wrong)


# -- what is learned --------------------------------------------------------------------------------------------------


def policy_gradient(model: PricingFMForPolicy, learn: PolicyLearner, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    learn(**batch).loss.backward()
    head = model.decision_head
    parts = {"policy": head.policy_head, "behavior": head.behavior_head}
    return {f"{part}.{name}": p.grad.clone() for part, module in parts.items() for name, p in module.named_parameters()}


def test_cloning_is_value_learning_at_zero_temperature(
    model: PricingFMForPolicy, learner: Learner, tiny_batch: Batch
) -> None:
    cloning = policy_gradient(model, learner(algorithm="cloning"), tiny_batch)
    flat = policy_gradient(model, learner(algorithm="structured", inverse_temperature=0.0), tiny_batch)
    sharp = policy_gradient(model, learner(algorithm="structured", inverse_temperature=2.0), tiny_batch)
    for name, gradient in cloning.items():
        torch.testing.assert_close(gradient, flat[name], rtol=1e-5, atol=1e-7)
        assert torch.allclose(gradient, sharp[name]) == name.startswith("behavior"), name


def test_weights_keep_a_tenth_of_the_batch(learner: Learner, tiny_batch: Batch) -> None:
    share = learner(algorithm="structured")(**tiny_batch).loss_terms["weight_ess_share"]
    assert 0.1 <= share <= 1.0


def confounded_windows(slope: float, seed: int, keeps: float = 0.0) -> RawWindows:
    """64 items of true elasticity 1.2 (for revenue, cut), whose manager prices by a demand shock that he can see.

    With this probability he does not look at a price and keeps it.
    """
    random = np.random.default_rng(seed)
    items, past_steps, ahead = 64, 16, 6
    shock = random.normal(0, 0.4, size=(items, past_steps + ahead))
    log_price = np.clip(slope * shock + random.normal(0, 0.03, size=shock.shape), -0.6, 0.3)
    kept = random.random(shock.shape) < keeps
    for week in range(1, shock.shape[1]):
        log_price[:, week] = np.where(kept[:, week], log_price[:, week - 1], log_price[:, week])
    units = random.poisson(60 * np.exp(shock - 1.2 * log_price))
    channels = np.full((items, past_steps + ahead, len(RAW_CHANNELS)), np.nan, dtype=np.float32)
    channels[..., INDEX["units"]], channels[..., INDEX["price"]] = units, 5 * np.exp(log_price)
    weeks = np.datetime64("2024-01-01", "s") + np.arange(past_steps + ahead) * np.timedelta64(7 * 86400, "s")
    stamps = np.broadcast_to(weeks, (items, len(weeks)))
    categories = np.full((items, 9), None, dtype=object)
    categories[:, 0] = "W"
    return SimpleNamespace(
        past=channels[:, :past_steps],
        future=channels[:, past_steps:],
        past_timestamps=stamps[:, :past_steps],
        future_timestamps=stamps[:, past_steps:],
        static_categories=categories,
        static_reals=np.full((items, 4), np.nan, dtype=np.float32),
        item_keys=np.arange(items, dtype=np.uint64),
    )


def slope_of_rewards(learn: PolicyLearner, batch: Batch) -> float:
    """What a log price point adds to the reward of a logged action; values are silent."""
    reading = learn.read(batch)
    if "logged_rewards" in reading:
        rewards = reading["logged_rewards"]
    else:
        rungs = batch["logged_actions"] % learn.processor.num_rungs
        rewards = reading["rung_rewards"].gather(-1, rungs[..., None]).squeeze(-1)
    targets = rewards[:, :-1].flatten()
    prices = batch["candidate_prices"][:, 0, :-1].flatten()
    return float(torch.cov(torch.stack([prices, targets]))[0, 1] / prices.var())


@pytest.mark.parametrize("slope", [0.5, -0.5])
@pytest.mark.parametrize("algorithm", [*FROM_THE_CURVE, *FROM_THE_LOG])
def test_logged_rewards_follow_the_manager_and_structured_ones_follow_the_market(
    model: PricingFMForPolicy, learner: Learner, tiny_processor: PricingFMProcessor, algorithm: str, slope: float
) -> None:
    """A manager who raises into peaks makes raising look good; one who cuts into them, cutting far too good."""
    constant_elasticity_(silent_value_(model), 1.2)
    batch = tiny_processor(confounded_windows(slope, seed=0))
    batch["future_inventory"] = torch.full_like(batch["future_inventory"], torch.nan)
    truth = -0.2 * float((demand_at_reference(model, batch) / batch["scale"][:, None]).mean())
    learn = learner(algorithm=algorithm)
    found = slope_of_rewards(learn, batch)
    # With outcomes shuffled between weeks, raw rewards know no price effect; structured values do not look at them.
    shuffled = slope_of_rewards(learn, {**batch, "future_values": batch["future_values"][torch.randperm(64)]})
    if algorithm in FROM_THE_LOG:
        assert abs(found - truth) > 1.0
        assert found * slope > 0
        assert abs(shuffled - found) > 0.5
    else:
        assert abs(found - truth) < 1.0 / 3
        assert shuffled == found


def test_values_are_built_on_what_set_prices_bring_where_the_network_knows_the_difference(
    model: PricingFMForPolicy, learner: Learner, tiny_batch: Batch
) -> None:
    told = learner()
    as_logged = told(**tiny_batch).loss_terms["value"]
    marked = {**tiny_batch, "future_known_values": tiny_batch["future_known_values"].clone()}
    marked["future_known_values"][..., INTERVENTION_SLOT] = 1.0
    told.processor.trained_on_interventions = True
    asked = told(**tiny_batch)
    torch.testing.assert_close(asked.loss_terms["value"], told(**marked).loss_terms["value"])
    assert not torch.isclose(asked.loss_terms["value"], as_logged)


@pytest.mark.parametrize("keeps", [0.0, 0.85])
@pytest.mark.parametrize("algorithm", FROM_THE_CURVE)
def test_the_policy_becomes_better_than_the_manager_it_learned_from(
    model: PricingFMForPolicy, learner: Learner, tiny_processor: PricingFMProcessor, algorithm: str, keeps: float
) -> None:
    constant_elasticity_(model, 2.5)
    batch = tiny_processor(confounded_windows(0.3, 1, keeps))
    logged_changes = (batch["logged_actions"] % tiny_processor.num_rungs) != batch["current_actions"][
        ..., : batch["logged_actions"].shape[1]
    ] % tiny_processor.num_rungs
    assert logged_changes[:, :-1].float().mean() < 0.95 - 0.8 * keeps
    learn = learner(algorithm=algorithm, discount=0.5)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        loss = learn(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        encoded = model.encode(batch)
        states = model.decision_states(encoded, batch)
        rungs = torch.from_numpy(tiny_processor.rung_prices(batch["reference_price"].double().numpy())).float()
        rewards = ladder_values(model, encoded, states, batch, rungs, REVENUE, 0.5).rewards.mean(-1)
        decided = model.decide(encoded, batch)
        behavior, policy = (
            log_probs.exp().unflatten(-1, (2, -1)).sum(-2)
            for log_probs in (decided.behavior_log_probs, decided.policy_log_probs)
        )
    gain = ((policy - behavior) * rewards).sum(-1)[:, :-1].mean() / (behavior * rewards).sum(-1)[:, :-1].abs().mean()
    assert gain > 0.2
    changes = 1 - policy.gather(-1, batch["current_actions"][..., None] % tiny_processor.num_rungs)[:, :-1].mean()
    assert changes >= 0.15
