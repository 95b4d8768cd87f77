"""What the published base has learned: curves that do not follow the manager, categories that know themselves.

Small copies of the benchmarks; the numbers are in recipes/nano/README.md and recipes/meta/README.md.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pricing_fm.evaluation.elasticity_cells import CellData, TestBedArguments, build_cells, simulate_cell
from pricing_fm.evaluation.elasticity_estimates import estimate_elasticities
from pricing_fm.evaluation.few_shot_bias import add_elasticities
from pricing_fm.evaluation.few_shot_markets import (
    FewShotMarketArguments,
    build_decision_store,
    decision_categories,
    simulate_categories,
)
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.training.few_shot_tasks import FewShotTask, TaskArguments, build_task
from pricing_fm.training.pooling import elasticity_errors, fit_rule, pool_stack, read_elasticities
from tests.conftest import REPOSITORY

BASE = REPOSITORY / "model_cards" / "pricing-fm-nano"
ITEMS, WEEKS = 80, 13


@pytest.fixture(scope="module")
def policy() -> PricingPolicy:
    return PricingPolicy.from_pretrained(Path(BASE))


def read_curves(policy: PricingPolicy, panel: Panel) -> np.ndarray:
    curve = policy.demand_curve(panel, price_multipliers=[1.0], prediction_length=4)
    return -curve.groupby("item_id")["elasticity"].first().reindex(list(panel.item_ids)).to_numpy()


def shuffle_sales(panel: Panel, seed: int) -> Panel:
    random = np.random.default_rng(seed)
    frame = panel.frame.copy()
    frame["units"] = frame.groupby("item_id")["units"].transform(lambda units: random.permutation(units.to_numpy()))
    return replace(panel, frame=frame)


@pytest.fixture(scope="module")
def cells() -> list[CellData]:
    bed = TestBedArguments(
        num_items=ITEMS, test_seed=997001, confounding=(-0.9, 0.5, 0.9), held_out=("none",), mixed=("none",)
    )
    chosen = [cell for cell in build_cells(bed) if "sold_out" not in cell.name]
    return [simulate_cell(cell) for cell in chosen]


def test_curves_do_not_follow_the_manager(policy: PricingPolicy, cells: list[CellData]) -> None:
    """A log-log regression takes the manager's habit for demand; the network takes at most half as much of it.

    A third is what one would like; at a correlation of -0.9 the base does not reach that.
    """
    assert len(cells) == 3
    for data in cells:
        naive = -estimate_elasticities(data.panel)["elasticity"].to_numpy()
        bias = np.nanmean(naive - data.truth)
        found = read_curves(policy, data.panel)
        assert abs(bias) > 0.4, data.cell.name
        assert abs(np.mean(found - data.truth)) < 0.5 * abs(bias), data.cell.name
        assert np.mean(np.abs(found - data.truth)) < 0.75 * np.nanmean(np.abs(naive - data.truth)), data.cell.name


def test_from_shuffled_sales_no_elasticity_can_be_read(policy: PricingPolicy, cells: list[CellData]) -> None:
    for data in cells:
        right, wrong = (read_curves(policy, panel) for panel in (data.panel, shuffle_sales(data.panel, 0)))
        # A little is left: how much an item sells, and how often its price moves, are not shuffled.
        assert np.corrcoef(right, data.truth)[0, 1] > 0.5, data.cell.name
        assert abs(np.corrcoef(wrong, data.truth)[0, 1]) < 0.35, data.cell.name


def test_pooling_brings_a_new_category_nearer_to_the_truth_and_another_ones_numbers_do_not(
    policy: PricingPolicy,
) -> None:
    model, processor = policy.model, policy.processor

    def read(seed: int, count: int) -> dict[int, FewShotTask]:
        market = FewShotMarketArguments(test_categories=count, test_seed=seed)
        logs = simulate_categories(market, count, seed, 40, 0)
        store = build_decision_store(logs, 8, "categories")
        categories = decision_categories(store, WEEKS, 8)
        task = build_task(store, categories, processor, WEEKS, TaskArguments((WEEKS,)), 8)
        return {WEEKS: replace(task, query=add_elasticities(task.query, logs, 8))}

    rule = fit_rule(model, {}, read(985_000, 150), 1.0)
    assert rule.regressions[0] > 0.2
    tasks = read(986_000, 100)
    base, pooled = (elasticity_errors(model, {}, one, tasks, 1.0)[WEEKS] for one in (None, rule))
    assert pooled < 0.97 * base
    task = tasks[WEEKS]
    stack = pool_stack(model, {}, task.query, rule, WEEKS, 1.0)
    foreign = {name: tensor.roll(1, dims=0) for name, tensor in stack.items()}
    rows = task.query["loss_weights"] > 0
    wrong = read_elasticities(model, foreign, task.query, 1.0)[1][rows] - task.query["held_elasticity"][rows].log()
    assert float((wrong**2).mean().sqrt()) > 1.03 * pooled
