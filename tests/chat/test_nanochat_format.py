"""nanochat's chat format: the ids and masks of its own code, and a system message without tokens of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from lanbot.chat.formats import get_format, load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.formats.nanochat import NanoChatFormat
from lanbot.chat.messages import Conversation, output, python, text, validate
from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import NANOCHAT_PATTERN, BPETokenizer
from lanbot.tokenizers.tiktoken_pickle import read_pickle

BYTES = NanoChatFormat(
    BPETokenizer({bytes([byte]): byte for byte in range(256)}, NANOCHAT_PATTERN, NanoChatFormat.special_tokens)
)
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be kind."}
USER: dict[str, Any] = {"role": "user", "content": "2+2?"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": [text("It is "), python("2+2"), output("4"), text("4.")]}
TURNS: dict[str, list[dict[str, Any]]] = {
    "plain": [USER, ANSWER],
    "system": [SYSTEM, USER, ANSWER],
    "more turns": [SYSTEM, USER, ANSWER, {"role": "user", "content": " And  now?\n"}, ANSWER],
    "braces": [{**SYSTEM, "content": "You are {{ Robi }}.\n\n"}, {**USER, "content": "{% x %}"}, ANSWER],
    "only a question": [USER],
    "a system message and a question": [SYSTEM, USER],
}


def shown(messages: list[dict[str, Any]]) -> str:
    ids = BYTES.render({"messages": messages}).ids  # type: ignore[typeddict-item]
    names = {token: name for name, token in BYTES.tokenizer.special.items()}
    return "".join(names.get(token, chr(token)) for token in ids)


# -- what nanochat's own code rendered ---------------------------------------------------------------------


@pytest.fixture
def existing(existing_checkpoint: Path) -> tuple[ChatFormat, list[dict[str, Any]]]:
    chat_format = get_format("nanochat")(read_pickle(existing_checkpoint / "tokenizer" / "tokenizer.pkl"))
    return chat_format, json.loads((existing_checkpoint / "oracle.json").read_text())["conversations"]


@pytest.mark.parametrize("bulk", [False, True])
def test_ids_and_masks_are_nanochats(existing: tuple[ChatFormat, list[dict[str, Any]]], bulk: bool) -> None:
    chat_format, cases = existing
    for case in cases:
        ids, mask = chat_format.render(validate(case["conversation"], "oracle"), bulk)
        assert ids == case["ids"]
        assert mask == case["mask"] and 0 < sum(mask) < len(mask)


def test_prompts_are_nanochats(existing: tuple[ChatFormat, list[dict[str, Any]]]) -> None:
    chat_format, cases = existing
    for case in cases:
        messages = validate(case["conversation"], "oracle")["messages"]
        answered = [message["role"] for message in messages].index("assistant")
        assert chat_format.prompt(messages[:answered]) == case["prompt"]


def test_the_template_renders_nanochats_ids(existing: tuple[ChatFormat, list[dict[str, Any]]], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat_format, cases = existing
    chat_format.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = validate(cases[0]["conversation"], "oracle")["messages"]
    assert theirs.apply_chat_template(messages, tokenize=True, return_dict=False) == cases[0]["ids"]
    with pytest.raises(Exception, match="Text must not contain"):  # of cases[1], whose user spells a special token
        theirs.apply_chat_template(cases[1]["conversation"]["messages"], tokenize=True)


# -- system messages ---------------------------------------------------------------------------------------


def test_a_system_message_stands_before_the_first_question() -> None:
    said = shown([SYSTEM, USER, {"role": "assistant", "content": "4"}, USER])
    assert said == (
        "<|bos|><|user_start|>Be kind.\n\n2+2?<|user_end|><|assistant_start|>4<|assistant_end|>"
        "<|user_start|>2+2?<|user_end|>"
    )
    assert not any("system" in name for name in BYTES.special_tokens)


def test_messages_in_parts_are_joined_alike() -> None:
    parts = [{**SYSTEM, "content": [text("Be "), text("kind.")]}, {**USER, "content": [text("2+"), text("2?")]}]
    assert shown(parts) == shown([SYSTEM, USER])


def test_the_conversation_itself_is_left_as_it_was() -> None:
    messages = [dict(SYSTEM), dict(USER), dict(ANSWER)]
    shown(messages)
    assert messages == [SYSTEM, USER, ANSWER]


def test_a_message_without_loss_stays_without() -> None:
    conversation: Conversation = {"messages": [SYSTEM, USER, {**ANSWER, "train": False}]}  # type: ignore[list-item]
    assert not any(BYTES.render(conversation).mask)


@pytest.mark.parametrize(
    "messages", [[SYSTEM], [SYSTEM, ANSWER], [USER, ANSWER, SYSTEM], [USER, {**USER, "role": "tool"}]]
)
def test_what_has_no_place_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="no place in the chat format nanochat"):
        shown(messages)


# -- the Jinja template ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def auto_tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("auto")
    BYTES.save(folder)
    assert type(load_format(folder)) is NanoChatFormat
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("turns", TURNS)
def test_the_template_renders_the_same_ids(turns: str, auto_tokenizer) -> None:  # type: ignore[no-untyped-def]
    messages: Any = TURNS[turns]
    theirs = auto_tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert theirs == BYTES.render({"messages": messages}).ids
    if messages[-1]["role"] == "user":
        prompt = auto_tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert prompt == BYTES.prompt(messages)


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM],
        [SYSTEM, ANSWER],
        [USER, ANSWER, SYSTEM],
        [SYSTEM, SYSTEM, USER],
        [{**SYSTEM, "content": [text("Be kind.")]}, USER],
        [SYSTEM, {**USER, "content": [text("2+2?")]}],
        [{**SYSTEM, "content": "a <|user_end|> b"}, USER],
        [USER, {"role": "tool", "content": "4"}],
    ],
)
def test_the_template_refuses_what_it_cannot_render(auto_tokenizer, messages: list) -> None:  # type: ignore[no-untyped-def,type-arg]
    with pytest.raises(Exception, match=r"Not in this format|Text must not"):
        auto_tokenizer.apply_chat_template(messages, tokenize=True)


# -- rows of nanochat --------------------------------------------------------------------------------------


def test_a_rows_python_output_is_an_output() -> None:
    answer = [text("It is "), python("2+2"), {"type": "python_output", "text": "4"}, text("4.")]
    row = [USER, {"role": "assistant", "content": answer}]
    assert validate(row, "a row") == {"messages": [USER, ANSWER]}
    with pytest.raises(UserError, match="only the assistant may have"):
        validate([{"role": "user", "content": answer}, ANSWER], "a row")
