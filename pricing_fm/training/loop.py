"""The one training loop: any model with a loss, any source of batches, any number of processes."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import nn

from pricing_fm.training.arguments import (
    LoopArguments,
    OptimArguments,
    OutputArguments,
    check_same_trajectory,
    trajectory_arguments,
)
from pricing_fm.training.checkpoint import (
    AVERAGED,
    BEST,
    WEIGHTS,
    Snapshot,
    find_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    make_room,
    optimizer_tensors,
    restore_randomness,
    save_checkpoint,
    whole_tensors,
    write_tensors,
)
from pricing_fm.training.measures import StepExchange, StepNumbers, validation_means
from pricing_fm.training.optimizer import (
    AveragedWeights,
    build_optimizer,
    checkpoint_activations,
    learning_rate_at,
)
from pricing_fm.training.processes import check_same_start, start_accelerator, termination
from pricing_fm.training.sources import (
    Batch,
    BatchSource,
    Slicing,
    check_same_source,
    first_batch_signature,
    num_samples,
    prefetched,
)
from pricing_fm.training.state import LogRow, LoopState
from pricing_fm.training.tracking import TrainingLog, peak_memory_mb

EXIT_CODE_TERMINATED = 143  # 128 + SIGTERM, what a shell reports for a process that was asked to stop


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        best_step (`int`): Step whose averaged weights the model now holds; the last one without validation.
        steps (`int`): Steps done, over all resumptions.
        best_validation_loss (`float`, *optional*): Validation loss of those weights; None without validation.
        history (`tuple[dict, ...]`): Rows of the log: training rows have `loss`, validation rows `validation_loss`.
        seconds (`float`): Time in the loop, over all resumptions.
        windows_per_second (`float`): Samples per second of stepping, validation and checkpoints left out.
        skipped_steps (`int`): Steps without an update because loss or gradient were not finite.
    """

    best_step: int
    steps: int
    best_validation_loss: float | None
    history: tuple[LogRow, ...]
    seconds: float
    windows_per_second: float
    skipped_steps: int


def train(
    model: nn.Module,
    batch_source: BatchSource,
    optim: OptimArguments,
    loop: LoopArguments,
    output: OutputArguments,
    validation_batches: Sequence[Batch] = (),
    accelerator: Accelerator | None = None,
) -> TrainingResult:
    """Train a model in place. Afterwards it holds the averaged weights of the best validation (else of the last step).

    The global batch of a step depends on the step alone. So one process and two, one micro-batch and eight, a run in
    one piece and a resumed one all follow the same trajectory, up to the order of floating-point sums.

    Args:
        model (`nn.Module`): `model(**batch)` returns an object with `loss` (mean over samples of per-sample means, so
            that equal slices average to the whole) and `loss_terms` (scalars for the log; NaN = no such sample).
            What is not to be trained has `requires_grad=False` already; every process was seeded alike.
        batch_source (`BatchSource`): The training batches.
        optim (`OptimArguments`): How the weights move.
        loop (`LoopArguments`): How long, and when to stop.
        output (`OutputArguments`): Where to write and whether to resume.
        validation_batches (`Sequence[dict[str, torch.Tensor]]`): A fixed list; the loss is averaged over its samples.
        accelerator (`Accelerator`, *optional*): From `start_accelerator`; started here when the caller needs none.

    Returns:
        `TrainingResult`: The same in every process, but for timings.

    Raises:
        ArtifactError: If the checkpoint is incomplete or altered, of another model, or in the way of a new run.
        ValueError: If a resumed run would follow another trajectory: other arguments or other batches.
        FloatingPointError: After too many steps in a row with a non-finite loss or gradient.
        RuntimeError: If the processes are not as many as asked for, start apart, or drift apart.
        SystemExit: With code 143, after SIGTERM and a checkpoint.
    """
    accelerator = accelerator or start_accelerator(loop, output)
    run = _Run(model, batch_source, optim, loop, output, validation_batches, accelerator)
    run.take_up()
    slicing = Slicing(accelerator.process_index, accelerator.num_processes, loop.gradient_accumulation_steps)
    pin = accelerator.device.type == "cuda"
    with (
        termination() as terminated,
        TrainingLog(accelerator, output, run.state, loop.max_steps) as log,
        prefetched(batch_source, slicing, run.state.step, loop.max_steps, loop.prefetch_batches, pin) as batches,
    ):
        run.go(batches, log, terminated)
    return run.finish()


