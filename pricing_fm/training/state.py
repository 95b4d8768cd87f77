"""Where a run stands: counters, the best validation, and the history of the log. Plain numbers, stored as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

LogRow = dict[str, float | int | None]


@dataclass
class LoopState:
    """The numbers that a run carries from step to step, and from a checkpoint into its resumption.

    Attributes:
        step (`int`): Steps done, skipped ones included; also the zero-based index of the next step.
        skipped_steps (`int`): Steps without an update, because loss or gradient were not finite.
        skipped_in_a_row (`int`): The same, since the last update.
        best_step (`int`, *optional*): Step of the best validation; None before the first.
        best_validation_loss (`float`, *optional*): Its loss.
        evaluations_without_improvement (`int`): Validations since then.
        seconds (`float`): Time in the loop, validation and checkpoints included, over all resumptions.
        step_seconds (`float`): Time in steps alone.
        windows (`int`): Samples seen, over all processes.
        meter (`dict[str, list[float]]`): Sum and count of every logged quantity since the last row of the log.
        history (`list[LogRow]`): Every row of the log.
    """

    step: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    best_step: int | None = None
    best_validation_loss: float | None = None
    evaluations_without_improvement: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    windows: int = 0
    meter: dict[str, list[float]] = field(default_factory=dict)
    history: list[LogRow] = field(default_factory=list)

    @property
    def updates(self) -> int:
        """Optimizer steps that were applied."""
        return self.step - self.skipped_steps

    def record_validation(self, loss: float, minimum_improvement: float) -> bool:
        """Take note of a validation.

        Returns:
            `bool`: True if it is the best so far; a non-finite loss never is.
        """
        bound = float("inf") if self.best_validation_loss is None else self.best_validation_loss - minimum_improvement
        if loss < bound:
            self.best_step, self.best_validation_loss = self.step, loss
            self.evaluations_without_improvement = 0
            return True
        self.evaluations_without_improvement += 1
        return False

    def measure(self, name: str, total: float, count: float) -> None:
        """Add to the mean of a logged quantity."""
        entry = self.meter.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += count

    def drain_meter(self) -> LogRow:
        """Means since the last call; None where nothing was measured."""
        means: LogRow = {name: total / count if count else None for name, (total, count) in self.meter.items()}
        self.meter = {}
        return means

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; floats survive the round trip to the last bit."""
        return asdict(self)
