"""The attack battery: programs that try to harm the host, and what must be true after each.

`python attacks.py LEVEL FOLDER [NAME ...]` makes them, all or those named, against one sandbox and prints
{attack: what went wrong, or ""} as JSON. FOLDER is for its victims: a secret in $HOME, a file and a folder that anyone
may write, sockets, a process.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lanbot.sandbox import canary, launch
from lanbot.sandbox.protocol import MOST_OUTPUT
from lanbot.sandbox.sandbox import Sandbox
from lanbot.sandbox.worker import Result

SECRET, KEY = "the-secret-of-home", "sk-the-key-of-the-host"
HELP = """
import ctypes, errno, fcntl, json, os, resource, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == 'x86_64'
def attempt(what, *arguments, **more):
    try:
        got = what(*arguments, **more)
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        return error
    print('THROUGH', what, arguments, repr(got)[:300], flush=True)
def fork():
    if not (pid := os.fork()): os._exit(0)  # the attack need not bring this machine down to be seen
    os.waitpid(pid, 0)
def syscall(x86, arm, *arguments):
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(x86 if X86 else arm), *arguments)
"""

Check = Callable[[Result, "Victims"], bool]


def unharmed(result: Result, victims: "Victims") -> bool:
    """The program came to its end and reports nothing."""
    return result.exit == 0 and result.stdout.endswith("the end\n") and not result.ended


@dataclass
class Attack:
    code: str
    check: Check = unharmed
    timeout: float = 5.0
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)


class Victims:
    """What the host has that a run must not reach."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Path.home()
        self.secret = self.home / "secret.txt"
        self.secret.write_text(SECRET)
        self.file = folder / "file.txt"
        self.file.write_text("as it was")
        self.file.chmod(0o666)
        os.utime(self.file, (1_000, 1_000))
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.abstract.bind(f"\0lanbot-{os.getpid()}")
        self.named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.named.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        for one in (self.tcp, self.abstract, self.named):
            one.setblocking(False)
        self.process = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.before = self.state()

    def state(self) -> tuple[Any, ...]:
        stat = self.file.stat()
        return (sorted(os.listdir(self.folder)), self.file.read_text(), stat.st_mode, stat.st_mtime, stat.st_uid)

    def harm(self) -> str:
        if self.state() != self.before:
            return f"the host's folder changed: {self.state()}"
        if self.process.poll() is not None:
            return "the victim was killed"
        for one in (self.tcp, self.abstract, self.named):
            try:
                one.accept() if one is self.tcp else one.recv(1)
            except BlockingIOError:
                continue
            return "a socket was reached"
        return ""

    def names(self) -> str:
        """Lines of Python that tell an attack where its victims are."""
        values = {
            **{"HOST": os.getpid(), "VICTIM": self.process.pid, "PORT": self.tcp.getsockname()[1]},
            **{"SECRET": str(self.secret), "HOME": str(self.home), "FOLDER": str(self.folder), "FILE": str(self.file)},
            "ABSTRACT": f"\0lanbot-{os.getpid()}",
            "MOST": launch.TASKS + 2_000,
        }
        return "\n".join(f"{name} = {value!r}" for name, value in values.items())


def capped(stream: str) -> Check:
    def check(result: Result, _: Victims) -> bool:
        return result.ended == "output" and result.truncated and 0 < len(getattr(result, stream)) <= MOST_OUTPUT

    return check


def ended(*reasons: str) -> Check:
    return lambda result, _: result.ended in reasons and result.exit == -9


def exits(*codes: int) -> Check:
    return lambda result, _: result.exit in codes and not result.ended


def no_secret_comes_back(result: Result, _: Victims) -> bool:
    names_fit = all(not name.startswith("/") and ".." not in name.split("/") for name in result.files)
    contents = b"".join(result.files.values())
    expected = {"honest.txt"} if result.level == 1 else set()
    return names_fit and SECRET.encode() not in contents and b"root:" not in contents and set(result.files) == expected


def few_files(result: Result, _: Victims) -> bool:
    made = result.stdout.split()[0] if result.stdout else "it did not end"
    return made.isdigit() and (int(made) < 5_000 if result.level == 1 else made == "0")


def key_unseen(result: Result, victims: Victims) -> bool:
    return unharmed(result, victims) and KEY not in result.stdout and SECRET not in result.stdout


