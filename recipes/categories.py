"""Adapt a base to several categories, measure what each k teaches, and write out one adapter per category.

A simulated category is judged by what its prices would have earned in the weeks after the log, a real one by the sales
that followed; both also by the off-policy value of the recommended prices, as a shop would have to judge them.

Example: python recipes/categories.py --config recipes/nano/categories.yaml
"""

import shlex
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
# A script finds its own folder on the path, where evaluate.py would hide the library of that name.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

from pricing_fm.adapters import category_slug, point_adapter_to_base  # noqa: E402
from pricing_fm.cards import CardText, write_card  # noqa: E402
from pricing_fm.evaluation.ablation import read_words  # noqa: E402
from pricing_fm.evaluation.forecasting import evaluate_forecasters  # noqa: E402
from pricing_fm.evaluation.market import VISIBLE_COLUMNS  # noqa: E402
from pricing_fm.evaluation.model import PolicyForecaster  # noqa: E402
from pricing_fm.evaluation.panel_value import (  # noqa: E402
    LogLogProposer,
    NetworkProposer,
    PanelValueTask,
    ValueArguments,
    build_rows,
    evaluate_on_panel,
)
from pricing_fm.evaluation.pricing import evaluate_prices  # noqa: E402
from pricing_fm.evaluation.pricing_baselines import LastPrice, LogLogElasticity  # noqa: E402
from pricing_fm.evaluation.tasks import ForecastTask  # noqa: E402
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, simulate_log  # noqa: E402
from pricing_fm.markets.corpus import FIRST_SEED_OF_EVALUATION  # noqa: E402
from pricing_fm.panel import Panel, load_panel  # noqa: E402
from pricing_fm.policy import PricingPolicy  # noqa: E402
from pricing_fm.recipe import read_recipe, run_recipe  # noqa: E402
from pricing_fm.results import ResultRow, read_results, write_results  # noqa: E402
from recipes import adapt  # noqa: E402

LOGGED_WEEKS = 78
SIMULATED_LIMITS = ("The category is simulated: the adapter shows the method, and is no help with goods of any shop.",)
REAL_LIMITS = ("The base was trained on this panel's earlier weeks, too.",)


@dataclass(frozen=True)
class CategoriesArguments:
    """Which categories, and how they are measured."""

    base: str = field(metadata={"help": "Folder of the base."})
    output_dir: str = field(
        metadata={"help": "Folder of the adapters, one folder each; those named here are replaced."}
    )
    initial_adapter: str | None = field(default=None, metadata={"help": "Adapter that all start from."})
    simulated: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Texts 'name: --seed 900100 --confounding 0.6 --stocked_share 1 --reference_share 0': retail shops."
        },
    )
    real: tuple[str, ...] = field(
        default=(), metadata={"help": "Texts 'name: --panel PATH --schema PATH --category NAME', weekly panels."}
    )
    weeks: tuple[int, ...] = field(default=(4, 13, 26), metadata={"help": "Numbers of visible weeks, increasing."})
    prediction_length: int = field(default=8, metadata={"help": "Weeks that prices are held and forecasts reach."})
    adapt_config: str = field(
        default="recipes/nano/categories_adapt.yaml", metadata={"help": "YAML of recipes/adapt.py."}
    )
    work_dir: str = field(
        default=".cache/categories", metadata={"help": "Folder of logs and of adapters to smaller k."}
    )
    seed: int = field(default=0, metadata={"help": "Of adaptations."})

    def __post_init__(self) -> None:
        if not self.weeks or list(self.weeks) != sorted(set(self.weeks)) or self.weeks[0] < 3:
            raise ValueError(f"--weeks is {list(self.weeks)}; expected increasing numbers from 3 on")
        if not self.simulated and not self.real:
            raise ValueError("name at least one category with --simulated or --real")


