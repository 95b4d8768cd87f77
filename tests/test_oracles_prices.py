"""Price oracles against brute force: grids, general optimisers and first principles on random instances."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp

from pricing_fm.markets import oracles

SEEDS = range(12)


def _demand(kind, random):
    return {
        "linear": {"kind": kind, "intercept": random.uniform(10, 200), "slope": random.uniform(0.5, 5)},
        "constant_elasticity": {"kind": kind, "scale": random.uniform(10, 2000), "elasticity": random.uniform(0.3, 5)},
        "exponential": {"kind": kind, "scale": random.uniform(10, 2000), "rate": random.uniform(0.02, 0.5)},
        "logit": {
            "kind": kind,
            "utility": random.uniform(-3, 30),
            "price_sensitivity": random.uniform(0.1, 3),
            "market_size": random.uniform(1, 500),
        },
    }[kind]


def _quantity(demand, price):
    kind = demand["kind"]
    if kind == "linear":
        return np.maximum(demand["intercept"] - demand["slope"] * price, 0)
    if kind == "constant_elasticity":
        return demand["scale"] * price ** -demand["elasticity"]
    if kind == "exponential":
        return demand["scale"] * np.exp(-demand["rate"] * price)
    return demand["market_size"] * expit(demand["utility"] - demand["price_sensitivity"] * price)


@pytest.mark.parametrize("kind", ["linear", "constant_elasticity", "exponential", "logit"])
@pytest.mark.parametrize("seed", SEEDS)
def test_monopoly_prices_beat_every_price_between_the_bounds(kind, seed):
    random = np.random.default_rng(seed)
    demand, cost = _demand(kind, random), random.uniform(0.5, 60)
    low = random.uniform(0.1, 40)
    bounds = [low, low + random.uniform(0, 80)]
    answer = oracles.monopoly_price(demand, cost, bounds)
    grid = np.linspace(*bounds, 20_001)
    profit = (grid - cost) * _quantity(demand, grid)
    assert bounds[0] <= answer["price"] <= bounds[1]
    assert answer["quantity"] == pytest.approx(float(_quantity(demand, answer["price"])), rel=1e-12, abs=1e-12)
    assert answer["profit"] == pytest.approx((answer["price"] - cost) * answer["quantity"], rel=1e-12, abs=1e-12)
    assert answer["profit"] >= profit.max() - 1e-9 * max(1, abs(profit.max()))


def test_unbounded_monopoly_prices_survive_extreme_numbers():
    dear = oracles.monopoly_price({"kind": "logit", "utility": 5_000, "price_sensitivity": 1}, 0)
    assert dear["price"] == pytest.approx(5_000 - np.log(4_999), rel=1e-4)
    nothing = oracles.monopoly_price({"kind": "linear", "intercept": 10, "slope": 1}, 50)
    assert nothing["quantity"] == 0
    assert nothing["profit"] == 0
    one = {"kind": "constant_elasticity", "scale": 5, "elasticity": 1.0}
    assert oracles.monopoly_price(one, 2, [1, 9])["price"] == 9


def _nested_profit(prices, u, b, c, nests):
    """Profit per customer and shares, written from the definition of nested logit."""
    logs = np.empty(prices.shape)
    for nest in nests:
        members, mu = np.array(nest["products"]), nest["dissimilarity"]
        scores = (u[members] - b[members] * prices[..., members]) / mu
        logs[..., members] = scores + (mu - 1) * logsumexp(scores, axis=-1, keepdims=True)
    shares = np.exp(logs - np.logaddexp(logsumexp(logs, axis=-1, keepdims=True), 0.0))
    return ((prices - c) * shares).sum(axis=-1), shares


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_assortment_prices_beat_a_general_optimiser_from_many_starts(nested, seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 7))
    u, b, c = random.normal(2, 2, n), np.exp(random.normal(0, 0.8, n)), random.uniform(0, 3, n)
    nests = [{"products": list(range(n)), "dissimilarity": 1.0}]
    if nested:
        cut = int(random.integers(0, n + 1))
        order = random.permutation(n).tolist()
        nests = [
            {"products": part, "dissimilarity": float(random.uniform(0.1, 1.0))}
            for part in (order[:cut], order[cut:])
            if part
        ]
    arguments = (u.tolist(), b.tolist(), c.tolist())
    answer = oracles.assortment_prices(*arguments, nests=nests) if nested else oracles.assortment_prices(*arguments)
    prices = np.array(answer["prices"])
    profit, shares = _nested_profit(prices, u, b, c, nests)
    assert answer["profit"] == pytest.approx(profit, rel=1e-9)
    np.testing.assert_allclose(answer["shares"], shares, rtol=1e-9, atol=1e-15)
    starts = [c + 1 / b, *(c + random.exponential(3, n) for _ in range(5))]
    best = max(
        -minimize(lambda p: -_nested_profit(p, u, b, c, nests)[0], start, method="BFGS", options={"gtol": 1e-9}).fun
        for start in starts
    )
    assert profit >= best * (1 - 1e-8)


def test_a_nest_with_several_local_optima_gives_the_best_of_them():
    """Close substitutes of very different price sensitivity: sell to everyone, or to those who mind the price least."""
    u, b, c = np.array([0.2, 2.9]), np.array([0.07, 0.32]), np.array([1.4, 1.0])
    nests = [{"products": [0, 1], "dissimilarity": 0.17}]
    # At a stationary point every markup is dissimilarity / sensitivity plus a number common to the nest.
    common = np.linspace(0, 40, 40_001)
    profit = _nested_profit(c + 0.17 / b + common[:, None], u, b, c, nests)[0]
    assert ((profit[1:-1] > profit[:-2]) & (profit[1:-1] > profit[2:])).sum() == 2
    answer = oracles.assortment_prices(u.tolist(), b.tolist(), c.tolist(), nests)
    assert profit.max() <= answer["profit"] <= profit.max() * (1 + 1e-6)
    grid = np.stack(np.meshgrid(np.linspace(1, 40, 801), np.linspace(1, 40, 801)), axis=-1)
    best = _nested_profit(grid, u, b, c, nests)[0].max()
    assert best <= answer["profit"] <= best * 1.001


def test_one_nest_of_dissimilarity_one_is_plain_logit_and_products_may_be_renamed():
    u, b, c = [4, 1, 2.5, 3], [1, 0.5, 2, 1.3], [1, 0.2, 0.3, 2]
    plain = oracles.assortment_prices(u, b, c)
    nested = oracles.assortment_prices(u, b, c, [{"products": [2, 0, 1, 3], "dissimilarity": 1}])
    np.testing.assert_allclose(plain["prices"], nested["prices"], rtol=1e-9)
    order = [3, 1, 0, 2]
    renamed = oracles.assortment_prices(*([values[i] for i in order] for values in (u, b, c)))
    np.testing.assert_allclose([plain["prices"][i] for i in order], renamed["prices"], rtol=1e-12)


@pytest.mark.parametrize("utility", [-60.0, -5.0, 0.0, 40.0, 900.0])
def test_assortment_prices_survive_extreme_utilities(utility):
    one = oracles.assortment_prices([utility], [1.0], [0.0])
    alone = oracles.monopoly_price({"kind": "logit", "utility": utility, "price_sensitivity": 1.0}, 0.0)
    assert one["prices"][0] == pytest.approx(alone["price"], rel=1e-9)
    assert one["profit"] == pytest.approx(alone["profit"], rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_linear_system_prices_are_optimal_jointly_and_one_by_one(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 6))
    cross = random.uniform(-0.3, 0.1, (n, n))
    slopes = cross - np.diag(np.diag(cross)) + np.diag(random.uniform(1.5, 3, n))
    a, c = random.uniform(60, 120, n), random.uniform(0, 15, n)
    answer = oracles.linear_system_prices(a, slopes, c)

    def profits(p):
        return (p - c) * (a - slopes @ p)

    joint, nash = np.array(answer["joint_prices"]), np.array(answer["nash_prices"])
    assert answer["joint_profit"] == pytest.approx(profits(joint).sum())
    best = minimize(lambda p: -profits(p).sum(), c + 10, method="BFGS")
    assert answer["joint_profit"] >= -best.fun * (1 - 1e-9)
    np.testing.assert_allclose(answer["nash_profits"], profits(nash))
    for firm in range(n):

        def alone(price, firm=firm):
            moved = nash.copy()
            moved[firm] = price
            return -profits(moved)[firm]

        assert profits(nash)[firm] >= -minimize_scalar(alone, bounds=(0, 300), method="bounded").fun - 1e-6
    assert profits(nash).sum() <= answer["joint_profit"] * (1 + 1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [0.02, 0.25, 2.0])
def test_logit_firms_cannot_gain_alone_nor_together(seed, scale):
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 5))
    a, c = random.uniform(-1, 4, n), random.uniform(0, 2, n)
    answer = oracles.logit_duopoly_prices(a, c, scale)

    def profits(p):
        logs = (a - p) / scale
        return (p - c) * np.exp(logs - np.logaddexp(logsumexp(logs, axis=-1, keepdims=True), 0.0))

    nash, collusive = np.array(answer["nash_prices"]), np.array(answer["collusive_prices"])
    np.testing.assert_allclose(answer["nash_profits"], profits(nash), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(answer["collusive_profits"], profits(collusive), rtol=1e-9, atol=1e-300)
    for firm in range(n):
        moved = np.repeat(nash[None], 4_001, axis=0)
        moved[:, firm] = np.linspace(c[firm], c[firm] + 4 * (nash[firm] - c[firm]), 4_001)
        assert profits(nash)[firm] >= profits(moved)[:, firm].max() * (1 - 1e-9)
    best = max(
        -minimize(lambda p: -profits(p).sum(), c + scale * k, method="Nelder-Mead", options={"fatol": 1e-14}).fun
        for k in (1, 3, 10)
    )
    assert profits(collusive).sum() >= best * (1 - 1e-7)


@pytest.mark.parametrize("valuations", [(1, 2), (3, 1.2), (1, 1), (1, 3.5), (1, 10), (0.2, 8)])
@pytest.mark.parametrize("parity", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_parity_prices_beat_every_pair_of_prices_that_keeps_the_rule(valuations, parity):
    answer = oracles.parity_constrained_prices(valuations, parity)
    tops = np.array(valuations, dtype=float)
    prices = np.array(answer["prices"])
    gap = (1 - parity) * abs(tops[0] - tops[1]) / 2
    assert abs(prices[0] - prices[1]) <= gap + 1e-12

    def profit(p, q):
        return p * np.maximum(1 - p / tops[0], 0) + q * np.maximum(1 - q / tops[1], 0)

    assert answer["profit"] == pytest.approx(profit(*prices), rel=1e-12)
    p, q = np.meshgrid(*(np.linspace(0, tops.max(), 1_501) for _ in range(2)))
    allowed = np.abs(p - q) <= gap + 1e-12
    assert answer["profit"] >= profit(p, q)[allowed].max() - 1e-12
    surplus = (np.maximum(tops - prices, 0) ** 2 / (2 * tops)).sum()
    assert answer["consumer_surplus"] == pytest.approx(surplus)
    assert answer["welfare"] == pytest.approx(surplus + answer["profit"])


@pytest.mark.parametrize("discount", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_durable_goods_prices_are_the_best_a_seller_without_commitment_can_do(discount):
    answer = oracles.durable_goods_prices(discount)
    marginal = np.linspace(0, 1, 200_001)
    second = marginal / 2
    first = marginal - discount * (marginal - second)
    profit = first * (1 - marginal) + discount * second * (marginal - second)
    assert answer["profit"] == pytest.approx(profit.max(), abs=1e-10)
    assert answer["prices"][0] == pytest.approx(first[profit.argmax()], abs=1e-4)
    assert answer["prices"][1] == pytest.approx(second[profit.argmax()], abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_clearance_and_clearing_prices_beat_a_grid(seed):
    random = np.random.default_rng(seed)
    scale, decay, rate, horizon = random.uniform([10, 0, 0.01, 1], [200, 0.5, 1, 30])
    decay = 0.0 if seed % 4 == 0 else decay
    inventory = random.uniform(1, 1_000)
    answer = oracles.seasonal_clearance(scale, decay, rate, horizon, inventory)
    time = np.linspace(0, horizon, 20_001)
    prices = np.linspace(0, 15 / rate, 20_001)
    potential = np.trapezoid(scale * np.exp(-decay * time), time)
    revenue = prices * np.minimum(potential * np.exp(-rate * prices), inventory)
    assert revenue.max() * (1 - 1e-6) <= answer["revenue"] <= revenue.max() * (1 + 1e-3)
    assert answer["sales"] <= inventory * (1 + 1e-12)

    arrivals, top, supply = random.uniform([1, 1, 0], [200, 50, 200])
    clearing = oracles.market_clearing_price(arrivals, top, supply)
    grid = np.linspace(0, top, 100_001)
    best = (grid * np.minimum(arrivals * (1 - grid / top), supply)).max()
    assert best * (1 - 1e-12) <= clearing["revenue"] <= best * (1 + 1e-3)
    assert clearing["quantity"] <= supply


def test_nothing_to_sell_earns_nothing():
    assert oracles.seasonal_clearance(10, 0.1, 0.2, 5, 0) == {"price": np.inf, "sales": 0, "revenue": 0}
    assert oracles.market_clearing_price(10, 4, 0)["revenue"] == 0
    assert oracles.market_clearing_price(0, 4, 3) == {"price": 2, "quantity": 0, "revenue": 0}


@pytest.mark.parametrize("seed", SEEDS)
def test_ramsey_prices_lose_the_least_welfare_for_the_surplus(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 5))
    e, k, c = random.uniform([1.2] * n, [5] * n), random.uniform(1, 20, n), random.uniform(0.5, 3, n)
    monopoly = c / (1 - 1 / e)
    most = float(((monopoly - c) * k * monopoly**-e).sum())
    required = most * random.uniform(0.05, 0.95)
    answer = oracles.ramsey_prices(e, k, c, required)
    prices = np.array(answer["prices"])
    assert ((prices - c) * k * prices**-e).sum() == pytest.approx(required, rel=1e-10)
    np.testing.assert_allclose((prices - c) / prices * e, answer["ramsey_number"], rtol=1e-9)
    # Consumer surplus of constant elasticity above one: k p**(1 - e) / (e - 1).
    result = minimize(
        lambda p: -(k * p ** (1 - e) / (e - 1)).sum(),
        monopoly,
        method="SLSQP",
        bounds=[(cost, 3 * price) for cost, price in zip(c, monopoly)],
        constraints={"type": "ineq", "fun": lambda p: ((p - c) * k * p**-e).sum() - required},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert (k * prices ** (1 - e) / (e - 1)).sum() >= -result.fun - 1e-6


def test_ramsey_prices_reach_any_surplus_with_an_inelastic_good_and_the_monopolys_at_the_most():
    answer = oracles.ramsey_prices([0.8, 3], [10, 10], [1, 1], 500.0)
    prices = np.array(answer["prices"])
    assert ((prices - 1) * 10 * prices ** -np.array([0.8, 3])).sum() == pytest.approx(500)
    assert answer["ramsey_number"] < 0.8
    edge = oracles.ramsey_prices([2.0], [1.0], [1.0], 0.25)
    assert edge["prices"][0] == pytest.approx(2.0)
    assert edge["ramsey_number"] == pytest.approx(1.0)
    assert oracles.ramsey_prices([2.0], [1.0], [1.0], 0)["prices"] == [1.0]


@pytest.mark.parametrize("seed", range(20))
def test_peak_load_prices_maximise_welfare(seed):
    random = np.random.default_rng(seed)
    peak = random.uniform(20, 100)
    off, variable, capacity = random.uniform(0, peak), random.uniform(0, 40), random.uniform(0, 120)
    answer = oracles.peak_load_prices(peak, off, variable, capacity)
    first, second = np.meshgrid(np.linspace(0, peak, 1_201), np.linspace(0, off, 1_201))

    def welfare(x, y):
        return peak * x - x**2 / 2 + off * y - y**2 / 2 - variable * (x + y) - capacity * np.maximum(x, y)

    assert welfare(*answer["loads"]) >= welfare(first, second).max() - 1e-9
    for intercept, price, load in zip((peak, off), answer["prices"], answer["loads"]):
        assert load == pytest.approx(max(intercept - price, 0.0), abs=1e-9)
    if answer["loads"][0] == pytest.approx(answer["loads"][1]) and answer["loads"][0] > 0:
        assert sum(answer["prices"]) == pytest.approx(2 * variable + capacity)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rising", [False, True])
def test_loan_rates_beat_a_grid_and_break_even_where_they_say(seed, rising):
    random = np.random.default_rng(seed)
    given = {
        "utility": random.uniform(-2, 6),
        "rate_sensitivity": random.uniform(5, 100),
        "default_probability": random.uniform(0, 0.1),
        "default_rate_slope": random.uniform(0.01, 0.5) if rising else 0.0,
        "loss_given_default": random.uniform(0, 1),
        "cost_of_funds": random.uniform(0, 0.05),
    }
    answer = oracles.loan_rate(**given)

    def margin(rate):
        default = given["default_probability"] + given["default_rate_slope"] * rate
        return (1 - default) * rate - default * given["loss_given_default"] - given["cost_of_funds"]

    def profit(rate):
        return expit(given["utility"] - given["rate_sensitivity"] * rate) * margin(rate)

    grid = np.linspace(0, 3, 300_001)
    assert answer["profit"] == pytest.approx(profit(answer["rate"]), rel=1e-12)
    assert answer["profit"] >= profit(grid).max() * (1 - 1e-12)
    assert margin(answer["break_even_rate"]) == pytest.approx(0, abs=1e-12)
    assert np.all(margin(grid[grid < answer["break_even_rate"] - 1e-9]) < 0)
