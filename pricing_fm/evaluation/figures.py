"""Figures of the report, from plain tables: forecast accuracy, calibration, examples, demand curves, policies.

Colours are those of Okabe and Ito, told apart with any kind of colour vision; ours is always the blue one.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREEN, PURPLE, RED, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A500", "#8A8A8A",
)  # fmt: skip
OTHERS = (ORANGE, GREEN, PURPLE, RED, SKY, YELLOW, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, FAINT = "#222222", "#D9D9D9"
DPI = 110
HISTORY_PERIODS = 60
NARROWEST_BAND = 0.02  # mean width of the 80 % band over mean units; below it a model makes point forecasts only
LONGEST_LABEL = 34
READABLE = {
    "pricing_fm": "pricing_fm",
    "lightgbm": "LightGBM",
    "auto_ets": "AutoETS",
    "log_log_elasticity": "log-log elasticity",
    "cost_plus": "cost-plus",
    "oracle": "best possible",
    "oracle_constant": "best constant price",
    "base_plan": "pricing_fm base",
    "adapter_forecast": "pricing_fm adapter (demand)",
    "adapter_structured": "pricing_fm adapter",
    "adapter_raw": "adapter on raw rewards",
    "adapter_cloning": "behaviour cloning",
}


def plot_accuracy(table: pd.DataFrame, ours: Sequence[str] = ()) -> Figure:
    """Bars of the weighted quantile loss by model and forecast origin, with intervals.

    Args:
        table (`pd.DataFrame`): `model, origin` (label), `value`, `lower`, `upper` (NaN = none).
        ours (`Sequence[str]`): Models drawn in the colour of this project.

    Returns:
        `Figure`: Best model on top.
    """
    order = list(table.groupby("model")["value"].mean().sort_values().index)
    origins = list(dict.fromkeys(table["origin"]))
    height = 0.8 / len(origins)
    figure = Figure(figsize=(8.0, 1.2 + 0.26 * len(origins) * len(order) + 0.15 * len(order)), layout="constrained")
    axes = figure.subplots()
    for rank, model in enumerate(order):
        colour = BLUE if model in ours else GREY
        for place, origin in enumerate(origins):
            row = table[(table["model"] == model) & (table["origin"] == origin)]
            if row.empty:
                continue
            value, low, high = (float(row[column].iloc[0]) for column in ("value", "lower", "upper"))
            y = rank + (place - (len(origins) - 1) / 2) * height
            axes.barh(y, value, height=0.86 * height, color=colour, alpha=1.0 - 0.22 * place)
            if np.isfinite(low) and np.isfinite(high):
                axes.plot([low, high], [y, y], color=INK, linewidth=1.1)
            right = high if np.isfinite(high) else value
            axes.annotate(
                f"{value:.3f}  {origin}", (right, y), xytext=(5, 0), textcoords="offset points",
                va="center", fontsize=8, color=INK,
            )  # fmt: skip
    axes.set_yticks(range(len(order)), [readable_name(model) for model in order])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.33 * float(np.nanmax(table[["value", "upper"]].to_numpy(dtype=float))))
    axes.set_xlabel("weighted quantile loss (no unit, lower is better); line = 95 % interval")
    _clean(axes, grid="none")
    return figure


def plot_calibration(steps: pd.DataFrame, quantile_levels: Sequence[float], ours: Sequence[str] = ()) -> Figure:
    """Share of periods in which sales stayed at or below each predicted quantile, against its nominal level.

    Args:
        steps (`pd.DataFrame`): `model, scored, units` and one column per quantile level, as in
            `ForecastEvaluation.steps`.
        quantile_levels (`Sequence[float]`): Levels.
        ours (`Sequence[str]`): Models drawn in the colour of this project.

    Returns:
        `Figure`: On the diagonal = calibrated. Models that only make point forecasts are left out and named.
    """
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="as promised")
    scored = steps[steps["scored"].astype(bool)]
    lowest, highest = str(quantile_levels[0]), str(quantile_levels[-1])
    points_only = []
    place = 1
    for model in sorted(scored["model"].unique(), key=lambda name: (name not in ours, name)):
        part = scored[scored["model"] == model]
        if (part[highest] - part[lowest]).mean() < NARROWEST_BAND * part["units"].mean():
            points_only.append(readable_name(model))
            continue
        below = [float((part["units"] <= part[str(level)]).mean()) for level in quantile_levels]
        colour = BLUE if model in ours else OTHERS[(place - 1) % len(OTHERS)]
        marker = MARKERS[0 if model in ours else place % len(MARKERS)]
        width = 2.2 if model in ours else 1.4
        label = readable_name(model)
        axes.plot(quantile_levels, below, color=colour, marker=marker, markersize=5, linewidth=width, label=label)
        place += model not in ours
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the predicted quantile")
    axes.set_ylabel("share of periods at or below it")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    if points_only:
        axes.set_title(f"point forecasts only, not shown: {', '.join(points_only)}", fontsize=8, loc="left", color=INK)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _clean(axes, grid="both")
    return figure


def plot_examples(steps: pd.DataFrame, history: pd.DataFrame, model: str, window: int = 0) -> Figure:
    """Forecasts beside what happened, with the price below: the best, the median and the worst item of a model.

    Args:
        steps (`pd.DataFrame`): As in `ForecastEvaluation.steps`, with levels 0.1, 0.5 and 0.9.
        history (`pd.DataFrame`): Panel rows: `item_id, timestamp, units, price`.
        model (`str`): Whose forecasts.
        window (`int`): Which origin.

    Returns:
        `Figure`: Three columns; above units, below price.
    """
    part = steps[(steps["model"] == model) & (steps["window"] == window)]
    if part["seed"].notna().any():
        part = part[part["seed"] == part["seed"].min()]
    chosen = _choose_examples(part)
    figure = Figure(figsize=(4.0 * len(chosen), 4.4), layout="constrained")
    grid = figure.subplots(2, len(chosen), sharex="col", squeeze=False, gridspec_kw={"height_ratios": [3, 1]})
    for place, (label, item) in enumerate(chosen.items()):
        forecast = part[part["item_id"] == item].sort_values("timestamp")
        rows = history[history["item_id"] == item].sort_values("timestamp")
        rows = rows[rows["timestamp"] <= forecast["timestamp"].max()].tail(HISTORY_PERIODS)
        _draw_example(grid[0, place], grid[1, place], forecast, rows)
        grid[0, place].set_title(f"{label}: {shorten(item)}", fontsize=9, loc="left")
    grid[0, 0].set_ylabel("units per period")
    grid[1, 0].set_ylabel("price (currency)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def plot_demand_curves(curves: pd.DataFrame, items: Sequence[str] | None = None, most: int = 6) -> Figure:
    """Expected units against price with the 80 % band, the current price marked.

    Args:
        curves (`pd.DataFrame`): `item_id, timestamp, price_multiplier, price, mean, "0.1", "0.9", elasticity,
            supported`, as `demand_curve` returns it; the steps of an item are averaged.
        items (`Sequence[str]`, *optional*): Which items; by default the ones that sell most.
        most (`int`): Items drawn at most.

    Returns:
        `Figure`: Small multiples; hollow points = prices the log says little about.
    """
    averages = curves.groupby(["item_id", "price_multiplier"], sort=True).agg(
        price=("price", "mean"), mean=("mean", "mean"), lower=("0.1", "mean"), upper=("0.9", "mean"),
        elasticity=("elasticity", "mean"), supported=("supported", "all"),
    ).reset_index()  # fmt: skip
    if items is None:
        items = list(averages.groupby("item_id")["mean"].mean().sort_values(ascending=False).index)
    shown = list(items)[:most]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.5 * columns, 2.7 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.ravel()):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        _draw_curve(axes, averages[averages["item_id"] == shown[place]])
        axes.set_title(shorten(shown[place]), fontsize=9, loc="left")
    figure.supylabel("units per period", fontsize=10)
    figure.supxlabel("price (currency per unit)", fontsize=10)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def plot_gap_closed(table: pd.DataFrame, ours: Sequence[str] = ()) -> Figure:
    """Bars of the share of the gap between manager and best possible price that each policy closes.

    Args:
        table (`pd.DataFrame`): `model, value, lower, upper` (NaN = none); manager and oracle are the marks, not bars.
        ours (`Sequence[str]`): Policies drawn in the colour of this project.

    Returns:
        `Figure`: Best policy on top; 0 % = the manager, 100 % = the best possible price.
    """
    ordered = table[~table["model"].isin(["manager", "oracle"])].sort_values("value", ascending=False)
    figure = Figure(figsize=(7.5, 1.1 + 0.42 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    numbers = ordered[["value", "lower", "upper"]].to_numpy(dtype=np.float64)
    for rank, (model, (value, lower, upper)) in enumerate(zip(ordered["model"], numbers)):
        axes.barh(rank, value, height=0.62, color=BLUE if model in ours else GREY)
        ends = [float(end) for end in (lower, upper) if np.isfinite(end)]
        if len(ends) == 2:
            axes.plot(ends, [rank, rank], color=INK, linewidth=1.3)
        axes.annotate(
            f"{value:.0%}", (max([float(value), 0.0, *ends]), rank), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=9, color=INK,
        )  # fmt: skip
    for mark, label in ((0.0, "manager"), (1.0, "best possible")):
        axes.axvline(mark, color=INK, linewidth=1, linestyle="-" if mark == 0 else (0, (4, 3)), zorder=0)
        axes.annotate(label, (mark, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), ha="center",
                      textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    low = min(0.0, float(np.nanmin(ordered[["value", "lower"]].to_numpy(dtype=float))))
    high = max(1.0, float(np.nanmax(ordered[["value", "upper"]].to_numpy(dtype=float))))
    axes.set_xlim(low - 0.05, high + 0.15)
    axes.set_yticks(range(len(ordered)), [readable_name(model) for model in ordered["model"]])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the gap closed; line = interval of the bootstrap")
    _clean(axes, grid="x")
    return figure


def encode_png(figure: Figure) -> str:
    """A figure as text for an HTML page.

    Args:
        figure (`Figure`): Figure.

    Returns:
        `str`: Base64 of the PNG.
    """
    return base64.b64encode(render_png(figure)).decode("ascii")


def render_png(figure: Figure) -> bytes:
    """A figure as a PNG file.

    Args:
        figure (`Figure`): Figure.

    Returns:
        `bytes`: Content of the file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def readable_name(name: str) -> str:
    """Name of a model or policy for people.

    Args:
        name (`str`): Name in result rows.

    Returns:
        `str`: Without underscores; proper names as they are written.
    """
    return READABLE.get(name, name.replace("_", " "))


