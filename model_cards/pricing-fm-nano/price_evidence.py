"""What regressions say about the price response of an item, and of its siblings: inputs of the network, not its answer.

A transformer can learn to regress, but spends most of its training on it. Given the estimates, it learns instead which
of them can be believed: a log whose prices follow demand betrays itself by the differences between them, and the items
of a category, which share customers and a manager, say together what one of them cannot.
"""

from dataclasses import dataclass

import numpy as np

from .channels import COST, PROMOTIONS, UNITS, own_prices, sold_out
from .window_statistics import WindowStatistics

NUM_EVIDENCE = 9
# Third regression (5), means of both over the siblings, number of siblings.
NUM_INDEX_EVIDENCE = 5
NUM_SIBLING_EVIDENCE = NUM_INDEX_EVIDENCE + NUM_EVIDENCE + NUM_INDEX_EVIDENCE + 1
MOST_SIBLINGS = 8  # more than these are not counted: training shows about as many
NEWTON_STEPS = 4
# Ridge penalties, in periods of evidence at mean sales: weak enough for a year of logs to decide, strong enough that a
# price that never moved has slope zero.
PRICE_PENALTY, CONTROL_PENALTY = 0.05, 0.3
LARGEST_SLOPE, LARGEST_WEIGHT = 12.0, 4.0
PERIODS_OF_TREND = 52


@dataclass(frozen=True)
class LoggedSeries:
    """The past of B items side by side, all ending at one origin or each at its own.

    Args:
        units (`(B, T)`): Units over their mean, finite where usable.
        log_prices (`(B, T)`): Log ratio to the reference price, finite where usable.
        promoted (`(B, T)`): 1 in promoted periods.
        log_costs (`(B, T)`): Log unit cost, NaN where unknown.
        usable (`(B, T)`, bool): Periods with known price and uncensored sales.
    """

    units: np.ndarray
    log_prices: np.ndarray
    promoted: np.ndarray
    log_costs: np.ndarray
    usable: np.ndarray


def read_logged_series(past: np.ndarray, statistics: WindowStatistics) -> LoggedSeries:
    """The series of raw windows.

    Args:
        past (`(B, T, channels)`): Raw channels.
        statistics (`WindowStatistics`): Of the past.

    Returns:
        `LoggedSeries`.
    """
    log_prices = np.log(own_prices(past) / statistics.reference[:, None])
    with np.errstate(divide="ignore"):  # a cost of zero says nothing
        log_costs = np.log(past[..., COST].astype(np.float64) / statistics.reference[:, None])
    return LoggedSeries(
        units=past[..., UNITS].astype(np.float64) / statistics.scale[:, None],
        log_prices=log_prices,
        promoted=np.nan_to_num(past[..., PROMOTIONS]).max(-1),
        log_costs=np.where(np.isfinite(log_costs), log_costs, np.nan),
        usable=statistics.observed & np.isfinite(log_prices) & ~sold_out(past),
    )


def price_evidence(series: LoggedSeries) -> np.ndarray:
    """Estimates of the price response from each item's own past.

    Poisson pseudo-likelihood regressions of units on log price, promotion and trend: alone, and with the sales of the
    neighbouring periods, which stand for hidden demand that lasts. Scaling units or prices changes nothing.

    Args:
        series (`LoggedSeries`): The past.

    Returns:
        `(B, 9)`: Slope over 3, log of its standard error and residual deviation of the plain regression; slope over 3,
        log standard error and weight of the neighbours of the second; correlation of prices with the residual of the
        period before; cost's correlation with price, and the slope over 3 that costs as an instrument give. NaN where
        no period is usable (no cost for the last two).

    References:
        Gourieroux, Monfort and Trognon 1984 (pseudo-likelihood); White 1980 (standard errors).
    """
    usable = series.usable
    sales, design = _plain_design(series)
    slope, error, residual, _ = _regress(sales, design, usable)
    neighbours = [np.arcsinh(_shift(sales, usable, lag))[..., None] for lag in (1, -1)]
    near_slope, near_error, _, weights = _regress(sales, np.concatenate([design, *neighbours], axis=-1), usable)
    found = [
        slope / 3,
        np.log(error + 0.05),
        np.log(np.sqrt(_mean(residual**2, usable)) + 0.05),
        near_slope / 3,
        np.log(near_error + 0.05),
        np.clip(weights[:, 4] + weights[:, 5], -LARGEST_WEIGHT, LARGEST_WEIGHT),
        _correlation(design[..., 0], _shift(residual, usable, 1, fill=0.0), usable),
        *_instrument(series.log_costs, design[..., 0], residual, slope, usable),
    ]
    evidence = np.stack(found, axis=1)
    evidence[~usable.any(1)] = np.nan
    return evidence


