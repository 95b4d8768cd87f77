"""Ceiling of what k weeks can teach where customers remember, rivals answer or loans are taken up: on particles.

As in `few_shot_posterior.py` somebody is told all but how demand answers: here the traffic of every period, what
would be bought at list prices by customers without a past, all prices since the start, how counts scatter, how a rival
answers, drivers, and the law of what is to come. To be learned are response family and mean elasticity of the category,
and of every item elasticity, take-up, reaction to the rival, and what its customers remember. Particles are items of
fresh markets of the same ranges, put in the place of the item's own customers: they run through the whole log with the
simulator's own recursion and are weighted by the likelihood of the last k counts. Draws of that posterior choose the
prices with the highest expected share of the gap between list prices and the best ones, held over the decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import gammainc, ndtr, pdtr, pdtrc
from scipy.stats import norm

from pricing_fm import names
from pricing_fm.evaluation.few_shot_markets import LISTED, DecisionTruth, grid_prices
from pricing_fm.markets import SimulatedLog, compute_outcome
from pricing_fm.markets.core import Market, PartState, get_unit_cost
from pricing_fm.markets.demand import OwnPriceDemand, PurchaseProbability
from pricing_fm.markets.domains import DOMAINS, LoansSettings, RetailSettings
from pricing_fm.markets.drivers import ScheduledDrivers
from pricing_fm.markets.loan_parts import LoanPayoff
from pricing_fm.markets.memory import Memory, Pantry
from pricing_fm.markets.payoffs import Margin
from pricing_fm.metrics.value import compute_gap_closed

PARTICLES = 24_576  # for every item, over its response families
MEANS = 34  # of a category, equally likely
DRAWS = 300  # of a category's posterior
PARTICLE_SEED = 990_000  # of the fresh markets; beside those of training, evaluation and tests
_LEAST = 1e-300


@dataclass(frozen=True)
class InformedPrices:
    """Prices by number of visible periods, and how many particles they rest on.

    Args:
        prices (`dict[int, np.ndarray]`): k to `(items,)`, currency, in the order of `truth.item_ids`.
        effective (`dict[int, np.ndarray]`): k to the effective sample size of every item's particles, `(items,)`.
    """

    prices: dict[int, np.ndarray]
    effective: dict[int, np.ndarray]


@dataclass(frozen=True)
class Particles:
    """Answers that items of one category may have: one-item markets, for every item, family and particle.

    Args:
        market (`Market`): `(items x families x particles, 1, 1)`, item by item.
        size (`tuple[int, int, int]`): Items, families, particles.
        chances (`np.ndarray`, shape `(means, particles)`): Of a particle, given the category's mean; rows sum to one.
        possible (`np.ndarray`, shape `(items x families x particles,)`): False where no market has that many customers.
    """

    market: Market
    size: tuple[int, int, int]
    chances: np.ndarray
    possible: np.ndarray


def informed_by_particles(
    truth: DecisionTruth, periods: Sequence[int], settings: Any, seed: int = 0, particles: int = PARTICLES
) -> InformedPrices:
    """Prices with the highest posterior expected share of the gap closed, held over the decision.

    Args:
        truth (`DecisionTruth`): Logs whose items share nothing but what their category has in common.
        periods (`Sequence[int]`): k: the last periods of the logs whose counts are seen; 0 = the prior.
        settings: Ranges that the markets were drawn from; sizes do not matter.
        seed (`int`): Of the draws.
        particles (`int`): For every item, over all response families.

    Returns:
        `InformedPrices`.

    Raises:
        ValueError: If items are coupled, counts are not Poisson, demand is of another kind, something beside prices
            moves customers who remember, or more periods are asked for than logged.
    """
    for log in truth.logs:
        _check(log, periods)
    place = {item: number for number, item in enumerate(truth.item_ids)}
    candidates = grid_prices(truth)
    prices, effective = ({k: np.empty(len(place)) for k in periods} for _ in range(2))
    first = truth.logs[0].parameters
    families = len(_families_of(draw_fresh(settings, first, 100)))
    fresh = draw_fresh(settings, first, particles // families)
    for log in truth.logs:
        rows = np.array([place[item] for item in log.items[names.ITEM_ID]])
        quiet = _is_quiet(log.parameters)
        worth = None if quiet else _worth_of_a_unit(log, candidates[rows], truth.decision_weeks)
        for category, own in enumerate(np.split(np.arange(len(rows)), len(log.market_ids))):
            imagined = imagine_items(log, category, fresh, settings)
            fits, memory = weigh(log, category, imagined, periods)
            for k in periods:
                generator = np.random.default_rng((seed, log.settings.seed, category, k))
                drawn, effective[k][rows[own]] = draw_answers(fits[k], imagined.chances, generator)
                places = drawn + np.arange(len(own)) * imagined.size[1] * imagined.size[2]
                tried = candidates[rows[own]]
                if worth is None:
                    values = _run_on(log, category, imagined, memory, places, tried, truth.decision_weeks)
                else:
                    values = worth[own] * _units(imagined.market.select(places.ravel()), tried, places.shape)
                prices[k][rows[own]] = choose_prices(values, tried)
    return InformedPrices(prices, effective)


def draw_fresh(settings: Any, like: Market, count: int) -> Market:
    """Fresh markets `(count, 1, 1)` of the same family, of one item each (a clinic's three classes are not chosen)."""
    alone = {name: 1 for name in ("num_products", "num_segments") if name in vars(settings)}
    return DOMAINS[like.domain].sample(replace(settings, **alone), like.family, np.arange(count), PARTICLE_SEED)


def imagine_items(log: SimulatedLog, category: int, fresh: Market, settings: Any) -> Particles:
    """A category's items with the customers of fresh ones, at the same demand at list prices.

    Args:
        log (`SimulatedLog`): Markets.
        category (`int`): Place of the category among them.
        fresh (`Market`): From `draw_fresh`.
        settings: Ranges of both.

    Returns:
        `Particles`.
    """
    own = _items_of(log.parameters, category)
    count, families = len(fresh.volume), _families_of(fresh)
    size = (len(own.volume), len(families), count)
    told = own.volume * own.demand.respond(own.list_price, _listed_rival(own))
    market = own.select(np.repeat(np.arange(size[0]), size[1] * count))
    drawn = fresh.select(np.tile(np.arange(count), size[0] * size[1]))
    codes = np.tile(np.repeat(families, count), size[0]).reshape(-1, 1, 1)
    market = replace(market, demand=_carry_over(market, drawn, codes), memory=_carry_memory(market, drawn))
    with np.errstate(divide="ignore"):
        listed = market.demand.respond(market.list_price, _listed_rival(market))
        volume = told[np.repeat(np.arange(size[0]), size[1] * count)] / np.maximum(listed, _LEAST)
    # A shop's customers have no bounds of their own; a lender's applicants have.
    low, high = settings.applicants_range if isinstance(settings, LoansSettings) else (0.0, np.inf)
    possible = (volume.ravel() >= low) & (volume.ravel() <= high)
    return Particles(replace(market, volume=volume), size, _chances(settings, fresh), possible)


def weigh(
    log: SimulatedLog, category: int, imagined: Particles, periods: Sequence[int]
) -> tuple[dict[int, np.ndarray], PartState]:
    """Log-likelihood of the last k counts under every particle, and what customers remember after the log.

    Args:
        log (`SimulatedLog`): Markets.
        category (`int`): Place of the category.
        imagined (`Particles`): Of its items.
        periods (`Sequence[int]`): k.

    Returns:
        k to `(items, families, particles)`, a constant per item left out; and the state of the memory, `(items x
        families x particles, 1, 1, layers)`, or None.
    """
    market, arrays, last = imagined.market, log.arrays, log.settings.num_periods
    own, repeats = _items_of(log.parameters, category), imagined.size[1] * imagined.size[2]
    spread = np.repeat(np.arange(imagined.size[0]), repeats)
    memory: PartState = None if market.memory is None else market.memory.start(market.list_price)
    rivals: PartState = None if own.rivals is None else own.rivals.start(own.list_price)
    fits = {k: np.where(imagined.possible, 0.0, np.log(_LEAST)) for k in periods}
    for period in range(0 if memory is not None or rivals is not None else last - max(periods), last):
        price, units, stock, mean_told = (
            values[period, category].reshape(-1, 1, 1)
            for values in (arrays.price, arrays.units, arrays.inventory, arrays.mean_demand)
        )
        met = None if own.rivals is None else own.rivals.get_prices(rivals)
        told = 1.0 if own.memory is not None else mean_told / (own.volume * own.demand.respond(price, met))
        traffic = market.volume * np.broadcast_to(told, own.volume.shape)[spread]
        mean, memory = _demand(market, traffic, price[spread], None if met is None else met[spread], memory, period)
        if own.rivals is not None:
            rivals = own.rivals.advance(rivals, price, np.full(len(price), period))
        gained = _log_likelihood(units[spread], mean, stock[spread])
        fits = {k: fit + gained if period >= last - k else fit for k, fit in fits.items()}
    return {k: fit.reshape(imagined.size) for k, fit in fits.items()}, memory


def draw_answers(
    fits: np.ndarray, chances: np.ndarray, generator: np.random.Generator, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a category's posterior: family and mean are shared, the rest follows item by item.

    Args:
        fits (`np.ndarray`, shape `(items, families, particles)`): Log-likelihoods.
        chances (`np.ndarray`, shape `(means, particles)`): See `Particles`.
        generator (`np.random.Generator`): Of the draws.
        draws (`int`): How many.

    Returns:
        Number of the particle (family x particles + place) of every item in every draw, `(draws, items)`, and the
        effective sample size of every item's particles, `(items,)`.
    """
    items, families, count = fits.shape
    weights = np.exp(fits - fits.max(axis=(1, 2), keepdims=True))
    given = np.maximum(weights @ chances.T, _LEAST)  # (items, families, means)
    shared = np.log(given).sum(axis=0)
    shared = np.exp(shared - shared.max())
    shared /= shared.sum()
    own = weights * ((shared / given) @ chances)  # what an item's particles weigh, whatever is shared
    effective = 1.0 / (own**2).sum(axis=(1, 2))
    drawn = np.empty((draws, items), dtype=np.int64)
    picked = generator.choice(shared.size, size=draws, p=shared.ravel())
    for one in np.unique(picked):
        family, mean = np.divmod(one, len(chances))
        here = picked == one
        steps = np.cumsum(weights[:, family] * chances[mean], axis=1)
        for item in range(items):
            at = generator.uniform(0.0, steps[item, -1], int(here.sum()))
            drawn[here, item] = family * count + np.minimum(np.searchsorted(steps[item], at), count - 1)
    return drawn, effective


def choose_prices(values: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Price of every item with the lowest expected loss, in shares of the category's gap, `(items,)`.

    Args:
        values (`np.ndarray`, shape `(draws, items, P)`): What every candidate earns in every draw.
        candidates (`np.ndarray`, shape `(items, P)`): Prices.
    """
    best, listed = values.max(axis=-1), values[..., LISTED]
    gap = find_gaps(listed.sum(axis=1), best.sum(axis=1))
    loss = ((best[..., None] - values) / gap[:, None, None]).mean(axis=0)
    return np.asarray(candidates[np.arange(len(candidates)), loss.argmin(axis=-1)])


def find_gaps(listed: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Gap between list prices and the best ones by draw; infinite where it is too small to be counted."""
    shares = compute_gap_closed(listed, listed, best).shares
    return np.asarray(np.where(np.isfinite(shares), best - listed, np.inf))


def _check(log: SimulatedLog, periods: Sequence[int]) -> None:
    market = log.parameters
    name = f"{market.domain}/{market.family}"
    if not market.is_separable or not isinstance(market.demand, OwnPriceDemand | PurchaseProbability):
        raise ValueError(f"the items of {name} are coupled, or answer in a way that no particle here knows")
    if not isinstance(market.supply, ScheduledDrivers | None):
        raise ValueError(f"{name} has a supply whose state moves; particles know none or drivers as planned")
    noise = market.noise
    scattered = noise.dispersion is not None and bool(np.isfinite(noise.dispersion).any())
    if noise.silent.any() or noise.zero_share is not None or scattered:
        raise ValueError(f"the counts of {name} are not Poisson; particles are weighted by Poisson likelihoods")
    if not _is_quiet(market) and any(part is not None for part in (market.memory, market.rivals, market.supply)):
        raise ValueError(f"in {name} more than prices moves demand that is limited or remembers")
    if max(periods) > log.settings.num_periods:
        raise ValueError(f"{max(periods)} periods are asked for and {log.settings.num_periods} logged")


def _is_quiet(market: Market) -> bool:
    """Whether nothing but prices moves demand, and a unit earns its margin."""
    moving = (market.calendar, market.shock, market.regimes, market.promotion_uplift)
    return all(part is None for part in moving) and isinstance(market.payoff, Margin)


def _items_of(market: Market, category: int) -> Market:
    """Items of a category as markets, without what only scales demand."""
    _, products, segments = market.shape
    product, segment = (one.ravel() for one in np.indices((products, segments)))
    plain = replace(market, calendar=None, shock=None, regimes=None, promotion_uplift=None)
    return plain.select_items((np.full(len(product), category), product, segment))


def _families_of(fresh: Market) -> np.ndarray:
    return np.unique(fresh.demand.family) if isinstance(fresh.demand, OwnPriceDemand) else np.zeros(1, dtype=int)


def _listed_rival(market: Market) -> np.ndarray | None:
    return None if market.rivals is None else np.asarray(market.rivals.list_price)


def _carry_over(market: Market, drawn: Market, codes: np.ndarray) -> OwnPriceDemand | PurchaseProbability:
    """The demand of fresh customers at the item's own price level."""
    if isinstance(drawn.demand, OwnPriceDemand):
        assert isinstance(market.demand, OwnPriceDemand)
        return replace(
            market.demand,
            family=codes,
            elasticity=drawn.demand.elasticity,
            cross_elasticity=drawn.demand.cross_elasticity,
        )
    assert isinstance(drawn.demand, PurchaseProbability)
    # Utilities are logarithms of odds at a free product; only the sensitivity is counted per unit of currency.
    return replace(drawn.demand, sensitivity=drawn.demand.sensitivity * drawn.list_price / market.list_price)


def _carry_memory(market: Market, drawn: Market) -> Memory | None:
    if isinstance(drawn.memory, Pantry):
        return replace(drawn.memory, list_price=market.list_price)
    return drawn.memory


def _elasticities_of(fresh: Market) -> np.ndarray:
    """At the list price, without a past, `(particles,)`."""
    demand = fresh.demand
    if isinstance(demand, OwnPriceDemand):
        return demand.elasticity.ravel()
    assert isinstance(demand, PurchaseProbability)
    return np.ravel(demand.sensitivity * fresh.list_price * (1.0 - demand.respond(fresh.list_price, None)))


def _chances(settings: Any, fresh: Market) -> np.ndarray:
    """How likely a particle is, given each of `MEANS` equally likely means of a category's elasticities.

    Only the items of shops have a mean in common. A particle's chance is its density given the mean over its density
    among fresh markets; those at the bounds of the range stand for all that lies beyond.
    """
    found = np.log(_elasticities_of(fresh))
    spread = (
        np.hypot(settings.product_deviation, settings.store_deviation) if isinstance(settings, RetailSettings) else 0
    )
    if not spread > 0:
        return np.full((1, len(found)), 1.0 / len(found))
    low, high = settings.elasticity_range
    bounds = np.log(settings.elasticity_bounds or (0.6 * low, 1.5 * high))
    means = np.log(low + (high - low) * (np.arange(MEANS) + 0.5) / MEANS)[:, None]
    below, above = found <= bounds[0] + 1e-9, found >= bounds[1] - 1e-9
    beyond = np.where(below, ndtr((bounds[0] - means) / spread), ndtr((means - bounds[1]) / spread))
    density = np.where(below | above, beyond, norm.pdf(found, means, spread))
    density /= np.maximum(density.mean(axis=0), _LEAST)
    return np.asarray(density / density.sum(axis=1, keepdims=True))


def _demand(
    market: Market,
    traffic: np.ndarray,
    price: np.ndarray,
    met: np.ndarray | None,
    memory: PartState,
    period: int,
) -> tuple[np.ndarray, PartState]:
    """Mean demand of a period, and what is remembered after it."""
    mean = traffic * market.demand.respond(price, met)
    if market.memory is None:
        return mean, None
    clock = np.full(len(mean), period)
    mean = market.memory.adjust(mean, traffic, memory, price, clock)
    return mean, market.memory.advance(memory, mean, traffic, price, clock)


def _log_likelihood(units: np.ndarray, mean: np.ndarray, stock: np.ndarray) -> np.ndarray:
    """Of Poisson counts, without what depends on the counts alone, flat; sold out = demand was at least the stock."""
    mean = np.maximum(mean, _LEAST)
    found = units * np.log(mean) - mean
    sold_out = units >= stock
    if sold_out.any():
        least = np.log(np.maximum(gammainc(np.maximum(units, 1.0), mean), _LEAST))
        found = np.where(sold_out, np.where(units > 0, least, 0.0), found)
    return np.asarray(found.ravel())


def _worth_of_a_unit(log: SimulatedLog, candidates: np.ndarray, periods: int) -> np.ndarray:
    """What the decision earns at every candidate `(items, P)` for each unit of its first period's demand.

    Without memory and limits it is in proportion to demand, so season, shocks, regimes and payoff are in it once for
    all answers. Means over rollouts in which nothing but regimes and shocks is left to chance.
    """
    market, payoff = log.parameters, log.parameters.payoff
    if isinstance(payoff, LoanPayoff):
        payoff = replace(payoff, silent=np.ones_like(payoff.silent))
    silent = replace(log, parameters=replace(market, noise=market.noise.silence(), payoff=payoff))
    found = []
    for column in candidates.T:
        demand = market.volume * market.demand.respond(column.reshape(market.shape), None)
        found.append(compute_outcome(silent, column, periods).value / demand.ravel())
    return np.stack(found, axis=1)


def _units(chosen: Market, candidates: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Demand of draws of items at every candidate `(draws, items, P)`, units a period."""
    spread = np.tile(np.arange(shape[1]), shape[0])
    columns = [chosen.volume * chosen.demand.respond(column[spread].reshape(-1, 1, 1), None) for column in candidates.T]
    return np.stack(columns, axis=-1).reshape(*shape, -1)


def _run_on(
    log: SimulatedLog,
    category: int,
    imagined: Particles,
    memory: PartState,
    places: np.ndarray,
    candidates: np.ndarray,
    periods: int,
) -> np.ndarray:
    """What every candidate earns when it is held, `(draws, items, P)`; memories go on where the log has left them."""
    draws, items = places.shape
    points = candidates.shape[1]
    rows = np.repeat(places.ravel(), points)
    market, state = imagined.market.select(rows), None if memory is None else memory[rows]
    price = np.tile(candidates.ravel(), draws).reshape(-1, 1, 1)
    own = log.state.select(np.array([category]))
    spread = np.tile(np.repeat(np.arange(items), points), draws)
    cost = get_unit_cost(log.parameters.select(np.array([category])), own).ravel()[spread].reshape(-1, 1, 1)
    rivals: PartState = None if own.rivals is None else own.rivals.reshape(-1, 1, 1, own.rivals.shape[-1])[spread]
    earned, done = np.zeros(price.shape), int(own.period[0])
    for period in range(done, done + periods):
        met = None if market.rivals is None else market.rivals.get_prices(rivals)
        mean, state = _demand(market, market.volume, price, met, state, period)
        if market.rivals is not None:
            rivals = market.rivals.advance(rivals, price, np.full(len(price), period))
        earned += (price - cost) * _sold(market, mean)
    return np.asarray(earned.reshape(draws, items, points))


def _sold(market: Market, mean: np.ndarray) -> np.ndarray:
    """Expected units of Poisson demand, of which drivers as planned serve as many as they are."""
    if not isinstance(market.supply, ScheduledDrivers):
        return mean
    most = market.supply.drivers
    below = np.where(most >= 2, pdtr(np.maximum(most - 2.0, 0.0), mean), 0.0)
    return np.asarray(mean * below + most * pdtrc(most - 1.0, mean))
