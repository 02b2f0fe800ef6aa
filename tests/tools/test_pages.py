"""A page of the web as a reader reads it."""

import importlib.util
from pathlib import Path

import pytest
from local_site import Site

from lanbot.tools import fetch
from lanbot.tools.fetch import CUT, MAX_TEXT, Pages
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

PAGE = """<!doctype html><html><head><title>All about&nbsp;tea</title><style>p { color: red }</style>
<script>track("you")</script></head><body><nav><a href="/">Home</a><a href="/shop">Shop</a></nav>
<article><h1>All about tea</h1><p>Tea is a drink that is made from the leaves of a plant, and it was first drunk in
China, where people have grown it for a very long time.</p><p>Green tea &amp; black tea come from the <b>same</b> plant,
which surprises many people who hear of it for the first time.</p><!-- a note --></article>
<footer>All rights reserved</footer></body></html>"""


@pytest.fixture(params=["trafilatura", "without"])
def extractor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With trafilatura, and without it."""
    if request.param == "trafilatura":
        pytest.importorskip("trafilatura", reason="the extra `agent` is not installed")
    else:
        monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    return str(request.param)


@pytest.mark.usefixtures("extractor")
def test_a_page_is_its_title_and_its_text(site: Site) -> None:
    site.answers["/tea"] = PAGE.encode()
    said = Pages(site.web).fetch(site.url + "/tea")
    assert said.startswith("All about tea\n")
    assert "Green tea & black tea come from the same plant" in " ".join(said.split())
    for unread in ("track", "color", "Shop", "rights reserved", "a note", "<"):
        assert unread not in said


@pytest.mark.usefixtures("extractor")
@pytest.mark.parametrize("piece", ["<!--", "<a ", '<a x="', "</", "<![CDATA[", "<div>", "<script>", "<", "&lt"])
def test_a_page_made_to_hang_its_reader_is_read(piece: str, site: Site) -> None:
    site.answers["/"] = f"<p>first</p>{piece * 100_000}".encode()
    assert Pages(site.web).fetch(site.url).startswith("first")


def test_a_call_reads_a_page_and_says_what_is_wrong(site: Site) -> None:
    site.answers |= {
        "/data": (200, {"Content-Type": "application/json"}, b'{"tea": 3}'),
        "/image": (200, {"Content-Type": "image/png"}, b"\x89PNG\0"),
        "/long": (200, {"Content-Type": "text/plain"}, b"word " * 20_000),
        "/bytes": (200, {"Content-Type": "text/plain; charset=utf-8"}, b"caf\xe9 \x1b[2J\x07"),
        "/latin": (200, {"Content-Type": "text/plain; charset=ISO-8859-1"}, b"caf\xe9"),
        "/meta": (200, {"Content-Type": "text/html"}, b'<meta charset="windows-1252"><p>caf\xe9 \x80</p>'),
        "/odd": (200, {"Content-Type": "text/plain; charset=zip"}, b"tea"),
    }
    calls = PythonCalls(Toolset([Pages(site.web).fetch]))
    assert calls(f'fetch("{site.url}/data")') == '{"tea": 3}'
    assert calls(f'fetch(url="{site.url}/data").count("tea")') == "1"
    assert calls(f'fetch("{site.url}/gone")') == f"error: {site.url}/gone answers 404 Not Found"
    assert calls(f'fetch("{site.url}/image")') == f"error: {site.url}/image is image/png, which cannot be read as text"
    assert calls(f'fetch("{site.url}/bytes")') == "caf\ufffd ␛[2J␇"
    assert calls(f'fetch("{site.url}/latin")') == "café"
    assert calls(f'fetch("{site.url}/meta")') == "café €"
    assert calls(f'fetch("{site.url}/odd")') == "tea"
    assert calls('fetch("http://localhost/")').startswith("error: localhost is not on the public internet")
    long = Pages(site.web).fetch(site.url + "/long")
    assert len(long) == MAX_TEXT and long.endswith(CUT)
    assert Toolset([Pages(site.web).fetch])["fetch"].kind == "network"


def test_a_page_of_a_folder_is_read_by_its_name(site: Site, tmp_path: Path) -> None:
    (tmp_path / "tea.html").write_text(PAGE)
    (tmp_path / "tea.txt").write_text("Tea is hot.")
    calls = PythonCalls(Toolset([Pages(site.web, Workspace(tmp_path)).fetch]))
    assert calls('fetch("tea.txt")') == "Tea is hot."
    assert calls('fetch("tea.html")').startswith("All about tea\n")
    assert calls('fetch("../secret")').startswith("error: ../secret is outside")
    assert site.asked == []


def test_the_fallback_is_there_without_the_extra() -> None:
    assert importlib.util.find_spec("lanbot.tools.fetch")
    assert fetch._all_text("<ul><li>one<li>two</ul><p>a<br>b") == "one\ntwo\na\nb"
