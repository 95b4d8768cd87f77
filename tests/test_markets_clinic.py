"""Clinics: acuity dominates price, capacity holds, and the dynamic programs are worth what they say."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pricing_fm.markets.clinic_parts import (
    ROUTINE,
    SOON,
    URGENT,
    ReferralNoise,
    ShowPayoff,
    serve_by_acuity,
    split_services,
    tabulate_overtime,
)
from pricing_fm.markets.clinic_supply import Beds, FollowUps, WaitingList, WorseningCases
from pricing_fm.markets.core import compute_mean_demand, get_inventory, start, step
from pricing_fm.markets.domains.clinic import CLINIC, CLINIC_FAMILIES, ClinicSettings, sample_clinic
from pricing_fm.markets.dynamic_program import build_price_ladder, solve_dynamic_program
from pricing_fm.markets.noise import build_noise
from pricing_fm.markets.oracles import overbooking_limit
from pricing_fm.markets.oracles.distributions import compute_poisson_limited_mean
from pricing_fm.markets.simulation import simulate_policy
from pricing_fm.markets.streams import build_streams

DYNAMIC = ("waiting_list", "beds", "escalation", "surge_regimes", "follow_up")


def _sample(family, count=3, seed=5, **settings):
    return sample_clinic(ClinicSettings(**settings), family, np.arange(count), seed)


def _solve(family, market_id=0, periods=10, rungs=3):
    market = replace(sample_clinic(ClinicSettings(), family, np.array([market_id]), 5), num_periods=periods)
    return market, solve_dynamic_program(market, build_price_ladder(market, rungs), 21)


def _choose_for_all(program):
    """The program's policy, asked once for each different state."""

    def choose(state):
        parts = [part.reshape(len(state.period), -1) for part in (state.memory, state.supply) if part is not None]
        if state.regime is not None:
            parts.append(state.regime[:, None])
        _, first, of = np.unique(np.concatenate(parts, axis=1), axis=0, return_index=True, return_inverse=True)
        return program.choose(state.select(first))[of.ravel()]

    return choose


def _walk(market, seed=0, periods=20, price=None):
    """States before, observations and truths of a run at random (or given multiples of list) prices."""
    random, rng = build_streams(seed, np.arange(market.shape[0])), np.random.default_rng(seed)
    state = start(market, random)
    for _ in range(periods):
        factor = np.exp(rng.uniform(np.log(0.5), np.log(2.0), market.shape)) if price is None else price
        following, observation, reward, truth = step(market, state, state.list_price * factor, random)
        yield state, observation, reward, truth
        state = following


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
def test_a_clinic_is_the_same_in_any_company_and_so_is_its_path(family):
    alone = sample_clinic(ClinicSettings(num_products=2), family, np.array([7]), 3)
    others = sample_clinic(ClinicSettings(num_products=2), family, np.array([2, 7, 11]), 3)
    chosen = others.select(np.array([1]))
    for name, part in alone.parts.items():
        for field in fields(part):
            np.testing.assert_array_equal(getattr(part, field.name), getattr(chosen.parts[name], field.name))
    for name in ("volume", "list_price", "price_tick"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(chosen, name))
    assert not np.array_equal(others.volume[0], others.volume[1])
    one, many = start(alone, build_streams(1, np.array([7]))), start(others, build_streams(1, np.array([2, 7, 11])))
    for _ in range(15):
        one, seen, reward, _ = step(alone, one, one.list_price * 0.8, build_streams(1, np.array([7])))
        many, seen_too, reward_too, _ = step(others, many, many.list_price * 0.8, build_streams(1, [2, 7, 11]))
        np.testing.assert_array_equal(seen.units[0], seen_too.units[1])
        np.testing.assert_array_equal(reward[0], reward_too[1])


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
def test_without_noise_referrals_are_their_mean(family):
    market = _sample(family, noise="none")
    for _, observation, reward, truth in _walk(market):
        np.testing.assert_array_equal(truth.demand, truth.mean_demand)
        assert np.isfinite(reward).all()
        assert np.all(observation.units >= -1e-12)


