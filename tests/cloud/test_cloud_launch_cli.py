"""lanbot cloud launch, as typed: what it refuses, shows, rents and sends."""

import json
import types
from collections.abc import Mapping
from pathlib import Path

import pytest
from hub_stand_in import serve
from renting import CLEAR, STORE, TOKEN, run
from shadeform_server import Server, instance_type, spot

from lanbot.cli import cloud_launch
from lanbot.cloud import storage
from lanbot.cloud.hub_stores import HubStore
from lanbot.cloud.stores import Content

pytestmark = pytest.mark.usefixtures("place")


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


@pytest.mark.parametrize("files", [{}, {"runs/d20/node/status.json": b"{}"}], ids=["no repository", "a repository"])
def test_a_token_that_may_only_read_is_refused_before_renting(
    account: Server,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
) -> None:
    serve(request, monkeypatch, read_only=True).update(files)
    monkeypatch.setattr(storage, "clear", CLEAR)
    *_, problem, remedy = run(capsys, "launch", "--yes", *STORE, code=1).splitlines()
    assert problem.startswith("lanbot: hf:me/bot: cannot be used") and "403" in problem
    assert "may write" in remedy and not account.bodies()


def test_the_proof_that_a_store_can_be_written_leaves_nothing_there(
    account: Server,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files, pushed, push = serve(request, monkeypatch), [], HubStore.push

    def record(store: HubStore, given: Mapping[str, Content]) -> None:
        push(store, given)
        pushed.extend(given.keys() & files.keys())

    monkeypatch.setattr(HubStore, "push", record)
    monkeypatch.setattr(storage, "clear", CLEAR)
    run(capsys, "launch", "--yes", *STORE)
    proof, mark = pushed  # the launch leaves a mark for the watch
    assert "proof" in proof and list(files) == [mark] and len(account.alive) == 1


def test_a_phase_without_a_model_to_start_from_is_refused_before_renting(
    account: Server,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANBOT_SOURCE", "")
    files = serve(request, monkeypatch)
    for phase, missing in (("sft", "sft starts from mid"), ("rl+mid", "mid starts from base")):
        said = run(capsys, "launch", "--yes", "--phase", phase, *STORE, code=2)
        assert missing in said and "hf:me/bot" in said and "--source" in said and "--phase all" in said
    files["runs/d20/mid/evals.json"] = b"{}"  # half a run: a machine would not take it up
    run(capsys, "launch", "--yes", "--phase", "sft", *STORE, code=2)
    assert not account.bodies()
    said = run(capsys, "launch", "--dry-run", "--phase", "sft", *STORE)
    assert "sft starts from mid" in said and not account.bodies()


@pytest.mark.parametrize("given", ["source", "store", "the phases before it"])
def test_a_phase_starts_from_a_source_the_store_or_the_phase_before_it(
    account: Server,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
) -> None:
    monkeypatch.setenv("LANBOT_SOURCE", "")
    files = serve(request, monkeypatch)
    if given == "store":
        files.update({"runs/d20/recipe.toml": b"", "runs/d20/mid/imported.json": b"{}"})
    flags = ("--source", "hf:me/old#mid") if given == "source" else ()
    phase = "base+mid+sft" if given == "the phases before it" else "sft"
    run(capsys, "launch", "--yes", "--phase", phase, *flags, *STORE)
    assert len(account.alive) == 1


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


def test_a_dry_run_needs_no_store_and_says_that_a_launch_does(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "launch", "--dry-run")
    assert "the plan: $24.00" in said and "LANBOT_STORE" in said and '"store": "hf:OWNER/NAME"' in said


def test_agent_rl_can_be_planned_and_launched(capsys: pytest.CaptureFixture[str]) -> None:
    assert "agent_rl" in run(capsys, "launch", "--dry-run", "--gpu", "B200", "--phase", "agent_rl", *STORE)


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


@pytest.mark.parametrize(
    ("store", "source", "data", "names"),
    [
        ("s3://bucket", "hf:me/old#mid", "builtin:world", {"HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        ("hf:me/bot", "s3://bucket#mid", "builtin:world", {"HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        ("s3://bucket", "#mid", "builtin:world", {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        ("s3://bucket", "#mid", "hf:me/texts", {"HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        ("hf:me/bot", "hf-bucket:me/old#mid", "builtin:world", {"HF_TOKEN"}),
    ],
)
def test_the_machine_gets_the_credentials_of_its_store_and_its_source_and_no_others(
    account: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    store: str,
    source: str,
    data: str,
    names: set[str],
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"the {name}")
    Path("my.toml").write_text(f'name = "my"\n[base]\ndata = "{data}"\n')
    run(capsys, "launch", "--yes", "--recipe", "my.toml", "--store", store, "--source", source)
    assert account.alive[0].envs.keys() == names


def test_a_model_on_this_machine_is_refused_with_what_to_do(
    account: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my.toml").write_text('name = "my"\n[model]\ninit_from = "/my/model#mid"\n')
    for flags in (("--source", "/my/model#mid"), ("--source", "", "--recipe", "my.toml")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LANBOT_SOURCE", "")
            said = run(capsys, "launch", "--yes", *flags, *STORE, code=2)
        assert "/my/model#mid: a rented machine cannot read" in said
        assert "hf upload OWNER/NAME /my/model" in said and "--source hf:OWNER/NAME#mid" in said
    assert not account.bodies()


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


# -- other providers, records ------------------------------------------------------------------------------


def test_own_hosts_and_sky_are_previewed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    ssh = run(capsys, "launch", "--provider", "ssh", "--host", "me@one", "--host", "two", "--dry-run", *STORE)
    sky = run(capsys, "launch", "--provider", "sky", "--cloud", "aws", "--price", "30", "--dry-run", *STORE)
    assert "ssh me@one" in ssh and '"infra": "aws"' in sky and TOKEN not in ssh + sky
    assert "--price" in run(capsys, "launch", "--provider", "sky", "--dry-run", *STORE, code=2)
    assert "--host" in run(capsys, "launch", "--provider", "ssh", "--dry-run", *STORE, code=2)
    assert "shadeform, ssh, sky" in run(capsys, "launch", "--provider", "nope", "--dry-run", *STORE, code=2)


def test_only_sky_joins_machines_by_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    sky = ("--provider", "sky", "--price", "60", "--num-nodes", "2")
    said = run(capsys, "launch", *sky, "--dry-run", *STORE)
    assert '"num_nodes": 2' in said and "2 machines of 8xH100" in said
    assert "the plan: $30.00" in said  # half an hour of sixteen GPUs
    for others in ((), ("--provider", "ssh", "--host", "one")):
        assert "--provider sky" in run(capsys, "launch", *others, "--num-nodes", "2", "--dry-run", *STORE, code=2)
    assert "at least one" in run(capsys, "launch", *sky[:-1], "0", "--dry-run", *STORE, code=2)
