"""How often the launch rule is right on panels as shops have them: habits estimated, prices sticky, policies held.

Each shop is a simulated retail category in several stores (pricing_fm.markets) whose manager changes prices now and
then by habits of his own; nothing of him or of demand is known but the panel. Candidates hold a multiple of the list
price of every product. Of each shop as many are judged that truly earn more than the manager over the weeks after the
log (0 to 2, 2 to 5, 5 to 10, 10 to 50 %, in turn) as such that earn as much or less (up to 5, up to 30 %, in turn);
`evaluate_on_panel` values them on the log's last weeks. What hidden knowledge may do is bounded in general, and as
knowledge of the level of demand. Shops are written to disk one by one; a second start goes on where the last ended.

Example: OMP_NUM_THREADS=1 python benchmarks/launch_rule_panels.py --policies 160 --output_dir outputs/launch_panels
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from launch_strata import (
    BETTER,
    BOUND,
    ESTIMATE,
    HIDDEN,
    MARGIN,
    NO_LOGGED_PRICE,
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
from rich.progress import Progress

from pricing_fm import names
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.evaluation.off_policy import (
    ExperimentSettings,
    LaunchRules,
    NotIdentified,
    ValueBounds,
    Verdict,
    decide_launch,
    measure_weekly_variation,
)
from pricing_fm.evaluation.panel_value import (
    PanelValueEvaluation,
    PanelValueTask,
    PolicyFindings,
    ValueArguments,
    evaluate_on_panel,
)
from pricing_fm.markets import (
    LogSettings,
    ManagerSettings,
    RetailSettings,
    SimulatedLog,
    compute_manager_outcome,
    compute_outcome,
    simulate_log,
)
from pricing_fm.panel import Panel, load_panel

MANAGERS = ("epsilon_ladder", "hi_lo", "demand_follower", "promotion_timer")
STORES, PRODUCTS, WEEKS, VALUED = 6, 8, 68, 16
MULTIPLES = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)
MIXED, ROLLOUTS = 12, 96
PER_SHOP = 4  # better and worse candidates of a shop, each
RANGES = ("none", "level", "any")  # what hidden knowledge may do, at the rule's sensitivity
SIZES = (0.0, 25.0, 100.0)  # of the effective sample, by which errors are told apart
RULES = {
    RULE: read_rule,
    "hidden: level of demand": lambda row: str(row["verdict_level"]),
    f"without {HIDDEN}": read_without(HIDDEN),
    "without identification": read_without("no identification"),
    BOUND: read_without(BOUND),
    ESTIMATE: judge_estimate,
}


@dataclass(frozen=True)
class Holder:
    """Holds one price per item."""

    name: str
    prices: pd.Series

    @property
    def identity(self) -> str:
        """All of its prices."""
        return self.prices.to_json()

    def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
        """Always the same."""
        return self.prices


def judge_shop(number: int, arguments: argparse.Namespace) -> list[Row]:
    """A shop's candidates: what is true, what was found, what was decided."""
    log = simulate_log(
        RetailSettings(num_products=PRODUCTS, num_stores=STORES),
        ManagerSettings(names=(MANAGERS[number % len(MANAGERS)],)),
        LogSettings(num_markets=STORES, num_periods=WEEKS, seed=arguments.seed + number, name=f"shop{number}"),
    )
    chosen = draw_candidates(log, np.random.default_rng([arguments.seed, number]))
    if not chosen:
        return []
    columns = [column for column in VISIBLE_COLUMNS if column in log.panel]
    panel = load_panel(
        log.panel[columns].assign(price_zone=log.panel[names.LOCATION_ID]), schema={"promotion": "promotion"}
    )
    settings = ValueArguments(
        off_policy=True, history_periods=WEEKS - VALUED, value_draws=4, value_replicates=arguments.replicates
    )
    task = PanelValueTask(panel, (4, 8, 12, 16), 4, None, settings, seed=number)
    holders = [Holder(f"candidate-{place}", prices) for place, (prices, _) in enumerate(chosen)]
    with tempfile.TemporaryDirectory() as folder:
        found = evaluate_on_panel(task, lambda weeks, costs: holders, Path(folder))
    rows = []
    for policy, (_, gain) in zip(found.policies, chosen, strict=True):
        rows.append(
            {"shop": number, "manager": MANAGERS[number % len(MANAGERS)], "true_gain": gain} | judge(found, policy)
        )
    return rows


