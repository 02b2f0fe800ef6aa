import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lanbot.chat.conversation import spoken
from lanbot.evals import chatcore
from lanbot.evals.chat import Score
from lanbot.evals.chatcore import BASELINES, ChatCore
from lanbot.tasks.mixture import make_task, sample_rows
from lanbot.tasks.task import Setting
from lanbot.tokenizer import QWEN2_PATTERN, Tokenizer

TASKS = ["arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee"]
BYTES = Tokenizer({bytes([b]): b for b in range(256)}, QWEN2_PATTERN)
REAL = Path(os.environ.get("LANBOT_MIRROR") or Path(__file__).parents[3] / "shared" / "data")


def scores(*values: float, n: int = 100, items: int = 0) -> dict[str, Score]:
    pairs = zip(TASKS, values, strict=True)
    return {name: Score(p, n, math.sqrt(p * (1 - p) / n), BASELINES[name], items=items) for name, p in pairs}


def test_it_is_the_mean_of_centered_scores() -> None:
    made = ChatCore("tiny", {}, scores(0.55, 0.40, 0.25, 0.10, 0.20, 0.90))
    centered = [0.4, 0.2, 0.0, 0.1, 0.2, 0.9]
    assert [made.centered(name) for name in TASKS] == pytest.approx(centered)
    assert made.score == pytest.approx(0.3)
    errors = [0.0497494 / 0.75, 0.0489898 / 0.75, 0.0433013 / 0.75, 0.03, 0.04, 0.03]
    assert made.stderr == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 6, rel=1e-4)
    said = made.json()
    assert (said["chatcore"], said["sampled"], said["tasks"]["arc_easy"]["baseline"]) == (0.3, False, 0.25)
    assert said["tasks"]["arc_easy"]["centered_stderr"] == pytest.approx(0.066332, abs=1e-6)


@pytest.mark.parametrize(("values", "score"), [((0.25, 0.25, 0.25, 0, 0, 0), 0.0), ((1,) * 6, 1.0), ((0,) * 6, -1 / 6)])
def test_a_guess_is_0_and_no_mistake_1(values: tuple[float, ...], score: float) -> None:
    assert ChatCore("x", {}, scores(*values)).score == pytest.approx(score)


def test_a_sample_is_marked_in_table_line_and_json() -> None:
    made = ChatCore("tiny", {}, scores(*[0.5] * 6, items=1_319))
    assert "100 of 1,319" in made.table() and str(made).endswith("(tiny, sampled)") and made.json()["sampled"]
    assert len({len(line) for line in made.table().split("\n")}) == 1, "it is aligned"


@pytest.mark.skipif(not (REAL / "gsm8k").is_dir(), reason=f"no mirror of real data at {REAL}")
def test_the_tasks_are_asked_in_order_by_letter_or_by_checked_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANBOT_MIRROR", str(REAL))
    asked = []

    def fake(engine, task, name, limit, max_tokens, seed, left_out):  # type: ignore[no-untyped-def]
        asked.append((name, task.kind, limit, max_tokens, list(left_out)))
        return Score(0.5, 10, 0.1, 0.0)

    monkeypatch.setattr(chatcore, "evaluate", fake)
    made = chatcore.ask(None, "tiny", 10, 128, Setting(), 0, {"gsm8k": [3]})  # type: ignore[arg-type]
    assert [(name, kind) for name, kind, *_ in asked] == [
        *((name, "choice") for name in TASKS[:3]),
        *((name, "generate") for name in TASKS[3:]),
    ]
    assert {one[2:4] for one in asked} == {(10, 512)} and [one[4] for one in asked] == [[], [], [], [3], [], []]
    assert made.settings == {"limit": 10, "max_tokens": 512, "temperature": 0, "seed": 0}
    assert all(make_task(name, "test").chance == BASELINES[name] for name in TASKS)
    chatcore.ask(None, "tiny", None, 600, Setting(), 0, {})  # type: ignore[arg-type]
    assert {one[2:4] for one in asked[6:]} == {(chatcore.ALL, 600)}


class Letters:
    """An engine, and its model, that says of the n-th prompt the letters' logits(n)."""

    def __init__(self, logits: Callable[[int], dict[str, float]]) -> None:
        self.of, self.asked = logits, 0
        self.tokenizer, self.device, self.model = BYTES, torch.device("cpu"), self
        self.config = SimpleNamespace(context=100_000)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """As hidden states each prompt's number."""
        rows, self.asked = torch.arange(self.asked, self.asked + len(ids)), self.asked + len(ids)
        return rows[:, None].expand(*ids.shape)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        table = torch.full((len(hidden), BYTES.vocab_size), -9.0)
        for i, row in enumerate(hidden.tolist()):
            for letter, value in self.of(row).items():
                table[i, ord(letter)] = value
        return table


@pytest.mark.skipif(not (REAL / "mmlu").is_dir(), reason=f"no mirror of real data at {REAL}")
@pytest.mark.parametrize("name", TASKS[:3])
def test_a_random_letter_lands_at_the_guess_rate_and_the_right_one_at_1(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANBOT_MIRROR", str(REAL))
    task, rng = make_task(name, "test"), random.Random(0)
    guess: Any = Letters(lambda _: {letter: rng.random() for letter in "ABCDE"})
    score = chatcore.evaluate(guess, task, name, 1_000, 1)
    assert score.n == 1_000 < score.items == len(task) and score.chance == 0.25
    assert abs(score.score - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 1_000)
    right = [spoken(task.conversation(row)["messages"][-1]) for row in sample_rows(task, 1_000, 0)]
    assert min(right.count(letter) for letter in "ABCD") > 150, "no letter alone would do"
    oracle: Any = Letters(lambda row: {right[row]: 1.0})
    assert chatcore.evaluate(oracle, task, name, 1_000, 1).score == 1.0
    wrong: Any = Letters(lambda row: {"B" if right[row] == "A" else "A": 1.0})
    assert chatcore.evaluate(wrong, task, name, 1_000, 1).score == 0.0
