"""Autoregressive shocks of log demand: drawn, and read off autocovariances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

_SHORTEST = 0.2
DRIFT = 0.98  # persistence of slow drift: half of it is left after 34 periods


@dataclass(frozen=True)
class Chains:
    """Stationary AR(1) laws of some series.

    Attributes:
        scale: Stationary standard deviation of log demand, shape `(series,)`.
        persistence: Autocorrelation from one period to the next, in [0, 1), shape `(series,)`.
    """

    scale: np.ndarray
    persistence: np.ndarray

    def draw(self, normals: np.ndarray) -> np.ndarray:
        """Stationary paths from standard normal draws.

        Args:
            normals: Shape `(series, periods)`.

        Returns:
            Paths of log demand, same shape; the first periods do not depend on how many follow.
        """
        paths = np.empty_like(normals)
        innovation = self.scale * np.sqrt(1.0 - self.persistence**2)
        paths[:, 0] = self.scale * normals[:, 0]
        for t in range(1, normals.shape[1]):
            paths[:, t] = self.persistence * paths[:, t - 1] + innovation * normals[:, t]
        return paths


def fit_chain(autocovariance: np.ndarray, first_lag: int, design: np.ndarray) -> tuple[float, float]:
    """Scale and persistence whose expected autocovariances, seen through removed regressors, are nearest.

    Residuals have lost their mean (and season, trend): raw autocovariances are too low, the more so the longer the
    memory. The expected loss is exact for the regressors given, so persistence is not biased towards zero.

    Args:
        autocovariance: Of log demand at lags `first_lag`, `first_lag + 1`, ..., shape `(lags,)`.
        first_lag: 0, or 1 where lag 0 also holds the noise of the counts.
        design: Regressors that were removed, shape `(periods, columns)`, a column of ones among them.

    Returns:
        Scale (0 if no positive fit exists) and persistence.
    """
    lags = np.arange(first_lag, first_lag + len(autocovariance))
    # Near lags have the most pairs and decide what a simulated path looks like from one period to the next.
    importance = 1.0 / (1.0 + lags)
    best = (np.inf, 0.0, 0.0)
    for persistence in _list_persistences(first_lag):
        expected = _expect(persistence, lags, design)
        norm = np.sum(importance * expected**2)
        variance = max(0.0, float(np.sum(importance * expected * autocovariance) / max(norm, 1e-12)))
        loss = float(np.sum(importance * (autocovariance - variance * expected) ** 2))
        if loss < best[0]:
            best = (loss, variance, float(persistence))
    return float(np.sqrt(best[1])), best[2]


def fit_chain_and_drift(autocovariance: np.ndarray, first_lag: int, design: np.ndarray) -> tuple[float, float, float]:
    """A chain of free persistence beside a slow drift of persistence `DRIFT`, fitted as in `fit_chain`.

    One chain fits either next week or next quarter: sales of real items remember both.

    Args:
        autocovariance: Of log demand, shape `(lags,)`.
        first_lag: Lag of the first.
        design: Regressors that were removed, shape `(periods, columns)`.

    Returns:
        Scale and persistence of the chain, scale of the drift.
    """
    lags = np.arange(first_lag, first_lag + len(autocovariance))
    importance = 1.0 / np.sqrt(1.0 + lags)
    slow = _expect(DRIFT, lags, design)
    best = (np.inf, 0.0, 0.0, 0.0)
    for persistence in _list_persistences(first_lag, below=0.9):
        columns = np.stack([_expect(persistence, lags, design), slow], axis=1)
        variances, loss = nnls(columns * importance[:, None], autocovariance * importance)
        if loss < best[0]:
            best = (loss, float(persistence), *np.sqrt(variances).tolist())
    return best[2], best[1], best[3]


def _expect(persistence: float, lags: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Autocovariances of a chain of variance one, once the regressors are removed."""
    num_periods = len(design)
    keep = np.eye(num_periods) - design @ np.linalg.pinv(design)
    gaps = np.abs(np.subtract.outer(np.arange(num_periods), np.arange(num_periods)))
    seen = keep @ persistence**gaps @ keep
    return np.array([np.mean(np.diagonal(seen, lag)) for lag in lags])


def _list_persistences(first_lag: int, below: float = 0.99) -> np.ndarray:
    """Values tried. Without lag 0 a memory this short cannot be told from the noise of the counts."""
    values = np.r_[1e-6, np.arange(0.05, 0.9, 0.05), np.arange(0.9, 0.981, 0.02)]
    return values[(values < below) & ((values >= _SHORTEST) | (first_lag == 0))]
