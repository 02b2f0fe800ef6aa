"""A model that solves tasks by a script: what it calls next depends on what the tools returned."""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from lanbot.agent.model import Declarations, Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, Part, parts, python, spoken, text
from lanbot.inference.sampling import Sampling

Solution = Generator["str | list[Part]", str, str]
"""Yields calls (or the parts of a reply), is sent what the model reads of their results, and returns the answer."""


@dataclass
class Oracle:
    """A ModelClient. solve: the script of a request; requests: those of the
    task. Raises AssertionError if it is shown more than its context holds, or
    not what was asked.

    tokens: four characters each.
    """

    solve: Callable[[str], Solution]
    requests: Sequence[str]
    context_length: int = 8_000
    system: str = ""
    script: Solution | None = None
    request: str = ""
    seen: int = field(default=0, init=False)  # tokens of the longest prompt

    def count_tokens(self, messages: Sequence[Message], tools: Declarations = ()) -> int:
        written = sum(len(json.dumps(part)) for message in messages for part in parts(message))
        return (written + len(json.dumps([dict(tool) for tool in tools]))) // 4 + 4 * len(messages)

    def complete(
        self, messages: Sequence[Message], sampling: Sampling, seed: int = 0, tools: Declarations = ()
    ) -> Reply:
        used = self.count_tokens(messages, tools)
        self.seen = max(self.seen, used)
        assert used < self.context_length, f"a prompt of {used} tokens"
        if self.system:
            assert messages[0] == {"role": "system", "content": self.system}
        said = self._next(messages)
        if said is None:
            return Reply([text("Summary: earlier work.")], "stop")
        if isinstance(said, str):
            return Reply([text(said)], "stop")
        calls = tuple(part["text"] for part in said if part["type"] == "python" and not part.get("open"))
        return Reply(said, "call" if calls else "stop", calls)

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, seed: int = 0, tools: Declarations = ()
    ) -> Generator[Event, None, Reply]:
        reply = self.complete(messages, sampling, seed, tools)
        for part in reply.parts:
            yield Event("piece", part["type"], part["text"])
        return reply

    def _next(self, messages: Sequence[Message]) -> "str | list[Part] | None":
        last = messages[-1]
        try:
            if last["role"] == "user":
                asked = spoken(last)
                if asked not in self.requests:
                    return None  # the harness asks for a summary
                self.request, self.script = asked, self.solve(asked)
                made = next(self.script)
            else:
                assert any(message["role"] == "user" and spoken(message) == self.request for message in messages)
                assert self.script is not None
                made = self.script.send(_results(last))
        except StopIteration as done:
            return str(done.value)
        return [python(made)] if isinstance(made, str) else made


def _results(message: Message) -> str:
    """The outputs at the end of the assistant's message."""
    found: list[str] = []
    for part in reversed(parts(message)):
        if part["type"] != "output":
            break
        found.append(part["text"])
    return "\n".join(reversed(found))
