"""Writing a conversation as tokens: text, and special tokens that only a format's own words may name."""

import re
from collections.abc import Callable

from lanbot.chat.formats.base import Rendered
from lanbot.tokenizers.base import Tokenizer


class Script:
    """Text between two special tokens is encoded as one, as other software does that renders a template first.

    A token that begins in the format's words and ends in the assistant's is not under loss: no prompt ends with it.
    """

    def __init__(self, tokenizer: Tokenizer, encode: Callable[[str], list[int]]) -> None:
        self.tokenizer, self.encode = tokenizer, encode
        self.ids: list[int] = []
        self.mask: list[int] = []
        self._pieces: list[tuple[str, int]] = []

    def markup(self, words: str, own: int = 0) -> None:
        """The format's own words, in which names of the tokenizer's special tokens become these tokens."""
        for piece in re.split(r"(<[^<>\s]+>)", words):
            token = self.tokenizer.special.get(piece)
            if token is None:
                self.text(piece, own)
            else:
                self._flush()
                self.ids.append(token)
                self.mask.append(own)

    def text(self, words: str, own: int = 0) -> None:
        """Anybody's words: never a special token."""
        if words:
            self._pieces.append((words, own))

    def rendered(self) -> Rendered:
        self._flush()
        return Rendered(self.ids, self.mask)

    def _flush(self) -> None:
        if not self._pieces:
            return
        ids = self.encode("".join(words for words, _ in self._pieces))
        bounds, end = [], 0
        for words, own in self._pieces:
            end += len(words.encode("utf-8", "replace"))
            bounds.append((end, own))
        if len({own for _, own in bounds}) == 1:
            mask = [bounds[0][1]] * len(ids)
        else:
            mask, at = [], 0
            for token in ids:
                while len(bounds) > 1 and at >= bounds[0][0]:
                    bounds.pop(0)
                mask.append(bounds[0][1])
                at += len(self.tokenizer.token_bytes(token))
        self.ids += ids
        self.mask += mask
        self._pieces = []
