"""Energy: a supplier who sets time-of-use tariffs for groups of customers, day by day."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets.context import Calendar, Costs, HiddenShock, Regimes
from pricing_fm.markets.core import Market
from pricing_fm.markets.customer_base import CustomerBase
from pricing_fm.markets.demand import LinearSystemDemand, OwnPriceDemand
from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.energy_parts import DailySupply, DemandCharge, Habit, MeritOrderMargin, Rebound, Reservoir
from pricing_fm.markets.noise import NOISES, build_noise
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.responses import FAMILIES as RESPONSES
from pricing_fm.markets.sampling import Draws, check_ranges

ENERGY_FAMILIES = (
    "supplier",
    "time_of_use",
    "peak_capacity",
    "solar",
    "wholesale_regimes",
    "storage",
    "demand_charge",
    "habit",
    "rebound",
    "rival_tariff",
)
_DAYS_PER_WEEK = 7.0
_SUPPLIER_SALT, _ITEM_SALT, _FAMILY_SALT = 31, 32, 33


@dataclass(frozen=True)
class EnergySettings:
    """Ranges from which energy suppliers are drawn.

    Products are blocks of the day, dearest first; segments are customer groups, households first. A unit is a megawatt
    hour. Pairs are (lowest, highest) of a uniform draw unless said otherwise.

    Attributes:
        num_products: Blocks of the day: evening peak, day, night.
        num_segments: Customer groups: households, businesses.
        noise: How daily use scatters, one of `noise.NOISES`.
        dispersion_range: Variance is mean + mean**2 / dispersion under negative binomial noise (log-uniform).
        zero_share_range: Share of days without use under zero-inflated noise.
        responses: How use responds to the price of its block; every market draws one of `responses.FAMILIES`.
        volume_range: Use a day of a block and group at list prices (log-uniform).
        small_volume_range: The same in the families whose stock or meter is counted unit by unit.
        price_range: Mean list price over the blocks, currency per unit.
        block_spread: Dearest over cheapest block's list price.
        cost_share_range: Wholesale energy and grid fees over list price.
        elasticity_range: Minus d log use / d log price at the list price: less use, and customers who leave.
        shifting_elasticity_range: The same in the families whose blocks share load, of one block's price alone.
        price_tick: Smallest step of a price, currency.

    Raises:
        ValueError: If a count, range or name is out of bounds.
    """

    num_products: int = 3
    num_segments: int = 2
    noise: str = "negative_binomial"
    dispersion_range: tuple[float, float] = (20.0, 200.0)
    zero_share_range: tuple[float, float] = (0.01, 0.1)
    responses: tuple[str, ...] = ("exponential", "logit", "linear")
    volume_range: tuple[float, float] = (20.0, 400.0)
    small_volume_range: tuple[float, float] = (5.0, 15.0)
    price_range: tuple[float, float] = (120.0, 280.0)
    block_spread: float = 2.0
    cost_share_range: tuple[float, float] = (0.5, 0.8)
    elasticity_range: tuple[float, float] = (1.4, 3.0)
    shifting_elasticity_range: tuple[float, float] = (0.9, 1.3)
    price_tick: float = 0.1

    def __post_init__(self) -> None:
        for name in ("num_products", "num_segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        check_ranges(self)
        if self.noise not in NOISES:
            raise ValueError(f"noise is {self.noise!r}; known noises: {NOISES}")
        if not self.responses or set(self.responses) - set(RESPONSES):
            raise ValueError(f"responses is {self.responses}; it needs one or more of {RESPONSES}")
        for name in ("cost_share_range", "zero_share_range"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high < 1.0:
                raise ValueError(f"{name} is {(low, high)}; both numbers must lie inside (0, 1)")
        for name in (
            "dispersion_range",
            "volume_range",
            "small_volume_range",
            "price_range",
            "elasticity_range",
            "shifting_elasticity_range",
        ):
            if not getattr(self, name)[0] > 0:
                raise ValueError(f"{name} starts at {getattr(self, name)[0]}; it must be positive")
        if not self.price_tick > 0 or not self.block_spread >= 1:
            raise ValueError(
                f"price_tick is {self.price_tick} and block_spread {self.block_spread}; they must be above 0 and at"
                " least 1"
            )


def sample_energy(settings: EnergySettings, family: str, market_ids: np.ndarray, seed: int) -> Market:
    """Draw the truth of some suppliers; market m is the same whatever other markets are drawn.

    Args:
        settings: Ranges.
        family: One of `ENERGY_FAMILIES`.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        The markets, in the order of `market_ids`.

    Raises:
        ValueError: If the family is unknown, or a market id or the seed is negative.
    """
    if family not in ENERGY_FAMILIES:
        raise ValueError(f"family is {family!r}; known energy families: {ENERGY_FAMILIES}")
    ids = np.asarray(market_ids, dtype=np.int64)
    market = _sample_tariff(settings, family, ids, seed)
    draws = Draws(seed, ids, _FAMILY_SALT, (settings.num_products, settings.num_segments))
    if family == "supplier":
        return _add_context(replace(market, regimes=_sample_wholesale(draws)), draws)
    if family in ("time_of_use", "peak_capacity"):
        return _add_shifting(market, draws, settings)
    if family == "wholesale_regimes":
        return replace(market, regimes=_sample_wholesale(draws))
    if family in ("solar", "storage", "demand_charge"):
        return _add_supply(replace(market, volume=draws.log_between(settings.small_volume_range)), draws)
    return _add_memory(market, draws)


def _sample_tariff(settings: EnergySettings, family: str, ids: np.ndarray, seed: int) -> Market:
    """Static suppliers: what all families have in common."""
    size = (settings.num_products, settings.num_segments)
    supplier, item = Draws(seed, ids, _SUPPLIER_SALT, (1, 1)), Draws(seed, ids, _ITEM_SALT, size)
    tick = np.full((len(ids), 1, 1), settings.price_tick)
    blocks = np.geomspace(np.sqrt(settings.block_spread), 1.0 / np.sqrt(settings.block_spread), size[0])
    # Businesses buy in bulk: every group pays 15 % less than the one before.
    level = supplier.between(settings.price_range) * blocks[:, None] * 0.85 ** np.arange(size[1])
    list_price = round_to_tick(level * item.between((0.95, 1.05)), tick)
    return Market(
        domain="energy",
        family=family,
        volume=item.log_between(settings.volume_range),
        demand=OwnPriceDemand(
            supplier.choice([RESPONSES.index(name) for name in settings.responses]),
            item.between(settings.elasticity_range),
            list_price,
            item.between((0.2, 0.6)),
        ),
        noise=build_noise(
            settings.noise,
            (len(ids), 1, 1),
            item.log_between(settings.dispersion_range) if settings.noise == "negative_binomial" else None,
            item.between(settings.zero_share_range) if settings.noise == "zero_inflated" else None,
        ),
        list_price=list_price,
        price_bounds=(0.5, 2.0),
        price_tick=tick,
        num_periods=28,
        costs=Costs(list_price * item.between(settings.cost_share_range)),
    )


def _add_context(market: Market, draws: Draws) -> Market:
    """The week's rhythm and hidden weather, which scale use whatever the price."""
    calendar = Calendar(draws.between((0.0, 0.15)), draws.uniform(), np.zeros(market.shape), _DAYS_PER_WEEK)
    shock = HiddenShock(draws.between((0.05, 0.2)), draws.between((0.6, 0.9)), draws.between((0.3, 0.8)))
    return replace(market, calendar=calendar, shock=shock, num_periods=56)


