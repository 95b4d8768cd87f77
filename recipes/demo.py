"""From the published base to recommended prices for a category that it has never seen: simulate, adapt, evaluate.

Example: python recipes/demo.py

A market is simulated, because only there the best price is known. The manager of the new category raises prices when
demand is high, so whoever reads his log as it stands learns that dear goods sell well.
"""

import os
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
# A script finds its own folder on the path, where evaluate.py would hide the library of that name.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

from pricing_fm.artifact import verify_artifact  # noqa: E402
from pricing_fm.errors import ArtifactError  # noqa: E402
from pricing_fm.evaluation.baselines import RecentQuantiles, SeasonalNaive  # noqa: E402
from pricing_fm.evaluation.figures import render_png  # noqa: E402
from pricing_fm.evaluation.forecasting import ForecastEvaluation, evaluate_forecasters  # noqa: E402
from pricing_fm.evaluation.market import VISIBLE_COLUMNS  # noqa: E402
from pricing_fm.evaluation.model import PolicyForecaster  # noqa: E402
from pricing_fm.evaluation.pricing import PricingEvaluation, evaluate_prices  # noqa: E402
from pricing_fm.evaluation.pricing_baselines import LastPrice, LogLogElasticity  # noqa: E402
from pricing_fm.evaluation.report import write_report  # noqa: E402
from pricing_fm.evaluation.report_sections import ReportContent  # noqa: E402
from pricing_fm.evaluation.tasks import ForecastTask  # noqa: E402
from pricing_fm.hub import download  # noqa: E402
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, simulate_log  # noqa: E402
from pricing_fm.markets.corpus import FIRST_SEED_OF_EVALUATION  # noqa: E402
from pricing_fm.panel import Panel, load_panel  # noqa: E402
from pricing_fm.policy import PricingPolicy  # noqa: E402
from pricing_fm.recipe import read_recipe, run_recipe  # noqa: E402
from pricing_fm.results import DataSource, ResultRow, build_results, read_results, write_results  # noqa: E402
from recipes import adapt  # noqa: E402
from recipes.demo_figure import draw_summary  # noqa: E402
from recipes.demo_tables import print_curve, print_forecasts, print_gaps, print_recommendations  # noqa: E402

VISIBLE_WEEKS = 26  # of the new category
CURVE_WEEKS = (4, 13)  # it is adapted to so few as well, to see what more weeks teach
PRICED_WEEKS = 8  # a recommended price is held this long; forecasts reach as far
# Relative, because they are written down: the one in the adapter's recipe, the other in the report.
RULES = Path(os.path.relpath(HERE / "guardrails.yaml"))
BASE = Path(os.path.relpath(HERE.parent / "model_cards" / "pricing-fm-nano"))
# Where adapters of new retail categories start: it has learned how far to believe what a category's items say together.
START = Path(os.path.relpath(HERE.parent / "model_cards" / "pricing-fm-nano-retail"))
OURS = ("adapted", "zero_shot", "adapter_structured", "adapter_in_rules", "base_plan")


