"""Several hosts that train one run in one folder: what a person with two machines and NFS sees."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_end_to_end import done, script, tree
from test_node import Faulty, made, when
from test_own_hosts import SSH_STUB

from lanbot.cloud import hosts, node
from lanbot.cloud.hosts import HostLost, Hosts
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

    def until(self, good: Callable[[], object], seconds: float = 120) -> None:
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


@pytest.mark.slow
def test_two_hosts_train_one_run_and_go_on_when_one_was_killed(machines: Callable[[str], Machines]) -> None:
    alone = machines("alone")
    alone.launch("first")
    assert [alone.code(rank) for rank in range(2)] == [0, 0], alone.log()
    before, weights = done(alone.store)
    assert before["phase"] == "sft" and list(alone.store.glob("runs/bot/sft/step_*/trainer/__1_0.distcp"))

    lost = machines("lost")
    lost.launch("first")
    lost.until(lost.pushed)
    kill(lost.node(1))  # the start-up script there starts it again
    reached = lost.pushed()
    lost.until(lambda: lost.pushed() > reached)
    assert "starting it again" in (lost.folder / "log.1").read_text()
    kill(lost.pid(1))
    lost.until(lambda: "starting it again in" in (lost.folder / "log.0").read_text().rpartition("resuming")[2])
    lost.provider.delete("first")
    status = lost.store / "runs/bot/node/status.json"
    lost.until(lambda: json.loads(status.read_text())["state"] == "stopped")
    assert not (lost.store / "runs/bot/sft/evals.json").exists(), "it was too late to kill it"

    lost.launch("second")
    assert [lost.code(rank) for rank in range(2)] == [0, 0], lost.log()
    after, same = done(lost.store)
    assert same == weights and after["step"] == before["step"]
    lines = map(json.loads, (lost.store / "runs/bot/sft/metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, before["step"] + 1))


# -- what one host does ------------------------------------------------------------------------------------


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], Hosts]]:
    """Makes what one of two hosts says, and the environment of its node; they are quick."""
    for name, value in {"BEAT": 0.02, "POLL": 0.01, "ABSENT": 0.5, "GRACE": 0.2}.items():
        monkeypatch.setattr(hosts, name, value)
    for name, value in {"PAUSE": 0.05, "POLL": 0.01}.items():
        monkeypatch.setattr(node, name, value)
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:29400")

    def make(rank: int) -> Hosts:
        monkeypatch.setenv("LANBOT_NODE_RANK", str(rank))
        return Hosts(tmp_path / "box")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield make
    for number, handler in before.items():
        signal.signal(number, handler)


def never() -> bool:
    return False


def test_a_host_that_is_not_the_first_trains_and_touches_nothing_else(
    two: Callable[[int], Hosts], tmp_path: Path
) -> None:
    first = two(0)
    two(1)
    store = Faulty(tmp_path / "store")
    follower = made(tmp_path, store, steps=3)

    def lead() -> None:
        first.start()
        first.begin([], never)
        when(lambda: "done" in follower.log, lambda: first.over(1)).join()

    leading = threading.Thread(target=lead)
    leading.start()
    assert follower.run() == 1, "it ends as the first one does"
    leading.join()
    assert store.order == [] and not (tmp_path / "box" / "recipe.toml").exists()
    assert "done" in (tmp_path / "box" / "train.1.log").read_text()


def test_a_host_that_never_comes_ends_the_job_which_another_launch_may_go_on_with(
    two: Callable[[int], Hosts], tmp_path: Path
) -> None:
    two(0)
    store = Faulty(tmp_path / "store")
    assert made(tmp_path, store).run() == 1
    status = store.state("status.json")
    assert status["state"] == "lost" and not (store.root / "runs/bot/node/failed.json").exists()


def test_a_host_ends_when_the_first_one_is_gone(two: Callable[[int], Hosts], tmp_path: Path) -> None:
    two(1)
    assert made(tmp_path, Faulty(tmp_path / "store")).run() == 1


def test_training_that_hangs_is_ended_when_it_has_ended_on_another_host(
    two: Callable[[int], Hosts], tmp_path: Path
) -> None:
    first = two(0)
    two(1)
    follower = made(tmp_path, Faulty(tmp_path / "store"), seconds=1, steps=1_000)

    def lead() -> None:
        first.start()
        first.begin([], never)
        when(lambda: bool(follower.log), first.ended).join()
        when(lambda: follower.training is None, lambda: first.over(0)).join()

    leading = threading.Thread(target=lead)
    leading.start()
    assert follower.run() == 0
    leading.join()


def test_what_an_earlier_launch_left_in_the_folder_is_not_obeyed(two: Callable[[int], Hosts], tmp_path: Path) -> None:
    earlier, other = two(0), two(1)
    for each in (earlier, other):
        each.folder.mkdir(parents=True, exist_ok=True)
        each._say()
    earlier._listen()
    earlier.over(0)
    now = two(1)
    now._listen()
    with pytest.raises(HostLost):
        follow_once(now)
    with pytest.raises(HostLost):
        two(0).begin([], never)


def follow_once(follower: Hosts) -> None:
    while True:
        assert follower.called() == {}
        time.sleep(0.01)


INSTALLS = """#!/bin/bash
case "$*" in
  "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"import lanbot"*) [ -e "$LANBOT_NODE_ROOT/there" ] ;;
  *"pip install"*)
    mkdir "$LANBOT_NODE_ROOT/busy" || touch "$LANBOT_NODE_ROOT/clash"
    echo x >> "$LANBOT_NODE_ROOT/installs"
    sleep 0.3
    rmdir "$LANBOT_NODE_ROOT/busy"
    touch "$LANBOT_NODE_ROOT/there" ;;
esac
"""


def test_two_hosts_install_once_and_keep_their_files_apart(tmp_path: Path) -> None:
    box, programs = tmp_path / "box", tmp_path / "bin"
    box.mkdir()
    programs.mkdir()
    (programs / "python3").write_text(INSTALLS)
    (programs / "python3").chmod(0o755)
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "LANBOT_NODE_ROOT": str(box), "PET_NNODES": "2"}
    started = [
        subprocess.Popen(["bash", "-c", script(tmp_path)], env={**env, "LANBOT_NODE_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [each.wait(timeout=60) for each in started] == [0, 0]
    assert (box / "installs").read_text() == "x\n" and not (box / "clash").exists()
    assert (box / "job.json").is_file() and (box / "host1" / "job.json").is_file()
