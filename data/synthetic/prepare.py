"""Source "synthetic": retail markets with known demand curves, logged under managers with habits.

Usage: python data/synthetic/prepare.py
Most items end in a stretch of prices drawn at random (the ground on which a causal response can be learned); the last
`--plain_categories` categories are plain logs of their managers.
"""

import argparse
from pathlib import Path

from pricing_fm.markets.dataset import write_dataset
from pricing_fm.markets.domains import RetailSettings
from pricing_fm.markets.logs import LogSettings, simulate_log
from pricing_fm.markets.managers import MANAGERS, ManagerSettings

HERE = Path(__file__).resolve().parent
# Categories take turns in this order, so that the two plain ones of the default have a promoter and a demand follower.
TURNS = ("hi_lo", "demand_follower", "epsilon_ladder", "cost_plus", "randomized")


def main() -> None:
    """Writes `panel.parquet`, `truth.parquet`, `schema.yaml` and the card, and prints their size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_categories", type=int, default=12)
    parser.add_argument("--num_products", type=int, default=10, help="products of a category")
    parser.add_argument("--num_stores", type=int, default=3)
    parser.add_argument("--num_periods", type=int, default=120, help="weeks")
    parser.add_argument("--managers", nargs="+", default=list(TURNS), choices=MANAGERS)
    parser.add_argument(
        "--confounding", type=float, nargs=2, default=(-0.9, 0.9), metavar=("LOW", "HIGH"), help="of demand followers"
    )
    parser.add_argument(
        "--randomized_periods", type=int, nargs=2, default=(8, 26), metavar=("LOW", "HIGH"), help="0 0: none"
    )
    parser.add_argument("--randomized_share", type=float, default=0.7, help="of the items of the other categories")
    parser.add_argument("--plain_categories", type=int, default=2, help="last categories, never randomised")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/synthetic)")
    arguments = parser.parse_args()

    low, high = arguments.randomized_periods
    log = simulate_log(
        RetailSettings(num_products=arguments.num_products, num_stores=arguments.num_stores),
        ManagerSettings(names=tuple(arguments.managers), confounding=tuple(arguments.confounding)),
        LogSettings(
            num_markets=arguments.num_categories * arguments.num_stores,
            num_periods=arguments.num_periods,
            randomized_periods=(low, high) if high > 0 else None,
            randomized_share=arguments.randomized_share,
            randomized_categories=max(arguments.num_categories - arguments.plain_categories, 0),
            seed=arguments.seed,
            name="synthetic",
        ),
    )
    # The card names the arguments that differ from the defaults.
    changed = [
        f"--{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in vars(arguments).items()
        if name != "output" and value != parser.get_default(name)
    ]
    command = " ".join(["python data/synthetic/prepare.py", *changed])
    write_dataset(log, arguments.output, "pricing_fm synthetic retail", command)
    print(f"{len(log.panel):,} rows, {log.num_items:,} items -> {arguments.output}")


if __name__ == "__main__":
    main()
