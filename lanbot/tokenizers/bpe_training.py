"""Training a byte-level BPE vocabulary: words are counted in bounded memory, and rustbpe merges them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import regex

from lanbot.core.console import duration, say, track
from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import LLAMA3_PATTERN, QWEN2_PATTERN, BPETokenizer

DIGITS_ALONE_BELOW = 16_384
"""Smaller vocabularies split numbers into single digits, so that a small model can copy them."""
MAX_WORD_BYTES = 32_000_000
"""Bytes of distinct words held while training; each takes about 60 bytes of memory in all."""


def train(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], bare_words: bool = False
) -> BPETokenizer:
    """Trains a tokenizer of exactly `vocab_size` ids, special tokens included, on `texts` (read once, streamed).

    Memory is bounded for any text (WordCounts): rustbpe, which would keep every word, gets the counted words. Text with
    at most MAX_WORD_BYTES of distinct words yields the same vocabulary as rustbpe alone.

    bare_words: learn merges from words without the preceding space or quote, so that a word has the same ids in any
    position, and a name is copied into a call by copying its ids. A sixth of the vocabulary then holds the most
    frequent words with their space, as the last merges.

    Raises UserError if the text has too few distinct pairs for this size.
    """
    pattern = QWEN2_PATTERN if vocab_size < DIGITS_ALONE_BELOW else LLAMA3_PATTERN
    split = regex.compile(pattern).findall
    size, spaced = vocab_size - len(special_tokens), vocab_size // 6 if bare_words else 0
    words, after_space = WordCounts(MAX_WORD_BYTES), WordCounts(MAX_WORD_BYTES)
    for text in texts:
        if bare_words:
            after_space.add(_SPACED_WORD.findall(text))
            text = _BEFORE_WORD.sub("\n", text)  # so that the split pattern isolates each word
        words.add(split(text))
    if words.slack:
        say(f"tokenizer: too many distinct words; those seen fewer than {words.slack + 1:,} times may be left out")
    merged = _merge(words.counts, size)
    whole = set(merged[: size - spaced])
    frequent = [b" " + word.encode() for word, _ in after_space.counts.most_common() if word.encode() in whole][:spaced]
    ranks = {token: rank for rank, token in enumerate([*merged[: size - len(frequent)], *frequent])}
    tokenizer = BPETokenizer(ranks, pattern, special_tokens)
    if tokenizer.vocab_size < vocab_size:
        raise UserError(
            f"tokenizer.vocab_size is {vocab_size:,}, but the text gives only {tokenizer.vocab_size:,} tokens",
            f"Use more text, or set tokenizer.vocab_size to {tokenizer.vocab_size} or less.",
        )
    return tokenizer


_BEFORE_WORD = re.compile(r"[^\w\n](?=[^\W\d_])")
_SPACED_WORD = re.compile(r"(?<= )[a-z]+(?![\w'-])")
"""Lower case only: capitalised names stay bare, to be copied. So does the first letter of a spelled b-a-r."""


class WordCounts:
    """Word frequencies in bounded memory, by lossy counting (Manku and Motwani 2002).

    When the distinct words exceed `limit` bytes, the rarest are dropped until half of that remains. No count is too
    high, and none is too low by more than `slack`.
    """

    def __init__(self, limit: int) -> None:
        self.counts: Counter[str] = Counter()
        self.limit, self.bytes, self.slack = limit, 0, 0

    def add(self, words: list[str]) -> None:
        known = len(self.counts)
        self.counts.update(words)
        new = islice(reversed(self.counts), len(self.counts) - known)  # a dict keeps insertion order
        self.bytes += sum(map(_utf8_length, new))
        if self.bytes > self.limit:
            self._drop_rarest()

    def _drop_rarest(self) -> None:
        rare = 0
        while self.bytes > self.limit // 2:
            rare += 1
            for word in [word for word, count in self.counts.items() if count <= rare]:
                del self.counts[word]
                self.bytes -= _utf8_length(word)
        self.slack += rare


def _utf8_length(word: str) -> int:
    return len(word) if word.isascii() else len(word.encode("utf-8", "surrogatepass"))


_PIECE = 1 << 20  # characters passed to rustbpe at a time


def _merge(counts: "Counter[str]", size: int) -> list[bytes]:
    """At most `size` tokens in order of rank, merged by rustbpe from word counts. Consumes `counts`.

    rustbpe counts in 32 bits: from 2^31 bytes on, the counts are divided by an integer first.
    """
    import rustbpe

    chars = sum(count * (len(word) + 1) for word, count in counts.items())
    divisor = 1 + sum(count * _utf8_length(word) for word, count in counts.items()) // 2**31
    distinct, distinct_bytes = len(counts), sum(map(_utf8_length, counts))

    def texts() -> Iterator[str]:
        yield from track(_repeated(counts, divisor), "tokenizer: counted words", chars // divisor, "chars", len)
        seconds = distinct_bytes / 600_000  # measured on one core; rustbpe reports no progress
        about = f", about {duration(seconds)} on one core" if seconds > 2 else ""
        say(f"tokenizer: merging {distinct:,} distinct words{about}")

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(texts(), size, buffer_size=16, pattern=r"[^\x00]+")
    return [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])]


def _repeated(counts: "Counter[str]", divisor: int) -> Iterator[str]:
    """Each word as often as it was counted, followed by NUL; words that contain NUL are skipped."""
    piece: list[str] = []
    room = _PIECE
    while counts:
        word, count = counts.popitem()
        if "\0" in word:
            continue
        word = word.encode("utf-8", "replace").decode() + "\0"
        left = -(-count // divisor)
        while left:
            times = min(left, 1 + room // len(word))
            piece.append(word * times)
            left, room = left - times, room - times * len(word)
            if room <= 0:
                yield "".join(piece)
                piece, room = [], _PIECE
    yield "".join(piece)
