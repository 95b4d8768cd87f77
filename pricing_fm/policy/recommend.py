"""From a situation to one price per item: candidates, guardrails, scores, choice, and the table that explains it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import GuardrailError, PanelError
from pricing_fm.guardrails import RULES, Guardrails, admissible_ladder, apply_guardrails_to_table, load_guardrails
from pricing_fm.models import PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, read_companion
from pricing_fm.policy.artifacts import LoadedAdapter
from pricing_fm.policy.engine import Engine, PathDemand
from pricing_fm.policy.planning import (
    best_candidate,
    cautious_gain,
    draw_candidate,
    planned_value,
    sum_by_group,
    total_quantile,
    unit_values,
    zone_groups,
)
from pricing_fm.policy.situation import FEWEST_OBSERVED, Situation
from pricing_fm.policy.support import item_support
from pricing_fm.policy.tables import explain

OBJECTIVES = ("margin", "revenue", "units")
# Standard deviations (over response members) that a gain over keeping the price is discounted by.
CAUTION = 0.5
# Log-odds of a gain worth one reference revenue per period when the base's own plan is explored: 1 % counts 2 nats.
EXPLORATION_SHARPNESS = 200.0
# A rung that the manager would choose less often than this given the state is not supported, however good it looks.
BEHAVIOR_THRESHOLD = 1e-4
LOWER_LEVEL = 0.1
COLUMNS = (
    "item_id", "timestamp", "current_price", "price", "promotion", "expected_units", "expected_margin",
    "expected_margin_lower", "objective", "supported", "fallback", "ignores_substitution", "propensity",
    "binding_rule", "group_margin", "explanation",
)  # fmt: skip


@dataclass(frozen=True)
class RecommendRequest:
    """The arguments of `PricingPolicy.recommend`, checked."""

    guardrails: Any
    objective: str | None
    assumed_cost_share: float | None
    prediction_length: int
    decision_lead: int
    limits: pd.DataFrame | None
    explore: bool
    seed: int

    def __post_init__(self) -> None:
        if self.objective is not None and self.objective not in OBJECTIVES:
            raise PanelError(f"objective must be one of {OBJECTIVES} or None, found {self.objective!r}")
        if self.prediction_length < 1 or self.decision_lead < 0:
            raise PanelError(
                "prediction_length must be at least 1 and decision_lead at least 0, found "
                f"{self.prediction_length} and {self.decision_lead}"
            )
        if self.assumed_cost_share is not None and not 0 <= self.assumed_cost_share < 1:
            raise PanelError(f"assumed_cost_share must be in [0, 1), found {self.assumed_cost_share}")


@dataclass(frozen=True)
class _Candidates:
    """Prices that compete for each item `(N, P)`; the last column keeps the item's own price and only serves to compare."""

    proposed: np.ndarray
    final: np.ndarray
    supported: np.ndarray
    keep: int = field(default=-2)  # column of the decision unit's current price
    own: int = field(default=-1)


