"""Estimators of a policy's value are right on a process small enough to be written out whole."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.contributions import PolicyValue, subtract_contributions
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories, ModelValues
from pricing_fm.evaluation.off_policy.marginalized import (
    estimate_marginalized,
    estimate_marginalized_doubly_robust,
    estimate_marginalized_with_ratios,
    fit_state_model,
)
from pricing_fm.evaluation.off_policy.trajectory_estimators import (
    estimate_behavior_value,
    estimate_direct,
    estimate_doubly_robust,
    estimate_per_decision_importance,
    estimate_trajectory_importance,
)
from pricing_fm.evaluation.off_policy.weights import compute_importance_ratios

START = np.array([0.25, 0.75])  # all chances are quarters: 4 ** k trajectories are the law itself
MOVES = np.array([[[0.75, 0.25], [0.25, 0.75]], [[0.5, 0.5], [1.0, 0.0]]])  # state, action, next state
BEHAVIOR = np.array([[0.75, 0.25], [0.5, 0.5]])
TARGET = np.array([[0.25, 0.75], [1.0, 0.0]])
REWARDS = np.array([[1.0, -2.0], [3.0, 0.5]])
DISCOUNT, PERIODS = 0.9, 3
Estimator = Callable[[LoggedTrajectories], PolicyValue]


@dataclass(frozen=True)
class Law:
    """Every trajectory that can happen, with its probability."""

    log: LoggedTrajectories
    probabilities: np.ndarray
    actions: np.ndarray
    states: np.ndarray

    def population(self) -> LoggedTrajectories:
        """A log in which every trajectory occurs exactly as often as its probability says."""
        counts = self.probabilities * 4.0 ** (2 * PERIODS)
        assert np.array_equal(counts, counts.round())
        repeated = self.log.select(np.repeat(np.arange(len(counts)), counts.astype(int)))
        return replace(repeated, clusters=np.arange(repeated.shape[0]))


def write_out(periods: int = PERIODS) -> Law:
    paths, chances = [], []
    for path in product(range(2), repeat=2 * periods):
        states, actions = path[0::2], path[1::2]
        chance = START[states[0]] * np.prod([BEHAVIOR[s, a] for s, a in zip(states, actions)])
        chance *= np.prod([MOVES[states[t], actions[t], states[t + 1]] for t in range(periods - 1)])
        if chance > 0:
            paths.append((states, actions))
            chances.append(chance)
    all_states, all_actions = (np.array(column) for column in zip(*paths))
    log = LoggedTrajectories(
        rewards=REWARDS[all_states, all_actions],
        propensities=BEHAVIOR[all_states, all_actions],
        target_propensities=TARGET[all_states, all_actions],
        clusters=np.arange(len(all_states)),
        discount=DISCOUNT,
        states=all_states,
    )
    return Law(log, np.array(chances), all_actions, all_states)


def solve(policy: np.ndarray, periods: int = PERIODS) -> tuple[np.ndarray, np.ndarray]:
    """Exact action and state values of a policy, `(periods, 2, 2)` and `(periods + 1, 2)`."""
    action_values, values = np.zeros((periods, 2, 2)), np.zeros((periods + 1, 2))
    for step in reversed(range(periods)):
        action_values[step] = REWARDS + DISCOUNT * MOVES @ values[step + 1]
        values[step] = (policy * action_values[step]).sum(1)
    return action_values, values


LAW = write_out()
TRUTH = float(START @ solve(TARGET)[1][0])
ACTION_VALUES, STATE_VALUES = solve(TARGET)
STEPS = np.arange(PERIODS)


def model_of(states: np.ndarray, actions: np.ndarray, wrong: float = 0.0, seed: int = 0) -> ModelValues:
    """The exact values, or wrong ones that are functions of state and action all the same."""
    noise = wrong * np.random.default_rng(seed).normal(size=(PERIODS, 2, 2))
    action_values = ACTION_VALUES + noise
    state_values = (TARGET * action_values).sum(2)
    return ModelValues(action_values[STEPS, states, actions], state_values[STEPS, states])


def expectation(estimate: PolicyValue) -> float:
    """Mean over all logs of one trajectory each: every unit is a log of its own, weighted with its probability."""
    parts = estimate.contributions
    assert parts.terms.max() == 0
    sums = np.bincount(parts.clusters, parts.numerators, minlength=parts.num_clusters)
    weights = np.bincount(parts.clusters, parts.denominators, minlength=parts.num_clusters)
    np.testing.assert_allclose(weights, 1.0)
    return float(LAW.probabilities @ sums)


def test_importance_sampling_is_unbiased_over_all_trajectories() -> None:
    assert LAW.probabilities.sum() == pytest.approx(1.0)
    ratios = compute_importance_ratios(LAW.log)
    assert expectation(estimate_trajectory_importance(LAW.log, ratios)) == pytest.approx(TRUTH, abs=1e-12)
    assert expectation(estimate_per_decision_importance(LAW.log, ratios)) == pytest.approx(TRUTH, abs=1e-12)
    behavior = float(START @ solve(BEHAVIOR)[1][0])
    assert expectation(estimate_behavior_value(LAW.log)) == pytest.approx(behavior, abs=1e-12)
    assert abs(behavior - TRUTH) > 0.5


@pytest.mark.parametrize("wrong", [0.0, 1.0, 30.0])
def test_the_doubly_robust_estimate_is_unbiased_whatever_the_model(wrong: float) -> None:
    values = model_of(LAW.states, LAW.actions, wrong)
    ratios = compute_importance_ratios(LAW.log)
    assert expectation(estimate_doubly_robust(LAW.log, ratios, values)) == pytest.approx(TRUTH, abs=1e-10)
    marginal = compute_true_state_ratios()[STEPS, LAW.states]
    robust = estimate_marginalized_doubly_robust(LAW.log, ratios, marginal, values)
    assert expectation(robust) == pytest.approx(TRUTH, abs=1e-10)


def test_the_doubly_robust_estimate_is_unbiased_whatever_the_propensities_if_the_model_is_right() -> None:
    values = model_of(LAW.states, LAW.actions)
    believed = np.random.default_rng(1).uniform(0.1, 1.0, (PERIODS, 2, 2))
    wrong = replace(LAW.log, propensities=believed[STEPS, LAW.states, LAW.actions])
    ratios = compute_importance_ratios(wrong)
    assert expectation(estimate_doubly_robust(wrong, ratios, values)) == pytest.approx(TRUTH, abs=1e-10)
    assert abs(expectation(estimate_per_decision_importance(wrong, ratios)) - TRUTH) > 0.1


def test_the_sum_is_the_papers_recursion() -> None:
    """V = v + ratio (r + discount V' - q), from the last step to the first."""
    values, ratios = model_of(LAW.states, LAW.actions, 1.0), compute_importance_ratios(LAW.log)
    found = np.zeros(LAW.log.shape[0])
    for step in reversed(range(PERIODS)):
        surprise = LAW.log.rewards[:, step] + DISCOUNT * found - values.action_values[:, step]
        found = values.expected_values[:, step] + ratios.steps[:, step] * surprise
    parts = estimate_doubly_robust(LAW.log, ratios, values).contributions
    np.testing.assert_allclose(np.bincount(parts.clusters, parts.numerators), found, atol=1e-12)


def compute_true_state_ratios() -> np.ndarray:
    marginals = []
    for policy in (TARGET, BEHAVIOR):
        here = [START]
        for _ in range(PERIODS - 1):
            here.append(np.einsum("s,sa,sak->k", here[-1], policy, MOVES))
        marginals.append(np.stack(here))
    return marginals[0] / marginals[1]


def test_on_the_population_itself_every_estimator_returns_the_truth() -> None:
    log = LAW.population()
    states = np.asarray(log.states)
    actions = (log.propensities != BEHAVIOR[states, 0]).astype(int)  # undone below where both are equally likely
    actions[states == 1] = (log.target_propensities[states == 1] == 0).astype(int)
    ratios, wrong = compute_importance_ratios(log), model_of(states, actions, 2.0)
    marginal = compute_true_state_ratios()[STEPS, states]
    found = {
        "trajectory": estimate_trajectory_importance(log, ratios),
        "trajectory, self-normalised": estimate_trajectory_importance(log, ratios, self_normalized=True),
        "per decision": estimate_per_decision_importance(log, ratios),
        "per decision, self-normalised": estimate_per_decision_importance(log, ratios, self_normalized=True),
        "direct": estimate_direct(log, model_of(states, actions)),
        "doubly robust": estimate_doubly_robust(log, ratios, wrong),
        "doubly robust, self-normalised": estimate_doubly_robust(log, ratios, wrong, self_normalized=True),
        "marginalised": estimate_marginalized(log, ratios),
        "given ratios": estimate_marginalized_with_ratios(log, ratios, marginal, self_normalized=False),
        "given ratios, self-normalised": estimate_marginalized_with_ratios(log, ratios, marginal),
        "marginalised doubly robust": estimate_marginalized_doubly_robust(log, ratios, marginal, wrong),
    }
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(TRUTH, abs=1e-10), name
        influences = estimate.contributions.cluster_influences
        assert influences.mean() == pytest.approx(estimate.value, abs=1e-10), name
    np.testing.assert_allclose(fit_state_model(log, ratios).ratios, marginal, atol=1e-12)
    assert abs(estimate_direct(log, wrong).value - TRUTH) > 0.1


def draw(units: int, seed: int) -> tuple[LoggedTrajectories, np.ndarray, np.ndarray]:
    rows = np.random.default_rng(seed).choice(len(LAW.probabilities), size=units, p=LAW.probabilities)
    return replace(LAW.log.select(rows), clusters=np.arange(units) // 2), LAW.states[rows], LAW.actions[rows]


WEIGHTED: dict[str, Estimator] = {
    "trajectory": lambda log: estimate_trajectory_importance(log, compute_importance_ratios(log)),
    "trajectory_self": lambda log: estimate_trajectory_importance(log, compute_importance_ratios(log), True),
    "decision": lambda log: estimate_per_decision_importance(log, compute_importance_ratios(log)),
    "decision_self": lambda log: estimate_per_decision_importance(log, compute_importance_ratios(log), True),
    "marginalized": lambda log: estimate_marginalized(log, compute_importance_ratios(log)),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_value_scales_with_the_currency(name: str) -> None:
    log, _, _ = draw(200, 3)
    before = WEIGHTED[name](log).value
    assert WEIGHTED[name](replace(log, rewards=7.0 * log.rewards)).value == pytest.approx(7.0 * before, rel=1e-12)


@pytest.mark.parametrize("name", ["trajectory_self", "decision_self"])
def test_self_normalised_estimates_do_not_see_the_scale_of_propensities_nor_a_constant_in_rewards(name: str) -> None:
    log, _, _ = draw(200, 4)
    before = WEIGHTED[name](log).value
    scaled = replace(log, propensities=0.37 * log.propensities)
    assert WEIGHTED[name](scaled).value == pytest.approx(before, rel=1e-12)
    shifted = WEIGHTED[name](replace(log, rewards=log.rewards + 5.0)).value
    assert shifted == pytest.approx(before + 5.0 * log.discounts.sum(), rel=1e-12)
    plain = name.removesuffix("_self")
    assert abs(WEIGHTED[plain](scaled).value / WEIGHTED[plain](log).value - 1.0) > 0.5  # the others do


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_order_of_units_and_the_names_of_clusters_do_not_matter(name: str) -> None:
    log, _, _ = draw(101, 5)
    order = np.random.default_rng(0).permutation(101)
    shuffled = log.select(order)
    renamed = replace(shuffled, clusters=np.array([f"product {code}" for code in shuffled.clusters]))
    before, after = WEIGHTED[name](log), WEIGHTED[name](renamed)
    assert after.value == pytest.approx(before.value, rel=1e-12)
    assert after.effective_sample_size == pytest.approx(before.effective_sample_size, rel=1e-12)
    ours, theirs = (np.sort(e.contributions.cluster_influences) for e in (before, after))
    np.testing.assert_allclose(theirs, ours, atol=1e-9)


@pytest.mark.parametrize("self_normalized", [False, True])
def test_doubly_robust_is_direct_if_the_model_fits_and_importance_sampling_if_it_says_nothing(
    self_normalized: bool,
) -> None:
    log, states, actions = draw(150, 6)
    ratios = compute_importance_ratios(log)
    # A model that fits every step leaves no surprise: rewards are certain, so are the moves of this one trajectory.
    expected = np.random.default_rng(0).normal(size=log.shape)
    following = np.hstack([expected[:, 1:], np.zeros((150, 1))])
    exact = ModelValues(log.rewards + DISCOUNT * following, expected)
    robust = estimate_doubly_robust(log, ratios, exact, self_normalized)
    assert robust.value == pytest.approx(estimate_direct(log, exact).value, rel=1e-12)
    nothing = ModelValues(np.zeros(log.shape), np.zeros(log.shape))
    silent = estimate_doubly_robust(log, ratios, nothing, self_normalized)
    sampled = estimate_per_decision_importance(log, ratios, self_normalized)
    assert silent.value == pytest.approx(sampled.value, rel=1e-12)
    assert abs(robust.value - silent.value) > 0.05


def test_if_the_policy_is_the_manager_importance_sampling_is_the_sample_mean() -> None:
    log, states, actions = draw(400, 7)
    same = replace(log, target_propensities=log.propensities)
    mean = float(log.returns.mean())
    for name, estimator in WEIGHTED.items():
        assert estimator(same).value == pytest.approx(mean, rel=1e-12), name
        assert name == "marginalized" or estimator(same).effective_sample_size == pytest.approx(400.0)
    # Estimators with a model of the manager are within three standard errors of it.
    action_values, state_values = solve(BEHAVIOR)
    model = ModelValues(action_values[STEPS, states, actions], state_values[:PERIODS][STEPS, states])
    error = float(log.returns.std() / 20.0)
    for estimate in (
        estimate_direct(same, model),
        estimate_doubly_robust(same, compute_importance_ratios(same), model),
        estimate_doubly_robust(same, compute_importance_ratios(same), model, self_normalized=True),
    ):
        assert abs(estimate.value - mean) < 3 * error


@pytest.mark.parametrize("name", WEIGHTED)
def test_influences_are_the_derivatives_by_the_weight_of_a_unit(name: str) -> None:
    """A unit that is there 200 instead of 199 times moves the estimate by what its influence says."""
    log, _, _ = draw(12, 8)
    log = replace(log, clusters=np.arange(12))
    parts = WEIGHTED[name](log).contributions
    times = np.full(12, 200)
    times[5] += 1
    moved = WEIGHTED[name](log.select(np.repeat(np.arange(12), times))).value - parts.value
    assert moved == pytest.approx((parts.cluster_influences[5] - parts.value) / (200 * 12 + 1), rel=0.02)


def test_a_paired_difference_keeps_what_each_unit_contributed_to_both() -> None:
    log, _, _ = draw(60, 9)
    ratios = compute_importance_ratios(log)
    target = estimate_per_decision_importance(log, ratios, self_normalized=True).contributions
    manager = estimate_behavior_value(log).contributions
    paired = subtract_contributions(target, manager)
    assert paired.value == pytest.approx(target.value - manager.value, rel=1e-12)
    expected = target.cluster_influences - manager.cluster_influences
    np.testing.assert_allclose(paired.cluster_influences, expected, atol=1e-10)
    itself = subtract_contributions(manager, manager)
    assert itself.value == 0.0
    np.testing.assert_allclose(itself.cluster_influences, 0.0, atol=1e-14)


def test_undecided_steps_say_nothing_whatever_stands_in_them() -> None:
    """Padding of shorter trajectories, weeks without stock."""
    log, states, actions = draw(80, 10)
    model = model_of(states, actions, 1.0)
    pad = np.full((80, 4), np.nan)
    longer = LoggedTrajectories(
        rewards=np.hstack([log.rewards, pad]),
        propensities=np.hstack([log.propensities, pad]),
        target_propensities=np.hstack([log.target_propensities, pad]),
        clusters=log.clusters,
        discount=DISCOUNT,
        observed=np.hstack([log.mask, np.isfinite(pad)]),
    )
    padded = ModelValues(np.hstack([model.action_values, pad]), np.hstack([model.expected_values, pad]))
    short, long = compute_importance_ratios(log), compute_importance_ratios(longer)
    for self_normalized in (False, True):
        for estimator in (estimate_trajectory_importance, estimate_per_decision_importance):
            before = estimator(log, short, self_normalized).value
            assert estimator(longer, long, self_normalized).value == pytest.approx(before, rel=1e-12)
        before = estimate_doubly_robust(log, short, model, self_normalized).value
        assert estimate_doubly_robust(longer, long, padded, self_normalized).value == pytest.approx(before, rel=1e-12)


def test_a_log_that_is_cut_off_goes_on_and_one_that_ends_does_not() -> None:
    """A reward of 1 a period for ever, discount 0.5, cut off after two periods: worth 2; ended: 1.5."""
    log = LoggedTrajectories(np.ones((4, 2)), np.full((4, 2), 0.5), np.full((4, 2), 0.5), np.arange(4), discount=0.5)
    ratios = compute_importance_ratios(log)
    forever = ModelValues(np.full((4, 2), 2.0), np.full((4, 2), 2.0), final_values=np.full(4, 2.0))
    over = ModelValues(np.tile([1.5, 1.0], (4, 1)), np.tile([1.5, 1.0], (4, 1)))
    assert estimate_doubly_robust(log, ratios, forever).value == 2.0
    assert estimate_doubly_robust(log, ratios, over).value == 1.5
    assert estimate_doubly_robust(log, ratios, replace(forever, final_values=None)).value == 1.5
