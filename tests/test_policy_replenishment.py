"""Orders and prices against the known answers of newsvendor, base stock and price-setting newsvendor."""

import numpy as np
import pytest
from scipy import stats

from pricing_fm.markets import oracles
from pricing_fm.policy.replenishment import (
    CycleDemand,
    StockArguments,
    UnitCosts,
    best_quantity,
    cycle_outcome,
)

NONE = np.zeros(1)


def counts_of(law, most: int = 400, lead_law=None) -> CycleDemand:
    """All counts of a law with their probabilities; with another one before the order arrives, all pairs of both."""
    counts, chances = np.arange(most, dtype=float), law.pmf(np.arange(most))
    if lead_law is None:
        return CycleDemand(np.zeros((1, most)), counts[None], chances[None])
    before = lead_law.pmf(np.arange(most))
    lead, review = (grid.ravel()[None] for grid in np.meshgrid(counts, counts, indexing="ij"))
    return CycleDemand(lead, review, np.outer(before, chances).ravel()[None])


def newsvendor_costs(price: float, cost: float, salvage: float, shortage: float = 0.0) -> UnitCosts:
    return UnitCosts(*(np.array([value]) for value in (price, cost, salvage, shortage)))


@pytest.mark.parametrize(
    "law",
    [stats.poisson(0.7), stats.poisson(50), stats.nbinom(3, 0.1), stats.nbinom(0.5, 0.02)],
    ids=["rare", "poisson", "overdispersed", "heavy"],
)
@pytest.mark.parametrize("price", [4.5, 10.0, 39.0])
def test_the_order_is_the_critical_fractile_of_a_count(law, price: float) -> None:
    demand, costs = counts_of(law, 1500), newsvendor_costs(price, 4.0, 1.0)
    assert costs.critical_ratio == pytest.approx((price - 4) / (price - 1))
    quantity = best_quantity(demand, costs, NONE)
    assert quantity == law.ppf((price - 4) / (price - 1))
    # No other order earns more.
    others = np.arange(0.0, 900.0)
    profits = [cycle_outcome(demand, costs, NONE, np.array([other])).profit[0] for other in others]
    assert others[int(np.argmax(profits))] == quantity[0]


def test_orders_and_profits_are_the_oracles() -> None:
    known = {"price": 10, "cost": 4, "salvage": 1}
    answer = oracles.newsvendor(**known, demand={"kind": "poisson", "mean": 50})
    demand, costs = counts_of(stats.poisson(50)), newsvendor_costs(**known)
    assert best_quantity(demand, costs, NONE)[0] == answer["quantity"] == 53.0
    assert cycle_outcome(demand, costs, NONE, np.array([53.0])).profit[0] == pytest.approx(answer["profit"], rel=1e-9)

    answer = oracles.newsvendor(**known, demand={"kind": "normal", "mean": 100, "std": 20})
    draws = stats.norm(100, 20).ppf((np.arange(20_001) + 0.5) / 20_001)[None]
    continuous = CycleDemand(np.zeros_like(draws), draws)
    quantity = best_quantity(continuous, costs, NONE, pack_size=0)
    assert quantity[0] == pytest.approx(answer["quantity"], abs=5e-3)
    profit = cycle_outcome(continuous, costs, NONE, quantity).profit[0]
    assert profit == pytest.approx(answer["profit"], rel=1e-4)


def test_a_shortage_counts_beside_its_margin() -> None:
    costs = newsvendor_costs(10.0, 4.0, 1.0, shortage=9.0)
    assert costs.critical_ratio == pytest.approx(15 / 18)
    assert best_quantity(counts_of(stats.poisson(50)), costs, NONE)[0] == stats.poisson(50).ppf(15 / 18)


@pytest.mark.parametrize("lead_time", [0, 2])
def test_with_backlog_one_orders_up_to_the_base_stock(lead_time: int) -> None:
    """The critical fractile of the demand of lead time and review period, whatever is on hand."""
    level = oracles.base_stock(mean_demand=10, lead_time=lead_time, backorder_cost=9, holding_cost=1)["level"]
    law, before = stats.poisson(10), stats.poisson(10 * lead_time)
    demand = counts_of(law, 90, before) if lead_time else counts_of(law, 90)
    costs = UnitCosts(*(np.array([value]) for value in (20.0, 5.0, 4.0, 9.0)), backlog=True)
    for stock in (0.0, 4.0, level, level + 5):
        order = best_quantity(demand, costs, np.array([stock]))
        assert order[0] == max(level - stock, 0.0)
    # Stock for which nothing has to be paid any more: the margin of all demand, less the cost of the base stock.
    at_level = cycle_outcome(demand, costs, np.array([level]), np.zeros(1))
    cost = oracles.base_stock(mean_demand=10, lead_time=lead_time, backorder_cost=9, holding_cost=1)["cost"]
    assert at_level.profit[0] - 5.0 * level == pytest.approx(15.0 * 10 * (lead_time + 1) - cost, rel=1e-9)


