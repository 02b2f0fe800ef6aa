"""Dashboards over made runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser  # noqa: F401  (a fixture)
from made_runs import Made
from servers import servers

from lanbot.dashboard.app import make_app
from lanbot.dashboard.watched import Runs
from lanbot.web.security import Access

Open = Callable[..., Any]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "runs")


@pytest.fixture
def serve(made: Made) -> Iterator[Callable[..., str]]:
    """serve(*names, access) -> the address of a dashboard over the made runs."""
    with servers() as start:
        yield lambda *names, access=Access(): start(make_app(Runs(names, made.options), access))  # noqa: B008  (frozen)


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
