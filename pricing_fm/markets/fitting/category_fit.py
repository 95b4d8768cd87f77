"""What was fitted of one category: the distribution that its items come from, and how its prices are set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pricing_fm.markets.fitting.design import Design
from pricing_fm.markets.fitting.effects import Effects
from pricing_fm.markets.fitting.likelihood import compute_mean
from pricing_fm.markets.fitting.price_process import PriceProcess, PromotionProcess, fit_price_process
from pricing_fm.markets.fitting.side_processes import (
    CostProcess,
    StockProcess,
    fit_cost_process,
    fit_stock_process,
)


@dataclass(frozen=True)
class ShockFit:
    """Autoregressive log-demand shocks of one layer.

    Attributes:
        scale: Stationary standard deviation, median over the layer's groups.
        scale_deviation: Standard deviation of the log scale between groups.
        persistence: Autocorrelation from one period to the next.
        drift_scale: Standard deviation of a slow part of persistence `chains.DRIFT`.
    """

    scale: float
    scale_deviation: float
    persistence: float
    drift_scale: float

    @property
    def variance(self) -> float:
        """Variance of log demand, fast and slow together."""
        return self.scale**2 + self.drift_scale**2


@dataclass(frozen=True)
class CategoryFit:
    """Random-effects distribution, noise and price setting of one category.

    Coefficients are, in this order: level (log mean count at the reference price), elasticity (positive: demand falls
    with the price), one effect on log demand per promotion channel.

    Attributes:
        name: Category.
        means, mean_errors: Category means of the coefficients and their standard errors.
        item_deviations, product_deviations, store_deviations: Standard deviations of the coefficients between items
            of a product and store, between products, between stores; 0 where the panel has no such layer.
        season: Coefficients of the calendar: trend per year, then cosine and sine of each wave.
        market_shock, product_shock, store_shock, own_shock: Shocks shared by the category, by the stores of a product,
            by the products of a store, and of the item alone.
        dispersion, dispersion_deviation: Variance is mean + dispersion x mean**2: median over items, deviation of log.
        reference_price: Median reference price, currency per unit.
        product_price_deviation, item_price_deviation: Deviation of its log between products, and within.
        count_sizes: Units of one count of each product.
        num_products, num_stores: Size of the logged assortment.
        carried_share: Share of product x store pairs that exist.
        prices: How prices and promotions are set.
        cost: Unit costs; None where not logged.
        stock: Stock; None where not logged.
    """

    name: str
    means: tuple[float, ...]
    mean_errors: tuple[float, ...]
    item_deviations: tuple[float, ...]
    product_deviations: tuple[float, ...]
    store_deviations: tuple[float, ...]
    season: tuple[float, ...]
    market_shock: ShockFit
    product_shock: ShockFit
    store_shock: ShockFit
    own_shock: ShockFit
    dispersion: float
    dispersion_deviation: float
    reference_price: float
    product_price_deviation: float
    item_price_deviation: float
    count_sizes: tuple[float, ...]
    num_products: int
    num_stores: int
    carried_share: float
    prices: PriceProcess
    cost: CostProcess | None
    stock: StockProcess | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and nested dicts, ready for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> CategoryFit:
        """The inverse of `to_dict`, JSON lists included.

        Args:
            content: What `to_dict` returned.
        """
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        for layer in ("market_shock", "product_shock", "store_shock", "own_shock"):
            values[layer] = ShockFit(**content[layer])
        prices = dict(content["prices"])
        flags = prices.pop("promotions")
        flags = {
            **flags,
            "combinations": tuple(tuple(row) for row in flags["combinations"]),
            "shares": tuple(tuple(row) for row in flags["shares"]),
        }
        for grid in ("depth_quantiles", "participation_cut", "participation_calm"):
            prices[grid] = tuple(prices[grid])
        values["prices"] = PriceProcess(**prices, promotions=PromotionProcess(**flags))
        values["cost"] = CostProcess(**content["cost"]) if content["cost"] else None
        values["stock"] = StockProcess(**content["stock"]) if content["stock"] else None
        return CategoryFit(**values)


def summarise_category(design: Design, effects: Effects, category: int) -> CategoryFit:
    """Plain numbers of one category.

    Args:
        design: The data.
        effects: The fitted effects.
        category: Which category.

    Returns:
        The summary.
    """
    rows = np.flatnonzero(design.categories.of_item == category)
    deviations, shocks = {}, {}
    for name in ("product", "store"):
        layer = effects.layers.get(name)
        if layer is None:
            deviations[name], shocks[name] = np.zeros(effects.means.shape[1]), ShockFit(0.0, 0.0, 0.0, 0.0)
            continue
        deviations[name] = np.sqrt(layer.variances[category])
        scales = layer.scale[layer.groups.category == category]
        shocks[name] = _summarise_scales(scales, float(layer.persistence[category]), float(layer.drift_scale[category]))
    own = (effects.own_scale, effects.own_persistence, effects.drift_scale)
    market = (effects.market.scale, effects.market.persistence, effects.market.drift_scale)
    products = rows if design.products is None else design.products.of_item[rows]
    stores = None if design.stores is None else design.stores.of_item[rows]
    prices = np.log(design.reference_prices[rows])
    found, of_product, first = _group(products)
    means = np.bincount(of_product, prices) / np.bincount(of_product)
    num_stores = len(np.unique(stores)) if stores is not None else int(np.bincount(of_product).max())
    num_products = len(found) if design.products is not None else int(np.ceil(len(rows) / num_stores))
    dispersion = np.log(effects.dispersion[rows])
    return CategoryFit(
        name=design.categories.names[category],
        means=tuple(effects.means[category].tolist()),
        mean_errors=tuple(effects.mean_errors[category].tolist()),
        item_deviations=tuple(np.sqrt(effects.variances[category]).tolist()),
        product_deviations=tuple(deviations["product"].tolist()),
        store_deviations=tuple(deviations["store"].tolist()),
        season=tuple(effects.season[category].tolist()),
        market_shock=_summarise_scales(*(float(part[category]) for part in market)),
        product_shock=shocks["product"],
        store_shock=shocks["store"],
        own_shock=_summarise_scales(*(float(part[category]) for part in own)),
        dispersion=float(np.exp(np.median(dispersion))),
        dispersion_deviation=float(dispersion.std()),
        reference_price=float(np.exp(np.median(prices))),
        product_price_deviation=float(means.std()),
        item_price_deviation=float((prices - means[of_product]).std()),
        count_sizes=tuple(design.count_size[rows][first].tolist()),
        num_products=num_products,
        num_stores=num_stores,
        carried_share=float(min(1.0, len(rows) / (num_products * num_stores))),
        prices=fit_price_process(design, category),
        cost=fit_cost_process(design, category),
        stock=fit_stock_process(design, category, compute_mean(effects.predictor(design))),
    )


def _group(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return found, inverse, first


def _summarise_scales(scales: np.ndarray | float, persistence: float, drift: float) -> ShockFit:
    typical = float(np.median(scales))
    spread = float(np.log(np.maximum(scales, 1e-3)).std()) if typical > 0.0 else 0.0
    return ShockFit(typical, spread, persistence, drift)