def sibling_evidence(series: LoggedSeries, groups: np.ndarray) -> np.ndarray:
    """What an item's siblings say of its price response.

    Their sales, period by period, stand for hidden demand that the whole category shares: a third regression holds them
    (and their prices) fixed. Their own estimates, averaged, are what an item would be taken for without any sales.

    Args:
        series (`LoggedSeries`): Items of a group end at the same origin.
        groups (`(B,)`, int): Items with equal numbers are siblings; negative = none.

    Returns:
        `(B, 20)`: Slope over 3, log standard error, log residual deviation, weights of the siblings' sales and prices
        of the third regression; the means over the siblings of `price_evidence` and of these five; and how many
        siblings. NaN for an item without any.
    """
    _, codes = np.unique(np.where(groups < 0, -1 - np.arange(len(groups)), groups), return_inverse=True)
    usable = series.usable
    sales, design = _plain_design(series)
    sold, priced, count = (
        _sum_of_others(values, codes) for values in (sales, design[..., 0], usable.astype(np.float64))
    )
    index = np.log(np.where(count > 0, sold / np.maximum(count, 1), 1.0) + 0.05)
    prices = priced / np.maximum(count, 1)
    controls = [index[..., None], prices[..., None]]
    slope, error, residual, weights = _regress(sales, np.concatenate([design, *controls], axis=-1), usable)
    found = [
        slope / 3,
        np.log(error + 0.05),
        np.log(np.sqrt(_mean(residual**2, usable)) + 0.05),
        np.clip(weights[:, 4], -LARGEST_WEIGHT, LARGEST_WEIGHT),
        np.clip(weights[:, 5], -LARGEST_WEIGHT, LARGEST_WEIGHT),
    ]
    held_fixed = np.stack(found, axis=1)
    held_fixed[~usable.any(1)] = np.nan
    estimates = np.concatenate([price_evidence(series), held_fixed], axis=1)
    known = np.isfinite(estimates)
    others = _sum_of_others(known.astype(np.float64), codes)
    means = np.where(others > 0, _sum_of_others(np.where(known, estimates, 0.0), codes) / np.maximum(others, 1), np.nan)
    siblings = others[:, 0]
    evidence = np.concatenate([held_fixed, means, np.log1p(np.minimum(siblings, MOST_SIBLINGS))[:, None]], axis=1)
    evidence[siblings == 0] = np.nan
    return evidence


def _plain_design(series: LoggedSeries) -> tuple[np.ndarray, np.ndarray]:
    """Sales `(B, T)` and the regressors price, promotion, trend and one `(B, T, 4)`, zero where not usable."""
    usable = series.usable
    sales, prices = np.where(usable, series.units, 0.0), np.where(usable, series.log_prices, 0.0)
    trend = np.broadcast_to(np.arange(-usable.shape[1], 0) / PERIODS_OF_TREND, usable.shape)
    return sales, np.stack([prices, series.promoted, trend, np.ones_like(trend)], axis=-1) * usable[..., None]


