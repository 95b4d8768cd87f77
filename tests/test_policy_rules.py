"""What a recommendation may not do: break a rule, price one zone twice, or go where the log has not been."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pricing_fm.errors import GuardrailError, PanelError, PanelWarning
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.engine import Engine, PolicyScores
from tests.policy_artifacts import panel_of, sales_log, write_adapter, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("rules") / "base")


@pytest.fixture(scope="module")
def policy(base: Path) -> PricingPolicy:
    return PricingPolicy.from_pretrained(base)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(sales_log())


@pytest.fixture(scope="module")
def free(policy: PricingPolicy, panel: Panel) -> pd.DataFrame:
    """Recommendations without any rule."""
    return policy.recommend(panel)


# -- guardrails -------------------------------------------------------------------------------------------------------


def test_a_price_between_the_bounds_stays_and_one_outside_names_its_bound(policy, panel, free) -> None:
    found = policy.recommend(panel, {"price_floor": 5.5, "price_ceiling": 6.0})
    assert found["price"].between(5.5, 6.0).all()
    low, high = free["price"] < 5.5, free["price"] > 6.0
    assert low.any()
    assert high.any()
    assert (found["binding_rule"][low] == "price_floor").sum() >= low.sum() - 1
    assert set(found["binding_rule"][high]) <= {"price_ceiling", "price_floor"}
    # A bound is one candidate more; between the bounds nothing else changes.
    inside = ~low & ~high & (found["price"] < 6.0) & (found["price"] > 5.5)
    assert inside.any()
    assert (found["price"][inside] == free["price"][inside]).all()
    assert (found["binding_rule"][inside] == "").all()
    bound = found[found["binding_rule"] != ""]
    assert [text.endswith(f"bound by {rule}.") for text, rule in zip(bound["explanation"], bound["binding_rule"])]


def test_no_price_moves_by_more_than_the_step(policy, panel, free) -> None:
    found = policy.recommend(panel, {"maximum_step": 0.05})
    ratio = found["price"] / found["current_price"]
    assert (np.abs(ratio - 1) <= 0.05 + 1e-9).all()
    wanted = free["price"] / free["current_price"]
    assert (np.sign(ratio - 1) == np.sign(wanted - 1)).all()
    over = np.abs(wanted - 1) > 0.05
    assert over.any()
    assert (found["binding_rule"][over] == "maximum_step").all()
    # The bound is one candidate more: below it the free price stays, unless the bound itself is better.
    stays = found["binding_rule"] == ""
    assert (found["price"][stays] == free["price"][stays]).all()
    assert (np.abs(ratio[~stays] - 1) > 0.04).all()


def test_the_margin_and_the_endings_hold_at_the_price_that_is_charged(policy, panel) -> None:
    found = policy.recommend(panel, {"minimum_margin": 0.55, "price_endings": [0.99, 0.49]})
    cost = panel.frame.groupby("item_id")["cost"].last().to_numpy()
    assert ((found["price"] - cost) / found["price"] >= 0.55 - 1e-9).all()
    assert set((found["price"] * 100).round().astype(int) % 100) <= {99, 49}
    assert set(found["binding_rule"]) <= {"price_endings", "minimum_margin"}
    assert "price_endings" in set(found["binding_rule"])


def test_rules_come_from_a_file_too(policy, panel, tmp_path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"maximum_step": 0.05}))
    pd.testing.assert_frame_equal(policy.recommend(panel, path), policy.recommend(panel, {"maximum_step": 0.05}))
    for rules in ({"price_roof": 3.0}, {"maximum_step": "a lot"}, {"minimum_margin": 1.0}):
        with pytest.raises(GuardrailError, match=next(iter(rules))):
            policy.recommend(panel, rules)


@pytest.mark.parametrize(
    "rules, named",
    [
        ({"price_floor": 6.0, "price_ceiling": 5.0}, "price_floor.*price_ceiling"),
        ({"price_ceiling": 1.0, "minimum_margin": 0.5}, "minimum_margin.*price_ceiling"),
        ({"price_floor": 100.0, "maximum_step": 0.1}, "price_floor.*maximum_step"),
        ({"maximum_step": 0.0001, "price_endings": [0.01]}, "price_endings.*maximum_step"),
    ],
)
def test_rules_that_contradict_each_other_are_both_named(policy, panel, rules, named: str) -> None:
    with pytest.raises(GuardrailError, match=f"item 'i0.'.*{named}"):
        policy.recommend(panel, rules)


def test_limits_replace_the_rule_for_the_items_they_name(policy, panel, free) -> None:
    limits = pd.DataFrame({"item_id": ["i05", "i01"], "price_ceiling": [4.5, np.nan], "price_floor": [np.nan, 8.0]})
    found = policy.recommend(panel, limits=limits)
    assert found["price"][5] == 4.5
    assert found["binding_rule"][5] == "price_ceiling"
    assert found["price"][1] == 8.0
    assert found["binding_rule"][1] == "price_floor"
    others = [0, 2, 3, 4, 6, 7]
    pd.testing.assert_frame_equal(found.iloc[others], free.iloc[others])
    wide = policy.recommend(
        panel, {"price_ceiling": 5.0}, limits=pd.DataFrame({"item_id": ["i05"], "price_ceiling": [9]})
    )
    assert wide["price"][5] == free["price"][5]
    assert (wide["price"].drop(5) <= 5.0).all()
    endings = policy.recommend(panel, limits=pd.DataFrame({"item_id": ["i02"], "price_endings": [[0.25]]}))
    assert round(endings["price"][2] % 1, 2) == 0.25


@pytest.mark.parametrize(
    "limits, said",
    [
        ({"item_id": ["i00"], "price_roof": [3.0]}, "price_roof"),
        ({"item_id": ["i00"], "price_ceiling": [3.0], "note": ["why"]}, "note"),
        ({"item_id": ["i00"]}, "none of them"),
        ({"item_id": ["i00", "i00"], "price_ceiling": [3.0, 4.0]}, "twice"),
        ({"item_id": ["milk"], "price_ceiling": [3.0]}, "item 'milk'"),
        ({"item_id": ["i00"], "price_ceiling": ["cheap"]}, "price_ceiling"),
        ({"item_id": ["i00"], "price_ceiling": [-1.0]}, "price_ceiling"),
    ],
)
def test_limits_that_nobody_understands_are_refused(policy, panel, limits, said: str) -> None:
    with pytest.raises(GuardrailError, match=said):
        policy.recommend(panel, limits=pd.DataFrame(limits))
    with pytest.raises(PanelError, match="no item_id"):
        policy.recommend(panel, limits=pd.DataFrame({"price_ceiling": [3.0]}))


def test_limits_may_use_the_columns_of_the_source(policy) -> None:
    table = sales_log(items=4)
    table["store"], table["sku"] = "s1", table.pop("item_id")
    schema = {"item_id": ["store", "sku"], "product_id": "sku", "location_id": "store", "promotion": "promotion"}
    panel = load_panel(table, schema=schema)
    source = pd.DataFrame({"store": "s1", "sku": ["i01"], "price_ceiling": [7.0]})
    named = pd.DataFrame({"item_id": ["s1|i01"], "price_ceiling": [7.0]})
    found = policy.recommend(panel, limits=source)
    assert (found["price"] <= 7.0).tolist()[1]
    pd.testing.assert_frame_equal(found, policy.recommend(panel, limits=named))
    with pytest.raises(GuardrailError, match="colour"):
        policy.recommend(panel, limits=source.assign(colour="red"))


# -- price zones ------------------------------------------------------------------------------------------------------


def zoned_log(offsets: tuple[float, ...] = (0.0, 0.0, 0.0), volumes: tuple[float, ...] = (1, 1, 1)) -> pd.DataFrame:
    """One product in three stores of one zone and in one of another, with an offset of each store's price."""
    one = sales_log(items=1)
    stores = [
        one.assign(item_id=f"s{store}", price=one["price"] + offset, units=one["units"] * volume, price_zone="north")
        for store, (offset, volume) in enumerate(zip(offsets, volumes))
    ]
    far = one.assign(item_id="s9", price_zone="south")
    return pd.concat([*stores, far], ignore_index=True).assign(product_id="milk")