class Recommender:
    """Collects recommendations of all items of a panel, network by network.

    Args:
        panel (`Panel`): The log.
        situation (`Situation`): All items at the origin.
        request (`RecommendRequest`): What is asked.
        processor (`PricingFMProcessor`): For the ladder and the copula.

    Raises:
        PanelError: If margin is asked for and a cost is missing, or an item has no price at all.
        GuardrailError: If a rule is malformed or lacks what it needs.
    """

    def __init__(self, panel: Panel, situation: Situation, request: RecommendRequest, processor: PricingFMProcessor):
        self.panel, self.situation, self.request, self.processor = panel, situation, request, processor
        self.rules: Guardrails = load_guardrails(request.guardrails)
        self.limits = self._read_limits()
        self.costs = self._costs()
        self.objective = self._objectives()
        self.priced = np.isfinite(situation.current_price)
        frame = panel.frame.drop_duplicates(names.ITEM_ID, keep="last").set_index(names.ITEM_ID)
        self.attributes = frame.reindex(list(situation.item_ids))
        self.rows: list[pd.DataFrame] = []

    # -- inputs ---------------------------------------------------------------------------------------------------

    def _read_limits(self) -> dict[str, np.ndarray]:
        table = self.request.limits
        if table is None:
            return {}
        frame = read_companion(self.panel, table)
        columns = [column for column in frame if column in RULES]
        foreign = [column for column in table if column in frame and column not in (*RULES, names.ITEM_ID)]
        if foreign or not columns:
            raise GuardrailError(f"limits may hold item_id and the columns {list(RULES)}; found {list(table)}")
        if frame[names.ITEM_ID].duplicated().any():
            raise GuardrailError("limits hold an item twice; keep one row per item")
        unknown = sorted(set(frame[names.ITEM_ID]) - set(self.panel.item_ids))
        if unknown:
            raise GuardrailError(
                f"limits name item {unknown[0]!r}, which the panel does not have ({len(unknown)} such)"
            )
        aligned = frame.set_index(names.ITEM_ID).reindex(list(self.situation.item_ids))
        return {column: aligned[column].to_numpy(dtype=object) for column in columns}

    def _costs(self) -> np.ndarray:
        share = self.request.assumed_cost_share
        cost = self.situation.cost
        return cost if share is None else np.where(np.isfinite(cost), cost, share * self.situation.current_price)

    def _objectives(self) -> np.ndarray:
        """Objective of each item `(N,)`: as asked, else margin where the cost is known and revenue elsewhere."""
        known = np.isfinite(self.costs)
        if self.request.objective == "margin" and not known.all():
            item = self.situation.item_ids[int((~known).argmax())]
            raise PanelError(
                f"item {item!r} has no cost, so its margin is unknown; map `cost` or give assumed_cost_share"
            )
        if self.request.objective is not None:
            return np.full(len(known), self.request.objective, dtype=object)
        return np.where(known, "margin", "revenue").astype(object)

    # -- scoring --------------------------------------------------------------------------------------------------

    def score(self, rows: np.ndarray, engine: Engine, adapter: LoadedAdapter | None) -> None:
        """Recommends for the items `rows` that one network answers for."""
        usable = self.priced[rows] & (self.situation.observed_periods[rows] >= FEWEST_OBSERVED)
        self._fall_back(rows[~usable], adapter)
        rows = rows[usable]
        for objective in OBJECTIVES:
            chosen = rows[self.objective[rows] == objective]
            if len(chosen):
                self._score_objective(chosen, objective, engine, adapter)

    def _score_objective(self, rows, objective, engine, adapter) -> None:
        situation, request = self.situation.select(rows), self.request
        units = zone_groups([self._zone(row) for row in rows])
        rules = self._rules(adapter)
        candidates = self._candidates(rows, situation, engine, adapter, units, rules)
        demand = engine.demand(situation, self._paths(situation, candidates.final))
        revenue = self._reference_revenue(demand, candidates.final)
        value = planned_value(demand, candidates.final, self.costs[rows], objective, request.decision_lead)
        own = np.full(len(rows), candidates.final.shape[1] - 1)
        gains = cautious_gain(value, own, CAUTION) / revenue[:, None]
        allowed = candidates.supported.copy()
        if adapter is not None and adapter.has_policy:
            gains, allowed = self._policy_scores(rows, situation, engine, adapter, candidates, objective)
        scores = sum_by_group(gains, units)[:, :-1]
        # One price per decision unit: every member has to support it; keeping the price is always possible.
        allowed = sum_by_group((~allowed).astype(float), units)[:, :-1] == 0
        allowed[:, candidates.keep + 1] = True
        first = np.array([np.flatnonzero(units == unit)[0] for unit in units])
        prices = candidates.final[:, :-1]
        propensity = np.ones(len(rows))
        if request.explore:
            uniforms = np.array([self._uniform(situation.item_ids[row]) for row in first])
            weight = 1.0 if adapter is not None and adapter.has_policy else EXPLORATION_SHARPNESS
            best, propensity = draw_candidate(weight * scores[first], allowed[first], prices[first], uniforms)
        else:
            best = best_candidate(scores[first], allowed[first], prices[first], prices[first, candidates.keep + 1])
        binding = self._binding_rules(rows, candidates, scores, allowed, rules)
        self._write(rows, situation, objective, engine, adapter, candidates, demand, best, propensity, binding)

    def _zone(self, row: int) -> tuple | None:
        if names.PRICE_ZONE not in self.attributes or names.PRODUCT_ID not in self.attributes:
            return None
        zone, product = self.attributes[names.PRICE_ZONE].iloc[row], self.attributes[names.PRODUCT_ID].iloc[row]
        return None if pd.isna(zone) or pd.isna(product) else (zone, product)

    def _candidates(self, rows, situation, engine, adapter, units, rules) -> _Candidates:
        first = np.array([np.flatnonzero(units == unit)[0] for unit in units])
        current = situation.current_price
        rungs = self.processor.rung_prices(engine.reference_prices(situation))
        proposed = np.concatenate([rungs[first], current[first][:, None], current[:, None]], axis=1)
        final = proposed.copy()
        final[:, :-1] = admissible_ladder(
            proposed[:, :-1],
            current,
            self.costs[rows],
            rules,
            limits={key: values[rows] for key, values in self.limits.items()},
            item_ids=situation.item_ids,
        )
        promoted = self._promoted(situation)
        tolerance = self.processor.ladder_step / 2
        supported = item_support(situation.windows, final, promoted, tolerance)
        if adapter is not None and adapter.support is not None:
            rung = self.processor.rungs(final, engine.reference_prices(situation))
            tried = np.stack([adapter.support.tried(kind) for kind in (0, 1)])
            supported |= tried[promoted.astype(int)[:, None], rung]
        return _Candidates(proposed, final, supported)

    def _promoted(self, situation: Situation) -> np.ndarray:
        return situation.planned_promotion[:, self.request.decision_lead] > 0

    def _paths(self, situation: Situation, prices: np.ndarray) -> np.ndarray:
        """Current price until the decision takes effect, then the candidate: `(N, P)` -> `(N, P, lead + H)`."""
        lead = self.request.decision_lead
        paths = np.repeat(prices[:, :, None], lead + self.request.prediction_length, axis=2)
        paths[:, :, :lead] = situation.current_price[:, None, None]
        return paths

    def _reference_revenue(self, demand: PathDemand, prices: np.ndarray) -> np.ndarray:
        """Revenue of all paid periods at the item's own price `(N,)`: the unit in which gains of items compare."""
        sold = demand.mean[:, -1, self.request.decision_lead :].sum(-1)
        return np.maximum(prices[:, -1] * sold, 1e-9)

    def _policy_scores(self, rows, situation, engine, adapter, candidates, objective):
        """Log probability of the policy plus the cautious advantage, per candidate; and which are supported."""
        weights = {"margin": RewardWeights(), "revenue": RewardWeights(margin=0, revenue=1)}
        if objective not in weights:
            raise PanelError(
                "an adapter's policy prices for margin or revenue; for units use the base alone or a forecast adapter"
            )
        rewards = adapter.rewards if adapter.rewards.margin > 0 and objective == "margin" else weights[objective]
        scores = engine.ladder(situation, rewards, adapter.discount, np.nan_to_num(self.costs[rows]))
        advantage = scores.advantages.mean(-1) - CAUTION * scores.advantages.std(-1)
        total = scores.policy + adapter.aggressiveness * advantage
        rung = self.processor.rungs(candidates.final, engine.reference_prices(situation))
        likely = np.take_along_axis(scores.behavior, rung, axis=1) >= np.log(BEHAVIOR_THRESHOLD)
        return np.take_along_axis(total, rung, axis=1), candidates.supported & likely

    def _binding_rules(self, rows, candidates, scores, allowed, rules) -> np.ndarray:
        """The rule that keeps the best proposal from being charged as it is; empty where none does."""
        index = np.arange(len(rows))
        wanted = candidates.proposed[index, np.where(allowed, scores, -np.inf).argmax(1)]
        table = apply_guardrails_to_table(
            wanted,
            self.situation.current_price[rows],
            self.costs[rows],
            rules,
            limits={key: values[rows] for key, values in self.limits.items()},
            item_ids=[self.situation.item_ids[row] for row in rows],
        )
        moved = np.abs(table.price - wanted) > 1e-9
        return np.where(moved, table.binding_rule, "").astype(object)

    def _uniform(self, item_id: str) -> float:
        moment = self.situation.windows.future_timestamps[0, self.request.decision_lead]
        key = f"{self.request.seed}|{item_id}|{moment}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2.0**64

    # -- output ---------------------------------------------------------------------------------------------------

    def _write(
        self, rows, situation, objective, engine, adapter, candidates, demand, best, propensity, binding
    ) -> None:
        index, lead = np.arange(len(rows)), self.request.decision_lead
        price = candidates.final[index, best]
        per_unit = unit_values(candidates.final, self.costs[rows], "revenue" if objective == "units" else objective)
        if objective == "units" and np.isfinite(self.costs[rows]).all():
            per_unit = unit_values(candidates.final, self.costs[rows], "margin")
        sold = demand.mean[:, :, lead:].sum(-1)
        levels = engine.levels
        chosen_quantiles = demand.quantile_values[index, best, lead:]
        lower, upper = (
            total_quantile(chosen_quantiles, levels, level, self.processor.step_correlation)
            for level in (LOWER_LEVEL, 1 - LOWER_LEVEL)
        )
        at_price = per_unit[index, best]
        spread = 1.2816 * demand.elasticity_std[index, best, lead:].mean(-1)
        elasticity = demand.elasticity[index, best, lead:].mean(-1)
        counted = sold if objective == "units" else per_unit * sold
        source = describe_source(adapter)
        supported = candidates.supported[index, best]
        table = pd.DataFrame(
            {
                "item_id": situation.item_ids,
                "current_price": situation.current_price,
                "price": price,
                "promotion": situation.planned_promotion[:, lead],
                "expected_units": sold[index, best],
                "expected_margin": at_price * sold[index, best],
                "expected_margin_lower": at_price * np.where(at_price >= 0, lower, upper),
                "objective": objective,
                "supported": supported,
                "fallback": False,
                "propensity": propensity,
                "binding_rule": binding,
                "value": counted[index, best],
                "base_value": counted[:, -1],
                "elasticity": elasticity,
                "elasticity_lower": elasticity - spread,
                "elasticity_upper": elasticity + spread,
                "source": source,
                "support_note": np.where(supported, "price inside what was tried", "price outside what was tried"),
                "observed_periods": situation.observed_periods,
            }
        )
        self.rows.append(table)

    def _rules(self, adapter: LoadedAdapter | None) -> Guardrails:
        """The rules that were given, else the category's own."""
        return self.rules if self.request.guardrails is not None or adapter is None else adapter.guardrails

    def _fall_back(self, rows: np.ndarray, adapter: LoadedAdapter | None) -> None:
        """Keeps the price of items with too little history to judge, inside the guardrails, and says so."""
        if not len(rows):
            return
        situation = self.situation.select(rows)
        price = situation.current_price.copy()
        binding = np.full(len(rows), "", dtype=object)
        has_price = np.flatnonzero(np.isfinite(price))
        if len(has_price):
            guarded = apply_guardrails_to_table(
                price[has_price],
                price[has_price],
                self.costs[rows][has_price],
                self._rules(adapter),
                limits={key: values[rows][has_price] for key, values in self.limits.items()},
                item_ids=[situation.item_ids[row] for row in has_price],
            )
            price[has_price], binding[has_price] = guarded.price, guarded.binding_rule
        self.rows.append(
            pd.DataFrame(
                {
                    "item_id": situation.item_ids,
                    "current_price": situation.current_price,
                    "price": price,
                    "promotion": situation.planned_promotion[:, self.request.decision_lead],
                    "expected_units": np.nan,
                    "expected_margin": np.nan,
                    "expected_margin_lower": np.nan,
                    "objective": self.objective[rows],
                    "supported": False,
                    "fallback": True,
                    "propensity": 1.0,
                    "binding_rule": binding,
                    "source": describe_source(adapter),
                    "observed_periods": situation.observed_periods,
                }
            )
        )

    def table(self) -> pd.DataFrame:
        """All recommendations, one row per item, sorted by item."""
        table = pd.concat(self.rows, ignore_index=True).sort_values("item_id", ignore_index=True)
        table["timestamp"] = self.situation.windows.future_timestamps[0, self.request.decision_lead].astype(
            "datetime64[ns]"
        )
        # Cross-price effects are not modelled yet: a cut may steal from a sibling, and the reader must know.
        table["ignores_substitution"] = True
        groups = self._substitute_groups(table["item_id"])
        table["group_margin"] = table["expected_margin"].groupby(groups).transform("sum")
        table["explanation"] = [explain(row, self.request.prediction_length) for _, row in table.iterrows()]
        return table[list(COLUMNS)]

    def _substitute_groups(self, item_ids: pd.Series) -> np.ndarray:
        if names.SUBSTITUTE_GROUP not in self.attributes:
            return item_ids.to_numpy()
        declared = self.attributes[names.SUBSTITUTE_GROUP].reindex(item_ids)
        # A tuple for items without a group: it cannot collide with a group's name.
        return np.array(
            [f"group:{g}" if isinstance(g, str) else f"item:{i}" for i, g in declared.items()], dtype=object
        )


def describe_source(adapter: LoadedAdapter | None) -> str:
    """Which network a recommendation comes from, in words."""
    if adapter is None:
        return "base model's own demand curve, no adapter for this category"
    owner = "all categories" if adapter.category is None else f"category {adapter.category!r}"
    return f"{'policy' if adapter.has_policy else 'demand'} adapter for {owner}"
