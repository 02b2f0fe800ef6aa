"""What a rented machine begins from is there before it is rented: the model, an import, the files of conversations."""

import json
from pathlib import Path

import pytest
from hub_stand_in import serve
from machines import Provider
from renting import LISTED, STORE, run
from shadeform_server import Server
from test_end_to_end import done, finished

from lanbot.cli import main
from lanbot.cloud import storage
from lanbot.cloud.hub_stores import HubStore
from lanbot.cloud.script import Job, startup

pytestmark = pytest.mark.usefixtures("place", "account")
ROW = {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am Gene's bot."}]}
RECIPE = """
name = "bot"
[sft]
batch_tokens = 256
sequence = 128
mixture = [{ task = "jsonl:data/identity.jsonl", epochs = 60 }]
[rl]
mixture = [{ task = "sums" }]
[evals]
tasks = ["identity:builtin"]
limit = 2
max_tokens = 8
"""


@pytest.fixture
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setenv("LANBOT_SOURCE", "")
    return serve(request, monkeypatch)


@pytest.fixture
def recipe(place: Path) -> str:
    (place / "data").mkdir()
    (place / "data/identity.jsonl").write_text(f"{json.dumps(ROW)}\n")
    (place / "bot.toml").write_text(RECIPE)
    return "bot.toml"


def job_of(account: Server) -> Job:
    return Job(**json.loads(account.alive[0].script.partition(": ")[2]))


def test_an_imported_run_is_sent_and_a_machine_trains_sft_from_it(
    account: Server,
    hub: dict[str, bytes],
    recipe: str,
    existing_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    place: Path,
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["import", str(existing_checkpoint), "--run", "bot", "--phase", "mid"])
    assert ended.value.code == 0
    said = run(capsys, "launch", "--yes", "--recipe", recipe, "--phase", "sft", *STORE)
    assert "tokenizer, base, mid" in said and len(account.alive) == 1
    job = job_of(account)
    assert (job.phases, job.source) == ("sft", "")

    store = place / "store"  # what the hub has, for a machine that really runs
    for name, content in hub.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(content)
    here = Job(**{**vars(job), "store": f"file:{store}", "gpus": 1, "deadline": "", "push_seconds": 0.2})
    machine = Provider(place / "machines").create(startup(here))
    finished(machine)
    after, _ = done(store)
    assert after["phase"] == "sft" and after["step"] > 1 and after["pushed"]["mid"] == 813
    assert "lanbot import" not in machine.console() and "importing" not in machine.console()
    origin = json.loads((store / "runs/bot/mid/imported.json").read_text())
    assert origin["checkpoint"] == "step_000813"


def test_the_conversations_of_a_recipe_are_sent_once(
    account: Server,
    hub: dict[str, bytes],
    recipe: str,
    capsys: pytest.CaptureFixture[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.update({"runs/bot/recipe.toml": b"", "runs/bot/mid/evals.json": b"{}"})
    launch = ("--recipe", recipe, "--phase", "sft", *STORE)
    assert "A launch sends data/identity.jsonl" in run(capsys, "launch", "--dry-run", *launch)
    assert "data/bot/data/identity.jsonl" not in hub
    run(capsys, "launch", "--yes", *launch)
    assert hub["data/bot/data/identity.jsonl"] == (place / "data/identity.jsonl").read_bytes()
    assert job_of(account).data == {"data/identity.jsonl": "data/bot/data/identity.jsonl"}
    run(capsys, "down", "bot")
    (place / "data/identity.jsonl").unlink()  # another machine of the person's, which has none
    monkeypatch.setattr(storage, "listed", LISTED)
    assert "sending" not in run(capsys, "launch", "--yes", *launch)
    assert job_of(account).data == {"data/identity.jsonl": "data/bot/data/identity.jsonl"}


def test_data_that_a_machine_could_not_have_is_refused_before_renting(
    account: Server, hub: dict[str, bytes], recipe: str, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    hub.update({"runs/bot/recipe.toml": b"", "runs/bot/mid/evals.json": b"{}"})
    launch = ("launch", "--yes", "--recipe", recipe, "--phase", "sft", *STORE)
    (place / "data/identity.jsonl").rename(place / "elsewhere.jsonl")
    assert "jsonl:data/identity.jsonl: no such file here" in run(capsys, *launch, code=2)
    for path, said in ((place / "elsewhere.jsonl", "no such folder"), ("../elsewhere.jsonl", "no such folder")):
        (place / recipe).write_text(RECIPE.replace("data/identity.jsonl", str(path)))
        assert said in run(capsys, *launch, code=2)
    (place / recipe).write_text(RECIPE.replace("jsonl:data/identity.jsonl", "corpus:/my/texts"))
    assert "/my/texts: a rented machine cannot read" in run(capsys, *launch, code=2)
    (place / recipe).write_text(RECIPE + '[base]\ndata = "/my/texts"\n')
    assert "/my/texts: a rented machine cannot read" in run(capsys, *launch[:4], *STORE, "--phase", "all", code=2)
    assert not account.bodies()


def test_conversations_beside_the_checkpoints_need_not_be_here(
    account: Server, recipe: str, capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / recipe).write_text(RECIPE.replace("data/identity.jsonl", "identity_conversations.jsonl"))
    names = ["identity_conversations.jsonl", "mid_checkpoints/d20/model_000813.pt"]
    monkeypatch.setattr(storage, "listed", lambda url: names if url == "hf:me/old" else [])
    run(capsys, "launch", "--yes", "--recipe", recipe, *STORE, "--source", "hf:me/old#mid")
    assert job_of(account).data == {}


@pytest.mark.parametrize(
    ("names", "phase", "source", "problem"),
    [
        ([], "sft", "hf:me/old#mid", "nothing can be read there"),
        (["base_checkpoints/d20/model_021400.pt"], "sft", "hf:me/old", "no model of mid there"),
        (["mid_checkpoints/d20/model_000813.pt"], "sft", "hf:me/old#mid/812", "no model of mid/812 there"),
        (["mid_checkpoints/d20/model_000813.pt"], "all", "hf:me/old", "which of its models?"),
        (["recipe.toml", "base/step_000002/model.safetensors"], "sft", "hf:me/old#mid", "no model of mid there"),
    ],
)
def test_a_source_without_the_model_is_refused_before_renting(
    account: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    phase: str,
    source: str,
    problem: str,
) -> None:
    monkeypatch.setattr(storage, "listed", lambda url: names)
    said = run(capsys, "launch", "--yes", "--phase", phase, *STORE, "--source", source, code=2)
    assert f"--source {source}: {problem}" in said and not account.bodies()


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["base_checkpoints/d20/model_021400.pt", "mid_checkpoints/d20/model_021400.pt"], "hf:me/old#mid/d20/21,400"),
        (["mid_checkpoints/d20/model_000813.pt"], "#mid"),
        (["recipe.toml", "mid/step_000813/model.safetensors"], "hf:me/old#mid"),
        (["config.json", "model.safetensors"], "hf:me/old#mid"),  # a single model's folder
        (["runs/d20/recipe.toml"], "hf:me/old#mid"),  # the store has the run: the source is not read
    ],
)
def test_a_source_with_the_model_is_taken(
    account: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    source: str,
) -> None:
    monkeypatch.setattr(storage, "listed", lambda url: names)
    run(capsys, "launch", "--yes", *STORE, "--source", source)
    assert len(account.alive) == 1


def test_agent_rl_starts_from_sft_where_rl_was_left_out(
    account: Server, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(capsys, "launch", "--yes", "--phase", "agent_rl", *STORE, code=2)
    assert "agent_rl starts from rl or sft" in said
    hub.update({"runs/d20/recipe.toml": b"", "runs/d20/sft/evals.json": b"{}"})
    run(capsys, "launch", "--yes", "--phase", "agent_rl", *STORE)
    assert len(account.alive) == 1


def test_the_names_of_a_source_are_those_of_its_repository(hub: dict[str, bytes]) -> None:
    HubStore("hf:me/bot").push({"b": b"2", "a/c": b"1"})
    assert LISTED("hf:me/bot") == ["a/c", "b"]
