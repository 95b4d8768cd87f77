"""Confounded logs drawn from experiments: what every estimator makes of them, where the truth is known."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.evaluation.off_policy import (
    NotIdentified,
    OneStepLog,
    OneStepNuisances,
    OneStepOutcome,
    OneStepValue,
    RandomisedDecisions,
    compare_with_answer,
    compute_band_policy,
    compute_clustered_error,
    compute_design_ratios,
    compute_group_policy,
    compute_importance_ratios,
    compute_keep_probabilities,
    compute_kernel_policy,
    estimate_answers,
    estimate_behavior_value,
    estimate_direct,
    estimate_doubly_robust,
    estimate_fitted_q,
    estimate_from_log,
    estimate_per_decision_importance,
    estimate_trajectory_importance,
    fit_nuisances,
    measure_agreement,
    measure_detectable,
    rank_within_cells,
    read_decision_features,
    read_model_values,
    split_rows,
    tilt_design,
)
from pricing_fm.results import read_results

PRICES = np.array([4.0, 5.0, 6.0, 8.0, 10.0, 12.0])
# The second cell was never offered the dearest price.
DESIGN = np.array([[0.1, 0.2, 0.2, 0.2, 0.2, 0.1], [0.3, 0.3, 0.2, 0.1, 0.1, 0.0]])
STRENGTH, REPETITIONS = 1.5, 120
ROBUST = ("importance", "importance_self_normalized", "doubly_robust", "doubly_robust_self_normalized")
NAIVE, WITHHELD = "matched_mean", "doubly_robust_self_normalized_withheld"


def chances(cells: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """True chance of take-up at every price, `(rows, actions)`: falls with the price, rises with `loyalty`."""
    logits = -1.0 + 0.8 * cells[:, None] + 1.2 * covariates[:, :1] - 1.0 * np.log(PRICES / 6.0)
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def offers(seed: int, rows: int = 1500, members: int = 1) -> RandomisedDecisions:
    """An experiment of binary take-up and an amount; households of several members share a price and a shock."""
    random = np.random.default_rng(seed)
    homes = rows // members
    cells = np.repeat(random.integers(2, size=homes), members)
    actions = np.repeat([random.choice(6, p=DESIGN[cell]) for cell in cells[::members]], members)
    covariates = random.normal(size=(homes * members, 2))
    luck = random.random((homes, members))
    luck[:, 1:] = np.where(random.random((homes, members - 1)) < 0.7, luck[:, :1], luck[:, 1:])
    taken = luck.ravel() < chances(cells, covariates)[np.arange(len(cells)), actions]
    amount = np.where(taken, np.exp(1.0 + 0.3 * covariates[:, 1] + 0.2 * random.normal(size=len(cells))), 0.0)
    return RandomisedDecisions(
        actions=actions,
        cells=cells,
        design=DESIGN,
        prices=PRICES,
        covariates=covariates,
        covariate_names=("loyalty", "size"),
        clusters=np.repeat(np.arange(homes), members),
        outcomes=(OneStepOutcome("take_up", taken.astype(float), taken), OneStepOutcome("amount", amount, taken)),
    )


def manage(decisions: RandomisedDecisions) -> np.ndarray:
    """A manager who asks more of the loyal."""
    return tilt_design(decisions, rank_within_cells(decisions.covariate("loyalty"), decisions.cells), STRENGTH)


def write_log(decisions: RandomisedDecisions, seed: int) -> tuple[OneStepLog, OneStepNuisances, np.ndarray]:
    behavior = manage(decisions)
    kept = (
        np.random.default_rng([seed, 1]).random(decisions.num_rows) < compute_keep_probabilities(decisions, behavior)[0]
    )
    log = OneStepLog(decisions.select(kept), behavior[kept])
    columns = np.log(PRICES / 6.0)[:, None]
    return log, fit_nuisances(log, columns, ("loyalty", "size"), ("loyalty",), seed), kept


def take(found: OneStepValue | NotIdentified) -> OneStepValue:
    assert isinstance(found, OneStepValue)
    return found


def test_what_is_kept_has_the_managers_propensities_and_the_experiments_customers() -> None:
    decisions = offers(0)
    behavior = manage(decisions)
    share = compute_keep_probabilities(decisions, behavior)[1]
    everything = np.zeros_like(behavior)
    for action in range(len(PRICES)):
        rows = np.flatnonzero(DESIGN[decisions.cells, action] > 0)
        moved = replace(decisions.select(rows), actions=np.full(len(rows), action))
        # The largest ratio is over all rows and actions, so a subset may have another: compare the unscaled ones.
        kept, scale = compute_keep_probabilities(moved, behavior[rows])
        everything[rows, action] = DESIGN[decisions.cells[rows], action] * kept / scale
    np.testing.assert_allclose(everything, behavior, atol=1e-12)
    assert 0.2 < share < 0.5
    at_rest = tilt_design(decisions, np.zeros(decisions.num_rows), STRENGTH)
    np.testing.assert_allclose(compute_keep_probabilities(decisions, at_rest)[0], 1.0)


def test_closed_forms_equal_the_estimators_of_trajectories_and_of_single_decisions() -> None:
    log, nuisances, kept = write_log(offers(1, rows=1200, members=3), 1)
    decisions, choices = log.decisions, nuisances.choices
    target = compute_band_policy(decisions, 0.0, 0.5)
    for outcome in ("take_up", "amount"):
        found = estimate_from_log(log, nuisances, target)[outcome]
        values = read_model_values(decisions, nuisances.outcomes[outcome], target)
        known = log.trajectories(outcome, log.take(target))
        pooled = log.trajectories(outcome, choices.pool(decisions, target), choices.take(decisions))
        design = log.trajectories(outcome, log.take(target), log.take(decisions.row_design))
        expected = {
            "log_mean": estimate_behavior_value(known),
            "direct": estimate_direct(known, values),
            "fitted_q": estimate_fitted_q(known, read_decision_features(decisions, nuisances.features, target)),
            "matched_mean": estimate_trajectory_importance(design, compute_importance_ratios(design), True),
        }
        for one, ending in ((known, ""), (pooled, "_estimated")):
            ratios = compute_importance_ratios(one)
            for flag, name in ((False, ""), (True, "_self_normalized")):
                whole = estimate_trajectory_importance(one, ratios, flag)
                assert estimate_per_decision_importance(one, ratios, flag).value == pytest.approx(
                    whole.value, rel=1e-12
                )
                expected[f"importance{name}{ending}"] = whole
                expected[f"doubly_robust{name}{ending}"] = estimate_doubly_robust(one, ratios, values, flag)
        for name, value in expected.items():
            closed = take(found[name])
            assert closed.value == pytest.approx(value.value, rel=1e-9), name
            error = compute_clustered_error(value.contributions, two_way=False)
            assert closed.error == pytest.approx(error, rel=1e-9), name
            assert closed.effective_sample_size == pytest.approx(value.effective_sample_size, rel=1e-6), name


@pytest.fixture(scope="module")
def repetitions() -> pd.DataFrame:
    """Estimates of two policies in 120 experiments with the truth, and the answer of another half beside them."""
    rows = []
    for seed in range(REPETITIONS):
        decisions = offers(seed, rows=2400)
        is_first = split_rows(decisions, seed)
        log, nuisances, kept = write_log(decisions.select(is_first), seed)
        truth = chances(decisions.cells, decisions.covariates)
        for policy, ends in (("cheap", (0.0, 0.4)), ("dear", (0.6, 1.0))):
            target = compute_band_policy(decisions, *ends)
            ratios = compute_design_ratios(decisions, target)
            assert not isinstance(ratios, NotIdentified)
            found = dict(estimate_from_log(log, nuisances, target[is_first][kept])["take_up"])
            found["answer"] = estimate_answers(decisions.select(~is_first), ratios[~is_first])["take_up"]
            rows += [
                {
                    "split": seed,
                    "manager": "loyalty",
                    "outcome": "take_up",
                    "policy": policy,
                    "estimator": name,
                    "value": take(value).value,
                    "error": take(value).error,
                    "truth": (target * truth).sum(1).mean(),
                }
                for name, value in found.items()
            ]
    return pd.DataFrame(rows)


def test_a_naive_mean_is_wrong_and_the_estimators_recover_the_truth(repetitions: pd.DataFrame) -> None:
    off = (repetitions["value"] - repetitions["truth"]).groupby([repetitions["estimator"], repetitions["policy"]])
    bias, noise = off.mean(), off.std() / REPETITIONS**0.5
    for name in (*ROBUST, "fitted_q", "answer"):
        assert (bias[name].abs() < 3.5 * noise[name]).all(), (name, bias[name], noise[name])
    for name in (f"{one}_estimated" for one in ROBUST[1:]):
        # A log of 250 decisions does not tell propensities well: most of the bias is gone, not all.
        assert bias[name].abs().mean() < 0.35 * bias[NAIVE].abs().mean(), (name, bias[name])
    for name in (NAIVE, WITHHELD):
        # The loyal paid more: cheap prices look worse than they are, dear ones better.
        assert bias[name, "cheap"] < -0.05
        assert bias[name, "dear"] > 0.05


def test_intervals_hold_the_truth_and_the_other_halfs_answer_as_often_as_they_say(repetitions: pd.DataFrame) -> None:
    covered = ((repetitions["value"] - repetitions["truth"]).abs() <= 1.645 * repetitions["error"]).groupby(
        repetitions["estimator"]
    )
    of_truth = covered.mean()
    agreement = measure_agreement(compare_with_answer(repetitions)).set_index("estimator")
    for name in (*ROBUST, "fitted_q"):
        # 120 experiments with two policies each: 0.9 +- 3 x 0.023.
        assert 0.83 < of_truth[name] < 0.97, name
        assert 0.83 < agreement.loc[name, "coverage"] < 0.97, name
        # The log's own interval is not made to hold another half's answer, which moves by itself.
        assert agreement.loc[name, "holds_point"] == pytest.approx(agreement.loc[name, "expected_to_hold"], abs=0.07)
        assert agreement.loc[name, "holds_point"] < agreement.loc[name, "coverage"]
        assert agreement.loc[name, "rank"] > 0.6
    assert of_truth["direct"] < 0.7  # the model's own error is not in its interval
    for name in (NAIVE, WITHHELD):
        assert of_truth[name] < 0.4
        assert agreement.loc[name, "coverage"] < 0.6
    assert agreement.loc[NAIVE, "rank"] < 0.0


def test_halves_of_one_data_set_differ_as_two_samples_do() -> None:
    decisions = offers(3, rows=600)
    values = decisions.outcome("amount").values
    halves = [split_rows(decisions, seed) for seed in range(600)]
    spread = np.std([values[half].mean() - values[~half].mean() for half in halves])
    assert spread == pytest.approx(values.std(ddof=1) * (2 / 300) ** 0.5, rel=0.1)


def test_a_cluster_is_in_one_half_and_cells_are_halved() -> None:
    decisions = offers(4, rows=900, members=3)
    half = split_rows(decisions, 0)
    for cluster in np.unique(decisions.clusters):
        assert len(set(half[decisions.clusters == cluster])) == 1
    for cell in (0, 1):
        assert abs(half[decisions.cells == cell].sum() - (~half)[decisions.cells == cell].sum()) <= 3


def test_thirds_of_a_price_list_add_up_to_the_experiment() -> None:
    decisions = offers(5, rows=200)
    thirds = [compute_band_policy(decisions, part / 3, (part + 1) / 3) for part in range(3)]
    np.testing.assert_allclose(np.mean(thirds, axis=0), decisions.row_design, atol=1e-12)
    means = [(third * PRICES).sum(axis=1) for third in thirds]
    assert (means[0] < means[1]).all()
    assert (means[1] < means[2]).all()


def test_a_rule_seen_through_a_kernel_stays_near_the_price_it_names() -> None:
    decisions = offers(6, rows=200)
    positions = np.linspace(0.01, 0.99, 200)
    wide, narrow = (compute_kernel_policy(decisions, positions, bandwidth) for bandwidth in (0.5, 1e-3))
    assert set(narrow.max(axis=1)) == {1.0}
    named = PRICES[narrow.argmax(axis=1)]
    reached = np.where(wide > 0, np.abs(np.log(PRICES[None] / named[:, None])), 0.0)
    assert 0.2 < reached.max() < 0.5
    assert (wide[decisions.cells == 1, 5] == 0).all()
    np.testing.assert_allclose(wide.sum(axis=1), 1.0)


def test_an_estimate_does_not_depend_on_the_order_of_the_rows() -> None:
    log, nuisances, _ = write_log(offers(7, rows=900), 7)
    order = np.random.default_rng(0).permutation(log.decisions.num_rows)
    mixed = OneStepLog(log.decisions.select(order), log.propensities[order])
    again = fit_nuisances(mixed, np.log(PRICES / 6.0)[:, None], ("loyalty", "size"), ("loyalty",), 7)
    first, second = (
        estimate_from_log(one, models, compute_band_policy(one.decisions, 0.0, 0.5))["amount"]
        for one, models in ((log, nuisances), (mixed, again))
    )
    for name in first:
        assert take(second[name]).value == pytest.approx(take(first[name]).value, rel=1e-6), name
        assert take(second[name]).error == pytest.approx(take(first[name]).error, rel=1e-6), name


def test_the_logged_policy_is_worth_the_mean_of_the_log() -> None:
    log, nuisances, _ = write_log(offers(8), 8)
    found = estimate_from_log(log, nuisances, log.propensities)["take_up"]
    mean = take(found["log_mean"]).value
    for name in ("importance", "importance_self_normalized"):
        assert take(found[name]).value == pytest.approx(mean, rel=1e-12)
        assert take(found[name]).error == pytest.approx(take(found["log_mean"]).error, rel=1e-9)
    assert take(found["doubly_robust"]).value == pytest.approx(mean, abs=2 * take(found["log_mean"]).error)


def test_a_price_that_was_never_drawn_is_not_identified() -> None:
    log, nuisances, _ = write_log(offers(9, rows=600), 9)
    dearest = compute_group_policy(log.decisions, np.full(log.decisions.num_rows, 5))
    found = estimate_from_log(log, nuisances, dearest)
    refused = compute_design_ratios(log.decisions, dearest)
    share = f"{(log.decisions.cells == 1).mean():.0%}"
    assert isinstance(refused, NotIdentified)
    assert share in refused.reasons[0]
    for by_estimator in found.values():
        assert all(isinstance(one, NotIdentified) for one in by_estimator.values())


def test_what_is_no_experiment_or_no_policy_is_refused() -> None:
    decisions = offers(10, rows=200)
    uniform = np.full((200, 6), 1 / 6)
    with pytest.raises(ValueError, match="sum to 1"):
        replace(decisions, design=DESIGN * 0.9)
    with pytest.raises(ValueError, match="was drawn, whose probability in cell 1 is 0"):
        replace(decisions, actions=np.full(200, 5))
    with pytest.raises(ValueError, match="never fall"):
        replace(decisions, prices=PRICES[::-1])
    with pytest.raises(ValueError, match="missing or infinite"):
        replace(decisions, covariates=np.full((200, 2), np.nan))
    with pytest.raises(ValueError, match="has shape"):
        replace(decisions, clusters=np.arange(3))
    with pytest.raises(ValueError, match="never drew"):
        compute_keep_probabilities(decisions, uniform)
    with pytest.raises(ValueError, match="sum to"):
        compute_design_ratios(decisions, uniform * 2)
    with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
        tilt_design(decisions, np.full(200, 2.0), 1.0)
    with pytest.raises(ValueError, match="band"):
        compute_band_policy(decisions, 0.5, 0.5)
    with pytest.raises(ValueError, match="positions"):
        compute_kernel_policy(decisions, np.ones(200), 0.2)
    with pytest.raises(ValueError, match="codes"):
        compute_group_policy(decisions, np.full(200, 6))
    with pytest.raises(ValueError, match="not all 0"):
        estimate_answers(decisions, np.zeros(200))


def table(values: dict[str, list[float]], errors: float = 1.0) -> pd.DataFrame:
    """Estimates of three policies in one split by estimator."""
    keys = {"split": 0, "manager": "m", "outcome": "o"}
    return pd.DataFrame(
        {**keys, "policy": policy, "estimator": name, "value": value, "error": errors}
        for name, of_policies in values.items()
        for policy, value in zip("abc", of_policies)
    )


def test_agreement_counts_the_error_of_both_halves_and_ranks_policies() -> None:
    # 1.645 standard errors of one half are 1.645, of the difference 2.326.
    found = compare_with_answer(table({"answer": [10.0, 11.0, 12.0], "one": [12.2, 13.5, 12.5], "flat": [5.0] * 3}))
    one = found[found["estimator"] == "one"]
    assert one["is_covered"].tolist() == [True, False, True]
    assert one["holds_point"].tolist() == [False, False, True]
    lines = measure_agreement(found).set_index("estimator")
    assert lines.loc["one", "coverage"] == pytest.approx(2 / 3)
    assert lines.loc["one", "rank"] == pytest.approx(0.5)
    assert np.isnan(lines.loc["flat", "rank"])
    assert lines.loc["one", "bias"] == pytest.approx(((2.2**2 + 2.5**2 + 0.5**2) / 3) ** 0.5 / 11)
    detectable = measure_detectable(found)["detectable"]
    assert detectable.to_numpy() == pytest.approx((1.6449 + 0.8416) * 2**0.5, rel=1e-3)


def test_agreement_refuses_estimates_without_an_answer() -> None:
    with pytest.raises(ValueError, match="no answer"):
        compare_with_answer(table({"one": [1.0, 2.0, 3.0]}))
    with pytest.raises(ValueError, match="lack"):
        compare_with_answer(table({"answer": [1.0, 2.0, 3.0]}).drop(columns="error"))


def write_offers(path: Path, rows: int = 3000) -> None:
    """A table as `data/loan_offers/prepare.py` writes it, with recent borrowers who take up more."""
    random = np.random.default_rng(0)
    tiers = random.choice(["high", "low", "medium"], rows)
    dormancy, amount = random.integers(1, 24, rows).astype(float), random.normal(7.0, 0.6, rows)
    rate = random.choice(np.arange(3.25, 9.0, 0.25), rows)
    chance = 1 / (1 + np.exp(1.0 + 0.15 * (dormancy - 12) + np.log(rate / 6)))
    taken = (random.random(rows) < chance).astype(float)
    frame = pd.DataFrame({"wave": 1, "tier": tiers, "branch": random.choice(list("abcdefgh"), rows), "rate": rate})
    frame["appscore"], frame["lnlastamount"], frame["dormancy"] = random.normal(30, 8, rows), amount, dormancy
    frame["take_up"], frame["loan_size"] = taken, taken * np.exp(amount)
    frame["profit_lgd1_funds1"] = frame["loan_size"] * rate / 25
    frame.to_parquet(path, index=False)


def test_the_benchmark_goes_on_where_it_ended_and_finds_the_naive_mean_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    benchmark = importlib.import_module("off_policy_experiments")
    write_offers(tmp_path / "offers.parquet")
    words = ["off_policy_experiments.py", "--data", "loan_offers", "--table", str(tmp_path / "offers.parquet")]

    def run(splits: int, folder: str, *more: str) -> pd.DataFrame:
        told = [*words, "--output_dir", str(tmp_path / folder), "--splits", str(splits), *more]
        monkeypatch.setattr(sys, "argv", told)
        benchmark.main()
        return pd.read_parquet(tmp_path / folder / "compared.parquet")

    whole = run(3, "whole")
    run(2, "parts")
    first = (tmp_path / "parts" / "splits" / "split-0000.parquet").stat().st_mtime_ns
    pd.testing.assert_frame_equal(run(3, "parts"), whole)
    assert (tmp_path / "parts" / "splits" / "split-0000.parquet").stat().st_mtime_ns == first
    with pytest.raises(SystemExit, match="other settings"):
        run(3, "parts", "--strength", "1.0")
    rows = read_results(tmp_path / "whole").metrics
    bias = {row.model: row.value for row in rows if row.name == "bias" and row.task == "loan_offers dormancy take_up"}
    assert bias["matched_mean"] > 2 * bias["doubly_robust_self_normalized"]
    assert (tmp_path / "whole" / "policies.png").stat().st_size > 10_000
    assert "doubly robust, self-normalised" in capsys.readouterr().out
