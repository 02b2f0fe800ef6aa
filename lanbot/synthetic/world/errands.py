"""Errands for the agent: requests, files in the workspace, and the calls that solve them, actually executed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from lanbot.chat.messages import Conversation, Part, chat, output, python, text
from lanbot.synthetic.world.chats import about, fact, result
from lanbot.synthetic.world.grammar import Rng, fill, rng_of, rows
from lanbot.synthetic.world.scene import PLACES, Scene
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

KINDS = ("compute", "read", "write", "search", "remember")
"""The evaluation has equal shares of these."""


@dataclass
class Errand:
    """Requests, each in a new conversation with the same workspace and memory, and the replies that solve them."""

    kind: str
    files: dict[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    replies: list[list[Part]] = field(default_factory=list)
    said: str = ""
    """What the last answer must contain."""
    written: dict[str, str] = field(default_factory=dict)
    """Files that must exist at the end, with their text."""

    @property
    def calls(self) -> int:
        """Calls in the reply to the last request."""
        return sum(part["type"] == "python" for part in self.replies[-1])


def errand(split: str, index: int) -> Errand:
    """The errands of the evaluation: the five kinds in turn, a third of them with two calls."""
    rng = rng_of("errand", split, index)
    kind = KINDS[index % len(KINDS)]
    return _Maker(rng, split).make(kind, rng.choice(TESTED[kind]))


def errand_chat(split: str, index: int) -> Conversation:
    """One conversation of an errand of any kind, including recoverable mistakes."""
    rng = rng_of("errand chat", split, index)
    made = _Maker(rng, split).make("", rng.choice(TRAINED))
    which = rng.randrange(len(made.requests))
    return chat(made.requests[which], made.replies[which])


_memory = cache(Memory)
"""Shared by all errands and cleared for each: creating one takes longer than an errand."""


class _Maker:
    """Builds one errand: files and memories first, then calls of the same tools that the agent has."""

    def __init__(self, rng: Rng, split: str) -> None:
        self.rng, self.split, self.scene = rng, split, Scene(rng, split)
        self.memory = _memory()
        self.memory.clear()

    def make(self, kind: str, how: "How") -> Errand:
        self.errand = Errand(kind)
        how(self)
        return self.errand

    def template(self, section: str, file: str = "tools") -> list[str]:
        """The filled cells of a random row."""
        return [fill(cell, self.rng, self.scene) for cell in self.rng.choice(rows(file, section, self.split))]

    def fact(self) -> tuple[str, str, str, str]:
        """A random row of facts.txt: statement, question, search term, core of the answer."""
        return fact(self.rng.choice(rows("facts", "stated", self.split)), self.rng, self.split)

    def hide_fact(self, *counts: int) -> tuple[str, str, str]:
        """Asks about a fact that one of the files states: (statement, search term, file name)."""
        statement, self.scene["question"], key, self.errand.said = self.fact()
        count = self.rng.choice(counts) if len(counts) > 1 else counts[0]
        return statement, key, self.fill_files(statement, self.scene["question"], key, count)

    def fill_files(self, statement: str, question: str, key: str, count: int) -> str:
        """Writes files; one contains the statement, none anything else about it. Returns the name of that one."""
        names: list[str] = []
        while len(names) < count:
            name = Scene(self.rng, self.split)["file"]
            if name not in names:
                names.append(name)
        for name in names:
            others = [self.fact() for _ in range(self.rng.randint(1, 2))]
            lines = [line for line, asked, _, _ in others if asked != question and not about(key, line)]
            if name == names[0]:
                lines.insert(self.rng.randint(0, len(lines)), statement)
            self.errand.files[name] = "\n".join(lines)
        self.errand.files = dict(sorted(self.errand.files.items()))
        return names[0]

    def ask(self, section: str) -> None:
        self.request(self.template(section)[0])

    def request(self, asked: str) -> None:
        """Starts the next conversation."""
        self.errand.requests.append(asked)
        self.errand.replies.append([])
        if len(self.errand.requests) == 1:
            for known in self.errand.known:
                self.memory.remember(known)
            workspace = Workspace(dict(self.errand.files))
            self.tools = PythonCalls(Toolset([*workspace.tools, *self.memory.tools]))

    def call(self, code: str) -> str:
        got = self.tools(code)
        self.errand.replies[-1] += [python(code), output(got)]
        return got

    def call_tool(self, name: str, *arguments: str) -> str:
        """Calls a tool with string arguments."""
        escaped = (words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for words in arguments)
        return self.call(f"{name}(" + ", ".join(f'"{words}"' for words in escaped) + ")")

    def say(self, words: str) -> None:
        self.errand.replies[-1].append(text(words))

    def write(self, words: str) -> None:
        name = self.scene["file"]
        self.call_tool("write_file", name, words)
        self.say(f"I wrote {name}.")
        self.errand.written = {name: words}


How = Callable[[_Maker], None]


def _compute(m: _Maker) -> None:
    asked, code = m.template("compute")
    m.request(asked)
    m.errand.replies[-1] += result(code)
    m.errand.said = m.errand.replies[-1][1]["text"]


def _compute_two(m: _Maker) -> None:
    m.ask("compute_two")
    first, second = m.call(m.scene["e"]), m.call(m.scene["f"])
    m.say(f"The first is {first}, the second is {second}.")
    m.errand.said = f"{first} {second}"


def _read(m: _Maker) -> None:
    statement, _, m.scene["file"] = m.hide_fact(1, 2, 3)
    m.ask("read")
    m.call_tool("read_file", m.scene["file"])
    m.say(statement)


def _read_found(m: _Maker) -> None:
    statement, _, _ = m.hide_fact(1)
    m.ask("read_found")
    m.call_tool("read_file", m.call("list_files()"))
    m.say(statement)


def _misnamed(m: _Maker) -> None:
    """The request has a wrong file name; the error message names the right one."""
    statement, _, name = m.hide_fact(1, 2)
    stem = name.partition(".")[0]
    m.scene["file"] = wrong = m.rng.choice((stem, stem + ".text", stem[:-1] + ".txt"))
    m.ask("read")
    got = m.call_tool("read_file", wrong)
    if got.startswith("error") and name not in got:
        m.say(f"There is no file {wrong}.")
        return
    if got.startswith("error"):
        m.call_tool("read_file", name)
    m.say(statement)


def _write(m: _Maker) -> None:
    m.scene["text"] = words = m.scene["words"] if m.rng.random() < 0.5 else m.fact()[0]
    m.ask("write")
    m.write(words)


def _write_result(m: _Maker) -> None:
    m.ask("write_result")
    m.write(m.call(m.scene["e"]))


def _search(m: _Maker) -> None:
    statement, key, _ = m.hide_fact(2, 3)
    m.ask("search")
    m.call_tool("search_files", key)
    m.say(statement)


def _search_compute(m: _Maker) -> None:
    price = m.scene.number(2, 99)
    m.fill_files(f"The {m.scene['thing']} costs {price} coins.", "", m.scene["thing"], m.rng.randint(2, 3))
    m.ask("search_compute")
    m.call_tool("search_files", m.scene["thing"])
    m.errand.said = m.call(f"{m.scene['c']}*{price}")
    m.say(f"That is {m.errand.said}.")


def _nothing_found(m: _Maker) -> None:
    """No file contains the answer."""
    _, question, key, _ = m.fact()
    m.scene["question"] = question
    while about(key, other := m.fact()[0]):
        pass
    m.fill_files(other, question, key, m.rng.randint(1, 2))
    m.ask("search")
    m.call_tool("search_files", key)
    m.say("I found nothing about that.")


def _distractors(m: _Maker, fact: str) -> list[str]:
    """Other memories, unrelated to the question."""
    others: list[str] = []
    while len(others) < m.rng.randint(0, 2):
        other = fill(m.rng.choice(rows("facts", "mine", m.split))[0], m.rng, Scene(m.rng, m.split))
        if not set(other.split()) & (set(fact.split()) - {"my", "is", "the", "in", "I", "of", "called", "a", "an"}):
            others.append(other)
    return others


def _remember(m: _Maker) -> None:
    fact, question, key, m.errand.said = m.template("mine", "facts")
    m.scene["fact"] = fact
    m.errand.known = _distractors(m, fact)
    m.ask("remember")
    m.call_tool("remember", fact)
    m.say("I will remember that.")
    m.request(question)
    m.call_tool("recall", key)
    m.say(f"You told me: {fact}.")


def _unknown(m: _Maker) -> None:
    fact, question, key, _ = m.template("mine", "facts")
    m.errand.known = _distractors(m, fact)
    m.request(question)
    if m.call_tool("recall", key) == "nothing found":
        m.say("I do not know that yet.")
    else:
        m.errand.requests[-1], m.errand.replies[-1] = "Hello!", [text("Hello! How can I help you?")]


def _forget(m: _Maker) -> None:
    fact, _, key, _ = m.template("mine", "facts")
    m.scene["fact"] = fact
    m.errand.known = [*_distractors(m, fact), fact]
    m.ask("forget")
    got = m.call_tool("recall", key)
    m.call(f"forget({got.partition(':')[0]})")
    m.say("I forgot it.")


def _edit(m: _Maker) -> None:
    old, new = (m.scene["p"], m.scene["q"]) if m.rng.random() < 0.5 else _two_numbers(m)
    m.scene["old"], m.scene["new"] = old, new
    m.errand.files = {m.scene["file"]: f"{old} {m.rng.choice(PLACES)}"}
    m.ask("edit")
    m.call_tool("edit_file", m.scene["file"], old, new)
    m.say(f"I changed {m.scene['file']}.")


def _two_numbers(m: _Maker) -> tuple[str, str]:
    old, new = m.scene.number(10, 998), m.scene.number(10, 998)
    return str(old), str(new if new != old else old + 1)


def _list(m: _Maker) -> None:
    if m.rng.random() < 0.85:
        m.fill_files(m.fact()[0], "", "?", m.rng.randint(1, 3))
    m.ask("list")
    got = m.call("list_files()")
    m.say("There are no files." if got == "(empty)" else "There are: " + got.replace("\n", ", ") + ".")


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
