"""lanbot import, and what goes on from it: sft (killed and resumed), rl, chat, agent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nanochat_tree
import pytest

from lanbot.cli import main
from lanbot.config.run import Run
from lanbot.tokenizers.bpe import BPETokenizer

RECIPE = """
name = "tiny"

[base]
data = "builtin:world"
eval_tokens = 512

[sft]
sequence = 64
batch_tokens = 256
checkpoint_every = 4
mixture = [{ task = "identity:builtin", rows = 60 }]

[rl]
mixture = [{ task = "identity:builtin" }]
steps = 2
prompts = 2
group_size = 2
max_tokens = 8
eval_questions = 2

[evals]
tasks = ["identity:builtin"]
limit = 2
max_tokens = 8
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a recipe, a tree beside it, and no runs; signals as they were, afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LANBOT_MIRROR", "")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    assert exit_code(*arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> list[str]:
    """The two lines of a command that fails."""
    capsys.readouterr()
    assert exit_code(*arguments) == code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.rstrip("\n").split("\n") if not line.startswith("importing")]
    assert len(lines) == 2 and lines[0].startswith("lanbot: ") and captured.out == "", captured
    return lines


# -- the command -------------------------------------------------------------------------------------------


def test_check_says_what_a_tree_holds_and_writes_nothing(
    tree: Path, tokenizer: BPETokenizer, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"step": 89, "val_loss": 1.25, "mmlu_acc": 0.3307}
    nanochat_tree.write(tree, tokenizer, "chatsft_checkpoints/d2", step=89, meta=more)
    nanochat_tree.write(tree, tokenizer, "base_checkpoints/d2", step=21_400)
    lines = shown(capsys, "import", str(tree), "--check").splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["base/d2/21,400", "mid/d2/7", "sft/d2/89"]
    assert "2 layers, 32 wide, 2 heads of 16" in lines[3] and "446" in lines[3] and "256" in lines[3]
    assert "val_bpb 0.45" in lines[4] and "val_loss 1.25, mmlu_acc 0.3307" in lines[5]
    assert not (place / "runs").exists()


def test_usage_errors_name_what_is_missing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--run NAME" in refused(capsys, "import", str(tree), code=2)[0]
    lines = refused(capsys, "import", str(tree), "--run", "mine", code=2)
    assert "has mid/d2/7" in lines[0] and "--phase" in lines[1]
    for name in ("../mine", "", "a/b", ".mine"):
        assert "--run" in refused(capsys, "import", str(tree), "--phase", "mid", f"--run={name}", code=2)[0]
    assert "it has no sft" in refused(capsys, "import", str(tree), "--run", "mine", "--phase", "sft")[0]
    assert "no such folder" in refused(capsys, "import", "nowhere", "--run", "mine", "--phase", "mid")[0]
    assert "no such folder" in refused(capsys, "import", "nowhere", "--check")[0]


def test_a_context_that_no_batch_fits_is_refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = next(tree.glob("*/*/meta*"))
    content = json.loads(meta.read_text())
    content["model_config"]["sequence_len"] = 300
    meta.write_text(json.dumps(content))
    lines = refused(capsys, "import", str(tree), "--run", "mine", "--phase", "mid")
    assert "300" in lines[0] and "--model.init_from" in lines[1]


