"""`web_search` with interchangeable back ends: services by their keys in the environment, or a folder of texts."""

import json
import os
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Any
from urllib.parse import urlencode, urlsplit

from lanbot.core.console import visible
from lanbot.core.errors import UserError
from lanbot.tools.fetch import readable
from lanbot.tools.tool import ToolError, tool
from lanbot.tools.web import Web
from lanbot.tools.words import content_words, words
from lanbot.tools.workspace import Workspace

RESULTS = 5
MAX_QUERY = 400  # characters: the least of what the services take
MAX_SNIPPET = 300
_MARKS = re.compile("</?(?:strong|b|em)>")  # around the query's words, by some services


@dataclass(frozen=True)
class Found:
    title: str
    url: str
    snippet: str


@dataclass(frozen=True)
class Service:
    """A back end: how it is asked, and where its answer has the results.

    variable: the environment variable with its key, or for one of your own its address. url: where it is asked; "" if
    the variable says it. header: the key's header and its text. request: the query's parameters, of the address or,
    with post, of a JSON body. results: the path to the list of results. fields: a result's title, address and snippet.
    """

    name: str
    variable: str
    url: str
    header: tuple[str, str] | None
    request: Callable[[str], Mapping[str, Any]]
    post: bool
    results: tuple[str, ...]
    fields: tuple[str, str, str]


SERVICES = (
    Service(
        "Brave",
        "BRAVE_API_KEY",
        "https://api.search.brave.com/res/v1/web/search",
        ("X-Subscription-Token", "{}"),
        lambda query: {"q": query, "count": RESULTS},
        False,
        ("web", "results"),
        ("title", "url", "description"),
    ),
    Service(
        "Tavily",
        "TAVILY_API_KEY",
        "https://api.tavily.com/search",
        ("Authorization", "Bearer {}"),
        lambda query: {"query": query, "max_results": RESULTS},
        True,
        ("results",),
        ("title", "url", "content"),
    ),
    Service(
        "Exa",
        "EXA_API_KEY",
        "https://api.exa.ai/search",
        ("x-api-key", "{}"),
        lambda query: {"query": query, "numResults": RESULTS, "contents": {"text": {"maxCharacters": MAX_SNIPPET}}},
        True,
        ("results",),
        ("title", "url", "text"),
    ),
    Service(
        "Serper",
        "SERPER_API_KEY",
        "https://google.serper.dev/search",
        ("X-API-KEY", "{}"),
        lambda query: {"q": query, "num": RESULTS},
        True,
        ("organic",),
        ("title", "link", "snippet"),
    ),
    Service(
        "SearXNG",
        "SEARXNG_URL",
        "",
        None,
        lambda query: {"q": query, "format": "json"},
        False,
        ("results",),
        ("title", "url", "content"),
    ),
)
"""In the order in which they are looked for."""
Backend = Callable[[str], Sequence[Found]]


