"""How much of the price axis a log has seen: what can be learned from it, manager by manager."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pricing_fm.markets.logs import SimulatedLog
from pricing_fm.markets.managers import MANAGERS

RANDOMIZED_PERIODS = "(randomised periods)"


def compute_price_coverage(log: SimulatedLog) -> pd.DataFrame:
    """Price coverage per manager, and of the periods whose prices were drawn at random.

    Args:
        log: The simulated log.

    Returns:
        One row per manager, columns:

        * `manager`; `items`; `rows`;
        * `multiple_low`, `multiple_high`: 5 and 95 % quantile of price over list price;
        * `below_list`, `promoted`: shares of rows; `sold_out`: share of the rows with a stock, NaN without one;
        * `rungs_tried`: mean over items of the share of the ladder's rungs that the item was sold at;
        * `distinct_prices`: median over items;
        * `price_episodes`: median over items of the effective number of stretches of one price, (sum of lengths)**2 /
          sum of squared lengths: 1 = one price for ever, the number of periods = a new price in each;
        * `propensity_low`, `propensity_high`: range; `certain`: share of rows with propensity 1;
        * `hidden_correlation`: correlation of log price over list price with hidden demand, NaN where one is constant.
    """
    drawn = log.arrays.price_is_intervention.reshape(log.settings.num_periods, -1).astype(bool)
    per_market = log.num_items // len(log.market_ids)
    manager = np.repeat(log.habits.manager, per_market)
    rows = []
    for code in np.unique(manager):
        here = ~drawn & (manager == code)
        if here.any():
            rows.append(_describe(log, MANAGERS[code], here, log.habits.price_ladder))
    if drawn.any():
        low, high = log.parameters.price_bounds
        ladder = np.array([rung for rung in log.settings.intervention_ladder if low <= rung <= high])
        rows.append(_describe(log, RANDOMIZED_PERIODS, drawn, ladder))
    return pd.DataFrame(rows)


def _describe(log: SimulatedLog, who: str, here: np.ndarray, ladder: np.ndarray) -> dict[str, object]:
    """The numbers of the rows where `here`, bool, `(periods, items)`, is True."""

    def flat(values: np.ndarray) -> np.ndarray:
        return values.reshape(here.shape)

    arrays = log.arrays
    price, list_price, propensity = flat(arrays.price), flat(arrays.list_price), flat(arrays.propensity)[here]
    multiple = price / list_price
    low, high = np.quantile(multiple[here], [0.05, 0.95])
    stocked = here & np.isfinite(flat(arrays.inventory))
    sold_out = flat(arrays.units >= arrays.inventory)[stocked]
    items = np.flatnonzero(here.any(axis=0))
    rung = np.abs(multiple[..., None] - ladder).argmin(axis=-1)
    return {
        "manager": who,
        "items": len(items),
        "rows": int(here.sum()),
        "multiple_low": float(low),
        "multiple_high": float(high),
        "below_list": float((multiple[here] < 0.995).mean()),
        "promoted": float(flat(arrays.promotion)[here].mean()),
        "sold_out": float(sold_out.mean()) if len(sold_out) else float("nan"),
        "rungs_tried": float(_count_distinct(rung, here)[items].mean() / len(ladder)),
        "distinct_prices": float(np.median(_count_distinct(price, here)[items])),
        "price_episodes": float(np.median(_count_episodes(price, here)[items])),
        "propensity_low": float(propensity.min()),
        "propensity_high": float(propensity.max()),
        "certain": float((propensity > 1.0 - 1e-9).mean()),
        "hidden_correlation": _correlate(np.log(multiple[here]), flat(arrays.hidden_shock)[here]),
    }


def _count_distinct(values: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Distinct values of every item where `here` is True, `(items,)`."""
    ordered = np.sort(np.where(here, values, np.inf), axis=0)
    new = np.isfinite(ordered)
    new[1:] &= ordered[1:] != ordered[:-1]
    return new.sum(axis=0)


def _count_episodes(price: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Effective number of stretches of one price of every item where `here` is True, `(items,)`; NaN without any."""
    begins = here.copy()
    begins[1:] &= (price[1:] != price[:-1]) | ~here[:-1]
    periods, items = price.shape
    stretch = np.cumsum(begins, axis=0) + np.arange(items) * (periods + 1)
    lengths = np.bincount(stretch[here], minlength=items * (periods + 1)).reshape(items, periods + 1)
    total = lengths.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return total**2 / (lengths**2).sum(axis=1)


def _correlate(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() < 1e-12 or b.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
