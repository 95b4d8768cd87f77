"""Retail: stores that sell the products of a category, week by week."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets.context import Calendar, Costs, HiddenShock
from pricing_fm.markets.core import Market
from pricing_fm.markets.demand import (
    OwnPriceDemand,
)
from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.domains.retail_families import WEEKS_PER_YEAR, sample_family
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.noise import NOISES, Noise
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.responses import FAMILIES as RESPONSES
from pricing_fm.markets.sampling import Draws, check_ranges
from pricing_fm.markets.supply import OrderUpToStock

RETAIL_FAMILIES = (
    "shop",
    "logit_stock",
    "substitution",
    "nested",
    "latent_classes",
    "halo",
    "reference_price",
    "stockpiling",
    "waiting",
    "repeated_seasons",
    "perishable",
    "fresh",
    "lead_time",
    "rival",
    "lifecycle",
)

EVENT_YEARS = 10

# Categories, products and stores draw from streams of their own, so that a store added changes nothing else.
_CATEGORY_SALT, _PRODUCT_SALT, _STORE_SALT, _FAMILY_SALT = 1, 2, 3, 4


@dataclass(frozen=True)
class RetailSettings:
    """Ranges from which retail markets are drawn. A market is one store x category; its products are its items.

    Pairs are (lowest, highest) of a uniform draw unless said otherwise.

    Attributes:
        num_products: Products of a category.
        num_segments: Customer groups with a price and a stock of their own.
        num_stores: Stores that sell the same category; market m is store m % num_stores of category m // num_stores.
        families: How single products respond to their price; every category draws one of `responses.FAMILIES`.
        noises: Noise of the counts; every category draws one.
        elasticity_range: Mean elasticity of a category at the reference price.
        product_deviation: Standard deviation of log elasticity between the products of a category.
        store_deviation: Standard deviation of log elasticity between the stores of a product.
        elasticity_bounds: Elasticities of products are clipped to these; None = 0.6 times the lowest and 1.5 times the
            highest mean.
        cost_share_range: Unit cost over list price.
        periods_per_year: Weeks by default; 12 makes a period a month. Ranges that speak of weeks then speak of months.
        median_volume: Median units a week at the reference price.
        volume_deviation: Standard deviation of log volume over items.
        volume_bounds: Volumes are clipped to these, units a week.
        median_price: Median reference price, currency per unit.
        price_deviation: Standard deviation of log price over products.
        price_tick: Smallest coin, currency; all prices are multiples of it.
        season_range: Amplitude of log demand over the year.
        trend_range: Growth of log demand a year.
        num_events: Weeks of the year in which a category's demand departs from its season (holidays, local feasts).
        event_scale: Standard deviation of log demand in such a week.
        promotion_uplift_range: Factor on demand in promoted weeks, apart from any price cut.
        shock_scale_range: Standard deviation of the hidden log demand shock.
        shock_persistence_range: Its autocorrelation from week to week.
        dispersion_range: Variance is mean + mean**2 / dispersion (log-uniform draw).
        reference_share: Share of categories in which demand compares the price with a remembered one.
        reference_effect_range: Elasticity that this comparison adds in the short run.
        reference_memory_range: Weight of the old memory in the new one.
        cost_change_probability: Chance a week that the unit cost of an item moves.
        cost_change_scale: Standard deviation of a move of log cost.
        stocked_share: Share of categories with a finite stock, replenished weekly.
        stock_cover_range: Weeks of forecast demand that the stock is filled up to.

    Raises:
        ValueError: If a count, share, range or name is out of bounds.
    """

    num_products: int = 10
    num_segments: int = 1
    num_stores: int = 1
    families: tuple[str, ...] = ("constant_elasticity", "exponential", "logit")
    noises: tuple[str, ...] = ("poisson", "negative_binomial")
    elasticity_range: tuple[float, float] = (1.2, 4.5)
    product_deviation: float = 0.2
    store_deviation: float = 0.05
    elasticity_bounds: tuple[float, float] | None = None
    cost_share_range: tuple[float, float] = (0.4, 0.8)
    periods_per_year: float = WEEKS_PER_YEAR
    median_volume: float = 12.0
    volume_deviation: float = 1.2
    volume_bounds: tuple[float, float] = (0.5, 200.0)
    median_price: float = 4.0
    price_deviation: float = 0.7
    price_tick: float = 0.01
    season_range: tuple[float, float] = (0.0, 0.4)
    trend_range: tuple[float, float] = (-0.15, 0.15)
    num_events: int = 0
    event_scale: float = 0.4
    promotion_uplift_range: tuple[float, float] = (1.05, 1.8)
    shock_scale_range: tuple[float, float] = (0.05, 0.45)
    shock_persistence_range: tuple[float, float] = (0.3, 0.9)
    dispersion_range: tuple[float, float] = (2.0, 50.0)
    reference_share: float = 0.25
    reference_effect_range: tuple[float, float] = (0.2, 1.0)
    reference_memory_range: tuple[float, float] = (0.5, 0.9)
    cost_change_probability: float = 0.04
    cost_change_scale: float = 0.06
    stocked_share: float = 0.7
    stock_cover_range: tuple[float, float] = (1.2, 3.0)

    def __post_init__(self) -> None:
        for name in ("num_products", "num_segments", "num_stores"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.num_events < 0 or not self.event_scale >= 0.0:
            raise ValueError(f"num_events is {self.num_events}, event_scale {self.event_scale}; both must be 0 or more")
        for name in ("reference_share", "cost_change_probability", "stocked_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        check_ranges(self)
        for name, known in (("families", RESPONSES), ("noises", NOISES)):
            unknown = set(getattr(self, name)) - set(known)
            if unknown or not getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; it needs one or more of {known}")
        for name in ("median_volume", "median_price", "price_tick"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not self.periods_per_year >= 1:
            raise ValueError(f"periods_per_year is {self.periods_per_year}; it must be 1 or more")


def sample_retail(settings: RetailSettings, family: str, market_ids: np.ndarray, seed: int) -> Market:
    """Draw the truth of some retail markets; market m is the same whatever other markets are drawn.

    Args:
        settings: Ranges.
        family: One of `RETAIL_FAMILIES`. "shop" draws all that settings describe; every other family leaves out what
            would blur its point (hidden shocks, seasons, moving costs) and adds its own part.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        The markets, in the order of `market_ids`.

    Raises:
        ValueError: If the family is unknown, or a market id or the seed is negative.
    """
    if family not in RETAIL_FAMILIES:
        raise ValueError(f"family is {family!r}; known retail families: {RETAIL_FAMILIES}")
    ids = np.asarray(market_ids, dtype=np.int64)
    shop = _sample_shop(settings, ids, seed)
    if family == "shop":
        return shop
    draws = Draws(seed, ids, _FAMILY_SALT, (settings.num_products, settings.num_segments))
    quiet = replace(shop, family=family, calendar=None, shock=None, memory=None, supply=None, promotion_uplift=None)
    quiet = replace(
        quiet, costs=Costs(shop.costs.unit_cost), num_periods=26, noise=Noise(np.zeros_like(ids, bool)[:, None, None])
    )
    return sample_family(quiet, draws)


def _sample_shop(settings: RetailSettings, ids: np.ndarray, seed: int) -> Market:
    groups, size = ids // settings.num_stores, (settings.num_products, settings.num_segments)
    category = Draws(seed, groups, _CATEGORY_SALT, (1, 1))
    product = Draws(seed, groups, _PRODUCT_SALT, size)
    store = Draws(seed, ids, _STORE_SALT, size)
    noise = category.choice([NOISES.index(name) for name in settings.noises])
    mean_elasticity = category.between(settings.elasticity_range)
    elasticity = mean_elasticity * np.exp(
        settings.product_deviation * product.normal() + settings.store_deviation * store.normal()
    )
    volume = _sample_volume(settings, category, product, store)
    tick = np.full_like(mean_elasticity, settings.price_tick)
    price_level = 0.8 * category.normal() + 0.6 * product.normal()
    list_price = _end_in_nine(settings.median_price * np.exp(settings.price_deviation * price_level), tick)
    dispersion = product.log_between(settings.dispersion_range)
    remembers = category.uniform() < settings.reference_share
    stocked = category.uniform() < settings.stocked_share
    ones = np.ones_like(volume)
    family = category.choice([RESPONSES.index(name) for name in settings.families])
    # The regular price need not be the price at which customers were asked.
    reference_price = list_price * np.exp(0.1 * product.normal())
    purchase_share = product.between((0.05, 0.4))
    calendar = _sample_calendar(settings, category, product, store)
    uplift = 1.0 + (category.between(settings.promotion_uplift_range) - 1.0) * product.between((0.7, 1.3))
    shock_scale = category.between(settings.shock_scale_range) * store.between((0.8, 1.2))
    persistence, common = category.between(settings.shock_persistence_range), category.between((0.0, 0.7))
    effect = np.where(remembers, product.between(settings.reference_effect_range), 0.0)
    memory = category.between(settings.reference_memory_range) * ones
    costs = _sample_costs(settings, category, product, list_price, tick)
    return Market(
        domain="retail",
        family="shop",
        volume=volume,
        demand=OwnPriceDemand(
            family,
            np.clip(elasticity, *_bound_elasticities(settings)),
            reference_price,
            purchase_share,
        ),
        noise=_sample_noise(noise, dispersion, product),
        list_price=list_price,
        price_bounds=(0.5, 2.0),
        price_tick=tick,
        num_periods=52,
        costs=costs,
        promotion_uplift=uplift,
        calendar=calendar,
        shock=HiddenShock(shock_scale, persistence, common),
        # Gain and loss are alike here: what a manager's log shows of both is too little to tell them apart.
        memory=ReferencePrice(effect, effect, memory) if np.any(effect) else None,
        supply=OrderUpToStock(np.where(stocked, store.between(settings.stock_cover_range), np.inf)),
    )


def _bound_elasticities(settings: RetailSettings) -> tuple[float, float]:
    if settings.elasticity_bounds is not None:
        return settings.elasticity_bounds
    return 0.6 * settings.elasticity_range[0], 1.5 * settings.elasticity_range[1]


def _sample_calendar(settings: RetailSettings, category: Draws, product: Draws, store: Draws) -> Calendar:
    amplitude = category.between(settings.season_range) * np.exp(0.3 * product.normal())
    phase = category.uniform()
    trend = store.between(settings.trend_range) / settings.periods_per_year
    profile = _sample_events(settings, category, amplitude.shape) if settings.num_events else None
    return Calendar(amplitude, phase, trend, settings.periods_per_year, profile)


def _sample_events(settings: RetailSettings, category: Draws, shape: tuple[int, ...]) -> np.ndarray:
    """Log factor of every week: the same weeks of every year, `(markets, products, segments, weeks)`."""
    year = np.zeros((shape[0], int(settings.periods_per_year)))
    for _ in range(settings.num_events):
        week = (category.uniform() * year.shape[1]).astype(int).reshape(-1)
        year[np.arange(shape[0]), week] += settings.event_scale * category.normal().reshape(-1)
    weeks = np.tile(year, EVENT_YEARS)
    weeks[:, -1] = 0.0  # the last one holds ever after
    return np.broadcast_to(weeks[:, None, None], (*shape, weeks.shape[1]))


def _sample_costs(
    settings: RetailSettings, category: Draws, product: Draws, list_price: np.ndarray, tick: np.ndarray
) -> Costs:
    ones = np.ones_like(list_price)
    return Costs(
        list_price * product.between(settings.cost_share_range),
        list_price,
        tick,
        settings.cost_change_probability * ones if settings.cost_change_probability > 0 else None,
        settings.cost_change_scale * ones,
        category.between((0.01, 0.05)) * ones,
    )


def _sample_noise(noise: np.ndarray, dispersion: np.ndarray, product: Draws) -> Noise:
    zero_share = product.between((0.05, 0.35))
    inflated = noise == NOISES.index("zero_inflated")
    overdispersed = np.where(noise == NOISES.index("negative_binomial"), dispersion, np.inf)
    return Noise(
        silent=noise == NOISES.index("none"),
        dispersion=overdispersed if np.isfinite(overdispersed).any() else None,
        zero_share=np.where(inflated, zero_share, 0.0) if inflated.any() else None,
    )


def _sample_volume(settings: RetailSettings, category: Draws, product: Draws, store: Draws) -> np.ndarray:
    """Log-normal; two thirds of the log variance lie between products, the rest between stores and categories."""
    level = 0.5 * category.normal() + 0.8 * product.normal() + 0.3 * store.normal()
    return np.clip(settings.median_volume * np.exp(settings.volume_deviation * level), *settings.volume_bounds)


def _end_in_nine(prices: np.ndarray, tick: np.ndarray) -> np.ndarray:
    """Nearest price whose last digit is a nine, at least 0.79 in a currency of cents."""
    return round_to_tick((np.maximum(np.round((prices / tick + 1.0) / 10.0), 8.0) * 10.0 - 1.0) * tick, tick)


RETAIL = Domain(
    name="retail",
    families=RETAIL_FAMILIES,
    settings=RetailSettings,
    sample=sample_retail,
    frequency="W",
    unit="a product sold",
    description="""\
