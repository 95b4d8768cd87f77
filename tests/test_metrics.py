"""Metrics against answers worked out by hand."""

import numpy as np
import pytest

from pricing_fm.metrics import (
    compute_coverage,
    compute_demand_curve_error,
    compute_elasticity_errors,
    compute_gap_closed,
    compute_mase,
    compute_pinball_loss,
    compute_seasonal_scale,
    compute_sql,
    compute_wape,
    compute_wql,
    seasonal_lag,
)

LEVELS = (0.1, 0.5, 0.9)


def test_the_pinball_loss_charges_each_side_by_its_level() -> None:
    loss = compute_pinball_loss(np.array([10.0, 4.0]), np.array([[8.0, 8.0], [8.0, 8.0]]), (0.1, 0.9))
    # 10 - 8 = 2 above: 0.1 * 2 and 0.9 * 2. 4 - 8 = -4 below: 0.9 * 4 and 0.1 * 4.
    np.testing.assert_allclose(loss, [[0.2, 1.8], [3.6, 0.4]])


def test_the_true_quantile_minimises_the_expected_pinball_loss() -> None:
    draws = np.random.default_rng(0).gamma(2.0, 5.0, size=20_001)
    candidates = np.quantile(draws, [0.6, 0.7, 0.8])
    losses = [compute_pinball_loss(draws, np.full((draws.size, 1), c), (0.7,)).mean() for c in candidates]
    assert np.argmin(losses) == 1


def test_wql_is_pooled_over_series_and_steps_and_averaged_over_levels() -> None:
    targets = np.array([[10.0], [30.0]])
    quantiles = np.array([[[8.0, 10.0, 14.0]], [[20.0, 33.0, 30.0]]])
    # 2 x pinball: at 0.1: 2*0.1*2 = 0.4 and 2*0.1*10 = 2; at 0.5: 0 and 3; at 0.9: 2*0.1*4 = 0.8 and 0. Sum |y| = 40.
    assert compute_wql(targets, quantiles, LEVELS) == pytest.approx((2.4 + 3.0 + 0.8) / 40 / 3)


def test_unknown_and_masked_steps_change_no_metric() -> None:
    rng = np.random.default_rng(1)
    targets = rng.gamma(2.0, 5.0, size=(4, 3))
    quantiles = np.sort(rng.gamma(2.0, 5.0, size=(4, 3, 3)), axis=-1)
    scales = np.array([1.0, 2.0, 3.0, 4.0])
    wide_targets = np.concatenate([targets, np.full((4, 1), np.nan), np.full((4, 1), 1e6)], axis=1)
    wide_quantiles = np.concatenate([quantiles, np.full((4, 2, 3), 7.0)], axis=1)
    mask = np.ones((4, 5), dtype=bool)
    mask[:, 4] = False  # sold out: what was seen is not demand
    assert compute_wql(wide_targets, wide_quantiles, LEVELS, mask) == compute_wql(targets, quantiles, LEVELS)
    assert compute_sql(wide_targets, wide_quantiles, LEVELS, scales, mask) == compute_sql(
        targets, quantiles, LEVELS, scales
    )
    assert compute_mase(wide_targets, wide_quantiles[..., 1], scales, mask) == compute_mase(
        targets, quantiles[..., 1], scales
    )
    assert compute_wape(wide_targets, wide_quantiles[..., 1], mask) == compute_wape(targets, quantiles[..., 1])
    assert compute_coverage(wide_targets, wide_quantiles[..., 0], wide_quantiles[..., 2], mask) == compute_coverage(
        targets, quantiles[..., 0], quantiles[..., 2]
    )
    assert compute_wql(wide_targets, wide_quantiles, LEVELS) > 2 * compute_wql(targets, quantiles, LEVELS)


def test_a_model_cannot_skip_a_scored_step() -> None:
    targets, quantiles = np.array([[1.0, 2.0]]), np.array([[[1.0], [np.nan]]])
    with pytest.raises(ValueError, match="every model answers every scored step"):
        compute_wql(targets, quantiles, (0.5,))
    assert compute_wql(targets, quantiles, (0.5,), np.array([[True, False]])) == 0.0


def test_nothing_to_score_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no step is scored"):
        compute_wql(np.array([np.nan]), np.array([[1.0]]), (0.5,))
    with pytest.raises(ValueError, match="all scored targets are zero"):
        compute_wql(np.array([0.0]), np.array([[1.0]]), (0.5,))


