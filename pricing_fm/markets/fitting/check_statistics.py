"""What is compared between a log and its simulated replicates: each statistic is one number per category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.design import Design
from pricing_fm.markets.fitting.effects import Effects
from pricing_fm.markets.fitting.likelihood import compute_mean
from pricing_fm.markets.fitting.noise import sum_pairs
from pricing_fm.markets.fitting.price_process import CUT

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
_SHOWN = (0.05, 0.5, 0.95, 0.999)  # of the quantiles, in the table
LAGS = (1, 2, 3, 4, 6, 8, 10, 13, 17, 21, 26)
DEPTHS = (CUT, 0.1, 0.2, 0.3, 0.4, 0.6)  # borders of the bins of cut depth, share off the regular price
_MINIMUM_ROWS = 12  # of an item whose own slope is reported


@dataclass(frozen=True)
class CheckContext:
    """What every replicate is measured against; fixed while replicates vary.

    Attributes:
        design: The data.
        log_expected: Log of half a count above mean demand without shocks, shape `(items, periods)`.
        others: Mean log price ratio of the other products of the store (or category), same shape.
        depth_bin: Place in `DEPTHS` of the present cut; 0 = at the regular price; same shape.
        after_cut: True in the first regular period after a cut.
    """

    design: Design
    log_expected: np.ndarray
    others: np.ndarray
    depth_bin: np.ndarray
    after_cut: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Statistics of one log.

    Attributes:
        values: Statistic to its value by category, each of shape `(categories,)`.
        curves: Curves for the page of plots: name to array.
    """

    values: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]


def build_context(design: Design, effects: Effects) -> CheckContext:
    """Prepares what does not change between replicates.

    Args:
        design: The data.
        effects: The fitted effects.
    """
    mean = compute_mean(effects.predictor(design))
    ratio = np.where(design.alive, -design.covariates[..., 1], 0.0)
    groups = design.stores if design.stores is not None else design.categories
    total, number = groups.sum(ratio)[groups.of_item], groups.sum(design.alive.astype(float))[groups.of_item]
    others = (total - ratio) / np.maximum(number - design.alive, 1.0)
    share_off = np.nan_to_num(1.0 - design.prices / design.regular_prices)
    depth_bin = np.searchsorted(DEPTHS, share_off, side="right")
    after = np.zeros_like(design.alive)
    after[:, 1:] = (depth_bin[:, 1:] == 0) & (depth_bin[:, :-1] > 0) & design.alive[:, :-1]
    return CheckContext(design, np.log(mean + 0.5), others, np.minimum(depth_bin, len(DEPTHS) - 1), after)


def compute_statistics(context: CheckContext, sales: np.ndarray) -> Statistics:
    """Statistics of one log of sales at the real prices.

    Args:
        context: What is held fixed.
        sales: Counts, NaN where the log has no entry, shape `(items, periods)`.

    Returns:
        Values by category and curves.
    """
    parts = [_of_category(context, sales, rows) for rows in _rows_of(context.design)]
    values = {name: np.array([part.values[name] for part in parts]) for name in parts[0].values}
    curves = {name: np.stack([part.curves[name] for part in parts]) for name in parts[0].curves if name != "slopes"}
    curves["slopes"] = np.concatenate([part.curves["slopes"] for part in parts])
    return Statistics(values, curves)


def _rows_of(design: Design) -> list[np.ndarray]:
    return [np.flatnonzero(design.categories.of_item == c) for c in range(len(design.categories.names))]


def _of_category(context: CheckContext, sales: np.ndarray, rows: np.ndarray) -> Statistics:
    design = context.design
    counts, alive = sales[rows], design.alive[rows]
    known = np.isfinite(counts)
    residual = np.where(known, np.log(np.where(known, counts, 0.0) + 0.5) - context.log_expected[rows], np.nan)
    seen = known.sum(axis=1) >= 2
    centred = np.nan_to_num(residual - np.nanmean(np.where(seen[:, None], residual, 0.0), axis=1, keepdims=True))
    quantiles = np.nanquantile(counts, QUANTILES)
    slopes = _compute_slopes(counts, -design.covariates[rows][..., 1], known)
    memory = np.array([_correlate(centred, known, lag) for lag in LAGS])
    weekly = np.nansum(counts, axis=0)
    depth = _bin_means(residual, context.depth_bin[rows], len(DEPTHS))
    means, variances = _moments(counts, known)
    values = {
        "units: mean": float(np.nanmean(counts)),
        "units: periods without a sale": float((alive & ~(counts > 0)).sum() / alive.sum()),
        **{
            f"units: {100 * level:g} % quantile": quantiles[QUANTILES.index(level)]
            for level in (0.05, 0.5, 0.95, 0.999)
        },
        "units: variance within items, log-log slope on mean": _slope(np.log(means), np.log(variances)),
        "units: median coefficient of variation": float(np.median(np.sqrt(variances) / means)),
        "residual: standard deviation": float(np.nanstd(centred[known])),
        "residual: 99.5 % quantile": float(np.quantile(centred[known], 0.995)),
        "residual: 0.5 % quantile": float(np.quantile(centred[known], 0.005)),
        "memory: autocorrelation, lag 1": memory[0],
        "memory: autocorrelation, lag 4": memory[LAGS.index(4)],
        "memory: autocorrelation, lag 13": memory[LAGS.index(13)],
        **_compute_commonness(design, rows, centred, known),
        "category: week-to-week change of log sales": float(np.std(np.diff(np.log(np.maximum(weekly, 1.0))))),
        "price: median slope of log units on log price": float(np.median(slopes)) if len(slopes) else np.nan,
        "price: spread of slopes (80 %)": float(np.ptp(np.quantile(slopes, (0.1, 0.9)))) if len(slopes) else np.nan,
        "price: residual in cuts of 3-20 %": _mean(residual, np.isin(context.depth_bin[rows], (1, 2))),
        "price: residual in cuts above 30 %": _mean(residual, context.depth_bin[rows] >= 4),
        "price: residual in the period after a cut": _mean(residual, context.after_cut[rows]),
        "price: residual on log price of other products": _regress(centred, context.others[rows], known),
        **_compute_uplifts(design, rows, counts, known),
    }
    curves = {"quantiles": quantiles, "memory": memory, "weekly": weekly, "slopes": slopes, "depth": depth}
    curves["spread"] = _bin_spread(means, variances)
    return Statistics(values, curves)


