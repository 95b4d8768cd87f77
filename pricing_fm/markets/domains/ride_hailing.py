"""Ride hailing: fares of zones by the quarter of an hour, with drivers who are there, come, or are carried away."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets.context import Costs, Regimes
from pricing_fm.markets.core import Market
from pricing_fm.markets.crowds import PatientPool
from pricing_fm.markets.demand import OwnPriceDemand, PurchaseProbability
from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.drivers import DriverFlow, RespondingDrivers, ScheduledDrivers
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.noise import NOISES, Noise
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.responses import EXPONENTIAL, LINEAR, LOGIT
from pricing_fm.markets.rivals import MATCHER, UNDERCUTTER, Rivals
from pricing_fm.markets.sampling import Draws, check_ranges

RIDE_HAILING_FAMILIES = (
    "spot",
    "events",
    "driver_entry",
    "driver_flow",
    "patient_riders",
    "rival_app",
    "reference_fare",
)

_ZONE_SALT, _FAMILY_SALT = 21, 22


@dataclass(frozen=True)
class RideHailingSettings:
    """Ranges from which markets of rides are drawn. A market is a city; its products are zones.

    Pairs are (lowest, highest) of a uniform draw unless said otherwise.

    Attributes:
        num_products: Zones of the city.
        num_segments: Rider groups with a fare of their own.
        num_periods: Quarters of an hour.
        noises: Noise of the counts; every city draws one.
        dispersion_range: Variance is mean + mean**2 / dispersion (log-uniform draw).
        rides_range: Rides wanted in a zone and period at the list fare (log-uniform draw).
        elasticity_range: Elasticity at the list fare.
        pay_share_range: What a driver is paid for a ride over the list fare.
        driver_range: Drivers of a period over rides wanted at the list fare.
        median_price: Median list fare, currency.
        price_deviation: Standard deviation of log fare.
        price_tick: Smallest coin, currency.
        event_factor_range: Factor on demand during an event, "events".
        zone_drivers_range: Drivers a zone starts with, "driver_flow".

    Raises:
        ValueError: If a count, share, range or name is out of bounds.
    """

    num_products: int = 2
    num_segments: int = 1
    num_periods: int = 32
    noises: tuple[str, ...] = ("poisson",)
    dispersion_range: tuple[float, float] = (2.0, 50.0)
    rides_range: tuple[float, float] = (4.0, 30.0)
    elasticity_range: tuple[float, float] = (1.2, 2.5)
    pay_share_range: tuple[float, float] = (0.55, 0.8)
    driver_range: tuple[float, float] = (0.5, 1.3)
    median_price: float = 14.0
    price_deviation: float = 0.25
    price_tick: float = 0.1
    event_factor_range: tuple[float, float] = (1.6, 3.0)
    zone_drivers_range: tuple[float, float] = (6.0, 12.0)

    def __post_init__(self) -> None:
        for name in ("num_products", "num_segments", "num_periods"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        check_ranges(self)
        for name in (
            "dispersion_range",
            "rides_range",
            "elasticity_range",
            "driver_range",
            "event_factor_range",
        ):
            if not getattr(self, name)[0] > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.zone_drivers_range[0] < 1:
            raise ValueError(f"zone_drivers_range is {self.zone_drivers_range}; a zone has one driver or more")
        if not (self.pay_share_range[0] >= 0 and self.pay_share_range[1] < 1):
            raise ValueError(f"pay_share_range is {self.pay_share_range}; it must lie in [0, 1)")
        if set(self.noises) - set(NOISES) or not self.noises:
            raise ValueError(f"noises is {self.noises}; it needs one or more of {NOISES}")
        for name in ("median_price", "price_tick"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


def sample_ride_hailing(settings: RideHailingSettings, family: str, market_ids: np.ndarray, seed: int) -> Market:
    """Draw the truth of some cities; market m is the same whatever other markets are drawn.

    Args:
        settings: Ranges.
        family: One of `RIDE_HAILING_FAMILIES`.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        The markets, in the order of `market_ids`.

    Raises:
        ValueError: If the family is unknown, or a market id or the seed is negative.
    """
    ids = np.asarray(market_ids, dtype=np.int64)
    if family not in RIDE_HAILING_FAMILIES:
        raise ValueError(f"family is {family!r}; known ride_hailing families: {RIDE_HAILING_FAMILIES}")
    market = replace(_sample_city(settings, ids, seed), family=family)
    draws = Draws(seed, ids, _FAMILY_SALT, (settings.num_products, settings.num_segments))
    if family == "spot":
        return market
    if family == "events":
        return _sample_events(settings, market, draws)
    if family == "driver_entry":
        return _sample_entry(market, draws)
    if family == "driver_flow":
        return _sample_flow(settings, market, draws)
    if family == "patient_riders":
        return _sample_patient(market, draws)
    return _sample_comparing(market, draws)


def _sample_city(settings: RideHailingSettings, ids: np.ndarray, seed: int) -> Market:
    """Zones with drivers as planned and riders of uniform or logit willingness to pay."""
    draws = Draws(seed, ids, _ZONE_SALT, (settings.num_products, settings.num_segments))
    tick = np.full((len(ids), 1, 1), settings.price_tick)
    level = 0.8 * draws.normal((1, 1)) + 0.6 * draws.normal()
    list_price = round_to_tick(settings.median_price * np.exp(settings.price_deviation * level), tick)
    volume = draws.log_between(settings.rides_range)
    family = np.where(draws.uniform((1, 1)) < 0.5, LINEAR, LOGIT)
    noise = draws.uniform((1, 1))
    codes = np.array([NOISES.index(name) for name in settings.noises])[(noise * len(settings.noises)).astype(int)]
    dispersion, zero_share = draws.log_between(settings.dispersion_range), draws.between((0.05, 0.35))
    scattered, inflated = codes == NOISES.index("negative_binomial"), codes == NOISES.index("zero_inflated")
    return Market(
        domain="ride_hailing",
        family="spot",
        volume=volume,
        demand=OwnPriceDemand(family, draws.between(settings.elasticity_range), list_price, draws.between((0.3, 0.7))),
        noise=Noise(
            codes == NOISES.index("none"),
            np.where(scattered, dispersion, np.inf) if scattered.any() else None,
            np.where(inflated, zero_share, 0.0) if inflated.any() else None,
        ),
        list_price=list_price,
        price_bounds=(0.6, 2.5),
        price_tick=tick,
        num_periods=settings.num_periods,
        costs=Costs(list_price * draws.between(settings.pay_share_range)),
        supply=ScheduledDrivers(np.maximum(np.round(volume * draws.between(settings.driver_range)), 1.0)),
    )


def _sample_events(settings: RideHailingSettings, market: Market, draws: Draws) -> Market:
    """Concerts and rain come and go: a calm and a busy regime of all zones."""
    come, go = draws.between((0.03, 0.12), (1, 1)), draws.between((0.15, 0.4), (1, 1))
    transition = np.stack([np.stack([1.0 - come, come], axis=-1), np.stack([go, 1.0 - go], axis=-1)], axis=-2)
    busy = draws.between(settings.event_factor_range)
    factor = np.stack([np.ones_like(busy), busy], axis=-1)
    return replace(market, regimes=Regimes(transition, factor, np.ones_like(factor)))


def _sample_entry(market: Market, draws: Draws) -> Market:
    """Drivers who come where the last period was worth their while."""
    fleet = np.maximum(np.round(market.volume * draws.between((1.0, 2.0))), 3.0)
    drivers = RespondingDrivers(
        fleet=fleet,
        first_drivers=np.maximum(np.round(fleet * draws.between((0.25, 0.5))), 1.0),
        half_use=draws.between((0.6, 0.9)),
        elasticity=draws.between((2.0, 5.0)),
        speed=draws.between((0.3, 0.8)),
    )
    return replace(market, supply=drivers)


def _sample_flow(settings: RideHailingSettings, market: Market, draws: Draws) -> Market:
    """Zones that send more riders to each other than they get back."""
    markets, zones, segments = market.shape
    drivers = np.round(draws.between(settings.zone_drivers_range, (zones, 1)))
    weights = np.exp(draws.normal((zones, 1, zones)))
    # Most rides leave their zone.
    weights = weights * np.where(np.eye(zones)[:, None] > 0, 0.4, 1.0)
    destination = weights / weights.sum(axis=-1, keepdims=True)
    volume = drivers * draws.between((0.5, 1.5)) / segments
    rank = np.broadcast_to(np.arange(zones * segments).reshape(1, zones, segments), market.shape)
    uses = np.broadcast_to(np.eye(zones)[:, None], (markets, zones, 1, zones))
    flow = DriverFlow(np.array(uses), np.array(rank), drivers, destination)
    return replace(market, volume=volume, supply=flow)


def _sample_patient(market: Market, draws: Draws) -> Market:
    """Riders whom the fare turns away look again a quarter of an hour later."""
    demand, price = market.demand, market.list_price
    assert isinstance(demand, OwnPriceDemand)
    share = demand.purchase_share
    sensitivity = demand.elasticity / (1.0 - share) / price
    utility = np.log(share / (1.0 - share)) + sensitivity * price
    return replace(
        market,
        demand=PurchaseProbability(utility, sensitivity),
        volume=market.volume / share,
        memory=PatientPool(draws.between((0.5, 0.9))),
        # Enough drivers for most of those who would pay: the fare is high for the sake of those who come back.
        supply=ScheduledDrivers(np.maximum(np.round(market.volume * draws.between((1.2, 1.8))), 1.0)),
    )


def _sample_comparing(market: Market, draws: Draws) -> Market:
    """Riders who compare the fare with a rival's or with a remembered one; drivers are plenty."""
    demand, price = market.demand, market.list_price
    assert isinstance(demand, OwnPriceDemand)
    kind = np.full((len(price), 1, 1), EXPONENTIAL)
    demand = replace(demand, family=kind)
    if market.family == "reference_fare":
        gain = draws.between((0.3, 1.5))
        memory = ReferencePrice(gain, gain * draws.between((1.5, 2.5)), draws.between((0.5, 0.9)))
        return replace(market, demand=demand, memory=memory, supply=None)
    rivals = Rivals(
        kind=np.where(draws.uniform((1, 1)) < 0.7, MATCHER, UNDERCUTTER),
        list_price=round_to_tick(price * draws.between((0.9, 1.1)), market.price_tick),
        floor=price * draws.between((0.6, 0.8)),
        speed=draws.between((0.3, 0.9)),
        undercut=draws.between((0.02, 0.08)),
        cycle_length=np.full((len(price), 1, 1), 4),
        late_share=np.full((len(price), 1, 1), 0.1),
        missing_share=np.full((len(price), 1, 1), 0.1),
    )
    cross = demand.elasticity * draws.between((0.2, 0.6))
    return replace(market, demand=replace(demand, cross_elasticity=cross), rivals=rivals, supply=None)


RIDE_HAILING = Domain(
    name="ride_hailing",
    families=RIDE_HAILING_FAMILIES,
    settings=RideHailingSettings,
    sample=sample_ride_hailing,
    frequency="15min",
    unit="a ride",
    description="""\
* State: drivers online or by zone, event regime, riders who wait, remembered fares, the rival's fares; which of them is
  there depends on the family.
* Action: a fare per zone and rider group, 0.6 to 2.5 times the list fare, in whole coins.
* Reward: commission margin, (fare - driver's pay) times rides; a driver's pay for a ride does not move with the fare.
  Currency a quarter of an hour.
* Dynamics: spot: rides are demand cut by the drivers of the period. events: concerts and rain come and go as a Markov
  chain. driver_entry: drivers online follow the last period's earnings. driver_flow: rides carry drivers to the zones
  of their destinations. patient_riders: riders turned away by the fare ask again. rival_app: a rival matches or
  undercuts. reference_fare: riders compare with a remembered fare and mind rises more than they welcome falls.
* Constraints: a driver gives one ride a period; drivers of a city are conserved in driver_flow.
* Standard baselines: list fare, market-clearing fare, best constant fare, matching, myopic optimum.
""",
)
