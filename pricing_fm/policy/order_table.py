"""Prices and orders as a table: what is in stock, what to charge, what to order, and what that brings."""

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.names import CHANNEL_INDEX
from pricing_fm.panel import Panel, read_companion
from pricing_fm.panel.cells import read_numbers
from pricing_fm.panel.refusal import render_value
from pricing_fm.policy.options import OWN, PriceOptions
from pricing_fm.policy.replenishment import PriceAndOrder, StockArguments
from pricing_fm.policy.situation import Situation

ON_ORDER = "on_order"


def read_stock(panel: Panel, situation: Situation, table: pd.DataFrame | None) -> tuple[np.ndarray, np.ndarray]:
    """Units on hand and on order at the origin.

    Args:
        panel (`Panel`): The log.
        situation (`Situation`): N items at the origin.
        table (`pd.DataFrame`, *optional*): One row per item: `item_id` (or the columns that the schema joins to it),
            `inventory` (on hand now) and, if anything is, `on_order` (arrives no later than this order). By default the
            `inventory` planned for the first period, else that of the last one less its sales (what came since is not
            known, and has to be given), and nothing on order.

    Returns:
        On hand and on order, `(N,)` each.

    Raises:
        PanelError: If an item's stock is not known or negative, or the table holds an item twice or one that the log
            does not have.
    """
    ids = list(situation.item_ids)
    if table is not None:
        hand, coming = _given_stock(panel, ids, table)
    else:
        hand, coming = _logged_stock(panel, situation), np.zeros(len(ids))
    for name, values in ((names.INVENTORY, hand), (ON_ORDER, coming)):
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            row = int(bad.argmax())
            raise PanelError(
                f"item {ids[row]!r} has {name} {render_value(values[row])} ({int(bad.sum())} such items); orders need "
                "a stock of 0 or more: map `inventory`, or pass a table with item_id, inventory and on_order"
            )
    return hand, coming


def _given_stock(panel: Panel, ids: list[str], table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What the table says of these items; items of the log that are not priced may be in it, unknown ones may not."""
    frame = read_companion(panel, table)
    if names.INVENTORY not in frame:
        raise PanelError(
            f"the stock table has the columns {', '.join(map(repr, table.columns))}; it needs item_id and inventory "
            "(units on hand now), and may have on_order (units on their way)"
        )
    items = frame[names.ITEM_ID]
    twice, known = items[items.duplicated()].unique(), panel.item_ids
    if len(twice):
        raise PanelError(
            f"the stock table holds item {twice[0]!r} twice ({len(twice)} such items); keep one row per item"
        )
    unknown = sorted(set(items) - set(known))
    if unknown:
        raise PanelError(
            f"the stock table holds item {unknown[0]!r}, which the log does not ({len(unknown)} such items); the log "
            f"has {', '.join(map(repr, known[:3]))}{', ...' if len(known) > 3 else ''}. Write ids as the log does, or "
            "drop the rows"
        )
    absent = sorted(set(ids) - set(items))
    if absent:
        raise PanelError(
            f"item {absent[0]!r} is not in the stock table ({len(absent)} of {len(ids)} items are not); add its row, "
            "with inventory 0 if there is none left"
        )
    places = pd.Index(items).get_indexer(pd.Index(ids))
    hand = frame[names.INVENTORY].to_numpy()[places]
    coming = read_numbers(frame, ON_ORDER, panel.schema)[places] if ON_ORDER in frame else np.zeros(len(ids))
    return hand, coming


def _logged_stock(panel: Panel, situation: Situation) -> np.ndarray:
    planned = situation.windows.future[:, 0, CHANNEL_INDEX[names.INVENTORY]].astype(np.float64)
    if names.INVENTORY not in panel.frame:
        return planned
    last = panel.frame[panel.frame[names.TIMESTAMP] == panel.last_observed].set_index(names.ITEM_ID)
    left = (last[names.INVENTORY] - last[names.UNITS]).reindex(list(situation.item_ids)).to_numpy(dtype=np.float64)
    return np.where(np.isfinite(planned), planned, np.maximum(left, 0.0))


def order_table(
    options: PriceOptions, hand: np.ndarray, coming: np.ndarray, found: PriceAndOrder, stock: StockArguments
) -> pd.DataFrame:
    """One row per item, sorted.

    Args:
        options (`PriceOptions`): N items.
        hand (`(N,)`): Units on hand.
        coming (`(N,)`): Units on order.
        found (`PriceAndOrder`): The choice.
        stock (`StockArguments`): Times and costs.

    Returns:
        `pd.DataFrame`: Columns of `PricingPolicy.replenish`.
    """
    rows, plan = np.arange(len(options)), found.plan
    ways = {"": found.joint, "separate_": found.separate, "kept_": found.kept}
    table = pd.DataFrame(
        {
            names.ITEM_ID: options.situation.item_ids,
            names.TIMESTAMP: options.situation.windows.future_timestamps[:, 0].astype("datetime64[ns]"),
            "on_hand": hand,
            ON_ORDER: coming,
            "current_price": options.current_price,
        }
    )
    for prefix, column in ways.items():
        table[f"{prefix}price"] = options.prices[rows, column]
        table[f"{prefix}order"] = plan.quantity[rows, column]
        table[f"{prefix}profit"] = plan.outcome.profit[rows, column]
        table[f"{prefix}cautious_gain"] = found.cautious_gain[rows, column]
        if not prefix:
            table["expected_sales"] = plan.outcome.sales[rows, column]
            table["expected_left"] = plan.outcome.left[rows, column]
            table["service"] = plan.outcome.service[rows, column]
            ratio = stock.unit_costs(options.prices, options.costs).critical_ratio
            table["critical_ratio"] = ratio[rows, column]
    weeks = options.expected_units[:, OWN] / stock.periods
    cover = (hand + coming) / np.maximum(weeks, 1e-9)
    table["explanation"] = [_explain(row, cover[place], stock) for place, row in enumerate(table.to_dict("records"))]
    return table


def _explain(row: dict, cover: float, stock: StockArguments) -> str:
    move = row["price"] / row["current_price"] - 1
    head = "Kept" if abs(move) < 1e-9 else f"{'Raised' if move > 0 else 'Cut'} by {abs(move):.1%}"
    return (
        f"{head}, {row['order']:g} ordered: there was stock for {cover:.1f} period(s) at the current price, to last "
        f"{stock.periods}; all demand is met with {row['service']:.0%} (critical ratio {row['critical_ratio']:.0%}); "
        f"expected profit {row['profit']:.2f} against {row['separate_profit']:.2f} with the price chosen before the "
        f"order and {row['kept_profit']:.2f} at the current price, a cautious gain of {row['cautious_gain']:.2f}."
    )
