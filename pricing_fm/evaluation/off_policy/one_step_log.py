"""Experiments with one decision per row, and confounded logs of known propensities drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy import stats

from pricing_fm.evaluation.off_policy.contributions import NotIdentified
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories

_SUMS_TO_ONE = 1e-9


@dataclass(frozen=True)
class OneStepOutcome:
    """What came of the decisions, and how it is to be modelled.

    Attributes:
        name: For tables.
        values: Unit of the outcome per decision, `(rows,)`.
        occurs: True = something came of it at all (a loan was taken up); its chance and the mean value where it occurs
            are then modelled apart. Bool, `(rows,)`; None = one mean.
    """

    name: str
    values: np.ndarray
    occurs: np.ndarray | None = None


@dataclass(frozen=True)
class RandomisedDecisions:
    """Decisions whose action was drawn by chance, with known probabilities within a cell; one per row.

    Attributes:
        actions: Action that was drawn, codes 0 ... A - 1 in the order of their prices, `(rows,)`.
        cells: Cell within which it was drawn, codes 0 ... C - 1, `(rows,)`.
        design: Probability of each action in each cell, `(cells, actions)`.
        prices: Price of each action, > 0, never falling, `(actions,)`.
        covariates: Known before the decision, finite, `(rows, columns)`.
        covariate_names: Of the columns.
        clusters: Who is independent of whom, labels, `(rows,)`.
        outcomes: What came of it.

    Raises:
        ValueError: If shapes differ, a design does not sum to 1, an action was drawn that its cell's design excludes,
            prices fall, or a number is missing.
    """

    actions: np.ndarray
    cells: np.ndarray
    design: np.ndarray
    prices: np.ndarray
    covariates: np.ndarray
    covariate_names: tuple[str, ...]
    clusters: np.ndarray
    outcomes: tuple[OneStepOutcome, ...]

    def __post_init__(self) -> None:
        rows, (cells, actions) = len(self.actions), self.design.shape
        shapes = {
            "cells": (self.cells.shape, (rows,)),
            "clusters": (self.clusters.shape, (rows,)),
            "prices": (self.prices.shape, (actions,)),
            "covariates": (self.covariates.shape, (rows, len(self.covariate_names))),
            **{f"outcome {one.name}": (one.values.shape, (rows,)) for one in self.outcomes},
            **{f"{one.name} occurs": (one.occurs.shape, (rows,)) for one in self.outcomes if one.occurs is not None},
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise ValueError(f"{name} has shape {found}; expected {expected}, as actions and design say")
        if rows == 0:
            raise ValueError("there are no decisions")
        if np.any(self.design < 0) or np.abs(self.design.sum(axis=1) - 1.0).max() > _SUMS_TO_ONE:
            raise ValueError(f"design rows must be 0 or more and sum to 1; they sum to {self.design.sum(axis=1)}")
        if np.any(np.diff(self.prices) < 0) or not np.all(self.prices > 0):
            raise ValueError("prices must be positive and never fall with the action's code")
        for name, codes, size in (("actions", self.actions, actions), ("cells", self.cells, cells)):
            if codes.min() < 0 or codes.max() >= size:
                raise ValueError(f"{name} span {codes.min()} to {codes.max()}; expected codes 0 to {size - 1}")
        impossible = np.flatnonzero(self.design[self.cells, self.actions] <= 0)
        if len(impossible):
            row = impossible[0]
            raise ValueError(
                f"row {row}: action {self.actions[row]} was drawn, whose probability in cell {self.cells[row]} is 0;"
                " design and decisions speak of different experiments"
            )
        for name, values in (("covariates", self.covariates), *((one.name, one.values) for one in self.outcomes)):
            if not np.isfinite(values).all():
                raise ValueError(f"{name} holds a missing or infinite number; fill it in or drop the row")

    @property
    def num_rows(self) -> int:
        """Number of decisions."""
        return len(self.actions)

    @property
    def row_design(self) -> np.ndarray:
        """Probability of each action with which each row's was drawn, `(rows, actions)`."""
        return np.asarray(self.design[self.cells])

    @property
    def price_positions(self) -> np.ndarray:
        """Place of each action among its cell's draws, from -1 (cheapest) to 1 (dearest), `(cells, actions)`."""
        return np.asarray(2.0 * (np.cumsum(self.design, axis=1) - 0.5 * self.design) - 1.0)

    def covariate(self, name: str) -> np.ndarray:
        """One covariate, `(rows,)`."""
        return np.asarray(self.covariates[:, self.covariate_names.index(name)])

    def outcome(self, name: str) -> OneStepOutcome:
        """The outcome of that name."""
        return next(one for one in self.outcomes if one.name == name)

    def without_covariates(self, names: tuple[str, ...]) -> Self:
        """The same decisions as seen by somebody who did not record some covariates."""
        kept = [place for place, name in enumerate(self.covariate_names) if name not in names]
        return replace(
            self, covariates=self.covariates[:, kept], covariate_names=tuple(self.covariate_names[k] for k in kept)
        )

    def select(self, rows: np.ndarray) -> Self:
        """The same experiment with some rows (positions or a mask)."""
        return replace(
            self,
            actions=self.actions[rows],
            cells=self.cells[rows],
            covariates=self.covariates[rows],
            clusters=self.clusters[rows],
            outcomes=tuple(
                OneStepOutcome(one.name, one.values[rows], None if one.occurs is None else one.occurs[rows])
                for one in self.outcomes
            ),
        )


