"""The benchmarks of the launch rule draw every stratum, and say which condition decided."""

import sys
from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pricing_fm.evaluation.off_policy import (
    Candidate,
    ExperimentSettings,
    LaunchRules,
    NotIdentified,
    PolicyValue,
    ValueBounds,
    WeeklyVariation,
)
from pricing_fm.evaluation.off_policy.contributions import Rows, build_contributions
from pricing_fm.metrics import Interval
from pricing_fm.results import read_results

# A benchmark finds the files beside it, and is no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
strata, one_step, panels = (import_module(name) for name in ("launch_strata", "launch_rule", "launch_rule_panels"))

EXPERIMENT = ExperimentSettings(WeeklyVariation(np.append(0.0, np.full(19, 0.02)), 40), 1.0)


def value(mean: float, size: float = 500.0, trimmed: float = 0.0) -> PolicyValue:
    units = np.arange(40)
    rows = Rows(mean + 0.001 * (units % 5 - 2.0), np.ones(40), units, np.full(40, -1))
    return PolicyValue("test", build_contributions([[rows]], 40, 1), size, trimmed)


def candidate(gain: float, hidden: float = 0.0, **more: Any) -> Candidate:
    known = Candidate(
        "it", value(1.0 + gain), 0.9, 100, ValueBounds(gain - hidden, gain + hidden), tail=Interval(0.1, 0.0, 0.2)
    )
    return replace(known, **more)


def examine(given: Candidate) -> dict[str, Any]:
    found: dict[str, Any] = strata.examine(given, value(1.0), EXPERIMENT, LaunchRules(), 50)
    return found


def row(true_gain: float, **more: Any) -> dict[str, Any]:
    """A policy as the benchmarks keep it."""
    return {"true_gain": true_gain, "gain": true_gain} | examine(candidate(0.1)) | more


def test_half_of_the_candidates_are_better_and_every_stratum_is_drawn() -> None:
    drawn = [one_step.choose_stratum(number) for number in range(16)]
    assert [one.lowest >= 0.0 for one in drawn] == [True, False] * 8
    assert {one.name: drawn.count(one) for one in strata.STRATA} == dict(
        zip([one.name for one in strata.STRATA], [4, 4, 2, 2, 2, 2], strict=True)
    )
    edges = [one.lowest for one in strata.STRATA] + [strata.STRATA[-1].highest]
    assert edges == sorted(edges)
    assert all(first.highest == second.lowest for first, second in zip(strata.STRATA, strata.STRATA[1:], strict=False))
    assert strata.find_stratum(0.0).name == "0 to 2 %"
    assert strata.find_stratum(0.6) is None


def test_a_drawn_candidate_is_worth_what_its_stratum_says() -> None:
    arguments = Namespace(units=12, weeks=6, hidden_odds=1.0)
    stratum = strata.STRATA[3]
    *_, gain, error = one_step.draw_policies(np.random.default_rng(0), stratum, arguments)
    assert stratum.lowest <= gain < stratum.highest
    assert 0.0 < error < 0.01


def test_candidates_of_a_panel_are_taken_from_the_strata_in_turn() -> None:
    gains = np.array([0.01, 0.015, 0.03, 0.2, 0.3, 0.4, -0.1])
    places = list(panels.take_in_turn(gains, strata.BETTER, np.random.default_rng(0)))
    assert sorted(places) == [0, 1, 2, 3, 4, 5]
    assert len({strata.find_stratum(gain).name for gain in gains[places[:3]]}) == 3


@pytest.mark.parametrize(
    "given, failed",
    [
        (candidate(0.1, hidden=0.2), ["hidden knowledge"]),
        (candidate(0.1, support_mass=0.5), ["support"]),
        (candidate(0.1, value=value(1.1, size=50.0, trimmed=0.5)), ["trimmed weight", "sample size"]),
        (candidate(0.1, price_episodes=3, hidden=0.2), ["price episodes", "hidden knowledge"]),
        (candidate(0.1, tail=Interval(-0.1, -0.2, 0.1)), ["worst outcomes"]),
        (candidate(0.02), ["gain above margin"]),
    ],
)
def test_failing_conditions_are_named_and_only_their_absence_launches(given: Candidate, failed: list[str]) -> None:
    found = examine(given)
    assert found["verdict"] == "experiment_needed"
    assert found["failed"] == failed
    for name in strata.CONDITIONS:
        launches = [name] == failed and name != "gain above margin"  # the estimate itself is at the margin
        assert (found["without"][name] == "launch") is launches, name
    assert found["without"]["lower bound of the gain alone"] == (
        "experiment_needed" if "gain above margin" in failed else "launch"
    )


def test_what_launches_fails_nothing_and_what_has_no_value_launches_whatever_is_dropped() -> None:
    fine = examine(candidate(0.1))
    assert (fine["verdict"], fine["failed"]) == ("launch", [])
    assert set(fine["without"].values()) == {"launch"}
    unknown = Candidate("it", NotIdentified("test", ("the log holds no such price",)), 0.0, 0)
    assert set(examine(unknown)["without"].values()) == {"experiment_needed"}


def test_tables_and_results_count_by_stratum_with_exact_intervals(tmp_path: Path) -> None:
    rows = [row(0.01), row(0.015, verdict="experiment_needed"), row(-0.1, verdict="do_not_launch", gain=0.05)]
    console = Console(width=200, record=True, file=(tmp_path / "log").open("w"))
    console.print(strata.tabulate_verdicts(rows, one_step.RULES, "title"), strata.tabulate_conditions(rows))
    shown = console.export_text()
    assert "0.50 (0.03 to 0.97)" in shown  # 1 of 2
    lines = strata.describe_launches(rows, {"launch rule": strata.read_rule, "estimate": strata.judge_estimate})
    assert lines[0].startswith("launch rule: launches 0 of 0 that are worth it, and 1 of 3 that are not (0 below 0)")
    assert "3 of 3 that are not (1 below 0), which bring -2.50% on average" in lines[1]
    strata.save_results(rows, one_step.RULES, "launch_rule", 0, tmp_path)
    metrics = read_results(tmp_path).metrics
    launched = [one for one in metrics if one.name == "launch" and one.model == "launch rule"]
    counted = [(one.task, one.value, one.n) for one in launched]
    assert counted == [("true gain -30 to -5 %", 0.0, 1), ("true gain 0 to 2 %", 0.5, 2)]
    assert (tmp_path / "launch_rule.png").exists()
