"""Errands with files: shown, searched, written, changed, copied, and what goes wrong on the way."""

from collections.abc import Callable

from lanbot.synthetic.everyday import letters
from lanbot.synthetic.everyday.desk import Desk, EverydayScene
from lanbot.synthetic.world.chats import about, fact
from lanbot.synthetic.world.grammar import fill, rows, sections


def errand(desk: Desk) -> None:
    desk.rng.choice(_HOWS)(desk)


def note(desk: Desk) -> str:
    """A line as people keep it in files."""
    kind = desk.rng.random()
    if kind < 0.3:
        return str(desk.draw("words"))
    if kind < 0.85:
        scene = EverydayScene(desk.rng, desk.split, desk.scene.low)
        return " ".join(fill(desk.rng.choice(sections("everyday/work")["notes"])[0], desk.rng, scene).split())
    return fact(desk.rng.choice(rows("facts", "stated", "train")), desk.rng, desk.split)[0]


def content(desk: Desk) -> str:
    return "\n".join(note(desk) for _ in range(desk.rng.choice((1, 1, 1, 2))))


def put_files(desk: Desk, *counts: int) -> list[str]:
    """Fills files; returns their names, in random order."""
    names: list[str] = []
    while len(names) < desk.rng.choice(counts or (1, 1, 2, 3)):
        names.append(desk.draw("file"))
        desk.files[names[-1]] = content(desk)
    names = list(dict.fromkeys(names))
    desk.scene["file"] = names[0]
    return names


def quoted(desk: Desk, words: str) -> str:
    """A text as it stands in a request: in quotes, or without where it is plain."""
    if desk.rng.random() < 0.55 and not any(mark in words for mark in "\n:,.?!"):
        prefix = desk.rng.choice(
            ("", "", "", "", "the text ", "the words " if " " in words else "the word ", "the line ")
        )
        return prefix + words
    mark = "'" if "'" not in words and desk.rng.random() < 0.4 else '"'
    return f"{mark}{words}{mark}"


def keep(desk: Desk, *texts: str) -> None:
    for words in texts:
        desk.kept.update(word.strip(".,:;?!").removesuffix("'s") for word in words.split())


def _show(desk: Desk) -> None:
    put_files(desk)
    missing = desk.rng.random() < 0.15
    if missing:
        desk.draw("file")
    desk.ask(desk.line("work", "show"))
    show(desk)


def show(desk: Desk) -> None:
    """Reads the file of the request; a wrong name is corrected once, if the error names the right one."""
    name = str(desk.scene["file"])
    got = desk.call_tool("read_file", name)
    if got.startswith("error") and "did you mean " in got:
        name = got.rpartition("did you mean ")[2].rstrip("?")
        got = desk.call_tool("read_file", name)
    desk.say(f"There is no file {name}." if got.startswith("error") else f"It says: {got}")


def _misnamed(desk: Desk) -> None:
    """The name lacks its ending, or a letter."""
    name = put_files(desk)[0]
    stem, _, ending = name.partition(".")
    desk.scene["file"] = desk.rng.choice((stem, f"{stem[:-1]}.{ending}", f"{stem}s.{ending}", f"{stem}.text"))
    desk.ask(desk.line("work", "show"))
    wrong = str(desk.scene["file"])
    got = desk.call_tool("read_file", wrong)
    if got.startswith("error"):
        if name not in got and name not in desk.call("list_files()"):
            desk.say(f"There is no file {wrong}.")
            return
        got = desk.call_tool("read_file", name)
    desk.say(f"It says: {got}")


def _about(desk: Desk) -> None:
    """A question about one line of a file."""
    while True:
        statement, question, key, _ = fact(desk.rng.choice(rows("facts", "stated", "train")), desk.rng, desk.split)
        name = put_files(desk)[0]
        others = [line for line in desk.files[name].split("\n")[:1] if not about(key, line)]
        if others or desk.rng.random() < 0.5:
            break
    lines = [*others, statement] if desk.rng.random() < 0.5 else [statement, *others]
    desk.files[name] = "\n".join(lines)
    desk.scene["topic"] = ("the " if f"the {key}" in statement.lower() else "") + key
    desk.scene["question"] = question.rstrip("?")
    keep(desk, key, question)
    desk.ask(desk.line("work", "about"))
    desk.call_tool("read_file", name)
    desk.say(statement)


def _list(desk: Desk) -> None:
    if desk.rng.random() < 0.85:
        put_files(desk, 1, 2, 3, 4)
    many = desk.rng.random() < 0.4
    desk.ask(desk.line("work", "howmany" if many else "list"))
    got = desk.call("list_files()")
    names = [] if got == "(empty)" else got.split("\n")
    if not names:
        desk.say("There are no files.")
    elif many:
        desk.say(f"There {'is 1 file' if len(names) == 1 else f'are {len(names)} files'}: {', '.join(names)}.")
    else:
        desk.say(f"There {'is' if len(names) == 1 else 'are'}: {', '.join(names)}.")


def _exists(desk: Desk) -> None:
    put_files(desk)
    if desk.rng.random() < 0.6:
        desk.draw("file")
    desk.ask(desk.line("work", "exists"))
    name = str(desk.scene["file"])
    there = name in desk.call("list_files()").split("\n")
    desk.say(f"Yes, there is a file {name}." if there else f"No, there is no file {name}.")


