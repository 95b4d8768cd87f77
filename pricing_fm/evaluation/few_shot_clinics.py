"""Ceiling of what k weeks can teach in clinics, whose acuity classes compete for the same slots: exact, on particles.

Told are, as in `few_shot_particles.py`, all but how referrals answer to prices: referrers, what they send at list
prices, slots, benefit, cost and harm. To be learned is the elasticity of every service and class. Whoever is served
leaves fewer slots to the next class, so what is logged of a class is a count cut off by the slots that were left, and
its likelihood is its own. Prices of a service's classes are chosen together, among all triples of the grid, by the
welfare that binomial referrals bring on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from pricing_fm import names
from pricing_fm.evaluation.few_shot_markets import LISTED, DecisionTruth, grid_prices
from pricing_fm.evaluation.few_shot_particles import InformedPrices, draw_answers, draw_fresh, find_gaps
from pricing_fm.markets import SimulatedLog
from pricing_fm.markets.clinic_parts import ReferralNoise, WelfarePayoff
from pricing_fm.markets.clinic_supply import PrioritySlots
from pricing_fm.markets.core import Market, get_unit_cost
from pricing_fm.markets.demand import OwnPriceDemand
from pricing_fm.markets.domains import ClinicSettings
from pricing_fm.markets.responses import compute_log_response

ELASTICITIES = 512  # of every class
_LEAST = 1e-300


def informed_in_clinics(
    truth: DecisionTruth,
    periods: Sequence[int],
    settings: ClinicSettings,
    seed: int = 0,
    particles: int = ELASTICITIES,
    draws: int = 100,
) -> InformedPrices:
    """Prices with the highest posterior expected share of the gap closed, held over the decision.

    Args:
        truth (`DecisionTruth`): Clinics of the family `slots`.
        periods (`Sequence[int]`): k: the last days of the logs whose counts are seen; 0 = the prior.
        settings (`ClinicSettings`): Ranges that the markets were drawn from.
        seed (`int`): Of the draws.
        particles (`int`): Elasticities of every class.
        draws (`int`): Of a clinic's posterior.

    Returns:
        `InformedPrices`: Effective sample sizes are those of a class of a service.

    Raises:
        ValueError: If clinics are of another family, or more days are asked for than logged.
    """
    for log in truth.logs:
        _parts_of(log.parameters)
        if max(periods) > log.settings.num_periods:
            raise ValueError(f"{max(periods)} days are asked for and {log.settings.num_periods} logged")
    place = {item: number for number, item in enumerate(truth.item_ids)}
    candidates = grid_prices(truth)
    prices, effective = ({k: np.empty(len(place)) for k in periods} for _ in range(2))
    fresh = draw_fresh(settings, truth.logs[0].parameters, particles).demand
    assert isinstance(fresh, OwnPriceDemand)
    elasticities, chances = fresh.elasticity[:, 0], np.full((1, particles), 1.0 / particles)  # (particles, classes)
    for log in truth.logs:
        shape = log.parameters.shape
        rows = np.array([place[item] for item in log.items[names.ITEM_ID]]).reshape(shape)
        fits = {k: _log_likelihoods(log, k, elasticities) for k in periods}
        for category in range(shape[0]):
            tried = candidates[rows[category]]  # (services, classes, P)
            for k in periods:
                drawn = np.empty((draws, *shape[1:]), dtype=np.int64)
                generator = np.random.default_rng((seed, log.settings.seed, category, k))
                for service, group in np.ndindex(*shape[1:]):
                    one = fits[k][category, service, group].reshape(1, 1, -1)
                    picked, found = draw_answers(one, chances, generator, draws)
                    drawn[:, service, group], effective[k][rows[category, service, group]] = picked[:, 0], found[0]
                answers = elasticities[drawn, np.arange(shape[2])]
                prices[k][rows[category]] = _choose_together(log, category, answers, tried)
    return InformedPrices(prices, effective)


def expected_welfare(log: SimulatedLog, category: int, elasticities: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Expected welfare a day of a service at every triple of prices.

    Args:
        log (`SimulatedLog`): Clinics.
        category (`int`): Place of the clinic among them.
        elasticities (`np.ndarray`, shape `(draws, services, classes)`): How referrals answer.
        candidates (`np.ndarray`, shape `(services, classes, P)`): Prices of each class, currency.

    Returns:
        `(draws, services, P, P, P)`: Currency; urgent, soon, routine.
    """
    clinic, shape = _parts_of(log.parameters), log.parameters.shape
    draws, points = len(elasticities), candidates.shape[-1]
    cost = get_unit_cost(log.parameters, log.state)[category]
    benefit, burden = (np.broadcast_to(one, shape)[category] for one in (clinic.payoff.benefit, clinic.payoff.burden))
    found = np.empty((draws, shape[1], points, points, points))
    for service in range(shape[1]):
        slots = int(clinic.supply.slots[category, service, 0])
        left = np.zeros((draws, slots + 1))
        left[:, slots] = 1.0  # chance of every number of slots that are left, (draws, prices so far, slots + 1)
        total = np.zeros(draws)
        for group in range(shape[2]):
            place, price = (category, service, group), candidates[service, group]
            mean, chance = _referrals(log.parameters, clinic, place, elasticities[:, service, group], price)
            counts = np.arange(chance.shape[-1])
            served = np.minimum(counts, np.arange(slots + 1)[:, None])  # (slots + 1, counts)
            gain = benefit[service, group] - cost[service, group] - burden[service, group] * price
            harm = clinic.supply.refusal_harm[place]
            reward = (gain + harm)[:, None] * (chance @ served.T) - harm * mean[..., None]
            total = total[..., None] + np.einsum("d...l,dpl->d...p", left, reward)
            if group < shape[2] - 1:
                left = np.einsum("d...l,dplm->d...pm", left, _use_up(chance, served))
        found[:, service] = total
    return found


