"""The arithmetic of a choice: what a price is worth, how sure that is, and what the network is asked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pricing_fm.objectives.holding import holding_advantages
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.policy.engine import CHUNK, Engine, PathDemand
from pricing_fm.policy.planning import (
    best_candidate,
    cautious_gain,
    dialled_scores,
    planned_value,
    sum_by_group,
    total_quantile,
)
from pricing_fm.policy.situation import read_situation
from tests.policy_artifacts import panel_of, plan_of, sales_log, write_base

LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def demand_of(mean: np.ndarray, member_factor: np.ndarray) -> PathDemand:
    """Demand of `(N, P, H)` means and `(N, P, M, H)` factors; the rest is not read."""
    return PathDemand(np.zeros((*mean.shape, 5)), mean, np.zeros_like(mean), np.zeros_like(mean), member_factor)


def test_the_value_of_a_path_is_its_total_after_the_lead() -> None:
    mean = np.array([[[9.0, 4.0, 6.0], [9.0, 2.0, 1.0]]])
    factor = np.stack([np.full((1, 2, 3), 0.5), np.full((1, 2, 3), 1.5)], axis=2)
    prices, costs = np.array([[3.0, 5.0]]), np.array([1.0])
    for objective, expected in (("margin", [20.0, 12.0]), ("revenue", [30.0, 15.0]), ("units", [10.0, 3.0])):
        found = planned_value(demand_of(mean, factor), prices, costs, objective, lead=1)
        np.testing.assert_allclose(found.mean, [expected])
        np.testing.assert_allclose(found.members, np.array([expected])[..., None] * [0.5, 1.5])


def test_the_dial_weighs_the_lower_bound_of_the_advantage_against_the_policys_habit() -> None:
    habit = np.log(np.array([[0.7, 0.2, 0.1]]))
    advantages = np.array([[[0.0, 0.0], [0.01, 0.01], [0.0, 0.06]]])  # by two members
    choice = {
        (dial, caution): int(dialled_scores(habit, advantages, dial, caution).argmax())
        for dial in (0.0, 300.0, np.inf)
        for caution in (0.0, 1.0)
    }
    assert choice[0.0, 0.0] == choice[0.0, 1.0] == 0
    assert choice[300.0, 0.0] == choice[np.inf, 0.0] == 2
    assert choice[300.0, 1.0] == choice[np.inf, 1.0] == 1
    np.testing.assert_allclose(dialled_scores(habit, advantages, 10.0, 1.0), habit + [[0.0, 0.1, 0.0]])


def test_a_gain_that_the_members_disagree_about_counts_for_less() -> None:
    mean = np.array([[[10.0], [10.0], [10.0]]])
    factor = np.ones((1, 3, 2, 1))
    factor[0, 1, :, 0] = [0.5, 1.5]
    value = planned_value(demand_of(mean, factor), np.array([[2.0, 3.0, 3.0]]), np.array([0.0]), "revenue", 0)
    keep = np.array([0])
    np.testing.assert_allclose(cautious_gain(value, keep, 0.0), [[0.0, 10.0, 10.0]])
    np.testing.assert_allclose(cautious_gain(value, keep, 0.5), [[0.0, 10.0 - 0.5 * 15.0, 10.0]])


def test_near_ties_go_to_the_smaller_move() -> None:
    prices, current = np.array([[4.0, 4.9, 5.5, 9.0]]), np.array([5.0])
    everything = np.ones((1, 4), dtype=bool)
    assert best_candidate(np.array([[1.0, 1.0 - 5e-6, 1.0, 0.0]]), everything, prices, current) == [1]
    assert best_candidate(np.array([[1.0, 1.0 - 5e-5, 0.0, 0.0]]), everything, prices, current) == [0]
    allowed = np.array([[False, True, True, True]])
    assert best_candidate(np.array([[9.0, 1.0, 2.0, 3.0]]), allowed, prices, current) == [3]


def test_sums_by_group_come_back_to_every_member() -> None:
    values = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    np.testing.assert_array_equal(sum_by_group(values, np.array([1, 0, 1])), [[101, 202], [10, 20], [101, 202]])


def test_a_total_of_steps_that_move_together_is_the_sum_of_their_quantiles() -> None:
    random = np.random.default_rng(0)
    quantiles = np.sort(random.gamma(2.0, 10.0, size=(6, 4, 5)), axis=-1)
    for column, level in enumerate(LEVELS):
        found = total_quantile(quantiles, LEVELS, np.full(6, level), 1.0)
        np.testing.assert_allclose(found, quantiles[..., column].sum(1), rtol=0.03)


def test_a_total_of_independent_steps_is_surer_than_its_steps() -> None:
    levels = np.linspace(0.01, 0.99, 99)
    steps = np.broadcast_to(100 * levels, (1, 16, 99)).copy()  # uniform on 0..100
    widths = [
        float(
            total_quantile(steps, levels, np.array([0.9]), correlation)[0]
            - total_quantile(steps, levels, np.array([0.1]), correlation)[0]
        )
        for correlation in (0.0, 0.5, 1.0)
    ]
    assert widths[0] < widths[1] < widths[2]
    assert widths[0] == pytest.approx(2 * 1.2816 * 100 / np.sqrt(12) * 4, rel=0.15)  # normal: 16 uniforms
    middle = total_quantile(steps, levels, np.array([0.5]), 0.3)
    assert middle[0] == pytest.approx(16 * 50, rel=1e-6)


# -- the engine -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("planning") / "base")


@pytest.fixture(scope="module")
def engine(base: Path) -> Engine:
    model, processor, _ = load_base(base)
    return Engine(model, processor)


def test_every_forward_pass_sees_as_many_items(base: Path, monkeypatch) -> None:
    policy = PricingPolicy.from_pretrained(base)
    seen, encode = [], policy.model.encode
    monkeypatch.setattr(policy.model, "encode", lambda batch: seen.append(len(batch["scale"])) or encode(batch))
    for items in (1, 33, 64):
        policy.forecast(panel_of(sales_log(items=items)), 2)
        policy.recommend(panel_of(sales_log(items=items)))
    assert seen == [CHUNK] * 2 * (1 + 2 + 2)


@pytest.mark.parametrize("promotion", [0.0, 1.0])
def test_scores_are_those_of_the_decision_heads_under_the_planned_promotion(engine: Engine, promotion: float) -> None:
    panel = panel_of(sales_log(items=5).drop(columns="cost"))
    plan = plan_of(panel, 4)
    plan.loc[plan["timestamp"] == plan["timestamp"].unique()[1], "promotion"] = promotion  # where the price starts
    situation = read_situation(panel, 16, 4, plan)
    prices = situation.current_price[:, None] * np.array([0.8, 0.93, 1.0, 1.2])
    costs = np.linspace(0.5, 2.0, 5)
    rewards = RewardWeights()
    found = engine.scores(situation, prices, rewards, 0.9, costs, lead=1)

    model, processor = engine.model, engine.processor
    batch = processor(situation.windows)
    batch["unit_costs"] = torch.from_numpy(costs).float()[:, None].expand(5, 4)
    with torch.no_grad():
        encoded = model.encode(batch)
        decided = model.decide(encoded, batch)
        current = torch.from_numpy(situation.current_price).float()
        advantages = holding_advantages(
            model, encoded, batch, torch.from_numpy(prices).float(), current, rewards, 0.9, 1
        )
    rungs = torch.from_numpy(processor.rungs(prices, engine.reference_prices(situation)))
    half = slice(43, 86) if promotion else slice(0, 43)
    for name in ("behavior", "policy"):
        log_probs = getattr(decided, f"{name}_log_probs")[:, 0, half].log_softmax(-1)
        np.testing.assert_allclose(getattr(found, name), log_probs.gather(1, rungs), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.advantages, advantages, rtol=1e-3, atol=1e-5)
    assert (found.advantages[:, 2] == 0).all()
    assert np.abs(found.advantages[:, 0]).min() > 0


def test_demand_of_a_path_does_not_depend_on_the_paths_beside_it(engine: Engine) -> None:
    situation = read_situation(panel_of(sales_log(items=4)), 16, 3)
    paths = situation.current_price[:, None, None] * np.array([[0.8] * 3, [1.0, 1.1, 1.2], [1.2] * 3])
    together = engine.demand(situation, paths)
    for place in range(3):
        alone = engine.demand(situation, paths[:, [place]])
        np.testing.assert_allclose(together.mean[:, [place]], alone.mean, rtol=1e-6)
        np.testing.assert_allclose(together.quantile_values[:, [place]], alone.quantile_values, rtol=1e-6)
    np.testing.assert_allclose(np.log(together.member_factor).mean(2), 0.0, atol=1e-6)
