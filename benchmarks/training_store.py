"""From Parquet to training batches: rows prepared a second and in how much memory, start-up, windows a second.

Example: OMP_NUM_THREADS=1 python benchmarks/training_store.py --rows 10_000_000 --folder outputs/training_store
"""

import argparse
import functools
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pricing_fm import names
from pricing_fm.models import PricingFMProcessor
from pricing_fm.panel import SeriesStore, ShardSettings, WindowSampler, load_shards, prepare_shards
from pricing_fm.panel.frequency import Frequency
from pricing_fm.training.collate import PretrainBatchSource

PERIODS = 250
FILE_ROWS = 5_000_000
ABSENT = 0.02  # share of rows that the log lacks, so that gaps are filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the synthetic log")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("outputs/training_store"),
        help="`source` and `store` in it are replaced, and removed in the end",
    )
    parser.add_argument("--memory_limit_gb", type=float, default=3.0, help="of the sort")
    parser.add_argument("--threads", type=int, default=1, help="of the sort")
    parser.add_argument("--batch_size", type=int, default=256, help="windows of a batch")
    parser.add_argument("--context_length", type=int, default=104, help="past periods")
    parser.add_argument("--prediction_length", type=int, default=8, help="future periods")
    parser.add_argument("--repeats", type=int, default=200, help="timed batches")
    parser.add_argument("--only_prepare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only_prepare:
        prepare(arguments)
        return
    remove(arguments.folder)
    seconds = timed(lambda: write_log(arguments.folder / "source", arguments.rows))
    size = sum(file.stat().st_size for file in (arguments.folder / "source").iterdir())
    print(f"synthetic log: {arguments.rows:,} rows in random order, {size / 2**30:.2f} GiB, written in {seconds:.0f} s")
    # In a process of its own, so that its peak memory is that of the preparation alone.
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only_prepare"], check=True)
    shutil.rmtree(arguments.folder / "source")
    started = time.perf_counter()
    shards = load_shards(arguments.folder / "store", check_rows=False)
    opened = time.perf_counter() - started
    draw = (arguments.batch_size, arguments.context_length, arguments.prediction_length, 0)
    seconds = timed(lambda: WindowSampler([shards], [1.0], *draw))
    print(f"open {len(shards)} shards: {opened:.2f} s; find every forecast origin: {seconds:.2f} s")
    print(f"open with the hashes of all rows: {timed(lambda: load_shards(arguments.folder / 'store')):.2f} s")
    panels: list[SeriesStore | tuple[SeriesStore, ...]] = [shards, *(short_panel(name) for name in ("h", "D", "MS"))]
    measure("the panel in shards", panels[:1], arguments)
    measure("hours, days, weeks, months in one mix", panels, arguments)
    measure_copy(arguments)
    remove(arguments.folder)


def remove(folder: Path) -> None:
    """Only what an earlier run wrote: the folder may be anybody's."""
    for part in ("source", "store"):
        shutil.rmtree(folder / part, ignore_errors=True)


def write_log(folder: Path, rows: int) -> None:
    """Weekly sales of shops x products, in no order, with rows left out."""
    folder.mkdir(parents=True)
    items = -(-rows // PERIODS)
    shops = max(int(np.sqrt(items / 20)), 1)
    random = np.random.default_rng(0)
    weeks = np.datetime64("2018-01-01", "s") + np.arange(PERIODS) * np.timedelta64(7, "D")
    # A fixed stride through the table that meets every row once, far from its neighbours.
    total = items * PERIODS
    stride = next(step for step in range(int(total * 0.618), total) if np.gcd(step, total) == 1)
    written, number = 0, 0
    while written < rows:
        count = min(FILE_ROWS, rows - written)
        row = (np.arange(written, written + count) * stride) % total
        item, period = np.divmod(row, PERIODS)
        kept = random.random(count) > ABSENT
        item, period = item[kept], period[kept]
        level = 0.5 + (item * 7919 % 1000) / 100
        price = np.round(5 * random.choice([1.0, 0.9, 0.75], len(item)) + item % 37 * 0.5, 2)
        table = pa.table(
            {
                "timestamp": weeks[period],
                "shop": dictionary(item % shops, "shop", shops),
                "product_id": dictionary(item // shops, "product", -(-items // shops)),
                "units": random.poisson(level).astype(np.float32),
                "price": price,
                "cost": np.round(price * 0.6, 2),
                "inventory": random.integers(0, 60, len(item)).astype(np.float32),
                "promotion": (price % 1 > 0.5).astype(np.float32),
                "category": dictionary(item // shops % 50, "category", 50),
            }
        )
        pq.write_table(table, folder / f"part-{number:04d}.parquet")
        written, number = written + count, number + 1


def dictionary(codes: np.ndarray, word: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), [f"{word}-{code}" for code in range(count)])


def prepare(arguments: argparse.Namespace) -> None:
    began: dict[str, float] = {}

    def note(step: str, done: int, total: int) -> None:
        began.setdefault(step, time.perf_counter())

    started = time.perf_counter()
    manifest = prepare_shards(
        arguments.folder / "source",
        arguments.folder / "store",
        {"item_id": ["shop", "product_id"]},
        "synthetic",
        ShardSettings(memory_limit_gb=arguments.memory_limit_gb, threads=arguments.threads),
        note,
    )
    ended = time.perf_counter()
    edges = [started, *(began[step] for step in ("sort", "check", "write")), ended]
    shares = ", ".join(
        f"{step} {end - begin:.0f}" for step, begin, end in zip(("read", "sort", "check", "write"), edges, edges[1:])
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"prepared {manifest['source_rows']:,} rows of {manifest['items']:,} items into {manifest['rows']:,} rows in "
        f"{len(manifest['shards'])} shards: {ended - started:.0f} s ({shares}), "
        f"{manifest['source_rows'] / (ended - started):,.0f} rows/s; {used.ru_utime + used.ru_stime:.0f} s on a core, "
        f"peak memory {used.ru_maxrss / 2**20:.2f} GiB",
        flush=True,
    )


def short_panel(frequency: str) -> SeriesStore:
    """A small panel in memory; half of its items are shorter than a usual context."""
    random = np.random.default_rng(1)
    lengths = random.integers(30, 300, 2_000)
    offsets = np.r_[0, np.cumsum(lengths)]
    step = Frequency.parse(frequency)
    categories = np.full((len(lengths), len(names.STATIC_CATEGORIES)), None, dtype=object)
    categories[:, 0] = frequency
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return SeriesStore(
        values=random.random((offsets[-1], len(names.CHANNELS)), dtype=np.float32) + 1,
        timestamps=step.step(np.array(np.datetime64("2015-01-01", "s")), within),
        offsets=offsets,
        item_ids=tuple(f"{frequency}-{item}" for item in range(len(lengths))),
        static_categories=categories,
        static_reals=np.full((len(lengths), names.MAX_STATIC_REALS), np.nan, dtype=np.float32),
        frequency=step,
        name=frequency,
        fingerprint=frequency,
    )


def measure(label: str, panels: list[SeriesStore | tuple[SeriesStore, ...]], arguments: argparse.Namespace) -> None:
    size, ahead = arguments.batch_size, arguments.prediction_length
    weights = [1.0] * len(panels)
    sampler = WindowSampler(panels, weights, size, arguments.context_length, ahead, 0)
    report(f"raw windows, {label}", size, lambda step: sampler.windows(step), arguments.repeats)
    processor = PricingFMProcessor(context_length=arguments.context_length)
    source = PretrainBatchSource(panels, weights, processor, size, ahead, 0)
    report(f"processed windows, {label}", size, lambda step: source.batch(step), max(arguments.repeats // 10, 1))


def measure_copy(arguments: argparse.Namespace) -> None:
    """What the memory allows: one contiguous copy per window from a gigabyte, nothing else."""
    window = (arguments.context_length + arguments.prediction_length) * len(names.CHANNELS)
    source = np.ones((max(2**30 // (4 * window), 1), window), dtype=np.float32)
    target = np.empty((arguments.batch_size, window), dtype=np.float32)
    starts = np.random.default_rng(0).integers(0, len(source), (arguments.repeats + 1, arguments.batch_size))

    def copy(step: int) -> object:
        return np.take(source, starts[step], axis=0, out=target, mode="clip")

    report(f"bare copies of {4 * window / 1024:.1f} KiB", arguments.batch_size, copy, arguments.repeats)


def report(label: str, size: int, run: Callable[[int], object], repeats: int) -> None:
    run(0)
    seconds = [timed(functools.partial(run, step)) for step in range(1, repeats + 1)]
    middle, best = size / statistics.median(seconds), size / min(seconds)
    print(f"{label}: {middle:,.0f} a second (median of {repeats} batches of {size}; best {best:,.0f})", flush=True)


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
