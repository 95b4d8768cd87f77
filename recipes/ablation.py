"""Ablate pretraining one factor at a time: a small run per variant, scored on what none of them trained on.

Example: python recipes/ablation.py --config recipes/nano/ablation.yaml --only reference free
"""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
# A script finds its own folder on the path, where evaluate.py would hide the library of that name.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

from pricing_fm.evaluation.ablation import (  # noqa: E402
    REFERENCE,
    TAKEN,
    Measurement,
    Variant,
    describe_changes,
    read_measurement,
    read_variants,
    read_words,
    write_measurement,
)
from pricing_fm.evaluation.ablation_figure import plot_differences  # noqa: E402
from pricing_fm.evaluation.ablation_scores import (  # noqa: E402
    SPEED,
    Scoring,
    ValidationBedArguments,
    average_seeds,
    compare_with_reference,
    has_demand_curve,
    score_policy,
)
from pricing_fm.evaluation.elasticity_cells import CellData, build_cells, simulate_cell  # noqa: E402
from pricing_fm.evaluation.figures import render_png  # noqa: E402
from pricing_fm.evaluation.tasks import ForecastTask  # noqa: E402
from pricing_fm.panel import load_panel  # noqa: E402
from pricing_fm.policy import PricingPolicy  # noqa: E402
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe  # noqa: E402
from pricing_fm.results import ResultRow, build_results, code_commit, read_results, write_results  # noqa: E402
from recipes import pretrain  # noqa: E402

# Nothing is kept but the artifact, and all are judged after the last step: which step is best is a factor of its own.
ALIKE = (
    "--decision_steps", "0", "--evaluate_every", "0", "--patience", "0", "--checkpoint_every", "0", "--tracker", "none",
    "--num_processes_expected", "1",
)  # fmt: skip
SIMULATED_STEPS = 8  # last periods of a simulated cell that are forecast
TABLES = {
    "Windows per second": (SPEED,),
    "Forecast loss (WQL), mean over origins, lower is better": ("wql",),
    "Coverage of the 80 % forecast interval": ("coverage_80",),
    "Mean absolute error of the elasticity at the current price": ("elasticity_mae",),
    "Bias of the elasticity": ("elasticity_bias",),
    "Coverage of its 80 % interval": ("elasticity_coverage_80",),
}


