"""Conversations as turns: where a model's calls end its turn, and what a tool returned is a turn of its own."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lanbot.chat.messages import Message, Part, call, parts, python, text

PYTHON = "python"
"""The tool that runs a python part where calls are by name; its argument is the code."""


@dataclass
class Turn:
    """One turn. An assistant's has its text first, with inline calls and outputs, then the calls that end it."""

    role: str
    parts: list[Part] = field(default_factory=list)
    calls: list[Part] = field(default_factory=list)
    own: bool = False
    """Whether the loss counts it."""

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


def openai_messages(messages: Sequence[Message], arguments_as_text: bool = True) -> list[dict[str, Any]]:
    """The messages as OpenAI's API and chat templates have them: tool_calls, and a message for each output."""
    made: list[dict[str, Any]] = []
    for turn in unfolded(messages, inline=False):
        message: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.calls:
            functions = [
                {"name": one["name"], "arguments": to_json(one["arguments"]) if arguments_as_text else one["arguments"]}
                for one in map(by_name, turn.calls)
            ]
            message["tool_calls"] = [{"type": "function", "function": function} for function in functions]
        made.append(message)
    return made
