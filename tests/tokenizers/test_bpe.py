"""The tokenizer: the same ids in tiktoken and in `tokenizers`, and no text that becomes a special token."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rustbpe
import tokenizers
from hostile import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.core.errors import UserError
from lanbot.synthetic import world
from lanbot.tokenizers import bpe, bpe_training, load_tokenizer
from lanbot.tokenizers.bpe import LLAMA3_PATTERN, QWEN2_PATTERN, BPETokenizer
from lanbot.tokenizers.bpe_training import WordCounts, train

SPECIAL_TOKENS = LanBotFormat.special_tokens
Both = tuple[BPETokenizer, Callable[[str], list[int]]]


@pytest.fixture(scope="module", params=["digits alone", "digits by threes"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A tokenizer of each split pattern, and how `tokenizers` encodes with its file."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "digits by threes":
            patch.setattr(bpe_training, "DIGITS_ALONE_BELOW", 0)
        ours = train((world.document("train", i) for i in range(300)), 512, SPECIAL_TOKENS)
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
    assert ours.byte_lengths()[ids].sum() == len(any_text.encode())


def test_merges_are_used(tokenizer: BPETokenizer) -> None:
    text = world.document("test", 3)
    assert len(tokenizer.encode(text)) < 0.7 * len(text.encode())


def test_a_small_vocabulary_has_its_digits_alone(tokenizer: BPETokenizer) -> None:
    assert len(tokenizer.encode("1234567890" * 3)) == 30


def test_special_tokens_follow_the_ranks_in_the_order_of_the_design(tokenizer: BPETokenizer) -> None:
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
    assert tokenizer.vocab_size == first + 11


def test_special_tokens_stand_for_no_bytes(tokenizer: BPETokenizer) -> None:
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[list(tokenizer.special.values())].sum() == 0
    assert lengths[: len(tokenizer.ranks)].min() == 1


# -- text in bulk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_in_bulk_the_ids_are_the_same(both: Both, name: str) -> None:
    ours, _ = both
    ids = ours.encode_array(HOSTILE[name])
    assert (ids.dtype, ids.tolist()) == (np.uint32, ours.encode(HOSTILE[name]))


@given(st.text() | st.text(st.characters(codec="ascii")) | st.text(st.characters()))
@settings(max_examples=150, deadline=None)
def test_in_bulk_any_text_has_the_same_ids(both: Both, any_text: str) -> None:
    ours, _ = both
    assert ours.encode_array(any_text).tolist() == ours.encode(any_text)


def test_in_bulk_half_of_a_surrogate_pair_is_replaced_too(tokenizer: BPETokenizer) -> None:
    assert tokenizer.encode_array("a\ud800b").tolist() == tokenizer.encode("a\ufffdb")


def test_a_million_spaces_are_encoded(tokenizer: BPETokenizer) -> None:
    """More than tiktoken's regex can go back."""
    texts = {n: f"x{' ' * n}y\n" for n in (100_000, 1_200_000)}
    ids = tokenizer.encode(texts[1_200_000])
    assert tokenizer.decode(ids) == texts[1_200_000]
    assert tokenizer.encode_array(texts[1_200_000]).tolist() == ids
    with pytest.MonkeyPatch.context() as patch:
        short = tokenizer.encode(texts[100_000])
        patch.setattr(bpe, "_TOO_LONG", 0)
        patch.setattr(bpe, "_LONG_SPACE", re.compile(" {1000}"))
        assert tokenizer.encode(texts[100_000]) == short


