"""Source "Avocado prices and volumes" (Hass Avocado Board): one weekly panel of two kinds of avocado in 45 markets.

Usage: python data/avocado/prepare.py --source ../shared/data/avocado_hab
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from pricing_fm.panel.load import load_panel

HERE = Path(__file__).resolve().parent
WEEK_END_TO_START = pd.Timedelta(days=6)  # the source names a week by its last day, a panel by its first

# Sums of other rows: the nation, and the eight regions that add up to it.
AGGREGATES = (
    "TotalUS",
    "California",
    "GreatLakes",
    "Midsouth",
    "Northeast",
    "Plains",
    "SouthCentral",
    "Southeast",
    "West",
)


def build_table(source: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keeps the single markets, and of the columns the date, the average price and the number of avocados sold.

    The other columns split the same volume by size code and bag: parts of the outcome, not known in advance.

    Args:
        source (`Path`): Folder with `avocado.parquet`.

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Table in the names of `schema.yaml`, and counts of what was dropped.
    """
    columns = ["Date", "AveragePrice", "Total Volume", "type", "region"]
    sales = pd.read_parquet(source / "avocado.parquet", columns=columns)
    aggregate = sales["region"].isin(AGGREGATES)
    kept = sales[~aggregate]
    counts = {
        "source rows": len(sales),
        "rows of the nation and its eight regions dropped": int(aggregate.sum()),
        "markets": int(kept["region"].nunique()),
    }
    table = pd.DataFrame(
        {
            "market": kept["region"],
            "type": kept["type"],
            "week_start": kept["Date"] - WEEK_END_TO_START,
            "units": kept["Total Volume"],
            "price": kept["AveragePrice"],
        }
    )
    return table.sort_values(["market", "type", "week_start"]).reset_index(drop=True), counts


def main() -> None:
    """Writes `panel.parquet` and `schema.yaml`, checks them as a panel and prints what was dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with avocado.parquet")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/avocado)")
    arguments = parser.parse_args()

    table, counts = build_table(arguments.source)
    arguments.output.mkdir(parents=True, exist_ok=True)
    table.to_parquet(arguments.output / "panel.parquet", index=False)
    if arguments.output.resolve() != HERE:
        shutil.copy(HERE / "schema.yaml", arguments.output / "schema.yaml")
    panel = load_panel(arguments.output / "panel.parquet", schema=arguments.output / "schema.yaml")
    for what, count in counts.items():
        print(f"{what}: {count:,}")
    print(f"rows kept: {len(table):,}; items: {len(panel.item_ids):,}; periods with filled ones: {len(panel.frame):,}")
    print(f"wrote {arguments.output / 'panel.parquet'}")


if __name__ == "__main__":
    main()
