"""Who is taken in by a manager that follows hidden demand: biases are measured against the market's truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pricing_fm.evaluation.few_shot import FewShotBench, no_adaptation, pooled, score_strategies
from pricing_fm.evaluation.few_shot_bias import add_elasticities, curve_elasticities, log_bias, tabulate_biases
from pricing_fm.evaluation.few_shot_markets import (
    PRICE_GRID,
    FewShotMarketArguments,
    build_decision_store,
    decision_categories,
    find_truth,
    held_elasticities,
    simulate_categories,
)
from pricing_fm.evaluation.few_shot_planning import PlannedCurves, read_curves
from pricing_fm.evaluation.few_shot_rivals import score_rivals
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.models.channels import INTERVENTION_SLOT
from pricing_fm.training.few_shot_tasks import TaskArguments, build_task
from pricing_fm.training.policy_learning import as_interventions, as_logged
from pricing_fm.training.pooling import fit_rule
from tests.test_inner_loop import OPTIM, SCALING

FOLLOWED = FewShotMarketArguments(
    test_categories=10, logged_weeks=60, decision_weeks=3, stocked_share=0.0, managers=("demand_follower",)
)


def test_a_curve_of_known_elasticity_is_read_as_that() -> None:
    prices = 3.0 * np.asarray(PRICE_GRID)[None].repeat(2, 0)
    units = prices ** -np.array([[0.5], [2.5]])
    np.testing.assert_allclose(curve_elasticities(PlannedCurves(prices, units[..., None], units)), [0.5, 2.5])


def test_a_bias_is_that_of_the_logarithm_and_a_wrong_sign_counts_as_the_smallest() -> None:
    found, true = np.array([2.0, 4.0, -3.0, np.nan]), np.array([1.0, 1.0, 0.2, 1.0])
    biases = log_bias(found, true, np.array([0, 0, 1, 2]))
    np.testing.assert_allclose(biases, [np.log(8) / 2, np.log(0.5), np.nan])
    rows = [("one", 4, "a", seed, 0.1 * seed) for seed in (0, 1)] + [
        ("one", 4, "b", 0, 0.25),
        ("rule", 4, "a", 0, None),
    ]
    table = pd.DataFrame(rows, columns=["strategy", "k", "category", "seed", "bias"])
    (row,) = tabulate_biases(table.astype({"bias": float})).itertuples()
    assert (row.strategy, row.categories) == ("one", 2)
    assert row.bias == pytest.approx((0.05 + 0.25) / 2)


def test_log_log_learns_the_manager_who_follows_hidden_demand() -> None:
    biases = {}
    for confounding in (-0.9, 0.9):
        market = replace(FOLLOWED, confounding=(confounding, confounding))
        logs = simulate_categories(market, 10, 970_000, 60, 0)
        truth = find_truth(logs, 3)
        scores = score_rivals(truth, 60, elasticities=held_elasticities(logs, 3)).set_index("strategy")["bias"]
        biases[confounding] = scores["log_log_elasticity"].mean()
        assert scores["last_price"].isna().all()  # a rule without an elasticity has no bias
    # Prices cut in demand peaks look like an answer to them; prices raised into peaks hide the answer.
    assert biases[-0.9] > 0.1
    assert biases[0.9] < -0.3


def test_the_naive_reading_of_a_curve_is_the_managers_and_pooling_does_not_touch_it(
    build_tiny_model, tiny_processor
) -> None:
    logs = simulate_categories(replace(FOLLOWED, test_categories=5), 5, 970_000, 20, 0)
    truth, true = find_truth(logs, 3), held_elasticities(logs, 3)
    model = build_tiny_model(PricingFMForPolicy).requires_grad_(False)
    model.demand_head.response.pooling_head.weight.data.zero_()
    store = build_decision_store(logs, 3, "test")
    task = build_task(
        store, decision_categories(store, 4, 3), tiny_processor, 4, TaskArguments(weeks=(4,), query_weeks=3), 8
    )
    naive = replace(task, query=as_logged(task.query))
    assert (naive.query["future_known_values"][..., INTERVENTION_SLOT] == 0).all()
    assert torch.equal(
        as_interventions(naive.query)["future_known_values"], as_interventions(task.query)["future_known_values"]
    )
    known = replace(task, query=add_elasticities(task.query, logs, 3))
    rule = fit_rule(model, {}, {4: known}, SCALING)
    found = {}
    for name, one in (("set", task), ("logged", naive)):
        bench = FewShotBench(model, {4: one}, truth, OPTIM, SCALING, elasticities=true)
        strategies = {"base": no_adaptation(), "pooled": pooled(bench, no_adaptation(), rule)}
        found[name] = score_strategies(bench, strategies).set_index("strategy")["bias"]
        curves = read_curves(model, {}, one.query, truth, SCALING)
        expected = log_bias(curve_elasticities(curves), true, truth.categories)
        np.testing.assert_allclose(found[name]["base"], expected)
    assert not np.allclose(found["set"]["base"], found["logged"]["base"], atol=1e-3)
    assert not np.allclose(found["set"]["pooled"], found["set"]["base"], atol=1e-3)
    np.testing.assert_allclose(found["logged"]["pooled"], found["logged"]["base"])
