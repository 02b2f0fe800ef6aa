"""lanbot cloud fetch: a run of the store is here, whole, and nothing that was here is lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lanbot.cli import main
from lanbot.cloud.stores import FolderStore
from lanbot.cloud.sync import RunSync
from lanbot.models import saved

RECIPE = """
name = "bot"
[tokenizer]
vocab_size = 300
max_chars = 50_000
[model]
depth = 1
dim = 32
head_dim = 32
context = 256
[base]
data = "builtin:world"
tokens = 4_096
batch_tokens = 1_024
eval_tokens = 1_024
[mid]
batch_tokens = 1_024
mixture = [{ task = "identity:builtin", rows = 40 }]
[evals]
tasks = ["identity:builtin"]
limit = 1
base_limit = 1
max_tokens = 4
"""


def lanbot(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run's folder: mid is done."""
    root = tmp_path_factory.mktemp("machine")
    (root / "bot.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANBOT_RUNS", str(root))
        lanbot("run", str(root / "bot.toml"), "--phase", "tokenizer+base+mid")
    return root / "bot"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> FolderStore:
    """With the run in it, and what its machine says of itself."""
    made = FolderStore(str(tmp_path / "store"), tmp_path / "store")
    assert RunSync(made, "bot", trained).push({"node/done.json": b"{}"})
    return made


def fetch(store: FolderStore, code: int = 0) -> None:
    lanbot("cloud", "fetch", "bot", "--store", store.url, code=code)


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_fetched_run_can_be_talked_to_and_reported(
    store: FolderStore, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(store)
    assert "lanbot chat bot" in capsys.readouterr().out
    names = files(runs / "bot")
    assert {"recipe.toml", "mid/evals.json", "mid/metrics.jsonl", "tokenizer/tokenizer.json"} <= names.keys()
    newest = saved.latest(runs / "bot/base")
    assert newest and newest.name == json.loads(names["mid/evals.json"])["checkpoint"]
    assert not [name for name in names if name.startswith(("node/", "."))]
    lanbot("report", "bot")
    assert "mid ± error" in capsys.readouterr().out
    lanbot("chat", "bot", "--ask", "Who are you?")
    assert capsys.readouterr().out.strip()


def test_the_store_of_the_launch_or_of_the_settings_is_taken(
    store: FolderStore, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANBOT_STORE", "")
    lanbot("cloud", "fetch", "bot", code=2)
    assert "LANBOT_STORE" in capsys.readouterr().err
    monkeypatch.setenv("LANBOT_STORE", store.url)
    lanbot("cloud", "fetch", "bot")
    assert (runs / "bot/recipe.toml").is_file()


def test_a_fetch_that_broke_off_goes_on(store: FolderStore, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled, get = [], FolderStore._get

    def broken(self: FolderStore, name: str, local: Path) -> None:
        if name.endswith("mid/metrics.jsonl"):
            raise ConnectionError("no route")
        get(self, name, local)

    monkeypatch.setattr(FolderStore, "_get", broken)
    fetch(store, code=1)
    assert not (runs / "bot/recipe.toml").exists(), "it is no run yet"

    def counted(self: FolderStore, name: str, local: Path) -> None:
        pulled.append(name.removeprefix("runs/bot/"))
        get(self, name, local)

    monkeypatch.setattr(FolderStore, "_get", counted)
    fetch(store)
    assert "mid/metrics.jsonl" in pulled and not [name for name in pulled if "safetensors" in name]
    fetched = files(runs / "bot")
    fetch(store)
    assert files(runs / "bot") == fetched


def test_what_was_prepared_here_is_completed(store: FolderStore, trained: Path, runs: Path) -> None:
    for name in ("recipe.toml", "tokenizer"):
        (shutil.copytree if (trained / name).is_dir() else shutil.copyfile)(trained / name, made(runs) / name)
    (runs / "bot/notes.txt").write_text("mine")
    fetch(store)
    assert saved.latest(runs / "bot/base") and (runs / "bot/notes.txt").read_text() == "mine"


def test_a_run_that_is_still_trained_can_be_fetched_again(tmp_path: Path, runs: Path) -> None:
    store, machine = FolderStore(str(tmp_path / "store"), tmp_path / "store"), tmp_path / "machine/bot"
    for steps in (4, 10):
        (machine / "sft/evals.json").unlink(missing_ok=True)
        fake = Path(__file__).with_name("fake_training.py")
        options = json.dumps({"steps": steps, "seconds": 0})
        subprocess.run([sys.executable, str(fake), str(machine), options], check=True)
        if steps == 4:
            (machine / "sft/evals.json").unlink()
        RunSync(store, "bot", machine).push()
        fetch(store)
        newest = saved.latest(runs / "bot/sft")
        assert newest and saved.step_of(newest) == steps
        assert len((runs / "bot/sft/metrics.jsonl").read_text().splitlines()) == steps
    assert (runs / "bot/sft/evals.json").is_file()


def made(runs: Path) -> Path:
    (runs / "bot").mkdir(parents=True, exist_ok=True)
    return runs / "bot"


def newer(folder: Path) -> None:
    (folder / "mid/evals.json").unlink()
    step = sorted(folder.glob("mid/step_*"))[-1]
    step.rename(step.with_name("step_000099"))


def undone_there(folder: Path) -> None:
    (folder.parents[1] / "store/runs/bot/mid/evals.json").unlink()


def other_seed(folder: Path) -> None:
    text = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(text.replace("seed = ", "seed = 9", 1))


def other_tokenizer(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").write_text("{}")


def other_model(folder: Path) -> None:
    for manifest in folder.glob("mid/step_*/manifest.json"):
        manifest.write_text(manifest.read_text() + "\n")


def other_training(folder: Path) -> None:
    (folder / "mid/evals.json").unlink()
    for step in folder.glob("mid/step_*"):
        shutil.rmtree(step)
    (folder / "mid/metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n')


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (newer, "is at step_000099 here"),
        (undone_there, "is done here, and is not there"),
        (other_seed, "of another recipe, seed = "),
        (other_tokenizer, "tokenizer is another"),
        (other_model, "ended with another model"),
        (other_training, "trained here too"),
    ],
)
def test_a_newer_or_different_run_here_is_left_as_it_is(
    store: FolderStore, trained: Path, runs: Path, capsys: pytest.CaptureFixture[str], change: object, why: str
) -> None:
    shutil.copytree(trained, runs / "bot")
    change(runs / "bot")  # type: ignore[operator]
    before = files(runs / "bot")
    fetch(store, code=1)
    said = capsys.readouterr().err.splitlines()
    assert why in said[-2] and "lanbot runs delete bot" in said[-1]
    assert files(runs / "bot") == before


def test_a_model_that_is_damaged_in_the_store_is_not_called_fetched(
    store: FolderStore, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (next((store.root / "runs/bot/mid").glob("step_*")) / "model.safetensors").write_text("rotten")
    fetch(store, code=1)
    assert "no checkpoint of mid is undamaged" in capsys.readouterr().err
    assert saved.latest(runs / "bot/base") and not (runs / "bot/mid/evals.json").exists()


def test_a_folder_that_is_no_run_and_a_run_that_is_not_there(
    store: FolderStore, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lanbot("cloud", "fetch", "other", "--store", store.url, code=1)
    assert "no run other" in capsys.readouterr().err and not runs.exists()
    (made(runs) / "thesis.txt").write_text("mine")
    fetch(store, code=1)
    assert files(runs / "bot") == {"thesis.txt": b"mine"}
    lanbot("cloud", "fetch", "../x", "--store", store.url, code=2)
