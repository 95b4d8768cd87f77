"""Reading decisions, what was known before each, and which prices and promotions were ever tried."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricing_fm.evaluation.off_policy import (
    DecisionLog,
    SupportRules,
    UnsupportedPair,
    build_support_map,
    read_decisions,
    read_simulated_decisions,
    read_true_propensities,
)
from pricing_fm.evaluation.off_policy.change_rhythm import ChangeRhythm
from pricing_fm.evaluation.off_policy.decision_history import SCORES, trace_history
from pricing_fm.evaluation.off_policy.decision_log import find_recent_high, place_on_ladder
from pricing_fm.markets import SimulatedLog
from pricing_fm.panel import load_panel

LADDER = (0.8, 0.9, 1.0)
TARGET_SHAPE = (3, 5, 3, 2)


def hand_log() -> DecisionLog:
    """Three items of two categories over five periods; items a and b are one product in one price zone."""
    rungs = np.array([[2, 2, 0, 0, 2], [2, 2, 0, -1, 0], [2, 1, 1, 2, 1]])
    nothing = np.full(rungs.shape, np.nan)
    return DecisionLog(
        price_ladder=np.array(LADDER),
        rungs=rungs,
        promotions=np.array([[0, 0, 1, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]], dtype=bool),
        observed=rungs >= 0,
        item_ids=np.array(["a", "b", "c"]),
        products=np.array(["milk", "milk", "tea"]),
        zones=np.array(["north", "north", "north"]),
        categories=np.array(["dairy", "dairy", "drinks"]),
        timestamps=np.datetime64("2024-01-01") + 7 * np.arange(5),
        reference_prices=np.ones(rungs.shape),
        units=np.ones(rungs.shape),
        inventory=nothing,
        costs=nothing,
    )


def sales_table(weeks: int = 6) -> pd.DataFrame:
    ratios = {"milk|1": [1.0, 0.9, 0.9, 0.8, 1.0, 1.0], "tea|1": [1.0, 1.0, 0.8, 0.8, 1.0, 0.9]}
    rows = [
        {
            "item_id": item,
            "timestamp": pd.Timestamp("2024-01-01") + pd.Timedelta(weeks=week),
            "units": 5.0 + week,
            "price": round(4.0 * multiplier, 2),
            "list_price": 4.0,
            "cost": 2.0,
            "promotion": float(multiplier < 0.85),
            "product_id": item.split("|")[0],
        }
        for item, multipliers in ratios.items()
        for week, multiplier in enumerate(multipliers[:weeks])
    ]
    return pd.DataFrame(rows)


def test_a_panel_becomes_rungs_promotions_and_what_was_known() -> None:
    table = sales_table().drop(index=2)  # a week without a row: its price is carried over and no decision
    log = read_decisions(load_panel(table), LADDER)
    np.testing.assert_array_equal(log.rungs, [[2, 1, -1, 0, 2, 2], [2, 2, 0, 0, 2, 1]])
    np.testing.assert_array_equal(log.observed, log.rungs >= 0)
    np.testing.assert_array_equal(log.promoted, [[0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0]])
    assert list(log.item_ids) == ["milk|1", "tea|1"]
    assert list(log.products) == ["milk", "tea"]
    assert np.isnan(log.units[0, 2])
    assert log.costs[1, 3] == 2.0
    assert log.decided.sum() == 9  # neither the first week of each item nor the week without a row
    # Without a list price, prices are measured by the highest of the weeks before.
    recent = read_decisions(load_panel(table.drop(columns=["list_price"])), LADDER, reference="recent_high")
    np.testing.assert_array_equal(recent.rungs, [[-1, 1, -1, 0, 2, 2], [-1, 2, 0, 0, 2, 1]])


def test_a_panel_that_does_not_fit_the_question_is_refused() -> None:
    table = sales_table()
    with pytest.raises(ValueError, match="has no list_price.*recent_high"):
        read_decisions(load_panel(table.drop(columns=["list_price"])), LADDER)
    with pytest.raises(ValueError, match="further than .* from the nearest rung"):
        read_decisions(load_panel(table), (1.0, 1.01))
    with pytest.raises(ValueError, match="increasing multiples"):
        read_decisions(load_panel(table), (1.0, 0.9))
    log = hand_log()
    with pytest.raises(ValueError, match=r"rungs\[1, 3\] is -1"):
        replace(log, observed=np.ones(log.shape, dtype=bool))
    with pytest.raises(ValueError, match="products have shape"):
        replace(log, products=np.array(["milk"]))


def test_the_reference_does_not_know_the_decision() -> None:
    prices = np.array([[4.0, 5.0, np.nan, 3.0, 3.0]])
    np.testing.assert_array_equal(find_recent_high(prices, periods=2), [[np.nan, 4.0, 5.0, 5.0, 3.0]])
    rungs, gaps = place_on_ladder(np.array([0.79, 0.86, np.nan]), np.array(LADDER))
    np.testing.assert_array_equal(rungs, [0, 1, -1])
    assert gaps[0] == pytest.approx(abs(np.log(0.79 / 0.8)))


def test_a_simulated_log_keeps_its_rungs_and_true_propensities(tiny_log: SimulatedLog) -> None:
    log, propensities = read_simulated_decisions(tiny_log), read_true_propensities(tiny_log)
    frame = tiny_log.panel
    assert list(log.item_ids) == list(frame["item_id"].unique())
    np.testing.assert_array_equal(propensities.ravel(), frame["propensity"])
    ratios = (frame["price"] / frame["list_price"]).to_numpy().reshape(log.shape)
    assert np.median(np.abs(log.price_ladder[log.rungs] / ratios - 1.0)) < 0.01
    # Prices that were drawn at random are no decisions of the manager.
    assert np.asarray(log.interventions).sum() > 50
    assert not log.decided[np.asarray(log.interventions)].any()


def test_the_decision_of_a_week_enters_what_is_known_from_the_next_week_on() -> None:
    log = hand_log()
    rungs, promotions, units = log.rungs.copy(), np.array(log.promotions), log.units.copy()
    rungs[2, 2], promotions[2, 2], units[2, 2] = 0, True, 50.0
    before, after = trace_history(log), trace_history(replace(log, rungs=rungs, promotions=promotions, units=units))
    same = (before.items != 2) | (before.periods <= 2)
    for name in ("last", "regular", "scalars", "scores"):
        np.testing.assert_array_equal(getattr(before, name)[same], getattr(after, name)[same])
    following = (before.items == 2) & (before.periods == 3)
    assert before.last[following] == 1
    assert after.last[following] == 0
    for name in ("recent_sales", "last_promotion", "recent_discount"):
        assert before.scalar(name)[following] != after.scalar(name)[following]


def test_what_is_known_by_hand() -> None:
    log = replace(hand_log(), costs=np.array([[0.5] * 4 + [0.55], [0.5] * 5, [0.5] * 5]))
    log = replace(log, inventory=np.array([[9.0, 9.0, 9.0, 9.0, 19.0], [np.inf] * 5, [9.0] * 5]))
    history = trace_history(log)
    row = np.flatnonzero((history.items == 0) & (history.periods == 4))[0]
    assert (history.last[row], history.regular[row]) == (0, 2)  # two periods each: the higher rung is the regular one
    assert history.scalar("is_regular")[row] == 0.0
    assert history.scalar("distance_to_regular")[row] == pytest.approx(np.log(0.8))
    assert history.scalar("log_age")[row] == pytest.approx(np.log(2.0))
    assert history.scalar("stock")[row] == pytest.approx(np.log(2.0))
    assert history.scalar("cost_change")[row] == pytest.approx(np.log(1.1))
    # Two periods at 1.0 and two at 0.8 over a cost of 0.5: the usual markup is their geometric mean.
    wish = 0.5 * np.log(0.8) + np.log(0.5 / 0.5) + np.log(1.1)
    assert history.scalar("cost_gap")[row] == pytest.approx(wish - np.log(0.8))
    np.testing.assert_array_equal(history.scores[row, :, SCORES.index("is_previous")], [0, 0, 1])
    counts = np.array([2.0, 0.0, 2.0]) + 0.5 / 3
    np.testing.assert_allclose(history.scores[row, :, SCORES.index("log_share")], np.log(counts / counts.sum()))
    gap = np.flatnonzero((history.items == 1) & (history.periods == 4))[0]
    assert history.scalar("log_age")[gap] == pytest.approx(np.log(2.0))  # the unrecorded period counts
    assert history.scalar("stock")[gap] == 0.0


def test_the_rhythm_finds_a_calendar_that_the_age_of_the_price_cannot_show() -> None:
    random = np.random.default_rng(0)
    rhythm, age, everyone = ChangeRhythm(200), np.ones(200, dtype=int), np.ones(200, dtype=bool)
    in_phase, out_of_phase, by_age = [], [], []
    for period in range(120):
        mixture, alone = rhythm.forecast(period, age, everyone)
        changed = (random.random(200) < 0.5) & (period % 5 == 0)  # every fifth period, and then by chance
        if period >= 90:
            (in_phase if period % 5 == 0 else out_of_phase).append(mixture.mean())
            by_age.append(alone.mean())
        rhythm.learn(period, age, everyone, changed, everyone)
        age = np.where(changed, 1, age + 1)
    assert np.mean(in_phase) == pytest.approx(0.5, abs=0.06)
    assert np.mean(out_of_phase) < 0.02
    assert np.max(by_age) < 0.45


def test_the_support_map_by_hand() -> None:
    support = build_support_map(hand_log())
    # Item a: 1.0 in periods 0 and 1 and again in 4, 0.8 in 2 (promoted) and 3: one stretch, two pairs.
    np.testing.assert_array_equal(support.item_periods[0], [[1, 1], [0, 0], [3, 0]])
    np.testing.assert_array_equal(support.item_episodes[0], [[1, 1], [0, 0], [2, 0]])
    # Item b: the period without a price does not end the stretch at 0.8.
    np.testing.assert_array_equal(support.item_periods[1], [[0, 2], [0, 0], [2, 0]])
    np.testing.assert_array_equal(support.item_episodes[1], [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(support.item_episodes[2], [[0, 0], [1, 1], [2, 0]])
    assert list(support.categories) == ["dairy", "drinks"]
    np.testing.assert_array_equal(support.category_periods[0], [[1, 3], [0, 0], [5, 0]])
    # a and b are one decision unit: 1.0 from period 0 and 0.8 from period 2 are one decision each, for both.
    np.testing.assert_array_equal(support.category_episodes[0], [[1, 1], [0, 0], [2, 0]])
    apart = build_support_map(replace(hand_log(), zones=np.array(["north", "south", "north"])))
    np.testing.assert_array_equal(apart.category_episodes[0], [[1, 2], [0, 0], [3, 0]])


def test_the_support_of_a_policy_and_the_pairs_outside_by_hand() -> None:
    support = build_support_map(hand_log())
    target = np.zeros(TARGET_SHAPE)
    target[:, :, 2, 0], target[:, :, 1, 1], target[:, :, 0, 0] = 0.5, 0.25, 0.25
    found = support.measure_policy(target)
    # 4, 3 and 4 decisions. a has tried (1.0, no) and (0.8, no); b only (1.0, no); c all but (0.8, no).
    assert found.mass == pytest.approx((4 * 0.75 + 3 * 0.5 + 4 * 0.75) / 11)
    assert np.isnan(found.decision_mass[1, 3])
    assert found.decision_mass[1, 4] == pytest.approx(0.5)
    assert found.unsupported == (
        UnsupportedPair("a", 0.9, True, 1.0),
        UnsupportedPair("c", 0.8, False, 1.0),
        UnsupportedPair("b", 0.8, False, 0.75),
        UnsupportedPair("b", 0.9, True, 0.75),
    )
    shared = support.measure_policy(target, SupportRules("category"))
    assert shared.mass == pytest.approx((4 * 0.75 + 3 * 0.75 + 4 * 0.75) / 11)
    assert shared.unsupported[0] == UnsupportedPair("dairy", 0.9, True, 1.75)
    strict = support.measure_policy(target, SupportRules(least_episodes=2))
    assert strict.mass == pytest.approx((4 * 0.5 + 4 * 0.5) / 11)  # (1.0, no) of a and c was chosen twice
    assert support.measure_policy(target, SupportRules(least_periods=4)).mass == 0.0


def test_support_of_unusable_policies_is_refused() -> None:
    support = build_support_map(hand_log())
    with pytest.raises(ValueError, match="expected \\(3, 5, 3, 2\\)"):
        support.measure_policy(np.ones((3, 5, 3)))
    with pytest.raises(ValueError, match="item 'a' in period 1 sum to 6"):
        support.measure_policy(np.ones(TARGET_SHAPE))
    with pytest.raises(ValueError, match="level is 'shop'"):
        SupportRules("shop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="least_episodes 0"):
        SupportRules(least_episodes=0)
