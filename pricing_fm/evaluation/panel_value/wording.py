"""Findings in the words of people who decide."""

import math

from pricing_fm.evaluation.off_policy import CandidateVerdict, SwitchbackPlan, Verdict
from pricing_fm.evaluation.panel_value.evaluation import PanelValueEvaluation
from pricing_fm.evaluation.panel_value.figures import name_policy
from pricing_fm.metrics import Interval

VERDICTS = {
    Verdict.LAUNCH: "launch",
    Verdict.DO_NOT_LAUNCH: "do not launch",
    Verdict.EXPERIMENT_NEEDED: "experiment needed",
}
ABOVE_MARGIN = "what a launch asks for"
_WEEKS_OF_A_YEAR = 52.0


def summarize(found: PanelValueEvaluation) -> list[str]:
    """The answer in a few lines.

    Args:
        found: The evaluation.

    Returns:
        Sentences for the top of the page.
    """
    decision, period = found.decision, name_period(found)
    chosen = name_policy(decision.selected)
    lines = [
        {
            Verdict.LAUNCH: f"Launch {chosen}: the log shows that it earns more than today's prices.",
            Verdict.DO_NOT_LAUNCH: f"Keep today's prices: the log speaks against every candidate, {chosen} included.",
            Verdict.EXPERIMENT_NEEDED: f"The log cannot tell whether to launch {chosen}, the candidate with the best"
            " prospects: run an experiment or keep today's prices.",
        }[decision.verdict]
    ]
    if found.manager is not None:
        own = found.manager.value
        lines.append(
            f"Today's prices earn {format_money(own.value)} of {found.costs.objective} per item and {period}"
            f" ({format_ends(own)})."
        )
        for policy in found.policies:
            if policy.gain is not None:
                share = take_share(policy.gain, own.value)
                told = f"{share.value:+.1%}; nine times out of ten {share.lower:+.1%} to {share.upper:+.1%}"
                name = name_policy(policy.name)
                if is_identified(found, policy.name):
                    lines.append(
                        f"{name} would have earned {told}, if today's prices followed nothing that the log does not"
                        f" hold. Verdict: {find_verdict(found, policy.name)}."
                    )
                else:
                    lines.append(
                        f"What {name} would have earned the log cannot tell: too few of its prices were charged. The"
                        f" best guess is {told}. Verdict: {find_verdict(found, policy.name)}."
                    )
    if decision.experiment_at_estimate is not None:
        plan = describe_plan(found, decision.experiment_at_estimate, ABOVE_MARGIN)
        lines.append(f"The experiment that would decide, if the gain is what the log estimates: {plan}.")
    elif decision.experiment is not None:
        lines.append(
            "An experiment that would show a gain above zero, which is less than a launch asks for:"
            f" {describe_plan(found, decision.experiment)}."
        )
    return lines


def find_verdict(found: PanelValueEvaluation, name: str) -> str:
    """Verdict of one policy.

    Args:
        found: The evaluation.
        name: Of the policy.

    Returns:
        Words.
    """
    return next(VERDICTS[verdict.verdict] for verdict in found.decision.candidates if verdict.name == name)


def is_identified(found: PanelValueEvaluation, name: str) -> bool:
    """Whether the log tells what a policy would have earned.

    Args:
        found: The evaluation.
        name: Of the policy.

    Returns:
        False = its value is a guess.
    """
    return any(verdict.gain is not None for verdict in found.decision.candidates if verdict.name == name)


def tell_reasons(found: PanelValueEvaluation, verdict: CandidateVerdict) -> str:
    """Reasons of a verdict.

    Args:
        found: The evaluation.
        verdict: Of one policy.

    Returns:
        Sentences.
    """
    sentences = [f"{_begin(reason.replace(verdict.name, name_policy(verdict.name)))}." for reason in verdict.reasons]
    if verdict.gain is not None:
        sentences.append(
            f"(Earnings are per item over all {count_periods(found)} {name_period(found)}s; worst outcomes in units of"
            " what an item usually earns.)"
        )
    return " ".join(sentences)


def _begin(sentence: str) -> str:
    """A capital first, unless it begins with the name of a thing."""
    return sentence if "_" in sentence.split(" ")[0] else f"{sentence[0].upper()}{sentence[1:]}"


def describe_plan(found: PanelValueEvaluation, plan: SwitchbackPlan, bound: str = "zero") -> str:
    """An experiment.

    Args:
        found: The evaluation.
        plan: Of a switchback.
        bound: What it shows the gain to be above.

    Returns:
        Half a sentence.
    """
    period, years = name_period(found), plan.num_weeks / _WEEKS_OF_A_YEAR
    length = f"{plan.num_weeks:,} {period}s"
    if period == "week" and years > 2.0:
        length += f", that is {years:,.0f} years"
    return (
        f"{plan.num_units:,} units in {2 * plan.pairs_per_unit:,} blocks of {plan.block_weeks} {period}s, of which the"
        f" first {plan.washout_weeks} are not counted ({length}), show a gain above {bound} with probability"
        f" {plan.power:.0%}, if it lies above by {format_money(plan.effect)} per unit and {period}"
    )


def name_period(found: PanelValueEvaluation) -> str:
    """Week, or period for other frequencies.

    Args:
        found: The evaluation.

    Returns:
        Singular.
    """
    return "week" if found.task.panel.frequency.name == "W" else "period"


def count_periods(found: PanelValueEvaluation) -> int:
    """Periods that a value sums up.

    Args:
        found: The evaluation.

    Returns:
        Valued periods; 1 where nothing is identified and values are means per period.
    """
    return found.weeks.units.shape[1] if found.manager is not None else 1


def take_share(gain: Interval, base: float) -> Interval:
    """A gain relative to something.

    Args:
        gain: Currency.
        base: Currency.

    Returns:
        Shares.
    """
    return Interval(gain.value / base, gain.lower / base, gain.upper / base)


def format_ends(interval: Interval) -> str:
    """Both ends of an interval.

    Args:
        interval: Currency.

    Returns:
        Text; a dash where there is no interval.
    """
    return f"{format_money(interval.lower)} to {format_money(interval.upper)}" if math.isfinite(interval.lower) else "–"


def format_money(amount: float) -> str:
    """Currency: cents, three digits where that would be nothing.

    Args:
        amount: Currency.

    Returns:
        Text.
    """
    return f"{amount:,.2f}" if abs(amount) >= 0.1 or amount == 0.0 else f"{amount:.3g}"
