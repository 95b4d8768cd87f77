"""Pooling a category's elasticities: what a rule makes of items and regression, and what that does in a network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pricing_fm.adapters import (
    CategoryPooling,
    CategoryRegression,
    KnownCategories,
    LoraArguments,
    PoolingRule,
    add_adapter,
    fit_pooling,
    read_pooling,
    read_weights,
    save_pooling,
    stack_adapters,
    write_pooling,
)
from pricing_fm.adapters.pooling import LARGEST_REGRESSION_SHIFT, MEAN_SPREAD, POOLING_FILE, regression_shift
from pricing_fm.errors import ArtifactError
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.channels import INTERVENTION_SLOT

Batch = dict[str, torch.Tensor]
POOLING = CategoryPooling(slope=-0.4, offset=0.25)


def hedged_items(random: np.random.Generator, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior means of items that are read one by one, the truth, and categories of ten."""
    categories = np.repeat(np.arange(400), 10)
    truth = (1.0 + 0.3 * random.standard_normal(400))[categories] + 0.2 * random.standard_normal(4000)
    seen = truth + noise * random.standard_normal(4000)
    variance = 0.3**2 + 0.2**2
    return 1.0 + (seen - 1.0) * variance / (variance + noise**2), truth, categories


def marked(batch: Batch, is_intervention: bool) -> Batch:
    values = batch["future_known_values"].clone()
    values[..., INTERVENTION_SLOT] = float(is_intervention)
    return {**batch, "future_known_values": values}


@torch.no_grad()
def elasticities(model: PricingFMForPolicy, batch: Batch) -> torch.Tensor:
    return model.demand_head.response.log_elasticities(model.demand_states(model.encode(batch), batch))


def test_the_mean_of_hedged_items_is_believed_more_than_they_are_and_errors_shrink() -> None:
    own, truth, categories = hedged_items(np.random.default_rng(0))
    rule = fit_pooling({4: KnownCategories(own, truth - own, np.zeros(400), categories)})
    # One item: variance 0.13 of 0.29. Ten of them know their mean with an error of variance 0.02, 0.09 of 0.11.
    shrunk = 0.13 / 0.29
    assert 1 + rule.means[0] == pytest.approx(0.094 / (0.094 + 0.016) / shrunk, rel=0.1)
    assert 1 + rule.distances[0] == pytest.approx(0.04 / (0.04 + 0.16) / shrunk, rel=0.1)
    pooled = np.concatenate([part + rule.pool(part, 4).factors(part) for part in np.split(own, 400)])
    # What a statistician who knows both variances reaches, and a fifth less than item by item.
    best = np.sqrt(1 / (1 / 0.04 + 1 / 0.16) + 0.2**2 * 0.094 * 0.016 / (0.094 + 0.016) / 0.04)
    error, before = (np.sqrt(np.mean((values - truth) ** 2)) for values in (pooled, own))
    assert error < 0.8 * before
    assert error < 1.2 * best


def test_a_regression_is_believed_as_far_as_it_was_right() -> None:
    random = np.random.default_rng(0)
    own, truth, categories = hedged_items(random)
    means = np.bincount(categories, own) / 10
    missing = np.bincount(categories, truth) / 10 - means
    right = fit_pooling({4: KnownCategories(own, truth - own, missing, categories)})
    assert right.regressions[0] == pytest.approx(1.0, abs=0.02)
    wrong = fit_pooling({4: KnownCategories(own, truth - own, random.permutation(missing), categories)})
    assert abs(wrong.regressions[0]) < 0.2


def test_between_learned_weeks_a_rule_is_read_in_logarithms_and_beyond_them_it_stays() -> None:
    rule = PoolingRule((0, 3, 15), (0.0, 1.0, 3.0), (0.2, 0.4, 0.4), (0.0, 0.5, 0.5), (-0.5, -0.3, -0.1), 1.0)
    items = np.array([0.5, 1.5])
    halfway = rule.pool(items, 7)  # log 8 lies halfway between log 4 and log 16
    assert halfway.slope == pytest.approx(-0.2)
    assert halfway.offset == pytest.approx(2.0 + (0.4 + 0.2) * 1.0)
    assert rule.pool(items, 100) == rule.pool(items, 15)
    regression = CategoryRegression(4.0, 0.5)
    moved = rule.pool(items, 7, regression)
    assert moved.slope == halfway.slope
    assert moved.offset == pytest.approx(halfway.offset + 0.5 * regression_shift(1.0, regression))
    # Of a category of which nothing is seen the typical one is assumed.
    assert rule.pool(np.empty(0), 0) == rule.pool(np.array([1.0]), 0)


