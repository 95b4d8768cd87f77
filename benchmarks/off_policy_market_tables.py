"""Tables, results.json and the figure of benchmarks/off_policy_markets.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from off_policy_market_estimates import ESTIMATORS, FIELDS, LEVEL
from off_policy_market_shops import POLICIES, TrueValues
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from pricing_fm.evaluation.off_policy import SENSITIVITIES
from pricing_fm.results import ResultRow, build_results, write_results

DIAGNOSTICS = (
    *("sold_out", "overdispersion", "mean_ratio", "size"),
    *("stock_statistic", "stock_p_value", "spill_share", "spill_p_value"),
    *(f"{end}_{sensitivity:g}" for sensitivity in SENSITIVITIES for end in ("lower", "upper")),
)
TESTS = ("stock", "spill")
MEASURES = (
    *("bias", "error", "coverage", "gain_bias", "gain_error", "gain_coverage", "two_way_coverage"),
    *("two_way_gain_coverage", "student_coverage", "rank_correlation", "regret"),
)
BOUNDED = "raises"  # the policy whose sensitivity bounds are looked at
HEADERS = (
    *("bias %", "worst", "RMSE %", "ratio", "coverage"),  # of values
    *("gain bias %", "gain RMSE %", "gain ratio", "gain coverage", "Spearman", "regret %", "n"),
)


@dataclass(frozen=True)
class CellResults:
    """Everything measured in one cell.

    Attributes:
        name: Of the cell.
        truth: True values.
        numbers: Of the repetitions, `(repetitions,)`.
        estimates: `(repetitions, estimators, policies, FIELDS)`, NaN = not asked for or refused.
        diagnostics: `(repetitions, DIAGNOSTICS)`.
        seconds: CPU time of a repetition.
    """

    name: str
    truth: TrueValues
    numbers: np.ndarray
    estimates: np.ndarray
    diagnostics: np.ndarray
    seconds: float


class Measured(NamedTuple):
    """A number and its Monte Carlo error."""

    value: float
    error: float


@dataclass(frozen=True)
class Summary:
    """How one estimator did in one cell; money as a share of the truth, gains as a share of the manager's true value.

    Attributes:
        estimator: Its name.
        asked, answered: Repetitions in which it was asked, and in which it gave an answer for all policies.
        bias, error, coverage: Of values, mean over policies: bias, root mean squared error, share of intervals that
            hold the truth.
        worst_bias: The bias of the policy that it values worst.
        error_ratio: Root mean squared error of values over that of the structured estimator in the same logs.
        gain_error_ratio: The same of gains.
        gain_bias, gain_error, gain_coverage: The same of the gain over the manager.
        two_way_coverage, two_way_gain_coverage: By intervals over decision units and weeks.
        student_coverage: Of values, by Student's intervals over decision units.
        rank_correlation: Spearman's, of estimated and true values of the policies.
        regret: True value of the best policy less that of the policy with the highest estimate.
    """

    estimator: str
    asked: int
    answered: int
    bias: Measured
    error: Measured
    coverage: Measured
    worst_bias: float
    error_ratio: float
    gain_error_ratio: float
    gain_bias: Measured
    gain_error: Measured
    gain_coverage: Measured
    two_way_coverage: Measured
    two_way_gain_coverage: Measured
    student_coverage: Measured
    rank_correlation: Measured
    regret: Measured


def summarize(cell: CellResults, place: int, every: int) -> Summary | None:
    """One estimator in one cell; None = it was not asked there.

    Args:
        cell: The cell.
        place: Of the estimator in `ESTIMATORS`.
        every: It was asked in every n-th repetition.
    """
    asked = cell.numbers % every == 0
    found = cell.estimates[asked, place]
    size = cell.diagnostics[asked, DIAGNOSTICS.index("size")]
    known = np.isfinite(found[..., 0]).all(axis=1)
    if known.sum() < 2:
        return None
    field = {name: found[known][..., number] for number, name in enumerate(FIELDS)}
    truth, manager = cell.truth.values, cell.truth.values[0]
    gains = (truth - manager)[1:]
    off = field["value"] / truth - 1.0
    gain_off = (field["gain"][:, 1:] - gains) / manager

    def cover(kind: str, sought: np.ndarray) -> Measured:
        """Share of the intervals of a kind that hold what is sought, where they were asked for."""
        low, high = (field[f"{kind}{end}"][:, -len(sought) :] for end in ("lower", "upper"))
        given = np.isfinite(low).all(axis=1)
        held = (low <= sought) & (sought <= high)
        return _mean(held[given].mean(axis=1)) if given.sum() > 1 else Measured(np.nan, np.nan)

    same = cell.estimates[asked, 0][known]
    ours = same[..., 0] / truth - 1.0, (same[:, 1:, FIELDS.index("gain")] - gains) / manager
    by_policy = np.array([_mean_at(column, size[known]).value for column in off.T])
    order = rankdata(truth)
    ranks = np.array([np.corrcoef(rankdata(row), order)[0, 1] for row in field["value"]])
    regret = (truth.max() - truth[field["value"].argmax(axis=1)]) / manager
    return Summary(
        ESTIMATORS[place],
        int(asked.sum()),
        int(known.sum()),
        _mean_at(off.mean(axis=1), size[known]),
        _root(off),
        cover("", truth),
        float(by_policy[np.abs(by_policy).argmax()]),
        _root(off).value / _root(ours[0]).value,
        _root(gain_off).value / _root(ours[1]).value,
        _mean(gain_off.mean(axis=1)),
        _root(gain_off),
        cover("gain_", gains),
        cover("two_way_", truth),
        cover("two_way_gain_", gains),
        cover("student_", truth),
        _mean(ranks),
        _mean(regret),
    )


def _mean(values: np.ndarray) -> Measured:
    return Measured(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def _mean_at(values: np.ndarray, size: np.ndarray) -> Measured:
    """Mean where a log's units are worth what those of the population are: `size` is a control variate of mean 0."""
    centred = size - size.mean()
    slope = float(values @ centred / (centred @ centred))
    rest = values - values.mean() - slope * centred
    error = np.sqrt((rest**2).sum() / (len(values) - 2) / len(values)) if len(values) > 2 else np.nan
    return Measured(float(values.mean() - slope * size.mean()), float(error))


