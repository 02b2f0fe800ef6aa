"""An endpoint's answer while it arrives: pieces of text, calls in JSON, why it ended, what it used."""

import json
from dataclasses import dataclass, field
from typing import Any

from lanbot.agent.model import Reply
from lanbot.chat.messages import Part, text
from lanbot.chat.turns import read_call, to_json
from lanbot.core.http import Again

BROKEN = "\n[the connection broke; the answer goes on otherwise]\n"


@dataclass
class Called:
    """A call by name; its arguments arrive in pieces of JSON."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def raw(self) -> str:
        return f"{self.name}({self.arguments})"

    def part(self) -> Part | None:
        """None if its arguments are no JSON object."""
        made = read_call(to_json({"name": self.name, "arguments": self.arguments or "{}"}), "arguments")
        if made is not None:
            made["id"] = self.id
        return made


@dataclass
class Answer:
    """finished: the endpoint's finish_reason, "" while there is more to come."""

    text: str = ""
    calls: list[Called] = field(default_factory=list)
    finished: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    def feed(self, chunk: Any) -> None:
        """Takes a chunk of a stream, or a whole answer. Unknown fields are ignored. Raises Again for an error in it."""
        if not isinstance(chunk, dict):
            raise Again("it sends what is no answer")
        if error := chunk.get("error"):
            raise Again(f"it breaks off ({_words(error)})")
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return  # the last chunk has the usage alone
        self.finished = str(choices[0].get("finish_reason") or self.finished)
        delta = choices[0].get("delta") or choices[0].get("message")
        if not isinstance(delta, dict):
            return
        if isinstance(delta.get("content"), str):
            self.text += delta["content"]
        for position, one in enumerate(delta.get("tool_calls") or ()):
            if isinstance(one, dict):
                self._add(one, position)

    def _add(self, piece: dict[str, Any], position: int) -> None:
        """A piece of a call. Some endpoints send no index, or the same one for each call but other ids."""
        index, id = piece.get("index", position), str(piece.get("id") or "")
        at = index if isinstance(index, int) and 0 <= index < len(self.calls) else None
        if at is not None and id and self.calls[at].id and self.calls[at].id != id:
            at = next((i for i, other in enumerate(self.calls) if other.id == id), None)
        if at is None:
            self.calls.append(Called())
            at = -1
        one, function = self.calls[at], piece.get("function")
        function = function if isinstance(function, dict) else {}
        one.id = one.id or id
        one.name += str(function.get("name") or "")
        arguments = function.get("arguments")
        one.arguments += to_json(arguments) if isinstance(arguments, dict) else str(arguments or "")

    @property
    def calling(self) -> list[tuple[str, str]]:
        """The kind and the code of each call; of one that cannot be read, what was written."""
        parts = [one.part() for one in self.calls]
        return [(p["type"], p["text"]) if p else ("call", one.raw) for p, one in zip(parts, self.calls, strict=True)]

    def reply(self) -> Reply:
        """The whole answer, without what it used. A call that cannot be read, or was cut by the limit, is text."""
        said: list[Part] = [text(self.text)] if self.text else []
        if self.finished == "length":
            return Reply([*said, *(text(one.raw) for one in self.calls)], "length")
        called = [part for one in self.calls if (part := one.part()) is not None]
        unread = [text(one.raw) for one in self.calls if one.part() is None]
        codes = tuple(part["text"] for part in called + unread)
        return Reply(said + called + unread, "call" if codes else "stop", codes)


@dataclass
class Shown:
    """What the listener has of an answer that may have to be generated again: nothing is shown twice."""

    text: str = ""

    def new(self, answer: str) -> str:
        """The part of an answer so far that the listener has not seen."""
        if self.text.startswith(answer):
            return ""
        same = 0
        while same < len(self.text) and self.text[same] == answer[same]:
            same += 1
        piece = answer[same:] if same == len(self.text) else BROKEN + answer[same:]
        self.text = answer
        return piece


def words_of(body: str) -> str:
    """What an endpoint says in the body of an error."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body
    return _words(data.get("error") or data.get("detail") or data) if isinstance(data, dict) else _words(data)


def _words(error: Any) -> str:
    return str(error["message"]) if isinstance(error, dict) and "message" in error else str(error)
