"""How often the launch rule is right: policies of known value, judged from the log of another policy.

Each comparison is a shop of its own. A manager draws prices from a ladder and logs his propensities; a candidate draws
from it otherwise. Half of the candidates truly earn more than the manager, in equal numbers by 0 to 2, 2 to 5, 5 to 10
and 10 to 50 %; half of the others earn up to 5 % less, the rest up to 30 %. A true gain is that of a simulation apart
from the one by which the candidate was found. The value is estimated by the structured estimator with known
propensities. Comparisons are written to disk in chunks; a second start goes on where the first one ended.

Example: OMP_NUM_THREADS=1 python benchmarks/launch_rule.py --comparisons 400 --output_dir outputs/launch_rule
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from launch_shops import COST_SHARE, LADDER, History, LaunchShop, draw_shares, draw_shop, run_history
from launch_strata import (
    BETTER,
    BOUND,
    ESTIMATE,
    HIDDEN,
    MARGIN,
    RULE,
    WORSE,
    Row,
    Stratum,
    describe_launches,
    examine,
    judge_estimate,
    read_rule,
    read_without,
    save_results,
    tabulate_conditions,
    tabulate_verdicts,
)
from rich.console import Console
from rich.progress import track

from pricing_fm.evaluation.off_policy import (
    Candidate,
    DecisionWeights,
    DemandDesign,
    ExperimentSettings,
    LadderPolicy,
    LaunchRules,
    StructuredSettings,
    ValueBounds,
    Verdict,
    bootstrap_cvar_difference,
    bound_structured,
    compute_decision_weights,
    compute_support_mass,
    compute_weight_bounds,
    count_price_episodes,
    decide_launch,
    estimate_stock_relation,
    estimate_structured,
    fit_demand,
    measure_weekly_variation,
)

LEAST_PROPENSITY = 0.05  # below it a price counts as not supported, and propensities are raised to it
SEARCH_DRAWS = 100  # of the simulation by which a candidate is found
TRUTH_DRAWS = 600  # of the one that says what it is worth: gains within 0.1 % of the manager's value
MOST_SHOPS, PAIRS = 200, 100  # shops that are tried, pairs of manager and candidate in each
TAIL_LEVEL = 0.1
REPLICATES = 500
RULES = {
    RULE: read_rule,
    f"without {HIDDEN}": read_without(HIDDEN),
    BOUND: read_without(BOUND),
    ESTIMATE: judge_estimate,
}


def compare(number: int, arguments: argparse.Namespace) -> Row:
    """One comparison: what is true, what was found, what was decided."""
    rng = np.random.default_rng([arguments.seed, number])
    market, behavior, target, gain, error = draw_policies(rng, choose_stratum(number), arguments)
    history = run_history(market, behavior, 1, int(rng.integers(2**31)), knows=True)
    return {"number": number, "true_gain": gain, "true_gain_error": error} | judge(
        market, history, behavior, target, arguments
    )


def choose_stratum(number: int) -> Stratum:
    """Better and worse candidates in turn, and the strata of each in turn."""
    part = (BETTER, WORSE)[number % 2]
    return part[number // 2 % len(part)]


def draw_policies(
    rng: np.random.Generator, stratum: Stratum, arguments: argparse.Namespace
) -> tuple[LaunchShop, np.ndarray, np.ndarray, float, float]:
    """A shop, its manager, and a candidate whose true relative gain lies in a stratum, with the gain and its error."""
    lowest, highest = stratum.lowest, stratum.highest
    for _ in range(MOST_SHOPS):
        market = draw_shop(rng, arguments.units, arguments.weeks, arguments.hidden_odds)
        behaviors, targets = draw_shares(rng, 2.0, 0.03, PAIRS), draw_shares(rng, 0.7, 0.0, PAIRS)
        # A look at the margin without memory and stock spreads the gains evenly, as far as a shop has such policies.
        margins = (LADDER - COST_SHARE) * LADDER ** -(market.elasticity + 0.5 * market.gap)
        gains = targets @ margins / (behaviors @ margins) - 1.0
        nearest = int(np.abs(gains - rng.uniform(lowest, highest)).argmin())
        behavior, target = behaviors[nearest], targets[nearest]
        if not lowest <= simulate_gain(market, behavior, target, SEARCH_DRAWS, int(rng.integers(2**31)))[0] < highest:
            continue
        gain, error = simulate_gain(market, behavior, target, TRUTH_DRAWS, int(rng.integers(2**31)))
        if lowest <= gain < highest:
            return market, behavior, target, gain, error
    raise RuntimeError(f"no candidate with a gain of {lowest:g} to {highest:g} in {MOST_SHOPS} shops; try another seed")


def simulate_gain(
    market: LaunchShop, behavior: np.ndarray, target: np.ndarray, draws: int, luck: int
) -> tuple[float, float]:
    """True gain of the target as a share of the manager's value, and its Monte Carlo error."""
    today, instead = (
        run_history(market, shares, draws, luck, knows).values.mean(axis=0)
        for shares, knows in ((behavior, True), (target, False))
    )
    gain = float(instead.mean() / today.mean() - 1.0)
    error = (instead - (1.0 + gain) * today).std(ddof=1) / np.sqrt(draws) / today.mean()
    return gain, float(error)


