"""What a policy or a planner would charge among all admissible rungs, at any dial and caution, from one reading.

`recommend` chooses among prices that the log has tried; here every rung inside the bounds that the oracle keeps is
open, so that what was learned shows, and what support allows is a choice of its own.
Shapes: N items, P candidates (every rung, and last the current price), M response members.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from pricing_fm import names
from pricing_fm.evaluation.pricing import PRICE_BOUNDS
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.engine import Engine, PathDemand
from pricing_fm.policy.planning import cautious_gain, dialled_scores, planned_value
from pricing_fm.policy.situation import read_situation, with_intervention, with_siblings
from pricing_fm.policy.support import item_support


@dataclass(frozen=True)
class LadderChoice:
    """Candidate prices of every item, and what is said of them.

    Args:
        prices (`(N, P)`): Currency.
        is_open (`(N, P)`, bool): True = inside the bounds around the list price; the current price always is.
        supported (`(N, P)`, bool): True = the item was sold at such prices in the visible weeks.
        behavior, policy (`(N, P)`): Log probability of the candidate's rung.
        advantages (`(N, P, M)`): Value of holding it over keeping the price, reference revenues per period.
        demand (`PathDemand`): Along paths that hold each price.
        costs (`(N,)`): Unit costs, currency.
    """

    prices: np.ndarray
    is_open: np.ndarray
    supported: np.ndarray
    behavior: np.ndarray
    policy: np.ndarray
    advantages: np.ndarray
    demand: PathDemand
    costs: np.ndarray


def read_choices(
    policy: PricingPolicy,
    panel: Panel,
    list_prices: np.ndarray,
    periods: int,
    future: pd.DataFrame | None = None,
    bounds: tuple[float, float] = PRICE_BOUNDS,
) -> LadderChoice:
    """Reads every item once.

    Args:
        policy (`PricingPolicy`): The base, or the base with an adapter per category.
        panel (`Panel`): What is visible.
        list_prices (`np.ndarray`, shape `(N,)`): Currency, items in the order of their sorted ids.
        periods (`int`): Periods that a price is held.
        future (`pd.DataFrame`, *optional*): As in `PricingPolicy.recommend`.
        bounds (`tuple[float, float]`): Lowest and highest admissible price as multiples of the list price.

    Returns:
        `LadderChoice`.
    """
    processor = policy.processor
    situation = read_situation(panel, processor.context_length, periods, future)
    situation = with_intervention(with_siblings(situation, processor), processor.trained_on_interventions)
    engine = Engine(policy.model, processor)
    rungs = processor.rung_prices(engine.reference_prices(situation))
    prices = np.concatenate([rungs, situation.current_price[:, None]], axis=1)
    is_open = (prices >= bounds[0] * list_prices[:, None]) & (prices <= bounds[1] * list_prices[:, None])
    is_open[:, -1] = True
    promoted = situation.planned_promotion[:, 0] > 0
    category = situation.windows.static_categories[:, names.STATIC_CATEGORIES.index(names.CATEGORY)]
    entries = [policy.adapters.get(value, policy.adapters.get(None)) for value in category]
    weights = [None if entry is None else entry.weights for entry in entries]
    rewards = RewardWeights() if entries[0] is None else entries[0].rewards
    discount = 0.98 if entries[0] is None else entries[0].discount
    scores = engine.scores(situation, prices, rewards, discount, situation.cost, 0, weights)
    demand = engine.demand(situation, np.repeat(prices[:, :, None], periods, axis=2), weights)
    return LadderChoice(
        prices=prices,
        is_open=is_open,
        supported=item_support(situation.windows, prices, promoted, processor.ladder_step / 2),
        behavior=scores.behavior,
        policy=scores.policy,
        advantages=scores.advantages / periods,
        demand=demand,
        costs=situation.cost,
    )


def policy_scores(choice: LadderChoice, dial: float, caution: float) -> np.ndarray:
    """Log weights `pi exp(dial x lower bound of the advantage)` of all candidates, `(N, P)`, minus infinity if closed.

    Args:
        choice (`LadderChoice`): From `read_choices`.
        dial (`float`): Log-odds of one reference revenue per period; infinite = the advantage alone.
        caution (`float`): Standard deviations over members that an advantage is lowered by.
    """
    scores = dialled_scores(choice.policy, choice.advantages, dial, caution)
    return np.where(choice.is_open, scores, -np.inf)


def planner_scores(choice: LadderChoice, caution: float) -> np.ndarray:
    """Gain in margin over keeping the price on the demand curve alone, `(N, P)`, currency, minus infinity if closed.

    Args:
        choice (`LadderChoice`): From `read_choices`.
        caution (`float`): Standard deviations over members that a gain is lowered by.
    """
    value = planned_value(choice.demand, choice.prices, choice.costs, "margin", 0)
    current = np.full(len(choice.prices), choice.prices.shape[1] - 1)
    return np.where(choice.is_open, cautious_gain(value, current, caution), -np.inf)


def best_prices(choice: LadderChoice, scores: np.ndarray) -> np.ndarray:
    """Price of the highest score, `(N,)`, currency."""
    return choice.prices[np.arange(len(scores)), scores.argmax(1)]


def draw_chances(choice: LadderChoice, scores: np.ndarray) -> np.ndarray:
    """Chance of every candidate if a price is drawn, `(N, P)`; the current price counts by its rung alone."""
    rungs = np.where(np.arange(scores.shape[1]) == scores.shape[1] - 1, -np.inf, scores)
    closed = ~np.isfinite(rungs).any(1)
    rungs[closed, -1] = 0.0
    return np.asarray(np.exp(log_softmax(rungs, axis=1)))


def keep_supported(choice: LadderChoice, scores: np.ndarray) -> np.ndarray:
    """The same scores with prices closed that the item was never sold at; the current one stays open."""
    supported = choice.supported.copy()
    supported[:, -1] = True
    return np.where(supported, scores, -np.inf)
