"""Decision heads of many categories: steps and their gradients, stage B with its adapters, stage C with its term."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.func import grad, vmap

from pricing_fm.adapters import LoraArguments, adapter_parameters, add_adapter
from pricing_fm.adapters.stack import from_adapter, repeat
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import ladder_values
from pricing_fm.training import policy_inner_loop
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.decision_tasks import read_decision_task
from pricing_fm.training.few_shot_tasks import (
    FewShotTask,
    TaskArguments,
    build_task,
    find_categories,
    flatten_rows,
    select_categories,
)
from pricing_fm.training.joint_policy import JointPolicyLearner, number_categories, with_heads
from pricing_fm.training.meta import MetaArguments, join_task
from pricing_fm.training.policy_inner_loop import (
    ADVANTAGE_HEAD,
    DecisionSteps,
    action_values,
    adapt_decisions,
    category_mean,
    fix_action_values,
    head_of,
    ladder_advantages,
    policy_losses,
    policy_of_rungs,
    value_losses,
)
from pricing_fm.training.policy_learning import as_interventions
from pricing_fm.training.policy_meta import PolicyMetaLearner, as_decided, policy_start, query_policy_losses
from pricing_fm.training.policy_meta_run import learn_jointly, meta_train_policy
from tests.policy_artifacts import quick_collections
from tests.test_objectives_structured_q import silent_value_

SCALING, RATE = 2.0, 0.05
STEPS = DecisionSteps(value_steps=1, policy_steps=2)
VALUES_OFF = replace(STEPS, value_steps=0, discount=0.0)
WEEKS = (0, 13)
Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture
def model(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return build_tiny_model(PricingFMForPolicy).requires_grad_(False)


@pytest.fixture
def tasks(tiny_store, tiny_processor) -> dict[int, FewShotTask]:
    categories = find_categories(tiny_store, 13, 4, 0)
    arguments = TaskArguments(weeks=WEEKS, query_weeks=4)
    return {k: build_task(tiny_store, categories, tiny_processor, k, arguments, 8) for k in WEEKS}


@pytest.fixture
def decisions(model, tasks, tiny_processor) -> dict[int, FewShotTask]:
    return {
        k: read_decision_task(model, tiny_processor, task, {}, SCALING, RewardWeights()) for k, task in tasks.items()
    }


def update_of(model: PricingFMForPolicy, seed: int = 0) -> dict[str, torch.Tensor]:
    wrapped = add_adapter(PricingFMForPolicy(model.config), "one", LoraArguments(2, 4.0, 0.1), seed=seed)
    return from_adapter(adapter_parameters(wrapped, "one"))


def start_of(model: PricingFMForPolicy, steps: DecisionSteps = STEPS, seed: int = 0) -> dict[str, torch.Tensor]:
    return policy_start(update_of(model, seed), steps, model.config.num_rungs, seed)


def rates_of(start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(RATE) for name in start}


def learner_of(model: PricingFMForPolicy, steps: DecisionSteps = STEPS, order: int = 2) -> PolicyMetaLearner:
    return PolicyMetaLearner(model, start_of(model, steps), steps, RATE, 0.5, SCALING, order)


def with_regret(decisions: dict[int, FewShotTask]) -> FewShotTask:
    task = decisions[13]
    generator = torch.Generator().manual_seed(0)
    regret = torch.rand(task.query["log_rungs"].shape, generator=generator)
    return replace(task, query={**task.query, "rung_regret": regret})


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_decisions_read_once_are_those_of_the_policy_losses(model, tasks, decisions, tiny_processor) -> None:
    rows = flatten_rows(tasks[13].support)
    encoded = model.encode(rows)
    states = model.decision_states(encoded, rows)
    prices = torch.from_numpy(tiny_processor.rung_prices(rows["reference_price"].double().numpy())).float()
    asked = as_interventions(rows) if tiny_processor.trained_on_interventions else rows
    known = ladder_values(model, encoded, states, asked, prices, RewardWeights(), 0.98).values.mean(-1)
    found = action_values(head_of(model, {}, SCALING), decisions[13].support, 0.98)
    mask = decisions[13].support["decision_mask"].flatten(0, 1)
    steps = mask.shape[1] - 1  # the last of them is a next state
    torch.testing.assert_close(found.flatten(0, 1)[:, :steps], known[:, :steps], rtol=1e-5, atol=1e-6)
    decided = rows["logged_action_mask"].clone()
    decided[:, -1] = False  # a window's last period is a next state
    assert torch.equal(mask, decided[:, : steps + 1])
    assert mask[:, steps - 1].any()
    assert not decided[:, steps:].any()


def test_another_demand_side_brings_other_rewards_to_its_own_category_alone(model, tasks, tiny_processor) -> None:
    stack = {"demand_head.response.pooling_head.full": torch.zeros(3, 1, 2)}
    stack["demand_head.response.pooling_head.full"][1, 0, 1] = 0.5
    task = replace(tasks[13], query=as_interventions(tasks[13].query))  # pooling answers to set prices
    base = read_decision_task(model, tiny_processor, task, {}, SCALING, RewardWeights()).query["rung_rewards"]
    found = read_decision_task(model, tiny_processor, task, stack, SCALING, RewardWeights()).query["rung_rewards"]
    assert torch.allclose(found[0], base[0])
    assert not torch.allclose(found[1], base[1])


# -- steps -------------------------------------------------------------------------------------------------------------


def test_many_categories_at_once_have_the_gradients_of_torch_func(model, decisions, monkeypatch) -> None:
    """One value step side by side against `vmap(grad)` over single categories."""
    monkeypatch.setattr(policy_inner_loop, "LARGEST_SLOPE", 0.0)  # no clip
    start, batch = start_of(model), decisions[13].support
    begin = {name: tensor * torch.tensor([1.0, 1.5, 0.5]).reshape(3, 1, 1) for name, tensor in repeat(start, 3).items()}
    values = {name: tensor for name, tensor in begin.items() if "value_head" in name}

    def loss(own: Batch, rows: Batch) -> torch.Tensor:
        single = ({name: tensor[None] for name, tensor in one.items()} for one in (own, rows))
        own, rows = single
        return value_losses(head_of(model, own, SCALING), rows, STEPS)[0]

    expected = vmap(grad(loss))(values, batch)
    found = adapt_decisions(
        model, begin, batch, rates_of(start), replace(STEPS, value_steps=1, policy_steps=0), SCALING
    )
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], begin[name] - RATE * slope, rtol=1e-4, atol=1e-6)
        assert slope.abs().max() > 0, name
    assert all(torch.equal(found[name], begin[name]) for name in begin if name not in expected)


def test_a_category_does_not_depend_on_its_company(model, decisions) -> None:
    start = start_of(model)
    together = adapt_decisions(model, repeat(start, 3), decisions[13].support, rates_of(start), STEPS, SCALING)
    one = {name: tensor[1:2] for name, tensor in decisions[13].support.items()}
    alone = adapt_decisions(model, repeat(start, 1), one, rates_of(start), STEPS, SCALING)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name][1], tensor[0], rtol=1e-4, atol=1e-6)
        assert not torch.equal(tensor[0], start[name])


def test_values_are_adapted_before_the_policy_and_it_is_built_on_them(model, decisions) -> None:
    start = start_of(model)
    batch, rates = decisions[13].support, rates_of(start)
    without = adapt_decisions(
        model, repeat(start, 3), batch, rates, replace(STEPS, value_steps=0, policy_steps=1), SCALING
    )
    with_values = adapt_decisions(
        model, repeat(start, 3), batch, rates, replace(STEPS, value_steps=3, policy_steps=1), SCALING
    )
    key = "decision_head.policy_head.head_out.lora_B"
    assert not torch.allclose(with_values[key], without[key], rtol=1e-5, atol=0)
    name = "decision_head.value_head.head_out.lora_B"
    assert torch.equal(without[name][0], start[name])


def test_the_advantage_term_tells_tasks_apart_that_differ_in_their_advantages_alone(model, decisions) -> None:
    silent_value_(model)
    batch = decisions[13].support
    other = {**batch, "rung_rewards": 3 * batch["rung_rewards"] + 0.05}
    for weight, are_told_apart in ((0.0, False), (1.0, True)):
        steps = replace(VALUES_OFF, advantage_weight=weight)
        start = start_of(model, steps)
        start["decision_head.value_head.head_out.lora_B"].zero_()  # states are worth nothing: advantages are rewards
        first, second = (
            adapt_decisions(model, repeat(start, 3), one, rates_of(start), steps, SCALING) for one in (batch, other)
        )
        key = "decision_head.policy_head.head_in.lora_B"
        assert not torch.allclose(first[key], repeat(start, 3)[key], atol=1e-6)
        assert torch.allclose(first[key], second[key], rtol=1e-3, atol=1e-6) != are_told_apart


def test_a_steep_category_takes_a_step_of_bounded_length(model, decisions) -> None:
    start, steep = start_of(model), {**decisions[13].support}
    steep["rung_rewards"] = 1e4 * steep["rung_rewards"]
    one = replace(STEPS, value_steps=1, policy_steps=0)
    found = adapt_decisions(model, repeat(start, 3), steep, rates_of(start), one, SCALING)
    moved = torch.stack([(found[name] - repeat(start, 3)[name]).flatten(1).norm(dim=1) for name in start]).norm(dim=0)
    torch.testing.assert_close(moved, torch.full((3,), RATE), rtol=1e-3, atol=0)


def test_action_values_fixed_once_are_the_bases_own_whatever_adapter_is_in_place(model, decisions) -> None:
    task = decisions[13]
    expected = action_values(head_of(model, {}, SCALING), task.support, 0.9)
    wrapped = copy.deepcopy(model)
    add_adapter(wrapped, "other", LoraArguments(2, 4.0, 0.5))
    for network in (model, wrapped):
        fixed = fix_action_values(network, task, 0.9)
        torch.testing.assert_close(fixed.support["action_values"], expected, rtol=1e-5, atol=1e-6)
    moved = {name: tensor + 1 for name, tensor in repeat(start_of(model), 3).items() if "value_head" in name}
    head = head_of(model, moved, SCALING)
    assert torch.equal(action_values(head, fixed.support, 0.9), fixed.support["action_values"])
    assert not torch.allclose(action_values(head, task.support, 0.9), expected)


def test_steps_on_the_whole_ladder_raise_the_chance_of_the_best_rung_logged_or_not(model, decisions) -> None:
    silent_value_(model)
    steps = DecisionSteps(value_steps=0, policy_steps=20, advantage_weight=0.0, discount=0.0, expectation="ladder")
    start, batch = start_of(model, steps), decisions[13].support
    best = batch["rung_rewards"].argmax(-1, keepdim=True)
    is_logged = best.squeeze(-1) == batch["logged_actions"] % model.config.num_rungs
    assert is_logged[batch["decision_mask"]].float().mean() < 0.2
    adapted = adapt_decisions(model, repeat(start, 3), batch, rates_of(start), steps, SCALING)
    before, after = (
        category_mean(policy_of_rungs(head_of(model, stack, SCALING), batch).gather(-1, best).squeeze(-1), batch)
        for stack in (repeat(start, 3), adapted)
    )
    assert (after > before + 0.1).all()
    with pytest.raises(ValueError, match="logged or ladder"):
        DecisionSteps(expectation="both")


def test_without_visible_weeks_the_start_comes_back(model, decisions) -> None:
    start = start_of(model)
    found = adapt_decisions(model, repeat(start, 3), decisions[0].support, rates_of(start), STEPS, SCALING)
    assert all(torch.equal(tensor, repeat(start, 3)[name]) for name, tensor in found.items())


# -- the meta-gradient -------------------------------------------------------------------------------------------------


def test_the_meta_gradient_is_the_numerical_derivative(model, decisions) -> None:
    """Of all that the policy's own steps move; targets of values are cut off on purpose."""
    doubled = {
        key: value.double() if value.dtype == torch.float32 else value
        for key, value in join_task(with_regret(decisions), torch.arange(3)).items()
    }
    model.double()
    learner = learner_of(model).double()
    learner(**doubled).loss.backward()
    names = [*learner.names]
    for name, parameter in zip(names, learner.start, strict=True):
        if "value_head" in name:
            continue
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = (parameter.grad * direction).sum().item()
        assert found == pytest.approx(slope_along(learner, parameter, direction, doubled), rel=0.01), name
        assert found != 0, name
    own = torch.tensor([float("policy_head" in name or name == ADVANTAGE_HEAD) for name in names], dtype=torch.float64)
    found = (learner.log_rates.grad * own).sum().item()
    assert found == pytest.approx(slope_along(learner, learner.log_rates, own, doubled, 1e-4), rel=0.01)


