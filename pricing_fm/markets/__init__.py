"""Simulated markets with known truth: logged data sets, exact oracles and Gymnasium environments."""

from pricing_fm.markets import oracles
from pricing_fm.markets.batch import MarketBatch, MarketTruth, MarketView, make, open_batch
from pricing_fm.markets.continuation import (
    FutureOutcome,
    MarketOracle,
    compute_manager_outcome,
    compute_oracle,
    compute_outcome,
    draw_demand,
)
from pricing_fm.markets.domains import RetailSettings
from pricing_fm.markets.environments import MarketEnv, MarketVectorEnv, register_environments
from pricing_fm.markets.logs import LogSettings, SimulatedLog, simulate_log
from pricing_fm.markets.managers import MANAGERS, ManagerSettings
from pricing_fm.markets.solutions import MarketSolution, solve_market

__all__ = [
    "MANAGERS",
    "FutureOutcome",
    "LogSettings",
    "ManagerSettings",
    "MarketBatch",
    "MarketEnv",
    "MarketOracle",
    "MarketSolution",
    "MarketTruth",
    "MarketVectorEnv",
    "MarketView",
    "RetailSettings",
    "SimulatedLog",
    "compute_manager_outcome",
    "compute_oracle",
    "compute_outcome",
    "draw_demand",
    "make",
    "open_batch",
    "oracles",
    "register_environments",
    "simulate_log",
    "solve_market",
]
