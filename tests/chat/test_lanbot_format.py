import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Part, chat, output, python, spoken, text
from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import QWEN2_PATTERN, BPETokenizer

SPECIAL_TOKENS = LanBotFormat.special_tokens
BYTES = LanBotFormat(BPETokenizer.of_bytes(SPECIAL_TOKENS))
MERGED = {b"is": 256, b" is": 257, b"Be": 258, b"++": 259, b"st": 260}
WORDS = LanBotFormat(
    BPETokenizer({bytes([b]): b for b in range(256)} | MERGED, QWEN2_PATTERN, SPECIAL_TOKENS),
)
TOKENIZERS = pytest.mark.parametrize("chat_format", [BYTES, WORDS], ids=["bytes", "merges"])

CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": [text("It is "), python("2+2"), output("4"), text("4.")]},
        {"role": "user", "content": [text("and"), text(" x2?")]},
        {"role": "assistant", "content": [python("4*2"), output("8"), python("8"), output("8")]},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "ciao"},
    ]
}
COUNTED, NOT = True, False
EXPECTED = [
    ("<|bos|>", NOT),
    ("<|system_start|>", NOT),
    ("Be kind.", NOT),
    ("<|system_end|>", NOT),
    ("<|user_start|>", NOT),
    ("2+2?", NOT),
    ("<|user_end|>", NOT),
    ("<|assistant_start|>", NOT),
    ("It is ", COUNTED),
    ("<|python_start|>", COUNTED),
    ("2+2", COUNTED),
    ("<|python_end|>", COUNTED),
    ("<|output_start|>", NOT),
    ("4", NOT),
    ("<|output_end|>", NOT),
    ("4.", COUNTED),
    ("<|assistant_end|>", COUNTED),
    ("<|user_start|>", NOT),
    ("and", NOT),
    (" x2?", NOT),
    ("<|user_end|>", NOT),
    ("<|assistant_start|>", NOT),
    ("<|python_start|>", COUNTED),
    ("4*2", COUNTED),
    ("<|python_end|>", COUNTED),
    ("<|output_start|>", NOT),
    ("8", NOT),
    ("<|output_end|>", NOT),
    ("<|python_start|>", COUNTED),
    ("8", COUNTED),
    ("<|python_end|>", COUNTED),
    ("<|output_start|>", NOT),
    ("8", NOT),
    ("<|output_end|>", NOT),
    ("<|assistant_end|>", COUNTED),
    ("<|user_start|>", NOT),
    ("bye", NOT),
    ("<|user_end|>", NOT),
    ("<|assistant_start|>", NOT),
    ("ciao", COUNTED),
    ("<|assistant_end|>", COUNTED),
]


def ids_of(piece: str, chat_format: ChatFormat) -> list[int]:
    return [chat_format.tokenizer.special[piece]] if piece in SPECIAL_TOKENS else chat_format.tokenizer.encode(piece)


@TOKENIZERS
def test_ids_and_mask_are_right_to_the_token(chat_format: ChatFormat) -> None:
    ids, mask = chat_format.render(CONVERSATION)
    expected = [(token, int(counted)) for piece, counted in EXPECTED for token in ids_of(piece, chat_format)]
    assert list(zip(ids, mask, strict=True)) == expected


@TOKENIZERS
def test_a_string_and_a_single_text_part_are_the_same(chat_format: ChatFormat) -> None:
    assert chat_format.render(chat("hi", "ho")) == chat_format.render(chat("hi", [text("ho")]))


@TOKENIZERS
def test_the_prompt_of_an_item_ends_where_the_answer_begins(chat_format: ChatFormat) -> None:
    ids, mask = chat_format.render(chat("2+2?", [python("2+2"), output("4")]))
    assert chat_format.prompt_of(chat("2+2?", "4")) == ids[: mask.index(1)]
    assert chat_format.prompt(CONVERSATION["messages"][:2])[-1] == chat_format.tokenizer.special["<|assistant_start|>"]


@TOKENIZERS
@pytest.mark.parametrize("i", [2, 4, 6])
def test_parsing_what_was_rendered_gives_the_message_back(i: int, chat_format: ChatFormat) -> None:
    messages = CONVERSATION["messages"][: i + 1]
    ids, _ = chat_format.render({"messages": messages})
    answer = ids[len(chat_format.prompt(messages[:-1])) :]
    content = messages[i]["content"]
    wanted = [text(content)] if isinstance(content, str) else content
    assert chat_format.parse(answer) == {"role": "assistant", "content": wanted}


def test_nothing_after_the_end_of_the_turn_is_the_messages() -> None:
    end = BYTES.tokenizer.special["<|assistant_end|>"]
    assert spoken(BYTES.parse([*BYTES.tokenizer.encode("yes"), end, *BYTES.tokenizer.encode("no")])) == "yes"


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        ([], []),
        (["<|assistant_end|>"], []),
        (["It is ", "<|python_start|>", "2+"], [text("It is "), {**python("2+"), "open": True}]),
        (["<|python_start|>"], [{**python(""), "open": True}]),
        (["<|python_start|>", "2", "<|python_end|>", "<|output_start|>", "2"], [python("2"), output("2")]),
        (["<|python_start|>", "2", "<|output_start|>", "3"], [{**python("2"), "open": True}, output("3")]),
        (["<|python_end|>", "a", "<|output_end|>", "b"], [text("a"), text("b")]),
        (["<|python_start|>", "<|python_end|>", "a"], [text("a")]),
        (["a", "<|user_start|>", "<|bos|>", "b"], [text("ab")]),
    ],
)
def test_a_message_left_open_is_closed(pieces: list[str], wanted: list) -> None:
    ids = [token for piece in pieces for token in ids_of(piece, BYTES)]
    assert BYTES.parse(ids)["content"] == wanted


