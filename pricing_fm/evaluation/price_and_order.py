"""Price and order chosen together, one after the other, or the order alone: what they earn in simulated categories.

All that decides sees the log, what is on hand, and the model's demand. What a decision earns is told by draws of the
market's true demand, the same draws for every decision, at the unit costs of the log; the stock that the market itself
keeps plays no part in what follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.market import MarketArguments, simulate_evaluation_market
from pricing_fm.markets import draw_demand
from pricing_fm.markets.joint_program import JointProgram
from pricing_fm.metrics.bootstrap import Interval, stratified_bootstrap
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.options import OWN
from pricing_fm.policy.recommend import CAUTION
from pricing_fm.policy.replenishment import (
    CycleDemand,
    StockArguments,
    UnitCosts,
    best_quantity,
    cycle_demand,
    cycle_outcome,
    plan_price_and_order,
)

WAYS = ("joint", "separate", "kept")


@dataclass(frozen=True)
class StockedCategories:
    """Simulated categories at the moment of decision.

    Args:
        policy (`PricingPolicy`), panel (`Panel`): Who plans, and the log that it sees.
        weekly_sales (`(N,)`): Mean units of the visible weeks, items as in the policy's price options.
        categories (`(N,)`, object): Category of each.
        draws (`(N, P, rollouts, periods)`): True demand at every price.
    """

    policy: PricingPolicy
    panel: Panel
    weekly_sales: np.ndarray
    categories: np.ndarray
    draws: np.ndarray

    def stocks(self, cover: tuple[float, float], seed: int) -> np.ndarray:
        """Units on hand `(N,)`, whole: weeks of mean sales, uniform between two numbers."""
        return np.round(self.weekly_sales * np.random.default_rng(seed).uniform(*cover, size=len(self.weekly_sales)))


def stock_categories(
    policy: PricingPolicy, market: MarketArguments, periods: int, num_rollouts: int
) -> StockedCategories:
    """Simulates categories, and asks model and market for demand at every price.

    Args:
        policy (`PricingPolicy`): Whose demand curves are planned on.
        market (`MarketArguments`): Categories, weeks, seed.
        periods (`int`): Longest cycle that will be decided.
        num_rollouts (`int`): Draws of true demand.

    Returns:
        `StockedCategories`.
    """
    log, panel = simulate_evaluation_market(market)
    options = policy.price_options(panel, prediction_length=periods)
    ids = list(options.situation.item_ids)
    rows = pd.Index(log.items[names.ITEM_ID]).get_indexer(ids)
    sold = panel.frame.groupby(names.ITEM_ID)[names.UNITS].mean().reindex(ids).to_numpy()
    prices, draws = np.ravel(log.state.list_price).astype(np.float64), []
    for column in range(options.prices.shape[1]):
        prices[rows] = options.prices[:, column]
        draws.append(draw_demand(log, prices, periods, num_rollouts)[rows].astype(np.float32))
    categories = log.items[names.CATEGORY].to_numpy(dtype=object)[rows]
    return StockedCategories(policy, panel, sold, categories, np.stack(draws, axis=1))


def decide_and_earn(
    found: StockedCategories, available: np.ndarray, stock: StockArguments, caution: float = CAUTION
) -> pd.DataFrame:
    """Decides every item's price and order in each way, and says what they truly earn.

    Args:
        found (`StockedCategories`): Categories with at least `stock.periods` drawn periods.
        available (`(N,)`): Units on hand.
        stock (`StockArguments`): Times and costs.
        caution (`float`): Of the price choice.

    Returns:
        `pd.DataFrame`: One row per item: `item_id, category`; `joint, separate, kept`: true expected profit of the
        cycle, currency; `*_believed`; `oracle`: price and order chosen on the true draws themselves (their in-sample
        best, so a little too good); `oracle_separate`: on true demand, price before order.
    """
    options = found.policy.price_options(found.panel, prediction_length=stock.periods)
    plan = plan_price_and_order(options, available, stock, caution)
    rows, truth = np.arange(len(options)), _true_cycle(found.draws, stock)
    costs = stock.unit_costs(options.prices, options.costs)
    held = np.broadcast_to(available[:, None], options.prices.shape)
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


def measure_calibration(
    found: StockedCategories, stock: StockArguments, levels: tuple[float, ...]
) -> dict[float, float]:
    """Share of true cycles at the current prices whose demand stays at or below the model's quantile, by its level."""
    options = found.policy.price_options(found.panel, prediction_length=stock.periods)
    own = options.prices.shape[1] + OWN
    demand = cycle_demand(options, np.arange(len(options)), stock)
    believed, truth = (demand.lead + demand.review)[:, own], found.draws[:, own, :, : stock.periods].sum(-1)
    return {level: float((truth <= np.quantile(believed, level, axis=1)[:, None]).mean()) for level in levels}


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


def follow_cycle_rule(program: JointProgram, leftover_value: float, rungs: np.ndarray | None = None) -> np.ndarray:
    """Price and order of the one-cycle rule in every state of a program whose demand is known.

    Args:
        program (`JointProgram`): The item.
        leftover_value (`float`): Of a unit left at the end of a cycle, currency, at most the cost.
        rungs (`(n,)`, int, *optional*): Prices among which it chooses; by default all.

    Returns:
        Rung and order, int, `(most + 1, 2)`.
    """
    among = np.arange(len(program.prices)) if rungs is None else np.asarray(rungs)
    prices, laws = program.prices[among], program.demand[among]
    counts = np.arange(laws.shape[1], dtype=np.float64)
    if program.lead_time == 0:
        demand = CycleDemand(np.zeros_like(laws), np.broadcast_to(counts, laws.shape), laws)
    else:
        first, second = (np.broadcast_to(grid.ravel(), (len(among), grid.size)) for grid in np.meshgrid(counts, counts))
        demand = CycleDemand(first, second, (laws[:, :, None] * laws[:, None]).reshape(len(among), -1))
    like = np.ones_like(prices)
    costs = UnitCosts(prices, program.cost * like, leftover_value * like, program.lost_sale * like)
    choices = []
    for stock in range(program.most + 1):
        order = np.minimum(best_quantity(demand, costs, stock * like), program.most - stock)
        best = int(cycle_outcome(demand, costs, stock * like, order).profit.argmax())
        choices.append((int(among[best]), int(order[best])))
    return np.array(choices)
