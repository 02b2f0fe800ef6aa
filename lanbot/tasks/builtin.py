"""The tasks of the built-in world: no network, no files. And who the bot is."""

from lanbot.chat.conversation import Conversation, Message, spoken
from lanbot.data import world
from lanbot.tasks.task import Task, final_number

ROWS = {"train": 100_000, "test": 2_000}
"""The world makes as many as are asked for; this is where a split ends."""


class WorldTask(Task):
    def __len__(self) -> int:
        return ROWS[self.split]


class WordProblems(WorldTask):
    """Math word problems, solved with the calculator."""

    def conversation(self, i: int) -> Conversation:
        return world.word_problem(self.split, i)[0]

    def check(self, i: int, answer: Message) -> bool:
        return final_number(spoken(answer)) == world.word_problem(self.split, i)[1]


class WorldChat(WorldTask):
    """Small talk and questions about the built-in world."""

    kind = "chat"

    def conversation(self, i: int) -> Conversation:
        return world.chat_about_world(self.split, i)


class IdentityTask(WorldTask):
    """Who the bot is, who made it, what it can do: the recipe's [identity]."""

    def conversation(self, i: int) -> Conversation:
        who = self.setting.identity
        return world.identity_chat(who.name, who.maker, who.personality, self.split, i)

    def check(self, i: int, answer: Message) -> bool:
        """Right if it says the bot's name, and the maker's where the reference does."""
        reference, said = spoken(self.conversation(i)["messages"][-1]), spoken(answer)
        who = self.setting.identity
        return who.name in said and (not who.maker or who.maker not in reference or who.maker in said)
