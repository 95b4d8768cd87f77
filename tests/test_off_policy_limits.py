"""Prices never tried, bad outcomes, groups of customers, and logs that cannot tell."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from pricing_fm.evaluation.off_policy.contributions import NotIdentified
from pricing_fm.evaluation.off_policy.identification import IdentificationRules, judge_identification
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories
from pricing_fm.evaluation.off_policy.monotone_bounds import (
    bound_monotone_demand,
    bound_monotone_margin,
    pool_falling,
)
from pricing_fm.evaluation.off_policy.risk import (
    compute_cvar,
    compute_downside_probability,
    estimate_segment_values,
)
from pricing_fm.evaluation.off_policy.stock_test import (
    SpillOverTest,
    StockTest,
    estimate_spill_over,
    estimate_stock_relation,
    has_telling_neighbors,
    has_telling_stock,
)
from pricing_fm.evaluation.off_policy.trajectory_estimators import (
    estimate_behavior_value,
    estimate_per_decision_importance,
)
from pricing_fm.evaluation.off_policy.weights import compute_importance_ratios
from tests.off_policy_shop import Case, simulate_case
from tests.test_off_policy_structured import fit

TRIED = np.array([1.0, 2.0, 3.0])


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=12), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_pooling_is_the_weighted_least_squares_fit_that_never_rises(values: list[float], seed: int) -> None:
    """As steps downwards from the right, by non-negative least squares."""
    given_values, weights = np.array(values), np.random.default_rng(seed).uniform(0.5, 3.0, len(values))
    steps = np.triu(np.ones((len(values), len(values))))
    root = np.sqrt(weights)
    solved, _ = nnls(steps * root[:, None], given_values * root)
    np.testing.assert_allclose(pool_falling(given_values, weights), steps @ solved, atol=1e-6)


def test_prices_never_tried_lie_between_their_neighbours() -> None:
    asked = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
    found = bound_monotone_demand(TRIED, np.array([10.0, 6.0, 5.0]), np.ones(3), asked, most=30.0)
    np.testing.assert_array_equal(found.lower, [10, 10, 6, 6, 5, 5, 0])
    np.testing.assert_array_equal(found.upper, [30, 10, 10, 6, 6, 5, 5])
    np.testing.assert_array_equal(found.was_tried, [False, True, False, True, False, True, False])
    open_ended = bound_monotone_demand(TRIED, np.array([10.0, 6.0, 5.0]), np.ones(3), np.array([0.5]))
    assert np.isinf(open_ended.upper[0])
    margin = bound_monotone_margin(found, asked, 1.5)
    np.testing.assert_allclose(margin.lower, [-30.0, -5.0, 0.0, 3.0, 5.0, 7.5, 0.0])
    np.testing.assert_allclose(margin.upper, [-10.0, -5.0, 0.0, 3.0, 6.0, 7.5, 12.5])
    assert bound_monotone_margin(open_ended, np.array([0.5]), 0.5).upper[0] == 0.0


def test_bounds_hold_for_every_curve_that_never_rises() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        grid = np.sort(rng.uniform(0.5, 4.0, 30))
        curve = np.sort(rng.uniform(0.0, 20.0, 30))[::-1]
        seen = np.sort(rng.choice(30, size=5, replace=False))
        found = bound_monotone_demand(grid[seen], curve[seen], np.ones(5), grid)
        assert np.all((found.lower <= curve + 1e-12) & (curve <= found.upper + 1e-12))


def test_the_worst_share_counts_atoms_in_part() -> None:
    returns = np.array([4.0, 1.0, 3.0, 2.0])
    assert compute_cvar(returns, 0.25) == 1.0
    assert compute_cvar(returns, 0.5) == 1.5
    assert compute_cvar(returns, 0.3) == pytest.approx((0.25 * 1.0 + 0.05 * 2.0) / 0.3)
    assert compute_cvar(returns, 1.0) == pytest.approx(2.5)
    weights = np.array([1.0, 0.0, 2.0, 1.0])  # the worst outcome cannot happen under the policy
    assert compute_cvar(returns, 0.25, weights) == 2.0
    assert compute_cvar(returns, 0.25, 9.0 * weights) == 2.0
    assert compute_downside_probability(returns, 3.0) == 0.5
    assert compute_downside_probability(returns, 3.0, weights) == 0.25
    normal = np.random.default_rng(0).normal(size=400_000)
    assert compute_cvar(normal, 0.1) == pytest.approx(-1.755, abs=0.01)
    with pytest.raises(ValueError, match="level"):
        compute_cvar(returns, 0.0)


def test_segments_are_valued_on_their_own_or_refused() -> None:
    rng = np.random.default_rng(1)
    segments = np.repeat(["new", "regular", "staff"], 50)
    target = rng.uniform(0.1, 1.0, (150, 2))
    target[segments == "staff", 1] = 0.0
    log = LoggedTrajectories(
        rng.normal(size=(150, 2)), np.full((150, 2), 0.5), target, np.arange(150), segments=segments
    )

    def estimate(part: LoggedTrajectories):  # type: ignore[no-untyped-def]
        return estimate_per_decision_importance(part, compute_importance_ratios(part), self_normalized=True)

    found = estimate_segment_values(log, estimate)
    assert list(found) == ["new", "regular", "staff"]
    assert found["new"].value == estimate(log.select(segments == "new")).value  # type: ignore[union-attr]
    refused = found["staff"]
    assert isinstance(refused, NotIdentified)
    assert "staff" in refused.reasons[0]


def order_on_signals(seed: int, signal: float) -> Case:
    """Stock that follows a private signal of this week's demand, which the log does not hold."""
    case, rng = simulate_case(seed, units=80), np.random.default_rng(seed + 1000)
    shape = case.log.units.shape
    hidden = rng.normal(size=shape)
    mean = np.exp(case.law.levels[:, None] + case.law.season + 0.3 * hidden)
    price = case.log.prices / case.log.list_prices
    demand = rng.negative_binomial(4.0, 4.0 / (4.0 + mean * price**-2.0))
    usual = 2.0 * np.exp(case.law.levels)[:, None]
    stock = np.maximum(np.floor(usual * np.exp(signal * hidden + 0.3 * rng.normal(size=shape))), 1.0)
    return replace(case, log=replace(case.log, units=np.minimum(demand, stock), stock=stock))


