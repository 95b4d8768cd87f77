"""Answers as tables: the columns of `forecast`, `demand_curve` and `recommend`."""

import numpy as np
import pandas as pd

from pricing_fm.errors import PanelError


def interpolate_levels(quantile_values: np.ndarray, levels: np.ndarray, wanted: list[float]) -> np.ndarray:
    """Quantiles `(..., Q)` at other probabilities, linear between neighbours: `(..., len(wanted))`.

    Raises:
        PanelError: If a wanted level lies outside the network's levels.
    """
    outside = [level for level in wanted if not levels[0] <= level <= levels[-1]]
    if outside or not wanted:
        raise PanelError(f"quantile_levels must lie in [{levels[0]}, {levels[-1]}], found {outside or wanted}")
    place = np.interp(wanted, levels, np.arange(len(levels)))
    low = np.minimum(place.astype(int), len(levels) - 2)
    share = place - low
    return quantile_values[..., low] * (1 - share) + quantile_values[..., low + 1] * share


def step_table(item_ids: tuple[str, ...], timestamps: np.ndarray) -> dict[str, np.ndarray]:
    """Key columns of a table with one row per item and step: `(N,)`, `(N, H)` -> columns of `N * H`."""
    return {
        "item_id": np.repeat(np.asarray(item_ids, dtype=object), timestamps.shape[1]),
        "timestamp": timestamps.astype("datetime64[ns]").ravel(),
    }


def quantile_columns(quantile_values: np.ndarray, levels: list[float], prefix: str = "") -> dict[str, np.ndarray]:
    """One column per level, named by the level: `(..., len(levels))` -> columns of the leading size."""
    return {f"{prefix}{level}": quantile_values[..., place].ravel() for place, level in enumerate(levels)}


def explain(row: pd.Series, periods: int) -> str:
    """One sentence or two that say why this price.

    Args:
        row (`pd.Series`): A recommendation with the columns of `recommend` plus `base_value`, `elasticity`,
            `elasticity_lower`, `elasticity_upper`, `source`, `weeks_at_price`.
        periods (`int`): Periods the totals cover.

    Returns:
        `str`.
    """
    if row["fallback"]:
        return f"Kept: only {row['observed_periods']} observed period(s), too few to judge a price ({row['source']})."
    amount = "units" if row["objective"] == "units" else row["objective"]
    move = row["price"] / row["current_price"] - 1
    head = "Kept" if abs(move) < 1e-9 else f"{'Raised' if move > 0 else 'Cut'} by {abs(move):.1%}"
    text = (
        f"{head}: expected {amount} {row['value']:.2f} over {periods} period(s) against {row['base_value']:.2f} "
        f"at {row['current_price']:.2f}; elasticity {row['elasticity']:.2f}"
    )
    if np.isfinite(row["elasticity_lower"]):
        text += f" ({row['elasticity_lower']:.2f} to {row['elasticity_upper']:.2f})"
    text += f"; {row['support_note']}; {row['source']}"
    if row["binding_rule"]:
        text += f"; bound by {row['binding_rule']}"
    return text + "."
