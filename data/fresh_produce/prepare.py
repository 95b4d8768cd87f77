"""Source "Supermarket fresh vegetables, China": one daily panel of six vegetable groups, with cost and spoilage.

Usage: python data/fresh_produce/prepare.py --source ../shared/data/fresh_produce_cumcm2023c
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from pricing_fm.panel.load import load_panel

HERE = Path(__file__).resolve().parent

GROUPS = {
    1011010101: "leafy greens",
    1011010201: "cauliflower and broccoli",
    1011010402: "aquatic roots",
    1011010501: "aubergines",
    1011010504: "chilli peppers",
    1011010801: "edible mushrooms",
}
# Columns of the source.
DAY, ITEM, ITEM_GROUP, KILOGRAMS, WHOLESALE_PRICE = "销售日期", "单品编码", "分类编码", "销量(千克)", "批发价格"
GROUP_DAY, GROUP, GROUP_REVENUE, GROUP_KILOGRAMS = "日期", "品类编码", "总销售额", "总销售量"
LOSS_GROUP, LOSS_PERCENT = "小分类编码", "平均损耗率(%)_小分类编码_不同值"


def build_table(source: Path, spoilage_in_cost: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """Sums the items of a group per day and divides the group's revenue by its kilograms.

    Quantity and cost come from the item files: the group file, the only one with revenue, leaves some items out. Its
    revenue and its kilograms cover the same items, so their ratio is a price.

    Args:
        source (`Path`): Folder with the `item_day_*`, `items` and `category_*` files.
        spoilage_in_cost (`bool`): Whether `cost` is what one sold kilogram takes at the group's mean spoilage:
            wholesale price / (1 - spoilage) instead of the wholesale price.

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Table in the names of `schema.yaml`, and counts of what was found.
    """
    sold = pd.read_parquet(source / "item_day_quantity_kg.parquet")
    wholesale = pd.read_parquet(source / "item_day_wholesale_price.parquet")
    items = pd.read_parquet(source / "items.parquet")
    revenue = pd.read_parquet(source / "category_day_revenue_cost_quantity.parquet")
    losses = pd.read_parquet(source / "category_loss_rate.parquet").set_index(LOSS_GROUP)[LOSS_PERCENT] / 100
    sold = sold.merge(wholesale, on=[DAY, ITEM], how="left", validate="one_to_one")
    sold[GROUP] = sold[ITEM].map(items.set_index(ITEM)[ITEM_GROUP])
    sold["paid"] = sold[KILOGRAMS] * sold[WHOLESALE_PRICE]
    totals = sold.groupby([DAY, GROUP], as_index=False)[[KILOGRAMS, "paid"]].sum()
    kept = totals.merge(revenue, left_on=[DAY, GROUP], right_on=[GROUP_DAY, GROUP], validate="one_to_one")
    cost, spoilage = kept["paid"] / kept[KILOGRAMS], kept[GROUP].map(losses)
    table = pd.DataFrame(
        {
            "group": kept[GROUP].map(GROUPS),
            "day": kept[DAY],
            "units": kept[KILOGRAMS],
            "price": kept[GROUP_REVENUE] / kept[GROUP_KILOGRAMS],
            "cost": cost / (1 - spoilage) if spoilage_in_cost else cost,
            "category": "fresh vegetables",
            "spoilage": spoilage,
        }
    )
    left_out = kept[GROUP_KILOGRAMS] < 0.95 * kept[KILOGRAMS]
    counts = {
        "source item-days": len(sold),
        "net returns among them": int((sold[KILOGRAMS] < 0).sum()),
        "item-days without a wholesale price": int(sold[WHOLESALE_PRICE].isna().sum()),
        "group-days": len(totals),
        "group-days without revenue dropped": len(totals) - len(kept),
        "group-days whose price covers less than 95 % of the kilograms": int(left_out.sum()),
    }
    return table.sort_values(["group", "day"]).reset_index(drop=True), counts


def main() -> None:
    """Writes `panel.parquet` and `schema.yaml`, checks them as a panel and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the item_day and category files")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/fresh_produce)")
    parser.add_argument(
        "--spoilage_in_cost", action="store_true", help="cost = wholesale price / (1 - mean spoilage of the group)"
    )
    arguments = parser.parse_args()

    table, counts = build_table(arguments.source, arguments.spoilage_in_cost)
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
