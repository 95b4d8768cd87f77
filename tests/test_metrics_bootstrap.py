"""Intervals hold what they promise."""

import numpy as np
import pytest

from pricing_fm.metrics import (
    estimate_wql_interval,
    estimate_wql_ratio_interval,
    interquartile_mean,
    stratified_bootstrap,
)


def grid_of_losses(seed: int, products: int = 25, weeks: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses with product and week effects: rows of one product, and of one week, move together."""
    rng = np.random.default_rng(seed)
    product, week = (code.ravel() for code in np.indices((products, weeks)))
    losses = np.exp(rng.normal(0, 0.4, products)[product] + rng.normal(0, 0.4, weeks)[week])
    return losses * rng.gamma(20.0, 1 / 20.0, losses.size), product, week


def test_the_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert interquartile_mean(np.array([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9])) == pytest.approx(3.5)
    assert interquartile_mean(np.array([1.0, 5.0, np.nan])) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="no value"):
        interquartile_mean(np.array([np.nan]))


def test_strata_are_resampled_on_their_own() -> None:
    """Constant strata leave nothing to vary, however different they are from each other."""
    strata = ["a"] * 6 + ["b"] * 6
    fixed = stratified_bootstrap(np.array([1.0] * 6 + [100.0] * 6), strata, statistic=lambda v: float(v.mean()))
    assert (fixed.lower, fixed.value, fixed.upper) == (50.5, 50.5, 50.5)
    pooled = stratified_bootstrap(np.array([1.0] * 6 + [100.0] * 6), ["a"] * 12, statistic=lambda v: float(v.mean()))
    assert pooled.lower < 30 < 70 < pooled.upper


def test_the_stratified_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(0.5, 1.0, 80)
        found = stratified_bootstrap(values, np.repeat(["a", "b"], 40), level=0.9, replicates=200, seed=seed)
        covered += found.lower <= 0.5 <= found.upper
    assert 48 <= covered <= 60


def test_the_ratio_of_a_model_to_itself_is_one_without_doubt() -> None:
    losses, product, week = grid_of_losses(0)
    same = estimate_wql_ratio_interval(losses, losses, product, week, replicates=100)
    np.testing.assert_allclose([same.lower, same.value, same.upper], 1.0)
    better = estimate_wql_ratio_interval(0.9 * losses, losses, product, week, replicates=100)
    np.testing.assert_allclose([better.lower, better.value, better.upper], 0.9)


def test_pairing_removes_what_both_models_share() -> None:
    losses, product, week = grid_of_losses(1)
    noise = np.random.default_rng(2).gamma(50.0, 1 / 50.0, losses.size)
    paired = estimate_wql_ratio_interval(losses * noise, losses, product, week)
    alone = estimate_wql_interval(losses, np.ones_like(losses), product, week)
    assert paired.upper / paired.lower < 1.05 < 1.3 < alone.upper / alone.lower


def test_blocks_give_wider_intervals_than_rows_on_clustered_data() -> None:
    losses, product, week = grid_of_losses(3)
    blocks = estimate_wql_interval(losses, np.ones_like(losses), product, week)
    rng = np.random.default_rng(3)
    rows = np.quantile([rng.choice(losses, losses.size).mean() for _ in range(1000)], [0.025, 0.975])
    assert blocks.upper - blocks.lower > 2 * (rows[1] - rows[0])


def test_the_block_interval_covers_the_expected_loss() -> None:
    truth = np.exp(0.4**2)  # mean of the product of two log-normal effects with unit-mean noise
    covered = 0
    for seed in range(100):
        losses, product, week = grid_of_losses(seed + 10)
        found = estimate_wql_interval(losses, np.ones_like(losses), product, week, level=0.9, replicates=200)
        covered += found.lower <= truth <= found.upper
    assert covered >= 82


def test_the_interval_is_normalised_inside_each_replicate() -> None:
    """Loss in proportion to sales is one ratio in every replicate, however unequal the products are."""
    _, product, week = grid_of_losses(0)
    sales = np.random.default_rng(5).gamma(0.3, 100.0, product.size)
    found = estimate_wql_interval(0.25 * sales, sales, product, week, replicates=100)
    np.testing.assert_allclose([found.lower, found.value, found.upper], 0.25)


def test_rows_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same"):
        estimate_wql_interval(np.ones(3), np.ones(3), [1, 2], [1, 2])
    with pytest.raises(ValueError, match="finite"):
        estimate_wql_interval(np.array([1.0, np.nan]), np.ones(2), [1, 2], [1, 2])
