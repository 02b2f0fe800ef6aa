"""lanbot cloud and its scripts, as typed."""

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TOKEN
from shadeform_server import Server, instance_type, spot

from lanbot.cli import cloud_launch, main
from lanbot.cloud import records, storage
from lanbot.core.errors import UserError

ROOT = Path(__file__).parents[2]
STORE = ("--store", "hf:me/bot")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, no keys, no machine's environment; a plan of one hour a phase; a node that says nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    for name in ("SHADEFORM_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "LANBOT_STORE", "LANBOT_SOURCE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(storage, "said", lambda record: {"status.json": {"phase": "sft", "step": 40, "progress": 0.5}})
    monkeypatch.setattr(storage, "clear", lambda record: None)
    for name, stub in stubs().items():
        monkeypatch.setitem(sys.modules, f"lanbot.cloud.{name}", stub)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def stubs() -> dict[str, Any]:
    """Stand-ins for the plan and the start-up script: one hour on eight H100s, half of it on B200s."""

    class GPUs:
        def __init__(self, text: str) -> None:
            count, _, self.kind = text.partition("x")
            self.hours = 8 / int(count) / (2 if self.kind == "B200" else 1)

        parse = classmethod(lambda cls, text: cls(text))

    class Plan:
        phases = ()

        def __init__(self, recipe: Any, options: Any, phases: str, gpus: GPUs, price: float) -> None:
            self.dollars = gpus.hours * price * len(phases.split("+"))

        def json(self) -> dict[str, Any]:
            return {"dollars": {"expected": self.dollars}}

        def table(self) -> str:
            return f"the plan: ${self.dollars:.2f}"

    class Job:
        def __init__(self, **values: Any) -> None:
            self.values = values

    gpus, plan, script = (types.ModuleType(name) for name in ("gpus", "plan", "script"))
    gpus.GPUs, plan.plan, plan.cost, script.Job = GPUs, Plan, lambda plan: plan.dollars, Job  # type: ignore
    script.startup = lambda job: f"#!/bin/bash\n: {json.dumps(job.values)}\n"  # type: ignore
    return {"gpus": gpus, "plan": plan, "script": script}


