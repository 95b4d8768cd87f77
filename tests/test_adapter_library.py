"""A library of adapters: what goes in was checked, what does not pass leaves it as it was."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from pricing_fm.adapters import (
    AdapterLibrary,
    CategoryProfile,
    LoraArguments,
    add_adapter,
    base_tensors,
    load_adapter,
    read_adapter,
    read_profile,
    read_weights,
    save_adapter,
    write_profile,
)
from pricing_fm.artifact import tensor_fingerprint, write_manifest
from pricing_fm.errors import ArtifactError
from pricing_fm.models import PricingFMConfig, PricingFMForPolicy

SIZES = {"hidden_size": 16, "num_encoder_layers": 1, "num_decoder_layers": 1, "num_attention_heads": 2}
ARGUMENTS = LoraArguments(lora_rank=2, lora_alpha=4.0, lora_start=0.1)
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEY = "base_model.model.demand_head.level_head.lora_A.weight"


def network(seed: int = 0) -> PricingFMForPolicy:
    torch.manual_seed(seed)
    return PricingFMForPolicy(PricingFMConfig(**SIZES)).eval()


def fingerprint(model: PreTrainedModel) -> str:
    return tensor_fingerprint(base_tensors(model))


def write_adapter(folder: Path, category: str | None, seed: int = 1, arguments: LoraArguments = ARGUMENTS) -> Path:
    """A sealed adapter of `network()`, with a profile whose features are its seed."""
    model = add_adapter(network(), "cat-0001", arguments, seed=seed)
    save_adapter(model, "cat-0001", folder, "org/base", fingerprint(network()), category=category)
    write_profile(folder, CategoryProfile(fingerprint(network()), 3, (float(seed), 1.0)))
    write_manifest(folder, "adapter", fingerprint(network()))
    return folder


def reseal(folder: Path) -> None:
    write_manifest(folder, "adapter", fingerprint(network()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters whose names begin alike, as they were trained and in a library, and one of another category."""
    place = tmp_path_factory.mktemp("made")
    (place / "library").mkdir()
    base = network()
    library = AdapterLibrary(place / "library", base, fingerprint(base))
    for seed, category in enumerate(("CAT 0001", "CAT 0010", "CAT 0100"), start=1):
        library.admit(write_adapter(place / f"trained-{seed}", category, seed))
    write_adapter(place / "new", "NEW")
    return place


@pytest.fixture
def library(made: Path, tmp_path: Path) -> AdapterLibrary:
    """The library, for one test to spoil; `trained-1` and `new` lie beside it."""
    for name in ("library", "trained-1", "new"):
        shutil.copytree(made / name, tmp_path / name)
    base = network()
    return AdapterLibrary(tmp_path / "library", base, fingerprint(base))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_adapters_stand_under_the_names_of_their_categories(library: AdapterLibrary) -> None:
    assert library.names == ("cat-0001", "cat-0010", "cat-0100")
    assert library.folders() == {
        "CAT 0001": library.folder / "cat-0001",
        "CAT 0010": library.folder / "cat-0010",
        "CAT 0100": library.folder / "cat-0100",
    }
    for entry in library.entries():
        assert entry.reference is not None
        assert (entry.refusal, entry.reference.rank) == ("", 2)
        assert entry.megabytes > 0.001
    with pytest.raises(ArtifactError, match="is no directory"):
        AdapterLibrary(library.folder / "nowhere", library.base, library.base_fingerprint)


def test_names_that_begin_alike_hold_different_numbers(library: AdapterLibrary) -> None:
    for seed, name in enumerate(library.names, start=1):
        expected = read_weights(add_adapter(network(), "alone", ARGUMENTS, seed=seed), "alone")
        assert torch.equal(library.load(name).values, expected.values)
    library.remove("cat-0001")
    assert library.names == ("cat-0010", "cat-0100")


def test_what_is_loaded_is_what_peft_would_put_into_the_network(library: AdapterLibrary) -> None:
    wrapped = load_adapter(network(), "cat-0010", library.folder / "cat-0010", library.base_fingerprint)
    own, peft = library.load("cat-0010"), read_weights(wrapped, "cat-0010")
    assert own.layout == peft.layout
    assert torch.equal(own.values, peft.values)


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(library: AdapterLibrary, tmp_path: Path) -> None:
    new, before = write_adapter(tmp_path / "ninth", "CAT 0010", seed=9), contents(library.folder)
    with pytest.raises(ArtifactError, match="has an adapter 'cat-0010' already"):
        library.admit(new)
    assert contents(library.folder) == before
    old = library.load("cat-0010").values
    assert library.admit(new, replace=True) == "cat-0010"
    assert not torch.equal(library.load("cat-0010").values, old)
    others = {name: content for name, content in before.items() if not name.startswith("cat-0010/")}
    assert others.items() <= contents(library.folder).items()
    assert all(not path.name.startswith(".") for path in library.folder.iterdir())


def test_the_adapter_for_all_categories_is_called_all(library: AdapterLibrary, tmp_path: Path) -> None:
    assert library.admit(write_adapter(tmp_path / "general", None)) == "all"
    assert library.folders()[None] == library.folder / "all"


