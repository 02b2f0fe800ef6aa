"""Writing files so that each is whole or as it was before."""

import errno
from pathlib import Path

from lanbot.core.errors import UserError


def write_atomic(path: Path, text: str) -> None:
    """Writes beside, then renames: the file is whole or as before. Raises UserError if it cannot be written."""
    try:
        beside(path).write_text(text)
        beside(path).replace(path)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> UserError:
    """A full disk, a read-only folder and their like, for the reader."""
    full = error.errno == errno.ENOSPC
    cause = "the disk is full" if full else error.strerror or str(error)
    remedy = "Free some space (lanbot runs)" if full else "Mend that"
    return UserError(f"{path}: cannot be written, {cause}", f"{remedy} and run the same command again.")


def beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
