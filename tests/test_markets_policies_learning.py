"""Policies that learn: greedy least squares gets stuck, forced dispersion does not; bounds and samples on a ladder."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog

from pricing_fm.markets import oracles, policies
from pricing_fm.markets.policies import estimate_mean, estimate_regret_slope

BOUNDS = (1.0, 9.0)
LINE = policies.CurveMarket({"kind": "linear", "intercept": 10.0, "slope": 1.0}, 0.0, "normal", 1.0, BOUNDS)
LADDER = policies.LadderMarket((1.0, 2.0, 3.0, 4.0, 5.0), (0.9, 0.75, 0.6, 0.3, 0.1), "bernoulli")
SCARCE = {
    "bernoulli": (policies.LadderMarket((1.0, 1.5, 2.0, 2.5, 3.0), (0.8, 0.6, 0.4, 0.25, 0.1), "bernoulli"), 7),
    "poisson": (policies.LadderMarket((1.0, 1.5, 2.0, 2.5, 3.0), (3.0, 2.0, 1.4, 0.9, 0.4), "poisson"), 24),
}


def learn_line(market, dispersion, first=(4.0, 6.0), periods=10_000, runs=300, seed=1):
    policy = policies.IteratedLeastSquares(policies.LeastSquaresSettings(BOUNDS, first, dispersion), runs)
    return policies.simulate_pricing(market, policy, periods, runs, np.random.default_rng(seed)), policy


def test_greedy_least_squares_gets_stuck_for_ever_in_most_runs():
    found, _ = learn_line(LINE, 0.0)
    standing = found.late_movement < 1e-3 * (BOUNDS[1] - BOUNDS[0])
    assert standing.mean() > 0.95
    stuck = found.find_stuck(0.005, 1e-3 * (BOUNDS[1] - BOUNDS[0]))
    assert 0.5 < stuck.mean() < 0.75
    slope = estimate_regret_slope(found.periods, found.regret[stuck])
    assert slope.mean == pytest.approx(0.99, abs=0.01)
    assert estimate_regret_slope(found.periods, found.regret).mean > 0.95


@pytest.mark.parametrize("cost, slope, std, first", [(0.0, 1.0, 1.0, (4.0, 6.0)), (1.0, 1.2, 0.7, (2.0, 4.0))])
def test_forced_dispersion_brings_regret_down_to_the_root_of_time(cost, slope, std, first):
    demand = {"kind": "linear", "intercept": 11.0, "slope": slope}
    market = policies.CurveMarket(demand, cost, "normal", std, BOUNDS)
    greedy, _ = learn_line(market, 0.0, first)
    found, policy = learn_line(market, 1.2, first)
    growth = estimate_regret_slope(found.periods, found.regret)
    assert 0.45 < growth.mean < 0.56
    assert not found.find_stuck(0.005, 0.008).any()
    assert found.regret[:, -1].mean() < 0.4 * greedy.regret[:, -1].mean()
    # Squared deviations of the prices grow at least like 2 x dispersion ** 2 x root of time, in every run.
    assert (policy.price_deviation > 1.9 * 1.2**2 * math.sqrt(policy.periods)).all()


def test_the_greedy_price_is_best_on_the_fitted_line_whatever_its_slope():
    random = np.random.default_rng(3)
    policy = policies.IteratedLeastSquares(policies.LeastSquaresSettings(BOUNDS, (2.0, 3.0)), 200)
    prices, sales = random.uniform(1, 9, (6, 200)), random.uniform(0, 5, (6, 200))
    for p, q in zip(prices, sales, strict=True):
        policy.update(p, q)
    chosen = policy.choose(policies.build_situation(200, unit_costs=0.5), random)
    grid = np.linspace(*BOUNDS, 8001)
    rising = 0
    for run in range(200):
        slope, intercept = np.polyfit(prices[:, run], sales[:, run], 1)
        rising += slope > 0
        profit = (grid - 0.5) * (intercept + slope * grid)
        assert chosen[run] == pytest.approx(grid[profit.argmax()], abs=1e-3)
    assert 20 < rising < 180


def test_a_forced_deviation_turns_round_at_a_bound():
    policy = policies.IteratedLeastSquares(policies.LeastSquaresSettings(BOUNDS, (8.8, 9.0), 2.0), 1)
    policy.update(np.array([8.8]), np.array([1.0]))
    policy.update(
        np.array([9.0]), np.array([1.1])
    )  # demand seems to rise: greedy goes to 9, mean + distance is outside
    price = policy.choose(policies.build_situation(1), np.random.default_rng(0))
    assert price == pytest.approx(8.9 - 2.0 * 2**-0.25)


def test_least_squares_and_its_prices_do_not_depend_on_the_runs_beside():
    random = np.random.default_rng(5)
    settings = policies.LeastSquaresSettings(BOUNDS, (4.0, 6.0), 0.5)
    many, one = policies.IteratedLeastSquares(settings, 7), policies.IteratedLeastSquares(settings, 1)
    for _ in range(30):
        prices = many.choose(policies.build_situation(7), random)
        sales = 10.0 - prices + random.standard_normal(7)
        assert one.choose(policies.build_situation(1), random) == prices[3:4]
        many.update(prices, sales)
        one.update(prices[3:4], sales[3:4])


def test_upper_confidence_bounds_have_logarithmic_regret_within_the_proved_bound():
    settings = policies.UpperConfidenceSettings(LADDER.price_ladder, 0.5, 2.5)
    policy = policies.UpperConfidenceLadder(settings, 60)
    found = policies.simulate_pricing(LADDER, policy, 20_000, 60, np.random.default_rng(6))
    growth = estimate_regret_slope(found.periods, found.regret)
    assert growth.mean + 3 * growth.standard_error < 0.45
    profit = LADDER.margins * np.array(LADDER.mean_demand_by_rung)
    gaps = np.delete(profit.max() - profit, profit.argmax())
    widths = np.delete(LADDER.margins, profit.argmax())
    bound = (2 * 2.5 * widths**2 / gaps * math.log(20_000) + 2.5 / 0.5 * gaps).sum()
    assert 0 < found.regret[:, -1].mean() < bound
    assert (policy.counts.argmax(axis=1) == profit.argmax()).all()


def test_thompson_sampling_without_a_stock_limit_finds_the_best_rung():
    for law, demand in (("bernoulli", LADDER.mean_demand_by_rung), ("poisson", (2.0, 1.6, 1.2, 0.6, 0.2))):
        market = policies.LadderMarket(LADDER.price_ladder, demand, law, cost=0.5)
        policy = policies.ThompsonLadder(policies.ThompsonSettings(market.price_ladder, law), 200)
        found = policies.simulate_pricing(market, policy, 4000, 200, np.random.default_rng(7))
        growth = estimate_regret_slope(found.periods, found.regret)
        assert growth.mean + 3 * growth.standard_error < 0.5
        assert np.median(found.last_loss) == 0.0


@pytest.mark.parametrize("law", SCARCE)
@pytest.mark.parametrize("fixed", [False, True])
def test_thompson_with_inventory_comes_to_the_fluid_bound_as_stock_and_time_grow(law, fixed):
    market, units = SCARCE[law]
    shares = []
    for factor in (1, 8, 64):
        stock, periods = units * factor, 25 * factor
        limit = stock / periods if fixed else None
        policy = policies.ThompsonLadder(policies.ThompsonSettings(market.price_ladder, law, (1.0, 1.0), limit), 120)
        profit = policies.simulate_stock(market, policy, stock, periods, 120, np.random.default_rng(8))
        shares.append(profit.mean() / market.fluid_bound(stock, periods))
    assert shares[0] < shares[1] < shares[2] <= 1.0
    assert shares[2] > (0.94 if fixed else 0.965)


@pytest.mark.parametrize("law", SCARCE)
def test_the_dynamic_program_of_the_ladder_earns_its_value_and_stays_below_the_fluid_bound(law):
    market, units = SCARCE[law]
    program = policies.compute_ladder_program(market, 3 * units, 60)
    value = market.optimal_value(3 * units, 60)
    assert program.values[-1, -1] == pytest.approx(value, rel=1e-12)
    assert value < market.fluid_bound(3 * units, 60)
    best = policies.BestLadder(program, market.price_ladder)
    profit = policies.simulate_stock(market, best, 3 * units, 60, 4000, np.random.default_rng(9))
    assert estimate_mean(profit).agrees_with(value)
    thompson = policies.ThompsonLadder(policies.ThompsonSettings(market.price_ladder, law), 500)
    learned = policies.simulate_stock(market, thompson, 3 * units, 60, 500, np.random.default_rng(9))
    assert learned.mean() < value


@pytest.mark.parametrize("limit", [None, 0.5])
def test_nothing_is_offered_without_stock(limit):
    random, situation = np.random.default_rng(12), policies.build_situation(6, 3, np.array([0.0, 2.0] * 3))
    thompson = policies.ThompsonLadder(
        policies.ThompsonSettings(LADDER.price_ladder, "bernoulli", (5.0, 1.0), limit), 6
    )
    best = policies.BestLadder(policies.compute_ladder_program(LADDER, 2, 3), LADDER.price_ladder)
    for _ in range(20):
        assert np.isinf(thompson.choose(situation, random)[::2]).all()
    assert np.isinf(best.choose(situation, random)[::2]).all()
    assert np.isfinite(best.choose(situation, random)[1::2]).all()


def test_the_dynamic_program_of_poisson_demand_is_the_recursion_done_by_hand():
    market = policies.LadderMarket((2.0, 3.0, 5.0), (2.2, 1.5, 0.7), "poisson", cost=2.5)

    def value(periods, stock):
        if periods == 0 or stock == 0:
            return 0.0
        gains = [value(periods - 1, stock)]
        for price, mean in zip(market.price_ladder, market.mean_demand_by_rung, strict=True):
            law, gain = stats.poisson(mean), 0.0
            for units in range(stock + 1):
                chance = law.pmf(units) if units < stock else law.sf(stock - 1)
                gain += chance * ((price - 2.5) * units + value(periods - 1, stock - units))
            gains.append(gain)
        return max(gains)

    program = policies.compute_ladder_program(market, 4, 3)
    for periods in range(4):
        for stock in range(5):
            assert program.values[periods, stock] == pytest.approx(value(periods, stock), rel=1e-12, abs=1e-12)


def test_the_program_of_the_ladder_is_the_linear_program():
    random = np.random.default_rng(10)
    margins, demand = random.uniform(-1, 5, (1, 4)), random.uniform(0, 3, (60, 4))
    limit = np.append(random.uniform(0, 2.5, 58), [0.0, np.inf])
    low, high, weight = policies.solve_ladder_program(margins, demand, limit)
    mixed = 0
    for run in range(60):
        profit, units = np.append(margins[0] * demand[run], 0.0), np.append(demand[run], 0.0)
        rows = ([units], [limit[run]]) if np.isfinite(limit[run]) else (None, None)
        known = -linprog(-profit, *rows, [np.ones(5)], [1.0]).fun
        found = profit[low[run]] * (1 - weight[run]) + profit[high[run]] * weight[run]
        used = units[low[run]] * (1 - weight[run]) + units[high[run]] * weight[run]
        assert found == pytest.approx(known, abs=1e-9)
        assert used <= limit[run] + 1e-12
        mixed += 0 < weight[run] < 1
    assert mixed > 10


def test_the_best_rung_is_the_oracles_and_the_fluid_bound_is_the_plan_of_all_periods():
    sales = np.diag(LADDER.mean_demand_by_rung)
    known = oracles.choice_dynamic_program(LADDER.price_ladder, sales.tolist(), 1, 1)["value"]
    assert LADDER.optimal_profit(np.zeros(2)) == pytest.approx([known, known])
    plan = oracles.markdown_plan([*LADDER.price_ladder, 0.0], [[*LADDER.mean_demand_by_rung, 0.0]] * 12, 5.0)
    assert LADDER.fluid_bound(5.0, 12) == pytest.approx(plan["relaxed_value"])


def test_the_regret_slope_is_the_exponent_and_its_error_is_the_spread_over_repetitions():
    periods = np.unique(np.geomspace(1, 10_000, 60).astype(int))
    random = np.random.default_rng(11)
    for exponent in (0.3, 0.5, 1.0):
        regret = random.uniform(1, 3, (50, 1)) * periods**exponent
        assert estimate_regret_slope(periods, regret).mean == pytest.approx(exponent, abs=1e-12)
    found = [
        estimate_regret_slope(
            periods, np.cumsum(random.exponential(1.0, (40, 1)) / periods ** random.random((40, 1)), 1)
        )
        for _ in range(400)
    ]
    spread = np.std([slope.mean for slope in found])
    assert np.mean([slope.standard_error for slope in found]) == pytest.approx(spread, rel=0.2)


def test_bad_feedback_leaves_what_was_learned_as_it_was():
    ladder = policies.ThompsonLadder(policies.ThompsonSettings((1.0, 2.0), "bernoulli"), 2)
    bounds = policies.UpperConfidenceLadder(policies.UpperConfidenceSettings((1.0, 2.0)), 2)
    line = policies.IteratedLeastSquares(policies.LeastSquaresSettings(BOUNDS, (2.0, 3.0)), 2)
    good = np.array([1.0, 1.0])
    for policy in (ladder, bounds, line):
        for prices, sales in (
            (np.array([1.0, np.nan]), good),
            (good, np.array([np.nan, 1.0])),
            (good, np.array([1.0])),
            (np.array([1.0]), good),
        ):
            with pytest.raises(ValueError, match="prices|sales"):
                policy.update(prices, sales)
    for policy in (ladder, bounds):
        with pytest.raises(ValueError, match="no rung"):
            policy.update(np.array([1.0, 1.5]), good)
        assert (policy.counts == 0).all()
    for sales in (np.array([0.0, -1.0]), np.array([0.0, 2.0])):
        with pytest.raises(ValueError, match="sales"):
            ladder.update(good, sales)
    assert line.periods == 0
    assert (ladder.counts == 0).all()
    ladder.update(np.array([2.0, np.inf]), np.array([1.0, 0.0]))  # nothing was offered in the second run
    assert ladder.counts.tolist() == [[0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda: policies.LadderMarket((), (), "bernoulli"), "price_ladder is empty"),
        (lambda: policies.UpperConfidenceSettings(()), "price_ladder is empty"),
        (lambda: policies.ThompsonSettings((), "poisson"), "price_ladder is empty"),
        (lambda: policies.LadderMarket((2.0, 1.0), (0.1, 0.2), "bernoulli"), "price_ladder"),
        (lambda: policies.LadderMarket((1.0, math.nan), (0.1, 0.2), "bernoulli"), "price_ladder"),
        (lambda: policies.LadderMarket((1.0, 2.0), (1.2, 0.2), "bernoulli"), "mean_demand_by_rung"),
        (lambda: policies.LadderMarket((1.0, 2.0), (0.2,), "poisson"), "mean_demand_by_rung"),
        (lambda: policies.LadderMarket((1.0,), (0.2,), "normal"), "law"),
        (lambda: LADDER.fluid_bound(-1.0, 3), "inventory"),
        (lambda: LADDER.optimal_value(-1, 3), "capacity"),
        (lambda: policies.compute_ladder_program(LADDER, -1, 3), "inventory"),
        (lambda: policies.ThompsonSettings((1.0,), "bernoulli", (0.0, 1.0)), "prior"),
        (lambda: policies.ThompsonSettings((1.0,), "bernoulli", (1.0, 1.0), -1.0), "units_per_period"),
        (lambda: policies.UpperConfidenceSettings((1.0,), math.nan), "demand_spread"),
        (lambda: policies.UpperConfidenceSettings((1.0,), 0.5, 0.0), "exploration"),
        (lambda: policies.LeastSquaresSettings((9.0, 1.0), (2.0, 3.0)), "price_bounds"),
        (lambda: policies.LeastSquaresSettings(BOUNDS, (2.0, 2.0)), "first_prices"),
        (lambda: policies.LeastSquaresSettings(BOUNDS, (0.5, 2.0)), "first_prices"),
        (lambda: policies.LeastSquaresSettings(BOUNDS, (2.0, 3.0), -1.0), "dispersion"),
        (lambda: policies.LeastSquaresSettings(BOUNDS, (2.0, 3.0), math.nan), "dispersion"),
        (lambda: policies.solve_ladder_program(np.ones((1, 2)), np.ones((1, 2)), np.array([-1.0])), "limit"),
        (lambda: estimate_mean(np.array([1.0, np.nan])), "values"),
        (lambda: estimate_mean(np.array([1.0])), "values"),
        (lambda: estimate_regret_slope(np.array([1, 2, 4]), np.zeros((3, 3))), "regret"),
    ],
)
def test_invalid_settings_are_refused_by_name(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_stock_periods_and_runs_that_do_not_fit_are_refused():
    random = np.random.default_rng(0)
    policy = policies.ThompsonLadder(policies.ThompsonSettings(LADDER.price_ladder, "bernoulli"), 3)
    with pytest.raises(ValueError, match="inventory"):
        policies.simulate_stock(LADDER, policy, -2, 5, 3, random)
    with pytest.raises(ValueError, match="runs"):
        policies.simulate_stock(LADDER, policy, 2, 5, 4, random)
    best = policies.BestLadder(policies.compute_ladder_program(LADDER, 4, 5), LADDER.price_ladder)
    with pytest.raises(ValueError, match="covers 5 periods and 4 units"):
        policies.simulate_stock(LADDER, best, 5, 5, 3, random)
    with pytest.raises(ValueError, match="no rung"):
        policies.simulate_stock(LADDER, policies.ConstantPrice(1.7), 5, 5, 3, random)
