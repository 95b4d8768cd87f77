"""Every reference policy beside the known optimum of a market that is solved exactly.

`exact` is the expected value of the policy itself where that is known too, and z the distance of the simulated value
from it in standard errors; the regret slope is that of log cumulative regret on log time (1 = linear, 1/2 = square
root). One core, under 20 s.

Example: OMP_NUM_THREADS=1 python benchmarks/reference_policies.py --runs 1000 --seed 0
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pricing_fm.markets import policies
from pricing_fm.markets.policies import Estimate, estimate_mean, estimate_regret_slope

# A run is stuck when its price moves by less than 1/1000 of the range and loses at least this share of the optimum.
STUCK_LOSSES = (0.002, 0.005, 0.01)
RANGE = (1.0, 9.0)


@dataclass(frozen=True)
class Row:
    """One policy on one market; money per period for markets without an end, else per season."""

    policy: str
    market: str
    optimum: float
    source: str
    simulated: Estimate
    exact: float | None = None
    slope: Estimate | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="independent runs of every policy, 10 or more")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    arguments = parser.parse_args()
    if arguments.runs < 10:
        parser.error(f"--runs is {arguments.runs}; it must be at least 10")
    started = time.perf_counter()
    print("| policy | market | optimum | source of the optimum | exact | simulated | z | share | regret slope |")
    print("|---|---|---|---|---|---|---|---|---|")
    groups = (fixed_rows, season_rows, ordered_rows, mixed_rows, network_rows, line_rows, ladder_rows, stock_rows)
    for number, rows in enumerate(groups):
        for row in rows(arguments.runs, np.random.default_rng([arguments.seed, number])):
            print(render_row(row), flush=True)
    print(f"\n{arguments.runs} runs, seed {arguments.seed}, {time.perf_counter() - started:.0f} s")


def render_row(row: Row) -> str:
    """One line of the table."""
    found, slope = row.simulated, row.slope
    off = "" if row.exact is None else f"{(found.mean - row.exact) / max(found.standard_error, 1e-12):+.1f}"
    cells = [
        row.policy,
        row.market,
        f"{row.optimum:.6g}",
        row.source,
        "" if row.exact is None else f"{row.exact:.6g}",
        f"{found.mean:.6g} ± {found.standard_error:.2g}",
        off,
        f"{100 * found.mean / row.optimum:.2f} %",
        "" if slope is None else f"{slope.mean:.3f} ± {slope.standard_error:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def fixed_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Constant best price, cost-plus and match."""
    periods = 50
    curves = (
        ({"kind": "linear", "intercept": 100.0, "slope": 8.0}, "linear"),
        ({"kind": "constant_elasticity", "scale": 500.0, "elasticity": 2.5}, "constant elasticity"),
        ({"kind": "exponential", "scale": 80.0, "rate": 0.4}, "exponential"),
        ({"kind": "logit", "utility": 3.0, "price_sensitivity": 0.8, "market_size": 60.0}, "logit"),
    )
    source = "monopoly_price"
    for demand, name in curves:
        market = policies.CurveMarket(demand, 2.0, "poisson")
        policy = policies.build_best_constant_price(demand, 2.0)
        found = policies.simulate_pricing(market, policy, periods, runs, random)
        best = float(market.optimal_profit(np.array(2.0)))
        yield Row("constant best", f"{name}, Poisson", best, source, estimate_mean(found.profit / periods), best)

    market = policies.CurveMarket(curves[1][0], 2.0, "poisson")
    costs = random.choice([1.0, 1.5, 2.0, 3.0, 4.0], (periods, runs))
    best = float(market.optimal_profit(costs).mean())
    for name, policy in (("best markup", policies.build_best_cost_plus(2.5)), ("markup 25 %", policies.CostPlus(0.25))):
        found = policies.simulate_pricing(market, policy, periods, runs, random, unit_costs=costs)
        exact = float(market.expected_profit(costs * (1.0 + policy.markup), costs).mean())
        where = "constant elasticity, costs move"
        yield Row(f"cost-plus, {name}", where, best, source, estimate_mean(found.profit / periods), exact)

    market = policies.CurveMarket(curves[3][0], 2.0, "poisson")
    best, monopoly = float(market.optimal_profit(np.array(2.0))), policies.build_best_constant_price(curves[3][0], 2.0)
    for factor in (1.0, 0.85, 1.25):
        rivals = np.full((periods, runs), monopoly.price * factor)
        found = policies.simulate_pricing(market, policies.MatchRival(), periods, runs, random, rival_prices=rivals)
        exact = float(market.expected_profit(rivals[0, :1], np.array([2.0]))[0])
        where = f"logit, rival at {factor:g} x best"
        yield Row("match", where, best, source, estimate_mean(found.profit / periods), exact)


