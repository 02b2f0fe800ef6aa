"""Everyday requests: every kind is made, what is to be copied is there, and typing in haste changes nothing else."""

import json
import re
from collections import Counter
from itertools import pairwise

import pytest

from lanbot.chat.messages import chat, parts, spoken, validate
from lanbot.synthetic import everyday, world
from lanbot.synthetic.everyday.conversations import KINDS
from lanbot.synthetic.everyday.desk import Desk
from lanbot.synthetic.everyday.typed import neat, typed, wish
from lanbot.synthetic.world.grammar import Rng, rng_of

ROWS = range(2_500)
SPLITS = ("train", "test")
CONVERSATIONS = {split: [everyday.everyday(split, i) for i in ROWS] for split in SPLITS}


def desk_of(kind: str, i: int, split: str = "train") -> Desk:
    desk = Desk(rng_of(kind, split, i), split)
    KINDS[kind][1](desk)
    return desk


@pytest.mark.parametrize("split", SPLITS)
def test_a_conversation_depends_on_split_and_index_alone(split: str) -> None:
    assert [everyday.everyday(split, i) for i in reversed(range(50))] == CONVERSATIONS[split][:50][::-1]
    assert len({json.dumps(one) for one in CONVERSATIONS[split]}) > 0.9 * len(ROWS)


@pytest.mark.parametrize("split", SPLITS)
def test_every_conversation_is_one_and_nothing_is_left_open(split: str) -> None:
    for i, conversation in enumerate(CONVERSATIONS[split]):
        messages = validate(conversation, f"row {i}")["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(spoken(message).strip() for message in messages), conversation
        assert not [part for message in messages for part in parts(message) if re.search(r"[{}|]", part["text"])]
        assert not [message for message in messages[::2] if re.search(r"[][]|  | [.,?!]|^ | $|^$", spoken(message))]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_made(kind: str) -> None:
    asked = {str(desk_of(kind, i).messages[0]["content"]) for i in range(60)}
    assert len(asked) >= 30


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_what_a_call_writes_was_said_before_it(kind: str) -> None:
    """A model can only copy what it has read: file names, texts and facts stand in requests or outputs before."""
    written = 0
    for i in range(400):
        read = ""
        for message in desk_of(kind, i).messages:
            for part in parts(message):
                call = re.fullmatch(r'(?:write_file|remember)\("(.*)"\)', part["text"], re.DOTALL)
                if part["type"] == "python" and call:
                    written += 1
                    for piece in re.split(r'", "|\\n', call[1].replace('\\"', '"')):
                        piece = re.sub(r"^the (?:code|number|word|pin|password) ", "", piece)
                        assert piece.casefold() in read.casefold(), (piece, read)
                read += part["text"] + "\n"
    assert written > 60


def test_errands_end_as_they_say() -> None:
    wrote = edited = 0
    for i in range(400):
        desk = desk_of("files", i)
        for message in desk.messages[1::2]:
            said = re.search(r"I (wrote|changed) (\S+)\.$", spoken(message))
            if said:
                assert said[2] in desk.files
                wrote, edited = wrote + (said[1] == "wrote"), edited + (said[1] == "changed")
    assert wrote > 80 and edited > 40


def test_the_bot_is_who_the_recipe_says() -> None:
    for i in range(150):
        desk = Desk(rng_of("who", "train", i), "train", ("Robi", "Ada Byron", "cheerful"))
        KINDS["identity"][1](desk)
        answer = spoken(desk.messages[-1])
        assert "Robi" in answer and "LanBot" not in answer
        assert "Ada Byron" in answer
    chats = (everyday.everyday("train", i, ("Robi", "Ada Byron", "cheerful")) for i in range(1_000))
    assert not [one for one in chats if "LanBot" in json.dumps(one)]


def test_mistakes_are_made_good() -> None:
    """A wrong name, or a text that is not there, is followed by the right call."""
    outputs = Counter[str]()
    for i in range(800):
        got = [part["text"] for m in desk_of("files", i).messages for part in parts(m) if part["type"] == "output"]
        for first, second in pairwise(got):
            if first.startswith("error") and not second.startswith("error"):
                outputs[re.sub(r"error: |\S+\.\w+.*", "", first)] += 1
    assert len(outputs) >= 2, outputs


def test_sums_are_right() -> None:
    for kind in ("sums", "problems"):
        for i in range(300):
            answer = desk_of(kind, i).messages[-1]
            values = [part["text"] for part in parts(answer) if part["type"] == "output"]
            assert re.fullmatch(r"\d+(\.\d+)?|-\d+", values[-1]) and values[-1] in spoken(answer), answer


def test_no_word_of_the_spelling_tests_is_spelled_in_training() -> None:
    spelled = {
        found.replace("-", "")
        for conversation in CONVERSATIONS["train"]
        for message in conversation["messages"][1::2]
        for found in re.findall(r"\b\w(?:-\w){2,}\b", spoken(message))
    }
    assert len(spelled) > 150
    assert not {word for word in spelled if world.held_out(word) and world.held_out(word[::-1])}


def test_typing_in_haste_leaves_quotes_names_numbers_and_kept_words() -> None:
    said = "Please write \"Hello There, Ann!\" and 'So It Is.' to My.File.txt for Zoe at 12.5, what's that?"
    seen = {typed(said, Rng(f"typed/{i}"), {"Zoe"}) for i in range(400)}
    for one in seen:
        assert all(piece in one for piece in ('"Hello There, Ann!"', "'So It Is.'", "My.File.txt", "Zoe", "12.5")), one
    assert any(one.startswith("please write") for one in seen) and any("whats that" in one for one in seen)
    assert len(seen) > 10 and said in seen


def test_wishes_are_said_in_many_ways() -> None:
    rng = Rng("wishes")
    assert len({wish("read a.txt", rng) for _ in range(300)}) > 15
    assert all(wish("? what is 1+1", rng).endswith("?") for _ in range(50))
    assert wish("! hello you", rng) == "hello you."
    assert all(wish("write a.txt: some words", rng, ended=False).rstrip(".?").endswith("words") for _ in range(100))
    assert neat("i think i'm here. is it a.txt? read it") == "I think I'm here. is it a.txt? Read it"


def test_answers_stay_as_they_are_and_copied_words_keep_their_capital() -> None:
    row = chat("Where does Zoe live? In Rome or on Monday?", "Zoe lives there.")
    seen = [everyday.as_typed(row, Rng(f"row/{i}")) for i in range(100)]
    assert all(one["messages"][1] == row["messages"][1] for one in seen)
    asked = [str(one["messages"][0]["content"]) for one in seen]
    assert all("Zoe" in one for one in asked) and any("monday" in one and "rome" in one for one in asked)
    assert any("zoe" in str(everyday.as_typed(row, Rng(f"{i}"), copied=False)["messages"][0]) for i in range(50))
