"""Arithmetic on arrays over items and periods with unknown cells: means, sums, counts and picks, by groups of items."""

import numpy as np


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is known, without numpy's warning where nothing is.

    Args:
        values (`np.ndarray`): Any shape; NaN = unknown.
        axis (`int`): Axis to average over.

    Returns:
        `np.ndarray`: One axis less; NaN without anything known.
    """
    known = (~np.isnan(values)).sum(axis=axis)
    return np.where(known > 0, np.nansum(values, axis=axis) / np.maximum(known, 1), np.nan)


def group_sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums over the items of each group, cell by cell.

    Args:
        values (`np.ndarray`, shape `(items, ...)`): Known values.
        groups (`np.ndarray`, int64, shape `(items,)`): Group of each item, from 0.

    Returns:
        `np.ndarray`, float64, shape `(groups, ...)`: Sums.
    """
    sums = np.zeros((groups.max() + 1, *values.shape[1:]))
    np.add.at(sums, groups, values)
    return sums


def group_counts(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Known values of each group, cell by cell.

    Args:
        values (`np.ndarray`, shape `(items, ...)`): NaN = unknown.
        groups (`np.ndarray`, int64, shape `(items,)`): Group of each item, from 0.

    Returns:
        `np.ndarray`, float64, shape `(groups, ...)`: Counts.
    """
    return group_sums(~np.isnan(values), groups)


def group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Means over the known values of each group, cell by cell.

    Args:
        values (`np.ndarray`, shape `(items, ...)`): NaN = unknown.
        groups (`np.ndarray`, int64, shape `(items,)`): Group of each item, from 0.

    Returns:
        `np.ndarray`, float64, shape `(groups, ...)`: Means; NaN where nothing is known.
    """
    counts = group_counts(values, groups)
    return np.where(counts > 0, group_sums(np.nan_to_num(values), groups) / np.maximum(counts, 1), np.nan)


def lowest_of_others(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Smallest known value among the other items of an item's group.

    Args:
        values (`np.ndarray`, shape `(items, periods)`): NaN = unknown.
        groups (`np.ndarray`, int64, shape `(items,)`): Group of each item, from 0.

    Returns:
        `np.ndarray`, float64, shape `(items, periods)`: NaN where no other value is known.
    """
    known = np.where(np.isnan(values), np.inf, values)
    lowest = np.full((groups.max() + 1, values.shape[1]), np.inf)
    np.minimum.at(lowest, groups, known)
    holds = known == lowest[groups]
    second = np.full(lowest.shape, np.inf)
    np.minimum.at(second, groups, np.where(holds, np.inf, known))
    found = np.where(holds & (group_sums(holds, groups)[groups] == 1), second[groups], lowest[groups])
    return np.where(np.isfinite(found), found, np.nan)


def pick(values: np.ndarray, items: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Single cells.

    Args:
        values (`np.ndarray`, shape `(items, periods)`): Table.
        items (`np.ndarray`, int64, shape `(rows,)`): Item of each cell.
        columns (`np.ndarray`, int64, shape `(rows,)`): Period of each cell; may lie outside of the table.

    Returns:
        `np.ndarray`, shape `(rows,)`: NaN outside of the table.
    """
    inside = (columns >= 0) & (columns < values.shape[1])
    return np.where(inside, values[items, np.clip(columns, 0, values.shape[1] - 1)], np.nan)
