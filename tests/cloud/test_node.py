"""The node: whatever dies, the store has a run that goes on to the same weights, and never half of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import serve

from lanbot.cloud import node as node_module
from lanbot.cloud.node import Node
from lanbot.cloud.script import Job
from lanbot.cloud.source import wanted
from lanbot.cloud.stores import Content, FolderStore
from lanbot.cloud.sync import RunSync
from lanbot.core.errors import UserError
from lanbot.models import saved

FAKE = Path(__file__).with_name("fake_training.py")
STATE = "runs/bot/node/"


class Faulty(FolderStore):
    """A folder whose next puts fail, or whose wire does something to a file on the way."""

    every = 0.05

    def __init__(self, root: Path) -> None:
        super().__init__(str(root), root)
        self.fault: Callable[[str], None] = lambda name: None
        self.order: list[str] = []

    def _put(self, files: Mapping[str, Content]) -> None:
        for name, content in files.items():
            self.fault(name)
            super()._put({name: content})
            self.order.append(name)

    def state(self, name: str) -> dict[str, Any]:
        return json.loads((self.root / STATE / name).read_text())  # type: ignore[no-any-return]


class Fake(Node):
    """A node whose training is fake_training.py."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def command(self, arguments: list[str]) -> list[str]:
        return [sys.executable, str(FAKE), str(self.folder), json.dumps(self.options)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"PAUSE": 0.05, "PAUSE_MOST": 0.1, "POLL": 0.01}.items():
        monkeypatch.setattr(node_module, name, value)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def store(tmp_path: Path) -> Faulty:
    return Faulty(tmp_path / "store")


def made(tmp_path: Path, store: Faulty, box: str = "box", job: dict[str, Any] | None = None, **options: Any) -> Fake:
    node = Fake(
        Job(**{"run": "bot", "recipe": "", "phases": "sft", "store": "x", **(job or {})}), tmp_path / box, store
    )
    node.options = options
    return node


