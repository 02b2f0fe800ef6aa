"""One everyday conversation in the making: what is said, and calls of the agent's tools, really executed."""

import re
from functools import cache
from typing import Any

from lanbot.chat.messages import Conversation, Message, Part, output, python, text
from lanbot.synthetic.everyday.typed import typed, wish
from lanbot.synthetic.world.grammar import Cell, Rng, Row, fill, sections
from lanbot.synthetic.world.scene import FOODS, GOODS, HELLOS, JOBS, PLACES, Person, Scene, an, held_out
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

_memory = cache(Memory)
"""Shared by all conversations and cleared for each: creating one takes longer than a conversation."""


def _words(block: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in block.split())


RELATIVES = _words("""sister brother mother father friend neighbor teacher doctor boss aunt uncle cousin wife husband
    son daughter colleague grandmother grandfather""")
OWN = _words("""phone_number address password pin room_number locker_code passport_number license_plate email shoe_size
    seat_number account_number ticket_number house_number flight_number bike_code""")
SECRETS = _words("""wifi_password door_code safe_code alarm_code garage_code gate_code network_name bank_pin
    wifi_code lock_number garden_code office_password booking_number""")
EVENTS = _words("""meeting party exam concert dinner appointment lesson interview wedding trip match game class lunch
    flight visit birthday_party doctor's_appointment""")
PET_KINDS = _words("cat dog bird rabbit fish horse hamster parrot turtle goat")
GROCERIES = _words("""milk bread eggs butter apples rice sugar tea coffee cheese salt onions bananas soap paper water
    flour tomatoes potatoes juice honey oil fish nuts cake soup""")
LIKED = _words("""tea coffee soup pizza music chess books cats dogs flowers running swimming football singing painting
    cheese chocolate trains rain snow apples cooking tennis films dancing hiking""")
USUAL = _words("""out output in input test tests result results answer answers data info file text hello note todo sum
    sums number numbers list my new old a b c x y z temp log readme draft final main home today day work
    letter letters costs budget bills mail people names name address code key ideas book books food
    music film car house trip job tax bank shop cash count total value copy backup one two three first
    last page line word story poem song art math""")
COUNTRIES = _words(
    "France Italy Spain Germany England Japan China Russia Poland Egypt Canada Brazil America Peru Kenya"
)
CITIES = _words("Paris Rome London Berlin Madrid Tokyo Vienna Oslo Cairo Boston Chicago Sydney Lima Moscow Dublin")
CODES = _words("code number word pin password")
_COMMON = (*PET_KINDS, *GROCERIES, *FOODS, *GOODS, *PLACES, *USUAL[-41:])
COMMON = tuple(dict.fromkeys(word for word in _COMMON if not held_out(word)))
"""Words that many know. The tokenizer has most of them whole: their letters must have been seen."""
ATTRIBUTES = _words("name age city address nickname job password code number team street hobby")


class EverydayScene(Scene):
    """More slots than the world's; `low`: names in lower case, as their owners type them."""

    def __init__(self, rng: Rng, split: str, low: bool = False, **given: Any) -> None:
        super().__init__(rng, split, **given)
        self.low = low

    def __missing__(self, slot: str) -> Any:
        value = _DRAW[slot](self) if slot in _DRAW else super().__missing__(slot)
        if self.low and isinstance(value, str) and slot not in ("hello", "Hot", "The_colored", "An_animal"):
            value = Person.of(value.lower(), value.she == "she") if isinstance(value, Person) else value.lower()
        self[slot] = value
        return value


def _code(s: Scene) -> str:
    kind = s.rng.random()
    if kind < 0.6:
        return str(s.number(1_000, 99_999) if kind < 0.4 else s.number(10, 999))
    return s.of("words") + (str(s.number(10, 999)) if kind < 0.85 else "")


def _file(s: Scene) -> str:
    """A file's name, often a short usual one."""
    usual, ending = s.rng.random() < 0.45, s.rng.choice((".txt", ".txt", ".txt", ".txt", ".md", ".csv"))
    stem = s.rng.choice(USUAL) if usual else s.stem()
    return stem + (str(s.rng.randint(1, 9)) if s.rng.random() < 0.08 else "") + ending


