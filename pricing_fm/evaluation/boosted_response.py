"""How log units answered to prices and promotions before the origin: a regression whose prediction trees get to see.

Trees learn steps between values they have seen; a straight line in logarithms carries over to a discount or a mix of
promotions that an item never had. Items borrow from their product, products from their category.
"""

import numpy as np

from pricing_fm.evaluation.group_arrays import group_sums

SMALLEST_SHARE = 0.05  # of an item's mean units; keeps the logarithm of weeks without sales finite
RIDGE = 0.5  # how much variation of a driver counts as much as what is borrowed from the wider group
PRICE_PRIOR, PROMOTION_PRIOR = -2.5, 0.3  # coefficients that a category starts from; other drivers start from 0
LARGEST_LOG = 6.0  # bounds extrapolation


def compute_responses(
    scaled: np.ndarray, drivers: np.ndarray, prior: np.ndarray, product: np.ndarray, category: np.ndarray, recent: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ridge regression of log units on drivers within items, shrunk from category to product to item.

    Args:
        scaled (`np.ndarray`, shape `(items, periods)`): Units over the item's mean, before the origin; NaN = unknown.
        drivers (`np.ndarray`, shape `(items, periods, drivers)`): Discounts and promotions of the same periods.
        prior (`np.ndarray`, shape `(drivers,)`): Coefficients that a category starts from.
        product (`np.ndarray`, int64, shape `(items,)`): Product of each item.
        category (`np.ndarray`, int64, shape `(items,)`): Category of each item.
        recent (`int`): Periods before the origin that the recent level looks at.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: Coefficients, shape `(items, drivers)`; log level at drivers of
            zero, over all periods, shape `(items,)`; the mean of it and of the recent level, shape `(items,)`.
    """
    log_units = np.log(scaled + SMALLEST_SHARE)
    known = ~np.isnan(log_units)
    n = np.maximum(known.sum(axis=1), 1)
    mean_units = np.nan_to_num(log_units).sum(axis=1) / n
    mean_drivers = (drivers * known[..., None]).sum(axis=1) / n[:, None]
    apart = (drivers - mean_drivers[:, None]) * known[..., None]
    squares = np.einsum("itk,itl->ikl", apart, apart)
    products = np.einsum("itk,it->ik", apart, np.where(known, log_units - mean_units[:, None], 0.0))

    coefficients = np.broadcast_to(prior, products.shape)
    for groups in (category, product, np.arange(len(product))):
        coefficients = _solve(group_sums(squares, groups), group_sums(products, groups), groups, coefficients)
    level = mean_units - (mean_drivers * coefficients).sum(axis=1)
    rest = log_units[:, -recent:] - np.einsum("itk,ik->it", drivers[:, -recent:], coefficients)
    seen = (~np.isnan(rest)).sum(axis=1)
    latest = np.where(seen > 0, np.nansum(rest, axis=1) / np.maximum(seen, 1), level)
    return coefficients, level, (level + latest) / 2


def _solve(squares: np.ndarray, products: np.ndarray, groups: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients of each item's group, pulled towards `start`, which is equal within a group."""
    starts = np.zeros(products.shape)
    starts[groups] = start
    ridge = RIDGE * np.eye(products.shape[1])
    return np.linalg.solve(squares + ridge, (products + RIDGE * starts)[..., None])[..., 0][groups]
