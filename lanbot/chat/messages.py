"""Conversations: messages with roles, made of parts; the same shape in memory and in JSON."""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

from lanbot.core.errors import UserError
from lanbot.core.jsonl import half_pair

ROLES = ("system", "user", "assistant", "tool")
PART_TYPES = ("text", "python", "output")
OTHER_NAMES = {"python_output": "output"}
"""nanochat's names of parts, in rows from elsewhere."""
MAX_CHARS = 1_000_000  # of a message: more fits into no context


class Part(TypedDict):
    """A piece of an assistant's message: its text, a python call, or the output of a call."""

    type: str
    text: str
    open: NotRequired[bool]  # True of a call that was never closed
    invented: NotRequired[bool]  # True of an output that the model wrote itself: no tool returned it


class Message(TypedDict):
    role: str
    content: str | list[Part]
    train: NotRequired[bool]  # False: no loss on this message


class Conversation(TypedDict):
    messages: list[Message]
    tools: NotRequired[list[dict[str, Any]]]


def text(content: str) -> Part:
    return {"type": "text", "text": content}


def python(code: str) -> Part:
    return {"type": "python", "text": code}


def output(result: str) -> Part:
    return {"type": "output", "text": result}


def chat(user: str, answer: str | list[Part]) -> Conversation:
    """One question and its answer."""
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}


def parts(message: Message) -> list[Part]:
    content = message["content"]
    return [text(content)] if isinstance(content, str) else content


def spoken(message: Message) -> str:
    """The text of a message, without calls and outputs."""
    return "".join(part["text"] for part in parts(message) if part["type"] == "text")


def readable(message: Message) -> str:
    """The message in plain text: `[2+2 → 4]` is a call and its output."""
    marks = {"text": "{}", "python": "[{}", "output": " → {}]"}
    return "".join(marks[part["type"]].format(part["text"]) for part in parts(message)).strip()


def validate(row: object, where: str) -> Conversation:
    """`row` as a Conversation, or a UserError that says what is wrong with the row at `where` (file and line).

    A bare list of messages is accepted for {"messages": [...]}, and nanochat's python_output for output.
    """
    remedy = 'A row is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}.'
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise UserError(f"{where}: no list of messages", remedy)
    previous = "system"
    for i, message in enumerate(row["messages"]):
        problem = _problem(message, previous, first=i == 0)
        if problem:
            raise UserError(f"{where}: message {i + 1} {problem}", remedy)
        previous = message["role"]
        if any(part["type"] in OTHER_NAMES for part in parts(message)):
            row["messages"][i] = {**message, "content": [_renamed(part) for part in parts(message)]}
    if all(message["role"] != "assistant" for message in row["messages"]):
        raise UserError(f"{where}: nobody answers the user", remedy)
    return row  # type: ignore[return-value]


def _problem(message: object, previous: str, first: bool) -> str | None:
    if not isinstance(message, dict):
        return "is not an object"
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        return f"has the role {role!r}; roles are {', '.join(ROLES)}"
    if not isinstance(message.get("train", True), bool):
        return f"is marked with {message['train']!r}; train is true or false, weight 1 or 0"
    if role == "system" and not first:
        return "is a system message, which may only come first"
    if role in ("assistant", "tool") and previous == "system":
        return f"is the {role}'s, before anyone asked"
    if role == previous and not first:
        return f"is the second of the role {role!r} in a row"
    if isinstance(content, str):
        return _text_problem(content)
    if not isinstance(content, Sequence):
        return "has no content"
    for part in content:
        kinds = (*PART_TYPES, *OTHER_NAMES)
        if not isinstance(part, dict) or part.get("type") not in kinds or not isinstance(part.get("text"), str):
            return f"has a part that is not {{type: {'|'.join(PART_TYPES)}, text}}"
        if role != "assistant" and part["type"] != "text":
            return f"has a {part['type']} part, which only the assistant may have"
    return _text_problem("".join(part["text"] for part in content))


def _renamed(part: Part) -> Part:
    return {**part, "type": OTHER_NAMES.get(part["type"], part["type"])}


def _text_problem(content: str) -> str | None:
    if not content.strip():
        return "is empty"
    if len(content) > MAX_CHARS:
        return f"is {len(content):,} characters long; more than {MAX_CHARS:,} is a mistake"
    if half_pair(content):
        return "holds half of a surrogate pair, which is not text"
    return None
