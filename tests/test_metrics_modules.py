"""The `evaluate` modules give the numbers of the functions, from anywhere, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pricing_fm.metrics import compute_wql
from pricing_fm.metrics.modules import MeanAbsoluteScaledError, WeightedQuantileLoss


def test_the_wql_module_equals_the_function_and_adds_up_batches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets, quantiles = rng.gamma(2.0, 5.0, 20), np.sort(rng.gamma(2.0, 5.0, (20, 3)), axis=1)
    targets[3] = np.nan
    levels = [0.1, 0.5, 0.9]
    whole = WeightedQuantileLoss(cache_dir=str(tmp_path)).compute(
        predictions=quantiles.tolist(), references=targets.tolist(), quantile_levels=levels
    )
    parts = WeightedQuantileLoss(cache_dir=str(tmp_path))
    for chunk in (slice(0, 7), slice(7, 20)):
        parts.add_batch(predictions=quantiles[chunk].tolist(), references=targets[chunk].tolist())
    assert whole == {"wql": pytest.approx(compute_wql(targets, quantiles, levels))}
    assert parts.compute(quantile_levels=levels) == whole


def test_the_mase_module_scales_by_the_history(tmp_path: Path) -> None:
    found = MeanAbsoluteScaledError(cache_dir=str(tmp_path)).compute(
        predictions=[[11.0, 15.0], [3.0, 3.0]],
        references=[[10.0, 12.0], [5.0, float("nan")]],
        histories=[[0.0, 4.0, 0.0], [7.0, 7.0]],
        lag=1,
    )
    assert found == {"mase": pytest.approx((1 + 3) / 2 / 4), "items": 1, "dropped": 1}


def test_the_modules_load_in_a_process_that_has_no_network(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = refuse\n"
        "from pricing_fm.metrics.modules import WeightedQuantileLoss\n"
        f"found = WeightedQuantileLoss(cache_dir={str(tmp_path)!r}).compute(\n"
        "    predictions=[[1.0]], references=[2.0], quantile_levels=[0.5])\n"
        "assert found == {'wql': 0.5}, found\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": "."}, check=True)
