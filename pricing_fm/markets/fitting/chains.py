"""Autoregressive shocks as Gaussian chains: their prior is tridiagonal, so thousands are solved in one sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SCALE_FLOOR = 1e-3  # log units; below this a shock cannot be told from none


@dataclass(frozen=True)
class Chains:
    """Stationary AR(1) priors of some series.

    Attributes:
        scale: Stationary standard deviation of log demand, shape `(series,)`.
        persistence: Autocorrelation from one period to the next, in [0, 1), shape `(series,)`.
    """

    scale: np.ndarray
    persistence: np.ndarray

    def precision(self, num_periods: int) -> tuple[np.ndarray, np.ndarray]:
        """Main diagonal, shape `(series, periods)`, and off-diagonal, shape `(series,)`, of the prior precision."""
        scale = np.maximum(self.scale, _SCALE_FLOOR)
        inner = 1.0 / (scale**2 * (1.0 - self.persistence**2))
        diagonal = np.repeat((inner * (1.0 + self.persistence**2))[:, None], num_periods, axis=1)
        diagonal[:, 0] = diagonal[:, -1] = inner
        if num_periods == 1:
            diagonal[:, 0] = 1.0 / scale**2
        return diagonal, -inner * self.persistence

    def solve(self, weights: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Solves `(diag(weights) + prior precision) x = right` for every series (Thomas algorithm).

        Args:
            weights: Information of the data, shape `(series, periods)`, >= 0.
            right: Right-hand sides, shape `(series, periods, columns)`.

        Returns:
            Solutions, shape of `right`.
        """
        num_periods = weights.shape[1]
        diagonal, off = self.precision(num_periods)
        diagonal = diagonal + weights
        solution = right.copy()
        upper = np.empty_like(diagonal)
        pivot = diagonal[:, 0]
        upper[:, 0] = off / pivot
        solution[:, 0] /= pivot[:, None]
        for t in range(1, num_periods):
            pivot = diagonal[:, t] - off * upper[:, t - 1]
            upper[:, t] = off / pivot
            solution[:, t] = (right[:, t] - off[:, None] * solution[:, t - 1]) / pivot[:, None]
        for t in range(num_periods - 2, -1, -1):
            solution[:, t] -= upper[:, t, None] * solution[:, t + 1]
        return solution

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
    num_periods = len(design)
    keep = np.eye(num_periods) - design @ np.linalg.pinv(design)
    gaps = np.abs(np.subtract.outer(np.arange(num_periods), np.arange(num_periods)))
    lags = np.arange(first_lag, first_lag + len(autocovariance))
    # Near lags have the most pairs and decide what a simulated path looks like from one period to the next.
    importance = 1.0 / (1.0 + lags)
    best = (np.inf, 0.0, 0.0)
    for persistence in _PERSISTENCES:
        seen = keep @ persistence**gaps @ keep
        expected = np.array([np.mean(np.diagonal(seen, lag)) for lag in lags])
        norm = np.sum(importance * expected**2)
        variance = max(0.0, float(np.sum(importance * expected * autocovariance) / max(norm, 1e-12)))
        loss = float(np.sum(importance * (autocovariance - variance * expected) ** 2))
        if loss < best[0]:
            best = (loss, variance, float(persistence))
    return float(np.sqrt(best[1])), best[2]


_PERSISTENCES = np.r_[1e-6, np.arange(0.05, 0.9, 0.05), np.arange(0.9, 0.981, 0.02)]
