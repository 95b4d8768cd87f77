"""What margin costs in units, revenue, customer surplus and price stability: fronts of planned prices, drawn.

Examples:
    python recipes/front.py --config recipes/nano/front.yaml
    python recipes/front.py --base model_cards/pricing-fm-nano --panel data/frat/panel.parquet \
        --schema data/frat/schema.yaml --assumed_cost_share 0.6 --output_dir outputs/frat-front
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pricing_fm.evaluation.figures import render_png
from pricing_fm.evaluation.front import FrontComparison, compare_fronts, true_terms
from pricing_fm.evaluation.front_figure import AXIS_OF, plot_fronts
from pricing_fm.evaluation.market import MarketArguments, simulate_evaluation_market
from pricing_fm.markets import SimulatedLog
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.options import PriceOptions
from pricing_fm.policy.recommend import CAUTION
from pricing_fm.policy.trade_off import OBJECTIVES, PlanTerms
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import DataSource, ResultRow, build_results, write_results


@dataclass(frozen=True)
class FrontArguments:
    """Whose prices are planned, and which weights are tried."""

    base: str = field(metadata={"help": "Folder or Hub repository of the base."})
    output_dir: str = field(metadata={"help": "Folder of front.png, front.csv, front.json and results.json."})
    adapter: tuple[str, ...] = field(
        default=(), metadata={"help": "Adapter folders or repositories, one per category; none = the base alone."}
    )
    panel: str | None = field(default=None, metadata={"help": "Sales log: path or Hub dataset id."})
    schema: str | None = field(default=None, metadata={"help": "Schema of the panel."})
    category: str = field(default="all", metadata={"help": "Only this category (exact value), or all."})
    market: Literal["retail"] | None = field(default=None, metadata={"help": "Simulated market whose truth is known."})
    guardrails: str | None = field(default=None, metadata={"help": "Rules for the prices (YAML or JSON)."})
    assumed_cost_share: float | None = field(
        default=None, metadata={"help": "Unit cost over current price where no cost is logged."}
    )
    prediction_length: int = field(
        default=8, metadata={"help": "Periods a price is held; in a market: --decision_periods."}
    )
    units_weights: tuple[float, ...] = field(
        default=(0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0), metadata={"help": "Tried worths of a unit, shares of its price."}
    )
    revenue_weights: tuple[float, ...] = field(
        default=(0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0), metadata={"help": "Tried weights of revenue beside margin."}
    )
    satisfaction_weights: tuple[float, ...] = field(
        default=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0), metadata={"help": "Tried weights of consumer surplus."}
    )
    price_change_weights: tuple[float, ...] = field(
        default=(0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0),
        metadata={"help": "Tried costs of a price change, shares of a period's revenue of the item."},
    )
    caution: float = field(
        default=CAUTION, metadata={"help": "Standard deviations of the response that a gain is discounted by."}
    )
    seed: int = field(default=0, metadata={"help": "Recorded in result rows: planning draws nothing."})

    def __post_init__(self) -> None:
        if (self.panel is None) == (self.market is None):
            raise ValueError("pass either --panel or --market, and not both")
        if self.caution < 0:
            raise ValueError(f"--caution is {self.caution}; it must be at least 0")
        for name, values in self.sweeps.items():
            if min(values) < 0:
                raise ValueError(f"--{name}_weights are {list(values)}; weights must be at least 0")

    @property
    def sweeps(self) -> dict[str, tuple[float, ...]]:
        """Swept term to its weights."""
        return {name: getattr(self, f"{name}_weights") for name in OBJECTIVES}


def main(argv: Sequence[str] | None = None) -> FrontComparison:
    arguments, market, rewards = read_recipe((FrontArguments, MarketArguments, RewardWeights), argv, __doc__)
    if rewards.stock_target > 0 or rewards.lost_sales > 0:
        raise SystemExit("a front plans without stock: leave --stock_target and --lost_sales at 0")
    console, folder = Console(), Path(arguments.output_dir)
    policy = PricingPolicy.from_pretrained(arguments.base)
    for adapter in arguments.adapter:
        policy.load_adapter(adapter)
    log, panel, length = read_items(arguments, market)
    options = price_items(arguments, policy, panel, length, console)
    truth = None if log is None else measure_truth(log, options, console)
    found = compare_fronts(options, rewards, arguments.sweeps, arguments.caution, truth)
    folder.mkdir(parents=True, exist_ok=True)
    write_points(folder, found)
    name = panel.name if log is None else f"a simulated {arguments.market} market"
    title = f"{len(options)} items of {name}, prices held for {length} periods"
    (folder / "front.png").write_bytes(render_png(plot_fronts(found, title)))
    save_recipe(folder, (arguments, market, rewards))
    rows = result_rows(found, arguments.market or panel.name, len(options), arguments.seed)
    write_results(folder, build_results("front", [DataSource(panel.name, panel.fingerprint())], rows))
    print_points(found, console)
    console.print(f"{folder / 'front.png'}, {folder / 'front.csv'}", highlight=False)
    return found


def read_items(arguments: FrontArguments, market: MarketArguments) -> tuple[SimulatedLog | None, Panel, int]:
    """The market if one is simulated, the log that prices are planned from, and how long they are held."""
    if arguments.market is not None:
        return *simulate_evaluation_market(market), market.decision_periods
    panel = load_panel(str(arguments.panel), schema=arguments.schema)
    panel = panel if arguments.category == "all" else panel.select_category(arguments.category)
    return None, panel, arguments.prediction_length


def price_items(
    arguments: FrontArguments, policy: PricingPolicy, panel: Panel, length: int, console: Console
) -> PriceOptions:
    """What every item may be priced at; what was left out is said."""
    with console.status(f"demand of {len(panel.item_ids)} items at every price"):
        options = policy.price_options(panel, arguments.guardrails, arguments.assumed_cost_share, length)
    left_out = len(panel.item_ids) - len(options)
    if left_out:
        console.print(f"{left_out} items without a price or with fewer than two observed periods keep what they have")
    return options


def measure_truth(log: SimulatedLog, options: PriceOptions, console: Console) -> PlanTerms:
    """What the market's truth says of every candidate price."""
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("the market's truth", total=options.prices.shape[1])
        return true_terms(log, options, on_price=partial(progress.advance, bar))


