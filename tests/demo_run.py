"""Runs the fast demo as a newcomer would: as a script, in a folder of its own, on a base that is built here."""

import os
import subprocess
import sys
from pathlib import Path

from pricing_fm.results import DataSource, ResultRow, build_results, write_results
from tests.policy_artifacts import reseal, write_base

REPOSITORY = Path(__file__).resolve().parents[1]
BASE_SOURCE = DataSource("toy", "sha256:ab")
TRAINED_SECONDS = 3725.0


def write_demo_base(folder: Path) -> Path:
    """A tiny base that says how long it was trained, and on what."""
    rows = [
        ResultRow(
            "loss", 0.5, "pricing_fm", f"{BASE_SOURCE.name}+another", split="validation", train_s=TRAINED_SECONDS
        ),
        ResultRow("wql", 0.3, "lightgbm", "measured_W", train_s=2 * TRAINED_SECONDS),
    ]
    write_results(write_base(folder), build_results("pretrain", [BASE_SOURCE], rows))
    reseal(folder)
    return folder


def run_fast_demo(folder: Path) -> str:
    """Leaves `tiny-base`, `outputs/demo` and `.cache/demo` in `folder`; returns what was printed."""
    base = write_demo_base(folder / "tiny-base")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "recipes" / "demo.py", "--fast", "--base", base.name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
