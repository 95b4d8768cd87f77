"""How good a probabilistic forecast is, over many series and steps, with unknown and sold-out steps left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WEEKS_PER_YEAR = 52


@dataclass(frozen=True)
class ScaledScore:
    """A score whose errors were divided by each item's own in-sample scale.

    Args:
        value (`float`): Mean over items of the mean scaled error over an item's scored steps; no unit.
        items (`int`): Items behind the value.
        dropped (`int`): Items with scored steps that were left out because their scale is zero or unknown.
    """

    value: float
    items: int
    dropped: int


def compute_pinball_loss(
    targets: np.ndarray, quantile_values: np.ndarray, quantile_levels: Sequence[float]
) -> np.ndarray:
    """Pinball loss `max(level * (y - q), (level - 1) * (y - q))`; a quantile minimises its expectation.

    Args:
        targets (`np.ndarray`, shape `(...)`): Observed units; NaN = unknown.
        quantile_values (`np.ndarray`, shape `(..., levels)`): Predicted quantiles, units.
        quantile_levels (`Sequence[float]`): Probabilities in (0, 1), one per last column.

    Returns:
        `np.ndarray`, float64, shape `(..., levels)`: Loss in units; NaN where the target is.

    Raises:
        ValueError: If shapes do not fit or a level is outside (0, 1).
    """
    levels = np.asarray(quantile_levels, dtype=np.float64)
    targets = np.asarray(targets, dtype=np.float64)
    quantile_values = np.asarray(quantile_values, dtype=np.float64)
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"quantile levels must lie in (0, 1); found {list(quantile_levels)}")
    if quantile_values.shape != (*targets.shape, len(levels)):
        raise ValueError(
            f"quantile values have shape {quantile_values.shape}; expected {(*targets.shape, len(levels))} "
            f"for targets of shape {targets.shape} and {len(levels)} levels"
        )
    error = targets[..., None] - quantile_values
    return np.maximum(levels * error, (levels - 1.0) * error)


def compute_wql(
    targets: np.ndarray,
    quantile_values: np.ndarray,
    quantile_levels: Sequence[float],
    mask: np.ndarray | None = None,
) -> float:
    """Weighted quantile loss: mean over levels of (sum of 2 x pinball / sum of |y|), pooled over series and steps.

    With the single level 0.5 it is the WAPE of the median.

    Args:
        targets (`np.ndarray`, shape `(...)`): Observed units; NaN = unknown, left out.
        quantile_values (`np.ndarray`, shape `(..., levels)`): Predicted quantiles, units.
        quantile_levels (`Sequence[float]`): Probabilities in (0, 1).
        mask (`np.ndarray`, bool, shape `(...)`, *optional*): True = scored; sold-out steps are False.

    Returns:
        `float`: No unit; lower is better.

    Raises:
        ValueError: If no step is scored, all scored targets are zero, or a scored prediction is not finite.
    """
    loss = compute_pinball_loss(targets, quantile_values, quantile_levels)
    scored = _scored(targets, mask, quantile_values)
    total = np.abs(np.asarray(targets, dtype=np.float64)[scored]).sum()
    if total == 0:
        raise ValueError("all scored targets are zero, so a loss relative to their sum is undefined")
    return float((2.0 * loss[scored].sum(axis=0) / total).mean())


def compute_sql(
    targets: np.ndarray,
    quantile_values: np.ndarray,
    quantile_levels: Sequence[float],
    scales: np.ndarray,
    mask: np.ndarray | None = None,
) -> ScaledScore:
    """Scaled quantile loss: 2 x pinball, mean over levels and an item's scored steps, divided by the item's scale.

    Args:
        targets (`np.ndarray`, shape `(items, steps)`): Observed units; NaN = unknown, left out.
        quantile_values (`np.ndarray`, shape `(items, steps, levels)`): Predicted quantiles, units.
        quantile_levels (`Sequence[float]`): Probabilities in (0, 1).
        scales (`np.ndarray`, shape `(items,)`): In-sample scale of `compute_seasonal_scale`, units; NaN = none.
        mask (`np.ndarray`, bool, shape `(items, steps)`, *optional*): True = scored.

    Returns:
        `ScaledScore`: Lower is better.

    Raises:
        ValueError: If no item can be scored or a scored prediction is not finite.
    """
    loss = 2.0 * compute_pinball_loss(targets, quantile_values, quantile_levels).mean(axis=-1)
    return _scaled_score(loss, _scored(targets, mask, quantile_values), scales)


def compute_mase(
    targets: np.ndarray, point_values: np.ndarray, scales: np.ndarray, mask: np.ndarray | None = None
) -> ScaledScore:
    """Mean absolute scaled error of a point forecast (the median, which minimises it), averaged over items.

    Args:
        targets (`np.ndarray`, shape `(items, steps)`): Observed units; NaN = unknown, left out.
        point_values (`np.ndarray`, shape `(items, steps)`): Predicted units.
        scales (`np.ndarray`, shape `(items,)`): In-sample scale of `compute_seasonal_scale`, units; NaN = none.
        mask (`np.ndarray`, bool, shape `(items, steps)`, *optional*): True = scored.

    Returns:
        `ScaledScore`: Lower is better; 1 is as good as the seasonal naive forecast was in-sample.

    Raises:
        ValueError: If no item can be scored or a scored prediction is not finite.

    References:
        Hyndman and Koehler 2006, "Another look at measures of forecast accuracy".
    """
    error = np.abs(np.asarray(targets, dtype=np.float64) - np.asarray(point_values, dtype=np.float64))
    return _scaled_score(error, _scored(targets, mask, np.asarray(point_values)[..., None]), scales)


def compute_coverage(
    targets: np.ndarray, lower: np.ndarray, upper: np.ndarray, mask: np.ndarray | None = None
) -> float:
    """Share of scored steps inside a prediction interval, both ends included.

    Args:
        targets (`np.ndarray`, shape `(...)`): Observed units; NaN = unknown, left out.
        lower (`np.ndarray`, shape `(...)`): Lower end, units; the 0.1 quantile for the 80 % interval.
        upper (`np.ndarray`, shape `(...)`): Upper end, units; the 0.9 quantile for the 80 % interval.
        mask (`np.ndarray`, bool, shape `(...)`, *optional*): True = scored.

    Returns:
        `float`: Between 0 and 1; the nominal level is best.

    Raises:
        ValueError: If no step is scored or a scored prediction is not finite.
    """
    targets = np.asarray(targets, dtype=np.float64)
    scored = _scored(targets, mask, np.stack([lower, upper], axis=-1))
    inside = (targets >= lower) & (targets <= upper)
    return float(inside[scored].mean())


def compute_wape(targets: np.ndarray, mean_values: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Sum of absolute errors of the mean forecast, divided by the sum of |y|.

    Args:
        targets (`np.ndarray`, shape `(...)`): Observed units; NaN = unknown, left out.
        mean_values (`np.ndarray`, shape `(...)`): Predicted expected units.
        mask (`np.ndarray`, bool, shape `(...)`, *optional*): True = scored.

    Returns:
        `float`: No unit; lower is better.

    Raises:
        ValueError: If no step is scored, all scored targets are zero, or a scored prediction is not finite.
    """
    return compute_wql(targets, np.asarray(mean_values)[..., None], (0.5,), mask)


