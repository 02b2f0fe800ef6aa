"""Conversations written by any OpenAI-compatible endpoint: requested in strata, checked, saved one by one.

OUT.jsonl is merged from OUT/KIND.jsonl, to which every conversation is appended when it is done; a run that was
stopped resumes where it was. Called as identity.endpoint.generate.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from lanbot.chat.messages import validate
from lanbot.config.recipe import Identity
from lanbot.config.run import lock
from lanbot.core import jsonl
from lanbot.core.console import Progress, say, track
from lanbot.core.errors import UserError
from lanbot.core.files import unwritable, write_atomic
from lanbot.synthetic.identity.client import Budget, Client, Down, GaveUp, OutOfMoney
from lanbot.synthetic.identity.draft import BadDraft, Made, contradictions, correction, draft
from lanbot.synthetic.identity.kinds import KINDS, prompt, row_id
from lanbot.synthetic.identity.quality import NearDuplicates, text_of
from lanbot.synthetic.identity.validate import problems

ASKS = 3
"""Requests for a conversation before it is dropped; from the second on they say what was wrong."""
NO_GOOD = 50
"""Conversations dropped in a row after which the run stops."""
SPARE = 20
"""Numbers tried for each kind beyond three times the count."""
SHOW_SECONDS = 1.0


def generate(
    who: Identity,
    out: Path,
    count: int,
    kinds: Sequence[str],
    base_url: str,
    model: str,
    api_key: str,
    max_cost: float,
    price_in: float,
    price_out: float,
    concurrency: int,
    seed: int,
) -> dict[str, Any]:
    """Makes each of `kinds` up to `count` conversations, those of earlier runs included, and merges them into `out`.

    Prices are per million tokens, in the currency of max_cost, which this run never exceeds. The same id (kind, seed,
    number) always means the same persona, topic and style; an existing id is not requested again.
    Returns {"kept": {kind: rows}, "new", "dropped": {why: count}, "cost", "prompt_tokens", "completion_tokens",
    "requests", "rows" (of out), "stopped": "" | "max_cost" | "too many dropped"}. Raises UserError if a setting is
    wrong, the endpoint denies access or is down, or too many are dropped in a row; what was made so far is kept.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"{kind}: no such kind of conversation", f"Kinds: {', '.join(KINDS)}.")
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: not a .jsonl file", "Name one, such as identity.jsonl.")
    if not kinds or count < 1 or concurrency < 1:
        raise UserError("nothing to do: kinds, count and concurrency must be at least one", "Give all three.")
    if not min(max_cost, price_in, price_out) >= 0:  # fails for NaN too
        raise UserError("a negative cost or price", "--max-cost and prices are 0 or more.")
    writing = _Writing(who, out, count, tuple(dict.fromkeys(kinds)), seed)
    writing.read()
    return asyncio.run(writing.run(base_url, model, api_key, Budget(max_cost, price_in, price_out), concurrency))