def _write(desk: Desk) -> None:
    words, name = note(desk), desk.draw("file")
    keep(desk, words)
    desk.scene["q"] = quoted(desk, words)
    core = desk.line("work", "write")
    desk.ask(core, ended=core.endswith(name))
    desk.call_tool("write_file", name, words)
    desk.say(f"I wrote {name}.")
    if desk.rng.random() < 0.2:
        desk.ask(desk.line("work", "again"))
        show(desk)


def _named(desk: Desk) -> None:
    kind = desk.rng.random()
    value = desk.draw("p") if kind < 0.4 else desk.draw("code") if kind < 0.6 else desk.draw("words").split()[0]
    keep(desk, value)
    desk.scene["value"], name = value, desk.draw("file")
    desk.ask(desk.line("work", "named"))
    desk.call_tool("write_file", name, value)
    desk.say(f"I wrote {name}.")


def _result(desk: Desk) -> None:
    desk.scene["e"], code = letters.sum_in_words(desk)
    name = desk.draw("file")
    core = desk.line("work", "result")
    desk.ask(core, ended=core.endswith(name))
    desk.call_tool("write_file", name, desk.call(code))
    desk.say(f"I wrote {name}.")


def _save(desk: Desk) -> None:
    """First a sum, then: save it."""
    letters.sums(desk)
    value = desk.parts()[1]["text"]
    name = desk.draw("file")
    desk.ask(desk.line("work", "save"))
    desk.call_tool("write_file", name, value)
    desk.say(f"I wrote {name}.")


def _edit(desk: Desk) -> None:
    name = put_files(desk, 1, 1, 2)[0]
    words = [word for word in desk.files[name].split() if word.isalnum()]
    once = [word for word in words if desk.files[name].count(word) == 1]
    if not once:
        _show(desk)
        return
    old, new = (
        desk.rng.choice(once),
        desk.rng.choice((desk.draw("word"), desk.draw("code"), desk.draw("color"), desk.draw("p"))),
    )
    keep(desk, old, new)
    given = old
    if desk.rng.random() < 0.15 and old != old.lower():  # the file has it with a capital
        given = old.lower()
        desk.kept.discard(old)
        desk.kept.add(given)
    mark = desk.rng.choice(("", "", "", '"', "'"))
    desk.scene["old"], desk.scene["new"] = f"{mark}{given}{mark}", f"{mark}{new}{mark}"
    desk.ask(desk.line("work", "edit"), ended=False)
    if desk.call_tool("edit_file", name, given, new).startswith("error"):
        desk.call_tool("read_file", name)
        desk.call_tool("edit_file", name, old, new)
    desk.say(f"I changed {name}.")


def _copy(desk: Desk) -> None:
    name = put_files(desk, 1, 1, 2)[0]
    other = desk.draw("other")
    desk.ask(desk.line("work", "copy"))
    desk.call_tool("write_file", other, desk.call_tool("read_file", name))
    desk.say(f"I wrote {other}.")


def _add(desk: Desk) -> None:
    name, words = put_files(desk, 1, 1, 2)[0], desk.draw("words")
    keep(desk, words)
    desk.scene["q"] = quoted(desk, words)
    core = desk.line("work", "add")
    desk.ask(core, ended=core.endswith(name))
    desk.call_tool("write_file", name, desk.call_tool("read_file", name) + "\n" + words)
    desk.say(f"I changed {name}.")


def _mention(desk: Desk) -> None:
    names = put_files(desk, 2, 3)
    wanted = desk.rng.choice(names)
    words = [word.strip(".,:;?!") for word in desk.files[wanted].split()]
    word = desk.rng.choice([word for word in words if len(word) > 3] or words)
    if desk.rng.random() < 0.1:
        word = desk.draw("made")
    keep(desk, word)
    desk.scene["topic"] = (desk.rng.choice(("the ", "", "")) if word.islower() else "") + word
    desk.ask(desk.line("work", "mention"))
    got = desk.call_tool("search_files", word)
    if got == "no match":
        desk.say("I found nothing about that.")
        return
    name, _, line = got.split("\n")[0].partition(":")
    desk.say(f"It is in {name}: {line.partition(': ')[2]}")


def _sum_file(desk: Desk) -> None:
    name = desk.draw("file")
    numbers = [desk.scene.number(2, desk.rng.choice((30, 99, 300))) for _ in range(desk.rng.choice((2, 2, 3)))]
    desk.files[name] = "\n".join(map(str, numbers))
    desk.ask(desk.line("work", "sumfile"))
    got = desk.call_tool("read_file", name)
    value = desk.call(got.replace("\n", "+"))
    desk.say(f"The sum is {value}.")


How = Callable[[Desk], None]
_HOWS: tuple[How, ...] = (
    *(_show, _show, _show, _show, _misnamed, _about, _about, _list, _list, _exists),
    *(_write, _write, _write, _write, _write, _named, _result, _result, _result, _save),
    *(_edit, _edit, _edit, _copy, _add, _mention, _mention, _sum_file),
)
