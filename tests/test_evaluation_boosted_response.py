"""What trees get to see beside past units: the log-linear response before the origin, the rest of the assortment."""

import numpy as np
import pytest

from pricing_fm.evaluation.boosted_response import compute_responses
from pricing_fm.evaluation.group_arrays import group_means, lowest_of_others, mean_of_known, pick

RECENT = 8


def logged_response(weeks: int, slopes: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Units that answer to a discount by a known slope, and the discounts; items of one product."""
    rng = np.random.default_rng(0)
    discounts = np.where(rng.random((len(slopes), weeks)) < 0.4, -rng.uniform(0.1, 0.5, (len(slopes), weeks)), 0.0)
    return np.exp(np.asarray(slopes)[:, None] * discounts) - 0.05, discounts[..., None]


def test_a_response_that_the_log_shows_clearly_is_found() -> None:
    units, drivers = logged_response(100, (-2.0, -4.0))
    own = np.arange(2)
    coefficients, level, recent = compute_responses(units, drivers, np.array([-2.5]), own, np.zeros(2, int), RECENT)
    np.testing.assert_allclose(coefficients[:, 0], [-2.0, -4.0], atol=0.3)
    np.testing.assert_allclose(level, 0.0, atol=0.1)
    np.testing.assert_allclose(recent, 0.0, atol=0.1)


def test_an_item_that_was_never_cut_borrows_from_its_product_and_not_from_another() -> None:
    units, drivers = logged_response(100, (-4.0, -4.0, -1.0, -1.0))
    units[0], drivers[0] = 1.0, 0.0
    product = np.array([0, 0, 1, 1])
    coefficients, _, _ = compute_responses(units, drivers, np.array([-2.5]), product, np.zeros(4, int), RECENT)
    assert coefficients[0, 0] == pytest.approx(coefficients[1, 0], abs=0.4)
    assert coefficients[0, 0] < -3.4  # the category as a whole is at -2.5


def test_unknown_weeks_change_no_response_and_nothing_known_gives_the_prior() -> None:
    units, drivers = logged_response(60, (-3.0, -3.0))
    gaps = units.copy()
    gaps[:, ::5] = np.nan
    groups = (np.arange(2), np.zeros(2, int), RECENT)
    kept = np.arange(60) % 5 != 0
    found = compute_responses(gaps, drivers, np.array([-2.5]), *groups)
    expected = compute_responses(units[:, kept], drivers[:, kept], np.array([-2.5]), *groups)
    np.testing.assert_allclose(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1])
    silent = compute_responses(np.full((2, 60), np.nan), drivers, np.array([-2.5]), *groups)
    np.testing.assert_allclose(silent[0], -2.5)
    assert np.isfinite(silent[1]).all()
    assert np.isfinite(silent[2]).all()


def test_the_lowest_of_the_others_leaves_the_item_itself_out() -> None:
    values = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, np.nan], [9.0, 9.0]])
    groups = np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(
        lowest_of_others(values, groups), [[2.0, 5.0], [1.0, 5.0], [1.0, 5.0], [np.nan, np.nan]]
    )


def test_unknown_cells_count_in_no_mean_and_picks_end_at_the_table() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [7.0, 8.0]])
    np.testing.assert_array_equal(group_means(values, np.array([0, 0, 1])), [[2.0, np.nan], [7.0, 8.0]])
    np.testing.assert_array_equal(mean_of_known(values, axis=1), [1.0, 3.0, 7.5])
    assert np.isnan(mean_of_known(np.full((1, 2), np.nan), axis=1)).all()
    np.testing.assert_array_equal(pick(values, np.array([2, 2, 0]), np.array([1, 2, -1])), [8.0, np.nan, np.nan])
