"""Downloads: each file once, complete and checked, into one cache that all runs share.

A file is written to NAME.part under a lock, verified, and renamed: a file with its final name is complete. A .part left
by a broken connection or a killed process is resumed. (huggingface_hub's own functions retry few failures, do not
verify digests, and do not support other URLs.)
"""

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from lanbot.core import http
from lanbot.core.console import Progress, size
from lanbot.core.errors import UserError
from lanbot.core.http import Note
from lanbot.core.options import Options

PARALLEL = 8
"""Concurrent downloads."""
WRONG_TRIES = 3
"""How often a file whose content differs from the listing is downloaded before that is an error."""


class Remote(NamedTuple):
    """A remote file, and its place in the cache."""

    name: str
    """Its name in messages."""
    url: str
    path: Path
    size: int | None = None
    digest: str = ""
    """sha256:HEX or git:HEX (git's blob id); empty if unknown."""

    def here(self) -> bool:
        return self.path.exists() and self.size in (None, self.path.stat().st_size)

    def part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")


class _Job:
    """A download in a background thread. Its error is raised by those who wait for it."""

    def __init__(self, remote: Remote, cache: Path) -> None:
        self.remote, self.cache, self.note = remote, cache, ""
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)  # a pool's would have to end before Python can
        self.thread.start()

    def _run(self) -> None:
        try:
            with _slots:
                fetch(self.remote, self.cache, partial(setattr, self, "note"))
        except Exception as error:
            self.error = error
        finally:
            with _lock:
                del _jobs[self.remote.path]

    def bytes_received(self) -> int:
        """By this process or another."""
        for path in (self.remote.path, self.remote.part()):
            with suppress(OSError):
                return path.stat().st_size
        return 0


_jobs: dict[Path, _Job] = {}
_lock = threading.Lock()
_slots = threading.BoundedSemaphore(PARALLEL)


def get(remotes: Sequence[Remote], options: Options) -> list[Path]:
    """Downloads what is missing, shows progress, and returns the files. Raises UserError if one fails."""
    missing = [remote for remote in remotes if not remote.here()]
    if missing and options.offline:
        also = f" (nor are {len(missing) - 1} more)" if len(missing) > 1 else ""
        refuse_offline(missing[0].name + also, options)
    if missing:
        _wait([_start(remote, options) for remote in missing])
    return [remote.path for remote in remotes]


def ahead(remotes: Sequence[Remote], options: Options) -> None:
    """Starts to download files in background threads. What fails is tried again by `get`."""
    for remote in remotes:
        if not remote.here() and not options.offline:
            _start(remote, options)


def refuse_offline(name: str, options: Options) -> None:
    raise UserError(
        f"{name}: not in the cache ({options.cache}), and this is offline mode",
        "Run it once with the network (unset LANBOT_OFFLINE and HF_HUB_OFFLINE), or name a --mirror.",
    )


def _start(remote: Remote, options: Options) -> _Job:
    """The download of a file that is in progress, or a new one."""
    with _lock:
        if remote.path not in _jobs:
            _jobs[remote.path] = _Job(remote, options.cache)
        return _jobs[remote.path]


def _wait(jobs: list[_Job]) -> None:
    """Waits until all are done or one has failed."""
    sizes = [job.remote.size for job in jobs]
    total = None if None in sizes else sum(filter(None, sizes))
    label = "downloading " + (jobs[0].remote.name if len(jobs) == 1 else f"{len(jobs)} files")
    with Progress(label, total, "bytes", first=sum(job.bytes_received() for job in jobs)) as progress:
        while (waiting := [job for job in jobs if job.thread.is_alive()]) and not any(job.error for job in jobs):
            waiting[0].thread.join(0.1)
            finished = f"{len(jobs) - len(waiting)} done" if len(jobs) > 1 else ""
            others = f"{len(_jobs) - len(waiting)} more ahead" if len(_jobs) > len(waiting) else ""
            note = next((job.note for job in waiting if job.note), "")
            progress.show(sum(job.bytes_received() for job in jobs), finished, others, note)
    for job in jobs:
        if job.error:
            raise job.error


