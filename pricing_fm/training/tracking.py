"""What a run tells while it runs: progress bar, JSONL log, and a tracker's curves. Only the main process speaks."""

import json
import resource
import sys
from types import TracebackType
from typing import Self

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pricing_fm.training.arguments import OutputArguments
from pricing_fm.training.state import LogRow, LoopState

LOG_FILE = "training.jsonl"


class TrainingLog:
    """Rows of numbers, kept in `.logs/training.jsonl` and sent to the tracker, under a progress bar.

    On resume the file is written anew from the history in the checkpoint: rows of steps that are about to be repeated
    do not appear twice.

    Args:
        accelerator (`Accelerator`): Its tracker is started here and finished at the end of the `with` block.
        output (`OutputArguments`): Where the log lies.
        state (`LoopState`): Where the run stands; `history` receives every row.
        max_steps (`int`): Length of the bar.
    """

    def __init__(self, accelerator: Accelerator, output: OutputArguments, state: LoopState, max_steps: int) -> None:
        self._accelerator = accelerator
        self._output = output
        self._state = state
        self._path = output.logs / LOG_FILE
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not accelerator.is_main_process,
        )
        self._bar = self._progress.add_task("training", total=max_steps, completed=state.step, numbers="")

    def __enter__(self) -> Self:
        if self._accelerator.is_main_process:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            rows = "".join(json.dumps(row) + "\n" for row in self._state.history)
            self._path.write_text(rows, encoding="utf-8")
        # One accelerator may serve several runs; each has its own folder.
        self._accelerator.project_configuration.logging_dir = str(self._output.logs)
        # Curves of steps that are about to be repeated are dropped by TensorBoard.
        init_kwargs = {"tensorboard": {"purge_step": self._state.step + 1}}
        self._accelerator.init_trackers("pricing_fm", init_kwargs=init_kwargs)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        for tracker in self._accelerator.trackers:
            tracker.finish()
        self._accelerator.trackers = []

    def advance(self, loss: float) -> None:
        """Move the bar to the current step.

        Args:
            loss (`float`): Loss of the step; NaN if it was skipped.
        """
        seconds = self._state.step_seconds
        rate = self._state.windows / seconds if seconds else 0.0
        self._progress.update(self._bar, completed=self._state.step, numbers=f"loss {loss:.4f}, {rate:,.0f} windows/s")

    def write(self, row: LogRow) -> None:
        """Keep a row.

        Args:
            row (`dict[str, float | int | None]`): Numbers by name, `step` among them; None = not measured.
        """
        self._state.history.append(row)
        if self._accelerator.is_main_process:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        measured = {name: value for name, value in row.items() if value is not None and name != "step"}
        self._accelerator.log(measured, step=self._state.step)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._accelerator.is_main_process:
            self._progress.console.print(text, highlight=False)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far, in MiB: of the GPU if there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
