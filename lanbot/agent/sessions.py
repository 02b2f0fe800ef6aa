"""The conversations of an agent in SQLite: a session is the list of its events.

Every event is in the file before `append` returns, so that a killed process loses none. Two kinds are on the disk too,
for a machine that loses power: `Calling`, because a call may not have had an effect that nobody knows of, and `Ended`,
because an answer that was given is not taken back. An event between them that is lost at worst leaves a call without a
result, which is never run again: when the session is opened, its result is INTERRUPTED.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from time import time
from typing import Any

from lanbot.agent.events import INTERRUPTED, Called, Calling, Ended, Event, from_json, reading, to_json
from lanbot.agent.lock import Lock, holder
from lanbot.core.errors import UserError

VERSION = 1  # of the tables
BUSY_SECONDS = 30.0  # how long to wait while another process writes
DURABLE = (Calling, Ended)
RUNNING, STOPPED, DAMAGED = "running", "interrupted", "damaged"
"""What a session's state may be besides how its last turn ended."""

# Autoincrement: a number that somebody wrote down is never given to another session. Rows are not in the index of their
# key ("without rowid"): there one damaged page would keep its neighbours from being found.
_TABLES = (
    "create table sessions (id integer primary key autoincrement, created text not null, model text not null, "
    "system text not null, tools text not null, parent integer, copied integer not null default 0)",
    "create table events (session integer not null, n integer not null, time real not null, kind text not null, "
    "json text not null, primary key (session, n))",
)
_COLUMNS = "id, created, model, system, tools, parent, copied"
_APPEND = "insert into events select ?, coalesce(max(n), -1) + 1, ?, ?, ? from events where session = ?"


def _of(field: str) -> str:
    """A field of an event's JSON; null of a damaged row."""
    return f"case when json_valid(json) then json_extract(json, '$.{field}') end"


_SUMS = (
    f"select sum(kind = 'asked'), total(case when n >= ? then {_of('tokens')} end), "
    f"total(case when n >= ? then {_of('cost')} end), sum(not json_valid(json)) from events where session = ?"
)
_FIRST = f"select {_of('text')} from events where session = ? and kind = 'asked' order by n limit 1"
_LAST = f"select kind, {_of('reason')} from events where session = ? and kind != 'compacted' order by n desc limit 1"


@dataclass(frozen=True)
class About:
    """What a session is. created: in UTC. model: which one answers. tools: the declarations that the model read.
    parent: the session that it was forked from. copied: its events that are the parent's."""

    id: int
    created: str
    model: str
    system: str
    tools: list[dict[str, Any]]
    parent: int | None
    copied: int


@dataclass(frozen=True)
class Listed:
    """A session in a list. title: the first request. tokens, cost: of the replies, in dollars, without the parent's.
    state: how the last turn ended, or RUNNING, STOPPED or DAMAGED; "" if nothing was asked."""

    id: int
    created: str
    model: str
    title: str
    turns: int
    tokens: int
    cost: float
    state: str


