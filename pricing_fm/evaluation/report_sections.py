"""What the report shows, part by part: plain tables in, page tables and figures out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from pricing_fm.evaluation import figures
from pricing_fm.evaluation.scores import build_score_table
from pricing_fm.results import ResultRow

MOST_PRICES = 60  # lines of the price table; the whole of it is a file of its own
SMALLEST_CHANGE = 5e-4  # of the price; less is shown as keeping it
OURS = ("pricing_fm", "base_plan", "adapter_forecast", "adapter_structured")


@dataclass(frozen=True)
class ReportContent:
    """What a report can show; a part without data is left out.

    Args:
        title (`str`): Headline.
        facts (`Sequence[tuple[str, str]]`): Label and value below the headline: data, period, model, seeds.
        rows (`Sequence[ResultRow]`): Measured numbers: forecast metrics and `gap_closed`.
        ours (`Sequence[str]`): Names of this project's models and policies, highlighted.
        windows (`pd.DataFrame`, *optional*): `ForecastEvaluation.windows`; names the forecast origins.
        steps (`pd.DataFrame`, *optional*): `ForecastEvaluation.steps`; for calibration and examples.
        history (`pd.DataFrame`, *optional*): Panel rows `item_id, timestamp, units, price`; for examples.
        curves (`pd.DataFrame`, *optional*): Answer of `demand_curve`.
        recommendations (`pd.DataFrame`, *optional*): Answer of `recommend`.
        notes (`Sequence[str]`): What a reader has to know about the numbers: assumptions, limits.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    rows: Sequence[ResultRow] = ()
    ours: Sequence[str] = OURS
    windows: pd.DataFrame | None = None
    steps: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    recommendations: pd.DataFrame | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """One cell of a table as the page shows it."""

    text: str
    is_best: bool = False
    is_text: bool = False


@dataclass(frozen=True)
class Column:
    """Head of a column."""

    title: str
    is_text: bool = False


@dataclass(frozen=True)
class TableRow:
    """One line of a table."""

    cells: tuple[Cell, ...]
    is_ours: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table as the page shows it."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class PageFigure:
    """A figure with its file name and its description for those who cannot see it."""

    name: str
    alt: str
    figure: Figure

    @property
    def png(self) -> str:
        """Base64 of the PNG."""
        return figures.encode_png(self.figure)


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    text: str
    table: PageTable | None = None
    figures: tuple[PageFigure, ...] = ()
    notes: tuple[str, ...] = ()


def build_sections(content: ReportContent) -> list[Section]:
    """Tables and figures of everything that the content has data for.

    Args:
        content (`ReportContent`): What to show.

    Returns:
        `list[Section]`: Forecasts, price and demand, prices, policies, notes.
    """
    builders: tuple[Callable[[ReportContent], Section | None], ...] = (
        _prices_section, _curves_section, _policies_section, _accuracy_section, _examples_section,
    )  # fmt: skip
    sections = [section for section in (build(content) for build in builders) if section is not None]
    if content.notes:
        sections.append(Section("What to keep in mind", content.notes[0], notes=tuple(content.notes[1:])))
    return sections


def forecast_rows(content: ReportContent) -> list[ResultRow]:
    """Forecast metrics of single windows over all categories.

    Args:
        content (`ReportContent`): What to show.

    Returns:
        `list[ResultRow]`: In the order of the content.
    """
    return [row for row in content.rows if row.window is not None and row.category is None]


def policy_table(content: ReportContent) -> pd.DataFrame:
    """Overall share of the gap closed by each policy.

    Args:
        content (`ReportContent`): What to show.

    Returns:
        `pd.DataFrame`: `model, value, lower, upper`, mean over tasks and seeds; empty without such rows.
    """
    rows = [row for row in content.rows if row.name == "gap_closed" and row.category is None]
    frame = pd.DataFrame([vars(row) for row in rows], columns=["model", "value", "lower", "upper"])
    if frame.empty:
        return frame
    frame[["lower", "upper"]] = frame[["lower", "upper"]].astype(float)
    return frame.groupby("model", sort=False).mean().reset_index()


def _origin_labels(content: ReportContent) -> dict[int, str]:
    if content.windows is None:
        return {window: f"origin {window}" for window in sorted({row.window or 0 for row in forecast_rows(content)})}
    return {
        window: f"from {pd.Timestamp(origin):%d %b %Y}"
        for window, origin in zip(content.windows["window"].astype(int), content.windows["origin"])
    }


def _accuracy_section(content: ReportContent) -> Section | None:
    rows = forecast_rows(content)
    if not any(row.name == "wql" for row in rows):
        return None
    labels = _origin_labels(content)
    bars = pd.DataFrame(
        [
            {"model": row.model, "origin": labels[row.window or 0], "value": row.value, "lower": row.lower,
             "upper": row.upper}
            for row in rows if row.name == "wql"
        ]
    )  # fmt: skip
    bars[["lower", "upper"]] = bars[["lower", "upper"]].astype(float)
    bars = bars.groupby(["model", "origin"], sort=False).mean().reset_index()
    shown = [PageFigure("forecast_accuracy", "Weighted quantile loss by model and origin",
                        figures.plot_accuracy(bars, content.ours))]  # fmt: skip
    if content.steps is not None:
        levels = [float(str(column)) for column in content.steps if _is_level(column)]
        shown.append(
            PageFigure("calibration", "Share of periods at or below each predicted quantile",
                       figures.plot_calibration(content.steps, levels, content.ours))
        )  # fmt: skip
    notes = []
    if content.windows is not None:
        counts = content.windows[["scored_steps", "sold_out_steps", "items_without_history"]].sum()
        notes.append(
            f"{counts['scored_steps']:,} item-periods were scored; {counts['sold_out_steps']:,} sold-out ones were "
            f"left out, because sales do not show demand there; {counts['items_without_history']:,} items were new at "
            f"an origin and not forecast."
        )
    return Section(
        "How good are the forecasts?",
        "Every model learned from the data before the first origin only and then forecast each of the periods below. "
        "The future price and planned promotions were known to every model that can use them. The best value of each "
        "column is bold.",
        _accuracy_table(rows, labels, content.ours),
        tuple(shown),
        tuple(notes),
    )


