"""A policy on disk and on the Hub: loads a base and its adapters with every check."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pricing_fm.adapters import AdapterWeights, load_weights, read_adapter
from pricing_fm.artifact import ADAPTER_WEIGHTS, read_json, verify_artifact
from pricing_fm.errors import ArtifactError, GuardrailError
from pricing_fm.guardrails import Guardrails, load_guardrails
from pricing_fm.hub import download
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy.support import CategorySupport

LADDER_FILE = "price_ladder.json"
GUARDRAILS_FILE = "guardrails.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
ADAPTER_FOLDER, ADAPTERS_FOLDER = "adapter", "adapters"
LADDER_FIELDS = ("ladder_start", "ladder_step", "num_rungs")
# Standard deviations (over response members) that a gain over keeping the price is discounted by.
CAUTION = 0.5


@dataclass(frozen=True)
class LoadedAdapter:
    """One adapter, and what its artifact says of how to use it.

    Args:
        weights (`AdapterWeights`): Its numbers.
        category (`str` or None): Exact value in the data; None = every category.
        support (`CategorySupport` or None): Rungs its log had tried.
        has_policy (`bool`): Whether value and policy heads were trained; a forecast adapter only changes demand.
        rewards (`RewardWeights`): What its policy maximises.
        discount (`float`): Per period.
        aggressiveness (`float`): Log-odds that an advantage of one reference revenue per period is worth.
        caution (`float`): Standard deviations over response members that an advantage is discounted by.
        guardrails (`Guardrails`): The category's own rules; used where none are given.
        folder (`Path` or None): Where it was loaded from; None = it was trained here and never saved.
    """

    weights: AdapterWeights
    category: str | None
    support: CategorySupport | None
    has_policy: bool
    rewards: RewardWeights
    discount: float
    aggressiveness: float
    guardrails: Guardrails
    folder: Path | None
    caution: float = CAUTION


@dataclass(frozen=True)
class PolicyParts:
    """What `PricingPolicy` is made of."""

    model: PricingFMForPolicy
    processor: PricingFMProcessor
    adapters: dict[str | None, LoadedAdapter]
    base_folder: Path
    base_fingerprint: str


def with_common_rank(adapters: Mapping[str | None, LoadedAdapter]) -> dict[str | None, LoadedAdapter]:
    """The same adapters at the largest rank among them, so that any of them may share a batch.

    Args:
        adapters (`Mapping[str | None, LoadedAdapter]`): By category.

    Returns:
        `dict[str | None, LoadedAdapter]`: A new mapping.
    """
    rank = max((entry.weights.layout.rank for entry in adapters.values()), default=0)
    return {key: replace(entry, weights=entry.weights.at_rank(rank)) for key, entry in adapters.items()}


def write_ladder(
    folder: Path,
    support: CategorySupport,
    has_policy: bool,
    rewards: RewardWeights,
    discount: float,
    aggressiveness: float,
    caution: float = CAUTION,
) -> None:
    """Writes `price_ladder.json`: the ladder, what was tried on it, and how the policy weighs its values."""
    policy = {
        "trained": has_policy,
        "rewards": asdict(rewards),
        "discount": discount,
        "aggressiveness": aggressiveness,
        "caution": caution,
    }
    content = {"support": support.to_json(), "policy": policy}
    (folder / LADDER_FILE).write_text(json.dumps(content, indent=1) + "\n")


def load_base(
    folder: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> tuple[PricingFMForPolicy, PricingFMProcessor, str]:
    """Loads a sealed base folder strictly.

    Args:
        folder (`str` or `Path`): The base.
        device (`str` or `torch.device`, *optional*): CPU by default.
        dtype (`torch.dtype` or `str`, *optional*): float32 by default.

    Returns:
        Network in evaluation mode, processor, and the base's fingerprint.

    Raises:
        ArtifactError: If a file is missing or altered, or weights and configuration do not fit each other.
    """
    folder = Path(folder)
    manifest = verify_artifact(folder, kind="base")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != PricingFMForPolicy.config_class.model_type:
        raise ArtifactError(f"{folder / 'config.json'}: model_type is {kind!r}; expected 'pricing_fm'")
    model, info = _read_network(folder, dtype or torch.float32)
    # The reconstruction head only serves pretraining; nothing else may be left over or missing.
    foreign = [key for key in info["unexpected_keys"] if not key.startswith("patch_head.")]
    if info["missing_keys"] or info["mismatched_keys"] or foreign:
        raise ArtifactError(
            f"{folder}: weights and configuration differ: missing {sorted(info['missing_keys'])[:3]}, of another shape "
            f"{sorted(info['mismatched_keys'])[:3]}, unexpected {sorted(foreign)[:3]}; export the base again"
        )
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ArtifactError(f"{folder}: {broken[0]} holds non-finite numbers ({len(broken)} tensors); export it again")
    processor = _read_processor(folder, model)
    return model.to(device or "cpu").eval(), processor, manifest.base_fingerprint


def _read_network(folder: Path, dtype: torch.dtype | str) -> tuple[PricingFMForPolicy, dict[str, Any]]:
    try:
        # Mismatched shapes are reported instead of raised, so that the message can name them all.
        return PricingFMForPolicy.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, local_files_only=True, ignore_mismatched_sizes=True
        )
    except (TypeError, ValueError) as error:  # what the configuration says of a value that it refuses
        raise ArtifactError(f"{folder / 'config.json'}: {error}; export the base again") from error


def _read_processor(folder: Path, model: PricingFMForPolicy) -> PricingFMProcessor:
    read_json(folder / PREPROCESSOR_FILE)
    try:
        processor = PricingFMProcessor.from_pretrained(folder, local_files_only=True)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / PREPROCESSOR_FILE}: {error}; export the base again") from error
    for name in ("num_static_buckets", "num_response_members", *LADDER_FIELDS):
        if getattr(processor, name) != getattr(model.config, name):
            raise ArtifactError(
                f"{folder / PREPROCESSOR_FILE}: {name} is {getattr(processor, name)!r}, config.json says "
                f"{getattr(model.config, name)!r}; export the base again"
            )
    return processor


def load_policy_parts(
    path: str | Path,
    adapter: str | Path | Mapping[str, str | Path] | None,
    revision: str | None,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
) -> PolicyParts:
    """Finds and loads what `PricingPolicy.from_pretrained` was pointed at.

    Raises:
        ArtifactError: If something is missing, altered, or does not belong together.
    """
    folder = download(path, revision).folder
    if (folder / ADAPTER_WEIGHTS).is_file() and not (folder / "config.json").is_file():
        if adapter is not None:
            raise ArtifactError(f"{path} is an adapter already; pass its base first, then adapters")
        verify_artifact(folder, kind="adapter")
        reference = read_adapter(folder)
        base_folder, wanted = download(reference.base, reference.revision).folder, [folder]
    else:
        base_folder, wanted = folder, _adapters_of(folder, adapter)
    model, processor, fingerprint = load_base(base_folder, device, dtype)
    loaded: dict[str | None, LoadedAdapter] = {}
    for place in wanted:
        entry = load_entry(place, model, fingerprint)
        if entry.category in loaded:
            raise ArtifactError(
                f"two adapters for category {entry.category!r}: {loaded[entry.category].folder}, {place}"
            )
        loaded[entry.category] = entry
    if isinstance(adapter, Mapping):
        _check_categories(adapter, loaded)
    return PolicyParts(model, processor, loaded, base_folder, fingerprint)


def _adapters_of(folder: Path, adapter: str | Path | Mapping[str, str | Path] | None) -> list[Path]:
    if isinstance(adapter, Mapping):
        return [download(place).folder for place in adapter.values()]
    if adapter is not None:
        return [download(adapter).folder]
    saved = [folder / ADAPTER_FOLDER] if (folder / ADAPTER_FOLDER).is_dir() else []
    many = folder / ADAPTERS_FOLDER
    return saved + (sorted(path for path in many.iterdir() if path.is_dir()) if many.is_dir() else [])


def _check_categories(adapter: Mapping[str, str | Path], loaded: dict[str | None, LoadedAdapter]) -> None:
    for category, place in adapter.items():
        if category not in loaded:
            raise ArtifactError(
                f"the adapter in {place} was given for category {category!r}, but the loaded adapters are for "
                f"{sorted(map(str, loaded))}"
            )


def load_entry(folder: Path, base: PricingFMForPolicy, fingerprint: str) -> LoadedAdapter:
    """Loads a sealed adapter folder with every check; the base stays as it is.

    Args:
        folder (`Path`): The adapter.
        base (`PricingFMForPolicy`): Its base.
        fingerprint (`str`): Of the base.

    Returns:
        `LoadedAdapter`.

    Raises:
        ArtifactError: If something is missing, altered, or does not belong to this base.
    """
    weights = load_weights(base, folder, fingerprint)
    reference = read_adapter(folder)
    content, rules = read_json(folder / LADDER_FILE), read_json(folder / GUARDRAILS_FILE)
    try:
        policy, support = content["policy"], CategorySupport(**content["support"])
        for name in LADDER_FIELDS:
            if getattr(support, name) != getattr(base.config, name):
                raise ValueError(f"{name} is {getattr(support, name)!r}, the base has {getattr(base.config, name)!r}")
        if {len(row) for row in (*support.items_at_rung, *support.weeks_at_rung)} != {support.num_rungs}:
            raise ValueError(
                f"items_at_rung and weeks_at_rung must hold {support.num_rungs} numbers per promotion type"
            )
        return LoadedAdapter(
            weights=weights,
            category=reference.category,
            support=support,
            has_policy=policy["trained"],
            rewards=RewardWeights(**policy["rewards"]),
            discount=policy["discount"],
            aggressiveness=policy["aggressiveness"],
            caution=policy.get("caution", CAUTION),  # artifacts of format 1 do not say
            guardrails=load_guardrails(rules),
            folder=folder,
        )
    except GuardrailError as error:
        raise ArtifactError(f"{folder / GUARDRAILS_FILE}: {error}; export the adapter again") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / LADDER_FILE}: {error}; export the adapter again") from error
