"""How mean demand responds to an item's own price: families with known elasticity and known optimal price.

Prices enter as the ratio to a fixed reference price, at which every family has response one and the same elasticity.
"""

from __future__ import annotations

import numpy as np

CONSTANT_ELASTICITY, EXPONENTIAL, LOGIT, LINEAR = range(4)
FAMILIES = ("constant_elasticity", "exponential", "logit", "linear")


def compute_log_response(
    family: np.ndarray, elasticity: np.ndarray, purchase_share: np.ndarray, ratio: np.ndarray
) -> np.ndarray:
    """Log of demand at a price over demand at the reference price.

    Args:
        family: Index into `FAMILIES`, integers, broadcast to `ratio`.
        elasticity: Minus d log demand / d log price at the reference price, > 0.
        purchase_share: Share of the customers who buy at the reference price, in (0, 1); used by `logit` alone.
        ratio: Price over reference price, > 0, shape `(..., markets, products, segments)`.

    Returns:
        Log response, shape of `ratio`; minus infinity where linear demand has ended.
    """
    result = np.empty(np.broadcast_shapes(ratio.shape, elasticity.shape, family.shape))
    for code in np.unique(family):
        here = np.broadcast_to(family == code, result.shape)
        x, e, s = (np.broadcast_to(values, result.shape)[here] for values in (ratio, elasticity, purchase_share))
        if code == CONSTANT_ELASTICITY:
            result[here] = -e * np.log(x)
        elif code == EXPONENTIAL:
            result[here] = -e * (x - 1.0)
        elif code == LOGIT:
            # share(x) / share(1) with slope e / (1 - s) and log odds of buying log(s / (1 - s)) at the reference.
            odds = np.exp(-e / (1.0 - s) * (x - 1.0))
            result[here] = np.log(odds / (1.0 - s + s * odds))
        else:
            with np.errstate(divide="ignore"):
                result[here] = np.log(np.maximum(1.0 - e * (x - 1.0), 0.0))
    return result


def compute_elasticity(
    family: np.ndarray, elasticity: np.ndarray, purchase_share: np.ndarray, ratio: np.ndarray
) -> np.ndarray:
    """Elasticity at a price, as a positive number: minus d log demand / d log price.

    Args:
        family: Index into `FAMILIES`, integers, broadcast to `ratio`.
        elasticity: Elasticity at the reference price, > 0.
        purchase_share: Share of the customers who buy at the reference price, in (0, 1); used by `logit` alone.
        ratio: Price over reference price, > 0.

    Returns:
        Elasticity at `ratio`, shape of `ratio`; infinite where linear demand has ended.
    """
    result = np.empty(np.broadcast_shapes(ratio.shape, elasticity.shape, family.shape))
    for code in np.unique(family):
        here = np.broadcast_to(family == code, result.shape)
        x, e, s = (np.broadcast_to(values, result.shape)[here] for values in (ratio, elasticity, purchase_share))
        if code == CONSTANT_ELASTICITY:
            result[here] = e
        elif code == EXPONENTIAL:
            result[here] = e * x
        elif code == LOGIT:
            odds = np.exp(-e / (1.0 - s) * (x - 1.0))
            result[here] = e * x / (1.0 - s + s * odds)
        else:
            left = 1.0 - e * (x - 1.0)
            result[here] = np.where(left > 0, e * x / np.where(left > 0, left, 1.0), np.inf)
    return result


def compute_optimal_ratio(
    family: np.ndarray,
    elasticity: np.ndarray,
    purchase_share: np.ndarray,
    reference_effect: np.ndarray,
    cost_ratio: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Price ratio that maximises (ratio - cost ratio) x demand inside bounds.

    Every family's elasticity rises (weakly) with price, so the margin has one peak, where elasticity x margin share
    is one; bisection finds it for all families alike, also with a reference effect added to the elasticity.

    Args:
        family: Index into `FAMILIES`, integers.
        elasticity: Elasticity at the reference price, > 0.
        purchase_share: Share who buy at the reference price, in (0, 1).
        reference_effect: Elasticity added by the comparison with a remembered price, >= 0.
        cost_ratio: Unit cost over reference price, >= 0.
        bounds: Lowest and highest admissible ratio, broadcast to the other arguments.

    Returns:
        Optimal ratio inside the bounds, broadcast shape of the arguments.
    """
    shape = np.broadcast_shapes(*(np.shape(v) for v in (family, elasticity, cost_ratio, *bounds)))
    low, high = (np.array(np.broadcast_to(bound, shape), dtype=np.float64) for bound in bounds)
    # 50 halvings bring an interval of one reference price to 1e-15.
    for _ in range(50):
        middle = 0.5 * (low + high)
        slope = compute_elasticity(family, elasticity, purchase_share, middle) + reference_effect
        rising = slope * (middle - cost_ratio) < middle
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    return 0.5 * (low + high)
