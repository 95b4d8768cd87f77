"""Batches of markets: the public surface `make(name)`, clear errors that change nothing, and ends that are ends."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets import MarketBatch, RetailSettings, make
from pricing_fm.markets.core import compute_final_value
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.one_period import compute_expected_reward, compute_one_period_prices
from pricing_fm.markets.streams import build_streams

FAMILIES = [(name, family) for name, domain in DOMAINS.items() for family in domain.families]
every_family = pytest.mark.parametrize("name, family", FAMILIES, ids=["/".join(pair) for pair in FAMILIES])


@every_family
def test_a_batch_shows_what_a_seller_may_know_and_restarts_exactly(name, family):
    batch = make(name, num_markets=3, seed=2, family=family, num_periods=6)
    view = batch.reset()
    assert np.isnan(view.units).all()
    assert np.isnan(view.price).all()
    paths = []
    for _ in range(2):
        view, path = batch.reset(), []
        for period in range(6):
            assert np.all(view.period == period)
            prices = view.list_price * (1.05 if batch.market.price_bounds[1] > 1.05 else 1.0)
            view, reward, terminations, truncations, truth = batch.step(prices)
            np.testing.assert_array_equal(view.price, prices)
            np.testing.assert_allclose(reward, truth.item_rewards.sum(axis=(1, 2)), rtol=1e-9, atol=1e-9)
            assert (terminations | truncations).all() == (period == 5)
            assert terminations.all() == (period == 5 and batch.market.ends)
            path.append((view, reward, truth))
        paths.append(path)
    for (view, reward, truth), (view_again, reward_again, truth_again) in zip(*paths, strict=True):
        np.testing.assert_array_equal(reward, reward_again)
        for one, other in zip((*view, *truth), (*view_again, *truth_again), strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="6 periods is over"):
        batch.step(view.list_price)
    batch.reset()
    batch.step(batch.state.list_price)


def _lose_the_last(prices):
    prices[-1, -1, -1] = np.nan
    return prices


@every_family
@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda prices: prices[:, :, :0], "has shape"),
        (lambda prices: prices[0], "has shape"),
        (_lose_the_last, r"prices\[1, \d, \d\] is nan; it must lie in \["),
        (lambda prices: prices * 9, r"prices\[0, 0, 0\] is .* must lie in \["),
        (lambda prices: prices * np.inf, "inf"),
        (lambda prices: -prices, "must lie in"),
    ],
)
def test_bad_prices_are_refused_and_the_market_stays_as_it_was(name, family, spoil, message):
    batch, clean = (make(name, num_markets=2, seed=1, family=family) for _ in range(2))
    with pytest.raises(ValueError, match=message):
        batch.step(spoil(np.array(batch.state.list_price)))
    np.testing.assert_array_equal(batch.step(batch.state.list_price)[1], clean.step(clean.state.list_price)[1])


def test_bounds_hold_up_to_half_a_tick_and_follow_the_list_price():
    batch = make("retail", num_markets=2, seed=1)
    tick = batch.market.price_tick
    for bound, away in zip(batch.market.price_bounds, (-1.0, 1.0), strict=True):
        edge = bound * batch.state.list_price
        batch.step(edge + away * 0.49 * tick)
        batch.reset()
        with pytest.raises(ValueError, match="must lie in"):
            batch.step(edge + away * 0.6 * tick)
    with pytest.raises(ValueError, match="promotions holds"):
        batch.step(batch.state.list_price, np.full(batch.shape, 0.5))
    with pytest.raises(ValueError, match="promotions has shape"):
        batch.step(batch.state.list_price, np.zeros(3))


def test_whoever_writes_into_a_view_does_not_change_the_market():
    batch = make("retail", num_markets=2, family="perishable")
    view = batch.reset()
    for values in (view.list_price, view.cost, view.inventory, view.period):
        with pytest.raises(ValueError, match="read-only"):
            values += 1
    mine = np.array(view.list_price)
    view, *_ = batch.step(mine)
    mine += 1.0
    np.testing.assert_array_equal(view.price, batch.state.list_price)


def test_what_is_left_at_a_true_end_is_worth_its_salvage():
    batch = make("retail", num_markets=4, family="perishable", num_periods=3)
    batch.reset()
    for _ in range(3):
        view, rewards, terminations, truncations, truth = batch.step(batch.state.list_price)
    left = compute_final_value(batch.market, batch.state)
    assert left.sum() > 0
    np.testing.assert_allclose(truth.item_rewards, view.price * view.units + left)
    assert terminations.all()
    assert not truncations.any()


def test_a_promotion_is_seen_and_sells_more():
    batch = make("retail", num_markets=50)
    means = []
    for promoted in (0.0, 1.0):
        batch.reset()
        view, *_, truth = batch.step(batch.state.list_price, np.full(batch.shape, promoted))
        assert np.all(view.promotion == promoted)
        means.append(truth.mean_demand)
    assert np.all(means[1] > means[0])


@pytest.mark.parametrize("family", ["shop", "reference_price", "perishable", "rival"])
def test_the_optimal_price_is_that_of_the_one_period_solver(family):
    batch = make("retail", num_markets=8, family=family, seed=3)
    for _ in range(6):
        expected = compute_one_period_prices(batch.market, batch.state)
        before = batch.state
        *_, truth = batch.step(np.clip(np.round(batch.state.list_price * 0.9, 2), 0.8, None))
        rewards = [compute_expected_reward(batch.market, before, prices) for prices in (truth.optimal_price, expected)]
        np.testing.assert_allclose(*rewards, rtol=1e-6)


def test_coupled_families_have_no_optimal_price_of_an_item():
    batch = make("retail", family="logit_stock")
    assert batch.get_optimal_prices() is None
    assert batch.step(batch.state.list_price)[-1].optimal_price is None


@pytest.mark.parametrize("family", ["shop", "waiting", "logit_stock"])
def test_half_of_the_customers_are_willing_to_pay_the_median(family):
    settings = RetailSettings(num_products=1, families=("constant_elasticity", "exponential", "logit", "linear"))
    batch = make("retail", num_markets=20, family=family, settings=settings)
    response = batch.market.demand.respond(batch.willingness_to_pay, None)
    np.testing.assert_allclose(response[batch.willingness_to_pay > 0], 0.5, rtol=1e-9)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "bazaar"}, "known markets: 'retail'"),
        ({"num_markets": 0}, "num_markets is 0"),
        ({"num_periods": 0}, "num_periods is 0"),
        ({"family": "bazaar"}, "known retail families: 'shop'"),
        ({"settings": {"num_products": 3}}, "settings is a dict; retail needs RetailSettings"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_batches_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**({"name": "retail"} | change))


def test_streams_and_bounds_must_fit_the_market():
    market = make("retail", num_markets=2).market
    with pytest.raises(ValueError, match="random holds 3 streams"):
        MarketBatch(market, build_streams(0, np.arange(3)))
    with pytest.raises(ValueError, match="price_bounds"):
        MarketBatch(replace(market, price_bounds=(2.0, 0.5)), build_streams(0, np.arange(2)))
