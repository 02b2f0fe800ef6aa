"""How messages are shown: as blocks, as plain text, on a terminal while they are generated, with their loss mask."""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from lanbot.chat.formats.base import ChatFormat, Event
from lanbot.chat.messages import Conversation, Message, parts
from lanbot.core.console import visible

GREEN, DIM, RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"
_CALL = ("    >>> ", "    ... ")
MARGIN = {"python": _CALL, "call": _CALL, "output": ("    ", "    "), "text": ("", "")}
"""What the first line of a block begins with, and what the others do."""


class Block(NamedTuple):
    """A piece of a message as it is shown. kind: text, python or call (of a tool), or output (of it)."""

    kind: str
    text: str


def blocks(message: Message) -> list[Block]:
    """The blocks of a message, with control characters made visible.

    An output that the model wrote itself is text like any other. Empty text is left out.
    """
    found: list[Block] = []
    for part in parts(message):
        kind = "text" if part.get("invented") else part["type"]
        text = visible(part["text"])
        if kind == "text" and found and found[-1].kind == "text":
            text = found.pop().text + text
        found.append(Block(kind, text))
    stripped = (Block(kind, text.strip() if kind == "text" else text) for kind, text in found)
    return [block for block in stripped if block.text or block.kind != "text"]


def plain(message: Message) -> str:
    """A message as text: calls and their outputs indented, on lines of their own."""
    shown, before = "", ""
    for kind, text in blocks(message):
        gap = "" if not shown else "\n" if before in ("python", "call") and kind == "output" else "\n\n"
        first, other = MARGIN[kind]
        shown += gap + first + text.replace("\n", f"\n{other}")
        before = kind
    return shown


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as text to read."""
    return "\n".join(f"## {message['role']}\n\n{plain(message)}\n" for message in messages)


def colours(stream: TextIO) -> bool:
    """Whether the stream shows colours. FORCE_COLOR and NO_COLOR decide where they are set."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def coloured(conversation: Conversation, chat_format: ChatFormat, title: str) -> str:
    """The tokens as text, a line a message: what the loss counts is green, or in «» where there are no colours."""
    on, off = (GREEN, RESET) if colours(sys.stdout) else ("«", "»")
    ids, mask = chat_format.render(conversation)
    messages = conversation["messages"]
    breaks = {len(chat_format.render({"messages": messages[:n]}).ids) for n in range(len(messages) + 1)}
    lines, start = [], 0
    text = ""
    for i in range(1, len(ids) + 1):
        if i < len(ids) and mask[i] == mask[start] and i not in breaks:
            continue
        run = visible(chat_format.tokenizer.decode(ids[start:i]))
        text += f"{on}{run}{off}" if mask[start] else run
        if i in breaks:
            lines.append(text)
            text = ""
        start = i
    head = f"{title} | {len(ids):,} tokens, {sum(mask):,} under loss ({on}like this{off})"
    return "\n".join([head, *lines, *([text] if text else [])])


class Terminal:
    """Prints a message while it is generated: calls and outputs dimmed, on lines of their own."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.colours = colours(out)
        self.kind, self.margins, self.line_open = "text", MARGIN["text"], False

    def __call__(self, event: Event) -> None:
        if event.kind in ("open", "close"):
            self._end_line()
            self.kind = event.part if event.kind == "open" and not event.invented else "text"
            self.margins = MARGIN[self.kind]
        elif event.kind == "piece":
            self._write(event.text)
        self.out.flush()

    def close(self) -> None:
        self._end_line()
        self.out.flush()

    def _write(self, piece: str) -> None:
        for line in piece.splitlines(keepends=True):
            if not self.line_open:
                first, other = self.margins
                self.out.write((DIM if self.colours and self.kind != "text" else "") + first)
                self.margins = (other, other)
            self.out.write(visible(line.rstrip("\r\n")))
            self.line_open = True
            if line[-1] in "\r\n":
                self._end_line()

    def _end_line(self) -> None:
        if self.line_open:
            self.out.write((RESET if self.colours and self.kind != "text" else "") + "\n")
            self.line_open = False