def shorten(text: str) -> str:
    """A label that fits above a small figure.

    Args:
        text (`str`): Label.

    Returns:
        `str`: At most 34 characters.
    """
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _choose_examples(part: pd.DataFrame) -> dict[str, str]:
    """Items of best, median and worst relative loss among the better-selling half; small sellers are all noise."""
    scored = part[part["scored"].astype(bool)]
    sums = scored.groupby("item_id").agg(loss=("loss", "sum"), units=("units", "sum"), n=("loss", "size"))
    half = sums[sums["units"] >= sums["units"].median()]
    complete = half[half["n"] == half["n"].max()]
    ranked = list((complete["loss"] / complete["units"]).sort_values().index)
    labels = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    chosen: dict[str, str] = {}
    for label, place in labels.items():
        if str(ranked[place]) not in chosen.values():
            chosen[label] = str(ranked[place])
    return chosen


def _draw_example(units: Axes, price: Axes, forecast: pd.DataFrame, rows: pd.DataFrame) -> None:
    stamps = forecast["timestamp"]
    units.fill_between(stamps, forecast["0.1"], forecast["0.9"], color=BLUE, alpha=0.25, linewidth=0, label="80 % band")
    units.plot(stamps, forecast["0.5"], color=BLUE, linewidth=1.8, label="forecast (median)")
    units.plot(rows["timestamp"], rows["units"], color=INK, linewidth=1.1, marker=".", markersize=4, label="sold")
    units.axvline(stamps.min(), color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    units.set_ylim(bottom=0)
    price.step(rows["timestamp"], rows["price"], where="mid", color=ORANGE, linewidth=1.4)
    price.axvline(stamps.min(), color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    price.set_ylim(0, 1.15 * float(rows["price"].max()))
    locator = AutoDateLocator(minticks=3, maxticks=6)
    price.xaxis.set_major_locator(locator)
    price.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    price.yaxis.set_major_locator(MaxNLocator(3))
    for axes in (units, price):
        _clean(axes, grid="y")


def _draw_curve(axes: Axes, curve: pd.DataFrame) -> None:
    axes.fill_between(
        curve["price"], curve["lower"], curve["upper"], color=SKY, alpha=0.3, linewidth=0, label="80 % band"
    )
    axes.plot(curve["price"], curve["mean"], color=BLUE, linewidth=1.8, label="expected units")
    supported = curve["supported"].astype(bool)
    axes.plot(
        curve["price"][supported], curve["mean"][supported], "o", color=BLUE, markersize=4, label="price was tried"
    )
    axes.plot(
        curve["price"][~supported], curve["mean"][~supported], "o", markerfacecolor="white", markeredgecolor=BLUE,
        markersize=4, label="little evidence",
    )  # fmt: skip
    current = curve.iloc[int((curve["price_multiplier"] - 1.0).abs().to_numpy().argmin())]
    axes.axvline(float(current["price"]), color=ORANGE, linewidth=1.2, linestyle=(0, (4, 3)), label="current price")
    axes.annotate(
        f"elasticity {current['elasticity']:.1f}", (0.97, 0.94), xycoords="axes fraction", ha="right", va="top",
        fontsize=8, color=INK,
    )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _clean(axes, grid="y")


def _clean(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=9, color=GREY)
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        if grid in (name, "both"):
            axis.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
