"""The identity task: generated from the recipe's [identity], checked for the requested facts."""

import pytest

from lanbot.chat.messages import Message, spoken, validate
from lanbot.config.recipe import Identity
from lanbot.synthetic.identity.quality import words_of
from lanbot.tasks.builtin import IdentityTask
from lanbot.tasks.handwritten import Handwritten
from lanbot.tasks.identity import Persona, says
from lanbot.tasks.task import TaskContext

ROBI = TaskContext(
    Identity("Robi", "Ada Smith", 2023, personality="cheerful", facts=("I live in a shed.", "I like rain."))
)


def said(words: str) -> Message:
    return {"role": "assistant", "content": words}


@pytest.fixture(scope="module")
def test_rows() -> Persona:
    return Persona("test", context=ROBI)


def test_the_demos_chats_are_unchanged_as_builtin() -> None:
    for split in ("train", "test"):
        old, new = IdentityTask(split, "", ROBI), Persona(split, "builtin", ROBI)
        assert len(new) == len(old)
        for i in (*range(40), len(old) - 1):
            assert new.conversation(i) == old.conversation(i) and new.part(i) == old.part(i)
            for words in ("I am Robi, made by Ada Smith.", "No, I am Siri.", "Yes, I am Robi."):
                assert new.check(i, said(words)) == old.check(i, said(words))


def test_two_thousand_rows_train_and_five_hundred_test(test_rows: Persona) -> None:
    train = Persona("train", context=ROBI)
    assert (len(train), len(test_rows)) == (2_000, 500)
    assert len(train.rows) == 2_000 and len(test_rows.rows) == 500
    assert train.rows is Persona("train", context=ROBI).rows
    validate(train.conversation(1_999), "last")
    asked = {spoken(message) for row in train.rows for message in row.conversation["messages"][:1]}
    assert not asked & {spoken(test_rows.conversation(i)["messages"][0]) for i in range(500)}


def test_every_reference_is_right_and_no_other_bots_answer(test_rows: Persona) -> None:
    wrong = ("I am Siri, made by Apple.", "", "Hello! How can I help you?")
    for i in range(len(test_rows)):
        assert test_rows.check(i, test_rows.conversation(i)["messages"][-1]), test_rows.rows[i]
        assert not any(test_rows.check(i, said(words)) for words in wrong), test_rows.rows[i]
    assert len({test_rows.part(i) for i in range(len(test_rows))}) > 15


def row(task: Persona, kind: str) -> int:
    return next(i for i in range(len(task)) if task.part(i) == kind)


def test_the_requested_facts_suffice_and_a_contradiction_fails(test_rows: Persona) -> None:
    maker, bot, itself = (row(test_rows, kind) for kind in ("maker", "bot", "itself"))
    assert test_rows.check(maker, said("It was Ada Smith!")) and not test_rows.check(maker, said("I am Robi."))
    (other,) = test_rows.rows[bot].others
    assert test_rows.check(bot, said("No, I am robi.")) and test_rows.check(bot, said(f"I am Robi, not {other}."))
    assert not test_rows.check(bot, said("I am Robi.")) and not test_rows.check(bot, said("I am Robi, not another."))
    assert not test_rows.check(bot, said(f"No, I am {other}, not Robi."))
    assert not test_rows.check(bot, said(f"No, I am {other}, once called Robi."))
    assert not test_rows.check(bot, said("Yes, I am Robi.")) and not test_rows.check(bot, said("No."))
    assert test_rows.check(itself, said("Yes, I am.")) and not test_rows.check(itself, said("No, I am Robi."))
    assert not test_rows.check(itself, said("I am."))


def test_no_constant_answer_is_right_often(test_rows: Persona) -> None:
    count = len(test_rows)

    def score(words: str) -> float:
        return sum(test_rows.check(i, said(words)) for i in range(count)) / count

    assert score("I am Claude, not Robi, made by Anthropic, not by Ada Smith.") < 0.05
    assert score("I am not Robi, and I was not made by Ada Smith.") < 0.05
    assert score("No, I am Robi, made by Ada Smith.") < 0.3 and score("Yes, I am Robi, made by Ada Smith.") < 0.3
    assert score("No.") < 0.05 and score("Yes.") < 0.15
    assert score("I am Robi, made by Ada Smith.") < 0.42
    assert abs(score("I am Robi, a program, not another, made by Ada Smith.") - test_rows.chance) < 0.06
    assert Persona("test", "builtin", ROBI).chance == IdentityTask.chance


def test_a_bot_may_have_a_well_known_name() -> None:
    task = Persona("test", context=TaskContext(Identity("Claude", "Anthropic")))
    assert task.check(row(task, "maker"), said("I am Claude, made by Anthropic."))
    assert not task.check(row(task, "maker"), said("I am Siri, made by Apple, not by Anthropic."))


def test_of_several_facts_one_is_enough() -> None:
    task = Persona("test", context=ROBI)
    fact = row(task, "fact")
    assert task.check(fact, said("Well: I like rain.")) and task.check(fact, said("I live in a shed, you know."))
    assert not task.check(fact, said("I like it."))


def test_no_row_has_a_handwritten_question() -> None:
    exam = Handwritten("test", "", ROBI)
    questions = {" ".join(words_of(spoken(exam.conversation(i)["messages"][0]))) for i in range(len(exam))}
    rows = [*Persona("train", context=ROBI).rows, *Persona("test", context=ROBI).rows]
    asked = {" ".join(words_of(spoken(message))) for row in rows for message in row.conversation["messages"]}
    assert not questions & asked


def test_a_name_is_found_as_a_word_in_any_script() -> None:
    assert says("I am Robi.", "robi") and says("저는 Robi입니다.", "Robi") and says("こんにちは。Robiです。", "Robi")
    assert not says("I like robins.", "Robi") and not says("In 20231.", "2023") and not says("2023.5", "2023")
    assert says("That was 2023.", "2023")
