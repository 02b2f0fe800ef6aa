"""Conversations with every tool of the agent: files, memory, programs, a search, pages, an API, and their mistakes.

Each call is one of the agent's own tools and is really executed: files, memory and pages in memory, programs in this
process (they are ours, so no sandbox is needed), and the API behind a stand-in for the network. No network is used.
Calls are bound as the agent's are. A call that is a mistake is read, not learned; how it is made good is.
"""

import json
import traceback
from collections.abc import Callable, Mapping
from functools import cache, partial
from io import StringIO
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation, Part, call, chat, output, python, text
from lanbot.config.agent import Agent
from lanbot.sandbox.protocol import Functions
from lanbot.sandbox.worker import Result
from lanbot.synthetic import world
from lanbot.synthetic.world.chats import fact
from lanbot.synthetic.world.grammar import Rng, rows
from lanbot.synthetic.world.scene import GOODS, PRICES, Scene
from lanbot.tasks.builtin import WorldTask, as_typed
from lanbot.tasks.registry import register
from lanbot.tools.api import Api, Apis, open_api
from lanbot.tools.bounded import REPEATS, BoundedCalls
from lanbot.tools.fetch import Pages
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.python_tool import Box, Python
from lanbot.tools.search import FolderSearch, Search
from lanbot.tools.tool import Tool, Toolset
from lanbot.tools.web import Response, Web
from lanbot.tools.workspace import Workspace

SHOP = "https://shop.example/v1"
STOCK = {thing: (PRICES[thing], sum(map(ord, thing)) % 90) for thing in GOODS}
"""Of the API's things: price in coins, and how many there are."""
_TEXT: dict[str, Any] = {"200": {"description": "The thing."}}


def _parameter(name: str, where: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": True, "schema": {"type": kind}}


_DESCRIPTION = {
    "openapi": "3.0.0",
    "info": {"title": "Shop", "version": "1"},
    "servers": [{"url": SHOP}],
    "paths": {
        "/things/{name}": {
            "get": {
                "summary": "Price and stock",
                "parameters": [_parameter("name", "path", "string")],
                "responses": _TEXT,
            }
        },
        "/cost": {
            "get": {
                "summary": "What some cost",
                "parameters": [_parameter("thing", "query", "string"), _parameter("count", "query", "integer")],
                "responses": _TEXT,
            }
        },
    },
}


class Offline(Web):
    """Answers for the shop, instead of a network."""

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        until: float | None = None,
    ) -> Response:
        parsed = urlsplit(url)
        asked = dict(parse_qsl(parsed.query))
        thing = asked.get("thing") or parsed.path.rpartition("/")[2]
        if thing not in STOCK:
            return self._json(url, {"error": f"no {thing}; try its singular"}, 404, "Not Found")
        price, count = STOCK[thing]
        if "count" in asked:
            return self._json(url, {"thing": thing, "cost": price * int(asked["count"])})
        return self._json(url, {"name": thing, "price": price, "stock": count})

    def _json(self, url: str, data: dict[str, Any], status: int = 200, reason: str = "OK") -> Response:
        return Response(url, status, reason, "application/json", "utf-8", "", json.dumps(data).encode(), False)


@cache
def _shop() -> Api:
    with NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(_DESCRIPTION, file)
        file.flush()
        return open_api(file.name)


