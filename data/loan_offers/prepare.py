"""Source "Consumer-loan offers with randomised rate" (Karlan and Zinman 2008): decisions, offers, a panel of batches.

Usage: python data/loan_offers/prepare.py --source ../shared/data/loan_offers_karlan_zinman_2008
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from pricing_fm.evaluation.randomised_panels import Experiment, build_batched_panel

HERE = Path(__file__).resolve().parent
FILE = "kz_demandelasts_aer08.parquet"
BINS = 5  # of equally many offers, along the rate, within wave and tier
# Known before the offer was mailed. Missing for 256 clients, or 0 where the credit bureau had no score: see `unscored`
# and `unknown`, and the mean stands in.
COVARIATES = (
    *("appscore", "lnlastamount", "dormancy", "itcscore", "lntrcount", "age", "lastterm"),
    *("dependants", "married", "female", "edhi", "rural"),
)
# Share of the arrears that is lost, and what a month of funds costs.
PROFITS = {f"profit_lgd{lgd:g}_funds{100 * funds:g}": (lgd, funds) for lgd in (0.5, 1.0) for funds in (0.0, 0.01)}


def build_decisions(source: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row per offer: who drew which rate, and whether the loan was taken up.

    The price is the offered rate `offer4`, which was drawn by chance within wave and risk tier; the contract rate
    `final4` was lowered afterwards for some takers, and nobody knew of it when deciding.

    Args:
        source (`Path`): Folder with the publisher's table.

    Returns:
        `tuple[pd.DataFrame, dict[str, int]]`: Decisions as `Experiment` reads them, and counts.
    """
    offers = pd.read_parquet(source / FILE, columns=["wave", "risk", "offer4", "tookup"])
    item = "wave " + offers["wave"].astype(int).astype(str) + " " + offers["risk"].str.lower()
    decisions = pd.DataFrame(
        {
            "item": item,
            "arm": "",
            "price": offers["offer4"].astype(float).round(4),
            "outcome": offers["tookup"].astype(float),
            "exposure": 1.0,
            "cluster": np.arange(len(offers)),
        }
    )
    counts = {
        "offers": len(offers),
        "take-ups": int(decisions["outcome"].sum()),
        "distinct rates": int(decisions["price"].nunique()),
        "wave x tier": int(item.nunique()),
    }
    return decisions, counts


def build_offers(source: Path) -> pd.DataFrame:
    """One row per offer with what was known before it and all that came of it.

    Profit over the loan's life, currency: `size x contract rate x months - lgd x arrears - funds x size x months`,
    simple interest on the full size; 0 where no loan was taken up. The contract rate is the offered one, or less for
    the 38 % of takers who were given a lower one by lot after they had applied.

    Args:
        source (`Path`): Folder with the publisher's table.

    Returns:
        `pd.DataFrame`: `wave, tier, branch`, `rate` (percent a month), covariates without gaps, and the outcomes
        `take_up`, `loan_size` and one column per variant of the profit.
    """
    table = pd.read_parquet(source / FILE)
    offers = pd.DataFrame({"wave": table["wave"].astype(int), "tier": table["risk"].str.lower()})
    offers["branch"], offers["rate"] = table["branchuse"].astype(str), table["offer4"].astype(float).round(4)
    known = table[list(COVARIATES)].astype(float)
    unscored = known["itcscore"] <= 0
    offers["unknown"], offers["unscored"] = known.isna().any(axis=1).astype(float), unscored.astype(float)
    known.loc[unscored, "itcscore"] = np.nan
    offers = offers.join(known.fillna(known.mean()))
    taken = table["tookup"] == 1
    size, months = table["loansize"].astype(float), table["term"].astype(float)
    arrears = table["pstdue_average"].astype(float).where(taken, 0.0)
    offers["take_up"], offers["loan_size"] = taken.astype(float), size.where(taken, 0.0)
    for name, (lgd, funds) in PROFITS.items():
        profit = size * months * (table["final4"].astype(float) / 100 - funds) - lgd * arrears
        offers[name] = profit.where(taken, 0.0)
    return offers


def main() -> None:
    """Writes `decisions.parquet`, `offers.parquet` and `panel.parquet`, and prints what is in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/loan_offers)")
    parser.add_argument("--seed", type=int, default=0, help="of the batches in the panel")
    arguments = parser.parse_args()

    decisions, counts = build_decisions(arguments.source)
    arguments.output.mkdir(parents=True, exist_ok=True)
    decisions.to_parquet(arguments.output / "decisions.parquet", index=False)
    build_offers(arguments.source).to_parquet(arguments.output / "offers.parquet", index=False)
    experiment = Experiment("loan_offers", decisions, BINS, is_binary=True)
    batched = build_batched_panel(experiment, np.random.default_rng(arguments.seed))
    columns = ["item_id", "timestamp", "units", "price", "traffic", "category", "price_is_intervention"]
    frame = batched.panel.frame
    frame.loc[~frame["price_imputed"], columns].to_parquet(arguments.output / "panel.parquet", index=False)
    for what, count in counts.items():
        print(f"{what}: {count:,}")
    for item, exposure in batched.exposure.items():
        print(f"{item}: {exposure:.1f} offers in a period")
    print(f"wrote {arguments.output / 'decisions.parquet'}, offers.parquet, panel.parquet: {batched.periods} periods")


if __name__ == "__main__":
    main()
