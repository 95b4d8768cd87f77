"""Reference policies, and the small exactly solvable markets on which each is shown at its own known optimum."""

from pricing_fm.markets.policies.analytic_markets import (
    CurveMarket,
    LadderMarket,
    LadderProgram,
    SeasonMarket,
    compute_ladder_program,
)
from pricing_fm.markets.policies.fixed import (
    ConstantPrice,
    CostPlus,
    MatchRival,
    build_best_constant_price,
    build_best_cost_plus,
)
from pricing_fm.markets.policies.ladder import (
    BestLadder,
    ThompsonLadder,
    ThompsonSettings,
    UpperConfidenceLadder,
    UpperConfidenceSettings,
    solve_ladder_program,
)
from pricing_fm.markets.policies.least_squares import IteratedLeastSquares, LeastSquaresSettings
from pricing_fm.markets.policies.network import (
    BidPriceControl,
    NetworkMarket,
    build_bid_price_control,
    build_open_control,
    simulate_network,
)
from pricing_fm.markets.policies.online import OnlinePolicy, Situation, build_situation
from pricing_fm.markets.policies.scores import Estimate, PricingRuns, estimate_mean, estimate_regret_slope
from pricing_fm.markets.policies.season import (
    OptimalSeasonPrice,
    ResolvedFluidPrice,
    build_fluid_price,
    compute_season_value,
)
from pricing_fm.markets.policies.seat_control import (
    BestSeatControl,
    ProtectionLevels,
    UpdatedProtectionLevels,
    build_emsr_control,
    build_emsr_for,
    build_first_come_control,
)
from pricing_fm.markets.policies.seat_markets import (
    MixedFareClasses,
    OrderedFareClasses,
    SeatControl,
    SeatOptimum,
    compute_ordered_optimum,
    compute_ordered_value,
    simulate_mixed,
    simulate_ordered,
)
from pricing_fm.markets.policies.simulation import simulate_pricing, simulate_season, simulate_stock

__all__ = [
    "BestLadder",
    "BestSeatControl",
    "BidPriceControl",
    "ConstantPrice",
    "CostPlus",
    "CurveMarket",
    "Estimate",
    "IteratedLeastSquares",
    "LadderMarket",
    "LadderProgram",
    "LeastSquaresSettings",
    "MatchRival",
    "MixedFareClasses",
    "NetworkMarket",
    "OnlinePolicy",
    "OptimalSeasonPrice",
    "OrderedFareClasses",
    "PricingRuns",
    "ProtectionLevels",
    "ResolvedFluidPrice",
    "SeasonMarket",
    "SeatControl",
    "SeatOptimum",
    "Situation",
    "ThompsonLadder",
    "ThompsonSettings",
    "UpdatedProtectionLevels",
    "UpperConfidenceLadder",
    "UpperConfidenceSettings",
    "build_best_constant_price",
    "build_best_cost_plus",
    "build_bid_price_control",
    "build_emsr_control",
    "build_emsr_for",
    "build_first_come_control",
    "build_fluid_price",
    "build_open_control",
    "build_situation",
    "compute_ladder_program",
    "compute_ordered_optimum",
    "compute_ordered_value",
    "compute_season_value",
    "estimate_mean",
    "estimate_regret_slope",
    "simulate_mixed",
    "simulate_network",
    "simulate_ordered",
    "simulate_pricing",
    "simulate_season",
    "simulate_stock",
    "solve_ladder_program",
]