def test_an_adapter_still_finds_its_base_after_it_was_copied_in(library: AdapterLibrary, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    model = add_adapter(network(), "cat-0001", ARGUMENTS)
    source = tmp_path / "a" / "b" / "trained"
    save_adapter(model, "cat-0001", source, tmp_path / "base", fingerprint(network()), category="far")
    reseal(source)
    library.admit(source)
    assert Path(read_adapter(library.folder / "far").base) == (tmp_path / "base").resolve()


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def announce_a_huge_header(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + content[8:])


def overlap(folder: Path) -> None:
    """Every tensor claims the bytes of the first one."""
    content = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    for key in header.keys() - {"__metadata__"}:
        size = header[key]["data_offsets"][1] - header[key]["data_offsets"][0]
        header[key]["data_offsets"] = [0, size]
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def nothing(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def change(what: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        what(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def configure(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | changes))

    return apply


def belong_to(base: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        config["auto_mapping"]["base_fingerprint"] = base
        (folder / CONFIG).write_text(json.dumps(config))

    return apply


def nest_deeply(folder: Path) -> None:
    (folder / CONFIG).write_text("[" * 100_000)


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "not readable as safetensors"),
    (announce_a_huge_header, "not readable as safetensors"),
    (overlap, "not readable as safetensors"),
    (nothing, "not readable as safetensors"),
    (nest_deeply, "not readable as JSON"),
    (change(lambda tensors: tensors.pop(KEY)), "1 of .* keys are missing"),
    (change(lambda tensors: tensors.update({"base_model.model.patch_head.lora_A.weight": torch.ones(2, 16)})), "unexp"),
    (change(lambda tensors: tensors.update({KEY: torch.ones(2, 17)})), r"shape \(2, 17\); expected \(2, 16\)"),
    (change(lambda tensors: tensors.update({KEY: torch.ones(32)})), r"shape \(32,\); expected \(2, 16\)"),
    (change(lambda tensors: tensors[KEY].fill_(float("nan"))), "not finite"),
    (change(lambda tensors: tensors[KEY].fill_(float("-inf"))), "not finite"),
    (change(lambda tensors: tensors[KEY].mul_(1e30)), "update of demand_head.level_head has norm"),
    (change(lambda tensors: tensors.update({KEY: torch.full((2, 16), 1e200, dtype=torch.float64)})), "has norm"),
    (change(lambda tensors: tensors.update({KEY: torch.ones(2, 16, dtype=torch.int64)})), "is of type I64"),
    (change(lambda tensors: tensors.update({KEY: tensors[KEY].to(torch.float8_e4m3fn)})), "is of type F8_E4M3"),
    (configure(r=3), "at rank 3"),
    (configure(r=100_000), "the rank is 100000; expected at most 256"),
    (configure(r=True), "r is True"),
    (configure(r=2.0), "r is 2.0"),
    (configure(lora_alpha=float("nan")), "lora_alpha nan"),
    (configure(lora_alpha=float("inf")), "lora_alpha inf"),
    (configure(lora_alpha=10**400), "finite number above 0"),
    (configure(lora_alpha=1e8), "has norm"),
    (configure(target_modules=["q_proj"]), "target_modules is"),
    (configure(modules_to_save=["patch_head"]), "modules_to_save"),
    (belong_to("sha256:" + "0" * 64), "belongs to the base sha256:0000"),
]


@pytest.mark.parametrize("damage, message", BROKEN)
def test_a_hostile_or_damaged_adapter_is_refused_and_nothing_changes(
    library: AdapterLibrary, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    source, before = tmp_path / "new", contents(library.folder)
    damage(source)
    reseal(source)
    with pytest.raises(ArtifactError, match=message):
        library.admit(source)
    assert contents(library.folder) == before
    assert fingerprint(library.base) == library.base_fingerprint


def test_without_the_damage_it_is_admitted(library: AdapterLibrary, tmp_path: Path) -> None:
    assert library.admit(tmp_path / "new") == "new"
    assert library.names[-1] == "new"


def test_an_adapter_that_was_changed_after_it_was_sealed_is_refused(library: AdapterLibrary, tmp_path: Path) -> None:
    source = tmp_path / "new"
    change(lambda tensors: tensors[KEY].mul_(1.01))(source)
    with pytest.raises(ArtifactError, match="was changed"):
        library.admit(source)
    (tmp_path / "unsealed").mkdir()
    with pytest.raises(ArtifactError, match="manifest.json is missing"):
        library.admit(tmp_path / "unsealed")


def test_what_would_have_to_be_unpickled_is_refused(library: AdapterLibrary, tmp_path: Path) -> None:
    source = tmp_path / "new"
    torch.save({}, source / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="nothing that is unpickled"):
        library.admit(source)


@pytest.mark.parametrize("name", ["../trained-1", "..", ".", "/etc", "cat-0001/../cat-0010", "CAT 0001", "", ".hidden"])
def test_names_that_lead_out_of_the_library_are_refused(library: AdapterLibrary, name: str) -> None:
    before = contents(library.folder.parent)
    for use in (library.load, library.remove):
        with pytest.raises(ArtifactError, match="adapter name"):
            use(name)
    assert contents(library.folder.parent) == before
    with pytest.raises(ArtifactError, match="has no adapter 'cat-1'; it has"):
        library.load("cat-1")


def test_a_category_cannot_name_a_place_outside(library: AdapterLibrary, tmp_path: Path) -> None:
    name = library.admit(write_adapter(tmp_path / "escaping", "../../etc/passwd"))
    assert name == "etc-passwd"
    assert (library.folder / name).is_dir()


def test_a_link_in_the_library_is_not_followed(library: AdapterLibrary, tmp_path: Path) -> None:
    (library.folder / "linked").symlink_to(tmp_path / "trained-1", target_is_directory=True)
    for use in (library.load, library.remove):
        with pytest.raises(ArtifactError, match="is a link"):
            use("linked")
    assert (tmp_path / "trained-1").is_dir()


def test_an_adapter_under_another_name_is_refused(library: AdapterLibrary) -> None:
    shutil.move(library.folder / "cat-0001", library.folder / "cat-1000")
    with pytest.raises(ArtifactError, match="holds the adapter 'cat-0001'; expected 'cat-1000'"):
        library.load("cat-1000")


def test_the_list_says_which_adapters_are_refused_and_why(library: AdapterLibrary) -> None:
    truncate(library.folder / "cat-0010")
    (library.folder / "cat-0100" / CONFIG).unlink()
    first, second, third = library.entries()
    assert first.refusal == ""
    assert second.reference is not None
    assert "was changed" in second.refusal
    assert third.reference is None
    assert "adapter_config.json is missing" in third.refusal


def test_what_is_written_in_a_block_that_fails_leaves_no_trace(library: AdapterLibrary) -> None:
    before = contents(library.folder)

    def fail(folder: Path) -> None:
        write_adapter(folder, "NEW")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"), library.create("NEW") as folder:
        fail(folder)
    with pytest.raises(ArtifactError, match="says that it is 'other'"), library.create("NEW") as folder:
        write_adapter(folder, "OTHER")
    with pytest.raises(ArtifactError, match="manifest.json is missing"), library.create("NEW"):
        pass
    assert contents(library.folder) == before
    with library.create("NEW") as folder:
        shutil.copytree(folder.parents[1] / "new", folder, dirs_exist_ok=True)
    assert library.names[-1] == "new"


# -- nearest ----------------------------------------------------------------------------------------------------------


def profile(*features: float) -> CategoryProfile:
    return CategoryProfile(fingerprint(network()), 5, features)


def test_the_nearest_adapter_comes_first(library: AdapterLibrary) -> None:
    assert [own.name for own in library.nearest(profile(2.2, 1.0))] == ["cat-0010", "cat-0100", "cat-0001"]
    first = library.nearest(profile(1.0, 1.0))[0]
    assert (first.name, first.distance) == ("cat-0001", 0.0)


def test_a_feature_counts_by_its_spread_and_not_by_its_unit(library: AdapterLibrary) -> None:
    for name, features in {"cat-0001": (1e6, 1.0), "cat-0010": (2e6, 1.0), "cat-0100": (1e6, 2.0)}.items():
        write_profile(library.folder / name, profile(*features))
    found = library.nearest(profile(1.1e6, 1.9))
    assert found[0].name == "cat-0100"


def test_adapters_without_a_profile_are_not_among_the_nearest(library: AdapterLibrary) -> None:
    (library.folder / "cat-0010" / "category_profile.json").unlink()
    assert library.profiles()["cat-0010"] is None
    assert [own.name for own in library.nearest(profile(2.0, 1.0))] == ["cat-0001", "cat-0100"]
    for name in ("cat-0001", "cat-0100"):
        (library.folder / name / "category_profile.json").unlink()
    with pytest.raises(ArtifactError, match="no adapter has a category_profile.json"):
        library.nearest(profile(2.0, 1.0))


def test_profiles_of_different_bases_are_not_compared(library: AdapterLibrary) -> None:
    with pytest.raises(ArtifactError, match="compare profiles of one base"):
        library.nearest(CategoryProfile("sha256:other", 5, (1.0, 1.0)))
    with pytest.raises(ArtifactError, match="compare profiles of one base"):
        library.nearest(profile(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "text", ["{}", '{"base_fingerprint": "a", "num_items": 0, "features": [1]}', "[1]", "{", '{"features": 3}']
    + ['{"base_fingerprint": "a", "num_items": 2, "features": [NaN]}']
    + ['{"base_fingerprint": "a", "num_items": 2, "features": ["x"]}'],
)  # fmt: skip
def test_a_profile_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "category_profile.json").write_text(text)
    with pytest.raises(ArtifactError, match="category_profile.json"):
        read_profile(tmp_path)
    write_profile(tmp_path, profile(0.1, 1 / 3))
    assert read_profile(tmp_path) == profile(0.1, 1 / 3)
