"""How long forecasts take, and how little more 32 price paths cost than one.

Example: OMP_NUM_THREADS=2 python benchmarks/forecast_speed.py --base outputs/demo/base --items 1000
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from pricing_fm import PricingPolicy, load_panel
from pricing_fm.markets import LogSettings, simulate_log
from pricing_fm.policy.engine import Engine
from pricing_fm.policy.situation import read_situation

PRODUCTS_PER_MARKET = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="base artifact")
    parser.add_argument("--items", type=int, default=1000, help="items to forecast")
    parser.add_argument("--prediction_length", type=int, default=8, help="periods ahead")
    parser.add_argument("--paths", type=int, default=32, help="candidate price paths to compare with one")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions; the median counts")
    arguments = parser.parse_args()
    log = simulate_log(log=LogSettings(num_markets=-(-arguments.items // PRODUCTS_PER_MARKET), seed=1))
    panel = load_panel(log.panel.drop(columns="propensity"))
    panel = panel.select_items(panel.item_ids[: arguments.items])
    policy = PricingPolicy.from_pretrained(arguments.base)
    engine = Engine(policy.model, policy.processor)
    situation = read_situation(panel, policy.processor.context_length, arguments.prediction_length)
    multipliers = np.linspace(0.7, 1.3, arguments.paths)
    one = np.repeat(situation.current_price[:, None, None], arguments.prediction_length, axis=2)
    many = one * multipliers[None, :, None]
    whole = median_seconds(lambda: policy.forecast(panel, arguments.prediction_length), arguments.repeats)
    single = median_seconds(lambda: engine.demand(situation, one), arguments.repeats)
    several = median_seconds(lambda: engine.demand(situation, many), arguments.repeats)
    print(f"{len(panel.item_ids)} items, {arguments.prediction_length} periods, {torch.get_num_threads()} threads")
    print(f"forecast, table in to table out: {whole:.2f} s")
    print(f"network, 1 price path: {single:.2f} s; {arguments.paths} paths: {several:.2f} s = {several / single:.2f} x")


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall time after one warm-up."""
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