def _add_shifting(market: Market, draws: Draws, settings: EnergySettings) -> Market:
    """Linear use of every block; load that a dear block loses partly moves to the other blocks of the day."""
    products = market.shape[1]
    price = np.broadcast_to(market.list_price, market.shape)
    volume = np.broadcast_to(market.volume.sum(axis=1, keepdims=True), market.shape).copy()
    share = market.volume / volume
    own = draws.between(settings.shifting_elasticity_range) * share / price
    # Shifted load below 40 % of the smaller own slope keeps the matrix diagonally dominant.
    strength = draws.between((0.1, 0.4), (1, market.shape[2]))[:, :, :, None] / max(products - 1, 1)
    rows = np.moveaxis(own, 1, -1)[:, None]
    slope = -strength * np.minimum(own[..., None], rows)
    diagonal = np.arange(products)
    slope[:, diagonal, :, diagonal] = np.moveaxis(own, 1, 0)
    demand = LinearSystemDemand(share + np.einsum("misj,mjs->mis", slope, price), slope)
    # Above 1.8 times the list price linear use would mostly have ended.
    market = replace(market, volume=volume, demand=demand, price_bounds=(0.5, 1.8))
    if market.family == "time_of_use":
        return market
    load = (share * volume).sum(axis=2).max(axis=1)[:, None, None]
    charge = price.mean(axis=(1, 2), keepdims=True) * draws.between((1.0, 4.0), (1, 1))
    return replace(market, payoff=MeritOrderMargin(load * draws.between((0.2, 0.5), (1, 1)), charge))


