import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot.chat.formats.lanbot import parse, prompt_of, render, render_prompt
from lanbot.chat.messages import chat, output, python, spoken, text
from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import QWEN2_PATTERN, SPECIAL_TOKENS, Tokenizer

BYTES = Tokenizer({bytes([b]): b for b in range(256)}, QWEN2_PATTERN)
WORDS = Tokenizer(
    {bytes([b]): b for b in range(256)} | {b"is": 256, b" is": 257, b"Be": 258, b"++": 259, b"st": 260},
    QWEN2_PATTERN,
)
TOKENIZERS = pytest.mark.parametrize("tokenizer", [BYTES, WORDS], ids=["bytes", "merges"])

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


def ids_of(piece: str, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.special[piece]] if piece in SPECIAL_TOKENS else tokenizer.encode(piece)


@TOKENIZERS
def test_ids_and_mask_are_right_to_the_token(tokenizer: Tokenizer) -> None:
    ids, mask = render(CONVERSATION, tokenizer)
    expected = [(token, int(counted)) for piece, counted in EXPECTED for token in ids_of(piece, tokenizer)]
    assert list(zip(ids, mask, strict=True)) == expected


@TOKENIZERS
def test_a_string_and_a_single_text_part_are_the_same(tokenizer: Tokenizer) -> None:
    assert render(chat("hi", "ho"), tokenizer) == render(chat("hi", [text("ho")]), tokenizer)


@TOKENIZERS
def test_the_prompt_of_an_item_ends_where_the_answer_begins(tokenizer: Tokenizer) -> None:
    ids, mask = render(chat("2+2?", [python("2+2"), output("4")]), tokenizer)
    assert prompt_of(chat("2+2?", "4"), tokenizer) == ids[: mask.index(1)]
    assert render_prompt(CONVERSATION["messages"][:2], tokenizer)[-1] == tokenizer.special["<|assistant_start|>"]


@TOKENIZERS
@pytest.mark.parametrize("i", [2, 4, 6])
def test_parsing_what_was_rendered_gives_the_message_back(i: int, tokenizer: Tokenizer) -> None:
    messages = CONVERSATION["messages"][: i + 1]
    ids, _ = render({"messages": messages}, tokenizer)
    answer = ids[len(render_prompt(messages[:-1], tokenizer)) :]
    content = messages[i]["content"]
    wanted = [text(content)] if isinstance(content, str) else content
    assert parse(answer, tokenizer) == {"role": "assistant", "content": wanted}


def test_nothing_after_the_end_of_the_turn_is_the_messages() -> None:
    end = BYTES.special["<|assistant_end|>"]
    assert spoken(parse([*BYTES.encode("yes"), end, *BYTES.encode("no")], BYTES)) == "yes"


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        ([], []),
        (["<|assistant_end|>"], []),
        (["It is ", "<|python_start|>", "2+"], [text("It is "), python("2+")]),
        (["<|python_start|>", "2", "<|python_end|>", "<|output_start|>", "2"], [python("2"), output("2")]),
        (["<|python_start|>", "2", "<|output_start|>", "3"], [python("2"), output("3")]),
        (["<|python_end|>", "a", "<|output_end|>", "b"], [text("a"), text("b")]),
        (["<|python_start|>", "<|python_end|>", "a"], [text("a")]),
        (["a", "<|user_start|>", "<|bos|>", "b"], [text("ab")]),
    ],
)
def test_a_message_left_open_is_closed(pieces: list[str], wanted: list) -> None:
    ids = [token for piece in pieces for token in ids_of(piece, BYTES)]
    assert parse(ids, BYTES)["content"] == wanted


def test_broken_bytes_are_parsed_all_the_same() -> None:
    assert parse([0xC3, BYTES.special["<|assistant_end|>"]], BYTES)["content"] == [text("\ufffd")]


@TOKENIZERS
@pytest.mark.parametrize("spelled", SPECIAL_TOKENS)
def test_text_that_spells_a_special_token_stays_text(spelled: str, tokenizer: Tokenizer) -> None:
    hostile = f"a{spelled}b"
    plain, _ = render(chat("q", [text("x"), python("x"), output("x")]), tokenizer)
    specials = [token for token in plain if token >= len(tokenizer.ranks)]
    conversation = chat(hostile, [text(hostile), python(hostile), output(hostile)])
    ids, _ = render(conversation, tokenizer)
    assert [token for token in ids if token >= len(tokenizer.ranks)] == specials
    answer = ids[len(prompt_of(conversation, tokenizer)) :]
    assert parse(answer, tokenizer) == conversation["messages"][-1]


def test_a_tool_message_is_refused_with_advice() -> None:
    messages = [*chat("2+2?", "wait")["messages"], {"role": "tool", "content": "4"}]
    with pytest.raises(UserError, match="'tool'") as caught:
        render({"messages": messages}, BYTES)
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
    ids, mask = render(conversation, WORDS)
    assert len(ids) == len(mask)
    answer = ids[len(prompt_of(conversation, WORDS)) :]
    assert parse(answer, WORDS) == {"role": "assistant", "content": content}
    counted = [token for token, one in zip(ids, mask, strict=True) if one]
    written = [part for part in content if part["type"] != "output"]
    wanted: list[int] = []
    for part in written:
        body = WORDS.encode(part["text"])
        call = part["type"] == "python"
        wanted += [*ids_of("<|python_start|>", WORDS), *body, *ids_of("<|python_end|>", WORDS)] if call else body
    assert counted == [*wanted, WORDS.special["<|assistant_end|>"]]
