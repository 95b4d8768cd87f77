"""Sharper sensitivity of the structured value: hidden knowledge of the level of demand, not of every customer.

The marginal sensitivity model lets a manager know each count to come, at each price apart. What he can know in a shop
is how strong demand will be: a factor g on mean demand that is the same at all prices, of mean 1 and the variance that
the counts show beyond Poisson's (the gamma law behind the negative binomial). Two things follow.

* Only g can be known, so that the luck of counts, most of what is seen of slow movers, hides nothing.
* The odds of every price move with g by the factor at most, and the probabilities of all prices sum to 1 whatever g:
  where knowledge makes one price likelier, it makes others less likely. With `b(a) = E[g | a] - 1`, the bias of demand
  seen at price a, `sum over a of e(a) b(a) = 0`.
  A policy that spreads over prices as the manager does is hardly biased.

Both fail where knowledge moves the response to the price itself (a rival's promotion, say). The general bound
(`sensitivity.bound_structured`) allows that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from pricing_fm.evaluation.off_policy.demand_model import FittedDemand
from pricing_fm.evaluation.off_policy.sensitivity import StructuredBounds, ValueBounds, value_corrections
from pricing_fm.evaluation.off_policy.shop import PricePolicy, Shop
from pricing_fm.evaluation.off_policy.structured import DecisionWeights, estimate_log_correction

_TANGENTS = 4  # steps towards the least value of a convex function; every step's bound holds


@dataclass(frozen=True)
class ActionTable:
    """What could have been done in some logged decisions. Arrays `(rows, actions)`.

    Attributes:
        target: Probability of each action under the policy to be valued, summing to 1.
        behavior: The same under the manager, given what the log holds, summing to 1, > 0.
        demand: Mean demand after each action by the model, in any unit, > 0.

    Raises:
        ValueError: If shapes differ, probabilities do not sum to 1 or a number is out of bounds.
    """

    target: np.ndarray
    behavior: np.ndarray
    demand: np.ndarray

    def __post_init__(self) -> None:
        shapes = {self.target.shape, self.behavior.shape, self.demand.shape}
        if len(shapes) != 1 or self.target.ndim != 2 or not self.target.size:
            raise ValueError(f"target, behavior and demand have shapes {shapes}; expected one (rows, actions)")
        for name, values in (("target", self.target), ("behavior", self.behavior)):
            if not np.allclose(values.sum(axis=1), 1.0, atol=1e-6) or np.any(values < 0.0):
                raise ValueError(f"probabilities of {name} must be 0 or more and sum to 1 over the actions")
        if not (np.all(self.behavior > 0.0) and np.all(self.demand > 0.0)):
            raise ValueError("the manager's probabilities and mean demand must be greater than 0")


class BiasBounds(NamedTuple):
    """Range of biases, arrays of one shape.

    Attributes:
        lower, upper: Ends; equal where nothing is hidden.
    """

    lower: np.ndarray
    upper: np.ndarray


def bound_level_bias(behavior: np.ndarray, overdispersion: float, sensitivity: float) -> BiasBounds:
    """Range of the bias of demand seen at each price, `E[g | a] - 1`, each price on its own.

    Args:
        behavior: Probability of each price given what the log holds, in (0, 1], any shape.
        overdispersion: Variance of g, >= 0.
        sensitivity: Factor by which g may move the odds of a price, >= 1.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If a number is out of bounds.
    """
    chance = np.asarray(behavior, dtype=np.float64)
    if not (sensitivity >= 1.0 and overdispersion >= 0.0 and np.all((chance > 0.0) & (chance <= 1.0 + 1e-12))):
        raise ValueError(
            f"sensitivity is {sensitivity} and overdispersion {overdispersion}; expected 1 or more and 0 or more, with"
            " probabilities in (0, 1]"
        )
    if overdispersion < 1e-9 or sensitivity == 1.0:
        return BiasBounds(np.zeros_like(chance), np.zeros_like(chance))
    high = chance * sensitivity / (1.0 - chance + chance * sensitivity)
    low = chance / (chance + sensitivity * (1.0 - chance))
    width = high - low
    # The share of g at which the price is charged as often as possible, so that its mean probability is right.
    share = np.where(width > 1e-12, (chance - low) / np.where(width > 1e-12, width, 1.0), 0.5)
    law, tilted = (stats.gamma(1.0 / overdispersion + extra, scale=overdispersion) for extra in (0.0, 1.0))
    top, bottom = tilted.sf(law.isf(share)), tilted.cdf(law.ppf(share))  # E[g; the share's largest, smallest]
    return BiasBounds(width / chance * (bottom - share), width / chance * (top - share))


def bound_log_correction(actions: ActionTable, overdispersion: float, sensitivity: float) -> ValueBounds:
    """Range of what has to be added to the log correction of mean demand under a policy.

    Weighted residuals put mean demand under the policy at `sum of w(a) (1 + b(a))` times the truth. The range is that
    of `log sum of w(a) / (1 + b(a))`, w = shares of the demand that was seen, over all biases inside their bounds with
    `sum of e(a) b(a) = 0` in every decision.

    Args:
        actions: Of the informative decisions.
        overdispersion: Of the demand model.
        sensitivity: Factor on the odds, >= 1.

    Returns:
        Lower and upper end, log factor; both 0 at sensitivity 1.

    Raises:
        ValueError: See `bound_level_bias`.

    References:
        Tan 2006 (marginal sensitivity model); Dorn and Guo 2023, arXiv:2102.04543 (that weights must balance what was
        seen, here in every decision); the greedy solution is that of Dantzig 1957 for the fractional knapsack.
    """
    low, high = bound_level_bias(actions.behavior, overdispersion, sensitivity)
    shares = actions.target * actions.demand
    shares = shares / shares.sum()
    # Upper end: a convex function lies below its chord.
    chord = shares / ((1.0 + low) * (1.0 + high))
    least = _choose_biases(-chord, actions.behavior, low, high)
    upper = float((shares / (1.0 + low) - chord * (least - low)).sum())
    # Lower end: it lies above its tangents, of which the best one is looked for.
    bias, lower = np.zeros_like(low), -np.inf
    for _ in range(_TANGENTS):
        slope = shares / (1.0 + bias) ** 2
        most = _choose_biases(slope, actions.behavior, low, high)
        lower = max(lower, float((shares / (1.0 + bias) - slope * (most - bias)).sum()))
        bias = 0.5 * (bias + most)
    return ValueBounds(float(np.log(lower)), float(np.log(upper)))


def bound_structured_by_level(
    demand: FittedDemand,
    shop: Shop,
    policy: PricePolicy,
    weights: DecisionWeights,
    actions: ActionTable,
    sensitivity: float,
    draws: int = 32,
    seed: int = 0,
    members: np.ndarray | None = None,
) -> StructuredBounds:
    """Range of the structured value if hidden knowledge is one of the level of demand.

    Args:
        demand: Demand fitted to the log.
        shop: What is known of the same units.
        policy: The policy.
        weights: Ratios of the logged decisions, as for the estimate.
        actions: What could have been done in the informative decisions.
        sensitivity: Factor on the odds, >= 1.
        draws: Histories per unit.
        seed: Seed of the luck; that of the estimate gives the estimate at sensitivity 1.
        members: Units whose mean value is asked, bool, `(units,)`; None = all.

    Returns:
        Ranges of correction and value.

    Raises:
        ValueError: If no correction balances the residuals; see `bound_level_bias`.
    """
    found = estimate_log_correction(demand, weights.ratios)
    moves = bound_log_correction(actions, demand.overdispersion, sensitivity)
    ends = ValueBounds(found + moves.lower, found + moves.upper)
    return StructuredBounds(ends, value_corrections(demand, shop, policy, ends, draws, seed, members))


def _choose_biases(gains: np.ndarray, behavior: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Biases inside their bounds with `sum of behavior x bias = 0` per row that make `sum of gains x bias` largest."""
    order = np.argsort(-gains / behavior, axis=1)
    sizes = np.take_along_axis(behavior * (high - low), order, axis=1)
    budget = -(behavior * low).sum(axis=1, keepdims=True)
    filled = np.clip(budget - (np.cumsum(sizes, axis=1) - sizes), 0.0, sizes)
    raised = np.empty_like(filled)
    np.put_along_axis(raised, order, filled, axis=1)
    return np.asarray(low + raised / behavior)
