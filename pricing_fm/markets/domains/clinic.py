"""Clinic: services that referring departments and insurers pay for by the slot or bed, day by day."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets.clinic_parts import (
    ACUITIES,
    ROUTINE,
    BudgetMemory,
    ReferralNoise,
    ShowPayoff,
    WelfarePayoff,
    tabulate_overtime,
)
from pricing_fm.markets.clinic_supply import Beds, FollowUps, PrioritySlots, WaitingList, WorseningCases
from pricing_fm.markets.context import Costs, Regimes
from pricing_fm.markets.core import Market
from pricing_fm.markets.demand import OwnPriceDemand
from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.noise import NOISES, Noise, build_noise
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.responses import LOGIT
from pricing_fm.markets.sampling import Draws, check_ranges

CLINIC_FAMILIES = (
    "slots",
    "no_shows",
    "waiting_list",
    "beds",
    "escalation",
    "surge_regimes",
    "follow_up",
    "budget",
)
REFERRALS = "referrals"
_BASE_SALT, _FAMILY_SALT = 51, 52
# What moving from one class to the next (urgent, soon, routine) does, as multiples of the routine list price.
_LIST_PRICE = ((0.1, 0.2), (0.5, 0.8), (1.0, 1.0))
_BENEFIT = ((15.0, 30.0), (4.0, 8.0), (1.5, 3.0))
_REFUSAL_HARM = ((15.0, 40.0), (1.5, 4.0), (0.3, 1.0))
_WAITING_HARM = ((0.0, 0.0), (0.1, 0.4), (0.03, 0.1))
_CARE = (1.5, 1.2, 1.0)  # cost of care of a class over that of a routine patient
_SURGE = ((1.0, 1.8, 3.0), (1.0, 1.4, 2.0), (1.0, 1.0, 0.8))  # factor on referrals by class and epidemic regime
# At most this share of the referrers sends a patient at list prices, even in the worst regime or after a price cut.
_MOST_BUSY = 0.6


@dataclass(frozen=True)
class ClinicSettings:
    """Ranges from which clinics are drawn. Products are services, segments the acuity classes urgent, soon, routine.

    Pairs are (lowest, highest) of a uniform draw unless said otherwise. Services share nothing with each other.

    Attributes:
        num_products: Services of a clinic. One service keeps dynamic programs of its coupled classes small.
        noise: "referrals" = a handful of referrers, each of whom sends at most one patient of a class a day (binomial
            counts), or one of `noise.NOISES`.
        dispersion_range: Variance is mean + mean**2 / dispersion under negative binomial noise (log-uniform).
        zero_share_range: Share of days without referrals under zero-inflated noise.
        slots_range: Slots of a service a day, whole.
        beds_range: Beds of a ward, whole.
        load_range: Mean referrals at list prices over what can be served in the long run.
        urgent_share_range, soon_share_range: Share of these classes in the referrals; the rest is routine.
        urgent_elasticity_range, soon_elasticity_range, routine_elasticity_range: Minus d log referrals / d log price at
            the list price.
        price_range: List price of a routine patient, currency (log-uniform).
        cost_range: Cost of care of a routine patient over its list price.
        burden_range: Loss per unit of currency that moves between budgets.
        show_range: Chance that a booked patient shows up.
        stay_range: Mean length of stay in a bed, days.
        patience_range: Chance a day that who waits stays on the list.
        return_range: Chance that a treated patient needs a visit the day after.
        price_tick: Smallest step between prices, currency.

    Raises:
        ValueError: If a count, share, range or name is out of bounds.
    """

    num_products: int = 1
    noise: str = REFERRALS
    dispersion_range: tuple[float, float] = (3.0, 30.0)
    zero_share_range: tuple[float, float] = (0.05, 0.3)
    slots_range: tuple[int, int] = (3, 5)
    beds_range: tuple[int, int] = (5, 9)
    load_range: tuple[float, float] = (0.95, 1.3)
    urgent_share_range: tuple[float, float] = (0.1, 0.2)
    soon_share_range: tuple[float, float] = (0.2, 0.35)
    urgent_elasticity_range: tuple[float, float] = (0.01, 0.06)
    soon_elasticity_range: tuple[float, float] = (0.2, 0.5)
    routine_elasticity_range: tuple[float, float] = (1.2, 2.5)
    price_range: tuple[float, float] = (40.0, 120.0)
    cost_range: tuple[float, float] = (0.4, 0.9)
    burden_range: tuple[float, float] = (0.02, 0.1)
    show_range: tuple[float, float] = (0.7, 0.95)
    stay_range: tuple[float, float] = (2.0, 6.0)
    patience_range: tuple[float, float] = (0.8, 0.97)
    return_range: tuple[float, float] = (0.2, 0.6)
    price_tick: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.num_products < 1:
            raise ValueError(f"num_products is {self.num_products}; it must be 1 or more")
        if self.noise not in (REFERRALS, *NOISES):
            raise ValueError(f"noise is {self.noise!r}; known: {(REFERRALS, *NOISES)}")
        for name in ("zero_share_range", "patience_range", "return_range", "burden_range"):
            if not 0.0 <= getattr(self, name)[0] <= getattr(self, name)[1] < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        if not 0.0 < self.show_range[0] <= self.show_range[1] <= 1.0:
            raise ValueError(f"show_range is {self.show_range}; it must lie in (0, 1]")
        if self.urgent_share_range[0] <= 0.0 or self.soon_share_range[0] <= 0.0:
            raise ValueError("urgent_share_range and soon_share_range must be positive")
        if self.urgent_share_range[1] + self.soon_share_range[1] >= 1.0:
            raise ValueError("urgent_share_range and soon_share_range leave no routine patients; lower their ends")
        if self.urgent_elasticity_range[1] * 4.0 > self.routine_elasticity_range[0]:
            raise ValueError(
                f"urgent_elasticity_range is {self.urgent_elasticity_range}; urgent demand hardly responds to price: at"
                f" most {self.routine_elasticity_range[0] / 4.0}, a quarter of the lowest routine elasticity"
            )
        for name in ("slots_range", "beds_range", "stay_range"):
            if getattr(self, name)[0] < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("load_range", "urgent_elasticity_range", "soon_elasticity_range", "price_range", "cost_range"):
            if not getattr(self, name)[0] > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not (self.price_tick > 0 and self.dispersion_range[0] > 0):
            raise ValueError(
                f"price_tick is {self.price_tick}, dispersion_range {self.dispersion_range}; both positive"
            )


def sample_clinic(settings: ClinicSettings, family: str, market_ids: np.ndarray, seed: int) -> Market:
    """Draw the truth of some clinics; market m is the same whatever other markets are drawn.

    Args:
        settings: Ranges.
        family: One of `CLINIC_FAMILIES`.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        The markets, in the order of `market_ids`.

    Raises:
        ValueError: If the family is unknown, or a market id or the seed is negative.
    """
    if family not in CLINIC_FAMILIES:
        raise ValueError(f"family is {family!r}; known clinic families: {CLINIC_FAMILIES}")
    ids = np.asarray(market_ids, dtype=np.int64)
    base = Draws(seed, ids, _BASE_SALT, (settings.num_products, 1))
    draws = Draws(seed, ids, _FAMILY_SALT, (settings.num_products, 1))
    price = base.log_between(settings.price_range)
    market = _sample_base(settings, family, base, price)
    harm = price * _draw_classes(base, _REFUSAL_HARM)
    if family in ("beds", "surge_regimes"):
        return _sample_beds(settings, market, draws, harm)
    slots = _draw_whole(base, settings.slots_range)
    if family == "no_shows":
        return _sample_no_shows(settings, market, draws, slots, harm)
    if family == "waiting_list":
        room = np.concatenate([0.0 * slots, _draw_whole(draws, (3, 5)), _draw_whole(draws, (6, 9))], axis=2)
        stay = draws.between(settings.patience_range, (settings.num_products, len(ACUITIES)))
        waiting = price * _draw_classes(draws, _WAITING_HARM)
        market = _scale_to(settings, market, slots, 1.0)
        return replace(market, supply=WaitingList(slots, room, stay, waiting, harm), ends=True)
    if family == "escalation":
        room = np.concatenate([_draw_whole(draws, (3, 4)), _draw_whole(draws, (5, 7)), 0.0 * slots], axis=2)
        worsening = np.concatenate([draws.between((0.2, 0.5)), draws.between((0.3, 0.6)), 0.0 * slots], axis=2)
        market = _scale_to(settings, market, slots, 1.0)
        return replace(market, supply=WorseningCases(slots, room, worsening, harm), ends=True)
    if family == "follow_up":
        chance = draws.between(settings.return_range)
        visit_cost, missed = 0.5 * market.costs.unit_cost[:, :, ROUTINE:], price * draws.between((1.0, 4.0))
        market = _scale_to(settings, market, slots / (1.0 + chance), 1.0)
        return replace(market, supply=FollowUps(slots, chance, visit_cost, missed, harm), ends=True)
    return _sample_slots(settings, market, draws, slots, harm)


def _sample_base(settings: ClinicSettings, family: str, draws: Draws, price: np.ndarray) -> Market:
    """Everything but supply; volumes are shares of the classes that `_scale_to` scales to the capacity."""
    tick = np.full((len(price), 1, 1), settings.price_tick)
    list_price = np.maximum(round_to_tick(price * _draw_classes(draws, _LIST_PRICE), tick), tick)
    urgent, soon = draws.between(settings.urgent_share_range), draws.between(settings.soon_share_range)
    load = draws.between(settings.load_range)
    elasticity = [
        draws.between(bounds)
        for bounds in (
            settings.urgent_elasticity_range,
            settings.soon_elasticity_range,
            settings.routine_elasticity_range,
        )
    ]
    share = np.full(list_price.shape, _MOST_BUSY)
    benefit = price * _draw_classes(draws, _BENEFIT)
    cost = price * draws.between(settings.cost_range) * np.array(_CARE)
    noise = _sample_noise(settings, draws)
    burden = draws.between(settings.burden_range, (1, 1))
    return Market(
        domain="clinic",
        family=family,
        volume=load * np.concatenate([urgent, soon, 1.0 - urgent - soon], axis=2),
        demand=OwnPriceDemand(
            np.full((len(price), 1, 1), LOGIT), np.concatenate(elasticity, axis=2), list_price.copy(), share
        ),
        noise=noise,
        list_price=list_price,
        price_bounds=(0.5, 2.0),
        price_tick=tick,
        num_periods=28,
        costs=Costs(cost),
        payoff=WelfarePayoff(benefit, burden),
    )


def _sample_noise(settings: ClinicSettings, draws: Draws) -> Noise:
    """Noise by name; few referrers need the volumes and come with `_scale_to`."""
    dispersion = draws.log_between(settings.dispersion_range)
    zero_share = draws.between(settings.zero_share_range)
    if settings.noise == "negative_binomial":
        return build_noise(settings.noise, (len(dispersion), 1, 1), dispersion=dispersion)
    if settings.noise == "zero_inflated":
        return build_noise(settings.noise, (len(dispersion), 1, 1), zero_share=zero_share)
    name = "poisson" if settings.noise == REFERRALS else settings.noise
    return build_noise(name, (len(dispersion), 1, 1))


def _scale_to(settings: ClinicSettings, market: Market, capacity: np.ndarray, most: np.ndarray | float) -> Market:
    """Volumes for a capacity, and referrers enough for `most` times the volume at list prices.

    The logit response of referrers ends at all of them, so no price makes a mean exceed their number.
    """
    demand = market.demand
    assert isinstance(demand, OwnPriceDemand)
    volume = market.volume * capacity
    largest = volume * most
    referrers = np.ceil(largest / _MOST_BUSY)
    market = replace(market, volume=volume, demand=replace(demand, purchase_share=largest / referrers))
    if settings.noise != REFERRALS:
        return market
    return replace(market, noise=ReferralNoise(market.noise.silent, referrers=referrers))


def _sample_slots(
    settings: ClinicSettings, market: Market, draws: Draws, slots: np.ndarray, harm: np.ndarray
) -> Market:
    """Slots of a day; with budgets whose holders remember prices in the family of that name."""
    if market.family == "slots":
        return replace(_scale_to(settings, market, slots, 1.0), supply=PrioritySlots(slots, harm))
    nobody = np.zeros_like(market.volume[:, :, :ROUTINE])
    gain = draws.between((0.3, 0.8))
    loss = gain * draws.between((1.5, 3.0))
    low, high = market.price_bounds
    # A fall from the highest to the lowest price brings the largest mean.
    most = np.concatenate([nobody + 1.0, (high / low) ** gain], axis=2)
    market = _scale_to(settings, market, slots, most)
    persistence = np.broadcast_to(draws.between((0.6, 0.9)), market.shape).copy()
    gains, losses = (np.concatenate([nobody, effect], axis=2) for effect in (gain, loss))
    return replace(market, memory=BudgetMemory(gains, losses, persistence), supply=PrioritySlots(slots, harm))


def _sample_no_shows(
    settings: ClinicSettings, market: Market, draws: Draws, slots: np.ndarray, harm: np.ndarray
) -> Market:
    """Bookings above the slots, because some of the booked do not come; too many shows mean overtime."""
    payoff = market.payoff
    assert isinstance(payoff, WelfarePayoff)
    show = draws.between(settings.show_range, (1, 1))
    limit = np.ceil(slots / show * draws.between((1.0, 1.3)))
    # The table's size rests on the settings alone, so that a market is the same whatever is drawn beside it.
    most = int(np.ceil(1.3 * settings.slots_range[1] / settings.show_range[0])) + 1
    table = tabulate_overtime(show, most, settings.slots_range[1])
    overtime_cost = market.list_price[:, :, ROUTINE:] * draws.between((4.0, 8.0))
    shows = ShowPayoff(payoff.benefit, payoff.burden, show, slots, overtime_cost, table)
    market = _scale_to(settings, market, slots / show, 1.0)
    return replace(market, supply=PrioritySlots(limit, harm), payoff=shows)


def _sample_beds(settings: ClinicSettings, market: Market, draws: Draws, harm: np.ndarray) -> Market:
    """A ward whose beds stay taken; with waves of an epidemic in the family of that name."""
    beds = _draw_whole(draws, settings.beds_range)
    length = draws.between(settings.stay_range)
    supply = Beds(beds, 1.0 - 1.0 / length, harm)
    if market.family == "beds":
        return replace(_scale_to(settings, market, beds / length, 1.0), supply=supply)
    factor = np.array(_SURGE)
    count = len(beds)
    rise, recede = draws.between((0.05, 0.12), (1, 1)), draws.between((0.1, 0.25), (1, 1))
    transition = np.zeros((count, 1, 1, 3, 3))
    transition[..., 0, 1], transition[..., 1, 2] = rise, 2.0 * rise
    transition[..., 1, 0], transition[..., 2, 1] = recede, recede
    for regime in range(3):
        transition[..., regime, regime] = 1.0 - transition[..., regime, :].sum(axis=-1)
    volumes = np.broadcast_to(factor, (count, 1, *factor.shape)).copy()
    regimes = Regimes(transition, volumes, np.ones((count, 1, 1, 3)))
    # Calm days leave room: waves bring a multiple of their referrals.
    market = _scale_to(settings, market, 0.8 * beds / length, factor.max(axis=1))
    return replace(market, supply=supply, regimes=regimes)


def _draw_classes(draws: Draws, ranges: tuple[tuple[float, float], ...]) -> np.ndarray:
    """One uniform number per service and class, each class in a range of its own."""
    return np.concatenate([draws.between(bounds) for bounds in ranges], axis=2)


def _draw_whole(draws: Draws, bounds: tuple[int, int]) -> np.ndarray:
    """Whole numbers, each between the bounds (inclusive) with the same chance."""
    return bounds[0] + np.floor((bounds[1] - bounds[0] + 1) * draws.uniform())


CLINIC = Domain(
    name="clinic",
    families=CLINIC_FAMILIES,
    settings=ClinicSettings,
    sample=sample_clinic,
    frequency="D",
    unit="a patient taken",
    description="""\
