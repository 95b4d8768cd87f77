"""One-step logs whose prices are many and close: the manager's choices as a density of the price, estimated.

Prices of a cell get places on a line: their logarithms, or normal scores of how often the log takes cheaper ones. On
the line the manager's choices are a density (`price_density`), and a policy's are seen through a kernel. Ratios do not
depend on the line; how well location and scale can say what the manager does on it, does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from pricing_fm.evaluation.off_policy.one_step_log import RandomisedDecisions, check_policy
from pricing_fm.evaluation.off_policy.one_step_models import OneStepFeatures, estimate_marginal_choices, expand_columns
from pricing_fm.evaluation.off_policy.price_density import DensitySettings, PriceDensity, fit_price_density
from pricing_fm.evaluation.off_policy.weights import compute_kernel_densities


@dataclass(frozen=True)
class OneStepDensity:
    """What a log says of its manager's prices.

    Attributes:
        density: Of the logged places.
        kernels: Density at each row's logged place of a policy that takes an action, seen through the kernel, `(rows,
            actions)`.
    """

    density: PriceDensity
    kernels: np.ndarray

    def compute_ratios(self, decisions: RandomisedDecisions, target: np.ndarray) -> np.ndarray:
        """Density of a policy over that of the manager, floored, for every logged action.

        Args:
            decisions: The log that the density was fitted to.
            target: Probability of each action, `(rows, actions)`.

        Returns:
            `(rows,)`.

        Raises:
            ValueError: If `target` is no policy.
        """
        check_policy(target, decisions)
        wanted = np.einsum("ra,ra->r", target, self.kernels)
        return np.asarray(wanted / np.maximum(self.density.propensities, self.density.choose_floors()))


def place_log_prices(decisions: RandomisedDecisions) -> np.ndarray:
    """Logarithms of the prices, `(cells, actions)`."""
    return np.broadcast_to(np.log(decisions.prices), decisions.design.shape)


def place_scores(decisions: RandomisedDecisions) -> np.ndarray:
    """Normal scores of the share of the cell's decisions at cheaper prices, half of the own, `(cells, actions)`.

    Over all customers of a cell they are normal, whatever its prices: no ends at which a density breaks off.
    """
    shares = estimate_marginal_choices(decisions, np.arange(decisions.num_rows))
    below = np.cumsum(shares, axis=1) - 0.5 * shares
    return np.asarray(norm.ppf(np.clip(below, 1e-9, 1.0 - 1e-9)))


def fit_one_step_density(
    decisions: RandomisedDecisions, features: OneStepFeatures, places: np.ndarray, bandwidth: float, seed: int
) -> OneStepDensity:
    """Density of the logged places given the cell and the modifiers, their squares and products.

    Args:
        decisions: The log.
        features: Of the log.
        places: Of each action, `(cells, actions)`.
        bandwidth: Half width of the Epanechnikov kernel, unit of the places.
        seed: Of the folds.

    Returns:
        The density.
    """
    members = decisions.cells[:, None] == np.unique(decisions.cells)[None, 1:]
    seen = np.column_stack([members.astype(np.float64), expand_columns(features.modifiers)])
    logged = places[decisions.cells, decisions.actions]
    density = fit_price_density(logged, seen, decisions.clusters, settings=DensitySettings(seed=seed))
    pairs = np.broadcast_arrays(logged[:, None], places[decisions.cells])
    return OneStepDensity(density, compute_kernel_densities(pairs[0], pairs[1], bandwidth))
