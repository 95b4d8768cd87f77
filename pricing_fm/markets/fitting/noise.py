"""Shocks and count noise of a fitted market, from the second moments of what its mean demand leaves over.

Relative residuals of two cells multiply to `exp(shared log covariance) - 1` on average, whatever the counts' own
noise. Pairs of different kinds therefore separate the layers: other products in other stores share the market's shock
alone, other stores of a product the product's as well, and so on. Only the same cell holds the noise of the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.chains import fit_chain, fit_chain_and_drift
from pricing_fm.markets.fitting.design import Design, Groups
from pricing_fm.markets.fitting.effects import Effects
from pricing_fm.markets.fitting.likelihood import compute_mean, compute_zero_probability

_LAGS = 7  # 0 to 6: of a chain alone; what a whole category does later is mostly season
_ALL_LAGS = 27  # of a chain and a drift together
_DRIFT_PERIODS = 3 * _ALL_LAGS  # in a shorter log a drift cannot be told from the level
_DISPERSION_BOUNDS = (1e-4, 5.0)


def update_noise(design: Design, effects: Effects, counts: np.ndarray) -> None:
    """Scales and persistences of all shocks, and the dispersion of every item.

    Args:
        design: The data.
        effects: Changed in place.
        counts: Counts with sold-out periods imputed, shape `(items, periods)`; NaN = unknown.
    """
    residuals = compute_residuals(design, effects, counts)
    weighted = residuals.weight * residuals.relative
    for category in range(len(effects.means)):
        rows = np.flatnonzero(design.categories.of_item == category)
        _update_category(design, effects, category, rows, weighted[rows], residuals.weight[rows])
    _update_dispersion(design, effects, residuals)


@dataclass(frozen=True)
class Residuals:
    """What mean demand leaves over; each of shape `(items, periods)`.

    Attributes:
        mean: Mean counts, scaled so that each item's total is right.
        listed: Probability that the log lists the period at all; 1 where zeros are listed.
        relative: Count over its mean (given that it is listed), less 1; 0 where unknown.
        weight: Inverse variance of `relative`, 0 where unknown.
    """

    mean: np.ndarray
    listed: np.ndarray
    relative: np.ndarray
    weight: np.ndarray


def compute_residuals(design: Design, effects: Effects, counts: np.ndarray) -> Residuals:
    """Relative residuals from mean demand.

    Args:
        design: The data.
        effects: The fitted effects.
        counts: Counts, NaN where unknown, shape `(items, periods)`.

    Returns:
        Residuals with their means and weights.
    """
    known = np.isfinite(counts)
    mean = compute_mean(effects.predictor(design))
    excess = effects.total_dispersion(design)[:, None]
    listed = np.ones_like(mean)
    if design.data.zeros_unlisted:
        listed = np.maximum(1.0 - compute_zero_probability(mean, excess), 1e-9)
    sold = np.where(known, counts, 0.0).sum(axis=1)
    total = np.where(known, mean / listed, 0.0).sum(axis=1)
    mean = mean * np.where(sold > 0, sold / np.maximum(total, 1e-9), 1.0)[:, None]
    relative = np.where(known, counts * listed / np.maximum(mean, 1e-9) - 1.0, 0.0)
    # A truncated cell says less about the neighbourhood of its mean.
    weight = np.where(known, mean / (1.0 + excess * mean) * listed**2, 0.0)
    return Residuals(mean, listed, relative, weight)


def _update_category(
    design: Design, effects: Effects, category: int, rows: np.ndarray, weighted: np.ndarray, weight: np.ndarray
) -> None:
    ones = np.ones((weighted.shape[1], 1))
    regressors = np.concatenate([ones, design.time], axis=1)
    identity = np.arange(len(rows))
    own = sum_pairs(weighted, weight, identity)
    everything = sum_pairs(weighted, weight, np.zeros(len(rows), dtype=np.int64))
    inside = {name: sum_pairs(weighted, weight, _local(layer.groups, rows)) for name, layer in effects.layers.items()}
    # Other product and other store: all pairs, less those that share either, with the item itself taken off twice.
    far = everything - sum(inside.values()) + (len(inside) - 1) * own
    shared = _log_covariance(far) if len(rows) > 1 else np.zeros(_ALL_LAGS)
    market = fit_chain(shared[:_LAGS], 0, regressors)
    effects.market.scale[category], effects.market.persistence[category] = market
    below = shared
    for name, layer in effects.layers.items():
        extra = _log_covariance(inside[name] - own) - shared
        scale, layer.persistence[category], layer.drift_scale[category] = _fit(extra, 0, ones)
        members = np.flatnonzero(layer.groups.category == category)
        held = shared[0] + layer.drift_scale[category] ** 2
        layer.scale[members] = _spread_scale(scale, weighted, weight, _local(layer.groups, rows), held)
        below = below + extra
    rest = (_log_covariance(own) - below)[1:]
    found = _fit(rest, 1, ones)
    effects.own_scale[category], effects.own_persistence[category], effects.drift_scale[category] = found


def _fit(autocovariance: np.ndarray, first_lag: int, design: np.ndarray) -> tuple[float, float, float]:
    """Scale and persistence of a chain and scale of a drift; no drift in logs too short to show one."""
    if len(design) < _DRIFT_PERIODS:
        return (*fit_chain(autocovariance[: _LAGS - first_lag], first_lag, design), 0.0)
    return fit_chain_and_drift(autocovariance, first_lag, design)


def _spread_scale(
    scale: float, weighted: np.ndarray, weight: np.ndarray, group: np.ndarray, shared: float
) -> np.ndarray:
    """Scale of each group's shocks, shrunk to the category's by how far groups differ beyond chance."""
    size = int(group.max()) + 1
    sums = np.zeros((4, size, weighted.shape[1]))
    for place, values in enumerate((weighted, weight, weighted**2, weight**2)):
        np.add.at(sums[place], group, values)
    products, pairs = sums[0] ** 2 - sums[2], sums[1] ** 2 - sums[3]
    known = pairs.sum(axis=1) > 1e-9
    if scale == 0.0 or not known.any():
        return np.full(size, scale)
    covariance = products.sum(axis=1)[known] / pairs.sum(axis=1)[known]
    raw = np.log1p(np.clip(covariance, -0.9, None)) - shared
    effective = pairs.sum(axis=1)[known] ** 2 / np.maximum((pairs[known] ** 2).sum(axis=1), 1e-12)
    # Variances are chi-squared; a chain of memory counts for fewer periods, three of them is typical.
    chance = 2.0 * scale**4 / np.maximum(effective / 3.0, 1.0)
    between = max(float(np.var(raw) - np.mean(chance)), 0.0)
    variances = np.full(size, scale**2)
    variances[known] += between / (between + chance) * (raw - scale**2)
    return np.sqrt(np.maximum(variances, 0.05 * scale**2))


def _local(groups: Groups, rows: np.ndarray) -> np.ndarray:
    return np.unique(groups.of_item[rows], return_inverse=True)[1]


def sum_pairs(weighted: np.ndarray, weight: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums over pairs of cells of one group by lag: products of residuals, and their weights, shape `(2, lags)`."""
    size = int(group.max()) + 1
    totals = np.zeros((2, size, weighted.shape[1]))
    np.add.at(totals[0], group, weighted)
    np.add.at(totals[1], group, weight)
    lags = min(_ALL_LAGS, weighted.shape[1])
    sums = np.zeros((2, _ALL_LAGS))
    for lag in range(lags):
        sums[:, lag] = (totals[:, :, lag:] * totals[:, :, : totals.shape[2] - lag]).sum(axis=(1, 2))
    return sums


