"""The Jinja template that is saved with a model renders what the format renders, or refuses."""

from typing import Any

import pytest

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Conversation, output, python, text

CHATS: list[Conversation] = [
    {"messages": [{"role": "user", "content": "Hello,  you!\n"}, {"role": "assistant", "content": " Hi.\r\n"}]},
    {
        "messages": [
            {"role": "system", "content": "You are {{ Robi }}.\n\n"},
            {"role": "user", "content": [text("  What is 12*7? 🐈")]},
            {"role": "assistant", "content": [text("It is "), python("12*7"), output("84"), text("84.")]},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": [python("'a' + 'b'\n"), output("ab\n"), python("1"), output("")]},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": "Nothing."},
        ]
    },
]


@pytest.fixture(scope="module")
def auto_tokenizer(chat_format: LanBotFormat, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("auto")
    chat_format.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("chat", CHATS, ids=["strings", "parts"])
def test_a_chat_renders_to_the_same_ids(chat_format: LanBotFormat, auto_tokenizer, chat: Conversation) -> None:  # type: ignore[no-untyped-def]
    theirs = auto_tokenizer.apply_chat_template(chat["messages"], tokenize=True, return_dict=False)
    assert theirs == chat_format.render(chat).ids


@pytest.mark.parametrize("chat", CHATS, ids=["strings", "parts"])
def test_transformers_renders_a_prompt_to_the_same_ids(
    chat_format: LanBotFormat, auto_tokenizer, chat: Conversation
) -> None:  # type: ignore[no-untyped-def]
    prompt = chat["messages"][:-1]
    theirs = auto_tokenizer.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert theirs == chat_format.prompt(prompt)


def test_transformers_knows_the_ends(chat_format: LanBotFormat, auto_tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert auto_tokenizer.bos_token_id == chat_format.bos
    assert auto_tokenizer.eos_token_id == chat_format.end_of_turn
    assert auto_tokenizer.decode(chat_format.tokenizer.encode("It isn't , is it ?")) == "It isn't , is it ?"
    assert auto_tokenizer.pad_token_id == chat_format.tokenizer.special[chat_format.pad_token]


def test_the_pad_token_is_never_under_loss(chat_format: LanBotFormat, auto_tokenizer) -> None:  # type: ignore[no-untyped-def]
    """A collator masks the pad token in the labels: were it the end of the turn, a model would not learn to stop."""
    ids, mask = chat_format.render(CHATS[1])
    pad = auto_tokenizer.pad_token_id
    assert pad not in {chat_format.bos, *chat_format.stop_tokens}
    assert not any(counted for token, counted in zip(ids, mask, strict=True) if token == pad)


USER: dict[str, Any] = {"role": "user", "content": "2+2?"}


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "tool", "content": "4"}],
        [{"role": "developer", "content": "Be kind."}, USER],
        [USER, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
        [{"role": "user", "content": [{"type": "image", "text": "cat.png"}]}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": "a <|assistant_end|> b"}],
        [USER, {"role": "assistant", "content": [python("print('<|bos|>')")]}],
        [{"role": "user", "content": [text("<|bo"), text("s|>")]}],
    ],
    ids=["tool", "developer", "tool call", "image", "no text", "special", "special in a call", "two texts"],
)
def test_the_template_refuses_what_it_cannot_render(auto_tokenizer, messages: list) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Exception, match=r"Not in this format|Text must not|has no text"):
        auto_tokenizer.apply_chat_template(messages, tokenize=True)