@dataclass(frozen=True)
class DemoArguments:
    """Where the demo starts, where it writes and how long it takes."""

    base: str = field(
        default=str(BASE), metadata={"help": "Folder or Hub repository of the base that is adapted; it stays as it is."}
    )
    initial_adapter: str | None = field(
        default=None,
        metadata={"help": "Adapter to start from; default: with the published base the published start, else none."},
    )
    output_dir: str = field(
        default="outputs/demo",
        metadata={"help": "Folder of the results; what an earlier demo left in it is replaced."},
    )
    work_dir: str = field(
        default=".cache/demo", metadata={"help": "Folder of the simulated log and of training logs; replaced likewise."}
    )
    fast: bool = field(
        default=False, metadata={"help": "A few training steps on a few series: everything runs, nothing is learned."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of everything random."})


@dataclass(frozen=True)
class Scale:
    """What differs between the demo and its fast version, which checks the path and not the numbers."""

    num_products: int = 12
    num_rollouts: int = 64
    adapt: tuple[str, ...] = ()


FAST = Scale(
    num_products=4,
    num_rollouts=2,
    adapt=tuple("--demand_steps 2 --policy_steps 2 --batch_size 4".split()),
)


@dataclass(frozen=True)
class Folders:
    """Where everything goes. Nothing in `work` bears the name of an artifact's file."""

    output: Path
    work: Path

    @property
    def base(self) -> Path:
        """A copy of the base, so that the adapter finds it wherever the output is moved."""
        return self.output / "base"

    @property
    def adapter(self) -> Path:
        """The adapter artifact, beside its base."""
        return self.output / "adapter"

    @property
    def fewer_weeks(self) -> Path:
        """Folder of the adapters from fewer weeks."""
        return self.output / "fewer_weeks"


@dataclass(frozen=True)
class NewCategory:
    """A category that no base ever saw.

    Args:
        log (`SimulatedLog`): Its market, which alone knows the demand.
        path (`Path`): The log as a shop would have it.
        visible (`Panel`): The last weeks of it: all that anyone may look at.
        later (`Panel`): The log with the weeks that followed under the manager.
    """

    log: SimulatedLog
    path: Path
    visible: Panel
    later: Panel

    @property
    def name(self) -> str:
        """Exact name of the category in the data."""
        return self.visible.categories[0]


@dataclass(frozen=True)
class Evaluation:
    """What was measured on the new category, and the prices it led to."""

    forecasts: ForecastEvaluation
    prices: PricingEvaluation
    recommendations: pd.DataFrame
    curves: pd.DataFrame

    @property
    def rows(self) -> list[ResultRow]:
        """All measured numbers."""
        return [*self.forecasts.rows, *self.prices.rows]


def main(argv: Sequence[str] | None = None) -> Evaluation:
    (arguments,) = read_recipe((DemoArguments,), argv, description=__doc__)
    base = find_base(arguments)
    be_quiet()
    # Matrices this small gain little from a second thread, and threads that wait for each other on a busy machine made
    # training 15 times slower (20 windows a second instead of 300 to 400).
    torch.set_num_threads(1)
    scale, started = FAST if arguments.fast else Scale(), time.perf_counter()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    folders = clear_folders(Path(arguments.output_dir), Path(arguments.work_dir))
    seed = arguments.seed

    console.rule("1/5 take the base", align="left")
    take_base(base, folders, console)
    console.rule("2/5 simulate a category that it has never seen", align="left")
    new = simulate_new_category(folders, scale, seed, console)
    start = arguments.initial_adapter or (str(START) if arguments.base == str(BASE) else None)
    console.rule(f"3/5 adapt it to {new.name!r} from {VISIBLE_WEEKS} weeks", align="left")
    adapt_to(new, VISIBLE_WEEKS, folders.adapter, start, folders, scale, seed)
    console.rule(f"4/5 evaluate, and adapt from {' and '.join(map(str, CURVE_WEEKS))} weeks to compare", align="left")
    found = evaluate(new, folders, scale, seed)
    curve = measure_curve(new, start, folders, scale, seed)
    print_forecasts(found.forecasts.rows, PRICED_WEEKS, console)
    print_gaps(found.prices.rows, PRICED_WEEKS, console)
    print_curve([*curve, *found.prices.rows], VISIBLE_WEEKS, console)
    console.rule("5/5 recommend", align="left")
    print_recommendations(found.recommendations, found.curves, found.prices, new.visible, console)
    write_everything(found, curve, new, arguments.base, folders)
    console.print(
        f"{time.perf_counter() - started:.0f} s. Written: {folders.base}/ and {folders.adapter}/ (load them with "
        f"PricingPolicy.from_pretrained), results.json, recommendations.csv and report.html in {folders.output}/",
        highlight=False,
    )
    return found


def find_base(arguments: DemoArguments) -> Path:
    """The base as a verified folder; anything wrong with it is said before the results of an earlier demo are gone."""
    if arguments.base == str(BASE) and not BASE.is_dir():
        raise ArtifactError(
            f"{BASE}: there is no such folder; expected the published base, which the demo starts from. Pass another "
            "one with --base FOLDER, or train it: python recipes/pretrain.py --config recipes/nano/base.yaml, then "
            "--base outputs/base"
        )
    folder = download(arguments.base).folder
    verify_artifact(folder, kind="base")
    for written in (Path(arguments.output_dir), Path(arguments.work_dir)):
        one, other = folder.resolve(), written.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise ArtifactError(
                f"--base {folder} and {written}, whose content the demo replaces, lie one in the other. Copy the base "
                "to another place, or pass another --output_dir or --work_dir"
            )
    return folder


def be_quiet() -> None:
    """What other libraries say while they load and save is no part of the story."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # peft asks transformers for a property by its old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def clear_folders(output: Path, work: Path) -> Folders:
    """Takes away what an earlier demo wrote, and nothing else."""
    folders = Folders(output, work)
    for folder in (folders.base, folders.adapter, folders.fewer_weeks, work / "logs", work / "panels"):
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in ("results.json", "recommendations.csv", "report.html", "*.png"):
        for file in output.glob(pattern):
            file.unlink()
    output.mkdir(parents=True, exist_ok=True)
    (work / "panels").mkdir(parents=True)
    return folders


def take_base(source: Path, folders: Folders, console: Console) -> None:
    """Copies the base, less any adapters that lie in its folder."""
    PricingPolicy.from_pretrained(source, adapter={}).save_pretrained(folders.base)
    console.print(f"{describe_base(source, str(source))} -> {folders.base}", highlight=False)


def describe_base(folder: Path, name: str) -> str:
    """The name of a base, what it was pretrained on and for how long, as far as its own results say so."""
    # The data of the results would not do: a published base was measured on panels that it has never read.
    training = [
        f"{timedelta(seconds=round(row.train_s))} h on {row.task.replace('+', ', ')}"
        for row in read_results(folder).metrics
        if row.name == "loss" and row.split == "validation" and row.train_s is not None
    ]
    return ", pretrained for ".join([name, *training])


def simulate_new_category(folders: Folders, scale: Scale, seed: int, console: Console) -> NewCategory:
    """One category with a market and a manager of its own; the truth goes into a file of its own."""
    market = RetailSettings(num_products=scale.num_products)
    # Raises prices when demand is high: the kind of log that misleads.
    manager = ManagerSettings(names=("demand_follower",), confounding=(0.6, 0.6))
    # No training corpus takes such a seed. The longer log repeats the shorter one week for week, then goes on.
    unseen = FIRST_SEED_OF_EVALUATION + seed
    log, longer = (
        simulate_log(market, manager, LogSettings(num_markets=1, num_periods=weeks, seed=unseen, name="new"))
        for weeks in (120, 120 + PRICED_WEEKS)
    )
    path, later = folders.work / "panels" / "new.parquet", folders.work / "panels" / "new_later.parquet"
    columns = [column for column in VISIBLE_COLUMNS if column in log.panel]
    log.panel[columns].to_parquet(path, index=False)
    longer.panel[columns].to_parquet(later, index=False)
    log.truth.to_parquet(folders.work / "panels" / "new_truth.parquet", index=False)
    visible = load_panel(path).last_periods(VISIBLE_WEEKS)
    console.print(
        f"new category: {log.num_items} items, the last {VISIBLE_WEEKS} of 120 weeks are visible, the manager's prices "
        f"follow demand (correlation 0.6) -> {path}",
        highlight=False,
    )
    return NewCategory(log, path, visible, load_panel(later))


def adapt_to(
    new: NewCategory, weeks: int, adapter: Path, start: str | None, folders: Folders, scale: Scale, seed: int
) -> None:
    """recipes/adapt.py with recipes/nano/demo_adapt.yaml."""
    what = ["--base", folders.base, "--panel", new.path, "--category", new.name, "--weeks", weeks]
    where = ["--guardrails", RULES, "--output_dir", adapter, "--seed", seed]
    where += [] if start is None else ["--initial_adapter", start]
    words = ["--config", HERE / "nano" / "demo_adapt.yaml", *what, *where, *scale.adapt]
    adapt.main([str(word) for word in words])
    keep_logs_apart(adapter, folders)


def keep_logs_apart(adapter: Path, folders: Folders) -> None:
    """Moves the training logs out of a finished adapter."""
    logs = folders.work / "logs" / adapter.name
    logs.mkdir(parents=True)
    for folder in [path for path in adapter.iterdir() if path.is_dir()]:
        shutil.move(folder, logs / folder.name.lstrip("."))


def evaluate(new: NewCategory, folders: Folders, scale: Scale, seed: int) -> Evaluation:
    """Forecasts of the weeks that followed, and what prices would have earned in them."""
    base = PricingPolicy.from_pretrained(folders.base)
    adapted = PricingPolicy.from_pretrained(folders.base, adapter=folders.adapter)
    task = ForecastTask(new.name, new.later, PRICED_WEEKS, (PRICED_WEEKS,), context_length=VISIBLE_WEEKS)
    forecasts = evaluate_forecasters(
        task,
        [PolicyForecaster(base, "zero_shot", seed), PolicyForecaster(adapted, "adapted", seed)],
        [SeasonalNaive(), RecentQuantiles(VISIBLE_WEEKS)],
    )
    recommended = adapted.recommend(new.visible, prediction_length=PRICED_WEEKS)
    proposals = {rule.name: rule.propose(new.visible) for rule in (LastPrice(), LogLogElasticity())}
    proposals["base_plan"] = base.recommend(new.visible, prediction_length=PRICED_WEEKS)
    proposals["adapter_structured"] = adapted.recommend(new.visible, guardrails={}, prediction_length=PRICED_WEEKS)
    proposals["adapter_in_rules"] = recommended
    prices = evaluate_prices(
        new.log, proposals, PRICED_WEEKS, new.name, seed, num_rollouts=scale.num_rollouts, category_k=VISIBLE_WEEKS
    )
    multipliers = [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2]
    curves = adapted.demand_curve(new.visible, price_multipliers=multipliers, prediction_length=PRICED_WEEKS)
    return Evaluation(forecasts, prices, recommended, curves)


def measure_curve(new: NewCategory, start: str | None, folders: Folders, scale: Scale, seed: int) -> list[ResultRow]:
    """What adapting to fewer weeks would earn, beside the base that sees as many."""
    base, rows = PricingPolicy.from_pretrained(folders.base), []
    for weeks in CURVE_WEEKS:
        adapter = folders.fewer_weeks / f"weeks-{weeks:02d}"
        adapt_to(new, weeks, adapter, start, folders, scale, seed)
        adapted, visible = PricingPolicy.from_pretrained(folders.base, adapter=adapter), new.visible.last_periods(weeks)
        proposals = {rule.name: rule.propose(visible) for rule in (LastPrice(), LogLogElasticity())}
        proposals["base_plan"] = base.recommend(visible, prediction_length=PRICED_WEEKS)
        proposals["adapter_structured"] = adapted.recommend(visible, guardrails={}, prediction_length=PRICED_WEEKS)
        rows += evaluate_prices(
            new.log, proposals, PRICED_WEEKS, new.name, seed, num_rollouts=scale.num_rollouts, category_k=weeks
        ).rows
    return rows


def write_everything(found: Evaluation, curve: list[ResultRow], new: NewCategory, base: str, folders: Folders) -> None:
    """results.json, recommendations.csv, report.html and its figures."""
    found.recommendations.to_csv(folders.output / "recommendations.csv", index=False)
    figure = draw_summary(found.curves, found.recommendations, found.prices.items, new.log)
    (folders.output / "summary.png").write_bytes(render_png(figure))
    sources = [*read_results(folders.base).data, DataSource(new.visible.name, new.visible.fingerprint())]
    write_results(folders.output, build_results("demo", sources, [*found.rows, *curve]))
    write_report(
        folders.output,
        ReportContent(
            title=f"Prices for {new.name}, a category the base had never seen",
            facts=(
                ("Category", f"{new.name}: {len(new.visible.item_ids)} items, simulated with a seed no corpus takes"),
                ("Visible", f"{VISIBLE_WEEKS} weeks up to that of {new.visible.last_observed:%d %b %Y}"),
                ("Base", describe_base(folders.base, base)),
            ),
            rows=found.rows,
            ours=OURS,
            windows=found.forecasts.windows,
            steps=found.forecasts.steps,
            history=new.later.frame,
            curves=found.curves,
            recommendations=found.recommendations,
            notes=(
                "One simulated category shows that the path works, not how well it does on average: for that run "
                "recipes/evaluate.py --market retail, which prices many.",
                "The rules of recipes/guardrails.yaml hold for the proposed prices; the policies that are compared "
                "are free of them unless they say so.",
            ),
        ),
    )  # fmt: skip


if __name__ == "__main__":
    run_recipe(main)
