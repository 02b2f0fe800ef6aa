"""`lanbot eval`, from the command line to its output: runs, models, benchmarks, pass@k."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanbot import report
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import chat
from lanbot.cli import main
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.distributed.runtime import Runtime
from lanbot.evals import chatcore
from lanbot.evals.chatcore import BASELINES, ChatCore
from lanbot.evals.core import CoreResult
from lanbot.evals.score import Score
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model
from lanbot.phases import eval_command, evaluation
from lanbot.sandbox import sandbox
from lanbot.tasks.builtin import WordProblems

RUNTIME = Runtime.single()

REAL = Path(os.environ.get("LANBOT_MIRROR") or Path(__file__).parents[3] / "shared" / "data")
STORIES = REAL / "open_weights" / "stories260k"
RECIPE = """
name = "tiny"
[model]
context = 64
[base]
eval_tokens = 64
[evals]
tasks = ["identity:builtin", "word_problems"]
limit = 3
max_tokens = 2
"""


@pytest.fixture
def tiny(
    make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A run whose sft is done, of a model that knows nothing."""
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LANBOT_UNSAFE_EXEC", "")
    monkeypatch.setenv("LANBOT_MIRROR", "")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    run = Run.create(load(tmp_path / "tiny.toml"))
    chat_format.save(run.phase("tokenizer"))
    save_model(make_model(), run.phase("sft") / "step_000007")
    chat_format.save(run.phase("sft") / "step_000007")
    (run.phase("sft") / "evals.json").write_text('{"checkpoint": "step_000007"}')
    monkeypatch.setattr(saved, "latest", lambda phase: phase / "step_000007")
    return run


@pytest.fixture
def lanbot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # what the command sets is undone

    def call(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["eval", *arguments])
        said = capsys.readouterr()
        assert stopped.value.code == code, said
        return said.err if code else said.out

    return call


@pytest.mark.usefixtures("tiny")
def test_tasks_of_the_recipe_with_n_error_and_chance_as_a_table_and_as_json(lanbot: Callable[..., str]) -> None:
    table = lanbot("tiny").split("\n")
    assert table[0].split() == ["task", "score", "error", "n", "chance"]
    assert table[3].split()[0] == "word_problems" and "3 of 2,000" in table[3]
    assert table[4:] == ["settings: limit 3, max_tokens 2, temperature 0, seed 0", ""]
    said = json.loads(lanbot("tiny", "--phase", "sft", "--tasks", "identity:builtin", "--limit", "2", "--json"))
    assert set(said) == {"run", "phase", "settings", "tasks"} and said["phase"] == "sft"
    assert said["settings"] == {"limit": 2, "max_tokens": 2, "temperature": 0, "seed": 0}
    assert {"score", "n", "stderr", "chance", "sampled", "items"} <= set(said["tasks"]["identity"])


@pytest.mark.usefixtures("tiny")
def test_bits_per_byte(lanbot: Callable[..., str]) -> None:
    said = json.loads(lanbot("tiny", "--tasks", "bpb", "--json"))
    assert said["tasks"] == {} and said["bpb"]["n"] > 64 and 1 < said["bpb"]["bits_per_byte"] < 20
    assert set(said["bpb"]) == {"bits_per_byte", "stderr", "chance", "n", "documents", "context"}
    assert said["bpb"]["chance"] == pytest.approx(said["bpb"]["bits_per_byte"], rel=0.3), "a model that knows nothing"
    shown = lanbot("tiny", "--tasks", "bpb")
    assert shown.startswith("val bits per byte ") and f"a uniform guess {said['bpb']['chance']:.2f})" in shown