def prices_of(found: pd.DataFrame) -> list[float]:
    return found.set_index("item_id")["price"].tolist()


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("has_policy", [None, False, True])
def test_items_of_one_product_in_one_zone_share_one_price(policy, base, tmp_path, explore, has_policy) -> None:
    if has_policy is not None:
        adapter = write_adapter(tmp_path / "a", base, None, has_policy=has_policy)
        policy = PricingPolicy.from_pretrained(base, adapter=adapter)
    found = policy.recommend(panel_of(zoned_log((0.0, 0.2, -0.3))), explore=explore)
    assert found["price"].iloc[:3].nunique() == 1
    assert found["propensity"].iloc[:3].nunique() == 1
    assert found["current_price"].iloc[:3].nunique() == 3
    apart = policy.recommend(panel_of(zoned_log((0.0, 0.2, -0.3)).drop(columns="price_zone")))
    assert apart["price"].iloc[:3].nunique() > 1


def test_a_zone_keeps_the_rules_of_all_its_members(policy) -> None:
    panel = panel_of(zoned_log((0.0, 0.2, -0.3)))
    found = policy.recommend(panel, {"maximum_step": 0.05})
    assert found["price"].iloc[:3].nunique() == 1
    assert (np.abs(found["price"] / found["current_price"] - 1) <= 0.05 + 1e-9).all()
    for rules, limits in (
        ({"maximum_step": 0.1}, None),
        ({"price_endings": [0.95, 0.15]}, None),
        (None, {"item_id": ["s1"], "price_ceiling": [5.0]}),
        ({"price_endings": [0.95, 0.15, 0.55]}, {"item_id": ["s2"], "price_endings": [[0.55, 0.35]]}),
    ):
        found = policy.recommend(panel, rules, limits=None if limits is None else pd.DataFrame(limits))
        assert found["price"].iloc[:3].nunique() == 1, (rules, limits)
    assert set(found["price"].iloc[:3].mul(100).round().mod(100)) == {55}


