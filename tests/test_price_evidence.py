"""Regressions that the network reads as inputs: right where their assumptions hold, scale-free, safe at the edges."""

import numpy as np
import pytest

from pricing_fm.models.price_evidence import NUM_EVIDENCE, NUM_SIBLING_EVIDENCE, LoggedSeries, sibling_evidence
from pricing_fm.models.price_evidence import price_evidence as read_evidence

PERIODS = 104


def price_evidence(*arrays: np.ndarray) -> np.ndarray:
    return read_evidence(LoggedSeries(*arrays))


def simulate(elasticity: np.ndarray, seed: int = 0, confounding: float = 0.0) -> tuple[np.ndarray, ...]:
    """Units over their mean, log prices, promotions and log costs of items with a hidden shock that lasts."""
    random = np.random.default_rng(seed)
    items = len(elasticity)
    shock = np.zeros((items, PERIODS))
    for period in range(1, PERIODS):
        shock[:, period] = 0.8 * shock[:, period - 1] + 0.2 * random.standard_normal(items)
    costs = 0.1 * random.standard_normal((items, PERIODS)).cumsum(1) / 3
    prices = 0.1 * random.standard_normal((items, PERIODS)) + costs + confounding * shock
    units = random.poisson(80 * np.exp(shock - elasticity[:, None] * prices)).astype(float)
    return units / units.mean(1, keepdims=True), prices, np.zeros_like(prices), costs


def test_slopes_are_minus_the_elasticity_where_prices_follow_nothing() -> None:
    elasticity = np.linspace(0.5, 4.5, 200)
    units, prices, promoted, costs = simulate(elasticity)
    evidence = price_evidence(units, prices, promoted, costs, np.ones_like(units, dtype=bool))
    assert evidence.shape == (200, NUM_EVIDENCE)
    for column, most, least in ((0, 0.4, 0.92), (3, 0.45, 0.95), (8, 0.7, 0.8)):
        error = -3 * evidence[:, column] - elasticity
        assert np.abs(error).mean() < most
        assert np.corrcoef(-evidence[:, column], elasticity)[0, 1] > least
    # The standard errors say about how far off the slopes are; hidden shocks that last make them somewhat small.
    covered = np.abs(-3 * evidence[:, 0] - elasticity) < 2 * (np.exp(evidence[:, 1]) - 0.05)
    assert covered.mean() > 0.7


def test_prices_that_follow_demand_show_in_the_evidence() -> None:
    everything = np.ones((200, PERIODS), dtype=bool)
    plain = price_evidence(*simulate(np.full(200, 2.5)), everything)
    followed = price_evidence(*simulate(np.full(200, 2.5), confounding=0.6), everything)
    assert -3 * followed[:, 0].mean() < 1.7 < 2.3 < -3 * plain[:, 0].mean()
    # Prices follow what was left of the period before, and cost takes back part of what passed for indifference.
    assert abs(plain[:, 6].mean()) < 0.03 < 0.08 < followed[:, 6].mean()
    assert -3 * followed[:, 8].mean() > -3 * followed[:, 0].mean() + 0.3


def test_scaling_prices_changes_nothing() -> None:
    units, prices, promoted, costs = simulate(np.full(5, 2.0))
    everything = np.ones_like(units, dtype=bool)
    shifted = price_evidence(units, prices + 0.0, promoted, costs + 3.0, everything)
    assert np.allclose(shifted, price_evidence(units, prices, promoted, costs, everything))


def test_unusable_periods_have_no_say() -> None:
    units, prices, promoted, costs = simulate(np.full(5, 2.0))
    usable = np.ones_like(units, dtype=bool)
    usable[:, ::3] = False
    changed = np.where(usable, units, np.nan), np.where(usable, prices, np.nan)
    assert np.array_equal(
        price_evidence(*changed, promoted, costs, usable), price_evidence(units, prices, promoted, costs, usable)
    )


@pytest.mark.parametrize("case", ["nothing usable", "constant price", "no sales", "wild"])
def test_edges_give_numbers_or_nothing(case: str) -> None:
    units, prices, promoted, costs = simulate(np.full(4, 2.0))
    usable = np.ones_like(units, dtype=bool)
    if case == "nothing usable":
        usable[:] = False
    elif case == "constant price":
        prices = np.zeros_like(prices)
    elif case == "no sales":
        units = np.zeros_like(units)
    else:
        units, prices = units * 1e6, prices * 40
    evidence = price_evidence(units, prices, promoted, np.full_like(costs, np.nan), usable)
    if case == "nothing usable":
        assert np.isnan(evidence).all()
        return
    assert np.isfinite(evidence[:, :7]).all()
    assert np.abs(evidence[:, :7]).max() < 20
    assert np.isnan(evidence[:, 7:]).all()
    if case == "constant price":
        assert np.array_equal(evidence[:, 0], np.zeros(4))


def test_siblings_say_what_they_say_alone_and_an_item_does_not_count_as_its_own() -> None:
    units, prices, promoted, costs = simulate(np.repeat([1.0, 4.0], 10))
    series = LoggedSeries(units, prices, promoted, costs, np.ones_like(units, dtype=bool))
    alone = read_evidence(series)
    found = sibling_evidence(series, np.repeat([7, 3], 10))
    assert found.shape == (20, NUM_SIBLING_EVIDENCE)
    assert np.allclose(found[0, 5:14], alone[1:10].mean(0))
    assert np.allclose(found[-1, 5:14], alone[10:19].mean(0))
    assert np.allclose(found[:, -1], np.log(9.0))  # nine siblings, of which eight count


def test_what_siblings_share_in_hidden_demand_is_held_fixed() -> None:
    random = np.random.default_rng(2)
    shared = 0.4 * random.standard_normal((30, 1, PERIODS))
    prices = 0.1 * random.standard_normal((30, 8, PERIODS)) + 0.5 * shared
    units = random.poisson(60 * np.exp(shared - 2.5 * prices)).astype(float).reshape(240, PERIODS)
    prices, nothing = prices.reshape(240, PERIODS), np.zeros((240, PERIODS))
    series = LoggedSeries(units / units.mean(1, keepdims=True), prices, nothing, nothing + np.nan, nothing == 0)
    found = sibling_evidence(series, np.repeat(np.arange(30), 8))
    bias, left = (abs(-3 * slopes.mean() - 2.5) for slopes in (read_evidence(series)[:, 0], found[:, 0]))
    assert bias > 1.0
    assert left < bias / 1.5


def test_an_item_alone_has_no_siblings_and_changes_nothing_for_others() -> None:
    units, prices, promoted, costs = simulate(np.full(4, 2.0))
    series = LoggedSeries(units, prices, promoted, costs, np.ones_like(units, dtype=bool))
    found = sibling_evidence(series, np.array([0, 0, -1, -1]))
    assert np.isnan(found[2:]).all()
    pair = LoggedSeries(*(values[:2] for values in vars(series).values()))
    assert np.allclose(found[:2], sibling_evidence(pair, np.array([5, 5])))


def test_siblings_without_usable_periods_have_no_say() -> None:
    units, prices, promoted, costs = simulate(np.full(3, 2.0))
    usable = np.ones_like(units, dtype=bool)
    usable[2] = False
    found = sibling_evidence(LoggedSeries(units, prices, promoted, costs, usable), np.zeros(3, dtype=int))
    assert np.allclose(found[0, -1], np.log(2.0))
    assert np.isfinite(found[:2]).all()