def _word(s: Scene) -> str:
    kind = s.rng.random()
    return s.of("words") if kind < 0.45 else s.rng.choice(COMMON) if kind < 0.85 else s.made_up()


def _one_of(values: tuple[str, ...]) -> Any:
    return lambda s: s.rng.choice(values)


_DRAW: dict[str, Any] = {
    "hello": _one_of(HELLOS[:3]),
    "hello_end": _one_of((",", "!", "", ".")),
    "relative": _one_of(RELATIVES),
    "own": _one_of(OWN),
    "secret": _one_of(SECRETS),
    "event": _one_of(EVENTS),
    "pet_kind": _one_of(PET_KINDS),
    "liked": _one_of(LIKED),
    "country": _one_of(COUNTRIES),
    "city": _one_of(CITIES),
    "code_kind": _one_of(CODES),
    "attribute": _one_of(ATTRIBUTES),
    "job": lambda s: s.rng.choice([job for job, _ in JOBS if job[0] not in "aeiou"]),
    "code": _code,
    "n_old": lambda s: s.number(5, 95),
    "ride": _one_of(("car", "bike", "coat", "house", "bag", "boat", "room", "jacket", "phone")),
    "made": Scene.made_up,
    "word": _word,
    "x": lambda s: an(s.of("things") if s.rng.random() < 0.5 else s.rng.choice(PET_KINDS)),
    "animal_music": _one_of(("a song", "the piano", "a cat", "a house")),
    "p2": Scene.stranger,
    "thing2": Scene.thing,
    "less": lambda s: s.number(1, max(1, int(s["r"]) - 1)) if str(s["r"]).isdecimal() else 1,
    **{f"grocery{n}": _one_of(GROCERIES) for n in ("", "2", "3")},
    "where": _one_of(PLACES),
    "file": _file,
    "other": _file,
}


class Desk:
    """Files, memory and a conversation over them.

    who: the bot's name, its maker and its personality. kept: words that the user types as they are.
    """

    def __init__(self, rng: Rng, split: str, who: tuple[str, str, str] = ("LanBot", "", "")) -> None:
        self.rng, self.split, self.who = rng, split, who
        self.scene = EverydayScene(rng, split, low=rng.random() < 0.4)
        self.files: dict[str, str] = {}
        self.memory = _memory()
        self.memory.clear()
        self.tools = PythonCalls(Toolset([*Workspace(self.files).tools, *self.memory.tools]))
        self.messages: list[Message] = []
        self.kept: set[str] = set()

    @property
    def conversation(self) -> Conversation:
        return {"messages": self.messages}

    def row(self, file: str, section: str) -> Row:
        return self.rng.choice(sections(f"everyday/{file}")[section])

    def fill(self, cell: Cell) -> str:
        return re.sub(r" (?=[,.?!](?: |$))", "", " ".join(fill(cell, self.rng, self.scene).split()))

    def line(self, file: str, section: str) -> str:
        """A row with one cell, filled."""
        return self.fill(self.row(file, section)[0])

    def draw(self, slot: str) -> str:
        """A new value for a slot."""
        self.scene.pop(slot, None)
        return str(self.scene[slot])

    def ask(self, core: str, ended: bool = True) -> None:
        """The user's next request, in the words of a row."""
        self.user(wish(core, self.rng, ended))

    def user(self, said: str) -> None:
        self.messages.append({"role": "user", "content": typed(said, self.rng, self.kept)})

    def parts(self) -> list[Part]:
        """Those of the answer to the last request."""
        if self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": []})
        content = self.messages[-1]["content"]
        assert isinstance(content, list)
        return content

    def call(self, code: str) -> str:
        got = self.tools(code)
        self.parts().extend([python(code), output(got)])
        return got

    def call_tool(self, name: str, *arguments: str) -> str:
        """Calls a tool with string arguments."""
        escaped = (words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for words in arguments)
        return self.call(f"{name}(" + ", ".join(f'"{words}"' for words in escaped) + ")")

    def say(self, words: str) -> None:
        self.parts().append(text(words))
