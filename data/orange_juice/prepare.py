"""Source "Dominick's refrigerated orange juice" (bayesm): one weekly panel of brands in stores, with unit cost.

Usage: python data/orange_juice/prepare.py --source ../shared/data/dominicks_orange_juice_bayesm
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from pricing_fm.panel.load import load_panel

HERE = Path(__file__).resolve().parent

# Brand numbers and pack sizes [ounces] from the reference manual of the R package bayesm. The movement data agree:
# ounces sold divide by the pack size in every row.
BRANDS = {
    1: ("Tropicana Premium", 64),
    2: ("Tropicana Premium", 96),
    3: ("Florida's Natural", 64),
    4: ("Tropicana", 64),
    5: ("Minute Maid", 64),
    6: ("Minute Maid", 96),
    7: ("Citrus Hill", 64),
    8: ("Tree Fresh", 64),
    9: ("Florida Gold", 64),
    10: ("Dominicks", 64),
    11: ("Dominicks", 128),
}
STORE_COLUMNS = {
    "INCOME": "median_income_log",
    "AGE60": "share_aged_60",
    "HHLARGE": "share_large_households",
    "SSTRDIST": "warehouse_distance",
}


def build_table(source: Path, unit: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Turns log ounces into units, picks each brand's own price and derives its unit cost.

    Cost = price x (1 - profit / 100), an average acquisition cost that moves with the price.

    Args:
        source (`Path`): Folder with `yx.parquet` and `storedemo.parquet`.
        unit (`str`): `ounce` (price per ounce, as in the source) or `pack` (price per carton).

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Table in the names of `schema.yaml`, and counts of what was found.
    """
    sales = pd.read_parquet(source / "yx.parquet")
    stores = pd.read_parquet(source / "storedemo.parquet").set_index("STORE")
    brands = sales["brand"].to_numpy(dtype=np.int64)
    ounces = np.array([BRANDS[brand][1] for brand in BRANDS])[brands - 1]
    per_ounce = sales[[f"price{brand}" for brand in BRANDS]].to_numpy()[np.arange(len(sales)), brands - 1]
    size = ounces if unit == "pack" else np.ones(len(sales))
    sold = np.exp(sales["logmove"].to_numpy()).round()  # whole ounces; the logarithm keeps six digits
    price = per_ounce * size
    table = pd.DataFrame(
        {
            "store": sales["store"].astype(str),
            "brand": [f"{BRANDS[brand][0]} {BRANDS[brand][1]} oz" for brand in brands],
            "week": sales["week"].astype(int),
            "units": sold / size,
            "price": price,
            "cost": price * (1 - sales["profit"].to_numpy() / 100),
            "deal": sales["deal"].astype(float),
            "feature": sales["feat"].astype(float),
            "category": "refrigerated orange juice",
            "pack_size": [f"{ounce} oz" for ounce in ounces],
            **{name: sales["store"].map(stores[column]) for column, name in STORE_COLUMNS.items()},
        }
    )
    counts = {
        "source rows": len(sales),
        "rows whose ounces are no whole number of packs": int((sold % ounces != 0).sum()),
        "rows with a feature share between 0 and 1": int(sales["feat"].between(0, 1, inclusive="neither").sum()),
        "rows dropped": 0,
    }
    return table, counts


def main() -> None:
    """Writes `panel.parquet` and `schema.yaml`, checks them as a panel and prints what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with yx.parquet and storedemo.parquet")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/orange_juice)")
    parser.add_argument(
        "--unit", choices=("ounce", "pack"), default="ounce", help="what one unit is; prices follow (default: ounce)"
    )
    arguments = parser.parse_args()

    table, counts = build_table(arguments.source, arguments.unit)
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
