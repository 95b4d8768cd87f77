"""Who gets a seat: protection levels, the optimal control and bid prices against exact values and bounds."""

import itertools
import math

import numpy as np
import pytest

from pricing_fm.markets import oracles, policies
from pricing_fm.markets.policies import estimate_mean

# The example of the literature on nested seat allocation: fares, means and deviations of four classes.
FLIGHT = ((1050.0, 567.0, 534.0, 520.0), (17.3, 45.1, 39.6, 34.0), (5.8, 15.0, 13.2, 11.3))
MIXED = policies.MixedFareClasses((200.0, 150.0, 100.0, 50.0), (0.1, 0.15, 0.2, 0.3), 100, 40)
NETWORK = policies.NetworkMarket(
    (100.0, 120.0, 180.0, 60.0, 70.0), (0.2, 0.2, 0.15, 0.2, 0.2), ((1, 0), (0, 1), (1, 1), (1, 0), (0, 1)), (8, 8), 20
)


@pytest.mark.parametrize("capacity", [60, 80, 119, 160])
def test_emsr_b_earns_nearly_the_optimum_of_ordered_classes_and_more_than_first_come(capacity):
    market, random = policies.OrderedFareClasses(*FLIGHT, capacity), np.random.default_rng(1)
    optimum = policies.compute_ordered_optimum(market)
    emsr = policies.build_emsr_for(market)
    assert list(emsr.levels) == oracles.emsr(*FLIGHT, "b")["protection_levels"]
    first_come = policies.build_first_come_control(4)
    exact = {}
    for name, control in (
        ("optimal", policies.ProtectionLevels(optimum.protection_levels)),
        ("emsr", emsr),
        ("first come", first_come),
    ):
        exact[name] = policies.compute_ordered_value(market, control.whole_levels())
        found = estimate_mean(policies.simulate_ordered(market, control, 20_000, random))
        assert found.agrees_with(exact[name])
        assert found.standard_error < 0.002 * exact[name]
    assert exact["optimal"] == pytest.approx(optimum.value, rel=1e-12)
    assert 0.994 * optimum.value < exact["emsr"] <= optimum.value
    assert exact["first come"] < exact["emsr"]


@pytest.mark.parametrize("law", ["normal", "poisson"])
def test_no_other_protection_levels_beat_the_program_of_ordered_classes(law):
    means = (3.0, 4.0, 6.0)
    stds = (1.5, 2.5, 2.0) if law == "normal" else tuple(np.sqrt(means))
    market = policies.OrderedFareClasses((10.0, 6.0, 3.5), means, stds, 9, law)
    optimum = policies.compute_ordered_optimum(market)
    values = {
        levels: policies.compute_ordered_value(market, levels)
        for levels in itertools.product(range(10), repeat=2)
        if levels[0] <= levels[1]
    }
    assert optimum.value == pytest.approx(max(values.values()), rel=1e-12)
    assert values[optimum.protection_levels] == pytest.approx(optimum.value, rel=1e-12)


def test_two_classes_are_littlewoods_rule():
    for mean, low in itertools.product((2.0, 7.5, 20.0), (20.0, 50.0, 90.0)):
        market = policies.OrderedFareClasses(
            (100.0, low), (mean, 30.0), (math.sqrt(mean), math.sqrt(30.0)), 40, "poisson"
        )
        known = oracles.littlewood(100.0, low, {"kind": "poisson", "mean": mean})["protection_level"]
        assert policies.compute_ordered_optimum(market).protection_levels == (known,)


def test_a_certain_number_of_requests_is_served_from_the_top():
    market = policies.OrderedFareClasses((10.0, 4.0, 1.0), (2.0, 3.0, 9.0), (0.0, 0.0, 0.0), 6)
    optimum = policies.compute_ordered_optimum(market)
    assert optimum.value == pytest.approx(2 * 10 + 3 * 4 + 1)
    assert optimum.protection_levels == (2, 5)
    control = policies.ProtectionLevels((2.0, 5.0))
    assert (policies.simulate_ordered(market, control, 3, np.random.default_rng(0)) == optimum.value).all()


def test_a_lower_class_never_sees_more_seats_than_a_higher_one():
    control = policies.ProtectionLevels((12.6, 3.2, 20.5))
    assert control.whole_levels() == (13, 13, 21)
    opened = control.open_seats(np.arange(4), np.full(4, 15), 0)
    assert opened.tolist() == [15, 2, 2, 0]


def test_the_optimal_control_of_mixed_classes_earns_the_oracles_value_and_others_less():
    random, optimum = np.random.default_rng(2), MIXED.optimal_value()
    best = policies.BestSeatControl(MIXED)
    assert best.values[-1, -1] == pytest.approx(optimum, rel=1e-12)
    found = estimate_mean(policies.simulate_mixed(MIXED, best, 10_000, random))
    assert found.agrees_with(optimum)
    updated = policies.UpdatedProtectionLevels(MIXED.fares, MIXED.arrival_probabilities)
    earned = [
        policies.simulate_mixed(MIXED, control, 3000, random).mean()
        for control in (updated, policies.build_emsr_for(MIXED), policies.build_first_come_control(4))
    ]
    assert optimum > earned[0] > 0.98 * optimum
    assert earned[0] > earned[1] > earned[2]


