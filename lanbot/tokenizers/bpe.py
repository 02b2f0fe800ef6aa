"""The tokenizer: byte-level BPE. rustbpe trains it, tiktoken runs it, tokenizer.json carries it elsewhere."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken

from lanbot.core.console import duration, say, track
from lanbot.core.errors import UserError

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = _PATTERN.replace("DIGITS", "{1,3}")
QWEN2_PATTERN = _PATTERN.replace("DIGITS", "")
"""The two split patterns that tiktoken, `tokenizers` and llama.cpp all run identically."""

DIGITS_ALONE_BELOW = 16_384
"""Vocabularies smaller than this split digits one by one, so that a small model can copy numbers."""


class BPETokenizer:
    """Byte-level BPE, run by tiktoken. The special tokens follow the ranks, in their order."""

    def __init__(self, ranks: dict[bytes, int], pattern: str, special_tokens: Sequence[str]) -> None:
        self.pattern = pattern
        self.ranks = ranks
        self.special = {name: len(ranks) + i for i, name in enumerate(special_tokens)}
        self.encoding = tiktoken.Encoding("lanbot", pat_str=pattern, mergeable_ranks=ranks, special_tokens=self.special)
        self.vocab_size = len(ranks) + len(self.special)
        self._bytes = {rank: token for token, rank in ranks.items()}

    @classmethod
    def of_bytes(cls, special_tokens: Sequence[str]) -> "BPETokenizer":
        """A token for each byte, without merges."""
        return cls({bytes([byte]): byte for byte in range(256)}, QWEN2_PATTERN, special_tokens)

    def encode(self, text: str) -> list[int]:
        if len(text) > _TOO_LONG and _LONG_SPACE.search(text):  # more than tiktoken's regex can go back
            words = regex.findall(self.pattern, text)
            return [token for word in words for token in self.encoding._encode_single_piece(word)]
        return self.encoding.encode_ordinary(text)

    def encode_array(self, text: str) -> np.ndarray:
        """The ids that `encode` gives as (n,) uint32, for text in bulk: by `fastokens` where it is installed."""
        if self._fast is not None:
            try:
                return _flat_ids(self._fast, text)
            except UnicodeEncodeError:  # half of a surrogate pair, which tiktoken replaces
                pass
        return np.array(self.encode(text), dtype=np.uint32)

    @cached_property
    def _fast(self) -> Any:
        """A fastokens.Tokenizer; None if it is not installed, or is of a version that gives other ids."""
        try:
            import fastokens

            fast = fastokens.Tokenizer.from_json_str(self._interchange().to_str())
            probes = (*_PROBES, "".join(self.special))
            same = all(_flat_ids(fast, text).tolist() == self.encode(text) for text in probes)
        except (ImportError, AttributeError, TypeError, ValueError):
            return None
        return fast if same else None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens spelled out, broken UTF-8 replaced."""
        return self.encoding.decode(list(ids))

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def byte_lengths(self) -> np.ndarray:
        return np.array([len(self.token_bytes(token)) for token in range(self.vocab_size)], dtype=np.int64)

    # -- files ---------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, which `tokenizers`, transformers and llama.cpp read too."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._interchange().to_str(pretty=True), encoding="utf-8")

    def _interchange(self):  # type: ignore[no-untyped-def]  # a tokenizers.Tokenizer, imported only here
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        letters = _byte_letters()

        def spell(token: bytes) -> str:
            return "".join(letters[byte] for byte in token)

        vocab = {spell(token): rank for token, rank in self.ranks.items()}
        merges = [
            (spell(left), spell(right))
            for token, rank in sorted(self.ranks.items(), key=lambda item: item[1])
            if len(token) > 1
            for left, right in [_last_merge(token, rank, self.ranks)]
        ]
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(self.pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            [tokenizers.AddedToken(name, special=True, normalized=False) for name in self.special]
        )
        return tokenizer

    @classmethod
    def load(cls, folder: Path) -> "BPETokenizer":
        """The tokenizer that `save` wrote. Raises UserError if the file is missing or another's."""
        path = folder / "tokenizer.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            bytes_of = {letter: byte for byte, letter in _byte_letters().items()}
            ranks = {
                bytes(bytes_of[letter] for letter in token): rank for token, rank in data["model"]["vocab"].items()
            }
            pattern = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            special = [token["content"] for token in data["added_tokens"]]
        except FileNotFoundError:
            raise UserError(f"{path}: no tokenizer there", "Train it first: lanbot run RECIPE.") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path}: not a tokenizer that LanBot wrote ({error!r})") from None
        return cls(ranks, pattern, special)


_TOO_LONG = 500_000
_LONG_SPACE = re.compile(r"\s{500000}")
_PROBES = ("It's 1234567 ≠ 12.5,\r\n\n\t  naïve  你好 👩‍🚀", " <|end|>\0 ")


def _flat_ids(fast: Any, text: str) -> np.ndarray:
    return np.frombuffer(fast.encode_batch_flat([text], split_special_tokens=True)[0], dtype=np.uint32)