def slope_along(learner, parameter, direction, batch: Batch, shift: float = 1e-3) -> float:
    """The heads answer in single precision whatever goes in: differences may not be too small."""
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * shift * direction)
        losses.append(learner(**batch).loss.item())
        with torch.no_grad():
            parameter.sub_(sign * shift * direction)
    return (losses[0] - losses[1]) / (2 * shift)


def test_in_first_order_steps_are_constants_and_the_advantage_head_learns_nothing(model, decisions) -> None:
    batch = join_task(with_regret(decisions), torch.arange(3))
    slopes = {}
    for order in (1, 2):
        learner = learner_of(model, order=order)
        learner(**batch).loss.backward()
        slopes[order] = dict(zip(learner.names, (one.grad for one in learner.start), strict=True))
    assert torch.count_nonzero(slopes[1][ADVANTAGE_HEAD]) == 0
    assert torch.count_nonzero(slopes[2][ADVANTAGE_HEAD]) > 0
    key = "decision_head.policy_head.head_out.lora_B"
    assert not torch.allclose(slopes[1][key], slopes[2][key], rtol=1e-3)


def test_a_start_without_the_term_has_no_advantage_head(model) -> None:
    assert ADVANTAGE_HEAD in start_of(model)
    assert ADVANTAGE_HEAD not in start_of(model, replace(STEPS, advantage_weight=0.0))
    with pytest.raises(ValueError, match="0 or more"):
        DecisionSteps(advantage_weight=-1.0)


