"""A policy on the Hub: what is pushed is what is loaded, in one repository or in two."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import constants

from pricing_fm.errors import ArtifactError
from pricing_fm.hub import push
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy
from tests.hub_server import HubState, running_hub
from tests.policy_artifacts import panel_of, sales_log, write_adapter, write_base


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `base` and the adapter `snacks`."""
    folder = tmp_path_factory.mktemp("hub")
    write_adapter(folder / "snacks", write_base(folder / "base"))
    return folder


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(sales_log())


def answers(policy: PricingPolicy, panel: Panel) -> pd.DataFrame:
    return policy.forecast(panel, 2).merge(policy.recommend(panel), on=["item_id", "timestamp"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    with running_hub() as (address, state):
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield state


def test_a_policy_comes_back_from_the_hub(hub: HubState, made: Path, tmp_path: Path, panel: Panel) -> None:
    policy = PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks")
    url = policy.push_to_hub("org/prices", private=True)
    assert url.endswith(hub.branches["org/prices"]["main"])
    assert "org/prices" in hub.private
    pushed = hub.commits[hub.branches["org/prices"]["main"]]
    assert {"model.safetensors", "adapter/adapter_model.safetensors", "figures/loss.svg"} <= set(pushed)
    again = PricingPolicy.from_pretrained("org/prices")
    expected = answers(policy, panel)
    pd.testing.assert_frame_equal(answers(again, panel), expected)
    commit = hub.branches["org/prices"]["main"]
    pd.testing.assert_frame_equal(
        answers(PricingPolicy.from_pretrained("org/prices", revision=commit), panel), expected
    )
    # What came from the Hub is saved whole: links into the cache become files, and the seal still holds.
    again.save_pretrained(tmp_path / "saved")
    assert not any(path.is_symlink() for path in (tmp_path / "saved").rglob("*"))
    pd.testing.assert_frame_equal(answers(PricingPolicy.from_pretrained(tmp_path / "saved"), panel), expected)
    assert again.push_to_hub("org/prices", revision="next")
    assert set(hub.branches["org/prices"]) == {"main", "next"}


def test_base_and_adapter_from_two_repositories(hub: HubState, made: Path, panel: Panel) -> None:
    PricingPolicy.from_pretrained(made / "base").push_to_hub("org/base")
    push(made / "snacks", "org/snacks")
    expected = answers(PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks"), panel)
    found = PricingPolicy.from_pretrained("org/base", adapter={"snacks": "org/snacks"})
    pd.testing.assert_frame_equal(answers(found, panel), expected)
    with pytest.raises(ArtifactError, match="org/tea"):
        PricingPolicy.from_pretrained("org/base", adapter="org/tea")