def write_points(folder: Path, found: FrontComparison) -> None:
    """front.csv and front.json: the same points, each with who says so."""
    views = {"believed": found.believed, "achieved": found.achieved, "possible": found.possible}
    table = pd.concat([points.assign(view=view) for view, points in views.items() if points is not None])
    table = table[["view", *(column for column in table if column != "view")]]
    table.to_csv(folder / "front.csv", index=False, float_format="%.6g")
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    (folder / "front.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def result_rows(found: FrontComparison, task: str, count: int, seed: int) -> list[ResultRow]:
    """By sweep: the highest margin against current prices, and by the truth how far the points lie off the front."""
    rows = []
    for sweep, points in found.believed[found.believed["kind"] == "planned"].groupby("sweep", sort=False):
        name, views = f"{task}_{sweep}", {"believed": points}
        if found.achieved is not None:
            views["achieved"] = found.achieved.loc[points.index]
            lost = views["achieved"]["margin_lost"].dropna()
            if len(lost):
                rows.append(ResultRow("margin_lost", float(lost.mean()), "achieved", name, n=len(lost), seed=seed))
        for view, table in views.items():
            most = float(table["margin_change"].max())
            rows.append(ResultRow("margin_change", most, view, name, n=count, seed=seed))
    return rows


def print_points(found: FrontComparison, console: Console) -> None:
    """One table per sweep, one line per point, relative to current prices."""
    for sweep, points in found.believed.groupby("sweep", sort=False):
        other = AXIS_OF[str(sweep)][0]
        table = Table(title=f"margin against {OBJECTIVES[str(sweep)]}", title_justify="left", box=None, padding=(0, 1))
        heads = ["weight", "margin", other, "prices changed", "beaten"]
        heads += [f"true {heads[1]}", f"true {other}", "off the front"] if found.achieved is not None else []
        for head in heads:
            table.add_column(head.replace("_change", ""), justify="right")
        true = [] if found.achieved is None else found.achieved[found.achieved["sweep"] == sweep].to_dict("records")
        for place, row in enumerate(points.to_dict("records")):
            cells = [f"{row['weight']:g}" if row["kind"] == "planned" else str(row["kind"])]
            cells += [f"{row['margin_change']:+.1%}", f"{row[other]:+.1%}", f"{row['changed']:.0%}"]
            cells += ["yes" if row["dominated"] else ""]
            if true:
                lost = true[place]["margin_lost"]
                cells += [f"{true[place][name]:+.1%}" for name in ("margin_change", other)]
                cells += [f"{lost:.1%}" if np.isfinite(lost) else "beyond"]
            table.add_row(*cells)
        console.print(table)
    console.print(
        "Against current prices; surplus in shares of current revenue. Off the front: margin that the best prices "
        "bring more with at least as much of the other, share of the current margin.",
        highlight=False,
    )


if __name__ == "__main__":
    run_recipe(main)
