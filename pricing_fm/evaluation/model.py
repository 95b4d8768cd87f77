"""The pretrained model behind the interface of every forecaster."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

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
        table = self.policy.forecast(
            window.history, window.prediction_length, _plan_of(window), list(window.quantile_levels)
        )
        shape = (len(window.item_ids), window.prediction_length)
        if len(table) != shape[0] * shape[1]:
            raise ValueError(f"{len(table)} forecast rows for {shape[0]} items x {shape[1]} steps")
        columns = [str(level) for level in window.quantile_levels]
        quantiles = table[columns].to_numpy(dtype=np.float64).reshape(*shape, len(columns))
        return Forecast.of(quantiles, table["mean"].to_numpy(dtype=np.float64).reshape(shape))


def _plan_of(window: ForecastWindow) -> pd.DataFrame:
    """The known future; a price that is unknown there is the item's last one, as a shop would assume."""
    plan = window.future.copy()
    last = window.history.frame.groupby("item_id")["price"].last()
    plan["price"] = plan.groupby("item_id")["price"].ffill().fillna(plan["item_id"].map(last))
    return plan
