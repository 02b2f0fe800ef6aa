"""Conversations as turns: where a model's calls end its turn, and what a tool returned is a turn of its own."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lanbot.chat.messages import Message, Part, call, output, parts, python, text

PYTHON = "python"
"""The tool that runs a python part where calls are by name; its argument is the code."""


@dataclass
class Turn:
    """One turn. An assistant's has its text first, with inline calls and outputs, then the calls that end it."""

    role: str
    parts: list[Part] = field(default_factory=list)
    calls: list[Part] = field(default_factory=list)
    own: bool = False
    """Whether the loss counts it: not if one of its calls is not to be trained on."""

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.parts)


def unfolded(messages: Iterable[Message], inline: bool) -> list[Turn]:
    """The turns of messages. inline: python calls and their outputs stay within the assistant's turn."""
    turns: list[Turn] = []
    for message in messages:
        role, own = message["role"], message["role"] == "assistant" and message.get("train", True)
        if role != "assistant":
            turns.append(Turn(role, [text("".join(part["text"] for part in parts(message)))]))
            continue
        turn = Turn(role, own=own)
        turns.append(turn)
        for part in parts(message):
            kind = "text" if part.get("invented") else part["type"]
            if kind == "output" and not (inline and not turns[-1].calls and turns[-1].role == role):
                turns.append(Turn("tool", [part]))
                continue
            if turns[-1].role == "tool":
                turns.append(Turn(role, own=own))
            turn = turns[-1]
            if kind == "call" or (kind == "python" and not inline):
                turn.calls.append(part)
                turn.own = turn.own and part.get("train", True)
            elif kind == "text" and turn.parts and turn.parts[-1]["type"] == "text":
                turn.parts[-1] = text(turn.parts[-1]["text"] + part["text"])
            else:
                turn.parts.append(text(part["text"]) if kind == "text" else part)
    return turns


def by_name(part: Part) -> Part:
    """A call by name; a python part is one of the tool `python`."""
    return call(PYTHON, {"code": part["text"]}) if part["type"] == "python" else part


def read_call(written: str, arguments: str) -> Part | None:
    """The call in a model's JSON; None if it is none. arguments: the key of a call's arguments."""
    try:
        data = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not data["name"]:
        return None
    given = data.get(arguments, {})
    if isinstance(given, str):  # some models write the arguments as JSON within JSON
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return None
    if not isinstance(given, dict):
        return None
    if data["name"] == PYTHON and isinstance(given.get("code"), str) and len(given) == 1:
        return python(given["code"])
    return call(data["name"], given)


def to_json(value: Any) -> str:
    """As the `tojson` of chat templates writes it."""
    return json.dumps(value, ensure_ascii=False)


def folded(messages: Sequence[Message]) -> list[Message]:
    """The other way: results of calls by name, and what the assistant says after them, become parts of its message."""
    if all(message["role"] != "tool" for message in messages):
        return list(messages)
    made: list[Message] = []
    content: list[Part] = []  # of the assistant's last message
    waiting: list[Part] = []  # its calls without a result yet
    for message in messages:
        role = message["role"]
        if role == "tool" and waiting:
            answered = next((one for one in waiting if one.get("id", "") == message.get("id", "")), waiting[0])
            waiting = [one for one in waiting if one is not answered]
            at = next(i for i, one in enumerate(content) if one is answered)
            content.insert(at + 1, output("".join(part["text"] for part in parts(message))))
            continue
        if role == "assistant" and made and made[-1]["role"] == role:
            content += parts(message)
        else:
            content = list(parts(message))
            made.append({**message, "content": content} if role == "assistant" else message)
        waiting = [part for part in parts(message) if part["type"] in ("call", "python")]
    return made
