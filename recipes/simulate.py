"""Simulate markets under their managers and write the log: panel, truth, schema, price coverage and dataset card.

Example: python recipes/simulate.py --market retail --manager demand_follower --confounding 0.5 --num_markets 64 \
    --output_dir outputs/simulate
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pricing_fm.markets.dataset import write_dataset
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.logs import LogSettings, SimulatedLog, simulate_log
from pricing_fm.markets.managers import MANAGERS, ManagerSettings, choose_managers
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe

_FAMILIES = "; ".join(f"{name}: {', '.join(domain.families)}" for name, domain in DOMAINS.items())


@dataclass(frozen=True)
class SimulateArguments:
    """What to simulate."""

    output_dir: str = field(metadata={"help": "Folder to write into; `datasets.load_dataset` reads it."})
    market: str = field(default="retail", metadata={"help": f"Domain: {', '.join(DOMAINS)}."})
    family: str | None = field(default=None, metadata={"help": f"Family of the domain; none = its first. {_FAMILIES}."})
    manager: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Who sets the prices, one or more of {', '.join(MANAGERS)}; markets take turns. None = the first"
            " five, as far as the market has what they need."
        },
    )
    confounding: float | None = field(
        default=None,
        metadata={
            "help": "Correlation of a demand follower's wish with hidden demand, in [-1, 1]: negative cuts prices in"
            " demand peaks, positive raises them; none = drawn between -0.9 and 0.9."
        },
    )
    num_markets: int = field(default=64, metadata={"help": "Markets side by side."})
    num_products: int | None = field(default=None, metadata={"help": "Products of a market; none = the domain's own."})
    num_segments: int | None = field(
        default=None, metadata={"help": "Customer segments with a price of their own; none = the domain's own."}
    )
    num_stores: int | None = field(
        default=None, metadata={"help": "Stores that share a category and its manager (retail); none = 1."}
    )
    num_periods: int = field(default=120, metadata={"help": "Periods logged; their length is the domain's."})
    randomized_periods: int = field(
        default=0, metadata={"help": "Last periods of every item with prices drawn at random; 0 = none."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of everything, 0 or more."})

    def __post_init__(self) -> None:
        if self.market not in DOMAINS:
            raise ValueError(f"market is {self.market!r}; known markets: {', '.join(DOMAINS)}")
        if self.confounding is not None and self.manager is not None and "demand_follower" not in self.manager:
            raise ValueError(
                f"confounding is {self.confounding}, but only a demand_follower follows hidden demand and manager is"
                f" {self.manager}; drop one of them"
            )
        log = self.build_log()
        domain = DOMAINS[log.domain]
        # One market tells whether the family has what the managers need.
        one = domain.sample(
            self.build_market(), log.family or domain.families[0], np.zeros(1, dtype=np.int64), log.seed
        )
        choose_managers(self.build_managers(), one)

    def build_market(self) -> Any:
        """Settings of the domain with the sizes asked for.

        Raises:
            ValueError: If the domain has no such size, or refuses it.
        """
        kind = DOMAINS[self.market].settings
        wanted = {name: getattr(self, name) for name in ("num_products", "num_segments", "num_stores")}
        given = {name: value for name, value in wanted.items() if value is not None}
        unknown = given.keys() - {entry.name for entry in dataclasses.fields(kind)}
        if unknown:
            raise ValueError(f"{self.market} markets have no {', '.join(sorted(unknown))}; leave it out")
        return kind(**given)

    def build_managers(self) -> ManagerSettings:
        """Who sets the prices."""
        names = None if self.manager is None else tuple(self.manager)
        if self.confounding is None:
            return ManagerSettings(names=names)
        return ManagerSettings(names=names, confounding=(self.confounding, self.confounding))

    def build_log(self) -> LogSettings:
        """Sizes and seed of the log."""
        block = self.randomized_periods
        return LogSettings(
            num_markets=self.num_markets,
            num_periods=self.num_periods,
            randomized_periods=(block, block) if block else None,
            seed=self.seed,
            domain=self.market,
            family=self.family,
        )


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = read_recipe((SimulateArguments,), argv, description=__doc__)
    console = Console()
    log = simulate(arguments, console)
    output = Path(arguments.output_dir)
    options = [f"--{name} {_word(value)}" for name, value in vars(arguments).items() if _is_told(name, value)]
    managers = ", ".join(arguments.manager) if arguments.manager else "standard managers"
    title = f"pricing_fm {log.parameters.domain}/{log.parameters.family}, {managers}"
    write_dataset(log, output, title, " ".join(["python recipes/simulate.py", *options]))
    save_recipe(output, (arguments,))
    console.print(f"{len(log.panel):,} rows, {log.num_items:,} items -> {output}", highlight=False)


def simulate(arguments: SimulateArguments, console: Console) -> SimulatedLog:
    """The log, with a bar that counts periods."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{arguments.market}, periods", total=arguments.num_periods)
        return simulate_log(
            arguments.build_market(),
            arguments.build_managers(),
            arguments.build_log(),
            on_period=lambda done: progress.update(task, completed=done),
        )


def _is_told(name: str, value: object) -> bool:
    return name != "output_dir" and value is not None


def _word(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    run_recipe(main)