def weights(root: Path) -> bytes:
    folder = saved.latest(root / "runs" / "bot" / "sft")
    assert folder is not None
    assert folder.name == "step_000010"
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def right(tmp_path: Path) -> bytes:
    """The weights of a run that nothing happened to."""
    assert made(tmp_path, Faulty(tmp_path / "other store"), "other box", seconds=0).run() == 0
    return weights(tmp_path / "other box")


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def when(reached: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    def watch() -> None:
        end = time.monotonic() + 60
        while not reached() and time.monotonic() < end:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


# -- what a finished job leaves ------------------------------------------------------------------------------


def test_a_finished_job_is_in_the_store_and_says_so(tmp_path: Path, store: Faulty, right: bytes) -> None:
    assert made(tmp_path, store).run() == 0
    assert weights(store.root) == right
    done = store.state("done.json")
    assert done["phases"] == "sft" and done["pushed"] == {"sft": 10}
    assert done["files"]["sft/step_000010/model.safetensors"] == saved.sha256(
        store.root / "runs/bot/sft/step_000010/model.safetensors"
    )
    assert store.state("status.json")["state"] == "done"
    assert "done" in (store.root / STATE / "train.log").read_text()
    assert len((store.root / "runs/bot/sft/metrics.jsonl").read_text().splitlines()) == 10


def test_the_status_says_where_training_is(tmp_path: Path, store: Faulty) -> None:
    node = made(tmp_path, store, seconds=0.1)
    seen: dict[str, Any] = {}
    path = store.root / STATE / "status.json"
    watch = when(
        lambda: path.is_file() and (json.loads(path.read_text())["step"] or 0) >= 3,
        lambda: seen.update(json.loads(path.read_text())),
    )
    node.run()
    watch.join()
    assert seen["state"] == "training" and seen["phase"] == "sft" and seen["loss"] == pytest.approx(1 / seen["step"])
    assert seen["phase_seconds_left"] == 10 - seen["step"] and not seen["problem"]


def test_checkpoints_are_pushed_manifest_last_and_done_after_them(tmp_path: Path, store: Faulty) -> None:
    made(tmp_path, store, seconds=0.05).run()
    names = [name.removeprefix("runs/bot/") for name in store.order]
    last = {
        step: [n for n in names if n.startswith(f"{step}/")][-1] for step in {n[:15] for n in names if "step_" in n}
    }
    assert len(last) >= 2
    assert all(name.endswith("/manifest.json") for name in last.values())
    assert names.index("sft/step_000010/manifest.json") < names.index("sft/evals.json")
    assert names.index("sft/step_000010/manifest.json") < names.index("node/done.json")


def test_the_store_keeps_two_checkpoints_of_a_phase(tmp_path: Path, store: Faulty) -> None:
    made(tmp_path, store, seconds=0.1).run()
    kept = saved.steps(store.root / "runs/bot/sft")
    assert len(kept) == 2 and saved.damage(kept[-1]) is None and saved.damage(kept[-2]) is None


# -- the machine is lost -------------------------------------------------------------------------------------


def as_process(tmp_path: Path, box: str, **options: Any) -> "subprocess.Popen[bytes]":
    """A node in a process of its own, to be killed."""
    code = (
        "import sys, json; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/..']\n"
        "import test_node as t; from pathlib import Path\n"
        "store = t.Faulty(Path(sys.argv[2]) / 'store')\n"
        "sys.exit(t.made(Path(sys.argv[2]), store, sys.argv[3], **json.loads(sys.argv[4])).run())"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here, str(tmp_path), box, json.dumps(options)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def until_pushed(store: Faulty, step: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while not (store.root / f"runs/bot/sft/step_{step:06d}/manifest.json").is_file():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)


def test_a_run_whose_machine_is_lost_goes_on_from_the_newest_checkpoint(
    tmp_path: Path, store: Faulty, right: bytes
) -> None:
    process = as_process(tmp_path, "lost", seconds=0.2)
    until_pushed(store, 4, process)
    process.kill()
    process.wait()
    shutil.rmtree(tmp_path / "lost", ignore_errors=True)
    assert made(tmp_path, store, "new").run() == 0
    log = (tmp_path / "new/train.log").read_text()
    assert "resuming from step 4" in log or "resuming from step 6" in log
    assert weights(store.root) == right == weights(tmp_path / "new")
    steps = [json.loads(line)["step"] for line in (store.root / "runs/bot/sft/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 11))


def test_a_killed_node_leaves_no_training_behind(tmp_path: Path, store: Faulty) -> None:
    process = as_process(tmp_path, "box", seconds=0.2, steps=10_000)
    until_pushed(store, 2, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while any(alive(int(pid)) for pid in children):
        assert time.monotonic() < end, "training goes on"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_checkpoint_without_manifest_in_the_store_is_not_used(tmp_path: Path, store: Faulty, right: bytes) -> None:
    """Killed between the push of a checkpoint's files and its manifest."""

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name.endswith("step_000010/manifest.json"):
            raise Killed

    folder = tmp_path / "box/runs/bot"
    sync = RunSync(store, "bot", folder)
    subprocess.run(made(tmp_path, store, seconds=0, steps=6).command([]), check=True)
    (folder / "sft/evals.json").unlink()
    sync.push()
    subprocess.run(made(tmp_path, store, seconds=0).command([]), check=True)
    store.fault = kill
    with pytest.raises(Killed):
        sync.push()
    assert (store.root / "runs/bot/sft/step_000010/model.safetensors").is_file()
    store.fault = lambda name: None
    again = RunSync(store, "bot", tmp_path / "new/runs/bot")
    assert again.pull()
    assert [step.name for step in saved.steps(again.folder / "sft")] == ["step_000006"]
    assert (again.folder / "recipe.toml").is_file()
    assert not (again.folder / "sft/evals.json").is_file(), "it is not done with step 6"


def test_a_damaged_checkpoint_in_the_store_is_passed_over(tmp_path: Path, store: Faulty, right: bytes) -> None:
    made(tmp_path, store, seconds=0.1).run()
    (store.root / "runs/bot/sft/step_000010/model.safetensors").write_text("other")
    node = made(tmp_path, store, "new")
    assert node.run() == 0
    assert "resuming from step 8" in (tmp_path / "new/train.log").read_text()
    assert weights(store.root) == right, "the damaged one is replaced"


def test_a_store_with_a_run_that_never_got_whole_begins_it_anew(tmp_path: Path, store: Faulty) -> None:
    store.push({"runs/bot/sft/step_000002/model.safetensors": b"half", "runs/bot/sft/metrics.jsonl": b""})
    assert not RunSync(store, "bot", tmp_path / "new").pull()
    assert not (tmp_path / "new").exists()


def test_names_that_leave_the_run_are_not_pulled(tmp_path: Path, store: Faulty) -> None:
    class Hostile(Faulty):
        def names(self, prefix: str = "") -> Any:
            return {**super().names(prefix), "runs/bot/../../../evil": None, "runs/bot//etc/evil": None}

    made(tmp_path, store, seconds=0).run()
    assert RunSync(Hostile(store.root), "bot", tmp_path / "new/runs/bot").pull()
    assert not list(tmp_path.rglob("evil"))


# -- the store fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionError("no route"), OSError(28, "No space left on device")])
def test_training_goes_on_while_the_store_fails(tmp_path: Path, store: Faulty, right: bytes, error: OSError) -> None:
    seen: list[str] = []

    def fail(name: str) -> None:
        seen.append(name)
        if len(seen) < 30:
            raise error

    store.fault = fail
    assert made(tmp_path, store).run() == 0
    assert weights(store.root) == right
    assert store.state("done.json")["problem"] == ""


def test_a_store_that_fails_is_in_the_status_once_it_answers(tmp_path: Path, store: Faulty) -> None:
    """Here it refuses checkpoints alone."""
    broken = threading.Event()

    def fail(name: str) -> None:
        if "step_" in name and not broken.is_set():
            raise ConnectionError("no route")

    store.fault = fail
    path = store.root / STATE / "status.json"
    watch = when(lambda: path.is_file() and "no route" in path.read_text(), broken.set)
    assert made(tmp_path, store, seconds=0.05).run() == 0
    watch.join()
    assert not store.state("status.json")["problem"]


def test_a_copy_with_another_hash_is_pushed_again(tmp_path: Path, store: Faulty, right: bytes) -> None:
    spoiled: list[str] = []

    def verify(local: Content, name: str) -> str | None:
        if name.endswith("step_000010/model.safetensors") and len(spoiled) < 3:
            spoiled.append(name)
            (store.root / name).write_text("flipped")
        return FolderStore.problem(store, local, name)

    store.problem = verify  # type: ignore[method-assign]
    assert made(tmp_path, store).run() == 0
    assert len(spoiled) == 3 and weights(store.root) == right


def test_what_changes_in_the_store_after_its_push_is_found_at_the_end(
    tmp_path: Path, store: Faulty, right: bytes
) -> None:
    node = made(tmp_path, store, seconds=0)
    verify, times = node.sync.verify, []

    def spoil() -> list[str]:
        times.append(1)
        if len(times) == 1:
            (store.root / "runs/bot/sft/step_000010/model.safetensors").write_text("rotten")
            (store.root / "runs/bot/sft/metrics.jsonl").unlink()
        return verify()

    node.sync.verify = spoil  # type: ignore[method-assign]
    assert node.run() == 0
    assert len(times) == 2 and weights(store.root) == right and (store.root / "runs/bot/sft/metrics.jsonl").is_file()


def test_without_a_store_until_the_deadline_nothing_says_done(tmp_path: Path, store: Faulty) -> None:
    def fail(name: str) -> None:
        raise ConnectionError("no route")

    store.fault = fail
    assert made(tmp_path, store, job={"deadline": in_seconds(1.5)}, seconds=0).run() == 1
    assert not store.names()
    assert weights(tmp_path / "box")


# -- training fails ------------------------------------------------------------------------------------------


def test_training_that_dies_is_started_again(tmp_path: Path, store: Faulty, right: bytes) -> None:
    assert made(tmp_path, store, crash_at=7, once=True).run() == 0
    assert weights(store.root) == right and store.state("done.json")["restarts"] == 1


def test_an_error_twice_at_the_same_step_is_not_tried_for_ever(tmp_path: Path, store: Faulty) -> None:
    node = made(tmp_path, store, fail_at=7, seconds=0)
    assert node.run() == 1
    failed = store.state("failed.json")
    assert "2 times" in failed["reason"] and "step 6" in failed["reason"]
    assert any("the disk is full" in line for line in failed["log"])
    assert failed["pushed"] == {"sft": 6}, "what there is, is kept"
    assert store.state("status.json")["state"] == "failed"
    assert not (store.root / STATE / "done.json").exists()


def test_a_crash_at_the_same_step_is_tried_more_often_but_not_for_ever(tmp_path: Path, store: Faulty) -> None:
    assert made(tmp_path, store, crash_at=3, seconds=0).run() == 1
    assert store.state("failed.json")["restarts"] == node_module.CRASHES - 1


def test_a_command_line_that_training_refuses_is_not_tried_again(tmp_path: Path, store: Faulty) -> None:
    node = made(tmp_path, store)
    node.command = lambda arguments: [sys.executable, "-c", "exit(2)"]  # type: ignore[method-assign]
    assert node.run() == 1
    assert store.state("failed.json")["restarts"] == 0


def test_the_next_launch_forgets_an_old_failure(tmp_path: Path, store: Faulty) -> None:
    made(tmp_path, store, fail_at=5, seconds=0).run()
    assert made(tmp_path, store, "new").run() == 0
    assert not (store.root / STATE / "failed.json").exists()


def test_a_full_disk_for_logs_does_not_stop_training(
    tmp_path: Path, store: Faulty, right: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.name == "train.log" and "a" in mode:
            raise OSError(28, "No space left on device")
        return opened(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)
    assert made(tmp_path, store).run() == 0
    assert weights(store.root) == right


def test_what_the_node_did_not_expect_is_a_failure_that_is_told(tmp_path: Path, store: Faulty) -> None:
    node = made(tmp_path, store)
    node.command = lambda arguments: ["/no/such/program"]  # type: ignore[method-assign]
    assert node.run() == 1
    assert "FileNotFoundError" in store.state("failed.json")["reason"]


def test_a_signal_before_training_ends_it_too(tmp_path: Path, store: Faulty) -> None:
    node = made(tmp_path, store)
    node.inputs = lambda: os.kill(os.getpid(), signal.SIGTERM) or []  # type: ignore[method-assign, func-returns-value]
    assert node.run() == 143
    assert store.state("status.json")["state"] == "stopped"
    assert not (tmp_path / "box/runs").exists()


# -- stopped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_pushes(tmp_path: Path, store: Faulty, right: bytes, number: int) -> None:
    node = made(tmp_path, store, seconds=0.1)
    watch = when(
        lambda: (store.root / "runs/bot/sft/step_000002/manifest.json").exists(), lambda: os.kill(os.getpid(), number)
    )
    assert node.run() == 143
    watch.join()
    status = store.state("status.json")
    assert status["state"] == "stopped" and status["pushed"]["sft"] == status["step"] < 10
    assert not (store.root / STATE / "done.json").exists()
    assert made(tmp_path, store, "new").run() == 0
    assert weights(store.root) == right


def test_before_the_deadline_training_is_stopped_and_saved(
    tmp_path: Path, store: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "MARGIN", 1e9)  # a tenth of the time: 2 of 20 seconds
    node = made(tmp_path, store, job={"deadline": in_seconds(20)}, steps=10_000)
    node.stop_training_at = time.time() + 1
    assert node.run() == 1
    failed = store.state("failed.json")
    assert "deadline" in failed["reason"] and failed["pushed"]["sft"] == failed["step"] > 0


@pytest.mark.parametrize("told", ["by the deadline", "by a signal"])
def test_training_that_hangs_and_does_not_stop_is_killed_and_what_it_saved_is_kept(
    tmp_path: Path, store: Faulty, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(node_module, "GRACE", 0.2)
    node = made(tmp_path, store, job={"deadline": in_seconds(600)}, hang_at=7)
    hanging = node.folder / "hanging"

    def stop() -> None:
        if told == "by a signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            node.stop_training_at = time.time()

    watch = when(lambda: hanging.is_file() and bool(hanging.read_text()), stop)
    code = node.run()
    watch.join()
    assert not any(alive(int(pid)) for pid in hanging.read_text().split()), "its workers too"
    assert [step.name for step in saved.steps(store.root / "runs/bot/sft")][-1] == "step_000006"
    if told == "by a signal":
        assert code == 143 and store.state("status.json")["state"] == "stopped"
        return
    failed = store.state("failed.json")
    assert code == 1 and "deadline" in failed["reason"] and "was killed" in failed["reason"]
    assert failed["pushed"] == {"sft": 6}


# -- inputs --------------------------------------------------------------------------------------------------

TREE = [
    *("tokenizer/tokenizer.pkl", "tokenizer/token_bytes.pt", "identity_conversations.jsonl", "logs/a.log"),
    *("base_checkpoints/d20/model_021400.pt", "base_checkpoints/d20/meta_021400.json"),
    *("mid_checkpoints/d20/model_000809.pt", "mid_checkpoints/d20/meta_000809.json"),
    *("mid_checkpoints/d20/model_000813.pt", "mid_checkpoints/d20/meta_000813.json"),
    *("mid_checkpoints/d20/optim_000813_rank0.pt", "mid_checkpoints/d26/model_000100.pt"),
]
"""As the person's repository: see the layout of nanochat's checkpoints."""


def test_of_a_tree_the_newest_model_of_the_phase_and_the_tokenizer_are_fetched(tmp_path: Path, store: Faulty) -> None:
    store.push({name: name.encode() for name in TREE})
    node = made(tmp_path, store, job={"source": "#mid/d20", "data": {"mine/x.jsonl": "logs/a.log"}})
    assert node.inputs() == [f"--model.init_from={tmp_path / 'box/source'}#mid/d20"]
    fetched = {
        path.relative_to(tmp_path / "box").as_posix() for path in (tmp_path / "box").rglob("*") if path.is_file()
    }
    assert fetched == {
        "identity_conversations.jsonl",
        "mine/x.jsonl",
        *(f"source/{name}" for name in TREE[:2]),
        "source/mid_checkpoints/d20/model_000813.pt",
        "source/mid_checkpoints/d20/meta_000813.json",
    }


def test_a_phase_begins_from_the_one_before_it(tmp_path: Path, store: Faulty) -> None:
    store.push({name: name.encode() for name in TREE})
    for phases, before in {"mid+sft": "base", "sft": "mid", "rl": "sft", "agent_rl": "sft"}.items():
        node = made(tmp_path, store, job={"source": f"file:{store.root}", "phases": phases})
        assert node.inputs() == [f"--model.init_from={tmp_path / 'box/source'}#{before}"]
    with pytest.raises(UserError, match="which"):
        made(tmp_path, store, job={"source": f"file:{store.root}", "phases": "all"}).inputs()


def test_from_the_hub_the_training_fetches_the_model_and_the_node_the_conversations(
    tmp_path: Path, store: Faulty, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(request, monkeypatch).update({name: name.encode() for name in TREE})
    assert made(tmp_path, store, job={"source": "hf:me/bot"}).inputs() == ["--model.init_from=hf:me/bot#mid"]
    assert (tmp_path / "box/identity_conversations.jsonl").read_text() == "identity_conversations.jsonl"
    assert not (tmp_path / "box/source").exists()


def test_a_named_step_is_fetched() -> None:
    assert wanted(TREE, "mid/d20/809") == wanted(TREE, "mid/809") == [*TREE[:2], *TREE[6:8]]


def test_of_another_run_the_checkpoint_is_fetched_whole() -> None:
    files = ("model.safetensors", "manifest.json", "trainer/.metadata")
    steps = [f"{step}/{name}" for step in ("mid/step_000004", "mid/step_000010", "sft/step_000002") for name in files]
    assert wanted(["recipe.toml", "report.md", *steps], "mid") == ["recipe.toml", *steps[3:6]]
    assert wanted(["recipe.toml", *steps], "mid/4") == ["recipe.toml", *steps[:3]]


def test_data_that_the_store_does_not_have_ends_the_job_at_once(tmp_path: Path, store: Faulty) -> None:
    store.push({"other.jsonl": b""})
    assert made(tmp_path, store, job={"data": {"my.jsonl": "mine.jsonl"}}).run() == 1
    assert "mine.jsonl" in store.state("failed.json")["reason"]


def test_a_run_that_began_from_elsewhere_is_not_begun_again(tmp_path: Path, store: Faulty) -> None:
    store.push({name: name.encode() for name in TREE})
    made(tmp_path, store, seconds=0).run()
    assert made(tmp_path, store, "new", job={"source": "#mid/d20"}).inputs() == []


def test_an_imported_phase_whose_model_is_damaged_is_an_error(tmp_path: Path, store: Faulty) -> None:
    made(tmp_path, store, seconds=0, steps=2).run()
    evals = store.root / "runs/bot/sft/evals.json"
    evals.rename(evals.with_name("imported.json"))
    (store.root / "runs/bot/sft/step_000002/model.safetensors").write_text("rotten")
    with pytest.raises(UserError, match="imported"):
        RunSync(store, "bot", tmp_path / "new/runs/bot").pull()
