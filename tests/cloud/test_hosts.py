"""Several hosts that train one run in one folder: what a person with two machines and NFS sees."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_end_to_end import done, script, tree
from test_own_hosts import SSH_STUB

from lanbot.cloud.providers import ssh
from lanbot.cloud.providers.base import Launch, Offer
from lanbot.cloud.providers.ssh import SSH
from lanbot.models import saved

HOSTS = ("me@127.0.0.1", "you@127.0.0.1")


class Machines:
    """Two that see one ~/.lanbot, with Python and LanBot in it."""

    def __init__(self, root: Path, store: Path) -> None:
        self.store, self.home = store, root / "hosts" / HOSTS[0]
        self.home.mkdir(parents=True)
        self.home.with_name(HOSTS[1]).symlink_to(self.home)
        self.provider, self.folder = SSH(HOSTS), self.home

    def launch(self, name: str) -> None:
        """As `lanbot cloud launch --provider ssh`."""
        self.folder = self.home / ".lanbot" / name
        (self.folder / "node").mkdir(parents=True)
        (self.folder / "node" / "venv").symlink_to(Path(sys.prefix))
        cap = datetime.now(UTC) + timedelta(hours=1)
        offer = Offer("ssh", "", "", "", "CPU", 1, 0.0)
        envs = {"LANBOT_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.provider.create(Launch(name, offer, script(self.store), envs, 1.0, cap))

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log.*")))

    def until(self, good: Callable[[], object], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not good():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def code(self, rank: int) -> int:
        """With which the script ended on a host."""
        path = self.folder / f"code.{rank}"
        self.until(lambda: path.is_file() and path.read_text())
        return int(path.read_text())

    def pid(self, rank: int) -> int:
        """Of the start-up script on a host."""
        return int((self.folder / f"pid.{rank}").read_text())

    def node(self, rank: int) -> int:
        """The process of the node on a host."""
        return next(pid for pid in processes(self.pid(rank)) if "lanbot.cloud.node" in command(pid))

    def pushed(self) -> int:
        """The newest step in the store."""
        folder = saved.latest(self.store / "runs/bot/sft")
        return saved.step_of(folder) if folder else 0


def command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def processes(pid: int) -> list[int]:
    """It and what it started."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found


def kill(pid: int) -> None:
    """It and what it started, as when the power fails."""
    for each in processes(pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGSTOP)
    for each in processes(pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


@pytest.fixture
def machines(
    existing_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Machines]]:
    """Makes two of a name, with a store of their own."""
    (tmp_path / "bin").mkdir()
    stub = SSH_STUB.replace("@ROOT@", "$MACHINES")
    (tmp_path / "bin" / "ssh").write_text(stub)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(ssh, "PORT", free.getsockname()[1])

    def make(name: str) -> Machines:
        monkeypatch.setenv("MACHINES", str(tmp_path / name))
        return Machines(tmp_path / name, tree(existing_checkpoint, tmp_path / name / "store"))

    yield make
    for pid in tmp_path.glob("*/hosts/me@127.0.0.1/.lanbot/*/pid.*"):
        kill(int(pid.read_text()))


def test_two_hosts_train_one_run_and_go_on_when_one_was_killed(machines: Callable[[str], Machines]) -> None:
    alone, lost = machines("alone"), machines("lost")
    alone.launch("first")
    assert [alone.code(rank) for rank in range(2)] == [0, 0], alone.log()
    before, weights = done(alone.store)
    assert before["phase"] == "sft" and list(alone.store.glob("runs/bot/sft/step_*/trainer/__1_0.distcp"))

    lost.launch("first")
    lost.until(lost.pushed)
    kill(lost.node(1))  # the start-up script there starts it again
    reached = lost.pushed()
    lost.until(lambda: lost.pushed() > reached)
    assert "starting it again" in (lost.folder / "log.1").read_text()
    kill(lost.pid(1))
    lost.until(lambda: "starting it again in" in (lost.folder / "log.0").read_text().rpartition("resuming")[2])
    lost.provider.delete("first")
    assert lost.code(0) == 143
    assert not (lost.store / "runs/bot/sft/evals.json").exists(), "it was too late to kill it"

    lost.launch("second")
    assert [lost.code(rank) for rank in range(2)] == [0, 0], lost.log()
    after, same = done(lost.store)
    assert same == weights and after["step"] == before["step"]
    lines = map(json.loads, (lost.store / "runs/bot/sft/metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, before["step"] + 1))
