"""Prices planned on an approximate posterior of every item under the simulator's own structure, siblings pooled.

Each item has a particle posterior with the exact likelihood of its k weeks; the category's mean elasticity and response
family, which its items share, are then integrated out over all of them. Told what no log says: the ranges that the
markets were drawn from, and whether prices follow hidden demand.

No ceiling yet: with a few hundred particles an item the pooled evidence of ten items is too noisy, and these prices
earned less than the base's own plan (10 categories, 600 draws an item). Season, shock and promotion effect are each
item's own here, though siblings share them.
"""

from dataclasses import replace

import numpy as np
import torch

from pricing_fm import names
from pricing_fm.evaluation.elasticity_likelihood import Draws, ShopLog, ShopModel, ShopPrior
from pricing_fm.evaluation.elasticity_posterior import SamplerSettings, draw_prior, sample_draws
from pricing_fm.evaluation.few_shot_markets import PRICE_GRID, DecisionTruth
from pricing_fm.markets import ManagerSettings, RetailSettings, SimulatedLog
from pricing_fm.markets.managers import DEMAND_FOLLOWER
from pricing_fm.markets.responses import FAMILIES, compute_log_response

MEAN_POINTS = 34  # grid of a category's mean elasticity
LEAST = 1e-12


def posterior_prices(
    truth: DecisionTruth, weeks: int, settings: SamplerSettings, market: RetailSettings, managers: ManagerSettings
) -> np.ndarray:
    """Prices with the highest posterior expected share of the best margin.

    A share, as the gap closed is one: expected currency would be decided by the few worlds in which an item sells most.

    Args:
        truth (`DecisionTruth`): Logs, list prices and costs.
        weeks (`int`): k: the sampler sees the last k weeks; with none it draws from the prior.
        settings (`SamplerSettings`): Effort per item.
        market (`RetailSettings`): Ranges of the markets; no stocks and no remembered prices.
        managers (`ManagerSettings`): Ranges of the managers.

    Returns:
        `(items,)`: Currency, in the order of `truth.item_ids`.

    Raises:
        ValueError: If the markets have stocks or remember prices: the likelihood knows neither.
    """
    if market.stocked_share or market.reference_share:
        raise ValueError(
            f"stocked_share is {market.stocked_share} and reference_share {market.reference_share}; the posterior needs"
            " markets without stocks and remembered prices (both 0)"
        )
    models = [ShopModel(_prior(market, managers, follows)) for follows in (False, True)]
    place = {item: number for number, item in enumerate(truth.item_ids)}
    prices = np.empty(len(truth.item_ids))
    for log in truth.logs:
        shops = _read_shops(log, weeks)
        rows = np.array([place[item] for item in log.items[names.ITEM_ID]]).reshape(len(log.market_ids), -1)
        for number, own in enumerate(rows):
            model = models[int(log.habits.manager[number] == DEMAND_FOLLOWER)]
            some = shops[number * len(own) : (number + 1) * len(own)]
            draws = [_draw(model, shop, settings, int(row)) for shop, row in zip(some, own, strict=True)]
            prices[own] = _plan_category(model, draws, some, truth, own, market)
    return prices


def _prior(market: RetailSettings, managers: ManagerSettings, follows: bool) -> ShopPrior:
    """Of one item; its elasticity is uniform, and weighed by what is known of the category afterwards."""
    low, high = market.elasticity_range
    alone = replace(
        market, num_products=1, product_deviation=0.0, store_deviation=0.0, elasticity_range=(0.6 * low, 1.5 * high)
    )
    return ShopPrior(alone, managers.confounding, managers.keep_share, follows)


def _read_shops(log: SimulatedLog, weeks: int) -> list[ShopLog]:
    """Last weeks of every item, prices relative to the list price at the decision."""
    arrays, ladder = log.arrays, log.habits.price_ladder
    last = slice(log.settings.num_periods - weeks, None)
    units, price, listed, promotion = (
        values[last].reshape(weeks, log.num_items).T
        for values in (arrays.units, arrays.price, arrays.list_price, arrays.promotion)
    )
    final = np.ravel(log.state.list_price)
    return [
        ShopLog(
            units=units[item],
            inventory=np.full(weeks, np.inf),
            log_price=np.log(price[item] / final[item]),
            promotion=promotion[item],
            rungs=np.abs(price[item] / listed[item] - ladder[:, None]).argmin(axis=0),
            price_ladder=ladder,
        )
        for item in range(log.num_items)
    ]


def _draw(model: ShopModel, shop: ShopLog, settings: SamplerSettings, number: int) -> Draws:
    """All final particles of an item's posterior, one after another."""
    if len(shop.units) == 0:
        parts = [draw_prior(model, settings.particles * settings.final_sweeps, (settings.seed, number))]
    else:
        parts = list(sample_draws(model, shop, settings, number).draws)
    return Draws(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _plan_category(
    model: ShopModel,
    draws: list[Draws],
    shops: list[ShopLog],
    truth: DecisionTruth,
    rows: np.ndarray,
    market: RetailSettings,
) -> np.ndarray:
    """Best price of every item of a category, `(items,)`."""
    means = np.linspace(*market.elasticity_range, MEAN_POINTS)
    spread = np.hypot(market.product_deviation, market.store_deviation)
    fits, curves = [], []
    for one, shop in zip(draws, shops, strict=True):
        found = model.read(one, shop)
        elasticity, share, reference = (
            values.double().numpy() for values in (found.elasticity, found.purchase_share, found.log_reference)
        )
        apart = (np.log(elasticity) - np.log(means)[:, None]) / spread
        near = np.exp(-0.5 * apart**2) / elasticity  # the item's elasticity is log-normal around the category's
        family = one.response.numpy() == np.arange(len(FAMILIES))[:, None]
        fits.append(family[:, None] * near + 0.0)  # (families, means, particles)
        ratio = np.asarray(PRICE_GRID)[:, None] / np.exp(reference)
        response = compute_log_response(one.response.numpy(), elasticity, share, ratio)
        curves.append(np.exp(response))  # (prices, particles)
    evidence = np.stack([np.log(fit.mean(-1) + LEAST) for fit in fits])  # (items, families, means)
    pooled = np.exp(evidence.sum(0) - evidence.sum(0).max())
    best = np.empty(len(draws))
    for item, (fit, curve, row) in enumerate(zip(fits, curves, rows, strict=True)):
        weights = np.einsum("fm,fmp->p", pooled / (fit.mean(-1) + LEAST), fit)
        prices = np.round(truth.list_prices[row] * np.asarray(PRICE_GRID), 2)
        earned = (prices - truth.costs[row])[:, None] * curve
        best[item] = prices[(earned / earned.max(axis=0) @ weights).argmax()]
    return best
