"""Exploration: a draw is repeatable, its probability is the one that is reported, and rules bound what is drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.planning import draw_candidate
from tests.policy_artifacts import panel_of, sales_log, write_adapter, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("explore") / "base")


@pytest.fixture(scope="module")
def policy(base: Path) -> PricingPolicy:
    return PricingPolicy.from_pretrained(base)


@pytest.fixture(scope="module")
def adapted(base: Path) -> PricingPolicy:
    adapter = write_adapter(base.parent / "adapter", base, category=None, aggressiveness=3.0)
    return PricingPolicy.from_pretrained(base, adapter=adapter)


def twins(copies: int) -> pd.DataFrame:
    """Equal items without a category: the answer to one does not depend on who else is there."""
    one = sales_log(items=1).drop(columns="category")
    return pd.concat([one.assign(item_id=f"twin-{copy:03d}") for copy in range(copies)], ignore_index=True)


@pytest.mark.parametrize("kind", ["plan", "policy"])
def test_the_propensity_is_the_probability_of_the_price(policy, adapted, kind: str, monkeypatch) -> None:
    monkeypatch.setattr("pricing_fm.policy.recommend.EXPLORATION_SHARPNESS", 20.0)
    asked = policy if kind == "plan" else adapted
    rules = {"maximum_step": 0.06, "price_endings": [0.09, 0.19, 0.29, 0.39, 0.49, 0.59, 0.69, 0.79, 0.89, 0.99]}
    found = asked.recommend(panel_of(twins(400)), rules, explore=True, seed=3)
    by_price = found.groupby("price")["propensity"].agg(["min", "max", "count"])
    assert len(by_price) >= 3
    # float32: an item's place in the batch moves the last digits of an adapter's scores.
    np.testing.assert_allclose(by_price["min"], by_price["max"], rtol=1e-9 if kind == "plan" else 1e-5)
    # Every price that can be expected in 400 draws was drawn.
    assert 1.0 - 2 / 400 < by_price["min"].sum() < 1.0 + 1e-5
    expected = 400 * by_price["min"]
    assert (np.abs(by_price["count"] - expected) < 4 * np.sqrt(expected) + 1).all()


def test_a_draw_is_a_function_of_seed_item_and_timestamp(policy: PricingPolicy, monkeypatch) -> None:
    monkeypatch.setattr("pricing_fm.policy.recommend.EXPLORATION_SHARPNESS", 5.0)
    panel = panel_of(twins(30))
    first = policy.recommend(panel, explore=True, seed=1)
    pd.testing.assert_frame_equal(first, policy.recommend(panel, explore=True, seed=1))
    alone = policy.recommend(panel.select_items(["twin-007"]), explore=True, seed=1)
    pd.testing.assert_frame_equal(alone, first[first["item_id"] == "twin-007"].reset_index(drop=True))
    for other in (
        policy.recommend(panel, explore=True, seed=2),
        policy.recommend(panel, explore=True, seed=1, decision_lead=1),
    ):
        assert (other["price"] != first["price"]).sum() > 10
    assert first["price"].nunique() > 5
    assert (first["propensity"] < 1).all()


def test_rungs_that_a_rule_moves_onto_one_price_count_once() -> None:
    final = np.array([[4.5, 4.5, 4.5, 5.0, 5.5, 5.5]])
    allowed = np.array([[True, True, True, True, False, True]])
    draws = [draw_candidate(np.zeros((1, 6)), allowed, final, np.array([u])) for u in np.linspace(0, 0.9999, 30)]
    assert {float(final[0, column[0]]) for column, _ in draws} == {4.5, 5.0, 5.5}
    assert all(propensity[0] == pytest.approx(1 / 3) for _, propensity in draws)
    counts = np.bincount([int(column[0]) for column, _ in draws], minlength=6)
    assert counts.tolist() == [10, 0, 0, 10, 0, 10]
    end, _ = draw_candidate(np.zeros((1, 6)), np.array([[True, True, False, False, False, False]]), final, np.ones(1))
    assert end[0] == 0


def test_the_rule_that_is_named_bounds_the_price_that_was_drawn(policy: PricingPolicy, monkeypatch) -> None:
    monkeypatch.setattr("pricing_fm.policy.recommend.EXPLORATION_SHARPNESS", 1.0)
    found = policy.recommend(panel_of(twins(60)), {"maximum_step": 0.06}, explore=True)
    ratio = found["price"] / found["current_price"]
    at_limit = (ratio - 1).abs() > 0.058
    assert 0 < at_limit.sum() < len(found)
    assert found["binding_rule"].tolist() == ["maximum_step" if edge else "" for edge in at_limit]
