"""Prices planned on demand curves by a seller who knows his own stock, capacity and payoff, and believes the curve.

What earns most per unit is not what earns most where units are few: seats that are left, slots that urgent patients
need. The market is imagined with the curve in place of its demand and without all that the seller does not know
(shocks, regimes, memories, rivals); its own supply does the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pricing_fm import names
from pricing_fm.evaluation.few_shot_markets import PRICE_GRID, DecisionTruth, per_item
from pricing_fm.evaluation.few_shot_planning import PlannedCurves
from pricing_fm.markets import SimulatedLog, compute_outcome
from pricing_fm.markets.context import Costs
from pricing_fm.markets.continuation import compute_policy_outcome
from pricing_fm.markets.core import Market, MarketState, get_unit_cost
from pricing_fm.markets.demand import Demand
from pricing_fm.markets.dynamic_program import DynamicProgram, solve_dynamic_program
from pricing_fm.markets.noise import build_noise
from pricing_fm.markets.prices import round_to_tick

LEAST_UNITS = 1e-6  # a period: the logarithm of a curve that ends stays finite
_SMALLEST_STEP = 1e-12  # currency


@dataclass(frozen=True)
class CurveDemand(Demand):
    """Demand read off a table: log units straight between its prices, flat beyond them.

    Attributes:
        prices: Prices of the table, increasing, currency, `(markets, products, segments, P)`.
        log_units: Log of the units a period, same shape.
    """

    prices: np.ndarray
    log_units: np.ndarray
    is_separable = True

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """See `Demand`; rivals are not known."""
        kept = np.clip(prices, self.prices[..., 0], self.prices[..., -1])
        place = (kept[..., None] >= self.prices[..., 1:-1]).sum(axis=-1, keepdims=True)
        low, high, below, above = (
            np.take_along_axis(table, place + side, axis=-1)[..., 0]
            for table in (self.prices, self.log_units)
            for side in (0, 1)
        )
        # Where coins are coarse, neighbours of the table are one price.
        share = (kept - low) / np.maximum(high - low, _SMALLEST_STEP)
        return np.asarray(np.exp(below + (above - below) * share))


def plan_with_supply(truth: DecisionTruth, curves: PlannedCurves) -> np.ndarray:
    """Constant prices of the grid with the highest expected reward on the curves, `(items,)`, currency.

    Args:
        truth (`DecisionTruth`): Its logs' supply and payoff are used, and the state of the supply; nothing of demand.
        curves (`PlannedCurves`): Of the same items.
    """
    logs = _imagine(truth, curves)
    return truth.search(
        lambda prices: per_item(
            logs, truth.item_ids, lambda log, own: compute_outcome(log, own, truth.decision_weeks).value, prices
        )
    )


def follow_program(truth: DecisionTruth, curves: PlannedCurves | None = None, num_rollouts: int = 64) -> np.ndarray:
    """What dynamic programs of imagined markets earn in the true ones, `(items,)`, currency.

    Every item is priced anew in every period, by the stock that is left.

    Args:
        truth (`DecisionTruth`): Markets whose items share nothing, and in which nothing but the stock links periods.
        curves (`PlannedCurves`, *optional*): Demand that the programs believe; None = the true one, whose program
            nobody can beat.
        num_rollouts (`int`): Repetitions.
    """
    believed = truth.logs if curves is None else tuple(_imagine(truth, curves))
    place = {log.settings.seed: log for log in believed}

    def earn(log: SimulatedLog, _: np.ndarray) -> np.ndarray:
        choose = _solve_items(place[log.settings.seed].parameters)
        return compute_policy_outcome(log, choose, truth.decision_weeks, num_rollouts).value

    return per_item(truth.logs, truth.item_ids, earn)


def _imagine(truth: DecisionTruth, curves: PlannedCurves) -> list[SimulatedLog]:
    place = {item: number for number, item in enumerate(truth.item_ids)}
    weekly = np.log(np.maximum(curves.middle / truth.decision_weeks, LEAST_UNITS))
    found = []
    for log in truth.logs:
        rows = [place[item] for item in log.items[names.ITEM_ID]]
        shape = log.parameters.shape
        market = replace(
            log.parameters,
            volume=np.ones(shape),
            demand=CurveDemand(curves.prices[rows].reshape(*shape, -1), weekly[rows].reshape(*shape, -1)),
            noise=build_noise("poisson", (shape[0], 1, 1)),
            costs=Costs(np.broadcast_to(get_unit_cost(log.parameters, log.state), shape).copy()),
            promotion_uplift=None, calendar=None, shock=None, regimes=None, memory=None, rivals=None,
        )  # fmt: skip
        state = log.state._replace(cost=market.costs.unit_cost, shock=None, regime=None, memory=None, rivals=None)
        found.append(replace(log, parameters=market, state=state))
    return found


def _solve_items(markets: Market) -> Callable[[MarketState], np.ndarray]:
    """Best prices of the grid for rollouts of all markets, the rows of a market side by side."""
    count, products, segments = markets.shape
    places = [(m, p, s) for m in range(count) for p in range(products) for s in range(segments)]
    programs: dict[tuple[int, int, int], DynamicProgram] = {}
    for item in places:
        one = markets.select_items(tuple(np.array([index]) for index in item))
        ladder = round_to_tick(one.list_price * np.asarray(PRICE_GRID).reshape(-1, 1, 1), one.price_tick)
        programs[item] = solve_dynamic_program(one, ladder)

    def choose(state: MarketState) -> np.ndarray:
        prices = np.empty(state.cost.shape)
        repeats = len(prices) // count
        for (m, p, s), program in programs.items():
            rows = slice(m * repeats, (m + 1) * repeats)
            own = state.select(np.arange(rows.start, rows.stop))
            cut = {
                name: values[:, p : p + 1, s : s + 1]
                for name in ("cost", "list_price", "supply")
                if (values := getattr(own, name)) is not None
            }
            prices[rows, p, s] = program.choose(own._replace(**cut, shock=None, memory=None, rivals=None))[:, 0, 0]
        return prices

    return choose
