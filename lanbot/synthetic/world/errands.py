"""Errands for the agent: what is asked, what lies in the workspace, and the calls that do it, really executed."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lanbot.chat.messages import Conversation, Part, chat, output, python, text
from lanbot.synthetic.world.chats import about, fact, result
from lanbot.synthetic.world.grammar import Rng, fill, rng_of, rows
from lanbot.synthetic.world.scene import PLACES, Scene
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

KINDS = ("compute", "read", "write", "search", "remember")
"""What is tested, in equal shares."""


@dataclass
class Errand:
    """requests: each a conversation of its own, in the same workspace and memory. replies: how they are done.

    said: what the last answer must say. written: files that must be there in the end, with their text.
    """

    kind: str
    files: dict[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    replies: list[list[Part]] = field(default_factory=list)
    said: str = ""
    written: dict[str, str] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Calls that the last request takes."""
        return sum(part["type"] == "python" for part in self.replies[-1])


def errand(split: str, index: int) -> Errand:
    """The test's errands: the five kinds in turn, a third of them needing two calls."""
    rng = rng_of("errand", split, index)
    kind = KINDS[index % len(KINDS)]
    return _Maker(rng, split).make(kind, rng.choice(TESTED[kind]))


def errand_chat(split: str, index: int) -> Conversation:
    """A conversation of any kind of errand, small mishaps and ways out of them too."""
    rng = rng_of("errand chat", split, index)
    made = _Maker(rng, split).make("", rng.choice(TRAINED))
    which = rng.randrange(len(made.requests))
    return chat(made.requests[which], made.replies[which])


class _Maker:
    """Makes one errand: files and memories first, then calls of the same tools that the agent will have."""

    memory: Memory | None = None
    """One for all errands, emptied for each: making one costs more than an errand."""

    def __init__(self, rng: Rng, split: str) -> None:
        self.rng, self.split, self.scene = rng, split, Scene(rng, split)
        if _Maker.memory is None:
            _Maker.memory = Memory()
        _Maker.memory.clear()

    def make(self, kind: str, how: "How") -> Errand:
        self.errand = Errand(kind)
        how(self)
        return self.errand

    # -- pieces

    def template(self, section: str, file: str = "tools") -> list[str]:
        """The cells of a row, filled."""
        return [fill(cell, self.rng, self.scene) for cell in self.rng.choice(rows(file, section, self.split))]

    def fact(self) -> tuple[str, str, str, str]:
        """(statement, question, word to look for, heart) of something that a file may say."""
        return fact(self.rng.choice(rows("facts", "stated", self.split)), self.rng, self.split)

    def fill_files(self, told: str, question: str, key: str, count: int) -> str:
        """Files of some lines; one of them says what is told, none says anything else about it. Returns its name."""
        names: list[str] = []
        while len(names) < count:
            name = Scene(self.rng, self.split)["file"]
            if name not in names:
                names.append(name)
        for name in names:
            others = [self.fact() for _ in range(self.rng.randint(1, 2))]
            lines = [line for line, asked, _, _ in others if asked != question and not about(key, line)]
            if name == names[0]:
                lines.insert(self.rng.randint(0, len(lines)), told)
            self.errand.files[name] = "\n".join(lines)
        self.errand.files = dict(sorted(self.errand.files.items()))
        return names[0]

    def request(self, asked: str) -> "_Reply":
        """Opens the next conversation."""
        self.errand.requests.append(asked)
        self.errand.replies.append([])
        if len(self.errand.requests) == 1:
            self.now = dict(self.errand.files)
            assert self.memory is not None
            for known in self.errand.known:
                self.memory.remember(known)
            self.tools = PythonCalls(Toolset([*Workspace(self.now).tools, *self.memory.tools]))
        return _Reply(self.errand.replies[-1], self.tools)


@dataclass
class _Reply:
    parts: list[Part]
    tools: PythonCalls

    def call(self, code: str) -> str:
        got = self.tools(code)
        self.parts += [python(code), output(got)]
        return got

    def say(self, words: str) -> None:
        self.parts.append(text(words))


