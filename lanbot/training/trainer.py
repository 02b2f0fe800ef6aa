"""The trainer of a phase: the training loop, and what it shares with RL's loop (phases/rl.py)."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Training
from lanbot.core import hardware
from lanbot.core.console import Progress, say
from lanbot.core.errors import Stopped, UserError
from lanbot.core.files import write_atomic
from lanbot.data.loader import Loader
from lanbot.data.packing import Batch
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.models import compile, fp8, lora, saved
from lanbot.models.loss import Candidates
from lanbot.models.transformer import Transformer
from lanbot.training import checkpoint, memory
from lanbot.training.metrics import Metrics
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.sampled_softmax import SampledSoftmax
from lanbot.training.schedule import wsd
from lanbot.training.signals import StopSignals
from lanbot.training.step import StepResult, training_step
from lanbot.training.step_log import StepLog, notes_of

Evaluate = Callable[[Transformer], float]
LoaderState = Callable[[], dict[str, Any]]

SKIPS_IN_A_ROW = 5
"""Consecutive skipped updates that stop the run."""

MICRO_TOKENS = "micro_tokens"
"""File in a phase's folder in which a rank that ran out of memory sets a smaller micro-batch for the next start."""


def prepare(model: Transformer, settings: Training, runtime: Runtime, name: str) -> None:
    """Changes a model's modules as a phase's settings say. Comes before sharding, which remembers them."""
    if settings.fp8:
        fp8.enable(model, runtime.device, f"{name}.fp8")


