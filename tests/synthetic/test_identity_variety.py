"""How varied a set is, and which of its conversations are nearly the same: compared with plain counting."""

import random

import pytest

from lanbot.chat.messages import Conversation, chat, output, python, text
from lanbot.synthetic.identity.variety import NearDuplicates, stats, words_of

WORDS = [f"w{i}" for i in range(400)]


def with_copies(rng: random.Random, count: int) -> list[list[str]]:
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
    return made


def jaccard(one: list[str], other: list[str]) -> float:
    a, b = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (one, other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_near_duplicates_are_those_of_comparing_all_pairs(threshold: float) -> None:
    near, kept = NearDuplicates(), list[list[str]]()
    for words in with_copies(random.Random(3), 300):
        closest = max((jaccard(words, other) for other in kept), default=0.0)
        assert near.add(chat(" ".join(words[:9]), " ".join(words[9:])), threshold)[0] == pytest.approx(closest)
        if closest < threshold:
            kept.append(words)
    assert 50 < len(kept) < 300


def test_short_texts_are_the_same_only_if_their_words_are() -> None:
    near = NearDuplicates()
    assert near.add(chat("Hello there!", "Hi")) == (0.0, -1)
    assert near.add(chat("hello,", "there: hi"))[0] == 1 and near.add(chat("hello", "here"))[0] == 0


def test_a_word_may_have_an_apostrophe_and_a_hyphen() -> None:
    assert words_of("Don't, twenty-one 3.5 Ça va?") == ["don't", "twenty-one", "3", "5", "ça", "va"]


def test_stats_count_turns_words_tools_and_system_messages() -> None:
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


def test_ngrams_are_counted_within_messages_and_the_closest_pair_is_found() -> None:
    found = stats([chat("One two three, four five.", "one TWO three four"), chat("five one", "two three")])
    assert found["distinct_4"] == 2 / 3  # "one two three four" twice, "two three four five" once
    assert found["distinct_1"] == 5 / 13 and found["closest_pair"][0] == 0
    assert stats([])["distinct_4"] == 0
    rows = [chat(f"row {i}", "which is not like any other row but by its end") for i in range(3)]
    rows += [chat("row 1", "which is not like any other row but by the end")]
    assert stats(rows)["closest_pair"][1:] == (1, 3)
