"""What the strategies of recipes/meta_train.py write beside their weights, and what they print."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from pricing_fm.artifact import write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.guardrails import Guardrails
from pricing_fm.models import PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import CategorySupport, write_ladder
from pricing_fm.recipe import save_recipe
from pricing_fm.results import DataSource, ResultRow, Results, build_results, write_results
from pricing_fm.training.loop import TrainingResult

Losses = Mapping[str, Mapping[int, float]]


def save_start(
    folder: Path,
    processor: PricingFMProcessor,
    fingerprint: str,
    arguments: Sequence[Any],
    results: Results,
) -> None:
    """Everything of an adapter that others start from beside PEFT's files and its rates; the ladder is empty."""
    processor.to_json_file(folder / "preprocessor_config.json")
    nothing = [[0] * processor.num_rungs for _ in range(2)]
    support = CategorySupport(
        None, processor.ladder_start, processor.ladder_step, processor.num_rungs, nothing, nothing
    )
    write_ladder(folder, support, False, RewardWeights(), 0.98, 0.0)
    (folder / "guardrails.json").write_text(json.dumps(Guardrails().as_dict(), indent=1) + "\n")
    seal(folder, "adapter", arguments, results, fingerprint)


def seal(
    folder: Path,
    kind: Literal["base", "adapter"],
    arguments: Sequence[Any],
    results: Results,
    fingerprint: str | None = None,
) -> None:
    """Recipe, results, manifest and card."""
    save_recipe(folder, arguments)
    write_results(folder, results)
    write_manifest(folder, kind, fingerprint)
    write_card(folder, CardText(title=folder.name))


# What the validation categories are judged by: the loss of strategies that take steps; pooling has errors of its own.
METRICS = {"pooling": "log_elasticity_error"}
QUERY_LOSS = "query_loss"


def measured(
    data: list[DataSource], losses: Losses, training: TrainingResult | None, seed: int, strategy: str
) -> Results:
    """Losses on the validation categories, by number of visible weeks."""
    metric = METRICS.get(strategy, QUERY_LOSS)
    task = "+".join(source.name for source in data)
    seconds = None if training is None else training.seconds
    rows = [
        ResultRow(metric, loss, model, task, split="validation", k=weeks, seed=seed, train_s=seconds)
        for model, by_weeks in losses.items()
        for weeks, loss in by_weeks.items()
    ]
    return build_results("meta_train", data, rows)


def report(accelerator: Accelerator, losses: Losses, training: TrainingResult | None, strategy: str) -> None:
    """One line per number of visible weeks."""
    if training is not None:
        accelerator.print(f"step {training.best_step} of {training.steps}")
    name = METRICS.get(strategy, QUERY_LOSS).replace("_", " ")
    accelerator.print(f"{name} on validation categories")
    for weeks in losses["base"]:
        shown = ", ".join(f"{name} {by_weeks[weeks]:.4f}" for name, by_weeks in losses.items())
        accelerator.print(f"k = {weeks}: {shown}")
