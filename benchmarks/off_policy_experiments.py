"""Off-policy evaluation against experiments in which chance set the price: loans by mail, health plans.

Every split halves the experiment at random. Half A becomes the log of a manager who asks more of some customers: its
decisions are kept with a known probability. Half B stays as it is and says what each policy really does. All estimators
read the log of A; an interval counts as right if that of the difference to B's answer holds 0. Beside them: another
half of the experiment (half A before anything was taken out), and one of the log's size. Where prices are many and
close, the manager's are also taken for an unknown density. Where an outcome is bounded, several ways to an interval are
compared (`off_policy_intervals.py`). Splits are written to disk one by one; a second start goes on where the first one
ended.

Examples:
    OMP_NUM_THREADS=1 python benchmarks/off_policy_experiments.py --data loan_offers --output_dir outputs/loans
    OMP_NUM_THREADS=1 python benchmarks/off_policy_experiments.py --data rand_hie --output_dir outputs/rand
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from off_policy_intervals import COMPARED, find_largest_ratio, measure_intervals, tabulate_intervals
from off_policy_report import build_rows, plot_policies, print_report
from off_policy_sources import BLUR, Source, fingerprint, read_source
from rich.console import Console
from rich.progress import track

from pricing_fm.evaluation.off_policy import (
    NotIdentified,
    OneStepLog,
    OneStepNuisances,
    OneStepValue,
    PolicyValue,
    RandomisedDecisions,
    bootstrap_value,
    compare_with_answer,
    compute_clustered_error,
    compute_design_ratios,
    compute_importance_ratios,
    compute_keep_probabilities,
    estimate_answers,
    estimate_behavior_value,
    estimate_direct,
    estimate_doubly_robust,
    estimate_fitted_q,
    estimate_from_log,
    estimate_trajectory_importance,
    find_unsupported,
    fit_nuisances,
    fit_one_step_density,
    measure_rank_calibration,
    place_log_prices,
    place_scores,
    read_decision_features,
    read_model_values,
    split_rows,
    tilt_design,
)
from pricing_fm.results import DataSource, build_results, write_results

BOOTSTRAPPED = 2  # policies of the first split whose errors are compared with a bootstrap

Estimates = dict[str, OneStepValue | NotIdentified]


@dataclass(frozen=True)
class Prepared:
    """What all splits share: it depends on the decisions, not on who is in which half.

    Attributes:
        targets: Probability of each action by policy, `(rows, actions)`.
        ratios: `target / design` of the drawn actions by policy, `(rows,)`, or why there are none.
        behaviors: Probability of each action by manager, `(rows, actions)`.
        keeps: Probability of keeping each row by manager, `(rows,)`, and the share that is kept.
    """

    targets: dict[str, np.ndarray]
    ratios: dict[str, np.ndarray | NotIdentified]
    behaviors: dict[str, np.ndarray]
    keeps: dict[str, tuple[np.ndarray, float]]


def prepare(source: Source, strength: float) -> Prepared:
    """Policies and managers over the whole experiment."""
    decisions = source.decisions
    targets = {name: policy(decisions) for name, policy in source.policies.items()}
    behaviors = {
        name: tilt_design(decisions, index(decisions), strength) for name, (index, _) in source.managers.items()
    }
    return Prepared(
        targets,
        {name: compute_design_ratios(decisions, target) for name, target in targets.items()},
        behaviors,
        {name: compute_keep_probabilities(decisions, behavior) for name, behavior in behaviors.items()},
    )


def draw_log(
    source: Source, prepared: Prepared, manager: str, is_first: np.ndarray, seed: int
) -> tuple[OneStepLog, OneStepNuisances, np.ndarray]:
    """The manager's log from half A, what is learned from it, and which rows it holds."""
    lot = np.random.default_rng([seed, 1]).random(source.decisions.num_rows)
    kept = is_first & (lot < prepared.keeps[manager][0])
    log = OneStepLog(source.decisions.select(kept), prepared.behaviors[manager][kept])
    nuisances = fit_nuisances(log, source.action_columns, source.modifiers, source.managers[manager][1], seed)
    if not source.has_close_prices:
        return log, nuisances, kept
    lines = zip(BLUR.items(), (place_log_prices, place_scores), strict=True)
    densities = {
        name: fit_one_step_density(log.decisions, nuisances.features, place(log.decisions), bandwidth, seed)
        for (name, bandwidth), place in lines
    }
    return log, replace(nuisances, densities=densities), kept


