"""Simulate a market under a manager and write its log: panel, truth table, schema and dataset card.

Example: python recipes/simulate.py --market retail --manager demand_follower --confounding 0.5 --num_markets 64 \
    --output_dir outputs/simulate
"""

from dataclasses import dataclass
from pathlib import Path

from pricing_fm.markets.dataset import write_dataset
from pricing_fm.markets.domains import RetailSettings
from pricing_fm.markets.logs import LogSettings, simulate_log
from pricing_fm.markets.managers import ManagerSettings
from pricing_fm.recipe import read_recipe


@dataclass(frozen=True)
class SimulateArguments:
    """What to simulate.

    Attributes:
        output_dir: Folder to write into.
        market: Domain; "retail".
        manager: Who sets the prices: cost_plus, hi_lo, epsilon_ladder, demand_follower or randomized.
        confounding: Correlation of a demand follower's wish with the hidden shock, in [-1, 1].
        num_markets: Markets (store x category).
        num_products: Items of a market.
        num_stores: Stores that share a category.
        num_periods: Weeks.
        randomized_periods: Last weeks of every item with prices drawn at random; 0 = none.
        seed: Seed of everything.
    """

    output_dir: str
    market: str = "retail"
    manager: str = "demand_follower"
    confounding: float = 0.0
    num_markets: int = 64
    num_products: int = 10
    num_stores: int = 1
    num_periods: int = 120
    randomized_periods: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.market != "retail":
            raise ValueError(f"market is {self.market!r}; known markets: 'retail'")


def main() -> None:
    (arguments,) = read_recipe((SimulateArguments,))
    block = arguments.randomized_periods
    log = simulate_log(
        RetailSettings(num_products=arguments.num_products, num_stores=arguments.num_stores),
        ManagerSettings(names=(arguments.manager,), confounding=(arguments.confounding, arguments.confounding)),
        LogSettings(
            num_markets=arguments.num_markets,
            num_periods=arguments.num_periods,
            randomized_periods=(block, block) if block else None,
            seed=arguments.seed,
        ),
    )
    options = [f"--{name} {value}" for name, value in vars(arguments).items() if name != "output_dir"]
    write_dataset(
        log,
        Path(arguments.output_dir),
        f"pricing_fm {arguments.market}, {arguments.manager}",
        " ".join(["python recipes/simulate.py", *options]),
    )
    print(f"{len(log.panel):,} rows, {log.num_items:,} items -> {arguments.output_dir}")


if __name__ == "__main__":
    main()