def _log_covariance(sums: np.ndarray) -> np.ndarray:
    covariance = np.divide(sums[0], sums[1], out=np.zeros(sums.shape[1]), where=sums[1] > 1e-9)
    return np.log1p(np.clip(covariance, -0.9, None))


def _update_dispersion(design: Design, effects: Effects, residuals: Residuals) -> None:
    """Dispersion of each item, shrunk to its category by how far items differ beyond chance."""
    total, mean, weight = effects.shock_variance(design), residuals.mean, residuals.weight
    known = weight > 0
    # Second moment of a count that is listed only when positive: the listed share comes off.
    cell = (residuals.relative**2 + 1.0) / residuals.listed - 1.0 / np.maximum(mean, 1e-9) - 1.0
    squares = np.where(known, weight**2 * cell, 0.0).sum(axis=1)
    norm = np.maximum((weight**2).sum(axis=1), 1e-12)
    effective = np.maximum((weight**2).sum(axis=1) ** 2 / np.maximum((weight**4).sum(axis=1), 1e-12), 1.0)
    raw = (1.0 + np.maximum(squares / norm, -0.9)) * np.exp(-total) - 1.0
    for category in range(len(effects.means)):
        rows = np.flatnonzero((design.categories.of_item == category) & (known.sum(axis=1) >= 8))
        inside = design.categories.of_item == category
        if len(rows) == 0:
            continue
        centre = max(float(np.average(raw[rows], weights=effective[rows])), _DISPERSION_BOUNDS[0])
        level = np.average(1.0 / mean[rows], axis=1, weights=weight[rows]) + centre + np.expm1(total[rows])
        chance = 2.0 * level**2 / effective[rows]
        between = max(float(np.var(raw[rows]) - np.mean(chance)), 0.0)
        effects.dispersion[inside] = centre
        share = between / (between + chance)
        effects.dispersion[rows] = np.clip(
            centre + share * (raw[rows] - centre), max(0.1 * centre, _DISPERSION_BOUNDS[0]), _DISPERSION_BOUNDS[1]
        )
