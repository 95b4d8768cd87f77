"""Values after a log: exact where they claim to be, equal to simulation elsewhere, and never above the oracle."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets import (
    LogSettings,
    ManagerSettings,
    RetailSettings,
    compute_manager_outcome,
    compute_oracle,
    compute_outcome,
    draw_demand,
    simulate_log,
)
from pricing_fm.markets.continuation import _roll_out
from pricing_fm.markets.supply import OrderUpToStock

PERIODS = 6


def _log(num_markets=6, seed=0, managers=None, **market):
    settings = LogSettings(num_markets=num_markets, num_periods=30, seed=seed)
    return simulate_log(RetailSettings(**market), managers, settings)


def _with_noise(log):
    """The same market with stock that never runs out: drawn sales are counted instead of mean demand."""
    stock = np.full(log.parameters.shape, 1e6)
    parameters = replace(log.parameters, supply=OrderUpToStock(stock))
    return replace(log, parameters=parameters, state=log.state._replace(supply=np.stack([stock, stock], axis=-1)))


@pytest.mark.parametrize("reference_share", [0.0, 1.0])
def test_simulated_value_of_the_oracles_prices_is_the_oracles_value(reference_share):
    log = _log(num_markets=8, stocked_share=0.0, reference_share=reference_share)
    oracle = compute_oracle(log, PERIODS)
    assert set(oracle.method) == {"path_ascent" if reference_share else "exact"}
    noisy = _with_noise(log)
    path = oracle.prices.reshape(*log.parameters.shape, PERIODS)
    batches = np.stack(
        [
            _roll_out(replace(noisy, settings=replace(noisy.settings, seed=seed)), path, np.zeros(path.shape), 60)[
                0
            ].sum(1)
            for seed in range(20)
        ]
    )
    error = batches.mean(axis=0) - oracle.value
    standard_error = batches.std(axis=0, ddof=1) / np.sqrt(20)
    assert abs(error.sum()) < 3 * np.sqrt((standard_error**2).sum())
    # Item by item, 20 batches give a t statistic; of 80 items at most a few exceed three standard errors.
    assert (np.abs(error) > 3 * standard_error).mean() < 0.06


def test_closed_form_demand_is_the_mean_over_rollouts():
    log = _log(stocked_share=0.0, reference_share=0.5)
    prices = np.broadcast_to(log.state.list_price[..., None] * 0.9, (*log.parameters.shape, PERIODS))
    promotions = np.zeros(prices.shape)
    promotions[..., 2] = 1.0
    rolled = _roll_out(log, prices, promotions, 4_000)[1]
    flat = (log.num_items, PERIODS)
    exact = compute_outcome(log, prices.reshape(flat), PERIODS, promotions.reshape(flat))
    assert exact.exact.all()
    np.testing.assert_allclose(rolled, exact.demand, rtol=0.06)
    np.testing.assert_allclose(exact.profit, (prices.reshape(flat) - log.state.cost.reshape(-1, 1)) * exact.demand)


def test_draws_of_demand_have_its_mean_and_scatter_and_do_not_ask_for_stock():
    prices = _log(stocked_share=0.0).state.list_price.reshape(-1)
    draws, scarce = (draw_demand(_log(stocked_share=share), 0.9 * prices, 3, 400) for share in (0.0, 1.0))
    np.testing.assert_array_equal(draws, scarce)
    assert draws.shape == (60, 400, 3)
    assert (draws == np.round(draws)).all()
    expected = compute_outcome(_log(stocked_share=0.0), 0.9 * prices, 3).demand
    error = draws.mean(axis=1) - expected
    assert (np.abs(error) > 3 * draws.std(axis=1) / 20).mean() < 0.05
    assert (draws.var(axis=1) > 0.8 * expected).all()  # at least that of a Poisson count
    dear = draw_demand(_log(stocked_share=0.0), 1.1 * prices, 3, 400)
    assert (dear.sum(axis=(1, 2)) < draws.sum(axis=(1, 2))).all()


@pytest.mark.parametrize("market", [{"stocked_share": 0.0}, {"stocked_share": 0.0, "reference_share": 1.0}])
def test_no_manager_and_no_plan_beats_the_oracle_inside_its_bounds(market):
    log = _log(num_markets=10, **market)
    oracle = compute_oracle(log, PERIODS, price_bounds=(0.5, 1.6))
    manager = compute_manager_outcome(log, PERIODS)
    assert np.all(manager.value <= oracle.value * (1 + 1e-9))
    assert (manager.value < 0.99 * oracle.value).mean() > 0.5
    assert np.all(oracle.constant_value <= oracle.value * (1 + 1e-12))
    random = np.random.default_rng(0)
    for _ in range(20):
        multiplier = random.uniform(0.5, 1.6, (log.num_items, PERIODS))
        prices = np.round(log.state.list_price.reshape(-1, 1) * multiplier, 2)
        low, high = 0.5 * log.state.list_price.ravel(), 1.6 * log.state.list_price.ravel()
        prices = np.clip(prices, np.ceil(low[:, None] * 100) / 100, np.floor(high[:, None] * 100) / 100)
        assert np.all(compute_outcome(log, prices, PERIODS).value <= oracle.value * (1 + 1e-9))


def test_the_constant_oracle_is_the_best_of_every_cent():
    log = _log(num_markets=3, stocked_share=0.0, reference_share=0.5)
    oracle = compute_oracle(log, PERIODS, price_bounds=(0.8, 1.2))
    list_price = log.state.list_price.ravel()
    span = int((0.4 * list_price.max()) * 100) + 2
    first = np.ceil(np.round(list_price * 80, 6))
    values = []
    for offset in range(span):
        coins = np.minimum(first + offset, np.floor(np.round(list_price * 120, 6)))
        values.append(compute_outcome(log, coins / 100, PERIODS).value)
    np.testing.assert_allclose(oracle.constant_value, np.max(values, axis=0), rtol=1e-12)
    assert np.all(oracle.constant_prices >= 0.8 * list_price - 1e-9)
    assert np.all(oracle.constant_prices <= 1.2 * list_price + 1e-9)
    np.testing.assert_array_equal(oracle.constant_prices, np.round(oracle.constant_prices, 2))


def test_remembered_prices_make_a_moving_plan_worth_more_than_a_constant_one():
    still = compute_oracle(_log(stocked_share=0.0, reference_share=0.0), PERIODS)
    np.testing.assert_array_equal(still.prices, np.repeat(still.constant_prices[:, None], PERIODS, axis=1))
    moving = compute_oracle(_log(stocked_share=0.0, reference_share=1.0), PERIODS)
    assert (moving.value > moving.constant_value * 1.0001).mean() > 0.5


def test_limited_stock_costs_value_and_uses_shared_luck():
    log = _log(num_markets=6, stocked_share=1.0, stock_cover_range=(1.0, 1.1), reference_share=0.0)
    oracle = compute_oracle(log, PERIODS, num_rollouts=40)
    assert set(oracle.method) == {"rollouts"}
    keep = log.state.list_price.ravel()
    outcome = compute_outcome(log, keep, PERIODS, num_rollouts=40)
    assert not outcome.exact.any()
    assert np.all(outcome.sales <= outcome.demand * 1.2 + 1.0)
    assert outcome.sales.sum() < 0.98 * outcome.demand.sum()
    assert np.all(oracle.value >= outcome.value - 1e-9)
    assert 0.5 * oracle.upper_bound.sum() < oracle.value.sum() < oracle.upper_bound.sum()
    again = compute_outcome(log, keep, PERIODS, num_rollouts=40)
    np.testing.assert_array_equal(outcome.profit, again.profit)


def test_a_followers_own_future_reacts_to_the_shock_and_stays_reproducible():
    managers = ManagerSettings(names=("demand_follower",), confounding=(0.9, 0.9))
    log = _log(managers=managers, stocked_share=0.0)
    first, second = compute_manager_outcome(log, PERIODS), compute_manager_outcome(log, PERIODS)
    np.testing.assert_array_equal(first.profit, second.profit)
    assert not first.exact.any()
    many = compute_manager_outcome(log, PERIODS, num_rollouts=1_000)
    np.testing.assert_allclose(first.value, many.value, rtol=0.12)


def test_values_scale_with_the_currency():
    values = []
    for unit in (1.0, 100.0):
        log = _log(median_price=4.0 * unit, price_tick=0.01 * unit, stocked_share=0.5)
        oracle = compute_oracle(log, PERIODS, num_rollouts=8)
        values.append((oracle.value / unit, oracle.prices / unit, compute_manager_outcome(log, PERIODS).value / unit))
    for a, b in zip(*values):
        np.testing.assert_allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize(
    "prices, periods, message",
    [
        (np.ones(3), 4, "prices has shape"),
        (np.ones((20, 5)), 4, "prices has shape"),
        (np.full(20, np.nan), 4, "not positive and finite"),
        (np.zeros(20), 4, "not positive and finite"),
        (np.ones(20), 0, "num_periods is 0"),
    ],
)
def test_impossible_plans_are_refused(prices, periods, message):
    with pytest.raises(ValueError, match=message):
        compute_outcome(_log(num_markets=2), prices, periods)


def test_impossible_bounds_are_refused():
    with pytest.raises(ValueError, match="price_bounds"):
        compute_oracle(_log(num_markets=2), 4, price_bounds=(1.2, 0.8))


@pytest.mark.parametrize(
    "family", ["reference_price", "stockpiling", "waiting", "repeated_seasons", "rival", "substitution", "halo"]
)
def test_what_has_no_hidden_shock_and_no_stock_limit_is_followed_exactly(family):
    log = simulate_log(None, None, LogSettings(num_markets=3, num_periods=20, family=family))
    random = np.random.default_rng(1)
    multiple = random.uniform(0.7, 1.2, (*log.parameters.shape, PERIODS))
    path = log.state.list_price[..., None] * multiple
    outcome = compute_outcome(log, path.reshape(log.num_items, PERIODS), PERIODS)
    assert outcome.exact.all()
    rolled = _roll_out(log, path, np.zeros(path.shape), 2)
    for exact, found in zip((outcome.profit, outcome.demand, outcome.sales), rolled, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_regimes_and_other_payoffs_are_rolled_out():
    for domain, family in (("loans", "funding_regimes"), ("loans", "take_up"), ("energy", "wholesale_regimes")):
        log = simulate_log(None, None, LogSettings(num_markets=4, num_periods=20, domain=domain, family=family))
        outcome = compute_outcome(log, log.state.list_price.ravel(), PERIODS, num_rollouts=8)
        assert not outcome.exact.any()
        assert np.all(np.isfinite(outcome.profit))


def test_a_market_that_ends_has_no_value_beyond_its_end():
    log = simulate_log(None, None, LogSettings(num_markets=2, num_periods=20, family="perishable"))
    prices = log.state.list_price.ravel()
    left = log.parameters.num_periods - int(log.state.period[0])
    assert left == 6
    with pytest.raises(ValueError, match="ends 6 periods after the log"):
        compute_outcome(log, prices, left + 1)
    # The last period's value holds what is left of the stock.
    salvage = log.parameters.supply.salvage
    plain = replace(log, parameters=replace(log.parameters, supply=replace(log.parameters.supply, salvage=0 * salvage)))
    worth = (
        compute_outcome(log, prices, left, num_rollouts=16).profit
        - compute_outcome(plain, prices, left, num_rollouts=16).profit
    )
    np.testing.assert_allclose(worth[:, :-1], 0.0, atol=1e-12)
    sold = compute_outcome(log, prices, left, num_rollouts=16).sales.sum(axis=1)
    rest = log.state.supply[..., 0].ravel() - sold
    np.testing.assert_allclose(worth[:, -1], rest * np.broadcast_to(salvage, log.parameters.shape).ravel(), atol=1e-9)


def test_the_oracle_of_single_items_refuses_coupled_items():
    log = simulate_log(None, None, LogSettings(num_markets=2, num_periods=5, family="substitution"))
    with pytest.raises(ValueError, match="retail/substitution are coupled"):
        compute_oracle(log, 4)