def seasonal_lag(season_length: int, periods: int) -> int:
    """Periods between the two ends of an in-sample seasonal difference.

    Args:
        season_length (`int`): Periods per season: 52 for weeks, 7 for days, 12 for months.
        periods (`int`): Periods of history before the forecast origin.

    Returns:
        `int`: The season; 1 for weekly data with less than two years of history.
    """
    return 1 if season_length == WEEKS_PER_YEAR and periods < 2 * WEEKS_PER_YEAR else season_length


def compute_seasonal_scale(history: np.ndarray, lag: int) -> np.ndarray:
    """Mean absolute seasonal difference of each item before the forecast origin.

    Args:
        history (`np.ndarray`, shape `(items, periods)`): Observed units before the origin; NaN = unknown.
        lag (`int`): Periods between the two ends, from `seasonal_lag`.

    Returns:
        `np.ndarray`, float64, shape `(items,)`: Units; NaN where no pair is observed or the scale is zero, so that
        scaled metrics drop and count the item.

    Raises:
        ValueError: If `lag` is below 1.
    """
    if lag < 1:
        raise ValueError(f"lag is {lag}; expected at least 1")
    history = np.asarray(history, dtype=np.float64)
    difference = np.abs(history[:, lag:] - history[:, :-lag]) if history.shape[1] > lag else history[:, :0]
    pairs = (~np.isnan(difference)).sum(axis=1)
    scale = np.nansum(difference, axis=1) / np.maximum(pairs, 1)
    return np.where((pairs > 0) & (scale > 0), scale, np.nan)


def _scored(targets: np.ndarray, mask: np.ndarray | None, predictions: np.ndarray) -> np.ndarray:
    """Steps that count; a model may not choose its own by predicting NaN. Last axis of predictions: values per step."""
    scored = ~np.isnan(np.asarray(targets, dtype=np.float64))
    if mask is not None:
        scored &= np.asarray(mask, dtype=bool)
    if not scored.any():
        raise ValueError("no step is scored: every target is unknown or masked")
    if not np.isfinite(np.asarray(predictions)[scored]).all():
        raise ValueError("a scored step has a prediction that is not finite; every model answers every scored step")
    return scored


def _scaled_score(errors: np.ndarray, scored: np.ndarray, scales: np.ndarray) -> ScaledScore:
    scales = np.asarray(scales, dtype=np.float64)
    present = scored.any(axis=1)
    usable = present & np.isfinite(scales) & (scales > 0)
    if not usable.any():
        raise ValueError("no item has both a scored step and a positive in-sample scale")
    mean_error = np.where(scored, errors, 0.0)[usable].sum(axis=1) / scored[usable].sum(axis=1)
    return ScaledScore(
        value=float((mean_error / scales[usable]).mean()),
        items=int(usable.sum()),
        dropped=int((present & ~usable).sum()),
    )
