"""A mixed batch answers row by row as PEFT does category by category, and nothing is switched for it."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import PreTrainedModel

from pricing_fm.adapters import (
    AdapterWeights,
    LoraArguments,
    activate_adapter,
    add_adapter,
    base_tensors,
    merge_weights,
    read_weights,
    stack_adapters,
)
from pricing_fm.artifact import tensor_fingerprint
from pricing_fm.models import PricingFMForPolicy

NAMES = ("cat-0001", "cat-0010", "cat-0100")
# An alpha that is no multiple of the rank: scaling first or last rounds differently.
ARGUMENTS = LoraArguments(lora_rank=3, lora_alpha=7.0, lora_start=0.1)


@pytest.fixture
def base(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return build_tiny_model(PricingFMForPolicy)


@pytest.fixture
def batch(tiny_batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Twelve items with two price paths each."""
    paths = torch.stack([torch.full((12, 4), 0.1), torch.full((12, 4), -0.2)], dim=1)
    return tiny_batch | {"candidate_prices": paths}


def weights_of(base: PricingFMForPolicy, arguments: LoraArguments = ARGUMENTS) -> dict[str, AdapterWeights]:
    return {
        name: read_weights(add_adapter(copy.deepcopy(base), name, arguments, seed=seed), name)
        for seed, name in enumerate(NAMES)
    }


@torch.no_grad()
def answers(model: PricingFMForPolicy, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Everything that the heads say, item by item."""
    encoded = model.encode(batch)
    demand, decided = model.demand(encoded, batch), model.decide(encoded, batch)
    found = {"mean": demand.mean, "quantiles": demand.quantile_values, "elasticity": demand.elasticity}
    found |= {"behavior": decided.behavior_log_probs, "policy": decided.policy_log_probs}
    return {name: value for name, value in (found | {"values": decided.state_values}).items() if value is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Within 1e-6 of each kind of answer's own size, or of one if that is larger."""
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-6 * value.abs().max().clamp(min=1.0), name


def take(batch: dict[str, torch.Tensor], rows: list[int]) -> dict[str, torch.Tensor]:
    return {name: value[rows] for name, value in batch.items()}


@pytest.mark.parametrize("price_response", ["monotone", "free"])
def test_a_mixed_batch_equals_peft_category_by_category(
    build_tiny_model: Callable[..., PricingFMForPolicy], batch: dict[str, torch.Tensor], price_response: str
) -> None:
    base = build_tiny_model(PricingFMForPolicy, price_response=price_response)
    weights = weights_of(base)
    owners = [(*NAMES, None)[row % 4] for row in range(12)]
    mixed = answers(stack_adapters(base, [weights.get(name) for name in owners]), batch)
    peft = copy.deepcopy(base)
    for seed, name in enumerate(NAMES):
        peft = add_adapter(peft, name, ARGUMENTS, seed=seed)
    plain = answers(base, batch)
    for name in (*NAMES, None):
        activate_adapter(peft, name)
        rows = [row for row, owner in enumerate(owners) if owner == name]
        expected = answers(peft.get_base_model(), batch)
        assert_close(take(mixed, rows), take(expected, rows))
        apart = [not torch.allclose(take(expected, rows)[key], plain[key][rows], rtol=1e-3) for key in plain]
        assert all(apart) == (name is not None)


def test_a_row_without_an_adapter_is_the_base_to_the_last_bit(
    base: PricingFMForPolicy, batch: dict[str, torch.Tensor]
) -> None:
    weights = weights_of(base)["cat-0001"]
    mixed = answers(stack_adapters(base, [weights, None] * 6), batch)
    plain = answers(base, batch)
    for name, value in plain.items():
        assert torch.equal(mixed[name][1::2], value[1::2])
        assert not torch.equal(mixed[name][::2], value[::2])
    assert stack_adapters(base, [None] * 12) is base


def test_a_row_answers_the_same_in_any_company(base: PricingFMForPolicy, batch: dict[str, torch.Tensor]) -> None:
    first, second, third = weights_of(base).values()
    alone = answers(stack_adapters(base, [first] * 12), batch)
    for others in ([second] * 11, [second, third, None] * 3 + [first, first]):
        mixed = answers(stack_adapters(base, [first, *others]), batch)
        assert all(torch.equal(mixed[name][0], value[0]) for name, value in alone.items())


def test_stacking_leaves_the_base_and_the_adapters_as_they_are(
    base: PricingFMForPolicy, batch: dict[str, torch.Tensor]
) -> None:
    weights = weights_of(base)
    before = tensor_fingerprint(base_tensors(base)), {name: own.values.clone() for name, own in weights.items()}
    plain, modules = answers(base, batch), [type(module) for module in base.modules()]
    network = stack_adapters(base, list(weights.values()) * 4)
    answers(network, batch)
    assert [type(module) for module in base.modules()] == modules
    assert tensor_fingerprint(base_tensors(base)) == before[0]
    assert all(torch.equal(own.values, before[1][name]) for name, own in weights.items())
    assert all(torch.equal(value, plain[name]) for name, value in answers(base, batch).items())
    shared = {parameter.data_ptr() for parameter in base.parameters()}
    assert all(parameter.data_ptr() in shared for parameter in network.parameters())


def test_the_gradient_of_a_row_reaches_its_own_adapter_alone(
    base: PricingFMForPolicy, batch: dict[str, torch.Tensor]
) -> None:
    first, second, _ = (
        AdapterWeights(own.layout, own.values.clone().requires_grad_(True)) for own in weights_of(base).values()
    )
    network = stack_adapters(base, [first, second] * 6)
    loss, _ = network.demand_loss(network.encode(batch), batch)
    loss[::2].sum().backward()
    assert torch.count_nonzero(first.values.grad)
    assert not torch.count_nonzero(second.values.grad)


def test_threads_with_different_adapters_do_not_meet(base: PricingFMForPolicy, batch: dict[str, torch.Tensor]) -> None:
    weights = list(weights_of(base).values())
    alone = [answers(stack_adapters(base, [own] * 12), batch)["mean"] for own in weights]

    def ask(number: int) -> bool:
        return torch.equal(answers(stack_adapters(base, [weights[number]] * 12), batch)["mean"], alone[number])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, [number % 3 for number in range(60)]))
    assert not torch.equal(alone[0], alone[1])


