"""Markets fitted to real panels: estimated, checked against the log they came from, simulated."""

from pricing_fm.markets.fitting.estimate import Estimates, FitSettings, estimate_market
from pricing_fm.markets.fitting.fitted_market import FittedMarket
from pricing_fm.markets.fitting.predictive_checks import PredictiveChecks, check_market

__all__ = ["Estimates", "FitSettings", "FittedMarket", "PredictiveChecks", "check_market", "estimate_market"]
