"""What a recommendation is asked for, checked against the panel: objective, costs, rules per item, decision units."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import GuardrailError, PanelError, PanelWarning
from pricing_fm.guardrails import RULES, Guardrails, load_guardrails
from pricing_fm.panel import Panel, read_companion
from pricing_fm.policy.situation import Situation

OBJECTIVES = ("margin", "revenue", "units")
NO_COST = "no cost is known: prices maximise revenue"


@dataclass(frozen=True)
class RecommendRequest:
    """The arguments of `PricingPolicy.recommend`.

    Raises:
        PanelError: If one of them is out of range.
    """

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
class ItemInputs:
    """The request, item by item in the order of the situation.

    Args:
        panel (`Panel`): The log.
        situation (`Situation`): All items at the origin.
        request (`RecommendRequest`): What is asked.

    Raises:
        PanelError: If margin is asked for and a cost is missing.
        GuardrailError: If a rule or a limit cannot be used.
    """

    panel: Panel
    situation: Situation
    request: RecommendRequest

    @cached_property
    def rules(self) -> Guardrails:
        """The rules that were given; none if none were."""
        return load_guardrails(self.request.guardrails)

    @cached_property
    def costs(self) -> np.ndarray:
        """Unit cost `(N,)`, currency: logged, else the assumed share of the current price, else NaN. Never zero."""
        share, cost = self.request.assumed_cost_share, self.situation.cost
        return cost if share is None else np.where(np.isfinite(cost), cost, share * self.situation.current_price)

    @cached_property
    def objectives(self) -> np.ndarray:
        """Objective of each item `(N,)`: as asked, else margin where its unit's costs are known, revenue elsewhere."""
        # Without any price there is nothing to decide, and no share of it to assume.
        missing = ~np.isfinite(self.costs) & np.isfinite(self.situation.current_price)
        if self.request.objective == "margin" and missing.any():
            item = self.situation.item_ids[int(missing.argmax())]
            raise PanelError(
                f"item {item!r} has no cost, so its margin is unknown; map `cost` or give assumed_cost_share"
            )
        if self.request.objective is not None:
            return np.full(len(missing), self.request.objective, dtype=object)
        # Items that share a price share what it is for.
        lacking = np.bincount(self.units, weights=~np.isfinite(self.costs))[self.units] > 0
        return np.where(lacking, "revenue", "margin").astype(object)

    def warn_of_missing_costs(self) -> None:
        """Tells the caller of `recommend` which prices are for revenue because nobody knows a cost.

        Without any price there is nothing to say: such an item keeps what it has.
        """
        priced = np.isfinite(self.situation.current_price)
        count = int((priced & (self.objectives == "revenue")).sum())
        if self.request.objective is None and count:
            warnings.warn(
                f"{NO_COST} for {count} of {int(priced.sum())} items; map `cost` or give assumed_cost_share (cost / "
                "price) for margin, or ask for objective='revenue'",
                PanelWarning,
                stacklevel=3,
            )

    @cached_property
    def limits(self) -> dict[str, np.ndarray]:
        """Per-item rules by key, `(N,)` object each."""
        table = self.request.limits
        if table is None:
            return {}
        frame = read_companion(self.panel, table)
        columns = [column for column in frame if column in RULES]
        usable = {names.ITEM_ID, *columns, *_parts_of_item_id(self.panel)}
        foreign = [column for column in frame if column not in usable]
        if foreign or not columns:
            raise GuardrailError(
                f"limits may hold item_id and the columns {list(RULES)}; found {foreign or 'none of them'}"
            )
        if frame[names.ITEM_ID].duplicated().any():
            raise GuardrailError("limits hold an item twice; keep one row per item")
        unknown = sorted(set(frame[names.ITEM_ID]) - set(self.panel.item_ids))
        if unknown:
            raise GuardrailError(
                f"limits name item {unknown[0]!r}, which the panel does not have ({len(unknown)} such)"
            )
        aligned = frame.set_index(names.ITEM_ID).reindex(list(self.situation.item_ids))
        return {column: aligned[column].to_numpy(dtype=object) for column in columns}

    def limits_of(self, rows: np.ndarray) -> dict[str, list[Any]]:
        """The limits of some items."""
        return {key: list(values[rows]) for key, values in self.limits.items()}

    @cached_property
    def _attributes(self) -> pd.DataFrame:
        frame = self.panel.frame.drop_duplicates(names.ITEM_ID, keep="last").set_index(names.ITEM_ID)
        return frame.reindex(list(self.situation.item_ids))

    @cached_property
    def units(self) -> np.ndarray:
        """Decision unit of each item `(N,)`, int64: one product in one price zone; other items decide alone."""
        keys: list[object] = list(self.situation.item_ids)
        if names.PRICE_ZONE in self._attributes and names.PRODUCT_ID in self._attributes:
            shared = [names.PRICE_ZONE, names.PRODUCT_ID]
            # A product in two categories has two adapters, which cannot agree on one price.
            columns = [*shared, names.CATEGORY] if names.CATEGORY in self._attributes else shared
            declared = self._attributes[shared].notna().all(axis=1).to_numpy()
            rows = self._attributes[columns].itertuples(index=False, name=None)
            keys = [row if known else key for row, known, key in zip(rows, declared, keys, strict=True)]
        numbers: dict[object, int] = {}
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)

    def substitute_groups(self, item_ids: pd.Series) -> np.ndarray:
        """Name of each item's substitute group `(N,)`; an item without one is its own."""
        if names.SUBSTITUTE_GROUP not in self._attributes:
            return item_ids.to_numpy()
        declared = self._attributes[names.SUBSTITUTE_GROUP].reindex(item_ids)
        # Prefixes, so that an item without a group cannot collide with a group's name.
        return np.array([f"item:{i}" if pd.isna(g) else f"group:{g}" for i, g in declared.items()], dtype=object)


def _parts_of_item_id(panel: Panel) -> set[str]:
    """Panel columns that come from the same source columns as the item id, and so travel with it."""
    sources = panel.schema.columns
    own = set(sources[names.ITEM_ID])
    return {column for column, used in sources.items() if set(used) <= own}
