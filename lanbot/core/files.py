"""Writing files so that each is complete or unchanged."""

import errno
import stat
from pathlib import Path

from lanbot.core.errors import UserError


def write_atomic(path: Path, text: str) -> None:
    """Writes a temporary file and renames it: the file is complete or unchanged. Raises UserError if it cannot.

    A link is followed and a file's mode kept; what is not a regular file (a device, a pipe) is written to.
    """
    try:
        mode = path.stat().st_mode if path.exists() else None
        if (mode and not stat.S_ISREG(mode)) or path.absolute().parts[1:2] in (("dev",), ("proc",)):
            with path.open("ab") as file:
                file.write(text.encode())
            return
        target = path.resolve() if path.is_symlink() else path
        temporary = beside(target)
        temporary.unlink(missing_ok=True)
        temporary.touch(0o600 if mode else 0o666, exist_ok=False)  # not through a link that somebody put there
        temporary.write_text(text, encoding="utf-8")
        if mode:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(target)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> UserError:
    """The error for a full disk, a read-only folder and the like."""
    full = error.errno == errno.ENOSPC
    cause = "the disk is full" if full else error.strerror or str(error)
    remedy = "Free some space (lanbot runs)" if full else "Fix that"
    return UserError(f"{path}: cannot be written, {cause}", f"{remedy} and run the same command again.")


def beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
