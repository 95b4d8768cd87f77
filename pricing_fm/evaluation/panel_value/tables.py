"""What was found as plain tables and result rows."""

import math

import numpy as np
import pandas as pd

from pricing_fm.evaluation.off_policy import NotIdentified, PolicyValue
from pricing_fm.evaluation.panel_value.evaluation import PanelValueEvaluation
from pricing_fm.evaluation.panel_value.findings import PolicyFindings
from pricing_fm.evaluation.panel_value.valuation import MANAGER
from pricing_fm.evaluation.panel_value.wording import is_identified
from pricing_fm.metrics import Interval
from pricing_fm.results import ResultRow


def build_tables(found: PanelValueEvaluation) -> dict[str, pd.DataFrame]:
    """Tables by name, currency per item and period.

    Args:
        found: The evaluation.

    Returns:
        `policies` (one row per policy), `gains` (`policy, kind, group, gain, lower, upper`; kind is all, category,
        segment or cost_share), `sensitivity` (`policy, knowledge, sensitivity, lower, upper`), `changes` (see
        `diagnostics.describe_changes`), `prices` (`policy, item_id, timestamp, price, logged_price`) and, where the
        manager's habits are known, `calibration`.
    """
    tables = {
        "policies": pd.DataFrame([_describe_policy(found, policy) for policy in found.policies]),
        "gains": pd.DataFrame(
            [row for policy in found.policies for row in _list_gains(policy)],
            columns=["policy", "kind", "group", "gain", "lower", "upper"],
        ),
        "sensitivity": pd.DataFrame(
            [
                {
                    "policy": policy.name,
                    "knowledge": kind,
                    "sensitivity": size,
                    "lower": ends.lower,
                    "upper": ends.upper,
                }
                for policy in found.policies
                for kind, ranges in (("any", policy.sensitivity), ("level", policy.sensitivity_to_level))
                for size, ends in (ranges or {}).items()
            ],
            columns=["policy", "knowledge", "sensitivity", "lower", "upper"],
        ),
        "prices": pd.concat([_list_prices(found, policy) for policy in found.policies], ignore_index=True),
    }
    changes = [policy.changes.assign(policy=policy.name) for policy in found.policies if policy.changes is not None]
    if changes:
        tables["changes"] = pd.concat(changes, ignore_index=True)
    if found.calibration_bins is not None:
        tables["calibration"] = found.calibration_bins
    return tables


def build_rows(found: PanelValueEvaluation, task: str) -> list[ResultRow]:
    """Result rows; a policy that charges none of the logged prices has no value.

    Args:
        found: The evaluation.
        task: Name of the task.

    Returns:
        `value` of manager and policies (currency per item and period, per category too), `identified` (0 = the value
        is a guess that leans on the demand model), `gain`, `ess`,
        `support_mass`, `trimmed_mass`, `gain_sensitivity_*`, `gain_cost_share_*`, `cvar_difference`, `price_episodes`,
        `behavior_ece`, `regret` of the decision.
    """
    seed, items = found.task.seed, len(found.weeks.item_ids)

    def row(
        name: str, value: float, model: str, ends: Interval | None = None, category: str | None = None
    ) -> ResultRow:
        lower, upper = (None, None) if ends is None else (_finite(ends.lower), _finite(ends.upper))
        return ResultRow(name, value, model, task, lower=lower, upper=upper, n=items, category=category, seed=seed)

    mean = found.log_mean
    rows = [row("log_mean", mean.value, MANAGER, mean), row("price_episodes", float(found.episodes), MANAGER)]
    if found.calibration is not None:
        for name, error in (("behavior_ece", found.calibration.action), ("change_ece", found.calibration.change)):
            rows.append(row(name, error.value, MANAGER, Interval(error.value, error.lower, error.upper)))
    if found.manager is not None:
        rows.append(row("value", found.manager.value.value, MANAGER, found.manager.value))
        for label, own in found.manager.by_category.items():
            rows.append(row("value", own.value, MANAGER, own, label))
    for policy in found.policies:
        if policy.support is not None:
            rows.append(row("support_mass", policy.support.usual, policy.name))
            rows.append(row("support_tried", policy.support.tried_by_item, policy.name))
        if policy.value is None or policy.gain is None:
            continue
        rows.append(row("identified", float(is_identified(found, policy.name)), policy.name))
        rows.append(row("value", policy.value.value, policy.name, policy.value))
        rows += [row(name, gain.value, policy.name, gain, group) for name, group, gain in _name_gains(policy)]
        assert isinstance(policy.candidate.value, PolicyValue)
        rows.append(row("ess", policy.candidate.value.effective_sample_size, policy.name))
        rows.append(row("trimmed_mass", policy.candidate.value.trimmed_mass, policy.name))
        for size, ends in (policy.sensitivity or {}).items():
            shown = Interval(policy.gain.value, ends.lower, ends.upper)
            rows.append(row(f"gain_sensitivity_{size:g}", policy.gain.value, policy.name, shown))
        if policy.tail is not None:
            rows.append(row("cvar_difference", policy.tail.value, policy.name, policy.tail))
    if found.decision.regret is not None:
        rows.append(row("regret", found.decision.regret.expected / _count_periods(found), found.decision.selected))
    return rows


