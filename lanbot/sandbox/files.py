"""Collects the files that a run wrote, without trusting its folder, and transfers them within limits."""

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate

MOST_FILES, MOST_BYTES = 64, 16 << 20  # limits of the files returned from one run, all together
LONGEST_NAME, LONGEST_PART = 1_000, 255  # bytes
HEAD = struct.Struct(">II")
"""Lengths of the name and of the file. An empty name ends the frames; its second number is 1 if files are missing."""

Found = tuple[str, bytes] | None


def gather(folder: str) -> Iterator[Found]:
    """Yields (name relative to the folder, content) of regular files, and None at the end if some were skipped.

    Does not follow links. Skips names that are not UTF-8, unreadable files, and those beyond the limits.
    """
    count, total, cut = 0, 0, False
    try:
        for path, folders, names, at in os.fwalk(folder, follow_symlinks=False):
            folders.sort()
            for name in sorted(names):
                if count == MOST_FILES:
                    yield None
                    return
                relative = os.path.relpath(os.path.join(path, name), folder)
                data = read(name, at, MOST_BYTES - total)
                if data is None or len(os.fsencode(relative)) > LONGEST_NAME or not encodes(relative):
                    cut = cut or not is_link(name, at)
                    continue
                count, total = count + 1, total + len(data)
                yield relative, data
    except (OSError, RecursionError):
        cut = True
    if cut:
        yield None


def read(name: str, at: int, most: int) -> bytes | None:
    """The content of a regular file in the folder `at`, if it has no more than `most` bytes."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError:
        return None
    with open(opened, "rb") as file:
        state = os.fstat(opened)
        if not stat.S_ISREG(state.st_mode) or state.st_size > most:
            return None
        data = file.read(most + 1)
        return data if len(data) <= most else None


def encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_link(name: str, at: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except OSError:
        return False


def send(folder: str, pipe: int) -> None:
    """Writes the folder's files to the pipe."""
    with open(pipe, "wb") as out:
        cut = 0
        for found in gather(folder):
            if found is None:
                cut = 1
            else:
                name = found[0].encode()
                out.write(HEAD.pack(len(name), len(found[1])) + name + found[1])
        out.write(HEAD.pack(0, cut))


def parse(data: bytes) -> tuple[dict[str, bytes], bool]:
    """({name: content}, whether files are missing) from what `send` wrote."""
    found: dict[str, bytes] = {}
    at = 0
    while len(data) >= at + HEAD.size:
        name, length = HEAD.unpack_from(data, at)
        at += HEAD.size
        if not name:
            return found, bool(length)
        if len(data) < at + name + length:
            break
        found[data[at : at + name].decode()] = data[at + name : at + name + length]
        at += name + length
    return found, True


def write(folder: str, files: dict[str, bytes]) -> None:
    """Writes files into a folder. Follows links: use it only in the sandbox itself, or where a run cannot create any.

    The files are readable by all users whatever the umask, as a run may have another uid; the folder restricts access.
    """
    for name, data in files.items():
        for parent in list(accumulate(name.split("/"), os.path.join))[:-1]:
            os.makedirs(os.path.join(folder, parent), exist_ok=True)
            os.chmod(os.path.join(folder, parent), 0o755)
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o644)


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError unless all names are relative paths inside one folder, and none is both file and folder."""
    folders = set()
    for name in names:
        parts = name.split("/")
        fit = encodes(name) and "\0" not in name and not any(part in ("", ".", "..") for part in parts)
        if not fit or len(name.encode()) > LONGEST_NAME or any(len(part.encode()) > LONGEST_PART for part in parts):
            raise ValueError(f"not a name of a file inside the sandbox's folder: {name!r}")
        folders |= {"/".join(parts[:count]) for count in range(1, len(parts))}
    if both := folders.intersection(names):
        raise ValueError(f"not a name of a file and of a folder: {both.pop()!r}")
