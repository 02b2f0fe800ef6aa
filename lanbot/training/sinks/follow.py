"""Sends a phase's metrics.jsonl and evals.json to sinks, while it trains, from threads that training never waits for.

The files are the truth: each sink remembers how far it was sent (`SINK/sent.json` in the phase's folder), so that a
resumed phase goes on there, steps that are repeated are not sent twice, and a sink that failed gets what it missed.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from lanbot.chat.messages import readable
from lanbot.config.log import SINKS
from lanbot.config.run import Run
from lanbot.core.console import say, visible
from lanbot.core.errors import UserError
from lanbot.core.files import write_atomic
from lanbot.core.plugins import load_object
from lanbot.distributed.runtime import Runtime
from lanbot.training.sinks.sink import Place, Sink

SECONDS, MOST_SECONDS = 2.0, 60.0
"""Between two looks at the files; after failures twice as long each time, up to the second."""
PATIENCE = 10.0
"""Seconds that the end of a phase waits for a sink that gets nothing done."""
ROWS = 500
"""Lines after which what was sent is flushed and remembered."""
STATE = "sent.json"


def check(names: Sequence[str]) -> None:
    """Raises UserError if a sink cannot work."""
    for name in names:
        _kind(name).check()


@contextmanager
def following(run: Run, phase: str, runtime: Runtime) -> Iterator[None]:
    """Sends what the phase writes to the recipe's sinks, from rank 0. The rest is sent at the end, however it comes."""
    names = dict.fromkeys(run.recipe.log.sinks) if runtime.main else {}
    followers = [Follower(name, run, phase) for name in names]
    try:
        yield
    finally:
        for follower in followers:
            follower.ended.set()
        for follower in followers:
            follower.wait()


def _kind(name: str) -> type[Sink]:
    kind: type[Sink] = load_object(SINKS.get(name, name), "log.sinks")
    if not (isinstance(kind, type) and issubclass(kind, Sink)):
        raise UserError(f"log.sinks: {name} is not a Sink", "Write it as module:Class, of a subclass of Sink.")
    return kind


@dataclass
class Sent:
    """How far a sink was sent."""

    id: str
    step: int = -1
    validated: bool = False
    """Whether that step's validation was sent too, which comes after its line."""
    results: bool = False
    """Whether evals.json was."""

    @classmethod
    def read(cls, path: Path) -> "Sent":
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls(uuid4().hex[:12])

    def has(self, row: dict[str, Any]) -> bool:
        return (row["step"], "val_bpb" in row) <= (self.step, self.validated)


class Follower:
    """Sends one phase to one sink, in a thread of its own."""

    def __init__(self, name: str, run: Run, phase: str) -> None:
        self.name, self.run, self.phase = name, run, phase
        self.folder = run.phase(phase) / name.replace(":", ".")
        self.rows = Rows(run.phase(phase) / "metrics.jsonl")
        self.sink: Sink | None = None
        self.ended, self.warned, self.progress = threading.Event(), False, 0
        self.thread = threading.Thread(target=self._follow, name=f"sink {name}", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Until all is sent, or a while has passed in which nothing was."""
        while self.thread.is_alive():
            before = self.progress
            self.thread.join(PATIENCE)
            if self.thread.is_alive() and self.progress == before:
                self._warn("it does not answer")
                break

    def _follow(self) -> None:
        pause = SECONDS
        while True:
            last = self.ended.wait(pause)
            try:
                self._send(last)
                pause = SECONDS
            except Exception as error:  # of software that is not ours: anything
                self._warn(f"{type(error).__name__}: {error}")
                with suppress(Exception):
                    self._close()
                pause = min(2 * pause, MOST_SECONDS)
            if last:
                return

    def _send(self, last: bool) -> None:
        """What is new in the files; the results only at the end, when they are complete."""
        sent, unflushed = Sent.read(self.folder / STATE), False
        try:
            new = (row for row in self.rows.new() if not sent.has(row))
            while some := list(islice(new, ROWS)):
                sink = self._opened(sent)
                if unflushed:
                    sink.flush()
                    self._remember(sent)
                for row in some:
                    sink.figures(row["step"], figures_of(row))
                    self.progress += 1
                sent.step, sent.validated, unflushed = some[-1]["step"], "val_bpb" in some[-1], True
            results = self.run.read(self.phase, "evals.json") if last and not sent.results else {}
            if results and sent.step >= 0:  # without a step, as of the tokenizer, there is nothing to show
                sink = self._opened(sent)
                sink.figures(sent.step, results_of(results))
                sink.samples(sent.step, samples_of(results))
                sent.results = unflushed = True
            if last:
                self._close()
            elif unflushed:
                sink.flush()
            if unflushed:
                self._remember(sent)
        except Exception:
            self.rows.again()
            raise

    def _remember(self, sent: Sent) -> None:
        write_atomic(self.folder / STATE, json.dumps(asdict(sent)) + "\n")

    def _opened(self, sent: Sent) -> Sink:
        if self.sink is None:
            self.folder.mkdir(exist_ok=True)
            self._remember(sent)  # its id, before anyone sees it
            self.sink = _kind(self.name)(Place(self.phase, sent.id, self.folder, sent.step, self.run.recipe))
        return self.sink

    def _close(self) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.close()

    def _warn(self, problem: str) -> None:
        if self.warned:
            return
        self.warned = True
        line = " ".join(visible(problem).split())[:200]
        below = "\n" if sys.stderr.isatty() else ""  # the line of progress stays open there
        say(f"{below}{self.phase}: {self.name} did not take all figures ({line}); they are in {self.rows.path}")


class Rows:
    """The lines of a metrics.jsonl as they come."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.read = path, 0, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that were not read yet and are whole; all of them where the file was written anew."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self.file or found.st_size < self.read:
                self.file, self.read = found.st_ino, 0
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.read += len(line)
                yield json.loads(line)

    def again(self) -> None:
        """All lines are new."""
        self.read = 0


def figures_of(row: dict[str, Any]) -> dict[str, float]:
    """A line's figures; of a validation only its own, as its step's line has the others."""
    if "val_bpb" in row:
        return {"val_bpb": row["val_bpb"]}
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, int | float)}


def results_of(evals: dict[str, Any]) -> dict[str, float]:
    """The scores of an evals.json with their standard errors: eval/TASK and eval/TASK_stderr."""
    scores = dict(evals["tasks"])
    for moment, by_k in evals.get("pass", {}).items():
        scores |= {f"{k}_{moment.replace(' ', '_')}": one for k, one in by_k.items()}
    found: dict[str, float] = {}
    for name, one in scores.items():
        found |= {f"eval/{name}": one["score"], f"eval/{name}_stderr": one["stderr"]}
    return found | ({"eval/val_bpb": evals["val_bpb"]} if evals.get("val_bpb") is not None else {})


def samples_of(evals: dict[str, Any]) -> list[tuple[str, str]]:
    return [(readable(one["prompt"][-1]), readable(one["answer"])) for one in evals["samples"]]