def judge(
    market: LaunchShop, history: History, behavior: np.ndarray, target: np.ndarray, arguments: argparse.Namespace
) -> Row:
    """The launch rule with everything that it needs."""
    log, shop, rules = history.log, market.shop, LaunchRules()
    shape = log.units.shape
    season = np.broadcast_to(market.season[None, :, None], (*shape, 1))
    demand = fit_demand(log, DemandDesign(season, has_recent_discount=True), groups=np.arange(shape[0]))
    informative = demand.rows.counts.informative.reshape(shape)
    chances, wanted = behavior[history.rungs], np.where(informative, target[history.rungs], 0.0)
    weights = compute_decision_weights(wanted, chances, informative, LEAST_PROPENSITY)
    settings = StructuredSettings(draws=arguments.draws)
    policies = [LadderPolicy(LADDER, np.broadcast_to(shares, (*shape, len(LADDER)))) for shares in (target, behavior)]
    value = estimate_structured(demand, shop, policies[0], weights, settings)
    same = DecisionWeights(np.where(informative, 1.0, 0.0), 0.0)
    manager = estimate_structured(demand, shop, policies[1], same, settings)
    usual = manager.outcome.values.mean(axis=1, keepdims=True)  # worst relative to what a unit usually earns
    tail = bootstrap_cvar_difference(
        value.outcome.returns / usual, manager.outcome.returns / usual, log.clusters, level=TAIL_LEVEL
    )
    bounds = compute_weight_bounds(wanted, np.maximum(chances, LEAST_PROPENSITY), rules.sensitivity)
    found = bound_structured(demand, shop, policies[0], bounds, arguments.draws).values
    candidate = Candidate(
        "candidate",
        value,
        float(compute_support_mass(target, behavior, LEAST_PROPENSITY)),
        count_price_episodes(log.prices, log.clusters),
        ValueBounds(found.lower - manager.value, found.upper - manager.value),
        rules.sensitivity,
        tail,
        estimate_stock_relation(demand),
    )
    experiment = ExperimentSettings(measure_weekly_variation(history.margins, log.clusters), arguments.weeks)
    decision = decide_launch([candidate], manager, experiment, rules, replicates=REPLICATES)
    gain, plans = decision.candidates[0].gain, (decision.experiment, decision.experiment_at_estimate)
    ends = {} if gain is None else {name: getattr(gain, name) / manager.value for name in ("lower", "upper")}
    return examine(candidate, manager, experiment, rules, REPLICATES) | {
        "identified": gain is not None,
        "gain": value.value / manager.value - 1.0,
        **ends,
        "weeks": None if plans[0] is None else plans[0].num_weeks,
        "weeks_above_margin": None if plans[1] is None else plans[1].num_weeks,
    }


