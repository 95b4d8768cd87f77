"""Bounds for hidden knowledge of the level of demand hold where a manager has it, and are narrower than the general."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from pricing_fm.evaluation.off_policy.demand_model import DemandDesign, DemandLog, FittedDemand, fit_demand
from pricing_fm.evaluation.off_policy.level_sensitivity import (
    ActionTable,
    bound_level_bias,
    bound_log_correction,
    bound_structured_by_level,
)
from pricing_fm.evaluation.off_policy.sensitivity import bound_structured, compute_weight_bounds
from pricing_fm.evaluation.off_policy.shop import LadderPolicy, Shop
from pricing_fm.evaluation.off_policy.stocks import UnlimitedStock
from pricing_fm.evaluation.off_policy.structured import compute_decision_weights, estimate_log_correction

LADDER = np.array([0.8, 0.9, 1.0, 1.1])
BEHAVIOR = np.array([0.2, 0.3, 0.3, 0.2])
CHEAP, SPREAD = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.4, 0.3, 0.2, 0.1])
VARIANCE, ELASTICITY, LEVEL = 0.3, -2.0, 12.0


def simulate_log(odds: float, seed: int = 0, units: int = 300, weeks: int = 20) -> tuple[DemandLog, np.ndarray]:
    """A manager who sees the level of demand cuts to the lowest price when it is high, as far as the odds allow."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(1.0 / VARIANCE, VARIANCE, size=(units, weeks))
    chance = BEHAVIOR[0]
    high, low = chance * odds / (1 - chance + chance * odds), chance / (chance + odds * (1 - chance))
    share = (chance - low) / (high - low) if odds > 1.0 else 0.5
    cuts = np.where(level >= np.quantile(level, 1.0 - share), high, low)
    shares = np.stack([cuts, *((1.0 - cuts) * other / (1.0 - chance) for other in BEHAVIOR[1:])], axis=-1)
    rungs = (rng.random((units, weeks, 1)) >= np.cumsum(shares, axis=2)[..., :-1]).sum(axis=2)
    units_sold = rng.poisson(LEVEL * level * LADDER[rungs] ** ELASTICITY).astype(float)
    log = DemandLog(
        units_sold, np.full((units, weeks), np.inf), LADDER[rungs], np.ones((units, weeks)), np.zeros((units, weeks)),
        np.arange(units), np.arange(weeks), np.zeros(units), np.zeros(units), 0.0,
    )  # fmt: skip
    return log, rungs


def fit(log: DemandLog) -> FittedDemand:
    shape = log.units.shape
    return fit_demand(log, DemandDesign(np.ones((*shape, 1)), has_reference_price=False))


def tabulate(log: DemandLog, target: np.ndarray, demand: FittedDemand) -> ActionTable:
    rows = log.units.size
    mean = np.exp(demand.fit.coefficients[0]) * LADDER ** demand.fit.coefficients[1]
    return ActionTable(*(np.tile(column, (rows, 1)) for column in (target, BEHAVIOR, mean)))


def true_log_demand(target: np.ndarray) -> float:
    return float(np.log(target @ (LEVEL * LADDER**ELASTICITY)))


def bounds_of_log_demand(odds: float, target: np.ndarray, asked: float, seed: int = 0) -> tuple[float, float]:
    """Range of log mean demand under a policy, from a log of a manager with hidden knowledge."""
    log, rungs = simulate_log(odds, seed)
    demand = fit(log)
    everywhere = np.ones(log.units.shape, dtype=bool)
    weights = compute_decision_weights(target[rungs], BEHAVIOR[rungs], everywhere)
    actions = tabulate(log, target, demand)
    moves = bound_log_correction(actions, demand.overdispersion, asked)
    seen = np.log(float(target @ actions.demand[0])) + estimate_log_correction(demand, weights.ratios)
    return seen + moves.lower, seen + moves.upper


@pytest.mark.parametrize("odds", [1.5, 2.0])
def test_the_range_ends_where_a_manager_with_that_knowledge_puts_the_truth(odds: float) -> None:
    truth = true_log_demand(CHEAP)
    lower, upper = bounds_of_log_demand(odds, CHEAP, odds)
    assert lower == pytest.approx(truth, abs=0.03)
    assert upper > truth + 0.1
    assert bounds_of_log_demand(odds, CHEAP, 1.2)[0] > truth + 0.03


def test_the_truth_stays_inside_whatever_the_seed() -> None:
    for seed in range(8):
        lower, upper = bounds_of_log_demand(1.5, SPREAD, 1.5, seed)
        assert lower - 0.02 <= true_log_demand(SPREAD) <= upper  # 0.01 is the sampling error


