"""What a tokenizer is to the rest of LanBot."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """Converts text to ids and back. Text never becomes a special token; `special` maps their names to ids."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special(self) -> Mapping[str, int]: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as (n,) uint32, by the fastest implementation for large amounts of text."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: special tokens by their names, invalid UTF-8 replaced."""

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token adds to the text; none for a special token."""

    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int64: the length of each id's `token_bytes`."""

    def with_special(self, names: Sequence[str]) -> "Tokenizer":
        """The same tokenizer with further special tokens, whose ids follow all others."""

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json."""