def _add_supply(market: Market, draws: Draws) -> Market:
    """Small suppliers whose own generation, battery or grid meter is counted unit by unit."""
    price = np.broadcast_to(market.list_price, market.shape)
    if market.family == "demand_charge":
        contracted = np.round(market.volume * draws.between((0.5, 0.8)))
        most = np.ceil(2.5 * market.volume + 6.0 * np.sqrt(market.volume))
        supply = DemandCharge(contracted, most, price * draws.between((3.0, 10.0)))
        return replace(market, supply=supply, ends=True)
    # The sun and the battery's wear cost next to nothing a unit.
    market = replace(market, costs=Costs(0.05 * price))
    if market.family == "solar":
        mean, spread = market.volume * draws.between((0.6, 1.8)), draws.between((0.3, 0.8))
        least, most = np.round(mean * (1.0 - spread)), np.maximum(np.round(mean * (1.0 + spread)), 1.0)
        return replace(market, supply=DailySupply(least, most))
    mean, spread = market.volume * draws.between((0.4, 0.8)), draws.between((0.5, 1.0))
    least, most = np.round(mean * (1.0 - spread)), np.maximum(np.round(mean * (1.0 + spread)), 1.0)
    capacity = np.ceil(market.volume * draws.between((2.0, 4.0)))
    calendar = Calendar(draws.between((0.2, 0.6)), draws.uniform(), np.zeros(market.shape), _DAYS_PER_WEEK)
    return replace(market, supply=Reservoir(capacity, least, most), calendar=calendar)


def _add_memory(market: Market, draws: Draws) -> Market:
    """Customers whose use today depends on yesterday's prices."""
    ones = np.ones(market.shape)
    price = np.broadcast_to(market.list_price, market.shape)
    if market.family == "habit":
        habit = Habit(
            strength=draws.between((0.3, 0.6)),
            persistence=draws.between((0.8, 0.95)),
            normal=ones,
            least=0.1 * ones,
            most=4.0 * ones,
        )
        return replace(market, memory=habit, num_periods=84)
    if market.family == "rebound":
        return replace(market, memory=Rebound(draws.between((0.4, 0.8)), ones))
    base = CustomerBase(
        leave_share=draws.between((0.005, 0.02)),
        join_share=draws.between((0.003, 0.015)),
        strength=draws.between((1.5, 3.0)),
        market_price=price * draws.between((0.95, 1.05)),
    )
    # Volume counts the customers of all suppliers; at list prices the supplier's own are as many as before.
    share = base.start(price)[..., 0]
    return replace(market, memory=base, volume=market.volume / share, num_periods=84)


def _sample_wholesale(draws: Draws) -> Regimes:
    """Calm, tight and scarce wholesale markets: energy gets dearer, and scarcity comes with cold and more use."""
    calm, tight = draws.between((0.85, 0.97), (1, 1)), draws.between((0.6, 0.9), (1, 1))
    scarce, ones = draws.between((0.4, 0.8), (1, 1)), np.ones((1, 1, 1))
    zeros = np.zeros_like(calm)
    rows = (
        (calm, 1.0 - calm, zeros),
        (0.7 * (1.0 - tight), tight, 0.3 * (1.0 - tight)),
        (zeros, 1.0 - scarce, scarce),
    )
    factors = (draws.between((0.8, 1.0), (1, 1)), draws.between((1.0, 1.3), (1, 1)), draws.between((1.3, 2.0), (1, 1)))
    volumes = (ones + zeros, draws.between((1.0, 1.1), (1, 1)), draws.between((1.0, 1.3), (1, 1)))
    return Regimes(
        transition=np.stack([np.stack(row, axis=-1) for row in rows], axis=-2),
        volume_factor=np.stack(volumes, axis=-1),
        cost_factor=np.stack(factors, axis=-1),
    )


ENERGY = Domain(
    name="energy",
    families=ENERGY_FAMILIES,
    settings=EnergySettings,
    sample=sample_energy,
    frequency="D",
    unit="a megawatt hour",
    description="""\
* State: regime of the wholesale market, rhythm of the week and hidden weather, own generation of the day, level of the
  battery, highest load of the month, load that customers put off, habits, the supplier's share of all customers; which
  of them is there depends on the family.
* Action: a price per block of the day (evening peak, day, night) and customer group, currency per megawatt hour, 0.5
  to 2 times the list price (1.8 where use is linear), in whole steps of `price_tick`.
* Reward: price minus cost (wholesale energy and grid fees) times energy sold, minus charges for peak load; currency a
  day.
* Dynamics: use responds to the price of its block, in `time_of_use` and `peak_capacity` to those of the other blocks
  too; shed load comes back (`rebound`), habits follow use (`habit`), customers switch (`rival_tariff`); the battery
  fills up by chance (`storage`).
* Constraints: bounds on the price; `solar` and `storage` cannot sell more than there is; `peak_capacity` and
  `demand_charge` never cut sales but make peaks costly (plants
  booked for the expected load there, the meter of the actual load here).
* Families: `time_of_use` (the optimum of `oracles.linear_system_prices`), `peak_capacity`, `solar`,
  `wholesale_regimes` and `supplier` are solved by each day's optimum; `storage`, `demand_charge`, `habit`, `rebound`
  and `rival_tariff` reward foresight.
* Standard baselines: cost-plus, flat tariff, peak surcharge, best constant tariff, myopic optimum, dynamic program.
""",
)
