"""The behaviour model finds what simulated managers did, is calibrated on unseen products, and does not peek."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy import (
    BehaviorEstimate,
    BehaviorSettings,
    DecisionLog,
    build_trajectories,
    compute_importance_ratios,
    estimate_behavior_value,
    estimate_per_decision_importance,
    fit_behavior,
    fit_marginal_behavior,
    measure_behavior_calibration,
    read_simulated_decisions,
    read_true_propensities,
)
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, simulate_log

# Name of a case: manager, correlation of the demand follower's wish with hidden demand.
CASES = {
    "epsilon_ladder": ("epsilon_ladder", 0.0),
    "plain_follower": ("demand_follower", 0.0),
    "hi_lo": ("hi_lo", 0.0),
    "confounded_follower": ("demand_follower", 0.9),
}
LADDER = np.array([0.7, 0.8, 0.9, 1.0])


@cache
def simulate(case: str, markets: int = 36) -> tuple[DecisionLog, np.ndarray]:
    """Decisions of four products in each market over two years, and their true propensities."""
    manager, confounding = CASES[case]
    habits = ManagerSettings(names=(manager,), confounding=(confounding, confounding))
    log = simulate_log(
        RetailSettings(num_products=4), habits, LogSettings(num_markets=markets, num_periods=104, seed=3)
    )
    return read_simulated_decisions(log), read_true_propensities(log)


@cache
def fit(case: str) -> BehaviorEstimate:
    return fit_behavior(simulate(case)[0])


@cache
def fit_baseline(case: str) -> BehaviorEstimate:
    return fit_marginal_behavior(simulate(case)[0])


def excess_loss(estimate: BehaviorEstimate, true: np.ndarray, first: int = 0) -> float:
    """Mean log of true over estimated propensity of the logged price: 0 is perfect."""
    decided = estimate.log.decided & (np.arange(true.shape[1]) >= first)
    return float(np.log(true[decided] / estimate.logged_rung_propensities[decided]).mean())


def draw_log(products: int = 40, periods: int = 100, seed: int = 0) -> tuple[DecisionLog, np.ndarray]:
    """All items share one habit: a change with chance 0.3, to any other rung alike; promotions by rung."""
    random = np.random.default_rng(seed)
    rungs = np.empty((products, periods), dtype=int)
    rungs[:, 0] = random.integers(len(LADDER), size=products)
    for period in range(1, periods):
        other = (rungs[:, period - 1] + random.integers(1, len(LADDER), size=products)) % len(LADDER)
        rungs[:, period] = np.where(random.random(products) < 0.3, other, rungs[:, period - 1])
    chance = np.array([0.8, 0.5, 0.3, 0.05])[rungs]
    promotions = random.random(rungs.shape) < chance
    moved = np.diff(rungs, axis=1, prepend=-1) != 0
    propensities = np.where(moved, 0.3 / 3, 0.7) * np.where(promotions, chance, 1.0 - chance)
    labels = np.array([f"product-{number}" for number in range(products)])
    nothing = np.full(rungs.shape, np.nan)
    log = DecisionLog(
        price_ladder=LADDER,
        rungs=rungs,
        promotions=promotions,
        observed=np.ones(rungs.shape, dtype=bool),
        item_ids=labels,
        products=labels,
        zones=labels,
        categories=np.repeat("all", products),
        timestamps=np.datetime64("2024-01-01") + 7 * np.arange(periods),
        reference_prices=np.ones(rungs.shape),
        units=random.poisson(5.0, rungs.shape).astype(float),
        inventory=nothing,
        costs=nothing,
    )
    return log, propensities


def test_a_habit_that_all_items_share_is_recovered_to_a_few_percent() -> None:
    log, true = draw_log()
    estimate = fit_behavior(log)
    decided = log.decided
    error = np.abs(estimate.logged_propensities - true)[decided]
    assert error.mean() < 0.03
    assert np.abs(fit_marginal_behavior(log).logged_propensities - true)[decided].mean() > 0.15
    assert np.nanmean(estimate.change_probabilities) == pytest.approx(0.3, abs=0.02)
    for rung, chance in enumerate((0.8, 0.5, 0.3, 0.05)):
        assert np.nanmean(estimate.promotion_probabilities[..., rung]) == pytest.approx(chance, abs=0.06)


@pytest.mark.parametrize("case, most", [("epsilon_ladder", 0.035), ("plain_follower", 0.045), ("hi_lo", 0.15)])
def test_true_propensities_of_unseen_products_are_recovered(case: str, most: float) -> None:
    # Nats per decision. Habits differ between items and must be read from each item's own past; hi_lo keeps a
    # calendar of its own for every item, which takes some cycles to show.
    log, true = simulate(case)
    estimate, baseline = fit(case), fit_baseline(case)
    assert -0.02 < excess_loss(estimate, true) < most
    assert excess_loss(estimate, true, first=52) < excess_loss(estimate, true)
    assert excess_loss(baseline, true) > 5 * excess_loss(estimate, true)
    error = np.abs(estimate.logged_rung_propensities - true)[log.decided]
    assert error.mean() < 0.075
    assert np.abs(baseline.logged_rung_propensities - true)[log.decided].mean() > 0.2


def test_what_the_manager_alone_knew_is_not_recovered_though_calibration_looks_fine() -> None:
    plain, confounded = (
        excess_loss(fit(case), simulate(case)[1]) for case in ("plain_follower", "confounded_follower")
    )
    assert confounded > 4 * plain
    assert measure_behavior_calibration(fit("confounded_follower")).action.value < 0.02


@pytest.mark.parametrize("case", ["epsilon_ladder", "plain_follower", "hi_lo"])
def test_the_calibration_error_on_held_out_products_is_at_most_two_percent(case: str) -> None:
    found, baseline = (measure_behavior_calibration(one) for one in (fit(case), fit_baseline(case)))
    assert found.action.value <= 0.02
    assert found.change.value <= 0.02
    assert found.promotion is not None
    assert found.promotion.value <= 0.02
    # Changes are few: with right probabilities chance alone shows an error of 0.01 to 0.02 here.
    assert found.rung is not None
    assert found.rung.value <= 0.02 + found.rung.noise
    assert found.action.lower <= found.action.value <= found.action.upper
    assert baseline.change.value > 0.1
    assert baseline.action.value > found.action.value


def test_calibration_bites_where_the_regression_alone_is_off() -> None:
    log, _ = simulate("hi_lo")
    raw = fit_behavior(log, BehaviorSettings(calibration_folds=0))
    assert measure_behavior_calibration(raw).change.value > 2 * measure_behavior_calibration(fit("hi_lo")).change.value


def test_probabilities_sum_to_one_and_the_logged_action_is_one_of_them() -> None:
    log, estimate = simulate("epsilon_ladder")[0], fit("epsilon_ladder")
    decided = log.decided
    actions = estimate.action_probabilities
    np.testing.assert_allclose(actions[decided].sum(axis=(1, 2)), 1.0, atol=1e-12)
    assert np.isnan(actions[~decided]).all()
    assert (~decided).any()
    items, periods = np.nonzero(decided)
    logged = actions[items, periods, log.rungs[decided], log.promoted[decided]]
    np.testing.assert_array_equal(estimate.logged_propensities[decided], logged)
    other = estimate.compute_propensities(np.full(log.shape, 2), np.ones(log.shape))
    np.testing.assert_array_equal(other[decided], actions[decided][:, 2, 1])
    last = np.take_along_axis(estimate.rung_probabilities[:, 1:], log.rungs[:, :-1, None], 2)[..., 0]
    np.testing.assert_allclose(last, 1.0 - estimate.change_probabilities[:, 1:], atol=1e-12)


def test_no_row_of_a_product_enters_the_model_that_judges_it() -> None:
    log, _ = draw_log(products=20, periods=40)
    before, first = fit_behavior(log), 25
    rungs, promotions, units = log.rungs.copy(), np.array(log.promotions), log.units.copy()
    rungs[0, first:] = 3 - rungs[0, first:]
    promotions[0, first:] = ~promotions[0, first:]
    units[0, first:] *= 7.0
    after = fit_behavior(replace(log, rungs=rungs, promotions=promotions, units=units))
    # Its own probabilities move with its own past alone: not before, and not in, the first period that differs.
    own, same = 0, slice(0, first + 1)
    np.testing.assert_array_equal(before.action_probabilities[own, same], after.action_probabilities[own, same])
    assert not np.allclose(before.rung_probabilities[own, first + 1], after.rung_probabilities[own, first + 1])
    with_it = before.folds == before.folds[own]
    with_it[own] = False
    assert with_it.any()
    np.testing.assert_array_equal(before.action_probabilities[with_it], after.action_probabilities[with_it])
    others = before.folds != before.folds[own]
    moved = np.nanmax(np.abs(before.action_probabilities - after.action_probabilities)[others], axis=(1, 2, 3))
    assert np.all(moved > 0)  # the other folds did learn from it


def test_stores_of_one_product_share_a_fold() -> None:
    log, _ = draw_log(products=20, periods=20)
    shared = replace(log, products=np.repeat([f"p{number}" for number in range(10)], 2))
    folds = fit_behavior(shared).folds
    np.testing.assert_array_equal(folds[::2], folds[1::2])
    assert len(np.unique(folds)) == 5


def test_estimated_propensities_feed_the_estimators() -> None:
    log, _ = draw_log()
    estimate = fit_behavior(log)
    rewards = np.where(log.promoted, 2.0, 1.0) * (1.0 + log.rungs)
    same = build_trajectories(estimate, rewards, estimate.action_probabilities)
    assert not same.mask[:, 0].any()  # the first price has no history to be judged on
    ratios = compute_importance_ratios(same)
    np.testing.assert_allclose(ratios.steps, 1.0)
    value = estimate_per_decision_importance(same, ratios).value
    assert value == pytest.approx(estimate_behavior_value(same).value)
    # A policy that always charges the top rung without a promotion would earn 4 in every period.
    target = np.zeros((*log.shape, 4, 2))
    target[..., 3, 0] = 1.0
    one_step = build_trajectories(estimate, rewards, target)
    weights = one_step.target_propensities / one_step.propensities
    assert (weights * one_step.rewards)[one_step.mask].mean() == pytest.approx(4.0, rel=0.1)
    unknown = rewards.copy()
    unknown[3, 5] = np.nan
    assert not build_trajectories(estimate, unknown, target).mask[3, 5]


def test_a_log_without_promotions_never_promotes() -> None:
    log, _ = draw_log(products=20, periods=30)
    estimate = fit_behavior(replace(log, promotions=None))
    decided = log.decided
    assert np.all(estimate.action_probabilities[decided][..., 1] == 0.0)
    assert measure_behavior_calibration(estimate).promotion is None
    np.testing.assert_array_equal(estimate.logged_propensities[decided], estimate.logged_rung_propensities[decided])


def test_broken_questions_are_refused() -> None:
    log, _ = draw_log(products=6, periods=20)
    with pytest.raises(ValueError, match="6 products and 7 folds"):
        fit_behavior(log, BehaviorSettings(folds=7))
    with pytest.raises(ValueError, match="calibration_folds"):
        fit_behavior(log, BehaviorSettings(folds=2, calibration_folds=4))
    with pytest.raises(ValueError, match="never changes"):
        fit_behavior(replace(log, rungs=np.ones_like(log.rungs)))
    with pytest.raises(ValueError, match="holds no decision"):
        fit_behavior(replace(log, observed=np.zeros(log.shape, dtype=bool)))
    for change in ({"folds": 1}, {"calibration_folds": 1}, {"penalty": 0.0}, {"least_probability": 1.0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            BehaviorSettings(**change)  # type: ignore[arg-type]
    estimate = fit_behavior(log, BehaviorSettings(folds=3))
    with pytest.raises(ValueError, match="rungs span 4 to 4"):
        estimate.compute_propensities(np.full(log.shape, 4), np.zeros(log.shape))
    with pytest.raises(ValueError, match="expected \\(6, 20\\)"):
        estimate.compute_propensities(np.zeros((6, 19), dtype=int), np.zeros(log.shape))
    with pytest.raises(ValueError, match="'product-0' in period 1 sum to 0"):
        build_trajectories(estimate, np.zeros(log.shape), np.zeros((*log.shape, 4, 2)))
    with pytest.raises(ValueError, match="rewards have shape"):
        build_trajectories(estimate, np.zeros((6, 19)), estimate.action_probabilities)


def test_a_manager_who_follows_a_signal_is_read_with_it_and_misread_without() -> None:
    """Four weeks in ten the price is not looked at; else a rung is drawn that leans with the signal."""
    random = np.random.default_rng(1)
    log, _ = draw_log(products=60, periods=40)
    signals = random.normal(size=log.shape)
    utilities = 1.2 * signals[..., None] * np.array([-1.5, -0.5, 0.5, 1.5])
    drawn = np.exp(utilities) / np.exp(utilities).sum(axis=2, keepdims=True)
    rungs, true = np.zeros(log.shape, dtype=int), np.ones(log.shape)
    for period in range(1, log.shape[1]):
        before = np.arange(4) == rungs[:, period - 1, None]
        chances = 0.6 * drawn[:, period] + 0.4 * before
        rungs[:, period] = (random.random(60)[:, None] >= chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
        true[:, period] = chances[np.arange(60), rungs[:, period]]
    log = replace(log, rungs=rungs, promotions=None)
    seeing, blind = fit_behavior(replace(log, signals=signals[..., None])), fit_behavior(log)
    assert -0.01 < excess_loss(seeing, true) < 0.04
    assert excess_loss(blind, true) > 0.15
    with pytest.raises(ValueError, match="signals have shape"):
        replace(log, signals=signals)
    with pytest.raises(ValueError, match="not finite"):
        replace(log, signals=np.full((*log.shape, 1), np.nan))
