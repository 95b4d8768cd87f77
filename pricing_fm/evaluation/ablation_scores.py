"""Scores that mean the same whatever a network was trained on: forecasts of unseen panels, known elasticities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from pricing_fm.evaluation.elasticity_bed import add_truth, estimate_with_network
from pricing_fm.evaluation.elasticity_cells import CellData, TestBedArguments
from pricing_fm.evaluation.forecasting import evaluate_forecasters
from pricing_fm.evaluation.model import PolicyForecaster
from pricing_fm.evaluation.tasks import ForecastTask
from pricing_fm.policy import PricingPolicy
from pricing_fm.results import DataSource, ResultRow

SPEED = "windows_per_second"
# Of these a ratio to the reference says something; coverage and bias have a best value that is not zero or infinity.
RATIOS = (SPEED, "wql", "elasticity_mae")
COMPARED = (*RATIOS, "coverage_80", "elasticity_bias", "elasticity_coverage_80")
SEEDS_OF_A_BED = 50  # a test bed takes up to so many from its first one on


@dataclass(frozen=True)
class ValidationBedArguments(TestBedArguments):
    """Cells like those of the test bed, of other shops: what is chosen here may still be measured there.

    Raises:
        ValueError: As the test bed; and if the seed is that of the published test bed.
    """

    test_seed: int = field(
        default=995001, metadata={"help": "first seed; from 900000 on, apart from the published test bed's 990001"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(self.test_seed - TestBedArguments.test_seed) <= SEEDS_OF_A_BED:
            raise ValueError(
                f"test_seed is {self.test_seed}: the published test bed ({TestBedArguments.test_seed} and up) is not "
                f"for choosing; take one more than {SEEDS_OF_A_BED} away, such as {type(self).test_seed}"
            )


@dataclass(frozen=True)
class Scoring:
    """What every variant is scored on.

    Args:
        tasks (`tuple[ForecastTask, ...]`): Forecasts.
        cells (`tuple[CellData, ...]`): Elasticities.
    """

    tasks: tuple[ForecastTask, ...]
    cells: tuple[CellData, ...]

    @property
    def data(self) -> tuple[DataSource, ...]:
        """Panels and cells, by name and fingerprint."""
        panels = [DataSource(task.name, task.panel.fingerprint()) for task in self.tasks]
        return (*panels, *(DataSource(f"elasticity_{one.cell.name}", one.fingerprint) for one in self.cells))


def has_demand_curve(policy: PricingPolicy) -> bool:
    """Whether a network answers what demand does when the price is set: it sees prices, and has a response to them."""
    return policy.model.config.price_response == "monotone" and policy.processor.covariates in ("both", "price")


def score_policy(policy: PricingPolicy, name: str, seed: int, scoring: Scoring) -> list[ResultRow]:
    """Zero-shot forecasts, and elasticities where there is a demand curve.

    Args:
        policy (`PricingPolicy`): A base.
        name (`str`): Of the variant.
        seed (`int`): It was trained with.
        scoring (`Scoring`): On what.

    Returns:
        `list[ResultRow]`: Metrics of every task and origin as `evaluate_forecasters` computes them; `elasticity_mae`,
        `elasticity_bias` and `elasticity_coverage_80` of every cell. Split `validation`: they are there to choose by.
    """
    forecaster = PolicyForecaster(policy, name, seed)
    rows: list[ResultRow] = []
    for task in scoring.tasks:
        rows += evaluate_forecasters(task, [forecaster]).rows
    if has_demand_curve(policy):
        for cell in scoring.cells:
            rows += _score_elasticities(policy, name, seed, cell)
    return [replace(row, split="validation") for row in rows]


def compare_with_reference(rows: Sequence[ResultRow], reference: str) -> pd.DataFrame:
    """Every run beside the reference's run with the same seed.

    Args:
        rows (`Sequence[ResultRow]`): Of all variants and seeds; origins of a task are averaged.
        reference (`str`): Name of the variant that the others are compared with.

    Returns:
        `pd.DataFrame`: `metric, task, variant, seed, value, difference, relative`: value minus the reference's, and,
        for metrics that have a ratio, their ratio minus 1. NaN where the reference has no run with the seed.
    """
    frame = pd.DataFrame(
        [(row.name, row.task, row.model, row.seed, row.value) for row in rows if row.name in COMPARED],
        columns=["metric", "task", "variant", "seed", "value"],
    )
    runs = frame.groupby(["metric", "task", "variant", "seed"], sort=False)["value"].mean().reset_index()
    own = runs[runs["variant"] == reference].drop(columns="variant").rename(columns={"value": "reference"})
    both = runs.merge(own, on=["metric", "task", "seed"], how="left")
    both["difference"] = both["value"] - both["reference"]
    both["relative"] = (both["value"] / both["reference"] - 1.0).where(both["metric"].isin(RATIOS))
    return both.drop(columns="reference")


def average_seeds(compared: pd.DataFrame) -> pd.DataFrame:
    """One line per measure and variant.

    Args:
        compared (`pd.DataFrame`): From `compare_with_reference`.

    Returns:
        `pd.DataFrame`: `metric, task, variant, value, difference, relative`, means over seeds; `relative_error`, the
        standard error of the relative difference over seeds (NaN for one seed), and `seeds`.
    """
    groups = compared.groupby(["metric", "task", "variant"], sort=False)
    return groups.agg(
        value=("value", "mean"),
        difference=("difference", "mean"),
        relative=("relative", "mean"),
        relative_error=("relative", "sem"),
        seeds=("seed", "nunique"),
    ).reset_index()


def _score_elasticities(policy: PricingPolicy, name: str, seed: int, data: CellData) -> list[ResultRow]:
    items = add_truth(estimate_with_network(data, [policy]), data)
    error = (items["elasticity"] - items["truth"]).to_numpy()
    covered = items["truth"].between(items["lower"], items["upper"]).to_numpy()
    values = {"mae": np.abs(error).mean(), "bias": error.mean(), "coverage_80": covered.mean()}
    return [
        ResultRow(
            name=f"elasticity_{metric}",
            value=float(value),
            model=name,
            task=f"elasticity_{data.cell.name}",
            n=len(items),
            seed=seed,
            inference_s=float(items["seconds"].iloc[0]),
        )
        for metric, value in values.items()
    ]
