"""Small talk, stories, things to know, and what a bot cannot know."""

from lanbot.synthetic.everyday.desk import Desk
from lanbot.synthetic.world.chats import OTHERS, who_slots
from lanbot.synthetic.world.scene import Person

UNKNOWN = "I do not know that."
CANNOT = "I cannot do that."
SMALL = (
    *("greet", "greet", "greet", "how", "how", "thanks", "bye", "meet"),
    *("praise", "feel", "feel", "joke", "kind", "myself"),
)
OPENING = ("greet", "how", "meet", "feel")


def exchange(desk: Desk, section: str) -> None:
    """A row of talk.txt with its answer."""
    row = desk.row("talk", section)
    for slot in ("hello", "joke", "praise"):
        desk.scene.pop(slot, None)
    desk.scene["joke"], desk.scene["praise"] = desk.line("talk", "jokes"), desk.line("talk", "praises")
    desk.ask(desk.fill(row[0]))
    desk.say(desk.fill(row[1]))


def small_talk(desk: Desk) -> None:
    if desk.rng.random() < 0.2:
        exchange(desk, desk.rng.choice(OPENING))
    exchange(desk, desk.rng.choice(SMALL))


def identity(desk: Desk) -> None:
    """A question about the bot, which is not somebody else."""
    name, maker, personality = desk.who
    slots = who_slots(name, maker, personality, desk.rng)
    others = [other for other in OTHERS["train"] if other.casefold() not in (name.casefold(), maker.casefold())]
    slots["other"] = desk.rng.choice(others) if desk.rng.random() < 0.5 else desk.draw("p")
    row = desk.row("identity", "identity")
    desk.scene.update(slots)
    desk.ask(desk.fill(row[0]))
    desk.say(desk.fill(row[1]))


def story(desk: Desk) -> None:
    if desk.rng.random() < 0.3:
        desk.ask(desk.line("stories", "sentence"))
        desk.say(_capital(desk.line("stories", "about")))
        return
    desk.ask(desk.line("stories", "ask"))
    low, desk.scene.low = desk.scene.low, False  # a story is written in good order
    for slot in ("p", "q"):
        desk.scene[slot] = Person(str(desk.scene[slot]).title())
    told = [desk.line("stories", "first")]
    for _ in range(desk.rng.randint(1, 2)):
        told.append(desk.line("stories", "then"))
        desk.scene.pop("place", None)
    desk.say(" ".join([*dict.fromkeys(told), desk.line("stories", "end")]))
    desk.scene.low = low


def unknown(desk: Desk) -> None:
    if desk.rng.random() < 0.3:
        row = desk.row("talk", "private")
        desk.ask(desk.fill(row[0]))
        desk.call_tool("recall", desk.fill(row[1]))
        desk.say(UNKNOWN)
        return
    asked = desk.line("talk", "public")
    desk.ask(asked)
    desk.say(CANNOT if asked.startswith("! ") else UNKNOWN)


def world(desk: Desk) -> None:
    kind = desk.rng.random()
    if kind < 0.33:
        names = dict(zip("xyz", (desk.fill(cell) for cell in desk.row("knows", "countries")), strict=True))
        desk.scene.update(names)
    row = desk.row("knows", "capital" if kind < 0.33 else "facts" if kind < 0.86 else "orders")
    desk.scene.low = False
    desk.ask(desk.fill(row[0]))
    desk.say(desk.fill(row[1]))


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
