"""The host's side of one zygote: starts it, has it run programs, ends it.

A worker does one thing at a time: runs, each in a process of its own, or one session, whose process stays and is
frozen between its runs.
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
from lanbot.sandbox.protocol import GRACE_SECONDS, MOST_OUTPUT, Control, Job, Lost, Process, Talk, request

START_SECONDS = 30.0
"""For Python to be up."""
SESSION_CPU_SECONDS = 3_600
"""Of a session's process in all, for each core."""
SIGKILLED = -9


@dataclass(frozen=True)
class Result:
    """What became of a run.

    exit: the exit code, or minus the number of the signal that ended it. ended: why the host ended it ("timeout",
    "output", "calls", "protocol", "lost"), or "". files: those that are new or changed. truncated: output or files
    went beyond their limits, and what is here is not all. level: of the sandbox, 1 to 4.
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
        """Raises Lost, in whose words is why the level cannot be had."""
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
        self.pipe, self.said = self.zygote.stderr, b""
        try:
            self.abi, _ = self.control.hear(zygote.READY, START_SECONDS)
        except BaseException as error:
            self.close()
            if isinstance(error, Lost):
                raise Lost(self.last_words()) from None
            raise

    def run(self, job: Job, keep: bool = False) -> Result:
        """keep: the process stays, with all its state, for the next run."""
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
            self.control.tell(zygote.THAW)
        by_host = self.level == launch.LOCKED
        if by_host and job.files:
            files.write(self.folder, job.files)
        talk = Talk(self.control, self.process, job, keep)
        talk.go(request(job, {} if by_host else job.files, keep))
        if talk.exit is None:
            self.control.tell(zygote.FREEZE)
        found, cut = self.left_files(talk.dirty or keep)
        before = {**self.known, **job.files}
        changed = {name: data for name, data in found.items() if before.get(name) != data}
        if talk.exit is None:
            self.known = {**before, **found}
        else:
            self.end_process()
        cut |= max(talk.out.total, talk.err.total) > MOST_OUTPUT
        code_or_signal = SIGKILLED if talk.ended else talk.code if talk.exit is None else talk.exit
        return Result(
            *(talk.out.text(), talk.err.text(), changed, code_or_signal, talk.ended == "timeout"),
            *(self.level, cut, talk.ended),
        )

    def left_files(self, some: bool) -> tuple[dict[str, bytes], bool]:
        """What lies in the runs' folder, and whether it is not all. At level 2 nothing can have come there."""
        if self.level == launch.LOCKED or (self.level == launch.BOXED and not some):
            return {}, False
        if self.level > launch.LOCKED:
            found = list(files.gather(self.folder))
            return dict(one for one in found if one), None in found
        read_end, write_end = os.pipe()
        with open(read_end, "rb", buffering=0) as pipe:
            try:
                self.control.tell(zygote.GATHER, descriptors=(write_end,))
            finally:
                os.close(write_end)
            data, most = bytearray(), files.MOST_BYTES + files.MOST_FILES * (files.HEAD.size + files.LONGEST_NAME) + 64
            poll, until = select.poll(), time.monotonic() + GRACE_SECONDS
            poll.register(read_end, select.POLLIN)
            while len(data) <= most and poll.poll(max(0.0, 1_000 * (until - time.monotonic()))):
                if not (piece := pipe.read(1 << 16)):
                    break
                data += piece
        self.control.hear(zygote.GATHERED)
        return files.parse(bytes(data))

    def end_process(self) -> None:
        """After the forked process has ended: nothing of it stays."""
        if self.process:
            self.process.close()
            self.process = None
        self.known = {}
        if self.level == launch.BOXED:
            self.control.tell(zygote.WIPE)
        else:
            for entry in os.scandir(self.folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)

    def alive(self) -> bool:
        return self.control.socket.fileno() >= 0 and self.zygote.poll() is None

    def last_words(self) -> str:
        """The last line of what a zygote that did not start said."""
        said = self.said.decode(errors="replace").strip().splitlines()
        return said[-1] if said else "the sandbox's process did not start"

    def close(self) -> None:
        """The zygote hears the end of its socket, ends what it forked, and itself; if not, it is killed."""
        with suppress(OSError):  # closed before, or the zygote has gone; to close is not enough if this program forked
            self.control.socket.shutdown(socket.SHUT_RDWR)
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
            self.said = self.pipe.read() or b""
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
    """Starts a zygote from a thread that lives as long as this program.

    The kernel kills it when the thread that started it ends, not the process.
    """
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
        env={"PYTHONHASHSEED": "0"},  # sets of strings have the same order in all runs
        cwd="/",
        start_new_session=True,  # Ctrl-C is for the program, not for its sandbox
    )


def _forget() -> None:
    global _spawner, _lock
    _spawner, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
