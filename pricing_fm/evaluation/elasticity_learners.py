"""Elasticities by machine learning: double machine learning, and finite differences of a boosted demand model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.boosted_trees import BoostedTrees, TreeSettings
from pricing_fm.evaluation.elasticity_regressions import ItemLog, estimate_from_residuals
from pricing_fm.evaluation.forecaster import ForecastWindow
from pricing_fm.panel.panel import Panel

FOLDS = 5
NUISANCE_ROUNDS = 150
LAGS = (1, 2, 4)
RECENT = 4  # weeks of the rolling means
PRICE_STEP = 0.1  # relative price moves of a finite difference; trees are flat between two splits


def estimate_double_machine_learning(log: ItemLog, threads: int = 1, seed: int = 0) -> pd.DataFrame:
    """Partially linear model: LightGBM predicts log units and log price from all but the price, items cross-fitted.

    Both are taken relative to the item's mean, the nuisances see past sales and prices, list price, cost, promotions
    and the season, and no item's own rows train the nuisances that its residuals come from. The residuals are regressed
    item by item and shrunk towards the panel's mean.

    Args:
        log (`ItemLog`): Logged panel.
        threads (`int`): Threads of LightGBM.
        seed (`int`): Of the folds and trees.

    Returns:
        `pd.DataFrame`: `item_id, elasticity, lower, upper` (80 %).

    References:
        Chernozhukov et al. 2018, "Double/debiased machine learning for treatment and structural parameters".
    """
    demand, price = _centre(log.log_units, log.usable), _centre(log.log_price, log.usable)
    features = _build_features(log, demand, price)
    fold = np.random.default_rng(seed).permutation(len(demand)) % FOLDS
    left = []
    for target in (demand, price):
        residual = np.full(target.shape, np.nan)
        for number in range(FOLDS):
            train, test = log.usable & (fold != number)[:, None], log.usable & (fold == number)[:, None]
            if train.any() and test.any():
                model = _train(features[train], target[train], threads, seed)
                residual[test] = target[test] - model.predict(features[test], num_threads=threads)
        left.append(residual)
    usable = log.usable & np.isfinite(left[0]) & np.isfinite(left[1])
    return estimate_from_residuals(log.item_ids, np.nan_to_num(left[0]), np.nan_to_num(left[1]), usable)


def estimate_by_boosted_differences(panel: Panel, threads: int = 1, seed: int = 0) -> pd.DataFrame:
    """The forecasting baseline asked for next week's mean at prices 10 % above and below the last one.

    Args:
        panel (`Panel`): Logged panel.
        threads (`int`): Threads of LightGBM.
        seed (`int`): Of row sampling and bagging.

    Returns:
        `pd.DataFrame`: `item_id, elasticity`, and `lower, upper`, which are NaN: the trees give no interval of it.
    """
    trees = BoostedTrees(1, (0.5,), trees=TreeSettings(rounds=300), threads=threads, seed=seed)
    trees.fit(panel)
    frame = panel.frame
    last = frame[frame[names.PRICE].notna()].groupby(names.ITEM_ID, sort=True).last()
    origin = panel.frequency.step(panel.last_observed, 1)
    columns = [names.PRICE, *(name for name in (names.LIST_PRICE, *panel.schema.promotions) if name in last)]
    future = last[columns].reset_index().assign(**{names.TIMESTAMP: origin})
    future[list(panel.schema.promotions)] = 0.0
    means = []
    for factor in (1.0 + PRICE_STEP, 1.0 - PRICE_STEP):
        plan = future.assign(**{names.PRICE: future[names.PRICE] * factor})
        means.append(trees.predict(ForecastWindow(panel, plan, origin, 1, (0.5,))).mean[:, 0])
    floor = 1e-3  # a predicted mean of zero has no logarithm
    change = np.log(np.maximum(means[0], floor)) - np.log(np.maximum(means[1], floor))
    elasticity = -change / np.log((1.0 + PRICE_STEP) / (1.0 - PRICE_STEP))
    return pd.DataFrame(
        {names.ITEM_ID: list(panel.item_ids), "elasticity": elasticity, "lower": np.nan, "upper": np.nan}
    )


def _train(features: np.ndarray, target: np.ndarray, threads: int, seed: int) -> Any:
    import lightgbm

    settings = {
        "objective": "regression", "learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 40,
        "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1, "num_threads": threads, "seed": seed,
        "deterministic": True, "force_row_wise": True, "verbosity": -1,
    }  # fmt: skip
    return lightgbm.train(settings, lightgbm.Dataset(features, target), NUISANCE_ROUNDS)


def _build_features(log: ItemLog, demand: np.ndarray, price: np.ndarray) -> np.ndarray:
    """All but the week's own price and sales, `(items, periods, features)`; NaN = unknown."""
    shape = demand.shape
    everywhere = np.ones(shape, dtype=bool)
    list_price = log.log_list_price - np.nanmean(np.where(log.usable, log.log_price, np.nan), axis=1, keepdims=True)
    columns = [
        *np.moveaxis(log.promotions, 2, 0),
        list_price,
        _centre(log.log_cost, everywhere),
        log.log_cost - log.log_list_price,
        *(np.broadcast_to(wave(2.0 * np.pi * log.years), shape) for wave in (np.sin, np.cos)),
        np.broadcast_to(log.years, shape),
        np.broadcast_to(np.nanmean(log.log_units, axis=1)[:, None], shape),
    ]
    known = np.where(log.usable, demand, np.nan)
    for lag in LAGS:
        columns += [_shift(known, lag), _shift(price, lag)]
    for values in (known, price):
        columns.append(pd.DataFrame(_shift(values, 1).T).rolling(RECENT, min_periods=1).mean().to_numpy().T)
    return np.stack(columns, axis=2)


def _centre(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Values minus the item's mean over usable periods."""
    kept = np.where(usable & np.isfinite(values), values, 0.0)
    count = np.maximum((usable & np.isfinite(values)).sum(axis=1, keepdims=True), 1)
    return np.asarray(values - kept.sum(axis=1, keepdims=True) / count)


def _shift(values: np.ndarray, lag: int) -> np.ndarray:
    result = np.full(values.shape, np.nan)
    result[:, lag:] = values[:, :-lag]
    return result
