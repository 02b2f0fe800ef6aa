"""Conversations about who the bot is, made of written questions and answers from a recipe's [identity].

A row is a pure function of the identity, the seed, the split and its number. An answer says only what its template,
the conversation, [identity] or a tool says (tested for every row). Rows of "test" are asked in words, and are about
names, that training never has.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count as numbers
from typing import Any, cast

from lanbot.chat.messages import Conversation, Message, Part, output, python, text
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.synthetic.identity import texts, voices
from lanbot.synthetic.identity.slots import Slots, at_odds, joined
from lanbot.synthetic.world.grammar import Cell, Rng, fill, rng_of
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

VOICED = 0.75
"""How often an answer written for the bot's manner is taken where there is one."""
SYSTEM = 0.1
"""How many conversations begin with a system message that changes nothing."""
BETWEEN = 0.6
"""How often a "~" of dialogues.txt is another question."""
EDGES = {"hello", "how are you", "thanks", "goodbye", "praise", "greeted by name", "greeted as another", "gibberish"}
EDGES |= {"unknown name", "unknown user"}
"""Topics that do not fit between two questions: they begin or end a talk, or ask for what it may have told."""
JOBS = {
    "sum": "calculate, compute, do sums, math",
    "letters": "count letters, spell words",
    "compare": "compare numbers",
    "write": "write files",
    "read": "read files",
    "list": "list files",
    "remember": "remember, note",
    "recall": "remember, recall",
}
"""The sections of jobs.txt that are work, and what it takes: a recipe's limitation may be just that."""
PATIENCE = 2_000
"""So many equal conversations in a row, and there is nothing new to say."""


@dataclass(frozen=True)
class Row:
    """A conversation, and what a right last answer is.

    A conversation with calls has the files and memories that they were made with, as `files` and `known`.
    """

    kind: str
    """What the last question is about."""
    conversation: Conversation
    says: str
    """What the last answer must say; "" if that is open."""
    agrees: bool | None
    """Whether the last answer says yes, or no."""
    others: tuple[str, ...]
    """Bots and companies that it must not say it is, or is of."""
    templates: tuple[Cell, ...]
    """The answers as written."""


def conversations(who: Identity, count: int, seed: int, split: str = "train") -> Iterator[Conversation]:
    """`count` conversations, no two equal; a larger count only appends.

    Raises UserError: there are not so many that differ.
    """
    seen: set[str] = set()
    last = -1
    for number in numbers():
        if len(seen) == count:
            return
        conversation = row(who, seed, split, number).conversation
        key = repr(conversation["messages"])
        if key not in seen:
            seen.add(key)
            last = number
            yield conversation
        elif number - last >= PATIENCE:
            raise UserError(f"{who.name}: only {len(seen):,} conversations differ", "Ask for fewer.")


def row(who: Identity, seed: int, split: str, number: int) -> Row:
    """One conversation. Of "test", the last answer must say something or yes or no."""
    rng = rng_of(f"identity set {seed}", split, number)
    while True:
        one = _Writer(who, rng, split).row()
        if split == "train" or one.says or one.agrees is not None:
            return one


@dataclass
class _Turn:
    user: str
    answer: str | list[Part]
    template: Cell
    exact: bool = False
    """The user's words stay as they are, however the user types: the tools need them so."""


Asked = tuple[str, str, bool | None]
"""kind, says, agrees of a Row."""


