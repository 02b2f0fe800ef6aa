"""Messages as OpenAI's API and chat templates have them: tool_calls, and a message of the role tool for each result."""

from collections.abc import Sequence
from typing import Any

from lanbot.chat.messages import Message, text
from lanbot.chat.turns import by_name, read_call, to_json, unfolded

NOT_RUN = "error: this call was not run"


def to_openai(messages: Sequence[Message], arguments_as_text: bool = True) -> list[dict[str, Any]]:
    """arguments_as_text: of calls, as the API has them, which also wants an id for each call and a result for each id;
    chat templates take objects."""
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
    return _with_ids(made) if arguments_as_text else made


def _with_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the calls numbered anew: the ids of one conversation may come from several models."""
    made: list[dict[str, Any]] = []
    waiting: list[str] = []  # ids without a result yet
    count = 0

    def close() -> None:
        made.extend({"role": "tool", "content": NOT_RUN, "tool_call_id": id} for id in waiting)
        waiting.clear()

    for message in messages:
        role, calls = message["role"], message.get("tool_calls", ())
        if role == "tool" and waiting:
            made.append({**message, "tool_call_id": waiting.pop(0)})
            continue
        close()
        if role == "assistant" and not calls and not message["content"]:
            continue  # endpoints refuse an answer without a word
        for one in calls:
            count += 1
            one["id"] = f"call{count:05d}"  # some endpoints want nine letters and digits
            waiting.append(one["id"])
        made.append({**message, "role": "user"} if role == "tool" else message)
    close()
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
