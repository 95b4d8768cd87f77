"""Source "RAND Health Insurance Experiment": person-years under randomised plans, persons, and a panel of batches.

Usage: python data/rand_hie/prepare.py --source ../shared/data/health_rand_hie
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from pricing_fm.evaluation.randomised_panels import Experiment, build_batched_panel

HERE = Path(__file__).resolve().parent
FILE = "RandHIE.parquet"
FREE_PLAN = 11
# Individual deductible: outpatient care costs 95 % (site 1: 100 %) up to 150 dollars a person and nothing afterwards.
# The source says `coins` 0; its ceiling of 450 dollars a family shows that plan 1 is plan 13 under another number.
DEDUCTIBLE_PLANS = (1, 13)
PRICE_FLOOR = 0.05  # free care: a price must be positive, and a visit costs time
# Plans by the coinsurance that the source gives them (site 1: 100 % for 95 %), cheapest first.
GROUPS = {
    "free": (11,),
    "25 %": (5, 6, 7, 17, 18, 19),
    "50 %": (8, 9, 10),
    "deductible": DEDUCTIBLE_PLANS,
    "95 %": (2, 3, 4, 14, 15, 16),
}
# Of the first year: the plan had hardly had time to change them. The mean stands in for unknown schooling.
COVARIATES = (
    *(
        "xage",
        "female",
        "black",
        "educdec",
        "linc",
        "lfam",
        "disea",
        "physlm",
        "mhi",
        "hlthg",
        "hlthf",
        "hlthp",
        "child",
    ),
)
CEILINGS = 20  # quantiles of a plan's ceilings that stand for all of them
PERSON_YEARS_PER_PERIOD = 30.0


def expected_shares(table: pd.DataFrame) -> pd.Series:
    """Share of a year's bill that a member of each plan expects to pay, before anyone reacts to it.

    The plan's rules (coinsurance up to a ceiling per family) applied to the bills of the free plan: what people chose
    under a plan has no say. A family's bill is taken for its member's times the size of the family, which is not in
    the source. Mean over persons with a bill, each of the mean over the plan's ceilings.

    Args:
        table (`pd.DataFrame`): The source.

    Returns:
        `pd.Series`: By plan, at least `PRICE_FLOOR`; the plans with a deductible are left out.
    """
    free = table[(table["plan"] == FREE_PLAN) & (table["meddol"] > 0)]
    bills = (free["meddol"] * free["num"]).to_numpy()[:, None]
    shares = {}
    for plan, members in table[~table["plan"].isin(DEDUCTIBLE_PLANS)].groupby("plan"):
        rate = members["coins"].iloc[0] / 100
        ceilings = np.quantile(members["mdeoff"].dropna(), (np.arange(CEILINGS) + 0.5) / CEILINGS)
        paid = np.minimum(rate * bills, ceilings)
        shares[plan] = max(float((paid / bills).mean()), PRICE_FLOOR)
    return pd.Series(shares).round(4)


def find_families(table: pd.DataFrame) -> np.ndarray:
    """Families, to which the plans were assigned; the source does not name them.

    Persons of one family bear consecutive numbers and have the same site, plan and (to the cent) income in their first
    year.

    Args:
        table (`pd.DataFrame`): The source, with `zper, year, site, plan, income`.

    Returns:
        `np.ndarray`, int64, shape `(rows,)`: A number per family.
    """
    persons = table.sort_values(["zper", "year"]).groupby("zper")[["site", "plan", "income"]].first()
    begins = (persons != persons.shift()).any(axis=1) | (np.diff(persons.index, prepend=-1) != 1)
    return table["zper"].map(begins.cumsum()).to_numpy(dtype=np.int64)


def build_decisions(source: Path, cluster: str = "person") -> tuple[pd.DataFrame, dict[str, int], pd.DataFrame]:
    """One row per person and year: plan, its price, visits.

    Args:
        source (`Path`): Folder with the publisher's table.
        cluster (`str`): `person` or `family`.

    Returns:
        Decisions as `Experiment` reads them, counts, and one row per plan (price, coinsurance, persons, visits).
    """
    columns = ["plan", "site", "coins", "mdeoff", "meddol", "num", "zper", "mdvis", "time", "year", "income"]
    table = pd.read_parquet(source / FILE, columns=columns)
    shares = expected_shares(table)
    apart = table["plan"].isin(DEDUCTIBLE_PLANS)
    owner = table["zper"].to_numpy(dtype=np.int64) if cluster == "person" else find_families(table)
    kept = table.assign(cluster=owner)[~apart]
    decisions = pd.DataFrame(
        {
            "item": "site " + kept["site"].astype(int).astype(str),
            "arm": "plan " + kept["plan"].astype(int).astype(str),
            "price": kept["plan"].map(shares).astype(float),
            "outcome": kept["mdvis"].astype(float),
            "exposure": kept["time"].astype(float),
            "cluster": kept["cluster"],
        }
    ).reset_index(drop=True)
    plans = table.groupby("plan").agg(
        coinsurance=("coins", "first"), persons=("zper", "nunique"), years=("time", "sum"), visits=("mdvis", "sum")
    )
    plans["visits"] /= plans["years"]
    plans.insert(0, "price", shares)
    counts = {
        "person-years": len(table),
        "of them under an individual deductible (plans 1 and 13), apart": int(apart.sum()),
        "persons kept": int(kept["zper"].nunique()),
        f"clusters (by {cluster})": int(kept["cluster"].nunique()),
    }
    return decisions, counts, plans


def build_persons(source: Path) -> pd.DataFrame:
    """One row per person: plan, what was known at enrolment, and use of care per year over all years.

    Args:
        source (`Path`): Folder with the publisher's table.

    Returns:
        `pd.DataFrame`: `family, site, plan, group` (cheapest first: an ordered category), `years`, covariates without
        gaps, and per year `visits`, `outpatient_dollars` and `medical_dollars`.
    """
    columns = ["zper", "year", "site", "plan", "income", "time", "mdvis", "outpdol", "meddol", *COVARIATES]
    table = pd.read_parquet(source / FILE, columns=columns).sort_values(["zper", "year"], ignore_index=True)
    table["family"] = find_families(table)
    by_person = table.groupby("zper")
    first, years = by_person.first(), by_person["time"].sum()
    persons = first[["family", "site", "plan"]].astype(int)
    group = persons["plan"].map({plan: name for name, plans in GROUPS.items() for plan in plans})
    persons["group"] = pd.Categorical(group, categories=list(GROUPS), ordered=True)
    persons["years"] = years
    known = first[list(COVARIATES)].astype(float)
    persons = persons.join(known.fillna(known.mean()))
    for name, column in (("visits", "mdvis"), ("outpatient_dollars", "outpdol"), ("medical_dollars", "meddol")):
        persons[name] = by_person[column].sum() / years
    return persons.reset_index(drop=True)


def main() -> None:
    """Writes `decisions.parquet`, `persons.parquet` and `panel.parquet`, and prints the plans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: data/rand_hie)")
    parser.add_argument("--cluster", choices=("person", "family"), default="person", help="what stays together")
    parser.add_argument("--seed", type=int, default=0, help="of the batches in the panel")
    arguments = parser.parse_args()

    decisions, counts, plans = build_decisions(arguments.source, arguments.cluster)
    arguments.output.mkdir(parents=True, exist_ok=True)
    decisions.to_parquet(arguments.output / "decisions.parquet", index=False)
    build_persons(arguments.source).to_parquet(arguments.output / "persons.parquet", index=False)
    experiment = Experiment("rand_hie", decisions, None, is_binary=False)
    batched = build_batched_panel(experiment, np.random.default_rng(arguments.seed), PERSON_YEARS_PER_PERIOD)
    columns = ["item_id", "timestamp", "units", "price", "traffic", "category", "price_is_intervention"]
    frame = batched.panel.frame
    frame.loc[~frame["price_imputed"], columns].to_parquet(arguments.output / "panel.parquet", index=False)
    for what, count in counts.items():
        print(f"{what}: {count:,}")
    print(plans.sort_values("price").round(3).to_string())
    print(f"wrote {arguments.output / 'decisions.parquet'}, persons.parquet, panel.parquet: {batched.periods} periods")


if __name__ == "__main__":
    main()
