"""Policies that know the market, each at the value that is known for it: fixed prices and prices of a season."""

import math

import numpy as np
import pytest

from pricing_fm.markets import oracles, policies
from pricing_fm.markets.policies import estimate_mean

CURVES = (
    {"kind": "linear", "intercept": 100.0, "slope": 8.0},
    {"kind": "constant_elasticity", "scale": 500.0, "elasticity": 2.5},
    {"kind": "exponential", "scale": 80.0, "rate": 0.4},
    {"kind": "logit", "utility": 3.0, "price_sensitivity": 0.8, "market_size": 60.0},
)
SEASONS = ((20.0, 1.0, 5, 1.0), (40.0, 0.5, 10, 1.0), (7.0, 1.3, 12, 3.0), (30.0, 2.0, 1, 2.0))


def season_of(numbers):
    return policies.SeasonMarket(*numbers)


@pytest.mark.parametrize("demand", CURVES, ids=lambda demand: demand["kind"])
@pytest.mark.parametrize("noise, std", [("poisson", 0.0), ("normal", 2.0)])
def test_the_best_constant_price_earns_the_monopoly_profit_and_other_prices_less(demand, noise, std):
    market = policies.CurveMarket(demand, 2.0, noise, std)
    random = np.random.default_rng(1)
    policy = policies.build_best_constant_price(demand, 2.0)
    answer = oracles.monopoly_price(demand, 2.0)
    assert policy.price == answer["price"]
    found = policies.simulate_pricing(market, policy, 40, 500, random)
    earned = estimate_mean(found.profit / 40)
    assert earned.agrees_with(answer["profit"])
    assert earned.standard_error < 0.01 * answer["profit"]
    assert found.regret[:, -1] == pytest.approx(0.0, abs=1e-9)
    for factor in (0.9, 1.1):
        other = policies.simulate_pricing(market, policies.ConstantPrice(policy.price * factor), 40, 5, random)
        assert (other.regret[:, -1] > 0).all()


def test_cost_plus_with_the_markup_of_the_elasticity_is_the_monopoly_price_at_every_cost():
    market = policies.CurveMarket(CURVES[1], 2.0, "poisson")
    random = np.random.default_rng(2)
    costs = random.choice([0.5, 1.0, 3.0, 8.0], (30, 400))
    found = policies.simulate_pricing(market, policies.build_best_cost_plus(2.5), 30, 400, random, unit_costs=costs)
    best = np.mean([oracles.monopoly_price(CURVES[1], float(c))["profit"] for c in costs.ravel()])
    assert estimate_mean(found.profit / 30 - (market.optimal_profit(costs).mean(axis=0) - best)).agrees_with(best)
    assert found.regret[:, -1] == pytest.approx(0.0, abs=1e-9)
    lower = policies.simulate_pricing(market, policies.CostPlus(0.25), 30, 400, random, unit_costs=costs)
    price = 1.25 * costs
    loss = best - float(((price - costs) * 500.0 * price**-2.5).mean())
    assert lower.regret[:, -1].mean() / 30 == pytest.approx(loss, rel=1e-9)
    assert loss > 0.2 * best


def test_matching_is_optimal_beside_an_optimal_rival_and_loses_the_known_amount_beside_another():
    demand, random = CURVES[3], np.random.default_rng(3)
    market = policies.CurveMarket(demand, 2.0, "poisson")
    best = oracles.monopoly_price(demand, 2.0)
    for factor in (1.0, 0.8, 1.3):
        price = best["price"] * factor
        rivals = np.full((20, 2000), price)
        found = policies.simulate_pricing(market, policies.MatchRival(), 20, 2000, random, rival_prices=rivals)
        units = 60.0 / (1.0 + math.exp(0.8 * price - 3.0))
        loss = best["profit"] - (price - 2.0) * units
        assert found.regret[:, -1] / 20 == pytest.approx(loss, abs=1e-9)
        assert estimate_mean(best["profit"] - found.profit / 20).agrees_with(loss)
    assert loss > 1.0
    rivals = policies.build_situation(2, rival_prices=np.array([8.0, 10.0]))
    assert policies.MatchRival(0.9).choose(rivals, random) == pytest.approx([7.2, 9.0])


