"""Rides: drivers are conserved, oracles are worth what they say, and every family has its own point."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from pricing_fm.markets import oracles
from pricing_fm.markets.core import compute_mean_demand, get_inventory, start, step
from pricing_fm.markets.domains.ride_hailing import (
    RIDE_HAILING,
    RIDE_HAILING_FAMILIES,
    RideHailingSettings,
    sample_ride_hailing,
)
from pricing_fm.markets.drivers import DriverFlow, RespondingDrivers
from pricing_fm.markets.dynamic_program import build_price_ladder, solve_dynamic_program
from pricing_fm.markets.noise import build_noise
from pricing_fm.markets.responses import LINEAR
from pricing_fm.markets.simulation import simulate_policy
from pricing_fm.markets.streams import build_streams

SMALL = RideHailingSettings(num_periods=16, rides_range=(4.0, 12.0), zone_drivers_range=(3, 6))
# Rungs of the ladder of an item, points of a continuous state.
GRIDS = {"driver_flow": (9, 2), "patient_riders": (31, 41), "rival_app": (31, 61), "reference_fare": (41, 81)}


def list_arrays(part):
    """All arrays of a market and its parts, by place."""
    found = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, np.ndarray):
            found[field.name] = value
        elif is_dataclass(value):
            found |= {f"{field.name}.{name}": one for name, one in list_arrays(value).items()}
    return found


def one_zone(family, settings=SMALL, market_id=0):
    """One zone of a family whose zones are apart, one city of a family whose zones are not."""
    market = sample_ride_hailing(settings, family, np.array([market_id]), 0)
    return market.select_items(tuple(np.zeros((3, 1), dtype=int))) if market.is_separable else market


def solve(family, settings=SMALL, market_id=0):
    market = one_zone(family, settings, market_id)
    rungs, points = GRIDS.get(family, (41, 2))
    return solve_dynamic_program(market, build_price_ladder(market, rungs), points)


def run(market, seed=0):
    """Random fares through a whole evening; what happened, period by period."""
    streams = build_streams(seed, np.arange(market.shape[0]))
    generator, state = np.random.default_rng(seed), start(market, streams)
    for _ in range(market.num_periods):
        prices = state.list_price * generator.uniform(*market.price_bounds, market.shape)
        before = state
        state, observation, reward, truth = step(market, state, prices, streams)
        yield before, state, observation, reward, truth


@pytest.mark.parametrize("family", RIDE_HAILING_FAMILIES)
def test_a_city_is_the_same_in_any_company(family):
    several = sample_ride_hailing(RideHailingSettings(), family, np.arange(6), 3).select(np.array([4]))
    alone = sample_ride_hailing(RideHailingSettings(), family, np.array([4]), 3)
    other = sample_ride_hailing(RideHailingSettings(), family, np.array([4]), 4)
    arrays = list_arrays(alone)
    assert list_arrays(several).keys() == arrays.keys()
    for name, values in list_arrays(several).items():
        np.testing.assert_array_equal(values, arrays[name], err_msg=name)
    assert not np.array_equal(other.list_price, alone.list_price)


@pytest.mark.parametrize("family", RIDE_HAILING_FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 2)])
def test_cities_are_plausible_whatever_their_size(family, size):
    settings = RideHailingSettings(num_products=size[0], num_segments=size[1])
    market = sample_ride_hailing(settings, family, np.arange(40), 1)
    assert market.shape == (40, *size)
    assert market.family == family
    assert not market.ends
    for name, values in list_arrays(market).items():
        assert np.isfinite(values).all(), name
    prices = np.broadcast_to(market.list_price, market.shape)
    assert (prices >= 5).all()
    assert (prices <= 40).all()
    share = market.costs.unit_cost / prices
    assert (share > 0.5).all()
    assert (share < 0.85).all()
    state = start(market, build_streams(0, np.arange(40)))
    drivers, mean = get_inventory(market, state), compute_mean_demand(market, state, prices)
    assert (drivers >= 1).all()
    assert (mean > 0.8).all()
    assert (mean < 100).all()
    if market.supply is not None:
        np.testing.assert_array_equal(drivers, np.round(drivers))


def test_unknown_families_and_impossible_ranges_are_refused():
    with pytest.raises(ValueError, match="known ride_hailing families"):
        sample_ride_hailing(RideHailingSettings(), "taxi", np.arange(2), 0)
    for change, name in [
        ({"num_periods": 0}, "num_periods"),
        ({"rides_range": (30.0, 4.0)}, "rides_range"),
        ({"driver_range": (0.0, 1.0)}, "driver_range"),
        ({"pay_share_range": (0.5, 1.0)}, "pay_share_range"),
        ({"zone_drivers_range": (0.0, 4.0)}, "zone_drivers_range"),
        ({"noises": ()}, "noises"),
        ({"median_price": -1.0}, "median_price"),
    ]:
        with pytest.raises(ValueError, match=name):
            RideHailingSettings(**change)


def test_the_domain_documents_itself():
    for word in ("State", "Action", "Reward", "Dynamics", "Constraints", "baselines", *RIDE_HAILING_FAMILIES):
        assert word in RIDE_HAILING.description, word


@pytest.mark.parametrize("family", RIDE_HAILING_FAMILIES)
def test_without_noise_demand_is_the_mean_demand(family):
    market = sample_ride_hailing(RideHailingSettings(noises=("none",)), family, np.arange(5), 0)
    for before, _, observation, _, truth in run(market):
        np.testing.assert_array_equal(truth.demand, truth.mean_demand)
        np.testing.assert_allclose(truth.mean_demand, compute_mean_demand(market, before, observation.price))


@pytest.mark.parametrize("family", RIDE_HAILING_FAMILIES)
def test_a_driver_gives_one_ride_a_period_and_the_margin_is_the_reward(family):
    market = sample_ride_hailing(RideHailingSettings(driver_range=(0.3, 0.8)), family, np.arange(40), 2)
    scarce = False
    for _, _, observation, reward, truth in run(market):
        assert (observation.units <= observation.inventory).all()
        assert (observation.units <= truth.demand).all()
        scarce |= bool((observation.units < truth.demand).any())
        margin = observation.price - market.costs.unit_cost
        np.testing.assert_allclose(reward, margin * observation.units, atol=1e-9)
    assert scarce == (market.supply is not None)


@pytest.mark.parametrize("family", RIDE_HAILING_FAMILIES)
def test_a_currency_of_smaller_coins_changes_nothing_but_the_reward(family):
    plain = sample_ride_hailing(RideHailingSettings(), family, np.arange(4), 5)
    scaled = sample_ride_hailing(RideHailingSettings(median_price=140.0, price_tick=1.0), family, np.arange(4), 5)
    for (*_, one, reward, _), (*_, ten, reward_ten, _) in zip(run(plain), run(scaled), strict=True):
        np.testing.assert_allclose(ten.price, 10.0 * one.price)
        np.testing.assert_array_equal(ten.units, one.units)
        np.testing.assert_allclose(reward_ten, 10.0 * reward, atol=1e-6)


@pytest.mark.parametrize("family", RIDE_HAILING_FAMILIES)
def test_the_simulated_value_of_the_optimal_policy_is_its_value(family):
    program = solve(family)
    rollouts = 400 if family in ("patient_riders", "rival_app", "reference_fare") else 2000
    simulated = simulate_policy(program.market, program.choose, rollouts, seed=11)
    assert simulated.standard_error < 0.02 * program.value
    assert abs(simulated.score(program.value)) < 3.0
    assert program.myopic_value <= program.value * (1 + 1e-9)
    assert program.constant_value <= program.value * (1 + 1e-9)


@pytest.mark.parametrize("family", ["spot", "events"])
def test_looking_ahead_is_worth_nothing_where_nothing_lasts(family):
    for market_id in range(3):
        program = solve(family, market_id=market_id)
        assert program.myopic_value == pytest.approx(program.value, rel=1e-9)


@pytest.mark.parametrize("family", ["driver_entry", "driver_flow", "patient_riders", "rival_app", "reference_fare"])
def test_looking_ahead_is_worth_something_where_customers_or_drivers_remember(family):
    headroom = [
        1.0 - program.myopic_value / program.value for program in (solve(family, market_id=m) for m in range(5))
    ]
    assert max(headroom) > 0.03
    assert min(headroom) > 0.0


def test_the_spot_fare_is_the_market_clearing_fare():
    """Without noise and without pay the oracle of riders with uniform valuations holds, scarce drivers or not."""
    cities = sample_ride_hailing(RideHailingSettings(num_products=1), "spot", np.arange(40), 0)
    cities = cities.select(cities.demand.family[:, 0, 0] == LINEAR)
    scarce = 0
    for index in range(6):
        market = cities.select(np.array([index]))
        demand, price = market.demand, market.list_price.item()
        # Valuations are uniform up to where linear demand ends.
        top = price * (1.0 + 1.0 / demand.elasticity.item())
        riders, drivers = market.volume.item() * (1.0 + demand.elasticity.item()), market.supply.drivers.item()
        known = oracles.market_clearing_price(arrivals=riders, max_valuation=top, supply=drivers)
        scarce += drivers < riders / 2.0
        quiet = replace(
            market,
            noise=build_noise("none", (1, 1, 1)),
            costs=replace(market.costs, unit_cost=np.zeros((1, 1, 1))),
            price_bounds=(0.3, 2.0),
            num_periods=1,
        )
        program = solve_dynamic_program(quiet, build_price_ladder(quiet, 2001))
        best = program.ladder[program.choices[0, 0]].item()
        assert best == pytest.approx(known["price"], abs=quiet.price_tick.item() + 1e-9)
        assert 0.99 * known["revenue"] <= program.value <= known["revenue"] * (1 + 1e-9)
    assert 0 < scarce < 6


def test_the_value_rises_with_drivers_and_time():
    values = [
        solve_dynamic_program(market, build_price_ladder(market, 31)).values
        for market in (
            replace(one, supply=replace(one.supply, drivers=np.full((1, 1, 1), float(drivers))))
            for one in [one_zone("spot")]
            for drivers in (2, 4, 6)
        )
    ]
    assert values[0][0] < values[1][0] < values[2][0]
    assert values[2][0] - values[1][0] < values[1][0] - values[0][0]
    assert (np.diff(values[0], axis=0) < 0).all()


def test_fares_rise_with_the_event():
    program = solve("events", RideHailingSettings(driver_range=(0.5, 0.7)))
    calm, busy = program.ladder[program.choices[0]][:, 0, 0]
    assert busy > 1.05 * calm


def test_events_come_and_go_as_often_as_the_chain_says():
    market = one_zone("events").select(np.zeros(4000, dtype=int))
    streams = build_streams(0, np.zeros(4000, dtype=int), np.arange(4000))
    state = start(market, streams)
    assert (state.regime == 0).all()
    for _ in range(30):
        state = step(market, state, state.list_price, streams)[0]
    come, go = market.regimes.transition[0, 0, 0, 0, 1], market.regimes.transition[0, 0, 0, 1, 0]
    share = come / (come + go) * (1.0 - (1.0 - come - go) ** 30)
    assert abs(state.regime.mean() - share) < 4.0 * np.sqrt(share * (1.0 - share) / 4000)


def test_drivers_come_where_they_are_busy_and_go_where_they_idle():
    drivers = RespondingDrivers(
        fleet=np.full((1, 1, 1), 20.0),
        first_drivers=np.full((1, 1, 1), 8.0),
        half_use=np.full((1, 1, 1), 0.7),
        elasticity=np.full((1, 1, 1), 3.0),
        speed=np.full((1, 1, 1), 0.5),
    )
    state, period = drivers.start((1, 1, 1), np.ones((1, 1, 1))), np.zeros(1, dtype=int)
    following = [
        drivers.sell(state, np.full((1, 1, 1), rides), period)[1].item() for rides in (0.0, 2.0, 5.0, 8.0, 99.0)
    ]
    assert following[0] == 4.0
    assert following[-1] == following[-2] > 8.0
    assert following == sorted(following)
    # Half of the fleet wants to be online where rides per driver are `half_use`.
    settled = np.full((1, 1, 1, 1), 10.0)
    assert drivers.sell(settled, np.full((1, 1, 1), 7.0), period)[1].item() == 10.0


@pytest.mark.parametrize("size", [(2, 1), (3, 2)])
def test_drivers_of_a_city_are_conserved(size):
    settings = RideHailingSettings(num_products=size[0], num_segments=size[1])
    market = sample_ride_hailing(settings, "driver_flow", np.arange(60), 0)
    flow = market.supply
    assert isinstance(flow, DriverFlow)
    total = flow.first_drivers.sum(axis=(1, 2))
    np.testing.assert_allclose(flow.destination.sum(axis=-1), 1.0)
    moved = False
    for before, after, observation, _, _ in run(market):
        drivers, rides = flow.get_left(before.supply), observation.units.sum(axis=2)
        following = flow.get_left(after.supply)
        assert (rides <= drivers).all()
        assert (following >= 0).all()
        np.testing.assert_array_equal(following.sum(axis=1), total)
        np.testing.assert_array_equal(following, np.round(following))
        arrived = following - (drivers - rides)
        assert (arrived >= 0).all()
        assert np.array_equal(arrived.sum(axis=1), rides.sum(axis=1))
        # Whole drivers differ by less than one per zone of origin from the shares.
        expected = np.einsum("mz,mzt->mt", rides, flow.destination[:, :, 0])
        assert np.abs(arrived - expected).max() <= size[0]
        moved |= bool((drivers != following).any())
    assert moved


def test_the_order_of_zones_in_the_arrays_does_not_matter():
    market = sample_ride_hailing(RideHailingSettings(), "driver_flow", np.arange(50), 0)
    flow, turn = market.supply, np.array([1, 0])
    turned = DriverFlow(
        flow.uses[:, turn][..., turn],
        flow.rank[:, turn],
        flow.first_drivers[:, turn],
        flow.destination[:, turn][..., turn],
    )
    demand = np.random.default_rng(0).poisson(8.0, market.shape).astype(float)
    state, other = flow.start(market.shape, market.volume), turned.start(market.shape, market.volume)
    units, after, _ = flow.sell(state, demand, np.zeros(50, dtype=int))
    turned_units, turned_after, _ = turned.sell(other, demand[:, turn], np.zeros(50, dtype=int))
    np.testing.assert_array_equal(turned_units, units[:, turn])
    np.testing.assert_array_equal(turned.get_left(turned_after), flow.get_left(after)[:, turn])


def test_riders_turned_away_by_the_fare_come_back():
    market = sample_ride_hailing(RideHailingSettings(), "patient_riders", np.arange(10), 0)
    streams = build_streams(0, np.arange(10))
    state = start(market, streams)
    for ratio in (0.8, 2.4):
        prices = ratio * state.list_price
        share = compute_mean_demand(market, state, prices) / market.volume
        following = step(market, state, prices, streams)[0]
        np.testing.assert_allclose(following.memory[..., 0], market.memory.patience * (1.0 - share))
    again = compute_mean_demand(market, following, state.list_price)
    assert (again > 1.3 * compute_mean_demand(market, state, state.list_price)).all()
    impatient = one_zone("patient_riders")
    impatient = replace(impatient, memory=replace(impatient.memory, patience=np.full((1, 1, 1), 1e-9)))
    program = solve_dynamic_program(impatient, build_price_ladder(impatient, 31), 5)
    assert program.myopic_value == pytest.approx(program.value, rel=1e-6)


def test_riders_mind_rises_more_than_they_welcome_falls():
    market = sample_ride_hailing(RideHailingSettings(), "reference_fare", np.arange(10), 0)
    plain = replace(market, memory=None)
    state = start(market, build_streams(0, np.arange(10)))
    change = {}
    for ratio in (1 / 1.2, 1.0, 1.2):
        prices = ratio * state.list_price
        change[ratio] = np.log(compute_mean_demand(market, state, prices) / compute_mean_demand(plain, state, prices))
    np.testing.assert_allclose(change[1.0], 0.0, atol=1e-12)
    assert (change[1 / 1.2] > 0).all()
    assert (-change[1.2] > 1.4 * change[1 / 1.2]).all()


def test_the_rival_app_answers_and_takes_riders():
    market = sample_ride_hailing(RideHailingSettings(), "rival_app", np.arange(20), 0)
    streams = build_streams(0, np.arange(20))
    state = start(market, streams)
    cheap, dear = (step(market, state, ratio * state.list_price, streams)[0] for ratio in (0.8, 1.3))
    assert (dear.rivals[..., 0] > cheap.rivals[..., 0]).all()
    same = state.list_price
    assert (compute_mean_demand(market, dear, same) > compute_mean_demand(market, cheap, same)).all()