def fetch(remote: Remote, cache: Path, note: Note) -> Path:
    """Downloads the file, unless another thread or process does so first. Raises UserError if it fails."""
    try:
        with locked(remote.part(), note) as part:
            if not remote.here():
                _download(remote, part, note)
                remote.part().replace(remote.path)
    except OSError as error:
        raise cache_error(remote.name, error, cache, remote.size) from None
    return remote.path


@contextmanager
def locked(path: Path, note: Note) -> Iterator[IO[bytes]]:
    """A file opened for appending, locked against other threads and processes; removed afterwards if it is empty.

    The holder may rename or remove it: the next process in line then creates a new one. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note("another process is downloading it")
                fcntl.flock(file, fcntl.LOCK_EX)
                note("")
            if not _is_at(file, path):
                continue
            try:
                yield file
            finally:
                file.flush()
                if not _length(file):
                    path.unlink(missing_ok=True)
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the path still names this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _download(remote: Remote, part: IO[bytes], note: Note) -> None:
    """Downloads what is missing in `part`, the file's .part, and checks the result."""
    etag, most = "", 0

    def pull() -> None:
        nonlocal etag, most
        here = _length(part)
        unknown = not remote.digest and not etag  # the part may be of another version of the file
        if unknown or here > (remote.size or here):
            part.truncate(here := 0)
        if here and here == remote.size:
            return
        _check_room(remote, here)
        headers = {"Range": f"bytes={here}-"} if here else {}
        if here and not remote.digest:
            headers["If-Range"] = etag
        try:
            with http.answer(remote.url, remote.name, headers) as response:
                if here and not response.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
                    part.truncate(here := 0)
                    if response.status_code != 200:
                        raise http.Again("the server does not resume")
                etag = response.headers.get("ETag", "")
                etag = "" if etag.startswith("W/") else etag  # a weak one does not identify bytes
                note("")
                for data in response.iter_bytes():
                    part.write(data)
                    part.flush()
                    here += len(data)
                    if here > (remote.size or here):
                        return  # too long: _wrong reports it
        except http.Again as again:
            again.moved = _length(part) > most
            most = max(most, _length(part))
            raise

    for _ in range(WRONG_TRIES):
        http.with_retries(remote.name, pull, note, http.TRIES)
        if not (wrong := _wrong(remote)):
            os.fsync(part.fileno())
            return
        part.truncate(0)
        most = 0
        note(f"wrong content ({wrong}), downloading again")
    raise UserError(
        f"{remote.name}: the content does not match the listing: {wrong} ({WRONG_TRIES} times)",
        "A proxy may be changing it, or the server is broken; try again later.",
    )


def _length(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _wrong(remote: Remote) -> str:
    """What is wrong with the .part of a file; "" if size and digest agree."""
    with remote.part().open("rb") as file:
        length = _length(file)
        if remote.size is not None and length != remote.size:
            return f"{length:,} bytes instead of {remote.size:,}"
        kind, _, digest = remote.digest.partition(":")
        start = hashlib.sha256() if kind != "git" else hashlib.sha1(b"blob %d\0" % length)  # as git names content
        found = hashlib.file_digest(file, lambda: start).hexdigest() if digest else ""
        return "" if found == digest else f"its {kind} digest is {found[:12]}..., not {digest[:12]}..."


def _check_room(remote: Remote, here: int) -> None:
    if remote.size is not None and shutil.disk_usage(remote.path.parent).free < remote.size - here:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cache_error(name: str, error: OSError, folder: Path, needed: int | None = None) -> UserError:
    """The error for a cache that cannot be written."""
    if error.errno != errno.ENOSPC:
        problem = f"{folder}: {name} cannot be written there ({error.strerror or error})"
        return UserError(problem, "Fix that, or set LANBOT_CACHE to a folder that can be written and locked.")
    free = size(shutil.disk_usage(folder).free)
    return UserError(
        f"{folder}: no room for {name}" + (f": it has {size(needed)}, {free} are free" if needed else ""),
        "Make room, or set LANBOT_CACHE to a folder on a larger disk, and run the same command again.",
    )
