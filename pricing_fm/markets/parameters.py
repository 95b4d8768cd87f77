"""What is true of a retail market, and how plausible truths are drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from pricing_fm.markets.responses import FAMILIES
from pricing_fm.markets.streams import Streams, build_streams

NOISES = ("none", "poisson", "negative_binomial")

# Categories, products and stores draw from streams of their own, so that a store added changes nothing else.
_CATEGORY_SALT, _PRODUCT_SALT, _STORE_SALT = 1, 2, 3


@dataclass(frozen=True)
class RetailSettings:
    """Ranges from which retail markets are drawn. A market is one store x category; its products are its items.

    Pairs are (lowest, highest) of a uniform draw unless said otherwise.

    Attributes:
        num_products: Products of a category.
        num_segments: Customer groups with a price and a stock of their own.
        num_stores: Stores that sell the same category; market m is store m % num_stores of category m // num_stores.
        families: Demand families; every category draws one.
        noises: Noise of the counts; every category draws one.
        elasticity_range: Mean elasticity of a category at the reference price.
        product_deviation: Standard deviation of log elasticity between the products of a category.
        store_deviation: Standard deviation of log elasticity between the stores of a product.
        cost_share_range: Unit cost over list price.
        median_volume: Median units a week at the reference price.
        volume_deviation: Standard deviation of log volume over items.
        volume_bounds: Volumes are clipped to these, units a week.
        median_price: Median reference price, currency per unit.
        price_deviation: Standard deviation of log price over products.
        price_tick: Smallest coin, currency; all prices are multiples of it.
        season_range: Amplitude of log demand over the year.
        trend_range: Growth of log demand a year.
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
    cost_share_range: tuple[float, float] = (0.4, 0.8)
    median_volume: float = 12.0
    volume_deviation: float = 1.2
    volume_bounds: tuple[float, float] = (0.5, 200.0)
    median_price: float = 4.0
    price_deviation: float = 0.7
    price_tick: float = 0.01
    season_range: tuple[float, float] = (0.0, 0.4)
    trend_range: tuple[float, float] = (-0.15, 0.15)
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
        for name in ("reference_share", "cost_change_probability", "stocked_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        for name in (field.name for field in fields(self) if field.name.endswith(("_range", "_bounds"))):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} is ({low}, {high}); the first number must not exceed the second")
        for name, known in (("families", FAMILIES), ("noises", NOISES)):
            unknown = set(getattr(self, name)) - set(known)
            if unknown or not getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; it needs one or more of {known}")
        for name in ("median_volume", "median_price", "price_tick"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass(frozen=True)
class RetailParameters:
    """The truth of a batch of retail markets; arrays have shape `(markets, products, segments)` or broadcast to it.

    Attributes:
        family: Index into `demand.FAMILIES`, int, `(markets, 1, 1)`.
        noise: Index into `NOISES`, int, `(markets, 1, 1)`.
        base_volume: Mean units a week at the reference price, without season, trend, shock or promotion.
        reference_price: Price at which `elasticity` holds, currency per unit.
        elasticity: Minus d log demand / d log price at the reference price.
        purchase_share: Share who buy at the reference price; shapes the logit family alone.
        season_amplitude, season_phase: Yearly cosine of log demand; the phase in years, `(markets, 1, 1)`.
        trend: Growth of log demand a week.
        promotion_uplift: Factor on demand in promoted weeks.
        shock_scale, shock_persistence: Stationary standard deviation and autocorrelation of the hidden log shock.
        common_shock: Share of the shock's innovation variance that all items of the market have in common.
        dispersion: Variance is mean + mean**2 / dispersion; infinite for Poisson.
        reference_effect, reference_memory: Added short-run elasticity; weight of the old memory.
        initial_cost, initial_list_price: Currency per unit at period 0.
        cost_change_probability, cost_change_scale: Weekly chance and size of a move of log cost.
        list_revision_probability: Weekly chance that the list price follows the cost.
        stock_cover: Weeks of forecast demand the stock is filled up to; infinite = no stock is kept.
        price_tick: Smallest coin, `(markets, 1, 1)`.
    """

    family: np.ndarray
    noise: np.ndarray
    base_volume: np.ndarray
    reference_price: np.ndarray
    elasticity: np.ndarray
    purchase_share: np.ndarray
    season_amplitude: np.ndarray
    season_phase: np.ndarray
    trend: np.ndarray
    promotion_uplift: np.ndarray
    shock_scale: np.ndarray
    shock_persistence: np.ndarray
    common_shock: np.ndarray
    dispersion: np.ndarray
    reference_effect: np.ndarray
    reference_memory: np.ndarray
    initial_cost: np.ndarray
    initial_list_price: np.ndarray
    cost_change_probability: np.ndarray
    cost_change_scale: np.ndarray
    list_revision_probability: np.ndarray
    stock_cover: np.ndarray
    price_tick: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(markets, products, segments)."""
        markets, products, segments = self.base_volume.shape
        return markets, products, segments

    def select(self, markets: np.ndarray) -> RetailParameters:
        """Parameters of some markets (positions, with repetition allowed, or a mask)."""
        return replace(self, **{field.name: getattr(self, field.name)[markets] for field in fields(self)})

    def select_items(self, items: np.ndarray | tuple[np.ndarray, ...]) -> RetailParameters:
        """Parameters of some items (index arrays or a mask of `shape`) as markets of one item each."""
        whole = {field.name: np.broadcast_to(getattr(self, field.name), self.shape) for field in fields(self)}
        return replace(self, **{name: values[items].reshape(-1, 1, 1) for name, values in whole.items()})


def sample_retail_parameters(settings: RetailSettings, market_ids: np.ndarray, seed: int) -> RetailParameters:
    """Draw the truth of some markets; market m is the same whatever other markets are drawn.

    Args:
        settings: Ranges.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        Parameters of the markets, in the order of `market_ids`.

    Raises:
        ValueError: If a market id or the seed is negative.
    """
    ids = np.asarray(market_ids, dtype=np.int64)
    groups, size = ids // settings.num_stores, (settings.num_products, settings.num_segments)
    category = _Draws(build_streams(seed, groups, _CATEGORY_SALT), (1, 1))
    product = _Draws(build_streams(seed, groups, _PRODUCT_SALT), size)
    store = _Draws(build_streams(seed, ids, _STORE_SALT), size)
    noise = category.choice([NOISES.index(name) for name in settings.noises])
    mean_elasticity = category.between(settings.elasticity_range)
    elasticity = mean_elasticity * np.exp(
        settings.product_deviation * product.normal() + settings.store_deviation * store.normal()
    )
    volume = _sample_volume(settings, category, product, store)
    tick = np.full_like(mean_elasticity, settings.price_tick)
    price_level = 0.8 * category.normal() + 0.6 * product.normal()
    list_price = _end_in_nine(settings.median_price * np.exp(settings.price_deviation * price_level), tick)
    dispersion = np.exp(product.between((np.log(settings.dispersion_range[0]), np.log(settings.dispersion_range[1]))))
    remembers = category.uniform() < settings.reference_share
    stocked = category.uniform() < settings.stocked_share
    ones = np.ones_like(volume)
    return RetailParameters(
        family=category.choice([FAMILIES.index(name) for name in settings.families]),
        noise=noise,
        base_volume=volume,
        # The regular price need not be the price at which customers were asked.
        reference_price=list_price * np.exp(0.1 * product.normal()),
        elasticity=np.clip(elasticity, 0.6 * settings.elasticity_range[0], 1.5 * settings.elasticity_range[1]),
        purchase_share=product.between((0.05, 0.4)),
        season_amplitude=category.between(settings.season_range) * np.exp(0.3 * product.normal()),
        season_phase=category.uniform(),
        trend=store.between(settings.trend_range) * (7.0 / 365.25),
        promotion_uplift=1.0 + (category.between(settings.promotion_uplift_range) - 1.0) * product.between((0.7, 1.3)),
        shock_scale=category.between(settings.shock_scale_range) * store.between((0.8, 1.2)),
        shock_persistence=category.between(settings.shock_persistence_range),
        common_shock=category.between((0.0, 0.7)),
        dispersion=np.where(noise == NOISES.index("negative_binomial"), dispersion, np.inf),
        reference_effect=np.where(remembers, product.between(settings.reference_effect_range), 0.0),
        reference_memory=category.between(settings.reference_memory_range) * ones,
        initial_cost=list_price * product.between(settings.cost_share_range),
        initial_list_price=list_price,
        cost_change_probability=settings.cost_change_probability * ones,
        cost_change_scale=settings.cost_change_scale * ones,
        list_revision_probability=category.between((0.01, 0.05)) * ones,
        stock_cover=np.where(stocked, store.between(settings.stock_cover_range), np.inf),
        price_tick=tick,
    )


def round_to_tick(prices: np.ndarray, price_tick: np.ndarray) -> np.ndarray:
    """Nearest whole number of the smallest coin, at least one coin, as the double nearest to the decimal price."""
    coins = np.maximum(np.round(prices / price_tick), 1.0)
    # Dividing by the coins in one unit rounds once; multiplying by 0.01 would round twice (3.9900000000000002).
    return np.where(price_tick < 1.0, coins / np.maximum(np.round(1.0 / price_tick), 1.0), coins * price_tick)


class _Draws:
    """Successive independent draws, one array each, from the streams of one level of the hierarchy."""

    def __init__(self, streams: Streams, shape: tuple[int, int]) -> None:
        self.streams, self.shape, self.count = streams, shape, 0

    def uniform(self) -> np.ndarray:
        self.count += 1
        return self.streams.uniform(self.count, 0, self.shape)

    def normal(self) -> np.ndarray:
        self.count += 1
        return self.streams.normal(self.count, 0, self.shape)

    def between(self, bounds: tuple[float, float]) -> np.ndarray:
        return bounds[0] + (bounds[1] - bounds[0]) * self.uniform()

    def choice(self, codes: list[int]) -> np.ndarray:
        return np.array(codes)[(self.uniform() * len(codes)).astype(int)]


def _sample_volume(settings: RetailSettings, category: _Draws, product: _Draws, store: _Draws) -> np.ndarray:
    """Log-normal; two thirds of the log variance lie between products, the rest between stores and categories."""
    level = 0.5 * category.normal() + 0.8 * product.normal() + 0.3 * store.normal()
    return np.clip(settings.median_volume * np.exp(settings.volume_deviation * level), *settings.volume_bounds)


def _end_in_nine(prices: np.ndarray, tick: np.ndarray) -> np.ndarray:
    """Nearest price whose last digit is a nine, at least 0.79 in a currency of cents."""
    return round_to_tick((np.maximum(np.round((prices / tick + 1.0) / 10.0), 8.0) * 10.0 - 1.0) * tick, tick)
