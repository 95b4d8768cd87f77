"""Continuous prices whose logging density nobody wrote down: bias, error and coverage where the truth is known.

Four cells of logs. One step (`off_policy_continuous_bandit.py`): `smooth`, whose prices have a location and a scale,
and `two_prices`, which have none. Shops with stock and price memory (`off_policy_continuous_market.py`): `plain`, whose
demand the model knows, and `peaks`, whose demand it does not. Each with the density known and estimated, at several
bandwidths, beside the same log snapped to rungs and the model of outcomes alone. Logs are written to disk in chunks; a
second start goes on where the first one ended. Writes results.json and a figure of bias and error by bandwidth.

Example: OMP_NUM_THREADS=1 python benchmarks/off_policy_continuous.py --output_dir outputs/off_policy_continuous
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from off_policy_continuous_bandit import WORLDS, compute_bandit_truths, estimate_bandit
from off_policy_continuous_market import FAILURES, compute_market_truths, estimate_market
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pricing_fm.results import ResultRow, build_results, write_results

CELLS = (*WORLDS, *FAILURES)
METRICS = ("bias", "rmse", "coverage")


def measure(cell: str, seed: list[int]) -> list[dict[str, object]]:
    """Estimates from one log."""
    if cell in WORLDS:
        return estimate_bandit(WORLDS[cell], seed)
    return estimate_market(cell, seed)


def read_truths(cell: str, arguments: argparse.Namespace) -> dict[str, float]:
    """True values by policy, and the manager's, from disk where they are there."""
    path = arguments.output_dir / f"{cell}-truth.json"
    if not path.exists():
        found = (
            compute_bandit_truths(WORLDS[cell])
            if cell in WORLDS
            else compute_market_truths(cell, arguments.truth_units)
        )
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    truths: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return truths


def read_or_measure(cell: str, arguments: argparse.Namespace, console: Console) -> pd.DataFrame:
    """Estimates of every log of a cell, from disk where its chunk is there, beside the truth."""
    tables = []
    for start in track(range(0, arguments.logs, arguments.chunk), cell, console=console):
        path = arguments.output_dir / f"{cell}-{start:05d}.parquet"
        if not path.exists() and arguments.only_report:
            continue
        if not path.exists():
            rows = [
                {"log": number} | row
                for number in range(start, start + arguments.chunk)
                for row in measure(cell, [arguments.seed, number])
            ]
            written = path.with_suffix(".part")
            pd.DataFrame(rows).to_parquet(written, index=False)
            written.replace(path)
        tables.append(pd.read_parquet(path))
    if not tables:
        return pd.DataFrame()
    truths = read_truths(cell, arguments)
    found = pd.concat(tables, ignore_index=True)
    return found.assign(truth=found["policy"].map(truths), manager=truths["manager"])


def read_errors(found: pd.DataFrame) -> pd.DataFrame:
    """Errors as shares of the manager's value, and whether intervals hold; of shops those of gains over the log.

    Shops of a log share their size, which is luck of all policies alike: their gains say more of an estimator.
    """
    start, base = ("gain_", found["manager"]) if "gain_value" in found else ("", 0.0)
    truth = found["truth"] - base
    return found.assign(
        error=(found[f"{start}value"] - truth) / found["manager"],
        covered=(found[f"{start}lower"] <= truth) & (truth <= found[f"{start}upper"]),
        value_covered=(found["lower"] <= found["truth"]) & (found["truth"] <= found["upper"]),
        half_width=(found[f"{start}upper"] - found[f"{start}lower"]) / found["manager"] / 2.0,
    )


def summarise(found: pd.DataFrame) -> pd.DataFrame:
    """By estimator over all policies: bias, error and coverage, with their Monte Carlo errors.

    Policies of one log share its luck, so that the Monte Carlo errors are those of means by log. `bias` is the root
    mean square over policies of the mean error, less what chance adds to it: what does not go away with more logs.
    """
    lines = []
    for estimator, rows in read_errors(found).groupby("estimator", sort=False):
        errors = rows.pivot(index="log", columns="policy", values="error")
        covered = rows.groupby("log")[["covered", "value_covered"]].mean()
        logs, squares = len(errors), (errors**2).mean(axis=1)
        means, noise = errors.mean(), errors.var() / errors.count()
        rmse = float(np.sqrt(squares.mean()))
        lines.append(
            {
                "estimator": estimator,
                "bias": float(np.sqrt(max((means**2 - noise).mean(), 0.0))),
                "bias_error": float(np.sqrt(noise.mean())),
                **{f"bias_{policy}": means[policy] for policy in errors.columns},
                "rmse": rmse,
                "rmse_error": float(squares.std() / np.sqrt(logs) / (2.0 * rmse)),
                "coverage": covered["covered"].mean(),
                "coverage_error": covered["covered"].std() / np.sqrt(logs),
                "value_coverage": covered["value_covered"].mean(),
                "half_width": rows["half_width"].mean(),
                "ess": rows["ess"].median(),
                "trimmed": rows["trimmed"].mean(),
                "logs": logs,
                "answers": len(rows),
            }
        )
    return pd.DataFrame(lines)


