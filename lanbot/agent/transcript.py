"""A conversation as text to read: who said what, each call and its output on lines of their own, indented."""

from collections.abc import Sequence
from dataclasses import dataclass

from lanbot.chat.messages import Message, Part, parts

ANSWERED, STEP_LIMIT, TOKEN_LIMIT = "answered", "step limit", "token limit"
"""Why a turn ended."""
MARGIN = {"python": ("    >>> ", "    ... "), "output": ("    ", "    "), "text": ("", "")}
"""What the first line of a part begins with, and what the others do."""


@dataclass(frozen=True)
class Turn:
    """What was asked, the assistant's message with its calls and their outputs, and why it ended."""

    request: str
    message: Message
    ended: str


def transcript(turns: Sequence[Turn]) -> str:
    return "\n".join(_told(turn) for turn in turns)


def _told(turn: Turn) -> str:
    said = f"## user\n\n{turn.request.strip()}\n\n## assistant\n"
    before = ""
    for part in parts(turn.message):
        block = _block(part)
        if block:
            said += ("" if (before, part["type"]) == ("python", "output") else "\n") + block + "\n"
            before = part["type"]
    return said if turn.ended == ANSWERED else f"{said}\n(ended by the {turn.ended})\n"


def _block(part: Part) -> str:
    words = part["text"].strip() if part["type"] == "text" else part["text"]
    first, other = MARGIN[part["type"]]
    return words and first + words.replace("\n", f"\n{other}")
