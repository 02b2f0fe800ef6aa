"""Errands for the agent: compute, read and answer, write a file, search and answer, remember and recall later."""

import re
from collections.abc import Sequence
from functools import lru_cache

from lanbot.chat.messages import Conversation, Message, chat, spoken
from lanbot.synthetic import world
from lanbot.tasks.builtin import WorldTask
from lanbot.tasks.registry import register
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace


@register("agent_tasks")
class AgentTasks(WorldTask):
    """Errands with files, memory and calculator; some take two calls, some two conversations."""

    kind = "agent"

    def errand(self, i: int) -> world.Errand:
        return _errand(self.split, self.number(i))

    def conversation(self, i: int) -> Conversation:
        if self.split == "train":
            return world.errand_chat(self.split, self.number(i))
        errand = self.errand(i)
        return chat(errand.requests[-1], errand.replies[-1])

    def env(self, i: int) -> "AgentEnv":
        return AgentEnv(self.errand(i))

    def part(self, i: int) -> str:
        return self.errand(i).kind


class AgentEnv:
    """The environment of one errand: files, memory, tools, and the conversations so far."""

    def __init__(self, errand: world.Errand) -> None:
        self.errand, self.files = errand, dict(errand.files)
        self.memory = Memory()
        for known in errand.known:
            self.memory.remember(known)
        self.tools = PythonCalls(Toolset([*Workspace(self.files).tools, *self.memory.tools]))
        self.conversations: list[Sequence[Message]] = []
        self.did_not_fit = False
        """A request was longer than the context."""

    def request(self) -> Message | None:
        """The next request, which starts a new conversation; None after the last."""
        done = len(self.conversations)
        return {"role": "user", "content": self.errand.requests[done]} if done < len(self.errand.requests) else None

    def answered(self, request: Message, answer: Message | None) -> None:
        """answer: None if the request did not fit the context."""
        self.did_not_fit |= answer is None
        self.conversations.append([request, answer or {"role": "assistant", "content": ""}])

    def right(self) -> bool:
        """Whether all requests were made, the last answer has the expected values, and the files are as expected."""
        if self.request() is not None:
            return False
        answer = spoken(self.conversations[-1][-1]).casefold()
        values = self.errand.said.casefold().split()
        says = all(re.search(rf"(?<![\w-])(?<!\d[.,]){re.escape(value)}(?!\w|[.,]\d)", answer) for value in values)
        return says and all(self.files.get(name) == text for name, text in self.errand.written.items())


@lru_cache(maxsize=1_024)
def _errand(split: str, i: int) -> world.Errand:
    return world.errand(split, i)
