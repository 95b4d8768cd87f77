"""Chooses one price per decision unit among candidates, from demand or from the policy's scores."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from scipy.stats import norm

from pricing_fm.policy.engine import PathDemand

# Draws of the Gaussian copula that turns quantiles of steps into a quantile of their sum: fixed, so that the answer is.
COPULA_DRAWS = 256
COPULA_SEED = 20240501
# Scores closer than this (relative to the item's revenue) are a tie, which goes to the smaller price move.
TIE = 1e-5


@dataclass(frozen=True)
class PlannedValue:
    """Objective of constant price paths, totals over the paid periods; currency (or units).

    Args:
        mean (`(N, P)`): Expectation.
        members (`(N, P, M)`): By response member; their spread is what the log leaves open about the response.
    """

    mean: np.ndarray
    members: np.ndarray


def planned_value(demand: PathDemand, prices: np.ndarray, costs: np.ndarray, objective: str, lead: int) -> PlannedValue:
    """Totals of an objective along constant price paths.

    Args:
        demand (`PathDemand`): Of the paths.
        prices (`(N, P)`): Constant prices, currency.
        costs (`(N,)`): Unit costs; only read for margin.
        objective (`str`): `margin`, `revenue` or `units`.
        lead (`int`): Leading periods that are not counted: the price is not yet in force.

    Returns:
        `PlannedValue`.
    """
    unit_value = unit_values(prices, costs, objective)
    mean = demand.mean[:, :, lead:]
    members = (mean[:, :, None] * demand.member_factor[..., lead:]).sum(-1)
    return PlannedValue(mean=unit_value * mean.sum(-1), members=unit_value[..., None] * members)


def unit_values(prices: np.ndarray, costs: np.ndarray, objective: str) -> np.ndarray:
    """What one unit sold adds to the objective, `(N, P)`."""
    if objective == "margin":
        return prices - costs[:, None]
    return prices if objective == "revenue" else np.ones_like(prices)


def cautious_gain(value: PlannedValue, current: np.ndarray, caution: float) -> np.ndarray:
    """Gain over keeping the price, less `caution` standard deviations of that gain over the members: `(N, P)`.

    Args:
        value (`PlannedValue`): Of the candidates.
        current (`(N,)`, int64): Candidate that keeps the price.
        caution (`float`): 0 takes the mean.
    """
    rows = np.arange(len(current))
    kept, kept_members = value.mean[rows, current], value.members[rows, current]
    spread = (value.members - kept_members[:, None]).std(-1)
    return value.mean - kept[:, None] - caution * spread


def unit_scores(scores: np.ndarray, revenue: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Scores of each item's decision unit `(N, P)`: a member counts by its revenue, so that gains add up.

    Args:
        scores (`(N, P)`): Of the items, as shares of their revenue.
        revenue (`(N,)`): At the items' own prices, currency, positive.
        units (`(N,)`, int64): Decision unit of each item.
    """
    share = revenue / sum_by_group(revenue, units)
    return sum_by_group(share[:, None] * scores, units)


def dialled_scores(log_probs: np.ndarray, advantages: np.ndarray, aggressiveness: float, caution: float) -> np.ndarray:
    """Log weights `pi exp(aggressiveness x lower bound of the advantage)`, `(N, P)`: the dial, which needs no training.

    Args:
        log_probs (`(N, P)`): Of the policy.
        advantages (`(N, P, M)`): By response member, reference revenues per period.
        aggressiveness (`float`): Log-odds of one reference revenue per period; 0 is the policy alone, infinity the
            advantage alone.
        caution (`float`): The lower bound is the mean less this many standard deviations over members.
    """
    lower = advantages.mean(-1) - caution * advantages.std(-1)
    return lower if np.isinf(aggressiveness) else log_probs + aggressiveness * lower


def best_candidate(
    scores: np.ndarray, allowed: np.ndarray, prices: np.ndarray, current_price: np.ndarray
) -> np.ndarray:
    """Highest allowed score; near ties go to the candidate nearest to the current price. `(N, P)` -> `(N,)`, int64.

    Args:
        scores (`(N, P)`): In units in which `TIE` is negligible.
        allowed (`(N, P)`, bool): At least one per row.
        prices (`(N, P)`): Currency.
        current_price (`(N,)`): Currency.
    """
    masked = np.where(allowed, scores, -np.inf)
    near = masked >= masked.max(1, keepdims=True) - TIE
    distance = np.abs(np.log(prices / current_price[:, None]))
    return np.where(near, distance, np.inf).argmin(1)


