"""The mixtures of tasks that phases train on."""

import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from lanbot.chat.formats.base import ChatFormat, Rendered
from lanbot.chat.messages import Conversation
from lanbot.config.recipe import Identity, MixturePart
from lanbot.core.console import main_rank, say
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import Task, TaskContext

T = TypeVar("T")


class Mixture(Sequence[Rendered]):
    """The training conversations of a mixture in a seeded order, rendered on access.

    Within a part no row repeats before its epoch ends. Parts with weights have these shares of the order, which is long
    enough for all rows of each; the rows of some repeat. A bad row is an error, or ([], []) if its part has
    skip_bad_rows.
    """

    def __init__(
        self,
        parts: Sequence[MixturePart],
        identity: Identity,
        chat_format: ChatFormat | None,
        seed: int,
        split: str = "train",
        options: Options | None = None,
        folder: Path | None = None,
    ) -> None:
        """chat_format: None if nothing is to be rendered. folder: the run's."""
        self.parts, self.chat_format = parts, chat_format
        options = options or Options.from_environment()
        contexts = [TaskContext(identity, part.skip_bad_rows, options, folder) for part in parts]
        self.tasks = [make_task(part.task, split, context) for part, context in zip(parts, contexts, strict=True)]
        self.warned: set[str] = set()
        """Tasks whose bad rows were reported."""
        which, rows = [], []
        for k, (part, task) in enumerate(zip(parts, self.tasks, strict=True)):
            size = min(len(task), part.rows or len(task))
            chosen = np.arange(size) if task.ordered else np.random.default_rng([seed, k]).permutation(len(task))[:size]
            which.append(np.full(size * part.epochs, k, dtype=np.int32))
            rows.append(np.tile(chosen, part.epochs))
        if all(part.weight for part in parts):
            which, rows = weighted(parts, rows)
        parts_in_a_row = np.concatenate(which)
        self.which = parts_in_a_row[np.random.default_rng([seed, 1 << 20]).permutation(len(parts_in_a_row))]
        self.rows = np.zeros(len(self.which), dtype=np.int64)
        for k, of_part in enumerate(rows):
            self.rows[self.which == k] = of_part

    def __len__(self) -> int:
        return len(self.which)

    def item(self, i: int) -> tuple[Task, int]:
        """The task and its row."""
        return self.tasks[self.which[i]], int(self.rows[i])

    def conversation(self, i: int) -> Conversation | None:
        """None for a bad row of a part with skip_bad_rows. Raises UserError for other bad rows."""
        return self._of_row(i, lambda task, row: task.conversation(row))

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        chat_format = self.chat_format
        assert chat_format is not None, "rendering needs a chat format"
        return self._of_row(i, lambda task, row: task.rendered(row, chat_format)) or Rendered([], [])

    def _of_row(self, i: int, make: Callable[[Task, int], T]) -> T | None:
        task, row = self.item(i)
        try:
            return make(task, row)
        except UserError as error:
            part = self.parts[self.which[i]]
            if not part.skip_bad_rows:
                raise
            if main_rank() and part.task not in self.warned:
                self.warned.add(part.task)
                say(f"{error.problem}: skipped, as are all such rows of {part.task}; the log counts them")
            return None

    def leave_out_bad_rows(self) -> int:
        """Removes the bad rows of parts with skip_bad_rows, keeping the order. Returns the number of bad rows."""
        lenient = np.array([part.skip_bad_rows for part in self.parts])
        bad = [i for i in np.flatnonzero(lenient[self.which]) if self.conversation(int(i)) is None]
        self.which, self.rows = np.delete(self.which, bad), np.delete(self.rows, bad)
        return len(bad) + self.skipped

    @property
    def skipped(self) -> int:
        """Bad rows that the tasks have removed themselves, from users' files."""
        return sum(task.skipped for task in self.tasks)

    @property
    def fingerprint(self) -> str:
        """Identifies tasks, numbers of rows and users' files."""
        return ", ".join(
            f"{part.task} {len(task):,}{task.digest()}" for part, task in zip(self.parts, self.tasks, strict=True)
        )

    def notes(self) -> list[str]:
        """Messages for the user: skipped rows, fewer rows than requested."""
        short = [
            f"{part.task}: {part.rows:,} rows requested, {len(task):,} available"
            for part, task in zip(self.parts, self.tasks, strict=True)
            if part.rows and part.rows > len(task)
        ]
        return [task.note for task in self.tasks if task.note] + short


def weighted(parts: Sequence[MixturePart], rows: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each part its number and its rows, repeated or cut so that the parts' sizes are as their weights."""
    shares = np.array([part.weight for part in parts], dtype=np.float64)
    shares /= shares.sum()
    length = max(len(of_part) / share for of_part, share in zip(rows, shares, strict=True))
    counts = [max(len(of_part), round(length * share)) for of_part, share in zip(rows, shares, strict=True)]
    which = [np.full(count, k, dtype=np.int32) for k, count in enumerate(counts)]
    return which, [np.resize(of_part, count) for of_part, count in zip(rows, counts, strict=True)]


def sample_rows(task: Task, limit: int, seed: int, left_out: Collection[int] = ()) -> list[int]:
    """A seeded sample of `limit` rows without those left out, or all of them; the same for every model."""
    rows: Sequence[int] = range(len(task))
    if left_out:
        rows = sorted(set(rows) - set(left_out))
    if len(rows) <= limit:
        return list(rows)
    return sorted(random.Random(f"eval/{seed}").sample(rows, limit))
