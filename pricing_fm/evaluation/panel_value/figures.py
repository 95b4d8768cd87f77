"""Figures of values: with intervals per policy, by category, under hidden knowledge, and the manager's habits."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pricing_fm.evaluation.figures import BLUE, FAINT, GREY, INK, MARKERS, OTHERS, readable_name, shorten

_SIGNS = ("#009E73", "#D55E00")  # better, worse; told apart with any kind of colour vision


def plot_values(table: pd.DataFrame, manager: str) -> Figure:
    """Value of every policy with its interval; the manager is the line.

    Args:
        table: `policy, value, lower, upper`, currency per item and period; the manager is a row.
        manager: His name.

    Returns:
        Figure, one line per policy.
    """
    figure = Figure(figsize=(8.0, 1.2 + 0.5 * len(table)), layout="constrained")
    axes = figure.subplots()
    own = float(table.loc[table["policy"] == manager, "value"].iloc[0])
    axes.axvline(own, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    numbers = table[["value", "lower", "upper"]].to_numpy(dtype=np.float64).tolist()
    for rank, (policy, (value, lower, upper)) in enumerate(zip(table["policy"], numbers, strict=True)):
        colour = GREY if policy == manager else BLUE
        axes.plot([lower, upper], [rank, rank], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot(value, rank, marker="o", color=colour, markersize=8)
        axes.annotate(f"{value:,.2f}", (value, rank), xytext=(0, 9), textcoords="offset points", ha="center",
                      fontsize=9, color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    axes.set_yticks(range(len(table)), [name_policy(policy) for policy in table["policy"]])
    axes.set_ylim(len(table) - 0.5, -0.7)
    axes.set_xlabel("earned per item and week (currency); line = 90 % interval, dashed = today's prices")
    _clean(axes, "x")
    return figure


def plot_forest(table: pd.DataFrame, policies: Sequence[str], margin: float) -> Figure:
    """Gain over today's prices by category, one panel per policy.

    Args:
        table: `policy, group, share, lower, upper`: gain as a share of the group's value today.
        policies: Which, in order.
        margin: Gain that a launch needs, share.

    Returns:
        Figure; right of the dashed line a gain is worth a launch.
    """
    groups = list(dict.fromkeys(table["group"]))
    figure = Figure(figsize=(4.6 * len(policies) + 1.6, 1.3 + 0.42 * len(groups)), layout="constrained")
    grid = figure.subplots(1, len(policies), sharey=True, squeeze=False)[0]
    for axes, policy in zip(grid, policies, strict=True):
        part = table[table["policy"] == policy].set_index("group")
        axes.axvline(0.0, color=INK, linewidth=1, zorder=0)
        axes.axvline(margin, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        for rank, group in enumerate(groups):
            if group not in part.index:
                continue
            share, lower, upper = (float(part.loc[group, name]) for name in ("share", "lower", "upper"))
            colour = GREY if not (lower > 0.0 or upper < 0.0) else _SIGNS[int(upper < 0.0)]
            axes.plot([lower, upper], [rank, rank], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot(share, rank, marker="s", color=colour, markersize=7)
        axes.set_title(name_policy(policy), fontsize=10, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(len(groups) - 0.5, -0.5)
        _clean(axes, "x")
    grid[0].set_yticks(range(len(groups)), [shorten(str(group)) for group in groups])
    figure.supxlabel("gain over today's prices; line = 90 % interval, dashed = what a launch needs", fontsize=10)
    return figure


def plot_sensitivity(table: pd.DataFrame, margin: float) -> Figure:
    """How far the gain could be off if the manager knew something that the log does not hold: a fan per policy.

    Args:
        table: `policy, sensitivity, share_lower, share_upper`: range of the gain, share of today's value.
        margin: Gain that a launch needs, share.

    Returns:
        Figure, one panel per policy.
    """
    policies = list(dict.fromkeys(table["policy"]))
    figure = Figure(figsize=(4.2 * len(policies) + 0.8, 3.4), layout="constrained")
    grid = figure.subplots(1, len(policies), sharey=True, squeeze=False)[0]
    for axes, policy in zip(grid, policies, strict=True):
        part = table[table["policy"] == policy].sort_values("sensitivity")
        axes.fill_between(
            part["sensitivity"], part["share_lower"], part["share_upper"], color=BLUE, alpha=0.25, linewidth=0
        )
        for column in ("share_lower", "share_upper"):
            axes.plot(part["sensitivity"], part[column], color=BLUE, marker="o", markersize=4, linewidth=1.5)
        axes.axhline(0.0, color=INK, linewidth=1)
        axes.axhline(margin, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.axvline(1.5, color=FAINT, linewidth=4, zorder=0)
        axes.set_xticks(part["sensitivity"].to_list())
        axes.set_title(name_policy(policy), fontsize=10, loc="left")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _clean(axes, "y")
    grid[0].set_ylabel("gain over today's prices")
    figure.supxlabel(
        "factor by which hidden knowledge may move the odds of a price (the rule looks at 1.5)", fontsize=10
    )
    return figure


def plot_habits(table: pd.DataFrame) -> Figure:
    """Predicted against observed frequency of a price change.

    Args:
        table: `predicted, observed, decisions`, one row per bin.

    Returns:
        Figure; on the diagonal = the habits are described rightly.
    """
    figure = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = figure.subplots()
    most = 1.05 * max(float(table[["predicted", "observed"]].to_numpy().max()), 0.05)
    axes.plot([0, most], [0, most], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="right")
    axes.plot(table["predicted"], table["observed"], color=BLUE, marker="o", markersize=6, linewidth=1.4, label="found")
    axes.set(xlim=(0, most), ylim=(0, most))
    axes.set_xlabel("predicted probability that the price changes")
    axes.set_ylabel("how often it did")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    _clean(axes, "both")
    return figure


def plot_estimators(table: pd.DataFrame) -> Figure:
    """The same gain by several estimators, with intervals.

    Args:
        table: `policy, estimator, share, lower, upper`: gain as a share of today's value.

    Returns:
        Figure; where they disagree the log alone cannot settle it.
    """
    policies, estimators = (list(dict.fromkeys(table[column])) for column in ("policy", "estimator"))
    figure = Figure(figsize=(8.0, 1.3 + 0.3 * len(policies) * len(estimators)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.0, color=INK, linewidth=1, zorder=0)
    for place, estimator in enumerate(estimators):
        part = table[table["estimator"] == estimator].set_index("policy")
        colour = BLUE if place == 0 else OTHERS[place - 1]
        for rank, policy in enumerate(policies):
            if policy not in part.index:
                continue
            y = rank + (place - (len(estimators) - 1) / 2) * 0.22
            share, lower, upper = (float(part.loc[policy, name]) for name in ("share", "lower", "upper"))
            axes.plot([lower, upper], [y, y], color=colour, linewidth=2)
            label = estimator if rank == 0 else None
            axes.plot(share, y, marker=MARKERS[place], color=colour, markersize=7, linestyle="none", label=label)
    axes.set_yticks(range(len(policies)), [name_policy(policy) for policy in policies])
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("gain over today's prices; line = 90 % interval")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    _clean(axes, "x")
    return figure


def name_policy(policy: str) -> str:
    """Name of a policy for people.

    Args:
        policy: Name in result rows.

    Returns:
        Words.
    """
    known = {"manager": "today's prices (the log)", "log_log_elasticity": "log-log elasticity + grid"}
    return known.get(policy, readable_name(policy))


def _clean(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=9, color=GREY)
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        if grid in (name, "both"):
            axis.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
