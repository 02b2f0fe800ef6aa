"""The process from which runs are forked: Python and the sandbox are set up once, so that a run costs only a fork.

The host controls it over a socket on descriptor 0, by records of fixed size with file descriptors attached. Output,
calls and files of a run do not pass through it: they go from the forked process to the host.
"""

import builtins
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
from _sitebuiltins import Quitter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from lanbot.sandbox import child, files, kernel, landlock, seccomp

RECORD = struct.Struct(">cqQ")
"""START memory seconds, KILL, FREEZE, THAW, GATHER, WIPE; in reply READY abi, EXIT code dirty, GATHERED."""
START, KILL, FREEZE, THAW, GATHER, WIPE = b"S", b"K", b"F", b"T", b"G", b"W"
READY, EXIT, GATHERED = b"r", b"x", b"g"

FOLDER_BYTES, FOLDER_FILES = 64 << 20, 4_096  # the capacity of the runs' folder in memory, at level 1
MOST_OPEN = 64
ABOVE = 10  # the control socket's descriptor lies above those of a run
COMMON = """
abc ast base64 bisect calendar cmath collections contextlib copy csv ctypes dataclasses datetime decimal enum
fractions functools hashlib heapq inspect io itertools json math numbers operator queue random re statistics string
struct textwrap threading time timeit traceback typing unicodedata
"""
"""Modules that are loaded in advance."""


class Zygote:
    def __init__(self, config: dict[str, Any]) -> None:
        """config: level, folder (the runs'), read (paths), drop (a uid, or None), search, tasks (RLIMIT_NPROC)."""
        self.config = config
        self.level: int = config["level"]
        self.folder: str = config["folder"]
        self.control = take_control()
        self.child = self.gatherer = 0
        self.alone = False
        self.rules = -1
        self.filter = seccomp.Filter(writes=self.level == 1) if self.level <= 2 else None
        self.enter()

    def enter(self) -> None:
        """Makes the folder in memory, and the rules for it."""
        if self.level == 1:
            owner = os.getuid() if self.config["drop"] is None else self.config["drop"]
            limits = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES},mode=0700,uid={owner}"
            kernel.mount_tmpfs(self.folder, limits)
            self.fresh = state(self.folder)
        os.chdir(self.folder)
        if self.level <= 2:
            self.rules = self.make_rules()

    def make_rules(self) -> int:
        own = landlock.WRITE if self.level == 1 else landlock.READ
        null = landlock.READ_FILE | landlock.WRITE_FILE
        rights = dict.fromkeys(self.config["read"], landlock.READ)
        return landlock.ruleset({**rights, "/dev/null": null, "/dev/urandom": landlock.READ, self.folder: own})

    def wipe(self) -> None:
        """Replaces the folder in memory if it was changed at all: by its mode or timestamps too, it could pass data."""
        if self.level == 1 and (os.listdir(self.folder) or state(self.folder) != self.fresh):
            os.chdir("/")
            kernel.unmount(self.folder)
            os.close(self.rules)
            self.enter()

    def serve(self) -> None:
        """Serves until the host closes its end or dies."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self.orphaned)
        if sys.platform == "linux":
            kernel.prctl(kernel.SET_DEATH_SIGNAL, signal.SIGTERM)
        self.send(READY, landlock.abi() if self.level <= 2 else 0)
        while not self.alone:
            ready, _, _ = select.select([self.control.fileno(), read_end], [], [])
            if read_end in ready:
                os.read(read_end, 4_096)
                self.reap()
            if self.control.fileno() in ready and not self.handle_record():
                return

    def orphaned(self, *_: object) -> None:
        """Lets the loop end, rather than interrupting it."""
        self.alone = True

    def send(self, kind: bytes, number: int = 0, more: int = 0) -> None:
        self.control.sendall(RECORD.pack(kind, number, more))

    def reap(self) -> None:
        while self.child or self.gatherer:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid == self.child:
                self.child = 0
                if self.level >= 3:  # what is left of the process group: here the code may fork
                    with suppress(OSError):
                        os.killpg(pid, signal.SIGKILL)
                dirty = self.level == 1 and bool(os.listdir(self.folder))
                self.send(EXIT, os.waitstatus_to_exitcode(status), dirty)
            elif pid == self.gatherer:
                self.gatherer = 0
                self.send(GATHERED)

    def handle_record(self) -> bool:
        """Handles one record; returns False at the end."""
        record, descriptors = receive_record(self.control)
        if not record:
            return False
        kind, number, more = RECORD.unpack(record)
        if kind == START:
            self.child = self.fork(lambda: self.execute(descriptors, number, more))
        elif kind == GATHER:
            self.gatherer = self.fork(lambda: self.gather(descriptors[0]))
        elif kind == WIPE:
            self.wipe()
        elif self.child:  # it may have ended meanwhile
            sent = {KILL: signal.SIGKILL, FREEZE: signal.SIGSTOP, THAW: signal.SIGCONT}[kind]
            with suppress(ProcessLookupError):
                os.kill(self.child, sent)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def fork(self, life: Callable[[], None]) -> int:
        zygote = os.getpid()
        if pid := os.fork():
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)
            if sys.platform == "linux":
                kernel.prctl(kernel.SET_DEATH_SIGNAL, signal.SIGKILL)
                if os.getppid() != zygote:
                    os._exit(70)
            life()
        except BaseException as error:
            os.write(2, f"the run's process failed: {error!r}\n".encode())
        finally:
            os._exit(70)

    def execute(self, descriptors: list[int], memory: int, seconds: int) -> None:
        """Runs the child with channel, stdout, stderr as descriptors 3, 1, 2 and a file in memory as 0."""
        stdin = os.memfd_create("stdin") if sys.platform == "linux" else plain_file()
        for descriptor, number in zip([stdin, *descriptors], [0, child.CHANNEL, 1, 2], strict=True):
            os.dup2(descriptor, number)  # 0 to 3 are taken, so these lie above
        self.restrict(memory, seconds)
        os.closerange(4, 1_024)
        for number, name in ((1, "stdout"), (2, "stderr")):
            stream = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        child.serve()

    def gather(self, pipe: int) -> None:
        """Sends the folder's files, under the same restrictions, as its content is not trusted."""
        self.restrict(256 << 20, 10)
        files.send(".", pipe)
        os._exit(0)

    def restrict(self, memory: int, seconds: int) -> None:
        """Irrevocably restricts uid, capabilities, limits, files and system calls."""
        limits = {
            resource.RLIMIT_AS: memory,
            resource.RLIMIT_CPU: seconds,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: FOLDER_BYTES,
            resource.RLIMIT_NOFILE: MOST_OPEN,
            resource.RLIMIT_NPROC: self.config["tasks"],
        }
        if self.level <= 2:
            kernel.prctl(kernel.SET_KEEPCAPS, int(self.config["search"]))
            if (uid := self.config["drop"]) is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            kernel.keep_capabilities(kernel.READ_SEARCH if self.config["search"] else 0)
            kernel.prctl(kernel.SET_DEATH_SIGNAL, signal.SIGKILL)  # reset by the change of the uid
            kernel.prctl(kernel.SET_DUMPABLE, 0)
        for limit, most in limits.items():
            hard = resource.getrlimit(limit)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with suppress(*((ValueError, OSError) if self.level > 2 else ())):  # macOS does not limit the address space
                resource.setrlimit(limit, (most, most))
        if self.filter:
            kernel.prctl(kernel.SET_NO_NEW_PRIVILEGES, 1)
            landlock.restrict(self.rules)
            self.filter.load(os.getpid())