def _accuracy_table(rows: Sequence[ResultRow], labels: dict[int, str], ours: Sequence[str]) -> PageTable:
    scores = build_score_table(rows)
    titles = {f"wql_{window}": f"WQL {label}" for window, label in labels.items()} | {
        "wql": "WQL mean", "wql_cut": "price cuts", "wql_regular": "regular price", "mase": "MASE", "wape": "WAPE",
        "coverage_80": "80 % coverage", "train_s": "training s", "inference_s": "forecast s",
    }  # fmt: skip
    columns = [name for name in titles if name in scores]
    lines = []
    for model, values in scores[columns].to_dict("index").items():
        cells = [Cell(figures.readable_name(str(model)))]
        for name in columns:
            digits = 1 if name == "train_s" else 2 if name in ("coverage_80", "inference_s") else 3
            target = (scores[name] - 0.8).abs() if name == "coverage_80" else scores[name]
            is_best = not name.endswith("_s") and target.idxmin() == model
            cells.append(Cell(_number(values[name], digits), is_best))
        lines.append(TableRow(tuple(cells), str(model) in ours))
    return PageTable((Column("model"), *(Column(titles[name]) for name in columns)), tuple(lines))


def _examples_section(content: ReportContent) -> Section | None:
    if content.steps is None or content.history is None or not {"0.1", "0.5", "0.9"} <= set(content.steps):
        return None
    present = list(content.steps["model"].unique())
    model = next((name for name in content.ours if name in present), None)
    if model is None:
        scores = content.steps[content.steps["scored"].astype(bool)].groupby("model")["loss"].mean()
        model = str(scores.idxmin())
    figure = figures.plot_examples(content.steps, content.history, model)
    return Section(
        "What does a forecast look like?",
        f"The best, the median and the worst forecast of {figures.readable_name(model)} among the better-selling half "
        f"of the items, at the first origin. The dashed line is where the forecast starts.",
        figures=(PageFigure("forecast_examples", "Forecast examples with history and price", figure),),
    )


def _curves_section(content: ReportContent) -> Section | None:
    if content.curves is None or content.curves.empty:
        return None
    figure = figures.plot_demand_curves(content.curves)
    return Section(
        "What does the price do to demand?",
        "Expected units at prices around today's, for the items that sell most. The band holds 80 % of the outcomes of "
        "single periods. Hollow points are prices the past says little about.",
        figures=(PageFigure("demand_curves", "Demand curves with bands", figure),),
    )


def _policies_section(content: ReportContent) -> Section | None:
    table = policy_table(content)
    if table["model"].isin(["manager", "oracle"]).all():
        return None
    figure = figures.plot_gap_closed(table, content.ours)
    return Section(
        "Do the prices earn more?",
        "In a simulated market the demand at every price is known, so each way of setting prices can be compared with "
        "the manager whose log it learned from, and with the best possible prices.",
        figures=(PageFigure("gap_closed", "Share of the gap closed by policy", figure),),
    )


def _prices_section(content: ReportContent) -> Section | None:
    table = content.recommendations
    if table is None or table.empty:
        return None
    objective = str(table["objective"].iloc[0])
    money = "revenue" if objective == "revenue" else "margin"
    change = table["price"] / table["current_price"] - 1.0
    shown = table.assign(change=change).reindex(change.abs().sort_values(ascending=False, kind="stable").index)
    lines = []
    for row in shown.head(MOST_PRICES).to_dict("records"):
        texts = (
            str(row["item_id"]), f"{row['current_price']:.2f}", f"{row['price']:.2f}",
            f"{row['change']:+.1%}" if abs(row["change"]) >= SMALLEST_CHANGE else "keep",
            _number(row["expected_units"], 0), _number(row["expected_margin"], 0),
            _number(row["expected_margin_lower"], 0), "yes" if row["supported"] else "no", str(row["explanation"]),
        )  # fmt: skip
        lines.append(TableRow((*(Cell(text) for text in texts[:-1]), Cell(texts[-1], is_text=True))))
    titles = ("item", "price now", "proposed", "change", "expected units", f"expected {money}", f"cautious {money}",
              "supported")  # fmt: skip
    notes = [] if len(table) <= MOST_PRICES else [f"The {MOST_PRICES} largest changes of {len(table):,} items."]
    if "ignores_substitution" in table and bool(table["ignores_substitution"].any()):
        notes.append("Items are priced one by one: what a cheaper item takes from its neighbours is not counted.")
    return Section(
        "Which prices are proposed?",
        f"The largest changes first. The objective is {objective}; totals are over the planned periods.",
        PageTable((*(Column(title) for title in titles), Column("why", is_text=True)), tuple(lines)),
        notes=tuple(notes),
    )


def _is_level(column: object) -> bool:
    text = str(column)
    return text.startswith("0.") and text[2:].isdigit()


def _number(value: float, digits: int) -> str:
    return "–" if value is None or not math.isfinite(float(value)) else f"{float(value):,.{digits}f}"
