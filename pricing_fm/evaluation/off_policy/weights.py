"""Importance ratios: how much more often the target policy would have done what was done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import RefusalError
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories


@dataclass(frozen=True)
class ImportanceRatios:
    """Ratios of a log, and what the propensity floor did to them.

    Attributes:
        steps: Target over logging probability of each decision, 1 where nothing was decided, `(units, periods)`.
        cumulative: Product of the ratios up to and including each step, `(units, periods)`.
        floor: Propensities below it were raised to it.
        trimmed_mass: Share of the target policy's weight (sum of the ratios before the floor) that rested on decisions
            below the floor, in [0, 1]. What was estimated holds for the rest.
    """

    steps: np.ndarray
    cumulative: np.ndarray
    floor: float
    trimmed_mass: float

    @property
    def trajectories(self) -> np.ndarray:
        """Product of all ratios of each unit, `(units,)`."""
        return self.cumulative[:, -1]

    @property
    def before(self) -> np.ndarray:
        """Product of the ratios before each step, `(units, periods)`."""
        return np.hstack([np.ones((len(self.steps), 1)), self.cumulative[:, :-1]])


def compute_importance_ratios(log: LoggedTrajectories, floor: float = 0.0) -> ImportanceRatios:
    """Target over logging probability of every decision.

    A floor trades bias for variance: a decision that was nearly impossible would otherwise outweigh all others.

    Args:
        log: The log.
        floor: Least propensity that is divided by, >= 0, in the unit of the propensities; 0 = as logged.

    Returns:
        Ratios, their products and the trimmed mass.

    Raises:
        ValueError: If the floor is negative, or the target policy takes none of the logged actions.

    References:
        Precup, Sutton and Singh 2000; Ionides 2008, "Truncated importance sampling".
    """
    if not (np.isfinite(floor) and floor >= 0.0):
        raise ValueError(f"floor is {floor}; expected a number of 0 or more")
    raw = log.target_propensities / log.propensities
    decided = np.where(log.mask, raw, 0.0)
    if decided.sum() <= 0.0:
        raise RefusalError("the target policy takes none of the logged actions; the log says nothing of its value")
    trimmed = float(decided[log.mask & (log.propensities < floor)].sum() / decided.sum())
    steps = np.where(log.mask, log.target_propensities / np.maximum(log.propensities, floor), 1.0)
    return ImportanceRatios(steps, np.cumprod(steps, axis=1), floor, trimmed)


def compute_effective_sample_size(weights: np.ndarray) -> float:
    """Number of equally weighted observations that say as much as these, (sum w)**2 / sum w**2.

    Args:
        weights: Importance weights, >= 0, any shape.

    Returns:
        In [1, number of weights]; 0 if all weights are 0.

    References:
        Kish 1965, "Survey Sampling".
    """
    weights = np.asarray(weights, dtype=np.float64)
    largest = weights.max(initial=0.0)
    if largest <= 0.0:
        return 0.0
    scaled = weights / largest
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def compute_support_mass(
    target_probabilities: np.ndarray, behavior_probabilities: np.ndarray, least: float
) -> np.ndarray:
    """Share of the target policy's actions that the logging policy takes at least now and then.

    A log cannot show how much of a policy it does not cover: actions that were never taken are not in it. This needs
    both policies' probabilities of *all* actions.

    Args:
        target_probabilities: Of every action in every state, `(..., actions)`, summing to 1.
        behavior_probabilities: The same of the logging policy.
        least: Probability from which on an action counts as supported.

    Returns:
        Mass in [0, 1], `(...)`.

    Raises:
        ValueError: If shapes differ or probabilities do not sum to 1.
    """
    target, behavior = np.asarray(target_probabilities, float), np.asarray(behavior_probabilities, float)
    if target.shape != behavior.shape:
        raise ValueError(f"probabilities have shapes {target.shape} and {behavior.shape}; expected the same")
    for name, values in (("target_probabilities", target), ("behavior_probabilities", behavior)):
        if np.any(values < 0) or not np.allclose(values.sum(-1), 1.0, atol=1e-6):
            raise ValueError(f"{name} must be 0 or more and sum to 1 over the last axis")
    return np.where(behavior >= least, target, 0.0).sum(-1)


def compute_kernel_densities(
    prices: np.ndarray,
    target_prices: np.ndarray,
    bandwidth: float,
    bounds: tuple[float, float] | None = None,
) -> np.ndarray:
    """Density that a policy with one continuous price per state is given so that nearby prices speak for it.

    The policy is valued as if it drew its price from an Epanechnikov kernel around the price it names: the estimate is
    that of a slightly blurred policy, with a bias of order bandwidth**2. Prices are best given as logarithms, the
    logging density then per unit of log price. Within bounds the kernel is renormalised, so that no mass falls outside.

    Args:
        prices: Logged prices, any shape.
        target_prices: Prices that the policy names in the same states, same shape, inside the bounds.
        bandwidth: Half width of the kernel, unit of `prices`, > 0.
        bounds: Lowest and highest price that can be charged; None = no bounds.

    Returns:
        Density at the logged price, per unit of `prices`, same shape: the log's `target_propensities`.

    Raises:
        ValueError: If shapes differ, the bandwidth is not positive or a target price is out of bounds.

    References:
        Kallus and Zhou 2018, "Policy evaluation and optimization with continuous treatments", arXiv:1802.06037.
    """
    prices, centres = np.asarray(prices, dtype=np.float64), np.asarray(target_prices, dtype=np.float64)
    if prices.shape != centres.shape:
        raise ValueError(f"prices have shape {prices.shape} and target_prices {centres.shape}; expected the same")
    if not bandwidth > 0.0:
        raise ValueError(f"bandwidth is {bandwidth}; it must be greater than 0")
    distance = (prices - centres) / bandwidth
    density = 0.75 * np.maximum(1.0 - distance**2, 0.0) / bandwidth
    if bounds is None:
        return density
    low, high = bounds
    if not (low < high and np.all((centres >= low) & (centres <= high))):
        raise ValueError(f"bounds are {bounds}; expected an increasing pair that holds every target price")
    inside = _epanechnikov_mass((high - centres) / bandwidth) - _epanechnikov_mass((low - centres) / bandwidth)
    return np.where((prices >= low) & (prices <= high), density / inside, 0.0)


def choose_bandwidth(prices: np.ndarray, target_prices: np.ndarray) -> float:
    """Rule-of-thumb half width: 2.34 x spread x n**(-1/5), spread = that of the logged prices about the target's.

    Args:
        prices: Logged prices, any shape.
        target_prices: Prices that the policy names in the same states.

    Returns:
        Bandwidth, unit of the prices.

    Raises:
        ValueError: If the distances do not vary.

    References:
        Silverman 1986, with the Epanechnikov kernel's constant; the rate is that of Kallus and Zhou 2018.
    """
    distances = np.ravel(np.asarray(prices, dtype=np.float64) - np.asarray(target_prices, dtype=np.float64))
    low, high = np.quantile(distances, [0.25, 0.75])
    spreads = [value for value in (distances.std(), (high - low) / 1.349) if value > 0.0]
    if not spreads:
        raise ValueError("logged and target prices differ by a constant; a kernel needs prices that vary")
    return float(2.34 * min(spreads) * len(distances) ** -0.2)


def _epanechnikov_mass(distance: np.ndarray) -> np.ndarray:
    """Distribution function of the kernel."""
    cut = np.clip(distance, -1.0, 1.0)
    return 0.5 + 0.75 * (cut - cut**3 / 3.0)
