"""The process that trains in a run's folder, seen without touching the lock that it holds."""

import os
from collections.abc import Mapping
from pathlib import Path

from lanbot.config.run import LOCK

LOCKS = Path("/proc/locks")


def holders() -> Mapping[int, int] | None:
    """Who holds a lock on which file of this machine: the process by the file's inode; None where Linux does not say
    it."""
    try:
        lines = [line.split() for line in LOCKS.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return None
    held = [words for words in lines if len(words) >= 6 and words[1] == "FLOCK"]
    return {int(words[5].rpartition(":")[2]): int(words[4]) for words in held}


def trainer(folder: Path, held: Mapping[int, int] | None) -> int | None:
    """The process that has a run's lock; None if there is none on this machine."""
    try:
        inode, text = (folder / LOCK).stat().st_ino, (folder / LOCK).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if held is not None:
        return held.get(inode)
    pid = int(text) if text.isdecimal() else 0
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return None
    return pid or None


def memory(pid: int) -> int | None:
    """Bytes of main memory that a process takes; None where Linux does not say it."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1_024
    except (OSError, ValueError, IndexError):
        pass
    return None