# -- reptile -----------------------------------------------------------------------------------------------------------


def reptile_of(model: PricingFMForPolicy, steps: DecisionSteps = STEPS) -> PolicyMetaLearner:
    return PolicyMetaLearner(model, start_of(model, steps), steps, RATE, 0.5, SCALING, is_reptile=True)


def walked(model: PricingFMForPolicy, start: Batch, batch: Batch, query: Batch) -> Batch:
    """Where one category goes by plain steps on both sides of its task, values first."""
    own, advantages = {name: tensor[None].clone() for name, tensor in start.items()}, None
    for side in ("value_head", "policy_head", "policy_head"):
        leaves = {name: tensor.requires_grad_() for name, tensor in own.items()}
        head = head_of(model, leaves, SCALING)
        if side == "value_head":
            loss = value_losses(head, batch, STEPS) + value_losses(head, as_decided(query), STEPS)
        else:
            advantages = ladder_advantages(head, batch, STEPS) if advantages is None else advantages
            loss = policy_losses(head, leaves[ADVANTAGE_HEAD], batch, STEPS, advantages)
            loss = loss + query_policy_losses(head, query, STEPS)
        moved = [name for name in own if side in name or (side == "policy_head" and name == ADVANTAGE_HEAD)]
        slopes = torch.autograd.grad(loss.sum(), [leaves[name] for name in moved])
        length = torch.cat([slope.flatten() for slope in slopes]).norm()
        shorter = min(1.0, 1.0 / float(length + 1e-6))
        own = {name: tensor.detach() for name, tensor in own.items()}
        own |= {name: own[name] - RATE * shorter * slope for name, slope in zip(moved, slopes, strict=True)}
    return own


