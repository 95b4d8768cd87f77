"""One page of plots: where a fitted market looks like its log, and where it does not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from pricing_fm.markets.fitting.check_statistics import DEPTHS, LAGS, QUANTILES
from pricing_fm.markets.fitting.design import Design
from pricing_fm.markets.fitting.predictive_checks import FITS, MISFIT, NEAR, PredictiveChecks

_INKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: safe for colour blindness
_VERDICTS = {FITS: "#5a8f5a", NEAR: "#c9a227", MISFIT: "#b5332e"}
_MOST_CATEGORIES = 3  # weekly sales shown
_WIDEST = 6.0  # tolerances; a check further off is drawn at the border


def draw_checks(checks: PredictiveChecks, design: Design, title: str, path: str | Path) -> None:
    """Draws the page and writes it as PNG.

    Args:
        checks: Outcome of `check_market`.
        design: The data.
        title: Headline.
        path: File to write.
    """
    # A figure of its own canvas: nothing global is changed, and no display is needed.
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(19, 12), layout="constrained")
        grid = GridSpec(3, 4, figure=figure, width_ratios=(1, 1, 1, 1.55))
        panels = [[figure.add_subplot(grid[i, j]) for j in range(3)] for i in range(3)]
        labels = design.categories.names
        _draw_quantiles(panels[0][0], checks, labels)
        _draw_spread(panels[0][1], checks, labels)
        _draw_memory(panels[0][2], checks, labels)
        _draw_weekly(panels[1], checks, design)
        _draw_slopes(panels[2][0], checks)
        _draw_depth(panels[2][1], checks, labels)
        _draw_pairs(panels[2][2], checks, labels)
        _draw_verdicts(figure.add_subplot(grid[:, 3]), checks)
        counts = checks.table["verdict"].value_counts()
        summary = ", ".join(f"{counts.get(verdict, 0)} {text}" for verdict, text in _WORDS.items())
        figure.suptitle(
            f"{title}\nDots and thick lines: the log. Bands: 90 % of {len(checks.replicates)} simulated replicates."
            f" Of {len(checks.table)} checks, {summary}.",
            fontsize=13,
        )
        figure.savefig(path, dpi=110)


_WORDS = {FITS: "inside the band", NEAR: "outside by little", MISFIT: "do not fit"}


def _ink(category: int) -> str:
    return _INKS[category % len(_INKS)]


def _draw_quantiles(axes: Axes, checks: PredictiveChecks, labels: tuple[str, ...]) -> None:
    real, lower, _, upper = checks.curve("quantiles")
    place = np.arange(len(QUANTILES))
    for category, label in enumerate(labels):
        axes.fill_between(place, lower[category], upper[category], color=_ink(category), alpha=0.25, lw=0)
        axes.plot(place, real[category], "o-", ms=4, lw=1, color=_ink(category), label=label.capitalize())
    axes.set_yscale("log")
    axes.set_xticks(place, [f"{100 * level:g} %" for level in QUANTILES])
    axes.set(title="Units a period: quantiles", ylabel="units (packs)", xlabel="quantile over items and periods")
    axes.legend(frameon=False, fontsize=8)


def _draw_spread(axes: Axes, checks: PredictiveChecks, labels: tuple[str, ...]) -> None:
    real, lower, _, upper = checks.curve("spread")
    for category in range(len(labels)):
        mean = 10.0 ** real[category, 0]
        band = 10.0 ** lower[category, 1], 10.0 ** upper[category, 1]
        axes.fill_between(mean, *band, color=_ink(category), alpha=0.25, lw=0)
        axes.plot(mean, 10.0 ** real[category, 1], "o", ms=4, color=_ink(category))
    ends = np.array(axes.get_xlim())
    ends[0] = max(ends[0], float(np.nanmin(10.0 ** real[:, 0])))
    axes.plot(ends, ends, ":", color="0.5", lw=1)
    axes.annotate("Poisson", (ends[1], ends[1]), color="0.4", ha="right", va="bottom", fontsize=8)
    axes.set(xscale="log", yscale="log", title="Variance within an item by its mean")
    axes.set(xlabel="mean units of ten groups of items", ylabel="variance")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(_pick_ticks(*axes.get_xlim()))


def _pick_ticks(low: float, high: float) -> list[float]:
    ticks = [digit * 10.0**power for power in range(-3, 8) for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def _draw_memory(axes: Axes, checks: PredictiveChecks, labels: tuple[str, ...]) -> None:
    real, lower, _, upper = checks.curve("memory")
    for category in range(len(labels)):
        axes.fill_between(LAGS, lower[category], upper[category], color=_ink(category), alpha=0.25, lw=0)
        axes.plot(LAGS, real[category], "o", ms=4, color=_ink(category))
    axes.axhline(0.0, color="0.6", lw=0.8)
    axes.set(title="Memory: autocorrelation of residuals", xlabel="lag, periods", ylabel="correlation")


def _draw_weekly(panels: list[Axes], checks: PredictiveChecks, design: Design) -> None:
    real, lower, middle, upper = checks.curve("weekly")
    largest = np.argsort(-real.sum(axis=1))[:_MOST_CATEGORIES]
    for axes, category in zip(panels, sorted(largest)):
        label, ink = design.categories.names[category], _ink(int(category))
        scale = 1.0 / float(np.mean(real[category]))
        axes.fill_between(
            design.timestamps, lower[category] * scale, upper[category] * scale, color=ink, alpha=0.25, lw=0
        )
        axes.plot(design.timestamps, middle[category] * scale, color=ink, lw=0.8, alpha=0.8)
        axes.plot(design.timestamps, real[category] * scale, color="black", lw=1.0)
        inside = checks.real.values["category: periods whose sales lie in the 90 % band"][category]
        axes.set(title=f"{label.capitalize()}: all sales ({100 * inside:.0f} % inside)", ylabel="share of the average")
        _format_dates(axes)
    if len(largest) < _MOST_CATEGORIES:
        _draw_gap(panels[len(largest)], checks, design)
        for axes in panels[len(largest) + 1 :]:
            _draw_common(axes, checks)


def _draw_gap(axes: Axes, checks: PredictiveChecks, design: Design) -> None:
    """Log sales less the replicates' middle: what the model does not see coming."""
    real, lower, middle, upper = checks.curve("weekly")
    gap = [np.log(np.maximum(values[0], 1.0) / np.maximum(middle[0], 1.0)) for values in (real, lower, upper)]
    axes.fill_between(design.timestamps, gap[1], gap[2], color=_ink(0), alpha=0.25, lw=0)
    axes.plot(design.timestamps, gap[0], color="black", lw=1.0)
    axes.axhline(0.0, color="0.6", lw=0.8)
    _format_dates(axes)
    axes.set(title="All sales: log of real over middle replicate", ylabel="log ratio")


