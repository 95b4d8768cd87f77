"""Outside sellers who set prices of their own: fixed, matching, undercutting or going round in a cycle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.parts import Part
from pricing_fm.markets.streams import REPORT, Streams

FIXED, MATCHER, UNDERCUTTER, CYCLE = range(4)
RIVALS = ("fixed", "matcher", "undercutter", "cycle")


@dataclass(frozen=True)
class Rivals(Part):
    """One rival per item, who answers the price of the last period.

    * fixed: keeps his list price;
    * matcher: moves `speed` of the way (in logarithms) from his price to the seller's;
    * undercutter: takes `undercut` off the seller's price until that would not cover his cost, then goes back to his
      list price (an Edgeworth cycle; Maskin and Tirole 1988, Econometrica);
    * cycle: list price and `undercut` below it by turns of `cycle_length` periods, whatever the seller does.

    State: the rival's price of this period and the one before, currency, `(markets, products, segments, 2)`.

    Attributes:
        kind: Index into `RIVALS`, int, `(markets, 1, 1)`.
        list_price: Rival's list price, currency per unit.
        floor: Price below which he does not go, currency.
        speed: Of a matcher, in (0, 1].
        undercut: Share taken off, in [0, 1).
        cycle_length: Periods of one turn, int.
        late_share, missing_share: Chance a period that the reported price is the one before, or is missing.
    """

    kind: np.ndarray
    list_price: np.ndarray
    floor: np.ndarray
    speed: np.ndarray
    undercut: np.ndarray
    cycle_length: np.ndarray
    late_share: np.ndarray
    missing_share: np.ndarray

    @property
    def time_invariant(self) -> bool:
        """Whether no rival follows the calendar."""
        return not np.any(self.kind == CYCLE)

    @property
    def _low_price(self) -> np.ndarray:
        return self.list_price * (1.0 - self.undercut)

    def start(self, own_list_price: np.ndarray) -> np.ndarray:
        """Everyone at the list price."""
        price = np.array(np.broadcast_to(self.list_price, own_list_price.shape))
        return np.stack([price, price], axis=-1)

    def get_prices(self, state: np.ndarray) -> np.ndarray:
        """Rival's price of this period, currency."""
        return state[..., 0]

    def advance(self, state: np.ndarray, prices: np.ndarray, period: np.ndarray) -> np.ndarray:
        """Rival's answer to the seller's prices."""
        now = state[..., 0]
        matched = np.exp((1.0 - self.speed) * np.log(now) + self.speed * np.log(prices))
        below = prices * (1.0 - self.undercut)
        answer = np.where(below < self.floor, self.list_price, below)
        turn = ((period.reshape(-1, 1, 1) + 1) // self.cycle_length) % 2
        cycled = np.where(turn == 1, self._low_price, self.list_price)
        fixed = np.broadcast_to(self.list_price, now.shape)
        chosen = np.select(
            [self.kind == MATCHER, self.kind == UNDERCUTTER, self.kind == CYCLE], [matched, answer, cycled], fixed
        )
        return np.stack([np.maximum(chosen, self.floor), now], axis=-1)

    def report(self, state: np.ndarray, period: np.ndarray, random: Streams) -> np.ndarray:
        """Price a seller learns of: mostly this period's, sometimes the one before, sometimes none (NaN)."""
        draw = random.uniform(period, REPORT, state.shape[1:3])
        price = np.where(draw < self.late_share, state[..., 1], state[..., 0])
        return np.where(draw > 1.0 - self.missing_share, np.nan, price)

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Grid of the rival's price for a dynamic program; the price before does not matter for what follows.

        The few prices of a rival who does not answer are the grid, exactly.
        """
        if self.kind.item() in (FIXED, CYCLE):
            lowest = self.list_price if self.kind.item() == FIXED else self._low_price
            taken = [np.maximum(price, self.floor) for price in (self.list_price, lowest)]
            return [np.unique([self.list_price, *taken]), self.list_price.reshape(-1)]
        own = list_price.item() * np.array(bounds)
        low = max(min(own[0] * (1.0 - self.undercut.item()), self._low_price.item()), 0.0)
        low, high = max(low, self.floor.item()), max(own[1], self.list_price.item())
        return [np.geomspace(min(low, high * 0.999), high, points), self.list_price.reshape(-1)]
