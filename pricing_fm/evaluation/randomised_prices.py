"""Does a demand curve agree with what people did whose price was drawn by chance? Tests and scores of predictions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from pricing_fm.evaluation.randomised_panels import Experiment, assign_arms

SIGNIFICANT = 0.05
SMALLEST = 1e-9  # of a predicted probability or mean


@dataclass(frozen=True)
class CellTest:
    """Predicted against observed cell totals.

    Args:
        chi_square (`float`): Sum of squared differences over their variances.
        degrees (`int`): Of freedom.
        p_value (`float`): Probability of a larger one, were the prediction the truth.
    """

    chi_square: float
    degrees: int
    p_value: float

    @property
    def passes(self) -> bool:
        """Whether the prediction is not rejected at 5 %."""
        return self.p_value > SIGNIFICANT


@dataclass(frozen=True)
class CurveScores:
    """How a prediction fares in the judging half.

    Args:
        test (`CellTest`): Level and shape: every cell's total as predicted.
        shape (`CellTest`): The same once each level group is scaled to its own total: shape alone.
        excess_elasticity, excess_error (`float`): How much steeper than predicted demand falls with the log price (the
            elasticity that is missing), and its standard error.
        loss (`float`): Mean log loss of binary outcomes, else Poisson deviance per unit of exposure.
        cells (`pd.DataFrame`): One row per cell: item, arm, price, exposure, observed, predicted, error (standard error
            of observed) per unit of exposure, and z.
    """

    test: CellTest
    shape: CellTest
    excess_elasticity: float
    excess_error: float
    loss: float
    cells: pd.DataFrame


def score_predictions(judged: Experiment, predicted: np.ndarray, random: np.random.Generator) -> CurveScores:
    """Holds a prediction against the outcomes of decisions that it has not seen.

    Cells are price bins within an item where the price itself was drawn, else the arms, over all items. The variance of
    a cell's total is the binomial one of the prediction, or for counts that of the clusters' residuals. The test takes
    the prediction for the truth: what it owes to the chance of the half it was learned from counts against it.

    Args:
        judged (`Experiment`): The judging half.
        predicted (`np.ndarray`, shape `(rows,)`): Expected outcome per unit of exposure.
        random (`np.random.Generator`): Decides between equal prices at the edge of a bin.

    Returns:
        `CurveScores`.

    Raises:
        ValueError: If a prediction is not a positive number, or no probability where outcomes are binary.
    """
    if not (np.isfinite(predicted) & (predicted > 0)).all() or (judged.is_binary and predicted.max() >= 1):
        raise ValueError("predictions must be positive and finite, and below 1 for binary outcomes")
    table = judged.decisions.assign(arm=assign_arms(judged, random), predicted=predicted * judged.decisions["exposure"])
    keys = ["item", "arm"] if judged.bins is not None else ["arm"]
    groups = table.groupby(keys, sort=True)
    observed, expected = groups["outcome"].sum(), groups["predicted"].sum()
    exposure = groups["exposure"].sum()
    if judged.is_binary:
        variance = (table["predicted"] * (1 - table["predicted"])).groupby([table[key] for key in keys]).sum()
    else:
        variance = _cluster_variance(table, keys)
    price = groups["price"].mean()
    cells = pd.DataFrame(
        {
            "price": price,
            "exposure": exposure,
            "observed": observed / exposure,
            "predicted": expected / exposure,
            "error": np.sqrt(variance) / exposure,
            "z": (observed - expected) / np.sqrt(variance),
        }
    ).reset_index()
    level = cells["item"].to_numpy() if judged.bins is not None else np.zeros(len(cells))
    seen, said, spread = (series.to_numpy(dtype=np.float64) for series in (observed, expected, variance))
    log_price = (np.log(table["price"]) * table["predicted"]).groupby([table[key] for key in keys]).sum() / expected
    scaled, count = _match_levels(seen, said, spread, level)
    slope, error = _missing_slope(seen, scaled, spread, log_price.to_numpy(), level)
    return CurveScores(
        test=_chi_square(seen, said, spread, len(cells)),
        shape=_chi_square(seen, scaled, spread, len(cells) - count),
        excess_elasticity=slope,
        excess_error=error,
        loss=_loss(judged, predicted),
        cells=cells,
    )


def non_monotone_cells(cells: pd.DataFrame, deviations: float = 1.645) -> pd.DataFrame:
    """Pairs of cells in which more was bought at the higher price, beyond chance.

    Args:
        cells (`pd.DataFrame`): From `CurveScores`, of one item or over all items.
        deviations (`float`): Standard errors of the difference; 1.645 = one-sided 5 % of a single pair.

    Returns:
        `pd.DataFrame`: `cheaper, dearer, price_cheaper, price_dearer, rise` (units per exposure) and `z`, largest
        first. With k pairs, k / 20 are expected by chance where demand does not react to price.
    """
    ordered = cells.sort_values("price").reset_index(drop=True)
    found = []
    for low in range(len(ordered)):
        for high in range(low + 1, len(ordered)):
            cheap, dear = ordered.loc[low], ordered.loc[high]
            rise = dear["observed"] - cheap["observed"]
            z = rise / np.hypot(cheap["error"], dear["error"])
            if z > deviations and dear["price"] > cheap["price"]:
                found.append((cheap["arm"], dear["arm"], cheap["price"], dear["price"], rise, z))
    columns = ["cheaper", "dearer", "price_cheaper", "price_dearer", "rise", "z"]
    return pd.DataFrame(found, columns=columns).sort_values("z", ascending=False, ignore_index=True)


def _cluster_variance(table: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Variance of each cell's total, from the residuals of whole clusters."""
    residual = (table["outcome"] - table["predicted"]).groupby([*(table[key] for key in keys), table["cluster"]]).sum()
    by_cell = residual.groupby(level=list(range(len(keys))))
    return by_cell.var(ddof=1) * by_cell.size()


def _chi_square(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, degrees: int) -> CellTest:
    value = float(((observed - expected) ** 2 / variance).sum())
    return CellTest(value, degrees, float(stats.chi2.sf(value, degrees)))


def _match_levels(
    observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, level: np.ndarray
) -> tuple[np.ndarray, int]:
    """Expected totals with the best scale for each level group, and the number of groups."""
    names, codes = np.unique(level, return_inverse=True)
    scale = np.bincount(codes, observed * expected / variance) / np.bincount(codes, expected**2 / variance)
    return expected * scale[codes], len(names)


def _missing_slope(
    observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, log_price: np.ndarray, level: np.ndarray
) -> tuple[float, float]:
    """Weighted regression of relative residuals on the log price within level groups: `-slope` and its error."""
    codes = np.unique(level, return_inverse=True)[1]
    weight = expected**2 / variance
    centre = np.bincount(codes, weight * log_price) / np.bincount(codes, weight)
    moved = log_price - centre[codes]
    information = float((weight * moved**2).sum())
    return -float((weight * moved * (observed / expected - 1)).sum()) / information, information**-0.5


def _loss(judged: Experiment, predicted: np.ndarray) -> float:
    table = judged.decisions
    outcome, exposure = table["outcome"].to_numpy(), table["exposure"].to_numpy()
    mean = np.maximum(predicted, SMALLEST)
    if judged.is_binary:
        mean = np.minimum(mean, 1 - SMALLEST)
        return float(-(outcome * np.log(mean) + (1 - outcome) * np.log1p(-mean)).mean())
    expected = mean * exposure
    ratio = np.where(outcome > 0, outcome / expected, 1.0)
    return float(2 * (outcome * np.log(ratio) - (outcome - expected)).sum() / exposure.sum())
