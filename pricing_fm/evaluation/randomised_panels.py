"""A randomised price experiment, one decision per row, as panels whose periods are batches drawn by lot.

Periods of such a panel have no order and no calendar: who is in which batch, and which batch comes first, is drawn
anew for every panel, and answers are averaged over several of them.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel import Panel, load_panel

COLUMNS = ("item", "arm", "price", "outcome", "exposure", "cluster")
# A panel needs dates. Any will do; different panels start in different seasons, so that their mean has none.
FIRST_WEEK = pd.Timestamp("2001-01-01")
# Batches whose exposure differs by less than this are left as they are: whole counts stay whole.
EQUAL_EXPOSURE = 0.02


@dataclass(frozen=True)
class Experiment:
    """Decisions under prices drawn by chance.

    Args:
        name (`str`): For tasks and tables.
        decisions (`pd.DataFrame`): `item` (text: within it the price was drawn), `arm` (text: what was assigned; empty
            where the price itself was), `price` (above 0), `outcome` (units), `exposure` (above 0; the outcome of
            twice as much is twice as large) and `cluster` (who decided: rows of one cluster stay together).
        bins (`int`, *optional*): Cells per item, of equally many decisions along the price; None = the arms are cells.
        is_binary (`bool`): True = every outcome is 0 or 1, of one decision each.

    Raises:
        PanelError: If a column is missing or holds what it may not.
    """

    name: str
    decisions: pd.DataFrame
    bins: int | None
    is_binary: bool

    def __post_init__(self) -> None:
        if missing := [column for column in COLUMNS if column not in self.decisions]:
            raise PanelError(f"decisions of {self.name} lack the column(s) {missing}; they need {list(COLUMNS)}")
        table = self.decisions
        for column, lowest in (("price", 0.0), ("exposure", 0.0), ("outcome", -1e-300)):
            wrong = ~(np.isfinite(table[column]) & (table[column] > lowest))
            if wrong.any():
                row = int(wrong.to_numpy().argmax())
                raise PanelError(f"decisions of {self.name}, row {row}: {column} is {table[column].iloc[row]}")
        if self.is_binary and not (table["outcome"].isin([0, 1]).all() and (table["exposure"] == 1).all()):
            raise PanelError(f"decisions of {self.name}: binary outcomes are 0 or 1, each with an exposure of 1")
        if self.bins is not None and self.bins < 2:
            raise PanelError(f"bins is {self.bins}; a curve needs at least 2")

    def fingerprint(self) -> str:
        """SHA-256 of the decisions, in their order, as `"sha256:..."`."""
        hashes = pd.util.hash_pandas_object(self.decisions[list(COLUMNS)], index=False).to_numpy()
        return f"sha256:{hashlib.sha256(hashes.tobytes()).hexdigest()}"


@dataclass(frozen=True)
class BatchedPanel:
    """A panel of batches, and how much of an item's exposure a period stands for.

    Args:
        panel (`Panel`): Items `item#draw`; the draw is the category.
        exposure (`dict[str, float]`): Exposure behind one period's units, by item of the experiment.
        periods (`int`): Length of the panel.
        late_periods (`int`): The last of them hold decisions that the earlier ones do not, in every draw; 0 = none.
    """

    panel: Panel
    exposure: dict[str, float]
    periods: int
    late_periods: int


def read_decisions(path: str | Path) -> pd.DataFrame:
    """The table of decisions that a source's `prepare.py` writes.

    Args:
        path (`str` or `Path`): Parquet file.

    Returns:
        `pd.DataFrame`: As in `Experiment`.
    """
    table = pd.read_parquet(path)
    return table.astype({"item": str, "arm": str, "cluster": str, "price": float, "outcome": float, "exposure": float})


def split_halves(experiment: Experiment, seed: int) -> tuple[Experiment, Experiment]:
    """Two random halves of every item's clusters; none is in both.

    Args:
        experiment (`Experiment`): All decisions.
        seed (`int`): Of the draw.

    Returns:
        `tuple[Experiment, Experiment]`: The half that is learned from, and the half that judges.
    """
    random = np.random.default_rng([seed, 0])
    table = experiment.decisions
    first = _draw_share(table, ["item"], 0.5, random)
    return tuple(  # type: ignore[return-value]
        Experiment(experiment.name, table[chosen].reset_index(drop=True), experiment.bins, experiment.is_binary)
        for chosen in (first, ~first)
    )


def assign_arms(experiment: Experiment, random: np.random.Generator) -> np.ndarray:
    """The arm of every decision: as assigned, or the bin of its price within its item.

    Args:
        experiment (`Experiment`): Decisions.
        random (`np.random.Generator`): Decides between equal prices, so that bins are equally full.

    Returns:
        `np.ndarray`, object, shape `(rows,)`: Text.
    """
    table = experiment.decisions
    if experiment.bins is None:
        return table["arm"].to_numpy(dtype=object)
    prices, arms = table["price"].to_numpy(), np.empty(len(table), dtype=object)
    for rows in table.groupby("item").indices.values():
        ordered = rows[np.lexsort((random.random(len(rows)), prices[rows]))]
        arms[ordered] = np.array([f"bin {b + 1}" for b in np.arange(len(rows)) * experiment.bins // len(rows)])
    return arms


def build_batched_panel(
    experiment: Experiment,
    random: np.random.Generator,
    exposure_per_period: float = 200.0,
    fewest_periods: int = 20,
    draws: int = 1,
    late_share: float = 0.0,
) -> BatchedPanel:
    """Batches of decisions under one arm, in random order, one per week; every period of an item has one exposure.

    Items with few decisions get smaller batches rather than few periods; their periods are spread evenly over the
    weeks, so that the late ones are late for every item.

    Args:
        experiment (`Experiment`): What is put into the panel.
        random (`np.random.Generator`): Of batches, order and season.
        exposure_per_period (`float`): Exposure of a batch, as nearly as whole batches allow.
        fewest_periods (`int`): Of an item; makes its batches smaller.
        draws (`int`): How often the same decisions are batched anew, each time as items of their own.
        late_share (`float`): Share of the clusters, the same in every draw, that only the late periods hold.

    Returns:
        `BatchedPanel`.

    Raises:
        PanelError: If it cannot be loaded as a panel.
    """
    arms = assign_arms(experiment, random)
    table = experiment.decisions.assign(arm=arms)
    late = _draw_share(table, ["item", "arm"], late_share, random)
    totals = table.groupby("item")["exposure"].sum()
    sizes = {
        str(item): float(total) / max(round(total / exposure_per_period), fewest_periods)
        for item, total in totals.items()
    }
    batches = [
        batch.assign(draw=draw, late=is_late)
        for draw in range(draws)
        for is_late, part in ((False, table[~late]), (True, table[late]))
        for batch in _draw_batches(part, sizes, random)
    ]
    log = pd.concat(batches, ignore_index=True)
    parts = list(log.groupby(["late", "draw", "item"]).indices.values())
    is_late = log["late"].to_numpy(dtype=bool)
    lengths = {
        late: max((len(rows) for rows in parts if is_late[rows[0]] == late), default=0) for late in (False, True)
    }
    weeks = np.zeros(len(log), dtype=np.int64)
    for rows in parts:
        length = lengths[bool(is_late[rows[0]])]
        # Evenly spread, and always in the last week of its part.
        slots = length - 1 - np.arange(len(rows)) * length // len(rows)
        weeks[random.permutation(rows)] = slots + (lengths[False] if is_late[rows[0]] else 0)
    log["week"] = weeks
    start = FIRST_WEEK + pd.Timedelta(weeks=int(random.integers(52)))
    return BatchedPanel(_load(log, start), sizes, lengths[False] + lengths[True], lengths[True])


def _draw_share(
    table: pd.DataFrame, strata: list[str], share: float, random: np.random.Generator
) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """True for all rows of a random share of the clusters of every stratum, `(rows,)`."""
    clusters = table.groupby([*strata, "cluster"], sort=True).ngroup().to_numpy()
    owner = np.zeros(clusters.max(initial=-1) + 1, dtype=np.int64)
    owner[clusters] = table.groupby(strata, sort=True).ngroup().to_numpy()
    chosen = np.zeros(len(owner), dtype=bool)
    for stratum in range(owner.max(initial=-1) + 1):
        members = random.permutation(np.flatnonzero(owner == stratum))
        chosen[members[: round(share * len(members))]] = True
    return chosen[clusters]


def _draw_batches(table: pd.DataFrame, sizes: dict[str, float], random: np.random.Generator) -> Iterable[pd.DataFrame]:
    """One row per batch, for each item and arm: whole clusters, about equally many in each batch."""
    for (item, arm), part in table.groupby(["item", "arm"], sort=True):
        size = sizes[str(item)]
        clusters = pd.factorize(part["cluster"])[0]
        number = min(max(round(part["exposure"].sum() / size), 1), clusters.max() + 1)
        place = np.empty(clusters.max() + 1, dtype=np.int64)
        place[random.permutation(len(place))] = np.arange(len(place)) * number // len(place)
        weighted = part.assign(paid=part["price"] * part["exposure"], batch=place[clusters])
        sums = weighted.groupby("batch")[["outcome", "exposure", "paid"]].sum()
        factor = size / sums["exposure"]
        is_equal = (factor.max() / factor.min() - 1) < EQUAL_EXPOSURE and abs(factor.mean() - 1) < EQUAL_EXPOSURE
        units = sums["outcome"] * (1.0 if is_equal else factor)
        yield pd.DataFrame(
            {"item": item, "arm": arm, "units": units, "price": sums["paid"] / sums["exposure"], "traffic": size}
        )


def _load(log: pd.DataFrame, start: pd.Timestamp) -> Panel:
    draws = "draw-" + log["draw"].astype(str)
    frame = pd.DataFrame(
        {
            names.ITEM_ID: log["item"].astype(str) + "#" + log["draw"].astype(str),
            names.TIMESTAMP: start + pd.to_timedelta(7 * log["week"], unit="D"),
            names.UNITS: log["units"],
            names.PRICE: log["price"],
            names.TRAFFIC: log["traffic"],
            names.CATEGORY: draws,
            names.PRICE_IS_INTERVENTION: True,
        }
    )
    return load_panel(frame, schema={"frequency": "W", "absent_rows": "missing"})