@dataclass(frozen=True)
class OneStepLog:
    """Decisions, and the probabilities with which a manager took them.

    Attributes:
        decisions: What was decided and what came of it.
        propensities: Probability of each action, given all that it depended on, `(rows, actions)`.
    """

    decisions: RandomisedDecisions
    propensities: np.ndarray

    def take(self, probabilities: np.ndarray) -> np.ndarray:
        """Entries of the logged actions, `(rows,)`, of a matrix `(rows, actions)`."""
        return np.asarray(probabilities[np.arange(self.decisions.num_rows), self.decisions.actions])

    def trajectories(
        self, outcome: str, target: np.ndarray, propensities: np.ndarray | None = None
    ) -> LoggedTrajectories:
        """The log as trajectories of one step.

        Args:
            outcome: Which outcome is the reward.
            target: Probability of each logged action under the policy to be valued, `(rows,)`.
            propensities: Those of the manager, `(rows,)`, where other than the true ones are to be used.

        Returns:
            The log of one period.

        Raises:
            ValueError: If probabilities have another shape.
        """
        used = self.take(self.propensities) if propensities is None else propensities
        for name, given in (("propensities", used), ("target", target)):
            if given.shape != (self.decisions.num_rows,):
                raise ValueError(f"{name} has shape {given.shape}; expected one number per decision")
        return LoggedTrajectories(
            rewards=self.decisions.outcome(outcome).values[:, None],
            propensities=used[:, None],
            target_propensities=target[:, None],
            clusters=self.decisions.clusters,
        )


def check_policy(target: np.ndarray, decisions: RandomisedDecisions) -> None:
    """Refuse what is no policy for these decisions.

    Args:
        target: Probability of each action, `(rows, actions)`.
        decisions: For which.

    Raises:
        ValueError: If the shape is another, a probability is negative, or a row does not sum to 1.
    """
    expected = (decisions.num_rows, decisions.design.shape[1])
    if target.shape != expected:
        raise ValueError(f"target probabilities have shape {target.shape}; expected (rows, actions) = {expected}")
    wrong = np.flatnonzero((target < 0).any(axis=1) | (np.abs(target.sum(axis=1) - 1.0) > 1e-6))
    if len(wrong):
        raise ValueError(
            f"target probabilities of row {wrong[0]} sum to {target[wrong[0]].sum():g}; they must be 0 or more and sum"
            " to 1"
        )


