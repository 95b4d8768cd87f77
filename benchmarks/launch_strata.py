"""What the two benchmarks of the launch rule share: strata of true gains, which condition decided, tables, results.

A policy is worth a launch if its true gain exceeds the margin. A launch below the margin is wrong, below 0 harmful. The
rule is judged whole and with conditions dropped: a condition whose absence brings right launches and no wrong ones is
too strict, at least here; one whose absence brings wrong launches does its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from scipy import stats

from pricing_fm.evaluation.off_policy import (
    Candidate,
    ExperimentSettings,
    LaunchRules,
    NotIdentified,
    PolicyValue,
    ValueBounds,
    Verdict,
    decide_launch,
)
from pricing_fm.metrics import Interval
from pricing_fm.results import ResultRow, build_results, write_results

Row = dict[str, Any]
Decide = Callable[[Row], str]

LEVEL = 0.9  # of the intervals of shares
_ACROSS = 4  # rules beside each other in the figure
RULE, ESTIMATE = "launch rule", "estimate above 0"
MARGIN = LaunchRules().margin_share

# Thresholds that nothing fails, by the condition of identification that they switch off.
_OPEN: dict[str, dict[str, float]] = {
    "support": {"least_support_mass": 0.0},
    "trimmed weight": {"most_trimmed_mass": 1.0},
    "sample size": {"least_sample_size": 0.0},
    "price episodes": {"least_price_episodes": 0},
    "stock test": {"stock_level": 0.0},
}
IDENTIFICATION = tuple(_OPEN)
GAIN, HIDDEN, WORST = "gain above margin", "hidden knowledge", "worst outcomes"
BOUND = "lower bound of the gain alone"
NO_LOGGED_PRICE = "no logged price"  # no value at all, whatever is dropped
CONDITIONS = (*IDENTIFICATION, GAIN, HIDDEN, WORST)
# Groups of conditions that are dropped together.
GROUPS = {
    "no identification": IDENTIFICATION,
    "no identification, no hidden knowledge": (*IDENTIFICATION, HIDDEN),
    BOUND: (*IDENTIFICATION, HIDDEN, WORST),
}
# Words by which a reason of the rule is told.
_WORDS = {
    "support": "the log supports",
    "trimmed weight": "hardly ever takes",
    "sample size": "the log is worth",
    "price episodes": "prices were decided",
    "stock test": "stock in weeks",
    GAIN: "confidence it earns at least",
    HIDDEN: "if hidden knowledge",
    WORST: "worst outcomes",
}


@dataclass(frozen=True)
class Stratum:
    """True gains from `lowest` on and below `highest`, as a share of the manager's value."""

    name: str
    lowest: float
    highest: float


# The first two hold policies that are no better than the manager; the third such as are better, and not worth a launch.
STRATA = (
    Stratum("-30 to -5 %", -0.3, -0.05),
    Stratum("-5 to 0 %", -0.05, 0.0),
    Stratum("0 to 2 %", 0.0, MARGIN),
    Stratum("2 to 5 %", MARGIN, 0.05),
    Stratum("5 to 10 %", 0.05, 0.1),
    Stratum("10 to 50 %", 0.1, 0.5),
)
WORSE, BETTER = STRATA[:2], STRATA[2:]


def find_stratum(true_gain: float) -> Stratum | None:
    """The stratum of a true gain; None = outside all."""
    return next((one for one in STRATA if one.lowest <= true_gain < one.highest), None)


