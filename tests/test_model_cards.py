"""What is published in this repository is complete, sealed and small, and loads by the ways that its card shows."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from pricing_fm.adapters import read_pooling
from pricing_fm.artifact import verify_artifact
from pricing_fm.models import PricingFMModel
from pricing_fm.policy import PricingPolicy
from pricing_fm.results import read_results
from recipes.demo import describe_base

REPOSITORY = Path(__file__).resolve().parents[1]
BASE = REPOSITORY / "model_cards" / "pricing-fm-nano"
START = REPOSITORY / "model_cards" / "pricing-fm-nano-retail"
ADAPTERS = sorted((REPOSITORY / "model_cards" / "adapters").iterdir())
MOST_BYTES = 8_000_000
FILES = {
    *("config.json", "model.safetensors", "preprocessor_config.json", "recipe.yaml", "results.json"),
    *("README.md", "manifest.json"),
}


def test_the_published_base_is_a_complete_sealed_artifact() -> None:
    manifest = verify_artifact(BASE, kind="base")
    assert {path.name for path in BASE.iterdir()} >= FILES
    assert manifest.base_fingerprint in (BASE / "README.md").read_text()
    assert "pretrain" in read_results(BASE).recipe
    assert "pretrained for" in describe_base(BASE, "it")


def test_the_published_base_is_small_enough_for_a_clone() -> None:
    assert 0 < sum(path.stat().st_size for path in BASE.rglob("*") if path.is_file()) < MOST_BYTES


def test_the_published_base_loads_as_auto_model_and_as_policy() -> None:
    saved = load_file(BASE / "model.safetensors")
    trunk = AutoModel.from_pretrained(BASE)
    assert type(trunk) is PricingFMModel
    weights = trunk.state_dict()
    assert weights
    assert all(torch.equal(tensor, saved[f"model.{name}"]) for name, tensor in weights.items())
    assert PricingPolicy.from_pretrained(BASE).processor.context_length == trunk.config.context_length


@pytest.mark.parametrize("folder", [START, *ADAPTERS], ids=lambda folder: folder.name)
def test_published_adapters_are_sealed_find_their_base_and_bear_their_numbers(folder: Path) -> None:
    manifest = verify_artifact(folder, kind="adapter")
    assert manifest.base_fingerprint == verify_artifact(BASE, kind="base").base_fingerprint
    policy = PricingPolicy.from_pretrained(folder)
    assert len(policy.adapters) == 1
    card = (folder / "README.md").read_text()
    assert manifest.base_fingerprint in card
    if folder != START:
        measured = {(row.name, row.k) for row in read_results(folder).metrics if row.model == "pricing_fm"}
        assert {("wql", 4), ("wql", 13), ("wql", 26)} <= measured
        assert all(f"k = {k}" in card for k in (4, 13, 26))


def test_at_least_six_categories_are_published_and_the_start_knows_how_to_pool() -> None:
    assert len(ADAPTERS) >= 6
    rule = read_pooling(START)
    assert rule is not None
    assert rule.weeks == (0, 4, 13, 26)