def season_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Gallego and van Ryzin: fixed, re-solved and optimal prices, in continuous time."""
    for scale, rate, stock in ((20.0, 1.0, 5), (40.0, 0.5, 10), (100.0, 1.0, 20)):
        market = policies.SeasonMarket(scale, rate, stock, 1.0)
        optimum = market.optimum()
        fixed = policies.build_fluid_price(market)
        resolved, best = policies.ResolvedFluidPrice(scale, rate), policies.OptimalSeasonPrice(scale, rate)
        for name, policy, exact in (
            ("GvR fixed price", fixed, optimum["fixed_price_value"]),
            ("GvR re-solved", resolved, policies.compute_season_value(market, resolved)),
            ("GvR optimal", best, optimum["value"]),
        ):
            found = estimate_mean(policies.simulate_season(market, policy, 20 * runs, random))
            where = f"{stock} units, {scale:g} exp(-{rate:g} p), bound {optimum['fluid_bound']:.5g}"
            yield Row(name, where, optimum["value"], "gallego_van_ryzin", found, exact)


def ordered_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Fare classes in order, the lowest first."""
    for capacity in (80, 119, 160):
        market = policies.OrderedFareClasses(
            (1050.0, 567.0, 534.0, 520.0), (17.3, 45.1, 39.6, 34.0), (5.8, 15.0, 13.2, 11.3), capacity
        )
        optimum = policies.compute_ordered_optimum(market)
        for name, control in (
            ("optimal levels", policies.ProtectionLevels(optimum.protection_levels)),
            ("EMSR-b", policies.build_emsr_for(market)),
            ("first come", policies.build_first_come_control(4)),
        ):
            exact = policies.compute_ordered_value(market, control.whole_levels())
            found = estimate_mean(policies.simulate_ordered(market, control, 20 * runs, random))
            where = f"4 classes in order, {capacity} seats"
            yield Row(name, where, optimum.value, "compute_ordered_optimum", found, exact)


def mixed_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Fare classes mixed."""
    market = policies.MixedFareClasses((200.0, 150.0, 100.0, 50.0), (0.1, 0.15, 0.2, 0.3), 100, 40)
    optimum = market.optimal_value()
    for name, control, exact in (
        ("optimal control", policies.BestSeatControl(market), optimum),
        ("EMSR-b, updated", policies.UpdatedProtectionLevels(market.fares, market.arrival_probabilities), None),
        ("EMSR-b, fixed levels", policies.build_emsr_for(market), None),
        ("first come", policies.build_first_come_control(4), None),
    ):
        found = estimate_mean(policies.simulate_mixed(market, control, 5 * runs, random))
        yield Row(name, "4 classes mixed, 40 seats", optimum, "fare_class_dynamic_program", found, exact)


def network_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Bid prices on two legs and five itineraries, against the bound of the linear program."""
    small = policies.NetworkMarket(
        (100.0, 120.0, 180.0, 60.0, 70.0),
        (0.2, 0.2, 0.15, 0.2, 0.2),
        ((1, 0), (0, 1), (1, 1), (1, 0), (0, 1)),
        (8, 8),
        20,
    )
    for factor in (1, 4, 16, 64):
        market = small.scaled(factor)
        control = policies.build_bid_price_control(market)
        found = estimate_mean(policies.simulate_network(market, control, runs, random))
        best = f", optimum {market.optimal_value():.6g}" if factor <= 4 else ""
        where = f"2 legs, {8 * factor} seats each{best}"
        yield Row("bid price", where, market.fluid_bound(), "network_bid_prices (bound)", found)
    for name, control in (
        ("bid price, all ties accepted", policies.build_bid_price_control(market, share_ties=False)),
        ("first come", policies.build_open_control(market)),
    ):
        found = estimate_mean(policies.simulate_network(market, control, runs, random))
        yield Row(name, where, market.fluid_bound(), "network_bid_prices (bound)", found)


