"""Windows -> training batches: draws the task of each sample, hides what that task hides, and calls the processor."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pricing_fm.models import PricingFMProcessor
from pricing_fm.models.channels import observed_units
from pricing_fm.names import (
    CHANNEL_INDEX,
    KNOWN_SLOTS,
    PRICE,
    PRICE_IS_INTERVENTION,
    PROMOTION_SLOTS,
    UNITS,
)
from pricing_fm.panel import RawWindows, SeriesStore, WindowSampler, concatenate_windows

# Past channels that a source may lack; dropping them at random teaches the network to do without.
OPTIONAL_CHANNELS = ("list_price", "competitor_price", "cost", "inventory", "traffic")
# Random numbers of a sample that do not belong to a channel or a category.
FIXED_DRAWS = 8
WEEKS_OF_YEAR = 52


@dataclass(frozen=True)
class TaskMix:
    """How often a sample hides what. Probabilities per sample.

    Raises:
        ValueError: If one is no probability, or those that exclude each other sum to more than 1.
    """

    hide_future: float = field(default=0.1, metadata={"help": "Nothing of the future is known but the calendar."})
    hide_promotions: float = field(
        default=0.1, metadata={"help": "Price is known, promotions and other covariates are not."}
    )
    hide_price: float = field(default=0.1, metadata={"help": "Promotions are known, the price is not."})
    hide_patches: float = field(
        default=0.3, metadata={"help": "A stretch of past units is hidden and has to be reconstructed."}
    )
    drop_channel: float = field(default=0.1, metadata={"help": "An optional channel is missing; per channel."})
    drop_category: float = field(default=0.1, metadata={"help": "A static category is missing; per category."})
    ask_elasticity: float = field(
        default=0.4,
        metadata={
            "help": "Of simulated windows whose future is a plain log: its prices are taken for drawn at random, its "
            "sales are hidden, and only the true elasticity is asked for."
        },
    )
    hide_siblings: float = field(default=0.15, metadata={"help": "The item has no siblings."})
    shift_calendar: float = field(
        default=0.0, metadata={"help": "The window is taken for one of another time of the year."}
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability, found {value}")
        hiding = self.hide_future + self.hide_promotions + self.hide_price
        if hiding > 1 + 1e-9:
            raise ValueError(f"hide_future, hide_promotions and hide_price exclude each other, and sum to {hiding}")


NOTHING_HIDDEN = TaskMix(**dict.fromkeys(TaskMix.__dataclass_fields__, 0.0))


def elasticity_targets(windows: RawWindows) -> dict[str, torch.Tensor]:
    """The truth of simulated futures whose prices were drawn at random; nothing is known of other windows.

    A log's future asks what the manager will bring about, and the elasticity answers another question.

    Args:
        windows (`RawWindows`): With their true elasticity, as far as it is known.

    Returns:
        `dict[str, torch.Tensor]`: `future_elasticity` `(B, H)`, and `future_elasticity_mask` `(B, H)`, True = known.
    """
    is_drawn = windows.future[..., CHANNEL_INDEX[PRICE_IS_INTERVENTION]] > 0
    known = is_drawn & np.isfinite(windows.future[..., CHANNEL_INDEX[PRICE]]) & np.isfinite(windows.future_elasticity)
    truth = np.where(known, windows.future_elasticity, 0.0).astype(np.float32)
    return {"future_elasticity": torch.from_numpy(truth), "future_elasticity_mask": torch.from_numpy(known)}


def read_drawn_siblings(
    processor: PricingFMProcessor, windows: RawWindows, siblings: RawWindows, owners: np.ndarray
) -> np.ndarray:
    """What drawn siblings say of each window; a window and its siblings are a group of their own.

    Args:
        processor (`PricingFMProcessor`): Reads them.
        windows (`RawWindows`): B windows.
        siblings (`RawWindows`): From `WindowSampler.siblings`, with as long a past.
        owners (`np.ndarray`, int64): The window that each of them belongs to.

    Returns:
        `(B, 20)`: NaN for a window without siblings.
    """
    first = slice(0, 1)
    own = replace(
        windows,
        future=windows.future[:, first],
        future_timestamps=windows.future_timestamps[:, first],
        future_elasticity=windows.future_elasticity[:, first],
    )
    groups = np.concatenate([np.arange(len(windows)), owners])
    return processor.read_siblings(concatenate_windows([own, siblings]), groups)[: len(windows)]


class PretrainBatchSource:
    """Batches as a pure function of (step, slice): the same global batch for any number of processes.

    Every step reads histories of one length, drawn for it: attention over a short one costs a fraction, and short ones
    are what a new item has.

    Args:
        stores (`Sequence[SeriesStore | Sequence[SeriesStore]]`): Training panels; the shards of one are one entry.
        weights (`Sequence[float]`): Share of windows drawn from each.
        processor (`PricingFMProcessor`): Turns windows into tensors.
        batch_size (`int`): Windows of the global batch, all processes and micro steps together.
        prediction_length (`int`): Future steps.
        seed (`int`): Of windows and tasks.
        tasks (`TaskMix`): What is hidden how often.
        minimum_history (`int`): Fewest periods of a window's history.
        history_shares (`Sequence[float]`): Probability that a step reads the whole context, its half, its quarter, and
            so on; each a whole number of patches.
        patch_length (`int`): Periods of a patch.
        intervention_probability (`float`): As in `WindowSampler`.

    Raises:
        ValueError: If the shares are no probabilities.
    """

    def __init__(
        self,
        stores: Sequence[SeriesStore | Sequence[SeriesStore]],
        weights: Sequence[float],
        processor: PricingFMProcessor,
        batch_size: int,
        prediction_length: int,
        seed: int,
        tasks: TaskMix | None = None,
        minimum_history: int = 8,
        history_shares: Sequence[float] = (1.0,),
        patch_length: int = 4,
        intervention_probability: float = 0.5,
    ) -> None:
        if not history_shares or min(history_shares) < 0 or abs(sum(history_shares) - 1) > 1e-6:
            raise ValueError(f"history_shares is {list(history_shares)}; expected probabilities that sum to 1")
        self.history_shares = np.cumsum(history_shares)
        patches = processor.context_length / patch_length
        self.history_lengths = [
            max(round(patches / 2**halving), 1) * patch_length for halving in range(len(history_shares))
        ]
        self.processor, self.batch_size, self.seed = processor, batch_size, seed
        self.tasks = TaskMix() if tasks is None else tasks
        self.sampler = WindowSampler(
            stores,
            weights,
            batch_size,
            processor.context_length,
            prediction_length,
            seed,
            minimum_history=minimum_history,
            intervention_probability=intervention_probability,
        )

    def batch(
        self, step: int, micro_step: int = 0, rank: int = 0, world_size: int = 1, num_micro_steps: int = 1
    ) -> dict[str, torch.Tensor]:
        """One slice of the global batch of a step: every `world_size * num_micro_steps`-th row.

        Args:
            step (`int`): Zero-based optimizer step.
            micro_step (`int`): In `[0, num_micro_steps)`.
            rank (`int`): In `[0, world_size)`.
            world_size (`int`): Processes.
            num_micro_steps (`int`): Slices per process and step.

        Returns:
            `dict[str, torch.Tensor]`: The processor's batch, and what is to be reconstructed: `hidden_values` `(b, T)`,
            asinh units, and `hidden_mask` `(b, T)`.

        Raises:
            ValueError: If the batch cannot be cut into so many equal slices.
        """
        part, parts = micro_step * world_size + rank, world_size * num_micro_steps
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of processes x accumulation steps ({parts})"
            )
        windows = self._cut_history(self.sampler.windows(step, part, parts), step)
        others, owners = self.sampler.siblings(step, part, parts)
        siblings = read_drawn_siblings(self.processor, windows, self._cut_history(others, step), owners)
        # Drawn for the whole global batch, then sliced: a sample's task does not depend on who trains on it.
        random = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        draws = random.random(
            (self.batch_size, FIXED_DRAWS + len(OPTIONAL_CHANNELS) + windows.static_categories.shape[1])
        )
        draws = draws[part::parts]
        siblings[draws[:, 5] < self.tasks.hide_siblings] = np.nan
        return self._collate(windows, siblings, draws)

    def _cut_history(self, windows: RawWindows, step: int) -> RawWindows:
        random = np.random.Generator(np.random.Philox(key=[self.seed, step], counter=[0, 0, 0, 1]))
        drawn = int(np.searchsorted(self.history_shares, random.random() * self.history_shares[-1], side="right"))
        length = self.history_lengths[min(drawn, len(self.history_lengths) - 1)]
        return replace(windows, past=windows.past[:, -length:], past_timestamps=windows.past_timestamps[:, -length:])

    def _collate(self, windows: RawWindows, siblings: np.ndarray, draws: np.ndarray) -> dict[str, torch.Tensor]:
        observed = observed_units(windows.past)
        windows = self._ask_elasticity(windows, draws[:, 4])
        windows = self._hide_future(windows, draws[:, 0])
        windows = self._drop(windows, draws[:, FIXED_DRAWS:])
        windows = self._shift_calendar(windows, draws[:, 6:8])
        stretch = self._hidden_stretch(windows, draws[:, 1:4])
        # Some sales have to stay: without any the scale is a guess, and the sample's loss has no bound.
        stretch &= (observed & ~stretch).any(1)[:, None]
        hidden = stretch & observed
        past, units = windows.past.copy(), windows.past[..., CHANNEL_INDEX[UNITS]]
        past[..., CHANNEL_INDEX[UNITS]] = np.where(stretch, np.nan, units)
        batch = self.processor(replace(windows, past=past), siblings)
        scaled = np.where(hidden, units, 0.0) / batch["scale"].numpy()[:, None]
        batch["hidden_values"] = torch.from_numpy(np.arcsinh(scaled).astype(np.float32))
        batch["hidden_mask"] = torch.from_numpy(hidden)
        return batch | elasticity_targets(windows)

    def _ask_elasticity(self, windows: RawWindows, draw: np.ndarray) -> RawWindows:
        """Logged futures turned into questions; without sales, for those answer what the manager would bring about."""
        mark, units = CHANNEL_INDEX[PRICE_IS_INTERVENTION], CHANNEL_INDEX[UNITS]
        is_log = ~(windows.future[..., mark] > 0).any(1) & np.isfinite(windows.future_elasticity).any(1)
        rows = is_log & (draw < self.tasks.ask_elasticity)
        future = windows.future.copy()
        future[rows, :, mark] = 1.0
        future[rows, :, units] = np.nan
        return replace(windows, future=future)

    def _hide_future(self, windows: RawWindows, draw: np.ndarray) -> RawWindows:
        tasks = self.tasks
        edges = np.cumsum([tasks.hide_future, tasks.hide_promotions, tasks.hide_price])
        hide_all, hide_flags = draw < edges[0], (draw >= edges[0]) & (draw < edges[1])
        hide_price = (draw >= edges[1]) & (draw < edges[2])
        flags = [CHANNEL_INDEX[name] for name in (*PROMOTION_SLOTS, *KNOWN_SLOTS)]
        prices = [CHANNEL_INDEX[name] for name in ("price", "list_price")]
        future = windows.future.copy()
        for columns, rows in ((flags, hide_all | hide_flags), (prices, hide_all | hide_price)):
            block = future[:, :, columns]
            block[rows] = np.nan
            future[:, :, columns] = block
        return replace(windows, future=future)

    def _drop(self, windows: RawWindows, draws: np.ndarray) -> RawWindows:
        past, future = windows.past.copy(), windows.future.copy()
        for column, name in enumerate(OPTIONAL_CHANNELS):
            rows = draws[:, column] < self.tasks.drop_channel
            past[rows, :, CHANNEL_INDEX[name]] = np.nan
            if name != "inventory":  # tells sold-out targets apart: dropping it would turn censored sales into demand
                future[rows, :, CHANNEL_INDEX[name]] = np.nan
        categories = windows.static_categories.copy()
        categories[draws[:, len(OPTIONAL_CHANNELS) :] < self.tasks.drop_category] = None
        categories[:, 0] = windows.static_categories[:, 0]  # the calendar needs the cadence
        return replace(windows, past=past, future=future, static_categories=categories)

    def _shift_calendar(self, windows: RawWindows, draws: np.ndarray) -> RawWindows:
        """Moves whole windows by whole weeks: a panel's few weeks cannot be learned by heart by their dates."""
        weeks = np.where(draws[:, 0] < self.tasks.shift_calendar, np.floor(draws[:, 1] * WEEKS_OF_YEAR), 0)
        shift = (7 * weeks).astype("timedelta64[D]").astype("timedelta64[s]")[:, None]
        return replace(
            windows,
            past_timestamps=windows.past_timestamps + shift,
            future_timestamps=windows.future_timestamps + shift,
        )

    def _hidden_stretch(self, windows: RawWindows, draws: np.ndarray) -> np.ndarray:
        """True where past units are hidden `(B, T)`: one stretch of up to a third of the context."""
        length = windows.past.shape[1]
        size = np.ceil(draws[:, 1] * length / 3)
        start = np.floor(draws[:, 2] * (length - size))
        position = np.arange(length)
        inside = (position >= start[:, None]) & (position < (start + size)[:, None])
        return inside & (draws[:, 0] < self.tasks.hide_patches)[:, None]
