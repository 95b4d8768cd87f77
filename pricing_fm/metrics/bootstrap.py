"""Confidence intervals by resampling what is independent: products and weeks of a panel, runs within a stratum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

REPLICATES = 1000
REPLICATES_AT_ONCE = 200  # bounds memory: weights are (replicates, products)


@dataclass(frozen=True)
class Interval:
    """A value with its percentile bootstrap interval.

    Args:
        value (`float`): Value on the data itself.
        lower (`float`): Lower end.
        upper (`float`): Upper end.
    """

    value: float
    lower: float
    upper: float


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half: robust as the median, yet it uses half of the runs.

    Args:
        values (`np.ndarray`, any shape): One number per run; NaN = excluded.

    Returns:
        `float`: Mean after a quarter of the values (rounded down) is cut off at each end.

    Raises:
        ValueError: If there is no value.

    References:
        Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", arXiv:2108.13264.
    """
    kept = np.sort(np.asarray(values, dtype=np.float64).ravel())
    kept = kept[~np.isnan(kept)]
    if kept.size == 0:
        raise ValueError("no value to average")
    cut = kept.size // 4
    return float(kept[cut : kept.size - cut].mean())


def stratified_bootstrap(
    values: np.ndarray,
    strata: Sequence[object] | np.ndarray,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic over runs, resampled within each stratum.

    Args:
        values (`np.ndarray`, shape `(runs,)`): One number per run (seed and market); NaN = excluded.
        strata (`Sequence`, length `runs`): Stratum of each run, for example the market family.
        statistic (`Callable`): Function of the pooled values.
        level (`float`): Nominal coverage in (0, 1).
        replicates (`int`): Bootstrap replicates.
        seed (`int`): Seed of the draws.

    Returns:
        `Interval`: The statistic on all values, and its interval.

    Raises:
        ValueError: If lengths differ, no value is left, or `level` is outside (0, 1).
    """
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(strata)
    if values.shape != labels.shape or values.ndim != 1:
        raise ValueError(f"values have shape {values.shape} and strata {labels.shape}; expected the same length")
    kept = ~np.isnan(values)
    groups = [values[kept & (labels == label)] for label in np.unique(labels[kept])]
    rng = np.random.default_rng(seed)
    draws = [
        statistic(np.concatenate([rng.choice(group, size=group.size) for group in groups])) for _ in range(replicates)
    ]
    lower, upper = _percentiles(np.asarray(draws), level)
    return Interval(statistic(values[kept]), lower, upper)


def estimate_wql_interval(
    losses: np.ndarray,
    targets: np.ndarray,
    products: Sequence[object] | np.ndarray,
    weeks: Sequence[object] | np.ndarray,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Interval of a WQL under two-way (product by week) block resampling.

    Promotions and demand shocks hit all stores of a product and all products of a week at once, so rows are not
    independent: whole products and whole weeks are drawn, a row counts with the product of both multiplicities, and
    the sum of |y| is taken anew in each replicate.

    Args:
        losses (`np.ndarray`, shape `(rows,)`): Mean over levels of 2 x pinball, units; scored rows only.
        targets (`np.ndarray`, shape `(rows,)`): Observed units.
        products (`Sequence`, length `rows`): Product of each row, whatever the place.
        weeks (`Sequence`, length `rows`): Period of each row.
        level (`float`): Nominal coverage in (0, 1).
        replicates (`int`): Bootstrap replicates.
        seed (`int`): Seed of the draws.

    Returns:
        `Interval`: WQL and its interval.

    Raises:
        ValueError: If lengths differ, a value is not finite, all targets are zero, or `level` is outside (0, 1).
    """
    tables = _block_sums([losses, np.abs(targets)], products, weeks)
    return _ratio_interval(tables[0], tables[1], level, replicates, seed)


def estimate_wql_ratio_interval(
    losses: np.ndarray,
    reference_losses: np.ndarray,
    products: Sequence[object] | np.ndarray,
    weeks: Sequence[object] | np.ndarray,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Paired interval of WQL / reference WQL on the same rows, under two-way (product by week) block resampling.

    Both losses of a row are drawn together. Within a replicate both are divided by the same sum of |y|, which cancels:
    the ratio is renormalised inside the replicate.

    Args:
        losses (`np.ndarray`, shape `(rows,)`): Mean over levels of 2 x pinball of the model, units; scored rows only.
        reference_losses (`np.ndarray`, shape `(rows,)`): The same of the reference, same rows.
        products (`Sequence`, length `rows`): Product of each row, whatever the place.
        weeks (`Sequence`, length `rows`): Period of each row.
        level (`float`): Nominal coverage in (0, 1).
        replicates (`int`): Bootstrap replicates.
        seed (`int`): Seed of the draws.

    Returns:
        `Interval`: Ratio below 1 = better than the reference; the claim counts when the interval excludes 1.

    Raises:
        ValueError: If lengths differ, a value is not finite, the reference loss is zero, or `level` is outside (0, 1).
    """
    tables = _block_sums([losses, reference_losses], products, weeks)
    return _ratio_interval(tables[0], tables[1], level, replicates, seed)


def _block_sums(
    columns: list[np.ndarray], products: Sequence[object] | np.ndarray, weeks: Sequence[object] | np.ndarray
) -> list[np.ndarray]:
    """Sums of each column by (product, week): all that a block replicate needs."""
    product_labels, product_codes = np.unique(np.asarray(products), return_inverse=True)
    week_labels, week_codes = np.unique(np.asarray(weeks), return_inverse=True)
    sums = []
    for column in columns:
        column = np.asarray(column, dtype=np.float64)
        if not column.shape == product_codes.shape == week_codes.shape:
            raise ValueError(
                f"columns have {column.shape}, {product_codes.shape} and {week_codes.shape} rows; expected the same"
            )
        if not np.isfinite(column).all():
            raise ValueError("losses and targets of scored rows must be finite")
        table = np.zeros((len(product_labels), len(week_labels)))
        np.add.at(table, (product_codes, week_codes), column)
        sums.append(table)
    return sums


def _ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, level: float, replicates: int, seed: int
) -> Interval:
    if denominator.sum() == 0:
        raise ValueError("the denominator is zero on all rows")
    rng = np.random.default_rng(seed)
    products, weeks = numerator.shape
    draws = []
    for start in range(0, replicates, REPLICATES_AT_ONCE):
        size = min(REPLICATES_AT_ONCE, replicates - start)
        product_weights = rng.multinomial(products, np.full(products, 1.0 / products), size=size).astype(np.float64)
        week_weights = rng.multinomial(weeks, np.full(weeks, 1.0 / weeks), size=size).astype(np.float64)
        top = ((product_weights @ numerator) * week_weights).sum(axis=1)
        bottom = ((product_weights @ denominator) * week_weights).sum(axis=1)
        # A replicate of products and weeks that never sold says nothing; it can only occur in tiny panels.
        draws.append(top[bottom > 0] / bottom[bottom > 0])
    lower, upper = _percentiles(np.concatenate(draws), level)
    return Interval(float(numerator.sum() / denominator.sum()), lower, upper)


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number in (0, 1)")
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