def examine(
    candidate: Candidate, manager: PolicyValue, experiment: ExperimentSettings, rules: LaunchRules, replicates: int
) -> Row:
    """The rule's verdict, every condition that fails, and verdicts with conditions dropped.

    Args:
        candidate: The policy.
        manager: The manager's value.
        experiment: How an experiment would be run.
        rules: What is asked.
        replicates: Of the bootstrap.

    Returns:
        `verdict`, `reasons`, `failed` (conditions; those of identification first, then what fails beside them) and
        `without`: the verdict by condition or group that is dropped; where it did not fail, the rule's own.
    """

    def decide(dropped: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        found = decide_launch(
            [_drop(candidate, manager, dropped)], manager, experiment, _open(rules, dropped), replicates=replicates
        )
        return str(found.verdict), found.reasons

    verdict, reasons = decide(())
    failed = _name(reasons) if verdict == Verdict.EXPERIMENT_NEEDED else []
    if any(name in IDENTIFICATION for name in failed):
        beyond, more = decide(IDENTIFICATION)
        failed += _name(more) if beyond == Verdict.EXPERIMENT_NEEDED else []
    sets = {name: (name,) for name in CONDITIONS} | GROUPS
    without = {name: decide(dropped)[0] if set(dropped) & set(failed) else verdict for name, dropped in sets.items()}
    return {"verdict": verdict, "reasons": list(reasons), "failed": failed, "without": without}


def _drop(candidate: Candidate, manager: PolicyValue, dropped: Sequence[str]) -> Candidate:
    """The candidate as if nothing was hidden, or its worst outcomes those of the manager."""
    if isinstance(candidate.value, NotIdentified):
        return candidate
    gain = candidate.value.value - manager.value
    if HIDDEN in dropped:
        candidate = replace(candidate, sensitivity_range=ValueBounds(gain, gain))
    return replace(candidate, tail=Interval(0.0, 0.0, 0.0)) if WORST in dropped else candidate


def _open(rules: LaunchRules, dropped: Sequence[str]) -> LaunchRules:
    """The rules without some conditions; of the gain the estimate is then asked to exceed the margin."""
    changes = {name: value for one in dropped for name, value in _OPEN.get(one, {}).items()}
    opened = replace(rules, identification=replace(rules.identification, **changes))
    return replace(opened, confidence=0.5 + 1e-9) if GAIN in dropped else opened


def _name(reasons: Sequence[str]) -> list[str]:
    return [name for name, words in _WORDS.items() if any(words in reason for reason in reasons)]


def read_without(name: str) -> Decide:
    """Verdict without a condition or group."""
    return lambda row: str(row["without"][name]) if row["without"] else str(row["verdict"])


def read_rule(row: Row) -> str:
    """Verdict of the whole rule."""
    return str(row["verdict"])


def judge_estimate(row: Row) -> str:
    """Verdict of who launches whatever looks better than the manager."""
    if row["gain"] is None:
        return str(Verdict.EXPERIMENT_NEEDED)
    return str(Verdict.LAUNCH if row["gain"] > 0.0 else Verdict.DO_NOT_LAUNCH)


def measure_share(hits: int, number: int) -> tuple[float, float, float]:
    """A share with its exact (Clopper-Pearson) interval of `LEVEL`."""
    ends = stats.binomtest(hits, number).proportion_ci(LEVEL)
    return hits / number, float(ends.low), float(ends.high)


def split_by_stratum(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by stratum, in order; strata that hold none are left out."""
    found: dict[str, list[Row]] = {one.name: [] for one in STRATA}
    for row in rows:
        stratum = find_stratum(row["true_gain"])
        if stratum is not None:
            found[stratum.name].append(row)
    return {name: part for name, part in found.items() if part}


def tabulate_verdicts(rows: Sequence[Row], rules: dict[str, Decide], title: str) -> Table:
    """Launches, refusals and experiments by stratum and rule, with the interval of the share that is launched."""
    table = Table(title=title, title_justify="left", box=None)
    for column in (
        "rule",
        "true gain",
        "policies",
        "launch",
        "refuse",
        "experiment",
        "share launched",
        "mean true gain of these",
    ):
        table.add_column(column, justify="left" if column in ("rule", "true gain") else "right", no_wrap=True)
    for rule, decide in rules.items():
        for stratum, part in split_by_stratum(rows).items():
            verdicts = [decide(row) for row in part]
            launched = [row["true_gain"] for row, one in zip(part, verdicts, strict=True) if one == Verdict.LAUNCH]
            share, low, high = measure_share(len(launched), len(part))
            counts = [str(verdicts.count(str(one))) for one in Verdict]
            mean = f"{np.mean(launched):+.1%}" if launched else ""
            table.add_row(rule, stratum, str(len(part)), *counts, f"{share:.2f} ({low:.2f} to {high:.2f})", mean)
    return table


def tabulate_conditions(rows: Sequence[Row]) -> Table:
    """What sends policies that are worth a launch to an experiment, and what would happen without each condition."""
    worth = [row for row in rows if row["true_gain"] > MARGIN and row["verdict"] == Verdict.EXPERIMENT_NEEDED]
    table = Table(
        title=f"{len(worth)} policies that are worth a launch and were sent to an experiment",
        title_justify="left",
        box=None,
    )
    heads = (
        "condition",
        "fails",
        "fails alone",
        "launches without it",
        "of which below the margin",
        "below 0",
        "mean true gain of these",
    )
    for column in heads:
        table.add_column(column, justify="left" if column == "condition" else "right")
    for name in (None, NO_LOGGED_PRICE, *CONDITIONS, *GROUPS):
        decide = read_rule if name is None or name == NO_LOGGED_PRICE else read_without(name)
        launched = np.array([row["true_gain"] for row in rows if decide(row) == Verdict.LAUNCH])
        fails = [row["failed"] for row in worth if name in row["failed"]]
        counts = [str(len(fails)), str(sum(len(one) == 1 for one in fails))]
        table.add_row(
            name or "(the rule as it is)",
            *(["", ""] if name is None or name in GROUPS else counts),
            str(len(launched)),
            str(int((launched <= MARGIN).sum())),
            str(int((launched <= 0.0).sum())),
            f"{launched.mean():+.1%}" if len(launched) else "",
        )
    return table


def describe_launches(rows: Sequence[Row], rules: dict[str, Decide]) -> list[str]:
    """Of each rule: wrong launches, what launches bring on average, and what is missed."""
    lines = []
    worth = sum(row["true_gain"] > MARGIN for row in rows)
    for rule, decide in rules.items():
        gains = np.array([row["true_gain"] for row in rows if decide(row) == Verdict.LAUNCH])
        wrong = gains[gains <= MARGIN]
        cost = f", which bring {wrong.mean():+.2%} on average (least {wrong.min():+.2%})" if len(wrong) else ""
        lines.append(
            f"{rule}: launches {int((gains > MARGIN).sum())} of {worth} that are worth it, and {len(wrong)} of"
            f" {len(rows) - worth} that are not ({int((wrong <= 0.0).sum())} below 0){cost}"
            + (f"; a launch brings {gains.mean():+.1%}" if len(gains) else "")
        )
    return lines


def save_results(rows: Sequence[Row], rules: dict[str, Decide], benchmark: str, seed: int, folder: Path) -> None:
    """results.json: shares launched, refused and sent to an experiment by rule and stratum; and the figure."""
    found = []
    for rule, decide in rules.items():
        for stratum, part in split_by_stratum(rows).items():
            verdicts = [decide(row) for row in part]
            for verdict in Verdict:
                share, low, high = measure_share(verdicts.count(str(verdict)), len(part))
                found.append(
                    ResultRow(
                        str(verdict), share, rule, f"true gain {stratum}", lower=low, upper=high, n=len(part), seed=seed
                    )
                )
    write_results(folder, build_results(benchmark, [], found))
    plot_verdicts(rows, rules).savefig(folder / f"{benchmark}.png", dpi=120, facecolor="white")


def plot_verdicts(rows: Sequence[Row], rules: dict[str, Decide]) -> Figure:
    """Share of each verdict by stratum, a panel per rule."""
    parts = split_by_stratum(rows)
    lines = 1 + (len(rules) > _ACROSS)
    across = -(-len(rules) // lines)
    figure = Figure(figsize=(2.7 * across + 1.4, (0.42 * len(parts) + 0.5) * lines + 1.1), layout="constrained")
    grid = figure.subplots(lines, across, sharex=True, sharey=True, squeeze=False)
    panels = grid.ravel()[: len(rules)]
    for axes in grid.ravel()[len(rules) :]:
        axes.set_visible(False)
    shown = {
        Verdict.LAUNCH: ("launch", "#0072B2"),
        Verdict.EXPERIMENT_NEEDED: ("experiment", "#D9D9D9"),
        Verdict.DO_NOT_LAUNCH: ("refuse", "#E69F00"),
    }
    for axes, (rule, decide) in zip(panels, rules.items(), strict=True):
        left = np.zeros(len(parts))
        for verdict, (label, colour) in shown.items():
            shares = np.array([np.mean([decide(row) == verdict for row in part]) for part in parts.values()])
            axes.barh(range(len(parts)), shares, left=left, color=colour, label=label)
            left += shares
        axes.set_title(rule, fontsize=9, loc="left")
        axes.set_xlim(0.0, 1.0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(parts)), [f"{name} ({len(part)})" for name, part in parts.items()])
    panels[0].invert_yaxis()
    figure.supylabel("true gain (policies)", fontsize=9)
    figure.supxlabel("share of the policies", fontsize=9)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=8
    )
    return figure
