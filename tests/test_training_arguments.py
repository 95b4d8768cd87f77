"""What the loop is told is checked before anything runs."""

from dataclasses import fields
from typing import Any

import pytest
from transformers import HfArgumentParser

from pricing_fm.training.arguments import (
    LoopArguments,
    OptimArguments,
    OutputArguments,
    check_same_trajectory,
    trajectory_arguments,
)


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (OptimArguments, "learning_rate", 0.0),
        (OptimArguments, "learning_rate", float("nan")),
        (OptimArguments, "minimum_learning_rate_ratio", 1.5),
        (OptimArguments, "warmup_steps", -1),
        (OptimArguments, "weight_decay", -0.1),
        (OptimArguments, "adam_beta2", 1.0),
        (OptimArguments, "gradient_clip", float("inf")),
        (OptimArguments, "ema_decay", 1.0),
        (LoopArguments, "max_steps", 0),
        (LoopArguments, "gradient_accumulation_steps", 0),
        (LoopArguments, "mixed_precision", "fp16"),
        (LoopArguments, "patience", -1),
        (LoopArguments, "maximum_skipped_in_a_row", 0),
        (LoopArguments, "num_processes_expected", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(kind: Any, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"--{name} is"):
        kind(**{name: value})


@pytest.mark.parametrize("name, value", [("output_dir", ""), ("keep_checkpoints", 0), ("tracker", "notebook")])
def test_an_output_out_of_range_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"--{name} is"):
        OutputArguments(**{"output_dir": "somewhere", name: value})


def test_resuming_without_checkpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="--resume needs checkpoints"):
        OutputArguments(output_dir="somewhere", resume="latest", checkpoint_every=0)


def test_the_command_line_builds_the_arguments_and_every_one_has_a_help_text() -> None:
    parser = HfArgumentParser((OptimArguments, LoopArguments, OutputArguments))
    line = "--learning_rate 1e-4 --max_steps 7 --output_dir here --resume --mixed_precision bf16"
    optim, loop, output = parser.parse_args_into_dataclasses(line.split())
    assert (optim.learning_rate, loop.max_steps, loop.mixed_precision) == (1e-4, 7, "bf16")
    assert output.resume == "latest"
    assert str(output.checkpoints) == "here/.checkpoints"
    for kind in (OptimArguments, LoopArguments, OutputArguments):
        assert all(field.metadata["help"].endswith(".") for field in fields(kind))


def test_a_resumed_run_may_change_its_processes_and_not_its_learning_rate() -> None:
    saved = trajectory_arguments(OptimArguments(), LoopArguments(num_processes_expected=1))
    same = trajectory_arguments(
        OptimArguments(), LoopArguments(num_processes_expected=2, gradient_accumulation_steps=4)
    )
    check_same_trajectory(saved, same)
    other = trajectory_arguments(OptimArguments(learning_rate=0.5), LoopArguments(max_steps=3))
    with pytest.raises(ValueError, match=r"--learning_rate: 0.001 then, 0.5 now, --max_steps: 1000 then, 3 now"):
        check_same_trajectory(saved, other)
