"""Adapters change what they declare and nothing else, and a wrong one is not admitted."""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from pricing_fm.adapters import (
    LoraArguments,
    activate_adapter,
    adapter_parameters,
    add_adapter,
    base_tensors,
    category_slug,
    category_slugs,
    check_adapter_name,
    fold_adapter,
    load_adapter,
    merge_adapter,
    point_adapter_to_base,
    read_adapter,
    save_adapter,
    train_only,
    unmerge_adapter,
)
from pricing_fm.artifact import tensor_fingerprint, verify_artifact, write_manifest
from pricing_fm.errors import ArtifactError
from pricing_fm.models import PricingFMConfig, PricingFMForPolicy


class ToyConfig(PreTrainedConfig):
    model_type = "toy"


class ToyNetwork(PreTrainedModel):
    """Two linears that adapters may change, one that they may not."""

    config_class = ToyConfig
    lora_target_modules = ("q_proj", "response_head")

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.q_proj = nn.Linear(6, 5, bias=False)
        self.norm = nn.Linear(5, 5)
        self.response_head = nn.Linear(5, 2)
        self.post_init()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.response_head(torch.tanh(self.norm(self.q_proj(features))))


ARGUMENTS = LoraArguments(lora_rank=2, lora_alpha=4.0, lora_start=0.5)
FEATURES = torch.linspace(-1, 1, 24).reshape(4, 6)


def network() -> ToyNetwork:
    torch.manual_seed(0)
    return ToyNetwork(ToyConfig()).eval()


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(FEATURES)


