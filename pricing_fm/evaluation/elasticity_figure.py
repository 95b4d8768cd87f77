"""Dot plot of the elasticity test bed: mean absolute error of every estimator in every cell."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pricing_fm.evaluation.elasticity_scores import ORDER, CellScores
from pricing_fm.evaluation.figures import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, YELLOW

READABLE = {
    "pricing_fm": "network",
    "posterior": "posterior (ceiling)",
    "posterior_told": "posterior, told more",
    "prior_mean": "prior mean",
    "hierarchical": "log-log, shrunk",
    "log_log": "log-log",
    "first_differences": "first differences",
    "lags": "log-log with lags",
    "two_stage_least_squares": "2SLS on cost",
    "double_machine_learning": "DML, two-stage",
    "lightgbm_differences": "LightGBM differences",
}
STYLES = {
    "pricing_fm": ("o", BLUE, True),
    "posterior": ("|", INK, True),
    "posterior_told": ("|", GREY, True),
    "prior_mean": ("D", GREY, False),
    "hierarchical": ("s", ORANGE, True),
    "log_log": ("s", ORANGE, False),
    "first_differences": ("^", GREEN, False),
    "lags": ("v", PURPLE, False),
    "two_stage_least_squares": ("P", RED, False),
    "double_machine_learning": ("X", SKY, False),
    "lightgbm_differences": ("*", YELLOW, False),
}
GROUPS = {"shop": "no stock-outs", "sold_out": "about 40 % of weeks sold out", "held_out": "held out and mixed"}


def plot_errors(scores: Sequence[CellScores]) -> Figure:
    """One row per cell, one mark per estimator, with its bootstrap interval.

    Args:
        scores (`Sequence[CellScores]`): Cells in order.

    Returns:
        `Figure`: Cells without and with stock-outs and the others in panels of their own.
    """
    panels = {name: [one for one in scores if _panel_of(one.cell) == name] for name in GROUPS}
    panels = {name: cells for name, cells in panels.items() if cells}
    heights = [len(cells) for cells in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9.0, 1.6 + 0.52 * sum(heights)), sharex=True, squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for ax, (name, cells) in zip(axes[:, 0], panels.items(), strict=True):
        for row, one in enumerate(cells):
            _draw_cell(ax, len(cells) - 1 - row, one.metrics)
        ax.set_yticks(range(len(cells)), [_label(one.cell) for one in reversed(cells)])
        ax.set_ylim(-0.6, len(cells) - 0.4)
        ax.set_title(GROUPS[name], loc="left", fontsize=10, color=INK)
        ax.grid(axis="x", color=FAINT)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("mean absolute error of the elasticity at the current price, 95 % interval")
    axes[-1, 0].set_xlim(left=0.0)
    shown = [name for name in ORDER if any(name in set(one.metrics["estimator"]) for one in scores)]
    handles = [_mark(axes[0, 0], name) for name in shown]
    figure.legend(handles, [READABLE[name] for name in shown], loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_cell(ax: plt.Axes, height: int, metrics: pd.DataFrame) -> None:
    errors = metrics[metrics["metric"] == "mae"].set_index("estimator")
    shown = [name for name in ORDER if name in errors.index]
    for place, name in enumerate(shown):
        marker, colour, is_full = STYLES[name]
        # Marks of one cell are spread a little, so that none hides another.
        y = height + 0.36 * (1.0 - 2.0 * place / max(len(shown) - 1, 1))
        value, lower, upper = errors.loc[name, ["value", "lower", "upper"]].to_numpy(dtype=float)
        ax.plot([lower, upper], [y, y], color=colour, linewidth=1.0, alpha=0.6)
        face = colour if is_full else "white"
        ax.plot(value, y, marker=marker, color=colour, markerfacecolor=face, markersize=6, linestyle="none")
    if "posterior" in errors.index:
        value = float(errors["value"].to_numpy()[errors.index == "posterior"][0])
        ax.plot([value, value], [height - 0.42, height + 0.42], color=INK, linewidth=0.8, linestyle=":")


def _mark(ax: plt.Axes, name: str) -> plt.Line2D:
    marker, colour, is_full = STYLES[name]
    face = colour if is_full else "white"
    (line,) = ax.plot([], [], marker=marker, color=colour, markerfacecolor=face, linestyle="none", markersize=6)
    return line


def _panel_of(cell: str) -> str:
    if not cell.startswith("shop"):
        return "held_out"
    return "sold_out" if cell.endswith("sold_out") else "shop"


def _label(cell: str) -> str:
    if cell.startswith("shop_c"):
        return f"confounding {float(cell.removeprefix('shop_c').removesuffix('_sold_out')):+.1f}"
    return cell.replace("_", " ")