def _sum_of_others(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sum over the other rows of the same group: `(B, ...)` -> `(B, ...)`."""
    totals = np.zeros((codes.max(initial=-1) + 1, *values.shape[1:]))
    np.add.at(totals, codes, values)
    return totals[codes] - values


def _regress(
    sales: np.ndarray, design: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slope of the first column, its standard error `(B,)`, relative residuals `(B, T)`, all weights `(B, columns)`."""
    design = design * usable[..., None]
    across = np.ascontiguousarray(np.swapaxes(design, 1, 2))
    penalty = np.full(design.shape[-1], CONTROL_PENALTY)
    penalty[0] = PRICE_PENALTY
    weights = np.zeros((len(sales), design.shape[-1]))
    for _ in range(NEWTON_STEPS):
        mean = _expected(design, weights, usable)
        gradient = (across @ (sales - mean)[..., None])[..., 0] - penalty * weights
        information = (across * mean[:, None]) @ design + np.diag(penalty)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        # From zero, Newton's method overshoots where sales peak at deep cuts.
        weights = np.clip(weights + np.clip(step, -4.0, 4.0), -LARGEST_SLOPE, LARGEST_SLOPE)
    mean = _expected(design, weights, usable)
    residual = np.clip((sales - mean) / np.maximum(mean, 1e-2), -4.0, 4.0) * usable
    inverse = np.linalg.inv((across * mean[:, None]) @ design + np.diag(penalty))
    scores = (design @ inverse[:, 0, :, None])[..., 0] * (sales - mean)
    error = np.sqrt((scores**2).sum(1) + PRICE_PENALTY * inverse[:, 0, 0] ** 2)
    return weights[:, 0], error, residual, weights


def _expected(design: np.ndarray, weights: np.ndarray, usable: np.ndarray) -> np.ndarray:
    return np.exp(np.clip((design @ weights[..., None])[..., 0], -4.0, 4.0)) * usable


def _instrument(
    log_costs: np.ndarray, prices: np.ndarray, residual: np.ndarray, slope: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of cost with price, and the slope over 3 corrected by what the residual still owes to cost."""
    known = usable & np.isfinite(log_costs)
    costs = np.where(known, log_costs, 0.0)
    costs = np.where(known, costs - _mean(costs, known)[:, None], 0.0)
    with_price = (costs * prices).sum(1)
    with_residual = (costs * residual).sum(1)
    # Shrunk towards no correction where cost hardly moves the price: a correction of about 2 is plausible beforehand.
    noise = (residual**2).sum(1) / np.maximum(usable.sum(1), 1) * (costs**2).sum(1)
    correction = with_residual * with_price / (with_price**2 + noise / 4 + 1e-9)
    corrected = np.clip(slope + correction, -LARGEST_SLOPE, LARGEST_SLOPE) / 3
    strength = _correlation(prices, costs, known)
    lacks = ~known.any(1)
    return np.where(lacks, np.nan, strength), np.where(lacks, np.nan, corrected)


def _shift(values: np.ndarray, usable: np.ndarray, lag: int, fill: float = 1.0) -> np.ndarray:
    """Values of the period `lag` earlier; `fill` where that one is not usable."""
    known = np.where(usable, values, fill)
    shifted = np.roll(known, lag, axis=1)
    shifted[:, slice(0, lag) if lag > 0 else slice(lag, None)] = fill
    return shifted


def _mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, values, 0.0).sum(1) / np.maximum(mask.sum(1), 1)


def _correlation(left: np.ndarray, right: np.ndarray, mask: np.ndarray) -> np.ndarray:
    left = np.where(mask, left - _mean(left, mask)[:, None], 0.0)
    right = np.where(mask, right - _mean(right, mask)[:, None], 0.0)
    return (left * right).sum(1) / np.sqrt(((left**2).sum(1) + 1e-6) * ((right**2).sum(1) + 1e-6))
