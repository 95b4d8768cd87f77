"""A simulated log on disk: panel, truth in a table of its own, schema and dataset card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pricing_fm import names
from pricing_fm.markets.logs import SimulatedLog

_SCHEMA = {
    **{name: name for name in (names.ITEM_ID, names.TIMESTAMP, names.UNITS, names.PRICE, names.CATEGORY)},
    **{name: name for name in (names.PRODUCT_ID, names.LOCATION_ID)},
    **{name: name for name in (names.LIST_PRICE, names.COST, names.INVENTORY, names.PRICE_IS_INTERVENTION)},
    "promotion": "promotion",
    "frequency": "W",
}


def write_dataset(log: SimulatedLog, output_dir: Path, title: str, command: str) -> None:
    """Write `panel.parquet`, `truth.parquet`, `schema.yaml` and the card `README.md`.

    Args:
        log: The simulated log.
        output_dir: Folder to write into; made if absent, files of these names are replaced.
        title: Name of the data set on its card.
        command: Command line that makes the same data set again, for the card.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    log.panel.to_parquet(output_dir / "panel.parquet", index=False)
    log.truth.to_parquet(output_dir / "truth.parquet", index=False)
    schema = _SCHEMA | ({names.SEGMENT: names.SEGMENT} if names.SEGMENT in log.panel else {})
    (output_dir / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False), encoding="utf-8")
    (output_dir / "README.md").write_text(render_dataset_card(log, title, command), encoding="utf-8")


def render_dataset_card(log: SimulatedLog, title: str, command: str) -> str:
    """Dataset card with Hub front matter; every number on it is counted from the log.

    Args:
        log: The simulated log.
        title: Name of the data set.
        command: Command line that makes the same data set again.

    Returns:
        Markdown text.
    """
    panel, truth = log.panel, log.truth
    rows = len(panel)
    size = next((f"n<{text}" if i == 0 else text for i, (limit, text) in enumerate(_SIZES) if rows < limit), "n>1M")
    front = {
        "license": "apache-2.0",
        "pretty_name": title,
        "task_categories": ["time-series-forecasting", "tabular-regression"],
        "tags": ["pricing", "demand", "simulated", "causal-inference"],
        "size_categories": [size],
    }
    families = log.parameters.family
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {title}",
        "",
        "Weekly sales of simulated retail markets whose demand curves are known. Made by",
        "",
        f"    {command}",
        "",
        f"{rows:,} rows: {log.num_items:,} items in {panel[names.CATEGORY].nunique()} categories,"
        f" {log.settings.num_periods} weeks from {log.settings.first_day:%Y-%m-%d}. Demand families: {families}.",
        "",
        "| file | what it holds |",
        "|---|---|",
        "| `panel.parquet` | the log in panel columns; `units` are sales, cut off by `inventory` where stock is kept |",
        "| `truth.parquet` | row for row: mean demand, elasticity (positive), optimal price, hidden shock, manager |",
        "| `schema.yaml` | the panel's schema |",
        "",
        "`price_is_intervention` marks prices drawn at random whatever the manager did before; `propensity` is the"
        " probability of a price given all that the manager knew, the hidden shock included.",
        "",
        "## Who set the prices",
        "",
        *_render_managers(panel, truth),
        "",
        "## Limits",
        "",
        "Items do not take sales from each other, customers do not stock up, rivals are absent. Costs and shocks follow"
        " simple laws. A model that does well here has been shown to read this world, not yours.",
        "",
    ]
    return "\n".join(lines)


_SIZES = ((1_000, "1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def _render_managers(panel: pd.DataFrame, truth: pd.DataFrame) -> list[str]:
    """Price coverage per manager, and of the randomised weeks."""
    ratio = (panel[names.PRICE] / panel[names.LIST_PRICE]).round(2)
    drawn = panel[names.PRICE_IS_INTERVENTION]
    table = pd.DataFrame(
        {
            "who": np.where(drawn, "(randomised weeks)", truth["manager"]),
            "ratio": ratio,
            "below": ratio < 0.995,
            "promotion": panel["promotion"],
            "sold_out": (panel[names.UNITS] >= panel[names.INVENTORY]).where(panel[names.INVENTORY].notna()),
            "shock": truth["hidden_shock"],
        }
    )
    lines = [
        "| manager | rows | price / list price, 5 to 95 % | below list | promoted | sold out | price and shock |",
        "|---|---|---|---|---|---|---|",
    ]
    for who, rows in table.groupby("who"):
        low, high = rows["ratio"].quantile([0.05, 0.95])
        moves = rows["ratio"].std() > 0 and rows["shock"].std() > 0
        together = f"{np.corrcoef(rows['ratio'], rows['shock'])[0, 1]:+.2f}" if moves else "-"
        stocked = rows["sold_out"].dropna().astype(float)
        sold_out = f"{100 * stocked.mean():.1f} %" if len(stocked) else "-"
        lines.append(
            f"| {who} | {len(rows):,} | {low:.2f} to {high:.2f} | {100 * rows['below'].mean():.0f} %"
            f" | {100 * rows['promotion'].mean():.0f} % | {sold_out} | {together} |"
        )
    return [*lines, "", "The last column is the correlation of the price with the hidden demand shock."]
