"""Derivatives of a policy's value by what demand depends on, all of them from the one run that gives the value.

Expected sales of a period are a smooth function of mean demand; what a period leaves behind in stock is not, since
demand is whole. The first part is differentiated exactly, the second (and all that overdispersion does) by the
likelihood ratio: a future that is good where demand was high is good because demand was high. Differences of runs would
need two more runs per regressor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.censored_counts import compute_dispersion_score
from pricing_fm.evaluation.off_policy.shop import Decision, Situation, Step

Regressors = Callable[[Situation, Decision], np.ndarray]  # -> (units, draws, columns)


@dataclass(frozen=True)
class UnitSlopes:
    """Derivatives of each unit's mean value, currency.

    Attributes:
        log_mean: By a shift of log mean demand in all periods, `(units,)`.
        coefficients: By the coefficients of the regressors, `(units, columns)`.
        log_overdispersion: By the log of the overdispersion, `(units,)`; 0 for Poisson demand.
    """

    log_mean: np.ndarray
    coefficients: np.ndarray
    log_overdispersion: np.ndarray


class SlopeRecorder:
    """Watches a run of `shop.run_shop` and differentiates its mean value.

    Every draw's future is measured against the mean of the unit's other draws, which takes most of the noise and adds
    no bias. Where nothing limits sales, demand leaves nothing behind.

    Args:
        overdispersion: Of the demand that is run.
        regressors: Of log mean demand in a situation; None = none.

    References:
        Glynn 1990, "Likelihood ratio gradient estimation for stochastic systems"; Kool, van Hoof and Welling 2019,
        "Buy 4 REINFORCE samples, get a baseline for free!" (the other draws as baseline).
    """

    def __init__(self, overdispersion: float, regressors: Regressors | None = None) -> None:
        self._overdispersion, self._regressors = overdispersion, regressors
        self._earned: np.ndarray | None = None

    def watch(self, step: Step) -> None:
        """Take in a period."""
        columns = np.ones((*step.mean.shape, 1))
        if self._regressors is not None:
            columns = np.concatenate([columns, self._regressors(step.situation, step.decision)], axis=-1)
        if self._earned is None:
            if step.mean.shape[1] < 2:
                raise ValueError("slopes need two draws at least: each is measured against the others")
            self._earned, self._dispersion_scores = np.zeros((2, *step.mean.shape))
            self._scores, self._sums = np.zeros(columns.shape), np.zeros((len(columns), columns.shape[-1]))
            self._dispersion_sums = np.zeros(len(columns))
        is_limited = np.isfinite(step.situation.available)
        score = (step.customers - step.mean) / (1.0 + self._overdispersion * step.mean)
        score = np.where(is_limited, score, 0.0)
        # The period's own charges depend on its demand as the future does; its margin is differentiated exactly.
        earned = self._earned + step.margin
        lead = _deviate(earned)
        self._scores += score[..., None] * columns
        self._sums += np.einsum("ud,udc->uc", step.margin_slope - score * lead, columns)
        score = np.where(is_limited, compute_dispersion_score(step.customers, step.mean, self._overdispersion), 0.0)
        self._dispersion_scores += score
        self._dispersion_sums += (score * (step.realized_margin - step.margin - lead)).sum(axis=1)
        self._earned = earned - step.charges

    def compute_slopes(self) -> UnitSlopes:
        """Slopes of everything that was watched.

        Raises:
            ValueError: If nothing was.
        """
        if self._earned is None:
            raise ValueError("no period was watched; give `watch` to `run_shop` first")
        total, draws = _deviate(self._earned), self._earned.shape[1]
        slopes = (self._sums + np.einsum("ud,udc->uc", total, self._scores)) / draws
        by_dispersion = (self._dispersion_sums + (total * self._dispersion_scores).sum(axis=1)) / draws
        return UnitSlopes(slopes[:, 0], slopes[:, 1:], by_dispersion)


def _deviate(values: np.ndarray) -> np.ndarray:
    """Each draw less the mean of the unit's other draws, `(units, draws)`."""
    draws = values.shape[1]
    return (values - values.mean(axis=1, keepdims=True)) * (draws / (draws - 1.0))
