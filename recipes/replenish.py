"""What to charge and how much to order: price and order quantity of every item, chosen together, as a table.

Examples:
    python recipes/replenish.py --base model_cards/pricing-fm-nano --panel sales.csv --schema schema.yaml \
        --on_hand stock.csv --lead_time 1 --review_periods 2 --output_dir outputs/orders
    python recipes/replenish.py --base model_cards/pricing-fm-nano --market retail --salvage_value 0 --lead_time 1 \
        --num_markets 2 --output_dir outputs/orders
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from pricing_fm.evaluation.market import MarketArguments, simulate_evaluation_market
from pricing_fm.markets.core import get_inventory
from pricing_fm.panel import Panel, load_panel, read_companion
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.recommend import CAUTION
from pricing_fm.policy.replenishment import StockArguments
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import DataSource, ResultRow, build_results, write_results

SHOWN = 40  # lines of the printed table; the file holds all
LONGEST_NAME = 20  # of an item in the table; the end tells more than the start
COVER = 1.5  # weeks of mean sales on hand where a simulated market keeps no stock


@dataclass(frozen=True)
class ReplenishArguments:
    """Whose prices and orders."""

    base: str = field(metadata={"help": "Folder or Hub repository of the base."})
    output_dir: str = field(metadata={"help": "Folder of orders.csv and results.json."})
    adapter: tuple[str, ...] = field(
        default=(), metadata={"help": "Adapter folders or repositories, one per category; none = the base alone."}
    )
    panel: str | None = field(default=None, metadata={"help": "Sales log: path or Hub dataset id."})
    schema: str | None = field(default=None, metadata={"help": "Schema of the panel."})
    category: str = field(default="all", metadata={"help": "Only this category (exact value), or all."})
    market: Literal["retail"] | None = field(
        default=None, metadata={"help": "Try it on a simulated market; what is on its shelves is on hand."}
    )
    on_hand: str | None = field(
        default=None,
        metadata={
            "help": "CSV, one row per item: item_id (or the columns that the schema joins to it), inventory (units on "
            "hand now) and, if anything is, on_order (units on their way); default: what the log says."
        },
    )
    guardrails: str | None = field(default=None, metadata={"help": "Rules for the prices (YAML or JSON)."})
    assumed_cost_share: float | None = field(
        default=None, metadata={"help": "Unit cost over current price where no cost is logged."}
    )
    seed: int = field(default=0, metadata={"help": "Recorded in result rows: nothing is drawn anew."})

    def __post_init__(self) -> None:
        if (self.panel is None) == (self.market is None):
            raise ValueError("pass either --panel or --market, and not both")


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    arguments, market, stock = read_recipe((ReplenishArguments, MarketArguments, StockArguments), argv, __doc__)
    console, folder = Console(), Path(arguments.output_dir)
    policy = PricingPolicy.from_pretrained(arguments.base)
    for adapter in arguments.adapter:
        policy.load_adapter(adapter)
    panel, on_hand = read_items(arguments, market)
    with console.status(f"price and order of {len(panel.item_ids)} items"):
        table = policy.replenish(panel, stock, on_hand, arguments.guardrails, arguments.assumed_cost_share)
    left_out = len(panel.item_ids) - len(table)
    if left_out:
        console.print(f"{left_out} items without a price or with fewer than two observed periods are left out")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "orders.csv", index=False, float_format="%.6g")
    save_recipe(folder, (arguments, market, stock))
    ways = {"joint": "profit", "separate": "separate_profit", "kept": "kept_profit"}
    rows = [
        ResultRow("expected_profit", float(table[name].sum()), way, panel.name, n=len(table), seed=arguments.seed)
        for way, name in ways.items()
    ]
    write_results(folder, build_results("replenish", [DataSource(panel.name, panel.fingerprint())], rows))
    print_orders(table, stock, console)
    console.print(f"{folder / 'orders.csv'}", highlight=False)
    return table


def read_items(arguments: ReplenishArguments, market: MarketArguments) -> tuple[Panel, pd.DataFrame | None]:
    """The log and, if one is given, the stock."""
    # Ids are text, as in the log: 0042 keeps its zeros.
    on_hand = None if arguments.on_hand is None else pd.read_csv(arguments.on_hand, dtype=str)
    if arguments.market is None:
        whole = load_panel(str(arguments.panel), schema=arguments.schema)
        if arguments.category == "all":
            return whole, on_hand
        panel = whole.select_category(arguments.category)
        if on_hand is not None:  # of the whole shop: rows of other categories are none of this one's business
            on_hand = read_companion(whole, on_hand)
            elsewhere = set(whole.item_ids) - set(panel.item_ids)
            on_hand = on_hand[~on_hand["item_id"].isin(elsewhere)]
        return panel, on_hand
    log, panel = simulate_evaluation_market(market)
    if on_hand is None:
        shelf = np.ravel(get_inventory(log.parameters, log.state))
        usual = COVER * panel.frame.groupby("item_id")["units"].mean().reindex(log.items["item_id"]).to_numpy()
        stock = np.where(np.isfinite(shelf), shelf, np.round(usual))
        on_hand = pd.DataFrame({"item_id": log.items["item_id"], "inventory": stock})
    return panel, on_hand


def print_orders(table: pd.DataFrame, stock: StockArguments, console: Console) -> None:
    """One line per item, and what the order of deciding makes of the total."""
    shown = Table(title=f"Price and order for {stock.periods} periods", title_justify="left", box=None, padding=(0, 1))
    heads = ["item", "stock", "now", "price", "order", "served", "mean\nprofit", "price\nfirst", "now\nkept"]
    heads += ["cautious\ngain"]
    for place, head in enumerate(heads):
        shown.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in table.head(SHOWN).to_dict("records"):
        name = str(row["item_id"])
        shown.add_row(
            name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}",
            f"{row['on_hand'] + row['on_order']:g}",
            f"{row['current_price']:.2f}",
            f"[bold]{row['price']:.2f}[/]",
            f"[bold]{row['order']:g}[/]",
            f"{row['service']:.0%}",
            *(f"{row[name]:.0f}" for name in ("profit", "separate_profit", "kept_profit", "cautious_gain")),
        )
    console.print(shown)
    if len(table) > SHOWN:
        console.print(f"... and {len(table) - SHOWN} more items in the file")
    joint, separate, kept, gain = table[["profit", "separate_profit", "kept_profit", "cautious_gain"]].sum()
    console.print(
        f"Stock: on hand and on order. Served: chance that all demand is. Mean profit {joint:.2f}; {separate:.2f} if "
        f"the price is chosen before the order, {kept:.2f} at current prices with the best orders. Prices are chosen "
        f"by the cautious gain over the current price ({gain:.2f} in all): its mean less {CAUTION:g} standard "
        "deviations of what the model thinks possible, so a price with a higher mean profit may be passed over.",
        highlight=False,
    )


if __name__ == "__main__":
    run_recipe(main)
