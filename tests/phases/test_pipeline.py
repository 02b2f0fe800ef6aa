import errno
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanbot import report
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import chat, validate
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core.errors import UsageError, UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals import task_eval as evals
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model
from lanbot.phases import evaluation, pipeline, tokenizer
from lanbot.phases.chat import SFTPhase, start_from
from lanbot.phases.phase import phase_of, phases_of
from lanbot.phases.preflight import preflight
from lanbot.tasks import contamination
from lanbot.tasks.agent_tasks import AgentTasks
from lanbot.tasks.builtin import WordProblems

RUNTIME = Runtime.single()


def test_phases_come_in_the_order_of_the_pipeline() -> None:
    recipe = load("smoke")

    def chosen(text: str) -> list[str]:
        return [phase.name for phase in pipeline.choose(recipe, text)]

    assert chosen("all") == ["tokenizer", "base", "mid", "sft", "rl"]
    assert chosen("sft+mid") == ["mid", "sft"]
    assert chosen("base") == ["tokenizer", "base"]
    with pytest.raises(UsageError, match="no phase 'middle'"):
        chosen("mid+middle")


def run_of(tmp_path: Path, text: str) -> Run:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return Run(tmp_path / "runs" / "x", load(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[base]\ndata = '/nowhere'", "/nowhere: no text there"),
        ("[model]\ndepth = 300\ndim = 30_000", "of memory"),
        ("[rl]\nmixture = [{ task = 'world_chat' }]", "world_chat has no checker"),
        ("[sft]\nmixture = [{ task = 'jsonl:/nowhere.jsonl' }]", "/nowhere.jsonl: no such file"),
        ("[mid]\nmixture = [{ task = 'gsm9k' }]", "Did you mean gsm8k?"),
        ("[mid]\nmixture = [{ task = 'identity:x' }]", "identity takes no 'x'"),
        ("[evals]\ntasks = ['world_chat']", "world_chat: this task is for training only"),
    ],
)
def test_a_mistake_in_any_phase_is_reported_before_the_first_starts(text: str, said: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, text)
    with pytest.raises(UserError) as caught:
        preflight(run, phases_of(run.recipe), RUNTIME)
    assert said in caught.value.problem
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "rl.mixture"), ("[rl]\nmixture = [{ task = 'identity' }]", "evals.tasks: word_problems")],
)
def test_a_phase_none_of_whose_questions_fits_is_refused(
    text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_format: ChatFormat
) -> None:
    """Otherwise it finishes with its weights unchanged, or scores 0 of no answers."""
    run = run_of(tmp_path, "[model]\ncontext = 32\n[evals]\ntasks = ['word_problems']\n" + text)
    monkeypatch.setattr(WordProblems, "conversation", lambda *_: chat("What is it? " * 40, "It"))
    said = f"{what}: no question fits into model.context = 32 tokens"
    rl = [phase_of(run.recipe, "rl")]
    chat_format.save(run.phase("tokenizer"))
    with pytest.raises(UserError) as caught:
        preflight(run, rl, RUNTIME)
    assert caught.value.problem == said and caught.value.remedy


def test_a_full_disk_is_reported_by_the_tokenizer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = run_of(tmp_path, "[tokenizer]\nvocab_size = 320\nmax_chars = 5_000")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot be written, the disk is full"):
        tokenizer.train(run)


def test_a_phase_needs_the_one_before_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mid starts from base, which is not done"):
        start_from(run_of(tmp_path, ""), "mid", RUNTIME)


def test_a_done_phase_whose_last_checkpoint_is_damaged_is_opened_again(tmp_path: Path) -> None:
    run = run_of(tmp_path, "")
    run.phase("base").mkdir(parents=True)
    (run.phase("base") / "evals.json").write_text(json.dumps({"checkpoint": "step_000100"}))
    with pytest.raises(UserError, match="step_000100 is damaged, and mid starts from it"):
        start_from(run, "mid", RUNTIME)
    assert not run.done("base")


