"""The k-shot bench: what a decision is worth, what is visible of it, and that every strategy is another one."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pricing_fm.adapters.stack import repeat
from pricing_fm.evaluation.few_shot import (
    FewShotBench,
    Start,
    another_categorys_weeks,
    compare_strategies,
    correct_by_holm,
    describe_categories,
    few_shot_rows,
    gradient_adaptation,
    mean_of_adapters,
    multiply_out,
    nearest_adapter,
    no_adaptation,
    pooled,
    pools_another_category,
    score_strategies,
    shuffled_outcomes,
    spread_over_seeds,
)
from pricing_fm.evaluation.few_shot_bias import add_elasticities
from pricing_fm.evaluation.few_shot_markets import (
    PRICE_GRID,
    DecisionTruth,
    FewShotMarketArguments,
    add_costs,
    add_grid,
    build_decision_store,
    build_training_store,
    decision_categories,
    find_truth,
    grid_prices,
    grid_regret,
    held_elasticities,
    simulate_categories,
)
from pricing_fm.evaluation.few_shot_planning import PlannedCurves, plan_prices, read_curves
from pricing_fm.evaluation.few_shot_policies import dialled_prices, policy_prices
from pricing_fm.evaluation.few_shot_posterior import build_prior, informed_prices
from pricing_fm.evaluation.few_shot_rivals import held_prices, read_last_periods, score_rivals
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, simulate_log
from pricing_fm.metrics.bootstrap import interquartile_mean
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.names import CHANNEL_INDEX
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.training import inner_loop
from pricing_fm.training.decision_tasks import read_decision_task
from pricing_fm.training.few_shot_tasks import TaskArguments, build_task, find_categories
from pricing_fm.training.inner_loop import query_losses
from pricing_fm.training.pooling import elasticity_errors, fit_rule
from tests.test_inner_loop import OPTIM, SCALING, demand_start

ARGUMENTS = FewShotMarketArguments(test_categories=5, logged_weeks=20, decision_weeks=3, stocked_share=0.0)
WEEKS = (0, 4)


@pytest.fixture(scope="module")
def logs() -> list[SimulatedLog]:
    return simulate_categories(ARGUMENTS, 5, ARGUMENTS.test_seed, 20, 0)


@pytest.fixture(scope="module")
def truth(logs: list[SimulatedLog]) -> DecisionTruth:
    return find_truth(logs, 3)


@pytest.fixture
def bench(logs, truth, build_tiny_model: Callable[..., PricingFMForPolicy], tiny_processor) -> FewShotBench:
    model = build_tiny_model(PricingFMForPolicy).requires_grad_(False)
    store = build_decision_store(logs, 3, "test")
    settings = TaskArguments(weeks=WEEKS, query_weeks=3)
    categories = decision_categories(store, 4, 3)
    tasks = {k: build_task(store, categories, tiny_processor, k, settings, 8) for k in WEEKS}
    return FewShotBench(model, tasks, truth, OPTIM, SCALING)


def start_of(bench: FewShotBench, rate: float = 1e-2) -> Start:
    update = demand_start(bench.model)
    return Start(update, {name: torch.tensor(rate) for name in update}, 2, stops_early=False)


def test_the_oracle_closes_the_gap_and_the_list_price_does_not(truth: DecisionTruth) -> None:
    assert [int(count) for count in np.bincount(truth.categories)] == [8, 9, 10, 11, 12]
    best = truth.gap_closed(held_prices(truth))
    kept = np.isfinite(best)
    assert kept.any()
    assert (best[kept] > 0.9).all()
    assert (truth.gap_closed(truth.list_prices)[kept] < best[kept]).all()


def test_the_decision_is_the_origin_and_its_plan_is_an_intervention_at_the_list_price(logs, truth) -> None:
    store = build_decision_store(logs, 3, "test")
    categories = decision_categories(store, 4, 3)
    assert store.item_ids == truth.item_ids
    assert tuple(category.name for category in categories) == truth.names
    rows = store.values.reshape(len(truth.item_ids), 23, -1)[:, 20:]
    assert np.isnan(rows[..., CHANNEL_INDEX["units"]]).all()
    np.testing.assert_allclose(rows[..., CHANNEL_INDEX["price"]], truth.list_prices[:, None].repeat(3, 1), rtol=1e-6)
    assert (rows[..., CHANNEL_INDEX["price_is_intervention"]] == 1).all()


def test_a_training_log_is_the_same_log_with_random_prices_after_it() -> None:
    plain = simulate_categories(ARGUMENTS, 5, ARGUMENTS.train_seed, 20, 0)
    longer = simulate_categories(ARGUMENTS, 5, ARGUMENTS.train_seed, 20, 3)
    for one, other in zip(plain, longer, strict=True):
        assert np.array_equal(one.arrays.units, other.arrays.units[:20])
    store = build_training_store(longer, "train")
    categories = find_categories(store, 4, 3, 0)
    assert {category.origin - categories[0].origin for category in categories} == {0}
    first = longer[0].truth.groupby("item_id")["elasticity"].first()
    found = pd.Series(store.elasticity[store.offsets[:-1]], index=store.item_ids)
    np.testing.assert_allclose(found[first.index], first, rtol=1e-5)


def test_the_plan_takes_the_best_price_of_its_curve_and_caution_stays_nearer_to_the_list_price() -> None:
    prices = np.array([[0.8, 0.9, 1.0, 1.1]]) if len(PRICE_GRID) == 4 else np.asarray(PRICE_GRID)[None]
    elasticity = np.array([1.5, 4.5])
    members = prices[..., None] ** -elasticity
    curves = PlannedCurves(prices, members, np.exp(np.log(members).mean(-1)))
    # Constant elasticity 3 and cost 0.6: the best price is 0.6 x 3 / 2.
    assert plan_prices(curves, np.array([0.6]))[0] == pytest.approx(0.9, abs=0.021)
    assert abs(plan_prices(curves, np.array([0.6]), caution=2.0)[0] - 1.0) < 0.1


def test_known_regrets_are_those_of_the_grid_and_judge_the_softened_plan(bench: FewShotBench, monkeypatch) -> None:
    query = add_grid(bench.tasks[4].query, bench.truth, grid_regret(bench.truth))
    assert query["grid_regret"].shape == (5, 12, len(PRICE_GRID))
    assert (query["grid_regret"] >= 0).all()
    assert (query["grid_regret"][0, 8:] == 0).all()  # rows that only fill up
    soft = query_losses(bench.model, {}, query, SCALING)
    monkeypatch.setattr(inner_loop, "PLAN_SHARPNESS", 1e6)
    losses = query_losses(bench.model, {}, query, SCALING)
    held = bench.truth.gap_closed(held_prices(bench.truth))
    curves = read_curves(bench.model, {}, bench.tasks[4].query, bench.truth, SCALING)
    shares = bench.truth.gap_closed(plan_prices(curves, bench.truth.costs))
    kept = np.isfinite(shares)
    # Regret is what the plan leaves of the gap; a soft plan does not take one price.
    np.testing.assert_allclose(losses.numpy()[kept], (held - shares)[kept], atol=0.01)
    assert not torch.allclose(soft, losses, atol=0.01)


def test_a_decision_knows_its_costs_even_where_no_week_is_visible(bench: FewShotBench) -> None:
    plain = bench.tasks[0].query
    assert torch.isnan(plain["unit_costs"]).all()
    known = add_costs(plain, bench.truth)
    assert known["unit_costs"].shape == plain["unit_costs"].shape
    assert known["unit_costs"][1, 2, 0] == pytest.approx(bench.truth.costs[8 + 2])
    share = known["decision_features"][..., 6] * known["reference_price"][..., None]
    torch.testing.assert_close(share, known["unit_costs"])
    assert (known["decision_features"][..., 7] == 1).all()
    assert (plain["decision_features"][..., 7] == 0).all()
    visible = bench.tasks[4].query
    torch.testing.assert_close(add_costs(visible, bench.truth)["unit_costs"], visible["unit_costs"], rtol=0.1, atol=0.1)


def test_a_policys_price_is_its_likeliest_rung_and_the_dial_goes_from_it_to_the_best_value(
    bench: FewShotBench, tiny_processor
) -> None:
    query = add_costs(bench.tasks[4].query, bench.truth)
    task = replace(bench.tasks[4], query=query)
    decisions = read_decision_task(bench.model, tiny_processor, task, {}, SCALING, RewardWeights()).query
    head = bench.model.decision_head.policy_head.head_out
    head.weight.zero_()
    head.bias.zero_()
    head.bias[0], head.bias[1 + 25] = 9.0, 9.0  # change, to rung 25
    prices = policy_prices(bench.model, {}, decisions, tiny_processor, bench.truth, SCALING)
    rungs = tiny_processor.rung_prices(decisions["reference_price"].flatten().double().numpy())
    rows = (np.arange(12) < np.bincount(bench.truth.categories)[:, None]).ravel()
    np.testing.assert_allclose(prices, rungs[rows, 25])

    def dialled(aggressiveness: float) -> np.ndarray:
        return dialled_prices(
            bench.model, {}, query, decisions, tiny_processor, bench.truth, SCALING, 0.98, aggressiveness, 0.0
        )

    np.testing.assert_allclose(dialled(0.0), prices)
    best = dialled(1e9)
    assert not np.allclose(best, prices)
    head.bias[1 + 25], head.bias[1 + 3] = 0.0, 9.0  # what the policy would rather do no longer matters
    np.testing.assert_allclose(dialled(1e9), best)


def test_every_strategy_is_another_one_and_none_moves_without_visible_weeks(bench: FewShotBench) -> None:
    start = start_of(bench)
    adapt = gradient_adaptation(bench, start)
    strategies = {
        "start": no_adaptation(start.update),
        "adapted": adapt,
        "shuffled": shuffled_outcomes(adapt, seed=0),
        "others": another_categorys_weeks(adapt),
        "mean": mean_of_adapters(multiply_out(adapt(bench.tasks[4]), SCALING)),
    }
    stacks = {name: strategy(bench.tasks[4]) for name, strategy in strategies.items()}
    full = {name: stack if name == "mean" else multiply_out(stack, SCALING) for name, stack in stacks.items()}
    numbers = {
        name: torch.cat([tensor.flatten() for _, tensor in sorted(stack.items())]) for name, stack in full.items()
    }
    names = list(numbers)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            assert not torch.allclose(numbers[one], numbers[other], atol=1e-5), (one, other)
    at_none = adapt(bench.tasks[0])
    assert all(torch.equal(at_none[name][2], start.update[name]) for name in start.update)


def test_a_category_is_nearest_to_itself(bench: FewShotBench) -> None:
    adapters = multiply_out(gradient_adaptation(bench, start_of(bench))(bench.tasks[4]), SCALING)
    chosen = nearest_adapter(adapters, bench.tasks, bench)(bench.tasks[4])
    assert all(torch.equal(chosen[name], tensor) for name, tensor in adapters.items())
    assert describe_categories(bench.model, bench.tasks[4].query).shape == (5, 32)


def test_shuffling_deals_each_windows_outcomes_anew_and_leaves_contexts_alone(bench: FewShotBench) -> None:
    seen = {}
    shuffled_outcomes(lambda task: seen.update(task=task) or {}, seed=1)(bench.tasks[4])
    before, after = bench.tasks[4].support, seen["task"].support
    mask = before["future_observed_mask"]
    assert torch.equal(after["past_values"], before["past_values"])
    assert not torch.equal(after["future_values"], before["future_values"])
    for one, other, seen_weeks in zip(
        *(batch.flatten(0, 1) for batch in (before["future_values"], after["future_values"], mask)), strict=True
    ):
        assert torch.equal(one[seen_weeks].sort().values, other[seen_weeks].sort().values)
    assert torch.equal(seen["task"].query["scale"], bench.tasks[4].query["scale"])


def test_scores_are_shares_of_the_gap_paired_by_category(bench: FewShotBench) -> None:
    start = start_of(bench)
    table = score_strategies(bench, {"zero_shot": no_adaptation(), "adapted": gradient_adaptation(bench, start)})
    assert len(table) == 2 * len(WEEKS) * 5
    curves = read_curves(bench.model, {}, bench.tasks[4].query, bench.truth, SCALING)
    own = table[(table["strategy"] == "zero_shot") & (table["k"] == 4)]["gap_closed"].to_numpy()
    np.testing.assert_allclose(own, bench.truth.gap_closed(plan_prices(curves, bench.truth.costs)))
    rows = few_shot_rows(table, "toy", 0, "zero_shot")
    gains = [row for row in rows if row.name == "gap_closed_gain"]
    assert {(row.model, row.k) for row in gains} == {("adapted", 0), ("adapted", 4)}
    assert all(row.lower <= row.value <= row.upper for row in rows)


def test_rivals_see_the_visible_weeks_alone(truth: DecisionTruth) -> None:
    assert read_last_periods(truth, 4).frame["timestamp"].nunique() == 4
    found = score_rivals(truth, 4).pivot(index="category", columns="strategy", values="gap_closed")
    assert {"last_price", "log_log_elasticity", "cost_plus", "cloning", "list_price", "myopic_oracle"} <= set(found)
    assert set(score_rivals(truth, 0)["strategy"]) == {"list_price", "myopic_oracle", "held_oracle"}


def test_the_ceiling_rises_with_the_weeks_and_stays_below_who_knows_the_market() -> None:
    known = find_truth(simulate_categories(replace(ARGUMENTS, test_categories=25), 25, 970_000, 26, 0), 3)
    planned = informed_prices(known, (0, 4, 26), RetailSettings(stocked_share=0.0))
    shares = [interquartile_mean(known.gap_closed(planned[True, k])) for k in (0, 4, 26)]
    best = interquartile_mean(known.gap_closed(held_prices(known)))
    assert shares[0] + 0.05 < shares[1] < shares[2] < best
    # Without weeks it knows costs and list prices alone: equal margins get equal prices.
    margins = known.costs / known.list_prices
    relative = planned[True, 0] / known.list_prices
    order = np.argsort(margins)
    assert np.corrcoef(np.arange(len(order)), relative[order])[0, 1] > 0.7


def test_the_ceilings_prior_is_that_of_the_markets() -> None:
    settings = RetailSettings(num_products=200)
    _, elasticities, chances = build_prior(settings)
    np.testing.assert_allclose(chances.sum(1), 1.0)
    log = simulate_log(settings, ManagerSettings(), LogSettings(num_markets=100, num_periods=2, seed=970_001))
    drawn = np.log(log.parameters.demand.elasticity).reshape(100, 200)
    mean = chances.mean(0) @ np.log(elasticities)
    assert mean == pytest.approx(drawn.mean(), abs=0.08)
    spread = np.sqrt(np.mean(chances @ np.log(elasticities) ** 2 - (chances @ np.log(elasticities)) ** 2))
    assert spread == pytest.approx(np.sqrt(drawn.var(1).mean()), rel=0.1)


def test_markets_that_the_ceiling_does_not_know_are_refused(truth: DecisionTruth) -> None:
    with pytest.raises(ValueError, match="30 weeks are asked for and 20 logged"):
        informed_prices(truth, (30,), RetailSettings())


def test_true_elasticities_are_those_of_the_market(logs, truth: DecisionTruth) -> None:
    plain = simulate_categories(replace(ARGUMENTS, reference_share=0.0), 5, 970_000, 20, 0)
    found = held_elasticities(plain, 3)
    ids = pd.concat([log.items for log in plain])["item_id"].sort_values()
    known = pd.concat(
        [
            pd.Series(
                np.ravel(log.parameters.demand.compute_elasticity(log.state.list_price)), index=log.items["item_id"]
            )
            for log in plain
        ]
    )
    np.testing.assert_allclose(found, known[ids], rtol=0.02)


def test_pooling_learned_where_elasticities_are_known_moves_each_category_by_its_own_items(
    bench: FewShotBench, logs: list[SimulatedLog]
) -> None:
    bench.model.demand_head.response.pooling_head.weight.data.zero_()
    known = {k: replace(task, query=add_elasticities(task.query, logs, 3)) for k, task in bench.tasks.items()}
    for task in known.values():
        task.query["held_elasticity"] *= 2.0  # far from what an untrained network says
    rule = fit_rule(bench.model, {}, known, SCALING)
    task = bench.tasks[4]
    stack = pooled(bench, no_adaptation(), rule)(task)
    (key,) = stack
    assert stack[key].shape == (5, 1, 2)
    assert len({round(float(offset), 6) for offset in stack[key][:, 0, 1]}) == 5
    before, after = (elasticity_errors(bench.model, {}, one, known, SCALING)[4] for one in (None, rule))
    assert after < 0.6 * before
    other = pools_another_category(bench, no_adaptation(), rule)(task)
    torch.testing.assert_close(other[key], stack[key].roll(1, dims=0))
    with pytest.raises(ValueError, match="held_elasticity"):
        fit_rule(bench.model, {}, bench.tasks, SCALING)


def test_comparisons_are_paired_and_corrected_as_holm_does() -> None:
    np.testing.assert_allclose(correct_by_holm(np.array([0.01, 0.04, np.nan, 0.03])), [0.03, 0.06, np.nan, 0.06])
    random = np.random.default_rng(0)
    luck = random.standard_normal(40)
    rows = [
        {"strategy": name, "k": k, "category": str(c), "gap_closed": luck[c] + gain + noise, "draw": draw, "seed": 0}
        for name, gain in (("ours", 0.05), ("worse", 0.0), ("same", 0.05))
        for k in (0, 4)
        for draw in (0, 1)
        for c, noise in enumerate(0.02 * random.standard_normal(40))
    ]
    found = compare_strategies(pd.DataFrame(rows), "ours", ["worse", "same", "ours"], 0).set_index(["rival", "k"])
    assert len(found) == 4
    assert found.loc[("worse", 4), "p_superior"] < 0.01
    assert found.loc[("same", 4), "p_superior"] > 0.05
    assert found["p_superior"].isna().sum() == 2  # nothing is claimed without visible weeks
    assert (found["p_non_inferior"] < 0.05).all()
    with pytest.raises(ValueError, match="was not measured"):
        compare_strategies(pd.DataFrame(rows), "absent", ["same"], 0)


def test_the_spread_over_seeds_is_that_of_their_interquartile_means() -> None:
    rows = [
        {
            "strategy": name,
            "k": 4,
            "category": str(c),
            "gap_closed": c / 10 + level + 0.5 * draw,
            "draw": draw,
            "seed": seed,
        }
        for name, levels in (("ours", (0.0, 0.2, 0.4)), ("once", (0.0,)))
        for seed, level in enumerate(levels)
        for draw in (0, 1)
        for c in range(8)
    ]
    found = spread_over_seeds(pd.DataFrame(rows))
    assert list(found["strategy"]) == ["ours"]
    row = found.iloc[0]
    assert (row["seeds"], row["k"]) == (3, 4)
    assert row["mean"] == pytest.approx(0.35 + 0.2 + 0.25)
    assert row["deviation"] == pytest.approx(0.2)
    assert row["highest"] - row["lowest"] == pytest.approx(0.4)


def test_settings_that_a_corpus_may_have_seen_are_refused() -> None:
    for wrong in ({"train_seed": 10}, {"test_seed": 910_020}, {"test_categories": 2}, {"logged_weeks": 0}):
        with pytest.raises(ValueError, match="--"):
            FewShotMarketArguments(**wrong)


def test_repeating_an_update_copies_it(bench: FewShotBench) -> None:
    update = demand_start(bench.model)
    stack = repeat(update, 2)
    next(iter(stack.values())).zero_()
    assert all(tensor.abs().sum() > 0 for tensor in update.values())
    assert (grid_prices(bench.truth)[:, PRICE_GRID.index(1.0)] == bench.truth.list_prices).all()


def test_the_curve_says_which_managers_it_meets_and_that_few_categories_meet_no_demand_follower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    few_shot_curve = importlib.import_module("few_shot_curve")
    few, many = (simulate_categories(FewShotMarketArguments(), count, 930_000, 2, 0) for count in (10, 25))
    assert "cost_plus 5, hi_lo 5; --confounding changes nothing" in few_shot_curve.describe_managers(few)
    told = few_shot_curve.describe_managers(many)
    assert "demand_follower 5" in told
    assert "nothing" not in told
