"""What the training loop is told: small frozen dataclasses, checked at birth."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

# Arguments that may differ between a run and its resumption. Everything else shapes the trajectory. The accumulation
# may change because the global batch of a step does not depend on how it is cut.
CHANGEABLE_ON_RESUME = (
    "activation_checkpointing",
    "compile_backend",
    "gradient_accumulation_steps",
    "num_processes_expected",
    "prefetch_batches",
    "use_cpu",
)


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"--{name} is {value!r}; expected {expected}")


@dataclass(frozen=True)
class OptimArguments:
    """How the weights move: AdamW, its schedule, clipping and the moving average of the weights.

    Raises:
        ValueError: If a value is outside its range.

    References:
        Loshchilov and Hutter 2019, arXiv:1711.05101 (AdamW).
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate, after the warm-up."})
    minimum_learning_rate_ratio: float = field(
        default=0.1, metadata={"help": "Learning rate of the last step as a share of the peak (end of the cosine)."}
    )
    warmup_steps: int = field(default=100, metadata={"help": "Steps of linear warm-up from zero to the peak."})
    weight_decay: float = field(
        default=0.01, metadata={"help": "Decoupled decay of weight matrices; norms, embeddings and biases have none."}
    )
    adam_beta1: float = field(default=0.9, metadata={"help": "Decay of AdamW's first moment."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Decay of AdamW's second moment."})
    # Rows of an embedding that are rarely met have gradients near 1e-8. A smaller offset would blow their rounding
    # noise up to full steps: with 1e-8, one and two processes end 50 steps of nano 2e-6 apart instead of 2e-7.
    adam_epsilon: float = field(default=1e-6, metadata={"help": "AdamW's denominator offset."})
    gradient_clip: float = field(default=1.0, metadata={"help": "Largest global gradient norm; 0 = no clipping."})
    ema_decay: float = field(
        default=0.999,
        metadata={
            "help": "Decay of the moving average of the weights (validated and saved); ramps up from 0.1; 0 = none."
        },
    )

    def __post_init__(self) -> None:
        positive = "a finite number above 0"
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, positive)
        ratio = self.minimum_learning_rate_ratio
        _require(0 <= ratio <= 1, "minimum_learning_rate_ratio", ratio, "a share in [0, 1]")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more steps")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.adam_beta1 < 1, "adam_beta1", self.adam_beta1, "a number in [0, 1)")
        _require(0 <= self.adam_beta2 < 1, "adam_beta2", self.adam_beta2, "a number in [0, 1)")
        _require(0 < self.adam_epsilon < math.inf, "adam_epsilon", self.adam_epsilon, positive)
        _require(0 <= self.gradient_clip < math.inf, "gradient_clip", self.gradient_clip, "0 (none) or more")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number in [0, 1)")


@dataclass(frozen=True)
class LoopArguments:
    """How long the loop runs, on what, and when it stops.

    Raises:
        ValueError: If a value is outside its range.
    """

    max_steps: int = field(default=1000, metadata={"help": "Optimizer steps; the cosine schedule ends here."})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Micro-batches per step; the global batch stays the same, memory shrinks."}
    )
    mixed_precision: Literal["no", "bf16"] = field(
        default="no", metadata={"help": "bf16 = autocast. fp16 is not offered: its loss scaling hides real overflows."}
    )
    compile_backend: Literal["no", "inductor", "aot_eager"] = field(
        default="no", metadata={"help": "torch.compile: inductor pays off on a GPU; aot_eager is for debugging."}
    )
    activation_checkpointing: bool = field(
        default=False, metadata={"help": "Compute activations anew on the way back: less memory, a third slower."}
    )
    evaluate_every: int = field(
        default=200, metadata={"help": "Steps between validations (and at the end); 0 = only at the end."}
    )
    evaluate_first: bool = field(
        default=False, metadata={"help": "Validate before the first step too, so that no training at all can win."}
    )
    patience: int = field(
        default=0, metadata={"help": "Stop after this many validations without improvement; 0 = never stop early."}
    )
    minimum_improvement: float = field(
        default=0.0, metadata={"help": "Decrease of the validation loss that counts as an improvement."}
    )
    maximum_skipped_in_a_row: int = field(
        default=10, metadata={"help": "Give up after this many consecutive steps with a non-finite loss or gradient."}
    )
    prefetch_batches: int = field(default=4, metadata={"help": "Batches prepared ahead in a thread; 0 = no thread."})
    seed: int = field(default=0, metadata={"help": "Seed of everything random in the run."})
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU even where a GPU is present."})
    num_processes_expected: int | None = field(
        default=None, metadata={"help": "Refuse to train with any other number of processes."}
    )

    def __post_init__(self) -> None:
        _require(self.max_steps >= 1, "max_steps", self.max_steps, "1 or more steps")
        accumulation = self.gradient_accumulation_steps
        _require(accumulation >= 1, "gradient_accumulation_steps", accumulation, "1 or more")
        allowed = self.mixed_precision in ("no", "bf16")
        _require(allowed, "mixed_precision", self.mixed_precision, "'no' or 'bf16'")
        compilers = ("no", "inductor", "aot_eager")
        _require(self.compile_backend in compilers, "compile_backend", self.compile_backend, f"one of {compilers}")
        _require(self.evaluate_every >= 0, "evaluate_every", self.evaluate_every, "0 or more steps")
        _require(self.patience >= 0, "patience", self.patience, "0 or more validations")
        _require(self.minimum_improvement >= 0, "minimum_improvement", self.minimum_improvement, "0 or more")
        skipped = self.maximum_skipped_in_a_row
        _require(skipped >= 1, "maximum_skipped_in_a_row", skipped, "1 or more steps")
        _require(self.prefetch_batches >= 0, "prefetch_batches", self.prefetch_batches, "0 or more batches")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        expected = self.num_processes_expected
        _require(expected is None or expected >= 1, "num_processes_expected", expected, "1 or more processes")


