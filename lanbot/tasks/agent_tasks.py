"""Errands for the agent: compute, read and answer, write a file, search and answer, remember and recall later."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from lanbot.chat.messages import Conversation, Message, chat, spoken
from lanbot.synthetic import world
from lanbot.tasks.builtin import WorldTask
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace


class EnvTask(Task):
    """A task whose rows are done in an environment, with tools, in one conversation or several."""

    kind = "agent"

    @abstractmethod
    def env(self, i: int) -> "Env":
        """A new environment of row i."""


class Env(ABC):
    """Files, memory, tools, and the conversations so far; each conversation is a list of requests."""

    def __init__(self, talks: Sequence[Sequence[str]], files: Mapping[str, str], known: Iterable[str]) -> None:
        self.talks, self.files = talks, dict(files)
        self.memory = Memory()
        for one in known:
            self.memory.remember(one)
        self.tools = PythonCalls(Toolset([*Workspace(self.files).tools, *self.memory.tools]))
        self.conversations: list[list[Message]] = []
        self.did_not_fit = False
        """A request was longer than the context."""

    @property
    def going_on(self) -> bool:
        """Whether the next request belongs to the last conversation."""
        done = len(self.conversations)
        return done > 0 and len(self.conversations[-1]) < 2 * len(self.talks[done - 1])

    def request(self) -> Message | None:
        """The next request; None after the last."""
        done = len(self.conversations)
        if self.going_on:
            return _asked(self.talks[done - 1][len(self.conversations[-1]) // 2])
        return _asked(self.talks[done][0]) if done < len(self.talks) else None

    def before(self) -> Sequence[Message]:
        """The messages of the same conversation before the next request."""
        return self.conversations[-1] if self.going_on else []

    def answered(self, request: Message, answer: Message | None) -> None:
        """answer: None if the request did not fit the context."""
        self.did_not_fit |= answer is None
        if not self.going_on:
            self.conversations.append([])
        self.conversations[-1] += [request, answer or {"role": "assistant", "content": ""}]

    @abstractmethod
    def right(self) -> bool:
        """Whether everything was done as it should be."""


@register("agent_tasks")
class AgentTasks(EnvTask, WorldTask):
    """Errands with files, memory and calculator; some take two calls, some two conversations."""

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


class AgentEnv(Env):
    """The environment of one errand: each of its requests starts a new conversation."""

    def __init__(self, errand: world.Errand) -> None:
        super().__init__([[request] for request in errand.requests], errand.files, errand.known)
        self.errand = errand

    def right(self) -> bool:
        """Whether all requests were made, the last answer has the expected values, and the files are as expected."""
        if self.request() is not None:
            return False
        answer = spoken(self.conversations[-1][-1]).casefold()
        values = self.errand.said.casefold().split()
        says = all(re.search(rf"(?<![\w-])(?<!\d[.,]){re.escape(value)}(?!\w|[.,]\d)", answer) for value in values)
        return says and all(self.files.get(name) == text for name, text in self.errand.written.items())


def _asked(request: str) -> Message:
    return {"role": "user", "content": request}


@lru_cache(maxsize=1_024)
def _errand(split: str, i: int) -> world.Errand:
    return world.errand(split, i)