def test_stock_ordered_on_private_signals_is_found_out_and_stock_that_follows_sales_is_not() -> None:
    innocent = [estimate_stock_relation(fit(simulate_case(seed, units=80))) for seed in range(20)]
    assert sum(test.p_value < 0.05 for test in innocent) <= 4
    for seed in range(3):
        told = estimate_stock_relation(fit(order_on_signals(seed, 0.6)))
        assert told.statistic > 3.0
        assert told.elasticity > 0.15
        blind = estimate_stock_relation(fit(order_on_signals(seed, 0.0)))
        assert abs(blind.statistic) < 3.0
    case = simulate_case(0, units=10)
    assert has_telling_stock(fit(case))
    unmoved = fit(replace(case, log=replace(case.log, stock=np.full((10, 13), 1e6))))
    assert not has_telling_stock(unmoved)
    with pytest.raises(ValueError, match="does not vary"):
        estimate_stock_relation(unmoved)


def spill_over(seed: int, share: float) -> Case:
    """Half of the units run short; this share of those who find nothing there take the other unit of the pair."""
    case, rng = simulate_case(seed, units=120), np.random.default_rng(seed + 2000)
    shape = case.log.units.shape
    mean = np.exp(case.law.levels[:, None] + case.law.season) * (case.log.prices / case.log.list_prices) ** -2.0
    wanted = rng.negative_binomial(4.0, 4.0 / (4.0 + mean))
    usual = np.exp(case.law.levels)[:, None] * rng.choice([0.8, 4.0], size=shape)
    stock = np.maximum(np.floor(usual), 1.0)
    unserved = np.maximum(wanted - stock, 0.0).astype(int)
    wanted = wanted + rng.binomial(unserved, share)[np.arange(len(mean)) ^ 1]
    return replace(case, log=replace(case.log, units=np.minimum(wanted, stock), stock=stock))


def test_customers_who_take_the_neighbour_are_found_out_and_independent_shortages_are_not() -> None:
    pairs = np.arange(120) // 2
    innocent = [estimate_spill_over(fit(spill_over(seed, 0.0)), pairs) for seed in range(20)]
    assert sum(test.p_value < 0.05 for test in innocent) <= 4
    guilty = [estimate_spill_over(fit(spill_over(seed, 0.6)), pairs) for seed in range(5)]
    assert all(test.statistic > 2.5 for test in guilty)
    assert 0.1 < np.mean([test.share for test in guilty]) < 0.6
    assert all(test.num_clusters == 60 for test in guilty)
    # Pairs that nobody takes in place of each other: the same log says nothing of them.
    apart = np.roll(np.arange(120), 1) // 2
    assert abs(estimate_spill_over(fit(spill_over(0, 0.6)), apart).statistic) < 2.5


def test_spill_over_needs_two_places_whose_shortages_change() -> None:
    demand = fit(spill_over(0, 0.6))
    assert has_telling_neighbors(demand, np.arange(120) // 2)
    for labels in (np.zeros(120), np.arange(120)):  # one place; nobody has a neighbour
        assert not has_telling_neighbors(demand, labels)
        with pytest.raises(ValueError, match="two neighbourhoods"):
            estimate_spill_over(demand, labels)
    with pytest.raises(ValueError, match="labels for 120 units"):
        estimate_spill_over(demand, np.arange(7))


def test_not_identified_is_an_answer_with_its_reasons() -> None:
    log = LoggedTrajectories(np.ones((200, 1)), np.ones((200, 1)), np.ones((200, 1)), np.arange(200))
    value = estimate_behavior_value(log)
    innocent, guilty = StockTest(0.3, 0.76, 0.01, 50), StockTest(4.1, 0.0001, 0.4, 50)
    assert judge_identification(value, None, 0.95, 31, innocent) is value
    assert judge_identification(value) is value
    refused = judge_identification(replace(value, trimmed_mass=0.5), None, 0.4, 29, guilty)
    assert isinstance(refused, NotIdentified)
    assert len(refused.reasons) == 4
    for words in ("supports 40%", "50% of the policy's weight", "29 times", "more stock in weeks"):
        assert any(words in reason for reason in refused.reasons), words
    shared = judge_identification(value, spill_test=SpillOverTest(3.2, 0.002, 0.4, 30))
    assert isinstance(shared, NotIdentified)
    assert "sells more where its neighbours run short (p = 0.002)" in shared.reasons[0]
    assert judge_identification(value, spill_test=SpillOverTest(0.4, 0.7, 0.1, 30)) is value
    few = judge_identification(replace(value, effective_sample_size=8.0))
    assert isinstance(few, NotIdentified)
    assert "worth 8 observations" in few.reasons[0]
    assert judge_identification(value, IdentificationRules(least_support_mass=0.3), 0.4) is value
    with pytest.raises(ValueError, match="needs a reason"):
        NotIdentified("structured", ())
    with pytest.raises(ValueError, match="least_support_mass"):
        IdentificationRules(least_support_mass=2.0)