@dataclass(frozen=True)
class OutputArguments:
    """Where the run writes, how often, and whether it takes up an earlier one.

    Raises:
        ValueError: If a value is outside its range.
    """

    output_dir: str = field(metadata={"help": "Folder of the artifact; the log goes to its subfolder .logs/."})
    checkpoint_dir: str | None = field(
        default=None, metadata={"help": "Folder of the resumable checkpoints; default <output_dir>/.checkpoints."}
    )
    checkpoint_every: int = field(
        default=500, metadata={"help": "Steps between checkpoints (and at the end); 0 = no checkpoints at all."}
    )
    keep_checkpoints: int = field(default=2, metadata={"help": "Newest complete checkpoints that are kept."})
    resume: str | None = field(
        default=None,
        metadata={
            "help": "Go on from 'latest' (or no value), 'auto' (latest if there is one), or the path of a checkpoint.",
            "nargs": "?",
            "const": "latest",
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Delete checkpoints of an earlier run that are newer than the start of this one."},
    )
    log_every: int = field(default=10, metadata={"help": "Steps averaged into one row of the log."})
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = field(
        default="tensorboard", metadata={"help": "Where curves go besides .logs/training.jsonl."}
    )

    def __post_init__(self) -> None:
        _require(bool(self.output_dir), "output_dir", self.output_dir, "a folder")
        _require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "0 or more steps")
        _require(self.keep_checkpoints >= 1, "keep_checkpoints", self.keep_checkpoints, "1 or more")
        _require(self.log_every >= 1, "log_every", self.log_every, "1 or more steps")
        allowed = self.tracker in ("tensorboard", "wandb", "trackio", "none")
        _require(allowed, "tracker", self.tracker, "tensorboard, wandb, trackio or none")
        if self.resume is not None and self.checkpoint_every == 0:
            raise ValueError("--resume needs checkpoints, yet --checkpoint_every is 0")

    @property
    def logs(self) -> Path:
        """Folder of `training.jsonl` and the tracker's files; its leading dot keeps it out of the artifact's seal."""
        return Path(self.output_dir) / ".logs"

    @property
    def checkpoints(self) -> Path:
        """Folder of the resumable checkpoints."""
        return Path(self.checkpoint_dir) if self.checkpoint_dir else Path(self.output_dir) / ".checkpoints"


def trajectory_arguments(optim: OptimArguments, loop: LoopArguments) -> dict[str, object]:
    """What shapes the trajectory of a run: stored in a checkpoint and compared on resume.

    Returns:
        `dict[str, object]`: JSON values by argument name, without `CHANGEABLE_ON_RESUME`.
    """
    everything = {**asdict(optim), **asdict(loop)}
    return {name: value for name, value in everything.items() if name not in CHANGEABLE_ON_RESUME}


def check_same_trajectory(saved: Mapping[str, object], current: Mapping[str, object]) -> None:
    """Refuse to continue a run under arguments that would bend its trajectory.

    Raises:
        ValueError: Naming every argument that differs, with both values.
    """
    names = sorted(saved.keys() | current.keys())
    different = [name for name in names if saved.get(name) != current.get(name)]
    if different:
        pairs = ", ".join(f"--{name}: {saved.get(name)!r} then, {current.get(name)!r} now" for name in different)
        raise ValueError(f"the checkpoint was written under other arguments ({pairs}); resume with the same ones")
