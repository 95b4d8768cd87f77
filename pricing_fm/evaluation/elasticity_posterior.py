"""The simulator's own posterior of an item's elasticity: the ceiling of what any estimator can know from its log.

A sequential Monte Carlo sampler with an exact likelihood: particles from the prior are weighed, resampled and moved
while the likelihood is turned on step by step. Moves are those of a preconditioned Crank-Nicolson walk around the
normal distribution that is fitted to the particles.

References:
    Del Moral et al. 2006, "Sequential Monte Carlo samplers"; Cotter et al. 2013, "MCMC methods for functions".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pricing_fm.evaluation.elasticity_cells import HIGHEST_ELASTICITY
from pricing_fm.evaluation.elasticity_likelihood import COORDINATES, Draws, ShopLog, ShopModel
from pricing_fm.markets import SimulatedLog
from pricing_fm.markets.domains import RetailSettings
from pricing_fm.markets.managers import round_to_ladder
from pricing_fm.markets.responses import FAMILIES

MEMORIES = (0.0, 0.5, 0.8, 0.95)  # of a move: 0 draws anew from the fitted normal, 1 would stay
FLIP_SHARE = 0.2  # of the moves that also draw a new response family; as many draw new noise
_VOLUMES = 4001  # volumes tried against a path of stocks


@dataclass(frozen=True)
class SamplerSettings:
    """Effort per item.

    Args:
        particles (`int`): Candidate truths that are moved together.
        kept_share (`float`): Effective share of the particles that one step of the temperature leaves.
        sweeps (`int`): Moves of every particle after each step.
        final_sweeps (`int`): Moves at the end; the posterior is made of the particles after each of them.
        seed (`int`): Seed of the draws, with the item's number.
    """

    particles: int = 200
    kept_share: float = 0.5
    sweeps: int = 3
    final_sweeps: int = 8
    seed: int = 0


class Posterior(NamedTuple):
    """Posterior of one item's elasticity at its current price.

    Attributes:
        elasticity: Mean.
        lower, upper: 10 % and 90 % quantiles.
        rank: Posterior probability below the truth, where one was given; else NaN.
        accepted: Share of the final moves that were accepted.
        steps: Steps in which the likelihood was turned on.
    """

    elasticity: float
    lower: float
    upper: float
    rank: float
    accepted: float
    steps: int


def read_shop_logs(log: SimulatedLog, market: RetailSettings) -> list[ShopLog]:
    """What the posterior sees of every shop of a simulated cell: the columns of the panel, and nothing else.

    Args:
        log (`SimulatedLog`): Retail shops of one product.
        market (`RetailSettings`): Their ranges, of which the stock cover is used.

    Returns:
        `list[ShopLog]`: In the order of `log.items`.
    """
    arrays, ladder = log.arrays, log.habits.price_ladder
    tick = log.parameters.price_tick
    offered = round_to_ladder(arrays.list_price, ladder.reshape(-1, 1, 1, 1, 1), tick)
    rungs = np.abs(offered - arrays.price).argmin(axis=0)
    cover = market.stock_cover_range[0]
    shops = []
    for item in range(log.num_items):
        units, inventory, price, first, promotion, rung = (
            values[:, item, 0, 0]
            for values in (arrays.units, arrays.inventory, arrays.price, arrays.list_price, arrays.promotion, rungs)
        )
        shops.append(
            ShopLog(
                units=units,
                inventory=inventory,
                log_price=np.log(price / first[0]),
                promotion=promotion,
                rungs=rung,
                price_ladder=ladder,
                log_volume=_find_volumes(units, inventory, cover, market.volume_bounds),
            )
        )
    return shops


def sample_posterior(
    model: ShopModel, log: ShopLog, settings: SamplerSettings, number: int, truth: float = float("nan")
) -> Posterior:
    """Posterior of one item.

    Args:
        model (`ShopModel`): Prior and likelihood.
        log (`ShopLog`): The item's log.
        settings (`SamplerSettings`): Effort.
        number (`int`): Number of the item, part of the seed.
        truth (`float`, *optional*): True elasticity, for its rank alone.

    Returns:
        `Posterior`.
    """
    found = sample_draws(model, log, settings, number)
    final = float(log.log_price[-1])
    values = [model.compute_elasticity(draws, log, final).numpy() for draws in found.draws]
    elasticity = np.clip(np.concatenate(values).astype(np.float64), 0.0, HIGHEST_ELASTICITY)
    lower, upper = np.quantile(elasticity, (0.1, 0.9))
    rank = float((elasticity < truth).mean()) if np.isfinite(truth) else float("nan")
    return Posterior(float(elasticity.mean()), float(lower), float(upper), rank, found.accepted, found.steps)


class PosteriorDraws(NamedTuple):
    """Candidate truths of one shop, equally likely given its log.

    Attributes:
        draws: Particles after each of the final sweeps.
        accepted: Share of the final moves that were accepted.
        steps: Steps in which the likelihood was turned on.
    """

    draws: tuple[Draws, ...]
    accepted: float
    steps: int


def sample_draws(model: ShopModel, log: ShopLog, settings: SamplerSettings, number: int) -> PosteriorDraws:
    """Posterior of everything that a shop's log leaves open.

    Args:
        model (`ShopModel`): Prior and likelihood.
        log (`ShopLog`): The item's log.
        settings (`SamplerSettings`): Effort.
        number (`int`): Number of the item, part of the seed.

    Returns:
        `PosteriorDraws`.
    """
    random = np.random.default_rng((settings.seed, number))
    cloud = _Cloud.of_prior(model, log, settings.particles, random)
    temperature, steps = 0.0, 0
    while temperature < 1.0:
        following = _find_temperature(cloud.likelihood, temperature, settings.kept_share)
        weights = _weigh((following - temperature) * cloud.likelihood)
        temperature, steps = following, steps + 1
        cloud = cloud.select(_resample(weights, random))
        for _ in range(settings.sweeps):
            cloud, _ = cloud.move(model, log, temperature, random)
    found, accepted = [], []
    for _ in range(settings.final_sweeps):
        cloud, moved = cloud.move(model, log, temperature, random)
        accepted.append(moved)
        found.append(cloud.draws)
    return PosteriorDraws(tuple(found), float(np.mean(accepted)), steps)


def draw_prior(model: ShopModel, count: int, seed: Sequence[int]) -> Draws:
    """Candidate truths before any log is seen.

    Args:
        model (`ShopModel`): Prior.
        count (`int`): Candidates.
        seed (`Sequence[int]`): Seed of the draws.

    Returns:
        `Draws`.
    """
    random = np.random.default_rng(seed)
    normal = random.standard_normal((count, len(COORDINATES)))
    return _build_draws(normal, *_draw_kinds(model, count, random))


@dataclass(frozen=True)
class _Cloud:
    """Particles with what the likelihood says of them, `(particles,)` each."""

    draws: Draws
    likelihood: np.ndarray

    @classmethod
    def of_prior(cls, model: ShopModel, log: ShopLog, count: int, random: np.random.Generator) -> _Cloud:
        normal = random.standard_normal((count, len(COORDINATES)))
        draws = _build_draws(normal, *_draw_kinds(model, count, random))
        return cls(draws, model.compute_log_likelihood(draws, log).numpy())

    def select(self, rows: np.ndarray) -> _Cloud:
        return _Cloud(Draws(*(values[torch.from_numpy(rows)] for values in self.draws)), self.likelihood[rows])

    def move(
        self, model: ShopModel, log: ShopLog, temperature: float, random: np.random.Generator
    ) -> tuple[_Cloud, float]:
        """One Metropolis-Hastings move of every particle, and the share that was accepted."""
        values = self.draws.normal.numpy().astype(np.float64)
        count = len(values)
        mean, covariance = values.mean(axis=0), np.cov(values.T)
        root = np.linalg.cholesky(covariance + 1e-4 * np.eye(len(mean)))
        memory = np.array(MEMORIES)[random.integers(len(MEMORIES), size=count)][:, None]
        noise = random.standard_normal(values.shape) @ root.T
        proposed = mean + memory * (values - mean) + np.sqrt(1.0 - memory**2) * noise
        kinds, kept = _draw_kinds(model, count, random), (self.draws.response.numpy(), self.draws.is_poisson.numpy())
        flips = random.uniform(size=count)
        response = np.where(flips < FLIP_SHARE, kinds[0], kept[0])
        is_poisson = np.where(flips > 1.0 - FLIP_SHARE, kinds[1], kept[1])
        draws = _build_draws(proposed, response, is_poisson)
        likelihood = model.compute_log_likelihood(draws, log).numpy()
        # The walk leaves the fitted normal as it is: what counts is the target over that normal.
        before = temperature * self.likelihood + _log_over_normal(values, mean, root)
        after = temperature * likelihood + _log_over_normal(proposed, mean, root)
        accepted = np.log(random.uniform(size=count)) < after - before
        here = torch.from_numpy(accepted)
        merged = (
            torch.where(here.reshape(-1, *(1,) * (new.dim() - 1)), new, old)
            for new, old in zip(draws, self.draws, strict=True)
        )
        return _Cloud(Draws(*merged), np.where(accepted, likelihood, self.likelihood)), float(accepted.mean())


def _draw_kinds(model: ShopModel, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Response families and whether counts are Poisson, from the prior."""
    market = model.prior.market
    codes = np.array([FAMILIES.index(name) for name in market.families])
    poisson = np.array([name == "poisson" for name in market.noises])
    return codes[random.integers(len(codes), size=count)], poisson[random.integers(len(poisson), size=count)]


