"""Does stock know more of demand than the model does? Then the structured estimator's assumption fails.

A buyer who orders on private signals has much stock when demand will be high: stock-outs then say less than they seem
to. Customers who find one item sold out and take another make an item's demand depend on the stock of its neighbours,
and so on their prices. Either way demand under another policy cannot be read from this log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from pricing_fm.evaluation.off_policy.censored_counts import compute_demand_residuals, compute_expected_sales
from pricing_fm.evaluation.off_policy.censored_regression import compute_parameter_influences
from pricing_fm.evaluation.off_policy.demand_model import FittedDemand

_STEP = 1e-4
_LEAST_MOVE = 1e-9  # of what a test looks at: less is rounding


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


@dataclass(frozen=True)
class SpillOverTest:
    """Test of no relation between demand that neighbours' stock cannot serve and an item's own unexplained demand.

    Attributes:
        statistic: Clustered t statistic; positive = more demand where neighbours ran short.
        p_value: Two-sided.
        share: Of the unserved demand of its neighbours that comes to an item, at least: what the item's own stock cuts
            off of it does not show.
        num_clusters: Neighbourhoods that took part.
    """

    statistic: float
    p_value: float
    share: float
    num_clusters: int


def has_telling_stock(demand: FittedDemand) -> bool:
    """Whether the stock of a log moves enough for `estimate_stock_relation`.

    Args:
        demand: Demand fitted to the log; periods without stock, or with unknown stock, take no part.

    Returns:
        True = at least two decision units have periods whose stock differs from before, with one that follows.
    """
    used = _find_used(demand, _measure_stock(demand))
    return len(np.unique(_spread(demand, demand.log.clusters)[used])) > 1


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
    if not has_telling_stock(demand):
        raise ValueError("stock does not vary within at least two decision units; the test has nothing to look at")
    return StockTest(*_relate(demand, _measure_stock(demand), _spread(demand, demand.log.clusters)))


def has_telling_neighbors(demand: FittedDemand, neighborhoods: np.ndarray) -> bool:
    """Whether neighbours run short often enough for `estimate_spill_over`.

    Args:
        demand: Demand fitted to the log.
        neighborhoods: Label of each unit, `(units,)`; units of one label may be bought in place of each other.

    Returns:
        True = in at least two neighbourhoods the demand that neighbours cannot serve changes from week to week.
    """
    used = _find_used(demand, _measure_shortage(demand, neighborhoods))
    return len(np.unique(_spread(demand, neighborhoods)[used])) > 1


def estimate_spill_over(demand: FittedDemand, neighborhoods: np.ndarray) -> SpillOverTest:
    """Correlate what neighbours' stock is expected to leave unserved with the residual of demand, as for stock.

    How short an item's neighbours are expected to be is known when the week begins: their stock and price are. Under
    the assumption it cannot predict the item's own demand. Shocks that hit a whole neighbourhood and last for weeks
    look the same as spill-over: they empty the shelves first and lift the residual later.

    Args:
        demand: Demand fitted to a log with finite stocks.
        neighborhoods: Label of each unit, `(units,)`; units of one label may be bought in place of each other.

    Returns:
        The test; its variance is that over neighbourhoods and includes the fitted coefficients.

    Raises:
        ValueError: If shapes differ, or shortages do not change within two neighbourhoods.

    References:
        As `estimate_stock_relation`; stock-outs as instruments of substitution: Conlon and Mortimer 2013, "Demand
        estimation under incomplete product availability".
    """
    if not has_telling_neighbors(demand, neighborhoods):
        raise ValueError(
            "neighbours' shortages do not vary within at least two neighbourhoods; there is nothing to test"
        )
    return SpillOverTest(*_relate(demand, _measure_shortage(demand, neighborhoods), _spread(demand, neighborhoods)))


class _Relation(NamedTuple):
    """Statistic, two-sided p-value, slope of relative demand on what was looked at, and clusters that took part."""

    statistic: float
    p_value: float
    slope: float
    num_clusters: int


def _relate(demand: FittedDemand, looked_at: np.ndarray, clusters: np.ndarray) -> _Relation:
    """What is known when a week begins `(units, periods)` against the residual of that week, less the next one's."""
    instruments, following = _demean(demand, looked_at), _find_next(demand)
    used = _find_used(demand, looked_at)

    def compute_moments(moved: FittedDemand) -> np.ndarray:
        """Instrument times the difference of relative residuals, `(units, periods)`."""
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
    sums = np.bincount(clusters.ravel(), cells.ravel())
    total, count = float(moments.sum()), len(np.unique(clusters[used]))
    error = float(np.sqrt((sums**2).sum() * count / (count - 1)))
    statistic = total / error
    # What a slope of 1 would add to the moments: relative residuals move by the difference of what was looked at.
    ahead = np.take_along_axis(instruments, np.maximum(following, 0), axis=1)
    size = float(np.where(used, instruments * (instruments - ahead), 0.0).sum())
    p_value = float(2.0 * student.sf(abs(statistic), count - 1))
    return _Relation(statistic, p_value, total / size if size > 0 else np.nan, count)


