"""The benchmarks of the launch rule say what they drew, and from what they did not."""

import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

# A benchmark finds the files beside it, and is no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
one_step, panels = import_module("launch_rule"), import_module("launch_rule_panels")

ARGUMENTS = Namespace(margin=0.02, better=0.08, best=0.4)


def judged(true_gain: float, **more: Any) -> dict[str, Any]:
    """A candidate as the benchmarks keep it."""
    return {
        "true_gain": true_gain,
        "is_better": true_gain > 0.0,
        "by_sensitivity": {"1.5": "launch"},
        "verdicts": dict.fromkeys(panels.RANGES, "launch"),
        "estimated_gain": true_gain,
        "gain": true_gain,
    } | more


@pytest.mark.parametrize("benchmark", [one_step, panels])
def test_a_table_says_which_true_gains_are_not_drawn(benchmark: Any) -> None:
    title = str(benchmark.tabulate([judged(0.1), judged(-0.1)], ARGUMENTS).title)
    assert "better by 8% to 40%" in title
    assert "true gains between 0% and 8% are not drawn" in title


def test_sizes_of_experiments_kept_before_they_were_measured_anew_are_not_mixed_in() -> None:
    """Older chunks hold the size of an experiment that shows a gain above zero."""
    asked = {"verdict": "experiment_needed", "reasons": [], "cells": 80, "weeks": 8, "estimated_gain": None}
    old = judged(0.1, weeks_at_estimate=4, **asked)
    assert not any("above the margin" in line for line in one_step.describe([old]))
    new = judged(0.1, weeks_above_margin=24, **asked)
    line = next(line for line in one_step.describe([old, new]) if "above the margin" in line)
    assert "(1): 24 weeks" in line
