"""The size of the switchback experiment that would decide: units alternate between policy and manager in blocks.

Each unit gets pairs of neighbouring blocks, one of them under the policy. Half of the units begin with it, drawn anew
in every pair, so that what hits all units in a week cancels. The first weeks of a block, in which customers still
remember the other prices, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import nct, norm
from scipy.stats import t as student

from pricing_fm.evaluation.off_policy.contributions import RefusalError

_LONGEST_USED = 8  # weeks used of a block, where its length is chosen here
_LEAST_BELIEVED = 0.5
_MOST_PAIRS = 1_000_000  # per unit
_LARGE_SAMPLE = 500  # degrees of freedom from which on the t law is the normal one to three digits


@dataclass(frozen=True)
class WeeklyVariation:
    """How much a unit's weekly rewards differ over time, beyond what moves all units in the same week.

    Attributes:
        squared_differences: Mean squared difference of two rewards of a unit so many weeks apart, squared currency,
            `(weeks,)`, 0 at lag 0. Levels of units cancel in it, and slow movements show as a rise with the lag.
        num_units: Decision units of the log.
    """

    squared_differences: np.ndarray
    num_units: int

    @property
    def num_weeks(self) -> int:
        """Weeks of the log."""
        return len(self.squared_differences)

    def compute_pair_variance(self, block_weeks: int, washout_weeks: int) -> float:
        """Variance of a unit's difference between two neighbouring blocks, means over the weeks that are used.

        Args:
            block_weeks: Weeks of a block.
            washout_weeks: Weeks at the start of each block that are left out.

        Returns:
            Squared currency.

        Raises:
            ValueError: If no week is used, or the log is shorter than two blocks.
        """
        if not 0 <= washout_weeks < block_weeks:
            raise ValueError(f"of blocks of {block_weeks} weeks {washout_weeks} are washed out; none is left to use")
        if 2 * block_weeks > self.num_weeks:
            raise ValueError(
                f"two blocks of {block_weeks} weeks are longer than the log ({self.num_weeks} weeks); give shorter"
                " blocks or a longer log"
            )
        share = np.zeros(block_weeks)
        share[washout_weeks:] = 1.0 / (block_weeks - washout_weeks)
        contrast = np.concatenate([-share, share])
        lags = np.abs(np.subtract.outer(np.arange(2 * block_weeks), np.arange(2 * block_weeks)))
        # The variance of a contrast (coefficients sum to 0) needs differences alone.
        return float(-0.5 * contrast @ self.squared_differences[lags] @ contrast)


def measure_weekly_variation(rewards: np.ndarray, clusters: np.ndarray) -> WeeklyVariation:
    """Variation of weekly rewards per decision unit in a log.

    It contains what the manager's own price changes did, which a policy that changes prices as often does as well.

    Args:
        rewards: Currency a week, `(rows, weeks)`, columns in calendar order; NaN = unknown.
        clusters: Decision unit of each row, labels, `(rows,)`; a unit's rewards are the means of its rows.

    Returns:
        Variation at every lag, pooled over weeks.

    Raises:
        ValueError: If shapes differ, there are fewer than two decision units or weeks, a lag is never observed in two
            units, or rewards do not vary.

    References:
        The mean squared difference by lag is the (semi)variogram of Matheron 1963, times two.
    """
    given, codes = np.asarray(rewards, dtype=np.float64), np.unique(clusters, return_inverse=True)[1]
    if given.ndim != 2 or codes.shape != given.shape[:1] or given.shape[1] < 2 or codes.max(initial=0) < 1:
        raise ValueError(
            f"rewards have shape {given.shape} and clusters {codes.shape}; expected (rows, weeks) and (rows,), with two"
            " decision units and two weeks at least"
        )
    known = np.isfinite(given)
    units = int(codes.max()) + 1
    sums, counts = np.zeros((units, given.shape[1])), np.zeros((units, given.shape[1]))
    np.add.at(sums, codes, np.where(known, given, 0.0))
    np.add.at(counts, codes, known)
    table = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    squares = np.zeros(table.shape[1])
    for lag in range(1, table.shape[1]):
        change = table[:, lag:] - table[:, :-lag]
        seen = np.isfinite(change)
        # Deviations from the mean over units of the same two weeks: what all share is not a unit's own.
        freedom = np.maximum(seen.sum(axis=0) - 1, 0)
        if not freedom.sum() > 0:
            raise ValueError(f"no two decision units have rewards {lag} weeks apart; cut the log or fill the gaps")
        mean = np.where(seen, change, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        squares[lag] = (np.where(seen, change - mean, 0.0) ** 2).sum() / freedom.sum()
    if not squares.max() > 0.0:
        raise ValueError("weekly rewards of the decision units do not vary; this log cannot size an experiment")
    return WeeklyVariation(squares, units)


@dataclass(frozen=True)
class SwitchbackPlan:
    """A switchback that decides.

    Attributes:
        num_units: Decision units that take part.
        pairs_per_unit: Pairs of blocks of each unit, one block of each pair under the policy.
        block_weeks: Weeks of a block.
        washout_weeks: Weeks at the start of each block that are not used.
        effect: Difference of weekly reward per unit that is to be detected, currency.
        pair_variance: Variance of a unit's difference between two neighbouring blocks, squared currency.
        level: Of the one-sided test of no difference.
        power: Probability of detecting the effect, at least what was asked for.
    """

    num_units: int
    pairs_per_unit: int
    block_weeks: int
    washout_weeks: int
    effect: float
    pair_variance: float
    level: float
    power: float

    @property
    def num_weeks(self) -> int:
        """Weeks from start to end."""
        return 2 * self.pairs_per_unit * self.block_weeks

    @property
    def num_cells(self) -> int:
        """Size: decision units x blocks."""
        return 2 * self.pairs_per_unit * self.num_units

    def describe(self) -> str:
        """The plan in a sentence."""
        return (
            f"{self.num_cells} cells ({self.num_units} decision units x {2 * self.pairs_per_unit} blocks of"
            f" {self.block_weeks} weeks, the first {self.washout_weeks} of each washed out; {self.num_weeks} weeks)"
            f" show a difference of {self.effect:.4g} per unit and week with probability {self.power:.0%} at level"
            f" {self.level:g}"
        )


def compute_switchback_power(
    effect: float, pair_variance: float, num_units: int, pairs_per_unit: int, level: float = 0.1
) -> float:
    """Probability that a switchback of this size shows an effect.

    Args:
        effect: Difference of weekly reward per unit, currency, > 0.
        pair_variance: Of `WeeklyVariation.compute_pair_variance`, > 0.
        num_units: Decision units, at least 2.
        pairs_per_unit: Pairs of blocks of each unit.
        level: Of the one-sided t test of no difference.

    Returns:
        In [0, 1]; 0 where no degree of freedom is left for the error.
    """
    freedom = _count_freedom(num_units, pairs_per_unit)
    if freedom < 1:
        return 0.0
    shift = effect / np.sqrt(pair_variance / _sum_squared_signs(num_units, pairs_per_unit))
    if freedom > _LARGE_SAMPLE:
        return float(norm.sf(norm.isf(level) - shift))
    return float(nct.sf(student.isf(level, freedom), freedom, shift))


def plan_switchback(
    variation: WeeklyVariation,
    effect: float,
    carry_over_weeks: int = 2,
    block_weeks: int | None = None,
    power: float = 0.8,
    level: float = 0.1,
) -> SwitchbackPlan:
    """Smallest switchback that shows an effect with a given probability.

    All units take part, and units are left out only where one pair of blocks each is more than enough. A log cannot
    say how long customers remember prices; the carry-over is to be given.

    Args:
        variation: Of the log.
        effect: Difference of weekly reward per unit to detect, currency, > 0.
        carry_over_weeks: Weeks for which the prices before a change still matter; so many are washed out.
        block_weeks: Weeks of a block; None = the length with the fewest unit-weeks, at most 8 more than are washed out.
        power: Probability of showing the effect, in (0, 1).
        level: Of the one-sided test, in (0, 1).

    Returns:
        The plan.

    Raises:
        ValueError: If a number is out of bounds, the log is too short for two blocks, or no size is enough
            (`RefusalError`).
    """
    if not (np.isfinite(effect) and effect > 0.0 and carry_over_weeks >= 0):
        raise ValueError(
            f"effect is {effect} and carry_over_weeks {carry_over_weeks}; an experiment needs a difference above 0 to"
            " look for, and 0 weeks or more"
        )
    if not (0.0 < power < 1.0 and 0.0 < level < power):
        raise ValueError(f"power is {power} and level {level}; expected 0 < level < power < 1")
    longest = min(carry_over_weeks + _LONGEST_USED, variation.num_weeks // 2)
    lengths = range(carry_over_weeks + 1, longest + 1) if block_weeks is None else [block_weeks]
    if len(lengths) == 0:
        raise ValueError(
            f"the log has {variation.num_weeks} weeks; with {carry_over_weeks} weeks washed out of each block it takes"
            f" {2 * (carry_over_weeks + 1)} at least to size an experiment"
        )
    plans = [_plan_length(variation, effect, length, carry_over_weeks, power, level) for length in lengths]
    return min(plans, key=lambda plan: plan.num_units * plan.num_weeks)


def draw_switchback(plan: SwitchbackPlan, seed: int = 0) -> np.ndarray:
    """Who is under the policy when.

    Args:
        plan: The plan.
        seed: Seed of the draw; to be written down before the experiment starts.

    Returns:
        True = under the policy, bool, `(units, weeks)`.
    """
    rng = np.random.default_rng(seed)
    half = np.arange(plan.num_units) % 2 == 0  # with an odd number of units the larger half is drawn as well
    begins = np.stack([rng.permutation(half) ^ (rng.random() < 0.5) for _ in range(plan.pairs_per_unit)], axis=1)
    blocks = np.stack([begins, ~begins], axis=2).reshape(plan.num_units, -1)
    return np.repeat(blocks, plan.block_weeks, axis=1)


@dataclass(frozen=True)
class SwitchbackResult:
    """What a switchback has shown.

    Attributes:
        effect: Weekly reward per unit under the policy minus that under the manager, currency.
        standard_error: Of the effect.
        lower: One-sided lower bound of the plan's level.
        p_value: One-sided, of no difference.
    """

    effect: float
    standard_error: float
    lower: float
    p_value: float


def estimate_switchback(rewards: np.ndarray, treated: np.ndarray, plan: SwitchbackPlan) -> SwitchbackResult:
    """Effect of the policy from a switchback: differences within pairs, beyond what all units share in the same weeks.

    Args:
        rewards: Currency a week, `(units, weeks)`; washed-out weeks are not read.
        treated: From `draw_switchback`.
        plan: The plan.

    Returns:
        The mean effect over these units.

    Raises:
        ValueError: If shapes differ, a used reward is missing, or a pair of blocks does not hold both arms.
    """
    shape = (plan.num_units, plan.num_weeks)
    if rewards.shape != shape or treated.shape != shape:
        raise ValueError(f"rewards have shape {rewards.shape} and treated {treated.shape}; the plan has {shape}")
    split = (plan.num_units, plan.pairs_per_unit, 2, plan.block_weeks)
    used = np.asarray(rewards, dtype=np.float64).reshape(split)[..., plan.washout_weeks :]
    arms = np.asarray(treated, dtype=bool).reshape(split)
    if not np.isfinite(used).all():
        raise ValueError(
            f"{int((~np.isfinite(used)).sum())} rewards of weeks that are used are missing; fill or re-plan"
        )
    if np.any(arms != arms[..., :1]) or np.any(arms[:, :, 0, 0] == arms[:, :, 1, 0]):
        raise ValueError("every pair must hold one whole block under the policy and one under the manager")
    change = used[:, :, 1].mean(axis=2) - used[:, :, 0].mean(axis=2)
    signs = np.where(arms[:, :, 1, 0], 1.0, -1.0)
    signs, change = signs - signs.mean(axis=0), change - change.mean(axis=0)
    size = float((signs**2).sum())
    freedom = _count_freedom(plan.num_units, plan.pairs_per_unit)
    if freedom < 1 or not size > 0.0:
        raise ValueError("units never differ in their arm, or too few pairs are left to tell the error")
    effect = float((signs * change).sum()) / size
    error = float(np.sqrt(((change - effect * signs) ** 2).sum() / freedom / size))
    p_value = float(student.sf(effect / error, freedom)) if error > 0.0 else float(effect <= 0.0)
    return SwitchbackResult(effect, error, float(effect - student.isf(plan.level, freedom) * error), p_value)


def _plan_length(
    variation: WeeklyVariation, effect: float, length: int, washout: int, power: float, level: float
) -> SwitchbackPlan:
    """Smallest plan with blocks of one length."""
    # From a short log the variance of a long contrast comes out at anything, below zero too: half of what independent
    # weeks would have is the least that is believed.
    independent = float(variation.squared_differences[1]) / (length - washout)
    variance = max(variation.compute_pair_variance(length, washout), _LEAST_BELIEVED * independent)
    if not variance > 0.0:
        raise ValueError(f"rewards of blocks of {length} weeks do not vary; give other blocks")

    def reach(units: int, pairs: int) -> float:
        return compute_switchback_power(effect, variance, units, pairs, level)

    units, most = variation.num_units, 1
    while reach(units, most) < power:
        if most >= _MOST_PAIRS:
            raise RefusalError(
                f"even {2 * most} blocks per unit do not show a difference of {effect:g}; a week's deviation is"
                f" {np.sqrt(variance):g}. Ask for a larger margin"
            )
        most *= 2
    pairs = _find_first(lambda count: reach(units, count) >= power, most // 2, most)
    if pairs == 1:
        units = _find_first(lambda count: reach(count, 1) >= power, 1, units)
    return SwitchbackPlan(units, pairs, length, washout, effect, variance, level, reach(units, pairs))


def _find_first(holds: Callable[[int], bool], fails_at: int, holds_at: int) -> int:
    """Smallest number from which on a rising condition holds."""
    while holds_at - fails_at > 1:
        middle = (fails_at + holds_at) // 2
        fails_at, holds_at = (fails_at, middle) if holds(middle) else (middle, holds_at)
    return holds_at


def _count_freedom(num_units: int, pairs_per_unit: int) -> int:
    """Pairs less a mean for each pair of blocks less the effect."""
    return (num_units - 1) * pairs_per_unit - 1


def _sum_squared_signs(num_units: int, pairs_per_unit: int) -> float:
    """Squared deviations of balanced signs from their mean, over units and pairs."""
    return pairs_per_unit * (num_units - (num_units % 2) / num_units)
