"""The report is one file that shows what was measured, marks the best, and invents nothing."""

import base64
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.evaluation.baselines import LastValue, RecentQuantiles, SeasonalNaive
from pricing_fm.evaluation.figures import plot_accuracy, plot_calibration, plot_examples, plot_gap_closed, render_png
from pricing_fm.evaluation.forecasting import ForecastEvaluation, evaluate_forecasters
from pricing_fm.evaluation.report import write_forecast_report, write_report
from pricing_fm.evaluation.report_sections import ReportContent, build_sections
from pricing_fm.evaluation.tasks import QUANTILE_LEVELS, ForecastTask
from pricing_fm.panel.panel import Panel
from pricing_fm.results import ResultRow
from tests.test_evaluation_tasks import weekly_panel

PNG = b"\x89PNG\r\n\x1a\n"
GAPS = {"manager": 0.0, "oracle": 1.0, "base_plan": 0.62, "cost_plus": -0.21}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return weekly_panel(weeks=80)


@pytest.fixture(scope="module")
def found(panel: Panel) -> ForecastEvaluation:
    task = ForecastTask("weekly_W", panel, 4, (4, 8))
    return evaluate_forecasters(
        task, [replace(RecentQuantiles(), name="pricing_fm")], [SeasonalNaive(), LastValue()], show_progress=False
    )


def demand_curves(items: int = 3) -> pd.DataFrame:
    rows = [
        {
            "item_id": f"item <{item}>", "timestamp": pd.Timestamp("2022-01-03"), "price_multiplier": multiplier,
            "price": 4.0 * multiplier, "mean": 50.0 * multiplier**-2, "0.1": 30.0 * multiplier**-2,
            "0.9": 80.0 * multiplier**-2, "elasticity": -2.0, "elasticity_lower": -2.5, "elasticity_upper": -1.5,
            "supported": multiplier < 1.2,
        }
        for item in range(items)
        for multiplier in (0.8, 1.0, 1.2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def recommendations(items: int = 3, objective: str = "margin") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": [f"item {item}" for item in range(items)],
            "current_price": 4.0,
            "price": [4.0, 3.6, 4.4, *[4.0] * items][:items],
            "expected_units": 120.0,
            "expected_margin": 140.0,
            "expected_margin_lower": 90.0,
            "objective": objective,
            "supported": [True, True, False, *[True] * items][:items],
            "ignores_substitution": True,
            "explanation": "a <b>reason</b> & more",
        }
    )


def gap_rows() -> list[ResultRow]:
    return [
        ResultRow("gap_closed", value, model, "retail_26w", lower=value - 0.1, upper=value + 0.1, n=8)
        for model, value in GAPS.items()
    ]


def test_the_page_holds_every_part_and_needs_no_other_file(
    tmp_path: Path, panel: Panel, found: ForecastEvaluation
) -> None:
    content = ReportContent(
        title="Prices of <shop>",
        facts=(("data", "weekly"),),
        rows=(*found.rows, *gap_rows()),
        windows=found.windows,
        steps=found.steps,
        history=panel.frame,
        curves=demand_curves(),
        recommendations=recommendations(),
        notes=("Costs are assumed.",),
    )
    page = write_report(tmp_path / "new folder", content).read_text(encoding="utf-8")
    files = {path.name for path in (tmp_path / "new folder").iterdir()}
    pictures = {"forecast_accuracy", "calibration", "forecast_examples", "demand_curves", "gap_closed"}
    assert files == {"report.html", *(f"{name}.png" for name in pictures)}
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(embedded) == len(pictures)
    assert all(base64.b64decode(text).startswith(PNG) for text in embedded)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "Prices of &lt;shop&gt;" in page
    assert "a &lt;b&gt;reason&lt;/b&gt; &amp; more" in page
    assert "Costs are assumed." in page
    assert "closes 62% of the gap" in page
    assert "2 of 3 items get another price (1 up, 1 down" in page


def test_parts_without_data_are_left_out(tmp_path: Path, found: ForecastEvaluation) -> None:
    assert [section.title for section in build_sections(ReportContent("empty"))] == []
    assert "<img" not in write_report(tmp_path, ReportContent("empty")).read_text(encoding="utf-8")
    only_rows = build_sections(ReportContent("rows", rows=found.rows))
    assert [len(section.figures) for section in only_rows] == [1]
    only_gaps = build_sections(ReportContent("gaps", rows=gap_rows()))
    assert [section.figures[0].name for section in only_gaps] == ["gap_closed"]
    assert build_sections(ReportContent("gaps", rows=gap_rows()[:2])) == []


