"""Managers: prices on the ladder, habits that differ, and propensities that are the true chances."""

import numpy as np
import pytest

from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, core, simulate_log
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.managers import STANDARD_MANAGERS, decide, sample_habits
from pricing_fm.markets.streams import build_streams


def _log(manager, confounding=0.0, num_markets=12, num_periods=80, **market):
    return simulate_log(
        RetailSettings(**market),
        ManagerSettings(names=(manager,), confounding=(confounding, confounding)),
        LogSettings(num_markets=num_markets, num_periods=num_periods),
    )


@pytest.mark.parametrize("manager", STANDARD_MANAGERS)
def test_prices_are_rungs_of_the_ladder_to_the_cent(manager):
    log = _log(manager)
    price, list_price = log.arrays.price, log.arrays.list_price
    np.testing.assert_array_equal(price, np.round(price, 2))
    distance = np.abs(price[..., None] - list_price[..., None] * log.habits.price_ladder).min(axis=-1)
    assert distance.max() <= 0.005 + 1e-9


@pytest.mark.parametrize("manager", ["hi_lo", "demand_follower", "cost_plus"])
def test_most_managers_keep_the_everyday_price_most_weeks(manager):
    log = _log(manager)
    ladder = log.habits.price_ladder[log.habits.regular_rung]
    regular = np.abs(log.arrays.price / log.arrays.list_price - ladder) < 0.02
    assert 0.5 < regular.mean() < 0.95


def _repeat_one_decision(manager, domain, family, periods=0, rollouts=3_000, **settings):
    """One decision drawn again and again: prices and their propensities, `(markets, rollouts, items)`."""
    ids = np.arange(3)
    market = DOMAINS[domain].sample(DOMAINS[domain].settings(**settings), family, ids, 0)
    rows = np.repeat(ids, rollouts)
    habits = sample_habits(ManagerSettings(names=(manager,), confounding=(0.5, 0.5)), market, ids, 1, 0)
    random = build_streams(0, ids)
    state = core.start(market, random)
    for _ in range(periods):
        decision = decide(habits, market, state, random)
        state = core.step(market, state, decision.prices, random, decision.promotions)[0]
    luck = build_streams(0, rows, np.tile(np.arange(rollouts), 3))
    decision = decide(habits.select(rows), market.select(rows), state.select(rows), luck)
    prices = decision.prices.reshape(3, rollouts, -1)
    chances = decision.propensities.reshape(3, rollouts, -1)
    return prices, chances


def _assert_frequencies_are_chances(prices, chances):
    rollouts = prices.shape[1]
    for market in range(3):
        for item in range(prices.shape[2]):
            _, where, counts = np.unique(prices[market, :, item], return_index=True, return_counts=True)
            stated = chances[market, where, item]
            error = np.abs(counts / rollouts - stated)
            assert np.all(error <= 4.5 * np.sqrt(stated * (1 - stated) / rollouts) + 1e-9)
            # What was never drawn in 3,000 tries has next to no chance.
            assert stated.sum() == pytest.approx(1.0, abs=0.012)


@pytest.mark.parametrize("manager", STANDARD_MANAGERS)
def test_propensities_are_the_true_chances_of_the_prices(manager):
    _assert_frequencies_are_chances(*_repeat_one_decision(manager, "retail", "shop"))


@pytest.mark.parametrize("confounding", [-0.9, -0.4, 0.0, 0.4, 0.9])
def test_the_demand_follower_is_confounded_as_told(confounding):
    log = _log("demand_follower", confounding, num_markets=40, num_periods=120)
    shock = log.arrays.hidden_shock / log.parameters.shock.scale
    found = np.corrcoef(shock.ravel(), np.log(log.arrays.price / log.arrays.list_price).ravel())[0, 1]
    # Rungs and the everyday price blunt the wish to about three quarters of its correlation.
    assert 0.6 * abs(confounding) - 0.04 <= abs(found) <= abs(confounding) + 0.04
    assert np.sign(found) == np.sign(confounding) or confounding == 0.0


@pytest.mark.parametrize("manager", ["hi_lo", "cost_plus", "epsilon_ladder", "randomized"])
def test_other_managers_do_not_follow_the_hidden_shock(manager):
    log = _log(manager, 0.9, num_markets=60)
    shock = log.arrays.hidden_shock / log.parameters.shock.scale
    found = np.corrcoef(shock.ravel(), np.log(log.arrays.price / log.arrays.list_price).ravel())[0, 1]
    assert abs(found) < 0.03


def test_naive_elasticities_are_biased_by_confounding_and_only_by_it():
    """Regressing log sales on log price finds the truth under a randomiser and misses it under a follower."""
    market = {
        "families": ("constant_elasticity",),
        "elasticity_range": (2.5, 2.5),
        "product_deviation": 0.0,
        "store_deviation": 0.0,
        "stocked_share": 0.0,
        "reference_share": 0.0,
        "shock_scale_range": (0.3, 0.3),
        "season_range": (0.0, 0.0),
        "promotion_uplift_range": (1.0, 1.0),
        "median_volume": 100.0,
        "cost_change_probability": 0.0,
    }

    def slope(manager, confounding):
        log = _log(manager, confounding, num_markets=20, num_periods=120, **market)
        x, y = np.log(log.arrays.price), np.log(log.arrays.mean_demand)
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        return -(x * y).sum() / (x * x).sum()

    assert slope("randomized", 0.9) == pytest.approx(2.5, abs=0.15)
    assert slope("demand_follower", -0.9) > 3.2
    assert slope("demand_follower", 0.9) < 1.8


def test_cost_plus_prices_follow_cost():
    log = _log("cost_plus", num_markets=20)
    cost = np.log(log.arrays.cost / log.arrays.cost[:1])
    price = np.log(log.arrays.price / log.arrays.price[:1])
    assert np.corrcoef(cost[-1].ravel(), price[-1].ravel())[0, 1] > 0.8


def test_promotions_come_with_cuts_but_not_always():
    log = _log("hi_lo", num_markets=30)
    cut = log.arrays.price / log.arrays.list_price < log.habits.price_ladder[log.habits.regular_rung] - 0.02
    promoted = log.arrays.promotion == 1
    assert 0.3 < promoted[cut].mean() < 0.8
    assert 0.0 < promoted[~cut].mean() < 0.1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"names": ("oracle",)}, "names"),
        ({"confounding": (0.5, 1.5)}, "confounding"),
        ({"price_ladder": (0.8, 0.9)}, "price_ladder"),
        ({"keep_share": (0.9, 0.4)}, "keep_share"),
    ],
)
def test_impossible_habits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ManagerSettings(**arguments)