def test_reptiles_outer_step_leads_to_the_mean_of_where_categories_go(model, decisions) -> None:
    """By hand: at the rate of the inner steps, the gradient's step ends exactly there."""
    task, learner = fix_action_values(model, with_regret(decisions), STEPS.discount), reptile_of(model)
    begin = learner.initial()
    output = learner(**join_task(task, torch.arange(3)))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    ends = []
    for category in range(3):
        chosen = select_categories(task, torch.tensor([category]))
        ends.append(walked(model, begin, chosen.support, chosen.query))
    for name, parameter in zip(learner.names, learner.start, strict=True):
        mean = torch.cat([end[name] for end in ends]).mean(0)
        torch.testing.assert_close(parameter - RATE * parameter.grad, mean, rtol=1e-4, atol=1e-6)
        assert (mean - begin[name]).abs().max() > 1e-5, name
    assert not learner.log_rates.requires_grad


def test_without_visible_weeks_reptile_learns_from_the_query_alone(model, decisions) -> None:
    task = with_regret(decisions)
    support = {name: tensor[:, :0] for name, tensor in task.support.items()}
    batch = join_task(replace(task, support=support), torch.arange(3))
    learner = reptile_of(model)
    learner(**batch).loss.backward()
    slopes = dict(zip(learner.names, (one.grad for one in learner.start), strict=True))
    start = {name: tensor.requires_grad_() for name, tensor in repeat(learner.initial(), 3).items()}
    loss = query_policy_losses(head_of(model, start, SCALING), task.query, STEPS).mean()
    key = "decision_head.policy_head.head_out.lora_B"
    (expected,) = torch.autograd.grad(loss, [start[key]])
    torch.testing.assert_close(slopes[key], expected.sum(0), rtol=1e-4, atol=1e-7)
    assert expected.abs().max() > 0


