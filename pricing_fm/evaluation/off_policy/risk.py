"""What a mean hides: the bad outcomes of a policy, and for whom it is good."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import NotIdentified, PolicyValue
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories


def compute_cvar(returns: np.ndarray, level: float = 0.1, weights: np.ndarray | None = None) -> float:
    """Conditional value at risk: mean of the worst share of outcomes.

    Args:
        returns: Outcomes, currency, any shape: of units weighted by their trajectories' ratios, or of draws.
        level: Share of the worst outcomes, in (0, 1].
        weights: Weight of each outcome, >= 0, same shape; None = equal. They are normalised.

    Returns:
        Currency; an outcome at the edge counts with the part of its weight that fills the share.

    Raises:
        ValueError: If shapes differ, the level is out of bounds or nothing has weight.

    References:
        Rockafellar and Uryasev 2000; Acerbi and Tasche 2002 (atoms).
    """
    if not 0.0 < level <= 1.0:
        raise ValueError(f"level is {level}; it must lie in (0, 1]")
    values, shares = _normalize(returns, weights)
    order = np.argsort(values, kind="stable")
    before = np.cumsum(shares[order]) - shares[order]
    counted = np.clip(level - before, 0.0, shares[order])
    return float((counted * values[order]).sum() / counted.sum())


def compute_downside_probability(returns: np.ndarray, threshold: float, weights: np.ndarray | None = None) -> float:
    """Probability of an outcome below a threshold.

    Args:
        returns: Outcomes, currency, any shape.
        threshold: Currency, such as what the manager earned.
        weights: See `compute_cvar`.

    Returns:
        In [0, 1].

    Raises:
        ValueError: If shapes differ or nothing has weight.
    """
    values, shares = _normalize(returns, weights)
    return float(shares[values < threshold].sum())


def estimate_segment_values(
    log: LoggedTrajectories, estimator: Callable[[LoggedTrajectories], PolicyValue]
) -> dict[str, PolicyValue | NotIdentified]:
    """Value of a policy for each group of customers, each estimated and normalised on its own.

    Args:
        log: The log, with `segments`.
        estimator: Estimator of a log.

    Returns:
        Value per label, in their order; not identified where the policy takes none of a group's logged decisions.

    Raises:
        ValueError: If the log has no segments.
    """
    if log.segments is None:
        raise ValueError("the log has no segments")
    found: dict[str, PolicyValue | NotIdentified] = {}
    for label in np.unique(log.segments):
        part = log.select(log.segments == label)
        # Whole trajectories: a unit speaks only if all of its decisions are possible.
        speaks = np.where(part.mask, part.target_propensities, 1.0).prod(axis=1).sum() > 0
        if speaks:
            found[str(label)] = estimator(part)
        else:
            reason = f"in segment {label} the policy takes none of the logged decisions"
            found[str(label)] = NotIdentified("segment", (reason,))
    return found


def _normalize(returns: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.ravel(np.asarray(returns, dtype=np.float64))
    given = np.ones(len(values)) if weights is None else np.ravel(np.asarray(weights, dtype=np.float64))
    if given.shape != values.shape or np.any(given < 0) or not given.sum() > 0:
        raise ValueError("weights must have the shape of the returns, be 0 or more, and not all be 0")
    return values, given / given.sum()
