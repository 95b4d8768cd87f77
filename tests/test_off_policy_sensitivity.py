"""Bounds are exact: no weight in its range gives more, and some give as much."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from pricing_fm.evaluation.off_policy.contributions import RefusalError
from pricing_fm.evaluation.off_policy.sensitivity import (
    WeightBounds,
    bootstrap_bounds,
    bound_balanced,
    bound_self_normalized,
    bound_structured,
    compute_weight_bounds,
)
from pricing_fm.evaluation.off_policy.structured import StructuredSettings, estimate_structured
from tests.off_policy_shop import simulate_case
from tests.test_off_policy_structured import fit, target_of, weigh


def draw_decisions(seed: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=rows), rng.uniform(0.05, 1.0, rows), rng.uniform(0.0, 1.0, rows)


def test_weights_follow_the_odds() -> None:
    """Odds of 0.2 are 1 : 4; twice and half of them are 1 : 2 and 1 : 8."""
    found = compute_weight_bounds(np.array([0.6]), np.array([0.2]), 2.0)
    np.testing.assert_allclose([found.low[0], found.nominal[0], found.high[0]], [0.6 * 3, 0.6 * 5, 0.6 * 9])
    certain = compute_weight_bounds(
        np.array([0.6]), np.array([1.0]), 2.0
    )  # nothing hidden can change a certain decision
    assert certain.low[0] == certain.high[0] == 0.6
    density = compute_weight_bounds(np.array([0.6]), np.array([3.0]), 2.0, is_density=True)
    np.testing.assert_allclose([density.low[0], density.high[0]], [0.1, 0.4])
    for chance, sensitivity in ((0.5, 0.5), (1.5, 2.0), (0.0, 2.0)):
        with pytest.raises(ValueError, match="sensitivity is 0.5|propensities must lie"):
            compute_weight_bounds(np.ones(1), np.array([chance]), sensitivity)


@given(st.integers(0, 10_000), st.sampled_from([1.0, 1.5, 2.0, 10.0]), st.integers(2, 25))
@settings(max_examples=40, deadline=None)
def test_the_range_of_the_self_normalised_mean_is_that_of_the_linear_program(
    seed: int, sensitivity: float, rows: int
) -> None:
    """Charnes and Cooper: with u = w / sum w and t = 1 / sum w the ratio is linear."""
    values, propensities, target = draw_decisions(seed, rows)
    weights = compute_weight_bounds(target, propensities, sensitivity)
    found = bound_self_normalized(values, weights)
    inequalities = np.vstack(
        [np.hstack([np.eye(rows), -weights.high[:, None]]), np.hstack([-np.eye(rows), weights.low[:, None]])]
    )
    equality = np.append(np.ones(rows), 0.0)[None]
    for sign, end in ((1.0, found.lower), (-1.0, found.upper)):
        cost = np.append(sign * values, 0.0)
        solved = linprog(cost, inequalities, np.zeros(2 * rows), equality, [1.0], bounds=[(0, None)] * (rows + 1))
        assert end == pytest.approx(sign * solved.fun, abs=1e-7)
    point = (weights.nominal * values).sum() / weights.nominal.sum()
    if sensitivity == 1.0:
        np.testing.assert_allclose([found.lower, found.upper], point, atol=1e-12)
    assert found.lower - 1e-12 <= point <= found.upper + 1e-12


def test_bounds_widen_scale_and_shift() -> None:
    values, propensities, target = draw_decisions(1)
    widths = []
    for sensitivity in (1.0, 1.5, 2.0):
        weights = compute_weight_bounds(target, propensities, sensitivity)
        found = bound_self_normalized(values, weights)
        moved = bound_self_normalized(3.0 * values + 7.0, weights)
        np.testing.assert_allclose(moved, [3.0 * found.lower + 7.0, 3.0 * found.upper + 7.0])
        order = np.random.default_rng(0).permutation(len(values))
        shuffled = bound_self_normalized(values[order], WeightBounds(*(column[order] for column in weights)))
        np.testing.assert_allclose(shuffled, found)
        widths.append(found.upper - found.lower)
    assert widths[0] == pytest.approx(0.0, abs=1e-12)
    assert 0.0 < widths[1] < widths[2]


def test_a_hidden_signal_within_the_factor_is_covered_and_a_stronger_one_is_not() -> None:
    """A manager who prices high when a hidden coin says that customers are rich; written out whole."""
    for odds, covered in ((2.0, True), (8.0, False)):
        # Propensity of the high price is 1/2 given what was seen; odds of it given the coin are odds or 1 / odds.
        share = odds / (1.0 + odds)
        chances = np.array([0.5 * share, 0.5 * (1.0 - share)])  # coin rich or poor, high price logged
        rewards, truth = np.array([3.0, 1.0]), 2.0
        weights = compute_weight_bounds(np.ones(2), np.full(2, 0.5), 2.0)
        counted = WeightBounds(*(chances * column for column in weights))
        found = bound_self_normalized(rewards, counted)
        assert (found.lower <= truth + 1e-12) == covered
    naive = bound_self_normalized(rewards, WeightBounds(*(chances * weights.nominal for _ in range(3))))
    assert naive.lower == naive.upper > 2.5


def test_balancing_what_was_seen_tightens_the_range_to_the_sharp_one() -> None:
    rng = np.random.default_rng(2)
    state = np.repeat([0, 1, 2], 30)
    values = 5.0 * state + rng.normal(size=90)
    propensities = np.array([0.3, 0.5, 0.8])[state]
    weights = compute_weight_bounds(np.ones(90), propensities, 2.0)
    loose, free = bound_self_normalized(values, weights), bound_balanced(values, weights, np.zeros((90, 0)))
    sharp = bound_balanced(values, weights, np.eye(3)[state])
    assert loose.lower <= free.lower < sharp.lower < sharp.upper < free.upper <= loose.upper
    assert sharp.upper - sharp.lower < 0.5 * (loose.upper - loose.lower)
    # State by state: the highest third of the rewards has the high weight (2 / 3 of them the low one), so that the
    # weights' mean stays what it is.
    expected = 0.0
    for code in range(3):
        here = np.sort(values[state == code])
        low, high = weights.low[state == code][0], weights.high[state == code][0]
        expected += (low * here[:20].sum() + high * here[20:].sum()) / weights.nominal.sum()
        assert 20 * low + 10 * high == pytest.approx(weights.nominal[state == code].sum())
    assert sharp.upper == pytest.approx(expected, rel=1e-7)
    point = compute_weight_bounds(np.ones(90), propensities, 1.0)
    exact = bound_balanced(values, point, np.eye(3)[state])
    assert exact.lower == pytest.approx(exact.upper, rel=1e-9)


def test_the_bootstrap_of_the_bounds_is_wider_and_forms_every_ratio_anew() -> None:
    values, propensities, target = draw_decisions(3, 200)
    weights = compute_weight_bounds(target, propensities, 1.5)
    found = bound_self_normalized(values, weights)
    wide = bootstrap_bounds(values, weights, np.arange(200), replicates=300)
    assert wide.lower < found.lower < found.upper < wide.upper
    blocks = bootstrap_bounds(np.repeat(values[:20], 10), weights, np.repeat(np.arange(20), 10), replicates=300)
    single = bootstrap_bounds(np.repeat(values[:20], 10), weights, np.arange(200), replicates=300)
    assert blocks.upper - blocks.lower > 1.5 * (single.upper - single.lower)
    constant = bootstrap_bounds(np.full(200, 4.0), weights, np.arange(200) // 10, np.arange(200) % 10, replicates=100)
    np.testing.assert_allclose(constant, 4.0)


def test_bounds_that_rest_on_a_handful_of_decisions_have_no_interval() -> None:
    values, propensities, target = draw_decisions(3, 200)
    units = np.arange(200) // 10
    for kept in (units == 7, units <= 1):
        weights = compute_weight_bounds(np.where(kept, target, 0.0), propensities, 1.5)
        with pytest.raises(RefusalError, match="too few units"):
            bootstrap_bounds(values, weights, units, replicates=200)
    weights = compute_weight_bounds(np.where(units <= 5, target, 0.0), propensities, 1.5)
    found = bootstrap_bounds(values, weights, units, replicates=200)
    assert found.lower < found.upper


def test_the_structured_value_is_a_point_at_sensitivity_one_and_a_range_beyond() -> None:
    case = simulate_case(0, units=40)
    demand = fit(case)
    decisions = weigh(case, demand)
    settings_ = StructuredSettings(draws=16)
    estimate = estimate_structured(demand, case.shop, target_of(case), decisions, settings_)
    informative = demand.rows.counts.informative.reshape(case.log.units.shape)
    ranges = []
    for sensitivity in (1.0, 1.5, 2.0):
        weights = compute_weight_bounds(case.target_propensities, case.propensities, sensitivity)
        weights = WeightBounds(*(np.where(informative, column, 0.0) for column in weights))
        ranges.append(bound_structured(demand, case.shop, target_of(case), weights, draws=16))
    assert ranges[0].values.lower == pytest.approx(estimate.value, rel=1e-10)
    assert ranges[0].log_corrections.lower == pytest.approx(estimate.log_correction, abs=1e-9)
    assert ranges[2].values.lower < ranges[1].values.lower < estimate.value < ranges[1].values.upper
    assert ranges[1].values.upper < ranges[2].values.upper
    # Whatever weights in their ranges the hidden knowledge picks, the correction stays inside.
    low, high = weights.low, weights.high
    for seed in range(5):
        mixed = low + np.random.default_rng(seed).random(low.shape) * (high - low)
        other = estimate_structured(demand, case.shop, target_of(case), replace(decisions, ratios=mixed), settings_)
        assert ranges[2].log_corrections.lower <= other.log_correction <= ranges[2].log_corrections.upper
