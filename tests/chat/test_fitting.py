"""A model from elsewhere gets the bot's name and the tokens that it lacks."""

from pathlib import Path

import pytest
from open_formats import SPECIAL, small_format

from lanbot.chat.fitting import fitted
from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import TOOL_TOKENS
from lanbot.chat.messages import chat, output, python, text
from lanbot.config.recipe import Identity, Recipe, TokenizerSettings
from lanbot.tokenizers import load_tokenizer
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tokenizers.hugging_face import HuggingFaceTokenizer

ROBI = Recipe(identity=Identity("Robi", "Ada", description="a small assistant"))
WITH_TOKENS = Recipe(identity=ROBI.identity, tokenizer=TokenizerSettings(tool_tokens=True))


def test_the_system_message_says_who_the_bot_is() -> None:
    assert ROBI.identity.system_message == "You are Robi, a small assistant, made by Ada."
    assert Identity("Robi").system_message == "You are Robi."


@pytest.mark.parametrize("name", SPECIAL)
def test_tool_tokens_are_added_after_all_others_on_request(name: str, tmp_path: Path) -> None:
    theirs = small_format(name)
    plain, known = fitted(lambda: theirs, ROBI)
    assert plain.tokenizer is theirs.tokenizer and known == theirs.tokenizer.vocab_size
    made, known = fitted(lambda: theirs, WITH_TOKENS)
    assert [made.tokenizer.special[token] for token in TOOL_TOKENS] == list(range(known, known + 4))
    assert type(made) is type(theirs) and made.tokenizer.vocab_size == known + 4
    assert made.default_system == (None if name == "qwen3" else ROBI.identity.system_message)
    made.save(tmp_path)
    loaded = load_format(tmp_path)
    conversation = chat("2+2?", [python("2+2"), output("4"), text("4.")])
    assert loaded.render(conversation) == made.render(conversation)
    again, known_now = fitted(lambda: loaded, WITH_TOKENS)
    assert again.tokenizer is loaded.tokenizer and known_now == known + 4


def test_a_vocabulary_of_no_format_gets_the_tokens_of_the_recipes(tmp_path: Path) -> None:
    BPETokenizer.of_bytes(["<s>"]).save(tmp_path)
    made, known = fitted(lambda: load_format(tmp_path), ROBI)
    assert (made.name, known, made.tokenizer.vocab_size) == ("lanbot", 257, 257 + len(made.special_tokens))
    other = Recipe(tokenizer=TokenizerSettings(chat_format="chatml", tool_tokens=True))
    made, _ = fitted(lambda: load_format(tmp_path), other)
    assert made.name == "chatml" and set(TOOL_TOKENS) <= set(made.tokenizer.special)


def test_other_softwares_tokenizers_take_further_tokens(tmp_path: Path) -> None:
    small_format("qwen3").tokenizer.save(tmp_path)
    ours = HuggingFaceTokenizer((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    more = ours.with_special(["<|new|>"])
    more.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for words in ("Hello there", "a<|new|>b", "<think>"):
        assert more.encode(words) == loaded.encode(words) == more.encode_array(words).tolist()
        assert more.encode(words)[:1] == ours.encode(words)[:1] and max(more.encode(words)) < ours.vocab_size
    assert more.special["<|new|>"] == ours.vocab_size and more.decode([ours.vocab_size]) == "<|new|>"