def read_or_measure(arguments: argparse.Namespace, console: Console) -> list[Row]:
    """Every comparison, from disk where its chunk is there."""
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("units", "weeks", "hidden_odds", "draws", "seed", "chunk")}
    kept = arguments.output_dir / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{kept} holds other settings than {settings}; give another --output_dir")
    kept.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    rows: list[Row] = []
    starts = range(0, arguments.comparisons, arguments.chunk)
    for start in track(starts, "comparing", console=console):
        path = arguments.output_dir / f"chunk-{start:05d}.json"
        if not path.exists():
            measured = [compare(number, arguments) for number in range(start, start + arguments.chunk)]
            written = path.with_suffix(".part")
            written.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
            written.replace(path)
        rows += json.loads(path.read_text(encoding="utf-8"))
    return rows[: arguments.comparisons]


def describe(rows: list[Row]) -> list[str]:
    """How large experiments are, and whether estimates and bounds hold."""
    lines = describe_launches(rows, RULES)
    asked = [row for row in rows if row["verdict"] == Verdict.EXPERIMENT_NEEDED]
    for name, meaning in (
        ("weeks", "above zero, if it is the margin"),
        ("weeks_above_margin", "above the margin, if it is the estimate"),
    ):
        sizes = np.array([row[name] for row in asked if row[name] is not None])
        if len(sizes):
            lines.append(
                f"switchback that shows a gain {meaning} ({len(sizes)}): {np.median(sizes):,.0f} weeks (median;"
                f" {sizes.min():,} to {sizes.max():,})"
            )
    for label, part in (("all", rows), ("identified", [row for row in rows if row["identified"]])):
        error = np.array([row["gain"] - row["true_gain"] for row in part])
        line = f"{label} ({len(part)}): bias of the gain {error.mean():+.3f}, root mean squared error"
        lines.append(f"{line} {np.sqrt(np.mean(error**2)):.3f} of the manager's value")
    known = [row for row in rows if row["identified"]]
    lower, upper = (
        np.mean([sign * (row["true_gain"] - row[end]) >= 0.0 for row in known])
        for end, sign in (("lower", 1), ("upper", -1))
    )
    lines.append(f"lower bound holds in {lower:.0%}, upper bound in {upper:.0%} (nominal 90%)")
    most = max(row["true_gain_error"] for row in rows)
    return [*lines, f"Monte Carlo error of a true gain: at most {most:.2%} of the manager's value"]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=400, help="policies to judge; half of them are better")
    parser.add_argument("--units", type=int, default=60, help="decision units of a shop")
    parser.add_argument("--weeks", type=int, default=20, help="weeks of the log, and of the value")
    parser.add_argument("--hidden_odds", type=float, default=1.0, help="how far hidden knowledge moves decisions")
    parser.add_argument("--draws", type=int, default=8, help="simulated histories of each estimate")
    parser.add_argument("--chunk", type=int, default=8, help="comparisons in a file")
    parser.add_argument("--seed", type=int, default=0, help="of shops, policies and logs")
    parser.add_argument("--output_dir", type=Path, required=True, help="where chunks, results.json and the figure go")
    arguments = parser.parse_args()
    console, began = Console(width=140), time.process_time()
    rows = read_or_measure(arguments, console)
    title = f"{len(rows)} comparisons, margin {MARGIN:.0%}; intervals of shares exact, 90 %"
    console.print(tabulate_verdicts(rows, RULES, title), tabulate_conditions(rows))
    for line in describe(rows):
        console.print(line)
    save_results(rows, RULES, "launch_rule", arguments.seed, arguments.output_dir)
    console.print(f"seed {arguments.seed}, {time.process_time() - began:.0f} s of CPU time in this run")


if __name__ == "__main__":
    main()
