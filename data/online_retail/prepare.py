"""Source "UCI Online Retail": invoice lines of a gift web shop become one weekly panel of products.

Usage: python data/online_retail/prepare.py --source ../shared/data/uci_online_retail
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from pricing_fm.panel.load import load_panel

HERE = Path(__file__).resolve().parent

# Lines that sell no goods: postage, carriage, manual corrections, discounts, samples, fees, debts, donations, vouchers.
SERVICE_CODES = ("POST", "DOT", "C2", "M", "D", "S", "B", "BANK CHARGES", "AMAZONFEE", "CRUK")
VOUCHER_PREFIX = "GIFT_"


def build_table(source: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Nets same-week cancellations, drops what is no sale of goods, and aggregates to product and week.

    The customer number pairs a cancellation with its order and goes no further. The price of a week is its most
    frequent line price (ties: the lower), since line prices depend on order size and channel.

    Args:
        source (`Path`): Folder with `online_retail.parquet`.

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Table in the names of `schema.yaml`, and counts of what was dropped.
    """
    columns = ["InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
    lines = pd.read_parquet(source / "online_retail.parquet", columns=columns)
    days = lines["InvoiceDate"].dt.normalize()
    lines["week_start"] = days - pd.to_timedelta(days.dt.day_of_week, unit="D")
    sold = (lines["Quantity"] > 0) & (lines["UnitPrice"] > 0)
    counts = {
        "source lines": len(lines),
        "lines with a positive quantity and price": int(sold.sum()),
        "stock codes in them, as written": int(lines.loc[sold, "StockCode"].nunique()),
        "code-weeks in them, as written": len(lines.loc[sold, ["StockCode", "week_start"]].drop_duplicates()),
    }
    cancelled = find_cancelled_lines(lines)
    counts["order lines netted with their cancellation in the same week"] = int(cancelled.sum()) // 2
    counts["other return lines dropped"] = int(((lines["Quantity"] < 0) & ~cancelled).sum())
    counts["lines without a positive price dropped"] = int(((lines["Quantity"] > 0) & (lines["UnitPrice"] <= 0)).sum())
    # Spelled in lower case, a code is the same product sold through another channel.
    lines["stock_code"] = lines["StockCode"].str.upper()
    service = lines["stock_code"].isin(SERVICE_CODES) | lines["stock_code"].str.startswith(VOUCHER_PREFIX)
    counts["lines of postage, fees, vouchers and corrections dropped"] = int((service & sold & ~cancelled).sum())
    goods = lines[sold & ~cancelled & ~service]
    # The log starts on a Wednesday and ends on a Friday noon: both weeks are cut short and would look like slumps.
    cut_short = goods["week_start"].isin([lines["week_start"].min(), lines["week_start"].max()])
    counts["lines in the incomplete first and last week dropped"] = int(cut_short.sum())
    table = aggregate_weeks(goods[~cut_short])
    counts["product-weeks"] = len(table)
    closed = find_closed_weeks(table)
    counts["product-weeks added as unknown, the shop being closed"] = len(closed)
    return pd.concat([table, closed], ignore_index=True), counts


def find_cancelled_lines(lines: pd.DataFrame) -> pd.Series:
    """Marks orders and their cancellations within one week: same customer, product, price and quantity.

    Args:
        lines (`pd.DataFrame`): Invoice lines with `week_start`.

    Returns:
        `pd.Series`, bool: True on both lines of a pair. Later returns are no part of a pair: the demand was real.
    """
    known = lines[lines["CustomerID"].notna() & (lines["UnitPrice"] > 0)]
    keys = ["CustomerID", "StockCode", "UnitPrice", "week_start", "size"]
    sized = known.assign(size=known["Quantity"].abs(), is_return=known["Quantity"] < 0)
    sized["rank"] = sized.groupby([*keys, "is_return"]).cumcount()
    paired = sized.groupby([*keys, "rank"])["is_return"].transform("nunique") == 2
    return paired.reindex(lines.index, fill_value=False)


def aggregate_weeks(goods: pd.DataFrame) -> pd.DataFrame:
    """Sums units and takes the modal price per product and week.

    Args:
        goods (`pd.DataFrame`): Lines with `stock_code`, `week_start`, `Quantity`, `UnitPrice`.

    Returns:
        `pd.DataFrame`: `stock_code, week_start, units, price`.
    """
    keys = ["stock_code", "week_start"]
    units = goods.groupby(keys)["Quantity"].sum().astype(float).rename("units")
    prices = goods.groupby([*keys, "UnitPrice"]).size().rename("lines").reset_index()
    prices = prices.sort_values([*keys, "lines", "UnitPrice"], ascending=[True, True, False, True])
    price = prices.drop_duplicates(keys).set_index(keys)["UnitPrice"].rename("price")
    return pd.concat([units, price], axis=1).reset_index()


def find_closed_weeks(table: pd.DataFrame) -> pd.DataFrame:
    """Rows for weeks in which the shop sold nothing at all: closed, so sales are unknown rather than zero.

    Args:
        table (`pd.DataFrame`): Product-weeks.

    Returns:
        `pd.DataFrame`: One row without units and price per closed week and product that sold before and after it.
    """
    weeks = pd.date_range(table["week_start"].min(), table["week_start"].max(), freq="7D")
    life = table.groupby("stock_code")["week_start"].agg(["min", "max"])
    rows = []
    for week in weeks.difference(pd.DatetimeIndex(table["week_start"].unique())):
        alive = life.index[(life["min"] < week) & (life["max"] > week)]
        missing = float("nan")
        rows.append(pd.DataFrame({"stock_code": alive, "week_start": week, "units": missing, "price": missing}))
    return pd.concat(rows, ignore_index=True) if rows else table.iloc[:0]


def main() -> None:
    """Writes `panel.parquet` and `schema.yaml`, checks them as a panel and prints what was dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with online_retail.parquet")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/online_retail)")
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
