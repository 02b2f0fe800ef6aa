"""What a phase in training is, and how it survives: skipped updates, short memory, checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Training
from lanbot.core import hardware
from lanbot.core.console import say
from lanbot.core.errors import Stopped, UserError
from lanbot.core.files import write_atomic
from lanbot.data.packing import Batch
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.models import fp8, saved
from lanbot.models.loss import Candidates
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.training import checkpoint, memory
from lanbot.training.metrics import Metrics
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.step import StepResult, training_step

SKIPS_IN_A_ROW = 5
"""So many updates that had to be skipped, one after the other, are no accident: the run stops."""

MICRO_TOKENS = "micro_tokens"
"""The file in a phase's folder by which one rank that ran out of memory tells all ranks of the next start."""


class TrainState:
    """What a phase in training is: weights, optimiser, counters and metrics, on disk and back."""

    def __init__(
        self,
        model: Transformer,
        chat_format: ChatFormat,
        settings: Training,
        phase: Path,
        runtime: Runtime,
        sequence: int | None = None,
    ) -> None:
        """sequence: tokens of a row; the model's context if left out."""
        self.model, self.chat_format, self.settings, self.phase = model, chat_format, settings, phase
        self.sequence = sequence or model.config.context
        self.runtime = runtime
        rates = Rates(
            muon=settings.muon_lr or 0.0,
            embedding=settings.embedding_lr or 0.0,
            head=settings.head_lr or 0.0,
            norm=settings.norm_lr or 0.0,
            weight_decay=settings.weight_decay,
        )
        if settings.fp8:
            fp8.enable(model, self.runtime.device, f"{phase.name}.fp8")
        fsdp.shard_if_needed(model, runtime)
        self.optimizer = MuonAdamW(model, rates, runtime.dtype, runtime.mesh)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.skipped, self.skipped_in_a_row = 0, 0
        """Updates that were left out because loss or gradient was no number. They count as steps."""
        self.saver = checkpoint.Saver(self.runtime)
        self.saved_step = -1
        rows = settings.micro_batch or memory.micro_batch(model.config, self.sequence, runtime)
        self.micro_tokens = rows * self.sequence
        """Tokens of one forward pass. Kept with the checkpoint: it decides in what order gradients are added up."""

    def resume(self) -> dict[str, Any] | None:
        """Takes up the phase's last whole checkpoint; returns its loader's state, None where there is none."""
        if self.runtime.main:
            checkpoint.clean(self.phase)
        folder = self.runtime.on_main(saved.latest, self.phase)
        loader_state: dict[str, Any] | None = None
        if folder is not None:
            fsdp.load(self.model, load_model(folder, self.runtime.dtype, self.runtime.device))
            progress = checkpoint.resume(folder, self.optimizer, self.runtime)
            self.step, self.tokens, self.seconds = progress["step"], progress["tokens"], progress["seconds"]
            self.skipped, self.skipped_in_a_row = progress["skipped"], progress["skipped_in_a_row"]
            if self.settings.micro_batch is None:
                self.micro_tokens = progress["micro_tokens"]
            self.saved_step = self.step
            loader_state = progress["loader"]
            if self.runtime.main:
                say(f"{self.phase.name}: going on from step {self.step:,}")
        elif self.runtime.main and saved.steps(self.phase):
            say(f"{self.phase.name}: no checkpoint is whole, beginning anew")
        lowered = self.phase / MICRO_TOKENS
        if (
            most := self.runtime.broadcast(
                int(lowered.read_text()) if self.runtime.main and lowered.is_file() else None
            )
        ) is not None:
            self.micro_tokens = min(self.micro_tokens, most)
        self.metrics = Metrics(self.phase / "metrics.jsonl", self.step, self.runtime)
        return loader_state

    def update(self, batch: Batch, scale: float, candidates: Candidates | None = None) -> StepResult:
        """One training step on this rank's rows; with half as many at a time, the same sums, where memory is short.

        Raises UserError if it does not hold a single row, or if one of several ranks runs out of it.
        """
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
                self.step += 1
                return result
            # out of the except clause, or the error would hold the tensors that are in the way
            self._take_fewer_rows(rows, T, in_the_update=bool(self.optimizer.steps != before))

    def _take_fewer_rows(self, rows: int, T: int, in_the_update: bool) -> None:
        self.optimizer.zero_grad()
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        problem = f"{self.phase.name}, step {self.step + 1:,}: out of memory with {rows:,} x {T:,} tokens at a time"
        if rows == 1 or in_the_update:
            length = "rl.max_tokens" if self.phase.name == "rl" else f"{self.phase.name}.sequence"
            raise UserError(problem, f"Lower {length} or model.depth, or free memory that other programs hold.")
        fewer = (rows + 1) // 2
        self.micro_tokens = fewer * T
        if self.runtime.size > 1:  # the others are on their way into a sum that this rank cannot join
            write_atomic(self.phase / MICRO_TOKENS, str(self.micro_tokens))
            raise UserError(problem, f"Run the same command again: it goes on from the last save with {fewer:,} rows.")
        say(f"{problem}; from here on {fewer:,} x {T:,} (the same sums, in smaller parts)")

    def count(self, finite: bool) -> None:
        """Of a step whether its update took place."""
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1

    def check(self, step: int, result: str, position: Callable[[], str]) -> None:
        """Tells of a step just counted whose update was skipped. result: its loss and norm, in words.

        Raises UserError at the SKIPS_IN_A_ROW-th one after the other. Nothing is saved then: the last checkpoint
        stands, and weights and optimiser are as before the first of them.
        """
        if not self.skipped_in_a_row:
            return
        what = f"{self.phase.name}, step {step:,}: {result}"
        if self.skipped_in_a_row >= SKIPS_IN_A_ROW:
            raise UserError(
                f"{what}: the {SKIPS_IN_A_ROW}th update in a row that had to be skipped; data read to {position()}",
                f"Look at the data there, or lower {self.phase.name}.muon_lr, and run again under another --name.",
            )
        if self.runtime.main:
            say(f"{what}: this update is skipped ({self.skipped:,} so far)")

    def save(self, loader_state: dict[str, Any]) -> None:
        """A checkpoint of this step, unless it has one. It may still be written when this returns: see Saver."""
        if self.saved_step == self.step:
            return
        self.metrics.sync()
        progress = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "micro_tokens": self.micro_tokens,
            "loader": loader_state,
        }
        self.saver.save(self.phase, self.step, self.model, self.chat_format, self.optimizer, progress)
        self.saved_step = self.step

    def save_and_stop(self, loader_state: dict[str, Any], exit_code: int) -> None:
        self.save(loader_state)
        self.saver.wait()
        raise Stopped(exit_code, f"stopped in {self.phase.name} after step {self.step:,}, saved; run again to go on")
