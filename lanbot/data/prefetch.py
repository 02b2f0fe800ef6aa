"""Batches prepared ahead in a separate process.

The process gets a pickled function that makes the loader, and nothing else of the trainer's: no CUDA, no threads, no
`__main__`. It runs in its own session, so that Ctrl-C reaches the trainer alone, and ends when its pipe breaks, as it
does however the trainer ends.
"""

import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from queue import Queue
from typing import Any, NamedTuple

from lanbot.core.errors import UserError
from lanbot.data.loader import Loader
from lanbot.data.packing import Batch

AHEAD = 3
"""Batches queued in the trainer; about one more is in the pipe and one is being prepared."""


@contextmanager
def prefetched(make: Callable[[], Loader], ahead: bool) -> Iterator[Loader]:
    """The loader that `make` returns, in a separate process if `ahead`. make: picklable, not of `__main__`."""
    if not ahead:
        yield make()
        return
    with closing(PrefetchLoader(make)) as loader:
        yield loader


class Fetched(NamedTuple):
    """A batch, and the loader's state after it."""

    batch: Batch | None
    state: dict[str, Any]
    progress: float
    notes: dict[str, int]


class PrefetchLoader:
    """A loader whose batches come from another process; its state is that after the last batch returned.

    Exceptions there are raised here, by the call that needs the batch: a UserError unchanged, others with their
    traceback as a note. Raises UserError if the process dies.
    """

    def __init__(self, make: Callable[[], Loader]) -> None:
        self.make = pickle.dumps(make)
        self._start()

    def _start(self) -> None:
        serve = f"import sys; sys.path[:] = {sys.path!r}; from lanbot.data.prefetch import serve; serve()"
        command, pipe = [sys.executable, "-c", serve], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        self.now: Fetched | None = None
        self.over = False
        self.ready: Queue[Fetched | Exception | None] = Queue(AHEAD)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self._send(self.make)

    def load_state(self, state: dict[str, Any] | None) -> None:
        if self.now is not None:
            self.close()
            self._start()
        self._send(pickle.dumps(state))
        self.reader.start()
        self.now = self._take()

    def next_batch(self) -> Batch | None:
        self._position()
        if self.over:
            return None
        self.now = self._take()
        self.over = self.now.batch is None
        return self.now.batch

    def progress(self) -> float:
        return self._position().progress

    def state(self) -> dict[str, Any]:
        return self._position().state

    def notes(self) -> dict[str, int]:
        return self._position().notes

    def close(self) -> None:
        """Ends the process. Unused batches are prepared again after a resume."""
        self.process.kill()
        self.process.wait()
        while self.reader.is_alive():
            if self.ready.get() is None:
                self.reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # unsent data is left in it
                pipe.close()

    def _position(self) -> Fetched:
        if self.now is None:
            self.load_state(None)
        assert self.now is not None
        return self.now

    def _send(self, pickled: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; _take raises
            self.process.stdin.write(pickled)
            self.process.stdin.flush()

    def _read(self) -> None:
        """Runs in a thread, so that unpickling does not block the trainer."""
        assert self.process.stdout is not None
        try:
            while True:
                self.ready.put(pickle.load(self.process.stdout))
        except Exception:  # the end, or half a pickle of a killed process
            self.ready.put(None)

    def _take(self) -> Fetched:
        fetched = self.ready.get()
        if fetched is None:
            self.reader.join()
            raise UserError(
                f"the process that prepares batches has ended (exit code {self.process.wait()})",
                "Run the same command again to resume. It may have run out of memory.",
            )
        if isinstance(fetched, Exception):
            raise fetched
        return fetched


def serve() -> None:
    """The other process: reads `make` and a state from stdin, writes batches to stdout."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints go to stderr
    try:
        loader: Loader = _receive()()
        state = _receive()
        threading.Thread(target=_end_with_the_trainer, daemon=True).start()
        if state is not None:
            loader.load_state(state)
        _send(out, Fetched(None, loader.state(), loader.progress(), loader.notes()))
        while True:
            batch = loader.next_batch()
            _send(out, Fetched(batch, loader.state(), loader.progress(), loader.notes()))
            if batch is None:
                return
    except Exception as error:
        _send(out, _sendable(error))


def _receive() -> Any:
    try:
        return pickle.load(sys.stdin.buffer)
    except EOFError:  # the trainer has ended
        os._exit(0)


def _send(out: Any, what: Any) -> None:
    try:
        pickle.dump(what, out, protocol=pickle.HIGHEST_PROTOCOL)
        out.flush()
    except BrokenPipeError:
        os._exit(0)


def _end_with_the_trainer() -> None:
    os.read(0, 1)  # returns when the trainer's end of the pipe is closed
    os._exit(0)


def _sendable(error: Exception) -> Exception:
    """The error, picklable."""
    if isinstance(error, UserError):
        error.args = (error.problem, error.remedy)
        return error
    trace = traceback.format_exc()
    try:
        error.add_note(trace)
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(trace)
