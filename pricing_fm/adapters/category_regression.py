"""One regression over all items of a category: what its logged weeks say of the elasticity that the items share.

Counts of every item and period are explained by a level of the item, a common effect of the period (season, fashion,
weather: whatever moves the shelf), promotion and the log price, whose slope is the same for all items. Overdispersed
counts are weighed as a negative binomial would. Of a sold-out period all that counts is that demand was at least what
was sold: its expectation takes the place of the sales (an EM step), or cuts that sell out would seem to sell little.

References:
    Gourieroux, Monfort and Trognon 1984 (pseudo-likelihood); Dempster, Laird and Rubin 1977 (EM).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from pricing_fm.models.channels import INVENTORY, PROMOTIONS, UNITS, observed_units, own_prices, sold_out

# Plausible beforehand: standard deviations of log demand of an item (around its mean sales), a period and promotion,
# and of the elasticity, so wide that it decides only where no price ever moved.
ITEM_SPREAD, PERIOD_SPREAD, PROMOTION_SPREAD, ELASTICITY_SPREAD = 2.0, 0.3, 0.5, 30.0
NEWTON_STEPS = 14
LARGEST_STEP, LARGEST_LOG = 1.5, 6.0
FIRST_DISPERSION, DISPERSIONS = 0.1, (0.02, 1.0)  # of log demand: variance beyond Poisson over the squared mean
_LEAST_INFORMATION = 0.02


class CategoryRegression(NamedTuple):
    """Elasticity of a category's items, positive where demand falls with the price, and its standard error."""

    elasticity: float
    error: float


@dataclass(frozen=True)
class _Rows:
    """Usable item-periods of a category.

    Args:
        units (`(N,)`): Sold.
        stock (`(N,)`): Infinite where nothing limits sales.
        design (`(N, columns)`): Log price first, then promotion, items, periods.
        precision (`(columns,)`): Of the plausible sizes.
        offset (`(N,)`): Log of the item's mean sales.
    """

    units: np.ndarray
    stock: np.ndarray
    design: np.ndarray
    precision: np.ndarray
    offset: np.ndarray


def regress_category(past: np.ndarray) -> CategoryRegression | None:
    """The shared elasticity of some items.

    Args:
        past (`(items, T, channels)`): Raw channels of the visible periods, all items on the same calendar.

    Returns:
        `CategoryRegression`, or None where no item has a usable period.
    """
    rows = _read(past)
    if rows is None:
        return None
    weights, dispersion = np.zeros(rows.design.shape[1]), FIRST_DISPERSION
    censored = rows.units >= rows.stock
    for step in range(NEWTON_STEPS):
        mean = _expected(rows, weights)
        if step and not step % 4 and not censored.all():
            dispersion = _find_dispersion(rows.units[~censored], mean[~censored])
        units, information = _complete(rows, censored, mean, dispersion)
        weight = 1.0 / (1.0 + mean * dispersion)
        gradient = rows.design.T @ ((units - mean) * weight) - rows.precision * weights
        curvature = (rows.design * (mean * weight * information)[:, None]).T @ rows.design + np.diag(rows.precision)
        # From far away Newton's method overshoots.
        weights = weights + np.clip(np.linalg.solve(curvature, gradient), -LARGEST_STEP, LARGEST_STEP)
    mean = _expected(rows, weights)
    weight = 1.0 / (1.0 + mean * dispersion)
    units, _ = _complete(rows, censored, mean, dispersion)
    residual = ((units - mean) ** 2 * weight / mean).sum() / len(mean)
    error = np.sqrt(np.linalg.inv(curvature)[0, 0] * max(residual, 0.5))
    return CategoryRegression(float(-weights[0]), float(error))


def _read(past: np.ndarray) -> _Rows | None:
    prices = own_prices(past)
    usable = observed_units(past) & np.isfinite(prices) & (prices > 0)
    if not usable.any():
        return None
    items, periods = np.nonzero(usable)
    count, length = usable.shape
    units = past[..., UNITS].astype(np.float64)
    # A sold-out item is at least as large as its sales.
    level = np.where(usable, units, 0.0).sum(1) / np.maximum(usable.sum(1), 1)
    reference = np.array([np.median(row[keep]) if keep.any() else 1.0 for row, keep in zip(prices, usable)])
    promoted = np.nan_to_num(past[..., PROMOTIONS]).max(-1)
    design = np.zeros((len(items), 2 + count + length))
    design[:, 0] = np.log(prices[usable] / reference[items])
    design[:, 1] = promoted[usable]
    design[np.arange(len(items)), 2 + items] = 1.0
    design[np.arange(len(items)), 2 + count + periods] = 1.0
    spreads = np.repeat(
        [ELASTICITY_SPREAD, PROMOTION_SPREAD, ITEM_SPREAD, PERIOD_SPREAD], [1, 1, count, length]
    )  # of the design's columns
    stock = np.where(sold_out(past), past[..., INVENTORY].astype(np.float64), np.inf)
    return _Rows(
        units=units[usable],
        stock=stock[usable],
        design=design,
        precision=spreads**-2.0,
        offset=np.log(np.maximum(level, 0.05))[items],
    )


def _expected(rows: _Rows, weights: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(rows.offset + np.clip(rows.design @ weights, -LARGEST_LOG, LARGEST_LOG)))


def _complete(rows: _Rows, censored: np.ndarray, mean: np.ndarray, dispersion: float) -> tuple[np.ndarray, np.ndarray]:
    """Sales, in sold-out periods the expected demand; and the share of a period's information that is left there."""
    deviation = np.sqrt(mean + dispersion * mean**2)
    score = (np.where(censored, rows.stock, 0.0) - 0.5 - mean) / deviation
    hazard = np.exp(-0.5 * score**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(-score))  # of a normal variable
    units = np.where(censored, mean + deviation * hazard, rows.units)
    return units, np.where(censored, np.clip(hazard * (hazard - score), _LEAST_INFORMATION, 1.0), 1.0)


def _find_dispersion(units: np.ndarray, mean: np.ndarray) -> float:
    """By moments: what the squared residuals exceed a Poisson count's variance by."""
    weight = (mean + FIRST_DISPERSION * mean**2) ** -2.0
    excess = (((units - mean) ** 2 - mean) * mean**2 * weight).sum() / (mean**4 * weight).sum()
    return float(np.clip(excess, *DISPERSIONS))
