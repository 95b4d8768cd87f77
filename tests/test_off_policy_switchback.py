"""The experiment that is planned shows what it was planned for, as often as it was planned."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.switchback import (
    SwitchbackPlan,
    WeeklyVariation,
    compute_switchback_power,
    draw_switchback,
    estimate_switchback,
    measure_weekly_variation,
    plan_switchback,
)

PERSISTENCE, CARRY_OVER = 0.6, 2


def simulate_rewards(seed: int, units: int, weeks: int) -> np.ndarray:
    """Unit levels, shocks of whole weeks larger than anything else, and autocorrelated noise, larger in some units."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((units, weeks))
    noise[:, 0] = rng.normal(size=units)
    for week in range(1, weeks):
        noise[:, week] = PERSISTENCE * noise[:, week - 1] + np.sqrt(1 - PERSISTENCE**2) * rng.normal(size=units)
    size = rng.permutation(np.linspace(0.5, 1.5, units))[:, None]
    return 20.0 * rng.random((units, 1)) + 3.0 * rng.normal(size=weeks) + size * noise


def add_effect(rewards: np.ndarray, treated: np.ndarray, effect: float) -> np.ndarray:
    """The effect of an arm comes only after the weeks of carry-over: until then customers see the other one."""
    late = np.hstack([np.repeat(treated[:, :1], CARRY_OVER, axis=1), treated[:, :-CARRY_OVER]])
    return rewards + effect * late


def test_variation_is_that_between_units_in_the_same_weeks() -> None:
    rewards = np.array([[1.0, 2.0, 4.0], [1.0, 4.0, 4.0]])
    found = measure_weekly_variation(rewards, np.array(["a", "b"]))
    np.testing.assert_allclose(
        found.squared_differences, [0.0, 2.0, 0.0]
    )  # changes 1 and 3, then 2 and 0; then 3 and 3
    assert (found.num_units, found.num_weeks) == (2, 3)
    moved = rewards + np.array([[5.0], [0.0]]) + np.array([0.0, -7.0, 2.0])
    np.testing.assert_allclose(measure_weekly_variation(moved, np.arange(2)).squared_differences, [0.0, 2.0, 0.0])
    rows = np.vstack([rewards - 3.0, rewards[:1] + 3.0, rewards[1:] + 3.0])
    np.testing.assert_allclose(measure_weekly_variation(rows, np.array([0, 1, 0, 1])).squared_differences[1], 2.0)


def test_the_variance_of_a_pair_of_blocks_is_that_of_its_contrast() -> None:
    white = WeeklyVariation(np.where(np.arange(20) > 0, 2.0 * 9.0, 0.0), 10)
    assert white.compute_pair_variance(5, 2) == pytest.approx(2.0 * 9.0 / 3)
    lags = np.arange(20)
    persistent = WeeklyVariation(2.0 * (1.0 - PERSISTENCE**lags), 10)
    weights = np.array([0.0, -0.5, -0.5, 0.0, 0.5, 0.5])
    covariance = PERSISTENCE ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    assert persistent.compute_pair_variance(3, 1) == pytest.approx(weights @ covariance @ weights)
    simulated = measure_weekly_variation(simulate_rewards(0, 400, 60), np.arange(400))
    size = np.mean(np.linspace(0.5, 1.5, 400) ** 2)
    assert simulated.compute_pair_variance(3, 1) == pytest.approx(size * weights @ covariance @ weights, rel=0.05)


def test_missing_weeks_leave_the_variation_what_it_is() -> None:
    rewards = simulate_rewards(1, 300, 40)
    whole = measure_weekly_variation(rewards, np.arange(300))
    rewards[np.random.default_rng(0).random(rewards.shape) < 0.3] = np.nan
    gaps = measure_weekly_variation(rewards, np.arange(300))
    np.testing.assert_allclose(gaps.squared_differences[1:10], whole.squared_differences[1:10], rtol=0.05)
    assert not np.array_equal(gaps.squared_differences, whole.squared_differences)


@pytest.fixture(scope="module")
def plan() -> SwitchbackPlan:
    """For 21 units (one more than can be balanced), from a long log."""
    variation = replace(measure_weekly_variation(simulate_rewards(2, 500, 60), np.arange(500)), num_units=21)
    return plan_switchback(variation, 0.3, CARRY_OVER)


def test_the_planned_power_and_level_are_those_of_simulated_experiments(plan: SwitchbackPlan) -> None:
    """500 experiments: three Monte Carlo errors are 0.054 at a power of 0.8 and 0.040 at a level of 0.1."""
    shown, false, covered = 0, 0, 0
    for seed in range(500):
        rewards, treated = simulate_rewards(seed, plan.num_units, plan.num_weeks), draw_switchback(plan, seed)
        found = estimate_switchback(add_effect(rewards, treated, plan.effect), treated, plan)
        shown += found.p_value < plan.level
        covered += found.lower <= plan.effect
        false += estimate_switchback(rewards, treated, plan).p_value < plan.level
    assert 0.8 <= plan.power < 0.9
    assert abs(shown / 500 - plan.power) < 0.054
    assert abs(false / 500 - 0.1) < 0.04
    assert abs(covered / 500 - 0.9) < 0.04


