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
    """Errands with files, a memory and the calculator; some take two calls, some two conversations."""

    kind = "agent"

    def errand(self, i: int) -> world.Errand:
        return _errand(self.split, self.number(i))

    def conversation(self, i: int) -> Conversation:
        if self.split == "train":
            return world.errand_chat(self.split, self.number(i))
        errand = self.errand(i)
        return chat(errand.requests[-1], errand.replies[-1])

    def desk(self, i: int) -> "AgentEnv":
        return AgentEnv(self.errand(i))

    def part(self, i: int) -> str:
        return self.errand(i).kind


class AgentEnv:
    """Where an errand is done: its files and memories, the tools on them, and what was said so far."""

    def __init__(self, errand: world.Errand) -> None:
        self.errand, self.files = errand, dict(errand.files)
        memory = Memory()
        for known in errand.known:
            memory.remember(known)
        self.memory = memory
        self.tools = PythonCalls(Toolset([*Workspace(self.files).tools, *memory.tools]))
        self.conversations: list[Sequence[Message]] = []

    def request(self) -> Message | None:
        """What is asked next, in a conversation of its own; None if all was asked."""
        done = len(self.conversations)
        return {"role": "user", "content": self.errand.requests[done]} if done < len(self.errand.requests) else None

    def answered(self, request: Message, answer: Message) -> None:
        self.conversations.append([request, answer])

    def right(self) -> bool:
        """All is asked, the last answer says what it must, the files are as they must be."""
        if self.request() is not None:
            return False
        said = spoken(self.conversations[-1][-1]).casefold()
        values = self.errand.said.casefold().split()
        says = all(re.search(rf"(?<![\w-])(?<!\d[.,]){re.escape(value)}(?!\w|[.,]\d)", said) for value in values)
        return says and all(self.files.get(name) == words for name, words in self.errand.written.items())


@lru_cache(maxsize=1_024)
def _errand(split: str, i: int) -> world.Errand:
    return world.errand(split, i)
