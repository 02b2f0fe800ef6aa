"""A turn on a terminal while it happens."""

import io
import time

import pytest

from lanbot.agent.events import Asked, Called, Calling, Compacted, Event, Streamed
from lanbot.agent.live import Live, Waiting, shortened
from lanbot.core import console


def shown(*events: Event) -> str:
    out = io.StringIO()
    live = Live(out)
    for event in events:
        live(event)
    live.close()
    return out.getvalue()


def streamed(part: str, text: str) -> list[Event]:
    return [Streamed("open", part), Streamed("piece", part, text), Streamed("close", part)]


def test_a_call_is_shown_once_with_its_output_and_how_long_it_took() -> None:
    call = streamed("call", "fetch(url='x')")
    assert shown(Asked("?"), *call, Calling(1, "fetch(url='x')"), Called(1, "page", 2.34)) == (
        "    >>> fetch(url='x')\n    page\n    (2.3 s)\n"
    )
    assert shown(Calling(1, "2+2"), Called(1, "4")) == "    >>> 2+2\n    4\n"  # of a turn that is continued


def test_a_long_output_is_shortened_and_that_is_said() -> None:
    text = shown(Calling(1, "x"), Called(1, "\n".join(map(str, range(100)))))
    assert "\n    14\n    [80 more lines]\n    95\n" in text and text.endswith("    99\n")
    assert len(shortened("x" * 100_000)) < 2_100 and "[98,000 more characters]" in shortened("x" * 100_000)
    assert shortened("short\n") == "short\n"


def test_compaction_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(Streamed("piece", "text", "half"), Compacted([], "2 older turns summed up", 900, 300)) == "half\n"
    assert "2 older turns summed up; 900 tokens became 300" in capsys.readouterr().err


def test_what_is_waited_for_is_said_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(err, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setattr(console, "FIRST_SECONDS", 0.0)
    waiting = Waiting()
    waiting.start("fetch('x')")
    while "fetch('x') | " not in err.getvalue():
        time.sleep(0.01)
    waiting.stop()
    assert err.getvalue().endswith("\r\x1b[2K")
    waiting.stop()
