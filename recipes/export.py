"""Assemble a repository folder from a finished base: its files, what was measured with it, a card; sealed anew.

Example: python recipes/export.py --artifact outputs/base --measured outputs/frat/evaluation outputs/elasticity \
    --output_dir model_cards/pricing-fm-nano
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pricing_fm.artifact import MANIFEST, verify_artifact, write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.errors import ArtifactError
from pricing_fm.recipe import read_recipe, run_recipe
from pricing_fm.results import Results, read_results, write_results


@dataclass(frozen=True)
class ExportArguments:
    """What is taken, and where the folder stands."""

    artifact: str = field(metadata={"help": "Folder of a sealed base."})
    output_dir: str = field(metadata={"help": "Folder to write; an artifact that stands there is replaced."})
    measured: tuple[str, ...] = field(
        default=(), metadata={"help": "Folders whose results.json was measured with this base."}
    )
    metrics: tuple[str, ...] = field(
        default=("wql", "mase", "coverage_80", "wql_ratio_to_lightgbm", "elasticity_mae", "elasticity_coverage_80",
                 "orders_not_rejected", "log_loss_to_regression", "poisson_deviance_to_regression"),
        metadata={"help": "Metrics that the card shows; the base's own training loss is always among them."},
    )  # fmt: skip
    title: str | None = field(default=None, metadata={"help": "Headline of the card; default: the folder's name."})
    summary: str | None = field(default=None, metadata={"help": "First sentences of the card."})
    limits: tuple[str, ...] = field(default=(), metadata={"help": "Limits to name beside those of every artifact."})


def main(argv: Sequence[str] | None = None) -> Path:
    (arguments,) = read_recipe((ExportArguments,), argv, description=__doc__)
    source, target = Path(arguments.artifact), Path(arguments.output_dir)
    verify_artifact(source, kind="base")
    make_room(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    parts = [read_results(folder) for folder in arguments.measured]
    write_results(target, take_in(read_results(source), parts, arguments.metrics), only_what_applies=True)
    write_manifest(target, "base")
    text = CardText(arguments.title or target.name, arguments.summary)
    card = write_card(target, replace(text, limits=(*text.limits, *arguments.limits)))
    print(f"{target}: {sum(path.stat().st_size for path in target.iterdir()) / 1e6:.1f} MB, card {card}")
    return target


def make_room(target: Path) -> None:
    """Removes an earlier artifact; anything else in the way is somebody's work."""
    if target.exists():
        if not (target / MANIFEST).exists():
            raise ArtifactError(f"{target} exists and is no artifact; choose another --output_dir, or remove it")
        shutil.rmtree(target)


def take_in(base: Results, parts: Sequence[Results], metrics: Sequence[str]) -> Results:
    """The base's results with the chosen rows of others: pooled over categories, each source once."""
    rows = [row for part in parts for row in part.metrics if row.name in metrics and row.category is None]
    data = dict.fromkeys([*base.data, *(source for part in parts for source in part.data)])
    recipes = dict.fromkeys([base.recipe, *(part.recipe for part in parts)])
    return replace(base, recipe=" + ".join(recipes), data=tuple(data), metrics=(*base.metrics, *rows))


if __name__ == "__main__":
    run_recipe(main)
