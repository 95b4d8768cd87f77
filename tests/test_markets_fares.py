"""Flights: seats are conserved, oracles are worth what they say, and every family has its own point."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from pricing_fm.markets import oracles
from pricing_fm.markets.capacity import CancellableSeats, CapacityLegs, OverbookedSeats, ration
from pricing_fm.markets.context import Costs
from pricing_fm.markets.core import compute_final_value, compute_mean_demand, get_inventory, start, step
from pricing_fm.markets.domains.fares import FARES, FARES_FAMILIES, FaresSettings, sample_fares
from pricing_fm.markets.dynamic_program import build_price_ladder, solve_dynamic_program
from pricing_fm.markets.fluid import compute_fluid_bound
from pricing_fm.markets.simulation import simulate_policy
from pricing_fm.markets.streams import build_streams

SMALL = FaresSettings(num_periods=12, seats_range=(8, 16), leg_seats_range=(3, 5))
# Rungs of the ladder of an item, points of a continuous state.
GRIDS = {"choice": (6, 2), "network": (4, 2), "waiting": (11, 21), "rival_airline": (13, 61)}


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


def one_flight(family, settings=SMALL, market_id=0):
    """One item of a family whose items are apart, one market of a family whose items are not."""
    market = sample_fares(settings, family, np.array([market_id]), 0)
    return market.select_items(tuple(np.zeros((3, 1), dtype=int))) if market.is_separable else market


def solve(family, settings=SMALL, market_id=0):
    market = one_flight(family, settings, market_id)
    rungs, points = GRIDS.get(family, (31, 2))
    return solve_dynamic_program(market, build_price_ladder(market, rungs), points)


def run(market, seed=0):
    """Random fares through a whole booking window; what happened, period by period."""
    streams = build_streams(seed, np.arange(market.shape[0]))
    generator, state = np.random.default_rng(seed), start(market, streams)
    for _ in range(market.num_periods):
        prices = state.list_price * generator.uniform(*market.price_bounds, market.shape)
        before = state
        state, observation, reward, truth = step(market, state, prices, streams)
        yield before, state, observation, reward, truth


@pytest.mark.parametrize("family", FARES_FAMILIES)
def test_a_market_is_the_same_in_any_company(family):
    several = sample_fares(FaresSettings(), family, np.arange(6), 3).select(np.array([4]))
    alone = sample_fares(FaresSettings(), family, np.array([4]), 3)
    other = sample_fares(FaresSettings(), family, np.array([4]), 4)
    arrays = list_arrays(alone)
    assert list_arrays(several).keys() == arrays.keys()
    for name, values in list_arrays(several).items():
        np.testing.assert_array_equal(values, arrays[name], err_msg=name)
    assert not np.array_equal(other.list_price, alone.list_price)


@pytest.mark.parametrize("family", FARES_FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (4, 2)])
def test_markets_are_plausible_whatever_their_size(family, size):
    settings = FaresSettings(num_products=size[0], num_segments=size[1])
    market = sample_fares(settings, family, np.arange(40), 1)
    assert market.shape == (40, *size)
    assert market.family == family
    assert market.ends
    for name, values in list_arrays(market).items():
        assert np.isfinite(values).all(), name
    prices = np.broadcast_to(market.list_price, market.shape)
    assert (prices >= 20).all()
    assert (prices <= 1500).all()
    np.testing.assert_allclose(prices / market.price_tick, np.round(prices / market.price_tick), atol=1e-9)
    share = market.costs.unit_cost / prices
    assert (share > 0.01).all()
    assert (share < 0.11).all()
    state = start(market, build_streams(0, np.arange(40)))
    seats = get_inventory(market, state)
    assert (seats >= 1).all()
    assert (seats <= 170).all()
    assert np.array_equal(seats, np.round(seats))
    whole_window = compute_mean_demand(market, state, prices) * market.num_periods
    assert (whole_window > 0).all()
    assert (whole_window < 4.0 * seats).all()


def test_unknown_families_and_impossible_ranges_are_refused():
    with pytest.raises(ValueError, match="known fares families"):
        sample_fares(FaresSettings(), "charter", np.arange(2), 0)
    for change, name in [
        ({"num_products": 0}, "num_products"),
        ({"num_periods": 1}, "num_periods"),
        ({"load_range": (2.0, 1.0)}, "load_range"),
        ({"seats_range": (0.2, 10.0)}, "seats_range"),
        ({"show_probability_range": (0.9, 1.1)}, "show_probability_range"),
        ({"cancel_probability_range": (0.1, 1.0)}, "cancel_probability_range"),
        ({"noises": ("loud",)}, "noises"),
        ({"price_tick": 0.0}, "price_tick"),
    ]:
        with pytest.raises(ValueError, match=name):
            FaresSettings(**change)


def test_the_domain_documents_itself():
    for word in ("State", "Action", "Reward", "Dynamics", "Constraints", "baselines", *FARES_FAMILIES):
        assert word in FARES.description, word


@pytest.mark.parametrize("family", FARES_FAMILIES)
def test_without_noise_demand_is_the_mean_demand(family):
    market = sample_fares(FaresSettings(noises=("none",)), family, np.arange(5), 0)
    for before, _, observation, _, truth in run(market):
        np.testing.assert_array_equal(truth.demand, truth.mean_demand)
        np.testing.assert_allclose(truth.mean_demand, compute_mean_demand(market, before, observation.price))


@pytest.mark.parametrize("family", FARES_FAMILIES)
@pytest.mark.parametrize("noise", ["poisson", "none"])
def test_never_more_seats_are_sold_than_there_are(family, noise):
    settings = FaresSettings(num_products=4, num_segments=2, load_range=(1.5, 3.0), noises=(noise,))
    market = sample_fares(settings, family, np.arange(50), 2)
    sold, full = np.zeros(market.shape), False
    for before, after, observation, _, truth in run(market):
        assert (observation.units <= observation.inventory + 1e-9).all()
        assert (observation.units >= 0).all()
        assert (observation.units <= truth.demand).all()
        assert (after.supply >= 0).all()
        full |= bool((observation.units < truth.demand).any())
        sold += observation.units
        if isinstance(market.supply, CapacityLegs):
            used = np.einsum("mps,mpl->ml", sold, market.supply.uses[:, :, 0])
            np.testing.assert_allclose(used + after.supply, market.supply.capacity[:, 0, 0], atol=1e-9)
        elif isinstance(market.supply, CancellableSeats):
            freed = after.supply[..., 0] - before.supply[..., 0] + observation.units
            assert (freed >= -1e-9).all()
            assert (after.supply[..., 0] <= market.supply.seats + 1e-9).all()
        elif isinstance(market.supply, OverbookedSeats):
            np.testing.assert_allclose(sold, after.supply[..., 0])
        else:
            np.testing.assert_allclose(sold + after.supply[..., 0], market.supply.units)
    assert full, "no flight ever sold out: the test shows nothing"


@pytest.mark.parametrize("family", FARES_FAMILIES)
def test_a_currency_of_smaller_coins_changes_nothing_but_the_reward(family):
    plain = sample_fares(FaresSettings(), family, np.arange(4), 5)
    scaled = sample_fares(FaresSettings(median_price=1200.0, price_tick=10.0), family, np.arange(4), 5)
    for (*_, one, reward, _), (*_, ten, reward_ten, _) in zip(run(plain), run(scaled), strict=True):
        np.testing.assert_allclose(ten.price, 10.0 * one.price)
        np.testing.assert_array_equal(ten.units, one.units)
        np.testing.assert_allclose(reward_ten, 10.0 * reward, atol=1e-6)


@pytest.mark.parametrize("family", FARES_FAMILIES)
def test_the_simulated_value_of_the_optimal_policy_is_its_value(family):
    program = solve(family)
    rollouts = 400 if family in ("waiting", "rival_airline") else 2000
    simulated = simulate_policy(program.market, program.choose, rollouts, seed=11)
    assert simulated.standard_error < 0.02 * program.value
    assert abs(simulated.score(program.value)) < 3.0
    assert program.myopic_value <= program.value * (1 + 1e-9)
    assert program.constant_value <= program.value * (1 + 1e-9)


@pytest.mark.parametrize("family", FARES_FAMILIES)
def test_looking_ahead_is_worth_something_where_seats_are_scarce(family):
    program = solve(family, replace(SMALL, load_range=(1.4, 1.6)), market_id=1)
    assert 1.0 - program.myopic_value / program.value > 0.03


def test_the_value_is_concave_in_seats_and_rises_with_seats_and_time():
    program = solve("single_leg")
    values = program.values
    assert np.diff(values, axis=1).min() >= -1e-9
    assert np.diff(values, n=2, axis=1).max() <= 1e-9
    assert np.diff(values, axis=0).max() <= 1e-9
    assert values[0, -1] > values[6, -1] > 0.0
    assert values[0, -1] > values[0, 4] > 0.0


def test_shorter_periods_lead_to_the_answer_of_gallego_and_van_ryzin():
    gaps = []
    for periods in (10, 40, 160):
        market = one_flight("single_leg", replace(SMALL, num_periods=periods), market_id=2)
        market = replace(market, costs=Costs(np.zeros((1, 1, 1))), price_bounds=(0.3, 6.0))
        demand, price, seats = market.demand, market.list_price.item(), int(market.supply.units.item())
        known = oracles.gallego_van_ryzin(
            scale=market.volume.item() * np.exp(demand.elasticity.item()),
            rate=demand.elasticity.item() / price,
            inventory=seats,
            horizon=float(periods),
        )
        program = solve_dynamic_program(market, build_price_ladder(market, 161))
        assert program.constant_value <= program.value < known["value"] < known["fluid_bound"]
        gaps.append(1.0 - program.value / known["value"])
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.003


@pytest.mark.parametrize("family", ["single_leg", "choice", "network"])
def test_a_fixed_fare_is_worth_less_than_the_optimum_and_that_less_than_the_fluid_bound(family):
    for market_id in range(2):
        program = solve(family, market_id=market_id)
        bound = compute_fluid_bound(program.market).value
        assert program.constant_value < program.value < bound < 1.6 * program.value


def test_shared_seats_are_served_in_the_stated_order():
    uses = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])[None, :, None, :]
    demand = np.array([3.0, 2.0, 4.0]).reshape(1, 3, 1)
    left = np.array([[4.0, 3.0]])
    first_to_last = ration(demand, left, uses, np.array([[0, 1, 2]]))
    np.testing.assert_array_equal(first_to_last[0, :, 0], [3, 1, 2])
    connection_first = ration(demand, left, uses, np.array([[1, 2, 0]]))
    np.testing.assert_array_equal(connection_first[0, :, 0], [2, 2, 1])
    np.testing.assert_array_equal(ration(demand, left + 10.0, uses, np.array([[0, 1, 2]])), demand)


def test_the_order_of_products_in_the_arrays_does_not_matter():
    market = sample_fares(FaresSettings(num_products=4), "network", np.arange(30), 0)
    legs = market.supply
    shuffled = np.array([2, 0, 3, 1])
    turned = CapacityLegs(legs.uses[:, shuffled], legs.rank[:, shuffled], legs.capacity)
    state = legs.start(market.shape, market.volume)
    demand = np.random.default_rng(0).poisson(3.0, market.shape).astype(float)
    units, left, _ = legs.sell(state, demand, np.zeros(30, dtype=int))
    turned_units, turned_left, _ = turned.sell(state, demand[:, shuffled], np.zeros(30, dtype=int))
    assert (units < demand).any()
    np.testing.assert_array_equal(turned_units, units[:, shuffled])
    np.testing.assert_array_equal(turned_left, left)


def test_denied_boardings_are_the_binomial_tail_and_overbooking_pays():
    program = solve("overbooking")
    supply = program.market.supply
    seats, show = int(supply.seats.item()), supply.show_probability.item()
    generator = np.random.default_rng(0)
    for bookings in (0, seats - 1, seats, seats + 1, seats + 3):
        shows = generator.binomial(bookings, show, 400_000)
        over = np.maximum(shows - seats, 0.0)
        expected = supply.compute_denied(np.full((1, 1, 1), float(bookings))).item()
        assert abs(expected - over.mean()) <= 4.0 * over.std() / np.sqrt(len(over)) + 1e-12
    cautious = replace(program.market, supply=replace(supply, booking_limit=supply.seats))
    assert solve_dynamic_program(cautious, program.ladder).value < 0.99 * program.value
    full = np.array(supply.booking_limit)[..., None]
    assert (compute_final_value(program.market, _with_supply(program.market, full)) < 0).all()


def _with_supply(market, supply):
    return start(market, build_streams(0, np.zeros(1, dtype=int)))._replace(supply=supply)


def test_cancelled_seats_come_free_as_the_kernel_says_and_are_refunded():
    market = one_flight("cancellations")
    supply, grid = market.supply, market.supply.build_grid()[0]
    kernel = supply.build_kernel(0, grid)
    np.testing.assert_allclose(kernel.sum(axis=1), 1.0)
    booked = supply.seats.item() - grid
    np.testing.assert_allclose(kernel @ grid - grid, booked * supply.cancel_probability.item(), atol=1e-9)
    many = 20_000
    copies, streams = supply.select(np.zeros(many, dtype=int)), build_streams(0, np.zeros(many, int), np.arange(many))
    freed = copies.drift(np.zeros((many, 1, 1, 1)), streams, np.full(many, 3))[..., 0]
    spread = np.sqrt(kernel[0] @ grid**2 - (kernel[0] @ grid) ** 2)
    assert abs(freed.mean() - kernel[0] @ grid) < 4.0 * spread / np.sqrt(many)
    _, left, charge = supply.sell(np.full((1, 1, 1, 1), 5.0), np.full((1, 1, 1), 2.0), np.zeros(1, dtype=int))
    assert left.item() == 3.0
    refund = supply.refund.item() * supply.cancel_probability.item() * (supply.seats.item() - 3.0)
    assert charge.item() == pytest.approx(refund)


def test_late_bookers_pay_more():
    market = sample_fares(FaresSettings(), "business_late", np.arange(10), 0)
    state = start(market, build_streams(0, np.arange(10)))
    kept = []
    for period in (0, 15, 29):
        now = state._replace(period=np.full(10, period))
        low, high = (compute_mean_demand(market, now, market.list_price * ratio) for ratio in (1.0, 1.8))
        kept.append(high / low)
    assert (kept[0] < kept[1]).all()
    assert (kept[1] < kept[2]).all()
    np.testing.assert_allclose(kept[0], np.exp(-0.8 * market.demand.elasticity))


def test_customers_who_wait_look_again_and_hold_back_above_the_expected_fare():
    market = sample_fares(FaresSettings(), "waiting", np.arange(6), 0)
    state = start(market, build_streams(0, np.arange(6)))
    dear, _, _, _ = step(market, state, 2.0 * state.list_price, build_streams(0, np.arange(6)))
    assert (dear.memory[..., 0] > 0.5).all()
    later = compute_mean_demand(market, dear, state.list_price)
    assert (later > 1.4 * compute_mean_demand(market, state, state.list_price)).all()
    trusting = replace(market, memory=replace(market.memory, foresight=np.zeros_like(market.memory.foresight)))
    above = 1.3 * state.list_price
    assert (compute_mean_demand(market, state, above) < compute_mean_demand(trusting, state, above)).all()


def test_the_rival_airline_answers():
    market = sample_fares(FaresSettings(), "rival_airline", np.arange(40), 0)
    streams = build_streams(0, np.arange(40))
    state = start(market, streams)
    low, high = (step(market, state, ratio * state.list_price, streams)[0] for ratio in (0.7, 1.5))
    answers = (high.rivals[..., 0] > low.rivals[..., 0]).all(axis=(1, 2))
    assert 0 < answers.sum() < 40
    np.testing.assert_array_equal(answers, market.rivals.kind[:, 0, 0] == 1)
