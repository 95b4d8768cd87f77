"""Many categories adapted at once are the same numbers as one after another, through PEFT and the training loop."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pricing_fm.adapters import LoraArguments, adapter_parameters, add_adapter
from pricing_fm.adapters.stack import base_name, from_adapter, repeat, updated
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.training.adapt import DemandLearner
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.few_shot_tasks import FewShotTask, TaskArguments, build_task, find_categories, flatten_rows
from pricing_fm.training.inner_loop import adapt_stack, adapt_task, category_losses, choose_steps, gradients
from pricing_fm.training.loop import train
from tests.policy_artifacts import quick_collections

LORA = LoraArguments(lora_rank=2, lora_alpha=4.0, lora_start=0.1)
SCALING, STEPS, RATE = 2.0, 3, 1e-2
OPTIM = OptimArguments(
    learning_rate=RATE, minimum_learning_rate_ratio=1.0, warmup_steps=0, weight_decay=0.0, ema_decay=0.0
)


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture
def model(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return build_tiny_model(PricingFMForPolicy).requires_grad_(False)


@pytest.fixture
def task(tiny_store, tiny_processor) -> FewShotTask:
    return build_task(
        tiny_store, find_categories(tiny_store, 13, 4, 0), tiny_processor, 13, TaskArguments(query_weeks=4), 8, rows=5
    )


def demand_start(model: PricingFMForPolicy, seed: int = 0) -> dict[str, torch.Tensor]:
    network = add_adapter(copy.deepcopy(model), "one", LORA, seed=seed)
    return {k: v for k, v in from_adapter(adapter_parameters(network, "one")).items() if "decision_head" not in k}


def rates_of(start: dict[str, torch.Tensor], rate: float = RATE) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(rate) for name in start}


class OneBatch:
    """The same windows in every step."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        self.fixed = batch

    def batch(self, *_: int) -> dict[str, torch.Tensor]:
        return self.fixed


def test_stacked_updates_are_pefts_adapters_category_by_category(model, task: FewShotTask) -> None:
    starts = [demand_start(model, seed) for seed in range(3)]
    stack = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    losses = category_losses(model, stack, task.query, SCALING)
    for category in range(3):
        network = add_adapter(copy.deepcopy(model), "one", LORA, seed=category)
        for key, parameter in adapter_parameters(network, "one").items():
            if "decision_head" in key:
                parameter.data.zero_()
        rows = {name: tensor[category] for name, tensor in task.query.items()}
        alone = network.get_base_model()
        torch.testing.assert_close(
            alone.demand_loss(alone.encode(rows), rows)[0].mean(), losses[category], rtol=1e-5, atol=1e-6
        )
    assert losses.unique().numel() == 3


def test_many_categories_at_once_end_where_adapting_one_after_another_ends(model, task, tmp_path: Path) -> None:
    start = demand_start(model)
    together = adapt_stack(
        model, repeat(start, 3), task.support, rates_of(start), torch.full((3,), STEPS), OPTIM, SCALING
    )
    for category in range(3):
        alone = copy.deepcopy(model)
        network = add_adapter(alone, "one", LORA, seed=0)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_("lora_" in name and "decision_head" not in name)
        rows = {name: tensor[category] for name, tensor in task.support.items()}
        counts = rows.pop("loss_weights") > 0  # the plain path knows no rows that only fill up
        windows = OneBatch({name: tensor[counts] for name, tensor in rows.items()})
        output = OutputArguments(output_dir=str(tmp_path / str(category)), checkpoint_every=0, tracker="none")
        train(DemandLearner(network, alone), windows, OPTIM, LoopArguments(max_steps=STEPS), output)
        for key, parameter in adapter_parameters(network, "one").items():
            if "decision_head" not in key:
                found = together.stack[base_name(key)][category]
                torch.testing.assert_close(found, parameter.detach(), rtol=1e-5, atol=1e-5)
                # What pools a category answers to set prices alone, and a log holds none.
                assert torch.equal(found, start[base_name(key)]) == ("pooling_head" in key)


