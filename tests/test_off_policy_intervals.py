"""Intervals hold what they promise, and know what is independent."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.contributions import Contributions, RefusalError, subtract_contributions
from pricing_fm.evaluation.off_policy.intervals import (
    bootstrap_value,
    compute_clustered_error,
    count_price_episodes,
    estimate_bernstein_interval,
    estimate_t_interval,
    widen_tail,
)
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories
from pricing_fm.evaluation.off_policy.trajectory_estimators import (
    estimate_behavior_value,
    estimate_per_decision_importance,
    estimate_trajectory_importance,
)
from pricing_fm.evaluation.off_policy.weights import compute_importance_ratios
from tests.test_off_policy_estimators import LAW, TRUTH


def clustered_log(
    seed: int, products: int = 30, stores: int = 4, periods: int = 12, week_shock: float = 0.0
) -> LoggedTrajectories:
    """Decisions per product, the same in its stores; rewards with shocks of product and week; a coin for a price."""
    rng = np.random.default_rng(seed)
    action = np.repeat(rng.random((products, periods)) < 0.5, stores, axis=0)
    product = np.repeat(rng.normal(size=(products, periods)), stores, axis=0)
    rewards = 2.0 + action + product + week_shock * rng.normal(size=periods) + 0.3 * rng.normal(size=action.shape)
    target = np.where(action, 0.8, 0.2)
    return LoggedTrajectories(rewards, np.full(action.shape, 0.5), target, np.repeat(np.arange(products), stores))


def one_step(log: LoggedTrajectories) -> LoggedTrajectories:
    """Every week of a unit as a decision of its own: the mean reward of a decision is asked for."""
    units, periods = log.shape
    return LoggedTrajectories(
        *(column.reshape(-1, 1) for column in (log.rewards, log.propensities, log.target_propensities)),
        clusters=np.repeat(log.clusters, periods),
        weeks=np.tile(np.arange(periods), units)[:, None],
    )


def width(log: LoggedTrajectories, weeks: bool, replicates: int = 400) -> float:
    parts = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True).contributions
    found = bootstrap_value(parts, resample_weeks=weeks, replicates=replicates).interval()
    return found.upper - found.lower


def test_resampling_whole_products_and_weeks_is_wider_than_resampling_rows() -> None:
    log = one_step(clustered_log(0, week_shock=1.0))
    rows = replace(log, clusters=np.arange(log.shape[0]))
    by_row, by_product, two_way = width(rows, False), width(log, False), width(log, True)
    assert by_product > 1.5 * by_row  # four stores repeat one decision
    assert two_way > 1.5 * by_product


def test_the_interval_halves_at_four_times_the_data() -> None:
    narrow = np.mean([width(one_step(clustered_log(seed, products=120)), False) for seed in range(4)])
    wide = np.mean([width(one_step(clustered_log(seed, products=30)), False) for seed in range(4)])
    assert wide / narrow == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("self_normalized", [False, True])
def test_a_thousand_repetitions_cover_the_truth(self_normalized: bool) -> None:
    """Nominal 0.90; the Monte Carlo error is 0.0095."""
    covered, checked = 0, 0
    for seed in range(1000):
        rows = np.random.default_rng(seed).choice(len(LAW.probabilities), size=300, p=LAW.probabilities)
        log = replace(LAW.log.select(rows), clusters=np.arange(300))
        ratios = compute_importance_ratios(log)
        parts = estimate_per_decision_importance(log, ratios, self_normalized).contributions
        found = bootstrap_value(parts, resample_weeks=False, replicates=300, seed=seed).interval()
        student = estimate_t_interval(parts, two_way=False)
        covered += found.lower <= TRUTH <= found.upper
        checked += student.lower <= TRUTH <= student.upper
    assert 870 <= covered <= 935
    assert 870 <= checked <= 935


@pytest.mark.parametrize("groups", [8, 20])
def test_means_of_few_groups_are_covered_as_often_as_asked(groups: int) -> None:
    """Normal groups, nominal 0.90, 2,000 logs: three Monte Carlo errors are 0.02; plain percentiles fall short."""
    values = np.random.default_rng(groups).normal(size=(2000, groups))
    codes, zeros = np.arange(groups), np.zeros(groups, dtype=np.int64)
    held = {"wide": 0, "plain": 0}
    for row in values:
        drawn = bootstrap_value(Contributions(row, np.ones(groups), codes, zeros, zeros, groups, 1), False, 400)
        wide, plain = drawn.interval(), np.quantile(drawn.replicates, [0.05, 0.95])
        held["wide"] += wide.lower <= 0.0 <= wide.upper
        held["plain"] += plain[0] <= 0.0 <= plain[1]
    assert held["wide"] / 2000 == pytest.approx(0.9, abs=0.02)
    assert held["plain"] / 2000 < 0.88
    assert widen_tail(0.05, 10_000) == pytest.approx(0.05, rel=2e-3)


def test_two_way_intervals_cover_under_shocks_that_hit_a_whole_week() -> None:
    """The mean of a policy that does as the log did, truth 2.5; product-only intervals miss it most of the time."""
    hits = {"two-way": 0, "student": 0, "products": 0}
    for seed in range(200):
        log = one_step(clustered_log(seed, products=25, stores=1, periods=20, week_shock=1.0))
        parts = estimate_behavior_value(log).contributions
        found = {
            "two-way": bootstrap_value(parts, replicates=200, seed=seed).interval(),
            "student": estimate_t_interval(parts),
            "products": bootstrap_value(parts, resample_weeks=False, replicates=200, seed=seed).interval(),
        }
        for name, interval in found.items():
            hits[name] += interval.lower <= 2.5 <= interval.upper
    assert hits["two-way"] >= 170
    assert hits["student"] >= 170
    assert hits["products"] <= 100


def test_a_ratio_is_formed_anew_in_every_replicate() -> None:
    """Self-normalised, a constant reward has no error at all; with the weights' sum held fixed it would have one."""
    log = replace(clustered_log(2), rewards=np.full((120, 12), 3.0))
    ratios = compute_importance_ratios(log)
    for estimator in (estimate_trajectory_importance, estimate_per_decision_importance):
        parts = estimator(log, ratios, self_normalized=True).contributions
        draws = bootstrap_value(parts, resample_weeks=False, replicates=100).replicates
        np.testing.assert_allclose(draws, 36.0)
        both_ways = bootstrap_value(parts, replicates=100).replicates
        np.testing.assert_allclose(both_ways, 36.0)
        loose = bootstrap_value(estimator(log, ratios).contributions, resample_weeks=False, replicates=100)
        assert loose.replicates.std() > 1.0


