"""The model card of an artifact: what people say about it, and the numbers that stand in its own files."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from safetensors import safe_open

from pricing_fm.artifact import CARD, Manifest, read_json, read_manifest
from pricing_fm.results import RESULTS, ResultRow, Results, read_results

TEMPLATES = Path(__file__).resolve().parent / "card_templates"
OWN_MODEL = "pricing_fm"  # in result rows
COMMIT = re.compile(r"[0-9a-f]{40}")

_SUMMARIES = {
    "base": "A pretrained transformer that forecasts demand for any future price path and reads demand curves off it.",
    "adapter": "Adapts a pricing_fm base to one category of goods.",
}
_LIMITS = (
    "A recommendation is only as good as the log behind it: prices that were never tried are marked as unsupported.",
    "Substitution between items is not modelled unless the report says otherwise (`ignores_substitution`).",
    "Numbers hold for the data named here; nothing that was not measured is claimed.",
)


@dataclass(frozen=True)
class CardText:
    """What only a person can say about an artifact.

    Args:
        title (`str`): Headline, usually the name of the repository.
        summary (`str`, *optional*): A sentence or two on what it is for; None takes a general one.
        limits (`tuple[str, ...]`): What it cannot do; one line each.
        license (`str`): Licence identifier of the Hugging Face Hub.
    """

    title: str
    summary: str | None = None
    limits: tuple[str, ...] = _LIMITS
    license: str = "apache-2.0"


@dataclass(frozen=True)
class MeasuredLine:
    """One line of the card's table: what one metric says on one task, windows and seeds taken together.

    `others` names what else was measured there, lowest value first.
    """

    task: str
    split: str
    model: str
    metric: str
    value: str
    interval: str
    count: int
    others: str


def write_card(folder: str | Path, text: CardText, load_from: str | None = None) -> Path:
    """Writes `README.md` of a sealed artifact, with the front matter that the Hub reads.

    The card lies outside the seal, so it can be written again at any time.

    Args:
        folder (`str` or `Path`): The artifact folder; its manifest exists already.
        text (`CardText`): What a person says about it.
        load_from (`str`, *optional*): Repository or path in the example; the title by default. An adapter whose base
            lies beside it is loaded from its own folder instead.

    Returns:
        `Path`: The card.

    Raises:
        ArtifactError: If the manifest, the configuration or `results.json` is missing or malformed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    results = read_results(folder) if (folder / RESULTS).exists() else None
    facts = _adapter_facts(folder) if manifest.kind == "adapter" else {}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=False
    )
    environment.filters["cell"] = _table_cell
    card = environment.get_template(f"{manifest.kind}.md.j2").render(
        front_matter=_front_matter(manifest, text, facts),
        title=text.title,
        summary=text.summary or _SUMMARIES[manifest.kind],
        limits=text.limits,
        # A base beside the adapter is found from the adapter's own folder, and from nowhere else.
        load_from="." if str(facts.get("base", "")).startswith(".") else load_from or text.title,
        manifest=manifest,
        parameters=_count_parameters(folder),
        has_recipe=(folder / "recipe.yaml").exists(),
        **_measured_facts(results),
        **facts,
    )
    path = folder / CARD
    path.write_text(card.rstrip() + "\n", encoding="utf-8")
    return path


def summarise_rows(rows: Iterable[ResultRow]) -> list[MeasuredLine]:
    """Takes rows together that differ only in window and seed, and models that were measured side by side.

    Args:
        rows (`Iterable[ResultRow]`): Rows of `results.json`.

    Returns:
        `list[MeasuredLine]`: One line per task, category, weeks, split and metric, in order of first appearance; it is
        about the artifact's own model where that was measured, else about the first one.
    """
    groups: dict[tuple[str, str, str], dict[str, list[ResultRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        task = ", ".join(
            [row.task, *([row.category] if row.category else []), *([f"k = {row.k}"] if row.k is not None else [])]
        )
        groups[(task, row.split, row.name)][row.model].append(row)
    return [_measured_line(key, models) for key, models in groups.items()]


def _measured_line(key: tuple[str, str, str], models: dict[str, list[ResultRow]]) -> MeasuredLine:
    task, split, metric = key
    own = OWN_MODEL if OWN_MODEL in models else next(iter(models))
    means = {model: sum(row.value for row in rows) / len(rows) for model, rows in models.items()}
    rows, values = models[own], [row.value for row in models[own]]
    low, high = (rows[0].lower, rows[0].upper) if len(rows) == 1 else (min(values), max(values))
    interval = f"{low:.4g} to {high:.4g}" if low is not None and high is not None else ""
    others = sorted((value, model) for model, value in means.items() if model != own)
    text = ", ".join(f"{model} {value:.4g}" for value, model in others)
    return MeasuredLine(task, split, own, metric, f"{means[own]:.4g}", interval, len(rows), text)


def _measured_facts(results: Results | None) -> dict[str, Any]:
    if results is None:
        return {"sources": (), "measured": ()}
    return {
        "sources": results.data,
        "measured": summarise_rows(results.metrics),
        "recipe": results.recipe,
        "commit": results.commit,
        "device": results.device,
        "threads": results.threads,
    }


def _adapter_facts(folder: Path) -> dict[str, Any]:
    """What the template of an adapter shows besides the manifest."""
    config = read_json(folder / "adapter_config.json")
    guardrails = folder / "guardrails.json"
    return {
        "base": config["base_model_name_or_path"],
        "revision": config["revision"],
        "rank": config["r"],
        "rules": list(read_json(guardrails)) if guardrails.exists() else [],
        "lacks_cost": _lacks_cost(folder),
    }


def _lacks_cost(folder: Path) -> bool:
    """Whether margin was asked for and no cost was known, so that prices are for revenue."""
    recipe, ladder = folder / "recipe.yaml", folder / "price_ladder.json"
    if not (recipe.exists() and ladder.exists()):
        return False
    asked = (yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("margin") or 0.0
    return asked > 0 and read_json(ladder)["policy"]["rewards"]["margin"] == 0


def _front_matter(manifest: Manifest, text: CardText, adapter: dict[str, Any]) -> str:
    entries: dict[str, Any] = {
        "license": text.license,
        "library_name": "peft" if manifest.kind == "adapter" else "transformers",
        "pipeline_tag": "time-series-forecasting",
        "tags": ["pricing", "demand-forecasting", "time-series", "pricing_fm"],
    }
    # The Hub refuses a base that is not a repository; a commit is only ever written for one.
    if adapter and COMMIT.fullmatch(adapter["revision"] or ""):
        entries |= {"base_model": adapter["base"], "base_model_relation": "adapter"}
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _count_parameters(folder: Path) -> int:
    """Numbers in all weight files, read from their headers."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                size = 1
                for length in file.get_slice(key).get_shape():
                    size *= length
                count += size
    return count


def _table_cell(value: object) -> str:
    """Names come from the data: a bar or a line break in one must not break the table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
