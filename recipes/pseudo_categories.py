"""Real logs cut into many small categories, each met for the first time with few weeks: forecasts and value at each k.

A pseudo-category is a few items that share some columns of a panel (sub-category and manufacturer, or a brand). Its
last weeks are held out; an adapter starts from the meta-trained one and sees the k weeks before them, and so do its
prices. They are valued by the structured estimator on the held-out weeks, with the share of changes that the log
supports.

Example: python recipes/pseudo_categories.py --base model_cards/pricing-fm-nano --panel data/frat/panel.parquet \
    --schema data/frat/schema.yaml --by sub_category manufacturer --price_zone store_segment \
    --initial_adapter model_cards/pricing-fm-nano-retail --output_dir outputs/frat
"""

import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import yaml
from rich.console import Console
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
# A script finds its own folder on the path, where evaluate.py would hide the library of that name.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

from pricing_fm.adapters import category_slug  # noqa: E402
from pricing_fm.evaluation.forecasting import evaluate_forecasters  # noqa: E402
from pricing_fm.evaluation.model import PolicyForecaster  # noqa: E402
from pricing_fm.evaluation.panel_value import (  # noqa: E402
    LogLogProposer,
    NetworkProposer,
    PanelValueTask,
    ValueArguments,
    build_rows,
    evaluate_on_panel,
)
from pricing_fm.evaluation.tasks import ForecastTask  # noqa: E402
from pricing_fm.metrics.bootstrap import stratified_bootstrap  # noqa: E402
from pricing_fm.panel import Panel, load_panel  # noqa: E402
from pricing_fm.policy import PricingPolicy  # noqa: E402
from pricing_fm.recipe import read_recipe, run_recipe  # noqa: E402
from pricing_fm.results import ResultRow  # noqa: E402
from recipes import adapt  # noqa: E402

LABEL = "pseudo_category"
OURS, BASE = "pooling", "zero_shot"
KEPT = ("gain", "value", "support_mass", "identified", "price_episodes")


@dataclass(frozen=True)
class PseudoArguments:
    """Which panel, how it is cut, and how its parts are measured."""

    base: str = field(metadata={"help": "Folder of the base."})
    panel: str = field(metadata={"help": "Parquet file of the panel."})
    schema: str = field(metadata={"help": "Its schema."})
    output_dir: str = field(
        metadata={"help": "Folder of rows.csv and summary.csv; what it holds is not measured again."}
    )
    by: tuple[str, ...] = field(default=(), metadata={"help": "Columns of the file whose values make a category."})
    price_zone: str | None = field(
        default=None, metadata={"help": "Column of the zones in which a product has a price."}
    )
    unit_scale: float = field(
        default=1.0, metadata={"help": "Pieces of a unit, where values need counts: 10 makes kilograms hectograms."}
    )
    initial_adapter: str | None = field(
        default=None, metadata={"help": "Adapter that all start from; none = the base."}
    )
    weeks: tuple[int, ...] = field(default=(4, 13, 26), metadata={"help": "Numbers of visible weeks, increasing."})
    items: int = field(default=24, metadata={"help": "Items of a category, drawn among those sold to the end."})
    categories: int = field(default=8, metadata={"help": "Categories, those of most products and rows first."})
    prediction_length: int = field(default=8, metadata={"help": "Periods held out: forecast, and under one price."})
    assumed_cost_share: float = field(default=0.6, metadata={"help": "Cost over regular price where none is logged."})
    adapt_config: str = field(
        default="recipes/nano/categories_adapt.yaml", metadata={"help": "YAML of recipes/adapt.py."}
    )
    seed: int = field(default=0, metadata={"help": "Of drawn items and adaptations."})

    def __post_init__(self) -> None:
        if not self.weeks or list(self.weeks) != sorted(set(self.weeks)) or self.weeks[0] < 3:
            raise ValueError(f"--weeks is {list(self.weeks)}; expected increasing numbers from 3 on")
        if self.items < 2 or min(self.categories, self.prediction_length) < 1 or not self.unit_scale > 0:
            raise ValueError("--items must be 2, --categories and --prediction_length 1 or more, --unit_scale above 0")


@dataclass(frozen=True)
class VisibleProposer:
    """A network's prices from the last weeks of a history alone.

    Args:
        inner (`NetworkProposer`): The network.
        weeks (`int`): Weeks of 7 days that it sees.
    """

    inner: NetworkProposer
    weeks: int

    @property
    def name(self) -> str:
        """See `Proposer`."""
        return f"{self.inner.name}_{self.weeks}"

    @property
    def identity(self) -> str:
        """See `Proposer`."""
        return f"{self.inner.identity} {self.weeks}"

    def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
        """See `Proposer`."""
        first = history.last_observed - pd.Timedelta(days=7 * self.weeks)
        frame = planned.frame[planned.frame["timestamp"] > first].reset_index(drop=True)
        return self.inner.propose(history, replace(planned, frame=frame), periods)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    (arguments,) = read_recipe((PseudoArguments,), argv, description=__doc__)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    folder, console = Path(arguments.output_dir), Console(width=140)
    folder.mkdir(parents=True, exist_ok=True)
    base = PricingPolicy.from_pretrained(arguments.base)
    for name, path in cut_panel(arguments, folder / "panels").items():
        file = folder / f"{name}.csv"
        if not file.is_file():
            console.rule(name, align="left")
            rows = measure(name, path, base, folder / name, arguments)
            pd.DataFrame([vars(row) for row in rows]).dropna(axis=1, how="all").to_csv(file, index=False)
    table = pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv")) if file.stem != "summary"])
    found = summarize(table, arguments)
    found.to_csv(folder / "summary.csv", index=False, float_format="%.4g")
    console.print(found.round(3).to_string(index=False))
    return found