class Trusted:
    """Runs the programs of this file as the sandbox would, in one session."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}

    def run(self, code: str, *, functions: Functions, session: str, timeout: float) -> Result:
        printed, raised = StringIO(), ""
        self.names.update(functions, print=partial(print, file=printed))
        try:
            exec(compile(code, "run1.py", "exec", dont_inherit=True), self.names)
        except Exception:
            raised = traceback.format_exc()
        return Result(printed.getvalue(), raised, {}, int(bool(raised)), False, 0)

    def close_session(self, name: str) -> None:
        self.names.clear()


class Work:
    """Tools, and the parts of one answer."""

    def __init__(self, rng: Rng, split: str, box: Box) -> None:
        self.rng, self.split, self.scene = rng, split, Scene(rng, split)
        self.files: dict[str, str] = {}
        self.pages: dict[str, str] = {}
        self.memory = Memory()
        self.python = Python(box)
        pages, web = Workspace(self.pages), Offline()
        tools: list[Tool | Callable[..., str]] = [*Workspace(self.files).tools, *self.memory.tools, self.python.run]
        tools += [Search(FolderSearch(pages)).web_search, Pages(web, pages).fetch, *Apis(web, [_shop()]).tools]
        self.calls = PythonCalls(Toolset(tools))
        self.python.toolset = self.calls.toolset
        self.bounded = BoundedCalls(self.calls, Agent().max_steps)
        self.parts: list[Part] = []

    def run(self, code: str, mistake: bool = False) -> str:
        """A program, or a calculation."""
        return self._made(python(code), mistake)

    def use(self, name: str, mistake: bool = False, **arguments: Any) -> str:
        return self._made(call(name, arguments), mistake)

    def again(self, name: str, **arguments: Any) -> None:
        """A mistake until the call is refused."""
        for _ in range(REPEATS + 1):
            self.use(name, mistake=True, **arguments)

    def _made(self, part: Part, mistake: bool) -> str:
        got = self.bounded(part["text"])
        if got is None:
            raise RuntimeError(f"{part['text']} ended the turn")
        self.parts += [{**part, "train": False} if mistake else part, output(got)]
        return got

    def say(self, words: str) -> None:
        self.parts.append(text(words))

    def fact(self) -> tuple[str, str, str, str]:
        """Statement, question, a word to look for, the answer's heart."""
        return fact(self.rng.choice(rows("facts", "stated", "train")), self.rng, self.split)

    def close(self) -> None:
        self.python.close()
        self.memory.close()


def _read(w: Work) -> str:
    statement, question, _, _ = w.fact()
    name = w.scene["file"]
    w.files[name] = statement
    if w.rng.random() < 0.4:  # a wrong name: the files are listed
        w.use("read_file", mistake=True, path=f"the-{name}")
        w.use("list_files")
    w.use("read_file", path=name)
    w.say(statement)
    return f"Look into my file {name}. {question}"


def _edit(w: Work) -> str:
    name, old, new = w.scene["file"], str(w.scene["p"]), str(w.scene["q"])
    w.files[name] = f"{old} comes on {w.scene['day']}."
    if w.rng.random() < 0.4:  # a text that is not there: the file is read first
        w.use("edit_file", mistake=True, path=name, old=old.upper(), new=new)
        w.use("read_file", path=name)
    w.use("edit_file", path=name, old=old, new=new)
    w.say(f"I changed {old} to {new} in {name}.")
    return f"Replace {old} by {new} in {name}."


def _result(w: Work) -> str:
    code, name = w.scene["e"], w.scene["file"]
    if "*" in code and w.rng.random() < 0.3:  # not Python
        w.run(code.replace("*", "x"), mistake=True)
    got = w.run(code)
    w.use("write_file", path=name, text=got)
    w.say(f"{name} has the result, {got}.")
    return f"Write the result of {code} to {name}."


def _search_files(w: Work) -> str:
    statement, question, key, _ = w.fact()
    w.files[w.scene["file"]] = statement
    w.files["more.txt"] = w.scene["words"]
    w.use("search_files", query=key)
    w.say(statement)
    return f"{question} It is in one of my files."


def _remember(w: Work) -> str:
    statement, _, _, _ = w.fact()
    w.use("remember", text=statement)
    w.say("I will remember that.")
    return f"Please remember: {statement}"


def _recall(w: Work) -> str:
    statement, question, key, _ = w.fact()
    w.memory.remember(statement)
    chance = w.rng.random()
    if chance < 0.15:
        w.again("recall", query="that")
    elif chance < 0.3:
        w.use("recall", mistake=True, query="that")
    w.use("recall", query=key)
    w.say(statement)
    return f"{question} I told you once."


def _forget(w: Work) -> str:
    statement, _, key, _ = w.fact()
    for known in dict.fromkeys([w.fact()[0], statement]):
        w.memory.remember(known)
    found = w.use("recall", query=key)
    numbers = [line.partition(":")[0] for line in found.split("\n") if line.endswith(statement)]
    w.use("forget", id=int(numbers[0]))
    w.say("I forgot it.")
    return f"Forget this: {statement}"