@pytest.mark.parametrize("numbers", SEASONS)
def test_prices_of_a_season_are_worth_what_theory_says(numbers):
    market, random = season_of(numbers), np.random.default_rng(4)
    optimum = market.optimum()
    fixed, resolved = policies.build_fluid_price(market), policies.ResolvedFluidPrice(*numbers[:2])
    best = policies.OptimalSeasonPrice(*numbers[:2])
    exact = [policies.compute_season_value(market, policy) for policy in (fixed, resolved, best)]
    assert exact[0] == pytest.approx(optimum["fixed_price_value"], rel=1e-6)
    assert exact[2] == pytest.approx(optimum["value"], rel=1e-6)
    assert exact[0] <= exact[1] * (1 + 1e-9)
    assert exact[1] < exact[2] <= optimum["fluid_bound"]
    for policy, value in zip((fixed, resolved, best), exact, strict=True):
        found = estimate_mean(policies.simulate_season(market, policy, 20_000, random))
        assert found.agrees_with(value)
        assert found.standard_error < 0.01 * value


def test_the_optimal_price_is_the_oracles_for_every_stock_and_time_left():
    stock = np.array([1.0, 2.0, 7.0, 40.0, 300.0])
    policy = policies.OptimalSeasonPrice(50.0, 0.7)
    for time_left in (1e-6, 0.1, 2.0, 30.0):
        prices = policy.choose(policies.build_situation(5, time_left, stock), np.random.default_rng(0))
        known = [oracles.gallego_van_ryzin(50.0, 0.7, int(n), time_left)["price"] for n in stock]
        assert prices == pytest.approx(known, rel=1e-9)
    assert np.isinf(policy.choose(policies.build_situation(3, 1.0, 0.0), np.random.default_rng(0))).all()


def test_the_fixed_price_loses_less_and_less_as_a_season_grows():
    shares = []
    for factor in (1, 10, 100, 1000):
        optimum = policies.SeasonMarket(20.0 * factor, 1.0, 5 * factor, 1.0).optimum()
        shares.append(optimum["fixed_price_value"] / optimum["fluid_bound"])
    assert np.all(np.diff(shares) > 0)
    # The loss falls like one over the root of the scale.
    assert 1.0 - shares[-1] == pytest.approx((1.0 - shares[1]) / 10.0, rel=0.05)


def test_a_season_can_be_sold_below_the_lowest_sensible_price_if_the_caller_says_so():
    market, cheap = season_of(SEASONS[0]), policies.ConstantPrice(0.4)
    with pytest.raises(ValueError, match="lowest_price"):
        policies.simulate_season(market, cheap, 10, np.random.default_rng(5))
    found = policies.simulate_season(market, cheap, 20_000, np.random.default_rng(5), lowest_price=0.2)
    assert estimate_mean(found).agrees_with(policies.compute_season_value(market, cheap))


def test_a_market_where_nothing_can_be_earned_has_no_regret_and_a_loss_has():
    random = np.random.default_rng(6)
    dear = policies.CurveMarket({"kind": "linear", "intercept": 10.0, "slope": 1.0}, 20.0, "poisson")
    stays_away = policies.simulate_pricing(dear, policies.ConstantPrice(30.0), 4, 3, random)
    assert stays_away.last_loss.tolist() == stays_away.regret[:, -1].tolist() == [0.0] * 3
    ladder = policies.LadderMarket((1.0, 2.0), (0.9, 0.5), "bernoulli", cost=3.0)
    thompson = policies.ThompsonLadder(policies.ThompsonSettings((1.0, 2.0), "bernoulli"), 3)
    shut = policies.simulate_pricing(ladder, thompson, 20, 3, random)
    assert shut.regret[:, -1].tolist() == shut.late_movement.tolist() == [0.0] * 3
    sells = policies.simulate_pricing(dear, policies.ConstantPrice(8.0), 4, 3, random)
    assert sells.regret[:, -1] == pytest.approx(4 * 12.0 * 2.0)
    assert np.isinf(sells.last_loss).all()


