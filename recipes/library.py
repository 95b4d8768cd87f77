"""A library of adapters on one base: list it, admit an adapter, find the nearest ones, mix some into a new one.

python recipes/library.py --library outputs/adapters --base outputs/base
python recipes/library.py --library outputs/adapters --base outputs/base --action admit --adapter outputs/frozen-pizza
python recipes/library.py --library outputs/adapters --base outputs/base --action nearest \
    --panel data/frat/panel.parquet --schema data/frat/schema.yaml --category "COLD CEREAL" --weeks 4
python recipes/library.py --library outputs/adapters --base outputs/base --action mix --category "COLD CEREAL" \
    --members frozen-pizza bag-snacks --shares 0.7 0.3 --rank 8
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from pricing_fm.adapters import AdapterLibrary, mix_adapters, reduce_rank, save_weights
from pricing_fm.artifact import read_json, write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.errors import ArtifactError
from pricing_fm.hub import LocalCopy, download
from pricing_fm.models import PricingFMProcessor
from pricing_fm.panel import load_panel
from pricing_fm.policy import CAUTION, LADDER_FILE, CategorySupport, load_base
from pricing_fm.policy.profile import category_profile
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import build_results, read_results, write_results
from pricing_fm.training.adapt import AdaptArguments, visible_panel


@dataclass(frozen=True)
class LibraryArguments:
    """What is done with which library."""

    library: str = field(metadata={"help": "Directory with one adapter in each subfolder; made if absent."})
    base: str = field(metadata={"help": "Folder or Hub repository of the base of all adapters."})
    action: Literal["list", "admit", "nearest", "mix"] = field(
        default="list",
        metadata={"help": "list and check all; admit --adapter; nearest to a category of --panel; mix --members."},
    )
    adapter: str | None = field(default=None, metadata={"help": "admit: folder or Hub repository of an adapter."})
    replace: bool = field(default=False, metadata={"help": "admit, mix: may take the place of the category's own."})
    panel: str | None = field(default=None, metadata={"help": "nearest: sales log."})
    schema: str | None = field(default=None, metadata={"help": "nearest: schema of the log."})
    category: str | None = field(default=None, metadata={"help": "nearest, mix: exact value in the data."})
    weeks: int | None = field(default=None, metadata={"help": "nearest: last weeks that are looked at; default: all."})
    support_end: str | None = field(default=None, metadata={"help": "nearest: only periods before this date."})
    members: tuple[str, ...] = field(default=(), metadata={"help": "mix: names in the library."})
    shares: tuple[float, ...] = field(default=(), metadata={"help": "mix: weight of each; default: equal ones."})
    rank: int | None = field(default=None, metadata={"help": "mix: reduce to this rank; default: exact, ranks add up."})

    def __post_init__(self) -> None:
        needed = {"list": (), "admit": ("adapter",), "nearest": ("panel", "category"), "mix": ("category", "members")}
        if self.action not in needed:
            raise ValueError(f"--action must be one of {sorted(needed)}, found {self.action!r}")
        missing = [f"--{name}" for name in needed[self.action] if not getattr(self, name)]
        if missing:
            raise ValueError(f"--action {self.action} needs {' and '.join(missing)}")
        if self.shares and len(self.shares) != len(self.members):
            raise ValueError(f"--shares has {len(self.shares)} numbers for {len(self.members)} members; give each one")


def main(argv: Sequence[str] | None = None) -> AdapterLibrary:
    (arguments,) = read_recipe((LibraryArguments,), argv, description=__doc__)
    origin = download(arguments.base)
    model, processor, fingerprint = load_base(origin.folder)
    Path(arguments.library).mkdir(parents=True, exist_ok=True)
    library = AdapterLibrary(arguments.library, model, fingerprint)
    if arguments.action == "list":
        show(library)
    elif arguments.action == "admit":
        name = library.admit(download(arguments.adapter).folder, arguments.replace)
        print(f"{library.folder / name}: admitted")
    elif arguments.action == "nearest":
        show_nearest(library, processor, arguments)
    else:
        mix(library, origin, processor, arguments)
    return library


def show(library: AdapterLibrary) -> None:
    """Every adapter, admitted or not."""
    table = Table("adapter", "category", "rank", "MB", "profile", "admitted")
    profiles = library.profiles()
    for entry in library.entries():
        category, rank = ("", "") if entry.reference is None else (entry.reference.category, entry.reference.rank)
        known = "yes" if profiles[entry.name] is not None else "no"
        shown = str(category if category is not None else "every category")
        table.add_row(entry.name, shown, str(rank), f"{entry.megabytes:.2f}", known, entry.refusal or "yes")
    Console(width=160).print(table)


def show_nearest(library: AdapterLibrary, processor: PricingFMProcessor, arguments: LibraryArguments) -> None:
    """Adapters by how much their categories look like the new one."""
    assert arguments.category is not None
    how = AdaptArguments(weeks=arguments.weeks, support_end=arguments.support_end)
    panel = visible_panel(load_panel(arguments.panel, schema=arguments.schema), arguments.category, how)
    profile = category_profile(panel, library.base, processor, library.base_fingerprint)
    table = Table("adapter", "distance")
    for neighbor in library.nearest(profile):
        table.add_row(neighbor.name, f"{neighbor.distance:.3f}")
    Console().print(table)
    if unknown := [name for name, own in library.profiles().items() if own is None]:
        print(f"without a profile, and not compared: {', '.join(unknown)}")


def mix(library: AdapterLibrary, origin: LocalCopy, processor: PricingFMProcessor, arguments: LibraryArguments) -> None:
    """Writes the weighted sum of some adapters as the adapter of a category that has seen none of its own weeks."""
    folders = [library.folder / name for name in arguments.members]
    shares = arguments.shares or (1 / len(folders),) * len(folders)
    weights = mix_adapters([library.load(name) for name in arguments.members], shares)
    if arguments.rank is not None:
        reduced = reduce_rank(weights, arguments.rank)
        weights = reduced.weights
        print(
            f"rank {sum(read_json(folder / 'adapter_config.json')['r'] for folder in folders)} to {arguments.rank}: "
            f"relative error {reduced.relative_error:.3g}, at most {reduced.largest_error:.3g} ({reduced.largest_path})"
        )
    policy = shared_policy(folders)
    with library.create(arguments.category, arguments.replace) as folder:
        base = origin.repo_id or origin.folder
        fingerprint = library.base_fingerprint
        save_weights(weights, library.base, folder, base, fingerprint, origin.revision, arguments.category)
        processor.to_json_file(folder / "preprocessor_config.json")
        nothing = [[0] * processor.num_rungs for _ in range(2)]
        ladder = processor.ladder_start, processor.ladder_step, processor.num_rungs
        support = CategorySupport(arguments.category, *ladder, nothing, nothing).to_json()
        (folder / LADDER_FILE).write_text(json.dumps({"support": support, "policy": policy}, indent=1) + "\n")
        (folder / "guardrails.json").write_text("{}\n")
        save_recipe(folder, (arguments,))
        data = dict.fromkeys(source for each in folders for source in read_results(each).data)
        write_results(folder, build_results("library", list(data), []))
        write_manifest(folder, "adapter", fingerprint)
        write_card(folder, CardText(f"{arguments.category}: a mix of {', '.join(arguments.members)}"))
    print(f"mixed {', '.join(arguments.members)} for {arguments.category!r}, rank {weights.layout.rank}")


def shared_policy(folders: Sequence[Path]) -> dict[str, object]:
    """How all members weigh values; policies that maximise different things have no sum."""
    policies = [{"caution": CAUTION, **read_json(folder / LADDER_FILE)["policy"]} for folder in folders]
    if any(policy != policies[0] for policy in policies):
        raise ArtifactError(
            f"{', '.join(folder.name for folder in folders)}: their policies differ in reward, discount or "
            "aggressiveness; mix adapters that were trained for the same end"
        )
    return policies[0]


if __name__ == "__main__":
    run_recipe(main)