ATTACKS: dict[str, Attack] = {
    "endless loop": Attack("while True: pass", lambda r, _: r.timed_out and r.exit == -9, 0.2),
    "endless loop that catches all": Attack(
        """
for number in range(1, 65):
    try: signal.signal(number, lambda *_: None)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
        ended("timeout"),
        0.2,
    ),
    "endless thread and exit function": Attack(
        "import atexit\natexit.register(time.sleep, 600)\nthreading.Thread(target=time.sleep, args=[600]).start()",
        ended("timeout"),
        0.2,
    ),
    "it stops itself": Attack("os.kill(os.getpid(), signal.SIGSTOP)", ended("timeout"), 0.2),
    "2 GB": Attack("attempt(bytearray, 2 << 30); attempt(lambda: [bytearray(64 << 20) for _ in range(32)])"),
    "12 x 150 MB by fork": Attack(
        """
keep = bytearray(150 << 20)
for _ in range(12): attempt(fork)
"""
    ),
    "fork bomb": Attack(
        """
for _ in range(200): attempt(fork)
if X86:
    for number in (57, 58): assert libc.syscall(number) == -1, 'THROUGH'
flags = (17, 0x11 | 0x100, 0x4000 | 0x100 | 17, 0x10000000 | 17, 0x20000000 | 17)
assert all(syscall(56, 220, flag, 0, 0, 0, 0) == -1 for flag in flags), 'THROUGH'
arguments = ctypes.create_string_buffer(struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0))
assert syscall(435, 435, arguments, 64) == -1, 'THROUGH'
"""
    ),
    "thread bomb": Attack(
        """
threading.stack_size(32768)
gate, count = threading.Event(), 0
try:
    for _ in range(20_000):
        threading.Thread(target=gate.wait, daemon=True).start(); count += 1
except (RuntimeError, MemoryError): pass
if count > MOST: print('THROUGH', count)
gate.set()
"""
    ),
    "another program": Attack(
        """
import subprocess
attempt(os.execv, '/bin/sh', ['sh', '-c', 'echo THROUGH'])
attempt(subprocess.run, ['/bin/true'])
attempt(os.posix_spawn, '/bin/true', ['true'], {})
if os.system('echo THROUGH') == 0: print('THROUGH')
"""
    ),
    "loopback socket": Attack(
        """
attempt(socket.create_connection, ('127.0.0.1', PORT), 1)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, 17, 40):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW): attempt(socket.socket, family, kind)
"""
    ),
    "abstract and named socket": Attack(
        """
pair, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
pair.send(b'fine'); assert other.recv(4) == b'fine'
for address in (ABSTRACT, FOLDER + '/socket'):
    attempt(pair.sendto, b'x', address)
    attempt(pair.connect, address)
    attempt(pair.sendmsg, [b'x'], [], 0, address)
attempt(pair.bind, '\\0lanbot-other')
attempt(socket.socketpair, socket.AF_INET)
"""
    ),
    "a secret in $HOME": Attack(
        """
for path in (SECRET, '/etc/passwd', '/etc/shadow', '/proc/self/maps', '/usr/..' + SECRET): attempt(open, path)
for path in (HOME, '/root', '/home', '/tmp', '/etc', '/proc'): attempt(os.listdir, path)
os.chdir('/'); attempt(open, SECRET.lstrip('/'))
""",
        key_unseen,
    ),
    "writing outside": Attack(
        """
attempt(open, FILE, 'w'); attempt(open, FILE, 'a'); attempt(open, FOLDER + '/new', 'w'); attempt(open, '/new', 'w')
for path in ('/tmp/new', '/dev/shm/new', os.path.dirname(os.__file__) + '/new.py'): attempt(open, path, 'w')
attempt(os.truncate, FILE, 0); attempt(os.open, FILE, os.O_RDONLY | os.O_TRUNC); attempt(os.unlink, FILE)
attempt(os.chmod, FILE, 0); attempt(os.utime, FILE, (5, 5)); attempt(os.chown, FILE, os.getuid(), os.getgid())
attempt(os.rename, FILE, FOLDER + '/moved'); attempt(os.mkdir, FOLDER + '/new'); attempt(os.mkfifo, FOLDER + '/new')
attempt(os.symlink, '/etc', FOLDER + '/new'); attempt(os.link, FILE, FOLDER + '/new'); attempt(os.link, FILE, 'here')
attempt(os.setxattr, FILE, 'user.x', b'1')
"""
    ),
    "the host's key": Attack(
        """