def test_a_higher_rank_says_the_same_and_a_lower_one_is_refused(
    base: PricingFMForPolicy, batch: dict[str, torch.Tensor]
) -> None:
    own = weights_of(base)["cat-0001"]
    wide = own.at_rank(8)
    assert (own.at_rank(3), wide.layout.rank) == (own, 8)
    for path, factors in own.factors.items():
        assert torch.allclose(
            wide.factors[path].up @ wide.factors[path].down, factors.up @ factors.down, atol=1e-7, rtol=1e-6
        )
    assert_close(answers(stack_adapters(base, [wide] * 12), batch), answers(stack_adapters(base, [own] * 12), batch))
    with pytest.raises(ValueError, match="rank 8 has no exact form of rank 3"):
        wide.at_rank(3)
    with pytest.raises(ValueError, match=r"one layout, found ranks \[3, 8\]"):
        stack_adapters(base, [own, wide])


def test_merged_weights_answer_alike_and_the_base_stays(
    base: PricingFMForPolicy, batch: dict[str, torch.Tensor]
) -> None:
    own, before = weights_of(base)["cat-0010"], tensor_fingerprint(base_tensors(base))
    merged = merge_weights(base, own)
    expected = answers(stack_adapters(base, [own] * 12), batch)
    for name, value in answers(merged, batch).items():
        assert (value - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max()
    assert tensor_fingerprint(base_tensors(base)) == before
    assert tensor_fingerprint(dict(merged.state_dict())) != before
    assert merged.state_dict().keys() == base.state_dict().keys()


def test_half_precision_rows_stay_half_precision(base: PricingFMForPolicy, batch: dict[str, torch.Tensor]) -> None:
    own = weights_of(base)["cat-0001"]
    full = answers(stack_adapters(base, [own] * 12), batch)["mean"]
    half: PreTrainedModel = copy.deepcopy(base).to(torch.bfloat16)
    assert torch.allclose(answers(stack_adapters(half, [own] * 12), batch)["mean"], full, rtol=0.2)
