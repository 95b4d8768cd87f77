"""What a market is composed of: parts that hold arrays with one leading row per market."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class Part:
    """A frozen bundle of parameters whose arrays all start with the axes `(markets, products, segments)`.

    The product and segment axes may be one where a number holds for all of them; further axes (time, classes,
    regimes) follow.
    """

    def select(self, markets: np.ndarray) -> Self:
        """The part of some markets (positions, with repetition allowed, or a mask)."""
        return self._map(lambda values: values[markets])

    def select_items(self, shape: tuple[int, int, int], items: tuple[np.ndarray, ...] | np.ndarray) -> Self:
        """The part of some items as markets of one item each.

        Args:
            shape: (markets, products, segments) of the market.
            items: Index arrays (market, product, segment) or a mask of `shape`.

        Returns:
            The part with the leading axes `(len(items), 1, 1)`.
        """

        def take(values: np.ndarray) -> np.ndarray:
            whole = np.broadcast_to(values, (*shape, *values.shape[3:]))[items]
            return whole.reshape(-1, 1, 1, *values.shape[3:])

        return self._map(take)

    def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> Self:
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = change(value)
        return replace(self, **changed)


def is_time_invariant(*parts: object) -> bool:
    """Whether none of the parts changes what it does from period to period."""
    return all(part is None or getattr(part, "time_invariant", True) for part in parts)
