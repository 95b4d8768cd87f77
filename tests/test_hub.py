"""What is pushed comes back to the last byte, in another process that shares nothing but the Hub."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from pricing_fm.adapters import LoraArguments, add_adapter, base_tensors, save_adapter
from pricing_fm.artifact import tensor_fingerprint, verify_artifact, write_manifest
from pricing_fm.errors import ArtifactError
from pricing_fm.hub import commit_of, download, push
from pricing_fm.models import PricingFMConfig, PricingFMForPolicy
from pricing_fm.results import DataSource, ResultRow, build_results, write_results
from recipes.publish import main as publish
from tests.hub_server import HubState, running_hub

ROOT = Path(__file__).resolve().parents[1]

PUBLISH = """
import sys
from pathlib import Path
from recipes.publish import main

folder = Path(sys.argv[1])
try:
    main(["--artifact", str(folder / "adapter"), "--repo_id", "org/crackers"])
except ValueError as error:
    print(error)
main(["--artifact", str(folder / "base"), "--repo_id", "org/base", "--private"])
main(["--artifact", str(folder / "adapter"), "--repo_id", "org/crackers", "--base_repo_id", "org/base"])
"""

LOAD_BACK = """
from peft import PeftModel
from pricing_fm.adapters import load_adapter, read_adapter
from pricing_fm.artifact import verify_artifact
from pricing_fm.hub import commit_of, download, push
from pricing_fm.models import PricingFMForPolicy

adapter = download("org/crackers")
reference = read_adapter(adapter.folder)
base = download(reference.base, reference.revision)
fingerprint = verify_artifact(base.folder, kind="base").base_fingerprint
model = load_adapter(PricingFMForPolicy.from_pretrained(base.folder), "crackers", adapter.folder, fingerprint)
plain = PeftModel.from_pretrained(PricingFMForPolicy.from_pretrained("org/base"), "org/crackers").state_dict()
assert any(".lora_B.crackers." in key for key in model.state_dict())
for key, tensor in model.state_dict().items():
    assert tensor.equal(plain[key.replace(".crackers.", ".default.")]), key
print(base.folder)
print(adapter.folder)
"""


@pytest.fixture
def hub() -> Iterator[tuple[str, HubState]]:
    with running_hub() as running:
        yield running


@pytest.fixture
def here(hub: tuple[str, HubState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubState:
    """Lets this very process talk to the Hub; the environment is only read when the library is first imported."""
    address, state = hub
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return state


def run(address: str, cache: Path, code: str, *words: str) -> str:
    """Standard output of a fresh process that knows the Hub's address and nothing else."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def base_folder(folder: Path) -> tuple[Path, str, PricingFMForPolicy]:
    torch.manual_seed(0)
    config = PricingFMConfig(hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, num_attention_heads=2)
    model = PricingFMForPolicy(config)
    model.save_pretrained(folder)
    rows = [ResultRow("wql", 0.25, "pricing_fm", "toy", lower=0.24, upper=0.26)]
    write_results(folder, build_results("pretrain", [DataSource("toy", "sha256:ab")], rows))
    (folder / "recipe.yaml").write_text("seed: 0\n")
    for name in ("LICENSE", "curve.svg", "recommendations.csv", "report.html", "training.jsonl"):
        (folder / name).write_text("read by people")
    (folder / ".checkpoints").mkdir()
    (folder / ".checkpoints" / "state.json").write_text("{}")
    return folder, write_manifest(folder, "base").base_fingerprint, model


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "README.md"}


