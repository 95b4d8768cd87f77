"""Exact likelihood of a simulated shop's log under the simulator's own structure, for the posterior of its elasticity.

The hidden shock is an autoregressive normal variable; it is summed out on a grid (a forward pass of a hidden Markov
model), with counts, sold-out weeks and the manager's prices as what is seen of it in each week.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pricing_fm.markets.domains import RetailSettings
from pricing_fm.markets.domains.retail_families import WEEKS_PER_YEAR
from pricing_fm.markets.responses import CONSTANT_ELASTICITY, EXPONENTIAL, LOGIT

# Prior standard normal coordinates of a shop, in this order.
COORDINATES = (
    "elasticity", "reference", "volume", "season_x", "season_y", "trend", "uplift", "shock_scale", "persistence",
    "dispersion", "purchase_share", "keep_share", "confounding",
)  # fmt: skip
GRID_POINTS, GRID_END = 26, 3.8  # standard deviations of the hidden shock; spacing 0.3
POISSON_DISPERSION = 1e5  # a negative binomial this close to Poisson cannot be told from it
_LOGISTIC_UNIT = float(np.sqrt(3.0) / np.pi)
_TABLE = 4001  # points of tabulated quantile functions
_RESPONSES = {"constant_elasticity": CONSTANT_ELASTICITY, "exponential": EXPONENTIAL, "logit": LOGIT, "linear": 3}


@dataclass(frozen=True)
class ShopPrior:
    """What the simulator may have drawn: `RetailSettings` of one product, and the manager's habits.

    Args:
        market (`RetailSettings`): Ranges; one product, no memory, no deviations between products and stores.
        confounding (`tuple[float, float]`): Range of the follower's confounding.
        keep_share (`tuple[float, float]`): Range of the share of weeks at the regular price.
        follows (`bool`): Whether prices were set by a demand follower; otherwise they say nothing of demand.

    Raises:
        ValueError: If the settings draw something that the likelihood does not know.
    """

    market: RetailSettings
    confounding: tuple[float, float]
    keep_share: tuple[float, float]
    follows: bool = True

    def __post_init__(self) -> None:
        market = self.market
        blurs = (market.product_deviation, market.store_deviation, market.reference_share, market.num_events)
        if market.num_products > 1 or any(blurs):
            raise ValueError(
                "the posterior needs shops of one product, without deviations, reference prices and events"
            )
        if set(market.noises) - {"poisson", "negative_binomial"}:
            raise ValueError(f"noises are {market.noises}; the posterior knows poisson and negative_binomial")
        known_cover = market.stocked_share == 1.0 and market.stock_cover_range[0] == market.stock_cover_range[1]
        if market.stocked_share and not known_cover:
            raise ValueError("the posterior needs a stocked share of 0 or 1 and one known stock cover")


@dataclass(frozen=True)
class ShopLog:
    """What is seen of one shop. Arrays of shape `(weeks,)`, float64.

    Args:
        units: Units sold.
        inventory: Units that could be sold; infinite without a stock.
        log_price: Log of price over the first list price.
        promotion: 1 in promoted weeks.
        rungs: Rung of the price on the manager's ladder, int.
        price_ladder: Multiples of the list price, `(rungs,)`.
        log_volume: Lowest and highest log volume that the stocks admit; infinite without a stock.
    """

    units: np.ndarray
    inventory: np.ndarray
    log_price: np.ndarray
    promotion: np.ndarray
    rungs: np.ndarray
    price_ladder: np.ndarray
    log_volume: tuple[float, float] = (-np.inf, np.inf)


class Draws(NamedTuple):
    """Candidate truths of one shop.

    Attributes:
        normal: Coordinates, standard normal a priori, `(draws, coordinates)`, float32.
        response: Index into the response families, int64, `(draws,)`.
        is_poisson: Whether counts are Poisson, bool, `(draws,)`.
    """

    normal: torch.Tensor
    response: torch.Tensor
    is_poisson: torch.Tensor


class Shops(NamedTuple):
    """Candidate truths in the simulator's own numbers, `(draws,)` each, float32."""

    elasticity: torch.Tensor
    log_reference: torch.Tensor
    log_volume: torch.Tensor
    season_x: torch.Tensor
    season_y: torch.Tensor
    trend: torch.Tensor
    log_uplift: torch.Tensor
    shock_scale: torch.Tensor
    persistence: torch.Tensor
    dispersion: torch.Tensor
    purchase_share: torch.Tensor
    keep_share: torch.Tensor
    confounding: torch.Tensor


