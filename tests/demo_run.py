"""Runs the fast demo as a newcomer would: as a script, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def run_fast_demo(folder: Path) -> str:
    """Leaves `outputs/demo` and `.cache/demo` in `folder`; returns what was printed."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "recipes" / "demo.py", "--fast"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
