"""Source "Breakfast at the Frat": joins transactions, products and stores into one weekly panel.

Usage: python data/frat/prepare.py --source ../shared/data/dunnhumby_breakfast_at_the_frat
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from pricing_fm.panel.load import load_panel

HERE = Path(__file__).resolve().parent
WEEK_END_TO_START = pd.Timedelta(days=6)  # the source names a week by its last day, a panel by its first


def build_table(source: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Joins the three source files and drops rows without a usable price.

    `visits` and `hhs` count baskets that bought the item and `tpr_only` is derived from the price: all three stay out.

    Args:
        source (`Path`): Folder with `transaction.parquet`, `product.parquet` and `store.parquet`.

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Table in the names of `schema.yaml`, and counts of what was dropped.
    """
    columns = ["week_end_date", "store_id", "upc_id", "units", "price", "base_price", "feature", "display"]
    sales = pd.read_parquet(source / "transaction.parquet", columns=columns)
    products = pd.read_parquet(source / "product.parquet").set_index("upc_id")
    stores = pd.read_parquet(source / "store.parquet").set_index("store_id")
    counts = {
        "source rows": len(sales),
        "rows without a price": int(sales["price"].isna().sum()),
        "rows with price 0": int((sales["price"] == 0).sum()),
        "rows with zero units": int((sales["units"] == 0).sum()),
        "rows with zero units and a price": int(((sales["units"] == 0) & (sales["price"] > 0)).sum()),
    }
    sales = sales[sales["price"] > 0]
    counts["rows without a base price"] = int(sales["base_price"].isna().sum())
    table = pd.DataFrame(
        {
            "store_id": sales["store_id"],
            "upc_id": sales["upc_id"],
            "week_start": sales["week_end_date"] - WEEK_END_TO_START,
            "units": sales["units"].astype(float),
            "price": sales["price"],
            "base_price": sales["base_price"],
            "feature": sales["feature"].astype(float),
            "display": sales["display"].astype(float),
            "category": sales["upc_id"].map(products["category"]),
            "sub_category": sales["upc_id"].map(products["sub_category"]),
            "manufacturer": sales["upc_id"].map(products["manufacturer"]),
            "product_size": sales["upc_id"].map(products["product_size"]),
            "mass_oz": sales["upc_id"].map(products["mass_oz"]),
            "store_segment": sales["store_id"].map(stores["seg_value_name"]),
            "avg_weekly_baskets": sales["store_id"].map(stores["avg_weekly_baskets"]),
            "sales_area_size": sales["store_id"].map(stores["sales_area_size_num"]),
        }
    )
    return table.reset_index(drop=True), counts


def main() -> None:
    """Writes `panel.parquet` and `schema.yaml`, checks them as a panel and prints what was dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with transaction, product, store .parquet")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/frat)")
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
