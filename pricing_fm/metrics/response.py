"""How far an estimated demand response is from the true one, where a market makes the truth known."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ElasticityErrors:
    """Errors of estimated price elasticities (percent of demand per percent of price; no unit).

    Args:
        mean_absolute_error (`float`): Mean of |estimate - truth|.
        bias (`float`): Mean of estimate - truth; positive = demand looks less sensitive than it is.
        root_mean_squared_error (`float`): Root of the mean squared error.
        coverage (`float`): Share of intervals that hold the truth; NaN without intervals.
        n (`int`): Estimates behind the values.
        missing (`int`): Estimates that were left out because they are NaN.
    """

    mean_absolute_error: float
    bias: float
    root_mean_squared_error: float
    coverage: float
    n: int
    missing: int


def compute_elasticity_errors(
    estimates: np.ndarray,
    truths: np.ndarray,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
) -> ElasticityErrors:
    """Errors of elasticity estimates against known elasticities at the same price.

    Args:
        estimates (`np.ndarray`, shape `(...)`): Estimated elasticities; NaN = no estimate, counted and left out.
        truths (`np.ndarray`, shape `(...)`): True elasticities.
        lower (`np.ndarray`, shape `(...)`, *optional*): Lower ends of intervals.
        upper (`np.ndarray`, shape `(...)`, *optional*): Upper ends of intervals.

    Returns:
        `ElasticityErrors`: Over all estimates.

    Raises:
        ValueError: If shapes differ, only one interval end is given, or no estimate is finite.
    """
    estimates, truths = np.asarray(estimates, dtype=np.float64), np.asarray(truths, dtype=np.float64)
    if estimates.shape != truths.shape:
        raise ValueError(f"estimates have shape {estimates.shape} and truths {truths.shape}; expected the same")
    if (lower is None) != (upper is None):
        raise ValueError("give both ends of the intervals or none")
    known = np.isfinite(estimates)
    if not known.any():
        raise ValueError("no estimate is finite")
    error = (estimates - truths)[known]
    coverage = float("nan")
    if lower is not None and upper is not None:
        coverage = float(((truths >= lower) & (truths <= upper))[known].mean())
    return ElasticityErrors(
        mean_absolute_error=float(np.abs(error).mean()),
        bias=float(error.mean()),
        root_mean_squared_error=float(np.sqrt((error**2).mean())),
        coverage=coverage,
        n=int(known.sum()),
        missing=int((~known).sum()),
    )


def compute_demand_curve_error(estimated: np.ndarray, truth: np.ndarray, reference: int) -> float:
    """Mean absolute error of relative demand along a price grid.

    Both curves are divided by their own demand at the reference price first, so that a wrong level of demand does not
    count as a wrong response.

    Args:
        estimated (`np.ndarray`, shape `(items, prices)`): Estimated expected units at each price.
        truth (`np.ndarray`, shape `(items, prices)`): True expected units at each price.
        reference (`int`): Index of the reference price (the current one).

    Returns:
        `float`: Mean over items and the other prices of |estimated ratio - true ratio|, no unit.

    Raises:
        ValueError: If shapes differ, there is no other price, or demand at the reference price is not positive.
    """
    estimated, truth = np.asarray(estimated, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if estimated.shape != truth.shape or estimated.ndim != 2 or estimated.shape[1] < 2:
        raise ValueError(f"curves have shapes {estimated.shape} and {truth.shape}; expected equal (items, prices > 1)")
    if (estimated[:, reference] <= 0).any() or (truth[:, reference] <= 0).any():
        raise ValueError("demand at the reference price must be positive")
    others = np.arange(estimated.shape[1]) != reference % estimated.shape[1]
    relative = estimated / estimated[:, [reference]] - truth / truth[:, [reference]]
    return float(np.abs(relative[:, others]).mean())
