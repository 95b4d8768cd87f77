"""What proposed prices earn in a market whose demand is known: share of the gap between manager and oracle."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.markets import SimulatedLog, compute_manager_outcome, compute_oracle, compute_outcome
from pricing_fm.metrics.bootstrap import stratified_bootstrap
from pricing_fm.metrics.value import compute_gap_closed
from pricing_fm.results import ResultRow

# Nobody, the oracle included, may leave this range around the list price: the same rule for all.
PRICE_BOUNDS = (0.7, 1.3)


@dataclass(frozen=True)
class PricingEvaluation:
    """Values of policies in a market.

    Args:
        rows (`list[ResultRow]`): `value` (expected profit, currency) and `gap_closed` per policy.
        items (`pd.DataFrame`): One row per item and policy: `item_id, category, policy, price, value, oracle_price`.
    """

    rows: list[ResultRow]
    items: pd.DataFrame


def evaluate_prices(
    log: SimulatedLog,
    proposals: Mapping[str, pd.DataFrame],
    num_periods: int,
    task: str,
    seed: int,
    num_rollouts: int = 64,
    category_k: int | None = None,
) -> PricingEvaluation:
    """Expected profit of constant prices over the weeks after a log, beside the manager's and the oracle's.

    Args:
        log (`SimulatedLog`): Logged markets, ready to be continued.
        proposals (`Mapping[str, pd.DataFrame]`): Policy name to `item_id, price` for every item of the log.
        num_periods (`int`): Weeks the prices are held.
        task (`str`): Name in result rows.
        seed (`int`): Recorded in result rows.
        num_rollouts (`int`): Repetitions where stock is limited; the same draws for every policy.
        category_k (`int`, *optional*): Logged weeks the policies saw, for the rows.

    Returns:
        `PricingEvaluation`: The gap is closed per category; its interquartile mean over categories comes with a 90 %
        bootstrap interval.

    Raises:
        PanelError: If a proposal lacks an item or a price, or holds an item twice.
    """
    items = log.items
    list_prices = log.state.list_price.reshape(-1)
    manager = compute_manager_outcome(log, num_periods, num_rollouts=num_rollouts)
    oracle = compute_oracle(log, num_periods, PRICE_BOUNDS, num_rollouts=num_rollouts)
    values = {"manager": manager.value, "oracle": oracle.value, "oracle_constant": oracle.constant_value}
    prices = {"manager": np.full(len(items), np.nan), "oracle": oracle.prices[:, 0]}
    prices["oracle_constant"] = oracle.constant_prices
    for name, proposal in proposals.items():
        price = _aligned(name, proposal, items[names.ITEM_ID])
        prices[name] = np.clip(price, PRICE_BOUNDS[0] * list_prices, PRICE_BOUNDS[1] * list_prices)
        values[name] = compute_outcome(log, prices[name], num_periods, num_rollouts=num_rollouts).value
    table = pd.concat(
        [
            items[[names.ITEM_ID, names.CATEGORY]].assign(
                policy=name, price=prices[name], value=values[name], oracle_price=oracle.constant_prices
            )
            for name in values
        ],
        ignore_index=True,
    )
    return PricingEvaluation(_rows(table, task, seed, category_k), table)


def _aligned(name: str, proposal: pd.DataFrame, item_ids: pd.Series) -> np.ndarray:
    if proposal[names.ITEM_ID].duplicated().any():
        item = proposal.loc[proposal[names.ITEM_ID].duplicated(), names.ITEM_ID].iloc[0]
        raise PanelError(f"policy {name!r} proposes two prices for item {item!r}")
    price = proposal.set_index(names.ITEM_ID)[names.PRICE].reindex(item_ids)
    if price.isna().any():
        raise PanelError(f"policy {name!r} proposes no price for item {price.index[price.isna()][0]!r}")
    return price.to_numpy(dtype=np.float64)


def _rows(table: pd.DataFrame, task: str, seed: int, k: int | None) -> list[ResultRow]:
    """Per-category rows, and one row per policy over all of them."""
    totals = table.pivot_table(index=names.CATEGORY, columns="policy", values="value", aggfunc="sum")
    rows = []
    for policy in totals:
        gap = compute_gap_closed(totals[policy].to_numpy(), totals["manager"].to_numpy(), totals["oracle"].to_numpy())
        kept = gap.shares[np.isfinite(gap.shares)]
        count = len(table) // totals.shape[1]
        rows.append(ResultRow("value", float(totals[policy].sum()), str(policy), task, n=count, seed=seed, k=k))
        for category, share in zip(totals.index, gap.shares):
            if np.isfinite(share):
                rows.append(
                    ResultRow("gap_closed", float(share), str(policy), task, category=str(category), seed=seed, k=k)
                )
        if len(kept):
            found = stratified_bootstrap(kept, ["category"] * len(kept), level=0.9, seed=seed)
            rows.append(
                ResultRow(
                    "gap_closed",
                    found.value,
                    str(policy),
                    task,
                    lower=found.lower,
                    upper=found.upper,
                    n=len(kept),
                    seed=seed,
                    k=k,
                )
            )
    return rows
