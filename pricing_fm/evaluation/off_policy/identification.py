"""When the honest answer is that the log cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pricing_fm.evaluation.off_policy.contributions import NotIdentified, PolicyValue
from pricing_fm.evaluation.off_policy.stock_test import SpillOverTest, StockTest

Value = TypeVar("Value", bound=PolicyValue)


@dataclass(frozen=True)
class IdentificationRules:
    """Below which the log is taken to say nothing.

    Attributes:
        least_support_mass: Share of the policy's actions that the manager takes at least now and then.
        most_trimmed_mass: Share of the policy's weight that may rest on decisions below the propensity floor.
        least_sample_size: Equally weighted unit-periods (or units, for trajectories) that the weights are worth.
        least_price_episodes: Distinct price episodes.
        stock_level: Level at which a relation of stock and unexplained demand counts as shown.
        spill_level: Level at which demand that neighbours could not serve counts as shown to come to an item.

    Raises:
        ValueError: If a share or level is outside [0, 1].
    """

    least_support_mass: float = 0.8
    most_trimmed_mass: float = 0.2
    least_sample_size: float = 100.0
    least_price_episodes: int = 30
    stock_level: float = 0.05
    spill_level: float = 0.05

    def __post_init__(self) -> None:
        for name in ("least_support_mass", "most_trimmed_mass", "stock_level", "spill_level"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")


def judge_identification(
    value: Value,
    rules: IdentificationRules | None = None,
    support_mass: float | None = None,
    price_episodes: int | None = None,
    stock_test: StockTest | None = None,
    spill_test: SpillOverTest | None = None,
) -> Value | NotIdentified:
    """Return the value, or say why the log cannot give one.

    Args:
        value: What an estimator returned.
        rules: Thresholds; None = the defaults.
        support_mass: Mean of `weights.compute_support_mass`; None = not judged.
        price_episodes: From `intervals.count_price_episodes`; None = not judged.
        stock_test: Of the demand model behind a structured value; None = not judged.
        spill_test: Likewise.

    Returns:
        The value itself, or all reasons against it.
    """
    rules = rules or IdentificationRules()
    reasons = []
    if support_mass is not None and support_mass < rules.least_support_mass:
        reasons.append(
            f"the log supports {support_mass:.0%} of what the policy does; at least {rules.least_support_mass:.0%} is"
            " needed"
        )
    if value.trimmed_mass > rules.most_trimmed_mass:
        reasons.append(
            f"{value.trimmed_mass:.0%} of the policy's weight rests on decisions that the manager hardly ever takes; at"
            f" most {rules.most_trimmed_mass:.0%} may"
        )
    if value.effective_sample_size < rules.least_sample_size:
        reasons.append(
            f"the log is worth {value.effective_sample_size:.0f} observations of this policy; at least"
            f" {rules.least_sample_size:.0f} are needed"
        )
    if price_episodes is not None and price_episodes < rules.least_price_episodes:
        reasons.append(
            f"prices were decided {price_episodes} times; at least {rules.least_price_episodes} distinct price episodes"
            " are needed"
        )
    if stock_test is not None and stock_test.p_value < rules.stock_level:
        direction = "more" if stock_test.statistic > 0 else "less"
        reasons.append(
            f"there was {direction} stock in weeks when demand was higher than price and calendar explain (p ="
            f" {stock_test.p_value:.3f}): the buyer, or another item, knew something that the log does not hold"
        )
    # Demand that falls where neighbours run short is no spill-over, but no independence either.
    if spill_test is not None and spill_test.p_value < rules.spill_level:
        reasons.append(
            f"an item sells {'more' if spill_test.statistic > 0 else 'less'} where its neighbours run short (p ="
            f" {spill_test.p_value:.3f}): items cannot be valued one by one"
        )
    return NotIdentified(value.estimator, tuple(reasons)) if reasons else value
