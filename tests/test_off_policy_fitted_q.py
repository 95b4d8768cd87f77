"""Fitted Q evaluation values the policy that was asked about, not a greedier or a more timid one."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.fitted_q import (
    DecisionFeatures,
    LeastSquares,
    Prediction,
    cross_fit_q,
    estimate_fitted_q,
    fit_q_backward,
    fit_q_stationary,
)
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories
from pricing_fm.evaluation.off_policy.trajectory_estimators import estimate_direct
from tests.test_off_policy_estimators import (
    ACTION_VALUES,
    LAW,
    PERIODS,
    STATE_VALUES,
    STEPS,
    TARGET,
    TRUTH,
    draw,
)

# Two states; action 1 moves to the other state, action 0 stays. Staying in state 0 earns 1, in state 1 earns 3, a move
# nothing. The policy flips a coin. With equal chances of moving, v = coin mean of rewards + discount * mean of v:
# v0 = 0.5 + discount (v0 + v1) / 2, v1 = 1.5 + discount (v0 + v1) / 2.
DISCOUNT = 0.8
MEAN = 1.0 / (1.0 - DISCOUNT)
COIN_VALUES = np.array([0.5 + DISCOUNT * MEAN, 1.5 + DISCOUNT * MEAN])


def one_hot(states: np.ndarray) -> np.ndarray:
    """A feature per state and action, `(units, periods, 2, 4)`."""
    return np.eye(4)[2 * states[..., None] + np.arange(2)]


def coin_log(units: int = 40, periods: int = 6) -> tuple[LoggedTrajectories, DecisionFeatures, np.ndarray]:
    rng = np.random.default_rng(0)
    states, actions = np.zeros((units, periods), int), (rng.random((units, periods)) < 0.7).astype(int)
    states[:, 0] = np.arange(units) % 2
    for step in range(1, periods):
        states[:, step] = states[:, step - 1] ^ actions[:, step - 1]
    rewards = np.where(actions == 0, np.array([1.0, 3.0])[states], 0.0)
    chance = np.where(actions == 1, 0.7, 0.3)
    log = LoggedTrajectories(rewards, chance, np.full(chance.shape, 0.5), np.arange(units), discount=DISCOUNT)
    return log, DecisionFeatures(one_hot(states), np.full((units, periods, 2), 0.5), actions), states


class Offset:
    """A critic that is off by a constant."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def fit(self, features: np.ndarray, targets: np.ndarray) -> Prediction:
        exact = LeastSquares().fit(features, targets)
        return lambda rows: exact(rows) + self.offset


def test_a_stochastic_policy_has_its_closed_form_value() -> None:
    log, decisions, states = coin_log()
    found = fit_q_stationary(log, decisions, [LeastSquares()], np.zeros(log.shape, bool))
    np.testing.assert_allclose(found.expected_values, COIN_VALUES[states], rtol=1e-6)
    # The greedy policy walks to state 1 and stays: 15 there. Its value is far from what was asked.
    greedy = np.array([DISCOUNT * 15.0, 15.0])
    assert np.all(greedy > COIN_VALUES * 1.5)


def test_critics_are_averaged_not_minimised() -> None:
    """Critics that are off by +1 and -1 at every regression are off by +-1 / (1 - discount); their mean is exact."""
    log, decisions, states = coin_log()
    ended = np.zeros(log.shape, bool)
    both = fit_q_stationary(log, decisions, [Offset(1.0), Offset(-1.0)], ended)
    np.testing.assert_allclose(both.expected_values, COIN_VALUES[states], rtol=1e-6)
    low = fit_q_stationary(log, decisions, [Offset(-1.0)], ended)
    np.testing.assert_allclose(low.expected_values, COIN_VALUES[states] - 5.0, rtol=1e-6)


def test_a_step_that_ends_the_world_has_nothing_after_it() -> None:
    log, decisions, states = coin_log(periods=2)
    ended = np.zeros(log.shape, bool)
    ended[:, 1] = True
    found = fit_q_stationary(log, decisions, [LeastSquares()], ended)
    # Pooled over steps: half of the visits end. Compare with the same table solved by hand.
    taken = 2 * states + decisions.actions
    values = np.zeros(4)
    for _ in range(500):
        expected = values.reshape(2, 2).mean(1)
        targets = log.rewards + DISCOUNT * np.stack([expected[states[:, 1]], np.zeros(len(states))], axis=1)
        values = np.array([targets[taken == cell].mean() for cell in range(4)])
    np.testing.assert_allclose(found.action_values, values[taken], rtol=1e-6)
    cut_off = fit_q_stationary(log, decisions, [LeastSquares()], np.zeros(log.shape, bool))
    np.testing.assert_allclose(cut_off.expected_values, COIN_VALUES[states], rtol=1e-6)