def _root(errors: np.ndarray) -> Measured:
    """Root mean square of `(repetitions, policies)`, its error by the delta method."""
    squares = _mean((errors**2).mean(axis=1))
    root = np.sqrt(squares.value)
    return Measured(float(root), squares.error / (2.0 * root) if root > 0 else 0.0)


def summarize_cell(cell: CellResults, every: dict[str, int]) -> list[Summary]:
    """All estimators that were asked in a cell; `every` says in which repetitions each was."""
    found = [summarize(cell, place, every[name]) for place, name in enumerate(ESTIMATORS)]
    return [summary for summary in found if summary is not None]


def print_cell(cell: CellResults, summaries: Sequence[Summary], console: Console) -> None:
    """A table of one cell, and truth, stock test and bounds below it."""
    title = f"{cell.name}: {len(cell.numbers)} logs, {cell.seconds:.2f} s of CPU time each"
    console.print(tabulate_cell(title, summaries))
    for line in describe_cell(cell, summaries):
        console.print(line)


def tabulate_cell(title: str, summaries: Sequence[Summary]) -> Table:
    """Monte Carlo errors in brackets; ratio = root mean squared error over the structured estimator's."""
    table = Table(title=title)
    table.add_column("estimator", no_wrap=True)
    for header in HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for one in summaries:
        table.add_row(
            one.estimator,
            _show(one.bias, 100, "+.2f"),
            f"{100 * one.worst_bias:+.2f}",
            _show(one.error, 100, ".2f"),
            f"{one.error_ratio:.2f}",
            _show(one.coverage, 1, ".3f"),
            _show(one.gain_bias, 100, "+.2f"),
            _show(one.gain_error, 100, ".2f"),
            f"{one.gain_error_ratio:.2f}",
            _show(one.gain_coverage, 1, ".3f"),
            _show(one.rank_correlation, 1, ".2f"),
            _show(one.regret, 100, ".2f"),
            f"{one.answered}/{one.asked}",
        )
    return table


def _show(measured: Measured, factor: float, form: str) -> str:
    digits = form.strip("+")
    return f"{factor * measured.value:{form}} ({factor * measured.error:{digits}})"


