"""Byte-level BPE: tiktoken encodes, and tokenizer.json carries the vocabulary to other software."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken

from lanbot.tokenizers.fast import fast_encoder, flat_ids

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = _PATTERN.replace("DIGITS", "{1,3}")
QWEN2_PATTERN = _PATTERN.replace("DIGITS", "")
"""The two split patterns that tiktoken, `tokenizers` and llama.cpp all run identically."""
NANOCHAT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""The one of nanochat's tokenizers, for tiktoken and `tokenizers`."""
PATTERNS = (LLAMA3_PATTERN, QWEN2_PATTERN, NANOCHAT_PATTERN)


class BPETokenizer:
    """Byte-level BPE whose special tokens follow the ranks, in their order."""

    def __init__(self, ranks: dict[bytes, int], pattern: str, special_tokens: Sequence[str]) -> None:
        self.ranks, self.pattern = ranks, pattern
        self.special = {name: len(ranks) + i for i, name in enumerate(special_tokens)}
        self.encoding = tiktoken.Encoding("lanbot", pat_str=pattern, mergeable_ranks=ranks, special_tokens=self.special)
        self.vocab_size = len(ranks) + len(self.special)
        self._bytes = {rank: token for token, rank in ranks.items()}

    @classmethod
    def of_bytes(cls, special_tokens: Sequence[str]) -> "BPETokenizer":
        """A token for each byte, without merges."""
        return cls({bytes([byte]): byte for byte in range(256)}, QWEN2_PATTERN, special_tokens)

    @classmethod
    def from_json(cls, data: Any) -> "BPETokenizer | None":
        """The tokenizer that `save` wrote as this JSON; None if other software wrote it."""
        try:
            model, added, (split, _) = data["model"], data["added_tokens"], data["pre_tokenizer"]["pretokenizers"]
            pattern, special = split["pattern"]["Regex"], [token["content"] for token in added]
            ids = [*model["vocab"].values(), *(token["id"] for token in added)]
            ours = (
                pattern in PATTERNS
                and ids == list(range(len(ids)))
                and all(token["special"] for token in added)
                and not (data["normalizer"] or data["post_processor"] or model["ignore_merges"])
            )
        except (KeyError, TypeError, ValueError):
            return None
        bytes_of = {letter: byte for byte, letter in byte_letters().items()}
        ranks = {bytes(bytes_of[letter] for letter in token): rank for token, rank in model["vocab"].items()}
        return cls(ranks, pattern, special) if ours else None

    def encode(self, text: str) -> list[int]:
        if len(text) > _TOO_LONG and _LONG_SPACE.search(text):  # tiktoken's regex fails on such long runs
            words = regex.findall(self.pattern, text)
            return [token for word in words for token in self.encoding._encode_single_piece(word)]
        return self.encoding.encode_ordinary(text)

    def encode_array(self, text: str) -> np.ndarray:
        """By `fastokens` where it is installed."""
        if self._fast is not None:
            try:
                return flat_ids(self._fast, text)
            except UnicodeEncodeError:  # a lone surrogate, which tiktoken replaces
                pass
        return np.array(self.encode(text), dtype=np.uint32)

    @cached_property
    def _fast(self) -> Any:
        return fast_encoder(self._interchange().to_str(), self.encode, self.special)

    def decode(self, ids: Iterable[int]) -> str:
        return self.encoding.decode(list(ids))

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def byte_lengths(self) -> np.ndarray:
        return np.array([len(self.token_bytes(token)) for token in range(self.vocab_size)], dtype=np.int64)

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """By rank. Raises ValueError for a token that no merge makes."""
        by_rank = sorted(self.ranks.items(), key=lambda item: item[1])
        return [_last_merge(token, rank, self.ranks) for token, rank in by_rank if len(token) > 1]

    def with_special(self, names: Sequence[str]) -> "BPETokenizer":
        return BPETokenizer(self.ranks, self.pattern, [*self.special, *names])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._interchange().to_str(pretty=True), encoding="utf-8")

    def _interchange(self):  # type: ignore[no-untyped-def]  # a tokenizers.Tokenizer, imported only here
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        letters = byte_letters()

        def spell(token: bytes) -> str:
            return "".join(letters[byte] for byte in token)

        vocab = {spell(token): rank for token, rank in self.ranks.items()}
        merges = [(spell(left), spell(right)) for left, right in self.merges]
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


_TOO_LONG = 500_000
_LONG_SPACE = re.compile(r"\s{500000}")


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge made `token`: what remains after all merges of lower rank."""
    pieces = [bytes([byte]) for byte in token]
    while len(pieces) > 2:
        pairs = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(pieces))]
        oldest, i = min(pairs)
        if oldest >= rank:
            raise ValueError(f"token {token!r} cannot be reached by merges")
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces[0], pieces[1]


def byte_letters() -> dict[int, str]:
    """GPT-2's table of bytes to printable letters, in which byte-level tokenizer files spell their tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
