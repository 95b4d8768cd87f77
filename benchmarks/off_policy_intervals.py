"""Ways to an interval, side by side, for `off_policy_experiments.py`: bootstrap, normal, Student, empirical Bernstein.

The outcome lies between 0 and 1 and the manager's propensities are known, so that nobody's influence value can exceed
bounds that are known before any outcome: with the greatest ratio W of the two policies over everything that the
experiment could have drawn, `0 ... W` for inverse propensities and `-W ... 1 + W` with a model whose predictions are
clipped to 0 ... 1.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from off_policy_sources import Source
from rich.table import Table
from scipy import stats

from pricing_fm.evaluation.off_policy import (
    ModelValues,
    NotIdentified,
    OneStepLog,
    OneStepValue,
    PolicyValue,
    bootstrap_value,
    compute_clustered_error,
    compute_importance_ratios,
    estimate_bernstein_interval,
    estimate_doubly_robust,
    estimate_t_interval,
    estimate_trajectory_importance,
)
from pricing_fm.metrics import Interval

LEVEL, REPLICATES = 0.9, 200
COMPARED = ("cheapest third", "dearest third")
FEW = 500  # decisions of a short log, beside the whole one
KINDS = ("bootstrap", "normal", "Student", "empirical Bernstein")


def measure_intervals(
    source: Source,
    log: OneStepLog,
    predicted: np.ndarray,
    kept: np.ndarray,
    policies: dict[str, tuple[np.ndarray, float]],
    answers: dict[str, dict[str, OneStepValue | NotIdentified]],
    seed: int,
) -> list[dict[str, object]]:
    """Intervals of some policies from one log beside the experiment's answers.

    An answer has an error of its own, from other people: an interval's reach and the answer's normal one are taken
    together, as in `compare_with_answer`.

    Args:
        source: The experiment, with an outcome between 0 and 1.
        log: The log, with its true propensities.
        predicted: Cross-fitted outcome of every action, `(rows, actions)`.
        kept: Rows of the experiment that the log holds.
        policies: Probability of each action, `(all rows, actions)`, and the greatest ratio to the manager's, by policy.
        answers: What the other half of the experiment says, by policy and outcome.
        seed: Of the decisions of a short log.

    Returns:
        A row per policy, estimator and kind: `covered`, `half_width`, `value`.
    """
    assert source.bounded is not None
    few = np.random.default_rng([seed, 4]).permutation(log.decisions.num_rows)[:FEW]
    short = OneStepLog(log.decisions.select(few), log.propensities[few])
    rows: list[dict[str, object]] = []
    for policy, (target, most) in policies.items():
        answer = answers[policy][source.bounded]
        if isinstance(answer, NotIdentified):
            continue
        wanted = target[kept]
        found = _estimate(log, source.bounded, wanted, most, np.clip(predicted, 0.0, 1.0))
        found |= {
            f"{name}, {FEW} decisions": one for name, one in _estimate(short, source.bounded, wanted[few], most).items()
        }
        reach = stats.norm.ppf(0.5 + 0.5 * LEVEL) * answer.error
        for estimator, (value, bounds) in found.items():
            for kind, ends in zip(KINDS, compute_intervals(value, bounds), strict=True):
                beyond = value.value - ends.lower if answer.value < value.value else ends.upper - value.value
                rows.append(
                    {
                        "policy": policy,
                        "estimator": estimator,
                        "kind": kind,
                        "value": value.value,
                        "half_width": 0.5 * (ends.upper - ends.lower),
                        "covered": abs(answer.value - value.value) <= np.hypot(beyond, reach),
                    }
                )
    return rows


def _estimate(
    log: OneStepLog, outcome: str, target: np.ndarray, most: float, predicted: np.ndarray | None = None
) -> dict[str, tuple[PolicyValue, tuple[float, float]]]:
    """Estimates whose influence values are bounded, with the bounds."""
    trajectories = log.trajectories(outcome, log.take(target))
    ratios = compute_importance_ratios(trajectories)
    slack = 1e-9 * most  # influence values are sums, and round
    found = {"inverse propensity": (estimate_trajectory_importance(trajectories, ratios), (-slack, most + slack))}
    if predicted is not None:
        values = ModelValues(log.take(predicted)[:, None], np.einsum("ra,ra->r", target, predicted)[:, None])
        robust = estimate_doubly_robust(trajectories, ratios, values)
        found["doubly robust"] = robust, (-most, 1.0 + most)
    return found


def compute_intervals(value: PolicyValue, bounds: tuple[float, float]) -> list[Interval]:
    """By the ways of `KINDS`, clustered by decision unit."""
    parts = value.contributions
    reach = stats.norm.ppf(0.5 + 0.5 * LEVEL) * compute_clustered_error(parts, two_way=False)
    return [
        bootstrap_value(parts, resample_weeks=False, replicates=REPLICATES).interval(LEVEL),
        Interval(value.value, value.value - reach, value.value + reach),
        estimate_t_interval(parts, LEVEL, two_way=False),
        estimate_bernstein_interval(parts, bounds, LEVEL),
    ]


def find_largest_ratio(target: np.ndarray, behavior: np.ndarray) -> float:
    """Over all rows and actions that the policy may take; 0 / 0 is none."""
    return float(np.divide(target, behavior, out=np.zeros_like(target), where=target > 0.0).max())


def tabulate_intervals(found: pd.DataFrame, outcome: str) -> Table:
    """Coverage and width of each way, policies taken together; Monte Carlo errors are those of means by split."""
    table = Table(
        title=f"intervals of {outcome}, nominal {LEVEL:.0%}: {found['split'].nunique()} splits, policies"
        f" {', '.join(found['policy'].unique())}",
        title_justify="left",
        box=None,
    )
    for head in ("manager", "estimator", "interval", "coverage", "half width", "over the bootstrap's"):
        table.add_column(head, justify="left" if head in ("manager", "estimator", "interval") else "right")
    for (manager, estimator), rows in found.groupby(["manager", "estimator"], sort=False):
        usual = rows.loc[rows["kind"] == KINDS[0], "half_width"].mean()
        for kind, part in rows.groupby("kind", sort=False):
            by_split = part.groupby("split")["covered"].mean()
            table.add_row(
                manager,
                estimator,
                str(kind),
                f"{by_split.mean():.3f} ± {by_split.std() / np.sqrt(len(by_split)):.3f}",
                f"{part['half_width'].mean() / part['value'].mean():.1%}",
                f"{part['half_width'].mean() / usual:.2f}",
            )
    return table
