"""What a log has to hold before a policy that did not write it can be valued from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class LoggedTrajectories:
    """Decisions of a logging policy, what they earned, and what the policy to be valued would have done.

    One row is a unit (an item in a price zone from some week on), one column a step of its trajectory. Where
    `observed` is False nothing was decided: the end of a shorter trajectory, or a week that is left out (no stock, an
    unknown price). Such a step earns nothing and its importance ratio is 1. The reward of a step is what was earned
    before the next decision; it is finite wherever the step is observed.

    Attributes:
        rewards: Currency per period, `(units, periods)`.
        propensities: Probability (density, for continuous prices) with which the logging policy chose the logged
            action given all it knew, `(units, periods)`, > 0.
        target_propensities: Probability (density) of the same action under the policy to be valued, `(units, periods)`.
        clusters: Decision unit (product x price zone) that each unit belongs to, labels, `(units,)`.
        weeks: Calendar period of each step, labels, `(units, periods)`, needed at undecided steps too; one row is
            taken for all units. None = the step.
        discount: Per period, in (0, 1].
        observed: True = a decision, bool, `(units, periods)`; None = everywhere.
        states: State before each decision as a code 0, 1, ..., `(units, periods)`; None = not discrete. Only
            tabular estimators need it.
        segments: Label of each unit's group, `(units,)`; None = one group.

    Raises:
        ValueError: If shapes differ, a number is missing or out of bounds where `observed` is True.
    """

    rewards: np.ndarray
    propensities: np.ndarray
    target_propensities: np.ndarray
    clusters: np.ndarray
    weeks: np.ndarray | None = None
    discount: float = 1.0
    observed: np.ndarray | None = None
    states: np.ndarray | None = None
    segments: np.ndarray | None = None

    def __post_init__(self) -> None:
        rewards = np.asarray(self.rewards, dtype=np.float64)
        if rewards.ndim != 2 or rewards.size == 0:
            raise ValueError(f"rewards have shape {rewards.shape}; expected (units, periods), both at least 1")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount is {self.discount}; expected a number in (0, 1]")
        units, periods = rewards.shape
        observed = np.ones(rewards.shape, dtype=bool) if self.observed is None else np.asarray(self.observed, bool)
        weeks = np.asarray(np.arange(periods) if self.weeks is None else self.weeks)
        if weeks.shape == (periods,):
            weeks = np.broadcast_to(weeks, (units, periods))
        self._keep("observed", observed, (units, periods))
        self._keep("weeks", weeks, (units, periods))
        self._keep("clusters", np.asarray(self.clusters), (units,))
        for name in ("states", "segments"):
            given = getattr(self, name)
            if given is not None:
                self._keep(name, np.asarray(given), (units, periods) if name == "states" else (units,))
        # What was not decided must not be able to speak: it is neutral in every sum and product.
        self._keep_numbers("rewards", rewards, neutral=0.0)
        self._keep_numbers("propensities", self.propensities, neutral=1.0)
        self._keep_numbers("target_propensities", self.target_propensities, neutral=1.0)
        self._check_range("propensities", self.propensities > 0, "greater than 0")
        self._check_range("target_propensities", self.target_propensities >= 0, "0 or more")
        if self.states is not None:
            self._check_range("states", self.states >= 0, "codes 0, 1, ...")

    @property
    def shape(self) -> tuple[int, int]:
        """(units, periods)."""
        return self.rewards.shape[0], self.rewards.shape[1]

    @property
    def mask(self) -> np.ndarray:
        """`observed`, never None."""
        return np.asarray(self.observed)

    @cached_property
    def cluster_codes(self) -> np.ndarray:
        """Decision unit of each unit as a code 0, 1, ..., `(units,)`."""
        return np.unique(self.clusters, return_inverse=True)[1]

    @cached_property
    def week_codes(self) -> np.ndarray:
        """Calendar period of each step as a code 0, 1, ..., `(units, periods)`."""
        return np.unique(np.asarray(self.weeks), return_inverse=True)[1].reshape(self.shape)

    @property
    def num_clusters(self) -> int:
        """Number of decision units."""
        return int(self.cluster_codes.max()) + 1

    @property
    def num_weeks(self) -> int:
        """Number of calendar periods."""
        return int(self.week_codes.max()) + 1

    @property
    def discounts(self) -> np.ndarray:
        """Discount factor of each step, `(periods,)`."""
        return self.discount ** np.arange(self.shape[1])

    @property
    def returns(self) -> np.ndarray:
        """Discounted sum of rewards of each unit, currency, `(units,)`."""
        return self.rewards @ self.discounts

    def select(self, units: np.ndarray) -> Self:
        """The same log of some units (positions, with repetition allowed, or a mask)."""
        kept = {
            name: values[units]
            for name in (
                *("rewards", "propensities", "target_propensities", "clusters"),
                *("weeks", "observed", "states", "segments"),
            )
            if (values := getattr(self, name)) is not None
        }
        return replace(self, **kept)

    def _keep(self, name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
        if values.shape != shape:
            raise ValueError(f"{name} have shape {values.shape}; expected {shape}, as rewards say")
        object.__setattr__(self, name, values)

    def _keep_numbers(self, name: str, values: ArrayLike, neutral: float) -> None:
        numbers = np.asarray(values, dtype=np.float64)
        self._keep(name, numbers, self.mask.shape)
        self._check_range(name, np.isfinite(numbers), "finite")
        object.__setattr__(self, name, np.where(self.mask, numbers, neutral))

    def _check_range(self, name: str, holds: np.ndarray, expected: str) -> None:
        broken = np.argwhere(self.mask & ~holds)
        if len(broken):
            unit, step = broken[0]
            found = getattr(self, name)[unit, step]
            raise ValueError(f"{name}[{unit}, {step}] is {found}; it must be {expected} where a decision was observed")


@dataclass(frozen=True)
class ModelValues:
    """What a model of the world says the policy is worth, at every state and action that was logged.

    Both are values of the *target* policy from the step on, of the log's own horizon: they count what comes after the
    last step only as far as `final_values` does. `expected_values` averages over the policy's actions; it is not the
    value of the greedy one.

    Attributes:
        action_values: Value of the logged action, then the target policy, currency, `(units, periods)`.
        expected_values: Value of the target policy in the logged state, currency, `(units, periods)`.
        final_values: Value of the state after the last step, currency, `(units,)`: 0 where the world ends or the
            horizon is what is asked for, the value of going on where the log is merely cut off. None = 0.

    Raises:
        ValueError: If shapes differ.
    """

    action_values: np.ndarray
    expected_values: np.ndarray
    final_values: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("action_values", "expected_values"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.action_values.ndim != 2 or self.action_values.shape != self.expected_values.shape:
            raise ValueError(
                f"action_values have shape {self.action_values.shape} and expected_values"
                f" {self.expected_values.shape}; expected (units, periods) for both"
            )
        units = self.action_values.shape[0]
        final = np.zeros(units) if self.final_values is None else np.asarray(self.final_values, dtype=np.float64)
        if final.shape != (units,):
            raise ValueError(f"final_values have shape {final.shape}; expected ({units},)")
        object.__setattr__(self, "final_values", final)

    def align(self, log: LoggedTrajectories) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values fitted to a log: steps at which nothing was decided take over the discounted value of the next one.

        Args:
            log: The log that the model speaks of.

        Returns:
            Action values, expected values and values of the next state, `(units, periods)` each.

        Raises:
            ValueError: If the shapes differ from the log's, or a value of an observed step is not finite.
        """
        if self.action_values.shape != log.shape:
            raise ValueError(f"model values have shape {self.action_values.shape}; the log has {log.shape}")
        action, expected = np.zeros(log.shape), np.zeros(log.shape)
        following = np.zeros(log.shape)
        ahead = np.asarray(self.final_values)
        for step in reversed(range(log.shape[1])):
            here = log.mask[:, step]
            following[:, step] = ahead
            action[:, step] = np.where(here, self.action_values[:, step], log.discount * ahead)
            expected[:, step] = np.where(here, self.expected_values[:, step], log.discount * ahead)
            ahead = expected[:, step]
        if not (np.isfinite(action).all() and np.isfinite(expected).all() and np.isfinite(following).all()):
            raise ValueError("model values must be finite wherever a decision was observed, final values everywhere")
        return action, expected, following
