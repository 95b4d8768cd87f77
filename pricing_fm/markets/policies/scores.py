"""What a policy is worth: means with standard errors, growth of regret, runs that are stuck."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A simulated number and how sure it is.

    Attributes:
        mean: Mean over the runs, or a function of means.
        standard_error: Its standard error over the runs.
        runs: Independent runs behind it.
    """

    mean: float
    standard_error: float
    runs: int

    def agrees_with(self, value: float, errors: float = 3.0) -> bool:
        """Whether a known value lies within so many standard errors."""
        return abs(self.mean - value) <= errors * self.standard_error + 1e-9 * abs(value)


@dataclass(frozen=True)
class PricingRuns:
    """What happened to a policy that was let loose on a market without a stock limit.

    Attributes:
        profit: float64, shape `(runs,)`: profit earned in all periods, currency.
        periods: int64, shape `(points,)`: log-spaced numbers of periods, the last one the whole length.
        regret: float64, shape `(runs, points)`: optimal minus expected profit, summed up to there, currency.
        last_loss: float64, shape `(runs,)`: share of the optimal profit that the last price loses; infinite for a loss
            where nothing can be earned.
        late_movement: float64, shape `(runs,)`: highest minus lowest price of the second half, currency.
    """

    profit: np.ndarray
    periods: np.ndarray
    regret: np.ndarray
    last_loss: np.ndarray
    late_movement: np.ndarray

    def find_stuck(self, least_loss: float, most_movement: float) -> np.ndarray:
        """Runs whose price stands still where it loses money: nothing more is learned there.

        Args:
            least_loss: Share of the optimal profit that a stuck run loses at least in every period, e.g. 0.002.
            most_movement: Movement of the price over the second half at which it still counts as standing, currency.

        Returns:
            bool, shape `(runs,)`; True = stuck.
        """
        return (self.last_loss >= least_loss) & (self.late_movement <= most_movement)


def estimate_mean(values: np.ndarray) -> Estimate:
    """Mean over independent runs.

    Args:
        values: One number per run, shape `(runs,)`.

    Returns:
        Mean and standard error.

    Raises:
        ValueError: If there are fewer than two runs or a number is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"values has shape {values.shape}; it must hold two or more finite numbers, one per run")
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values))


def estimate_regret_slope(periods: np.ndarray, regret: np.ndarray) -> Estimate:
    """Growth of regret: slope of the log of mean cumulative regret on log time, over the second half in log time.

    1 = linear, 1/2 = square root of time; a logarithm tends to 0.

    Args:
        periods: Numbers of periods, rising, shape `(points,)`.
        regret: Cumulative regret of every run, shape `(runs, points)`.

    Returns:
        The slope; its standard error is that of the means, linearised.

    Raises:
        ValueError: If shapes differ, there are fewer than two runs, fewer than two points in the second half, or the
            mean regret is not positive there.
    """
    periods, regret = np.asarray(periods, dtype=np.float64), np.asarray(regret, dtype=np.float64)
    if regret.ndim != 2 or regret.shape[1] != len(periods) or len(regret) < 2:
        raise ValueError(f"regret has shape {regret.shape}; it must be (two or more runs, {len(periods)} points)")
    late = periods >= math.sqrt(periods[0] * periods[-1])
    mean = regret[:, late].mean(axis=0)
    if late.sum() < 2 or not (mean > 0).all():
        raise ValueError(
            f"regret has {late.sum()} points in the second half with means from {mean.min()}; it needs two or more,"
            " all above 0"
        )
    x = np.log(periods[late])
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    slope = float(weights @ np.log(mean))
    influence = (regret[:, late] / mean - 1.0) @ weights
    return Estimate(slope, float(influence.std(ddof=1)) / math.sqrt(len(regret)), len(regret))
