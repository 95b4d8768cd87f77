"""How often the launch rule is right: policies of known value, judged from the log of another policy.

Each comparison is a shop of its own. A manager draws prices from a ladder and logs his propensities; a candidate draws
from it otherwise. In half of the comparisons the candidate truly earns `--better` to `--best` more than the manager, in
the other half as much as he does or up to 30 % less; what lies between is not drawn. The value is estimated by the
structured estimator with known propensities. Comparisons are written to disk in chunks; a second start goes on where
the first one ended.

Example: OMP_NUM_THREADS=1 python benchmarks/launch_rule.py --comparisons 100 --output_dir outputs/launch_rule
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from launch_shops import COST_SHARE, LADDER, History, LaunchShop, draw_shares, draw_shop, run_history
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pricing_fm.evaluation.off_policy import (
    Candidate,
    DecisionWeights,
    DemandDesign,
    ExperimentSettings,
    LadderPolicy,
    LaunchDecision,
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
TRUTH_DRAWS = 100
MOST_SHOPS, PAIRS = 100, 100  # shops that are tried, pairs of manager and candidate in each
WORST = -0.3  # true gain of a candidate
TAIL_LEVEL = 0.1
SENSITIVITIES = (1.0, 1.25, 1.5)  # the last is that of the rule; 1 = nothing is hidden


def compare(number: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One comparison: what is true, what was found, what was decided."""
    rng = np.random.default_rng([arguments.seed, number])
    is_better = number % 2 == 0
    lowest, highest = (arguments.better, arguments.best) if is_better else (WORST, 0.0)
    market, behavior, target, gain = draw_policies(rng, lowest, highest, arguments)
    history = run_history(market, behavior, 1, int(rng.integers(2**31)), knows=True)
    decisions = judge(market, history, behavior, target, arguments)
    decision = decisions[LaunchRules().sensitivity]
    verdict = decision.candidates[0]
    return {
        "number": number,
        "is_better": is_better,
        "true_gain": gain,
        "verdict": str(decision.verdict),
        "by_sensitivity": {f"{sensitivity:g}": str(found.verdict) for sensitivity, found in decisions.items()},
        "reasons": list(decision.reasons),
        "estimated_gain": None if verdict.gain is None else verdict.gain.value / decision.manager_value,
        "lower": None if verdict.gain is None else verdict.gain.lower / decision.manager_value,
        "upper": None if verdict.gain is None else verdict.gain.upper / decision.manager_value,
        "cells": None if decision.experiment is None else decision.experiment.num_cells,
        "weeks": None if decision.experiment is None else decision.experiment.num_weeks,
        "weeks_above_margin": None
        if decision.experiment_at_estimate is None
        else decision.experiment_at_estimate.num_weeks,
    }


def draw_policies(
    rng: np.random.Generator, lowest: float, highest: float, arguments: argparse.Namespace
) -> tuple[LaunchShop, np.ndarray, np.ndarray, float]:
    """A shop, its manager and a candidate whose true relative gain lies between two numbers."""
    for _ in range(MOST_SHOPS):
        market = draw_shop(rng, arguments.units, arguments.weeks, arguments.hidden_odds)
        behaviors, targets = draw_shares(rng, 2.0, 0.03, PAIRS), draw_shares(rng, 0.7, 0.0, PAIRS)
        # A look at the margin without memory and stock spreads the gains evenly, as far as a shop has such policies.
        margins = (LADDER - COST_SHARE) * LADDER ** -(market.elasticity + 0.5 * market.gap)
        gains = targets @ margins / (behaviors @ margins) - 1.0
        nearest = int(np.abs(gains - rng.uniform(lowest, highest)).argmin())
        behavior, target = behaviors[nearest], targets[nearest]
        luck = int(rng.integers(2**31))
        values = [
            run_history(market, shares, TRUTH_DRAWS, luck, knows).values.mean()
            for shares, knows in ((behavior, True), (target, False))
        ]
        gain = float(values[1] / values[0] - 1.0)
        if lowest <= gain <= highest:
            return market, behavior, target, gain
    raise RuntimeError(f"no candidate with a gain of {lowest:g} to {highest:g} in {MOST_SHOPS} shops; lower --better")


def judge(
    market: LaunchShop, history: History, behavior: np.ndarray, target: np.ndarray, arguments: argparse.Namespace
) -> dict[float, LaunchDecision]:
    """The launch rule with everything that it needs, at several sensitivities."""
    log, shop = history.log, market.shop
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
    experiment = ExperimentSettings(measure_weekly_variation(history.margins, log.clusters), arguments.weeks)
    support = float(compute_support_mass(target, behavior, LEAST_PROPENSITY))
    episodes, stock_test = count_price_episodes(log.prices, log.clusters), estimate_stock_relation(demand)
    decisions = {}
    for sensitivity in SENSITIVITIES:
        bounds = compute_weight_bounds(wanted, np.maximum(chances, LEAST_PROPENSITY), sensitivity)
        found = bound_structured(demand, shop, policies[0], bounds, arguments.draws).values
        hidden = ValueBounds(found.lower - manager.value, found.upper - manager.value)
        candidate = Candidate("candidate", value, support, episodes, hidden, sensitivity, tail, stock_test)
        rules = LaunchRules(margin_share=arguments.margin, sensitivity=sensitivity)
        decisions[sensitivity] = decide_launch([candidate], manager, experiment, rules, replicates=500)
    return decisions


