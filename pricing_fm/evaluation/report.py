"""One self-contained HTML page for people: forecasts, what price does to demand, which prices to set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pricing_fm.evaluation import figures
from pricing_fm.evaluation.forecasting import ForecastEvaluation
from pricing_fm.evaluation.pricing import PricingEvaluation
from pricing_fm.evaluation.report_sections import ReportContent, Section, build_sections, forecast_rows, policy_table
from pricing_fm.evaluation.scores import build_score_table
from pricing_fm.panel.panel import Panel
from pricing_fm.results import ResultRow

TEMPLATE = "report.html.j2"
REPORT = "report.html"

GLOSSARY = (
    ("Weighted quantile loss (WQL)", "How far the whole forecast (not only its middle) is from what was sold, "
     "relative to sales. 0 is perfect; a model with 0.20 makes a quarter less error than one with 0.267."),
    ("MASE", "Error of the middle forecast relative to the error of repeating an earlier period. Below 1 is better "
     "than repeating."),
    ("80 % coverage", "How often sales fell inside the band that should hold them 80 % of the time. Lower means too "
     "confident, higher too cautious."),
    ("WAPE", "Sum of the errors of the expected value, as a share of all sales."),
    ("95 % interval", "Where the number would lie if other products and other weeks had been drawn. When two "
     "intervals overlap widely the difference may be chance."),
    ("Price cuts, regular price", "Loss in periods sold at least 5 % below the list price (or the usual price, where "
     "no list price is known), and in all others."),
    ("Elasticity", "Percent of demand gained when the price rises by one percent. -2 means: 1 % dearer, 2 % fewer "
     "units."),
    ("Supported price", "A price close to what was charged before. Beyond it the curve is an extrapolation."),
    ("Cautious value", "Nine times out of ten the outcome of an item should be at least this much."),
    ("Share of the gap closed", "0 % earns what the manager's prices earned, 100 % what the best possible prices would "
     "have earned. Only a simulated market can tell, because only there the best prices are known."),
)  # fmt: skip


def write_forecast_report(
    folder: Path,
    rows: Sequence[ResultRow],
    found: ForecastEvaluation,
    panel: Panel,
    curves: pd.DataFrame | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """The report of a forecast evaluation.

    Args:
        folder (`Path`): Where to; created.
        rows (`Sequence[ResultRow]`): Measured numbers.
        found (`ForecastEvaluation`): What was run.
        panel (`Panel`): What it ran on.
        curves (`pd.DataFrame`, *optional*): Answer of `demand_curve` for some items.
        warnings (`Sequence[str]`): What speaks against the numbers, for the head of the page.

    Returns:
        `Path`: The page.
    """
    stamps = panel.frame["timestamp"]
    facts = (
        ("data", panel.name),
        ("period", f"{stamps.min():%d %b %Y} to {panel.last_observed:%d %b %Y}"),
        ("items", f"{len(panel.item_ids):,}"),
        ("steps forecast", str(int(found.steps["step"].max()) + 1)),
        *(("warning", line) for line in warnings),
    )
    content = ReportContent(
        title=f"Forecasts of {panel.name}",
        facts=facts,
        rows=rows,
        windows=found.windows,
        steps=found.steps,
        history=panel.frame,
        curves=curves,
    )
    return write_report(folder, content)


def write_pricing_report(folder: Path, found: PricingEvaluation) -> Path:
    """The report of policies in a market whose demand is known.

    Args:
        folder (`Path`): Where to; created.
        found (`PricingEvaluation`): What was run.

    Returns:
        `Path`: The page.
    """
    items, categories = found.items["item_id"].nunique(), found.items["category"].nunique()
    facts = (("task", found.rows[0].task), ("items", f"{items:,}"), ("categories", f"{categories:,}"))
    return write_report(folder, ReportContent("Prices in a simulated market", facts, found.rows))


@dataclass(frozen=True)
class Page:
    """What a report page holds.

    Args:
        title (`str`): Headline.
        facts (`Sequence[tuple[str, str]]`): Label and value below the headline.
        summary (`Sequence[str]`): Sentences for who reads no further.
        sections (`Sequence[Section]`): Parts of the page.
        glossary (`Sequence[tuple[str, str]]`): Word and meaning.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    summary: Sequence[str]
    sections: Sequence[Section]
    glossary: Sequence[tuple[str, str]]


def write_report(folder: Path, content: ReportContent) -> Path:
    """Writes `report.html` and the figures as PNG files beside it.

    Args:
        folder (`Path`): Where to; created.
        content (`ReportContent`): What to show.

    Returns:
        `Path`: The page. It holds its figures itself and needs no other file and no network.
    """
    summary = [*_summarise_forecasts(content), *_summarise_policies(content), *_summarise_prices(content)]
    return write_page(folder, Page(content.title, content.facts, summary, build_sections(content), GLOSSARY))


def write_page(folder: Path, page: Page) -> Path:
    """Writes `report.html` and the figures of its sections as PNG files beside it.

    Args:
        folder (`Path`): Where to; created.
        page (`Page`): What to show.

    Returns:
        `Path`: The page. It holds its figures itself and needs no other file and no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for section in page.sections:
        for figure in section.figures:
            (folder / f"{figure.name}.png").write_bytes(figures.render_png(figure.figure))
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = environment.get_template(TEMPLATE).render(
        title=page.title, facts=page.facts, summary=page.summary, sections=page.sections, glossary=page.glossary
    )
    path = folder / REPORT
    path.write_text(text, encoding="utf-8")
    return path


def _summarise_forecasts(content: ReportContent) -> list[str]:
    rows = forecast_rows(content)
    if not any(row.name == "wql" for row in rows):
        return []
    means = build_score_table(rows)["wql"].sort_values()
    best = str(means.index[0])
    line = f"Best forecast: {figures.readable_name(best)}, with a weighted quantile loss of {means.iloc[0]:.3f}"
    if len(means) > 1:
        line += f"; next is {figures.readable_name(str(means.index[1]))} with {means.iloc[1]:.3f}"
    lines = [f"{line}."]
    ours = [name for name in content.ours if name in means and name != best]
    lines += [
        f"{figures.readable_name(name)} is at {means[name]:.3f}, {means[name] / means.iloc[0] - 1:.0%} above the best."
        for name in ours
    ]
    return lines


def _summarise_policies(content: ReportContent) -> list[str]:
    table = policy_table(content)
    if table.empty:
        return []
    rules = table[~table["model"].isin(["manager", "oracle", "oracle_constant"])].sort_values("value", ascending=False)
    if rules.empty:
        return []
    best = rules.iloc[0]
    return [
        f"In the simulated market {figures.readable_name(best['model'])} closes {best['value']:.0%} of the gap between "
        f"the manager's prices and the best possible ones."
    ]


def _summarise_prices(content: ReportContent) -> list[str]:
    table = content.recommendations
    if table is None or table.empty:
        return []
    change = (table["price"] / table["current_price"] - 1.0).to_numpy()
    moved = np.abs(change) > 1e-9
    line = f"{int(moved.sum()):,} of {len(table):,} items get another price"
    if moved.any():
        up, down = int((change > 1e-9).sum()), int((change < -1e-9).sum())
        line += f" ({up:,} up, {down:,} down; median change of those {np.median(np.abs(change[moved])):.1%})"
    return [f"{line}; {int(table['supported'].astype(bool).sum()):,} prices are close to what was charged before."]