def _count_periods(found: PanelValueEvaluation) -> int:
    return found.weeks.units.shape[1]


def _name_gains(policy: PolicyFindings) -> list[tuple[str, str | None, Interval]]:
    """Metric name, category and gain."""
    named: list[tuple[str, str | None, Interval]] = []
    if policy.gain is not None:
        named.append(("gain", None, policy.gain))
    named += [("gain", label, gain) for label, gain in (policy.gain_by_category or {}).items()]
    named += [(f"gain_cost_share_{share:g}", None, gain) for share, gain in (policy.gain_at_costs or {}).items()]
    return named


def _list_gains(policy: PolicyFindings) -> list[tuple[str, str, str, float, float, float]]:
    groups: list[tuple[str, str, Interval]] = []
    if policy.gain is not None:
        groups.append(("all", "all", policy.gain))
    groups += [("category", label, gain) for label, gain in (policy.gain_by_category or {}).items()]
    groups += [("segment", label, gain) for label, gain in (policy.gain_by_segment or {}).items()]
    groups += [("cost_share", f"{share:g}", gain) for share, gain in (policy.gain_at_costs or {}).items()]
    return [(policy.name, kind, label, gain.value, gain.lower, gain.upper) for kind, label, gain in groups]


def _list_prices(found: PanelValueEvaluation, policy: PolicyFindings) -> pd.DataFrame:
    weeks = found.weeks
    items, periods = (place.ravel() for place in np.indices(policy.prices.shape))
    return pd.DataFrame(
        {
            "policy": policy.name,
            "item_id": weeks.item_ids[items],
            "timestamp": weeks.timestamps[periods],
            "price": policy.prices.ravel(),
            "logged_price": weeks.recorded_prices.ravel(),
        }
    )


def _describe_policy(found: PanelValueEvaluation, policy: PolicyFindings) -> dict[str, object]:
    """One line with everything."""
    verdict = next(entry for entry in found.decision.candidates if entry.name == policy.name)
    line: dict[str, object] = {"policy": policy.name, "verdict": str(verdict.verdict)}
    for name, ends in (
        *(("value", policy.value), ("gain", policy.gain), ("gain_model_alone", policy.model_alone)),
        *(("gain_student", policy.gain_by_student), ("value_weighted_log", policy.weighted_log)),
        ("cvar_difference", policy.tail),
    ):
        if ends is not None:
            line |= {name: ends.value, f"{name}_lower": ends.lower, f"{name}_upper": ends.upper}
    if policy.support is not None and policy.monotone is not None:
        line |= {
            "support_mass": policy.support.usual,
            "support_tried_by_item": policy.support.tried_by_item,
            "support_tried_by_category": policy.support.tried_by_category,
            "same_price": policy.support.same_price,
            "monotone_lower": policy.monotone.lower,
            "monotone_upper": policy.monotone.upper,
            "untried": policy.monotone.untried,
        }
    if not isinstance(policy.candidate.value, NotIdentified):
        line["ess"] = policy.candidate.value.effective_sample_size
        line["trimmed_mass"] = policy.candidate.value.trimmed_mass
        line["downside"] = policy.downside
    if policy.parity is not None:
        line["price_gap_between_segments"] = policy.parity.gap
    return line


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