@pytest.mark.usefixtures("tiny")
def test_benchmarks_and_tasks_together(lanbot: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = []

    def fake(engine: Any, name: str, limit: int | None, *rest: Any) -> ChatCore:
        asked_for.append(limit)
        scores = {task: Score(0.25, 4, 0.1, 0.25, items=9) for task in BASELINES}
        scores["humaneval"] = Score(0.5, 4, 0.1, 0.0, failed={"exit": 2}, sandbox=1)
        return ChatCore(name, {"limit": limit}, scores)

    monkeypatch.setattr(sandbox, "choose", lambda *_: None)
    monkeypatch.setattr(chatcore, "ask", fake)
    monkeypatch.setattr(
        eval_command.core, "evaluate", lambda scorer, limit, **_: CoreResult(scorer.name, limit, {}, {}, [])
    )
    shown = lanbot("tiny", "--tasks", "word_problems,core,chatcore")
    assert "word_problems" in shown and "0 of 22 tasks of CORE" in shown and "ChatCORE 0.1667 ± " in shown
    assert "humaneval: failed: 2 exit; sandbox level 1" in shown and "4 of 9" in shown
    said = json.loads(lanbot("tiny", "--tasks", "chatcore, core", "--limit", "2", "--json"))
    assert said["chatcore"]["tasks"]["humaneval"]["failed"] == {"exit": 2} and said["core"]["limit"] == 2
    assert said["settings"] == {} and said["chatcore"]["settings"] == {"limit": 2}, "each whole has its own"
    assert shown.count("settings: ") == 3 and "settings: limit none" in shown
    assert asked_for == [None, 2]


@pytest.mark.usefixtures("tiny")
def test_pass_at_k_samples_what_is_checked(lanbot: Callable[..., str]) -> None:
    command = ("tiny", "--tasks", "word_problems", "--limit", "2", "--pass-k", "1,3", "--samples", "4")
    said = json.loads(lanbot(*command, "--json"))
    assert said["tasks"] == {} and list(said["pass"]["word_problems"]) == ["pass@1", "pass@3"]
    assert said["pass"]["word_problems"]["pass@3"]["n"] == 2
    assert (said["settings"]["samples"], said["settings"]["temperature"]) == (4, 0.8)
    shown = lanbot(*command, "--temperature", "0.5")
    assert "2 of 2,000" in shown
    assert shown.endswith("settings: limit 2, max_tokens 2, temperature 0.5, seed 0, samples 4\n")
    named = lanbot("tiny", "--tasks", "spelling_bee:builtin", "--limit", "2", "--pass-k", "1", "--json")
    assert list(json.loads(named)["pass"]) == ["spelling_bee"], "as its score is called"


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pass-k", "1,x"), "--pass-k 1,x: not numbers"),
        (("--pass-k", "32"), "--pass-k 32: of 16 samples"),
        (("--pass-k", "0"), "--pass-k 0: of 16 samples"),
        (("--pass-k", "1", "--temperature", "0"), "all samples would be the same"),
        (("--pass-k", "1", "--tasks", "core"), "--pass-k: not of core"),
        (("--pass-k", "1", "--tasks", "arc_easy"), "arc_easy has no answers to sample"),
        (("--limit", "2", "--tasks", "spelling_bee,spelling_bee:builtin"), "one of them is there twice"),
        (("--limit", "-1"), "--limit -1: out of range"),
        (("--tasks", "world_chat"), "for training only"),
        (("--tasks", "cor"), "cor: no such task"),
    ],
)
def test_invalid_combinations_are_refused(lanbot: Callable[..., str], arguments: tuple[str, ...], said: str) -> None:
    with_code = 1 if arguments[0] == "--tasks" else 2
    lines = lanbot("tiny", *arguments, code=with_code).rstrip().split("\n")
    assert said in lines[0] and len(lines) == 2


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("more", [(), ("--pass-k", "1")], ids=str)
def test_a_task_none_of_whose_questions_fits_is_refused(
    lanbot: Callable[..., str], more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WordProblems, "conversation", lambda *_: chat("What is it? " * 40, "It"))
    lines = lanbot("tiny", "--tasks", "word_problems", *more, code=1).rstrip().split("\n")
    assert lines[0] == "lanbot: word_problems: no question fits into model.context = 64 tokens"
    assert len(lines) == 2 and "longer model.context" in lines[1]


@pytest.fixture
def one_program(tmp_path: Path) -> Path:
    """A mirror whose HumanEval is one short task."""
    if not sandbox.survey()[-1].holds:
        pytest.skip("no level of the sandbox holds here")
    row = {
        "task_id": "x/0",
        "prompt": 'def f():\n    """1."""\n',
        "entry_point": "f",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    }
    (tmp_path / "humaneval").mkdir()
    data = gzip.compress(json.dumps(row).encode() + b"\n")
    (tmp_path / "humaneval" / "HumanEval.jsonl.gz").write_bytes(data)
    return tmp_path


