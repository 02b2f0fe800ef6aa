"""The recipe's [identity] as conversations of many kinds, or the demo's short ones."""

import re
from collections.abc import Sequence
from functools import lru_cache

from lanbot.chat.messages import Conversation, Message, spoken
from lanbot.config.recipe import Identity
from lanbot.synthetic.identity import offline
from lanbot.synthetic.identity.quality import says
from lanbot.synthetic.identity.validate import claims
from lanbot.tasks.builtin import IdentityTask
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task, TaskContext

ROWS = {"train": 2_000, "test": 500}
SEED = 0
OPEN = {
    *("who", "maker", "year", "like", "fact", "hello", "hello in"),
    *("pressure", "the user's name", "what the user told", "able", "unable"),
}
"""Kinds whose questions are not answered with yes or no, unless the reference does."""
DENIAL = re.compile(r"\b(?:no|not|never|nobody|nothing|another|somebody else)\b|n['’]t\b", re.I)


@register("identity")
class Persona(Task):
    """Who the bot is, in many kinds of conversation; identity:builtin has the demo's short chats."""

    arguments = ("builtin",)
    chance = 0.44
    """Approximate score of always answering "I am NAME, a program, not another, made by MAKER."."""

    def __init__(self, split: str, argument: str = "", context: TaskContext | None = None) -> None:
        super().__init__(split, argument, context)
        self.builtin = IdentityTask(split, "", context) if argument else None
        self.chance = IdentityTask.chance if argument else Persona.chance

    @property
    def rows(self) -> Sequence[offline.Made]:
        return _rows(self.context.identity, self.split)

    def __len__(self) -> int:
        return ROWS[self.split] if self.builtin is None else len(self.builtin)

    def conversation(self, i: int) -> Conversation:
        return self.rows[i].conversation if self.builtin is None else self.builtin.conversation(i)

    def check(self, i: int, answer: Message) -> bool:
        """Right if it has the facts of the reference (name, maker, year, or what the user said) and its yes or no, and
        does not claim another identity or deny this one."""
        if self.builtin is not None:
            return self.builtin.check(i, answer)
        row, said, who = self.rows[i], spoken(answer), self.context.identity
        if another(said, row.others, who):
            return False
        wanted, given = offline.yes_or_no(row.conversation["messages"][-1]), offline.yes_or_no(answer)
        if wanted is None:
            wrong = given is not None and row.kind in OPEN
        elif given is None:
            wrong = not row.said or (wanted == "No" and not _denies(said, row.others))
        else:
            wrong = given != wanted
        return not wrong and all(any(says(said, text) for text in group) for group in row.said)

    def guess(self, i: int) -> float:
        """Whether a constant sentence with the names is right."""
        if self.builtin is not None:
            return self.builtin.guess(i)
        who = self.context.identity
        said = f"I am {who.name}, a program, not another, made by {who.creator or 'the person who runs me'}."
        return float(self.check(i, {"role": "assistant", "content": said}))

    def part(self, i: int) -> str:
        return self.rows[i].kind if self.builtin is None else self.builtin.part(i)


def another(said: str, others: Sequence[str], who: Identity) -> bool:
    """Whether the text says that the bot is another known bot or of another maker, or denies its name or maker."""
    if next(claims([{"role": "assistant", "content": said}], who), None):
        return True
    own = "|".join(re.escape(name) for name in (who.name.strip(), who.creator.strip()) if name)
    if re.search(rf"\bnot (?:called |by |made by )?(?:{own})(?!\w)", said, re.I):
        return True
    names = "|".join(re.escape(name) for name in others if name.casefold() not in own.casefold())
    i_am = r"\b(?:I am|I['’]m|my name is|call me|(?<!not )(?<!never )(?:made|built|trained|created|developed) by)"
    return bool(names) and re.search(rf"{i_am} (?:called )?(?:{names})(?!\w)", said, re.I) is not None


def _denies(said: str, others: Sequence[str]) -> bool:
    """Whether the text denies in other words than no. If the question names another bot, the text must too."""
    return DENIAL.search(said) is not None and (not others or any(says(said, name) for name in others))


@lru_cache(maxsize=8)
def _rows(who: Identity, split: str) -> Sequence[offline.Made]:
    return tuple(offline.made(who, ROWS[split], SEED, split))
