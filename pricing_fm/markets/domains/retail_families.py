"""Families of retail markets that make one point each: what is added to a quiet shop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pricing_fm.markets.context import Calendar, Costs
from pricing_fm.markets.core import Market
from pricing_fm.markets.demand import (
    LatentClassDemand,
    LinearSystemDemand,
    LogitDemand,
    NestedLogitDemand,
    OwnPriceDemand,
    PurchaseProbability,
)
from pricing_fm.markets.memory import LearnedClearance, Pantry, ReferencePrice, StrategicWaiting
from pricing_fm.markets.rivals import MATCHER, UNDERCUTTER, Rivals
from pricing_fm.markets.sampling import Draws
from pricing_fm.markets.supply import FreshStock, LeadTimeStock, PerishableStock

WEEKS_PER_YEAR = 365.25 / 7.0


def sample_family(market: Market, draws: Draws) -> Market:
    """Add what the market's family is about.

    Args:
        market: Shops without shocks, seasons, stocks and moving costs; `market.family` names the family.
        draws: Draws of the markets, one per item.

    Returns:
        The markets of the family.

    Raises:
        ValueError: If the family has no such rule.
    """
    family = market.family
    if family in ("logit_stock", "substitution", "nested", "latent_classes", "halo"):
        return _sample_assortment(market, draws)
    if family in ("reference_price", "stockpiling", "waiting", "repeated_seasons"):
        return _sample_memory(market, draws)
    if family in ("perishable", "fresh", "lead_time"):
        return _sample_supply(market, draws)
    if family == "rival":
        return _sample_rival(market, draws)
    if family == "lifecycle":
        return _sample_lifecycle(market, draws)
    raise ValueError(f"family is {family!r}, which adds nothing to a quiet shop")


def _sample_assortment(market: Market, draws: Draws) -> Market:
    """Products that take customers from each other (or bring them)."""
    shape = market.shape
    customers = draws.log_between((20.0, 200.0), (1, shape[2])) * shape[1] * 0.3
    price = np.broadcast_to(market.list_price, shape)
    # At list prices the assortment draws 30 to 80 % of the customers; sensitivity x price is own elasticity / (1 - s).
    sensitivity = draws.between((1.5, 4.0)) / price
    attraction = draws.log_between((0.3, 3.0))
    drawn = draws.between((0.3, 0.8), (1, shape[2]))
    attraction = attraction / attraction.sum(axis=1, keepdims=True) * drawn / (1.0 - drawn)
    utility = np.log(attraction) + sensitivity * price
    volume = np.array(np.broadcast_to(customers, shape))
    market = replace(market, volume=volume, demand=LogitDemand(utility, sensitivity))
    if market.family == "logit_stock":
        expected = volume * market.demand.respond(price, None)
        stock = np.maximum(np.round(expected * market.num_periods * draws.between((0.2, 0.6))), 1.0)
        # Scarce stock asks for prices far above the list: a cap of twice the list would bind instead of the stock.
        return replace(market, supply=PerishableStock(stock, np.zeros(shape)), ends=True, price_bounds=(0.5, 4.0))
    if market.family == "nested":
        nests = np.eye(2)[np.arange(shape[1]) % 2]
        membership = np.broadcast_to(nests[None, :, None, :], (shape[0], shape[1], 1, 2)).copy()
        # One sensitivity per market and segment: the optimum then has a closed form.
        even = np.broadcast_to(sensitivity.mean(axis=1, keepdims=True), shape).copy()
        dissimilarity = draws.between((0.4, 0.9), (1, 1, 2))
        return replace(
            market, demand=NestedLogitDemand(np.log(attraction) + even * price, even, membership, dissimilarity)
        )
    if market.family == "latent_classes":
        tilt = np.array([0.6, 1.6])
        share = draws.between((0.3, 0.7), (1, 1))
        shares = np.stack([share, 1.0 - share], axis=-1)
        steep = sensitivity[..., None] * tilt
        return replace(
            market, demand=LatentClassDemand(np.log(attraction)[..., None] + steep * price[..., None], steep, shares)
        )
    if market.family == "halo":
        return replace(market, demand=_sample_halo(market, draws))
    return market


def _sample_halo(market: Market, draws: Draws) -> LinearSystemDemand:
    """Linear demand in which every product's price also moves the demand for its neighbour: a complement or a rival."""
    markets, products, segments = market.shape
    price = np.broadcast_to(market.list_price, market.shape)
    elasticity = draws.between((1.3, 3.0))
    intercept = (1.0 + elasticity) / products
    slope = np.zeros((markets, products, segments, products))
    own = elasticity / products / price
    # Off-diagonals below 30 % of the smaller own slope keep the matrix diagonally dominant in both directions.
    strength = 0.3 * draws.between((-1.0, 1.0))
    for product in range(products):
        other = (product + 1) % products
        slope[:, product, :, product] = own[:, product]
        if other != product:
            cross = strength[:, product] * np.minimum(own[:, product], own[:, other]) / 2.0
            slope[:, product, :, other] += cross
            slope[:, other, :, product] += cross
    # Cross effects change the demand at list prices; the intercept takes them back so that it stays 1 / products.
    off = np.einsum("misj,mjs->mis", slope, price) - elasticity / products
    return LinearSystemDemand(intercept + off, slope)


