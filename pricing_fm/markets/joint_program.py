"""Exact dynamic program of price and order together: one item, whole units, stationary demand, lost sales.

The order of events in a period: the price is charged and an order placed, demand is served from what is on hand, a unit
left is held at a charge, and the order of `lead_time` periods ago arrives (lead time 0: this period's, before demand).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

_MOST_CELLS = 20_000_000  # states x prices x orders


@dataclass(frozen=True)
class JointProgram:
    """A stocked item whose demand is known.

    Attributes:
        prices: Prices that may be charged, currency, `(P,)`.
        demand: Probability of every whole demand 0, 1, ... at each price, `(P, D)`; the last gathers the tail.
        cost: Of a unit ordered, currency.
        holding: Of a unit left at the end of a period, currency.
        lost_sale: Of a customer who finds nothing, beyond the margin, currency.
        salvage: Of a unit on hand or on order when the last period is over, currency.
        lead_time: 0 or 1 periods.
        most: Largest stock on hand and on order together, whole units.
        periods: Length of the season.
        discount: Worth of a period's profit one period earlier.
    """

    prices: np.ndarray
    demand: np.ndarray
    cost: float
    holding: float
    lost_sale: float
    salvage: float
    lead_time: int
    most: int
    periods: int
    discount: float = 1.0

    def __post_init__(self) -> None:
        if self.lead_time not in (0, 1):
            raise ValueError(f"lead_time is {self.lead_time}; it must be 0 or 1")
        if self.demand.shape[0] != len(self.prices) or np.abs(self.demand.sum(1) - 1).max() > 1e-9:
            raise ValueError(f"demand has shape {self.demand.shape}; it needs a law that sums to 1 for each price")
        if (self.most + 1) ** 2 * len(self.prices) > _MOST_CELLS:
            raise ValueError(f"most is {self.most}: {len(self.prices)} prices leave too many states to solve")

    def _serve(self) -> tuple[np.ndarray, np.ndarray]:
        """Expected profit of a period, orders aside, and the law of what is left, by price and stock that can be sold.

        `(P, most + 1)` and `(P, most + 1, most + 1)`.
        """
        stock, wanted = np.arange(self.most + 1), np.arange(self.demand.shape[1])
        left = np.maximum(stock[:, None] - wanted, 0)
        short = np.maximum(wanted - stock[:, None], 0)
        sold = np.minimum(wanted, stock[:, None])
        profit = (
            self.prices[:, None] * (self.demand @ sold.T)
            - self.demand @ (self.holding * left + self.lost_sale * short).T
        )
        law = np.zeros((len(self.prices), self.most + 1, self.most + 1))
        for row, column in product(range(self.most + 1), range(self.demand.shape[1])):
            law[:, row, left[row, column]] += self.demand[:, column]
        return profit, law

    def look_ahead(self, following: np.ndarray) -> np.ndarray:
        """Value of every action in every state: `(most + 1,)` by stock -> `(most + 1, P, most + 1)` by price and order.

        The state is what is on hand after deliveries; what the order would lift above `most` is ruled out.
        """
        profit, law = self._serve()
        ahead = self.discount * following
        orders = np.arange(self.most + 1)
        values = np.full((self.most + 1, len(self.prices), self.most + 1), -np.inf)
        for stock in range(self.most + 1):
            allowed = orders[: self.most + 1 - stock]
            if self.lead_time == 0:
                at = stock + allowed
                values[stock][:, allowed] = profit[:, at] + (law @ ahead)[:, at]
            else:
                # The law of what is left, moved up by what arrives.
                reach = law[:, stock, : stock + 1]
                shifted = np.stack([ahead[order : order + stock + 1] for order in allowed], axis=-1)
                values[stock][:, allowed] = profit[:, stock, None] + reach @ shifted
            values[stock][:, allowed] -= self.cost * allowed
        return values

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Best value of every stock at the start, and the best price and order in every period.

        Returns:
            `(most + 1,)`, currency, and `(periods, most + 1, 2)`, int: rung and order.
        """
        value, choices = self._end(), np.zeros((self.periods, self.most + 1, 2), dtype=int)
        for period in reversed(range(self.periods)):
            found = self.look_ahead(value).reshape(self.most + 1, -1)
            best = found.argmax(1)
            choices[period] = np.stack(np.unravel_index(best, (len(self.prices), self.most + 1)), axis=-1)
            value = found[np.arange(self.most + 1), best]
        return value, choices

    def evaluate(self, choices: np.ndarray) -> np.ndarray:
        """Value of every stock at the start under given choices.

        Args:
            choices: Rung and order by period and state, int, `(periods, most + 1, 2)`; `(most + 1, 2)` = always these.

        Returns:
            `(most + 1,)`, currency.
        """
        plan, states = np.broadcast_to(choices, (self.periods, self.most + 1, 2)), np.arange(self.most + 1)
        value = self._end()
        for period in reversed(range(self.periods)):
            value = self.look_ahead(value)[states, plan[period, :, 0], plan[period, :, 1]]
        return value

    def _end(self) -> np.ndarray:
        return self.salvage * np.arange(self.most + 1.0)