class ShopModel:
    """Prior and likelihood of shops drawn from one set of ranges.

    Args:
        prior (`ShopPrior`): Ranges.
    """

    def __init__(self, prior: ShopPrior):
        self.prior = prior
        market, rng = prior.market, np.random.default_rng(0)

        def tabulate(values: np.ndarray) -> torch.Tensor:
            """Quantile function of a product of draws, as a table over equal probabilities."""
            return torch.from_numpy(np.quantile(values, (np.arange(_TABLE) + 0.5) / _TABLE)).float()

        def between(low: float, high: float) -> np.ndarray:
            return np.asarray(rng.uniform(low, high, 1_000_000))

        self._uplift = tabulate(np.log1p((between(*market.promotion_uplift_range) - 1.0) * between(0.7, 1.3)))
        self._scale = tabulate(between(*market.shock_scale_range) * between(0.8, 1.2))
        self._amplitude = tabulate(between(*market.season_range) * np.exp(0.3 * rng.standard_normal(1_000_000)))
        self.grid = torch.linspace(-GRID_END, GRID_END, GRID_POINTS)
        self._start = torch.softmax(-0.5 * self.grid**2, 0)
        # Volume: 12 x exp(1.2 x level), the level with the variance of its three sources.
        self._log_volume_scale = market.volume_deviation * float(np.sqrt(0.5**2 + 0.8**2 + 0.3**2))

    def read(self, draws: Draws, log: ShopLog) -> Shops:
        """Candidates in the simulator's own numbers.

        Args:
            draws (`Draws`): Candidates.
            log (`ShopLog`): The shop, whose stocks limit its volume.

        Returns:
            `Shops`.
        """
        market, u = self.prior.market, draws.normal
        share = torch.special.ndtr(u)
        radius = 1.0 - torch.exp(-0.5 * (u[:, 3] ** 2 + u[:, 4] ** 2))  # uniform: the angle is the phase
        amplitude = _look_up(self._amplitude, radius) / (u[:, 3] ** 2 + u[:, 4] ** 2).sqrt().clamp(min=1e-6)
        dispersion = torch.exp(_between(share[:, 9], np.log(market.dispersion_range)))
        return Shops(
            elasticity=_between(share[:, 0], market.elasticity_range),
            log_reference=0.1 * u[:, 1],
            log_volume=self._volume(u[:, 2], log),
            season_x=amplitude * u[:, 3],
            season_y=amplitude * u[:, 4],
            trend=_between(share[:, 5], market.trend_range) / WEEKS_PER_YEAR,
            log_uplift=_look_up(self._uplift, share[:, 6]),
            shock_scale=_look_up(self._scale, share[:, 7]),
            persistence=_between(share[:, 8], market.shock_persistence_range),
            dispersion=torch.where(draws.is_poisson, torch.full_like(dispersion, POISSON_DISPERSION), dispersion),
            purchase_share=_between(share[:, 10], (0.05, 0.4)),
            keep_share=_between(share[:, 11], self.prior.keep_share),
            confounding=_between(share[:, 12], self.prior.confounding),
        )

    def compute_log_likelihood(self, draws: Draws, log: ShopLog) -> torch.Tensor:
        """Log probability of sales, sold-out weeks and (of a follower) prices, the hidden shock summed out.

        Args:
            draws (`Draws`): Candidates.
            log (`ShopLog`): The shop.

        Returns:
            `torch.Tensor`, float64, shape `(draws,)`.
        """
        shops = self.read(draws, log)
        log_mean = self.compute_log_mean(draws, shops, log)
        seen, peaks = self._weigh_counts(shops, log, log_mean)
        if self.prior.follows:
            seen = seen * self.weigh_prices(shops, log)
        centre = shops.persistence[:, None] * self.grid
        spread = (1.0 - shops.persistence**2)[:, None, None]
        moves = torch.softmax(-0.5 * (self.grid - centre[..., None]) ** 2 / spread, dim=2)
        total = torch.zeros(len(log_mean), dtype=torch.float64)
        weights = self._start.expand(len(log_mean), -1)
        for week in range(seen.shape[1]):
            if week:
                weights = torch.bmm(weights[:, None], moves)[:, 0]
            weights = weights * seen[:, week]
            mass = weights.sum(1, keepdim=True).clamp(min=1e-30)
            weights = weights / mass
            total += mass[:, 0].double().log()
        return total + peaks

    def compute_log_mean(self, draws: Draws, shops: Shops, log: ShopLog) -> torch.Tensor:
        """Log mean demand of every week where the hidden shock is zero.

        Args:
            draws (`Draws`): Candidates, for their response families.
            shops (`Shops`): The same in the simulator's numbers.
            log (`ShopLog`): Prices and promotions.

        Returns:
            `torch.Tensor`, shape `(draws, weeks)`; a shock of x standard deviations adds `shock_scale * x`.
        """
        week = torch.arange(len(log.units), dtype=torch.float32)
        angle = 2.0 * torch.pi * week / WEEKS_PER_YEAR
        base = shops.log_volume - 0.5 * shops.shock_scale**2
        terms = base[:, None] + shops.season_x[:, None] * angle.cos() + shops.season_y[:, None] * angle.sin()
        terms = terms + shops.trend[:, None] * week
        terms = terms + shops.log_uplift[:, None] * torch.from_numpy(log.promotion).float()
        log_ratio = torch.from_numpy(log.log_price).float() - shops.log_reference[:, None]
        return terms + _respond(draws.response, shops.elasticity, shops.purchase_share, log_ratio)

    def compute_elasticity(self, draws: Draws, log: ShopLog, log_price: float) -> torch.Tensor:
        """Own-price elasticity of each candidate at a price, positive.

        Args:
            draws (`Draws`): Candidates.
            log (`ShopLog`): The shop.
            log_price (`float`): Log of price over the first list price.

        Returns:
            `torch.Tensor`, shape `(draws,)`; infinite where linear demand has ended.
        """
        shops = self.read(draws, log)
        ratio = torch.exp(log_price - shops.log_reference)
        slope, share = shops.elasticity, shops.purchase_share
        odds = torch.exp(-slope / (1.0 - share) * (ratio - 1.0))
        left = 1.0 - slope * (ratio - 1.0)
        kinds = [
            slope,
            slope * ratio,
            slope * ratio / (1.0 - share + share * odds),
            torch.where(left > 0, slope * ratio / left.clamp(min=1e-6), torch.full_like(left, torch.inf)),
        ]
        return torch.stack(kinds)[draws.response, torch.arange(len(slope))]

    def _volume(self, normal: torch.Tensor, log: ShopLog) -> torch.Tensor:
        """Log volume from its coordinate: log-normal, inside what the stocks admit, clipped as the simulator does."""
        centre = float(np.log(self.prior.market.median_volume))
        low, high = ((torch.tensor(bound) - centre) / self._log_volume_scale for bound in log.log_volume)
        level = normal
        if np.isfinite(log.log_volume).any():
            left, right = torch.special.ndtr(low.double()), torch.special.ndtr(high.double())
            inside = left + (right - left) * torch.special.ndtr(normal.double())
            level = torch.special.ndtri(inside.clamp(1e-9, 1 - 1e-9)).float()
        bounds = np.log(self.prior.market.volume_bounds)
        return (centre + self._log_volume_scale * level).clamp(float(bounds[0]), float(bounds[1]))

    def _weigh_counts(self, shops: Shops, log: ShopLog, log_mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probability of each week's sales at every shock over its peak, `(draws, weeks, grid)`; log of all peaks."""
        units = torch.from_numpy(log.units)
        sold_out = torch.from_numpy(log.units >= log.inventory)
        log_means = log_mean[..., None] + (shops.shock_scale[:, None] * self.grid)[:, None]
        size = shops.dispersion.double()[:, None]
        constant = torch.lgamma(units + size) - torch.lgamma(size) - torch.lgamma(units + 1.0) - units * size.log()
        counts, sizes = units.float()[:, None], shops.dispersion[:, None, None]
        # Of a negative binomial; with the logarithm of 1 + mean / size it stays exact in the Poisson limit.
        exponent = torch.nn.functional.softplus(log_means - sizes.log()).mul_(-(counts + sizes))
        exponent.addcmul_(counts, log_means).add_(constant.float()[..., None])
        if sold_out.any():
            exponent[:, sold_out] = compute_log_tail(counts[sold_out], sizes, log_means[:, sold_out].exp())
        peak = exponent.amax(2, keepdim=True)
        return torch.exp(exponent - peak), peak[..., 0].double().sum(1)

    def weigh_prices(self, shops: Shops, log: ShopLog) -> torch.Tensor:
        """Probability of the rungs that a demand follower chose, at every hidden shock of the grid.

        Args:
            shops (`Shops`): Candidates, of which keep share and confounding are used.
            log (`ShopLog`): Rungs.

        Returns:
            `torch.Tensor`, shape `(draws, weeks, grid)`; see `markets.manager_rules`.
        """
        count = len(log.price_ladder)
        regular = _find_regular_rung(log.rungs, log.price_ladder)
        cuts, raises = regular, count - 1 - regular
        leave = 1.0 - shops.keep_share
        below = leave * (0.7 if raises and cuts else float(not raises))
        steps = torch.arange(1, count)
        share = torch.where(
            steps <= cuts,
            below[:, None] * steps / max(cuts, 1),
            1.0 - (leave - below)[:, None] * (count - steps) / max(raises, 1),
        )
        quantile = torch.log(share / (1.0 - share)) * _LOGISTIC_UNIT
        spread = torch.sqrt(1.0 - shops.confounding**2).clamp(min=1e-6) * _LOGISTIC_UNIT
        centre = shops.confounding[:, None, None] * self.grid
        cumulative = torch.sigmoid((quantile[..., None] - centre) / spread[:, None, None])
        ends = torch.zeros_like(cumulative[:, :1])
        chances = torch.diff(torch.cat([ends, cumulative, ends + 1.0], dim=1), dim=1)
        return chances[:, torch.from_numpy(log.rungs)].clamp(min=1e-12)


def _respond(response: torch.Tensor, slope: torch.Tensor, share: torch.Tensor, log_ratio: torch.Tensor) -> torch.Tensor:
    """Log response as in `markets.responses`, `(draws, weeks)`."""
    result = torch.empty_like(log_ratio)
    for code in response.unique().tolist():
        rows = response == code
        e, s, x = slope[rows, None], share[rows, None], log_ratio[rows]
        if code == CONSTANT_ELASTICITY:
            result[rows] = -e * x
        elif code == EXPONENTIAL:
            result[rows] = -e * torch.expm1(x)
        elif code == LOGIT:
            odds = -e / (1.0 - s) * torch.expm1(x)
            result[rows] = odds - torch.log(1.0 - s + s * torch.exp(odds))
        else:
            result[rows] = torch.log((1.0 - e * torch.expm1(x)).clamp(min=1e-12))
    return result


def compute_log_tail(units: torch.Tensor, size: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Log P(demand >= units) of a negative binomial, by the normal approximation of Peizer and Pratt (1968).

    P(D >= b) is the incomplete beta function I_x(b, k) at x = mean / (mean + k).
    """
    total = units + size - 1.0
    x, rest = mean / (mean + size), size / (mean + size)
    distance = units - 1.0 / 3.0 - (total + 1.0 / 3.0) * x
    distance = distance + 0.02 * (rest / units - x / size + (rest - 0.5) / (units + size))
    # units - 1/2 - total x, written so that nothing cancels when size is large.
    apart = rest * (units - 0.5 - mean) + 0.5 * x
    first = -(units - 0.5) * torch.log1p((-apart / (units - 0.5)).clamp(min=-1.0 + 1e-7))
    second = -(size - 0.5) * torch.log1p(apart / (size - 0.5))
    deviance = 2.0 / (1.0 + 1.0 / (6.0 * total)) * (first + second).clamp(min=0.0)
    near = apart.abs() < 0.02 * units.sqrt()
    slope = torch.where(
        near, (total * x * rest).clamp(min=1e-12).rsqrt(), deviance.sqrt() / apart.abs().clamp(min=1e-9)
    )
    return torch.special.log_ndtr(-distance * slope)


def _find_regular_rung(rungs: np.ndarray, ladder: np.ndarray) -> int:
    """The everyday rung: the most frequent of those that can be one (the list price, or one or two rungs below)."""
    top = int(np.argmin(np.abs(ladder - 1.0)))
    choices = np.arange(max(top - 2, 0), top + 1)
    return int(choices[np.bincount(rungs, minlength=len(ladder))[choices].argmax()])


def _between(share: torch.Tensor, bounds: tuple[float, float] | np.ndarray) -> torch.Tensor:
    return float(bounds[0]) + float(bounds[1] - bounds[0]) * share


def _look_up(table: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of a quantile table."""
    place = (share * len(table) - 0.5).clamp(0.0, len(table) - 1.001)
    low = place.floor().long()
    return table[low] + (place - low) * (table[low + 1] - table[low])
