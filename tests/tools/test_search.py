"""web_search: each service is asked as its API wants it, and all answers look the same to the model."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from local_site import Site

from lanbot.core.errors import UserError
from lanbot.tools import search
from lanbot.tools.fetch import Pages
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.search import SERVICES, Found, Search, ServiceSearch, open_search
from lanbot.tools.tool import Toolset
from lanbot.tools.web import Web
from lanbot.tools.workspace import Workspace

JSON = {"Content-Type": "application/json"}
ANSWERS: dict[str, dict[str, Any]] = {
    "Brave": {
        "type": "search",
        "query": {"original": "green tea", "more_results_available": True},
        "web": {
            "type": "search",
            "results": [
                {
                    "title": "Green tea",
                    "url": "https://tea.example/green",
                    "description": "Green <strong>tea</strong> is\nnot black.",
                    "profile": {"name": "Tea"},
                    "age": "2 days ago",
                    "family_friendly": True,
                }
            ],
        },
    },
    "Tavily": {
        "query": "green tea",
        "answer": None,
        "images": [],
        "response_time": "1.67",
        "results": [
            {
                "title": "Green tea",
                "url": "https://tea.example/green",
                "content": "Green tea is not black.",
                "score": 0.81,
                "raw_content": None,
            }
        ],
    },
    "Exa": {
        "requestId": "b5947044c4b78efa9552a7c89b306d95",
        "resolvedSearchType": "neural",
        "results": [
            {
                "title": "Green tea",
                "url": "https://tea.example/green",
                "id": "https://tea.example/green",
                "publishedDate": None,
                "author": "",
                "text": "Green tea is not black.",
            }
        ],
        "costDollars": {"total": 0.005},
    },
    "Serper": {
        "searchParameters": {"q": "green tea", "type": "search", "num": 5},
        "organic": [
            {
                "title": "Green tea",
                "link": "https://tea.example/green",
                "snippet": "Green tea is not black.",
                "position": 1,
            }
        ],
        "relatedSearches": [{"query": "black tea"}],
    },
    "SearXNG": {
        "query": "green tea",
        "number_of_results": 0,
        "results": [
            {
                "url": "https://tea.example/green",
                "title": "Green tea",
                "content": "Green tea is not black.",
                "engine": "startpage",
                "parsed_url": ["https", "tea.example", "/green", "", "", ""],
                "score": 1.0,
            }
        ],
        "answers": [],
        "suggestions": [],
        "unresponsive_engines": [["bing", "timeout"]],
    },
}
ASKED: dict[str, tuple[str, str, str, Any]] = {
    "Brave": ("GET", "x-subscription-token", "k3y", {"q": "green tea", "count": "5"}),
    "Tavily": ("POST", "authorization", "Bearer k3y", {"query": "green tea", "max_results": 5}),
    "Exa": (
        "POST",
        "x-api-key",
        "k3y",
        {"query": "green tea", "numResults": 5, "contents": {"text": {"maxCharacters": 300}}},
    ),
    "Serper": ("POST", "x-api-key", "k3y", {"q": "green tea", "num": 5}),
    "SearXNG": ("GET", "accept", "application/json", {"q": "green tea", "format": "json"}),
}
services = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)


def local(service: search.Service, site: Site) -> Search:
    """A service whose API is a site on this machine."""
    there = replace(service, url=f"{site.url}/search" if service.url else "")
    return Search(ServiceSearch(there, "k3y" if service.url else site.url + "/"))


@services
def test_a_service_is_asked_and_read_as_its_api_says(service: search.Service, site: Site) -> None:
    site.answers["/search"] = (200, JSON, json.dumps(ANSWERS[service.name]).encode())
    said = local(service, site).web_search(" green \n tea ")
    assert said == "Green tea (https://tea.example/green)\nGreen tea is not black."
    (asked,) = site.asked
    method, header, value, sent = ASKED[service.name]
    assert (asked.method, asked.headers[header]) == (method, value)
    if method == "POST":
        assert (json.loads(asked.body), asked.headers["content-type"]) == (sent, "application/json")
    else:
        assert dict(part.split("=") for part in asked.path.partition("?")[2].split("&")) == {
            name: text.replace(" ", "+") for name, text in sent.items()
        }


@services
def test_what_a_service_says_instead_is_an_error_without_the_key(service: search.Service, site: Site) -> None:
    calls = PythonCalls(Toolset([local(service, site).web_search]))
    for status, body, said in [
        (401, b'{"message": "k3y is wrong"}', f"error: {service.name} answers 401 Unauthorized"),
        (429, b"", f"error: {service.name} answers 429 Too Many Requests"),
        (302, b"", f"error: {service.name} answers 302 Found"),
        (200, b"<html>", f"error: {service.name} answers something else than results"),
        (200, b"[1]", f"error: {service.name} answers something else than results"),
        (200, b"{}", "nothing found"),
        (200, b'{"results": null, "organic": [], "web": {}}', "nothing found"),
    ]:
        site.answers["/search"] = (status, {"Location": "http://evil.example/"}, body)
        assert calls('web_search("tea")') == said


def test_the_key_chooses_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    for service in SERVICES:
        monkeypatch.delenv(service.variable, raising=False)
    with pytest.raises(UserError, match="no search service is set up") as raised:
        open_search()
    assert all(service.variable in raised.value.remedy for service in SERVICES)
    for service in reversed(SERVICES):
        monkeypatch.setenv(service.variable, "k3y")
        backend = open_search().backend
        assert isinstance(backend, ServiceSearch) and backend.service is service and "k3y" not in repr(backend)


def test_results_are_short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Found("a\x1b[2J", "https://a.example/", "word " * 100), Found("", "https://b.example/", "")] * 9
    asked: list[str] = []
    made = Search(lambda query: [asked.append(query), *many][1:])  # type: ignore[func-returns-value,list-item]
    lines = made.web_search("tea " * 1_000).split("\n")
    assert len(lines) == 10 and lines[0] == "a␛[2J (https://a.example/)" and len(lines[1]) == 300
    assert lines[2] == "https://b.example/ (https://b.example/)"
    assert len(asked[0]) == 400
    assert Toolset([made.web_search])["web_search"].kind == "network"
    assert PythonCalls(Toolset([made.web_search]))('web_search(" ")') == "error: the query is empty"


def test_ddgs_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    class DDGSException(Exception):  # noqa: N818
        pass

    class DDGS:
        def __init__(self, timeout: int) -> None:
            pass

        def text(self, query: str, max_results: int) -> list[dict[str, str]]:
            if query == "nothing":
                raise DDGSException("No results found.")
            if query == "limit":
                raise DDGSException("202 Ratelimit")
            return [{"title": "Green tea", "href": "https://tea.example/", "body": "Not black."}]

    for service in SERVICES:
        monkeypatch.delenv(service.variable, raising=False)
    monkeypatch.setattr(search, "find_spec", lambda name: name == "ddgs")
    monkeypatch.setitem(sys.modules, "ddgs", SimpleNamespace(DDGS=DDGS))
    monkeypatch.setitem(sys.modules, "ddgs.exceptions", SimpleNamespace(DDGSException=DDGSException))
    calls = PythonCalls(Toolset([open_search().web_search]))
    assert calls('web_search("tea")') == "Green tea (https://tea.example/)\nNot black."
    assert calls('web_search("nothing")') == "nothing found"
    assert calls('web_search("limit")') == "error: ddgs: 202 Ratelimit"


def test_the_package_ddgs_is_as_it_is_used_here() -> None:
    ddgs = pytest.importorskip("ddgs", reason="the extra `agent` is not installed")
    from ddgs.exceptions import DDGSException

    assert issubclass(DDGSException, Exception) and callable(ddgs.DDGS(timeout=10).text)


# -- offline -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "drinks").mkdir()
    (tmp_path / "drinks" / "tea.md").write_text(
        "# All about tea\n\nTea comes from China.\n\n" + "Leaves. " * 200 + "Oolong."
    )
    (tmp_path / "coffee.txt").write_text("Coffee\nCoffee beans are roasted. Some people drink tea instead.")
    (tmp_path / "cats.html").write_text(
        "<title>Cats</title><nav>tea</nav><article><p>Cats sleep all day.</p></article>"
    )
    (tmp_path / "中文.txt").write_text("我的猫叫汤姆")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0tea")
    return tmp_path


def test_a_folder_is_searched_and_its_results_can_be_fetched(folder: Path) -> None:
    pages = Pages(Web(), Workspace(folder))
    calls = PythonCalls(Toolset([open_search(str(folder)).web_search, pages.fetch]))
    assert calls('web_search("where does TEA come from?")').split("\n")[0] == "All about tea (drinks/tea.md)"
    assert calls('web_search("roasting beans")').startswith("Coffee (coffee.txt)\nCoffee beans are roasted.")
    assert "Oolong." in calls('web_search("oolong")') and calls('web_search("猫")').startswith(
        "我的猫叫汤姆 (中文.txt)"
    )
    assert calls('web_search("cats sleeping")') == "Cats (cats.html)\nCats sleep all day."
    assert calls('web_search("quux")') == calls('web_search("?!")') == "nothing found"
    assert calls('fetch("drinks/tea.md")').startswith("# All about tea")
    assert len(calls('web_search("tea")').split("\n")) == 4  # a file once, not its menu, no image


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_search(str(tmp_path / "nowhere"))
