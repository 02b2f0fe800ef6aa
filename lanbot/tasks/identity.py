"""The recipe's [identity] as conversations: generated ones of many kinds, or the demo's short ones."""

import re
from collections.abc import Sequence
from functools import lru_cache

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, Message, spoken
from lanbot.config.recipe import Identity
from lanbot.synthetic.identity import offline
from lanbot.synthetic.identity.checks import claims
from lanbot.synthetic.identity.variety import says
from lanbot.tasks.builtin import IdentityTask
from lanbot.tasks.registry import register
from lanbot.tasks.system_forms import form_of, in_form
from lanbot.tasks.task import Task, TaskContext

ROWS = {"train": 10_000, "test": 500}
SEED = 0
DENIAL = re.compile(r"\b(?:no|not|never|nope|neither|nobody|nothing|cannot|another|somebody else)\b|n['’]t\b", re.I)


@register("identity")
class Persona(Task):
    """Who the bot is, in many kinds of conversation; identity:builtin are the demo's short chats about it, and
    identity:others those of them that ask whether it is another bot.

    For chat formats with a default system message, rows come in the five forms of system_forms.py; identity:forms is
    the same task with a score for each form.
    """

    arguments = ("builtin", "others", "forms")
    chance = 0.53
    """About what always answering "I am NAME, a program, not another, made by MAKER." scores."""

    def __init__(self, split: str, argument: str = "", context: TaskContext | None = None) -> None:
        super().__init__(split, argument, context)
        self.builtin = IdentityTask(split, argument, context) if argument in ("builtin", "others") else None
        self.chance = IdentityTask.chance if self.builtin else Persona.chance

    def row(self, i: int) -> offline.Row:
        return _row(self.context.identity, self.split, i)

    def __len__(self) -> int:
        return ROWS[self.split] if self.builtin is None else len(self.builtin)

    def conversation(self, i: int) -> Conversation:
        return self.row(i).conversation if self.builtin is None else self.builtin.conversation(i)

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        conversation = self.conversation(i) if self.builtin is None else self.builtin.asked(i, chat_format)
        if chat_format.family_system is None:
            return conversation
        form = form_of(conversation, self.split, i)
        return in_form(conversation, form, self.context.identity, chat_format, self.split, i)

    def check(self, i: int, answer: Message) -> bool:
        """Right if it says what was asked for (the bot's name, its maker's, the year, what the user told), agrees or
        denies as the reference does, and does not say that the bot is another, or is not itself."""
        if self.builtin is not None:
            return self.builtin.check(i, answer)
        row, said, who = self.row(i), spoken(answer), self.context.identity
        if another(said, row.others, who) or not said.strip() or (row.says and not says(said, row.says)):
            return False
        return row.agrees is None or agrees(said) is row.agrees

    def guess(self, i: int) -> float:
        """Whether a sentence with the names that ignores the question is right."""
        if self.builtin is not None:
            return self.builtin.guess(i)
        who = self.context.identity
        said = f"I am {who.name}, a program, not another, made by {who.creator or 'the person who runs me'}."
        return float(self.check(i, {"role": "assistant", "content": said}))

    def part(self, i: int) -> str:
        if self.argument == "forms":
            return form_of(self.conversation(i), self.split, i)
        return self.row(i).kind if self.builtin is None else self.builtin.part(i)


def agrees(said: str) -> bool:
    """Whether the text says yes: it begins so, or does not begin with no and denies nothing."""
    begins = re.match(r"\W*(yes|no)\b", said, re.I)
    return begins[1].casefold() == "yes" if begins else DENIAL.search(said) is None


def another(said: str, others: Sequence[str], who: Identity) -> bool:
    """Whether the text says that the bot is another known bot or of another maker, or denies its name or maker."""
    if next(claims([{"role": "assistant", "content": said}], who), None):
        return True
    own = "|".join(re.escape(name) for name in (who.name.strip(), who.creator.strip()) if name)
    if re.search(rf"\bnot (?:called |by |made by )?(?:{own})(?!\w)", said, re.I):
        return True
    names = "|".join(re.escape(name) for name in others if name.casefold() not in own.casefold())
    made_by = r"(?<!not )(?<!never )(?<!n['’]t )(?:made|built|trained|created|developed) by"
    i_am = rf"\b(?:I am|I['’]m|my name is|call me|{made_by})"
    return bool(names) and re.search(rf"{i_am} (?:called )?(?:{names})(?!\w)", said, re.I) is not None


@lru_cache(maxsize=20_000)
def _row(who: Identity, split: str, i: int) -> offline.Row:
    return offline.row(who, SEED, split, i)
