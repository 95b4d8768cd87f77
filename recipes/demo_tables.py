"""The demo on the screen: how good the forecasts are, what prices earn, which prices are recommended and why."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from pricing_fm.evaluation.pricing import PricingEvaluation
from pricing_fm.panel import Panel
from pricing_fm.results import ResultRow

WORDS = {
    "seasonal_naive": "same week last year, else last week",
    "recent_quantiles": "quantiles of the last 26 weeks",
    "zero_shot": "base, as it is",
    "adapted": "base + adapter",
    "manager": "the manager goes on",
    "last_price": "last price, kept",
    "log_log_elasticity": "log-log elasticity + grid",
    "base_plan": "base, as it is",
    "adapter_structured": "base + adapter",
    "adapter_in_rules": "base + adapter, inside the rules",
    "oracle": "best prices (known to the simulator alone)",
}


CURVE = ("adapter_structured", "base_plan", "log_log_elasticity", "last_price")


def print_forecasts(rows: Sequence[ResultRow], periods: int, console: Console) -> None:
    """One line per forecaster, best first."""
    scores = pivot(rows).sort_values("wql")
    table = build_table(
        f"Forecasts of the {periods} weeks that followed", "who", "weighted quantile loss", "80 % coverage"
    )
    for model, values in scores.iterrows():
        table.add_row(WORDS[str(model)], f"{values['wql']:.3f}", f"{values['coverage_80']:.2f}")
    console.print(table)


def print_gaps(rows: Sequence[ResultRow], periods: int, console: Console) -> None:
    """One line per way of setting prices, best first."""
    scores = pivot(rows).sort_values("value", ascending=False)
    title = f"What prices held for {periods} weeks would earn"
    table = build_table(title, "who", "expected margin", "share of the gap closed")
    for model, values in scores[scores.index.isin(WORDS)].iterrows():
        table.add_row(WORDS[str(model)], f"{values['value']:,.0f}", f"{values['gap_closed']:+.0%}")
    console.print(table)


def print_curve(rows: Sequence[ResultRow], most_weeks: int, console: Console) -> None:
    """One line per way of setting prices, one column per number of visible weeks: the k-shot curve."""
    gaps = [row for row in rows if row.name == "gap_closed" and row.category is None and row.k is not None]
    frame = pd.DataFrame([(row.model, row.k, row.value) for row in gaps], columns=["model", "k", "value"])
    table = frame.pivot_table(index="model", columns="k", values="value")
    shown = table.loc[[name for name in CURVE if name in table.index]]
    shown = shown.iloc[np.argsort(-shown[most_weeks].to_numpy(), kind="stable")]
    found = build_table("The same by weeks of the category that were visible", "who", *(f"{k}" for k in shown.columns))
    for model, values in shown.iterrows():
        found.add_row(WORDS[str(model)], *(f"{value:+.0%}" for value in values))
    console.print(found)


def print_recommendations(
    recommendations: pd.DataFrame, curves: pd.DataFrame, prices: PricingEvaluation, visible: Panel, console: Console
) -> None:
    """One line per item: prices, margin, elasticity, the demand curve around today's price, and the reason."""
    keyed = curves.set_index("item_id")
    today = keyed[keyed["price_multiplier"] == 1.0].groupby("item_id").mean(numeric_only=True)
    units = curves.groupby(["item_id", "price_multiplier"])["mean"].sum().unstack()
    items = recommendations.set_index("item_id").join(today[["elasticity", "elasticity_lower", "elasticity_upper"]])
    items["curve"] = [f"{low:.0f} {mid:.0f} {high:.0f}" for low, mid, high in units[[0.9, 1.0, 1.1]].to_numpy()]
    items["best"] = prices.items[prices.items["policy"] == "oracle_constant"].set_index("item_id")["price"]
    cost = visible.frame.groupby("item_id")["cost"].last()
    items["kept_margin"] = units[1.0] * (items["current_price"] - cost)
    table = build_table(
        "Recommended prices and what to expect of them",
        "item", "now", "price", "best*", "margin", "lower", "elasticity (80 %)", "units at -10,\n0, +10 %", "why",
    )  # fmt: skip
    table.columns[-1].justify = "left"
    for row in items.reset_index().to_dict("records"):
        table.add_row(
            row["item_id"].split("|")[0].rsplit("-", 1)[-1],
            f"{row['current_price']:.2f}",
            f"[bold]{row['price']:.2f}[/]",
            f"{row['best']:.2f}",
            f"{row['expected_margin']:.0f}",
            f"{row['expected_margin_lower']:.0f}",
            f"{row['elasticity']:.1f} ({row['elasticity_lower']:.1f} to {row['elasticity_upper']:.1f})",
            row["curve"],
            give_reason(row),
        )
    console.print(table)
    console.print("lower: exceeded 9 times in 10, says the model. * Hidden from every policy.", highlight=False)


def give_reason(row: dict[Any, Any]) -> str:
    """The recommendation's explanation in a few words; the whole of it stands in recommendations.csv."""
    if row["fallback"]:
        return "keep: too little history"
    move, gain = row["price"] / row["current_price"] - 1, row["expected_margin"] / row["kept_margin"] - 1
    words = [f"price {move:+.1%}, margin {gain:+.1%}" if abs(move) > 1e-9 else "keep"]
    words += [] if row["supported"] else ["outside what was tried"]
    words += [row["binding_rule"].replace("_", " ")] if row["binding_rule"] else []
    return "; ".join(words)


def pivot(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Models x metrics, overall rows only."""
    frame = pd.DataFrame([vars(row) for row in rows if row.category is None])
    return frame.pivot_table(index="model", columns="name", values="value")


def build_table(title: str, *heads: str) -> Table:
    """An empty table: words left, numbers right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    return table
