"""Recommendations: one row per item, exact columns, objectives, plans, leads, and what is not known is said."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import GuardrailError, PanelError, PanelWarning
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy
from tests.policy_artifacts import panel_of, plan_of, sales_log, write_adapter, write_base

COLUMNS = [
    *("item_id", "timestamp", "current_price", "price", "promotion", "expected_units", "expected_margin"),
    *("expected_margin_lower", "objective", "supported", "fallback", "ignores_substitution", "propensity"),
    *("binding_rule", "group_margin", "explanation"),
]
FREE = {"price_floor": 0.01}  # rules that forbid nothing
LOCKED = {"maximum_step": 0.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("recommend") / "base")


@pytest.fixture(scope="module")
def policy(base: Path) -> PricingPolicy:
    return PricingPolicy.from_pretrained(base)


@pytest.fixture(scope="module")
def adapted(base: Path) -> PricingPolicy:
    """With a policy for snacks (items 0, 2, 4, 6); drinks have no adapter."""
    return PricingPolicy.from_pretrained(base, adapter=write_adapter(base.parent / "adapter", base))


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(sales_log())


@pytest.fixture(scope="module")
def strangers() -> Panel:
    """Items without a category: what one of them sells does not depend on the others, nor on their prices."""
    return panel_of(sales_log().drop(columns="category"))


@pytest.fixture(scope="module")
def prices(policy: PricingPolicy, panel: Panel) -> pd.DataFrame:
    return policy.recommend(panel)


# -- the table --------------------------------------------------------------------------------------------------------


def test_there_is_one_row_per_item_with_exactly_these_columns(prices: pd.DataFrame, panel: Panel) -> None:
    assert list(prices.columns) == COLUMNS
    assert tuple(prices["item_id"]) == panel.item_ids
    assert (prices["timestamp"] == panel.last_observed + pd.Timedelta(weeks=1)).all()
    assert prices["timestamp"].dtype == "datetime64[ns]"
    last = panel.frame.groupby("item_id")["price"].last()
    assert prices["current_price"].tolist() == last.tolist()
    assert prices["price"].tolist() == prices["price"].round(2).tolist()
    assert (prices["price"] != prices["current_price"]).sum() >= 4
    assert (prices["propensity"] == 1.0).all()
    assert prices["ignores_substitution"].all()
    assert not prices["fallback"].any()
    assert set(prices["binding_rule"]) == {""}


def test_the_same_question_has_the_same_answer(policy: PricingPolicy, panel: Panel, prices: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(policy.recommend(panel), prices)
    pd.testing.assert_frame_equal(policy.recommend(panel, seed=9), prices)


def test_expectations_are_totals_along_the_constant_proposed_price(
    policy: PricingPolicy, panel: Panel, strangers: Panel
) -> None:
    cost = strangers.frame.groupby("item_id")["cost"].last().to_numpy()
    for row, (_, found) in zip(range(4), policy.recommend(strangers).iterrows(), strict=False):
        alone = strangers.select_items([found["item_id"]])
        curve = policy.demand_curve(alone, [found["price"] / found["current_price"]], prediction_length=4)
        assert found["expected_units"] == pytest.approx(curve["mean"].sum(), rel=1e-5)
        margin = (found["price"] - cost[row]) * found["expected_units"]
        assert found["expected_margin"] == pytest.approx(margin, rel=1e-6)
        # Steps move together in this base, so the total's quantile is about the sum of the steps' own.
        lower = (found["price"] - cost[row]) * curve["0.1"].sum()
        assert found["expected_margin_lower"] == pytest.approx(lower, rel=0.15)
    longer = policy.recommend(panel, LOCKED, prediction_length=8)
    shorter = policy.recommend(panel, LOCKED, prediction_length=4)
    assert (longer["expected_units"] > 1.5 * shorter["expected_units"]).all()


def test_the_chosen_price_is_the_best_of_the_supported_ladder(policy: PricingPolicy, monkeypatch) -> None:
    monkeypatch.setattr("pricing_fm.policy.recommend.CAUTION", 0.0)
    table = sales_log(items=3).drop(columns="category")
    panel = panel_of(table)
    found = policy.recommend(panel, prediction_length=2)
    multipliers = np.exp(np.arange(-28, 15) * 0.025)
    for _, row in found.iterrows():
        own = table[table["item_id"] == row["item_id"]].tail(16)
        rungs = np.round(np.sort(own["price"])[(16 - 1) // 2] * multipliers, 2)
        charged = own.loc[own["promotion"] == 0, "price"]
        tried = rungs[(rungs >= charged.min() * 0.9875) & (rungs <= charged.max() * 1.0125)]
        ratio = np.unique([*tried, row["current_price"]]) / row["current_price"]
        curve = policy.demand_curve(panel.select_items([row["item_id"]]), ratio, 2)
        total = curve.groupby("price_multiplier")["mean"].sum()
        margin = (total.index * row["current_price"] - own["cost"].iloc[-1]) * total.to_numpy()
        assert row["expected_margin"] == pytest.approx(margin.max(), rel=1e-4)


def test_a_price_between_the_cents_is_kept_as_it_is(policy: PricingPolicy) -> None:
    table = sales_log(items=2)
    table["price"] = 3.333
    found = policy.recommend(panel_of(table))
    assert found["current_price"].tolist() == [3.333] * 2
    assert found["price"].tolist() == [3.33] * 2
    assert found["explanation"].str.startswith("Kept").all()


def test_a_price_of_less_than_a_cent_is_kept_and_not_rounded_to_four_times_as_much(policy, adapted) -> None:
    table = sales_log(items=4)
    table[["price", "list_price", "cost"]] /= 1000
    panel = panel_of(table)
    for asked in (policy, adapted):
        found = asked.recommend(panel)
        assert found["price"].tolist() == found["current_price"].tolist()
        assert found["supported"].all()
        assert found["explanation"].str.startswith("Kept").all()
    ruled = policy.recommend(panel, {"price_floor": 0.02})
    assert ruled["price"].tolist() == [0.02] * 4
    assert ruled["binding_rule"].tolist() == ["price_floor"] * 4


# -- plans and leads --------------------------------------------------------------------------------------------------


def test_with_a_lead_the_price_starts_later_and_the_current_one_lasts_until_then(
    policy: PricingPolicy, panel: Panel
) -> None:
    late = policy.recommend(panel, LOCKED, prediction_length=3, decision_lead=2)
    assert (late["timestamp"] == panel.last_observed + pd.Timedelta(weeks=3)).all()
    curve = policy.demand_curve(panel, [1.0], prediction_length=5)
    paid = curve[curve["timestamp"] > panel.last_observed + pd.Timedelta(weeks=2)].groupby("item_id")["mean"].sum()
    np.testing.assert_allclose(late["expected_units"], paid, rtol=1e-5)
    free = policy.recommend(panel, prediction_length=3, decision_lead=2)
    moved = free["price"] > free["current_price"]
    assert moved.any()
    # Stock-up before a rise is not in question: demand of the paid periods falls with the price.
    assert (free["expected_units"] < late["expected_units"])[moved].all()


def test_the_path_is_the_current_price_and_then_the_chosen_one(policy: PricingPolicy, strangers: Panel) -> None:
    found = policy.recommend(strangers, prediction_length=3, decision_lead=2)
    assert (found["price"] != found["current_price"]).sum() >= 4
    plan = plan_of(strangers, 5, price_is_intervention=1.0)
    paid = plan["timestamp"] >= found["timestamp"].iloc[0]
    chosen, current = (plan["item_id"].map(found.set_index("item_id")[name]) for name in ("price", "current_price"))
    plan["price"] = chosen.where(paid, current)
    plan["list_price"] = plan["item_id"].map(strangers.frame.groupby("item_id")["list_price"].last())
    expected = policy.forecast(strangers, 5, future=plan)["mean"][paid].groupby(plan["item_id"]).sum()
    np.testing.assert_allclose(found["expected_units"], expected, rtol=1e-5)


def test_a_plan_covers_lead_and_paid_periods_exactly(policy: PricingPolicy, panel: Panel) -> None:
    plan = plan_of(panel, 5)
    plan.loc[plan["timestamp"] == plan["timestamp"].max(), "promotion"] = 1.0
    found = policy.recommend(panel, LOCKED, prediction_length=3, decision_lead=2, future=plan)
    assert (found["promotion"] == 0.0).all()
    flagged = plan.assign(promotion=(plan["timestamp"] == plan["timestamp"].unique()[2]).astype(float))
    promoted = policy.recommend(panel, LOCKED, prediction_length=3, decision_lead=2, future=flagged)
    assert (promoted["promotion"] == 1.0).all()
    for periods in (3, 4, 6):
        with pytest.raises(PanelError, match="future (lacks|also holds) item"):
            policy.recommend(panel, prediction_length=3, decision_lead=2, future=plan_of(panel, periods))


def test_prices_of_a_plan_are_replaced_by_candidates(policy: PricingPolicy, strangers: Panel) -> None:
    cheap, dear = (policy.recommend(strangers, future=plan_of(strangers, 4, price=price)) for price in (1.0, 9.0))
    pd.testing.assert_frame_equal(cheap, dear)


def test_the_prices_that_a_plan_has_for_the_rest_of_the_category_are_heard(policy: PricingPolicy, panel: Panel) -> None:
    """Only of the others: the price of the item itself is in question."""
    base, others, own = (plan_of(panel, 4) for _ in range(3))
    others.loc[others["item_id"] != "i00", "price"] = 9.0
    own.loc[own["item_id"] == "i00", "price"] = 9.0
    before, moved, same = (
        policy.recommend(panel, LOCKED, future=plan).set_index("item_id").loc["i00"] for plan in (base, others, own)
    )
    assert before["expected_units"] == same["expected_units"]
    assert moved["expected_units"] != pytest.approx(before["expected_units"], rel=1e-4)


@pytest.mark.parametrize("arguments", [{"prediction_length": 0}, {"decision_lead": -1}])
def test_periods_are_counted_from_one_and_leads_from_zero(policy: PricingPolicy, panel: Panel, arguments) -> None:
    with pytest.raises(PanelError, match="prediction_length"):
        policy.recommend(panel, **arguments)


# -- objectives -------------------------------------------------------------------------------------------------------


def test_the_objective_is_margin_where_the_cost_is_known_and_revenue_elsewhere(policy: PricingPolicy) -> None:
    table = sales_log(items=4)
    table.loc[table["item_id"] == "i01", "cost"] = np.nan
    with pytest.warns(PanelWarning, match="no cost is known: prices maximise revenue for 1 of 4 items") as caught:
        found = policy.recommend(panel_of(table))
    assert caught[0].filename == __file__
    assert found["objective"].tolist() == ["margin", "revenue", "margin", "margin"]
    without = found.iloc[1]
    assert without["expected_margin"] == pytest.approx(without["price"] * without["expected_units"])
    assert "expected revenue" in without["explanation"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", PanelWarning)
        policy.recommend(panel_of(table), objective="revenue")
        shares = policy.recommend(panel_of(table), assumed_cost_share=0.5)
    assert shares["objective"].tolist() == ["margin"] * 4
    filled = shares.iloc[1]
    margin = (filled["price"] - 0.5 * filled["current_price"]) * filled["expected_units"]
    assert filled["expected_margin"] == pytest.approx(margin)
    pd.testing.assert_frame_equal(shares.drop(index=1), found.drop(index=1))


def test_margin_without_a_cost_is_refused(policy: PricingPolicy) -> None:
    panel = panel_of(sales_log(items=2).drop(columns="cost"))
    assert set(policy.recommend(panel)["objective"]) == {"revenue"}
    with pytest.raises(PanelError, match="item 'i00' has no cost.*assumed_cost_share"):
        policy.recommend(panel, objective="margin")
    assert set(policy.recommend(panel, objective="margin", assumed_cost_share=0.6)["objective"]) == {"margin"}
    with pytest.raises(GuardrailError, match="'i00'.*minimum_margin needs the cost"):
        policy.recommend(panel, {"minimum_margin": 0.2})
    policy.recommend(panel, {"minimum_margin": 0.2}, assumed_cost_share=0.6)


def test_each_objective_is_maximised(policy: PricingPolicy, panel: Panel) -> None:
    found = {name: policy.recommend(panel, objective=name) for name in ("margin", "revenue", "units")}
    assert (found["units"]["expected_units"] >= found["revenue"]["expected_units"]).all()
    assert (found["revenue"]["expected_units"] >= found["margin"]["expected_units"] - 1e-6).all()
    revenue = {name: (table["price"] * table["expected_units"]).sum() for name, table in found.items()}
    assert revenue["revenue"] == max(revenue.values())
    assert found["margin"]["expected_margin"].sum() > found["units"]["expected_margin"].sum()
    for name, table in found.items():
        assert set(table["objective"]) == {name}


def test_what_margin_shows_under_units_does_not_depend_on_other_items(policy: PricingPolicy) -> None:
    table = sales_log(items=2)
    table.loc[table["item_id"] == "i01", "cost"] = np.nan
    both = policy.recommend(panel_of(table), objective="units")
    alone = policy.recommend(panel_of(table[table["item_id"] == "i00"]), objective="units")
    pd.testing.assert_frame_equal(both.head(1), alone)


@pytest.mark.parametrize(
    "arguments", [{"objective": "profit"}, {"assumed_cost_share": 1.0}, {"assumed_cost_share": -0.1}]
)
def test_unknown_objectives_and_impossible_shares_are_refused(policy: PricingPolicy, panel: Panel, arguments) -> None:
    with pytest.raises(PanelError, match="must be"):
        policy.recommend(panel, **arguments)


def test_the_cost_planned_for_the_decision_counts(policy: PricingPolicy, panel: Panel) -> None:
    found = policy.recommend(panel, LOCKED, future=plan_of(panel, 4, cost=1.0))
    np.testing.assert_allclose(found["expected_margin"], (found["price"] - 1.0) * found["expected_units"], rtol=1e-6)


# -- items with little or no history ----------------------------------------------------------------------------------


def short_log() -> pd.DataFrame:
    """i00 whole, i01 with one sale, i02 priced but never observed, i03 and i04 in the future only, i05 never priced."""
    table = sales_log(items=6)
    last = table["timestamp"].max()
    seen = {"i01": 1, "i02": 0}
    for item, periods in seen.items():
        hidden = (table["item_id"] == item) & (table["timestamp"] <= last - pd.Timedelta(weeks=periods))
        table.loc[hidden, "units"] = np.nan
    table = table[~((table["item_id"] == "i01") & (table["timestamp"] < last - pd.Timedelta(weeks=1)))]
    table = table[~table["item_id"].isin(["i03", "i04", "i05"])]
    ahead = pd.DataFrame(
        [
            ("i03", last + pd.Timedelta(weeks=1), 4.99, np.nan),
            ("i04", last + pd.Timedelta(weeks=3), np.nan, 7.49),
            ("i05", last + pd.Timedelta(weeks=1), np.nan, np.nan),
        ],
        columns=["item_id", "timestamp", "price", "list_price"],
    )
    return pd.concat([table, ahead.assign(category="snacks")], ignore_index=True)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"explore": True},
        {"guardrails": {"maximum_step": 0.1, "price_endings": [0.99, 0.49]}},
        {"objective": "revenue", "decision_lead": 2},
        {"objective": "margin", "assumed_cost_share": 0.5},
    ],
)
def test_items_without_enough_history_keep_their_price_and_say_so(
    policy: PricingPolicy, adapted: PricingPolicy, adapter: bool, arguments
) -> None:
    with pytest.warns(PanelWarning, match="fewer than two"):
        panel = panel_of(short_log())
    found = (adapted if adapter else policy).recommend(panel, **arguments).set_index("item_id")
    assert list(found.index) == list(panel.item_ids) == [f"i{item:02d}" for item in range(6)]
    assert found["fallback"].tolist() == [False, True, True, True, True, True]
    fallback = found[found["fallback"]]
    assert fallback[["expected_units", "expected_margin", "group_margin"]].isna().all(axis=None)
    assert (fallback["propensity"] == 1.0).all()
    assert not fallback["supported"].any()
    assert fallback["explanation"].str.contains("observed period").all()
    assert fallback.loc["i01", "explanation"].count("only 1 observed")
    if "guardrails" not in arguments:
        assert found["price"].iloc[1:].tolist()[2:4] == [4.99, 7.49]
        assert (found["price"] == found["current_price"])[["i01", "i02", "i03", "i04"]].all()
    assert np.isnan(found.loc["i05", "price"])
    assert found.loc["i05", "explanation"].startswith("No price")


def test_a_kept_price_still_obeys_the_rules(policy: PricingPolicy) -> None:
    with pytest.warns(PanelWarning):
        panel = panel_of(short_log())
    found = policy.recommend(panel, {"price_floor": 6.0, "price_endings": [0.99]}, objective="revenue")
    found = found.set_index("item_id")
    assert found.loc[["i03", "i04"], "price"].tolist() == [6.99, 7.99]  # of two equally near endings the higher
    assert found.loc[["i03", "i04"], "binding_rule"].tolist() == ["price_endings"] * 2
    assert found.loc["i03", "explanation"].startswith("Raised by 40.1%: only 0 observed")
    assert found.loc["i03", "explanation"].endswith("bound by price_endings.")
    floored = policy.recommend(panel, {"price_floor": 6.0}, objective="revenue").set_index("item_id")
    assert floored.loc[["i03", "i04"], "price"].tolist() == [6.0, 7.49]
    assert floored.loc[["i03", "i04"], "binding_rule"].tolist() == ["price_floor", ""]


def test_two_observed_periods_are_enough(policy: PricingPolicy) -> None:
    table = sales_log(items=2)
    new = (table["item_id"] == "i01") & (table["timestamp"] <= table["timestamp"].max() - pd.Timedelta(weeks=2))
    found = policy.recommend(panel_of(table[~new]))
    assert found["fallback"].tolist() == [False, False]
    assert np.isfinite(found["expected_margin"]).all()


def test_the_current_price_is_the_items_own_not_one_that_was_filled_in(policy: PricingPolicy) -> None:
    one = sales_log(items=1).assign(product_id="milk")
    sibling = one.assign(item_id="i99", price=one["price"] + 1)
    planned = one.tail(1).assign(units=np.nan, price=9.0, timestamp=one["timestamp"].max() + pd.Timedelta(weeks=1))
    panel = panel_of(pd.concat([one.iloc[:-1], planned, sibling]))
    filled = panel.frame[(panel.frame["item_id"] == "i00") & panel.frame["price_imputed"]]
    assert filled["price"].tolist() == [sibling["price"].iloc[-1]]
    assert policy.recommend(panel)["current_price"].tolist() == [one["price"].iloc[-2], sibling["price"].iloc[-1]]


def test_below_cost_the_cautious_total_is_the_larger_loss(policy: PricingPolicy) -> None:
    cheap, dear = (policy.recommend(panel_of(sales_log().assign(cost=cost)), LOCKED) for cost in (0.0, 20.0))
    assert (dear["expected_margin"] < 0).all()
    # Per unit expected: few units are the bad case of a gain, many that of a loss.
    few, many = (found["expected_margin_lower"] / found["expected_margin"] for found in (cheap, dear))
    assert (many > few).all()


# -- groups -----------------------------------------------------------------------------------------------------------


def test_margins_of_a_substitute_group_are_summed(policy: PricingPolicy, prices: pd.DataFrame) -> None:
    pd.testing.assert_series_equal(prices["group_margin"], prices["expected_margin"], check_names=False)
    table = sales_log()
    table["substitute_group"] = table["item_id"].map({"i01": "a", "i04": "a", "i05": "i00"})
    found = policy.recommend(panel_of(table)).set_index("item_id")
    assert found["ignores_substitution"].all()
    own, group = found["expected_margin"], found["group_margin"]
    assert group["i01"] == group["i04"] == pytest.approx(own["i01"] + own["i04"])
    assert group["i05"] == pytest.approx(own["i05"])  # a group that is named like an item is still a group
    assert group["i00"] == pytest.approx(own["i00"])


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_items_of_a_category_without_adapter_use_the_base_and_say_so(
    adapted: PricingPolicy, panel: Panel, prices: pd.DataFrame
) -> None:
    found = adapted.recommend(panel)
    drinks = panel.frame.groupby("item_id")["category"].last().to_numpy() == "drinks"
    pd.testing.assert_frame_equal(found[drinks], prices[drinks])
    assert (
        found["explanation"][drinks].str.contains("base model's own demand curve, no adapter for this category").all()
    )
    assert found["explanation"][~drinks].str.contains("policy adapter for category 'snacks'").all()
    assert not np.allclose(found["expected_units"][~drinks], prices["expected_units"][~drinks], rtol=1e-3)


def test_an_adapter_brings_its_own_rules_and_given_rules_replace_them(base: Path, tmp_path: Path, panel: Panel) -> None:
    adapter = write_adapter(tmp_path / "a", base, guardrails={"price_ceiling": 2.5}, category=None)
    policy = PricingPolicy.from_pretrained(base, adapter=adapter)
    assert (policy.recommend(panel)["price"] <= 2.5).all()
    assert (policy.recommend(panel, FREE)["price"] > 2.5).any()
    assert (policy.recommend(panel, {})["price"] > 2.5).any()
    assert policy.recommend(panel)["explanation"].str.contains("for all categories").all()


def test_a_policy_is_asked_for_what_it_can_price(base: Path, tmp_path: Path, panel: Panel) -> None:
    revenue = write_adapter(tmp_path / "r", base, None, rewards=RewardWeights(margin=0.0, revenue=1.0))
    policy = PricingPolicy.from_pretrained(base, adapter=revenue)
    assert set(policy.recommend(panel)["objective"]) == {"margin"}
    assert set(policy.recommend(panel, objective="revenue")["objective"]) == {"revenue"}
    for rewards in (RewardWeights(margin=0.0, revenue=1.0), RewardWeights()):
        keen = write_adapter(tmp_path / f"k{rewards.margin}", base, None, rewards=rewards, aggressiveness=1e4)
        asked = PricingPolicy.from_pretrained(base, adapter=keen)
        margin, turnover = (asked.recommend(panel, objective=name)["price"] for name in ("margin", "revenue"))
        assert (margin >= turnover).all()  # a cost makes units worth less
        assert (margin > turnover).sum() >= 2
    with pytest.raises(PanelError, match="for units load a forecast adapter or the base alone"):
        policy.recommend(panel, objective="units")
    volume = write_adapter(tmp_path / "u", base, None, rewards=RewardWeights(margin=0.0, units=1.0), aggressiveness=1e4)
    grown = PricingPolicy.from_pretrained(base, adapter=volume).recommend(panel, objective="units")
    assert (grown["price"] < turnover).sum() >= 2
    demand = PricingPolicy.from_pretrained(base, adapter=write_adapter(tmp_path / "d", base, None, has_policy=False))
    found = demand.recommend(panel, objective="units")
    assert found["explanation"].str.contains("demand adapter for all categories").all()
