"""What a model remembers from one conversation to the next: short texts in SQLite, found by their words.

The outputs of the tools are trained into weights, so they do not change.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.tools.calculator import format_value
from lanbot.tools.tool import ToolError, tool
from lanbot.tools.words import content_words, words

MAX_TEXT = 1_000  # characters of a text
MAX_WORDS = 16  # words of a query that are searched for
MAX_CHARACTERS = 64  # the same for scripts whose characters count as words
RECALLED = 3
BUSY_SECONDS = 30.0  # how long to wait while another process writes
QUIET_SECONDS = 8.0  # how long to wait for it without a message

# Autoincrement: a number that another process knows is never given to another text.
_TABLES = (
    "create table if not exists memories (id integer primary key autoincrement, text text not null unique, "
    "time text not null default '', source text not null default '')",
    "create virtual table if not exists words using fts5 (text, tokenize = 'porter unicode61')",
)
_INDEX_VERSION = 1  # of how texts become words; an older index is rebuilt
_BUSY, _UNWRITABLE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@dataclass(frozen=True)
class Entry:
    """What is remembered. time: when, in UTC; source: the conversation that it comes from. Both "" if not known."""

    number: int
    text: str
    time: str
    source: str


class Memory:
    """Three tools over a SQLite file, which is created if missing; without a path, over a database in memory.

    Processes may share a file: each call is one transaction. A file that cannot be written can still be searched.
    source: the conversation that remembers; kept with each text. Raises UserError if the file is not a memory, or stays
    locked.
    """

    def __init__(self, path: Path | str | None = None, source: str = "") -> None:
        self.path = ":memory:" if path is None else str(path)
        self.source = source
        self.read_only = False
        try:
            self._open()
        except ToolError:  # an old index that cannot be rebuilt
            self._open_read_only()
        except (OSError, sqlite3.Error) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in _BUSY:
                raise UserError(
                    f"{self.path}: locked by {_holders(self.path)}", "Wait until it is done, or end it, and try again."
                ) from None
            if (isinstance(error, sqlite3.Error) and (code or 0) & 0xFF not in _UNWRITABLE) or Path(self.path).is_dir():
                remedy = "If it is damaged, move it away; a new one is created."
                raise UserError(f"{self.path}: cannot be used as a memory: {error}", remedy) from None
            self._open_read_only()

    @property
    def tools(self) -> list[Callable[..., str]]:
        return [self.remember, self.recall, self.forget]

    @tool(kind="write")
    def remember(self, text: str) -> str:
        """Remembers a text across conversations.

        Returns:
            remembered as NUMBER
        """
        text = _kept(text)
        with self._transaction():
            known = self._number(text)
            if known is not None:
                return f"remembered as {known}"
            row = (text, _now(), self.source)
            number = self.database.execute("insert into memories (text, time, source) values (?, ?, ?)", row).lastrowid
            self._index([(number, text)])
        return f"remembered as {number}"

    @tool(kind="read")
    def recall(self, query: str) -> str:
        """Finds what was remembered by its words: texts with the most of them first, then rarer words, then newer.

        Returns:
            lines like NUMBER: text, or nothing found
        """
        query = query if isinstance(query, str) else format_value(query)
        return "\n".join(f"{number}: {text}" for number, text in self._found(query, RECALLED)) or "nothing found"

    @tool(kind="write")
    def forget(self, id: int) -> str:
        """Forgets what was remembered under a number.

        Returns:
            forgot NUMBER
        """
        number = int(id) if isinstance(id, str) and id.strip().isdecimal() else id
        if not isinstance(number, int) or abs(number) >= 2**63:
            raise ToolError("forget needs the number that recall shows")
        with self._transaction():
            if not self.database.execute("delete from memories where id = ?", (number,)).rowcount:
                raise ToolError(f"nothing is remembered as {number}")
            self.database.execute("delete from words where rowid = ?", (number,))
        return f"forgot {number}"

    def edit(self, number: int, text: str) -> None:
        """Another text under the same number, with the time and the source of now. Raises ToolError."""
        text = _kept(text)
        with self._transaction():
            known = self._number(text)
            if known not in (None, number):
                raise ToolError(f"that is remembered as {known}")
            row = (text, _now(), self.source, number)
            if not self.database.execute(
                "update memories set text = ?, time = ?, source = ? where id = ?", row
            ).rowcount:
                raise ToolError(f"nothing is remembered as {number}")
            self.database.execute("delete from words where rowid = ?", (number,))
            self._index([(number, text)])

    def search(self, query: str, most: int = 20) -> list[Entry]:
        """What `recall` finds, and more of it."""
        entries = {entry.number: entry for entry in self.entries()}
        return [entries[number] for number, _ in self._found(query, most)]

    def entries(self) -> list[Entry]:
        """Everything, oldest first."""
        known = {column[1] for column in self.database.execute("pragma table_info(memories)")}
        columns = "time, source" if "time" in known else "'', ''"  # of an older file that cannot be written
        return [Entry(*row) for row in self.database.execute(f"select id, text, {columns} from memories order by id")]

    def all(self) -> list[tuple[int, str]]:
        """(number, text) of everything, oldest first."""
        return self.database.execute("select id, text from memories order by id").fetchall()

    def clear(self) -> None:
        """Forgets everything; numbers start at 1 again."""
        with self._transaction():
            for table in ("memories", "words", "sqlite_sequence"):
                self.database.execute(f"delete from {table}")

    def close(self) -> None:
        self.database.close()

    def _open(self) -> None:
        if self.path != ":memory:":
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {
            "isolation_level": None,
            "check_same_thread": False,
        }  # calls may be in threads
        self.database = sqlite3.connect(self.path, timeout=min(QUIET_SECONDS, BUSY_SECONDS), **options)
        try:
            self._prepare()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _BUSY:
                raise
            say(f"{self.path}: waiting for {_holders(self.path)}")
            self.database.execute(f"pragma busy_timeout = {round(BUSY_SECONDS * 1_000)}")
            self._prepare()
        self.database.execute(f"pragma busy_timeout = {round(BUSY_SECONDS * 1_000)}")

    def _open_read_only(self) -> None:
        self.read_only = True
        if Path(self.path).is_file():
            address = f"{Path(self.path).absolute().as_uri()}?mode=ro"
            self.database = sqlite3.connect(address, uri=True, check_same_thread=False)
            return
        self.database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for table in _TABLES:
            self.database.execute(table)

    def _prepare(self) -> None:
        """Creates the tables where they are missing, and rebuilds an older index."""
        with self._transaction():
            for table in _TABLES:
                self.database.execute(table)
            known = {column[1] for column in self.database.execute("pragma table_info(memories)")}
            for column in {"time", "source"} - known:
                self.database.execute(f"alter table memories add column {column} text not null default ''")
            if self.database.execute("pragma user_version").fetchone()[0] < _INDEX_VERSION:
                self.database.execute("delete from words")
                self._index(self.all())
                self.database.execute(f"pragma user_version = {_INDEX_VERSION}")

    def _number(self, text: str) -> int | None:
        known = self.database.execute("select id from memories where text = ?", (text,)).fetchone()
        return known[0] if known else None

    def _found(self, query: str, most: int) -> list[tuple[int, str]]:
        """Numbers and texts, the best first."""
        wanted = content_words(query)[: MAX_WORDS if query.isascii() else MAX_CHARACTERS]
        matches = [f'"{word}"' for word in wanted]
        return self.database.execute(_recall(len(matches)), [*matches, most]).fetchall() if matches else []

    def _index(self, texts: list[tuple[int | None, str]] | list[tuple[int, str]]) -> None:
        rows = [(number, " ".join(words(text))) for number, text in texts]
        self.database.executemany("insert into words (rowid, text) values (?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Takes the lock at once: a lock taken midway may fail instead of waiting."""
        if self.read_only:
            raise ToolError("the memory is read-only")
        self.database.execute("begin immediate")
        try:
            yield
        except BaseException as error:
            self.database.execute("rollback")
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
                raise ToolError("the memory is read-only") from None
            raise
        self.database.execute("commit")


def _kept(text: object) -> str:
    """A text as it is kept: one line, as recall shows it. Raises ToolError if it is empty or too long."""
    kept = " ".join((text if isinstance(text, str) else format_value(text)).split())
    if not kept:
        raise ToolError("nothing to remember")
    if len(kept) > MAX_TEXT:
        raise ToolError(f"too long: {len(kept):,} characters of at most {MAX_TEXT:,}")
    return kept


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _recall(count: int) -> str:
    """The query for `count` words. Each is matched alone, so that the matches of a text can be counted."""
    hits = " union all ".join(["select rowid as id, rank as rarity from words where words match ?"] * count)
    return (
        f"select id, memories.text from ({hits}) join memories using (id) group by id "
        f"order by count(*) desc, sum(rarity), id desc limit ?"
    )


def _holders(path: str) -> str:
    """The other processes that have a file open, as far as the system says."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        process = entry.parent.parent
        try:
            if process.name != str(os.getpid()) and os.path.samefile(entry, path):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.add(f"process {process.name} ({' '.join(command.split())[:60]})")
        except OSError:  # it ended, or belongs to somebody else
            continue
    return ", ".join(sorted(found)) or "another process"
