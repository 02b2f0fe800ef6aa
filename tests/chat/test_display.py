import io
import re

import pytest

from lanbot.chat.display import DIM, GREEN, RESET, Block, Terminal, blocks, coloured, colours, plain, transcript
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Message, Part, chat, output, python, text
from lanbot.tokenizers.bpe import BPETokenizer

BYTES = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))
CONVERSATION = chat("2+2?", [text("It is é "), python("2+2"), output("4"), text("4.")])
COUNTED = ["It is é <|python_start|>2+2<|python_end|>", "4.<|assistant_end|>"]


@pytest.fixture(autouse=True)
def no_colour_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_exactly_the_counted_pieces_are_marked() -> None:
    shown = coloured(CONVERSATION, BYTES, "title")
    head, *lines = shown.split("\n")
    assert re.findall("«(.*?)»", "".join(lines)) == COUNTED
    assert lines == [
        "<|bos|>",
        "<|user_start|>2+2?<|user_end|>",
        f"<|assistant_start|>«{COUNTED[0]}»<|output_start|>4<|output_end|>«{COUNTED[1]}»",
    ]
    ids, mask = BYTES.render(CONVERSATION)
    assert head == f"title | {len(ids)} tokens, {sum(mask)} under loss («like this»)"


def test_the_counted_pieces_are_green_where_there_are_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = coloured(CONVERSATION, BYTES, "title")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert coloured(CONVERSATION, BYTES, "title") == plain.replace("«", GREEN).replace("»", RESET)


def test_no_token_is_lost_in_colouring() -> None:
    two = {"messages": CONVERSATION["messages"] * 2}
    ids = BYTES.render(two).ids
    body = coloured(two, BYTES, "t").split("\n", 1)[1]
    assert re.sub("[«»\n]", "", body) == BYTES.tokenizer.decode(ids)


def test_no_color_wins_over_force_color(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not colours(io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours(io.StringIO())


def streamed(ids: list[int]) -> list[str]:
    """What stands there after each token, and at the end."""
    out = io.StringIO()
    stream, parser = Terminal(out), BYTES.stream()
    shown = []
    for token in ids:
        for event in parser.feed(token):
            stream(event)
        shown.append(out.getvalue())
    for event in parser.finish():
        stream(event)
    stream.close()
    return [*shown, out.getvalue()]


def test_a_character_of_several_bytes_waits_until_it_is_complete() -> None:
    shown = streamed(BYTES.tokenizer.encode("aé😀b"))
    assert shown == ["a", "a", "aé", "aé", "aé", "aé", "aé😀", "aé😀b", "aé😀b\n"]


def test_an_incomplete_character_is_replaced() -> None:
    assert streamed([ord("a"), 0xF0, 0x9F])[-1] == "a\ufffd\n"
    assert streamed([0xF0, BYTES.tokenizer.special["<|python_start|>"], ord("b")])[-1].startswith("\ufffd\n    >>> b")


def answer_ids() -> list[int]:
    ids, mask = BYTES.render(CONVERSATION)
    return ids[mask.index(1) :]


def test_calls_have_lines_of_their_own() -> None:
    assert streamed(answer_ids())[-1] == "It is é \n    >>> 2+2\n4\n4.\n", "an output of sampled tokens is text"


def test_blocks_are_what_a_message_shows() -> None:
    invented: Part = {**output("5"), "invented": True}
    message: Message = {
        "role": "assistant",
        "content": [text(" It\u202e is "), invented, python("2\x1b+2"), output("4\n")],
    }
    assert blocks(message) == [
        Block("text", "It[U+202E] is 5"),
        Block("python", "2␛+2"),
        Block("output", "4\n"),
    ]
    assert blocks({"role": "user", "content": " "}) == []
    assert plain(message) == "It[U+202E] is 5\n\n    >>> 2␛+2\n    4\n    "


def test_a_transcript_has_a_heading_for_each_message() -> None:
    assert transcript(CONVERSATION["messages"]) == (
        "## user\n\n2+2?\n\n## assistant\n\nIt is é\n\n    >>> 2+2\n    4\n\n4.\n"
    )


def test_calls_are_dim_where_there_are_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert f"It is é \n{DIM}    >>> 2+2{RESET}\n4" in streamed(answer_ids())[-1]


def test_a_call_cut_short_does_not_leave_the_terminal_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = streamed([BYTES.tokenizer.special["<|python_start|>"], *BYTES.tokenizer.encode("2+")])[-1]
    assert shown.rfind(RESET) > shown.rfind(DIM) >= 0
