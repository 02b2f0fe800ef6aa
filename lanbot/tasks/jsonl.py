"""Conversations in a user's file, in the usual layouts."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from lanbot.chat.formats import special_names
from lanbot.chat.messages import Conversation, chat, parts, validate
from lanbot.chat.openai import from_openai
from lanbot.core.console import track
from lanbot.core.errors import UserError
from lanbot.data.file_formats import EXTENSIONS, find, sampled_digest
from lanbot.data.rows import Rows, open_rows
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task

SKIP = "Fix the row; in a mixture's part, skip_bad_rows = true leaves broken rows out."


@register("jsonl")
class Jsonl(Task):
    """Conversations in a file: jsonl:PATH, .jsonl or a .json array (plain, .gz or .zst), or .parquet.

    A row is {"messages": [...]}, a bare list of messages, ShareGPT's {"conversations": [{"from", "value"}]} or Alpaca's
    {"instruction", "input", "output"}. "train": false or "weight": 0 excludes a message from the loss. All rows are
    checked first: a bad one is an error with file and line, or with skip_bad_rows is skipped and counted.
    """

    kind = "chat"
    real = True
    arguments = None
    splits = ("train",)

    @cached_property
    def rows(self) -> Rows:
        return open_rows(self.paths)

    @property
    def paths(self) -> list[Path]:
        path = Path(self.argument)
        return find(self.argument) if path.is_dir() and path.name.endswith(EXTENSIONS) else [path]

    def digest(self) -> str:
        return "".join(f" {sampled_digest(path)[:8]}" for path in self.paths)

    def __len__(self) -> int:
        return len(self.good)

    def conversation(self, i: int) -> Conversation:
        return _read(self.rows, self.good[i])

    @cached_property
    def good(self) -> Sequence[int]:
        """Indices of valid rows. Raises UserError for the first bad one, unless bad rows are skipped."""
        good, self.note = _checked(self.rows, self.argument, self.context.skip_bad_rows)
        self.skipped = len(self.rows) - len(good)
        return good


@lru_cache(maxsize=32)
def _checked(rows: Rows, name: str, skip_bad_rows: bool) -> tuple[list[int], str]:
    """(indices of valid rows, note for the user), cached for all phases. Raises UserError."""
    names = special_names()
    good, skipped, special = [], [], []  # type: list[int], list[str], list[str]
    for i in track(range(len(rows)), f"checking {name}", len(rows), "rows"):
        try:
            conversation = _read(rows, i)
        except UserError as error:
            if not skip_bad_rows:
                raise UserError(error.problem, SKIP if error.remedy == "Fix the row." else error.remedy) from None
            skipped.append(error.problem)
            continue
        good.append(i)
        if any(token in part["text"] for m in conversation["messages"] for part in parts(m) for token in names):
            special.append(rows.where(i))
    notes = []
    if skipped:
        notes.append(f"{len(skipped):,} of {len(rows):,} rows skipped; first: {skipped[0]}")
    if special:
        notes.append(f"{len(special):,} rows have names of special tokens, read as plain text; first: {special[0]}")
    if not good:
        raise UserError(f"{name}: no conversation in it", "Give the file at least one good row.")
    return good, f"{name}: {'. '.join(notes)}" if notes else ""


def _read(rows: Rows, i: int) -> Conversation:
    where = rows.where(i)
    return validate(without_other_calls(converted(rows[i]), where), where)


_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}
_CALLS = ("function", "function_call", "observation")
"""Roles of tool calls and their results in ShareGPT's form."""


def converted(row: Any) -> Any:
    """The row as {"messages": ...}, also from ShareGPT's and Alpaca's layouts; other rows unchanged."""
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, dict):
        return row
    if isinstance(row.get("messages"), list):
        return {**row, "messages": [_message(turn) for turn in row["messages"]]}
    if isinstance(row.get("conversations"), list):
        return {"messages": [*_system(row), *(_message(turn) for turn in row["conversations"])]}
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        history = row.get("history") or []  # earlier (question, answer) pairs
        if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
            return row
        asked = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
        turns = [*history, (asked, row["output"])]
        answered = [message for user, answer in turns for message in chat(user, answer)["messages"]]
        return {"messages": [*_system(row), *answered]}
    return row


def _message(turn: Any) -> Any:
    """A message with LanBot's keys: role, content, and train = False if it has no loss."""
    if not isinstance(turn, dict):
        return turn
    role = turn.get("role", turn.get("from"))
    message = {key: value for key, value in turn.items() if key not in ("from", "value", "train", "weight")}
    message |= {"role": _ROLES.get(str(role), role), "content": turn.get("content", turn.get("value"))}
    marks = [turn[key] for key in ("train", "weight") if turn.get(key) is not None]
    for mark in marks:
        if mark not in (0, 1):
            return message | {"train": mark}  # an error in validate
    return from_openai(message if all(marks) else message | {"train": False})


def _system(row: dict[str, Any]) -> list[Any]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def without_other_calls(row: Any, where: str) -> Any:
    """Returns the row. Raises UserError for tool calls and results that are not in OpenAI's form or cannot be read."""
    messages = row.get("messages") if isinstance(row, dict) else None
    for i, message in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and (
            message.get("tool_calls") or message.get("function_call") or message.get("role") in _CALLS
        ):
            raise UserError(
                f"{where}: message {i + 1} is a tool call or a tool's result in a form that LanBot does not read",
                'Write OpenAI\'s: "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}].',
            )
    return row
