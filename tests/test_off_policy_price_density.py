"""Densities of continuous logged prices, estimated from the log, where the truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from pricing_fm.evaluation.off_policy import (
    DensitySettings,
    LoggedTrajectories,
    OneStepLog,
    OneStepOutcome,
    OneStepValue,
    PriceDensity,
    RandomisedDecisions,
    compute_band_policy,
    compute_decision_weights,
    compute_importance_ratios,
    compute_kernel_propensities,
    estimate_from_log,
    estimate_trajectory_importance,
    fit_nuisances,
    fit_one_step_density,
    fit_price_density,
    measure_rank_calibration,
    place_log_prices,
    place_scores,
    rank_within_cells,
    tilt_design,
)

KEEP = 0.3


def draw_log(rows: int, seed: int = 0, keeps: bool = False) -> tuple[np.ndarray, ...]:
    """Features, log prices, their true propensities, who was kept: normal, location and scale follow the features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 2))
    location, scale = 1.0 + 0.1 * features[:, 0] - 0.05 * features[:, 1], 0.1 * np.exp(0.3 * features[:, 1])
    log_prices = location + scale * rng.normal(size=rows)
    kept = keeps & (rng.random(rows) < KEEP)
    free = norm.pdf(log_prices, location, scale) * (1.0 - KEEP * keeps)
    return features, log_prices, np.where(kept, KEEP, free), kept


def fit(rows: int, seed: int = 0, keeps: bool = False) -> tuple[PriceDensity, np.ndarray, np.ndarray]:
    features, log_prices, truth, kept = draw_log(rows, seed, keeps)
    return fit_price_density(log_prices, features, np.arange(rows), kept if keeps else None), truth, features


@pytest.mark.parametrize("keeps", [False, True])
def test_a_normal_density_whose_mean_and_variance_follow_features_is_recovered(keeps: bool) -> None:
    def error(rows: int) -> float:
        density, truth, _ = fit(rows, keeps=keeps)
        return float(np.abs(density.propensities - truth).mean() / truth.mean())

    few, many = error(300), error(10_000)
    assert many < 0.06
    assert many < 0.5 * few


def test_the_density_integrates_to_the_probability_of_a_new_price() -> None:
    density, _, _ = fit(600, keeps=True)
    grid = np.linspace(-4.0, 6.0, 20_001)
    few = replace(density, **{name: getattr(density, name)[:9] for name in vars(density) if name != "laws"})
    mass = few.evaluate(np.broadcast_to(grid, (9, len(grid)))).sum(axis=1) * (grid[1] - grid[0])
    np.testing.assert_allclose(mass, 1.0 - few.keep_probabilities, atol=2e-4)
    assert np.all(np.abs(few.keep_probabilities - KEEP) < 0.15)


def test_a_row_is_judged_by_models_that_have_not_seen_its_cluster() -> None:
    """Prices of a cluster changed: its own locations stay, those of others move."""
    features, log_prices, _, _ = draw_log(400)
    clusters = np.repeat(np.arange(100), 4)
    settings = DensitySettings(folds=4)
    before = fit_price_density(log_prices, features, clusters, settings=settings)
    after = fit_price_density(log_prices + np.where(clusters == 7, 1.0, 0.0), features, clusters, settings=settings)
    own_fold = before.folds == before.folds[clusters == 7][0]
    assert np.array_equal(before.locations[own_fold], after.locations[own_fold])
    assert np.all(before.locations[~own_fold] != after.locations[~own_fold])


