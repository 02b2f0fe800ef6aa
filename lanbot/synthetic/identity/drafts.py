"""What a model wrote, as a conversation: its JSON repaired, its calls executed."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from itertools import zip_longest
from typing import Any

import json_repair

from lanbot.chat.messages import Message, Part, parts, spoken
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import ToolError, Toolset
from lanbot.tools.workspace import Workspace


class BadDraft(Exception):  # noqa: N818  (an error of the model, not of the program)
    """Why an answer is not a conversation."""


def read(written: str) -> dict[str, Any]:
    """{"messages", and with calls "files", "known"}: what is in a model's answer, its messages yet to be validated.

    The JSON may have small errors, and text or a code fence around it. An output that differs from the real one only
    in spaces, case or rounding is replaced by that. Raises BadDraft: the JSON is incomplete or of another shape.
    """
    start = re.search(r"\{\s*\"", written)
    if not start or not re.search(r"[}\]][^\"]*$", written):  # no bracket is closed after the last string
        raise BadDraft("no complete JSON in the answer")
    try:
        data: Any = json_repair.loads(written[start.start() :])
        json.dumps(data, ensure_ascii=False).encode()  # a ValueError for half of a surrogate pair
        messages: list[Message] = data["messages"]
        for message in messages:
            if all(part["type"] == "text" for part in parts(message)):
                message["content"] = spoken(message).strip()
        if all(isinstance(message["content"], str) for message in messages):
            return {"messages": messages}
        files = {file["name"].removeprefix("./"): file["text"] for file in data.get("files", [])}
        made = {"messages": messages, "files": files, "known": data.get("known", [])}
        for _, output, real in executed(made):
            if output and _same(output["text"], real):
                output["text"] = real
        return made
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError, ToolError) as error:
        raise BadDraft(f"not a conversation: {error}") from None


def executed(made: Mapping[str, Any]) -> Iterator[tuple[Part, Part | None, str]]:
    """(call, the output that the conversation has for it, what the tool really returns) for each call in turn.

    A conversation has a workspace and a memory of its own. Raises ToolError for a text that cannot be remembered.
    """
    with closing(Memory()) as memory:
        for known in made.get("known", []):
            memory.remember(known)
        run = PythonCalls(Toolset([*Workspace(dict(made.get("files", {}))).tools, *memory.tools]))
        for said in map(parts, made["messages"]):
            for part, after in zip_longest(said, said[1:]):
                if part["type"] == "python":
                    yield part, after if after and after["type"] == "output" else None, run(part["text"])


def _same(imagined: str, real: str) -> bool:
    with suppress(ValueError):
        number = imagined.replace(",", "").strip()
        return float(number) == round(float(real), len(number.partition(".")[2]) or 9)
    return imagined.casefold().split() == real.casefold().split()
