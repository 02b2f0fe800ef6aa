"""Graceful stop: after the first Ctrl-C or SIGTERM the step ends and the state is saved; the second stops at once."""

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
        os.write(
            2, b"\nstopping: this step ends and is saved (again: stop at once)\n"
        )  # print may be in the middle of one

    def exit_code(self) -> int | None:
        """The same on all ranks: a signal to one stops all. Does not wait for the device."""
        asked = [self.signal == signal.SIGINT, self.signal == signal.SIGTERM]
        everywhere = torch.tensor(asked, dtype=torch.int32)
        self.runtime.sum_(everywhere)
        interrupted, terminated = everywhere.tolist()
        return 130 if interrupted else 143 if terminated else None
