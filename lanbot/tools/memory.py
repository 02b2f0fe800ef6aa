"""What a model remembers from one conversation to the next: short texts in SQLite, found by their words.

What the tools say is trained into weights, so it does not change.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lanbot.core.errors import UserError
from lanbot.tools.calculator import format_value
from lanbot.tools.tool import ToolError
from lanbot.tools.words import content_words

MAX_TEXT = 1_000
"""Characters of a text."""
MAX_WORDS = 16
"""Words of a query that are looked for."""
RECALLED = 3
BUSY_SECONDS = 30.0
"""How long to wait while another process writes."""

# Numbers are not given twice: what another process knows as 3 must not become something else.
_TABLES = (
    "create table if not exists memories (id integer primary key autoincrement, text text not null unique)",
    "create virtual table if not exists words using fts5 (text, tokenize = 'porter unicode61')",
)


class Memory:
    """The three tools over a SQLite file, made when it is not there; without a path in memory.

    Processes may use one file at the same time: each call is one transaction. Raises UserError: not such a file.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = ":memory:" if path is None else str(path)
        self.functions: dict[str, Callable[..., str]] = {
            "remember": self.remember,
            "recall": self.recall,
            "forget": self.forget,
        }
        try:
            if self.path != ":memory:":
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            with self._writing():
                for table in _TABLES:
                    self.database.execute(table)
        except (OSError, sqlite3.Error) as error:
            remedy = "If it is damaged, move it away; a new one is made."
            raise UserError(f"{self.path}: cannot be used as a memory: {error}", remedy) from None

    def remember(self, text: str) -> str:
        text = text if isinstance(text, str) else format_value(text)
        text = " ".join(text.split())  # a line, as recall shows it
        if not text:
            raise ToolError("nothing to remember")
        if len(text) > MAX_TEXT:
            raise ToolError(f"too long: {len(text):,} characters of at most {MAX_TEXT:,}")
        with self._writing():
            known = self.database.execute("select id from memories where text = ?", (text,)).fetchone()
            if known:
                return f"remembered as {known[0]}"
            made = self.database.execute("insert into memories (text) values (?)", (text,)).lastrowid
            self.database.execute("insert into words (rowid, text) values (?, ?)", (made, text))
        return f"remembered as {made}"

    def recall(self, query: str) -> str:
        """Best is what holds the most of the query's words, then the rarer ones, then the latest."""
        words = content_words(query if isinstance(query, str) else format_value(query))[:MAX_WORDS]
        found = self.database.execute(_recall(len(words)), [f'"{word}"' for word in words]).fetchall() if words else []
        return "\n".join(f"{number}: {text}" for number, text in found) or "nothing found"

    def forget(self, id: int) -> str:
        number = int(id) if isinstance(id, str) and id.strip().isdecimal() else id
        if not isinstance(number, int) or abs(number) >= 2**63:
            raise ToolError("forget needs the number that recall shows")
        with self._writing():
            if not self.database.execute("delete from memories where id = ?", (number,)).rowcount:
                raise ToolError(f"nothing is remembered as {number}")
            self.database.execute("delete from words where rowid = ?", (number,))
        return f"forgot {number}"

    def all(self) -> list[tuple[int, str]]:
        """(number, text) of everything, oldest first."""
        return self.database.execute("select id, text from memories order by id").fetchall()

    def clear(self) -> None:
        """Forgets everything; numbers begin at 1 again."""
        with self._writing():
            for table in ("memories", "words", "sqlite_sequence"):
                self.database.execute(f"delete from {table}")

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction. It takes the lock at its beginning: one taken midway may fail instead of waiting."""
        self.database.execute("begin immediate")
        try:
            yield
        except BaseException:
            self.database.execute("rollback")
            raise
        self.database.execute("commit")


def _recall(words: int) -> str:
    """The query for this many words. Each is looked for alone, so that those a text holds can be counted."""
    hits = " union all ".join(["select rowid as id, rank as rarity from words where words match ?"] * words)
    return (
        f"select id, memories.text from ({hits}) join memories using (id) group by id "
        f"order by count(*) desc, sum(rarity), id desc limit {RECALLED}"
    )
