"""The built-in world: reproducible, consistent, its sums right and its held-out part held out."""

import hashlib
import re

import pytest

from lanbot.chat.conversation import Conversation, parts, spoken, validate
from lanbot.data import world
from lanbot.tools.expression import evaluate

# These change only when the world is changed on purpose: every model of the demo has read other texts then.
PINNED = {
    "document": "8710f304c64b31839d3851a06a8f51bb1625cb9c664e51f8bf7ce48054a9211a",
    "word_problem": "63a59e17ff82e7e72e52ea760b85c2df320b2923aee1e348057638b5a7660338",
}


def question(conversation: Conversation) -> str:
    return spoken(conversation["messages"][0])


def draw_all(split: str, index: int) -> list[object]:
    return [
        world.document(split, index),
        world.chat_about_world(split, index),
        world.word_problem(split, index),
        world.identity_chat("Robi", "Ada", "cheerful", split, index),
    ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_text_depends_on_split_and_index_alone(split: str) -> None:
    forwards = [draw_all(split, i) for i in range(30)]
    backwards = [draw_all(split, i) for i in reversed(range(30))]
    assert forwards == backwards[::-1]


def test_the_first_texts_are_pinned() -> None:
    def digest(texts: list[str]) -> str:
        return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()

    splits = ("train", "test")
    documents = [world.document(split, i) for split in splits for i in range(50)]
    problems = [repr(world.word_problem(split, i)) for split in splits for i in range(50)]
    assert {"document": digest(documents), "word_problem": digest(problems)} == PINNED


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'val'"):
        world.document("val", 0)


def test_words_are_distinct_lowercase_and_short() -> None:
    assert len(world.WORDS) == len(set(world.WORDS)) >= 700
    assert all(re.fullmatch("[a-z]{3,10}", word) for word in world.WORDS)


def test_documents_are_distinct_and_of_the_right_length() -> None:
    train = [world.document("train", i) for i in range(2000)]
    test = [world.document("test", i) for i in range(1000)]
    assert len(set(train)) >= 0.95 * len(train)
    assert not set(train) & set(test)
    assert all(40 <= len(content.split()) <= 150 for content in train + test)
    assert not [content for content in train + test if re.search(r"[{}|\\]", content)]


def test_every_kind_of_document_is_drawn() -> None:
    drawn = " ".join(world.document("train", i) for i in range(200))
    for sign in (
        "is spelled",
        "First,",
        "plus",
        "opposite",
        "Who has the word",
        "home town",
        "by train",
        "asked",
    ):
        assert sign in drawn


def test_a_person_is_the_same_everywhere() -> None:
    told = [world.document("train", i) for i in range(2000)]
    told += [spoken(m) for i in range(2000) for m in world.chat_about_world("test", i)["messages"][1::2]]
    seen = re.findall(r"\b([A-Z][a-z]+) (lives in|is|works as|likes to eat) (an? \w+|\w+)[. ]", " ".join(told))
    facts = {"lives in": "town", "is": "a_job", "works as": "a_job", "likes to eat": "food"}
    jobs = {world.person(name).a_job for name in world.NAMES}
    checked = 0
    for name, verb, what in seen:
        if name in world.NAMES and (verb != "is" or what in jobs):
            assert getattr(world.person(name), facts[verb]) == what, (name, verb, what)
            checked += 1
    assert checked > 500


def test_chats_about_the_world_are_sound() -> None:
    turns = [len(validate(world.chat_about_world("train", i), f"chat {i}")["messages"]) for i in range(1000)]
    assert set(turns) == {2, 4}


def test_a_comparison_is_answered_rightly() -> None:
    checked = 0
    for i in range(2000):
        asked, answer = (spoken(message) for message in world.chat_about_world("train", i)["messages"][:2])
        numbers = [int(number) for number in re.findall(r"\d+", asked)]
        if asked.startswith("Which is"):
            best = max(numbers) if "larger" in asked else min(numbers)
            assert answer.startswith(f"{best} is")
            checked += 1
        elif re.match(r"Is \d+ larger", asked):
            assert answer.startswith("Yes" if numbers[0] > numbers[1] else "No")
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("split", ["train", "test"])
def test_outputs_are_what_the_code_gives(split: str) -> None:
    for i in range(500):
        conversation, answer = world.word_problem(split, i)
        said = parts(validate(conversation, f"problem {i}")["messages"][1])
        calls = [k for k, part in enumerate(said) if part["type"] == "python"]
        assert 1 <= len(calls) <= 2
        for k in calls:
            assert said[k + 1] == {"type": "output", "text": str(evaluate(said[k]["text"]))}
        assert said[-1]["text"].endswith(f"\n#### {answer}")
        assert said[calls[-1] + 1]["text"] == answer
        assert int(answer) > 1


def test_the_calls_use_only_numbers_that_are_known() -> None:
    for i in range(300):
        conversation, _ = world.word_problem("train", i)
        known = set(re.findall(r"\d+", question(conversation)))
        for part in parts(conversation["messages"][1]):
            if part["type"] == "python":
                assert set(re.findall(r"\d+", part["text"])) <= known
            known |= set(re.findall(r"\d+", part["text"]))


def template_of(asked: str) -> str:
    """The first words of the template that made a question, with everything it fills in replaced."""
    patterns = [row[0] for row in (*world.PROBLEMS, *world.HELD_OUT)]
    matching = [p for p in patterns if re.fullmatch(re.sub(r"\\\{.*?\\\}", r"\\w+", re.escape(p)), asked)]
    assert len(matching) == 1, (asked, matching)
    return matching[0]


def test_held_out_templates_are_in_test_only() -> None:
    train = {template_of(question(world.word_problem("train", i)[0])) for i in range(1000)}
    test = {template_of(question(world.word_problem("test", i)[0])) for i in range(1000)}
    held_out = {row[0] for row in world.HELD_OUT}
    assert len(train) >= 8 and len(held_out) >= 2
    assert not train & held_out
    assert test - train == held_out
    assert all(template_of(question(world.word_problem("test", i)[0])) in held_out for i in range(3, 100, 4))


def test_word_problems_of_train_and_test_are_disjoint() -> None:
    train = {question(world.word_problem("train", i)[0]) for i in range(3000)}
    test = {question(world.word_problem("test", i)[0]) for i in range(3000)}
    assert not train & test
    assert len(train) > 2900 and len(test) > 2800


@pytest.mark.parametrize("name", ["Robi", "Mia", "LanBot 2", "{braces}", "ChatGPT", "Žofie"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_identity_says_its_own_name(name: str, split: str) -> None:
    for i in range(200):
        conversation = world.identity_chat(name, "Ada", "cheerful.", split, i)
        asked, answer = (spoken(message) for message in conversation["messages"])
        assert name in answer
        if name in asked:
            assert answer.startswith("Yes")
        elif re.search(r"Are you [A-Z]|name [A-Z]|talking to [A-Z]|Hello [A-Z]|You are [A-Z]", asked):
            assert answer.startswith("No")


def test_identity_names_the_maker_when_asked() -> None:
    makers = {"Ada": "by Ada", "": "by the person who runs me"}
    for maker, said in makers.items():
        answers = {}
        for i in range(200):
            messages = world.identity_chat("Robi", maker, "", "train", i)["messages"]
            answers[spoken(messages[0])] = spoken(messages[1])
        assert said in answers["Who made you?"] and said in answers["Who trained you?"]


def test_identity_shows_its_personality() -> None:
    answers = [spoken(world.identity_chat("Robi", "", "a calm poet.", "train", i)["messages"][1]) for i in range(100)]
    assert any(answer.endswith("a calm poet.") for answer in answers)


def test_identity_is_asked_in_other_words_in_test() -> None:
    rows = world.IDENTITY
    train = {asked for row in rows[0::3] for asked in row}
    test = {asked for row in rows[1::3] for asked in row}
    assert len(train) >= 12 and len(test) >= 5
    assert not train & test
    drawn = [
        {question(world.identity_chat("Robi", "Ada", "", split, i)) for i in range(1000)} for split in ("train", "test")
    ]
    assert not drawn[0] & drawn[1]
