"""What a domain of markets is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pricing_fm.markets.core import Market


@dataclass(frozen=True)
class Domain:
    """A domain: how its markets are drawn, and what a period and a unit are.

    Attributes:
        name: As in `make(name)`.
        families: Names of its families; the first is the default.
        settings: Type of its settings; called without arguments it gives plausible ranges.
        sample: Draws markets: (settings, family, market ids `(markets,)`, seed) -> `Market`.
        frequency: Length of a period as a pandas frequency ("W", "D", "h", "MS").
        unit: What one unit sold is.
        description: Markdown: state, action, reward, dynamics, constraints, standard baselines.
    """

    name: str
    families: tuple[str, ...]
    settings: type[Any]
    sample: Callable[[Any, str, np.ndarray, int], Market]
    frequency: str
    unit: str
    description: str