def split_rows(decisions: RandomisedDecisions, seed: int) -> np.ndarray:
    """Two random halves; every cluster is in one of them.

    The halves of a given data set are complementary: mean(A) - mean(B) = 2 (mean(A) - mean of all), whose variance over
    random splits is that of the difference of two independent samples of their size. So the usual error of a difference
    holds for them as it is, and given the data the splits are independent draws.

    Args:
        decisions: The experiment.
        seed: Of the draw.

    Returns:
        True = half A, `(rows,)`. Within each cell the halves are as equal as whole clusters allow; a cluster of several
        cells counts for its first row's.
    """
    first, codes = np.unique(decisions.clusters, return_index=True, return_inverse=True)[1:]
    random, owner = np.random.default_rng([seed, 0]), decisions.cells[first]
    is_first = np.zeros(len(first), dtype=bool)
    for cell in np.unique(owner):
        members = random.permutation(np.flatnonzero(owner == cell))
        is_first[members[: (len(members) + int(random.integers(2))) // 2]] = True
    return is_first[codes]


def rank_within_cells(values: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Rank of each row within its cell, from -1 (least) to 1, ties in the middle.

    Args:
        values: `(rows,)`.
        cells: Codes, `(rows,)`.

    Returns:
        `(rows,)`.
    """
    ranks = np.zeros(len(values))
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        ranks[members] = (2.0 * stats.rankdata(values[members]) - 1.0) / len(members) - 1.0
    return ranks


def tilt_design(decisions: RandomisedDecisions, index: np.ndarray, strength: float) -> np.ndarray:
    """A manager who asks more of those with a high index.

    He draws from `p(a | cell) exp(strength x index x position(a))`, normalised; positions run from -1 to 1.

    Args:
        decisions: The experiment.
        index: What the manager looks at, in [-1, 1], `(rows,)`.
        strength: How much; 0 = the experiment itself.

    Returns:
        Probability of each action, `(rows, actions)`.

    Raises:
        ValueError: If the index is out of bounds or has another length.
    """
    if index.shape != (decisions.num_rows,) or not np.all(np.abs(index) <= 1.0):
        raise ValueError(f"index must hold {decisions.num_rows} numbers in [-1, 1]; ranks within cells do")
    weights = decisions.row_design * np.exp(strength * index[:, None] * decisions.price_positions[decisions.cells])
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def compute_keep_probabilities(decisions: RandomisedDecisions, behavior: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities of keeping decisions under which the rest looks as if a manager had decided.

    A row is kept with probability `behavior(a | x) / p(a | cell) / M`, M the largest such ratio of rows and actions.
    Among those that are kept the action has exactly the manager's propensities, and the customers are a random
    sample: subsampling without the normalisation would change who they are, and the experiment's answer would not be
    the log's.

    Args:
        decisions: The experiment.
        behavior: Probability of each action for each row, `(rows, actions)`, 0 wherever the design is.

    Returns:
        Probability of keeping each row, `(rows,)`, and the share that is kept in expectation, 1 / M.

    Raises:
        ValueError: If `behavior` is no policy, or takes actions that the experiment never drew.

    References:
        Keith, Feldman, Jurgens, Bragg and Bhattacharya 2023, "RCT rejection sampling for causal estimation evaluation",
        arXiv:2307.15176.
    """
    check_policy(behavior, decisions)
    design = decisions.row_design
    if np.any((behavior > 0) & (design <= 0)):
        raise ValueError("the manager takes actions that the experiment never drew in that cell; nothing shows them")
    ratios = np.divide(behavior, design, out=np.zeros_like(behavior), where=design > 0)
    most = float(ratios.max())
    return np.asarray(ratios[np.arange(decisions.num_rows), decisions.actions] / most), 1.0 / most


def compute_design_ratios(decisions: RandomisedDecisions, target: np.ndarray) -> np.ndarray | NotIdentified:
    """How much more often a policy takes what chance has drawn.

    Args:
        decisions: The experiment.
        target: Probability of each action under the policy, `(rows, actions)`.

    Returns:
        `target / design` of the drawn actions, `(rows,)`, or not identified where the experiment never drew what the
        policy does.

    Raises:
        ValueError: If `target` is no policy.
    """
    check_policy(target, decisions)
    design = decisions.row_design
    refused = find_unsupported(target, design)
    if refused is not None:
        return refused
    taken = np.arange(decisions.num_rows), decisions.actions
    return np.asarray(target[taken] / design[taken])


def find_unsupported(target: np.ndarray, behavior: np.ndarray) -> NotIdentified | None:
    """Not identified, if part of what a policy does was never done to such customers.

    Args:
        target: Probability of each action under the policy, `(rows, actions)`.
        behavior: The same of who decided.

    Returns:
        The reason, or None.
    """
    missing = float(np.einsum("ra,ra->", target, behavior <= 0.0)) / len(target)
    if missing <= _SUMS_TO_ONE:
        return None
    return NotIdentified("support", (f"{missing:.0%} of what the policy does was never done to such customers",))


def estimate_design(actions: np.ndarray, cells: np.ndarray, num_actions: int, weights: np.ndarray) -> np.ndarray:
    """Frequencies of the actions within cells: the design of an experiment that did not record it.

    Args:
        actions: Codes, `(rows,)`.
        cells: Codes, `(rows,)`.
        num_actions: Number of actions.
        weights: Weight of each row, `(rows,)`: 1 over the size of its unit where whole units drew an action.

    Returns:
        `(cells, actions)`.
    """
    counts = np.zeros((int(cells.max()) + 1, num_actions))
    np.add.at(counts, (cells, actions), weights)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))