def test_a_category_does_not_depend_on_its_company(model, task: FewShotTask) -> None:
    start = demand_start(model)
    _, together = gradients(model, repeat(start, 3), task.support, SCALING)
    one = {name: tensor[1:2] for name, tensor in task.support.items()}
    _, alone = gradients(model, repeat(start, 1), one, SCALING)
    for name in start:
        torch.testing.assert_close(together[name][1], alone[name][0], rtol=1e-4, atol=1e-6)


def test_rows_that_only_fill_up_change_no_loss(model, task: FewShotTask) -> None:
    rows = {name: tensor.clone() for name, tensor in task.query.items()}
    rows["future_values"][:, 4:] *= 7
    assert torch.equal(category_losses(model, {}, rows, SCALING), category_losses(model, {}, task.query, SCALING))
    rows["future_values"][:, 3:] *= 7
    assert not torch.equal(category_losses(model, {}, rows, SCALING), category_losses(model, {}, task.query, SCALING))


def test_each_category_stops_after_its_own_steps(model, task: FewShotTask) -> None:
    start = demand_start(model)
    taken = [
        adapt_stack(model, repeat(start, 3), task.support, rates_of(start), torch.tensor(steps), OPTIM, SCALING)
        for steps in ([0, 1, 3], [3, 3, 3])
    ]
    for name in start:
        assert torch.equal(taken[0].stack[name][0], start[name])
        torch.testing.assert_close(taken[0].stack[name][2], taken[1].stack[name][2])
    assert any(not torch.equal(taken[0].stack[name][1], taken[1].stack[name][1]) for name in start)


def test_the_held_weeks_choose_the_steps_and_none_where_steps_do_harm(model, task: FewShotTask) -> None:
    start = demand_start(model)
    assert choose_steps(model, repeat(start, 3), task, rates_of(start, 10.0), 2, OPTIM, SCALING).tolist() == [0, 0, 0]
    small = choose_steps(model, repeat(start, 3), task, rates_of(start, 1e-3), 3, OPTIM, SCALING)
    assert small.max() > 0
    adapted = adapt_task(model, repeat(start, 3), task, rates_of(start, 1e-3), 3, OPTIM, SCALING)
    assert torch.equal(adapted.steps, small)
    late = adapt_task(model, repeat(start, 3), task, rates_of(start, 1e-3), 3, OPTIM, SCALING, stops_early=False)
    assert late.steps.tolist() == [3, 3, 3]


def test_a_full_update_is_the_product_of_a_low_rank_one(model, task: FewShotTask) -> None:
    low = repeat(demand_start(model), 3)
    linears = {name.rpartition(".")[0] for name in low}
    full = {f"{name}.full": SCALING * low[f"{name}.lora_B"] @ low[f"{name}.lora_A"] for name in linears}
    torch.testing.assert_close(
        category_losses(model, full, task.query, SCALING), category_losses(model, low, task.query, SCALING)
    )


def test_the_model_stays_as_it_was(model, task: FewShotTask) -> None:
    rows, before = flatten_rows(task.query), {k: v.clone() for k, v in model.state_dict().items()}
    plain = model.demand_loss(model.encode(rows), rows)[0]
    network = updated(model, repeat(demand_start(model), 3), SCALING)
    assert not torch.equal(network.demand_loss(network.encode(rows), rows)[0], plain)
    assert torch.equal(model.demand_loss(model.encode(rows), rows)[0], plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_updates_of_another_model_are_refused(model) -> None:
    with pytest.raises(ValueError, match="no linear 'elsewhere'"):
        updated(model, {"elsewhere.full": torch.zeros(1)}, 1)
    half = {name: tensor[None] for name, tensor in demand_start(model).items() if name.endswith("lora_A")}
    with pytest.raises(ValueError, match="one half"):
        updated(model, half, SCALING)


def test_updates_replace_an_adapter_that_peft_has_in_place(model, task: FewShotTask) -> None:
    stack = repeat(demand_start(model, seed=1), 3)
    expected = category_losses(model, stack, task.query, SCALING)
    wrapped = copy.deepcopy(model)
    add_adapter(wrapped, "other", LORA, seed=7)
    assert not torch.allclose(category_losses(wrapped, {}, task.query, SCALING), expected)
    torch.testing.assert_close(category_losses(wrapped, stack, task.query, SCALING), expected)