def tabulate(cell: str, found: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """One cell, biases with their sign by policy."""
    policies = list(found["policy"].unique())
    truths = found.groupby("policy", sort=False)[["truth", "manager"]].first()
    gains = ", ".join(f"{name} {row.truth / row.manager - 1:+.1%}" for name, row in truths.iterrows())
    once = found.groupby("log")[["misplaced", "noise", "size"]].first().mean()
    asked = "gains over the log" if "gain_value" in found else "values"
    title = (
        f"{cell}, {asked}: {summary['logs'].iloc[0]} logs; true gains {gains}\nmass in the wrong tenth"
        f" {once['misplaced']:.3f} (by chance {once['noise']:.3f}) of {once['size']:.0f} prices"
    )
    table = Table(title=title, title_justify="left", box=None)
    heads = ("estimator", "bias", *policies, "rmse", "coverage", "of values", "half width", "sample size", "trimmed")
    heads = (*heads, "refused")
    for head in heads:
        table.add_column(head, justify="left" if head == "estimator" else "right", no_wrap=True)
    for _, row in summary.iterrows():
        table.add_row(
            row["estimator"],
            f"{row['bias']:.2%} ({row['bias_error']:.2%})",
            *(f"{row[f'bias_{policy}']:+.2%}" for policy in policies),
            f"{row['rmse']:.2%} ({row['rmse_error']:.2%})",
            f"{row['coverage']:.3f} ({row['coverage_error']:.3f})",
            f"{row['value_coverage']:.3f}",
            f"{row['half_width']:.2%}",
            f"{row['ess']:.0f}",
            f"{row['trimmed']:.1%}",
            f"{1.0 - row['answers'] / len(policies) / found['log'].nunique():.1%}",
        )
    return table


def plot_bandwidths(summaries: dict[str, pd.DataFrame]) -> Figure:
    """Bias and root mean square error by bandwidth, a panel per cell; what has no bandwidth as lines across."""
    figure = Figure(figsize=(3.3 * len(summaries), 3.6), layout="constrained")
    panels = figure.subplots(1, len(summaries), squeeze=False)[0]
    kinds = {
        "doubly_robust_estimated_": ("doubly robust", "#0072B2"),
        "importance_estimated_": ("weights alone", "#CC79A7"),
    }
    kinds["structured_estimated_"] = ("structured", "#0072B2")
    flat = {"direct": ("model alone", "#B8A500"), "model_alone": ("model alone", "#B8A500")}
    flat |= dict.fromkeys(("doubly_robust_rungs", "structured_rungs"), ("on rungs", "#D55E00"))
    for axes, (cell, summary) in zip(panels, summaries.items(), strict=True):
        by_name = summary.set_index("estimator")
        for start, (label, colour) in kinds.items():
            rows = by_name[by_name.index.str.startswith(start)]
            if len(rows):
                widths = rows.index.str.removeprefix(start).astype(float)
                axes.plot(widths, 100 * rows["bias"], "o-", color=colour, label=f"{label}: bias")
                axes.plot(widths, 100 * rows["rmse"], "o--", color=colour, alpha=0.5, label=f"{label}: error")
        for name, (label, colour) in flat.items():
            if name in by_name.index:
                axes.axhline(100 * by_name.loc[name, "bias"], color=colour, label=f"{label}: bias")
                axes.axhline(100 * by_name.loc[name, "rmse"], color=colour, linestyle="--", alpha=0.5)
        axes.set_title(cell, fontsize=9, loc="left")
        axes.set_xlabel("half width of the kernel, log price", fontsize=8)
        axes.set_ylim(bottom=0.0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel("% of the manager's value (dashed: rmse)", fontsize=8)
    return figure


def save_results(summaries: dict[str, pd.DataFrame], arguments: argparse.Namespace) -> None:
    """results.json: a row per metric, estimator and cell; ends are plus and minus two Monte Carlo errors."""
    rows = []
    for cell, summary in summaries.items():
        for record in summary.to_dict("records"):
            for name in METRICS:
                value, reach = float(record[name]), 2.0 * float(record[f"{name}_error"])
                ends = {"lower": value - reach, "upper": value + reach}
                size = int(record["logs"])
                rows.append(ResultRow(name, value, str(record["estimator"]), cell, n=size, seed=arguments.seed, **ends))
    write_results(arguments.output_dir, build_results("off_policy_continuous", [], rows))


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="which cells to measure")
    parser.add_argument("--logs", type=int, default=200, help="logs of each cell")
    parser.add_argument("--truth_units", type=int, default=24_000, help="simulated shops behind a true value")
    parser.add_argument("--chunk", type=int, default=10, help="logs in a file")
    parser.add_argument("--seed", type=int, default=0, help="of the logs")
    parser.add_argument("--only_report", action="store_true", help="tabulate what is on disk")
    parser.add_argument("--output_dir", type=Path, required=True, help="where chunks, results.json and the figure go")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measure what is missing, print, save."""
    arguments, console, began = parse_arguments(given), Console(width=170), time.process_time()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("truth_units", "chunk", "seed")}
    kept = arguments.output_dir / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{kept} holds other settings than {settings}; give another --output_dir")
    kept.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    summaries = {}
    for cell in arguments.cells:
        found = read_or_measure(cell, arguments, console)
        if len(found):
            summaries[cell] = summarise(found)
            console.print(tabulate(cell, found, summaries[cell]))
    save_results(summaries, arguments)
    plot_bandwidths(summaries).savefig(arguments.output_dir / "off_policy_continuous.png", dpi=120, facecolor="white")
    console.print(f"seed {arguments.seed}, {time.process_time() - began:.0f} s of CPU time in this run")


if __name__ == "__main__":
    main()