def test_the_rule_of_one_member_binds_the_whole_zone(policy) -> None:
    panel = panel_of(zoned_log())
    limits = pd.DataFrame({"item_id": ["s1"], "price_floor": [6.4]})
    found = policy.recommend(panel, limits=limits).set_index("item_id")
    assert found.loc[["s0", "s1", "s2"], "price"].tolist() == [6.4] * 3
    assert found.loc[["s0", "s1", "s2"], "binding_rule"].tolist() == ["price_floor"] * 3
    assert found.loc["s9", "price"] < 6.4
    assert found.loc["s9", "binding_rule"] == ""


def test_members_of_a_zone_that_cannot_agree_are_named(policy) -> None:
    panel = panel_of(zoned_log())
    limits = pd.DataFrame({"item_id": ["s1", "s2"], "price_floor": [6.5, np.nan], "price_ceiling": [np.nan, 6.0]})
    with pytest.raises(
        GuardrailError, match=r"'s1' and 's2' share one price.*price_floor \(6.5\).*price_ceiling \(6.0\)"
    ):
        policy.recommend(panel, limits=limits)
    with pytest.raises(GuardrailError, match="items 's1' and 's.' share one price.*maximum_step.*maximum_step"):
        policy.recommend(panel_of(zoned_log((0.0, 2.0, 0.0))), {"maximum_step": 0.05})
    endings = pd.DataFrame({"item_id": ["s0", "s2"], "price_endings": [[0.99], [0.49]]})
    with pytest.raises(GuardrailError, match="'s2' shares one price.*price_endings"):
        policy.recommend(panel, limits=endings)


def test_a_store_without_history_follows_its_zone(policy) -> None:
    table = zoned_log()
    new = (table["item_id"] == "s1") & (table["timestamp"] < table["timestamp"].max())
    with pytest.warns(PanelWarning):
        panel = panel_of(table[~new].assign(price=lambda rows: rows["price"] + 0.4 * (rows["item_id"] == "s1")))
    found = policy.recommend(panel).set_index("item_id")
    assert found["fallback"].tolist() == [False, True, False, False]
    assert found["price"].iloc[:3].nunique() == 1
    assert found.loc["s1", "price"] != found.loc["s1", "current_price"]
    limits = pd.DataFrame({"item_id": ["s1"], "price_floor": [6.0]})
    floored = policy.recommend(panel, limits=limits).set_index("item_id")
    assert floored["price"].iloc[:3].tolist() == [6.0] * 3
    drawn = policy.recommend(panel, explore=True).set_index("item_id")
    assert drawn["price"].iloc[:3].nunique() == drawn["propensity"].iloc[:3].nunique() == 1
    assert drawn.loc["s1", "propensity"] < 1.0


def test_a_zone_without_any_history_has_one_price_too(policy) -> None:
    table = zoned_log((0.0, 0.5, 1.0))
    new = (table["item_id"] != "s9") & (table["timestamp"] < table["timestamp"].max())
    with pytest.warns(PanelWarning):
        found = policy.recommend(panel_of(table[~new])).set_index("item_id")
    assert found["fallback"].tolist() == [True, True, True, False]
    assert found["price"].iloc[:3].nunique() == 1
    assert found.loc["s0", "price"] == found.loc["s0", "current_price"]


