"""Identity data made offline: true to [identity], to the point, and as people and good assistants write."""

import json
import re
from collections import Counter

import pytest

from lanbot.chat.messages import Conversation, parts, spoken, validate
from lanbot.config.recipe import Identity
from lanbot.synthetic.identity import offline, texts, voices
from lanbot.synthetic.identity.checks import problems
from lanbot.synthetic.identity.drafts import executed
from lanbot.synthetic.identity.slots import LISTS
from lanbot.synthetic.world.grammar import Cell
from lanbot.tasks.identity import agrees
from lanbot.tools.words import content_words, words

ROBI = Identity(
    "Robi",
    "Ada Quill",
    2024,
    "a small helper for a school library",
    "cheerful, patient, fond of puns",
    ("I count in dozens.", "I end with a pun"),
    ("explain sums step by step",),
    ("see pictures",),
    ("I live on an old laptop.",),
    ("English", "French", "Klingon"),
)
JEEVES = Identity("Jeeves", "Gene Kobilansky", 2025, personality="formal, like a butler", limitations=("read files",))
PLAIN = Identity("Zed")
EVERYBODY = (ROBI, JEEVES, PLAIN)


@pytest.fixture(scope="module", params=EVERYBODY, ids=lambda who: who.name)
def who(request: pytest.FixtureRequest) -> Identity:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def rows(who: Identity) -> list[offline.Row]:
    return [offline.row(who, 0, split, i) for split in ("train", "test") for i in range(2_000)]


def answers(conversation: Conversation) -> list[str]:
    return [spoken(message) for message in conversation["messages"] if message["role"] == "assistant"]


def literal(template: Cell) -> str:
    """All that a template may say itself, in every alternative."""
    return re.sub(r"\{\w+\}", " ", " ".join(p if isinstance(p, str) else " ".join(p) for p in template))


# -- what an answer says


def test_an_answer_brings_in_nothing_that_nobody_brought_in(who: Identity, rows: list[offline.Row]) -> None:
    """Its words are from the conversation so far, [identity], a tool, or the template's own text."""
    own = json.dumps(vars(who), ensure_ascii=False) + " the person who runs me you an AI assistant helpful and"
    own += " do sums count letters read write files remember things talk with see or hear"
    for row in rows:
        heard = set(content_words(own))
        templates = iter(row.templates)
        for message in row.conversation["messages"]:
            for part in parts(message):
                if message["role"] == "assistant" and part["type"] == "text":
                    written = literal(next(templates))
                    known = heard | {w for m in ("", "formal") for w in content_words(voices.spoken_in(m, written))}
                    assert set(content_words(part["text"])) <= known, row
                heard |= set(content_words(part["text"]))


def test_every_written_answer_fits_its_own_topic(who: Identity) -> None:
    """It says what a right answer says, and agrees or denies as a right answer does."""
    for i, topic in enumerate(dict.fromkeys(t.kind for t in texts.topics(who))):
        one = next(t for t in texts.topics(who) if t.kind == topic)
        assert len(one.asks) >= 5 and len(one.answers[""]) >= 2, topic
        assert set(one.answers) <= {"", *voices.MANNERS}, topic
        for answer in (a for manner in one.answers.values() for a in manner):
            writer = offline._Writer(who, offline.rng_of("fit", "train", i), "train")
            said = writer.filled(answer)
            assert one.says.format_map(writer.slots).casefold() in said.casefold(), (topic, said)
            assert one.agrees is None or agrees(said) is not (not one.agrees), (topic, said)


def test_nothing_is_left_to_fill_in_and_no_call_fails(who: Identity, rows: list[offline.Row]) -> None:
    calls = 0
    for row in rows:
        validate(row.conversation, "row")
        assert problems(row.conversation, who) == [], row
        said = [part for message in row.conversation["messages"] for part in parts(message)]
        for part in said:
            assert not re.search(r"[{}\[\]|~]|  |\bNone\b(?!,)", part["text"]) and not part["text"].startswith(
                "error"
            ), row
        for call, output, result in executed(row.conversation):
            assert output is not None and output["text"] == result, (call, row)
            calls += 1
    assert calls > 100


