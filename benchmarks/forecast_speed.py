"""Forecasts a second beside the architectures of chronos-bolt-tiny and chronos-2-small, price paths, start-up time.

nice -n 5 python benchmarks/forecast_speed.py                              # random weights; about three minutes
nice -n 5 python benchmarks/forecast_speed.py --base model_cards/pricing-fm-nano
nice -n 5 python benchmarks/forecast_speed.py --only_ours --start_up_rounds 0   # without the extra `benchmarks`

Each contender is timed in turn with ours, the order changing every round, so that what else runs on the machine slows
both: the ratios count, not the times. Weights are random unless a base is given; speed does not depend on what the
others learned. They need the optional extra: pip install -c constraints.txt -e '.[benchmarks]'
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
from forecast_contenders import (
    ARRAYS,
    BOLT,
    CHRONOS_2,
    CHRONOS_2_PRICES,
    NETWORK,
    OURS,
    TABLE,
    Contender,
    Run,
    build_bolt,
    build_chronos_2,
    build_ours,
    build_policy,
    build_workload,
    require_chronos,
    time_bolt,
    time_chronos_2,
    time_chronos_2_with_prices,
)

from pricing_fm.models import MODEL_SIZES

STAGES = (NETWORK, ARRAYS, TABLE)
SHORTEST = 0.15  # seconds; what is quicker is repeated that long within one round
WARM_UP = 5  # rounds of the shortest kind that settle caches and the allocator
REPOSITORY = Path(__file__).resolve().parents[1]
START_UP_ITEMS = 32
# Run in a process of their own: artifact folder, table, periods ahead.
FIRST_FORECAST = """
import json, sys, time
began = time.perf_counter()
import pandas as pd
{imports}
imported = time.perf_counter()
network = {load}
loaded = time.perf_counter()
table, steps = pd.read_parquet(sys.argv[2]), int(sys.argv[3])
{forecast}
print(json.dumps([imported - began, loaded - imported, time.perf_counter() - loaded]))
"""
CHRONOS_FORECAST = (
    'network.predict_df(table[["item_id", "timestamp", "units"]], target="units", prediction_length=steps)'
)
START_UP = {
    OURS: FIRST_FORECAST.format(
        imports="from pricing_fm import PricingPolicy, load_panel",
        load="PricingPolicy.from_pretrained(sys.argv[1])",
        forecast="network.forecast(load_panel(table), steps)",
    ),
    BOLT: FIRST_FORECAST.format(
        imports="from chronos import ChronosBoltPipeline",
        load="ChronosBoltPipeline.from_pretrained(sys.argv[1])",
        forecast=CHRONOS_FORECAST,
    ),
    CHRONOS_2: FIRST_FORECAST.format(
        imports="from chronos import Chronos2Pipeline",
        load="Chronos2Pipeline.from_pretrained(sys.argv[1])",
        forecast=CHRONOS_FORECAST,
    ),
}


@dataclass(frozen=True)
class Pairs:
    """Seconds a series takes, ours and another, round by round."""

    ours: list[float]
    other: list[float]

    @property
    def ratios(self) -> list[float]:
        """Time of the other over ours in each round: above one, ours is faster."""
        return [other / ours for ours, other in zip(self.ours, self.other)]


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    if not arguments.only_ours:
        require_chronos()
    others = [] if arguments.only_ours else [build_bolt(), build_chronos_2()]
    names_shown = [OURS] if arguments.only_ours else [OURS, BOLT, CHRONOS_2, CHRONOS_2_PRICES]
    table = Table(title=f"Forecasts of {arguments.prediction_length} periods, {arguments.threads} CPU threads")
    table.add_column("")
    for name in names_shown:
        table.add_column(name, justify="right")
    for context_length in arguments.contexts:
        add_throughput(table, arguments, context_length, others)
    if arguments.start_up_rounds:
        add_start_up(table, arguments, others)
    Console(width=170).print(table)
    print(
        f"Series a second; in brackets how many times as fast ours is (start-up: how many times as quick), median of "
        f"{arguments.rounds} interleaved pairs, lowest to highest. Network alone: batches of 32; else "
        f"{arguments.items} series in each package's own batches. Ours reads prices, promotions, costs, stock and "
        "siblings in every column; the others what their column says."
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="base artifact of ours; without it, random weights of --size")
    parser.add_argument("--size", choices=sorted(MODEL_SIZES), default="nano", help="size of random weights (nano)")
    parser.add_argument("--items", type=at_least_one, default=64, help="series of the end-to-end stages (64)")
    parser.add_argument("--contexts", type=at_least_one, nargs="+", default=[104, 512], help="past periods (104 512)")
    parser.add_argument("--prediction_length", type=at_least_one, default=8, help="periods ahead (8)")
    parser.add_argument("--paths", type=at_least_one, default=32, help="price paths to compare with one (32)")
    parser.add_argument("--rounds", type=at_least_one, default=7, help="interleaved pairs; the median counts (7)")
    parser.add_argument("--start_up_rounds", type=int, default=5, help="fresh processes of each kind; 0 = none (5)")
    parser.add_argument("--threads", type=at_least_one, default=2, help="CPU threads (2)")
    parser.add_argument("--only_ours", action="store_true", help="leave out what needs the extra `benchmarks`")
    return parser.parse_args()


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return int(text)


# -- series a second --------------------------------------------------------------------------------------------------


def add_throughput(table: Table, arguments: argparse.Namespace, context_length: int, pipelines: Sequence[Any]) -> None:
    """Rows of one context length: each stage, then what more price paths cost."""
    work = build_workload(arguments.items, context_length, arguments.prediction_length)
    policy = build_policy(arguments.base, arguments.size, context_length)
    ours, with_paths = build_ours(policy, work, arguments.paths)
    others: list[Contender] = []
    if pipelines:
        bolt, chronos_2 = pipelines
        others = [time_bolt(bolt, work), time_chronos_2(chronos_2, work), time_chronos_2_with_prices(chronos_2, work)]
    settle([ours, with_paths, *others])
    if not table.rows:
        table.add_row("parameters, million", *(f"{each.parameters / 1e6:.1f}" for each in (ours, *others)))
    table.add_section()
    for stage in STAGES:
        pairs = [time_stage(ours, other, stage, arguments.rounds, context_length) for other in others]
        alone = pairs or [time_stage(ours, ours, stage, arguments.rounds, context_length)]
        seconds = statistics.median(value for pair in alone for value in pair.ours)
        cells = (f"{1 / statistics.median(pair.other):,.0f} ({summary(pair.ratios)})" for pair in pairs)
        table.add_row(f"context {context_length}: {stage}", f"{1 / seconds:,.0f}", *cells)
    for stage in (NETWORK, ARRAYS):
        pair = time_stage(ours, with_paths, stage, arguments.rounds, context_length)
        table.add_row(f"{arguments.paths} price paths over one: {stage}", summary(pair.ratios))


def settle(contenders: Sequence[Contender]) -> None:
    """Runs everything once: how fast memory is given out depends on what the process has asked for before."""
    for contender in contenders:
        for run in contender.runs.values():
            run()


def time_stage(ours: Contender, other: Contender, stage: str, rounds: int, context_length: int) -> Pairs:
    progress(f"context {context_length}, {stage}: {other.name}")
    pairs = time_pairs(ours.runs[stage], other.runs[stage], rounds)
    return Pairs(
        [seconds / ours.series[stage] for seconds in pairs.ours],
        [seconds / other.series[stage] for seconds in pairs.other],
    )


def time_pairs(ours: Run, other: Run, rounds: int) -> Pairs:
    """Seconds of a call of each, in turn; who comes first changes from round to round."""
    calls = [calls_of_a_round(run) for run in (ours, other)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            seconds[place].append(seconds_of((ours, other)[place], calls[place]))
    return Pairs(*seconds)


def calls_of_a_round(run: Run) -> int:
    """Warms up, and tells how many calls fill the shortest time that is worth reading a clock for."""
    quickest = seconds_of(run, 1)
    for _ in range(WARM_UP):
        if quickest > SHORTEST:
            return 1
        quickest = min(quickest, seconds_of(run, 1))
    return max(1, round(SHORTEST / quickest))


def seconds_of(run: Run, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


def summary(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} x, {min(ratios):.2f}-{max(ratios):.2f}"


# -- start-up ---------------------------------------------------------------------------------------------------------


def add_start_up(table: Table, arguments: argparse.Namespace, pipelines: Sequence[Any]) -> None:
    """A row with the time from a fresh process to its first forecast."""
    with tempfile.TemporaryDirectory() as folder:
        places = {OURS: Path(folder) / OURS}
        context_length = arguments.contexts[0]
        if arguments.base is not None:
            places[OURS] = arguments.base.resolve()
        else:
            build_policy(None, arguments.size, context_length).save_pretrained(places[OURS])
        for name, pipeline in zip((BOLT, CHRONOS_2), pipelines):
            places[name] = Path(folder) / name
            pipeline.model.save_pretrained(places[name])
        data = Path(folder) / "log.parquet"
        build_workload(START_UP_ITEMS, context_length, arguments.prediction_length).table.to_parquet(data)
        found: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in places}
        for number in range(arguments.start_up_rounds + 1):
            progress(f"start-up, round {number} of {arguments.start_up_rounds}")
            for name in sorted(places, reverse=number % 2 == 1):
                found[name].append(first_forecast(name, places[name], data, arguments))
    table.add_section()
    cells = []
    for name, results in found.items():
        # The first round filled the disk's cache.
        whole = [seconds for seconds, _ in results[1:]]
        ratios = [seconds / ours for seconds, (ours, _) in zip(whole, found[OURS][1:])]
        parts = " + ".join(f"{statistics.median(column):.1f}" for column in zip(*(parts for _, parts in results[1:])))
        beside = "" if name == OURS else f" ({summary(ratios)})"
        cells.append(f"{statistics.median(whole):.1f}{beside}\n{parts}")
    table.add_row("start-up, seconds of a fresh process\nimport + from_pretrained + first forecast", *cells)


def first_forecast(name: str, artifact: Path, data: Path, arguments: argparse.Namespace) -> tuple[float, list[float]]:
    """Seconds of the whole process, and of its parts."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", START_UP[name], str(artifact), str(data), str(arguments.prediction_length)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"the first forecast of {name} failed:\n{done.stderr}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
