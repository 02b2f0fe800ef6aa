"""Who the bot is, by the recipe's [identity]: generated conversations of many kinds, or the demo's own small chats."""

import re
from collections.abc import Sequence
from functools import lru_cache

from lanbot.chat.conversation import Conversation, Message, spoken
from lanbot.data.identity import offline
from lanbot.recipe import Identity
from lanbot.tasks.builtin import IdentityTask
from lanbot.tasks.task import Setting, Task

ROWS = {"train": 2_000, "test": 500}
SEED = 0


class Persona(Task):
    """Who the bot is, in many kinds of talk; identity:builtin are the demo's small chats about it."""

    arguments = ("builtin",)

    def __init__(self, split: str, argument: str = "", setting: Setting | None = None) -> None:
        super().__init__(split, argument, setting)
        self.builtin = IdentityTask(split, "", setting) if argument else None

    @property
    def rows(self) -> Sequence[offline.Made]:
        return _rows(self.setting.identity, self.split)

    def __len__(self) -> int:
        return ROWS[self.split] if self.builtin is None else len(self.builtin)

    def conversation(self, i: int) -> Conversation:
        return self.rows[i].conversation if self.builtin is None else self.builtin.conversation(i)

    def check(self, i: int, answer: Message) -> bool:
        """Right if it says what was asked for (the bot's name, its maker's, the year, what the user told), and does
        not contradict the reference's yes or no; where only that was asked for, it must say it."""
        if self.builtin is not None:
            return self.builtin.check(i, answer)
        row, said = self.rows[i], spoken(answer)
        wanted = offline.yes_or_no(row.conversation["messages"][-1])
        given = offline.yes_or_no(answer)
        if wanted is not None and given != wanted and (given is not None or not row.said):
            return False
        return all(any(says(said, text) for text in group) for group in row.said)

    def part(self, i: int) -> str:
        return self.rows[i].kind if self.builtin is None else self.builtin.part(i)


def says(answer: str, text: str) -> bool:
    """Is `text` in the answer, whatever the case, and not as a part of a longer word or number?

    Letters of other scripts may follow: there a word has no space after it.
    """
    text = re.escape(text.casefold())
    return re.search(rf"(?<![a-z0-9]){text}(?![a-z0-9]|[.,]\d)", answer.casefold()) is not None


@lru_cache(maxsize=8)
def _rows(who: Identity, split: str) -> Sequence[offline.Made]:
    return tuple(offline.made(who, ROWS[split], SEED, split))
