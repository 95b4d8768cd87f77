"""Likelihood of a simulated shop's last weeks under other answers to prices, with what no log tells summed out.

Not told: each item's level of demand, and its own part of the hidden shock, an autoregressive normal variable that is
summed out on a grid (the forward pass of a hidden Markov model). Told: season, trend, promotion, memory, the shock that
the items of a category share, how counts scatter, and how the manager follows demand, if he does: what his prices say
of the hidden shock is in the likelihood.
Shapes: T weeks, A answers, L levels, G shocks of the grid.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from pricing_fm.evaluation.elasticity_likelihood import POISSON_DISPERSION, compute_log_tail
from pricing_fm.markets import SimulatedLog
from pricing_fm.markets.context import HiddenShock
from pricing_fm.markets.manager_habits import DEMAND_FOLLOWER
from pricing_fm.markets.manager_rules import choose_rungs
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.streams import build_streams

# Standard deviations of an item's own shock, 0.3 apart; levels, in standard errors of the level itself.
SHOCKS = np.linspace(-3.9, 3.9, 27)
LEVELS = np.linspace(-4.0, 4.0, 15)
_FLAT = 1e-12


def sum_out_hidden(log: SimulatedLog, k: int, relative: np.ndarray) -> np.ndarray:
    """Log probability of the last k weeks' sales, sold-out weeks and prices under every answer.

    Args:
        log (`SimulatedLog`): Retail shops with a hidden shock.
        k (`int`): Weeks, 1 or more.
        relative (`(A, T, items)`): Log of demand at the logged prices, over demand at the same prices in truth, with
            equal demand at today's list price; T = k.

    Returns:
        `(items, A)`, float64: up to a constant of each item.
    """
    arrays = log.arrays
    units, inventory, mean = (
        values[-k:].reshape(k, -1) for values in (arrays.units, arrays.inventory, arrays.mean_demand)
    )
    scale, persistence = _own_shocks(log)
    own = np.log(mean) - _own_shock_path(log, k)  # with the item's own shock taken out
    dispersion = np.full(units.shape[1], POISSON_DISPERSION)
    if log.parameters.noise.dispersion is not None:
        known = np.broadcast_to(log.parameters.noise.dispersion, log.parameters.shape).reshape(-1)
        dispersion = np.minimum(known, POISSON_DISPERSION)
    priced = _weigh_prices(log, k)
    found = [
        _sum_out_item(
            units[:, item], inventory[:, item], own[:, item] + relative[:, :, item],
            HiddenLaw(scale[item], persistence[item], dispersion[item]), priced[..., item],
        )
        for item in range(units.shape[1])
    ]  # fmt: skip
    return np.stack(found)


def _shock_of(log: SimulatedLog) -> HiddenShock:
    shock = log.parameters.shock
    if shock is None:
        raise ValueError(f"{log.parameters.domain}/{log.parameters.family} has no hidden shock to sum out")
    return shock


def _own_shocks(log: SimulatedLog) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation and persistence of the part of the shock that is an item's own, `(items,)` each."""
    shock, shape = _shock_of(log), log.parameters.shape
    apart = np.broadcast_to(shock.scale * np.sqrt(1.0 - shock.common), shape)
    return apart.reshape(-1), np.broadcast_to(shock.persistence, shape).reshape(-1)


def _common_path(log: SimulatedLog, k: int) -> np.ndarray:
    """The shared part of the shock in the last k weeks, log demand, `(k, markets, products, segments)`."""
    shock = _shock_of(log)
    shared = replace(shock, common=np.ones_like(shock.common))
    random = build_streams(log.settings.seed, log.market_ids)
    path = [shared.start(random, np.zeros_like(log.market_ids), log.parameters.shape)]
    for week in range(log.settings.num_periods - 1):
        path.append(shared.advance(path[-1], random, np.full_like(log.market_ids, week + 1)))
    return np.stack([np.broadcast_to(one, log.parameters.shape) for one in path[-k:]]) * np.sqrt(shock.common)


def _own_shock_path(log: SimulatedLog, k: int) -> np.ndarray:
    """An item's own part of the shock in the last k weeks, `(k, items)`."""
    together = log.arrays.hidden_shock[-k:] + 0.5 * _shock_of(log).scale ** 2
    return (together - _common_path(log, k)).reshape(k, -1)


