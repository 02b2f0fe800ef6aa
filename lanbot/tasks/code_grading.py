"""Extracts programs from a model's answers and grades them by tests in the sandbox.

Tests and candidate run in two sandboxes. Calls pass through the host as plain data, so the tests compare data, not the
candidate's objects; and only the tests' process knows the random word that reports that the tests passed.
"""

import atexit
import os
import re
import secrets
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from lanbot.core.console import track
from lanbot.sandbox.sandbox import Sandbox
from lanbot.sandbox.worker import Result
from lanbot.tasks import sandbox_rpc

SECONDS = 5.0
"""Wall-clock time limit of a candidate for all calls together, and of the tests."""
NO_PROGRAM = "no program"
FAULTS = {
    "wrong": "a test failed",
    "exception": "it raised an exception that no test expects",
    "timeout": f"it took more than {SECONDS:g} seconds",
    "exit": "its process ended, or was killed for exceeding a limit, before it answered",
    "type": "it returned something other than plain data of exact built-in types",
    NO_PROGRAM: "the answer does not compile, or does not define the function",
}
"""Why a program failed."""
_FENCE = re.compile(
    r"^([ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(?:[^`\n]*?(`{3,})|(~{3,}))[ \t]*([^`\s]*)[^`\n]*\n", re.MULTILINE
)
"""A line that opens a block of code: its indentation (a list's marker included), its fence, its language."""
_PYTHON = {"", "python", "python3", "py"}
_SOURCE = Path(sandbox_rpc.__file__).read_text(encoding="utf-8")


class Program(NamedTuple):
    prompt: str
    """Executed before the code and before the tests: imports, helpers."""
    code: str
    name: str
    """The function to test."""


class Verdict(NamedTuple):
    fault: str
    """One of FAULTS; "": it passed."""
    level: int
    """Of the sandbox."""


def extract(answer: str, prompt: str, name: str) -> Program:
    """The program in an answer: its first block of Python that defines the function, its first block, or all of it.

    It may repeat the prompt or continue it: code that starts with an indented line is the function's body.
    """
    blocks = [block for language, block in _blocks(answer) if language in _PYTHON]
    defines = re.compile(rf"^(?:async )?def {re.escape(name)}\b", re.MULTILINE)
    code = next((block for block in blocks if defines.search(block)), blocks[0] if blocks else answer)
    first = next((line for line in code.split("\n") if line.strip()), "")
    if first[:1].isspace():
        dedented = textwrap.dedent(code)
        code = dedented if defines.search(dedented) else f"{prompt.rstrip()}\n{code}"
    return Program(prompt, code, name)


def _blocks(answer: str) -> Iterator[tuple[str, str]]:
    """(language, code) of each fenced block. A fence inside a triple-quoted string does not end the block."""
    position = 0
    while opening := _FENCE.search(answer, position):
        indentation, ticks, tildes, language = opening.groups()
        closing = re.compile(rf"[ \t]*`{{{len(ticks)},}}" if ticks else rf"^[ \t]*~{{{len(tildes)},}}", re.MULTILINE)
        start = opening.end()
        ends = list(closing.finditer(answer, start))
        end = next((end for end in ends if not _in_string(answer[start : end.start()])), ends[0] if ends else None)
        code = answer[start : end.start() if end else None]
        position = end.end() if end else len(answer)
        yield language.lower(), re.sub(rf"(?m)^[ \t]{{0,{len(indentation)}}}", "", code)


def _in_string(code: str) -> bool:
    """Whether a triple-quoted string is open at its end."""
    return bool(code.count('"""') % 2 or code.count("'''") % 2)


def judge(program: Program, tests: str, unsafe: bool = False) -> Verdict:
    """Runs tests (Python that defines check(candidate)) on a program. Raises UserError if no sandbox works."""
    for_tests, for_candidates = pools(unsafe)
    word, between = secrets.token_hex(16), _Between()
    theirs = _call("answer_calls", "exchange", *program)
    ours = _call("run_tests", "call", word, program.prompt, tests, program.name)
    with ThreadPoolExecutor(1) as thread:
        functions = {"exchange": between.exchange}
        candidate: Future[Result] = thread.submit(for_candidates.run, theirs, functions=functions, timeout=SECONDS)
        candidate.add_done_callback(lambda _: between.answers.put(None))
        try:
            tested = for_tests.run(ours, functions={"call": between.call}, timeout=SECONDS)
        finally:
            between.calls.put(None)
        ended = candidate.result()
    return Verdict(_fault(tested, ended, between, word), for_tests.level)


def judge_all(programs: Sequence[tuple[Program, str]], unsafe: bool = False) -> Iterator[Verdict]:
    """Grades (program, tests) in order, at most as many at once as each pool has workers, which prevents deadlock."""
    for_tests, for_candidates = pools(unsafe)
    with ThreadPoolExecutor(min(for_tests.workers, for_candidates.workers)) as threads:
        verdicts = threads.map(lambda one: judge(one[0], one[1], unsafe), programs)
        yield from track(verdicts, "running programs", len(programs), "programs")


def _fault(tested: Result, ended: Result, between: "_Between", word: str) -> str:
    """tested: result of the tests' process, which is trusted; ended: of the candidate's, which is not."""
    if between.fault:
        return between.fault
    if between.unanswered:
        return "timeout" if ended.timed_out else "exit"
    mark, _, came = tested.stdout.rstrip("\n").rpartition("\n")[2].partition(" ")
    if mark == word and tested.exit == 0:
        return "" if came == "passed" else came
    return "timeout" if tested.timed_out else "wrong"


class _Between:
    """Passes calls from the tests to the candidate and answers back; None ends either queue."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Any] = SimpleQueue()
        self.answers: SimpleQueue[Any] = SimpleQueue()
        self.fault = ""
        self.unanswered = False

    def call(self, args: Any, kwargs: Any) -> Any:
        """Called by the tests. Raises RuntimeError if the candidate has ended."""
        self.calls.put([args, kwargs])
        answer = self.answers.get()
        if answer is None:
            self.answers.put(None)
            self.unanswered = True
            raise RuntimeError("the candidate does not answer")
        return answer

    def exchange(self, said: Any, *rest: Any) -> Any:
        """Called by the candidate with its last call's result; returns the next call. The result is not trusted."""
        if said in ("value", "raised"):
            self.answers.put([said, *rest])
        elif said != "ready":
            self.fault = self.fault or (said if said in FAULTS else "exit")
            return None
        call = self.calls.get()
        if call is None:
            self.calls.put(None)
        return call


def _call(function: str, remote: str, *values: str) -> str:
    """Source that calls a function of sandbox_rpc.py with a remote one and with texts."""
    return f"{_SOURCE}\n\n{function}({remote}, {', '.join(map(repr, values))})\n"


@lru_cache(maxsize=2)
def pools(unsafe: bool = False) -> tuple[Sandbox, Sandbox]:
    """A pool for tests and one for candidates, each with a worker per core; a single pool could deadlock."""
    workers = os.cpu_count() or 1
    pair = Sandbox(workers, unsafe=unsafe), Sandbox(workers, unsafe=unsafe)
    for pool in pair:
        atexit.register(pool.close)
    return pair