def fingerprint(model: PreTrainedModel | PeftModel) -> str:
    return tensor_fingerprint(base_tensors(model))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed adapter of `network()`."""
    model = add_adapter(network(), "crackers", ARGUMENTS, seed=1)
    save_adapter(model, "crackers", tmp_path / "adapter", "org/base", fingerprint(model), category="CRACKERS")
    write_manifest(tmp_path / "adapter", "adapter", fingerprint(model))
    return tmp_path / "adapter"


def reseal(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    write_manifest(folder, "adapter", read_adapter(folder).base_fingerprint)


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    write_manifest(folder, "adapter", fingerprint(network()))


def test_an_adapter_that_starts_at_zero_is_the_base_and_one_that_does_not_is_not() -> None:
    base = answer(network())
    assert torch.equal(answer(add_adapter(network(), "a1", LoraArguments(lora_rank=2))), base)
    assert not torch.allclose(answer(add_adapter(network(), "a1", ARGUMENTS)), base)


def test_a_new_adapter_leaves_the_base_and_the_global_generator_alone() -> None:
    model = network()
    before, state = fingerprint(model), torch.get_rng_state()
    wrapped = add_adapter(model, "crackers", ARGUMENTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(wrapped) == before
    assert base_tensors(wrapped).keys() == network().state_dict().keys()
    activate_adapter(wrapped, None)
    assert torch.equal(answer(wrapped), answer(network()))


def test_an_adapter_starts_by_its_seed_alone() -> None:
    alone = add_adapter(network(), "soups", ARGUMENTS, seed=3)
    second = add_adapter(add_adapter(network(), "crackers", ARGUMENTS, seed=7), "soups", ARGUMENTS, seed=3)
    assert torch.equal(answer(alone), answer(second))
    assert not torch.equal(answer(alone), answer(add_adapter(network(), "soups", ARGUMENTS, seed=4)))


def test_only_the_declared_linears_carry_an_adapter() -> None:
    model = add_adapter(network(), "crackers", ARGUMENTS)
    assert sorted(adapter_parameters(model, "crackers")) == [
        f"base_model.model.{path}.lora_{letter}.weight" for path in ("q_proj", "response_head") for letter in "AB"
    ]


def test_after_three_steps_exactly_the_declared_parameters_changed() -> None:
    model = add_adapter(add_adapter(network(), "soups", ARGUMENTS), "crackers", ARGUMENTS)
    trainable = train_only(model, ["crackers"])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(FEATURES).square().mean().backward()
        optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == set(trainable)
    assert len(changed) == 4
    assert all(".crackers." in key for key in changed)


def test_names_that_are_parts_of_each_other_do_not_mix(tmp_path: Path) -> None:
    model = network()
    for seed, name in enumerate(("cat-1", "cat-10", "policy", "q_proj")):
        model = add_adapter(model, name, ARGUMENTS, seed=seed)
    for seed, name in enumerate(("cat-1", "cat-10", "policy", "q_proj")):
        save_adapter(model, name, tmp_path / name, "org/base", fingerprint(model))
        alone = add_adapter(network(), name, ARGUMENTS, seed=seed)
        loaded = load_adapter(network(), name, tmp_path / name, fingerprint(model), sealed=False)
        assert torch.equal(answer(loaded), answer(alone))


def test_activating_changes_the_answer_and_not_what_is_trained() -> None:
    model = add_adapter(add_adapter(network(), "soups", ARGUMENTS, seed=1), "crackers", ARGUMENTS, seed=2)
    train_only(model, ["soups", "crackers"])
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    answers = []
    for name in ("soups", "crackers", None):
        activate_adapter(model, name)
        answers.append(answer(model))
        assert {key for key, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert len(trained) == 8
    assert not any(torch.equal(answers[i], answers[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_saved_adapter_answers_to_the_last_bit(folder: Path) -> None:
    loaded = load_adapter(network(), "crackers", folder, fingerprint(network()))
    assert torch.equal(answer(loaded), answer(add_adapter(network(), "crackers", ARGUMENTS, seed=1)))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_peft_itself_loads_the_folder_without_a_warning(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = PeftModel.from_pretrained(network(), str(folder))
    assert torch.equal(answer(loaded), answer(add_adapter(network(), "crackers", ARGUMENTS, seed=1)))


def test_the_folder_says_where_the_adapter_belongs(folder: Path) -> None:
    reference = read_adapter(folder)
    assert (reference.base, reference.revision, reference.category) == ("org/base", None, "CRACKERS")
    assert reference.base_fingerprint == fingerprint(network())
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]


def test_base_and_adapter_can_be_moved_together(tmp_path: Path) -> None:
    (tmp_path / "here" / "base").mkdir(parents=True)
    model = add_adapter(network(), "crackers", ARGUMENTS)
    save_adapter(model, "crackers", tmp_path / "here" / "adapter", tmp_path / "here" / "base", fingerprint(model))
    assert str(tmp_path) not in (tmp_path / "here/adapter/adapter_config.json").read_text()
    (tmp_path / "here").rename(tmp_path / "there")
    assert Path(read_adapter(tmp_path / "there" / "adapter").base) == (tmp_path / "there" / "base").resolve()


def test_the_base_can_be_named_anew_for_publishing(folder: Path) -> None:
    point_adapter_to_base(folder, "org/published", "a" * 40)
    verify_artifact(folder, kind="adapter")
    reference = read_adapter(folder)
    assert (reference.base, reference.revision) == ("org/published", "a" * 40)
    assert reference.base_fingerprint == fingerprint(network())


def test_an_adapter_of_another_base_is_refused(folder: Path) -> None:
    torch.manual_seed(1)
    other = ToyNetwork(ToyConfig())
    with pytest.raises(ArtifactError, match="belongs to the base sha256:.*the base here is sha256:"):
        load_adapter(other, "crackers", folder, fingerprint(other))


def test_a_changed_byte_is_refused(folder: Path) -> None:
    content = bytearray((folder / "adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="was changed"):
        load_adapter(network(), "crackers", folder, fingerprint(network()))


A = "base_model.model.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors: tensors.pop(A), f"1 of 4 keys are missing, first {A}"),
        (lambda tensors: tensors.update({"base_model.model.k_proj.lora_A.weight": tensors.pop(A)}), "missing"),
        (
            lambda tensors: tensors.update({"base_model.model.norm.lora_A.weight": torch.ones(2, 5)}),
            "1 unexpected keys",
        ),
        (lambda tensors: tensors.update({A: torch.ones(2, 7)}), r"shape \(2, 7\); expected \(2, 6\)"),
        (lambda tensors: tensors.update({A: torch.ones(3, 6)}), r"expected \(2, 6\) at rank 2"),
        (lambda tensors: tensors[A].fill_(float("nan")), "not finite"),
        (lambda tensors: tensors[A][0].fill_(float("inf")), "not finite"),
        (lambda tensors: tensors[A].mul_(1e4), "update of q_proj has norm"),
        (lambda tensors: tensors.update({A: torch.ones(2, 6, dtype=torch.int32)}), "is of type I32"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_base_stays_untouched(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    reseal(folder, change)
    model = network()
    with pytest.raises(ArtifactError, match=message):
        load_adapter(model, "crackers", folder, fingerprint(model))
    assert torch.equal(answer(model), answer(network()))
    assert not [key for key in model.state_dict() if "lora" in key]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"target_modules": ["q_proj", "norm"]}, "target_modules is"),
        ({"peft_type": "IA3"}, "known here"),
        ({"use_dora": True}, "use_dora is True; expected False"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"lora_dropout": 0.5}, "lora_dropout"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow"),
        ({"r": 0}, "r is 0"),
        ({"r": 4}, "at rank 4"),
        ({"base_model_name_or_path": None}, "name the base"),
        ({"auto_mapping": None}, "fingerprint of the base is missing"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    reconfigure(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_adapter(network(), "crackers", folder, fingerprint(network()))


@pytest.mark.parametrize(
    "name", ["", "A", "__base__", "-a", "a/b", "a.b", "a" * 65, "train", "type", "a", "lora", "keys"]
)
def test_names_that_peft_would_mistake_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="adapter name"):
        load_adapter(network(), name, folder, fingerprint(network()))
    with pytest.raises(ArtifactError, match="adapter name"):
        add_adapter(network(), name, ARGUMENTS)


def test_a_taken_name_is_refused(folder: Path) -> None:
    model = load_adapter(network(), "crackers", folder, fingerprint(network()))
    with pytest.raises(ArtifactError, match="loaded already"):
        load_adapter(model, "crackers", folder, fingerprint(network()))
    with pytest.raises(ArtifactError, match="no adapter 'soups'"):
        activate_adapter(model, "soups")


def test_twelve_adapters_and_one_replaced_leave_all_others_identical(folder: Path) -> None:
    model = network()
    names = [f"cat-{index}" for index in range(1, 13)]
    for seed, name in enumerate(names):
        model = add_adapter(model, name, ARGUMENTS, seed=seed + 10)
    before = {name: {key: p.clone() for key, p in adapter_parameters(model, name).items()} for name in names}
    base = fingerprint(model)
    model.delete_adapter("cat-1")
    model = load_adapter(model, "cat-1", folder, base)
    for name in names:
        same = [torch.equal(p, before[name][key]) for key, p in adapter_parameters(model, name).items()]
        assert all(same) == (name != "cat-1")
    assert fingerprint(model) == base


def test_merged_and_unmerged_agree_and_unmerging_is_exact() -> None:
    model = add_adapter(add_adapter(network(), "soups", ARGUMENTS, seed=5), "crackers", ARGUMENTS, seed=1)
    apart, base = answer(model), fingerprint(model)
    for _ in range(3):
        merged = merge_adapter(model, "crackers")
        assert fingerprint(model) != base
        assert torch.allclose(answer(model), apart, atol=1e-5)
        unmerge_adapter(merged)
        assert fingerprint(model) == base
        assert torch.equal(answer(model), apart)


def test_two_adapters_are_not_merged_into_one_base() -> None:
    model = add_adapter(add_adapter(network(), "soups", ARGUMENTS), "crackers", ARGUMENTS)
    merge_adapter(model, "soups")
    with pytest.raises(ArtifactError, match=r"\['soups'\] are merged"):
        merge_adapter(model, "crackers")


def test_a_folded_adapter_is_an_ordinary_model() -> None:
    model = add_adapter(network(), "crackers", ARGUMENTS, seed=1)
    apart = answer(model)
    folded = fold_adapter(model, "crackers")
    assert type(folded) is ToyNetwork
    assert folded.state_dict().keys() == network().state_dict().keys()
    assert all(parameter.requires_grad for parameter in folded.parameters())
    assert torch.allclose(answer(folded), apart, atol=1e-5)
    assert not torch.allclose(answer(folded), answer(network()))


def test_the_pricing_network_takes_adapters_on_trunk_and_heads(tmp_path: Path) -> None:
    config = PricingFMConfig(hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, num_attention_heads=2)
    base = PricingFMForPolicy(config).eval()
    before = fingerprint(base)
    model = add_adapter(copy.deepcopy(base), "crackers", ARGUMENTS)
    touched = {key.split(".")[-3] for key in adapter_parameters(model, "crackers")}
    assert touched == set(PricingFMForPolicy.lora_target_modules)
    save_adapter(model, "crackers", tmp_path / "adapter", "org/base", before)
    write_manifest(tmp_path / "adapter", "adapter", before)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert written == sorted(PricingFMForPolicy.lora_target_modules)  # a set's order would change with the hash seed
    loaded = load_adapter(base, "crackers", tmp_path / "adapter", before)
    assert fingerprint(loaded) == before
    for key, parameter in adapter_parameters(model, "crackers").items():
        assert torch.equal(parameter, adapter_parameters(loaded, "crackers")[key])


@pytest.mark.parametrize(
    "category, slug",
    [
        ("CRACKERS", "crackers"),
        ("Bag Snacks", "bag-snacks"),
        ("  Café & Thé / 2 ", "cafe-the-2"),
        ("Train", "train-category"),
        ("A", "a-category"),
        ("42", "42"),
    ],
)
def test_the_slug_of_a_category_is_an_admitted_name(category: str, slug: str) -> None:
    assert category_slug(category) == slug
    assert check_adapter_name(slug) == slug


def test_long_categories_are_cut_and_kept_apart() -> None:
    first, second = (category_slug("x" * 70 + ending) for ending in "ab")
    assert first != second
    assert check_adapter_name(first).startswith("x" * 51)


def test_categories_in_other_scripts_get_names_of_their_own() -> None:
    slugs = category_slugs(["牛乳", "豆腐", "CRACKERS", "CRACKERS"])
    assert len(set(slugs.values())) == 3
    assert all(check_adapter_name(slug) for slug in slugs.values())


def test_categories_with_the_same_slug_raise() -> None:
    with pytest.raises(ArtifactError, match="'Bag Snacks' and 'bag-snacks' both get the name 'bag-snacks'"):
        category_slugs(["bag-snacks", "Bag Snacks"])
    with pytest.raises(ArtifactError, match="is empty"):
        category_slug("  ")


@pytest.mark.parametrize(
    "wrong", [{"lora_rank": 0}, {"lora_alpha": 0.0}, {"lora_start": -1.0}, {"lora_start": float("inf")}]
)
def test_sizes_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoraArguments(**wrong)
