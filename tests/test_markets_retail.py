"""The retail market: demand that is what it says it is, stock that hides it, and paths that belong to one market."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets import RetailSettings, core, make
from pricing_fm.markets.domains import sample_retail
from pricing_fm.markets.responses import (
    FAMILIES,
    LINEAR,
    compute_elasticity,
    compute_log_response,
    compute_optimal_ratio,
)
from pricing_fm.markets.streams import build_streams


def _shop(num_markets=6, seed=0, **settings):
    ids = np.arange(num_markets)
    market = sample_retail(RetailSettings(**settings), "shop", ids, seed)
    random = build_streams(seed, ids)
    return market, core.start(market, random), random


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
    market, state, random = _shop(noises=("none",), stocked_share=0.0)
    prices, promotions = state.list_price * 0.9, np.ones(market.shape)
    _, observation, reward, truth = core.step(market, state, prices, random, promotions)
    np.testing.assert_array_equal(observation.units, truth.mean_demand)
    np.testing.assert_allclose(reward, (prices - state.cost) * truth.mean_demand)


def test_mean_demand_is_the_mean_of_simulated_demand():
    market, state, _ = _shop(num_markets=20, stocked_share=0.0)
    rollouts = 400
    rows = np.repeat(np.arange(20), rollouts)
    random = build_streams(0, rows, np.tile(np.arange(rollouts), 20))
    many, start = market.select(rows), state.select(rows)
    _, observation, _, truth = core.step(many, start, start.list_price * 0.85, random)
    units = observation.units.reshape(20, rollouts, -1)
    error = units.mean(axis=1) - truth.mean_demand.reshape(20, rollouts, -1)[:, 0]
    standard_error = units.std(axis=1) / np.sqrt(rollouts)
    z = error / np.maximum(standard_error, 1e-9)
    # 200 items: the largest of 200 standard normals is below 4 in 99 % of cases, and their mean is near zero.
    assert np.abs(z).max() < 4.5
    assert abs(z.mean()) < 3 / np.sqrt(z.size)


def test_the_parts_of_demand_multiply_as_stated():
    market, state, _ = _shop(stocked_share=0.0, reference_share=1.0)
    prices, none = state.list_price, np.zeros(market.shape)

    def mean(changed, promotions=none):
        return core.compute_mean_demand(market, changed, prices, promotions)

    base = mean(state)
    np.testing.assert_array_equal(core.compute_mean_demand(market, state, prices), base)
    np.testing.assert_allclose(
        mean(state, none + 1.0) / base, np.broadcast_to(market.promotion_uplift, base.shape), rtol=1e-12
    )
    np.testing.assert_allclose(mean(state._replace(shock=state.shock + 0.2)) / base, np.exp(0.2))
    effect = np.broadcast_to(market.memory.gain, base.shape)
    np.testing.assert_allclose(mean(state._replace(memory=state.memory * 0.8)) / base, 0.8**effect)
    # 261 weeks are five years within half a day: the season is back and only the trend is left.
    growth = np.exp(np.broadcast_to(market.calendar.trend, base.shape) * 261)
    np.testing.assert_allclose(mean(state._replace(period=state.period + 261)) / base, growth, rtol=1e-2)


def test_customers_remember_a_weighted_mean_of_log_prices():
    market, state, random = _shop(reference_share=1.0)
    before, prices = state.memory[..., 0], state.list_price * 0.7
    state, *_ = core.step(market, state, prices, random)
    weight = market.memory.persistence
    np.testing.assert_allclose(state.memory[..., 0], before**weight * prices ** (1 - weight))
    market, state, _ = _shop(reference_share=0.0)
    assert market.memory is None
    assert state.memory is None


def test_sales_never_exceed_inventory_and_stock_outs_happen_but_not_always():
    market, state, random = _shop(num_markets=30, stocked_share=1.0)
    sold_out, lost = [], []
    for _ in range(60):
        before = state.supply[..., 0]
        state, observation, _, truth = core.step(market, state, state.list_price, random)
        assert np.all(observation.units <= observation.inventory)
        np.testing.assert_array_equal(observation.inventory, before)
        assert np.all(before == np.round(before))
        assert np.all(state.supply[..., 0] >= before - observation.units)
        sold_out.append(observation.units == observation.inventory)
        lost.append(truth.demand - observation.units)
    share = np.mean(sold_out)
    assert 0.02 < share < 0.3
    assert np.all(np.stack(lost)[~np.stack(sold_out)] == 0)
    assert np.stack(lost)[np.stack(sold_out)].sum() > 0


def test_the_hidden_shock_has_its_stated_law():
    market, state, random = _shop(num_markets=40, shock_scale_range=(0.3, 0.3), stocked_share=0.0)
    shocks, factors = [], []
    for _ in range(150):
        shocks.append(state.shock / market.shock.scale)
        state, *_, truth = core.step(market, state, state.list_price, random)
        factors.append(np.exp(truth.hidden_shock))
    path = np.stack(shocks)
    assert path.std() == pytest.approx(1.0, abs=0.05)
    # Stationary: as wide at the start as at the end.
    assert path[:30].std() == pytest.approx(path[-30:].std(), abs=0.1)
    assert np.mean(factors) == pytest.approx(1.0, abs=0.02)
    lagged = (path[1:] * path[:-1]).mean(axis=(0, 2, 3))
    assert np.corrcoef(lagged, market.shock.persistence.ravel())[0, 1] > 0.7
    together = np.array([np.corrcoef(path[:, m, :, 0].T)[~np.eye(10, dtype=bool)].mean() for m in range(40)])
    assert np.corrcoef(together, market.shock.common.ravel())[0, 1] > 0.6


def test_costs_jump_now_and_then_and_list_prices_follow_in_whole_ticks():
    market, state, random = _shop(num_markets=40, cost_change_probability=0.1)
    costs, prices = [state.cost], [state.list_price]
    for _ in range(104):
        state, *_ = core.step(market, state, state.list_price, random)
        costs.append(state.cost)
        prices.append(state.list_price)
    costs, prices = np.stack(costs), np.stack(prices)
    assert np.mean(costs[1:] != costs[:-1]) == pytest.approx(0.1, abs=0.01)
    revised = np.mean(prices[1:] != prices[:-1])
    assert 0.002 < revised < 0.05
    ticks = prices / market.price_tick
    np.testing.assert_allclose(ticks, np.round(ticks), atol=1e-6)
    # A list price that has just moved is the old share of cost, to the tick.
    moved = np.argwhere(prices[1:] != prices[:-1])[0]
    week, item = moved[0] + 1, tuple(moved[1:])
    share = market.list_price[item] / market.costs.unit_cost[item]
    assert prices[week][item] == pytest.approx(costs[week][item] * share, abs=0.0051)
    still, state, random = _shop(cost_change_probability=0.0)
    following, *_ = core.step(still, state, state.list_price, random)
    assert not still.costs.is_moving
    assert following.cost is state.cost


def test_list_prices_end_in_nine():
    market, *_ = _shop(num_markets=20)
    assert np.all(np.round(market.list_price * 100).astype(int) % 10 == 9)
    assert market.list_price.min() >= 0.79


def test_stores_of_a_category_share_its_products_and_differ_a_little():
    market, *_ = _shop(num_markets=4, num_stores=2)
    demand = market.demand
    np.testing.assert_array_equal(demand.reference_price[0], demand.reference_price[1])
    np.testing.assert_array_equal(market.list_price[2], market.list_price[3])
    ratio = demand.elasticity[0] / demand.elasticity[1]
    assert np.all(ratio != 1.0)
    assert np.abs(np.log(ratio)).max() < 0.4
    assert not np.any(demand.reference_price[1] == demand.reference_price[2])


def test_a_hundredfold_currency_changes_nothing_but_the_currency():
    paths = []
    for unit in (1.0, 100.0):
        market, state, random = _shop(median_price=4.0 * unit, price_tick=0.01 * unit)
        for _ in range(8):
            prices = np.round(state.list_price / market.price_tick * 0.9) * market.price_tick
            state, observation, reward, _ = core.step(market, state, prices, random)
        paths.append((observation.units, reward / unit, state.list_price / unit))
    for a, b in zip(*paths, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_rewards_of_a_batch_are_margins_and_a_shop_never_terminates():
    batch = make("retail", num_markets=5, seed=2)
    batch.reset()
    for _ in range(52):
        cost = batch.state.cost
        view, reward, terminations, truncations, _ = batch.step(batch.state.list_price[..., 0])
        np.testing.assert_allclose(reward, ((view.price - cost) * view.units).sum(axis=(1, 2)))
        assert not terminations.any()
    assert truncations.all()


def test_the_truth_of_a_market_does_not_depend_on_how_many_are_drawn():
    few, *_ = _shop(num_markets=3)
    many, *_ = _shop(num_markets=30)
    for name, part in few.parts.items():
        for key, values in vars(part).items():
            if isinstance(values, np.ndarray):
                np.testing.assert_array_equal(values, getattr(many, name).__dict__[key][:3])
    other = replace(few, volume=few.volume * 2.0)
    state = core.start(few, build_streams(0, np.arange(3)))
    means = [core.compute_mean_demand(market, state, state.list_price) for market in (few, other)]
    np.testing.assert_allclose(means[1], 2.0 * means[0])


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
