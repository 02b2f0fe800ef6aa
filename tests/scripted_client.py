"""A model client that plays back replies."""

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from lanbot.agent.model import Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, parts, python, text


class Scripted:
    """Notes what it was given to read. A token is a word; a message takes two more, a tool three."""

    def __init__(self, *replies: Reply | BaseException, context: int = 1_000) -> None:
        self.replies, self.context_length = list(replies), context
        self.read: list[list[Message]] = []
        self.declared: list[str] = []
        self.most: list[int] = []
        self.seeds: list[int] = []
        self.closed = 0

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> int:
        return sum(2 + sum(len(part["text"].split()) for part in parts(one)) for one in messages) + 3 * len(tools)

    def stream(self, messages, sampling, seed=0, tools=()):  # type: ignore[no-untyped-def]
        assert self.count_tokens(messages, tools) < self.context_length
        self.read.append(deepcopy(messages))
        self.declared = [tool["function"]["name"] for tool in tools]
        self.most.append(sampling.max_tokens)
        self.seeds.append(seed)
        reply = self.replies.pop(0) if self.replies else said("ok")
        try:
            for part in [] if isinstance(reply, BaseException) else reply.parts:
                if part["type"] != "text":
                    yield Event("open", part["type"])
                for piece in re.findall(r"\s*\S+\s*", part["text"]):
                    yield Event("piece", part["type"], piece)
                if part["type"] != "text":
                    yield Event("close", part["type"])
        finally:
            self.closed += 1
        if isinstance(reply, BaseException):
            raise reply
        return reply


def said(words: str, finished: str = "stop", **named: Any) -> Reply:
    return Reply([text(words)], finished, **named)


def calling(*codes: str, words: str = "", unread: Sequence[str] = (), **named: Any) -> Reply:
    """A reply that ends with calls; those in `unread` cannot be read."""
    written = [text(code) if code in unread else python(code) for code in codes]
    return Reply([*([text(words)] if words else []), *written], "call", codes, **named)
