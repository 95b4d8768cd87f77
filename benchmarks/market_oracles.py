"""The oracle of every family of every domain: how it is found, what looking ahead is worth, and whether it is true.

For each family some markets are drawn and solved. The table shows the method, the dynamic headroom (oracle - myopic
oracle) / oracle, what the best constant price loses, how far the bound lies above the value, and the distance between
the simulated and the claimed value of the oracle's policy in standard errors and in percent.

Example: python benchmarks/market_oracles.py --domains retail loans --num_markets 5
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.simulation import simulate_policy
from pricing_fm.markets.solutions import solve_market

COLUMNS = ("domain", "family", "method", "headroom", "constant", "bound", "z", "gap", "seconds")


def measure_family(domain: str, family: str, place: int, arguments: argparse.Namespace) -> dict[str, str]:
    """One row of the table: the markets of one family; `place` gives every row luck of its own."""
    described = DOMAINS[domain]
    settings = described.settings()
    if hasattr(settings, "num_products") and domain == "retail":
        settings = described.settings(num_products=arguments.num_products)
    headroom, constant, bound, scores, gaps = [], [], [], [], []
    started, method = time.perf_counter(), ""
    for number in range(arguments.num_markets):
        market = described.sample(settings, family, np.array([number]), arguments.seed)
        try:
            solution = solve_market(market, num_rollouts=arguments.num_rollouts, seed=arguments.seed)
        except ValueError as error:
            method = f"none: {error}"
            continue
        luck = arguments.seed + 1 + place * arguments.num_markets + number
        run = simulate_policy(market, solution.choose, arguments.num_rollouts, seed=luck)
        method = solution.method
        headroom.append(solution.headroom)
        constant.append(1.0 - solution.constant_value / solution.value)
        bound.append(solution.upper_bound / solution.value - 1.0)
        error = np.hypot(run.standard_error, solution.standard_error)
        gaps.append(run.mean / solution.value - 1.0)
        scores.append((run.mean - solution.value) / error if error > 1e-9 * abs(solution.value) else 0.0)
    row = {"domain": domain, "family": family, "method": method, "seconds": f"{time.perf_counter() - started:.1f}"}
    if headroom:
        row |= {
            "headroom": f"{100 * np.median(headroom):.1f} ({100 * min(headroom):.1f} to {100 * max(headroom):.1f}) %",
            "constant": f"{100 * np.median(constant):.1f} %",
            "bound": f"{100 * max(bound):.1f} %",
            "z": f"{min(scores):+.1f} to {max(scores):+.1f}",
            "gap": f"{100 * max(gaps, key=abs):+.2f} %",
        }
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=list(DOMAINS), help="domains to solve")
    parser.add_argument("--families", nargs="+", default=None, help="families to solve; default: all")
    parser.add_argument("--num_markets", type=int, default=5, help="markets drawn of each family")
    parser.add_argument("--num_products", type=int, default=2, help="products of a retail market")
    parser.add_argument("--num_rollouts", type=int, default=1_000, help="repetitions of a simulated value")
    parser.add_argument("--seed", type=int, default=0, help="seed of markets and luck")
    parser.add_argument("--output", type=Path, default=None, help="also write the table as CSV")
    arguments = parser.parse_args()
    chosen = [(name, family) for name in arguments.domains for family in DOMAINS[name].families]
    if arguments.families:
        chosen = [(name, family) for name, family in chosen if family in arguments.families]
    console = Console(width=170)
    rows = [
        measure_family(name, family, place, arguments)
        for place, (name, family) in enumerate(track(chosen, "solving", console=console))
    ]
    table = Table(title=f"{arguments.num_markets} markets a family, {arguments.num_rollouts} rollouts")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        table.add_row(*(row.get(column, "-") for column in COLUMNS))
    console.print(table)
    print("headroom: median (least to most); constant: loss of the best constant price; bound: upper bound over value")
    if arguments.output:
        with arguments.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