@pytest.mark.parametrize("levels", [(0.0, 0.5, 0.9), (0.1, 0.5, 1.0), (0.1, 0.5)])
def test_levels_outside_the_open_unit_interval_or_of_another_number_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        compute_pinball_loss(np.ones(2), np.ones((2, 3)), levels)


def test_the_seasonal_scale_is_the_mean_absolute_seasonal_difference_of_observed_pairs() -> None:
    history = np.array([[1.0, 5.0, 2.0, 9.0], [3.0, 3.0, np.nan, 3.0], [np.nan, 4.0, np.nan, 8.0]])
    # lag 1: (4 + 3 + 7) / 3; the second item only has the pair (3, 3): scale 0; the third has no pair.
    np.testing.assert_allclose(compute_seasonal_scale(history, 1), [14 / 3, np.nan, np.nan])
    np.testing.assert_allclose(compute_seasonal_scale(history, 2), [(1 + 4) / 2, np.nan, 4.0])
    assert np.isnan(compute_seasonal_scale(history, 4)).all()


def test_weeks_use_the_year_only_with_two_years_of_history() -> None:
    assert [seasonal_lag(52, 103), seasonal_lag(52, 104), seasonal_lag(7, 10), seasonal_lag(12, 30)] == [1, 52, 7, 12]


def test_mase_averages_items_and_counts_those_without_a_scale() -> None:
    targets = np.array([[10.0, 12.0], [5.0, np.nan], [1.0, 1.0]])
    points = np.array([[11.0, 15.0], [3.0, 3.0], [2.0, 2.0]])
    score = compute_mase(targets, points, np.array([4.0, 1.0, np.nan]))
    assert score.value == pytest.approx(((1 + 3) / 2 / 4 + 2 / 1) / 2)
    assert (score.items, score.dropped) == (2, 1)


def test_sql_at_the_median_is_mase() -> None:
    rng = np.random.default_rng(2)
    targets, points, scales = rng.gamma(2.0, 5.0, (5, 4)), rng.gamma(2.0, 5.0, (5, 4)), rng.gamma(2.0, 1.0, 5)
    sql = compute_sql(targets, points[..., None], (0.5,), scales)
    assert sql.value == pytest.approx(compute_mase(targets, points, scales).value)


def test_the_ends_of_an_interval_belong_to_it() -> None:
    targets = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    assert compute_coverage(targets, np.full(5, 2.0), np.full(5, 3.0)) == 0.5


def test_wape_is_the_sum_of_errors_over_the_sum_of_sales() -> None:
    assert compute_wape(np.array([10.0, 30.0]), np.array([14.0, 24.0])) == pytest.approx(10 / 40)


def test_elasticity_errors_separate_bias_from_spread() -> None:
    errors = compute_elasticity_errors(
        np.array([-1.0, -3.0, np.nan]), np.array([-2.0, -2.5, -1.0]), np.array([-1.5, -4.0, -2.0]), np.array([0, -2, 0])
    )
    assert errors.mean_absolute_error == pytest.approx(0.75)
    assert errors.bias == pytest.approx(0.25)
    assert errors.root_mean_squared_error == pytest.approx(np.sqrt((1 + 0.25) / 2))
    assert (errors.coverage, errors.n, errors.missing) == (0.5, 2, 1)


def test_the_curve_error_ignores_the_level_of_demand() -> None:
    truth = np.array([[12.0, 10.0, 8.0]])
    assert compute_demand_curve_error(3 * truth, truth, reference=1) == pytest.approx(0.0)
    assert compute_demand_curve_error(np.array([[30.0, 20.0, 14.0]]), truth, 1) == pytest.approx((0.3 + 0.1) / 2)


def test_the_gap_closed_is_zero_for_the_manager_and_one_for_the_oracle() -> None:
    manager, oracle = np.array([60.0, 80.0, 99.0]), np.array([100.0, 100.0, 100.0])
    closed = compute_gap_closed(np.array([70.0, 70.0, 100.0]), manager, oracle)
    np.testing.assert_allclose(closed.shares, [0.25, -0.5, np.nan])
    assert closed.excluded == 1
    np.testing.assert_allclose(compute_gap_closed(manager, manager, oracle).shares[:2], 0.0)
    np.testing.assert_allclose(compute_gap_closed(oracle, manager, oracle).shares[:2], 1.0)
