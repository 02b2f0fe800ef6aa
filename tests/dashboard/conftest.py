"""Dashboards over made runs."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser  # noqa: F401  (a fixture)
from made_runs import Made

from lanbot.dashboard.app import make_app
from lanbot.dashboard.watched import Runs
from lanbot.web.security import Access
from lanbot.web.server import listen, make_server

Open = Callable[..., Any]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "runs")


@pytest.fixture
def serve(made: Made) -> Iterator[Callable[..., str]]:
    """serve(*names, access) -> the address of a dashboard over the made runs."""
    servers: list[tuple[Any, threading.Thread]] = []

    def start(*names: str, access: Access = Access()) -> str:  # noqa: B008  (frozen)
        server = make_server(make_app(Runs(names, made.options), access))
        listener = listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        servers.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def open_page(browser, serve) -> Iterator[Open]:  # noqa: F811
    """open_page(*names, width, path, **of the context) -> the page; fails at the end if it asked another host for
    anything, broke its own policy or raised an error."""
    contexts, troubles = [], []

    def open_(*names: str, width: int = 1_200, path: str = "", access: Access = Access(), **more: Any) -> Any:  # noqa: B008
        url = serve(*names, access=access)
        context = browser.new_context(viewport={"width": width, "height": 900}, **more)
        context.set_default_timeout(8_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda said: troubles.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda sent: troubles.append(sent.url) if not sent.url.startswith(url) else None)
        page.goto(url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []
