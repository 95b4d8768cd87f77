"""Prepare a panel of any size for training: Parquet files -> sorted on disk -> shards that training maps into memory.

Example: python recipes/prepare_store.py --sources "logs/2024-*.parquet" --schema logs/schema.yaml --output_dir out/logs
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pricing_fm.panel import ShardSettings, prepare_shards
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe

STEPS = {"read": "read and check", "sort": "sort by item and time", "check": "check", "write": "fill gaps, write"}


@dataclass(frozen=True)
class StoreArguments:
    """Which tables, and within which limits."""

    sources: tuple[str, ...] = field(metadata={"help": "Parquet files, folders of them, or quoted patterns with *."})
    output_dir: str = field(metadata={"help": "Folder of the shards; drafts inside it need three times the source."})
    schema: str | None = field(default=None, metadata={"help": "YAML file; none = the columns bear panel names."})
    name: str | None = field(default=None, metadata={"help": "Of the panel in reports; default: the first file's."})
    shard_rows: int = field(default=2_000_000, metadata={"help": "Most rows of a shard, filled periods included."})
    memory_limit_gb: float = field(default=4.0, metadata={"help": "What the sort may hold in memory; the rest spills."})
    threads: int | None = field(default=None, metadata={"help": "Of the sort; none = one per core."})
    today: str | None = field(
        default=None, metadata={"help": "ISO date after which units cannot have been sold; none = the clock's."}
    )

    def __post_init__(self) -> None:
        self.build_settings()

    def build_settings(self) -> ShardSettings:
        """Sizes and limits.

        Raises:
            ValueError: If one is too small or the date is none.
        """
        today = None if self.today is None else dt.date.fromisoformat(self.today)
        return ShardSettings(self.shard_rows, self.memory_limit_gb, self.threads, today)


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = read_recipe((StoreArguments,), argv, description=__doc__)
    console = Console()
    output = Path(arguments.output_dir)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(STEPS[step], total=total)
            progress.update(bars[step], completed=done)

        manifest = prepare_shards(
            arguments.sources, output, arguments.schema, arguments.name, arguments.build_settings(), show
        )
    save_recipe(output, (arguments,))
    console.print(
        f"{manifest['source_rows']:,} rows, {manifest['items']:,} items, every {manifest['frequency']} -> "
        f"{manifest['rows']:,} rows in {len(manifest['shards'])} shards -> {output}",
        highlight=False,
    )


if __name__ == "__main__":
    run_recipe(main)
