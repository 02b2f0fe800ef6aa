"""The tokenizer: the same ids in tiktoken and in `tokenizers`, and no text that becomes a special token."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot import tokenizer as module
from lanbot.chat.conversation import Conversation, output, python, text
from lanbot.chat.lanbot_format import render, render_prompt
from lanbot.data import world
from lanbot.errors import UserError
from lanbot.tokenizer import LLAMA3_PATTERN, QWEN2_PATTERN, SPECIAL_TOKENS, Tokenizer, train

HOSTILE = {
    "nothing": "",
    "emoji": "👍🏽 ok 🇩🇪🇫🇷 ☃️",
    "families": "👨‍👩‍👧‍👦👩🏿‍🚀" * 3,
    "NUL": "a\0b\0\0 \0",
    "spaces": " " * 100_000,
    "spaces in text": "x" + " " * 1_001 + "y \t  \n   z   ",
    "specials": "".join(SPECIAL_TOKENS) + " <|bos|> <|user_end|><|endoftext|>",
    "half a special": "<|assistant_sta rt|> <|<|bos|>|> <|bos",
    "CRLF": "one\r\ntwo\r\n\r\n\tthree\rfour\n\n\n",
    "lone marks": "\u0301\u0308a \u200d \ufeff\u0e31 e\u0301",
    "scripts": "héllo Привет 你好世界 こんにちは שלום مرحبا हिन्दी ไทย ǅ ß İ ſ K",
    "digits": "3.14159265358979 1234567890123456789012345 007 ٣٤٥ ½ Ⅷ x2y",
    "apostrophes": "I'll they've WE'RE don't 'tis o'Clock 'ſ",
    "odd spaces": "a\u00a0b\u2028c\u2029d\u0085e\u3000f\v\f",
    "astral": "\U0001d54f\U0010ffff\U00020000 \uffff\ue000",
    "long word": "a" * 5_000 + "!" * 2_000,
}

Both = tuple[Tokenizer, Callable[[str], list[int]]]


@pytest.fixture(scope="module", params=["digits alone", "digits by threes"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A tokenizer of each split pattern, and how `tokenizers` encodes with its file."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "digits by threes":
            patch.setattr(module, "DIGITS_ALONE_BELOW", 0)
        ours = train((world.document("train", i) for i in range(300)), 512)
    assert ours.pattern == (QWEN2_PATTERN if request.param == "digits alone" else LLAMA3_PATTERN)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return ours, lambda text: theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", HOSTILE)
def test_tokenizers_gives_the_same_ids(both: Both, name: str) -> None:
    ours, theirs = both
    assert theirs(HOSTILE[name]) == ours.encode(HOSTILE[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_comes_back_and_stays_text(both: Both, name: str) -> None:
    ours, _ = both
    ids = ours.encode(HOSTILE[name])
    assert ours.decode(ids) == HOSTILE[name]
    assert all(token < len(ours.ranks) for token in ids)


@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from([*SPECIAL_TOKENS, " ", "\r\n", "'LL", "12345", "e", "\u0301", "the", "."])).map(
            "".join
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_text_has_the_same_ids_and_comes_back(both: Both, any_text: str) -> None:
    ours, theirs = both
    ids = ours.encode(any_text)
    assert theirs(any_text) == ids
    assert ours.decode(ids) == any_text
    assert all(token < len(ours.ranks) for token in ids)
    assert ours.token_bytes()[ids].sum() == len(any_text.encode())


def test_merges_are_used(tokenizer: Tokenizer) -> None:
    text = world.document("test", 3)
    assert len(tokenizer.encode(text)) < 0.7 * len(text.encode())


def test_a_small_vocabulary_has_its_digits_alone(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("1234567890" * 3)) == 30


def test_special_tokens_follow_the_ranks_in_the_order_of_the_design(tokenizer: Tokenizer) -> None:
    first = len(tokenizer.ranks)
    assert sorted(tokenizer.ranks.values()) == list(range(first))
    assert list(tokenizer.special.items()) == [
        ("<|bos|>", first),
        ("<|system_start|>", first + 1),
        ("<|system_end|>", first + 2),
        ("<|user_start|>", first + 3),
        ("<|user_end|>", first + 4),
        ("<|assistant_start|>", first + 5),
        ("<|assistant_end|>", first + 6),
        ("<|python_start|>", first + 7),
        ("<|python_end|>", first + 8),
        ("<|output_start|>", first + 9),
        ("<|output_end|>", first + 10),
    ]
    assert tokenizer.bos == first
    assert tokenizer.vocab_size == first + 11


def test_special_tokens_stand_for_no_bytes(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_bytes()
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[list(tokenizer.special.values())].sum() == 0
    assert lengths[: len(tokenizer.ranks)].min() == 1


# -- training and files ------------------------------------------------------------------------------------


def test_a_vocabulary_larger_than_the_text_gives_names_both_numbers() -> None:
    texts = ["the cat sat on the mat and the dog sat on the cat"] * 3
    with pytest.raises(UserError) as raised:
        train(texts, 5_000)
    assert "5,000" in raised.value.problem
    given = int(re.findall(r"only ([\d,]+)", raised.value.problem)[0].replace(",", ""))
    assert train(texts, given).vocab_size == given
    with pytest.raises(UserError, match=f"only {given:,}"):
        train(texts, given + 1)


def test_a_saved_tokenizer_is_the_same_again(both: Both, tmp_path: Path) -> None:
    ours, _ = both
    ours.save(tmp_path / "new" / "folder")
    again = Tokenizer.load(tmp_path / "new" / "folder")
    assert (again.ranks, again.pattern, again.special) == (ours.ranks, ours.pattern, ours.special)
    assert all(again.encode(text) == ours.encode(text) for text in HOSTILE.values())


def test_a_missing_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: no tokenizer there"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {}}', '{"model": {"vocab": {"\u4f60": 0}}}'])
def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_with_other_special_tokens_is_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["added_tokens"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="special tokens"):
        Tokenizer.load(tmp_path)


# -- words that are the same wherever they stand ---------------------------------------------------------------

BARE_VOCAB = 800


@pytest.fixture(scope="module")
def bare() -> Tokenizer:
    return train((world.document("train", i) for i in range(600)), BARE_VOCAB, bare_words=True)


def spaced(tokenizer: Tokenizer) -> set[str]:
    """The words that have a token of their own with the space before them."""
    return {token[1:].decode() for token in tokenizer.ranks if re.fullmatch(rb" [a-z]+", token)}


def some_words() -> list[str]:
    rng = world.Rng("words")
    return [*world.WORDS, *(world.made_up(rng) for _ in range(1_000))]


def test_a_bare_vocabulary_is_of_exactly_the_size_asked_for(bare: Tokenizer) -> None:
    assert bare.vocab_size == BARE_VOCAB
    assert sorted(bare.ranks.values()) == list(range(BARE_VOCAB - len(SPECIAL_TOKENS)))
    assert BARE_VOCAB // 10 < len(spaced(bare)) <= BARE_VOCAB // 6
    assert {"the", "is", "and", "of"} <= spaced(bare)
    last = sorted(bare.ranks, key=bare.ranks.__getitem__)[-len(spaced(bare)) :]
    assert {token[1:].decode() for token in last} == spaced(bare), "they are the last merges"
    assert spaced(bare) & set("bcdefghjklmnpqrstuvwyz") == set(), "letters of spelled words are no words"


@pytest.mark.parametrize("before", [" ", '"', "(", "[", "-", ", ", '("', "\n", ": "])
def test_a_name_has_the_same_ids_wherever_it_stands(bare: Tokenizer, before: str) -> None:
    names = {word.title() for word in some_words()} | {"Mia", "LanBot", "The", "Is", "McDonald"}
    for name in names:
        assert bare.encode(before + name) == bare.encode(before) + bare.encode(name), name


@pytest.mark.parametrize("before", ['"', "(", "[", "-", '("', "\n"])
def test_any_word_has_the_same_ids_after_a_mark(bare: Tokenizer, before: str) -> None:
    for word in some_words():
        assert bare.encode(before + word) == bare.encode(before) + bare.encode(word), word


def test_a_word_that_is_not_frequent_has_the_same_ids_after_a_space(bare: Tokenizer) -> None:
    """Unless its first piece is a frequent word, which then has the space."""
    space, frequent = bare.encode(" "), spaced(bare)
    alike = others = 0
    for word in some_words():
        ids, after = bare.encode(word), bare.encode(f" {word}")
        first = bare.decode(ids[:1])
        if word in frequent:
            assert len(after) == 1
        elif first in frequent:
            assert bare.decode(after[:1]) == f" {first}" and after[1:] == ids[1:], word
            others += 1
        else:
            assert after == space + ids, word
            alike += 1
    assert alike > 5 * others


def test_no_token_holds_a_name_with_what_stands_before_it(bare: Tokenizer) -> None:
    assert not [token for token in bare.ranks if re.search(rb"[^A-Za-z\x80-\xff]+[A-Z]", token)]
    held = {token for token in bare.ranks if re.search(rb"[^A-Za-z\x80-\xff_'][A-Za-z]", token)}
    assert held == {f" {word}".encode() for word in spaced(bare)}


def test_words_that_are_not_bare_have_their_spaces(tokenizer: Tokenizer) -> None:
    assert [token for token in tokenizer.ranks if re.match(rb" [A-Z]", token)], "the option changes nothing"
    assert train(["a b c d " * 50] * 3, 268, bare_words=False).vocab_size == 268


def test_the_most_frequent_words_have_their_space(bare: Tokenizer) -> None:
    size = BARE_VOCAB - len(SPECIAL_TOKENS) - BARE_VOCAB // 6
    counts = Counter(
        word for i in range(600) for word in re.findall(r"(?<= )[a-z]+(?![\w'-])", world.document("train", i))
    )
    whole = {word: count for word, count in counts.items() if bare.ranks.get(word.encode(), size) < size}
    assert spaced(bare) <= set(whole)
    others = [count for word, count in whole.items() if word not in spaced(bare)]
    assert min(whole[word] for word in spaced(bare)) >= max(others, default=0)


def test_a_bare_vocabulary_that_the_text_does_not_give_is_told() -> None:
    with pytest.raises(UserError, match="vocab_size is 5,000, but the text gives only"):
        train(["the cat sat on the mat and the dog sat on the cat"] * 3, 5_000, bare_words=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bare_tokenizer_is_the_same_in_its_file(bare: Tokenizer, name: str, tmp_path: Path) -> None:
    bare.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for one in (HOSTILE[name], *(world.document("test", i) for i in range(3))):
        assert theirs.encode(one, add_special_tokens=False).ids == bare.encode(one)
        assert bare.decode(bare.encode(one)) == one
    assert Tokenizer.load(tmp_path).ranks == bare.ranks


# -- the chat template -------------------------------------------------------------------------------------

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
def auto_tokenizer(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("auto")
    tokenizer.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("chat", CHATS, ids=["strings", "parts"])
def test_transformers_renders_a_chat_to_the_same_ids(tokenizer: Tokenizer, auto_tokenizer, chat: Conversation) -> None:  # type: ignore[no-untyped-def]
    theirs = auto_tokenizer.apply_chat_template(chat["messages"], tokenize=True, return_dict=False)
    assert theirs == render(chat, tokenizer)[0]


@pytest.mark.parametrize("chat", CHATS, ids=["strings", "parts"])
def test_transformers_renders_a_prompt_to_the_same_ids(
    tokenizer: Tokenizer, auto_tokenizer, chat: Conversation
) -> None:  # type: ignore[no-untyped-def]
    prompt = chat["messages"][:-1]
    theirs = auto_tokenizer.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert theirs == render_prompt(prompt, tokenizer)


def test_transformers_knows_the_ends(tokenizer: Tokenizer, auto_tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert auto_tokenizer.bos_token_id == tokenizer.bos
    assert auto_tokenizer.eos_token_id == tokenizer.special["<|assistant_end|>"]
    assert auto_tokenizer.decode(tokenizer.encode("It isn't , is it ?")) == "It isn't , is it ?"