def test_ratios_to_a_kernel_policy_have_mean_one_and_value_it() -> None:
    density, _, features = fit(20_000)
    named = 1.0 + 0.1 * features[:, 0]
    wanted = compute_kernel_propensities(density, named, 0.15)
    rewards = 5.0 + 10.0 * density.log_prices + features[:, 0]
    log = LoggedTrajectories(rewards[:, None], density.propensities[:, None], wanted[:, None], np.arange(20_000))
    ratios = compute_importance_ratios(log)
    assert ratios.steps.mean() == pytest.approx(1.0, abs=0.02)
    truth = float((5.0 + 10.0 * named + features[:, 0]).mean())  # linear: the blur has no bias
    assert estimate_trajectory_importance(log, ratios, True).value == pytest.approx(truth, abs=0.1)
    assert abs(rewards.mean() - truth) < 0.1  # by the same mean price; so another policy must be told apart as well
    lower = compute_kernel_propensities(density, named - 0.1, 0.15)
    moved = LoggedTrajectories(rewards[:, None], density.propensities[:, None], lower[:, None], np.arange(20_000))
    found = estimate_trajectory_importance(moved, compute_importance_ratios(moved), True).value
    assert found == pytest.approx(truth - 1.0, abs=0.15)


def test_a_policy_that_is_the_manager_earns_the_mean_of_the_log() -> None:
    density, _, features = fit(500, keeps=True)
    chances = density.propensities
    weights = compute_decision_weights(chances[:, None], chances[:, None], np.ones((500, 1), bool))
    assert np.array_equal(weights.ratios, np.ones((500, 1)))
    log = LoggedTrajectories(features[:, :1], chances[:, None], chances[:, None], np.arange(500))
    assert estimate_trajectory_importance(log, compute_importance_ratios(log)).value == pytest.approx(
        features[:, 0].mean()
    )


def test_floors_speak_of_kept_and_new_prices_in_their_own_units() -> None:
    density, _, _ = fit(800, keeps=True)
    floors = density.choose_floors(0.05)
    assert np.all(floors[density.kept] == 0.05)
    usual = np.median(density.propensities[~density.kept])
    np.testing.assert_allclose(floors[~density.kept], 0.05 * usual)
    wanted = compute_kernel_propensities(density, np.full(800, 1.4), 0.2)[:, None]
    chances, everywhere = density.propensities[:, None], np.ones((800, 1), bool)
    free = compute_decision_weights(wanted, chances, everywhere)
    floored = compute_decision_weights(wanted, chances, everywhere, floors[:, None])
    below = density.propensities < floors
    assert below.any()
    assert floored.trimmed_mass == pytest.approx(free.ratios[below].sum() / free.ratios.sum())
    np.testing.assert_allclose(floored.ratios[below], wanted[below] / floors[below][:, None])


def test_kept_prices_speak_only_for_policies_that_keep() -> None:
    density, _, features = fit(400, keeps=True)
    named = 1.0 + 0.1 * features[:, 0]
    never = compute_kernel_propensities(density, named, 0.1)
    often = compute_kernel_propensities(density, named, 0.1, keep_probabilities=0.8)
    assert np.all(never[density.kept] == 0.0)
    assert np.all(often[density.kept] == 0.8)
    np.testing.assert_allclose(often[~density.kept], 0.2 * never[~density.kept])


def test_ranks_are_uniform_where_the_density_is_right_and_not_where_prices_take_turns() -> None:
    density, _, features = fit(5000)
    right = measure_rank_calibration(density.ranks, features)
    assert right.error < 1.5 * right.noise
    assert right.largest_gap < 0.02
    log_prices = density.log_prices
    promoted = np.random.default_rng(1).random(5000) < 1.0 / (1.0 + np.exp(-2.0 * features[:, 0]))
    turns = fit_price_density(log_prices - 0.6 * promoted, features, np.arange(5000))
    in_turn = measure_rank_calibration(turns.ranks, features)
    assert in_turn.error > 4.0 * in_turn.noise
    assert in_turn.largest_gap < 0.03  # over all rows together nothing is to be seen
    assert measure_rank_calibration(np.full(100, 0.55), features[:100]).error == pytest.approx(0.9)