def test_the_same_generator_gives_the_same_runs():
    market = policies.CurveMarket(CURVES[0], 2.0, "poisson")
    policy = policies.ConstantPrice(6.0)
    first, again, other = (
        policies.simulate_pricing(market, policy, 10, 50, np.random.default_rng(seed)).profit for seed in (7, 7, 8)
    )
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda: policies.ConstantPrice(-1.0), "price"),
        (lambda: policies.ConstantPrice(math.nan), "price"),
        (lambda: policies.CostPlus(-0.1), "markup"),
        (lambda: policies.build_best_cost_plus(1.0), "elasticity"),
        (lambda: policies.MatchRival(0.0), "ratio"),
        (lambda: policies.CurveMarket({"kind": "linear", "intercept": -1, "slope": 1}, 0.0, "poisson"), "intercept"),
        (lambda: policies.CurveMarket(CURVES[0], 0.0, "uniform"), "noise"),
        (lambda: policies.CurveMarket(CURVES[0], 0.0, "poisson", 1.0), "noise_std"),
        (lambda: policies.CurveMarket(CURVES[0], 0.0, "normal", math.nan), "noise_std"),
        (lambda: policies.SeasonMarket(10.0, 1.0, -1, 1.0), "inventory"),
        (lambda: policies.SeasonMarket(10.0, 1.0, 3, math.nan), "horizon"),
        (lambda: policies.build_fluid_price(policies.SeasonMarket(10.0, 1.0, 0, 1.0)), "inventory"),
        (lambda: policies.ResolvedFluidPrice(-1.0, 1.0), "scale"),
        (lambda: policies.OptimalSeasonPrice(1.0, math.nan), "rate"),
        (lambda: policies.build_situation(3, stock=-1.0), "stock"),
        (lambda: policies.build_situation(3, stock=math.nan), "stock"),
    ],
)
def test_invalid_settings_are_refused_by_name(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_a_policy_that_sets_no_price_is_stopped_and_so_is_a_missing_rival():
    market, random = policies.CurveMarket(CURVES[0], 2.0, "poisson"), np.random.default_rng(0)

    class Broken(policies.ConstantPrice):
        def choose(self, situation, random):
            return np.full(situation.runs, self.price) * np.nan

    with pytest.raises(ValueError, match="prices\\[0\\] is nan"):
        policies.simulate_pricing(market, Broken(3.0), 5, 4, random)
    with pytest.raises(ValueError, match="rival"):
        policies.simulate_pricing(market, policies.MatchRival(), 5, 4, random)
    rivals = np.full((5, 4), 6.0)
    rivals[3, 2] = np.nan
    with pytest.raises(ValueError, match="rival_prices\\[2\\] is nan"):
        policies.simulate_pricing(market, policies.MatchRival(), 5, 4, random, rival_prices=rivals)
    with pytest.raises(ValueError, match="unit_costs has shape"):
        policies.simulate_pricing(market, policies.ConstantPrice(3.0), 5, 4, random, unit_costs=np.ones((4, 5)))
    with pytest.raises(ValueError, match="unit_costs"):
        policies.simulate_pricing(market, policies.ConstantPrice(3.0), 5, 4, random, unit_costs=-np.ones((5, 4)))
    with pytest.raises(ValueError, match="periods"):
        policies.simulate_pricing(market, policies.ConstantPrice(3.0), 0, 4, random)
    elastic = policies.CurveMarket(CURVES[1], 2.0, "poisson")
    with pytest.raises(ValueError, match="above 0"):
        policies.simulate_pricing(elastic, policies.ConstantPrice(0.0), 5, 4, random)
