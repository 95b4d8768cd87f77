"""Dot plot of an ablation: how far each variant lies from the reference, measure by measure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pricing_fm.evaluation.ablation_scores import RATIOS, SPEED, average_seeds
from pricing_fm.evaluation.figures import BLUE, FAINT, GREY, INK, shorten

TITLES = {
    SPEED: "windows per second",
    "wql": "forecast loss (WQL)",
    "elasticity_mae": "error of the elasticity",
}


def readable_measure(metric: str, task: str) -> str:
    """Name of a measure for people, in two lines.

    Args:
        metric (`str`): Metric in result rows.
        task (`str`): Task in result rows.

    Returns:
        `str`: For example `forecast loss (WQL)` above `frat_W`.
    """
    where = task.removeprefix("elasticity_").replace("simulated_", "simulated ")
    return TITLES[metric] if metric == SPEED else f"{TITLES[metric]}\n{where}"


def plot_differences(compared: pd.DataFrame, reference: str) -> Figure:
    """One line per variant, one panel per measure: the relative difference to the reference.

    Args:
        compared (`pd.DataFrame`): From `compare_with_reference`.
        reference (`str`): Name of the reference, the line at zero.

    Returns:
        `Figure`: Speed and forecasts above, elasticities below. Blue = mean over seeds, small grey = single seeds; a
        line stays empty where a variant has no such measure.
    """
    ratios = compared[compared["metric"].isin(RATIOS)]
    measures = list(ratios[["metric", "task"]].drop_duplicates().itertuples(index=False, name=None))
    measures.sort(key=lambda measure: RATIOS.index(measure[0]))
    below = [measure for measure in measures if measure[0].startswith("elasticity_")]
    groups = [group for group in ([one for one in measures if one not in below], below) if group]
    variants = [name for name in dict.fromkeys(compared["variant"]) if name != reference]
    columns = max(map(len, groups))
    size = (1.9 + 1.75 * columns, 0.5 + len(groups) * (1.1 + 0.27 * len(variants)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(groups), columns, sharey=True, squeeze=False)
    for line, group in zip(grid, groups, strict=True):
        for axes, (metric, task) in zip(line, group):
            _draw_measure(axes, ratios[(ratios["metric"] == metric) & (ratios["task"] == task)], variants)
            axes.set_title(readable_measure(metric, task), fontsize=8, loc="left", color=INK)
            axes.set_xlabel("higher is better" if metric == SPEED else "lower is better", fontsize=8)
        for axes in line[len(group) :]:
            axes.set_visible(False)
        line[0].set_yticks(range(len(variants)), [shorten(name.replace("_", " ")) for name in variants])
    grid[0, 0].set_ylim(len(variants) - 0.4, -0.6)
    seeds = compared["seed"].nunique()
    what = "one seed" if seeds == 1 else f"mean of {seeds} seeds (grey: each)"
    title = f"Relative difference to the reference (line at 0): {what}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=INK)
    return figure


def _draw_measure(axes: Axes, runs: pd.DataFrame, variants: list[str]) -> None:
    means = average_seeds(runs).set_index("variant")["relative"]
    axes.axvline(0.0, color=INK, linewidth=1.0)
    for row, name in enumerate(variants):
        single = runs.loc[runs["variant"] == name, "relative"].to_numpy()
        single = single[np.isfinite(single)]
        if not len(single):
            continue
        axes.plot([0.0, means[name]], [row, row], color=GREY, linewidth=1.2, zorder=1)
        if len(single) > 1:
            axes.plot(single, np.full(len(single), row), "o", color=GREY, markersize=3, zorder=2)
        axes.plot(means[name], row, "o", color=BLUE, markersize=5.5, zorder=3)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    axes.tick_params(labelsize=8, color=GREY)
    axes.grid(axis="both", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
