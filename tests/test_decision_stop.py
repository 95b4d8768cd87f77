"""How many steps a category's decision side takes: later weeks judge, by what prices earn, each category for itself."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from pricing_fm.adapters.stack import repeat
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import SeriesStore
from pricing_fm.training.arguments import OptimArguments
from pricing_fm.training.decision_stop import (
    adapt_decision_task,
    fewest_good_steps,
    policy_shortfalls,
)
from pricing_fm.training.decision_tasks import read_decision_task
from pricing_fm.training.few_shot_tasks import (
    FewShotTask,
    TaskArguments,
    build_task,
    find_categories,
    select_categories,
)
from pricing_fm.training.inner_loop import held_losses
from pricing_fm.training.policy_inner_loop import (
    DecisionSteps,
    adapt_decisions,
    decision_losses,
    decision_path,
    fix_action_values,
    head_of,
)
from pricing_fm.training.policy_meta import unpromoted_log_probs
from tests.policy_artifacts import quick_collections
from tests.test_objectives_structured_q import silent_value_
from tests.test_policy_meta import RATE, SCALING, STEPS, start_of

# Towards the rungs that structured values prefer, logged or not: what such steps do is known beforehand.
GOOD, BAD = 20, 42
TOWARDS_VALUE = DecisionSteps(value_steps=0, policy_steps=3, advantage_weight=0.0, discount=0.0, expectation="ladder")


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture
def model(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return silent_value_(build_tiny_model(PricingFMForPolicy).requires_grad_(False))


def read(model: PricingFMForPolicy, store: SeriesStore, processor, weeks: int = 13) -> FewShotTask:
    task = build_task(
        store, find_categories(store, 13, 4, 0), processor, weeks, TaskArguments(weeks=(weeks,), query_weeks=4), 8
    )
    decisions = read_decision_task(model, processor, task, {}, SCALING, RewardWeights())
    return fix_action_values(model, decisions, 0.0)


@pytest.fixture
def task(model, tiny_store, tiny_processor) -> FewShotTask:
    return read(model, tiny_store, tiny_processor)


def with_lessons(task: FewShotTask, *wrong: int) -> FewShotTask:
    """Prices are best at one rung; in the weeks before the held ones of some categories it seems to be another one."""
    parts = {}
    for name in ("learned", "held", "support"):
        values = torch.zeros_like(getattr(task, name)["action_values"])
        for category in range(3):
            best = BAD if name == "learned" and category in wrong else GOOD
            values[category] = -0.01 * (torch.arange(values.shape[-1]) - best).abs()
        parts[name] = {**getattr(task, name), "action_values": values}
    return replace(task, **parts)


def begin(model: PricingFMForPolicy, steps: DecisionSteps, rate: float) -> tuple[dict, dict]:
    """Start of three categories, and the rates of their steps."""
    start = start_of(model, steps)
    return repeat(start, 3), {name: torch.tensor(rate) for name in start}


def test_steps_that_help_are_all_taken_and_where_they_do_harm_or_prove_nothing_none_is(model, task) -> None:
    start, rates = begin(model, TOWARDS_VALUE, 0.3)
    mixed = with_lessons(task, 1)
    path = list(decision_path(model, start, mixed.learned, rates, TOWARDS_VALUE, SCALING))
    first, last = (policy_shortfalls(model, stack, mixed.held, SCALING).mean(1) for stack in (path[0], path[-1]))
    assert (last < first).tolist() == [True, False, True]
    found = adapt_decision_task(model, start, mixed, rates, TOWARDS_VALUE, SCALING, stops_early=True)
    assert found.steps.tolist() == [3, 0, 0]  # the last category's gain is that of one item
    whole = adapt_decisions(model, start, mixed.support, rates, TOWARDS_VALUE, SCALING)
    for name, tensor in found.stack.items():
        assert torch.equal(tensor[0], whole[name][0])
        assert torch.equal(tensor[1:], start[name][1:])
    assert any(not torch.equal(found.stack[name][0], start[name][0]) for name in start)
    late = adapt_decision_task(model, start, mixed, rates, TOWARDS_VALUE, SCALING, stops_early=False)
    assert late.steps.tolist() == [3, 3, 3]
    assert all(torch.equal(late.stack[name], tensor) for name, tensor in whole.items())


def test_steps_are_taken_where_their_gain_is_beyond_doubt() -> None:
    nothing = [torch.nan]
    cases = {
        "harm": ([[0.1, 0.1, 0.2], [0.2, 0.2, 0.2], [0.3, 0.2, 0.3]], 0),
        "every step helps every item": ([[0.4, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.0, 0.1]], 2),
        "the second step undoes the first": ([[0.4, 0.2, 0.3], [0.3, 0.1, 0.2], [0.4, 0.1, 0.2]], 1),
        # Mean gain 0.1, standard error 0.1.
        "one item of three gains": ([[0.3, 0.3, 0.3], [0.0, 0.3, 0.3], [0.0, 0.3, 0.3]], 0),
        "an item without a decision has no say": (
            [[0.4, 0.2, *nothing], [0.3, 0.1, *nothing], [0.4, 0.2, *nothing]],
            1,
        ),
        "one item": ([[0.4, *nothing * 2], [0.3, *nothing * 2], [0.2, *nothing * 2]], 0),
        "nothing": ([nothing * 3] * 3, 0),
    }
    shortfalls = torch.stack([torch.tensor(case) for case, _ in cases.values()], dim=1)
    assert dict(zip(cases, fewest_good_steps(shortfalls).tolist(), strict=True)) == {
        name: steps for name, (_, steps) in cases.items()
    }


def test_all_categories_at_once_are_each_of_them_alone_step_by_step(model, task) -> None:
    """Pitfall 24: against a plain loop over categories, numbers of steps and items."""
    steps = replace(TOWARDS_VALUE, value_steps=1, advantage_weight=0.01)
    (start, rates), mixed, taken = begin(model, steps, 1.0), with_lessons(task, 1), []
    found = adapt_decision_task(model, start, mixed, rates, steps, SCALING, stops_early=True)
    for category in range(3):
        one = select_categories(mixed, torch.tensor([category]))
        own = {name: tensor[category : category + 1] for name, tensor in start.items()}
        losses, ends = [], []
        for number in range(5):
            few = replace(steps, value_steps=min(number, 1), policy_steps=max(number - 1, 0))
            moved = adapt_decisions(model, own, one.learned, rates, few, SCALING)
            losses.append(policy_shortfalls(model, moved, one.held, SCALING)[0].numpy())
            ends.append(adapt_decisions(model, own, one.support, rates, few, SCALING))
        best = losses[int(np.argmin([items.mean() for items in losses]))]
        doubts = [2 * (items - best).std(ddof=1) / len(items) ** 0.5 for items in losses]
        good = [(items - best).mean() <= doubt for items, doubt in zip(losses, doubts, strict=True)]
        taken.append(good.index(True))
        for name, tensor in ends[taken[-1]].items():
            torch.testing.assert_close(found.stack[name][category], tensor[0], rtol=1e-5, atol=1e-5)
    assert found.steps.tolist() == taken
    assert min(taken) == 0
    assert max(taken) > 1


def test_the_shortfall_is_what_likeliest_prices_miss_of_the_best(model, task) -> None:
    held = task.held
    log_probs, values = unpromoted_log_probs(head_of(model, {}, SCALING), held), held["action_values"]
    found = policy_shortfalls(model, {}, held, SCALING)
    for category in range(3):
        for row in range(found.shape[1]):
            decided = held["decision_mask"][category, row].nonzero()[:, 0].tolist()
            assert len(decided) == 3
            missed = [
                values[category, row, h].max() - values[category, row, h, log_probs[category, row, h].argmax()]
                for h in decided
            ]
            assert found[category, row] == pytest.approx(float(sum(missed)) / 3, rel=1e-4)
    assert found.max() > 0
    filled = {**held, "loss_weights": torch.tensor([1.5, 1.5, 1.0, 0.0]).expand(3, 4)}
    assert policy_shortfalls(model, {}, filled, SCALING).isnan().all(0).tolist() == [False, False, False, True]


def test_the_weeks_that_judge_lie_behind_all_that_is_learned_from(model, task, tiny_store, tiny_processor) -> None:
    """Other sales and prices in the held weeks: the steps before them are the same, and what judges them is not."""
    values, held = tiny_store.values.copy(), 3
    for category in find_categories(tiny_store, 13, 4, 0):
        for item in category.items:
            first = int(tiny_store.frequency.locate(np.asarray(tiny_store.timestamps[tiny_store.offsets[item]]))[0])
            rows = tiny_store.offsets[item] + np.arange(category.origin - held, category.origin) - first
            values[rows] = 1.1 * values[rows]
    other = read(model, replace(tiny_store, values=values), tiny_processor)
    start, rates = begin(model, STEPS, RATE)
    first, second = (adapt_decisions(model, start, one.learned, rates, STEPS, SCALING) for one in (task, other))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    judged = [policy_shortfalls(model, first, one.held, SCALING) for one in (task, other)]
    assert not torch.allclose(judged[0], judged[1], rtol=1e-4)
    support = [adapt_decisions(model, start, one.support, rates, STEPS, SCALING) for one in (task, other)]
    assert any(not torch.equal(support[0][name], support[1][name]) for name in start)


@pytest.mark.parametrize("weeks", [3, 4])
def test_one_held_week_judges_where_few_are_visible(model, tiny_store, tiny_processor, weeks: int) -> None:
    few = read(model, tiny_store, tiny_processor, weeks)
    assert (few.held["decision_mask"].sum(-1) == 1).all()
    start, rates = begin(model, TOWARDS_VALUE, 1.0)
    found = adapt_decision_task(model, start, with_lessons(few), rates, TOWARDS_VALUE, SCALING, stops_early=True)
    harm = adapt_decision_task(model, start, with_lessons(few, 0), rates, TOWARDS_VALUE, SCALING, stops_early=True)
    assert found.steps[0] > 0
    assert harm.steps[0] == 0
    assert found.steps[1:].tolist() == harm.steps[1:].tolist()


def test_without_visible_weeks_the_start_comes_back(model, tiny_store, tiny_processor) -> None:
    start, rates = begin(model, TOWARDS_VALUE, 1.0)
    for stops_early in (True, False):
        nothing = read(model, tiny_store, tiny_processor, 0)
        found = adapt_decision_task(model, start, nothing, rates, TOWARDS_VALUE, SCALING, stops_early)
        assert found.steps.tolist() == [0, 0, 0]
        assert all(torch.equal(tensor, start[name]) for name, tensor in found.stack.items())


def test_a_yardstick_that_steps_move_is_refused(model, task) -> None:
    held = {name: tensor for name, tensor in task.held.items() if name != "action_values"}
    with pytest.raises(ValueError, match="fix_action_values"):
        policy_shortfalls(model, {}, held, SCALING)


def test_ordinary_steps_of_decisions_are_judged_by_the_same_shortfall(model, task) -> None:
    start, optim = start_of(model, TOWARDS_VALUE), OptimArguments(weight_decay=0.0)
    rates, losses = {name: torch.tensor(0.1) for name in start}, decision_losses(TOWARDS_VALUE)
    given = (model, repeat(start, 3), with_lessons(task, 1), rates, 3, optim, SCALING, losses)
    judged = held_losses(*given, policy_shortfalls)
    assert judged.shape == (4, 3, 4)
    assert torch.equal(judged[0], policy_shortfalls(model, repeat(start, 3), given[2].held, SCALING))
    gains = judged[0].mean(1) - judged.mean(2).min(0).values
    assert gains[[0, 2]].min() > 0.02
    assert gains[1] < 0.01