def test_without_a_washout_the_carry_over_eats_the_effect(plan: SwitchbackPlan) -> None:
    hasty = replace(plan, washout_weeks=0)
    effects: dict[str, list[float]] = {"planned": [], "hasty": []}
    for seed in range(60):
        rewards, treated = simulate_rewards(seed, plan.num_units, plan.num_weeks), draw_switchback(plan, seed)
        seen = add_effect(rewards, treated, 2.0)
        effects["planned"].append(estimate_switchback(seen, treated, plan).effect)
        effects["hasty"].append(estimate_switchback(seen, treated, hasty).effect)
    assert np.mean(effects["planned"]) == pytest.approx(2.0, abs=0.08)
    assert np.mean(effects["hasty"]) < 1.5


def test_the_draw_gives_every_unit_both_arms_in_every_pair(plan: SwitchbackPlan) -> None:
    treated = draw_switchback(plan, 5)
    pairs = treated.reshape(plan.num_units, plan.pairs_per_unit, 2, plan.block_weeks)
    assert np.all(pairs.sum(axis=(2, 3)) == plan.block_weeks)
    assert set(treated.sum(axis=0).tolist()) <= {10, 11}
    assert not np.array_equal(treated, draw_switchback(plan, 6))
    assert len(np.unique(pairs[:, :, 0, 0], axis=1).T) > 1 or plan.pairs_per_unit == 1


def test_the_effect_is_the_difference_within_pairs() -> None:
    plan = SwitchbackPlan(2, 2, 2, 1, 1.0, 1.0, 0.1, 0.8)
    treated = np.array([[1, 1, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]], dtype=bool)
    week = np.array([9.0, 1.0, 9.0, 2.0, 9.0, 4.0, 9.0, 8.0])  # the first week of each block is not read
    noise = np.array([[0, 0, 0, 0, 0, 0, 0, 2.0], [0.0] * 8])
    found = estimate_switchback(week + 3.0 * treated + noise, treated, plan)
    # Half the differences between units: 3 in the first pair, 3 + 1 in the second.
    assert found.effect == pytest.approx(3.5)
    assert found.standard_error == pytest.approx(np.sqrt(4 * 0.5**2 / 1 / 4))
    with pytest.raises(ValueError, match="one whole block"):
        estimate_switchback(week + np.zeros((2, 1)), np.ones((2, 8), bool), plan)


def test_a_plan_is_the_smallest_that_has_the_power(plan: SwitchbackPlan) -> None:
    smaller = (plan.pair_variance, plan.num_units, plan.pairs_per_unit - 1)
    assert plan.pairs_per_unit > 1
    assert compute_switchback_power(plan.effect, *smaller) < 0.8
    assert plan.num_cells == 2 * plan.pairs_per_unit * 21
    easy = plan_switchback(WeeklyVariation(np.where(np.arange(30) > 0, 2.0, 0.0), 200), 1.0, CARRY_OVER)
    assert easy.pairs_per_unit == 1
    assert 2 < easy.num_units < 40
    assert compute_switchback_power(1.0, easy.pair_variance, easy.num_units - 1, 1) < 0.8 <= easy.power
    half = plan_switchback(WeeklyVariation(np.where(np.arange(30) > 0, 2.0, 0.0), 2), 0.05, 1, 4)
    quarter = plan_switchback(WeeklyVariation(np.where(np.arange(30) > 0, 2.0, 0.0), 2), 0.025, 1, 4)
    assert quarter.num_cells / half.num_cells == pytest.approx(4.0, rel=0.01)
    for words in (f"{plan.num_cells} cells", "21 decision units", f"{plan.num_weeks} weeks", "first 2 of each"):
        assert words in plan.describe()


def test_what_cannot_be_planned_is_refused_with_what_was_found() -> None:
    variation = WeeklyVariation(np.where(np.arange(5) > 0, 2.0, 0.0), 4)
    with pytest.raises(ValueError, match="log has 5 weeks"):
        plan_switchback(variation, 1.0, carry_over_weeks=2)
    with pytest.raises(ValueError, match="effect is 0.0"):
        plan_switchback(variation, 0.0, carry_over_weeks=0)
    with pytest.raises(ValueError, match="longer than the log"):
        variation.compute_pair_variance(3, 0)
    with pytest.raises(ValueError, match="none is left"):
        variation.compute_pair_variance(2, 2)
    with pytest.raises(ValueError, match="larger margin"):
        plan_switchback(variation, 1e-6, carry_over_weeks=0)
    with pytest.raises(ValueError, match="do not vary"):
        measure_weekly_variation(np.ones((3, 4)), np.arange(3))
    with pytest.raises(ValueError, match="two decision units"):
        measure_weekly_variation(np.random.default_rng(0).random((3, 4)), np.zeros(3))


def test_a_variance_below_zero_from_a_short_log_is_not_believed() -> None:
    """Differences of noisy lags need not be those of any process: the contrast of long blocks may come out negative."""
    squares = np.array([0.0, 2.0, 2.0, 2.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2])
    variation = WeeklyVariation(squares, 20)
    assert variation.compute_pair_variance(6, 2) < 0.0
    plan = plan_switchback(variation, effect=0.5, carry_over_weeks=2, block_weeks=6)
    assert plan.pair_variance == pytest.approx(0.5 * 2.0 / 4)
    assert plan.power >= 0.8