def _program(w: Work) -> str:
    numbers = [w.scene.number(2, 99) for _ in range(w.rng.randint(4, 7))]
    asked, code = w.rng.choice(
        (
            (f"Sort these numbers: {numbers}", f"sorted({numbers})"),
            (f"What is the mean of {numbers}?", f"numbers = {numbers}\nsum(numbers) / len(numbers)"),
            (f"Which of {numbers} are even?", f"[n for n in {numbers} if n % 2 == 0]"),
            (f"Sum the squares of 1 to {numbers[0]}.", f"sum(n * n for n in range(1, {numbers[0]} + 1))"),
            (f"How many primes are there up to {numbers[0]}?", _PRIMES.format(numbers[0])),
        )
    )
    if w.rng.random() < 0.3:  # a name that was not defined
        w.run(f"print(values)\n{code}", mistake=True)
    w.say(f"It is {w.run(code)}.")
    return asked


_PRIMES = "primes = [n for n in range(2, {} + 1) if all(n % d for d in range(2, n))]\nlen(primes)"


def _program_with_files(w: Work) -> str:
    """A program that calls the other tools."""
    values = [w.scene.number(2, 99) for _ in range(3)]
    w.files["numbers.txt"] = "\n".join(map(str, values))
    w.say(f"The sum is {w.run(_ADD)}.")
    return "Add up the lines of numbers.txt with a program."


_ADD = 'lines = read_file("numbers.txt").split("\\n")\nsum(int(line) for line in lines)'


def _web(w: Work) -> str:
    """Searched, then the page is read."""
    statement, question, key, _ = w.fact()
    for _ in range(3):
        page = f"{w.scene.made_up()}.txt"
        w.pages[page] = f"# {page.partition('.')[0].title()}\n{w.fact()[0]}"
    page = f"{w.scene.made_up()}.txt"
    w.pages[page] = f"# {key.title()}\nAbout {key}: more below.\n{w.scene['words']}\n{statement}"
    if w.rng.random() < 0.25:
        w.use("fetch", mistake=True, url="about.txt")
    found = w.use("web_search", query=key)
    address = page if page in found else found.partition("(")[2].partition(")")[0]
    w.use("fetch", url=address)
    w.say(statement if address == page else "I found nothing about that.")
    return f"{question} Search the web."


def _api(w: Work) -> str:
    thing = w.rng.choice(GOODS)
    if w.rng.random() < 0.3:  # the API knows the singular only
        w.use("http_request", mistake=True, method="GET", url=f"{SHOP}/things/{thing}s")
    got = json.loads(w.use("http_request", method="GET", url=f"{SHOP}/things/{thing}"))
    w.say(f"One {thing} costs {got['price']} coins; there are {got['stock']}.")
    return f"What does one {thing} cost in the shop, and how many are there?"


def _api_cost(w: Work) -> str:
    thing, count = w.rng.choice(GOODS), w.scene.number(2, 40)
    if w.rng.random() < 0.3:  # a parameter is missing
        w.use("http_request", mistake=True, method="GET", url=f"{SHOP}/cost?thing={thing}")
    got = json.loads(w.use("http_request", method="GET", url=f"{SHOP}/cost?thing={thing}&count={count}"))
    w.say(f"{count} of them cost {got['cost']} coins.")
    return f"Ask the shop what {count} of the {thing} cost."


def _none(w: Work) -> str:
    """Nothing to call."""
    made = world.talk(w.split, w.rng.randrange(1 << 30))["messages"]
    if isinstance(made[1]["content"], str):
        w.say(made[1]["content"])
        return str(made[0]["content"])
    w.say("You are welcome!")
    return "Thank you!"


HOWS: Mapping[str, Callable[[Work], str]] = {
    "read": _read,
    "edit": _edit,
    "result": _result,
    "search_files": _search_files,
    "remember": _remember,
    "recall": _recall,
    "forget": _forget,
    "program": _program,
    "program_with_files": _program_with_files,
    "web": _web,
    "api": _api,
    "api_cost": _api_cost,
    "none": _none,
}
"""Each does the work and returns the request."""


@register("tool_use")
class ToolUse(WorldTask):
    """Tool use for bigger models: files, memory, programs, a search, pages and an API, with mistakes made good."""

    kind = "chat"

    box: Callable[[], Box] = Trusted

    def conversation(self, i: int) -> Conversation:
        number = self.number(i)
        rng = world.rng_of("tool use", self.split, number)
        work = Work(rng, self.split, self.box())
        try:
            asked = HOWS[self.part(i)](work)
        finally:
            work.close()
        return {**chat(asked, work.parts), "tools": work.calls.declarations}

    def asked(self, i: int, chat_format: ChatFormat) -> Conversation:
        return as_typed(self.conversation(i), self.split, i)

    def part(self, i: int) -> str:
        return list(HOWS)[self.number(i) % len(HOWS)]
