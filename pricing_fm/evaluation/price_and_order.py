"""Price and order chosen together, one after the other, or the order alone: what they earn in simulated categories.

All that decides sees the log, what is on hand, and the model's demand. What a decision earns is told by draws of the
market's true demand, the same draws for every decision; stock in the market's log plays no part in what follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.market import MarketArguments, simulate_evaluation_market
from pricing_fm.markets import SimulatedLog, draw_demand
from pricing_fm.metrics.bootstrap import Interval, stratified_bootstrap
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.options import PriceOptions
from pricing_fm.policy.recommend import CAUTION
from pricing_fm.policy.replenishment import (
    CycleDemand,
    PriceAndOrder,
    StockArguments,
    best_quantity,
    cycle_outcome,
    plan_price_and_order,
)

WAYS = ("joint", "separate", "kept")


@dataclass(frozen=True)
class StockedCategories:
    """Simulated categories at the moment of decision.

    Args:
        log (`SimulatedLog`): Ends where the decision is made.
        options (`PriceOptions`): What may be charged, and the demand that the model expects.
        available (`(N,)`): Units on hand, items as in `options`.
        rows (`(N,)`, int64): Place of the items in the log.
        categories (`(N,)`, object): Category of each.
        draws (`(N, P, rollouts, periods)`): True demand at every price.
    """

    log: SimulatedLog
    options: PriceOptions
    available: np.ndarray
    rows: np.ndarray
    categories: np.ndarray
    draws: np.ndarray


def stock_categories(
    policy: PricingPolicy, market: MarketArguments, periods: int, cover: tuple[float, float], num_rollouts: int
) -> StockedCategories:
    """Simulates categories, gives every item a stock, and asks model and market for demand at every price.

    Args:
        policy (`PricingPolicy`): Whose demand curves are planned on.
        market (`MarketArguments`): Categories, weeks, seed.
        periods (`int`): Longest cycle that will be decided.
        cover (`tuple[float, float]`): Stock on hand in weeks of mean sales of the visible weeks, uniform between the two.
        num_rollouts (`int`): Draws of true demand.

    Returns:
        `StockedCategories`.
    """
    log, panel = simulate_evaluation_market(market)
    options = policy.price_options(panel, prediction_length=periods)
    ids = list(options.situation.item_ids)
    rows = pd.Index(log.items[names.ITEM_ID]).get_indexer(ids)
    sold = panel.frame.groupby(names.ITEM_ID)[names.UNITS].mean().reindex(ids).to_numpy()
    random = np.random.default_rng(market.market_seed)
    available = np.round(sold * random.uniform(*cover, size=len(ids)))
    prices, draws = np.ravel(log.state.list_price).astype(np.float64), []
    for column in range(options.prices.shape[1]):
        prices[rows] = options.prices[:, column]
        draws.append(draw_demand(log, prices, periods, num_rollouts)[rows].astype(np.float32))
    categories = log.items[names.CATEGORY].to_numpy(dtype=object)[rows]
    return StockedCategories(log, options, available, rows, categories, np.stack(draws, axis=1))


def decide_and_earn(found: StockedCategories, stock: StockArguments, caution: float = CAUTION) -> pd.DataFrame:
    """Decides every item's price and order in each way, and says what they truly earn.

    Args:
        found (`StockedCategories`): Categories with at least `stock.periods` drawn periods.
        stock (`StockArguments`): Times and costs.
        caution (`float`): Of the price choice.

    Returns:
        `pd.DataFrame`: One row per item: `item_id, category`; `joint, separate, kept`: true expected profit of the cycle,
        currency; `*_believed`; `oracle`: price and order chosen on the true draws themselves (their in-sample best, so a
        little too good); `oracle_separate`: on true demand, price before order.
    """
    periods = stock.periods
    demand = found.options.demand
    short = replace(
        demand,
        **{name: getattr(demand, name)[:, :, :periods] for name in ("quantile_values", "mean", "elasticity")},
        elasticity_std=demand.elasticity_std[:, :, :periods],
        member_factor=demand.member_factor[..., :periods],
    )
    options = replace(found.options, demand=short)
    plan = plan_price_and_order(options, found.available, stock, caution)
    rows, truth = np.arange(len(options)), _true_cycle(found.draws, stock)
    costs = stock.unit_costs(options.prices, options.costs)
    held = np.broadcast_to(found.available[:, None], options.prices.shape)
    table = {names.ITEM_ID: options.situation.item_ids, names.CATEGORY: found.categories}
    earned = cycle_outcome(truth, costs, held, plan.plan.quantity).profit
    for way in WAYS:
        column = getattr(plan, way)
        table[way] = earned[rows, column]
        table[f"{way}_believed"] = plan.plan.outcome.profit[rows, column]
    best = cycle_outcome(truth, costs, held, best_quantity(truth, costs, held, stock.pack_size)).profit
    mean = truth.mean(truth.lead + truth.review)
    riskless = (options.prices - options.costs[:, None]) * mean
    for name, score in (("oracle", best), ("oracle_separate", riskless)):
        allowed = np.where(options.allowed, score[:, : options.allowed.shape[1]], -np.inf)
        table[name] = best[rows, allowed.argmax(1)]
    return pd.DataFrame(table)


def _true_cycle(draws: np.ndarray, stock: StockArguments) -> CycleDemand:
    lead = draws[..., : stock.lead_time].sum(-1, dtype=np.float64)
    return CycleDemand(lead, draws[..., stock.lead_time : stock.periods].sum(-1, dtype=np.float64))


def compare_ways(table: pd.DataFrame, seed: int) -> Mapping[str, Interval]:
    """Gains of deciding together, paired by category, as shares of what the current prices earn there.

    Args:
        table (`pd.DataFrame`): From `decide_and_earn`.
        seed (`int`): Of the bootstrap.

    Returns:
        `Mapping[str, Interval]`: Mean over categories and 95 % interval of `joint - separate`, `joint - kept`,
        `separate - kept`, `oracle - joint`, `oracle - oracle_separate`.
    """
    totals = table.groupby(names.CATEGORY).sum(numeric_only=True)
    pairs = [("joint", "separate"), ("joint", "kept"), ("separate", "kept"), ("oracle", "joint")]
    found = {}
    for one, other in [*pairs, ("oracle", "oracle_separate")]:
        gains = ((totals[one] - totals[other]) / totals["kept"].abs()).to_numpy()
        found[f"{one} - {other}"] = stratified_bootstrap(
            gains, np.zeros(len(gains)), statistic=lambda values: float(values.mean()), seed=seed
        )
    return found
