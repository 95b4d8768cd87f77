"""The policy and parity modules give the numbers of the functions, from anywhere, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.metric_modules import (
    EffectiveSampleSize,
    ExpectedCalibrationError,
    OffPolicyValue,
    PolicyRegret,
)
from pricing_fm.metrics.modules import IntervalCoverage
from pricing_fm.metrics.parity_modules import DemandParity, PriceParity, SurplusParity

REWARDS, PROPENSITIES, TARGET = [3.0, 1.0, 2.0], [0.5, 0.25, 0.25], [0.5, 0.5, 0.0]


def test_the_self_normalised_value_is_the_weighted_mean_and_free_of_scale(tmp_path: Path) -> None:
    module = OffPolicyValue(cache_dir=str(tmp_path))
    found = module.compute(rewards=REWARDS, propensities=PROPENSITIES, target_propensities=TARGET)
    assert found == {
        "policy_value": pytest.approx((1 * 3 + 2 * 1) / 3),
        "manager_value": pytest.approx(2.0),
        "effective_sample_size": pytest.approx(9 / 5),
        "trimmed_mass": 0.0,
    }
    thin = [chance / 7.0 for chance in PROPENSITIES]
    scaled = OffPolicyValue(cache_dir=str(tmp_path)).compute(
        rewards=REWARDS, propensities=thin, target_propensities=TARGET
    )
    assert scaled["policy_value"] == pytest.approx(found["policy_value"])
    moved = OffPolicyValue(cache_dir=str(tmp_path)).compute(
        rewards=[reward + 5.0 for reward in REWARDS], propensities=PROPENSITIES, target_propensities=TARGET
    )
    assert moved["policy_value"] == pytest.approx(found["policy_value"] + 5.0)
    floored = OffPolicyValue(cache_dir=str(tmp_path)).compute(
        rewards=REWARDS, propensities=PROPENSITIES, target_propensities=TARGET, floor=0.5
    )
    assert floored["policy_value"] == pytest.approx(2.0)
    assert floored["trimmed_mass"] == pytest.approx(2 / 3)


def test_the_doubly_robust_value_corrects_the_model_where_it_was_wrong(tmp_path: Path) -> None:
    inputs = {"rewards": REWARDS, "propensities": PROPENSITIES, "target_propensities": TARGET}
    found = OffPolicyValue(cache_dir=str(tmp_path)).compute(
        **inputs, action_values=[2.0, 1.0, 1.0], expected_values=[1.5, 1.5, 1.2]
    )
    assert found["policy_value"] == pytest.approx(1.4 + (1 * 1.0 + 2 * 0.0) / 3)
    exact = OffPolicyValue(cache_dir=str(tmp_path)).compute(
        **inputs, action_values=REWARDS, expected_values=[2.0, 2.0, 3.5]
    )
    assert exact["policy_value"] == pytest.approx(2.5)
    with pytest.raises(ValueError, match="give both"):
        OffPolicyValue(cache_dir=str(tmp_path)).compute(**inputs, action_values=REWARDS)


def test_equal_weights_count_every_decision(tmp_path: Path) -> None:
    module = EffectiveSampleSize(cache_dir=str(tmp_path))
    equal = module.compute(predictions=[0.1, 0.2, 0.05], references=[0.2, 0.4, 0.1])
    assert equal == {"effective_sample_size": pytest.approx(3.0), "share": pytest.approx(1.0)}
    module.add_batch(predictions=[0.5], references=[0.5])
    module.add_batch(predictions=[0.5, 0.0], references=[0.25, 0.25])
    assert module.compute() == {"effective_sample_size": pytest.approx(9 / 5), "share": pytest.approx(3 / 5)}


def test_regret_in_currency_and_as_a_share(tmp_path: Path) -> None:
    found = PolicyRegret(cache_dir=str(tmp_path)).compute(predictions=[8.0, 31.0], references=[10.0, 30.0])
    assert found == {"regret": 0.5, "regret_share": pytest.approx(1 / 40), "largest_regret": 2.0}


def test_an_interval_of_one_point_covers_that_point_alone(tmp_path: Path) -> None:
    module = IntervalCoverage(cache_dir=str(tmp_path))
    assert module.compute(predictions=[[2.0, 2.0]] * 4, references=[2.0, 2.1, 1.9, float("nan")]) == {
        "coverage": pytest.approx(1 / 3)
    }
    everything = module.compute(predictions=[[-1e9, 1e9]] * 2, references=[0.0, 5.0])
    assert everything == {"coverage": 1.0}
    with pytest.raises(ValueError, match="interval 1 runs from 3 to 2"):
        module.compute(predictions=[[1.0, 2.0], [3.0, 2.0]], references=[1.0, 2.0])
    with pytest.raises(ValueError, match="lower and an upper end"):
        module.compute(predictions=[[1.0, 2.0, 3.0]], references=[1.0])


def test_parity_modules_compare_segments(tmp_path: Path) -> None:
    segments = ["adult", "student"]
    prices = PriceParity(cache_dir=str(tmp_path)).compute(
        predictions=[10.0, 16.0], references=[10.0, 20.0], segments=segments, units=[2.0, 1.0]
    )
    assert prices["rates"] == {"adult": 1.0, "student": pytest.approx(0.8)}
    assert prices["price_parity_gap"] == pytest.approx(0.2 / 0.9)
    assert prices["price_parity_ratio"] == pytest.approx(0.8)
    for kind, module in (("demand", DemandParity), ("surplus", SurplusParity)):
        found = module(cache_dir=str(tmp_path)).compute(
            predictions=[30.0, 20.0], references=[100.0, 100.0], segments=segments
        )
        assert found[f"{kind}_parity_gap"] == pytest.approx(0.1 / 0.25)
        assert found[f"{kind}_parity_ratio"] == pytest.approx(2 / 3)
        assert found["rates"] == {"adult": 0.3, "student": 0.2}
        same = module(cache_dir=str(tmp_path)).compute(
            predictions=[30.0, 3.0], references=[100.0, 10.0], segments=segments
        )
        assert same[f"{kind}_parity_gap"] == pytest.approx(0.0, abs=1e-12)


def test_the_modules_load_in_a_process_that_has_no_network(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = refuse\n"
        "from pricing_fm.evaluation.off_policy.metric_modules import PolicyRegret\n"
        "from pricing_fm.metrics.parity_modules import DemandParity\n"
        f"cache = {str(tmp_path)!r}\n"
        "assert PolicyRegret(cache_dir=cache).compute(predictions=[1.0], references=[2.0])['regret'] == 1.0\n"
        "found = DemandParity(cache_dir=cache).compute(predictions=[1.0, 3.0], references=[1.0, 1.0],\n"
        "    segments=['a', 'b'])\n"
        "assert found['demand_parity_gap'] == 1.0, found\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": "."}, check=True)


def test_a_large_log_gives_the_value_of_the_policy(tmp_path: Path) -> None:
    """A coin that pays 1 or 3: the policy that prefers heads four times in five earns 1.4."""
    heads = np.random.default_rng(0).random(20_000) < 0.5
    found = OffPolicyValue(cache_dir=str(tmp_path)).compute(
        rewards=np.where(heads, 1.0, 3.0).tolist(),
        propensities=np.full(20_000, 0.5).tolist(),
        target_propensities=np.where(heads, 0.8, 0.2).tolist(),
    )
    assert found["policy_value"] == pytest.approx(1.4, abs=0.03)
    assert found["manager_value"] == pytest.approx(2.0, abs=0.03)


def test_calibration_is_the_gap_between_said_and_seen(tmp_path: Path) -> None:
    module = ExpectedCalibrationError(cache_dir=str(tmp_path))
    found = module.compute(predictions=[0.2] * 5 + [0.9] * 5, references=[1, 0, 0, 0, 0, 1, 1, 0, 0, 1], bins=2)
    assert found["ece"] == pytest.approx(0.5 * 0.0 + 0.5 * 0.3)
    rng = np.random.default_rng(0)
    chances = rng.random(4000)
    right = module.compute(predictions=chances.tolist(), references=(rng.random(4000) < chances).astype(int).tolist())
    assert right["ece"] < 0.03
    assert right["ece"] == pytest.approx(right["noise"], abs=0.012)
    wrong = module.compute(
        predictions=chances.tolist(), references=(rng.random(4000) < chances**2).astype(int).tolist()
    )
    assert wrong["lower"] > 0.1
    assert wrong["ece"] == pytest.approx(1 / 6, abs=0.03)
    with pytest.raises(ValueError, match="references hold 2"):
        module.compute(predictions=[0.5, 0.5], references=[1, 2])
