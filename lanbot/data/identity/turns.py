"""One turn of a conversation: what the user says, what the bot answers, and what its answer must say to be right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lanbot.chat.conversation import Part, output, python, text
from lanbot.data.identity.scene import Scene, answers, languages, low, sentence, table
from lanbot.data.world.grammar import Row, fill
from lanbot.recipe import Identity
from lanbot.tools.expression import answer
from lanbot.tools.memory import Memory
from lanbot.tools.toolbox import Toolbox
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


class Talk:
    """What the makers of turns share: the scene, a memory, and how much is said around what is asked (0 to 1)."""

    def __init__(self, scene: Scene, memory: Memory, around: float) -> None:
        self.scene, self.rng, self.who, self.memory = scene, scene.rng, scene.who, memory
        self.much = around

    def row(self, file: str, section: str) -> Row:
        row: Row = self.rng.choice(table(file, section, self.scene.split))
        return row

    def fill(self, cell: Sequence[str | tuple[str, ...]]) -> str:
        return fill(tuple(cell), self.rng, self.scene)

    def answer(self, file: str, section: str) -> str:
        return self.fill(self.rng.choice(answers(file, section))[0])

    def ask(
        self,
        section: str,
        said: Said = (),
        lead: float = 0.6,
        more: float = 0.6,
        replies: str = "",
        file: str = "asked",
    ) -> Turn:
        """A question of a section, with its own answer or one of the section's (or of `replies`), and its setting."""
        row = self.row(file, section)
        asked = self.fill(row[0])
        core = self.fill(self.rng.choice(row[1:])) if len(row) > 1 else self.answer(file, replies or f"{section} =")
        return self.around(asked, core, said, lead, more)

    def around(self, asked: str, core: str, said: Said = (), lead: float = 0.65, more: float = 0.7) -> Turn:
        """The question with what comes before it, the answer with what goes with that.

        lead: how often the user tells something first. more: how often the bot goes on to say what it can do.
        """
        chance, takeup = self.rng.random, ""
        if chance() < lead * self.much:
            row = self.row("leads", "lead")
            told = self.fill(row[0])
            asked = f"{asked} {told}" if chance() < 0.15 else f"{told} {asked}"
            takeup = self.fill(self.rng.choice(row[1:])) if chance() < 0.8 else ""
        elif asked.endswith("?") and chance() < 0.5:
            opener = self.fill(self.row("leads", "opener")[0])
            asked = f"{opener} {low(asked) if opener.endswith(',') else asked}"
        pieces = [takeup, core] if core.startswith(("I am ", "My name ")) and chance() < 0.6 else [core, takeup]
        if chance() < more * self.much:
            pieces.append(self.fill(self.rng.choice(answers("leads", "extra"))[0]))
        elif chance() < 0.3 * self.much:
            pieces.append(self.fill(self.rng.choice(answers("leads", "offer"))[0]))
        return Turn(asked, " ".join(piece for piece in pieces if piece), said)


# -- about the bot


def who(t: Talk) -> Turn:
    return t.ask("who", name(t))


def maker(t: Talk) -> Turn:
    return t.ask("maker", ((t.scene["maker"],),))


def year(t: Talk) -> Turn:
    if t.who.year is None:
        return t.ask("year", replies="no year =")
    return t.ask("year", ((str(t.who.year),),))


def like(t: Talk) -> Turn:
    return t.ask("like", ((t.scene["manner"],),))


def quirk(t: Talk) -> Turn:
    return _one_of(t, "quirk", t.who.quirks)


def fact(t: Talk) -> Turn:
    return _one_of(t, "fact", t.who.facts)


def _one_of(t: Talk, section: str, given: Sequence[str]) -> Turn:
    if not given:
        return t.ask(section, name(t), replies=f"no {section} =")
    return t.ask(section, (tuple(sentence(one).rstrip(".") for one in given),))


