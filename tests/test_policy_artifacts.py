"""A policy on disk: saved and loaded to the last bit, and refused as soon as something is not what was sealed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel

import pricing_fm
from pricing_fm.adapters import read_adapter, read_weights
from pricing_fm.artifact import read_manifest, verify_artifact
from pricing_fm.errors import ArtifactError
from pricing_fm.models import PricingFMForPolicy, PricingFMModel
from pricing_fm.panel import Panel
from pricing_fm.policy import CAUTION, LoadedAdapter, PricingPolicy
from tests.policy_artifacts import base_hash, change_weights, panel_of, reseal, sales_log, write_adapter, write_base


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `base`, adapters `snacks` and `drinks`, and another base `other`."""
    folder = tmp_path_factory.mktemp("artifacts")
    base = write_base(folder / "base")
    write_adapter(folder / "snacks", base, "snacks", seed=1)
    write_adapter(folder / "drinks", base, "drinks", seed=2)
    write_base(folder / "other", seed=5)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The same folders, to be broken."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(sales_log())


def answers(policy: PricingPolicy, panel: Panel) -> pd.DataFrame:
    return policy.forecast(panel, 2).merge(policy.recommend(panel), on=["item_id", "timestamp"])


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# -- save and load ----------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded_to_the_last_bit(made: Path, tmp_path: Path, panel: Panel) -> None:
    policy = PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks")
    policy.save_pretrained(tmp_path / "saved")
    again = PricingPolicy.from_pretrained(tmp_path / "saved")
    assert_equal_states(state_of(policy.model), state_of(again.model))
    assert again.adapters.keys() == policy.adapters.keys() == {"snacks"}
    first, second = (each.adapters["snacks"].weights for each in (policy, again))
    assert first.layout == second.layout
    assert torch.equal(first.values, second.values)
    pd.testing.assert_frame_equal(answers(policy, panel), answers(again, panel))
    for folder in (tmp_path / "saved", tmp_path / "saved" / "adapter"):
        verify_artifact(folder)
    saved = {path.name for path in (tmp_path / "saved").iterdir()}
    assert saved >= {"config.json", "model.safetensors", "preprocessor_config.json", "manifest.json", "README.md"}
    assert saved >= {"recipe.yaml", "results.json", "figures", "adapter"}
    assert not list((tmp_path / "saved").glob("adapter_*"))


def test_a_base_keeps_its_fingerprint_wherever_it_is_saved(made: Path, tmp_path: Path) -> None:
    PricingPolicy.from_pretrained(made / "base", dtype="bfloat16").save_pretrained(tmp_path / "a")
    PricingPolicy.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "a" / "b")
    assert base_hash(made / "base") == base_hash(tmp_path / "a") == base_hash(tmp_path / "a" / "b")


def test_several_adapters_are_saved_side_by_side(made: Path, tmp_path: Path, panel: Panel) -> None:
    both = {"snacks": made / "snacks", "drinks": made / "drinks"}
    policy = PricingPolicy.from_pretrained(made / "base", adapter=both)
    policy.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved" / "adapters").iterdir()} == {"snacks", "drinks"}
    again = PricingPolicy.from_pretrained(tmp_path / "saved")
    pd.testing.assert_frame_equal(answers(policy, panel), answers(again, panel))
    alone = [PricingPolicy.from_pretrained(made / "base", adapter=made / name) for name in both]
    for policy, category in zip(alone, both, strict=True):
        items = panel.select_category(category)
        pd.testing.assert_frame_equal(answers(policy, items), answers(again, items))


