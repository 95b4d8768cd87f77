"""The elasticity test bed: who finds the true price response in confounded logs? Estimators, ceiling and network.

Example: python recipes/elasticity.py --config recipes/markets/elasticity.yaml --base model_cards/pricing-fm-nano
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pricing_fm.evaluation.elasticity_bed import (
    Effort,
    add_truth,
    build_priors,
    estimate_baselines,
    estimate_ceilings,
    estimate_with_network,
    summarize_prior,
)
from pricing_fm.evaluation.elasticity_cells import (
    CellData,
    TestBedArguments,
    build_cells,
    describe_cells,
    simulate_cell,
)
from pricing_fm.evaluation.elasticity_figure import READABLE, plot_errors
from pricing_fm.evaluation.elasticity_posterior import SamplerSettings
from pricing_fm.evaluation.elasticity_scores import (
    CellScores,
    build_rows,
    check_calibration,
    score_cell,
    tabulate_cell,
)
from pricing_fm.policy import PricingPolicy
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import DataSource, ResultRow, build_results, write_results

HEADINGS = {
    "mae": "MAE", "bias": "bias", "rmse": "RMSE", "coverage_80": "cov80", "width_80": "width", "n": "n",
    "to_prior_mean": "/prior", "to_posterior": "/ceiling", "to_best_rival": "/rival",
}  # fmt: skip


@dataclass(frozen=True)
class ElasticityArguments:
    """What runs, and how much of it."""

    output_dir: str = field(metadata={"help": "Folder of results.json, items.csv, cells.csv, scores.csv, errors.png."})
    base: tuple[str, ...] = field(
        default=(), metadata={"help": "Base folders or repositories, seeds of one model; none = baselines alone."}
    )
    cells: tuple[str, ...] = field(default=("all",), metadata={"help": "Only these cells, by name; all = every cell."})
    posterior_items: int = field(
        default=150, metadata={"help": "Leading items of a cell that get the simulator's posterior; 0 = no ceiling."}
    )
    told: bool = field(
        default=True, metadata={"help": "Also the posterior of one who is told what a cell fixes (its confounding)."}
    )
    particles: int = field(default=200, metadata={"help": "Candidate truths of a posterior that move together."})
    processes: int = field(default=1, metadata={"help": "Processes for posteriors."})
    cache: str = field(default=".cache/elasticity", metadata={"help": "Folder of cached estimates; none = no cache."})
    seed: int = field(default=0, metadata={"help": "Seed of learners, samplers and bootstraps."})

    def __post_init__(self) -> None:
        if self.posterior_items < 0 or self.particles < 50 or self.processes < 1:
            raise ValueError(
                f"posterior_items is {self.posterior_items}, particles {self.particles} and processes"
                f" {self.processes}; at least 0, 50 and 1 are needed"
            )


def main(argv: Sequence[str] | None = None) -> list[ResultRow]:
    arguments, bed = read_recipe((ElasticityArguments, TestBedArguments), argv, description=__doc__)
    console, folder = Console(), Path(arguments.output_dir)
    data = simulate_cells(arguments, bed)
    bases = [PricingPolicy.from_pretrained(base) for base in arguments.base]
    items = estimate_items(arguments, bed, data, bases, console)
    scores = [score_cell(items[items["cell"] == one.cell.name], arguments.seed) for one in data]
    rows = [row for one in scores for row in build_rows(one)]
    write_answers(folder, items, data, scores)
    save_recipe(folder, (arguments, bed))
    write_results(folder, build_results("elasticity", [DataSource(d.cell.name, d.fingerprint) for d in data], rows))
    print_scores(scores, items, console)
    console.print(f"{folder / 'results.json'}, {folder / 'errors.png'}", highlight=False)
    return rows


def simulate_cells(arguments: ElasticityArguments, bed: TestBedArguments) -> list[CellData]:
    """The cells that were asked for.

    Raises:
        SystemExit: If a cell is unknown.
    """
    cells = {cell.name: cell for cell in build_cells(bed)}
    if unknown := sorted(set(arguments.cells) - {*cells, "all"}):
        raise SystemExit(f"unknown cells {unknown}; known are {', '.join(cells)}")
    chosen = cells if "all" in arguments.cells else arguments.cells
    return [simulate_cell(cells[name]) for name in chosen]


def estimate_items(
    arguments: ElasticityArguments,
    bed: TestBedArguments,
    data: list[CellData],
    bases: list[PricingPolicy],
    console: Console,
) -> pd.DataFrame:
    """Every estimate of every item, with the truth beside it."""
    effort = Effort(
        posterior_items=arguments.posterior_items,
        told=arguments.told,
        sampler=SamplerSettings(particles=arguments.particles, seed=arguments.seed),
        processes=arguments.processes,
        seed=arguments.seed,
        cache=None if arguments.cache == "none" else Path(arguments.cache),
    )
    prior, found = summarize_prior(bed), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        cells = progress.add_task("cells", total=len(data))
        for one in data:
            priors = build_priors(one.cell, bed, effort.told) if effort.posterior_items else {}
            bar = progress.add_task(f"{one.cell.name}, posteriors", total=len(priors) * effort.posterior_items)
            found.append(add_truth(estimate_baselines(one, prior, effort), one))
            if priors:
                ceilings = estimate_ceilings(one, bed, effort, on_items=partial(progress.advance, bar))
                found.append(add_truth(ceilings, one))
            if bases:
                found.append(add_truth(estimate_with_network(one, bases), one))
            progress.remove_task(bar)
            progress.advance(cells)
    return pd.concat(found, ignore_index=True)


def write_answers(folder: Path, items: pd.DataFrame, data: list[CellData], scores: list[CellScores]) -> None:
    """items.csv (every estimate), cells.csv (what the cells are like), scores.csv and errors.png."""
    folder.mkdir(parents=True, exist_ok=True)
    items.to_csv(folder / "items.csv", index=False, float_format="%.5g")
    describe_cells(data).to_csv(folder / "cells.csv", index=False, float_format="%.4g")
    tables = [tabulate_cell(one).reset_index().assign(cell=one.cell, best_rival=one.best_rival) for one in scores]
    pd.concat(tables, ignore_index=True).to_csv(folder / "scores.csv", index=False, float_format="%.4g")
    plot_errors(scores).savefig(folder / "errors.png", dpi=130)


def print_scores(scores: list[CellScores], items: pd.DataFrame, console: Console) -> None:
    """One table per cell, and whether the ceiling is calibrated."""
    for one in scores:
        table = Table(
            title=f"{one.cell} (best rival: {READABLE[one.best_rival]})",
            title_justify="left", box=None, padding=(0, 1, 0, 0),
        )  # fmt: skip
        wide = tabulate_cell(one)
        for column in ("estimator", *HEADINGS.values()):
            table.add_column(column, justify="left" if column == "estimator" else "right", no_wrap=True)
        for name, row in wide.iterrows():
            cells = [f"{row[c]:.0f}" if c == "n" else "" if pd.isna(row[c]) else f"{row[c]:.2f}" for c in HEADINGS]
            table.add_row(READABLE[str(name)], *cells)
        console.print(table)
    calibration = check_calibration(items) if "rank" in items else pd.DataFrame()
    if len(calibration):
        console.print("Calibration of the posterior where its prior is exact:")
        console.print(calibration.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    run_recipe(main)
