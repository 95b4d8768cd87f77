"""Source "Hotel booking demand": bookings of two hotels become one weekly panel of room types.

Usage: python data/hotel_bookings/prepare.py --source ../shared/data/hotel_booking_demand
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from pricing_fm.panel.load import load_panel

HERE = Path(__file__).resolve().parent
LOWEST_RATE = (
    20.0  # euros a night; below it lie staff rates and corrections of a few euros, and hardly anything near it
)

SOURCE_COLUMNS = [
    *("hotel", "reserved_room_type", "reservation_status", "adr"),
    *("arrival_date_year", "arrival_date_month", "arrival_date_day_of_month"),
    *("stays_in_weekend_nights", "stays_in_week_nights"),
]


def build_table(source: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keeps paid stays that took place and sums them by hotel, room type as booked, and week of arrival.

    The room type as booked has the price, the one assigned at the desk has not. Nights belong to the week of arrival:
    by night, the first weeks would lack the guests who arrived before the log starts.

    Args:
        source (`Path`): Folder with `hotel_bookings.parquet`.

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Table in the names of `schema.yaml`, and counts of what was dropped.
    """
    bookings = pd.read_parquet(source / "hotel_bookings.parquet", columns=SOURCE_COLUMNS)
    written = (
        bookings["arrival_date_year"].astype(str)
        + " "
        + bookings["arrival_date_month"]
        + " "
        + bookings["arrival_date_day_of_month"].astype(str)
    )
    arrival = pd.to_datetime(written, format="%Y %B %d")
    bookings["week_start"] = arrival - pd.to_timedelta(arrival.dt.day_of_week, unit="D")
    bookings["units"] = (bookings["stays_in_weekend_nights"] + bookings["stays_in_week_nights"]).astype(float)
    stayed = bookings["reservation_status"] == "Check-Out"
    paid = (bookings["adr"] >= LOWEST_RATE) & (bookings["units"] > 0)
    # The log starts on a Wednesday and ends on a Thursday: both weeks are cut short and would look like slumps.
    cut_short = bookings["week_start"].isin([bookings["week_start"].min(), bookings["week_start"].max()])
    counts = {
        "source bookings": len(bookings),
        "bookings cancelled or not shown up dropped": int((~stayed).sum()),
        f"stays without a night or below {LOWEST_RATE:.0f} euros a night dropped": int((stayed & ~paid).sum()),
        "stays in the incomplete first and last week dropped": int((stayed & paid & cut_short).sum()),
    }
    kept = bookings[stayed & paid & ~cut_short].assign(revenue=lambda rows: rows["adr"] * rows["units"])
    keys = ["hotel", "reserved_room_type", "week_start"]
    table = kept.groupby(keys, as_index=False)[["units", "revenue"]].sum()
    table["price"] = (table["revenue"] / table["units"]).round(4)
    table = table.rename(columns={"reserved_room_type": "room_type"}).drop(columns="revenue")
    counts["room nights"] = int(table["units"].sum())
    return table[["hotel", "room_type", "week_start", "units", "price"]], counts


def main() -> None:
    """Writes `panel.parquet` and `schema.yaml`, checks them as a panel and prints what was dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with hotel_bookings.parquet")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/hotel_bookings)")
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