@pytest.fixture
def account(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """With the key in the environment."""
    monkeypatch.setenv("SHADEFORM_API_URL", server.url)
    monkeypatch.setenv("SHADEFORM_API_KEY", server.key)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What it prints, stdout and stderr."""
    with pytest.raises(SystemExit) as stopped:
        main(["cloud", *arguments])
    captured = capsys.readouterr()
    assert stopped.value.code == code, captured
    return captured.out + captured.err


# -- wrong usage -------------------------------------------------------------------------------------------


def test_an_unknown_phase_lists_the_phases(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "launch", "--phase", "chat", *STORE, code=2)
    assert all(phase in said for phase in ("tokenizer", "base", "mid", "sft", "rl", "agent_rl", "all"))
    run(capsys, "launch", "--phase", "sft+nope", *STORE, code=2)


def test_an_unknown_flag_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "launch", "--gpus", "8", code=2)
    flags = "--phase --run-name --gpu --num-gpus --all-configs --spend-limit --cloud --region --instance-type --dry-run"
    assert all(flag in said for flag in flags.split())


def test_a_launch_without_a_store_says_how_to_name_one(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert "LANBOT_STORE" in run(capsys, "launch", "--yes", code=2)
    assert not account.bodies()


def test_a_store_that_a_rented_machine_cannot_write_is_refused(
    account: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot reach" in run(capsys, "launch", "--yes", "--store", "/my/disk", code=2)
    monkeypatch.setenv("HF_TOKEN", "")
    assert "HF_TOKEN" in run(capsys, "launch", "--yes", *STORE, code=2)
    assert not account.bodies()


@pytest.mark.parametrize("origin", ["https://me:token@host/me/bot.git", "git@host:me/bot.git", "ssh://git@host/me/bot"])
def test_the_machine_installs_by_https_without_a_user(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"remote": origin, "rev-parse": "c0ffee", "branch": "origin/main"}
    said = lambda argv, **_: types.SimpleNamespace(stdout=answers[argv[3]])  # noqa: E731
    monkeypatch.setattr(cloud_launch.subprocess, "run", said)
    assert (
        cloud_launch.installed_package().removesuffix("@c0ffee").removesuffix(".git")
        == "lanbot @ git+https://host/me/bot"
    )


# -- launching ---------------------------------------------------------------------------------------------


def test_a_dry_run_needs_no_key_and_prints_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SHADEFORM_API_URL", "http://127.0.0.1:9/v1")
    said = run(capsys, "launch", "--dry-run", "--gpu", "B200", *STORE)
    assert "the plan: $12.00" in said and '"spend_threshold": "48.00"' in said and "***" in said
    assert TOKEN not in said and not Path("runs").exists()


def test_a_dry_run_with_a_key_rents_nothing(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "launch", "--dry-run", "--run-name", "lanbot-v3", *STORE)
    assert "hyperstack" in said and "lanbot-lanbot-v3-" in said
    assert not account.bodies() and TOKEN not in said and account.key not in said


def test_a_launch_asks_and_without_a_terminal_needs_yes(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "launch", *STORE, code=1)
    assert "the plan: $24.00" in said and "$24.00/h" in said and "capped at $72.00" in said and "--yes" in said
    assert not account.bodies()
    said = run(capsys, "launch", "--yes", *STORE)
    assert "lanbot cloud watch d20" in said and len(account.alive) == 1
    assert "launched already" in run(capsys, "launch", "--yes", *STORE, code=1)
    assert len(account.alive) == 1


def test_the_plan_must_fit_into_the_spend_limit(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "launch", "--yes", "--phase", "sft+rl", "--spend-limit", "40", *STORE, code=1)
    assert "expects $48.00" in said and not account.bodies()


def test_the_machine_gets_the_job_and_the_token_but_not_the_account(
    account: Server, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    (place / ".env").write_text("# keys\nexport WANDB_API_KEY='wandb-1'\nLANBOT_STORE=hf:from/dotenv\n")
    run(capsys, "launch", "--yes", "--phase", "sft", "--run-name", "v3", "--spend-limit", "150")
    (made,) = account.alive
    assert made.envs == {"HF_TOKEN": TOKEN, "WANDB_API_KEY": "wandb-1"}
    job = json.loads(made.script.partition(": ")[2])
    assert (job["run"], job["phases"], job["store"], job["gpus"]) == ("v3", "sft", "hf:from/dotenv", 8)
    assert 'name = "v3"' in job["recipe"] and job["deadline"]
    saved = (place / "runs/.cloud/v3.json").read_text()
    assert not any(secret in made.script + saved for secret in (account.key, TOKEN, "wandb-1"))


def test_without_a_gpu_the_cheapest_run_is_taken(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    account.types.append(instance_type("B200", 8, 3_360))
    run(capsys, "launch", "--yes", *STORE)
    run(capsys, "launch", "--yes", "--gpu", "H100", "--run-name", "other", *STORE)
    assert [body["shade_instance_type"] for body in account.bodies()] == ["B200x8", "H100x8"]


def test_spot_is_taken_only_when_asked_for(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    account.types = [instance_type(places=[spot("here", "9.60")])]
    assert "--spot" in run(capsys, "launch", "--yes", *STORE, code=1)
    said = run(capsys, "launch", "--yes", "--spot", *STORE)
    assert "spot" in said and account.bodies()[0]["rental_type"] == "spot"


def test_too_little_credit_is_said(account: Server, capsys: pytest.CaptureFixture[str]) -> None:
    account.fail("POST create", "funds")
    said = run(capsys, "launch", "--yes", *STORE, code=1)
    assert "INSUFFICIENT_FUNDS" in said and "Add credit" in said


def test_without_a_key_the_remedy_names_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "SHADEFORM_API_KEY" in run(capsys, "launch", "--yes", *STORE, code=1)
    assert "SHADEFORM_API_KEY" in run(capsys, "ls", code=1)


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


# -- other providers, records ------------------------------------------------------------------------------


def test_own_hosts_and_sky_are_previewed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    ssh = run(capsys, "launch", "--provider", "ssh", "--host", "me@one", "--host", "two", "--dry-run", *STORE)
    sky = run(capsys, "launch", "--provider", "sky", "--cloud", "aws", "--price", "30", "--dry-run", *STORE)
    assert "ssh me@one" in ssh and '"infra": "aws"' in sky and TOKEN not in ssh + sky
    assert "--price" in run(capsys, "launch", "--provider", "sky", "--dry-run", *STORE, code=2)
    assert "--host" in run(capsys, "launch", "--provider", "ssh", "--dry-run", *STORE, code=2)
    assert "shadeform, ssh, sky" in run(capsys, "launch", "--provider", "nope", "--dry-run", *STORE, code=2)


def test_records_hold_no_secret_and_survive_a_round_trip(
    account: Server, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    run(capsys, "launch", "--yes", *STORE)
    record = records.load(place / "runs" / ".cloud", "d20")
    assert record and record.node.offer.gpu == "H100" and record.job["store"] == "hf:me/bot"
    (place / "runs/.cloud/d20.json").write_text("{")
    assert "ls --orphans" in run(capsys, "status", "d20", code=1)
