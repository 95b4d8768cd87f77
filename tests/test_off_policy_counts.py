"""Sales that stock cuts off: the law, and what it says about demand."""

import json
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import stats

from pricing_fm.evaluation.off_policy.censored_counts import (
    CensoredCounts,
    compute_count_terms,
    compute_demand_residuals,
    compute_dispersion_score,
    compute_expected_sales,
    compute_sales_terms,
    compute_stockout_probability,
    draw_counts,
    read_sales,
)

KNOWN_ANSWERS = json.loads((Path(__file__).parent / "oracles_known_answers.json").read_text())
COUNTS = np.arange(6000)


def law(mean: float, overdispersion: float) -> np.ndarray:
    if overdispersion == 0:
        return np.asarray(stats.poisson.pmf(COUNTS, mean))
    return np.asarray(stats.nbinom.pmf(COUNTS, 1 / overdispersion, 1 / (1 + overdispersion * mean)))


def seen(units: float, censored: bool) -> CensoredCounts:
    return CensoredCounts(np.array([units]), np.array([censored]), np.array([True]))


def test_weeks_without_stock_say_nothing_and_sold_out_weeks_a_bound() -> None:
    counts = read_sales(np.array([3.0, 5.0, 0.0, np.nan, 4.0, 2.0]), np.array([5.0, 5.0, 0.0, 9.0, np.inf, np.nan]))
    np.testing.assert_array_equal(counts.informative, [True, True, False, False, True, True])
    np.testing.assert_array_equal(counts.censored, [False, True, False, False, False, False])
    terms = compute_count_terms(counts, np.zeros(6), 0.3)
    assert all(np.all(column[2:4] == 0.0) and np.all(column[:2] != 0.0) for column in terms)
    with pytest.raises(ValueError, match=r"units\[1\] is 6; it must be at most the stock"):
        read_sales(np.array([1.0, 6.0]), np.array([5.0, 5.0]))
    with pytest.raises(ValueError, match="0 or more"):
        read_sales(np.array([-1.0]), np.array([5.0]))


@pytest.mark.parametrize("overdispersion", [0.0, 1e-7, 1e-3, 0.4, 3.0])
@pytest.mark.parametrize("mean", [0.2, 8.0, 60.0])
def test_probabilities_are_those_of_the_law(mean: float, overdispersion: float) -> None:
    pmf = law(mean, overdispersion)
    for count in (0, 1, 7, 40):
        point = compute_count_terms(seen(count, False), np.log([mean]), overdispersion)
        assert point.log_likelihood[0] == pytest.approx(np.log(pmf[count]), rel=1e-7)
        if count:
            tail = compute_count_terms(seen(count, True), np.log([mean]), overdispersion)
            assert np.exp(tail.log_likelihood[0]) == pytest.approx(pmf[count:].sum(), rel=1e-6)
            limit = np.array(float(count))
            assert compute_stockout_probability(np.array(mean), limit, overdispersion) == pytest.approx(
                pmf[count + 1 :].sum(), rel=1e-6
            )
            sold = compute_expected_sales(np.array(mean), limit, overdispersion)
            assert sold == pytest.approx((np.minimum(COUNTS, count) * pmf).sum(), rel=1e-6)
    assert compute_expected_sales(np.array([mean]), np.array([np.inf]), overdispersion)[0] == mean
    assert compute_expected_sales(np.array([mean]), np.array([0.0]), overdispersion)[0] == 0.0


