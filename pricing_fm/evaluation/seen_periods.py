"""Whether an adapter has read the periods that it is judged on, by what its own folder says of its training."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import yaml

from pricing_fm import names
from pricing_fm.adapters import read_adapter
from pricing_fm.errors import PanelError
from pricing_fm.hub import download
from pricing_fm.panel import Panel
from pricing_fm.results import RESULTS, read_results
from pricing_fm.training.adapt import AdaptArguments, visible_panel

ALL, RECIPE = "all", "recipe.yaml"


@dataclass(frozen=True)
class SeenPeriods:
    """What an adapter has read of the periods from the first origin on.

    Args:
        adapter (`str`): Folder or repository, as it was given.
        first, last (`pd.Timestamp`): First and last period that it has read of the log.
        is_recorded (`bool`): False = it was adapted to another log or state of it, up to an end that is not recorded,
            and is taken to have read all of this one.
        judged (`int`): Periods that it is judged on.
        seen (`int`): Those of them that it has read.
        origins (`tuple[int, ...]`): Origins after which it has read, in periods before the end.
        first_origin (`pd.Timestamp`): First period that any origin judges.
    """

    adapter: str
    first: pd.Timestamp
    last: pd.Timestamp
    is_recorded: bool
    judged: int
    seen: int
    origins: tuple[int, ...]
    first_origin: pd.Timestamp

    def describe(self) -> str:
        """One message: what was read, what overlaps, what to do."""
        read = f"{self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}"
        if not self.is_recorded:
            read = f"another log or state of it, up to an end that is not recorded (taken for {read})"
        return (
            f"WARNING: {self.adapter} has read {read}, {self.seen} of the {self.judged} periods that it is judged on "
            f"(origins {', '.join(map(str, self.origins))}): what it says of them is no forecast, and better than it "
            f"will be. Adapt it with --support_end {self.first_origin:%Y-%m-%d} or earlier, or judge later periods"
        )


def find_seen_periods(
    adapter: str, panel: Panel, category: str, prediction_length: int, origins: Sequence[int]
) -> SeenPeriods | None:
    """Compares what an adapter's recipe says that it has read with what it is judged on.

    Args:
        adapter (`str`): Folder or repository.
        panel (`Panel`): The whole log, all categories.
        category (`str`): The one that is evaluated, or `all`.
        prediction_length (`int`): Periods judged from each origin on.
        origins (`Sequence[int]`): In periods before the log's end.

    Returns:
        `SeenPeriods` or None: None if nothing from any origin on was read, if neither log nor category is the same, or
            if the folder does not say what was read.
    """
    folder = download(adapter).folder
    if not (folder / RECIPE).is_file() or not (folder / RESULTS).is_file():
        return None
    own = read_adapter(folder).category
    if own is not None and (category not in (ALL, own) or own not in panel.categories):
        return None
    sources, fingerprint = read_results(folder).data, panel.fingerprint()
    is_same = any(source.fingerprint == fingerprint for source in sources)
    is_named = is_same or any(source.name == panel.name for source in sources)
    told = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    # A start of meta_train.py has no such key: it has read its panels whole.
    how = AdaptArguments(weeks=told["weeks"], support_end=told["support_end"]) if "support_end" in told else None
    if not is_named and (own is None or how is None):
        return None
    try:
        read = panel if how is None else visible_panel(panel, own or ALL, how)
    except PanelError:  # of this log, nothing lies in its weeks
        return None
    stamps = read.frame.loc[read.frame[names.UNITS].notna(), names.TIMESTAMP]
    starts = [panel.frequency.step(panel.last_observed, 1 - origin) for origin in origins]
    judged = {panel.frequency.step(start, step) for start in starts for step in range(prediction_length)}
    if stamps.empty or stamps.max() < min(starts):
        return None
    return SeenPeriods(
        adapter=adapter,
        first=stamps.min(),
        last=stamps.max(),
        is_recorded=is_same or (how is not None and how.support_end is not None),
        judged=len(judged),
        seen=len(judged & set(stamps)),
        origins=tuple(origin for origin, start in zip(origins, starts, strict=True) if start <= stamps.max()),
        first_origin=min(starts),
    )
