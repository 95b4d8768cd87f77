"""Randomised experiments: panels of batches hold every decision once, and the tests have the right size and power."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.adapters import LoraArguments, base_tensors
from pricing_fm.artifact import tensor_fingerprint
from pricing_fm.errors import PanelError
from pricing_fm.evaluation.randomised_network import BatchArguments, adapt_to_half, read_curves
from pricing_fm.evaluation.randomised_panels import Experiment, assign_arms, build_batched_panel, split_halves
from pricing_fm.evaluation.randomised_prices import non_monotone_cells, score_predictions
from pricing_fm.evaluation.randomised_rivals import predict_with_rival
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.results import read_results
from pricing_fm.training.adapt import AdaptArguments, AdaptOptimArguments
from pricing_fm.training.arguments import OutputArguments
from recipes import randomised_prices
from tests.policy_artifacts import quick_collections, write_base

LEVELS = {"high": 0.06, "low": 0.15}


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


def offers(seed: int, rows: int = 6000, elasticity: float = 0.8) -> tuple[Experiment, np.ndarray]:
    """Binary take-up of offers whose price was drawn by chance, and its true probability."""
    random = np.random.default_rng(seed)
    item = random.choice(list(LEVELS), rows)
    price = random.choice(np.arange(4.0, 12.0, 0.5), rows)
    truth = np.array([LEVELS[name] for name in item]) * (price / 8) ** -elasticity
    table = pd.DataFrame(
        {"item": item, "arm": "", "price": price, "outcome": (random.random(rows) < truth).astype(float)}
    )
    return Experiment("offers", table.assign(exposure=1.0, cluster=np.arange(rows).astype(str)), 5, True), truth


def visits(seed: int, persons: int = 600, years: int = 4) -> tuple[Experiment, np.ndarray]:
    """Counts of persons over years under six plans; a person's years share a frailty. And the true mean."""
    random = np.random.default_rng(seed)
    plan = random.integers(6, size=persons)
    frailty = random.gamma(1.0, 1.0, persons)
    price = np.array([0.05, 0.2, 0.25, 0.5, 0.8, 0.9])[plan]
    mean = 3.0 * price**-0.15
    table = pd.DataFrame({"item": "site", "arm": [f"plan {p}" for p in plan], "price": price, "exposure": 1.0})
    table["cluster"] = np.arange(persons).astype(str)
    table = table.loc[np.repeat(np.arange(persons), years)].reset_index(drop=True)
    table["outcome"] = random.poisson(np.repeat(mean * frailty, years)).astype(float)
    return Experiment("visits", table, None, False), np.repeat(mean, years)


def test_the_test_has_its_size_under_the_truth_and_power_against_a_constant() -> None:
    p_values: dict[str, list[float]] = {"truth": [], "shape of truth": [], "price_blind": [], "shape of blind": []}
    for seed in range(120):
        experiment, truth = offers(seed, rows=5000)
        score = score_predictions(experiment, truth, np.random.default_rng(seed))
        p_values["truth"].append(score.test.p_value)
        p_values["shape of truth"].append(score.shape.p_value)
        blind = predict_with_rival("price_blind", experiment, experiment.decisions)
        score = score_predictions(experiment, blind, np.random.default_rng(seed))
        p_values["price_blind"].append(score.test.p_value)
        p_values["shape of blind"].append(score.shape.p_value)
    rejected = {name: np.mean(np.array(values) < 0.05) for name, values in p_values.items()}
    # 120 draws at 5 %: 0.05 + 3 x 0.02.
    assert 0 < rejected["truth"] <= 0.11
    assert 0 < rejected["shape of truth"] <= 0.11
    assert abs(np.mean(p_values["truth"]) - 0.5) < 0.08
    assert rejected["price_blind"] > 0.9
    assert rejected["shape of blind"] > 0.9


def test_a_wrong_level_fails_the_test_but_not_that_of_the_shape() -> None:
    experiment, truth = offers(1, rows=20_000)
    score = score_predictions(experiment, 1.3 * truth, np.random.default_rng(0))
    assert score.test.p_value < 1e-6
    assert score.shape.p_value > 0.01
    assert score.shape.degrees == 8  # ten cells, and the level of each of two items


@pytest.mark.parametrize("predicted_elasticity", [0.0, 0.8, 2.0])
def test_the_missing_elasticity_is_found(predicted_elasticity: float) -> None:
    experiment, _ = offers(2, rows=60_000)
    table = experiment.decisions
    level = table["item"].map(LEVELS).to_numpy()
    predicted = level * (table["price"].to_numpy() / 8) ** -predicted_elasticity
    score = score_predictions(experiment, predicted, np.random.default_rng(0))
    # Linear in the residuals, so a curve that is far too steep is only found to be so, not by how much.
    missing = 0.8 - predicted_elasticity
    assert abs(score.excess_elasticity - missing) < 4 * score.excess_error + 0.25 * abs(missing)
    assert (abs(score.excess_elasticity / score.excess_error) > 4) == (abs(missing) > 0.1)


