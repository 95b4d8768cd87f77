"""Keeps forecasts of baselines between runs, keyed by what determines them: the data, the protocol, the settings."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pricing_fm.evaluation.forecaster import Baseline
from pricing_fm.evaluation.tasks import ForecastTask

FORMAT_VERSION = 1  # raised whenever a baseline's code changes its numbers


@dataclass(frozen=True)
class CachedForecast:
    """Forecasts of one baseline on one task.

    Args:
        steps (`pd.DataFrame`): Per-item-step table as `evaluate_forecasters` builds it.
        train_seconds (`float`): Time of the fit when it was really run.
        inference_seconds (`tuple[float, ...]`): Time of each window's forecast when it was really run.
    """

    steps: pd.DataFrame
    train_seconds: float
    inference_seconds: tuple[float, ...]


@dataclass(frozen=True)
class BaselineCache:
    """A folder of baseline forecasts.

    Args:
        folder (`Path`): Created when something is stored.
    """

    folder: Path

    def key(self, task: ForecastTask, baseline: Baseline) -> str:
        """Digest of everything that determines a baseline's forecasts.

        Args:
            task (`ForecastTask`): Protocol and data.
            baseline (`Baseline`): Baseline with its settings.

        Returns:
            `str`: Name and 24 hexadecimal digits.
        """
        determined_by = {
            "format": FORMAT_VERSION,
            "data": task.panel.fingerprint(),
            "prediction_length": task.prediction_length,
            "origins": list(task.origins),
            "quantile_levels": list(task.quantile_levels),
            "context_length": task.context_length,
            "baseline": type(baseline).__name__,
            "seed": baseline.seed,
            "settings": baseline.settings(),
        }
        digest = hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()
        return f"{baseline.name}-{digest[:24]}"

    def load(self, key: str) -> CachedForecast | None:
        """Reads what an earlier run stored.

        Args:
            key (`str`): From `key`.

        Returns:
            `CachedForecast` or None: None when this was never stored.
        """
        record = self.folder / f"{key}.json"
        if not record.is_file():
            return None
        times = json.loads(record.read_text(encoding="utf-8"))
        steps = pd.read_parquet(self.folder / f"{key}.parquet")
        return CachedForecast(steps, times["train_seconds"], tuple(times["inference_seconds"]))

    def store(self, key: str, forecast: CachedForecast) -> None:
        """Writes a baseline's forecasts; a run that is cut off leaves nothing that counts as stored.

        Args:
            key (`str`): From `key`.
            forecast (`CachedForecast`): What to keep.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        times = {"train_seconds": forecast.train_seconds, "inference_seconds": list(forecast.inference_seconds)}
        table, record = self.folder / f"{key}.parquet", self.folder / f"{key}.json"
        partial_table, partial_record = (path.with_suffix(f"{path.suffix}.{os.getpid()}") for path in (table, record))
        forecast.steps.to_parquet(partial_table, index=False)
        partial_record.write_text(json.dumps(times), encoding="utf-8")
        os.replace(partial_table, table)
        os.replace(partial_record, record)  # last: the record says that the table is whole
