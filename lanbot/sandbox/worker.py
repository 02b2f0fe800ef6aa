"""The host's side of one zygote: starts it, has it run programs, ends it.

A worker serves either single runs, each in its own process, or one session, whose process is kept and frozen between
its runs.
"""

import math
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from lanbot.sandbox import files, launch, zygote
from lanbot.sandbox.protocol import GRACE_SECONDS, MOST_OUTPUT, Control, Exchange, Job, Lost, Process, request

START_SECONDS = 30.0  # for Python to start
SESSION_CPU_SECONDS = 3_600  # total for a session's process, for each core
SIGKILLED = -9


@dataclass(frozen=True)
class Result:
    """The result of a run.

    exit: the exit code, or minus the number of the signal that ended it. ended: why the host ended it ("timeout",
    "output", "calls", "protocol", "lost"), or "". files: those that are new or changed. truncated: output or files
    went beyond their limits and are incomplete. level: of the sandbox, 1 to 4.
    """

    stdout: str
    stderr: str
    files: dict[str, bytes]
    exit: int
    timed_out: bool
    level: int
    truncated: bool = False
    ended: str = ""


class Worker:
    def __init__(self, level: int) -> None:
        """Raises Lost with the reason why the level is unavailable."""
        self.level = level
        self.folder = launch.WORK if level == launch.BOXED else own_folder(level)
        self.process: Process | None = None
        self.known: dict[str, bytes] = {}
        ours, theirs = socket.socketpair()
        self.control = Control(ours)
        try:
            self.zygote = spawn(launch.command(level, self.folder), theirs)
        except BaseException as error:
            self.control.socket.close()
            self.remove_folder()
            if isinstance(error, OSError):
                raise Lost(str(error)) from error
            raise
        finally:
            theirs.close()
        assert self.zygote.stderr
        self.pipe, self.stderr = self.zygote.stderr, b""
        try:
            self.abi, _ = self.control.receive(zygote.READY, START_SECONDS)
        except BaseException as error:
            self.close()
            if isinstance(error, Lost):
                raise Lost(self.last_line()) from None
            raise

    def run(self, job: Job, keep: bool = False) -> Result:
        """keep: the process is kept, with all its state, for the next run."""
        try:
            return self.try_run(job, keep)
        except (Lost, OSError):
            self.close()
            return Result("", "the sandbox's process was lost\n", {}, SIGKILLED, False, self.level, ended="lost")
        except BaseException:
            self.close()
            raise

    def try_run(self, job: Job, keep: bool) -> Result:
        if self.process is None:
            seconds = SESSION_CPU_SECONDS if keep else math.ceil(job.timeout) + 1
            self.process = Process(self.control, job.memory, seconds * (os.cpu_count() or 1))
        else:
            self.control.send(zygote.THAW)
        by_host = self.level == launch.LOCKED
        if by_host and job.files:
            files.write(self.folder, job.files)
        exchange = Exchange(self.control, self.process, job, keep)
        exchange.run(request(job, {} if by_host else job.files, keep))
        if exchange.exit is None:
            self.control.send(zygote.FREEZE)
        found, cut = self.left_files(exchange.dirty or keep)
        before = {**self.known, **job.files}
        changed = {name: data for name, data in found.items() if before.get(name) != data}
        if exchange.exit is None:
            self.known = {**before, **found}
        else:
            self.end_process()
        cut |= max(exchange.out.total, exchange.err.total) > MOST_OUTPUT
        code = SIGKILLED if exchange.ended else exchange.code if exchange.exit is None else exchange.exit
        out, err, timed_out = exchange.out.text(), exchange.err.text(), exchange.ended == "timeout"
        return Result(out, err, changed, code, timed_out, self.level, cut, exchange.ended)

    def left_files(self, some: bool) -> tuple[dict[str, bytes], bool]:
        """The files in the runs' folder, and whether some are missing. At level 2 a run cannot create any."""
        if self.level == launch.LOCKED or (self.level == launch.BOXED and not some):
            return {}, False
        if self.level > launch.LOCKED:
            found = list(files.gather(self.folder))
            return dict(one for one in found if one), None in found
        read_end, write_end = os.pipe()
        with open(read_end, "rb", buffering=0) as pipe:
            try:
                self.control.send(zygote.GATHER, descriptors=(write_end,))
            finally:
                os.close(write_end)
            data, most = bytearray(), files.MOST_BYTES + files.MOST_FILES * (files.HEAD.size + files.LONGEST_NAME) + 64
            poll, until = select.poll(), time.monotonic() + GRACE_SECONDS
            poll.register(read_end, select.POLLIN)
            while len(data) <= most and poll.poll(max(0.0, 1_000 * (until - time.monotonic()))):
                if not (piece := pipe.read(1 << 16)):
                    break
                data += piece
        self.control.receive(zygote.GATHERED)
        return files.parse(bytes(data))

    def end_process(self) -> None:
        """Cleans up after the forked process has ended."""
        if self.process:
            self.process.close()
            self.process = None
        self.known = {}
        if self.level == launch.BOXED:
            self.control.send(zygote.WIPE)
        else:
            for entry in os.scandir(self.folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)

    def alive(self) -> bool:
        return self.control.socket.fileno() >= 0 and self.zygote.poll() is None

    def last_line(self) -> str:
        """The last line that a zygote which did not start wrote to stderr."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "the sandbox's process did not start"

    def close(self) -> None:
        """Closes the socket, whereupon the zygote ends its children and itself; otherwise it is killed."""
        with suppress(OSError):  # already closed, or the zygote has ended
            self.control.socket.shutdown(socket.SHUT_RDWR)  # close() alone is not enough if this program forked
        self.control.socket.close()
        if self.process:
            self.process.close()
            self.process = None
        if not self.pipe.closed:
            try:
                self.zygote.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.zygote.kill()
                self.zygote.wait()
            os.set_blocking(self.pipe.fileno(), False)
            self.stderr = self.pipe.read() or b""
            self.pipe.close()
        self.remove_folder()

    def remove_folder(self) -> None:
        if self.level != launch.BOXED:
            shutil.rmtree(self.folder, ignore_errors=True)


def own_folder(level: int) -> str:
    folder = os.path.realpath(tempfile.mkdtemp(prefix="lanbot-sandbox-"))
    if level == launch.LOCKED and os.getuid() == 0:
        os.chown(folder, 0, launch.NOBODY)
        os.chmod(folder, 0o750)
    return folder


_spawner: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def spawn(command: list[str], control: socket.socket) -> subprocess.Popen[bytes]:
    """Starts a zygote from a thread that lives as long as this program: the kernel kills it when that thread ends."""
    global _spawner
    with _lock:
        if _spawner is None:
            _spawner = ThreadPoolExecutor(1, "sandbox")
    return _spawner.submit(start, command, control).result()


def start(command: list[str], control: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=control.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PYTHONHASHSEED": "0"},  # the same order of sets of strings in all runs
        cwd="/",
        start_new_session=True,  # Ctrl-C must not reach the sandbox
    )


def _forget() -> None:
    global _spawner, _lock
    _spawner, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
