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


@dataclass(frozen=True)
class Regret:
    """What a policy leaves on the table.

    Args:
        mean (`float`): Mean over markets of best minus achieved value, currency.
        share (`float`): Sum of the shortfalls over the sum of the best values; 0 = the optimum.
        largest (`float`): Largest shortfall of a market, currency.
    """

    mean: float
    share: float
    largest: float


def compute_regret(values: np.ndarray, best_values: np.ndarray) -> Regret:
    """Shortfall of a policy against the best there is.

    Values that were simulated may lie above the best one by chance; such shortfalls are negative and count, since
    cutting them off would make regret out of noise.

    Args:
        values (`np.ndarray`, shape `(markets,)`): Value of the policy, currency.
        best_values (`np.ndarray`, shape `(markets,)`): Value of the oracle, or of the best of the candidates, currency.

    Returns:
        `Regret`: Over all markets.

    Raises:
        ValueError: If shapes differ, a value is not finite, or the best values sum to 0 or less.
    """
    achieved, best = np.asarray(values, dtype=np.float64), np.asarray(best_values, dtype=np.float64)
    if achieved.shape != best.shape or achieved.size == 0:
        raise ValueError(f"values have shapes {achieved.shape} and {best.shape}; expected the same, not empty")
    if not (np.isfinite(achieved).all() and np.isfinite(best).all()):
        raise ValueError("values must be finite; leave markets out in which the policy was not valued")
    if not best.sum() > 0.0:
        raise ValueError(f"the best values sum to {best.sum():g}; a share of what can be earned needs a positive sum")
    shortfall = best - achieved
    return Regret(float(shortfall.mean()), float(shortfall.sum() / best.sum()), float(shortfall.max()))