@pytest.mark.parametrize("overdispersion", [0.0, 1e-3, 0.4])
@pytest.mark.parametrize("censored", [False, True])
def test_score_and_curvature_are_derivatives(censored: bool, overdispersion: float) -> None:
    for count in (1.0, 6.0, 25.0):
        at = [compute_count_terms(seen(count, censored), np.array([2.0 + h]), overdispersion) for h in (-1e-4, 0, 1e-4)]
        low, here, high = at
        slope = (high.log_likelihood - low.log_likelihood) / 2e-4
        np.testing.assert_allclose(here.score, slope, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(here.curvature, -(high.score - low.score) / 2e-4, rtol=1e-6, atol=1e-9)
        assert here.curvature[0] > 0


def test_tails_beyond_the_smallest_number_keep_their_digits() -> None:
    """Stock of 900 sold out although the model expects 0.5: hopeless, yet the optimiser must find its way back."""
    for overdispersion, mean in ((0.0, 0.5), (0.05, 0.5), (0.05, 2.0)):
        terms = compute_count_terms(seen(900.0, True), np.log([mean]), overdispersion)
        with mpmath.workdps(60):
            if overdispersion:
                share = mpmath.mpf(overdispersion) * mean / (1 + mpmath.mpf(overdispersion) * mean)
                tail = mpmath.betainc(900, 1 / mpmath.mpf(overdispersion), 0, share, regularized=True)
            else:
                tail = mpmath.gammainc(900, 0, mean, regularized=True)
            expected = float(mpmath.log(tail))
        assert terms.log_likelihood[0] == pytest.approx(expected, rel=1e-10)
        assert 0 < terms.score[0] <= 900.0
        assert terms.curvature[0] > 0


@pytest.mark.parametrize("overdispersion", [0.0, 0.5])
def test_residuals_average_to_nothing_whatever_the_stock(overdispersion: float) -> None:
    """Over all demands that can happen; sales minus mean would not."""
    mean, pmf = 9.0, law(9.0, overdispersion)
    for stock in (1.0, 6.0, 14.0, np.inf):
        sold = np.minimum(COUNTS, stock)
        counts = read_sales(sold, np.full(len(sold), stock))
        residuals = compute_demand_residuals(counts, np.full(len(sold), np.log(mean)), overdispersion)
        assert pmf @ residuals == pytest.approx(0.0, abs=1e-6)
        if np.isfinite(stock):
            assert pmf @ (sold - mean) < -0.03
            expected = (COUNTS * pmf)[int(stock) :].sum() / pmf[int(stock) :].sum() - mean
            assert residuals[-1] == pytest.approx(expected, rel=1e-6)


def test_known_answers_of_sales_behind_stock() -> None:
    cases = [case for case in KNOWN_ANSWERS if case["problem"] == "censored_poisson_sales"]
    assert cases
    for case in cases:
        rate, stock = np.array(float(case["given"]["rate"])), np.array(float(case["given"]["stock"]))
        expect, tolerance = case["expect"], case["tolerance"]
        assert compute_expected_sales(rate, stock, 0.0) == pytest.approx(expect["expected_sales"], abs=tolerance)
        found = compute_stockout_probability(rate, stock, 0.0)
        assert found == pytest.approx(expect["stockout_probability"], abs=tolerance)


@pytest.mark.parametrize("overdispersion", [0.0, 0.3])
def test_draws_follow_the_law_and_rise_with_the_mean(overdispersion: float) -> None:
    uniforms = (np.arange(100_000) + 0.5) / 100_000
    drawn = draw_counts(uniforms, np.full(100_000, 7.0), overdispersion)
    pmf = law(7.0, overdispersion)
    np.testing.assert_allclose(np.bincount(drawn.astype(int), minlength=60)[:60] / 100_000, pmf[:60], atol=2e-5)
    assert np.all(draw_counts(uniforms, np.full(100_000, 7.5), overdispersion) >= drawn)


@pytest.mark.parametrize("overdispersion", [0.0, 1e-3, 0.3, 2.0])
def test_draws_are_the_quantiles_of_the_law_for_slow_and_fast_movers(overdispersion: float) -> None:
    rng = np.random.default_rng(0)
    mean, uniforms = np.exp(rng.uniform(-3.0, 6.0, 3000)), rng.random(3000)
    uniforms[:2] = 0.0, 1.0 - 2.0**-53
    a = overdispersion
    expected = stats.nbinom.ppf(uniforms, 1 / a, 1 / (1 + a * mean)) if a else stats.poisson.ppf(uniforms, mean)
    drawn = draw_counts(uniforms, mean, a)
    np.testing.assert_array_equal(drawn[2:], expected[2:])
    assert drawn[0] == 0.0
    assert mean[1] < drawn[1] < np.inf


@pytest.mark.parametrize("overdispersion", [0.0, 1e-3, 0.4])
def test_expected_sales_and_dispersion_have_the_slopes_that_differences_show(overdispersion: float) -> None:
    mean = np.array([0.3, 8.0, 40.0])
    for stock in (1.0, 9.0, 60.0):
        terms = compute_sales_terms(mean, np.full(3, stock), overdispersion)
        up, down = (compute_expected_sales(mean * np.exp(h), np.full(3, stock), overdispersion) for h in (1e-4, -1e-4))
        np.testing.assert_allclose(terms.by_log_mean, (up - down) / 2e-4, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(compute_sales_terms(mean, np.full(3, np.inf), overdispersion).by_log_mean, mean)
    np.testing.assert_array_equal(compute_sales_terms(mean, np.zeros(3), overdispersion).by_log_mean, 0.0)
    counts = np.array([0.0, 3.0, 90.0])
    up, down = (law(8.0, overdispersion * np.exp(h))[counts.astype(int)] for h in (1e-3, -1e-3))
    slope = (np.log(up) - np.log(down)) / 2e-3
    found = compute_dispersion_score(counts, np.full(3, 8.0), overdispersion)
    np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-4)
