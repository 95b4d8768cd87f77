"""Figure of benchmarks/few_shot_curve.py: ours, the best of each kind of rival, the ceiling, and where placebos lie."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from few_shot_ceilings import KNOWABLE, TOLD

PLANNER = "zero_shot"
# Of each group the one that is best at the last k is drawn.
GROUPS = (
    ("zero_init", "zero_init_all_steps", "full_fine_tune", "mean_of_adapters", "nearest_adapter"),
    ("log_log_elasticity", "log_log_week_effects", "log_log_with_supply"),
    ("cost_plus", "boosted_demand"),
)
LABELS = {
    PLANNER: "base, its own plan",
    TOLD: "ceiling (knows all but the elasticities)",
    KNOWABLE: "ceiling (nor levels and shocks)",
    "zero_init": "adapter from zero",
    "zero_init_all_steps": "adapter from zero, all steps",
    "full_fine_tune": "full fine-tuning",
    "mean_of_adapters": "mean of other categories' adapters",
    "nearest_adapter": "nearest category's adapter",
    "log_log_elasticity": "log-log + grid",
    "log_log_week_effects": "log-log with week effects",
    "log_log_with_supply": "log-log with the supply",
    "cost_plus": "cost-plus, best markup",
    "boosted_demand": "boosted trees + grid",
}
ENDINGS = ("_without_steps", "_early_stop", "_pooled")
PLACEBOS = ("shuffled_outcomes", "another_categorys_weeks", "random_adapter")
POOLED_WRONGLY = "_pools_another_category"
MOST_STARTS = 2  # others than ours
OURS_COLOUR, COLOURS = "#d62728", ("#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#ff7f0e", "#17becf")
MARKERS = "sD^vPX"
LEAST_DISTANCE = 0.045  # between two labels, of the axis' height
TOP = 1.0  # of the axis: the oracle
LEADER = 0.15  # length of the line to a label, steps of the axis


def plot(curve: pd.DataFrame, ours: str | None, starts: Sequence[str]) -> plt.Figure:
    """At most nine lines over the visible weeks, each named where it ends; a band spans the placebos.

    Args:
        curve (`pd.DataFrame`): Shares, one row per strategy and one column per number of visible weeks.
        ours (`str`, *optional*): The strategy that is tested.
        starts (`Sequence[str]`): Names that starts were given.
    """
    figure, axes = plt.subplots(figsize=(10, 6), layout="constrained")
    places, last = np.arange(len(curve.columns)), curve.columns[-1]
    chosen = sorted(choose_lines(curve, ours, starts), key=lambda name: -curve.loc[name, last])
    others = [name for name in chosen if name not in (ours, TOLD, KNOWABLE)]
    styles = {name: {"color": COLOURS[n], "marker": MARKERS[n], "lw": 1.4} for n, name in enumerate(others)}
    styles |= {one: {"color": "black", "ls": ":", "marker": "."} for one in (TOLD, KNOWABLE)}
    if ours is not None:
        styles[ours] = {"color": OURS_COLOUR, "marker": "o", "lw": 2.6, "zorder": 5}
    for name in chosen:
        axes.plot(places, curve.loc[name].to_numpy(), ms=6, **styles[name])
    placebos = [name for name in curve.index if name in PLACEBOS or name.endswith(POOLED_WRONGLY)]
    if placebos:
        low, high = (curve.loc[placebos].agg(bound).to_numpy() for bound in ("min", "max"))
        # A line around it, or one placebo alone could not be seen.
        axes.fill_between(places, low, high, color="0.82", lw=1.5, zorder=0, label="placebos, lowest to highest")
        axes.legend(loc="upper left", frameon=False)
    bottom = min(-0.05, float(np.nanmin(curve.loc[chosen].to_numpy())) - 0.05)
    axes.set_ylim(bottom, TOP)
    ends = spread_out(curve.loc[chosen, last].to_numpy(), LEAST_DISTANCE * (TOP - bottom))
    for name, height in zip(chosen, ends, strict=True):
        end, colour = curve.loc[name, last], styles[name]["color"]
        axes.plot([places[-1], places[-1] + LEADER], [end, height], color=colour, lw=0.6, clip_on=False)
        text, weight = f" {end:.2f}  {label_of(name, ours)}", "bold" if name == ours else "normal"
        axes.text(places[-1] + LEADER, height, text, color=colour, weight=weight, va="center")
    axes.set_xlim(-0.1, places[-1] + LEADER / 2)
    axes.set_xticks(places, [str(weeks) for weeks in curve.columns])
    axes.set_xlabel("visible weeks of the category")
    axes.set_ylabel("share of the gap closed (interquartile mean)")
    axes.axhline(0, color="grey", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def choose_lines(curve: pd.DataFrame, ours: str | None, starts: Sequence[str]) -> list[str]:
    """Ours, the base, the best variant of two other starts, the best of every group, and the ceilings, if measured."""
    last = curve[curve.columns[-1]]

    def best(names: Sequence[str]) -> list[str]:
        known = last.reindex(names).dropna()
        return [str(known.idxmax())] if len(known) else []

    variants = {start: [name for name in curve.index if is_variant(name, start)] for start in starts}
    rivals = [name for start, own in variants.items() if ours not in own for name in best(own)]
    rivals.sort(key=lambda name: -last[name])
    chosen = [name for name in (ours, PLANNER, TOLD, KNOWABLE) if name in curve.index]
    return chosen + rivals[:MOST_STARTS] + [name for group in GROUPS for name in best(group)]


def is_variant(name: str, start: str) -> bool:
    """Whether a strategy is a start as it is, after steps, or pooled; placebos of it are none."""
    return strip_endings(name) == start


def strip_endings(name: str) -> str:
    """The start of a strategy's name, or the name itself."""
    for ending in reversed(ENDINGS):
        name = name.removesuffix(ending)
    return name


def label_of(name: str, ours: str | None) -> str:
    """What a reader calls a strategy."""
    label = LABELS.get(name)
    if label is None:
        start = strip_endings(name)
        label = {"fomaml": "FOMAML", "joint": "one adapter for all"}.get(start, start)
        if start == "pooling" or not name.endswith("_pooled"):
            label += "" if "_without_steps" in name else ", gradient steps"
        else:
            label += ", pooled"
    return f"ours: {label}" if name == ours else label


def spread_out(heights: np.ndarray, distance: float) -> np.ndarray:
    """Falling heights moved so that neighbours lie apart; groups that touch keep their mean."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([float(height)])
        while len(groups) > 1 and _bottom(groups[-2], distance) - distance < _top(groups[-1], distance):
            groups[-2:] = [groups[-2] + groups[-1]]
    return np.concatenate([_top(own, distance) - distance * np.arange(len(own)) for own in groups])


def _top(group: Sequence[float], distance: float) -> float:
    return float(np.mean(group)) + distance * (len(group) - 1) / 2


def _bottom(group: Sequence[float], distance: float) -> float:
    return float(np.mean(group)) - distance * (len(group) - 1) / 2
