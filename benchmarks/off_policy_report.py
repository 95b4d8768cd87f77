"""Tables, figure and result rows of `off_policy_experiments.py`."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from off_policy_sources import Source
from rich.console import Console
from rich.table import Table
from scipy import stats

from pricing_fm.evaluation.off_policy import (
    NotIdentified,
    compute_design_ratios,
    estimate_answers,
    measure_agreement,
    measure_detectable,
)
from pricing_fm.results import ResultRow

READABLE = {
    "other_half": "another half of the experiment",
    "other_half_small": "another part, of the log's size",
    "log_mean": "naive: mean of the log",
    "matched_mean": "naive: mean of matching decisions",
    "direct": "direct (logistic x linear)",
    "fitted_q": "direct (linear, model's error in)",
    "importance": "inverse propensity",
    "importance_self_normalized": "inverse propensity, self-normalised",
    "doubly_robust": "doubly robust",
    "doubly_robust_self_normalized": "doubly robust, self-normalised",
    "importance_estimated": "inverse propensity, estimated",
    "importance_self_normalized_estimated": "inverse propensity, self-norm., estimated",
    "doubly_robust_estimated": "doubly robust, estimated",
    "doubly_robust_self_normalized_estimated": "doubly robust, self-norm., estimated",
    "doubly_robust_self_normalized_withheld": "the same, confounder not recorded",
    "importance_self_normalized_log_density": "inverse density, of log prices",
    "doubly_robust_self_normalized_log_density": "doubly robust, density of log prices",
    "importance_self_normalized_score_density": "inverse density, of scores",
    "doubly_robust_self_normalized_score_density": "doubly robust, density of scores",
}
UNITS = {
    "take_up": "loans taken up per offer",
    "loan_size": "rand lent per offer",
    "visits": "visits to a doctor a year",
    "outpatient_dollars": "outpatient dollars a year",
    "medical_dollars": "all medical dollars a year",
}
# What the figure shows of each policy, from top to bottom: estimator, colour, marker.
DRAWN = (
    ("matched_mean", "#D55E00", "X"),
    ("fitted_q", "#B8A500", "^"),
    ("importance_self_normalized", "#CC79A7", "D"),
    ("doubly_robust_self_normalized", "#0072B2", "o"),
    ("doubly_robust_self_normalized_estimated", "#56B4E9", "s"),
    ("doubly_robust_self_normalized_withheld", "#8A8A8A", "P"),
)
REACH = float(stats.norm.ppf(0.95))


def print_report(source: Source, estimates: pd.DataFrame, compared: pd.DataFrame, console: Console) -> None:
    """The experiment, what it can tell, and how every estimator fares."""
    decisions = source.decisions
    console.print(
        f"{source.name}: {decisions.num_rows:,} decisions, {len(np.unique(decisions.clusters)):,} clusters,"
        f" {len(decisions.design)} cells, {len(decisions.prices)} prices; {compared['split'].nunique()} splits"
    )
    print_answers(source, console)
    agreement, detectable = measure_agreement(compared), measure_detectable(compared)
    for (manager, outcome), rows in agreement.groupby(["manager", "outcome"], sort=False):
        console.print(tabulate(rows, f"{source.name}, manager looks at {manager}: {outcome}"))
    sizes = estimates[estimates["estimator"] == "doubly_robust_self_normalized"].dropna(subset="ess")
    for manager, rows in sizes[sizes["outcome"] == source.primary].groupby("manager", sort=False):
        found = rows.groupby("policy", sort=False)["ess"].median().round().astype(int).to_dict()
        console.print(f"equally weighted decisions in the log (median), {manager}: {found}")
    refused = estimates[estimates["value"].isna()].groupby("policy")["split"].nunique()
    console.print(f"not identified, for want of support: {refused.to_dict() or 'none'}")
    shown = detectable[detectable["estimator"].isin(["other_half", "doubly_robust_self_normalized"])]
    table = Table(title="smallest difference that one split finds (10 %, power 80 %), share of the answer", box=None)
    for column in ("manager", "outcome", "policy", "answer", "another half", "doubly robust, self-normalised"):
        table.add_column(column)
    for key, rows in shown.groupby(["manager", "outcome", "policy"], sort=False):
        by_name = rows.set_index("estimator")
        found = [
            f"{by_name.loc[name, 'detectable']:.4g} ({by_name.loc[name, 'detectable_share']:.0%})"
            for name in ("other_half", "doubly_robust_self_normalized")
        ]
        table.add_row(*(str(part) for part in key), f"{by_name['answer'].iloc[0]:.4g}", *found)
    console.print(table)


def print_answers(source: Source, console: Console) -> None:
    """Answers of the whole experiment, and how much larger their errors are where branches are the clusters."""
    table = Table(title="the whole experiment: answer (standard error; by branch, as a multiple of it)", box=None)
    for column in ("policy", *(one.name for one in source.decisions.outcomes)):
        table.add_column(column)
    for policy, rule in source.policies.items():
        ratios = compute_design_ratios(source.decisions, rule(source.decisions))
        if isinstance(ratios, NotIdentified):
            table.add_row(policy, *["not identified"] * len(source.decisions.outcomes))
            continue
        found = estimate_answers(source.decisions, ratios)
        wide = (
            {}
            if source.branches is None
            else estimate_answers(replace(source.decisions, clusters=source.branches), ratios)
        )
        cells = [
            f"{one.value:.4g} ({one.error:.2g}" + (f"; {wide[name].error / one.error:.2f})" if wide else ")")
            for name, one in found.items()
        ]
        table.add_row(policy, *cells)
    console.print(table)


def tabulate(rows: pd.DataFrame, title: str) -> Table:
    """Agreement of all estimators on one outcome."""
    table = Table(title=title, title_justify="left", box=None)
    heads = ("coverage", "lowest", "own interval", "would hold", "bias", "rmse", "half width", "error ratio", "rank")
    for column in ("estimator", *heads):
        table.add_column(column, justify="left" if column == "estimator" else "right", no_wrap=True)
    for _, row in rows.iterrows():
        rank = "" if pd.isna(row["rank"]) else f"{row['rank']:.3f} ± {row['rank_error']:.3f}"
        table.add_row(
            READABLE[row["estimator"]],
            f"{row['coverage']:.3f} ± {row['coverage_error']:.3f}",
            f"{row['lowest_coverage']:.2f}",
            f"{row['holds_point']:.2f}",
            f"{row['expected_to_hold']:.2f}",
            f"{row['bias']:.1%}",
            f"{row['rmse']:.1%}",
            f"{row['half_width']:.1%}",
            f"{row['spread_ratio']:.2f}",
            rank,
        )
    return table


def plot_policies(compared: pd.DataFrame, source: Source) -> Figure:
    """Forest of policies: the experiment's answer, and what each estimator makes of the confounded log.

    A marker is the mean over all splits, a line the 90 % interval of a typical split; the grey band is that of the
    answer of half B. A row per manager, a column per outcome.
    """
    outcomes = [one.name for one in source.decisions.outcomes]
    policies = [name for name in source.policies if name in set(compared["policy"])]
    height = 1.3 + 0.62 * len(policies) * len(source.managers)
    figure = Figure(figsize=(4.3 * len(outcomes) + 1.6, height), layout="constrained")
    grid = figure.subplots(len(source.managers), len(outcomes), squeeze=False, sharex="col", sharey=True)
    for place, manager in enumerate(source.managers):
        for axes, outcome in zip(grid[place], outcomes):
            rows = compared[(compared["manager"] == manager) & (compared["outcome"] == outcome)]
            _draw_forest(axes, rows, policies)
            axes.set_title(f"log of a manager who looks at {manager.replace('_', ' and ')}", fontsize=8, loc="left")
        for axes, outcome in zip(grid[-1], outcomes):
            axes.set_xlabel(UNITS.get(outcome, "profit per offer, rand"), fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _draw_forest(axes: Axes, rows: pd.DataFrame, policies: list[str]) -> None:
    for rank, policy in enumerate(policies):
        here = rows[rows["policy"] == policy]
        one = here[here["estimator"] == "other_half"]
        answer, error = float(one["answer"].mean()), float(one["answer_error"].mean())
        label = "experiment, half B (90 %)" if rank == 0 else None
        axes.fill_betweenx(
            [rank - 0.44, rank + 0.44], answer - REACH * error, answer + REACH * error, color="#D9D9D9", linewidth=0,
            label=label,
        )  # fmt: skip
        axes.plot([answer, answer], [rank - 0.44, rank + 0.44], color="#222222", linewidth=1.2)
        for place, (name, colour, marker) in enumerate(DRAWN):
            found = here[here["estimator"] == name]
            value, reach = float(found["value"].mean()), REACH * float(found["error"].mean())
            y = rank - 0.36 + 0.72 * place / (len(DRAWN) - 1)
            axes.plot([value - reach, value + reach], [y, y], color=colour, linewidth=1.0)
            axes.plot(
                value, y, marker, color=colour, markersize=4.5, linestyle="none",
                label=READABLE[name] if rank == 0 else None,
            )  # fmt: skip
    axes.set_yticks(range(len(policies)), policies)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="#EEEEEE", linewidth=0.6)
    axes.set_axisbelow(True)


def build_rows(compared: pd.DataFrame, name: str) -> list[ResultRow]:
    """Result rows of everything in the tables."""
    rows = []
    for record in measure_agreement(compared).to_dict("records"):
        for metric in ("coverage", "lowest_coverage", "bias", "rmse", "half_width", "spread_ratio", "rank"):
            if pd.isna(record[metric]):
                continue
            error = record.get(f"{metric}_error")
            ends = (
                {}
                if error is None
                else {"lower": record[metric] - 1.96 * error, "upper": record[metric] + 1.96 * error}
            )
            rows.append(
                ResultRow(
                    name=metric,
                    value=float(record[metric]),
                    model=str(record["estimator"]),
                    task=f"{name} {record['manager']} {record['outcome']}",
                    n=int(record["splits"]),
                    **ends,
                )
            )
    return rows
