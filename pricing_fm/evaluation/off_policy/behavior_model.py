"""Behaviour model: does the manager change the price, to which rung, and does he promote it?

The probability of an action is that of a change x that of the rung given a change x that of a promotion given the rung,
each by a logistic regression on what was known before the decision. Every product is judged by a model of the other
products, calibrated on products that its regressions had left out in turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.behavior_estimate import BehaviorEstimate
from pricing_fm.evaluation.off_policy.behavior_heads import (
    BehaviorProbabilities,
    DecisionRows,
    fit_heads,
    predict_heads,
)
from pricing_fm.evaluation.off_policy.decision_log import DecisionLog


@dataclass(frozen=True)
class BehaviorSettings:
    """How the behaviour model is fitted.

    Attributes:
        folds: Parts that the products are cut into; each is judged by a model of the others.
        calibration_folds: Parts of the training products whose left-out probabilities set the calibration; 0 = none.
        penalty: Precision of the normal prior of standardised coefficients.
        least_probability: Weight of an even distribution that is mixed into each head, in [0, 1): no log of some
            thousand decisions can tell that one is impossible.
        seed: Of the assignment of products to parts.

    Raises:
        ValueError: If a number is out of bounds.
    """

    folds: int = 5
    calibration_folds: int = 3
    penalty: float = 1.0
    least_probability: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2 or self.calibration_folds < 0 or self.calibration_folds == 1:
            raise ValueError(
                f"folds is {self.folds} and calibration_folds {self.calibration_folds}; expected 2 or more for both (or"
                " calibration_folds 0: no calibration)"
            )
        if not self.penalty > 0.0:
            raise ValueError(f"penalty is {self.penalty}; it must be greater than 0")
        if not 0.0 <= self.least_probability < 1.0:
            raise ValueError(f"least_probability is {self.least_probability}; it must lie in [0, 1)")


def fit_behavior(log: DecisionLog, settings: BehaviorSettings | None = None) -> BehaviorEstimate:
    """Estimate what the manager would have done, cross-fitted by product and calibrated.

    No row of a product enters the model that judges it. Its past does enter what that model is asked: an item's habits
    are read from its own decisions up to the week before.

    Args:
        log: The decisions.
        settings: Folds and penalty; None = the defaults.

    Returns:
        Probabilities of all actions in all decisions.

    Raises:
        ValueError: If there are fewer products than folds, or training products without any price change.

    References:
        Chernozhukov et al. 2018, "Double/debiased machine learning" (cross-fitting); Guo et al. 2017, "On calibration
        of modern neural networks" (temperatures).
    """
    settings = settings or BehaviorSettings()
    folds = assign_folds(log.products, settings.folds, settings.seed)
    rows = DecisionRows(log)
    fold_of_row, parts = folds[rows.history.items], []
    for fold in range(settings.folds):
        judged = np.flatnonzero(fold_of_row == fold)
        if len(judged):
            inside = np.flatnonzero(fold_of_row != fold)
            heads = fit_heads(rows, inside, settings.penalty, settings.calibration_folds, settings.seed)
            parts.append((judged, predict_heads(heads, rows, judged, settings.least_probability)))
    return _gather(rows, parts, folds)


def fit_marginal_behavior(log: DecisionLog, settings: BehaviorSettings | None = None) -> BehaviorEstimate:
    """The baseline: how often each rung and promotion occurs in the other products, whatever came before.

    Args:
        log: The decisions.
        settings: Folds and seed; None = the defaults.

    Returns:
        The same probabilities in all decisions of a fold.

    Raises:
        ValueError: If there are fewer products than folds.
    """
    settings = settings or BehaviorSettings()
    folds = assign_folds(log.products, settings.folds, settings.seed)
    rows = DecisionRows(log)
    fold_of_row, parts = folds[rows.history.items], []
    for fold in range(settings.folds):
        inside, judged = fold_of_row != fold, np.flatnonzero(fold_of_row == fold)
        # Half a decision at every action, so that what only this fold did has a chance.
        counts = np.full((log.num_rungs, 2), 0.5)
        np.add.at(counts, (rows.rungs[inside], rows.promoted[inside]), 1.0)
        shares = counts.sum(axis=1) / counts.sum()
        promotion = counts[:, 1] / counts.sum(axis=1) if log.promotions is not None else np.zeros(log.num_rungs)
        shape = len(judged), log.num_rungs
        change = 1.0 - shares[rows.history.last[judged]]
        probabilities = BehaviorProbabilities(change, np.broadcast_to(shares, shape), np.broadcast_to(promotion, shape))
        parts.append((judged, probabilities))
    return _gather(rows, parts, folds)


def assign_folds(products: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deal the products out to folds of equal size, in an order drawn by the seed.

    Args:
        products: Product of each item, labels, `(items,)`.
        folds: Number of folds.
        seed: Of the order, which does not depend on what was decided.

    Returns:
        Fold of each item, int, `(items,)`.

    Raises:
        ValueError: If there are fewer products than folds.
    """
    labels, codes = np.unique(np.asarray(products).astype(str), return_inverse=True)
    if len(labels) < folds:
        raise ValueError(
            f"the log has {len(labels)} products and {folds} folds are asked for; cross-fitting by product needs at"
            " least one product per fold. Ask for fewer folds or map product_id"
        )
    return np.asarray((np.random.default_rng(seed).permutation(len(labels)) % folds)[codes])


def _gather(
    rows: DecisionRows, parts: list[tuple[np.ndarray, BehaviorProbabilities]], folds: np.ndarray
) -> BehaviorEstimate:
    """Rows back to items and periods."""
    place = np.concatenate([judged for judged, _ in parts])
    items, periods = rows.history.items[place], rows.history.periods[place]

    def spread(blocks: list[np.ndarray]) -> np.ndarray:
        values = np.concatenate(blocks)
        cells = np.full((*rows.log.shape, *values.shape[1:]), np.nan)
        cells[items, periods] = values
        return cells

    found = [probabilities for _, probabilities in parts]
    return BehaviorEstimate(
        log=rows.log,
        change_probabilities=spread([one.change for one in found]),
        rung_probabilities=spread([one.rung for one in found]),
        promotion_probabilities=spread([one.promotion for one in found]),
        folds=folds,
    )
