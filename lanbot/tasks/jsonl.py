"""Conversations of one's own, in the layouts in which people keep them."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lanbot.chat.formats import special_names
from lanbot.chat.messages import Conversation, chat, parts, validate
from lanbot.core.console import track
from lanbot.core.errors import UserError
from lanbot.data.rows import Rows, open_rows
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task

SKIP = "Mend the line; in a mixture's part, skip_bad_rows = true leaves broken rows out."


@register("jsonl")
class Jsonl(Task):
    """Conversations of one's own: jsonl:PATH, a .jsonl, .jsonl.gz or .jsonl.zst.

    A row is {"messages": [...]}, a bare list of messages, ShareGPT's {"conversations": [{"from", "value"}]} or Alpaca's
    {"instruction", "input", "output"}. All are looked at first: a broken one is an error that names file and line, or
    is skipped if told so, with a count.
    """

    kind = "chat"
    real = True
    arguments = None

    @cached_property
    def rows(self) -> Rows:
        return open_rows([Path(self.argument)])

    def __len__(self) -> int:
        return len(self.good)

    def conversation(self, i: int) -> Conversation:
        return self._read(self.good[i])

    @cached_property
    def good(self) -> Sequence[int]:
        """The rows that are conversations. Raises UserError for the first that is not, unless bad ones are skipped."""
        checked = _checked(self.rows, self.argument, self.context.skip_bad_rows)
        self.skipped, self.note = len(self.rows) - len(checked.good), checked.note
        return checked.good

    def _read(self, i: int) -> Conversation:
        return _read(self.rows, i)


class _Checked(NamedTuple):
    good: list[int]
    note: str


@lru_cache(maxsize=32)
def _checked(rows: Rows, name: str, skip_bad_rows: bool) -> _Checked:
    """Once for all phases. Raises UserError."""
    names = special_names()
    good, skipped, special = [], [], []  # type: list[int], list[str], list[str]
    for i in track(range(len(rows)), f"checking {name}", len(rows), "rows"):
        try:
            conversation = _read(rows, i)
        except UserError as error:
            if not skip_bad_rows:
                raise UserError(error.problem, SKIP if "not JSON" in error.problem else error.remedy) from None
            skipped.append(error.problem)
            continue
        good.append(i)
        if any(token in part["text"] for m in conversation["messages"] for part in parts(m) for token in names):
            special.append(rows.where(i))
    notes = []
    if skipped:
        notes.append(f"{len(skipped):,} of {len(rows):,} rows skipped; first: {skipped[0]}")
    if special:
        notes.append(f"{len(special):,} rows hold special tokens' names, read as plain text; first: {special[0]}")
    if not good:
        raise UserError(f"{name}: no conversation in it", "Give the file at least one good row.")
    return _Checked(good, f"{name}: {'. '.join(notes)}" if notes else "")


def _read(rows: Rows, i: int) -> Conversation:
    where = rows.where(i)
    return accepted(validate(converted(rows[i]), where), where)


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def converted(row: Any) -> Any:
    """ShareGPT's and Alpaca's layouts as messages; any other row as it is."""
    if not isinstance(row, dict) or "messages" in row:
        return row
    turns = row.get("conversations")
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        said: list[Any] = [
            {"role": _ROLES.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
            for turn in turns
        ]
        return {"messages": [*_system(row), *said]}
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        history = row.get("history") or []  # pairs of what was asked and answered before
        if not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
            return row
        asked = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
        turns = [*history, (asked, row["output"])]
        answered = [message for user, answer in turns for message in chat(user, answer)["messages"]]
        return {"messages": [*_system(row), *answered]}
    return row


def _system(row: dict[str, Any]) -> list[Any]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def accepted(conversation: Conversation, where: str) -> Conversation:
    """The conversation, if LanBot's format has a place for all of it; UserError if not."""
    if any(message["role"] == "tool" for message in conversation["messages"]):
        remedy = "Write a tool's result as an output part of the assistant's message."
        raise UserError(f"{where}: a tool message, which LanBot's format has no place for", remedy)
    return conversation