def test_the_best_of_each_column_is_bold_and_ours_is_marked(found: ForecastEvaluation) -> None:
    table = build_sections(ReportContent("rows", rows=found.rows))[0].table
    assert table is not None
    titles = [column.title for column in table.columns]
    by_model = {row.cells[0].text: row for row in table.rows}
    assert [row.is_ours for row in by_model.values()] == [name == "pricing_fm" for name in by_model]
    wql = {row.model: row.value for row in found.rows if row.name == "wql" and row.window == 0}
    column = titles.index("WQL origin 0")
    bold = [name for name, row in by_model.items() if row.cells[column].is_best]
    assert bold == [min(wql, key=lambda model: wql[model]).replace("_", " ").replace("pricing fm", "pricing_fm")]
    assert by_model["seasonal naive"].cells[column].text == f"{wql['seasonal_naive']:.3f}"
    seconds = titles.index("training s")
    assert not any(row.cells[seconds].is_best for row in by_model.values())


def test_revenue_is_called_revenue_and_a_kept_price_kept() -> None:
    section = build_sections(ReportContent("prices", recommendations=recommendations(objective="revenue")))[0]
    assert section.table is not None
    titles = [column.title for column in section.table.columns]
    assert "expected revenue" in titles
    assert not any("margin" in title for title in titles)
    changes = [row.cells[titles.index("change")].text for row in section.table.rows]
    assert sorted(changes) == ["+10.0%", "-10.0%", "keep"]
    assert any("neighbours" in note for note in section.notes)


def test_a_long_price_list_shows_the_largest_changes_and_says_so() -> None:
    table = recommendations(items=200)
    table.loc[150, "price"] = 8.0
    section = build_sections(ReportContent("prices", recommendations=table))[0]
    assert section.table is not None
    assert section.table.rows[0].cells[0].text == "item 150"
    assert len(section.table.rows) == 60
    assert "60 largest changes of 200" in section.notes[0]


def test_calibration_leaves_point_forecasts_out_and_names_them(found: ForecastEvaluation) -> None:
    axes = plot_calibration(found.steps, QUANTILE_LEVELS, ("pricing_fm",)).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["as promised", "pricing_fm"]
    assert "seasonal naive" in axes.get_title(loc="left")
    drawn = axes.lines[1].get_ydata()
    part = found.steps[(found.steps["model"] == "pricing_fm") & found.steps["scored"]]
    np.testing.assert_allclose(drawn, [(part["units"] <= part[str(level)]).mean() for level in QUANTILE_LEVELS])


def test_labels_of_the_figures_lie_inside_the_figure(found: ForecastEvaluation) -> None:
    wql = [row for row in found.rows if row.name == "wql"]
    bars = pd.DataFrame(
        {
            "model": [row.model for row in wql],
            "origin": [f"from 0{row.window} Jan 2022" for row in wql],
            "value": [row.value for row in wql],
            "lower": [row.lower for row in wql],
            "upper": [row.upper for row in wql],
        }
    )
    gaps = pd.DataFrame({"model": list(GAPS), "value": list(GAPS.values()), "lower": np.nan, "upper": np.nan})
    for figure in (plot_accuracy(bars, ("pricing_fm",)), plot_gap_closed(gaps)):
        assert render_png(figure).startswith(PNG)
        frame = figure.bbox
        for axes in figure.axes:
            for text in axes.texts:
                box = text.get_window_extent()
                assert frame.x0 <= box.x0 < box.x1 <= frame.x1, text.get_text()


def test_examples_show_the_whole_forecast_and_end_with_it(panel: Panel, found: ForecastEvaluation) -> None:
    figure = plot_examples(found.steps, panel.frame, "pricing_fm", window=1)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert [title.split(":")[0] for title in titles] == ["best", "median", "worst"]
    item = titles[0].split(": ")[1]
    part = found.steps[(found.steps["window"] == 1) & (found.steps["item_id"] == item)]
    forecast, sold = figure.axes[0].lines[:2]
    assert len(forecast.get_xdata()) == 4
    last_drawn = pd.to_datetime(sold.get_xdata()).max()
    assert last_drawn == part["timestamp"].max() < panel.frame[names.TIMESTAMP].max()


def test_examples_are_found_although_all_that_sells_well_was_once_sold_out(
    panel: Panel, found: ForecastEvaluation
) -> None:
    steps = found.steps[found.steps["window"] == 0].copy()
    slowest = steps.groupby("item_id")["units"].sum().idxmin()
    last = steps["timestamp"] == steps["timestamp"].max()
    steps.loc[last & (steps["item_id"] != slowest), "scored"] = False
    titles = [axes.get_title(loc="left") for axes in plot_examples(steps, panel.frame, "pricing_fm").axes]
    shown = dict(title.split(": ") for title in titles if title)
    assert "best" in shown
    assert slowest not in shown.values()


def test_the_forecast_report_names_data_and_period(tmp_path: Path, panel: Panel, found: ForecastEvaluation) -> None:
    page = write_forecast_report(tmp_path, found.rows, found, panel, demand_curves()).read_text(encoding="utf-8")
    assert f"{panel.last_observed:%d %b %Y}" in page
    assert f"from {found.windows['origin'][0]:%d %b %Y}" in page
    assert "item &lt;0&gt;" not in page  # labels inside figures are pictures
    assert (tmp_path / "demand_curves.png").is_file()
