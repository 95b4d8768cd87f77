"""New products and stores of a fitted category: an assortment drawn from the random-effects distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.category_fit import CategoryFit, ShockFit
from pricing_fm.markets.fitting.chains import Chains
from pricing_fm.markets.fitting.demand_paths import ShockLayer, open_streams
from pricing_fm.markets.fitting.price_process import PricePaths, simulate_prices
from pricing_fm.markets.streams import START, Streams

# A normal distribution of elasticities has a tail below zero; a drawn market has none, so that prices have an optimum.
LOWEST_ELASTICITY = 0.05


@dataclass(frozen=True)
class NewItems:
    """A drawn assortment of one category.

    Attributes:
        products, stores: Names of each item's product and store.
        coefficients: Level, elasticity, promotions, shape `(items, coefficients)`.
        dispersion: Shape `(items,)`.
        reference_prices: Currency per unit, shape `(items,)`.
        count_sizes: Units of one count, shape `(items,)`.
        paths: Prices and promotions.
        layers: Shocks of the market, products, stores and items.
        streams: Streams of the items.
    """

    products: np.ndarray
    stores: np.ndarray
    coefficients: np.ndarray
    dispersion: np.ndarray
    reference_prices: np.ndarray
    count_sizes: np.ndarray
    paths: PricePaths
    layers: tuple[ShockLayer, ...]
    streams: Streams


def draw_new_items(fit: CategoryFit, num_periods: int, seed: int, replicate: int = 0) -> NewItems:
    """Draws products, stores and the pairs that exist, with their coefficients, prices and shocks.

    Args:
        fit: The fitted category.
        num_periods: Periods of the price paths.
        seed: Seed of the simulation.
        replicate: Which repetition.

    Returns:
        The assortment; at least one item.
    """
    products = [f"{fit.name} product {number:03d}" for number in range(fit.num_products)]
    stores = [f"store {number:03d}" for number in range(fit.num_stores)]
    of_product, of_store = (grid.ravel() for grid in np.indices((fit.num_products, fit.num_stores)))
    pairs = open_streams(seed, [f"item|{products[p]}|{stores[s]}" for p, s in zip(of_product, of_store)], replicate)
    carried = pairs.uniform(3, START, (1,))[:, 0] < fit.carried_share
    carried[0] = True
    of_product, of_store, items = of_product[carried], of_store[carried], pairs.select(carried)
    by_product = open_streams(seed, [f"product|{name}" for name in products], replicate)
    by_store = open_streams(seed, [f"store|{fit.name}|{name}" for name in stores], replicate)
    market = open_streams(seed, [f"market|{fit.name}"], replicate)
    size = len(fit.means)
    coefficients = (
        np.array(fit.means)
        + (by_product.normal(4, START, (size,)) * fit.product_deviations)[of_product]
        + (by_store.normal(4, START, (size,)) * fit.store_deviations)[of_store]
        + items.normal(4, START, (size,)) * fit.item_deviations
    )
    coefficients[:, 1] = np.maximum(coefficients[:, 1], LOWEST_ELASTICITY)
    log_price = fit.product_price_deviation * by_product.normal(5, START, (1,))[of_product, 0]
    log_price += fit.item_price_deviation * items.normal(5, START, (1,))[:, 0]
    own = np.arange(len(of_product))
    return NewItems(
        products=np.array(products, dtype=object)[of_product],
        stores=np.array(stores, dtype=object)[of_store],
        coefficients=coefficients,
        dispersion=fit.dispersion * np.exp(fit.dispersion_deviation * items.normal(6, START, (1,))[:, 0]),
        reference_prices=fit.reference_price * np.exp(log_price),
        count_sizes=np.array(fit.count_sizes)[of_product % len(fit.count_sizes)],
        paths=simulate_prices(fit.prices, num_periods, of_product, by_product, items),
        layers=(
            _open_layer(fit.market_shock, market, np.zeros_like(own)),
            _open_layer(fit.product_shock, by_product, of_product),
            _open_layer(fit.store_shock, by_store, of_store),
            _open_layer(fit.own_shock, items, own),
        ),
        streams=items,
    )


def _open_layer(fit: ShockFit, streams: Streams, of_item: np.ndarray) -> ShockLayer:
    scale = fit.scale * np.exp(fit.scale_deviation * streams.normal(7, START, (1,))[:, 0])
    chains = Chains(scale, np.full(len(scale), fit.persistence))
    return ShockLayer(streams, of_item, chains, np.full(len(scale), fit.drift_scale))
