"""Segments side by side, and what a policy leaves on the table."""

import numpy as np
import pytest

from pricing_fm.metrics import compute_price_parity, compute_regret, compute_segment_parity

SEGMENTS = ["adult", "student", "adult", "student"]


def test_parity_is_the_gap_between_rates_over_the_rate_of_all() -> None:
    found = compute_segment_parity(np.array([2.0, 4.0, 4.0, 8.0]), np.array([10.0, 10.0, 20.0, 20.0]), SEGMENTS)
    assert found.rates == {"adult": pytest.approx(6 / 30), "student": pytest.approx(12 / 30)}
    assert found.gap == pytest.approx((12 / 30 - 6 / 30) / (18 / 60))
    assert found.ratio == pytest.approx(0.5)


def test_equal_segments_have_no_gap_and_the_unit_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    amounts, exposures = rng.gamma(2.0, 3.0, 50), rng.gamma(2.0, 3.0, 50)
    twice = np.repeat(["a", "b"], 50)
    equal = compute_segment_parity(np.tile(amounts, 2), np.tile(exposures, 2), twice)
    assert (equal.gap, equal.ratio) == (0.0, 1.0)
    some = compute_segment_parity(amounts, exposures, np.arange(50) % 3)
    scaled = compute_segment_parity(100.0 * amounts, exposures, np.arange(50) % 3)
    assert some.gap > 0.01
    assert scaled.gap == pytest.approx(some.gap)
    assert scaled.ratio == pytest.approx(some.ratio)
    nothing = compute_segment_parity(np.zeros(4), np.ones(4), SEGMENTS)
    assert nothing.gap == 0.0
    assert np.isnan(nothing.ratio)


def test_dearer_goods_are_not_higher_prices() -> None:
    prices = np.array([2.0, 20.0, 2.0, 20.0])
    reference = np.array([2.0, 25.0, 2.0, 25.0])
    fair = compute_price_parity(prices, prices, SEGMENTS)
    assert (fair.gap, fair.rates) == (0.0, {"adult": 1.0, "student": 1.0})
    found = compute_price_parity(prices, reference, SEGMENTS)
    assert found.rates == {"adult": 1.0, "student": pytest.approx(0.8)}
    weighted = compute_price_parity(
        np.array([1.0, 3.0, 2.0, 2.0]), np.full(4, 2.0), SEGMENTS, np.array([3.0, 1.0, 1.0, 1.0])
    )
    assert weighted.rates == {"adult": pytest.approx(5 / 8), "student": pytest.approx(5 / 4)}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="found 1 segment"):
        compute_segment_parity(np.ones(2), np.ones(2), ["a", "a"])
    with pytest.raises(ValueError, match=r"\['student'\] have no exposure"):
        compute_segment_parity(np.ones(4), np.array([1.0, 0.0, 1.0, 0.0]), SEGMENTS)
    with pytest.raises(ValueError, match="finite"):
        compute_segment_parity(np.array([1.0, np.nan, 1.0, 1.0]), np.ones(4), SEGMENTS)
    with pytest.raises(ValueError, match="relative to it is undefined"):
        compute_segment_parity(np.array([1.0, -1.0]), np.ones(2), ["a", "b"])
    with pytest.raises(ValueError, match="must be positive"):
        compute_price_parity(np.ones(4), np.array([1.0, 0.0, 1.0, 1.0]), SEGMENTS)


def test_regret_is_zero_at_the_best_and_counts_what_is_missing() -> None:
    best = np.array([10.0, 30.0])
    at_best = compute_regret(best, best)
    assert (at_best.mean, at_best.share, at_best.largest) == (0.0, 0.0, 0.0)
    found = compute_regret(np.array([8.0, 31.0]), best)
    assert found.mean == pytest.approx(0.5)
    assert found.share == pytest.approx(1 / 40)
    assert found.largest == pytest.approx(2.0)
    with pytest.raises(ValueError, match="sum to 0"):
        compute_regret(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        compute_regret(np.array([np.nan, 1.0]), best)
