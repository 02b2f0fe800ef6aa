"""Sessions as training data."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from session_events import CHEESE, TEA, turn

from lanbot.agent.events import Asked, Called, Calling, Compacted, Ended, Event, Replied, reading
from lanbot.agent.training_rows import training_row
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.formats.chatml import Qwen25Format
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.formats.llama3 import Llama3Format
from lanbot.chat.messages import Conversation, call, python, text
from lanbot.core.errors import UserError
from lanbot.tasks.registry import make_task
from lanbot.tokenizers.bpe import BPETokenizer

STOPPED = [Asked("count"), Replied([python("1+1")], "call"), Calling(1, "1+1"), Called(1, "2"), Ended("step limit")]
DECLARED = [{"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": {}}}]
FORMATS = [LanBotFormat, Qwen25Format, Llama3Format]


def row(*turns: list[Event], system: str = "", tools: Sequence[dict[str, Any]] = ()) -> Conversation:
    made = training_row([*chain(*turns)], system, tools, "session 1")
    assert made is not None
    return made


def marks(made: Conversation) -> list[bool]:
    return [message.get("train", True) for message in made["messages"] if message["role"] == "assistant"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_model_learns_from_exactly_what_it_read_and_wrote(kind: type[ChatFormat]) -> None:
    named = call("f", {"x": 1})
    by_name: list[Event] = [
        Asked("f of 1?"),
        Replied([named], "call"),
        Calling(2, named["text"]),
        Called(2, "one"),
        Replied([text("It is one.")], "stop"),
        Ended("answered"),
    ]
    events = [*CHEESE, *by_name]
    made = row(events, system="Be brief.", tools=DECLARED)
    chat_format = kind(BPETokenizer.of_bytes(kind.special_tokens))
    ids, mask = chat_format.render(made)
    for i, event in enumerate(events):
        if isinstance(event, Replied):
            read = chat_format.prompt(reading(events[:i], "Be brief.").messages, DECLARED)
            assert ids[: len(read)] == read
            assert mask[len(read)] == 1  # what it wrote next
    learned = chat_format.tokenizer.decode([id for id, own in zip(ids, mask, strict=True) if own])
    assert "It is one." in learned and "There are 3." in learned
    assert "f of 1?" not in learned and "Be brief." not in learned and "one" not in learned.replace("It is one.", "")


def test_the_rows_of_a_file_are_read_by_the_task_jsonl(tmp_path: Path) -> None:
    rows = [row(CHEESE, TEA, system="Be brief.", tools=DECLARED), row(TEA)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(made) + "\n" for made in rows))
    task = make_task(f"jsonl:{tmp_path / 'chats.jsonl'}", "train")
    assert [task.conversation(i) for i in range(len(task))] == rows


def test_a_turn_that_ended_badly_is_not_learned_from() -> None:
    assert marks(row(CHEESE, STOPPED, TEA)) == [True, False, True]
    assert marks(row(CHEESE, STOPPED)) == [True]  # nothing follows from it
    assert marks(row(CHEESE, TEA[:-1])) == [True]  # the process was killed
    assert training_row(STOPPED, "", [], "session 1") is None
    assert training_row([], "", [], "session 1") is None
    unclosed = [Asked("count"), Replied([{**python("1+"), "open": True}], "stop"), Called(1, "error"), *TEA[1:]]
    assert marks(row(unclosed, TEA)) == [False, True]
    repeated = [*CHEESE[:3], Called(1, "error: the same call again", refused="repeated call"), *CHEESE[4:]]
    assert marks(row(repeated, TEA)) == [False, True]


def test_a_request_that_got_no_answer_is_left_out() -> None:
    made = row([Asked("hello?")], TEA, [Asked("more"), Ended("empty answer")], CHEESE)
    assert [message["content"] for message in made["messages"] if message["role"] == "user"] == [
        TEA[0].text,
        CHEESE[0].text,
    ]


def test_what_was_compacted_is_there_in_full() -> None:
    summary = Compacted([{"role": "user", "content": "a summary"}], "summary", 500, 20)
    assert row(CHEESE, [summary], TEA) == row(CHEESE, TEA)
    within = [*CHEESE[:3], summary, *CHEESE[3:]]
    assert row(within) == row(CHEESE)


def test_a_long_dirty_session_is_still_a_row() -> None:
    made = row(turn("half \ud800", "an answer \udfff", (("1+1", "bytes \udc80"),)))
    assert "\ud800" not in json.dumps(made, ensure_ascii=False)
    split = [Asked("tea?"), Replied([text("A ")], "length"), Replied([text("drink.")], "stop"), Ended("answered")]
    assert row(split)["messages"][1]["content"] == [text("A drink.")]
    with pytest.raises(UserError, match="session 1: message 1 is empty"):
        row(turn(" ", "What?"))


def test_nothing_is_learned_from_a_reply_of_which_calls_were_cut() -> None:
    cut: list[Event] = [
        Asked("count"),
        Replied([python("1+1"), text("[7 more calls cut]")], "call"),
        Calling(1, "1+1"),
        Called(1, "2"),
        Replied([text("2.")], "stop"),
        Ended("answered"),
    ]
    assert training_row(cut, "", [], "session 1") is None
    assert marks(row([*cut, *CHEESE])) == [False, True]
