"""Stock and seat oracles against brute force: enumeration, recursion, differential equations, linear programs."""

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

from pricing_fm.markets import oracles

SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["normal", "poisson"])
def test_newsvendor_orders_beat_all_others(seed, kind):
    random = np.random.default_rng(seed)
    cost = random.uniform(1, 10)
    price, salvage = cost + random.uniform(0.5, 20), cost - random.uniform(0.5, 6)
    mean = random.uniform(5, 120)
    if kind == "poisson":
        law, grid, demand = stats.poisson(mean), np.arange(400), {"kind": kind, "mean": mean}
        values, weights = np.arange(600), law.pmf(np.arange(600))
    else:
        std = mean * random.uniform(0.05, 0.35)
        demand, grid = {"kind": kind, "mean": mean, "std": std}, np.linspace(0, 2.5 * mean, 801)
        values = stats.norm(mean, std).ppf((np.arange(20_000) + 0.5) / 20_000)
        weights = np.full(20_000, 1 / 20_000)
    answer = oracles.newsvendor(price, cost, salvage, demand)

    def profit(quantity):
        sold = np.minimum(values, quantity)
        return float((weights * (price * sold + salvage * (quantity - sold))).sum()) - cost * quantity

    best = max(profit(quantity) for quantity in grid)
    assert answer["profit"] >= best - 1e-3 * abs(best)
    assert answer["profit"] == pytest.approx(profit(answer["quantity"]), rel=1e-4, abs=1e-4)
    if kind == "poisson":
        assert answer["quantity"] == grid[int(np.argmax([profit(quantity) for quantity in grid]))]


def test_newsvendor_without_uncertainty_orders_the_demand_and_never_a_negative_number():
    certain = oracles.newsvendor(10, 4, 1, {"kind": "normal", "mean": 50, "std": 0})
    assert certain["quantity"] == 50
    assert certain["profit"] == pytest.approx(300)
    assert oracles.newsvendor(4.1, 4, 0, {"kind": "normal", "mean": 1, "std": 9})["quantity"] == 0
    assert oracles.newsvendor(10, 4, 1, {"kind": "poisson", "mean": 0})["quantity"] == 0


@pytest.mark.parametrize(
    "mean, lead, backorder, holding", [(10, 2, 9, 1), (0.3, 0, 4, 1), (3, 5, 0, 2), (50, 1, 99, 1)]
)
def test_base_stock_levels_have_the_least_cost(mean, lead, backorder, holding):
    answer = oracles.base_stock(mean, lead, backorder, holding)
    demand = np.arange(800)
    chance = stats.poisson(mean * (lead + 1)).pmf(demand)
    costs = [
        (chance * (holding * np.maximum(s - demand, 0) + backorder * np.maximum(demand - s, 0))).sum()
        for s in range(400)
    ]
    assert answer["level"] == int(np.argmin(np.round(costs, 10)))
    assert answer["cost"] == pytest.approx(min(costs))


@pytest.mark.parametrize(
    "scale, rate, stock, horizon", [(27.18, 1, 5, 1), (3, 0.2, 4, 6), (200, 2, 30, 0.5), (1, 1, 1, 0.1)]
)
def test_perishable_stock_obeys_its_differential_equation(scale, rate, stock, horizon):
    answer = oracles.gallego_van_ryzin(scale, rate, stock, horizon)

    def grow(_, values):
        worth = np.diff(np.concatenate([[0.0], values]))
        # max over p of scale exp(-rate p) (p - worth) is at p = worth + 1 / rate.
        return scale * np.exp(-rate * worth - 1) / rate

    path = solve_ivp(grow, (0, horizon), np.zeros(stock), rtol=1e-10, atol=1e-12).y[:, -1]
    assert answer["value"] == pytest.approx(path[-1], rel=1e-7)
    worth = path[-1] - (path[-2] if stock > 1 else 0.0)
    assert answer["price"] == pytest.approx(worth + 1 / rate, rel=1e-6)
    prices = np.linspace(0.01, 20 / rate, 20_001)
    fluid = prices * np.minimum(scale * np.exp(-rate * prices) * horizon, stock)
    assert fluid.max() * (1 - 1e-12) <= answer["fluid_bound"] <= fluid.max() * (1 + 1e-3)
    demand = np.arange(1_000)
    chance = stats.poisson(scale * horizon * math.exp(-rate * answer["fixed_price"])).pmf(demand)
    exact = answer["fixed_price"] * (chance * np.minimum(demand, stock)).sum()
    assert answer["fixed_price_value"] == pytest.approx(exact)
    assert answer["fixed_price_value"] <= answer["value"] <= answer["fluid_bound"]


