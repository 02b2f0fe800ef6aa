"""metrics.jsonl, with one line per step, and the detection of loss spikes."""

import errno
import json
import math
import os
from collections import deque
from pathlib import Path
from typing import Any

from lanbot.config.run import read_metrics
from lanbot.core.files import unwritable
from lanbot.distributed.runtime import Runtime

SPIKE_WINDOW, SPIKE_DEVIATIONS = 100, 6
"""A loss this many standard deviations above the mean of the last SPIKE_WINDOW losses is a spike."""
SPIKE_LEAST = 20
"""Losses needed before one can be called a spike."""


class Metrics:
    """One JSON object per step and per evaluation, exactly once, even after a kill."""

    def __init__(self, path: Path, step: int, runtime: Runtime) -> None:
        """Continues a file whose run resumes after `step`: later lines are removed, those steps run again."""
        self.path, self.main = path, runtime.main
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        self.evaluated: set[int] = runtime.broadcast({line["step"] for line in kept if "val_bpb" in line})
        self.losses = deque((line["loss"] for line in kept if "loss" in line), SPIKE_WINDOW)
        if self.main:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_name(".metrics.jsonl.tmp")
                beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
                beside.replace(path)
                self.file = path.open("ab", buffering=0)  # unbuffered: a kill loses no line
            except OSError as error:
                raise unwritable(path, error) from None

    def write(self, **values: Any) -> None:
        """Appends a line, without values that are not finite: JSON has none. Raises UserError if the disk is full."""
        if not self.main:
            return
        kept = {k: _round(v) for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}
        line = (json.dumps(kept) + "\n").encode()
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise unwritable(self.path, error) from None

    def spike(self, loss: float) -> tuple[float, float] | None:
        """(mean, standard deviation) of the losses before this one if it is a spike.

        The losses are rounded as in the file, so that a resumed run finds the same spikes.
        """
        before, loss = self.losses, _round(loss)
        found = None
        if len(before) >= SPIKE_LEAST:
            mean = sum(before) / len(before)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in before) / len(before))
            found = (mean, deviation) if loss > mean + SPIKE_DEVIATIONS * deviation else None
        before.append(loss)
        return found

    def sync(self) -> None:
        """Flushes the file to disk, before a checkpoint is written."""
        if self.main:
            os.fsync(self.file)

    def close(self) -> None:
        if self.main:
            self.file.close()


def _round(value: Any) -> Any:
    """Floats to 7 digits: all that fp32 holds."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
