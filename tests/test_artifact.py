"""A sealed folder is loaded as it was sealed or not at all."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pricing_fm.artifact import (
    FORMAT_VERSION,
    base_fingerprint,
    read_manifest,
    tensor_fingerprint,
    verify_artifact,
    write_manifest,
)
from pricing_fm.errors import ArtifactError


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 4, generator=generator) for name in ("layer.b", "layer.a", "head")}


def base_folder(folder: Path, sealed: bool = True) -> Path:
    folder.mkdir()
    save_file(weights(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "pricing_fm"}')
    (folder / "recipe.yaml").write_text("seed: 0\n")
    (folder / "README.md").write_text("card")
    if sealed:
        write_manifest(folder, "base")
    return folder


def rewrite_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_untouched_folder_is_accepted_and_says_what_it_is(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    manifest = verify_artifact(folder, kind="base")
    assert sorted(manifest.files) == ["config.json", "model.safetensors", "recipe.yaml"]
    assert manifest.format_version == FORMAT_VERSION
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert manifest.files["config.json"] == f"sha256:{digest}"


def test_the_fingerprint_is_the_digest_of_the_fp32_bytes_in_key_order(tmp_path: Path) -> None:
    tensors = weights()
    by_hand = hashlib.sha256(b"".join(tensors[key].numpy().astype("<f4").tobytes() for key in sorted(tensors)))
    assert tensor_fingerprint(tensors) == f"sha256:{by_hand.hexdigest()}"
    assert tensor_fingerprint(dict(reversed(tensors.items()))) == tensor_fingerprint(tensors)
    assert read_manifest(base_folder(tmp_path / "base")).base_fingerprint == tensor_fingerprint(tensors)


def test_the_fingerprint_sees_one_changed_weight_and_no_change_of_number_type() -> None:
    tensors = {"a": torch.tensor([1.0, 2.0, 0.5])}
    changed = {"a": torch.tensor([1.0, 2.0, np.nextafter(np.float32(0.5), np.float32(1)).item()])}
    assert tensor_fingerprint(tensors) != tensor_fingerprint(changed)
    assert tensor_fingerprint(tensors) == tensor_fingerprint({"a": tensors["a"].to(torch.bfloat16)})


def test_shards_have_the_fingerprint_of_the_whole(tmp_path: Path) -> None:
    tensors = weights()
    tmp_path.joinpath("sharded").mkdir()
    names = {"head": "one.safetensors", "layer.a": "two.safetensors", "layer.b": "one.safetensors"}
    for name in set(names.values()):
        save_file({key: tensors[key] for key in tensors if names[key] == name}, tmp_path / "sharded" / name)
    (tmp_path / "sharded/model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert base_fingerprint(tmp_path / "sharded") == tensor_fingerprint(tensors)
    write_manifest(tmp_path / "sharded", "base")
    verify_artifact(tmp_path / "sharded")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "recipe.yaml"])
def test_one_changed_byte_is_refused(tmp_path: Path, name: str) -> None:
    folder = base_folder(tmp_path / "base")
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} was changed: its digest is sha256:.*says sha256:"):
        verify_artifact(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        verify_artifact(folder)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "modeling_other.py", "model.safetensors.index.json", "more.yaml"]
)
def test_a_file_that_a_loader_could_read_has_to_be_listed(tmp_path: Path, name: str) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactError, match=f"{name} is not listed"):
        verify_artifact(folder)


def test_the_card_dotfiles_and_pages_for_people_may_change(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "README.md").write_text("another card")
    (folder / "notes.txt").write_text("seen by people only")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (folder / ".checkpoints").mkdir()
    (folder / ".checkpoints" / "optimizer.bin").write_bytes(b"state")
    verify_artifact(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.pkl", "weights.npy", "MODEL.PTH", "events.out.tfevents.1.host.0"]
)
def test_a_file_that_would_be_unpickled_is_refused_before_and_after_the_seal(tmp_path: Path, name: str) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=f"{name} does not belong"):
        verify_artifact(folder)
    with pytest.raises(ArtifactError, match=f"{name} does not belong"):
        write_manifest(folder, "base")


@pytest.mark.parametrize("member", ["../other/model.safetensors", "{root}/model.safetensors", "sub/model.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused_even_when_sealed(tmp_path: Path, member: str) -> None:
    base_folder(tmp_path / "other")
    folder = base_folder(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    index = {"weight_map": {"head": member.format(root=tmp_path / "other")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    files = {
        path.name: "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name not in ("manifest.json", "README.md")
    }
    rewrite_manifest(folder, files=files)
    with pytest.raises(ArtifactError, match="no plain name"):
        verify_artifact(folder)


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "a/../../b.json", "C:\\b.json", "..\\b.json"])
def test_a_manifest_entry_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = base_folder(tmp_path / "base")
    rewrite_manifest(folder, files=read_manifest(folder).files | {name: "sha256:0"})
    with pytest.raises(ArtifactError, match="leads out of the folder"):
        verify_artifact(folder)


def test_links_are_followed_inside_the_hub_cache_only(tmp_path: Path) -> None:
    """The cache keeps `snapshots/<commit>/config.json` as a link to `blobs/<hash>`."""
    snapshots = tmp_path / "models--org--name" / "snapshots"
    snapshots.mkdir(parents=True)
    folder = base_folder(snapshots / "commit")
    for place, fits in ((snapshots.parent / "blobs", True), (tmp_path / "elsewhere", False)):
        place.mkdir()
        (folder / "config.json").resolve().rename(place / "blob")
        (folder / "config.json").unlink(missing_ok=True)
        os.symlink(place / "blob", folder / "config.json")
        if fits:
            verify_artifact(folder)
        else:
            with pytest.raises(ArtifactError, match="link out of the folder"):
                verify_artifact(folder)


def test_a_newer_format_is_refused_with_advice_and_an_older_one_would_load(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    rewrite_manifest(folder, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ArtifactError, match="Upgrade pricing_fm"):
        verify_artifact(folder)
    rewrite_manifest(folder, format_version=1)
    verify_artifact(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": "1"},
        {"format_version": True},
        {"kind": "model"},
        {"files": []},
        {"files": {}},
        {"base_fingerprint": None},
    ],
)
def test_a_malformed_manifest_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = base_folder(tmp_path / "base")
    rewrite_manifest(folder, **changes)
    with pytest.raises(ArtifactError, match="Export it again"):
        verify_artifact(folder)


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="not readable as JSON"):
        verify_artifact(folder)


def test_a_manifest_without_weights_is_refused(tmp_path: Path) -> None:
    """A loader would fill in random ones."""
    folder = base_folder(tmp_path / "base")
    files = read_manifest(folder).files
    del files["model.safetensors"]
    rewrite_manifest(folder, files=files)
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        verify_artifact(folder)


def test_an_adapter_beside_the_base_is_an_artifact_of_its_own(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", sealed=False)
    adapter = folder / "adapter"
    adapter.mkdir()
    save_file({"lora_A": torch.ones(2)}, adapter / "adapter_model.safetensors")
    write_manifest(adapter, "adapter", base_fingerprint_of_adapter="sha256:base")
    write_manifest(folder, "base")
    assert not [name for name in verify_artifact(folder, kind="base").files if name.startswith("adapter/")]
    assert verify_artifact(adapter, kind="adapter").base_fingerprint == "sha256:base"
    with pytest.raises(ArtifactError, match="holds an adapter; expected a base model"):
        verify_artifact(adapter, kind="base")


def test_an_adapter_without_the_fingerprint_of_its_base_is_not_sealed(tmp_path: Path) -> None:
    save_file({"lora_A": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="fingerprint of the base"):
        write_manifest(tmp_path, "adapter")


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", sealed=False)
    (folder / "model.safetensors").write_bytes(b"\x80\x04 not safetensors at all")
    with pytest.raises(ArtifactError, match="not readable"):
        write_manifest(folder, "base")
