"""Ceilings on particles: the simulator's own recursion, Bayes' rule, and prices that get better with what is seen."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from pricing_fm.evaluation.few_shot_clinics import expected_welfare, informed_in_clinics
from pricing_fm.evaluation.few_shot_domains import SHAPES
from pricing_fm.evaluation.few_shot_markets import (
    DecisionTruth,
    FewShotMarketArguments,
    find_truth,
    grid_prices,
    simulate_categories,
)
from pricing_fm.evaluation.few_shot_particles import (
    choose_prices,
    draw_answers,
    draw_fresh,
    find_gaps,
    imagine_items,
    informed_by_particles,
    weigh,
)
from pricing_fm.evaluation.few_shot_rivals import held_prices
from pricing_fm.markets import SimulatedLog
from pricing_fm.markets.clinic_parts import ReferralNoise
from pricing_fm.markets.core import Market
from pricing_fm.markets.demand import OwnPriceDemand, PurchaseProbability
from pricing_fm.markets.domains import ClinicSettings, LoansSettings, RetailSettings

SEED = 950_000


def draw(domain: str, family: str, periods: int, random_periods: int = 0) -> list[SimulatedLog]:
    arguments = FewShotMarketArguments(domain=domain, family=family)
    return simulate_categories(arguments, len(SHAPES[domain]), SEED, periods, random_periods)


def ranges(domain: str, family: str) -> object:
    return FewShotMarketArguments(domain=domain, family=family).kind.build_settings((1, 1), 0.7, 0.25)


def own_items(market: Market) -> Market:
    """The items of the first category as markets of one item each."""
    product, segment = (one.ravel() for one in np.indices(market.shape[1:]))
    return market.select_items((np.zeros(len(product), dtype=int), product, segment))


@pytest.mark.parametrize("family", ["stockpiling", "waiting", "repeated_seasons", "reference_price"])
def test_an_items_own_customers_remember_after_the_log_what_the_simulators_do(family: str) -> None:
    log = draw("retail", family, 30)[0]
    own = own_items(log.parameters)
    imagined = imagine_items(log, 0, own, RetailSettings())
    items, families, count = imagined.size
    codes = own.demand.family.ravel() if isinstance(own.demand, OwnPriceDemand) else np.zeros(items)
    family_of = np.searchsorted(np.unique(codes), codes)
    true = (np.arange(items) * families + family_of) * count + np.arange(items)
    np.testing.assert_allclose(imagined.market.volume[true].ravel(), own.volume.ravel())
    _, memory = weigh(log, 0, imagined, (4,))
    assert memory is not None
    np.testing.assert_allclose(memory[true].reshape(log.state.memory[0].shape), log.state.memory[0])
    assert not np.allclose(memory[true], np.roll(memory, 1, axis=0)[true])  # others remember something else


def test_imagined_customers_buy_as_much_at_list_prices_and_answer_as_fresh_ones_do() -> None:
    log = draw("loans", "lender", 10)[0]
    fresh = draw_fresh(LoansSettings(), log.parameters, 50)
    imagined = imagine_items(log, 0, fresh, LoansSettings())
    market, own = imagined.market, own_items(log.parameters)
    sold = (market.volume * market.demand.respond(market.list_price, None)).reshape(len(own.volume), -1)
    told = (own.volume * own.demand.respond(own.list_price, None)).ravel()
    np.testing.assert_allclose(sold, np.repeat(told[:, None], 50, axis=1))
    assert isinstance(fresh.demand, PurchaseProbability)
    for share in (0.8, 1.2):
        there = fresh.demand.respond(share * fresh.list_price, None).ravel()
        here = market.demand.respond(share * market.list_price, None).reshape(len(own.volume), -1)
        np.testing.assert_allclose(here, np.tile(there, (len(here), 1)))
    low, high = LoansSettings.applicants_range
    volume = market.volume.ravel()
    assert imagined.possible.tolist() == ((volume >= low) & (volume <= high)).tolist()
    assert imagined.possible.any()
    assert not imagined.possible.all()


def test_draws_follow_the_joint_posterior_of_items_that_share_a_family_and_a_mean() -> None:
    random = np.random.default_rng(0)
    fits, chances = random.normal(0.0, 1.5, (2, 2, 3)), random.dirichlet(np.ones(3), 2)
    joint = np.zeros((2, 3, 2, 3))  # family and place of either item; the family is one
    for family in range(2):
        for mean in range(2):
            one, other = (np.exp(fits[item, family]) * chances[mean] for item in range(2))
            joint[family, :, family, :] += one[:, None] * other[None]
    joint = (joint / joint.sum()).reshape(6, 6)
    drawn, effective = draw_answers(fits, chances, random, 40_000)
    counted = np.bincount(6 * drawn[:, 0] + drawn[:, 1], minlength=36).reshape(6, 6) / len(drawn)
    np.testing.assert_allclose(counted, joint, atol=0.01)
    np.testing.assert_allclose(effective, [1.0 / (joint.sum(1 - item) ** 2).sum() for item in range(2)])
    _, flat = draw_answers(np.zeros((1, 2, 3)), np.full((1, 3), 1.0 / 3.0), random)
    assert flat.item() == pytest.approx(6.0)
    sure = np.zeros((1, 2, 3))
    sure[0, 1, 2] = 100.0
    assert draw_answers(sure, chances, random)[1].item() == pytest.approx(1.0)


def test_the_price_is_the_one_that_loses_least_of_the_gap_on_average() -> None:
    values = np.zeros((2, 1, 31))
    values[0, 0], values[1, 0] = 10.0, 100.0
    values[0, 0, 20], values[1, 0, 5] = 20.0, 130.0  # +100 % and +30 %: either is the whole gap of its draw
    values[0, 0, 5], values[1, 0, 20] = 12.0, 124.0
    assert choose_prices(values, np.arange(31.0)[None]).item() == 20.0
    assert find_gaps(np.array([100.0, 99.0]), np.array([120.0, 100.0])).tolist() == [20.0, np.inf]


@pytest.mark.parametrize(
    ("domain", "family"),
    [("retail", "stockpiling"), ("retail", "rival"), ("loans", "lender"), ("ride_hailing", "spot")],
)
def test_the_ceiling_climbs_from_the_prior_to_who_knows_the_demand(domain: str, family: str) -> None:
    log = draw(domain, family, 20, 150)[-1]
    truth, settings = find_truth([log], 8), ranges(domain, family)
    found = informed_by_particles(truth, (0, 150), settings, particles=6_000)
    best = np.nanmean(truth.gap_closed(held_prices(truth)))
    prior, informed = (np.nanmean(truth.gap_closed(found.prices[k])) for k in (0, 150))
    assert prior < informed < best + 1e-6
    assert best - informed < 0.5 * (best - prior)
    assert (found.effective[150] < found.effective[0]).all()


def test_without_weeks_nothing_of_the_counts_is_seen_and_with_some_only_the_last() -> None:
    log = draw("retail", "waiting", 12)[0]
    truth = find_truth([log], 8)
    settings = RetailSettings()
    known = informed_by_particles(truth, (0, 4), settings, particles=500).prices
    for first, last, changes in ((0, 8, False), (8, 12, True)):
        units = log.arrays.units.copy()
        units[first:last] = 5.0 * units[first:last] + 20.0
        other = replace(truth, logs=(replace(log, arrays=replace(log.arrays, units=units)),))
        found = informed_by_particles(other, (0, 4), settings, particles=500).prices
        np.testing.assert_array_equal(found[0], known[0])
        assert (not np.array_equal(found[4], known[4])) == changes


def test_drivers_serve_no_more_than_they_are() -> None:
    log = draw("ride_hailing", "spot", 12)[0]
    truth = find_truth([log], 8)
    free = replace(log, parameters=replace(log.parameters, supply=None))
    few, many = (
        informed_by_particles(replace(truth, logs=(one,)), (0,), ranges("ride_hailing", "spot"), particles=500).prices[
            0
        ]
        for one in (log, free)
    )
    assert (few >= many).all()
    assert (few > many).any()


def test_markets_that_particles_do_not_know_are_refused() -> None:
    shop = find_truth(draw("retail", "shop", 10)[:1], 8)
    with pytest.raises(ValueError, match="supply whose state moves"):
        informed_by_particles(shop, (4,), RetailSettings(), particles=10)
    rivals = find_truth(draw("retail", "rival", 10)[:1], 8)
    with pytest.raises(ValueError, match="30 periods are asked for and 10 logged"):
        informed_by_particles(rivals, (30,), RetailSettings(), particles=10)
    with pytest.raises(ValueError, match="is not clinic/slots"):
        informed_in_clinics(rivals, (4,), ClinicSettings())


@pytest.fixture(scope="module")
def clinics() -> DecisionTruth:
    return find_truth(draw("clinic", "slots", 30)[:1], 8)


def test_expected_welfare_is_the_sum_over_all_referrals_that_can_come(clinics: DecisionTruth) -> None:
    log = clinics.logs[0]
    market, demand = log.parameters, log.parameters.demand
    assert isinstance(market.noise, ReferralNoise)
    assert isinstance(demand, OwnPriceDemand)
    candidates = np.array(log.state.list_price)[0, ..., None] * np.array([0.8, 1.0, 1.25])
    found = expected_welfare(log, 0, demand.elasticity[:1], candidates)[0]
    one = market.select(np.array([0]))
    assert one.supply is not None
    for service, places in ((0, (0, 1, 2)), (2, (2, 0, 1))):
        prices = np.array(log.state.list_price)[:1].copy()
        prices[0, service] = [candidates[service, group, place] for group, place in enumerate(places)]
        mean = (one.volume * one.demand.respond(prices, None))[0, service]
        referrers = market.noise.referrers[0, service].astype(int)
        total = 0.0
        for counts in np.ndindex(*(referrers + 1)):
            wanted = np.zeros(one.shape)
            wanted[0, service] = counts
            units, _, charges = one.supply.sell(one.supply.start(one.shape, one.volume), wanted, np.zeros(1))
            reward = one.payoff.compute_reward(units, prices, one.costs.unit_cost, units)
            total += binom.pmf(counts, referrers, mean / referrers).prod() * (reward - charges)[0, service].sum()
        assert found[(service, *places)] == pytest.approx(total)


def test_in_clinics_the_prior_knows_nearly_all_and_counts_sharpen_it() -> None:
    truth = find_truth(draw("clinic", "slots", 20, 200)[:1], 8)
    found = informed_in_clinics(truth, (0, 200), ClinicSettings(), particles=128, draws=30)
    listed = np.nanmean(truth.gap_closed(truth.list_prices))
    for chosen in found.prices.values():
        assert (np.abs(grid_prices(truth) - chosen[:, None]).min(axis=1) < 1e-9).all()
        assert np.nanmean(truth.gap_closed(chosen)) > max(listed + 0.3, 0.9)
    routine = np.arange(2, len(truth.item_ids), 3)
    assert (found.effective[200][routine] < 0.8 * found.effective[0][routine]).all()
    (log,) = truth.logs
    nobody = replace(log, arrays=replace(log.arrays, units=np.zeros_like(log.arrays.units)))
    other = informed_in_clinics(replace(truth, logs=(nobody,)), (0, 200), ClinicSettings(), particles=128, draws=30)
    np.testing.assert_array_equal(other.prices[0], found.prices[0])
    assert not np.array_equal(other.prices[200], found.prices[200])