def test_imported_phases_say_so_in_every_table(tree: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = f"imported from {tree}, mid/d2/7"
    shown(capsys, "import", str(tree), "--run", "mine", "--phase", "mid", "--step", "7")
    assert f"tokenizer base mid ({origin})" in shown(capsys, "runs")
    said = shown(capsys, "report", "mine")
    assert f"Up to mid: {origin}; there: val_bpb 0.45." in said and "chat mine" in said
    folder = place / "runs" / "mine"
    report = json.loads((folder / "report.json").read_text())
    assert report["phases"]["mid"]["imported"]["scores"] == {"val_bpb": 0.45}
    assert report["phases"]["base"]["imported"]["note"] == origin
    assert {report["phases"][phase][key] for phase in ("base", "mid") for key in ("tokens", "val_bpb", "seconds")} == {
        None
    }
    assert (report["tokens"], report["curves"], report["missing"]) == (0, {}, ["sft", "rl"])
    for name in ("report.md", "report.html"):
        assert (folder / name).read_text().count(origin) >= 3
        assert (folder / name).read_text().count("val_bpb 0.45") >= 1


def test_the_shape_of_an_imported_model_is_not_set_on_the_command_line(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(capsys, "import", str(tree), "--run", "mine", "--phase", "mid")
    for key in ("model.depth", "base.depth"):
        lines = refused(capsys, "run", "tiny.toml", "--name", "mine", f"--{key}", "64", code=2)
        assert f"--{key}" in lines[0] and str(tree) in lines[0]


def test_a_damaged_import_is_to_be_imported_again(tree: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "import", str(tree), "--run", "mine", "--phase", "mid")
    (next((place / "runs" / "mine" / "mid").glob("step_*")) / "model.safetensors").write_bytes(b"cut")
    assert exit_code("run", "tiny.toml", "--name", "mine", "--phase", "sft") == 1
    lines = capsys.readouterr().err.rstrip("\n").split("\n")[-2:]
    assert "is damaged" in lines[0] and "lanbot runs delete mine" in lines[1]


def test_a_phase_before_the_imported_one_has_no_model(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "import", str(tree), "--run", "mine", "--phase", "mid")
    for command in (("eval", "mine", "--tasks", "identity"), ("chat", "mine", "--ask", "Hello")):
        lines = refused(capsys, *command, "--phase", "base")
        assert f"no model of base, only of a later phase (imported from {tree}, mid/d2/7)" in lines[0]
        assert "mid" in lines[1]


def test_the_data_of_imported_phases_is_neither_planned_nor_prepared(
    tree: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their corpus and mixture need not exist: nothing will read them."""
    recipe = RECIPE.replace('data = "builtin:world"', 'data = "/nowhere/*.txt"')
    (place / "tiny.toml").write_text(recipe + '\n[mid]\nmixture = [{ task = "jsonl:/nowhere.jsonl" }]\n')
    start = ("tiny.toml", "--name", "mine", "--model.init_from", f"{tree}#mid")
    shown(capsys, "prepare", *start)
    run = Run.open("mine")
    assert run.imported("tokenizer") and not run.begun("sft")
    plan = json.loads(shown(capsys, "data", "plan", "tiny.toml", "--name", "mine", "--json"))
    assert [part["phase"] for part in plan] == ["sft", "rl"]


def test_the_context_may_be_shorter_than_the_model_reads_but_nothing_else_of_its_shape_changes(
    tree: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("run", "tiny.toml", "--name", "mine", "--model.init_from", f"{tree}#mid", "--phase", "mid")
    assert "whose shape is fixed" in refused(capsys, *start, "--model.depth", "3", code=2)[0]
    assert "tokens at most" in refused(capsys, *start, "--model.context", "1000000", code=2)[0]
    shown(capsys, *start, "--model.context", "64")
    assert Run.open("mine").recipe.model.context == 64


# -- the chain ---------------------------------------------------------------------------------------------


def losses(run: Run) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run.phase("sft") / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def kill_in_sft(run: Run, steps: int) -> None:
    """Starts sft in another process and kills it after so many steps."""
    command = [sys.executable, "-c", "from lanbot.cli import main; main()", "run", "tiny.toml", "--name", "mine"]
    process = subprocess.Popen([*command, "--phase", "sft"], stderr=subprocess.DEVNULL)
    path = run.phase("sft") / "metrics.jsonl"
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if path.is_file() and path.read_bytes().count(b"\n") >= steps:
            break
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not run.done("sft"), "it was over before it could be killed"


def test_from_mid_to_an_agent(tree: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "import", str(tree), "--run", "mine", "--phase", "mid")
    run = Run.open("mine")
    kill_in_sft(run, 5)
    os.rename(tree, place / "moved")  # what is imported needs its source no longer
    shown(capsys, "run", "tiny.toml", "--name", "mine")
    assert run.last_model() == "rl" and run.note("mid") and run.done("sft")
    shown(capsys, "chat", "mine", "--ask", "Who are you?")
    assert exit_code("agent", "mine", "What is 12*7?") in (0, 1)
    assert "bug" not in capsys.readouterr().err, "1 is for a task without a complete answer"

    begun = ("--name", "other", "--model.init_from", f"{place / 'moved'}#mid", "--phase", "sft")
    shown(capsys, "run", "tiny.toml", *begun)
    other = Run.open("other")
    assert losses(run) == losses(other) and len(losses(run)) >= 8
    last = other.checkpoint("sft")
    weights = [(one.phase("sft") / last / "model.safetensors").read_bytes() for one in (run, other)]
    assert weights[0] == weights[1], "killed and resumed, begun by a setting instead of the command: the same"

    shown(capsys, "run", "tiny.toml", *begun)
    assert "mid" in refused(capsys, "run", "tiny.toml", "--name", "other", "--model.init_from", f"{place}/x#mid")[0]
    scored = json.loads(shown(capsys, "eval", "mine", "--phase", "mid", "--limit", "2", "--json"))
    assert scored["tasks"]["identity"]["n"] == 2
    said = shown(capsys, "report", "mine")
    assert f"imported from {tree}, mid/d2/7" in said and "sft" in said
    report = json.loads((run.folder / "report.json").read_text())
    assert set(report["curves"]) == {"sft", "rl"}
    assert report["tokens"] == sum(report["phases"][phase]["tokens"] for phase in ("sft", "rl"))
