"""Fares: seats of flights sold over a booking window that ends at departure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets.capacity import CancellableSeats, CapacityLegs, OverbookedSeats
from pricing_fm.markets.context import Calendar, Costs
from pricing_fm.markets.core import Market
from pricing_fm.markets.crowds import LateBookers
from pricing_fm.markets.demand import LogitDemand, OwnPriceDemand, PurchaseProbability
from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.memory import StrategicWaiting
from pricing_fm.markets.noise import NOISES, Noise
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.responses import EXPONENTIAL
from pricing_fm.markets.rivals import CYCLE, MATCHER, Rivals
from pricing_fm.markets.sampling import Draws, check_ranges
from pricing_fm.markets.supply import PerishableStock

FARES_FAMILIES = (
    "single_leg",
    "business_late",
    "choice",
    "network",
    "waiting",
    "overbooking",
    "rival_airline",
    "cancellations",
)

# What all families share and what a family adds draw from streams of their own.
_FLIGHT_SALT, _FAMILY_SALT = 11, 12


@dataclass(frozen=True)
class FaresSettings:
    """Ranges from which markets of flights are drawn. A market's products are flights, fare products or itineraries.

    Pairs are (lowest, highest) of a uniform draw unless said otherwise.

    Attributes:
        num_products: Flights (each with seats of its own), in "choice" fare products of one leg, in "network"
            itineraries.
        num_segments: Customer groups with a fare of their own.
        num_periods: Periods of the booking window.
        noises: Noise of the counts; every market draws one.
        dispersion_range: Variance is mean + mean**2 / dispersion (log-uniform draw).
        seats_range: Seats of a flight (log-uniform draw).
        small_seats_range: Seats of the small aircraft, or last seats, of "choice", "waiting" and "rival_airline".
        leg_seats_range: Seats of a leg in "network".
        load_range: Demand at list price over the whole window, as a multiple of the seats.
        elasticity_range: Elasticity at the list price.
        business_elasticity_range: The same of business travellers in "business_late".
        cost_share_range: Cost of a passenger (meal, fees) over list price.
        median_price: Median list price, currency.
        price_deviation: Standard deviation of log price.
        price_tick: Smallest coin, currency.
        show_probability_range: Chance that a booking shows up, "overbooking".
        denied_charge_range: Cost of a denied boarding as a multiple of the list price, "overbooking".
        cancel_probability_range: Chance a period that a booking is cancelled, "cancellations".
        refund_share_range: Refund over list price, "cancellations".

    Raises:
        ValueError: If a count, share, range or name is out of bounds.
    """

    num_products: int = 3
    num_segments: int = 1
    num_periods: int = 30
    noises: tuple[str, ...] = ("poisson",)
    dispersion_range: tuple[float, float] = (2.0, 50.0)
    seats_range: tuple[float, float] = (20.0, 120.0)
    small_seats_range: tuple[float, float] = (9.0, 19.0)
    leg_seats_range: tuple[float, float] = (5.0, 9.0)
    load_range: tuple[float, float] = (0.7, 1.6)
    elasticity_range: tuple[float, float] = (1.2, 2.5)
    business_elasticity_range: tuple[float, float] = (0.4, 0.8)
    cost_share_range: tuple[float, float] = (0.02, 0.1)
    median_price: float = 120.0
    price_deviation: float = 0.4
    price_tick: float = 1.0
    show_probability_range: tuple[float, float] = (0.85, 0.95)
    denied_charge_range: tuple[float, float] = (1.5, 4.0)
    cancel_probability_range: tuple[float, float] = (0.01, 0.04)
    refund_share_range: tuple[float, float] = (0.2, 0.5)

    def __post_init__(self) -> None:
        for name in ("num_products", "num_segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.num_periods < 2:
            raise ValueError(f"num_periods is {self.num_periods}; it must be 2 or more")
        check_ranges(self)
        for name in ("seats_range", "small_seats_range", "leg_seats_range"):
            if not getattr(self, name)[0] >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a flight has one seat or more")
        for name in (
            "dispersion_range",
            "load_range",
            "elasticity_range",
            "business_elasticity_range",
            "show_probability_range",
            "denied_charge_range",
        ):
            if not getattr(self, name)[0] > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("cost_share_range", "cancel_probability_range", "refund_share_range"):
            low, high = getattr(self, name)
            if not (low >= 0 and high < 1):
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        if self.show_probability_range[1] > 1:
            raise ValueError(f"show_probability_range is {self.show_probability_range}; chances are at most 1")
        if set(self.noises) - set(NOISES) or not self.noises:
            raise ValueError(f"noises is {self.noises}; it needs one or more of {NOISES}")
        for name in ("median_price", "price_tick"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


def sample_fares(settings: FaresSettings, family: str, market_ids: np.ndarray, seed: int) -> Market:
    """Draw the truth of some markets of flights; market m is the same whatever other markets are drawn.

    Args:
        settings: Ranges.
        family: One of `FARES_FAMILIES`.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        The markets, in the order of `market_ids`.

    Raises:
        ValueError: If the family is unknown, or a market id or the seed is negative.
    """
    ids = np.asarray(market_ids, dtype=np.int64)
    if family not in FARES_FAMILIES:
        raise ValueError(f"family is {family!r}; known fares families: {FARES_FAMILIES}")
    market = replace(_sample_flights(settings, ids, seed), family=family)
    draws = Draws(seed, ids, _FAMILY_SALT, (settings.num_products, settings.num_segments))
    if family == "single_leg":
        return market
    if family == "business_late":
        return _sample_business(settings, market, draws)
    if family == "choice":
        return _sample_choice(settings, market, draws)
    if family == "network":
        return _sample_network(settings, market, draws)
    if family == "waiting":
        return _sample_waiting(settings, market, draws)
    if family == "rival_airline":
        return _sample_rival(settings, market, draws)
    return _sample_uncertain_bookings(settings, market, draws)


def _sample_flights(settings: FaresSettings, ids: np.ndarray, seed: int) -> Market:
    """Flights with seats of their own and exponential demand."""
    draws = Draws(seed, ids, _FLIGHT_SALT, (settings.num_products, settings.num_segments))
    tick = np.full((len(ids), 1, 1), settings.price_tick)
    level = 0.8 * draws.normal((1, 1)) + 0.6 * draws.normal()
    list_price = round_to_tick(settings.median_price * np.exp(settings.price_deviation * level), tick)
    seats = np.round(draws.log_between(settings.seats_range))
    volume = draws.between(settings.load_range) * seats / settings.num_periods
    elasticity = draws.between(settings.elasticity_range)
    noise = draws.uniform((1, 1))
    codes = np.array([NOISES.index(name) for name in settings.noises])[(noise * len(settings.noises)).astype(int)]
    dispersion, zero_share = draws.log_between(settings.dispersion_range), draws.between((0.05, 0.35))
    scattered, inflated = codes == NOISES.index("negative_binomial"), codes == NOISES.index("zero_inflated")
    return Market(
        domain="fares",
        family="single_leg",
        volume=volume,
        demand=_exponential(elasticity, list_price),
        noise=Noise(
            codes == NOISES.index("none"),
            np.where(scattered, dispersion, np.inf) if scattered.any() else None,
            np.where(inflated, zero_share, 0.0) if inflated.any() else None,
        ),
        list_price=list_price,
        price_bounds=(0.5, 2.5),
        price_tick=tick,
        num_periods=settings.num_periods,
        ends=True,
        costs=Costs(list_price * draws.between(settings.cost_share_range)),
        supply=PerishableStock(seats, np.zeros_like(seats)),
    )


def _exponential(elasticity: np.ndarray, price: np.ndarray) -> OwnPriceDemand:
    family = np.full((len(price), 1, 1), EXPONENTIAL)
    return OwnPriceDemand(family, elasticity, price, np.full((len(price), 1, 1), 0.5))


def _to_logit(market: Market, purchase_share: np.ndarray) -> Market:
    """The same demand at list price and the same elasticity there, as a purchase probability of counted customers."""
    demand, price = market.demand, market.list_price
    assert isinstance(demand, OwnPriceDemand)
    sensitivity = demand.elasticity / (1.0 - purchase_share) / price
    utility = np.log(purchase_share / (1.0 - purchase_share)) + sensitivity * price
    return replace(market, demand=PurchaseProbability(utility, sensitivity), volume=market.volume / purchase_share)


def _shrink(settings: FaresSettings, market: Market, draws: Draws) -> Market:
    """Flights with few seats and as much demand per seat as before."""
    assert isinstance(market.supply, PerishableStock)
    seats = np.round(draws.between(settings.small_seats_range))
    volume = market.volume * seats / market.supply.units
    return replace(market, volume=volume, supply=PerishableStock(seats, np.zeros_like(seats)))


def _sample_business(settings: FaresSettings, market: Market, draws: Draws) -> Market:
    """Leisure travellers book early, business travellers late; both pay the same fare."""
    time = np.linspace(0.0, 1.0, settings.num_periods)
    assert isinstance(market.demand, OwnPriceDemand)
    # The flights of a market fly one route, whose travellers book alike.
    last, bend = draws.between((0.5, 0.9), (1, 1))[..., None], draws.between((1.5, 3.0), (1, 1))[..., None]
    growth = draws.between((-0.5, 1.0), (1, 1))[..., None]
    # Arrivals grow or fade towards departure; the profile keeps the demand of the whole window.
    profile = growth * time - np.log(np.exp(growth * time).mean(axis=-1, keepdims=True))
    nothing = np.zeros((len(market.volume), 1, 1))
    leisure = market.demand.elasticity * draws.between((1.0, 1.4))
    return replace(
        market,
        demand=_exponential(leisure, market.list_price),
        calendar=Calendar(nothing, nothing, nothing, float(settings.num_periods), profile),
        memory=LateBookers(last * time**bend, draws.between(settings.business_elasticity_range), market.list_price),
    )


def _sample_choice(settings: FaresSettings, market: Market, draws: Draws) -> Market:
    """Fare products of one leg among which customers choose; dearer ones are worth more to them."""
    markets, products, segments = market.shape
    steps = draws.between((0.1, 0.4), (products, 1))
    ladder = np.cumsum(steps, axis=1) - steps[:, :1]
    price = round_to_tick(market.list_price[:, :1] * (1.0 + ladder), market.price_tick)
    price = np.array(np.broadcast_to(price, market.shape))
    seats = np.round(draws.between(settings.small_seats_range, (1, 1)))
    drawn = draws.between((0.4, 0.8), (1, segments))
    attraction = draws.log_between((0.5, 2.0))
    attraction = attraction / attraction.sum(axis=1, keepdims=True) * drawn / (1.0 - drawn)
    sensitivity = draws.between((2.5, 5.0), (1, segments)) / price.mean(axis=1, keepdims=True)
    load = draws.between(settings.load_range, (1, segments)) / segments
    volume = load * seats / drawn / settings.num_periods
    return replace(
        market,
        volume=np.array(np.broadcast_to(volume, market.shape)),
        demand=LogitDemand(np.log(attraction) + sensitivity * price, sensitivity),
        list_price=price,
        costs=Costs(price * draws.between(settings.cost_share_range, (1, 1))),
        supply=CapacityLegs(np.ones((markets, products, 1, 1)), _rank(market.shape), seats[..., None]),
    )


def _sample_network(settings: FaresSettings, market: Market, draws: Draws) -> Market:
    """A line of legs: itineraries of one leg, then connections over two neighbouring ones at less than both fares."""
    markets, products, segments = market.shape
    legs = (products + 2) // 2
    uses = np.zeros((products, legs))
    for product in range(products):
        first = product if product < legs else product - legs
        uses[product, first : first + (1 if product < legs else 2)] = 1.0
    connects = (uses.sum(axis=1) > 1)[:, None]
    seats = np.round(draws.between(settings.leg_seats_range, (1, 1, legs)))
    price = market.list_price * np.where(connects, draws.between((1.4, 1.8)), 1.0)
    price = round_to_tick(price, market.price_tick)
    # A leg's demand is split evenly among the itineraries that fly it.
    rivals = (uses * uses.sum(axis=0)).max(axis=1)[:, None]
    reach = np.where(uses > 0, seats[:, 0], np.inf).min(axis=2)[..., None]
    volume = draws.between(settings.load_range) * reach / rivals / segments / settings.num_periods
    assert isinstance(market.demand, OwnPriceDemand)
    return replace(
        market,
        volume=volume,
        demand=_exponential(market.demand.elasticity, price),
        list_price=price,
        price_bounds=(0.5, 2.0),
        costs=Costs(price * draws.between(settings.cost_share_range)),
        supply=CapacityLegs(
            np.array(np.broadcast_to(uses[:, None], (markets, products, 1, legs))),
            _rank(market.shape),
            seats,
        ),
    )


def _rank(shape: tuple[int, int, int]) -> np.ndarray:
    """Cheap products, and within a product the first segment, are served first: the worst case for revenue."""
    return np.array(np.broadcast_to(np.arange(shape[1] * shape[2]).reshape(1, *shape[1:]), shape))


def _sample_waiting(settings: FaresSettings, market: Market, draws: Draws) -> Market:
    """Customers who expect fares to fall hold back; who did not buy may look again."""
    market = _to_logit(_shrink(settings, market, draws), draws.between((0.2, 0.4)))
    waiting = StrategicWaiting(draws.between((0.6, 0.9)), draws.between((0.5, 2.0)), draws.between((0.6, 0.9)))
    # Some of the newcomers of every period buy later: fewer of them make the same demand.
    return replace(market, volume=0.6 * market.volume, memory=waiting, price_bounds=(0.5, 2.0))


def _sample_rival(settings: FaresSettings, market: Market, draws: Draws) -> Market:
    """An airline on the same route that matches fares or alternates between two."""
    market = _shrink(settings, market, draws)
    demand, price = market.demand, market.list_price
    assert isinstance(demand, OwnPriceDemand)
    cross = demand.elasticity * draws.between((0.2, 0.6))
    rivals = Rivals(
        kind=np.where(draws.uniform((1, 1)) < 0.6, MATCHER, CYCLE),
        list_price=round_to_tick(price * draws.between((0.9, 1.1)), market.price_tick),
        floor=price * draws.between((0.4, 0.6)),
        speed=draws.between((0.3, 0.9)),
        undercut=draws.between((0.1, 0.3)),
        cycle_length=np.full((len(price), 1, 1), 5),
        late_share=np.full((len(price), 1, 1), 0.1),
        missing_share=np.full((len(price), 1, 1), 0.1),
    )
    return replace(market, demand=replace(demand, cross_elasticity=cross), rivals=rivals, price_bounds=(0.5, 2.0))


def _sample_uncertain_bookings(settings: FaresSettings, market: Market, draws: Draws) -> Market:
    """Bookings that do not show up, or that are cancelled."""
    assert isinstance(market.supply, PerishableStock)
    seats, price = market.supply.units, market.list_price
    if market.family == "cancellations":
        chance = draws.between(settings.cancel_probability_range)
        refund = price * draws.between(settings.refund_share_range)
        return replace(market, supply=CancellableSeats(seats, chance, refund))
    show = draws.between(settings.show_probability_range)
    # Twice the deviation of the shows above what fills the aircraft: nobody sensible goes further.
    limit = np.ceil(seats / show + 2.0 * np.sqrt(seats * (1.0 - show)) / show)
    return replace(
        market, supply=OverbookedSeats(seats, limit, show, price * draws.between(settings.denied_charge_range))
    )


FARES = Domain(
    name="fares",
    families=FARES_FAMILIES,
    settings=FaresSettings,
    sample=sample_fares,
    frequency="D",
    unit="a seat booked",
    description="""\
