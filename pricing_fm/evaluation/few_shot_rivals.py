"""What else prices the held-out categories from the same weeks: rules, cloning, and those who know the market."""

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.few_shot import score_prices
from pricing_fm.evaluation.few_shot_markets import DecisionTruth, grid_prices
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.evaluation.pricing import PRICE_BOUNDS
from pricing_fm.evaluation.pricing_baselines import BoostedDemand, CostPlus, LastPrice, LogLogElasticity, PriceRule
from pricing_fm.panel import Panel, load_panel

RULES: tuple[PriceRule, ...] = (
    LastPrice(),
    LogLogElasticity(),
    LogLogElasticity(week_effects=True, name="log_log_week_effects"),
    CostPlus(),
    BoostedDemand(),
)


def score_rivals(truth: DecisionTruth, weeks: int) -> pd.DataFrame:
    """Rules on the last `weeks` weeks, in the table of `score_strategies`.

    With visible weeks: the last price, log-log elasticity with a price grid (with and without week effects), cost-plus
    with its best markup, boosted trees with a price grid, and the manager's most frequent price (cloning). At any k:
    the list price, and, told the true demand, the price that is best in the next week (myopic) and the best to hold.

    Args:
        truth (`DecisionTruth`): Logs and what prices are worth after them.
        weeks (`int`): k.

    Returns:
        `pd.DataFrame`: See `few_shot.score_strategies`.
    """
    found = {"list_price": truth.list_prices, "myopic_oracle": myopic_prices(truth), "held_oracle": held_prices(truth)}
    if weeks:
        panel = read_last_weeks(truth, weeks)
        for rule in RULES:
            proposed = rule.propose(panel).set_index(names.ITEM_ID)[names.PRICE]
            found[rule.name] = proposed.reindex(truth.item_ids).to_numpy()
        usual = panel.frame.groupby(names.ITEM_ID)[names.PRICE].agg(lambda prices: prices.mode().iloc[-1])
        found["cloning"] = usual.reindex(truth.item_ids).to_numpy()
    return pd.concat([score_prices(truth, prices, name, weeks) for name, prices in found.items()], ignore_index=True)


def read_last_weeks(truth: DecisionTruth, weeks: int) -> Panel:
    """The last weeks of all logs as one panel; nothing else of them is in it."""
    frames = []
    for log in truth.logs:
        frame = log.panel[[column for column in VISIBLE_COLUMNS if column in log.panel]]
        frames.append(frame[frame[names.TIMESTAMP] >= log.timestamps[-weeks]])
    schema = {"promotion": "promotion", "frequency": "W"}
    return load_panel(pd.concat(frames, ignore_index=True), schema=schema)


def myopic_prices(truth: DecisionTruth) -> np.ndarray:
    """Best price within a week under the true demand `(items,)`; where it has no closed form the best one to hold."""
    last = pd.concat([log.truth.groupby(names.ITEM_ID)["optimal_price"].last() for log in truth.logs])
    best = last.reindex(truth.item_ids).to_numpy()
    low, high = PRICE_BOUNDS
    return np.where(
        np.isfinite(best), np.clip(best, low * truth.list_prices, high * truth.list_prices), held_prices(truth)
    )


def held_prices(truth: DecisionTruth) -> np.ndarray:
    """Price of the grid that earns most when it is held, under the true demand `(items,)`."""
    prices = grid_prices(truth)
    values = np.stack([truth.values(column) for column in prices.T], axis=1)
    return prices[np.arange(len(prices)), values.argmax(axis=1)]
