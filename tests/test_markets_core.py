"""The functional core: what must hold for every family of every domain."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets import core
from pricing_fm.markets.demand import OwnPriceDemand
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.noise import Noise
from pricing_fm.markets.responses import compute_optimal_ratio
from pricing_fm.markets.streams import build_streams

FAMILIES = [(domain, family) for domain in DOMAINS.values() for family in domain.families]
every_family = pytest.mark.parametrize(
    "domain, family", FAMILIES, ids=[f"{domain.name}/{family}" for domain, family in FAMILIES]
)


def _open(domain, family, ids, seed=0):
    ids = np.asarray(ids)
    market = domain.sample(domain.settings(), family, ids, seed)
    random = build_streams(seed, ids)
    return market, random, core.start(market, random)


def _prices(market, period, ids):
    """Prices that change from period to period and item to item and belong to the market's name."""
    shape = market.shape
    items = np.arange(shape[1] * shape[2]).reshape(1, *shape[1:])
    wave = np.sin(1.7 * period + 0.9 * items + np.asarray(ids).reshape(-1, 1, 1))
    return np.clip(1.0 + 0.25 * wave, *market.price_bounds) * market.list_price


def _run(market, random, state, ids, periods=8):
    path = []
    for period in range(periods):
        state, observation, reward, truth = core.step(market, state, _prices(market, period, ids), random)
        path.append((observation, reward, truth))
    return state, path


def _is_same(one, other, rows=slice(None)):
    assert (one is None) == (other is None)
    if one is not None:
        np.testing.assert_array_equal(one, other[rows])


@every_family
def test_a_market_walks_the_same_path_alone_and_among_others(domain, family):
    company = [3, 0, 7, 12, 5]
    _, together = _run(*_open(domain, family, company), company)
    _, alone = _run(*_open(domain, family, [7]), [7])
    for (seen, reward, truth), (seen_all, reward_all, truth_all) in zip(alone, together, strict=True):
        _is_same(reward, reward_all, slice(2, 3))
        for one, other in zip((*seen, *truth), (*seen_all, *truth_all), strict=True):
            _is_same(one, other, slice(2, 3))
    assert not np.array_equal(together[0][1][0], together[0][1][2])


@every_family
def test_nobody_sells_more_than_there_is_and_prices_matter(domain, family):
    ids = np.arange(6)
    market, random, state = _open(domain, family, ids)
    cheap, dear = (np.clip(factor, *market.price_bounds) * market.list_price for factor in (0.8, 1.4))
    cheap, dear = (np.broadcast_to(prices, market.shape) for prices in (cheap, dear))
    assert core.compute_mean_demand(market, state, cheap).sum() > core.compute_mean_demand(market, state, dear).sum()
    _, path = _run(market, random, state, ids, periods=market.num_periods)
    for observation, reward, truth in path:
        assert np.all((observation.units >= 0) & (observation.units <= observation.inventory + 1e-9))
        assert np.isfinite(reward).all()
        assert np.isfinite(truth.mean_demand).all()
    assert sum(observation.units.sum() for observation, *_ in path) > 0


@every_family
def test_without_noise_demand_is_its_mean(domain, family):
    ids = np.arange(4)
    market, random, state = _open(domain, family, ids)
    loud = [truth for *_, truth in _run(market, random, state, ids)[1]]
    quiet = replace(market, noise=Noise(np.ones((4, 1, 1), dtype=bool)))
    for *_, truth in _run(quiet, random, state, ids)[1]:
        np.testing.assert_array_equal(truth.demand, truth.mean_demand)
    if not market.noise.silent.all():
        assert any(np.any(truth.demand != truth.mean_demand) for truth in loud)


@every_family
def test_a_step_leaves_everything_it_was_given_as_it_was(domain, family):
    ids = np.arange(3)
    market, random, state = _open(domain, family, ids)
    state, _ = _run(market, random, state, ids, periods=2)
    prices = np.array(np.broadcast_to(_prices(market, 2, ids), market.shape))
    kept = [None if values is None else values.copy() for values in (*state, prices)]
    following, *first = core.step(market, state, prices, random)
    for before, after in zip(kept, (*state, prices), strict=True):
        _is_same(before, after)
    again, *second = core.step(market, state, prices, random)
    np.testing.assert_array_equal(first[1], second[1])
    for one, other in zip(following, again, strict=True):
        _is_same(one, other)
    assert np.all(following.period == state.period + 1)


