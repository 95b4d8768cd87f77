"""Estimates with known answers: demand behind stock-outs, and the value of a policy from another one's log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special
from scipy.optimize import brentq

from pricing_fm.markets.oracles.checks import answers_in_floating_point, check_integer, check_number, check_numbers
from pricing_fm.markets.oracles.distributions import (
    LARGEST_COUNT,
    compute_poisson_limited_mean,
    compute_poisson_log_point,
    count_terms,
)


@answers_in_floating_point()
def censored_poisson_sales(rate: float, stock: int) -> dict[str, float]:
    """Mean sales and chance of unmet demand when Poisson demand meets a stock.

    Args:
        rate: Mean demand, >= 0.
        stock: Units, whole, >= 0.

    Returns:
        expected_sales, stockout_probability (demand above the stock).

    Raises:
        ValueError: If an argument is out of bounds.
    """
    rate = check_number("rate", rate, least=0)
    stock = check_integer("stock", stock)
    return {
        "expected_sales": float(compute_poisson_limited_mean(rate, stock)),
        "stockout_probability": float(special.pdtrc(stock, rate)),
    }


@answers_in_floating_point()
def censored_poisson_rate(sales: Sequence[float], stock: Sequence[float]) -> dict[str, float]:
    """Maximum-likelihood rate of Poisson demand from sales that stock may have cut off.

    Sales below the stock are demand; sales equal to it say that demand was at least as large; a period without stock
    says nothing.

    Args:
        sales: Whole, >= 0, one per period.
        stock: Whole, >= 0, one per period, at least the sales.

    Returns:
        rate.

    Raises:
        ValueError: If lengths differ, a number is not whole, sales exceed stock, no period had stock, or every period
            with stock sold out (the likelihood then rises for ever).
    """
    sold = check_numbers("sales", sales, least=0, most=LARGEST_COUNT)
    held = check_numbers("stock", stock, least=0, length=len(sold), most=LARGEST_COUNT)
    for name, values in (("sales", sold), ("stock", held)):
        for i in np.flatnonzero(values != np.round(values)):
            raise ValueError(f"{name}[{i}] is {values[i]:g}; it must be a whole number")
    for i in np.flatnonzero(sold > held):
        raise ValueError(f"sales[{i}] is {sold[i]:g}; it must be at most stock[{i}], which is {held[i]:g}")
    informative = held > 0
    if not informative.any():
        raise ValueError("stock is 0 in every period; at least one period needs stock")
    censored = informative & (sold == held)
    seen = sold[informative & ~censored]
    if len(seen) == 0:
        raise ValueError("sales equal stock in every period with stock; at least one of these must not have sold out")
    cuts, repeats = np.unique(held[censored], return_counts=True)
    if seen.sum() == 0 and len(cuts) == 0:
        return {"rate": 0.0}

    def score(rate: float) -> float:
        """Derivative of the log likelihood; falls in the rate."""
        return float(seen.sum() / rate - len(seen) + (repeats * _compute_hazards(cuts, rate)).sum())

    low, high = 1e-6, float(sold.max()) + 1.0
    while score(low) < 0:
        low *= 1e-3
    while score(high) > 0:
        high *= 2.0
    return {"rate": float(brentq(score, low, high, xtol=1e-14, rtol=1e-14))}


@answers_in_floating_point()
def bandit_value(
    actions: Sequence[int],
    rewards: Sequence[float],
    logging_probabilities: Sequence[float],
    target_probabilities: Sequence[float],
) -> dict[str, float]:
    """Value of a target policy from rewards logged under another policy.

    Args:
        actions: Logged actions, whole, >= 0; they only have to match in number, the probabilities are those of the
            logged actions.
        rewards: One per decision.
        logging_probabilities: Chance of the logged action under the logging policy, in (0, 1].
        target_probabilities: Chance of the logged action under the target policy, in [0, 1].

    Returns:
        inverse_propensity, self_normalized, effective_sample_size.

    Raises:
        ValueError: If lengths differ, a number is out of bounds or the target policy takes none of the logged actions.

    References:
        Horvitz and Thompson 1952; Swaminathan and Joachims 2015; Kish 1965.
    """
    taken = check_numbers("actions", actions, least=0)
    for i in np.flatnonzero(taken != np.round(taken)):
        raise ValueError(f"actions[{i}] is {taken[i]:g}; it must be a whole number")
    earned = check_numbers("rewards", rewards, length=len(taken))
    logging = check_numbers("logging_probabilities", logging_probabilities, above=0, most=1, length=len(taken))
    target = check_numbers("target_probabilities", target_probabilities, least=0, most=1, length=len(taken))
    weights = target / logging
    if weights.sum() == 0:
        raise ValueError("target_probabilities are all 0; at least one logged action must be possible")
    return {
        "inverse_propensity": float((weights * earned).mean()),
        "self_normalized": float((weights * earned).sum() / weights.sum()),
        "effective_sample_size": float(weights.sum() ** 2 / (weights**2).sum()),
    }


def _compute_hazards(counts: np.ndarray, rate: float) -> np.ndarray:
    """Derivative of log P(D >= count) by the rate, P(D = count - 1) / P(D >= count), for counts >= 1."""
    tail = special.pdtrc(counts - 1, rate)
    visible = tail > 1e-290
    points = np.exp(compute_poisson_log_point(counts - 1, rate))
    hazards = np.divide(points, tail, out=np.zeros_like(tail), where=visible)
    for i in np.flatnonzero(~visible):
        # So far above the rate that the chance underflows: its ratio to P(D = count) is a short sum.
        ratios = rate / (counts[i] + np.arange(1.0, count_terms(counts[i])))
        hazards[i] = counts[i] / rate / (1.0 + np.cumprod(ratios).sum())
    return hazards
