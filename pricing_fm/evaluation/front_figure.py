"""A figure of fronts: margin against what it is traded for, as believed and, in a simulated market, as it is."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pricing_fm.evaluation.figures import BLUE, FAINT, GREY, INK, ORANGE
from pricing_fm.evaluation.front import FrontComparison

AXIS_OF = {
    "units": ("units_change", "units against current prices"),
    "revenue": ("revenue_change", "revenue against current prices"),
    "satisfaction": ("surplus_change", "consumer surplus gained, share of current revenue"),
    "price_change": ("kept", "share of revenue whose prices stay"),
}
MARKS = {"current": ("D", "current prices"), "list": ("s", "list prices")}


def plot_fronts(found: FrontComparison, title: str) -> Figure:
    """One pane per sweep; hollow = another point of the pane is no worse in both and better in one.

    Args:
        found (`FrontComparison`): What to draw.
        title (`str`): What was priced.

    Returns:
        `Figure`: Blue = as the model believes, orange = what these prices bring by the truth, black = the true front.
    """
    sweeps = list(dict.fromkeys(found.believed["sweep"]))
    figure = Figure(figsize=(4.1 * len(sweeps), 4.1), layout="constrained")
    grid = figure.subplots(1, len(sweeps), squeeze=False)[0]
    for axes, sweep in zip(grid, sweeps, strict=True):
        column, label = AXIS_OF[sweep]
        _draw(axes, found.believed, sweep, column, BLUE, "as the model believes")
        if found.achieved is not None and found.possible is not None:
            front = found.possible[(found.possible["sweep"] == sweep) & ~found.possible["dominated"]]
            front = front.sort_values(column)
            axes.plot(front[column], front["margin_change"], color=INK, linewidth=1.4, label="best possible (truth)")
            _draw(axes, found.achieved, sweep, column, ORANGE, "what these prices bring (truth)")
        axes.set_xlabel(label, fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axis.set_major_locator(MaxNLocator(5))
            axis.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    grid[0].set_ylabel("margin against current prices", fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    if found.believed["dominated"].any() or (found.achieved is not None and found.achieved["dominated"].any()):
        grid[0].plot(
            [], [], "o", color=GREY, markerfacecolor="white", markersize=5, label="hollow: another point beats it"
        )
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, sweep: str, column: str, colour: str, label: str) -> None:
    """Planned points joined in the order of their weights, and the marks of current and list prices."""
    part = table[table["sweep"] == sweep]
    planned = part[part["kind"] == "planned"].sort_values("weight")
    axes.plot(planned[column], planned["margin_change"], color=colour, linewidth=1.2, alpha=0.7)
    for dominated, face in ((False, colour), (True, "white")):
        points = planned[planned["dominated"].astype(bool) == dominated]
        shown = label if not dominated else None
        axes.plot(
            points[column], points["margin_change"], "o", color=colour, markerfacecolor=face, markersize=5, label=shown
        )
    for kind, (marker, name) in MARKS.items():
        point = part[part["kind"] == kind]
        if colour == BLUE and len(point):  # the legend names each mark once; its colour says whose view it is
            axes.plot([], [], marker, color=GREY, markersize=7, linestyle="none", label=name)
        axes.plot(point[column], point["margin_change"], marker, color=colour, markersize=7, alpha=0.8)