@every_family
def test_some_of_the_markets_go_on_as_they_did_among_all(domain, family):
    ids = np.arange(5)
    market, random, state = _open(domain, family, ids)
    state, _ = _run(market, random, state, ids, periods=3)
    prices = np.array(np.broadcast_to(_prices(market, 3, ids), market.shape))
    chosen = np.array([4, 1])
    whole = core.step(market, state, prices, random)
    part = core.step(market.select(chosen), state.select(chosen), prices[chosen], random.select(chosen))
    np.testing.assert_array_equal(part[2], whole[2][chosen])
    for one, other in zip(part[0], whole[0], strict=True):
        _is_same(one, other, chosen)


@every_family
def test_items_that_share_nothing_are_markets_of_their_own(domain, family):
    market, _, state = _open(domain, family, np.arange(3))
    prices = np.broadcast_to(_prices(market, 1, np.arange(3)), market.shape)
    if not market.is_separable:
        with pytest.raises(ValueError, match="coupled"):
            market.select_items(np.ones(market.shape, dtype=bool))
        return
    items = market.select_items(np.ones(market.shape, dtype=bool))
    assert items.shape == (prices.size, 1, 1)
    random = build_streams(0, np.arange(prices.size))
    alone = core.compute_mean_demand(items, core.start(items, random), prices.reshape(-1, 1, 1))
    together = core.compute_mean_demand(market, state, prices)
    # Each item alone starts with a hidden shock of its own.
    shocks = [
        0.0 if part.shock is None else part.shock.normalize(start.shock).ravel()
        for part, start in ((items, core.start(items, random)), (market, state))
    ]
    np.testing.assert_allclose(alone.ravel() / np.exp(shocks[0]), together.ravel() / np.exp(shocks[1]), rtol=1e-9)


@pytest.mark.parametrize("family", ["logit_stock", "substitution", "latent_classes", "reference_price", "perishable"])
def test_products_in_another_order_give_the_outcome_in_that_order(family):
    """Draws belong to positions, so the mean is compared, and what follows from a given demand."""
    market, _, state = _open(DOMAINS["retail"], family, np.arange(3))
    order = np.random.default_rng(0).permutation(market.shape[1])

    def permute(values):
        return (
            values[:, order] if isinstance(values, np.ndarray) and values.ndim > 2 and values.shape[1] > 1 else values
        )

    parts = {name: part._map(permute) for name, part in market.parts.items()}
    arrays = {name: permute(values) for name, values in market._arrays().items()}
    shuffled = replace(market, **parts, **arrays)
    turned = core.MarketState(*(permute(values) for values in state))
    prices = np.broadcast_to(_prices(market, 1, np.arange(3)), market.shape)
    mean = core.compute_mean_demand(market, state, prices)
    np.testing.assert_allclose(core.compute_mean_demand(shuffled, turned, permute(prices)), permute(mean), rtol=1e-12)
    one = core.settle(market, state, prices, mean, np.round(mean))
    other = core.settle(shuffled, turned, permute(prices), permute(mean), permute(np.round(mean)))
    np.testing.assert_allclose(other[2], permute(one[2]), rtol=1e-12)
    assert not np.allclose(mean, permute(mean))


def test_closed_form_prices_are_those_of_the_bisection():
    random = np.random.default_rng(0)
    shape = (400, 3, 1)
    family = random.integers(0, 4, (400, 1, 1))
    elasticity, unit = random.uniform(0.5, 6.0, shape), random.uniform(1.0, 9.0, shape)
    share, cost = random.uniform(0.05, 0.9, shape), unit * random.uniform(0.0, 1.05, shape)
    bounds = (0.5 * unit, unit * random.uniform(0.6, 2.0, shape))
    demand = OwnPriceDemand(family, elasticity, unit, share)
    for added in (np.zeros(shape), random.uniform(0.0, 2.0, shape)):
        found = demand.compute_optimal_price(cost, bounds, added)
        ratios = (bounds[0] / unit, bounds[1] / unit)
        expected = compute_optimal_ratio(family, elasticity, share, added, cost / unit, ratios) * unit
        np.testing.assert_allclose(found, expected, rtol=1e-7)
