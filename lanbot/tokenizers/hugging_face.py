"""Any tokenizer.json, run by the `tokenizers` library."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lanbot.core.errors import UserError
from lanbot.tokenizers.bpe import byte_letters
from lanbot.tokenizers.fast import fast_encoder, flat_ids

_BYTE = re.compile("<0x([0-9A-F]{2})>")


class HuggingFaceTokenizer:
    """All added tokens but those of whitespace are special: no text becomes one of them.

    SentencePiece models put a space before a text; it counts among the bytes of the first token.
    """

    def __init__(self, text: str) -> None:
        """text: the contents of tokenizer.json. Raises UserError if the library refuses them."""
        import tokenizers

        self.text, data = text, json.loads(text)
        try:
            for token in data["added_tokens"]:
                token["special"] = token["special"] or not token["content"].isspace()
            self._marked = json.dumps(data)
            self.tokenizer = tokenizers.Tokenizer.from_str(self._marked)
        except Exception as error:  # the library raises no class of its own
            raise UserError(f"tokenizer.json: not a tokenizer ({error!r})", "Copy or download it again.") from None
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.special = {token["content"]: token["id"] for token in data["added_tokens"] if token["special"]}
        self._plain = {token["id"]: token["content"].encode() for token in data["added_tokens"]}
        self._special_ids = frozenset(self.special.values())
        self.vocab_size = 1 + max(self.tokenizer.get_vocab().values())
        self._byte_level = '"ByteLevel"' in json.dumps(data["decoder"])
        self._bytes_of = {letter: byte for byte, letter in byte_letters().items()}
        self.token_bytes = cache(self._token_bytes)

    def encode(self, text: str) -> list[int]:
        return self._encode(text).ids

    def encode_array(self, text: str) -> np.ndarray:
        """By `fastokens` where it is installed."""
        if self._fast is not None:
            try:
                return flat_ids(self._fast, text)
            except UnicodeEncodeError:
                pass
        return np.array(self._encode(text).ids, dtype=np.uint32)

    @cached_property
    def _fast(self) -> Any:
        return fast_encoder(self._marked, self.encode, self.special)

    def decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def byte_lengths(self) -> np.ndarray:
        return np.array([len(self.token_bytes(token)) for token in range(self.vocab_size)], dtype=np.int64)

    def with_special(self, names: Sequence[str]) -> "HuggingFaceTokenizer":
        data = json.loads(self.text)
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added: list[dict[str, Any]] = [
            {"id": self.vocab_size + i, "content": name, **plain, "special": True} for i, name in enumerate(names)
        ]
        data["added_tokens"] += added
        made = HuggingFaceTokenizer(json.dumps(data, ensure_ascii=False))
        if any(made.tokenizer.token_to_id(name) != self.vocab_size + i for i, name in enumerate(names)):
            raise UserError(
                "tokenizer.json: its ids have gaps, so no token can be added", "Use it without further tokens."
            )
        return made

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.text, encoding="utf-8")

    def _encode(self, text: str) -> Any:
        whole = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text
        return self.tokenizer.encode(whole, add_special_tokens=False)

    def _token_bytes(self, token: int) -> bytes:
        piece = self.tokenizer.id_to_token(token)
        if piece is None or token in self._special_ids:
            return b""
        if token in self._plain:
            return self._plain[token]
        if self._byte_level:
            return bytes(self._bytes_of[letter] for letter in piece)
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        before = self.encode("a")  # decoders treat the first token of a text differently
        return self.decode([*before, token])[len(self.decode(before)) :].encode()
