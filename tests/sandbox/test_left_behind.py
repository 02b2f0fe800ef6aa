"""After many runs, and after a host that was killed, nothing is left: no process, zombie, file or descriptor."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attacks import descendants

from lanbot.sandbox import canary
from lanbot.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")

HOST = """
import sys
from lanbot.sandbox.sandbox import Sandbox
box = Sandbox(1, int(sys.argv[1]))
box.run("x = 1", session="s")
box.run("ready()\\nwhile True: pass", timeout=600, functions={"ready": lambda: print("ready", flush=True)})
"""
BUSY = [
    "print(sum(range(1000)))",
    "open('left', 'w').write('x')",
    "import threading; threading.Thread(target=print).start()",
    "1 / 0",
    "import os; os._exit(3)",
    "print('x' * 100_000)",
]


def skip_unless(level: int) -> None:
    verdict = canary.check(level)
    if not verdict.holds:
        assert "got through" not in verdict.why
        pytest.skip(str(verdict))


def many_runs(level: int, runs: int, folder: Path) -> None:
    before, descriptors = descendants(os.getpid()), len(os.listdir("/proc/self/fd"))
    with Sandbox(2, level) as box:
        results = list(box.map([BUSY[i % len(BUSY)] for i in range(runs)], timeout=20))
        within = descendants(os.getpid()) - before
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in within]
        assert "Z" not in states
        assert len(within) <= 2 * (4 if level == 1 else 2)
    assert [result.exit for result in results[:6]] == [0, 0 if level == 1 else 1, 0, 1, 3, 0]
    assert {result.ended for result in results} == {""}
    assert descendants(os.getpid()) - before == set()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir(folder) == []


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("runs", [120, pytest.param(5_000, marks=pytest.mark.slow)])
def test_nothing_is_left_after_many_runs(
    level: int, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless(level)
    with Sandbox(1, level) as box:
        box.run("1")  # what starts once in a process has started
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    many_runs(level, runs, tmp_path)


@pytest.mark.parametrize("level", [1, 2])
def test_nothing_is_left_when_the_host_is_killed(level: int, tmp_path: Path) -> None:
    skip_unless(level)
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(level)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(canary.__file__).parents[2])},
    )
    assert host.stdout and host.stdout.readline() == b"ready\n"
    below = descendants(host.pid)
    assert len(below) >= 4  # two zygotes, each with a forked process
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    deadline = time.monotonic() + 20
    while (left := [pid for pid in below if running(pid)] + os.listdir(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def running(pid: int) -> bool:
    """False for a zombie that waits for init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
