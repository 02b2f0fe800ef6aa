"""A phase asks the model that it begins from, once; what it said is what the mixture has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.config.run import Run
from lanbot.distributed.runtime import Runtime
from lanbot.models.transformer import Transformer
from lanbot.phases import own_answers
from lanbot.phases.loaders import chat_loader
from lanbot.tasks.own_answers import FILE
from lanbot.training import checkpoint

RUNTIME = Runtime.single()
RECIPE = """
[model]
context = 256
[mid]
mixture = [{ task = "own_answers", rows = 6 }]
batch_tokens = 512
[sft]
mixture = [{ task = "own_answers", rows = 9 }, { task = "identity:builtin", rows = 4 }]
"""
SAID = ["It is warm. It is", "My name is Siri.", "no end", "Blue.\n\nAnd so on. Then"]


@pytest.fixture
def run(make_model: Callable[..., Transformer], chat_format: ChatFormat, tmp_path: Path) -> Run:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    made = Run(tmp_path / "run", recipe_file.load(tmp_path / "recipe.toml"))
    chat_format.save(made.phase("tokenizer"))
    checkpoint.save_model_alone(made.phase("base"), 7, make_model(context=256), chat_format, RUNTIME)
    (made.phase("base") / "evals.json").write_text('{"checkpoint": "step_000007"}')
    return made


def test_good_answers_are_kept_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(engine: Any, questions: list[str], tokens: int) -> list[dict[str, str]]:
        asked.extend(questions)
        return [{"role": "assistant", "content": SAID[i % len(SAID)]} for i in range(len(questions))]

    monkeypatch.setattr(own_answers, "answer_all", answer)
    own_answers.make(run, "mid", RUNTIME)
    assert len(asked) == 9, "as many as the phase with the most rows needs"
    rows = [json.loads(line) for line in (run.folder / FILE).read_text().splitlines()]
    assert [said for _, said in rows] == ["It is warm.", "Blue.\n\nAnd so on."] * 2 + ["It is warm."]
    own_answers.make(run, "sft", RUNTIME)
    assert len(asked) == 9, "sft reads what mid has made"
    loader = chat_loader(run.recipe, "mid", run.phase("tokenizer"), main=False)
    batch = loader.next_batch()
    assert batch is not None and batch.weights.any()


def test_a_mixture_without_the_task_asks_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_answers, "_rows", lambda *_: 0)
    own_answers.make(run, "mid", RUNTIME)
    assert not (run.folder / FILE).exists()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Yes. It is so", "Yes."),
        ("It costs 3.50 dollars", ""),
        ('He said: "Go!" Then', 'He said: "Go!"'),
        ("1. Apples.\n2. Pe", "1. Apples."),
        ("Here are three:\n1. ", ""),
        ("", ""),
    ],
)
def test_an_answer_ends_with_a_whole_sentence(said: str, kept: str) -> None:
    assert own_answers.shortened(said) == kept
