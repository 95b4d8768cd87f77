"""A mix is the weighted sum of its members' updates, and what a smaller rank loses is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pricing_fm.adapters import (
    AdapterWeights,
    LoraArguments,
    add_adapter,
    base_tensors,
    load_weights,
    mix_adapters,
    read_weights,
    reduce_rank,
    save_weights,
    stack_adapters,
)
from pricing_fm.artifact import tensor_fingerprint, write_manifest
from pricing_fm.errors import ArtifactError
from pricing_fm.models import PricingFMForPolicy

SHARES = [0.7, -0.2]
RANKS = (2, 3)


@pytest.fixture
def base(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return build_tiny_model(PricingFMForPolicy)


@pytest.fixture
def peft(build_tiny_model: Callable[..., PricingFMForPolicy]):
    """The same base with two adapters of different ranks inside."""
    model = build_tiny_model(PricingFMForPolicy)
    for seed, rank in enumerate(RANKS):
        model = add_adapter(model, f"cat-000{seed}", LoraArguments(lora_rank=rank, lora_start=0.1), seed=seed)
    return model


def members_of(peft) -> list[AdapterWeights]:
    return [read_weights(peft, f"cat-000{seed}") for seed in range(len(RANKS))]


def updates(weights: AdapterWeights) -> dict[str, torch.Tensor]:
    return {path: own.up.double() @ own.down.double() for path, own in weights.factors.items()}


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())


def test_a_mix_is_exactly_the_weighted_sum_of_the_updates(peft) -> None:
    members = members_of(peft)
    mixed = mix_adapters(members, SHARES)
    assert mixed.layout.rank == sum(RANKS)
    parts = [updates(own) for own in members]
    for path, update in updates(mixed).items():
        expected = SHARES[0] * parts[0][path] + SHARES[1] * parts[1][path]
        assert torch.allclose(update, expected, atol=1e-7)


def test_a_mix_answers_as_pefts_own(peft, base: PricingFMForPolicy, tiny_batch: dict[str, torch.Tensor]) -> None:
    mixed = mix_adapters(members_of(peft), [0.7, 0.2])
    peft.add_weighted_adapter(["cat-0000", "cat-0001"], [0.7, 0.2], "mixed", combination_type="cat")
    theirs = read_weights(peft, "mixed")
    for path, update in updates(theirs).items():
        assert torch.allclose(updates(mixed)[path], update, atol=1e-7)
    peft.set_adapter("mixed")
    batch = tiny_batch | {"candidate_prices": torch.zeros(12, 1, 4)}
    network = stack_adapters(base, [mixed] * 12)
    with torch.no_grad():
        expected = peft.get_base_model().demand(peft.get_base_model().encode(batch), batch).mean
        found = network.demand(network.encode(batch), batch).mean
    assert torch.allclose(found, expected, rtol=1e-6)


def test_a_mix_of_one_is_that_one(peft, base: PricingFMForPolicy) -> None:
    first, second = members_of(peft)
    assert torch.equal(mix_adapters([first], [1.0]).values, first.values)
    assert torch.equal(mix_adapters([first, second], [1.0, 0.0]).values, first.values)


def test_reducing_to_the_own_rank_loses_nothing(peft) -> None:
    members = members_of(peft)
    mixed = mix_adapters(members, SHARES)
    same = reduce_rank(mixed, sum(RANKS))
    assert same.relative_error < 1e-7
    whole = updates(mixed)
    assert norm({path: update - whole[path] for path, update in updates(same.weights).items()}) < 1e-6 * norm(whole)
    wider = reduce_rank(members[0], 40)
    assert (wider.weights.layout.rank, wider.relative_error) == (40, 0.0)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_error_that_is_reported_is_the_error_that_is_made(peft, rank: int) -> None:
    mixed = mix_adapters(members_of(peft), SHARES)
    reduced, whole = reduce_rank(mixed, rank), updates(mixed)
    assert reduced.weights.layout.rank == rank
    differences = {path: update - whole[path] for path, update in updates(reduced.weights).items()}
    assert reduced.relative_error == pytest.approx(norm(differences) / norm(whole), rel=1e-4)
    each = {path: float(differences[path].norm() / whole[path].norm()) for path in whole}
    assert each[reduced.largest_path] == pytest.approx(max(each.values()), rel=1e-4)
    assert reduced.largest_error == pytest.approx(max(each.values()), rel=1e-4)
    # No other adapter of this rank is closer: the singular values that are left out say how close it can be.
    for path, update in whole.items():
        left_out = torch.linalg.svdvals(update)[rank:].square().sum().sqrt()
        assert float(differences[path].norm()) == pytest.approx(float(left_out), rel=1e-3, abs=1e-7)


def test_a_higher_rank_loses_less(peft) -> None:
    mixed = mix_adapters(members_of(peft), SHARES)
    errors = [reduce_rank(mixed, rank).relative_error for rank in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1


def test_what_cannot_be_mixed_is_refused(peft, build_tiny_model: Callable[..., PricingFMForPolicy]) -> None:
    first, second = members_of(peft)
    other = add_adapter(build_tiny_model(PricingFMForPolicy, hidden_size=16), "cat-0000", LoraArguments(lora_rank=2))
    foreign = read_weights(other, "cat-0000")
    for members, shares, message in (
        ([], [], "nothing to mix"),
        ([first, second], [0.0, 0.0], "nothing to mix"),
        ([first, second], [1.0], "give each one a finite share"),
        ([first], [float("nan")], "give each one a finite share"),
        ([first, foreign], [0.5, 0.5], "different bases"),
    ):
        with pytest.raises(ValueError, match=message):
            mix_adapters(members, shares)
    with pytest.raises(ValueError, match="expected 1 or more"):
        reduce_rank(first, 0)


def test_a_mix_is_saved_as_an_adapter_that_is_admitted(peft, base: PricingFMForPolicy, tmp_path: Path) -> None:
    mixed, fingerprint = mix_adapters(members_of(peft), SHARES), tensor_fingerprint(base_tensors(base))
    save_weights(mixed, base, tmp_path / "mixed", "org/base", fingerprint, category="NEW")
    write_manifest(tmp_path / "mixed", "adapter", fingerprint)
    loaded = load_weights(base, tmp_path / "mixed", fingerprint)
    assert loaded.layout == mixed.layout
    assert torch.equal(loaded.values, mixed.values)


def test_a_mix_of_too_high_a_rank_is_not_saved(peft, base: PricingFMForPolicy, tmp_path: Path) -> None:
    first = members_of(peft)[0].at_rank(200)
    with pytest.raises(ArtifactError, match="has rank 400; expected at most 256. Reduce it first"):
        save_weights(mix_adapters([first, first], [0.5, 0.5]), base, tmp_path, "org/base", "sha256:0")
    other = PricingFMForPolicy(type(base.config)(**{**base.config.to_dict(), "hidden_size": 16}))
    with pytest.raises(ArtifactError, match="does not fit the base"):
        save_weights(first, other, tmp_path, "org/base", "sha256:0")
    assert not list(tmp_path.iterdir())