def test_lost_sales_need_no_more_than_backlog_once_the_lead_time_takes_part_of_the_stock() -> None:
    """What runs out in the lead time is gone, and nobody waits for it: the order need not make up for it."""
    law, before = stats.poisson(10), stats.poisson(20)
    demand = counts_of(law, 80, before)
    waits = UnitCosts(*(np.array([value]) for value in (20.0, 5.0, 4.0, 15.0)), backlog=True)
    leaves = UnitCosts(*(np.array([value]) for value in (20.0, 5.0, 4.0, 0.0)))
    assert waits.critical_ratio == leaves.critical_ratio  # 15 a unit short, 1 a unit left
    for stock in (0.0, 15.0, 25.0):
        lost, late = (best_quantity(demand, costs, np.array([stock]))[0] for costs in (leaves, waits))
        assert lost < late
    # Nothing in stock: all of the lead time's demand is lost, and the order is the newsvendor's.
    assert best_quantity(demand, leaves, NONE)[0] == law.ppf(15 / 16)
    # So much that it cannot run out: both count the same position.
    full = [best_quantity(demand, costs, np.array([79.0]))[0] for costs in (leaves, waits)]
    assert full == [0.0, 0.0]


def test_packs_are_ordered_whole_and_the_better_one_is_taken() -> None:
    demand, costs = counts_of(stats.poisson(50)), newsvendor_costs(10.0, 4.0, 1.0)
    for pack in (6, 10, 25, 48):
        chosen = best_quantity(demand, costs, NONE, pack)[0]
        profits = {
            order: cycle_outcome(demand, costs, NONE, np.array([order])).profit[0] for order in range(0, 200, pack)
        }
        assert chosen == max(profits, key=profits.__getitem__)


def test_nothing_is_ordered_where_a_unit_loses_money() -> None:
    assert best_quantity(counts_of(stats.poisson(50)), newsvendor_costs(3.0, 4.0, 1.0), NONE)[0] == 0.0


# -- the price-setting newsvendor -------------------------------------------------------------------------------------

LADDER = np.round(np.arange(4.0, 12.0, 0.01), 2)
COST = 4.0


def best_price(draws: np.ndarray, shortage: float = 0.0, salvage: float = 1.0) -> tuple[float, float]:
    """Price of the ladder with its best order, for draws `(P, S)`."""
    demand = CycleDemand(np.zeros_like(draws), draws)
    costs = UnitCosts(LADDER, np.full_like(LADDER, COST), np.full_like(LADDER, salvage), np.full_like(LADDER, shortage))
    stock = np.zeros_like(LADDER)
    quantity = best_quantity(demand, costs, stock, pack_size=0)
    place = int(cycle_outcome(demand, costs, stock, quantity).profit.argmax())
    return float(LADDER[place]), float(quantity[place])


def linear(price: np.ndarray) -> np.ndarray:
    return 120.0 - 10.0 * price


def test_without_uncertainty_the_price_is_the_riskless_one_and_the_order_its_demand() -> None:
    price, quantity = best_price(linear(LADDER)[:, None] * np.ones((1, 8)))
    known = oracles.monopoly_price(demand={"kind": "linear", "intercept": 120, "slope": 10}, cost=COST)
    assert price == pytest.approx(known["price"]) == 8.0
    assert quantity == pytest.approx(40.0)


@pytest.mark.parametrize("spread", [5.0, 10.0, 15.0])
def test_additive_uncertainty_lowers_the_price(spread: float) -> None:
    """Mills 1959; Petruzzi and Dada 1999, Operations Research 47(2), theorem 1."""
    noise = spread * (2 * (np.arange(400) + 0.5) / 400 - 1)
    price, quantity = best_price(linear(LADDER)[:, None] + noise)
    assert price < 8.0 - 0.02
    # Their closed form for this demand: the riskless price less the expected shortage over twice the slope.
    short = np.maximum(linear(np.array(price)) + noise - quantity, 0).mean()
    assert price == pytest.approx(8.0 - short / (2 * 10.0), abs=0.011)


@pytest.mark.parametrize("spread", [0.2, 0.5, 0.8])
def test_multiplicative_uncertainty_raises_the_price(spread: float) -> None:
    """Karlin and Carr 1962; Petruzzi and Dada 1999, theorem 2."""
    noise = 1 + spread * (2 * (np.arange(400) + 0.5) / 400 - 1)
    price, _ = best_price(linear(LADDER)[:, None] * noise)
    assert price > 8.0 + 0.02


def test_scarce_stock_raises_the_price_and_too_much_lowers_it() -> None:
    """With a lead time the order cannot help; what is left is worth less than it cost."""
    noise = 1 + 0.3 * (2 * (np.arange(200) + 0.5) / 200 - 1)
    lead = linear(LADDER)[:, None] * noise
    demand = CycleDemand(lead, 0 * lead)
    costs = UnitCosts(LADDER, np.full_like(LADDER, COST), np.full_like(LADDER, 1.0), np.zeros_like(LADDER))
    found = []
    for stock in (10.0, 40.0, 80.0):
        held = np.full_like(LADDER, stock)
        quantity = best_quantity(demand, costs, held)
        assert (quantity == 0).all()
        found.append(float(LADDER[cycle_outcome(demand, costs, held, quantity).profit.argmax()]))
    assert found[0] > found[1] > found[2]
    assert found[2] == pytest.approx(6.5, abs=0.02)  # a unit sold costs its salvage value: (12 + 1) / 2


@pytest.mark.parametrize(
    "given",
    [{"lead_time": -1}, {"review_periods": 0}, {"holding_cost": -0.1}, {"salvage_value": 1.1}, {"pack_size": 0},
     {"backlog": True}],
)  # fmt: skip
def test_times_and_costs_that_make_no_sense_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        StockArguments(**given)


def test_a_unit_left_is_not_worth_more_than_it_costs() -> None:
    with pytest.raises(ValueError, match="leftover_value"):
        newsvendor_costs(10.0, 4.0, 4.5)
