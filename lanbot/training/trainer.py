"""The trainer that base, mid and sft share. RL has its own loop in phases/rl.py, of the same parts."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lanbot.console import Progress, duration, say
from lanbot.data.loader import Loader
from lanbot.data.packing import Batch
from lanbot.errors import Stopped, UserError
from lanbot.model.transformer import Transformer
from lanbot.recipe import Training
from lanbot.run import read_metrics
from lanbot.tokenizer import Tokenizer
from lanbot.training import checkpoint, memory
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.parallel import World, sum_over_ranks, world
from lanbot.training.schedule import wsd
from lanbot.training.signals import StopSignals
from lanbot.training.step import StepResult, training_step

Evaluate = Callable[[Transformer], float]


class TrainState:
    """What a phase in training is: weights, optimiser, counters and metrics, on disk and back."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, settings: Training, phase: Path, sequence: int | None = None
    ) -> None:
        """sequence: tokens of a row; the model's context if left out."""
        self.model, self.tokenizer, self.settings, self.phase = model, tokenizer, settings, phase
        self.sequence = sequence or model.config.context
        self.world: World = world()
        rates = Rates(
            muon=settings.muon_lr or 0.0,
            embedding=settings.embedding_lr or 0.0,
            head=settings.head_lr or 0.0,
            norm=settings.norm_lr or 0.0,
            weight_decay=settings.weight_decay,
        )
        self.optimizer = MuonAdamW(model, rates, self.world.dtype)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.saved_step = -1
        rows = settings.micro_batch or memory.micro_batch(model.config, self.sequence)
        self.micro_tokens = rows * self.sequence
        """Tokens of one forward pass. Kept with the checkpoint: it decides in what order gradients are added up."""

    def resume(self) -> dict[str, Any] | None:
        """Takes up the phase's last whole checkpoint; returns its loader's state, None where there is none."""
        if self.world.main:
            checkpoint.clean(self.phase)
        folder = checkpoint.last_step(self.phase, self.world)
        loader_state: dict[str, Any] | None = None
        if folder is not None:
            weights = checkpoint.load(folder, self.world).state_dict()
            self.model.load_state_dict(weights)
            progress = checkpoint.resume(folder, self.optimizer, self.world)
            self.step, self.tokens, self.seconds = progress["step"], progress["tokens"], progress["seconds"]
            if self.settings.micro_batch is None:
                self.micro_tokens = progress["micro_tokens"]
            self.saved_step = self.step
            loader_state = progress["loader"]
            if self.world.main:
                say(f"{self.phase.name}: going on from step {self.step:,}")
        self.metrics = Metrics(self.phase / "metrics.jsonl", self.step, self.world.main)
        return loader_state

    def update(self, batch: Batch, scale: float) -> StepResult:
        """One training step on this rank's rows. Raises UserError if the loss is no number."""
        micro_batch = max(1, self.micro_tokens // batch.ids.shape[1])
        result = training_step(self.model, self.optimizer, batch, scale, self.settings.clip, micro_batch)
        if not result.finite:
            raise UserError(
                f"{self.phase.name}, step {self.step + 1:,}: loss {result.loss.item()}, gradient norm "
                f"{result.grad_norm.item()}; the weights are as they were",
                f"Lower {self.phase.name}.muon_lr and run again under another --name.",
            )
        self.step += 1
        return result

    def save(self, loader_state: dict[str, Any]) -> None:
        """A checkpoint of this step, unless it has one."""
        if self.saved_step == self.step:
            return
        progress = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "micro_tokens": self.micro_tokens,
            "loader": loader_state,
        }
        checkpoint.save(self.phase, self.step, self.model, self.tokenizer, self.optimizer, progress, self.world)
        self.saved_step = self.step

    def save_and_stop(self, loader_state: dict[str, Any], exit_code: int) -> None:
        self.save(loader_state)
        raise Stopped(exit_code, f"stopped in {self.phase.name} after step {self.step:,}, saved; run again to go on")


class Metrics:
    """metrics.jsonl: one JSON object a step (and one an evaluation), none twice, none missing, also after a kill."""

    def __init__(self, path: Path, step: int, main: bool) -> None:
        """Takes up a file whose run goes on after `step`: what lies beyond it is cut off, it will come again."""
        self.path, self.main = path, main
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        self.evaluated = {line["step"] for line in kept if "val_bpb" in line}
        if main:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(".metrics.jsonl.tmp")
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
            beside.replace(path)

    def write(self, **values: Any) -> None:
        if self.main:
            with self.path.open("a") as file:
                file.write(json.dumps({k: _round(v) for k, v in values.items()}) + "\n")


