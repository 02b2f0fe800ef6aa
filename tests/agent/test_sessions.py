"""Sessions: what is stored stays, also through kills, damage and other processes."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from session_events import CHEESE, COUNT, TEA

from lanbot.agent.events import (
    INTERRUPTED,
    Asked,
    Called,
    Calling,
    Compacted,
    Event,
    Permission,
    Replied,
    Streamed,
    reading,
)
from lanbot.agent.sessions import Session, Sessions
from lanbot.chat.messages import python, text
from lanbot.core.errors import UserError
from lanbot.tools.api import Apis, open_api
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.web import Response, Web

TOOLS = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "agent" / "sessions.db")


def stored(sessions: Sessions, *turns: list[Event]) -> int:
    with sessions.create("demo rl", "Be brief.", TOOLS) as session:
        for event in chain(*turns):
            session.append(event)
    return session.id


def events(sessions: Sessions, id: int) -> list[Event]:
    return [event for _, event in sessions.events(id)]


def test_a_session_is_read_back_as_it_happened(sessions: Sessions) -> None:
    more: list[Event] = [Permission("write_file", {"path": "a", "text": {1, 2}}, "deny", "rule"), Asked("half \ud800")]
    id = stored(sessions, CHEESE, [Streamed("piece", text="not kept")], TEA, more)
    with Sessions(sessions.path) as again, again.open("last") as session:
        assert session.id == id
        assert (session.about.model, session.about.system, session.about.tools) == ("demo rl", "Be brief.", TOOLS)
        assert session.events[:-2] == CHEESE + TEA
        assert session.events[-2:] == [
            Permission("write_file", {"path": "a", "text": "{1, 2}"}, "deny", "rule"),
            more[1],
        ]


def test_the_list_says_what_was_asked_what_it_took_and_how_it_ended(sessions: Sessions) -> None:
    first = stored(sessions, CHEESE, TEA)
    second = stored(sessions, TEA[:-1])
    with sessions.create():
        pass  # nothing happened: not kept
    one, two = sessions.listing()
    assert (one.id, one.title, one.turns, one.tokens, one.state) == (first, CHEESE[0].text, 2, 14 + 8 + 8, "answered")
    assert one.cost == pytest.approx(0.005)
    assert (two.id, two.turns, two.state) == (second, 1, "interrupted")
    with sessions.open(second):
        assert sessions.listing()[1].state == "running"


def test_a_call_without_a_result_is_not_run_again_but_marked_once(sessions: Sessions) -> None:
    id = stored(sessions, TEA, [Asked("write it"), Replied([python("f()")], "call"), Calling(1, "f()")])
    for _ in range(2):
        with sessions.open(id) as session:
            assert session.events[-1] == Called(1, INTERRUPTED)
            assert not reading(session.events).dangling
        assert events(sessions, id) == session.events
        assert sum(isinstance(event, Called) for event in session.events) == 1


def test_calls_are_synced_to_the_disk_before_they_are_run(sessions: Sessions) -> None:
    def synced(event: Event) -> bool:
        session.append(event)
        return bool(sessions.database.execute("pragma synchronous").fetchone()[0] >= 2)  # FULL

    with sessions.create() as session:
        assert [synced(event) for event in CHEESE] == [False, False, True, False, False, True]


AGENT = f"""
import itertools, sys, time
from lanbot.agent.events import *
from lanbot.agent.sessions import Sessions
from lanbot.chat.messages import python

db, log = sys.argv[1:]
session = Sessions(db).open("last")
number = sum(isinstance(event, Calling) for event in session.events)
for step in itertools.count():
    if step == 1:
        print("at work", flush=True)
    number += 1
    session.append(Replied([python({COUNT!r})], "call"))
    session.append(Calling(number, {COUNT!r}))
    with open(log, "a") as file:  # the tool
        file.write(f"{{number}}\\n")
    time.sleep(0.005)
    session.append(Called(number, "3"))