* State: hidden demand shocks, stocks, remembered prices, pantries, waiting customers, rivals' prices, unit costs and
  list prices that move; which of them is there depends on the family.
* Action: a price per product and customer segment, 0.5 to 2 times the list price, in whole coins.
* Reward: price minus unit cost times units sold, minus holding, waste and lost-sale charges; currency a week.
* Dynamics: demand responds to price (and to the assortment's other prices, remembered prices, rivals); sales are demand
  cut by stock; stock is replenished or perishes.
* Constraints: bounds on the price; never more units sold than there are.
* Families: `shop` (own-price demand of four kinds, season, trend, hidden shocks, moving costs, weekly replenishment:
  the ground of the training logs), `substitution`, `nested`, `latent_classes`, `halo` (the assortment's prices act on
  each other; static), `logit_stock` (multinomial logit on a season's stock), `reference_price` (loss aversion),
  `stockpiling`, `waiting`, `repeated_seasons` (customers learn when the clearance comes), `perishable` (a collection),
  `fresh` (goods that keep two weeks), `lead_time` (orders arrive late), `rival` (a matcher or an undercutter),
  `lifecycle` (products rise and fade, events, traffic; static).
* Standard baselines: cost-plus, hi-lo, constant best price, myopic optimum, dynamic program.
""",
)