print(dict(os.environ))
for pid in [1, 2, 'self', os.getppid(), HOST, VICTIM, *range(1, 400)]:
    for name in ('environ', 'cmdline', 'maps', 'mem', 'root', 'cwd/x'):
        try: print('THROUGH', pid, name, open(f'/proc/{pid}/{name}', 'rb').read(10_000))
        except OSError: pass
""",
        key_unseen,
    ),
    "killing others": Attack(
        """
for pid in (VICTIM, HOST, os.getppid(), 1, 0, -1):
    for number in (0, signal.SIGKILL): attempt(os.kill, pid, number)
attempt(os.killpg, 0, signal.SIGTERM); attempt(os.pidfd_open, VICTIM)
attempt(resource.prlimit, VICTIM, resource.RLIMIT_CPU, (0, 0)); attempt(os.setpriority, os.PRIO_PROCESS, VICTIM, 19)
read_end, write_end = os.pipe()
for command in (8, 10): attempt(fcntl.fcntl, read_end, command, VICTIM)
attempt(fcntl.ioctl, read_end, 0x8901, struct.pack('i', VICTIM))
for numbers in ((200, 130), (129, 138)): assert syscall(*numbers, VICTIM, 9, 0) == -1, 'THROUGH'
assert syscall(234, 131, VICTIM, VICTIM, 9) == -1, 'THROUGH'
"""
    ),
    "endless stdout": Attack("while True: print('x' * 10_000)", capped("stdout")),
    "huge stderr": Attack("while True: os.write(2, b'x' * 60_000)", capped("stderr")),
    "a daemon that survives": Attack(
        """
attempt(fork); os.getsid(0)
if libc.prctl(1, 0, 0, 0, 0) != -1: print('THROUGH: it lives longer than its parent')
"""
    ),
    "many files": Attack(
        """
made = 0
try:
    while made < 100_000: open(f'f{made}', 'w').close(); made += 1
except OSError: pass
print(made)
""",
        few_files,
    ),
    "big files": Attack(
        """
made = 0
for number in range(30):
    try:
        with open(f'big{number}', 'wb') as file:
            for _ in range(16): file.write(bytes(1 << 20)); made += 1
    except OSError: pass
if made > 64: print('THROUGH', made)
"""
    ),
    "deep and closed folders": Attack(
        """
try:
    os.mkdir('closed'); open('closed/file', 'w').close(); os.chmod('closed', 0)
    for _ in range(3_000): os.mkdir('d'); os.chdir('d')
    os.chmod('/work', 0)
except OSError: pass
"""
    ),
    "the folder itself closed": Attack("try: os.chmod('.', 0); os.setxattr('.', 'user.x', b'1')\nexcept OSError: pass"),
    "memory beside the address space": Attack(
        """
if hasattr(os, 'memfd_create'): attempt(os.memfd_create, 'x')
for numbers in ((29, 194), (68, 186), (64, 190)): assert syscall(*numbers, 0, 1 << 20, 0o1600) == -1, 'THROUGH'
assert syscall(447, 447, 0) == -1, 'THROUGH'
"""
    ),
    "io_uring": Attack("assert syscall(425, 425, 8, ctypes.create_string_buffer(200)) == -1, 'THROUGH'"),
    "ptrace": Attack(
        """
for pid in (os.getppid(), HOST, VICTIM):
    for request in (16, 0x4206): assert libc.ptrace(request, pid, 0, 0) == -1, 'THROUGH'
buffer = ctypes.create_string_buffer(8)
area = ctypes.create_string_buffer(struct.pack('PN', ctypes.addressof(buffer), 8))
for numbers in ((310, 270), (311, 271)): assert syscall(*numbers, HOST, area, 1, area, 1, 0) == -1, 'THROUGH'
"""
    ),
    "namespaces, mounts, keys, bpf": Attack(
        """