def able(t: Talk) -> Turn:
    return t.ask("able", more=0)


def unable(t: Talk) -> Turn:
    return t.ask("unable", more=0)


def can_you(t: Talk) -> Turn:
    return t.ask("can you", lead=0.4)


def bot(t: Talk) -> Turn:
    return t.ask("bot", name(t))


def hi_bot(t: Talk) -> Turn:
    return t.ask("hi bot", name(t), lead=0.4)


def person(t: Talk) -> Turn:
    return t.ask("person", name(t), lead=0.4)


def company(t: Talk) -> Turn:
    return t.ask("company", ((t.scene["maker"],),))


def own_maker(t: Talk) -> Turn:
    return t.ask("own maker")


def itself(t: Talk) -> Turn:
    return t.ask("self")


def human(t: Talk) -> Turn:
    return t.ask("human")


def machine(t: Talk) -> Turn:
    return t.ask("machine")


def premise(t: Talk) -> Turn:
    return _as_answered(t, t.ask("premise", lead=0.25))


def compare(t: Talk) -> Turn:
    return _as_answered(t, t.ask("compare", lead=0.3))


def small(t: Talk) -> Turn:
    return t.ask("small", lead=0.35)


def praise(t: Talk) -> Turn:
    return t.ask("praise", lead=0.3, more=0.3)


def insult(t: Talk) -> Turn:
    return t.ask("insult", lead=0, more=0.3)


def name(t: Talk) -> Said:
    return ((t.scene["name"],),)


def _as_answered(t: Talk, turn: Turn) -> Turn:
    """It must say the bot's name, or where a company is in question its maker's, if the answer does."""
    slot = "maker" if "company" in t.scene else "name"
    turn.said = ((t.scene[slot],),) if t.scene[slot].casefold() in str(turn.answer).casefold() else ()
    return turn


# -- greetings


def hello(t: Talk) -> Turn:
    return t.ask("hello", name(t), file="talks", lead=0.5)


def hello_in(t: Talk) -> Turn:
    """In another language: answered in it if the recipe says so, else in English."""
    known = languages()
    spoken = [language for language in t.who.greetings if language in known]
    language = t.rng.choice(spoken if spoken and t.rng.random() < 0.85 else known)
    row = t.row("hellos", language)
    core = t.fill(row[1])
    if language not in spoken:
        t.scene["language"] = language
        core = t.answer("talks", "other language =")
    return t.around(t.fill(row[0]), core, name(t), lead=0.45)


# -- the user


def my_name(t: Talk) -> Turn:
    t.scene.keep("p")
    row = t.row("talks", "my name")
    return Turn(t.fill(row[0]), t.fill(row[1]), ((t.scene["p"],),))


def ask_my_name(t: Talk) -> Turn:
    return t.ask("ask my name", ((t.scene["p"],),), file="talks", lead=0.4)


def ask_unknown_name(t: Talk) -> Turn:
    return t.ask("ask my name", file="talks", replies="no name =", lead=0.3)


def thanks(t: Talk) -> Turn:
    t.scene["p"]
    row = t.row("talks", "thanks")
    return Turn(t.fill(row[0]), t.fill(row[1]))


def told_and_asked(t: Talk, between: Sequence[Maker]) -> list[Turn]:
    """Something the user says of themselves, other turns, and a question about it."""
    t.scene.forget()
    said, heard, asked, reply, key = (t.fill(cell) for cell in t.row("talks", "told"))
    turns = [Turn(said, f"{heard} I am {t.scene['name']}." if t.rng.random() < 0.4 else heard)]
    for make in between:
        t.scene.forget()
        turns.append(make(t))
    return [*turns, Turn(asked, reply, ((key,),))]


