"""What can only be said of a sorted table as a whole: its frequency, the items' lives, prices at other places."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pricing_fm import names
from pricing_fm.panel.frequency import Frequency, LongSteps, StepCounts
from pricing_fm.panel.staging import ITEM, ROW, Progress, SortedTable
from pricing_fm.panel.validate import (
    check_days,
    check_duplicates,
    check_grid,
    check_observed_periods,
    refuse_long_steps,
)

PART_ROWS = 1_000_000
MODAL_FILE = "modal_prices.parquet"


@dataclass(frozen=True)
class Survey:
    """Facts of a whole panel.

    Args:
        frequency (`Frequency`): Step between two periods.
        rows (`np.ndarray`, int64, shape `(items,)`): Source rows of each item.
        lengths (`np.ndarray`, int64, shape `(items,)`): Periods of each item's life.
        last_observed (`int`): Number of the last period with units; one before the first period when there is none.
        fingerprint (`str`): SHA-256 of the sorted source, its roles and the frequency: the same for any order of the
            source's rows, any split into files and any size of shards. (Not `Panel.fingerprint`, which reads filled
            columns one after another.)
        short_items (`str`, *optional*): What to warn of: items with hardly a period.
        modal_prices (`Callable`): Most frequent price by (product, period) of some products, for `WholePanel`.
    """

    frequency: Frequency
    rows: np.ndarray
    lengths: np.ndarray
    last_observed: int
    fingerprint: str
    short_items: str | None
    modal_prices: Callable[[np.ndarray], pd.Series]


def survey_table(table: SortedTable, draft: Path, memory_limit_gb: float, on_progress: Progress) -> Survey:
    """Reads a sorted table from end to end, twice its dates, and checks what concerns the whole.

    Args:
        table (`SortedTable`): Checked cells.
        draft (`Path`): Folder for intermediate files.
        memory_limit_gb (`float`): Of the grouping of prices.
        on_progress (`Callable`): Called with (step, done, total).

    Returns:
        `Survey`: Facts of the panel.

    Raises:
        PanelError: For two rows of one item and period, no item with two observed periods, or rows off the grid.
    """
    first = _FirstPass(table)
    first.read(on_progress)
    short_items = check_observed_periods(first.observed, table.item_ids)
    schema = table.schema
    frequency = Frequency.parse(schema.frequency) if schema.frequency else first.steps.infer()
    _check_steps(table, list(first.sizes()), frequency)
    numbers, _ = frequency.locate(first.bounds.reshape(-1).astype("datetime64[s]"))
    begins, ends = numbers.reshape(2, -1)
    seen = np.array([first.last_observed], dtype=np.int64).astype("datetime64[s]")
    last_observed = int(frequency.locate(seen)[0][0])
    roles = [schema.promotions, schema.known_covariates, schema.past_covariates]
    roles += [schema.static_categories, schema.static_reals]
    digest = hashlib.sha256(repr((frequency.name, schema.absent_rows, roles, first.fingerprints())).encode())
    return Survey(
        frequency=frequency,
        rows=first.rows,
        lengths=ends - begins + 1,
        last_observed=last_observed,
        fingerprint=f"sha256:{digest.hexdigest()}",
        short_items=short_items,
        modal_prices=_ModalPrices(table, first, ends - begins + 1, frequency, draft, memory_limit_gb),
    )


class _FirstPass:
    """Rows, dates, observed periods and product of each item, the steps between rows, and a hash of every column."""

    def __init__(self, table: SortedTable) -> None:
        items = len(table.item_ids)
        self.rows = np.zeros(items, dtype=np.int64)
        self.observed = np.zeros(items, dtype=np.int64)
        self.priced = np.zeros(items, dtype=np.int64)
        self.bounds = np.zeros((2, items), dtype=np.int64)
        self.products = np.full(items, -1, dtype=np.int64)
        self.last_observed = np.iinfo(np.int32).min
        self.steps = StepCounts()
        self._table = table
        self._hashes: dict[str, Any] = {}
        self._ranks = {name: _rank(texts) for name, texts in table.texts.items()}

    def read(self, on_progress: Progress) -> None:
        """Item boundaries are not known yet, so an item that a part cuts off is carried into the next."""
        table, done = self._table, 0
        on_progress("check", 0, table.rows)
        _count_rows(table, self.rows)
        for part in table.parts(None, self.sizes()):
            items, stamps = part[ITEM], part[names.TIMESTAMP]
            check_duplicates(_DatedRows(table, part).frame(), items, table.schema)
            self.steps.add(items, stamps.astype("datetime64[s]"))
            here, starts = np.unique(items, return_index=True)
            last = np.r_[starts[1:], len(items)] - 1
            self.bounds[0, here], self.bounds[1, here] = stamps[starts], stamps[last]
            units = ~np.isnan(part[names.UNITS])
            self.observed[here] = np.add.reduceat(units, starts, dtype=np.int64)
            self.priced[here] = np.add.reduceat(~np.isnan(part[names.PRICE]), starts, dtype=np.int64)
            if units.any():
                self.last_observed = max(self.last_observed, int(stamps[units].max()))
            if names.PRODUCT_ID in part:
                known = np.flatnonzero(part[names.PRODUCT_ID] >= 0)[::-1]
                self.products[items[known]] = part[names.PRODUCT_ID][known]
            self._hash(part)
            done += len(items)
            on_progress("check", done, table.rows)

    def sizes(self) -> Iterator[int]:
        """Rows of parts that end where an item ends."""
        ends = np.cumsum(self.rows)
        before = 0
        while before < ends[-1]:
            place = int(np.searchsorted(ends, before + PART_ROWS))
            end = int(ends[min(place, len(ends) - 1)])
            yield end - before
            before = end

    def fingerprints(self) -> list[tuple[str, str]]:
        ids = hashlib.sha256("\n".join(map(repr, self._table.item_ids)).encode()).hexdigest()
        return [("item_id", ids), *((name, digest.hexdigest()) for name, digest in sorted(self._hashes.items()))]

    def _hash(self, part: dict[str, np.ndarray]) -> None:
        for name, values in part.items():
            if name == ROW:
                continue
            if name in self._table.texts:  # codes depend on the order of the source, their ranks do not
                values = self._ranks[name][values]
            elif values.dtype.kind == "f":
                values = np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, one zero
            self._hashes.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(values).tobytes())


@dataclass(frozen=True)
class _DatedRows:
    """Items and dates of a part, for checks that read nothing else."""

    table: SortedTable
    part: dict[str, np.ndarray]

    def frame(self) -> pd.DataFrame:
        return self.table.frame({name: self.part[name] for name in (ITEM, ROW, names.TIMESTAMP)})


def _rank(texts: list[str]) -> np.ndarray:
    ranks = np.full(len(texts) + 1, -1, dtype=np.int64)  # the last place is what -1 points to
    ranks[np.argsort(np.array(texts, dtype=object))] = np.arange(len(texts))
    return ranks


def _count_rows(table: SortedTable, rows: np.ndarray) -> None:
    whole, rest = divmod(table.rows, PART_ROWS)
    for part in table.parts([ITEM], iter([PART_ROWS] * whole + [rest] * (rest > 0))):
        here, counts = np.unique(part[ITEM], return_counts=True)
        rows[here] += counts


def _check_steps(table: SortedTable, sizes: list[int], frequency: Frequency) -> None:
    schema, steps = table.schema, LongSteps()
    phases: Counter[int] = Counter()
    columns = [ITEM, ROW, names.TIMESTAMP]
    for part in table.parts(columns, iter(sizes)):
        stamps = part[names.TIMESTAMP].astype("datetime64[s]")
        if frequency.months:
            check_days(_DatedRows(table, part).frame(), frequency, schema)
        numbers, phase = frequency.locate(stamps)
        values, times = np.unique(phase, return_counts=True)
        phases.update(dict(zip(values.tolist(), times.tolist())))
        steps.add(part[ITEM], numbers)
    usual = min(phases, key=lambda phase: (-phases[phase], phase))
    foreign = steps.find() if schema.frequency is None else np.empty(0, dtype=np.int64)
    if len(phases) == 1 and not foreign.size:
        return
    before, opening = 0, []
    for part in table.parts(columns, iter(sizes)):
        frame = _DatedRows(table, part).frame()
        _, phase = frequency.locate(part[names.TIMESTAMP].astype("datetime64[s]"))
        check_grid(frame, phase, usual, frequency, schema)
        inside = foreign[(foreign >= before) & (foreign < before + len(frame))] - before
        opening.append(frame.iloc[inside])
        before += len(frame)
    refuse_long_steps(pd.concat(opening), frequency, schema)


class _ModalPrices:
    """Most frequent price of a product in a period, over all places where it is sold; grouped once, on disk.

    Only products that are sold at several places and lack a price somewhere are looked at: no other price is asked for.
    """

    def __init__(
        self,
        table: SortedTable,
        first: _FirstPass,
        lengths: np.ndarray,
        frequency: Frequency,
        draft: Path,
        memory_limit_gb: float,
    ) -> None:
        self._frequency = frequency
        self._path = draft / MODAL_FILE
        self._codes: dict[str, int] = {}
        counts = np.bincount(first.products + 1, minlength=1)
        gappy = np.unique(first.products[(first.priced < lengths) & (first.products >= 0)])
        wanted = gappy[counts[gappy + 1] > 1]
        if wanted.size:
            texts = table.texts[names.PRODUCT_ID]
            self._codes = {texts[code]: code for code in wanted.tolist()}
            items = np.flatnonzero(np.isin(first.products, wanted))
            sold = pa.table({"item": items.astype(np.int32), "product": first.products[items]})
            _group_prices(table.path, self._path, sold, memory_limit_gb)

    def __call__(self, products: np.ndarray) -> pd.Series:
        import duckdb  # part of the extra 'sql', absent in a plain installation

        codes = sorted({self._codes[product] for product in products if product in self._codes})
        if not codes:
            empty = pd.MultiIndex.from_arrays([np.empty(0, dtype=object), np.empty(0, dtype=np.int64)])
            return pd.Series(np.empty(0), index=empty)
        with duckdb.connect(":memory:") as connection:
            query = "SELECT product, moment, price FROM read_parquet(?) WHERE product IN (SELECT unnest(?))"
            found = connection.execute(query, [str(self._path), codes]).fetchnumpy()
        texts = {code: text for text, code in self._codes.items()}
        numbers, _ = self._frequency.locate(np.asarray(found["moment"], dtype=np.int64).astype("datetime64[s]"))
        named = np.array([texts[code] for code in np.asarray(found["product"]).tolist()], dtype=object)
        return pd.Series(np.asarray(found["price"]), index=pd.MultiIndex.from_arrays([named, numbers]))


def _group_prices(source: Path, path: Path, sold: pa.Table, memory_limit_gb: float) -> None:
    import duckdb  # part of the extra 'sql', absent in a plain installation

    config: dict[str, Any] = {
        "memory_limit": f"{int(memory_limit_gb * 1024)}MiB",
        "temp_directory": str(path.parent / "spill"),
    }
    with duckdb.connect(":memory:", config=config) as connection:
        connection.register("sold", sold)
        read, write = (str(place).replace("'", "''") for place in (source, path))
        connection.execute(
            f"COPY (SELECT product, moment, arg_min(price, (-times, price)) AS price FROM ("
            f"SELECT sold.product AS product, rows.{names.TIMESTAMP} AS moment, rows.{names.PRICE} AS price, "
            f"count(*) AS times FROM read_parquet('{read}') AS rows JOIN sold ON sold.item = rows.{ITEM} "
            f"WHERE NOT isnan(rows.{names.PRICE}) GROUP BY ALL) GROUP BY ALL ORDER BY product) "
            f"TO '{write}' (FORMAT parquet)"
        )