def test_the_report_sets_answers_to_the_same_prompt_side_by_side(tmp_path: Path) -> None:
    run = run_of(tmp_path, "")
    score = {"score": 0.5, "n": 10, "stderr": 0.158114, "chance": 0.25}
    for phase, prompts in {"base": ["a", "b"], "sft": ["b", "c"]}.items():
        run.phase(phase).mkdir(parents=True)
        samples = [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "answer": {"role": "assistant", "content": f"{prompt}|{phase}\nnext"},
            }
            for prompt in prompts
        ]
        evals = {"checkpoint": "s", "tasks": {"arc": score}, "val_bpb": 1.5, "training": {}, "samples": samples}
        (run.phase(phase) / "evals.json").write_text(json.dumps({**evals, "settings": {"limit": 10}}))
    written = report.write(run)
    changed = {
        entry["prompt"][0]["content"]: {phase: answer["content"] for phase, answer in entry["answers"].items()}
        for entry in written["what_changed"]
    }
    assert changed == {
        "a": {"base": "a|base\nnext"},
        "b": {"base": "b|base\nnext", "sft": "b|sft\nnext"},
        "c": {"sft": "c|sft\nnext"},
    }
    text = (run.folder / "report.md").read_text()
    assert "| arc               |   0.25 | 0.500 ± 0.158 (10) | 0.500 ± 0.158 (10) |" in text
    assert "`b\\|sft ⏎ next`" in text
    assert json.loads((run.folder / "report.json").read_text()) == written


# -- what a phase is evaluated on --------------------------------------------------------------------------

BUILT_IN = [
    *("identity:builtin", "word_problems", "simple_spelling:builtin", "spelling_bee:builtin"),
    *("agent_tasks", "handwritten"),
]
EVALS = """
[identity]
name = "Robi"
creator = "Ada"
[model]
context = 64
[base]
eval_tokens = 64
[evals]
tasks = {tasks}
limit = 3
base_limit = 2
max_tokens = 2
"""


@pytest.mark.parametrize(
    "tasks", [BUILT_IN, ["identity:builtin"], ["agent_tasks"], ["word_problems", "agent_tasks"]], ids=" ".join
)
def test_ten_different_questions_show_what_changed(tasks: list[str], tmp_path: Path) -> None:
    run = run_of(tmp_path, EVALS.format(tasks=tasks))
    questions = evaluation.prompts_of_change(run)
    assert questions == evaluation.prompts_of_change(run)
    assert len(set(questions)) == len(questions) == (10 if tasks != ["agent_tasks"] else 5)
    assert questions[:3] == ["Who are you?", "Who made you?", "Hello!"]
    assert all(isinstance(question, str) and question.strip() for question in questions)