def _build_draws(normal: np.ndarray, response: np.ndarray, is_poisson: np.ndarray) -> Draws:
    return Draws(torch.from_numpy(normal).float(), torch.from_numpy(response), torch.from_numpy(is_poisson))


def _log_over_normal(values: np.ndarray, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Log prior density over the density of the fitted normal, up to a constant."""
    apart = np.linalg.solve(root, (values - mean).T)
    return np.asarray(0.5 * (apart**2).sum(axis=0) - 0.5 * (values**2).sum(axis=1))


def _find_temperature(likelihood: np.ndarray, temperature: float, kept_share: float) -> float:
    """The next temperature, at most 1, that leaves the wanted effective share of particles."""
    low, high = temperature, 1.0
    if _effective_share((high - temperature) * likelihood) >= kept_share:
        return 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if _effective_share((middle - temperature) * likelihood) >= kept_share:
            low = middle
        else:
            high = middle
    return high


def _effective_share(log_weights: np.ndarray) -> float:
    return float(1.0 / (_weigh(log_weights) ** 2).sum() / len(log_weights))


def _weigh(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def _resample(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Systematic resampling: positions of the particles that go on."""
    places = (np.arange(len(weights)) + random.uniform()) / len(weights)
    return np.minimum(np.searchsorted(np.cumsum(weights), places), len(weights) - 1)


def _find_volumes(
    units: np.ndarray, inventory: np.ndarray, cover: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Log volumes under which the order-up-to rule would have ordered exactly the stocks that were seen.

    Stocks follow from the cover, sales and the first forecast, which is the volume; see `supply.OrderUpToStock`.
    """
    if not np.isfinite(inventory).any():
        return -np.inf, np.inf
    low = max((inventory[0] - 2.0) / cover, bounds[0])
    high = min((inventory[0] - 1.0) / cover, bounds[1])
    volume = np.linspace(low, high, _VOLUMES)
    forecast, stock, fits = volume.copy(), np.full(_VOLUMES, inventory[0]), np.ones(_VOLUMES, dtype=bool)
    for week in range(len(units) - 1):
        sold = units[week]
        wanted = np.where(sold >= stock, np.maximum(sold * 1.25, forecast), sold)
        forecast = forecast + 0.2 * (wanted - forecast)
        stock = np.maximum(stock - sold, np.ceil(cover * forecast + 1.0))
        fits &= stock == inventory[week + 1]
    if not fits.any():
        raise ValueError("no volume explains the stocks; was the cover another one?")
    step = (high - low) / (_VOLUMES - 1)
    first, last = volume[fits].min() - 0.5 * step, volume[fits].max() + 0.5 * step
    # Volumes beyond the bounds were clipped to them.
    return (
        float(np.log(first)) if first > bounds[0] else -np.inf,
        float(np.log(last)) if last < bounds[1] else np.inf,
    )