def measure_split(source: Source, prepared: Prepared, split: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One split: the answers and every estimator for every manager, policy and outcome; and intervals, side by side."""
    decisions, is_first = source.decisions, split_rows(source.decisions, seed)
    halves = {
        name: answer_all(decisions, prepared, rows) for name, rows in (("answer", ~is_first), ("other_half", is_first))
    }
    rows, intervals = [], []
    for manager in source.managers:
        log, nuisances, kept = draw_log(source, prepared, manager, is_first, seed)
        lot = np.random.default_rng([seed, 3]).random(decisions.num_rows)
        small = answer_all(decisions, prepared, is_first & (lot < prepared.keeps[manager][1]))
        for policy, target in prepared.targets.items():
            found = estimate_from_log(log, nuisances, target[kept])
            for outcome in found:
                named = {name: half[policy][outcome] for name, half in (*halves.items(), ("other_half_small", small))}
                named.update(found[outcome])
                rows += [
                    {"split": split, "manager": manager, "outcome": outcome, "policy": policy, "estimator": name}
                    | describe(value)
                    for name, value in named.items()
                ]
        if source.bounded is not None:
            known = {
                policy: (
                    prepared.targets[policy],
                    find_largest_ratio(prepared.targets[policy], prepared.behaviors[manager]),
                )
                for policy in COMPARED
            }
            predicted, answers = nuisances.outcomes[source.bounded], halves["answer"]
            ends = measure_intervals(source, log, predicted, kept, known, answers, seed)
            intervals += [{"split": split, "manager": manager} | row for row in ends]
    return pd.DataFrame(rows), pd.DataFrame(intervals)


def answer_all(decisions: RandomisedDecisions, prepared: Prepared, rows: np.ndarray) -> dict[str, Estimates]:
    """The answers of part of the experiment, by policy and outcome."""
    part = decisions.select(rows)
    return {
        policy: {one.name: ratios for one in part.outcomes}
        if isinstance(ratios, NotIdentified)
        else dict(estimate_answers(part, ratios[rows]))
        for policy, ratios in prepared.ratios.items()
    }


def describe(value: OneStepValue | NotIdentified) -> dict[str, float]:
    """Numbers of a split's table; what is not identified is missing."""
    if isinstance(value, NotIdentified):
        return {"value": np.nan, "error": np.nan, "ess": np.nan}
    return {"value": value.value, "error": value.error, "ess": value.effective_sample_size}


def read_or_measure(
    source: Source, arguments: argparse.Namespace, console: Console
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimates and intervals of every split, from disk where its files are there."""
    folder = arguments.output_dir / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("data", "strength", "all_outcomes", "by_branch", "seed")}
    settings["fingerprint"] = fingerprint(source.decisions)
    kept = arguments.output_dir / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{kept} holds other settings than {settings}; give another --output_dir")
    kept.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    prepared, tables, intervals = prepare(source, arguments.strength), [], []
    for split in track(range(arguments.splits), "splitting", console=console):
        paths = [folder / f"{kind}-{split:04d}.parquet" for kind in ("intervals", "split")]
        if not paths[1].exists():
            found = measure_split(source, prepared, split, arguments.seed + split)
            for path, table in zip(paths, reversed(found), strict=True):  # the one that is looked for comes last
                written = path.with_suffix(".part")
                table.to_parquet(written, index=False)
                written.replace(path)
        intervals.append(pd.read_parquet(paths[0]))
        tables.append(pd.read_parquet(paths[1]))
    return pd.concat(tables, ignore_index=True), pd.concat(intervals, ignore_index=True)


def describe_densities(source: Source, arguments: argparse.Namespace) -> list[str]:
    """Calibration of the estimated densities in the first split."""
    prepared, lines = prepare(source, arguments.strength), []
    is_first = split_rows(source.decisions, arguments.seed)
    for manager in source.managers:
        _, nuisances, _ = draw_log(source, prepared, manager, is_first, arguments.seed)
        for name, one in nuisances.densities.items():
            found = measure_rank_calibration(one.density.ranks, nuisances.features.modifiers)
            wrong = f"mass in the wrong tenth {found.error:.3f} (by chance {found.noise:.3f})"
            lines.append(f"first split, {manager}, {name}: {wrong}")
    return lines


def check_bootstrap(source: Source, arguments: argparse.Namespace) -> pd.DataFrame:
    """The package's estimators of trajectories and their bootstrap beside the closed forms, in the first split.

    Columns: largest relative difference of values and of errors (they are the same sums), and the bootstrap's standard
    error over that of the influence values: mean, least and most over the policies.
    """
    prepared, lines = prepare(source, arguments.strength), {}
    is_first = split_rows(source.decisions, arguments.seed)
    for manager in source.managers:
        log, nuisances, kept = draw_log(source, prepared, manager, is_first, arguments.seed)
        parts: dict[str, list[tuple[float, float, float]]] = {}
        for target in prepared.targets.values():
            if len(parts.get("direct", [])) == BOOTSTRAPPED:
                break
            closed = estimate_from_log(log, nuisances, target[kept])[source.primary]
            for name, value in estimate_with_trajectories(log, nuisances, target[kept], source.primary).items():
                one, error = closed[name], compute_clustered_error(value.contributions, two_way=False)
                assert isinstance(one, OneStepValue)
                spread = bootstrap_value(value.contributions, resample_weeks=False, replicates=300).replicates.std()
                parts.setdefault(name, []).append((value.value / one.value - 1, error / one.error - 1, spread / error))
        for name, found in parts.items():
            off_value, off_error, ratio = np.array(found).T
            lines[manager, name] = (
                np.abs(off_value).max(),
                np.abs(off_error).max(),
                ratio.mean(),
                ratio.min(),
                ratio.max(),
            )
    return pd.DataFrame(lines, index=["values off", "errors off", "bootstrap", "least", "most"]).T


def estimate_with_trajectories(
    log: OneStepLog, nuisances: OneStepNuisances, target: np.ndarray, outcome: str
) -> dict[str, PolicyValue]:
    """The same estimates by the estimators of trajectories; none where the policy lacks support."""
    if find_unsupported(target, log.propensities) is not None:
        return {}
    decisions, choices = log.decisions, nuisances.choices
    values = read_model_values(decisions, nuisances.outcomes[outcome], target)
    known = log.trajectories(outcome, log.take(target))
    pooled = log.trajectories(outcome, choices.pool(decisions, target), choices.take(decisions))
    found = {
        "log_mean": estimate_behavior_value(known),
        "direct": estimate_direct(known, values),
        "fitted_q": estimate_fitted_q(known, read_decision_features(decisions, nuisances.features, target)),
    }
    for trajectories, ending in ((known, ""), (pooled, "_estimated")):
        ratios = compute_importance_ratios(trajectories)
        for name, flag in (("", False), ("_self_normalized", True)):
            found[f"importance{name}{ending}"] = estimate_trajectory_importance(trajectories, ratios, flag)
            found[f"doubly_robust{name}{ending}"] = estimate_doubly_robust(trajectories, ratios, values, flag)
    return found


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("loan_offers", "rand_hie"), required=True, help="which experiment")
    parser.add_argument(
        "--table", type=Path, help="what prepare.py wrote (default: data/NAME/offers or persons.parquet)"
    )
    parser.add_argument("--splits", type=int, default=200, help="random splits into halves")
    parser.add_argument("--strength", type=float, default=1.5, help="how much a manager tilts prices; 0 = not at all")
    parser.add_argument("--all_outcomes", action="store_true", help="loans: all variants of the profit")
    parser.add_argument("--by_branch", action="store_true", help="loans: split and cluster by branch, not by client")
    parser.add_argument("--bootstrap", action="store_true", help="also compare errors with a bootstrap (a minute)")
    parser.add_argument("--seed", type=int, default=0, help="of the first split; the next ones follow")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of splits, results.json and figures")
    arguments = parser.parse_args()
    if arguments.splits < 2:
        parser.error(f"--splits is {arguments.splits}; it must be at least 2")
    console, began = Console(width=160), time.process_time()
    source = read_source(arguments.data, arguments.table, arguments.all_outcomes)
    if arguments.by_branch and source.branches is None:
        parser.error(f"{arguments.data} has no branches")
    if arguments.by_branch:
        source = replace(source, decisions=replace(source.decisions, clusters=source.branches))
    estimates, intervals = read_or_measure(source, arguments, console)
    compared = compare_with_answer(estimates)
    compared.to_parquet(arguments.output_dir / "compared.parquet", index=False)
    print_report(source, estimates, compared, console)
    if source.bounded is not None:
        console.print(tabulate_intervals(intervals, source.bounded))
    for line in describe_densities(source, arguments):
        console.print(line)
    if arguments.bootstrap:
        console.print(check_bootstrap(source, arguments).to_string(float_format="{:.3g}".format), highlight=False)
    figure = plot_policies(compared, source)
    figure.savefig(arguments.output_dir / "policies.png", dpi=120, facecolor="white")
    rows = build_rows(compared, source.name)
    data = [DataSource(source.name, fingerprint(source.decisions))]
    write_results(arguments.output_dir, build_results("off_policy_experiments", data, rows))
    console.print(f"seed {arguments.seed}, {time.process_time() - began:.0f} s of CPU time in this run")


if __name__ == "__main__":
    main()
