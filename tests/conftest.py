"""What every test shares: no network, no screen, the real panels where they are present, small factories."""

import os
from pathlib import Path

# Set before any library reads them: a test that reaches for the network fails instead of hanging.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, simulate_log
from pricing_fm.models import PricingFMConfig, PricingFMForPolicy, PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.panel import Panel, RawWindows, SeriesStore, build_store, load_panel, read_windows

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


# -- a small network, a small market ---------------------------------------------------------------------------------

TINY = {
    "hidden_size": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_attention_heads": 2,
    "context_length": 16,
    "num_static_buckets": 64,
    "num_response_members": 3,
}


@pytest.fixture
def tiny_config() -> PricingFMConfig:
    """16 periods of context, width 32, one layer each, three response members, the default ladder."""
    return PricingFMConfig(**TINY)


@pytest.fixture
def build_tiny_model() -> Callable[..., PricingFMForPreTraining]:
    """Factory `(kind, seed, spread, **changes of the configuration)`: a network in evaluation mode.

    Every parameter is moved away from where initialisation puts it: nothing is zero or one by construction.
    """

    def build(
        kind: type[PricingFMForPolicy] = PricingFMForPreTraining, seed: int = 0, spread: float = 0.1, **changes: object
    ) -> PricingFMForPolicy:
        torch.manual_seed(seed)
        model = kind(PricingFMConfig(**(TINY | changes)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
        return model.eval()

    return build


@pytest.fixture
def tiny_model(build_tiny_model: Callable[..., PricingFMForPreTraining]) -> PricingFMForPreTraining:
    """All heads, random weights, evaluation mode."""
    return build_tiny_model()


@pytest.fixture
def tiny_processor(tiny_config: PricingFMConfig) -> PricingFMProcessor:
    """Fits `tiny_config`."""
    return PricingFMProcessor(
        context_length=tiny_config.context_length,
        num_static_buckets=tiny_config.num_static_buckets,
        num_response_members=tiny_config.num_response_members,
    )


@pytest.fixture(scope="session")
def tiny_log() -> SimulatedLog:
    """Three simulated markets of four products over 60 weeks, the last 8 to 12 of them randomised; truth included."""
    settings = LogSettings(num_markets=3, num_periods=60, randomized_periods=(8, 12), seed=1)
    return simulate_log(RetailSettings(num_products=4), ManagerSettings(), settings)


@pytest.fixture(scope="session")
def tiny_panel(tiny_log: SimulatedLog) -> Panel:
    """The log as a panel: twelve items with list price, cost, stock (eight of them) and one promotion flag."""
    return load_panel(tiny_log.panel, schema={"promotion": "promotion", "frequency": "W"})


@pytest.fixture(scope="session")
def tiny_store(tiny_panel: Panel) -> SeriesStore:
    """The panel as arrays."""
    return build_store(tiny_panel)


@pytest.fixture
def tiny_windows(tiny_store: SeriesStore) -> RawWindows:
    """Twelve windows, one per item, at different origins, 16 periods of context (two items: 5), 4 future periods."""
    items = np.arange(12)
    return read_windows(tiny_store, items, 20 + items, 16, 4, np.where(items % 6 == 5, 5, 16))


@pytest.fixture
def tiny_batch(tiny_processor: PricingFMProcessor, tiny_windows: RawWindows) -> dict[str, torch.Tensor]:
    """The windows as the network's batch."""
    return tiny_processor(tiny_windows)
