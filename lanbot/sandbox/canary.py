"""Probes each level with a few attacks at first use; a level that does not hold on this machine is not used.

Each probe is a program that prints `held` as its last line if everything it tries is refused. One more checks what
must work: a sandbox in which nothing runs would otherwise pass.
"""

import functools
import os
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lanbot.sandbox import launch
from lanbot.sandbox.protocol import Job, Lost
from lanbot.sandbox.worker import Result, Worker

NAMES = {
    launch.BOXED: "bubblewrap, Landlock, seccomp",
    launch.LOCKED: "Landlock, seccomp; files can be read, not written",
    launch.SEATBELT: "macOS sandbox-exec; memory is not bounded",
    launch.OPEN: "a plain subprocess, which protects nothing",
}
MEMORY, SECONDS = 512 << 20, 30.0
"""Limits of a probe. It needs milliseconds, but one that times out on a busy machine counts as got through."""

HEAD = """
import ctypes, os, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
held = True
def refused(attempt, *arguments):
    global held
    try:
        got = attempt(*arguments)
    except (OSError, MemoryError, RuntimeError):
        return
    held = False
    print("got through:", attempt, arguments, repr(got)[:200])
"""
TAIL = """
print("held" if held else "broken", flush=True)
"""
PROBES = {
    "a process forked": "refused(os.fork)",
    "a program started": "refused(os.execv, '/bin/true', ['true']); refused(subprocess.run, ['/bin/true'])",
    "a socket": """
refused(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
refused(lambda: socket.socket(socket.AF_UNIX).connect('\\0lanbot'))
""",
    "a file read": "refused(open, {secret!r}); refused(os.listdir, {folder!r}); refused(open, '/etc/passwd')",
    "a file written": "refused(open, {folder!r} + '/written', 'w')",
    "the host's environment": """
for pid in (1, os.getppid(), {pid}, 'self'):
    refused(open, f'/proc/{{pid}}/environ')
assert 'LANBOT_CANARY' not in os.environ
""",
    "another process": """
for pid in ({pid}, os.getppid(), 0, -1):
    refused(os.kill, pid, 0)
""",
    "more memory": "refused(bytearray, 2 << 30); refused(lambda: [bytearray(100 << 20) for _ in range(30)])",
}
LINUX = {
    "calls of the kernel": """
numbers = {{'x86_64': (425, 101, 319, 272, 165), 'aarch64': (425, 117, 279, 97, 40)}}[os.uname().machine]
for number in numbers:  # io_uring_setup, ptrace, memfd_create, unshare, mount
    arguments = (ctypes.c_long(number), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0))
    if libc.syscall(*arguments) != -1 or ctypes.get_errno() not in (1, 38):
        held = False
        print('got through: system call', number, ctypes.get_errno())
"""
}


@dataclass(frozen=True)
class Verdict:
    """why: what was found to hold, or not to hold."""

    level: int
    holds: bool
    why: str

    def __str__(self) -> str:
        return f"level {self.level} ({NAMES[self.level]}): {self.why}"


@functools.cache
def check(level: int) -> Verdict:
    """Starts a worker of this level and attacks it; cached."""
    if level == launch.OPEN:
        return Verdict(level, True, "not tested")
    if sys.platform not in ("linux", "darwin") or (level == launch.SEATBELT) != (sys.platform == "darwin"):
        return Verdict(level, False, f"not on {sys.platform}")
    try:
        worker = Worker(level)
    except Lost as error:
        return Verdict(level, False, f"it did not start: {error}")
    try:
        through, tried = attack(worker)
    finally:
        worker.close()
    if through:
        return Verdict(level, False, f"got through: {', '.join(through)}")
    landlock = f", Landlock ABI {worker.abi}" if worker.abi else ""
    return Verdict(level, True, f"{tried} of {tried} attacks held{landlock}")


def attack(worker: Worker) -> tuple[list[str], int]:
    """Returns the names of the attacks that got through, and how many were tried."""
    probes = {**PROBES, **(LINUX if sys.platform == "linux" else {})}
    if worker.level == launch.SEATBELT:
        del probes["more memory"]
    failed: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="lanbot-canary-"))
    secret = folder / "secret"
    secret.write_text(secrets.token_hex(), encoding="utf-8")
    folder.chmod(0o777)  # only the sandbox prevents access
    secret.chmod(0o666)
    try:
        for name, probe in probes.items():
            code = HEAD + probe.format(secret=str(secret), folder=str(folder), pid=os.getpid()) + TAIL
            result = run(worker, code)
            if result.exit != 0 or result.stdout.splitlines()[-1:] != ["held"]:
                failed.append(name)
        if sorted(os.listdir(folder)) != ["secret"] and "a file written" not in failed:
            failed.append("a file written")
    finally:
        shutil.rmtree(folder)
    endless = {
        "an endless loop": run(worker, "while True: pass", 0.2).timed_out,
        "endless output": run(worker, "while True: print('x' * 65536)").ended == "output",
        "a file left for the next run": left_nothing(worker),
        "what must work": works(worker),
    }
    return [*failed, *(name for name, fine in endless.items() if not fine)], len(probes) + len(endless)


def run(worker: Worker, code: str, seconds: float = SECONDS) -> Result:
    return worker.run(Job(code, b"in", {}, {"double": lambda number: 2 * number}, seconds, MEMORY))


def left_nothing(worker: Worker) -> bool:
    """At level 1 the file is returned and then deleted; at level 2 it cannot be created."""
    first = run(worker, "open('left', 'w').write('1')")
    second = run(worker, "import os; print(os.listdir('.'))")
    expected = {} if worker.level == launch.LOCKED else {"left": b"1"}
    return first.files == expected and second.stdout == "[]\n" and not second.files


def works(worker: Worker) -> bool:
    code = "import decimal, json, random\nprint(double(21), decimal.Decimal('0.5'), input())"
    result = run(worker, code)
    return (result.stdout, result.exit) == ("42 0.5 in\n", 0)