def train(state: TrainState, loader: Loader, evaluate: Evaluate | None = None, eval_every: int = 0) -> None:
    """Trains to the loader's end, from the phase's last checkpoint if it has one.

    evaluate(model) -> validation bits per byte, called before the first step, every `eval_every` and at the end.
    Raises Stopped when a signal came (the state is saved), UserError when the loss is no number or the disk full.
    """
    settings, place = state.settings, state.world
    loader_state = state.resume()
    if loader_state is not None:
        loader.load_state(loader_state)
    meter = Meter(state, loader)
    with StopSignals() as stop:
        try:
            while True:
                if evaluate and state.step % eval_every == 0:
                    meter.validate(evaluate)
                scale = wsd(loader.progress(), settings.warmup, settings.decay)
                batch = loader.next_batch()
                if batch is None:
                    break
                tokens_under_loss = max(1, int((batch.weights != 0).sum()))
                mine = batch.rows(slice(place.rank, None, place.size))
                result = state.update(mine.scaled(1 / tokens_under_loss), scale)
                meter.log(batch, mine, result, scale)
                if state.step % settings.checkpoint_every == 0:
                    state.save(loader.state())
                if code := stop.exit_code():
                    state.save_and_stop(loader.state(), code)
            if not state.step:
                raise UserError(
                    f"{state.phase.name}: nothing to train on ({_notes(loader)})",
                    f"Give it shorter conversations, or a longer {state.phase.name}.sequence.",
                )
            state.save(loader.state())
            if evaluate:
                meter.validate(evaluate)
            if code := stop.exit_code():
                state.save_and_stop(loader.state(), code)
            meter.close()
        finally:
            meter.line.close()


class Meter:
    """Counts, times and tells what the loop does, out of its way."""

    def __init__(self, state: TrainState, loader: Loader) -> None:
        self.state, self.loader = state, loader
        self.bytes_of = state.tokenizer.token_bytes()
        self.ceiling = memory.matmul_ceiling(state.world.device, state.world.dtype) * state.world.size
        self.flops = state.model.config.flops_per_token(state.sequence)
        self.line = Progress(quiet=not state.world.main)
        self.began = self.last = time.monotonic()
        self.start_progress = loader.progress()
        self.val_bpb: float | None = None

    def log(self, batch: Batch, mine: Batch, result: StepResult, scale: float) -> None:
        """batch: of all ranks. mine: this rank's rows of it, whose losses are in `result`."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        state, tokens = self.state, batch.ids.size
        state.tokens += tokens
        state.seconds += seconds
        text = (mine.weights != 0) & (self.bytes_of[mine.targets] > 0)  # special tokens stand for no bytes
        nats = sum_over_ranks(float(result.nll.cpu().numpy()[text].sum(dtype=np.float64)))
        text_bytes = sum_over_ranks(float(self.bytes_of[mine.targets[text]].sum()))
        loss, bpb = result.loss.item(), nats / math.log(2) / max(1.0, text_bytes)
        rate = tokens / seconds
        utilisation = rate * self.flops / self.ceiling
        progress = self.loader.progress()
        state.metrics.write(
            step=state.step, progress=progress, loss=loss, bpb=bpb, grad_norm=result.grad_norm.item(), lr_scale=scale,
            tokens=state.tokens, seconds=state.seconds, tokens_per_second=rate, utilisation=utilisation,
            **self.loader.notes(),
        )  # fmt: skip
        left = (now - self.began) / max(progress - self.start_progress, 1e-9) * (1 - progress)
        val = "" if self.val_bpb is None else f" | val bpb {self.val_bpb:.3f}"
        self.line.show(
            f"{state.phase.name:<5}{progress:>6.1%} | step {state.step:,} | loss {loss:.3f} | bpb {bpb:.3f}{val}"
            f" | {rate:,.0f} tok/s | util {utilisation:.2f} | {duration(left)} left"
        )

    def validate(self, evaluate: Evaluate) -> None:
        """Evaluates off the clock, once a step."""
        state = self.state
        if state.step not in state.metrics.evaluated:
            self.val_bpb = evaluate(state.model)
            state.metrics.write(step=state.step, val_bpb=self.val_bpb, tokens=state.tokens, seconds=state.seconds)
            state.metrics.evaluated.add(state.step)
        pause = time.monotonic() - self.last
        self.began += pause
        self.last += pause

    def close(self) -> None:
        state = self.state
        if state.world.main:
            notes = _notes(self.loader)
            rate = state.tokens / max(state.seconds, 1e-9)
            self.line.show(
                f"{state.phase.name} done | {state.step:,} steps | {state.tokens:,} tokens | "
                f"{duration(state.seconds)} | {rate:,.0f} tok/s" + (f" | {notes}" if notes else ""),
                final=True,
            )


def _notes(loader: Loader) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in loader.notes().items() if count)


def _round(value: Any) -> Any:
    """Floats to 7 digits: all that fp32 holds."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
