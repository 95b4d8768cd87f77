"""Policies in a simulated market: what they may see, what is trained, and that the truth alone judges."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pricing_fm.adapters import LoraArguments, base_tensors
from pricing_fm.artifact import tensor_fingerprint
from pricing_fm.errors import ArtifactError
from pricing_fm.evaluation.market import (
    AdaptationRecipe,
    MarketArguments,
    adapt_every_category,
    evaluate_market,
    simulate_evaluation_market,
)
from pricing_fm.evaluation.pricing import PricingEvaluation
from pricing_fm.evaluation.pricing_baselines import LastPrice
from pricing_fm.markets import SimulatedLog
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.training.adapt import AdaptArguments, AdaptOptimArguments
from pricing_fm.training.policy_learning import PolicyArguments
from tests.policy_artifacts import quick_collections, write_adapter, write_base

MARKET = MarketArguments(num_markets=2, num_periods=40, visible_weeks=12, decision_periods=2, market_seed=11)
RECIPE = AdaptationRecipe(
    AdaptArguments(weeks=12, demand_steps=2, policy_steps=2, window_length=4, batch_size=8),
    PolicyArguments(horizon=4),
    RewardWeights(),
    LoraArguments(lora_rank=2),
    AdaptOptimArguments(warmup_steps=0, ema_decay=0.0),
)


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> PricingPolicy:
    return PricingPolicy.from_pretrained(write_base(tmp_path_factory.mktemp("market") / "base"))


@pytest.fixture(scope="module")
def simulated() -> tuple[SimulatedLog, Panel]:
    return simulate_evaluation_market(MARKET)


@pytest.fixture(scope="module")
def adapted(base: PricingPolicy, simulated: tuple[SimulatedLog, Panel]) -> PricingPolicy:
    return adapt_every_category(base, simulated[1], RECIPE, seed=2)


@pytest.fixture(scope="module")
def found(base: PricingPolicy, simulated: tuple[SimulatedLog, Panel]) -> PricingEvaluation:
    log, panel = simulated
    return evaluate_market(base, log, panel, MARKET, RECIPE, [LastPrice()], ["forecast", "cloning"], seed=2)


def test_policies_see_the_last_weeks_and_nothing_of_the_truth(simulated: tuple[SimulatedLog, Panel]) -> None:
    log, panel = simulated
    assert set(panel.frame.columns) == {
        *("item_id", "timestamp", "units", "price", "list_price", "cost", "inventory", "promotion"),
        *("category", "product_id", "location_id", "price_imputed"),
    }
    assert panel.frame["timestamp"].nunique() == 12
    assert panel.last_observed == log.panel["timestamp"].max()
    assert panel.item_ids == tuple(sorted(log.items["item_id"]))
    other, _ = simulate_evaluation_market(replace(MARKET, market_seed=12))
    assert not np.allclose(other.panel["price"], log.panel["price"])


def test_every_category_gets_an_adapter_of_its_own(base, adapted: PricingPolicy, simulated) -> None:
    _, panel = simulated
    assert tuple(adapted.adapters) == panel.categories
    first, second = (entry.weights.factors for entry in adapted.adapters.values())
    trained = [path for path in first if "decision_head" in path]
    assert trained
    for path in trained:
        assert not torch.equal(first[path].down, second[path].down)
        assert not torch.equal(first[path].up, second[path].up)
    for category, entry in adapted.adapters.items():
        assert entry.has_policy
        assert entry.support.category == category
        assert sum(map(sum, entry.support.weeks_at_rung)) == len(panel.select_category(category).frame)
    # The base underneath is still the base.
    again = PricingPolicy.from_pretrained(base.base_folder)
    assert tensor_fingerprint(base_tensors(adapted.model)) == tensor_fingerprint(base_tensors(again.model))
    explanations = adapted.recommend(panel)["explanation"]
    assert explanations.str.contains("policy adapter for category").all()


def test_a_category_is_adapted_from_its_own_weeks_alone(base, adapted: PricingPolicy, simulated) -> None:
    _, panel = simulated
    kept, other = panel.categories
    frame = panel.frame.copy()
    frame.loc[frame["category"] == other, ["units", "price"]] *= 3
    again = adapt_every_category(base, replace(panel, frame=frame), RECIPE, seed=2)
    first, second = (policy.adapters[kept].weights for policy in (adapted, again))
    assert first.layout == second.layout
    assert torch.equal(first.values, second.values)


def test_an_adapter_from_the_evaluation_is_not_saved_as_if_it_stood_somewhere(adapted, tmp_path) -> None:
    with pytest.raises(ArtifactError, match="never saved"):
        adapted.save_pretrained(tmp_path / "saved")


def test_only_structured_values_are_asked_about_prices_that_were_not_logged(base, simulated) -> None:
    _, panel = simulated
    few = replace(RECIPE, how=replace(RECIPE.how, objective="policy"))
    one = panel.select_category(panel.categories[0])
    for algorithm, trusted in (("structured", True), ("cloning", False)):
        recipe = replace(few, policy=replace(few.policy, algorithm=algorithm))
        (entry,) = adapt_every_category(base, one, recipe, seed=0).adapters.values()
        assert (entry.aggressiveness > 0) == trusted
    (entry,) = adapt_every_category(
        base, one, replace(RECIPE, how=replace(RECIPE.how, objective="forecast")), 0
    ).adapters.values()
    assert not entry.has_policy


def test_all_policies_are_judged_on_the_same_market(found: PricingEvaluation, simulated) -> None:
    log, panel = simulated
    policies = {
        "manager",
        "oracle",
        "oracle_constant",
        "last_price",
        "base_plan",
        "adapter_forecast",
        "adapter_cloning",
    }
    assert {row.model for row in found.rows if row.name == "value"} == policies
    assert {(row.task, row.k, row.seed) for row in found.rows} == {("retail_12w", 12, 2)}
    values = {row.model: row.value for row in found.rows if row.name == "value"}
    assert values["oracle"] == max(values.values())
    prices = found.items.pivot(index="item_id", columns="policy", values="price")
    last = panel.frame.groupby("item_id")["price"].last()
    bounds = log.state.list_price.reshape(-1)
    listed = pd.Series(bounds, index=log.items["item_id"]).reindex(prices.index)
    np.testing.assert_allclose(prices["last_price"], last.clip(0.7 * listed, 1.3 * listed))
    assert not np.allclose(prices["base_plan"], prices["last_price"])


def test_an_adapter_that_was_given_is_compared_beside_the_base(base, simulated, found, tmp_path) -> None:
    log, panel = simulated
    adapter = write_adapter(tmp_path / "a", base.base_folder, None, start=0.5, has_policy=False)
    given = PricingPolicy.from_pretrained(base.base_folder, adapter=adapter)
    compared = evaluate_market(given, log, panel, MARKET, RECIPE, [], [], seed=2)
    values = {row.model: row.value for row in compared.rows if row.name == "value"}
    assert set(values) == {"manager", "oracle", "oracle_constant", "base_plan", "adapter_given"}
    plain = {row.model: row.value for row in found.rows if row.name == "value"}
    assert values["base_plan"] == plain["base_plan"] != values["adapter_given"]
