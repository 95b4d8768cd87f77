"""Metrics as pure numpy functions: forecasts, demand response, policy value, parity, and bootstraps for intervals."""

from pricing_fm.metrics.bootstrap import (
    Interval,
    estimate_wql_interval,
    estimate_wql_ratio_interval,
    interquartile_mean,
    stratified_bootstrap,
)
from pricing_fm.metrics.forecast import (
    ScaledScore,
    compute_coverage,
    compute_mase,
    compute_pinball_loss,
    compute_seasonal_scale,
    compute_sql,
    compute_wape,
    compute_wql,
    seasonal_lag,
)
from pricing_fm.metrics.parity import SegmentParity, compute_price_parity, compute_segment_parity
from pricing_fm.metrics.response import ElasticityErrors, compute_demand_curve_error, compute_elasticity_errors
from pricing_fm.metrics.value import GapClosed, Regret, compute_gap_closed, compute_regret

__all__ = [
    "ElasticityErrors",
    "GapClosed",
    "Interval",
    "Regret",
    "ScaledScore",
    "SegmentParity",
    "compute_coverage",
    "compute_demand_curve_error",
    "compute_elasticity_errors",
    "compute_gap_closed",
    "compute_mase",
    "compute_pinball_loss",
    "compute_price_parity",
    "compute_regret",
    "compute_seasonal_scale",
    "compute_segment_parity",
    "compute_sql",
    "compute_wape",
    "compute_wql",
    "estimate_wql_interval",
    "estimate_wql_ratio_interval",
    "interquartile_mean",
    "seasonal_lag",
    "stratified_bootstrap",
]