"""


def run_agent(*arguments: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", AGENT, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


def test_an_agent_killed_at_any_moment_goes_on_and_runs_nothing_twice(sessions: Sessions, tmp_path: Path) -> None:
    id, log, chance = stored(sessions, [Asked("count for ever")]), tmp_path / "log", random.Random(1)
    for _ in range(8):
        process = run_agent(sessions.path, log)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
    with sessions.open(id) as session:
        happened = session.events
    called = {event.number: event for event in happened if isinstance(event, Called)}
    begun = [event.number for event in happened if isinstance(event, Calling)]
    executed = Counter(int(line) for line in log.read_text().split())
    assert begun == list(range(1, len(begun) + 1)) == list(called)
    assert max(executed.values()) == 1
    assert set(executed) <= set(begun)
    assert {number for number in called if called[number].output != INTERRUPTED} <= set(executed)
    interrupted = [number for number in called if called[number].output == INTERRUPTED]
    assert interrupted  # else the kills hit nothing
    assert begun[-1] >= 8


def test_only_one_process_goes_on_with_a_session(sessions: Sessions, tmp_path: Path) -> None:
    other, id = stored(sessions, TEA), stored(sessions, [Asked("count")])
    process = run_agent(sessions.path, tmp_path / "log")
    try:
        for refused in (sessions.open, sessions.delete):
            with pytest.raises(UserError, match=f"session {id} is in use by process {process.pid}"):
                refused(id)
        with sessions.open(other) as session:
            session.append(Asked("and milk?"))
        assert sessions.listing()[1].state == "running"
        with sessions.open(sessions.fork(id)) as copy:
            assert copy.events[0] == Asked("count")
    finally:
        process.kill()
        process.wait()
    sessions.open(id).close()
    assert not list(sessions.path.with_suffix(".locks").iterdir())


def test_two_hundred_sessions_of_one_process_lose_nothing(sessions: Sessions) -> None:
    made = [sessions.create() for _ in range(200)]

    def talk(session: Session) -> None:
        for event in CHEESE:
            session.append(event)
        session.close()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(talk, made))
    assert all(events(sessions, session.id) == CHEESE for session in made)


def test_a_fork_is_a_copy_up_to_a_turn(sessions: Sessions) -> None:
    id = stored(sessions, CHEESE, TEA)
    whole, part = sessions.fork(id), sessions.fork("last", 1)
    assert events(sessions, whole) == CHEESE + TEA and events(sessions, part) == CHEESE
    with sessions.open(part) as session:
        for event in TEA:
            session.append(event)
    assert session.about.parent == whole and session.about.tools == TOOLS
    assert events(sessions, id) == CHEESE + TEA
    assert [one.tokens for one in sessions.listing()] == [30, 0, 8]
    for turns in (0, 3):
        with pytest.raises(UserError, match=f"cannot be forked after turn {turns}\nIt has 2 turns"):
            sessions.fork(id, turns)


def test_a_deleted_sessions_number_is_not_given_again(sessions: Sessions) -> None:
    kept, gone = stored(sessions, TEA), stored(sessions, TEA)
    assert sessions.delete("last") == gone
    assert stored(sessions, TEA) == gone + 1
    with pytest.raises(UserError, match=rf"{gone}: no such session\nThere are: {kept}, {gone + 1}\."):
        sessions.open(gone)
    with pytest.raises(UserError, match="no such session"):
        sessions.open("'; drop table sessions")


@pytest.mark.parametrize("row", ["{", '{"event": "dreamt"}', '{"event": "asked"}', "[]", "null"])
def test_a_damaged_event_leaves_the_turns_before_it_and_other_sessions(sessions: Sessions, row: str) -> None:
    other, id = stored(sessions, TEA), stored(sessions, CHEESE, TEA)
    change(sessions, "update events set json = ? where session = ? and n = ?", row, id, len(CHEESE) + 1)
    with pytest.raises(UserError, match=rf"session {id} is damaged at event {len(CHEESE) + 2}\n.*--at 1"):
        sessions.open(id)
    assert events(sessions, sessions.fork(id, 1)) == CHEESE
    assert [one.title for one in sessions.listing()] == [TEA[0].text, CHEESE[0].text, CHEESE[0].text]
    with sessions.open(other) as session:
        assert session.events == TEA


def test_a_page_of_garbage_in_the_file_leaves_other_sessions(sessions: Sessions) -> None:
    large = [Asked("x" * 50_000)]
    first, second, third = stored(sessions, TEA), stored(sessions, large), stored(sessions, TEA)
    sessions.database.execute("pragma wal_checkpoint(truncate)")
    sessions.close()
    content = bytearray(sessions.path.read_bytes())
    at = content.index(b"x" * 4_000) // 4_096 * 4_096  # the first page that holds nothing else
    content[at : at + 4_096] = b"\xff" * 4_096
    sessions.path.write_bytes(content)
    with Sessions(sessions.path) as again:
        assert [one.state for one in again.listing()] == ["answered", "damaged", "answered"]
        assert events(again, first) == events(again, third) == TEA
        with pytest.raises(UserError, match=f"session {second}"):
            again.events(second)


def test_files_of_other_kinds_are_refused_in_two_lines(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("create table memories (id)")
    Sessions(tmp_path / "newer.db").database.execute("pragma user_version = 7")
    for name, problem in (("text", "not a database"), ("other", "of format 0"), ("newer", "of format 7, this LanBot")):
        with pytest.raises(UserError, match=problem) as error:
            Sessions(tmp_path / f"{name}.db")
        assert error.value.problem.startswith(str(tmp_path)) and error.value.remedy


def test_an_event_that_cannot_be_stored_is_an_error_and_not_half_stored(sessions: Sessions) -> None:
    with sessions.create() as session:
        session.append(Asked("tea?"))
        sessions.database.execute("pragma max_page_count = 1")  # the disk is full
        with pytest.raises(UserError, match="full"):
            session.append(Replied([text("x" * 100_000)], "stop"))
        sessions.database.execute("pragma max_page_count = 1000000")
        session.append(Replied([text("A drink.")], "stop"))
    assert events(sessions, session.id) == [Asked("tea?"), Replied([text("A drink.")], "stop")]


def change(sessions: Sessions, query: str, *values: object) -> None:
    with sqlite3.connect(sessions.path) as database:
        database.execute(query, values)


def test_a_key_that_a_server_sends_back_is_not_stored(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Echo(Web):
        def send(self, method: str, url: str, headers: Any, *more: Any) -> Response:
            return Response(url, 200, "OK", "text/plain", "utf-8", "", str(dict(headers)).encode(), False)

    monkeypatch.setenv("SHOP_KEY", "s3cr3t-k3y")
    described = {
        "openapi": "3.0.0",
        "servers": [{"url": "https://shop.example"}],
        "paths": {"/tea": {"get": {"security": [{"key": []}]}}},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
    (tmp_path / "shop.json").write_text(json.dumps(described))
    tools = PythonCalls(Toolset(Apis(Echo(), [open_api(str(tmp_path / "shop.json"), "SHOP_KEY")]).tools))
    code = "http_request('GET', 'https://shop.example/tea')"
    with sessions.create(tools=tools.declarations) as session:
        for event in Asked("tea?"), Replied([python(code)], "call"), Calling(1, code), Called(1, tools(code)):
            session.append(event)
    assert "Bearer [hidden]" in str(events(sessions, session.id)[-1])
    sessions.close()
    assert not any(b"s3cr3t" in file.read_bytes() for file in sessions.path.parent.rglob("*") if file.is_file())


def test_a_conversation_that_was_compacted_after_its_last_answer_was_not_interrupted(sessions: Sessions) -> None:
    stored(sessions, TEA, [Compacted([], "shortened", 200, 100)])
    assert sessions.listing()[0].state == "answered"