def test_an_iteration_that_diverges_says_so() -> None:
    log, decisions, _ = coin_log()
    # One feature that is four times as large for the action that the log takes less often: the famous instability.
    features = np.broadcast_to(np.array([8.0, 1.0])[None, None, :, None], (*log.shape, 2, 1)).copy()
    never = DecisionFeatures(features, np.tile([1.0, 0.0], (*log.shape, 1)), np.ones(log.shape, int))
    with pytest.raises(ValueError, match="has not converged"):
        fit_q_stationary(log, never, [LeastSquares()], np.zeros(log.shape, bool), max_iterations=50)


def population_features(states: np.ndarray, actions: np.ndarray) -> DecisionFeatures:
    return DecisionFeatures(one_hot(states), TARGET[states], actions)


def test_on_the_population_it_is_exact_over_a_finite_horizon() -> None:
    counts = (LAW.probabilities * 4.0 ** (2 * PERIODS)).astype(int)
    rows = np.repeat(np.arange(len(counts)), counts)
    log, states, actions = LAW.log.select(rows), LAW.states[rows], LAW.actions[rows]
    found = fit_q_backward(log, population_features(states, actions), [LeastSquares()])
    np.testing.assert_allclose(found.expected_values, STATE_VALUES[STEPS, states], atol=1e-9)
    np.testing.assert_allclose(found.action_values, ACTION_VALUES[STEPS, states, actions], atol=1e-9)
    assert estimate_direct(log, found).value == pytest.approx(TRUTH, abs=1e-9)


def test_contributions_are_the_derivatives_by_the_weight_of_a_unit() -> None:
    log, states, actions = draw(60, 2)
    decisions = population_features(states, actions)
    log = LoggedTrajectories(
        log.rewards, log.propensities, log.target_propensities, np.arange(60), discount=log.discount
    )
    estimate = estimate_fitted_q(log, decisions)
    parts = estimate.contributions
    assert estimate.value == pytest.approx(
        estimate_direct(log, fit_q_backward(log, decisions, [LeastSquares()])).value, rel=1e-9
    )
    for unit in (0, 17):
        times = np.full(60, 100)
        times[unit] += 1
        rows = np.repeat(np.arange(60), times)
        again = DecisionFeatures(decisions.features[rows], decisions.target_probabilities[rows], actions[rows])
        moved = estimate_fitted_q(log.select(rows), again).value - estimate.value
        expected = (parts.cluster_influences[unit] - parts.value) / (100 * 60 + 1)
        assert moved == pytest.approx(expected, rel=0.05)


def test_a_penalty_shrinks_and_collinear_features_are_refused() -> None:
    features, targets = np.eye(3)[np.arange(300) % 3], np.arange(300) % 3.0
    free, held = (LeastSquares(ridge).fit(features, targets)(np.eye(3)) for ridge in (0.0, 1.0))
    np.testing.assert_allclose(free, [0.0, 1.0, 2.0], atol=1e-12)
    assert np.all(held[1:] < free[1:])
    log, states, actions = draw(60, 2)
    doubled = population_features(states, actions)
    doubled = DecisionFeatures(np.tile(doubled.features, 2), doubled.target_probabilities, doubled.actions)
    with pytest.raises(ValueError, match="collinear"):
        estimate_fitted_q(log, doubled)
    with pytest.raises(ValueError, match="no critic"):
        fit_q_backward(log, doubled, [])


def test_cross_fitted_values_do_not_know_the_units_own_rewards() -> None:
    log, states, actions = draw(60, 2)
    decisions, critics = population_features(states, actions), [LeastSquares()]
    clusters = np.arange(60) // 2  # two units of a decision unit are judged by the same strangers
    log = replace(log, clusters=clusters)
    before = cross_fit_q(log, decisions, critics, folds=3)
    changed = clusters == 7
    rewards = np.where(changed[:, None], log.rewards + 50.0, log.rewards)
    after = cross_fit_q(replace(log, rewards=rewards), decisions, critics, folds=3)
    np.testing.assert_array_equal(after.expected_values[changed], before.expected_values[changed])
    moved = np.abs(after.expected_values - before.expected_values).max(axis=1) > 0.1
    assert 0.5 < moved.mean() < 0.8  # two of three folds learned from it
    alone = fit_q_backward(log, decisions, critics, teachers=~changed)
    assert not np.allclose(alone.expected_values, fit_q_backward(log, decisions, critics).expected_values)
    with pytest.raises(ValueError, match="30 decision units"):
        cross_fit_q(log, decisions, critics, folds=31)
