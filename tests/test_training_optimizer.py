"""AdamW's groups, the schedule, and the moving average."""

import math

import pytest
import torch
from torch import nn

from pricing_fm.training.arguments import OptimArguments
from pricing_fm.training.optimizer import AveragedWeights, build_optimizer, learning_rate_at
from tests.test_training_toy import ToyModel, toy_model


def names_of_group(model: nn.Module, group: dict[str, list[nn.Parameter]]) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_only_matrices_decay() -> None:
    model = toy_model()
    decaying, free = build_optimizer(model, OptimArguments(weight_decay=0.1)).param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert names_of_group(model, decaying) == {"linear_in.weight", "linear_out.weight", "rare_head.weight"}
    biases = {"linear_in.bias", "linear_out.bias", "rare_head.bias"}
    assert names_of_group(model, free) == {"embedding.weight", "norm.weight", "norm.bias", "token"} | biases


def test_an_embedding_tied_to_a_matrix_does_not_decay_and_is_there_once() -> None:
    model = toy_model()
    model.linear_in.weight = nn.Parameter(torch.zeros(5, 8))
    model.embedding.weight = model.linear_in.weight
    groups = build_optimizer(model, OptimArguments()).param_groups
    everything = [parameter for group in groups for parameter in group["params"]]
    assert len(everything) == len({id(parameter) for parameter in everything})
    assert not any(parameter is model.embedding.weight for parameter in groups[0]["params"])


def test_frozen_parameters_are_in_no_group_and_a_model_without_others_is_refused() -> None:
    model = toy_model().requires_grad_(False)
    model.linear_out.requires_grad_(True)
    groups = build_optimizer(model, OptimArguments()).param_groups
    assert {"linear_out.weight", "linear_out.bias"} == set().union(*(names_of_group(model, group) for group in groups))
    with pytest.raises(ValueError, match="no parameter"):
        build_optimizer(toy_model().requires_grad_(False), OptimArguments())


def test_the_rate_rises_linearly_to_the_peak_and_falls_along_a_cosine() -> None:
    optim = OptimArguments(learning_rate=0.8, warmup_steps=3, minimum_learning_rate_ratio=0.25)
    rates = [learning_rate_at(step, optim, max_steps=24) for step in range(26)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[13] == pytest.approx(0.8 * (0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi / 2))))
    assert rates[23] == rates[25] == pytest.approx(0.2)
    assert rates[3:24] == sorted(rates[3:24], reverse=True)


def test_the_average_follows_its_formula_and_leaves_the_model_as_it_was() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights(model, decay=0.5)
    start, expected = model.weight.item(), model.weight.item()
    for update in range(1, 20):
        with torch.no_grad():
            model.weight.fill_(start + update)
        averaged.update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * (start + update)
    assert averaged.tensors["weight"].item() == pytest.approx(expected, rel=1e-5)
    trained = model.weight.item()
    with averaged.in_place():
        assert model.weight.item() == averaged.tensors["weight"].item() != trained
    assert model.weight.item() == trained


def test_without_decay_the_average_is_the_current_weights() -> None:
    model = ToyModel()
    averaged = AveragedWeights(model, decay=0.0)
    with torch.no_grad():
        model.token.add_(1.0)
    averaged.update(1)
    assert torch.equal(averaged.tensors["token"], model.token)