How = Callable[[_Maker], None]


def _quoted(words: str) -> str:
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


# -- the kinds


def _compute(m: _Maker) -> None:
    asked, code = m.template("compute")
    reply = m.request(asked)
    reply.parts += result(code)
    m.errand.said = reply.parts[1]["text"]


def _compute_two(m: _Maker) -> None:
    reply = m.request(m.template("compute_two")[0])
    first, second = reply.call(m.scene["e"]), reply.call(m.scene["f"])
    reply.say(f"The first is {first}, the second is {second}.")
    m.errand.said = f"{first} {second}"


def _read(m: _Maker) -> None:
    statement, question, key, heart = m.fact()
    m.scene["file"] = m.fill_files(statement, question, key, m.rng.randint(1, 3))
    m.scene["question"] = question
    reply = m.request(m.template("read")[0])
    reply.call(f"read_file({_quoted(m.scene['file'])})")
    reply.say(statement)
    m.errand.said = heart


def _read_found(m: _Maker) -> None:
    statement, question, key, heart = m.fact()
    m.scene["question"] = question
    m.fill_files(statement, question, key, 1)
    reply = m.request(m.template("read_found")[0])
    name = reply.call("list_files()")
    reply.call(f"read_file({_quoted(name)})")
    reply.say(statement)
    m.errand.said = heart


def _misnamed(m: _Maker) -> None:
    """The file's name is wrong in the request: the error names the right one."""
    statement, question, key, heart = m.fact()
    name = m.fill_files(statement, question, key, m.rng.randint(1, 2))
    stem = name.partition(".")[0]
    m.scene["file"] = wrong = m.rng.choice((stem, stem + ".text", stem[:-1] + ".txt"))
    m.scene["question"] = question
    reply = m.request(m.template("read")[0])
    got = reply.call(f"read_file({_quoted(wrong)})")
    if got.startswith("error"):
        if name in got:
            reply.call(f"read_file({_quoted(name)})")
            reply.say(statement)
        else:
            reply.say(f"There is no file {wrong}.")
    else:
        reply.say(statement)
    m.errand.said = heart


def _text_to_write(m: _Maker) -> str:
    return str(m.scene["words"]) if m.rng.random() < 0.5 else m.fact()[0]


def _write(m: _Maker) -> None:
    m.scene["text"] = words = _text_to_write(m)
    reply = m.request(m.template("write")[0])
    reply.call(f"write_file({_quoted(m.scene['file'])}, {_quoted(words)})")
    reply.say(f"I wrote {m.scene['file']}.")
    m.errand.written = {m.scene["file"]: words}


def _write_result(m: _Maker) -> None:
    reply = m.request(m.template("write_result")[0])
    value = reply.call(m.scene["e"])
    reply.call(f"write_file({_quoted(m.scene['file'])}, {_quoted(value)})")
    reply.say(f"I wrote {m.scene['file']}.")
    m.errand.written = {m.scene["file"]: value}


def _search(m: _Maker) -> None:
    statement, question, key, heart = m.fact()
    m.scene["question"] = question
    m.fill_files(statement, question, key, m.rng.randint(2, 3))
    reply = m.request(m.template("search")[0])
    reply.call(f"search_files({_quoted(key)})")
    reply.say(statement)
    m.errand.said = heart


def _search_compute(m: _Maker) -> None:
    price = m.scene.number(2, 99)
    m.fill_files(f"The {m.scene['thing']} costs {price} coins.", "", m.scene["thing"], m.rng.randint(2, 3))
    reply = m.request(m.template("search_compute")[0])
    reply.call(f"search_files({_quoted(m.scene['thing'])})")
    value = reply.call(f"{m.scene['c']}*{price}")
    reply.say(f"That is {value}.")
    m.errand.said = value