def test_what_cannot_be_fitted_is_refused() -> None:
    features, log_prices, _, _ = draw_log(50)
    with pytest.raises(ValueError, match="missing or infinite"):
        fit_price_density(np.where(np.arange(50) == 3, np.nan, log_prices), features, np.arange(50))
    with pytest.raises(ValueError, match="do not vary"):
        fit_price_density(np.ones(50), features, np.arange(50))
    with pytest.raises(ValueError, match="tell prices exactly"):
        fit_price_density(features[:, 0], features[:, :1], np.arange(50), settings=DensitySettings(ridge=0.0))
    with pytest.raises(ValueError, match="clusters"):
        fit_price_density(log_prices, features, np.zeros(50))
    with pytest.raises(ValueError, match="do not fit"):
        fit_price_density(log_prices, features[:40], np.arange(50))
    with pytest.raises(ValueError, match="bandwidth_factor"):
        DensitySettings(bandwidth_factor=0.0)
    with pytest.raises(ValueError, match="ranks must"):
        measure_rank_calibration(np.array([1.5]), np.ones((1, 1)))
    with pytest.raises(ValueError, match="do not fit"):
        measure_rank_calibration(np.ones(3), np.ones((2, 1)))


def test_one_step_ratios_from_scores_are_near_the_true_ones_and_those_from_log_prices_miss_the_prices_ends() -> None:
    """Sixty prices in two cells; a manager who asks more of some customers."""
    rng = np.random.default_rng(0)
    rows, prices = 6000, np.exp(np.linspace(0.0, 1.0, 60))
    design = np.stack([np.full(60, 1 / 60), np.append(np.full(30, 1 / 30), np.zeros(30))])
    cells, covariates = rng.integers(2, size=rows), rng.normal(size=(rows, 1))
    ranks = rank_within_cells(covariates[:, 0], cells)
    experiment = RandomisedDecisions(
        np.zeros(rows, dtype=np.int64), cells, design, prices, covariates, ("who",), np.arange(rows),
        (OneStepOutcome("taken", np.zeros(rows)),),
    )  # fmt: skip
    behavior = tilt_design(experiment, ranks, 1.0)
    actions = (rng.random((rows, 1)) > np.cumsum(behavior, axis=1)[:, :-1]).sum(axis=1)
    values = 3.0 - np.log(prices)[actions] + 0.5 * covariates[:, 0]
    decisions = replace(experiment, actions=actions, outcomes=(OneStepOutcome("taken", values),))
    log = OneStepLog(decisions, behavior)
    nuisances = fit_nuisances(log, np.log(prices)[:, None], ("who",), (), 0)
    cheap = compute_band_policy(decisions, 0.0, 1 / 3)
    errors, missed = {}, {}
    for name, place, bandwidth in (("scores", place_scores, 0.3), ("logs", place_log_prices, 0.1)):
        density = fit_one_step_density(decisions, nuisances.features, place(decisions), bandwidth, 0)
        ratios = density.compute_ratios(decisions, behavior)
        errors[name] = float(np.abs(ratios - 1.0).mean())
        found = estimate_from_log(log, replace(nuisances, densities={name: density}), cheap)["taken"]
        truth, blurred = (found[f"importance_self_normalized{end}"] for end in ("", f"_{name}"))
        assert isinstance(truth, OneStepValue)
        assert isinstance(blurred, OneStepValue)
        missed[name] = abs(blurred.value - truth.value)
        weights = density.compute_ratios(decisions, cheap)
        assert blurred.value == pytest.approx(float(weights @ values / weights.sum()))
        assert f"doubly_robust_self_normalized_{name}" in found
    assert errors["scores"] < 0.12
    assert errors["scores"] < 0.5 * errors["logs"]
    assert missed["scores"] < 0.03
    assert missed["logs"] > 0.06  # the cells' prices end where a location and a scale go on
    with pytest.raises(ValueError, match="target probabilities"):
        density.compute_ratios(decisions, 2.0 * cheap)