assert syscall(272, 97, 0x10000000) == -1, 'THROUGH'
assert syscall(165, 40, b'tmpfs', b'/work', b'tmpfs', 0, 0) == -1, 'THROUGH'
calls = (161, 51), (250, 219), (321, 280), (323, 282), (298, 241), (304, 265), (308, 268), (428, 428), (463, 463)
for numbers in calls:
    assert syscall(*numbers, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() in (1, 38), f'THROUGH {numbers}'
attempt(os.setuid, 0) if os.getuid() else None
"""
    ),
    "links among the files": Attack(
        """
try:
    os.symlink(SECRET, 'secret.txt'); os.symlink('/etc/passwd', 'passwd'); os.symlink('/', 'root')
    os.symlink('..', 'up')
    os.mkdir('folder'); os.symlink(HOME, 'folder/home'); os.symlink('missing', 'dangling')
    open('\\udcff', 'w').close()
    open('honest.txt', 'w').write('honest')
except OSError: pass
""",
        no_secret_comes_back,
    ),
    "a flood of calls": Attack("while True: f(1)", ended("calls"), functions={"f": lambda x: x}),
    "a flood of calls, answers not read": Attack(
        """
data = json.dumps({'call': 'f', 'args': [1], 'kwargs': {}}).encode()
while True: os.write(3, struct.pack('>I', len(data)) + data)
""",
        ended("calls", "timeout"),
        0.4,
        {"f": lambda x: "y" * 10_000},
    ),
    "garbage on every descriptor": Attack(
        """
for number in range(3, 256):
    try: os.write(number, os.urandom(1_000))
    except OSError: pass
time.sleep(9)
""",
        ended("protocol"),
    ),
    "a forged end": Attack(
        """
data = b'{"done": 0}'
record = struct.pack('>cqQ', b'x', 0, 0)
for number in range(3, 256):
    try: os.write(number, struct.pack('>I', len(data)) + data); os.write(number, record * 10)
    except OSError: pass
time.sleep(9); os._exit(3)
""",
        ended("protocol"),
    ),
    "a message without end": Attack(
        "os.write(3, b'\\x7f\\xff\\xff\\xff' + b'x' * 10_000); time.sleep(9)", ended("protocol")
    ),
    "a message too deep": Attack(
        "data = b'[' * 200_000\nos.write(3, struct.pack('>I', len(data)) + data); time.sleep(9)", ended("protocol")
    ),
    "calls that are none": Attack(
        """
data = json.dumps({'call': '__import__', 'args': ['os'], 'kwargs': {}}).encode()
os.write(3, struct.pack('>I', len(data)) + data)
answer = os.read(3, 1_000)
assert b'there is no function' in answer, answer
"""
    ),
    "the zygote's own objects": Attack(
        """
frame, found = sys._getframe(), []
while frame:
    found += [value for value in frame.f_locals.values() if hasattr(value, 'control')]
    frame = frame.f_back
for zygote in found: attempt(zygote.control.send, b'x' * 17)
"""
    ),
    "os._exit": Attack("os._exit(7)", exits(7)),
    "SIGSEGV": Attack("ctypes.string_at(0)", exits(-11)),
    "abort": Attack("os.abort()", exits(-6)),
    "recursion": Attack(
        "sys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()", lambda r, _: r.exit in (1, -6, -11) or r.timed_out, 0.3
    ),
    "huge integers": Attack("x = 7 ** (10 ** 8)\nprint(x % 10 ** 9)", lambda r, _: r.timed_out or r.exit == 1, 0.2),
    "closing every descriptor": Attack("os.closerange(0, 256)", exits(1)),
}


def battery(level: int, folder: Path, names: list[str]) -> dict[str, str]:
    """{attack: what went wrong, or ""}; {"": reason} where the level cannot be had."""
    verdict = canary.check(level)
    if not verdict.holds:
        return {"": verdict.why}
    victims, found = Victims(folder), {}
    with Sandbox(1, level, unsafe=True) as sandbox:
        for name, attack in ((name, ATTACKS[name]) for name in names or ATTACKS):
            code = f"{HELP}{victims.names()}\n{attack.code}\nprint('the end')\n"
            result = sandbox.run(code, functions=attack.functions, timeout=attack.timeout)
            after = sandbox.run("import os; print(6 * 7, os.listdir('.'))")
            problem = victims.harm()
            if "THROUGH" in result.stdout + result.stderr or not attack.check(result, victims):
                problem = (
                    f"{result.stdout[-500:]} {result.stderr[-500:]} {result.exit} {result.ended} {list(result.files)}"
                )
            if after.stdout != "42 []\n":
                problem += f" and the next run: {after}"
            found[name] = problem
        processes = [worker.zygote.pid for worker in sandbox.idle]
    victims.process.kill()
    victims.process.wait()
    deadline = time.monotonic() + 10
    while (left := sorted(descendants(os.getpid()))) and time.monotonic() < deadline:
        time.sleep(0.05)
    found["nothing is left"] = f"processes {left}, of workers {processes}" if left else ""
    return found


def descendants(root: int) -> set[int]:
    """Processes below this one, zombies among them."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                after_name = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry)] = int(after_name[1])
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {root}} - found:
        found |= more
    return found


if __name__ == "__main__":
    print(json.dumps(battery(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
