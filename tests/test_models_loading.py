"""Saving, loading and exporting the network: what comes back is what went out, to the last bit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import pricing_fm
from pricing_fm.models import (
    MODEL_SIZES,
    PricingFMConfig,
    PricingFMForDemand,
    PricingFMForPolicy,
    PricingFMForPreTraining,
    PricingFMModel,
    PricingFMProcessor,
)
from pricing_fm.panel import RawWindows

Batch = dict[str, torch.Tensor]


def everything(model: PricingFMForPolicy, batch: Batch) -> list[torch.Tensor]:
    """All that the network can say about a batch."""
    with torch.no_grad():
        encoded = model.encode(batch)
        demand, decision = model.demand(encoded, batch), model.decide(encoded, batch)
    return [value for output in (encoded, demand, decision) for value in output.values()]


def test_a_saved_network_comes_back_to_the_last_bit(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path)
    torch.manual_seed(99)
    loaded = PricingFMForPreTraining.from_pretrained(tmp_path)
    assert type(loaded) is PricingFMForPreTraining
    assert loaded.config.to_diff_dict() | {"_name_or_path": ""} == tiny_model.config.to_diff_dict() | {
        "_name_or_path": ""
    }
    before, after = tiny_model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    buffers = dict(tiny_model.named_buffers())
    assert buffers.keys() == dict(loaded.named_buffers()).keys()
    assert all(torch.equal(buffers[name], buffer) for name, buffer in loaded.named_buffers())
    for mine, theirs in zip(everything(tiny_model, tiny_batch), everything(loaded, tiny_batch), strict=True):
        assert torch.equal(mine, theirs)


def test_every_parameter_has_a_finite_start_that_the_seed_decides(tiny_config: PricingFMConfig) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(PricingFMForPreTraining(tiny_config).state_dict())
    assert all(torch.isfinite(tensor).all() for tensor in states[0].values())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    differing = [name for name in states[0] if not torch.equal(states[0][name], states[2][name])]
    assert any("encoder" in name for name in differing)


def test_auto_classes_find_the_network_once_the_package_is_imported(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch, tmp_path: Path
) -> None:
    assert pricing_fm.__version__
    tiny_model.save_pretrained(tmp_path)
    config, trunk = AutoConfig.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert type(config) is PricingFMConfig
    assert type(trunk) is PricingFMModel
    names = PricingFMModel.forward.__code__.co_varnames[1:7]
    with torch.no_grad():
        states = trunk(**{name: tiny_batch[name] for name in names}).context_states
        assert torch.equal(states, tiny_model.encode(tiny_batch).context_states)


def test_a_tensor_deleted_from_the_file_is_reported_as_missing(
    tiny_model: PricingFMForPreTraining, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["demand_head.quantile_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, info = PricingFMForPolicy.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"demand_head.quantile_head.weight"}
    assert not info["unexpected_keys"]  # the reconstruction head is not asked for


def test_tensors_that_no_part_of_the_network_holds_are_reported(
    tiny_model: PricingFMForPreTraining, tmp_path: Path
) -> None:
    """A configuration that was edited to another price response would load without a missing tensor."""
    tiny_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"price_response": "free"}))
    for kind in (PricingFMForDemand, PricingFMForPolicy, PricingFMForPreTraining):
        _, info = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert "demand_head.response.carry_head.weight" in info["unexpected_keys"]


@pytest.mark.parametrize(("size", "fewest", "most"), [("nano", 1e6, 2e6), ("small", 7e6, 8e6), ("base", 19e6, 21e6)])
def test_sizes_have_the_parameters_that_the_table_promises(size: str, fewest: float, most: float) -> None:
    with torch.device("meta"):
        model = PricingFMForPreTraining(PricingFMConfig.from_size(size))
    assert fewest <= sum(parameter.numel() for parameter in model.parameters()) <= most
    assert set(MODEL_SIZES) == {"nano", "small", "base"}


def test_configurations_that_contradict_themselves_are_refused() -> None:
    for wrong in (
        {"hidden_size": 30},
        {"context_length": 18},
        {"price_response": "both"},
        {"quantile_levels": [0.5, 0.1]},
        {"quantile_levels": [0.0, 0.5]},
        {"ladder_start": -0.71},
        {"num_rungs": 20},
        {"carry_over_length": 0},
    ):
        with pytest.raises(ValueError):
            PricingFMConfig(**wrong)
    with pytest.raises(ValueError, match="nano"):
        PricingFMConfig.from_size("huge")


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = PricingFMConfig(quantile_levels=[0.1, 0.5, 0.9], price_response="free", response_knots=[0.0, 0.1])
    config.save_pretrained(tmp_path)
    loaded = PricingFMConfig.from_pretrained(tmp_path)
    assert (loaded.quantile_levels, loaded.response_knots) == ([0.1, 0.5, 0.9], [0.0, 0.1])
    assert loaded.price_response == "free"
    assert loaded.reference_rung == 28
    assert loaded.num_actions == 86


def test_the_library_thaws_what_it_loads_and_the_network_freezes_it_again(
    tiny_model: PricingFMForPreTraining, tmp_path: Path
) -> None:
    unreached = [
        name
        for name, _ in tiny_model.named_parameters()
        if name.startswith(("decision_head.policy", "decision_head.value")) or "pooling_head" in name
    ]
    assert len(unreached) == 9
    tiny_model.save_pretrained(tmp_path)
    loaded = PricingFMForPreTraining.from_pretrained(tmp_path)
    loaded.freeze_unreached_heads()
    for model in (tiny_model, loaded):
        assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == unreached
    assert all(parameter.requires_grad for parameter in PricingFMForPolicy.from_pretrained(tmp_path).parameters())


@pytest.mark.parametrize("kind", [PricingFMForDemand, PricingFMForPolicy, PricingFMForPreTraining])
def test_a_saved_network_carries_all_of_its_code(
    kind: type[PricingFMForDemand], build_tiny_model: Callable[..., PricingFMForDemand], tmp_path: Path
) -> None:
    build_tiny_model(kind).save_pretrained(tmp_path)
    source = Path(pricing_fm.models.__file__).parent
    written = {path.name for path in tmp_path.glob("*.py")}
    assert written == {path.name for path in source.glob("*.py")} - {
        "__init__.py",
        "processing_pricing_fm.py",
        "price_evidence.py",
        "local_forecast.py",
        "window_statistics.py",
        "hidden_demand_evidence.py",
        "calendar_features.py",
        "hashing.py",
        "recursion.py",
    }
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForTimeSeriesPrediction", "AutoModelForPreTraining"}
    assert all((tmp_path / f"{place.split('.')[0]}.py").is_file() for place in auto_map.values())


FRESH_PROCESS = """
import sys
sys.modules["pricing_fm"] = None  # any import of the package fails here
from types import SimpleNamespace
import numpy as np, torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining
folder, work = sys.argv[1:]
torch.set_num_threads(1)
arrays = dict(np.load(work + "/windows.npz"))
categories = arrays.pop("static_categories").astype(object)
categories[categories == ""] = None
windows = SimpleNamespace(static_categories=categories, **arrays)
processor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
batch = processor(windows)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
trunk = AutoModel.from_pretrained(folder, trust_remote_code=True)
whole = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True).eval()
names = [name for name in batch if name.startswith(("past_", "static_"))]
with torch.no_grad():
    encoded = whole.encode(batch)
    found = {
        "trunk": trunk(**{name: batch[name] for name in names}).context_states,
        "quantiles": whole.demand(encoded, batch).quantile_values,
        "elasticity": whole.demand(encoded, batch).elasticity,
        "policy": whole.decide(encoded, batch).policy_log_probs,
        "loss": whole(**batch).loss,
        "batch": batch["past_values"],
    }