def receive_record(control: socket.socket) -> tuple[bytes, list[int]]:
    """Returns a record and its descriptors; an empty record at the end."""
    try:
        record, descriptors, _, _ = socket.recv_fds(control, RECORD.size, 3, socket.MSG_WAITALL)
    except ConnectionError:
        return b"", []
    return record if len(record) == RECORD.size else b"", descriptors


def take_control() -> socket.socket:
    """Moves the socket on descriptor 0; the null device then occupies 0 and the channel's descriptor."""
    control = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, ABOVE))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, child.CHANNEL):
        os.dup2(null, descriptor)
    if null != child.CHANNEL:
        os.close(null)
    return control


def state(folder: str) -> tuple[int, ...]:
    """Changes whenever a folder or its content is modified."""
    now = os.stat(folder)
    return now.st_mode, now.st_mtime_ns, now.st_ctime_ns


def plain_file() -> int:
    opened = os.open("stdin", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.unlink("stdin")
    return opened


def warm_up() -> None:
    """Does once what every run does, so that its first-time costs are not paid in each."""
    namespace: dict[str, Any] = {}
    code = "from typing import List\ndef f(x: List[int]) -> int:\n    return sum(y for y in x)\nassert f([1]) == 1\n"
    child.execute(code, "main.py", namespace)
    json.loads(json.dumps({"code": code, "files": {}, "keep": False}))
    with open(os.devnull, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as stream:
        print("x", file=stream, flush=True)
    with open(os.devnull, encoding="utf-8", errors="replace") as stream:
        stream.read()
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, resource.getrlimit(limit))
    if sys.platform == "linux":
        os.close(os.memfd_create("stdin"))


def main() -> NoReturn:
    config = json.loads(sys.argv[1])
    sys.path.remove(config["source"])
    sys.dont_write_bytecode = True
    for name in COMMON.split():
        importlib.import_module(name)
    zygote = Zygote(config)
    here = zygote.folder
    os.environ.clear()
    os.environ.update({"HOME": here, "TMPDIR": here, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    sys.argv[:] = [""]
    builtins.exit, builtins.quit = Quitter("exit", ""), Quitter("quit", "")  # as `site` does, which is not loaded
    sys.path.insert(0, here)
    warm_up()
    gc.collect()
    gc.freeze()
    try:
        zygote.serve()
    finally:  # the host has ended, or closed the socket
        if zygote.child:
            with suppress(OSError):
                os.kill(zygote.child, signal.SIGKILL)
                os.waitpid(zygote.child, 0)
        if zygote.level > 1:
            shutil.rmtree(zygote.folder, ignore_errors=True)
        os._exit(0)
