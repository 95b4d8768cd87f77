"""From the scores of many random orders to one line per model, and to result rows."""

import pandas as pd

from pricing_fm.evaluation.randomised_panels import Experiment
from pricing_fm.evaluation.randomised_prices import SIGNIFICANT, CurveScores
from pricing_fm.results import ResultRow

REFERENCE = "regression"


def read_order(
    scores: dict[str, CurveScores], about: dict[str, dict[str, float]], seed: int
) -> list[dict[str, str | float]]:
    """One record per model of an order.

    Args:
        scores (`dict[str, CurveScores]`): By model; `regression` is among them.
        about (`dict[str, dict[str, float]]`): By model: `elasticity`, `steps`, `train_s`, `inference_s`, as they apply.
        seed (`int`): Of the order.

    Returns:
        `list[dict]`: Flat records.
    """
    return [
        {
            "seed": seed,
            "model": name,
            "p_value": one.test.p_value,
            "chi_square": one.test.chi_square,
            "degrees": one.test.degrees,
            "shape_p_value": one.shape.p_value,
            "shape_chi_square": one.shape.chi_square,
            "excess_elasticity": one.excess_elasticity,
            "excess_z": one.excess_elasticity / one.excess_error,
            "loss": one.loss,
            "loss_ratio": one.loss / scores[REFERENCE].loss,
            "level": float(
                (one.cells["predicted"] * one.cells["exposure"]).sum()
                / (one.cells["observed"] * one.cells["exposure"]).sum()
            ),
            **about.get(name, {}),
        }
        for name, one in scores.items()
    ]


def summarize(orders: pd.DataFrame) -> pd.DataFrame:
    """One line per model over all orders.

    Args:
        orders (`pd.DataFrame`): Records of `read_order`.

    Returns:
        `pd.DataFrame`: Indexed by model: `pass` and `shape` (orders whose test of all, or of the shape alone, is not
        rejected at 5 %), `slope` (orders in which the slope of the log price is within 1.96 standard errors),
        `chi2` (mean), `excess` (mean elasticity that is missing), `level` (mean predicted / observed), `ratio` and
        `worst` (loss over the regression's, mean and largest), and for networks `elasticity` and `steps`.
    """
    lines = {}
    for name, rows in orders.groupby("model", sort=False):
        lines[name] = {
            "pass": int((rows["p_value"] > SIGNIFICANT).sum()),
            "shape": int((rows["shape_p_value"] > SIGNIFICANT).sum()),
            "slope": int((rows["excess_z"].abs() < 1.96).sum()),
            "chi2": rows["chi_square"].mean(),
            "excess": rows["excess_elasticity"].mean(),
            "level": rows["level"].mean(),
            "ratio": rows["loss_ratio"].mean(),
            "worst": rows["loss_ratio"].max(),
            **{key: rows[key].mean() for key in ("elasticity", "steps") if key in rows},
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def build_rows(orders: pd.DataFrame, experiment: Experiment) -> list[ResultRow]:
    """Result rows: every order's numbers, and how many orders each model passes.

    Args:
        orders (`pd.DataFrame`): Records of `read_order`.
        experiment (`Experiment`): What was judged.

    Returns:
        `list[ResultRow]`.
    """
    loss = "log_loss" if experiment.is_binary else "poisson_deviance"
    named = {
        "chi_square": "chi_square",
        "p_value": "chi_square_p",
        "shape_p_value": "shape_chi_square_p",
        "excess_elasticity": "excess_elasticity",
        "loss": loss,
        "loss_ratio": f"{loss}_to_regression",
        "elasticity": "elasticity",
    }
    rows = []
    for record in orders.to_dict("records"):
        for key, name in named.items():
            if pd.notna(record.get(key)):
                rows.append(
                    ResultRow(
                        name,
                        float(record[key]),
                        str(record["model"]),
                        experiment.name,
                        seed=int(record["seed"]),
                        train_s=_optional(record.get("train_s")),
                        inference_s=_optional(record.get("inference_s")),
                    )
                )
    for model, line in summarize(orders).iterrows():
        count = int(orders["seed"].nunique())
        rows.append(ResultRow("orders_not_rejected", float(line["pass"]), str(model), experiment.name, n=count))
        rows.append(ResultRow("orders_shape_not_rejected", float(line["shape"]), str(model), experiment.name, n=count))
    return rows


def _optional(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