def _weigh_prices(log: SimulatedLog, k: int) -> np.ndarray:
    """Probability of the followers' logged prices at every own shock of the grid, `(T, G, items)`; 1 for others."""
    follows = log.habits.manager == DEMAND_FOLLOWER
    shape = log.parameters.shape
    found = np.ones((k, len(SHOCKS), *shape))
    if not follows.any():
        return found.reshape(k, len(SHOCKS), -1)
    market, habits = log.parameters.select(follows), log.habits.select(follows)
    random = build_streams(log.settings.seed, log.market_ids[follows])
    common, arrays = _common_path(log, k), log.arrays
    apart = _own_shocks(log)[0].reshape(shape)
    state = log.state.select(follows)  # of which a follower knows the shock alone
    for week in range(k):
        offered = round_to_tick(
            arrays.list_price[week - k] * habits.price_ladder.reshape(-1, 1, 1, 1), log.parameters.price_tick
        )
        rungs = np.abs(offered - arrays.price[week - k]).argmin(axis=0)[follows]
        for place, size in enumerate(SHOCKS):
            here = state._replace(shock=(common[week] + apart * size)[follows])
            _, chances = choose_rungs(DEMAND_FOLLOWER, habits, market, here, random)
            found[week, place, follows] = np.take_along_axis(chances, rungs[None], axis=0)[0]
    return np.maximum(found, _FLAT).reshape(k, len(SHOCKS), -1)


@dataclass(frozen=True)
class HiddenLaw:
    """What is known of an item's hidden shock and counts: scale and persistence of the shock, dispersion of counts."""

    scale: float
    persistence: float
    dispersion: float


def _sum_out_item(
    units: np.ndarray, inventory: np.ndarray, log_mean: np.ndarray, law: HiddenLaw, priced: np.ndarray
) -> np.ndarray:
    """Log likelihood of one item, `(A,)`.

    Args:
        units: `(T,)`.
        inventory: `(T,)`.
        log_mean: Log mean demand without the item's own shock, at the true level, `(A, T)`.
        law: Of the item.
        priced: `(T, G)`.
    """
    weeks, scale, persistence = len(units), law.scale, law.persistence
    sold_out = units >= inventory
    expected = np.exp(log_mean).sum(axis=1)
    # Where the level would be fitted, and how far it could be from there.
    centre = np.log(units.sum() + 0.5) - np.log(expected + 0.5)
    lasting = scale**2 * (1 + persistence) / (1 - persistence) / weeks
    width = np.sqrt(1.0 / (units.sum() + 1.0) + 1.0 / (law.dispersion * weeks) + min(lasting, scale**2))
    width *= 1.0 + sold_out.mean()
    levels = centre[:, None] + width * LEVELS + (width * sold_out.mean())  # (A, L)
    shocks = torch.from_numpy(scale * SHOCKS)
    means = torch.from_numpy(log_mean[:, None] + levels[..., None])[..., None] + shocks  # (A, L, T, G)
    seen = _log_probability(torch.from_numpy(units), torch.from_numpy(sold_out), means, law.dispersion)
    seen = seen + torch.from_numpy(np.log(priced))
    moves = torch.from_numpy(-0.5 * (SHOCKS[None] - persistence * SHOCKS[:, None]) ** 2 / (1 - persistence**2))
    moves = torch.softmax(moves, dim=1)
    weights = torch.softmax(torch.from_numpy(-0.5 * SHOCKS**2), 0).expand(*levels.shape, -1)
    peaks = seen.amax(-1, keepdim=True)
    seen, total = torch.exp(seen - peaks), peaks.sum((2, 3))
    for week in range(weeks):
        if week:
            weights = weights @ moves
        weights = weights * seen[:, :, week]
        mass = weights.sum(-1, keepdim=True).clamp(min=1e-290)
        weights, total = weights / mass, total + mass[..., 0].log()
    return torch.logsumexp(total, 1).numpy()


def _log_probability(
    units: torch.Tensor, sold_out: torch.Tensor, log_means: torch.Tensor, dispersion: float
) -> torch.Tensor:
    """Of counts `(T,)` under log means `(A, L, T, G)`; of a sold-out week, that demand was at least what was sold."""
    counts, size = units[:, None], torch.tensor(dispersion, dtype=torch.float64)
    constant = torch.lgamma(counts + size) - torch.lgamma(size) - torch.lgamma(counts + 1.0) - counts * size.log()
    # Of a negative binomial; with the logarithm of 1 + mean / size it stays exact in the Poisson limit.
    found = constant + counts * log_means - (counts + size) * torch.nn.functional.softplus(log_means - size.log())
    sold_out = sold_out & (units > 0)  # a week that began without stock says nothing: its counts are as likely anyhow
    if sold_out.any():
        found[:, :, sold_out] = compute_log_tail(counts[sold_out], size, log_means[:, :, sold_out].exp())
    return found