def test_saving_again_replaces_what_was_saved_before(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    both = {"snacks": made / "snacks", "drinks": made / "drinks"}
    PricingPolicy.from_pretrained(made / "base", adapter=both).save_pretrained(folder)
    PricingPolicy.from_pretrained(folder).save_pretrained(folder)  # onto itself: nothing changes
    assert PricingPolicy.from_pretrained(folder).adapters.keys() == {"snacks", "drinks"}
    PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks").save_pretrained(folder)
    assert PricingPolicy.from_pretrained(folder).adapters.keys() == {"snacks"}
    PricingPolicy.from_pretrained(made / "other").save_pretrained(folder)
    assert PricingPolicy.from_pretrained(folder).adapters == {}
    assert base_hash(folder) == base_hash(made / "other")


def test_a_folder_of_something_else_is_not_written_into(made: Path, tmp_path: Path, monkeypatch) -> None:
    policy = PricingPolicy.from_pretrained(made / "base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="holds something else"):
        policy.save_pretrained(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    shutil.copytree(made / "snacks", tmp_path / "adapter")
    with pytest.raises(ArtifactError, match="holds something else"):
        policy.save_pretrained(tmp_path / "adapter")


def test_a_policy_that_was_put_together_in_memory_is_saved_as_what_it_is(
    made: Path, tmp_path: Path, panel: Panel, monkeypatch
) -> None:
    loaded = PricingPolicy.from_pretrained(made / "base")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.json").write_text("{}")
    built = PricingPolicy(loaded.model, loaded.processor)
    built.save_pretrained(tmp_path / "built")
    assert not (tmp_path / "built" / "private.json").exists()
    again = PricingPolicy.from_pretrained(tmp_path / "built")
    pd.testing.assert_frame_equal(answers(built, panel), answers(again, panel))
    entry = PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks").adapters["snacks"]
    unsaved = LoadedAdapter(**{**vars(entry), "folder": None})
    with pytest.raises(ArtifactError, match="'snacks' was trained here and never saved"):
        PricingPolicy(loaded.model, loaded.processor, {"snacks": unsaved}, made / "base").save_pretrained(
            tmp_path / "u"
        )
    assert not (tmp_path / "u").exists()
    with pytest.raises(ArtifactError, match="belongs to another base"):
        PricingPolicy(loaded.model, loaded.processor, {"snacks": entry}, made / "other").save_pretrained(tmp_path / "o")


# -- ways to name what is loaded --------------------------------------------------------------------------------------


def test_an_adapter_folder_finds_its_base(made: Path, tmp_path: Path, panel: Panel) -> None:
    named = PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks")
    pd.testing.assert_frame_equal(answers(PricingPolicy.from_pretrained(made / "snacks"), panel), answers(named, panel))
    named.save_pretrained(tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "elsewhere")
    found = PricingPolicy.from_pretrained(tmp_path / "elsewhere" / "adapter")
    pd.testing.assert_frame_equal(answers(found, panel), answers(named, panel))
    assert Path(read_adapter(tmp_path / "elsewhere" / "adapter").base) == tmp_path / "elsewhere"
    shutil.move(tmp_path / "elsewhere" / "adapter", tmp_path / "lost")
    with pytest.raises(ArtifactError, match="manifest.json is missing"):
        PricingPolicy.from_pretrained(tmp_path / "lost")
    with pytest.raises(ArtifactError, match="is an adapter already"):
        PricingPolicy.from_pretrained(made / "snacks", adapter=made / "drinks")


def test_the_adapter_that_is_named_counts_not_the_one_that_lies_there(made: Path, tmp_path: Path, panel: Panel) -> None:
    PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks").save_pretrained(tmp_path / "saved")
    other = PricingPolicy.from_pretrained(tmp_path / "saved", adapter=made / "drinks")
    assert other.adapters.keys() == {"drinks"}
    assert PricingPolicy.from_pretrained(tmp_path / "saved", adapter={}).adapters == {}


def test_an_adapter_is_for_the_category_it_was_trained_for(made: Path) -> None:
    with pytest.raises(ArtifactError, match="given for category 'drinks'.*are for.*snacks"):
        PricingPolicy.from_pretrained(made / "base", adapter={"drinks": made / "snacks"})
    with pytest.raises(ArtifactError, match="two adapters for category 'snacks'"):
        PricingPolicy.from_pretrained(made / "base", adapter={"snacks": made / "snacks", "drinks": made / "snacks"})
    for name, said in ((made / "base", "expected an adapter"), (made / "nothing", "no such folder")):
        with pytest.raises(ArtifactError, match=said):
            PricingPolicy.from_pretrained(made / "base", adapter=name)
    with pytest.raises(ArtifactError, match="no such folder"):
        PricingPolicy.from_pretrained(made / "nothing")


def test_an_adapter_of_another_base_is_refused(made: Path) -> None:
    with pytest.raises(
        ArtifactError, match=f"belongs to the base {base_hash(made / 'base')}.*{base_hash(made / 'other')}"
    ):
        PricingPolicy.from_pretrained(made / "other", adapter=made / "snacks")


def test_a_revision_of_a_folder_is_refused(made: Path) -> None:
    with pytest.raises(ArtifactError, match="has no revision"):
        PricingPolicy.from_pretrained(made / "base", revision="v2")


# -- other libraries --------------------------------------------------------------------------------------------------


def test_auto_model_loads_the_trunk_and_no_adapter(made: Path, tmp_path: Path) -> None:
    PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks").save_pretrained(tmp_path / "saved")
    trunk = AutoModel.from_pretrained(tmp_path / "saved")
    assert type(trunk) is PricingFMModel
    assert pricing_fm.PricingPolicy is PricingPolicy
    expected = PricingPolicy.from_pretrained(made / "base").model.model
    assert_equal_states(state_of(expected), state_of(trunk))


def test_peft_loads_the_adapter_and_answers_alike(made: Path, panel: Panel) -> None:
    ours = PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks")
    theirs = PeftModel.from_pretrained(PricingFMForPolicy.from_pretrained(made / "base"), made / "snacks")
    weights, again = ours.adapters["snacks"].weights, read_weights(theirs, "default")
    assert weights.layout == again.layout
    assert torch.equal(weights.values, again.values)
    items = panel.select_category("snacks")
    expected = PricingPolicy(theirs.get_base_model(), ours.processor).forecast(items, 3)
    found = ours.forecast(items, 3)
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-6)
    base = PricingPolicy.from_pretrained(made / "base").forecast(items, 3)
    assert not np.allclose(found["mean"], base["mean"], rtol=1e-3)


# -- the base stays the base ------------------------------------------------------------------------------------------


def test_loading_adapters_changes_nothing_of_the_base(made: Path, panel: Panel) -> None:
    plain = PricingPolicy.from_pretrained(made / "base")
    both = PricingPolicy.from_pretrained(made / "base", adapter={"snacks": made / "snacks", "drinks": made / "drinks"})
    both.recommend(panel, explore=True)
    assert_equal_states(state_of(plain.model), state_of(both.model))
    stripped = PricingPolicy(both.model, both.processor)
    pd.testing.assert_frame_equal(answers(stripped, panel), answers(plain, panel))
    assert not np.allclose(both.forecast(panel, 2)["mean"], plain.forecast(panel, 2)["mean"], rtol=1e-3)


def test_an_adapter_of_smaller_rank_answers_beside_a_larger_one_as_alone(
    made: Path, tmp_path: Path, panel: Panel
) -> None:
    wide = write_adapter(tmp_path / "wide", made / "base", "drinks", seed=5, rank=6)
    both = PricingPolicy.from_pretrained(made / "base", adapter={"snacks": made / "snacks", "drinks": wide})
    assert {entry.weights.layout.rank for entry in both.adapters.values()} == {6}
    for category, folder in (("snacks", made / "snacks"), ("drinks", wide)):
        items = panel.select_category(category)
        alone = PricingPolicy.from_pretrained(made / "base", adapter=folder)
        np.testing.assert_allclose(both.forecast(items, 2)["mean"], alone.forecast(items, 2)["mean"], rtol=1e-5)


def test_a_policy_in_half_precision_still_answers(made: Path, panel: Panel) -> None:
    full = PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks")
    half = PricingPolicy.from_pretrained(made / "base", adapter=made / "snacks", dtype=torch.bfloat16, device="cpu")
    assert half.model.dtype == torch.bfloat16
    np.testing.assert_allclose(half.forecast(panel, 2)["mean"], full.forecast(panel, 2)["mean"], rtol=0.2)
    assert len(half.recommend(panel)) == len(panel.item_ids)


# -- refusals ---------------------------------------------------------------------------------------------------------


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("which", ["base", "snacks"])
def test_a_changed_byte_or_a_missing_file_is_refused(copy: Path, made: Path, which: str) -> None:
    for name in read_manifest(made / which).files:
        flip_a_byte(copy / which / name)
        with pytest.raises(ArtifactError, match=f"{Path(name).name} was changed"):
            PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks")
        (copy / which / name).unlink()
        with pytest.raises(ArtifactError, match=f"{Path(name).name} is missing"):
            PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks")
        shutil.copyfile(made / which / name, copy / which / name)
    (copy / which / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="manifest.json"):
        PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks")


@pytest.mark.parametrize("which", ["base", "snacks"])
def test_a_file_that_every_artifact_has_is_missed_even_under_a_new_seal(copy: Path, which: str) -> None:
    needed = {
        "base": ["config.json", "preprocessor_config.json"],
        "snacks": ["price_ladder.json", "guardrails.json", "adapter_config.json"],
    }
    for name in needed[which]:
        content = (copy / which / name).read_bytes()
        seal = (copy / which / "manifest.json").read_text()
        (copy / which / name).unlink()
        listed = json.loads(seal)
        del listed["files"][name]
        (copy / which / "manifest.json").write_text(json.dumps(listed))
        with pytest.raises(ArtifactError, match=name):
            PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks")
        (copy / which / name).write_bytes(content)
        (copy / which / "manifest.json").write_text(seal)


BASE_KEY = "decision_head.value_head.head_out.weight"


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors: tensors.pop(BASE_KEY), f"missing .*{BASE_KEY}"),
        (lambda tensors: tensors.update({"strange.weight": tensors.pop(BASE_KEY)}), "unexpected .*strange.weight"),
        (lambda tensors: tensors[BASE_KEY].fill_(torch.nan), f"{BASE_KEY} holds non-finite"),
        (lambda tensors: tensors[BASE_KEY].fill_(torch.inf), f"{BASE_KEY} holds non-finite"),
        (lambda tensors: tensors.update({BASE_KEY: tensors[BASE_KEY][:, :3].clone()}), f"another shape .*{BASE_KEY}"),
        (lambda tensors: tensors.clear() or tensors.update(x=torch.ones(1)), "missing"),
    ],
    ids=["deleted", "renamed", "nan", "infinite", "shape", "empty"],
)
def test_a_base_whose_tensors_do_not_fit_is_refused_under_a_valid_seal(copy: Path, change: Callable, said: str) -> None:
    change_weights(copy / "base", change)
    with pytest.raises(ArtifactError, match=said):
        PricingPolicy.from_pretrained(copy / "base")


