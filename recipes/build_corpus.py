"""Simulate a training corpus: many markets under many managers, written as stores that pretraining reads.

Example: python recipes/build_corpus.py --config recipes/nano/corpus.yaml --output_dir data/corpus
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pricing_fm.markets.corpus import (
    FIRST_SEED_OF_EVALUATION,
    LARGEST_ELASTICITY,
    CorpusSettings,
    collect_stores,
    plan_logs,
    simulate_corpus,
)
from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.panel import save_store
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe

CARD = """---
{head}---

# Simulated markets for pretraining

Logs of simulated markets (`pricing_fm.markets`), each category with books of its own: some lack costs, stock or list
prices, others round or blur what they hold. No person, shop or product of them exists.

| store | series | rows | rows with a true elasticity | SHA-256 of the values |
|---|---|---|---|---|
{rows}

* **Families** (share of the series): {families}.
* **Managers**: all of `pricing_fm.markets.managers` that a family allows, most turns for the one whose prices follow
  hidden demand (correlation -0.95 to 0.95); never: {held_out}.
* **Interventions**: {share:.0%} of the series end in {shortest} to {longest} periods whose prices are drawn at random,
  whatever the manager did before; `price_is_intervention` marks them. What follows can only be predicted by who reads
  the causal response out of the log before.
* **Length** {low} to {high} periods; seed {seed}, validation the next one; seeds from {evaluation:,} on are left to
  evaluation.
* **True elasticity** of every row at its own price, where it is between 0 and {largest:g}; training alone reads it.
* Names of items and categories are left out: a network that knows its items by name learns them by heart.
* **Fingerprints** hold on one kind of processor: elsewhere an exponential may differ in its last digit, which turns a
  price or a count here and there.
"""


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
    (output / "README.md").write_text(render_card(summary, parts["train"]), encoding="utf-8")
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


def render_card(stores: dict[str, dict[str, Any]], settings: CorpusSettings) -> str:
    """The dataset card: what the corpus holds and what it leaves out, with fingerprints."""
    head = {
        "license": "apache-2.0",
        "pretty_name": "Simulated markets for pretraining",
        "task_categories": ["time-series-forecasting"],
        "tags": ["pricing", "demand", "simulated"],
    }
    rows = "\n".join(
        f"| `{name}` | {store['series']:,} | {store['rows']:,} | {store['share_of_rows_with_true_elasticity']:.1%} "
        f"| `{store['fingerprint']}` |"
        for name, store in stores.items()
    )
    shares = np.array(settings.shares or [1.0] * len(settings.families))
    families = ", ".join(
        f"{family} {share:.1%}" for family, share in zip(settings.families, shares / shares.sum(), strict=True)
    )
    return CARD.format(
        head=yaml.safe_dump(head, sort_keys=False),
        rows=rows,
        families=families,
        held_out=", ".join(settings.held_out_managers) or "none",
        low=settings.num_periods[0],
        high=settings.num_periods[1],
        shortest=settings.randomized_periods[0],
        longest=settings.randomized_periods[1],
        share=settings.randomized_share,
        seed=settings.seed,
        largest=LARGEST_ELASTICITY,
        evaluation=FIRST_SEED_OF_EVALUATION,
    )


if __name__ == "__main__":
    run_recipe(main)