class Sessions:
    """The sessions of a run's agent, in a file that is created if missing. Processes and threads may share it.

    Every method raises UserError if the file is damaged, of another version or cannot be written; what can still be
    read of it can be.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.mutex = RLock()
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._prepare()

    def create(self, model: str = "", system: str = "", tools: Sequence[Mapping[str, Any]] = ()) -> "Session":
        """A new session, which only this process may go on with until it is closed."""
        with self._transaction():
            row = (_now(), model, system, json.dumps([dict(tool) for tool in tools]))
            made = self.database.execute(
                "insert into sessions (created, model, system, tools) values (?, ?, ?, ?)", row
            )
        return self.open(made.lastrowid or 0)

    def open(self, which: int | str = "last") -> "Session":
        """Goes on with a session: its number, or "last". Calls without a result get INTERRUPTED.

        Raises UserError if there is none, if a process has it open, or if it is damaged.
        """
        about = self.about(which)
        lock = self._lock(about.id)
        try:
            events = [event for _, event in self.events(about.id)]
            results = [Called(number, INTERRUPTED) for number in reading(events).dangling]
            for result in results:
                self.append(about.id, result)
            return Session(self, about, lock, [*events, *results])
        except BaseException:
            lock.release()
            raise

    def about(self, which: int | str = "last") -> About:
        """Raises UserError if there is no such session, or if it is damaged."""
        with self._explained():
            row = self.database.execute(f"select {_COLUMNS} from sessions where id = ?", (self.find(which),)).fetchone()
        id, created, model, system, tools, parent, copied = row
        try:
            return About(id, created, model, system, json.loads(tools), parent, copied)
        except (ValueError, TypeError):
            raise UserError(f"{self.path}: session {id} is damaged", "Delete it.") from None

    def find(self, which: int | str) -> int:
        """The number of a session; "last" is the newest. Raises UserError if there is none."""
        with self._explained():
            ids = [id for (id,) in self.database.execute("select id from sessions order by id")]
        number = int(which) if str(which).isdecimal() and len(str(which)) < 19 else -1
        if ids and which == "last":
            return ids[-1]
        if number in ids:
            return number
        if not ids:
            raise UserError(f"{self.path}: no sessions yet", "The agent of the run makes them: lanbot chat RUN.")
        near = sorted(sorted(ids, key=lambda id: abs(id - number))[:5]) if number >= 0 else ids[-5:]
        there = ", ".join(map(str, near)) + (" and others" if len(ids) > 5 else "")
        raise UserError(f"{str(which)[:60]}: no such session", f"There are: {there}.")

    def events(self, id: int) -> list[tuple[float, Event]]:
        """The events of a session, each with the time of day when it was stored, in seconds."""
        made = []
        with self._explained(f"session {id}"):
            query = "select n, time, json from events where session = ? order by n"
            for n, when, row in self.database.execute(query, (id,)):
                try:
                    made.append((when, from_json(json.loads(row))))
                except (ValueError, TypeError, AttributeError, RecursionError):
                    turns = self._turns_before(id, n)
                    remedy = f"Fork it before that, with --at {turns}." if turns else "Delete it."
                    raise UserError(f"{self.path}: session {id} is damaged at event {n + 1}", remedy) from None
        return made

    def listing(self) -> list[Listed]:
        """All sessions, oldest first. One that is damaged is among them, with what can be read of it."""
        with self._explained():
            rows = self.database.execute("select id, created, model, copied from sessions order by id").fetchall()
        return [self._listed(*row) for row in rows]

    def fork(self, which: int | str, turns: int | None = None) -> int:
        """The number of a new session that begins as a copy: of all of a session, or of its first turns.

        Raises UserError if it has fewer turns.
        """
        about = self.about(which)
        with self._explained(f"session {about.id}"), self._transaction():
            asked = self._asked(about.id)
            if turns is not None and not 1 <= turns <= len(asked):
                has = f"{len(asked)} turn{'s' * (len(asked) != 1)}"
                raise UserError(f"session {about.id}: cannot be forked after turn {turns}", f"It has {has}.")
            cut = asked[turns] if turns is not None and turns < len(asked) else 2**62
            copied = "from events where session = ? and n < ?"
            made = self.database.execute(
                f"insert into sessions (created, model, system, tools, parent, copied) "
                f"select ?, model, system, tools, id, (select count(*) {copied}) from sessions where id = ?",
                (_now(), about.id, cut, about.id),
            ).lastrowid
            self.database.execute(f"insert into events select ?, n, time, kind, json {copied}", (made, about.id, cut))
        return made or 0

    def delete(self, which: int | str) -> int:
        """Deletes a session and returns its number. Raises UserError if a process has it open."""
        id = self.find(which)
        lock = self._lock(id)
        try:
            with self._transaction():
                self.database.execute("delete from events where session = ?", (id,))
                self.database.execute("delete from sessions where id = ?", (id,))
        finally:
            lock.release()
        return id

    def drop_empty(self, id: int) -> None:
        """Deletes a session that has no events."""
        with self._transaction():
            query = "delete from sessions where id = ? and not exists (select 1 from events where session = ?)"
            self.database.execute(query, (id, id))

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> "Sessions":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def append(self, id: int, event: Event) -> None:
        """Of a session that this process has open."""
        written = to_json(event)
        row = (id, time(), written["event"], json.dumps(written, default=repr), id)
        with self._explained(), self.mutex:
            level = "full" if isinstance(event, DURABLE) else "normal"
            self.database.execute(f"pragma synchronous = {level}")
            self.database.execute(_APPEND, row)

    def _prepare(self) -> None:
        self.database.execute("pragma journal_mode = wal")
        with self._transaction():
            version = self.database.execute("pragma user_version").fetchone()[0]
            if version == 0 and not self.database.execute("select count(*) from sqlite_master").fetchone()[0]:
                for table in _TABLES:
                    self.database.execute(table)
                self.database.execute(f"pragma user_version = {VERSION}")
            elif version != VERSION:
                problem = f"{self.path}: its sessions are of format {version}, this LanBot reads {VERSION}"
                raise UserError(problem, "Use the version of LanBot that wrote it, or move it away for a new one.")

    def _listed(self, id: int, created: str, model: str, copied: int) -> Listed:
        try:
            turns, tokens, cost, broken = self.database.execute(_SUMS, (copied, copied, id)).fetchone()
            title = self.database.execute(_FIRST, (id,)).fetchone()
            last = self.database.execute(_LAST, (id,)).fetchone()
        except sqlite3.DatabaseError:
            return Listed(id, created, model, "", 0, 0, 0.0, DAMAGED)
        if broken:
            state = DAMAGED
        elif last is None or last[0] == "ended":
            state = last[1] if last else ""
        else:
            state = RUNNING if holder(self._lock_file(id)) else STOPPED
        shown = str(title[0] or "") if title else ""
        return Listed(id, created, model, shown, turns or 0, int(tokens), float(cost), state)

    def _asked(self, id: int) -> list[int]:
        """At which of its events each turn of a session begins."""
        query = "select n from events where session = ? and kind = 'asked' order by n"
        return [n for (n,) in self.database.execute(query, (id,))]

    def _turns_before(self, id: int, event: int) -> int:
        """The whole turns before an event."""
        return max(0, sum(n <= event for n in self._asked(id)) - 1)

    def _lock(self, id: int) -> Lock:
        path = self._lock_file(id)
        with self._explained():
            try:
                return Lock(path)
            except BlockingIOError:
                by = f" by process {process}" if (process := holder(path)) else ""
                remedy = f"Wait until it is done, or go on with a copy: fork {id}."
                raise UserError(f"session {id} is in use{by}", remedy) from None

    def _lock_file(self, id: int) -> Path:
        return self.path.with_suffix(".locks") / str(id)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Takes the lock of the file at once: a lock taken midway may fail instead of waiting."""
        with self._explained(), self.mutex:
            self.database.execute("begin immediate")
            try:
                yield
            except BaseException:
                self.database.execute("rollback")
                raise
            self.database.execute("commit")

    @contextmanager
    def _explained(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            said = f"{self.path}: {what}{': ' if what else ''}{error}"
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                remedy = "Another process is writing; wait until it is done and try again."
            elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                remedy = "If the file is damaged, move it away; a new one is created."
            else:
                remedy = "Check the disk's space and the permissions of the folder."
            raise UserError(said, remedy) from None


@dataclass(frozen=True)
class Session:
    """A conversation that this process goes on with; also a context manager.

    events: what had happened when it was opened, for the agent to begin with.
    """

    sessions: Sessions
    about: About
    lock: Lock
    events: list[Event]

    @property
    def id(self) -> int:
        return self.about.id

    def append(self, event: Event) -> None:
        """Stores an event if it is one that is stored: a listener for the agent. Raises UserError if it cannot."""
        if event.stored:
            self.sessions.append(self.id, event)

    def close(self) -> None:
        """Other processes may go on with it. One in which nothing happened is not kept. Again does nothing."""
        if self.lock.held:
            self.sessions.drop_empty(self.id)
            self.lock.release()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