@pytest.mark.parametrize("noise", ["referrals", "poisson", "negative_binomial", "zero_inflated"])
def test_simulated_referrals_have_the_stated_mean(noise):
    market = _sample("slots", 1, noise=noise).select(np.zeros(4_000, dtype=int))
    random = build_streams(0, np.zeros(4_000, dtype=int), np.arange(4_000))
    state = start(market, random)
    _, _, _, truth = step(market, state, state.list_price * 0.7, random)
    error = (truth.demand.mean(axis=0) - truth.mean_demand[0]) / (truth.demand.std(axis=0) / np.sqrt(4_000))
    assert np.abs(error).max() < 3.5


def test_referrals_are_binomial_counts_of_their_referrers():
    noise = ReferralNoise(np.zeros((1, 1, 1), bool), referrers=np.array([[[2.0, 4.0, 9.0]]]))
    mean = np.array([[[0.5, 1.5, 6.0]]])
    draws = np.stack([noise.draw(build_streams(0, np.array([m])), np.array([0]), mean)[0, 0] for m in range(3_000)])
    assert draws.max(axis=0).tolist() == [2.0, 4.0, 9.0]
    np.testing.assert_allclose(draws.var(axis=0), (mean * (1 - mean / noise.referrers))[0, 0], rtol=0.1)
    single = noise.select_items((1, 1, 3), (np.array([0]), np.array([0]), np.array([2])))
    counts, chances = single.tabulate(mean[:, :, 2:])
    assert chances.sum() == pytest.approx(1.0)
    assert (counts * chances).sum() == pytest.approx(6.0)
    np.testing.assert_allclose(chances[0], [np.mean(draws[:, 2] == n) for n in range(10)], atol=0.03)


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
def test_nobody_less_urgent_is_served_while_someone_more_urgent_is_refused(family):
    market = _sample(family, 40, num_products=2, load_range=(1.5, 2.0))
    refused, served = 0.0, 0.0
    for state, observation, _, truth in _walk(market):
        returning = state.supply[..., 0] if isinstance(market.supply, WaitingList | WorseningCases) else 0.0
        left = truth.demand + returning - observation.units
        assert left.min() >= 0
        for acuity in (URGENT, SOON):
            short = left[:, :, acuity] > 0
            assert np.all(observation.units[:, :, acuity + 1 :][short] == 0)
            refused += short.sum()
        served += observation.units[:, :, ROUTINE].sum()
    assert refused > 0
    assert served > 0


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
def test_what_a_class_pays_does_not_change_who_is_served(family):
    market = _sample(family, 5)
    wanted = np.tile([2.0, 3.0, 4.0], (5, 1, 1))
    state = start(market, build_streams(0, np.arange(5)))
    units, *_ = market.supply.sell(state.supply, wanted, state.period)
    np.testing.assert_array_equal(units, serve_by_acuity(wanted, get_inventory(market, state)[:, :, :1]))