def test_a_zone_is_priced_for_one_objective(policy) -> None:
    table = zoned_log()
    table.loc[table["item_id"] == "s1", "cost"] = np.nan
    found = policy.recommend(panel_of(table)).set_index("item_id")
    assert found["objective"].tolist() == ["revenue"] * 3 + ["margin"]
    assert found["price"].iloc[:3].nunique() == 1


def test_the_larger_store_weighs_more_in_a_zone(policy) -> None:
    """Costs pull the two stores apart: dear to serve wants a high price, cheap to serve a low one."""
    prices = {}
    for volumes in ((50.0, 1.0, 1.0), (1.0, 50.0, 1.0)):
        table = zoned_log(volumes=volumes)
        table = table[table["item_id"] != "s2"]
        table["cost"] = table["item_id"].map({"s0": 0.2, "s1": 4.5, "s9": 1.0})
        prices[volumes] = policy.recommend(panel_of(table))["price"].iloc[0]
    assert prices[1.0, 50.0, 1.0] > prices[50.0, 1.0, 1.0]


def test_without_a_product_or_in_another_zone_items_decide_alone(policy) -> None:
    for column in ("product_id", "price_zone"):
        table = zoned_log((0.0, 0.2, -0.3)).drop(columns=column)
        assert policy.recommend(panel_of(table))["price"].iloc[:3].nunique() > 1
    table = zoned_log((0.0, 0.2, -0.3))
    table["product_id"] = table["item_id"].where(table["item_id"] == "s0", "milk")
    found = prices_of(policy.recommend(panel_of(table)))
    assert found[1] == found[2] != found[0]


# -- support ----------------------------------------------------------------------------------------------------------


def test_a_price_that_was_never_tried_is_not_chosen_however_good_it_looks(policy, base, tmp_path) -> None:
    constant = sales_log(items=4).assign(promotion=0.0)
    constant["price"] = constant.groupby("item_id")["price"].transform("first")
    panel = panel_of(constant)
    kept = policy.recommend(panel, objective="units")
    assert (kept["price"] / kept["current_price"]).between(1 / 1.0126, 1.0126).all()
    assert kept["supported"].all()
    # The same network, told that the category was sold at every rung: now it cuts as deep as it can.
    everywhere = [[9] * 43, [9] * 43]
    told = write_adapter(tmp_path / "a", base, None, start=0.0, has_policy=False, items_at_rung=everywhere)
    moved = PricingPolicy.from_pretrained(base, adapter=told).recommend(panel, objective="units")
    assert (moved["price"] / moved["current_price"] < 0.6).all()
    assert moved["supported"].all()


def test_rules_may_force_a_price_that_was_never_tried_and_then_it_says_so(policy, panel) -> None:
    found = policy.recommend(panel, {"price_floor": 20.0})
    assert found["price"].tolist() == [20.0] * 8
    assert not found["supported"].any()
    assert found["binding_rule"].tolist() == ["price_floor"] * 8
    assert found["explanation"].str.contains("OUTSIDE what the log has tried").all()


def test_a_rule_that_pushes_the_current_price_off_support_does_not_make_that_price_eligible(policy) -> None:
    """Sold at 9 without promotion and once at 3 with one; without promotion only 9 has support, units want less."""
    table = sales_log(items=1, weeks=16).assign(promotion=0.0, price=9.0)
    table.loc[table.index[-1:], ["price", "promotion"]] = [3.0, 1.0]
    kept = policy.recommend(panel_of(table), objective="units")
    assert (kept["price"].tolist(), kept["supported"].tolist()) == ([3.0], [False])  # no rule moves it: it may stay
    forced = policy.recommend(panel_of(table), {"price_floor": 4.0}, objective="units")
    assert forced["supported"].tolist() == [True]
    assert forced["price"].between(9.0 / 1.0126, 9.0 * 1.0126).all()


def planted(rung_price: float, behavior: float):
    """Scores of a policy in love with one price, which the manager would choose with the given log probability."""

    def scores(self, situation, prices, *_) -> PolicyScores:
        dream = np.isclose(prices, rung_price)
        low, high = np.where(dream, behavior, -2.0), np.where(dream, 3.0, -3.0)
        return PolicyScores(behavior=low, policy=high, advantages=np.repeat(dream[..., None] * 5.0, 3, axis=2))

    return scores


