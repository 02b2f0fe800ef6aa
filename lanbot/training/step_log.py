"""The log of the training loop: metrics, the progress line, the clock."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lanbot.core import hardware
from lanbot.core.console import Progress, duration, say
from lanbot.data.loader import Loader
from lanbot.data.packing import Batch
from lanbot.training.step import StepResult

if TYPE_CHECKING:
    from lanbot.training.trainer import Trainer


@dataclass(frozen=True)
class PendingStep:
    """A step that may still run on the device; its results are being copied to the host."""

    step: int
    tokens: int
    mine: Batch
    scale: float
    progress: float
    notes: dict[str, int]
    waited: float
    result: Callable[[], StepResult]


class StepLog:
    """Counts, times and logs the steps.

    `seconds` is the time of steps (data, forward, backward, update, logging) without evaluations and checkpoints;
    `wall_seconds` in evals.json covers the phase. On CUDA a step is logged while the next one runs, so that the device
    need not wait; before a checkpoint, an evaluation and the end all steps are logged.
    """

    def __init__(self, trainer: "Trainer", loader: Loader) -> None:
        self.trainer, self.loader = trainer, loader
        self.bytes_of = trainer.chat_format.tokenizer.byte_lengths()
        self.ceiling = hardware.matmul_ceiling(trainer.runtime.device, trainer.runtime.dtype) * trainer.runtime.size
        self.line = Progress(trainer.phase.name, 1.0, "%", first=loader.progress())
        self.last = time.monotonic()
        self.val_bpb: float | None = None
        self.late = trainer.runtime.device.type == "cuda"
        self.pending: PendingStep | None = None
        self.waited = 0.0

    def next_batch(self) -> Batch | None:
        """The loader's next batch; the time spent waiting is logged as `wait_seconds`."""
        began = time.monotonic()
        batch = self.loader.next_batch()
        self.waited = time.monotonic() - began
        return batch

    def add(self, batch: Batch, mine: Batch, result: StepResult, scale: float) -> None:
        """batch: of all ranks. mine: this rank's rows of it, whose losses are in `result`.

        Raises UserError after too many skipped updates in a row.
        """
        before = self.pending
        self.pending = PendingStep(
            self.trainer.step,
            batch.ids.size,
            mine,
            scale,
            self.loader.progress(),
            self.loader.notes(),
            self.waited,
            _fetched(result),
        )
        if before is not None:
            self._write(before)
        if not self.late:
            self.flush()

    def flush(self) -> None:
        """Logs all steps so far."""
        pending, self.pending = self.pending, None
        if pending is not None:
            self._write(pending)

    def _write(self, step: PendingStep) -> None:
        result = step.result()
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        trainer, phase = self.trainer, self.trainer.phase.name
        trainer.tokens += step.tokens
        trainer.seconds += seconds
        trainer.count(finite := bool(result.finite))
        byte_counts = self.bytes_of[step.mine.targets]
        text = (step.mine.weights != 0) & (byte_counts > 0)  # special tokens have no bytes
        nats = trainer.runtime.sum(float(result.nll.numpy()[text].sum(dtype=np.float64)))
        text_bytes = trainer.runtime.sum(float(byte_counts[text].sum()))
        loss, grad_norm, bpb = result.loss.item(), result.grad_norm.item(), nats / math.log(2) / max(1.0, text_bytes)
        rate = step.tokens / seconds
        flops = trainer.model.config.flops_per_token(trainer.sequence, result.softmax)
        flops *= 1 if trainer.model.lora is None else 2 / 3  # frozen matrices have no gradient
        utilisation = rate * flops / self.ceiling
        spike = trainer.metrics.spike(loss) if finite else None
        trainer.metrics.write(
            step=step.step, progress=step.progress, loss=loss, bpb=bpb, grad_norm=grad_norm, lr_scale=step.scale,
            tokens=trainer.tokens, seconds=trainer.seconds, tokens_per_second=rate, utilisation=utilisation,
            wait_seconds=step.waited, skipped=trainer.skipped, **({"spike": True} if spike else {}), **step.notes,
        )  # fmt: skip
        if spike or not finite:
            self.line.close()
        if spike and trainer.runtime.main:
            say(f"{phase}, step {step.step:,}: loss {loss:.3f} is a spike: it was {spike[0]:.3f} ± {spike[1]:.3f}")
        trainer.check(step.step, f"loss {loss}, gradient norm {grad_norm}", lambda: _position(self.loader.state()))
        val = "" if self.val_bpb is None else f"val bpb {self.val_bpb:.3f}"
        skipped = f"{trainer.skipped:,} skipped" if trainer.skipped else ""
        self.line.show(
            step.progress,
            f"step {step.step:,}",
            f"loss {loss:.3f}",
            f"bpb {bpb:.3f}",
            val,
            skipped,
            f"{rate:,.0f} tok/s",
            f"util {utilisation:.2f}",
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Logs all steps so far, and stops the clock for what is done inside."""
        self.flush()
        began = time.monotonic()
        yield
        pause = time.monotonic() - began
        self.line.started += pause
        self.last += pause

    def close(self) -> None:
        trainer = self.trainer
        if trainer.runtime.main:
            notes = notes_of(self.loader)
            rate = trainer.tokens / max(trainer.seconds, 1e-9)
            skipped = f" | {trainer.skipped:,} updates skipped" if trainer.skipped else ""
            self.line.close(
                f"{trainer.phase.name} done | {trainer.step:,} steps | {trainer.tokens:,} tokens | "
                f"{duration(trainer.seconds)} | {rate:,.0f} tok/s{skipped}" + (f" | {notes}" if notes else "")
            )


def _fetched(result: StepResult) -> Callable[[], StepResult]:
    """Starts copying the result to the host; returns a function that waits for the copy, but not for later steps."""
    on_gpu = result.loss.is_cuda
    figures = ("loss", "grad_norm", "finite", "nll")
    copies = {name: getattr(result, name).to("cpu", non_blocking=on_gpu) for name in figures}  # into pinned memory
    host = replace(result, **copies)
    if not on_gpu:
        return lambda: host
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> StepResult:
        arrived.synchronize()
        return host

    return wait


def notes_of(loader: Loader) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in loader.notes().items() if count)


def _position(loader_state: dict[str, Any]) -> str:
    """A loader's position in the data as text: the numbers of its state, without its buffers."""
    words = []
    for name, value in loader_state.items():
        if isinstance(value, dict):
            words.append(_position(value))
        elif isinstance(value, int | str):
            words.append(f"{name} {value}")
    return ", ".join(words)
