"""How varied a set is, and which of its texts are nearly the same: checked against plain counting."""

import random

import pytest

from lanbot.chat.messages import Conversation, chat, output, python, text
from lanbot.synthetic.identity.quality import (
    NearDuplicates,
    closest_pair,
    distinct_n,
    jaccard,
    shingles,
    stats,
    words_of,
)

WORDS = [f"w{i}" for i in range(400)]


def texts_with_copies(rng: random.Random, count: int) -> list[str]:
    """Random texts, and among them copies with one to ten words changed."""
    made: list[list[str]] = []
    for _ in range(count):
        if made and rng.random() < 0.6:
            words = list(rng.choice(made))
            for _ in range(rng.randint(1, 10)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = rng.choices(WORDS, k=rng.randint(20, 90))
        made.append(words)
    return [" ".join(words) for words in made]


def test_ngrams_are_counted_within_messages_and_whatever_their_case() -> None:
    rows: list[Conversation] = [chat("One two three, four five.", "one TWO three four"), chat("five one", "two three")]
    assert distinct_n(rows, 4) == 2 / 3  # "one two three four" twice, "two three four five" once
    assert distinct_n(rows, 1) == 5 / 13
    assert distinct_n([], 4) == 0 and distinct_n([chat("a", "b")], 4) == 0


def test_calls_and_outputs_are_no_words() -> None:
    assert distinct_n([chat("a b c d", [python("x y z u"), output("p q r s"), text("a b c d")])], 4) == 1 / 2


def test_a_word_may_have_an_apostrophe_and_a_hyphen() -> None:
    assert words_of("Don't, twenty-one 3.5 Ça va?") == ["don't", "twenty-one", "3", "5", "ça", "va"]


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_what_is_taken_up_is_what_comparing_all_pairs_takes_up(threshold: float) -> None:
    near, kept = NearDuplicates(threshold), []
    for one in texts_with_copies(random.Random(3), 300):
        new = all(jaccard(shingles(one), other) < threshold for other in kept)
        assert near.add(one) == new
        if new:
            kept.append(shingles(one))
    assert 50 < len(kept) < 300


def test_short_texts_are_the_same_only_if_their_words_are() -> None:
    near = NearDuplicates()
    assert near.add("Hello there!") and not near.add("hello, there") and near.add("hello here") and near.add("")
    assert not near.add("...")


def test_the_closest_pair_is_found() -> None:
    texts = [*texts_with_copies(random.Random(4), 40)[:1], *(f"{i} " * 30 for i in range(30))]
    changed = texts[0].split()
    changed[-1] = "changed"
    index, one, other = closest_pair([*texts, " ".join(changed)])
    count = len(changed) - 4
    assert (one, other) == (0, len(texts)) and index == pytest.approx((count - 1) / (count + 1))


def test_stats_count_turns_tools_and_system_messages() -> None:
    two: Conversation = {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello you"},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": [python("2+2"), output("4"), text("That is 4.")]},
        ]
    }
    found = stats([two, chat("Hi", "Hello")])
    assert (found["count"], found["turns"], found["words"]) == (2, 3, 2 + 1 + 2 + 2 + 3 + 1 + 1)
    assert (found["system_share"], found["tools_share"], found["multi_turn_share"]) == (0.5, 0.5, 0.5)
    assert found["first_words"][0] == ("hello", 2) and found["words_per_answer"] == 2
