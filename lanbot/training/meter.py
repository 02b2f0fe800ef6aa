"""What the loop tells of itself, out of its way: metrics, the line on the terminal, the clock."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lanbot.core import hardware
from lanbot.core.console import Progress, duration, say
from lanbot.data.loader import Loader
from lanbot.data.packing import Batch
from lanbot.distributed.fsdp import gathered
from lanbot.models.transformer import Transformer
from lanbot.training.state import TrainState
from lanbot.training.step import StepResult

Evaluate = Callable[[Transformer], float]


@dataclass(frozen=True)
class Untold:
    """A step that the device may still be at; its figures are on their way to the host."""

    step: int
    tokens: int
    mine: Batch
    scale: float
    progress: float
    notes: dict[str, int]
    waited: float
    result: Callable[[], StepResult]


class Meter:
    """Counts, times and tells what the loop does, out of its way.

    There is one clock: `seconds` of training are those of steps (data, forward, backward, update, this log).
    Evaluating and saving are off it; the whole of a phase is `wall_seconds` in its evals.json. On CUDA a step is
    told while the next one runs, so that the device need not wait; before a save, an evaluation and the end all are.
    """

    def __init__(self, state: TrainState, loader: Loader) -> None:
        self.state, self.loader = state, loader
        self.bytes_of = state.chat_format.tokenizer.byte_lengths()
        self.ceiling = hardware.matmul_ceiling(state.runtime.device, state.runtime.dtype) * state.runtime.size
        self.line = Progress(state.phase.name, 1.0, "%", first=loader.progress())
        self.last = time.monotonic()
        self.val_bpb: float | None = None
        self.late = state.runtime.device.type == "cuda"
        self.untold: Untold | None = None
        self.waited = 0.0

    def next_batch(self) -> Batch | None:
        """The loader's next; how long the loop has stood still for it is told as `wait_seconds`."""
        began = time.monotonic()
        batch = self.loader.next_batch()
        self.waited = time.monotonic() - began
        return batch

    def log(self, batch: Batch, mine: Batch, result: StepResult, scale: float) -> None:
        """batch: of all ranks. mine: this rank's rows of it, whose losses are in `result`.

        Raises UserError when one update too many in a row had to be skipped.
        """
        before = self.untold
        self.untold = Untold(
            self.state.step,
            batch.ids.size,
            mine,
            scale,
            self.loader.progress(),
            self.loader.notes(),
            self.waited,
            _fetched(result),
        )
        if before is not None:
            self._tell(before)
        if not self.late:
            self.flush()

    def flush(self) -> None:
        """Tells of all steps so far."""
        untold, self.untold = self.untold, None
        if untold is not None:
            self._tell(untold)

    def _tell(self, step: Untold) -> None:
        result = step.result()
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        state, phase = self.state, self.state.phase.name
        state.tokens += step.tokens
        state.seconds += seconds
        state.count(finite := bool(result.finite))
        byte_counts = self.bytes_of[step.mine.targets]
        text = (step.mine.weights != 0) & (byte_counts > 0)  # special tokens stand for no bytes
        nats = state.runtime.sum(float(result.nll.numpy()[text].sum(dtype=np.float64)))
        text_bytes = state.runtime.sum(float(byte_counts[text].sum()))
        loss, grad_norm, bpb = result.loss.item(), result.grad_norm.item(), nats / math.log(2) / max(1.0, text_bytes)
        rate = step.tokens / seconds
        flops = state.model.config.flops_per_token(state.sequence, result.softmax)
        utilisation = rate * flops / self.ceiling
        spike = state.metrics.spike(loss) if finite else None
        state.metrics.write(
            step=step.step, progress=step.progress, loss=loss, bpb=bpb, grad_norm=grad_norm, lr_scale=step.scale,
            tokens=state.tokens, seconds=state.seconds, tokens_per_second=rate, utilisation=utilisation,
            wait_seconds=step.waited, skipped=state.skipped, **({"spike": True} if spike else {}), **step.notes,
        )  # fmt: skip
        if spike or not finite:
            self.line.close()  # what is said now stands on a line of its own
        if spike and state.runtime.main:
            say(f"{phase}, step {step.step:,}: loss {loss:.3f} is a spike: it was {spike[0]:.3f} ± {spike[1]:.3f}")
        state.check(step.step, f"loss {loss}, gradient norm {grad_norm}", lambda: _position(self.loader.state()))
        val = "" if self.val_bpb is None else f"val bpb {self.val_bpb:.3f}"
        skipped = f"{state.skipped:,} skipped" if state.skipped else ""
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
    def _off_the_clock(self) -> Iterator[None]:
        self.flush()
        began = time.monotonic()
        yield
        pause = time.monotonic() - began
        self.line.started += pause
        self.last += pause

    def save(self) -> None:
        with self._off_the_clock():
            self.state.save(self.loader.state())

    def save_and_stop(self, exit_code: int) -> None:
        self.flush()
        self.state.save_and_stop(self.loader.state(), exit_code)

    def validate(self, evaluate: Evaluate) -> None:
        """Evaluates, once a step."""
        with self._off_the_clock():
            state = self.state
            if state.step not in state.metrics.evaluated:
                self.val_bpb = evaluate(gathered(state.model))
                state.metrics.write(step=state.step, val_bpb=self.val_bpb, tokens=state.tokens, seconds=state.seconds)
                state.metrics.evaluated.add(state.step)

    def close(self) -> None:
        state = self.state
        if state.runtime.main:
            notes = notes_of(self.loader)
            rate = state.tokens / max(state.seconds, 1e-9)
            skipped = f" | {state.skipped:,} updates skipped" if state.skipped else ""
            self.line.close(
                f"{state.phase.name} done | {state.step:,} steps | {state.tokens:,} tokens | "
                f"{duration(state.seconds)} | {rate:,.0f} tok/s{skipped}" + (f" | {notes}" if notes else "")
            )


def _fetched(result: StepResult) -> Callable[[], StepResult]:
    """The result on the host, begun to be copied now and there when called: later, no step after it is waited for."""
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
    """Where in the data a loader is, in words: the numbers of its state, not what it has read ahead."""
    words = []
    for name, value in loader_state.items():
        if isinstance(value, dict):
            words.append(_position(value))
        elif isinstance(value, int | str):
            words.append(f"{name} {value}")
    return ", ".join(words)
