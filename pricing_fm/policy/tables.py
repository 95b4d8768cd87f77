"""Answers as tables: the columns of `forecast`, `demand_curve` and `recommend`."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm.errors import PanelError
from pricing_fm.policy.engine import PathDemand
from pricing_fm.policy.planning import total_quantile, unit_values
from pricing_fm.policy.situation import Situation
from pricing_fm.policy.units import ROUNDING

NORMAL_80 = 1.2816  # standard normal quantile of 0.9: an 80 % interval
LOWER_LEVEL = 0.1
COLUMNS = (
    "item_id", "timestamp", "current_price", "price", "promotion", "expected_units", "expected_margin",
    "expected_margin_lower", "objective", "supported", "fallback", "ignores_substitution", "propensity",
    "binding_rule", "group_margin", "explanation",
)  # fmt: skip


def interpolate_levels(quantile_values: np.ndarray, levels: np.ndarray, wanted: list[float]) -> np.ndarray:
    """Quantiles `(..., Q)` at other probabilities, linear between neighbours: `(..., len(wanted))`.

    Raises:
        PanelError: If a wanted level lies outside the network's levels.
    """
    outside = [level for level in wanted if not levels[0] <= level <= levels[-1]]
    if outside or not wanted:
        raise PanelError(f"quantile_levels must lie in [{levels[0]}, {levels[-1]}], found {outside or wanted}")
    place = np.interp(wanted, levels, np.arange(len(levels)))
    low = np.minimum(place.astype(int), len(levels) - 2)
    share = place - low
    return quantile_values[..., low] * (1 - share) + quantile_values[..., low + 1] * share


def step_table(item_ids: tuple[str, ...], timestamps: np.ndarray) -> dict[str, np.ndarray]:
    """Key columns of a table with one row per item and step: `(N,)`, `(N, H)` -> columns of `N * H`."""
    return {
        "item_id": np.repeat(np.asarray(item_ids, dtype=object), timestamps.shape[1]),
        "timestamp": timestamps.astype("datetime64[ns]").ravel(),
    }


def quantile_columns(quantile_values: np.ndarray, levels: list[float], prefix: str = "") -> dict[str, np.ndarray]:
    """One column per level, named by the level: `(..., len(levels))` -> columns of the leading size."""
    return {f"{prefix}{level}": quantile_values[..., place].ravel() for place, level in enumerate(levels)}


@dataclass(frozen=True)
class Chosen:
    """The choice for N items.

    Args:
        column (`(N,)`, int64): Candidate.
        propensity (`(N,)`): Probability of its price.
        binding_rule (`(N,)`, object): Rule that moved it; empty when none did.
        supported (`(N,)`, bool): Whether such a price was tried.
        source (`str`): Which network chose.
    """

    column: np.ndarray
    propensity: np.ndarray
    binding_rule: np.ndarray
    supported: np.ndarray
    source: str


def recommendation_table(
    situation: Situation,
    objective: str,
    costs: np.ndarray,
    prices: np.ndarray,
    demand: PathDemand,
    chosen: Chosen,
    levels: np.ndarray,
    step_correlation: float,
    lead: int,
) -> pd.DataFrame:
    """Expected results of the chosen prices, one row per item.

    Args:
        situation (`Situation`): N items.
        objective (`str`): What was maximised.
        costs (`(N,)`): Unit costs, currency; NaN = unknown.
        prices (`(N, P)`): Candidates, the item's own price last.
        demand (`PathDemand`): Along them.
        chosen (`Chosen`): The choice.
        levels (`(Q,)`): Quantile levels of `demand`.
        step_correlation (`float`): Of the steps' forecast errors.
        lead (`int`): Leading periods that do not count.

    Returns:
        `pd.DataFrame`: Columns of `recommend`, and what the explanation needs.
    """
    rows, best = np.arange(len(situation)), chosen.column
    per_unit = _shown_unit_values(prices, costs, objective)
    sold = demand.mean[:, :, lead:].sum(-1)
    counted = sold if objective == "units" else per_unit * sold
    at_price = per_unit[rows, best]
    # A price below cost loses most when most is sold.
    level = np.where(at_price >= 0, LOWER_LEVEL, 1 - LOWER_LEVEL)
    lower = total_quantile(demand.quantile_values[rows, best, lead:], levels, level, step_correlation)
    elasticity = demand.elasticity[rows, best, lead:].mean(-1)
    spread = NORMAL_80 * demand.elasticity_std[rows, best, lead:].mean(-1)
    return pd.DataFrame(
        {
            **_item_columns(situation, lead),
            "price": prices[rows, best],
            "expected_units": sold[rows, best],
            "expected_margin": at_price * sold[rows, best],
            "expected_margin_lower": at_price * lower,
            "objective": objective,
            "supported": chosen.supported,
            "fallback": False,
            "propensity": chosen.propensity,
            "binding_rule": chosen.binding_rule,
            "value": counted[rows, best],
            "base_value": counted[:, -1],
            "elasticity": elasticity,
            "elasticity_lower": elasticity - spread,
            "elasticity_upper": elasticity + spread,
            "source": chosen.source,
        }
    )


def _shown_unit_values(prices: np.ndarray, costs: np.ndarray, objective: str) -> np.ndarray:
    if objective != "units":
        return unit_values(prices, costs, objective)
    # Margin is still what a reader wants to see, item by item where it is known.
    margin, revenue = (unit_values(prices, costs, worth) for worth in ("margin", "revenue"))
    return np.where(np.isfinite(costs)[:, None], margin, revenue)


def _item_columns(situation: Situation, lead: int) -> dict[str, object]:
    return {
        "item_id": situation.item_ids,
        "current_price": situation.current_price,
        "promotion": situation.planned_promotion[:, lead],
        "observed_periods": situation.observed_periods,
    }


def fallback_table(
    situation: Situation,
    objectives: np.ndarray,
    prices: np.ndarray,
    binding: np.ndarray,
    propensity: np.ndarray,
    source: str,
    lead: int,
) -> pd.DataFrame:
    """Rows of items about which too little is known: the price of their unit or their own, and no expectation.

    Args:
        situation (`Situation`): N items.
        objectives (`(N,)`, object): What would have been maximised.
        prices (`(N,)`): Currency; NaN = none is known.
        binding (`(N,)`, object): Rule that moved the price; empty when none did.
        propensity (`(N,)`): Probability of the price; 1 unless it was drawn for the unit.
        source (`str`): Which network would have answered.
        lead (`int`): Periods before the price is in force.

    Returns:
        `pd.DataFrame`: `fallback` is True.
    """
    return pd.DataFrame(
        {
            **_item_columns(situation, lead),
            "price": prices,
            "expected_units": np.nan,
            "expected_margin": np.nan,
            "expected_margin_lower": np.nan,
            "objective": objectives,
            "supported": False,
            "fallback": True,
            "propensity": propensity,
            "binding_rule": binding,
            "source": source,
        }
    )


def finished_table(table: pd.DataFrame, timestamp: np.datetime64, groups: np.ndarray, periods: int) -> pd.DataFrame:
    """Adds what concerns all rows, and puts the columns in their order.

    Args:
        table (`pd.DataFrame`): Rows of both kinds, sorted by item.
        timestamp (`np.datetime64`): First period priced.
        groups (`(N,)`): Substitute group of each item.
        periods (`int`): Periods the totals cover.

    Returns:
        `pd.DataFrame`: Columns of `recommend`.
    """
    table = table.assign(timestamp=pd.Timestamp(timestamp).as_unit("ns"))
    # Cross-price effects are not modelled yet: a cut may steal from a sibling, and the reader must know.
    table["ignores_substitution"] = True
    table["group_margin"] = table["expected_margin"].groupby(groups).transform("sum", min_count=1)
    table["explanation"] = [explain(row, periods) for _, row in table.iterrows()]
    return table[list(COLUMNS)]


def explain(row: pd.Series, periods: int) -> str:
    """One sentence that says why this price.

    Args:
        row (`pd.Series`): A row of `recommendation_table` or `fallback_table`.
        periods (`int`): Periods the totals cover.

    Returns:
        `str`.
    """
    head = _describe_move(row["current_price"], row["price"])
    if row["fallback"]:
        text = f"{head}: only {row['observed_periods']} observed period(s), too few to judge a price; {row['source']}"
    else:
        text = (
            f"{head}: expected {row['objective']} {row['value']:.2f} over {periods} period(s) against "
            f"{row['base_value']:.2f} at {row['current_price']:.2f}; elasticity {row['elasticity']:.2f}"
        )
        if np.isfinite(row["elasticity_lower"]):
            text += f" ({row['elasticity_lower']:.2f} to {row['elasticity_upper']:.2f})"
        text += f"; price {'inside' if row['supported'] else 'OUTSIDE'} what the log has tried; {row['source']}"
    return f"{text}; bound by {row['binding_rule']}." if row["binding_rule"] else f"{text}."


def _describe_move(current: float, price: float) -> str:
    if not np.isfinite(current):
        # Either no price is known at all, or the decision unit's.
        return "Priced like its zone" if np.isfinite(price) else "No price"
    if abs(price - current) <= ROUNDING:
        return "Kept"
    return f"{'Raised' if price > current else 'Cut'} by {abs(price / current - 1):.1%}"
