"""Bounds hold for all policies at once, and the risk of a choice is that of its replicates."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.contributions import Contributions, RefusalError
from pricing_fm.evaluation.off_policy.intervals import bootstrap_value
from pricing_fm.evaluation.off_policy.selection import (
    SimultaneousBounds,
    bootstrap_cvar_difference,
    bound_simultaneously,
    estimate_regret_risk,
)

UNITS = 60


def differences_of(gains: np.ndarray) -> list[Contributions]:
    """A mean of unit gains for each policy, `(units, policies)`."""
    units = len(gains)
    codes, terms = np.arange(units), np.zeros(units, dtype=np.int64)
    return [Contributions(column, np.ones(units), codes, terms, terms, units, 1) for column in gains.T]


def test_one_policy_alone_has_its_percentile_bounds() -> None:
    difference = differences_of(np.random.default_rng(0).normal(1.0, 2.0, (UNITS, 1)))
    found = bound_simultaneously(difference, resample_weeks=False, replicates=4000)
    usual = bootstrap_value(difference[0], resample_weeks=False, replicates=4000, seed=7).interval(level=0.8)
    assert found.tail_share == pytest.approx(0.1, abs=0.001)
    assert found.values[0] == usual.value
    assert found.lower[0] == pytest.approx(usual.lower, abs=0.03)
    assert found.upper[0] == pytest.approx(usual.upper, abs=0.03)


def test_policies_that_move_together_pay_nothing_and_independent_ones_what_bonferroni_asks() -> None:
    rng = np.random.default_rng(1)
    together = bound_simultaneously(
        differences_of(np.repeat(rng.normal(size=(UNITS, 1)), 8, axis=1)), resample_weeks=False
    )
    apart = bound_simultaneously(differences_of(rng.normal(size=(UNITS, 8))), resample_weeks=False)
    assert together.tail_share == pytest.approx(0.1, abs=0.002)
    assert 0.1 / 8 <= apart.tail_share < 0.2 / 8
    assert np.all(apart.lower < apart.values)
    assert np.all(apart.upper > apart.values)


def test_the_best_of_eight_worthless_policies_looks_good_only_without_the_correction() -> None:
    """300 logs: nominal 0.10, three Monte Carlo errors are 0.05."""
    wrong = {"corrected": 0, "alone": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        gains = rng.normal(size=(UNITS, 1)) + rng.normal(size=(UNITS, 8))
        found = bound_simultaneously(differences_of(gains), resample_weeks=False, replicates=400, seed=seed)
        wrong["corrected"] += found.lower.max() > 0.0
        wrong["alone"] += np.quantile(found.replicates, 0.1, axis=0).max() > 0.0
    assert wrong["corrected"] <= 0.16 * 300
    assert wrong["corrected"] >= 0.04 * 300
    assert wrong["alone"] >= 0.25 * 300


def test_draws_are_shared_whatever_the_number_of_rows() -> None:
    gains = np.random.default_rng(2).normal(size=(UNITS, 1))
    plain = differences_of(gains)[0]
    doubled = replace(
        plain,
        **{
            name: np.tile(getattr(plain, name), 2)
            for name in ("numerators", "denominators", "clusters", "weeks", "terms")
        },
    )
    found = bound_simultaneously([plain, doubled], resample_weeks=False, replicates=50)
    np.testing.assert_allclose(found.replicates[:, 0], found.replicates[:, 1])
    assert found.replicates[:, 0].std() > 0.05


def test_policies_of_different_logs_are_refused() -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match="one log"):
        bound_simultaneously([*differences_of(rng.normal(size=(5, 1))), *differences_of(rng.normal(size=(6, 1)))])
    with pytest.raises(ValueError, match="one log"):
        bound_simultaneously([])
    with pytest.raises(ValueError, match="confidence is 0.4"):
        bound_simultaneously(differences_of(rng.normal(size=(5, 1))), confidence=0.4)


def test_regret_is_what_something_else_earns_more() -> None:
    replicates = np.array([[1.0, 2.0], [3.0, 1.0], [-1.0, -2.0]])
    bounds = SimultaneousBounds(replicates.mean(0), replicates.min(0), replicates.max(0), replicates, 0.9, 0.1)
    launched = estimate_regret_risk(bounds, 0)  # short by 1 of the other, by nothing, by 1 of the manager
    assert launched.probability == pytest.approx(2 / 3)
    assert launched.expected == pytest.approx(2 / 3)
    assert launched.upper == pytest.approx(1.0)
    kept = estimate_regret_risk(bounds, None)
    assert kept.probability == pytest.approx(2 / 3)
    assert kept.expected == pytest.approx((2 + 3 + 0) / 3)


def test_worst_outcomes_are_compared_in_pairs() -> None:
    rng = np.random.default_rng(4)
    outcomes = 10.0 * rng.random((40, 1)) + rng.normal(size=(40, 25))
    units = np.repeat(np.arange(20), 2)
    same = bootstrap_cvar_difference(outcomes, outcomes, units)
    assert (same.lower, same.value, same.upper) == (0.0, 0.0, 0.0)
    shifted = bootstrap_cvar_difference(outcomes - 2.0, outcomes, units)
    np.testing.assert_allclose([shifted.lower, shifted.value, shifted.upper], -2.0)
    riskier = bootstrap_cvar_difference(outcomes.mean() + 2.0 * (outcomes - outcomes.mean()), outcomes, units)
    assert riskier.lower < riskier.value < riskier.upper < 0.0


def test_weights_decide_which_outcomes_are_the_policys() -> None:
    outcomes, units = np.tile([1.0, 2.0, 3.0, 4.0], 5), np.arange(20)
    found = bootstrap_cvar_difference(outcomes, outcomes, units, np.tile([0.0, 0.0, 5.0, 5.0], 5), level=0.5)
    assert found.value == pytest.approx(3.0 - 1.5)
    with pytest.raises(ValueError, match="one decision unit"):
        bootstrap_cvar_difference(outcomes, outcomes, np.zeros(20))
    with pytest.raises(RefusalError, match="too few units"):
        bootstrap_cvar_difference(outcomes, outcomes, units, np.where(units == 3, 1.0, 0.0))
