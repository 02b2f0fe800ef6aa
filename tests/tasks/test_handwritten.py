"""The format of the handwritten questions. Their content is not quoted here, to keep it out of training data."""

from collections import Counter

import pytest

from lanbot.chat.messages import Message, spoken, validate
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.tasks.handwritten import Handwritten, says
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import TaskContext

TASK = Handwritten("test", context=TaskContext(Identity("Robi", "Ada Smith")))


def said(words: str) -> Message:
    return {"role": "assistant", "content": words}


def test_there_are_a_hundred_of_several_kinds() -> None:
    assert len(TASK) == 100
    kinds = Counter(TASK.part(i) for i in range(100))
    assert len(kinds) >= 6 and min(kinds.values()) >= 5
    assert len({spoken(TASK.conversation(i)["messages"][0]) for i in range(100)}) == 100


def test_every_row_is_right_when_it_says_what_it_must() -> None:
    for i in range(100):
        row = TASK.row(i)
        assert set(row) == {"kind", "question", "all", "none"}
        assert row["question"].strip() and row["all"]
        assert all(isinstance(one, str) and one.strip() for one in row["all"] + row["none"])
        validate(TASK.conversation(i), f"row {i}")
        assert TASK.check(i, TASK.conversation(i)["messages"][-1])
        assert TASK.check(i, said("Well: " + "; ".join(row["all"]).upper() + "!"))


def test_no_row_is_right_when_something_is_missing_or_forbidden() -> None:
    for i in range(100):
        row = TASK.row(i)
        assert not TASK.check(i, said("")) and not TASK.check(i, said("I do not know."))
        for one in row["all"]:
            others = [other for other in row["all"] if other != one]
            assert any(says(other, one) for other in others) or not TASK.check(i, said("; ".join(others)))
        for one in row["none"]:
            assert not TASK.check(i, said("; ".join([*row["all"], one])))


def test_the_bots_names_are_filled_in() -> None:
    rows = [TASK.row(i) for i in range(100)]
    assert not [i for i, row in enumerate(rows) if "{" in str([row["question"], row["all"], row["none"]])]
    assert any("Robi" in row["all"] for row in rows) and any("Ada Smith" in row["all"] for row in rows)
    assert not [i for i, row in enumerate(rows) if "LanBot" in row["all"]]
    nobody = Handwritten("test")
    assert any("the person who runs me" in nobody.row(i)["all"] for i in range(100))


def test_they_have_no_train_split() -> None:
    with pytest.raises(UserError, match="no split 'train'"):
        make_task("handwritten", "train")


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("p-l-a-n-t", "p-l-a-n-t", True),
        ("The word plant: P-L-A-N-T.", "p-l-a-n-t", True),
        ("p l a n t", "p-l-a-n-t", True),
        ("p, l, a, n, t", "p-l-a-n-t", True),
        ("P. L. A. N. T.", "p-l-a-n-t", True),
        ("It is p - l - a - n - t!", "p-l-a-n-t", True),
        ("plant", "p-l-a-n-t", False),
        ("p-l-a-n", "p-l-a-n-t", False),
        ("p-l-a-n-t-s", "p-l-a-n-t", False),
        ("s-p-l-a-n-t", "p-l-a-n-t", False),
        ("p-l-a-a-n-t", "p-l-a-n-t", False),
        ("p-l-n-a-t", "p-l-a-n-t", False),
        ("There are 12.", "12", True),
        ("12", "12", True),
        ("#### 12", "12", True),
        ("There are 112.", "12", False),
        ("There are 120.", "12", False),
        ("That is -12.", "12", False),
        ("That is 12.5.", "12", False),
        ("That is 0.12.", "12", False),
        ("It costs 1,250 coins.", "1250", True),
        ("It costs 1,234,567.", "1234567", True),
        ("It costs 1,250 coins.", "250", False),
        ("3, 4 and 12", "4", True),
        ("The Cat sleeps.", "cat", True),
        ("The cats sleep.", "cat", False),
        ("concatenate", "cat", False),
        ("A cat-like thing", "cat", False),
        ("I am ROBI, made by ada smith.", "Ada Smith", True),
        ("I am Robin.", "Robi", False),
        ("a+b (c)", "b (c)", True),
        ("Yes, it is.", "yes", True),
        ("Yesterday.", "yes", False),
    ],
)
def test_texts_are_found_as_whole_words(answer: str, text: str, right: bool) -> None:
    assert says(answer, text) is right
