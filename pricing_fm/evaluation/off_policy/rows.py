"""Rows of contributions in the shapes that estimators of trajectories need."""

from __future__ import annotations

import numpy as np

from pricing_fm.evaluation.off_policy.contributions import NO_WEEK, Contributions, Rows, build_contributions
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories


def build_cell_rows(log: LoggedTrajectories, numerators: np.ndarray, denominators: np.ndarray) -> Rows:
    """A row per unit and step, from `(units, periods)` numbers."""
    return Rows(numerators, denominators, np.broadcast_to(log.cluster_codes[:, None], log.shape), log.week_codes)


def build_step_terms(log: LoggedTrajectories, numerators: np.ndarray, denominators: np.ndarray) -> list[list[Rows]]:
    """A term per step, each with a row per unit, from `(units, periods)` numbers: every step has its own ratio."""
    return [
        [Rows(numerators[:, step], denominators[:, step], log.cluster_codes, log.week_codes[:, step])]
        for step in range(log.shape[1])
    ]


def build_first_state_rows(log: LoggedTrajectories, values: np.ndarray) -> Rows:
    """A row per unit for the value of its first state, `(units,)`: no calendar week has a part in it."""
    units = log.shape[0]
    return Rows(values, np.ones(units), log.cluster_codes, np.full(units, NO_WEEK))


def build_corrected_mean(log: LoggedTrajectories, first_values: np.ndarray, corrections: np.ndarray) -> Contributions:
    """Mean over units of a value of the first state plus the sum of a correction per step.

    Args:
        log: The log.
        first_values: Value of each unit's first state, currency, `(units,)`.
        corrections: Currency, `(units, periods)`.

    Returns:
        Contributions of one term.
    """
    rows = [build_first_state_rows(log, first_values), build_cell_rows(log, corrections, np.zeros(log.shape))]
    return build_contributions([rows], log.num_clusters, log.num_weeks)


def build_one_mean(log: LoggedTrajectories, rewards: np.ndarray, weights: np.ndarray | None = None) -> Contributions:
    """Weighted mean over units of the sum of their (already weighted) rewards.

    A unit's weight in the denominator is spread over its steps, so that a week which is drawn twice counts twice there
    as well.

    Args:
        log: The log.
        rewards: Weighted and discounted rewards, currency, `(units, periods)`.
        weights: Weight of each unit in the denominator, `(units,)`; None = 1.

    Returns:
        Contributions of one term.
    """
    shares = np.ones(log.shape[0]) if weights is None else weights
    denominators = np.broadcast_to(shares[:, None] / log.shape[1], log.shape)
    return build_contributions([[build_cell_rows(log, rewards, denominators)]], log.num_clusters, log.num_weeks)