# -- training ----------------------------------------------------------------------------------------------


def train(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], bare_words: bool = False
) -> BPETokenizer:
    """A tokenizer of exactly `vocab_size` ids, special tokens included, from `texts` (read once, streamed).

    Memory is bounded, whatever the text: see WordCounts. rustbpe, which would keep every word, is given the counted
    words; text with at most MAX_WORD_BYTES of distinct words gives the vocabulary that rustbpe alone would give.

    bare_words: merges are learnt from words without the space (or quote) before them, so that a word has the same
    pieces wherever it stands, and copying a name out of a sentence into a call is copying ids. A sixth of the
    vocabulary is then spent on the most frequent words with their space, which are the last merges.

    Raises UserError if the text has too few different pairs to give that many.
    """
    pattern = QWEN2_PATTERN if vocab_size < DIGITS_ALONE_BELOW else LLAMA3_PATTERN
    split = regex.compile(pattern).findall
    size, spaced = vocab_size - len(special_tokens), vocab_size // 6 if bare_words else 0
    words, after_space = WordCounts(MAX_WORD_BYTES), WordCounts(MAX_WORD_BYTES)
    for text in texts:
        if bare_words:
            after_space.add(_SPACED_WORD.findall(text))
            text = _BEFORE_WORD.sub("\n", text)  # each word alone, for the split pattern
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
            f"Give it more text, or set tokenizer.vocab_size to {tokenizer.vocab_size} or less.",
        )
    return tokenizer


_BEFORE_WORD = re.compile(r"[^\w\n](?=[^\W\d_])")
_SPACED_WORD = re.compile(r"(?<= )[a-z]+(?![\w'-])")
"""Names begin with a capital: they are copied, and stay bare. So does the first letter of b-a-r, a word spelled."""

MAX_WORD_BYTES = 32_000_000
"""Of distinct words in memory while a vocabulary is trained; a byte of them takes about 60 in all."""


class WordCounts:
    """How often each word occurs, in bounded memory.

    When the distinct words take more than `limit` bytes, the rarest are dropped until half of that is left (lossy
    counting, Manku and Motwani 2002). So no count is too high, and none is too low by more than `slack`.
    """

    def __init__(self, limit: int) -> None:
        self.counts: Counter[str] = Counter()
        self.limit, self.bytes, self.slack = limit, 0, 0

    def add(self, words: list[str]) -> None:
        known = len(self.counts)
        self.counts.update(words)
        new = islice(reversed(self.counts), len(self.counts) - known)  # a dict keeps the order of arrival
        self.bytes += sum(map(_utf8_length, new))
        if self.bytes > self.limit:
            self._drop_the_rarest()

    def _drop_the_rarest(self) -> None:
        rare = 0
        while self.bytes > self.limit // 2:
            rare += 1
            for word in [word for word, count in self.counts.items() if count <= rare]:
                del self.counts[word]
                self.bytes -= _utf8_length(word)
        self.slack += rare


def _utf8_length(word: str) -> int:
    return len(word) if word.isascii() else len(word.encode("utf-8", "surrogatepass"))


_PIECE = 1 << 20
"""Characters given to rustbpe at a time."""


def _merge(counts: "Counter[str]", size: int) -> list[bytes]:
    """At most `size` tokens in the order of their ranks: BPE by rustbpe on words counted. `counts` is used up.

    rustbpe counts in 32 bits; where 2^31 bytes and more were counted, counts are divided by a whole number first.
    """
    import rustbpe

    chars = sum(count * (len(word) + 1) for word, count in counts.items())
    divisor = 1 + sum(count * _utf8_length(word) for word, count in counts.items()) // 2**31
    distinct, distinct_bytes = len(counts), sum(map(_utf8_length, counts))

    def texts() -> Iterator[str]:
        yield from track(_repeated(counts, divisor), "tokenizer: counted words", chars // divisor, "chars", len)
        seconds = distinct_bytes / 600_000  # rustbpe merges without a word; this is what it took on one core
        about = f", about {duration(seconds)} on one core" if seconds > 2 else ""
        say(f"tokenizer: merging {distinct:,} distinct words{about}")

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(texts(), size, buffer_size=16, pattern=r"[^\x00]+")
    return [bytes(token) for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])]


def _repeated(counts: "Counter[str]", divisor: int) -> Iterator[str]:
    """Each word as often as it was counted, a NUL after each; words that have a NUL in them are left out."""
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


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge made `token`: what is left when only merges older than it are applied."""
    pieces = [bytes([byte]) for byte in token]
    while len(pieces) > 2:
        pairs = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(pieces))]
        oldest, i = min(pairs)
        if oldest >= rank:
            raise ValueError(f"token {token!r} cannot be reached by merges")
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces[0], pieces[1]


def _byte_letters() -> dict[int, str]:
    """Byte to printable letter, GPT-2's table, in which byte-level tokenizer files spell their tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
