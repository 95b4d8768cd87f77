"""Tables and figure of benchmarks/policy_ablation.py: shares of the gap, and gains over the default, by category."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from policy_ablation_trials import DEFAULT, DEFAULT_IS, GROUPS
from rich.console import Console
from rich.table import Table

from pricing_fm.metrics.bootstrap import stratified_bootstrap
from pricing_fm.results import ResultRow

LEVEL = 0.9
PLANNERS = ("plan on the curve", "stock program on the curve", "heads of the base", "held oracle")
# How each trial is used: the policy alone (its likeliest rung is nearly always the last price, so prices are drawn), a
# continuous actor's own price, and with the dial where values can be asked about any price.
ALONE, NAMED, DIALLED = "drawn", "dial 0", "dial 3000"


def by_category(frame: pd.DataFrame, market: str, trial: str, how: str, like: str | None = None) -> pd.Series:
    """Mean share of every category over seeds; categories without a gap to close are left out.

    Args:
        frame: Scores.
        market: Which markets.
        trial: Which trial or planner.
        how: Which way to choose.
        like: Trial whose seeds alone count, so that a comparison is paired by seed; None or a planner = all.
    """
    here = frame[frame["market"] == market]
    chosen = here[(here["trial"] == trial) & (here["choice"] == how)]
    if like is not None and like not in PLANNERS:
        chosen = chosen[chosen["seed"].isin(here.loc[here["trial"] == like, "seed"])]
    return chosen.groupby("category")["gap_closed"].mean().dropna()


def summary_rows(frame: pd.DataFrame, seed: int) -> list[ResultRow]:
    """Interquartile means with 90 % intervals over categories, and paired gains over the default and over the plan."""
    rows = []
    for market, trial, how in frame[["market", "trial", "choice"]].drop_duplicates().itertuples(index=False):
        own = by_category(frame, market, trial, how)
        task = f"shops {market}, {how}"
        pairs = [("gap_closed", own)]
        for name, rival in (
            ("gain_over_default", by_category(frame, market, DEFAULT, how, like=trial)),
            ("gain_over_plan", by_category(frame, market, "plan on the curve", "caution 0.5")),
        ):
            if len(rival) and not (trial == DEFAULT and name == "gain_over_default"):
                pairs.append((name, (own - rival).dropna()))
        for metric, shares in pairs:
            if len(shares) == 0:
                continue
            found = stratified_bootstrap(shares.to_numpy(), ["category"] * len(shares), level=LEVEL, seed=seed)
            rows.append(
                ResultRow(
                    metric, found.value, trial, task, lower=found.lower, upper=found.upper, n=len(shares), seed=seed
                )
            )
    return rows


def print_tables(rows: list[ResultRow]) -> None:
    """One table per kind of market: trials down, ways to choose across."""
    console = Console(width=170)
    shares = [row for row in rows if row.name == "gap_closed"]
    markets = dict.fromkeys(row.task.split(", ")[0] for row in shares)
    for market in markets:
        here = [row for row in shares if row.task.startswith(f"{market}, ")]
        ways = list(dict.fromkeys(row.task.split(", ")[1] for row in here))
        table = Table(title=f"{market}: share of the gap closed (interquartile mean, 90 % interval)")
        for column in ("trial", *ways):
            table.add_column(column)
        for trial in dict.fromkeys(row.model for row in here):
            cells = {
                row.task.split(", ")[1]: f"{row.value:.3f} ({row.lower:.2f} to {row.upper:.2f})"
                for row in here
                if row.model == trial
            }
            table.add_row(trial, *(cells.get(way, "") for way in ways))
        console.print(table)


def render_figure(frame: pd.DataFrame) -> plt.Figure:
    """Left: algorithms against confounding. Right: every ablation in mixed markets, beside the default."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6.5), layout="constrained", width_ratios=(1, 1.3))
    _draw_confounding(left, frame)
    _draw_ablations(right, frame)
    return figure


def _draw_confounding(axes: plt.Axes, frame: pd.DataFrame) -> None:
    markets = sorted((one for one in frame["market"].unique() if one != "mixed"), key=float)
    lines = [(trial, ALONE) for trial in GROUPS["algorithm"]]
    lines += [(DEFAULT, DIALLED), ("plan on the curve", "caution 0.5")]
    for number, (trial, how) in enumerate(lines):
        points = [
            stratified_bootstrap(shares.to_numpy(), ["one"] * len(shares), level=LEVEL)
            for market in markets
            if len(shares := by_category(frame, market, trial, how))
        ]
        if len(points) != len(markets):
            continue
        places = np.arange(len(markets)) + 0.06 * (number - len(lines) / 2)
        values = np.array([point.value for point in points])
        errors = [[p.value - p.lower for p in points], [p.upper - p.value for p in points]]
        label = trial if how not in (ALONE, DIALLED) else f"{trial}, {'drawn' if how == ALONE else how}"
        axes.errorbar(places, values, yerr=errors, marker="o", ms=4, capsize=2, label=label, color=f"C{number}")
    axes.set_xticks(np.arange(len(markets)), markets)
    axes.set_xlabel("correlation of logged prices with hidden demand")
    axes.set_ylabel("share of the gap closed")
    axes.axhline(0, color="grey", lw=0.8)
    axes.legend(fontsize=8, frameon=False)


def _draw_ablations(axes: plt.Axes, frame: pd.DataFrame) -> None:
    labels, place = [], 0
    for group, trials in GROUPS.items():
        for trial in trials:
            drawn = False
            alone = NAMED if trial.startswith("continuous") else ALONE
            for how, color, shift in ((alone, "C0", -0.15), (DIALLED, "C1", 0.15)):
                shares = by_category(frame, "mixed", trial, how)
                if not len(shares):
                    continue
                found = stratified_bootstrap(shares.to_numpy(), ["one"] * len(shares), level=LEVEL)
                error = [[found.value - found.lower], [found.upper - found.value]]
                axes.errorbar(found.value, place + shift, xerr=error, marker="o", ms=4, capsize=2, color=color)
                drawn = True
            if drawn:
                labels.append((place, f"{DEFAULT_IS[group]} (default)" if trial == DEFAULT else trial))
                place += 1
        place += 0.5
    plan = by_category(frame, "mixed", "plan on the curve", "caution 0.5")
    if len(plan):
        value = stratified_bootstrap(plan.to_numpy(), ["one"] * len(plan), level=LEVEL).value
        axes.axvline(value, color="black", ls=":", label="plan on the base's curve")
    axes.plot([], [], "o", color="C0", label="policy alone, drawn")
    axes.plot([], [], "o", color="C1", label="with the dial at 3000")
    axes.set_yticks([where for where, _ in labels], [label for _, label in labels], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="grey", lw=0.8)
    axes.set_xlabel("share of the gap closed, mixed markets")
    axes.legend(fontsize=8, frameon=False)