def _move(demand: FittedDemand, coefficients: np.ndarray) -> FittedDemand:
    """Other coefficients, the groups' effects unchanged: differences do not see them."""
    return replace(demand, fit=replace(demand.fit, coefficients=demand.fit.coefficients + coefficients))


def _find_used(demand: FittedDemand, looked_at: np.ndarray) -> np.ndarray:
    """Periods that a test looks at, bool, `(units, periods)`."""
    return np.asarray((_find_next(demand) >= 0) & (np.abs(_demean(demand, looked_at)) > _LEAST_MOVE))


def _spread(demand: FittedDemand, labels: np.ndarray) -> np.ndarray:
    """Code of each unit's label, `(units, periods)`."""
    labels = np.asarray(labels)
    if labels.shape != demand.log.units.shape[:1]:
        raise ValueError(f"there are {labels.shape} labels for {len(demand.log.units)} units")
    codes = np.unique(labels, return_inverse=True)[1]
    return np.broadcast_to(codes[:, None], demand.log.units.shape)


def _find_informative(demand: FittedDemand) -> np.ndarray:
    return np.asarray(demand.rows.counts.informative.reshape(demand.log.units.shape))


def _measure_stock(demand: FittedDemand) -> np.ndarray:
    """Log stock, NaN where it says nothing, `(units, periods)`."""
    usable = _find_informative(demand) & np.isfinite(demand.log.stock)
    return np.where(usable, np.log(np.where(usable, demand.log.stock, 1.0)), np.nan)


def _measure_shortage(demand: FittedDemand, neighborhoods: np.ndarray) -> np.ndarray:
    """Demand that the stock of the other units of a neighbourhood is expected to leave unserved, over the own mean.

    A unit whose price is not known, as when its shelf was empty, counts as short by nothing: its demand is not known.
    """
    codes, mean = _spread(demand, neighborhoods)[:, 0], np.exp(demand.compute_logged_log_mean())
    limited = _find_informative(demand) & np.isfinite(demand.log.stock)
    served = compute_expected_sales(mean, np.where(limited, demand.log.stock, 1.0), demand.overdispersion)
    short = np.where(limited, mean - served, 0.0)
    together = np.zeros((codes.max() + 1, mean.shape[1]))
    np.add.at(together, codes, short)
    return np.where(_find_informative(demand), (together[codes] - short) / mean, np.nan)


def _demean(demand: FittedDemand, looked_at: np.ndarray) -> np.ndarray:
    """What was looked at over its mean in the item's past and present weeks, 0 where it is not known."""
    usable = np.isfinite(looked_at)
    values = np.where(usable, looked_at, 0.0)
    mean = np.cumsum(values, axis=1) / np.maximum(np.cumsum(usable, axis=1), 1)
    return np.where(usable, values - mean, 0.0)


def _find_next(demand: FittedDemand) -> np.ndarray:
    """Column of the next informative week of the same unit, -1 where there is none, `(units, periods)`."""
    informative = _find_informative(demand)
    following = np.full(informative.shape, -1)
    ahead = following[:, 0]
    for period, here in reversed(list(enumerate(informative.T))):
        following[:, period] = ahead
        ahead = np.where(here, period, ahead)
    return np.where(informative, following, -1)
