"""Parity between segments as modules of the Hugging Face `evaluate` library, loaded by class and without a network.

from pricing_fm.metrics.parity_modules import PriceParity

PriceParity().compute(predictions=[9.0, 12.0], references=[10.0, 12.0], segments=["student", "adult"])
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from pricing_fm.metrics.parity import SegmentParity, compute_price_parity, compute_segment_parity

_CITATION = "Cohen, Elmachtoub and Lei 2022, Price discrimination with fairness constraints"
_FEATURES = {
    "predictions": datasets.Value("float64"),
    "references": datasets.Value("float64"),
    "segments": datasets.Value("string"),
}


class PriceParity(evaluate.Metric):
    """Gap between the price levels of segments.

    One row is one item and segment. `predictions`: prices charged; `references`: reference prices of the same items,
    both currency per unit; `segments`: labels. `compute` takes `units` (weights of the basket, one per row) and returns
    `{"price_parity_gap": float, "price_parity_ratio": float, "rates": {segment: price level}}`.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Gap between the price levels of customer segments",
            citation=_CITATION,
            inputs_description="predictions: prices; references: reference prices; segments; units",
            features=datasets.Features(_FEATURES),
        )

    def _compute(
        self,
        predictions: Sequence[float],
        references: Sequence[float],
        segments: Sequence[str],
        units: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        basket = None if units is None else np.asarray(units)
        return _report("price", compute_price_parity(np.asarray(predictions), np.asarray(references), segments, basket))


class DemandParity(evaluate.Metric):
    """Gap between the shares of customers who buy, or units per customer, of segments.

    One row is one item and segment at the prices it is charged. `predictions`: units (or purchases); `references`:
    customers; `segments`: labels. `compute` returns `{"demand_parity_gap": float, "demand_parity_ratio": float,
    "rates": {segment: units per customer}}`.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Gap between units per customer of customer segments",
            citation=_CITATION,
            inputs_description="predictions: units; references: customers; segments",
            features=datasets.Features(_FEATURES),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float], segments: Sequence[str]
    ) -> dict[str, Any]:
        return _report("demand", compute_segment_parity(np.asarray(predictions), np.asarray(references), segments))


class SurplusParity(evaluate.Metric):
    """Gap between the consumer surplus per customer of segments.

    One row is one item and segment. `predictions`: consumer surplus, currency; `references`: customers; `segments`:
    labels. `compute` returns `{"surplus_parity_gap": float, "surplus_parity_ratio": float, "rates": {segment: surplus
    per customer}}`.
    """

    def __init__(self, cache_dir: str | None = None, experiment_id: str | None = None) -> None:
        super().__init__(cache_dir=cache_dir, experiment_id=experiment_id, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Gap between the consumer surplus per customer of customer segments",
            citation=_CITATION,
            inputs_description="predictions: consumer surplus; references: customers; segments",
            features=datasets.Features(_FEATURES),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float], segments: Sequence[str]
    ) -> dict[str, Any]:
        return _report("surplus", compute_segment_parity(np.asarray(predictions), np.asarray(references), segments))


def _report(kind: str, found: SegmentParity) -> dict[str, Any]:
    return {f"{kind}_parity_gap": found.gap, f"{kind}_parity_ratio": found.ratio, "rates": found.rates}
