"""The built-in programs: each solution passes its own checks in the sandbox, wrong ones do not, none is HumanEval's."""

import re

import pytest

from lanbot.chat.messages import Message
from lanbot.tasks.programs import problems
from lanbot.tasks.registry import make_task


def reference(task, i: int) -> Message:  # type: ignore[no-untyped-def]
    return task.conversation(i)["messages"][-1]


@pytest.mark.parametrize(("split", "least"), [("train", 300), ("test", 60)])
def test_every_solution_passes_its_checks_in_the_sandbox(split: str, least: int) -> None:
    task = make_task("programs", split)
    rows = range(len(task))
    assert len(task) >= least
    assert task.faults(rows, [reference(task, i) for i in rows]) == [""] * len(task)


def test_no_problem_is_there_twice_and_the_splits_share_no_template() -> None:
    train, test = problems("train"), problems("test")
    assert len({one.prompt for one in (*train, *test)}) == len(train) + len(test)
    said = [
        {re.sub(r"[\d'\"]+|\b\w\b", "", one.prompt.split('"""')[1].split("\n")[0]) for one in of}
        for of in (train, test)
    ]
    assert said[0].isdisjoint(said[1])


def test_a_program_that_returns_nothing_passes_no_checks() -> None:
    task = make_task("programs", "test")
    rows = range(0, len(task), 8)
    answers = [{"role": "assistant", "content": f"{problems('test')[i].prompt}    pass\n"} for i in rows]
    assert "" not in task.faults(rows, answers)


def test_the_solution_of_another_value_does_not_pass() -> None:
    """The checks tell a template's problems apart."""
    task, every = make_task("programs", "train"), problems("train")
    kinds = [re.sub(r"\d+", "", one.name) for one in every]
    rows = [i for i in range(len(every) - 1) if kinds[i] == kinds[i + 1]][::3]
    answers = [{"role": "assistant", "content": f"{every[i].prompt}{every[i + 1].solution}"} for i in rows]
    passed = task.faults(rows, answers).count("")
    assert len(rows) > 20 and passed <= len(rows) // 4


@pytest.mark.usefixtures("real_mirror")
def test_none_is_of_humaneval() -> None:
    theirs = make_task("humaneval", "test")
    rows = [theirs.row(i) for i in range(len(theirs))]  # type: ignore[attr-defined]
    names, texts = {row["entry_point"] for row in rows}, " ".join(" ".join(row["prompt"].split()) for row in rows)
    for one in (*problems("train"), *problems("test")):
        does = " ".join(one.prompt.split('"""')[1].split("\n")[0].split())
        assert one.name not in names and does not in texts
