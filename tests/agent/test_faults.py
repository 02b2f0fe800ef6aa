"""Tools that hang, crash, return too much or what is no text: each is a clear line to the model and the user."""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted_client import Scripted, calling, said

from lanbot.agent.events import Called, Event
from lanbot.agent.limits import Limits
from lanbot.agent.loop import Agent
from lanbot.chat.messages import parts
from lanbot.tools.memory import Memory
from lanbot.tools.permissions import Answer, Permitted, Policy
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.question import Question
from lanbot.tools.tool import Toolset, Wrapper
from lanbot.tools.workspace import Workspace


def line(function: Callable[..., Any], **limits: Any) -> str:
    """What model and user read of a call of this tool; the turn goes on after it."""
    heard: list[Event] = []
    model = Scripted(calling(f"{function.__name__}()"), said("I see."), context=4_000)
    turn = Agent(model, PythonCalls(Toolset([function])), Limits(**limits)).turn("Do it.", heard.append)
    assert turn.ended == "answered"
    (shown,) = [event.output for event in heard if isinstance(event, Called)]
    assert parts(model.read[1][-1])[-1]["text"] == shown
    return shown


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """Set at the end of a test, so that what hangs does not outlive it."""
    made = threading.Event()
    yield made
    made.set()


def test_a_tool_that_hangs_is_left_behind(end: threading.Event) -> None:
    def hangs() -> str:
        end.wait(60)
        return "late"

    assert line(hangs, max_call_seconds=0.2) == "error: no result after 0.2 s; it may still be running"


def test_an_async_tool_that_hangs_is_left_behind(end: threading.Event) -> None:
    async def hangs() -> str:
        end.wait(60)
        return "late"

    assert line(hangs, max_call_seconds=0.2).startswith("error: no result after 0.2 s")


def test_a_tool_that_crashes_is_an_error_and_not_the_end_of_the_program() -> None:
    def crashes() -> str:
        raise RuntimeError("no connection to the printer")

    def leaves() -> str:
        sys.exit(3)

    def recurses() -> str:
        return recurses()

    def silent() -> str:
        raise ValueError

    assert line(crashes) == "error: no connection to the printer"
    assert line(leaves) == "error: it ended with SystemExit"
    assert line(recurses).startswith("error: maximum recursion depth exceeded")
    assert line(silent) == "error: ValueError"


def test_a_gigabyte_is_bounded_and_its_size_is_said() -> None:
    def floods() -> str:
        return "spam" * (1 << 28)

    shown = line(floods, max_tokens=2_000)
    assert shown.startswith("(the result is 1,073,741,824 characters; only its beginning is shown)\nspam")
    assert len(shown) < 2_100


def test_an_error_of_a_megabyte_is_bounded() -> None:
    def crashes() -> str:
        raise RuntimeError("x" * (1 << 20))

    assert line(crashes).startswith("error: xxx") and len(line(crashes)) < 2_100


def test_bytes_are_read_as_utf8_and_refused_if_they_are_none() -> None:
    def good() -> bytes:
        return "é".encode()

    def bad() -> bytes:
        return b"ab\xff\xfe"

    def huge() -> bytes:
        return "é".encode() * 10_000_000

    assert line(good) == "é"
    assert line(bad) == "error: the result is 4 bytes that are not UTF-8 text (at byte 2)"
    assert line(huge).startswith("(the result is 20,000,000 bytes; only its beginning is shown)\néé")


def test_surrogates_and_terminal_escapes_are_made_visible() -> None:
    def escapes() -> str:
        return "\x1b[2J\x1b]0;title\x07red\x9b31m \ud800 ok\u202e"

    shown = line(escapes)
    assert shown == "␛[2J␛]0;title␇red␡31m ? ok[U+202E]"
    shown.encode()


def test_the_time_a_user_takes_to_allow_a_call_does_not_count(end: threading.Event) -> None:
    waited = []

    def approve(question: Question) -> Answer:
        waited.append(threading.current_thread() is threading.main_thread())
        end.wait(0.5)
        return "once"

    def quick() -> str:
        return "done"

    agent = Agent(
        Scripted(calling("quick()"), said("ok")),
        PythonCalls(Permitted(Toolset([quick]), Policy(), Workspace({}), approve)),
        Limits(max_call_seconds=0.2),
    )
    turn = agent.turn("?")
    assert parts(turn.message)[1]["text"] == "done" and waited == [True], "asked in the thread that asks the model"


def test_limits_hold_through_every_wrapper_and_memory_works_in_a_thread_of_its_own() -> None:
    memory = Memory()
    agent = Agent(
        Scripted(calling('remember("tea")'), calling('recall("tea")'), said("ok")),
        PythonCalls(Wrapper(Wrapper(Toolset(memory.tools)))),
    )
    assert [part["text"] for part in parts(agent.turn("?").message)[1::2]] == ["remembered as 1", "1: tea"]