class _Writing:
    """One run: what exists, what is still to make, and the result."""

    def __init__(self, who: Identity, out: Path, count: int, kinds: tuple[str, ...], seed: int) -> None:
        self.who, self.out, self.count, self.kinds, self.seed = who, out, count, kinds, seed
        self.folder = out.with_suffix("")
        self.rows: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        """Existing rows of all kinds, also of those not requested."""
        self.others: list[Any] = []
        """Rows of `out` that were not made here; they are kept."""
        self.near = NearDuplicates(threshold=0.8)
        self.dropped: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.new, self.bad_in_a_row, self.stopped = 0, 0, ""

    def read(self) -> None:
        """Reads the rows of earlier runs. Raises UserError if they are in use, of another bot, or damaged."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock(self.folder)
        except OSError as error:
            raise unwritable(self.folder, error) from None
        except UserError:
            raise UserError(f"{self.folder} is in use by another process", "Wait, or name another --out.") from None
        self._same_identity()
        for kind in KINDS:
            path = self.folder / f"{kind}.jsonl"
            if path.is_file():
                _cut_half_line(path)
                self.rows[kind] = _rows(path)
        ids = {str(row.get("id")) for rows in self.rows.values() for row in rows}
        for row in _rows(self.out) if self.out.is_file() else []:
            kind, name = str(row.get("kind")), str(row.get("id", ""))
            if kind not in KINDS or not re.fullmatch(rf"{kind}-\d+-\d{{6}}", name):
                self.others.append(row)
            elif name not in ids:  # its own file was lost or truncated: restored
                ids.add(name)
                self._append(kind, row)
        there = [*self.others, *(row for rows in self.rows.values() for row in rows)]
        for row in track(there, "identity | reading what is there", len(there), "rows"):
            self.near.add(text_of(row))
        self.numbers = {kind: self._untried(kind, ids) for kind in self.kinds}

    def _untried(self, kind: str, ids: set[str]) -> Iterator[int]:
        most = 3 * self.count + SPARE + len(self.rows[kind])
        return (number for number in range(most) if row_id(kind, self.seed, number) not in ids)

    def _same_identity(self) -> None:
        path, mine = self.folder / "identity.json", json.loads(json.dumps(asdict(self.who)))
        if not path.is_file():
            write_atomic(path, json.dumps(mine))
        elif json.loads(path.read_text(encoding="utf-8")) != mine:
            remedy = f"Name another --out, or delete {self.folder}/ and {self.out.name}."
            raise UserError(f"{self.folder}/ was made for another [identity]", remedy)

    async def run(self, base_url: str, model: str, api_key: str, budget: Budget, concurrency: int) -> dict[str, Any]:
        missing = sum(max(0, self.count - len(self.rows[kind])) for kind in self.kinds)
        progress = Progress("identity", missing, "conversations")
        async with Client(base_url, model, api_key, budget, concurrency) as client:
            say(
                f"identity | {missing:,} conversations to make by {model} at {client.place}, "
                f"{sum(map(len, self.rows.values())):,} exist, at most ${budget.limit:,.2f}"
            )
            showing = asyncio.create_task(self._show(progress, client))
            try:
                while not self.stopped and (jobs := self._jobs()):
                    shared = iter(jobs)
                    await _all([self._work(shared, client) for _ in range(min(concurrency, len(jobs)))])
            except Down as down:
                raise UserError(
                    f"{client.place} is down: {down}; {self.new:,} conversations were made and kept",
                    "Run the same command again to resume.",
                ) from None
            finally:
                showing.cancel()
                progress.close(progress.line(self.new, *self._figures(client)))
        if not self.stopped and any(len(self.rows[kind]) < self.count for kind in self.kinds):
            self.stopped = "too many dropped"
        return {
            "kept": {kind: len(self.rows[kind]) for kind in self.kinds},
            "new": self.new,
            "dropped": dict(self.dropped.most_common()),
            "cost": budget.spent,
            "prompt_tokens": self.usage["prompt_tokens"],
            "completion_tokens": self.usage["completion_tokens"],
            "requests": client.requests,
            "rows": self._merge(),
            "stopped": self.stopped,
        }

    def _jobs(self) -> list[tuple[str, int]]:
        """The next numbers of each incomplete kind, alternating between kinds; empty when all are complete."""
        lists = [
            [(kind, n) for n in islice(self.numbers[kind], max(0, self.count - len(self.rows[kind])))]
            for kind in self.kinds
        ]
        return [job for turn in zip_longest(*lists) for job in turn if job is not None]

    async def _work(self, jobs: Iterator[tuple[str, int]], client: Client) -> None:
        for kind, number in jobs:
            if self.stopped:
                return
            try:
                why = await self._make(kind, number, client)
            except OutOfMoney:
                self.stopped = "max_cost"
                return
            except GaveUp as error:
                why = str(error)
            if why:
                self.dropped[why] += 1
                self.bad_in_a_row += 1
                if self.bad_in_a_row >= NO_GOOD:
                    raise UserError(
                        f"{NO_GOOD} conversations in a row were dropped, the last one: {why}; "
                        f"{self.new:,} were made and kept",
                        "Name another --model.",
                    )
            else:
                self.new += 1
                self.bad_in_a_row = 0

    async def _make(self, kind: str, number: int, client: Client) -> str:
        """Makes and saves one conversation; otherwise returns why not, in general terms."""
        first = prompt(kind, self.who, self.seed, number)
        messages, usage, faults = first, Counter(), []  # type: list[dict[str, str]], Counter[str], list[str]
        for _ in range(ASKS):
            reply = await client.ask(messages)
            told = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
            usage.update(told)
            self.usage.update(told)
            messages = first
            if reply.cut:
                faults = ["its end is missing"]
                continue
            try:
                made, claimed = draft(reply.text)
            except BadDraft as error:
                faults = [str(error)]
                continue
            faults = contradictions(made, claimed) + problems(made, self.who, kind)
            if not faults:
                return self._keep(kind, number, made, usage)
            again = {"role": "user", "content": correction(made, faults)}
            messages = [*first, {"role": "assistant", "content": reply.text}, again]
        return faults[0].partition(":")[0]

    def _keep(self, kind: str, number: int, made: Made, usage: Counter[str]) -> str:
        if not self.near.add(text_of(made)):
            return "a near duplicate"
        row = {"id": row_id(kind, self.seed, number), "kind": kind, **made, "usage": dict(usage)}
        self._append(kind, row)
        return ""

    def _append(self, kind: str, row: dict[str, Any]) -> None:
        path = self.folder / f"{kind}.jsonl"
        try:
            with path.open("ab") as file:
                file.write(_line(row))
        except OSError as error:
            raise unwritable(path, error) from None
        self.rows[kind].append(row)

    def _merge(self) -> int:
        """Rewrites `out` atomically: rows of other origin, then those of every kind. Returns the number of rows."""
        ours = [
            {key: value for key, value in row.items() if key != "usage"} for rows in self.rows.values() for row in rows
        ]
        write_atomic(self.out, b"".join(map(_line, [*self.others, *ours])).decode())
        return len(self.others) + len(ours)

    async def _show(self, progress: Progress, client: Client) -> None:
        while True:
            progress.show(self.new, *self._figures(client))
            await asyncio.sleep(SHOW_SECONDS)

    def _figures(self, client: Client) -> list[str]:
        spent = f"${client.budget.spent:.4f} of ${client.budget.limit:,.2f}"
        return [spent, f"{self.dropped.total():,} dropped", client.trouble]


async def _all(works: Iterable[Any]) -> None:
    """Awaits all; if one fails, cancels the others and raises its error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _rows(path: Path) -> list[Any]:
    """The conversations of a file with all their keys. Raises UserError for a line that is not one."""
    return [validate(row, place) for place, row in jsonl.read_jsonl(path)]


def _line(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n"


def _cut_half_line(path: Path) -> None:
    """Removes a half-written last line, left by a killed run."""
    written = path.read_bytes()
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        with path.open("r+b") as file:
            file.truncate(whole)
