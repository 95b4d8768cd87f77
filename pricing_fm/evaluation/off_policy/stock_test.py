"""Does stock know more of demand than the model does? Then the structured estimator's assumption fails.

A buyer who orders on private signals has much stock when demand will be high. Stock-outs then say less than they seem
to, and demand under another policy cannot be read from this log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from pricing_fm.evaluation.off_policy.censored_counts import compute_demand_residuals
from pricing_fm.evaluation.off_policy.censored_regression import compute_parameter_influences
from pricing_fm.evaluation.off_policy.demand_model import FittedDemand

_STEP = 1e-4


@dataclass(frozen=True)
class StockTest:
    """Test of no relation between stock and the demand that the model leaves unexplained.

    Attributes:
        statistic: Clustered t statistic; positive = more stock where demand was higher than the model expects.
        p_value: Two-sided.
        elasticity: Change of log demand per unit of log stock that the residuals suggest.
        num_clusters: Decision units that took part.
    """

    statistic: float
    p_value: float
    elasticity: float
    num_clusters: int


def has_telling_stock(demand: FittedDemand) -> bool:
    """Whether the stock of a log moves enough for `estimate_stock_relation`.

    Args:
        demand: Demand fitted to the log; periods without stock, or with unknown stock, take no part.

    Returns:
        True = at least two decision units have periods whose stock differs from before, with one that follows.
    """
    return len(np.unique(_spread_clusters(demand)[_find_used(demand)])) > 1


def estimate_stock_relation(demand: FittedDemand) -> StockTest:
    """Correlate stock at the start of a week with the residual of demand of that week, against the next one's.

    Stock follows past sales, so it is related to every past residual, and through an item's fitted effect to all of
    them. Differences to the item's next informative week are free of its effect, and stock is measured against the mean
    of the item's own past and present stocks: under the assumption, what was known when the week began cannot predict
    the difference. Sold-out weeks enter with the demand expected beyond the stock.

    Args:
        demand: Demand fitted to a log with finite stocks; periods without stock take no part.

    Returns:
        The test; its variance is that over decision units and includes the fitted coefficients.

    Raises:
        ValueError: If stock never varies within an item, or fewer than two decision units have such weeks.

    References:
        Wooldridge 1997, "Multiplicative panel data models without the strict exogeneity assumption" (differences of
        residuals); Newey 1985 (tests of moments with estimated parameters).
    """
    instruments = _measure_stock(demand)
    following = _find_next(demand)
    used, rows = _find_used(demand), _spread_clusters(demand)
    if not has_telling_stock(demand):
        raise ValueError("stock does not vary within at least two decision units; the test has nothing to look at")

    def compute_moments(moved: FittedDemand) -> np.ndarray:
        """Stock times the difference of relative residuals, `(units, periods)`."""
        log_mean = moved.compute_logged_log_mean()
        residuals = compute_demand_residuals(moved.rows.counts, log_mean.ravel(), moved.overdispersion)
        relative = residuals.reshape(log_mean.shape) / np.exp(log_mean)
        ahead = np.take_along_axis(relative, np.maximum(following, 0), axis=1)
        return np.where(used, instruments * (relative - ahead), 0.0)

    moments = compute_moments(demand)
    influences = compute_parameter_influences(demand.rows, demand.fit)
    slopes = np.zeros(len(demand.fit.coefficients))
    for column in range(len(slopes)):
        step = _STEP * np.eye(len(slopes))[column]
        change = compute_moments(_move(demand, step)).sum() - compute_moments(_move(demand, -step)).sum()
        slopes[column] = change / (2.0 * _STEP)
    cells = moments + (influences.coefficients @ slopes).reshape(moments.shape)
    sums = np.bincount(rows.ravel(), cells.ravel())
    total, clusters = float(moments.sum()), len(np.unique(rows[used]))
    error = float(np.sqrt((sums**2).sum() * clusters / (clusters - 1)))
    statistic = total / error
    # What an elasticity of 1 would add to the moments: relative residuals move by the difference of log stocks.
    ahead = np.take_along_axis(instruments, np.maximum(following, 0), axis=1)
    size = float(np.where(used, instruments * (instruments - ahead), 0.0).sum())
    return StockTest(
        statistic, float(2.0 * student.sf(abs(statistic), clusters - 1)), total / size if size > 0 else np.nan, clusters
    )


def _move(demand: FittedDemand, coefficients: np.ndarray) -> FittedDemand:
    """Other coefficients, the groups' effects unchanged: differences do not see them."""
    return replace(demand, fit=replace(demand.fit, coefficients=demand.fit.coefficients + coefficients))


def _find_used(demand: FittedDemand) -> np.ndarray:
    """Periods that the test looks at, bool, `(units, periods)`."""
    return np.asarray((_find_next(demand) >= 0) & (_measure_stock(demand) != 0.0))


def _spread_clusters(demand: FittedDemand) -> np.ndarray:
    """Code of the decision unit, `(units, periods)`."""
    codes = np.unique(demand.log.clusters, return_inverse=True)[1]
    return np.broadcast_to(codes[:, None], demand.log.units.shape)


def _measure_stock(demand: FittedDemand) -> np.ndarray:
    """Log stock over the mean log stock of the item's past and present informative weeks, 0 where it says nothing."""
    informative = demand.rows.counts.informative.reshape(demand.log.units.shape)
    usable = informative & np.isfinite(demand.log.stock)
    log_stock = np.log(np.where(usable, demand.log.stock, 1.0))
    count = np.cumsum(usable, axis=1)
    mean = np.cumsum(log_stock, axis=1) / np.maximum(count, 1)
    return np.where(usable, log_stock - mean, 0.0)


def _find_next(demand: FittedDemand) -> np.ndarray:
    """Column of the next informative week of the same unit, -1 where there is none, `(units, periods)`."""
    informative = demand.rows.counts.informative.reshape(demand.log.units.shape)
    following = np.full(informative.shape, -1)
    ahead = following[:, 0]
    for period, here in reversed(list(enumerate(informative.T))):
        following[:, period] = ahead
        ahead = np.where(here, period, ahead)
    return np.where(informative, following, -1)
