"""A simulated log on disk: panel, truth in a table of its own, schema, price coverage and dataset card.

The folder is a data set of the Hugging Face Hub as it is: `datasets.load_dataset(folder, "panel")` reads the panel,
`"truth"` the truth.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import yaml

from pricing_fm import names
from pricing_fm.markets.coverage import compute_price_coverage
from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.markets.payoffs import Margin

_SCHEMA = (
    *(names.ITEM_ID, names.TIMESTAMP, names.UNITS, names.PRICE, names.CATEGORY, names.PRODUCT_ID, names.LOCATION_ID),
    *(names.LIST_PRICE, names.COST, names.INVENTORY, names.PRICE_IS_INTERVENTION, "promotion"),
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_dataset(log: SimulatedLog, output_dir: Path, title: str, command: str) -> None:
    """Write `panel.parquet`, `truth.parquet`, `schema.yaml`, `coverage.json` and the card `README.md`.

    Args:
        log: The simulated log.
        output_dir: Folder to write into; made if absent, files of these names are replaced.
        title: Name of the data set on its card.
        command: Command line that makes the same data set again, for the card.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    log.panel.to_parquet(output_dir / "panel.parquet", index=False)
    log.truth.to_parquet(output_dir / "truth.parquet", index=False)
    schema = yaml.safe_dump(build_schema(log), sort_keys=False)
    (output_dir / "schema.yaml").write_text(schema, encoding="utf-8")
    coverage = compute_price_coverage(log)
    rows = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in coverage.to_dict("records")
    ]
    (output_dir / "coverage.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (output_dir / "README.md").write_text(render_dataset_card(log, coverage, title, command), encoding="utf-8")


def build_schema(log: SimulatedLog) -> dict[str, str]:
    """The panel's schema: every panel column that the log has, under its own name, and its frequency."""
    panel = log.panel
    schema = {name: name for name in _SCHEMA if name in panel} | {"frequency": log.settings.cadence}
    later = (names.SEGMENT, names.COMPETITOR_PRICE, names.SUBSTITUTE_GROUP)
    return schema | {name: name for name in later if name in panel}


def render_dataset_card(log: SimulatedLog, coverage: pd.DataFrame, title: str, command: str) -> str:
    """Dataset card with Hub front matter; every number on it is counted from the log.

    Args:
        log: The simulated log.
        coverage: What `compute_price_coverage` makes of it.
        title: Name of the data set.
        command: Command line that makes the same data set again.

    Returns:
        Markdown text.
    """
    panel, market, settings = log.panel, log.parameters, log.settings
    front = {
        "license": "apache-2.0",
        "pretty_name": title,
        "task_categories": ["time-series-forecasting", "tabular-regression"],
        "tags": ["pricing", "demand", "simulated", "causal-inference"],
        "size_categories": [next((text for limit, text in _SIZES if len(panel) < limit), "n>1M")],
        "configs": [
            {"config_name": "panel", "data_files": "panel.parquet", "default": True},
            {"config_name": "truth", "data_files": "truth.parquet"},
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {title}",
        "",
        f"Sales of simulated markets, {market.domain}/{market.family}, whose demand curves are known. A unit is"
        f" {log.domain.unit}. Made by",
        "",
        f"    {command}",
        "",
        f"{len(panel):,} rows: {log.num_items:,} items in {panel[names.CATEGORY].nunique()} categories,"
        f" {settings.num_periods} periods ({settings.cadence}) from {settings.first_day:%Y-%m-%d}.",
        "",
        *_render_files(log),
        "",
        "## The market",
        "",
        *_render_parts(log),
        "",
        "## Who set the prices",
        "",
        *_render_coverage(coverage),
        "",
        "## Limits",
        "",
        *_render_limits(log),
        "",
    ]
    return "\n".join(lines)


def _render_files(log: SimulatedLog) -> list[str]:
    stock = "; `units` are sales, cut off by `inventory` where it is limited" if log.parameters.supply else ""
    rival = "; `competitor_price` is the rival's price as reported, late or missing now and then"
    return [
        "| file | what it holds |",
        "|---|---|",
        f"| `panel.parquet` | the log in panel columns{stock}{rival if log.parameters.rivals else ''} |",
        "| `truth.parquet` | row for row: mean demand, elasticity (positive), optimal price (missing where it has no"
        " closed form), hidden shock, manager, confounding |",
        "| `schema.yaml` | the panel's schema |",
        "| `coverage.json` | how much of the price axis each manager has seen |",
        "",
        '`datasets.load_dataset(folder, "panel")` and `"truth"` read the two tables.',
        "",
        "`price_is_intervention` marks prices drawn at random whatever the manager did before; `propensity` is the"
        " probability of a price given all that the manager knew, hidden demand included.",
    ]


def _render_parts(log: SimulatedLog) -> list[str]:
    """One line per part, in its own words."""
    lines = ["| part | kind | what it does |", "|---|---|---|"]
    for name, part in log.parameters.parts.items():
        summary = (type(part).__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(f"| {name} | {type(part).__name__} | {' '.join(summary.split())} |")
    return lines


def _render_coverage(coverage: pd.DataFrame) -> list[str]:
    lines = [
        "| manager | rows | price / list price, 5 to 95 % | below list | promoted | sold out | rungs tried"
        " | distinct prices | price episodes | propensity | certain | price and hidden demand |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in coverage.to_dict("records"):
        correlation, sold_out = row["hidden_correlation"], row["sold_out"]
        lines.append(
            f"| {row['manager']} | {row['rows']:,} | {row['multiple_low']:.2f} to {row['multiple_high']:.2f}"
            f" | {row['below_list']:.0%} | {row['promoted']:.0%} | {'-' if math.isnan(sold_out) else f'{sold_out:.1%}'}"
            f" | {row['rungs_tried']:.0%} | {row['distinct_prices']:.0f} | {row['price_episodes']:.1f}"
            f" | {row['propensity_low']:.4f} to {row['propensity_high']:.4f} | {row['certain']:.0%}"
            f" | {'-' if math.isnan(correlation) else f'{correlation:+.2f}'} |"
        )
    return [
        *lines,
        "",
        "Rungs tried: share of the ladder's rungs an item was sold at, mean over items. Distinct prices and price"
        " episodes: medians over items; episodes are the effective number of stretches of one price, so 1 is a price"
        " that never moved. Certain: rows whose price had probability 1, from which nothing causal can be learned"
        " without assumptions. The last column is the correlation of log price over list price with hidden demand.",
    ]


def _render_limits(log: SimulatedLog) -> list[str]:
    """What this world leaves out, by what its parts are."""
    market = log.parameters
    absent = {
        "items do not take sales from each other": market.demand.is_separable,
        "customers remember nothing and do not stock up or wait": market.memory is None,
        "rivals are absent": market.rivals is None,
        "nothing limits sales": market.supply is None,
        "no demand is hidden": market.shock is None and market.regimes is None,
        "demand has no calendar": market.calendar is None,
        "promotions do nothing beyond their price": market.promotion_uplift is None,
        "costs stand still": not market.costs.is_moving and market.regimes is None,
    }
    left_out = [text for text, is_absent in absent.items() if is_absent]
    sentences = [f"Here {'; '.join(left_out)}."] if left_out else []
    if market.ends:
        sentences.append(
            f"A market lasts {market.num_periods} periods; the log holds one after the other under the same item, each"
            " with a fresh stock."
        )
    if not isinstance(market.payoff, Margin):
        sentences.append("A sale earns more or less than price minus `cost`: see the payoff above.")
    sentences.append(
        "What is there follows simple laws. A model that does well here has been shown to read this world,"
    )
    return [" ".join([*sentences, "not yours."])]