def test_visits_of_one_person_count_as_one_draw() -> None:
    by_person, by_row = [], []
    for seed in range(100):
        experiment, truth = visits(seed)
        rows = np.arange(len(truth)).astype(str)
        alone = replace(experiment, decisions=experiment.decisions.assign(cluster=rows))
        by_person.append(score_predictions(experiment, truth, np.random.default_rng(0)).test.p_value < 0.05)
        by_row.append(score_predictions(alone, truth, np.random.default_rng(0)).test.p_value < 0.05)
    assert np.mean(by_person) < 0.14  # a cell has about 100 persons, so the variance itself is estimated
    assert np.mean(by_row) > 0.4


def test_log_loss_is_that_of_the_decisions() -> None:
    experiment, truth = offers(3)
    y = experiment.decisions["outcome"].to_numpy()
    expected = -np.log(np.where(y == 1, truth, 1 - truth)).mean()
    assert score_predictions(experiment, truth, np.random.default_rng(0)).loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", [0.0, np.nan, 1.0])
def test_a_prediction_that_is_no_probability_is_refused(bad: float) -> None:
    experiment, truth = offers(3)
    truth[7] = bad
    with pytest.raises(ValueError, match="below 1"):
        score_predictions(experiment, truth, np.random.default_rng(0))


def test_cells_that_rise_with_the_price_are_found() -> None:
    cells = pd.DataFrame(
        {"arm": ["a", "b", "c"], "price": [1.0, 2.0, 3.0], "observed": [5.0, 3.0, 4.5], "error": [0.2, 0.2, 0.2]}
    )
    found = non_monotone_cells(cells)
    assert found[["cheaper", "dearer"]].to_numpy().tolist() == [["b", "c"]]
    assert found["rise"].item() == pytest.approx(1.5)


def test_halves_share_no_cluster_and_lose_no_decision() -> None:
    experiment, _ = visits(0)
    learned, judged = split_halves(experiment, seed=4)
    first, second = set(learned.decisions["cluster"]), set(judged.decisions["cluster"])
    assert not first & second
    assert len(first) == len(second) == 300
    assert len(learned.decisions) + len(judged.decisions) == len(experiment.decisions)
    other, _ = split_halves(experiment, seed=5)
    assert set(other.decisions["cluster"]) != first


def test_bins_of_equal_prices_are_equally_full() -> None:
    experiment, _ = offers(0)
    table = experiment.decisions.assign(arm=assign_arms(experiment, np.random.default_rng(0)))
    sizes = table.groupby(["item", "arm"]).size()
    assert len(sizes) == 10
    for _, part in sizes.groupby("item"):
        assert part.max() - part.min() <= 1
    edges = table.groupby(["item", "arm"])["price"].agg(["min", "max"])
    for _, part in edges.groupby("item"):
        assert (part["max"].to_numpy()[:-1] <= part["min"].to_numpy()[1:]).all()


def test_periods_of_a_panel_stand_for_equally_many_decisions() -> None:
    experiment, _ = offers(0)
    batched = build_batched_panel(experiment, np.random.default_rng(0), 100, 20, draws=3, late_share=0.25)
    frame = batched.panel.frame
    frame = frame[frame["units"].notna()]
    assert frame["price_is_intervention"].all()
    taken = experiment.decisions.groupby("item")["outcome"].mean()
    for item_id, rows in frame.groupby("item_id"):
        item = str(item_id).split("#")[0]
        # Five arms of equal size, each cut into a whole number of batches of the early and of the late decisions.
        assert rows["units"].sum() / rows["traffic"].sum() == pytest.approx(taken[item], rel=0.05)
        assert rows["traffic"].nunique() == 1
        assert rows["traffic"].iloc[0] == pytest.approx(batched.exposure[item])
    # Every item ends in the same week: all of them are forecast from there.
    assert (frame.groupby("item_id")["timestamp"].max() == frame["timestamp"].max()).all()
    # Whole batches of each arm: the share of periods is that of the decisions up to half a batch an arm.
    assert batched.late_periods / batched.periods == pytest.approx(0.25, abs=0.06)


def test_late_periods_hold_decisions_that_no_draw_shows_earlier() -> None:
    experiment, _ = offers(0, rows=200)
    # Each decision is known by its units, and is a batch of its own.
    table = experiment.decisions.assign(outcome=1.0 + np.arange(200))
    experiment = Experiment("known", table, 5, is_binary=False)
    batched = build_batched_panel(experiment, np.random.default_rng(0), 1, 5, draws=3, late_share=0.25)
    frame = batched.panel.frame
    frame = frame[frame["units"].notna()]
    weeks = sorted(batched.panel.frame["timestamp"].unique())
    is_late = frame["timestamp"] >= weeks[-batched.late_periods]
    early, late = set(frame.loc[~is_late, "units"]), set(frame.loc[is_late, "units"])
    assert not early & late
    assert len(early | late) == 200
    orders = [tuple(rows["units"]) for _, rows in frame[frame["item_id"].str.startswith("high")].groupby("item_id")]
    assert len(set(orders)) == 3


