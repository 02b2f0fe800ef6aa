"""What fits into the model's context, and how a conversation is compacted until it does.

In this order, each step only as far as it is needed: tool outputs are shortened, the oldest first; older turns are
replaced by a summary; what the current turn wrote and read is shortened. The system message and the current request
stay as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lanbot.agent.events import Compacted, copied
from lanbot.agent.limits import shortened
from lanbot.agent.model import Declarations, ModelClient
from lanbot.chat.messages import Message, Part, parts, spoken, text
from lanbot.core.errors import UserError

SUM_UP = "Sum up what we did so far, with names and numbers."
"""The question whose answer is the summary; both stay in the conversation."""
SUMMARY_CONTEXT = 2_048
"""A model with a shorter context is not asked for a summary: there is no room, and it is too weak."""
LINE = 80  # characters of a request or an answer in a digest
Slot = tuple[list[Part], int]
"""A part's message and its place there."""
SumUp = Callable[[list[Message], int], str]
"""(messages that end with SUM_UP, tokens) -> the model's answer, "" if it wrote no whole one."""


@dataclass(frozen=True)
class Use:
    """Tokens of the context: what each thing takes, and what is kept free for the answer."""

    system: int
    tools: int
    messages: int
    answer: int
    context: int

    @property
    def free(self) -> int:
        return self.context - self.system - self.tools - self.messages - self.answer


