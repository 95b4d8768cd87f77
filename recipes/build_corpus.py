"""Simulate a training corpus: many markets under many managers, written as stores that pretraining reads.

Example: python recipes/build_corpus.py --config recipes/nano/corpus.yaml --output_dir data/corpus
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pricing_fm.markets.corpus import CorpusSettings, collect_stores, plan_logs, simulate_corpus
from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.panel import save_store
from pricing_fm.recipe import read_recipe, save_recipe


@dataclass(frozen=True)
class CorpusArguments:
    """What to simulate, and where to put it."""

    output_dir: str = field(metadata={"help": "Folder of the stores train-<cadence> and validation-<cadence>."})
    families: tuple[str, ...] = field(
        default=("retail/shop",), metadata={"help": "Families as domain/family, such as retail/shop."}
    )
    shares: tuple[float, ...] | None = field(
        default=None, metadata={"help": "Share of the items from each family; none = equal shares."}
    )
    num_items: int = field(default=20_000, metadata={"help": "Series to train on."})
    validation_items: int = field(default=2_000, metadata={"help": "Series of other markets to validate on."})
    items_per_log: int = field(default=1_000, metadata={"help": "Series that share ranges, length and calendar."})
    randomized_share: float = field(
        default=0.8, metadata={"help": "Share of the series that end in a stretch of prices drawn at random."}
    )
    held_out_managers: tuple[str, ...] = field(
        default=("noisy_expert",), metadata={"help": "Managers that never appear, for evaluation."}
    )
    seed: int = field(default=0, metadata={"help": "Seed, 0 to 88; validation takes the next one."})

    def settings(self, seed: int, num_items: int) -> CorpusSettings:
        """The corpus of a seed."""
        return CorpusSettings(
            families=self.families,
            shares=self.shares,
            num_items=num_items,
            # A small corpus still holds every family.
            items_per_log=max(min(self.items_per_log, num_items // len(self.families)), 1),
            randomized_share=self.randomized_share,
            held_out_managers=self.held_out_managers,
            seed=seed,
        )

    def __post_init__(self) -> None:
        self.settings(self.seed + 1, self.validation_items)
        self.settings(self.seed, self.num_items)


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = read_recipe((CorpusArguments,), argv, description=__doc__)
    output, console = Path(arguments.output_dir), Console()
    output.mkdir(parents=True, exist_ok=True)
    summary = {}
    parts = {
        "train": arguments.settings(arguments.seed, arguments.num_items),
        "validation": arguments.settings(arguments.seed + 1, arguments.validation_items),
    }
    for part, settings in parts.items():
        for frequency, store in collect_stores(with_progress(settings, part, console), part).items():
            folder = output / f"{part}-{frequency}"
            save_store(store, folder)
            assert store.elasticity is not None
            summary[folder.name] = {
                "series": len(store.item_ids),
                "rows": len(store.values),
                "fingerprint": store.fingerprint,
                "share_of_rows_with_true_elasticity": float(np.isfinite(store.elasticity).mean()),
            }
            console.print(f"{len(store.item_ids):,} series, {len(store.values):,} rows -> {folder}", highlight=False)
    text = json.dumps({"stores": summary, "settings": asdict(parts["train"])}, indent=2)
    (output / "corpus.json").write_text(text + "\n", encoding="utf-8")
    save_recipe(output, (arguments,))


def with_progress(
    settings: CorpusSettings, part: str, console: Console
) -> Iterator[tuple[str, SimulatedLog, np.ndarray]]:
    """The logs of a corpus, with a bar that counts them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{part}, logs", total=len(plan_logs(settings)))
        for entry in simulate_corpus(settings):
            yield entry
            progress.advance(task)


if __name__ == "__main__":
    main()
