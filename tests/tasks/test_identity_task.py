"""The identity task: generated from the recipe's [identity], checked by what was asked for."""

import pytest

from lanbot.chat.messages import Message, spoken, validate
from lanbot.config.recipe import Identity
from lanbot.tasks.handwritten import Handwritten
from lanbot.tasks.identity import Persona, says
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import TaskContext
from lanbot.tools.words import words

ROBI = TaskContext(
    Identity("Robi", "Ada Smith", 2023, personality="cheerful", facts=("I live in a shed.", "I like rain."))
)


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def test_rows() -> Persona:
    return Persona("test", context=ROBI)


def row(task: Persona, kind: str) -> int:
    return next(i for i in range(len(task)) if task.part(i) == kind)


def test_rows_train_and_other_rows_test(test_rows: Persona) -> None:
    train = Persona("train", context=ROBI)
    assert (len(train), len(test_rows)) == (10_000, 500)
    validate(train.conversation(9_999), "last")
    assert train.conversation(7) == Persona("train", context=ROBI).conversation(7) != train.conversation(8)


def test_every_reference_is_right_and_no_other_bots_answer(test_rows: Persona) -> None:
    for i in range(len(test_rows)):
        assert test_rows.check(i, test_rows.conversation(i)["messages"][-1]), test_rows.row(i)
        assert not any(test_rows.check(i, said(text)) for text in ("I am Siri, made by Apple.", "")), test_rows.row(i)
    assert len({test_rows.part(i) for i in range(len(test_rows))}) > 15


def test_what_was_asked_for_is_enough_and_a_contradiction_is_not(test_rows: Persona) -> None:
    maker, bot, itself = (row(test_rows, kind) for kind in ("maker", "wrong bot", "it is you"))
    assert test_rows.check(maker, said("It was Ada Smith!")) and not test_rows.check(maker, said("I am Robi."))
    (other,) = test_rows.row(bot).others
    assert test_rows.check(bot, said("No, I am robi.")) and test_rows.check(bot, said(f"I am Robi, not {other}."))
    assert not test_rows.check(bot, said("I am Robi."))
    assert not test_rows.check(bot, said(f"No, I am {other}, not Robi."))
    assert not test_rows.check(bot, said(f"No, I am {other}, once called Robi."))
    assert not test_rows.check(bot, said("Yes, I am Robi.")) and not test_rows.check(bot, said("No."))
    assert test_rows.check(itself, said("Yes, I'm Robi.")) and not test_rows.check(itself, said("No, I am Robi."))
    assert not test_rows.check(itself, said("I am not called Robi."))


def test_no_constant_answer_is_right_often(test_rows: Persona) -> None:
    def score(text: str) -> float:
        return sum(test_rows.check(i, said(text)) for i in range(len(test_rows))) / len(test_rows)

    assert score("I am Claude, not Robi, made by Anthropic, not by Ada Smith.") < 0.05
    assert score("I am not Robi, and I was not made by Ada Smith.") < 0.05
    assert score("No.") < 0.15 and score("Yes.") < 0.15 and score("I am Robi, made by Ada Smith.") < 0.5
    assert abs(score("I am Robi, a program, not another, made by Ada Smith.") - test_rows.chance) < 0.06


def test_a_bot_may_have_a_well_known_name() -> None:
    task = Persona("test", context=TaskContext(Identity("Claude", "Anthropic")))
    assert task.check(row(task, "maker"), said("I am Claude, made by Anthropic."))
    assert not task.check(row(task, "maker"), said("I am Siri, made by Apple, not by Anthropic."))


def test_no_row_has_a_handwritten_question() -> None:
    exam = Handwritten("test", "", ROBI)
    questions = {" ".join(words(spoken(exam.conversation(i)["messages"][0]))) for i in range(len(exam))}
    for split in ("train", "test"):
        task = Persona(split, context=ROBI)
        for i in range(min(len(task), 2_000)):
            asked = {" ".join(words(spoken(message))) for message in task.conversation(i)["messages"]}
            assert not questions & asked, task.row(i)


def test_a_name_is_found_as_a_word_in_any_script() -> None:
    assert says("I am Robi.", "robi") and says("저는 Robi입니다.", "Robi") and says("こんにちは。Robiです。", "Robi")
    assert not says("I like robins.", "Robi") and not says("In 20231.", "2023") and not says("2023.5", "2023")
    assert says("That was 2023.", "2023")


def test_others_asks_whether_the_bot_is_another() -> None:
    task = make_task("identity:others", "test", TaskContext(Identity("Robi", "Ada")))
    answers = [spoken(task.conversation(i)["messages"][-1]) for i in range(300)]
    assert all("Robi" in one for one in answers)
    denied = sum(one.startswith(("No, ", "I am not ")) for one in answers)
    assert 150 <= denied < 300, "most deny, and some agree: who always denies is wrong too"
    assert {task.part(i) for i in range(300)} == {"other", "self"}