def test_the_most_urgent_are_served_first_by_the_numbers():
    wanted = np.array([[[2.0, 3.0, 4.0]], [[9.0, 1.0, 1.0]], [[0.0, 1.0, 1.0]]])
    served = serve_by_acuity(wanted, np.full((3, 1, 1), 6.0))
    assert served[:, 0].tolist() == [[2.0, 3.0, 1.0], [6.0, 0.0, 0.0], [0.0, 1.0, 1.0]]


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
@pytest.mark.parametrize("noise", ["referrals", "poisson"])
def test_capacity_is_never_exceeded(family, noise):
    market = _sample(family, 30, noise=noise, num_products=3, load_range=(1.5, 2.0))
    full = 0
    for state, observation, _, _ in _walk(market):
        capacity = observation.inventory[:, :, URGENT]
        units = observation.units.sum(axis=2)
        visits = 0.0
        if isinstance(market.supply, FollowUps):
            visits = np.minimum(state.supply, capacity - observation.units[:, :, URGENT])
        assert np.all(units + visits <= capacity)
        assert np.all(observation.units <= np.maximum(observation.inventory, 0.0))
        full += (units + visits == capacity).sum()
    assert full > 0


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
def test_urgent_referrals_hardly_respond_to_price_and_urgent_prices_stay_low(family):
    market = _sample(family, 50, num_products=2)
    elasticity = market.demand.compute_elasticity(market.list_price)
    assert np.all(elasticity[:, :, URGENT] < 0.1 * elasticity[:, :, ROUTINE])
    assert np.all(elasticity[:, :, SOON] < elasticity[:, :, ROUTINE])
    state = start(market, build_streams(0, np.arange(50)))
    cheap, dear = (compute_mean_demand(market, state, state.list_price * factor) for factor in (0.5, 2.0))
    assert np.all(dear[:, :, URGENT] > 0.85 * cheap[:, :, URGENT])
    assert np.all(dear[:, :, ROUTINE] < 0.5 * cheap[:, :, ROUTINE])
    assert np.all(2.0 * market.list_price[:, :, URGENT] < 0.5 * market.list_price[:, :, ROUTINE])
    # Care of urgent patients is worth more than care of the others, and refusing them harms more.
    benefit = market.payoff.benefit - market.costs.unit_cost
    assert np.all(np.diff(benefit, axis=2) < 0)
    assert np.all(benefit > 0)
    assert np.all(np.diff(market.supply.refusal_harm, axis=2) < 0)


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
def test_sampled_clinics_are_valid(family):
    market = _sample(family, 200, num_products=2)
    assert market.shape == (200, 2, 3)
    for part in market.parts.values():
        for field in fields(part):
            values = getattr(part, field.name)
            assert values is None or np.all(np.isfinite(values)), field.name
    largest = market.volume / market.demand.purchase_share
    assert np.all(largest <= market.noise.referrers + 1e-9)
    assert np.all(market.noise.referrers == np.round(market.noise.referrers))
    if market.regimes is not None:
        np.testing.assert_allclose(market.regimes.transition.sum(axis=-1), 1.0)
        assert market.regimes.transition.min() >= 0


@pytest.mark.parametrize("family", CLINIC_FAMILIES)
def test_the_optimal_policy_earns_its_value_and_beats_fixed_and_myopic_prices(family):
    market, program = _solve(family)
    value = program.value
    assert program.myopic_value <= value * (1 + 1e-9)
    assert program.constant_value <= value * (1 + 1e-9)
    run = simulate_policy(market, _choose_for_all(program), 3_000, seed=11)
    assert abs(run.score(value)) < 3.0
    assert run.standard_error < 0.05 * value


@pytest.mark.parametrize("family", ["no_shows", "surge_regimes", "budget"])
def test_the_values_of_a_clinics_services_add_up(family):
    clinic = replace(sample_clinic(ClinicSettings(num_products=2), family, np.array([3]), 5), num_periods=6)
    services = split_services(clinic)
    assert services.shape == (2, 1, 3)
    np.testing.assert_array_equal(services.list_price[:, 0], clinic.list_price[0])
    values, prices = 0.0, np.empty((2, 3))
    for place in range(2):
        one = services.select(np.array([place]))
        program = solve_dynamic_program(one, build_price_ladder(one, 2), 21)
        values += program.constant_value
        prices[place] = program.ladder[program.constant_values.argmax()][0]
    run = simulate_policy(clinic, lambda state: np.broadcast_to(prices, (len(state.period), 2, 3)), 3_000, seed=2)
    assert abs(run.score(values)) < 3.0


def test_headroom_is_nil_where_days_do_not_touch_and_large_where_beds_stay_taken():
    for family in ("slots", "no_shows"):
        _, program = _solve(family)
        assert program.myopic_value == pytest.approx(program.value, rel=1e-9)
    for family in ("beds", "escalation", "surge_regimes"):
        _, program = _solve(family, periods=28)
        assert 1.0 - program.myopic_value / program.value > 0.02, family
    for family in DYNAMIC:
        _, program = _solve(family, periods=28)
        assert program.value > program.myopic_value + 1e-6, family