@pytest.mark.usefixtures("tiny")
def test_humaneval_of_a_run_says_why_programs_failed(lanbot: Callable[..., str], one_program: Path) -> None:
    command = ("tiny", "--tasks", "humaneval", "--mirror", str(one_program))
    said = json.loads(lanbot(*command, "--json"))["tasks"]["humaneval"]
    assert (said["n"], said["score"], sum(said["failed"].values())) == (1, 0.0, 1)
    assert said["sandbox_level"] == sandbox.survey()[-1].level
    shown = lanbot(*command)
    assert "humaneval: failed: 1 " in shown and "sandbox level" in shown
    assert said["max_tokens"] == 512 and "humaneval: answers of at most 512 tokens" in shown, "not the recipe's 2"
    sampled = (*command, "--pass-k", "1", "--samples", "3")
    of_three = json.loads(lanbot(*sampled, "--json"))["pass"]["humaneval"]["pass@1"]
    assert (of_three["n"], sum(of_three["failed"].values()), of_three["max_tokens"]) == (1, 3, 512)
    assert "humaneval: failed samples: " in lanbot(*sampled)


def test_humaneval_in_a_recipe_is_in_its_report_with_what_failed(
    tiny: Run, one_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANBOT_MIRROR", str(one_program))
    run = Run(tiny.folder, load(one_program / "tiny.toml", {"evals.tasks": "identity:builtin,humaneval"}))
    evaluation.evaluate(run, "sft", RUNTIME)
    written = report.write(run)
    assert sum(written["evals"]["humaneval"]["sft"]["failed"].values()) == 1
    _, (row,) = report.tables.programs_table(written)
    assert row[:4] == ("humaneval", "sft", "1", "0") and row[-1] == str(sandbox.survey()[-1].level)
    for name in ("report.md", "report.html"):
        assert "Programs" in (run.folder / name).read_text()


@pytest.mark.skipif(not (REAL / "humaneval").is_dir(), reason=f"no mirror of real data at {REAL}")
def test_chatcore_of_a_run(tiny: Run, lanbot: Callable[..., str]) -> None:
    if not sandbox.survey()[-1].holds:
        pytest.skip("no level of the sandbox holds here")
    command = ("tiny", "--tasks", "chatcore", "--limit", "4", "--json", "--mirror", str(REAL))
    said = json.loads(lanbot(*command))["chatcore"]
    assert list(said["tasks"]) == list(BASELINES) and said["sampled"] and said["settings"]["limit"] == 4
    assert {(one["n"], one["sampled"]) for one in said["tasks"].values()} == {(4, True)}
    mean = sum((one["score"] - one["baseline"]) / (1 - one["baseline"]) for one in said["tasks"].values()) / 6
    assert said["chatcore"] == pytest.approx(mean, abs=1e-6)
    assert said["tasks"]["humaneval"]["failed"] == {"no program": 4}, "its prompts are longer than the context"


def test_a_folder_with_a_model_is_scored_on_core(
    tiny: Run, lanbot: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        eval_command.core, "evaluate", lambda scorer, limit, **_: CoreResult(scorer.name, limit, {}, {}, [])
    )
    folder = str(tiny.phase("sft") / "step_000007")
    assert json.loads(lanbot(folder, "--tasks", "core", "--json"))["core"]["model"] == folder
    assert "0 of 22 tasks of CORE" in lanbot(folder)
    for wrong in (("--tasks", "gsm8k"), ("--phase", "sft"), ("--pass-k", "1")):
        assert "a model, not a run" in lanbot(folder, *wrong, code=2)
    monkeypatch.chdir(tiny.folder.parent.parent)
    for name in ("nowhere", "runs/nowhere"):
        assert f"{name}: no such run" in lanbot(name, code=1)


@pytest.mark.skipif(not (STORIES.is_dir() and (REAL / "core").is_dir()), reason=f"no bundle or model at {REAL}")
def test_core_of_an_open_model(lanbot: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANBOT_MIRROR", str(REAL))
    said = json.loads(lanbot(str(STORIES), "--tasks", "core", "--limit", "2", "--json"))
    assert said["model"] == str(STORIES) and -0.5 < said["core"]["core"] < 0.6
    assert len(said["core"]["tasks"]) == 22 and all(task["n"] == 2 for task in said["core"]["tasks"].values())
    assert all(task["sampled"] for task in said["core"]["tasks"].values())
