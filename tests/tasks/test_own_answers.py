"""The task own_answers: the run's answers where it has them, and its five forms of the system message."""

import json
from collections import Counter
from pathlib import Path

from lanbot.chat.formats import get_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Identity, MixturePart
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.own_answers import FILE, OwnAnswers
from lanbot.tasks.system_forms import FORMS, form_of
from lanbot.tasks.task import TaskContext

ROWS = [[f"What is {n}?", f"It is the number {n}."] for n in range(20)]


def with_answers(folder: Path) -> Path:
    (folder / FILE).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def test_a_runs_answers_are_its_rows(tmp_path: Path, chat_format: ChatFormat) -> None:
    part = MixturePart("own_answers", rows=5)
    mixture = Mixture((part,), Identity(), chat_format, 0, folder=with_answers(tmp_path))
    said = [chat_format.tokenizer.decode(list(mixture[i].ids)) for i in range(5)]
    assert all("It is the number" in one for one in said) and len(set(said)) == 5


def test_before_the_run_has_any_a_plan_can_count(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        task = OwnAnswers("train", context=TaskContext(folder=folder))
        asked, said = task.conversation(3)["messages"]
        assert len(task) == 1_000 and asked["content"].strip() and len(str(said["content"])) > 50


def test_a_family_with_a_system_message_meets_all_its_forms(tmp_path: Path, chat_format: ChatFormat) -> None:
    task = OwnAnswers("train", context=TaskContext(Identity("Robi"), folder=with_answers(tmp_path)))
    family = get_format("smollm2")
    assert Counter(form_of(task.conversation(i), "train", i) for i in range(20)) == dict.fromkeys(FORMS, 4)
    made = family.__new__(family)
    shown = [task.asked(i, made) for i in range(20)]
    assert sum(one.get("system") is False for one in shown) == 4
    assert sum(one["messages"][0]["role"] == "system" for one in shown) == 12
    assert all(task.asked(i, chat_format) == task.conversation(i) for i in range(20)), "LanBot's own has none"
