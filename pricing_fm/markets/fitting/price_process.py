"""How the logged manager sets prices, as a process with two states: at the regular price, or cut.

A fitted process, not resampled histories: its numbers are few, hold no row of the source, and make logs of any length.
What it gives up is timing - cuts fall on any week alike, holidays are not known to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from pricing_fm.markets.fitting.design import Design
from pricing_fm.markets.streams import DECISION, LIST_PRICE, PROMOTION, START, Streams

CUT = 0.03  # a price this share below the regular one is a cut; less is rounding of a paid price
_SAME = 0.005  # two prices nearer than this share are the same
_GRID = tuple(float(level) for level in np.linspace(0.025, 0.975, 20))


@dataclass(frozen=True)
class PromotionProcess:
    """Promotion flags of one category, given whether and how deep the price is cut.

    Attributes:
        combinations: Promotion combinations that occur, one 0/1 tuple each.
        shares: Their shares in periods at the regular price, in shallow and in deep cuts, shape `(3, combinations)`.
        persistence: Chance that promotions stay as they are.
        agreement: Share of items that follow the promotions of their product.
    """

    combinations: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]
    persistence: float
    agreement: float


@dataclass(frozen=True)
class PriceProcess:
    """Prices and promotions of one category.

    A product is cut or not (a Markov chain); its stores mostly follow. Whatever is drawn - depth, promotions, straying
    stores - stays as it was with a fitted probability and is drawn afresh otherwise.

    Attributes:
        cut_share_mean, cut_share_deviation: Share of periods in which a product is cut: mean and deviation between
            products (normal, clipped).
        stop_probability: Chance that a cut ends with the period.
        participation_cut, participation_calm: Share of stores that are cut while their product is, and while it is
            not, at 20 levels from 2.5 to 97.5 %: zones decide for themselves.
        participation_persistence: Chance that this share stays as it is.
        rank_persistence: Chance that a store stays as eager to cut as it was.
        depth_quantiles: Log of regular over cut price at 20 levels from 2.5 to 97.5 %.
        depth_persistence: Chance that a running cut keeps its price.
        noise_share, noise_deviation: Share of regular periods whose price is off the regular one, and by how much
            (log): paid prices are averages.
        noise_persistence: Chance that such a price stays as it is.
        regular_change_probability: Chance that the regular price moves, per period.
        regular_deviation: Deviation of the log regular price around the item's reference.
        promotions: What is promoted, given the cut.
    """

    cut_share_mean: float
    cut_share_deviation: float
    stop_probability: float
    participation_cut: tuple[float, ...]
    participation_calm: tuple[float, ...]
    participation_persistence: float
    rank_persistence: float
    depth_quantiles: tuple[float, ...]
    depth_persistence: float
    noise_share: float
    noise_deviation: float
    noise_persistence: float
    regular_change_probability: float
    regular_deviation: float
    promotions: PromotionProcess


@dataclass(frozen=True)
class PricePaths:
    """Simulated decisions.

    Attributes:
        regular: Regular price over reference price, shape `(items, periods)`.
        price: Price over reference price, same shape.
        promotions: 0/1, shape `(items, periods, channels)`.
    """

    regular: np.ndarray
    price: np.ndarray
    promotions: np.ndarray


def fit_price_process(design: Design, category: int) -> PriceProcess:
    """Reads the process off the logged prices of one category.

    Args:
        design: The data.
        category: Which category.

    Returns:
        The process.
    """
    rows = np.flatnonzero(design.categories.of_item == category)
    known = design.data.observed[rows]
    discount = np.where(known, np.log(design.regular_prices[rows] / design.prices[rows]), np.nan)
    cut = discount > -np.log1p(-CUT)
    product = np.arange(len(rows)) if design.products is None else design.products.of_item[rows]
    product = np.unique(product, return_inverse=True)[1]
    seen, cuts = _sum_by(product, known), _sum_by(product, cut)
    state = np.where(seen > 0, 2 * cuts > seen, False)
    both = (seen[:, 1:] > 0) & (seen[:, :-1] > 0)
    running = both & state[:, :-1]
    part = np.divide(cuts, seen, out=np.full(seen.shape, np.nan), where=seen > 0)
    share = np.array([state[p][seen[p] > 0].mean() for p in range(len(state)) if (seen[p] > 0).any()])
    mean = float(np.clip(share.mean(), 1e-3, 0.95))
    depth = np.where(cut, discount, np.nan)
    calm = known & ~cut
    off = calm & (np.abs(discount) > _SAME)
    steady = np.abs(np.diff(np.where(known, np.log(design.prices[rows]), np.nan), axis=1)) < _SAME
    regular = np.where(known, np.log(design.regular_prices[rows] / design.reference_prices[rows, None]), np.nan)
    return PriceProcess(
        cut_share_mean=mean,
        cut_share_deviation=float(min(share.std(), 0.95 * np.sqrt(mean * (1.0 - mean)))),
        stop_probability=float(np.clip(_rate(~state[:, 1:], running), 0.02, 1.0)),
        participation_cut=_quantiles(part[(seen > 0) & state], 1.0),
        participation_calm=_quantiles(part[(seen > 0) & ~state], 0.0),
        participation_persistence=_autocorrelation(part, state),
        rank_persistence=_compute_rank_persistence(cut, known, part[product]),
        depth_quantiles=_quantiles(depth[cut], 0.0),
        depth_persistence=_rate(steady, cut[:, 1:] & cut[:, :-1]),
        noise_share=_rate(off, calm),
        noise_deviation=float(np.sqrt(np.mean(discount[off] ** 2))) if off.any() else 0.0,
        noise_persistence=_rate(steady, off[:, 1:] & off[:, :-1]),
        regular_change_probability=_rate(np.abs(np.diff(regular, axis=1)) > _SAME, known[:, 1:] & known[:, :-1]),
        regular_deviation=float(np.sqrt(np.nanmean(np.nanvar(regular[known.any(axis=1)], axis=1)))),
        promotions=_fit_promotions(design, rows, known, cut, depth, product),
    )


def _fit_promotions(
    design: Design, rows: np.ndarray, known: np.ndarray, cut: np.ndarray, depth: np.ndarray, product: np.ndarray
) -> PromotionProcess:
    flags = (design.covariates[rows][..., 2:] > 0.5).astype(np.int64)
    codes = flags @ (1 << np.arange(flags.shape[-1]))
    found = np.unique(codes[known])
    place = np.searchsorted(found, np.where(known, codes, found[0]))
    deep = cut & (depth > (np.nanmedian(depth) if cut.any() else 0.0))
    situation = np.where(deep, 2, np.where(cut, 1, 0))
    table = np.zeros((3, len(found)))
    np.add.at(table, (situation[known], place[known]), 1.0)
    shares = (table + 1e-6) / (table + 1e-6).sum(axis=1, keepdims=True)
    same = (situation[:, 1:] == situation[:, :-1]) & known[:, 1:] & known[:, :-1]
    chance = (shares**2).sum(axis=1)
    kept = _beyond_chance(place[:, 1:] == place[:, :-1], same, chance[situation[:, 1:]])
    # Two stores of a product agree beyond chance when both follow it: a squared probability.
    agreeing, pairs, by_chance = 0.0, 0.0, 0.0
    for which in range(3):
        inside = known & (situation == which)
        totals = np.stack([_sum_by(product, inside & (place == k)) for k in range(len(found))])
        number = totals.sum(axis=0)
        agreeing += float((totals * (totals - 1)).sum())
        pairs += float((number * (number - 1)).sum())
        by_chance += float((number * (number - 1)).sum() * chance[which])
    agreement = (agreeing - by_chance) / max(pairs - by_chance, 1e-9) if pairs > 0 else 0.0
    return PromotionProcess(
        combinations=tuple(tuple(int(code >> k & 1) for k in range(flags.shape[-1])) for code in found),
        shares=tuple(tuple(row) for row in shares.tolist()),
        persistence=kept,
        agreement=float(np.sqrt(np.clip(agreement, 0.0, 1.0))),
    )


def simulate_prices(
    process: PriceProcess, num_periods: int, of_product: np.ndarray, products: Streams, items: Streams
) -> PricePaths:
    """Draws prices and promotions of new items.

    Args:
        process: The fitted process.
        num_periods: Periods to draw.
        of_product: Product of each item, shape `(items,)`.
        products: Streams of the products.
        items: Streams of the items.

    Returns:
        Paths relative to the reference price.
    """
    cut = _simulate_cuts(process, num_periods, of_product, products, items)
    held = _hold(products.uniform(2, DECISION, (num_periods, 2)), process.depth_persistence)
    depth = np.interp(held[of_product], _GRID, process.depth_quantiles)
    moves = products.uniform(0, LIST_PRICE, (num_periods,)) < process.regular_change_probability
    moves[:, 0] = True
    fresh = process.regular_deviation * products.normal(1, LIST_PRICE, (num_periods,))
    last = np.maximum.accumulate(np.where(moves, np.arange(num_periods), 0), axis=1)
    regular = np.exp(np.take_along_axis(fresh, last, axis=1))[of_product]
    off = _hold(items.uniform(3, DECISION, (num_periods, 2)), process.noise_persistence)
    size = process.noise_deviation * ndtri(np.clip(off / max(process.noise_share, 1e-9), 1e-6, 1.0 - 1e-6))
    noise = np.where(off < process.noise_share, np.maximum(size, -0.9 * CUT), 0.0)  # lower would be a cut
    price = regular * np.exp(np.where(cut, -depth, noise))
    level = np.where(cut, np.where(held[of_product] > 0.5, 2, 1), 0)
    return PricePaths(regular, price, _simulate_promotions(process.promotions, level, of_product, products, items))


def _simulate_promotions(
    process: PromotionProcess, level: np.ndarray, of_product: np.ndarray, products: Streams, items: Streams
) -> np.ndarray:
    num_periods = level.shape[1]
    common = _hold(products.uniform(0, PROMOTION, (num_periods, 2)), process.persistence)[of_product]
    single = _hold(items.uniform(0, PROMOTION, (num_periods, 2)), process.persistence)
    follows = items.uniform(1, PROMOTION, (1,)) < process.agreement
    borders = np.cumsum(np.array(process.shares), axis=1)[level]
    drawn = np.where(follows, common, single)
    which = np.minimum((drawn[..., None] > borders).sum(axis=-1), len(process.combinations) - 1)
    return np.array(process.combinations, dtype=np.float64).reshape(len(process.combinations), -1)[which]


def _simulate_cuts(
    process: PriceProcess, num_periods: int, of_product: np.ndarray, products: Streams, items: Streams
) -> np.ndarray:
    share = process.cut_share_mean + process.cut_share_deviation * products.normal(0, START, (1,))[:, 0]
    share = np.clip(share, 0.005, 0.9)
    start = np.clip(process.stop_probability * share / (1.0 - share), 0.0, 1.0)
    uniforms = products.uniform(0, DECISION, (num_periods,))
    state = np.zeros(uniforms.shape, dtype=bool)
    state[:, 0] = uniforms[:, 0] < share
    for t in range(1, num_periods):
        stays = uniforms[:, t] >= process.stop_probability
        state[:, t] = np.where(state[:, t - 1], stays, uniforms[:, t] < start)
    eager = _hold(products.uniform(1, DECISION, (num_periods, 2)), process.participation_persistence)
    calm, busy = (np.interp(eager, _GRID, grid) for grid in (process.participation_calm, process.participation_cut))
    part = np.where(state, busy, calm)[of_product]
    return _hold(items.uniform(1, DECISION, (num_periods, 2)), process.rank_persistence) < part


def _hold(uniforms: np.ndarray, persistence: float) -> np.ndarray:
    """Uniform values that stay as they were with a probability: shape `(series, periods, 2)` to `(series, periods)`."""
    fresh = uniforms[:, :, 0] >= persistence
    fresh[:, 0] = True
    last = np.maximum.accumulate(np.where(fresh, np.arange(fresh.shape[1]), 0), axis=1)
    return np.take_along_axis(uniforms[:, :, 1], last, axis=1)


def _sum_by(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    total = np.zeros((int(group.max()) + 1, values.shape[1]))
    np.add.at(total, group, values)
    return total


def _rate(event: np.ndarray, where: np.ndarray) -> float:
    return float(event[where].mean()) if where.any() else 0.0


def _beyond_chance(equal: np.ndarray, where: np.ndarray, chance: np.ndarray) -> float:
    """Persistence k from agreement = k + (1 - k) x chance."""
    if not where.any():
        return 0.0
    agreement, luck = float(equal[where].mean()), float(chance[where].mean())
    return float(np.clip((agreement - luck) / max(1.0 - luck, 1e-9), 0.0, 0.99))


def _quantiles(values: np.ndarray, default: float) -> tuple[float, ...]:
    return tuple(np.quantile(values, _GRID).tolist()) if len(values) else (default,) * len(_GRID)


def _autocorrelation(part: np.ndarray, state: np.ndarray) -> float:
    """Of the share of stores that are cut, while their product's state lasts."""
    away = np.full(part.shape, np.nan)
    for which in (False, True):
        inside = (state == which) & np.isfinite(part)
        away[inside] = part[inside] - part[inside].mean()
    both = (state[:, 1:] == state[:, :-1]) & np.isfinite(away[:, 1:] * away[:, :-1])
    if not both.any():
        return 0.0
    variance = float(np.nanmean(away**2))
    joint = float((away[:, 1:] * away[:, :-1])[both].mean())
    return float(np.clip(joint / max(variance, 1e-12), 0.0, 0.99))


def _compute_rank_persistence(cut: np.ndarray, known: np.ndarray, part: np.ndarray) -> float:
    """How far stores' decisions agree from one period to the next, between fresh and unchanged eagerness."""
    where = known[:, 1:] & known[:, :-1]
    now, before = part[:, 1:][where], part[:, :-1][where]
    luck = float((now * before + (1.0 - now) * (1.0 - before)).mean())
    most = float((1.0 - np.abs(now - before)).mean())
    agreement = float((cut[:, 1:] == cut[:, :-1])[where].mean())
    return float(np.clip((agreement - luck) / max(most - luck, 1e-9), 0.0, 0.99))
