"""The share of the gap is 0 for the manager and 1 for the oracle, whoever proposes their prices."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import PanelError
from pricing_fm.evaluation.pricing import PRICE_BOUNDS, PricingEvaluation, evaluate_prices
from pricing_fm.markets import (
    LogSettings,
    ManagerSettings,
    RetailSettings,
    SimulatedLog,
    compute_manager_outcome,
    compute_oracle,
    compute_outcome,
    simulate_log,
)
from pricing_fm.results import ResultRow

PLAIN = RetailSettings(num_products=3, reference_share=0.0, stocked_share=0.0)


@pytest.fixture(scope="module")
def log() -> SimulatedLog:
    """Six categories whose value is exact: no stock limit, no memory of prices."""
    return simulate_log(PLAIN, ManagerSettings(), LogSettings(num_markets=6, num_periods=40, seed=5))


@pytest.fixture(scope="module")
def proposals(log: SimulatedLog) -> dict[str, pd.DataFrame]:
    oracle = compute_oracle(log, 1, PRICE_BOUNDS)
    items = log.items[["item_id"]]
    list_price = log.state.list_price.reshape(-1)
    return {
        "knows": items.assign(price=oracle.prices[:, 0]),
        "list": items.assign(price=list_price),
        "absurd": items.assign(price=100.0 * list_price),
        "highest": items.assign(price=PRICE_BOUNDS[1] * list_price),
    }


@pytest.fixture(scope="module")
def found(log: SimulatedLog, proposals: dict[str, pd.DataFrame]) -> PricingEvaluation:
    return evaluate_prices(log, proposals, 1, "toy", seed=3, category_k=26)


def rows_of(found: PricingEvaluation, name: str, model: str) -> list[ResultRow]:
    return [row for row in found.rows if (row.name, row.model) == (name, model)]


def shares(found: PricingEvaluation, model: str) -> dict[str | None, float]:
    return {row.category: row.value for row in rows_of(found, "gap_closed", model)}


def test_who_proposes_the_oracles_prices_closes_the_gap(found: PricingEvaluation) -> None:
    assert len(shares(found, "knows")) > 3
    assert list(shares(found, "knows").values()) == pytest.approx([1.0] * len(shares(found, "knows")))
    assert list(shares(found, "oracle").values()) == pytest.approx([1.0] * len(shares(found, "oracle")))
    assert set(shares(found, "manager").values()) == {0.0}


def test_every_other_price_lies_below_the_oracle(found: PricingEvaluation) -> None:
    for policy in ("list", "highest", "manager"):
        assert all(share < 1.0 for share in shares(found, policy).values())
    assert len({round(share, 6) for share in shares(found, "list").values()}) > 1


def test_nobody_may_leave_the_bounds(found: PricingEvaluation) -> None:
    assert shares(found, "absurd") == shares(found, "highest")
    prices = found.items.set_index("policy")["price"]
    np.testing.assert_allclose(prices["absurd"], prices["highest"])


def test_values_are_those_of_the_market(log: SimulatedLog, found: PricingEvaluation, proposals) -> None:
    expected = compute_outcome(log, proposals["list"]["price"].to_numpy(), 1).value
    items = found.items[found.items["policy"] == "list"]
    np.testing.assert_allclose(items["value"], expected)
    (total,) = rows_of(found, "value", "list")
    assert total.value == pytest.approx(expected.sum())
    assert (total.n, total.task, total.seed, total.k) == (log.num_items, "toy", 3, 26)
    (manager,) = rows_of(found, "value", "manager")
    assert manager.value == pytest.approx(compute_manager_outcome(log, 1).value.sum())
    categories = items.groupby("category")["value"].sum()
    gap = {
        name: found.items[found.items["policy"] == name].groupby("category")["value"].sum()
        for name in ("manager", "oracle")
    }
    for category, share in shares(found, "list").items():
        if category is not None:
            expected_share = (categories - gap["manager"]) / (gap["oracle"] - gap["manager"])
            assert share == pytest.approx(expected_share[category])


def test_the_interval_holds_the_mean_over_categories(found: PricingEvaluation) -> None:
    for model in ("list", "highest"):
        (row,) = [row for row in rows_of(found, "gap_closed", model) if row.category is None]
        assert row.lower <= row.value <= row.upper
        assert row.n == len(shares(found, model)) - 1


def test_categories_whose_manager_is_near_the_optimum_are_left_out(found: PricingEvaluation) -> None:
    by_category = found.items.pivot_table(index="category", columns="policy", values="value", aggfunc="sum")
    near = by_category["manager"] >= 0.98 * by_category["oracle"]
    assert set(shares(found, "list")) - {None} == set(by_category.index[~near])


def test_items_have_one_row_per_policy(log: SimulatedLog, found: PricingEvaluation) -> None:
    assert list(found.items.columns) == ["item_id", "category", "policy", "price", "value", "oracle_price"]
    assert (found.items.groupby("policy").size() == log.num_items).all()
    assert set(found.items["policy"]) == {
        *("manager", "oracle", "oracle_constant", "knows", "list", "absurd", "highest")
    }
    assert found.items["value"].notna().all()


def test_the_order_of_a_proposal_does_not_matter(log: SimulatedLog, found: PricingEvaluation, proposals) -> None:
    shuffled = proposals["list"].sample(frac=1.0, random_state=1).assign(note="kept out")
    again = evaluate_prices(log, {"list": shuffled}, 1, "toy", seed=3)
    assert shares(again, "list") == shares(found, "list")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda table: table.iloc[1:], "'list' proposes no price for item"),
        (lambda table: table.assign(price=np.nan), "'list' proposes no price for item"),
        (lambda table: pd.concat([table, table.head(1)]), "'list' proposes two prices for item"),
    ],
)
def test_a_proposal_with_a_gap_is_refused(log: SimulatedLog, proposals, change: Callable, said: str) -> None:
    with pytest.raises(PanelError, match=said):
        evaluate_prices(log, {"list": change(proposals["list"])}, 1, "toy", seed=0)


def test_held_prices_are_judged_over_all_periods_with_stock_and_memory() -> None:
    settings = RetailSettings(num_products=3, reference_share=1.0, stocked_share=1.0)
    log = simulate_log(settings, ManagerSettings(), LogSettings(num_markets=3, num_periods=40, seed=6))
    oracle = compute_oracle(log, 4, PRICE_BOUNDS, num_rollouts=8)
    constant = {"constant": log.items[["item_id"]].assign(price=oracle.constant_prices)}
    found = evaluate_prices(log, constant, 4, "toy", seed=0, num_rollouts=8)
    assert shares(found, "constant") == pytest.approx(shares(found, "oracle_constant"))
    assert all(share <= 1.0 + 1e-9 for share in shares(found, "constant").values())
