"""A session as a row of training data: the whole conversation, also what was compacted in it."""

from collections.abc import Iterable, Sequence
from typing import Any

from lanbot.agent.events import Asked, Called, Ended, Event, Replied
from lanbot.chat.display import blocks
from lanbot.chat.messages import Conversation, Message, Part, output, text, validate

ANSWERED = "answered"


def training_row(
    events: Iterable[Event], system: str, tools: Sequence[dict[str, Any]], where: str
) -> Conversation | None:
    """The whole conversation, with the system message and the tools' declarations; None if nothing can be learned.

    A turn that ended otherwise than answered, or in which a call was refused (repeated, unreadable, one too many),
    is marked train = False: later turns follow from it. At the end of the conversation it is left out.
    where: names the session in errors.
    Raises UserError for a conversation that is no training data.
    """
    turns = [turn for turn in _turns(events) if blocks(turn[1])]
    while turns and not turns[-1][1].get("train", True):
        turns.pop()
    if not turns:
        return None
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for request, answer in turns:
        messages += [{"role": "user", "content": request}, answer]
    row: Conversation = {"messages": messages}
    if tools:
        row["tools"] = list(tools)
    return validate(row, where)


def _turns(events: Iterable[Event]) -> list[tuple[str, Message]]:
    """Requests and the assistant's messages."""
    turns: list[tuple[str, Message]] = []
    content: list[Part] = []
    refused = False
    for event in events:
        if isinstance(event, Asked):
            content, refused = [], False
            turns.append((_whole(event.text), {"role": "assistant", "content": content, "train": False}))
        elif isinstance(event, Replied):
            for part in event.parts:
                _add(content, part)
        elif isinstance(event, Called):
            content.append(output(_whole(event.output)))
            refused = refused or bool(event.refused)
        elif isinstance(event, Ended) and turns:
            faulty = refused or any(part.get("open") or part.get("invented") for part in content)
            if event.reason == ANSWERED and not faulty:
                turns[-1][1].pop("train", None)
    return turns


def _add(content: list[Part], part: Part) -> None:
    """Appends a part; text that goes on is one part."""
    made: Part = {**part, "text": _whole(part["text"])}
    if made["type"] == "text" and content and content[-1]["type"] == "text":
        made = text(content.pop()["text"] + made["text"])
    content.append(made)


def _whole(written: str) -> str:
    """Without halves of surrogate pairs, which are not text."""
    return written.encode("utf-8", "replace").decode()