class _Run:
    """One training run: the wrapped model, its optimizer, its average, and where it stands."""

    def __init__(
        self,
        model: nn.Module,
        batch_source: BatchSource,
        optim: OptimArguments,
        loop: LoopArguments,
        output: OutputArguments,
        validation_batches: Sequence[Batch],
        accelerator: Accelerator,
    ) -> None:
        check_same_start(accelerator, model)
        set_seed(loop.seed, device_specific=True)
        self.source, self.optim, self.loop, self.output = batch_source, optim, loop, output
        self.validation_batches, self.accelerator = validation_batches, accelerator
        checkpoint_activations(model, loop.activation_checkpointing)
        if loop.compile_backend != "no":
            model.compile(backend=loop.compile_backend)
        self.model, wrapped_optimizer = accelerator.prepare(model, build_optimizer(model, optim))
        self.bare: nn.Module = accelerator.unwrap_model(self.model)
        self.optimizer: torch.optim.Optimizer = wrapped_optimizer.optimizer
        self.averaged = AveragedWeights(self.bare, optim.ema_decay)
        self.best: dict[str, torch.Tensor] = {}
        self.exchange = StepExchange(accelerator)
        self.state = LoopState()
        self.signature: dict[str, list[float]] = {}
        self.slice_size: int | None = None
        self.saved_step: int | None = None
        self.waited = 0.0
        self.clock = time.perf_counter()

    def take_up(self) -> None:
        """Go on from the checkpoint that `--resume` names, or see to it that there is none in the way."""
        folder = self.output.checkpoints
        found = None if self.output.resume is None else find_checkpoint(folder, self.output.resume)
        make_room(folder, found, self.output.overwrite, self.accelerator)
        if self.output.checkpoint_every:
            self.signature = first_batch_signature(self.source)
        if found is None:
            return
        snapshot = load_checkpoint(found)
        check_same_trajectory(snapshot.state["arguments"], trajectory_arguments(self.optim, self.loop))
        check_same_source(snapshot.state["first_batch"], self.signature)
        write_tensors(self.bare.state_dict(), snapshot.weights, str(found / WEIGHTS))
        write_tensors(self.averaged.tensors, snapshot.averaged, str(found / AVERAGED))
        if snapshot.best:
            self.best = {name: tensor.clone() for name, tensor in self.averaged.tensors.items()}
            write_tensors(self.best, snapshot.best, str(found / BEST))
        load_optimizer_tensors(self.optimizer, self.bare, snapshot.optimizer)
        self.state = LoopState(**{field.name: snapshot.state[field.name] for field in fields(LoopState)})
        self.saved_step = self.state.step
        restore_randomness(found, self.accelerator, self.loop.seed, self.state.step)

    def go(self, batches: Iterator[Batch], log: TrainingLog, terminated: threading.Event) -> None:
        """Step until the end, an early stop, or SIGTERM."""
        if self.loop.evaluate_first and self.state.step == 0:
            self._validate(log)
        while not self._done():
            numbers = self._step(batches, terminated)
            log.advance(numbers.loss)
            self._check_skipped(numbers)
            validation_is_due = self._is_due(self.loop.evaluate_every) or self.state.step == self.loop.max_steps
            if validation_is_due or self._is_due(self.output.log_every):
                self._log(log)
            if validation_is_due:
                self._validate(log)
            if self._done() or numbers.stop_requested or self._is_due(self.output.checkpoint_every):
                self._save()
            if numbers.stop_requested and not self._done():
                log.say(f"asked to stop after step {self.state.step}; checkpoint: {self.saved_step}")
                raise SystemExit(EXIT_CODE_TERMINATED)

    def finish(self) -> TrainingResult:
        """Leave the best averaged weights in the model, and the model as it came."""
        state = self.state
        self.averaged.write(self.best or self.averaged.tensors)
        self._leave_model_unwrapped()
        self._tick()
        return TrainingResult(
            best_step=state.step if state.best_step is None else state.best_step,
            steps=state.step,
            best_validation_loss=state.best_validation_loss,
            history=tuple(state.history),
            seconds=state.seconds,
            windows_per_second=state.windows / state.step_seconds if state.step_seconds else 0.0,
            skipped_steps=state.skipped_steps,
        )

    def _leave_model_unwrapped(self) -> None:
        checkpoint_activations(self.bare, False)
        self.bare._compiled_call_impl = None
        # Accelerate marks a model as prepared and keeps its autocast: a second run would neither wrap nor cast it.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.bare.__dict__.pop("_is_accelerate_prepared", None)
        self.accelerator.free_memory()
        self.bare.eval()

    def _done(self) -> bool:
        out_of_patience = 0 < self.loop.patience <= self.state.evaluations_without_improvement
        return self.state.step >= self.loop.max_steps or out_of_patience

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _step(self, batches: Iterator[Batch], terminated: threading.Event) -> StepNumbers:
        started = time.perf_counter()
        rate = learning_rate_at(self.state.step, self.optim, self.loop.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        num_micro_steps = self.loop.gradient_accumulation_steps
        losses: list[torch.Tensor] = []
        terms: list[dict[str, torch.Tensor]] = []
        for micro_step in range(num_micro_steps):
            batch = self._take(batches)
            is_last = micro_step == num_micro_steps - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                outputs = self.model(**batch)
                self.accelerator.backward(outputs.loss / num_micro_steps)
            losses.append(outputs.loss.detach())
            terms.append({name: value.detach() for name, value in outputs.loss_terms.items()})
        clip = self.optim.gradient_clip or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
        numbers = self.exchange.numbers(losses, terms, norm, terminated.is_set())
        if numbers.is_finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._count(numbers, rate, time.perf_counter() - started)
        return numbers

    def _take(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, on the device, checked to be as long as every other slice."""
        started = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - started
        size = num_samples(batch)
        if self.slice_size is None:
            sizes = gather_object([size])
            if len(set(sizes)) > 1:
                raise ValueError(f"the processes got slices of {sizes} samples; the batch size must divide evenly")
            self.slice_size = size
        if size != self.slice_size:
            raise ValueError(f"a slice of {size} samples after slices of {self.slice_size}; means would be biased")
        return {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}

    def _count(self, numbers: StepNumbers, rate: float, seconds: float) -> None:
        """Take the step into the counters, the average and the log's means."""
        state = self.state
        windows = (self.slice_size or 0) * self.accelerator.num_processes * self.loop.gradient_accumulation_steps
        state.step += 1
        state.windows += windows
        state.step_seconds += seconds
        state.measure("windows_per_second", windows, seconds)
        state.measure("share_waiting_for_batches", self.waited, seconds)
        self.waited = 0.0
        if not numbers.is_finite:
            state.skipped_steps += 1
            state.skipped_in_a_row += 1
            return
        state.skipped_in_a_row = 0
        self.averaged.update(state.updates)
        state.measure("loss", numbers.loss, 1)
        state.measure("gradient_norm", numbers.gradient_norm, 1)
        state.measure("learning_rate", rate, 1)
        for name, (total, count) in numbers.terms.items():
            state.measure(f"loss_{name}", total, count)

    def _check_skipped(self, numbers: StepNumbers) -> None:
        in_a_row, step = self.state.skipped_in_a_row, self.state.step
        if in_a_row >= self.loop.maximum_skipped_in_a_row:
            raise FloatingPointError(
                f"{in_a_row} steps in a row had no finite loss or gradient (loss {numbers.loss}, gradient norm "
                f"{numbers.gradient_norm}); lower --learning_rate, or look at the batch of step {step - 1}"
            )

    def _log(self, log: TrainingLog) -> None:
        row: LogRow = {"step": self.state.step, **self.state.drain_meter()}
        row["memory_mb"] = peak_memory_mb(self.accelerator.device)
        row["skipped_steps"] = self.state.skipped_steps
        log.write(row)

    def _validate(self, log: TrainingLog) -> None:
        if not self.validation_batches:
            return
        with self.averaged.in_place():
            means = validation_means(self.accelerator, self.model, self.validation_batches)
        loss = means["validation_loss"]
        improved = self.state.record_validation(math.nan if loss is None else loss, self.loop.minimum_improvement)
        if improved:
            self.best = {name: tensor.clone() for name, tensor in self.averaged.tensors.items()}
        log.write({"step": self.state.step, **means})
        shown = "not finite" if loss is None else f"{loss:.4f}"
        log.say(f"step {self.state.step}: validation loss {shown}{' (best so far)' if improved else ''}")

    def _save(self) -> None:
        if self.output.checkpoint_every == 0 or self.saved_step == self.state.step:
            return
        self._tick()
        arguments = trajectory_arguments(self.optim, self.loop)
        snapshot = Snapshot(
            state={**self.state.to_json(), "arguments": arguments, "first_batch": self.signature},
            weights=whole_tensors(self.bare.state_dict()),
            averaged=whole_tensors(self.averaged.tensors),
            best=whole_tensors(self.best),
            optimizer=optimizer_tensors(self.optimizer, self.bare),
        )
        save_checkpoint(self.output.checkpoints, snapshot, self.accelerator, self.output.keep_checkpoints)
        self.saved_step = self.state.step

    def _tick(self) -> None:
        now = time.perf_counter()
        self.state.seconds += now - self.clock
        self.clock = now
