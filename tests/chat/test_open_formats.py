"""The formats of open models render what the families' own chat templates do, token by token."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from open_formats import SPECIAL, TEMPLATES, conversation, family_folder, family_format, small_format, small_tokenizer

from lanbot.chat.formats import NoFormatError, load_format
from lanbot.chat.formats.base import TOOL_TOKENS
from lanbot.chat.formats.turns import TurnFormat
from lanbot.chat.messages import Conversation, call, output, python, text
from lanbot.chat.openai import to_openai
from lanbot.core.errors import UserError

CALLS = {"qwen2.5": (2, True), "qwen3": (2, True), "smollm2": (0, False), "llama3": (1, False)}
"""What the families' own templates can say: calls in one answer, and words before them."""
SYSTEM = 'You are "Robi",\nmade by Ada 🐈.'


def assert_alike(chat_format: TurnFormat, folder: Path, calls: int, talks: bool, count: int = 200) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    rng = random.Random(f"{chat_format.name} {calls}")
    for i in range(count):
        one, prompt = conversation(rng, calls, talks), i % 2 == 1
        if prompt:
            one["messages"].pop()
        theirs = tokenizer.apply_chat_template(
            to_openai(one["messages"], arguments_as_text=False),
            tools=one.get("tools"),
            tokenize=True,
            return_dict=False,
            add_generation_prompt=prompt,
            enable_thinking=False,
            date_string="26 Jul 2024",
        )
        ours = chat_format.ask(one) if prompt else chat_format.render(one).ids
        assert ours == theirs, one


REAL = [(name, False) for name in CALLS] + [("qwen2.5", True), ("qwen3", True)]


@pytest.mark.parametrize(("name", "real"), REAL, ids=[f"{name} real"[: None if real else -5] for name, real in REAL])
def test_ids_are_those_of_the_familys_template(name: str, real: bool, tmp_path: Path) -> None:
    chat_format = family_format(name, tmp_path / "model", real)
    assert_alike(chat_format, tmp_path / "model", *CALLS[name])


def test_ids_are_those_of_smollm2s_own_template_and_tokenizer(smollm2: Path, tmp_path: Path) -> None:
    from lanbot.models.gguf_read import GGUFFile

    tokenizer, config = GGUFFile(smollm2).tokenizer()
    (tmp_path / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    chat_format = load_format(tmp_path)
    assert isinstance(chat_format, TurnFormat) and chat_format.name == "smollm2"
    assert_alike(chat_format, tmp_path, *CALLS["smollm2"])


@pytest.mark.parametrize("tool_tokens", [False, True], ids=["plain", "tool tokens"])
@pytest.mark.parametrize("name", [*SPECIAL, "chatml"])
def test_the_template_that_is_saved_renders_the_same(name: str, tool_tokens: bool, tmp_path: Path) -> None:
    special = "smollm2" if name == "chatml" else name
    made = small_format(special, *(TOOL_TOKENS if tool_tokens else ()))
    if name == "chatml":
        from lanbot.chat.formats.chatml import ChatMLFormat

        made = ChatMLFormat(made.tokenizer)
    for n, chat_format in enumerate((made, made.with_default(SYSTEM))):
        folder = tmp_path / str(n)
        chat_format.save(folder)
        loaded = load_format(folder)
        assert type(loaded) is type(made) and loaded.default_system == chat_format.default_system
        assert_alike(loaded, folder, *((1, False) if name == "llama3" else (2, True)), count=100)  # type: ignore[arg-type]


INLINE: Conversation = {
    "messages": [
        {"role": "user", "content": "2+2, then 4*4?"},
        {
            "role": "assistant",
            "content": [
                text("It is "),
                python("2+2"),
                output("4"),
                text("4."),
                python("4*4"),
                output("16"),
                text("\n16."),
            ],
        },
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "  Bye. "},
    ]
}