def read_or_measure(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Every comparison, from disk where its chunk is there."""
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    names = ("units", "weeks", "better", "best", "margin", "hidden_odds", "draws", "seed", "chunk")
    settings = {name: getattr(arguments, name) for name in names}
    kept = arguments.output_dir / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{kept} holds other settings than {settings}; give another --output_dir")
    kept.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    rows: list[dict[str, Any]] = []
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


def tabulate(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Table:
    """Verdicts of the rule beside those of simpler ones."""
    asked = (
        f"margin {arguments.margin:.0%}, better by {arguments.better:.0%} to {arguments.best:.0%}; true gains between"
        f" 0% and {arguments.better:.0%} are not drawn"
    )
    table = Table(title=f"{len(rows)} comparisons; {asked}")
    for column in ("rule", "truly better", "launch", "do not launch", "experiment"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for rule, decide in (
        *((f"launch rule, sensitivity {name}", read_verdict(name)) for name in rows[0]["by_sensitivity"]),
        ("the estimate alone, where identified", judge_estimate),
    ):
        for is_better in (True, False):
            found = Counter(decide(row) for row in rows if row["is_better"] is is_better)
            table.add_row(rule, "yes" if is_better else "no", *(str(found[str(verdict)]) for verdict in Verdict))
    return table


def read_verdict(sensitivity: str) -> Callable[[dict[str, Any]], str]:
    """Verdict of the rule at one sensitivity."""
    return lambda row: str(row["by_sensitivity"][sensitivity])


def judge_estimate(row: dict[str, Any]) -> str:
    """Verdict of who launches what looks better."""
    if row["estimated_gain"] is None:
        return str(Verdict.EXPERIMENT_NEEDED)
    return str(Verdict.LAUNCH if row["estimated_gain"] > 0.0 else Verdict.DO_NOT_LAUNCH)


def describe(rows: list[dict[str, Any]]) -> list[str]:
    """Why experiments are asked for, how large they are, and whether bounds and estimates hold."""
    kinds = {
        "gain not shown": "confidence it earns at least",
        "hidden knowledge": "hidden knowledge",
        "worst outcomes": "worst outcomes",
        "support": "the log supports",
        "sample size": "the log is worth",
        "trimmed": "hardly ever takes",
        "stock test": "stock in weeks",
    }
    asked = [row for row in rows if row["verdict"] == Verdict.EXPERIMENT_NEEDED]
    why = {kind: sum(any(words in text for text in row["reasons"]) for row in asked) for kind, words in kinds.items()}
    lines = ["experiments because of " + ", ".join(f"{kind}: {count}" for kind, count in why.items() if count)]
    if asked:
        cells, weeks = (np.array([row[name] for row in asked]) for name in ("cells", "weeks"))
        lines.append(
            f"switchback that shows a gain above zero, if it is the margin: {np.median(cells):,.0f} cells,"
            f" {np.median(weeks):,.0f} weeks (medians; weeks {weeks.min():,} to {weeks.max():,})"
        )
    # Chunks on disk may be older than this number.
    sizes = np.array([size for row in asked if (size := row.get("weeks_above_margin")) is not None])
    if len(sizes):
        lines.append(
            f"switchback that shows a gain above the margin, if it is the estimate ({len(sizes)}):"
            f" {np.median(sizes):,.0f} weeks (median; {sizes.min():,} to {sizes.max():,})"
        )
    for low, high in ((0.05, 0.15), (0.15, 0.25), (0.25, 1.0)):
        found = Counter(row["verdict"] for row in rows if low <= row["true_gain"] < high)
        shown = ", ".join(f"{verdict} {found[str(verdict)]}" for verdict in Verdict)
        lines.append(f"true gain of {low:.0%} to {high:.0%}: {shown}")
    known = [row for row in rows if row["estimated_gain"] is not None]
    if known:
        truth, estimate, lower, upper = (
            np.array([row[name] for row in known]) for name in ("true_gain", "estimated_gain", "lower", "upper")
        )
        lines.append(
            f"{len(known)} identified gains: bias {np.mean(estimate - truth):+.3f}, root mean squared error"
            f" {np.sqrt(np.mean((estimate - truth) ** 2)):.3f} of the manager's value; lower bound holds in"
            f" {np.mean(lower <= truth):.0%}, upper bound in {np.mean(upper >= truth):.0%} (nominal 90%)"
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=100, help="policies to judge; half of them are better")
    parser.add_argument("--units", type=int, default=60, help="decision units of a shop")
    parser.add_argument("--weeks", type=int, default=20, help="weeks of the log, and of the value")
    parser.add_argument("--better", type=float, default=0.05, help="least true gain of a better policy, share")
    parser.add_argument("--best", type=float, default=0.5, help="greatest true gain of a better policy, share")
    parser.add_argument("--margin", type=float, default=0.02, help="gain that the rule asks for, share")
    parser.add_argument("--hidden_odds", type=float, default=1.0, help="how far hidden knowledge moves decisions")
    parser.add_argument("--draws", type=int, default=8, help="simulated histories of each estimate")
    parser.add_argument("--chunk", type=int, default=2, help="comparisons in a file")
    parser.add_argument("--seed", type=int, default=0, help="of shops, policies and logs")
    parser.add_argument("--output_dir", type=Path, required=True, help="where chunks are kept")
    arguments = parser.parse_args()
    console, began = Console(width=120), time.process_time()
    rows = read_or_measure(arguments, console)
    console.print(tabulate(rows, arguments))
    for line in describe(rows):
        console.print(line)
    console.print(f"seed {arguments.seed}, {time.process_time() - began:.0f} s of CPU time in this run")


if __name__ == "__main__":
    main()
