"""How good elasticities are, cell by cell: errors, coverage, and ratios to prior, ceiling and best rival."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import chisquare

from pricing_fm import names
from pricing_fm.evaluation.elasticity_bed import CEILINGS, RIVALS
from pricing_fm.metrics.bootstrap import Interval
from pricing_fm.results import ResultRow

NETWORK = "pricing_fm"
ORDER = (NETWORK, *CEILINGS, "prior_mean", "hierarchical", *RIVALS)
REPLICATES = 1000
LEVEL = 0.95
METRICS = ("mae", "bias", "rmse", "coverage_80", "width_80")
REFERENCES = ("prior_mean", "posterior", "best_rival")


@dataclass(frozen=True)
class CellScores:
    """Scores of one cell.

    Args:
        cell (`str`): Name.
        metrics (`pd.DataFrame`): `estimator, metric, value, lower, upper, n`.
        ratios (`pd.DataFrame`): `estimator, reference, value, lower, upper, n`: ratio of mean absolute errors on the
            items that both have; the reference `best_rival` is the rival with the smallest error in the cell.
        best_rival (`str`): Its name.
    """

    cell: str
    metrics: pd.DataFrame
    ratios: pd.DataFrame
    best_rival: str


def score_cell(items: pd.DataFrame, seed: int = 0) -> CellScores:
    """Scores all estimators of a cell; categories are resampled as wholes.

    Several seeds of an estimator are averaged item by item first: the score is that of a typical seed.

    Args:
        items (`pd.DataFrame`): Of one cell: `estimator, item_id, category, truth, elasticity, lower, upper`.
        seed (`int`): Of the bootstrap.

    Returns:
        `CellScores`: With 95 % percentile intervals.
    """
    per_item = _measure_items(items)
    found = [name for name in ORDER if name in per_item]
    rivals = [name for name in found if name in RIVALS]
    best = min(rivals, key=lambda name: float(per_item[name]["absolute"].mean()))
    weights = _Resampling(items, seed)
    metrics, ratios = [], []
    for name in found:
        table = per_item[name]
        for metric, column in zip(METRICS, ("absolute", "error", "squared", "covered", "width"), strict=True):
            values = table[column].dropna()
            if len(values):
                interval = weights.estimate_mean(values, root=metric == "rmse")
                metrics.append((name, metric, interval.value, interval.lower, interval.upper, len(values)))
        for reference in REFERENCES:
            other = best if reference == "best_rival" else reference
            if other in per_item and other != name:
                both = table.index.intersection(per_item[other].index)
                interval = weights.estimate_ratio(table.loc[both, "absolute"], per_item[other].loc[both, "absolute"])
                ratios.append((name, reference, interval.value, interval.lower, interval.upper, len(both)))
    columns = ["value", "lower", "upper", "n"]
    return CellScores(
        str(items["cell"].iloc[0]),
        pd.DataFrame(metrics, columns=["estimator", "metric", *columns]),
        pd.DataFrame(ratios, columns=["estimator", "reference", *columns]),
        best,
    )


def build_rows(scores: CellScores) -> list[ResultRow]:
    """Rows of `results.json`: `elasticity_<metric>` and `elasticity_ratio_to_<reference>`."""
    named = [(f"elasticity_{row['metric']}", row) for row in scores.metrics.to_dict("records")]
    named += [(f"elasticity_ratio_to_{row['reference']}", row) for row in scores.ratios.to_dict("records")]
    return [
        ResultRow(
            name=name,
            value=float(row["value"]),
            model=str(row["estimator"]),
            task=f"elasticity_{scores.cell}",
            lower=float(row["lower"]),
            upper=float(row["upper"]),
            n=int(row["n"]),
        )
        for name, row in named
    ]


def tabulate_cell(scores: CellScores) -> pd.DataFrame:
    """One row per estimator: metrics, and ratios to the references.

    Args:
        scores (`CellScores`): Of a cell.

    Returns:
        `pd.DataFrame`: Index estimator; columns the metrics, `n`, and `to_<reference>`; NaN where there is none.
    """
    wide = scores.metrics.pivot(index="estimator", columns="metric", values="value").reindex(columns=list(METRICS))
    wide["n"] = scores.metrics[scores.metrics["metric"] == "mae"].set_index("estimator")["n"]
    ratios = scores.ratios.pivot(index="estimator", columns="reference", values="value")
    for reference in REFERENCES:
        wide[f"to_{reference}"] = ratios.get(reference, np.nan)
    return wide.reindex([name for name in ORDER if name in wide.index])


def check_calibration(items: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Whether posteriors are calibrated where their prior is the one that the cell was drawn from.

    Args:
        items (`pd.DataFrame`): `estimator, cell, group, rank, elasticity, lower, upper, truth`.
        bins (`int`): Bins of the ranks.

    Returns:
        `pd.DataFrame`: `cell, n, coverage_80, rank_mean, p_value`; the last of a chi-square test of even ranks.

    References:
        Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration".
    """
    rows = []
    ceilings = items[(items["estimator"] == "posterior") & (items["group"] == "mixed")]
    groups = [*ceilings.groupby("cell", sort=True), ("all", ceilings)] if len(ceilings) else []
    for cell, group in groups:
        counts, _ = np.histogram(group["rank"], bins=bins, range=(0.0, 1.0))
        covered = ((group["lower"] <= group["truth"]) & (group["truth"] <= group["upper"])).mean()
        rows.append((cell, len(group), covered, group["rank"].mean(), chisquare(counts).pvalue))
    return pd.DataFrame(rows, columns=["cell", "n", "coverage_80", "rank_mean", "p_value"])