def _nothing_found(m: _Maker) -> None:
    """What is asked for is in no file."""
    _, question, key, _ = m.fact()
    m.scene["question"] = question
    told = m.fact()[0]
    while about(key, told):
        told = m.fact()[0]
    m.fill_files(told, question, key, m.rng.randint(1, 2))
    reply = m.request(m.template("search")[0])
    reply.call(f"search_files({_quoted(key)})")
    reply.say("I found nothing about that.")


def _mine(m: _Maker) -> tuple[str, str, str, str]:
    fact, question, key, heart = m.template("mine", "facts")
    return fact, question, key, heart


def _distractors(m: _Maker, fact: str) -> list[str]:
    """Other things that it was told before, which the question is not about."""
    others: list[str] = []
    while len(others) < m.rng.randint(0, 2):
        other = fill(m.rng.choice(rows("facts", "mine", m.split))[0], m.rng, Scene(m.rng, m.split))
        if not set(other.split()) & (set(fact.split()) - {"my", "is", "the", "in", "I", "of", "called", "a", "an"}):
            others.append(other)
    return others


def _remember(m: _Maker) -> None:
    fact, question, key, heart = _mine(m)
    m.scene["fact"] = fact
    m.errand.known = _distractors(m, fact)
    reply = m.request(m.template("remember")[0])
    reply.call(f"remember({_quoted(fact)})")
    reply.say("I will remember that.")
    reply = m.request(question)
    reply.call(f"recall({_quoted(key)})")
    reply.say(f"You told me: {fact}.")
    m.errand.said = heart


def _unknown(m: _Maker) -> None:
    fact, question, key, _ = _mine(m)
    m.errand.known = _distractors(m, fact)
    reply = m.request(question)
    if reply.call(f"recall({_quoted(key)})") == "nothing found":
        reply.say("I do not know that yet.")
    else:
        m.errand.requests[-1], m.errand.replies[-1] = "Hello!", [text("Hello! How can I help you?")]


def _forget(m: _Maker) -> None:
    fact, _, key, _ = _mine(m)
    m.scene["fact"] = fact
    m.errand.known = [*_distractors(m, fact), fact]
    reply = m.request(m.template("forget")[0])
    got = reply.call(f"recall({_quoted(key)})")
    reply.call(f"forget({got.partition(':')[0]})")
    reply.say("I forgot it.")


def _edit(m: _Maker) -> None:
    old, new = (m.scene["p"], m.scene["q"]) if m.rng.random() < 0.5 else _two_numbers(m)
    m.scene["old"], m.scene["new"] = old, new
    m.errand.files = {m.scene["file"]: f"{old} {m.rng.choice(PLACES)}"}
    reply = m.request(m.template("edit")[0])
    reply.call(f"edit_file({_quoted(m.scene['file'])}, {_quoted(old)}, {_quoted(new)})")
    reply.say(f"I changed {m.scene['file']}.")


def _two_numbers(m: _Maker) -> tuple[str, str]:
    old, new = m.scene.number(10, 998), m.scene.number(10, 998)
    return str(old), str(new if new != old else old + 1)


def _list(m: _Maker) -> None:
    if m.rng.random() < 0.85:
        m.fill_files(m.fact()[0], "", "?", m.rng.randint(1, 3))
    reply = m.request(m.template("list")[0])
    got = reply.call("list_files()")
    reply.say("There are no files." if got == "(empty)" else "There are: " + got.replace("\n", ", ") + ".")


TESTED: dict[str, tuple[How, ...]] = {
    "compute": (_compute, _compute_two),
    "read": (_read, _read, _read_found),
    "write": (_write, _write, _write_result),
    "search": (_search, _search, _search_compute),
    "remember": (_remember,),
}
TRAINED: tuple[How, ...] = (
    *(_compute, _compute_two, _read, _read, _read, _read_found, _write, _write, _write_result),
    *(_search, _search, _search, _search_compute, _remember, _remember, _remember),
    *(_misnamed, _nothing_found, _unknown, _forget, _edit, _list),
)
