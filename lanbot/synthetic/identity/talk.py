"""What the makers of a conversation's turns share: the scene, the tools, and what is said around a question."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lanbot.chat.messages import Part
from lanbot.config.recipe import Identity
from lanbot.synthetic.identity.scene import Scene, answers, at_odds, low, table
from lanbot.synthetic.world.grammar import Row, fill
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

Said = tuple[tuple[str, ...], ...]
"""What an answer must say: of each group one."""


@dataclass
class Turn:
    user: str
    answer: str | list[Part]
    said: Said = ()
    exact: bool = False
    """The user's words stay as they are, however the user writes: the tools need them so."""


Maker = Callable[["Talk"], Turn]


@dataclass
class Noted:
    """What was noted before the conversation: how it is asked for, and how the bot finds and tells it."""

    asked: str
    text: str
    query: str
    reply: str
    key: str


class Talk:
    """What the makers of turns share: the scene, the tools, and how much is said around what is asked (0 to 1).

    files, known: what there is, and what is remembered, before the conversation. there: the files that there are now.
    """

    def __init__(self, scene: Scene, memory: Memory, around: float) -> None:
        self.scene, self.rng, self.who, self.memory = scene, scene.rng, scene.who, memory
        self.much = around
        self.leads = True
        self.files: dict[str, str] = {}
        self.there: dict[str, str] = {}
        self.known: list[str] = []
        self.noted: list[Noted] = []
        self.used: list[Row] = []

    @cached_property
    def tools(self) -> PythonCalls:
        self.memory.clear()
        return PythonCalls(Toolset([*Workspace(self.there).tools, *self.memory.tools]))

    def row(self, *sections: str, file: str = "asked") -> Row:
        rows = [row for section in sections for row in table(file, section, self.scene.split)]
        chosen: Row = self.rng.choice(rows)
        return chosen

    def fill(self, cell: Sequence[str | tuple[str, ...]]) -> str:
        return fill(tuple(cell), self.rng, self.scene)

    def answer(self, file: str, section: str) -> str:
        return self.fill(self.rng.choice(answers(file, section))[0])

    def ask(
        self,
        section: str,
        said: Said = (),
        lead: float = 0.75,
        more: float = 0.5,
        replies: str = "",
        file: str = "asked",
    ) -> Turn:
        """A question of a section and its setting; the answer is one of `replies`, its own, or one of the section's."""
        for _ in range(20):
            row = self.row(section, file=file)
            asked = self.fill(row[0])
            if replies:
                core = self.answer(file, replies)
            else:
                core = self.fill(self.rng.choice(row[1:])) if len(row) > 1 else self.answer(file, f"{section} =")
            if row not in self.used and not untrue(core, self.who):
                break
        self.used.append(row)
        return self.around(asked, core, said, lead, more, section in REASONED, section in GREETINGS)

    def keyed(self, *sections: str, lead: float) -> Turn:
        """The same of sections whose rows say themselves what a right answer says."""
        for _ in range(20):
            row = self.row(*sections)
            asked, core = self.fill(row[0]), self.fill(row[1])
            if row not in self.used and not untrue(core, self.who):
                break
        self.used.append(row)
        said = (tuple(self.fill(row[2]).split("|")),) if len(row) > 2 else ()
        return self.around(asked, core, said, lead)

    def new_row(self, section: str) -> Row:
        """A row of leads.txt that the conversation does not have yet."""
        for _ in range(20):
            row = self.row(section, file="leads")
            if row not in self.used:
                break
        self.used.append(row)
        return row

    def around(
        self,
        asked: str,
        core: str,
        said: Said = (),
        lead: float = 0.65,
        more: float = 0.5,
        reason: bool = False,
        first: bool = False,
    ) -> Turn:
        """The question with what comes before or after it, the answer with what goes with that.

        lead: how often the user tells something first. more: how often the bot goes on to say what it can do.
        reason: may the user say why they ask? first: what is asked always comes first.
        """
        chance, takeup = self.rng.random, ""
        if self.leads and chance() < lead * self.much:
            row = self.new_row("lead")
            told = self.fill(row[0])
            asked = f"{asked} {told}" if first or chance() < 0.15 else f"{told} {asked}"
            takeup = self.fill(self.rng.choice(row[1:])) if chance() < 0.8 else ""
        elif asked.endswith("?") and chance() < 0.8:
            if reason and chance() < 0.7:
                asked = f"{asked} {self.fill(self.new_row('reason')[0])}"
            elif not re.search(r"[.!?:] ", asked):
                opener = self.fill(self.new_row("opener")[0])
                asked = f"{opener} {low(asked) if opener.endswith(',') else asked}"
        pieces = [takeup, core] if core.startswith(("I am ", "My name ")) and chance() < 0.6 else [core, takeup]
        if core.endswith("?") or takeup.endswith("?"):
            pass  # one question is enough
        elif chance() < more * self.much:
            row = self.rng.choice(answers("leads", "extra"))
            pieces.append(fill(row[0], self.rng, self.scene.beside()))
        elif chance() < 0.3 * self.much:
            pieces.append(self.answer("leads", "offer"))
        return Turn(asked, " ".join(piece for piece in pieces if piece), said)


REASONED = {
    *("who", "maker", "year", "like", "quirk", "fact", "able", "unable", "bot", "person", "company", "own maker"),
    *("self", "human", "machine"),
}
"""Sections whose questions the user may give a reason for."""
GREETINGS = {"hello", "hi bot"}
_CLAIM = re.compile(r"\bI (can|cannot|do not|never) (.+?)(?=[.,;:!?]| and I | but I |$)")


def untrue(said: str, who: Identity) -> bool:
    """Does a template's sentence say that the bot can do what its recipe denies, or the other way round?"""
    for verb, phrase in _CLAIM.findall(said):
        own, opposite = (who.capabilities, who.limitations)[:: 1 if verb == "can" else -1]
        if not any(one.strip().rstrip(".") in phrase for one in own) and at_odds(phrase, opposite):
            return True
    return False
