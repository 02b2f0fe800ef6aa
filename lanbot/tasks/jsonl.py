"""Conversations of one's own: a .jsonl or .jsonl.gz of {"messages": [...]}, or of bare lists of messages."""

from functools import cached_property
from pathlib import Path

from lanbot.chat.conversation import Conversation, validate
from lanbot.data import hub
from lanbot.errors import UserError
from lanbot.tasks.task import Task


class Jsonl(Task):
    """Conversations of one's own: jsonl:PATH.

    A broken row is an error that names file and line, or is skipped if told so, with a count.
    """

    kind = "chat"
    arguments = None

    @cached_property
    def rows(self) -> list[Conversation]:
        path, skipped = Path(self.argument), []  # type: Path, list[str]
        skip = self.setting.skip_bad_rows
        rows = []
        for number, row in hub.read_jsonl(path, skipped if skip else None):
            try:
                rows.append(accepted(validate(row, f"{path}, line {number}"), f"{path}, line {number}"))
            except UserError as error:
                if not skip:
                    raise
                skipped.append(error.problem)
        if skipped:
            self.note = f"{path}: {len(skipped):,} of {len(skipped) + len(rows):,} rows skipped; first: {skipped[0]}"
        if not rows:
            raise UserError(f"{path}: no conversation in it", "Give the file at least one row.")
        return rows

    def __len__(self) -> int:
        return len(self.rows)

    def conversation(self, i: int) -> Conversation:
        return self.rows[i]


def accepted(conversation: Conversation, where: str) -> Conversation:
    """The conversation, if LanBot's format has a place for all of it; UserError if not."""
    if any(message["role"] == "tool" for message in conversation["messages"]):
        remedy = "Write a tool's result as an output part of the assistant's message."
        raise UserError(f"{where}: a tool message, which LanBot's format has no place for", remedy)
    return conversation
