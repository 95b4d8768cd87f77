"""Off-policy evaluation on simulated markets whose truth is known: bias, error, coverage, ranking and regret.

Every repetition draws shops from a population, logs the manager's prices, and values five policies by every estimator,
with propensities and demand estimated from that log. The truth is the population's mean value, by simulation. Cells:
confounding 0 and 0.5, 13 and 26 weeks; then markets in which an assumption of the structured estimator fails, and what
its tests and bounds say of them (`off_policy_market_shops.py`). Intervals are cluster bootstraps over decision units.

Work is cut into chunks, cell by cell in turn, each kept on disk: a second start goes on where the first one ended, and
`--only_report` tabulates what is there. Writes results.json, off_policy_markets.png and, per cell, a table.

Example: OMP_NUM_THREADS=1 python benchmarks/off_policy_markets.py --output_dir outputs/off_policy_markets
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from off_policy_market_estimates import (
    ESTIMATORS,
    FIELDS,
    NAIVE,
    STRUCTURED,
    TRAJECTORY,
    Nuisances,
    build_trajectories,
    describe_value,
    estimate_by_structure,
    estimate_by_trajectories,
    fit_nuisances,
    get_logged_chances,
)
from off_policy_market_learned import fit_boosted_nuisances
from off_policy_market_network import fit_network_nuisances
from off_policy_market_shops import (
    POLICIES,
    BoundRule,
    MarketLog,
    TrueValues,
    build_rules,
    compute_true_values,
    draw_log,
    find_neighbors,
)
from off_policy_market_tables import CellResults, print_cell, save_figure, save_results, summarize_cell
from rich.console import Console
from rich.progress import track

from pricing_fm import PricingPolicy
from pricing_fm.artifact import read_manifest
from pricing_fm.evaluation.off_policy import (
    SENSITIVITIES,
    PolicyValue,
    RefusalError,
    bound_structured,
    compute_weight_bounds,
    estimate_spill_over,
    estimate_stock_relation,
)

BOUND_DRAWS = 2


@dataclass(frozen=True)
class Cell:
    """One kind of market.

    Attributes:
        name: Of its chunks.
        confounding: Correlation of the manager's log price and the signal.
        weeks: Of the log and of the value.
        failure: Which assumption fails.
    """

    name: str
    confounding: float
    weeks: int
    failure: str = "none"


CELLS = (
    Cell("plain_13", 0.0, 13),
    Cell("confounded_13", 0.5, 13),
    Cell("plain_26", 0.0, 26),
    Cell("confounded_26", 0.5, 26),
    *(
        Cell(f"{failure}_13", 0.0, 13, failure)
        for failure in ("spill_over", "private_stock", "hidden_prices", "week_shocks")
    ),
)


def measure(cell: Cell, number: int, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """One repetition.

    Returns:
        Estimates `(estimators, policies, FIELDS)`, NaN where not asked for or refused, and `DIAGNOSTICS`.
    """
    market = draw_log([arguments.seed, number], arguments.units, cell.weeks, cell.confounding, cell.failure)
    is_headline = cell.failure == "none"
    has_naive = is_headline and number % arguments.naive_every == 0 and arguments.nuisances == "glm"
    names = [STRUCTURED, *(NAIVE if has_naive else ())]
    nuisances = learn(market, has_naive, arguments)
    found = np.full((len(ESTIMATORS), len(POLICIES), len(FIELDS)), np.nan)
    rules = list(build_rules(cell.confounding).values())
    for name in names:
        values = [estimate_by_structure(market, rule, nuisances, name, arguments.draws) for rule in rules]
        found[ESTIMATORS.index(name)] = [
            describe_value(value, values[0], number < arguments.checks) for value in values
        ]
    if is_headline and number % arguments.trajectories_every == 0:
        given = [build_trajectories(market, rule, nuisances.propensities) for rule in rules]
        for name in TRAJECTORY:
            try:
                known: list[PolicyValue] = [estimate_by_trajectories(name, one) for one in given]
                found[ESTIMATORS.index(name)] = [describe_value(value, known[0], False) for value in known]
            except RefusalError:
                continue  # such as a state that the policy leaves by no logged rung: counted
    return found, diagnose(cell, market, nuisances, arguments)


def learn(market: MarketLog, has_naive: bool, arguments: argparse.Namespace) -> Nuisances:
    """Behaviour and demand by whom the command line names."""
    if arguments.nuisances == "boosted":
        return fit_boosted_nuisances(market)
    if arguments.nuisances == "network":
        return fit_network_nuisances(market, load_base(arguments.base))
    return fit_nuisances(market, has_naive)


@cache
def load_base(folder: Path) -> PricingPolicy:
    """The published network, once."""
    return PricingPolicy.from_pretrained(folder)


def diagnose(cell: Cell, market: MarketLog, nuisances: Nuisances, arguments: argparse.Namespace) -> np.ndarray:
    """The numbers of `DIAGNOSTICS`."""
    demand, log = nuisances.demand["structured"], market.demand
    stock_test, spill_test = (
        estimate_stock_relation(demand),
        estimate_spill_over(demand, find_neighbors(len(log.units))),
    )
    rules = build_rules(cell.confounding)
    ratio = get_logged_chances(market, rules["manager"]) / nuisances.propensities
    bounds = np.full((len(SENSITIVITIES), 2), np.nan)
    if cell.failure == "hidden_prices":
        wanted, informative = get_logged_chances(market, rules["raises"]), demand.rows.counts.informative
        wanted = np.where(informative.reshape(wanted.shape), wanted, 0.0)
        policy = BoundRule(rules["raises"], market.signals)
        for place, sensitivity in enumerate(SENSITIVITIES):
            weights = compute_weight_bounds(wanted, nuisances.propensities, sensitivity)
            found = bound_structured(demand, market.shop, policy, weights, BOUND_DRAWS).values
            bounds[place] = found.lower, found.upper
    sold_out = (log.units >= log.stock)[log.stock > 0].mean()
    return np.array(
        [
            *(sold_out, demand.overdispersion, ratio.mean(), market.relative_size),
            *(stock_test.statistic, stock_test.p_value, spill_test.share, spill_test.p_value),
            *bounds.ravel(),
        ]
    )


def list_chunks(arguments: argparse.Namespace) -> list[tuple[Cell, int]]:
    """Cells in turn, so that whenever the work stops all have come equally far."""
    chosen = [cell for cell in CELLS if cell.name in arguments.cells]
    counts = {
        cell.name: arguments.repetitions if cell.failure == "none" else arguments.failing_repetitions for cell in chosen
    }
    starts = range(0, max(counts.values()), arguments.chunk)
    return [(cell, start) for start in starts for cell in chosen if start < counts[cell.name]]


def write_chunk(path: Path, cell: Cell, start: int, arguments: argparse.Namespace) -> None:
    """Measure a chunk and put it in its place in one step."""
    began = time.process_time()
    rows = [measure(cell, number, arguments) for number in range(start, start + arguments.chunk)]
    seconds = (time.process_time() - began) / arguments.chunk
    written = path.with_suffix(".part")
    with written.open("wb") as file:
        np.savez(file, estimates=[row[0] for row in rows], diagnostics=[row[1] for row in rows], seconds=seconds)
    written.replace(path)


def keep_settings(arguments: argparse.Namespace) -> None:
    """Refuse a folder whose chunks were measured with other settings."""
    names = ("nuisances", "units", "draws", "trajectories_every", "naive_every", "checks", "chunk", "seed")
    settings = {name: getattr(arguments, name) for name in names}
    if arguments.nuisances == "network":
        settings["base"] = read_manifest(arguments.base).base_fingerprint
    kept = arguments.output_dir / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{kept} holds other settings than {settings}; give another --output_dir")
    kept.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def read_truth(cell: Cell, arguments: argparse.Namespace) -> TrueValues:
    """True values, from disk where they are there."""
    path = arguments.output_dir / f"{cell.name}-truth-{arguments.truth_units}.json"
    if not path.exists():
        seed = arguments.seed + 1_000_003  # apart from the logs
        found = compute_true_values(seed, arguments.truth_units, cell.weeks, cell.confounding, cell.failure)
        written = path.with_suffix(".part")
        written.write_text(json.dumps([column.tolist() for column in found]) + "\n", encoding="utf-8")
        written.replace(path)
    return TrueValues(*(np.array(column) for column in json.loads(path.read_text(encoding="utf-8"))))


def read_cell(cell: Cell, arguments: argparse.Namespace) -> CellResults | None:
    """Everything of a cell that is on disk; None = nothing yet."""
    chunks = [np.load(path) for path in sorted(arguments.output_dir.glob(f"{cell.name}-?????.npz"))]
    if not chunks:
        return None
    numbers = [int(path.stem[-5:]) for path in sorted(arguments.output_dir.glob(f"{cell.name}-?????.npz"))]
    return CellResults(
        cell.name,
        read_truth(cell, arguments),
        np.concatenate([np.arange(number, number + arguments.chunk) for number in numbers]),
        np.concatenate([chunk["estimates"] for chunk in chunks]),
        np.concatenate([chunk["diagnostics"] for chunk in chunks]),
        float(np.mean([chunk["seconds"] for chunk in chunks])),
    )


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000, help="logs of each cell whose assumptions hold")
    parser.add_argument("--failing_repetitions", type=int, default=100, help="logs of each other cell")
    parser.add_argument("--cells", nargs="+", default=[cell.name for cell in CELLS], help="which cells to measure")
    parser.add_argument(
        "--nuisances",
        choices=("glm", "boosted", "network"),
        default="glm",
        help="who learns from the log: the package's own regressions; boosted trees (both); a base (demand)",
    )
    parser.add_argument("--base", type=Path, default=Path("model_cards/pricing-fm-nano"), help="of --nuisances network")
    parser.add_argument("--units", type=int, default=60, help="decision units of a log")
    parser.add_argument("--draws", type=int, default=6, help="simulated histories of each structured estimate")
    parser.add_argument("--trajectories_every", type=int, default=1, help="estimators of trajectories: every n-th log")
    parser.add_argument("--naive_every", type=int, default=10, help="wrong ways to read the log: every n-th log")
    parser.add_argument("--checks", type=int, default=1000, help="two-way and Student's intervals: the first n logs")
    parser.add_argument("--truth_units", type=int, default=24_000, help="simulated units behind a true value")
    parser.add_argument("--chunk", type=int, default=10, help="logs in a file")
    parser.add_argument("--seed", type=int, default=0, help="of the logs")
    parser.add_argument("--only_report", action="store_true", help="tabulate what is on disk")
    parser.add_argument("--output_dir", type=Path, required=True, help="where chunks and results are kept")
    arguments = parser.parse_args(given)
    unknown = set(arguments.cells) - {cell.name for cell in CELLS}
    if unknown:
        parser.error(f"--cells {sorted(unknown)} are not known; choose among {[cell.name for cell in CELLS]}")
    return arguments


def main(given: list[str] | None = None) -> None:
    """Measure what is missing, then print and save."""
    arguments, console = parse_arguments(given), Console(width=200)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    keep_settings(arguments)
    if not arguments.only_report:
        for cell, start in track(list_chunks(arguments), "measuring", console=console):
            path = arguments.output_dir / f"{cell.name}-{start:05d}.npz"
            if not path.exists():
                write_chunk(path, cell, start, arguments)
    every = {STRUCTURED: 1} | dict.fromkeys(NAIVE, arguments.naive_every)
    every |= dict.fromkeys(TRAJECTORY, arguments.trajectories_every)
    found = [one for cell in CELLS if (one := read_cell(cell, arguments)) is not None]
    results = [(one, summarize_cell(one, every)) for one in found]
    for one, summaries in results:
        print_cell(one, summaries, console)
    save_results(results, arguments.output_dir, arguments.seed)
    save_figure(results, arguments.output_dir / "off_policy_markets.png")


if __name__ == "__main__":
    main()
