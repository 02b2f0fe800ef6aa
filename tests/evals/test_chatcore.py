import math

import pytest

from lanbot.distributed.runtime import Runtime
from lanbot.evals import chatcore
from lanbot.evals.chatcore import BASELINES, ChatCore
from lanbot.evals.score import Score
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import TaskContext

RUNTIME = Runtime.single()

TASKS = ["arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee"]


def scores(*values: float, n: int = 100, items: int = 0) -> dict[str, Score]:
    pairs = zip(TASKS, values, strict=True)
    return {name: Score(p, n, math.sqrt(p * (1 - p) / n), BASELINES[name], items=items) for name, p in pairs}


def test_chatcore_is_the_mean_of_centered_scores() -> None:
    made = ChatCore("tiny", {}, scores(0.55, 0.40, 0.25, 0.10, 0.20, 0.90))
    centered = [0.4, 0.2, 0.0, 0.1, 0.2, 0.9]
    assert [made.centered[name].value for name in TASKS] == pytest.approx(centered)
    assert made.mean.value == pytest.approx(0.3)
    errors = [0.0497494 / 0.75, 0.0489898 / 0.75, 0.0433013 / 0.75, 0.03, 0.04, 0.03]
    assert made.mean.stderr == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 6, rel=1e-4)
    said = made.json()
    assert (said["chatcore"], said["sampled"], said["tasks"]["arc_easy"]["baseline"]) == (0.3, False, 0.25)
    assert said["tasks"]["arc_easy"]["centered_stderr"] == pytest.approx(0.066332, abs=1e-6)


@pytest.mark.parametrize(("values", "score"), [((0.25, 0.25, 0.25, 0, 0, 0), 0.0), ((1,) * 6, 1.0), ((0,) * 6, -1 / 6)])
def test_guessing_scores_0_and_all_right_scores_1(values: tuple[float, ...], score: float) -> None:
    assert ChatCore("x", {}, scores(*values)).mean.value == pytest.approx(score)


def test_a_sample_is_marked_in_table_line_and_json() -> None:
    made = ChatCore("tiny", {}, scores(*[0.5] * 6, items=1_319))
    assert "100 of 1,319" in made.table() and str(made).endswith("(tiny, sampled)") and made.json()["sampled"]
    assert len({len(line) for line in made.table().split("\n")}) == 1, "it is aligned"


@pytest.mark.usefixtures("real_mirror")
def test_tasks_run_in_order_by_letter_or_by_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(engine, task, name, limit, max_tokens, seed, left_out, runtime):  # type: ignore[no-untyped-def]
        asked.append((name, task.kind, limit, max_tokens, list(left_out)))
        return Score(0.5, 10, 0.1, 0.0)

    monkeypatch.setattr(chatcore, "evaluate", fake)
    made = chatcore.ask(None, "tiny", 10, 128, TaskContext(), 0, {"gsm8k": [3]}, RUNTIME)  # type: ignore[arg-type]
    assert [(name, kind) for name, kind, *_ in asked] == [
        *((name, "choice") for name in TASKS[:3]),
        *((name, "generate") for name in TASKS[3:]),
    ]
    assert {one[2:4] for one in asked} == {(10, 512)} and [one[4] for one in asked] == [[], [], [], [3], [], []]
    assert made.settings == {"limit": 10, "max_tokens": 512, "temperature": 0, "seed": 0}
    assert all(make_task(name, "test").chance == BASELINES[name] for name in TASKS)
    chatcore.ask(None, "tiny", None, 600, TaskContext(), 0, {}, RUNTIME)  # type: ignore[arg-type]
    assert {one[2:4] for one in asked[6:]} == {(chatcore.ALL, 600)}
