"""Conversations: messages with roles, made of parts; the same shape in memory and in JSON."""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

from lanbot.core.errors import UserError
from lanbot.core.jsonl import half_pair

ROLES = ("system", "user", "assistant", "tool")
PART_TYPES = ("text", "python", "output", "call")
OTHER_NAMES = {"python_output": "output"}
"""nanochat's names of parts, in rows from elsewhere."""
MAX_CHARS = 1_000_000  # of a message: more fits into no context


class Part(TypedDict):
    """A piece of an assistant's message: its text, a python call, a call by name ("call"), or the output of a call."""

    type: str
    text: str
    """Of a call by name, the same call in Python, as the tools run it: read_file(path='a.txt')."""
    id: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[dict[str, Any]]
    open: NotRequired[bool]  # True of a call that was never closed
    invented: NotRequired[bool]  # True of an output that the model wrote itself: no tool returned it
    train: NotRequired[bool]  # False of a call: no loss on it, since it is a mistake that later ones make good


class Message(TypedDict):
    role: str
    content: str | list[Part]
    id: NotRequired[str]  # of the call that a message of the role "tool" answers
    train: NotRequired[bool]  # False: no loss on this message


class Conversation(TypedDict):
    messages: list[Message]
    tools: NotRequired[list[dict[str, Any]]]
    system: NotRequired[bool]  # False: without a system message none is put in its place


def text(content: str) -> Part:
    return {"type": "text", "text": content}


def python(code: str) -> Part:
    return {"type": "python", "text": code}


def output(result: str) -> Part:
    return {"type": "output", "text": result}


def call(name: str, arguments: dict[str, Any], id: str = "") -> Part:
    """A call of a tool by its name."""
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return {"type": "call", "text": f"{name}({written})", "id": id, "name": name, "arguments": arguments}


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
    marks = {"text": "{}", "python": "[{}", "call": "[{}", "output": " → {}]"}
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
    if not isinstance(row.get("tools", []), list) or not all(map(_is_tool, row.get("tools", []))):
        declared = '{"type": "function", "function": {"name": "...", "description": "...", "parameters": {...}}}'
        raise UserError(f"{where}: tools is not a list of declarations", f"One is {declared}.")
    previous, calls = "system", []  # type: str, list[str]
    for i, message in enumerate(row["messages"]):
        problem = _problem(message, previous, first=i == 0) or _unasked(message, calls)
        if problem:
            raise UserError(f"{where}: message {i + 1} {problem}", remedy)
        previous = message["role"]
        calls = _left(message, calls)
        if any(part["type"] in OTHER_NAMES or "text" not in part for part in parts(message)):
            row["messages"][i] = {**message, "content": [_normal(part) for part in parts(message)]}
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
    if role == previous != "tool" and not first:
        return f"is the second of the role {role!r} in a row"
    if isinstance(content, str):
        return _text_problem(content, role)
    if not isinstance(content, Sequence):
        return "has no content"
    for part in content:
        if not _is_part(part):
            return f"has a part that is not {{type: {'|'.join(PART_TYPES)}, text}}; a call has name and arguments"
        if role != "assistant" and part["type"] != "text":
            return f"has a {part['type']} part, which only the assistant may have"
    return _text_problem("".join(_normal(part)["text"] for part in content), role)


def _is_part(part: object) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("train", True), bool):
        return False
    if "train" in part and part.get("type") not in ("python", "call"):
        return False
    if part.get("type") == "call":
        name, arguments, id = part.get("name"), part.get("arguments"), part.get("id", "")
        return isinstance(name, str) and bool(name) and isinstance(arguments, dict) and isinstance(id, str)
    return part.get("type") in (*PART_TYPES, *OTHER_NAMES) and isinstance(part.get("text"), str)


def _is_tool(declared: object) -> bool:
    function = declared.get("function") if isinstance(declared, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _normal(part: Part) -> Part:
    if part["type"] == "call":
        return {**part, **call(part["name"], part["arguments"], part.get("id", ""))}
    return {**part, "type": OTHER_NAMES.get(part["type"], part["type"])}


def _unasked(message: Message, calls: Sequence[str]) -> str | None:
    """Why a tool's message answers none of these calls, by their ids."""
    if message["role"] != "tool":
        return None
    if not calls:
        return "is the tool's, but nothing was called"
    if (id := message.get("id", "")) and id not in calls:
        return f"answers a call {id!r} that is not open"
    return None


def _left(message: Message, calls: Sequence[str]) -> list[str]:
    """The ids of calls that are open after a message; "" is one without an id."""
    if message["role"] == "tool":
        answered = message.get("id", "") or calls[0]
        return [id for i, id in enumerate(calls) if i != calls.index(answered)]
    return [part.get("id", "") for part in parts(message) if part["type"] in ("call", "python")]


def _text_problem(content: str, role: str) -> str | None:
    if not content.strip() and role not in ("system", "tool"):  # a tool may return nothing
        return "is empty"
    if len(content) > MAX_CHARS:
        return f"is {len(content):,} characters long; more than {MAX_CHARS:,} is a mistake"
    if half_pair(content):
        return "holds half of a surrogate pair, which is not text"
    return None
