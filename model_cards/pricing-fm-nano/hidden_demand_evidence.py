"""What a hidden-demand model says of an item's price response: inputs of the network, not its answer.

A manager who cuts prices into demand peaks, or raises them there, makes every regression wrong: what moves the price
moves sales, too. But hidden demand lasts, so that its trace is left in the weeks around. Here it is an autoregressive
normal variable; sales are counts around it and prices follow it (a Gaussian copula with whatever prices there were). It
is summed out by the forward algorithm of hidden Markov models, for every elasticity, confounding and spread of a grid.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from .channels import INTERVENTION, PROMOTIONS, UNITS, own_prices, sold_out

NUM_HIDDEN_DEMAND_EVIDENCE = 11
# The grid: price elasticities, correlations of the price with hidden demand, standard deviations of hidden log demand,
# and its values in standard deviations. A finer one says the same at several times the cost.
ELASTICITIES = (0.3, 0.9, 1.6, 2.4, 3.4, 4.8)
CONFOUNDING = (-0.85, -0.4, 0.0, 0.4, 0.85)
SPREADS = (0.15, 0.4)
SHOCKS = (-2.4, -1.6, -0.8, 0.0, 0.8, 1.6, 2.4)
PERSISTENCE = 0.6
# Ridge penalties in periods of mean sales: one, trend per `PERIODS_OF_SEASON`, promotion, sine and cosine of the year.
PENALTIES = (0.01, 2.0, 4.0, 6.0, 6.0)
# Log uplift that a promotion is taken for to begin with. Cuts are promoted: what is left to the promotion is taken from
# the price.
PROMOTION_PRIOR = 0.3
PERIODS_OF_SEASON = 52
NEWTON_STEPS = 6
RELATIVE_VARIANCE = 0.2  # of demand around its mean, where sold-out periods are filled in
INVERSE_DISPERSION = (0.02, 0.5)  # of the negative binomial, beside the spread
LARGEST_LEVEL = 200.0  # units a period: beyond, chance in counting is nil beside the dispersion
LEAST_CHANCE = 1e-4  # of a price, under any hidden demand
LARGEST_LOG_ODDS = 8.0


@dataclass(frozen=True)
class SalesRecord:
    """The past of B items side by side, T periods.

    Args:
        units (`(B, T)`): Units sold, finite where seen.
        log_prices (`(B, T)`): Log ratio to the reference price, finite where seen.
        promoted (`(B, T)`): 1 in promoted periods.
        seen (`(B, T)`, bool): Periods with known price and sales.
        sold_out (`(B, T)`, bool): Sales reached the stock: demand was that much or more.
        randomized (`(B, T)`, bool): The price was drawn at random: it follows nothing.
    """

    units: np.ndarray
    log_prices: np.ndarray
    promoted: np.ndarray
    seen: np.ndarray
    sold_out: np.ndarray
    randomized: np.ndarray


class _Seen(NamedTuple):
    """A record in float64 (so that the size of a batch shows nowhere), zero where nothing was seen.

    `level` is the mean of uncensored sales, `(B,)`.
    """

    units: torch.Tensor
    level: torch.Tensor
    log_prices: torch.Tensor
    promoted: torch.Tensor
    weight: torch.Tensor
    sold_out: torch.Tensor


def read_sales_record(past: np.ndarray, observed: np.ndarray, reference: np.ndarray) -> SalesRecord:
    """The record of raw windows.

    Args:
        past (`(B, T, channels)`): Raw channels.
        observed (`(B, T)`, bool): Periods whose units say something about demand.
        reference (`(B,)`): Reference price, currency.

    Returns:
        `SalesRecord`.
    """
    log_prices = np.log(own_prices(past) / reference[:, None])
    return SalesRecord(
        units=past[..., UNITS].astype(np.float64),
        log_prices=log_prices,
        promoted=np.nan_to_num(past[..., PROMOTIONS]).max(-1),
        seen=observed & np.isfinite(log_prices),
        sold_out=sold_out(past),
        randomized=past[..., INTERVENTION] > 0,
    )


def hidden_demand_evidence(record: SalesRecord) -> np.ndarray:
    """Posterior of the price response under the hidden-demand model, flat over the grid.

    Args:
        record (`SalesRecord`): The past.

    Returns:
        `(B, 11)`: Mean over 3 and log deviation of the slope; mean and deviation of the confounding; mean spread; mean
        over 3 and log deviation of the slope if prices follow nothing; its mean over 3 if they fall (rise) with demand;
        log odds of falling (rising) against following nothing, over 4. NaN where no period was seen.

    References:
        Rabiner 1989, "A tutorial on hidden Markov models"; Nelsen 2006, "An introduction to copulas".
    """
    seen = _read(record)
    with torch.inference_mode():
        likelihood = _forward(seen, torch.from_numpy(record.randomized))
        found = _summarize(likelihood).numpy()
    found[~record.seen.any(1)] = np.nan
    return found


def _tensor(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _read(record: SalesRecord) -> _Seen:
    seen, sold_out = record.seen, record.seen & record.sold_out
    counted = seen & ~sold_out
    counted = np.where(counted.any(1, keepdims=True), counted, seen)
    level = np.where(counted, record.units, 0.0).sum(1) / np.maximum(counted.sum(1), 1)
    shrunk = np.minimum(1.0, LARGEST_LEVEL / np.maximum(level, 1.0))

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.where(seen, values, 0.0).astype(np.float64))

    return _Seen(
        units=tensor(record.units * shrunk[:, None]),
        level=torch.from_numpy(np.maximum(level * shrunk, 0.05).astype(np.float64)),
        log_prices=tensor(record.log_prices),
        promoted=tensor(record.promoted),
        weight=torch.from_numpy(seen.astype(np.float64)),
        sold_out=torch.from_numpy(sold_out),
    )


def _forward(seen: _Seen, randomized: torch.Tensor) -> torch.Tensor:
    """Log likelihood of sales and prices, `(B, confounding, elasticities, spreads)`.

    Items come last on the way there: they are many, and the axes of the grid are short.
    """
    shocks = _tensor(SHOCKS)
    counts, log_peaks = _weigh_counts(seen, _fit_log_means(seen), shocks)
    prices = _weigh_prices(seen, randomized, shocks)
    distance = shocks - PERSISTENCE * shocks[:, None]
    moves = torch.softmax(-0.5 * distance**2 / (1 - PERSISTENCE**2), dim=1)
    # What the chain itself settles at, so that periods before the first one seen change nothing.
    settled = torch.linalg.matrix_power(moves, 256)[0]
    # Chances are relative to their peak and normalised in each period: single precision is enough, and twice as fast.
    shape = (len(SHOCKS), len(CONFOUNDING), len(ELASTICITIES), len(SPREADS), len(seen.units))
    weights, moves = settled.float()[:, None, None, None, None].expand(shape), moves.T.float()
    total = log_peaks[None].repeat(len(CONFOUNDING), 1, 1, 1)
    for period, (count, price) in enumerate(zip(counts, prices)):
        if period:
            weights = (moves @ weights.flatten(1)).unflatten(1, shape[1:])
        weights = weights * count[:, None] * price[:, :, None, None]
        mass = weights.sum(0).clamp(min=1e-30)
        weights = weights / mass
        total += mass.log()
    return total.permute(3, 0, 1, 2)


def _fit_log_means(seen: _Seen) -> torch.Tensor:
    """Log mean demand over the level for each elasticity, `(B, elasticities, T)`: Poisson regressions on the rest."""
    periods = seen.units.shape[1]
    years = torch.arange(-periods, 0, dtype=torch.float64) / PERIODS_OF_SEASON
    ones = torch.ones_like(seen.units)
    controls = [ones, years * ones, seen.promoted, torch.sin(2 * torch.pi * years) * ones]
    design = torch.stack([*controls, torch.cos(2 * torch.pi * years) * ones], dim=-1)
    squares, across = (design[..., None] * design[..., None, :]).flatten(-2), design.transpose(-1, -2)
    offset = -_tensor(ELASTICITIES)[:, None] * seen.log_prices[:, None] + PROMOTION_PRIOR * seen.promoted[:, None]
    units, level = (seen.units / seen.level[:, None])[:, None], seen.level[:, None, None]
    sold_out, weight, penalty = seen.sold_out[:, None], seen.weight[:, None], _tensor(PENALTIES)
    found = torch.zeros(*offset.shape[:2], len(PENALTIES), dtype=torch.float64)
    log_mean, hidden = offset, sold_out.expand_as(offset)
    for _ in range(NEWTON_STEPS):
        mean = log_mean.clamp(-5.0, 5.0).exp()
        demand = units.expand_as(mean).clone()
        demand[hidden] = _fill_in(mean[hidden], units.expand_as(mean)[hidden], level.expand_as(mean)[hidden])
        gradient = (weight * (demand - mean)) @ design - penalty * found
        information = ((weight * mean) @ squares).unflatten(-1, penalty.shape * 2) + torch.diag(penalty)
        found = (found + torch.linalg.solve(information, gradient).clamp(-2.0, 2.0)).clamp(-6.0, 6.0)
        log_mean = offset + found @ across
    return log_mean.clamp(-6.0, 6.0)


def _fill_in(mean: torch.Tensor, units: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Expected demand given that it was at least what was sold, all over the level; normal approximation."""
    centre = (mean * level).clamp(min=0.05)
    deviation = torch.sqrt(centre + RELATIVE_VARIANCE * centre**2)
    below = (units * level - 0.5 - centre) / deviation
    # Inverse Mills ratio.
    beyond = torch.exp(-0.5 * below**2 - torch.special.log_ndtr(-below)) / float(np.sqrt(2 * np.pi))
    return torch.maximum((centre + deviation * beyond.clamp(max=6.0)) / level, units)