def test_the_range_of_a_structured_value_is_narrower_than_the_general_one_and_inside_it() -> None:
    log, rungs = simulate_log(1.0, units=60, weeks=10)
    demand, shape = fit(log), log.units.shape
    shop = Shop(
        np.ones(shape), np.full(shape, 0.5), UnlimitedStock(shape[0]), np.zeros(shape[0]), np.zeros(shape[0]), 0.0
    )
    policy = LadderPolicy(LADDER, np.broadcast_to(SPREAD, (*shape, len(LADDER))))
    everywhere = np.ones(shape, dtype=bool)
    weights = compute_decision_weights(SPREAD[rungs], BEHAVIOR[rungs], everywhere)
    general = bound_structured(
        demand, shop, policy, compute_weight_bounds(SPREAD[rungs], BEHAVIOR[rungs], 1.5), draws=4
    ).values
    actions = tabulate(log, SPREAD, demand)
    level = bound_structured_by_level(demand, shop, policy, weights, actions, 1.5, draws=4).values
    assert general.lower < level.lower < level.upper < general.upper
    assert level.upper - level.lower < 0.55 * (general.upper - general.lower)
    point = bound_structured_by_level(demand, shop, policy, weights, actions, 1.0, draws=4)
    assert point.values.lower == point.values.upper
    assert point.log_corrections.lower == pytest.approx(estimate_log_correction(demand, weights.ratios))


def test_biases_average_to_nothing_so_that_copying_the_manager_is_hardly_biased() -> None:
    even = ActionTable(BEHAVIOR[None], BEHAVIOR[None], np.ones((1, 4)))
    found = bound_log_correction(even, VARIANCE, 1.5)
    assert found.lower == pytest.approx(0.0, abs=0.01)
    assert found.upper == pytest.approx(0.0, abs=0.03)  # of the second order
    alone = bound_log_correction(replace(even, target=CHEAP[None]), VARIANCE, 1.5)
    ends = bound_level_bias(BEHAVIOR[:1], VARIANCE, 1.5)
    assert alone.lower == pytest.approx(-np.log1p(float(ends.upper[0])), abs=1e-3)
    assert alone.upper == pytest.approx(-np.log1p(float(ends.lower[0])), abs=1e-9)


def test_no_knowledge_of_any_level_reaches_beyond_the_range() -> None:
    """Against a linear program over a fine grid of levels: the greedy range holds its answer and is hardly wider."""
    rng = np.random.default_rng(1)
    steps = 24
    level = np.sort(rng.gamma(1.0 / VARIANCE, VARIANCE, size=24_000)).reshape(steps, -1).mean(axis=1)
    level = level / level.mean()
    for _ in range(3):
        behavior, target = 0.03 + 0.88 * rng.dirichlet(np.full(4, 2.0)), rng.dirichlet(np.full(4, 0.7))
        odds = behavior / (1.0 - behavior)
        low, high = (odds * factor / (1.0 + odds * factor) for factor in (1.0 / 1.5, 1.5))
        gains = ((target / behavior)[:, None] * (level - 1.0) / steps).ravel()
        means = np.kron(np.eye(4), np.full(steps, 1.0 / steps))
        sums = np.tile(np.eye(steps), 4)
        solution = linprog(
            -gains, A_eq=np.vstack([means, sums]), b_eq=np.concatenate([behavior, np.ones(steps)]),
            bounds=list(zip(np.repeat(low, steps), np.repeat(high, steps), strict=True)),
        )  # fmt: skip
        biases = solution.x.reshape(4, steps) @ (level - 1.0) / steps / behavior
        assert float(behavior @ biases) == pytest.approx(0.0, abs=1e-9)
        worst = float(np.log((target / (1.0 + biases)).sum()))
        found = bound_log_correction(ActionTable(target[None], behavior[None], np.ones((1, 4))), VARIANCE, 1.5)
        assert found.lower <= worst + 2e-3
        assert found.lower == pytest.approx(worst, abs=0.02)


def test_pure_luck_hides_nothing() -> None:
    table = ActionTable(CHEAP[None], BEHAVIOR[None], np.ones((1, 4)))
    assert bound_log_correction(table, 0.0, 2.0) == (0.0, 0.0)
    assert bound_log_correction(table, VARIANCE, 1.0) == (0.0, 0.0)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        ActionTable(CHEAP[None], BEHAVIOR[None] / 2.0, np.ones((1, 4)))
    with pytest.raises(ValueError, match="greater than 0"):
        ActionTable(BEHAVIOR[None], CHEAP[None], np.ones((1, 4)))
    with pytest.raises(ValueError, match="expected one"):
        ActionTable(BEHAVIOR[None], BEHAVIOR[None], np.ones((1, 3)))
    with pytest.raises(ValueError, match="sensitivity is 0.5"):
        bound_level_bias(BEHAVIOR, VARIANCE, 0.5)