def line_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Iterated least squares, greedy and constrained, on a straight line with normal noise."""
    periods = 10_000
    market = policies.CurveMarket({"kind": "linear", "intercept": 10.0, "slope": 1.0}, 0.0, "normal", 1.0, RANGE)
    best = float(market.optimal_profit(np.array(0.0)))
    for name, dispersion in (("ILS (greedy)", 0.0), ("CILS, dispersion 0.8", 0.8), ("CILS, dispersion 1.2", 1.2)):
        settings = policies.LeastSquaresSettings(RANGE, (4.0, 6.0), dispersion)
        found = policies.simulate_pricing(market, policies.IteratedLeastSquares(settings, runs), periods, runs, random)
        groups = [(f"{name}, all runs", np.ones(runs, dtype=bool))]
        for loss in STUCK_LOSSES:
            stuck = found.find_stuck(loss, 1e-3 * (RANGE[1] - RANGE[0]))
            groups.append((f"{name}, {100 * stuck.mean():.0f} % stuck at a loss of {100 * loss:g} % or more", stuck))
        for label, group in groups:
            if group.sum() < 2:
                continue
            slope = estimate_regret_slope(found.periods, found.regret[group])
            profit = estimate_mean(found.profit[group] / periods)
            yield Row(label, "10 - p, normal noise 1", best, "monopoly_price", profit, None, slope)


def ladder_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Upper confidence bounds and Thompson sampling on a ladder without a stock limit."""
    periods = 20_000
    runs = max(runs // 4, 10)
    market = policies.LadderMarket((1.0, 2.0, 3.0, 4.0, 5.0), (0.9, 0.75, 0.6, 0.3, 0.1), "bernoulli")
    best = float(market.optimal_profit(np.array(0.0)))
    bounds, narrow = (policies.UpperConfidenceSettings(market.price_ladder, 0.5, width) for width in (2.5, 1.0))
    thompson = policies.ThompsonSettings(market.price_ladder, "bernoulli")
    for name, policy in (
        ("UCB, exploration 2.5", policies.UpperConfidenceLadder(bounds, runs)),
        ("UCB, exploration 1", policies.UpperConfidenceLadder(narrow, runs)),
        ("Thompson sampling", policies.ThompsonLadder(thompson, runs)),
    ):
        found = policies.simulate_pricing(market, policy, periods, runs, random)
        slope = estimate_regret_slope(found.periods, found.regret)
        profit = estimate_mean(found.profit / periods)
        yield Row(name, "ladder of 5, one customer a period", best, "LadderMarket.optimal_profit", profit, None, slope)


def stock_rows(runs: int, random: np.random.Generator) -> Iterator[Row]:
    """Thompson sampling with a stock that must last, scaled up, against the fluid bound."""
    runs = max(runs // 2, 10)
    for law, demand, units in (
        ("bernoulli", (0.8, 0.6, 0.4, 0.25, 0.1), 7),
        ("poisson", (3.0, 2.0, 1.4, 0.9, 0.4), 24),
    ):
        market = policies.LadderMarket((1.0, 1.5, 2.0, 2.5, 3.0), demand, law)
        program = policies.compute_ladder_program(market, units * 4, 100)
        best = policies.BestLadder(program, market.price_ladder)
        found = estimate_mean(policies.simulate_stock(market, best, units * 4, 100, 4 * runs, random))
        source = "choice_dynamic_program" if law == "bernoulli" else "compute_ladder_program"
        optimum = market.optimal_value(units * 4, 100)
        yield Row("optimal ladder control", f"{law}, {units * 4} units, 100 periods", optimum, source, found, optimum)
        for factor in (1, 4, 16, 64):
            stock, periods = units * factor, 25 * factor
            policy = policies.ThompsonLadder(policies.ThompsonSettings(market.price_ladder, law), runs)
            found = estimate_mean(policies.simulate_stock(market, policy, stock, periods, runs, random))
            where = f"{law}, {stock} units, {periods} periods"
            bound = market.fluid_bound(stock, periods)
            yield Row("Thompson with inventory", where, bound, "markdown_plan (bound)", found)


if __name__ == "__main__":
    main()
