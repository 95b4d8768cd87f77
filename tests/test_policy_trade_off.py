"""Fronts of planned prices: the ends are known plans, nothing on them is beaten, weights buy what they pay for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.options import KEEP, LISTED, OWN, PriceOptions
from pricing_fm.policy.recommend import CAUTION
from pricing_fm.policy.trade_off import (
    OBJECTIVES,
    build_terms,
    find_dominated,
    measure_points,
    measure_shortfall,
    plan_front,
    planned_terms,
)
from tests.policy_artifacts import panel_of, sales_log, write_adapter, write_base

SWEEPS = {
    "units": (0.0, 0.1, 0.3, 1.0, 5.0),
    "revenue": (0.0, 0.3, 1.0, 5.0),
    "satisfaction": (0.0, 0.3, 0.7, 1.0),
    "price_change": (0.0, 0.05, 0.3, 50.0),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("front") / "base")


@pytest.fixture(scope="module")
def policy(base: Path) -> PricingPolicy:
    return PricingPolicy.from_pretrained(base)


@pytest.fixture(scope="module")
def options(policy: PricingPolicy) -> PriceOptions:
    return policy.price_options(panel_of(sales_log(items=8)), prediction_length=4)


def prices_of(options: PriceOptions, columns: np.ndarray) -> np.ndarray:
    return options.prices[np.arange(len(options)), columns]


def test_options_are_the_ladder_the_current_and_the_list_price(options: PriceOptions) -> None:
    panel = panel_of(sales_log(items=8)).frame.groupby("item_id").last()
    np.testing.assert_array_equal(options.prices[:, OWN], panel["price"])
    np.testing.assert_array_equal(options.prices[:, KEEP], panel["price"])
    np.testing.assert_allclose(options.prices[:, LISTED], panel["list_price"], rtol=1e-6)
    np.testing.assert_array_equal(options.costs, panel["cost"])
    assert options.allowed.shape == (8, options.prices.shape[1] - 2)
    assert options.allowed[:, KEEP + 2].all()
    assert not options.allowed.all()
    # Demand falls along the prices, whatever column they stand in.
    ordered = np.take_along_axis(options.expected_units, options.prices.argsort(1), axis=1)
    assert (np.diff(ordered) <= 1e-6).all()


@pytest.mark.parametrize("objective", ["margin", "revenue", "units"])
def test_the_ends_of_a_front_are_what_recommend_says(policy: PricingPolicy, objective: str) -> None:
    panel = panel_of(sales_log(items=8))
    rules = {"maximum_step": 0.15, "price_endings": [0.09, 0.49, 0.99]}
    told = policy.recommend(panel, rules, objective=objective)
    options = policy.price_options(panel, rules)
    weights = RewardWeights(**({"margin": 0.0} | {objective: 1.0}))
    value = planned_terms(options).value(weights)
    if objective == "units":  # a unit is worth its own price here: one currency unit, then
        value = type(value)(
            value.mean / options.current_price[:, None], value.members / options.current_price[:, None, None]
        )
    chosen = prices_of(options, options.choose(value, CAUTION))
    np.testing.assert_array_equal(chosen, told["price"])
    assert (told["price"] != told["current_price"]).any()


def test_items_that_share_a_price_share_it_at_every_point(policy: PricingPolicy) -> None:
    table = sales_log(items=4).assign(price_zone="north")
    table["product_id"] = table["item_id"].map({"i00": "a", "i02": "a", "i01": "b", "i03": "c"})
    for column in ("price", "list_price", "cost"):
        shared = table[table["item_id"] == "i00"][column].to_numpy()
        table.loc[table["item_id"] == "i02", column] = shared
    options = policy.price_options(panel_of(table))
    plan = plan_front(options, planned_terms(options), RewardWeights(), SWEEPS, CAUTION)
    charged = np.array([prices_of(options, columns) for columns in plan.columns])
    np.testing.assert_array_equal(charged[:, 0], charged[:, 2])
    assert len(np.unique(charged[:, 0])) > 1


@pytest.mark.parametrize("sweep", SWEEPS)
def test_more_weight_buys_more_of_the_other_for_less_margin_and_nothing_is_beaten(options, sweep: str) -> None:
    terms = planned_terms(options)
    table = plan_front(options, terms, RewardWeights(), {sweep: SWEEPS[sweep]}, 0.0).table
    planned = table[table["kind"] == "planned"]
    assert list(planned["weight"]) == list(SWEEPS[sweep])
    other = planned[OBJECTIVES[sweep]].to_numpy()
    assert (np.diff(other) >= -1e-9).all()
    assert (np.diff(planned["margin"]) <= 1e-9).all()
    assert other[-1] > other[0]
    assert planned["margin"].iloc[0] > planned["margin"].iloc[-1]
    assert not planned["dominated"].any()
    marks = table.set_index("kind").loc[["current", "list"]]
    assert marks.loc["current", ["margin_change", "units_change", "surplus_change", "changed"]].abs().max() < 1e-12
    if sweep == "price_change":
        assert planned["kept"].iloc[-1] == pytest.approx(1.0)
        assert planned["margin"].iloc[-1] == pytest.approx(marks.loc["current", "margin"])
    else:
        assert planned["margin"].iloc[0] > marks.loc["current", "margin"]


def test_what_points_bring_is_the_sum_of_their_items(options: PriceOptions) -> None:
    terms = planned_terms(options)
    column = np.full(len(options), options.prices.shape[1] + LISTED)
    found = measure_points(options, terms, column[None]).iloc[0]
    units, now = options.expected_units[:, LISTED], options.expected_units[:, OWN]
    listed, current = options.prices[:, LISTED], options.prices[:, OWN]
    assert found["units"] == pytest.approx(units.sum())
    assert found["revenue"] == pytest.approx((listed * units).sum())
    assert found["margin"] == pytest.approx(((listed - options.costs) * units).sum())
    kept = ((current - options.costs) * now).sum()
    assert found["margin_change"] == pytest.approx((found["margin"] - kept) / kept)
    stays = np.abs(listed - current) <= 1e-6 * current
    assert found["changed"] == pytest.approx(1 - stays.mean())
    assert found["kept"] == pytest.approx((current * now)[stays].sum() / (current * now).sum())


def test_surplus_is_the_area_under_the_curve_between_two_prices(options: PriceOptions) -> None:
    """A straight demand curve: the area is a trapezium, wherever candidates stand."""
    demand = 50.0 - 2.0 * options.prices
    terms = build_terms(options, np.repeat(demand[..., None], 2, axis=2))
    current = options.prices[:, [OWN]]
    expected = (current - options.prices) * (100.0 - 2.0 * (current + options.prices)) / 2
    np.testing.assert_allclose(terms.mean["satisfaction"], expected, atol=1e-9)
    # A change is paid once, a share of what the item sells for in a period; no other column of the same price pays.
    per_period = options.prices[:, OWN] * demand[:, OWN] / 4
    changed = np.abs(options.prices - current) > 1e-6 * current
    np.testing.assert_allclose(terms.mean["price_change"], -1.0 * changed * per_period[:, None])
    np.testing.assert_allclose(terms.mean["units"], options.current_price[:, None] * demand)


def test_a_point_that_another_one_beats_is_marked() -> None:
    table = pd.DataFrame(
        {"sweep": ["units"] * 4 + ["revenue"], "margin": [10.0, 9.0, 9.0, 8.0, 1.0], "units": [1.0, 3.0, 2.0, 3.0, 9.0]}
    ).assign(revenue=0.0)
    assert find_dominated(table).tolist() == [False, False, True, True, False]
    twins = pd.DataFrame({"sweep": "units", "margin": [5.0, 5.0], "units": [2.0, 2.0]})
    assert not find_dominated(twins).any()


def test_the_shortfall_is_measured_at_as_much_of_the_other() -> None:
    front = pd.DataFrame(
        {"sweep": "units", "margin": [10.0, 8.0, 0.0], "units": [2.0, 4.0, 1.0], "dominated": [False, False, True]}
    )
    points = pd.DataFrame({"sweep": "units", "margin": [7.0, 7.0, 7.0, 7.0], "units": [1.0, 3.0, 4.0, 5.0]})
    np.testing.assert_allclose(measure_shortfall(front, points), [3.0, 2.0, 1.0, np.nan])


def test_an_adapter_moves_the_front(base: Path, tmp_path: Path) -> None:
    panel = panel_of(sales_log(items=6))
    adapter = write_adapter(tmp_path / "a", base, "snacks", start=0.3, has_policy=False)
    plain, adapted = (PricingPolicy.from_pretrained(base, adapter=one).price_options(panel) for one in (None, adapter))
    snacks = np.arange(6) % 2 == 0
    assert np.abs(adapted.expected_units / plain.expected_units - 1)[snacks].max() > 1e-3
    np.testing.assert_allclose(adapted.expected_units[~snacks], plain.expected_units[~snacks], rtol=1e-5)


@pytest.mark.parametrize(
    "sweeps, weights, message",
    [
        ({}, RewardWeights(), "expected one or more"),
        ({"margin": (1.0,)}, RewardWeights(), "expected one or more"),
        ({"units": ()}, RewardWeights(), "weights for each"),
        ({"units": (1.0,)}, RewardWeights(stock_target=1.0), "without stock"),
    ],
)
def test_fronts_that_make_no_sense_are_refused(options, sweeps, weights: RewardWeights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_front(options, planned_terms(options), weights, sweeps, 0.0)
