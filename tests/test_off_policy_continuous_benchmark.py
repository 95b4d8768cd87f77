"""The benchmark of continuous prices: its markets do what it says, and it goes on where it was stopped."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.results import read_results

# A benchmark finds the files beside it, and is no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
benchmark, bandit, market, shops = (
    import_module(name)
    for name in (
        "off_policy_continuous",
        "off_policy_continuous_bandit",
        "off_policy_continuous_market",
        "off_policy_market_shops",
    )
)
TINY = "--cells smooth peaks --logs 2 --chunk 1 --truth_units 400 --output_dir"


def test_a_run_that_was_stopped_goes_on_from_its_chunks(tmp_path: Path) -> None:
    benchmark.main([*TINY.split(), str(tmp_path)])
    whole = read_results(tmp_path).metrics
    chunks = sorted(tmp_path.glob("*.parquet"))
    assert len(chunks) == 4
    written = {path: path.stat().st_mtime_ns for path in chunks}
    chunks[1].unlink()
    benchmark.main([*TINY.split(), str(tmp_path)])
    assert read_results(tmp_path).metrics == whole
    assert [path for path in chunks if path.stat().st_mtime_ns != written[path]] == [chunks[1]]
    names = {(row.task, row.model) for row in whole}
    assert {("smooth", "doubly_robust_rungs"), ("smooth", "direct"), ("peaks", "model_alone")} <= names
    assert {("smooth", "importance_known_0.1"), ("peaks", "structured_estimated_0.1")} <= names
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.main([*TINY.split(), str(tmp_path), "--seed", "1"])


@pytest.mark.parametrize("name", ["smooth", "two_prices"])
def test_one_step_worlds_draw_from_the_densities_and_pay_the_means_that_they_tell(name: str) -> None:
    world, rng = bandit.WORLDS[name], np.random.default_rng(0)
    x = np.tile([0.7, -0.3, 0.4], (200_000, 1))
    log_prices, density = world.draw_prices(x, rng)
    shares, edges = np.histogram(log_prices, 60, density=True)
    places = np.clip(np.digitize(log_prices, edges) - 1, 0, 59)
    told = np.bincount(places, density, 60) / np.maximum(np.bincount(places, minlength=60), 1)
    crowded = shares > 0.3
    np.testing.assert_allclose(told[crowded], shares[crowded], rtol=0.12)
    rewards = world.draw_rewards(x, np.full(200_000, -0.1), rng.normal(size=200_000), rng)
    expected = world.expect(x[:1], np.array([-0.1]))[0]
    assert rewards.mean() == pytest.approx(expected, abs=4.0 * rewards.std() / 200_000**0.5)


def test_the_managers_shops_keep_prices_and_draw_others_from_the_density_that_is_told() -> None:
    log = shops.draw_rule_log(0, 4000, 13, market.MANAGER, "none")
    kept = log.ratios == log.last_ratios
    assert kept.mean() == pytest.approx(shops.KEEP, abs=0.01)
    logs = np.log(log.ratios)
    correlation = np.corrcoef(logs[~kept], log.signals[~kept])[0, 1]
    assert correlation == pytest.approx(0.49, abs=0.02)
    signals = np.zeros(4001)
    grid = np.linspace(-1.0, 1.5, 4001)
    density = market.MANAGER.compute_density(grid, signals)
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0 - shops.KEEP, abs=1e-4)
    residuals = (logs - market.MANAGER.name_log_ratios(log.signals))[~kept]
    mean = (grid - market.MANAGER.location) @ density * (grid[1] - grid[0]) / (1.0 - shops.KEEP)
    assert residuals.mean() == pytest.approx(mean, abs=0.002)
    assert residuals.std() == pytest.approx(market.MANAGER.spread, abs=0.002)


def test_prices_that_lie_on_the_ladder_are_their_own_rungs() -> None:
    log = shops.draw_log(0, 50, 13, 0.0, "none")
    np.testing.assert_allclose(shops.LADDER[log.rungs], log.ratios)
    np.testing.assert_allclose(shops.LADDER[log.last], log.last_ratios)


def test_a_policy_in_known_shops_gets_the_value_of_the_simulation_and_snapping_is_another_policy() -> None:
    rule = market.RULES["cut"]
    chances = rule.compute_probabilities(np.array([3, 0]), np.zeros(2))
    np.testing.assert_allclose(
        chances, [[0.0, 1.0 - shops.KEEP, 0.0, shops.KEEP], [shops.KEEP, 1.0 - shops.KEEP, 0, 0]]
    )
    snapped = market.ContinuousRule(rule.location, rule.tilt, is_snapped=True)
    found = shops.simulate_values(0, 4000, 13, {"manager": market.MANAGER, "cut": rule, "snapped": snapped})
    assert abs(found.values[2] / found.values[1] - 1.0) > 0.01


def test_summaries_know_bias_from_luck() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(0.1, 0.5, size=(400, 2))
    rows = pd.DataFrame(
        {
            "log": np.repeat(np.arange(400), 2),
            "policy": np.tile(["a", "b"], 400),
            "estimator": "it",
            "value": 1.0 + errors.ravel(),
            "lower": 1.0 + errors.ravel() - 0.8,
            "upper": 1.0 + errors.ravel() + 0.8,
            "truth": 1.0,
            "manager": 2.0,
            "ess": 10.0,
            "trimmed": 0.0,
        }
    )
    found = benchmark.summarise(rows).iloc[0]
    assert found["bias"] == pytest.approx(0.05, abs=0.02)
    assert found["bias_error"] == pytest.approx(0.25 / 20.0, rel=0.1)
    assert found["rmse"] == pytest.approx(0.255, rel=0.05)
    assert found["coverage"] == pytest.approx((np.abs(errors) < 0.8).mean())