@pytest.fixture
def trained(
    make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """A run whose base and sft have a checkpoint each, of a model that knows nothing."""

    def make(tasks: list[str], more: str = "") -> Run:
        """more: of the recipe, in [evals] or after it."""
        run = run_of(tmp_path, EVALS.format(tasks=tasks) + more)
        chat_format.save(run.phase("tokenizer"))
        for phase in ("base", "sft"):
            save_model(make_model(), run.phase(phase) / "step_000007")
        monkeypatch.setattr(saved, "latest", lambda phase: phase / "step_000007")
        return run

    return make


def test_three_transcripts_show_the_agent_at_work(trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def do(engine: Any, task: AgentTasks, rows: list[int], max_tokens: int) -> list[Any]:
        """As the references do them."""
        desks = [task.env(row) for row in rows]
        for desk in desks:
            for reply in desk.errand.replies:
                request = desk.request()
                assert request is not None
                for part in reply:
                    if part["type"] == "python":
                        desk.tools(part["text"])
                desk.answered(request, {"role": "assistant", "content": reply})
        return desks

    run = trained(BUILT_IN)
    monkeypatch.setattr(evals, "do_errands", do)
    shown = evaluation.transcripts(run, None)  # type: ignore[arg-type]
    assert [one["title"] for one in shown] == ["Search, then compute", "Compute, then write", "Remember, recall later"]
    assert [one["right"] for one in shown] == [True] * 3
    assert [len(one["conversations"]) for one in shown] == [1, 1, 2]
    for one in shown:
        for messages in one["conversations"]:
            validate({"messages": list(messages)}, one["title"])
    answers = [one["conversations"][-1][-1]["content"] for one in shown]
    calls = [[part["text"] for part in answer if part["type"] == "python"] for answer in answers]
    assert [len(made) for made in calls] == [2, 2, 1]
    assert calls[0][0].startswith("search_files(") and calls[1][1].startswith("write_file(")
    assert calls[2][0].startswith("recall(")


def test_a_recipe_without_errands_has_no_transcripts(trained: Callable[..., Run]) -> None:
    assert evaluation.transcripts(trained(["identity:builtin"]), None) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("phase", "limit"), [("base", 2), ("sft", 3)])
def test_an_evaluation_writes_scores_prompts_transcripts_and_times(
    trained: Callable[..., Run], phase: str, limit: int
) -> None:
    run = trained(BUILT_IN)
    began = time.monotonic() - 5.0
    phase_of(run.recipe, phase).evaluate(run, RUNTIME, began)
    written = json.loads((run.phase(phase) / "evals.json").read_text())
    assert run.done(phase)
    assert list(written["tasks"]) == [name.partition(":")[0] for name in BUILT_IN]
    assert {score["n"] for score in written["tasks"].values()} == {limit}
    told = {"limit": limit, "max_tokens": 2, "temperature": 0, "seed": 0}
    assert written["settings"] == told, "what was asked is told"
    assert written["val_bpb"] == written["bpb"]["bits_per_byte"] and written["bpb"]["n"] > 64
    assert 5.0 <= written["wall_seconds"] < 65.0
    assert [sample["prompt"][0]["content"] for sample in written["samples"]] == evaluation.prompts_of_change(run)
    assert len(written["transcripts"]) == 3 and written["checkpoint"] == "step_000007"
    for name in ("identity", "word_problems", "agent_tasks", "handwritten"):
        parts = written["tasks"][name]["parts"]
        assert sum(part["n"] for part in parts.values()) == limit
    assert "parts" not in written["tasks"]["simple_spelling"]
    samples = (run.phase(phase) / "samples.md").read_text()
    assert all(f"**{question}**" in samples for question in evaluation.prompts_of_change(run))


def test_scores_alone_are_not_written(trained: Callable[..., Run]) -> None:
    run = trained(BUILT_IN)
    _, engine = evaluation.open_engine(run, "base", RUNTIME)
    scores = evaluation.score(run, engine, ("identity:builtin", "handwritten"), 4, {}, RUNTIME)
    assert {name: score["n"] for name, score in scores.items()} == {"identity": 4, "handwritten": 4}
    assert not run.done("base") and not (run.phase("base") / "samples.md").exists()


def test_a_phase_is_evaluated_with_the_time_it_took(
    trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(["identity:builtin"])
    begun, hidden = run.phase("sft"), run.folder / "hidden"
    begun.rename(hidden)
    sft = phase_of(run.recipe, "sft")
    monkeypatch.setattr(SFTPhase, "train", lambda *_: (time.sleep(0.05), hidden.rename(begun)))
    assert pipeline.execute(run, [sft], RUNTIME)
    assert 0.05 <= run.read("sft", "evals.json")["wall_seconds"] < 60
    (begun / "evals.json").unlink()
    monkeypatch.setattr(SFTPhase, "train", lambda *_: None)
    assert pipeline.execute(run, [sft], RUNTIME)
    assert "wall_seconds" not in run.read("sft", "evals.json"), "taken up again, it has none of its own"
    assert not pipeline.execute(run, [sft], RUNTIME), "it is done"


# -- contamination -----------------------------------------------------------------------------------------

TRAINED_ON = "[sft]\nmixture = [{{ task = 'jsonl:{}' }}]"


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Four questions of gsm8k, of which a file of chats has the first and the third; the recipe that trains on it."""

    def write(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        return path

    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    questions = [" ".join(f"word{i}x{k}" for k in range(14)) + "?" for i in range(4)]
    write("gsm8k/test.jsonl.gz", [{"question": question, "answer": "#### 1"} for question in questions])
    chats = [[{"role": "user", "content": questions[i]}, {"role": "assistant", "content": "#### 1"}] for i in (0, 2)]
    return TRAINED_ON.format(write("chats.jsonl.gz", chats))


def test_contaminated_items_are_counted_and_asked_nevertheless(trained: Callable[..., Run], real: str) -> None:
    run = trained(["identity:builtin", "gsm8k"], real)
    scores = evaluation.evaluate(run, "sft", RUNTIME)["tasks"]
    assert scores["gsm8k"]["n"] == 3 and "left_out" not in scores["gsm8k"]
    found = json.loads((run.folder / "contamination.json").read_text())["tasks"]
    assert list(found) == ["gsm8k"] and found["gsm8k"]["contaminated"] == [0, 2] and found["gsm8k"]["items"] == 4
    counted = report.write(run)["contamination"]["tasks"]["gsm8k"]
    assert (counted["contaminated"], counted["items"], counted["dropped"]) == (2, 4, False)


def test_contaminated_items_are_dropped_if_the_recipe_asks_for_it(
    trained: Callable[..., Run], real: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(["identity:builtin", "gsm8k"], "drop_contaminated = true\n" + real)
    _, engine = evaluation.open_engine(run, "sft", RUNTIME)

    def of_gsm8k() -> Any:
        left_out = evaluation.contaminated(run, ["gsm8k"], RUNTIME, write=False)
        return evaluation.score(run, engine, ["gsm8k"], 3, left_out, RUNTIME)["gsm8k"]

    alone = of_gsm8k()
    assert (alone["n"], alone["left_out"]) == (2, 2)
    assert not (run.folder / "contamination.json").exists(), "scores alone write nothing"
    scores = evaluation.evaluate(run, "sft", RUNTIME)["tasks"]
    assert scores["gsm8k"] == alone and "left_out" not in scores["identity"]
    assert report.write(run)["contamination"]["tasks"]["gsm8k"]["dropped"]

    monkeypatch.setattr(contamination, "check", None)  # it is known: nobody looks again
    assert evaluation.evaluate(run, "base", RUNTIME)["tasks"]["gsm8k"]["left_out"] == 2
    assert of_gsm8k() == alone


def test_missing_data_of_the_contamination_search_is_reported_before_any_phase_starts(
    real: str, tmp_path: Path
) -> None:
    def check(text: str) -> None:
        run = run_of(tmp_path, text)
        preflight(run, pipeline.choose(run.recipe, "base"), RUNTIME)

    text = "[evals]\ntasks = ['gsm8k']\n" + real
    check(text)
    with pytest.raises(UserError, match="no such file"):
        check(text.replace("chats", "nowhere"))
    with_no_real_tasks = text.replace("gsm8k", "identity").replace("chats", "nowhere")
    check(with_no_real_tasks)


def test_contamination_is_searched_again_when_the_data_changed(trained: Callable[..., Run], real: str) -> None:
    run = trained(["gsm8k"], real)
    assert evaluation.contaminated(run, ["gsm8k"], RUNTIME, write=True) == {"gsm8k": [0, 2]}
    one_row = trained(["gsm8k"], real.replace("gz' }", "gz', rows = 1 }"))
    again = evaluation.contaminated(one_row, ["gsm8k"], RUNTIME, write=True)
    assert again in ({"gsm8k": [0]}, {"gsm8k": [2]})
    assert (
        json.loads((run.folder / "contamination.json").read_text())["tasks"]["gsm8k"]["contaminated"] == again["gsm8k"]
    )


def test_the_report_marks_what_was_sampled(trained: Callable[..., Run]) -> None:
    run = trained(["identity:builtin", "handwritten"])
    evaluation.evaluate(run, "sft", RUNTIME, limit=40)
    written = report.write(run)
    sample, whole = (written["evals"][name]["sft"] for name in ("identity", "handwritten"))
    assert (sample["sampled"], sample["items"]) == (True, 2_000)
    assert "(40*)" in report.evaluation_table(written) and "* a sample" in report.evaluation_table(written)
    assert "n = 40 of 2,000" in (run.folder / "report.html").read_text()
    assert ("items" in whole) == (whole["n"] < 44)
    assert "40 of 2,000" in report.closing(run, written)
    assert "* a sample of the task's" in (run.folder / "report.md").read_text()


def test_the_built_in_world_is_not_searched(trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "check", None)
    run = trained(BUILT_IN)
    evaluation.evaluate(run, "sft", RUNTIME)
    assert not (run.folder / "contamination.json").exists() and report.write(run)["contamination"] == {}