* Prices are allocation prices: what a referring department or insurer pays from its budget for a slot or bed. They are
  never charges to patients, and they never decide who is served first.
* State: beds taken, patients waiting, cases that return worse, visits due, remembered prices, the epidemic's regime;
  which of them is there depends on the family.
* Action: a price per service and acuity class (urgent, soon, routine), 0.5 to 2 times the list price. The urgent list
  price is so low that the highest urgent price stays below the lowest routine one.
* Reward: welfare, currency a day: (benefit of care - cost of care - burden x price) x patients served, minus harm by
  refusal and waiting, minus overtime. A price moves money between budgets: no gain; `burden` is what moving it costs.
* Dynamics: referrals fall with price, those of urgent patients hardly at all; capacity goes to urgent, then soon, then
  routine patients. Unused slots perish; beds stay taken by chance; the refused go elsewhere, wait, or return worse.
* Constraints: patients served never exceed slots, free beds or the booking limit; the price bounds above.
* Families: `slots` (a day at a time), `no_shows` (bookings above capacity, overtime), `waiting_list`, `beds`,
  `escalation` (untreated cases get more urgent), `surge_regimes` (beds in epidemic waves), `follow_up` (the treated
  return), `budget` (routine referrers remember prices and are averse to rises).
* Standard baselines: list prices, best constant price, myopic optimum (this day's welfare alone).
""",
)