@pytest.mark.parametrize("name", SPECIAL)
def test_calls_with_lanbots_tool_tokens_stay_within_the_answer(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat_format = small_format(name, *TOOL_TOKENS)
    ids, mask = chat_format.render(INLINE)
    shown = chat_format.tokenizer.decode(ids)
    assert "It is <|python_start|>2+2<|python_end|><|output_start|>4<|output_end|>4.<|python_start|>4*4" in shown
    said = chat_format.tokenizer.decode([token for token, counted in zip(ids, mask, strict=True) if counted])
    assert "<|python_start|>4*4<|python_end|>" in said and "output" not in said and "16<" not in said
    chat_format.save(tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.apply_chat_template(INLINE["messages"], tokenize=True, return_dict=False) == ids


@pytest.mark.parametrize("name", SPECIAL)
def test_the_saved_template_refuses_special_tokens_in_text(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    small_format(name).save(tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    hostile = f"a {SPECIAL[name][2]} b"
    asked = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    used = {"type": "function", "function": {"name": "f", "arguments": {"path": hostile}}}
    for messages in (
        [{"role": "user", "content": hostile}],
        [{"role": "system", "content": hostile}, *asked],
        [*asked, {"role": "tool", "content": hostile}],
        [*asked[:1], {"role": "assistant", "content": "", "tool_calls": [used]}],
    ):
        with pytest.raises(Exception, match="Text must not"):
            tokenizer.apply_chat_template(messages, tokenize=True)
    with pytest.raises(Exception, match="Not in this format"):
        tokenizer.apply_chat_template([{"role": "judge", "content": "a"}], tokenize=True)


# -- the default system message ------------------------------------------------------------------------------


def head(chat_format: TurnFormat, **changes: Any) -> str:
    one: Conversation = {"messages": [{"role": "user", "content": "Hello"}], **changes}
    return chat_format.tokenizer.decode(chat_format.ask(one))


def test_the_default_system_message_replaces_the_familys() -> None:
    for name, theirs in (("qwen2.5", "You are Qwen"), ("smollm2", "named SmolLM"), ("llama3", "Today Date")):
        chat_format = small_format(name)
        assert theirs in head(chat_format)
        ours = chat_format.with_default(SYSTEM)
        assert SYSTEM in head(ours) and theirs not in head(ours) and theirs in head(chat_format)
        assert SYSTEM not in head(ours, system=False) and "system" not in head(ours, system=False)
        given = [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}]
        assert SYSTEM not in head(ours, messages=given) and "system" in head(ours, messages=given)


def test_a_format_whose_family_has_no_default_takes_none() -> None:
    assert head(small_format("qwen3").with_default(SYSTEM)) == head(small_format("qwen3"))
    assert "system" not in head(small_format("qwen3"))


# -- which format a folder is of -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_saved_template_alone_tells_the_format(name: str, tmp_path: Path) -> None:
    chat_format = small_format(name).with_default(SYSTEM)
    chat_format.tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(chat_format.template, encoding="utf-8")
    assert load_format(tmp_path).name == name


@pytest.mark.parametrize(("special", "name"), [("smollm2", "chatml"), ("qwen2.5", "chatml"), ("llama3", "llama3")])
def test_a_base_model_is_known_by_its_special_tokens(special: str, name: str, tmp_path: Path) -> None:
    small_tokenizer(special).save(tmp_path)
    assert load_format(tmp_path).name == name


def test_other_templates_are_refused_with_what_to_set(tmp_path: Path) -> None:
    folder = family_folder("smollm2", tmp_path / "model")
    (folder / "chat_template.jinja").write_text("<|im_start|>{{ xml_tools }}", encoding="utf-8")
    with pytest.raises(UserError, match="chat template is none that LanBot knows") as caught:
        load_format(folder)
    assert '"chat_format"' in caught.value.remedy and "smollm2" in caught.value.remedy


def test_a_vocabulary_of_no_format_is_refused(tmp_path: Path) -> None:
    from lanbot.tokenizers.bpe import BPETokenizer

    BPETokenizer.of_bytes(["<s>"]).save(tmp_path)
    with pytest.raises(NoFormatError, match="no chat template"):
        load_format(tmp_path)


def test_several_calls_in_one_answer_are_not_llamas() -> None:
    one: Conversation = {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": [call("f", {})] * 2}]
    }
    with pytest.raises(UserError, match="llama3: several calls"):
        small_format("llama3").render(one)