def _weigh_counts(seen: _Seen, log_mean: torch.Tensor, shocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Chance of sales over its peak `(T, shocks, elasticities, spreads, B)`, and the log of all peaks."""
    spread = _tensor(SPREADS)
    size = 1 / _inverse_dispersion(seen, log_mean, spread).permute(1, 2, 0)
    log_level = (log_mean + seen.level.log()[:, None, None]).permute(2, 1, 0)[:, None, :, None]
    moved = spread * shocks[:, None] - 0.5 * spread**2
    log_means = log_level.float() + moved[:, None, :, None].float()
    counts, is_hidden = (values.T[:, None, None, None] for values in (seen.units, seen.sold_out))
    constant = torch.lgamma(counts + size) - torch.lgamma(size) - torch.lgamma(counts + 1)
    odds = log_means - size.log().float()
    exponent = counts.float() * odds - (counts + size).float() * torch.nn.functional.softplus(odds) + constant.float()
    if is_hidden.any():
        period, item = seen.sold_out.T.nonzero(as_tuple=True)
        expected, least = log_means[period, ..., item].exp(), seen.units[item, period, None, None, None].float()
        deviation = torch.sqrt(expected + expected**2 / size[..., item].permute(2, 0, 1)[:, None].float())
        exponent[period, ..., item] = torch.special.log_ndtr((expected - least + 0.5) / deviation)
    exponent = exponent * seen.weight.T[:, None, None, None].float()
    peaks = exponent.amax(1, keepdim=True)
    return torch.exp(exponent - peaks), peaks[:, 0].double().sum(0)


def _inverse_dispersion(seen: _Seen, log_mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Of the negative binomial, `(B, elasticities, spreads)`: what the spread leaves of the residual variance."""
    units, level, counted = seen.units[:, None], seen.level[:, None, None], seen.weight * ~seen.sold_out
    mean = log_mean.exp()
    residual = ((units / level - mean) / mean).clamp(-3.0, 3.0) ** 2 - 1 / (mean * level).clamp(min=0.05)
    variance = (residual * counted[:, None]).sum(-1) / counted.sum(1).clamp(min=1)[:, None]
    return (variance.clamp(0.0, 2.0)[..., None] - torch.expm1(spread**2)).clamp(*INVERSE_DISPERSION)


def _weigh_prices(seen: _Seen, randomized: torch.Tensor, shocks: torch.Tensor) -> torch.Tensor:
    """Chance of each price given hidden demand, `(T, shocks, confounding, B)`: a copula of its rank and the shock."""
    told = (seen.weight > 0) & ~randomized
    ordered = torch.where(told, seen.log_prices, torch.inf).sort(1).values
    ranks = [torch.searchsorted(ordered, seen.log_prices + apart) for apart in (-1e-4, 1e-4)]
    shares = [rank.double() / told.sum(1, keepdim=True).clamp(min=1) for rank in ranks]
    low, high = (torch.special.ndtri(share).T[:, None, None].clamp(-8.0, 8.0).float() for share in shares)
    strength, shocks = _tensor(CONFOUNDING)[:, None].float(), shocks[:, None, None].float()
    rest = torch.sqrt(1 - strength**2)
    upper, lower = (torch.special.ndtr((limit - strength * shocks) / rest) for limit in (high, low))
    return torch.where(told.T[:, None, None], (upper - lower).clamp(min=LEAST_CHANCE), 1.0)


def _summarize(likelihood: torch.Tensor) -> torch.Tensor:
    """The 11 numbers from the log likelihood on the grid."""
    elasticities, strengths = _tensor(ELASTICITIES), _tensor(CONFOUNDING)
    width = torch.from_numpy(np.gradient(np.array(ELASTICITIES)))
    log_weights = likelihood + width.log()[:, None]
    middle = CONFOUNDING.index(0.0)
    confounding = torch.softmax(log_weights.logsumexp((2, 3)), dim=-1)
    spread = torch.softmax(log_weights.logsumexp((1, 2)), dim=-1)
    mean_strength, strength_deviation = _moments(confounding, strengths)
    columns = [*_slope(log_weights, elasticities), mean_strength, strength_deviation, spread @ _tensor(SPREADS)]
    columns += _slope(log_weights[:, middle : middle + 1], elasticities)
    columns += [_slope(part, elasticities)[0] for part in (log_weights[:, :middle], log_weights[:, middle + 1 :])]
    evidence = log_weights.logsumexp((2, 3))
    for part in (evidence[:, :middle], evidence[:, middle + 1 :]):
        odds = part.logsumexp(1) - float(np.log(part.shape[1])) - evidence[:, middle]
        columns.append(odds.clamp(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS) / 4)
    return torch.stack(columns, dim=1)


def _slope(log_weights: torch.Tensor, elasticities: torch.Tensor) -> list[torch.Tensor]:
    """Mean over 3 and log deviation of the slope, which is minus the elasticity."""
    mean, deviation = _moments(torch.softmax(log_weights.logsumexp((1, 3)), dim=1), elasticities)
    return [-mean / 3, torch.log(deviation + 0.05)]


def _moments(chances: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = chances @ values
    return mean, ((chances @ values**2) - mean**2).clamp(min=0.0).sqrt()