assert not any(name.startswith("pricing_fm.") for name in sys.modules)
assert type(whole).__module__.startswith("transformers_modules."), type(whole).__module__
save_file({name: tensor.contiguous() for name, tensor in found.items()}, work + "/found.safetensors")
print(config.model_type, type(processor).__name__, type(trunk).__name__)
"""


def test_the_exported_folder_works_in_a_fresh_process_without_the_package(
    tiny_model: PricingFMForPreTraining, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows, tmp_path: Path
) -> None:
    folder, work = tmp_path / "exported", tmp_path / "elsewhere"
    work.mkdir()
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    arrays = {name: value for name, value in vars(tiny_windows).items() if name != "item_ids"}
    arrays["static_categories"] = np.where(np.equal(arrays["static_categories"], None), "", arrays["static_categories"])
    np.savez(work / "windows.npz", **arrays | {"static_categories": arrays["static_categories"].astype(str)})
    done = subprocess.run(
        [sys.executable, "-I", "-c", FRESH_PROCESS, str(folder), str(work)],
        cwd=work,
        env={"HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["pricing_fm", "PricingFMProcessor", "PricingFMModel"]
    found = load_file(work / "found.safetensors")
    batch = tiny_processor(tiny_windows)
    with torch.no_grad():
        encoded = tiny_model.encode(batch)
        demand, decision = tiny_model.demand(encoded, batch), tiny_model.decide(encoded, batch)
        loss = tiny_model(**batch).loss
    assert torch.equal(found["batch"], batch["past_values"])
    assert torch.equal(found["trunk"], encoded.context_states)
    assert torch.equal(found["quantiles"], demand.quantile_values)
    assert torch.equal(found["elasticity"], demand.elasticity)
    assert torch.equal(found["policy"], decision.policy_log_probs)
    assert torch.equal(found["loss"], loss)
