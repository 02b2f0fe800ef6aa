"""A conversation on a terminal: its tokens with their loss mask in colour, or an answer as it is written."""

import os
import sys
from typing import TextIO

from lanbot.chat.formats.base import ChatFormat, Event
from lanbot.chat.messages import Conversation
from lanbot.core.console import visible

GREEN, DIM, RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def colours(stream: TextIO) -> bool:
    """Does the stream show colours? FORCE_COLOR and NO_COLOR decide, where they are set."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def coloured(conversation: Conversation, chat_format: ChatFormat, title: str) -> str:
    """The tokens as text: what the loss counts is green, or in «» where there are no colours; a line a turn."""
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


class Stream:
    """Prints an answer while it is generated: text as it is, a call and its output dimmed in brackets."""

    def __init__(self, out: TextIO) -> None:
        dim, self.reset = (DIM, RESET) if colours(out) else ("", "")
        self.out = out
        self.marks = {("open", "python"): f"{dim}[", ("open", "output"): " → ", ("close", "output"): f"]{self.reset}"}

    def __call__(self, event: Event) -> None:
        text = visible(event.text) if event.kind == "piece" else self.marks.get((event.kind, event.part), "")
        self.out.write(text)
        self.out.flush()

    def close(self) -> None:
        self.out.write(self.reset + "\n")
        self.out.flush()
