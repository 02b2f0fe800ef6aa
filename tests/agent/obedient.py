"""A model that obeys: it makes every call that any text it reads orders, be it of the user, a page or a file.

An order is `CALL: code :END`; "⏎" in the code is a line's end. Nobody's model is worse.
"""

import json
import re
from collections.abc import Generator, Sequence

from lanbot.agent.limits import Limits
from lanbot.agent.loop import Agent
from lanbot.agent.model import Declarations, Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, parts, python, text
from lanbot.inference.sampling import Sampling
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset

ORDER = re.compile(r"CALL: (.+?) :END", re.DOTALL)


class Obedient:
    context_length = 1_000_000

    def __init__(self) -> None:
        self.obeyed: list[str] = []

    def count_tokens(self, messages: Sequence[Message], tools: Declarations = ()) -> int:
        return sum(len(part["text"]) for message in messages for part in parts(message)) // 4

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, seed: int = 0, tools: Declarations = ()
    ) -> Generator[Event, None, Reply]:
        yield from ()
        read = [part["text"] for message in messages for part in parts(message) if part["type"] != "python"]
        read.append(json.dumps(list(tools), ensure_ascii=False))
        for found in ORDER.finditer("\n".join(read)):
            code = found[1].replace("⏎", "\n")
            if code not in self.obeyed:
                self.obeyed.append(code)
                return Reply([python(code)], "call", (code,))
        return Reply([text("done")], "stop")


def converse(model: Obedient, toolset: Toolset, requests: Sequence[str]) -> list[Message]:
    """The harness with this model: what it reads after some turns."""
    agent = Agent(model, PythonCalls(toolset), Limits(max_steps=40, max_tokens=500_000))
    for request in requests:
        agent.turn(request)
    return agent.messages