def test_broken_bytes_are_still_parsed() -> None:
    assert BYTES.parse([0xC3, BYTES.tokenizer.special["<|assistant_end|>"]])["content"] == [text("\ufffd")]


@TOKENIZERS
@pytest.mark.parametrize("spelled", SPECIAL_TOKENS)
def test_text_that_spells_a_special_token_stays_text(spelled: str, chat_format: ChatFormat) -> None:
    hostile = f"a{spelled}b"
    plain, _ = chat_format.render(chat("q", [text("x"), python("x"), output("x")]))
    specials = [token for token in plain if token >= len(chat_format.tokenizer.ranks)]
    conversation = chat(hostile, [text(hostile), python(hostile), output(hostile)])
    ids, _ = chat_format.render(conversation)
    assert [token for token in ids if token >= len(chat_format.tokenizer.ranks)] == specials
    answer = ids[len(chat_format.prompt_of(conversation)) :]
    assert chat_format.parse(answer) == conversation["messages"][-1]


def test_a_tool_message_is_refused_with_advice() -> None:
    messages = [*chat("2+2?", "wait")["messages"], {"role": "tool", "content": "4"}]
    with pytest.raises(UserError, match="'tool'") as caught:
        BYTES.render({"messages": messages})
    assert "output part" in caught.value.remedy


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20) | st.sampled_from(SPECIAL_TOKENS)


@st.composite
def contents(draw: st.DrawFn) -> list:
    """Parts in their normal form: none empty, no two texts side by side."""
    kinds = draw(st.lists(st.sampled_from([text, python, output]), max_size=6))
    kept = [kind for i, kind in enumerate(kinds) if not (i and kind is text and kinds[i - 1] is text)]
    return [kind(draw(TEXTS)) for kind in kept]


@settings(deadline=None)
@given(contents(), TEXTS)
def test_any_answer_comes_back_and_its_outputs_are_not_counted(content: list, question: str) -> None:
    conversation = chat(question, content)
    ids, mask = WORDS.render(conversation)
    assert len(ids) == len(mask)
    answer = ids[len(WORDS.prompt_of(conversation)) :]
    assert WORDS.parse(answer) == {"role": "assistant", "content": content}
    counted = [token for token, one in zip(ids, mask, strict=True) if one]
    written = [part for part in content if part["type"] != "output"]
    wanted: list[int] = []
    for part in written:
        body = WORDS.tokenizer.encode(part["text"])
        call = part["type"] == "python"
        wanted += [*ids_of("<|python_start|>", WORDS), *body, *ids_of("<|python_end|>", WORDS)] if call else body
    assert counted == [*wanted, WORDS.end_of_turn]


def test_a_message_that_is_not_to_be_trained_on_has_no_loss() -> None:
    messages = [*chat("2+2?", "5")["messages"], *chat("No, 2+2?", [python("2+2"), output("4"), text("4")])["messages"]]
    messages[1] = {**messages[1], "train": False}
    ids, mask = BYTES.render({"messages": messages})
    assert ids == BYTES.render({"messages": [{**message, "train": True} for message in messages]}).ids
    first = len(BYTES.render({"messages": messages[:2]}).ids)
    assert sum(mask[:first]) == 0 < sum(mask[first:])


def test_a_call_that_is_a_mistake_has_no_loss() -> None:
    answer: list[Part] = [python("1/0"), output("error"), python("1/1"), output("1"), text("1")]
    everything = BYTES.render(chat("?", answer))
    marked = BYTES.render(chat("?", [{**answer[0], "train": False}, *answer[1:]]))
    without = BYTES.render(chat("?", answer[2:]))
    assert marked.ids == everything.ids
    counted, wanted = ([t for t, own in zip(*one, strict=True) if own] for one in (marked, without))
    assert counted == wanted


def test_an_output_that_the_model_wrote_itself_is_marked() -> None:
    pieces = ["<|python_start|>", "2", "<|python_end|>", "<|output_start|>", "3", "<|output_end|>"]
    ids = [token for piece in pieces for token in ids_of(piece, BYTES)]
    assert BYTES.parse(ids, [1] * 6)["content"] == [python("2"), {**output("3"), "invented": True}]
    assert BYTES.parse(ids, [1, 1, 1, 0, 0, 0])["content"] == [python("2"), output("3")]
    parser = BYTES.stream()
    events = [event for token in ids for event in parser.feed(token)]
    assert [event.kind for event in events] == ["open", "piece", "close", "call", "open", "piece", "close"]
    assert [event.invented for event in events if event.part == "output"] == [True] * 3


@TOKENIZERS
def test_a_conversation_streams_as_it_is_parsed(chat_format: ChatFormat) -> None:
    content = [text("It is é "), python("2+2"), output("4"), text("4 🐈.")]
    prompt, whole = chat_format.prompt_of(chat("2+2?", content)), chat_format.render(chat("2+2?", content)).ids
    parser, pieces = chat_format.stream(), [""]
    for token in whole[len(prompt) :]:
        for event in parser.feed(token, sampled=False):
            if event.kind == "piece":
                pieces[-1] += event.text
            elif event.kind == "call":
                assert event.text == "2+2"
            else:
                pieces.append("")
    parser.finish()
    assert parser.parts == content
    assert [piece for piece in pieces if piece] == [part["text"] for part in content]
