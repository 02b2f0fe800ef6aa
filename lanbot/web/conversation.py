"""Messages of a client, checked: every result answers a call, every call has its result."""

import json
from collections.abc import Sequence
from typing import Any

from lanbot.chat.messages import Message, Part, call, parts
from lanbot.web.errors import ApiError


def checked(messages: Sequence[Message], where: str = "messages") -> list[Message]:
    """The messages, with those of the system joined to one that comes first. Raises ApiError."""
    system = [spoken for message in messages if message["role"] == "system" and (spoken := _text(message))]
    rest = [message for message in messages if message["role"] != "system"]
    if not rest:
        raise ApiError(400, f"{where}: nobody says anything", where)
    open_calls: list[str] = []
    for message in rest:
        if message["role"] == "tool":
            if message.get("id", "") not in open_calls:
                raise ApiError(400, f"{where}: a result answers no call of the message before it", where)
            open_calls.remove(message.get("id", ""))
            continue
        if open_calls:
            raise ApiError(400, f"{where}: a call has no result", where)
        if message["role"] == "assistant":
            open_calls = [part.get("id", "") for part in parts(message) if part["type"] == "call"]
    if open_calls:
        raise ApiError(400, f"{where}: a call has no result", where)
    first: list[Message] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    return [*first, *rest]


def made_call(id: str, name: str, arguments: str | dict[str, Any], where: str = "messages") -> Part:
    """A call in a message of the assistant's. Raises ApiError if its arguments are no object."""
    try:
        given = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ApiError(400, f"{where}: the arguments of a call of {name[:100]} are no JSON object", where)
    return call(name, given, id)


def _text(message: Message) -> str:
    return "".join(part["text"] for part in parts(message))