def test_bootstrap_and_linearised_error_agree() -> None:
    log = clustered_log(3, products=200, stores=1)
    for self_normalized in (False, True):
        parts = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized).contributions
        draws = bootstrap_value(parts, resample_weeks=False, replicates=2000).replicates
        assert draws.std() == pytest.approx(compute_clustered_error(parts, two_way=False), rel=0.08)


def test_weeks_that_are_steps_of_a_self_normalised_sum_are_drawn_as_wholes() -> None:
    log = clustered_log(4, products=400, stores=1, week_shock=2.0)
    parts = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True).contributions
    np.testing.assert_array_equal(parts.term_weeks, np.arange(12))
    spread = bootstrap_value(parts, replicates=2000).replicates.std()
    assert spread == pytest.approx(np.sqrt(12 * parts.term_values.var() * 12 / 12), rel=0.1)
    assert spread == pytest.approx(compute_clustered_error(parts), rel=0.1)


def test_the_empirical_bernstein_interval_is_the_papers_and_refuses_bounds_that_do_not_hold() -> None:
    rewards = np.random.default_rng(0).random((40, 1))
    log = LoggedTrajectories(rewards, np.ones((40, 1)), np.ones((40, 1)), np.arange(40))
    parts = estimate_behavior_value(log).contributions
    found = estimate_bernstein_interval(parts, (0.0, 1.0), level=0.9)
    logarithm = np.log(2.0 / 0.05)
    reach = np.sqrt(2 * rewards.var(ddof=1) * logarithm / 40) + 7 * logarithm / (3 * 39)
    assert found.upper - found.value == pytest.approx(reach)
    assert found.value - found.lower == pytest.approx(reach)
    student = estimate_t_interval(parts, level=0.9)
    assert found.lower < student.lower < student.upper < found.upper
    with pytest.raises(ValueError, match="bounds are"):
        estimate_bernstein_interval(parts, (0.0, 0.5))


