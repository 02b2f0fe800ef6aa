"""A session as a row of training data: the whole conversation, also what was compacted in it."""

from collections.abc import Sequence
from typing import Any

from lanbot.agent.events import Asked, Called, Event, Replied, Turn, turns
from lanbot.agent.limits import ANSWERED
from lanbot.chat.display import blocks
from lanbot.chat.messages import Conversation, Message, Part, parts, text, validate


def training_row(
    events: Sequence[Event], system: str, tools: Sequence[dict[str, Any]], where: str
) -> Conversation | None:
    """The whole conversation, with the system message and the tools' declarations; None if nothing can be learned.

    A turn that ended otherwise than answered, or in which a call was refused (repeated, unreadable, one too many),
    is marked train = False: later turns follow from it. At the end of the conversation it is left out.
    where: names the session in errors.
    Raises UserError for a conversation that is no training data.
    """
    refused: list[bool] = []  # whether a call of each turn was, or cut
    for event in events:
        if isinstance(event, Asked):
            refused.append(False)
        elif refused and ((isinstance(event, Called) and event.refused) or _cut(event)):
            refused[-1] = True
    said = zip(turns(events), refused, strict=True) if refused else ()
    pairs = [(turn.request, _answer(turn, faulty)) for turn, faulty in said if blocks(turn.message)]
    while pairs and not pairs[-1][1].get("train", True):
        pairs.pop()
    if not pairs:
        return None
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for request, answer in pairs:
        messages += [{"role": "user", "content": _whole(request)}, answer]
    row: Conversation = {"messages": messages}
    if tools:
        row["tools"] = list(tools)
    return validate(row, where)


def _cut(event: Event) -> bool:
    """Whether calls were left out of a reply: a note stands in their place."""
    last = event.parts[-1:] if isinstance(event, Replied) and event.finished == "call" else []
    return any(part["type"] == "text" for part in last)


def _answer(turn: Turn, faulty: bool) -> Message:
    """The assistant's message of a turn; text that goes on is one part."""
    content: list[Part] = []
    for part in parts(turn.message):
        made: Part = {**part, "text": _whole(part["text"])}
        if made["type"] == "text" and content and content[-1]["type"] == "text":
            made = text(content.pop()["text"] + made["text"])
        content.append(made)
    faulty = faulty or turn.ended != ANSWERED or any(part.get("open") or part.get("invented") for part in content)
    answer: Message = {"role": "assistant", "content": content}
    if faulty:
        answer["train"] = False
    return answer


def _whole(written: str) -> str:
    """Without halves of surrogate pairs, which are not text."""
    return written.encode("utf-8", "replace").decode()
