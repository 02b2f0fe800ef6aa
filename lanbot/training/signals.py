"""Graceful stop: the first Ctrl-C or SIGTERM finishes the step and saves the state; the second stops at once."""

import os
import signal
import threading
from types import FrameType, TracebackType

import torch

from lanbot.distributed.runtime import Runtime


class StopSignals:
    """`with StopSignals(runtime) as stop`, then `stop.exit_code()` between steps: None, 130 (Ctrl-C), 143 (SIGTERM)."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.signal = runtime, 0

    def __enter__(self) -> "StopSignals":
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        message = b"\nstopping after this step, which is saved (a second signal stops at once)\n"
        os.write(2, message)  # a print may be in progress

    def exit_code(self) -> int | None:
        """The same on all ranks: a signal to one stops all. Does not wait for the device."""
        return self.poll(False)[0]

    def poll(self, flag: bool) -> tuple[int | None, bool]:
        """The exit code, and whether `flag` is set on any rank, in one collective."""
        flags = torch.tensor([self.signal == signal.SIGINT, self.signal == signal.SIGTERM, flag], dtype=torch.int32)
        self.runtime.sum_(flags)
        interrupted, terminated, flagged = flags.tolist()
        return 130 if interrupted else 143 if terminated else None, bool(flagged)
