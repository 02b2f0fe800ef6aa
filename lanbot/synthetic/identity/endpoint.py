"""Conversations by an endpoint: requested, checked, appended to OUT/KIND.jsonl, at the end merged into OUT.jsonl."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from lanbot.chat.messages import validate
from lanbot.config.recipe import Identity
from lanbot.config.run import lock
from lanbot.core.console import Progress, say, track
from lanbot.core.errors import UserError
from lanbot.core.files import unwritable, write_atomic
from lanbot.core.jsonl import read_jsonl
from lanbot.synthetic.identity.checks import CHECKS, problems
from lanbot.synthetic.identity.client import Client, GaveUp, OutOfBudget
from lanbot.synthetic.identity.drafts import BadDraft, read
from lanbot.synthetic.identity.prompts import prompt
from lanbot.synthetic.identity.variety import NearDuplicates

ASKS = 3
"""Requests for a conversation before it is dropped; from the second on they say what was wrong."""
NEAR = 0.8
"""A conversation with this Jaccard index to another one is a near duplicate."""
MAX_DROPPED = 20
"""Conversations dropped in a row after which the run stops."""


def generate(who: Identity, out: Path, count: int, kinds: Sequence[str], client: Client, seed: int) -> dict[str, Any]:
    """Writes conversations until there are `count` of each kind, those of earlier runs included, and merges them.

    An id (kind, seed, number) always means the same persona, topic and style; an existing id is not requested again.
    Returns {"kept": {kind: rows}, "new", "dropped": {why: count}, "cost", "requests", "prompt_tokens",
    "completion_tokens", "rows" (of out), "stopped": "" | "max_cost" | "too many dropped"}. Raises UserError; what was
    written is kept.
    """
    for kind in kinds:
        if kind not in CHECKS:
            raise UserError(f"{kind}: no such kind of conversation", f"Kinds: {', '.join(CHECKS)}.")
    return asyncio.run(_Run(who, out, count, tuple(dict.fromkeys(kinds)), client, seed).run())


class _Run:
    def __init__(self, who: Identity, out: Path, count: int, kinds: tuple[str, ...], client: Client, seed: int) -> None:
        self.who, self.out, self.count, self.kinds, self.client, self.seed = who, out, count, kinds, client, seed
        self.folder = out.with_suffix("")
        self.near, self.kept, self.dropped = NearDuplicates(), Counter[str](), Counter[str]()
        self.slots = asyncio.Semaphore(client.concurrency)
        self.new, self.dropped_in_a_row, self.stopped = 0, 0, ""
        self._open_folder()
        self.rows = _rows(out)
        ids = {str(row.get("id")) for row in self.rows}
        for kind in CHECKS:
            self.rows += [row for row in _rows(self.folder / f"{kind}.jsonl", []) if row["id"] not in ids]
        for row in track(self.rows, "identity | reading existing conversations", unit="rows"):
            self.near.add(row)
            self.kept[str(row.get("kind"))] += 1
            ids.add(str(row.get("id")))
        numbers = range(3 * count + 20)
        self.numbers = {kind: iter([n for n in numbers if f"{kind}-{seed}-{n:06d}" not in ids]) for kind in kinds}

    def _open_folder(self) -> None:
        """Raises UserError if the folder is in use, or of another bot."""
        try:
            self.folder.mkdir(exist_ok=True)
            lock(self.folder)
        except OSError as error:
            raise unwritable(self.folder, error) from None
        except UserError:
            raise UserError(f"{self.folder} is in use by another process", "Wait, or name another --out.") from None
        path, identity = self.folder / "identity.json", json.dumps(asdict(self.who))
        if path.is_file() and json.loads(path.read_text("utf-8")) != json.loads(identity):
            remedy = f"Name another --out, or delete {self.folder}/ and {self.out.name}."
            raise UserError(f"{self.folder}/ was made for another [identity]", remedy)
        write_atomic(path, identity)

    async def run(self) -> dict[str, Any]:
        client, missing = self.client, sum(max(0, self.count - self.kept[kind]) for kind in self.kinds)
        say(f"identity | {missing:,} conversations to write by {client.model} at {client.place}")
        progress = Progress("identity", missing, "conversations")
        async with client.http:
            showing = asyncio.create_task(self._show(progress))
            try:
                while not self.stopped and (jobs := self._jobs()):
                    async with asyncio.TaskGroup() as group:
                        for kind, number in jobs:
                            group.create_task(self._try(kind, number))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                showing.cancel()
                progress.close()
        if not self.stopped and any(self.kept[kind] < self.count for kind in self.kinds):
            self.stopped = "too many dropped"
        write_atomic(self.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))
        kept, dropped = {kind: self.kept[kind] for kind in self.kinds}, dict(self.dropped.most_common())
        result: dict[str, Any] = {"kept": kept, "new": self.new, "dropped": dropped, "cost": client.cost}
        return result | client.used | {"rows": len(self.rows), "stopped": self.stopped}

    async def _show(self, progress: Progress) -> None:
        while True:
            spent = f"${self.client.cost:.4f} of ${self.client.max_cost:,.2f}"
            progress.show(self.new, spent, f"{self.dropped.total():,} dropped", self.client.trouble)
            await asyncio.sleep(1)

    def _jobs(self) -> list[tuple[str, int]]:
        """(kind, number) of as many conversations as are missing, alternating between kinds."""
        missing = {kind: max(0, self.count - self.kept[kind]) for kind in self.kinds}
        jobs = [(kind, number) for kind in self.kinds for number in islice(self.numbers[kind], missing[kind])]
        return sorted(jobs, key=lambda job: job[1])

    async def _try(self, kind: str, number: int) -> None:
        """Writes a conversation, or counts why not. Raises UserError if too many were dropped in a row."""
        async with self.slots:
            try:
                if not self.stopped:
                    await self._write(kind, number)
                    self.dropped_in_a_row = 0
            except OutOfBudget:
                self.stopped = "max_cost"
            except GaveUp as error:
                self.dropped[str(error)] += 1
                self.dropped_in_a_row += 1
                if self.dropped_in_a_row >= MAX_DROPPED:
                    problem = f"{MAX_DROPPED} conversations in a row were dropped, the last one: {error}"
                    raise UserError(problem, "Run the same command to resume, or name another --model.") from None

    async def _write(self, kind: str, number: int) -> None:
        """Requests, checks and saves a conversation. Raises GaveUp."""
        messages = first = prompt(kind, self.who, self.seed, number)
        for _ in range(ASKS):
            answer = await self.client.ask(messages)
            messages = first
            try:
                made = read(answer)
            except BadDraft as error:
                faults = [str(error)]
                continue
            faults = problems(made, self.who, kind)
            if not faults:
                return self._save({"id": f"{kind}-{self.seed}-{number:06d}", "kind": kind, **made})
            again = f"This is not good yet: {'; '.join(faults)}.\nWrite the whole conversation again, as JSON."
            messages = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]
        raise GaveUp(faults[0].partition(":")[0])

    def _save(self, row: dict[str, Any]) -> None:
        """Appends a conversation to the file of its kind. Raises GaveUp if it is a near duplicate."""
        if self.near.add(row, below=NEAR)[0] >= NEAR:
            raise GaveUp("a near duplicate")
        path = self.folder / f"{row['kind']}.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(row, ensure_ascii=False)}\n")  # a killed run may have left half a line
        except OSError as error:
            raise unwritable(path, error) from None
        self.rows.append(row)
        self.kept[row["kind"]] += 1
        self.new += 1


def _rows(path: Path, broken: list[str] | None = None) -> list[Any]:
    """The conversations of a file, if it exists, with all their keys; without rows that are not JSON if asked for."""
    return [validate(row, place) for place, row in read_jsonl(path, broken)] if path.is_file() else []
