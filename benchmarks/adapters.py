"""Hundreds of adapters on one base in one process: memory, loading, exchanging, and a batch of as many categories.

nice -n 5 python benchmarks/adapters.py             # 500 adapters; a minute and a half of an idle core
nice -n 5 python benchmarks/adapters.py --adapters 100 --peft_adapters 8 --rounds 3

Three ways to hold adapters: as numbers that are stacked row by row (what a policy does), inside one PEFT model, and in
a PEFT model for each on shared base weights; PEFT takes its time, so that it holds fewer. Milliseconds are those of
the processor, which other processes of the machine do not count towards, and the ways to answer take turns. Adapters
are random; speed does not depend on what they have learned.
"""

import argparse
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table

from pricing_fm.adapters import (
    AdapterWeights,
    LoraArguments,
    activate_adapter,
    add_adapter,
    category_slug,
    load_adapter,
    read_weights,
    save_weights,
    stack_adapters,
)
from pricing_fm.artifact import write_manifest
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import CategorySupport, PricingPolicy, load_base, write_ladder
from pricing_fm.policy.engine import share_weights
from pricing_fm.policy.situation import read_situation, with_siblings

REPOSITORY = Path(__file__).resolve().parents[1]
ONE_MODEL, MODELS = "one PEFT model", "a PEFT model for each"
PREDICTION_LENGTH = 8
Batch = dict[str, torch.Tensor]


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    console = Console(width=150)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder)
        write_library(arguments.base, library, arguments.adapters, arguments.rank)
        console.print(policy_table(arguments, library))
        console.print(batch_table(arguments, library))
        console.print(peft_table(arguments, library))
    print(f"{arguments.threads} CPU threads, base {arguments.base}, rank {arguments.rank}, {arguments.rounds} rounds")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = REPOSITORY / "model_cards" / "pricing-fm-nano"
    parser.add_argument("--base", type=Path, default=default, help="base artifact (model_cards/pricing-fm-nano)")
    parser.add_argument("--adapters", type=int, default=500, help="adapters held as numbers (500)")
    parser.add_argument("--peft_adapters", type=int, default=32, help="adapters held by PEFT (32)")
    parser.add_argument(
        "--items", type=int, default=64, help="items, each of its own category, of the mixed batch (64)"
    )
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters (8)")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds; medians count (7)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    return parser.parse_args()


def category(number: int) -> str:
    return f"cat {number:04d}"


def write_library(base: Path, library: Path, count: int, rank: int) -> None:
    """Complete, sealed adapters with random numbers."""
    model, processor, fingerprint = load_base(base)
    network = add_adapter(share_weights(model), "start", LoraArguments(lora_rank=rank, lora_start=0.02))
    start, generator = read_weights(network, "start"), torch.Generator().manual_seed(0)
    nothing = [[0] * processor.num_rungs for _ in range(2)]
    for number in range(count):
        progress(f"writing adapter {number + 1} of {count}", number)
        folder = library / category_slug(category(number))
        noise = torch.rand(start.values.shape, generator=generator)
        weights = AdapterWeights(start.layout, start.values * noise)
        save_weights(weights, model, folder, base, fingerprint, category=category(number))
        ladder = processor.ladder_start, processor.ladder_step, processor.num_rungs
        support = CategorySupport(category(number), *ladder, nothing, nothing)
        write_ladder(folder, support, False, RewardWeights(), 0.98, 0.0)
        (folder / "guardrails.json").write_text("{}")
        write_manifest(folder, "adapter", fingerprint)


# -- memory, loading, exchanging --------------------------------------------------------------------------------------


