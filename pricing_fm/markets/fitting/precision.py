"""How far the data can be trusted: sampling errors that know of memory and of shocks shared between items.

A regression over weeks takes every week for new evidence. Shocks last, and stores of a product share them. So the
covariance of an estimate is the sandwich `A Cov(shocks) A'` of Liang and Zeger 1986 (doi:10.1093/biomet/73.1.13), with
`A` the estimator's response to each week and the covariance from the fitted shocks. What a group shares does not blur
the differences between its items, so it counts in the group's error alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.chains import DRIFT
from pricing_fm.markets.fitting.design import Design, Groups
from pricing_fm.markets.fitting.likelihood import WorkingTerms

_RIDGE = 1e-3  # information of a coefficient that the data say nothing about


@dataclass(frozen=True)
class ItemInformation:
    """Evidence of the data at some effects.

    Attributes:
        precision: Inverse sampling covariance of each item's coefficients, free of what its groups share, shape
            `(items, coefficients, coefficients)`.
        score: Precision times the step that the data ask for, shape `(items, coefficients)`.
        group_errors: Sampling variance of each group's coefficients, from its shared shocks and its items' own, by
            layer, shape `(groups, coefficients)`.
        market_error: Sampling variance of the category means from the market's shock, shape
            `(categories, coefficients)`.
    """

    precision: np.ndarray
    score: np.ndarray
    group_errors: dict[str, np.ndarray]
    market_error: np.ndarray


@dataclass(frozen=True)
class ShockLaw:
    """Shocks that some items share.

    Attributes:
        groups: Who shares them.
        variance: Relative variance of demand by group, shape `(groups,)`.
        persistence: Autocorrelation by category, shape `(categories,)`.
        drift: Relative variance of the slow part, of persistence `chains.DRIFT`, shape `(groups,)`.
    """

    groups: Groups
    variance: np.ndarray
    persistence: np.ndarray
    drift: np.ndarray


def compute_information(
    design: Design, terms: WorkingTerms, total: np.ndarray, own: ShockLaw, market: ShockLaw, layers: dict[str, ShockLaw]
) -> ItemInformation:
    """Evidence of the data about items, groups and categories.

    Args:
        design: The data.
        terms: Score and weight at the present effects.
        total: Relative variance of all shocks together, shape `(items,)`.
        own: Shocks of the items themselves (each item its own group).
        market: Shocks of whole categories.
        layers: Shocks of products and stores.

    Returns:
        Precisions, scores and errors.
    """
    rows = design.covariates
    weighted = terms.weight[..., None] * rows
    eye = np.eye(rows.shape[-1])
    squares = np.swapaxes(rows, 1, 2) @ weighted + _RIDGE * eye
    inverse = np.linalg.inv(squares)
    response = inverse @ np.swapaxes(weighted, 1, 2)
    # Counts' own noise is what remains of a working weight's variance beside the shocks.
    variance = 1.0 / np.maximum(terms.weight, 1e-12)
    noise = np.where(terms.weight > 0, np.maximum(variance - total[:, None], 0.1 * variance), 0.0)
    covariance = (response * noise[:, None, :]) @ np.swapaxes(response, 1, 2)
    covariance += _sandwich(response, own, design)
    # Nothing known means a wide error, not none.
    covariance += _RIDGE * inverse @ inverse
    alone = squares @ covariance @ squares
    errors = {}
    for name, law in (("market", market), *layers.items()):
        # A group's estimate weighs its items by what they know: one regression over all their rows.
        pooled = np.linalg.inv(law.groups.sum(squares))
        middle = pooled @ law.groups.sum(np.swapaxes(weighted, 1, 2))
        covariance = covariance + _sandwich(response - middle[law.groups.of_item], law, design)
        shared = _sandwich(middle, law, design, of_groups=True) + pooled @ law.groups.sum(alone) @ pooled
        errors[name] = np.einsum("gkk->gk", shared)
    precision = np.linalg.inv(covariance)
    step = np.einsum("ikl,itl,it->ik", inverse, rows, terms.score, optimize=True)
    score = np.einsum("ikl,il->ik", precision, step)
    return ItemInformation(precision, score, {name: errors[name] for name in layers}, errors["market"])


def _sandwich(response: np.ndarray, law: ShockLaw, design: Design, of_groups: bool = False) -> np.ndarray:
    """`A Cov A'` for the shocks of a law: a chain and a drift."""
    category = law.groups.category if of_groups else design.categories.of_item
    variance, drift = (part if of_groups else part[law.groups.of_item] for part in (law.variance, law.drift))
    periods = np.arange(response.shape[2])
    gaps = np.abs(np.subtract.outer(periods, periods))
    result = np.zeros((len(response), response.shape[1], response.shape[1]))
    for place, persistence in enumerate(law.persistence):
        inside = category == place
        part = response[inside]
        other = np.swapaxes(part, 1, 2)
        result[inside] = variance[inside, None, None] * ((part @ persistence**gaps) @ other)
        if drift[inside].any():
            result[inside] += drift[inside, None, None] * ((part @ DRIFT**gaps) @ other)
    return result
