"""Prices planned for a sweep of reward weights: what margin costs in units, revenue, surplus and price stability.

Every point maximises a weighted sum of terms, so without caution none is beaten in both of its objectives by another
one; points of a front that bends inwards are not found this way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from pricing_fm.objectives.reward import SAME_PRICE, RewardWeights, ladder_rewards
from pricing_fm.policy.options import LISTED, OWN, PriceOptions
from pricing_fm.policy.planning import PlannedValue

# What each sweep trades margin for: the column of the points' table that its term pays for, and its sign there.
OBJECTIVES = {"units": "units", "revenue": "revenue", "satisfaction": "surplus", "price_change": "kept"}
OUTCOMES = ("margin", "revenue", "units", "surplus", "kept")
# The terms a plan can weigh; stock is not part of it.
TERMS = ("margin", "revenue", "units", "price_change", "satisfaction")
NEGLIGIBLE = 1e-9  # of the current margin: what two sums may differ by without one being better


@dataclass(frozen=True)
class PlanTerms:
    """The reward's terms of every candidate price at weight one, totals over the periods, currency.

    Args:
        mean (`dict[str, (N, P)]`): By term.
        members (`dict[str, (N, P, M)]`): The same by response member.
        units (`(N, P)`): Expected units sold.
    """

    mean: dict[str, np.ndarray]
    members: dict[str, np.ndarray]
    units: np.ndarray

    def value(self, weights: RewardWeights) -> PlannedValue:
        """Weighted sum of the terms."""
        share = {name: getattr(weights, name) for name in TERMS}
        return PlannedValue(
            mean=sum(weight * self.mean[name] for name, weight in share.items()),
            members=sum(weight * self.members[name] for name, weight in share.items()),
        )


def planned_terms(options: PriceOptions) -> PlanTerms:
    """The terms as the model believes them; stock limits nothing."""
    mean, members = options.expected_units, options.member_units
    return build_terms(options, np.concatenate([mean[..., None], members], axis=-1))


def build_terms(options: PriceOptions, demand: np.ndarray, sales: np.ndarray | None = None) -> PlanTerms:
    """The reward's terms from totals of demand at every candidate price.

    Shares are those of the current price and of what sells at it in a period; a change is paid for once, however long
    the price is held.

    Args:
        options (`PriceOptions`): Prices, costs, periods.
        demand (`(N, P, 1 + M)`): Units wanted over the periods: the expectation, and it by response member.
        sales (`(N, P, 1 + M)`, *optional*): What a stock serves of it; by default all.

    Returns:
        `PlanTerms`.
    """
    sales = demand if sales is None else sales
    order = options.prices.argsort(1, kind="stable")
    back = order.argsort(1, kind="stable")

    def ladder(values: np.ndarray) -> torch.Tensor:  # (N, P, 1 + M) -> (N, 1 + M, P) along never falling prices
        return torch.from_numpy(np.take_along_axis(values, order[..., None], axis=1)).transpose(1, 2)

    shape = (demand.shape[0], demand.shape[2])
    periods = options.demand.mean.shape[-1] - options.lead

    def per_item(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))[:, None].expand(shape)

    _, terms = ladder_rewards(
        RewardWeights(**dict.fromkeys(TERMS, 1.0)),
        ladder(np.repeat(options.prices[..., None], shape[1], axis=2)),
        per_item(options.costs),
        ladder(demand),
        ladder(sales),
        per_item(back[:, OWN]),
        per_item(options.current_price),
        per_item(sales[:, OWN, 0] / periods),
        torch.full(shape, torch.nan),
    )
    found = {name: np.take_along_axis(terms[name].numpy(), back[:, None], axis=2).transpose(0, 2, 1) for name in TERMS}
    return PlanTerms(
        mean={name: values[..., 0] for name, values in found.items()},
        members={name: values[..., 1:] for name, values in found.items()},
        units=sales[..., 0],
    )


@dataclass(frozen=True)
class FrontPlan:
    """Planned prices of a sweep and what they bring.

    Args:
        weights (`tuple[RewardWeights, ...]`): Of each point.
        columns (`(points, N)`, int64): Candidate of each item at each point.
        table (`pd.DataFrame`): One row per point, from `measure_points`.
    """

    weights: tuple[RewardWeights, ...]
    columns: np.ndarray
    table: pd.DataFrame


def plan_front(
    options: PriceOptions, terms: PlanTerms, base: RewardWeights, sweeps: Mapping[str, Sequence[float]], caution: float
) -> FrontPlan:
    """Plans the prices of every item for every weight, and marks the points that another one beats.

    Args:
        options (`PriceOptions`): What may be chosen.
        terms (`PlanTerms`): What it is worth, from `planned_terms`, or the truth.
        base (`RewardWeights`): Weights that hold at every point, the swept one aside.
        sweeps (`Mapping[str, Sequence[float]]`): Swept term (a key of `OBJECTIVES`) to its weights.
        caution (`float`): As in `PriceOptions.choose`.

    Returns:
        `FrontPlan`: Points in the order of the sweeps; behind each sweep's, current and list prices.

    Raises:
        ValueError: If a sweep is unknown or empty, or the base weighs stock, which a front does not plan.
    """
    unknown = sorted(set(sweeps) - set(OBJECTIVES))
    if unknown or not sweeps or not all(len(values) for values in sweeps.values()):
        raise ValueError(f"sweeps {sorted(sweeps)}: expected one or more of {sorted(OBJECTIVES)}, weights for each")
    if base.stock_target > 0 or base.lost_sales > 0:
        raise ValueError("a front plans without stock: leave stock_target and lost_sales at 0")
    weights, columns, labels = [], [], []
    for sweep, values in sweeps.items():
        for value in values:
            weights.append(replace(base, **{sweep: float(value)}))
            columns.append(options.choose(terms.value(weights[-1]), caution))
            labels.append((sweep, "planned", float(value)))
        for kind, column in (("current", OWN), ("list", LISTED)):
            if kind == "current" or np.isfinite(options.list_price).all():
                weights.append(base)
                columns.append(np.full(len(options), options.prices.shape[1] + column))
                labels.append((sweep, kind, np.nan))
    chosen = np.array(columns)
    table = pd.DataFrame(labels, columns=["sweep", "kind", "weight"]).join(measure_points(options, terms, chosen))
    return FrontPlan(tuple(weights), chosen, table.assign(dominated=find_dominated(table)))


def measure_points(options: PriceOptions, terms: PlanTerms, columns: np.ndarray) -> pd.DataFrame:
    """What price vectors bring, in currency and units, and against the current prices.

    Args:
        options (`PriceOptions`): Prices.
        terms (`PlanTerms`): What they bring.
        columns (`(points, N)`, int64): Candidate of each item.

    Returns:
        `pd.DataFrame`: `margin, revenue, surplus` (gain of consumer surplus over current prices; currency), `units`,
        `kept` (share of the current revenue whose prices stay: a change costs by the item's revenue), `changed` (share
        of the prices that change); `*_change`: of margin, revenue and units relative to the current prices, of the
        surplus as a share of the revenue at current prices.
    """
    rows = np.arange(len(options))
    totals = {"margin": terms.mean["margin"], "revenue": terms.mean["revenue"], "units": terms.units}
    totals["surplus"] = terms.mean["satisfaction"]
    current = options.current_price[:, None]
    stays = np.abs(options.prices - current) <= SAME_PRICE * current
    revenue = totals["revenue"][:, OWN]
    totals["kept"] = stays * (revenue / revenue.sum())[:, None]
    table = pd.DataFrame({name: values[rows, columns].sum(1) for name, values in totals.items()})
    for name in ("margin", "revenue", "units"):
        now = totals[name][:, OWN].sum()
        table[f"{name}_change"] = (table[name] - now) / abs(now)
    table["surplus_change"] = table["surplus"] / revenue.sum()
    table["changed"] = 1.0 - stays[rows, columns].mean(1)
    return table


def find_dominated(table: pd.DataFrame) -> np.ndarray:
    """Points that another one of the same sweep beats: no less of either objective, and more of one.

    Args:
        table (`pd.DataFrame`): `sweep` and the columns of `measure_points`.

    Returns:
        `(points,)`, bool.
    """
    dominated = np.zeros(len(table), dtype=bool)
    for sweep, part in table.groupby("sweep"):
        points = part[["margin", OBJECTIVES[str(sweep)]]].to_numpy()
        ahead = points[None] - points[:, None]  # of every point over every other
        slack = NEGLIGIBLE * np.abs(points).max(0)
        better = (ahead >= -slack).all(-1) & (ahead > slack).any(-1)
        dominated[table.index.get_indexer(part.index)] = better.any(1)
    return dominated


def measure_shortfall(front: pd.DataFrame, points: pd.DataFrame) -> np.ndarray:
    """How much more margin a front has with at least as much of the other objective, linear between its points.

    Args:
        front (`pd.DataFrame`): Points of one sweep, from `measure_points`; those that another one beats are left out.
        points (`pd.DataFrame`): Points of the same sweep.

    Returns:
        `(points,)`: Currency; NaN where the front does not reach as much of the other.
    """
    other = OBJECTIVES[str(front["sweep"].iloc[0])]
    on = front[~front["dominated"]].sort_values(other)
    found = np.interp(points[other], on[other], on["margin"], right=np.nan)
    return found - points["margin"].to_numpy()
