"""Speed of the simulated markets on one core, beside bare numpy loops of the same markets timed in turn.

python benchmarks/markets.py            # every family of every domain, growth, environments; about two minutes
python benchmarks/markets.py --quick    # fewer markets and repetitions; seconds, for a first look

Times are CPU seconds of one thread, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Set before numpy reads it: one core is what is measured.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bare_markets import BareMarket

from pricing_fm.markets import MarketBatch, MarketEnv, RetailSettings, make
from pricing_fm.markets.domains import DOMAINS

TARGETS = {"retail/logit_stock": 0.4}
LEAST_RATIO, LEAST_ENVIRONMENT_RATIO = 0.1, 0.5
_STEPS = 12  # of one timing of a batch, below the shortest episode
_EPISODES = 8  # of one timing of an environment, each a market of its own


class Speed(NamedTuple):
    """Medians of timings in turn.

    Attributes:
        seconds: Of one step of what is measured.
        bare_seconds: Of one step of the bare loop.
        ratio: Bare over measured, median of the pairs; 1 is as fast as bare.
    """

    seconds: float
    bare_seconds: float
    ratio: float


def time_in_turn(measured: Callable[[], float], bare: Callable[[], float], repetitions: int) -> Speed:
    """Time two loops alternately, so that what else the machine does hits both; one unmeasured turn first."""
    measured(), bare()
    pairs = np.array([(measured(), bare()) for _ in range(repetitions)])
    seconds, bare_seconds = np.median(pairs, axis=0).tolist()
    return Speed(seconds, bare_seconds, float(np.median(pairs[:, 1] / pairs[:, 0])))


def measure_batch(batch: MarketBatch, repetitions: int) -> Speed:
    """`MarketBatch.step`, with validation, view and truth, beside the bare loop."""
    prices = np.array(batch.reset().list_price)

    def run_batch() -> float:
        batch.reset()
        began = time.process_time()
        for _ in range(_STEPS):
            # Where list prices move so do the bounds; a price near the middle stays inside.
            batch.step(prices)
        return (time.process_time() - began) / _STEPS

    def run_bare() -> float:
        bare = BareMarket(batch.market)
        began = time.process_time()
        for _ in range(_STEPS):
            bare.step(prices)
        return (time.process_time() - began) / _STEPS

    return time_in_turn(run_batch, run_bare, repetitions)


def measure_environment(domain: str, family: str, repetitions: int) -> Speed:
    """One `MarketEnv.step`, from action to observation, reward and info, beside one bare step of one market."""
    env = MarketEnv(domain, family)
    actions = np.zeros_like(env.action_space.sample())
    batch = make(domain, family=family)
    prices = np.array(batch.reset().list_price)

    periods = batch.market.num_periods

    def run_environment() -> float:
        total = 0.0
        for episode in range(_EPISODES):
            env.reset(seed=episode)
            began = time.process_time()
            for _ in range(periods):
                env.step(actions)
            total += time.process_time() - began
        return total / (_EPISODES * periods)

    def run_bare() -> float:
        total = 0.0
        for episode in range(_EPISODES):
            bare = BareMarket(batch.market, episode)
            began = time.process_time()
            for _ in range(periods):
                bare.step(prices)
            total += time.process_time() - began
        return total / (_EPISODES * periods)

    return time_in_turn(run_environment, run_bare, repetitions)


def tabulate_families(domains: list[str], markets: int, repetitions: int) -> Table:
    """Every family in a batch and as an environment; what falls short of its target is marked."""
    table = Table(title=f"{markets} markets of each family, one core; ratio 1 = as fast as a bare numpy loop")
    for column in ("family", "items", "market-steps/s", "bare", "ratio", "environment us", "bare us", "ratio"):
        table.add_column(column, justify="left" if column == "family" else "right")
    for domain in domains:
        for family in DOMAINS[domain].families:
            batch = make(domain, num_markets=markets, family=family)
            speed = measure_batch(batch, repetitions)
            single = measure_environment(domain, family, repetitions)
            name = f"{domain}/{family}"
            table.add_row(
                name,
                str(batch.shape[1] * batch.shape[2]),
                f"{markets / speed.seconds:,.0f}",
                f"{markets / speed.bare_seconds:,.0f}",
                _mark(speed.ratio, TARGETS.get(name, LEAST_RATIO)),
                f"{single.seconds * 1e6:.1f}",
                f"{single.bare_seconds * 1e6:.1f}",
                _mark(single.ratio, LEAST_ENVIRONMENT_RATIO),
            )
    return table


def tabulate_growth(family: str, quick: bool, repetitions: int) -> Table:
    """A retail family by products, segments and markets."""
    table = Table(title=f"How retail/{family} grows: milliseconds a step (ratio to the bare loop)")
    for column in ("products", "segments", "markets", "milliseconds", "market-steps/s", "item-steps/s", "ratio"):
        table.add_column(column, justify="right")
    many = 512 if quick else 4096
    sizes = [(products, 1, many) for products in (1, 3, 10, 30, 100)]
    sizes += [(10, segments, many) for segments in (2, 3, 4)]
    sizes += [(10, 1, markets) for markets in (1, 16, 256, 1024, *(() if quick else (16_384,)))]
    for products, segments, markets in sizes:
        settings = RetailSettings(num_products=products, num_segments=segments)
        speed = measure_batch(make("retail", markets, family=family, settings=settings), repetitions)
        table.add_row(
            *map(str, (products, segments, markets)),
            f"{speed.seconds * 1e3:.3f}",
            f"{markets / speed.seconds:,.0f}",
            f"{markets * products * segments / speed.seconds:,.0f}",
            f"{speed.ratio:.2f}",
        )
    return table


def _mark(ratio: float, target: float) -> str:
    return f"{ratio:.2f}" if ratio >= target else f"[bold red]{ratio:.2f} < {target}[/]"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 markets, 3 repetitions, small growth table")
    parser.add_argument("--domain", choices=tuple(DOMAINS), help="only this domain (default: all)")
    parser.add_argument("--repetitions", type=int, help="timings of each loop (default: 7; 3 with --quick)")
    parser.add_argument("--skip_growth", action="store_true", help="leave the growth table out")
    arguments = parser.parse_args()
    repetitions = arguments.repetitions or (3 if arguments.quick else 7)
    console = Console(width=130)
    domains = [arguments.domain] if arguments.domain else list(DOMAINS)
    console.print(tabulate_families(domains, 512 if arguments.quick else 4096, repetitions))
    if not arguments.skip_growth:
        console.print(tabulate_growth("logit_stock", arguments.quick, repetitions))


if __name__ == "__main__":
    main()