def draw_candidates(log: SimulatedLog, rng: np.random.Generator) -> list[tuple[pd.Series, float]]:
    """Held prices with their true gain over the manager: as many better ones as others, at most `PER_SHOP` of each."""
    ids = log.items[names.ITEM_ID]
    list_prices = log.state.list_price.reshape(-1)
    products = pd.factorize(log.items[names.PRODUCT_ID])[0]
    plans = [np.full(len(ids), multiple) for multiple in MULTIPLES]
    plans += [rng.choice(MULTIPLES, size=products.max() + 1)[products] for _ in range(MIXED)]
    today = compute_manager_outcome(log, VALUED, num_rollouts=ROLLOUTS).value.sum()
    gains = np.array(
        [
            compute_outcome(log, plan * list_prices, VALUED, num_rollouts=ROLLOUTS).value.sum() / today - 1.0
            for plan in plans
        ]
    )
    better, others = ([*take_in_turn(gains, part, rng)] for part in (BETTER, WORSE))
    count = min(len(better), len(others), PER_SHOP)
    places = [*better[:count], *others[:count]]
    return [(pd.Series(plans[place] * list_prices, index=ids), float(gains[place])) for place in places]


def take_in_turn(gains: np.ndarray, strata: Sequence[Stratum], rng: np.random.Generator) -> Iterator[int]:
    """Positions of gains inside the strata: one of each stratum in turn, in random order, as long as it holds any."""
    left = [list(rng.permutation(np.flatnonzero((gains >= one.lowest) & (gains < one.highest)))) for one in strata]
    while any(left):
        for place in rng.permutation(len(left)):
            if left[place]:
                yield int(left[place].pop())


def judge(found: PanelValueEvaluation, policy: PolicyFindings) -> Row:
    """The launch rule on one policy alone, for every range of what is hidden."""
    weeks, value = found.weeks, policy.candidate.value
    row: Row = {"calibration": None if found.calibration is None else found.calibration.action.value}
    if found.manager is None or isinstance(value, NotIdentified):
        reasons = list(value.reasons) if isinstance(value, NotIdentified) else []
        verdicts = dict.fromkeys(("verdict", "verdict_level"), str(Verdict.EXPERIMENT_NEEDED))
        none = {"gain": None, "identified": False, "failed": [NO_LOGGED_PRICE], "without": {}}
        return row | verdicts | none | {"reasons": reasons}
    assert policy.sensitivity is not None
    assert policy.sensitivity_to_level is not None
    assert policy.gain is not None
    manager, length, today = found.manager.path.value, weeks.units.shape[1], found.manager.value.value
    rewards = (weeks.recorded_prices - found.costs.unit_costs) * weeks.units
    experiment = ExperimentSettings(measure_weekly_variation(rewards, weeks.clusters), length)
    rules, replicates = LaunchRules(), found.task.arguments.value_replicates
    asked = rules.sensitivity
    ranges = {
        "none": policy.sensitivity[1.0],
        "level": policy.sensitivity_to_level[asked],
        "any": policy.sensitivity[asked],
    }
    candidates = {
        name: replace(policy.candidate, sensitivity_range=ValueBounds(ends.lower * length, ends.upper * length))
        for name, ends in ranges.items()
    }
    row |= examine(candidates["any"], manager, experiment, rules, replicates)
    decision = decide_launch([candidates["level"]], manager, experiment, rules, replicates=replicates)
    row |= {"verdict_level": str(decision.verdict), "identified": decision.candidates[0].gain is not None}
    row |= {"support": policy.candidate.support_mass, "trimmed": value.trimmed_mass, "ess": value.effective_sample_size}
    row |= {
        name: getattr(policy.gain, end) / today
        for name, end in (("gain", "value"), ("lower", "lower"), ("upper", "upper"))
    }
    # What the rule asks of: sampling error and what is hidden, together.
    slack = policy.gain.value - policy.gain.lower
    return row | {f"lower_{name}": (ends.lower - slack) / today for name, ends in ranges.items()}


