"""Ceiling of what k weeks can teach: prices planned by somebody who is told all but how demand falls with the price.

Told, for every week: what demand would have been at today's list price (season, hidden shock, promotion, memory), and
how counts scatter; or, closer to what can be known, all of it but the level of an item and its own part of the shock.
To be learned from the weeks: the category's response family and mean elasticity, and every item's elasticity around it.
Their exact posterior lies on a grid, under the ranges that the markets were drawn from; its draws choose the prices
with the highest expected share of the gap between list prices and the best ones. More is known than any log says, so on
average nobody who sees the same weeks should close more. Two things keep that approximate: the gap is measured from the
list price, where scores measure it from the manager's prices, and what is maximised is the mean share, which an
interquartile mean over categories is not. Stocks hint at the level, too; who is not told it does not read them so.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import logsumexp, ndtr
from scipy.stats import nbinom, poisson

from pricing_fm import names
from pricing_fm.evaluation.few_shot_likelihood import sum_out_hidden
from pricing_fm.evaluation.few_shot_markets import PRICE_GRID, DecisionTruth, grid_prices
from pricing_fm.markets import RetailSettings, SimulatedLog, compute_outcome
from pricing_fm.markets.core import Market
from pricing_fm.markets.demand import OwnPriceDemand
from pricing_fm.markets.domains import EnergySettings, FaresSettings
from pricing_fm.markets.responses import FAMILIES, compute_log_response
from pricing_fm.metrics.value import compute_gap_closed

Settings = RetailSettings | EnergySettings | FaresSettings

# Elasticities and category means of the posterior: neighbours lie 8 % and 0.1 apart with the default ranges.
ELASTICITIES, MEANS = 30, 34
DRAWS = 500  # of a category's posterior
ROLLOUTS = 32  # repetitions where a stock limits sales; half of what values are judged with
_LEAST = 1e-300


def informed_prices(
    truth: DecisionTruth, weeks: Sequence[int], market: Settings, told: Sequence[bool] = (True,), seed: int = 0
) -> dict[tuple[bool, int], np.ndarray]:
    """Prices with the highest posterior expected share of the gap closed, held over the weeks of the decision.

    Args:
        truth (`DecisionTruth`): Logs of items that answer to their own price alone, and what prices are worth after
            them.
        weeks (`Sequence[int]`): k: the last periods of the logs that are seen; 0 = the prior.
        market (`Settings`): Ranges that the markets were drawn from.
        told (`Sequence[bool]`): Whether it is told what would have been sold at list price in every week. False: an
            item's level and its own part of the hidden shock have to be inferred, too (retail shops).
        seed (`int`): Of the draws.

    Returns:
        `dict[tuple[bool, int], np.ndarray]`: Whether told, and k, to prices `(items,)`, currency, in the order of
            `truth.item_ids`.

    Raises:
        ValueError: If a log's items do not answer to their own price alone, its counts are inflated to zero, or more
            weeks are asked for than logged.
    """
    place = {item: number for number, item in enumerate(truth.item_ids)}
    candidates = grid_prices(truth)
    found = {(is_told, k): np.empty(len(place)) for is_told in told for k in weeks}
    for log in truth.logs:
        _check(log, weeks, all(told))
        rows = np.array([place[item] for item in log.items[names.ITEM_ID]])
        families, elasticities, prior = build_prior(market)
        values = np.stack(
            [_values(truth, log, candidates[rows], f, e) for f in families for e in elasticities]
        ).transpose(2, 0, 1)  # (items, answers, prices)
        answers = [(family, elasticity) for family in families for elasticity in elasticities]
        for is_told, k in found:
            if is_told or k == 0:
                fits = np.stack([_log_likelihood(log, k, *answer) for answer in answers], axis=1)
            else:
                fits = sum_out_hidden(log, k, np.stack([_log_relative(log, k, *answer) for answer in answers]))
            generator = np.random.default_rng((seed, k))
            for own in np.split(np.arange(len(rows)), len(log.market_ids)):
                drawn = _draw_answers(fits[own], prior, len(families), generator)
                found[is_told, k][rows[own]] = candidates[rows[own], _choose(values[own], drawn)]
    return found


def build_prior(market: Settings) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """What is known of an item before its category's weeks.

    Categories of shops have a mean elasticity; elsewhere every item draws its own from the range.

    Args:
        market (`Settings`): Ranges.

    Returns:
        Response families (index into `responses.FAMILIES`, equally likely), elasticities `(E,)`, and the chance of each
        elasticity given each of `MEANS` equally likely category means `(M, E)`.
    """
    low, high = market.elasticity_range
    if not isinstance(market, RetailSettings):
        edges = np.geomspace(low, high, ELASTICITIES + 1)
        known = market.responses if isinstance(market, EnergySettings) else ("exponential",)
        chances = (np.diff(edges) / (high - low))[None]
        return tuple(FAMILIES.index(name) for name in known), np.sqrt(edges[1:] * edges[:-1]), chances
    bounds = market.elasticity_bounds or (0.6 * low, 1.5 * high)
    edges = np.linspace(float(np.log(bounds[0])), float(np.log(bounds[1])), ELASTICITIES + 1)
    middles = 0.5 * (edges[1:] + edges[:-1])
    edges[0], edges[-1] = -np.inf, np.inf  # what lies beyond the bounds is clipped to them
    means = np.log(low + (high - low) * (np.arange(MEANS) + 0.5) / MEANS)
    spread = np.hypot(market.product_deviation, market.store_deviation)
    if spread > 0:
        chances = np.diff(ndtr((edges - means[:, None]) / spread), axis=1)
    else:
        chances = np.diff((edges >= means[:, None]).astype(float), axis=1)
    return tuple(FAMILIES.index(name) for name in market.families), np.exp(middles), chances


def _check(log: SimulatedLog, weeks: Sequence[int], is_told: bool) -> None:
    _demand_of(log)
    if not is_told and log.parameters.shock is None:
        raise ValueError(
            f"{log.parameters.domain}/{log.parameters.family} has no hidden shock to infer; told=(True,) tells all"
        )
    if log.parameters.noise.zero_share is not None:
        raise ValueError("the posterior knows Poisson and negative binomial counts; these are inflated to zero")
    if max(weeks) > log.settings.num_periods:
        raise ValueError(f"{max(weeks)} weeks are asked for and {log.settings.num_periods} logged")


def _demand_of(log: SimulatedLog) -> OwnPriceDemand:
    demand = log.parameters.demand
    if not isinstance(demand, OwnPriceDemand):
        raise ValueError(
            f"the items of {log.parameters.domain}/{log.parameters.family} do not answer to their own price alone, as"
            " those of retail/shop, energy/supplier and fares/single_leg do"
        )
    return demand


def _imagine(log: SimulatedLog, family: int, elasticity: float) -> Market:
    """The markets with another answer to prices and the same demand at today's list price."""
    market, demand = log.parameters, _demand_of(log)
    other = replace(
        demand, family=np.full_like(demand.family, family), elasticity=np.full_like(demand.elasticity, elasticity)
    )
    listed = log.state.list_price
    with np.errstate(divide="ignore"):
        volume = market.volume * demand.respond(listed, None) / np.maximum(other.respond(listed, None), _LEAST)
    return replace(market, demand=other, volume=volume)


