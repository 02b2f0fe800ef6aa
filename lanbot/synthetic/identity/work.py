"""Turns in which the bot works: sums, letters, comparisons, files, memory. Every output is what the tool gave.

A conversation has one workspace and one memory. What is in them beforehand is drawn before its first call.
"""

from lanbot.chat.messages import output, python, text
from lanbot.synthetic.identity.scene import Scene, answers, table
from lanbot.synthetic.identity.talk import Noted, Said, Talk, Turn
from lanbot.synthetic.world.grammar import Row, fill
from lanbot.tools.calculator import answer


def sums(t: Talk) -> Turn:
    return _calculated(t, t.row("sum", file="jobs"))


def letters(t: Talk) -> Turn:
    return _calculated(t, t.row("letters", file="jobs"))


def larger(t: Talk) -> Turn:
    """Rows of two cells are questions with a yes or no."""
    row = t.row("compare", file="jobs")
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
    """A file is written, one that is there is read, or all are listed."""
    if not t.files:
        for _ in range(t.rng.randint(1, 2)):
            scene = t.scene.beside()
            t.files[scene["file"]] = _note(scene)
        t.there.update(t.files)
    kind = t.rng.choice(("write", "write", "read", "read", "list"))
    row = t.row(kind, file="jobs")
    if kind == "list":
        names = sorted(t.there)
        reply = f"There is one file: {names[0]}." if len(names) == 1 else f"There are {len(names)}: {_and(names)}."
        return _called(t, t.fill(row[0]), "list_files()", reply, tuple((name,) for name in names))
    if kind == "read":
        t.scene["file"] = name = t.rng.choice(sorted(t.there))
        t.scene["note"] = note = t.there[name]
        return _called(t, t.fill(row[0]), f'read_file("{name}")', t.fill(row[1]), ((note.rstrip("."),),))
    while t.scene["file"] in t.there:
        del t.scene["file"]
    name, t.scene["note"] = t.scene["file"], _note(t.scene)
    return _called(t, t.fill(row[0]), f'write_file("{name}", "{t.scene["note"]}")', t.fill(row[1]))


def remembered(t: Talk) -> Turn:
    """Something is noted that is not about what is noted already."""
    _remember(t)
    while True:
        asked, noted, reply = (t.fill(cell) for cell in t.row("memory", file="jobs"))
        if not any(_alike(noted, known) for _, known in t.memory.all()):
            return _called(t, asked, f'remember("{noted}")', reply)
        t.scene.forget()


def recalled(t: Talk) -> Turn:
    """Something is asked for that was noted before the conversation; when all has been, something is noted."""
    _remember(t)
    if not t.noted:
        return remembered(t)
    noted = t.noted.pop()
    return _called(t, noted.asked, f'recall("{noted.query}")', noted.reply, ((noted.key,),))


def _called(t: Talk, asked: str, code: str, reply: str, said: Said = ()) -> Turn:
    return Turn(asked, [python(code), output(t.tools(code)), text(reply)], said, exact=True)


def _remember(t: Talk) -> None:
    """What is noted before the conversation: one thing or two."""
    if t.known:
        return
    for _ in range(t.rng.randint(1, 2)):
        scene = t.scene.beside()
        row = t.rng.choice(table("jobs", "recall", scene.split))
        noted = Noted(*(fill(cell, t.rng, scene) for cell in row))
        if not any(_alike(noted.text, known) for known in t.known):
            t.noted.append(noted)
            t.known.append(noted.text)
            t.tools.functions["remember"](noted.text)


def _alike(one: str, other: str) -> bool:
    """Are they about one thing: are the first words the same ("my cat is ...")?"""
    return one.split()[:2] == other.split()[:2]


def _note(scene: Scene) -> str:
    return fill(scene.rng.choice(answers("jobs", "note"))[0], scene.rng, scene)


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