@pytest.mark.parametrize("explore", [False, True])
def test_an_optimistic_rung_is_not_chosen_unless_it_was_tried_and_the_manager_would(
    base, tmp_path, monkeypatch, explore: bool
) -> None:
    table = sales_log(items=1).assign(promotion=0.0, price=5.0)
    panel = panel_of(table)
    dream = round(5.0 * np.exp(-0.4), 2)
    tried = [0] * 43
    tried[12] = tried[20] = 5  # exp(-0.7 + 12 * 0.025) = exp(-0.4), and a dearer one: the range between counts as tried
    offered = [tried, [0] * 43]
    blank, known = (
        PricingPolicy.from_pretrained(base, adapter=write_adapter(tmp_path / name, base, None, items_at_rung=rungs))
        for name, rungs in (("blank", None), ("known", offered))
    )

    def price(policy: PricingPolicy, behavior: float) -> float:
        monkeypatch.setattr(Engine, "scores", planted(dream, behavior))
        found = policy.recommend(panel, explore=explore)
        assert found["supported"].all()
        return float(found["price"].iloc[0])

    assert price(blank, behavior=-0.5) != dream  # the manager would, but nobody ever did
    assert price(known, behavior=-15.0) != dream  # it was done elsewhere, but never in such a state
    assert price(known, behavior=-0.5) == dream
    monkeypatch.setattr("pricing_fm.policy.recommend.BEHAVIOR_THRESHOLD", 1e-300)
    assert price(known, behavior=-15.0) == dream  # it was the threshold that held it back


def test_policy_and_value_both_have_a_say(base, tmp_path, monkeypatch) -> None:
    table = sales_log(items=1, weeks=16).assign(promotion=0.0, price=[4.0, 6.0] * 7 + [5.0] * 2)
    panel = panel_of(table)
    liked, valuable = (round(5.0 * np.exp(rung * 0.025), 2) for rung in (-4, 4))

    def scores(self, situation, prices, *_) -> PolicyScores:
        advantages = 0.1 * np.repeat(np.isclose(prices, valuable)[..., None], 3, axis=2)
        return PolicyScores(np.full(prices.shape, -1.0), np.where(np.isclose(prices, liked), 0.0, -3.0), advantages)

    monkeypatch.setattr(Engine, "scores", scores)
    for aggressiveness, expected in ((0.0, liked), (20.0, liked), (500.0, valuable)):
        adapter = write_adapter(tmp_path / str(aggressiveness), base, None, aggressiveness=aggressiveness)
        found = PricingPolicy.from_pretrained(base, adapter=adapter).recommend(panel)
        assert found["price"].tolist() == [expected]


def test_a_value_that_the_members_disagree_about_counts_for_less(base, tmp_path, monkeypatch) -> None:
    table = sales_log(items=1, weeks=16).assign(promotion=0.0, price=[4.0, 6.0] * 7 + [5.0] * 2)
    sure, unsure = (round(5.0 * np.exp(rung * 0.025), 2) for rung in (-4, 4))

    def scores(self, situation, prices, *_) -> PolicyScores:
        advantages = np.zeros((*prices.shape, 2))
        advantages[np.isclose(prices, sure)] = [0.10, 0.10]
        advantages[np.isclose(prices, unsure)] = [-0.40, 0.64]
        return PolicyScores(np.full(prices.shape, -1.0), np.full(prices.shape, -2.0), advantages)

    monkeypatch.setattr(Engine, "scores", scores)
    policy = PricingPolicy.from_pretrained(base, adapter=write_adapter(tmp_path / "a", base, None))
    assert policy.recommend(panel_of(table))["price"].tolist() == [sure]


def test_prices_under_a_promotion_need_support_under_a_promotion(policy) -> None:
    table = sales_log(items=1).assign(promotion=0.0)
    panel = panel_of(table)
    plan = pd.DataFrame({"item_id": "i00", "timestamp": panel.last_observed + pd.Timedelta(weeks=1) * np.arange(1, 5)})
    found = policy.recommend(panel, future=plan.assign(price=5.0, promotion=1.0))
    assert found["price"].tolist() == found["current_price"].tolist()
    assert not found["supported"].any()
    assert policy.recommend(panel, future=plan.assign(price=5.0, promotion=0.0))["supported"].all()
    # What counts is the promotion of the first period that is priced.
    for promotions, supported in (([1.0, 0.0, 0.0, 0.0], True), ([0.0, 1.0, 0.0, 0.0], False)):
        ahead = plan.assign(price=5.0, promotion=promotions)
        late = policy.recommend(panel, future=ahead, decision_lead=1, prediction_length=3)
        assert late["supported"].tolist() == [supported]
