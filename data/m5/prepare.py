"""Source "M5 (Walmart)", monthly: sales and average price of 300 products in 10 stores, complete months only.

Usage: python data/m5/prepare.py --source ../shared/data/m5_walmart
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import pandas as pd

from pricing_fm.panel.load import load_panel

HERE = Path(__file__).resolve().parent
FIRST_MONTH = pd.Timestamp("2011-02-01")  # January 2011 holds 3 days
LAST_MONTH = pd.Timestamp("2016-03-01")  # April 2016 holds 24 days


def build_table(source: Path, products: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """Draws products, takes them in all their stores, and keeps the complete months in which they were on sale.

    A month is complete for an item from the month after its launch on: before the launch there is no price, and the
    launch itself falls somewhere within a month.

    Args:
        source (`Path`): Folder with `monthly_sales_avg_price.parquet`.
        products (`int`): Products to draw, 10 series each.

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Table in the names of `schema.yaml`, and counts of what was dropped.

    Raises:
        ValueError: If there are fewer products in the source.
    """
    sales = pd.read_parquet(source / "monthly_sales_avg_price.parquet")
    drawn = draw_products(sales["item_id"].cat.categories, products)
    sales = sales[sales["item_id"].isin(drawn)].astype({"item_id": str, "store_id": str})
    sales["priced_month"] = sales["date"].where(sales["avg_price"].notna())
    series = sales.groupby(["item_id", "store_id"])
    launch = series["priced_month"].transform("min")
    whole = sales["date"].between(FIRST_MONTH, LAST_MONTH)
    unpriced, launched = sales["avg_price"].isna(), sales["date"] == launch
    counts = {
        "source series": int(series.ngroups),
        "rows of them": len(sales),
        "rows in the incomplete first and last month dropped": int((~whole).sum()),
        "rows before the launch dropped": int((whole & unpriced).sum()),
        "rows in the month of the launch dropped": int((whole & launched).sum()),
    }
    kept = sales[whole & ~unpriced & ~launched]
    table = pd.DataFrame(
        {
            "product": kept["item_id"],
            "store": kept["store_id"],
            "month": kept["date"].astype("datetime64[s]"),
            "units": kept["sales"].astype(float),
            "price": kept["avg_price"].astype(float).round(4),
            "category": kept["cat_id"].astype(str),
            "department": kept["dept_id"].astype(str),
            "state": kept["state_id"].astype(str),
        }
    )
    counts["rows with zero units"] = int((table["units"] == 0).sum())
    return table.sort_values(["product", "store", "month"]).reset_index(drop=True), counts


def draw_products(names: pd.Index, count: int) -> list[str]:
    """Draws products by chance that anyone can repeat: those whose names have the smallest SHA-256.

    Args:
        names (`pd.Index`): Product names.
        count (`int`): How many.

    Returns:
        `list[str]`: Names, in the order of their digests; the first ten of 300 are the ten of 10.

    Raises:
        ValueError: If there are fewer names.
    """
    if not 1 <= count <= len(names):
        raise ValueError(f"--products must lie between 1 and {len(names)}, found {count}")
    return sorted(map(str, names), key=lambda name: hashlib.sha256(name.encode()).digest())[:count]


def main() -> None:
    """Writes `panel.parquet` and `schema.yaml`, checks them as a panel and prints what was dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with monthly_sales_avg_price.parquet")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/m5)")
    parser.add_argument("--products", type=int, default=300, help="products to draw, 10 series each (default: 300)")
    arguments = parser.parse_args()

    table, counts = build_table(arguments.source, arguments.products)
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
