"""Successive independent draws for the truth of markets, from counter streams: market m is the same in any company."""

from __future__ import annotations

from typing import Any

import numpy as np

from pricing_fm.markets.streams import build_streams


class Draws:
    """Draws of one level of a hierarchy (categories, products, stores), one array of `(markets, *shape)` each.

    Args:
        seed: Seed of everything, >= 0.
        ids: Integer names of the level's members, >= 0, `(markets,)`; equal names draw equal numbers.
        salt: Number of the level; levels with other salts draw other numbers.
        shape: (products, segments), or ones where a draw holds for all.
    """

    def __init__(self, seed: int, ids: np.ndarray, salt: int, shape: tuple[int, ...]) -> None:
        self._streams, self._shape, self._count = build_streams(seed, ids, salt), shape, 0

    def uniform(self, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Uniform in (0, 1); `shape` in place of the level's own."""
        self._count += 1
        return self._streams.uniform(self._count, 0, shape or self._shape)

    def normal(self, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Standard normal."""
        self._count += 1
        return self._streams.normal(self._count, 0, shape or self._shape)

    def between(self, bounds: tuple[float, float], shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Uniform between two numbers."""
        return bounds[0] + (bounds[1] - bounds[0]) * self.uniform(shape)

    def log_between(self, bounds: tuple[float, float], shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Log-uniform between two positive numbers."""
        return np.exp(self.between((np.log(bounds[0]), np.log(bounds[1])), shape))

    def choice(self, codes: list[int]) -> np.ndarray:
        """One of the codes, each with the same chance."""
        return np.array(codes)[(self.uniform() * len(codes)).astype(int)]


def check_ranges(settings: object) -> None:
    """Refuse dataclass fields named `*_range` or `*_bounds` that are not two finite numbers in order.

    None passes where it is the field's default.

    Raises:
        ValueError: Naming the field.
    """
    for name, value in vars(settings).items():
        if value is None and vars(type(settings)).get(name, ...) is None:
            continue
        if name.endswith(("_range", "_bounds")) and not _is_range(value):
            raise ValueError(
                f"{name} is {value}; it needs two finite numbers: the first number must not exceed the second"
            )


def _is_range(value: Any) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    numbers = all(
        isinstance(one, int | float | np.integer | np.floating) and not isinstance(one, bool) for one in value
    )
    return numbers and bool(-np.inf < value[0] <= value[1] < np.inf)