def draw_candidate(
    scores: np.ndarray, allowed: np.ndarray, final_prices: np.ndarray, uniforms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws from `softmax(scores)` over the allowed prices.

    Candidates that end at one price count once: a limit where many rungs meet would draw the price to itself.

    Args:
        scores (`(N, P)`): Log weights.
        allowed (`(N, P)`, bool): At least one per row.
        final_prices (`(N, P)`): What each candidate becomes after the guardrails.
        uniforms (`(N,)`): One number in [0, 1) per row.

    Returns:
        Candidate `(N,)`, and the probability of its final price.
    """
    same = (final_prices[:, :, None] == final_prices[:, None, :]) & allowed[:, None, :]
    speaks = allowed & (same.argmax(-1) == np.arange(scores.shape[1]))
    probabilities = np.exp(log_softmax(np.where(speaks, scores, -np.inf), axis=1))
    cumulative = probabilities.cumsum(1)
    chosen = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(1)
    # Rounding may leave the draw at the very end, where no allowed candidate needs to stand.
    chosen = np.minimum(chosen, scores.shape[1] - 1 - speaks[:, ::-1].argmax(1))
    return chosen, probabilities[np.arange(len(chosen)), chosen]


def step_draws(quantile_values: np.ndarray, levels: np.ndarray, correlation: float) -> Iterator[np.ndarray]:
    """Equally likely draws of demand, step after step, joined by a Gaussian copula with one correlation of all steps.

    Args:
        quantile_values (`(N, H, Q)`): Quantiles of each step.
        levels (`(Q,)`): Their probabilities.
        correlation (`float`): In [0, 1]; 1 = comonotone steps, the widest total.

    Yields:
        `(N, COPULA_DRAWS)` for each of the H steps: the same draw in the same column.

    References:
        Sklar 1959; one-factor Gaussian copula as in Li 2000.
    """
    steps = quantile_values.shape[1]
    random = np.random.Generator(np.random.Philox(COPULA_SEED))
    # Antithetic normals: the draws' median is exact. What all steps share is spread evenly: so is a total that nothing
    # else moves.
    common = norm.ppf((np.arange(COPULA_DRAWS // 2) + 0.5) / COPULA_DRAWS)[:, None]
    own = random.standard_normal((COPULA_DRAWS // 2, steps))
    normals = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    uniforms = norm.cdf(np.concatenate([normals, -normals]))
    place = np.clip(np.interp(uniforms, levels, np.arange(len(levels))), 0, len(levels) - 1)
    low = np.minimum(place.astype(int), len(levels) - 2)
    share = place - low
    for step in range(steps):
        at = quantile_values[:, step]
        yield at[:, low[:, step]] * (1 - share[:, step]) + at[:, low[:, step] + 1] * share[:, step]


def total_quantile(
    quantile_values: np.ndarray, levels: np.ndarray, level: np.ndarray, correlation: float
) -> np.ndarray:
    """Quantile of the sum over steps, from `step_draws`.

    Args:
        quantile_values (`(N, H, Q)`): Quantiles of each step.
        levels (`(Q,)`): Their probabilities.
        level (`(N,)`): Wanted probability of each item.
        correlation (`float`): In [0, 1]; 1 = comonotone steps, the widest total.

    Returns:
        `(N,)`.
    """
    totals = np.zeros((len(quantile_values), COPULA_DRAWS))
    for draws in step_draws(quantile_values, levels, correlation):
        totals += draws
    place = level * (COPULA_DRAWS - 1)
    low = np.floor(place).astype(int)
    ordered, rows = np.sort(totals, axis=1), np.arange(len(totals))
    high = np.minimum(low + 1, COPULA_DRAWS - 1)
    return ordered[rows, low] * (1 - (place - low)) + ordered[rows, high] * (place - low)


def sum_by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum over the rows of each group, handed back to every row: `(N, ...)` -> `(N, ...)`."""
    totals = np.zeros((groups.max() + 1, *values.shape[1:]))
    np.add.at(totals, groups, values)
    return totals[groups]
