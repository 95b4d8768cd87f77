"""The retail market: demand that is what it says it is, stock that hides it, and paths that belong to one market."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets import RetailSettings, make
from pricing_fm.markets.demand import (
    FAMILIES,
    LINEAR,
    compute_elasticity,
    compute_log_response,
    compute_optimal_ratio,
)
from pricing_fm.markets.parameters import sample_retail_parameters
from pricing_fm.markets.retail import compute_mean_demand, start_retail, step
from pricing_fm.markets.streams import build_streams


def _market(num_markets=6, seed=0, **settings):
    ids = np.arange(num_markets)
    parameters = sample_retail_parameters(RetailSettings(**settings), ids, seed)
    random = build_streams(seed, ids)
    return parameters, start_retail(parameters, random), random


@pytest.mark.parametrize("code", range(len(FAMILIES)))
def test_elasticity_is_the_slope_of_the_log_response(code):
    ratio = np.linspace(0.6, 1.2, 13)
    family, elasticity, share = np.array(code), np.array(2.5), np.array(0.3)
    step_ = 1e-6
    up, down = (compute_log_response(family, elasticity, share, ratio * np.exp(s)) for s in (step_, -step_))
    np.testing.assert_allclose(
        compute_elasticity(family, elasticity, share, ratio), -(up - down) / (2 * step_), rtol=1e-6
    )
    assert compute_log_response(family, elasticity, share, np.ones(1))[0] == pytest.approx(0.0, abs=1e-12)
    assert compute_elasticity(family, elasticity, share, np.ones(1))[0] == pytest.approx(2.5)


@pytest.mark.parametrize("code", range(len(FAMILIES)))
@pytest.mark.parametrize("elasticity, cost", [(1.1, 0.7), (2.5, 0.6), (6.0, 0.4), (0.6, 0.5)])
def test_the_optimal_ratio_beats_a_fine_grid(code, elasticity, cost):
    arguments = (np.array(code), np.array(elasticity), np.array(0.2))
    bounds = (np.array(0.45), np.array(1.6))
    best = compute_optimal_ratio(*arguments, np.array(0.3), np.array(cost), bounds)
    grid = np.linspace(0.45, 1.6, 20_001)

    def profit(ratio):
        return (ratio - cost) * np.exp(compute_log_response(*arguments, ratio) - 0.3 * np.log(ratio))

    assert profit(np.atleast_1d(best))[0] >= profit(grid).max() * (1 - 1e-9)
    assert 0.45 <= best <= 1.6


def test_linear_demand_ends_where_it_should():
    response = compute_log_response(np.array(LINEAR), np.array(2.0), np.array(0.5), np.array([1.4, 1.5, 1.6]))
    np.testing.assert_allclose(np.exp(response), [0.2, 0.0, 0.0], atol=1e-12)


def test_without_noise_demand_is_the_mean_demand():
    parameters, state, random = _market(noises=("none",), stocked_share=0.0)
    prices, promotions = state.list_price * 0.9, np.ones(parameters.shape)
    _, observation, reward, info = step(parameters, state, prices, promotions, random)
    np.testing.assert_array_equal(observation.units, info.mean_demand)
    np.testing.assert_allclose(reward, (prices - state.cost) * info.mean_demand)


def test_mean_demand_is_the_mean_of_simulated_demand():
    parameters, state, _ = _market(num_markets=20, stocked_share=0.0)
    rollouts = 400
    rows = np.repeat(np.arange(20), rollouts)
    random = build_streams(0, rows, np.tile(np.arange(rollouts), 20))
    many, start = parameters.select(rows), state.select(rows)
    prices = start.list_price * 0.85
    _, observation, _, info = step(many, start, prices, np.zeros(many.shape), random)
    units = observation.units.reshape(20, rollouts, -1)
    error = units.mean(axis=1) - info.mean_demand.reshape(20, rollouts, -1)[:, 0]
    standard_error = units.std(axis=1) / np.sqrt(rollouts)
    z = error / np.maximum(standard_error, 1e-9)
    # 200 items: the largest of 200 standard normals is below 4 in 99 % of cases, and their mean is near zero.
    assert np.abs(z).max() < 4.5
    assert abs(z.mean()) < 3 / np.sqrt(z.size)


def test_the_parts_of_demand_multiply_as_stated():
    parameters, state, _ = _market(stocked_share=0.0, reference_share=1.0)
    prices, none = state.list_price, np.zeros(parameters.shape)
    base = compute_mean_demand(parameters, state, prices, none)
    promoted = compute_mean_demand(parameters, state, prices, none + 1.0)
    np.testing.assert_allclose(promoted / base, np.broadcast_to(parameters.promotion_uplift, base.shape))
    shocked = compute_mean_demand(parameters, replace(state, log_shock=state.log_shock + 0.2), prices, none)
    np.testing.assert_allclose(shocked / base, np.exp(0.2))
    spoiled = compute_mean_demand(parameters, replace(state, reference_price=state.reference_price * 0.8), prices, none)
    np.testing.assert_allclose(spoiled / base, 0.8 ** np.broadcast_to(parameters.reference_effect, base.shape))
    year = compute_mean_demand(parameters, replace(state, period=state.period + 261), prices, none)
    # 261 weeks are five years within half a day: the season is back and only the trend is left.
    growth = np.exp(np.broadcast_to(parameters.trend, base.shape) * 261)
    np.testing.assert_allclose(year / base, growth, rtol=1e-2)


def test_sales_never_exceed_inventory_and_stock_outs_happen_but_not_always():
    parameters, state, random = _market(num_markets=30, stocked_share=1.0)
    sold_out, lost = [], []
    for _ in range(60):
        before = state
        state, observation, _, info = step(parameters, state, state.list_price, np.zeros(parameters.shape), random)
        assert np.all(observation.units <= observation.inventory)
        np.testing.assert_array_equal(observation.inventory, before.inventory)
        assert np.all(observation.inventory == np.round(observation.inventory))
        assert np.all(state.inventory >= before.inventory - observation.units)
        sold_out.append(observation.units == observation.inventory)
        lost.append(info.demand - observation.units)
    share = np.mean(sold_out)
    assert 0.02 < share < 0.3
    assert np.all(np.stack(lost)[~np.stack(sold_out)] == 0)
    assert np.stack(lost)[np.stack(sold_out)].sum() > 0


def test_the_hidden_shock_has_its_stated_law():
    parameters, state, random = _market(num_markets=40, shock_scale_range=(0.3, 0.3), stocked_share=0.0)
    shocks, factors = [], []
    for _ in range(150):
        shocks.append(state.log_shock / parameters.shock_scale)
        state, *_, info = step(parameters, state, state.list_price, np.zeros(parameters.shape), random)
        factors.append(np.exp(info.hidden_shock))
    path = np.stack(shocks)
    assert path.std() == pytest.approx(1.0, abs=0.05)
    assert np.mean(factors) == pytest.approx(1.0, abs=0.02)
    lagged = (path[1:] * path[:-1]).mean(axis=(0, 2, 3))
    persistence = parameters.shock_persistence.ravel()
    assert np.corrcoef(lagged, persistence)[0, 1] > 0.7
    together = np.array([np.corrcoef(path[:, m, :, 0].T)[~np.eye(10, dtype=bool)].mean() for m in range(40)])
    assert np.corrcoef(together, parameters.common_shock.ravel())[0, 1] > 0.6


def test_a_markets_path_does_not_depend_on_how_many_run_beside_it():
    few, many = make("retail", num_markets=3, seed=4), make("retail", num_markets=50, seed=4)
    few.reset(), many.reset()
    for _ in range(12):
        a, b = few.step(few.state.list_price * 0.9), many.step(many.state.list_price * 0.9)
        for name in ("units", "price", "cost", "list_price", "inventory"):
            np.testing.assert_array_equal(getattr(a[0], name), getattr(b[0], name)[:3])
        np.testing.assert_array_equal(a[1], b[1][:3])


def test_stores_of_a_category_share_its_products_and_differ_a_little():
    parameters, *_ = _market(num_markets=4, num_stores=2)
    np.testing.assert_array_equal(parameters.reference_price[0], parameters.reference_price[1])
    ratio = parameters.elasticity[0] / parameters.elasticity[1]
    assert np.all(ratio != 1.0)
    assert np.abs(np.log(ratio)).max() < 0.4
    assert not np.any(parameters.reference_price[1] == parameters.reference_price[2])


def test_a_hundredfold_currency_changes_nothing_but_the_currency():
    paths = []
    for unit in (1.0, 100.0):
        parameters, state, random = _market(median_price=4.0 * unit, price_tick=0.01 * unit)
        for _ in range(8):
            prices = np.round(state.list_price / parameters.price_tick * 0.9) * parameters.price_tick
            state, observation, reward, _ = step(parameters, state, prices, np.zeros(parameters.shape), random)
        paths.append((observation.units, reward / unit, state.list_price / unit))
    for a, b in zip(*paths):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_step_leaves_the_state_it_was_given_as_it_was():
    parameters, state, random = _market()
    kept = {name: value.copy() for name, value in vars(state).items()}
    step(parameters, state, state.list_price, np.ones(parameters.shape), random)
    for name, value in kept.items():
        np.testing.assert_array_equal(value, getattr(state, name))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda prices: prices[:, :2], "shape"),
        (lambda prices: np.where(np.arange(10).reshape(1, 10, 1) == 3, np.nan, prices), r"prices\[0, 3, 0\] is nan"),
        (lambda prices: prices * 3, "must lie in"),
        (lambda prices: -prices, "must lie in"),
    ],
)
def test_bad_prices_are_refused_and_the_market_stays_as_it_was(spoil, message):
    batch, clean = make("retail", num_markets=2, seed=1), make("retail", num_markets=2, seed=1)
    with pytest.raises(ValueError, match=message):
        batch.step(spoil(batch.state.list_price))
    np.testing.assert_array_equal(batch.step(batch.state.list_price)[1], clean.step(clean.state.list_price)[1])


def test_the_batch_shows_what_a_seller_may_know_and_restarts_exactly():
    batch = make("retail", num_markets=5, seed=2)
    view = batch.reset()
    assert np.isnan(view.units).all()
    rewards = []
    for _ in range(52):
        cost = batch.state.cost
        view, reward, terminations, truncations, truth = batch.step(batch.state.list_price[..., 0])
        np.testing.assert_allclose(reward, ((view.price - cost) * view.units).sum(axis=(1, 2)))
        assert not terminations.any()
        rewards.append(reward)
    assert truncations.all()
    assert not {"mean_demand", "hidden_shock", "optimal_price"} & set(vars(view))
    batch.reset()
    again = [batch.step(batch.state.list_price)[1] for _ in range(52)]
    np.testing.assert_array_equal(rewards, again)
    fresh = batch.compute_optimal_prices(replace(batch.state, cost=batch.state.cost * 1.0))
    other = make("retail", num_markets=5, seed=2)
    np.testing.assert_array_equal(fresh, other.compute_optimal_prices(batch.state))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_products": 0}, "num_products is 0"),
        ({"families": ("cubic",)}, "families"),
        ({"elasticity_range": (3.0, 2.0)}, "elasticity_range"),
        ({"stocked_share": 1.2}, "stocked_share is 1.2"),
        ({"price_tick": 0.0}, "price_tick"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RetailSettings(**settings)


def test_unknown_markets_and_empty_batches_are_refused():
    with pytest.raises(ValueError, match="known markets"):
        make("bazaar")
    with pytest.raises(ValueError, match="num_markets is 0"):
        make("retail", num_markets=0)
