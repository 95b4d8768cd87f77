"""Policies compared: learned from kept readings, choosing at any dial, and beside planners that know the stock."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from pricing_fm.adapters import LoraArguments
from pricing_fm.evaluation.few_shot_markets import load_visible
from pricing_fm.evaluation.market import AdaptationRecipe, adapt_every_category
from pricing_fm.evaluation.policy_choices import (
    best_prices,
    draw_chances,
    keep_supported,
    planner_scores,
    policy_scores,
    read_choices,
)
from pricing_fm.evaluation.policy_trials import KeptReadings, Trial, learn_heads, learn_policy, read_category
from pricing_fm.evaluation.stock_plan import Supply, estimate_supply, level_weights, solve_stock, stock_scores
from pricing_fm.markets import LogSettings, RetailSettings, SimulatedLog, simulate_log
from pricing_fm.markets.policies import LadderMarket
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.training.adapt import AdaptArguments, AdaptOptimArguments
from pricing_fm.training.policy_learning import PolicyArguments
from tests.policy_artifacts import quick_collections, write_base

STEPS, HORIZON, SEED = 3, 4, 5
OPTIM = AdaptOptimArguments(warmup_steps=0, ema_decay=0.0, learning_rate=1e-2)
TRIAL = Trial(PolicyArguments(horizon=HORIZON), LoraArguments(lora_rank=2), OPTIM, STEPS)


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> PricingPolicy:
    found = PricingPolicy.from_pretrained(write_base(tmp_path_factory.mktemp("trials") / "base"))
    found.model.requires_grad_(False)
    return found


@pytest.fixture(scope="module")
def log() -> SimulatedLog:
    return simulate_log(RetailSettings(num_products=3, stocked_share=0.5), log=LogSettings(2, 40, seed=4, name="m"))


@pytest.fixture(scope="module")
def panel(log: SimulatedLog) -> Panel:
    return load_visible([log], "m").last_periods(12)


@pytest.fixture(scope="module")
def one(panel: Panel) -> Panel:
    return panel.select_category(panel.categories[0])


def read(base: PricingPolicy, one: Panel, count: int = STEPS) -> list[dict[str, torch.Tensor]]:
    return read_category(base, one, HORIZON, RewardWeights(), count, 8, SEED)


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["structured", "conservative"])
def test_heads_that_learn_from_readings_end_where_an_adaptation_ends(
    base: PricingPolicy, one: Panel, algorithm: str
) -> None:
    policy = replace(TRIAL.policy, algorithm=algorithm)
    recipe = AdaptationRecipe(
        AdaptArguments(objective="policy", policy_steps=STEPS, batch_size=8),
        policy, RewardWeights(), TRIAL.lora, OPTIM,
    )  # fmt: skip
    (adapted,) = adapt_every_category(base, one, recipe, SEED).adapters.values()
    trial = replace(TRIAL, policy=policy)
    learned = learn_policy(base, {"c": one}, {"c": read(base, one)}, trial, RewardWeights(), SEED).adapters["c"]
    heads = {path for path in adapted.weights.factors if "decision_head" in path}
    assert len(heads) == 6
    for path in heads:
        first, second = adapted.weights.factors[path], learned.weights.factors[path]
        torch.testing.assert_close(first.down @ torch.eye(first.down.shape[-1]), second.down, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(first.up, second.up, rtol=1e-4, atol=1e-6)
        assert second.up.abs().sum() > 0
    assert (adapted.aggressiveness, adapted.discount) == (learned.aggressiveness, learned.discount)


def test_only_the_linears_of_a_trial_learn(base: PricingPolicy, one: Panel) -> None:
    weights, _ = learn_heads(base, read(base, one), replace(TRIAL, linears=("head_out",)), RewardWeights(), SEED)
    moved = {path for path, factor in weights.factors.items() if factor.up.abs().sum() > 0}
    assert moved == {f"decision_head.{head}.head_out" for head in ("behavior_head", "policy_head", "value_head")}


def test_values_that_come_first_stand_still_while_the_policy_learns(base: PricingPolicy, one: Panel) -> None:
    readings = read(base, one)
    together, _ = learn_heads(base, readings, TRIAL, RewardWeights(), SEED)
    apart, _ = learn_heads(base, readings, replace(TRIAL, values_first=True), RewardWeights(), SEED)
    longer = replace(TRIAL, values_first=True, policy=replace(TRIAL.policy, inverse_temperature=8.0))
    sharper, _ = learn_heads(base, readings, longer, RewardWeights(), SEED)
    value, policy = ("decision_head.value_head.head_out", "decision_head.policy_head.head_out")
    assert torch.equal(apart.factors[value].up, sharper.factors[value].up)
    assert not torch.equal(apart.factors[policy].up, sharper.factors[policy].up)
    assert not torch.equal(apart.factors[policy].up, together.factors[policy].up)


def test_rewards_in_currency_let_large_items_speak_louder(base: PricingPolicy, one: Panel) -> None:
    readings = read(base, one)
    assert any(reading["reference_revenue"].std() > 0 for reading in readings)
    relative, _ = learn_heads(base, readings, TRIAL, RewardWeights(), SEED)
    currency, _ = learn_heads(base, readings, replace(TRIAL, in_currency=True), RewardWeights(), SEED)
    even = [{**reading, "reference_revenue": torch.ones(len(reading["log_rungs"]))} for reading in readings]
    same, _ = learn_heads(base, even, replace(TRIAL, in_currency=True), RewardWeights(), SEED)
    value = "decision_head.value_head.head_out"
    assert not torch.allclose(relative.factors[value].up, currency.factors[value].up)
    torch.testing.assert_close(relative.factors[value].up, same.factors[value].up)


def test_kept_readings_go_round_and_are_not_cut(base: PricingPolicy, one: Panel) -> None:
    readings = read(base, one, count=2)
    source = KeptReadings(readings)
    assert source.batch(3) is readings[1]
    with pytest.raises(ValueError, match="one process"):
        source.batch(0, world_size=2)


# -- choosing ---------------------------------------------------------------------------------------------------------


def test_the_plan_among_supported_prices_is_what_the_base_recommends(
    base: PricingPolicy, log: SimulatedLog, panel: Panel
) -> None:
    listed = np.ravel(log.state.list_price)
    choice = read_choices(base, panel, listed, 4, bounds=(0.01, 100.0))
    planned = best_prices(choice, keep_supported(choice, planner_scores(choice, 0.5)))
    np.testing.assert_allclose(planned, base.recommend(panel, prediction_length=4)["price"])
    narrow = read_choices(base, panel, listed, 4)
    assert (~narrow.is_open).any()
    for scores in (planner_scores(narrow, 0.5), policy_scores(narrow, 3000.0, 0.5)):
        assert np.isneginf(scores[~narrow.is_open]).all()


def test_the_dial_goes_from_the_policys_own_choice_to_the_best_advantage(
    base: PricingPolicy, log: SimulatedLog, panel: Panel
) -> None:
    choice = read_choices(base, panel, np.ravel(log.state.list_price), 4)
    advantage = np.where(choice.is_open, choice.advantages.mean(-1), -np.inf)
    own = np.where(choice.is_open, choice.policy, -np.inf)
    np.testing.assert_array_equal(policy_scores(choice, 0.0, 0.0).argmax(1), own.argmax(1))
    np.testing.assert_array_equal(policy_scores(choice, np.inf, 0.0).argmax(1), advantage.argmax(1))
    assert (own.argmax(1) != advantage.argmax(1)).any()
    cautious = policy_scores(choice, np.inf, 5.0)
    spread = choice.advantages.std(-1)[np.arange(len(own)), cautious.argmax(1)]
    assert spread.mean() < choice.advantages.std(-1)[np.arange(len(own)), advantage.argmax(1)].mean()
    chances = draw_chances(choice, policy_scores(choice, 0.0, 0.0))
    np.testing.assert_allclose(chances.sum(1), 1.0)
    assert (chances[~choice.is_open] == 0).all()


# -- planning with a stock --------------------------------------------------------------------------------------------


def test_the_stock_program_is_the_known_optimum_of_a_ladder_and_a_stock_that_must_last() -> None:
    """Bernoulli demand on a ladder: ten atoms of equal weight hold chances in tenths exactly."""
    ladder, chances = np.array([1.0, 2.0, 3.0]), np.array([0.8, 0.5, 0.2])
    atoms = (np.arange(10) >= 10 - np.round(10 * chances)[:, None]).astype(float)
    market = LadderMarket(tuple(ladder), tuple(chances), "bernoulli")
    gains = []
    for units, periods in ((1, 3), (2, 6), (4, 5)):
        path = np.repeat(atoms[:, None], periods, axis=1)
        held, optimal = solve_stock(ladder, path, np.full(10, 0.1), units, Supply(0.0, 0.0))
        assert optimal.max() == pytest.approx(market.optimal_value(units, periods), rel=1e-9)
        assert (held <= optimal + 1e-12).all()
        gains.append(optimal.max() - held.max())
    assert max(gains) > 0.05


def test_where_stock_is_plenty_the_stock_program_is_the_plan_on_the_curve() -> None:
    margins, atoms = np.array([1.0, 2.0]), np.array([[[4.0, 6.0]], [[1.0, 2.0]]]).repeat(3, axis=1)
    weights = np.array([0.5, 0.5])
    for stock, supply in ((1000.0, Supply(0.0, 0.0)), (10.0, Supply(10.0, 0.0)), (10.0, Supply(0.0, 6.0))):
        held, optimal = solve_stock(margins, atoms, weights, stock, supply)
        np.testing.assert_allclose(held, [15.0, 9.0])
        np.testing.assert_allclose(optimal, [15.0, 13.0])


def test_replenishment_is_read_from_the_log() -> None:
    units = np.array([3.0, 5.0, 2.0, 4.0, 6.0])
    filled = estimate_supply(np.full(5, 9.0), units)
    assert filled == Supply(9.0, 0.0)
    stock = 20.0 + np.cumsum([0.0, *(4.0 - units[:-1])])
    assert estimate_supply(stock, units) == Supply(0.0, 4.0)
    assert estimate_supply(np.array([7.0]), np.array([1.0])) == Supply(7.0, 0.0)
    assert level_weights(np.array([0.1, 0.5, 0.9])) == pytest.approx([0.3, 0.4, 0.3])


def test_scarce_stock_raises_prices_and_no_stock_changes_nothing(
    base: PricingPolicy, log: SimulatedLog, panel: Panel
) -> None:
    listed = np.ravel(log.state.list_price)
    choice = read_choices(base, panel, listed, 4)
    levels = np.asarray(base.model.config.quantile_levels)
    unlimited = np.full(len(listed), np.inf)
    plain = planner_scores(choice, 0.0)
    free = stock_scores(choice, panel, levels, unlimited, is_held=True)
    margins = (choice.prices - choice.costs[:, None]) * choice.demand.mean.sum(-1)
    np.testing.assert_allclose(free[choice.is_open], margins[choice.is_open])
    assert plain.shape == free.shape
    no_stock = panel.frame.assign(inventory=1.0, units=1.0)
    scarce = stock_scores(choice, replace(panel, frame=no_stock), levels, np.ones(len(listed)), is_held=True)
    assert (best_prices(choice, scarce) >= best_prices(choice, free) - 1e-9).all()
    assert (best_prices(choice, scarce) > best_prices(choice, free)).any()