def test_the_value_of_perishable_stock_is_concave_in_stock_and_time():
    by_stock = [oracles.gallego_van_ryzin(50, 0.7, stock, 2)["value"] for stock in range(40)]
    by_time = [oracles.gallego_van_ryzin(50, 0.7, 8, time)["value"] for time in np.linspace(0, 5, 40)]
    for values in (by_stock, by_time):
        assert np.all(np.diff(values) >= 0)
        assert np.all(np.diff(values, 2) <= 1e-12)
    empty = oracles.gallego_van_ryzin(50, 0.7, 0, 2)
    assert empty["value"] == 0
    assert empty["price"] == math.inf
    assert oracles.gallego_van_ryzin(50, 0.7, 3, 0)["value"] == 0
    big = oracles.gallego_van_ryzin(1e6, 1, 200_000, 1)
    assert big["fixed_price_value"] <= big["value"] <= big["fluid_bound"]


@pytest.mark.parametrize("arrival, stock, periods", [(1.0, 3, 7), (0.35, 4, 12), (0.0, 2, 3)])
def test_uniform_valuation_values_match_a_recursion_over_a_grid_of_prices(arrival, stock, periods):
    grid = np.linspace(0, 1, 20_001)

    @lru_cache(None)
    def value(left, units):
        if left == 0 or units == 0:
            return 0.0, 1.0
        keep, sell = value(left - 1, units)[0], value(left - 1, units - 1)[0]
        gains = keep + arrival * (1 - grid) * (grid + sell - keep)
        return float(gains.max()), float(grid[gains.argmax()])

    answer = oracles.uniform_valuation_dynamic_program(arrival, stock, periods)
    np.testing.assert_allclose(answer["values"], [value(periods, n)[0] for n in range(1, stock + 1)], atol=1e-8)
    if arrival > 0:
        np.testing.assert_allclose(
            answer["first_prices"], [value(periods, n)[1] for n in range(1, stock + 1)], atol=1e-4
        )
    assert oracles.uniform_valuation_dynamic_program(arrival, 0, periods) == {"values": [], "first_prices": []}


def test_littlewoods_level_earns_the_most():
    for high, low, mean in ((500, 120, 20.0), (300, 290, 7.5), (10, 1, 40.0)):
        level = oracles.littlewood(high, low, {"kind": "poisson", "mean": mean})["protection_level"]
        demand = np.arange(300)
        chance = stats.poisson(mean).pmf(demand)
        revenue = [low * (100 - y) + high * (chance * np.minimum(demand, y)).sum() for y in range(101)]
        assert revenue[int(level)] >= max(revenue) - 1e-9
    normal = oracles.littlewood(500, 120, {"kind": "normal", "mean": 40, "std": 9})["protection_level"]
    assert stats.norm(40, 9).sf(normal) == pytest.approx(120 / 500)
    assert oracles.littlewood(5, 5, {"kind": "normal", "mean": 40, "std": 9})["protection_level"] == 0
    assert oracles.littlewood(5, 5, {"kind": "poisson", "mean": 40})["protection_level"] == 0


def test_emsr_is_littlewood_for_two_classes_and_merges_equal_classes_in_variant_b():
    one = oracles.littlewood(300, 110, {"kind": "normal", "mean": 25, "std": 6})["protection_level"]
    for variant in ("a", "b"):
        two = oracles.emsr([300, 110], [25, 40], [6, 9], variant)["protection_levels"]
        np.testing.assert_allclose(two, [one])
    merged = oracles.emsr([300, 110], [25, 40], [5, 9], "b")["protection_levels"]
    split = oracles.emsr([300, 300, 110], [10, 15, 40], [3, 4, 9], "b")["protection_levels"]
    assert split[1] == pytest.approx(merged[0])
    assert oracles.emsr([300], [10], [3], "a") == {"protection_levels": []}
    many = oracles.emsr(list(range(200, 0, -1)), [5] * 200, [2] * 200, "b")["protection_levels"]
    assert len(many) == 199
    assert np.all(np.diff(many) > 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_fare_class_values_match_plain_recursion(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 6))
    fares, chances = random.uniform(0, 500, n), random.dirichlet(np.ones(n + 1))[:n]
    periods, seats = int(random.integers(0, 15)), int(random.integers(1, 8))

    @lru_cache(None)
    def value(left, free):
        if left == 0 or free == 0:
            return 0.0
        nothing = (1 - chances.sum()) * value(left - 1, free)
        asked = sum(
            p * max(value(left - 1, free), f + value(left - 1, free - 1)) for f, p in zip(fares, chances, strict=True)
        )
        return nothing + asked

    answer = oracles.fare_class_dynamic_program(fares.tolist(), chances.tolist(), periods, seats)
    assert answer["value"] == pytest.approx(value(periods, seats))
    assert answer["bid_price"] == pytest.approx(value(periods, seats) - value(periods, seats - 1), abs=1e-9)
    none = oracles.fare_class_dynamic_program(fares.tolist(), chances.tolist(), periods, 0)
    assert none == {"value": 0, "bid_price": math.inf}