def _values(truth: DecisionTruth, log: SimulatedLog, prices: np.ndarray, family: int, elasticity: float) -> np.ndarray:
    """What each price `(items, P)` would earn if all items answered like this, `(P, items)`."""
    imagined = replace(log, parameters=_imagine(log, family, elasticity))
    return np.stack(
        [compute_outcome(imagined, column, truth.decision_weeks, num_rollouts=ROLLOUTS).value for column in prices.T]
    )


def _draw_answers(fits: np.ndarray, prior: np.ndarray, families: int, generator: np.random.Generator) -> np.ndarray:
    """Draws of a category's posterior: family and mean are shared, elasticities follow item by item.

    Args:
        fits: Log-likelihood of every item's counts under every answer `(items, families x E)`.
        prior: From `build_prior`, `(M, E)`.
        families: Number of response families.
        generator: Of the draws.

    Returns:
        Number of the answer (family x E + elasticity) of every item in every draw, `(DRAWS, items)`.
    """
    items, (means, points) = len(fits), prior.shape
    by_family = fits.reshape(items, families, 1, points)
    joint = by_family + np.log(np.maximum(prior, _LEAST))  # (items, F, M, E)
    pooled = logsumexp(joint, axis=-1).sum(axis=0).ravel()
    shared = generator.choice(len(pooled), size=DRAWS, p=np.exp(pooled - logsumexp(pooled)))
    given = joint.reshape(items, -1, points)[:, shared]  # (items, DRAWS, E)
    # The largest of log weights plus Gumbel noise is a draw with these weights.
    chosen = (given + generator.gumbel(size=given.shape)).argmax(axis=-1)
    return (shared // means * points + chosen).T


def _choose(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Price of every item with the lowest expected loss, in shares of the category's gap, `(items,)`.

    Args:
        values: What an item earns under every answer at every price of the grid, `(items, answers, P)`.
        drawn: From `_draw_answers`.
    """
    here = values[np.arange(len(values)), drawn]  # (DRAWS, items, P)
    best = here.max(axis=-1, keepdims=True)
    listed = here[..., int(np.abs(np.asarray(PRICE_GRID) - 1.0).argmin())]
    # A category whose list prices are almost the best ones is not counted, as in the measure itself.
    shares = compute_gap_closed(listed.sum(axis=1), listed.sum(axis=1), best.sum(axis=(1, 2))).shares
    gap = np.where(np.isfinite(shares), best.sum(axis=(1, 2)) - listed.sum(axis=1), np.inf)
    return ((best - here) / gap[:, None, None]).mean(axis=0).argmin(axis=-1)


def _log_likelihood(log: SimulatedLog, k: int, family: int, elasticity: float) -> np.ndarray:
    """Of the last k weeks' counts, `(items,)`; a sold-out week says that demand was at least the stock."""
    if k == 0:
        return np.zeros(log.num_items)
    arrays, noise = log.arrays, log.parameters.noise
    units, inventory, mean = (values[-k:] for values in (arrays.units, arrays.inventory, arrays.mean_demand))
    rate = np.broadcast_to(mean * np.exp(_log_relative(log, k, family, elasticity).reshape(mean.shape)), units.shape)
    dispersion = np.broadcast_to(np.inf if noise.dispersion is None else noise.dispersion, units.shape)
    result = np.empty(units.shape)
    for is_poisson in (True, False):
        here = np.isinf(dispersion) == is_poisson
        y, m, n = units[here], rate[here], dispersion[here]
        law = poisson(m) if is_poisson else nbinom(n, n / (n + m))
        result[here] = np.where(y >= inventory[here], law.logsf(y - 1), law.logpmf(y))
    return np.maximum(result, np.log(_LEAST)).sum(axis=0).reshape(-1)


def _log_relative(log: SimulatedLog, k: int, family: int, elasticity: float) -> np.ndarray:
    """Log of demand under another answer over the true one, equal at today's list price, `(k, items)`."""
    demand, price = _demand_of(log), log.arrays.price[-k:]

    def relative(code: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Log demand at the logged prices over demand at today's list price."""
        at = [
            compute_log_response(code, slope, demand.purchase_share, value / demand.reference_price)
            for value in (price, log.state.list_price)
        ]
        return at[0] - at[1]

    other = relative(np.full_like(demand.family, family), np.full_like(demand.elasticity, elasticity))
    return (other - relative(demand.family, demand.elasticity)).reshape(k, -1)