@dataclass(frozen=True)
class _Parts:
    demand: OwnPriceDemand
    supply: PrioritySlots
    noise: ReferralNoise
    payoff: WelfarePayoff


def _parts_of(market: Market) -> _Parts:
    demand, supply, noise, payoff = market.demand, market.supply, market.noise, market.payoff
    known = isinstance(supply, PrioritySlots) and isinstance(noise, ReferralNoise) and market.memory is None
    if not known or type(payoff) is not WelfarePayoff or not isinstance(demand, OwnPriceDemand):
        raise ValueError(f"{market.domain}/{market.family} is not clinic/slots, the one family that is tabulated here")
    assert isinstance(supply, PrioritySlots)
    assert isinstance(noise, ReferralNoise)
    return _Parts(demand, supply, noise, payoff)


def _referrals(
    market: Market, clinic: _Parts, place: tuple[int, int, int], elasticities: np.ndarray, prices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean `(draws, P)` and chance of every count `(draws, P, counts)` of a class."""
    ratio = prices / clinic.demand.reference_price[place]
    family = np.broadcast_to(clinic.demand.family[place[0], 0, 0], ratio.shape)
    share = clinic.demand.purchase_share[place]
    mean = market.volume[place] * np.exp(compute_log_response(family, elasticities[:, None], share, ratio))
    counts = np.arange(int(clinic.noise.referrers[place]) + 1)
    return mean, binom.pmf(counts, counts[-1], (mean / counts[-1])[..., None])


def _use_up(chance: np.ndarray, served: np.ndarray) -> np.ndarray:
    """Chance of the slots left after a class `(draws, P, slots + 1, slots + 1)`, given those before it."""
    slots = len(served)
    after = np.zeros((*chance.shape[:2], slots, slots))
    for before, count in np.ndindex(*served.shape):
        after[:, :, before, before - served[before, count]] += chance[..., count]
    return after


def _choose_together(log: SimulatedLog, category: int, answers: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Best prices of every service and class `(services, classes)`, in expected shares of the clinic's gap."""
    welfare = expected_welfare(log, category, answers, candidates)
    flat = welfare.reshape(*welfare.shape[:2], -1)
    gap = find_gaps(welfare[:, :, LISTED, LISTED, LISTED].sum(axis=1), flat.max(axis=-1).sum(axis=1))
    best = np.einsum("dsn,d->sn", flat, 1.0 / gap).argmax(axis=-1)
    chosen = np.stack(np.unravel_index(best, welfare.shape[2:]), axis=-1)
    return np.asarray(np.take_along_axis(candidates, chosen[..., None], axis=-1)[..., 0])


def _log_likelihoods(log: SimulatedLog, k: int, elasticities: np.ndarray) -> np.ndarray:
    """Of the last k days' counts, `(clinics, services, classes, particles)`."""
    market, arrays = log.parameters, log.arrays
    clinic = _parts_of(market)
    demand, noise = clinic.demand, clinic.noise
    if k == 0:
        return np.zeros((*market.shape, len(elasticities)))
    units, price = arrays.units[-k:, ..., None], arrays.price[-k:, ..., None]
    left = clinic.supply.slots[..., None] - (np.cumsum(units, axis=3) - units)
    family, share = demand.family[..., None], demand.purchase_share[..., None]
    response = compute_log_response(family, elasticities.T, share, price / demand.reference_price[..., None])
    referrers = noise.referrers[..., None]
    chance = np.minimum(market.volume[..., None] * np.exp(response) / referrers, 1.0)
    law = binom(referrers, chance)
    # Whoever took the last slot that was left may have been one of more.
    found = np.where(units >= left, law.logsf(units - 1), law.logpmf(units))
    return np.asarray(np.maximum(found, np.log(_LEAST)).sum(axis=0))
