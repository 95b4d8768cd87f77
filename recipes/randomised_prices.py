"""Demand curves against prices drawn by chance: learn from one random half of the decisions, be judged by the other.

Example: python recipes/randomised_prices.py --config recipes/loan_offers/randomised_prices.yaml --base outputs/base
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from pricing_fm.adapters import LoraArguments
from pricing_fm.evaluation.randomised_network import BatchArguments, adapt_to_half, read_curves
from pricing_fm.evaluation.randomised_panels import Experiment, read_decisions, split_halves
from pricing_fm.evaluation.randomised_prices import CurveScores, non_monotone_cells, score_predictions
from pricing_fm.evaluation.randomised_rivals import RIVALS, predict_with_rival
from pricing_fm.evaluation.randomised_summary import build_rows, read_order, summarize
from pricing_fm.hub import download
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import DataSource, ResultRow, build_results, write_results
from pricing_fm.training.adapt import AdaptArguments, AdaptOptimArguments
from pricing_fm.training.arguments import OutputArguments


@dataclass(frozen=True)
class RandomisedArguments:
    """What is judged, and how often."""

    base: str = field(metadata={"help": "Folder or Hub repository of the base."})
    decisions: str = field(metadata={"help": "decisions.parquet of the source's prepare.py."})
    name: str = field(metadata={"help": "Name of the experiment."})
    output_dir: str = field(metadata={"help": "Folder of results.json, orders.csv and cells.csv."})
    bins: int | None = field(default=None, metadata={"help": "price bins per item; none = the arms are the cells"})
    is_binary: bool = field(default=False, metadata={"help": "every outcome is 0 or 1, of one decision"})
    orders: int = field(default=20, metadata={"help": "random orders: which half learns, which batches, which order"})
    adapted: bool = field(default=True, metadata={"help": "also adapt the base to each half"})
    seed: int = field(default=0, metadata={"help": "of the first order; the next ones follow"})

    def __post_init__(self) -> None:
        if self.orders < 1:
            raise ValueError(f"--orders is {self.orders}; at least 1 is needed")


def main(argv: Sequence[str] | None = None) -> list[ResultRow]:
    kinds = (RandomisedArguments, BatchArguments, AdaptArguments, LoraArguments, AdaptOptimArguments)
    told = read_recipe(kinds, argv, description=__doc__)
    arguments, console, folder = told[0], Console(), Path(told[0].output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(arguments.name, read_decisions(arguments.decisions), arguments.bins, arguments.is_binary)
    model, processor, _ = load_base(download(arguments.base).folder)
    base = PricingPolicy(model, processor)
    orders, cells = [], []
    for seed in range(arguments.seed, arguments.seed + arguments.orders):
        scores, about = judge_order(experiment, base, told, seed)
        orders += read_order(scores, about, seed)
        cells += [one.cells.assign(model=model, seed=seed) for model, one in scores.items()]
        # Written as it comes: an order of the network takes its time.
        pd.DataFrame(orders).to_csv(folder / "orders.csv", index=False, float_format="%.6g")
        pd.concat(cells).to_csv(folder / "cells.csv", index=False, float_format="%.6g")
        console.print(f"order {seed - arguments.seed + 1} of {arguments.orders}", highlight=False)
    found = pd.DataFrame(orders)
    rows = build_rows(found, experiment)
    save_recipe(folder, told)
    write_results(folder, build_results("randomised_prices", [source_of(experiment)], rows))
    print_summary(experiment, found, pd.concat(cells), console)
    return rows


def judge_order(
    experiment: Experiment, base: PricingPolicy, told: Sequence[object], seed: int
) -> tuple[dict[str, CurveScores], dict[str, dict[str, float]]]:
    """Scores of every model in one order, and what else is known of it (seconds, steps, elasticity)."""
    arguments, batches, how, lora, optim = told
    assert isinstance(arguments, RandomisedArguments)
    assert isinstance(batches, BatchArguments)
    assert isinstance(how, AdaptArguments)
    assert isinstance(lora, LoraArguments)
    assert isinstance(optim, AdaptOptimArguments)
    learned, judged = split_halves(experiment, seed)
    predicted: dict[str, np.ndarray] = {rival: predict_with_rival(rival, learned, judged.decisions) for rival in RIVALS}
    about: dict[str, dict[str, float]] = {}
    policies = {"zero_shot": base}
    if arguments.adapted:
        output = OutputArguments(str(Path(arguments.output_dir) / ".adapters"))
        policies["adapted"], result = adapt_to_half(
            base.model, base.processor, learned, batches, how, lora, optim, output, seed
        )
        about["adapted"] = {"train_s": result.seconds, "steps": result.demand_steps}
    prices = experiment.decisions["price"].tolist()
    for name, policy in policies.items():
        start = time.perf_counter()
        curves = read_curves(policy, learned, prices, batches, seed)
        predicted[name] = np.minimum(curves.at(judged.decisions), 1 - 1e-6 if experiment.is_binary else np.inf)
        about.setdefault(name, {}).update(
            inference_s=time.perf_counter() - start, elasticity=curves.mean_elasticity(judged.decisions)
        )
    scores = {
        name: score_predictions(judged, values, np.random.default_rng([seed, 3])) for name, values in predicted.items()
    }
    return scores, about


def source_of(experiment: Experiment) -> DataSource:
    """Name and content of the decisions."""
    return DataSource(experiment.name, experiment.fingerprint())


def print_summary(experiment: Experiment, orders: pd.DataFrame, cells: pd.DataFrame, console: Console) -> None:
    """One line per model, and the cells in which more was bought at a higher price."""
    summary = summarize(orders)
    table = Table(title=f"{experiment.name}: {orders['seed'].nunique()} random orders", title_justify="left", box=None)
    for column in ("model", *summary.columns):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for name, row in summary.iterrows():
        table.add_row(str(name), *("" if pd.isna(value) else f"{value:.4g}" for value in row))
    console.print(table)
    everything = score_predictions(
        experiment, predict_with_rival("price_blind", experiment, experiment.decisions), np.random.default_rng(0)
    ).cells
    keys = ["item"] if experiment.bins is not None else []
    groups = everything.groupby(keys) if keys else [("all items", everything)]
    for name, part in groups:
        pairs = non_monotone_cells(part)
        label = name[0] if isinstance(name, tuple) else name
        console.print(f"{label}: {len(pairs)} of {len(part) * (len(part) - 1) // 2} pairs of cells rise with the price")
        if len(pairs):
            console.print(pairs.round(3).to_string(index=False), highlight=False)


if __name__ == "__main__":
    run_recipe(main)
