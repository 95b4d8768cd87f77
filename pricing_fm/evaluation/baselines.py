"""Baselines that need no covariates: naive forecasts, recent quantiles, exponential smoothing."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm.evaluation.forecaster import Forecast, ForecastWindow
from pricing_fm.evaluation.grid import build_grid
from pricing_fm.panel.panel import Panel

ETS_LONGEST_SEASON = 24  # longer seasons have more starting values than exponential smoothing can estimate
ETS_SHORTEST_HISTORY = 8  # shorter series get the mean of what they have
SERIES_PER_PROCESS = 1_000  # a fit takes 5 ms and starting a process takes seconds


@dataclass
class SeasonalNaive:
    """Units of the same period one season ago (52 weeks, 7 days, 12 months); the last value where they are unknown."""

    name: str = "seasonal_naive"
    seed: int | None = None

    def fit(self, panel: Panel) -> None:
        """Nothing to learn."""

    def predict(self, window: ForecastWindow) -> Forecast:
        """Repeats the last season; every quantile is the point forecast."""
        units = build_grid(window.history).units
        last = _last_observed(units)
        season, periods = window.history.frequency.season_length, units.shape[1]
        steps = np.arange(window.prediction_length)
        columns = periods + steps - season * (1 + steps // season)
        values = np.where(columns >= 0, units[:, np.maximum(columns, 0)], np.nan)
        return _point_forecast(np.where(np.isnan(values), last[:, None], values), window)

    def settings(self) -> dict[str, object]:
        """Nothing to set."""
        return {}


@dataclass
class LastValue:
    """The last observed units of each item, repeated."""

    name: str = "last_value"
    seed: int | None = None

    def fit(self, panel: Panel) -> None:
        """Nothing to learn."""

    def predict(self, window: ForecastWindow) -> Forecast:
        """Repeats the last value; every quantile is the point forecast."""
        last = _last_observed(build_grid(window.history).units)
        return _point_forecast(np.repeat(last[:, None], window.prediction_length, axis=1), window)

    def settings(self) -> dict[str, object]:
        """Nothing to set."""
        return {}


@dataclass
class RecentQuantiles:
    """Quantiles of each item's last periods, the same for every step.

    Args:
        periods (`int`): Periods before the origin; an item without sales in them uses its whole history.
    """

    periods: int = 26
    name: str = "recent_quantiles"
    seed: int | None = None

    def fit(self, panel: Panel) -> None:
        """Nothing to learn."""

    def predict(self, window: ForecastWindow) -> Forecast:
        """Quantiles and mean of the recent units."""
        units = build_grid(window.history).units
        recent = units[:, -self.periods :].copy()
        silent = np.isnan(recent).all(axis=1)
        quantiles = np.empty((len(units), len(window.quantile_levels)))
        mean = np.empty(len(units))
        for rows, values in ((~silent, recent), (silent, units)):
            if rows.any():
                quantiles[rows] = np.nanquantile(values[rows], window.quantile_levels, axis=1).T
                mean[rows] = np.nanmean(values[rows], axis=1)
        steps = window.prediction_length
        return Forecast.of(np.repeat(quantiles[:, None], steps, axis=1), np.repeat(mean[:, None], steps, axis=1))

    def settings(self) -> dict[str, object]:
        """The number of periods."""
        return {"periods": self.periods}


@dataclass
class AutoETS:
    """Exponential smoothing with automatic choice of error, trend and season, per item (statsforecast).

    Model and smoothing constants are chosen once on the data before the first origin; at every origin the states are
    brought up to date with them. Errors are additive: multiplicative ones explode on promotion peaks (on Frat the WQL
    eight weeks before the end is 0.43 with both kinds and 0.35 with additive ones). Weekly seasons are longer than
    exponential smoothing can estimate and left out. Missing periods carry the last value. Quantiles come from the
    symmetric prediction intervals.

    Args:
        jobs (`int`): Processes of the fit, where there are enough series to keep them busy.
    """

    jobs: int = 1
    name: str = "auto_ets"
    seed: int | None = None
    _models: dict[str, Any] = field(default_factory=dict, repr=False)

    def fit(self, panel: Panel) -> None:
        """Chooses and fits one model per item."""
        season = panel.frequency.season_length
        season = season if season <= ETS_LONGEST_SEASON else 1
        series = dict(zip(panel.item_ids, _filled_series(build_grid(panel).units)))
        tasks = [(values, season) for values in series.values()]
        jobs = min(self.jobs, len(tasks) // SERIES_PER_PROCESS)
        if jobs > 1:
            # A forked child of a process that runs torch threads can hang; spawned ones cannot.
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                fitted = list(pool.map(_fit_ets, tasks, chunksize=max(1, len(tasks) // (4 * jobs))))
        else:
            fitted = [_fit_ets(task) for task in tasks]
        self._models = dict(zip(series, fitted))

    def predict(self, window: ForecastWindow) -> Forecast:
        """Runs the fitted models up to the origin and reads their intervals; items without a model get one here."""
        season = window.history.frequency.season_length
        season = season if season <= ETS_LONGEST_SEASON else 1
        series = _filled_series(build_grid(window.history).units)
        tasks = [
            (values, season, self._models.get(item), window.prediction_length, window.quantile_levels)
            for item, values in zip(window.item_ids, series)
        ]
        answers = np.stack([_forecast_ets(task) for task in tasks])  # (items, steps, levels + mean)
        return Forecast.of(answers[..., :-1], answers[..., -1])

    def settings(self) -> dict[str, object]:
        """Nothing that changes the numbers."""
        return {"longest_season": ETS_LONGEST_SEASON}


def build_simple_baselines(jobs: int = 1) -> list[SeasonalNaive | LastValue | RecentQuantiles | AutoETS]:
    """The baselines of every run that use nothing but past units.

    Args:
        jobs (`int`): Processes for exponential smoothing.

    Returns:
        `list`: Seasonal naive, last value, last-26-periods quantiles, AutoETS.
    """
    return [SeasonalNaive(), LastValue(), RecentQuantiles(), AutoETS(jobs=jobs)]


def _last_observed(units: np.ndarray) -> np.ndarray:
    known = ~np.isnan(units)
    last = units.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    return units[np.arange(len(units)), last]


def _point_forecast(values: np.ndarray, window: ForecastWindow) -> Forecast:
    return Forecast.of(np.repeat(values[..., None], len(window.quantile_levels), axis=-1), values)


def _filled_series(units: np.ndarray) -> list[np.ndarray]:
    """Observed life of each item with missing periods carried forward."""
    filled = pd.DataFrame(units).ffill(axis=1).to_numpy()
    return [row[~np.isnan(row)] for row in filled]


def _fit_ets(task: tuple[np.ndarray, int]) -> Any:
    from statsforecast.models import AutoETS as StatsforecastETS

    values, season = task
    if len(values) < ETS_SHORTEST_HISTORY:
        return None
    return StatsforecastETS(season_length=season if len(values) > 2 * season else 1, model="AZZ").fit(values)


def _forecast_ets(task: tuple[np.ndarray, int, Any, int, Sequence[float]]) -> np.ndarray:
    values, season, model, steps, levels = task
    model = model if model is not None else _fit_ets((values, season))
    if model is None:
        return np.full((steps, len(levels) + 1), values.mean() if len(values) else 0.0)
    # The quantile at 0.1 is the lower end of the 80 % interval, at 0.9 the upper.
    widths = [f"{abs(2 * level - 1) * 100:.6g}" for level in levels]
    found = model.forward(values, h=steps, level=sorted({float(width) for width in widths} - {0.0}))
    ends = {f"{key.split('-')[0]}-{float(key.split('-')[1]):.6g}": found[key] for key in found if "-" in key}
    columns = [
        found["mean"] if width == "0" else ends[f"{'lo' if level < 0.5 else 'hi'}-{width}"]
        for level, width in zip(levels, widths)
    ]
    return np.stack([*columns, found["mean"]], axis=-1)