* State: seats (or bookings) left on every flight or leg, periods to departure; by family also customers who wait and
  the fare they expect, a rival's fare.
* Action: a fare per product (flight, fare product, itinerary) and customer segment, 0.5 to 2.5 (in three families 2)
  times the list price, in whole coins.
* Reward: fare minus a small cost per passenger times seats booked, minus expected refunds; at departure minus the
  expected cost of denied boardings. Currency a period.
* Dynamics: single_leg: Poisson demand, exponential in the fare (Gallego and van Ryzin 1994). business_late: the share
  of business travellers rises towards departure. choice: customers choose among fare products of one leg by
  multinomial logit. network: itineraries of one or two legs. waiting: customers hold back above the fare they expect
  and come back. overbooking: not every booking shows up. rival_airline: a rival matches fares or alternates.
  cancellations: booked seats come free at random.
* Constraints: never more bookings than seats (in overbooking: than the booking limit) on any leg. Where one period's
  demand exceeds what is left on a shared leg, cheap fare products and one-leg itineraries are served first.
* The market ends at departure (a termination); unsold seats are worth nothing.
* Standard baselines: best fixed fare, Gallego-van Ryzin fixed and re-solved fares, EMSR-b protection, bid prices of the
  deterministic linear program, myopic optimum.
""",
)