class Fastokens:
    """In the place of `fastokens`: what it gives is what tiktoken gives, `change`d."""

    def __init__(self, ours: BPETokenizer, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.ours, self.change, self.calls = ours, change, 0
        self.Tokenizer = self

    def from_json_str(self, text: str) -> "Fastokens":
        assert json.loads(text)["model"]["type"] == "BPE"
        return self

    def encode_batch_flat(self, texts: list[str], split_special_tokens: bool) -> tuple[bytes, bytes]:
        assert split_special_tokens, "text is never a special token"
        self.calls += 1
        return self.change(np.array(self.ours.encode(texts[0]), dtype=np.uint32)).tobytes(), b""


@pytest.mark.parametrize("right", [True, False])
def test_fastokens_is_used_if_its_ids_are_the_same(tokenizer: BPETokenizer, right: bool) -> None:
    fast = Fastokens(tokenizer, (lambda ids: ids) if right else (lambda ids: ids + 1))
    ours = BPETokenizer(tokenizer.ranks, tokenizer.pattern, SPECIAL_TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fastokens", fast)
        ours.encode_array("get ready")
        before = fast.calls
        assert ours.encode_array("Hello").tolist() == tokenizer.encode("Hello")
    assert fast.calls - before == int(right)


# -- training in bounded memory ----------------------------------------------------------------------------


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyzé")), max_size=40), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_counts_are_never_too_high_nor_too_low_by_more_than_the_slack(words: list[list[str]], limit: int) -> None:
    counted = WordCounts(limit)
    for some in words:
        counted.add(some)
        assert counted.bytes == sum(len(word.encode()) for word in counted.counts) <= limit
    right = Counter(word for some in words for word in some)
    assert all(right[word] - counted.slack <= counted.counts[word] <= right[word] for word in right)
    assert counted.slack or counted.counts == right


def test_rustbpe_alone_gives_the_same_vocabulary() -> None:
    texts = [world.document("train", i) for i in range(300)] + [HOSTILE["scripts"], HOSTILE["emoji"]] * 5
    alone = rustbpe.Tokenizer()
    alone.train_from_iterator(iter(texts), 1_000 - len(SPECIAL_TOKENS), pattern=QWEN2_PATTERN)
    assert train(texts, 1_000, SPECIAL_TOKENS).ranks == {
        bytes(token): rank for token, rank in alone.get_mergeable_ranks()
    }


def test_rare_words_are_dropped_with_a_warning_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"the cat sat {i:x}{'q' * (i % 7)} on the mat " + world.document("train", i % 50) for i in range(900)]
    whole = train(texts, 600, SPECIAL_TOKENS)
    assert "left out" not in capsys.readouterr().err
    monkeypatch.setattr(bpe_training, "MAX_WORD_BYTES", 4_000)
    bounded = train(texts, 600, SPECIAL_TOKENS)
    assert "words; those seen fewer than" in capsys.readouterr().err
    assert len(set(whole.ranks) & set(bounded.ranks)) > 0.95 * len(whole.ranks)


def test_counts_beyond_32_bits_are_scaled_down() -> None:
    """A gigabyte of each of three words, and a rare one."""
    counts = Counter({" aaaa": 2 * 10**9, " bbbb": 10**9, " cdcd": 5 * 10**8, " rare": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bpe_training, "_repeated", lambda counts, divisor: seen.append((dict(counts), divisor)) or iter(())
        )
        seen: list[tuple[dict[str, int], int]] = []
        bpe_training._merge(counts, 300)
    ((given, divisor),) = seen
    assert sum(count * len(word) for word, count in given.items()) // divisor < 2**31
    few = Counter({" ab": 5, "x\0y": 9, "\ud800": 2, "é": 3})
    assert Counter("".join(bpe_training._repeated(few, 2)).split("\0")) == {" ab": 3, "é": 2, "?": 1, "": 1}


def test_words_that_cannot_be_given_on_spoil_nothing() -> None:
    texts = ["the cat sat on the mat \0\0\0 \ud800 and the dog sat on the cat"] * 3
    assert train(texts, 280, SPECIAL_TOKENS).vocab_size == 280


# -- files -------------------------------------------------------------------------------------------------


def test_a_vocabulary_larger_than_the_text_gives_names_both_numbers() -> None:
    texts = ["the cat sat on the mat and the dog sat on the cat"] * 3
    with pytest.raises(UserError) as raised:
        train(texts, 5_000, SPECIAL_TOKENS)
    assert "5,000" in raised.value.problem
    given = int(re.findall(r"only ([\d,]+)", raised.value.problem)[0].replace(",", ""))
    assert train(texts, given, SPECIAL_TOKENS).vocab_size == given
    with pytest.raises(UserError, match=f"only {given:,}"):
        train(texts, given + 1, SPECIAL_TOKENS)


def test_a_saved_tokenizer_is_the_same_again(both: Both, tmp_path: Path) -> None:
    ours, _ = both
    ours.save(tmp_path / "new" / "folder")
    again = load_tokenizer(tmp_path / "new" / "folder")
    assert (again.ranks, again.pattern, again.special) == (ours.ranks, ours.pattern, ours.special)
    assert all(again.encode(text) == ours.encode(text) for text in HOSTILE.values())


def test_a_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)


# -- words that are the same wherever they stand ---------------------------------------------------------------

BARE_VOCAB = 800


@pytest.fixture(scope="module")
def bare() -> BPETokenizer:
    return train((world.document("train", i) for i in range(600)), BARE_VOCAB, SPECIAL_TOKENS, bare_words=True)


def spaced(tokenizer: BPETokenizer) -> set[str]:
    """The words that have a token of their own with the space before them."""
    return {token[1:].decode() for token in tokenizer.ranks if re.fullmatch(rb" [a-z]+", token)}


def some_words() -> list[str]:
    rng = world.Rng("words")
    return [*world.WORDS, *(world.made_up(rng) for _ in range(1_000))]


def test_a_bare_vocabulary_is_of_exactly_the_size_asked_for(bare: BPETokenizer) -> None:
    assert bare.vocab_size == BARE_VOCAB
    assert sorted(bare.ranks.values()) == list(range(BARE_VOCAB - len(SPECIAL_TOKENS)))
    assert BARE_VOCAB // 10 < len(spaced(bare)) <= BARE_VOCAB // 6
    assert {"the", "is", "and", "of"} <= spaced(bare)
    last = sorted(bare.ranks, key=bare.ranks.__getitem__)[-len(spaced(bare)) :]
    assert {token[1:].decode() for token in last} == spaced(bare), "they are the last merges"
    assert spaced(bare) & set("bcdefghjklmnpqrstuvwyz") == set(), "letters of spelled words are no words"


@pytest.mark.parametrize("before", [" ", '"', "(", "[", "-", ", ", '("', "\n", ": "])
def test_a_name_has_the_same_ids_wherever_it_stands(bare: BPETokenizer, before: str) -> None:
    names = {word.title() for word in some_words()} | {"Mia", "LanBot", "The", "Is", "McDonald"}
    for name in names:
        assert bare.encode(before + name) == bare.encode(before) + bare.encode(name), name


@pytest.mark.parametrize("before", ['"', "(", "[", "-", '("', "\n"])
def test_any_word_has_the_same_ids_after_a_mark(bare: BPETokenizer, before: str) -> None:
    for word in some_words():
        assert bare.encode(before + word) == bare.encode(before) + bare.encode(word), word


def test_a_word_that_is_not_frequent_has_the_same_ids_after_a_space(bare: BPETokenizer) -> None:
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


def test_no_token_holds_a_name_with_what_stands_before_it(bare: BPETokenizer) -> None:
    assert not [token for token in bare.ranks if re.search(rb"[^A-Za-z\x80-\xff]+[A-Z]", token)]
    held = {token for token in bare.ranks if re.search(rb"[^A-Za-z\x80-\xff_'][A-Za-z]", token)}
    assert held == {f" {word}".encode() for word in spaced(bare)}


def test_words_that_are_not_bare_have_their_spaces(tokenizer: BPETokenizer) -> None:
    assert [token for token in tokenizer.ranks if re.match(rb" [A-Z]", token)], "the option changes nothing"
    assert train(["a b c d " * 50] * 3, 268, SPECIAL_TOKENS, bare_words=False).vocab_size == 268


def test_the_most_frequent_words_have_their_space(bare: BPETokenizer) -> None:
    size = BARE_VOCAB - len(SPECIAL_TOKENS) - BARE_VOCAB // 6
    counts = Counter(
        word for i in range(600) for word in re.findall(r"(?<= )[a-z]+(?![\w'-])", world.document("train", i))
    )
    whole = {word: count for word, count in counts.items() if bare.ranks.get(word.encode(), size) < size}
    assert spaced(bare) <= set(whole)
    others = [count for word, count in whole.items() if word not in spaced(bare)]
    assert min(whole[word] for word in spaced(bare)) >= max(others, default=0)


def test_too_little_text_for_a_bare_vocabulary_is_an_error() -> None:
    with pytest.raises(UserError, match="vocab_size is 5,000, but the text gives only"):
        train(["the cat sat on the mat and the dog sat on the cat"] * 3, 5_000, SPECIAL_TOKENS, bare_words=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bare_tokenizer_is_the_same_in_its_file(bare: BPETokenizer, name: str, tmp_path: Path) -> None:
    bare.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for one in (HOSTILE[name], *(world.document("test", i) for i in range(3))):
        assert theirs.encode(one, add_special_tokens=False).ids == bare.encode(one)
        assert bare.decode(bare.encode(one)) == one
    assert load_tokenizer(tmp_path).ranks == bare.ranks
