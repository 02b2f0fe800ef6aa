"""Functions that a model may call, said to it in the way that its chat format has."""

from collections.abc import Mapping
from typing import Any

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, Message, parts


def declared(conversation: Conversation, chat_format: ChatFormat) -> Conversation:
    """The conversation as its format declares its tools; a format without words for them gets their signatures in the
    system message."""
    tools = conversation.get("tools", [])
    asked: list[Message] = [{"role": "user", "content": "?"}]
    if not tools or chat_format.prompt(asked, tools) != chat_format.prompt(asked):
        return conversation
    listed = "You can call these functions:\n" + "\n".join(signature(tool["function"]) for tool in tools)
    messages = conversation["messages"]
    given = "".join(part["text"] for part in parts(messages[0])) if messages[0]["role"] == "system" else ""
    system: Message = {"role": "system", "content": f"{given}\n\n{listed}" if given else listed}
    return {"messages": [system, *messages[messages[0]["role"] == "system" :]]}


def signature(function: Mapping[str, Any]) -> str:
    """A function as a line of Python: name(width: integer, unit: string = ...): what it does."""
    schema = function.get("parameters") or {}
    required = schema.get("required", ())
    listed = ", ".join(
        f"{name}: {_type(one)}{'' if name in required else ' = ...'}"
        for name, one in schema.get("properties", {}).items()
    )
    description = function.get("description") or ""
    return f"{function['name']}({listed}): {description}" if description else f"{function['name']}({listed})"


def _type(schema: Any) -> str:
    return str(schema.get("type", "any")) if isinstance(schema, dict) else "any"
