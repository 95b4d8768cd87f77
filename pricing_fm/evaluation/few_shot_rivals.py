"""What else prices the held-out categories from the same weeks: rules, cloning, and those who know the market."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.elasticity_estimates import estimate_elasticities
from pricing_fm.evaluation.few_shot import score_prices
from pricing_fm.evaluation.few_shot_bias import log_bias
from pricing_fm.evaluation.few_shot_domains import read_books
from pricing_fm.evaluation.few_shot_markets import DecisionTruth, grid_prices
from pricing_fm.evaluation.few_shot_planning import PlannedCurves
from pricing_fm.evaluation.few_shot_supply import plan_with_supply
from pricing_fm.evaluation.pricing import PRICE_BOUNDS
from pricing_fm.evaluation.pricing_baselines import (
    BoostedDemand,
    CostPlus,
    LastPrice,
    LogLogElasticity,
    PriceRule,
    read_price_history,
)
from pricing_fm.panel import Panel, load_panel

RULES: tuple[PriceRule, ...] = (
    LastPrice(),
    LogLogElasticity(),
    LogLogElasticity(week_effects=True, name="log_log_week_effects"),
    CostPlus(),
    BoostedDemand(),
)


def score_rivals(
    truth: DecisionTruth,
    weeks: int,
    periods: int | None = None,
    known: Mapping[str, np.ndarray] | None = None,
    elasticities: np.ndarray | None = None,
) -> pd.DataFrame:
    """Rules on the last `weeks` weeks, in the table of `score_strategies`.

    With visible weeks: the last price, log-log elasticity with a price grid (with and without week effects), cost-plus
    with its best markup, boosted trees with a price grid, and the manager's most frequent price (cloning). At any k
    also what `find_known_prices` finds. Where units cost nothing there is no markup, and no cost-plus.

    Args:
        truth (`DecisionTruth`): Logs and what prices are worth after them.
        weeks (`int`): k.
        periods (`int`, *optional*): Periods that k weeks have; None = as many, as in shops.
        known (`Mapping[str, np.ndarray]`, *optional*): From `find_known_prices`; None = found here.
        elasticities (`np.ndarray`, shape `(items,)`, *optional*): True ones; None = biases are not measured.

    Returns:
        `pd.DataFrame`: See `few_shot.score_strategies`.
    """
    found = dict(find_known_prices(truth) if known is None else known)
    biases: dict[str, np.ndarray] = {}
    if weeks:
        panel = read_last_periods(truth, weeks if periods is None else periods)
        for rule in RULES:
            if isinstance(rule, CostPlus) and not (truth.costs > 0).all():
                continue  # a collection that is paid for: no markup on nothing
            proposed = rule.propose(panel).set_index(names.ITEM_ID)[names.PRICE]
            found[rule.name] = proposed.reindex(truth.item_ids).to_numpy()
            if isinstance(rule, LogLogElasticity) and elasticities is not None:
                slopes = estimate_elasticities(panel, rule.week_effects).set_index(names.ITEM_ID)["elasticity"]
                own = -slopes.reindex(truth.item_ids).to_numpy()
                biases[rule.name] = log_bias(own, elasticities, truth.categories)
        usual = panel.frame.groupby(names.ITEM_ID)[names.PRICE].agg(lambda prices: prices.mode().iloc[-1])
        found["cloning"] = usual.reindex(truth.item_ids).to_numpy()
    parts = [score_prices(truth, prices, name, weeks) for name, prices in found.items()]
    if elasticities is not None:
        parts = [part.assign(bias=biases.get(name, np.nan)) for name, part in zip(found, parts, strict=True)]
    return pd.concat(parts, ignore_index=True)


def log_log_with_supply(truth: DecisionTruth, periods: int) -> np.ndarray:
    """Prices `(items,)` on log-log demand by a seller who knows his supply, inside each item's logged prices.

    Items of categories whose prices never moved keep their last price.

    Args:
        truth (`DecisionTruth`): Logs.
        periods (`int`): Periods of them that are visible.
    """
    panel = read_last_periods(truth, periods)
    found = estimate_elasticities(panel).set_index(names.ITEM_ID).reindex(truth.item_ids)
    history = read_price_history(panel).set_index(names.ITEM_ID).reindex(truth.item_ids)
    prices, slopes = grid_prices(truth), found["elasticity"].to_numpy()[:, None]
    units = truth.decision_weeks * np.exp(found["log_level"].to_numpy()[:, None] + slopes * np.log(prices))
    units = np.where(np.isfinite(units), units, 1.0)
    planned = plan_with_supply(truth, PlannedCurves(prices, units[..., None], units))
    kept = np.clip(planned, history["lowest_price"], history["highest_price"])
    return np.where(np.isfinite(slopes[:, 0]), kept, history["last_price"])


def read_last_periods(truth: DecisionTruth, periods: int) -> Panel:
    """The last periods of all logs as one panel; nothing else of them is in it."""
    frames = []
    for log in truth.logs:
        frame = read_books(log).drop(columns=names.PRICE_IS_INTERVENTION)
        frames.append(frame[frame[names.TIMESTAMP] >= log.timestamps[-periods]])
    schema = {"promotion": "promotion", "frequency": truth.logs[0].settings.cadence}
    return load_panel(pd.concat(frames, ignore_index=True), schema=schema)


def myopic_prices(truth: DecisionTruth) -> np.ndarray:
    """Best price of the next period alone under the true demand and stock unlimited, `(items,)`.

    Where it has no closed form it is the best of the grid over one period, stock and all.
    """
    last = pd.concat([log.truth.groupby(names.ITEM_ID)["optimal_price"].last() for log in truth.logs])
    best = last.reindex(truth.item_ids).to_numpy()
    if not np.isfinite(best).all():
        found = replace(truth, decision_weeks=1)
        best = np.where(np.isfinite(best), best, found.search(found.values))
    low, high = PRICE_BOUNDS
    return np.clip(best, low * truth.list_prices, high * truth.list_prices)


def find_known_prices(truth: DecisionTruth) -> dict[str, np.ndarray]:
    """Prices `(items,)` for which no week is needed.

    The list price, and, told the true demand, the price that is best in the next period (myopic) and the best to hold.
    """
    return {"list_price": truth.list_prices, "myopic_oracle": myopic_prices(truth), "held_oracle": held_prices(truth)}


def tabulate_values(truth: DecisionTruth, known: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What a category is worth to whom, currency: `category, manager`, one column for each of `known`, and `oracle`.

    Dynamic headroom is oracle / myopic oracle - 1. Where the manager has almost all, shares leave the category out.
    """
    worth = {name: np.bincount(truth.categories, truth.values(own)) for name, own in known.items()}
    return pd.DataFrame({"category": truth.names, "manager": truth.manager, **worth, "oracle": truth.oracle})


def held_prices(truth: DecisionTruth) -> np.ndarray:
    """Price of the grid that earns most when it is held, under the true demand `(items,)`."""
    return truth.search(truth.values)
