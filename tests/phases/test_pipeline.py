import json
from pathlib import Path

import pytest

from lanbot import report
from lanbot.errors import UsageError, UserError
from lanbot.phases import pipeline
from lanbot.phases.chat import start_from
from lanbot.recipe import load
from lanbot.run import Run


def test_phases_come_in_the_order_of_the_pipeline() -> None:
    assert pipeline.parse_phases("all") == ["tokenizer", "base", "mid", "sft", "rl"]
    assert pipeline.parse_phases("sft+mid") == ["mid", "sft"]
    assert pipeline.parse_phases("base") == ["tokenizer", "base"]
    with pytest.raises(UsageError, match="no phase 'middle'"):
        pipeline.parse_phases("mid+middle")


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
def test_a_mistake_in_any_phase_is_told_before_the_first_begins(text: str, said: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, text)
    with pytest.raises(UserError) as caught:
        pipeline.preflight(run, pipeline.parse_phases("all"))
    assert said in caught.value.problem
    assert not run.folder.exists()


def test_a_phase_needs_the_one_before_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mid starts from base, which is not done"):
        start_from(run_of(tmp_path, ""), "mid")


def test_a_done_phase_whose_last_checkpoint_is_damaged_is_opened_again(tmp_path: Path) -> None:
    run = run_of(tmp_path, "")
    run.phase("base").mkdir(parents=True)
    (run.phase("base") / "evals.json").write_text(json.dumps({"checkpoint": "step_000100"}))
    with pytest.raises(UserError, match="step_000100 is damaged, and mid starts from it"):
        start_from(run, "mid")
    assert not run.done("base")


def test_the_report_sets_answers_to_the_same_prompt_side_by_side(tmp_path: Path) -> None:
    run = run_of(tmp_path, "")
    score = {"score": 0.5, "n": 10, "stderr": 0.158114, "chance": 0.25}
    for phase, prompts in {"base": ["a", "b"], "sft": ["b", "c"]}.items():
        run.phase(phase).mkdir(parents=True)
        samples = [{"prompt": prompt, "answer": f"{prompt}|{phase}\nnext"} for prompt in prompts]
        evals = {"checkpoint": "s", "tasks": {"arc": score}, "val_bpb": 1.5, "training": {}, "samples": samples}
        (run.phase(phase) / "evals.json").write_text(json.dumps({**evals, "settings": {"limit": 10}}))
    written = report.write(run)
    assert {entry["prompt"]: entry["answers"] for entry in written["what_changed"]} == {
        "a": {"base": "a|base\nnext"},
        "b": {"base": "b|base\nnext", "sft": "b|sft\nnext"},
        "c": {"sft": "c|sft\nnext"},
    }
    text = (run.folder / "report.md").read_text()
    assert "| arc               |   0.25 | 0.500 ± 0.158 (10) | 0.500 ± 0.158 (10) |" in text
    assert "`b\\|sft ⏎ next`" in text
    assert json.loads((run.folder / "report.json").read_text()) == written
