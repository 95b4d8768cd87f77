"""Ratios, floors and kernels of one-step logs, and what a log is refused for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing_fm.evaluation.off_policy.log import LoggedTrajectories
from pricing_fm.evaluation.off_policy.trajectory_estimators import (
    estimate_per_decision_importance,
    estimate_trajectory_importance,
)
from pricing_fm.evaluation.off_policy.weights import (
    choose_bandwidth,
    compute_effective_sample_size,
    compute_importance_ratios,
    compute_kernel_densities,
    compute_support_mass,
)
from pricing_fm.markets.oracles import bandit_value

KNOWN_ANSWERS = Path(__file__).parent / "oracles_known_answers.json"


def test_one_step_logs_give_the_known_bandit_values() -> None:
    cases = [case for case in json.loads(KNOWN_ANSWERS.read_text()) if case["problem"] == "bandit_value"]
    assert cases
    for case in cases:
        given = case["given"]
        log = LoggedTrajectories(
            *(
                np.array(given[key], float)[:, None]
                for key in ("rewards", "logging_probabilities", "target_probabilities")
            ),
            clusters=np.arange(len(given["rewards"])),
        )
        ratios, expect = compute_importance_ratios(log), case["expect"]
        for estimator in (estimate_trajectory_importance, estimate_per_decision_importance):
            plain, normalized = estimator(log, ratios), estimator(log, ratios, self_normalized=True)
            assert plain.value == pytest.approx(expect["inverse_propensity"], abs=case["tolerance"])
            assert normalized.value == pytest.approx(expect["self_normalized"], abs=case["tolerance"])
            assert plain.effective_sample_size == pytest.approx(expect["effective_sample_size"], abs=case["tolerance"])


@given(st.integers(2, 30), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_one_step_logs_agree_with_the_oracle(units: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logging, target, rewards = rng.uniform(0.05, 1.0, units), rng.uniform(0.0, 1.0, units), rng.normal(size=units)
    log = LoggedTrajectories(rewards[:, None], logging[:, None], target[:, None], np.arange(units))
    oracle = bandit_value(
        actions=[0] * units, rewards=rewards, logging_probabilities=logging, target_probabilities=target
    )
    ratios = compute_importance_ratios(log)
    assert estimate_per_decision_importance(log, ratios).value == pytest.approx(oracle["inverse_propensity"])
    normalized = estimate_per_decision_importance(log, ratios, self_normalized=True)
    assert normalized.value == pytest.approx(oracle["self_normalized"])
    assert normalized.effective_sample_size == pytest.approx(oracle["effective_sample_size"])


def test_the_floor_caps_ratios_and_reports_what_rested_on_them() -> None:
    log = LoggedTrajectories(
        np.ones((4, 1)), np.array([[0.01], [0.5], [0.5], [1.0]]), np.array([[0.5], [0.5], [0.5], [0.0]]), np.arange(4)
    )
    free, floored = compute_importance_ratios(log), compute_importance_ratios(log, floor=0.1)
    np.testing.assert_allclose(free.steps.ravel(), [50, 1, 1, 0])
    np.testing.assert_allclose(floored.steps.ravel(), [5, 1, 1, 0])
    assert free.trimmed_mass == 0.0
    assert floored.trimmed_mass == pytest.approx(50 / 52)
    assert estimate_trajectory_importance(log, floored).trimmed_mass == floored.trimmed_mass


def test_support_mass_counts_what_the_manager_never_does() -> None:
    target, behavior = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]), np.array([[0.5, 0.5, 0.0], [0.04, 0.5, 0.46]])
    np.testing.assert_allclose(compute_support_mass(target, behavior, 0.05), [0.5, 0.0])
    np.testing.assert_allclose(compute_support_mass(target, behavior, 0.01), [0.5, 1.0])
    with pytest.raises(ValueError, match="sum to 1"):
        compute_support_mass(target, 2 * behavior, 0.05)


def test_the_kernel_values_a_continuous_price_policy() -> None:
    """Reward quadratic in the price: the blurred policy's value is known, inside and at the edge of the prices."""
    grid = np.linspace(0.0, 1.0, 200_001)
    prices = 0.5 * (grid[1:] + grid[:-1])  # uniform logging density 1 on [0, 1], written out
    rewards = 1.0 - (prices - 0.5) ** 2
    for bounds in ((0.0, 1.0), None):
        density = compute_kernel_densities(prices, np.full_like(prices, 0.4), 0.1, bounds)
        log = LoggedTrajectories(rewards[:, None], np.ones((200_000, 1)), density[:, None], np.arange(200_000))
        blurred = 1.0 - (0.4 - 0.5) ** 2 - 0.1**2 / 5.0  # the kernel's variance is bandwidth**2 / 5
        ratios = compute_importance_ratios(log)
        assert estimate_per_decision_importance(log, ratios).value == pytest.approx(blurred, abs=1e-6)
    edge = compute_kernel_densities(prices, np.full_like(prices, 0.02), 0.1, (0.0, 1.0))
    assert edge.mean() == pytest.approx(1.0, abs=1e-6)  # all mass stays inside
    assert compute_kernel_densities(prices, np.full_like(prices, 0.02), 0.1).mean() < 0.7
    assert compute_effective_sample_size(edge) < 0.2 * len(prices)


def test_the_rule_of_thumb_narrows_with_the_log_and_needs_prices_that_vary() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=100), rng.normal(size=3200)
    assert 1.7 < choose_bandwidth(few, np.zeros(100)) / choose_bandwidth(many, np.zeros(3200)) < 2.3
    assert choose_bandwidth(3.0 * few, np.zeros(100)) == pytest.approx(3.0 * choose_bandwidth(few, np.zeros(100)))
    with pytest.raises(ValueError, match="vary"):
        choose_bandwidth(np.ones(5), np.zeros(5))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"propensities": np.array([[0.5, 0.0]])}, r"propensities\[0, 1\] is 0.0"),
        ({"target_propensities": np.array([[-0.1, 0.5]])}, r"target_propensities\[0, 0\] is -0.1"),
        ({"rewards": np.array([[1.0, np.nan]])}, r"rewards\[0, 1\] is nan"),
        ({"clusters": np.arange(2)}, "clusters have shape"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"states": np.array([[0, -1]])}, "states"),
    ],
)
def test_a_broken_log_is_refused_at_the_door(change: dict[str, object], words: str) -> None:
    good = LoggedTrajectories(np.ones((1, 2)), np.full((1, 2), 0.5), np.full((1, 2), 0.5), np.arange(1))
    with pytest.raises(ValueError, match=words):
        replace(good, **change)  # type: ignore[arg-type]


def test_a_policy_without_any_logged_action_is_refused() -> None:
    log = LoggedTrajectories(np.ones((2, 1)), np.full((2, 1), 0.5), np.zeros((2, 1)), np.arange(2))
    with pytest.raises(ValueError, match="none of the logged actions"):
        compute_importance_ratios(log)