@pytest.mark.parametrize("seed", SEEDS)
def test_choice_values_match_plain_recursion(seed):
    random = np.random.default_rng(seed)
    n, sets = int(random.integers(1, 5)), int(random.integers(1, 7))
    prices = random.uniform(0, 500, n)
    offers = random.dirichlet(np.ones(n + 1), sets)[:, :n]
    periods, units = int(random.integers(0, 12)), int(random.integers(0, 6))

    @lru_cache(None)
    def value(left, free):
        if left == 0 or free == 0:
            return 0.0
        later = value(left - 1, free)
        return max(
            later,
            *(
                sum(p * (r + value(left - 1, free - 1)) for p, r in zip(row, prices, strict=True))
                + (1 - row.sum()) * later
                for row in offers
            ),
        )

    assert oracles.choice_dynamic_program(prices, offers, periods, units)["value"] == pytest.approx(
        value(periods, units)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_bid_prices_certify_the_network_program(seed):
    random = np.random.default_rng(seed)
    products, resources = int(random.integers(1, 12)), int(random.integers(1, 5))
    fares, demands = random.uniform(50, 500, products), random.uniform(0, 20, products)
    incidence = random.integers(0, 3, (products, resources))
    capacities = random.uniform(0, 40, resources)
    answer = oracles.network_bid_prices(fares, demands, incidence, capacities)
    duals, sales = np.array(answer["bid_prices"]), np.array(answer["sales"])
    assert np.all(sales @ incidence <= capacities + 1e-7)
    assert np.all((sales >= -1e-9) & (sales <= demands + 1e-7))
    assert sales @ fares == pytest.approx(answer["value"])
    # Duality: these bid prices prove that nothing earns more.
    assert np.all(duals >= 0)
    bound = capacities @ duals + demands @ np.maximum(fares - incidence @ duals, 0)
    assert bound == pytest.approx(answer["value"])
    assert oracles.network_bid_prices([10], [5], [[1]], [0])["value"] == 0


@pytest.mark.parametrize("seed", range(25))
def test_markdown_plans_match_the_enumeration_of_all_plans(seed):
    random = np.random.default_rng(seed)
    periods, rungs = int(random.integers(1, 6)), int(random.integers(1, 6))
    ladder = np.sort(random.uniform(0, 100, rungs))[::-1]
    demand = np.cumsum(random.uniform(0, 200, (periods, rungs)), axis=1)
    if seed % 2:
        demand = np.round(demand)
    least, most = demand.min(axis=1).sum(), demand.max(axis=1).sum()
    inventory = float(random.uniform(least, most * 1.1))
    answer = oracles.markdown_plan(ladder, demand, inventory)
    values = {}
    for plan in itertools.product(range(rungs), repeat=periods):
        units = demand[range(periods), plan]
        if units.sum() <= inventory:
            values[plan] = (ladder[list(plan)] * units).sum()
    assert answer["ladder_value"] == pytest.approx(max(values.values()), rel=1e-12)
    chosen = tuple(int(np.flatnonzero(ladder == price)[0]) for price in answer["ladder_prices"])
    assert values[chosen] == pytest.approx(answer["ladder_value"])
    # The relaxed value by its dual: the smallest Lagrangian bound over shadow prices.
    shadows = np.linspace(0, ladder.max() * 2 + 1, 40_001)
    net = ((ladder[None] - shadows[:, None])[:, None] * demand[None]).max(axis=2).sum(axis=1) + shadows * inventory
    assert answer["ladder_value"] <= answer["relaxed_value"] * (1 + 1e-9)
    assert answer["relaxed_value"] <= net.min() + 1e-6
    assert answer["relaxed_value"] == pytest.approx(net.min(), rel=1e-3)


def test_a_long_season_is_planned_within_its_relaxed_bound():
    random = np.random.default_rng(1)
    ladder = np.sort(random.uniform(10, 100, 8))[::-1]
    demand = np.cumsum(random.uniform(0, 200, (26, 8)), axis=1)
    inventory = float(0.6 * demand.min(axis=1).sum() + 0.4 * demand.max(axis=1).sum())
    answer = oracles.markdown_plan(ladder, demand, inventory)
    assert 0.99 * answer["relaxed_value"] <= answer["ladder_value"] <= answer["relaxed_value"]
    # Swapping the rungs of any two periods never fits and earns more.
    plan = np.searchsorted(-ladder, -np.array(answer["ladder_prices"]))
    rows = np.arange(26)
    for i, j in itertools.combinations(rows, 2):
        for a, b in itertools.product(range(8), repeat=2):
            other = plan.copy()
            other[i], other[j] = a, b
            units = demand[rows, other]
            assert units.sum() > inventory or (ladder[other] * units).sum() <= answer["ladder_value"] * (1 + 1e-12)
    tight = oracles.markdown_plan(ladder, demand, float(demand.min(axis=1).sum()))
    assert tight["ladder_prices"] == [ladder[0]] * 26


def test_nothing_in_stock_can_only_be_planned_with_rungs_that_sell_nothing():
    answer = oracles.markdown_plan([9, 5], [[0, 3], [0, 8]], 0)
    assert answer == {"relaxed_value": 0, "ladder_value": 0, "ladder_prices": [9, 9]}


@pytest.mark.parametrize("seed", SEEDS)
def test_reference_price_policies_satisfy_bellmans_equation(seed):
    random = np.random.default_rng(seed)
    given = {
        "intercept": random.uniform(50, 200),
        "slope": random.uniform(0.5, 4),
        "reference_effect": [0.0, random.uniform(0, 6)][seed > 0],
        "memory": [random.uniform(0, 1), 0.0, 1.0][seed % 3],
        "discount": [random.uniform(0, 0.99), 0.0][seed == 5],
        "cost": random.uniform(0, 10),
    }

    def value(reference):
        return oracles.reference_price_policy(**given, initial_reference=reference)["value"]

    reference = random.uniform(5, 60)
    policy = oracles.reference_price_policy(**given, initial_reference=reference)

    def backed_up(price):
        sales = given["intercept"] - given["slope"] * price + given["reference_effect"] * (reference - price)
        remembered = given["memory"] * reference + (1 - given["memory"]) * price
        return (price - given["cost"]) * sales + given["discount"] * value(max(remembered, 0.0))

    chosen = policy["policy_intercept"] + policy["policy_slope"] * reference
    assert backed_up(chosen) == pytest.approx(policy["value"], rel=1e-9)
    for price in np.linspace(0.5 * chosen, 1.5 * chosen, 21):
        assert backed_up(price) <= policy["value"] + 1e-9 * abs(policy["value"])
    steady = policy["steady_price"]
    assert policy["policy_intercept"] + policy["policy_slope"] * steady == pytest.approx(steady)
    # Simulating the policy from the start earns the stated value.
    earned, now, weight = 0.0, reference, 1.0
    for _ in range(4_000):
        price = policy["policy_intercept"] + policy["policy_slope"] * now
        sales = given["intercept"] - given["slope"] * price + given["reference_effect"] * (now - price)
        earned += weight * (price - given["cost"]) * sales
        now, weight = given["memory"] * now + (1 - given["memory"]) * price, weight * given["discount"]
    assert earned == pytest.approx(policy["value"], rel=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_overbooking_limits_beat_every_other_limit(seed):
    random = np.random.default_rng(seed)
    capacity, show = int(random.integers(0, 40)), float(random.uniform(0.05, 1))
    fee = random.uniform(1, 100)
    overtime = fee * random.uniform(1.01, 6)
    answer = oracles.overbooking_limit(capacity, show, fee, overtime)

    def value(bookings):
        shows = np.arange(bookings + 1)
        chance = stats.binom(bookings, show).pmf(shows)
        return float((chance * (fee * shows - overtime * np.maximum(shows - capacity, 0))).sum())

    chosen = int(answer["bookings"])
    assert answer["value"] == pytest.approx(value(chosen), rel=1e-9, abs=1e-9)
    for other in {*range(max(chosen - 3, 0), chosen + 4), capacity, 2 * capacity}:
        assert value(other) <= answer["value"] * (1 + 1e-10) + 1e-9
    assert oracles.overbooking_limit(5, 1.0, 10, 20)["bookings"] == 5