def adapter_key(tensors: dict[str, torch.Tensor]) -> str:
    return next(key for key in sorted(tensors) if "q_proj.lora_B" in key)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors: tensors.pop(adapter_key(tensors)), "keys are missing.*q_proj.lora_B"),
        (lambda tensors: tensors.update(strange=tensors.pop(adapter_key(tensors))), "missing|unexpected"),
        (lambda tensors: tensors[adapter_key(tensors)].fill_(torch.nan), "not finite"),
        (lambda tensors: tensors[adapter_key(tensors)].fill_(1e6), "norm"),
        (lambda tensors: tensors.update({adapter_key(tensors): torch.ones(3, 3)}), "shape"),
    ],
    ids=["deleted", "renamed", "nan", "huge", "shape"],
)
def test_an_adapter_whose_tensors_do_not_fit_is_refused_under_a_valid_seal(
    copy: Path, panel: Panel, change: Callable, said: str
) -> None:
    change_weights(copy / "snacks", change)
    with pytest.raises(ArtifactError, match=said):
        PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks")


def test_a_base_whose_weights_moved_is_another_base(copy: Path) -> None:
    change_weights(copy / "base", lambda tensors: tensors[BASE_KEY].add_(1e-3))
    PricingPolicy.from_pretrained(copy / "base")
    with pytest.raises(ArtifactError, match="belongs to the base"):
        PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks")


