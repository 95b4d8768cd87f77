"""The comparison of intervals: bounds that are known beforehand hold, and what each way makes of one log."""

import io
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pricing_fm.evaluation.off_policy import (
    OneStepLog,
    OneStepOutcome,
    OneStepValue,
    RandomisedDecisions,
    compute_importance_ratios,
    estimate_trajectory_importance,
)

# A benchmark finds the files beside it, and is no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
benchmark = import_module("off_policy_intervals")

BEHAVIOR, TARGET = np.array([0.2, 0.8]), np.array([0.6, 0.4])
CHANCES = np.array([0.3, 0.1])
TRUTH = float(TARGET @ CHANCES)


def write_log(seed: int, rows: int = 800) -> OneStepLog:
    rng = np.random.default_rng(seed)
    actions = (rng.random(rows) < BEHAVIOR[1]).astype(np.int64)
    taken = rng.random(rows) < CHANCES[actions]
    decisions = RandomisedDecisions(
        actions, np.zeros(rows, dtype=np.int64), BEHAVIOR[None], np.array([1.0, 2.0]), np.zeros((rows, 1)),
        ("nothing",), np.arange(rows), (OneStepOutcome("take_up", taken.astype(float), taken),),
    )  # fmt: skip
    return OneStepLog(decisions, np.tile(BEHAVIOR, (rows, 1)))


def test_the_greatest_ratio_is_that_of_what_the_policy_may_do() -> None:
    target, behavior = np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[0.25, 0.75], [0.0, 1.0]])
    assert benchmark.find_largest_ratio(target, behavior) == 2.0


def test_the_known_intervals_cover_and_bernsteins_always_does_at_several_times_the_width() -> None:
    source, found = Namespace(bounded="take_up"), []
    answers = {"it": {"take_up": OneStepValue(TRUTH, 0.0, 1.0)}}
    for split in range(60):
        log = write_log(split)
        target, kept = np.tile(TARGET, (800, 1)), np.ones(800, dtype=bool)
        most = benchmark.find_largest_ratio(target, log.propensities)
        predicted = np.tile(CHANCES, (800, 1))
        rows = benchmark.measure_intervals(source, log, predicted, kept, {"it": (target, most)}, answers, split)
        found += [{"split": split, "manager": "it"} | row for row in rows]
    table = pd.DataFrame(found)
    assert set(table["kind"]) == set(benchmark.KINDS)
    assert set(table["estimator"]) == {"inverse propensity", "doubly robust", "inverse propensity, 500 decisions"}
    covered = table.groupby(["estimator", "kind"])["covered"].mean().unstack()
    assert (covered["empirical Bernstein"] == 1.0).all()
    assert (covered[["bootstrap", "normal", "Student"]] > 0.78).all(axis=None)
    assert (covered["normal"] < 1.0).all()
    width = table.groupby(["estimator", "kind"])["half_width"].mean().unstack()
    assert (width["empirical Bernstein"] > 1.5 * width["bootstrap"]).all()
    assert (width["Student"] > width["normal"]).all()
    few, whole = (width["bootstrap"][f"inverse propensity{end}"] for end in (", 500 decisions", ""))
    assert few / whole == pytest.approx((800 / 500) ** 0.5, rel=0.1)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(benchmark.tabulate_intervals(table, "take_up"))
    assert f"{covered['normal']['doubly robust']:.3f} ±" in console.export_text()


def test_an_influence_value_beyond_the_bounds_is_refused() -> None:
    log = write_log(0)
    trajectories = log.trajectories("take_up", log.take(np.tile(TARGET, (800, 1))))
    value = estimate_trajectory_importance(trajectories, compute_importance_ratios(trajectories))
    assert len(benchmark.compute_intervals(value, (-1e-9, 3.0))) == len(benchmark.KINDS)
    with pytest.raises(ValueError, match="bounds are"):
        benchmark.compute_intervals(value, (-1e-9, 2.0))
