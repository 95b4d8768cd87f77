"""Regressions and constants that predict a randomised experiment's outcomes from the half that was given."""

from typing import Literal

import numpy as np
import pandas as pd

from pricing_fm.evaluation.randomised_panels import Experiment

Rival = Literal["regression", "price_blind", "constant"]
RIVALS: tuple[Rival, ...] = ("regression", "price_blind", "constant")

NEWTON_STEPS = 30
CONVERGED = 1e-10
RIDGE = 1e-9  # only so that an item without any outcome has a solution


def predict_with_rival(rival: Rival, learned: Experiment, judged: pd.DataFrame) -> np.ndarray:
    """Expected outcome per unit of exposure of every judged decision.

    Args:
        rival (`str`): `regression` (one effect per item and one slope of the log price: logistic for binary outcomes,
            else Poisson), `price_blind` (each item's mean), or `constant` (one mean).
        learned (`Experiment`): The half that may be seen.
        judged (`pd.DataFrame`): Decisions of the same items.

    Returns:
        `np.ndarray`, float64, shape `(rows,)`: Above 0.

    Raises:
        ValueError: If an item was never seen.
    """
    seen = learned.decisions
    if unseen := sorted(set(judged["item"]) - set(seen["item"])):
        raise ValueError(f"items {unseen} are judged, yet none of their decisions was seen")
    if rival == "constant":
        return np.full(len(judged), seen["outcome"].sum() / seen["exposure"].sum())
    if rival == "price_blind":
        sums = seen.groupby("item")[["outcome", "exposure"]].sum()
        return judged["item"].map(sums["outcome"] / sums["exposure"]).to_numpy(dtype=np.float64)
    items = sorted(set(seen["item"]))
    weights = fit_regression(
        _design(seen, items), seen["outcome"].to_numpy(), seen["exposure"].to_numpy(), learned.is_binary
    )
    return _expected(_design(judged, items) @ weights, learned.is_binary)


def fit_regression(design: np.ndarray, outcomes: np.ndarray, exposures: np.ndarray, is_binary: bool) -> np.ndarray:
    """Maximum likelihood of a logistic or, with exposures, a Poisson regression, by Newton's method.

    Args:
        design (`np.ndarray`, shape `(rows, columns)`): Regressors.
        outcomes (`np.ndarray`, shape `(rows,)`): 0 or 1, or counts.
        exposures (`np.ndarray`, shape `(rows,)`): Only counts are proportional to them.
        is_binary (`bool`): Logistic, else Poisson.

    Returns:
        `np.ndarray`, shape `(columns,)`: Weights.

    Raises:
        ValueError: If it does not converge.
    """
    weights = np.zeros(design.shape[1])
    exposures = np.ones_like(outcomes) if is_binary else exposures
    for _ in range(NEWTON_STEPS):
        mean = _expected(design @ weights, is_binary)
        information = exposures * (mean * (1 - mean) if is_binary else mean)
        hessian = (design * information[:, None]).T @ design + RIDGE * np.eye(design.shape[1])
        step = np.linalg.solve(hessian, design.T @ (outcomes - exposures * mean))
        weights = weights + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < CONVERGED:
            return weights
    raise ValueError(f"the regression did not converge in {NEWTON_STEPS} steps; an item may have no outcome at all")


def _design(table: pd.DataFrame, items: list[str]) -> np.ndarray:
    effects = table["item"].to_numpy()[:, None] == np.array(items, dtype=object)[None]
    return np.column_stack([effects.astype(np.float64), np.log(table["price"].to_numpy())])


def _expected(linear: np.ndarray, is_binary: bool) -> np.ndarray:
    return 1 / (1 + np.exp(-linear)) if is_binary else np.exp(linear)