def _sample_memory(market: Market, draws: Draws) -> Market:
    """Customers who remember; counts scatter around the mean and what is remembered follows the mean."""
    price = np.broadcast_to(market.list_price, market.shape).copy()
    if market.family == "reference_price":
        gain = draws.between((0.3, 1.0))
        memory = ReferencePrice(gain, gain * draws.between((1.5, 3.0)), draws.between((0.6, 0.9)))
        return replace(market, memory=memory)
    if market.family == "stockpiling":
        pantry = Pantry(
            capacity=draws.between((2.0, 6.0)),
            use=draws.between((0.6, 1.0)),
            eagerness=draws.between((1.0, 4.0)),
            list_price=price,
        )
        return replace(market, memory=pantry)
    if market.family == "waiting":
        # Volume counts customers here: purchase probabilities come from a logit whose share at the list price is real.
        demand = market.demand
        assert isinstance(demand, OwnPriceDemand)
        waiting = StrategicWaiting(draws.between((0.5, 0.9)), draws.between((0.5, 3.0)), draws.between((0.6, 0.9)))
        sensitivity = demand.elasticity / (1.0 - demand.purchase_share) / price
        odds = np.log(demand.purchase_share / (1.0 - demand.purchase_share))
        logit = PurchaseProbability(odds + sensitivity * price, sensitivity)
        return replace(market, demand=logit, memory=waiting, volume=market.volume / demand.purchase_share)
    seasons = LearnedClearance(
        strength=draws.between((2.0, 6.0)),
        recall=draws.between((0.6, 1.0)),
        persistence=draws.between((0.3, 0.8)),
        season_length=4,
    )
    return replace(market, memory=seasons, num_periods=32)


def _sample_supply(market: Market, draws: Draws) -> Market:
    """Slow movers whose stock is counted unit by unit."""
    volume = draws.log_between((1.0, 5.0))
    market = replace(market, volume=volume)
    cost = np.broadcast_to(market.costs.unit_cost, market.shape)
    if market.family == "perishable":
        periods = 13
        stock = np.maximum(np.round(volume * periods * draws.between((0.6, 1.2))), 1.0)
        # The collection is paid for: what was spent on it cannot be steered any more, so a unit costs nothing now.
        return replace(
            market,
            supply=PerishableStock(stock, 0.1 * cost),
            costs=Costs(np.zeros_like(cost)),
            num_periods=periods,
            ends=True,
        )
    if market.family == "fresh":
        delivery = np.maximum(np.round(volume * draws.between((0.9, 1.5))), 1.0)
        # Deliveries are agreed for the season: their cost is sunk, waste costs extra.
        return replace(market, supply=FreshStock(delivery, 0.1 * cost), costs=Costs(np.zeros_like(cost)))
    # The shelf holds less than demand over the lead time: what is sold today is missed tomorrow.
    level = np.maximum(np.round(volume * draws.between((0.7, 1.6))), 2.0)
    return replace(market, supply=LeadTimeStock(level, 0.02 * cost, 0.1 * cost))


def _sample_rival(market: Market, draws: Draws) -> Market:
    """A rival who matches or undercuts."""
    demand = market.demand
    assert isinstance(demand, OwnPriceDemand)
    price = np.broadcast_to(market.list_price, market.shape)
    shape = (market.shape[0], 1, 1)
    rivals = Rivals(
        kind=np.where(draws.uniform((1, 1)) < 0.5, MATCHER, UNDERCUTTER),
        list_price=price * draws.between((0.9, 1.1)),
        floor=price * draws.between((0.5, 0.7)),
        speed=draws.between((0.3, 0.9)),
        undercut=draws.between((0.02, 0.08)),
        cycle_length=np.full(shape, 4),
        late_share=np.full(shape, 0.1),
        missing_share=np.full(shape, 0.1),
    )
    cross = demand.elasticity * draws.between((0.2, 0.6))
    return replace(market, demand=replace(demand, cross_elasticity=cross), rivals=rivals)


def _sample_lifecycle(market: Market, draws: Draws) -> Market:
    """New products that rise and fade, with weeks of events and a traffic of the store that all products share."""
    weeks = np.arange(market.num_periods)
    peak, length = draws.between((4.0, 12.0))[..., None], draws.between((0.6, 2.0))[..., None]
    # Gamma-shaped sales over time, one at the peak (Bass-like adoption without its discrete steps).
    age = (weeks + 1.0) / peak
    lifecycle = length * (np.log(age) + 1.0 - age)
    happens = draws.uniform((1, 1, market.num_periods)) < 0.1
    events = np.where(happens, draws.between((0.2, 0.8), (1, 1, market.num_periods)), 0.0)
    traffic = 0.15 * draws.normal((1, 1, market.num_periods))
    none = np.zeros((market.shape[0], 1, 1))
    return replace(market, calendar=Calendar(none, none, none, WEEKS_PER_YEAR, lifecycle + events + traffic))
