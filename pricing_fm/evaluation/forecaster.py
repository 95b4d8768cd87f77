"""What answers a forecast window: one interface for the model and for every baseline."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from pricing_fm.panel.panel import Panel


@dataclass(frozen=True)
class ForecastWindow:
    """All that a forecaster may see at one origin: history, and what is declared known about the steps to come.

    Args:
        history (`Panel`): Periods before the origin, only of the items to forecast; each item's rows end in the period
            before the origin.
        future (`pd.DataFrame`): Exactly `prediction_length` rows per item, sorted by item and time, in panel names:
            `item_id`, `timestamp`, `price`, and where the panel has them `list_price`, `price_is_intervention`,
            promotions, known covariates. No units, traffic, stock, cost or rival prices.
        origin (`pd.Timestamp`): First period to forecast.
        prediction_length (`int`): Steps.
        quantile_levels (`tuple[float, ...]`): Probabilities asked for, increasing.
    """

    history: Panel
    future: pd.DataFrame
    origin: pd.Timestamp
    prediction_length: int
    quantile_levels: tuple[float, ...]

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Items to forecast, sorted: the order of the rows of a `Forecast`."""
        return self.history.item_ids


@dataclass(frozen=True)
class Forecast:
    """Answer to a window, in units.

    Args:
        quantiles (`np.ndarray`, float64, shape `(items, steps, levels)`): Non-negative, not decreasing over levels.
        mean (`np.ndarray`, float64, shape `(items, steps)`): Expected units, non-negative.
    """

    quantiles: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, quantiles: np.ndarray, mean: np.ndarray) -> "Forecast":
        """Puts crossing quantiles in order and lifts negative values to zero: demand is neither.

        Sorting never worsens the summed pinball loss.

        Args:
            quantiles (`np.ndarray`, shape `(items, steps, levels)`): Raw quantiles, units.
            mean (`np.ndarray`, shape `(items, steps)`): Raw expected units.

        Returns:
            `Forecast`: Valid forecast.

        References:
            Chernozhukov et al. 2010, "Quantile and probability curves without crossing".
        """
        ordered = np.sort(np.maximum(np.asarray(quantiles, dtype=np.float64), 0.0), axis=-1)
        return cls(ordered, np.maximum(np.asarray(mean, dtype=np.float64), 0.0))


class Forecaster(Protocol):
    """Anything that is fitted once on the data before the first origin, then asked at every origin."""

    @property
    def name(self) -> str:
        """Name in result rows."""
        ...

    @property
    def seed(self) -> int | None:
        """Seed of the fit in result rows; None for what has no randomness."""
        ...

    def fit(self, panel: Panel) -> None:
        """Learns from all data before the first origin, once.

        Args:
            panel (`Panel`): Periods before the earliest origin of the task.
        """
        ...

    def predict(self, window: ForecastWindow) -> Forecast:
        """Forecasts every item of a window.

        Args:
            window (`ForecastWindow`): What may be seen.

        Returns:
            `Forecast`: Rows in the order of `window.item_ids`.
        """
        ...


class Baseline(Forecaster, Protocol):
    """A forecaster whose numbers are determined by data and settings, so that its rows may be cached."""

    def settings(self) -> dict[str, object]:
        """Everything that changes its numbers, as JSON values.

        Returns:
            `dict[str, object]`: Part of the cache key.
        """
        ...
