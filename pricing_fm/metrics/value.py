"""How much of the possible improvement a pricing policy reaches."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GapClosed:
    """Share of the gap between the logged manager and the exact oracle, per market.

    Args:
        shares (`np.ndarray`, float64, shape `(markets,)`): 0 = as good as the manager, 1 = as good as the oracle,
            negative = worse than the manager; NaN = excluded.
        excluded (`int`): Markets whose manager already has almost all of the oracle's value.
    """

    shares: np.ndarray
    excluded: int


def compute_gap_closed(
    values: np.ndarray, manager_values: np.ndarray, oracle_values: np.ndarray, excluded_above: float = 0.98
) -> GapClosed:
    """Share of the gap closed, `(value - manager) / (oracle - manager)`, in each market.

    Where the manager is already near the optimum the ratio is all noise; such markets are excluded and counted.

    Args:
        values (`np.ndarray`, shape `(markets,)`): Expected value of the policy, currency.
        manager_values (`np.ndarray`, shape `(markets,)`): Value of the logged manager, same markets, currency.
        oracle_values (`np.ndarray`, shape `(markets,)`): Value of the exact oracle, same markets, currency.
        excluded_above (`float`): Markets whose manager has at least this share of the oracle's value are left out.

    Returns:
        `GapClosed`: Shares with NaN for excluded markets.

    Raises:
        ValueError: If shapes differ or an oracle has no positive value.
    """
    values, manager_values, oracle_values = (
        np.asarray(given, dtype=np.float64) for given in (values, manager_values, oracle_values)
    )
    if not values.shape == manager_values.shape == oracle_values.shape:
        raise ValueError(
            f"values have shapes {values.shape}, {manager_values.shape}, {oracle_values.shape}; expected the same"
        )
    if not (oracle_values > 0).all():
        raise ValueError("every oracle value must be positive: a market in which nothing can be earned has no gap")
    excluded = manager_values >= excluded_above * oracle_values
    gap = np.where(excluded, np.nan, oracle_values - manager_values)
    return GapClosed(shares=(values - manager_values) / gap, excluded=int(excluded.sum()))