@dataclass(frozen=True)
class MeasuredCategory:
    """One category and all that is known of it.

    Args:
        slug (`str`): Name of its folder.
        summary (`str`): What it is, in a sentence.
        path (`str`), schema (`str` or None), category (`str`): The log that adaptations read.
        support_end (`str`): First day that they do not see.
        full (`Panel`): The log with the weeks that followed.
        log (`SimulatedLog` or None): The market, ready to be continued, of a simulated one.
        limits (`tuple[str, ...]`): Named on the card.
    """

    slug: str
    summary: str
    path: str
    schema: str | None
    category: str
    support_end: str
    full: Panel
    log: SimulatedLog | None
    limits: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> list[Path]:
    (arguments,) = read_recipe((CategoriesArguments,), argv, description=__doc__)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    console, work = Console(width=120), Path(arguments.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    found = [read_simulated(text, work, arguments) for text in arguments.simulated]
    found += [read_real(text, arguments) for text in arguments.real]
    folders = []
    for category in found:
        console.rule(f"{category.slug}: {category.summary}", align="left")
        rows, last = measure(category, work, arguments)
        folders.append(write_out(category, rows, last, arguments))
        print_curve(rows, console)
    console.print(*folders, sep="\n", highlight=False)
    return folders


def read_simulated(text: str, work: Path, arguments: CategoriesArguments) -> MeasuredCategory:
    """A shop of twelve products and its manager; the longer log repeats the shorter one week for week."""
    name, _, words = text.partition(":")
    told = read_words(shlex.split(words))
    unknown = sorted(set(told) - {"seed", "confounding", "stocked_share", "reference_share"})
    if unknown or "seed" not in told:
        raise SystemExit(f"{text!r}: unknown or missing {unknown or ['seed']}; see --help")
    seed, confounding = int(told["seed"]), float(told.get("confounding", 0.0))
    if seed < FIRST_SEED_OF_EVALUATION:
        raise SystemExit(f"{text!r}: seeds below {FIRST_SEED_OF_EVALUATION} may be a corpus's")
    market = RetailSettings(
        num_products=12,
        stocked_share=float(told.get("stocked_share", 0.0)),
        reference_share=float(told.get("reference_share", 0.0)),
    )
    manager = ManagerSettings(names=("demand_follower",), confounding=(confounding, confounding))
    slug = category_slug(name)
    log, longer = (
        simulate_log(market, manager, LogSettings(num_markets=1, num_periods=weeks, seed=seed, name=slug))
        for weeks in (LOGGED_WEEKS, LOGGED_WEEKS + arguments.prediction_length)
    )
    columns = [column for column in VISIBLE_COLUMNS if column in longer.panel]
    path = work / f"{slug}.parquet"
    longer.panel[columns].to_parquet(path, index=False)
    full = load_panel(path)
    parts = [
        "the manager raises prices into peaks of demand" if confounding > 0 else "",
        "the manager promotes into peaks of demand" if confounding < 0 else "",
        "stock runs out" if market.stocked_share else "",
        "customers remember prices" if market.reference_share else "",
    ]
    summary = f"A simulated retail category of 12 items ({'; '.join(part for part in parts if part) or 'plain'})."
    end = str(log.timestamps[-1] + pd.Timedelta(days=7))[:10]
    return MeasuredCategory(slug, summary, str(path), None, full.categories[0], end, full, log, SIMULATED_LIMITS)


def read_real(text: str, arguments: CategoriesArguments) -> MeasuredCategory:
    """A category of a real panel, without its last weeks."""
    name, _, words = text.partition(":")
    told = read_words(shlex.split(words))
    if missing := sorted({"panel", "schema", "category"} - set(told)):
        raise SystemExit(f"{text!r} lacks {missing}; see --help")
    full = load_panel(told["panel"], schema=told["schema"]).select_category(told["category"])
    end = full.frequency.step(full.last_observed, 1 - arguments.prediction_length)
    return MeasuredCategory(
        category_slug(name), f"Category {told['category']!r} of {full.name} ({len(full.item_ids)} items).",
        told["panel"], told["schema"], told["category"], str(end)[:10], full, None, REAL_LIMITS,
    )  # fmt: skip


def measure(category: MeasuredCategory, work: Path, arguments: CategoriesArguments) -> tuple[list[ResultRow], Path]:
    """Rows of every k, and the adapter of the last one."""
    rows: list[ResultRow] = []
    base = PricingPolicy.from_pretrained(arguments.base)
    length, folder = arguments.prediction_length, Path()
    for k in arguments.weeks:
        folder = work / category.slug / f"k{k:02d}"
        shutil.rmtree(folder, ignore_errors=True)
        adapt.main(adapt_words(category, k, folder, arguments))
        adapted = PricingPolicy.from_pretrained(arguments.base, adapter=folder)
        task = ForecastTask(category.slug, category.full, length, (length,), context_length=k)
        forecasters = [PolicyForecaster(base, "zero_shot", 0), PolicyForecaster(adapted, "pricing_fm", 0)]
        found = evaluate_forecasters(task, forecasters, show_progress=False)
        rows += [replace(row, k=k) for row in found.rows if row.name in ("wql", "mase")]
        if category.log is not None:
            rows += price_rows(category, category.log, k, base, adapted, length)
    values = PanelValueTask(
        category.full, (length,), length, assumed_share(category), ValueArguments(history_periods=26), arguments.seed
    )
    proposers = [NetworkProposer(adapted, "pricing_fm", assumed_share(category))]
    valued = evaluate_on_panel(
        values,
        lambda weeks, costs: [
            *proposers,
            LogLogProposer(list(weeks.item_ids), costs.objective, values.assumed_cost_share),
        ],
        work / category.slug / "values",
    )
    kept = ("value", "gain", "support_mass", "identified", "price_episodes")
    rows += [row for row in build_rows(valued, category.slug) if row.name in kept and row.category is None]
    (folder / "decision.txt").write_text(valued.describe() + "\n", encoding="utf-8")
    return rows, folder


def adapt_words(category: MeasuredCategory, k: int, folder: Path, arguments: CategoriesArguments) -> list[str]:
    """What recipes/adapt.py is told."""
    words = ["--config", arguments.adapt_config, "--base", arguments.base, "--panel", category.path]
    words += ["--category", category.category, "--weeks", str(k), "--support_end", category.support_end]
    words += ["--output_dir", str(folder), "--seed", str(arguments.seed)]
    words += ["--schema", category.schema] if category.schema else []
    return words + (["--initial_adapter", arguments.initial_adapter] if arguments.initial_adapter else [])


def assumed_share(category: MeasuredCategory) -> float | None:
    """A simulated log has costs; of the real ones none is known, and 60 % of the regular price are assumed."""
    return None if category.log is not None else 0.6


def price_rows(
    category: MeasuredCategory, log: SimulatedLog, k: int, base: PricingPolicy, adapted: PricingPolicy, length: int
) -> list[ResultRow]:
    """Share of the gap between manager and oracle that held prices close."""
    visible = category.full.before(category.support_end).last_periods(k)
    proposals = {
        "pricing_fm": adapted.recommend(visible, guardrails={}, prediction_length=length),
        "zero_shot": base.recommend(visible, guardrails={}, prediction_length=length),
        **{rule.name: rule.propose(visible) for rule in (LastPrice(), LogLogElasticity())},
    }
    found = evaluate_prices(log, proposals, length, category.slug, 0, category_k=k)
    # One category: its bootstrap interval is a point.
    return [
        replace(row, lower=None, upper=None)
        for row in found.rows
        if row.name == "gap_closed" and row.category is None and row.model != "manager"
    ]


def write_out(category: MeasuredCategory, rows: list[ResultRow], last: Path, arguments: CategoriesArguments) -> Path:
    """The adapter of the longest history as a repository folder: its files, all rows, a card; sealed anew."""
    target = Path(arguments.output_dir) / category.slug
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(last, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    own = read_results(target)
    both = replace(own, recipe=f"{own.recipe} + categories", metrics=(*own.metrics, *rows))
    write_results(target, both, only_what_applies=True)
    point_adapter_to_base(target, arguments.base, None)  # seals it, too
    text = CardText(category.slug, f"{category.summary} Adapted from its last {arguments.weeks[-1]} weeks.")
    write_card(target, replace(text, limits=(*text.limits, *category.limits)), load_from=target.as_posix())
    return target


def print_curve(rows: list[ResultRow], console: Console) -> None:
    """One line per model and metric, one column per k."""
    curve = [row for row in rows if row.k is not None and row.name in ("wql", "gap_closed")]
    frame = pd.DataFrame(
        [(row.name, row.model, row.k, row.value) for row in curve], columns=["metric", "model", "k", "v"]
    )
    pivot = frame.pivot_table(index=["metric", "model"], columns="k", values="v").reset_index()
    weeks = [column for column in pivot if column not in ("metric", "model")]
    table = Table("metric", "model", *(f"k = {k}" for k in weeks))
    for row in pivot.to_dict("records"):
        table.add_row(row["metric"], row["model"], *("" if pd.isna(row[k]) else f"{row[k]:.3f}" for k in weeks))
    console.print(table)


if __name__ == "__main__":
    run_recipe(main)
