"""lanbot cloud and its scripts, as typed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from renting import STORE, run
from shadeform_server import Server, instance_type, spot

from lanbot.cloud import records, storage
from lanbot.core.errors import UserError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("place")


# -- looking, ending ---------------------------------------------------------------------------------------


def test_offers_show_price_and_planned_cost(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    account.types.append(
        instance_type("B200", 8, 3_360, places=[spot("s", "20.00"), {"region": "r", "available": True}])
    )
    lines = run(capsys, "offers").splitlines()
    assert lines[2].split() == ["8xB200", "hyperstack", "r", "B200x8", "33.60", "16.80"]
    assert lines[3].split() == ["8xH100", "hyperstack", "canada-1", "H100x8", "24.00", "24.00"]
    assert "yes" in run(capsys, "offers", "--spot")


def test_status_shows_state_step_and_what_was_spent(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No run has a machine" in run(capsys, "status")
    run(capsys, "launch", "--yes", *STORE)
    account.advance(120 + 1_800)
    said = run(capsys, "status")
    assert all(part in said for part in ("d20", "active", "sft", "40 (50%)", "32m00s", "$12.00 of $72.00"))
    assert "never launched" in run(capsys, "status", "other", code=1)
    account.add(account.bodies()[0])
    assert "2 machines instead of one" in run(capsys, "status")


@pytest.mark.parametrize("command", [("status",), ("ls",), ("ls", "--orphans"), ("down", "d20")])
def test_a_list_that_fails_is_exit_code_1(
    account: Server, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    run(capsys, "launch", "--yes", *STORE)
    account.fail("GET list", *["503"] * 6)
    assert "503" in run(capsys, *command, code=1)
    assert account.alive


def test_down_says_what_it_cost(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "launch", "--yes", *STORE)
    account.advance(3_600 + 120)
    assert "no machine left, $24.00 spent" in run(capsys, "down", "d20")
    assert not account.alive
    run(capsys, "down", code=2)
    assert "never launched" in run(capsys, "down", "other", code=1)


def test_orphans_are_listed_and_deleted_by_id(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No machine without a launch" in run(capsys, "ls", "--orphans")
    run(capsys, "launch", "--yes", *STORE)
    (made,) = account.alive
    assert made.name in run(capsys, "ls")
    Path("runs/.cloud/d20.json").unlink()
    assert made.id in run(capsys, "ls", "--orphans", code=1)
    assert "gone" in run(capsys, "down", "--id", made.id)
    assert not account.alive
    foreign = account.add(made.body | {"name": "production", "tags": []})
    assert "not one that LanBot rented" in run(capsys, "down", "--id", foreign.id, code=1)
    assert foreign in account.alive


def test_watch_ends_with_the_run(
    account: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "launch", "--yes", *STORE)

    def said_so_far(record: records.Record) -> dict[str, Any]:
        return {"done.json": {}} if account.seconds > 3_720 else {"status.json": {"time": account.now().isoformat()}}

    monkeypatch.setattr(storage, "said", said_so_far)
    said = run(capsys, "watch", "d20", "--recover")
    assert "ended, $24." in said and "hf:me/bot" in said and not account.alive


def test_status_warns_of_a_machine_that_has_been_silent_for_long(
    account: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "launch", "--yes", *STORE)
    account.advance(200)
    last = {"status.json": {"phase": "sft", "time": account.now().isoformat()}}
    monkeypatch.setattr(storage, "said", lambda record: last)
    account.advance(29 * 60)
    assert "may be stuck" not in run(capsys, "status")
    account.advance(2 * 60)
    said = run(capsys, "status")
    assert "may be stuck" in said and "lanbot cloud logs d20" in said and "lanbot cloud down d20" in said

    def unreadable(record: records.Record) -> None:
        raise UserError("hf:me/bot: cannot be read", "")

    monkeypatch.setattr(storage, "said", unreadable)
    said = run(capsys, "status")
    assert "cannot be read" in said and "may be stuck" not in said


def test_watch_says_why_a_run_failed(
    account: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "launch", "--yes", *STORE)
    monkeypatch.setattr(storage, "said", lambda record: {"failed.json": {"reason": "the disk is full"}})
    said = run(capsys, "watch", "d20", "--recover", code=1)
    assert "failed: the disk is full" in said and not account.alive


def test_logs_and_ssh_reach_the_machine(
    account: Server, capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = place / "bin" / "ssh"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {place}/calls\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    run(capsys, "launch", "--yes", *STORE)
    assert "no address yet" in run(capsys, "ssh", "d20", code=1)
    account.advance(200)
    run(capsys, "ssh", "d20")
    run(capsys, "logs", "d20", "--follow")
    one, two = (place / "calls").read_text().splitlines()
    assert one.endswith("shadeform@203.0.113.7") and "journalctl -u init-script" in two and two.endswith("-f")


# -- the scripts -------------------------------------------------------------------------------------------


def script(name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **env}
    command = [str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=given, stdin=subprocess.DEVNULL)


def test_the_scripts_pass_their_flags_on() -> None:
    launched = script("launch_shadeform.sh", "--phase", "nope")
    assert launched.returncode == 2 and "agent_rl" in launched.stderr
    launched = script("launch_shadeform.sh", "--nope")
    assert launched.returncode == 2 and "--all-configs" in launched.stderr
    status = script("check_training_status.sh")
    assert status.returncode == 0 and "No run has a machine" in status.stdout, status.stderr


@pytest.mark.parametrize("seconds", [(), ("5",)])
def test_the_status_script_watches_every_so_many_seconds(seconds: tuple[str, ...], place: Path) -> None:
    command = [str(ROOT / "scripts" / "check_training_status.sh"), "--watch", *seconds]
    given = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=given, stderr=subprocess.PIPE) as process:
        assert process.stdout and "No run has a machine" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


# -- records ----------------------------------------------------------------------------------------------


def test_records_hold_no_secret_and_survive_a_round_trip(
    account: Server, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    run(capsys, "launch", "--yes", *STORE)
    record = records.load(place / "runs" / ".cloud", "d20")
    assert record and record.node.offer.gpu == "H100" and record.job["store"] == "hf:me/bot"
    (place / "runs/.cloud/d20.json").write_text("{")
    assert "ls --orphans" in run(capsys, "status", "d20", code=1)