def read_or_measure(arguments: argparse.Namespace, console: Console) -> list[Row]:
    """Candidates of as many shops as it takes, from disk where a shop is there."""
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("replicates", "seed")}
    kept = arguments.output_dir / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{kept} holds other settings than {settings}; give another --output_dir")
    kept.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    rows: list[Row] = []
    with Progress(console=console) as progress:
        bar = progress.add_task("policies", total=arguments.policies)
        number = 0
        while len(rows) < arguments.policies:
            path = arguments.output_dir / f"shop-{number:05d}.json"
            if not path.exists():
                written = path.with_suffix(".part")
                written.write_text(json.dumps(judge_shop(number, arguments), indent=1) + "\n", encoding="utf-8")
                written.replace(path)
            rows += json.loads(path.read_text(encoding="utf-8"))
            progress.update(bar, completed=len(rows))
            number += 1
    return rows[: arguments.policies]


def describe(rows: Sequence[Row]) -> list[str]:
    """How right launches, estimates and bounds are."""
    known = [row for row in rows if row["gain"] is not None]
    lines = [*describe_launches(rows, RULES), f"{len(known)} of {len(rows)} policies charge some of the logged prices"]
    parts = {"all of these": known, "identified": [row for row in known if row["identified"]]}
    for low, high in zip(SIZES, (*SIZES[1:], np.inf), strict=True):
        parts[f"worth {low:g} to {high:g} observations"] = [row for row in known if low <= row["ess"] < high]
    for label, part in parts.items():
        if not part:
            continue
        error = np.array([row["gain"] - row["true_gain"] for row in part])
        holds = {kind: np.mean([row[f"lower_{kind}"] <= row["true_gain"] for row in part]) for kind in RANGES}
        shown = ", ".join(f"{kind} {share:.0%}" for kind, share in holds.items())
        lines.append(
            f"{label} ({len(part)}): bias {error.mean():+.3f}, root mean squared error"
            f" {np.sqrt((error**2).mean()):.3f} of the manager's"
            f" value; lower bound of the gain holds, by hidden knowledge allowed: {shown} (nominal 95%); upper"
            f" {np.mean([row['upper'] >= row['true_gain'] for row in part]):.0%}"
        )
    for manager in MANAGERS:
        part = [row for row in known if row["manager"] == manager]
        if part:
            error = np.array([row["gain"] - row["true_gain"] for row in part])
            lines.append(
                f"{manager}: {len(part)} policies, bias {error.mean():+.3f}, rmse {np.sqrt((error**2).mean()):.3f}"
            )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=int, default=160, help="candidates to judge; half of them are better")
    parser.add_argument("--replicates", type=int, default=500, help="bootstrap replicates")
    parser.add_argument("--seed", type=int, default=0, help="of shops, policies and logs")
    parser.add_argument("--output_dir", type=Path, required=True, help="where shops, results.json and the figure go")
    arguments = parser.parse_args()
    console, began = Console(width=140), time.process_time()
    rows = read_or_measure(arguments, console)
    title = f"{len(rows)} policies, margin {MARGIN:.0%}; intervals of shares exact, 90 %"
    console.print(tabulate_verdicts(rows, RULES, title), tabulate_conditions(rows))
    for line in describe(rows):
        console.print(line)
    save_results(rows, RULES, "launch_rule_panels", arguments.seed, arguments.output_dir)
    console.print(f"seed {arguments.seed}, {time.process_time() - began:.0f} s of CPU time in this run")


if __name__ == "__main__":
    main()