def test_expected_service_of_poisson_referrals_has_its_closed_form():
    market = replace(_sample("slots", 1), noise=build_noise("poisson", (1, 1, 1)), num_periods=1)
    prices = market.list_price * np.array([1.0, 0.8, 1.3])
    value = solve_dynamic_program(market, prices).value
    mean = compute_mean_demand(market, start(market, build_streams(0, np.array([0]))), prices)[0, 0]
    slots = int(market.supply.slots.item())
    # The k most urgent classes together are one Poisson stream that all slots serve.
    together = [compute_poisson_limited_mean(total, slots) for total in np.cumsum(mean)]
    served = np.diff(together, prepend=0.0)
    worth = (market.payoff.benefit - market.costs.unit_cost - market.payoff.burden * prices)[0, 0]
    expected = (worth * served - market.supply.refusal_harm[0, 0] * (mean - served)).sum()
    assert value == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("capacity, show, fee, overtime", [(10, 0.8, 50.0, 120.0), (4, 0.65, 30.0, 200.0)])
def test_bookings_beyond_the_overbooking_limit_lose_welfare(capacity, show, fee, overtime):
    most = 3 * capacity
    chance = np.full((1, 1, 1), show)
    payoff = ShowPayoff(
        benefit=np.full((1, 1, 3), fee + 6.0),
        burden=np.full((1, 1, 1), 0.1),
        show=chance,
        capacity=np.full((1, 1, 1), float(capacity)),
        overtime_cost=np.full((1, 1, 1), overtime),
        overtime=tabulate_overtime(chance, most, capacity),
    )
    prices, cost = np.full((1, 1, 3), 60.0), np.zeros((1, 1, 3))
    bookings = np.zeros((most + 1, 1, 3))
    bookings[:, 0, ROUTINE] = np.arange(most + 1)
    rewards = payoff.select(np.zeros(most + 1, dtype=int)).compute_reward(bookings, prices, cost, bookings)
    known = overbooking_limit(capacity, show, fee, overtime)
    assert rewards.sum(axis=(1, 2)).argmax() == known["bookings"]
    assert rewards.sum(axis=(1, 2)).max() == pytest.approx(known["value"])


def test_realised_shows_agree_with_their_expectation():
    market = _sample("no_shows", 1)
    copies = market.select(np.zeros(20_000, dtype=int))
    payoff, random = copies.payoff, build_streams(0, np.zeros(20_000, dtype=int), np.arange(20_000))
    units = np.tile([1.0, 2.0, 4.0], (20_000, 1, 1))
    prices = np.broadcast_to(copies.list_price, units.shape)
    expected = payoff.compute_reward(units, prices, copies.costs.unit_cost, units)
    rewards = payoff.realize(expected, units, prices, random, np.zeros(20_000, dtype=int)).sum(axis=(1, 2))
    error = rewards.mean() - expected[0].sum()
    assert rewards.std() > 0
    assert abs(error) < 3.5 * rewards.std() / np.sqrt(20_000)
    # Fractions of patients, there without noise, lie between their neighbours.
    first = payoff.select(np.array([0]))
    low, middle, high = (
        first.compute_reward(units[:1] + [[[0.0, 0.0, x]]], prices[:1], copies.costs.unit_cost[:1], units[:1])[0].sum()
        for x in (0.0, 0.5, 1.0)
    )
    assert middle == pytest.approx(0.5 * (low + high))


@pytest.mark.parametrize("family", ["beds", "waiting_list", "escalation", "follow_up"])
def test_what_drifts_follows_the_kernel_of_the_dynamic_program(family):
    copies = _sample(family, 1).select(np.zeros(8_000, dtype=int))
    supply = copies.supply
    random = build_streams(3, np.zeros(8_000, dtype=int), np.arange(8_000))
    layer = {"waiting_list": ROUTINE, "escalation": SOON}.get(family, 0)
    state = start(copies, random).supply
    shape = state.shape
    flat = state.reshape(8_000, -1)
    flat[:, layer] = 4.0
    after = supply.drift(flat.reshape(shape), random, np.ones(8_000, dtype=int)).reshape(8_000, -1)[:, layer]
    kernel = supply.select(np.array([0])).build_kernel(layer, np.arange(5.0))
    np.testing.assert_allclose(kernel.sum(axis=1), 1.0)
    np.testing.assert_allclose([np.mean(after == n) for n in range(5)], kernel[4], atol=0.02)