def test_a_rule_survives_its_file_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    rule = PoolingRule((0, 4), (0.1, 0.2), (0.3, 0.4), (0.0, 0.5), (-0.5, -0.6), 1.1)
    assert read_pooling(tmp_path) is None
    save_pooling(rule, tmp_path)
    assert read_pooling(tmp_path) == rule
    (tmp_path / POOLING_FILE).write_text('{"weeks": [0]}')
    with pytest.raises(ArtifactError, match="meta-train it again"):
        read_pooling(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weeks": (4, 0)}, "must increase"),
        ({"means": (0.1,)}, "must increase"),
        ({"constants": (np.nan, 0.0)}, "finite"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict, message: str) -> None:
    right = {"weeks": (0, 4), "constants": (0.1, 0.2), "means": (0.3, 0.4), "distances": (-0.5, -0.6)}
    right["regressions"] = (0.0, 0.5)
    with pytest.raises(ValueError, match=message):
        PoolingRule(**(right | wrong), typical_mean=1.0)


def test_a_regression_moves_a_mean_by_its_precision() -> None:
    assert regression_shift(1.0, None) == 0.0
    assert regression_shift(1.0, CategoryRegression(np.e, 0.1)) == pytest.approx(0.0)
    # Without an error it is believed, with a large one it is not.
    assert regression_shift(1.0, CategoryRegression(2 * np.e, 1e-6)) == pytest.approx(np.log(2))
    assert abs(regression_shift(1.0, CategoryRegression(2 * np.e, 100.0))) < 1e-3
    doubt = MEAN_SPREAD * np.e
    assert regression_shift(1.0, CategoryRegression(2 * np.e, doubt)) == pytest.approx(np.log(1.5))
    # Demand that rises with the price is no reason to give up.
    assert regression_shift(1.0, CategoryRegression(-5.0, 0.1)) == -LARGEST_REGRESSION_SHIFT


def test_elasticities_that_cannot_be_pooled_are_refused() -> None:
    one, categories = np.ones(4), np.zeros(4, dtype=int)
    with pytest.raises(ValueError, match="not finite"):
        KnownCategories(one * np.nan, one, np.zeros(1), categories)
    with pytest.raises(ValueError, match="shapes differ"):
        KnownCategories(one, np.ones(3), np.zeros(1), categories)
    with pytest.raises(ValueError, match="shapes differ"):
        KnownCategories(one, one, np.zeros(2), categories)
    with pytest.raises(ValueError, match="no number of visible weeks"):
        fit_pooling({})


def test_an_adapter_moves_the_elasticity_of_interventions_as_its_numbers_say(
    build_tiny_model: Callable[..., PricingFMForPolicy], tiny_batch: Batch
) -> None:
    model = build_tiny_model(PricingFMForPolicy)
    model.demand_head.response.pooling_head.weight.data.zero_()
    intervention, log = marked(tiny_batch, True), marked(tiny_batch, False)
    before, logged = elasticities(model, intervention), elasticities(model, log)
    network = add_adapter(model, "one", LoraArguments())
    # What an adapter had learned there before does not count.
    write_pooling(network, "one", CategoryPooling(3.0, 3.0))
    write_pooling(network, "one", POOLING)
    wanted = before + torch.from_numpy(POOLING.factors(before.double().numpy())).float()
    torch.testing.assert_close(elasticities(model, intervention), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, before, atol=0.01)
    torch.testing.assert_close(elasticities(model, log), logged, rtol=0, atol=0)


def test_stacked_with_others_every_row_has_its_own_categorys_numbers(
    build_tiny_model: Callable[..., PricingFMForPolicy], tiny_batch: Batch
) -> None:
    model = build_tiny_model(PricingFMForPolicy)
    model.demand_head.response.pooling_head.weight.data.zero_()
    batch = marked(tiny_batch, True)
    plain = elasticities(model, batch)
    network = add_adapter(build_tiny_model(PricingFMForPolicy), "one", LoraArguments())
    write_pooling(network, "one", POOLING)
    rows = [read_weights(network, "one") if row % 2 else None for row in range(len(plain))]
    found = elasticities(stack_adapters(model, rows), batch)
    wanted = plain + torch.from_numpy(POOLING.factors(plain.double().numpy())).float()
    torch.testing.assert_close(found[1::2], wanted[1::2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[::2], plain[::2], rtol=1e-6, atol=1e-6)


def test_a_free_response_has_nothing_to_pool(build_tiny_model: Callable[..., PricingFMForPolicy]) -> None:
    network = add_adapter(build_tiny_model(PricingFMForPolicy, price_response="free"), "one", LoraArguments())
    with pytest.raises(ArtifactError, match="no pooling_head"):
        write_pooling(network, "one", POOLING)