def _measure_items(items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Errors per item (rows) of every estimator, seeds averaged."""
    error = items["elasticity"] - items["truth"]
    known = items["lower"].notna()
    inside = (items["lower"] <= items["truth"]) & (items["truth"] <= items["upper"])
    table = items[["estimator", names.ITEM_ID]].assign(
        absolute=error.abs(),
        error=error,
        squared=error**2,
        covered=inside.astype(float).where(known),
        width=items["upper"] - items["lower"],
    )
    means = table.groupby(["estimator", names.ITEM_ID], sort=True).mean()
    return {
        str(name): means.loc[means.index.get_level_values("estimator") == name].droplevel("estimator")
        for name in means.index.unique("estimator")
    }


class _Resampling:
    """Bootstrap weights of categories, the same for all estimators of a cell, so that ratios are paired."""

    def __init__(self, items: pd.DataFrame, seed: int):
        category = items.drop_duplicates(names.ITEM_ID).set_index(names.ITEM_ID)[names.CATEGORY]
        labels, codes = np.unique(category.to_numpy().astype(str), return_inverse=True)
        even = np.full(len(labels), 1.0 / len(labels))
        draws = np.random.default_rng(seed).multinomial(len(labels), even, REPLICATES)
        self._items, self._weights = category.index, draws[:, codes].astype(np.float64)

    def _of(self, index: pd.Index) -> np.ndarray:
        """Weights of items, `(replicates, items)`."""
        return self._weights[:, self._items.get_indexer(index)]

    def estimate_mean(self, values: pd.Series, root: bool = False) -> Interval:
        weights = self._of(values.index)
        draws = weights @ values.to_numpy() / np.maximum(weights.sum(axis=1), 1)
        return _interval(float(values.mean()), draws, root)

    def estimate_ratio(self, values: pd.Series, others: pd.Series) -> Interval:
        weights = self._of(values.index)
        draws = (weights @ values.to_numpy()) / np.maximum(weights @ others.to_numpy(), 1e-12)
        return _interval(float(values.sum() / max(others.sum(), 1e-12)), draws, root=False)


def _interval(value: float, draws: np.ndarray, root: bool) -> Interval:
    lower, upper = np.quantile(draws, ((1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0))
    if root:
        return Interval(float(np.sqrt(value)), float(np.sqrt(lower)), float(np.sqrt(upper)))
    return Interval(value, float(lower), float(upper))
