"""A dynamic program over the stock on a network's own demand curve: the planner that a learned policy has to beat.

State: units in stock. What comes in is estimated from the visible log: filled up to a level, or a steady inflow. Demand
of a week at a price is the network's, along the path that holds this price, which is exact for a price that is held and
leaves out what earlier other prices would still do to later weeks.
Shapes: N items, P candidate prices, H weeks, Q atoms of demand.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.policy_choices import LadderChoice
from pricing_fm.panel import Panel

MOST_STOCKS = 200  # points of the grid of stocks
RECENT = 13  # visible weeks that replenishment is estimated from


@dataclass(frozen=True)
class Supply:
    """How the stock of an item goes on, estimated from its log.

    Args:
        level (`float`): Units that it is filled up to; 0 = it is not.
        inflow (`float`): Units that come in every week whatever was sold; 0 where it is filled up.
    """

    level: float
    inflow: float

    def follow(self, left: np.ndarray) -> np.ndarray:
        """Stock before the next week, units."""
        return np.maximum(left, self.level) + self.inflow


def estimate_supply(stock: np.ndarray, units: np.ndarray) -> Supply:
    """The rule, of the two, that would have foretold the logged stocks better.

    Args:
        stock (`np.ndarray`, shape `(weeks,)`): Units available at the start of each week, finite.
        units (`np.ndarray`, shape `(weeks,)`): Units sold.

    Returns:
        `Supply`: Filled up to the last stock where there are fewer than two weeks.
    """
    if len(stock) < 2:
        return Supply(float(stock[-1]), 0.0)
    left, following = np.maximum(stock[:-1] - units[:-1], 0.0), stock[1:]
    filled = Supply(float(np.median(following)), 0.0)
    steady = Supply(0.0, float(max(np.median(following - left), 0.0)))
    errors = [float(np.abs(rule.follow(left) - following).mean()) for rule in (filled, steady)]
    return filled if errors[0] <= errors[1] else steady


def solve_stock(
    margins: np.ndarray, atoms: np.ndarray, weights: np.ndarray, stock: float, supply: Supply
) -> tuple[np.ndarray, np.ndarray]:
    """Expected margin of every price charged now, held to the end or followed by the best of every week.

    Args:
        margins (`np.ndarray`, shape `(P,)`): Currency per unit.
        atoms (`np.ndarray`, shape `(P, H, Q)`): Demand, units.
        weights (`np.ndarray`, shape `(Q,)`): Probabilities of the atoms.
        stock (`float`): Units now.
        supply (`Supply`): What comes in.

    Returns:
        Held `(P,)` and optimal `(P,)`, currency over all weeks.
    """
    largest = max(stock, supply.level) + supply.inflow * atoms.shape[1]
    grid = np.linspace(0.0, max(largest, 1.0), int(min(np.ceil(largest), MOST_STOCKS)) + 1)
    held, best = np.zeros((len(margins), len(grid))), np.zeros(len(grid))
    optimal = held
    for week in reversed(range(atoms.shape[1])):
        sold = np.minimum(atoms[:, week, None, :], grid[:, None])  # (P, stocks, Q)
        place = np.clip(supply.follow(grid[:, None] - sold), 0.0, grid[-1]) / grid[1]
        low = np.minimum(place.astype(np.int64), len(grid) - 2)
        share = place - low
        reward = margins[:, None] * (sold @ weights)
        rows = np.arange(len(margins))[:, None, None]
        going_on = (held[rows, low] * (1 - share) + held[rows, low + 1] * share) @ weights
        free = (best[low] * (1 - share) + best[low + 1] * share) @ weights
        held, optimal = reward + going_on, reward + free
        best = optimal.max(axis=0)
    here = min(round(stock / grid[1]), len(grid) - 1)
    return held[:, here], optimal[:, here]


def level_weights(levels: np.ndarray) -> np.ndarray:
    """Probability that each quantile of a curve stands for: half the way to its neighbours, `(Q,)`."""
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    return np.diff(edges)


def stock_scores(
    choice: LadderChoice, panel: Panel, levels: np.ndarray, stock: np.ndarray, is_held: bool
) -> np.ndarray:
    """Expected margin of every candidate price, `(N, P)`, currency, minus infinity if closed.

    Items without a stock have the plain plan on the curve.

    Args:
        choice (`LadderChoice`): Of the panel's items.
        panel (`Panel`): What is visible.
        levels (`np.ndarray`, shape `(Q,)`): Quantile levels of the network.
        stock (`np.ndarray`, shape `(N,)`): Units now; NaN or infinite = unlimited.
        is_held (`bool`): Whether the price stays, or is the first of a plan that goes on.

    Returns:
        `(N, P)`.
    """
    margins = choice.prices - choice.costs[:, None]
    scores = margins * choice.demand.mean.sum(-1)
    weights = level_weights(levels)
    logged = _logged_stocks(panel)
    for row in np.flatnonzero(np.isfinite(stock)):
        held, optimal = solve_stock(
            margins[row], choice.demand.quantile_values[row], weights, float(stock[row]), estimate_supply(*logged[row])
        )
        scores[row] = held if is_held else optimal
    return np.where(choice.is_open, scores, -np.inf)


def _logged_stocks(panel: Panel) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stocks and sales of each item's recent weeks in which both are known."""
    columns = [names.INVENTORY, names.UNITS]
    frame = panel.frame if names.INVENTORY in panel.frame else panel.frame.assign(**{names.INVENTORY: np.nan})

    def recent(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        known = rows[columns].dropna().tail(RECENT)
        return known[names.INVENTORY].to_numpy(dtype=float), known[names.UNITS].to_numpy(dtype=float)

    return [recent(rows) for _, rows in frame.groupby(names.ITEM_ID, sort=True)]