def policy_table(arguments: argparse.Namespace, library: Path) -> Table:
    """A policy that holds all adapters as numbers: what that takes, and what it answers with them."""
    folders = {category(number): library / category_slug(category(number)) for number in range(arguments.adapters)}
    places, panel = list(folders.values()), one_item_each(arguments.items)
    PricingPolicy.from_pretrained(arguments.base, adapter=places[0]).forecast(panel, PREDICTION_LENGTH)
    gc.collect()
    before, started = resident_mebibytes(), time.process_time()
    policy = PricingPolicy.from_pretrained(arguments.base, adapter=folders)
    loaded = time.process_time() - started
    gc.collect()
    grown = resident_mebibytes() - before
    exchanged = median_of(lambda: policy.load_adapter(places[len(places) // 2]), 3 * arguments.rounds)
    plain = PricingPolicy(policy.model, policy.processor)
    forecast = median_of(lambda: policy.forecast(panel, PREDICTION_LENGTH), arguments.rounds)
    base_alone = median_of(lambda: plain.forecast(panel, PREDICTION_LENGTH), arguments.rounds)
    recommended = median_of(lambda: policy.recommend(panel), arguments.rounds)
    count = arguments.adapters
    table = Table(title=f"A policy with {count} adapters; a panel of {arguments.items} categories, one item each")
    table.add_column("")
    table.add_column("", justify="right")
    for name, shown in (
        ("resident memory, MiB an adapter", f"{grown / count:.2f}"),
        ("resident memory of the process, MiB", f"{resident_mebibytes():.0f}"),
        ("loading all with the base, ms an adapter", f"{1e3 * loaded / count:.1f}"),
        ("one adapter exchanged, from disk, every check, ms", f"{1e3 * exchanged:.1f}"),
        ("forecast of the panel, table to table, ms", f"{1e3 * forecast:.0f}"),
        ("the same by the base alone, ms", f"{1e3 * base_alone:.0f}"),
        ("recommended prices of the panel, ms", f"{1e3 * recommended:.0f}"),
    ):
        table.add_row(name, shown)
    return table


def peft_table(arguments: argparse.Namespace, library: Path) -> Table:
    """Adapters held by PEFT, each way in a process of its own."""
    table = Table(title=f"{arguments.peft_adapters} adapters held by PEFT")
    for column in ("", "MiB each", "ms to load each", "ms, the last ones"):
        table.add_column(column, justify="right" if column else "left")
    for way in (ONE_MODEL, MODELS):
        progress(f"{arguments.peft_adapters} adapters: {way}")
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply(hold_by_peft, (arguments.base, library, way, arguments.peft_adapters))
        table.add_row(way, f"{found[0]:.2f}", f"{found[1]:.1f}", f"{found[2]:.1f}")
    return table


def hold_by_peft(base: Path, library: Path, way: str, count: int) -> tuple[float, float, float]:
    """Mebibytes and milliseconds an adapter, and milliseconds of the last tenth of them."""
    model, _, fingerprint = load_base(base)
    folders = sorted(library.iterdir())[: count + 1]
    one: PeftModel | PricingFMForPolicy = share_weights(model)
    kept: list[PeftModel] = []
    seconds: list[float] = []
    before = 0.0
    for number, folder in enumerate(folders):
        if number == 1:  # what is set up once belongs to no adapter
            gc.collect()
            before = resident_mebibytes()
        started = time.process_time()
        if way == ONE_MODEL:
            one = load_adapter(one, folder.name, folder, fingerprint)
        else:
            kept.append(load_adapter(share_weights(model), folder.name, folder, fingerprint))
        seconds.append(time.process_time() - started)
    gc.collect()
    own = seconds[1:]
    grown = (resident_mebibytes() - before) / len(own)
    return grown, 1e3 * statistics.median(own), 1e3 * statistics.median(own[-max(len(own) // 10, 1) :])


def resident_mebibytes() -> float:
    """Resident set of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the resident set is not to be found in /proc/self/status; this benchmark needs Linux")


# -- mixed batches ----------------------------------------------------------------------------------------------------


def batch_table(arguments: argparse.Namespace, library: Path) -> Table:
    """The network alone on one batch: a row for each way, in turn, and its time over the stacked one's."""
    model, processor, fingerprint = load_base(arguments.base)
    batch = build_batch(one_item_each(arguments.items), processor)
    folders = [library / category_slug(category(number)) for number in range(arguments.items)]
    peft: PeftModel | PricingFMForPolicy = share_weights(model)
    for number, folder in enumerate(folders):
        progress(f"PEFT loads adapter {number + 1} of {len(folders)}", number)
        peft = load_adapter(peft, folder.name, folder, fingerprint)
    assert isinstance(peft, PeftModel)
    peft.eval()
    names, rows = [folder.name for folder in folders], [read_weights(peft, folder.name) for folder in folders]
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "stacked row by row": lambda: demand(stack_adapters(model, rows), batch),
        "stacked, 32 at a time": lambda: by_chunks(model, rows, batch),
        "PEFT, adapter_names": lambda: mixed_by_peft(peft, names, batch),
        "PEFT, one category after the other": lambda: one_by_one(peft, names, batch),
        "base alone (no adapter)": lambda: demand(model, batch),
    }
    first, *others = ways
    answers = {name: run() for name, run in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds):
        progress(f"round {number + 1} of {arguments.rounds}")
        for name in sorted(ways, reverse=number % 2 == 1):
            seconds[name].append(seconds_of(ways[name]))
    table = Table(
        title=f"One batch of {arguments.items} categories, one item each: demand of {PREDICTION_LENGTH} periods"
    )
    for column in ("", "median ms", f"time over: {first}", "largest relative difference"):
        table.add_column(column, justify="left" if not column else "right")
    for name in (first, *others):
        ratios = [other / own for other, own in zip(seconds[name], seconds[first], strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        apart = float(((answers[name] - answers[first]) / answers[first]).abs().max())
        table.add_row(name, f"{1e3 * statistics.median(seconds[name]):,.0f}", shown, f"{apart:.1e}")
    return table


def one_item_each(count: int) -> Panel:
    """Two years of weekly sales of one item in each category."""
    random, weeks = np.random.default_rng(0), 104
    price = np.round(5 * np.exp(0.1 * random.standard_normal((count, weeks))), 2)
    table = pd.DataFrame(
        {
            "item_id": np.repeat([f"item {number:04d}" for number in range(count)], weeks),
            "timestamp": np.tile(pd.date_range("2023-01-02", periods=weeks, freq="7D"), count),
            "units": random.poisson(20 * (price / 5) ** -2).astype(float).ravel(),
            "price": price.ravel(),
            "category": np.repeat([category(number) for number in range(count)], weeks),
        }
    )
    return load_panel(table)


def build_batch(panel: Panel, processor: PricingFMProcessor) -> Batch:
    situation = with_siblings(read_situation(panel, processor.context_length, PREDICTION_LENGTH), processor)
    batch = processor(situation.windows, situation.siblings)
    return batch | {"candidate_prices": torch.zeros(len(situation), 1, PREDICTION_LENGTH)}


@torch.inference_mode()
def demand(model: PricingFMForPolicy, batch: Batch) -> torch.Tensor:
    return model.demand(model.encode(batch), batch).mean


def by_chunks(model: PricingFMForPolicy, rows: Sequence[AdapterWeights], batch: Batch) -> torch.Tensor:
    parts = []
    for start in range(0, len(rows), 32):
        part = {name: value[start : start + 32] for name, value in batch.items()}
        parts.append(demand(stack_adapters(model, rows[start : start + 32]), part))
    return torch.cat(parts)


@torch.inference_mode()
def mixed_by_peft(model: PeftModel, names: list[str], batch: Batch) -> torch.Tensor:
    return model(**batch, adapter_names=names).mean


def one_by_one(model: PeftModel, names: list[str], batch: Batch) -> torch.Tensor:
    parts = []
    for row, name in enumerate(names):
        activate_adapter(model, name)
        parts.append(demand(model.get_base_model(), {key: value[row : row + 1] for key, value in batch.items()}))
    return torch.cat(parts)


def median_of(run: Callable[[], object], rounds: int) -> float:
    run()
    return statistics.median(seconds_of(run) for _ in range(rounds))


def seconds_of(run: Callable[[], object]) -> float:
    """Of the processor, all threads together."""
    started = time.process_time()
    run()
    return time.process_time() - started


def progress(text: str, number: int = 0) -> None:
    """Every hundredth of many."""
    if number % 100 == 0:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