def test_base_and_adapter_are_published_and_load_in_a_fresh_process(tmp_path: Path, hub: tuple[str, HubState]) -> None:
    address, state = hub
    base, fingerprint, model = base_folder(tmp_path / "base")
    assert tensor_fingerprint(base_tensors(model)) == fingerprint
    adapter = tmp_path / "adapter"
    wrapped = add_adapter(model, "crackers", LoraArguments(lora_rank=2, lora_start=0.1))
    save_adapter(wrapped, "crackers", adapter, base, fingerprint, category="CRACKERS")
    write_manifest(adapter, "adapter", fingerprint)
    before = contents(adapter)

    printed = run(address, tmp_path / "one", PUBLISH, str(tmp_path))
    assert "publish the base first" in printed
    assert contents(adapter) == before
    commit = state.branches["org/base"]["main"]
    published = state.commits[commit]
    assert {name: published[name] for name in contents(base)} == contents(base)
    assert not [name for name in published if "checkpoints" in name]
    assert "org/base" in state.private
    assert "0.25" in published["README.md"].decode()
    pushed = state.commits[state.branches["org/crackers"]["main"]]
    config = json.loads(pushed["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", commit)
    assert "base_model: org/base" in pushed["README.md"].decode()

    base_there, adapter_there = (Path(line) for line in run(address, tmp_path / "two", LOAD_BACK).split())
    assert contents(base_there) == contents(base)
    assert contents(adapter_there)["adapter_model.safetensors"] == before["adapter_model.safetensors"]


def test_a_byte_changed_on_the_hub_is_refused(tmp_path: Path, here: HubState) -> None:
    base = base_folder(tmp_path / "base")[0]
    first = push(base, "org/base")
    good = here.commits[first.revision]
    verify_artifact(download("org/base").folder, kind="base")
    changed = bytearray(good["model.safetensors"])
    changed[-1] ^= 1
    here.commit("org/base", "main", good | {"model.safetensors": bytes(changed)})
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed"):
        verify_artifact(download("org/base").folder)
    verify_artifact(download("org/base", revision=first.revision).folder)


def test_a_push_makes_the_repository_equal_to_the_folder(tmp_path: Path, here: HubState) -> None:
    base = base_folder(tmp_path / "base")[0]
    good = here.commits[push(base, "org/base").revision]
    here.commit("org/base", "main", good | {"leftover.json": b"{}", "pytorch_model.bin": b"\x80"})
    copy = download("org/base")
    assert not (copy.folder / "pytorch_model.bin").exists()
    with pytest.raises(ArtifactError, match=r"leftover\.json is not listed"):
        verify_artifact(copy.folder)
    assert here.commits[push(base, "org/base", revision="next").revision] == good
    assert set(here.branches["org/base"]) == {"main", "next"}
    assert commit_of("org/base", "next") == here.branches["org/base"]["next"] != commit_of("org/base")


def test_an_adapter_of_another_base_is_not_published(tmp_path: Path, here: HubState) -> None:
    base, fingerprint, model = base_folder(tmp_path / "base")
    push(base, "org/base")
    wrapped = add_adapter(model, "crackers", LoraArguments(lora_rank=2))
    save_adapter(wrapped, "crackers", tmp_path / "adapter", base, "sha256:another")
    write_manifest(tmp_path / "adapter", "adapter", "sha256:another")
    words = ["--artifact", str(tmp_path / "adapter"), "--repo_id", "org/crackers", "--base_repo_id", "org/base"]
    with pytest.raises(ArtifactError, match=f"is {fingerprint}, yet this adapter belongs to sha256:another"):
        publish(words)
    assert "org/crackers" not in here.branches


def test_a_folder_that_differs_from_its_seal_is_not_published(tmp_path: Path, here: HubState) -> None:
    base = base_folder(tmp_path / "base")[0]
    (base / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(ArtifactError, match=r"recipe\.yaml was changed"):
        publish(["--artifact", str(base), "--repo_id", "org/base"])
    assert here.branches == {}


def test_a_dataset_comes_back(tmp_path: Path, here: HubState) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "panel.parquet").write_bytes(b"PAR1")
    push(tmp_path / "data", "org/panel", repo_type="dataset")
    assert (download("org/panel", repo_type="dataset").folder / "panel.parquet").read_bytes() == b"PAR1"


def test_an_unknown_repository_or_revision_is_named(tmp_path: Path, here: HubState) -> None:
    with pytest.raises(ArtifactError, match="org/nothing: there is no such folder, and the Hub has no such model"):
        download("org/nothing")
    push(base_folder(tmp_path / "base")[0], "org/base")
    with pytest.raises(ArtifactError, match="revision .v2."):
        download("org/base", revision="v2")
    with pytest.raises(ArtifactError, match="was not found"):
        commit_of("org/nothing")


def test_a_folder_passes_through(tmp_path: Path) -> None:
    assert download(tmp_path).folder == tmp_path
    assert download(str(tmp_path)).revision is None
    with pytest.raises(ArtifactError, match="has no revision"):
        download(tmp_path, revision="main")


@pytest.mark.parametrize("source", ["../nowhere", "/nowhere/at/all", "a/b/c", "./x"])
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(source: str) -> None:
    with pytest.raises(ArtifactError, match="no such folder, and it is no repository id"):
        download(source)


def test_without_a_network_the_reason_is_said() -> None:
    with pytest.raises(ArtifactError, match="HF_HUB_OFFLINE"):
        download("org/not-cached-anywhere")
