"""Every verdict has its case, every reason its numbers, and more support never turns a launch into a rejection."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.contributions import NotIdentified, PolicyValue
from pricing_fm.evaluation.off_policy.launch import (
    Candidate,
    ExperimentSettings,
    LaunchDecision,
    LaunchRules,
    Verdict,
    decide_launch,
)
from pricing_fm.evaluation.off_policy.log import LoggedTrajectories
from pricing_fm.evaluation.off_policy.sensitivity import (
    ValueBounds,
    bootstrap_bounds,
    bound_self_normalized,
    compute_weight_bounds,
)
from pricing_fm.evaluation.off_policy.stock_test import SpillOverTest, StockTest
from pricing_fm.evaluation.off_policy.switchback import WeeklyVariation, plan_switchback
from pricing_fm.evaluation.off_policy.trajectory_estimators import (
    estimate_behavior_value,
    estimate_per_decision_importance,
)
from pricing_fm.evaluation.off_policy.weights import compute_importance_ratios
from pricing_fm.metrics import Interval

UNITS, WEEKS = 40, 10
VARIATION = WeeklyVariation(np.where(np.arange(26) > 0, 2.0 * 0.5**2, 0.0), UNITS)
EXPERIMENT = ExperimentSettings(VARIATION, weeks_per_value=WEEKS)
NO_STOCK_RELATION, STOCK_RELATION = StockTest(0.3, 0.76, 0.01, 50), StockTest(4.1, 0.0001, 0.4, 50)


def build_manager() -> PolicyValue:
    """Earns 10 a week, 100 over ten weeks: the margin of 2 % is 2."""
    rewards = 10.0 + np.random.default_rng(0).normal(size=(UNITS, WEEKS))
    ones = np.ones((UNITS, WEEKS))
    value = estimate_behavior_value(LoggedTrajectories(rewards, ones, ones, np.arange(UNITS)))
    shift = (100.0 - value.value) * value.contributions.denominators
    return replace(value, contributions=replace(value.contributions, numerators=value.contributions.numerators + shift))


MANAGER = build_manager()


def candidate(gain: float = 10.0, error: float = 0.5, **changes: Any) -> Candidate:
    """A candidate whose paired gain has about this standard error, otherwise without fault."""
    noise = np.random.default_rng(1).normal(size=UNITS)
    noise = gain + (noise - noise.mean()) / noise.std() * error * np.sqrt(UNITS)
    parts = MANAGER.contributions
    value = PolicyValue(
        "constructed",
        replace(parts, numerators=parts.numerators + noise[parts.clusters] * parts.denominators),
        effective_sample_size=float(changes.pop("effective_sample_size", 400.0)),
        trimmed_mass=float(changes.pop("trimmed_mass", 0.0)),
    )
    given = {
        "name": "cut",
        "value": value,
        "support_mass": 0.95,
        "price_episodes": 80,
        "sensitivity_range": ValueBounds(gain - 2.0, gain + 2.0),
        "tail": Interval(1.0, 0.5, 1.5),
    }
    return Candidate(**(given | changes))


def decide(*candidates: Candidate, rules: LaunchRules | None = None) -> LaunchDecision:
    return decide_launch(candidates, MANAGER, EXPERIMENT, rules, resample_weeks=False, replicates=400)


def test_a_policy_without_fault_is_launched_and_every_reason_has_both_numbers() -> None:
    found = decide(candidate())
    assert found.verdict is Verdict.LAUNCH
    assert (found.manager_value, found.margin) == (pytest.approx(100.0), pytest.approx(2.0))
    assert found.experiment is None
    gain = found.candidates[0].gain
    assert gain is not None
    assert gain.value == pytest.approx(10.0)
    assert gain.value - gain.lower == pytest.approx(0.5 * 1.28, rel=0.15)
    texts = (
        (f"at least {gain.lower:.2f} more", "more than 2.00 is needed"),
        (f"as low as {8.0 - (gain.value - gain.lower):.2f}", "more than 2.00 is needed"),
        ("differ from the manager's by 1.00", "0 or more is needed"),
        ("supports 95%", "at least 80% is needed"),
        ("worth 400 observations", "at least 100 are needed"),
        ("decided 80 times", "at least 30"),
        ("no stock test could be run", "was not looked at"),
        ("sell more where others run short", "was not looked at"),
    )
    assert len(found.reasons) == len(texts)
    for reason, (number, needed) in zip(found.reasons, texts, strict=True):
        assert number in reason
        assert needed in reason
    assert found.regret is not None
    assert found.regret.probability == 0.0


@pytest.mark.parametrize(
    ("changes", "verdict", "number", "needed"),
    [
        ({"gain": -5.0}, Verdict.DO_NOT_LAUNCH, "worse than the manager", "a gain above 2.00 is needed"),
        ({"gain": 1.0, "error": 0.1}, Verdict.DO_NOT_LAUNCH, "not worth a launch", "a gain above 2.00 is needed"),
        (
            {"tail": Interval(-3.0, -4.0, -2.0)},
            Verdict.DO_NOT_LAUNCH,
            "by -3.00 (at most -2.00)",
            "0 or more is needed",
        ),
        ({"gain": 3.0, "error": 2.0}, Verdict.EXPERIMENT_NEEDED, "(estimate 3.00)", "more than 2.00 is needed"),
        ({"gain": -1.0, "error": 4.0}, Verdict.EXPERIMENT_NEEDED, "(estimate -1.00)", "more than 2.00 is needed"),
        (
            {"sensitivity_range": ValueBounds(0.5, 20.0)},
            Verdict.EXPERIMENT_NEEDED,
            "moved the odds of the manager's decisions by 1.5",
            "more than 2.00 is needed",
        ),
        (
            {"tail": Interval(-0.4, -2.0, 1.0)},
            Verdict.EXPERIMENT_NEEDED,
            "by -0.4 (at most 1.00)",
            "0 or more is needed",
        ),
        ({"support_mass": 0.6}, Verdict.EXPERIMENT_NEEDED, "supports 60%", "at least 80% is needed"),
        ({"effective_sample_size": 40}, Verdict.EXPERIMENT_NEEDED, "worth 40", "at least 100 are needed"),
        ({"price_episodes": 12}, Verdict.EXPERIMENT_NEEDED, "decided 12 times", "at least 30"),
        ({"trimmed_mass": 0.5}, Verdict.EXPERIMENT_NEEDED, "50% of the policy's weight", "at most 20%"),
        ({"stock_test": STOCK_RELATION}, Verdict.EXPERIMENT_NEEDED, "more stock in weeks", "p = 0.000"),
        (
            {"spill_test": SpillOverTest(3.0, 0.004, 0.3, 40)},
            Verdict.EXPERIMENT_NEEDED,
            "neighbours run short",
            "p = 0.004",
        ),
    ],
)
def test_each_fault_has_its_verdict_and_is_the_only_reason(
    changes: dict[str, Any], verdict: Verdict, number: str, needed: str
) -> None:
    found = decide(candidate(**changes))
    assert found.verdict is verdict
    assert len(found.reasons) == 1
    assert number in found.reasons[0]
    assert needed in found.reasons[0]
    assert (found.experiment is not None) == (verdict is Verdict.EXPERIMENT_NEEDED)
    assert str(found.verdict) in found.describe()
    assert found.reasons[0] in found.describe()


def test_harmless_tests_of_stock_and_neighbours_are_no_reason() -> None:
    found = decide(candidate(stock_test=NO_STOCK_RELATION, spill_test=SpillOverTest(0.2, 0.84, 0.0, 40)))
    assert found.verdict is Verdict.LAUNCH
    assert not any("was not looked at" in reason for reason in found.reasons)


def test_a_value_that_is_not_identified_brings_its_own_reasons() -> None:
    refused = NotIdentified("structured", ("the log ends before the policy would begin",))
    found = decide(Candidate("new", refused, support_mass=0.9, price_episodes=50))
    assert found.verdict is Verdict.EXPERIMENT_NEEDED
    assert found.reasons == refused.reasons
    assert found.regret is None
    assert found.candidates[0].gain is None


def test_what_the_log_does_not_identify_can_neither_launch_nor_reject() -> None:
    for gain in (-50.0, 0.0, 50.0):
        assert decide(candidate(gain, support_mass=0.79)).verdict is Verdict.EXPERIMENT_NEEDED


def test_more_support_never_turns_a_launch_into_a_rejection() -> None:
    levels = (
        {"support_mass": 0.5, "effective_sample_size": 50.0, "price_episodes": 20},
        {"support_mass": 0.8, "effective_sample_size": 100.0, "price_episodes": 30},
        {"support_mass": 1.0, "effective_sample_size": 900.0, "price_episodes": 900},
    )
    tails = (Interval(1.0, 0.5, 1.5), Interval(-0.4, -1.0, 1.0), Interval(-3.0, -4.0, -2.0))
    turned = set()
    for gain in (-4.0, 1.0, 3.0, 10.0):
        for tail in tails:
            found = [decide(candidate(gain, tail=tail, **level)).verdict for level in levels]  # type: ignore[arg-type]
            turned |= set(pairwise(found))
    assert (Verdict.EXPERIMENT_NEEDED, Verdict.LAUNCH) in turned
    assert (Verdict.EXPERIMENT_NEEDED, Verdict.DO_NOT_LAUNCH) in turned
    assert (Verdict.LAUNCH, Verdict.LAUNCH) in turned
    assert (Verdict.LAUNCH, Verdict.DO_NOT_LAUNCH) not in turned
    assert (Verdict.LAUNCH, Verdict.EXPERIMENT_NEEDED) not in turned


def test_the_experiment_is_sized_for_the_margin_and_for_the_estimate() -> None:
    found = decide(candidate(5.0, error=4.0))
    assert found.experiment == plan_switchback(VARIATION, 2.0 / WEEKS, 2)
    assert found.experiment_at_estimate is not None
    assert found.experiment_at_estimate.effect == pytest.approx((5.0 - 2.0) / WEEKS)
    assert "shows a gain above the margin, as a launch needs" in found.describe()
    assert found.experiment_at_estimate.num_cells < found.experiment.num_cells
    assert f"{found.experiment.num_cells} cells" in found.describe()
    below = decide(candidate(1.0, error=4.0))
    assert below.experiment == found.experiment
    assert below.experiment_at_estimate is None
    assert "shows a gain above zero" in below.describe()
    near = decide(candidate(2.0 + 1e-7, error=4.0))
    assert near.experiment == found.experiment
    assert near.experiment_at_estimate is None  # no number of weeks shows how little lies beyond the margin


def test_the_policy_that_is_worth_most_at_least_is_selected_not_the_one_with_the_best_estimate() -> None:
    shaky = candidate(14.0, error=8.0, name="shaky", sensitivity_range=ValueBounds(13.0, 15.0))
    steady = candidate(10.0, name="steady")
    bad = candidate(-6.0, name="bad")
    unknown = candidate(30.0, name="unknown", support_mass=0.1)
    found = decide(shaky, bad, steady, unknown)
    assert (found.selected, found.verdict) == ("steady", Verdict.LAUNCH)
    verdicts = {verdict.name: verdict.verdict for verdict in found.candidates}
    assert verdicts["bad"] is Verdict.DO_NOT_LAUNCH
    assert verdicts["unknown"] is Verdict.EXPERIMENT_NEEDED
    assert "for all 3 candidates at once" in found.reasons[0]
    assert found.regret is not None
    assert found.regret.probability == pytest.approx(0.7, abs=0.1)  # shaky is better if its error is above -0.53
    assert found.regret.expected > 4.0
    none_left = decide(bad, unknown)
    assert (none_left.selected, none_left.verdict) == ("unknown", Verdict.EXPERIMENT_NEEDED)
    assert decide(bad, candidate(-3.0, name="less_bad")).selected == "less_bad"


def test_several_candidates_make_it_harder_for_each() -> None:
    borderline = candidate(2.75, error=0.5, name="one", sensitivity_range=ValueBounds(2.75, 2.75))
    assert decide(borderline).verdict is Verdict.LAUNCH
    rng = np.random.default_rng(5)
    rivals = []
    for number in range(9):
        value = candidate(2.0, error=0.0).value
        assert isinstance(value, PolicyValue)
        parts = value.contributions
        noise = 3.0 * rng.normal(size=UNITS)
        moved = replace(
            parts, numerators=parts.numerators + (noise - noise.mean())[parts.clusters] * parts.denominators
        )
        rivals.append(candidate(2.0, name=f"rival-{number}", value=replace(value, contributions=moved)))
    together = decide(borderline, *rivals)
    assert together.candidates[0].verdict is Verdict.EXPERIMENT_NEEDED


def test_the_sampling_error_of_the_range_is_close_to_the_bootstrap_of_its_end() -> None:
    """The end's own percentile bootstrap (Zhao et al. 2019) beside the end less the error of the estimate."""
    rng = np.random.default_rng(6)
    low = rng.random((600, 1)) < 0.5
    rewards = 2.0 + low + rng.normal(size=(600, 1))
    log = LoggedTrajectories(rewards, np.full((600, 1), 0.5), np.where(low, 0.8, 0.2), np.arange(600))
    bounds = compute_weight_bounds(log.target_propensities[:, 0], log.propensities[:, 0], 1.5)
    end = bound_self_normalized(rewards[:, 0], bounds).lower
    theirs = end - bootstrap_bounds(rewards[:, 0], bounds, log.clusters, level=0.8).lower
    value = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True)
    flat = replace(value.contributions, numerators=value.contributions.denominators)  # a manager who always earns 1
    manager = PolicyValue("flat", flat, 600.0)
    given = Candidate("low", value, 1.0, 100, ValueBounds(end - 1.0, end + 1.0), tail=Interval(0.0, 0.0, 0.0))
    found = decide_launch([given], manager, EXPERIMENT, resample_weeks=False)
    gain = found.candidates[0].gain
    assert gain is not None
    assert gain.value - gain.lower == pytest.approx(theirs, rel=0.15)


def test_incomplete_or_contradicting_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="no sensitivity_range or no tail"):
        candidate(tail=None)
    with pytest.raises(ValueError, match="support_mass is 1.2"):
        candidate(support_mass=1.2)
    assert candidate(support_mass=float(np.nextafter(1.0, 2.0))).support_mass > 1.0  # a sum that was rounded up
    with pytest.raises(ValueError, match="lower <= upper"):
        candidate(sensitivity_range=ValueBounds(3.0, 2.0))
    with pytest.raises(ValueError, match="not of the value"):
        decide(candidate(sensitivity_range=ValueBounds(108.0, 112.0)))
    with pytest.raises(ValueError, match="that of sensitivity 1.2"):
        decide(candidate(sensitivity=1.2))
    with pytest.raises(ValueError, match="a name of its own"):
        decide(candidate(), candidate())
    with pytest.raises(ValueError, match="a name of its own"):
        decide()
    with pytest.raises(ValueError, match="margin_share is 0.0"):
        LaunchRules(margin_share=0.0)
