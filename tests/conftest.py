"""What every test shares: no network, no screen, the real panels where they are present, small factories."""

import os
from pathlib import Path

# Set before any library reads them: a test that reaches for the network fails instead of hanging.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests on real panels, and says why, where the panels are absent."""
    if REAL_DATA.is_dir():
        return
    reason = pytest.mark.skip(reason="the real panels (../shared/data beside the repository) are not here")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(reason)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real panels; use only in tests marked `real_data`."""
    return REAL_DATA