def test_beds_stay_taken_lists_keep_and_cases_return_by_the_numbers():
    def ones(*values):
        return np.array(values, dtype=float).reshape(1, 1, -1)

    period, harm = np.zeros(1, dtype=int), ones(100.0, 10.0, 1.0)
    units, taken, charges = Beds(ones(5), ones(0.5), harm).sell(np.array([[3.0]]), ones(1, 2, 3), period)
    assert (units.ravel().tolist(), taken.tolist()) == ([1.0, 1.0, 0.0], [[5.0]])
    assert charges.ravel().tolist() == [0.0, 10.0, 3.0]

    waiting = WaitingList(ones(2), ones(0, 1, 4), ones(1, 1, 1), ones(0, 0.5, 0.1), harm)
    units, lists, charges = waiting.sell(ones(0, 1, 3)[..., None], ones(1, 2, 2), period)
    assert units.ravel().tolist() == [1.0, 1.0, 0.0]
    assert lists.ravel().tolist() == [0.0, 1.0, 4.0]
    np.testing.assert_allclose(charges.ravel(), [0.0, 0.5 + 10.0, 0.4 + 1.0])
    assert waiting.compute_final_value(lists, (1, 1, 3)).sum() == -14.0

    cases = WorseningCases(ones(2), ones(1, 5, 0), ones(0.3, 0.6, 0), harm)
    units, returning, charges = cases.sell(ones(1, 0, 0)[..., None], ones(0, 3, 2), period)
    assert units.ravel().tolist() == [1.0, 1.0, 0.0]
    assert returning.ravel().tolist() == [1.0, 2.0, 0.0]
    np.testing.assert_allclose(charges.ravel(), [0.3 * 100.0, 20.0, 2.0])

    visits = FollowUps(ones(4), ones(0.5), ones(6), ones(30), harm)
    units, due, charges = visits.sell(np.array([[3.0]]), ones(2, 1, 1), period)
    assert (units.ravel().tolist(), due.tolist()) == ([2.0, 0.0, 0.0], [[2.0]])
    np.testing.assert_allclose(charges.ravel(), [14.0, 24.0, 15.0])


def test_rising_prices_hurt_routine_referrals_more_than_falling_ones_help():
    market = _sample("budget", 4)
    state = start(market, build_streams(0, np.arange(4)))
    still = market.volume * market.demand.respond(state.list_price * 1.25, None)
    risen = compute_mean_demand(market, state, state.list_price * 1.25) / still
    fallen = compute_mean_demand(market, state, state.list_price / 1.25)
    fallen = fallen / (market.volume * market.demand.respond(state.list_price / 1.25, None))
    assert np.all(risen[:, :, ROUTINE] * fallen[:, :, ROUTINE] < 1.0)
    np.testing.assert_allclose(risen[:, :, :ROUTINE], 1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_products": 0},
        {"noise": "gaussian"},
        {"slots_range": (5, 3)},
        {"show_range": (0.0, 0.9)},
        {"urgent_share_range": (0.5, 0.8)},
        {"urgent_elasticity_range": (0.5, 1.0)},
        {"return_range": (0.5, 1.0)},
        {"price_tick": 0.0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ClinicSettings(**settings)


def test_unknown_families_are_refused_and_the_domain_explains_itself():
    with pytest.raises(ValueError, match="surgery"):
        sample_clinic(ClinicSettings(), "surgery", np.array([0]), 0)
    assert len(CLINIC.families) >= 6
    for word in ("State", "Action", "Reward", "Dynamics", "Constraints", "baselines", "allocation prices"):
        assert word in CLINIC.description
    for family in CLINIC.families:
        assert f"`{family}`" in CLINIC.description


def test_overtime_is_tabulated_exactly():
    table = tabulate_overtime(np.full((1, 1, 1), 0.75), 3, 2)[0, 0, 0]
    assert table[0].tolist() == [0.0, 0.0, 0.0]
    assert table[3, 0] == pytest.approx(2.25)
    assert table[3, 2] == pytest.approx(0.75**3)
    assert table[2, 1] == pytest.approx(0.75**2)