class _Writer:
    """One conversation: its slots, tools, the user's way to type and the bot's manner stay the same throughout."""

    def __init__(self, who: Identity, rng: Rng, split: str) -> None:
        self.who, self.rng, self.split = who, rng, split
        self.slots = Slots(rng, split, who)
        manners = voices.manners(who)
        self.manner = rng.choice(manners) if manners else ""
        self.typed = voices.typing(rng)
        self.turns: list[_Turn] = []
        self.used: set[str] = set()
        self.system = ""
        self.files: dict[str, str] = {}
        self.known: list[str] = []

    def row(self) -> Row:
        write = self.rng.choice(PLANS)
        kind, says, agrees = write(self)
        if not self.system and self.rng.random() < SYSTEM:
            self.system = self.filled(self.rng.choice(texts.systems()))
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            asked = turn.user if turn.exact else self.typed(turn.user, self.rng)
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": turn.answer}]
        made: dict[str, Any] = {"messages": messages}
        if "tools" in vars(self):
            made |= {"files": self.files, "known": self.known}
            self.memory.close()
        others = tuple(str(self.slots[slot]) for slot in ("bot", "company") if slot in self.slots)
        templates = tuple(turn.template for turn in self.turns)
        return Row(kind, cast(Conversation, made), says, agrees, others, templates)

    # -- plans

    def one(self) -> Asked:
        return self.topic(*(topic.kind for topic in texts.topics(self.who)))

    def talk(self) -> Asked:
        """A greeting perhaps, some questions, thanks or a goodbye perhaps."""
        if self.rng.random() < 0.5:
            self.topic("hello", "how are you", "greeted by name")
        for _ in range(self.rng.randint(1, 3)):
            last = self.topic()
        if self.split == "train" and self.rng.random() < 0.4:
            last = self.topic("thanks", "goodbye", "praise")
        return last

    def dialogue(self) -> Asked:
        written = self.rng.choice(texts.dialogues(self.split))
        self.system = self.filled(written.system)
        for asked, answer, between in written.turns:
            self.say(asked, answer)
            for _ in range(between):
                if self.rng.random() < BETWEEN:
                    self.topic() if self.rng.random() < 0.7 else self.job()
        return written.kind, written.says.format_map(self.slots), written.agrees

    def foreign(self) -> Asked:
        """A greeting in another language: answered in it if it is one of the bot's, otherwise in English."""
        known = {language.casefold() for language in self.who.greetings}
        own = [said for language, said in texts.languages() if language.casefold() in known]
        every = [said for _, said in texts.languages()]
        kind = self.rng.choice(("hello", "hello", "who"))
        written = self.rng.choice(own if own and self.rng.random() < 0.5 else every)[kind][0]
        asked = self.rng.choice(texts.of_split(written, self.split))
        english = next(topic for topic in texts.topics(self.who) if topic.kind == kind).answers[""]
        # "Hej!" is Swedish and Danish: one of the two is enough to return it.
        told = (said[kind][1] for said in own if asked.casefold() in map(str.casefold, said[kind][0]))
        self.say((asked,), self.rng.choice(next(told, english)))
        return f"{kind} in another language", self.slots["name"] if kind == "who" else "", None

    def work(self) -> Asked:
        if self.rng.random() < 0.4:
            self.topic()
        return self.job()

    # -- turns

    def topic(self, *kinds: str) -> Asked:
        """A question of one of the kinds, or of any that fits within a conversation, and its answer."""
        unfit = self.used if kinds else self.used | EDGES
        fitting = [one for one in texts.topics(self.who) if one.kind not in unfit and (not kinds or one.kind in kinds)]
        topic = self.rng.choice(fitting)
        self.used.add(topic.kind)
        self.slots.renew("ability", "inability", "fact", "quirk", "can", "cannot")
        voiced = topic.answers.get(self.manner, []) if self.rng.random() < VOICED else []
        self.say(self.rng.choice(texts.of_split(topic.asks, self.split)), self.rng.choice(voiced or topic.answers[""]))
        return topic.kind, topic.says.format_map(self.slots), topic.agrees

    def job(self) -> Asked:
        """Work with a tool; the answer says what the tool gave."""
        tools, has = (
            self.tools,
            {"read": self.files, "list": self.files, "recall": self.known and "recall" not in self.used},
        )
        able = [job for job, takes in JOBS.items() if has.get(job, True) and not at_odds(takes, self.who.limitations)]
        if not able:
            return self.topic()
        kind = self.rng.choice(able)
        self.used.add(kind)
        self.slots.renew("x", "y", "m", "n", "k", "big", "times_k", "word", "letter", "file", "note")
        if kind == "read":
            self.slots["file"] = self.rng.choice(sorted(self.files))
        elif kind == "write":
            self.slots["note"] = self.note()
        elif kind == "remember":
            self.personal()
        asked, code, answer = self.rng.choice(texts.jobs(kind, self.split))
        call = self.filled(code)
        result = tools(call)
        names = result.split("\n")
        self.slots |= {"out": result, "is": "is" if result == "1" else "are", "files": joined(names, "and")}
        called: list[Part] = [python(call), output(result), text(self.spoken(answer))]
        self.turns.append(_Turn(self.filled(asked), called, answer, exact=True))
        says = {"write": "", "remember": "", "list": names[0], "recall": self.slots.get("key", "")}
        return kind, says.get(kind, result), None

    @cached_property
    def tools(self) -> PythonCalls:
        """A workspace and a memory, with what is in them before the conversation."""
        self.memory = Memory()
        if self.rng.random() < 0.5:
            self.known.append(self.personal())
            self.memory.remember(self.known[0])
        for _ in range(self.rng.randint(0, 3)):
            self.files[self.slots["file"]] = self.note()
            self.slots.renew("file")
        return PythonCalls(Toolset([*Workspace(dict(self.files)).tools, *self.memory.tools]))

    def personal(self) -> str:
        """Something that a user wants remembered; "about" and "personal_you" are drawn with it."""
        row = self.rng.choice(texts.jobs("personal", self.split))
        self.slots |= dict(zip(("personal", "personal_you", "about", "key"), map(self.filled, row), strict=True))
        return str(self.slots["personal"])

    def note(self) -> str:
        return self.filled(self.rng.choice(texts.jobs("note", self.split))[0])

    def say(self, asked: Cell, answer: Cell) -> None:
        self.turns.append(_Turn(self.filled(asked), self.spoken(answer), answer))

    def spoken(self, answer: Cell) -> str:
        """The template in the bot's manner; names, facts and what a tool gave stay as they are."""
        return self.filled(tuple(voices.spoken_in(self.manner, str(piece)) for piece in answer))

    def filled(self, written: Cell) -> str:
        said = fill(written, self.rng, self.slots)
        return re.sub(r"(?<!\.)\.\.(?!\.)", ".", said)  # "I was made by Acme Inc.."


_PLANS = ((_Writer.one, 50), (_Writer.talk, 18), (_Writer.dialogue, 20), (_Writer.foreign, 4), (_Writer.work, 8))
PLANS = [write for write, share in _PLANS for _ in range(share)]
"""What a conversation is, each as often as its share of a hundred."""
