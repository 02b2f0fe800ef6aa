"""Runs code that a model wrote, at the best level that holds on this machine: `run` once, a `Sandbox` many times."""

import atexit
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from lanbot.core.errors import UserError
from lanbot.sandbox import canary, files, launch
from lanbot.sandbox.canary import Verdict
from lanbot.sandbox.protocol import Functions, Job, Lost
from lanbot.sandbox.worker import Result, Worker
from lanbot.sandbox.zygote import FOLDER_BYTES

MOST_SESSIONS = 32  # beyond these, the least recently used one is closed
MOST_SECONDS = 86_400
REMEDY = (
    "Install bubblewrap, or use Linux 5.13 or newer (docs/sandbox.md). "
    "--unsafe-exec (or LANBOT_UNSAFE_EXEC=1) runs the code without protection."
)


def survey(unsafe: bool = False) -> list[Verdict]:
    """Checks the levels, best first, up to the first that holds. unsafe: allows level 4."""
    levels = [launch.SEATBELT] if sys.platform == "darwin" else [launch.BOXED, launch.LOCKED]
    if unsafe:
        levels.append(launch.OPEN)
    verdicts = []
    for level in levels:
        verdicts.append(canary.check(level))
        if verdicts[-1].holds:
            break
    return verdicts


def choose(unsafe: bool = False) -> Verdict:
    """The best level that holds on this machine. Raises UserError if none does."""
    verdicts = survey(unsafe)
    if verdicts[-1].holds:
        return verdicts[-1]
    raise UserError(f"no sandbox holds on this machine: {'; '.join(map(str, verdicts))}", REMEDY)


def doctor(unsafe: bool = False) -> str:
    """Lines for `lanbot doctor`: the level in use, and why no better one is."""
    verdicts = survey(unsafe)
    best = verdicts.pop() if verdicts[-1].holds else None
    first = f"sandbox: {best}" if best else "sandbox: none; code that a model wrote is not run"
    return "\n".join([first, *(f"  not {verdict}" for verdict in verdicts)])


class Session:
    """A worker that is kept between runs."""

    def __init__(self) -> None:
        self.turn = threading.Lock()  # serialises its runs
        self.worker: Worker | None = None

    def end(self) -> None:
        if self.worker:
            self.worker.close()
        self.worker = None


