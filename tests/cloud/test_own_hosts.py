"""The ssh and sky providers, with stub executables in the place of ssh and sky."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lanbot.cloud import launch, watch
from lanbot.cloud.launch import Cloud, Said
from lanbot.cloud.offers import Wanted
from lanbot.cloud.providers import ssh
from lanbot.cloud.providers.base import Launch, Offer, RefusedError, Unsettled
from lanbot.cloud.providers.sky import Sky
from lanbot.cloud.providers.ssh import SSH
from lanbot.cloud.records import Record
from lanbot.cloud.secrets import Secrets
from lanbot.cloud.watch import Watch
from lanbot.core.errors import UserError

OWN = Offer("ssh", "", "", "", "H100", 8, 0.0)
TOKEN = "hf_it's a secret"

SSH_STUB = """#!/bin/bash
# Runs the command here, in a home of the host's own; hosts named dead-* do not answer.
while [ "${1#-}" != "$1" ]; do case $1 in -o | -p) shift 2 ;; *) shift ;; esac; done
host="$1"; shift
case $host in *dead*) echo "ssh: connect to host $host: No route to host" >&2; exit 255 ;; esac
export HOME="@ROOT@/hosts/$host"
mkdir -p "$HOME" && cd "$HOME" && exec sh -c "$*"
"""

SKY_STUB = """#!/usr/bin/env python3
import json, os, pathlib, sys
state = pathlib.Path("@ROOT@/jobs.json")
jobs = json.loads(state.read_text()) if state.exists() else []
given = sys.argv[1:]
with open("@ROOT@/calls", "a") as file:
    print(json.dumps({"argv": given, "token": os.environ.get("HF_TOKEN", "")}), file=file)
if os.environ.get("SKY_FAILS") in given:
    print("Traceback ...\\nsky.exceptions.ApiServerConnectionError: no server", file=sys.stderr)
    sys.exit(1)
name = given[given.index("--name") + 1] if "--name" in given else ""
if given[:2] == ["jobs", "launch"]:
    jobs.append({"job_id": len(jobs) + 1, "job_name": name, "status": "RUNNING", "submitted_at": 1.8e9})
elif given[:2] == ["jobs", "cancel"]:
    for job in jobs:
        job["status"] = "CANCELLED" if job["job_name"] == name else job["status"]
elif given[:2] == ["jobs", "queue"]:
    print(json.dumps(jobs))
