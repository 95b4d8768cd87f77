"""The two experiments of `off_policy_experiments.py`: decisions, confounders, and the policies that are valued."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pricing_fm.evaluation.off_policy import (
    OneStepOutcome,
    RandomisedDecisions,
    compute_band_policy,
    compute_group_policy,
    compute_kernel_policy,
    estimate_design,
    rank_within_cells,
)

REPOSITORY = Path(__file__).resolve().parents[1]
BANDWIDTH = 0.2  # half width of the kernel, log rate: a named rate of 8 % speaks through 6.6 % to 9.8 %
BLUR = {"log_density": 0.1, "score_density": 0.4}  # of the kernels beside estimated densities, unit of their lines

# The strictest variant: all arrears are lost, and funds cost 1 % a month.
MAIN_OUTCOMES = ("take_up", "loan_size", "profit_lgd1_funds1")

Policy = Callable[[RandomisedDecisions], np.ndarray]  # probability of each action, (rows, actions)
Index = Callable[[RandomisedDecisions], np.ndarray]  # what a manager looks at, in [-1, 1], (rows,)


@dataclass(frozen=True)
class Source:
    """An experiment and what is asked of it.

    Attributes:
        name: Of the data.
        decisions: The experiment.
        branches: Who may share shocks beyond the clusters, labels, `(rows,)`; None = nobody.
        action_columns: What a model knows of an action, `(actions, columns)`.
        modifiers: Covariates that change the response to the action.
        managers: What each manager who could have written the log looks at, and the names of those covariates.
        policies: By name.
        primary: Name of the outcome that counts.
        has_close_prices: True = prices are many and close, so that the manager's may be taken for a density.
        bounded: Name of an outcome between 0 and 1; None = none.
    """

    name: str
    decisions: RandomisedDecisions
    branches: np.ndarray | None
    action_columns: np.ndarray
    modifiers: tuple[str, ...]
    managers: dict[str, tuple[Index, tuple[str, ...]]]
    policies: dict[str, Policy]
    primary: str
    has_close_prices: bool = False
    bounded: str | None = None


def read_source(name: str, path: Path | None = None, all_outcomes: bool = False) -> Source:
    """Read what `prepare.py` wrote.

    Args:
        name: `loan_offers` or `rand_hie`.
        path: The table; None = beside its `prepare.py`.
        all_outcomes: True = all variants of the profit.
    """
    file = {"loan_offers": "offers.parquet", "rand_hie": "persons.parquet"}[name]
    table = path or REPOSITORY / "data" / name / file
    if not table.is_file():
        raise SystemExit(f"{table} is missing: run python data/{name}/prepare.py --source FOLDER")
    if name == "rand_hie":
        return build_rand_hie(pd.read_parquet(table))
    source = build_loan_offers(pd.read_parquet(table))
    if all_outcomes:
        return source
    kept = tuple(one for one in source.decisions.outcomes if one.name in MAIN_OUTCOMES)
    return replace(source, decisions=replace(source.decisions, outcomes=kept))


def fingerprint(decisions: RandomisedDecisions) -> str:
    """SHA-256 of the decisions, in their order, as `"sha256:..."`."""
    content = hashlib.sha256()
    outcomes = [one.values for one in decisions.outcomes]
    for values in (decisions.actions, decisions.cells, decisions.prices, decisions.covariates, *outcomes):
        content.update(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    content.update(str(list(decisions.clusters)).encode())
    return f"sha256:{content.hexdigest()}"


def build_loan_offers(table: pd.DataFrame) -> Source:
    """Offers of loans: the rate was drawn by chance within wave and risk tier."""
    rates, actions = np.unique(table["rate"].to_numpy(), return_inverse=True)
    cells = table.groupby(["wave", "tier"], sort=True).ngroup().to_numpy()
    taken = table["take_up"].to_numpy() > 0
    names = [column for column in table if column.startswith(("loan_size", "profit"))]
    outcomes = [OneStepOutcome(one, table[one].to_numpy(dtype=np.float64), taken) for one in ["take_up", *names]]
    told = ("wave", "tier", "branch", "rate", *(one.name for one in outcomes))
    covariates = [column for column in table if column not in told]
    decisions = RandomisedDecisions(
        actions=actions,
        cells=cells,
        design=estimate_design(actions, cells, len(rates), np.ones(len(table))),
        prices=rates,
        covariates=table[covariates].to_numpy(dtype=np.float64),
        covariate_names=tuple(covariates),
        clusters=np.arange(len(table)),
        outcomes=tuple(outcomes),
    )
    logs = np.log(rates)
    return Source(
        name="loan_offers",
        decisions=decisions,
        branches=table["branch"].to_numpy(dtype=str),
        action_columns=(logs - logs.mean())[:, None],
        modifiers=("appscore", "lnlastamount", "dormancy"),
        managers={
            "score_amount": (
                lambda one: rank_sum(one, {"appscore": 1, "lnlastamount": 1}),
                ("appscore", "lnlastamount"),
            ),
            "dormancy": (lambda one: rank_sum(one, {"dormancy": -1}), ("dormancy",)),
        },
        policies={
            "as the experiment": lambda one: one.row_design,
            "cheapest third": lambda one: compute_band_policy(one, 0.0, 1 / 3),
            "middle third": lambda one: compute_band_policy(one, 1 / 3, 2 / 3),
            "dearest third": lambda one: compute_band_policy(one, 2 / 3, 1.0),
            "risk: dear for low scores": lambda one: name_rates(one, {"appscore": -1}),
            "profit: dear for large loans": lambda one: name_rates(one, {"lnlastamount": 1}),
            "win back: cheap for dormant": lambda one: name_rates(one, {"dormancy": -1}),
        },
        primary="take_up",
        has_close_prices=True,
        bounded="take_up",
    )


def build_rand_hie(table: pd.DataFrame) -> Source:
    """Persons under health plans: the plan was drawn for families within a site; the plans are the actions."""
    groups = list(table["group"].cat.categories)
    actions = table["group"].cat.codes.to_numpy(dtype=np.int64)
    cells = table["site"].to_numpy(dtype=np.int64) - 1
    # A family drew once, however many its members are.
    members = table.groupby("family")["family"].transform("size").to_numpy(dtype=np.float64)
    names = ("visits", "outpatient_dollars", "medical_dollars")
    covariates = [column for column in table if column not in ("family", "site", "plan", "group", "years", *names)]
    decisions = RandomisedDecisions(
        actions=actions,
        cells=cells,
        design=estimate_design(actions, cells, len(groups), 1.0 / members),
        prices=np.arange(1.0, len(groups) + 1.0),  # only their order is read
        covariates=table[covariates].to_numpy(dtype=np.float64),
        covariate_names=tuple(covariates),
        clusters=table["family"].to_numpy(dtype=np.int64),
        outcomes=tuple(OneStepOutcome(one, table[one].to_numpy(dtype=np.float64)) for one in names),
    )

    def everybody(group: str) -> Policy:
        return lambda one: compute_group_policy(one, np.full(one.num_rows, groups.index(group)))

    def by_rank(covariate: str, ends: tuple[float, ...], plans: tuple[str, ...]) -> Policy:
        codes = np.array([groups.index(plan) for plan in plans])
        return lambda one: compute_group_policy(one, codes[np.digitize(rank_sum(one, {covariate: 1}), ends)])

    return Source(
        name="rand_hie",
        decisions=decisions,
        branches=None,  # sites are the cells within which plans were drawn
        action_columns=np.eye(len(groups))[:, 1:],
        modifiers=("disea", "lfam", "linc"),
        managers={"illness_family": (lambda one: rank_sum(one, {"disea": 1, "lfam": -1}), ("disea", "lfam"))},
        policies={
            "as the experiment": lambda one: one.row_design,
            **{f"{group} for all": everybody(group) for group in groups},
            "free for the sicker half": by_rank("disea", (0.0,), ("95 %", "free")),
            "dearer with income": by_rank("linc", (-1 / 3, 1 / 3), ("free", "25 %", "95 %")),
        },
        primary="visits",
    )


def rank_sum(decisions: RandomisedDecisions, signs: dict[str, int]) -> np.ndarray:
    """Rank within the cell of a sum of signed ranks, in [-1, 1]."""
    ranks = [sign * rank_within_cells(decisions.covariate(name), decisions.cells) for name, sign in signs.items()]
    return rank_within_cells(np.sum(ranks, axis=0), decisions.cells)


def name_rates(decisions: RandomisedDecisions, signs: dict[str, int]) -> np.ndarray:
    """A rule that names a dearer rate of the cell the higher the rank, seen through the kernel."""
    positions = 0.5 + 0.4 * rank_sum(decisions, signs)  # the ends are left out: a kernel there is one-sided
    return compute_kernel_policy(decisions, positions, BANDWIDTH)