def _format_dates(axes: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _draw_common(axes: Axes, checks: PredictiveChecks) -> None:
    rows = checks.table[checks.table["check"].str.startswith("common:")]
    _draw_intervals(axes, rows, [name.rsplit(" ", 1)[1] for name in rows["check"]])
    axes.set(title="Shocks shared in a period by items of one ...", ylabel="correlation of residuals")


def _draw_slopes(axes: Axes, checks: PredictiveChecks) -> None:
    real = checks.real.curves["slopes"]
    drawn = np.concatenate([replicate.curves["slopes"] for replicate in checks.replicates])
    low, high = np.quantile(np.r_[real, drawn], (0.005, 0.995))
    edges = np.linspace(float(low), float(high), 41).tolist()
    axes.hist(drawn, edges, density=True, color=_INKS[4], alpha=0.5, label="simulated")
    axes.hist(real, edges, density=True, histtype="step", color="black", lw=1.4, label="log")
    axes.axvline(0.0, color="0.6", lw=0.8)
    axes.legend(frameon=False, fontsize=8)
    axes.set(title="Plain slope of log units on log price, per item", xlabel="slope", ylabel="density")


def _draw_depth(axes: Axes, checks: PredictiveChecks, labels: tuple[str, ...]) -> None:
    real, lower, _, upper = checks.curve("depth")
    names = ["regular"] + [f"{100 * low:.0f}-{100 * high:.0f}" for low, high in pairwise(DEPTHS)]
    names[-1] = f"over {100 * DEPTHS[-2]:.0f}"
    place = np.arange(len(names))
    for category in range(len(labels)):
        shift = 0.16 * (category - (len(labels) - 1) / 2)
        axes.vlines(place + shift, lower[category], upper[category], color=_ink(category), alpha=0.3, lw=6)
        axes.plot(place + shift, real[category], "o", ms=4, color=_ink(category))
    axes.axhline(0.0, color="0.6", lw=0.8)
    axes.set_xticks(place, names)
    axes.set(
        title="Left over by depth of the cut (0 = explained)", xlabel="% off the regular price", ylabel="log residual"
    )


def _draw_pairs(axes: Axes, checks: PredictiveChecks, labels: tuple[str, ...]) -> None:
    wanted = ("promotion:", "manager:")
    rows = checks.table[checks.table["check"].str.startswith(wanted) & ~checks.table["check"].str.contains("length")]
    for category, label in enumerate(labels):
        part = rows[rows["category"] == label]
        errors = np.abs(part[["lower", "upper"]].to_numpy().T - part["replicated"].to_numpy())
        axes.errorbar(part["real"], part["replicated"], errors, fmt="o", ms=4, lw=1, color=_ink(category), alpha=0.8)
    ends = (0.0, 1.05 * float(rows[["real", "upper"]].max().max()))
    axes.plot(ends, ends, ":", color="0.5")
    axes.set(title="Promotion lifts; shares and depths of cuts", xlabel="in the log", ylabel="simulated")
    axes.set(xlim=ends, ylim=ends)


def _draw_intervals(axes: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    place = np.arange(len(rows))
    axes.vlines(place, rows["lower"], rows["upper"], color=_INKS[0], alpha=0.3, lw=8)
    axes.plot(place, rows["real"], "o", color="black", ms=5)
    axes.set_xticks(place, names)
    axes.set_xlim(-0.6, len(rows) - 0.4)


def _draw_verdicts(axes: Axes, checks: PredictiveChecks) -> None:
    """Every check that is outside its band, in units of its tolerance; those inside are only counted."""
    table = checks.table
    outside = table[table["verdict"] != FITS].iloc[::-1]
    off = ((outside["real"] - outside["replicated"]) / outside["tolerance"]).clip(-_WIDEST, _WIDEST)
    place = np.arange(len(outside))
    axes.axvspan(-1.0, 1.0, color="0.93")
    axes.hlines(place, 0.0, off, color=[_VERDICTS[v] for v in outside["verdict"]], lw=1.2)
    axes.scatter(off, place, c=[_VERDICTS[v] for v in outside["verdict"]], s=28, zorder=3)
    single = table["category"].nunique() == 1
    names = outside["check"] if single else outside["category"].str.capitalize() + " - " + outside["check"]
    axes.set_yticks(place, names, fontsize=8 if len(outside) < 60 else 6)
    for tick, verdict in zip(axes.get_yticklabels(), outside["verdict"]):
        tick.set_color(_VERDICTS[verdict])
        tick.set_fontweight("bold" if verdict == MISFIT else "normal")
    axes.set_ylim(-1, len(outside))
    axes.set_xlim(-_WIDEST - 0.4, _WIDEST + 0.4)
    axes.set_title(
        "Outside the band: log less simulated, in tolerances\n(bold red: does not fit; yellow: within its tolerance)",
        loc="right",
    )
    axes.set_xlabel("simulated too high          simulated too low")
