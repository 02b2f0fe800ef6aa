"""The harness solves every task of the suite when the model does the right thing."""

import json
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cases import Case, Place, cases
from local_site import Site
from oracle import Oracle

from lanbot.agent.events import Compacted
from lanbot.agent.limits import Limits
from lanbot.agent.loop import Agent
from lanbot.chat.messages import spoken
from lanbot.sandbox.sandbox import Sandbox
from lanbot.tools.api import Apis, open_api
from lanbot.tools.fetch import Pages
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.python_tool import Python
from lanbot.tools.search import open_search
from lanbot.tools.tool import Tool, Toolset
from lanbot.tools.workspace import Workspace

CASES = cases()
SYSTEM = "You do what is asked."


def test_the_suite_is_large_and_mixed() -> None:
    kinds = Counter(case.kind for _, case in CASES)
    assert sum(kinds.values()) >= 120
    assert set(kinds) == {"files", "memory", "search", "APIs", "code", "errors", "loops", "long"}
    assert min(kinds.values()) >= 15


@pytest.fixture(scope="module")
def box():  # type: ignore[no-untyped-def]
    with Sandbox() as made:
        yield made


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES])
def test_the_oracle_solves(case: Case, tmp_path: Path, site: Site, box: Sandbox) -> None:
    place = Place(tmp_path / "files", tmp_path / "pages", Memory(tmp_path / "memory.db"), site)
    for folder, texts in ((place.folder, case.files), (place.pages, case.pages)):
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text)
    tools, python = toolset(case, place, tmp_path, box)
    answers: list[str] = []
    for requests in case.requests:  # the agent and its model are new in each conversation
        asked = [request.replace("API", site.url) for request in requests]
        model = Oracle(case.solve, asked, case.context, SYSTEM)
        agent = Agent(model, PythonCalls(tools), Limits(max_steps=case.max_steps, max_tokens=100_000), system=SYSTEM)
        for request in asked:
            turn = agent.turn(request)
            assert turn.ended == case.ended, (turn.ended, turn.message)
            answers.append(spoken(turn.message))
        if case.kind == "long":
            bounded = [event for event in agent.events if isinstance(event, Compacted) or "cut" in str(event)]
            assert bounded, "nothing had to be shortened: the task is too easy"
    assert case.right(place, answers), answers
    python.close()
    place.memory.close()


def toolset(case: Case, place: Place, folder: Path, box: Sandbox) -> tuple[Toolset, Python]:
    python = Python(box)
    made = [*Workspace(place.folder).tools, *place.memory.tools, Tool.from_function(python.run), *case.tools]
    if case.pages:
        made += [open_search(str(place.pages)).web_search, Pages(place.site.web, Workspace(place.pages)).fetch]
    if case.api:
        made += Apis(place.site.web, [open_api(described(case, place.site, folder), "")]).tools
    tools = Toolset(made)
    python.toolset = tools
    return tools, python


def described(case: Case, site: Site, folder: Path) -> str:
    """The API of a case on the local server, and its description."""
    paths: dict[str, dict[str, object]] = {}
    for path, body in case.api.items():
        answer = (200, {"Content-Type": "application/json"}, body.encode())
        site.answers[path] = Flaky(answer) if path == "/flaky" else answer
        number = {"name": "id", "in": "query", "schema": {"type": "integer"}}
        posts = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}
        paths[path] = {"post": posts} if path == "/orders" else {"get": {"parameters": [number]}}
    file = folder / "api.json"
    info = {"title": "shop", "version": "1"}
    file.write_text(json.dumps({"openapi": "3.0.3", "info": info, "servers": [{"url": site.url}], "paths": paths}))
    return str(file)


class Flaky:
    """An answer of the local server that fails at first."""

    def __init__(self, answer: tuple[int, dict[str, str], bytes]) -> None:
        self.answers = [(503, {}, b"try later"), answer]

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        status, headers, body = self.answers.pop(0)
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