# -- runs --------------------------------------------------------------------------------------------------------------


def loop_into(folder: Path, steps: int) -> tuple[OptimArguments, LoopArguments, OutputArguments]:
    optim = OptimArguments(learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, weight_decay=0.0)
    return optim, LoopArguments(max_steps=steps), OutputArguments(str(folder), checkpoint_every=0, tracker="none")


def test_meta_training_lowers_the_regret_of_new_categories_and_leaves_the_base(model, decisions, tmp_path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task = with_regret(decisions)
    # One rung is the best everywhere: what can be learned is the same for every category.
    regret = (task.query["log_rungs"] - task.query["log_rungs"][..., 20:21]).abs()
    known = {13: replace(task, query={**task.query, "rung_regret": regret})}
    meta = MetaArguments("macaw", inner_rate=RATE, warm_steps=10, categories_per_step=2)
    result = meta_train_policy(model, start_of(model), known, STEPS, meta, 1 / 3, SCALING, *loop_into(tmp_path, 20))
    assert result.losses["adapted"][13] < 0.7 * result.losses["base"][13]
    assert len({round(float(rate), 6) for rate in result.rates.values()}) > len(result.rates) / 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_joint_learning_trains_heads_and_the_adapters_of_the_batch(model, decisions) -> None:
    numbered = number_categories(decisions)
    assert list(numbered) == [13]
    learner = JointPolicyLearner(model, update_of(model), 3, STEPS, SCALING)
    learner(**join_task(numbered[13], torch.tensor([0, 2]))).loss.backward()
    assert all(torch.count_nonzero(parameter.grad) for parameter in learner.head.parameters())
    for name, parameter in zip(learner.names, learner.adapters, strict=True):
        reached = [bool(torch.count_nonzero(parameter.grad[category])) for category in range(3)]
        assert reached == [True, False, True], name


def test_merged_heads_are_the_shared_ones_and_the_mean_of_the_adapters(model, decisions) -> None:
    learner = JointPolicyLearner(model, update_of(model), 3, STEPS, SCALING)
    with torch.no_grad():
        for parameter in learner.adapters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    merged, own = learner.merged(), dict(zip(learner.names, learner.adapters, strict=True))
    mean = (
        SCALING * sum(own["policy_head.head_in.lora_B"][c] @ own["policy_head.head_in.lora_A"][c] for c in range(3)) / 3
    )
    torch.testing.assert_close(
        merged.policy_head.head_in.weight, learner.head.policy_head.head_in.weight + mean, rtol=1e-5, atol=1e-6
    )
    network = with_heads(model, merged)
    changed = {n for n, tensor in network.state_dict().items() if not torch.equal(tensor, model.state_dict()[n])}
    assert changed
    assert all(name.startswith("decision_head.") for name in changed)


def test_the_policy_of_the_merged_heads_is_better_than_the_one_before(model, decisions, tmp_path) -> None:
    """From logs alone: by the cross-entropy to the advantage-weighted target on a category that it has not met."""
    steps = replace(STEPS, discount=0.5)
    result = learn_jointly(model, update_of(model), decisions, steps, 2, 1 / 3, SCALING, *loop_into(tmp_path, 40))
    assert result.losses["joint"][13] < result.losses["base"][13]
    with pytest.raises(ValueError, match="3 categories were found and 5 are needed"):
        learn_jointly(model, update_of(model), decisions, steps, 2, 0.2, SCALING, *loop_into(tmp_path / "no", 1))