def cut_panel(arguments: PseudoArguments, folder: Path) -> dict[str, Path]:
    """One panel file and schema per category, by its name; only items that were sold in the last period are drawn."""
    frame = pd.read_parquet(arguments.panel)
    schema = yaml.safe_load(Path(arguments.schema).read_text())
    item = schema["item_id"] if isinstance(schema["item_id"], list) else [schema["item_id"]]
    product, time = schema.get("product_id", item[0]), schema["timestamp"]
    if arguments.unit_scale != 1.0:
        frame[schema["units"]] = (frame[schema["units"]] * arguments.unit_scale).round()
        money = [schema[name] for name in ("price", "list_price", "cost") if name in schema]
        frame[money] /= arguments.unit_scale
    frame[LABEL] = frame[list(arguments.by)].astype(str).agg(" ".join, axis=1) if arguments.by else "all"
    schema["category"] = LABEL
    schema["static_categories"] = [one for one in schema.get("static_categories", []) if one != arguments.price_zone]
    if arguments.price_zone is not None:
        schema["price_zone"] = arguments.price_zone
    current = frame[frame[time] == frame[time].max()]
    order = current.groupby(LABEL).agg(products=(product, "nunique"), rows=(product, "size"))
    order = order.sort_values(["products", "rows"], ascending=False, kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema), encoding="utf-8")
    found = {}
    for label in order.index[: arguments.categories]:
        sold = current.loc[current[LABEL] == label, item].drop_duplicates()
        drawn = sold.sample(min(arguments.items, len(sold)), random_state=arguments.seed)
        path = folder / f"{category_slug(str(label))}.parquet"
        frame.merge(drawn, on=item).to_parquet(path, index=False)
        found[path.stem] = path
    return found


def measure(name: str, path: Path, base: PricingPolicy, work: Path, arguments: PseudoArguments) -> list[ResultRow]:
    """Forecast loss and off-policy value at every k, ours beside the base."""
    schema, length = path.parent / "schema.yaml", arguments.prediction_length
    panel = load_panel(path, schema=schema)
    periods = {k: round(7 * 86_400 * k / panel.frequency.seconds) for k in arguments.weeks}
    end = str(panel.frequency.step(panel.last_observed, 1 - length))[:10]
    share = None if "cost" in panel.frame else arguments.assumed_cost_share
    start = [] if arguments.initial_adapter is None else ["--initial_adapter", arguments.initial_adapter]
    rows: list[ResultRow] = []
    proposers: list[VisibleProposer] = []
    for k in arguments.weeks:
        folder = work / f"k{k:02d}"
        shutil.rmtree(folder, ignore_errors=True)
        adapt.main(
            ["--config", arguments.adapt_config, "--base", arguments.base, "--panel", str(path), "--schema",
             str(schema), "--category", panel.categories[0], "--weeks", str(k), "--support_end", end, "--output_dir",
             str(folder), "--seed", str(arguments.seed), *start]
        )  # fmt: skip
        adapted = PricingPolicy.from_pretrained(arguments.base, adapter=folder)
        task = ForecastTask(name, panel, length, (length,), context_length=periods[k])
        forecasters = [PolicyForecaster(base, BASE, 0), PolicyForecaster(adapted, OURS, 0)]
        found = evaluate_forecasters(task, forecasters, show_progress=False)
        rows += [replace(row, k=k) for row in found.rows if row.name in ("wql", "coverage_80")]
        proposers += [
            VisibleProposer(NetworkProposer(policy, label, share), k)
            for policy, label in ((base, BASE), (adapted, OURS))
        ]
    history = ValueArguments(history_periods=max(periods.values()))
    value = PanelValueTask(panel, (length,), length, share, history, arguments.seed)
    valued = evaluate_on_panel(
        value,
        lambda weeks, costs: [*proposers, LogLogProposer(list(weeks.item_ids), costs.objective, share)],
        work / "values",
    )
    # Also why nothing is valued: one product alone shows no habits to weigh its prices with.
    (work / "decision.txt").write_text(valued.describe() + "\n", encoding="utf-8")
    for row in build_rows(valued, name):
        label, _, seen = row.model.rpartition("_")
        if row.name in KEPT and row.category is None:
            rows.append(replace(row, model=label, k=int(seen)) if label in (BASE, OURS) else row)
    return rows


def summarize(table: pd.DataFrame, arguments: PseudoArguments) -> pd.DataFrame:
    """Means over categories with 90 % bootstrap intervals; gains as shares of the manager's value."""
    managers = table[(table["model"] == "manager") & (table["name"] == "value")].set_index("task")["value"]
    gains = table["name"] == "gain"
    table = table.copy()
    for column in ("value", "lower", "upper"):
        table.loc[gains, column] /= table.loc[gains, "task"].map(managers)
    losses = table[table["name"] == "wql"].pivot(index=["task", "k"], columns="model", values="value")
    ratios = (losses[OURS] / losses[BASE]).rename("value").reset_index().assign(name="wql_ratio", model=OURS)
    rows = []
    kept = pd.concat([table[table["model"] != "manager"], ratios])
    for (metric, model, k), group in kept.groupby(["name", "model", "k"], dropna=False):
        values = group["value"].to_numpy()
        found = stratified_bootstrap(values, ["category"] * len(values), level=0.9, seed=arguments.seed)
        above = float((group["lower"] > 0).mean()) if metric == "gain" else float("nan")
        mean = float(values.mean())
        rows.append((metric, model, k, len(values), mean, found.value, found.lower, found.upper, above))
    columns = ["metric", "model", "k", "categories", "mean", "iqm", "lower", "upper", "share_surely_above_0"]
    return pd.DataFrame(rows, columns=columns)


if __name__ == "__main__":
    run_recipe(main)
