"""Metrics as pure numpy functions: forecasts, demand response, policy value, and the bootstraps that give intervals."""

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
from pricing_fm.metrics.response import ElasticityErrors, compute_demand_curve_error, compute_elasticity_errors
from pricing_fm.metrics.value import GapClosed, compute_gap_closed

__all__ = [
    "ElasticityErrors",
    "GapClosed",
    "Interval",
    "ScaledScore",
    "compute_coverage",
    "compute_demand_curve_error",
    "compute_elasticity_errors",
    "compute_gap_closed",
    "compute_mase",
    "compute_pinball_loss",
    "compute_seasonal_scale",
    "compute_sql",
    "compute_wape",
    "compute_wql",
    "estimate_wql_interval",
    "estimate_wql_ratio_interval",
    "interquartile_mean",
    "seasonal_lag",
    "stratified_bootstrap",
]
