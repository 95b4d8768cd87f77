"""Launch, do not launch, or experiment: what a log allows to decide about candidate policies, and why.

| what the log shows of a policy | verdict |
|---|---|
| its value is not identified: support, weights, price episodes or stock speak against it | experiment needed |
| identified; even the upper bound of its gain does not exceed the margin | do not launch |
| identified; even the upper bound of its worst outcomes lies below the manager's | do not launch |
| identified; the margin lies between both bounds of the gain | experiment needed |
| gain above the margin, but not if hidden knowledge moved the odds of the logged decisions by 1.5 | experiment needed |
| gain above the margin; its worst outcomes look worse than the manager's, which may be chance | experiment needed |
| gain above the margin also then; worst outcomes not worse | launch |

The first row that applies decides. A bound that rests on a value which the log does not identify says nothing, so that
it can neither launch nor reject: more support can turn an experiment into either, never a launch into a rejection. To
launch changes the world and must survive hidden knowledge; to stay does not, so that a rejection needs no such proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pricing_fm.evaluation.off_policy.contributions import (
    NotIdentified,
    PolicyValue,
    RefusalError,
    subtract_contributions,
)
from pricing_fm.evaluation.off_policy.identification import IdentificationRules, judge_identification
from pricing_fm.evaluation.off_policy.selection import (
    RegretRisk,
    SimultaneousBounds,
    bound_simultaneously,
    estimate_regret_risk,
)
from pricing_fm.evaluation.off_policy.sensitivity import ValueBounds
from pricing_fm.evaluation.off_policy.stock_test import SpillOverTest, StockTest
from pricing_fm.evaluation.off_policy.switchback import SwitchbackPlan, WeeklyVariation, plan_switchback
from pricing_fm.metrics import Interval

_RANGE_TOLERANCE = 0.05  # of the manager's value: histories drawn anew move a simulated value by less


class Verdict(StrEnum):
    """What is decided about a policy."""

    LAUNCH = "launch"
    DO_NOT_LAUNCH = "do_not_launch"
    EXPERIMENT_NEEDED = "experiment_needed"


@dataclass(frozen=True)
class LaunchRules:
    """What a policy has to show.

    Attributes:
        margin_share: Gain that makes a launch worth its trouble, share of the manager's estimated value, > 0.
        confidence: Of the one-sided bounds of the gain, in (0.5, 1).
        sensitivity: Factor by which hidden knowledge may move the odds of the manager's decisions, >= 1.
        identification: Below which the log is taken to say nothing.

    Raises:
        ValueError: If a number is out of bounds.
    """

    margin_share: float = 0.02
    confidence: float = 0.9
    sensitivity: float = 1.5
    identification: IdentificationRules = field(default_factory=IdentificationRules)

    def __post_init__(self) -> None:
        if not (self.margin_share > 0.0 and 0.5 < self.confidence < 1.0 and self.sensitivity >= 1.0):
            raise ValueError(
                f"margin_share is {self.margin_share}, confidence {self.confidence}, sensitivity {self.sensitivity};"
                " expected above 0 (no experiment shows a difference of 0), in (0.5, 1), and 1 or more"
            )


@dataclass(frozen=True)
class Candidate:
    """All that is known of a policy from the log.

    Attributes:
        name: How reasons call it.
        value: What an estimator returned.
        support_mass: Mean of `weights.compute_support_mass`.
        price_episodes: From `intervals.count_price_episodes`.
        sensitivity_range: Least and greatest difference to the manager's value that hidden knowledge allows, currency,
            such as `bound_structured` or `bound_self_normalized` less the manager's value; without sampling error,
            which is added here. The manager's own value needs no weights and has no range. None = value not identified.
        sensitivity: Of the range.
        tail: Difference of the worst outcomes to the manager's, from `bootstrap_cvar_difference`. None = value not
            identified.
        stock_test, spill_test: Of the demand model behind a structured value; None = none could be run, which a launch
            tells.

    Raises:
        ValueError: If a range or tail is missing beside a value, or ends are in the wrong order.
    """

    name: str
    value: PolicyValue | NotIdentified
    support_mass: float
    price_episodes: int
    sensitivity_range: ValueBounds | None = None
    sensitivity: float = 1.5
    tail: Interval | None = None
    stock_test: StockTest | None = None
    spill_test: SpillOverTest | None = None

    def __post_init__(self) -> None:
        if isinstance(self.value, PolicyValue) and (self.sensitivity_range is None or self.tail is None):
            raise ValueError(f"candidate {self.name} has a value but no sensitivity_range or no tail; give both")
        ends = self.sensitivity_range
        if ends is not None and not ends.lower <= ends.upper:
            raise ValueError(f"candidate {self.name}: sensitivity_range is {ends}; expected lower <= upper")
        if not 0.0 <= self.support_mass <= 1.0 + 1e-9:  # a sum of probabilities may round up
            raise ValueError(f"candidate {self.name}: support_mass is {self.support_mass}; it must lie in [0, 1]")


@dataclass(frozen=True)
class ExperimentSettings:
    """How an experiment would be run, should one be needed.

    Attributes:
        variation: Of weekly rewards in the log.
        weeks_per_value: Weekly rewards that a value sums up: the length of its horizon; 1 for values of single weeks.
        carry_over_weeks: Weeks for which prices before a change still matter.
        block_weeks: Weeks of a block; None = chosen.
        power: Probability of showing the margin.
    """

    variation: WeeklyVariation
    weeks_per_value: float
    carry_over_weeks: int = 2
    block_weeks: int | None = None
    power: float = 0.8


@dataclass(frozen=True)
class CandidateVerdict:
    """What is decided about one policy.

    Attributes:
        name: Of the candidate.
        verdict: The verdict.
        reasons: What decided, each with the number found and the number needed; for a launch everything that held.
        gain: Estimated gain with its simultaneous bounds, currency; None = not identified.
    """

    name: str
    verdict: Verdict
    reasons: tuple[str, ...]
    gain: Interval | None


@dataclass(frozen=True)
class LaunchDecision:
    """What to do, and why.

    Attributes:
        verdict: Of the policy that was selected.
        selected: Its name: the best candidate with the best verdict.
        reasons: Its reasons.
        candidates: Verdict of every candidate, in the order given.
        manager_value: Currency per unit over the horizon.
        margin: Gain that is needed, currency per unit over the horizon.
        regret: Risk of the decision: of the selected policy if it is launched, else of keeping the manager; among the
            candidates that are identified. None = none is.
        experiment: Switchback that shows a gain above zero, if it is as large as the margin; None = the log decides.
        experiment_at_estimate: Switchback that shows a gain above the margin, as a launch needs, if it is as large as
            estimated: sized for what the estimate has beyond the margin. None = nothing, or less than any size shows.
    """

    verdict: Verdict
    selected: str
    reasons: tuple[str, ...]
    candidates: tuple[CandidateVerdict, ...]
    manager_value: float
    margin: float
    regret: RegretRisk | None
    experiment: SwitchbackPlan | None
    experiment_at_estimate: SwitchbackPlan | None

    def describe(self) -> str:
        """Verdict, reasons, experiment and risk in words, a line each."""
        lines = [f"{self.verdict}: {self.selected}", *(f"- {reason}" for reason in self.reasons)]
        if self.experiment is not None:
            lines.append(
                f"- an experiment that shows a gain above zero, if it is as large as a launch needs (the margin of"
                f" {_format(self.margin)}): {self.experiment.describe()}"
            )
        if self.experiment_at_estimate is not None:
            lines.append(
                "- an experiment that shows a gain above the margin, as a launch needs, if it is what the log"
                f" estimates: {self.experiment_at_estimate.describe()} (beyond the margin)"
            )
        if self.regret is not None:
            action = f"launching {self.selected}" if self.verdict is Verdict.LAUNCH else "keeping the manager"
            lines.append(
                f"- risk of {action}: with probability {self.regret.probability:.0%} something else is better, by"
                f" {_format(self.regret.expected)} on average over all luck"
            )
        return "\n".join(lines)


def decide_launch(
    candidates: Sequence[Candidate],
    manager: PolicyValue,
    experiment: ExperimentSettings,
    rules: LaunchRules | None = None,
    resample_weeks: bool = True,
    replicates: int = 2000,
    seed: int = 0,
) -> LaunchDecision:
    """Judge candidates against the manager, select the best and say what to do with it.

    Gains are paired differences with bounds that hold for all identified candidates at once (`bound_simultaneously`);
    which candidates these are depends on weights and prices, hardly on rewards, so that looking first costs nothing.
    Among launchable candidates the one with the highest lower bound is selected: what it is worth at least.

    Args:
        candidates: Candidates, valued from one log.
        manager: Value of the manager's policy by the same estimator or of the log itself, from the same log.
        experiment: How an experiment would be run.
        rules: What a policy has to show; None = the defaults.
        resample_weeks: See `intervals.bootstrap_value`.
        replicates: Bootstrap replicates.
        seed: Seed of the bootstrap.

    Returns:
        The decision.

    Raises:
        ValueError: If there is no candidate, names repeat, a sensitivity range is too narrow for the rules or does not
            hold the estimate, values are not from the same log, or an experiment cannot be sized.
    """
    rules = rules or LaunchRules()
    _check(candidates, manager, rules)
    margin = rules.margin_share * abs(manager.value)
    answers = [_identify(candidate, rules.identification) for candidate in candidates]
    known = [place for place, answer in enumerate(answers) if isinstance(answer, PolicyValue)]
    differences = [
        subtract_contributions(answer.contributions, manager.contributions)
        for answer in answers
        if isinstance(answer, PolicyValue)
    ]
    bounds = bound_simultaneously(differences, rules.confidence, resample_weeks, replicates, seed) if known else None
    verdicts = []
    for place, (candidate, answer) in enumerate(zip(candidates, answers, strict=True)):
        if isinstance(answer, NotIdentified):
            verdicts.append(CandidateVerdict(candidate.name, Verdict.EXPERIMENT_NEEDED, answer.reasons, None))
        elif bounds is not None:
            verdicts.append(_judge(candidate, _read_gain(bounds, known.index(place)), margin, len(known), rules))
    selected = max(range(len(verdicts)), key=lambda place: (_rank(verdicts[place]), -place))
    chosen = verdicts[selected]
    regret = None
    if bounds is not None:
        regret = estimate_regret_risk(bounds, known.index(selected) if chosen.verdict is Verdict.LAUNCH else None)
    plans = _plan_experiments(chosen, margin, experiment, rules)
    return LaunchDecision(
        chosen.verdict, chosen.name, chosen.reasons, tuple(verdicts), manager.value, margin, regret, *plans
    )


def _identify(candidate: Candidate, rules: IdentificationRules) -> PolicyValue | NotIdentified:
    """The value, or every reason against it."""
    if isinstance(candidate.value, NotIdentified):
        return candidate.value
    return judge_identification(
        candidate.value,
        rules,
        candidate.support_mass,
        candidate.price_episodes,
        candidate.stock_test,
        candidate.spill_test,
    )


def _judge(candidate: Candidate, gain: Interval, margin: float, family: int, rules: LaunchRules) -> CandidateVerdict:
    """Verdict of an identified candidate; see the table of the module."""
    assert candidate.sensitivity_range is not None  # checked at birth
    assert candidate.tail is not None
    together = f" for all {family} candidates at once" if family > 1 else ""
    sure = f"with {rules.confidence:.0%} confidence{together}"
    estimate = f"(estimate {_format(gain.value)})"
    if gain.upper <= margin:
        kind = "does worse than the manager" if gain.upper < 0.0 else "is not worth a launch"
        reason = (
            f"{candidate.name} {kind}: {sure} it earns at most {_format(gain.upper)} more {estimate}; a gain above"
            f" {_format(margin)} is needed"
        )
        return CandidateVerdict(candidate.name, Verdict.DO_NOT_LAUNCH, (reason,), gain)
    tail = candidate.tail
    worst = f"its worst outcomes differ from the manager's by {_format(tail.value)} (at most {_format(tail.upper)})"
    if tail.upper < 0.0:
        reason = f"{worst}; 0 or more is needed"
        return CandidateVerdict(candidate.name, Verdict.DO_NOT_LAUNCH, (reason,), gain)
    hidden = candidate.sensitivity_range.lower - (gain.value - gain.lower)
    needed = f"more than {_format(margin)} is needed"
    checks = (
        (
            gain.lower > margin,
            f"{sure} it earns at least {_format(gain.lower)} more than the manager {estimate}; {needed}",
        ),
        (
            hidden > margin or gain.lower <= margin,  # what is not shown at all needs no second reason
            f"if hidden knowledge moved the odds of the manager's decisions by {candidate.sensitivity:g}, the gain"
            f" could be as low as {_format(hidden)}; {needed}",
        ),
        (tail.value >= 0.0, f"{worst}; 0 or more is needed"),
    )
    failed = tuple(reason for holds, reason in checks if not holds)
    if failed:
        return CandidateVerdict(candidate.name, Verdict.EXPERIMENT_NEEDED, failed, gain)
    held = (*(reason for _, reason in checks), *_describe_identification(candidate, rules.identification))
    return CandidateVerdict(candidate.name, Verdict.LAUNCH, held, gain)


def _describe_identification(candidate: Candidate, rules: IdentificationRules) -> tuple[str, ...]:
    """What `judge_identification` found nothing against."""
    assert isinstance(candidate.value, PolicyValue)
    untested = (
        "no stock test could be run, as the log has no stock that moves: whether the buyer knew more of demand than the"
        " log holds was not looked at",
    )
    alone = (
        "whether items sell more where others run short was not looked at, as the log has no stock, no neighbours or"
        " no shortages",
    )
    return (
        f"the log supports {candidate.support_mass:.0%} of what the policy does; at least"
        f" {rules.least_support_mass:.0%} is needed",
        f"the log is worth {candidate.value.effective_sample_size:.0f} observations of this policy; at least"
        f" {rules.least_sample_size:.0f} are needed",
        f"prices were decided {candidate.price_episodes} times; at least {rules.least_price_episodes} distinct price"
        " episodes are needed",
        *(untested if candidate.stock_test is None else ()),
        *(alone if candidate.spill_test is None else ()),
    )


def _plan_experiments(
    chosen: CandidateVerdict, margin: float, experiment: ExperimentSettings, rules: LaunchRules
) -> tuple[SwitchbackPlan | None, SwitchbackPlan | None]:
    """Switchbacks that show a gain above zero at the margin, and a gain above the margin at the estimate."""
    if chosen.verdict is not Verdict.EXPERIMENT_NEEDED:
        return None, None

    def plan(gain: float) -> SwitchbackPlan:
        return plan_switchback(
            experiment.variation,
            gain / experiment.weeks_per_value,
            experiment.carry_over_weeks,
            experiment.block_weeks,
            experiment.power,
            round(1.0 - rules.confidence, 12),
        )

    if chosen.gain is None or chosen.gain.value <= margin:
        return plan(margin), None
    try:
        # A launch needs a lower bound above the margin: what has to be told from it is the rest of the gain.
        return plan(margin), plan(chosen.gain.value - margin)
    except RefusalError:  # an estimate just above the margin; how far it is beyond is more than any experiment shows
        return plan(margin), None


def _rank(verdict: CandidateVerdict) -> tuple[int, float]:
    """Launch before experiment before rejection; within the first two the highest lower bound, then the highest upper.

    An experiment on a policy whose value is known in part is tried before one on a policy of which nothing is known.
    """
    order = (Verdict.DO_NOT_LAUNCH, Verdict.EXPERIMENT_NEEDED, Verdict.LAUNCH).index(verdict.verdict)
    if verdict.gain is None:
        return order, float("-inf")
    return order, verdict.gain.upper if verdict.verdict is Verdict.DO_NOT_LAUNCH else verdict.gain.lower


def _read_gain(bounds: SimultaneousBounds, place: int) -> Interval:
    return Interval(float(bounds.values[place]), float(bounds.lower[place]), float(bounds.upper[place]))


def _check(candidates: Sequence[Candidate], manager: PolicyValue, rules: LaunchRules) -> None:
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"candidates are called {names}; expected one or more, each with a name of its own")
    if manager.value == 0.0:
        raise ValueError("the manager's value is 0; a margin cannot be a share of it. Add what is fixed to the rewards")
    for candidate in candidates:
        if isinstance(candidate.value, NotIdentified) or candidate.sensitivity_range is None:
            continue
        if candidate.sensitivity < rules.sensitivity:
            raise ValueError(
                f"candidate {candidate.name}: the range is that of sensitivity {candidate.sensitivity:g}; the rules ask"
                f" for {rules.sensitivity:g}. Bound it anew"
            )
        gain = candidate.value.value - manager.value
        tolerance = _RANGE_TOLERANCE * abs(manager.value)
        lower, upper = candidate.sensitivity_range
        if not lower - tolerance <= gain <= upper + tolerance:
            raise ValueError(
                f"candidate {candidate.name}: sensitivity_range is {lower:g} to {upper:g}, which does not hold the"
                f" estimated difference {gain:g}; give the range of the difference to the manager, not of the value"
            )


def _format(amount: float) -> str:
    """Currency: cents where there are units, three digits below."""
    return f"{amount:,.2f}" if abs(amount) >= 1.0 or amount == 0.0 else f"{amount:.3g}"