def test_a_value_at_its_bound_may_miss_it_by_rounding_and_by_no_more() -> None:
    most = 3 * 0.1  # 0.30000000000000004
    rewards = np.array([[most], [0.0], [most], [0.1]])
    log = LoggedTrajectories(rewards, np.ones((4, 1)), np.ones((4, 1)), np.arange(4))
    parts = estimate_behavior_value(log).contributions
    assert parts.cluster_influences.max() > 0.3
    assert estimate_bernstein_interval(parts, (0.0, 0.3)).value == pytest.approx(0.175)
    with pytest.raises(ValueError, match="bounds are"):
        estimate_bernstein_interval(parts, (0.0, 0.3 * (1 - 1e-8)))


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    log = clustered_log(5, week_shock=2.0)
    manager = estimate_behavior_value(log).contributions
    better = replace(manager, numerators=manager.numerators + 0.1 * np.abs(manager.denominators))
    apart = bootstrap_value(better, replicates=200).interval()
    paired = bootstrap_value(subtract_contributions(better, manager), replicates=200).interval()
    assert paired.lower == pytest.approx(paired.value)
    assert paired.value == pytest.approx(0.1)
    assert apart.upper - apart.lower > 1.0


def test_a_policy_on_a_handful_of_decisions_is_refused() -> None:
    target = np.zeros((50, 1))
    target[0] = 1.0
    log = LoggedTrajectories(np.ones((50, 1)), np.full((50, 1), 0.5), target, np.arange(50))
    parts = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True).contributions
    with pytest.raises(RefusalError, match="too few"):
        bootstrap_value(parts)
    one = LoggedTrajectories(np.ones((3, 1)), np.ones((3, 1)), np.ones((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="one decision unit"):
        bootstrap_value(estimate_behavior_value(one).contributions)


def share_weight(*weights: float, units: int = 50) -> LoggedTrajectories:
    """Weight of the first units of the policy; rewards differ within and between units."""
    target = np.zeros((units, 6))
    target[: len(weights)] = np.array(weights)[:, None]
    log = clustered_log(1, products=units, stores=1, periods=6)
    return one_step(replace(log, propensities=np.ones((units, 6)), target_propensities=target))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0), (1.0, 0.01, 0.01, 0.01, 0.01, 0.01)])
def test_weight_on_one_or_two_units_has_no_student_interval(weights: tuple[float, ...]) -> None:
    log = share_weight(*weights)
    parts = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True).contributions
    for two_way in (False, True):
        with pytest.raises(RefusalError, match="of 50 decision units"):
            estimate_t_interval(parts, two_way=two_way)


def test_weight_on_one_week_has_no_two_way_student_interval() -> None:
    log = share_weight(*np.ones(50))
    log = replace(log, target_propensities=np.where(log.weeks == 2, 1.0, 0.0))
    parts = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True).contributions
    with pytest.raises(RefusalError, match="of 6 weeks"):
        estimate_t_interval(parts)
    assert estimate_t_interval(parts, two_way=False).lower < parts.value


def test_weight_on_several_units_has_a_student_interval() -> None:
    log = share_weight(*np.ones(5))
    parts = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True).contributions
    found = estimate_t_interval(parts)
    assert found.lower < found.value < found.upper


def test_episodes_are_decisions_not_weeks() -> None:
    prices = np.array([[1.0, 1.0, 2.0, 2.0, 1.0], [1.0, 1.0, 2.0, 2.0, 1.0], [3.0, np.nan, 3.0, 4.0, 4.0]])
    assert count_price_episodes(prices, np.array(["a", "a", "b"])) == 3 + 2
    assert count_price_episodes(prices, np.array(["a", "c", "b"])) == 3 + 3 + 2
    assert count_price_episodes(np.full((7, 30), 2.5), np.arange(7)) == 7
