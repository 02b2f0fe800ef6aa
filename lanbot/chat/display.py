"""A conversation on a terminal: its tokens with their loss mask in colour, or an answer as it is written."""

import codecs
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from lanbot.core.console import visible
from lanbot.tokenizers.bpe import Tokenizer

GREEN, DIM, RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def colours(stream: TextIO) -> bool:
    """Does the stream show colours? FORCE_COLOR and NO_COLOR decide, where they are set."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def coloured(ids: Sequence[int], mask: Sequence[int], tokenizer: Tokenizer, title: str) -> str:
    """The tokens as text: what the loss counts is green, or in «» where there are no colours; a line a turn."""
    on, off = (GREEN, RESET) if colours(sys.stdout) else ("«", "»")
    breaks = {tokenizer.special[name] for name in ("<|bos|>", "<|system_end|>", "<|user_end|>", "<|assistant_end|>")}
    lines, start = [], 0
    text = ""
    for i in range(1, len(ids) + 1):
        if i < len(ids) and mask[i] == mask[start] and ids[i - 1] not in breaks:
            continue
        run = visible(tokenizer.decode(ids[start:i]))
        text += f"{on}{run}{off}" if mask[start] else run
        if ids[i - 1] in breaks:
            lines.append(text)
            text = ""
        start = i
    head = f"{title} | {len(ids):,} tokens, {sum(mask):,} under loss ({on}like this{off})"
    return "\n".join([head, *lines, *([text] if text else [])])


class Stream:
    """Prints an answer token by token: text as it is, a call and its output dimmed in brackets.

    Bytes of a character that is not whole yet wait for the rest.
    """

    def __init__(self, tokenizer: Tokenizer, out: TextIO) -> None:
        dim, reset = (DIM, RESET) if colours(out) else ("", "")
        special = tokenizer.special
        self.tokenizer, self.out, self.reset = tokenizer, out, reset
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.marks = {
            special["<|python_start|>"]: f"{dim}[",
            special["<|output_start|>"]: " → ",
            special["<|output_end|>"]: f"]{reset}",
        }

    def __call__(self, token: int) -> None:
        if token < len(self.tokenizer.ranks):
            piece = visible(self.decoder.decode(self.tokenizer.encoding.decode_single_token_bytes(token)))
        else:
            piece = visible(self.decoder.decode(b"", final=True)) + self.marks.get(token, "")
        self.out.write(piece)
        self.out.flush()

    def close(self) -> None:
        self.out.write(self.decoder.decode(b"", final=True) + self.reset + "\n")
        self.out.flush()
