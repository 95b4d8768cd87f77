"""Recent levels: each item's own memory, the spread of its errors as far ahead, nothing from what is not demand."""

import numpy as np

from pricing_fm.models.recent_level import (
    FAST,
    LEADS,
    PRIOR_DEVIATION,
    RESIDUAL_PROBABILITIES,
    SLOW,
    RecentLevel,
    recent_level,
)

ITEMS, PAST = 200, 104
MEDIAN = RESIDUAL_PROBABILITIES.index(0.5)


def found(units: np.ndarray, usable: np.ndarray | None = None, steps: int = 8) -> RecentLevel:
    usable = np.ones(units.shape, dtype=bool) if usable is None else usable
    weight = usable * 0.5 ** (np.arange(units.shape[1])[::-1] / 52)
    return recent_level(np.where(usable, units, 0.0), np.ones(units.shape), usable, weight, steps)


def noisy(log_level: np.ndarray, volume: float = 50.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(volume * np.exp(log_level)) / volume


def wandering_levels(steps: float, seed: int) -> np.ndarray:
    """Random walks of the log level around zero, `(items, periods)`."""
    walk = np.cumsum(steps * np.random.default_rng(seed).standard_normal((ITEMS, PAST)), axis=1)
    return walk - walk.mean(1, keepdims=True)


def test_a_level_that_wanders_is_followed_and_noise_around_a_constant_one_is_not() -> None:
    walk = wandering_levels(0.1, seed=1)
    wandering, constant = found(noisy(walk)), found(noisy(np.zeros((ITEMS, PAST)), volume=3.0))
    error = np.abs(wandering.level[:, 0] - walk[:, -1]).mean()
    assert error < 0.65 * np.abs(wandering.slow - walk[:, -1]).mean()
    assert np.abs(constant.level[:, 0]).mean() < 0.5 * np.abs(constant.fast).mean()


def test_a_shock_that_fades_is_believed_for_the_next_period_and_not_for_distant_ones() -> None:
    random = np.random.default_rng(2)
    shock = np.zeros((ITEMS, PAST))
    for period in range(1, PAST):
        shock[:, period] = 0.7 * shock[:, period - 1] + 0.2 * random.standard_normal(ITEMS)
    level = found(noisy(shock), steps=16).level
    near, far = (np.polyfit(shock[:, -1], level[:, step], 1)[0] for step in (0, 15))
    assert near > 0.5
    assert far < 0.4 * near


def test_quantiles_of_the_errors_are_those_of_the_items_own_sales_and_widen_with_the_distance() -> None:
    random = np.random.default_rng(3)
    ratios = np.exp(0.4 * random.standard_normal((ITEMS, PAST)))
    spread = found(ratios).residual_quantiles
    inside = spread[:, 0, 1], spread[:, 0, -2]
    truth = np.exp(0.4 * random.standard_normal((ITEMS, 1000)))
    expected = np.exp(found(ratios).level[:, :1])
    share = ((truth >= inside[0][:, None] * expected) & (truth <= inside[1][:, None] * expected)).mean()
    assert 0.74 < share < 0.86
    walk = found(noisy(wandering_levels(0.1, seed=3)), steps=16).residual_quantiles
    width = np.log(walk[..., -2] / walk[..., 1]).mean(0)
    assert width[15] > 1.5 * width[0]


def test_without_any_period_the_level_is_the_expected_one_and_the_spread_the_usual_one() -> None:
    nothing = found(np.ones((2, PAST)), np.zeros((2, PAST), dtype=bool))
    assert np.array_equal(nothing.level, np.zeros((2, 8)))
    usual = np.exp(-0.5 * PRIOR_DEVIATION**2)
    np.testing.assert_allclose(nothing.residual_quantiles[..., MEDIAN], usual)


def test_periods_that_are_no_demand_change_nothing() -> None:
    random = np.random.default_rng(4)
    units, usable = noisy(np.zeros((ITEMS, PAST))), random.random((ITEMS, PAST)) < 0.7
    plain = found(units, usable)
    other = found(np.where(usable, units, 99.0), usable)
    for name in ("level", "fast", "slow", "residual_quantiles"):
        assert np.array_equal(getattr(plain, name), getattr(other, name))


def test_a_history_shorter_than_the_longest_lead_and_unknown_periods_before_it_say_the_same() -> None:
    units = noisy(np.zeros((ITEMS, 10)))
    short = found(units, steps=20)
    padded = np.pad(units, ((0, 0), (30, 0)))
    hidden = found(padded, np.pad(np.ones(units.shape, dtype=bool), ((0, 0), (30, 0))), steps=20)
    for name in ("level", "fast", "slow", "residual_quantiles"):
        np.testing.assert_allclose(getattr(short, name), getattr(hidden, name), rtol=1e-12)


def test_steps_between_leads_lie_between_them_and_further_ones_are_as_the_last() -> None:
    level = found(noisy(wandering_levels(0.1, seed=5)), steps=30).level
    at = [lead - 1 for lead in LEADS]
    between = (level[:, at[2]] + level[:, at[3]]) / 2
    np.testing.assert_allclose(level[:, (LEADS[2] + LEADS[3]) // 2 - 1], between)
    assert np.array_equal(level[:, 15:], np.repeat(level[:, 15:16], 15, axis=1))
    assert FAST < SLOW
