"""A policy on disk and on the Hub: loads a base and its adapters with every check, writes them back."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pricing_fm.adapters import category_slug, load_adapter, read_adapter
from pricing_fm.artifact import ADAPTER_WEIGHTS, read_json, verify_artifact, write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.errors import ArtifactError
from pricing_fm.guardrails import Guardrails, load_guardrails
from pricing_fm.hub import download
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy.engine import share_weights
from pricing_fm.policy.support import CategorySupport

LADDER_FILE = "price_ladder.json"
GUARDRAILS_FILE = "guardrails.json"
ADAPTER_FOLDER, ADAPTERS_FOLDER = "adapter", "adapters"
ALL_CATEGORIES = "all"


@dataclass(frozen=True)
class LoadedAdapter:
    """One adapter in place.

    Args:
        model (`PricingFMForPolicy`): Shares the base's tensors and carries the adapter.
        category (`str` or None): Exact value in the data; None = every category.
        support (`CategorySupport` or None): Rungs its log had tried.
        has_policy (`bool`): Whether value and policy heads were trained; a forecast adapter only changes demand.
        rewards (`RewardWeights`): What its policy maximises.
        discount (`float`): Per period.
        aggressiveness (`float`): Log-odds that an advantage of one reference revenue per period is worth.
        guardrails (`Guardrails`): The category's own rules; used where none are given.
        folder (`Path`): Where it was loaded from.
    """

    model: PricingFMForPolicy
    category: str | None
    support: CategorySupport | None
    has_policy: bool
    rewards: RewardWeights
    discount: float
    aggressiveness: float
    guardrails: Guardrails
    folder: Path


@dataclass(frozen=True)
class PolicyParts:
    """What `PricingPolicy` is made of."""

    model: PricingFMForPolicy
    processor: PricingFMProcessor
    adapters: dict[str | None, LoadedAdapter]
    base_source: str


def write_ladder(
    folder: Path,
    support: CategorySupport,
    has_policy: bool,
    rewards: RewardWeights,
    discount: float,
    aggressiveness: float,
) -> None:
    """Writes `price_ladder.json`: the ladder, what was tried on it, and how the policy weighs its values."""
    policy = {
        "trained": has_policy,
        "rewards": asdict(rewards),
        "discount": discount,
        "aggressiveness": aggressiveness,
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
    model, info = PricingFMForPolicy.from_pretrained(
        folder, dtype=dtype or torch.float32, output_loading_info=True, local_files_only=True
    )
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
    processor = PricingFMProcessor.from_pretrained(folder, local_files_only=True)
    return model.to(device or "cpu").eval(), processor, manifest.base_fingerprint


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
        reference = read_adapter(folder)
        base_source, base_folder, wanted = reference.base, download(reference.base, reference.revision).folder, [folder]
    else:
        base_source, base_folder, wanted = str(path), folder, _adapters_of(folder, adapter)
    model, processor, fingerprint = load_base(base_folder, device, dtype)
    loaded: dict[str | None, LoadedAdapter] = {}
    for place in wanted:
        entry = _load_one(place, model, fingerprint)
        if entry.category in loaded:
            raise ArtifactError(
                f"two adapters for category {entry.category!r}: {loaded[entry.category].folder}, {place}"
            )
        loaded[entry.category] = entry
    if isinstance(adapter, Mapping):
        _check_categories(adapter, loaded)
    return PolicyParts(model, processor, loaded, base_source)


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


def _load_one(folder: Path, base: PricingFMForPolicy, fingerprint: str) -> LoadedAdapter:
    reference = read_adapter(folder)
    network = share_weights(base)
    load_adapter(network, category_slug(reference.category or ALL_CATEGORIES), folder, fingerprint)
    content = read_json(folder / LADDER_FILE)
    try:
        policy = content["policy"]
        return LoadedAdapter(
            model=network.eval(),
            category=reference.category,
            support=CategorySupport(**content["support"]),
            has_policy=policy["trained"],
            rewards=RewardWeights(**policy["rewards"]),
            discount=policy["discount"],
            aggressiveness=policy["aggressiveness"],
            guardrails=load_guardrails(folder / GUARDRAILS_FILE),
            folder=folder,
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / LADDER_FILE}: {error}; export the adapter again") from error


def save_policy_parts(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    adapters: Mapping[str | None, LoadedAdapter],
    base_source: str,
    folder: Path,
) -> None:
    """Writes a base and its adapters as complete artifacts; files that only describe them come from where they were.

    Raises:
        ArtifactError: If `folder` holds something else already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(base_source)
    if source.is_dir() and source.resolve() != folder.resolve():
        for file in source.iterdir():
            if file.is_file():
                shutil.copy2(file, folder / file.name)
    else:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_manifest(folder, "base")
        write_card(folder, CardText(title=folder.name))
    many = len(adapters) > 1
    for entry in adapters.values():
        slug = category_slug(entry.category or ALL_CATEGORIES)
        target = folder / ADAPTERS_FOLDER / slug if many else folder / ADAPTER_FOLDER
        if target.resolve() == entry.folder.resolve():
            continue
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(entry.folder, target)
