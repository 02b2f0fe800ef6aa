"""The processes of a training on Linux: finding, ending with their parent, killing."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()]
    return []


def die_with_parent() -> None:
    """In a child: SIGTERM when this process is killed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def kill_all(leader: int) -> None:
    """Kills a process group, what it started, and their groups: torchrun gives each worker a session of its own."""
    found = [leader]
    for pid in found:
        found += children(pid)
    for pid in found:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
