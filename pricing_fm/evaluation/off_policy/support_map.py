"""Support map: which prices and promotions were ever tried, how often, and in how many separate decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pricing_fm.evaluation.off_policy.behavior_estimate import check_action_probabilities
from pricing_fm.evaluation.off_policy.decision_log import DecisionLog

Level = Literal["item", "category"]


@dataclass(frozen=True)
class SupportRules:
    """From when on a pair of rung and promotion counts as tried.

    Attributes:
        level: Whose experience counts: the item's own, or that of its whole category.
        least_periods: Periods in which the pair was observed.
        least_episodes: Price episodes in which it was observed.

    Raises:
        ValueError: If the level is unknown or a number is below 1.
    """

    level: Level = "item"
    least_periods: int = 1
    least_episodes: int = 1

    def __post_init__(self) -> None:
        if self.level not in ("item", "category"):
            raise ValueError(f"level is {self.level!r}; expected 'item' or 'category'")
        if self.least_periods < 1 or self.least_episodes < 1:
            raise ValueError(
                f"least_periods is {self.least_periods} and least_episodes {self.least_episodes}; expected 1 or more"
            )


class UnsupportedPair(NamedTuple):
    """A price and promotion that a policy asks for where the log has never seen them.

    Attributes:
        owner: Item id or category, as the rules' level says.
        price_multiplier: Of the reference price.
        promotion: True = promoted.
        mass: Decisions' worth of the policy's probability.
    """

    owner: str
    price_multiplier: float
    promotion: bool
    mass: float


@dataclass(frozen=True)
class PolicySupport:
    """How much of a policy the log covers.

    Attributes:
        mass: Share of the policy's probability on tried pairs, mean over decisions, in [0, 1].
        decision_mass: The same in every decision, `(items, periods)`, NaN where nothing was decided.
        unsupported: Pairs that were not tried enough and have probability, the heaviest first.
    """

    mass: float
    decision_mass: np.ndarray
    unsupported: tuple[UnsupportedPair, ...]


@dataclass(frozen=True)
class SupportMap:
    """Pairs of rung and promotion that a log holds.

    An episode is a stretch of one rung; unrecorded periods do not end it. Weeks of an episode repeat one decision. For
    a category, items of one decision unit whose price moves in the same period share the decision, which counts once.

    Attributes:
        log: The decisions.
        categories: Labels in sorted order, `(categories,)`.
        item_periods, item_episodes: Periods and episodes with the pair, int, `(items, rungs, 2)`; the last axis is
            without and with a promotion.
        category_periods, category_episodes: The same of whole categories, int, `(categories, rungs, 2)`.
    """

    log: DecisionLog
    categories: np.ndarray
    item_periods: np.ndarray
    item_episodes: np.ndarray
    category_periods: np.ndarray
    category_episodes: np.ndarray

    def find_supported(self, rules: SupportRules | None = None) -> np.ndarray:
        """Pairs that were tried enough.

        Args:
            rules: What is enough; None = once, by the item itself.

        Returns:
            True = tried, bool, `(items, rungs, 2)`.
        """
        rules = rules or SupportRules()
        periods, episodes = self.item_periods, self.item_episodes
        if rules.level == "category":
            here = np.searchsorted(self.categories, np.asarray(self.log.categories).astype(str))
            periods, episodes = self.category_periods[here], self.category_episodes[here]
        return np.asarray((periods >= rules.least_periods) & (episodes >= rules.least_episodes))

    def measure_policy(self, target_probabilities: np.ndarray, rules: SupportRules | None = None) -> PolicySupport:
        """How much of a policy rests on pairs that were tried.

        Args:
            target_probabilities: Of every rung without and with a promotion under the policy, `(items, periods, rungs,
                2)`, summing to 1 wherever something was decided.
            rules: What counts as tried; None = once, by the item itself.

        Returns:
            Mass, and the pairs outside.

        Raises:
            ValueError: If the shape is another or probabilities do not sum to 1.
        """
        rules = rules or SupportRules()
        target, decided = check_action_probabilities(self.log, target_probabilities), self.log.decided
        if not decided.any():
            raise ValueError("the log holds no decision, so that a policy has nothing to be compared with")
        supported = self.find_supported(rules)
        mass = np.where(decided, (target * supported[:, None]).sum(axis=(2, 3)), np.nan)
        outside = np.where(decided[..., None, None], target, 0.0).sum(axis=1) * ~supported
        return PolicySupport(float(mass[decided].mean()), mass, self._name_pairs(outside, rules.level))

    def _name_pairs(self, outside: np.ndarray, level: Level) -> tuple[UnsupportedPair, ...]:
        """Pairs with mass, from `(items, rungs, 2)`."""
        owners, labels = np.arange(len(outside)), np.asarray(self.log.item_ids)
        if level == "category":
            owners, labels = (
                np.searchsorted(self.categories, np.asarray(self.log.categories).astype(str)),
                self.categories,
            )
        totals = np.zeros((len(labels), *outside.shape[1:]))
        np.add.at(totals, owners, outside)
        pairs = [
            UnsupportedPair(
                str(labels[owner]), float(self.log.price_ladder[rung]), bool(flag), float(totals[owner, rung, flag])
            )
            for owner, rung, flag in np.argwhere(totals > 0.0)
        ]
        return tuple(sorted(pairs, key=lambda pair: -pair.mass))


def build_support_map(log: DecisionLog) -> SupportMap:
    """Count what was tried.

    Args:
        log: The decisions; every observed price counts, also the first and those drawn at random.

    Returns:
        The map.
    """
    labels, category = np.unique(np.asarray(log.categories).astype(str), return_inverse=True)
    items, periods = np.nonzero(log.observed)
    rungs, promoted = log.rungs[items, periods], log.promoted[items, periods]
    begins = _find_episode_starts(log)[items, periods]
    pairs = np.column_stack([rungs, promoted])
    return SupportMap(
        log=log,
        categories=labels,
        item_periods=_count(np.column_stack([items, pairs]), log.shape[0], log.num_rungs),
        item_episodes=_count_distinct(np.column_stack([items, pairs, begins]), log.shape[0], log.num_rungs),
        category_periods=_count(np.column_stack([category[items], pairs]), len(labels), log.num_rungs),
        category_episodes=_count_distinct(
            np.column_stack([category[items], pairs, log.clusters[items], begins]), len(labels), log.num_rungs
        ),
    )


def _find_episode_starts(log: DecisionLog) -> np.ndarray:
    """Period in which the episode of each observed price began, int, `(items, periods)`."""
    starts = np.zeros(log.shape, dtype=int)
    last, start = np.full(log.shape[0], -1), np.zeros(log.shape[0], dtype=int)
    for period in range(log.shape[1]):
        here = log.observed[:, period]
        start = np.where(here & (log.rungs[:, period] != last), period, start)
        last = np.where(here, log.rungs[:, period], last)
        starts[:, period] = start
    return starts


def _count(keys: np.ndarray, owners: int, rungs: int) -> np.ndarray:
    """Rows of `(owner, rung, promotion)` keys, counted."""
    counts = np.zeros((owners, rungs, 2), dtype=int)
    np.add.at(counts, tuple(keys.T), 1)
    return counts


def _count_distinct(keys: np.ndarray, owners: int, rungs: int) -> np.ndarray:
    """Distinct rows, counted by their first three columns."""
    return _count(np.unique(keys, axis=0)[:, :3], owners, rungs)
