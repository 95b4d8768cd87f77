"""How far an item lately sells from what its regression expects, as far ahead as each step lies.

Some levels jump and stay, others come back: each memory of the past is judged by how well it would have forecast this
item's own past as many periods ahead, and so is the spread of what remained.
"""

from dataclasses import dataclass

import numpy as np

HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 16.0, np.inf)  # periods until a period counts half in a level
FAST, SLOW = 0, 4  # places of the memories that the network sees beside the mixture
LEADS = (1, 2, 4, 8, 16)  # periods ahead that are judged; steps between them are interpolated
# Periods at the expected level, added to both sides of a ratio: the more sales scatter, the more of them.
SHRINKAGE_OF_DISPERSION, SHRINKAGE_BOUNDS = 4.0, (0.02, 2.0)
RESIDUAL_PROBABILITIES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NORMAL_SCORES = (-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449)
# What a spread is before anything was seen: log-normal with mean one, worth so many periods.
PRIOR_DEVIATION, PRIOR_PERIODS = 0.5, 4.0
SMALLEST_DISPERSION, SMALLEST_MEAN = 0.02, 1e-3


@dataclass(frozen=True)
class RecentLevel:
    """B items, H steps ahead.

    Args:
        level (`(B, H)`): Log of sales over the regression's mean, as forecast for each step.
        fast, slow (`(B,)`): The same with memories of 1 and 16 periods, whatever the step.
        residual_quantiles (`(B, H, 7)`): Quantiles of sales over such forecasts, as many periods ahead.
    """

    level: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    residual_quantiles: np.ndarray


def recent_level(
    sales: np.ndarray, mean: np.ndarray, usable: np.ndarray, weight: np.ndarray, steps: int
) -> RecentLevel:
    """Forecasts each item's level by a mixture of exponential memories, weighted by their likelihood.

    Args:
        sales (`(B, T)`): Units over their mean; 0 where not usable.
        mean (`(B, T)`): What the regression expects.
        usable (`(B, T)`, bool): Periods whose units are demand.
        weight (`(B, T)`): How much each period counts; 0 where not usable.
        steps (`int`): Periods ahead, H.

    Returns:
        `RecentLevel`.

    References:
        Brown 1959 (exponential smoothing); Raftery 1995 (weights by likelihood).
    """
    total = np.maximum(weight.sum(1), 1e-9)
    dispersion = (weight * (sales - mean) ** 2 / np.maximum(mean, 0.1)).sum(1) / total
    levels = _exponential_levels(sales, mean, usable, dispersion)
    found, quantiles = [], []
    for lead in LEADS:
        known = levels[:, : max(sales.shape[1] - lead + 1, 0)]
        known = np.pad(known, ((0, 0), (sales.shape[1] - known.shape[1], 0), (0, 0)))
        expected = mean[..., None] * np.exp(known)
        deviance = weight[..., None] * (expected - sales[..., None] * np.log(np.maximum(expected, SMALLEST_MEAN)))
        share = _likelihood_shares(deviance.sum(1), dispersion)
        found.append((share * levels[:, -1]).sum(-1))
        forecast = mean * np.exp((known * share[:, None]).sum(-1))
        quantiles.append(_residual_quantiles(sales / np.maximum(forecast, SMALLEST_MEAN), usable, weight))
    return RecentLevel(
        level=_between_leads(found, steps),
        fast=levels[:, -1, FAST],
        slow=levels[:, -1, SLOW],
        residual_quantiles=_between_leads(quantiles, steps),
    )


def _exponential_levels(sales: np.ndarray, mean: np.ndarray, usable: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Log ratio before each period, and after the last, for each memory: `(B, T + 1, memories)`."""
    decay = 0.5 ** (1.0 / np.array(HALF_LIVES))
    # Memories first, items last: one row of the loop is contiguous.
    sold, expected = (np.ascontiguousarray((values * usable).T) for values in (sales, mean))
    sums = np.zeros((sales.shape[1] + 1, 2, len(decay), len(sales)))
    for period in range(sales.shape[1]):
        sums[period + 1] = sums[period] * decay[:, None]
        sums[period + 1, 0] += sold[period]
        sums[period + 1, 1] += expected[period]
    shrinkage = np.clip(SHRINKAGE_OF_DISPERSION * dispersion, *SHRINKAGE_BOUNDS)
    return np.log((sums[:, 0] + shrinkage) / (sums[:, 1] + shrinkage)).transpose(2, 0, 1)


def _likelihood_shares(deviance: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Weights of the memories, `(B, memories)`, by quasi-likelihood: overdispersed sales tell less."""
    behind = deviance - deviance.min(-1, keepdims=True)
    share = np.exp(-behind / np.maximum(dispersion, SMALLEST_DISPERSION)[:, None])
    return share / share.sum(-1, keepdims=True)


def _residual_quantiles(ratios: np.ndarray, usable: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted quantiles of `(B, T)` ratios, shrunk towards a usual spread where there are few: `(B, 7)`."""
    # Among equals, too, the older comes first: their weights differ.
    order = np.argsort(np.where(usable, ratios, np.inf), axis=1, kind="stable")
    ranked, weights = (np.take_along_axis(values, order, axis=1) for values in (ratios, weight))
    total = weight.sum(1)
    position = (weights.cumsum(1) - 0.5 * weights) / np.maximum(total, 1e-9)[:, None]
    probabilities = np.array(RESIDUAL_PROBABILITIES)
    last = np.maximum(usable.sum(1) - 1, 0)[:, None]
    above = (position[..., None] < probabilities).sum(1)
    low, high = (np.clip(place, 0, last) for place in (above - 1, above))
    left, right = (np.take_along_axis(position, place, axis=1) for place in (low, high))
    between = np.clip((probabilities - left) / np.maximum(right - left, 1e-9), 0.0, 1.0)
    left, right = (np.take_along_axis(ranked, place, axis=1) for place in (low, high))
    found = left + between * (right - left)
    usual = np.exp(PRIOR_DEVIATION * np.array(NORMAL_SCORES) - 0.5 * PRIOR_DEVIATION**2)
    count = (total**2 / np.maximum((weight**2).sum(1), 1e-9))[:, None]
    return (count * found + PRIOR_PERIODS * usual) / (count + PRIOR_PERIODS)


def _between_leads(values: list[np.ndarray], steps: int) -> np.ndarray:
    """Values of `(B, ...)` at each of `LEADS`, interpolated over log lead: `(B, steps, ...)`."""
    stacked = np.stack(values, axis=1)
    place = np.interp(np.arange(1, steps + 1), LEADS, np.arange(len(LEADS)))
    low = np.minimum(place.astype(int), len(LEADS) - 2)
    share = (place - low).reshape((1, -1) + (1,) * (stacked.ndim - 2))
    return stacked[:, low] * (1.0 - share) + stacked[:, low + 1] * share
