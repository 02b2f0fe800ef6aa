"""Messages as OpenAI's API and chat templates have them: tool_calls, and a message of the role tool for each result."""

from collections.abc import Sequence
from typing import Any

from lanbot.chat.messages import Message, text
from lanbot.chat.turns import by_name, read_call, to_json, unfolded


def to_openai(messages: Sequence[Message], arguments_as_text: bool = True) -> list[dict[str, Any]]:
    """arguments_as_text: of calls, as the API has them; chat templates take objects."""
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


def from_openai(message: Any) -> Any:
    """A message with its calls as parts; what is none of OpenAI's is returned as it is, for `validate` to refuse."""
    if not isinstance(message, dict):
        return message
    if message.get("role") == "tool" and "tool_call_id" in message:
        rest = {key: value for key, value in message.items() if key not in ("tool_call_id", "name")}
        return {**rest, "id": message["tool_call_id"]}
    calls, said = message.get("tool_calls"), message.get("content") or []
    if not isinstance(calls, list) or not calls or not isinstance(said, str | list):
        return message
    made = []
    for one in calls:
        function = one.get("function") if isinstance(one, dict) else None
        part = read_call(to_json(function), "arguments") if isinstance(function, dict) else None
        if part is None:
            return message
        part["id"] = str(one.get("id") or "")
        made.append(part)
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": [*([text(said)] if isinstance(said, str) else said), *made]}