@dataclass(frozen=True)
class AblationArguments:
    """Which variants are trained, and what they are scored on."""

    output_dir: str = field(metadata={"help": "Folder of variants/, results.json, comparison.csv, differences.png."})
    variants: tuple[str, ...] = field(
        default=("reference:",),
        metadata={"help": "Texts 'name: --key value ...', words of recipes/pretrain.py; the reference comes first."},
    )
    pretrain_config: str = field(
        default="recipes/nano/base.yaml", metadata={"help": "YAML of recipes/pretrain.py that all variants start from."}
    )
    common: str = field(default="", metadata={"help": "Words of recipes/pretrain.py for all variants alike, as one."})
    only: tuple[str, ...] = field(default=(), metadata={"help": "Run these variants only, by name; default: all."})
    panels: tuple[str, ...] = field(default=(), metadata={"help": "Panels to forecast: paths or Hub dataset ids."})
    schemas: tuple[str, ...] = field(
        default=(), metadata={"help": "Schema of each panel; one for all; none = the columns bear panel names."}
    )
    prediction_lengths: tuple[int, ...] = field(
        default=(8,), metadata={"help": "Periods to forecast at each origin, by panel; one for all."}
    )
    origins: tuple[int, ...] = field(
        default=(32, 40, 48), metadata={"help": "Origins in periods before a panel's end; not those of the tests."}
    )
    cells: tuple[str, ...] = field(
        default=("shop_c-0.9", "shop_c+0.0", "shop_c+0.9", "mixed_sold_out"),
        metadata={"help": "Simulated cells, by name: elasticities, and forecasts of their last 8 weeks."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Run finished variants again where settings or data have changed."}
    )
    num_seeds: int = field(default=1, metadata={"help": "Seeds of each variant."})
    seed: int = field(default=0, metadata={"help": "The first of them."})

    def __post_init__(self) -> None:
        names = [variant.name for variant in read_variants(self.variants)]
        if unknown := sorted(set(self.only) - set(names)):
            raise ValueError(f"--only names unknown variants {unknown}; known are {', '.join(names)}")
        if taken := sorted(set(read_words(shlex.split(self.common))) & set(TAKEN)):
            raise ValueError(f"--common sets {', '.join(taken)}, which the ablation sets itself")
        if not Path(self.pretrain_config).is_file():
            raise ValueError(f"--pretrain_config {self.pretrain_config}: there is no such file")
        for key, allowed in (("schemas", {0, 1, len(self.panels)}), ("prediction_lengths", {1, len(self.panels)})):
            if len(getattr(self, key)) not in allowed:
                raise ValueError(f"--{key} has {len(getattr(self, key))} entries for {len(self.panels)} panels")
        if self.num_seeds < 1 or self.seed < 0:
            raise ValueError(f"--num_seeds is {self.num_seeds}, --seed {self.seed}; at least 1 and 0 are needed")


@dataclass(frozen=True)
class Run:
    """One variant with one seed.

    Args:
        variant (`Variant`): What it changes.
        seed (`int`): Of the training.
        folder (`Path`): Of its base and its scores.
        words (`tuple[str, ...]`): What recipes/pretrain.py is told.
        settings (`dict[str, str]`): What its scores depend on, key by key.
    """

    variant: Variant
    seed: int
    folder: Path
    words: tuple[str, ...]
    settings: dict[str, str]


def main(argv: Sequence[str] | None = None) -> list[ResultRow]:
    arguments, bed = read_recipe((AblationArguments, ValidationBedArguments), argv, description=__doc__)
    # What other libraries say while they save and load a base is no part of the story.
    logging.disable_progress_bar()
    console = Console() if sys.stdout.isatty() else Console(width=140)
    scoring = prepare_scoring(arguments, bed)
    runs = plan_runs(arguments, scoring)
    pending = find_pending(arguments, runs)
    for place, run in enumerate(pending):
        console.rule(f"{place + 1}/{len(pending)} {run.variant.name}, seed {run.seed}", align="left")
        run_variant(run, scoring, console)
    finished = read_finished(runs, console)
    rows = [row for _, measured in finished for row in measured.rows]
    write_comparison(Path(arguments.output_dir), finished, rows)
    save_recipe(Path(arguments.output_dir), (arguments, bed))
    print_comparison(rows, console)
    console.print(f"{arguments.output_dir}: results.json, comparison.csv, differences.png", highlight=False)
    return rows


def prepare_scoring(arguments: AblationArguments, bed: ValidationBedArguments) -> Scoring:
    """Panels are loaded and cells simulated before anything is trained.

    Raises:
        SystemExit: If a cell is unknown, or two tasks bear one name.
    """
    known = {cell.name: cell for cell in build_cells(bed)}
    if unknown := sorted(set(arguments.cells) - set(known)):
        raise SystemExit(f"unknown cells {unknown}; known are {', '.join(known)}")
    cells = [simulate_cell(known[name]) for name in arguments.cells]
    tasks = [*load_tasks(arguments), *map(forecast_of, cells)]
    names = [task.name for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SystemExit(f"{', '.join(twice)} is there more than once; name each panel and each cell once")
    return Scoring(tuple(tasks), tuple(cells))


def load_tasks(arguments: AblationArguments) -> list[ForecastTask]:
    """Forecasts of the panels."""
    count = len(arguments.panels)
    schemas = arguments.schemas if len(arguments.schemas) == count else arguments.schemas * count
    lengths = arguments.prediction_lengths
    panels = [load_panel(path, schema=schema) for path, schema in zip(arguments.panels, schemas or [None] * count)]
    return [
        ForecastTask(f"{panel.name}_{panel.frequency.name}", panel, length, arguments.origins)
        for panel, length in zip(panels, lengths if len(lengths) == count else lengths * count)
    ]


def forecast_of(data: CellData) -> ForecastTask:
    """The last weeks of a simulated cell, along the prices that its manager set."""
    return ForecastTask(f"simulated_{data.cell.name}", data.panel, SIMULATED_STEPS, (SIMULATED_STEPS,))


def plan_runs(arguments: AblationArguments, scoring: Scoring) -> list[Run]:
    """Every variant with every seed; all variants of a seed before the next seed."""
    config = yaml.safe_load(Path(arguments.pretrain_config).read_text(encoding="utf-8")) or {}
    given = {key: as_text(value) for key, value in config.items() if key not in TAKEN and value is not None}
    scored = {f"data {source.name}": source.fingerprint for source in scoring.data}
    scored |= {f"steps {task.name}": f"{task.prediction_length} at {task.origins}" for task in scoring.tasks}
    runs = []
    for seed in range(arguments.seed, arguments.seed + arguments.num_seeds):
        for variant in read_variants(arguments.variants):
            folder = Path(arguments.output_dir) / "variants" / variant.name / f"seed{seed}"
            words = (*shlex.split(arguments.common), *variant.words, *ALIKE)
            where = ("--output_dir", str(folder / "base"), "--seed", str(seed))
            told = ("--config", arguments.pretrain_config, *words, *where)
            runs.append(Run(variant, seed, folder, told, {**given, **read_words(words), **scored}))
    return runs


def as_text(value: Any) -> str:
    """A value of a YAML file as the command line writes it."""
    if isinstance(value, list):
        return " ".join(map(as_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def find_pending(arguments: AblationArguments, runs: Sequence[Run]) -> list[Run]:
    """The runs that were asked for and are not finished.

    Raises:
        SystemExit: If a finished run was measured under other settings, or the reference is neither asked for nor
            finished.
    """
    pending, changed = [], []
    for run in runs:
        found = read_measurement(run.folder)
        asked_for = not arguments.only or run.variant.name in arguments.only
        changes = [] if found is None else describe_changes(found.settings, run.settings)
        if asked_for and (found is None or changes):
            pending.append(run)
            changed += [f"{run.folder}: {'; '.join(changes)}"] if changes else []
        if run.variant.name == REFERENCE and not asked_for and (found is None or changes):
            raise SystemExit(f"the {REFERENCE} has no scores with seed {run.seed} and these settings; add it to --only")
    if changed and not arguments.overwrite:
        listed = "\n".join(changed)
        raise SystemExit(
            f"finished runs were measured under other settings:\n{listed}\n"
            "Choose another --output_dir, or pass --overwrite to run them again"
        )
    return pending


def run_variant(run: Run, scoring: Scoring, console: Console) -> None:
    """Pretrains, scores, and writes the scores last: they say that the run is finished."""
    started = time.perf_counter()
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    result = pretrain.main(run.words)
    policy = PricingPolicy.from_pretrained(run.folder / "base")
    name, seed = run.variant.name, run.seed
    speed = ResultRow(
        SPEED, result.windows_per_second, name, "pretraining", split="train", n=result.steps, seed=seed,
        train_s=result.seconds,
    )  # fmt: skip
    rows = (speed, *score_policy(policy, name, seed, scoring))
    data = (*read_results(run.folder / "base").data, *scoring.data)
    write_measurement(run.folder, Measurement(run.settings, code_commit(), data, rows))
    if not has_demand_curve(policy):
        console.print(f"{name} has no demand curve: its elasticities stay empty", highlight=False)
    console.print(f"{result.windows_per_second:.0f} windows/s, {time.perf_counter() - started:.0f} s", highlight=False)


def read_finished(runs: Sequence[Run], console: Console) -> list[tuple[Run, Measurement]]:
    """Every run whose scores are of these settings, asked for this time or not."""
    finished = []
    for run in runs:
        found = read_measurement(run.folder)
        if found is not None and found.settings == run.settings:
            finished.append((run, found))
        elif found is not None:
            console.print(f"{run.folder} was measured under other settings and is left out", highlight=False)
    if len({measured.commit for _, measured in finished}) > 1:
        commits = dict.fromkeys(f"{run.variant.name} {measured.commit}" for run, measured in finished)
        console.print(f"measured by different code: {', '.join(commits)}", highlight=False)
    return finished


def write_comparison(folder: Path, finished: Sequence[tuple[Run, Measurement]], rows: Sequence[ResultRow]) -> None:
    """results.json, comparison.csv and differences.png."""
    sources = list(dict.fromkeys(source for _, measured in finished for source in measured.data))
    write_results(folder, build_results("ablation", sources, list(rows)))
    compared = compare_with_reference(rows, REFERENCE)
    average_seeds(compared).to_csv(folder / "comparison.csv", index=False, float_format="%.5g")
    (folder / "differences.png").write_bytes(render_png(plot_differences(compared, REFERENCE)))


def print_comparison(rows: Sequence[ResultRow], console: Console) -> None:
    """A table per group of measures: means over seeds, and differences to the reference."""
    console.rule("means over seeds, and differences to the reference (± standard error over seeds)", align="left")
    table = average_seeds(compare_with_reference(rows, REFERENCE))
    for title, metrics in TABLES.items():
        part = table[table["metric"].isin(metrics)]
        if len(part):
            print_measures(title, part, list(dict.fromkeys(table["variant"])), console)
    if without := sorted(set(table["variant"]) - set(table.loc[table["metric"] == "elasticity_mae", "variant"])):
        console.print(f"No elasticities of {', '.join(without)}: no demand curve.", highlight=False)


def print_measures(title: str, part: pd.DataFrame, variants: Sequence[str], console: Console) -> None:
    """One table: variants down, tasks across; empty where a variant has no such score."""
    tasks = list(dict.fromkeys(part["task"]))
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for heading in (
        "variant",
        *(task.removeprefix("elasticity_").replace("simulated_", "simulated ") for task in tasks),
    ):
        shown.add_column(heading, justify="left" if heading == "variant" else "right")
    cells = {(row["variant"], row["task"]): describe_cell(row) for row in part.to_dict("records")}
    for variant in variants:
        shown.add_row(variant, *(cells.get((variant, task), "") for task in tasks))
    console.print(f"\n{title}", style="italic", highlight=False)
    console.print(shown)


def describe_cell(row: dict[Any, Any]) -> str:
    """Value and difference, relative where the metric has a ratio; with several seeds its standard error."""
    value = f"{row['value']:.0f}" if row["metric"] == SPEED else f"{row['value']:.3f}"
    if row["variant"] == REFERENCE or pd.isna(row["difference"]):
        return value
    if pd.isna(row["relative"]):
        return f"{value} {row['difference']:+.3f}"
    error = "" if pd.isna(row["relative_error"]) else f"±{100 * row['relative_error']:.1f}"
    return f"{value} {100 * row['relative']:+.1f}{error}%"


if __name__ == "__main__":
    run_recipe(main)
