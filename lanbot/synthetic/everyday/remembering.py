"""What is remembered across conversations: kept, asked for, looked up and forgotten."""

from lanbot.synthetic.everyday.before import fact
from lanbot.synthetic.everyday.desk import Desk, EverydayScene
from lanbot.synthetic.everyday.talk import UNKNOWN
from lanbot.synthetic.world.grammar import fill, sections


def memory(desk: Desk) -> None:
    kind = desk.rng.random()
    if kind < 0.35:
        _remember(desk)
    elif kind < 0.8:
        _recall(desk)
    elif kind < 0.9:
        _about(desk)
    else:
        _forget(desk)


def _remember(desk: Desk) -> None:
    said = fact(desk)[0]
    desk.scene["fact"] = said
    desk.kept.update(said.split())
    core = desk.line("before", "remember")
    if said not in core:  # a number or a word alone
        said = f"the {desk.scene['code_kind']} {desk.scene['code']}"
    desk.ask(core, ended=False)
    desk.call_tool("remember", said)
    desk.say("I will remember that.")


def _known(desk: Desk, said: str, key: str) -> None:
    """Puts a fact among others into the memory."""
    others: list[str] = []
    for _ in range(desk.rng.choice((0, 0, 1, 2))):
        scene = EverydayScene(desk.rng, desk.split, desk.scene.low)
        other = " ".join(fill(desk.rng.choice(sections("everyday/before")["facts"])[0], desk.rng, scene).split())
        if not set(key.casefold().split()) & set(other.casefold().split()):
            others.append(other)
    others.insert(desk.rng.randint(0, len(others)), said)
    for one in others:
        desk.memory.remember(one)


def _recall(desk: Desk) -> None:
    said, question, key, _ = fact(desk)
    known = desk.rng.random() < 0.85
    if known:
        _known(desk, said, key)
    desk.scene["question"] = question
    desk.ask(desk.line("before", "recall"))
    found = desk.call_tool("recall", key)
    desk.say(f"You told me: {_best(found)}." if found != "nothing found" else UNKNOWN)


def _best(found: str) -> str:
    return found.split("\n")[0].partition(": ")[2]


def _about(desk: Desk) -> None:
    said, _, key, _ = fact(desk)
    desk.scene["topic"] = ("my " if f"my {key}" in said else "the " if f"the {key}" in said else "") + key
    if desk.rng.random() < 0.85:
        _known(desk, said, key)
    desk.ask(desk.line("before", "about"))
    found = desk.call_tool("recall", key)
    desk.say(f"You told me: {_best(found)}." if found != "nothing found" else UNKNOWN)


def _forget(desk: Desk) -> None:
    said, _, key, _ = fact(desk)
    desk.scene["topic"] = ("my " if f"my {key}" in said else "the " if f"the {key}" in said else "") + key
    _known(desk, said, key)
    desk.ask(desk.line("before", "forget"))
    found = desk.call_tool("recall", key)
    if found == "nothing found":
        desk.say(UNKNOWN)
        return
    desk.call(f"forget({found.partition(':')[0]})")
    desk.say("I forgot it.")
