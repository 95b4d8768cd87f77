"""How likely a log's continuous prices were: a density of the log price given what its manager could see, cross-fitted.

Log price = location(features) + scale(features) x residual, the residual's law a kernel density of the cross-fitted
residuals. Where managers keep their last price now and then, keeping has a probability of its own, and the density is
that of the others. What no location and scale can say (two prices that take turns, bounds) shows in the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.stats import norm

from pricing_fm.evaluation.off_policy.choice_regression import climb, fit_binary_regression
from pricing_fm.evaluation.off_policy.fitted_q import LeastSquares
from pricing_fm.evaluation.off_policy.one_step_models import assign_cluster_folds
from pricing_fm.evaluation.off_policy.weights import compute_kernel_densities

_GRID = 1024  # points on which a residual's law is written down
_BACKGROUND = 0.01  # share of a normal law twice as wide: what no residual has shown may still happen
_NOISE_DRAWS = 50
_PARTS, _TENTHS = 4, 10


@dataclass(frozen=True)
class DensitySettings:
    """How a density is fitted.

    Attributes:
        folds: Parts of whole clusters; a row's density is that of models fitted to the other parts.
        ridge: Of the location's coefficients, relative to the mean square of the standardised features.
        penalty: Precision of a normal prior on the coefficients of the log variance and of the odds of keeping.
        bandwidth_factor: Of the residuals' kernel, times Silverman's rule.
        seed: Of the folds.

    Raises:
        ValueError: If a number is out of bounds.
    """

    folds: int = 5
    ridge: float = 1e-4
    penalty: float = 1.0
    bandwidth_factor: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2 or not (self.ridge >= 0.0 and self.penalty > 0.0 and self.bandwidth_factor > 0.0):
            raise ValueError(
                f"folds is {self.folds}, ridge {self.ridge}, penalty {self.penalty}, bandwidth_factor"
                f" {self.bandwidth_factor}; expected 2 or more, 0 or more, and above 0"
            )


@dataclass(frozen=True)
class ResidualLaw:
    """A density on a grid.

    Attributes:
        grid: Increasing, evenly spaced, `(points,)`.
        density: Of the kernel estimate, 0 at both ends, `(points,)`.
        spread: Deviation of the background, which has `_BACKGROUND` of the mass.
        bandwidth: Deviation of the normal kernel.
    """

    grid: np.ndarray
    density: np.ndarray
    spread: float
    bandwidth: float

    @cached_property
    def _cumulative(self) -> np.ndarray:
        found = np.cumsum(self.density)
        return np.asarray((found - 0.5 * self.density) / found[-1])

    def compute_density(self, residuals: np.ndarray) -> np.ndarray:
        """Density, > 0, same shape."""
        seen = np.interp(residuals, self.grid, self.density, left=0.0, right=0.0)
        background = norm.pdf(residuals, scale=self.spread)
        return np.asarray((1.0 - _BACKGROUND) * seen + _BACKGROUND * background)

    def compute_ranks(self, residuals: np.ndarray) -> np.ndarray:
        """Distribution function, in [0, 1], same shape."""
        seen = np.interp(residuals, self.grid, self._cumulative, left=0.0, right=1.0)
        return np.asarray((1.0 - _BACKGROUND) * seen + _BACKGROUND * norm.cdf(residuals, scale=self.spread))


@dataclass(frozen=True)
class PriceDensity:
    """Cross-fitted density of the logged prices, one row per decision.

    Attributes:
        log_prices: As logged, `(rows,)`.
        kept: True = the last price was kept, bool, `(rows,)`.
        keep_probabilities: Of keeping it, `(rows,)`; 0 where no price is ever kept.
        locations, scales: Of the log price where it is not kept, `(rows,)`.
        folds: Fold of each row, codes, `(rows,)`.
        laws: Of the residuals, by fold.
    """

    log_prices: np.ndarray
    kept: np.ndarray
    keep_probabilities: np.ndarray
    locations: np.ndarray
    scales: np.ndarray
    folds: np.ndarray
    laws: tuple[ResidualLaw, ...]

    @cached_property
    def propensities(self) -> np.ndarray:
        """Of what was decided, `(rows,)`: probability where the price was kept, else density per unit of log price."""
        return np.where(self.kept, self.keep_probabilities, self.evaluate(self.log_prices[:, None])[:, 0])

    @cached_property
    def ranks(self) -> np.ndarray:
        """Probability integral transform of the prices that were not kept, uniform if the density is right."""
        free = ~self.kept
        residuals = (self.log_prices - self.locations)[free] / self.scales[free]
        ranks = np.empty(len(residuals))
        for fold, law in enumerate(self.laws):
            here = self.folds[free] == fold
            ranks[here] = law.compute_ranks(residuals[here])
        return ranks

    def evaluate(self, log_prices: np.ndarray) -> np.ndarray:
        """Density of other prices in the states of the log.

        Args:
            log_prices: `(rows, prices)`.

        Returns:
            Per unit of log price, `(rows, prices)`; it integrates to the probability of not keeping the last price.
        """
        residuals = (log_prices - self.locations[:, None]) / self.scales[:, None]
        found = np.empty(log_prices.shape)
        for fold, law in enumerate(self.laws):
            here = self.folds == fold
            found[here] = law.compute_density(residuals[here])
        return found * ((1.0 - self.keep_probabilities) / self.scales)[:, None]

    def choose_floors(self, share: float = 0.05) -> np.ndarray:
        """Least propensities to divide by: what is much less likely than usual is guessed rather than known.

        Args:
            share: Of the median density of logged prices; of kept ones the least probability itself.

        Returns:
            `(rows,)`, units of `propensities`.
        """
        free = ~self.kept
        usual = float(np.median(self.propensities[free])) if free.any() else 0.0
        return np.where(self.kept, share, share * usual)


def fit_price_density(
    log_prices: np.ndarray,
    features: np.ndarray,
    clusters: np.ndarray,
    kept: np.ndarray | None = None,
    settings: DensitySettings | None = None,
) -> PriceDensity:
    """Density of each logged price by models that have not seen the row's cluster.

    Args:
        log_prices: Log of the logged prices (or of their ratio to the list price), `(rows,)`.
        features: All that the manager's prices depend on, as a location and a log variance may use it linearly, without
            a constant, `(rows, columns)`.
        clusters: Decision unit of each row, labels, `(rows,)`.
        kept: True = the last price was kept, bool, `(rows,)`; None = never.
        settings: How to fit; None = the defaults.

    Returns:
        The density.

    Raises:
        ValueError: If shapes differ, a number is not finite, there are fewer clusters than folds, or prices outside a
            fold do not vary.

    References:
        Hansen 2004, "Nonparametric conditional density estimation"; Harvey 1976 (log-linear variance); Hirano and
        Imbens 2004 (generalised propensity score); Diebold, Gunther and Tay 1998 (ranks).
    """
    settings = settings or DensitySettings()
    rows = len(log_prices)
    stays = np.zeros(rows, dtype=bool) if kept is None else np.asarray(kept, dtype=bool)
    if log_prices.shape != (rows,) or features.shape[:1] != (rows,) or features.ndim != 2 or stays.shape != (rows,):
        raise ValueError(f"log_prices {log_prices.shape}, features {features.shape} and kept {stays.shape} do not fit")
    if not (np.isfinite(log_prices).all() and np.isfinite(features).all()):
        raise ValueError("log_prices or features hold a missing or infinite number; leave the row out")
    folds = assign_cluster_folds(clusters, settings.seed, settings.folds)
    locations, scales, chances = np.empty(rows), np.empty(rows), np.zeros(rows)
    for fold in range(settings.folds):
        judged, inside = folds == fold, folds != fold
        taught = inside & ~stays
        locations[judged], scales[judged] = _fit_moments(
            log_prices[taught], features[taught], features[judged], settings
        )
        if stays.any():
            fit = fit_binary_regression(features[inside], stays[inside].astype(np.float64), settings.penalty)
            chances[judged] = 0.5 * (1.0 + np.tanh(0.5 * fit.compute_logits(features[judged])))
    residuals = (log_prices - locations) / scales
    laws = tuple(
        _fit_law(residuals[(folds != fold) & ~stays], settings.bandwidth_factor) for fold in range(settings.folds)
    )
    return PriceDensity(log_prices, stays, chances, locations, scales, folds, laws)


def compute_kernel_propensities(
    density: PriceDensity,
    target_log_prices: np.ndarray,
    bandwidth: float,
    keep_probabilities: np.ndarray | float = 0.0,
    bounds: tuple[float, float] | None = None,
) -> np.ndarray:
    """What a policy that names a price, seen through a kernel, would have given to the logged decisions.

    Args:
        density: Of the log.
        target_log_prices: Log prices that the policy names where it does not keep the last one, `(rows,)`.
        bandwidth: Half width of the Epanechnikov kernel, log price.
        keep_probabilities: With which the policy keeps the last price, a number or `(rows,)`.
        bounds: Lowest and highest log price that can be charged; None = no bounds.

    Returns:
        `(rows,)`, units of `PriceDensity.propensities`: divided by them, the ratios of the log.
    """
    named = compute_kernel_densities(density.log_prices, target_log_prices, bandwidth, bounds)
    return np.where(density.kept, keep_probabilities, (1.0 - np.asarray(keep_probabilities)) * named)


@dataclass(frozen=True)
class RankCalibration:
    """Are ranks uniform, whatever the features?

    Attributes:
        error: Mass that lies in the wrong tenth, half the sum of the gaps between the tenths' shares and 0.1, in [0,
            0.9]: the mean over the fourths of a feature, of the feature where it is greatest.
        noise: Mean of it for independent uniform ranks beside the same features.
        largest_gap: Kolmogorov's distance of all ranks' distribution function to the uniform one. The residuals' law is
            fitted, so that it says little.
    """

    error: float
    noise: float
    largest_gap: float


def measure_rank_calibration(ranks: np.ndarray, features: np.ndarray, seed: int = 0) -> RankCalibration:
    """Mass in the wrong tenth within the fourths of every feature, beside what chance alone shows.

    Over all rows together ranks are uniform by construction, nearly: a density that is wrong shows where its errors
    do not cancel.

    Args:
        ranks: From `PriceDensity.ranks`, `(rows,)`.
        features: Of the same rows, `(rows, columns)`, one column at least.
        seed: Of the draws behind `noise`.

    Returns:
        The calibration.

    Raises:
        ValueError: If shapes differ, there is no rank or no feature, or a rank lies outside [0, 1].
    """
    count = len(ranks)
    if features.ndim != 2 or len(features) != count or features.size == 0:
        raise ValueError(
            f"ranks {ranks.shape} and features {features.shape} do not fit; one of each is needed at least"
        )
    if not np.all((ranks >= 0.0) & (ranks <= 1.0)):
        raise ValueError("ranks must lie in [0, 1]")
    places = (np.argsort(np.argsort(features, axis=0, kind="stable"), axis=0) * _PARTS) // count

    def measure(given: np.ndarray) -> float:
        tenths = np.minimum((given * _TENTHS).astype(np.int64), _TENTHS - 1)
        cells = np.stack([np.bincount(place * _TENTHS + tenths, minlength=_PARTS * _TENTHS) for place in places.T])
        counts = cells.reshape(-1, _PARTS, _TENTHS)
        shares = counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
        return float(0.5 * np.abs(shares - 1.0 / _TENTHS).sum(axis=2).mean(axis=1).max())

    rng = np.random.default_rng(seed)
    noise = float(np.mean([measure(rng.random(count)) for _ in range(_NOISE_DRAWS)]))
    ordered, steps = np.sort(ranks), np.arange(count + 1) / count
    gap = max(float((steps[1:] - ordered).max()), float((ordered - steps[:-1]).max()))
    return RankCalibration(measure(ranks), noise, gap)


def _fit_moments(
    log_prices: np.ndarray, features: np.ndarray, others: np.ndarray, settings: DensitySettings
) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of other rows, by regressions on these."""
    if len(log_prices) < 2 or not np.ptp(log_prices) > 0.0:
        raise ValueError("prices outside a fold do not vary (or are all kept); there is no density to fit")
    centre, spread = features.mean(axis=0), features.std(axis=0)
    used = spread > 0.0
    columns, asked = ((part - centre)[:, used] / spread[used] for part in (features, others))
    predicted, wanted = (np.full(len(part), log_prices.mean()) for part in (columns, asked))
    if used.any():
        location = LeastSquares(settings.ridge).fit(columns, log_prices - log_prices.mean())
        predicted, wanted = predicted + location(columns), wanted + location(asked)
    squares = (log_prices - predicted) ** 2
    usual = float(squares.mean())
    if not usual > 1e-12 * log_prices.var():
        raise ValueError("the features tell prices exactly; nothing but one price was ever charged in any state")
    with_constant = np.column_stack([np.ones(len(columns)), columns])

    def evaluate(coefficients: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Normal likelihood of the residuals by log variance; the law need not be normal for it to be right."""
        logs = with_constant @ coefficients
        share = 0.5 * squares / usual * np.exp(-logs)
        information = with_constant.T @ (share[:, None] * with_constant)
        return float(-(0.5 * logs + share).sum()), with_constant.T @ (share - 0.5), information

    penalties = np.full(with_constant.shape[1], settings.penalty)
    penalties[0] = 1e-6
    coefficients = climb(evaluate, penalties)
    logs = np.column_stack([np.ones(len(asked)), asked]) @ coefficients
    return wanted, np.sqrt(usual) * np.exp(0.5 * logs)


def _fit_law(residuals: np.ndarray, factor: float) -> ResidualLaw:
    """Kernel density with Silverman's bandwidth, binned on a grid."""
    low, high = np.quantile(residuals, [0.25, 0.75])
    spread = float(residuals.std())
    bandwidth = factor * 0.9 * min(spread, (high - low) / 1.349 or spread) * len(residuals) ** -0.2
    ends = residuals.min() - 5.0 * bandwidth, residuals.max() + 5.0 * bandwidth
    counts, edges = np.histogram(residuals, _GRID, ends)
    width = edges[1] - edges[0]
    smooth = gaussian_filter1d(counts.astype(np.float64), bandwidth / width, mode="constant", truncate=5.0)
    return ResidualLaw(0.5 * (edges[1:] + edges[:-1]), smooth / (smooth.sum() * width), 2.0 * spread, bandwidth)