state.write_text(json.dumps(jobs))
"""


@pytest.fixture(autouse=True)
def bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stubs on PATH; what they started on a host is ended with the test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ssh", SSH_STUB), ("sky", SKY_STUB)):
        (folder / name).write_text(text.replace("@ROOT@", str(tmp_path)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for module in (launch, watch):
        monkeypatch.setattr(module, "POLL", 0.05)
    yield folder
    for pid in tmp_path.glob("hosts/*/.lanbot/*/pid.*"):
        with suppress(ProcessLookupError):  # each launch is a process group
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def request(script: str, name: str = "lanbot-x-0a0b0c", hours: float = 1.0, **changes: Any) -> Launch:
    offer = changes.pop("offer", OWN)
    cap = datetime.now(UTC) + timedelta(hours=hours)
    return Launch(name, offer, script, {"HF_TOKEN": TOKEN}, 1.0, cap, **changes)


def until(good: Callable[[], bool]) -> None:
    for _ in range(400):
        if good():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def status_of(provider: SSH) -> str:
    (found,) = provider.list()
    return found.status


# -- ssh ---------------------------------------------------------------------------------------------------


@pytest.fixture
def one_home(tmp_path: Path) -> Path:
    """Of me@one and me@two."""
    home = tmp_path / "hosts" / "me@one"
    home.mkdir(parents=True)
    home.with_name("me@two").symlink_to(home)
    return home


def test_a_script_runs_on_every_host_with_the_secrets_and_a_place_to_meet(one_home: Path) -> None:
    provider = SSH(("me@one", "me@two"))
    seen = '"$HF_TOKEN $PET_NNODES $PET_RDZV_ENDPOINT $LANBOT_NODE_RANK $LANBOT_NODE_ROOT"'
    id = provider.create(request(f"echo {seen} > seen.$LANBOT_NODE_RANK; sleep 60\n"))
    folder = one_home / ".lanbot" / id
    files = [folder / f"seen.{rank}" for rank in range(2)]
    until(lambda: all(file.is_file() and file.read_text() for file in files))
    # the root as each host names it
    said = [file.read_text().replace("me@two", "me@one") for file in files]
    assert said == [f"{TOKEN} 2 one:29400 {rank} {folder}/node\n" for rank in range(2)]
    left = [path.read_text() for path in folder.iterdir() if not path.name.startswith("seen")]
    assert not any(TOKEN.split()[-1] in text for text in left)
    assert status_of(provider) == "active"
    assert provider.logs(provider.list()[0], True)[-1].startswith("tail -n 200 -F")
    provider.delete(id)
    until(lambda: status_of(provider) != "deleting")
    provider.delete(id)
    assert provider.list() == [] and provider.info(id) is None


def test_hosts_that_share_no_folder_are_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "SEE_TRIES", 1)
    provider = SSH(("me@one", "me@two"))
    with pytest.raises(RefusedError, match=r"me@two does not see ~/.lanbot of me@one") as raised:
        provider.create(request("touch started\n"))
    assert "NFS" in raised.value.remedy
    assert [path for path in tmp_path.glob("hosts/**/*") if path.is_file()] == []


def test_one_host_that_ends_does_not_hide_that_another_runs(one_home: Path) -> None:
    provider = SSH(("me@one", "me@two"))
    id = provider.create(request("[ $LANBOT_NODE_RANK = 1 ] || sleep 60\n"))
    until(lambda: (one_home / ".lanbot" / id / "code.1").exists())
    assert status_of(provider) == "active"


def test_a_script_that_fails_or_ends_is_told(tmp_path: Path) -> None:
    provider = SSH(("one",))
    provider.create(request("exit 3\n"))
    until(lambda: status_of(provider) == "error")
    assert provider.list()[0].detail == "ended with 3"
    other = SSH(("two",))
    other.create(request("exit 0\n"))
    until(lambda: status_of(other) == "deleted")


def test_the_date_cap_ends_it() -> None:
    provider = SSH(("one",))
    provider.create(request("sleep 600\n", hours=1 / 3_600))
    until(lambda: status_of(provider) == "error")


def test_a_script_may_take_its_time_to_stop_and_is_asked_once(tmp_path: Path) -> None:
    provider = SSH(("one",))
    script = "trap 'echo asked >> asked; sleep 1; exit 143' TERM; touch ready; while :; do sleep 0.05; done\n"
    id = provider.create(request(script))
    home = tmp_path / "hosts" / "one" / ".lanbot" / id
    until(lambda: (home / "ready").exists())
    provider.delete(id)
    assert status_of(provider) == "deleting"
    provider.delete(id)
    until(lambda: status_of(provider) != "deleting")
    assert (home / "asked").read_text() == "asked\n"


def test_a_host_that_does_not_answer() -> None:
    with pytest.raises(RefusedError, match="No route to host"):
        SSH(("dead-1",)).create(request("true\n"))
    with pytest.raises(RefusedError, match="dead-2"):
        SSH(("one", "dead-2")).create(request("sleep 1\n"))
    with pytest.raises(UserError, match="cannot be asked"):
        SSH(("one", "dead-2")).list()
    with pytest.raises(UserError, match="not a host"):
        SSH(("-oProxyCommand=evil",))


def test_a_run_on_own_hosts_from_launch_to_the_end(tmp_path: Path) -> None:
    folder, said = tmp_path / "runs" / ".cloud", dict[str, dict[str, Any]]()
    provider = SSH(("one",))
    script = lambda job: "touch started; sleep 60\n"  # noqa: E731
    cloud = Cloud(folder, provider, Secrets({}), script, lambda record: said, lambda record: None)
    record = Record("x", "ssh", "sft", {"store": "/s"}, 1.0, hosts=["one"])
    node = cloud.launch(record, OWN)
    until(lambda: (tmp_path / "hosts/one/.lanbot" / node.id / "started").exists())
    looks = iter(range(1_000))

    def show(record: Record, _: Said) -> None:
        if next(looks) == 3:
            said["done.json"] = {}

    ended = Watch(cloud, "x", True, show).wait()
    assert not ended.live and ended.spent == 0
    assert [machine.status for machine in provider.list()] in (["deleted"], [])


def test_a_script_that_dies_is_started_again(tmp_path: Path) -> None:
    folder, mark = tmp_path / "runs" / ".cloud", tmp_path / "mark"
    script = lambda job: f"[ -e {mark} ] && sleep 60; touch {mark}; kill -9 $$\n"  # noqa: E731
    ran_again = lambda record: len(record.nodes) == 2 and record.node.state == "active"  # noqa: E731
    said = lambda record: {"done.json": {}} if ran_again(record) else {}  # noqa: E731
    cloud = Cloud(folder, SSH(("one",)), Secrets({}), script, said, lambda record: None)
    cloud.launch(Record("x", "ssh", "sft", {"store": "/s"}, 1.0, vars(Wanted()), hosts=["one"]), OWN)
    assert len(Watch(cloud, "x", True).wait().nodes) == 2


# -- sky ---------------------------------------------------------------------------------------------------


def test_a_task_names_its_secrets_joins_its_nodes_and_ends_by_itself(tmp_path: Path) -> None:
    provider = Sky(tmp_path / "runs" / ".cloud")
    offer = Offer("sky", "aws", "us-east-1", "", "H100", 8, 98.32, spot=True)
    asked = request("echo 'hello'\n", offer=offer, nodes=2)
    id = provider.create(asked)
    text = (tmp_path / "runs" / ".cloud" / f"{id}.yaml").read_text()
    task = json.loads(text)
    assert task["resources"] == {"accelerators": "H100:8", "use_spot": True, "infra": "aws/us-east-1"}
    assert task["num_nodes"] == 2 and task["secrets"] == {"HF_TOKEN": None}
    assert "SKYPILOT_NODE_RANK" in task["run"] and "SKYPILOT_NODE_IPS" in task["run"] and "timeout" in task["run"]
    call = json.loads((tmp_path / "calls").read_text())
    assert call["argv"][:2] == ["jobs", "launch"] and "--secret" in call["argv"] and call["token"] == TOKEN
    assert TOKEN not in text + json.dumps(call["argv"])


def run_section(folder: Path, home: Path, rank: int) -> "subprocess.CompletedProcess[str]":
    """What a node of two runs; it waits no longer than it must."""
    task = Sky(folder).task(request('echo "$PET_NNODES $PET_RDZV_ENDPOINT $LANBOT_NODE_RANK it\'s"\n'))
    (folder / "bin" / "sleep").write_text("#!/bin/sh\n")
    (folder / "bin" / "sleep").chmod(0o755)
    env = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": str(rank)}
    env |= {"SKYPILOT_TASK_ID": "t", "HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run(["bash", "-euc", task["run"]], capture_output=True, text=True, env=env, check=False)


def test_the_run_section_is_a_shell_script_that_sets_up_torchrun(tmp_path: Path) -> None:
    for rank in range(2):
        assert run_section(tmp_path, tmp_path, rank).stdout == f"2 10.0.0.1:29400 {rank} it's\n"


def test_nodes_that_share_no_folder_are_told_before_anything_starts(tmp_path: Path) -> None:
    assert run_section(tmp_path, tmp_path / "first", 0).returncode == 0
    done = run_section(tmp_path, tmp_path / "second", 1)
    assert done.returncode == 1 and not done.stdout and "--num-nodes" in done.stderr


def test_a_job_is_listed_and_cancelled(tmp_path: Path) -> None:
    provider = Sky(tmp_path)
    id = provider.create(request("true\n"))
    found = provider.info(id)
    assert found and found.status == "active" and found.ours
    provider.delete(id)
    found = provider.info(id)
    assert found and found.status == "deleted"


def test_sky_failing_is_an_error_and_never_an_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Sky(tmp_path)
    monkeypatch.setenv("SKY_FAILS", "queue")
    with pytest.raises(UserError, match="no server"):
        provider.list()
    monkeypatch.setenv("SKY_FAILS", "launch")
    with pytest.raises(Unsettled):
        provider.create(request("true\n"))
    monkeypatch.setenv("LANBOT_SKY", str(tmp_path / "no" / "sky"))
    with pytest.raises(UserError, match="LANBOT_SKY"):
        provider.list()
