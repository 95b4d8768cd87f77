"""Pricing policies for experiments with one decision per row: quantile bands, rules seen through a kernel, choices."""

from __future__ import annotations

import numpy as np

from pricing_fm.evaluation.off_policy.one_step_log import RandomisedDecisions
from pricing_fm.evaluation.off_policy.weights import compute_kernel_densities


def compute_band_policy(decisions: RandomisedDecisions, lowest: float, highest: float) -> np.ndarray:
    """Draw as the experiment did, from one band of the cell's own prices: its cheapest third, say.

    A price at the edge belongs to the band with the part of its probability that lies inside.

    Args:
        decisions: The experiment.
        lowest: Lower end of the band, as a share of the cell's draws, 0 or more.
        highest: Upper end, at most 1.

    Returns:
        Probability of each action, `(rows, actions)`.

    Raises:
        ValueError: If the ends are out of order or bounds.
    """
    if not 0.0 <= lowest < highest <= 1.0:
        raise ValueError(f"the band is {lowest} to {highest}; expected 0 <= lowest < highest <= 1")
    above = np.cumsum(decisions.design, axis=1)
    inside = np.minimum(above, highest) - np.maximum(above - decisions.design, lowest)
    band = np.maximum(inside, 0.0)
    return np.asarray((band / band.sum(axis=1, keepdims=True))[decisions.cells])


def compute_kernel_policy(decisions: RandomisedDecisions, positions: np.ndarray, bandwidth: float) -> np.ndarray:
    """A rule that names one price per row, seen through a kernel: drawn as in the experiment, near the named price.

    `p(a | cell) K((log price(a) - log named price) / bandwidth)`, normalised over the cell's prices. No experiment
    shows a single price of a continuous range: what is valued, from the log and from the experiment, is the blurred
    rule.

    Args:
        decisions: The experiment.
        positions: Named price of each row as a share of its cell's draws, in (0, 1), `(rows,)`.
        bandwidth: Half width of the Epanechnikov kernel, log price.

    Returns:
        Probability of each action, `(rows, actions)`.

    Raises:
        ValueError: If a position is out of bounds or the bandwidth not positive.

    References:
        Kallus and Zhou 2018, arXiv:1802.06037.
    """
    if positions.shape != (decisions.num_rows,) or not np.all((positions > 0) & (positions < 1)):
        raise ValueError(f"positions must hold {decisions.num_rows} numbers in (0, 1)")
    logs = np.log(decisions.prices)
    policy = np.zeros((decisions.num_rows, len(logs)))
    for cell in np.unique(decisions.cells):
        rows, open_ones = np.flatnonzero(decisions.cells == cell), np.flatnonzero(decisions.design[cell] > 0)
        chances, ladder = decisions.design[cell, open_ones], logs[open_ones]
        named = ladder[np.searchsorted(np.cumsum(chances), positions[rows] * (1.0 - 1e-12))]
        shape = len(rows), len(ladder)
        density = compute_kernel_densities(
            np.broadcast_to(ladder, shape), np.broadcast_to(named[:, None], shape), bandwidth
        )
        near = chances * density
        policy[rows[:, None], open_ones] = near / near.sum(axis=1, keepdims=True)
    return policy


def compute_group_policy(decisions: RandomisedDecisions, wanted: np.ndarray) -> np.ndarray:
    """A rule that takes one action per row.

    Args:
        decisions: The experiment.
        wanted: Action of each row, codes, `(rows,)`.

    Returns:
        Probability of each action, `(rows, actions)`: 0 or 1.

    Raises:
        ValueError: If a code is no action.
    """
    actions = decisions.design.shape[1]
    if wanted.shape != (decisions.num_rows,) or wanted.min() < 0 or wanted.max() >= actions:
        raise ValueError(f"wanted must hold {decisions.num_rows} codes from 0 to {actions - 1}")
    return np.eye(actions)[wanted]
