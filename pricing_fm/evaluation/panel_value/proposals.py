"""Price paths: what policies would have charged over the valued weeks, each decision from the log before it alone."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.artifact import MANIFEST
from pricing_fm.errors import PanelError
from pricing_fm.evaluation.panel_value.weeks import ValuedWeeks
from pricing_fm.evaluation.pricing_baselines import LogLogElasticity, Objective
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy


class Proposer(Protocol):
    """Names prices from what was known at a moment."""

    @property
    def name(self) -> str:
        """Name in result rows."""

    @property
    def identity(self) -> str:
        """Text that changes with anything that could change its prices."""

    def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
        """Prices that are held for some periods.

        Args:
            history: The log before the decision.
            planned: The same with the promotions that the manager had planned as known future rows.
            periods: How long the prices are held.

        Returns:
            Price by item id, currency; items may be missing.
        """


class NetworkProposer:
    """A `PricingPolicy` that recommends.

    Args:
        policy: With or without adapter.
        name: Name in result rows.
        assumed_cost_share: Unit cost over current price for items without a cost.
    """

    def __init__(self, policy: PricingPolicy, name: str, assumed_cost_share: float | None) -> None:
        self.policy, self.name, self.assumed_cost_share = policy, name, assumed_cost_share
        folders = [policy.base_folder, *(adapter.folder for adapter in policy.adapters.values())]
        if any(folder is None for folder in folders):
            raise PanelError(
                f"policy {name!r} was never saved; save it first, so that its prices can be told from others"
            )
        manifests = sorted((folder / MANIFEST).read_text(encoding="utf-8") for folder in folders if folder is not None)
        self.identity = f"{hashlib.sha256(''.join(manifests).encode()).hexdigest()} {assumed_cost_share}"

    def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
        """See `Proposer`."""
        table = self.policy.recommend(planned, assumed_cost_share=self.assumed_cost_share, prediction_length=periods)
        return table.set_index(names.ITEM_ID)[names.PRICE]


class LogLogProposer:
    """Best price on a grid under constant-elasticity demand, fitted to the history of the valued items.

    Args:
        item_ids: Valued items.
        objective: Margin or revenue.
        assumed_cost_share: Unit cost over median price for items without a cost.
    """

    name = "log_log_elasticity"

    def __init__(self, item_ids: Sequence[str], objective: Objective, assumed_cost_share: float | None) -> None:
        self._item_ids = list(item_ids)
        self.identity = f"{objective} {assumed_cost_share}"
        self._rule = LogLogElasticity(objective, assumed_cost_share=assumed_cost_share)

    def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
        """See `Proposer`."""
        return self._rule.propose(history.select_items(self._item_ids)).set_index(names.ITEM_ID)[names.PRICE]


def find_origins(panel: Panel, origins: Sequence[int], prediction_length: int) -> list[pd.Timestamp]:
    """Moments of decision, the first one first.

    Args:
        panel: The panel.
        origins: Periods before the panel's end.
        prediction_length: Periods that prices are held.

    Returns:
        First period of every decision.

    Raises:
        PanelError: If the held prices would overlap or leave gaps.
    """
    expected = [prediction_length * number for number in range(len(origins), 0, -1)]
    if sorted(origins, reverse=True) != expected:
        raise PanelError(
            f"--origins are {list(origins)} and --prediction_length is {prediction_length}; prices have to be held from"
            f" one decision to the next, as with --origins {' '.join(map(str, reversed(expected)))}"
        )
    return [panel.frequency.step(panel.last_observed, 1 - back) for back in expected]


def propose_paths(
    weeks: ValuedWeeks,
    proposer: Proposer,
    origins: Sequence[pd.Timestamp],
    prediction_length: int,
    advance: Callable[[], None],
) -> np.ndarray:
    """Prices of one policy over the valued weeks.

    The manager's history stands before every decision, also before the later ones: a policy that had been followed
    would have seen its own.

    Args:
        weeks: The valued weeks.
        proposer: The policy.
        origins: From `find_origins`.
        prediction_length: Periods that prices are held.
        advance: Called after each decision.

    Returns:
        Currency, `(N, W)`.

    Raises:
        PanelError: If the policy names no price for a valued item.
    """
    blocks = []
    for origin in origins:
        history = weeks.panel.before(origin)
        if history.last_observed != weeks.panel.frequency.step(origin, -1):
            raise PanelError(f"nothing was sold in the period before {origin}; choose another origin")
        planned = add_plan(weeks.panel, history, origin, prediction_length)
        found = proposer.propose(history, planned, prediction_length)
        prices = found.reindex(list(weeks.item_ids)).to_numpy(dtype=np.float64)
        missing = ~(np.isfinite(prices) & (prices > 0.0))
        if missing.any():
            raise PanelError(
                f"policy {proposer.name!r} names no price for item {str(weeks.item_ids[missing][0])!r} at {origin};"
                " leave the item out of the panel"
            )
        blocks.append(np.repeat(prices[:, None], prediction_length, axis=1))
        advance()
    return np.concatenate(blocks, axis=1)


def add_plan(panel: Panel, history: Panel, origin: pd.Timestamp, periods: int) -> Panel:
    """The history with what is planned for the next periods: promotions and known covariates, nothing else of the log.

    Args:
        panel: The whole panel.
        history: What lies before.
        origin: First planned period.
        periods: Number of planned periods.

    Returns:
        The history, with known future rows.
    """
    frame, end = panel.frame, panel.frequency.step(origin, periods)
    ahead = (frame[names.TIMESTAMP] >= origin) & (frame[names.TIMESTAMP] < end)
    plan = frame[ahead & frame[names.ITEM_ID].isin(history.item_ids)].copy()
    schema = panel.schema
    known = {*schema.promotions, *schema.known_covariates, *schema.static_reals}
    hidden = [column for column in schema.number_columns if column not in known]
    plan[hidden] = np.nan
    plan[names.PRICE_IMPUTED] = False
    together = pd.concat([history.frame, plan]).sort_values([names.ITEM_ID, names.TIMESTAMP], kind="stable")
    return replace(history, frame=together.reset_index(drop=True))
