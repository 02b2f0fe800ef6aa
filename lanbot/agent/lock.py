"""A lock between processes: a file, locked by the kernel, which frees it however the process ends."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Lock:
    """Holds the lock of a path until `release`. Raises BlockingIOError if a process, this one too, holds it.

    The file is there only while the lock is held or after a crash, and says which process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(self.file), path.stat()):
                    break  # else its holder has removed it since it was opened
            except BaseException:
                os.close(self.file)
                raise
            os.close(self.file)
        os.ftruncate(self.file, 0)
        os.write(self.file, str(os.getpid()).encode())

    @property
    def held(self) -> bool:
        return self.file >= 0

    def release(self) -> None:
        """Again does nothing."""
        if self.held:
            self.path.unlink(missing_ok=True)
            os.close(self.file)
            self.file = -1


def holder(path: Path) -> int | None:
    """The process that holds the lock of a path, as far as the file says; None if that has ended."""
    with suppress(OSError, ValueError):
        process = int(path.read_text(encoding="ascii"))
        with suppress(PermissionError):  # it is somebody else's
            os.kill(process, 0)
        return process
    return None
