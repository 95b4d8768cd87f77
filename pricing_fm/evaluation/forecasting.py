"""Runs forecasters over a task and measures them: result rows, and a table of every step for paired comparisons."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pricing_fm.evaluation.baseline_cache import BaselineCache, CachedForecast
from pricing_fm.evaluation.forecaster import Baseline, Forecast, Forecaster, ForecastWindow
from pricing_fm.evaluation.scores import score_categories, score_steps
from pricing_fm.evaluation.tasks import ForecastTask, ForecastTruth
from pricing_fm.metrics.forecast import compute_pinball_loss
from pricing_fm.results import ResultRow


@dataclass(frozen=True)
class ForecastEvaluation:
    """What a run measured.

    Args:
        rows (`tuple[ResultRow, ...]`): One row per metric, model, window and seed.
        steps (`pd.DataFrame`): One row per model, seed, window, item and step: `task, model, seed, window, item_id,
            product_id, category, timestamp, step, price, reference_price, inventory, units, scored, sold_out,
            seasonal_scale, mean`, one column per quantile level (`"0.1"`, ...) and `loss` (mean over levels of
            2 x pinball, units; NaN where units are unknown).
        windows (`pd.DataFrame`): One row per window: `window, origin, items, scored_steps, sold_out_steps,
            unknown_steps, items_without_history, items_without_scale`.
    """

    rows: tuple[ResultRow, ...]
    steps: pd.DataFrame
    windows: pd.DataFrame


def evaluate_forecasters(
    task: ForecastTask,
    models: Sequence[Forecaster],
    baselines: Sequence[Baseline] = (),
    cache: BaselineCache | None = None,
    by_category: bool = False,
    show_progress: bool = True,
) -> ForecastEvaluation:
    """Fits every forecaster once before the first origin, asks it at every origin, and scores the answers.

    Args:
        task (`ForecastTask`): Protocol and data.
        models (`Sequence[Forecaster]`): Always run.
        baselines (`Sequence[Baseline]`): Run, or taken from the cache and marked `cached`.
        cache (`BaselineCache`, *optional*): Where baselines are kept; None = always run.
        by_category (`bool`): Whether to add WQL rows for each category.
        show_progress (`bool`): Whether to show a progress bar.

    Returns:
        `ForecastEvaluation`: Rows, steps and counts.

    Raises:
        ValueError: If two forecasters share name and seed, or an answer has the wrong shape or is not finite.
    """
    forecasters = [*models, *baselines]
    _check_names(forecasters)
    cut = list(task.windows())
    rows: list[ResultRow] = []
    tables: list[pd.DataFrame] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), disable=not show_progress, transient=True) as progress:
        bar = progress.add_task(task.name, total=len(forecasters))
        for place, forecaster in enumerate(forecasters):
            progress.update(bar, description=f"{task.name}: {forecaster.name}")
            kept = place >= len(models) and cache is not None
            key = cache.key(task, baselines[place - len(models)]) if cache is not None and kept else ""
            found = cache.load(key) if cache is not None and kept else None
            answer = found if found is not None else _run(task, forecaster, cut)
            if cache is not None and kept and found is None:
                cache.store(key, answer)
            steps = answer.steps.assign(task=task.name, model=forecaster.name)
            rows += score_steps(
                steps, task.quantile_levels, answer.train_seconds, answer.inference_seconds, found is not None
            )
            if by_category:
                rows += score_categories(steps, cached=found is not None)
            tables.append(steps)
            progress.advance(bar)
    return ForecastEvaluation(tuple(rows), pd.concat(tables, ignore_index=True), _count_windows(cut))


def _run(
    task: ForecastTask, forecaster: Forecaster, cut: Sequence[tuple[ForecastWindow, ForecastTruth]]
) -> CachedForecast:
    started = time.perf_counter()
    forecaster.fit(task.training_panel())
    train_seconds = time.perf_counter() - started
    tables, inference_seconds = [], []
    for place, (window, truth) in enumerate(cut):
        started = time.perf_counter()
        forecast = forecaster.predict(window)
        inference_seconds.append(time.perf_counter() - started)
        _check_forecast(forecaster.name, forecast, window)
        seed = pd.Series(pd.NA if forecaster.seed is None else forecaster.seed, index=range(truth.targets.size))
        table = _tabulate(forecast, window, truth)
        tables.append(table.assign(task=task.name, model=forecaster.name, seed=seed.astype("Int64"), window=place))
    return CachedForecast(pd.concat(tables, ignore_index=True), train_seconds, tuple(inference_seconds))


def _tabulate(forecast: Forecast, window: ForecastWindow, truth: ForecastTruth) -> pd.DataFrame:
    items, steps = truth.targets.shape
    loss = 2.0 * compute_pinball_loss(truth.targets, forecast.quantiles, window.quantile_levels).mean(axis=-1)
    columns: dict[str, np.ndarray] = {
        "item_id": np.repeat(np.asarray(window.item_ids, dtype=object), steps),
        "product_id": np.repeat(truth.products, steps),
        "category": np.repeat(truth.categories, steps),
        "timestamp": np.tile(truth.timestamps.astype("datetime64[ns]"), items),
        "step": np.tile(np.arange(steps), items),
        "price": truth.price.ravel(),
        "reference_price": truth.reference_price.ravel(),
        "inventory": truth.inventory.ravel(),
        "units": truth.targets.ravel(),
        "scored": truth.scored.ravel(),
        "sold_out": truth.sold_out.ravel(),
        "seasonal_scale": np.repeat(truth.seasonal_scales, steps),
        "mean": forecast.mean.ravel(),
        "loss": loss.ravel(),
    }
    for place, level in enumerate(window.quantile_levels):
        columns[str(level)] = forecast.quantiles[..., place].ravel()
    return pd.DataFrame(columns)


def _count_windows(cut: Sequence[tuple[ForecastWindow, ForecastTruth]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "window": place,
                "origin": window.origin,
                "items": len(window.item_ids),
                "scored_steps": int(truth.scored.sum()),
                "sold_out_steps": int(truth.sold_out.sum()),
                "unknown_steps": int(np.isnan(truth.targets).sum()),
                "items_without_history": truth.items_without_history,
                "items_without_scale": int((np.isnan(truth.seasonal_scales) & truth.scored.any(axis=1)).sum()),
            }
            for place, (window, truth) in enumerate(cut)
        ]
    )


def _check_names(forecasters: Sequence[Forecaster]) -> None:
    seen = [(forecaster.name, forecaster.seed) for forecaster in forecasters]
    for name, seed in seen:
        if seen.count((name, seed)) > 1:
            raise ValueError(f"two forecasters are called {name!r} with seed {seed}; give each its own name or seed")


def _check_forecast(name: str, forecast: Forecast, window: ForecastWindow) -> None:
    shape = (len(window.item_ids), window.prediction_length, len(window.quantile_levels))
    if forecast.quantiles.shape != shape or forecast.mean.shape != shape[:2]:
        raise ValueError(
            f"{name} answers with quantiles of shape {forecast.quantiles.shape} and mean {forecast.mean.shape}; "
            f"expected {shape} and {shape[:2]}"
        )
    if not np.isfinite(forecast.quantiles).all() or not np.isfinite(forecast.mean).all():
        raise ValueError(f"{name} answers with numbers that are not finite")
    if (np.diff(forecast.quantiles, axis=-1) < 0).any():
        raise ValueError(f"{name} answers with crossing quantiles")