def test_bid_prices_stay_below_the_bound_and_reach_it_as_the_network_grows():
    random, shares = np.random.default_rng(3), []
    for factor in (1, 4, 16, 64):
        market = NETWORK.scaled(factor)
        control = policies.build_bid_price_control(market)
        known = oracles.network_bid_prices(market.fares, market.mean_requests(), market.incidence, market.capacities)
        assert list(control.bid_prices) == known["bid_prices"]
        found = estimate_mean(policies.simulate_network(market, control, 500, random))
        if factor <= 4:
            assert market.optimal_value() < known["value"]
            assert found.mean < market.optimal_value() + 3 * found.standard_error
        shares.append(found.mean / known["value"])
    assert np.all(np.diff(shares) > 0)
    assert 0.975 < shares[-1] < 1.0
    # The loss falls like one over the root of the scale.
    assert 1 - shares[-1] == pytest.approx((1 - shares[1]) / 4, rel=0.2)


def test_taking_every_tie_with_the_bid_prices_is_no_better_than_first_come_at_any_size():
    market, random = NETWORK.scaled(64), np.random.default_rng(4)
    ties = policies.build_bid_price_control(market, share_ties=False)
    greedy = policies.simulate_network(market, ties, 300, random).mean()
    first_come = policies.simulate_network(market, policies.build_open_control(market), 300, random).mean()
    shared = policies.simulate_network(market, policies.build_bid_price_control(market), 300, random).mean()
    assert greedy == pytest.approx(first_come, rel=0.005)
    assert shared > 1.05 * greedy


def test_a_network_of_one_leg_is_the_fare_class_program_and_its_first_come_value_is_known():
    one = policies.NetworkMarket(MIXED.fares, MIXED.arrival_probabilities, ((1,),) * 4, (40,), 100)
    assert one.optimal_value() == pytest.approx(MIXED.optimal_value(), rel=1e-12)
    # Without scarcity everybody is served.
    wide = policies.NetworkMarket(MIXED.fares, MIXED.arrival_probabilities, ((1,),) * 4, (100,), 100)
    expected = 100 * float(np.dot(MIXED.fares, MIXED.arrival_probabilities))
    assert wide.optimal_value() == pytest.approx(expected)
    found = policies.simulate_network(wide, policies.build_bid_price_control(wide), 2000, np.random.default_rng(5))
    assert estimate_mean(found).agrees_with(expected)


def test_an_itinerary_that_takes_two_seats_of_a_leg_is_refused_at_one():
    market = policies.NetworkMarket((5.0, 9.0), (0.0, 1.0), ((1,), (2,)), (3,), 4)
    assert market.optimal_value() == pytest.approx(9.0)
    found = policies.simulate_network(market, policies.build_open_control(market), 5, np.random.default_rng(6))
    assert (found == 9.0).all()


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda: policies.OrderedFareClasses((), (), (), 5), "fares is empty"),
        (lambda: policies.OrderedFareClasses((5.0, 6.0), (1.0, 1.0), (1.0, 1.0), 5), "fares"),
        (lambda: policies.OrderedFareClasses((6.0, 5.0), (1.0, 1.0), (1.0, 1.0), -5), "capacity"),
        (lambda: policies.OrderedFareClasses((6.0, 5.0), (1.0, math.nan), (1.0, 1.0), 5), "means"),
        (lambda: policies.OrderedFareClasses((6.0, 5.0), (4.0, 4.0), (1.0, 2.0), 5, "poisson"), "stds"),
        (lambda: policies.OrderedFareClasses((6.0,), (4.0,), (1.0,), 5, "gamma"), "law"),
        (lambda: policies.MixedFareClasses((6.0, 5.0), (0.8, 0.4), 10, 3), "arrival_probabilities"),
        (lambda: policies.MixedFareClasses((6.0, 5.0), (0.4, 0.4), 10, -3), "capacity"),
        (lambda: policies.MixedFareClasses((6.0, 5.0), (0.4, 0.4), 0, 3), "periods"),
        (lambda: policies.ProtectionLevels((-1.0,)), "levels"),
        (lambda: policies.ProtectionLevels((math.nan,)), "levels"),
        (lambda: policies.UpdatedProtectionLevels((6.0, 5.0), (0.4,)), "arrival_probabilities"),
        (lambda: policies.NetworkMarket((), (), (), (3,), 5), "fares is empty"),
        (lambda: policies.NetworkMarket((5.0,), (0.5,), ((1,),), (-3,), 5), "capacities"),
        (lambda: policies.NetworkMarket((5.0,), (1.5,), ((1,),), (3,), 5), "arrival_probabilities"),
        (lambda: policies.NetworkMarket((5.0,), (0.5,), ((0.5,),), (3,), 5), "incidence"),
        (lambda: policies.NetworkMarket((5.0,), (0.5,), ((1, 1),), (3,), 5), "incidence"),
        (lambda: NETWORK.scaled(0), "factor"),
        (lambda: NETWORK.scaled(300).optimal_value(), "too many states"),
        (lambda: policies.BidPriceControl((-1.0,), (1.0,)), "bid_prices"),
        (lambda: policies.BidPriceControl((1.0,), (1.5,)), "accept_shares"),
    ],
)
def test_invalid_markets_and_controls_are_refused_by_name(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_controls_that_do_not_fit_the_market_are_refused():
    market, random = policies.OrderedFareClasses(*FLIGHT, 50), np.random.default_rng(0)
    with pytest.raises(ValueError, match="protection_levels"):
        policies.compute_ordered_value(market, (3, 4))
    with pytest.raises(ValueError, match="runs"):
        policies.simulate_ordered(market, policies.build_emsr_for(market), 0, random)
    with pytest.raises(ValueError, match="accept_shares"):
        policies.simulate_network(NETWORK, policies.BidPriceControl((1.0,), (1.0,)), 5, random)

    class Oversold(policies.ProtectionLevels):
        def open_seats(self, fare_class, seats_left, periods_left):
            return seats_left - 60

    with pytest.raises(ValueError, match="open_seats"):
        policies.simulate_ordered(market, Oversold((1.0,)), 5, random)