def _compute_commonness(design: Design, rows: np.ndarray, centred: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """Correlation of residuals in the same period between items that share a category, product or store."""
    weight = known.astype(float)
    own = sum_pairs(centred, weight, np.arange(len(rows)))[:, 0]
    variance = max(own[0] / max(own[1], 1.0), 1e-12)
    found = {"category": np.zeros(len(rows), dtype=np.int64)}
    for name, groups in (("product", design.products), ("store", design.stores)):
        if groups is not None:
            found[name] = np.unique(groups.of_item[rows], return_inverse=True)[1]
    result = {}
    for name, group in found.items():
        pairs = sum_pairs(centred, weight, group)[:, 0] - own
        result[f"common: residual correlation within a {name}"] = float(pairs[0] / max(pairs[1], 1.0) / variance)
    return result


def _compute_uplifts(design: Design, rows: np.ndarray, counts: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """Mean over items of log units with the flag less log units without, whatever the price."""
    logs = np.log(np.where(known, counts, 0.0) + 0.5)
    result = {}
    for place, name in enumerate(design.promotions):
        on = known & (design.covariates[rows][..., 2 + place] > 0.5)
        off = known & ~on
        both = (on.sum(axis=1) >= 3) & (off.sum(axis=1) >= 3)
        lift = (logs * on)[both].sum(axis=1) / on[both].sum(axis=1)
        lift -= (logs * off)[both].sum(axis=1) / off[both].sum(axis=1)
        result[f"promotion: log lift under {name}, all causes"] = float(lift.mean()) if both.any() else np.nan
    return result


def _compute_slopes(counts: np.ndarray, ratio: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Least-squares slope of log units on log price, per item with enough rows and price variation."""
    number = np.maximum(known.sum(axis=1, keepdims=True), 1)
    logs = np.where(known, np.log(np.where(known, counts, 0.0) + 0.5), 0.0)
    x = np.where(known, ratio - (ratio * known).sum(axis=1, keepdims=True) / number, 0.0)
    y = np.where(known, logs - logs.sum(axis=1, keepdims=True) / number, 0.0)
    squares = (x**2).sum(axis=1)
    usable = (number[:, 0] >= _MINIMUM_ROWS) & (squares > 0.01)
    return (x * y).sum(axis=1)[usable] / squares[usable]


def _moments(counts: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    usable = known.sum(axis=1) >= _MINIMUM_ROWS
    if not usable.any():
        usable = known.sum(axis=1) >= 2
    means, variances = np.nanmean(counts[usable], axis=1), np.nanvar(counts[usable], axis=1)
    positive = (means > 0) & (variances > 0)
    return means[positive], variances[positive]


def _bin_spread(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Mean of log10 mean and of log10 variance in ten bins of equal size, shape `(2, 10)`."""
    order = np.argsort(means)
    parts = [order[part] for part in np.array_split(np.arange(len(order)), 10)]
    return np.array([[np.mean(np.log10(v[p])) if len(p) else np.nan for p in parts] for v in (means, variances)])


def _correlate(centred: np.ndarray, known: np.ndarray, lag: int) -> float:
    if lag >= centred.shape[1]:
        return np.nan
    both = known[:, lag:] & known[:, :-lag]
    product = (centred[:, lag:] * centred[:, :-lag])[both]
    return float(product.mean() / np.mean(centred[known] ** 2)) if len(product) else np.nan


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0]) if len(x) >= 3 and np.ptp(x) > 0 else np.nan


def _regress(centred: np.ndarray, x: np.ndarray, known: np.ndarray) -> float:
    number = np.maximum(known.sum(axis=1, keepdims=True), 1)
    moved = np.where(known, x - (x * known).sum(axis=1, keepdims=True) / number, 0.0)
    squares = float((moved**2).sum())
    return float((moved * centred).sum() / squares) if squares > 1e-6 else np.nan


def _mean(residual: np.ndarray, where: np.ndarray) -> float:
    """Mean residual of the named periods less that of all."""
    inside = residual[where & np.isfinite(residual)]
    return float(inside.mean() - np.nanmean(residual)) if len(inside) >= 20 else np.nan


def _bin_means(residual: np.ndarray, bins: np.ndarray, number: int) -> np.ndarray:
    return np.array([_mean(residual, bins == place) for place in range(number)])
