"""Calls of tools that are waited for only so long: a tool that hangs is left behind in its thread."""

from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from typing import Any

from lanbot.core.errors import Stopped


class Interrupted(BaseException):
    """Nobody waits for the call any longer; it may go on. No Exception, so that nothing turns it into a result."""


class LateError(Exception):
    """A call took longer than it may."""


class Waiting:
    """Runs functions in threads of their own and waits for each at most `seconds`; None: as long as it takes."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._lock = RLock()  # a signal handler may interrupt
        self._waits: set[SimpleQueue[tuple[Any, BaseException | None]]] = set()
        self._interrupted = False

    def run(self, function: Callable[[], Any]) -> Any:
        """What the function returns. Raises what it raises, LateError, or Interrupted after `interrupt`.

        An exception that would end the program, such as SystemExit, is raised as a RuntimeError.
        """
        done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def work() -> None:
            try:
                done.put((function(), None))
            except BaseException as error:
                done.put((None, error))

        with self._lock:
            if self._interrupted:
                raise Interrupted
            self._waits.add(done)
        try:
            Thread(target=copy_context().run, args=(work,), daemon=True).start()
            value, error = done.get(timeout=self.seconds)
        except Empty:
            raise LateError(f"no result after {self.seconds:g} s; it may still be running") from None
        finally:
            with self._lock:
                self._waits.discard(done)
        if error is None:
            return value
        if isinstance(error, Exception | Stopped | Interrupted | KeyboardInterrupt):
            raise error
        raise RuntimeError(f"it ended with {type(error).__name__}") from error

    def interrupt(self) -> None:
        """Ends all waits, from any thread; from now on no function is run."""
        with self._lock:
            self._interrupted = True
            for done in self._waits:
                done.put((None, Interrupted()))
