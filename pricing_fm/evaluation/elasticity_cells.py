"""The elasticity test bed: simulated markets whose true price responses are known, cell by cell, fixed by seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, simulate_log
from pricing_fm.panel import Panel, load_panel

FIRST_RESERVED_SEED = 900_000  # training corpora stay below
HIGHEST_ELASTICITY = 10.0  # truths and estimates are clipped to [0, this]
HELD_OUT = ("noisy_expert", "steep", "linear", "lifecycle", "cost_plus", "cost_moves")
MIXED = ("mixed", "mixed_sold_out")


@dataclass(frozen=True)
class TestBedArguments:
    """The cells of the test bed; every item is a shop of its own, so that its log is all there is to know of it.

    Raises:
        ValueError: If a cell is unknown, a range is upside down or the seed is one that a training corpus may use.
    """

    __test__ = False  # pytest must not take the class for a test

    num_items: int = field(default=400, metadata={"help": "items of a cell"})
    num_periods: int = field(default=52, metadata={"help": "logged weeks"})
    test_seed: int = field(default=990001, metadata={"help": "first seed; training corpora stay below 900000"})
    elasticity_range: tuple[float, ...] = field(
        default=(0.5, 4.5), metadata={"help": "elasticity at the reference price, uniform between two numbers"}
    )
    confounding: tuple[float, ...] = field(
        default=(-0.9, -0.5, 0.0, 0.5, 0.9),
        metadata={"help": "correlations of the demand follower's wish with hidden demand, one cell each"},
    )
    stock_cover: float = field(
        default=1.0, metadata={"help": "weeks of forecast demand that stock is filled up to in the sold-out cells"}
    )
    mixed_confounding: float = field(
        default=0.95, metadata={"help": "the mixed cells and the posterior draw the confounding between -x and x"}
    )
    steep_range: tuple[float, ...] = field(
        default=(4.5, 6.0), metadata={"help": "elasticity of the cell outside the training range"}
    )
    linear_range: tuple[float, ...] = field(
        default=(0.5, 3.0), metadata={"help": "elasticity of the cell with linear demand, which ends at high prices"}
    )
    held_out: tuple[str, ...] = field(
        default=HELD_OUT, metadata={"help": f"cells unlike any training corpus: {', '.join(HELD_OUT)}; none = none"}
    )
    mixed: tuple[str, ...] = field(
        default=MIXED, metadata={"help": "cells with a confounding of every size, to check the posterior; none = none"}
    )

    def __post_init__(self) -> None:
        if self.test_seed < FIRST_RESERVED_SEED:
            raise ValueError(f"test_seed is {self.test_seed}; seeds below {FIRST_RESERVED_SEED} belong to training")
        for name in ("elasticity_range", "steep_range", "linear_range"):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0.0 < pair[0] <= pair[1]:
                raise ValueError(f"{name} is {pair}; it must be two positive numbers, the first not above the second")
        for name, known in (("held_out", HELD_OUT), ("mixed", MIXED)):
            if unknown := sorted(set(getattr(self, name)) - {*known, "none"}):
                raise ValueError(f"{name} has unknown cells {unknown}; known are {', '.join(known)}, none")
        if self.num_items < 2 or self.num_periods < 8:
            raise ValueError(
                f"num_items is {self.num_items} and num_periods {self.num_periods}; at least 2 and 8 are needed"
            )


@dataclass(frozen=True)
class Cell:
    """One cell: which markets, who set the prices, and how it is logged.

    Args:
        name (`str`): Name in tables, for example `shop_c-0.9_sold_out_40`.
        group (`str`): `shop` (the main table), `mixed` or `held_out`.
        market (`RetailSettings`): Ranges of the truth.
        managers (`ManagerSettings`): Who set the prices.
        log (`LogSettings`): Family, sizes and seed.
    """

    name: str
    group: str
    market: RetailSettings
    managers: ManagerSettings
    log: LogSettings


@dataclass(frozen=True)
class CellData:
    """A simulated cell.

    Args:
        cell (`Cell`): Its settings.
        log (`SimulatedLog`): The simulation, with all that estimators must not see.
        panel (`Panel`): What estimators see.
        truth (`np.ndarray`, float64, shape `(items,)`): Own-price elasticity (positive) at the price of the last logged
            week, clipped to [0, `HIGHEST_ELASTICITY`], in the order of `panel.item_ids`.
    """

    cell: Cell
    log: SimulatedLog
    panel: Panel
    truth: np.ndarray

    @cached_property
    def sold_out_share(self) -> float:
        """Share of item-weeks in which sales reached the stock."""
        return float((self.log.arrays.units >= self.log.arrays.inventory).mean())

    @cached_property
    def categories(self) -> np.ndarray:
        """Category of each item, in the order of `panel.item_ids`."""
        return self.log.items.set_index(names.ITEM_ID)[names.CATEGORY].reindex(list(self.panel.item_ids)).to_numpy()

    @cached_property
    def fingerprint(self) -> str:
        """Digest of panel and truth: what results of this cell were computed from."""
        digest = hashlib.sha256(self.panel.fingerprint().encode())
        digest.update(np.round(self.truth, 9).tobytes())
        return f"sha256:{digest.hexdigest()}"


def build_cells(bed: TestBedArguments) -> tuple[Cell, ...]:
    """Settings of all cells.

    The shop cells share one seed: the same shops, shocks and luck under every confounding and both supplies.

    Args:
        bed (`TestBedArguments`): The test bed.

    Returns:
        `tuple[Cell, ...]`: Shop cells without and with stock-outs, mixed cells, held-out cells.
    """
    plain = RetailSettings(
        num_products=1,
        elasticity_range=(bed.elasticity_range[0], bed.elasticity_range[1]),
        product_deviation=0.0,
        store_deviation=0.0,
        reference_share=0.0,
        num_events=0,
        stocked_share=0.0,
    )
    stocked = replace(plain, stocked_share=1.0, stock_cover_range=(bed.stock_cover, bed.stock_cover))
    cells = [
        Cell(f"shop_c{c:+.1f}{suffix}", "shop", market, _follower(c, c), _log(bed, 0))
        for market, suffix in ((plain, ""), (stocked, "_sold_out"))
        for c in bed.confounding
    ]
    everything = _follower(-bed.mixed_confounding, bed.mixed_confounding)
    cells += [
        Cell(name, "mixed", stocked if "sold_out" in name else plain, everything, _log(bed, 1 + MIXED.index(name)))
        for name in bed.mixed
        if name != "none"
    ]
    cells += [_held_out_cell(name, bed, plain) for name in bed.held_out if name != "none"]
    return tuple(cells)


def _held_out_cell(name: str, bed: TestBedArguments, plain: RetailSettings) -> Cell:
    log, managers, market = _log(bed, 3 + HELD_OUT.index(name)), _follower(-0.9, 0.9), plain
    if name == "noisy_expert":
        managers = ManagerSettings(names=("noisy_expert",))
    elif name == "steep":
        market = replace(plain, elasticity_range=(bed.steep_range[0], bed.steep_range[1]))
    elif name == "linear":
        market = replace(plain, families=("linear",), elasticity_range=(bed.linear_range[0], bed.linear_range[1]))
    elif name == "lifecycle":
        # Without hidden shocks nobody can follow them; sales rise and fade, and so confound by the calendar.
        managers, log = ManagerSettings(names=("hi_lo",)), replace(log, family="lifecycle")
    else:
        # List prices follow costs that move often and far, so that cost is an instrument worth its name.
        market = replace(plain, cost_change_probability=0.25, cost_change_scale=0.15)
        managers = ManagerSettings(names=("cost_plus",)) if name == "cost_plus" else _follower(-0.9, -0.9)
    return Cell(name, "held_out", market, managers, log)


def simulate_cell(cell: Cell) -> CellData:
    """Runs the markets of a cell and hides the truth.

    Args:
        cell (`Cell`): Its settings.

    Returns:
        `CellData`: The panel has the columns that a shop would log, the truth is apart.
    """
    log = simulate_log(cell.market, cell.managers, cell.log)
    panel = load_panel(log.panel[[column for column in VISIBLE_COLUMNS if column in log.panel]])
    last = log.truth.groupby(names.ITEM_ID)["elasticity"].last().reindex(list(panel.item_ids))
    return CellData(cell, log, panel, np.clip(last.to_numpy(dtype=np.float64), 0.0, HIGHEST_ELASTICITY))


def describe_cells(data: list[CellData]) -> pd.DataFrame:
    """What each cell is like, measured.

    Args:
        data (`list[CellData]`): Simulated cells.

    Returns:
        `pd.DataFrame`: `cell, items, sold_out` (share of item-weeks), `price_moves` (share of weeks with another price
        than the week before), `units` (median over items of mean weekly sales) and quantiles of the truth.
    """
    rows = []
    for one in data:
        price, units = one.log.arrays.price, one.log.arrays.units
        low, middle, high = np.quantile(one.truth, (0.1, 0.5, 0.9))
        moves = (price[1:] != price[:-1]).mean()
        volume = np.median(units.mean(axis=0))
        rows.append((one.cell.name, len(one.truth), one.sold_out_share, moves, volume, low, middle, high))
    columns = ["cell", "items", "sold_out", "price_moves", "units", "truth_10", "truth_50", "truth_90"]
    return pd.DataFrame(rows, columns=columns)


def _follower(low: float, high: float) -> ManagerSettings:
    return ManagerSettings(names=("demand_follower",), confounding=(low, high))


def _log(bed: TestBedArguments, place: int) -> LogSettings:
    return LogSettings(
        num_markets=bed.num_items, num_periods=bed.num_periods, seed=bed.test_seed + place, name=f"test{place}"
    )
