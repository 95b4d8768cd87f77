"""Price and order of a panel's items: what is in stock, the limit without stock costs, and decisions that pay."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import PanelError
from pricing_fm.evaluation.market import MarketArguments
from pricing_fm.evaluation.price_and_order import compare_ways, decide_and_earn, measure_calibration, stock_categories
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.options import OWN
from pricing_fm.policy.order_table import read_stock
from pricing_fm.policy.replenishment import StockArguments, cycle_demand, plan_orders, plan_price_and_order
from recipes import replenish
from tests.policy_artifacts import panel_of, plan_of, sales_log, write_base

NANO = Path(__file__).resolve().parents[1] / "model_cards" / "pricing-fm-nano"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("orders") / "base")


@pytest.fixture(scope="module")
def policy(base: Path) -> PricingPolicy:
    return PricingPolicy.from_pretrained(base)


def fast_movers(items: int = 6) -> pd.DataFrame:
    return sales_log(items=items).assign(units=lambda rows: rows["units"] * 10)


def test_without_lead_time_and_holding_cost_price_and_order_fall_apart(policy: PricingPolicy) -> None:
    """All demand is served, so that only the price counts: it is the one that is best without any stock."""
    options = policy.price_options(panel_of(fast_movers()), prediction_length=4)
    free = StockArguments(lead_time=0, review_periods=4, holding_cost=0.0)
    found = plan_price_and_order(options, np.zeros(len(options)), free, 0.0)
    np.testing.assert_array_equal(found.joint, found.separate)
    assert (found.joint != found.kept).any()
    rows = np.arange(len(options))
    earns = (options.prices > options.costs[:, None])[rows, found.joint]
    assert earns.all()
    assert (found.plan.outcome.service[rows, found.joint] == 1.0).all()
    demand = cycle_demand(options, rows, free)
    drawn = (options.prices - options.costs[:, None]) * demand.mean(demand.review)
    np.testing.assert_allclose(found.plan.outcome.profit[rows, found.joint], drawn[rows, found.joint], rtol=1e-9)


def test_the_order_is_the_critical_fractile_of_the_networks_own_demand(policy: PricingPolicy) -> None:
    options = policy.price_options(panel_of(fast_movers()), prediction_length=3)
    stock, rows = StockArguments(lead_time=1, review_periods=2, salvage_value=0.2), np.arange(len(options))
    plan = plan_orders(options, np.zeros(len(options)), stock)
    ratio = stock.unit_costs(options.prices, options.costs).critical_ratio
    demand = cycle_demand(options, rows, stock).review[:, OWN]
    share = (demand <= plan.quantity[:, [options.prices.shape[1] + OWN]]).mean(1)
    np.testing.assert_allclose(share, ratio[:, OWN], atol=0.02)


def test_more_on_hand_orders_less_and_never_raises_the_price(policy: PricingPolicy) -> None:
    panel = panel_of(fast_movers())
    stock = StockArguments(lead_time=1, review_periods=1, salvage_value=0.0)
    ids = list(panel.item_ids)
    tables = [
        policy.replenish(panel, stock, pd.DataFrame({"item_id": ids, "inventory": units})) for units in (0, 300, 3000)
    ]
    orders = np.array([table["kept_order"] for table in tables])
    assert (np.diff(orders, axis=0) <= 0).all()
    assert (orders[0] > 0).all()
    assert (orders[2] == 0).all()
    assert (tables[2]["price"] <= tables[0]["price"] + 1e-9).all()
    assert (tables[2]["price"] < tables[0]["price"]).any()
    assert (tables[0][["profit"]].to_numpy() >= tables[0][["kept_profit"]].to_numpy() - 1e-6).all()
    # What is on its way counts as if it were there.
    coming = policy.replenish(panel, stock, pd.DataFrame({"item_id": ids, "inventory": 100, "on_order": 200}))
    pd.testing.assert_series_equal(coming["order"], tables[1]["order"])


def test_the_separate_price_is_the_one_that_recommend_gives(policy: PricingPolicy) -> None:
    panel = panel_of(fast_movers())
    on_hand = pd.DataFrame({"item_id": panel.item_ids, "inventory": 50.0})
    table = policy.replenish(panel, StockArguments(1, 3), on_hand, guardrails={"maximum_step": 0.1})
    told = policy.recommend(panel, {"maximum_step": 0.1}, objective="margin", prediction_length=4)
    pd.testing.assert_series_equal(table["separate_price"], told["price"], check_names=False)
    assert (np.abs(table["price"] / table["current_price"] - 1) <= 0.1 + 1e-9).all()
    assert table["explanation"].str.contains("ordered").all()


def test_stock_comes_from_the_plan_else_from_the_log_else_from_nowhere(policy: PricingPolicy) -> None:
    log = fast_movers(4).assign(inventory=lambda rows: rows["units"] + 7.0)
    panel = panel_of(log)
    options = policy.price_options(panel, prediction_length=2)
    hand, coming = read_stock(panel, options.situation, None)
    np.testing.assert_array_equal(hand, 7.0)
    np.testing.assert_array_equal(coming, 0.0)
    planned = policy.price_options(panel, prediction_length=2, future=plan_of(panel, 2, inventory=33.0))
    np.testing.assert_array_equal(read_stock(panel, planned.situation, None)[0], 33.0)
    bare = panel_of(fast_movers(4))
    for on_hand, message in (
        (None, "has inventory missing"),
        (pd.DataFrame({"item_id": ["i00"], "inventory": [3.0]}), r"'i01' is not in the stock table \(3 of 4 items"),
        (pd.DataFrame({"item_id": ["i00", "i00"], "inventory": [3.0, 4.0]}), "'i00' twice .*one row per item"),
        (
            pd.DataFrame({"item_id": [*bare.item_ids, "i99", "x"], "inventory": 3.0}),
            r"item 'i99', which the log does not \(2 such items\); the log has 'i00', 'i01', 'i02', ...",
        ),
        (
            pd.DataFrame({"item_id": bare.item_ids, "stock": 3.0}),
            "the columns 'item_id', 'stock'; it needs item_id and",
        ),
        (pd.DataFrame({"item_id": bare.item_ids, "inventory": "3 boxes"}), "row 0.*inventory is '3 boxes'; a number"),
        (pd.DataFrame({"item_id": bare.item_ids, "inventory": 3.0, "on_order": -1.0}), "on_order -1"),
    ):
        with pytest.raises(PanelError, match=message):
            policy.replenish(bare, on_hand=on_hand)


def test_prices_are_chosen_by_the_cautious_gain_that_the_table_shows_beside_mean_profits(policy: PricingPolicy) -> None:
    panel = panel_of(fast_movers())
    stock, on_hand = StockArguments(1, 1), pd.DataFrame({"item_id": panel.item_ids, "inventory": 50.0})
    table = policy.replenish(panel, stock, on_hand)
    options = policy.price_options(panel, prediction_length=2)
    found = plan_price_and_order(options, np.full(len(table), 50.0), stock, 0.5)
    best = np.where(options.allowed, found.cautious_gain[:, : options.allowed.shape[1]], -np.inf).max(1)
    np.testing.assert_allclose(table["cautious_gain"], best, rtol=1e-9, atol=1e-9)
    assert (table["kept_cautious_gain"] == 0).all()
    means = table["profit"] - table["kept_profit"]
    moved = table["price"] != table["current_price"]
    assert (table["cautious_gain"][moved] < means[moved]).all()
    assert moved.any()
    bold = plan_price_and_order(options, np.full(len(table), 50.0), stock, 0.0)
    rows = np.arange(len(table))
    over_kept = bold.plan.outcome.profit - bold.plan.outcome.profit[:, [OWN]]
    np.testing.assert_allclose(bold.cautious_gain[rows, bold.joint], over_kept[rows, bold.joint], rtol=1e-9)


def test_the_stock_of_a_whole_shop_serves_one_category_and_ids_keep_their_zeros(base: Path, tmp_path: Path) -> None:
    log = fast_movers(4)
    log["item_id"] = log["item_id"].str.replace("i", "00")
    log.to_csv(tmp_path / "sales.csv", index=False)
    pd.DataFrame({"item_id": log["item_id"].unique(), "inventory": 5}).to_csv(tmp_path / "stock.csv", index=False)
    words = f"--base {base} --panel {tmp_path}/sales.csv --on_hand {tmp_path}/stock.csv --output_dir {tmp_path}/out"
    table = replenish.main([*words.split(), "--category", "snacks"])
    assert set(table["item_id"]) == set(log.loc[log["category"] == "snacks", "item_id"])
    assert (table["on_hand"] == 5).all()


def test_a_plan_of_other_periods_is_refused(policy: PricingPolicy) -> None:
    options = policy.price_options(panel_of(sales_log(items=2)), prediction_length=3)
    with pytest.raises(ValueError, match="cover 3 periods; the cycle has 2"):
        plan_orders(options, np.zeros(2), StockArguments())


def test_deciding_together_earns_more_than_one_after_the_other_and_than_ordering_alone() -> None:
    """Fourteen simulated categories, published base, goods that perish; true demand judges, paired by category."""
    policy = PricingPolicy.from_pretrained(NANO)
    market = MarketArguments(num_markets=14, num_periods=80, market_seed=7850)
    found = stock_categories(policy, market, periods=2, num_rollouts=60)
    stock = StockArguments(1, 1, salvage_value=0.0)
    table = decide_and_earn(found, found.stocks((0.0, 3.0), seed=0), stock)
    gains = compare_ways(table, seed=0)
    assert table["category"].nunique() == 14
    assert gains["joint - separate"].lower > 0
    assert gains["joint - kept"].lower > 0
    # Whoever knows the draws does no worse, item by item.
    assert (table["oracle"] >= table[["joint", "separate", "kept", "oracle_separate"]].max(axis=1) - 1e-6).all()
    shares = measure_calibration(found, stock, (0.1, 0.5, 0.9))
    assert 0.02 < shares[0.1] < 0.25
    assert 0.35 < shares[0.5] < 0.7
    assert 0.8 < shares[0.9] < 0.99


def test_the_recipe_prints_and_writes_a_price_and_an_order_for_every_item(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    log = fast_movers(3)
    log.to_csv(tmp_path / "sales.csv", index=False)
    pd.DataFrame({"item_id": ["i00", "i01", "i02"], "inventory": [0, 40, 40_000]}).to_csv(tmp_path / "stock.csv")
    words = f"--base {base} --panel {tmp_path}/sales.csv --on_hand {tmp_path}/stock.csv --output_dir {tmp_path}/out"
    table = replenish.main([*words.split(), "--review_periods", "2", "--pack_size", "12"])
    assert (table["order"] % 12 == 0).all()
    written = pd.read_csv(tmp_path / "out" / "orders.csv")
    np.testing.assert_allclose(written["order"], table["order"])
    assert table["order"].iloc[0] > 0
    assert table["order"].iloc[2] == 0
    printed = capsys.readouterr().out
    assert "i02" in printed
    assert "Mean profit" in printed
    assert "cautious gain" in printed
    with pytest.raises(SystemExit):
        replenish.main(["--base", "b", "--output_dir", "o"])
    assert "--panel or --market" in capsys.readouterr().err