class Sandbox:
    """A pool of workers. `run` is thread-safe; each run has its own worker."""

    def __init__(self, workers: int = 1, level: int | None = None, unsafe: bool = False) -> None:
        """level: only this one; by default the best that holds. Raises UserError if none holds."""
        if level == launch.OPEN and not unsafe:
            raise UserError(f"level {level} protects nothing", REMEDY)
        verdict = canary.check(level) if level else choose(unsafe)
        if not verdict.holds:
            raise UserError(f"the sandbox does not hold: {verdict}", REMEDY)
        self.level, self.why = verdict.level, str(verdict)
        self.workers, self.closed = workers, False
        self.reset()
        _sandboxes.add(self)

    def run(
        self,
        code: str,
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        functions: Functions | None = None,
        session: str | None = None,
        timeout: float = 10.0,
        memory: int = 512,
    ) -> Result:
        """Runs a program and returns its result.

        files: {name: content} in its folder. functions: what it may call by name; arguments and value are plain data
        (JSON), an exception becomes a RuntimeError with its message. session: the name of a namespace that is kept
        for the next run of that name; `close_session` ends it, and so does a run that does not end by itself.
        timeout: seconds of wall-clock time, not counting those within `functions`; a day at most. memory: MiB of
        address space; a session has that of its first run. Raises ValueError for invalid names and numbers, and
        for more than 64 MiB of files or of stdin.
        """
        given = {name: as_bytes(data) for name, data in (files or {}).items()}
        job = Job(code, as_bytes(stdin), given, functions or {}, timeout, memory << 20)
        check(job)
        if session is not None:
            return self.run_in_session(session, job)
        with self.slots:
            worker = self.take()
            try:
                return worker.run(job)
            finally:
                self.give_back(worker)

    def map(self, programs: Iterable[str], **settings: Any) -> Iterator[Result]:
        """The results of many programs in their order, `workers` at a time; settings as of `run`."""
        threads = ThreadPoolExecutor(self.workers)
        waiting: list[Future[Result]] = []
        try:
            for program in programs:
                waiting.append(threads.submit(self.run, program, **settings))
                if len(waiting) > 4 * self.workers:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        finally:  # if the caller stops early, only programs that have started are awaited
            threads.shutdown(cancel_futures=True)

    def run_in_session(self, name: str, job: Job) -> Result:
        while True:
            self.make_room(name)
            with self.lock:
                session = self.sessions.setdefault(name, Session())
                self.sessions.move_to_end(name)
            with session.turn:
                if self.sessions.get(name) is not session:  # it was closed while this run waited
                    continue
                if session.worker is None or not session.worker.alive():
                    session.end()
                    session.worker = self.start()
                try:
                    return session.worker.run(job, keep=True)
                finally:
                    if session.worker.process is None:
                        session.end()

    def make_room(self, name: str) -> None:
        """For a session that may be new. Those in which something runs stay: they may be waiting for this one."""
        with self.lock:
            surplus = 0 if name in self.sessions else len(self.sessions) + 1 - MOST_SESSIONS
            quiet = [other for other, session in self.sessions.items() if not session.turn.locked()]
        for other in quiet[: max(0, surplus)]:
            self.close_session(other)

    def close_session(self, name: str) -> None:
        with self.lock:
            session = self.sessions.pop(name, None)
        if session:
            with session.turn:
                session.end()

    def take(self) -> Worker:
        with self.lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.alive():
                    return worker
                worker.close()
        return self.start()

    def start(self) -> Worker:
        if self.closed:
            raise RuntimeError("the sandbox is closed")
        try:
            return Worker(self.level)
        except Lost as error:
            raise UserError(f"the sandbox could not be started (level {self.level}): {error}", REMEDY) from error

    def give_back(self, worker: Worker) -> None:
        with self.lock:
            if not self.closed and worker.alive():
                self.idle.append(worker)
                return
        worker.close()

    def reset(self) -> None:
        """Starts without workers; also after a fork, as the workers and the lock belong to the parent."""
        self.idle: list[Worker] = []
        self.slots = threading.Semaphore(self.workers)
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.lock = threading.Lock()

    def close(self) -> None:
        """Closes all workers and sessions; running programs finish."""
        with self.lock:
            self.closed = True
            workers, self.idle = self.idle, []
            sessions = list(self.sessions)
        for worker in workers:
            worker.close()
        for session in sessions:
            self.close_session(session)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def as_bytes(data: str | bytes) -> bytes:
    return data.encode(errors="replace") if isinstance(data, str) else bytes(memoryview(data))  # rejects numbers


def check(job: Job) -> None:
    """Raises ValueError or TypeError for invalid arguments."""
    if not isinstance(job.code, str):
        raise TypeError(f"the code must be a str, not {type(job.code).__name__}")
    if not 0 < job.timeout <= MOST_SECONDS:
        raise ValueError(f"timeout: {job.timeout} is not between 0 and {MOST_SECONDS} seconds")
    if not 0 < job.memory < 1 << 62:
        raise ValueError(f"memory: {job.memory >> 20} MiB is out of range")
    if max(len(job.stdin), sum(map(len, job.files.values()))) > FOLDER_BYTES:
        raise ValueError(f"more than {FOLDER_BYTES >> 20} MiB of files, or of stdin")
    files.check_names(job.files)
    for name in job.functions:
        if not name.isidentifier():
            raise ValueError(f"not a name of a function: {name!r}")


_sandboxes: "weakref.WeakSet[Sandbox]" = weakref.WeakSet()
_shared: Sandbox | None = None
_lock = threading.Lock()


def shared() -> Sandbox:
    """The sandbox of this process: a worker for each core."""
    global _shared
    with _lock:
        if _shared is None or _shared.closed:
            _shared = Sandbox(os.cpu_count() or 1)
            atexit.register(_shared.close)
        return _shared


def run(code: str, **settings: Any) -> Result:
    """`Sandbox.run` in this process's shared sandbox."""
    return shared().run(code, **settings)


def _forget() -> None:
    global _shared, _lock
    _shared, _lock = None, threading.Lock()
    for sandbox in _sandboxes:
        sandbox.reset()


os.register_at_fork(after_in_child=_forget)
