"""Calibration errors, trimmed mass and the regressions behind, against numbers by hand and another optimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize

from pricing_fm.evaluation.off_policy import (
    CalibrationSettings,
    estimate_binary_calibration,
    estimate_choice_calibration,
    trim_propensities,
)
from pricing_fm.evaluation.off_policy.choice_regression import (
    compute_log_shares,
    fit_binary_regression,
    fit_choice_regression,
)


def test_the_calibration_error_of_a_yes_or_no_by_hand() -> None:
    # Two bins of four decisions: 0.2 said and 2 of 4 seen, 0.6 said and 2 of 4 seen.
    probabilities = np.array([0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.6])
    outcomes = np.array([1, 1, 0, 0, 1, 0, 1, 0])
    found = estimate_binary_calibration(probabilities, outcomes, np.arange(8), CalibrationSettings(bins=2))
    assert found.value == pytest.approx((4 * 0.3 + 4 * 0.1) / 8)
    assert found.num_decisions == 8


def test_the_calibration_error_of_a_choice_counts_gaps_once_and_does_not_shrink_with_unused_actions() -> None:
    probabilities = np.tile([0.5, 0.5], (8, 1))
    chosen = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    # One bin cannot see it: both actions hold the same probability.
    assert estimate_choice_calibration(probabilities, chosen, np.arange(8)).value == pytest.approx(0.0)
    probabilities = np.tile([0.4, 0.6], (8, 1))
    settings = CalibrationSettings(bins=2)
    two = estimate_choice_calibration(probabilities, chosen, np.arange(8), settings)
    assert two.value == pytest.approx(0.35)  # 0.75 seen where 0.4 was said, 0.25 where 0.6 was
    unused = np.column_stack([probabilities, np.zeros((8, 6))])
    assert estimate_choice_calibration(unused, chosen, np.arange(8), settings).value == pytest.approx(0.35)


def test_right_probabilities_err_by_chance_alone_and_wrong_ones_by_more() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(4), size=4000)
    clusters, yes = np.repeat(np.arange(200), 20), probabilities[:, 0]
    values = []
    for _ in range(20):
        chosen = (random.random((4000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
        right = estimate_choice_calibration(probabilities, chosen, clusters)
        binary = estimate_binary_calibration(yes, chosen == 0, clusters)
        values.append((right.value, binary.value))
    means = np.mean(values, axis=0)
    assert means[0] == pytest.approx(right.noise, rel=0.15)
    assert means[1] == pytest.approx(binary.noise, rel=0.15)
    sharpened = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
    assert estimate_choice_calibration(sharpened, chosen, clusters).lower > 4 * means[0]
    assert estimate_binary_calibration(np.sqrt(yes), chosen == 0, clusters).lower > 4 * means[1]


def test_clustered_decisions_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    outcomes = np.repeat(random.random(100) < 0.3, 20)
    probabilities = np.full(2000, 0.3) + 0.01 * random.random(2000)
    alone = estimate_binary_calibration(probabilities, outcomes, np.arange(2000))
    together = estimate_binary_calibration(probabilities, outcomes, np.repeat(np.arange(100), 20))
    assert together.upper - together.lower > 2 * (alone.upper - alone.lower)


def test_calibration_of_unusable_numbers_is_refused() -> None:
    ones = np.ones(3)
    with pytest.raises(ValueError, match="one decision unit only"):
        estimate_binary_calibration(0.5 * ones, ones, np.zeros(3))
    with pytest.raises(ValueError, match="outside \\[0, 1\\]"):
        estimate_binary_calibration(np.array([0.5, np.nan, 0.5]), ones, np.arange(3))
    with pytest.raises(ValueError, match="do not sum to 1"):
        estimate_choice_calibration(np.full((3, 2), 0.4), np.zeros(3, dtype=int), np.arange(3))
    with pytest.raises(ValueError, match="one each"):
        estimate_binary_calibration(0.5 * ones, np.ones(2), np.arange(3))
    with pytest.raises(ValueError, match="bins is 0"):
        CalibrationSettings(bins=0)


def test_trimmed_mass_by_hand() -> None:
    propensities = np.array([[np.nan, 0.5, 0.02], [np.nan, 0.01, 0.25]])
    target = np.array([[np.nan, 0.25, 0.04], [np.nan, 0.03, 0.5]])
    found = trim_propensities(propensities, 0.05, target)
    np.testing.assert_array_equal(found.propensities, [[np.nan, 0.5, 0.05], [np.nan, 0.05, 0.25]])
    assert found.num_trimmed == 2
    # Ratios 0.5, 2, 3 and 2; those of the two decisions below the floor are 2 and 3.
    assert found.trimmed_mass == pytest.approx(5.0 / 7.5)
    alone = trim_propensities(propensities, 0.05)
    assert alone.trimmed_mass == pytest.approx(2 / 4)  # the manager's own weight: the share of decisions
    untouched = trim_propensities(propensities, 0.0, target)
    assert (untouched.num_trimmed, untouched.trimmed_mass) == (0, 0.0)
    np.testing.assert_array_equal(untouched.propensities, propensities)


@pytest.mark.parametrize(
    "propensities, floor, target, words",
    [
        ([[0.5]], 1.0, None, "floor is 1.0"),
        ([[0.0]], 0.1, None, "0 or less"),
        ([[0.5]], 0.1, [[0.0]], "none of the logged decisions"),
        ([[0.5]], 0.1, [[0.1, 0.2]], "expected \\(1, 1\\)"),
    ],
)
def test_floors_that_make_no_sense_are_refused(
    propensities: list[list[float]], floor: float, target: list[list[float]] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        trim_propensities(np.array(propensities), floor, None if target is None else np.array(target))


def test_regressions_reach_the_optimum_that_another_optimiser_finds() -> None:
    random = np.random.default_rng(2)
    columns = random.normal(size=(300, 3)) * [1.0, 5.0, 0.2] + [0.0, 3.0, 1.0]
    outcomes = (random.random(300) < 1.0 / (1.0 + np.exp(-columns[:, 0] + 0.2))).astype(float)
    found = fit_binary_regression(columns, outcomes, penalty=2.0)
    scaled = np.column_stack([np.ones(300), (columns - columns.mean(0)) / columns.std(0)])

    def loss(coefficients: np.ndarray) -> float:
        logits = scaled @ coefficients
        prior = 0.5 * (0.01 * coefficients[0] ** 2 + 2.0 * (coefficients[1:] ** 2).sum())
        return float(np.logaddexp(0.0, logits).sum() - outcomes @ logits + prior)

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(found.coefficients, best.x, atol=1e-4)
    assert np.abs(found.coefficients[1]) > 0.3

    design = random.normal(size=(300, 4, 3))
    available = np.ones((300, 4), dtype=bool)
    available[np.arange(300), random.integers(4, size=300)] = False
    shares = np.exp(compute_log_shares(design @ np.array([1.0, -0.5, 0.0]), available))
    chosen = (random.random((300, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    choice = fit_choice_regression(lambda rows: design[rows], np.arange(300), chosen, available, penalty=2.0)

    def choice_loss(coefficients: np.ndarray) -> float:
        logs = compute_log_shares(design / choice.scales @ coefficients, available)
        return float(-logs[np.arange(300), chosen].sum() + (coefficients**2).sum())

    best = minimize(choice_loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(choice.coefficients, best.x, atol=1e-4)
    assert np.abs(choice.coefficients[0]) > 0.5
    with pytest.raises(ValueError, match="not available"):
        fit_choice_regression(lambda rows: design[rows], np.arange(300), (~available).argmax(1), available)


def test_what_never_happened_is_rare_and_not_impossible() -> None:
    never = fit_binary_regression(np.random.default_rng(3).normal(size=(500, 2)), np.zeros(500))
    chance = 1.0 / (1.0 + np.exp(-never.compute_logits(np.zeros(2))))
    assert 0.0 < chance < 0.01
    with pytest.raises(ValueError, match="column 1"):
        fit_binary_regression(np.array([[0.0, np.nan]]), np.zeros(1))
    with pytest.raises(ValueError, match="penalty is 0"):
        fit_binary_regression(np.ones((2, 1)), np.zeros(2), penalty=0.0)
