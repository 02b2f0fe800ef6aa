"""Conversations that ask for something said before in them, or go on from it."""

from lanbot.synthetic.everyday import letters, talk
from lanbot.synthetic.everyday.desk import Desk
from lanbot.synthetic.world.chats import result

NOTED = ("I see.", "Good to know.", "Thank you for telling me.")


def said_before(desk: Desk) -> None:
    kind = desk.rng.random()
    if kind < 0.3:
        _name(desk)
    elif kind < 0.68:
        _fact(desk)
    elif kind < 0.76:
        _compare(desk)
    elif kind < 0.92:
        _further(desk)
    else:
        _that_word(desk)


def _name(desk: Desk) -> None:
    p = desk.draw("p")
    desk.kept.add(p)
    desk.user(desk.line("before", "name") + ".")
    desk.say(f"{desk.scene['hello']}, {p}! How can I help you?")
    _in_between(desk)
    desk.ask(desk.line("before", "who"))
    desk.say(desk.rng.choice((f"Your name is {p}.", f"You are {p}.")))


def fact(desk: Desk) -> tuple[str, str, str, str]:
    """What the user may say: statement, question, a word to look for, answer."""
    row = desk.row("before", "facts")
    for slot in ("q", "thing", "town"):
        desk.kept.add(str(desk.scene[slot]))
    said, questions, keys, answer = (desk.fill(cell) for cell in row)
    words = [key for key in keys.split(" ") if key in said.split()] if " " in keys and keys not in said else [keys]
    return said, desk.rng.choice(questions.split("|")), (words or [keys])[0], answer


def _fact(desk: Desk) -> None:
    said, question, _, answer = fact(desk)
    desk.user(desk.rng.choice(("", "", "", "hi, ", "you know, ", "guess what, ", "today ")[:6]) + said + ".")
    desk.say(desk.rng.choice(NOTED))
    _in_between(desk)
    desk.ask(f"? {question}")
    desk.say(answer[0].upper() + answer[1:])


def _compare(desk: Desk) -> None:
    row = desk.row("before", "compare")
    desk.kept |= {str(desk.scene["p"]), str(desk.scene["q"])}
    said, question, answer = (desk.fill(cell) for cell in row)
    if desk.rng.random() < 0.5:
        desk.user(f"{said}. {question}?")
    else:
        desk.user(said + ".")
        desk.say(desk.rng.choice(NOTED))
        desk.ask(f"? {question}")
    desk.say(answer[0].upper() + answer[1:])


def _in_between(desk: Desk) -> None:
    """Often something else is said before the question."""
    kind = desk.rng.random()
    if kind < 0.15:
        talk.exchange(desk, desk.rng.choice(("greet", "thanks", "how", "praise")))
    elif kind < 0.3:
        letters.sums(desk)
    elif kind < 0.4:
        row = desk.row("knows", "facts")
        desk.ask(desk.fill(row[0]))
        desk.say(desk.fill(row[1]))


def _further(desk: Desk) -> None:
    """A sum, and another with its result."""
    letters.sums(desk)
    for _ in range(desk.rng.choice((1, 1, 2))):
        value = desk.parts()[1]["text"]
        if not value.isdecimal() or int(value) < 3:
            return
        desk.scene["m"] = desk.scene["r"] = int(value)
        for slot in ("k", "d", "less"):
            desk.scene.pop(slot, None)
        desk.scene["k"] = desk.scene.number(2, 50)
        row = desk.row("sums", "further")
        desk.ask(desk.fill(row[0]))
        desk.parts().extend(result(desk.fill(row[1])))


def _that_word(desk: Desk) -> None:
    """A word is spelled, then its letters counted."""
    word = letters.quoted_word(desk)
    desk.ask(f"spell {desk.scene['word']}")
    desk.say("-".join(word))
    desk.ask(desk.line("sums", "thatlong"))
    letters.count_letters(desk, word)
