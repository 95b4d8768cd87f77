"""The best of several policies: bounds that hold for all of them at once, and the risk of having chosen wrongly.

The best of many estimates is too good: a bound that fails once in ten times for each of ten policies fails for the
chosen one much more often. Estimates from one log move together, so that bounds from their joint replicates pay less
than Bonferroni or Holm, who do not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import Contributions, RefusalError
from pricing_fm.evaluation.off_policy.intervals import bootstrap_value, refuse_empty_replicates, widen_tail
from pricing_fm.evaluation.off_policy.risk import compute_cvar
from pricing_fm.metrics import Interval

_ROWS_AT_ONCE = 2_000_000  # replicates x rows of one call: within it equal seeds give equal draws


@dataclass(frozen=True)
class SimultaneousBounds:
    """One-sided bounds of several values, each side holding for all of them at once.

    Attributes:
        values: Estimates, currency, `(policies,)`.
        lower, upper: Bounds, currency, `(policies,)`.
        replicates: Joint bootstrap replicates, currency, `(replicates, policies)`.
        confidence: Probability with which all lower bounds hold; likewise the upper ones.
        tail_share: Probability with which one lower bound alone fails: 1 - confidence for one policy, less for several,
            (1 - confidence) / policies at the least.
    """

    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    replicates: np.ndarray
    confidence: float
    tail_share: float


def bound_simultaneously(
    differences: Sequence[Contributions],
    confidence: float = 0.9,
    resample_weeks: bool = True,
    replicates: int = 2000,
    seed: int = 0,
) -> SimultaneousBounds:
    """Percentile bounds of several paired differences that hold for all at once (bootstrap max-t, in ranks).

    In each joint replicate the policy is looked for whose difference lies lowest among its own replicates; bounds are
    cut where this worst rank falls short in `1 - confidence` of the replicates. Ranks take the place of studentised
    deviations, so that every policy has the same share in the error and one policy alone has its usual percentile;
    few decision units or weeks widen all of them (`intervals.widen_tail`).

    Args:
        differences: Of each policy to the manager, from the same log.
        confidence: In (0.5, 1).
        resample_weeks: See `intervals.bootstrap_value`.
        replicates: Joint replicates.
        seed: Seed of the draws, which all policies share.

    Returns:
        Bounds.

    Raises:
        ValueError: If there is no policy, the confidence is out of bounds, policies are not from the same log, or a
            replicate leaves a policy without weight.

    References:
        Beran 1988, "Balanced simultaneous confidence sets"; Romano and Wolf 2005, "Stepwise multiple testing as
        formalized data snooping".
    """
    if not 0.5 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; expected a number in (0.5, 1)")
    shapes = {(difference.num_clusters, difference.num_weeks) for difference in differences}
    if len(shapes) != 1:
        raise ValueError(f"found logs of {sorted(shapes)} decision units x weeks; expected policies from one log")
    drawn = _draw_jointly(differences, resample_weeks, replicates, seed)
    ranks = (np.argsort(np.argsort(drawn, axis=0, kind="stable"), axis=0) + 1.0) / (replicates + 1.0)
    below, above = (float(np.quantile(worst, 1.0 - confidence)) for worst in (ranks.min(1), 1.0 - ranks.max(1)))
    ((units, weeks),) = shapes
    groups = min(units, weeks) if resample_weeks and weeks > 1 else units
    return SimultaneousBounds(
        values=np.array([difference.value for difference in differences]),
        lower=np.quantile(drawn, widen_tail(below, groups), axis=0),
        upper=np.quantile(drawn, 1.0 - widen_tail(above, groups), axis=0),
        replicates=drawn,
        confidence=confidence,
        tail_share=below,
    )


@dataclass(frozen=True)
class RegretRisk:
    """What a choice may cost against the best of all candidates and the manager.

    Attributes:
        probability: Share of the joint replicates in which something else is better.
        expected: Mean shortfall against the best of the replicate, currency.
        upper: One-sided upper bound of the shortfall, currency.
    """

    probability: float
    expected: float
    upper: float


def estimate_regret_risk(bounds: SimultaneousBounds, chosen: int | None) -> RegretRisk:
    """Risk that the choice is not the best one, from the joint replicates.

    Replicates scatter about estimates of which the largest is too large: the risk is that of luck in this log, not of
    a wrong model.

    Args:
        bounds: Of all candidates.
        chosen: Position of the chosen policy; None = the manager stays.

    Returns:
        The risk.
    """
    own = 0.0 if chosen is None else bounds.replicates[:, chosen]
    shortfall = np.maximum(bounds.replicates.max(axis=1), 0.0) - own
    return RegretRisk(
        float((shortfall > 0.0).mean()), float(shortfall.mean()), float(np.quantile(shortfall, bounds.confidence))
    )


def bootstrap_cvar_difference(
    returns: np.ndarray,
    manager_returns: np.ndarray,
    clusters: np.ndarray,
    weights: np.ndarray | None = None,
    level: float = 0.1,
    confidence: float = 0.9,
    replicates: int = 200,
    seed: int = 0,
) -> Interval:
    """Mean of the policy's worst outcomes minus that of the manager's, decision units resampled, both paired.

    Outcomes are those of units in the log (weighted) or of simulated histories; the error of a fitted demand model
    behind the latter is not in the interval.

    Args:
        returns: Outcomes under the policy, currency, `(rows,)` or `(rows, draws)`.
        manager_returns: Outcomes under the manager of the same rows, `(rows,)` or `(rows, draws)`.
        clusters: Decision unit of each row, labels, `(rows,)`.
        weights: Importance weights of `returns`, same shape; None = equal. The manager's outcomes are not weighted.
        level: Share of the worst outcomes.
        confidence: Of each of both one-sided bounds, in (0.5, 1).
        replicates: Number of replicates.
        seed: Seed of the draws.

    Returns:
        Difference, lower and upper bound; replicates without any weight are not drawn again but left out.

    Raises:
        ValueError: If shapes do not fit, there is one decision unit only, a number is out of bounds, or more than 5 %
            of the replicates have no weight (`RefusalError`).
    """
    own, other = np.asarray(returns, dtype=np.float64), np.asarray(manager_returns, dtype=np.float64)
    codes = np.unique(clusters, return_inverse=True)[1]
    if own.shape[:1] != codes.shape or other.shape[:1] != codes.shape or codes.max(initial=0) < 1:
        raise ValueError(
            f"returns {own.shape}, manager_returns {other.shape} and clusters {codes.shape} do not fit together, or"
            " there is one decision unit only"
        )
    if not 0.5 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; expected a number in (0.5, 1)")
    shares = np.ones(own.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    units, rng = int(codes.max()) + 1, np.random.default_rng(seed)

    def compare(times: np.ndarray) -> float:
        mine = times.reshape((-1,) + (1,) * (own.ndim - 1)) * shares
        theirs = np.broadcast_to(times.reshape((-1,) + (1,) * (other.ndim - 1)), other.shape)
        return compute_cvar(own, level, mine) - compute_cvar(other, level, theirs)

    value = compare(np.ones(len(codes)))
    counts = rng.multinomial(units, np.full(units, 1.0 / units), size=replicates)[:, codes]
    reach = shares.reshape(len(codes), -1).sum(axis=1)
    drawn = [compare(times) for times in counts.astype(np.float64) if times @ reach > 0.0]
    refuse_empty_replicates(1.0 - len(drawn) / replicates)
    tail = widen_tail(1.0 - confidence, units)
    lower, upper = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(value, float(lower), float(upper))


def _draw_jointly(differences: Sequence[Contributions], resample_weeks: bool, replicates: int, seed: int) -> np.ndarray:
    """Replicates of all differences from the same draws, `(replicates, policies)`."""
    at_once = max(1, _ROWS_AT_ONCE // max(len(difference.terms) for difference in differences))
    parts = []
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        luck = int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
        drawn = [bootstrap_value(difference, resample_weeks, size, luck) for difference in differences]
        if any(draws.empty_share > 0.0 for draws in drawn):
            raise RefusalError(
                "some resampled logs hold none of a policy's decisions, so that policies cannot be compared draw by"
                " draw; leave out the policy with the smallest effective sample size"
            )
        parts.append(np.stack([draws.replicates for draws in drawn], axis=1))
    return np.concatenate(parts)