def test_most_answers_are_short(rows: list[offline.Row]) -> None:
    lengths = sorted(len(answer.split()) for row in rows for answer in answers(row.conversation))
    assert lengths[len(lengths) // 2] <= 12 and lengths[-1] <= 60


def test_three_personalities_are_three_voices() -> None:
    asked = ("who", "can do", "thanks", "hello", "insult", "human", "feelings")
    said: dict[str, Counter[str]] = {}
    for who in (Identity(personality="warm"), Identity(personality="dry"), Identity(personality="formal")):
        found = [offline.row(who, 0, "train", i) for i in range(3_000)]
        said[who.personality] = Counter(answers(r.conversation)[-1] for r in found if r.kind in asked)
    for one, other in (("warm", "dry"), ("warm", "formal"), ("dry", "formal")):
        shared = sum((said[one] & said[other]).values())
        assert shared < 0.35 * min(said[one].total(), said[other].total()), (one, other)
    assert sum("!" in answer for answer in said["warm"].elements()) > 0.3 * said["warm"].total()
    assert not any("!" in answer for answer in (*said["dry"], *said["formal"]))
    assert not any(re.search(r"\b(?:I'm|can't|don't)\b", answer) for answer in said["formal"])


def test_every_key_of_the_identity_is_taught() -> None:
    said = "\n".join(answer for i in range(3_000) for answer in answers(offline.row(ROBI, 0, "train", i).conversation))
    for told in ("Robi", "Ada Quill", "2024", ROBI.description, "cheerful, patient and fond of puns", *ROBI.quirks):
        assert told in said, told
    for told in ("I can explain sums", "can't see pictures", "I live on an old laptop.", "French and Klingon"):
        assert told in said, told


def test_what_the_bot_cannot_do_it_neither_offers_nor_does() -> None:
    for i in range(2_000):
        row = offline.row(JEEVES, 0, "train", i)
        assert row.kind not in ("read", "write", "list")
        for answer in answers(row.conversation):
            assert "read and write" not in answer and "I can read" not in answer, answer


# -- what users write


def test_users_type_as_people_do(rows: list[offline.Row]) -> None:
    asked = [spoken(m) for row in rows for m in row.conversation["messages"] if m["role"] == "user"]
    lower = sum(text == text.lower() for text in asked) / len(asked)
    bare = sum(text[-1].isalpha() for text in asked) / len(asked)
    assert 0.25 < lower < 0.6 and 0.2 < bare < 0.7
    assert sum(len(text.split()) <= 6 for text in asked) > 0.5 * len(asked)
    assert any(len(text.split()) > 25 for text in asked) and any(text.isupper() for text in asked)
    assert any(not text.isascii() for text in asked)


def test_all_that_is_written_comes_up(who: Identity, rows: list[offline.Row]) -> None:
    kinds = Counter(row.kind for row in rows)
    written = {topic.kind for topic in texts.topics(who)} | {one.kind for one in texts.dialogues("train")}
    assert written <= set(kinds)
    assert max(kinds.values()) < 0.1 * len(rows)
    shapes = Counter(len(row.conversation["messages"]) > 2 for row in rows)
    assert 0.3 < shapes[True] / len(rows) < 0.6


def test_tests_are_asked_in_words_and_about_names_that_training_never_has(rows: list[offline.Row]) -> None:
    train, test = rows[:2_000], rows[2_000:]

    def last(row: offline.Row) -> str:
        return " ".join(words(spoken(row.conversation["messages"][-2])))

    known = {last(row) for row in train}
    plain = [row for row in test if len(row.conversation["messages"]) == 2 and "another" not in row.kind]
    assert sum(last(row) in known for row in plain) < 0.02 * len(plain)
    for split, found in (("train", train), ("test", test)):
        others = {other for row in found for other in row.others}
        held = {w for kind in ("bot", "company") for i, w in enumerate(LISTS[kind].split()) if i % 4 == 1}
        assert (others <= held) if split == "test" else not (others & held)
    assert all(row.says or row.agrees is not None for row in test)


# -- the set


def test_the_same_rows_come_again_no_two_are_equal_and_more_only_append() -> None:
    few, many = list(offline.conversations(ROBI, 200, 0)), list(offline.conversations(ROBI, 400, 0))
    assert many[:200] == few != list(offline.conversations(ROBI, 200, 1))
    assert len({json.dumps(row["messages"]) for row in many}) == 400


def test_a_greeting_is_returned_in_the_bots_languages_and_else_in_english() -> None:
    found = [offline.row(ROBI, 0, "train", i) for i in range(6_000)]
    told = [answers(row.conversation)[-1] for row in found if "another language" in row.kind]
    assert sum("Bonjour" in answer or "Je suis Robi." in answer for answer in told) > 0.3 * len(told)
    assert not any("Hallo" in answer or "¡Hola" in answer for answer in told)
    assert sum(bool(re.search(r"\b(?:How|What|I'm|is Robi|talking to)\b", answer)) for answer in told) > 0.3 * len(told)


def test_a_greeting_that_two_languages_share_is_returned_in_the_bots_one() -> None:
    told = []
    for i in range(5_000):
        writer = offline._Writer(Identity(greetings=("Danish",)), offline.rng_of("share", "train", i), "train")
        writer.foreign()
        told += [turn.answer for turn in writer.turns if turn.user == "Hej!"]
    assert len(told) > 100 and all("Hej" in answer for answer in told)


# -- any [identity]


def test_an_identity_written_in_other_ways_reads_as_well() -> None:
    odd = Identity(
        " Mr. {Bot} 3 ",
        "Acme Inc.",
        description="A small guide.",
        personality="Grumpy, not formal, like a cat.",
        quirks=("I purr",),
        capabilities=("Catch mice.",),
        limitations=("swim", "fly", "bark", "Do math."),
        facts=("My favourite colour is teal", "It rains here!"),
        greetings=("english", "Spanish"),
    )
    found = [offline.row(odd, 0, split, i) for split in ("train", "test") for i in range(3_000)]
    told = "\n".join(answer for one in found for answer in answers(one.conversation))
    for right in ("I'm Mr. {Bot} 3, a small guide", "I can catch mice", "can't do math", "I purr. That's about it."):
        assert right in told, right
    assert "try to be grumpy, not formal, like a cat." in told and "hello in Spanish." in told
    for wrong in ("..", "  ", "!.", "I am ", "do sums"):
        assert wrong not in told, wrong
    assert not any(row.kind in ("favourite", "sum") for row in found)


def test_without_creator_facts_or_name_of_its_own_nothing_is_missing() -> None:
    bare = Identity("Zoe", " ", personality="", description=" ", greetings=())
    found = [offline.row(bare, 0, split, i) for split in ("train", "test") for i in range(3_000)]
    told = "\n".join(spoken(message) for one in found for message in one.conversation["messages"])
    assert not re.search(r"\b(?:Hello|Hi|You're|is|my name is) Zoe[.,!]? (?:What|How) (?:can|may|do)", told)
    assert "try to be helpful" in told and "made by the person who runs me" in told
    assert not {"made by your maker", "fact", "quirk", "can you", "cannot", "year", "languages"} & {
        r.kind for r in found
    }
