"""What is ready on the launching machine is in the store before one is rented, and nothing else is touched there."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hub_stand_in import serve
from renting import STORE, run
from shadeform_server import Server

from lanbot.cli import main
from lanbot.cloud.hub_stores import HubStore
from lanbot.cloud.stores import Content, open_store
from lanbot.cloud.sync import RunSync
from lanbot.config.run import Run
from lanbot.models import saved

pytestmark = pytest.mark.usefixtures("place", "account")
PREFIX = "runs/smoke/"
FILES = {"recipe.toml", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "tokenizer/evals.json"}
LAUNCH = ("launch", "--yes", "--recipe", "smoke", "--phase", "all", *STORE)


@pytest.fixture
def prepared(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder after `lanbot prepare smoke`."""
    monkeypatch.setenv("LANBOT_SOURCE", "")
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "smoke"])
    assert ended.value.code == 0
    return place / "runs/smoke"


@pytest.fixture
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    return serve(request, monkeypatch)


def finished(folder: Path, phase: str, state: str = "weights") -> Path:
    """Makes a phase of a run as training leaves it; its checkpoint."""
    step = folder / phase / "step_000002"
    step.mkdir(parents=True)
    (step / "model.safetensors").write_text(state)
    entry = {"bytes": len(state), "sha256": saved.sha256(step / "model.safetensors")}
    (step / "manifest.json").write_text(json.dumps({"step": 2, "files": {"model.safetensors": entry}}))
    (folder / phase / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    (folder / phase / "evals.json").write_text('{"checkpoint": "step_000002"}')
    return step


def test_the_prepared_tokenizer_is_sent_before_the_machine_is_rented(
    account: Server, prepared: Path, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = run(capsys, *LAUNCH)
    assert "sending" in said and "tokenizer" in said and len(account.alive) == 1
    assert {PREFIX + name for name in FILES} <= hub.keys()
    for name in FILES:
        assert hub[PREFIX + name] == (prepared / name).read_bytes(), name
    machine = RunSync(open_store("hf:me/bot"), "smoke", tmp_path / "machine/smoke")
    assert machine.pull() and Run.open("smoke", tmp_path / "machine").done("tokenizer"), "it trains none of its own"


def test_an_earlier_phase_that_is_done_is_sent_and_later_ones_are_not_begun(
    account: Server, prepared: Path, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    finished(prepared, "base")
    (prepared / "mid/step_000001").mkdir(parents=True)
    run(capsys, *LAUNCH[:4], "--phase", "mid", *STORE)
    assert hub[PREFIX + "base/step_000002/model.safetensors"] == b"weights" and len(account.alive) == 1
    assert not [name for name in hub if "/mid/" in name]
    machine = RunSync(open_store("hf:me/bot"), "smoke", tmp_path / "machine/smoke")
    assert machine.pull() and saved.latest(machine.folder / "base")


def test_what_the_store_has_is_not_sent_again_and_the_rest_is(
    prepared: Path, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(prepared, "base")
    run(capsys, *LAUNCH)
    run(capsys, "down", "smoke")
    whole, pushed, push = dict(hub), [], HubStore.push

    def record(store: HubStore, files: Mapping[str, Content]) -> None:
        pushed.extend(files)
        push(store, files)

    monkeypatch.setattr(HubStore, "push", record)
    assert "sending" not in run(capsys, *LAUNCH) and not pushed
    run(capsys, "down", "smoke")
    broken_off = [PREFIX + name for name in ("base/step_000002/manifest.json", "base/evals.json", "recipe.toml")]
    for name in broken_off:
        del hub[name]
    assert "sending" in run(capsys, *LAUNCH)
    assert pushed == broken_off and hub == whole


def test_a_store_whose_run_differs_is_left_alone(
    account: Server, prepared: Path, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (prepared / "recipe.toml").read_text()
    for other in (
        {PREFIX + "tokenizer/tokenizer.json": b"{}", PREFIX + "recipe.toml": recipe.encode()},
        {PREFIX + "recipe.toml": recipe.replace("seed = ", "seed = 9", 1).encode()},
    ):
        hub.clear()
        hub.update(other)
        said = run(capsys, *LAUNCH, code=1)
        assert "hf:me/bot: its run smoke differs" in said and "--run-name" in said
        assert hub == other and not account.bodies()


def test_a_run_here_of_another_recipe_is_not_sent(
    account: Server, prepared: Path, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (prepared / "recipe.toml").read_text()
    Path("changed.toml").write_text(text.replace("seed = ", "seed = 9", 1))
    said = run(capsys, "launch", "--yes", "--recipe", "changed.toml", "--phase", "all", *STORE, code=1)
    assert "seed = " in said and "--run-name" in said and not hub and not account.bodies()


def test_a_base_of_the_store_is_not_mixed_with_another_one(
    prepared: Path, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    finished(prepared, "base")
    run(capsys, *LAUNCH)
    run(capsys, "down", "smoke")
    there = dict(hub)
    shutil.rmtree(prepared / "base")
    finished(prepared, "base", "others")
    run(capsys, *LAUNCH)
    assert hub == there


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(
    prepared: Path, hub: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(capsys, "launch", "--dry-run", *LAUNCH[2:])
    assert "lacks of" in said and "tokenizer" in said and not hub