class Context:
    """A model's context. max_tokens: of an answer, for which at most a third of the context is kept free."""

    def __init__(self, model: ModelClient, tools: Declarations, max_tokens: int) -> None:
        self.model, self.tools = model, tools
        self.length = model.context_length
        self.answer = max(1, min(max_tokens, self.length // 3))
        self.short = max(24, self.length // 32)
        """Tokens to which an old output is shortened."""

    # -- how much -------------------------------------------------------------------------------------------------

    def count(self, messages: Sequence[Message]) -> int:
        return self.model.count_tokens(messages, self.tools)

    def count_text(self, words: str) -> int:
        """About the tokens of a text within a message."""
        return self.model.count_tokens([_user(words)]) - self.model.count_tokens([_user("")])

    def use(self, messages: Sequence[Message]) -> Use:
        system = [message for message in messages[:1] if message["role"] == "system"]
        empty = self.model.count_tokens([_user("")])
        of_system = self.model.count_tokens([*system, _user("")]) - empty
        tools = self.count([*system, _user("")]) - of_system - empty
        rest = self.count(messages) - of_system - tools if messages else 0
        return Use(of_system, tools, rest, self.answer, self.length)

    def require(self, messages: list[Message]) -> None:
        """Raises UserError unless the last message, a request, fits beside the system message."""
        alone = [message for message in messages[:1] if message["role"] == "system"]
        if (used := self.count([*alone, messages[-1]])) < self.length:
            return
        with_it = f", of which {rest:,} are the system message and the tools" if (rest := self.count(alone)) > 9 else ""
        problem = f"this message is {used:,} tokens{with_it}; the model's context is {self.length:,}"
        raise UserError(problem, "Send a shorter one.")

    def shorten_output(self, output: str, messages: Sequence[Message]) -> str:
        """A new output, so that it takes at most half of what is free."""
        return shortened(output, max(self.short, (self.length - self.count(messages)) // 2), self.count_text)

    # -- compaction -----------------------------------------------------------------------------------------------

    def fit(self, messages: list[Message], sum_up: SumUp) -> Compacted | None:
        """What to read instead, so that there is room for an answer; None if there is, or if nothing can be done."""
        before = self.count(messages)
        if before <= self.length - self.answer or all(message["role"] == "system" for message in messages):
            return None
        made = [copied(message) for message in messages]
        how = []
        for step in (self._shorten_old, self._sum_up, self._shorten_own):
            if what := step(made, sum_up):
                how.append(what)
            if (after := self.count(made)) <= self.length - self.answer:
                break
        return _compacted(made, "; ".join(how), before, after) if how else None

    def trim(self, messages: list[Message]) -> Compacted | None:
        """A reply that a limit ended is shortened if it takes more than a quarter of the context: it may be endless
        repetition, and later turns would have to read it."""
        made = [copied(message) for message in messages]
        if not self._shorten(_slots(made[-1:], "text"), self.length // 8, self.length, self.length // 4)[0]:
            return None
        return _compacted(made, "a reply that a limit ended was shortened", self.count(messages), self.count(made))

    def _shorten_old(self, messages: list[Message], sum_up: SumUp) -> str:
        """Outputs, but for those that the model has not read yet; then long replies of earlier turns."""
        over = self.count(messages) - self.length + self.answer
        outputs = _slots(messages, "output")
        outputs = outputs[: len(outputs) - _unread(messages)]
        count, saved = self._shorten(outputs, self.short, over)
        earlier = _slots(messages[: _current(messages)], "text")
        replies, _ = self._shorten(earlier, self.short, over - saved, self.length // 8)
        return _said(count, "old outputs", replies, "long replies")

    def _sum_up(self, messages: list[Message], sum_up: SumUp) -> str:
        """The oldest turns, but for the latest ones that fit into half of what is free."""
        first, current = int(messages[0]["role"] == "system"), _current(messages)
        starts = [i for i in range(first, current) if messages[i]["role"] == "user"]
        if not starts:
            return ""
        room = self.length - self.answer - self.count([*messages[:first], *messages[current:]])
        kept = next((i for i in starts[1:] if self.count(messages[i:current]) <= room // 2), current)
        old, rest = messages[first:kept], messages[kept:]
        room = min(self.length // 8, self.length - self.answer - self.count([*messages[:first], _user(SUM_UP), *rest]))
        if len(old) == 2 and old[0]["content"] == SUM_UP:  # of an earlier compaction; nothing to add
            words, by = shortened(spoken(old[1]), room, self.count_text), "shortened"
        else:
            words, by = self._summary(messages[:first], old, room, sum_up)
        turns = sum(message["role"] == "user" for message in old)
        if self.count_text(words) <= room:
            messages[first:kept] = [_user(SUM_UP), Message(role="assistant", content=[text(words)])]
            return f"{turns} older turn{'s'[: turns - 1]} summed up ({by})"
        del messages[first:kept]
        return f"{turns} older turn{'s'[: turns - 1]} left out: no room for a summary"

    def _summary(self, system: list[Message], old: list[Message], room: int, sum_up: SumUp) -> tuple[str, str]:
        asked, whole = [*system, *old, _user(SUM_UP)], self.model.context_length  # `length` may be less, to make room
        if whole >= SUMMARY_CONTEXT and room > self.short and self.count(asked) + room <= whole:
            written = sum_up(asked, room).strip()
            if written and self.count_text(written) < self.count(old):
                return written, "by the model"
        return shortened(_digest(old), room, self.count_text), "as a list"

    def _shorten_own(self, messages: list[Message], sum_up: SumUp) -> str:
        """Outputs, then text, of the current turn's message."""
        own = messages[_current(messages) + 1 :]
        over = self.count(messages) - self.length + self.answer
        count, saved = self._shorten(_slots(own, "output"), self.short, over)
        texts, _ = self._shorten(_slots(own, "text"), self.short, over - saved)
        return _said(count, "outputs", texts, "parts of the answer")

    def _shorten(self, slots: Sequence[Slot], room: int, over: int, least: int = 0) -> tuple[int, int]:
        """Shortens texts of more than `least` tokens to `room` until `over` tokens are saved: how many, and tokens."""
        count = saved = 0
        for content, i in slots:
            if saved >= over:
                break
            part = content[i]
            new = shortened(part["text"], room, self.count_text)
            if new == part["text"] or (old := self.count_text(part["text"])) <= least:
                continue
            content[i] = {**part, "text": new}
            count, saved = count + 1, saved + old - self.count_text(new)
        return count, saved


def _slots(messages: Sequence[Message], kind: str) -> list[Slot]:
    """The assistant's parts of a kind, as (content, index)."""
    contents = [
        one["content"] for one in messages if one["role"] == "assistant" and not isinstance(one["content"], str)
    ]
    return [(content, i) for content in contents for i, part in enumerate(content) if part["type"] == kind]


def _unread(messages: Sequence[Message]) -> int:
    """How many outputs end the last message: the model has not read them yet."""
    content = parts(messages[-1]) if messages[-1]["role"] == "assistant" else []
    return next((n for n, part in enumerate(reversed(content)) if part["type"] != "output"), len(content))


def _current(messages: Sequence[Message]) -> int:
    """The index of the current request."""
    return max(i for i, message in enumerate(messages) if message["role"] == "user")


def _digest(messages: Sequence[Message]) -> str:
    """The requests, and the first line of each answer."""
    lines = []
    for message in messages:
        words = next((line.strip() for line in spoken(message).splitlines() if line.strip()), "")
        lines.append(f"{message['role']}: {words[:LINE]}{'...' if len(words) > LINE else ''}")
    return "\n".join(lines)


def _user(words: str) -> Message:
    return {"role": "user", "content": words}


def _compacted(messages: list[Message], how: str, before: int, after: int) -> Compacted:
    return Compacted([message for message in messages if message["role"] != "system"], how, before, after)


def _said(first: int, name: str, second: int, other: str) -> str:
    """ "shortened: 2 old outputs, 1 long replies", or "" if there are none."""
    told = [f"{n} {what}" for n, what in ((first, name), (second, other)) if n]
    return f"shortened: {', '.join(told)}" if told else ""
