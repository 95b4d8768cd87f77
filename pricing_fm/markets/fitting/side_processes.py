"""Unit costs and stock of a fitted market, where the log holds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.chains import Chains, fit_chain
from pricing_fm.markets.fitting.design import Design
from pricing_fm.markets.streams import COST_MOVE, START, Streams

_MINIMUM_PERIODS = 8  # of an item with known cost


@dataclass(frozen=True)
class CostProcess:
    """Log cost = log reference price + log share of the item + pass-through x log price ratio + AR(1).

    Attributes:
        share: Median unit cost over reference price.
        share_deviation: Deviation of its logarithm between items.
        pass_through: Elasticity of the logged cost by the item's own price. Above 0 the cost moves with the price,
            as average acquisition costs do.
        scale, persistence: Stationary deviation and memory of what is left.
    """

    share: float
    share_deviation: float
    pass_through: float
    scale: float
    persistence: float

    def draw(self, price_ratio: np.ndarray, streams: Streams) -> np.ndarray:
        """Costs over reference prices of items with the given log price ratios, shape `(items, periods)`."""
        items, periods = price_ratio.shape
        share = self.share_deviation * streams.normal(1, START, (1,))
        chains = Chains(np.full(items, self.scale), np.full(items, self.persistence))
        moves = chains.draw(streams.normal(0, COST_MOVE, (periods,)))
        return self.share * np.exp(share + self.pass_through * price_ratio + moves)


@dataclass(frozen=True)
class StockProcess:
    """Stock at the start of a period over mean demand of the item, log-normal and drawn afresh each period.

    Attributes:
        median: Median cover, periods of mean demand.
        deviation: Deviation of its logarithm.
    """

    median: float
    deviation: float

    def draw(self, mean: np.ndarray, streams: Streams) -> np.ndarray:
        """Whole counts of stock for items with the given mean demand, shape `(items, periods)`."""
        average = mean.mean(axis=1, keepdims=True)
        cover = self.median * np.exp(self.deviation * streams.normal(2, START, (mean.shape[1],)))
        return np.maximum(1.0, np.round(cover * average))


def fit_cost_process(design: Design, category: int) -> CostProcess | None:
    """Reads unit costs of one category; None where too few are known.

    Args:
        design: The data.
        category: Which category.
    """
    rows = np.flatnonzero(design.categories.of_item == category)
    known = design.data.observed[rows] & (design.costs[rows] > 0)
    rows, known = rows[known.sum(axis=1) >= _MINIMUM_PERIODS], known[known.sum(axis=1) >= _MINIMUM_PERIODS]
    if len(rows) == 0:
        return None
    share = np.where(known, np.log(design.costs[rows] / design.reference_prices[rows, None]), np.nan)
    ratio = np.where(known, -design.covariates[rows][..., 1], np.nan)
    middle, centre = np.nanmean(share, axis=1, keepdims=True), np.nanmean(ratio, axis=1, keepdims=True)
    away, moved = np.nan_to_num(share - middle), np.nan_to_num(ratio - centre)
    slope = float((away * moved).sum() / max((moved**2).sum(), 1e-12))
    rest, seen = away - slope * moved, known.astype(float)
    lags = range(min(7, rest.shape[1]))
    covariance = [
        (rest[:, lag:] * rest[:, : rest.shape[1] - lag]).sum()
        / max((seen[:, lag:] * seen[:, : rest.shape[1] - lag]).sum(), 1.0)
        for lag in lags
    ]
    scale, persistence = fit_chain(np.array(covariance), 0, np.ones((rest.shape[1], 1)))
    levels = middle[:, 0] - slope * centre[:, 0]
    return CostProcess(float(np.exp(np.median(levels))), float(levels.std()), slope, scale, persistence)


def fit_stock_process(design: Design, category: int, mean: np.ndarray) -> StockProcess | None:
    """Reads how much stock covers demand in one category; None where no stock is kept.

    Args:
        design: The data.
        category: Which category.
        mean: Fitted mean demand in counts, shape `(items, periods)`.
    """
    rows = design.categories.of_item == category
    known = rows[:, None] & design.alive & (design.inventory > 0)
    if not known.any():
        return None
    average = np.where(design.alive, mean, np.nan)
    cover = np.log(design.inventory / np.nanmean(average, axis=1, keepdims=True))[known]
    return StockProcess(float(np.exp(np.median(cover))), float(cover.std()))