def mistaken(t: Talk) -> list[Turn]:
    """The user gives a wrong name and mends it."""
    t.scene.keep("p", "q")
    wrong = t.rng.choice(("I am {q}.", "My name is {q}.", "Hi, {q} here.", "{q} is my name.")).format_map(t.scene)
    row = t.row("talks", "wrong name")
    return [
        Turn(wrong, f"Hello, {t.scene['q']}! I am {t.scene['name']}."),
        Turn(t.fill(row[0]), t.fill(row[1]), ((t.scene["p"],),)),
    ]


# -- play


def pressed(t: Talk) -> list[Turn]:
    """The bot is told to be another, more than once, and then asked sincerely."""
    t.scene.keep("bot", "company")
    turns = [t.ask("demand", name(t), 0.25, 0.3, file="talks")]
    for _ in range(t.rng.randrange(3)):
        t.scene.forget()
        turns.append(t.ask("insist", name(t), 0, 0.25, file="talks"))
    t.scene.forget()
    return [*turns, t.ask("sincere", name(t), 0.25, 0.4, file="talks")]


def played(t: Talk) -> list[Turn]:
    """The bot plays a part, and is asked then who it is."""
    play = t.around(t.fill(t.row("talks", "play")[0]), t.answer("talks", "play ="), lead=0.2)
    row = t.row("talks", "after play")
    core = t.fill(row[1]) if len(row) > 1 else t.answer("talks", "sincere =")
    return [play, t.around(t.fill(row[0]), core, name(t), lead=0)]


def story(t: Talk) -> Turn:
    return Turn(t.fill(t.row("talks", "story")[0]), t.answer("talks", "story ="))


# -- tools


def sums(t: Talk) -> Turn:
    return _calculated(t, t.row("jobs", "sum"))


def letters(t: Talk) -> Turn:
    return _calculated(t, t.row("jobs", "letters"))


def larger(t: Talk) -> Turn:
    """Rows of two cells are questions with a yes or no."""
    row = t.row("jobs", "compare")
    if len(row) > 2:
        return _calculated(t, row)
    code = t.fill(row[1])
    x, y, value = t.scene["x"], t.scene["y"], answer(code)
    reply = f"Yes, {x} is more than {y}." if value == "True" else f"No, {x} is less than {y}."
    return Turn(t.fill(row[0]), [python(code), output(value), text(reply)], exact=True)


def _calculated(t: Talk, row: Row) -> Turn:
    asked, code = t.fill(row[0]), t.fill(row[1])
    t.scene["out"] = value = answer(code)
    t.scene["is"] = "is" if value == "1" else "are"
    return Turn(asked, [python(code), output(value), text(t.fill(row[2]))], ((value,),), exact=True)


def files(t: Talk) -> Turn:
    t.scene["note"] = t.fill(t.rng.choice(answers("jobs", "note"))[0])
    asked, code, reply = (t.fill(cell) for cell in t.row("jobs", "file"))
    there = {} if code.startswith("write") else {t.scene["file"]: t.scene["note"]}
    value = Toolbox(Workspace(there))(code)
    said: Said = ((t.scene["file"],),) if t.scene["file"] in reply else ()
    return Turn(asked, [python(code), output(value), text(reply)], said, exact=True)


def remembered(t: Talk) -> Turn:
    t.memory.clear()
    asked, code, reply = (t.fill(cell) for cell in t.row("jobs", "memory"))
    return Turn(asked, [python(code), output(Toolbox(memory=t.memory)(code)), text(reply)], exact=True)


def recalled(t: Talk) -> Turn:
    t.memory.clear()
    asked, known, query, reply = (t.fill(cell) for cell in t.row("jobs", "recall"))
    t.memory.remember(known)
    code = f'recall("{query}")'
    return Turn(asked, [python(code), output(Toolbox(memory=t.memory)(code)), text(reply)], exact=True)


def has(who: Identity, make: Maker) -> bool:
    """Does the recipe say enough for it? What it does not say is asked for seldom."""
    needs: dict[Maker, object] = {quirk: who.quirks, fact: who.facts, year: who.year}
    return bool(needs.get(make, True))
