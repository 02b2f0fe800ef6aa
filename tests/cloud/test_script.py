"""The start-up script: it is bash, holds no secret, obeys nothing in its values, and starts the job until it ends."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from machines import Machine

from lanbot.cloud.script import Job, load_job, startup
from lanbot.core.errors import UserError

HOSTILE = "x'; touch {0}; echo \"$(touch {0})`touch {0}` ${{HOME}} @JOB@ @PACKAGES@\nEND_OF_JOB\ntouch {0}\n#"
SECRET = "hf_very'secret$(touch pwned) \"word\\"


def job(**changes: object) -> Job:
    return Job(**{"run": "bot", "recipe": 'name = "bot"', "phases": "sft", "store": "/store", **changes})  # type: ignore[arg-type]


def fake_lanbot(root: Path, code: str) -> Path:
    """A package lanbot whose node does this, and a Python that finds it."""
    package = root / "lanbot" / "cloud"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "node.py").write_text(f"import json, os, sys, time\n{code}")
    return root


def started(tmp_path: Path, script: str, code: str, **envs: str) -> Machine:
    return Machine(tmp_path / "box", script, {"PYTHONPATH": str(fake_lanbot(tmp_path / "fake", code)), **envs})


def finished(machine: Machine) -> int:
    return machine.process.wait(timeout=60)


@pytest.mark.parametrize("store", ["/store", "s3://bucket/x"])
def test_it_is_bash_and_shellcheck_has_nothing_to_say(tmp_path: Path, store: str) -> None:
    script = tmp_path / "start.sh"
    hostile = HOSTILE.format(tmp_path / "pwned")
    script.write_text(startup(job(store=store, package=hostile, recipe=hostile)))
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).stderr == b""
    if shellcheck := shutil.which("shellcheck"):
        found = subprocess.run([shellcheck, "-S", "warning", script], capture_output=True, text=True, check=False)
        assert found.stdout == ""
    assert ("boto3" in script.read_text()) == store.startswith("s3:")


def test_it_writes_the_job_and_runs_it(tmp_path: Path) -> None:
    hostile = HOSTILE.format(tmp_path / "pwned")
    wanted = job(
        recipe=hostile, phases=hostile, source=hostile, package=hostile, overrides=[hostile], data={"a": hostile}
    )
    machine = started(tmp_path, startup(wanted), ARGUMENTS)
    assert finished(machine) == 0, machine.console()
    assert load_job(machine.root / "job.json") == wanted
    assert (machine.root / "arguments").read_text() == "job.json"
    assert not (tmp_path / "pwned").exists()


ARGUMENTS = """
if __name__ == "__main__":
    open("arguments", "w").write(" ".join(sys.argv[1:]))
"""
ENVIRONMENT = """
if __name__ == "__main__":
    json.dump(dict(os.environ), open("seen", "w"))
"""
CRASHES = """
if __name__ == "__main__":
    with open("times", "a") as file:
        file.write("x")
    if os.path.getsize("times") < 3:
        os.kill(os.getpid(), 9)
"""
FAILS = """
if __name__ == "__main__":
    with open("times", "a") as file:
        file.write("x")
    sys.exit(1)
"""
STOPS = """
import signal
if __name__ == "__main__":
    def save(*_):
        time.sleep(0.3)
        open("saved", "w").close()
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    open("ready", "w").close()
    time.sleep(60)
"""


STUB = """#!/bin/bash
printf '%s\\n' "$*" >> "$LANBOT_NODE_ROOT/calls"
case "$*" in
  "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"import lanbot"*) exit 1 ;;
  *"pip install"*) printf '%s\\0' "${@:5}" > "$LANBOT_NODE_ROOT/installed"; [ -e "$LANBOT_NODE_ROOT/online" ] ;;
esac
"""


def test_it_installs_the_package_and_tries_again_without_a_network(tmp_path: Path) -> None:
    root, programs = tmp_path / "box", tmp_path / "bin"
    root.mkdir()
    programs.mkdir()
    (programs / "python3").write_text(STUB)
    (programs / "python3").chmod(0o755)
    (programs / "sleep").write_text('#!/bin/bash\ntouch "$LANBOT_NODE_ROOT/online"\n')
    (programs / "sleep").chmod(0o755)
    package = HOSTILE.format(tmp_path / "pwned")
    script = startup(job(package=package, store="s3://bucket"))
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "LANBOT_NODE_ROOT": str(root)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "installed").read_text() == f"{package}\0boto3\0"
    calls = (root / "calls").read_text()
    assert calls.count("-m venv venv") == 2 and "-m lanbot.cloud.node job.json" in calls
    assert not (tmp_path / "pwned").exists()


def test_secrets_reach_the_job_and_nothing_else(tmp_path: Path) -> None:
    machine = started(tmp_path, startup(job()), ENVIRONMENT, HF_TOKEN=SECRET, SHADEFORM_API_KEY="account")
    assert finished(machine) == 0, machine.console()
    assert json.loads((machine.root / "seen").read_text())["HF_TOKEN"] == SECRET
    assert "very" not in machine.console() + (machine.root / "setup.log").read_text()
    holds = [path for path in machine.root.iterdir() if path.is_file() and b"very" in path.read_bytes()]
    assert {path.name for path in holds} == {"env", "seen"}
    assert (machine.root / "env").stat().st_mode & 0o077 == 0
    assert "account" not in (machine.root / "env").read_text()
    assert not (machine.root / "pwned").exists()


def test_a_job_that_is_killed_is_started_again(tmp_path: Path) -> None:
    script = startup(job()).replace("sleep 10", "sleep 0.1")
    machine = started(tmp_path, script, CRASHES)
    assert finished(machine) == 0
    assert (machine.root / "times").read_text() == "xxx"


def test_a_job_that_has_failed_is_not(tmp_path: Path) -> None:
    machine = started(tmp_path, startup(job()), FAILS)
    assert finished(machine) == 1
    assert (machine.root / "times").read_text() == "x"


def test_a_signal_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    machine = started(tmp_path, startup(job()), STOPS)
    end = time.monotonic() + 60
    while not (machine.root / "ready").exists():
        assert time.monotonic() < end, machine.console()
        time.sleep(0.01)
    os.kill(machine.process.pid, signal.SIGTERM)
    assert finished(machine) == 143
    assert (machine.root / "saved").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "../up"},
        {"run": "a b; rm -rf $HOME"},
        {"run": ""},
        {"data": {"/etc/passwd": "x"}},
        {"data": {"../x": "x"}},
        {"deadline": "tomorrow"},
        {"deadline": "2026-01-31T12:00:00"},
    ],
)
def test_a_job_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        job(**wrong)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": "a", "other": 1}', "{"])
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(UserError, match="not a job"):
        load_job(tmp_path / "job.json")


def test_a_deadline_is_a_time_with_its_zone() -> None:
    assert job(deadline="2026-01-31T12:00:00Z").ends() == job(deadline="2026-01-31T13:00:00+01:00").ends()
    assert job().ends() == float("inf")
