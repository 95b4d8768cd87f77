"""How wrong the answer could be if the manager knew something that the log does not hold.

Marginal sensitivity model: given all that was seen, the odds of the logged decision with and without the hidden
knowledge differ by a factor of at most `sensitivity`. 1 = nothing is hidden; 1.5 and 2 are customary questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, linprog

from pricing_fm.evaluation.off_policy.censored_counts import compute_demand_residuals
from pricing_fm.evaluation.off_policy.contributions import RefusalError
from pricing_fm.evaluation.off_policy.demand_model import FittedDemand
from pricing_fm.evaluation.off_policy.intervals import refuse_empty_replicates, widen_tail
from pricing_fm.evaluation.off_policy.shop import PricePolicy, Shop, run_shop

SENSITIVITIES = (1.0, 1.5, 2.0)
_LARGEST_CORRECTION = 5.0
_POINTS = 9  # corrections between both ends at which the value is looked at


class WeightBounds(NamedTuple):
    """Range of the true importance weights of logged decisions, arrays of one shape.

    Attributes:
        nominal: Weights if nothing is hidden.
        low, high: Least and greatest weight that the hidden knowledge allows.
    """

    nominal: np.ndarray
    low: np.ndarray
    high: np.ndarray


class ValueBounds(NamedTuple):
    """Range of a value.

    Attributes:
        lower, upper: Ends; equal where nothing is hidden.
    """

    lower: float
    upper: float


def compute_weight_bounds(
    target_propensities: np.ndarray, propensities: np.ndarray, sensitivity: float, is_density: bool = False
) -> WeightBounds:
    """Range of importance weights under the marginal sensitivity model.

    With e the propensity given what was seen, the inverse of the true one lies between `1 + (1/e - 1) / sensitivity`
    and `1 + (1/e - 1) x sensitivity`. For densities, which have no odds, the density itself may be off by the factor.

    Args:
        target_propensities: Of the logged decisions under the policy to be valued, >= 0, any shape.
        propensities: Of the same under the logging policy, in (0, 1] (densities: > 0), same shape.
        sensitivity: Factor on the odds, >= 1.
        is_density: True = continuous prices.

    Returns:
        Nominal weights and their range.

    Raises:
        ValueError: If shapes differ or a number is out of bounds.

    References:
        Tan 2006, "A distributional approach for causal inference using propensity scores"; densities: Jesson et al.
        2022, "Scalable sensitivity and uncertainty analyses for causal-effect estimates of continuous-valued
        interventions", arXiv:2204.10022.
    """
    target, chance = np.asarray(target_propensities, dtype=np.float64), np.asarray(propensities, dtype=np.float64)
    if target.shape != chance.shape:
        raise ValueError(f"target_propensities have shape {target.shape} and propensities {chance.shape}")
    if not sensitivity >= 1.0:
        raise ValueError(f"sensitivity is {sensitivity}; it must be 1 or more")
    if not (np.all(chance > 0) and (is_density or np.all(chance <= 1.0 + 1e-12)) and np.all(target >= 0)):
        raise ValueError("propensities must lie in (0, 1] (densities: above 0), target propensities must be 0 or more")
    nominal = target / chance
    if is_density:
        return WeightBounds(nominal, nominal / sensitivity, nominal * sensitivity)
    excess = np.maximum(1.0 / chance - 1.0, 0.0)
    return WeightBounds(nominal, target * (1.0 + excess / sensitivity), target * (1.0 + excess * sensitivity))


def bound_self_normalized(values: np.ndarray, weights: WeightBounds, counts: np.ndarray | None = None) -> ValueBounds:
    """Exact range of the self-normalised mean `sum w y / sum w` over all weights in their ranges.

    A ratio of linear functions over a box has its maximum where the weights of all values above some threshold are
    high and those below are low: all thresholds are tried.

    Args:
        values: Rewards (or outcomes) of the logged decisions, `(rows,)`.
        weights: Range of each row's weight.
        counts: How often each row counts, such as in a bootstrap replicate, `(rows,)`; None = once.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If no row can have weight.

    References:
        Zhao, Small and Bhattacharya 2019, "Sensitivity analysis for inverse probability weighting estimators via the
        percentile bootstrap", JRSS B 81(4).
    """
    times = np.ones(len(values)) if counts is None else np.asarray(counts, dtype=np.float64)
    lower, upper = _bound_replicates(values, weights, times[None])
    return ValueBounds(float(lower[0]), float(upper[0]))


def bootstrap_bounds(
    values: np.ndarray,
    weights: WeightBounds,
    clusters: np.ndarray,
    weeks: np.ndarray | None = None,
    level: float = 0.9,
    replicates: int = 500,
    seed: int = 0,
) -> ValueBounds:
    """Interval of the whole range: percentile bootstrap of both ends, by decision unit and week.

    Args:
        values: Rewards, `(rows,)`.
        weights: Range of each row's weight.
        clusters: Decision unit of each row, labels.
        weeks: Week of each row, labels; None = decision units alone are drawn.
        level: Nominal coverage in (0, 1).
        replicates: Number of replicates.
        seed: Seed of the draws.

    Returns:
        Lower percentile of the lower end and upper percentile of the upper end.

    Raises:
        ValueError: If no row can have weight or too few units or weeks do, so that more than 5 % of the replicates are
            without (`RefusalError`), or `level` is outside (0, 1).

    References:
        Zhao, Small and Bhattacharya 2019; Owen 2007.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; expected a number in (0, 1)")
    rng = np.random.default_rng(seed)
    ends: list[tuple[float, float]] = []
    codes = [np.unique(labels, return_inverse=True)[1] for labels in (clusters, weeks) if labels is not None]
    at_once = max(1, 2_000_000 // len(values))
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        times = np.ones((size, len(values)))
        for code in codes:
            groups = int(code.max()) + 1
            times *= rng.multinomial(groups, np.full(groups, 1.0 / groups), size=size)[:, code]
        # A replicate without any of the policy's decisions says nothing.
        some = times @ weights.high > 0
        if some.any():
            ends += list(zip(*_bound_replicates(values, weights, times[some]), strict=True))
    refuse_empty_replicates(1.0 - len(ends) / replicates)
    lowers, uppers = np.array(ends).T
    tail = widen_tail((1.0 - level) / 2.0, min(int(code.max()) + 1 for code in codes))
    return ValueBounds(float(np.quantile(lowers, tail)), float(np.quantile(uppers, 1.0 - tail)))


def bound_balanced(
    values: np.ndarray, weights: WeightBounds, balanced: np.ndarray, balanced_upper: np.ndarray | None = None
) -> ValueBounds:
    """Range of the mean over weights that also balance known functions of the state, by linear programming.

    True weights average any function of what was seen as the nominal ones do; without this constraint the range is too
    wide even in the limit. It is sharp if the conditional quantile of the reward given state and decision, at
    `sensitivity / (1 + sensitivity)` for the upper end and at the complement for the lower one, is a combination of the
    balanced functions; for discrete states indicators of state x action do. A constant is always balanced.

    Args:
        values: Rewards, `(rows,)`.
        weights: Range of each row's weight.
        balanced: Functions to balance, `(rows, functions)`.
        balanced_upper: Functions for the upper end; None = the same.

    Returns:
        Lower and upper end of `sum w y / sum w`.

    Raises:
        ValueError: If shapes differ, nothing has weight, or the program cannot be solved.

    References:
        Dorn and Guo 2023, "Sharp sensitivity analysis for inverse propensity weighting via quantile balancing", JASA
        118, arXiv:2102.04543.
    """
    nominal = weights.nominal
    if nominal.sum() <= 0.0:
        raise RefusalError("the policy takes none of the logged decisions")
    ends = []
    for sign, functions in ((1.0, balanced), (-1.0, balanced if balanced_upper is None else balanced_upper)):
        if functions.ndim != 2 or len(functions) != len(values):
            raise ValueError(f"balanced functions have shape {functions.shape}; expected {len(values)} rows")
        columns = np.column_stack([np.ones(len(values)), functions])
        # Scaled, so that the solver's tolerance means the same in every equation.
        scaled = columns / np.maximum(np.abs(columns).max(axis=0), 1e-300)
        solution = linprog(
            sign * values / nominal.sum(),
            A_eq=scaled.T,
            b_eq=scaled.T @ nominal,
            bounds=np.column_stack([weights.low, weights.high]),
            method="highs",
        )
        if solution.status != 0:
            raise ValueError(f"the linear program of the sensitivity bound was not solved: {solution.message}")
        ends.append(sign * float(solution.fun))
    return ValueBounds(ends[0], ends[1])


@dataclass(frozen=True)
class StructuredBounds:
    """Range of a structured value.

    Attributes:
        log_corrections: Least and greatest log correction of mean demand that the hidden knowledge allows.
        values: Least and greatest value over that range, currency per unit.
    """

    log_corrections: ValueBounds
    values: ValueBounds


def bound_structured(
    demand: FittedDemand,
    shop: Shop,
    policy: PricePolicy,
    weights: WeightBounds,
    draws: int = 32,
    seed: int = 0,
    members: np.ndarray | None = None,
) -> StructuredBounds:
    """Range of the structured estimator: hidden knowledge moves mean demand, the recursion carries it on.

    The correction is extreme where residuals above zero have the highest and those below the lowest weights.

    Args:
        demand: Demand fitted to the log.
        shop: What is known of the same units.
        policy: The policy.
        weights: Range of the weights of the logged decisions, arrays `(units, periods)`, 0 where uninformative.
        draws: Histories per unit.
        seed: Seed of the luck; that of the estimate gives the estimate at sensitivity 1.
        members: Units whose mean value is asked, bool, `(units,)`; None = all.

    Returns:
        Ranges of correction and value.

    Raises:
        ValueError: If no correction balances the residuals.

    References:
        Tan 2006; Zhao, Small and Bhattacharya 2019, applied to the estimating equation of the correction.
    """
    log_mean, counts = demand.compute_logged_log_mean().ravel(), demand.rows.counts

    def root(above: np.ndarray, below: np.ndarray) -> float:
        def imbalance(shift: float) -> float:
            residuals = compute_demand_residuals(counts, log_mean + shift, demand.overdispersion)
            return float((np.where(residuals > 0, above.ravel(), below.ravel()) * residuals).sum())

        if not imbalance(-_LARGEST_CORRECTION) > 0.0 > imbalance(_LARGEST_CORRECTION):
            raise ValueError("no correction balances the residuals of demand")
        return float(brentq(imbalance, -_LARGEST_CORRECTION, _LARGEST_CORRECTION, xtol=1e-12))

    ends = ValueBounds(root(weights.low, weights.high), root(weights.high, weights.low))
    return StructuredBounds(ends, value_corrections(demand, shop, policy, ends, draws, seed, members))


def value_corrections(
    demand: FittedDemand,
    shop: Shop,
    policy: PricePolicy,
    log_corrections: ValueBounds,
    draws: int,
    seed: int,
    members: np.ndarray | None = None,
) -> ValueBounds:
    """Least and greatest value of a policy over a range of corrections of mean demand; it need not be monotone.

    Args:
        demand: Demand fitted to the log, without correction.
        shop: What is known of the same units.
        policy: The policy.
        log_corrections: Range of the log of the factor on mean demand.
        draws: Histories per unit.
        seed: Seed of the luck.
        members: Units whose mean value is asked, bool, `(units,)`; None = all.

    Returns:
        Range of the value, currency per unit.
    """
    low, high = log_corrections
    chosen = np.ones(len(demand.log.units), bool) if members is None else members
    values = [
        float(run_shop(shop, policy, demand, draws, seed, shift).values.mean(axis=1)[chosen].mean())
        for shift in np.linspace(low, high, _POINTS if high > low else 1)
    ]
    return ValueBounds(min(values), max(values))


def _bound_replicates(values: np.ndarray, weights: WeightBounds, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends for rows that count `times` `(replicates, rows)`."""
    order = np.argsort(values, kind="stable")
    y, low, high = values[order], times[:, order] * weights.low[order], times[:, order] * weights.high[order]
    if not np.all(high.sum(axis=1) > 0.0):
        raise RefusalError("the policy takes none of the logged decisions")

    def sweep(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums with `first` weights up to each row and `last` weights after it."""
        sums = []
        for values_or_ones in (y, np.ones_like(y)):
            head = np.cumsum(first * values_or_ones, axis=1)
            tail = np.cumsum(last * values_or_ones, axis=1)
            sums.append(np.hstack([tail[:, -1:], head + tail[:, -1:] - tail]))
        return sums[0], sums[1]

    ends = []
    for first, last, best in ((high, low, np.minimum), (low, high, np.maximum)):
        top, bottom = sweep(first, last)
        none = bottom <= 0.0
        ratio = np.divide(top, bottom, out=np.full_like(top, np.inf if best is np.minimum else -np.inf), where=~none)
        ends.append(best.reduce(ratio, axis=1))
    return ends[0], ends[1]