def test_unequal_exposure_is_scaled_to_one_size() -> None:
    experiment, _ = visits(0)
    random = np.random.default_rng(1)
    years = random.integers(1, 5, len(experiment.decisions)).astype(float)
    table = experiment.decisions.assign(exposure=years, outcome=2.5 * years)
    batched = build_batched_panel(replace(experiment, decisions=table), np.random.default_rng(0), 30)
    units = batched.panel.frame["units"].dropna().to_numpy()
    np.testing.assert_allclose(units, 2.5 * batched.exposure["site"], rtol=0.02)


def test_the_regression_finds_the_truth_and_the_constants_are_means() -> None:
    experiment, truth = offers(5, rows=100_000)
    table = experiment.decisions
    regression = predict_with_rival("regression", experiment, table)
    assert np.abs(regression / truth - 1).max() < 0.15
    blind = predict_with_rival("price_blind", experiment, table)
    high = (table["item"] == "high").to_numpy()
    assert blind[high] == pytest.approx(table.loc[high, "outcome"].mean())
    constant = predict_with_rival("constant", experiment, table)
    assert constant == pytest.approx(table["outcome"].mean())
    counts, mean = visits(5, persons=8000)
    assert np.abs(predict_with_rival("regression", counts, counts.decisions) / mean - 1).max() < 0.1
    with pytest.raises(ValueError, match="never|none"):
        predict_with_rival("regression", counts, table)


@pytest.mark.parametrize(("column", "value"), [("price", 0.0), ("outcome", 0.5), ("exposure", np.nan)])
def test_decisions_that_cannot_be_are_refused(column: str, value: float) -> None:
    experiment, _ = offers(0, rows=50)
    table = experiment.decisions.copy()
    table.loc[3, column] = value
    with pytest.raises(PanelError):
        Experiment("broken", table, 5, True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("randomised") / "base")


def test_an_adapter_moves_the_curve_towards_the_half_and_leaves_the_base(base: Path, tmp_path: Path) -> None:
    model, processor, _ = load_base(base)
    before = tensor_fingerprint(base_tensors(model))
    experiment, _ = offers(6, rows=12_000)
    learned, judged = split_halves(experiment, 0)
    batches = BatchArguments(100, 20, adaptation_draws=2, curve_draws=2)
    prices = experiment.decisions["price"].tolist()
    zero_shot = read_curves(PricingPolicy(model, processor), learned, prices, batches, 0)
    policy, result = adapt_to_half(
        model, processor, learned, batches, AdaptArguments(demand_steps=24, window_length=4), LoraArguments(),
        AdaptOptimArguments(learning_rate=1e-2), OutputArguments(str(tmp_path)), seed=0,
    )  # fmt: skip
    adapted = read_curves(policy, learned, prices, batches, 0)
    losses = [
        score_predictions(judged, np.minimum(c.at(judged.decisions), 0.99), np.random.default_rng(0)).loss
        for c in (zero_shot, adapted)
    ]
    assert result.demand_steps > 0
    assert losses[1] < losses[0]
    assert tensor_fingerprint(base_tensors(model)) == before
    for curve in adapted.demand.values():
        assert (np.diff(curve) <= 1e-12).all()  # along a constant path demand never rises with the price


def test_the_recipe_judges_every_model_in_every_order(base: Path, tmp_path: Path) -> None:
    experiment, _ = offers(7, rows=3000)
    experiment.decisions.to_parquet(tmp_path / "decisions.parquet", index=False)
    rows = randomised_prices.main(
        [
            *("--base", str(base), "--decisions", str(tmp_path / "decisions.parquet"), "--name", "offers"),
            *("--output_dir", str(tmp_path / "out"), "--bins", "5", "--is_binary", "--orders", "2", "--no_adapted"),
            *("--curve_draws", "1", "--exposure_per_period", "100"),
        ]
    )
    assert read_results(tmp_path / "out").metrics == tuple(rows)
    found = {(row.model, row.seed) for row in rows if row.name == "chi_square_p"}
    assert found == {(m, s) for m in ("regression", "price_blind", "constant", "zero_shot") for s in (0, 1)}
    ratio = {row.model: row.value for row in rows if row.name == "log_loss_to_regression"}
    assert ratio["regression"] == 1
    assert ratio["zero_shot"] > 1  # a network of random weights
    cells = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert len(cells) == 2 * 4 * 10