@pytest.mark.parametrize(
    "file, changes, said",
    [
        ("config.json", {"model_type": "bert"}, "model_type is 'bert'"),
        ("config.json", {"num_attention_heads": 5}, "config.json"),
        ("config.json", {"hidden_size": 64}, "another shape|config.json"),
        ("config.json", {"price_response": "rising"}, "price_response"),
        ("preprocessor_config.json", {"covariates": "tea leaves"}, "covariates"),
        ("preprocessor_config.json", {"num_rungs": 7}, "num_rungs is 7"),
        ("preprocessor_config.json", {"num_static_buckets": 9}, "num_static_buckets is 9"),
    ],
)
def test_a_base_whose_settings_do_not_fit_is_refused(copy: Path, file: str, changes: dict, said: str) -> None:
    path = copy / "base" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    reseal(copy / "base")
    with pytest.raises(ArtifactError, match=said):
        PricingPolicy.from_pretrained(copy / "base")


@pytest.mark.parametrize(
    "file, change, said",
    [
        ("price_ladder.json", lambda content: content.pop("policy"), "price_ladder.json.*policy"),
        ("price_ladder.json", lambda content: content["policy"]["rewards"].update(margin=-1.0), "margin"),
        ("price_ladder.json", lambda content: content["policy"]["rewards"].update(luck=1.0), "luck"),
        ("price_ladder.json", lambda content: content["support"].update(num_rungs=7), "num_rungs is 7"),
        ("price_ladder.json", lambda content: content["support"]["items_at_rung"][0].pop(), "items_at_rung"),
        ("guardrails.json", lambda content: content.update(price_roof=1.0), "guardrails.json.*price_roof"),
        ("adapter_config.json", lambda content: content.update(base_model_name_or_path=None), "name the base"),
    ],
)
def test_an_adapter_whose_settings_do_not_fit_is_refused(copy: Path, file: str, change: Callable, said: str) -> None:
    path = copy / "snacks" / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    seal = json.loads((copy / "snacks" / "manifest.json").read_text())
    if file == "adapter_config.json":
        seal["files"][file] = sealed(path)
        (copy / "snacks" / "manifest.json").write_text(json.dumps(seal))
    else:
        reseal(copy / "snacks")
    with pytest.raises(ArtifactError, match=said):
        PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks")


def test_an_adapter_says_how_cautious_it_is_and_older_ones_are_as_cautious_as_ever(copy: Path) -> None:
    path = copy / "snacks" / "price_ladder.json"
    for said, expected in ((1.5, 1.5), (None, CAUTION)):
        content = json.loads(path.read_text())
        content["policy"].pop("caution", None)
        content["policy"] |= {} if said is None else {"caution": said}
        path.write_text(json.dumps(content))
        reseal(copy / "snacks")
        (entry,) = PricingPolicy.from_pretrained(copy / "base", adapter=copy / "snacks").adapters.values()
        assert entry.caution == expected


def sealed(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
