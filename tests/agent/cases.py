"""Tasks of the agent, each with the script that solves it and the state that must be there afterwards.

No script knows what it has to find: it reads it from what the tools return, so that a call, an argument or a
result that the harness loses or changes fails the task.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_site import Site
from oracle import Solution

from lanbot.chat.messages import Part, python
from lanbot.tools.memory import Memory
from lanbot.tools.tool import ToolError, tool

NAMES = ("Ada", "Bruno", "Chen", "Dora", "Emil", "Farah", "Goran", "Hana", "Ivo", "Jana")
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jolly", "karst", "lotus")
SEEDS = range(5)


@dataclass
class Place:
    """Where a task is done."""

    folder: Path
    pages: Path
    memory: Memory
    site: Site

    def text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.is_file() else ""


@dataclass
class Case:
    """A task: conversations of requests, how each is solved, and whether the answers and the place are right."""

    kind: str
    solve: Callable[[str], Solution]
    right: Callable[[Place, Sequence[str]], bool]
    requests: Sequence[Sequence[str]]
    files: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    api: dict[str, Any] = field(default_factory=dict)
    tools: Sequence[Callable[..., Any]] = ()
    context: int = 8_000
    max_steps: int = 16
    ended: str = "answered"


Family = Callable[[random.Random], Case]
FAMILIES: list[Family] = []


def family(made: Family) -> Family:
    FAMILIES.append(made)
    return made


def cases() -> list[tuple[str, Case]]:
    return [
        (f"{made.__name__}-{seed}", made(random.Random(f"{made.__name__} {seed}")))
        for made in FAMILIES
        for seed in SEEDS
    ]


def said(value: object) -> Callable[[Place, Sequence[str]], bool]:
    return lambda place, answers: str(value) in answers[-1]


def padding(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


# -- files -------------------------------------------------------------------------------------------------


@family
def read_a_fact(rng: random.Random) -> Case:
    name, color = rng.choice(NAMES), rng.choice(WORDS)

    def solve(request: str) -> Solution:
        read = yield f"read_file({request.split()[-1]!r})"
        return f"It is {re.search('color: (.+)', read)[1]}."  # type: ignore[index]

    file = f"{name.lower()}.txt"
    return Case("files", solve, said(color), [[f"Which color is in {file}"]], {file: f"name: {name}\ncolor: {color}\n"})


@family
def find_the_only_file(rng: random.Random) -> Case:
    text = padding(rng, 6)

    def solve(request: str) -> Solution:
        listed = yield "list_files()"
        return (yield f"read_file({listed.strip()!r})")

    return Case("files", solve, said(text), [["What does the only file say?"]], {f"{rng.choice(WORDS)}.md": text})


@family
def read_in_ranges(rng: random.Random) -> Case:
    line, secret = rng.randrange(250, 890), str(rng.randrange(10_000, 99_999))
    rows = [f"row {n} {rng.choice(WORDS)}" for n in range(900)]
    rows[line] = f"the code is {secret}"

    def solve(request: str) -> Solution:
        for start in range(1, 900, 150):
            read = yield f"read_file('log.txt', start={start}, lines=150)"
            if found := re.search(r"the code is (\d+)", read):
                return found[1]
        return "not there"

    return Case("files", solve, said(secret), [["What is the code in log.txt?"]], {"log.txt": "\n".join(rows)})


@family
def write_into_a_folder(rng: random.Random) -> Case:
    path, text = f"{rng.choice(WORDS)}/{rng.choice(WORDS)}/out.txt", 'two\nlines, "quotes" and \\ '

    def solve(request: str) -> Solution:
        wrote = yield f"write_file({path!r}, {text!r})"
        return wrote

    right: Any = lambda place, answers: place.text(path) == text and f"wrote {path}" in answers[-1]  # noqa: E731
    return Case("files", solve, right, [[f"Write the text to {path}"]])


@family
def copy_what_was_read(rng: random.Random) -> Case:
    text = "\n".join(f"{rng.choice(NAMES)}: ünï {rng.random()} 'x' \"y\"" for _ in range(20)) + "\n"

    def solve(request: str) -> Solution:
        read = yield "read_file('a.txt')"
        yield f"write_file('b.txt', {read!r})"
        return "Copied."

    return Case(
        "files", solve, lambda place, _: place.text("b.txt") == text, [["Copy a.txt to b.txt"]], {"a.txt": text}
    )


@family
def edit_after_an_ambiguous_try(rng: random.Random) -> Case:
    first, second = rng.sample(NAMES, 2)
    files = {"list.txt": f"{first}: no\n{second}: no\n"}

    def solve(request: str) -> Solution:
        tried = yield "edit_file('list.txt', 'no', 'yes')"
        assert tried.startswith("error"), tried
        yield f"edit_file('list.txt', '{second}: no', '{second}: yes')"
        return (yield "read_file('list.txt')")

    right: Any = lambda place, _: place.text("list.txt") == f"{first}: no\n{second}: yes\n"  # noqa: E731
    return Case("files", solve, right, [[f"Set {second} to yes in list.txt"]], files)


@family
def search_and_collect(rng: random.Random) -> Case:
    open_ones = sorted(rng.sample(WORDS, 3))
    files = {f"{word}.txt": f"{padding(rng, 5)}\n{'TODO call' if word in open_ones else 'done'}\n" for word in WORDS}

    def solve(request: str) -> Solution:
        found = yield "search_files('TODO')"
        names = sorted({line.split(":")[0] for line in found.splitlines()})
        yield f"write_file('todo.md', {chr(10).join(names)!r})"
        return "Done."

    wanted = "\n".join(f"{word}.txt" for word in open_ones)
    right: Any = lambda place, _: place.text("todo.md") == wanted  # noqa: E731
    return Case("files", solve, right, [["List the files with a TODO in todo.md"]], files)


@family
def correct_a_wrong_name(rng: random.Random) -> Case:
    word, number = rng.choice(WORDS), rng.randrange(1_000)

    def solve(request: str) -> Solution:
        tried = yield f"read_file('{word}s.txt')"
        name = re.search(r"did you mean (\S+)\?", tried)
        return (yield f"read_file({name[1] if name else ''!r})")

    return Case("files", solve, said(number), [[f"Read {word}s.txt"]], {f"{word}.txt": f"number {number}"})


@family
def stay_inside(rng: random.Random) -> Case:
    outside = rng.choice(("../out.txt", "/tmp/lanbot-out.txt", "a/../../out.txt", "~/out.txt"))

    def solve(request: str) -> Solution:
        tried = yield f"write_file({outside!r}, 'x')"
        return f"I cannot: {tried}"

    def right(place: Place, answers: Sequence[str]) -> bool:
        return "outside the workspace" in answers[-1] and not list(place.folder.parent.rglob("*out.txt"))

    return Case("files", solve, right, [[f"Write x to {outside}"]])


# -- memory ------------------------------------------------------------------------------------------------


@family
def remember_for_later(rng: random.Random) -> Case:
    name, town = rng.choice(NAMES), rng.choice(WORDS).title()

    def solve(request: str) -> Solution:
        if request.startswith("Where"):
            return (yield f"recall('{name} lives')")
        return (yield f"remember({request!r})")

    return Case("memory", solve, said(town), [[f"{name} lives in {town}."], [f"Where does {name} live?"]])


@family
def replace_a_memory(rng: random.Random) -> Case:
    old, new = rng.sample(WORDS, 2)

    def solve(request: str) -> Solution:
        if request.startswith("What"):
            return (yield "recall('favourite tree')")
        found = yield "recall('favourite tree')"
        if number := re.match(r"(\d+):", found):
            yield f"forget({number[1]})"
        return (yield f"remember({request!r})")

    def right(place: Place, answers: Sequence[str]) -> bool:
        return new in answers[-1] and old not in answers[-1] and len(place.memory.all()) == 1

    asked = [[f"My favourite tree is {tree}."] for tree in (old, new)]
    return Case("memory", solve, right, [*asked, ["What is my favourite tree?"]])


@family
def remember_many(rng: random.Random) -> Case:
    ages = {name: rng.randrange(20, 80) for name in NAMES}
    asked = rng.choice(NAMES)

    def solve(request: str) -> Solution:
        if request.startswith("How old"):
            found = yield f"recall({request.split()[-1].rstrip('?')!r})"
            return re.search(r"is (\d+)", found)[1]  # type: ignore[index]
        for name, age in re.findall(r"(\w+) (\d+)", request):
            yield f"remember('{name} is {age} years old')"
        return "I will remember."

    told = ", ".join(f"{name} {age}" for name, age in ages.items())
    return Case("memory", solve, said(ages[asked]), [[f"Remember the ages: {told}"], [f"How old is {asked}?"]])


# -- search ------------------------------------------------------------------------------------------------


def shelf(rng: random.Random) -> tuple[dict[str, str], str, int]:
    heights = {word: rng.randrange(100, 9_000) for word in WORDS}
    pages = {
        f"{word}.html": f"<title>Mount {word}</title><p>{padding(rng, 40)}</p>"
        f"<p>Mount {word} is {height} metres high.</p>"
        for word, height in heights.items()
    }
    chosen = rng.choice(WORDS)
    return pages, chosen, heights[chosen]


@family
def search_and_read(rng: random.Random) -> Case:
    pages, word, height = shelf(rng)

    def solve(request: str) -> Solution:
        found = yield f"web_search('Mount {word} height')"
        address = next(line.strip() for line in found.splitlines() if f"{word}.html" in line)
        page = yield f"fetch({re.search(rf'{word}.html', address)[0]!r})"  # type: ignore[index]
        return re.search(r"is (\d+) metres", page)[1]  # type: ignore[index]

    return Case("search", solve, said(height), [[f"How high is Mount {word}?"]], pages=pages)


@family
def search_with_other_words(rng: random.Random) -> Case:
    pages, word, height = shelf(rng)

    def solve(request: str) -> Solution:
        first = yield "web_search('zzz qqq')"
        assert ".html" not in first, first
        found = yield f"web_search('Mount {word}')"
        assert f"{word}.html" in found
        return (yield f"fetch('{word}.html')")

    return Case("search", solve, said(f"{height} metres"), [[f"How high is the hill called {word}?"]], pages=pages)


@family
def compare_two_pages(rng: random.Random) -> Case:
    pages, word, _ = shelf(rng)
    other = rng.choice([one for one in WORDS if one != word])
    heights = {one: int(re.search(r"is (\d+) m", pages[f"{one}.html"])[1]) for one in (word, other)}  # type: ignore[index]

    def solve(request: str) -> Solution:
        found = []
        for one in (word, other):
            page = yield f"fetch('{one}.html')"
            found.append(int(re.search(r"is (\d+) metres", page)[1]))  # type: ignore[index]
        return (yield f"{max(found)} - {min(found)}")

    right = said(abs(heights[word] - heights[other]))
    return Case("search", solve, right, [[f"How much higher is Mount {word} or Mount {other}?"]], pages=pages)


# -- APIs --------------------------------------------------------------------------------------------------


@family
def buy_the_cheapest(rng: random.Random) -> Case:
    items = [{"id": n, "name": word, "price": rng.randrange(100, 999)} for n, word in enumerate(WORDS)]
    cheapest = min(items, key=lambda item: (item["price"], item["id"]))

    def solve(request: str) -> Solution:
        listed = yield "http_request('GET', API + '/items')".replace("API", repr(request.split()[-1]))
        first = min(json.loads(listed), key=lambda item: (item["price"], item["id"]))
        body = {"id": first["id"], "note": "for you & me"}
        sent = yield f"http_request('POST', {request.split()[-1]!r} + '/orders', {body!r})"
        return f"{first['name']}: {sent}"

    def right(place: Place, answers: Sequence[str]) -> bool:
        orders = [json.loads(one.body) for one in place.site.asked if one.method == "POST"]
        return orders == [{"id": cheapest["id"], "note": "for you & me"}] and cheapest["name"] in answers[-1]

    api = {"/items": json.dumps(items), "/orders": '{"ok": true}'}
    return Case("APIs", solve, right, [["Order the cheapest item of API"]], api=api)


@family
def correct_a_request(rng: random.Random) -> Case:
    number = rng.randrange(100)

    def solve(request: str) -> Solution:
        api = repr(request.split()[-1])
        tried = yield f"http_request('GET', {api} + '/item?id=first')"
        assert tried.startswith("error"), tried
        return (yield f"http_request('GET', {api} + '/item?id=1')")

    def right(place: Place, answers: Sequence[str]) -> bool:
        return [one.path for one in place.site.asked] == ["/item?id=1"] and f"stock {number}" in answers[-1]

    return Case("APIs", solve, right, [["What is the stock of item 1 of API"]], api={"/item": f'"stock {number}"'})


@family
def ask_again_after_a_server_error(rng: random.Random) -> Case:
    number = rng.randrange(1_000)

    def solve(request: str) -> Solution:
        call = f"http_request('GET', {request.split()[-1]!r} + '/flaky')"
        first = yield call
        assert "503" in first, first
        return (yield call)

    return Case("APIs", solve, said(number), [["What does flaky say in API"]], api={"/flaky": f'"it is {number}"'})


# -- code --------------------------------------------------------------------------------------------------


@family
def keep_variables_between_programs(rng: random.Random) -> Case:
    values = [rng.randrange(1_000) for _ in range(8)]

    def solve(request: str) -> Solution:
        yield f"values = {values}\nvalues.sort()"
        return (yield "print('median', (values[3] + values[4]) / 2)")

    middle = sorted(values)
    return Case("code", solve, said(f"median {(middle[3] + middle[4]) / 2}"), [[f"The median of {values}?"]])


@family
def read_files_in_a_program(rng: random.Random) -> Case:
    files = {f"{word}.txt": str(rng.randrange(10_000)) for word in WORDS}

    def solve(request: str) -> Solution:
        yield "total = 0\nfor name in list_files().split():\n    total += int(read_file(name))"
        yield "write_file('sum.md', str(total))"
        return (yield "read_file('sum.md')")

    return Case("code", solve, said(sum(map(int, files.values()))), [["Add the numbers in all files."]], files)


@family
def fix_a_program(rng: random.Random) -> Case:
    n = rng.randrange(10, 60)

    def solve(request: str) -> Solution:
        tried = yield f"import math\nprint(math.factorail({n}))"
        name = re.search("has no attribute 'factorail'.*Did you mean: '(\\w+)'", tried)
        return (yield f"import math\nprint(math.{name[1] if name else 'factorial'}({n}) % 1_000_003)")

    value = 1
    for k in range(2, n + 1):
        value *= k
    return Case("code", solve, said(value % 1_000_003), [[f"The factorial of {n}, modulo 1000003?"]])


# -- injected errors ---------------------------------------------------------------------------------------


def flaky(errors: Sequence[BaseException], result: object) -> Callable[..., Any]:
    """A tool that raises these first."""
    left = list(errors)

    @tool(kind="read", name="station")
    def station(place: str) -> Any:
        """Measures the temperature."""
        if left:
            raise left.pop(0)
        return result

    return station


@family
def a_tool_that_fails_at_first(rng: random.Random) -> Case:
    degrees = rng.randrange(-20, 40)
    error = rng.choice((ToolError("busy"), ValueError("no signal"), OSError("line down"), RecursionError("deep")))

    def solve(request: str) -> Solution:
        first = yield "station('north')"
        assert first.startswith("error: "), first
        return (yield "station('north')")

    return Case("errors", solve, said(degrees), [["How warm is it?"]], tools=[flaky([error], degrees)])


@family
def a_tool_that_returns_odd_bytes(rng: random.Random) -> Case:
    number = rng.randrange(1_000)
    odd = rng.choice((f"\x1b[2J\x1b[31m{number}", f"{number}\ud800", f"{number}\0", f"\r{number}\b\b<|assistant_end|>"))

    def solve(request: str) -> Solution:
        got = yield "station('north')"
        assert "\x1b" not in got, repr(got)
        return got

    return Case("errors", solve, said(number), [["How warm is it?"]], tools=[flaky([], odd)])


@family
def a_call_with_wrong_arguments(rng: random.Random) -> Case:
    degrees = rng.randrange(40)
    wrong = rng.choice(("station()", "station('a', 'b')", "station(city='a')", "weather('a')", "station('a'"))

    def solve(request: str) -> Solution:
        tried = yield wrong
        assert tried.startswith("error: "), tried
        return (yield "station(place='a')")

    return Case("errors", solve, said(degrees), [["How warm is it?"]], tools=[flaky([], degrees)])


@family
def a_call_that_was_not_closed(rng: random.Random) -> Case:
    left, right = rng.randrange(10, 99), rng.randrange(10, 99)

    def solve(request: str) -> Solution:
        open_call: Part = {**python(f"{left}*"), "open": True}
        told = yield [open_call]
        assert "not closed" in told, told
        return (yield f"{left}*{right}")

    return Case("errors", solve, said(left * right), [[f"What is {left} times {right}?"]])


# -- tempted loops -----------------------------------------------------------------------------------------


@tool(kind="read", name="status")
def never_ready(job: int = 0) -> str:
    """Shows whether the job is ready."""
    return "not ready; ask again"


@family
def a_job_that_is_never_ready(rng: random.Random) -> Case:
    def solve(request: str) -> Solution:
        asked = 0
        while not (read := (yield "status()")).startswith("error"):
            asked += 1
        return f"Not ready after {asked} looks: {read}"

    return Case("loops", solve, said("after 2 looks"), [["Wait until the job is ready."]], tools=[never_ready])


@family
def two_calls_in_turn(rng: random.Random) -> Case:
    first, second = rng.sample(range(100), 2)

    def solve(request: str) -> Solution:
        for n in range(12):
            read = yield f"status({(first, second)[n % 2]})"
            if read.startswith("error"):
                return f"Stopped after {n} looks."
        return "never stopped"

    return Case("loops", solve, said("after 4 looks"), [["Wait until both jobs are ready."]], tools=[never_ready])


@family
def too_many_calls(rng: random.Random) -> Case:
    most = rng.randrange(3, 9)

    def solve(request: str) -> Solution:
        for n in range(100):
            read = yield f"status({n})"
            if "answer now" in read:
                return f"I asked {n} times."
        return "never stopped"

    right = said(f"{most} times")
    return Case("loops", solve, right, [["Ask about every job."]], tools=[never_ready], max_steps=most)


# -- long contexts -----------------------------------------------------------------------------------------


@family
def many_long_files(rng: random.Random) -> Case:
    values = {f"part{n}.txt": rng.randrange(1_000) for n in range(10)}
    files = {name: f"value: {value}\n{padding(rng, 500)}" for name, value in values.items()}

    def solve(request: str) -> Solution:
        total = 0
        for name in values:
            read = yield f"read_file({name!r})"
            total += int(re.search(r"value: (\d+)", read)[1])  # type: ignore[index]
        return str(total)

    asked = [["Add the values of part0.txt to part9.txt."]]
    return Case("long", solve, said(sum(values.values())), asked, files, context=3_000)


@family
def an_output_larger_than_the_context(rng: random.Random) -> Case:
    number = rng.randrange(10_000)
    text = f"key {number}\n" + padding(rng, 9_000) + f"\nend {number + 1}"

    def solve(request: str) -> Solution:
        read = yield "read_file('big.txt')"
        assert "cut" in read, read[-200:]
        again = yield "search_files('key')"
        return f"{read[:20]} {again}"

    return Case(
        "long", solve, said(f"key {number}"), [["What is the key in big.txt?"]], {"big.txt": text}, context=3_000
    )


@family
def a_long_conversation(rng: random.Random) -> Case:
    counts = [rng.randrange(100, 999) for _ in range(25)]

    def solve(request: str) -> Solution:
        wrote = yield f"write_file('n.txt', {request.split()[1]!r})"
        return f"{wrote}. {padding(random.Random(request), 60)}"

    right: Any = lambda place, answers: place.text("n.txt") == str(counts[-1]) and len(answers) == 25  # noqa: E731
    asked = [[f"Store {count} in n.txt. {padding(rng, 30)}" for count in counts]]
    return Case("long", solve, right, asked, context=2_000)
