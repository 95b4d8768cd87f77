"""Pricing problems at extreme numbers against many digits, fractions and limits in closed form."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from pricing_fm.markets import oracles


def test_a_reference_price_policy_never_sells_less_than_nothing():
    given = {"intercept": 100, "slope": 2, "reference_effect": 1, "memory": 0.5, "discount": 0.9}
    with pytest.raises(ValueError, match="cost is 60; it must be at most intercept / slope, 50"):
        oracles.reference_price_policy(**given, cost=60, initial_reference=40)
    with pytest.raises(ValueError, match="initial_reference is 0; the first period's demand would be -"):
        oracles.reference_price_policy(**{**given, "reference_effect": 9}, cost=45, initial_reference=0)
    choked = oracles.reference_price_policy(**given, cost=50, initial_reference=50)
    assert choked["steady_price"] == pytest.approx(50)
    assert choked["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("slope, discount", [(1e-12, 0.9), (1.0, 1 - 1e-12), (1e-6, 1 - 1e-9)])
def test_reference_price_policies_keep_their_digits_where_the_memory_lasts(slope, discount):
    answer = oracles.reference_price_policy(1, slope, 1, 0.5, discount, 0, 0.5 / slope)
    mpmath.mp.dps = 60
    a, b, g, m, beta, r = (mpmath.mpf(x) for x in (1.0, slope, 1.0, 0.5, discount, 0.5 / slope))
    h, n = b + g, 1 - m
    # The value function is quadratic: its Riccati equation at sixty digits.
    k = (1 - beta * m**2) * h - g * beta * m * n
    quadratic = g**2 / (2 * (k + mpmath.sqrt(k**2 - beta * n**2 * g**2)))
    curvature = h - beta * quadratic * n**2
    steep = (g + 2 * beta * quadratic * m * n) / (2 * curvature)
    linear = steep * a / (1 - beta * m - beta * n * steep)
    q = a + beta * n * linear
    exact = {
        "policy_slope": steep,
        "policy_intercept": q / (2 * curvature),
        "steady_price": q / (2 * curvature) / (1 - steep),
        "value": quadratic * r**2 + linear * r + q**2 / (4 * curvature) / (1 - beta),
    }
    for key, value in exact.items():
        assert answer[key] == pytest.approx(float(value), rel=1e-10), key


def test_network_bid_prices_refuse_what_the_solver_cannot_resolve():
    for name, value in (("fares", [1, 1e12]), ("capacities", [1, 1e-12])):
        given = {"fares": [3, 2], "demands": [5, 5], "incidence": [[1, 0], [0, 1]], "capacities": [2, 3]}
        with pytest.raises(ValueError, match=f"{name} holds 1e-12 beside 1|{name} holds 1 beside 1e.12"):
            oracles.network_bid_prices(**{**given, name: value})
    # Without a seat anywhere the bid prices only have to keep everybody out.
    full = oracles.network_bid_prices([191.1, 182.55, 28.6], [3.3, 13.4, 4.5], [[1, 1], [1, 0], [2, 1]], [0, 0])
    assert full["value"] == 0
    assert np.all(np.array([[1, 1], [1, 0], [2, 1]]) @ full["bid_prices"] >= np.array([191.1, 182.55, 28.6]) - 1e-9)
    few = oracles.network_bid_prices([3, 2], [1e-15, 5], [[1], [1]], [4])
    assert few["bid_prices"] == pytest.approx([2])
    assert oracles.network_bid_prices([3, 2], [7, 1e60], [[1], [0]], [4])["sales"] == pytest.approx([4, 1e60])


@pytest.mark.parametrize(
    "scale, stock", [(1e13, 3), (1e80, 1), (1e13, 400), (50.0, 10**15), (3e-40, 2), (3e3, 10**3), (2.72e4, 10**4)]
)
def test_perishable_stock_keeps_its_digits_where_demand_dwarfs_the_stock_or_the_stock_demand(scale, stock):
    answer = oracles.gallego_van_ryzin(scale, 0.5, stock, 1)
    mpmath.mp.dps = 120
    mean = mpmath.mpf(scale) / mpmath.mpf(math.e)
    if stock >= 1_000:  # exp(mean) less the missing terms
        total = (
            mpmath.exp(mean) * mpmath.gammainc(stock + 1, mean, regularized=True) if stock < 10**9 else mpmath.exp(mean)
        )
    else:
        total = mpmath.fsum(mean**i / mpmath.factorial(i) for i in range(stock + 1))
    last = mpmath.exp(stock * mpmath.log(mean) - mpmath.loggamma(stock + 1))
    assert answer["value"] == pytest.approx(float(mpmath.log(total) / 0.5), rel=1e-12)
    assert answer["price"] == pytest.approx(float((1 - mpmath.log(1 - last / total)) / 0.5), rel=1e-9)
    assert answer["fixed_price_value"] <= answer["value"] * (1 + 1e-12)


def test_a_stock_that_cannot_be_written_down_is_refused_by_name():
    with pytest.raises(ValueError, match="inventory is 10000000000000; it must be at most 1e.12"):
        oracles.gallego_van_ryzin(1e20, 1, 10**13, 1)
    for problem, given in (
        ("fare_class_dynamic_program", {"fares": [1], "arrival_probabilities": [0.5], "capacity": 9}),
        ("uniform_valuation_dynamic_program", {"arrival_probability": 0.5, "inventory": 9}),
    ):
        with pytest.raises(ValueError, match="periods is 1000000000"):
            getattr(oracles, problem)(**given, periods=10**9)


@pytest.mark.parametrize("ratio", [1e-60, 1e-18, 1e-9, 1 - 1e-9])
def test_normal_quantiles_are_exact_in_both_tails(ratio):
    mpmath.mp.dps = 90
    tail = mpmath.mpf(ratio)
    # P(demand > level) = ratio, solved at ninety digits.
    z = float(mpmath.findroot(lambda x: mpmath.log(mpmath.ncdf(-x)) - mpmath.log(tail), oracles.littlewood(
        1, ratio, {"kind": "normal", "mean": 1_000, "std": 1})["protection_level"] - 1_000))  # fmt: skip
    demand = {"kind": "normal", "mean": 1_000, "std": 30}
    assert oracles.littlewood(1, ratio, demand)["protection_level"] == pytest.approx(1_000 + 30 * z, rel=1e-12)
    levels = oracles.emsr([1, ratio], [1_000, 5], [30, 5], "b")["protection_levels"]
    assert levels == pytest.approx([1_000 + 30 * z], rel=1e-12)
    # A unit short costs 1 - ratio, a unit left over costs the ratio.
    order = oracles.newsvendor(1, ratio, 0, demand)
    assert order["quantity"] == pytest.approx(1_000 + 30 * z, rel=1e-12)
    exact = (1 - tail) * 1_000 - 30 * mpmath.npdf(mpmath.mpf(z))
    assert order["profit"] == pytest.approx(float(exact), rel=1e-6 if ratio > 0.5 else 1e-12)


@pytest.mark.parametrize("mean, backorder", [(0.7, 1e30), (25.0, 1e60), (25.0, 1e-9), (400.0, 1e15), (3e4, 1e9)])
def test_poisson_stocks_are_exact_in_both_tails(mean, backorder):
    answer = oracles.base_stock(mean, 0, backorder, 1)
    mpmath.mp.dps = 100
    level, m, cost = int(answer["level"]), mpmath.mpf(mean), mpmath.mpf(backorder)

    def below(count):
        """P(D <= count)"""
        return mpmath.gammainc(count + 1, m, regularized=True) if count >= 0 else mpmath.mpf(0)

    assert below(level) >= cost / (cost + 1) * (1 - mpmath.mpf(10) ** -12)
    assert below(level - 1) < cost / (cost + 1)
    left = level * below(level) - m * below(level - 1)
    assert answer["cost"] == pytest.approx(float(left + cost * (m - level + left)), rel=1e-10)
    order = oracles.newsvendor(backorder + 1, 1, 0, {"kind": "poisson", "mean": mean})
    assert order["quantity"] == level
    assert order["profit"] == pytest.approx(float(cost * (level - left) - left), rel=1e-10, abs=1e-12)


def test_fare_class_values_are_those_of_fractions_down_to_the_last_seat():
    fares, chances, periods, seats = [7.0, 3.0], [0.125, 0.25], 24, 24
    values = [Fraction(0)] * (seats + 1)
    for _ in range(periods):
        values = [
            values[x]
            + sum(
                Fraction(p) * max(Fraction(f) + values[x - 1] - values[x], 0)
                for p, f in zip(chances, fares, strict=True)
                if x > 0
            )
            for x in range(seats + 1)
        ]
    answer = oracles.fare_class_dynamic_program(fares, chances, periods, seats)
    assert answer["value"] == pytest.approx(float(values[-1]), rel=1e-14)
    # The last of 24 seats is worth 1e-10 of all.
    assert answer["bid_price"] == pytest.approx(float(values[-1] - values[-2]), rel=1e-12)
    choices = oracles.choice_dynamic_program(fares, [[0.125, 0.0], [0.125, 0.25]], periods, seats)
    assert choices == pytest.approx(answer, rel=1e-12)
    idle = oracles.fare_class_dynamic_program(fares, chances, periods, 10**15)
    assert idle == {"value": pytest.approx(float(values[-1]), rel=1e-14), "bid_price": 0.0}


def test_monopoly_prices_keep_markup_and_share_where_the_price_swallows_them():
    steep = oracles.monopoly_price({"kind": "constant_elasticity", "scale": 3, "elasticity": 1e17}, 1)
    assert steep["profit"] == pytest.approx(3e-17 / math.e)
    dear = oracles.monopoly_price({"kind": "exponential", "scale": 1, "rate": 1}, 300)
    assert dear["profit"] == pytest.approx(math.exp(-301), rel=1e-12)
    flat = oracles.monopoly_price({"kind": "exponential", "scale": 1, "rate": 1e-100}, 1)
    assert flat["price"] == pytest.approx(1e100)
    wanted = oracles.monopoly_price({"kind": "logit", "utility": 1e60, "price_sensitivity": 1}, 0)
    assert wanted["quantity"] == 1
    assert wanted["profit"] == pytest.approx(1e60)
    for demand, message in (
        ({"kind": "constant_elasticity", "scale": 1, "elasticity": 0.5}, r"price_bounds is \[0, 0\]"),
        ({"kind": "exponential", "scale": 1, "rate": 1e-320}, r"demand\['rate'\] is 1e-320; its size"),
    ):
        with pytest.raises(ValueError, match=message):
            oracles.monopoly_price(demand, 1, [0, 0])
    with pytest.raises(ValueError, match="demand is .*, cost is 0.5: together"):
        oracles.monopoly_price({"kind": "constant_elasticity", "scale": 1, "elasticity": 1e4}, 0.5)


@pytest.mark.parametrize("slope", [1e-16, 1e-9, 1e-3])
@pytest.mark.parametrize("utility", [3, 40, 1e5])
def test_loan_rates_are_exact_where_defaults_hardly_rise(utility, slope):
    answer = oracles.loan_rate(utility, 50, 0.1, slope, 0.5, 0.05)
    mpmath.mp.dps = 60
    u, s, d0, d1, loss, funds = (mpmath.mpf(x) for x in (float(utility), 50.0, 0.1, slope, 0.5, 0.05))

    def log_profit(rate):
        default = d0 + d1 * rate
        margin = (1 - default) * rate - default * loss - funds
        return mpmath.log(margin) - mpmath.log(1 + mpmath.exp(s * rate - u))

    rate = mpmath.findroot(lambda x: mpmath.diff(log_profit, x), answer["rate"])
    assert answer["rate"] == pytest.approx(float(rate), rel=1e-12)
    assert answer["profit"] == pytest.approx(float(mpmath.exp(log_profit(rate))), rel=1e-12)
    assert answer["acceptance"] == pytest.approx(float(1 / (1 + mpmath.exp(s * rate - u))), rel=1e-11)


def test_one_server_in_heavy_traffic_charges_what_the_calculus_says():
    for load in (1e3, 1e6, 1e11):
        answer = oracles.loss_system_prices(1, load, 1, 1)
        # (1 - s) s L / (1 + s L) peaks where L s**2 + 2 s = 1.
        share = 1 / (1 + math.sqrt(1 + load))
        assert 1 - answer["static_price"] == pytest.approx(share, rel=1e-9, abs=1e-15)
        assert answer["static_revenue"] == pytest.approx((1 - share) * share * load / (1 + share * load), rel=1e-12)
        # With one server there is one price to choose, so that the best single price is the optimal policy.
        assert answer["dynamic_revenue"] == pytest.approx(answer["static_revenue"], rel=1e-10)
    with pytest.raises(ValueError, match=r"arrival_scale is 1e\+20; it must be at most 1e\+12 x service_rate"):
        oracles.loss_system_prices(1, 1e20, 1, 1)


def test_a_crowded_queue_serves_at_the_rate_of_its_server():
    rush = oracles.queue_tolls(1e60, 2.0, 10.0, 1.0)
    assert rush["monopoly_threshold"] == rush["social_threshold"] == 1
    # The server never rests: reward x rate less the one customer's wait, and the toll that leaves him nothing.
    assert rush["social_welfare"] == pytest.approx(10.0 * 2.0 - 1.0)
    assert rush["monopoly_revenue"] == pytest.approx(2.0 * (10.0 - 0.5))
    with pytest.raises(ValueError, match=r"reward is 1e\+50; it must be at most 1e\+06 x waiting_cost / service_rate"):
        oracles.queue_tolls(1, 1, 1e50, 1)
    near = oracles.priority_waits([0.1] * 10, 1.0000000000000002, [1.0] * 10)
    slack = Fraction(1.0000000000000002) - 10 * Fraction(0.1)
    assert near["first_come_cost"] == pytest.approx(float(1 / Fraction(1.0000000000000002) / slack), rel=1e-12)


@pytest.mark.parametrize(
    "capacity, chance, overtime", [(100, 1e-9, 2.0), (5, 1e-7, 1e12), (40, 0.3, 1e20), (3, 0.5, 1.001)]
)
def test_overbooking_limits_are_exact_where_hardly_anybody_shows_up(capacity, chance, overtime):
    answer = oracles.overbooking_limit(capacity, chance, 1.0, overtime)
    mpmath.mp.dps = 80
    p, bookings = mpmath.mpf(chance), int(answer["bookings"])

    def point(shows, trials):
        return mpmath.binomial(trials, shows) * p**shows * (1 - p) ** (trials - shows)

    def full(trials):
        """P(shows >= capacity)"""
        return 1 - mpmath.fsum(point(s, trials) for s in range(min(capacity, trials + 1)))

    # A booking pays while fee > overtime x P(the others fill the capacity).
    assert overtime * full(bookings - 1) < 1 + 1e-12
    assert overtime * full(bookings) >= 1 - 1e-9
    spare = mpmath.fsum((capacity - s) * point(s, bookings) for s in range(min(capacity, bookings + 1)))
    exact = bookings * p - mpmath.mpf(overtime) * (bookings * p - capacity + spare)
    assert answer["value"] == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(
    "elasticities, scales, required", [([0.5, 3], [1, 1], 1e20), ([2, 5], [1e40, 1], 1e-3), ([1.5, 90], [2, 3], 1e-40)]
)
def test_ramsey_prices_meet_any_surplus_they_can(elasticities, scales, required):
    costs = [1.0, 2.0]
    answer = oracles.ramsey_prices(elasticities, scales, costs, required)
    prices, e, k, c = (np.array(x) for x in (answer["prices"], elasticities, scales, costs))
    # (p - c) x demand with p - c = p t / e, where the difference itself would be rounded away.
    earned = (k * prices ** (1.0 - e) * answer["ramsey_number"] / e).sum()
    assert earned == pytest.approx(required, rel=1e-9)
    assert np.all(prices >= c * (1 - 1e-15))


def test_nests_are_whole_and_lists_are_lists():
    given = {"utilities": [1, 2], "price_sensitivities": [1, 1], "costs": [0, 0]}
    with pytest.raises(ValueError, match=r"nests\[0\]\['products'\]\[1\] is 0.6; it must be a whole number"):
        oracles.assortment_prices(**given, nests=[{"products": [1, 0.6], "dissimilarity": 0.5}])
    with pytest.raises(ValueError, match=r"utilities is array\(3.\); it must be a list"):
        oracles.assortment_prices(np.array(3.0), [1], [1])
    with pytest.raises(ValueError, match=r"demand is array\(3.\); it must be a list"):
        oracles.markdown_plan([2, 1], np.array(3.0), 4)
    with pytest.raises(ValueError, match="discount is a whole number of 1329 bits; it must be"):
        oracles.durable_goods_prices(10**400)


def test_relaxed_markdown_plans_are_exact_at_any_size():
    """Two periods, two rungs: the mixture by its only degree of freedom."""
    for size in (1e-60, 1.0, 1e60):
        answer = oracles.markdown_plan([10, 6], [[2 * size, 4 * size], [1 * size, 3 * size]], 5 * size)
        # Rung 6 in the first period gains 4 for 2 units, in the second 8 for 2: the second first.
        assert answer["relaxed_value"] == pytest.approx(38 * size)
        assert answer["ladder_prices"] == [10, 6]
    tiny = oracles.markdown_plan([10, 6], [[0, 1e90], [0, 3]], 1e-60)
    assert tiny["ladder_value"] == 0


@pytest.mark.parametrize(
    "sales, stock", [([3] * 400 + [900], [5_000] * 400 + [900]), ([0] * 50 + [2000], [1] * 50 + [2000])]
)
def test_censored_rates_solve_the_likelihood_where_chances_underflow(sales, stock):
    rate = oracles.censored_poisson_rate(sales, stock)["rate"]
    mpmath.mp.dps = 60
    seen, cut = [s for s, h in zip(sales, stock) if s < h], [h for s, h in zip(sales, stock) if s == h]

    def score(r):
        """Derivative of the log likelihood."""
        hazards = (
            mpmath.exp((s - 1) * mpmath.log(r) - r - mpmath.loggamma(s)) / mpmath.gammainc(s, 0, r, regularized=True)
            for s in cut
        )
        return sum(seen) / r - len(seen) + mpmath.fsum(hazards)

    assert rate == pytest.approx(float(mpmath.findroot(score, mpmath.mpf(rate))), rel=1e-10)


def test_firms_of_very_different_quality_and_taste_share_the_market_as_their_conditions_say():
    answer = oracles.logit_duopoly_prices([1e5, 1e5 - 40, -1e80], [2.0, 1.0, 0.0], 1.0)
    prices, a = np.array(answer["nash_prices"]), np.array([1e5, 1e5 - 40, -1e80])
    weights = np.exp(a - prices - (a - prices).max())
    shares = weights / (weights.sum() + np.exp(-(a - prices).max()))
    np.testing.assert_allclose((prices - [2.0, 1.0, 0.0]) * (1 - shares), 1.0, rtol=1e-6)
    assert answer["nash_profits"][2] == 0
    with pytest.raises(ValueError, match="differentiation is 1e-90; it must be at least"):
        oracles.logit_duopoly_prices([1, 2], [0, 0], 1e-90)


def test_products_in_any_units_have_the_same_joint_and_nash_prices():
    slopes, costs = np.array([[2.0, -0.5], [-0.4, 1.0]]), np.array([1.0, 2.0])
    plain = oracles.linear_system_prices([10.0, 8.0], slopes, costs)
    # Product 0 in units a sextillion times as large: dearer, fewer.
    unit = np.array([1e21, 1.0])
    scaled = oracles.linear_system_prices(np.array([10.0, 8.0]) / unit, slopes / unit[:, None] / unit, costs * unit)
    for key in ("joint_prices", "nash_prices"):
        np.testing.assert_allclose(np.array(scaled[key]) / unit, plain[key], rtol=1e-12)
    assert scaled["joint_profit"] == pytest.approx(plain["joint_profit"])
    with pytest.raises(ValueError, match=r"costs\[0\] is 1e-19; at the joint prices"):
        oracles.linear_system_prices([1e-20, 1.0], [[1.0, 0.0], [0.0, 1.0]], [1e-19, 0.0])
    for a, b in itertools.permutations((1.0, 1e-90)):
        assert oracles.peak_load_prices(max(a, b), min(a, b), 0, 0)["loads"] == [1.0, 1e-90]
