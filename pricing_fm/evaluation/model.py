"""The pretrained model behind the interface of every forecaster."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.forecaster import Forecast, ForecastWindow
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy


@dataclass(frozen=True)
class PolicyForecaster:
    """Forecasts of a loaded policy; nothing is fitted here, so training it on later data is the caller's to avoid.

    Args:
        policy (`PricingPolicy`): Base, with or without adapters.
        name (`str`): Name in result rows.
        seed (`int`, *optional*): Seed it was trained with, for the rows.
    """

    policy: PricingPolicy
    name: str
    seed: int | None = None

    def fit(self, panel: Panel) -> None:
        """Nothing to fit."""

    def predict(self, window: ForecastWindow) -> Forecast:
        """Quantiles and mean of every item of the window, from its history and its plan."""
        panel = _with_plan(window)
        ends = np.array([panel.last_observed.to_datetime64(), window.origin.to_datetime64()])
        last, origin = panel.frequency.locate(ends)[0]
        # A policy forecasts from the last observed period on; right before the origin nothing may have been sold.
        periods = int(origin - last) - 1 + window.prediction_length
        table = self.policy.forecast(panel, periods, quantile_levels=list(window.quantile_levels))
        table = table[table["timestamp"] >= window.origin]
        shape = (len(window.item_ids), window.prediction_length)
        if len(table) != shape[0] * shape[1]:
            raise ValueError(f"{len(table)} forecast rows for {shape[0]} items x {shape[1]} steps")
        columns = [str(level) for level in window.quantile_levels]
        quantiles = table[columns].to_numpy(dtype=np.float64).reshape(*shape, len(columns))
        return Forecast.of(quantiles, table["mean"].to_numpy(dtype=np.float64).reshape(shape))


def _with_plan(window: ForecastWindow) -> Panel:
    """The history with the plan as known future rows."""
    history = window.history
    plan = window.future.assign(**{names.PRICE_IMPUTED: False})
    frame = pd.concat([history.frame, plan]).sort_values([names.ITEM_ID, names.TIMESTAMP], kind="stable")
    return replace(history, frame=frame.reset_index(drop=True))
