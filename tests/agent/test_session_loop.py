"""Sessions with the agent's own loop: killed after any event and within a call, a turn goes on to its answer."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_client import Scripted, calling, said

from lanbot.agent.events import INTERRUPTED, Called, Calling, Ended, Event, Replied
from lanbot.agent.loop import Agent
from lanbot.agent.sessions import Sessions
from lanbot.agent.training_rows import training_row
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset

REQUEST = "Note a, then b."
REPLIES = [calling('note("a")', words="First"), calling('note("b")'), said("Both are noted.")]
EVENTS = 9  # of the turn: asked, three replies, two calls of two events each, ended


def agent(folder: Path, events: list[Event], die: Callable[[], None] = lambda: None) -> Agent:
    """An agent whose model goes on where the events end, and whose tool writes a line."""

    def note(text: str) -> str:
        """Notes a text."""
        with (folder / "notes").open("a") as file:
            file.write(text + "\n")
        die()
        return "noted"

    replied = sum(isinstance(event, Replied) for event in events)
    return Agent(Scripted(*REPLIES[replied:]), PythonCalls(Toolset([note])), events=list(events))


def run_until(folder: Path, kill: Callable[[int, Event], bool], in_tool: bool = False) -> None:
    """Runs the turn in a child process, which is killed after an event is stored, or within the first call."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            session = Sessions(folder / "sessions.db").create()
            heard = 0

            def on_event(event: Event) -> None:
                nonlocal heard
                session.append(event)
                heard += event.stored
                if event.stored and kill(heard, event):
                    die()

            agent(folder, [], die if in_tool else lambda: None).turn(REQUEST, on_event)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def go_on(folder: Path) -> list[Event]:
    """Opens the session, closes it, opens it again and ends the turn. Returns all its events."""
    with Sessions(folder / "sessions.db") as sessions:
        with sessions.open() as session:
            first = session.events
        with sessions.open() as session:
            assert session.events == first
            made = agent(folder, session.events)
            if not any(isinstance(event, Ended) for event in made.events):
                assert made.go_on(session.append).ended == "answered"
            assert [event for _, event in sessions.events(session.id)] == made.events
        return made.events


@pytest.mark.parametrize("last", range(1, EVENTS + 1))
def test_killed_after_any_event_a_turn_goes_on_and_no_call_is_made_twice(tmp_path: Path, last: int) -> None:
    run_until(tmp_path, lambda heard, event: heard == last)
    events = go_on(tmp_path)
    outputs = [event.output for event in events if isinstance(event, Called)]
    notes = Counter((tmp_path / "notes").read_text().split()) if (tmp_path / "notes").exists() else Counter()
    assert len(outputs) == sum(isinstance(event, Calling) for event in events) == 2
    assert outputs.count(INTERRUPTED) == (last in (3, 6))  # right after Calling
    assert len(notes) == 2 - outputs.count(INTERRUPTED) and max(notes.values()) == 1
    row = training_row(events, "", [], "session 1")
    assert row is not None and row["messages"][-1].get("train", True)


def test_killed_within_a_call_it_is_not_made_again(tmp_path: Path) -> None:
    run_until(tmp_path, lambda heard, event: False, in_tool=True)
    events = go_on(tmp_path)
    assert [event.output for event in events if isinstance(event, Called)] == [INTERRUPTED, "noted"]
    assert (tmp_path / "notes").read_text() == "a\nb\n"


def test_a_session_of_many_turns_is_read_by_the_model_as_if_it_had_never_been_closed(tmp_path: Path) -> None:
    whole = Agent(Scripted(*REPLIES, said("Yes.")), agent(tmp_path, []).tools)
    with Sessions(tmp_path / "sessions.db") as sessions:
        with sessions.create() as session:
            whole.turn(REQUEST, session.append)
        with sessions.open() as session:
            again = Agent(Scripted(said("Yes.")), whole.tools, events=session.events)
            assert again.messages == whole.messages
            assert again.turn("Sure?", session.append) == whole.turn("Sure?")
            assert again.model.read[-1] == whole.model.read[-1]  # type: ignore[attr-defined]
