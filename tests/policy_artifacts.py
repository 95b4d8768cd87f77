"""Sealed artifacts of tiny networks, and a small sales log, for the tests of the policy."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from pricing_fm.adapters import LoraArguments, add_adapter, category_slug, read_adapter, save_adapter
from pricing_fm.artifact import verify_artifact, write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.models import PricingFMConfig, PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import CategorySupport, load_base, write_ladder
from pricing_fm.results import DataSource, build_results, write_results

TINY = {
    "hidden_size": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_attention_heads": 2,
    "context_length": 16,
    "num_static_buckets": 64,
    "num_response_members": 3,
}
SCHEMA = {"promotion": "promotion"}


@contextmanager
def quick_collections() -> Iterator[None]:
    """Every training ends in a garbage collection, which would look through all imported libraries each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def write_base(folder: Path, seed: int = 0, spread: float = 0.1, covariates: str = "both", **changes: Any) -> Path:
    """A complete base as pretraining leaves it (with the head that only pretraining needs); nothing at its start."""
    torch.manual_seed(seed)
    config = PricingFMConfig(**(TINY | changes))
    model = PricingFMForPreTraining(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    model.save_pretrained(folder)
    PricingFMProcessor(
        context_length=config.context_length,
        covariates=covariates,
        num_static_buckets=config.num_static_buckets,
        num_response_members=config.num_response_members,
        trained_on_interventions=True,
    ).save_pretrained(folder)
    (folder / "recipe.yaml").write_text("seed: 0\n")
    write_results(folder, build_results("pretrain", [DataSource("toy", "sha256:ab")], []))
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "loss.svg").write_text("<svg/>")
    write_manifest(folder, "base")
    write_card(folder, CardText(title=folder.name))
    return folder


def write_adapter(
    folder: Path,
    base: Path,
    category: str | None = "snacks",
    seed: int = 1,
    start: float = 0.05,
    has_policy: bool = True,
    rewards: RewardWeights | None = None,
    aggressiveness: float = 20.0,
    guardrails: Mapping[str, Any] | None = None,
    items_at_rung: list[list[int]] | None = None,
    rank: int = 2,
) -> Path:
    """A complete adapter; `start` is the size of its random update, 0 leaves the base's answers as they are."""
    model, processor, fingerprint = load_base(base)
    slug = category_slug(category or "all")
    wrapped = add_adapter(model, slug, LoraArguments(lora_rank=rank, lora_start=start), seed=seed)
    save_adapter(wrapped, slug, folder, base, fingerprint, category=category)
    processor.to_json_file(folder / "preprocessor_config.json")
    nothing = [[0] * processor.num_rungs for _ in range(2)]
    support = CategorySupport(
        category,
        processor.ladder_start,
        processor.ladder_step,
        processor.num_rungs,
        items_at_rung or nothing,
        items_at_rung or nothing,
    )
    write_ladder(folder, support, has_policy, rewards or RewardWeights(), 0.98, aggressiveness)
    (folder / "guardrails.json").write_text(json.dumps(dict(guardrails or {})))
    (folder / "recipe.yaml").write_text("seed: 0\n")
    write_results(folder, build_results("adapt", [DataSource("toy", "sha256:ab")], []))
    write_manifest(folder, "adapter", fingerprint)
    write_card(folder, CardText(title=folder.name))
    return folder


def reseal(folder: Path) -> None:
    """Writes the manifest again, as somebody would who changes a file and knows about the seal."""
    if (folder / "adapter_config.json").exists():
        write_manifest(folder, "adapter", read_adapter(folder).base_fingerprint)
    else:
        write_manifest(folder, "base")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors of an artifact and seals it again."""
    path = folder / ("adapter_model.safetensors" if (folder / "adapter_config.json").exists() else "model.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    reseal(folder)


def base_hash(folder: Path) -> str:
    """Fingerprint of a base folder, seal checked."""
    return verify_artifact(folder, kind="base").base_fingerprint


def sales_log(items: int = 8, weeks: int = 26, seed: int = 0, end: str = "2024-06-03") -> pd.DataFrame:
    """Items `i00`, `i01`, ... of the categories snacks and drinks with random prices around 2 to 9, costs and flags."""
    rng = np.random.default_rng(seed)
    stamps = pd.date_range(end=end, periods=weeks, freq="7D")
    tables = []
    for item in range(items):
        regular = round(2.0 + 7.0 * rng.random(), 2)
        promoted = rng.random(weeks) < 0.2
        steps = rng.choice([-0.2, -0.1, 0.0, 0.0, 0.1, 0.2], size=weeks)
        price = np.round(regular * np.exp(steps - 0.1 * promoted), 2)
        mean = 20.0 * (1 + item % 3) * (price / regular) ** -2.5 * np.where(promoted, 1.5, 1.0)
        tables.append(
            pd.DataFrame(
                {
                    "item_id": f"i{item:02d}",
                    "timestamp": stamps,
                    "units": rng.poisson(mean).astype(float),
                    "price": price,
                    "list_price": regular,
                    "cost": round(regular * (0.2 + 0.1 * (item % 6)), 2),
                    "promotion": promoted.astype(float),
                    "category": ("snacks", "drinks")[item % 2],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def panel_of(table: pd.DataFrame, **schema: Any) -> Panel:
    """The table as a panel with one promotion channel."""
    return load_panel(table, schema=(SCHEMA if "promotion" in table else {}) | schema)


def plan_of(panel: Panel, periods: int, **columns: Any) -> pd.DataFrame:
    """A plan for the next periods of every item: price 5, no promotion, and the given columns."""
    first = panel.frequency.step(panel.last_observed, 1)
    stamps = [panel.frequency.step(first, ahead) for ahead in range(periods)]
    rows = [(item, stamp) for item in panel.item_ids for stamp in stamps]
    plan = pd.DataFrame(rows, columns=["item_id", "timestamp"])
    return plan.assign(**({"price": 5.0, "promotion": 0.0} | columns))


def without_last_rows(panel: Panel, rows: int) -> Panel:
    """The panel less its last rows, whatever items they belong to; for logs cut off in the middle."""
    return replace(panel, frame=panel.frame.iloc[:-rows].reset_index(drop=True))
