"""PricingPolicy: processor, base, adapters and guardrails behind three questions: demand, curve, price."""

import tempfile
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from pricing_fm import names
from pricing_fm.errors import ArtifactError, PanelError, SupportError
from pricing_fm.hub import download, push
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.panel import Panel
from pricing_fm.policy.artifacts import LoadedAdapter, load_entry, load_policy_parts, with_common_rank
from pricing_fm.policy.engine import Engine, PathDemand
from pricing_fm.policy.options import PriceOptions
from pricing_fm.policy.order_table import order_table, read_stock
from pricing_fm.policy.recommend import CAUTION, Recommender
from pricing_fm.policy.replenishment import StockArguments, plan_price_and_order
from pricing_fm.policy.request import ItemInputs, RecommendRequest
from pricing_fm.policy.saving import save_policy
from pricing_fm.policy.situation import Situation, read_situation, with_intervention, with_siblings
from pricing_fm.policy.support import item_support
from pricing_fm.policy.tables import NORMAL_80, interpolate_levels, quantile_columns, step_table

DEFAULT_LEVELS = (0.1, 0.5, 0.9)


class PricingPolicy:
    """Forecasts, demand curves and recommended prices of a panel's items.

    Built by `PricingPolicy.from_pretrained`. An item's answer depends on its own history and its declared decision
    unit, never on what else is in the panel.

    Args:
        model (`PricingFMForPolicy`): The base.
        processor (`PricingFMProcessor`): Belongs to it.
        adapters (`dict[str | None, LoadedAdapter]`): By category; the key None serves every category.
        base_folder (`Path`, *optional*): Where the base was loaded from; a saved policy is a copy of it.
        base_fingerprint (`str`, *optional*): From the base's manifest; adapters can be loaded later only with it.
    """

    _changing: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        model: PricingFMForPolicy,
        processor: PricingFMProcessor,
        adapters: dict[str | None, LoadedAdapter] | None = None,
        base_folder: Path | None = None,
        base_fingerprint: str | None = None,
    ):
        self.model, self.processor = model.eval(), processor
        self.adapters = with_common_rank(adapters or {})
        self.base_folder, self.base_fingerprint = base_folder, base_fingerprint

    # -- artifacts ------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        adapter: str | Path | dict[str, str | Path] | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> "PricingPolicy":
        """Loads a base, with or without adapters; every file is checked against its manifest.

        Args:
            path (`str` or `Path`): Folder or Hub repository of a base, of a saved policy, or of an adapter (which names
                its base in `adapter_config.json`).
            adapter (`str`, `Path` or `dict`, *optional*): One adapter folder or repository, or one per category.
            revision (`str`, *optional*): Branch, tag or commit of `path` on the Hub.
            device (`str` or `torch.device`, *optional*): CPU by default.
            dtype (`torch.dtype` or `str`, *optional*): float32 by default.

        Returns:
            `PricingPolicy`.

        Raises:
            ArtifactError: If something is missing, altered, or does not belong together.
        """
        parts = load_policy_parts(path, adapter, revision, device, dtype)
        return cls(parts.model, parts.processor, parts.adapters, parts.base_folder, parts.base_fingerprint)

    def load_adapter(self, source: str | Path, revision: str | None = None) -> None:
        """Adds an adapter, or puts it in the place of its category's, while other threads use the policy.

        A call that has begun is answered by the adapters it began with; the next one sees the new one.

        Args:
            source (`str` or `Path`): Folder or Hub repository of the adapter.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.

        Raises:
            ArtifactError: If it is not admitted, or the policy does not know the fingerprint of its base; nothing has
                changed then.
        """
        if self.base_fingerprint is None:
            raise ArtifactError("this policy's base has no fingerprint; load it with PricingPolicy.from_pretrained")
        entry = load_entry(download(source, revision).folder, self.model, self.base_fingerprint)
        with self._changing:
            self.adapters = with_common_rank({**self.adapters, entry.category: entry})

    def remove_adapter(self, category: str | None) -> None:
        """Takes an adapter out, while other threads use the policy: the category is then answered by the base.

        Args:
            category (`str`, *optional*): Exact value in the data; None = the adapter for every category.

        Raises:
            ArtifactError: If there is none.
        """
        with self._changing:
            if category not in self.adapters:
                raise ArtifactError(f"no adapter for {category!r}; there are {sorted(map(str, self.adapters))}")
            self.adapters = {key: entry for key, entry in self.adapters.items() if key != category}

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the base into `folder` and the adapter into `folder/adapter` (several: `folder/adapters/<slug>`).

        Args:
            folder (`str` or `Path`): Absent, empty, or an artifact, which is replaced.

        Raises:
            ArtifactError: If the folder holds something else, or an adapter was never saved or belongs to another base.
        """
        save_policy(self.model, self.processor, self.adapters, self.base_folder, Path(folder))

    def push_to_hub(self, repo_id: str, private: bool = False, revision: str | None = None) -> str:
        """Saves the policy and uploads it; returns the address of the commit."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push(folder, repo_id, private=private, revision=revision).url

    # -- questions ------------------------------------------------------------------------------------------------

    def forecast(
        self,
        panel: Panel,
        prediction_length: int = 8,
        future: pd.DataFrame | None = None,
        quantile_levels: list[float] | tuple[float, ...] = DEFAULT_LEVELS,
    ) -> pd.DataFrame:
        """Demand of the next periods under the plan.

        Args:
            panel (`Panel`): The log.
            prediction_length (`int`): Periods ahead.
            future (`pd.DataFrame`, *optional*): The plan; by default last price and no promotion. Its prices are taken
                for the manager's own, unless the column `price_is_intervention` marks them as set by us.
            quantile_levels (`list[float]`): Probabilities in [0.01, 0.99].

        Returns:
            `pd.DataFrame`: `item_id, timestamp, mean` and one column per level, units of unconstrained demand; where
            the panel has `inventory`, also `sales_mean` and `sales_<level>`, cut at the planned stock (NaN: none).

        Raises:
            PanelError: If the plan or a level is not usable.
        """
        situation = self._situation(panel, prediction_length, future, is_intervention=None)
        prices = situation.windows.future[..., names.CHANNEL_INDEX[names.PRICE]].astype(np.float64)
        levels = list(quantile_levels)
        demand = self._demand(situation, prices[:, None])
        values = interpolate_levels(demand.quantile_values[:, 0], self._levels, levels)
        table = step_table(situation.item_ids, situation.windows.future_timestamps)
        table |= {"mean": demand.mean[:, 0].ravel(), **quantile_columns(values, levels)}
        if names.INVENTORY in panel.frame:
            stock = situation.windows.future[..., names.CHANNEL_INDEX[names.INVENTORY]].astype(np.float64)
            share = np.minimum(demand.quantile_values[:, 0], stock[..., None]).sum(-1)
            share = share / np.maximum(demand.quantile_values[:, 0].sum(-1), 1e-12)
            table["sales_mean"] = np.minimum(demand.mean[:, 0] * share, stock).ravel()
            table |= quantile_columns(np.minimum(values, stock[..., None]), levels, prefix="sales_")
        return pd.DataFrame(table)

    def demand_curve(
        self,
        panel: Panel,
        price_multipliers: list[float] | tuple[float, ...] = (0.8, 0.9, 1.0, 1.1),
        prediction_length: int = 4,
        future: pd.DataFrame | None = None,
        quantile_levels: list[float] | tuple[float, ...] = DEFAULT_LEVELS,
    ) -> pd.DataFrame:
        """Demand if the price were set to multiples of the current one and held.

        Args:
            panel (`Panel`): The log.
            price_multipliers (`list[float]`): Positive ratios to the current price.
            prediction_length (`int`): Periods ahead.
            future (`pd.DataFrame`, *optional*): Planned promotions; its prices are replaced.
            quantile_levels (`list[float]`): Probabilities in [0.01, 0.99].

        Returns:
            `pd.DataFrame`: `item_id, timestamp, price_multiplier, price, mean`, one column per level, `elasticity`,
            `elasticity_lower`, `elasticity_upper` (80 %, spread of the response members) and `supported` (the item was
            sold at such a price under such a promotion).

        Raises:
            PanelError: If a multiplier is not positive, or an item has no price at all.
            SupportError: If the base was trained without seeing prices.
        """
        multipliers = np.asarray(list(price_multipliers), dtype=np.float64)
        if not len(multipliers) or not np.all(np.isfinite(multipliers) & (multipliers > 0)):
            raise PanelError(f"price_multipliers must be positive numbers, found {list(price_multipliers)}")
        situation = self._situation(panel, prediction_length, future, is_intervention=True)
        self._require_prices(situation)
        prices = situation.current_price[:, None] * multipliers
        steps = situation.windows.future.shape[1]
        demand = self._demand(situation, np.repeat(prices[:, :, None], steps, axis=2))
        levels = list(quantile_levels)
        values = interpolate_levels(demand.quantile_values, self._levels, levels)
        regular, promoted = (
            item_support(situation.windows, prices, np.full(len(prices), kind), self.processor.ladder_step / 2)
            for kind in (False, True)
        )
        is_promoted = situation.planned_promotion[:, None] > 0
        supported = np.where(is_promoted, promoted[..., None], regular[..., None])
        spread = NORMAL_80 * demand.elasticity_std
        count = len(multipliers)
        keys = step_table(
            situation.item_ids,
            np.repeat(situation.windows.future_timestamps[:, None], count, 1).reshape(len(situation), -1),
        )
        table = {
            **keys,
            "price_multiplier": np.tile(np.repeat(multipliers, steps), len(situation)),
            "price": np.repeat(prices.ravel(), steps),
            "mean": demand.mean.ravel(),
            **quantile_columns(values, levels),
            "elasticity": demand.elasticity.ravel(),
            "elasticity_lower": (demand.elasticity - spread).ravel(),
            "elasticity_upper": (demand.elasticity + spread).ravel(),
            "supported": supported.ravel(),
        }
        return pd.DataFrame(table).sort_values(["item_id", "timestamp", "price_multiplier"], ignore_index=True)

    def recommend(
        self,
        panel: Panel,
        guardrails: Any = None,
        objective: str | None = None,
        assumed_cost_share: float | None = None,
        prediction_length: int = 4,
        decision_lead: int = 0,
        future: pd.DataFrame | None = None,
        limits: pd.DataFrame | None = None,
        explore: bool = False,
        seed: int = 0,
    ) -> pd.DataFrame:
        """One price per item, inside the rules, with its expected result and the reason.

        The price is held for `prediction_length` periods from the first one priced. Promotions are taken as planned.

        Args:
            panel (`Panel`): The log.
            guardrails (path, `dict` or `Guardrails`, *optional*): Rules; see `pricing_fm.guardrails`.
            objective (`str`, *optional*): `margin`, `revenue` or `units`; by default margin where there is a cost
                and revenue elsewhere, with a `PanelWarning`.
            assumed_cost_share (`float`, *optional*): Unit cost / current price for items without a cost.
            prediction_length (`int`): Periods the price is held and the totals cover.
            decision_lead (`int`): Periods between the last observed one and the first priced.
            future (`pd.DataFrame`, *optional*): Planned promotions and covariates of all
                `decision_lead + prediction_length` periods.
            limits (`pd.DataFrame`, *optional*): Per-item rules, columns named like the guardrails.
            explore (`bool`): Draw from the policy's distribution instead of taking its best price.
            seed (`int`): Of the draws, together with item and timestamp.

        Returns:
            `pd.DataFrame`: One row per item: `item_id, timestamp, current_price, price, promotion, expected_units,
            expected_margin, expected_margin_lower, objective, supported, fallback, ignores_substitution, propensity,
            binding_rule, group_margin, explanation`.

        Raises:
            PanelError, GuardrailError: If an argument, the plan or a rule cannot be used.
            SupportError: If the base was trained without seeing prices.
        """
        request = RecommendRequest(
            guardrails, objective, assumed_cost_share, prediction_length, decision_lead, limits, explore, seed
        )
        situation = self._situation(panel, decision_lead + prediction_length, future, is_intervention=True)
        inputs = ItemInputs(panel, situation, request)
        inputs.warn_of_missing_costs()
        recommender = Recommender(inputs, Engine(self.model, self.processor))
        return recommender.recommend(self._adapters_of(situation))

    def price_options(
        self,
        panel: Panel,
        guardrails: Any = None,
        assumed_cost_share: float | None = None,
        prediction_length: int = 4,
        decision_lead: int = 0,
        future: pd.DataFrame | None = None,
        limits: pd.DataFrame | None = None,
    ) -> PriceOptions:
        """What every item could be priced at inside the rules, and the demand at each price: what plans choose from.

        Args:
            panel (`Panel`): The log.
            guardrails (path, `dict` or `Guardrails`, *optional*): Rules.
            assumed_cost_share (`float`, *optional*): Unit cost / current price for items without a cost.
            prediction_length (`int`): Periods the price is held.
            decision_lead (`int`): Periods between the last observed one and the first priced.
            future (`pd.DataFrame`, *optional*): Planned promotions and covariates.
            limits (`pd.DataFrame`, *optional*): Per-item rules.

        Returns:
            `PriceOptions`: Items with a price and at least two observed periods, sorted.

        Raises:
            PanelError, GuardrailError, SupportError: As in `recommend`, for the objective margin.
        """
        request = RecommendRequest(
            guardrails, "margin", assumed_cost_share, prediction_length, decision_lead, limits, False, 0
        )
        situation = self._situation(panel, decision_lead + prediction_length, future, is_intervention=True)
        recommender = Recommender(ItemInputs(panel, situation, request), Engine(self.model, self.processor))
        return recommender.options(self._adapters_of(situation))

    def replenish(
        self,
        panel: Panel,
        stock: StockArguments | None = None,
        on_hand: pd.DataFrame | None = None,
        guardrails: Any = None,
        assumed_cost_share: float | None = None,
        future: pd.DataFrame | None = None,
        limits: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Price and order quantity of every item, chosen together for one cycle of lead time and review.

        Args:
            panel (`Panel`): The log, with unit costs (or an assumed share).
            stock (`StockArguments`, *optional*): Times and costs; by default one period each.
            on_hand (`pd.DataFrame`, *optional*): `item_id, inventory` (units on hand now) and `on_order`; by default
                what the log says, see `read_stock`.
            guardrails (path, `dict` or `Guardrails`, *optional*): Rules for prices.
            assumed_cost_share (`float`, *optional*): Unit cost / current price for items without a cost.
            future (`pd.DataFrame`, *optional*): Planned promotions and covariates of the cycle.
            limits (`pd.DataFrame`, *optional*): Per-item rules.

        Returns:
            `pd.DataFrame`: One row per item with enough history: `item_id, timestamp, on_hand, on_order, current_price,
            price, order, profit` (mean, currency, of the cycle), `cautious_gain` (over the current price, less half a
            standard deviation over response members: what prices are chosen by), `expected_sales, expected_left`
            (units), `service` (chance that all demand is met), `critical_ratio`; `separate_*`: price chosen as if stock
            were endless, then its best order; `kept_*`: current price and its best order; `explanation`.

        Raises:
            PanelError: If a cost or a stock is missing; else as in `recommend`.
        """
        stock = stock or StockArguments()
        options = self.price_options(panel, guardrails, assumed_cost_share, stock.periods, 0, future, limits)
        hand, coming = read_stock(panel, options.situation, on_hand)
        found = plan_price_and_order(options, hand + coming, stock, CAUTION)
        return order_table(options, hand, coming, found, stock)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _require_price_sight(self) -> None:
        """A network that never saw a price has a curve of its starting values, which means nothing."""
        if self.processor.covariates in ("flags", "none"):
            raise SupportError(
                f"this base was trained with covariates={self.processor.covariates!r}: it never saw a price, so it has "
                "no demand curve; train one with covariates 'both' or 'price'"
            )

    @property
    def _levels(self) -> np.ndarray:
        return np.asarray(self.model.config.quantile_levels)

    def _situation(
        self, panel: Panel, periods: int, future: pd.DataFrame | None, is_intervention: bool | None
    ) -> Situation:
        if is_intervention:
            self._require_price_sight()
        situation = with_siblings(read_situation(panel, self.processor.context_length, periods, future), self.processor)
        return with_intervention(situation, is_intervention if self.processor.trained_on_interventions else False)

    @staticmethod
    def _require_prices(situation: Situation) -> None:
        missing = ~np.isfinite(situation.current_price)
        if missing.any():
            item = situation.item_ids[int(missing.argmax())]
            raise PanelError(f"item {item!r} has neither a price nor a list price; give one of them")

    def _adapters_of(self, situation: Situation) -> list[LoadedAdapter | None]:
        """The adapter that answers for each item; None = the base alone."""
        adapters = self.adapters  # once: another thread may put new ones in its place
        general = adapters.get(None)
        category = situation.windows.static_categories[:, names.STATIC_CATEGORIES.index(names.CATEGORY)]
        return [adapters.get(value, general) for value in category]

    def _demand(self, situation: Situation, prices: np.ndarray) -> PathDemand:
        weights = [None if adapter is None else adapter.weights for adapter in self._adapters_of(situation)]
        # Neighbours with one adapter share its numbers instead of copying them. In order of appearance, so that an item
        # has the same place, and the same last digit, in every call.
        appeared: dict[int, int] = {}
        order = np.argsort([appeared.setdefault(id(own), len(appeared)) for own in weights], kind="stable")
        engine = Engine(self.model, self.processor)
        demand = engine.demand(situation.select(order), prices[order], [weights[row] for row in order])
        return demand.select(np.argsort(order))
