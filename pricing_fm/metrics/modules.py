"""The forecast metrics as modules of the Hugging Face `evaluate` library, loaded by class and without a network.

from pricing_fm.metrics.modules import WeightedQuantileLoss

WeightedQuantileLoss().compute(predictions=[[1.0, 2.0, 3.0]], references=[2.5], quantile_levels=[0.1, 0.5, 0.9])
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from pricing_fm.metrics.forecast import compute_coverage, compute_mase, compute_seasonal_scale, compute_wql

_CITATION = "Hyndman and Koehler 2006, Another look at measures of forecast accuracy (MASE)"


class WeightedQuantileLoss(evaluate.Metric):
    """WQL: mean over quantile levels of (sum of 2 x pinball / sum of |y|), pooled over all rows.

    One row is one series and step. `predictions`: list of quantiles per row, units; `references`: observed units, NaN =
    unknown and left out. `compute` needs `quantile_levels` and returns `{"wql": float}`.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Weighted quantile loss of probabilistic forecasts",
            citation=_CITATION,
            inputs_description="predictions: quantiles per row; references: observed units; quantile_levels",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("float64"),
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[float], quantile_levels: Sequence[float]
    ) -> dict[str, Any]:
        values = np.asarray(predictions, dtype=np.float64)
        return {"wql": compute_wql(np.asarray(references, dtype=np.float64), values, quantile_levels)}


class MeanAbsoluteScaledError(evaluate.Metric):
    """MASE: absolute error of a point forecast over the series' in-sample seasonal difference, averaged over series.

    One row is one series. `predictions`: point forecasts of its steps, units; `references`: observed units, NaN =
    unknown and left out. `compute` needs `histories` (one list of in-sample units per series) and `lag` (periods per
    season) and returns `{"mase": float, "items": int, "dropped": int}`.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean absolute scaled error of point forecasts",
            citation=_CITATION,
            inputs_description="predictions and references: one list of steps per series; histories; lag",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("float64")),
                }
            ),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        histories: Sequence[Sequence[float]],
        lag: int = 1,
    ) -> dict[str, Any]:
        scales = np.concatenate(
            [compute_seasonal_scale(np.asarray(history, dtype=np.float64)[None], lag) for history in histories]
        )
        score = compute_mase(np.asarray(references, dtype=np.float64), np.asarray(predictions), scales)
        return {"mase": score.value, "items": score.items, "dropped": score.dropped}


class IntervalCoverage(evaluate.Metric):
    """Share of outcomes inside their interval; both ends belong to it.

    One row is one outcome: a series and step, or an estimate with a known truth. `predictions`: lower and upper end;
    `references`: outcomes, NaN = unknown and left out. `compute` returns `{"coverage": float}`, to be compared with the
    nominal level of the intervals.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Coverage of prediction or confidence intervals",
            citation="",
            inputs_description="predictions: lower and upper end per row; references: outcomes",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("float64"),
                }
            ),
        )

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[float]) -> dict[str, Any]:
        widths = sorted({len(row) for row in predictions})
        if widths != [2]:
            raise ValueError(f"predictions have {widths} numbers a row; expected a lower and an upper end")
        ends = np.asarray(predictions, dtype=np.float64)
        crossed = np.flatnonzero(ends[:, 0] > ends[:, 1])
        if len(crossed):
            lower, upper = ends[crossed[0]]
            raise ValueError(f"interval {crossed[0]} runs from {lower:g} to {upper:g}; give the lower end first")
        return {"coverage": compute_coverage(np.asarray(references, dtype=np.float64), ends[:, 0], ends[:, 1])}
