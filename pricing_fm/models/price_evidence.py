"""What a regression would say about the price response of one item: inputs of the network, never its answer.

A transformer can learn to regress, but spends most of its training on it. Given the estimates, it learns instead when
which of them can be believed: a log whose prices follow demand betrays itself by the difference between them.
"""

import numpy as np

NUM_EVIDENCE = 9
NEWTON_STEPS = 4
# Ridge penalties, in periods of evidence at mean sales: weak enough for a year of logs to decide, strong enough that a
# price that never moved has slope zero.
PRICE_PENALTY, CONTROL_PENALTY = 0.05, 0.3
LARGEST_SLOPE, LARGEST_WEIGHT = 12.0, 4.0
PERIODS_OF_TREND = 52


def price_evidence(
    units: np.ndarray, log_prices: np.ndarray, promoted: np.ndarray, log_costs: np.ndarray, usable: np.ndarray
) -> np.ndarray:
    """Estimates of the price response from each window's own past.

    Poisson pseudo-likelihood regressions of units on log price, promotion and trend: alone, and with the sales of the
    neighbouring periods, which stand for hidden demand that lasts. Scaling units or prices changes nothing.

    Args:
        units (`(B, T)`): Units over their mean, finite where usable.
        log_prices (`(B, T)`): Log ratio to the reference price, finite where usable.
        promoted (`(B, T)`): 1 in promoted periods.
        log_costs (`(B, T)`): Log unit cost, NaN where unknown.
        usable (`(B, T)`, bool): Periods with known price and uncensored sales.

    Returns:
        `(B, 9)`: Slope over 3, log of its standard error and residual deviation of the plain regression; slope over 3,
        log standard error and weight of the neighbours of the second; correlation of prices with the residual of the
        period before; cost's correlation with price, and the slope over 3 that costs as an instrument give. NaN where
        no period is usable (no cost for the last two).

    References:
        Gourieroux, Monfort and Trognon 1984 (pseudo-likelihood); White 1980 (standard errors).
    """
    sales, prices = np.where(usable, units, 0.0), np.where(usable, log_prices, 0.0)
    trend = np.broadcast_to(np.arange(-units.shape[1], 0) / PERIODS_OF_TREND, units.shape)
    columns = [prices, promoted, trend, np.ones_like(trend)]
    slope, error, residual, _ = _regress(sales, np.stack(columns, axis=-1), usable)
    before, after = _shift(sales, usable, 1), _shift(sales, usable, -1)
    with_neighbours = [*columns, np.arcsinh(before), np.arcsinh(after)]
    near_slope, near_error, _, weights = _regress(sales, np.stack(with_neighbours, axis=-1), usable)
    spread = np.sqrt(_mean(residual**2, usable))
    follows = _correlation(prices, _shift(residual, usable, 1, fill=0.0), usable)
    found = [
        slope / 3,
        np.log(error + 0.05),
        np.log(spread + 0.05),
        near_slope / 3,
        np.log(near_error + 0.05),
        np.clip(weights[:, 4] + weights[:, 5], -LARGEST_WEIGHT, LARGEST_WEIGHT),
        follows,
        *_instrument(log_costs, prices, residual, slope, usable),
    ]
    evidence = np.stack(found, axis=1)
    evidence[~usable.any(1)] = np.nan
    return evidence


def _regress(
    sales: np.ndarray, design: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slope of the first column, its standard error `(B,)`, residuals `(B, T)` and all weights `(B, columns)`."""
    design = design * usable[..., None]
    penalty = np.full(design.shape[-1], CONTROL_PENALTY)
    penalty[0] = PRICE_PENALTY
    weights = np.zeros((len(sales), design.shape[-1]))
    for _ in range(NEWTON_STEPS):
        mean = np.exp(np.clip(np.einsum("btc,bc->bt", design, weights), -4.0, 4.0)) * usable
        gradient = np.einsum("btc,bt->bc", design, sales - mean) - penalty * weights
        information = np.einsum("btc,bt,btd->bcd", design, mean, design) + np.diag(penalty)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        # From zero, Newton's method overshoots where sales peak at deep cuts.
        weights = np.clip(weights + np.clip(step, -4.0, 4.0), -LARGEST_SLOPE, LARGEST_SLOPE)
    mean = np.exp(np.clip(np.einsum("btc,bc->bt", design, weights), -4.0, 4.0)) * usable
    residual = np.clip((sales - mean) / np.maximum(mean, 1e-2), -4.0, 4.0) * usable
    inverse = np.linalg.inv(np.einsum("btc,bt,btd->bcd", design, mean, design) + np.diag(penalty))
    scores = np.einsum("bc,btc->bt", inverse[:, 0], design) * (sales - mean)
    return weights[:, 0], np.sqrt((scores**2).sum(1) + PRICE_PENALTY * inverse[:, 0, 0] ** 2), residual, weights


def _instrument(
    log_costs: np.ndarray, prices: np.ndarray, residual: np.ndarray, slope: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of cost with price, and the slope corrected by what the residual still owes to cost."""
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