class Search:
    """The tool `web_search` over one back end."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @tool(kind="network")
    def web_search(self, query: str) -> str:
        """Searches the web.

        Args:
            query: A few words.

        Returns:
            for each result a line TITLE (ADDRESS) and a line of its text, or nothing found
        """
        query = " ".join(str(query).split())
        if not query:
            raise ToolError("the query is empty")
        found = self.backend(query[:MAX_QUERY])[:RESULTS]
        lines = [f"{_line(one.title) or one.url} ({_line(one.url)})\n{_line(one.snippet)}" for one in found]
        return "\n".join(lines) or "nothing found"


def open_search(folder: str = "") -> Search:
    """The search over a folder; without one, by the first service whose key is set, or by the package ddgs.

    Raises UserError if there is none.
    """
    if folder:
        if not Path(folder).is_dir():
            raise UserError(f"agent.search = {folder!r}: no such folder", "Name the folder of the texts to search.")
        return Search(FolderSearch(Workspace(Path(folder))))
    for service in SERVICES:
        if os.environ.get(service.variable, "").strip():
            return Search(ServiceSearch(service, os.environ[service.variable].strip()))
    if find_spec("ddgs"):
        return Search(ddgs_search)
    variables = ", ".join(service.variable for service in SERVICES)
    remedy = f"Set one of {variables}; or pip install ddgs; or set agent.search to a folder of texts."
    raise UserError("web_search: no search service is set up", remedy)


@dataclass(frozen=True)
class ServiceSearch:
    """A service, asked with a key, or at an address of your own."""

    service: Service
    value: str = field(repr=False)

    def __call__(self, query: str) -> list[Found]:
        service = self.service
        url, headers = service.url or self.value.rstrip("/") + "/search", {"Accept": "application/json"}
        if service.header:
            headers[service.header[0]] = service.header[1].format(self.value)
        asked, body = service.request(query), b""
        if service.post:
            headers["Content-Type"], body = "application/json", json.dumps(asked).encode()
        else:
            url += "?" + urlencode(asked)
        place = urlsplit(url)
        port = place.port or {"http": 80}.get(place.scheme, 443)
        web = Web([(place.hostname or "", port)])  # the user named it: it may be on this machine
        response = web.send("POST" if service.post else "GET", url, headers, body)
        if response.status != 200:
            raise ToolError(f"{service.name} answers {response.status} {response.reason}".rstrip())
        try:
            listed: Any = json.loads(response.body)
            for step in service.results:
                listed = listed.get(step) or {}
            return [Found(*(str(one.get(name) or "") for name in service.fields)) for one in listed]
        except (ValueError, AttributeError, TypeError):
            raise ToolError(f"{service.name} answers something else than results") from None


def ddgs_search(query: str) -> list[Found]:
    """By the package ddgs, which asks several engines without a key."""
    from ddgs import DDGS
    from ddgs.exceptions import DDGSException

    try:
        found = DDGS(timeout=10).text(query, max_results=RESULTS)
    except DDGSException as error:
        if "no results" in str(error).lower():
            return []
        raise ToolError(f"ddgs: {' '.join(str(error).split())[:200]}") from None
    return [Found(*(str(one.get(name) or "") for name in ("title", "href", "body"))) for one in found]


class FolderSearch:
    """Passages of the texts in a folder, which is read at the first query; a result's address is the file's name."""

    def __init__(self, folder: Workspace) -> None:
        self.folder = folder
        self.database: sqlite3.Connection | None = None

    def __call__(self, query: str) -> list[Found]:
        if self.database is None:
            self.database = self._read()
        wanted = content_words(query)[:32]
        if not wanted:
            return []
        rows = self.database.execute(
            "select name, title, text, min(rank) from (select rowid as id, rank from words where words match ? "
            "order by rank limit 200) join passages using (id) group by name order by min(rank), name limit ?",
            (" OR ".join(f'"{word}"' for word in wanted), RESULTS),
        )
        return [Found(title, name, text) for name, title, text, _ in rows]

    def _read(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:", check_same_thread=False)
        database.execute("create table passages (id integer primary key, name text, title text, text text)")
        database.execute("create virtual table words using fts5 (text, tokenize = 'porter unicode61')")
        for name in self.folder.names():
            try:
                text = self.folder.store.read(name)
            except ToolError:  # not text
                continue
            text = readable(text) if name.endswith((".html", ".htm")) else text
            lines = [line for line in (" ".join(line.split()) for line in text.split("\n")) if line.strip("#= ")]
            title = lines[0].strip("#= ") if lines else name
            for passage in _passages(lines[1:]) or [title]:
                row = (name, title, passage)
                number = database.execute("insert into passages (name, title, text) values (?, ?, ?)", row).lastrowid
                indexed = " ".join(words(f"{name} {title} {passage}"))
                database.execute("insert into words (rowid, text) values (?, ?)", (number, indexed))
        return database


def _passages(lines: list[str]) -> list[str]:
    """Lines in pieces of at most MAX_SNIPPET characters, cut between lines where that is possible."""
    pieces: list[str] = []
    for line in lines:
        for part in wrap(line, MAX_SNIPPET):
            if pieces and len(pieces[-1]) + len(part) < MAX_SNIPPET:
                pieces[-1] += " " + part
            else:
                pieces.append(part)
    return pieces


def _line(text: str) -> str:
    """One line, shortened; control characters are made visible."""
    text = visible(" ".join(_MARKS.sub("", text).split()))
    return text if len(text) <= MAX_SNIPPET else text[: MAX_SNIPPET - 4] + " ..."
