"""General questions: different, complete, and none of the held-out rows in training."""

import re

import pytest

from lanbot.synthetic.general import KINDS, questions
from lanbot.synthetic.world.grammar import sections

HELD_OUT = re.compile(r"\bFrance\b|\bMarie Curie\b|\bpenguins\b|\bbake bread\b|\bripe banana\b")


def test_questions_differ_and_more_of_them_only_append() -> None:
    some, more = questions("train", 100), questions("train", 1_000)
    assert more[:100] == some and len(set(more)) == 1_000
    assert not [one for one in more if re.search(r"[{}\[\]|]", one) or not one.endswith(("?", ".", "!"))]


def test_held_out_rows_are_for_tests_only() -> None:
    assert not [one for one in questions("train", 1_000) if HELD_OUT.search(one)]
    assert [one for one in questions("test", 400) if "France" in one]


def test_every_kind_is_asked() -> None:
    assert set(KINDS) < set(sections("general/questions"))
    first = questions("train", len(KINDS))
    assert len(first) == len(KINDS)


def test_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="different questions"):
        questions("train", 5_000)