class Trainer:
    """Weights, optimiser, counters, metrics and checkpoints of a phase."""

    def __init__(
        self,
        model: Transformer,
        chat_format: ChatFormat,
        settings: Training,
        phase: Path,
        runtime: Runtime,
        sequence: int | None = None,
        start: Path | None = None,
    ) -> None:
        """sequence: tokens of a row; None: the model's context. start: the model folder with which the phase began."""
        self.model, self.chat_format, self.settings, self.phase = model, chat_format, settings, phase
        self.sequence = sequence or model.config.context
        self.runtime, self.start = runtime, start
        self.interpolated = False
        adapter = getattr(settings, "lora_lr", None) or 0.0
        whole = (
            adapter if model.lora else None
        )  # of embeddings beside adapters: those of a model are for training it from nothing
        rates = Rates(
            muon=settings.muon_lr or 0.0,
            embedding=whole or settings.embedding_lr or 0.0,
            head=whole or settings.head_lr or 0.0,
            norm=settings.norm_lr or 0.0,
            weight_decay=settings.weight_decay,
            adapter=adapter,
        )
        if not fsdp.is_sharded(model):
            prepare(model, settings, runtime, phase.name)
        model.checkpointing = settings.activation_checkpointing
        fsdp.shard_if_needed(model, runtime)
        self.optimizer = MuonAdamW(model, rates, runtime.dtype, runtime.mesh)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.skipped, self.skipped_in_a_row = 0, 0
        """Updates skipped because loss or gradient norm was not finite. They count as steps."""
        self.saver = checkpoint.Saver(runtime)
        self.saved_step, self.saved_at = -1, time.monotonic()
        method = memory.Method.of(settings)
        rows = settings.micro_batch or memory.micro_batch(model.config, self.sequence, runtime, method)
        self.micro_tokens = rows * self.sequence
        """Tokens of one forward pass. Saved in checkpoints: it determines the order in which gradients are summed."""

    # -- the loop ------------------------------------------------------------------------------------------

    def train(
        self,
        loader: Loader,
        evaluate: Evaluate | None = None,
        eval_every: int = 0,
        sampled: SampledSoftmax | None = None,
    ) -> None:
        """Trains to the loader's end, from the phase's last checkpoint if it has one.

        evaluate(model) -> validation bits per byte, called before the first step, every `eval_every` steps (0: not
        in between) and at the end, after the checkpoint of the same step.
        sampled: the sampled softmax; None: full softmax.
        Raises Stopped after a signal, with the state saved, and UserError after too many skipped updates in a row, or
        if memory or disk space runs out.
        """
        settings, runtime = self.settings, self.runtime
        compile.compile_blocks(self.model)
        loader_state = self.resume()
        if loader_state is not None:
            loader.load_state(loader_state)
        log = StepLog(self, loader)
        with self.running(log.line) as stop:
            while True:
                progress = loader.progress()
                scale = wsd(progress, settings.warmup, settings.decay)
                batch = log.next_batch()
                if batch is None:
                    break
                if evaluate and (self.step % eval_every == 0 if eval_every else self.step == 0):
                    self.validate(evaluate, log)
                tokens_under_loss = max(1, int((batch.weights != 0).sum()))
                mine = batch.rows(slice(runtime.rank, None, runtime.size))
                candidates = sampled.candidates(batch.targets, self.step, progress) if sampled else None
                result = self.update(mine.scaled(1 / tokens_under_loss), scale, candidates)
                log.add(batch, mine, result, scale)
                self.end_step(stop, loader.state, log.paused)
            if not self.step:
                raise UserError(
                    f"{self.phase.name}: nothing to train on ({notes_of(loader)})",
                    f"Give it shorter conversations, or a longer {self.phase.name}.sequence.",
                )
            with log.paused():
                self.save(loader.state(), last=True)
            if evaluate:
                self.validate(evaluate, log)
            self.finish(stop)
            log.close()

    def validate(self, evaluate: Evaluate, log: StepLog) -> None:
        """Evaluates unless metrics.jsonl has an evaluation of this step."""
        with log.paused():
            if self.step not in self.metrics.evaluated:
                log.val_bpb = evaluate(fsdp.gathered(self.model))
                self.metrics.write(step=self.step, val_bpb=log.val_bpb, tokens=self.tokens, seconds=self.seconds)
                self.metrics.evaluated.add(self.step)

    # -- shared with RL ------------------------------------------------------------------------------------

    @contextmanager
    def running(self, line: Progress) -> Iterator[StopSignals]:
        """Handles signals during a loop; closes the progress line and the metrics afterwards."""
        with StopSignals(self.runtime) as stop:
            try:
                yield stop
            finally:
                line.close()
                self.metrics.close()

    def end_step(
        self, stop: StopSignals, loader_state: LoaderState, paused: Callable[[], AbstractContextManager] = nullcontext
    ) -> None:
        """Saves if a checkpoint is due, by steps or by time. Saves and raises Stopped if a signal came."""
        minutes = self.settings.checkpoint_minutes
        code, by_time = stop.poll(minutes > 0 and time.monotonic() - self.saved_at > 60 * minutes)
        if code or by_time or self.step % self.settings.checkpoint_every == 0:
            with paused():
                self.save(loader_state())
            code = code or stop.exit_code()  # a signal may have come during the save
        if code:
            self._stop(code)

    def finish(self, stop: StopSignals) -> None:
        """Waits until the last checkpoint is on disk. Raises Stopped if a signal came after the last step."""
        self.saver.wait()
        if code := stop.exit_code():
            self._stop(code)

    def _stop(self, exit_code: int) -> NoReturn:
        self.saver.wait()
        name = self.phase.name
        raise Stopped(exit_code, f"stopped in {name} after step {self.step:,}, saved; run again to resume")

    def resume(self) -> dict[str, Any] | None:
        """Loads the phase's last complete checkpoint. Returns the loader's state, None without a checkpoint."""
        if self.runtime.main:
            checkpoint.clean(self.phase)
        folder = self.runtime.on_main(saved.latest, self.phase)
        loader_state: dict[str, Any] | None = None
        if folder is not None:
            if self.model.lora is None:
                fsdp.load(self.model, folder)
            else:
                fsdp.put(self.model, lora.load_adapter(self.model, folder / lora.FOLDER))
            progress = checkpoint.resume(folder, self.optimizer, self.runtime)
            self.step, self.tokens, self.seconds = progress["step"], progress["tokens"], progress["seconds"]
            self.skipped, self.skipped_in_a_row = progress["skipped"], progress["skipped_in_a_row"]
            if self.settings.micro_batch is None:
                self.micro_tokens = progress["micro_tokens"]
            self.interpolated = progress["interpolated"]
            self.saved_step = self.step
            loader_state = progress["loader"]
            if self.runtime.main:
                say(f"{self.phase.name}: resuming from step {self.step:,}")
        elif self.runtime.main and saved.steps(self.phase):
            say(f"{self.phase.name}: no checkpoint is complete, starting over")
        lowered = self.phase / MICRO_TOKENS
        if self.runtime.on_main(lowered.is_file):
            self.micro_tokens = min(self.micro_tokens, int(self.runtime.on_main(lowered.read_text, "utf-8")))
        self.metrics = Metrics(self.phase / "metrics.jsonl", self.step, self.runtime)
        return loader_state

    def update(
        self, batch: Batch, scale: float, candidates: Candidates | None = None, ends_step: bool = True
    ) -> StepResult:
        """One update from this rank's rows. If memory runs out, it is repeated with half the micro-batch. ends_step:
        whether it is the step's last one.

        Raises UserError if a single row does not fit, or if one of several ranks runs out of memory."""
        T = batch.ids.shape[1]
        while True:
            rows = min(max(1, self.micro_tokens // T), max(1, len(batch)))
            before = self.optimizer.steps.clone()
            try:
                clip = self.settings.clip
                result = training_step(self.model, self.optimizer, batch, scale, clip, rows, self.runtime, candidates)
            except (RuntimeError, MemoryError) as error:
                if not hardware.exhausted(error):
                    raise
            else:
                self.step += ends_step
                return result
            # outside the except clause, where the error would keep the tensors alive
            self._take_fewer_rows(rows, T, in_the_update=bool(self.optimizer.steps != before))

    def _take_fewer_rows(self, rows: int, T: int, in_the_update: bool) -> None:
        self.optimizer.zero_grad()
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        name = self.phase.name
        problem = f"{name}, step {self.step + 1:,}: out of memory with {rows:,} x {T:,} tokens at a time"
        if rows == 1 or in_the_update:
            length = f"{name}.max_tokens" if hasattr(self.settings, "max_tokens") else f"{name}.sequence"
            raise UserError(problem, f"Lower {length} or model.depth, or free memory that other programs hold.")
        fewer = (rows + 1) // 2
        self.micro_tokens = fewer * T
        if self.runtime.size > 1:  # the other ranks wait in a collective that this one cannot join
            write_atomic(self.phase / MICRO_TOKENS, str(self.micro_tokens))
            raise UserError(
                problem, f"Run the same command again: it resumes from the last checkpoint with {fewer:,} rows."
            )
        say(f"{problem}; continuing with a micro-batch of {fewer:,} x {T:,}")

    def count(self, finite: bool) -> None:
        """Counts whether a step's update was skipped."""
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1

    def check(self, step: int, result: str, position: Callable[[], str]) -> None:
        """Warns if the update of the step just counted was skipped. result: its loss and gradient norm, as text.

        Raises UserError for the SKIPS_IN_A_ROW-th in a row, without saving: the last checkpoint is kept.
        """
        if not self.skipped_in_a_row:
            return
        what = f"{self.phase.name}, step {step:,}: {result}"
        if self.skipped_in_a_row >= SKIPS_IN_A_ROW:
            raise UserError(
                f"{what}: the {SKIPS_IN_A_ROW}th skipped update in a row; data read to {position()}",
                f"Look at the data there, or lower {self.phase.name}.muon_lr, and run again under another --name.",
            )
        if self.runtime.main:
            say(f"{what}: this update is skipped ({self.skipped:,} so far)")

    def save(self, loader_state: dict[str, Any], last: bool = False) -> None:
        """Saves this step unless it is saved. The write may be in progress when this returns: see Saver. last: whether
        the phase ends with it, where weights are interpolated and adapters merged into a model."""
        share = getattr(self.settings, "interpolate", 1.0)
        if last and share < 1 and self.start and not self.interpolated:
            fsdp.interpolate(self.model, self.start, share)
            self.interpolated, self.saved_step = True, -1
        if self.saved_step == self.step and not (last and self.model.lora):
            return
        self.metrics.sync()
        progress = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "micro_tokens": self.micro_tokens,
            "interpolated": self.interpolated,
            "loader": loader_state,
        }
        self.saver.save(self.phase, self.step, self.model, self.chat_format, self.optimizer, progress, last)
        self.saved_step, self.saved_at = self.step, time.monotonic()