def describe_cell(cell: CellResults, summaries: Sequence[Summary]) -> list[str]:
    """Truth, stock test and bounds in words."""
    truth, seen = cell.truth, dict(zip(DIAGNOSTICS, cell.diagnostics.T, strict=True))
    values = ", ".join(f"{name} {value:.2f}" for name, value in zip(POLICIES, truth.values, strict=True))
    gain_error = 100 * truth.gain_errors.max() / truth.values[0]
    errors = f"{100 * (truth.errors / truth.values).max():.2f} %, of gains"
    lines = [
        f"true values: {values} (Monte Carlo error at most {errors} {gain_error:.2f} %)",
        f"sold out in {seen['sold_out'].mean():.1%} of weeks; overdispersion {seen['overdispersion'].mean():.3f}; mean"
        f" ratio of true over estimated propensity {seen['mean_ratio'].mean():.3f}",
    ]
    stock, spill = (count_rejections(cell, test) for test in TESTS)
    lines.append(
        f"stock test rejects at 0.05 in {_show(stock, 1, '.3f')}, mean statistic {seen['stock_statistic'].mean():+.2f};"
        f" spill-over test in {_show(spill, 1, '.3f')}, mean share {np.nanmean(seen['spill_share']):+.2f}"
    )
    ours = summaries[0]
    if np.isfinite(ours.two_way_coverage.value):
        lines.append(
            f"of the structured estimator, two-way intervals cover {_show(ours.two_way_coverage, 1, '.3f')} of values"
            f" and {_show(ours.two_way_gain_coverage, 1, '.3f')} of gains, Student's"
            f" {_show(ours.student_coverage, 1, '.3f')} of values"
        )
    if np.isfinite(seen[DIAGNOSTICS[-1]]).all():
        true = truth.values[POLICIES.index(BOUNDED)]
        for sensitivity in SENSITIVITIES:
            low, high = seen[f"lower_{sensitivity:g}"], seen[f"upper_{sensitivity:g}"]
            held = _mean(((low <= true) & (true <= high)).astype(float))
            lines.append(
                f"bounds of {BOUNDED} at sensitivity {sensitivity:g}: {100 * (low.mean() / true - 1):+.1f} % to"
                f" {100 * (high.mean() / true - 1):+.1f} % of the truth, which lies within in {held.value:.2f}"
                f" ({held.error:.2f})"
            )
    return lines


def count_rejections(cell: CellResults, test: str) -> Measured:
    """Share of the logs in which one of `TESTS` rejects at 0.05."""
    return _mean((cell.diagnostics[:, DIAGNOSTICS.index(f"{test}_p_value")] < 0.05).astype(float))


def save_results(cells: Sequence[tuple[CellResults, list[Summary]]], folder: Path, seed: int) -> Path:
    """results.json: a row per metric, estimator and cell; ends are plus and minus two Monte Carlo errors."""
    rows = []
    for cell, summaries in cells:
        for one in summaries:
            for name in MEASURES:
                rows += _build_row(name, getattr(one, name), one, cell.name, seed)
        for test in TESTS:
            rows += _build_row(f"{test}_test_rejects", count_rejections(cell, test), summaries[0], cell.name, seed)
    return write_results(folder, build_results("off_policy_markets", [], rows))


def _build_row(name: str, measured: Measured, one: Summary, task: str, seed: int) -> list[ResultRow]:
    if not np.isfinite(measured.value + measured.error):
        return []
    low, high = measured.value - 2.0 * measured.error, measured.value + 2.0 * measured.error
    return [ResultRow(name, measured.value, one.estimator, task, lower=low, upper=high, n=one.answered, seed=seed)]


def save_figure(cells: Sequence[tuple[CellResults, list[Summary]]], path: Path) -> None:
    """Bias and coverage of every estimator, a panel per cell with all estimators."""
    shown = [(cell, summaries) for cell, summaries in cells if len(summaries) > 2]
    if not shown:
        return
    figure, axes = plt.subplots(2, len(shown), figsize=(3.4 * len(shown) + 1.6, 8.5), sharey=True, squeeze=False)
    names = list(reversed(ESTIMATORS))
    for column, (cell, summaries) in enumerate(shown):
        top, bottom = axes[:, column]
        for one in summaries:
            height, color = names.index(one.estimator), "C0" if one.estimator == "structured" else "0.4"
            low = 100 * (one.bias.value - 2 * one.bias.error), 100 * (one.bias.value + 2 * one.bias.error)
            top.plot(low, [height, height], color=color)
            top.plot(100 * one.bias.value, height, "o", color=color)
            low = one.coverage.value - 2 * one.coverage.error, one.coverage.value + 2 * one.coverage.error
            bottom.plot(low, [height, height], color=color)
            bottom.plot(one.coverage.value, height, "o", color=color)
        top.axvspan(-1.0, 1.0, color="C2", alpha=0.2, linewidth=0)
        bottom.axvline(LEVEL, color="C2")
        top.set_xscale("symlog", linthresh=2.0)
        top.set_xticks([-10, -1, 0, 1, 10, 100], ["-10", "-1", "0", "1", "10", "100"])
        bottom.set_xlim(-0.02, 1.02)
        top.set_title(f"{cell.name}\n{len(cell.numbers)} logs")
        top.set_xlabel("bias, % of the true value")
        bottom.set_xlabel(f"coverage of nominal {LEVEL:.0%} intervals")
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(names)), names)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
