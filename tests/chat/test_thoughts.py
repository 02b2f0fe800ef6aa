import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanbot.chat.thoughts import Thoughts, written


def split(text: str, cuts: list[int]) -> dict[str, str]:
    thoughts, found = Thoughts(), {"reasoning": "", "text": ""}
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    for kind, words in [*(one for piece in pieces for one in thoughts.split(piece)), *thoughts.end()]:
        found[kind] += words
    return found


@pytest.mark.parametrize(
    ("text", "reasoning", "rest"),
    [
        (written("Let me\n\nsee.") + "Because.\n", "Let me\n\nsee.", "Because.\n"),
        ("<think>short</think>yes", "short", "yes"),
        ("\n<think>\n\n</think>\n\nyes", "", "yes"),
        ("No thought </think> here", "", "No thought </think> here"),
        ("<thin air", "", "<thin air"),
        ("  spaces", "", "  spaces"),
    ],
)
@given(cuts=st.lists(st.integers(0, 100), max_size=12))
def test_a_thought_is_split_off_however_it_comes(text: str, reasoning: str, rest: str, cuts: list[int]) -> None:
    assert split(text, cuts) == {"reasoning": reasoning, "text": rest}


def test_a_thought_that_is_cut_is_one() -> None:
    assert split("<think>\nnever end", [3, 9])["reasoning"] == "never end"
