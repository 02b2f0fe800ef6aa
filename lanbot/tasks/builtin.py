"""The tasks of the built-in world, which need no network and no files."""

import re

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, Message, chat, parts, spoken
from lanbot.synthetic import everyday, world
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task, final_number

ROWS = {"train": 1_000_000, "test": 2_000}
"""Rows of a split; the world could generate more."""
FIRST = {"train": 0, "test": 1_000_000}
"""The first row of a split in the world. The demo's recipe was tuned on test rows from 0, so others are scored."""


class WorldTask(Task):
    def __len__(self) -> int:
        return ROWS[self.split]

    def number(self, i: int) -> int:
        """The index of row i in the world."""
        return FIRST[self.split] + i

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        return as_typed(self.conversation(i), self.split, i)


def as_typed(conversation: Conversation, split: str, i: int, copied: bool = True) -> Conversation:
    """Training reads requests as people type them (see everyday.as_typed); tests ask in good order."""
    if split != "train":
        return conversation
    return everyday.as_typed(conversation, world.rng_of("typed", split, i), copied)


@register("everyday")
class Everyday(WorldTask):
    """Requests as people type them: talk, the world, what was said before, sums, files, memory, the unknown."""

    kind = "chat"

    def conversation(self, i: int) -> Conversation:
        who = self.context.identity
        return everyday.everyday(self.split, self.number(i), (who.name, who.creator, who.personality))

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        return self.conversation(i)


@register("word_problems")
class WordProblems(WorldTask):
    """Math word problems, solved with the calculator; word_problems:practice has answers only, no solutions."""

    arguments = ("practice",)

    def problem(self, i: int) -> world.Problem:
        return world.word_problem(self.split, self.number(i), practice=bool(self.argument) and self.split == "train")

    def conversation(self, i: int) -> Conversation:
        problem = self.problem(i)
        return chat(problem.question, f"#### {problem.answer}" if self.argument else problem.solution)

    def check(self, i: int, answer: Message) -> bool:
        return final_number(spoken(answer)) == self.problem(i).answer

    def part(self, i: int) -> str:
        return f"templates {self.problem(i).seen}"


@register("sums")
class Sums(WorldTask):
    """Arithmetic, solved with the calculator: right if the answer's last number is."""

    def conversation(self, i: int) -> Conversation:
        return world.sum_chat(self.split, self.number(i))

    def check(self, i: int, answer: Message) -> bool:
        expected = next(
            part["text"] for part in parts(self.conversation(i)["messages"][-1]) if part["type"] == "output"
        )
        numbers = re.findall(r"-?\d+(?:\.\d+)?", spoken(answer).replace(",", ""))
        return bool(numbers) and numbers[-1] == expected


@register("world_chat")
class WorldChat(WorldTask):
    """Small talk, things to know, sums, and questions about what was just said."""

    kind = "chat"

    def conversation(self, i: int) -> Conversation:
        return world.talk(self.split, self.number(i))


@register("long_chat")
class LongChat(WorldTask):
    """Chats of two or three turns about different things, who the bot is among them."""

    kind = "chat"

    def conversation(self, i: int) -> Conversation:
        who = self.context.identity
        return world.long_chat(who.name, who.creator, who.personality, self.split, self.number(i))


OTHERS = ("other", "other", "self")
"""Sections of questions whether the bot is another, with some whether it is itself, which are to be told apart."""


class IdentityTask(WorldTask):
    """Who the bot is, who made it, what it can do: the recipe's [identity]. With "others" only whether it is another
    bot."""

    def _asked(self, i: int) -> tuple[Conversation, str]:
        who, of = self.context.identity, OTHERS if self.argument == "others" else ()
        return world.identity_chat(who.name, who.creator, who.personality, self.split, self.number(i), of)

    def conversation(self, i: int) -> Conversation:
        return self._asked(i)[0]

    def check(self, i: int, answer: Message) -> bool:
        """Right if it has the names of bot and maker that the reference has, and does not contradict its yes or no.

        "I am Robi, made by Ada." answers "Were you made by Siri?"; with a "Yes" before it, it does not.
        """
        reference, said = spoken(self.conversation(i)["messages"][-1]), spoken(answer)
        who = self.context.identity
        names = [who.name, who.creator or "the person who runs me"]
        opposite = {"Yes": "No,", "No": "Yes,"}.get(reference.partition(",")[0])
        contradicts = opposite is not None and said.startswith(opposite)
        return not contradicts and all(name in said for name in names if name in reference)

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        return as_typed(self.conversation(i), self.split, i, copied=False)

    def part(self, i: int) -> str:
        return self._asked(i)[1]
