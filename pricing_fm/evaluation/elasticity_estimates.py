"""Log-log price elasticities at their best: item effects, controls, no sold-out periods, shrunk within a category."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.panel.panel import Panel

# log(units + 1/2) is nearly unbiased for the log of a Poisson mean, and defined at zero sales. Quasi-Poisson
# regression, which needs no logs, earned no more in simulated shops: hidden shocks outweigh the noise of counts.
HALF_A_UNIT = 0.5
HARMONICS = 2  # sine and cosine of the year and the half-year
DAYS_PER_YEAR = 365.25
TWO_WAY_ROUNDS = 30  # alternating projections onto items and periods
SMALLEST_VARIATION = 1e-6  # summed squared log-price deviations below this are a constant price


@dataclass(frozen=True)
class CategoryFit:
    """Pooled regression of one category.

    Args:
        elasticity (`float`): Common slope; NaN when no item's price ever moves.
        residuals (`np.ndarray`, float64, shape `(rows,)`): Log units without controls, item (and period) means removed.
        log_price (`np.ndarray`, float64, shape `(rows,)`): Log price, item (and period) means removed.
        noise (`float`): Residual variance of the pooled regression.
    """

    elasticity: float
    residuals: np.ndarray
    log_price: np.ndarray
    noise: float


def estimate_elasticities(panel: Panel, week_effects: bool = False) -> pd.DataFrame:
    """Own-price elasticity of every item from its log.

    `log(units + 1/2) = item + elasticity_item * log(price) + promotions + season + trend`, the controls common to a
    category. Item slopes are shrunk towards their category's by empirical Bayes: what the log cannot tell apart stays
    together. Sold-out and zero-stock periods, carried prices and unknown units are left out.

    A correlation of prices with hidden demand goes straight into these slopes; that is the weakness of the method.

    Args:
        panel (`Panel`): Logged panel.
        week_effects (`bool`): Whether to remove the mean of each (category, period) instead of season and trend.

    Returns:
        `pd.DataFrame`: Sorted by item: `item_id, category, elasticity, standard_error, category_elasticity, log_level`
        (log of the item's mean units at price 1 under its elasticity) and `observations`; elasticity is NaN where no
        price of the category ever moved.

    References:
        DerSimonian and Laird 1986, "Meta-analysis in clinical trials" (variance between items).
    """
    frame = _usable_rows(panel)
    items = pd.DataFrame({names.ITEM_ID: list(panel.item_ids)})
    first_rows = panel.frame.drop_duplicates(names.ITEM_ID)
    items[names.CATEGORY] = first_rows[names.CATEGORY].to_numpy() if names.CATEGORY in first_rows else "all"
    parts = [
        _estimate_category(frame[frame[names.ITEM_ID].isin(group[names.ITEM_ID])], group, panel, week_effects)
        for _, group in items.groupby(names.CATEGORY, sort=True, dropna=False)
    ]
    return pd.concat(parts).sort_values(names.ITEM_ID).reset_index(drop=True)


def _usable_rows(panel: Panel) -> pd.DataFrame:
    frame = panel.frame
    usable = frame[names.UNITS].notna() & frame[names.PRICE].notna()
    if names.PRICE_IMPUTED in frame:
        usable &= ~frame[names.PRICE_IMPUTED].astype(bool)
    if names.INVENTORY in frame:
        # Sales that reach the stock are a lower bound of demand; a log-log regression cannot use a bound.
        usable &= ~(frame[names.UNITS] >= frame[names.INVENTORY])
    return frame[usable.to_numpy()]


def _estimate_category(rows: pd.DataFrame, items: pd.DataFrame, panel: Panel, week_effects: bool) -> pd.DataFrame:
    codes = pd.Index(items[names.ITEM_ID]).get_indexer(rows[names.ITEM_ID])
    units = rows[names.UNITS].to_numpy(dtype=np.float64)
    log_price = np.log(rows[names.PRICE].to_numpy(dtype=np.float64))
    controls = _controls(rows, panel, season=not week_effects)
    periods = pd.factorize(rows[names.TIMESTAMP])[0] if week_effects else None
    fit = _fit_pooled(np.log(units + HALF_A_UNIT), log_price, controls, codes, periods)
    slope, error = _shrink(fit, codes, len(items))
    # The level at which the item's own slope reproduces its total units.
    total = np.bincount(codes, weights=units, minlength=len(items))
    at_price_one = np.bincount(codes, weights=np.exp(np.nan_to_num(slope)[codes] * log_price), minlength=len(items))
    sold = total > 0
    return items.assign(
        elasticity=slope,
        standard_error=error,
        category_elasticity=fit.elasticity,
        log_level=np.log(np.where(sold, total, np.nan) / np.where(sold, at_price_one, 1.0)),
        observations=np.bincount(codes, minlength=len(items)),
    )


def _controls(rows: pd.DataFrame, panel: Panel, season: bool) -> np.ndarray:
    columns = [rows[name].fillna(0.0).to_numpy(dtype=np.float64) for name in panel.schema.promotions]
    if season and len(rows):
        days = (rows[names.TIMESTAMP] - rows[names.TIMESTAMP].min()).dt.days.to_numpy(dtype=np.float64)
        if days.max() > DAYS_PER_YEAR:  # with less than a year, season and trend are one
            for harmonic in range(1, HARMONICS + 1):
                angle = 2.0 * np.pi * harmonic * days / DAYS_PER_YEAR
                columns += [np.sin(angle), np.cos(angle)]
        columns.append(days / DAYS_PER_YEAR)
    return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0))


def _fit_pooled(
    log_units: np.ndarray, log_price: np.ndarray, controls: np.ndarray, codes: np.ndarray, periods: np.ndarray | None
) -> CategoryFit:
    if not len(log_units):
        return CategoryFit(float("nan"), log_units, log_price, float("nan"))
    table = _remove_means(np.column_stack([log_units, log_price, controls]), codes, periods)
    if (table[:, 1] ** 2).sum() < SMALLEST_VARIATION:
        return CategoryFit(float("nan"), table[:, 0], table[:, 1], float("nan"))
    coefficients, *_ = np.linalg.lstsq(table[:, 1:], table[:, 0], rcond=None)
    residuals = table[:, 0] - table[:, 1:] @ coefficients
    freedom = max(1, len(log_units) - len(np.unique(codes)) - table.shape[1] + 1)
    without_controls = table[:, 0] - table[:, 2:] @ coefficients[1:]
    return CategoryFit(float(coefficients[0]), without_controls, table[:, 1], float((residuals**2).sum() / freedom))


def _shrink(fit: CategoryFit, codes: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Empirical-Bayes slopes and their standard errors; the category's slope where an item's own price never moved."""
    if np.isnan(fit.elasticity):
        return np.full(items, np.nan), np.full(items, np.nan)
    variation = np.bincount(codes, weights=fit.log_price**2, minlength=items)
    product = np.bincount(codes, weights=fit.log_price * fit.residuals, minlength=items)
    moved = variation > SMALLEST_VARIATION
    slopes, precision = product[moved] / variation[moved], variation[moved] / max(fit.noise, 1e-12)
    centre, between = _measure_spread(slopes, precision)
    slope = np.full(items, centre)
    error = np.full(items, np.sqrt(between + 1.0 / precision.sum()))
    slope[moved], error[moved] = _pull_together(slopes, precision, centre, between)
    return slope, error


def shrink_slopes(
    slopes: np.ndarray, precision: np.ndarray, centre: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Empirical-Bayes estimates from separate ones: the less precise, the closer to the common mean.

    Args:
        slopes (`np.ndarray`, shape `(items,)`): Separate estimates, finite.
        precision (`np.ndarray`, shape `(items,)`): Inverse squared standard errors, > 0.
        centre (`float`, *optional*): What to shrink towards; by default the mean weighted by total precision.

    Returns:
        `tuple`: Estimates and their standard errors, `(items,)` each.

    References:
        DerSimonian and Laird 1986, "Meta-analysis in clinical trials".
    """
    mean, between = _measure_spread(slopes, precision)
    if centre is None:
        # Few precise items must not stand for all: the spread between items counts in their weights.
        mean = float(np.average(slopes, weights=1.0 / (1.0 / precision + between)))
    return _pull_together(slopes, precision, mean if centre is None else centre, between)


def _measure_spread(slopes: np.ndarray, precision: np.ndarray) -> tuple[float, float]:
    """Mean weighted by precision, and variance of the true slopes between items."""
    centre = float(np.average(slopes, weights=precision))
    surplus = (precision * (slopes - centre) ** 2).sum() - (len(slopes) - 1)
    spread = precision.sum() - (precision**2).sum() / precision.sum()
    return centre, max(0.0, surplus / spread) if spread > 0 else 0.0


def _pull_together(
    slopes: np.ndarray, precision: np.ndarray, centre: float, between: float
) -> tuple[np.ndarray, np.ndarray]:
    own = precision * between / (1.0 + precision * between)  # weight of an item's own slope
    error = np.sqrt(own / precision + (1.0 - own) ** 2 / precision.sum())
    return own * slopes + (1.0 - own) * centre, error


def _remove_means(table: np.ndarray, codes: np.ndarray, periods: np.ndarray | None) -> np.ndarray:
    centred = table - _group_means(table, codes)
    if periods is None:
        return centred
    for _ in range(TWO_WAY_ROUNDS):
        centred = centred - _group_means(centred, periods)
        centred = centred - _group_means(centred, codes)
    return centred


def _group_means(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean of each row's group, shape of the table."""
    sums = np.stack([np.bincount(codes, weights=column) for column in table.T], axis=1)
    return (sums / np.maximum(np.bincount(codes), 1)[:, None])[codes]
